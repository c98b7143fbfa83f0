"""Thresholds that fall: a budget is spent, on what stands out most, the same in whatever batches windows come."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.alerts import Incident, Standing
from stream_detector.criteria import Criteria
from stream_detector.events import Errors, Float32, Partition, Windows
from stream_detector.groups import Grouped, Grouping, alike
from stream_detector.levels import LOWEST, STEP, Level, fall
from stream_detector.policy import APART, DAY, HELD, Alerts, closest, paced
from stream_detector.verdicts import judge

W = 16
MINUTE = 60_000
MINUTES_A_DAY = DAY // MINUTE


def windows_of(count: int, sensor: str = "a", period: int = MINUTE, start: int = 0) -> Windows:
    """One window of a sensor's last ``W`` events after each event."""
    ends = np.arange(count, dtype=np.int64) + start
    return Windows(
        [sensor] * count,
        np.zeros((count, W, 1), np.float32),
        np.stack([(ends - W + 1) * period, ends * period], axis=1),
        np.stack([ends - W + 1, ends], axis=1),
        np.zeros((count, 1), bool),
        np.ones(count, np.float32),
    )


def errors_of(scores: Float32, threshold: float = 2.0) -> Errors:
    count, score = len(scores), np.asarray(scores, np.float32)
    thresholds = np.full(count, threshold, np.float32)
    return Errors(score, score * thresholds, thresholds, np.ones((count, 1), np.float32), np.zeros(count, np.int32))


def asking(budget: float) -> Grouped[Alerts]:
    return alike(Alerts(budget=budget, limit="off"))


def fallen(scores: Float32, budget: float, period: int = MINUTE) -> Errors:
    return fall({}, windows_of(len(scores), period=period), errors_of(scores), asking(budget), 1)[0]


def alerts_of(scores: Float32, budget: float, period: int = MINUTE) -> int:
    """How many are told of one sensor."""
    return alerts_by(scores, asking(budget).common, period)


def alerts_by(scores: Float32, policy: Alerts, period: int, stride: int = 1) -> int:
    windows = windows_of(len(scores), period=period).take(np.arange(0, len(scores), stride))
    incidents = dict[str, Incident]()
    errors, _ = fall({}, windows, errors_of(scores[::stride]), alike(policy), stride)
    criteria = Criteria(alike(policy))
    judged = judge(Partition("t", 0), windows, errors, incidents, criteria, lambda windows, errors: windows.values)
    return sum(told.change == "fired" for _, told, _ in judged.changes)


def calm(days: float, seed: int = 0, period: int = MINUTE) -> Float32:
    """Scores of a sensor that never comes near its thresholds."""
    rng = np.random.default_rng(seed)
    return np.minimum(0.08 * rng.gamma(2.0, 1.0, round(days * DAY / period)), 0.99).astype(np.float32)


def spiky(days: float) -> Float32:
    """Scores that are low, but for a spike of any height about once an hour: most are far above what comes next."""
    rng, count = np.random.default_rng(0), round(days * MINUTES_A_DAY)
    scores, at = 0.02 * rng.gamma(2.0, 1.0, count), rng.choice(count, count // 60, replace=False)
    scores[at] = np.exp(rng.uniform(np.log(0.05), np.log(0.99), len(at)))
    return scores.astype(np.float32)


@pytest.mark.parametrize("of", [calm, spiky])
@pytest.mark.parametrize(("budget", "days"), [(0.3, 90), (1.0, 40), (10.0, 10)])
def test_a_budget_is_spent_where_nothing_reaches_the_thresholds(
    of: Callable[[float], Float32], budget: float, days: int
) -> None:
    scores = of(days)
    assert scores.max() < 1
    assert alerts_of(scores, budget) / days == pytest.approx(budget, rel=0.15)


def test_thresholds_are_back_where_they_told_the_last_time_when_the_next_alert_is_due() -> None:
    scores = np.full(4 * MINUTES_A_DAY, 0.01, np.float32)
    scores[MINUTES_A_DAY] = 0.95  # far above what was asked for by then
    scores[2 * MINUTES_A_DAY + W // 2 :: MINUTES_A_DAY // 10] = 0.9 * np.exp(-STEP)
    told = np.flatnonzero(fallen(scores, 1.0).score >= 1)
    assert told[0] == MINUTES_A_DAY
    assert MINUTES_A_DAY * 0.9 <= told[1] - told[0] <= MINUTES_A_DAY * 1.2


def test_what_stands_out_most_is_told_first() -> None:
    scores = calm(10) * 0.3
    peaks = np.arange(2_000, len(scores), 1_500)
    scores[peaks] = np.linspace(0.3, 0.9, len(peaks))  # far above the rest
    errors = fallen(scores, 1.0)
    told = np.flatnonzero(errors.score >= 1)
    assert len(told) >= 3
    assert set(told) <= set(peaks)


@given(st.lists(st.floats(0, 3, width=32), min_size=1, max_size=60), st.floats(0.01, 2_000), st.integers(0, 2**31))
def test_thresholds_do_not_vanish_and_what_those_of_training_tell_is_told(
    scores: list[float], budget: float, step: int
) -> None:
    rng = np.random.default_rng(step)
    windows = windows_of(len(scores))
    windows.timestamps[:] += rng.integers(-5 * MINUTE, DAY, len(scores))[:, None]  # any clock
    before = errors_of(np.array(scores, np.float32))
    after, _ = fall({}, windows, before, asking(budget), 1)
    shares = after.threshold / before.threshold
    assert (shares >= LOWEST * (1 - 1e-6)).all()
    assert (after.score[before.score >= 1] >= before.score[before.score >= 1]).all()
    assert (shares[after.score >= 1] <= 1).all()
    np.testing.assert_array_equal(after.error, before.error)
    np.testing.assert_allclose(after.score * after.threshold, after.error, rtol=1e-5, atol=1e-30)


def test_it_falls_by_a_step_in_the_time_of_one_alert_that_was_in_view_for_a_window() -> None:
    errors = fallen(np.full(MINUTES_A_DAY - W + 2, 0.01, np.float32), 1.0)
    assert errors.threshold[-1] == pytest.approx(2.0 * np.exp(-STEP), rel=1e-5)
    assert (np.diff(errors.threshold) < 0).all()


def test_what_never_comes_near_is_never_told() -> None:
    assert alerts_of(np.full(100 * MINUTES_A_DAY, LOWEST * 0.99, np.float32), 10.0) == 0


@pytest.mark.parametrize(("lasts", "told"), [(10, 10), (W, W), (100, W)])
def test_while_something_lasts_its_threshold_stays_and_then_is_above_it(lasts: int, told: int) -> None:
    scores, begins = np.full(2 * MINUTES_A_DAY, 0.01, np.float32), MINUTES_A_DAY
    scores[begins : begins + lasts] = np.concatenate([[0.62, 0.65], np.full(lasts - 2, 0.62)])
    errors = fallen(scores, 1.0)
    assert (errors.score >= 1).sum() == told, "all of it for a window's length, and nothing else"
    assert len(set(errors.threshold[begins : begins + told])) == 1
    assert errors.threshold[begins + told] == pytest.approx(2.0 * 0.65 * np.exp(STEP), rel=1e-3)
    assert errors.error[begins + told - 1] < Alerts().resolve_below * errors.threshold[begins + told], "it is calm now"


def test_what_lasts_below_the_threshold_of_training_is_an_alert_that_ends() -> None:
    """It is what the sensor does now, and told again as often as is budgeted."""
    days = 20
    scores = np.full(days * MINUTES_A_DAY, 0.8, np.float32)
    assert days / 2 <= alerts_of(scores, 1.0) <= days
    errors = fallen(scores, 1.0)
    assert (errors.score < Alerts().resolve_below).mean() > 0.2
    scores[5 * MINUTES_A_DAY] = 1.0
    assert fallen(scores, 1.0).score[5 * MINUTES_A_DAY] >= 1, "training's threshold tells whatever there was"


def test_what_is_worse_is_told_whatever_the_limit() -> None:
    """However far thresholds had fallen for what was told before."""
    scores = np.full(30 * MINUTES_A_DAY, 0.01, np.float32)
    worse = {15 * MINUTES_A_DAY: 0.4, 18 * MINUTES_A_DAY: 0.99, 19 * MINUTES_A_DAY: 1.4, 20 * MINUTES_A_DAY: 1.3}
    for at, score in worse.items():
        scores[at] = score
    scores[22 * MINUTES_A_DAY] = 0.9  # not among the worst two
    windows, policy = windows_of(len(scores)), Alerts(budget=1.0, limit=2, limit_within=30 * DAY)
    errors, _ = fall({}, windows, errors_of(scores), alike(policy), 1)
    judged = judge(Partition("t", 0), windows, errors, {}, Criteria(alike(policy)), lambda some, _: some.values)
    fired = {at: told.incident.strength for at, told, _ in judged.changes if told.change == "fired"}
    assert errors.score[22 * MINUTES_A_DAY] > 1
    assert fired == pytest.approx(worse)


def in_view(days: float, period: int = MINUTE) -> Float32:
    """Scores that an event keeps up for as long as it is in view, and no calmer otherwise than in training."""
    single = calm(days, seed=1, period=period)
    return np.array([single[max(0, at - W + 1) : at + 1].max() for at in range(len(single))], np.float32)


@pytest.mark.parametrize(
    ("of", "asked", "period", "policy"),
    [
        (calm, 1.0, 60 * MINUTE, Alerts(limit="off")),
        (calm, 10.0, 60 * MINUTE, Alerts(limit="off")),
        (calm, 10.0, 10 * MINUTE, Alerts(limit="off", keep_firing_for=3 * 3_600)),
        (in_view, 1.0, 60 * MINUTE, Alerts(limit="off")),
        (in_view, 10.0, 10 * MINUTE, Alerts(limit="off")),
        (in_view, 10.0, 60 * MINUTE, Alerts(limit="off")),
        (in_view, 10.0, 10 * MINUTE, Alerts(limit="off", min_windows=4)),
        (in_view, 10.0, 10 * MINUTE, Alerts(limit="off", keep_firing_for=3 * 3_600)),
    ],
)
def test_a_budget_is_spent_too_where_one_alert_in_two_windows_is_less(
    of: Callable[..., Float32], asked: float, period: int, policy: Alerts
) -> None:
    """As far as an alert can be over before the next is due."""
    days = 4_000 * period / DAY
    known = paced(policy, period, 0.0, asked)
    assert isinstance(known.budget, float)
    assert DAY / (APART * (W - 1) * period) < known.budget <= asked
    scores = of(days, period=period)
    told = alerts_by(scores, known, period)
    assert known.budget / 2 <= told / days <= known.budget * 1.2


def test_a_sensor_that_speaks_seldom_has_what_it_can_have_whatever_the_others_do() -> None:
    """The budget may be of sensors that speak far more often."""
    hour, days = 60 * MINUTE, 600
    for stride in (1, 4):
        most = DAY / closest(Alerts(), stride * hour)
        told = alerts_by(in_view(days, period=hour), Alerts(budget=10.0, limit="off"), hour, stride)
        assert most / 2 <= told / days <= most * 1.2


def test_no_more_is_tried_for_than_alerts_can_end() -> None:
    hour = 60 * MINUTE
    assert paced(Alerts(), hour, 0.0, 24.0).budget == pytest.approx(DAY / closest(Alerts(), hour))
    assert closest(Alerts(), hour) >= (Alerts().resolve_windows + 1) * hour
    assert closest(Alerts(resolve_windows=20), hour) >= 21 * hour
    assert closest(Alerts(keep_firing_for=24 * 3_600), hour) >= 25 * hour
    assert closest(Alerts(min_windows=9), hour) * HELD >= 8 * hour
    assert closest(Alerts(min_duration=8 * 3_600), hour) * HELD >= 8 * hour
    assert paced(Alerts(), hour, 0.0, 1.0).budget == 1


def test_without_a_budget_nothing_changes_and_what_was_known_goes() -> None:
    windows, errors, levels = windows_of(3), errors_of(np.array([0.1, 2.0, 0.3], np.float32)), {"a": Level(0, -1.0)}
    for known in ({}, levels):
        found, touched = fall(known, windows, errors, alike(Alerts(budget="off")), 1)
        np.testing.assert_array_equal(found.score, errors.score)
        np.testing.assert_array_equal(found.threshold, errors.threshold)
        assert (known, touched) == ({}, {"a"} if known is levels else set())


def test_each_group_has_its_own() -> None:
    grouping = Grouping({"pumps": "pump-*"})
    policies = Grouped(grouping, Alerts(budget="off"), [Alerts(budget=10.0)])
    count = 600
    pump, fan = windows_of(count, "pump-1"), windows_of(count, "fan-1", start=count)
    errors = errors_of(np.full(count, 0.01, np.float32))
    levels: dict[str, Level] = {}
    assert fall(levels, pump, errors, policies, 1)[0].threshold[-1] < 2
    assert fall(levels, fan, errors, policies, 1)[0].threshold[-1] == 2
    assert levels.keys() == {"pump-1"}


@st.composite
def batches(draw: st.DrawFn) -> tuple[Float32, float, list[int]]:
    count = draw(st.integers(10, 200))
    rng = np.random.default_rng(draw(st.integers(0, 20)))
    scores = rng.gamma(1.0, 0.3, count).astype(np.float32)
    return scores, draw(st.sampled_from([1.0, 40.0, 400.0])), sorted(draw(st.lists(st.integers(0, count), max_size=6)))


@given(batches())
def test_batches_change_nothing_and_what_is_stored_is_what_is_known(made: tuple[Float32, float, list[int]]) -> None:
    scores, budget, cuts = made
    windows, errors, policy = windows_of(len(scores)), errors_of(scores), asking(budget)
    at_once, _ = fall({}, windows, errors, policy, 1)
    stored, found = dict[str, bytes](), []
    for first, last in zip([0, *cuts], [*cuts, len(scores)], strict=True):
        levels = {
            sensor: level
            for sensor, packed in stored.items()
            if (level := msgspec.msgpack.decode(packed, type=Standing).level) is not None
        }
        told, touched = fall(levels, windows.take(np.arange(first, last)), errors.cut(first, last), policy, 1)
        stored |= {sensor: msgspec.msgpack.encode(Standing(level=levels[sensor])) for sensor in touched}
        found.append(told.threshold)
    np.testing.assert_array_equal(np.concatenate(found), at_once.threshold)


def test_a_level_is_stored_again_only_when_something_happened() -> None:
    scores = np.full(2_000, 0.01, np.float32)
    scores[1_500] = 0.99
    levels: dict[str, Level] = {}
    windows, errors, policy = windows_of(len(scores)), errors_of(scores), asking(5.0)
    touched = [
        bool(fall(levels, windows.take(np.array([at])), errors.cut(at, at + 1), policy, 1)[1])
        for at in range(len(scores))
    ]
    assert np.flatnonzero(touched).tolist() == [0, 1_500, 1_501]


def test_a_sensor_that_is_gone_is_forgotten_where_it_went() -> None:
    count = 2_000
    windows, errors, policy = windows_of(count), errors_of(np.full(count, 0.01, np.float32)), asking(5.0)
    levels: dict[str, Level] = {}
    found, touched = fall(levels, windows, errors, policy, 1, [("a", 999), ("b", 1_500)])
    assert found.threshold[1_000] == 2, "it begins anew"
    np.testing.assert_array_equal(found.threshold[:1_000], fallen(np.full(1_000, 0.01, np.float32), 5.0).threshold)
    assert touched == {"a"}
    _, touched = fall(levels, windows.take(np.arange(0)), errors.cut(0, 0), policy, 1, [("a", 2_500)])
    assert (levels, touched) == ({}, {"a"})


def test_a_clock_that_was_set_back_counts_from_there() -> None:
    scores = np.full(1_000, 0.01, np.float32)
    levels: dict[str, Level] = {}
    policy = asking(5.0)
    fall(levels, windows_of(1_000, start=10**7), errors_of(scores), policy, 1)
    found, _ = fall(levels, windows_of(1_000), errors_of(scores), policy, 1)
    assert found.threshold[-1] < found.threshold[0] <= 2

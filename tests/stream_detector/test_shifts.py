"""Shifts that last are normal in the end: nothing is hidden for good, and what is more than they are is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.alerts import Standing, standing
from stream_detector.criteria import Criteria
from stream_detector.errors import SettingsError
from stream_detector.events import PARTS, Errors, Float32, Lasting, Origin, Partition, Windows, gathered
from stream_detector.groups import Grouped, Grouping, alike
from stream_detector.policy import HOUR, Alerts, Group, paced, patience_of
from stream_detector.settings import load_settings
from stream_detector.shifts import Shift, accept
from stream_detector.verdicts import judge
from tests.alerts import alert

SECOND = 1_000
LASTS = 100  # windows, one a second
CALM = 0.1
POLICY = Alerts(accept_after=LASTS, limit="off")
THRESHOLDS = {"level": 2.0, "change": 3.0}


def windows_of(count: int, sensor: str = "a", start: int = 0) -> Windows:
    ends = np.arange(count, dtype=np.int64) + start
    return Windows(
        [sensor] * count,
        np.zeros((count, 4, 1), np.float32),
        np.stack([ends - 3, ends], axis=1) * SECOND,
        np.stack([ends - 3, ends], axis=1),
        np.zeros((count, 1), bool),
        np.ones(count, np.float32),
    )


def errors_of(level: Sequence[float] | Float32, change: Sequence[float] | Float32 | float = CALM) -> Errors:
    """Of windows with these scores of two parts, of which the first lasts."""
    lies = np.asarray(level, np.float32)
    jumps = np.broadcast_to(np.asarray(change, np.float32), lies.shape)

    def told(score: Float32, lasts: Float32) -> Errors:
        part = np.where(lasts, PARTS.index("level"), PARTS.index("change")).astype(np.int8)
        threshold = np.where(lasts, *(np.float32(one) for one in THRESHOLDS.values())).astype(np.float32)
        shares, steps = np.ones((len(score), 1), np.float32), np.where(lasts, 3, 2).astype(np.int32)
        return Errors(score, score * threshold, threshold, shares, steps, part)

    others = told(jumps, np.zeros(len(lies), np.float32))
    both = told(np.maximum(lies, jumps), (lies >= jumps).astype(np.float32))
    return replace(both, lasting=Lasting(lies, others))


def levels(*stretches: tuple[int, float]) -> Float32:
    """Scores that stay for so many windows each."""
    return np.concatenate([np.full(count, score, np.float32) for count, score in stretches])


def told_of(errors: Errors, policy: Alerts = POLICY) -> list[tuple[int, str]]:
    """At which window which change of an alert was told of one sensor."""
    windows = windows_of(len(errors.score))
    found, _ = accept({}, windows, errors, alike(policy))
    judged = judge(Partition("t", 0), windows, found, {}, Criteria(alike(policy)), lambda some, _: some.values)
    return [(at, told.change) for at, told, _ in judged.changes]


def test_a_shift_for_good_is_one_alert_that_ends_and_what_happens_after_it_is_told() -> None:
    lies = levels((50, CALM), (500, 1.5))
    jumps = np.full(len(lies), CALM, np.float32)
    jumps[[80, 300]] = 1.2  # hidden by the shift; on top of what is normal by then
    accepted, calm = 50 + LASTS, POLICY.resolve_windows
    errors = errors_of(lies, jumps)
    assert told_of(errors) == [
        (50, "fired"), (accepted + calm - 1, "resolved"), (300, "fired"), (300 + calm, "resolved"),
    ]  # fmt: skip
    never = POLICY.model_copy(update={"accept_after": "off"})
    assert told_of(errors, never) == [(50, "fired")]


def test_scores_and_thresholds_are_as_they_hold() -> None:
    lies = levels((10, CALM), (300, 1.5))
    errors = errors_of(lies, 0.3)
    found, _ = accept({}, windows_of(310), errors, alike(POLICY))
    raised = np.float32(1.5 / POLICY.resolve_below)
    assert found.lasting is None
    assert found.names[9:12] == ["change", "level", "level"]
    assert found.threshold[[10, 109, 110, 309]].tolist() == pytest.approx([2, 2, 2 * raised, 2 * raised], rel=1e-5)
    assert found.score[[10, 109, 110, 309]].tolist() == pytest.approx([1.5, 1.5, 0.7, 0.7])
    np.testing.assert_allclose(found.score * found.threshold, found.error, rtol=1e-6)
    np.testing.assert_array_equal(found.strengths, errors.score)
    assert found.accepted is not None
    assert found.accepted[[109, 110]].tolist() == pytest.approx([0, raised], rel=1e-5)


def test_where_other_parts_are_higher_than_what_is_left_of_a_shift_they_are_told() -> None:
    errors = errors_of(levels((10, CALM), (300, 1.5)), 0.9)
    found, _ = accept({}, windows_of(310), errors, alike(POLICY))
    assert found.names[109:111] == ["level", "change"]
    assert (found.score[110], found.threshold[110], found.worst_step[110]) == pytest.approx((0.9, 3, 2))
    assert found.strengths[110] == pytest.approx(0.9)


@pytest.mark.parametrize("lasts", [1, LASTS // 2, LASTS - POLICY.resolve_windows])
def test_a_shift_that_ends_in_time_changes_nothing(lasts: int) -> None:
    errors = errors_of(levels((50, CALM), (lasts, 1.5), (300, CALM), (lasts, 1.5), (50, CALM)))
    found, _ = accept({}, windows_of(len(errors.score)), errors, alike(POLICY))
    np.testing.assert_array_equal(found.score, errors.score)
    np.testing.assert_array_equal(found.threshold, errors.threshold)


def test_a_few_calm_windows_are_no_end() -> None:
    lies = levels((50, CALM), (300, 1.5))
    lies[60:150:10] = lies[61:150:10] = CALM
    resolved = 50 + LASTS + POLICY.resolve_windows - 1
    assert told_of(errors_of(lies)) == [(50, "fired"), (resolved, "resolved")]


def test_after_a_silence_a_few_windows_show_that_it_still_lasts() -> None:
    windows, errors = windows_of(40), errors_of(levels((10, CALM), (30, 1.5)))
    windows.timestamps[20:] += 10 * LASTS * SECOND
    found, _ = accept({}, windows, errors, alike(POLICY))
    assert np.flatnonzero(found.score[10:] < 1)[0] == 10 + POLICY.resolve_windows - 1


def test_when_a_shift_is_over_the_next_one_is_told() -> None:
    calm = POLICY.resolve_windows
    errors = errors_of(levels((10, CALM), (200, 1.5), (calm, CALM), (20, 1.5)))
    assert [at for at, change in told_of(errors) if change == "fired"] == [10, 210 + calm]
    errors = errors_of(levels((10, CALM), (200, 1.5), (calm - 1, CALM), (20, 1.5)))
    assert [at for at, change in told_of(errors) if change == "fired"] == [10]


def test_a_larger_shift_is_told_and_accepted_in_its_turn() -> None:
    errors = errors_of(levels((10, CALM), (200, 1.5), (300, 4.0), (50, 1.5), (50, 4.0)))
    told = told_of(errors)
    assert [at for at, change in told if change == "fired"] == [10, 210]
    assert told[-1] == (210 + LASTS + POLICY.resolve_windows - 1, "resolved")


def test_what_was_worst_when_it_began_is_not_taken_as_normal() -> None:
    errors = errors_of(levels((10, CALM), (20, 9.0), (200, 1.5), (20, 9.0)))
    assert [at for at, change in told_of(errors) if change == "fired"] == [10, 230]


@given(st.lists(st.floats(0, 3, width=32), min_size=1, max_size=80), st.lists(st.floats(0, 3, width=32), max_size=80))
def test_what_reaches_a_threshold_is_told_until_it_has_lasted(lies: list[float], jumps: list[float]) -> None:
    """Whatever was accepted, parts that do not last are told, and a score is never higher than without this."""
    change = np.resize(np.array([*jumps, CALM], np.float32), len(lies))
    errors, windows = errors_of(lies, change), windows_of(len(lies))
    found, _ = accept({}, windows, errors, alike(POLICY.model_copy(update={"accept_after": 20 * SECOND})))
    assert (found.score >= change).all()
    assert (found.score <= errors.score).all()
    first = next((at for at, one in enumerate(lies) if one >= 1), len(lies))
    np.testing.assert_array_equal(found.score[: first + 20], errors.score[: first + 20])


@st.composite
def batches(draw: st.DrawFn) -> tuple[Float32, list[int], Alerts]:
    rng = np.random.default_rng(draw(st.integers(0, 50)))
    lies = np.repeat(rng.choice([CALM, 0.8, 1.5, 4.0], 12), rng.integers(1, 30, 12)).astype(np.float32)
    lies = np.asarray(lies * rng.uniform(0.8, 1.2, len(lies)), np.float32)
    cuts = sorted(draw(st.lists(st.integers(0, len(lies)), max_size=6)))
    patience = draw(st.sampled_from([3, 10, 40]))
    return lies, cuts, Alerts(accept_after=patience, resolve_windows=draw(st.integers(1, 6)))


@given(batches())
def test_batches_change_nothing_and_what_is_stored_is_what_is_known(made: tuple[Float32, list[int], Alerts]) -> None:
    lies, cuts, policy = made
    windows, errors = windows_of(len(lies)), errors_of(lies)
    at_once, _ = accept({}, windows, errors, alike(policy))
    stored, found = dict[str, bytes](), []
    for first, last in zip([0, *cuts], [*cuts, len(lies)], strict=True):
        shifts = {
            sensor: shift
            for sensor, packed in stored.items()
            if (shift := msgspec.msgpack.decode(packed, type=Standing).shift) is not None
        }
        part = windows.take(np.arange(first, last)), errors.cut(first, last)
        told, touched = accept(shifts, *part, alike(policy))
        stored |= {sensor: msgspec.msgpack.encode(Standing(shift=shifts.get(sensor))) for sensor in touched}
        found.append(told)
    np.testing.assert_array_equal(np.concatenate([one.threshold for one in found]), at_once.threshold)
    np.testing.assert_array_equal(np.concatenate([one.score for one in found]), at_once.score)


def test_a_sensor_that_is_calm_is_not_stored() -> None:
    shifts: dict[str, Shift] = {}
    windows, errors = windows_of(500), errors_of(levels((100, CALM), (300, 1.5), (100, CALM)))
    touched = []
    for at in range(500):
        one, mine = windows.take(np.array([at])), errors.cut(at, at + 1)
        touched.append(bool(accept(shifts, one, mine, alike(POLICY))[1]))
    stored = np.flatnonzero(touched)
    assert stored[0] == 100
    assert not any(touched[100 + LASTS + 1 : 400]), "while an accepted shift stays as it is"
    assert stored[-1] == 400 + POLICY.resolve_windows - 1
    assert shifts == {}


def test_a_sensor_that_is_gone_is_forgotten_where_it_went() -> None:
    shifts: dict[str, Shift] = {}
    windows, errors = windows_of(400), errors_of(levels((10, CALM), (390, 1.5)))
    found, touched = accept(shifts, windows, errors, alike(POLICY), [("a", 249), ("b", 300)])
    assert found.score[[249, 250, 349, 350]].tolist() == pytest.approx([0.7, 1.5, 1.5, 0.7])
    assert touched == {"a"}
    _, touched = accept(shifts, windows.take(np.arange(0)), errors.cut(0, 0), alike(POLICY), [("a", 500)])
    assert (shifts, touched) == ({}, {"a"})


def test_of_a_clock_that_was_set_back_time_counts_from_there() -> None:
    shifts: dict[str, Shift] = {}
    accept(shifts, windows_of(50, start=10**6), errors_of(levels((50, 1.5))), alike(POLICY))
    found, _ = accept(shifts, windows_of(150), errors_of(levels((150, 1.5))), alike(POLICY))
    assert found.score[[LASTS - 1, LASTS]].tolist() == pytest.approx([1.5, 0.7])


def test_each_group_has_its_own_time_and_off_forgets() -> None:
    policies = Grouped(
        Grouping({"pumps": "pump-*", "fans": "fan-*"}),
        POLICY,
        [Alerts(accept_after=20), Alerts(accept_after="off")],
    )
    shifts = {"fan-1": Shift(0)}
    errors = errors_of(levels((150, 1.5)))
    at = {}
    for sensor in ("pump-1", "fan-1", "valve-1"):
        found, touched = accept(shifts, windows_of(150, sensor), errors, policies)
        at[sensor] = np.flatnonzero(found.score < 1).tolist()[:1]
        assert touched == {sensor}
    assert at == {"pump-1": [20], "fan-1": [], "valve-1": [LASTS]}
    assert shifts.keys() == {"pump-1", "valve-1"}


def test_windows_of_models_without_such_parts_go_with_others() -> None:
    lasts, plain = errors_of(levels((200, 1.5))), replace(errors_of(levels((200, 1.5))), lasting=None)
    both = gathered([lasts, plain])
    windows = windows_of(200)
    every = gathered([accept({}, windows, lasts, alike(POLICY))[0], plain])
    merged = replace(windows_of(400), sensors=["a"] * 200 + ["b"] * 200)
    found, _ = accept({}, merged, both, alike(POLICY))
    np.testing.assert_array_equal(found.score[:150], every.score[:150])
    np.testing.assert_array_equal(found.score[200:], plain.score)


def test_how_long_a_shift_lasts_is_learned_unless_somebody_says_it() -> None:
    minute = 60_000
    assert patience_of(16, minute) == 1_000 * minute
    assert patience_of(500, minute) == 4_000 * minute
    assert patience_of(16, 100) == HOUR
    assert patience_of(16, 0.0) == 0
    assert paced(Alerts(), minute, 0.0, patience=HOUR).accept_after == HOUR
    assert paced(Alerts(), 0, 0.0).accept_after == "off"
    assert paced(Alerts(accept_after="2h"), minute, 0.0, patience=HOUR).accept_after == 2 * HOUR
    assert Group(sensors="a", accept_after="off").over(Alerts()).accept_after == "off"


def test_no_time_at_all_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[alerts]\naccept_after = "0s"\n')
    with pytest.raises(SettingsError, match=r"alerts\.accept_after.*greater than 0"):
        load_settings(file)


def test_of_alerts_that_are_over_the_last_says_what_was_accepted() -> None:
    """Also where nobody counts recent ones; an earlier one says nothing any more."""
    source = {at: Origin("t", 0, at - 3, at) for at in (10, 20)}
    shifted, calm = (
        alert(name, status="resolved", sensor_id="s", source=source[at], accepted=accepted, peak_strength=9.0 - at / 10)
        for name, at, accepted in (("shifted", 10, 2.0), ("calm", 20, 0.0))
    )
    place = Partition("t", 0)
    assert standing([shifted], place, 100, 0) == [shifted]
    assert standing([shifted, calm], place, 100, 0) == []
    assert standing([shifted, calm], place, 100, 2) == [shifted, calm]
    assert standing([shifted, calm], place, 15, 0) == [shifted]

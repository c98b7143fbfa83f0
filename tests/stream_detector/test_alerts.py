"""The life of an alert, as those see it who watch one sensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.alerts import (
    Change,
    Fault,
    Incident,
    Past,
    Place,
    Rest,
    Run,
    Shown,
    Sight,
    Standing,
    advance,
    follow,
    grade,
)
from stream_detector.alerts import Told as Told_
from stream_detector.settings import Alerts

POLICY = Alerts(min_windows=2, resolve_windows=3, resolve_below=0.8, major=2.0, critical=5.0)


@dataclass(frozen=True)
class Told:
    """One change of an alert's state."""

    window: int
    change: Change
    incident: Incident


def live(scores: Sequence[float], policy: Alerts = POLICY) -> tuple[list[Told], list[str]]:
    """Every change that these windows of one sensor cause, and the state after each window."""
    incident: Incident | None = None
    changes: list[Told] = []
    states: list[str] = []
    for window, score in enumerate(scores):
        incident, change = advance(incident, score, score, (f"w{window}", window), policy)
        if change is not None:
            assert incident is not None
            changes.append(Told(window, change, incident))
        if change == "resolved":
            incident = None
        states.append("normal" if incident is None else incident.state)
    return changes, states


def seen(scores: Sequence[float], policy: Alerts = POLICY) -> list[tuple[int, str]]:
    return [(told.window, told.change) for told in live(scores, policy)[0]]


def test_normal_windows_are_nothing() -> None:
    assert live([0.0, 0.5, 0.999]) == ([], ["normal"] * 3)


def test_a_score_of_exactly_one_is_anomalous() -> None:
    assert seen([1.0, 1.0]) == [(1, "fired")]


def test_it_is_pending_then_firing_then_resolved() -> None:
    changes, states = live([0.2, 1.5, 1.5, 1.5, 0.1, 0.1, 0.1, 0.1])
    assert [(told.window, told.change) for told in changes] == [(2, "fired"), (6, "resolved")]
    assert states == ["normal", "pending", "firing", "firing", "firing", "firing", "normal", "normal"]


def test_its_id_and_start_are_those_of_the_window_that_opened_it() -> None:
    changes, _ = live([0.2, 1.5, 1.5, 6.0, 0.1, 0.1, 0.1])
    assert {(told.incident.id, told.incident.started_at) for told in changes} == {("w1", 1)}
    assert [told.incident.revision for told in changes] == [1, 2, 3]


def test_a_new_alert_after_a_resolved_one_has_an_id_of_its_own_and_starts_at_revision_one() -> None:
    changes, _ = live([1.5, 1.5, 0.1, 0.1, 0.1, 1.5, 1.5])
    assert [(told.incident.id, told.incident.revision) for told in changes] == [("w0", 1), ("w0", 2), ("w5", 1)]


def test_fewer_anomalous_windows_in_a_row_than_the_minimum_do_not_fire() -> None:
    assert seen([1.5, 0.9, 1.5, 0.9, 1.5]) == []
    assert live([1.5, 0.9])[1] == ["pending", "normal"]


def test_a_pending_incident_that_passed_leaves_nothing_to_the_next() -> None:
    changes, _ = live([9.0, 0.9, 1.5, 1.5])
    assert [(told.window, told.incident.id, told.incident.peak) for told in changes] == [(3, "w2", 1.5)]


def test_a_minimum_of_one_window_fires_at_once() -> None:
    assert seen([1.0], Alerts(min_windows=1)) == [(0, "fired")]


def test_between_calm_and_anomalous_it_neither_resolves_nor_fires_again() -> None:
    assert seen([1.5, 1.5, *[0.9] * 20]) == [(1, "fired")]


def test_a_window_that_is_not_calm_makes_the_calm_start_over() -> None:
    assert seen([1.5, 1.5, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1]) == [(1, "fired"), (7, "resolved")]
    assert seen([1.5, 1.5, 0.1, 0.1, 1.5, 0.1, 0.1]) == [(1, "fired")]
    assert seen([1.5, 1.5, 0.8, 0.8, 0.8]) == [(1, "fired")]  # calm is below the limit, not at it


def test_severity_follows_the_highest_score_and_a_rise_is_told() -> None:
    changes, _ = live([1.5, 1.5, 1.9, 2.0, 1.2, 5.0, 3.0, 0.1, 0.1, 0.1])
    assert [(told.window, told.change, told.incident.severity) for told in changes] == [
        (1, "fired", "minor"),
        (3, "worsened", "major"),
        (5, "worsened", "critical"),
        (9, "resolved", "critical"),
    ]
    assert changes[-1].incident.peak == 5.0


def test_severity_of_pending_windows_counts_when_it_fires() -> None:
    changes, _ = live([7.0, 1.0])
    assert [(told.incident.severity, told.incident.peak) for told in changes] == [("critical", 7.0)]


@pytest.mark.parametrize(
    ("peak", "severity"), [(1.0, "minor"), (1.99, "minor"), (2.0, "major"), (4.99, "major"), (5.0, "critical")]
)
def test_bands_begin_at_their_limits(peak: float, severity: str) -> None:
    assert grade(peak, POLICY) == severity


scores_ = st.lists(st.sampled_from([0.0, 0.5, 0.79, 0.8, 0.9, 0.999, 1.0, 1.5, 2.0, 3.0, 5.0, 100.0]), max_size=60)
policies = st.builds(
    Alerts,
    min_windows=st.integers(1, 4),
    resolve_windows=st.integers(1, 4),
    resolve_below=st.sampled_from([0.5, 0.8, 1.0]),
)
RANK = {"minor": 0, "major": 1, "critical": 2}


@given(scores_, policies)
def test_it_fires_only_after_the_minimum_of_anomalous_windows_in_a_row(scores: list[float], policy: Alerts) -> None:
    for told in live(scores, policy)[0]:
        if told.change == "fired":
            last = scores[told.window + 1 - policy.min_windows : told.window + 1]
            assert len(last) == policy.min_windows
            assert min(last) >= 1
            assert told.incident.id == f"w{told.window + 1 - policy.min_windows}"


@given(scores_, policies)
def test_it_resolves_exactly_when_it_was_calm_long_enough(scores: list[float], policy: Alerts) -> None:
    """The states as a plain reference gives them, which looks back over the scores instead of counting."""
    firing, since, expected = False, 0, []
    for window in range(len(scores)):
        if firing:
            calm = scores[max(since + 1, window + 1 - policy.resolve_windows) : window + 1]
            if len(calm) == policy.resolve_windows and max(calm) < policy.resolve_below:
                firing, since = False, window + 1
        else:
            last = scores[max(since, window + 1 - policy.min_windows) : window + 1]
            if len(last) == policy.min_windows and min(last) >= 1:
                firing, since = True, window
        expected.append("firing" if firing else "pending" if scores[window] >= 1 and window >= since else "normal")
    assert live(scores, policy)[1] == expected


@given(scores_, policies)
def test_revisions_of_an_alert_have_no_hole_and_its_severity_only_rises(scores: list[float], policy: Alerts) -> None:
    by_id: dict[str, list[Told]] = {}
    for told in live(scores, policy)[0]:
        by_id.setdefault(told.incident.id, []).append(told)
    for number, history in enumerate(by_id.values()):
        assert [told.incident.revision for told in history] == list(range(1, len(history) + 1))
        assert history[0].change == "fired"
        assert [told.change for told in history[1:-1]] == ["worsened"] * (len(history) - 2)
        if number < len(by_id) - 1:  # one that another one follows is over
            assert history[-1].change == "resolved"
        ranks = [RANK[told.incident.severity] for told in history]
        assert ranks == sorted(ranks)
        worse = [told for told in history if told.change == "worsened"]
        assert len({told.incident.severity for told in worse}) == len(worse)
        for told in history:
            assert told.incident.peak == max(scores[int(told.incident.id[1:]) : told.window + 1])
            assert told.incident.severity == grade(told.incident.peak, policy)


@given(scores_, policies, st.data())
def test_it_goes_on_the_same_from_a_state_that_was_stored(
    scores: list[float], policy: Alerts, data: st.DataObject
) -> None:
    stop = data.draw(st.integers(0, len(scores)))
    incident: Incident | None = None
    sights = data.draw(st.lists(st.builds(Sight, st.booleans(), st.booleans()), min_size=len(scores)))
    steps = []
    for stored in (False, True):
        incident, found = None, []
        for window, (score, sight) in enumerate(zip(scores, sights, strict=False)):
            if stored and window == stop and incident is not None:
                incident = msgspec.msgpack.decode(msgspec.msgpack.encode(incident), type=Incident)
            incident, change = advance(incident, score, score, (f"w{window}", window), policy, sight)
            found.append((incident, change))
            incident = None if change == "resolved" else incident
        steps.append(found)
    assert steps[0] == steps[1]


# -- where the model has not been --------------------------------------------------------------------------------------

HERE, LOCAL, AWAY = Sight(), Sight(local=True), Sight(strange=True)


def sighted(windows: Sequence[tuple[float, Sight]], policy: Alerts = POLICY) -> list[tuple[int, Change]]:
    """Which windows of one sensor, each a score and what it is worth, change its alert, and how."""
    incident: Incident | None = None
    found: list[tuple[int, Change]] = []
    for window, (score, sight) in enumerate(windows):
        place = Place(f"w{window}", "", window - 1, window)
        incident, told = follow(incident, score, place, policy, sight=sight)
        found += [(window, one.change) for one in told]
    return found


def test_what_cannot_be_seen_to_be_over_goes_on() -> None:
    """A bearing that wears: what is told of it leaves what the model knows, gets worse there, and is repaired."""
    worn = [(1.5, LOCAL)] * 2 + [(0.1, AWAY)] * 20
    assert sighted(worn) == [(1, "fired")]
    assert sighted([*worn, *[(0.1, HERE)] * 3]) == [(1, "fired"), (24, "resolved")]
    assert sighted([*worn, (2.5, LOCAL), *[(0.1, HERE)] * 3]) == [(1, "fired"), (22, "worsened"), (25, "resolved")]


def test_it_is_over_after_as_many_calm_windows_in_a_row_as_anywhere() -> None:
    between = [(0.1, HERE), (0.1, HERE), (0.1, AWAY), (0.1, HERE), (0.1, HERE), (0.1, HERE)]
    assert sighted([*[(1.5, LOCAL)] * 2, *between]) == [(1, "fired"), (7, "resolved")]


def test_what_parts_told_that_count_everywhere_is_over_when_they_are_calm() -> None:
    gone = [(0.1, AWAY)] * 3
    assert sighted([(1.5, HERE), (1.5, HERE), *gone]) == [(1, "fired"), (4, "resolved")]
    assert sighted([(1.5, LOCAL), (1.5, HERE), *gone]) == [(1, "fired")]  # one of them may go on


@pytest.mark.parametrize(("patience", "ends"), [("10ms", 13), ("off", None)])
def test_it_is_normal_in_the_end_as_a_shift_is(patience: str, ends: int | None) -> None:
    policy = POLICY.model_copy(update={"accept_after": Alerts(accept_after=patience).accept_after})
    found = sighted([*[(1.5, LOCAL)] * 2, *[(0.1, AWAY)] * 50], policy)
    assert found == [(1, "fired"), *([] if ends is None else [(ends, "resolved")])]


@given(scores_, policies, st.lists(st.booleans(), min_size=1))
def test_where_the_model_has_been_nothing_else_counts(scores: list[float], policy: Alerts, local: list[bool]) -> None:
    parts = [Sight(local=local[at % len(local)]) for at in range(len(scores))]
    plain, told = [(score, HERE) for score in scores], list(zip(scores, parts, strict=True))
    assert sighted(told, policy) == sighted(plain, policy)


# -- durations -------------------------------------------------------------------------------------------------------


def timed(windows: Sequence[tuple[int, float]], policy: Alerts) -> list[tuple[int, Change, str]]:
    """What windows of one sensor, each an (end, score), cause: end, change, id."""
    incident: Incident | None = None
    told: list[tuple[int, Change, str]] = []
    for ended, score in windows:
        incident, changes = follow(incident, score, Place(f"w{ended}", f"f{ended}", ended - 10, ended), policy)
        told += [(ended, one.change, one.incident.id) for one in changes]
    return told


def test_an_incident_must_last_the_minimum_of_event_time_too() -> None:
    policy = Alerts(min_windows=2, min_duration="30ms")
    assert timed([(at, 1.5) for at in range(0, 60, 10)], policy) == [(30, "fired", "w0")]
    assert timed([(0, 1.5), (100, 1.5)], policy) == [(100, "fired", "w0")]
    assert timed([(0, 1.5), (10, 0.5), (30, 1.5), (40, 1.5)], policy) == []  # another incident


def test_durations_count_anew_when_a_sensors_clock_is_set_back() -> None:
    policy = Alerts(min_windows=2, resolve_windows=1, min_duration="30ms", keep_firing_for="30ms", cooldown="30ms")
    back = [(1_000_000, 1.5), *((at, 1.5) for at in range(0, 50, 10))]
    assert timed(back, policy) == [(30, "fired", "w1000000")]
    again = [(at, 1.5) for at in (1_000_000, 1_000_030)] + [(at, 0.1) for at in range(0, 60, 10)]
    assert [(at, change) for at, change, _ in timed(again, policy)] == [(1_000_030, "fired"), (30, "resolved")]
    rested = [(at, 1.5) for at in (1_000, 1_030)] + [(1_060, 0.1)] + [(at, 1.5) for at in range(0, 50, 10)]
    assert [(at, change) for at, change, _ in timed(rested, policy)] == [
        (1_030, "fired"), (1_060, "resolved"), (30, "fired"),
    ]  # fmt: skip


def test_an_alert_keeps_firing_for_so_long_after_the_last_window_that_was_not_calm() -> None:
    policy = Alerts(min_windows=1, resolve_windows=2, keep_firing_for="50ms")
    calm = [(at, 0.1) for at in range(10, 100, 10)]
    assert timed([(0, 1.5), *calm], policy) == [(0, "fired", "w0"), (50, "resolved", "w0")]
    assert timed([(0, 1.5), (10, 0.1), (20, 0.1), (30, 1.5), (40, 0.1), (80, 0.1)], policy) == [
        (0, "fired", "w0"), (80, "resolved", "w0"),  # the same alert went on
    ]  # fmt: skip


def test_in_the_cooldown_only_a_worse_alert_fires_and_what_lasts_fires_after_it() -> None:
    policy = Alerts(min_windows=1, resolve_windows=1, cooldown="50ms")
    begin = [(0, 1.5), (10, 0.1)]
    first = [(0, "fired", "w0"), (10, "resolved", "w0")]
    assert timed([*begin, (20, 1.5), (30, 0.1), (60, 0.1)], policy) == first
    assert timed([*begin, (20, 2.5)], policy) == [*first, (20, "fired", "w20")]
    lasting = [(at, 1.5) for at in range(20, 80, 10)]
    assert timed([*begin, *lasting], policy) == [*first, (60, "fired", "w20")]
    assert timed([*begin, (70, 0.1), (80, 1.5)], policy) == [*first, (80, "fired", "w80")]


def test_a_sensor_that_rests_is_normal_and_is_forgotten_after_the_cooldown() -> None:
    policy = Alerts(min_windows=1, resolve_windows=1, cooldown="50ms")
    incident, seen_ = None, []
    for ended, score in [(0, 1.5), (10, 0.1), (20, 0.1), (60, 0.1)]:
        incident, _ = follow(incident, score, Place(f"w{ended}", "", ended, ended), policy)
        seen_.append(None if incident is None else incident.state)
    assert seen_ == ["firing", "normal", "normal", None]


def test_while_as_many_are_recent_as_may_be_only_what_is_as_high_fires() -> None:
    policy = Alerts(min_windows=1, resolve_windows=1, limit=2, limit_within="100ms")
    high, low = [(0, 4.0), (10, 0.1)], [(20, 2.0), (30, 0.1)]
    told = [(0, "fired", "w0"), (10, "resolved", "w0"), (20, "fired", "w20"), (30, "resolved", "w20")]
    assert timed([*high, *low, (40, 1.5)], policy) == told
    assert timed([*high, *low, (40, 1.5), (50, 2.0)], policy) == [*told, (50, "fired", "w40")]
    assert timed([*high, *low, (109, 1.5)], policy) == told
    assert timed([*high, *low, (110, 1.5)], policy) == [*told, (110, "fired", "w110")]
    off = policy.model_copy(update={"limit": "off"})
    assert timed([*high, *low, (40, 1.5)], off) == [*told, (40, "fired", "w40")]


@given(
    st.lists(st.tuples(st.integers(1, 30), st.sampled_from([0.1, 0.9, 1.0, 1.5, 2.5, 9.0])), max_size=80),
    st.integers(1, 3),
    st.sampled_from([0, 50, 200]),
)
def test_the_limit_is_that_of_all_alerts_before(steps: list[tuple[int, float]], limit: int, within: int) -> None:
    """What the state keeps of those before, and what it drops, decides as all of them would."""
    policy = Alerts(min_windows=1, resolve_windows=1, limit=limit, limit_within=f"{within}ms")
    before: list[tuple[int, float]] = []  # (end, peak) of all alerts
    incident, now = None, 0
    for step, score in steps:
        now += step
        known = sorted(peak for end, peak in before if now - end < within)
        begins = incident is None or not incident.revision
        pending = max(score, 0.0 if incident is None or not incident.id else incident.peak)
        incident, told = follow(incident, score, Place(f"w{now}", "", now, now), policy)
        fires = begins and score >= 1 and (len(known) < limit or pending >= known[-limit])
        assert any(one.change == "fired" for one in told) == fires
        before += [(now, one.incident.peak) for one in told if one.change == "resolved"]


# -- faults ----------------------------------------------------------------------------------------------------------

QUICK = Alerts(min_windows=2, resolve_windows=2)
STRIDE, LENGTH = 10, 30  # of the windows below, in ms


@dataclass(frozen=True)
class Seen:
    """One window: its score, which features are faulty in it, the share of feature 0 in the score."""

    score: float
    faulty: tuple[int, ...] = ()
    share: float = 0.9


def watch(windows: Sequence[Seen], policy: Alerts = QUICK, stop: int | None = None) -> list[tuple[int, Told_]]:
    """What is told, by window; at ``stop`` the state is written and read again."""
    incident: Incident | None = None
    told: list[tuple[int, Told_]] = []
    for at, one in enumerate(windows):
        if at == stop and incident is not None:
            incident = msgspec.msgpack.decode(msgspec.msgpack.encode(incident), type=Incident)
        ended = at * STRIDE + LENGTH
        place = Place(f"w{at}", f"f{at}", ended - LENGTH, ended)
        shown = Shown(one.faulty, (), (one.share, 1 - one.share))
        incident, changes = follow(incident, one.score, place, policy, shown)
        told += [(at, change) for change in changes]
        assert incident is None or incident.state != "normal" or policy.cooldown or incident.recent
    return told


def brief(windows: Sequence[Seen]) -> list[tuple[int, str, str, str]]:
    return [(at, one.kind, one.change, one.incident.id) for at, one in watch(windows)]


def test_a_fault_has_an_alert_of_its_own_kind() -> None:
    told = brief([Seen(0.1), *[Seen(0.1, (0,))] * 3, *[Seen(0.1)] * 3])
    assert told == [(2, "fault", "fired", "f1"), (5, "fault", "resolved", "f1")]


def test_a_score_that_a_fault_explains_opens_no_second_alert_and_tells_how_bad_it_is() -> None:
    windows = [*[Seen(6.0, (0,))] * 4, *[Seen(0.1)] * 2]
    assert brief(windows) == [(1, "fault", "fired", "f0"), (5, "fault", "resolved", "f0")]
    assert watch(windows)[0][1].incident.severity == "critical"


def test_a_score_that_a_fault_does_not_explain_has_its_own_alert_beside_it() -> None:
    assert brief([*[Seen(0.1, (0,))] * 2, *[Seen(3.0, (0,), share=0.4)] * 2]) == [
        (1, "fault", "fired", "f0"),
        (3, "anomaly", "fired", "w2"),
    ]


def test_an_anomaly_that_turns_out_to_be_a_fault_goes_on_as_one() -> None:
    windows = [*[Seen(3.0)] * 4, *[Seen(1.5, (0,))] * 3, *[Seen(0.1)] * 2]
    assert brief(windows) == [
        (1, "anomaly", "fired", "w0"),
        (5, "fault", "diagnosed", "w0"),
        (8, "fault", "resolved", "w0"),
    ]
    assert [one.incident.revision for _, one in watch(windows)] == [1, 2, 3]
    assert {one.incident.severity for _, one in watch(windows)} == {"major"}


def test_what_a_repaired_sensor_left_in_the_window_is_still_the_faults() -> None:
    left = [Seen(3.0)] * 3  # windows that still hold events of the last faulty one: it ended LENGTH after it began
    assert brief([*[Seen(3.0, (0,))] * 2, *left, *[Seen(0.1)] * 2]) == [
        (1, "fault", "fired", "f0"), (6, "fault", "resolved", "f0"),
    ]  # fmt: skip
    assert ("anomaly", "fired") in [told[1:3] for told in brief([*[Seen(3.0, (0,))] * 2, *[Seen(3.0)] * 8])]


def test_a_fault_that_did_not_fire_explains_nothing() -> None:
    assert brief([Seen(3.0, (0,)), Seen(3.0)]) == [(1, "anomaly", "fired", "w0")]


seen_windows = st.lists(
    st.builds(
        Seen,
        st.sampled_from([0.1, 0.9, 1.0, 1.5, 2.5, 9.0]),
        st.sampled_from([(), (), (0,), (1,), (0, 1)]),
        st.sampled_from([0.0, 0.4, 0.6, 1.0]),
    ),
    max_size=40,
)
quick = st.builds(
    Alerts,
    min_windows=st.integers(1, 3),
    resolve_windows=st.integers(1, 3),
    min_duration=st.sampled_from([0, 0.01, 0.03]),
    keep_firing_for=st.sampled_from([0, 0.02, 0.05]),
    cooldown=st.sampled_from([0, 0.02, 0.08]),
    limit=st.sampled_from([1, 2, "off"]),
    limit_within=st.sampled_from([0, 0.05, 0.2]),
)


@given(seen_windows, quick)
def test_no_sensor_has_two_open_alerts_of_a_kind_and_no_revision_is_left_out(
    windows: list[Seen], policy: Alerts
) -> None:
    records: dict[str, list[Told_]] = {}
    last = dict[str, Told_]()
    for _, told in watch(windows, policy):
        records.setdefault(told.incident.id, []).append(told)
        last[told.incident.id] = told
        firing = [one.kind for one in last.values() if one.change != "resolved"]
        assert len(set(firing)) == len(firing)
    for history in records.values():
        assert [told.incident.revision for told in history] == list(range(1, len(history) + 1))
        assert history[0].change == "fired"
        assert all(told.change in ("worsened", "diagnosed") for told in history[1:-1])
        kinds = [told.kind for told in history]
        assert kinds == sorted(kinds)  # an anomaly may become a fault, never the other way round
        assert sum(told.change == "diagnosed" for told in history) == len(set(kinds)) - 1
        ranks = [RANK[told.incident.severity] for told in history]
        assert ranks == sorted(ranks)
        assert len({told.incident.started_at for told in history}) == 1


@given(seen_windows, quick, st.integers(0, 40))
def test_with_faults_and_durations_it_goes_on_the_same_from_a_stored_state(
    windows: list[Seen], policy: Alerts, stop: int
) -> None:
    assert watch(windows, policy, stop) == watch(windows, policy)


@given(seen_windows, quick)
def test_while_a_fault_fires_that_explains_every_score_no_anomaly_fires(windows: list[Seen], policy: Alerts) -> None:
    always = [Seen(one.score, (0,), 1.0) for one in windows]
    told = watch(always, policy)
    anomalies = [one for _, one in told if one.kind == "anomaly"]
    assert anomalies == []


def test_states_of_earlier_versions_are_read() -> None:
    packed = msgspec.msgpack.encode([["w0", 7, 3, 0, 1, "minor", 1.5], None])
    assert msgspec.msgpack.decode(packed, type=Standing).incident == Incident("w0", 7, 3, 0, 1, "minor", 1.5)


def test_an_earlier_version_reads_what_it_knows_of_a_new_state() -> None:
    class Earlier(msgspec.Struct, array_like=True, frozen=True):
        id: str
        started_at: int
        above: int = 0

    told = msgspec.msgpack.encode(
        Incident("w0", 7, 3, last=9, rest=Rest(1, "major"), fault=Fault(runs=(Run(0, 1, 2, 3),)), recent=(Past(1, 2),))
    )
    assert msgspec.msgpack.decode(told, type=Earlier) == Earlier("w0", 7, 3)

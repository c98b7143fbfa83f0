"""The life of an alert, as those see it who watch one sensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.alerts import Change, Incident, advance, grade
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
        incident, change = advance(incident, score, (f"w{window}", window), policy)
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
    steps = []
    for stored in (False, True):
        incident, found = None, []
        for window, score in enumerate(scores):
            if stored and window == stop and incident is not None:
                incident = msgspec.msgpack.decode(msgspec.msgpack.encode(incident), type=Incident)
            incident, change = advance(incident, score, (f"w{window}", window), policy)
            found.append((incident, change))
            incident = None if change == "resolved" else incident
        steps.append(found)
    assert steps[0] == steps[1]

"""What windows show of the sensor itself, and what is published of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.criteria import criteria_of, with_longest_memory
from stream_detector.events import Alert, Errors, Events, Float32, Model, Partition, Windows
from stream_detector.faults import limits_of
from stream_detector.groups import alike
from stream_detector.sensors import Rules
from stream_detector.settings import Settings
from stream_detector.verdicts import alert_records, judge
from stream_detector.windows import Rolling

FEATURES = ("pressure", "current")
RULES = Rules(FEATURES, length=4, stride=1, means=(5.0, 5.0))
PARTITION, MODELS = Partition("events", 0), alike(Model("m", "1"))
NAN = float("nan")
VARIED = [0.0, 1.0, 2.0, 1.5, 0.5, 2.5, 0.25]


def settings(**sections: Any) -> Settings:
    return Settings.model_validate({"alerts": {"min_windows": 1, "resolve_windows": 1}, **sections})


def windows(rows: Sequence[tuple[float, float]], rules: Rules = RULES) -> Windows:
    """Of one sensor's events, one a second."""
    count = len(rows)
    offsets = np.arange(count, dtype=np.int64)
    values = np.array(rows, np.float32).reshape(count, 2)
    events = Events(["s"] * count, offsets * 1_000, values, offsets, np.full(count, -1, np.int64))
    return Rolling(rules).push(events)[0]


def errors(count: int, score: float | Sequence[float] = 0.1, share: float = 0.5) -> Errors:
    scores = np.broadcast_to(np.array(score, np.float32), (count,))
    shares = np.tile(np.array([share, 1 - share], np.float32), (count, 1))
    one = np.ones(count, np.float32)
    return Errors(scores, scores, one, shares, np.zeros(count, np.int32))


def same(windows: Windows, errors: Errors) -> Float32:
    return windows.values


def told(
    rows: Sequence[tuple[float, float]], asked: Settings, rules: Rules = RULES, **about: Any
) -> list[tuple[int, str, str, str]]:
    """Offset, kind, status and summary of each alert."""
    records = alerts(rows, asked, rules, **about)
    return [(one.source.last_offset, one.kind, one.status, one.summary) for one in records]


def alerts(rows: Sequence[tuple[float, float]], asked: Settings, rules: Rules = RULES, **about: Any) -> list[Alert]:
    some = windows(rows, rules)
    found = errors(len(some), **about)
    judged = judge(PARTITION, some, found, {}, criteria_of(rules, asked), same)
    return alert_records(PARTITION, some, found, judged.changes, same, FEATURES, MODELS)


def test_an_alert_says_which_fault_it_is_of_which_feature() -> None:
    asked = settings(
        features={"pressure": {"range": [0, 10.1]}, "current": {"stuck_events": 4}}, faults={"dropout": 0.5}
    )
    beyond = [(at, at) for at in VARIED] + [(12.0, 1.0)] + [(at, at) for at in VARIED]
    assert [one.faults for one in alerts(beyond, asked)] == [{"pressure": "out_of_range"}, {}]
    both = [(12.0, at) for at in VARIED] + [(12.0, 3.0)] * 8
    assert alerts(both, asked)[0].faults == {"pressure": "out_of_range"}
    assert alerts([(at, 3.0) for at in VARIED], asked)[0].faults == {"current": "stuck"}
    assert alerts([(NAN, at + 0.1) for at in VARIED], asked)[0].faults == {"pressure": "dropout"}
    assert [one.faults for one in alerts([(at, at) for at in VARIED], settings(), score=3.0)] == [{}]


def test_nothing_is_watched_unless_it_is_asked_for() -> None:
    assert limits_of(RULES, Settings()) is None
    assert criteria_of(RULES, Settings()).look(windows([(1.0, NAN)] * 20)) is None
    assert told([(1.0, NAN)] * 20, Settings()) == []


def test_a_value_out_of_its_range_is_a_fault_that_names_the_feature() -> None:
    asked = settings(features={"pressure": {"range": [0, 10.1]}})
    rows = [(10.1, at) for at in VARIED] + [(12.0, 1.0)] + [(at, at) for at in VARIED]
    assert told(rows, asked) == [
        (7, "fault", "firing", "s: pressure 12 is above 10.1, out of its range"),
        (11, "fault", "resolved", "s: the sensor is well again"),
    ]
    assert told([(-1.0, at) for at in VARIED], asked)[0][3] == "s: pressure -1 is below 0, out of its range"
    half = settings(features={"pressure": {"range": [float("-inf"), 10]}})
    assert told([(-1e9, at) for at in VARIED], half) == []


def test_one_value_for_so_many_events_is_stuck() -> None:
    rows = [(at, at) for at in VARIED] + [(3.0, at) for at in VARIED] + [(at, at) for at in VARIED]
    found = told(rows, settings(features={"pressure": {"stuck_events": 4}}))
    assert found == [
        (10, "fault", "firing", "s: pressure stuck at 3"),
        (14, "fault", "resolved", "s: the sensor is well again"),
    ]
    longer = told(rows, settings(features={"pressure": {"stuck_events": 6}}))  # than a window
    assert [one[0] for one in longer] == [12, 14]
    assert told(rows, settings(features={"pressure": {"stuck_events": 8}})) == []
    lasting = told(rows, settings(features={"pressure": {"stuck_after": "5s"}}))
    assert [one[0] for one in lasting] == [12, 14]
    assert told(rows, settings(features={"pressure": {"stuck_events": 4}}, faults={"stuck": "off"})) == []


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_two_values_that_each_last_a_window_are_not_one_run(stride: int) -> None:
    rules = Rules(FEATURES, length=4, stride=stride, means=(5.0, 5.0))
    rows = [(1.0, at) for at in range(8)] + [(2.0, at) for at in range(8)]
    assert told(rows, settings(features={"pressure": {"stuck_events": 9}}), rules) == []
    assert len(told(rows[:8], settings(features={"pressure": {"stuck_events": 8}}), rules)) == 1


def test_values_that_were_filled_in_are_missing_and_not_stuck() -> None:
    rows = [(1.0, at) for at in VARIED] + [(NAN, at) for at in VARIED]
    asked = settings(features={"pressure": {"stuck_after": "4s"}}, faults={"dropout": 0.5})
    found = told(rows, asked)
    assert [one[3] for one in found] == [
        "s: pressure stuck at 1", "s: the sensor is well again", "s: pressure missing in 75% of the events",
    ]  # fmt: skip


def test_a_share_of_missing_values_is_told_for_each_feature() -> None:
    asked = settings(faults={"dropout": 0.5})
    rows = [(NAN if at > 3 else value, NAN if at == 5 else value + 0.1) for at, value in enumerate(VARIED * 2)]
    found = told(rows, asked)
    assert [one[3] for one in found] == ["s: pressure missing in 75% of the events"]
    assert told([(NAN if at % 2 else value, value) for at, value in enumerate(VARIED * 2)], asked) == []


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=12))
def test_the_share_of_missing_values_is_never_more_than_it_was(holes: list[tuple[bool, bool]]) -> None:
    rows = [(NAN if a else at + 0.5, 1.0 if at % 3 else NAN if b else 2.0) for at, (a, b) in enumerate(holes)]
    rows = [(9.0, second) if np.isnan([first, second]).all() else (first, second) for first, second in rows]
    limits = limits_of(RULES, settings(faults={"dropout": 0.5}))
    assert limits is not None
    missing = limits._missing(windows(rows))
    for at in range(len(missing)):
        truth = np.isnan(np.array(rows[at : at + 4])).mean(axis=0)
        assert (missing[at] <= truth + 1e-9).all()
        if (truth > 0).sum() == 1:
            assert missing[at] == pytest.approx(truth)


def test_a_score_that_the_fault_explains_is_one_alert_of_kind_fault() -> None:
    rows = [(at, at) for at in VARIED] + [(3.0, at) for at in VARIED]
    asked = settings(features={"pressure": {"stuck_events": 4}})
    scores = [0.1] * 6 + [3.0] * 5
    found = told(rows, asked, score=scores, share=0.9)
    # The anomaly fires while the window is stuck in part, and becomes the fault's alert when all of it is.
    assert [one[:3] for one in found] == [(9, "anomaly", "firing"), (10, "fault", "firing")]
    apart = told(rows, asked, score=scores, share=0.3)
    assert [one[:3] for one in apart] == [(9, "anomaly", "firing"), (10, "fault", "firing")]


def test_alerts_of_both_kinds_have_ids_of_their_own() -> None:
    some = windows([(12.0, at) for at in VARIED])
    asked = settings(features={"pressure": {"range": [0, 10]}})
    found = errors(len(some), 3.0, 0.3)
    judged = judge(PARTITION, some, found, {}, criteria_of(RULES, asked), same)
    records = alert_records(PARTITION, some, found, judged.changes, same, FEATURES, MODELS)
    assert [(one.kind, one.revision) for one in records] == [("fault", 1), ("anomaly", 1)]
    assert len({one.id for one in records}) == 2
    assert judged.states == ["firing"] * len(some)


values = st.sampled_from([1.0, 1.0, 1.0, 2.0, 12.0, NAN])


@given(st.lists(st.tuples(values, st.sampled_from([0.1, 1.5, 6.0])), min_size=4, max_size=40), st.data())
def test_batches_do_not_matter(rows: list[tuple[float, float]], data: st.DataObject) -> None:
    asked = settings(
        alerts={
            "min_windows": 2,
            "resolve_windows": 2,
            "min_duration": "1s",
            "cooldown": "3s",
            "keep_firing_for": "3s",
        },
        features={"pressure": {"range": [0, 10], "stuck_events": 5, "min_deviation": 0.5}, "current": {}},
        faults={"dropout": 0.4},
    )
    some = windows([(value, float(at)) for at, (value, _) in enumerate(rows)])
    found = errors(len(some), [score for _, score in rows[3:]], 0.6)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(some)), max_size=4)))
    criteria = criteria_of(RULES, asked)

    def published(parts: list[int]) -> list[Alert]:
        incidents: dict[str, Any] = {}
        records = []
        for start, stop in zip([0, *parts], [*parts, len(some)], strict=True):
            piece, part = some.take(np.arange(start, stop)), found.cut(start, stop)
            judged = judge(PARTITION, piece, part, incidents, criteria, lambda windows, errors: windows.values * 0 + 1)
            assert all(incidents.get(name) == state for name, state in judged.touched.items())
            records += alert_records(PARTITION, piece, part, judged.changes, same, FEATURES, MODELS)
        return records

    assert published(cuts) == published([])


def test_the_look_back_covers_what_faults_and_groups_count() -> None:
    asked = settings(
        groups={"slow": {"sensors": "x-*", "resolve_windows": 9}}, features={"current": {"stuck_events": 20}}
    )
    assert with_longest_memory(RULES, asked).alerts.resolve_windows == 9 + 20
    assert with_longest_memory(RULES, settings()).alerts == settings().alerts
    own = {"slow": {"sensors": "x-*", "features": {"current": {"stuck_events": 30}}}}
    asked = settings(groups=own, features={"current": {"stuck_events": 20}})
    assert with_longest_memory(RULES, asked).alerts.resolve_windows == asked.alerts.resolve_windows + 30

"""What is published of a window: records with exactly the promised fields, and which of them."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.adapters.memory import MemoryStore, Silent
from stream_detector.alerts import Incident
from stream_detector.codec import encode_alert, encode_score, identify
from stream_detector.criteria import Criteria, criteria_of
from stream_detector.events import PARTS, Alert, Errors, Float32, Model, Partition, PartName, Score, Windows
from stream_detector.faults import Cause
from stream_detector.groups import alike
from stream_detector.pipeline import Pipeline
from stream_detector.sensors import Rules
from stream_detector.settings import Alerts, Publish, Settings
from stream_detector.verdicts import alert_records, judge, score_records, short
from tests.simulated import RULES, SETTINGS, Broker, Record, SimulatedOutlet, SimulatedSource, SumScorer
from tests.stream_detector.test_silence import Hall

# interface.md, "Output"
SCORE = [
    "id", "sensor_id", "window_start", "window_end", "events", "score", "threshold", "error", "state",
    "contributions", "worst_step", "confidence", "imputed", "model", "source", "part",
]  # fmt: skip
ALERT = [
    "id", "revision", "status", "kind", "sensor_id", "severity", "started_at", "ended_at", "score", "peak_score",
    "threshold", "contributions", "observed", "expected", "summary", "model", "source", "part", "peak_strength",
    "faults", "accepted",
]  # fmt: skip
SOURCE = ["topic", "partition", "first_offset", "last_offset"]
PARTITION = Partition("sensor-events", 3)
FEATURES = ("pressure", "current")
MODEL = Model("pumps", "7")
MODELS = alike(MODEL)
POLICY = Criteria(alike(Alerts(min_windows=2, resolve_windows=1)))
START = 1_795_168_800_123  # 2026-11-20T10:00:00.123Z


def windows(count: int, sensor: str = "pump-7") -> Windows:
    """One after the other, of three steps; the values tell window, step and feature."""
    values = np.arange(count * 3 * 2, dtype=np.float32).reshape(count, 3, 2)
    first = np.arange(count, dtype=np.int64)
    imputed = np.zeros((count, 2), bool)
    imputed[:1, 1] = True
    return Windows(
        [sensor] * count,
        values,
        START + 1_000 * np.stack([first, first + 2], axis=1),
        10 + np.stack([first, first + 2], axis=1),
        imputed,
        np.where(imputed.any(axis=1), np.float32(2 / 3), np.float32(1)).astype(np.float32),
    )


def errors(scores: list[float], worst: int = 1) -> Errors:
    score = np.array(scores, np.float32)
    threshold = np.full(len(scores), 0.031, np.float32)
    shares = np.tile(np.array([0.81, 0.19], np.float32), (len(scores), 1))
    return Errors(
        score, np.full(len(scores), 0.044, np.float32), threshold, shares, np.full(len(scores), worst, np.int32)
    )


def expect(windows: Windows, errors: Errors) -> Float32:
    return windows.values + np.float32(100)


def records(scores: list[float], worst: int = 1) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The JSON of all scores and alerts of one sensor's windows."""
    some, told = windows(len(scores)), errors(scores, worst)
    judged = judge(PARTITION, some, told, {}, POLICY, expect)
    chosen = np.arange(len(scores))
    published = score_records(PARTITION, some, told, judged.states, chosen, FEATURES, MODELS)
    alerts = alert_records(PARTITION, some, told, judged.changes, expect, FEATURES, MODELS)
    return [json.loads(encode_score(one)) for one in published], [json.loads(encode_alert(one)) for one in alerts]


def test_a_score_has_the_fields_of_the_interface_in_their_order() -> None:
    (first, second), _ = records([1.42, 0.5])
    assert list(first) == SCORE
    assert first == {
        "id": identify("pump-7", "sensor-events", 3, 12),
        "sensor_id": "pump-7",
        "window_start": "2026-11-20T10:00:00.123Z",
        "window_end": "2026-11-20T10:00:02.123Z",
        "events": 3,
        "score": 1.42,
        "threshold": 0.031,
        "error": 0.044,
        "state": "pending",
        "contributions": {"pressure": 0.81, "current": 0.19},
        "worst_step": 1,
        "confidence": 0.6666667,
        "imputed": ["current"],
        "model": {"name": "pumps", "version": "7"},
        "source": {"topic": "sensor-events", "partition": 3, "first_offset": 10, "last_offset": 12},
        "part": "model",
    }
    assert (second["state"], second["imputed"], second["confidence"]) == ("normal", [], 1.0)


def test_an_alert_has_the_fields_of_the_interface_in_their_order() -> None:
    _, (fired, resolved) = records([1.42, 1.5, 0.1])
    assert list(fired) == list(resolved) == ALERT
    assert list(fired["source"]) == SOURCE
    assert fired == {
        "id": identify("pump-7", "sensor-events", 3, 12),
        "revision": 1,
        "status": "firing",
        "kind": "anomaly",
        "sensor_id": "pump-7",
        "severity": "minor",
        "started_at": "2026-11-20T10:00:02.123Z",
        "ended_at": None,
        "score": 1.5,
        "peak_score": 1.5,
        "threshold": 0.031,
        "contributions": {"pressure": 0.81, "current": 0.19},
        "observed": {"pressure": 8.0, "current": 9.0},  # of the second window, at its worst step
        "expected": {"pressure": 108.0, "current": 109.0},
        "summary": "pump-7: pressure 8 where 108 was expected",
        "part": "model",
        "peak_strength": 1.5,
        "faults": {},
        "accepted": 0.0,
        "model": {"name": "pumps", "version": "7"},
        "source": {"topic": "sensor-events", "partition": 3, "first_offset": 11, "last_offset": 13},
    }
    assert (resolved["status"], resolved["revision"], resolved["ended_at"]) == (
        "resolved", 2, "2026-11-20T10:00:04.123Z",
    )  # fmt: skip
    assert (resolved["id"], resolved["started_at"]) == (fired["id"], fired["started_at"])
    assert (resolved["peak_score"], resolved["summary"]) == (1.5, "pump-7: back to normal")


@pytest.mark.parametrize(
    ("outside", "told"),
    [
        ([False, False], "back to normal"),
        ([False, True], "calm, but with current outside of what the model was trained on, where not all is judged"),
        (
            [True, True],
            "calm, but with pressure and 1 more outside of what the model was trained on, where not all is judged",
        ),
    ],
)
def test_an_alert_that_is_over_says_where_the_model_s_word_does_not_count(outside: list[bool], told: str) -> None:
    some, found = windows(3), errors([1.5, 1.5, 0.1])
    part = np.full(3, PARTS.index("change"), np.int8)
    found = replace(found, part=part, outside=np.array([[False, False], [True, True], outside]))
    judged = judge(PARTITION, some, found, {}, POLICY, expect)
    fired, resolved = alert_records(PARTITION, some, found, judged.changes, expect, FEATURES, MODELS)
    assert (fired.summary, resolved.summary) == ("pump-7: pressure 8 where 108 was expected", f"pump-7: {told}")


@pytest.mark.parametrize(("part", "over"), [("model", False), ("bias", False), ("spread", False), ("level", True)])
def test_an_alert_of_the_model_goes_on_where_the_model_has_not_been(part: PartName, over: bool) -> None:
    some = windows(3)
    found = replace(errors([1.5, 1.5, 0.1]), part=np.full(3, PARTS.index(part), np.int8))
    for outside, states in (
        ([False, False], ["pending", "firing", "normal"]),
        ([True, False], ["pending", "firing", "normal" if over else "firing"]),
    ):
        told = replace(found, outside=np.array([[False, False], [False, False], outside]))
        assert judge(PARTITION, some, told, {}, POLICY, expect).states == states


def test_a_shift_that_has_become_normal_is_over_wherever_it_is() -> None:
    some, found = windows(3), errors([1.5, 1.5, 0.1])
    outside, accepted = np.array([[False, False], [False, False], [True, False]]), np.array([0, 0, 2], np.float32)
    told = replace(found, outside=outside, accepted=accepted)
    judged = judge(PARTITION, some, told, {}, POLICY, expect)
    assert judged.states == ["pending", "firing", "normal"]
    [_, resolved] = alert_records(PARTITION, some, told, judged.changes, expect, FEATURES, MODELS)
    assert resolved.summary == "pump-7: calm, with a shift that has lasted and is taken as normal"


def test_a_single_metric_is_judged_wherever_it_is() -> None:
    """By what it showed lately, once enough of that is known."""
    some, found = windows(3), errors([1.5, 1.5, 0.1])
    part = np.array([PARTS.index(name) for name in ("model", "model", "novelty")], np.int8)
    told = replace(found, part=part, outside=np.array([[False], [False], [True]]) & np.ones((3, 2), bool))
    judged = judge(PARTITION, some, told, {}, POLICY, expect)
    assert judged.states == ["pending", "firing", "normal"]
    [_, resolved] = alert_records(PARTITION, some, told, judged.changes, expect, FEATURES, MODELS)
    assert resolved.summary == "pump-7: back to normal"


def test_of_a_rhythm_that_stopped_no_value_is_said_to_be_expected() -> None:
    """By part `spread` no value is unexpected: what is missing is that they move."""
    some = windows(2)
    told = replace(errors([1.5, 1.5]), part=np.full(2, PARTS.index("spread"), np.int8))

    def nothing(of: Windows, judged: Errors) -> Float32:
        return np.full_like(of.values, np.nan)

    judged = judge(PARTITION, some, told, {}, POLICY, nothing)
    [fired] = alert_records(PARTITION, some, told, judged.changes, nothing, FEATURES, MODELS)
    assert (fired.part, fired.expected) == ("spread", {})
    assert fired.summary == "pump-7: pressure 8 moves less than usual"


@pytest.mark.parametrize("worst", [0, 1, 2])
def test_observed_and_expected_are_those_of_the_worst_step(worst: int) -> None:
    _, (fired,) = records([1.5, 1.5], worst)
    assert fired["observed"] == {"pressure": 6.0 + 2 * worst, "current": 7.0 + 2 * worst}
    assert fired["expected"] == {name: value + 100 for name, value in fired["observed"].items()}


def test_states_follow_the_alert() -> None:
    scores, alerts = records([0.5, 1.5, 1.5, 0.9, 0.1, 1.5])
    assert [score["state"] for score in scores] == ["normal", "pending", "firing", "firing", "normal", "pending"]
    assert [alert["status"] for alert in alerts] == ["firing", "resolved"]


def test_the_model_is_asked_only_about_windows_that_alert() -> None:
    asked = []

    def note(windows: Windows, errors: Errors) -> Float32:
        asked.append(len(windows))
        return windows.values

    some, told = windows(5), errors([0.5, 1.5, 1.5, 1.5, 0.1])
    judged = judge(PARTITION, some, told, {}, POLICY, expect)
    alert_records(PARTITION, some, told, judged.changes, note, FEATURES, MODELS)
    assert asked == [2]
    assert alert_records(PARTITION, some, told, [], note, FEATURES, MODELS) == []
    assert asked == [2]


def test_only_chosen_windows_get_a_record() -> None:
    some, told = windows(4), errors([0.1] * 4)
    chosen = np.array([1, 3])
    found = score_records(PARTITION, some, told, ["normal"] * 4, chosen, FEATURES, MODELS)
    assert [score.source.last_offset for score in found] == [13, 15]
    assert score_records(PARTITION, some, told, ["normal"] * 4, chosen[:0], FEATURES, MODELS) == []


@given(st.lists(st.sampled_from([0.1, 0.9, 1.0, 3.0, 9.0]), max_size=20), st.integers(0, 20))
def test_batches_do_not_matter(scores: list[float], cut: int) -> None:
    """Judging in two batches, going on from the state between them, gives the records of one."""
    some, told = windows(len(scores)), errors(scores)
    whole: dict[str, Incident] = {}
    states = judge(PARTITION, some, told, whole, POLICY, expect).states
    split: dict[str, Incident] = {}
    found = []
    for start, stop in ((0, min(cut, len(scores))), (min(cut, len(scores)), len(scores))):
        part = slice(start, stop)
        piece = Windows(
            some.sensors[part], some.values[part], some.timestamps[part], some.offsets[part],
            some.imputed[part], some.confidence[part],
        )  # fmt: skip
        judged = judge(PARTITION, piece, told.cut(start, stop), split, POLICY, expect)
        assert all(split.get(name) == state for name, state in judged.touched.items())
        found += judged.states
    assert found == states
    assert split == whole


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_short_numbers_are_read_as_the_same_float32(values: list[float]) -> None:
    array = np.array(values, np.float32)
    told = short(array)
    assert all(type(one) is float for one in told)
    assert np.array(told, np.float32).tobytes() == array.tobytes()  # also the sign of zero


@given(st.floats(2.0**-30, 2.0**50, width=32) | st.floats(-(2.0**50), -(2.0**-30), width=32))
def test_short_numbers_have_nine_digits_at_most(value: float) -> None:
    mantissa = repr(short(np.float32(value))).lower().partition("e")[0]
    assert len(mantissa.replace("-", "").replace(".", "").strip("0")) <= 9


@given(st.integers(-99_999, 99_999), st.integers(-6, 6))
def test_what_has_few_digits_is_written_with_these(digits: int, power: int) -> None:
    number = float(f"{digits}e{power}")
    assert short(np.float32(number)) == number


def test_short_keeps_shapes_and_what_is_no_number() -> None:
    assert short(np.array([[0.1, 0.0], [0.25, -2.5]], np.float32)) == [[0.1, 0.0], [0.25, -2.5]]
    assert short(np.zeros((0, 2), np.float32)) == []
    assert np.isnan(short(np.float32(np.nan)))
    assert short(np.float32(np.inf)) == float("inf")


def test_the_first_group_whose_pattern_fits_says_when_a_sensor_alerts() -> None:
    settings = Settings.model_validate(
        {
            "alerts": {"min_windows": 3},
            "groups": {
                "slow": {"sensors": "pump-7*", "min_windows": 5, "major": 1.2},
                "pumps": {"sensors": "pump-*", "min_windows": 2},
            },
        }
    )
    criteria = criteria_of(Rules(FEATURES, 3, 1, (0.0, 0.0)), settings)
    found = {}
    for sensor in ("pump-7", "pump-8", "fan-1", "pump-8"):  # twice: what is remembered is the same
        some, told = windows(6, sensor), errors([1.5] * 6)
        judged = judge(PARTITION, some, told, {}, criteria, expect)
        [(at, (incident, change, kind), cause)] = judged.changes
        assert (change, kind, cause) == ("fired", "anomaly", Cause())
        found[sensor] = (at, incident.severity)
    assert found == {"pump-7": (4, "major"), "pump-8": (1, "minor"), "fan-1": (2, "minor")}


def test_what_does_not_deviate_as_wanted_is_published_but_opens_no_alert() -> None:
    settings = Settings.model_validate({"features": {"pressure": {"direction": "above_expected"}}})
    criteria = criteria_of(Rules(FEATURES, 3, 1, (0.0, 0.0)), settings)
    some, told = windows(6), errors([1.5] * 6)
    judged = judge(PARTITION, some, told, {}, criteria, expect)  # the model expects a hundred more
    assert (judged.changes, judged.states, judged.touched) == ([], ["normal"] * 6, {})
    less = judge(PARTITION, some, told, {}, criteria, lambda windows, errors: windows.values - 100)
    assert [(at, one.change) for at, one, _ in less.changes] == [(0, "fired")]


# -- which scores are published --------------------------------------------------------------------------------------

LOG: list[Record] = [("a", at, 9.0 if 10 <= at < 20 else 1.0) for at in range(40)]


def published(kind: Any) -> list[Any]:
    broker = Broker(LOG)
    source = SimulatedSource(broker, lambda: None, random.Random(0))
    outlet = SimulatedOutlet(broker, source, lambda: None)
    settings = SETTINGS.model_copy(update={"publish": Publish(scores=kind)})
    pipeline = Pipeline(
        source, MemoryStore(), SumScorer(), outlet, Silent(), RULES, MODEL, settings, now_ms=lambda: 0.0
    )
    source.open(pipeline)
    while not (source.finished and pipeline.flight is None and not pipeline.waiting):
        pipeline.turn()
    pipeline.close()
    assert broker.committed == len(LOG)
    return broker.published


def test_scores_can_be_published_all_or_the_anomalous_or_none_and_alerts_always() -> None:
    found = {kind: published(kind) for kind in ("all", "anomalous", "none")}
    scores = {kind: [one for one in some if isinstance(one, Score)] for kind, some in found.items()}
    alerts = {kind: [one for one in some if isinstance(one, Alert)] for kind, some in found.items()}
    assert len(scores["all"]) == 19  # 40 events, windows of 3, stride 2
    assert scores["anomalous"] == [score for score in scores["all"] if score.score >= 1]
    assert 0 < len(scores["anomalous"]) < len(scores["all"])
    assert scores["none"] == []
    assert [alert.status for alert in alerts["all"]] == ["firing", "resolved"]
    assert alerts["all"] == alerts["anomalous"] == alerts["none"]


class Busy(SumScorer):
    """A device that goes on with the third batch only when somebody was told what was expected of the second."""

    def __init__(self) -> None:
        self.batches, self.asked = 0, threading.Event()

    def score(self, sensors: Sequence[str], values: Float32) -> Errors:
        self.batches += 1
        if self.batches == 3:
            assert self.asked.wait(30), "what was expected waits for the next batch"
        return super().score(sensors, values)

    def expect(self, sensors: Sequence[str], values: Float32, parts: Sequence[str]) -> Float32:
        self.asked.set()
        return super().expect(sensors, values, parts)


def test_what_an_alert_expected_does_not_wait_for_the_next_batch() -> None:
    hall = Hall([("a", at, 9.0) for at in range(30)])  # the alert fires with the third window, of the second batch
    hall.pipeline.scorer = busy = Busy()
    for _ in range(20):
        hall.pipeline.turn()
    hall.pipeline.drain()
    assert busy.batches > 2
    assert [record.status for record in hall.broker.published if isinstance(record, Alert)] == ["firing"]

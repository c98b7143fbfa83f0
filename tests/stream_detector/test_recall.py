"""Open faults go on where a state was lost, beside the sensor's anomaly."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from stream_detector.adapters.memory import MemoryStore, Silent
from stream_detector.alerts import Incident
from stream_detector.criteria import with_longest_memory
from stream_detector.events import Alert, Model, Origin
from stream_detector.pipeline import Pipeline
from stream_detector.recall import Recall
from stream_detector.reconcile import lookback_of
from stream_detector.sensors import Rules
from stream_detector.settings import Settings
from tests.simulated import PARTITION, RULES, Broker, Record, SimulatedOutlet, SimulatedSource, SumScorer

ONE = dataclasses.replace(RULES, stride=1)
LOG: list[Record] = [("a", at, 20.0 if at < 40 else at % 7 / 10) for at in range(80)]


def alert(name: str, kind: str, revision: int, status: str = "firing") -> Alert:
    return Alert(
        name, revision, status, kind, "a", "major", "1970-01-01T00:00:00.005Z", None, 2.5, 2.5, 1.0, {}, {}, {}, "",  # type: ignore[arg-type] # plain words
        Model("m", "1"), Origin("events", 0, 0, 3), peak_strength=2.5,
    )  # fmt: skip


def outlet_of(broker: Broker) -> SimulatedOutlet:
    return SimulatedOutlet(broker, SimulatedSource(broker, lambda: None, random.Random(0)), lambda: None)


def test_a_sensor_goes_on_with_an_anomaly_and_a_fault() -> None:
    broker = Broker(LOG)
    broker.published = [
        alert("one", "anomaly", 1), alert("two", "fault", 2), alert("three", "silence", 1),
        alert("four", "fault", 1), alert("four", "fault", 2, "resolved"),
    ]  # fmt: skip
    recall = Recall(outlet_of(broker))
    assert [one.id for one in recall.standing(PARTITION, 10, 0)] == ["one", "three"]
    anomaly = Incident("one", 5, revision=1)
    incidents = {"a": anomaly}
    recall.restore(incidents)
    found = incidents["a"]
    assert (found.id, found.revision) == ("one", 1)
    assert found.fault is not None
    assert found.fault.incident == Incident("two", 5, revision=2, severity="major", peak=2.5, strength=2.5)
    alone: dict[str, Incident] = {}
    recall.restore(alone)
    assert (alone["a"].id, alone["a"].state) == ("", "firing")


def test_nothing_to_recall_changes_nothing() -> None:
    incidents = {"a": Incident("one", 5)}
    Recall(outlet_of(Broker(LOG))).restore(incidents)
    assert incidents == {"a": Incident("one", 5)}


def run(broker: Broker, store: MemoryStore, asked: Settings, until: int, rules: Rules = RULES) -> None:
    log, broker.log = broker.log, broker.log[:until]
    source = SimulatedSource(broker, lambda: None, random.Random(0))
    outlet = SimulatedOutlet(broker, source, lambda: None)
    pipeline = Pipeline(source, store, SumScorer(), outlet, Silent(), rules, Model("m", "1"), asked, now_ms=lambda: 0.0)
    source.open(pipeline)
    while not (source.finished and pipeline.flight is None and not pipeline.waiting):
        pipeline.turn()
    pipeline.close()
    broker.log = log


def test_a_fault_that_was_switched_off_in_the_settings_is_resolved() -> None:
    asked = Settings.model_validate({"features": {"x": {"range": [0, 8]}}})
    for wiped in (False, True):
        broker, store = Broker(LOG), MemoryStore()
        run(broker, store, asked, 40)
        if wiped:
            store.states.clear()
        run(broker, store, Settings(), 80)
        told = [one for one in broker.published if isinstance(one, Alert) and one.kind == "fault"]
        assert [(one.status, one.revision) for one in told] == [("firing", 1), ("resolved", 2)]
        assert len({one.id for one in told}) == 1


TWO: list[Record] = [
    ("ab"[at % 2], 10 * at, 9.0 if 20 <= at < 60 else 20.0 if 100 <= at < 140 else at % 7 / 10) for at in range(200)
]


@pytest.mark.parametrize("wiped_at", range(5, 200, 13))
@pytest.mark.parametrize("feature", [{"range": [-1, 10]}, {"stuck_events": 6}, {"range": [-1, 10], "stuck_events": 6}])
def test_open_faults_and_anomalies_go_on_after_the_state_was_lost(feature: dict[str, Any], wiped_at: int) -> None:
    """The look-back holds what is counted of each sensor, and no more."""
    asked = {"alerts": {"min_windows": 2, "resolve_windows": 2}, "features": {"x": feature}}
    enough = lookback_of(ONE, with_longest_memory(ONE, Settings.model_validate(asked))).events
    settings = Settings.model_validate(asked | {"delivery": {"lookback_limit": 2 * enough}})
    published = []
    for stops in ([200], [wiped_at, 200]):
        broker = Broker(TWO)
        for until in stops:
            run(broker, MemoryStore(), settings, until, ONE)
        published.append(sorted(map(repr, broker.published)))
    assert published[0] == published[1]
    assert any("kind='fault'" in one for one in published[0])

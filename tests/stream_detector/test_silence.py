"""Sensors that fall silent and speak again, on a clock that is moved by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stream_detector.adapters.memory import MemoryStore, Silent
from stream_detector.configured import heartbeats_of
from stream_detector.events import Alert, Model
from stream_detector.groups import Grouped, Grouping
from stream_detector.pipeline import Pipeline
from stream_detector.settings import Settings
from stream_detector.silence import EVERY, Heartbeats, begin
from tests.simulated import PARTITION, RULES, SETTINGS, Broker, Record, SimulatedOutlet, SumScorer
from tests.world import LOG, Crash, Topic

LIMIT = 10.0
BOTH: list[Record] = [("ab"[at % 2], at, 1.0) for at in range(10)]


class Hall:
    """A log that grows, and workers on it whose clock is ours."""

    def __init__(self, log: list[Record], heartbeats: Heartbeats | None = None) -> None:
        self.broker, self.store, self.now = Broker(log), MemoryStore(), 0.0
        self.heartbeats = heartbeats or Heartbeats(otherwise=LIMIT)
        self.start()

    def start(self) -> None:
        """A new worker; the one before is gone."""
        self.source = Topic(self.broker)
        self.outlet = SimulatedOutlet(self.broker, self.source, lambda: None)
        self.pipeline = Pipeline(
            self.source, self.store, SumScorer(), self.outlet, Silent(), RULES, Model("m", "1"), SETTINGS,
            now_ms=lambda: 0.0, clock=lambda: self.now, heartbeats=self.heartbeats,
        )  # fmt: skip
        self.source.open(self.pipeline)

    def wait(self, seconds: float) -> None:
        """Let the worker turn meanwhile."""
        until = self.now + seconds
        while self.now < until:
            self.now += EVERY / 2
            self.pipeline.turn()

    @property
    def silences(self) -> list[tuple[str, str, str]]:
        return [
            (record.sensor_id, record.status, record.id)
            for record in self.broker.published
            if isinstance(record, Alert) and record.kind == "silence"
        ]


def test_a_sensor_that_is_not_heard_of_raises_one_alert_and_one_end() -> None:
    hall = Hall(list(BOTH))
    hall.wait(LIMIT - EVERY)
    assert hall.silences == []
    hall.broker.log = [*BOTH, *(("a", 10 + at, 1.0) for at in range(4))]
    hall.wait(LIMIT)  # b is silent for longer than it may, a is not
    [(sensor, status, name)] = hall.silences
    assert (sensor, status) == ("b", "firing")
    hall.broker.log = [*hall.broker.log, ("a", 20, 1.0)]
    hall.wait(LIMIT - EVERY)
    assert len(hall.silences) == 1
    hall.broker.log = [*hall.broker.log, ("b", 20, 1.0), ("a", 21, 1.0)]
    hall.wait(LIMIT - EVERY)
    assert hall.silences[1:] == [("b", "resolved", name)]


def test_what_the_record_says() -> None:
    hall = Hall([("a", 86_400_000, 1.0)])
    hall.wait(2 * LIMIT)
    hall.broker.log = [*hall.broker.log, ("a", 86_500_000, 1.0)]
    hall.wait(2 * EVERY)
    fired, ended = (record for record in hall.broker.published if isinstance(record, Alert))
    assert (fired.revision, fired.started_at, fired.ended_at) == (1, "1970-01-02T00:00:00.000Z", None)
    assert fired.summary == "a: no event since 1970-01-02T00:00:00.000Z"
    assert (fired.threshold, fired.severity) == (LIMIT, "major")
    assert (ended.revision, ended.ended_at) == (2, "1970-01-02T00:01:40.000Z")
    assert (fired.source.last_offset, ended.source.last_offset) == (0, 1)


def test_what_has_not_been_read_is_not_missing() -> None:
    hall = Hall([*BOTH])
    hall.wait(2 * EVERY)
    hall.source.lag = lambda: {PARTITION: 5}  # type: ignore[method-assign]
    hall.wait(5 * LIMIT)
    assert hall.silences == []


def test_silence_never_resolves_an_anomaly_and_ends_without_touching_it() -> None:
    high: list[Record] = [("a", at, 9.0) for at in range(9)]
    hall = Hall(high)
    hall.wait(2 * LIMIT)
    hall.broker.log = [*high, ("a", 20, 9.0)]
    hall.wait(2 * EVERY)
    records = [(r.kind, r.status) for r in hall.broker.published if isinstance(r, Alert)]
    assert records == [("anomaly", "firing"), ("silence", "firing"), ("silence", "resolved")]
    assert "a" in hall.pipeline.owned[PARTITION].incidents


def test_a_silence_is_not_called_like_the_window_and_the_alert_of_the_event_before_it() -> None:
    hall = Hall([("a", at, 9.0) for at in range(5)])  # windows end with events 2 and 4: the second one's alert fires
    hall.wait(2 * LIMIT)
    [(_, _, name)] = hall.silences
    others = [record for record in hall.broker.published if getattr(record, "kind", "") != "silence"]
    assert {4} <= {record.source.last_offset for record in others}
    assert name not in {record.id for record in others}
    again = begin(PARTITION, "a", hall.pipeline.owned[PARTITION].table)
    assert again.id == name  # stable: another owner tells it with the same id


def test_after_a_restart_it_is_told_again_with_the_same_id_and_still_ends() -> None:
    hall = Hall([*BOTH])
    hall.wait(2 * LIMIT)
    first = sorted(hall.silences)
    hall.start()
    hall.wait(2 * EVERY)
    assert sorted(hall.silences[2:]) == first
    hall.start()
    hall.broker.log = [*BOTH, ("b", 30, 1.0)]
    hall.wait(2 * EVERY)
    [ended] = [silence for silence in hall.silences if silence[1] == "resolved"]
    assert ended[0] == "b"
    assert ended[2] == next(name for sensor, _, name in first if sensor == "b")


@pytest.mark.parametrize("where", ["deliver", "settle"])
def test_a_crash_in_between_repeats_and_loses_nothing(where: str) -> None:
    hall = Hall([*BOTH])
    hall.wait(2 * EVERY)

    def crash(*_: object) -> None:
        raise Crash

    part = hall.outlet if where == "deliver" else hall.store
    kept = getattr(part, where)
    setattr(part, where, crash)
    with pytest.raises(Crash):
        hall.wait(2 * LIMIT)
    setattr(part, where, kept)
    hall.start()
    hall.wait(2 * LIMIT)
    hall.broker.log = [*BOTH, ("a", 30, 1.0), ("b", 30, 1.0)]
    hall.wait(2 * EVERY)
    assert {status for sensor, status, _ in hall.silences if sensor == "b"} == {"firing", "resolved"}
    assert len({name for _, _, name in hall.silences}) == 2


def test_after_the_state_was_lost_open_silences_are_still_ended() -> None:
    hall = Hall([*LOG])
    hall.wait(2 * LIMIT)
    names = {name for _, _, name in hall.silences}
    hall.store.states.clear()
    hall.start()
    hall.wait(2 * EVERY)
    hall.broker.log = [*LOG, ("a", 600, 1.0), ("b", 600, 1.0)]
    hall.wait(2 * EVERY)
    assert {name for _, status, name in hall.silences if status == "resolved"} == names


def test_the_limits_of_sensors() -> None:
    beats = Heartbeats((("pump-*", 60.0), ("*", 5.0)), {"fan": 1.0}, 9.0)
    assert [beats.limit(name) for name in ("pump-7", "fan")] == [60.0, 5.0]
    assert [Heartbeats((), {"fan": 1.0}, 9.0).limit(name) for name in ("pump-7", "fan")] == [9.0, 1.0]
    hall = Hall([*BOTH], Heartbeats((("a", 4.0),)))
    hall.wait(10 * LIMIT)
    assert [sensor for sensor, _, _ in hall.silences] == ["a"]


def test_a_group_with_a_bundle_of_its_own_has_its_limits_and_its_model() -> None:
    hall = Hall([*BOTH], Heartbeats(otherwise=4 * LIMIT))
    hall.wait(2 * EVERY)
    one = hall.pipeline.judges.common
    own = replace(one, model=Model("own", "2"), heartbeats=Heartbeats(otherwise=LIMIT))
    hall.pipeline.judge_by(Grouped(Grouping({"b": "b"}), one, [own]))
    hall.wait(2 * LIMIT)
    assert [sensor for sensor, _, _ in hall.silences] == ["b"]
    hall.wait(4 * LIMIT)
    records = [record for record in hall.broker.published if isinstance(record, Alert)]
    assert [(record.sensor_id, record.model.name, record.threshold) for record in records] == [
        ("b", "own", LIMIT),
        ("a", "m", 4 * LIMIT),
    ]


class Trained:
    """As much of a manifest as matters here."""

    def __init__(self) -> None:
        self.intervals = {"fan": 30_000.0, "pump": 100.0, "": 1_000.0}


@pytest.mark.parametrize(
    ("given", "fan", "pump", "stranger"),
    [
        ({"after": "5m"}, 300, 300, 300),
        ({"after": "learned"}, 300, 60, 60),
        ({"after": "learned", "factor": 2, "at_least": "1s"}, 60, 1, 2),
        ({"after": "learned", "sensors": {"f*": "7s"}}, 7, 60, 60),
        ({"sensors": {"f*": "7s"}}, 7, float("inf"), float("inf")),
    ],
)
def test_the_limits_from_settings(given: dict[str, object], fan: float, pump: float, stranger: float) -> None:
    beats = heartbeats_of(Trained(), Settings.model_validate({"silence": given}))  # type: ignore[arg-type]
    assert beats is not None
    assert [beats.limit(name) for name in ("fan", "pump", "stranger")] == [fan, pump, stranger]


def test_nobody_watches_by_default() -> None:
    assert heartbeats_of(Trained(), Settings()) is None  # type: ignore[arg-type]

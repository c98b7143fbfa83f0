"""What observers are told: alerts that are open, from the state and not from what happened since the start."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from stream_detector.adapters.memory import Silent
from stream_detector.events import Alert, Partition
from stream_detector.ports import Firing
from tests.simulated import PARTITION, Record
from tests.stream_detector.test_silence import LIMIT, Hall


class Noting(Silent):
    """Remembers."""

    def __init__(self) -> None:
        self.firing: list[Firing] = []
        self.partitions: set[Partition] = set()

    def gauges(
        self,
        *,
        partitions: Collection[Partition],
        sensors: int,
        pending: int,
        lag: Mapping[Partition, int],
        firing: Iterable[Firing],
    ) -> None:
        self.firing, self.partitions = sorted(firing), set(partitions)


def published_open(hall: Hall) -> list[Firing]:
    """The alerts that whoever reads the alerts topic takes for open."""
    last = {record.id: record for record in hall.broker.published if isinstance(record, Alert)}
    open_ = [alert for alert in last.values() if alert.status == "firing"]
    return sorted(Firing(alert.sensor_id, alert.kind, alert.severity) for alert in open_)


def observe(hall: Hall) -> Noting:
    hall.pipeline.observer = noting = Noting()
    return noting


def test_open_alerts_are_those_that_were_published_as_they_come_and_go() -> None:
    log: list[Record] = [
        (name, at, 9.0 if (name == "a") == (20 <= at < 60) and name != "c" else at % 7 / 10)
        for at in range(90)
        for name in ("ab" if at > 40 else "abc")
    ]
    hall = Hall([])
    noting, seen = observe(hall), set[Firing]()
    for until in range(1, len(log) + 1, 7):
        hall.broker.log = log[:until]
        hall.wait(LIMIT / 4)
        hall.pipeline.drain()
        hall.pipeline.turn()
        assert noting.firing == published_open(hall)
        seen.update(noting.firing)
    assert {(alert.sensor, alert.kind) for alert in seen} == {("a", "anomaly"), ("b", "anomaly"), ("c", "silence")}
    assert noting.partitions == {PARTITION}


def test_a_new_worker_knows_the_alerts_that_are_open() -> None:
    hall = Hall([("a", at, 9.0) for at in range(9)])
    hall.wait(2 * LIMIT)  # and now it is silent too
    known = published_open(hall)
    assert [alert.kind for alert in known] == ["anomaly", "silence"]
    hall.start()
    noting = observe(hall)
    hall.pipeline.turn()
    hall.pipeline.turn()
    assert noting.firing == known

"""A log, a broker and a store in memory, which one worker after the other comes to and leaves, or crashes in."""

from __future__ import annotations

import random
from collections.abc import Sequence

from stream_detector.adapters.memory import MemoryStore, Silent
from stream_detector.events import Alert, Errors, Model, Partition, Reject, Score, Windows
from stream_detector.pipeline import Pipeline
from stream_detector.ports import Delivery
from stream_detector.sensors import Rules
from stream_detector.settings import Alerts, Settings
from stream_detector.settings import Delivery as DeliverySettings
from tests.simulated import PARTITION, Broker, Record, SimulatedOutlet, SimulatedSource, SumScorer

RULES = Rules(("x",), length=3, stride=1, means=(0.0,))
POLICY = Alerts(min_windows=2, resolve_windows=2)
FAR = 1_000_000  # a look-back over everything

# Two sensors take turns; every seventh event cannot be read; from 20 to 30 the values are high.
LOG: list[Record] = [
    ("ab"[offset % 2], 10 * offset, None if offset % 7 == 6 else 9.0 if 20 <= offset < 30 else 1.0)
    for offset in range(50)
]


class Crash(Exception):
    """The worker is gone at this call."""


class Noting(Silent):
    """Remembers in which case partitions were."""

    def __init__(self) -> None:
        self.cases: list[str] = []
        self.scored_windows = 0

    def reconciled(self, partition: Partition, case: str) -> None:
        self.cases.append(case)

    def scored(self, partition: Partition, windows: Windows, errors: Errors) -> None:
        self.scored_windows += len(windows)


class Four(random.Random):
    """Draws the size of each batch."""

    def randint(self, a: int, b: int) -> int:
        return 4


class Topic(SimulatedSource):
    """The simulated log, read four events at a time, whose first events may be gone."""

    def __init__(self, broker: Broker, first: int = 0) -> None:
        super().__init__(broker, lambda: None, Four())
        self.first = first
        self.seeks: list[int] = []

    def bounds(self, partition: Partition) -> tuple[int, int]:
        return self.first, len(self.broker.log)

    def seek(self, partition: Partition, offset: int) -> None:
        assert self.first <= offset <= len(self.broker.log)
        self.seeks.append(offset)
        super().seek(partition, offset)


class Outlet(SimulatedOutlet):
    """Crashes before or after its delivery number ``crash``."""

    def __init__(
        self, broker: Broker, source: SimulatedSource, crash: int | None = None, *, after: bool = False
    ) -> None:
        super().__init__(broker, source, lambda: None)
        self.crash, self.after = crash, after
        self.deliveries = 0

    def deliver(self, delivery: Delivery) -> None:
        now = self.crash == self.deliveries
        if now and not self.after:
            raise Crash
        super().deliver(delivery)
        self.deliveries += 1
        if now:
            raise Crash


class World:
    """A log, a broker and a store, which workers come to and leave."""

    def __init__(
        self,
        log: Sequence[Record] = LOG,
        *,
        lookback: int = FAR,
        rules: Rules = RULES,
        alerts: Alerts = POLICY,
        scorer: type[SumScorer] = SumScorer,
    ) -> None:
        self.broker = Broker(list(log))
        self.store: MemoryStore = MemoryStore()
        self.lookback, self.rules, self.alerts, self.scorer = lookback, rules, alerts, scorer
        self.first = 0
        self.seeks: list[int] = []
        self.rescored = 0

    def work(self, until: int | None = None, crash: int | None = None, *, after: bool = False) -> str:
        """One worker's life, to the end of the log or to a crash; the case in which it found the partition.

        ``until`` hides the rest of the log for as long as it lives.
        """
        log = self.broker.log
        self.broker.log = log[:until]
        source, observer = Topic(self.broker, self.first), Noting()
        outlet = Outlet(self.broker, source, crash, after=after)
        settings = Settings(alerts=self.alerts, delivery=DeliverySettings(lookback_limit=self.lookback))
        pipeline = Pipeline(
            source,
            self.store,
            self.scorer(),
            outlet,
            observer,
            self.rules,
            Model("m", "1"),
            settings,
            now_ms=lambda: 0.0,
        )
        try:
            source.open(pipeline)
            while not (source.finished and pipeline.flight is None and not pipeline.waiting):
                pipeline.turn()
        except Crash:
            assert crash is not None
        finally:
            pipeline.close()
            self.broker.log = log
        self.seeks, self.rescored = source.seeks, observer.scored_windows
        return observer.cases[0]

    @property
    def position(self) -> int:
        return self.store.states[PARTITION].position

    def published(self) -> list[str]:
        return sorted(map(repr, self.broker.published))


def undisturbed(log: Sequence[Record] = LOG) -> list[str]:
    world = World(log)
    assert world.work() == "fresh"
    return world.published()


def ends(published: Sequence[object]) -> list[int]:
    """Offsets at which what was published ends, of scores and alerts; of dead letters their own."""
    found = []
    for record in published:
        if isinstance(record, (Score, Alert)):
            found.append(record.source.last_offset)
        else:
            assert isinstance(record, tuple)
            assert isinstance(record[1], Reject)
            found.append(record[1].offset)
    return found

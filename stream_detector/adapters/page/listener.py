"""What the live page hears of the pipeline: as little work as can be, and nothing that grows.

Called by the pipeline's thread. Facts wait in an inbox of bounded size for the page's own thread; where that is slow,
facts are lost, and counted, and the pipeline goes on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from stream_detector.adapters.memory import Silent
from stream_detector.adapters.page.board import Scored, Seen
from stream_detector.events import Alert, Errors, Float32, Partition, Slice, State, Windows
from stream_detector.ports import Delivery, Firing

log = logging.getLogger(__name__)

MOST = 32 << 20  # bytes that wait
ROWS = 20_000  # events, and as many windows, that are taken from a batch: its last
WORST = 20  # windows of sensors that nobody follows, taken from a batch
RECORD = 2_000  # bytes, about, that a record takes


@dataclass(frozen=True, slots=True)
class Told:
    """What was published."""

    alerts: list[Alert]
    states: dict[str, State]  # by sensor


Fact: TypeAlias = Seen | Scored | Told


class Inbox:
    """Facts that wait, in order; what does not fit is dropped."""

    def __init__(self, most: int = MOST) -> None:
        self.most, self.held, self.dropped = most, 0, 0
        self._facts: list[Fact] = []
        self._lock = threading.Lock()  # held for an assignment or two, by either side

    def put(self, fact: Fact, size: int) -> None:
        """Take a fact of ``size`` bytes, or drop it."""
        with self._lock:
            if self.held + size > self.most:
                self.dropped += 1
            else:
                self._facts.append(fact)
                self.held += size

    def drain(self) -> list[Fact]:
        """Everything that waits."""
        with self._lock:
            facts, self._facts, self.held = self._facts, [], 0
        return facts


@dataclass(slots=True)
class Standing:
    """How things stand: plain numbers, each written by the pipeline's thread alone."""

    events: int = 0  # accepted, since the start
    windows: int = 0
    batches: int = 0
    rejects: int = 0
    sensors: int = 0
    partitions: int = 0
    lag: int | None = None
    newest: int | None = None  # event time of the last batch, epoch ms
    batch: dict[str, float] = field(default_factory=dict)  # seconds of the last batch, by stage


class Listener(Silent):
    """`ports.Observer` for the page."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.standing = Standing()
        self.room = True  # whether any sensor is followed
        self.followed: frozenset[str] = frozenset()
        self._broken = False

    def follow(self, sensors: Iterable[str], room: bool) -> None:
        """What the page's thread wants to hear of from now on."""
        self.followed, self.room = frozenset(sensors), room

    def took(self, stage: str, seconds: float) -> None:
        """See `ports.Observer.took`."""
        self.standing.batch[stage] = seconds

    def read(self, batch: Sequence[Slice]) -> None:
        """See `ports.Observer.read`."""
        with self._unharmed():
            for part in batch:
                events = part.events
                if not len(events):
                    continue
                self.standing.newest = int(events.timestamps[-1])
                rows = self._chosen(events.sensors)
                if len(rows):
                    seen = Seen([events.sensors[row] for row in rows], events.timestamps[rows], events.values[rows])
                    self.inbox.put(seen, len(rows) * (64 + 4 * events.values.shape[1]))

    def received(self, events: int, rejects: Mapping[str, int], rules: Mapping[str, int]) -> None:
        """See `ports.Observer.received`."""
        self.standing.events += events
        self.standing.rejects += sum(rejects.values())

    def scored(self, partition: Partition, windows: Windows, errors: Errors) -> None:
        """See `ports.Observer.scored`."""
        with self._unharmed():
            if not len(windows):
                return
            self.standing.windows += len(windows)
            self.standing.batches += 1
            rows = self._chosen(windows.sensors)
            if not self.room:
                worst = np.argpartition(errors.score, -WORST)[-WORST:] if len(windows) > WORST else np.arange(0)
                rows = np.union1d(rows, worst[errors.score[worst] > 0])
            if len(rows):
                scored = Scored(
                    [windows.sensors[row] for row in rows],
                    windows.timestamps[rows, 1],
                    errors.score[rows],
                    errors.contributions[rows],
                )
                self.inbox.put(scored, len(rows) * (64 + 4 * errors.contributions.shape[1]))

    def delivered(self, delivery: Delivery, latency_ms: Sequence[float] | Float32) -> None:
        """See `ports.Observer.delivered`."""
        with self._unharmed():
            wanted = self.followed
            states = {
                score.sensor_id: score.state
                for score in delivery.scores
                if score.state == "firing" or score.sensor_id in wanted
            }
            if states or delivery.alerts:
                self.inbox.put(Told(list(delivery.alerts), states), RECORD * len(delivery.alerts) + 100 * len(states))

    def gauges(
        self,
        *,
        partitions: Collection[Partition],
        sensors: int,
        pending: int,
        lag: Mapping[Partition, int],
        firing: Iterable[Firing],
    ) -> None:
        """See `ports.Observer.gauges`."""
        standing = self.standing
        standing.partitions, standing.sensors = len(partitions), sensors
        standing.lag = sum(lag.values()) if lag else None

    def _chosen(self, sensors: Sequence[str]) -> NDArray[np.intp]:
        """Rows to take, the last ones."""
        if self.room:
            return np.arange(max(0, len(sensors) - ROWS), len(sensors))
        followed = self.followed
        return np.array([row for row, sensor in enumerate(sensors) if sensor in followed][-ROWS:], np.intp)

    @contextmanager
    def _unharmed(self) -> Iterator[None]:
        """A mistake of the page's must not stop the detection."""
        try:
            yield
        except Exception:
            if not self._broken:
                log.exception("the live page misses something; told once")
            self._broken = True

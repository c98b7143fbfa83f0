"""A broker in memory whose workers can be stopped at any call: `protocol_model.py`'s world around the real pipeline."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.adapters.memory import Silent
from stream_detector.alerts import standing
from stream_detector.errors import Fenced
from stream_detector.events import PARTS, Alert, Errors, Events, Float32, Lasting, Model, Partition, Reject, Slice
from stream_detector.novelty import Learner
from stream_detector.pipeline import Pipeline
from stream_detector.ports import NOTHING, Delivery, Lookback, Ownership, Stored, Update, WindowStore
from stream_detector.sensors import Rules
from stream_detector.settings import Alerts, Settings
from stream_detector.settings import Delivery as DeliverySettings

PARTITION = Partition("events", 0)
Record = tuple[str, int, float | None]  # sensor, timestamp, value; None is an event that cannot be read
Checkpoint = Callable[[], None]


class Killed(BaseException):
    """The process is gone: nothing may catch this."""


class Broker:
    """One partition, a transactional outlet, one consumer group; as in the protocol model."""

    def __init__(self, log: Sequence[Record]) -> None:
        self.log = log
        self.identity = "topic-1"
        self.committed: int | None = None
        self.published: list[Any] = []
        self.generation = 0
        self.transaction: tuple[int, Delivery] | None = None
        self.stable = True  # whether reading the committed offset waits out an open transaction

    def join(self) -> int:
        self.generation += 1
        return self.generation

    def send(self, generation: int, delivery: Delivery) -> None:
        if generation != self.generation:
            raise Fenced("an older generation")
        self.transaction = generation, delivery

    def commit(self, generation: int) -> None:
        if self.transaction is None or self.transaction[0] != generation:
            raise Fenced("the transaction was aborted")
        delivery = self.transaction[1]
        self.published += [*delivery.scores, *delivery.alerts, *delivery.rejects, *delivery.embeddings]
        self.committed, self.transaction = delivery.positions[PARTITION], None


class SimulatedSource:
    def __init__(self, broker: Broker, checkpoint: Checkpoint, rng: random.Random) -> None:
        self.broker, self.checkpoint, self.rng = broker, checkpoint, rng
        self.position: int | None = None
        self.generation = 0

    def open(self, ownership: Ownership) -> None:
        self.generation = self.broker.join()
        ownership.assigned([PARTITION])

    def poll(self, timeout: float) -> list[Slice]:
        self.checkpoint()
        if self.position is None or self.finished:
            return []
        start, self.position = self.position, min(self.position + self.rng.randint(1, 5), len(self.broker.log))
        rows = list(enumerate(self.broker.log))[start : self.position]
        good = [(offset, *record) for offset, record in rows if record[2] is not None]
        rejects = [Reject(offset, "not-json", "?", b"k", b"?") for offset, record in rows if record[2] is None]
        events = Events(
            [sensor for _, sensor, _, _ in good],
            np.array([time for _, _, time, _ in good], np.int64),
            np.array([[value] for _, _, _, value in good], np.float32).reshape(len(good), 1),
            np.array([offset for offset, _, _, _ in good], np.int64),
            np.full(len(good), -1, np.int64),
        )
        raw: list[tuple[bytes | None, bytes | None]] = [(b"k", b"v")] * len(good)
        return [Slice(PARTITION, start, self.position, events, rejects, raw)]

    def seek(self, partition: Partition, offset: int) -> None:
        self.position = offset

    def bounds(self, partition: Partition) -> tuple[int, int]:
        return 0, len(self.broker.log)

    def identity(self, partition: Partition) -> str:
        return self.broker.identity

    def reach(self, partition: Partition, before: int, lookback: Lookback) -> int:
        return max(self.bounds(partition)[0], before - lookback.limit)

    def pause(self, partitions: Collection[Partition]) -> None:
        self.position = None if PARTITION in partitions else self.position

    def lag(self) -> Mapping[Partition, int]:
        return {} if self.position is None else {PARTITION: len(self.broker.log) - self.position}

    @property
    def finished(self) -> bool:
        return self.position == len(self.broker.log)

    def close(self) -> None:
        """Nothing is held."""


class SimulatedOutlet:
    def __init__(self, broker: Broker, source: SimulatedSource, checkpoint: Checkpoint) -> None:
        self.broker, self.source, self.checkpoint = broker, source, checkpoint

    def open(self) -> None:
        """Nothing to connect."""

    def committed(self, partition: Partition) -> int | None:
        self.checkpoint()
        while self.broker.stable and self.broker.transaction is not None:
            if self.source.generation == self.broker.generation:
                self.broker.transaction = None  # an older owner's: it times out and is aborted
            else:
                self.checkpoint()  # we are the older owner, and wait for the newer one's
        return self.broker.committed

    def standing(self, partition: Partition, before: int, limit: int) -> list[Alert]:
        records = [record for record in self.broker.published if isinstance(record, Alert)]
        return standing(records, partition, before, limit)

    def deliver(self, delivery: Delivery) -> None:
        self.checkpoint()
        self.broker.send(self.source.generation, delivery)
        self.checkpoint()
        self.broker.commit(self.source.generation)
        self.checkpoint()

    def close(self) -> None:
        """Nothing is held."""


class StoppableStore:
    """A window store that can be stopped before and after each call."""

    def __init__(self, store: WindowStore, checkpoint: Checkpoint) -> None:
        self.store, self.checkpoint = store, checkpoint

    def load(self, partition: Partition) -> Stored | None:
        self.checkpoint()
        return self.store.load(partition)

    def append(self, partition: Partition, update: Update) -> list[bytes]:
        self.checkpoint()
        tails = self.store.append(partition, update)
        self.checkpoint()
        return tails

    def settle(
        self,
        partition: Partition,
        life: str,
        since: int,
        upto: int,
        alerts: Mapping[str, bytes | None],
        memories: Mapping[str, bytes | None] = NOTHING,
    ) -> None:
        self.checkpoint()
        self.store.settle(partition, life, since, upto, alerts, memories)
        self.checkpoint()

    def discard(self, partition: Partition, life: str) -> None:
        self.store.discard(partition, life)

    def ping(self) -> None:
        self.store.ping()

    def close(self) -> None:
        """The store outlives its workers."""


class SumScorer:
    """A stand-in for the device: error = sum of the window, threshold 10."""

    features: tuple[str, ...] = ("x",)
    length = 3
    device = "none"

    def load(self) -> None:
        """Nothing to load."""

    def warm(self) -> None:
        """Nothing to compile."""

    def embed(self, sensors: Sequence[str], values: Float32) -> Float32:
        codes: Float32 = values.mean(axis=1)
        return codes

    def score(self, sensors: Sequence[str], values: Float32) -> Errors:
        count = len(values)
        error = values.sum(axis=(1, 2))
        threshold = np.full(count, 10, np.float32)
        shares = np.ones((count, 1), np.float32)
        return Errors(error / threshold, error, threshold, shares, np.argmax(values[:, :, 0], axis=1).astype(np.int32))

    def expect(self, sensors: Sequence[str], values: Float32, parts: Sequence[str]) -> Float32:
        return values * 0


class LocalScorer(SumScorer):
    """One that counts only up to a mean of 5.7, as the model does only where it has been."""

    def score(self, sensors: Sequence[str], values: Float32) -> Errors:
        found, outside = super().score(sensors, values), values.mean(axis=1) > 5.7
        score = np.where(outside.any(axis=1), np.float32(0), found.score)
        return replace(found, score=score, error=score * found.threshold, outside=outside)


class ShiftScorer(SumScorer):
    """Two parts, each with threshold 5: where the window lies, which lasts, and how far it goes up or down."""

    def score(self, sensors: Sequence[str], values: Float32) -> Errors:
        lies, jumps = values.mean(axis=(1, 2)), np.abs(values[:, -1, 0] - values[:, 0, 0])
        part = np.where(lies >= jumps, PARTS.index("level"), PARTS.index("change")).astype(np.int8)
        threshold, shares = np.full(len(values), 5, np.float32), np.ones((len(values), 1), np.float32)
        steps = np.full(len(values), 2, np.int32)

        def told(error: Float32, part: NDArray[np.int8]) -> Errors:
            return Errors(error / threshold, error, threshold, shares, steps, part)

        others = told(jumps, np.full_like(part, PARTS.index("change")))
        return replace(told(np.maximum(lies, jumps), part), lasting=Lasting(lies / threshold, others))


RULES = Rules(("x",), length=3, stride=2, means=(0.0,), ttl=1_000, max_gap=200)
SETTINGS = Settings(
    alerts=Alerts(min_windows=2, resolve_windows=2), delivery=DeliverySettings(lookback_limit=1_000_000)
)
LEARNER: Learner | None = None


class Worker:
    """One process with the real pipeline, in a thread that runs only while it is told to."""

    def __init__(self, broker: Broker, store: WindowStore, rng: random.Random, rules: Rules = RULES) -> None:
        self.resumed, self.paused = threading.Lock(), threading.Lock()  # held until the other side lets go on
        self.resumed.acquire()
        self.paused.acquire()
        self.killed = self.done = False
        self.failure: BaseException | None = None
        source = SimulatedSource(broker, self.checkpoint, rng)
        outlet = SimulatedOutlet(broker, source, self.checkpoint)
        stoppable = StoppableStore(store, self.checkpoint)
        self.pipeline = Pipeline(
            source,
            stoppable,
            SumScorer(),
            outlet,
            Silent(),
            rules,
            Model("m", "1"),
            SETTINGS,
            now_ms=lambda: 0.0,
            learner=LEARNER,
        )
        self.source = source
        threading.Thread(target=self._run, daemon=True).start()

    def step(self) -> None:
        """Let it run to its next checkpoint."""
        self.resumed.release()
        self.paused.acquire()

    def kill(self) -> None:
        self.killed = True
        while not self.done:
            self.step()

    def checkpoint(self) -> None:
        self.paused.release()
        self.resumed.acquire()
        if self.killed:
            raise Killed

    def _run(self) -> None:
        self.resumed.acquire()
        try:
            if not self.killed:
                self.source.open(self.pipeline)
                while not (self.source.finished and self.pipeline.flight is None and not self.pipeline.waiting):
                    self.pipeline.turn()
        except (Killed, Fenced):
            pass
        except BaseException as error:
            self.failure = error
        finally:
            self.pipeline.device.shutdown(wait=False)
            self.done = True
            self.paused.release()

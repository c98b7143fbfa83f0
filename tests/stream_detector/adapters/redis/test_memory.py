"""What a sensor takes in a real Redis, by the whole path of append and settle, held against the stated formula."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import pytest
import redis
from pydantic import SecretStr

from stream_detector.adapters.memory import Silent
from stream_detector.adapters.redis.store import SLACK, RedisStore
from stream_detector.events import Alert, Errors, Events, Float32, Model, Partition, Slice
from stream_detector.pipeline import Pipeline
from stream_detector.ports import Delivery, Lookback, Ownership
from stream_detector.sensors import Rules
from stream_detector.settings import Redis, Settings
from tests.servers import RedisServer

HERE = Partition("events", 0)
EACH = 4  # events of a sensor in a batch
KEY = 500  # bytes a sensor for its name, twice, its key, its entry among the headers; a share of buffers and scripts


class Filling:
    """A log in which all sensors take turns, as arrays; and an outlet and a scorer that do nothing with it."""

    device = "none"

    def __init__(self, rules: Rules, sensors: int) -> None:
        self.rules, self.features, self.length = rules, rules.features, rules.length
        self.names = [f"plant-7/line-2/sensor-{number:05}" for number in range(sensors)] * EACH
        self.position = self.turns = 0
        self.reading = False
        self.finished = False

    def open(self, ownership: Ownership | None = None) -> None:
        if ownership is not None:
            ownership.assigned([HERE])

    def poll(self, timeout: float) -> list[Slice]:
        if not self.reading:
            return []
        start, count, self.turns = self.position, len(self.names), self.turns + 1
        self.position += count
        values = np.full((count, len(self.features)), self.turns, np.float32)
        times = self.turns * EACH + np.arange(count) * EACH // count
        events = Events(self.names, times, values, np.arange(start, self.position), np.full(count, -1, np.int64))
        return [Slice(HERE, start, self.position, events, [], [(None, None)] * count)]

    def seek(self, partition: Partition, offset: int) -> None:
        self.reading = True

    def bounds(self, partition: Partition) -> tuple[int, int]:
        return 0, self.position

    def identity(self, partition: Partition) -> str:
        return ""

    def reach(self, partition: Partition, before: int, lookback: Lookback) -> int:
        return before

    def pause(self, partitions: Collection[Partition]) -> None:
        """Nothing fails here."""

    def lag(self) -> Mapping[Partition, int]:
        return {}

    def committed(self, partition: Partition) -> int | None:
        return None

    def standing(self, partition: Partition, before: int, limit: int) -> list[Alert]:
        return []

    def deliver(self, delivery: Delivery) -> None:
        """Nowhere."""

    def load(self) -> None:
        """Nothing to load."""

    def warm(self) -> None:
        """Nothing to compile."""

    def embed(self, sensors: Sequence[str], values: Float32) -> Float32:
        codes: Float32 = values.mean(axis=1)
        return codes

    def score(self, sensors: Sequence[str], values: Float32) -> Errors:
        some, shares = np.zeros(len(values), np.float32), np.zeros((len(values), len(self.features)), np.float32)
        return Errors(some, some, some, shares, np.zeros(len(values), np.int32))

    def expect(self, sensors: Sequence[str], values: Float32, parts: Sequence[str]) -> Float32:
        return values

    def close(self) -> None:
        """Nothing is held."""


def bytes_per_sensor(server: RedisServer, length: int, width: int, sensors: int) -> Iterator[tuple[int, float]]:
    """What a sensor takes after each batch, for three cycles of trimming: (cycle, bytes)."""
    rules = Rules(tuple(f"f{n}" for n in range(width)), length, length, (0.0,) * width)
    store = RedisStore(Redis(url=SecretStr(server.url)), "memory")
    world = Filling(rules, sensors)
    pipeline = Pipeline(world, store, world, world, Silent(), rules, Model("m", "1"), Settings(), now_ms=lambda: 0.0)
    cycle = SLACK * (length // EACH + 3)  # batches until all sensors' rows have been trimmed once
    with redis.Redis.from_url(server.url) as client:

        def used() -> int:
            """Of all keys, and nothing that the server holds for itself: its buffers are as large as a batch."""
            with client.pipeline(transaction=False) as asked:
                for key in client.scan_iter(count=10_000):
                    asked.memory_usage(key, samples=0)  # all of them, for a key that holds many
                return sum(asked.execute())

        world.open(pipeline)
        for turn in range(3 * cycle):
            pipeline.turn()
            yield turn // cycle, used() / sensors
    pipeline.close()


def stated(length: int, width: int) -> int:
    """The bound of the documents: rows of two batches are in flight at the moment of an append."""
    return SLACK * (length - 1 + 2 * EACH) * (16 + 4 * width + (width + 7) // 8)


@pytest.mark.servers
@pytest.mark.parametrize(("length", "width"), [(64, 8), (16, 8), (64, 1)])
def test_a_sensor_takes_what_the_formula_says(length: int, width: int) -> None:
    with RedisServer() as server:  # of its own: what others left is freed when the server thinks fit
        found = list(bytes_per_sensor(server, length, width, 1_000))
    begin, *steady = ([size for cycle, size in found if cycle == number] for number in range(3))
    rows, rest = stated(length, width), 32 + 4 * width + KEY
    # A string that grows reserves as much again as it holds. Trimmed ones are made anew, at a size from which
    # doubling ends where the next trim comes; those that grow from nothing may reserve more.
    assert max(begin) <= 2.2 * rows + rest
    for later in steady:
        assert max(later) <= 1.3 * rows + rest
        assert sum(later) / len(later) <= 1.05 * rows + rest
    assert max(steady[1]) <= 1.1 * max(steady[0])  # it does not go on growing
    assert min(steady[1]) >= (length - 1) * (16 + 4 * width)  # what the next window needs is there

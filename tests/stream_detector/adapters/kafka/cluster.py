"""A corner of the shared broker for one test: topics and a group of its own, and what tests do with them."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from stream_detector.adapters.kafka import KafkaOutlet, KafkaSource
from stream_detector.adapters.kafka.alerts import KafkaAlerts
from stream_detector.codec import Decoder
from stream_detector.events import Model, Origin, Partition, Reject, Score, Slice
from stream_detector.ports import Delivery
from stream_detector.settings import Settings
from tests.servers import KafkaBroker

PATIENCE = 90.0  # seconds; rebalances take several rounds, and machines may be busy


class Owner:
    """Remembers what it was told; `on_revoked` is called before partitions go."""

    def __init__(self) -> None:
        self.told: list[tuple[str, list[Partition]]] = []
        self.owned: set[Partition] = set()
        self.on_revoked: Callable[[Sequence[Partition]], None] = lambda partitions: None

    def assigned(self, partitions: Sequence[Partition]) -> None:
        self.told.append(("assigned", list(partitions)))
        self.owned.update(partitions)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        self.told.append(("revoked", list(partitions)))
        self.on_revoked(partitions)
        self.owned.difference_update(partitions)

    def lost(self, partitions: Sequence[Partition]) -> None:
        self.told.append(("lost", list(partitions)))
        self.owned.difference_update(partitions)


class Cluster:
    def __init__(self, broker: KafkaBroker, partitions: int = 1, dead_letters: dict[str, str] | None = None) -> None:
        self.broker = broker
        run = uuid.uuid4().hex[:10]
        kinds = ("events", "scores", "alerts", "embeddings", "dead_letters")
        self.topics = {kind: f"{kind.replace('_', '-')}-{run}" for kind in kinds}
        broker.create_topics({self.topics[kind]: partitions for kind in kinds[:4]})
        broker.create_topics({self.topics["dead_letters"]: 1}, dead_letters)
        self.group = f"group-{run}"
        self.partitions = [Partition(self.topics["events"], number) for number in range(partitions)]
        self._opened: list[Any] = []

    def settings(self, mode: str = "exactly_once", **kafka: Any) -> Settings:
        given = {
            "bootstrap_servers": self.broker.bootstrap,
            "group_id": self.group,
            "heartbeat_interval_ms": 300,  # members hear of a rebalance by it
            **kafka,
        }
        return Settings.model_validate({"kafka": given, "topics": self.topics, "delivery": {"mode": mode}})

    def source(self, settings: Settings) -> KafkaSource:
        source = KafkaSource(settings, Decoder(["a"], settings.columns, settings.events))
        self._opened.append(source)
        return source

    def joined(self, settings: Settings, owner: Owner | None = None) -> KafkaSource:
        """A source that owns all partitions, none of them sought yet."""
        owner = owner or Owner()
        source = self.source(settings)
        source.open(owner)
        until(lambda: source.poll(0.2) == [] and owner.owned == set(self.partitions))
        return source

    def outlet(self, settings: Settings, source: KafkaSource) -> KafkaOutlet:
        outlet = KafkaOutlet(settings, source)
        self._opened.append(outlet)
        outlet.open()
        return outlet

    def producer(self, **options: Any) -> Any:
        producer = KafkaProducer(bootstrap_servers=self.broker.bootstrap, **options)
        self._opened.append(producer)
        return producer

    def produce(self, values: Sequence[float], partition: int = 0) -> None:
        producer = self.producer()
        for number, value in enumerate(values):
            producer.send(self.topics["events"], event(number, value), partition=partition)
        producer.flush()

    def published(self, kind: str, isolation: str = "read_committed") -> list[Any]:
        """Every record that such a reader sees now."""
        consumer = KafkaConsumer(
            bootstrap_servers=self.broker.bootstrap, isolation_level=isolation, auto_offset_reset="earliest"
        )
        try:
            numbers = consumer.partitions_for_topic(self.topics[kind])
            tps = [TopicPartition(self.topics[kind], number) for number in numbers]
            consumer.assign(tps)
            consumer.seek_to_beginning(*tps)
            ends = consumer.end_offsets(tps)
            records = []
            while any(consumer.position(tp) < ends[tp] for tp in tps):
                for some in consumer.poll(500).values():
                    records += some
            return records
        finally:
            consumer.close()

    def close(self) -> None:
        for opened in reversed(self._opened):
            opened.close()


def event(number: int, value: float, **more: object) -> bytes:
    return json.dumps(
        {"sensor_id": "pump", "timestamp": 1_700_000_000_000 + number, "values": {"a": value}, **more}
    ).encode()


def score(number: int) -> Score:
    return Score(
        id=f"score-{number}",
        sensor_id="pump",
        window_start="2026-01-01T00:00:00Z",
        window_end="2026-01-01T00:00:01Z",
        events=2,
        score=0.5,
        threshold=1.0,
        error=0.5,
        state="normal",
        contributions={"a": 1.0},
        worst_step=0,
        confidence=1.0,
        imputed=[],
        model=Model("m", "1"),
        source=Origin("events", 0, 0, 1),
    )


def delivery(
    positions: dict[Partition, int],
    scores: Sequence[int] = (),
    rejects: Sequence[tuple[Partition, Reject]] = (),
) -> Delivery:
    return Delivery([score(number) for number in scores], [], list(rejects), positions)


@contextmanager
def polled(source: KafkaSource | KafkaAlerts) -> Iterator[None]:
    """Meanwhile another thread polls ``source``, as another worker would."""
    over = threading.Event()

    def poll() -> None:
        while not over.is_set():
            source.poll(0.1)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"


def read(source: KafkaSource, count: int) -> list[Slice]:
    """Slices until they hold this many events and rejects together."""
    slices: list[Slice] = []
    until(
        lambda: (
            slices.extend(source.poll(0.2))  # type: ignore[func-returns-value] # extends, then counts
            or sum(len(one.events) + len(one.rejects) for one in slices) >= count
        )
    )
    return slices

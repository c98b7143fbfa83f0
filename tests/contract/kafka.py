"""Kafka's side of the contract suites: topics of one partition on the real broker."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError

from stream_detector.adapters.kafka import KafkaOutlet, KafkaSource
from stream_detector.codec import Decoder
from stream_detector.errors import Unavailable
from stream_detector.events import Partition, Slice
from stream_detector.ports import Delivery, Lookback, Ownership
from stream_detector.settings import Publish
from tests.contract.conftest import FEATURES, Read
from tests.stream_detector.adapters.kafka.cluster import Cluster


class Sought:
    """A source whose partitions are sought to the start of the log when they are assigned.

    The pipeline always seeks, and until then a topic is silent; the suite reads without.
    """

    def __init__(self, source: KafkaSource) -> None:
        self._source = source
        self._new: list[Partition] = []

    def open(self, ownership: Ownership) -> None:
        self._ownership = ownership
        self._source.open(self)

    def assigned(self, partitions: Sequence[Partition]) -> None:
        self._new.extend(partitions)
        self._ownership.assigned(partitions)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        self._ownership.revoked(partitions)

    def lost(self, partitions: Sequence[Partition]) -> None:
        self._ownership.lost(partitions)

    def poll(self, timeout: float) -> list[Slice]:
        slices = self._source.poll(timeout)
        while self._new:
            partition = self._new.pop()
            self.seek(partition, self.bounds(partition)[0])
        return slices

    def seek(self, partition: Partition, offset: int) -> None:
        self._source.seek(partition, offset)

    def bounds(self, partition: Partition) -> tuple[int, int]:
        return self._source.bounds(partition)

    def identity(self, partition: Partition) -> str:
        return self._source.identity(partition)

    def reach(self, partition: Partition, before: int, lookback: Lookback) -> int:
        return self._source.reach(partition, before, lookback)

    def pause(self, partitions: Collection[Partition]) -> None:
        self._source.pause(partitions)

    def lag(self) -> Mapping[Partition, int]:
        return self._source.lag()

    @property
    def finished(self) -> bool:
        return self._source.finished

    def close(self) -> None:
        self._source.close()


class KafkaSourceUnderTest:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        [self.partition] = cluster.partitions

    def write(self, records: Sequence[tuple[bytes | None, bytes]]) -> None:
        producer = self._cluster.producer()
        for key, value in records:
            producer.send(self.partition.topic, value, key)
        producer.flush()

    def source(self, batch: int = 100) -> Sought:
        settings = self._cluster.settings()
        poll = settings.poll.model_copy(update={"max_records": batch})
        settings = settings.model_copy(update={"poll": poll})
        return Sought(KafkaSource(settings, Decoder(FEATURES, settings.columns, settings.events)))


class KafkaOutletUnderTest:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        [self.partition] = cluster.partitions
        settings = cluster.settings(group_instance_id="worker-0")  # fresh outlets end what older ones left open
        self._settings = settings.model_copy(update={"publish": Publish(embeddings=True)})
        self._source = cluster.joined(self._settings)

    def outlet(self) -> KafkaOutlet:
        return KafkaOutlet(self._settings, self._source)

    def read(self) -> Read:
        published = {kind: self._cluster.published(kind) for kind in ("scores", "alerts", "embeddings", "dead_letters")}
        consumer = KafkaConsumer(  # read_uncommitted: it does not wait for open transactions
            bootstrap_servers=self._cluster.broker.bootstrap, group_id=self._cluster.group, enable_auto_commit=False
        )
        committed = consumer.committed(TopicPartition(*self.partition), timeout_ms=10_000)
        consumer.close()
        return Read(
            [json.loads(record.value) for record in published["scores"]],
            [json.loads(record.value) for record in published["alerts"]],
            [dict(record.headers)["errors.exception"].decode() for record in published["dead_letters"]],
            committed,
            [json.loads(record.value) for record in published["embeddings"]],
        )

    def crash_midway(self, delivery: Delivery) -> None:
        outlet = self.outlet()
        outlet.open()

        def fail(*_: object) -> Any:
            raise KafkaTimeoutError("died before the commit point")

        outlet._producer.commit_transaction = outlet._producer.abort_transaction = fail
        with pytest.raises(Unavailable):
            outlet.deliver(delivery)
        outlet.close()

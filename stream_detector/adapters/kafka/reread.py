"""Reading again what lies in a log, without a group: for a state that was lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
from kafka import KafkaConsumer
from kafka.structs import TopicPartition

from stream_detector.adapters.kafka.client import connect, reader_options
from stream_detector.adapters.kafka.failures import translated
from stream_detector.codec import Decoder, Raw, decode_alert
from stream_detector.errors import DataError, Unavailable
from stream_detector.events import Alert, Events, Partition, joined
from stream_detector.ports import Lookback
from stream_detector.settings import Settings

PATIENCE = 30.0  # seconds for an answer, or without any progress
CHUNK = 20_000  # records that are decoded at once
FIRST_STEP = 4_096  # offsets; each further step back is as long as all before it together


def read_topic(settings: Settings, topic: str, patience: float, since_ms: int | None = None) -> Iterator[Any]:
    """Every committed record of a topic up to its present end, as kafka-python gives them.

    With ``since_ms`` those that the broker has had since then, by its own clock, epoch ms.

    The present end lies beyond transactions that are still open: what was committed behind them is read as soon as
    they have ended, for which ``patience`` seconds are given. Raises `Unavailable` if one does not end in them.
    """
    doing = f"reading {topic}"
    with reader(settings, doing, isolation_level="read_uncommitted") as consumer:
        tps = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        starts = consumer.beginning_offsets(tps, timeout_ms=PATIENCE * 1_000) if tps else {}
        ends = consumer.end_offsets(tps, timeout_ms=PATIENCE * 1_000) if tps else {}
        if tps and since_ms is not None:
            found = consumer.offsets_for_times(dict.fromkeys(tps, max(0, since_ms)), timeout_ms=PATIENCE * 1_000)
            starts = {tp: ends[tp] if found.get(tp) is None else int(found[tp].offset) for tp in tps}
    with reader(settings, doing) as consumer:
        for tp in tps:
            yield from read_part(consumer, tp, starts[tp], ends[tp], max(patience, PATIENCE))


def read_alerts(settings: Settings, topic: str, id_: str, since_ms: int | None = None) -> list[Alert]:
    """The records of one alert, as published. Raises `DataError` for a topic that is not there."""
    with reader(settings, f"looking for {topic}") as consumer:
        if not consumer.partitions_for_topic(topic):
            raise DataError(f"topic {topic!r} does not exist, or may not be described; see topics.alerts")
    wanted = id_.encode()
    records = read_topic(settings, topic, PATIENCE, since_ms)
    alerts = [decode_alert(record.value) for record in records if wanted in (record.value or b"")]
    return [alert for alert in alerts if alert is not None and alert.id == id_]


def read_offsets(
    settings: Settings, decoder: Decoder, partition: Partition, start: int, end: int, sensor: str
) -> tuple[int, Events]:
    """The first offset that still exists, and a sensor's events from ``start`` up to, not including, ``end``.

    Raises `DataError` if the partition does not exist, or no longer reaches there.
    """
    tp = TopicPartition(*partition)
    with reader(settings, f"reading {partition} again") as consumer:
        if partition.number not in (consumer.partitions_for_topic(partition.topic) or ()):
            raise DataError(f"{partition} does not exist, or may not be described: the alert's events cannot be read")
        first = int(consumer.beginning_offsets([tp], timeout_ms=PATIENCE * 1_000)[tp])
        last = int(consumer.end_offsets([tp], timeout_ms=PATIENCE * 1_000)[tp])
        if last < end:
            raise DataError(f"{partition} ends at offset {last}, before the alert's events: another life of the topic")
        parts = [_none(decoder)]
        records = read_part(consumer, tp, max(start, first), end)
        while chunk := list(islice(records, CHUNK)):
            events = decoder.decode([Raw(r.offset, r.timestamp, r.key, r.value) for r in chunk]).events
            parts.append(events.take(np.array([name == sensor for name in events.sensors], bool)))
    return first, joined(parts)


def _none(decoder: Decoder) -> Events:
    return decoder.decode([]).events


def reach_back(settings: Settings, decoder: Decoder, partition: Partition, before: int, lookback: Lookback) -> int:
    """The offset to read from so that each sensor that is seen has enough events before ``before``.

    Goes back in ever longer steps until a step brought no new sensor and all have enough, or a bound is reached.
    """
    tp, counts = TopicPartition(*partition), Counter[str]()
    with reader(settings, f"reading back in {partition}") as consumer:
        first = int(consumer.beginning_offsets([tp], timeout_ms=PATIENCE * 1_000)[tp])
        floor, low, newest = max(first, before - lookback.limit), before, None
        while low > floor:
            high, low = low, max(floor, low - max(FIRST_STEP, before - low))
            records = list(read_part(consumer, tp, low, high))
            seen = Counter(decoder.decode([Raw(r.offset, r.timestamp, r.key, r.value) for r in records]).events.sensors)
            settled = bool(counts) and seen.keys() <= counts.keys()
            counts += seen
            if newest is None and records:
                newest = max(record.timestamp for record in records)
            recent = [r.offset for r in records if newest is None or r.timestamp >= newest - lookback.within]
            if len(recent) < len(records):  # what is older is out of bounds
                return min(recent, default=high)
            if settled and min(counts.values()) >= lookback.events:
                return low
    return low


@contextmanager
def reader(settings: Settings, doing: str, **other: Any) -> Iterator[Any]:
    """A consumer that is no member of a group, until the block ends; its exceptions are translated."""
    consumer, _ = connect(KafkaConsumer, reader_options(settings) | other)
    try:
        with translated(doing):
            yield consumer
    finally:
        consumer.close(autocommit=False, timeout_ms=1_000)


def read_part(consumer: Any, tp: TopicPartition, start: int, end: int, patience: float = PATIENCE) -> Iterator[Any]:
    """Records of one partition from ``start`` up to, not including, ``end``."""
    consumer.assign([tp])
    consumer.seek(tp, start)
    position, deadline = start, time.monotonic() + patience
    while position < end:
        # Short: aborted transactions and markers move the position and bring no record, which a poll would wait for.
        fetched = consumer.poll(timeout_ms=200).get(tp, [])
        reached = consumer.position(tp, timeout_ms=PATIENCE * 1_000)
        if reached > position:
            deadline = time.monotonic() + patience
        elif time.monotonic() > deadline:
            raise Unavailable(f"Kafka: reading {tp.topic}-{tp.partition}: nothing came for {patience:.0f} s")
        yield from (record for record in fetched if record.offset < end)
        position = reached

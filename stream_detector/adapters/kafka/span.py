"""A span of a topic, read once from end to end and without a group: training data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from kafka import KafkaConsumer
from kafka.structs import TopicPartition

from stream_detector.adapters.kafka.client import connect, reader_options
from stream_detector.adapters.kafka.failures import translated
from stream_detector.codec import Decoder, Raw
from stream_detector.errors import DataError, Unavailable
from stream_detector.events import Partition, Slice
from stream_detector.settings import Columns, Settings
from stream_detector.timestamps import parse

FORM = "kafka://host:port/topic?from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00Z"
SERVER = re.compile(r"([^:\[\]]+|\[[0-9a-fA-F:]+\])(:\d+)?")
PATIENCE = 30.0  # seconds for an answer, or without any progress


class Span(NamedTuple):
    """Which part of which topic, by the records' own timestamps at the broker."""

    servers: str
    topic: str
    start_ms: int | None  # None: from the first record that there is
    end_ms: int | None  # None: up to what is there when reading begins


def parse_topic_url(url: str) -> Span:
    """Take a topic's URL apart. Raises `DataError` with the form it should have."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise DataError(f"{url}: not a topic; write {FORM}") from None
    topic = unquote(parts.path.strip("/"))
    servers = parts.netloc.rpartition("@")[2].split(",")
    if parts.scheme != "kafka" or not all(map(SERVER.fullmatch, servers)) or "/" in topic or not topic:
        raise DataError(f"{url}: not a topic; write {FORM}")
    if "@" in parts.netloc:
        raise DataError("kafka://…: no user or password in the URL; set kafka.sasl_plain_username and …_password")
    query = parse_qs(parts.query, keep_blank_values=True)
    for key, values in query.items():
        if key not in ("from", "to") or len(values) > 1:
            raise DataError(f"{url}: {key!r} is not one of from and to, given once; write {FORM}")
    start, end = (_moment(url, query, key) for key in ("from", "to"))
    if start is not None and end is not None and start >= end:
        raise DataError(f"{url}: from must be before to")
    return Span(parts.netloc, topic, start, end)


def read_span(settings: Settings, span: Span, decoder: Decoder) -> Iterator[Slice]:
    """Every event of the span, in slices. Raises `DataError` if there are none, `Unavailable` or `Refused`."""
    for partition, start, end, records in _read(settings, span):
        decoded = decoder.decode([Raw(r.offset, r.timestamp, r.key, r.value) for r in records])
        yield Slice(partition, start, end, decoded.events, decoded.rejects, decoded.raw)


def discover_topic_features(settings: Settings, span: Span, columns: Columns, messages: int = 1_000) -> list[str]:
    """Names of the numeric fields in the first ``messages`` of the span, in the order of their appearance."""
    found: dict[str, None] = {}
    seen = 0
    for _, _, _, records in _read(settings, span):
        for record in records[: messages - seen]:
            found.update(dict.fromkeys(_numeric(record.value, columns)))
        seen += len(records)
        if seen >= messages:
            break
    if not found:
        raise DataError(f"{span.topic}: no numeric fields in its first {seen} messages; see the [columns] settings")
    return list(found)


def _moment(url: str, query: Mapping[str, list[str]], key: str) -> int | None:
    if key not in query:
        return None
    try:
        return parse(query[key][0].replace(" ", "+"), UTC)  # a bare + in a query reads as a blank
    except ValueError as error:
        raise DataError(f"{url}: {key}: {error}; write {FORM}") from None


def _read(settings: Settings, span: Span) -> Iterator[tuple[Partition, int, int, list[Any]]]:
    options = reader_options(settings) | {"bootstrap_servers": span.servers}
    consumer, _ = connect(KafkaConsumer, options)
    try:
        with translated(f"reading {span.topic}"):
            numbers = consumer.partitions_for_topic(span.topic)
            if not numbers:
                raise DataError(f"topic {span.topic!r} does not exist at {span.servers}, or may not be described")
            positions, ends = _bounds(consumer, span, [TopicPartition(span.topic, number) for number in numbers])
            if not positions:
                raise DataError(f"{span.topic}: no records in that span")
            consumer.assign(list(positions))
            for tp, offset in positions.items():
                consumer.seek(tp, offset)
        while positions:
            with translated(f"reading {span.topic}"):
                fetched = consumer.poll(timeout_ms=PATIENCE * 1_000)
                reached = {tp: consumer.position(tp, timeout_ms=PATIENCE * 1_000) for tp in positions}
            if reached == positions:
                raise Unavailable(f"Kafka: reading {span.topic}: nothing came for {PATIENCE:.0f} s")
            for tp in list(positions):
                start, end = positions[tp], min(reached[tp], ends[tp])
                records = [record for record in fetched.get(tp, []) if record.offset < end]
                if end > start:
                    yield Partition(*tp), start, end, records
                positions[tp] = reached[tp]
                if end >= ends[tp]:
                    del positions[tp]
                    consumer.pause(tp)
    finally:
        consumer.close(autocommit=False, timeout_ms=1_000)


def _bounds(
    consumer: Any, span: Span, tps: list[TopicPartition]
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """Where to start and to end in each partition, those without any records of the span left out."""
    starts = consumer.beginning_offsets(tps, timeout_ms=PATIENCE * 1_000)
    ends = consumer.end_offsets(tps, timeout_ms=PATIENCE * 1_000)
    if span.start_ms is not None:
        starts = {tp: _or(ends[tp], found) for tp, found in _at(consumer, tps, span.start_ms).items()}
    if span.end_ms is not None:
        ends = {tp: _or(ends[tp], found) for tp, found in _at(consumer, tps, span.end_ms).items()}
    held = [tp for tp in tps if starts[tp] < ends[tp]]
    return {tp: starts[tp] for tp in held}, {tp: ends[tp] for tp in held}


def _at(consumer: Any, tps: list[TopicPartition], moment: int) -> Mapping[TopicPartition, Any]:
    found = consumer.offsets_for_times(dict.fromkeys(tps, max(0, moment)), timeout_ms=PATIENCE * 1_000)
    return {tp: found.get(tp) for tp in tps}


def _or(default: int, found: Any) -> int:
    return default if found is None or found.offset < 0 else int(found.offset)


def _numeric(value: bytes | None, columns: Columns) -> list[str]:
    try:
        body = json.loads(value or b"")
    except (ValueError, RecursionError):
        return []
    if not isinstance(body, dict):
        return []
    inner = body.get(columns.values)
    fields = inner if isinstance(inner, dict) else body
    left_out = {columns.sensor_id, columns.timestamp, columns.label, *columns.ignored}
    return [
        name
        for name, number in fields.items()
        if name not in left_out and isinstance(number, (int, float)) and not isinstance(number, bool)
    ]

"""Bytes to events and back: the JSON that comes in, the JSON and the record headers that go out. No I/O.

Decoding is the only Python that runs once per event in the service. Each message is tried against typed
decoders that accept exactly the expected fields; whatever they refuse goes through a slow path that decides
alike and knows the reason. What can be checked on arrays is checked on arrays, once a batch, for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, tzinfo
from hashlib import blake2b
from itertools import chain
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import quote
from zoneinfo import ZoneInfo

import msgspec
import numpy as np

from stream_detector.errors import SettingsError
from stream_detector.events import Alert, Embedding, Events, Float64, Partition, Reject, Score
from stream_detector.settings import Columns, EventRules
from stream_detector.timestamps import parse
from stream_detector.timestamps import rfc3339 as rfc3339  # others take it from here
from stream_detector.timestamps import rfc3339_all as rfc3339_all

REASONS: Final = {
    "tombstone": "a key without a value",
    "empty": "a value of no bytes",
    "too-long": "more bytes than `events.max_bytes`",
    "bad-encoding": "not UTF-8",
    "not-json": "also NaN and Infinity, which JSON does not have, and nesting too deep to read",
    "not-an-object": "JSON, but no object",
    "bad-row": "CSV: another number of cells than the header has",
    "missing-sensor-id": "neither a field nor a key names the sensor",
    "bad-sensor-id": "not a text or an integer, empty, or longer than `events.max_sensor_id`",
    "missing-timestamp": "no field names the time",
    "bad-timestamp": "the time cannot be read",
    "bad-value": "not a number",
    "unknown-feature": 'only if `events.unknown_features = "reject"`',
    "future-timestamp": "more than `events.max_future` beyond the record's own timestamp",
    "non-finite": "infinite, beyond what a float32 holds, or an integer of thousands of digits, wherever it stands",
    "no-values": "every feature is missing",
    "missing-feature": 'only if `events.missing = "reject"`',
    "late": "older than its sensor's newest event by more than `window.grace`",
    "unknown-sensor": 'only if `events.unknown_sensors = "reject"`',
    "too-many-sensors": "its partition has `window.max_sensors` already",
    "unscorable": "the device gives no score for the window that the event completes",
    "unreadable": "the decoder itself failed: a bug, please report it with the message",
}
"""Why an event cannot be used; where several hold, the first of this order is given."""

Shape: TypeAlias = tuple[Callable[[bytes], Any], Callable[[Any], Sequence[float | None]]]
"""A typed decoder, and how to get the values out of what it returns."""


class Raw(NamedTuple):
    """One record of a log as it was read."""

    offset: int
    arrival: int  # the broker's record timestamp, epoch ms; -1 where there is none
    key: bytes | None
    value: bytes | None


class Decoded(NamedTuple):
    """What a batch held: each record is in one of ``events`` and ``rejects``, both in offset order."""

    events: Events
    rejects: list[Reject]
    raw: list[tuple[bytes | None, bytes | None]]  # (key, value) of each event


class Bad(Exception):
    """This event is a reject; the arguments are reason and message."""


class Rows:
    """The events of one batch while they are collected, and its rejects."""

    def __init__(self) -> None:
        self.sensors: list[str] = []
        self.stamps: list[int] = []
        self.values: list[Sequence[float | None]] = []
        self.records: list[Raw] = []
        self.rejects: list[Reject] = []

    def add(self, record: Raw, sensor: str, stamp: int, values: Sequence[float | None]) -> None:
        self.records.append(record)
        self.sensors.append(sensor)
        self.stamps.append(stamp)
        self.values.append(values)

    def reject(self, record: Raw, why: Bad) -> None:
        reason, message = why.args
        self.rejects.append(Reject(record.offset, reason, message, record.key, record.value))


class Decoder:
    """Turns records into events with a fixed list of features. Pure; reuse it, building it compiles decoders.

    Raises `SettingsError` if a feature is named twice or like the sensor id or timestamp column.
    """

    def __init__(self, features: Sequence[str], columns: Columns, rules: EventRules) -> None:
        self.features = tuple(features)
        self.columns = columns
        self.rules = rules
        fixed = {columns.sensor_id, columns.timestamp}
        if len({*self.features, *fixed}) < len(self.features) + 2:
            raise SettingsError("features, sensor id and timestamp need names that differ; see [columns]")
        self.named = {name: position for position, name in enumerate(self.features)}
        self.ignored = {*columns.ignored, *filter(None, [columns.label])} - {*self.features, *fixed}
        self.zone: tzinfo = UTC if columns.timezone == "UTC" else ZoneInfo(columns.timezone)
        self.shapes = _shapes(self)
        self._loose = msgspec.json.Decoder()
        self._huge = msgspec.json.Decoder(float_hook=float)  # reads 1e999, as infinite

    def decode(self, records: Sequence[Raw], stamps: Sequence[int] | None = None) -> Decoded:
        """Decode JSON messages, nested and flat mixed at will. Never raises on what a message holds.

        ``stamps`` (n), epoch ms, stand in for timestamps that messages lack; without it that is a reject.
        """
        rows = Rows()
        for number, record in enumerate(records):
            try:
                if not self._quick(rows, record):
                    self._slow(rows, record, None if stamps is None else stamps[number])
            except Exception as error:  # a mistake of ours; one message must not stop all others for ever
                rows.reject(record, Bad("unreadable", f"{type(error).__name__}: {error}"))
        return self.finish(rows)

    def decode_objects(
        self,
        objects: Sequence[tuple[Raw, Mapping[str, object]]],
        *,
        sensor: str | None = None,
        stamps: Sequence[int] | None = None,
    ) -> Decoded:
        """The same for rows of Parquet, which are objects already. ``sensor`` stands in for a missing id."""
        rows = Rows()
        for number, (record, body) in enumerate(objects):
            self._take(rows, record, body, sensor, None if stamps is None else stamps[number])
        return self.finish(rows)

    def stamp(self, given: object) -> int:
        """Epoch ms of a timestamp as `timestamps.parse` reads it. Raises `Bad`."""
        try:
            return parse(given, self.zone)
        except ValueError as error:
            raise Bad("bad-timestamp", str(error)) from None

    def sensor(self, given: object, key: bytes | None) -> str:
        """The id from the body, else from the record's key; an integer becomes its text. Raises `Bad`."""
        if given is None:
            if key is None:
                raise Bad("missing-sensor-id", f"neither a field {self.columns.sensor_id!r} nor a record key")
            try:
                given = key.decode()
            except UnicodeDecodeError:
                raise Bad("bad-sensor-id", "the record key is not UTF-8") from None
        if type(given) is int:
            try:
                given = str(given)
            except ValueError:  # Python refuses to write integers of thousands of digits
                raise Bad("bad-sensor-id", "an integer of thousands of digits") from None
        if type(given) is not str:
            raise Bad("bad-sensor-id", f"{_shown(given)} is not a text or an integer")
        if not 0 < len(given) <= self.rules.max_sensor_id:
            raise Bad("bad-sensor-id", f"{len(given)} characters, not 1 to {self.rules.max_sensor_id}")
        return given

    def _quick(self, rows: Rows, record: Raw) -> bool:
        """Accept a message that has exactly the expected fields; False if there is more to think about."""
        value = record.value
        if value is None or len(value) > self.rules.max_bytes:
            return False
        for place, (decode, pick) in enumerate(self.shapes):
            try:
                message = decode(value)
            except (ValueError, RecursionError):
                continue
            sensor = message.sensor
            try:
                if type(sensor) is not str or not 0 < len(sensor) <= self.rules.max_sensor_id:
                    sensor = self.sensor(sensor, record.key)
                stamp = parse(message.timestamp, self.zone)
            except (ValueError, Bad):
                return False
            rows.add(record, sensor, stamp, pick(message))
            if place:  # the next message most likely has this shape too
                self.shapes = self.shapes[::-1]
            return True
        return False

    def _slow(self, rows: Rows, record: Raw, stamp: int | None) -> None:
        try:
            body = self._parse(record.value)
        except Bad as why:
            rows.reject(record, why)
        else:
            self._take(rows, record, body, None, stamp)

    def _parse(self, value: bytes | None) -> Mapping[str, object]:
        if value is None:
            raise Bad("tombstone", "a record without a value")
        if not value:
            raise Bad("empty", "a value of no bytes")
        if len(value) > self.rules.max_bytes:
            raise Bad("too-long", f"{len(value)} bytes, more than events.max_bytes = {self.rules.max_bytes}")
        try:
            value.decode()
        except UnicodeDecodeError as error:
            raise Bad("bad-encoding", f"not UTF-8 at byte {error.start}") from None
        try:
            body: object
            try:
                body = self._loose.decode(value)
            except msgspec.ValidationError:  # a number out of range, in JSON that is else well
                body = self._huge.decode(value)
        except msgspec.ValidationError:
            raise Bad("non-finite", "an integer of thousands of digits") from None
        except RecursionError:
            raise Bad("not-json", "nested too deep") from None
        except ValueError as error:
            raise Bad("not-json", str(error)) from None
        if type(body) is not dict:
            raise Bad("not-an-object", f"{_shown(body)} where an object was expected")
        return body

    def _take(self, rows: Rows, record: Raw, body: Mapping[str, object], sensor: str | None, stamp: int | None) -> None:
        """Accept or reject one message by its fields."""
        columns = self.columns
        try:
            given = body.get(columns.sensor_id)
            name = self.sensor(sensor if given is None else given, record.key)
            time = body.get(columns.timestamp)
            if time is not None:
                stamp = self.stamp(time)
            if stamp is None:
                raise Bad("missing-timestamp", f"no field {columns.timestamp!r}")
            values = self._values(body)
        except Bad as why:
            rows.reject(record, why)
            return
        rows.add(record, name, stamp, values)

    def _values(self, body: Mapping[str, object]) -> list[float | None]:
        columns = self.columns
        inner = body.get(columns.values)
        fields: Mapping[str, object]
        if isinstance(inner, dict) and columns.values not in self.ignored:
            fields, skipped = inner, self.ignored
        else:
            fields, skipped = body, self.ignored | {columns.sensor_id, columns.timestamp}
            if columns.values in body and columns.values not in self.named and columns.values not in skipped:
                if inner is not None:
                    raise Bad("bad-value", f"{columns.values!r} is {_shown(inner)}, not an object")
                skipped = skipped | {columns.values}
        values: list[float | None] = [None] * len(self.features)
        unknown = None
        for field, value in fields.items():
            position = self.named.get(field)
            if position is None:
                if field not in skipped:
                    unknown = field
            elif value is not None:
                if type(value) is not float and type(value) is not int:
                    raise Bad("bad-value", f"{field!r:.60} is {_shown(value)}, not a number")
                try:
                    values[position] = float(value)
                except OverflowError:
                    values[position] = float("inf")
        if unknown is not None and self.rules.unknown_features == "reject":
            raise Bad("unknown-feature", f"{unknown!r:.60} is not a feature")
        return values

    def finish(self, rows: Rows) -> Decoded:
        """Check what can be checked on arrays, and build the columns."""
        n, width = len(rows.records), len(self.features)
        exact: Float64 = np.fromiter(chain.from_iterable(rows.values), np.float64, n * width).reshape(n, width)
        with np.errstate(over="ignore"):  # what overflows is infinite, and rejected below
            values = exact.astype(np.float32)  # (n, F)
        stamps = np.array(rows.stamps, np.int64)
        arrivals = np.array([record.arrival for record in rows.records], np.int64)
        events = Events(rows.sensors, stamps, values, np.array([r.offset for r in rows.records], np.int64), arrivals)
        missing = np.isnan(values)
        future = (arrivals >= 0) & (stamps - self.rules.max_future > arrivals)
        infinite = np.isinf(values)
        strict = self.rules.missing == "reject"
        bad = future | infinite.any(axis=1) | (missing.any(axis=1) if strict else missing.all(axis=1))
        raw = [(record.key, record.value) for record in rows.records]
        if bad.any():
            for row in np.flatnonzero(bad).tolist():
                if future[row]:
                    ahead = (int(stamps[row]) - int(arrivals[row])) / 1_000
                    why = Bad("future-timestamp", f"{ahead:.0f} s after the record itself was written")
                elif infinite[row].any():
                    feature = self.features[int(infinite[row].argmax())]
                    why = Bad("non-finite", f"{feature!r:.60} is infinite or beyond a 32-bit float")
                elif missing[row].all():
                    why = Bad("no-values", "no feature has a value")
                else:
                    feature = self.features[int(missing[row].argmax())]
                    why = Bad("missing-feature", f"{feature!r:.60} has no value")
                rows.reject(rows.records[row], why)
            rows.rejects.sort(key=lambda reject: reject.offset)
            events = events.take(~bad)
            raw = [pair for pair, dropped in zip(raw, bad.tolist(), strict=True) if not dropped]
        return Decoded(events, rows.rejects, raw)


def _shapes(decoder: Decoder) -> list[Shape]:
    """Typed decoders for nested and flat messages of expected fields only, and how to get their values.

    They must accept nothing that the slow path would not, and read it alike; a test compares them. Hence
    unknown fields are forbidden even where the rules ignore them, and ignored ones are read in full.
    """
    columns, features, ignored = decoder.columns, decoder.features, sorted(decoder.ignored)
    width = len(features)
    names = {f"f{place}": name for place, name in enumerate((*features, *ignored))}
    fields: list[tuple[str, Any, Any]] = [(f"f{place}", float | None, None) for place in range(width)]
    fields += [(f"f{place}", Any, None) for place in range(width, len(names))]
    about: list[tuple[str, Any, Any]] = [
        ("sensor", str | int | None, None),
        ("timestamp", str | int | float | None, None),
    ]
    aliases = {"sensor": columns.sensor_id, "timestamp": columns.timestamp}
    strict: dict[str, Any] = {"forbid_unknown_fields": True, "kw_only": True, "gc": False}
    values = msgspec.structs.astuple
    shapes: list[Shape] = []
    try:
        if columns.values not in decoder.ignored:
            inner = msgspec.defstruct("Values", fields, rename=names, **strict)
            extras = fields[width:]
            outer = {**aliases, "values": columns.values, **{field: names[field] for field, _, _ in extras}}
            nested = msgspec.defstruct("Nested", [*about, ("values", inner), *extras], rename=outer, **strict)
            shapes.append((msgspec.json.Decoder(nested).decode, lambda message: values(message.values)[:width]))
        flat = msgspec.defstruct("Flat", [*fields, *about], rename={**aliases, **names}, **strict)
        shapes.append((msgspec.json.Decoder(flat).decode, lambda message: values(message)[:width]))
    except ValueError:  # a name that msgspec cannot match byte by byte, such as one with a quote in it
        return []
    return shapes


def _shown(value: object) -> str:
    """What kind of JSON value this is, in words."""
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else kinds.get(type(value), f"a {type(value).__name__}")


def encode_score(score: Score) -> bytes:
    """One record of the scores topic, as JSON."""
    return msgspec.json.encode(score)


def encode_embedding(embedding: Embedding) -> bytes:
    """One record of the embeddings topic, as JSON."""
    return msgspec.json.encode(embedding)


def encode_alert(alert: Alert) -> bytes:
    """One record of the alerts topic, as JSON."""
    return msgspec.json.encode(alert)


def identify(sensor: str, topic: str, partition: int, last_offset: int, *what: str) -> str:
    """The id of a window, or ``what`` of it, 32 hex digits: the same on every reading, another for every other."""
    return blake2b(msgspec.json.encode((sensor, topic, partition, last_offset, *what)), digest_size=16).hexdigest()


def decode_alert(value: bytes | None) -> Alert | None:
    """A record of the alerts topic as it was published; None if it is none of ours."""
    try:
        return msgspec.json.decode(value or b"", type=Alert)
    except msgspec.DecodeError:
        return None


def dead_letter_headers(partition: Partition, reject: Reject) -> list[tuple[str, bytes]]:
    """Where a reject came from and why it is one, in record headers named as in Kafka Streams (KIP-1034)."""
    return [
        ("errors.topic", partition.topic.encode()),
        ("errors.partition", str(partition.number).encode()),
        ("errors.offset", str(reject.offset).encode()),
        ("errors.exception", reject.reason.encode()),
        ("errors.message", reject.message.encode("utf-8", "backslashreplace")),
    ]


def cloudevent_headers(alert: Alert) -> list[tuple[str, bytes]]:
    """An alert's record headers: CloudEvents 1.0, Kafka binding, binary mode. ``ce_id`` is one per revision.

    Topic and sensor id are percent-encoded, since CloudEvents allows no control characters.
    """
    resolved = alert.status == "resolved" and alert.ended_at is not None
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", f"{alert.id}-{alert.revision}".encode()),
        ("ce_type", f"{alert.kind}.{alert.status}".encode()),
        ("ce_source", f"/{quote(alert.source.topic, safe='')}/{alert.source.partition}".encode()),
        ("ce_subject", quote(alert.sensor_id, safe="").encode()),
        ("ce_time", str(alert.ended_at if resolved else alert.started_at).encode()),
        ("content-type", b"application/json"),
    ]

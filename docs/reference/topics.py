"""Each topic and its records, from the classes that are published and the functions that make headers."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import yaml

from docs.reference import markdown
from docs.reference.markdown import code
from stream_detector.adapters.kafka.alerts import letter_headers
from stream_detector.codec import REASONS, cloudevent_headers, dead_letter_headers
from stream_detector.commands import service
from stream_detector.events import Alert, Embedding, Model, Origin, Partition, Reject, Score
from stream_detector.settings import Columns, Topics
from stream_detector.webhooks.backlog import Entry

MANIFEST = Path(__file__).parents[2] / "deploy" / "kubernetes" / "strimzi" / "topics.yaml"
DAY = 86_400_000  # ms

INTRODUCTION = """
Names are those of [`[topics]`](settings.md#topics) as they are by default. Values are JSON in UTF-8; times in them
are RFC 3339 in UTC. A record's key is the sensor's id, so that a sensor stays in one partition and its records in
order. Read results with `isolation.level=read_committed`.

`stream-detector topics` creates those that are missing, with {partitions} partitions and a replication factor of
{replicas} unless told otherwise: take as many partitions as you may ever want workers, and 3 replicas where there are
brokers for it. Let `cleanup.policy` be `delete`, Kafka's default: **the alerts topic must not be compacted**, since a
sensor can have an anomaly and a silence at once. It must keep its records for longer than an alert lasts.
"""
EVENTS = """
Either form, told apart by message; `null` or nothing is a missing value. `timestamp` is RFC 3339, or `YYYY-MM-DD
HH:MM:SS[.fff]` in [`columns.timezone`](settings.md#columnstimezone), or milliseconds since 1970.

```json
{"sensor_id": "pump-7", "timestamp": "2026-11-20T10:00:00.123Z", "values": {"pressure": 2.1, "current": 0.93}}
{"sensor_id": "pump-7", "timestamp": 1795168800123, "pressure": 2.1, "current": 0.93}
```
"""
LETTERS = """
Key and value are those of the event, byte by byte. Where the broker takes no record that long they are cut, and
`errors.truncated` has the length that the value had.
"""
WEBHOOKS = """
Key and value are those of the alert. `errors.exception` is `exhausted` (the schedule of retries is over), `gone` or
`disabled` (the receiver wants no more), `unsendable` (no body could be made) or `unreadable` (no alert). How to send
them again is in [webhooks.md](../webhooks.md).
"""

ALERT = Alert(
    id="e2625e8df3556ab0e69f7b1d6267d9c8",
    revision=1,
    status="firing",
    kind="anomaly",
    sensor_id="pump-7",
    severity="major",
    started_at="2026-11-20T10:05:00.000Z",
    ended_at=None,
    score=2.42,
    peak_score=2.42,
    threshold=0.031,
    contributions={"pressure": 0.81, "current": 0.19},
    observed={"pressure": 3.9, "current": 1.02},
    expected={"pressure": 2.1, "current": 0.95},
    summary="pump-7: pressure 3.9 where 2.1 was expected",
    model=Model("pumps", "20261119T120000Z-1f0c2d3e"),
    source=Origin("sensor-events", 3, 10, 73),
)


def page() -> str:
    names, told = Topics(), markdown.meanings(Topics)
    source = Partition(names.events, 3)
    letters = dead_letter_headers(source, Reject(17, "not-json", "JSON is malformed: invalid character (byte 0)"))
    entry = Entry(
        Partition(names.alerts, 0), 5, b"pump-7", b"", ALERT, 0.0, 0.0, tries=11, given_up=("exhausted", "503")
    )
    contents: dict[str, list[str]] = {
        "events": [EVENTS, _columns()],
        "scores": [_record(Score)],
        "alerts": [_record(Alert), _headers(cloudevent_headers(ALERT), "CloudEvents 1.0 in Kafka's binary mode.")],
        "dead_letters": [LETTERS, _headers(letters, "Named as in Kafka Streams."), _reasons()],
        "embeddings": [_record(Embedding)],
        "webhook_dead_letters": [WEBHOOKS, _headers(letter_headers("ops", entry), "")],
    }
    defaults = {name: one.default for name, one in inspect.signature(service.topics).parameters.items()}
    parts = [INTRODUCTION.format(**defaults)]
    for key in Topics.model_fields:
        name = getattr(names, key)
        parts += [f"## {code(name)}", " ".join(filter(None, [told[key], _kept(name)])), *contents[key]]
    return markdown.page("Topics and records", *parts, *_parts())


def _kept(topic: str) -> str:
    """How long the manifests for Kubernetes keep it, as a recommendation."""
    documents = list(yaml.safe_load_all(MANIFEST.read_text("utf-8")))
    found = {one["metadata"]["name"]: one["spec"]["config"] for one in documents}
    if topic not in found:
        return ""
    assert found[topic]["cleanup.policy"] == "delete"
    days = found[topic]["retention.ms"] // DAY
    return f"Kept for {days} days in the manifests for Kubernetes."


def _columns() -> str:
    fields = [
        (name, told)
        for name, told in markdown.meanings(Columns).items()
        if name in ("sensor_id", "timestamp", "values")
    ]
    return markdown.table(
        ("field", "named by", "meaning"),
        [(code(Columns.model_fields[name].default), code(f"columns.{name}"), told) for name, told in fields],
    )


def _record(record: type) -> str:
    told, hints = markdown.meanings(record), get_type_hints(record)
    rows = [(code(field.name), kind(hints[field.name]), told[field.name]) for field in msgspec.structs.fields(record)]
    return markdown.table(("field", "type", "meaning"), rows)


def _parts() -> list[str]:
    """Records within records."""
    return [
        part for one in (Model, Origin) for part in (f"## {_title(one)}", markdown.prose(one.__doc__), _record(one))
    ]


def _title(record: type) -> str:
    return "The object `model`" if record is Model else "The object `source`"


def _headers(headers: list[tuple[str, bytes]], about: str) -> str:
    rows = [(code(name), code(value.decode())) for name, value in headers]
    return f"Headers. {about}".strip() + "\n\n" + markdown.table(("header", "for example"), rows)


def _reasons() -> str:
    return "`errors.exception` is one of:\n\n" + markdown.table(
        ("reason", "meaning"), [(code(reason), told) for reason, told in REASONS.items()]
    )


def kind(hint: Any) -> str:
    """A type as JSON has it."""
    arguments = get_args(hint)
    if hint in (Model, Origin):
        return f"[object](#{_title(hint).lower().replace(' ', '-').replace('`', '')})"
    if get_origin(hint) is Literal:
        return ", ".join(code(f'"{word}"') for word in arguments)
    if get_origin(hint) in (Union, UnionType):
        return " or ".join("null" if one is NoneType else kind(one) for one in arguments)
    if get_origin(hint) is dict:
        return f"object of {kind(arguments[1])}s by feature"
    if get_origin(hint) is list:
        return f"list of {kind(arguments[0])}s"
    return {str: "text", int: "integer", float: "number"}[hint]

"""An alert in the words of its receiver: our own JSON, Alertmanager's, Slack's, PagerDuty's."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from stream_detector.events import Alert
from stream_detector.targets import Target
from stream_detector.text import visible

LARGEST = 20_000  # bytes: what Standard Webhooks recommends a body to stay below
FEATURES = (64, 16, 4, 0)  # that a body tells of, the most guilty first, tried in turn until it is small enough
LINES = 8  # features in a message for people
LONGEST_ID, LONGEST_SUMMARY = 256, 1_024  # characters; the latter is PagerDuty's limit

COLOURS = {"minor": "#daa038", "major": "#e8702a", "critical": "#a30200"}  # as Slack has them
RESOLVED = "#2eb886"
PAGERS = {"minor": "warning", "major": "error", "critical": "critical"}
NEVER = "0001-01-01T00:00:00Z"  # Go's zero time: what Alertmanager sends as the end of what is firing


def happened(alert: Alert) -> str:
    """When what the record tells of took place."""
    return alert.ended_at if alert.status == "resolved" and alert.ended_at is not None else alert.started_at


def own(alert: Alert, target: Target, name: str, picture: bytes | None) -> bytes:
    """``type``, ``timestamp``, ``data`` as Standard Webhooks has it; ``data`` is the record of the alerts topic.

    A record with too many features is told without the least guilty ones, and says so by ``trimmed``. The picture is
    left out where there is no room for it.
    """
    head = {"type": f"{alert.kind}.{alert.status}", "timestamp": happened(alert)}
    if picture is not None:
        drawn = {"content_type": "image/png", "base64": base64.b64encode(picture).decode()}
        body = msgspec.json.encode({**head, "data": alert, "picture": drawn})
        if len(body) < LARGEST:
            return body
    body = msgspec.json.encode({**head, "data": alert})
    for most in FEATURES:
        if len(body) < LARGEST:
            break
        body = msgspec.json.encode({**head, "trimmed": True, "data": trimmed(alert, most)})
    return body


def trimmed(alert: Alert, most: int) -> Alert:
    """The alert with its ``most`` guiltiest features only, and texts of a sensible length."""
    kept = guiltiest(alert, most)
    return msgspec.structs.replace(
        alert,
        sensor_id=alert.sensor_id[:LONGEST_ID],
        summary=alert.summary[:LONGEST_SUMMARY],
        contributions={name: alert.contributions[name] for name in kept if name in alert.contributions},
        observed={name: alert.observed[name] for name in kept if name in alert.observed},
        expected={name: alert.expected[name] for name in kept if name in alert.expected},
    )


def guiltiest(alert: Alert, most: int) -> list[str]:
    """Features by their share in the score, the largest first."""
    names = [*alert.contributions, *(name for name in alert.observed if name not in alert.contributions)]
    return sorted(names, key=lambda name: -alert.contributions.get(name, 0.0))[:most]


def alertmanager(alert: Alert, target: Target, name: str, picture: bytes | None) -> bytes:
    """Alertmanager's webhook payload, version 4: a group of this one alert."""
    labels = {
        "alertname": f"StreamDetector{alert.kind.capitalize()}",
        "kind": alert.kind,
        "model": alert.model.name,
        "sensor_id": alert.sensor_id,
        "severity": alert.severity,
    }
    annotations = {
        "summary": alert.summary[:LONGEST_SUMMARY],
        "score": f"{alert.score:g}",
        "peak_score": f"{alert.peak_score:g}",
        "alert_id": alert.id,
        "revision": str(alert.revision),
        **({"features": "; ".join(_features(alert))} if alert.contributions else {}),
    }
    one = {
        "status": alert.status,
        "labels": labels,
        "annotations": annotations,
        "startsAt": alert.started_at,
        "endsAt": alert.ended_at or NEVER,
        "generatorURL": "",
        "fingerprint": alert.id[:16],  # of the alert through its life: its labels may change
    }
    return msgspec.json.encode(
        {
            "version": "4",
            "groupKey": f"{{}}:{{alert_id={msgspec.json.encode(alert.id).decode()}}}",
            "truncatedAlerts": 0,
            "status": alert.status,
            "receiver": name,
            "groupLabels": {"alert_id": alert.id},
            "commonLabels": labels,
            "commonAnnotations": annotations,
            "externalURL": "",
            "alerts": [one],
        }
    )


def slack(alert: Alert, target: Target, name: str, picture: bytes | None) -> bytes:
    """A message for an incoming webhook: one line that stands alone, and what is behind it."""
    resolved = alert.status == "resolved"
    summary = _escaped(alert.summary[:LONGEST_SUMMARY])
    said = f"{'resolved' if resolved else alert.severity}: {summary}"
    sensor = _escaped(alert.sensor_id[:LONGEST_ID]).replace("`", "'")
    scores = f"score {alert.score:.3g} (highest {alert.peak_score:.3g}; 1 is the threshold)"
    told = [
        f"*{said}*",
        f"sensor `{sensor}`, {alert.kind}, {scores}",
        f"from {alert.started_at}" + (f" to {alert.ended_at}" if alert.ended_at else ""),
        *(f"• {_escaped(line)}" for line in _features(alert)),
    ]
    section = {"type": "section", "text": {"type": "mrkdwn", "text": "\n".join(told)[:3_000]}}
    about = f"alert {alert.id}, revision {alert.revision}, model {alert.model.name} {alert.model.version}"
    context = {"type": "context", "elements": [{"type": "mrkdwn", "text": _escaped(about)[:2_000]}]}
    colour = RESOLVED if resolved else COLOURS[alert.severity]
    return msgspec.json.encode({"text": said, "attachments": [{"color": colour, "blocks": [section, context]}]})


def pagerduty(alert: Alert, target: Target, name: str, picture: bytes | None) -> bytes:
    """An event of the Events API v2; the alert's id makes its records one incident."""
    key = "" if target.routing_key is None else target.routing_key.get_secret_value()
    resolved = alert.status == "resolved"
    small = trimmed(alert, FEATURES[0])
    return msgspec.json.encode(
        {
            "routing_key": key,
            "event_action": "resolve" if resolved else "trigger",
            "dedup_key": alert.id,
            "client": "stream-detector",
            "payload": {
                "summary": visible(small.summary) or alert.kind,
                "source": visible(small.sensor_id) or "unnamed sensor",
                "severity": PAGERS[alert.severity],
                "timestamp": happened(alert),
                "component": alert.model.name,
                "class": alert.kind,
                "custom_details": {
                    "revision": alert.revision,
                    "score": alert.score,
                    "peak_score": alert.peak_score,
                    "threshold": alert.threshold,
                    "part": alert.part,
                    "contributions": small.contributions,
                    "observed": small.observed,
                    "expected": small.expected,
                    "source": alert.source,
                },
            },
        }
    )


def _features(alert: Alert) -> list[str]:
    """The guiltiest features, one line each."""
    lines = []
    for name in guiltiest(alert, LINES):
        line = visible(name[:80])
        if name in alert.contributions:
            line += f" ({alert.contributions[name]:.0%} of the score)"
        if name in alert.observed:
            line += f": {alert.observed[name]:.4g}"
            if name in alert.expected:
                line += f" where {alert.expected[name]:.4g} was expected"
        lines.append(line)
    return lines


def _escaped(text: str) -> str:
    """Slack's three characters with a meaning; without them nobody is called and nothing is a link."""
    return visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


Body = Callable[[Alert, Target, str, bytes | None], bytes]
"""Of an alert for a target, which has this name, perhaps with a PNG. Pure, so every try sends the same."""

BODIES: Mapping[str, Body] = {"json": own, "alertmanager": alertmanager, "slack": slack, "pagerduty": pagerduty}


def sample(status: Any = "firing") -> Alert:
    """An alert to try a template with."""
    source = {"topic": "sensor-events", "partition": 0, "first_offset": 0, "last_offset": 63}
    return msgspec.convert(
        {
            "id": "e2625e8df3556ab0e69f7b1d6267d9c8",
            "revision": 1 if status == "firing" else 2,
            "status": status,
            "kind": "anomaly",
            "sensor_id": 'pump "7"',
            "severity": "major",
            "started_at": "2026-11-20T10:05:00.000Z",
            "ended_at": None if status == "firing" else "2026-11-20T10:25:00.000Z",
            "score": 2.42,
            "peak_score": 2.42,
            "threshold": 0.031,
            "contributions": {"pressure": 0.81, "current": 0.19},
            "observed": {"pressure": 3.9, "current": 1.1},
            "expected": {"pressure": 2.1, "current": 1.0},
            "summary": 'pump "7": pressure 3.9 where 2.1 was expected\\',
            "model": {"name": "pumps", "version": "20261120"},
            "source": source,
        },
        type=Alert,
    )

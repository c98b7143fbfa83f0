"""Alerts for tests of webhooks."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from stream_detector.codec import encode_alert
from stream_detector.events import Alert
from stream_detector.webhooks.bodies import sample


def alert(name: str = "a", revision: int = 1, status: str = "firing", **other: Any) -> Alert:
    """A revision of the alert ``name``; `other` fields as they are given."""
    given = {"id": hashlib.md5(name.encode()).hexdigest(), "revision": revision}  # noqa: S324 - no cryptography
    return msgspec.structs.replace(sample(status), **{"sensor_id": f"pump-{name}", **given, **other})


def record(name: str = "a", revision: int = 1, status: str = "firing", **other: Any) -> tuple[bytes, bytes]:
    """Its key and value in the alerts topic."""
    one = alert(name, revision, status, **other)
    return one.sensor_id.encode(), encode_alert(one)

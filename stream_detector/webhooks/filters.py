"""Which alerts a target wants."""

from __future__ import annotations

from fnmatch import fnmatchcase

from stream_detector.events import Alert
from stream_detector.targets import Target


def wanted(alert: Alert, target: Target) -> bool:
    """Whether all of the target's filters let the alert pass."""
    return (
        alert.severity in target.severities
        and alert.kind in target.kinds
        and (target.send_resolved or alert.status != "resolved")
        and any(fnmatchcase(alert.sensor_id, pattern) for pattern in target.sensors)
    )

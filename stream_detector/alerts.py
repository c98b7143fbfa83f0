"""The life of an alert: pending → firing → resolved, per sensor, with hysteresis.

Deterministic in the window's score and the state before it, so that a window judged again after a crash gives the
same alert with the same id and revision.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from stream_detector.events import Alert, Partition, Severity, State
from stream_detector.settings import Alerts

Change = Literal["fired", "worsened", "resolved"]


class Silence(msgspec.Struct, array_like=True, frozen=True):
    """A sensor that was expected to speak and did not. Any event of it ends the silence."""

    id: str
    started_at: int  # epoch ms, the sensor's own time of its last event
    offset: int  # of its last event


class Incident(msgspec.Struct, array_like=True, frozen=True):
    """A sensor that is not normal. A sensor without one is."""

    id: str  # of the window that opened it; the alert's id through its life
    started_at: int  # epoch ms, end of that window
    above: int = 0  # anomalous windows in a row while pending
    calm: int = 0  # windows in a row below `resolve_below` while firing
    revision: int = 0  # of the alert last published; 0 while pending
    severity: Severity = "minor"
    peak: float = 0.0  # highest score so far

    @property
    def state(self) -> State:
        """What the sensor's windows show."""
        return "firing" if self.revision else "pending"


class Standing(msgspec.Struct, array_like=True, frozen=True):
    """What a store keeps of a sensor that is not normal, or not heard of."""

    incident: Incident | None = None
    silence: Silence | None = None


def unresolved(records: Iterable[Alert], partition: Partition, before: int) -> list[Alert]:
    """Of what was published, the last record of each alert of a partition that is not resolved.

    Only records whose events end before the offset ``before`` count.
    """
    last: dict[str, Alert] = {}
    for record in records:
        source = record.source
        if Partition(source.topic, source.partition) != partition or source.last_offset >= before:
            continue
        if record.id not in last or record.revision >= last[record.id].revision:
            last[record.id] = record
    return [record for record in last.values() if record.status == "firing"]


def grade(peak: float, policy: Alerts) -> Severity:
    """The severity band of an alert's highest score."""
    return "critical" if peak >= policy.critical else "major" if peak >= policy.major else "minor"


def advance(
    incident: Incident | None, score: float, opening: tuple[str, int], policy: Alerts, *, muted: bool = False
) -> tuple[Incident | None, Change | None]:
    """The incident after one more window, and what changed for those who watch.

    ``opening`` is the window's (id, end time), used if it opens an incident. A resolved alert's last state is
    returned together with ``"resolved"``: the caller publishes and then forgets it. ``muted`` is for windows that
    are only read again, for a state that was lost: what they changed was published in its time and is known, so
    they count towards hysteresis but change nothing themselves.
    """
    if incident is None:
        if score < 1:
            return None, None
        incident = Incident(*opening)
    if not incident.revision:
        return _pending(incident, score, policy, muted=muted)
    if muted:
        since = max(incident.peak, score) if opening[1] >= incident.started_at else incident.peak
        calm = incident.calm + 1 if score < policy.resolve_below else 0
        return msgspec.structs.replace(incident, calm=calm, peak=since), None
    peak = max(incident.peak, score)
    severity = grade(peak, policy)
    calm = incident.calm + 1 if score < policy.resolve_below else 0
    resolved = calm >= policy.resolve_windows
    worse = severity != incident.severity  # a peak only rises
    moved = msgspec.structs.replace(
        incident, calm=calm, peak=peak, severity=severity, revision=incident.revision + (resolved or worse)
    )
    return moved, "resolved" if resolved else "worsened" if worse else None


def _pending(incident: Incident, score: float, policy: Alerts, *, muted: bool) -> tuple[Incident | None, Change | None]:
    if score < 1:
        return None, None
    above, peak = incident.above + 1, max(incident.peak, score)
    fired = above >= policy.min_windows and not muted
    moved = msgspec.structs.replace(
        incident, above=above, peak=peak, severity=grade(peak, policy), revision=1 if fired else 0
    )
    return moved, "fired" if fired else None

"""The life of an alert: pending → firing → resolved, per sensor, with hysteresis.

Deterministic in the window's score and the state before it, so that a window judged again after a crash gives the
same alert with the same id and revision.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from stream_detector.events import Severity, State
from stream_detector.settings import Alerts

Change = Literal["fired", "worsened", "resolved"]


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


def grade(peak: float, policy: Alerts) -> Severity:
    """The severity band of an alert's highest score."""
    return "critical" if peak >= policy.critical else "major" if peak >= policy.major else "minor"


def advance(
    incident: Incident | None, score: float, opening: tuple[str, int], policy: Alerts
) -> tuple[Incident | None, Change | None]:
    """The incident after one more window, and what changed for those who watch.

    ``opening`` is the window's (id, end time), used if it opens an incident. A resolved alert's last state is
    returned together with ``"resolved"``: the caller publishes and then forgets it.
    """
    if incident is None:
        if score < 1:
            return None, None
        incident = Incident(*opening)
    if not incident.revision:
        return _pending(incident, score, policy)
    peak = max(incident.peak, score)
    severity = grade(peak, policy)
    calm = incident.calm + 1 if score < policy.resolve_below else 0
    resolved = calm >= policy.resolve_windows
    worse = severity != incident.severity  # a peak only rises
    moved = msgspec.structs.replace(
        incident, calm=calm, peak=peak, severity=severity, revision=incident.revision + (resolved or worse)
    )
    return moved, "resolved" if resolved else "worsened" if worse else None


def _pending(incident: Incident, score: float, policy: Alerts) -> tuple[Incident | None, Change | None]:
    if score < 1:
        return None, None
    above, peak = incident.above + 1, max(incident.peak, score)
    fired = above >= policy.min_windows
    moved = msgspec.structs.replace(
        incident, above=above, peak=peak, severity=grade(peak, policy), revision=1 if fired else 0
    )
    return moved, "fired" if fired else None

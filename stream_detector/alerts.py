"""The life of an alert: pending → firing → resolved, per sensor, with hysteresis.

Deterministic in the window and the state before it, so that a window judged again after a crash gives the same alert
with the same id and revision. A sensor has at most one open alert of each of two kinds, each moved by `advance`:

- **anomaly**, by the window's score: pending from a score of 1, firing after ``min_windows`` in a row that also span
  ``min_duration``; resolved after ``resolve_windows`` in a row below ``resolve_below`` that also come
  ``keep_firing_for`` after the last that was not. As in Prometheus, the same alert goes on meanwhile. For ``cooldown``
  after it resolved, a new one stays pending unless it is worse: what lasts longer than that is told late, not lost.
  What a part of the score told that counts only where the model has been (`events.LOCAL`) cannot be seen to be over
  elsewhere: windows there are not calm, for as long as a shift may last before it is normal (``accept_after``).
- **fault**, by what the window shows of the sensor itself (`faults`), with the same counts and durations.

One incident, one alert (`follow`): where the features of a *firing* fault make up more than half of a score, the score
is the fault's. It then counts for its severity, and as calm for an anomaly. An anomaly that already fires when the
fault is found *becomes* the fault's alert: same id, next revision, kind "fault". Windows that still hold events of
the last faulty window count as the fault's too, so that what a repaired sensor left in the window opens no new alert.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeVar

import msgspec

from stream_detector.events import Alert, Partition, Severity, State
from stream_detector.levels import Level
from stream_detector.settings import Alerts
from stream_detector.shifts import Shift

T = TypeVar("T")
Change = Literal["fired", "worsened", "diagnosed", "resolved"]
RANK: dict[Severity, int] = {"minor": 0, "major": 1, "critical": 2}
CALM = (0.0, 0.0)  # score and strength
MAIN = 0.5  # more than this share of a score makes it that of a fault


class Silence(msgspec.Struct, array_like=True, frozen=True):
    """A sensor that was expected to speak and did not. Any event of it ends the silence."""

    id: str
    started_at: int  # epoch ms, the sensor's own time of its last event
    offset: int  # of its last event


class Rest(msgspec.Struct, array_like=True, frozen=True):
    """An alert that is over, for as long as only a worse one fires."""

    ended_at: int  # epoch ms
    severity: Severity


class Past(msgspec.Struct, array_like=True, frozen=True):
    """An alert that is over, for as long as it is recent."""

    ended_at: int  # epoch ms
    strength: float  # its highest


class Run(msgspec.Struct, array_like=True, frozen=True):
    """A feature that has had one value for whole windows."""

    feature: int
    value: float
    since: int  # epoch ms
    events: int


class Incident(msgspec.Struct, array_like=True, frozen=True):
    """A sensor that is not normal. A sensor without one is.

    Stored as an array: new fields stand at the end and have defaults, so that older states are read on.
    """

    id: str  # of the window that opened it; the alert's id through its life. Empty: there is only what stands below
    started_at: int  # epoch ms, end of that window
    above: int = 0  # anomalous windows in a row while pending
    calm: int = 0  # windows in a row below `resolve_below` while firing
    revision: int = 0  # of the alert last published; 0 while pending
    severity: Severity = "minor"
    peak: float = 0.0  # highest score so far
    last: int | None = None  # epoch ms, end of the last window that was not calm while firing
    rest: Rest | None = None
    fault: Fault | None = None
    recent: tuple[Past, ...] = ()  # those that may still count for the limit, in the order of their ends
    strength: float = 0.0  # highest so far: the peak by thresholds that do not move
    local: bool = False  # whether any window was not calm by a part that counts only where the model has been

    @property
    def idle(self) -> bool:
        """Whether nothing of it changes by a window that is normal."""
        return not self.id and self.rest is None and self.fault is None

    @property
    def state(self) -> State:
        """What the sensor's windows show."""
        fault = None if self.fault is None else self.fault.incident
        if self.revision or (fault is not None and fault.revision):
            return "firing"
        return "pending" if self.id or (fault is not None and fault.id) else "normal"


class Fault(msgspec.Struct, array_like=True, frozen=True):
    """What is wrong with the sensor itself, beside its anomaly if it has one."""

    incident: Incident | None = None
    features: tuple[int, ...] = ()  # that were faulty when any last were
    until: int = 0  # epoch ms, end of the last window in which they were
    runs: tuple[Run, ...] = ()


class Standing(msgspec.Struct, array_like=True, frozen=True):
    """What a store keeps of a sensor that is not normal, or not heard of, or whose thresholds may move."""

    incident: Incident | None = None
    silence: Silence | None = None
    level: Level | None = None
    shift: Shift | None = None


class Shown(NamedTuple):
    """What a window shows of the sensor itself."""

    features: tuple[int, ...] = ()  # that are faulty in it
    runs: tuple[Run, ...] = ()
    shares: Sequence[float] = ()  # (F) of each feature in the score


class Sight(NamedTuple):
    """What a window's score is worth."""

    local: bool = False  # it is of a part that counts only where the model has been
    strange: bool = False  # the model has not been there


class Place(NamedTuple):
    """A window, and what it would open."""

    id: str
    fault_id: str
    began: int  # epoch ms
    ended: int


class Told(NamedTuple):
    """A change that is published."""

    incident: Incident
    change: Change
    kind: Literal["anomaly", "fault"]


NONE, CLEAR = Shown(), Sight()


def standing(records: Iterable[Alert], partition: Partition, before: int, limit: int) -> list[Alert]:
    """Of what was published, all that says where a partition's alerts stand: the last record of each that is open, and
    of each sensor's anomalies that are over those that may still count where ``limit`` do, in the order of their ends;
    the last one in any case if a shift was accepted with it.

    Only records whose events end before the offset ``before`` count.
    """
    last: dict[str, Alert] = {}
    for record in records:
        source = record.source
        if Partition(source.topic, source.partition) != partition or source.last_offset >= before:
            continue
        if record.id not in last or record.revision >= last[record.id].revision:
            last[record.id] = record
    over: dict[str, list[Alert]] = {}
    for record in sorted(last.values(), key=lambda one: one.source.last_offset):
        if record.status == "resolved" and record.kind == "anomaly":
            known = [*over.get(record.sensor_id, []), record]
            over[record.sensor_id] = counting(known, [one.peak_strength for one in known], max(1, limit))
    return [record for record in last.values() if record.status == "firing"] + [
        one for some in over.values() for one in some if limit or (one is some[-1] and one.accepted)
    ]


def counting(alerts: Sequence[T], strengths: Sequence[float], limit: int) -> list[T]:
    """Those of a sensor's alerts (n), in the order of their ends, that may be among the ``limit`` strongest some day.

    One that as many later ones are as strong as will not: they are recent for longer.
    """
    return [one for at, one in enumerate(alerts) if sum(s >= strengths[at] for s in strengths[at + 1 :]) < limit]


def with_fault(incident: Incident | None, fault: Incident) -> Incident:
    """A sensor that also has this fault, of which more is not known: where a state was lost."""
    return msgspec.structs.replace(incident or Incident("", 0), fault=Fault(fault))


def grade(peak: float, policy: Alerts) -> Severity:
    """The severity band of an alert's highest score."""
    return "critical" if peak >= policy.critical else "major" if peak >= policy.major else "minor"


def follow(
    before: Incident | None,
    score: float,
    place: Place,
    policy: Alerts,
    shown: Shown = NONE,
    sight: Sight = CLEAR,
    *,
    strength: float | None = None,
    muted: bool = False,
) -> tuple[Incident | None, list[Told]]:
    """A sensor's state after one more window, and what is to be published: see the module's docstring.

    ``strength`` is the score by thresholds that do not move; it is the score where these do not.
    """
    fault = (before and before.fault) or Fault()
    anomaly = before if before is None or before.fault is None else msgspec.structs.replace(before, fault=None)
    features = shown.features or fault.features
    until = place.ended if shown.features else fault.until
    share = sum(shown.shares[at] for at in features) if shown.shares else 0.0
    theirs = score >= 1 and share > MAIN and place.began <= until
    open_ = fault.incident is not None and fault.incident.revision > 0  # what is left in the window opens nothing
    strength = score if strength is None else strength
    of_fault = (score, strength) if theirs and (open_ or shown.features) else (1.0, 1.0) if shown.features else CALM
    told: list[Told] = []
    opened, change = advance(fault.incident, *of_fault, (place.fault_id, place.ended), policy, muted=muted)
    firing = opened is not None and opened.revision > 0 and change != "resolved"
    if opened is not None and change == "fired" and theirs and anomaly is not None and anomaly.revision:
        opened, change, anomaly = _taken_over(anomaly, opened, policy), "diagnosed", _resting(None, anomaly.recent)
    if opened is not None and change is not None:
        told.append(Told(opened, change, "fault"))
        opened = _left(opened, place.ended, policy) if change == "resolved" else opened
    counted = CALM if theirs and firing else (score, strength)
    moved, change = advance(anomaly, *counted, (place.id, place.ended), policy, sight, muted=muted)
    if moved is not None and change is not None:
        told.append(Told(moved, change, "anomaly"))
        moved = _left(moved, place.ended, policy, limited=True) if change == "resolved" else moved
    if opened is None and not shown.runs:
        return moved, told
    known = (features, until) if opened is not None and opened.id else ((), 0)
    return msgspec.structs.replace(moved or Incident("", 0), fault=Fault(opened, *known, shown.runs)), told


def _taken_over(anomaly: Incident, fault: Incident, policy: Alerts) -> Incident:
    """The fault that an anomaly turns out to be."""
    peak, strength = max(anomaly.peak, fault.peak), max(anomaly.strength, fault.strength)
    severity = max(anomaly.severity, grade(peak, policy), key=RANK.__getitem__)
    begun = {"id": anomaly.id, "started_at": anomaly.started_at, "revision": anomaly.revision + 1}
    return msgspec.structs.replace(fault, **begun, peak=peak, strength=strength, severity=severity)


def _left(resolved: Incident, ended: int, policy: Alerts, *, limited: bool = False) -> Incident | None:
    """What is left of an alert that is over; only those that are ``limited`` are remembered for long."""
    rest = Rest(ended, resolved.severity) if policy.cooldown else None
    recent = _still(resolved.recent, ended, policy)
    if limited and isinstance(policy.limit, int):
        known = [*recent, Past(ended, resolved.strength)]
        recent = tuple(counting(known, [one.strength for one in known], policy.limit))
    return _resting(rest, recent)


def _resting(rest: Rest | None, recent: tuple[Past, ...]) -> Incident | None:
    """A sensor of which there is no more than this."""
    return Incident("", 0, rest=rest, recent=recent) if rest is not None or recent else None


def _still(recent: tuple[Past, ...], ended: int, policy: Alerts) -> tuple[Past, ...]:
    """Those that are recent at this time; by a clock that was set back too, for as long as by one that runs on."""
    if not recent or not isinstance(policy.limit, int) or not isinstance(policy.limit_within, int):
        return ()
    within = policy.limit_within
    return tuple(one for one in recent if abs(ended - one.ended_at) < within)


def _enough(recent: tuple[Past, ...], policy: Alerts) -> float:
    """The strength from which another alert fires beside these that are recent."""
    if not isinstance(policy.limit, int) or len(recent) < policy.limit:
        return 0.0
    return sorted(one.strength for one in recent)[-policy.limit]


def advance(
    incident: Incident | None,
    score: float,
    strength: float,
    opening: tuple[str, int],
    policy: Alerts,
    sight: Sight = CLEAR,
    *,
    muted: bool = False,
) -> tuple[Incident | None, Change | None]:
    """The incident after one more window, and what changed for those who watch.

    ``opening`` is the window's (id, end time), the id used if it opens an incident. A resolved alert's last state is
    returned together with ``"resolved"``: the caller publishes and then forgets it. ``muted`` is for windows that
    are only read again, for a state that was lost: what they changed was published in its time and is known, so
    they count towards hysteresis but change nothing themselves.
    """
    if incident is None or not incident.revision:
        return _pending(incident, score, strength, opening, policy, sight, muted=muted)
    ended, below = opening[1], score < policy.resolve_below
    # A sensor's clock may be set back, and events within the grace come out of order: then time counts from there.
    since = incident.started_at if incident.last is None else incident.last
    last = min(since, ended) if below else ended
    unseen = below and sight.strange and incident.local and _patient(ended - last, policy)
    calm = incident.calm + 1 if below and not unseen else 0
    local = incident.local or (sight.local and not below)
    if muted:
        seen = (score, strength) if ended >= incident.started_at else CALM
        peak, strength = max(incident.peak, seen[0]), max(incident.strength, seen[1])
        return msgspec.structs.replace(incident, calm=calm, peak=peak, strength=strength, last=last, local=local), None
    peak, strength = max(incident.peak, score), max(incident.strength, strength)
    severity = max(incident.severity, grade(peak, policy), key=RANK.__getitem__)
    resolved = calm >= policy.resolve_windows and ended - last >= policy.keep_firing_for
    worse = severity != incident.severity
    moved = msgspec.structs.replace(
        incident,
        calm=calm,
        peak=peak,
        strength=strength,
        severity=severity,
        revision=incident.revision + (resolved or worse),
        last=last,
        local=local,
    )
    return moved, "resolved" if resolved else "worsened" if worse else None


def _patient(lasted: int, policy: Alerts) -> bool:
    """Whether what has been out of sight for so long, ms, may still be there."""
    return not isinstance(policy.accept_after, int) or lasted < policy.accept_after


def _pending(
    incident: Incident | None,
    score: float,
    strength: float,
    opening: tuple[str, int],
    policy: Alerts,
    sight: Sight,
    *,
    muted: bool,
) -> tuple[Incident | None, Change | None]:
    rest, ended = None if incident is None else incident.rest, opening[1]
    if rest is not None:
        rest = Rest(min(rest.ended_at, ended), rest.severity)
        rest = rest if ended - rest.ended_at < policy.cooldown else None
    recent = () if incident is None else _still(incident.recent, ended, policy)
    if score < 1:
        return _resting(rest, recent), None
    if incident is None or not incident.id:
        incident = Incident(*opening)
    started = min(incident.started_at, ended) if policy.min_duration else incident.started_at
    above, peak, strength = incident.above + 1, max(incident.peak, score), max(incident.strength, strength)
    severity = grade(peak, policy)
    long = above >= policy.min_windows and ended - started >= policy.min_duration
    told = (rest is None or RANK[severity] > RANK[rest.severity]) and strength >= _enough(recent, policy)
    fired = long and not muted and told
    moved = msgspec.structs.replace(
        incident,
        started_at=started,
        above=above,
        peak=peak,
        strength=strength,
        severity=severity,
        revision=1 if fired else 0,
        last=ended if fired else None,
        rest=None if fired else rest,
        recent=recent,
        local=incident.local or sight.local,
    )
    return moved, "fired" if fired else None

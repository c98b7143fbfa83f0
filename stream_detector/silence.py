"""Sensors that fall silent: the only verdict that comes from the clock on the wall and not from events.

What was heard is measured on a monotonic clock of this process, so that neither a jump of the system's time nor a
sensor's wrong clock raises an alarm; a sensor whose state was loaded counts as heard at that moment. An alert of
this kind has a stable id, the digest of the sensor's last event: after a crash it may be published again, and is
recognised. It never resolves an anomaly, and an anomaly never resolves it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np

from stream_detector.alerts import Silence
from stream_detector.codec import identify, rfc3339
from stream_detector.events import Alert, Float64, Model, Origin, Partition, Severity
from stream_detector.groups import Grouped
from stream_detector.sensors import NEVER, Table

EVERY = 2.0  # seconds between two looks
SILENT: Severity = "major"


@dataclass(frozen=True, slots=True)
class Heartbeats:
    """How long each sensor may be silent, in seconds."""

    patterns: Sequence[tuple[str, float]] = ()  # of sensor ids, as in a shell; the first that fits counts
    learned: Mapping[str, float] = field(default_factory=dict)  # by sensor, from training
    otherwise: float = math.inf

    def limit(self, sensor: str) -> float:
        """Seconds without an event after which the sensor is silent; infinite for never."""
        for pattern, seconds in self.patterns:
            if fnmatchcase(sensor, pattern):
                return seconds
        return self.learned.get(sensor, self.otherwise)


class Watch:
    """When each sensor of one partition was last heard. Looks at the table's columns now and then, not at events."""

    def __init__(self, heartbeats: Grouped[Heartbeats]) -> None:
        self.heartbeats = heartbeats
        self.announced: set[str] = set()  # ids of the silences that this worker has published
        self._offsets = np.empty(0, np.int64)  # by slot of the table, at the last look
        self._heard: Float64 = np.empty(0)
        self._limits: dict[str, float] = {}

    def listen(self, heartbeats: Grouped[Heartbeats]) -> None:
        """Go by other limits from now on."""
        self.heartbeats = heartbeats
        self._limits.clear()

    def silent(self, table: Table, now: float) -> list[str]:
        """Sensors not heard of for longer than they may; ``now`` in seconds of a monotonic clock."""
        more = len(table.offset) - len(self._offsets)
        if more:
            self._offsets = np.concatenate([self._offsets, np.full(more, NEVER, np.int64)])
            self._heard = np.concatenate([self._heard, np.full(more, now)])
        self._heard[table.offset != self._offsets] = now
        self._offsets = table.offset.copy()
        names = list(table.slots)
        slots = np.fromiter(table.slots.values(), np.intp, len(names))
        if len(self._limits) > 2 * len(names):
            self._limits = {}
        limits = np.fromiter(map(self.limit, names), np.float64, len(names))
        return [names[at] for at in np.flatnonzero(now - self._heard[slots] > limits).tolist()]

    def limit(self, sensor: str) -> float:
        """`Heartbeats.limit`, remembered: patterns are slow."""
        found = self._limits.get(sensor)
        if found is None:
            found = self._limits[sensor] = self.heartbeats.of(sensor).limit(sensor)
        return found


def begin(partition: Partition, sensor: str, table: Table) -> Silence:
    """The silence that began with the sensor's last event; its id is none of the window that ends with that event."""
    slot = table.slots[sensor]
    offset = int(table.offset[slot])
    return Silence(identify(sensor, *partition, offset, "silence"), int(table.newest[slot]), offset)


def ended(silence: Silence, sensor: str, table: Table) -> bool:
    """Whether the sensor has spoken since."""
    slot = table.slots.get(sensor)
    return slot is not None and int(table.offset[slot]) > silence.offset


def silence_record(
    partition: Partition,
    sensor: str,
    silence: Silence,
    limit: float,
    model: Model,
    heard: tuple[int, int] | None = None,
) -> Alert:
    """The alert record; ``heard`` is (time, offset) of the event that ended the silence."""
    since = rfc3339(silence.started_at)
    offset = silence.offset if heard is None else heard[1]
    return Alert(
        id=silence.id,
        revision=1 if heard is None else 2,
        status="firing" if heard is None else "resolved",
        kind="silence",
        sensor_id=sensor,
        severity=SILENT,
        started_at=since,
        ended_at=None if heard is None else rfc3339(heard[0]),
        score=1.0,
        peak_score=1.0,
        peak_strength=1.0,
        threshold=limit if math.isfinite(limit) else 0.0,
        contributions={},
        observed={},
        expected={},
        summary=f"{sensor}: no event since {since}" if heard is None else f"{sensor}: heard again",
        model=model,
        source=Origin(partition.topic, partition.number, offset, offset),
    )

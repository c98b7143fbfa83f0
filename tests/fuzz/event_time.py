"""The documented rules of event time over accepted messages, one by one: late, duplicate, too many, a window."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.fuzz.oracle import Good


class Filled(NamedTuple):
    """A window that must be scored, exactly once."""

    sensor: str
    first: int  # offsets
    started: int  # epoch ms
    ended: int
    largest: float  # of its values, imputed ones among them
    imputed: frozenset[int]  # features


@dataclass(slots=True)
class _Sensor:
    newest: int
    peak: int  # newest of all, also before its clock was set back
    filled: int = 0
    rows: deque[tuple[int, int, tuple[float, ...], tuple[int, ...]]] = field(default_factory=deque)
    last: dict[int, float] = field(default_factory=dict)
    times: set[int] = field(default_factory=set)


class EventTime:
    """The rules of event time over accepted messages of one partition, one by one, in order."""

    SWEEPS = 16

    def __init__(
        self, length: int, stride: int, ttl: int, max_sensors: int, grace: int, reset: int | None, mean: float
    ) -> None:
        self.length, self.stride, self.ttl, self.max_sensors = length, stride, ttl, max_sensors
        self.grace, self.reset, self.mean = grace, reset, mean
        self.sensors: dict[str, _Sensor] = {}
        self.watermark: int | None = None
        self.counts = {"accepted": 0, "duplicate": 0, "windows": 0, "expired": 0, "set back": 0}

    def take(self, offset: int, event: Good) -> str | Filled | None:
        """A reason to refuse it, a window that it fills, or neither."""
        name, stamp, _ = event
        sensor = self.sensors.get(name)
        if sensor is None:
            if len(self.sensors) >= self.max_sensors:
                return "too-many-sensors"
            sensor = self.sensors[name] = _Sensor(stamp, stamp)
        elif self.reset is not None and sensor.newest - stamp > self.reset:
            self.counts["set back"] += 1
            sensor.newest, sensor.filled, sensor.times = stamp, 0, set()
        elif stamp < sensor.newest - self.grace:
            return "late"
        elif stamp in sensor.times:
            self.counts["duplicate"] += 1
            return None
        self.counts["accepted"] += 1
        sensor.newest, sensor.peak = max(sensor.newest, stamp), max(sensor.peak, stamp)
        sensor.times = {time for time in sensor.times if time >= sensor.newest - self.grace} | {stamp}
        filled = self._fill(sensor, offset, event)
        tick = max(self.ttl // self.SWEEPS, 1)
        before, self.watermark = self.watermark, stamp if self.watermark is None else max(self.watermark, stamp)
        if before is not None and self.watermark // tick > before // tick:
            limit, known = self.watermark - self.ttl, len(self.sensors)
            self.sensors = {name: one for name, one in self.sensors.items() if one.peak >= limit}
            self.counts["expired"] += known - len(self.sensors)
        return filled

    def _fill(self, sensor: _Sensor, offset: int, event: Good) -> Filled | None:
        holes = tuple(place for place, value in enumerate(event.values) if value is None)
        row = []
        for place, value in enumerate(event.values):
            if value is None:
                value = sensor.last.get(place, self.mean)
            else:
                sensor.last[place] = value
            row.append(value)
        sensor.rows.append((event.stamp, offset, tuple(row), holes))
        while len(sensor.rows) > self.length:
            sensor.rows.popleft()
        sensor.filled += 1
        if sensor.filled < self.length or (sensor.filled - self.length) % self.stride:
            return None
        self.counts["windows"] += 1
        rows = sensor.rows
        return Filled(
            event.sensor,
            rows[0][1],
            rows[0][0],
            event.stamp,
            max(value for _, _, values, _ in rows for value in values),
            frozenset(place for _, _, _, holes in rows for place in holes),
        )

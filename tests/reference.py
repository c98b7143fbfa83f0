"""The rules of event time as a plain loop over events: what `stream_detector.windows` must equal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stream_detector.events import Events
from stream_detector.sensors import Rules
from stream_detector.windows import SWEEPS


@dataclass
class Sensor:
    newest: int
    peak: int
    filled: int = 0
    rows: list[tuple[int, int, list[float], list[bool]]] = field(default_factory=list)
    last: dict[int, float] = field(default_factory=dict)
    times: set[int] = field(default_factory=set)


def reference_windows(events: Events, rules: Rules) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """All windows, and (offset, reason) of the rejects, in offset order."""
    sensors: dict[str, Sensor] = {}
    watermark: int | None = None
    windows, rejects = [], []
    tick = max(rules.ttl // SWEEPS, 1)
    for name, time, values, offset in zip(
        events.sensors, events.timestamps.tolist(), events.values.tolist(), events.offsets.tolist(), strict=True
    ):
        sensor = sensors.get(name)
        if sensor is None:
            if rules.known is not None and name not in rules.known:
                rejects.append((offset, "unknown-sensor"))
                continue
            if len(sensors) >= rules.max_sensors:
                rejects.append((offset, "too-many-sensors"))
                continue
            sensor = sensors[name] = Sensor(newest=time, peak=time)
        elif rules.clock_reset is not None and sensor.newest - time > rules.clock_reset:
            sensor.newest, sensor.filled, sensor.times = time, 0, set()
        elif time < sensor.newest - rules.grace:
            rejects.append((offset, "late"))
            continue
        elif rules.duplicates == "drop" and time in sensor.times:
            continue
        elif (gap := rules.own_gaps.get(name, rules.max_gap)) is not None and time - sensor.newest > gap:
            sensor.filled = 0
        row, imputed = [], []
        for index, value in enumerate(values):
            missing = bool(np.isnan(value))
            if not missing:
                sensor.last[index] = value
            elif rules.missing == "last" and index in sensor.last:
                value = sensor.last[index]
            else:
                value = float(np.float32(rules.means[index]))
            row.append(value)
            imputed.append(missing)
        sensor.newest, sensor.peak = max(sensor.newest, time), max(sensor.peak, time)
        sensor.times.add(time)
        sensor.filled += 1
        sensor.rows.append((time, offset, row, imputed))
        if sensor.filled >= rules.length and (sensor.filled - rules.length) % rules.stride == 0:
            last = sensor.rows[-rules.length :]
            windows.append(
                {
                    "sensor": name,
                    "values": [values for _, _, values, _ in last],
                    "timestamps": [last[0][0], last[-1][0]],
                    "offsets": [last[0][1], last[-1][1]],
                    "imputed": np.any([imputed for _, _, _, imputed in last], axis=0).tolist(),
                }
            )
        before, watermark = watermark, time if watermark is None else max(watermark, time)
        if before is not None and watermark // tick > before // tick:
            sensors = {name: s for name, s in sensors.items() if s.peak >= watermark - rules.ttl}
    return windows, rejects

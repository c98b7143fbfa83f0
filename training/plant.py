"""A simulated plant of pumps, for the demo and for tests whose truth must be known.

Each pump follows textbook hydraulics: a speed set-point with a daily rhythm and random steps, the affinity
laws, a pump curve that meets a system curve behind a valve, motor power through an efficiency curve, and
temperatures that lag behind losses. Features are therefore coupled, as in a real plant, and a fault shows
first in how they relate.

Faults exist only where they are planned, and what is drawn at random does not depend on them: with and
without a fault, every reading before its start is the same.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np

from stream_detector.events import Bool, Float64, Int64
from stream_detector.timestamps import parse, rfc3339_all

UNITS = {
    "speed": "rpm",
    "flow": "m3/h",
    "pressure": "bar",
    "current": "A",
    "vibration": "mm/s",
    "bearing_temperature": "degC",
    "motor_temperature": "degC",
}
FEATURES = tuple(UNITS)
NOISE = (2.0, 0.25, 0.02, 0.12, 0.06, 0.15, 0.2)  # standard deviation of a reading, by feature, in its unit

Kind: TypeAlias = Literal["bearing-wear", "leak", "stuck-sensor", "calibration-drift", "cavitation"]
KINDS: tuple[Kind, ...] = get_args(Kind)

MINUTE, DAY = 60_000, 86_400_000  # ms
START = parse("2026-09-07T00:00:00Z", UTC)
MISSED = 0.003  # share of values that a reading lacks
DROPPED = 0.01  # share of readings that never arrive
JITTER = 0.1  # standard deviation of the time between readings, in periods


@dataclass(frozen=True, slots=True)
class Fault:
    """Ground truth, kept apart from the data."""

    sensor: str
    kind: Kind
    start: int  # epoch ms
    end: int


@dataclass(frozen=True, slots=True)
class Readings:
    """What the sensors sent, in time order. ``n`` readings, ``F`` features."""

    sensors: list[str]  # (n)
    timestamps: Int64  # (n) epoch ms
    values: Float64  # (n, F) NaN where a value is missing

    def between(self, start: int, end: int) -> Readings:
        """Those from ``start`` to before ``end``, epoch ms."""
        chosen = (self.timestamps >= start) & (self.timestamps < end)
        sensors = [self.sensors[row] for row in np.flatnonzero(chosen)]
        return Readings(sensors, self.timestamps[chosen], self.values[chosen])


@dataclass(frozen=True, slots=True)
class Plant:
    """Where the files are, and what is wrong in the second."""

    train: Path
    stream: Path
    faults: list[Fault]


def write_plant(
    folder: Path,
    *,
    pumps: int = 6,
    train_days: float = 5,
    stream_days: float = 2,
    period_ms: int = MINUTE,
    seed: int = 7,
) -> Plant:
    """Write ``train.csv`` (nothing wrong) and ``stream.csv`` (what follows it, with faults)."""
    middle = START + round(train_days * DAY)
    end = middle + round(stream_days * DAY)
    faults = plan_faults(pumps, middle, end, seed)
    readings = simulate(pumps, end - START, period_ms, seed, faults)
    folder.mkdir(parents=True, exist_ok=True)
    plant = Plant(folder / "train.csv", folder / "stream.csv", faults)
    write_csv(plant.train, readings.between(START, middle))
    write_csv(plant.stream, readings.between(middle, end))
    return plant


def plan_faults(pumps: int, start: int, end: int, seed: int) -> list[Fault]:
    """One fault each on all pumps but the last, which stays well; kinds take turns. Times are epoch ms.

    None starts in the first fifth, so that there is something normal to see first.
    """
    rng = np.random.default_rng((seed, 1))
    span = end - start
    faults = []
    for pump in range(max(1, pumps - 1)):
        length = int(span * rng.uniform(0.1, 0.2))
        begin = start + int(span * rng.uniform(0.2, 0.7))
        faults.append(Fault(f"pump-{pump + 1}", KINDS[pump % len(KINDS)], begin, begin + length))
    return faults


def simulate(
    pumps: int, span_ms: int, period_ms: int, seed: int, faults: Sequence[Fault] = (), start: int = START
) -> Readings:
    """Readings of all pumps over ``span_ms``, merged in time order; the same for the same seed."""
    steps = span_ms // period_ms
    parts = []
    for pump in range(pumps):
        sensor = f"pump-{pump + 1}"
        rng = np.random.default_rng((seed, 0, pump))
        times = _times(rng, start, steps, period_ms)
        own = [fault for fault in faults if fault.sensor == sensor]
        values = _measure(rng, times, _run(rng, times, own, period_ms), own)
        kept = rng.random(steps) >= DROPPED
        parts.append((sensor, times[kept], values[kept]))
    stamps = np.concatenate([times for _, times, _ in parts])
    order = np.argsort(stamps, kind="stable")
    names = [sensor for sensor, times, _ in parts for _ in range(len(times))]
    values = np.concatenate([values for _, _, values in parts])
    return Readings([names[row] for row in order], stamps[order], values[order])


def write_csv(path: Path, readings: Readings) -> None:
    """One line a reading: ``sensor_id,timestamp,`` and the features; a missing value is an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["sensor_id", "timestamp", *FEATURES])
        stamps = rfc3339_all(readings.timestamps)
        for sensor, stamp, values in zip(readings.sensors, stamps, readings.values.tolist(), strict=True):
            writer.writerow([sensor, stamp, *("" if value != value else f"{value:.3f}" for value in values)])


def _times(rng: np.random.Generator, start: int, steps: int, period_ms: int) -> Int64:
    """Irregular, strictly rising times (steps)."""
    offsets = np.clip(rng.normal(0, JITTER, steps), -0.4, 0.4) + np.arange(steps) + 0.5
    return start + np.round(offsets * period_ms).astype(np.int64)


def _run(rng: np.random.Generator, times: Int64, faults: Sequence[Fault], period_ms: int) -> Float64:
    """The true state (steps, F) of one pump, before it is measured."""
    n = len(times)
    day = 2 * np.pi * (times % DAY) / DAY
    # What is drawn comes first and in full, so that faults do not shift the random numbers.
    build = 1 + 0.03 * rng.standard_normal(5)  # no two pumps are the same
    phase = 0.4 * rng.standard_normal()
    load = _steps(rng, n, 180 * MINUTE / period_ms, 0.07)
    valve = np.clip(0.8 + _steps(rng, n, 240 * MINUTE / period_ms, 0.06), 0.55, 1.0)
    weather = _lag(rng.standard_normal(n) * 12, 600 * MINUTE / period_ms)
    boiling, growl = rng.standard_normal(n), rng.standard_normal(n)
    wear, leak, cavitation = (_strength(times, faults, kind) for kind in ("bearing-wear", "leak", "cavitation"))

    speed = np.clip(0.82 + 0.08 * np.sin(day - 2.2 + phase) + load, 0.55, 1.05)  # of the nominal 2,900 rpm
    speed = _lag(speed, 2 * MINUTE / period_ms)
    valve = _lag(valve, 2 * MINUTE / period_ms)
    ambient = 21 + 4 * np.sin(day - 2.6) + weather

    # Pump curve against system curve; head in bar, flow in m3/h. A starved inlet takes head away, unsteadily.
    head = 8.0 * build[0] * speed**2 * (1 - cavitation * np.clip(0.22 + 0.05 * boiling, 0, 0.5))
    steep, resistance = 4.0e-4 * build[1], 6.0e-4 * build[2] / valve**2
    pressure, flow, through = _balance(head, steep, resistance, static=0.6, leak=9.0 * leak)
    best = 78 * speed  # the flow of best efficiency moves with speed
    efficiency = 0.74 * build[3] * (1 - 0.6 * ((through - best) / best) ** 2)
    power = through * pressure / 36 / np.clip(efficiency, 0.2, 1) + 1.6 * speed**3 + 0.8 * wear  # kW
    current = power / (1.732 * 0.4 * 0.86)  # three phases, 400 V, power factor 0.86
    vibration = 0.8 * build[4] + 1.3 * speed**2 + 2.4 * wear * speed
    vibration += cavitation * np.abs(2.0 + 0.8 * boiling) + 0.05 * growl
    motor = _lag(ambient + 0.1 * current**2, 30 * MINUTE / period_ms)
    bearing = _lag(ambient + 18 * speed**2 + 24 * wear * speed + 0.15 * (motor - ambient), 15 * MINUTE / period_ms)
    return np.column_stack([2_900 * speed, flow, pressure, current, vibration, bearing, motor])


def _measure(rng: np.random.Generator, times: Int64, state: Float64, faults: Sequence[Fault]) -> Float64:
    """Readings (steps, F): noise, then faults of the sensors themselves, then gaps."""
    values: Float64 = state + rng.standard_normal(state.shape) * np.array(NOISE)
    missed = rng.random(state.shape) < MISSED
    for fault in faults:
        during = _during(times, fault)
        if not during.any():
            continue
        if fault.kind == "stuck-sensor":
            flow = FEATURES.index("flow")
            values[during, flow] = values[np.flatnonzero(during)[0], flow]
        elif fault.kind == "calibration-drift":
            drift = (times[during] - fault.start) / (fault.end - fault.start)
            values[during, FEATURES.index("pressure")] *= 1 + 0.3 * drift
    values[:, FEATURES.index("vibration")] = np.abs(values[:, FEATURES.index("vibration")])
    values[missed] = np.nan
    return values


def _balance(
    head: Float64, steep: float, resistance: Float64, static: float, leak: Float64
) -> tuple[Float64, Float64, Float64]:
    """Where pump and system meet: pressure (bar), flow behind the leak and flow through the pump (m3/h).

    Pump: p = head - steep q^2. System: p = static + resistance f^2. A leak lets leak sqrt(p) out between
    them.
    """
    low, high = np.full_like(head, static), head.copy()
    for _ in range(40):  # bisection: what the pump gives falls with pressure, what system and leak take rises
        middle = (low + high) / 2
        given = np.sqrt(np.maximum(head - middle, 0) / steep)
        taken = np.sqrt(np.maximum(middle - static, 0) / resistance) + leak * np.sqrt(middle)
        low, high = np.where(given > taken, middle, low), np.where(given > taken, high, middle)
    pressure = (low + high) / 2
    flow = np.sqrt(np.maximum(pressure - static, 0) / resistance)
    return pressure, flow, flow + leak * np.sqrt(pressure)


def _steps(rng: np.random.Generator, n: int, mean_length: float, spread: float) -> Float64:
    """A level that jumps at random moments (n)."""
    jumps = rng.random(n) < 1 / mean_length
    levels: Float64 = rng.normal(0, spread, n)
    at = np.maximum.accumulate(np.where(jumps, np.arange(n), 0))
    return levels[at]


def _lag(wanted: Float64, steps: float) -> Float64:
    """First-order lag with a time constant of so many steps (n)."""
    gain = 1 - np.exp(-1 / steps)
    followed = np.empty_like(wanted)
    now = float(wanted[0]) if len(wanted) else 0.0
    for step, target in enumerate(wanted.tolist()):
        now += gain * (target - now)
        followed[step] = now
    return followed


def _during(times: Int64, fault: Fault) -> Bool:
    return (times >= fault.start) & (times < fault.end)


def _strength(times: Int64, faults: Sequence[Fault], kind: Kind) -> Float64:
    """How bad a fault is, 0..1 (n): wear grows to the end, the others within a tenth of their span."""
    strength = np.zeros(len(times))
    for fault in faults:
        if fault.kind == kind:
            during = _during(times, fault)
            progress = (times[during] - fault.start) / (fault.end - fault.start)
            strength[during] = progress if kind == "bearing-wear" else np.minimum(1, 10 * progress)
    return strength

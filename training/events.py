"""A table of events with a label per sensor, as made by people who know which sensors raised an alert.

One row an event: ``sensor_id,timestamp,feature_1,feature_2,10_days_alert_label``, sorted by sensor, then time.
The label says whether the sensor had an alert within the ten days; about one in twenty had.

Feature 1 is a load, feature 2 answers it a few events later. On a sensor with an alert the answer comes apart
from the load for hours at a time: feature 2 then follows a load of its own, of the same kind. Neither feature
says anything alone, in level, spread or speed: the fault is in how they relate. All sensors, well or not, have
bursts in which both rise beyond their usual range, and differ in level and gain.

``python -m training.events OUT.csv`` writes such a table.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

import numpy as np

from stream_detector.events import Bool, Float64, Int64
from stream_detector.timestamps import parse

COLUMNS = ("sensor_id", "timestamp", "feature_1", "feature_2", "10_days_alert_label")
DAY = 86_400_000  # ms
START = parse("2020-12-20T01:00:00Z", UTC)
PERIOD = 160_000  # ms between events, on average
ALERT_SHARE = 0.05  # of the sensors
DELAY = 3  # events by which feature 2 follows feature 1
FADE = 12  # events in which a fault comes and goes
NOISE = 0.012  # standard deviation of what either feature has for itself


@dataclass(frozen=True, slots=True)
class EventTable:
    """Where the table is, and what it holds."""

    path: Path
    labels: dict[str, int]  # by sensor, 1: had an alert
    faults: dict[str, list[tuple[int, int]]]  # of the sensors with an alert: spans, epoch ms; not in the table


def write_events(
    path: Path,
    *,
    sensors: int = 200,
    days: float = 10,
    seed: int = 0,
    period_ms: int = PERIOD,
    alert_share: float = ALERT_SHARE,
    first: int = 1,
) -> EventTable:
    """Write the table to ``path``; the same bytes for the same arguments.

    Of the sensors, ``alert_share`` have an alert: rounded, but one at least unless the share is 0. Their ids are
    numbers from ``first`` on: a second table of other sensors must not name those of the first.
    """
    if sensors < 1 or days * DAY < 100 * period_ms:
        raise ValueError(f"{sensors} sensors over {days} days: give 1 or more, and time for 100 events")
    if not 0 <= alert_share <= 1:
        raise ValueError(f"alert_share {alert_share} must be within 0 and 1")
    alerts = max(1, round(sensors * alert_share)) if alert_share > 0 else 0
    chosen = set(np.random.default_rng((seed, 1)).permutation(sensors)[:alerts].tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    table = EventTable(path, {}, {})
    with table.path.open("w", newline="", encoding="utf-8") as stream:
        stream.write(",".join(COLUMNS) + "\n")
        for at in range(sensors):
            sensor, label = str(at + first), int(at in chosen)
            times, values, faulty = simulate(np.random.default_rng((seed, 0, at)), round(days * DAY), period_ms, label)
            table.labels[sensor] = label
            if label:
                table.faults[sensor] = [(int(times[a]), int(times[b - 1])) for a, b in _runs(faulty)]
            stamps = np.datetime_as_string(times.astype("datetime64[ms]"), unit="ms")
            stream.writelines(
                f"{sensor},{stamp.replace('T', ' ')},{one:.3f},{two:.3f},{label}\n"
                for stamp, (one, two) in zip(stamps.tolist(), values.tolist(), strict=True)
            )
    return table


def simulate(rng: np.random.Generator, span_ms: int, period_ms: int, label: int) -> tuple[Int64, Float64, Bool]:
    """One sensor's times (n), features (n, 2) within 0..1, and when it is faulty (n).

    What is drawn does not depend on the label: without a fault, a sensor's events are the same.
    """
    # Gaps of every length: mostly about a period, some much longer.
    gaps = np.maximum(1, rng.gamma(2.0, period_ms / 2.0, int(span_ms / period_ms * 1.2) + 100)).astype(np.int64)
    times = START + np.cumsum(gaps)
    times = times[times < START + span_ms]
    n = len(times)
    level, swing, gain, lift = rng.uniform((0.2, 0.8, 0.7, 0.05), (0.3, 1.2, 1.1, 0.12))
    load, other = (level + 0.06 * swing * _load(rng, times) for _ in range(2))
    burst = 0.18 * _episodes(rng, times, 2.0, 0.04)  # a busy hour now and then, no fault
    noise = NOISE * rng.standard_normal((2, n))
    faulty = _episodes(rng, times, 8.0, 1.2) if label else np.zeros(n, bool)
    if label and not faulty.any():
        faulty[n // 3 : n // 2] = True
    astray = np.convolve(faulty, np.ones(FADE) / FADE, "same")  # (n) no jump where a fault begins or ends
    answer = astray * other + (1 - astray) * np.roll(load, DELAY)
    answer[:DELAY] = load[:DELAY]
    one = load + burst + noise[0]
    two = lift + gain * (answer + np.roll(burst, DELAY)) + noise[1]
    return times, np.clip(np.column_stack([one, two]), 0.0, 1.0), faulty


def _load(rng: np.random.Generator, times: Int64) -> Float64:
    """A daily rhythm and a wandering part, of standard deviation 1 together (n)."""
    n = len(times)
    day = np.sin(2 * np.pi * ((times % DAY) / DAY + rng.random()))
    keep = 0.93  # of the wandering part, from event to event
    shocks = rng.standard_normal(n) * np.sqrt(1 - keep**2)
    wander, now = np.empty(n), float(rng.standard_normal())
    for at, shock in enumerate(shocks.tolist()):
        now = keep * now + shock
        wander[at] = now
    found: Float64 = 0.6 * np.sqrt(2) * day + 0.8 * wander
    return found


def _episodes(rng: np.random.Generator, times: Int64, hours: float, a_day: float) -> Bool:
    """Episodes at random moments (n): of so many hours on average, so many a day."""
    span = int(times[-1] - times[0])
    during = np.zeros(len(times), bool)
    for _ in range(rng.poisson(a_day * span / DAY)):
        begin = times[0] + rng.uniform(0, 0.95) * span
        during |= (times >= begin) & (times < begin + rng.uniform(0.6, 1.4) * hours * DAY / 24)
    return during


def _runs(during: Bool) -> list[tuple[int, int]]:
    """Where it holds: first row and the row after the last, of each run."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], during.astype(np.int8), [0]])))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def main() -> None:
    """Write a table as the command line says; a mistake is one line on standard error and exit code 2."""
    parser = argparse.ArgumentParser(
        "python -m training.events", description="Write a table of events, labelled per sensor."
    )
    parser.add_argument("out", type=Path, metavar="OUT.csv")
    parser.add_argument("--sensors", type=int, default=200, help=f"of which {ALERT_SHARE:.0%}% had an alert (200)")
    parser.add_argument("--days", type=float, default=10, help="that it spans (10)")
    parser.add_argument("--seed", type=int, default=0, help="the same one writes the same bytes (0)")
    parser.add_argument("--first", type=int, default=1, help="number of the first sensor (1); others for a test set")
    given = parser.parse_args()
    try:
        table = write_events(given.out, sensors=given.sensors, days=given.days, seed=given.seed, first=given.first)
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")
    parser.exit(0, f"wrote {len(table.labels)} sensors, {sum(table.labels.values())} with an alert, to {given.out}\n")


if __name__ == "__main__":
    main()

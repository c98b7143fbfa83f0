"""How much of what an installation needs, from constants that were measured: ``stream-detector size``.

Where each constant comes from stands beside it: the pages and programs of this project that measured it, on two cores
of a virtual machine and without a GPU. Other machines differ, hence `SPARE`; measure on yours with ``make throughput``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stream_detector.errors import SettingsError

# Redis, docs/guarantees.md "Bounds". Rows of a sensor are trimmed at four times what must be kept.
TRIM = 4
ROW = 16  # bytes of a row beside its values: timestamp and offset
IN_FLIGHT = 8  # rows of a sensor in flight, at least
# Redis reserves ahead for strings that grow, most before their first trim. So many rows beyond the formula were above
# all that was measured there, by 8 % at most: 19,024 B (W 64, F 8), 9,487 B (W 16, F 8), 8,401 B (W 64, F 1).
RESERVED = 117
# Single metrics, of which windows are held against those before (`novelty`): values kept of a sensor, with what a hash
# takes for their chunks and peaks, as 10,154 B (W 48), 11,026 B (W 64) and 23,023 B (W 500) were measured.
KEPT_EVENTS, KEPT_LENGTHS, KEPT_CHUNK, KEPT_OVERHEAD = 2_000, 8, 128, 1.3
REDIS_ITSELF = 10_000_000  # bytes of a server without data

# Seconds of one worker, README "How fast": 300,000 events, W 64, F 8, the default model. 60,200 events/s with stride 64
# and 39,300 with stride 8 are these two lines: so much for each event, so much for each window.
EVENT_SECONDS = 15.3e-6
WINDOW_SECONDS = 81e-6
NOVELTY_SECONDS = 110e-6  # beside those of a window, of single metrics
MEASURED_LENGTH = 64
# Where every event is another sensor's, a batch touches many rows: so much more for each event at 100,000 sensors, from
# the 29,400 events/s of docs/guarantees.md "An hour under load" (W 16, stride 8; the producer on the same cores), less
# what an event and a window took when that was measured, before the score had parts beside the model's.
CROWDED_SENSORS, CROWDED_SECONDS = 100_000, 21.7e-6
SPARE = 2.0  # times the load, to catch up after an outage: the hour under load ran at half of the highest rate

# Memory of a worker, docs/guarantees.md "Bounds".
WORKER_ITSELF = 1_200_000_000  # bytes, most of it TensorFlow
WORKER_SENSOR = 200  # bytes a sensor
WORKER_BATCHES = 2 * 268_435_456 + 33_554_432  # two batches' windows, and what is fetched and not yet polled

# Of the device, counted and not measured: for each LSTM unit and step four gates, cell and output, of each value the
# input, its scaled form, the reconstruction and the residual; all float32.
UNIT_VALUES, FEATURE_VALUES, FLOAT = 6, 4, 4
MAX_BATCH_WINDOWS = 1_024  # device.max_batch_windows

SENSORS_A_PARTITION = 50_000  # half of window.max_sensors: a hash spreads sensors unevenly
FEWEST_PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be borne."""

    sensors: int
    rate: float  # events a second, of all sensors together
    window: int = 64  # events
    stride: int = 8  # events
    features: int = 8
    units: tuple[int, ...] = (100, 100)  # of the model's recurrent layers, decoder included

    def __post_init__(self) -> None:
        """Raises `SettingsError` for what cannot be."""
        for name, value in (("sensors", self.sensors), ("window", self.window), ("features", self.features)):
            if value < 1:
                raise SettingsError(f"--{name} {value}: give 1 or more")
        if not 0 < self.rate < math.inf:
            raise SettingsError(f"--rate {self.rate:g}: give events a second, more than 0")
        if not 1 <= self.stride <= self.window:
            raise SettingsError(f"--stride {self.stride}: give 1 to {self.window}, the window")


@dataclass(frozen=True, slots=True)
class Size:
    """What that takes. Memory in bytes."""

    partitions: int  # of the events topic
    workers: int
    worker_rate: float  # events a second that one worker was seen to manage
    redis: int  # in all; without what a rewrite of the append-only file or a fork takes meanwhile
    redis_sensor: int
    worker: int  # of each
    device: int  # of each worker's device, beside what the framework itself takes

    def table(self) -> list[tuple[str, str]]:
        """As people read it."""
        return [
            ("partitions", f"{self.partitions} (the most workers there can be; their number cannot fall later)"),
            ("workers", f"{self.workers} (one manages {self.worker_rate:,.0f} events/s; {SPARE:g} times the load)"),
            ("memory of a worker", _text(self.worker)),
            ("Redis memory", f"{_text(self.redis)} ({self.redis_sensor:,} B a sensor; maxmemory must be above this)"),
            ("device memory", f"{_text(self.device)} a worker, beside the framework's own (counted, not measured)"),
        ]


def size(load: Load) -> Size:
    """What ``load`` takes."""
    rate = worker_rate(load)
    workers = max(1, math.ceil(load.rate * SPARE / rate))
    partitions = max(FEWEST_PARTITIONS, 2 * workers, math.ceil(load.sensors / SENSORS_A_PARTITION))
    own = math.ceil(load.sensors / workers)
    each = redis_bytes(load)
    return Size(
        partitions=partitions,
        workers=workers,
        worker_rate=rate,
        redis=REDIS_ITSELF + load.sensors * each,
        redis_sensor=each,
        worker=WORKER_ITSELF + WORKER_BATCHES + own * (WORKER_SENSOR + FLOAT * kept_values(load)),
        device=device_bytes(load),
    )


def worker_rate(load: Load) -> float:
    """Events a second that one worker manages. Scoring a window takes as long as the window is."""
    each = WINDOW_SECONDS + (NOVELTY_SECONDS if load.features == 1 else 0)
    scoring = each * (load.window / MEASURED_LENGTH) / load.stride
    crowded = min(1.0, load.sensors / CROWDED_SENSORS) * CROWDED_SECONDS
    return 1 / (EVENT_SECONDS + scoring + crowded)


def redis_bytes(load: Load) -> int:
    """Bytes of one sensor at their most."""
    row = ROW + FLOAT * load.features + math.ceil(load.features / 8)
    in_flight = max(IN_FLIGHT, math.ceil(load.rate / load.sensors))  # of a second: two polls
    rows = TRIM * (load.window - 1 + in_flight) * row + RESERVED * row
    return rows + math.ceil(KEPT_OVERHEAD * FLOAT * kept_values(load))


def kept_values(load: Load) -> int:
    """Values of one sensor that windows are held against, at their most: of single metrics."""
    if load.features > 1:
        return 0
    return max(KEPT_EVENTS, KEPT_LENGTHS * load.window) + load.window + KEPT_CHUNK


def device_bytes(load: Load) -> int:
    """Bytes of the largest batch and of the model."""
    inputs = (load.features, *load.units[:-1])
    weights = sum(4 * units * (before + units + 1) for before, units in zip(inputs, load.units, strict=True))
    step = UNIT_VALUES * sum(load.units) + FEATURE_VALUES * load.features
    return FLOAT * (weights + MAX_BATCH_WINDOWS * load.window * step)


def _text(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"

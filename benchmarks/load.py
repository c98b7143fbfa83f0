"""A producer of its own process that sends events of many sensors at a rate, for `benchmarks.soak`."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from ctypes import c_double
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from kafka import KafkaProducer

from benchmarks.service import run_command

FEATURES = tuple(f"f{number}" for number in range(8))
LENGTH, STRIDE = 16, 8
CYCLE = 4 * LENGTH  # events of a sensor after which its rows have been trimmed
PARTITIONS = 4
SENSORS, ROWS = 20, 600  # to train on
BURST = 200  # events between two looks at the clock
VARIANTS = 2_000  # different readings; sensors share them, since what they say does not matter here
AHEAD = 65_536  # events that may wait for the broker, so that the producer is held up by it


class Load:
    """Sends until the context ends, ``rate.value`` events a second; sensors take turns."""

    def __init__(self, bootstrap: str, topic: str, sensors: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.rate: Synchronized[float] = context.Value(c_double, 0.0)
        self._process = context.Process(target=send, args=(bootstrap, topic, sensors, self.rate), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join(10)

    def alive(self) -> None:
        if not self._process.is_alive():
            raise RuntimeError(f"the producer ended by itself with exit code {self._process.exitcode}")


def send(bootstrap: str, topic: str, sensors: int, rate: Synchronized[float]) -> None:
    """The child process."""
    producer = KafkaProducer(
        bootstrap_servers=bootstrap,
        linger_ms=50,
        batch_size=256 * 1024,
        compression_type="lz4",
    )
    readings = [text.encode() for text in bodies()]
    names = [f"sensor-{number:06}".encode() for number in range(sensors)]
    due, number, turns = time.monotonic(), 0, order(sensors)
    while True:
        pace = rate.value
        if pace <= 0:
            time.sleep(0.05)
            due = time.monotonic()
            continue
        stamp = b"%d" % round(time.time() * 1_000)
        for _ in range(BURST):
            at = next(turns)
            value = b'{"sensor_id":"%s","timestamp":%s,"values":%s}' % (names[at], stamp, readings[number % VARIANTS])
            future = producer.send(topic, value, names[at], partition=at % PARTITIONS)
            number += 1
        if number % AHEAD < BURST:
            future.get(60)  # an error would else go unnoticed
        due += BURST / pace
        now = time.monotonic()
        if due > now:
            time.sleep(due - now)
        elif now - due > 1:
            due = now  # it cannot be made up for


def order(sensors: int) -> Iterator[int]:
    """Whose turn it is. At first so that no two neighbours stand at the same place of the cycle in which their rows
    grow and are trimmed: all at once would look like memory that comes and goes."""
    for least in range(CYCLE, 0, -1):
        yield from (at for at in range(sensors) if at % CYCLE >= least - 1)
    while True:
        yield from range(sensors)


def fill(sensors: int) -> int:
    """Events until sensors take turns evenly."""
    return sum(at % CYCLE + 1 for at in range(sensors))


def bodies() -> list[str]:
    """Readings as JSON."""
    values = np.random.default_rng(1).normal(0, 1, (VARIANTS, len(FEATURES))).round(3)
    return ["{" + ",".join(f'"{f}":{v}' for f, v in zip(FEATURES, row, strict=True)) + "}" for row in values.tolist()]


def train(work: Path) -> Path:
    """A small bundle; that it is any good does not matter."""
    file, bundle = work / "training.csv", work / "bundle"
    rng = np.random.default_rng(2)
    lines = [",".join(("sensor_id", "timestamp", *FEATURES))]
    for row in range(ROWS):
        for sensor in range(SENSORS):
            values = ",".join(f"{value:.3f}" for value in rng.normal(0, 1, len(FEATURES)))
            lines.append(f"sensor-{sensor:06},{1_700_000_000_000 + row * 1_000},{values}")
    file.write_text("\n".join(lines) + "\n", "utf-8")
    size = ("--window", str(LENGTH), "--stride", str(STRIDE), "--epochs", "2", "--units", "16")
    run_command("train", str(file), "--out", str(bundle), *size, log=work / "train.log")
    return bundle

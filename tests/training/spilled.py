"""A training on more data than it may hold; ``python -m tests.training.spilled OUT PIECES`` tells its peak memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stream_detector.events import Events
from training.options import Session, TrainOptions
from training.train import train

FEATURES = tuple(f"f{at}" for at in range(32))
SENSORS = 3
PIECE = 9_000  # events
MEMORY = 4 * 2**20  # bytes of events to hold
OPTIONS = TrainOptions(kind="dense", length=8, stride=4, units=(8, 3), epochs=1, max_windows=2_000, seed=1)


def pieces(count: int) -> Iterator[Events]:
    """One after the other, each made when it is asked for: noise around levels, some values missing."""
    for at in range(count):
        rng = np.random.default_rng(at)
        values = rng.normal(np.arange(len(FEATURES)), 1, (PIECE, len(FEATURES))).astype(np.float32)
        values[rng.random(values.shape) < 0.01] = np.nan
        offsets = at * PIECE + np.arange(PIECE)
        names = [f"a sensor with a name of the usual length, {place % SENSORS}" for place in range(PIECE)]
        yield Events(names, offsets // SENSORS * 60_000, values, offsets, np.full(PIECE, -1))


def main(out: str, count: str) -> None:
    session = Session(pictures=False, memory=MEMORY)
    train(pieces(int(count)), FEATURES, OPTIONS, Path(out), session=session)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)  # noqa: T201 # for the test that started it


if __name__ == "__main__":
    main(*sys.argv[1:])

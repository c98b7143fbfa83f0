"""Quality and cost of every model on the same data: ``python -m benchmarks.models --data FOLDER`` (`make models`).

Each kind learns a set's training rows and streams the rest through the service's own replay, as in `benchmarks.quality`
but judged by the model alone, without the parts beside it: those are the same whichever the model is. Writes the table
that `docs/models.md` has: medians over seeds, of the F1 the range too. Seconds are of this machine; compare rows, not
machines.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from benchmarks.quality import PLANS, Figures, figures, learn, stream_through
from benchmarks.sets import Stream, read_set
from stream_detector.bundle import load_bundle
from stream_detector.detector import Detector
from stream_detector.errors import StreamDetectorError
from training.autoencoders import FAMILY
from training.options import TrainOptions

WIDE = {"dense": (64, 8)}  # units where the kind's own are for rows of about 1,600 numbers
SCORED = 8_192  # windows whose scoring is timed
TIMES = 5  # of which the fastest counts
HEAD = "| model | F1 | precision | recall | FAR % | VUS-PR | parameters | training, s | windows/s |"

console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=str(__doc__).partition(":")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="holds the sets")
    parser.add_argument("--set", default="asd", choices=list(PLANS))
    parser.add_argument("--models", default=",".join([*FAMILY, "denoising+lstm", "sparse+dense", "contractive+dense"]))
    parser.add_argument("--epochs", type=int, default=TrainOptions().epochs)
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    given = parser.parse_args(arguments)
    lines = [HEAD, "|---|" + "---:|" * 8]
    try:
        streams = read_set(given.set, given.data)
        for name in given.models.split(","):
            lines.append(
                row(name, [measure(name, given.set, streams, given.epochs, seed) for seed in range(given.seeds)])
            )
            console.print(lines[-1], highlight=False, soft_wrap=True)
    except StreamDetectorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


class Measured(NamedTuple):
    """What one training of a model came to, and what it cost."""

    f1: float
    precision: float
    recall: float
    far: float  # percent of normal rows under alert
    vus_pr: float
    parameters: int
    seconds: float  # of training
    speed: float  # windows scored a second


def row(name: str, seeds: Sequence[Measured]) -> str:
    """One line of the table."""
    middle = Measured(*np.median(np.array(seeds), axis=0))
    low, high = (f"{end(one.f1 for one in seeds):.2f}" for end in (min, max))
    told = [f"{middle.f1:.2f}" + (f" ({low}–{high})" if low != high else "")]
    told += [f"{value:.2f}" for value in (middle.precision, middle.recall, middle.far, middle.vus_pr)]
    told += [f"{value:,.0f}" for value in (middle.parameters, middle.seconds, middle.speed)]
    return f"| `{name}` | " + " | ".join(told) + " |"


def measure(name: str, of: str, streams: Sequence[Stream], epochs: int, seed: int) -> Measured:
    """Learn a set's training rows, and stream the rest."""
    plan = PLANS[of]
    scored = [stream for stream in streams if len(stream.test)]
    options = TrainOptions(
        kind=name, length=plan.window, stride=plan.stride, epochs=epochs, units=WIDE.get(name.rpartition("+")[2]),
        seed=seed, partners=False,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        work = Path(folder)
        summary = learn(streams, options, work / "bundle")
        found: Figures = figures(of, scored, stream_through(work / "bundle", scored, plan, work))
        speed = windows_per_second(work / "bundle", scored[0], plan.window)
    return Measured(
        found.f1, found.precision, found.recall, found.far, found.vus_pr,
        summary.parameters, summary.seconds, speed,
    )  # fmt: skip


def windows_per_second(bundle: Path, stream: Stream, length: int) -> float:
    """How many windows the compiled scorer judges in a second, in the service's batches."""
    detector = Detector(load_bundle(bundle))
    views = np.lib.stride_tricks.sliding_window_view(stream.test.astype(np.float32), length, axis=0)
    windows = np.ascontiguousarray(np.moveaxis(views, -1, 1)[:SCORED])  # (n, W, F)
    detector.score(windows)  # compiles
    best = np.inf
    for _ in range(TIMES):
        started = time.perf_counter()
        detector.score(windows)
        best = min(best, time.perf_counter() - started)
    return len(windows) / float(best)


if __name__ == "__main__":
    sys.exit(main())

"""A small training; ``python -m tests.training.killed KIND OUT CHECKPOINTS STRIKE`` kills itself as it tells STRIKE."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.training.test_train import events
from training.options import Session
from training.progress import Progress, silent
from training.train import TrainOptions, train


def trained(kind: str, out: Path, folder: Path | None, progress: Progress = silent) -> None:
    """As the command does it, of labels too where the kind is dense."""
    given = events(1500)
    label = "label" if kind == "dense" else None
    if label:
        odd = (np.arange(1500) // 3 % 40 > 36).astype(np.float32)
        given = replace(given, values=np.column_stack([given.values, odd]).astype(np.float32))
    options = TrainOptions(
        kind=kind, length=8, stride=2, units=(12, 4) if kind == "stacked" else (6,), epochs=4, batch=64,
        seed=5, budget=2.0, label=label, fine_tune=label is not None,
    )  # fmt: skip
    session = Session(folder, resume=folder is not None, pictures=False)
    train([given], ["wave", "noise", "still"], options, out, progress, session=session)


def main(kind: str, out: str, folder: str, strike: str) -> None:
    def progress(stage: str, done: int, total: int, figures: object) -> None:
        print(stage, done, flush=True)  # noqa: T201 # for the test that started it
        if f"{stage} {done}" == strike:
            os.kill(os.getpid(), signal.SIGKILL)

    trained(kind, Path(out), Path(folder), progress)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The Skoltech Anomaly Benchmark (github.com/waico/SKAB) as it is published: files, split and metric for outliers."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stream_detector.errors import DataError
from stream_detector.events import Bool

TRAINING_ROWS = 400  # of each run, by the benchmark's rules; the rest is the stream to score
TIME, LABELS = "datetime", ("anomaly", "changepoint")


@dataclass(frozen=True, slots=True)
class Run:
    """One file: ``n`` rows in time order, cells as they stand there."""

    name: str  # the sensor id: folder and file
    features: tuple[str, ...]
    stamps: list[str]  # (n) local time that names no zone
    cells: list[list[str]]  # (n, F)
    anomalous: Bool | None  # (n) labels; None in the clean run


class Outliers(NamedTuple):
    """The benchmark's metric, rows pooled over all runs."""

    f1: float
    far: float  # percent of normal rows that were flagged
    mar: float  # percent of anomalous rows that were not


def read_runs(folder: Path) -> tuple[list[Run], list[Run]]:
    """Labelled runs, and clean ones. ``folder`` is the set's, or the one that holds it as ``skab``.

    Raises `DataError` if it is not there or holds no labelled run.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the one that holds the SKAB set")
    root = folder / "skab" if (folder / "skab").is_dir() else folder
    runs = [_read(path) for path in sorted(root.glob("*/*.csv*"))]
    labelled = [run for run in runs if run.anomalous is not None]
    if not labelled:
        raise DataError(f"{folder}: no file */*.csv with a column {LABELS[0]!r}; give the folder of the SKAB set")
    if len({run.features for run in runs}) > 1:
        raise DataError(f"{folder}: the files have different columns; give the folder of the SKAB set alone")
    return labelled, [run for run in runs if run.anomalous is None]


def outliers(flagged: Sequence[Bool], anomalous: Sequence[Bool]) -> Outliers:
    """F1, FAR and MAR over the rows of all runs."""
    said, truth = np.concatenate(flagged), np.concatenate(anomalous)
    hits, false = int((said & truth).sum()), int((said & ~truth).sum())
    missed, quiet = int((~said & truth).sum()), int((~said & ~truth).sum())
    f1 = 2 * hits / max(1, 2 * hits + false + missed)
    return Outliers(f1, 100 * false / max(1, false + quiet), 100 * missed / max(1, missed + hits))


def _read(path: Path) -> Run:
    packed = path.read_bytes()
    text = str(gzip.decompress(packed) if path.suffix == ".gz" else packed, "utf-8")
    header, *rows = csv.reader(text.splitlines(), delimiter=";")
    if TIME not in header:
        raise DataError(f"{path}: no column {TIME!r}; give the folder of the SKAB set")
    time, labels = header.index(TIME), {name: header.index(name) for name in LABELS if name in header}
    values = [at for at in range(len(header)) if at != time and at not in labels.values()]
    anomalous = np.array([float(row[labels[LABELS[0]]]) > 0 for row in rows]) if LABELS[0] in labels else None
    group, file = path.parent.name, path.name.partition(".")[0]
    return Run(
        file if file == group else f"{group}-{file}",
        tuple(header[at] for at in values),
        [row[time] for row in rows],
        [[row[at] for at in values] for row in rows],
        anomalous,
    )

"""The labelled sets as they are published, read from a folder: SKAB, ASD, SMD, NAB. See the set's own README on each.

A set becomes a list of streams, each with a part to learn from and a part to score. Labels go to the metrics alone.
"""

from __future__ import annotations

import csv
import gzip
import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stream_detector.adapters.files.formats import START
from stream_detector.errors import DataError
from stream_detector.events import Bool, Float64, Int64
from stream_detector.timestamps import parse
from training.metrics import Span, probation, rows, spans_of

TRAINING_ROWS = 400  # of each SKAB run, by the benchmark's rules; the rest is the stream to score
TIME, LABELS = "datetime", ("anomaly", "changepoint")
PERIODS = {"asd": 300_000, "smd": 60_000}  # ms; their files have no timestamps
SMD_COLUMNS = (  # by the authors, issue #22 of their repository
    "cpu_r",
    "load_1",
    "load_5",
    "load_15",
    "mem_shmem",
    "mem_u",
    "mem_u_e",
    "total_mem",
    "disk_q",
    "disk_r",
    "disk_rb",
    "disk_svc",
    "disk_u",
    "disk_w",
    "disk_wa",
    "disk_wb",
    "si",
    "so",
    "eth1_fi",
    "eth1_fo",
    "eth1_pi",
    "eth1_po",
    "tcp_tw",
    "tcp_use",
    "active_opens",
    "curr_estab",
    "in_errs",
    "in_segs",
    "listen_overflows",
    "out_rsts",
    "out_segs",
    "passive_opens",
    "retransegs",
    "tcp_timeouts",
    "udp_in_dg",
    "udp_out_dg",
    "udp_rcv_buf_errs",
    "udp_snd_buf_errs",
)


class Cause(NamedTuple):
    """Which columns are to blame for a labelled segment, by the set's authors."""

    span: Span  # rows of the part to score, both included
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stream:
    """One sensor: ``n`` rows to learn from, then ``m`` to score, ``F`` columns."""

    name: str
    columns: tuple[str, ...]
    train: Float64  # (n, F)
    train_times: Int64  # (n) epoch ms; synthetic where the files have none
    test: Float64  # (m, F)
    test_times: Int64  # (m)
    anomalous: Bool  # (m) rows within a labelled segment or window; all false in a clean run
    windows: tuple[Span, ...]  # labelled spans in rows of the part to score; NAB's may begin before row 0
    changes: Bool | None = None  # (m) rows where the state changes; SKAB alone
    causes: tuple[Cause, ...] = field(default=())  # ASD and SMD


@dataclass(frozen=True, slots=True)
class Run:
    """One file of SKAB: ``n`` rows in time order, cells as they stand there."""

    name: str  # the sensor id: folder and file
    features: tuple[str, ...]
    stamps: list[str]  # (n) local time that names no zone
    cells: list[list[str]]  # (n, F)
    anomalous: Bool | None  # (n) labels; None in the clean run
    changes: Bool | None = None  # (n) likewise


class Outliers(NamedTuple):
    """SKAB's metric, rows pooled over all runs."""

    f1: float
    far: float  # percent of normal rows that were flagged
    mar: float  # percent of anomalous rows that were not


def read_set(name: str, folder: Path) -> list[Stream]:
    """The streams of one of `SETS`. ``folder`` is the set's, or the one that holds it under its name.

    Raises `DataError` if it is not there or does not hold the set.
    """
    root = _root(folder, name)
    streams = SETS[name](root)
    if not any(len(stream.test) for stream in streams):
        raise DataError(f"{root}: holds no stream of the set {name}; give its folder, or the one that holds it")
    return streams


def read_skab(root: Path) -> list[Stream]:
    """The labelled runs, then the clean ones, which have no part to score."""
    labelled, clean = read_runs(root)
    return [_run_stream(run, TRAINING_ROWS) for run in labelled] + [_run_stream(run, len(run.stamps)) for run in clean]


def read_asd(root: Path) -> list[Stream]:
    """One stream a server; columns are called m1 to m19, as their names are withheld."""
    return _servers(root, "asd", end=1)


def read_smd(root: Path) -> list[Stream]:
    """One stream a machine, of those that are there."""
    return _servers(root, "smd", end=0)


def read_nab(root: Path) -> list[Stream]:
    """One stream a file; the probation is the part to learn from."""
    windows = _json(root / "labels" / "combined_windows.json")
    streams = []
    for path in sorted(root.glob("data/*/*.csv*")):
        name = f"{path.parent.name}/{path.name.removesuffix('.gz')}"
        if name not in windows:
            raise DataError(f"{path}: not in labels/combined_windows.json; give the folder of the NAB set")
        body = _table(path, ",")[1:]
        times = np.array([_time(path, row[0]) for row in body], np.int64)
        values = _numbers(path, [row[1:2] for row in body])
        spans = [_rows_within(times, *(_time(path, end) for end in window)) for window in windows[name]]
        cut = probation(len(times))
        flags = np.zeros(len(times), bool)
        for first, last in spans:
            flags[first : last + 1] = True
        streams.append(
            Stream(
                name.removesuffix(".csv"),
                ("value",),
                values[:cut],
                times[:cut],
                values[cut:],
                times[cut:],
                flags[cut:],
                tuple((first - cut, last - cut) for first, last in spans),
            )
        )
    return streams


SETS: dict[str, Callable[[Path], list[Stream]]] = {
    "skab": read_skab,
    "asd": read_asd,
    "smd": read_smd,
    "nab": read_nab,
}


def read_runs(folder: Path) -> tuple[list[Run], list[Run]]:
    """SKAB's labelled runs, and clean ones. ``folder`` is the set's, or the one that holds it as ``skab``.

    Raises `DataError` if it is not there or holds no labelled run.
    """
    runs = [_read_run(path) for path in sorted(_root(folder, "skab").glob("*/*.csv*"))]
    labelled = [run for run in runs if run.anomalous is not None]
    if not labelled:
        raise DataError(f"{folder}: no file */*.csv with a column {LABELS[0]!r}; give the folder of the SKAB set")
    if len({run.features for run in runs}) > 1:
        raise DataError(f"{folder}: the files have different columns; give the folder of the SKAB set alone")
    return labelled, [run for run in runs if run.anomalous is None]


def outliers(flagged: Sequence[Bool], anomalous: Sequence[Bool]) -> Outliers:
    """F1, FAR and MAR over the rows of all runs."""
    found = rows(flagged, anomalous)
    return Outliers(found.f1, found.far, found.mar)


def _read_run(path: Path) -> Run:
    header, *body = _table(path, ";")
    if TIME not in header:
        raise DataError(f"{path}: no column {TIME!r}; give the folder of the SKAB set")
    time, labels = header.index(TIME), {name: header.index(name) for name in LABELS if name in header}
    values = [at for at in range(len(header)) if at != time and at not in labels.values()]
    anomalous, changes = (
        np.array([float(row[labels[name]]) > 0 for row in body], bool) if name in labels else None for name in LABELS
    )
    group, file = path.parent.name, path.name.partition(".")[0]
    return Run(
        file if file == group else f"{group}-{file}",
        tuple(header[at] for at in values),
        [row[time] for row in body],
        [[row[at] for at in values] for row in body],
        anomalous,
        changes,
    )


def _run_stream(run: Run, cut: int) -> Stream:
    path = Path(run.name)
    times = np.array([_time(path, stamp) for stamp in run.stamps], np.int64)
    values = _numbers(path, run.cells)
    anomalous = np.zeros(len(times), bool) if run.anomalous is None else run.anomalous
    changes = None if run.changes is None else run.changes[cut:]
    parts = values[:cut], times[:cut], values[cut:], times[cut:], anomalous[cut:]
    return Stream(run.name, run.features, *parts, tuple(spans_of(anomalous[cut:])), changes)


def _servers(root: Path, name: str, *, end: int) -> list[Stream]:
    """ASD and SMD have one layout; ``end`` is what is added to the last row of an interpretation label."""
    period = PERIODS[name]
    streams = []
    for path in sorted(root.glob("test/*")):
        server = path.name.partition(".")[0]
        train, test = (_numbers(one, _table(one, ",")) for one in (_beside(root, "train", server), path))
        label = _beside(root, "test_label", server)
        anomalous = _numbers(label, _table(label, ","))[:, 0] > 0
        columns = SMD_COLUMNS if name == "smd" else tuple(f"m{at + 1}" for at in range(test.shape[1]))
        if not (train.shape[1] == test.shape[1] == len(columns) and len(anomalous) == len(test)):
            raise DataError(f"{path}: does not fit its train and label files; copy the set again")
        times = START + period * np.arange(len(train) + len(test), dtype=np.int64)
        spans = tuple(spans_of(anomalous))
        causes = _causes(_beside(root, "interpretation_label", server), columns, end)
        parts = train, times[: len(train)], test, times[len(train) :], anomalous
        streams.append(Stream(server, columns, *parts, spans, None, causes))
    return streams


def _causes(path: Path, columns: tuple[str, ...], end: int) -> tuple[Cause, ...]:
    """Lines ``first-last:metric,metric``, metrics counted from 1."""
    causes = []
    for line in filter(None, map(str.strip, _text(path).splitlines())):
        try:
            span, _, blamed = line.partition(":")
            first, last = map(int, span.split("-"))
            named = tuple(columns[int(metric) - 1] for metric in blamed.split(","))
        except (ValueError, IndexError):
            raise DataError(f"{path}: {line!r} is not first-last:metric,metric,…; copy the set again") from None
        causes.append(Cause((first, last - 1 + end), named))
    return tuple(causes)


def _rows_within(times: Int64, first: int, last: int) -> Span:
    """The rows from one time to another, both included."""
    return bisect_left(times, first), bisect_right(times, last) - 1


def _root(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the one that holds the {name.upper()} set")
    return folder / name if (folder / name).is_dir() else folder


def _beside(root: Path, kind: str, server: str) -> Path:
    """The file of a server in another of the set's folders, whatever its ending."""
    for path in sorted((root / kind).glob(f"{server}.*")):
        return path
    raise DataError(f"{root / kind}: no file of {server}; copy the set again")


def _text(path: Path) -> str:
    try:
        packed = path.read_bytes()
        return str(gzip.decompress(packed) if path.suffix == ".gz" else packed, "utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy the set again") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); copy the set again") from None


def _table(path: Path, delimiter: str) -> list[list[str]]:
    table = list(csv.reader(_text(path).splitlines(), delimiter=delimiter))
    if not table:
        raise DataError(f"{path}: is empty; copy the set again")
    return table


def _numbers(path: Path, cells: Sequence[Sequence[str]]) -> Float64:
    try:
        return np.array(cells, np.float64)
    except ValueError as error:
        raise DataError(f"{path}: {error}; copy the set again") from None


def _time(path: Path, text: str) -> int:
    try:
        return parse(text, UTC)
    except ValueError as error:
        raise DataError(f"{path}: {error}; copy the set again") from None

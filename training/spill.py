"""Events in memory up to a bound, and in a file beyond it, so that data may be larger than memory."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.events import Events, Float32

COLUMNS = 4 * 8  # bytes an event has beside its values: its time, offset, arrival and the reference to its sensor


@dataclass(frozen=True, slots=True)
class _Filed:
    """Where a piece stands in the file."""

    start: int  # bytes
    count: int  # events


class Scratch:
    """A file in ``folder`` (that for temporary files by default) without a name.

    It goes when the process does, however that ends. It is written and read rather than mapped: pages of a mapping
    count as memory of the process, and a disk that is full would end it by a signal.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.file: IO[bytes] | None = None

    def write(self, at: int, data: NDArray[Any]) -> None:
        """Write an array, which is contiguous, at this byte. Raises `DataError` if there is no room."""
        try:
            if self.file is None:
                self.file = tempfile.TemporaryFile(dir=self.folder, buffering=0)  # noqa: SIM115 # lives as long as this
            self.file.seek(at)
            written = self.file.write(data.data)
        except OSError as error:
            raise self._full(str(error.strerror)) from error
        if written != data.nbytes:  # what is left of a disk may take a part
            raise self._full("it is full")

    def read(self, at: int, kind: Any, count: int) -> NDArray[Any]:
        """So many items of a NumPy type from this byte on, which were written."""
        assert self.file is not None  # noqa: S101 # what was written has a file
        self.file.seek(at)
        return np.fromfile(self.file, kind, count)

    def _full(self, why: str) -> DataError:
        where = self.folder or tempfile.gettempdir()
        return DataError(f"events cannot be put aside in {where}: {why}; make room there, or allow more memory")


class Spill:
    """Holds pieces of events: the first ones in memory, those beyond ``bound`` bytes in a `Scratch` in ``folder``."""

    def __init__(self, bound: int, folder: Path | None = None) -> None:
        self.bound, self.folder = bound, folder
        self.held = 0  # bytes in memory
        self.filed = 0  # bytes in the file
        self.scratch = Scratch(folder)
        self.codes: dict[str, int] = {}  # of sensors; also lets one string serve all events of a sensor
        self.names: list[str] = []  # of codes

    def put(self, events: Events) -> Events | _Filed:
        """Hold events; what is returned is for `get`. Raises `DataError` if there is no room."""
        which = np.fromiter(map(self._code, events.sensors), np.int32, len(events))
        size = events.values.nbytes + COLUMNS * len(events)
        if self.held + size <= self.bound:
            self.held += size
            return Events(
                [self.names[code] for code in which.tolist()],
                events.timestamps, events.values, events.offsets, events.arrivals,
            )  # fmt: skip
        rows = np.empty(len(events), _row(events.values.shape[1]))
        rows["sensor"], rows["timestamp"], rows["values"] = which, events.timestamps, events.values
        rows["offset"], rows["arrival"] = events.offsets, events.arrivals
        place = _Filed(self.filed, len(rows))
        self.scratch.write(self.filed, rows)
        self.filed += rows.nbytes
        return place

    def get(self, piece: Events | _Filed, features: int) -> Events:
        """The events that were put."""
        if isinstance(piece, Events):
            return piece
        rows = self.scratch.read(piece.start, _row(features), piece.count)
        return Events(
            [self.names[code] for code in rows["sensor"].tolist()],
            rows["timestamp"].astype(np.int64),
            np.ascontiguousarray(rows["values"]),
            rows["offset"].astype(np.int64),
            rows["arrival"].astype(np.int64),
        )

    def tables(self, *shapes: tuple[int, ...]) -> list[Table]:
        """A table of each shape: all in memory if the events leave room for them, or each in a file."""
        room = self.bound - self.held
        fits = sum(np.dtype(np.float32).itemsize * math.prod(shape) for shape in shapes) <= room
        return [Table(shape, None if fits else Scratch(self.folder)) for shape in shapes]

    def _code(self, sensor: str) -> int:
        code = self.codes.setdefault(sensor, len(self.names))
        if code == len(self.names):
            self.names.append(sensor)
        return code


class Table:
    """Numbers of a shape (n, …), row by row, in memory or in a file."""

    def __init__(self, shape: tuple[int, ...], scratch: Scratch | None) -> None:
        self.shape, self.scratch = shape, scratch
        self.row = np.dtype(np.float32).itemsize * math.prod(shape[1:])  # bytes
        self.rows = np.empty(shape if scratch is None else (0,), np.float32)

    def put(self, places: NDArray[np.intp], rows: Float32) -> None:
        """Hold rows (m, …) at their places (m), once each. Raises `DataError` if there is no room."""
        if self.scratch is None:
            self.rows[places] = rows
            return
        order = np.argsort(places)
        for run in np.split(order, np.flatnonzero(np.diff(places[order]) != 1) + 1):  # neighbours at once
            if len(run):
                self.scratch.write(int(places[run[0]]) * self.row, np.ascontiguousarray(rows[run], np.float32))

    def get(self, start: int, end: int) -> Float32:
        """Rows from one place to another, (end - start, …), which were put."""
        if self.scratch is None:
            return self.rows[start:end]
        found = self.scratch.read(start * self.row, np.float32, (end - start) * math.prod(self.shape[1:]))
        return found.reshape(-1, *self.shape[1:])


class Log:
    """The events of one partition, in their order, as pieces that can be read again and again."""

    def __init__(self, spill: Spill, features: int) -> None:
        self.spill, self.features = spill, features
        self.pieces: list[Events | _Filed] = []
        self.events = 0

    def append(self, events: Events) -> None:
        """Take a piece. Raises `DataError` if there is no room."""
        self.pieces.append(self.spill.put(events))
        self.events += len(events)

    def __iter__(self) -> Iterator[Events]:
        return (self.spill.get(piece, self.features) for piece in self.pieces)


def _row(features: int) -> np.dtype[np.void]:
    fields: list[Any] = [("timestamp", np.int64), ("offset", np.int64), ("arrival", np.int64), ("sensor", np.int32)]
    return np.dtype([*fields, ("values", np.float32, (features,))])

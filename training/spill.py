"""Events in memory up to a bound, and in a file beyond it, so that data may be larger than memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from stream_detector.errors import DataError
from stream_detector.events import Events

COLUMNS = 4 * 8  # bytes an event has beside its values: its time, offset, arrival and the reference to its sensor


@dataclass(frozen=True, slots=True)
class _Filed:
    """Where a piece stands in the file."""

    start: int  # bytes
    count: int  # events


class Spill:
    """Holds pieces of events: the first ones in memory, those beyond ``bound`` bytes in a file.

    The file is in ``folder`` (that for temporary files by default) without a name, so that it goes when the process
    does, however that ends.
    """

    def __init__(self, bound: int, folder: Path | None = None) -> None:
        self.bound, self.folder = bound, folder
        self.held = 0  # bytes in memory
        self.filed = 0  # bytes in the file
        self.file: IO[bytes] | None = None
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
        try:
            if self.file is None:
                self.file = tempfile.TemporaryFile(dir=self.folder, buffering=0)  # noqa: SIM115 # lives as long as this
            self.file.seek(self.filed)
            self.filed += self.file.write(rows.data)
        except OSError as error:
            raise self._full(str(error.strerror)) from error
        if self.filed - place.start != rows.nbytes:  # what is left of a disk may take a part
            raise self._full("it is full")
        return place

    def get(self, piece: Events | _Filed, features: int) -> Events:
        """The events that were put."""
        if isinstance(piece, Events):
            return piece
        assert self.file is not None  # noqa: S101 # a piece that was filed has a file
        self.file.seek(piece.start)
        rows = np.fromfile(self.file, _row(features), piece.count)
        return Events(
            [self.names[code] for code in rows["sensor"].tolist()],
            rows["timestamp"].astype(np.int64),
            np.ascontiguousarray(rows["values"]),
            rows["offset"].astype(np.int64),
            rows["arrival"].astype(np.int64),
        )

    def _full(self, why: str) -> DataError:
        where = self.folder or tempfile.gettempdir()
        return DataError(f"events cannot be put aside in {where}: {why}; make room there, or allow more memory")

    def _code(self, sensor: str) -> int:
        code = self.codes.setdefault(sensor, len(self.names))
        if code == len(self.names):
            self.names.append(sensor)
        return code


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

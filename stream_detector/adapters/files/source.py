"""Files as the source of a replay: no server, the same pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from heapq import merge
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stream_detector.adapters.files.formats import File, count, decoded, name_sensors
from stream_detector.codec import (
    Decoder,
)
from stream_detector.errors import DataError
from stream_detector.events import Events, Float32, Partition, Reject, Slice
from stream_detector.ports import Lookback, Ownership

FILES = Partition("files", 0)
"""All files of a replay are one partition; an offset is the number of a row in the merged order."""


class _Item(NamedTuple):
    """One row of any file: an event or a reject."""

    time: int  # epoch ms; a reject has that of the event before it
    sensor: str
    values: Float32 | None  # (F), None for a reject
    raw: tuple[bytes | None, bytes | None]
    reject: Reject | None


class FileSource:
    """Rows of files as one ordered log.

    Each file is taken to be in time order; several are merged by time, so that their sensors interleave as
    they do live. A file without a sensor column is one sensor named after the file, or after folder and file
    where two files have one name. With ``speed``, event time passes that many times as fast as the clock.
    Reading blocks: ``timeout`` bounds only the waiting that ``speed`` asks for.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        decoder: Decoder,
        *,
        names: Sequence[str] | None = None,
        period: int | None = None,
        batch: int = 10_000,
        speed: float | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.files = name_sensors(paths, names, period)
        self.decoder = decoder
        self.batch = batch
        self.speed = speed
        self._now = now
        self._sleep = sleep
        self._ownership: Ownership | None = None
        self._items: Iterator[_Item] | None = None
        self._next: _Item | None = None
        self._position = 0  # of what the next poll brings
        self._read = 0  # rows taken from the files since they were opened
        self._total: int | None = None
        self._anchor: tuple[float, int] | None = None  # a clock reading and the event time that it stands for
        self._finished = False
        self._paused = False

    def open(self, ownership: Ownership) -> None:
        self._ownership = ownership

    def poll(self, timeout: float) -> list[Slice]:
        if self._ownership is not None:
            # Told in a poll of its own, so that the pipeline can seek before the first row comes.
            ownership, self._ownership = self._ownership, None
            ownership.assigned([FILES])
            return []
        if self._paused:
            return []
        items, start = self._take(timeout), self._position
        self._position += len(items)
        return [self._slice(start, items)] if items else []

    def seek(self, partition: Partition, offset: int) -> None:
        self._position = offset
        self._finished = self._paused = False
        self._anchor = None
        ahead = self._read - (self._next is not None)  # the row that the files stand before
        if offset < ahead and any(file.path == "-" for file in self.files):
            raise DataError("standard input cannot be read twice; give a file")
        if offset < ahead:
            self._items, self._read = None, 0
        if offset != ahead:
            self._next = None

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """The first call reads all files once, to count; standard input has no known end."""
        if self._total is None:
            if any(file.path == "-" for file in self.files):
                return 0, self._read
            self._total = sum(map(count, self.files))
        return 0, self._total

    def identity(self, partition: Partition) -> str:
        return ""

    def reach(self, partition: Partition, before: int, lookback: Lookback) -> int:
        """As far as the limit goes: what the rows say is not looked at."""
        return max(0, before - lookback.limit)

    def pause(self, partitions: Collection[Partition]) -> None:
        self._paused = FILES in partitions

    def lag(self) -> Mapping[Partition, int]:
        """Empty until the end is known, by `bounds` or by getting there."""
        return {} if self._total is None else {FILES: max(0, self._total - self._position)}

    @property
    def finished(self) -> bool:
        return self._finished

    def close(self) -> None:
        self._items, self._next, self._read = None, None, 0
        self._finished = True

    def _take(self, timeout: float) -> list[_Item]:
        taken: list[_Item] = []
        deadline = self._now() + timeout
        while len(taken) < self.batch and (item := self._peek()) is not None:
            if self.speed is not None and (wait := self._wait(item)) > 0:
                left = deadline - self._now()
                if taken or left <= 0:
                    break
                self._sleep(min(wait, left))
                continue
            taken.append(item)
            self._next = None
        return taken

    def _peek(self) -> _Item | None:
        """The next row from the position on, without taking it; None at the end."""
        if self._finished:
            return None
        if self._items is None:
            self._items = self._merged()
        while self._next is None:
            item = next(self._items, None)
            if item is None:
                self._total, self._finished = self._read, True
                return None
            self._read += 1
            if self._read > self._position:
                self._next = item
        return self._next

    def _wait(self, item: _Item) -> float:
        """Seconds until the row is due."""
        now = self._now()
        if self._anchor is None:
            self._anchor = now, item.time
        since, first = self._anchor
        return since + (item.time - first) / 1_000 / (self.speed or 1) - now

    def _merged(self) -> Iterator[_Item]:
        size = max(64, self.batch // max(1, len(self.files)))  # so that many files need no more memory than one
        readers = [self._rows(file, size) for file in self.files]
        return readers[0] if len(readers) == 1 else merge(*readers, key=lambda item: item.time)

    def _rows(self, file: File, size: int) -> Iterator[_Item]:
        time = 0
        for events, rejects, raw in decoded(file, self.decoder, size):
            waiting = iter(rejects)
            reject = next(waiting, None)
            rows = zip(
                events.offsets.tolist(),
                events.timestamps.tolist(),
                events.sensors,
                events.values,
                raw,
                strict=True,
            )
            for row, stamp, sensor, values, pair in rows:
                while reject is not None and reject.offset < row:
                    yield _Item(time, "", None, (reject.key, reject.value), reject)
                    reject = next(waiting, None)
                time = stamp
                yield _Item(time, sensor, values, pair, None)
            while reject is not None:
                yield _Item(time, "", None, (reject.key, reject.value), reject)
                reject = next(waiting, None)

    def _slice(self, start: int, items: list[_Item]) -> Slice:
        rows = [(start + at, item) for at, item in enumerate(items) if item.reject is None]
        rejects = [
            Reject(start + at, item.reject.reason, item.reject.message, item.reject.key, item.reject.value)
            for at, item in enumerate(items)
            if item.reject is not None
        ]
        values = [item.values for _, item in rows]
        events = Events(
            [item.sensor for _, item in rows],
            np.array([item.time for _, item in rows], np.int64),
            np.array(values, np.float32).reshape(len(rows), len(self.decoder.features)),
            np.array([offset for offset, _ in rows], np.int64),
            np.full(len(rows), -1, np.int64),
        )
        return Slice(FILES, start, start + len(items), events, rejects, [item.raw for _, item in rows])

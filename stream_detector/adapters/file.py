"""Files as the source of a replay and as its outlet: no server, the same pipeline."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from heapq import merge
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np

from stream_detector.adapters.formats import File, count, decoded, name_sensors
from stream_detector.adapters.formats import discover_features as discover_features  # found where files are
from stream_detector.alerts import standing
from stream_detector.codec import (
    Decoder,
    dead_letter_headers,
    decode_alert,
    encode_alert,
    encode_embedding,
    encode_score,
)
from stream_detector.errors import DataError, Unavailable
from stream_detector.events import Alert, Events, Float32, Partition, Reject, Slice
from stream_detector.ports import Delivery, Lookback, Ownership

FILES = Partition("files", 0)
"""All files of a replay are one partition; an offset is the number of a row in the merged order."""

ALERTS = "alerts.jsonl"
EMBEDDINGS = "embeddings.jsonl"  # only if asked for
OUTPUTS = ("scores.jsonl", ALERTS, "dead-letters.jsonl")
POSITION = "position.json"


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


class FileOutlet:
    """Results as JSON Lines in a folder, one process at a time.

    A delivery is complete once ``position.json`` is replaced: it holds the positions and how long the files
    were. What a crash left behind that length is cut off by :meth:`open`. ``durable=False`` leaves it
    to the system when to write to the disk, which is quicker and survives the process but not the machine.
    """

    def __init__(self, directory: str | Path, *, durable: bool = True, embeddings: bool = False) -> None:
        self.directory = Path(directory)
        self.outputs = (*OUTPUTS, EMBEDDINGS) if embeddings else OUTPUTS
        self.durable = durable
        self._files: list[BinaryIO] = []
        self._lengths = [0] * len(self.outputs)
        self._others: dict[str, int] = {}  # how long files were that are not asked for this time
        self._positions: dict[Partition, int] = {}

    def open(self) -> None:
        """Raises `DataError` if the folder cannot be used or its files lost what was delivered."""
        self.close()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lengths, self._positions = self._recorded()
            for name, length in zip(self.outputs, self._lengths, strict=True):
                stream = (self.directory / name).open("ab")
                self._files.append(stream)
                if stream.tell() < length:
                    raise DataError(f"{self.directory / name} was shortened; give another --out, or remove this one")
                stream.truncate(length)
        except OSError as error:
            raise DataError(f"{self.directory}: {error.strerror or error}; give a folder to write to") from error

    def committed(self, partition: Partition) -> int | None:
        return self._positions.get(partition)

    def standing(self, partition: Partition, before: int, limit: int) -> list[Alert]:
        path = self.directory / ALERTS
        try:
            with path.open("rb") as stream:
                lines = stream.read(self._lengths[OUTPUTS.index(ALERTS)]).splitlines()
        except OSError as error:
            raise Unavailable(f"{path}: {error.strerror or error}") from error
        return standing(filter(None, map(decode_alert, lines)), partition, before, limit)

    def deliver(self, delivery: Delivery) -> None:
        self._append(delivery)
        positions = self._positions | delivery.positions
        lengths = [stream.tell() for stream in self._files]
        try:
            self._record(lengths, positions)
        except OSError as error:
            raise Unavailable(f"{self.directory}: {error.strerror or error}") from error
        self._lengths, self._positions = lengths, positions

    def close(self) -> None:
        for stream in self._files:
            with suppress(OSError):  # a full disk: what is lost was not delivered
                stream.close()
        self._files = []

    def _append(self, delivery: Delivery) -> None:
        """Everything that comes before the commit point."""
        batches = (
            [encode_score(score) for score in delivery.scores],
            [encode_alert(alert) for alert in delivery.alerts],
            [_dead_letter(partition, reject) for partition, reject in delivery.rejects],
            [encode_embedding(embedding) for embedding in delivery.embeddings],
        )[: len(self.outputs)]
        try:
            for stream, lines in zip(self._files, batches, strict=True):
                if lines:
                    stream.write(b"\n".join(lines) + b"\n")
                    stream.flush()
                    if self.durable:
                        os.fsync(stream.fileno())
        except OSError as error:
            raise Unavailable(f"{self.directory}: {error.strerror or error}") from error

    def _record(self, lengths: list[int], positions: Mapping[Partition, int]) -> None:
        body = {
            "positions": [{"topic": at.topic, "partition": at.number, "offset": end} for at, end in positions.items()],
            "lengths": self._others | dict(zip(self.outputs, lengths, strict=True)),
        }
        path, temporary = self.directory / POSITION, self.directory / f".{POSITION}.new"
        with temporary.open("wb") as stream:
            stream.write(msgspec.json.encode(body) + b"\n")
            stream.flush()
            if self.durable:
                os.fsync(stream.fileno())
        temporary.replace(path)
        if self.durable:  # the new name is durable once the folder is
            folder = os.open(self.directory, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _recorded(self) -> tuple[list[int], dict[Partition, int]]:
        path = self.directory / POSITION
        if not path.exists():
            return [0] * len(self.outputs), {}
        try:
            body = msgspec.json.decode(path.read_bytes(), type=_Position)
            lengths = [body.lengths[name] for name in OUTPUTS]
            lengths += [body.lengths.get(name, 0) for name in self.outputs[len(OUTPUTS) :]]
            self._others = {name: length for name, length in body.lengths.items() if name not in self.outputs}
        except (msgspec.DecodeError, KeyError):
            raise DataError(f"{path} is damaged; give another --out, or remove this one") from None
        return lengths, {Partition(at.topic, at.partition): at.offset for at in body.positions}


class _At(msgspec.Struct):
    topic: str
    partition: int
    offset: int


class _Position(msgspec.Struct):
    """What ``position.json`` holds."""

    positions: list[_At]
    lengths: dict[str, int]


def _dead_letter(partition: Partition, reject: Reject) -> bytes:
    headers = {name: value.decode() for name, value in dead_letter_headers(partition, reject)}
    return msgspec.json.encode(_text("key", reject.key) | _text("value", reject.value) | headers)


def _text(name: str, given: bytes | None) -> dict[str, str | None]:
    """Bytes as a JSON field: as text where they are UTF-8, else ``…_base64``."""
    if given is None:
        return {name: None}
    try:
        return {name: given.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(given).decode()}

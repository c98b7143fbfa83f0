"""Files as the outlet of a replay: no server, the same pipeline."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from stream_detector.alerts import standing
from stream_detector.codec import (
    dead_letter_headers,
    decode_alert,
    encode_alert,
    encode_embedding,
    encode_score,
)
from stream_detector.errors import DataError, Unavailable
from stream_detector.events import Alert, Partition, Reject
from stream_detector.ports import Delivery

ALERTS = "alerts.jsonl"
EMBEDDINGS = "embeddings.jsonl"  # only if asked for
OUTPUTS = ("scores.jsonl", ALERTS, "dead-letters.jsonl")
POSITION = "position.json"


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

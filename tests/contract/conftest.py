"""What the contract suites of source and outlet run on: one small harness for each adapter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from stream_detector.adapters.files.outlet import FileOutlet
from stream_detector.adapters.files.source import FILES, FileSource
from stream_detector.codec import Decoder
from stream_detector.events import Partition
from stream_detector.ports import Delivery, Outlet, Source
from stream_detector.settings import Columns, EventRules
from tests.stream_detector.adapters.kafka.cluster import Cluster

FEATURES = ("pressure", "current")


def make_decoder() -> Decoder:
    return Decoder(FEATURES, Columns(), EventRules())


@dataclass
class Read:
    """What somebody who reads committed results only sees, in order."""

    scores: list[dict[str, Any]]
    alerts: list[dict[str, Any]]
    dead_letters: list[str]  # their `errors.exception`
    committed: int | None
    embeddings: list[dict[str, Any]]


class SourceUnderTest(Protocol):
    """A log that can be written to and read by any number of fresh sources, one after the other."""

    partition: Partition

    def write(self, records: Sequence[tuple[bytes | None, bytes]]) -> None:
        """Add JSON messages, (key, value), to the end of the log."""

    def source(self, batch: int = 100) -> Source:
        """A fresh source, not yet open, that brings at most ``batch`` records a poll."""


class OutletUnderTest(Protocol):
    """A place that outlets deliver to, one after the other."""

    partition: Partition

    def outlet(self) -> Outlet:
        """A fresh outlet of the same place, not yet open, that publishes embeddings too."""

    def read(self) -> Read:
        """What a reader of committed results sees."""

    def crash_midway(self, delivery: Delivery) -> None:
        """Open a fresh outlet, write the delivery and die before the commit point."""


class FileSourceUnderTest:
    partition = FILES

    def __init__(self, folder: Path) -> None:
        self.path = folder / "events.jsonl"
        self.path.touch()

    def write(self, records: Sequence[tuple[bytes | None, bytes]]) -> None:
        with self.path.open("ab") as stream:  # a file has no keys: the messages name their sensors
            stream.writelines(value + b"\n" for _, value in records)

    def source(self, batch: int = 100) -> FileSource:
        return FileSource([self.path], make_decoder(), batch=batch)


class FileOutletUnderTest:
    partition = FILES

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "out"

    def outlet(self) -> FileOutlet:
        return FileOutlet(self.folder, embeddings=True)

    def read(self) -> Read:
        """A reader of the files goes as far as ``position.json`` says."""
        position = self.folder / "position.json"
        body = json.loads(position.read_bytes()) if position.exists() else {"lengths": {}, "positions": []}

        def lines(name: str) -> list[Any]:
            length = body["lengths"].get(name, 0)
            return [json.loads(line) for line in (self.folder / name).read_bytes()[:length].splitlines()]

        return Read(
            lines("scores.jsonl"),
            lines("alerts.jsonl"),
            [letter["errors.exception"] for letter in lines("dead-letters.jsonl")],
            next((at["offset"] for at in body["positions"] if at["topic"] == FILES.topic), None),
            lines("embeddings.jsonl"),
        )

    def crash_midway(self, delivery: Delivery) -> None:
        outlet = self.outlet()
        outlet.open()
        outlet._append(delivery)  # all of it is written; what is missing is the new position.json
        outlet.close()


@pytest.fixture(params=["file", pytest.param("kafka", marks=pytest.mark.servers)])
def source_under_test(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SourceUnderTest]:
    if request.param == "file":
        yield FileSourceUnderTest(tmp_path)
        return
    from tests.contract.kafka import KafkaSourceUnderTest  # it imports this module

    cluster = Cluster(request.getfixturevalue("kafka_broker"))
    yield KafkaSourceUnderTest(cluster)
    cluster.close()


@pytest.fixture(params=["file", pytest.param("kafka", marks=pytest.mark.servers)])
def outlet_under_test(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OutletUnderTest]:
    if request.param == "file":
        yield FileOutletUnderTest(tmp_path)
        return
    from tests.contract.kafka import KafkaOutletUnderTest  # it imports this module

    cluster = Cluster(request.getfixturevalue("kafka_broker"))
    yield KafkaOutletUnderTest(cluster)
    cluster.close()

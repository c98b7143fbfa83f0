"""Alerts of one target that are not done: what is due, in order per alert, and what may be committed."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from stream_detector.events import Alert, Partition
from stream_detector.webhooks.progress import Progress, Waiting

NEW = Waiting(0, False)
FIT = re.compile(r"[A-Za-z0-9_-]{1,200}")  # ids of our own; the topic may hold others


@dataclass(eq=False, slots=True)
class Entry:
    """One record of the alerts topic on its way to one target."""

    partition: Partition
    offset: int
    key: bytes | None
    value: bytes | None
    alert: Alert | None  # None: not readable, so only a dead letter can become of it
    published: float  # the record's own timestamp, epoch seconds
    since: float  # its first try or, before that, when it was read
    due: float = 0.0
    tries: int = 0  # by this process
    tried: bool = False  # by this process or one before
    last: float = float("-inf")  # when it was last tried
    flying: bool = False
    given_up: tuple[str, str] | None = None  # why: a word for metrics, a line for people

    @property
    def name(self) -> str:
        """What is kept in order: revisions of one alert."""
        return f"{self.partition}/{self.offset}" if self.alert is None else self.alert.id

    @property
    def id(self) -> str:
        """The same for every try and every reading: what receivers recognise repeats by. Fit for a signed header."""
        name = self.name if self.alert is None else f"{self.alert.id}-{self.alert.revision}"
        return name if FIT.fullmatch(name) else hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()


@dataclass(slots=True)
class Backlog:
    """Everything between what was read and what is done, of all partitions."""

    reached: dict[Partition, int] = field(default_factory=dict)
    _past: dict[Partition, Progress] = field(default_factory=dict)  # what an earlier owner had done
    _open: dict[Partition, dict[int, Entry]] = field(default_factory=dict)  # by offset, rising
    _lines: dict[str, deque[Entry]] = field(default_factory=dict)  # of each alert, in the order of the log

    def __len__(self) -> int:
        return sum(len(entries) for entries in self._open.values())

    def __iter__(self) -> Iterator[Entry]:
        for entries in list(self._open.values()):
            yield from list(entries.values())

    def begin(self, partition: Partition, position: int, past: Progress) -> None:
        """A partition is ours, to be read from ``position``; ``past`` is what was committed."""
        self.drop(partition)
        self.reached[partition], self._open[partition], self._past[partition] = position, {}, past

    def past(self, partition: Partition, offset: int) -> Waiting | None:
        """What an earlier owner left of a record; None if that one was done with it."""
        before = self._past[partition]
        return None if before.done(offset) else before.waiting.get(offset, NEW)

    def add(self, partition: Partition, reached: int, entries: Iterable[Entry]) -> None:
        """What one reading brought; records that nobody wants count by ``reached`` alone."""
        self.reached[partition] = reached
        for entry in entries:
            self._open[partition][entry.offset] = entry
            self._lines.setdefault(entry.name, deque()).append(entry)

    def ready(self, now: float) -> list[Entry]:
        """What may be tried now: only the oldest revision of each alert, and what was not tried longest first.

        So an alert that the target will never take holds up neither others nor the probes of an open circuit.
        """
        heads = (line[0] for line in self._lines.values())
        due = (entry for entry in heads if not entry.flying and entry.given_up is None and entry.due <= now)
        return sorted(due, key=lambda entry: (entry.last, entry.published, entry.partition, entry.offset))

    def given_up(self) -> list[Entry]:
        """What is to become a dead letter, oldest revision first and none before an older one is done."""
        found = []
        for line in self._lines.values():
            for entry in line:
                if entry.given_up is None:
                    break
                found.append(entry)
        return sorted(found, key=lambda entry: (entry.partition, entry.offset))

    def done(self, entry: Entry) -> None:
        """Delivered, or a dead letter that Kafka has. Nothing happens if its partition is no longer ours."""
        entries = self._open.get(entry.partition, {})
        if entries.get(entry.offset) is entry:
            del entries[entry.offset]
            self._leave(entry)

    def drop(self, partition: Partition) -> None:
        """A partition is somebody else's."""
        self.reached.pop(partition, None)
        self._past.pop(partition, None)
        for entry in self._open.pop(partition, {}).values():
            self._leave(entry)

    def progress(self, partition: Partition) -> Progress:
        """What may be committed."""
        waiting = {offset: Waiting(int(entry.since), entry.tried) for offset, entry in self._open[partition].items()}
        reached, past = self.reached[partition], self._past[partition]
        # Where an earlier owner has been and we have not been yet, its word counts.
        waiting |= {offset: left for offset, left in past.waiting.items() if offset >= reached}
        return Progress(max(reached, past.reached), waiting)

    def _leave(self, entry: Entry) -> None:
        line = self._lines[entry.name]
        line.remove(entry)
        if not line:
            del self._lines[entry.name]

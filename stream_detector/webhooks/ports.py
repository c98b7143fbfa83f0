"""What a courier needs from the world: the alerts topic, a way to post, dead letters, somebody who counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from stream_detector.events import Partition
from stream_detector.ports import Ownership
from stream_detector.webhooks.backlog import Entry
from stream_detector.webhooks.circuit import State
from stream_detector.webhooks.progress import Progress

Word = Literal[
    "delivered",  # 2xx
    "busy",  # 429, 502, 503, 504: there is too much to do
    "gone",  # 410: wants nothing any more
    "redirected",  # 3xx, which is not followed
    "refused",  # any other status
    "timeout",
    "unreachable",  # no address, no connection, no TLS, or hung up
    "blocked",  # leads to an internal address
    "unsendable",  # no body can be made of it
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one try."""

    word: Word
    message: str  # one line, without secrets
    seconds: float = 0.0
    retry_after: float | None = None  # seconds that the target asks for


class Record(NamedTuple):
    """A record of the alerts topic."""

    offset: int
    timestamp: int  # epoch ms, its own; negative if it has none
    key: bytes | None
    value: bytes | None


class Batch(NamedTuple):
    """What one poll brought of one partition; markers and compaction leave gaps before ``end``."""

    partition: Partition
    end: int
    records: Sequence[Record]


class Alerts(Protocol):
    """The alerts topic as a member of the target's own group; partitions come and go as in `ports.Source`."""

    def open(self, ownership: Ownership) -> None:
        """Connect and join. Raises `Unavailable` or `Refused`."""

    def poll(self, timeout: float) -> list[Batch]:
        """Wait up to ``timeout`` seconds for records. Nothing is acknowledged by it. Raises `Unavailable`."""

    def progress(self, partition: Partition) -> Progress | None:
        """What was committed; None if nothing ever was."""

    def fresh(self) -> bool:
        """Whether the group has never committed anything in this topic."""

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """The first offset that exists and the one after the last that is committed."""

    def seek(self, partition: Partition, offset: int) -> None:
        """Read from there; before the first call nothing of the partition is read."""

    def pause(self, partitions: Collection[Partition]) -> None:
        """Read nothing of these until sought."""

    def commit(self, progress: Mapping[Partition, Progress]) -> None:
        """Raises `Fenced` where a partition is no longer ours, `Unavailable` otherwise."""

    def lag(self, positions: Mapping[Partition, int]) -> int:
        """Records beyond these positions, as far as it is known; also of partitions that are paused."""

    def close(self) -> None:
        """Leave the group."""


class Post(Protocol):
    """One try at one target. Blocks for as long as the target's timeout at most; raises nothing."""

    def __call__(self, entry: Entry) -> Outcome: ...


class DeadLetters(Protocol):
    """Where alerts go that could not be delivered."""

    def send(self, target: str, entries: Sequence[Entry]) -> None:
        """Returns when the topic has them. Raises `Unavailable` or `Refused`; some may be there all the same."""

    def close(self) -> None:
        """Let go of what it holds."""


class Watcher(Protocol):
    """Told what happens, for metrics."""

    def tried(self, target: str, outcome: Outcome) -> None:
        """After each try."""

    def delivered(self, target: str, seconds: float) -> None:
        """``seconds`` after the alert was published."""

    def died(self, target: str, reason: str) -> None:
        """An alert became a dead letter."""

    def missed(self, target: str, records: int) -> None:
        """Retention has removed so many records before they were done."""

    def standing(self, target: str, *, waiting: int, lag: int, flying: int, state: State) -> None:
        """How things are now."""

"""The five things the pipeline needs from the world. Each adapter is one technology's answer to one of them.

Adapters: ``adapters/kafka`` and ``adapters/files`` (source, outlet), ``adapters/redis`` and ``adapters/memory.py``
(window store), ``adapters/keras`` (scorer), ``adapters/prometheus`` (observer).
One contract suite per port (``tests/contract``) runs against every adapter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeAlias

from stream_detector.events import (
    Alert,
    Embedding,
    Errors,
    Float32,
    Partition,
    PartName,
    Reject,
    Score,
    Severity,
    Slice,
    Windows,
)

NOTHING: Mapping[str, bytes | None] = {}


class Ownership(Protocol):
    """Told by a source, from inside :meth:`Source.poll`, that partitions come and go."""

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """These are ours now. Nothing may be asked of the source here; only remember them."""

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """These go to another worker when this returns: the last chance to deliver what is in flight."""

    def lost(self, partitions: Sequence[Partition]) -> None:
        """These are already somebody else's: abandon what is in flight."""


class Lookback(NamedTuple):
    """How far to read back where the store has lost its state: whichever bound comes first."""

    events: int  # of each sensor that is seen: enough
    within: int  # ms of the records' own timestamps: no further
    limit: int  # events of the partition: no further


class Source(Protocol):
    """Where events come from: partitions with offsets, assigned to us for a while."""

    def open(self, ownership: Ownership) -> None:
        """Connect and join. Raises `Unavailable` or `Refused`."""

    def poll(self, timeout: float) -> list[Slice]:
        """Wait up to ``timeout`` seconds for events; at most one slice a partition, possibly none.

        Successive slices of a partition join without a hole: the ``end`` of one is the ``start`` of the next, unless
        :meth:`seek` came between. What was polled is not acknowledged by polling: it comes again after a crash, from
        the position that an outlet committed. Raises `Unavailable`; calling again is safe.
        """

    def seek(self, partition: Partition, offset: int) -> None:
        """Let the next poll of the partition start at ``offset``."""

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """The first offset that still exists and the one after the last. Raises `Unavailable`."""

    def identity(self, partition: Partition) -> str:
        """Names this life of the log: another one if it was deleted and made anew. Empty where that is unknown."""

    def reach(self, partition: Partition, before: int, lookback: Lookback) -> int:
        """From where to read so that the sensors' state at ``before`` comes out, within the look-back's bounds.

        Raises `Unavailable`.
        """

    def pause(self, partitions: Collection[Partition]) -> None:
        """Read nothing of these until they are sought again. While all are paused, `poll` keeps us in the group."""

    def lag(self) -> Mapping[Partition, int]:
        """Offsets between our position and the log's end, by partition, from what the last polls told; no I/O."""

    @property
    def finished(self) -> bool:
        """Whether the stream has ended for good: files end, topics do not."""

    def close(self) -> None:
        """Leave at once, telling the group. Safe to call twice."""


@dataclass(frozen=True, slots=True)
class Update:
    """One batch's change to one partition's stored state. ``k`` sensors are touched."""

    life: str  # names this run of the state; made anew whenever a partition starts without state
    layout: str  # digest of features, window length and stride that the rows are packed for
    first: bool  # whether the partition may be without state before this
    start: int  # position before; must equal what is stored
    end: int  # position after
    settled: int  # our view; rows are trimmed only if the store's is the same, or waiting windows could lose theirs
    sensors: list[str]  # (k)
    rows: list[bytes]  # (k) packed rows to append
    headers: list[bytes]  # (k) packed header of the sensor after the batch
    keep: list[int]  # (k) bytes at the end of the sensor's rows that must survive trimming
    tails: list[int]  # (k) bytes wanted back from the end of the sensor's rows, 0 for none
    expired: list[str]  # sensors whose state is to be forgotten, before anything is appended
    pending: bytes  # what the windows and rejects of this batch are, for a later `load`; empty for none
    waiting: list[str]  # sensors with windows in `pending`
    floor: int = 0  # stored when this creates the state: what ends before it was published by an earlier life
    alerts: Mapping[str, bytes] = field(default_factory=dict)  # alert states to create the state with


@dataclass(frozen=True, slots=True)
class Stored:
    """One partition's stored state, read at one moment."""

    life: str
    layout: str
    position: int  # after the last event applied
    settled: int  # windows that end before it are done
    headers: dict[str, bytes]  # every sensor
    pending: list[tuple[int, bytes]] = field(default_factory=list)  # (end of its batch, what `Update.pending` held)
    floor: int = 0  # what ends before it was published by an earlier life of the state
    rows: dict[str, bytes] = field(default_factory=dict)  # of sensors with pending windows, all that is stored
    alerts: dict[str, bytes] = field(default_factory=dict)  # alert state by sensor, after the settled windows
    memories: dict[str, bytes] = field(default_factory=dict)  # what `settle` was given besides, likewise
    whole: bool = True  # whether all of it is there, as far as the store can tell without the rows


class WindowStore(Protocol):
    """Per-partition state that is a function of its position. Every method is atomic; calls are compare-and-set.

    No owner, no epoch, no lock: a call whose expectations do not hold raises `Moved` and changes nothing, and whoever
    gets there first writes the same as anybody else would have. All methods raise `Unavailable` or `Refused` when
    the server is away or says no; the outcome of the call is then unknown and the state must be loaded again.
    """

    def load(self, partition: Partition) -> Stored | None:
        """The state at one moment, or None where there is none."""

    def append(self, partition: Partition, update: Update) -> list[bytes]:
        """Apply one batch if the state is at ``update.start`` of ``update.life``; return the tails asked for.

        Where there is no state, it is created (position and settled at ``update.start``) if ``update.first``.
        A tail is shorter than asked for if fewer rows exist. Raises `Damaged` if other parts of the state are gone.
        """

    def settle(
        self,
        partition: Partition,
        life: str,
        since: int,
        upto: int,
        alerts: Mapping[str, bytes | None],
        memories: Mapping[str, bytes | None] = NOTHING,
    ) -> None:
        """Drop pending batches that end at or before ``upto`` and store the alert states after them.

        Beside them ``memories``, by names that only the caller understands (`memories`). Only if ``since`` is what was
        last settled and ``upto`` is not beyond the position. None forgets a state.
        """

    def discard(self, partition: Partition, life: str) -> None:
        """Forget the whole state if it is of this ``life``: another life of the topic, or another layout."""

    def ping(self) -> None:
        """Return if the store answers, raise `Unavailable` or `Refused` if not."""

    def close(self) -> None:
        """Let go of connections."""


class Scorer(Protocol):
    """A model on the device. Not thread-safe: one thread calls it; `expect` alone may run beside another call."""

    features: tuple[str, ...]
    length: int

    @property
    def device(self) -> str:
        """What forward passes run on; after `load`."""

    def load(self) -> None:
        """Put the model on the device; before anything else. Raises `BundleError` or `SettingsError`."""

    def warm(self) -> None:
        """Compile every batch shape, so that no later call pays for it."""

    def embed(self, sensors: Sequence[str], values: Float32) -> Float32:
        """The codes (n, D) of ``n`` windows, ``values`` (n, W, F) in raw units; only asked where they are published.

        A window that cannot be embedded though others can has a code of NaN; where codes are not all of one width,
        narrower ones end in NaN. Raises `Unavailable` if none can.
        """

    def score(self, sensors: Sequence[str], values: Float32) -> Errors:
        """Errors of ``n`` windows, ``values`` (n, W, F) in raw units, in one forward pass a bucket; n may be 0.

        A window that cannot be scored though others can has a score of NaN. Raises `Unavailable` if none can.
        """

    def expect(self, sensors: Sequence[str], values: Float32, parts: Sequence[PartName]) -> Float32:
        """What these parts of the score expected, (n, W, F) in raw units, NaN if nothing. For the windows of alerts."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one batch publishes, and the input positions that it completes."""

    scores: list[Score]
    alerts: list[Alert]
    rejects: list[tuple[Partition, Reject]]
    positions: dict[Partition, int]  # after this delivery, reading goes on here
    embeddings: list[Embedding] = field(default_factory=list)


class Outlet(Protocol):
    """Where results go. The commit point of the whole service."""

    def open(self) -> None:
        """Connect, and end whatever an earlier self of ours left open. Raises `Unavailable` or `Refused`."""

    def committed(self, partition: Partition) -> int | None:
        """The position of the last complete delivery, waiting out one that is still open; None if there is none."""

    def standing(self, partition: Partition, before: int, limit: int) -> list[Alert]:
        """Where the alerts of this partition stand, as far as published by then: see `alerts.standing`.

        Only records whose events end before ``before`` count. May read all alerts there are: for a state that
        was lost. Raises `Unavailable`, or `Refused` where results may not be read.
        """

    def deliver(self, delivery: Delivery) -> None:
        """Publish all of it and commit its positions, or none of it (exactly-once mode).

        Raises `Fenced` if this worker may no longer deliver, `Unavailable` if the outcome is unknown: then call
        :meth:`open` again and reconcile from :meth:`committed`.
        """

    def close(self) -> None:
        """Let go of connections; an unfinished delivery is abandoned."""


Kind: TypeAlias = Literal["anomaly", "silence", "fault"]


class Firing(NamedTuple):
    """An alert that is open."""

    sensor: str
    kind: Kind
    severity: Severity


class Observer(Protocol):
    """Listens to facts; must not fail and must not block. Counted once a batch, never once an event."""

    def took(self, stage: str, seconds: float) -> None:
        """A stage (poll, decode within it, append, queue, compute, judge, deliver, settle) took this long."""

    def read(self, batch: Sequence[Slice]) -> None:
        """What a poll brought, before the rules of event time; what is read again after a crash comes again."""

    def received(self, events: int, rejects: Mapping[str, int], rules: Mapping[str, int]) -> None:
        """A batch was read: events accepted, rejects by reason, and rule counts (late, duplicate, restarted, …)."""

    def started(self, device: str) -> None:
        """The model is warm on this device."""

    def interrupted(self, reason: Literal["unavailable", "fenced"]) -> None:
        """A server is away, or this worker's ownership is over: everything is loaded again."""

    def scored(self, partition: Partition, windows: Windows, errors: Errors) -> None:
        """A partition's share of a batch came back from the device."""

    def delivered(self, delivery: Delivery, latency_ms: Sequence[float] | Float32) -> None:
        """A batch was published; latency is from each window's last event time to now."""

    def reconciled(self, partition: Partition, case: str) -> None:
        """A partition was opened; ``case`` names what was found (`reconcile.py` lists them)."""

    def gauges(
        self,
        *,
        partitions: Collection[Partition],
        sensors: int,
        pending: int,
        lag: Mapping[Partition, int],
        firing: Iterable[Firing],
    ) -> None:
        """How things stand after a turn of the loop; ``firing`` may be read here or left alone."""

"""Stand-ins without a server: windows in memory, and an observer that does not listen."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stream_detector.errors import Moved
from stream_detector.events import Errors, Float32, Partition, Slice, Windows
from stream_detector.ports import NOTHING, Delivery, Firing, Stored, Update


@dataclass(slots=True)
class _State:
    life: str
    layout: str
    position: int
    settled: int
    floor: int
    headers: dict[str, bytes] = field(default_factory=dict)
    rows: dict[str, bytes] = field(default_factory=dict)
    pending: list[tuple[int, bytes, list[str], list[str]]] = field(default_factory=list)
    alerts: dict[str, bytes] = field(default_factory=dict)
    memories: dict[str, bytes] = field(default_factory=dict)


class MemoryStore:
    """`ports.WindowStore` in this process: for `replay`, `demo`, notebooks and tests."""

    def __init__(self) -> None:
        self.states: dict[Partition, _State] = {}

    def load(self, partition: Partition) -> Stored | None:
        """See `ports.WindowStore.load`."""
        state = self.states.get(partition)
        if state is None:
            return None
        waiting = {sensor for _, _, sensors, _ in state.pending for sensor in sensors}
        return Stored(
            state.life,
            state.layout,
            state.position,
            state.settled,
            dict(state.headers),
            [(end, blob) for end, blob, _, _ in state.pending],
            state.floor,
            {sensor: state.rows[sensor] for sensor in waiting},
            dict(state.alerts),
            dict(state.memories),
        )

    def append(self, partition: Partition, update: Update) -> list[bytes]:
        """See `ports.WindowStore.append`."""
        state = self.states.get(partition)
        if state is None:
            if not update.first:
                raise Moved("no state")
            state = _State(update.life, update.layout, update.start, update.start, update.floor)
            state.alerts = dict(update.alerts)
            self.states[partition] = state
        elif (state.life, state.position) != (update.life, update.start):
            raise Moved(f"state is at {state.position}")
        for sensor in update.expired:
            state.headers.pop(sensor, None)
        tails = []
        columns = (update.sensors, update.rows, update.headers, update.keep, update.tails)
        for sensor, rows, header, keep, tail in zip(*columns, strict=True):
            every = state.rows.get(sensor, b"") + rows
            tails.append(every[-tail:] if tail else b"")
            state.rows[sensor] = every[-keep:] if update.settled == state.settled else every
            if header:
                state.headers[sensor] = header
        state.position = update.end
        if update.pending or update.expired:
            state.pending.append((update.end, update.pending, list(update.waiting), list(update.expired)))
        return tails

    def settle(
        self,
        partition: Partition,
        life: str,
        since: int,
        upto: int,
        alerts: Mapping[str, bytes | None],
        memories: Mapping[str, bytes | None] = NOTHING,
    ) -> None:
        """See `ports.WindowStore.settle`."""
        state = self.states.get(partition)
        if state is None or (state.life, state.settled) != (life, since) or upto > state.position:
            raise Moved("no state" if state is None else f"settled is {state.settled}")
        while state.pending and state.pending[0][0] <= upto:
            for sensor in state.pending.pop(0)[3]:
                if sensor not in state.headers:
                    state.rows.pop(sensor, None)
        for kept, given in ((state.alerts, alerts), (state.memories, memories)):
            for name, packed in given.items():
                if packed:
                    kept[name] = packed
                else:
                    kept.pop(name, None)
        state.settled = upto

    def discard(self, partition: Partition, life: str) -> None:
        """See `ports.WindowStore.discard`."""
        state = self.states.get(partition)
        if state is None or state.life != life:
            raise Moved("another life")
        del self.states[partition]

    def ping(self) -> None:
        """Memory always answers."""

    def close(self) -> None:
        """Nothing to let go of."""


class Silent:
    """`ports.Observer` that does not listen."""

    def took(self, stage: str, seconds: float) -> None:
        """Ignored."""

    def read(self, batch: Sequence[Slice]) -> None:
        """Ignored."""

    def received(self, events: int, rejects: Mapping[str, int], rules: Mapping[str, int]) -> None:
        """Ignored."""

    def started(self, device: str) -> None:
        """Ignored."""

    def interrupted(self, reason: Literal["unavailable", "fenced"]) -> None:
        """Ignored."""

    def scored(self, partition: Partition, windows: Windows, errors: Errors) -> None:
        """Ignored."""

    def delivered(self, delivery: Delivery, latency_ms: Sequence[float] | Float32) -> None:
        """Ignored."""

    def reconciled(self, partition: Partition, case: str) -> None:
        """Ignored."""

    def gauges(
        self,
        *,
        partitions: Collection[Partition],
        sensors: int,
        pending: int,
        lag: Mapping[Partition, int],
        firing: Iterable[Firing],
    ) -> None:
        """Ignored."""

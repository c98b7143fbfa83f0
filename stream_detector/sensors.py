"""State per sensor: the event-time rules, and the headers of a partition's sensors.

A sensor's state is its header (here, in memory, and mirrored in the store) and its packed rows (in the store alone).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np

from stream_detector.events import Int64
from stream_detector.groups import Grouped

NEVER = int(np.iinfo(np.int64).min)  # "no event yet"
FORMAT = 2  # of rows and headers as stored; state of another one cannot be gone on from


@dataclass(frozen=True, slots=True)
class Rules:
    """What makes a window. Times in milliseconds of event time."""

    features: tuple[str, ...]
    length: int  # events a window
    stride: int  # events from one window's end to the next
    means: tuple[float, ...]  # raw value a feature is imputed with where there is no last one
    missing: Literal["last", "mean", "reject"] = "last"
    grace: int = 0  # how far behind its sensor's newest an event may be
    duplicates: Literal["drop", "keep"] = "drop"
    max_gap: int | None = None  # a longer silence of the sensor starts its window over
    own_gaps: Mapping[str, int] = field(default_factory=dict)  # the same, of sensors of which something else is known
    clock_reset: int | None = None  # an event this far behind its sensor's newest: its clock was set back, start over
    ttl: int = 7 * 86_400_000  # sensors that fall this far behind their partition are forgotten
    max_sensors: int = 100_000  # a partition
    known: frozenset[str] | None = None  # sensors to accept; None: all
    own_means: Grouped[tuple[float, ...]] | None = None  # of each sensor, where they are not the same for all

    @property
    def row(self) -> np.dtype[Any]:
        """One stored event."""
        size = len(self.features)
        packed = (size + 7) // 8
        return np.dtype(
            [("timestamp", "<i8"), ("offset", "<i8"), ("values", "<f4", (size,)), ("imputed", "u1", (packed,))]
        )

    @property
    def header(self) -> np.dtype[Any]:
        """One sensor's state beside its rows, followed by the recent timestamps that `grace` needs."""
        size = len(self.features)
        return np.dtype(
            [("newest", "<i8"), ("peak", "<i8"), ("filled", "<i8"), ("offset", "<i8"), ("last", "<f4", (size,))]
        )

    @property
    def layout(self) -> str:
        """Names what stored state is good for: other features, length or stride cannot go on from it."""
        text = msgspec.json.encode([FORMAT, self.features, self.length, self.stride])
        return hashlib.blake2b(text, digest_size=8).hexdigest()


class Table:
    """The headers of one partition's sensors, as columns."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.slots: dict[str, int] = {}
        self.free: list[int] = []
        size = 16
        self.newest = np.full(size, NEVER, np.int64)
        self.peak = np.full(size, NEVER, np.int64)  # largest time so far, also before the clock was set back
        self.filled = np.zeros(size, np.int64)
        self.offset = np.full(size, NEVER, np.int64)  # of the sensor's last event
        self.last = np.full((size, len(rules.features)), np.nan, np.float32)
        self.recent: dict[int, Int64] = {}  # timestamps within grace, where grace is used
        self.watermark = NEVER  # newest event time of the partition
        self.unsettled: dict[str, int] = {}  # rows of each sensor that undelivered windows may need

    def __len__(self) -> int:
        return len(self.slots)

    @classmethod
    def load(cls, rules: Rules, headers: Mapping[str, bytes], rows: Mapping[str, bytes]) -> Table:
        """From what a store holds; ``rows`` are those of the sensors whose windows wait."""
        table = cls(rules)
        size = rules.header.itemsize
        for sensor, packed in headers.items():
            slot = table.add(sensor)
            head = np.frombuffer(packed, rules.header, count=1)[0]
            table.newest[slot], table.peak[slot], table.filled[slot] = head["newest"], head["peak"], head["filled"]
            table.offset[slot], table.last[slot] = head["offset"], head["last"]
            if len(packed) > size:
                table.recent[slot] = np.frombuffer(packed, "<i8", offset=size).astype(np.int64)
        table.unsettled = {sensor: len(packed) // rules.row.itemsize for sensor, packed in rows.items()}
        # The sensor that made the watermark never expires, so it needs no place of its own in the store.
        table.watermark = int(table.peak.max())
        return table

    def add(self, sensor: str) -> int:
        """A slot for a new sensor."""
        slot = self.free.pop() if self.free else len(self.slots)
        if slot >= len(self.newest):
            grow = len(self.newest)
            self.newest = np.concatenate([self.newest, np.full(grow, NEVER, np.int64)])
            self.peak = np.concatenate([self.peak, np.full(grow, NEVER, np.int64)])
            self.filled = np.concatenate([self.filled, np.zeros(grow, np.int64)])
            self.offset = np.concatenate([self.offset, np.full(grow, NEVER, np.int64)])
            self.last = np.concatenate([self.last, np.full((grow, self.last.shape[1]), np.nan, np.float32)])
        self.slots[sensor] = slot
        return slot

    def forget(self, sensor: str) -> None:
        """Free a sensor's slot."""
        slot = self.slots.pop(sensor)
        self.newest[slot] = self.peak[slot] = self.offset[slot] = NEVER
        self.filled[slot], self.last[slot] = 0, np.nan
        self.recent.pop(slot, None)
        self.free.append(slot)

    def pack(self, sensors: Sequence[str]) -> list[bytes]:
        """Headers as stored; empty for a sensor that is not here."""
        slots = [self.slots.get(sensor, -1) for sensor in sensors]
        index = np.array(slots, np.intp)
        heads = np.empty(len(slots), self.rules.header)
        for name in heads.dtype.names or ():
            heads[name] = getattr(self, name)[index]
        size, packed = heads.itemsize, heads.tobytes()
        return [
            packed[at * size : (at + 1) * size] + (self.recent[slot].tobytes() if slot in self.recent else b"")
            if slot >= 0
            else b""
            for at, slot in enumerate(slots)
        ]

    def sweep(self) -> list[str]:
        """Forget the sensors that fell `ttl` behind the partition."""
        limit = self.watermark - self.rules.ttl
        expired = [sensor for sensor, slot in self.slots.items() if self.peak[slot] < limit]
        for sensor in expired:
            self.forget(sensor)
        return expired

    def settled(self, added: Mapping[str, int]) -> None:
        """The windows of a batch that added these rows are delivered: the rows may be trimmed from now on."""
        for sensor, count in added.items():
            left = self.unsettled.get(sensor, 0) - count
            if left > 0:
                self.unsettled[sensor] = left
            else:
                self.unsettled.pop(sensor, None)

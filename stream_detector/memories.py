"""What a sensor showed lately, and how a store keeps it: for what learns on, see `novelty`.

A head, and values in chunks, so that only those that changed are written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
import numpy as np

from stream_detector.errors import Damaged
from stream_detector.events import Float32

CHUNK = 128  # values that are stored together
NEVER = -(2**63)


class Peak(msgspec.Struct, array_like=True, frozen=True):
    """A number that is higher than all later ones."""

    window: int  # which of the sensor's windows, from 0
    value: float


class Head(msgspec.Struct, array_like=True, frozen=True):
    """What is known of a sensor beside its values."""

    taken: int = 0  # values, ever
    kept: int = 0  # of them, the last
    ended: int = NEVER  # epoch ms, of the last window
    windows: int = 0  # ever
    compared: int = 0  # of them, those that there was enough to compare with
    distances: tuple[Peak, ...] = ()  # in the order of their windows
    scores: tuple[Peak, ...] = ()  # the same of the other parts


class Memory(msgspec.Struct, array_like=True, frozen=True):
    """What a sensor showed lately; in a bundle, at the end of training."""

    head: Head = Head()
    packed: bytes = b""  # float32, raw units: the last values

    @property
    def values(self) -> Float32:
        """The last values (m), oldest first."""
        return np.frombuffer(self.packed, np.float32)

    @property
    def sound(self) -> bool:
        """Whether it is one that windows leave behind."""
        head = self.head
        if len(self.packed) != head.kept * np.dtype(np.float32).itemsize or head.taken < head.kept:
            return False
        runs = (head.distances, head.scores)
        return (
            bool(np.isfinite(self.values).all())
            and 0 <= head.compared <= head.windows
            and all(0 <= peak.window < head.windows and 0 <= peak.value < np.inf for run in runs for peak in run)
            and all(one.window < two.window and one.value > two.value for run in runs for one, two in pairwise(run))
        )


@dataclass(slots=True)
class Memories:
    """Those of a partition's sensors, and what of them is stored: heads, and values in chunks of `CHUNK`."""

    known: dict[str, Memory] = field(default_factory=dict)
    stored: dict[str, dict[int, int]] = field(default_factory=dict)  # by sensor: values in each chunk; -1 others'

    def forget(self, sensor: str) -> None:
        """Of a sensor that is gone."""
        self.known.pop(sensor, None)
        if sensor in self.stored:
            self.stored[sensor] = dict.fromkeys(self.stored[sensor], -1)

    def changed(self, sensors: Iterable[str]) -> dict[str, bytes | None]:
        """What is to be stored so that the store has what is known of these sensors; None for what is to go."""
        found: dict[str, bytes | None] = {}
        for sensor in sensors:
            memory, before = self.known.get(sensor), self.stored.pop(sensor, None)
            if memory is None and before is None:
                continue
            chunks = {} if memory is None else dict(_chunks(memory))
            gone = (before or {}).keys() - chunks.keys()
            found |= {f"{chunk}:{sensor}": None for chunk in gone}
            found |= {
                f"{chunk}:{sensor}": packed
                for chunk, packed in chunks.items()
                if (before or {}).get(chunk) != len(packed)
            }
            found[f"head:{sensor}"] = None if memory is None else msgspec.msgpack.encode(memory.head)
            if memory is not None:
                self.stored[sensor] = {chunk: len(packed) for chunk, packed in chunks.items()}
        return found

    @classmethod
    def load(cls, stored: Mapping[str, bytes]) -> Memories:
        """What was stored. Raises `Damaged` if values are missing."""
        heads: dict[str, Head] = {}
        chunks: dict[str, dict[int, bytes]] = {}
        for name, packed in stored.items():
            part, _, sensor = name.partition(":")
            if part == "head":
                heads[sensor] = msgspec.msgpack.decode(packed, type=Head)
            else:
                chunks.setdefault(sensor, {})[int(part)] = packed
        memories = cls()
        for sensor, head in heads.items():
            parts = dict(sorted(chunks.get(sensor, {}).items()))
            memory = Memory(head, b"".join(parts.values()))
            if len(memory.values) != head.kept or dict(_chunks(memory)) != parts:
                raise Damaged(f"{sensor}: values of what it showed are missing")
            memories.known[sensor] = memory
            memories.stored[sensor] = {chunk: len(packed) for chunk, packed in parts.items()}
        return memories


def _chunks(memory: Memory) -> Iterator[tuple[int, bytes]]:
    """The values, cut where the number of values ever taken is a multiple of `CHUNK`."""
    size = np.dtype(np.float32).itemsize
    end = memory.head.taken
    at = first = end - memory.head.kept  # the number of the first
    while at < end:
        to = min((at // CHUNK + 1) * CHUNK, end)
        yield at // CHUNK, memory.packed[(at - first) * size : (to - first) * size]
        at = to


def from_chunk(values: Float32, taken: int, needed: int) -> Float32:
    """The last values of those ever ``taken``, from that with the number ``needed`` on.

    And those before it in its chunk, so that no chunk is written again for being shorter.
    """
    return values[max(0, needed // CHUNK * CHUNK - (taken - len(values))) :]

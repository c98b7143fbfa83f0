"""What a store keeps of a batch between its append and its delivery: references to stored rows, rejects, who is gone.

After a crash the next owner makes the same windows of it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from stream_detector.errors import Damaged
from stream_detector.events import Reject, Windows
from stream_detector.sensors import Rules
from stream_detector.windows import Change, cut


class _Waiting(msgspec.Struct, array_like=True):
    """What a store keeps of a batch that is appended but not yet delivered."""

    sensors: list[str]  # (n) of each window
    ends: bytes  # (n) int64, offset of each window's last event
    rejects: list[tuple[int, str, str, bytes | None, bytes | None]]
    swept: list[tuple[str, int]] = []


def pack_waiting(change: Change, rejects: Sequence[Reject]) -> bytes:
    """A batch's windows (by reference to the stored rows) and what else is due with them, for `unpack_waiting`."""
    if not len(change.which) and not rejects and not change.swept:
        return b""
    sensors = [change.sensors[index] for index in change.which.tolist()]
    plain = [(reject.offset, reject.reason, reject.message, reject.key, reject.value) for reject in rejects]
    return msgspec.msgpack.encode(_Waiting(sensors, change.ends.tobytes(), plain, change.swept))


class Left(NamedTuple):
    """A batch that an earlier owner left undelivered."""

    windows: Windows
    rejects: list[Reject]
    swept: list[tuple[str, int]]  # as in `windows.Change`


def unpack_waiting(rules: Rules, packed: bytes, rows: Mapping[str, bytes]) -> Left:
    """A batch as it was; ``rows`` are its sensors' stored rows.

    Raises `Damaged` if rows are missing.
    """
    waiting = msgspec.msgpack.decode(packed, type=_Waiting)
    names = sorted(set(waiting.sensors))
    stored = [np.frombuffer(rows[name], rules.row) for name in names]
    base = dict(zip(names, np.cumsum([0, *map(len, stored)]).tolist(), strict=False))
    by_name = dict(zip(names, stored, strict=True))
    ends = np.frombuffer(waiting.ends, np.int64)
    last = []
    for sensor, end in zip(waiting.sensors, ends.tolist(), strict=True):
        offsets = by_name[sensor]["offset"]
        at = int(np.searchsorted(offsets, end))
        if at + 1 < rules.length or at == len(offsets) or offsets[at] != end:
            raise Damaged(f"rows of {sensor!r} are missing")
        last.append(base[sensor] + at)
    every = np.concatenate([np.empty(0, rules.row), *stored])
    windows = cut(rules, every, waiting.sensors, np.array(last, np.int64))
    return Left(windows, [Reject(*reject) for reject in waiting.rejects], waiting.swept)

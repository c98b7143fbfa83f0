"""What a new owner of a partition does before it reads on: compare what was published with what the windows know.

The cases are those of the protocol: C is the committed position, R the position of the stored windows.

=============  ==========================================================================================
fresh          nobody worked on this partition before
resumed        R = C, nothing waits
ahead          R > C: the windows that wait are judged; those that end before C are not published again
behind         R < C: the store lost its last writes; events are read again, nothing is published before C
empty          the store lost the state: events are read again from C minus a look-back
replaced       the stored state belongs to other features, length or stride, or to another life of the topic
damaged        rows are missing from the stored state: as if it were empty
rewound        C lies before what was settled: somebody reset the group's offsets, or the broker lost a commit; as if
               the state were empty, so everything from C on is published again
=============  ==========================================================================================
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from stream_detector.alerts import Incident
from stream_detector.errors import Damaged
from stream_detector.events import Partition, Reject, Windows
from stream_detector.ports import Outlet, Source, Stored, WindowStore
from stream_detector.sensors import Rules, Table
from stream_detector.windows import unpack_waiting


@dataclass(slots=True)
class Owned:
    """A partition that is ours, and what we know of its stored state."""

    life: str
    position: int  # the next event to append
    settled: int  # windows that end before it are done in the store
    committed: int  # nothing that ends before it may be published
    first: bool  # whether the store has nothing yet
    table: Table
    incidents: dict[str, Incident]


@dataclass(slots=True)
class Work:
    """A partition's share of a batch in flight."""

    partition: Partition
    owned: Owned  # as it was when the batch was appended: if it is not the current one, the work is void
    end: int
    windows: Windows
    rejects: list[Reject]
    added: dict[str, int]  # rows by sensor


def reconcile(
    partition: Partition,
    source: Source,
    store: WindowStore,
    outlet: Outlet,
    rules: Rules,
    lookback: int,
    *,
    latest: bool = False,
) -> tuple[Owned, Work | None, str]:
    """What we own now, the work that earlier owners left, and which case it was.

    The committed position is read first: once it is known, an older owner can no longer commit, so what is loaded
    after it cannot be overtaken. ``lookback`` is in events. A partition that nobody worked on starts at its first
    event, or after its last if ``latest``.
    """
    first, end = source.bounds(partition)
    committed = outlet.committed(partition)
    stored = store.load(partition)
    case = "fresh" if committed is None else "empty"
    if stored is not None:
        if committed is not None and committed < stored.settled:
            # Settling follows committing: either we are a paused owner whose answer is old, or offsets were reset.
            committed = outlet.committed(partition)
        if stored.position > end:  # of another life of the topic, or a paused owner has read on since we asked
            first, end = source.bounds(partition)
        if stored.layout != rules.layout or not first <= stored.position <= end:
            case = "replaced"
        elif committed is not None and committed < stored.settled:
            case = "rewound"
        else:
            try:
                return _resume(partition, stored, stored.settled if committed is None else committed, rules)
            except Damaged:
                case = "damaged"
        store.discard(partition, stored.life)
    start = end if latest and case == "fresh" else first
    floor = start if committed is None or committed > end else max(committed, first)
    position = max(first, floor - lookback)
    return Owned(uuid.uuid4().hex, position, position, floor, True, Table(rules), {}), None, case


def _resume(partition: Partition, stored: Stored, committed: int, rules: Rules) -> tuple[Owned, Work | None, str]:
    table = Table.load(rules, stored.headers, stored.rows)
    incidents = {name: msgspec.msgpack.decode(packed, type=Incident) for name, packed in stored.alerts.items()}
    owned = Owned(stored.life, stored.position, stored.settled, committed, False, table, incidents)
    batches = [unpack_waiting(rules, blob, stored.rows) for _, blob in stored.pending if blob]
    work = None
    if batches or committed < stored.position:
        rejects = [reject for _, some in batches for reject in some]
        windows = _join(rules, [windows for windows, _ in batches])
        work = Work(partition, owned, stored.position, windows, rejects, dict(table.unsettled))
    if stored.position < committed:
        return owned, work, "behind"
    return owned, work, "ahead" if work is not None and stored.position > committed else "resumed"


def _join(rules: Rules, parts: Sequence[Windows]) -> Windows:
    """The windows of several batches as one."""
    width = len(rules.features)
    none = Windows(
        [],
        np.empty((0, rules.length, width), np.float32),
        np.empty((0, 2), np.int64),
        np.empty((0, 2), np.int64),
        np.empty((0, width), bool),
        np.empty(0, np.float32),
    )
    every = [none, *parts]
    return Windows(
        [sensor for part in every for sensor in part.sensors],
        np.concatenate([part.values for part in every]),
        np.concatenate([part.timestamps for part in every]),
        np.concatenate([part.offsets for part in every]),
        np.concatenate([part.imputed for part in every]),
        np.concatenate([part.confidence for part in every]),
    )

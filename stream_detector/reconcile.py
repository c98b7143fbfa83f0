"""What a new owner of a partition does before it reads on: compare what was published with what the windows know.

The cases are those of the protocol: C is the committed position, R the position of the stored windows.

=============  ==========================================================================================
fresh          nobody worked on this partition before
resumed        R = C, nothing waits
ahead          R > C: the windows that wait are judged; those that end before C are not published again
behind         R < C: the store lost its last writes; events are read again, nothing is published before C
empty          the store lost the state: events are read again from C minus a look-back
replaced       the stored state belongs to other features, length or stride, or to another life of the topic: its
               id changed, or R lies beyond the log's end
truncated      the log no longer reaches back to C or R: retention removed events that nobody has read
damaged        rows are missing from the stored state: as if it were empty
rewound        C lies before what was settled: somebody reset the group's offsets, or the broker lost a commit; as
               if the state were empty, so everything from C on is published again
=============  ==========================================================================================

Where a state was lost, what is read again counts towards hysteresis but changes no alert: alerts that were open are
taken from what was published (`Outlet.standing`) and go on with their ids and revisions, and those that were recent
still are.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC

import msgspec
import numpy as np

from stream_detector.alerts import Incident, Past, Silence, Standing
from stream_detector.errors import Damaged
from stream_detector.events import LOCAL, Alert, Partition, Reject, Windows
from stream_detector.levels import Level
from stream_detector.memories import Memories
from stream_detector.ports import Firing, Lookback, Outlet, Source, Stored, WindowStore
from stream_detector.sensors import Rules, Table
from stream_detector.settings import Settings
from stream_detector.shifts import Shift
from stream_detector.silence import SILENT, Watch
from stream_detector.timestamps import parse
from stream_detector.waiting import unpack_waiting


@dataclass(slots=True)
class Owned:
    """A partition that is ours, and what we know of its stored state."""

    life: str
    layout: str
    position: int  # the next event to append
    settled: int  # windows that end before it are done in the store
    committed: int  # nothing that ends before it may be published
    floor: int  # windows that end before it change no alert: an earlier life of the state published what they changed
    first: bool  # whether the store has nothing yet
    table: Table
    incidents: dict[str, Incident]
    silences: dict[str, Silence] = field(default_factory=dict)
    watch: Watch | None = None
    memories: Memories = field(default_factory=Memories)
    levels: dict[str, Level] = field(default_factory=dict)
    shifts: dict[str, Shift] = field(default_factory=dict)

    def standing(self, sensor: str) -> bytes | None:
        """The sensor's alert state as it is stored; None if it has none."""
        found = Standing(
            self.incidents.get(sensor), self.silences.get(sensor), self.levels.get(sensor), self.shifts.get(sensor)
        )
        return None if found == Standing() else msgspec.msgpack.encode(found)

    def firing(self) -> Iterator[Firing]:
        """The alerts that are open."""
        for sensor, incident in self.incidents.items():
            if incident.revision:
                yield Firing(sensor, "anomaly", incident.severity)
            fault = None if incident.fault is None else incident.fault.incident
            if fault is not None and fault.revision:
                yield Firing(sensor, "fault", fault.severity)
        for sensor in self.silences:
            yield Firing(sensor, "silence", SILENT)


@dataclass(slots=True)
class Work:
    """A partition's share of a batch in flight."""

    partition: Partition
    owned: Owned  # as it was when the batch was appended: if it is not the current one, the work is void
    end: int
    windows: Windows
    rejects: list[Reject]
    added: dict[str, int]  # rows by sensor
    swept: list[tuple[str, int]]  # as in `windows.Change`
    left: bool = False  # by an earlier owner; nothing more is read of the partition until it is settled


def reconcile(
    partition: Partition,
    source: Source,
    store: WindowStore,
    outlet: Outlet,
    rules: Rules,
    lookback: Lookback,
    *,
    latest: bool = False,
    limit: int = 0,
) -> tuple[Owned, Work | None, str]:
    """What we own now, the work that earlier owners left, and which case it was.

    The committed position is read first: once it is known, an older owner can no longer commit, so what is loaded
    after it cannot be overtaken. A partition that nobody worked on starts at its first event, or after its last if
    ``latest``. ``limit`` is the most recent alerts that any sensor may have; 0 if nobody counts them.
    """
    first, end = source.bounds(partition)
    committed = outlet.committed(partition)
    layout = f"{rules.layout}:{source.identity(partition)}"
    stored = store.load(partition)
    if stored is None:
        case = "fresh" if committed is None else "truncated" if committed < first else "empty"
    else:
        if committed is not None and committed < stored.settled:
            # Settling follows committing: either we are a paused owner whose answer is old, or offsets were reset.
            committed = outlet.committed(partition)
        if stored.position > end:  # of another life of the topic, or a paused owner has read on since we asked
            first, end = source.bounds(partition)
        if not _same(stored.layout, layout) or stored.position > end:
            case = "replaced"
        elif stored.position < first:
            case = "truncated"
        elif committed is not None and committed < stored.settled:
            case = "rewound"
        elif not stored.whole:
            case = "damaged"
        else:
            try:
                return _resume(partition, stored, stored.settled if committed is None else committed, rules)
            except Damaged:
                case = "damaged"
        store.discard(partition, stored.life)
    start = end if latest and case == "fresh" else first
    floor = start if committed is None or committed > end else max(committed, first)
    position = source.reach(partition, floor, lookback) if floor > first and case != "fresh" else floor
    owned = Owned(
        uuid.uuid4().hex, layout, position, position, floor, floor, first=True, table=Table(rules), incidents={}
    )
    if case != "fresh":
        another = committed is None or committed > end  # log: what was published knows offsets of the earlier one
        _recover(owned, outlet.standing(partition, sys.maxsize if another else floor, limit))
    return owned, None, case


def _same(stored: str, layout: str) -> bool:
    """Whether a state goes on: the same rules and no other topic. One whose id is unknown counts as the same."""
    (rules, _, topic), (ours, _, now) = stored.partition(":"), layout.partition(":")
    return rules == ours and (topic == now or not topic or not now)


def lookback_of(rules: Rules, settings: Settings, reach: int = 0) -> Lookback:
    """By default enough of each sensor's events for a window and for all that hysteresis counts.

    ``reach`` is how many events before it a window's verdict depends on, where more than the window counts.
    """
    delivery, alerts = settings.delivery, settings.alerts
    enough = rules.length + rules.stride * (alerts.min_windows + alerts.resolve_windows) + reach
    return Lookback(delivery.lookback_events or enough, delivery.lookback_time, delivery.lookback_limit)


def _recover(owned: Owned, alerts: Sequence[Alert]) -> None:
    """Go on with alerts that were open when the state was lost, and know those that were over."""
    recent: dict[str, tuple[Past, ...]] = {}
    for alert in sorted(alerts, key=lambda one: one.source.last_offset):
        sensor, started = alert.sensor_id, parse(alert.started_at, UTC)
        if alert.kind == "anomaly":  # the last one says what was accepted, and what may last since it began
            lasts = started if alert.ended_at is None else None
            owned.shifts[sensor] = Shift(lasts, raised=max(1.0, float(np.float32(alert.accepted))))
        # As they were before they were written with few digits.
        peak, strength = (float(np.float32(one)) for one in (alert.peak_score, alert.peak_strength))
        if alert.kind == "silence":
            owned.silences[sensor] = Silence(alert.id, started, alert.source.last_offset)
        elif alert.ended_at is not None:
            recent[sensor] = (*recent.get(sensor, ()), Past(parse(alert.ended_at, UTC), strength))
        else:
            owned.incidents[sensor] = Incident(
                alert.id,
                started,
                revision=alert.revision,
                severity=alert.severity,
                peak=peak,
                strength=strength,
                local=alert.part in LOCAL,
            )
    owned.shifts = {name: shift for name, shift in owned.shifts.items() if shift != Shift()}
    for sensor, past in recent.items():
        incident = owned.incidents.get(sensor, Incident("", 0))
        owned.incidents[sensor] = msgspec.structs.replace(incident, recent=past)


def _resume(partition: Partition, stored: Stored, committed: int, rules: Rules) -> tuple[Owned, Work | None, str]:
    table = Table.load(rules, stored.headers, stored.rows)
    standing = {name: msgspec.msgpack.decode(packed, type=Standing) for name, packed in stored.alerts.items()}
    owned = Owned(
        stored.life,
        stored.layout,
        stored.position,
        stored.settled,
        committed,
        stored.floor,
        first=False,
        table=table,
        incidents={name: state.incident for name, state in standing.items() if state.incident is not None},
        silences={name: state.silence for name, state in standing.items() if state.silence is not None},
        memories=Memories.load(stored.memories),
        levels={name: state.level for name, state in standing.items() if state.level is not None},
        shifts={name: state.shift for name, state in standing.items() if state.shift is not None},
    )
    batches = [unpack_waiting(rules, blob, stored.rows) for _, blob in stored.pending if blob]
    work = None
    if batches or committed < stored.position:
        rejects = [reject for batch in batches for reject in batch.rejects]
        windows = _join(rules, [batch.windows for batch in batches])
        swept = [one for batch in batches for one in batch.swept]
        work = Work(partition, owned, stored.position, windows, rejects, dict(table.unsettled), swept, left=True)
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

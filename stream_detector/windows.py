"""Windows of events per sensor: the rules of event time over a batch, and the windows that come of it.

All rules run on event time and on positions in the log, never on the wall clock and never on where a batch begins or
ends: reading the same events again, cut into other batches, gives the same windows. Work is done on arrays; a Python
loop runs over the sensors of a batch, not over its events.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import Damaged
from stream_detector.events import Bool, Events, Float32, Int64, Reject, Windows
from stream_detector.sensors import NEVER, Rules, Table

SWEEPS = 16  # expired sensors are forgotten when event time passes a multiple of ttl / SWEEPS


@dataclass(frozen=True, slots=True)
class Change:
    """What one batch does to a partition. ``k`` sensors are touched, ``n`` windows fill."""

    sensors: list[str]  # (k)
    rows: list[bytes]  # (k) packed rows to append
    headers: list[bytes]  # (k) empty where the sensor expired within the batch
    keep: list[int]  # (k) bytes of rows that must survive trimming
    tails: list[int]  # (k) bytes of rows wanted back, 0 for none
    expired: list[str]  # sensors forgotten and not seen again in the batch
    swept: list[tuple[str, int]]  # every sensor that was forgotten, and the offset of the event after which
    which: NDArray[np.intp]  # (n) index into `sensors` of each window, in offset order
    back: Int64  # (n) rows of the tail after the window's last
    ends: Int64  # (n) offset of the window's last event
    added: list[int]  # (k) rows
    rejects: list[Reject]
    counts: Counter[str]  # accepted, late, duplicate, out-of-order, restarted, imputed, expired, new-sensor, …


@dataclass(slots=True)
class _Part:
    """One sensor's rows of one stretch of a batch, in offset order."""

    rows: NDArray[Any]  # (m) of `Rules.row`
    full: Bool  # (m) whether the row completes a window


def advance(table: Table, events: Events, raw: Sequence[tuple[bytes | None, bytes | None]] | None = None) -> Change:
    """Apply the rules to a batch and move the table on. ``raw`` are the events' bytes, for the rejects."""
    rules = table.rules
    parts: dict[str, list[_Part]] = defaultdict(list)
    refused: list[tuple[int, str, str]] = []  # index of the event, reason, message
    counts: Counter[str] = Counter()
    gone: list[tuple[str, int]] = []
    tick = max(rules.ttl // SWEEPS, 1)
    done, total = 0, len(events)
    while done < total:
        stop = _next_sweep(table, events, done, tick)
        before = table.watermark
        _apply(table, events, done, stop, parts, refused, counts)
        if before != NEVER and table.watermark // tick > before // tick:
            last = int(events.offsets[stop - 1])
            gone += [(sensor, last) for sensor in table.sweep()]
        done = stop
    rejects = [
        Reject(int(events.offsets[at]), reason, message, *(raw[at] if raw else (None, None)))
        for at, reason, message in refused
    ]
    counts["expired"] += len(gone)
    return _change(table, parts, gone, rejects, counts)


def _next_sweep(table: Table, events: Events, done: int, tick: int) -> int:
    """End of the stretch of events after which expired sensors may have to be forgotten.

    That moment is a function of the events alone. A stretch may be cut too early, which changes nothing.
    """
    rules, timestamps = table.rules, events.timestamps[done:]
    welcome = table.slots if len(table) >= rules.max_sensors else rules.known
    if welcome is None:
        moving = np.ones(len(timestamps), bool)
    else:  # strangers will be refused and must not move the time
        moving = np.fromiter((sensor in welcome for sensor in events.sensors[done:]), bool, len(timestamps))
    crossing = moving if table.watermark == NEVER else moving & (timestamps // tick > table.watermark // tick)
    return done + (int(np.argmax(crossing)) + 1 if crossing.any() else len(timestamps))


def _apply(
    table: Table,
    events: Events,
    start: int,
    stop: int,
    parts: dict[str, list[_Part]],
    refused: list[tuple[int, str, str]],
    counts: Counter[str],
) -> None:
    """The rules over one stretch, sensor by sensor on sorted columns. ``m`` events."""
    rules = table.rules
    known = len(table)
    slots = np.fromiter(map(_lookup(table, refused, start), enumerate(events.sensors[start:stop])), np.intp)
    counts["new-sensor"] += len(table) - known
    order = np.argsort(slots, kind="stable")
    order = order[np.searchsorted(slots[order], 0) :]  # without those refused
    if not len(order):
        return
    slot, time = slots[order], events.timestamps[start:stop][order]
    first = np.flatnonzero(np.r_[True, slot[1:] != slot[:-1]])  # of each sensor
    group = np.cumsum(np.r_[False, slot[1:] != slot[:-1]])
    newest = _newest_before(time, table.newest[slot[first]], first, group)
    reset = _resets(table, slot, time, newest, first, group)

    seen = newest != NEVER
    behind = np.where(seen, newest - time, 0)
    late = behind > rules.grace
    duplicate = seen & (behind == 0)
    disordered = (behind > 0) & ~late
    if rules.grace:
        for at in np.flatnonzero(disordered).tolist():
            head = int(first[group[at]])
            since = _since_reset(reset, head, at)
            earlier = time[since:at]
            recent = table.recent.get(int(slot[at])) if since == head and not reset[head] else None
            duplicate[at] = bool((earlier == time[at]).any() or (recent is not None and (recent == time[at]).any()))
    if rules.duplicates == "keep":
        duplicate[:] = False
    for at in np.flatnonzero(late).tolist():
        message = f"{behind[at] / 1000:g} s older than the newest event of its sensor"
        refused.append((start + int(order[at]), "late", message))
    counts["late"] += int(late.sum())
    counts["duplicate"] += int((duplicate & ~late).sum())
    counts["out-of-order"] += int((disordered & ~duplicate).sum())

    good = ~late & ~duplicate
    order, slot, time, newest, behind = order[good], slot[good], time[good], newest[good], behind[good]
    reset = reset[good]
    counts["accepted"] += len(order)
    if not len(order):
        return
    border = np.r_[True, slot[1:] != slot[:-1]]
    first, group = np.flatnonzero(border), np.cumsum(border) - 1
    last = np.r_[first[1:], len(slot)] - 1
    touched = slot[first]
    names = [events.sensors[start + at] for at in order[first].tolist()]
    values, imputed = _impute(table, events.values[start:stop][order], names, touched, first, last, group)
    counts["imputed"] += int(imputed.any(axis=1).sum())

    position = np.arange(len(slot))
    gap = reset | ((newest != NEVER) & (-behind > _allowed(rules, names, group)))
    counts["restarted"] += int(gap.sum())
    base = np.maximum.accumulate(np.where(gap | border, position, 0))  # where the window last started over
    begun = np.where(gap[base], 0, table.filled[slot])
    filled = begun + position - base + 1
    full = (filled >= rules.length) & ((filled - rules.length) % rules.stride == 0)

    rows = np.empty(len(slot), rules.row)
    rows["timestamp"], rows["offset"], rows["values"] = time, events.offsets[start:stop][order], values
    rows["imputed"] = np.packbits(imputed, axis=1)
    table.filled[touched], table.offset[touched] = filled[last], rows["offset"][last]
    # Of the last event and what came before it: with a clock that was set back, not the largest there was.
    table.newest[touched] = np.maximum(newest[last], time[last])
    table.peak[touched] = np.maximum(table.peak[touched], np.maximum.reduceat(time, first))
    table.watermark = max(table.watermark, int(time.max()))
    for name, at, to in zip(names, first.tolist(), (last + 1).tolist(), strict=True):
        parts[name].append(_Part(rows[at:to], full[at:to]))
    if rules.grace:
        _remember(table, touched, time, reset, first, last)


def _allowed(rules: Rules, names: Sequence[str], group: NDArray[np.intp]) -> Int64 | int:
    """The longest silence in ms over which a window goes on, of each event (m), or of all."""
    common = np.iinfo(np.int64).max if rules.max_gap is None else rules.max_gap
    if not rules.own_gaps:
        return common
    return np.array([rules.own_gaps.get(name, common) for name in names], np.int64)[group]


def _lookup(table: Table, refused: list[tuple[int, str, str]], start: int) -> Callable[[tuple[int, str]], int]:
    """A function from (index, sensor) to slot; -1 if the sensor is not welcome."""
    get, rules = table.slots.get, table.rules

    def find(item: tuple[int, str]) -> int:
        slot = get(item[1], -1)
        if slot >= 0:
            return slot
        if rules.known is not None and item[1] not in rules.known:
            refused.append((start + item[0], "unknown-sensor", "the model was not trained on this sensor"))
            return -1
        if len(table) >= rules.max_sensors:
            message = f"the partition already has {rules.max_sensors} live sensors (window.max_sensors)"
            refused.append((start + item[0], "too-many-sensors", message))
            return -1
        return table.add(item[1])

    return find


def _newest_before(time: Int64, initial: Int64, first: NDArray[np.intp], group: NDArray[np.intp]) -> Int64:
    """For each event the newest time of its sensor before it (`NEVER` for none): a running maximum by group."""
    floor = int(min(time.min(), initial[initial != NEVER].min(initial=np.iinfo(np.int64).max)))
    start = np.where(initial == NEVER, floor - 1, initial) - floor + 1  # 0 stands for none
    span = int(max(time.max() - floor + 1, start.max())) + 1
    lifted = np.empty(len(time) + len(first), np.int64)  # each group led by its initial value, lifted above the last
    lead = first + np.arange(len(first))
    rest = np.arange(len(time)) + group + 1
    lifted[lead] = start + np.arange(len(first)) * span
    lifted[rest] = time - floor + 1 + group * span
    running = np.maximum.accumulate(lifted)[rest - 1] - group * span
    return np.where(running == 0, NEVER, running + floor - 1)


def _resets(
    table: Table,
    slot: NDArray[np.intp],
    time: Int64,
    newest: Int64,
    first: NDArray[np.intp],
    group: NDArray[np.intp],
) -> Bool:
    """Which events show that their sensor's clock was set back; ``newest`` begins anew with them, in place.

    The loop runs over the events of sensors to whom that happens in this batch, and over no others.
    """
    limit, reset = table.rules.clock_reset, np.zeros(len(time), bool)
    if limit is None:
        return reset
    last = np.r_[first[1:], len(time)]
    for at in np.unique(group[(newest != NEVER) & (newest - time > limit)]).tolist():
        current = int(table.newest[slot[first[at]]])
        for event in range(int(first[at]), int(last[at])):
            moment = int(time[event])
            reset[event] = current != NEVER and current - moment > limit
            newest[event] = NEVER if reset[event] else current
            current = moment if reset[event] else max(current, moment)
    return reset


def _impute(
    table: Table,
    values: Float32,
    names: list[str],
    touched: NDArray[np.intp],
    first: NDArray[np.intp],
    last: NDArray[np.intp],
    group: NDArray[np.intp],
) -> tuple[Float32, Bool]:
    """Fill missing values (m, F) by the sensor's last ones or by means; remember the last measured ones."""
    missing = np.isnan(values)
    position = np.arange(len(values))[:, None]
    if missing.any():
        found = np.maximum.accumulate(np.where(missing, -1, position), axis=0)  # (m, F) row of the last value
        before = table.last[touched][group]
        held = np.where(found >= first[group][:, None], np.take_along_axis(values, np.maximum(found, 0), 0), before)
        latest = held[last]
        if table.rules.missing == "mean":
            held = np.where(missing, np.nan, values)
        own, means = table.rules.own_means, np.asarray(table.rules.means, np.float32)
        if own is not None:
            means = np.array([own.of(name) for name in names], np.float32)[group]
        values = np.where(missing, np.where(np.isnan(held), means, held), values).astype(np.float32)
    else:
        latest = values[last]
    table.last[touched] = latest
    return values, missing


def _since_reset(reset: Bool, begun: int, at: int) -> int:
    """Where a sensor's clock was last set back among its events from ``begun`` up to ``at``; ``begun`` if nowhere."""
    found = np.flatnonzero(reset[begun:at])
    return begun + int(found[-1]) if len(found) else begun


def _remember(
    table: Table,
    touched: NDArray[np.intp],
    time: Int64,
    reset: Bool,
    first: NDArray[np.intp],
    last: NDArray[np.intp],
) -> None:
    """Keep the timestamps that a duplicate within grace could repeat."""
    for slot, at, to in zip(touched.tolist(), first.tolist(), (last + 1).tolist(), strict=True):
        since = _since_reset(reset, at, to)
        known = np.empty(0, np.int64) if reset[since] else table.recent.get(slot, np.empty(0, np.int64))
        times = np.concatenate([known, time[since:to]])
        table.recent[slot] = np.unique(times[times >= table.newest[slot] - table.rules.grace])


def _change(
    table: Table,
    parts: dict[str, list[_Part]],
    swept: list[tuple[str, int]],
    rejects: list[Reject],
    counts: Counter[str],
) -> Change:
    """Gather the stretches of a batch by sensor."""
    rules, size = table.rules, table.rules.row.itemsize
    sensors = list(parts)
    rows, tails, keep, added, which, back, ends = [], [], [], [], [], [], []
    for index, sensor in enumerate(sensors):
        part = parts[sensor]
        packed = part[0].rows if len(part) == 1 else np.concatenate([piece.rows for piece in part])
        full = np.flatnonzero(part[0].full if len(part) == 1 else np.concatenate([piece.full for piece in part]))
        count = len(packed)
        table.unsettled[sensor] = table.unsettled.get(sensor, 0) + count
        rows.append(packed.tobytes())
        added.append(count)
        keep.append((table.unsettled[sensor] + rules.length - 1) * size)
        tails.append((count - int(full[0]) + rules.length - 1) * size if len(full) else 0)
        which.append(np.full(len(full), index, np.intp))
        back.append(count - 1 - full)
        ends.append(packed["offset"][full])
    none = np.empty(0, np.int64)
    end = np.concatenate([none, *ends])
    order = np.argsort(end, kind="stable")
    return Change(
        sensors,
        rows,
        table.pack(sensors),
        keep,
        tails,
        sorted({sensor for sensor, _ in swept} - table.slots.keys()),
        swept,
        np.concatenate([none.astype(np.intp), *which])[order],
        np.concatenate([none, *back])[order],
        end[order],
        added,
        sorted(rejects, key=lambda reject: reject.offset),
        counts,
    )


def assemble(rules: Rules, change: Change, tails: Sequence[bytes]) -> Windows:
    """The windows that a change filled, from the rows that the store returned for ``change.tails``.

    Raises `Damaged` if the store returned fewer rows than the headers account for.
    """
    if any(len(tail) != wanted for tail, wanted in zip(tails, change.tails, strict=True)):
        raise Damaged("rows of a sensor are missing")
    rows = np.frombuffer(b"".join(tails), rules.row)
    ends = np.cumsum([len(tail) // rules.row.itemsize for tail in tails], dtype=np.int64)
    sensors = [change.sensors[index] for index in change.which.tolist()]
    last = (ends[change.which] if len(change.which) else change.back) - 1 - change.back
    return cut(rules, rows, sensors, last)


def cut(rules: Rules, rows: NDArray[Any], sensors: list[str], last: Int64) -> Windows:
    """Windows that end at the rows ``last`` (n)."""
    chosen = rows[last[:, None] + np.arange(1 - rules.length, 1)]  # (n, W)
    size = len(rules.features)
    imputed = np.unpackbits(chosen["imputed"], axis=2, count=size).astype(bool)  # (n, W, F)
    ends = [0, -1]
    return Windows(
        sensors,
        np.ascontiguousarray(chosen["values"]),
        np.ascontiguousarray(chosen["timestamp"][:, ends]),
        np.ascontiguousarray(chosen["offset"][:, ends]),
        np.asarray(imputed.any(axis=1), bool),
        (1 - imputed.mean(axis=(1, 2))).astype(np.float32),
    )


class Rolling:
    """Windows of one partition's events in this process, without a store: for training, programs and notebooks."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.table = Table(rules)
        self.rows: dict[str, bytes] = {}  # the last W - 1 of each sensor

    def push(self, events: Events) -> tuple[Windows, Change]:
        """The windows that these events fill."""
        change = advance(self.table, events)
        needed = (self.rules.length - 1) * self.rules.row.itemsize
        tails = []
        for sensor, rows, tail in zip(change.sensors, change.rows, change.tails, strict=True):
            every = self.rows.get(sensor, b"") + rows
            tails.append(every[-tail:] if tail else b"")
            self.rows[sensor] = every[max(0, len(every) - needed) :]
        self.table.settled(dict(zip(change.sensors, change.added, strict=True)))
        for sensor in change.expired:
            self.rows.pop(sensor, None)
        return assemble(self.rules, change, tails), change


def windows_of(batches: Iterable[Events], rules: Rules) -> Iterator[Windows]:
    """Windows of a stream of one partition."""
    rolling = Rolling(rules)
    for events in batches:
        yield rolling.push(events)[0]

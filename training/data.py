"""Events as windows for training: each window has its part, only those in use are made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.events import Bool, Events, Float32, Float64, Int64, Partition, Slice, Windows
from stream_detector.ports import Source
from stream_detector.sensors import Rules
from stream_detector.windows import Rolling, windows_of
from training.past import Past
from training.spill import Log, Spill
from training.split import USED, Part, split

UNKNOWN = -1  # the label of an event or a window that has none
CHUNK = 10_000  # events that are made into windows at a time …
PIECE = 2**24  # … or fewer, so that these take no more bytes: with stride 1, W times as many as the events
MEMORY = 2 * 2**30  # bytes of events that are held in memory where nobody says


@dataclass(frozen=True, slots=True)
class Data:
    """Events, and what is known of their windows: ``n``, in the order in which they are made."""

    rules: Rules
    spill: Spill  # where events are held
    logs: list[Log]  # of each partition
    events: int
    names: list[str]  # of sensors that have windows, sorted
    which: NDArray[np.int32]  # (n) whose window it is: a place in `names`
    timestamps: Int64  # (n, 2) of the first and the last event
    parts: NDArray[np.int8]  # (n) of windows without an anomalous event; `Part.NONE` for the others
    labels: NDArray[np.int8]  # (n) that of the last event: 0 (normal), 1 (anomalous) or `UNKNOWN`
    taught: NDArray[np.int8]  # (n) the part to learn labels in: of all windows that have one, else `Part.NONE`
    touched: int  # windows with an anomalous event
    still: tuple[int, ...]  # (F) longest run of equal values, in events: see `Past.follow`
    periods: Mapping[str, float]  # ms from event to event of each sensor: see `periods`

    def sensors(self, places: NDArray[np.intp]) -> list[str]:
        """Whose these (m) windows are, (m)."""
        return [self.names[code] for code in self.which[places].tolist()]

    def histories(self, chosen: Bool) -> Iterator[tuple[str, NDArray[np.intp]]]:
        """Each sensor with its windows in time order, of the chosen (n); sensors without one are left out."""
        places = np.flatnonzero(chosen)
        order = places[np.lexsort((self.timestamps[places, 1], self.which[places]))]  # stable
        ends = np.cumsum(np.bincount(self.which[places], minlength=len(self.names)))
        for name, start, end in zip(self.names, [0, *ends[:-1].tolist()], ends.tolist(), strict=True):
            if end > start:
                yield name, order[start:end]

    def values(self, chosen: Bool) -> Iterator[tuple[NDArray[np.intp], Float32]]:
        """The chosen (n) windows piece by piece: their places in the order, and (m, W, F) in raw units."""
        at = 0
        for windows in _windows(self.logs, self.rules):
            here = np.flatnonzero(chosen[at : at + len(windows)])
            if len(here):
                yield here + at, windows.values[here]
            at += len(windows)

    def gather(self, part: Part, most: int, seed: int) -> tuple[list[str], Float32]:
        """Windows of a part: their sensors (m), and (m, W, F) in raw units; ``most`` at random if there are more."""
        places = np.flatnonzero(self.parts == part)
        if len(places) > most:
            places = np.sort(np.random.default_rng([seed, part]).choice(places, most, replace=False))
        chosen = np.zeros(len(self.parts), bool)
        chosen[places] = True
        return self.sensors(places), np.concatenate([values for _, values in self.values(chosen)])

    def gather_labelled(self, part: Part, most: int, seed: int) -> tuple[list[str], Float32, NDArray[np.int8]]:
        """Windows to learn labels from: their sensors (m), (m, W, F) in raw units, and those labels (m).

        If there are more than ``most``, a draw in which anomalous ones, being rare, come first: up to one half of it.
        """
        rng = np.random.default_rng([seed, part])
        normal, anomalous = (np.flatnonzero((self.taught == part) & (self.labels == label)) for label in (0, 1))
        if len(normal) + len(anomalous) > most:
            anomalous = rng.permutation(anomalous)[: max(most // 2, most - len(normal))]
            normal = rng.permutation(normal)[: most - len(anomalous)]
        chosen = np.zeros(len(self.parts), bool)
        chosen[normal] = chosen[anomalous] = True
        empty = np.empty((0, self.rules.length, len(self.rules.features)), np.float32)
        values = np.concatenate([empty, *(values for _, values in self.values(chosen))])
        return self.sensors(np.flatnonzero(chosen)), values, self.labels[chosen]


class _All:
    """Takes every partition of a source from its first offset: `ports.Ownership` for reading once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.fresh: list[Partition] = []

    def assigned(self, partitions: Sequence[Partition]) -> None:
        self.fresh.extend(partitions)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Files are not taken away."""

    def lost(self, partitions: Sequence[Partition]) -> None:
        """Files are not taken away."""


def read_to_end(source: Source) -> Iterator[Slice]:
    """Everything of a source that ends."""
    owner = _All(source)
    source.open(owner)
    try:
        while not source.finished:
            yield from source.poll(0)
            while owner.fresh:
                source.seek(owner.fresh.pop(), 0)
    finally:
        source.close()


def read(
    events: Iterable[Events | Slice],
    rules: Rules,
    seed: int,
    label: str | None = None,
    teach: bool = False,
    memory: int = MEMORY,
    folder: Path | None = None,
) -> Data:
    """Hold the events and see what windows they make; ``rules.means`` are learnt (see `Data.rules`).

    Events beyond ``memory`` bytes are held in a file in ``folder``, see `Spill`. Of windows, only whose they are, their
    times, parts and labels are held, and of the events themselves nothing but a label (one byte) where they have any.

    Events are one log, slices as many as they have partitions. With ``label``, the name of a column, each event has
    one value more than there are features, at the end: 0, 1, or NaN where it is not known. It is taken off here, so
    that no model can see it. Windows with an anomalous event then have no part in what is learnt of normal data.
    To ``teach`` labels, all windows share one division in time, so that no event is learnt from and judged by.

    Raises `DataError` where there is nothing to learn from: no events, a feature without any value, too few
    windows; and for labels that are none.
    """
    spill = Spill(memory, folder)
    by_log: dict[Partition | None, Log] = {}
    marks: dict[Partition | None, list[NDArray[np.int8]]] = {}  # of pieces, where there are labels
    window = rules.length * len(rules.features) * np.dtype(np.float32).itemsize  # bytes
    chunk = max(1, min(CHUNK, PIECE * rules.stride // max(window, 1)))
    for piece in events:
        key, found = (piece.partition, piece.events) if isinstance(piece, Slice) else (None, piece)
        mark = np.empty(0, np.int8)
        if label is not None:
            found, mark = _without_labels(found, label)
        if found.values.shape[1] != len(rules.features):
            raise DataError(
                f"events have {found.values.shape[1]} features, {len(rules.features)} were named: "
                f"{', '.join(rules.features)}"
            )
        if rules.missing == "reject":
            whole = np.flatnonzero(~np.isnan(found.values).any(axis=1))
            found, mark = found.take(whole), mark[whole] if label is not None else mark
        log = by_log.setdefault(key, Log(spill, len(rules.features)))
        for at in range(0, len(found), chunk):
            log.append(found.take(slice(at, at + chunk)))
            if label is not None:
                marks.setdefault(key, []).append(mark[at : at + chunk])
    logs = {key: log for key, log in by_log.items() if log.events}
    count = sum(log.events for log in logs.values())
    if not count:
        raise DataError("no events to train on; check the files and the column names")
    if label is not None and all((mark == UNKNOWN).all() for known in marks.values() for mark in known):
        raise DataError(f"no event has a label in column {label!r}; check --label or columns.label")
    rules = _with_means(rules, list(logs.values()))
    seen = _Seen(len(rules.features))
    for key, log in logs.items():
        seen.follow(log, rules, marks.get(key))
    return seen.divided(rules, spill, list(logs.values()), count, seed, teach)


class _Seen:
    """What is known of windows so far, in the order in which they are made."""

    def __init__(self, features: int) -> None:
        self.codes: dict[str, int] = {}  # of sensors, as they come
        self.which = [np.empty(0, np.int32)]
        self.timestamps = [np.empty((0, 2), np.int64)]
        self.labels = [np.empty(0, np.int8)]  # of the last event
        self.odd = [np.empty(0, bool)]
        self.longest = np.zeros(features, np.int64)

    def follow(self, log: Log, rules: Rules, marks: Sequence[NDArray[np.int8]] | None) -> None:
        """Take a log's windows, with the labels of its pieces' events if there are any.

        A window is odd if an event of the sensor from its first to its last is anomalous, also one that was dropped.
        """
        rolling, past = Rolling(rules), Past(len(self.longest))
        for number, piece in enumerate(log):
            windows, _ = rolling.push(piece)
            marked = np.full(len(piece), UNKNOWN, np.int8) if marks is None else marks[number]
            struck = past.follow(piece, marked)
            last = np.searchsorted(piece.offsets, windows.offsets[:, 1])  # a window ends in the piece that fills it
            self.labels.append(marked[last])
            self.odd.append(np.asarray(struck[last] >= windows.offsets[:, 0], bool))
            codes = (self.codes.setdefault(sensor, len(self.codes)) for sensor in windows.sensors)
            self.which.append(np.fromiter(codes, np.int32, len(windows)))
            self.timestamps.append(windows.timestamps)  # nothing else is held on to
        self.longest = np.maximum(self.longest, past.longest)

    def divided(self, rules: Rules, spill: Spill, logs: list[Log], events: int, seed: int, teach: bool) -> Data:
        """The windows with their parts; see `read`."""
        names = sorted(self.codes)
        place = {name: code for code, name in enumerate(names)}
        which = np.array([place[name] for name in self.codes], np.int32)[np.concatenate(self.which)]
        times, last, odd = (np.concatenate(one) for one in (self.timestamps, self.labels, self.odd))
        parts = np.full(len(which), Part.NONE, np.int8)
        taught = parts.copy()
        shared = np.ones(len(which), bool) if teach else ~odd  # among which time is divided
        if len(which) and not shared.any():
            raise DataError("no window is without an anomalous event; give data of normal operation too")
        parts[shared] = split(which[shared], times[shared, 1], rules.length, rules.stride, seed)
        if teach:
            taught = np.where(last == UNKNOWN, np.int8(Part.NONE), parts)
            parts = np.where(odd, np.int8(Part.NONE), parts)
            for part in USED:
                if not (parts == part).any():
                    raise DataError(
                        f"no normal window is left for {part.name.lower()}; give more data of normal operation"
                    )
        usual = periods(names, which, times, rules.length, rules.stride)
        windows = names, which, times, parts, last, taught, int(odd.sum())
        return Data(rules, spill, logs, events, *windows, tuple(self.longest.tolist()), usual)


def periods(
    names: Sequence[str], which: NDArray[np.int32], timestamps: Int64, length: int, stride: int
) -> Mapping[str, float]:
    """Milliseconds from event to event, the median of each sensor's windows; ``timestamps`` (n, 2) first and last.

    ``which`` (n) are places in the sorted ``names``. A sensor whose times tell nothing gets the median of the others,
    and one second if no sensor's do.
    """
    order = np.lexsort((timestamps[:, 1], which))
    found: dict[str, float] = {}
    counts = np.bincount(which, minlength=len(names))
    for name, rows in zip(names, np.split(order, np.cumsum(counts)[:-1]), strict=True):
        times = timestamps[rows]
        spans: Float64 = np.diff(times[:, 1]) / stride
        if length > 1:
            spans = (times[:, 1] - times[:, 0]) / (length - 1)
        found[name] = float(np.median(spans)) if len(spans) else 0.0
    known = [period for period in found.values() if period > 0]
    usual = float(np.median(known)) if known else 1_000.0
    return {name: period if period > 0 else usual for name, period in found.items()}


def _with_means(rules: Rules, logs: list[Log]) -> Rules:
    """The rules with each feature's mean over all values, to impute with where a sensor has none yet."""
    total = np.zeros(len(rules.features))
    count = np.zeros(len(rules.features))
    for piece in (piece for log in logs for piece in log):
        total += np.nansum(piece.values, axis=0, dtype=np.float64)
        count += np.isfinite(piece.values).sum(axis=0)
    for feature, seen in zip(rules.features, count, strict=True):
        if not seen:
            raise DataError(f"feature {feature} has no value in any event; leave it out or map its column")
    return replace(rules, means=tuple((total / count).tolist()))


def _windows(logs: list[Log], rules: Rules) -> Iterator[Windows]:
    for log in logs:
        yield from windows_of(log, rules)


def _without_labels(events: Events, label: str) -> tuple[Events, NDArray[np.int8]]:
    """Events whose last column was the label, without those that have nothing but it, and their labels (n)."""
    given = events.values[:, -1]
    if not (np.isnan(given) | np.isin(given, (0, 1))).all():
        odd = given[~(np.isnan(given) | np.isin(given, (0, 1)))][0]
        raise DataError(f"column {label!r} holds {odd:g}: a label must be 0 (normal), 1 (anomalous) or missing")
    bare = replace(events, values=np.ascontiguousarray(events.values[:, :-1]))
    told = np.where(np.isnan(given), UNKNOWN, np.nan_to_num(given)).astype(np.int8)
    kept = np.flatnonzero(~np.isnan(bare.values).all(axis=1))
    return (bare, told) if len(kept) == len(bare) else (bare.take(kept), told[kept])

"""Events as windows for training: each window has its part, only those in use are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.events import Bool, Events, Float32, Float64, Int64, Partition, Slice, Windows
from stream_detector.ports import Source
from stream_detector.sensors import Rules
from stream_detector.windows import windows_of
from training.spill import Log, Spill
from training.split import USED, Part, split

UNKNOWN = -1  # the label of an event or a window that has none
CHUNK = 10_000  # events that are made into windows at a time: with stride 1, windows take W times their memory
MEMORY = 2 * 2**30  # bytes of events that are held in memory where nobody says


@dataclass(frozen=True, slots=True)
class Data:
    """Events, and what is known of their windows: ``n``, in the order in which they are made."""

    rules: Rules
    logs: list[Log]  # of each partition
    events: int
    sensors: list[str]  # (n)
    timestamps: Int64  # (n, 2) of the first and the last event
    parts: NDArray[np.int8]  # (n) of windows without an anomalous event; `Part.NONE` for the others
    labels: NDArray[np.int8]  # (n) that of the last event: 0 (normal), 1 (anomalous) or `UNKNOWN`
    taught: NDArray[np.int8]  # (n) the part to learn labels in: of all windows that have one, else `Part.NONE`
    touched: int = 0  # windows with an anomalous event
    still: tuple[int, ...] = ()  # (F) longest run of equal values, in events: see `longest_runs`

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
        return [self.sensors[at] for at in places], np.concatenate([values for _, values in self.values(chosen)])

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
        sensors = [self.sensors[at] for at in np.flatnonzero(chosen)]
        return sensors, np.concatenate([empty, *(values for _, values in self.values(chosen))]), self.labels[chosen]


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

    Events beyond ``memory`` bytes are held in a file in ``folder``, see `Spill`; of windows, only their sensors, times
    and parts are held.

    Events are one log, slices as many as they have partitions. With ``label``, the name of a column, each event has
    one value more than there are features, at the end: 0, 1, or NaN where it is not known. It is taken off here, so
    that no model can see it. Windows with an anomalous event then have no part in what is learnt of normal data.
    To ``teach`` labels, all windows share one division in time, so that no event is learnt from and judged by.

    Raises `DataError` where there is nothing to learn from: no events, a feature without any value, too few
    windows; and for labels that are none.
    """
    spill = Spill(memory, folder)
    by_log: dict[Partition | None, Log] = {}
    marks: dict[Partition | None, list[NDArray[np.int8]]] = {}
    for piece in events:
        key, found = (piece.partition, piece.events) if isinstance(piece, Slice) else (None, piece)
        mark = np.full(len(found), UNKNOWN, np.int8)
        if label is not None:
            found, mark = _without_labels(found, label)
        if found.values.shape[1] != len(rules.features):
            raise DataError(
                f"events have {found.values.shape[1]} features, {len(rules.features)} were named: "
                f"{', '.join(rules.features)}"
            )
        if rules.missing == "reject":
            whole = np.flatnonzero(~np.isnan(found.values).any(axis=1))
            found, mark = found.take(whole), mark[whole]
        marks.setdefault(key, []).append(mark)
        log = by_log.setdefault(key, Log(spill, len(rules.features)))
        for at in range(0, len(found), CHUNK):
            log.append(found.take(slice(at, at + CHUNK)))
    logs = [log for log in by_log.values() if log.events]
    known = [np.concatenate(marks[key]) for key, log in by_log.items() if log.events]  # of the events of each log
    count = sum(log.events for log in logs)
    if not count:
        raise DataError("no events to train on; check the files and the column names")
    if label is not None and all((mark == UNKNOWN).all() for mark in known):
        raise DataError(f"no event has a label in column {label!r}; check --label or columns.label")
    rules = _with_means(rules, logs)
    sensors: list[str] = []
    timestamps, labels, touched = [np.empty((0, 2), np.int64)], [np.empty(0, np.int8)], [np.empty(0, bool)]
    for log, mark in zip(logs, known, strict=True):
        labelled = _labeller(log, mark) if label is not None else _unlabelled
        for windows in windows_of(log, rules):
            sensors += windows.sensors
            timestamps.append(windows.timestamps)  # nothing else is held on to
            last, odd = labelled(windows)
            labels.append(last)
            touched.append(odd)
    times, last, odd = np.concatenate(timestamps), np.concatenate(labels), np.concatenate(touched)
    parts = np.full(len(sensors), Part.NONE, np.int8)
    taught = parts.copy()
    shared = np.ones(len(sensors), bool) if teach else ~odd  # among which time is divided
    names = [sensor for sensor, mine in zip(sensors, shared.tolist(), strict=True) if mine]
    if sensors and not names:
        raise DataError("no window is without an anomalous event; give data of normal operation too")
    parts[shared] = split(names, times[shared, 1], rules.length, rules.stride, seed)
    if teach:
        taught = np.where(last == UNKNOWN, np.int8(Part.NONE), parts)
        parts = np.where(odd, np.int8(Part.NONE), parts)
        for part in USED:
            if not (parts == part).any():
                raise DataError(f"no normal window is left for {part.name.lower()}; give more data of normal operation")
    return Data(rules, logs, count, sensors, times, parts, last, taught, int(odd.sum()), longest_runs(logs, known))


def longest_runs(logs: Sequence[Iterable[Events]], labels: Sequence[NDArray[np.int8]]) -> tuple[int, ...]:
    """For how many events in a row each feature (F) had one and the same value, at most, in any one sensor.

    ``labels`` (m) are those of each log's events. A missing value ends a run, as does an event that is labelled
    anomalous: a sensor that is stuck there must not teach that this is normal.
    """
    longest: list[int] = []
    for log, marks in zip(logs, labels, strict=True):
        _, which = np.unique(list(chain.from_iterable(piece.sensors for piece in log)), return_inverse=True)
        order = np.argsort(which, kind="stable")  # by sensor, then offset
        odd = marks[order] == 1
        ends = (np.diff(which[order]) != 0) | (np.diff(odd) != 0)  # whatever the values
        width = next(iter(log)).values.shape[1]
        longest = longest or [0] * width
        for feature in range(width):  # one at a time: all would be the events once more
            column = np.concatenate([piece.values[:, feature] for piece in log])[order]
            starts = np.flatnonzero(np.append(True, ends | (column[1:] != column[:-1])))
            runs = np.diff(np.append(starts, len(column)))[~np.isnan(column[starts]) & ~odd[starts]]
            longest[feature] = max(longest[feature], int(runs.max(initial=0)))
    return tuple(longest)


def periods(sensors: Sequence[str], timestamps: Int64, length: int, stride: int) -> Mapping[str, float]:
    """Milliseconds from event to event, the median of each sensor's windows; ``timestamps`` (n, 2) first and last.

    A sensor whose times tell nothing gets the median of the others, and one second if no sensor's do.
    """
    names, which = np.unique(np.asarray(sensors, np.str_), return_inverse=True)
    order = np.lexsort((timestamps[:, 1], which))
    found: dict[str, float] = {}
    for name, rows in zip(names.tolist(), np.split(order, np.cumsum(np.bincount(which))[:-1]), strict=True):
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


def _unlabelled(windows: Windows) -> tuple[NDArray[np.int8], Bool]:
    return np.full(len(windows), UNKNOWN, np.int8), np.zeros(len(windows), bool)


def _labeller(log: Log, labels: NDArray[np.int8]) -> Callable[[Windows], tuple[NDArray[np.int8], Bool]]:
    """A function from ``n`` windows of this log to the labels of their last events (n), and which are touched (n).

    Touched: an event of the sensor from the window's first to its last is anomalous, also one that was dropped.
    """
    offsets = np.concatenate([piece.offsets for piece in log])  # (m) rising
    codes: dict[str, int] = {}
    sensors = chain.from_iterable(piece.sensors for piece in log)
    which = np.fromiter((codes.setdefault(sensor, len(codes)) for sensor in sensors), np.int32, len(labels))
    order = np.argsort(which, kind="stable")  # by sensor, then offset
    place = np.empty(len(order), np.intp)
    place[order] = np.arange(len(order))
    so_far = np.concatenate([[0], np.cumsum(labels[order] == 1)])  # anomalous events before each place

    def labelled(windows: Windows) -> tuple[NDArray[np.int8], Bool]:
        first, last = np.searchsorted(offsets, windows.offsets.T)
        return labels[last], np.asarray(so_far[place[last] + 1] > so_far[place[first]], bool)

    return labelled

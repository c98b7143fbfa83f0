"""Events as windows for training: each window has its part, only those in use are held in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.events import Bool, Events, Float32, Float64, Int64, Partition, Slice, Windows
from stream_detector.ports import Source
from stream_detector.sensors import Rules
from stream_detector.windows import windows_of
from training.split import Part, split

CHUNK = 10_000  # events that are made into windows at a time: with stride 1, windows take W times their memory


@dataclass(frozen=True, slots=True)
class Data:
    """Events in memory and what is known of their windows: ``n``, in the order in which they are made."""

    rules: Rules
    logs: list[list[Events]]  # of each partition
    events: int
    sensors: list[str]  # (n)
    timestamps: Int64  # (n, 2) of the first and the last event
    parts: NDArray[np.int8]  # (n)

    def values(self, chosen: Bool) -> Iterator[tuple[NDArray[np.intp], Float32]]:
        """The chosen (n) windows piece by piece: their places in the order, and (m, W, F) in raw units."""
        at = 0
        for windows in _windows(self.logs, self.rules):
            here = np.flatnonzero(chosen[at : at + len(windows)])
            if len(here):
                yield here + at, windows.values[here]
            at += len(windows)

    def gather(self, part: Part, most: int, seed: int) -> Float32:
        """Windows of a part, (m, W, F) in raw units; ``most`` of them at random if there are more."""
        places = np.flatnonzero(self.parts == part)
        if len(places) > most:
            places = np.random.default_rng([seed, part]).choice(places, most, replace=False)
        chosen = np.zeros(len(self.parts), bool)
        chosen[places] = True
        return np.concatenate([values for _, values in self.values(chosen)])


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


def read(events: Iterable[Events | Slice], rules: Rules, seed: int) -> Data:
    """Hold the events and see what windows they make; ``rules.means`` are learnt (see `Data.rules`).

    Events are one log, slices as many as they have partitions. Raises `DataError` where there is nothing to
    learn from: no events, a feature without any value, too few windows.
    """
    by_log: dict[Partition | None, list[Events]] = {}
    for piece in events:
        key, found = (piece.partition, piece.events) if isinstance(piece, Slice) else (None, piece)
        if found.values.shape[1] != len(rules.features):
            raise DataError(
                f"events have {found.values.shape[1]} features, {len(rules.features)} were named: "
                f"{', '.join(rules.features)}"
            )
        if rules.missing == "reject":
            found = found.take(np.flatnonzero(~np.isnan(found.values).any(axis=1)))
        log = by_log.setdefault(key, [])
        log += [found.take(slice(at, at + CHUNK)) for at in range(0, len(found), CHUNK)]
    logs = [log for log in by_log.values() if log]
    count = sum(len(piece) for log in logs for piece in log)
    if not count:
        raise DataError("no events to train on; check the files and the column names")
    rules = _with_means(rules, logs)
    windows = list(_bare(logs, rules))
    sensors = [sensor for names, _ in windows for sensor in names]
    timestamps = np.concatenate([np.empty((0, 2), np.int64), *(times for _, times in windows)])
    parts = split(sensors, timestamps[:, 1], rules.length, rules.stride, seed)
    return Data(rules, logs, count, sensors, timestamps, parts)


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


def _with_means(rules: Rules, logs: list[list[Events]]) -> Rules:
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


def _windows(logs: list[list[Events]], rules: Rules) -> Iterator[Windows]:
    for log in logs:
        yield from windows_of(log, rules)


def _bare(logs: list[list[Events]], rules: Rules) -> Iterator[tuple[list[str], Int64]]:
    """Sensors and times of windows, without holding on to their values."""
    for windows in _windows(logs, rules):
        yield windows.sensors, windows.timestamps

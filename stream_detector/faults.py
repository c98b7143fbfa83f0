"""What windows show of the sensor itself: stuck, out of range, missing. Needs no model, only what windows hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_detector.alerts import Run
from stream_detector.events import Bool, FaultKind, Float32, Float64, Windows
from stream_detector.policy import Feature
from stream_detector.sensors import Rules
from stream_detector.settings import Settings

NAMED = 3  # features in a summary


@dataclass(frozen=True, slots=True)
class Signs:
    """What was found in ``n`` windows of ``F`` features."""

    faulty: Bool  # (n, F) out of range or missing
    still: Bool  # (n, F) one value in the whole window, of features that are watched for it
    odd: list[bool]  # (n) whether there is any of it

    def place(self, some: Signs, places: NDArray[np.intp]) -> None:
        """Take what was found in some of the windows."""
        self.faulty[places], self.still[places] = some.faulty, some.still
        for at, odd in zip(places.tolist(), some.odd, strict=True):
            self.odd[at] = odd


class Cause(NamedTuple):
    """What is wrong with a sensor."""

    words: str = ""
    kinds: Mapping[str, FaultKind] = MappingProxyType({})  # by feature


@dataclass(frozen=True, slots=True)
class Limits:
    """What is normal of each of ``F`` features."""

    rules: Rules
    low: Float32  # (F) raw units
    high: Float32  # (F)
    events: Float64  # (F) so many equal values in a row are a fault; infinite: not watched
    lasting: Float64  # (F) ms that they must also last
    dropout: float  # share of a window's events; infinite: not watched

    def look(self, windows: Windows) -> Signs:
        """On arrays, once a batch."""
        values = windows.values
        faulty: Bool = np.zeros((len(windows), values.shape[2]), bool)
        if not len(windows):
            return Signs(faulty, faulty, [])
        for feature in np.flatnonzero(np.isfinite(self.low) | np.isfinite(self.high)).tolist():
            column = np.ascontiguousarray(values[:, :, feature])  # (n, W); much faster than across features
            faulty[:, feature] = (column.min(axis=1) < self.low[feature]) | (column.max(axis=1) > self.high[feature])
        if math.isfinite(self.dropout):
            faulty |= self._missing(windows) > self.dropout
        still = self._still(windows)
        odd: list[bool] = np.asarray((faulty | still).any(axis=1), bool).tolist()
        return Signs(faulty, still, odd)

    def runs(self, before: Sequence[Run], windows: Windows, at: int, still: Bool) -> tuple[Run, ...]:
        """For how long features of one window (F) have had the same value, given what was before it."""
        earlier = {(run.feature, run.value): run for run in before}
        began = int(windows.timestamps[at, 0])
        found = []
        for feature in np.flatnonzero(still).tolist():
            value = float(windows.values[at, -1, feature])
            run = earlier.get((feature, value))
            since, events = (began, self.rules.length) if run is None else (run.since, run.events + self.rules.stride)
            found.append(Run(feature, value, min(since, began), events))  # a clock may be set back
        return tuple(found)

    def stuck(self, runs: Sequence[Run], ended: int) -> list[int]:
        """Features that have had the same value for too long; ``ended`` is the window's end."""
        return [
            run.feature
            for run in runs
            if run.events >= self.events[run.feature] and ended - run.since >= self.lasting[run.feature]
        ]

    def cause(self, windows: Windows, at: int, features: Sequence[int]) -> Cause:
        """What is wrong with these features in a window."""
        found = {feature: self._wrong(windows, at, feature) for feature in features}
        words = [told for _, told in found.values()][:NAMED]
        words += [f"and {len(features) - NAMED} more"] if len(features) > NAMED else []
        return Cause("; ".join(words), {self.rules.features[at]: kind for at, (kind, _) in found.items() if kind})

    def _wrong(self, windows: Windows, at: int, feature: int) -> tuple[FaultKind | None, str]:
        """With one feature; None if the window does not show it any more."""
        name, column = self.rules.features[feature], windows.values[at, :, feature]
        low, high = self.low[feature], self.high[feature]
        beyond = column[(column < low) | (column > high)]
        if len(beyond):
            limits = f"above {high:.4g}" if beyond[-1] > high else f"below {low:.4g}"
            return "out_of_range", f"{name} {beyond[-1]:.4g} is {limits}, out of its range"
        if windows.imputed[at, feature]:
            share = float(self._missing(windows.take(np.array([at])))[0, feature])
            return "dropout", f"{name} missing in {share:.0%} of the events"
        if (column == column[0]).all():
            return "stuck", f"{name} stuck at {column[0]:.4g}"
        return None, f"{name} was faulty shortly before"

    def _still(self, windows: Windows) -> Bool:
        """(n, F). Windows with imputed values say nothing: these repeat the last one."""
        watched, values = np.isfinite(self.events), windows.values
        still: Bool = (values[:, 0] == values[:, -1]) & watched & ~windows.imputed
        if still.any():
            middle = values.shape[1] // 2
            still &= values[:, 0] == values[:, middle]
            rows = np.flatnonzero(still.any(axis=1))  # few: looking at every value of every window would cost
            still[rows] &= (values[rows] == values[rows][:, :1]).all(axis=1)
        return still

    def _missing(self, windows: Windows) -> Float64:
        """(n, F): the share of events in which each feature is missing, at the least.

        Windows know how many of all their values were imputed and of which features, not how many of each. One that
        was imputed repeats the one before, or is the mean: that bounds the number for each of the other features.
        For values that hardly ever repeat, and where only one feature has holes, the number is exact.
        """
        length, width = windows.values.shape[1:]
        least: Float64 = np.zeros((len(windows), width))
        rows = np.flatnonzero(windows.imputed.any(axis=1))
        if not len(rows):
            return least
        values, imputed = windows.values[rows], windows.imputed[rows]
        total = np.rint((1 - windows.confidence[rows].astype(np.float64)) * length * width)  # (k)
        repeats = values[:, 1:] == values[:, :-1]
        repeats |= values[:, 1:] == np.array(self.rules.means, np.float32)
        most = np.where(imputed, repeats.sum(axis=1) + 1, 0)  # (k, F); the first may be one too
        others = most.sum(axis=1, keepdims=True) - most
        least[rows] = np.where(imputed, np.clip(total[:, None] - others, 1, most) / length, 0)
        return least


def limits_of(rules: Rules, settings: Settings, features: Mapping[str, Feature] | None = None) -> Limits | None:
    """None if nothing is watched; ``features`` are a group's where it has its own."""
    features = settings.features if features is None else features
    each = [features.get(name) for name in rules.features]
    stuck = settings.faults.stuck != "off"
    low = np.array([one.range[0] if one and one.range else -np.inf for one in each], np.float32)
    high = np.array([one.range[1] if one and one.range else np.inf for one in each], np.float32)
    lasting = np.array([(one.stuck_after or 0) if one else 0 for one in each], np.float64)
    events = np.full(len(each), np.inf)
    for at, one in enumerate(each):
        if stuck and one is not None and (one.stuck_events or one.stuck_after is not None):
            events[at] = max(one.stuck_events or 0, 2)
    dropout = math.inf if isinstance(settings.faults.dropout, str) else settings.faults.dropout
    limits = Limits(rules, low, high, events, lasting, dropout)
    bounds = np.isfinite(np.concatenate([low, high, events])).any()
    return limits if bounds or math.isfinite(dropout) else None

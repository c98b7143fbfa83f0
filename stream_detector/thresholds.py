"""Thresholds from a false-alarm budget: how large an error must be to count, so that normal data rarely does.

The budget is in alerts per sensor and day. The method is peaks over threshold (Coles 2001, *An Introduction
to Statistical Modeling of Extreme Values*, ch. 4 and 5; Siffer et al. 2017, *Anomaly Detection in Streams
with Extreme Value Theory*): errors above a high level come in clusters (overlapping windows share events, so
one odd event lifts many windows); a cluster is what the service makes one alert of, by its default settings;
the largest excess of each follows a generalised Pareto distribution, and the threshold is where clusters
become as rare as the budget says::

    clusters a day above the level * P(excess > threshold - level) = budget

A budget that is larger than what comes above the level is counted instead of fitted. Lower thresholds give more
alerts only up to a point, below which one alert runs into the next: no threshold is below that point, so that a
budget beyond what a sensor can have is not spent on one alert that never ends.

Another method, `conformal`, assumes no distribution, and promises nothing beyond what was seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
from scipy.stats import genpareto

from stream_detector.conformal import ABOVE, block_maxima, promised, threshold_of
from stream_detector.errors import DataError, SettingsError
from stream_detector.events import Bool, Float64
from stream_detector.groups import Grouping
from stream_detector.policy import Alerts

Method: TypeAlias = Literal["evt", "conformal", "quantile", "fixed"]
BUDGETED: tuple[Method, ...] = ("evt", "conformal")  # that are for a number of alerts

FLOOR = 1e-9  # smallest threshold, so that error / threshold stays a finite float32
ALIKE = 1e-4  # errors that differ by less than this share of them are equal, but for rounding
LEVELS = (0.98, 0.95, 0.9, 0.8, 0.7, 0.5)  # quantiles tried as the level, until there are enough peaks
ENOUGH_PEAKS = 50  # clusters that make a higher level better than a lower one
SURPRISE = 0.05  # of training sets without anomalies would lose a peak as an outlier
MOST_OUTLIERS = 0.3  # share of the peaks
FEW_PEAKS = 10  # with fewer, the shape cannot be told: exponential tail
SHAPES = (
    -0.25,
    0.5,
)  # clip of the fitted shape: outside it, extrapolation is noise (a hard end, or no mean to speak of)
OWN_WINDOWS = 500  # calibration windows from which a sensor or a group gets a threshold of its own …
OWN_PEAKS = 30  # … if they also hold this many peaks
GLOBAL = "*"
ALERTS = Alerts()  # the rules that budgets are for; who sets others has fewer alerts, or more


class Series(NamedTuple):
    """Calibration errors of one sensor's consecutive windows."""

    errors: Float64  # (n) in time order
    days: float  # time they cover: windows times stride times event period


class Tail(msgspec.Struct, frozen=True):
    """What was fitted to the errors above a level."""

    level: float
    shape: float  # xi of the generalised Pareto distribution; 0 is exponential
    scale: float
    peaks: int
    rate: float  # clusters above the level per sensor and day


class Entry(msgspec.Struct, frozen=True):
    """One row of the table."""

    name: str  # "*", the sensor, or "groups." and the group's name
    threshold: float
    expected_alerts_per_day: float  # per sensor; of `conformal` what is promised at most
    windows: int  # calibration windows behind it
    tail: Tail
    blocks: int = 0  # of windows, that p-values are of; `conformal` alone


class Thresholds(msgspec.Struct, frozen=True):
    """A table of thresholds; row 0 is for every sensor that is not named and in no group that is."""

    method: Method
    parameter: float  # alerts per sensor and day, or the quantile, or the fixed threshold
    entries: tuple[Entry, ...]
    sensors: dict[str, int]  # sensor → row
    partners: dict[str, Thresholds] = {}  # of the other parts of the score, by name
    groups: dict[str, int] = {}  # group → row, of its sensors that are not named

    def row(self, sensor: str, group: str = "") -> int:
        """The row that applies to a sensor of a group."""
        return self.sensors.get(sensor, self.groups.get(group, 0))

    def rows(self, sensors: Iterable[str], grouping: Grouping | None = None) -> list[int]:
        """The row that applies to each sensor."""
        return [self.row(sensor, grouping.name(sensor) if grouping else "") for sensor in sensors]

    @property
    def short(self) -> list[Entry]:
        """Rows, of the other parts too, with too few blocks to promise what they were made for: `conformal` alone."""
        least = self.parameter * (1 + 1e-6)  # more than it by rounding is not more
        own = [one for one in self.entries if one.blocks and one.expected_alerts_per_day > least]
        return own + [one for part in self.partners.values() for one in part.short]

    @property
    def values(self) -> Float64:
        """The thresholds, (rows)."""
        return np.array([entry.threshold for entry in self.entries])


def fit_thresholds(
    series: Mapping[str, Series],
    method: Method = "evt",
    parameter: float = 0.1,
    grouping: Grouping | None = None,
    block: int = 1,
    least: float = FLOOR,
) -> Thresholds:
    """A global threshold, and one for each sensor and each group with `OWN_WINDOWS` windows and `OWN_PEAKS` peaks.

    ``parameter`` is alerts per sensor and day for ``evt`` and ``conformal``, a quantile in (0, 1) for ``quantile``, the
    threshold itself for ``fixed``. ``block`` is in how many windows in a row there is hardly more than one alert: see
    `conformal`. None is below ``least``. Raises `DataError` if there is no error at all, `SettingsError` if the
    parameter makes no sense.
    """
    usable = {sensor: one for sensor, one in series.items() if len(one.errors)}
    check_method(method, parameter)
    _check(usable)
    entries = [_entry(GLOBAL, list(usable.values()), method, parameter, block, least)]
    if method == "fixed":
        return Thresholds(method, parameter, tuple(entries), {})
    members: dict[str, list[Series]] = {}
    for sensor, one in usable.items():
        members.setdefault(grouping.name(sensor) if grouping else "", []).append(one)
    members.pop("", None)

    def rows(parts: Mapping[str, Sequence[Series]], prefix: str = "") -> dict[str, int]:
        found = {}
        for name, part in sorted(parts.items()):
            if sum(len(one.errors) for one in part) < OWN_WINDOWS:
                continue
            entry = _entry(prefix + name, part, method, parameter, block, least)
            if entry.tail.peaks >= OWN_PEAKS:
                found[name] = len(entries)
                entries.append(entry)
        return found

    sensors = rows({sensor: [one] for sensor, one in usable.items()})
    groups = rows(members, "groups.")
    return Thresholds(method, parameter, tuple(entries), sensors, groups=groups)


def check_method(method: Method, parameter: float) -> None:
    """Raise `SettingsError` if the parameter makes no sense for the method."""
    sane = 0 < parameter < 1 if method == "quantile" else 0 < parameter < math.inf
    if not sane:
        wanted = "a quantile between 0 and 1" if method == "quantile" else "a number above 0"
        raise SettingsError(f"threshold method {method!r}: {parameter} will not do; give {wanted}")


def expected_alerts_per_day(
    thresholds: Thresholds, series: Mapping[str, Series], grouping: Grouping | None = None
) -> float:
    """Mean over the sensors of the alerts a day at the threshold that applies to each.

    Beyond a tail's level from the fitted tail, which can be far rarer than anything seen; below it, counted. Of
    `conformal` what is promised at most.
    """
    rates = [
        entry.expected_alerts_per_day if entry.blocks else alert_rate(entry.tail, entry.threshold, [one])
        for one, row in zip(series.values(), thresholds.rows(series, grouping), strict=True)
        for entry in (thresholds.entries[row],)
    ]
    return float(np.mean(rates)) if rates else 0.0


def fit_tail(series: Sequence[Series]) -> Tail:
    """Level, cluster rate and generalised Pareto tail of errors that are pooled from one or more sensors.

    The level is the highest of `LEVELS` with `ENOUGH_PEAKS` clusters above it, else the one with most. It
    does not depend on the budget, so that a larger budget can never give a higher threshold.
    """
    pooled = np.concatenate([one.errors for one in series])
    days = sum(one.days for one in series)
    level, peaks = float(pooled.max()), np.empty(0)
    for quantile in LEVELS:
        candidate = float(np.quantile(pooled, quantile))
        found = np.concatenate([alert_peaks(one.errors, candidate) for one in series])
        if len(found) > len(peaks):
            level, peaks = candidate, found
        if len(peaks) >= ENOUGH_PEAKS:
            break
    peaks = without_outliers(peaks, level)
    excess = peaks - level
    rate = len(peaks) / days
    if not len(excess) or excess.max() <= ALIKE * level:  # assume that they scatter by a tenth of their size
        return Tail(level, 0.0, max(0.1 * abs(level), FLOOR), 0, 1 / days)
    if len(excess) < FEW_PEAKS or float(np.ptp(excess)) <= 1e-9 * float(excess.max()):
        return Tail(level, 0.0, float(excess.mean()), len(excess), rate)
    shape, scale = _fit_pareto(excess)
    return Tail(level, shape, scale, len(excess), rate)


def without_outliers(peaks: Float64, level: float) -> Float64:
    """The peaks without those that are hardly of normal data: training data are assumed normal and seldom quite are.

    A generalised Pareto distribution is put through the median and the 90 % quantile of the excesses, which outliers
    leave alone; a share of `SURPRISE` of training sets without anomalies would hold a larger one than is kept. More
    than `MOST_OUTLIERS` of all are no outliers, and all stay.
    """
    if len(peaks) < FEW_PEAKS:
        return peaks
    excess = peaks - level
    middle, high = np.quantile(excess, (0.5, 0.9))
    if not 0 < middle < high:
        return peaks
    shapes = np.linspace(1e-3, SHAPES[1], 100)
    # The quantiles' ratio rises with the shape; below that of the exponential, the tail is taken as exponential.
    shape = float(np.interp(high / middle, (10**shapes - 1) / (2**shapes - 1), shapes))
    most = genpareto.isf(SURPRISE / len(peaks), shape, scale=shape * middle / (2**shape - 1))
    kept = peaks[excess <= most]
    return kept if len(kept) >= (1 - MOST_OUTLIERS) * len(peaks) else peaks


def alert_peaks(errors: Float64, level: float) -> Float64:
    """The largest error of each alert that there would be if ``level`` were the threshold of errors (n) in time order.

    As in `alerts`, one is over after `ALERTS.resolve_windows` windows in a row below `ALERTS.resolve_below` of it.
    """
    above = np.flatnonzero(errors > level)
    if not len(above):
        return np.empty(0)
    places = np.arange(len(errors))
    lasting = np.maximum.accumulate(np.where(errors < ALERTS.resolve_below * level, -1, places))  # last that was not
    ends = np.cumsum(places - lasting >= ALERTS.resolve_windows)  # (n) rises wherever an alert would be over
    return np.maximum.reduceat(errors[above], np.flatnonzero(np.diff(ends[above], prepend=-1)))


def alert_rate(tail: Tail, threshold: float, series: Sequence[Series]) -> float:
    """Alerts at a threshold per sensor and day."""
    if threshold >= tail.level:
        return tail.rate * float(genpareto.sf(threshold - tail.level, tail.shape, scale=tail.scale))
    return _counted_rate(series, threshold)


def _entry(name: str, series: Sequence[Series], method: Method, parameter: float, block: int, least: float) -> Entry:
    tail = fit_tail(series)
    windows = sum(len(one.errors) for one in series)
    if method == "conformal":
        return _conformal(name, series, parameter, block, tail, least)
    if method == "evt":
        threshold = _solve(tail, parameter, series)
    elif method == "quantile":
        threshold = ABOVE * float(np.quantile(np.concatenate([one.errors for one in series]), parameter))
    else:
        threshold = parameter
    threshold = max(threshold, least)
    return Entry(name, threshold, alert_rate(tail, threshold, series), windows, tail)


def _conformal(name: str, series: Sequence[Series], budget: float, block: int, tail: Tail, least: float) -> Entry:
    """Where blocks with an alert are as rare as the budget, by their p-values; without one whole block, all is one.

    As for ``evt`` not so low that alerts run into each other.
    """
    windows = sum(len(one.errors) for one in series)
    maxima = np.concatenate([block_maxima(one.errors, block) for one in series])
    days = sum(one.days for one in series) / windows * block  # of a block
    if not len(maxima):
        maxima, days = np.array([max(float(one.errors.max()) for one in series)]), windows / block * days
    threshold = threshold_of(maxima, budget * days)
    rate = promised(len(maxima), budget * days) / days
    if threshold < tail.level and threshold < (lowest := _solve(tail, math.inf, series)):
        threshold, rate = lowest, min(rate, alert_rate(tail, lowest, series))
    return Entry(name, max(threshold, least), rate, windows, tail, len(maxima))


def _solve(tail: Tail, budget: float, series: Sequence[Series]) -> float:
    """Where alerts are as rare as the budget: in the fitted tail, or counted if that is below its level.

    Counted, it is the highest threshold with so many, or, where none has, the one with most.
    """
    if not tail.peaks:  # as much as errors that are alike are taken to scatter, at least: there is nothing to count
        return tail.level + tail.scale * max(1.0, math.log(max(tail.rate / budget, 1.0)))
    if budget < tail.rate:
        fitted = tail.level + float(genpareto.isf(budget / tail.rate, tail.shape, scale=tail.scale))
        return max(fitted, ABOVE * tail.level)
    pooled = np.concatenate([one.errors for one in series])
    threshold, most = tail.level, tail.rate
    for candidate in np.unique(np.quantile(pooled, np.linspace(0.02, 1, 99)))[::-1].tolist():
        rate = _counted_rate(series, candidate)
        if candidate < tail.level and rate > most:
            threshold, most = candidate, rate
        if most >= budget:
            break
    return ABOVE * threshold


def _counted_rate(series: Sequence[Series], threshold: float) -> float:
    return sum(len(alert_peaks(one.errors, threshold)) for one in series) / sum(one.days for one in series)


def _fit_pareto(excess: Float64) -> tuple[float, float]:
    """Shape and scale by maximum likelihood; if the shape is clipped, the scale is fitted again."""
    unit = float(excess.mean())  # SciPy's optimiser wants numbers near one
    shape, _, scale = genpareto.fit(excess / unit, floc=0)
    clipped = min(max(float(shape), SHAPES[0]), SHAPES[1]) if math.isfinite(shape) else 0.0
    if clipped != shape:
        _, _, scale = genpareto.fit(excess / unit, f0=clipped, floc=0)
    if not (math.isfinite(scale) and scale > 0):
        clipped, scale = 0.0, 1.0  # the exponential's own estimate
    return clipped, float(scale) * unit


def _check(series: Mapping[str, Series]) -> None:
    if not series:
        raise DataError("no windows are left to calibrate thresholds on; give more data or a smaller --window")
    for sensor, one in series.items():
        finite: Bool = np.isfinite(one.errors)
        if not finite.all() or not (math.isfinite(one.days) and one.days > 0):
            raise DataError(f"{sensor}: calibration errors are not finite; check the data for extreme values")

"""Simple detectors to hold a model against, all under the same rules, so that a difference is the detector's own.

A baseline is ``fit(train (n, F)) -> score(stream (m, F)) -> (m)``, higher is more anomalous; what it says of a row
depends on that row and those before it. `judge` gives each the product's own threshold (from the false-alarm budget, on
a part of the training data that the fit has not seen) and the product's own alert policy. Nothing here sees a label.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from scipy.signal import lfilter

from stream_detector.alerts import Incident, Place, follow
from stream_detector.errors import DataError
from stream_detector.events import Bool, Float64, Int64
from stream_detector.policy import paced
from stream_detector.settings import Alerts
from stream_detector.thresholds import Series, fit_thresholds

Score: TypeAlias = Callable[[Float64], Float64]
Fit: TypeAlias = Callable[[Float64], Score]

DAY = 86_400_000  # ms
FITTED = 0.8  # of a sensor's training rows; the rest gives the errors for its threshold
OWN_ROWS = 100  # training rows from which a sensor gets a fit of its own
POOLED_ROWS = 50_000  # at most, evenly drawn, of the fit for sensors without one
CONSTANT = 1e-6  # a feature that varies by less than this share of its size is constant
STILL = 1e-2  # what counts as one standard deviation of a constant, as a share of its size
FAR = 1e6  # standard deviations at which a value is cut
LAGS = 10  # rows of a window of the PCA residual
EXPLAINED = 0.95  # of the variance that its components keep
CHUNK = 4_096  # rows whose windows are in memory at a time
SMOOTHING = 0.05  # of the EWMA, within the usual 0.05..0.25 (Montgomery, *Introduction to Statistical Quality Control*)
QUIET = 0.1  # smallest running standard deviation of the EWMA, in standard deviations of the training data


class Baseline(NamedTuple):
    """One detector, and the package that it needs beyond those of the product."""

    name: str
    fit: Callable[..., Score]  # a `Fit`
    package: str | None = None
    chance: bool = False  # whether it takes a `seed` too

    def seeded(self, seed: int) -> Fit:
        """Its fit, by this seed if that matters."""
        return functools.partial(self.fit, seed=seed) if self.chance else self.fit


class History(NamedTuple):
    """One sensor's rows."""

    values: Float64  # (n, F) in time order; NaN where a value is missing
    times: Int64  # (n) epoch ms

    @property
    def step(self) -> float:
        """The median time in ms from row to row, a second if there is none."""
        return max(float(np.median(np.diff(self.times))), 1.0) if len(self.times) > 1 else 1_000.0

    @property
    def days(self) -> float:
        """The time that the rows stand for."""
        return len(self.times) * self.step / DAY


class Judged(NamedTuple):
    """What a detector says of one stream, row by row."""

    score: Float64  # (m) error / threshold; 1 and above is anomalous
    firing: Bool  # (m) whether an alert is open
    contributions: Float64 | None = None  # (m, F) each feature's share in the score, of detectors that tell


def pca_residual(train: Float64) -> Score:
    """Distance of the last `LAGS` rows to the subspace of the components that explain most of the training data.

    The Q statistic of process monitoring (Jackson and Mudholkar 1979, *Control Procedures for Residuals Associated
    with Principal Component Analysis*) on lagged rows (Ku et al. 1995, dynamic PCA).
    """
    scale = _scaling(train)
    size, count = LAGS * train.shape[1], 0
    total, moment = np.zeros(size), np.zeros((size, size))
    for windows in _lagged(scale(train)):
        total, moment, count = total + windows.sum(axis=0), moment + windows.T @ windows, count + len(windows)
    mean = total / count  # (LAGS F)
    values, vectors = np.linalg.eigh(moment / count - np.outer(mean, mean))
    kept = np.cumsum(values[::-1]) <= EXPLAINED * max(float(values.sum()), 0.0)
    kept[0] = True
    basis = vectors[:, ::-1][:, kept]  # (LAGS F, k)

    def score(stream: Float64) -> Float64:
        found = [np.empty(0)]
        for windows in _lagged(scale(stream)):
            centered = windows - mean
            found.append(np.sqrt(((centered - centered @ basis @ basis.T) ** 2).mean(axis=1)))
        return np.concatenate(found)

    return score


def ewma_z(train: Float64) -> Score:
    """Largest deviation of any feature from its running mean, in running standard deviations, both exponential."""
    scale = _scaling(train)

    def score(stream: Float64) -> Float64:
        values = scale(stream)
        if not len(values):
            return np.empty(0)
        before = np.vstack([values[:1], _running(values, values[0])[:-1]])  # (m, F) mean of the rows before
        square = (values - before) ** 2
        variance = np.vstack([np.ones_like(values[:1]), _running(square, np.ones(values.shape[1]))[:-1]])
        return np.asarray(np.sqrt((square / np.maximum(variance, QUIET**2)).max(axis=1)))

    return score


def isolation_forest(train: Float64, seed: int = 0) -> Score:
    """scikit-learn's, with its defaults, row by row (Liu et al. 2008, *Isolation Forest*)."""
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(random_state=seed).fit(train)
    return lambda stream: np.asarray(-forest.score_samples(stream)) if len(stream) else np.empty(0)


def half_space_trees(train: Float64, seed: int = 0) -> Score:
    """River's, with its defaults, learning as it goes (Tan et al. 2011, *Fast Anomaly Detection for Streaming Data*).

    The score is minus the logarithm of the mass at a row: the same order as River's own, which ends at 1.
    """
    from river.anomaly import HalfSpaceTrees

    trained: Any = HalfSpaceTrees(seed=seed)  # typed in parts only
    low, span = train.min(axis=0), np.ptp(train, axis=0)
    span = np.where(span > 0, span, 1)

    def run(trees: Any, rows: Float64) -> Float64:
        found = []
        for row in ((rows - low) / span).tolist():
            named = dict(enumerate(row))
            found.append(-math.log(max(1 - trees.score_one(named), 1e-9)))
            trees.learn_one(named)
        return np.array(found, np.float64)

    run(trained, train)
    return lambda stream: run(copy.deepcopy(trained), stream)


BASELINES = (
    Baseline("PCA residual", pca_residual),
    Baseline("EWMA z-score", ewma_z),
    Baseline("isolation forest", isolation_forest, "scikit-learn", chance=True),
    Baseline("half-space trees", half_space_trees, "river", chance=True),
)
MODULES = {"scikit-learn": "sklearn", "river": "river"}


def available() -> tuple[list[Baseline], list[str]]:
    """Those that can run here, and a line on each that needs a package which is not installed."""
    usable = [one for one in BASELINES if one.package is None or find_spec(MODULES[one.package])]
    lines = [f"{one.name} left out: pip install {one.package}" for one in BASELINES if one not in usable]
    return usable, lines


def judge(
    fit: Fit,
    train: Mapping[str, History],
    streams: Mapping[str, History],
    *,
    budget: float,
    policy: Alerts,
) -> dict[str, Judged]:
    """What a baseline says of each stream under the product's rules.

    A sensor with `OWN_ROWS` training rows has a fit of its own, others share one of all rows. ``budget`` is false
    alarms per sensor and day. Missing values are filled with the last one, or the training mean. Raises `DataError`
    if there is nothing to fit on.
    """
    if sum(len(history.values) for history in train.values()) < 2:
        raise DataError("no rows to train the baselines on; check the training files and the column names")
    # An odd event is in several windows of a model but in one row: asked for several in a row, spikes would not count.
    alone = policy.model_copy(update={"min_windows": 1})
    alone = paced(alone, float(np.median([history.step for history in train.values()])), budget)
    means = np.nan_to_num(_mean(np.concatenate([history.values for history in train.values()])))
    fitted: dict[str, Score] = {}
    held: dict[str, Series] = {}
    parts = {sensor: _filled(history.values, means) for sensor, history in train.items()}
    parts = {sensor: rows for sensor, rows in parts.items() if len(rows) >= 2}
    rows = np.concatenate([values[: _cut(values)] for values in parts.values()])
    step = -(-len(rows) // POOLED_ROWS)
    shared = functools.cache(lambda: fit(rows[::step]))  # made only if a sensor needs it
    for sensor, values in parts.items():
        cut = _cut(values)
        score = fitted[sensor] = fit(values[:cut]) if len(values) >= OWN_ROWS else shared()
        held[sensor] = Series(score(values[cut:]), train[sensor].days * (len(values) - cut) / len(values))
    thresholds = fit_thresholds(held, "evt", budget)
    found = {}
    for sensor, stream in streams.items():
        score = fitted[sensor] if sensor in fitted else shared()
        errors = score(_filled(stream.values, means)) / thresholds.values[thresholds.rows([sensor])[0]]
        found[sensor] = Judged(errors, firing(errors, stream.times, alone))
    return found


def firing(scores: Float64, times: Int64, policy: Alerts) -> Bool:
    """Whether an alert is open at each of a sensor's scores (m), by the service's rules for anomalies."""
    state: Incident | None = None
    found = np.zeros(len(scores), bool)
    for row, (score, time) in enumerate(zip(scores.tolist(), times.tolist(), strict=True)):
        state, _ = follow(state, score, Place(str(row), "", time, time), policy)
        found[row] = state is not None and state.state == "firing"
    return found


def _cut(values: Float64) -> int:
    """How many of a sensor's rows are fitted on; one at least, and not all."""
    return min(max(1, int(FITTED * len(values))), len(values) - 1)


def _scaling(train: Float64) -> Score:
    """To mean 0 and standard deviation 1 on the training rows; a constant's unit is a share of its size, or 1."""
    mean, spread = train.mean(axis=0), train.std(axis=0)
    size = np.abs(mean)
    constant = spread <= np.maximum(CONSTANT * size, 1e-12)
    unit = np.where(constant, np.where(size > 0, STILL * size, 1.0), spread)
    return lambda rows: np.clip((rows - mean) / unit, -FAR, FAR)


def _lagged(rows: Float64) -> Iterator[Float64]:
    """Windows that end at each row, (m, LAGS F), in pieces; before the first row, it stands for those not there."""
    if not len(rows):
        return
    padded = np.vstack([np.repeat(rows[:1], LAGS - 1, axis=0), rows])
    windows = np.lib.stride_tricks.sliding_window_view(padded, LAGS, axis=0)  # (m, F, LAGS)
    for at in range(0, len(rows), CHUNK):
        yield windows[at : at + CHUNK].reshape(-1, LAGS * rows.shape[1])


def _running(values: Float64, start: Float64) -> Float64:
    """Exponentially weighted means (m, F) of each row and those before it."""
    keep = 1 - SMOOTHING
    means, _ = lfilter([SMOOTHING], [1, -keep], values, axis=0, zi=keep * start[None, :])
    return np.asarray(means, np.float64)


def _mean(rows: Float64) -> Float64:
    """Of each feature's values, NaN for one without any."""
    seen = np.isfinite(rows).sum(axis=0)
    return np.asarray(np.nansum(rows, axis=0) / np.where(seen, seen, np.nan))


def _filled(rows: Float64, means: Float64) -> Float64:
    """Missing values as the last one of the feature, or ``means`` (F) where there was none."""
    if np.isfinite(rows).all():
        return rows
    known = np.isfinite(rows)
    last = np.maximum.accumulate(np.where(known, np.arange(len(rows))[:, None], -1), axis=0)
    return np.where(last >= 0, np.take_along_axis(rows, np.maximum(last, 0), axis=0), means)

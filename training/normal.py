"""What normal looks like to a fitted model: residual statistics and errors in time order."""

from __future__ import annotations

import numpy as np

from stream_detector.adapters.keras.scorer import CompiledModel
from stream_detector.contents import ErrorKind, ErrorStatistics
from stream_detector.events import Float32, Float64
from stream_detector.policy import APART, closest
from stream_detector.thresholds import ALERTS, Series
from training.data import Data
from training.split import Part

DAY = 86_400_000  # ms
# Smallest standard deviation of a residual: no model is trusted beyond it. In scaled units, where a deviation of 1 is
# that of the data; a residual of the model's own has no such unit (a context's may all be of 1e-3), and is compared
# with the root mean square of the others' deviations.
RESIDUAL_FLOOR = 1e-2
TINY = 1e-6  # residuals of the model's own that vary by less than this do not vary: float32 tells no more apart
SHRINKAGE_FLOOR = 1e-2  # keeps the covariance invertible where residuals depend linearly on each other


def error_statistics(kind: ErrorKind, residuals: Float32, sharing: int = 1) -> ErrorStatistics:
    """Mean and whitening of residuals (n, W, F) in scaled units, or a model's own (n, D); other kinds learn nothing.

    The correlations are shrunk towards none by the intensity of Schäfer and Strimmer (2005, *A Shrinkage
    Approach to Large-Scale Covariance Matrix Estimation*), a Ledoit-Wolf estimate with the diagonal as its
    target. Steps of a window depend on each other, hence the estimate's own variance is taken between
    windows; ``sharing`` is how many of the windows an event is in.
    """
    if kind != "mahalanobis":
        return ErrorStatistics(kind)
    own = residuals.ndim == 2
    if own:
        residuals = residuals[:, None]  # (n, 1, D): a step of its own
    count, _, size = residuals.shape
    mean = residuals.mean(axis=(0, 1), dtype=np.float64)  # (F)
    total, squares = np.zeros((size, size)), np.zeros((size, size))
    for window in residuals:  # one at a time: all at once would be (n, F, F)
        centered = window - mean  # (W, F)
        moment = centered.T @ centered / len(window)  # (F, F)
        total += moment
        squares += moment**2
    covariance = total / count  # (F, F)
    # Variance of each entry's estimate, (F, F); one window alone tells nothing of it, and all is shrunk.
    spread = (squares / count - covariance**2) * sharing / (count - 1) if count > 1 else np.inf
    unit = max(float(np.sqrt(np.diag(covariance).mean())), TINY) if own else 1.0
    deviation = np.sqrt(np.maximum(np.diag(covariance), (RESIDUAL_FLOOR * unit) ** 2))  # (F)
    across = np.outer(deviation, deviation)
    correlation = covariance / across
    off = ~np.eye(size, dtype=bool)
    strength = float((correlation[off] ** 2).sum())
    noise = float(np.maximum(spread / across**2, 0)[off].sum())
    shrinkage = min(max(noise / strength, SHRINKAGE_FLOOR), 1.0) if strength > 0 else 1.0
    correlation = np.where(off, (1 - shrinkage) * correlation, 1.0)
    inverse = np.linalg.inv(correlation) / across  # (F, F)
    whitening = np.linalg.cholesky((inverse + inverse.T) / 2)  # (F, F) lower
    rows = tuple(tuple(row) for row in whitening.tolist())
    return ErrorStatistics(kind, tuple(mean.tolist()), rows, shrinkage)


def errors_of(model: CompiledModel, data: Data) -> Float64:
    """Errors of all windows of the part for thresholds, (n); NaN for windows of other parts."""
    errors = np.full(len(data.parts), np.nan)
    for places, values in data.values(data.parts == Part.THRESHOLDS):
        errors[places] = model.errors(data.sensors(places), values).error
    return errors


def series_of(errors: Float64, data: Data) -> dict[str, Series]:
    """Errors (n, NaN where there is none) of each sensor in time order, with the time that they stand for."""
    stride = data.rules.stride
    return {
        sensor: Series(errors[own], len(own) * stride * data.periods[sensor] / DAY)
        for sensor, own in data.histories(~np.isnan(errors))
    }


def most_alerts(data: Data) -> float:
    """Alerts a day that the median sensor can have at most: see `stream_detector.policy.closest`."""
    return DAY / closest(ALERTS, data.rules.stride * _usual_period(data))


def apart_a_day(data: Data) -> float:
    """Alerts a day that the median sensor can have of other events each: see `stream_detector.policy.APART`."""
    return DAY / (APART * data.rules.length * _usual_period(data))


def _usual_period(data: Data) -> float:
    return float(np.median(list(data.periods.values())))  # ms


def days_of(data: Data) -> float:
    """Sensor days that were learnt from, whatever the windows served."""
    counts: list[int] = np.bincount(data.which[data.parts != Part.NONE], minlength=len(data.names)).tolist()
    stride = data.rules.stride
    return sum(count * stride * data.periods[sensor] / DAY for sensor, count in zip(data.names, counts, strict=True))

"""What normal looks like to a fitted model: scaler, residual statistics and errors in time order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stream_detector.adapters.keras.programs import LIMIT
from stream_detector.adapters.keras.scorer import CompiledModel
from stream_detector.contents import ErrorKind, ErrorStatistics, Scaler
from stream_detector.events import Float32, Float64
from stream_detector.policy import APART
from stream_detector.thresholds import Series
from training.data import Data
from training.split import Part

DAY = 86_400_000  # ms
OWN_EVENTS = 100  # a sensor with as many to fit on is scaled by its own
CONSTANT = 1e-6  # a feature that varies by less than this share of its size is constant: float32 holds seven digits
CONSTANT_SCALE = 1e-2  # what counts as one standard deviation of a constant, as a share of its size
# Smallest standard deviation of a residual: no model is trusted beyond it. In scaled units, where a deviation of 1 is
# that of the data; a residual of the model's own has no such unit (a context's may all be of 1e-3), and is compared
# with the root mean square of the others' deviations.
RESIDUAL_FLOOR = 1e-2
TINY = 1e-6  # residuals of the model's own that vary by less than this do not vary: float32 tells no more apart
SHRINKAGE_FLOOR = 1e-2  # keeps the covariance invertible where residuals depend linearly on each other


def fit_scaler(values: Float32) -> Scaler:
    """Mean and standard deviation of each feature over windows (n, W, F).

    A constant feature is given a hundredth of its size as scale (1 where it is 0), so that it adds nothing
    while it stays what it was, and stands out when it moves for real but not when it flickers by rounding.
    """
    flat = values.reshape(-1, values.shape[2]).astype(np.float64)  # (n W, F)
    return _standard(flat.mean(axis=0), flat.std(axis=0))


def fit_unit_scaler(values: Float32) -> Scaler:
    """Smallest and largest value of each feature over windows (n, W, F), which become 0 and 1.

    For models that end in a sigmoid or a ReLU. A constant feature is given a hundredth of its size as scale (1 where
    it is 0), as in `fit_scaler`.
    """
    flat = values.reshape(-1, values.shape[2]).astype(np.float64)  # (n W, F)
    return _unit(flat.min(axis=0), flat.max(axis=0))


def fit_own_scalers(data: Data, scaling: str) -> dict[str, Scaler]:
    """The same of each sensor's windows that the optimiser sees, if they hold `OWN_EVENTS` events or more."""
    shape = (len(data.names), len(data.rules.features))
    count, total, squares = np.zeros(shape[0]), np.zeros(shape), np.zeros(shape)
    low, high, origin = np.full(shape, np.inf), np.full(shape, -np.inf), np.full(shape, np.nan)
    for places, values in data.values(data.parts == Part.FIT):
        rows = data.which[places]
        for row in np.unique(rows):
            flat = values[rows == row].reshape(-1, shape[1]).astype(np.float64)
            if np.isnan(origin[row, 0]):
                origin[row] = flat[0]  # squares of what is near to 0 keep their digits
            off = flat - origin[row]
            count[row] += len(flat)
            total[row] += off.sum(axis=0)
            squares[row] += (off**2).sum(axis=0)
            low[row], high[row] = np.minimum(low[row], flat.min(axis=0)), np.maximum(high[row], flat.max(axis=0))
    events = count * data.rules.stride / data.rules.length
    found = {}
    for row in np.flatnonzero(events >= OWN_EVENTS):
        mean = total[row] / count[row]
        deviation = np.sqrt(np.maximum(squares[row] / count[row] - mean**2, 0))
        standard = scaling == "standard"
        found[data.names[row]] = _standard(origin[row] + mean, deviation) if standard else _unit(low[row], high[row])
    return found


def _standard(center: Float64, scale: Float64) -> Scaler:
    size = np.abs(center)
    constant = scale <= np.maximum(CONSTANT * size, 1e-12)
    still = np.where(size > 0, CONSTANT_SCALE * size, 1.0)
    return Scaler(tuple(center.tolist()), tuple(np.where(constant, still, scale).tolist()))


def _unit(low: Float64, high: Float64) -> Scaler:
    size = np.maximum(np.abs(low), np.abs(high))
    constant = high - low <= np.maximum(CONSTANT * size, 1e-12)
    still = np.where(size > 0, CONSTANT_SCALE * size, 1.0)
    return Scaler(tuple(low.tolist()), tuple(np.where(constant, still, high - low).tolist()))


def scale_values(scaler: Scaler, values: Float32, sensors: Sequence[str] | None = None) -> Float32:
    """Windows (n, W, F) as the model sees them: each in the scale of its sensor, if it has one of its own."""
    own = [scaler] if sensors is None or not scaler.own else [scaler.own.get(sensor, scaler) for sensor in sensors]
    center = np.asarray([one.center for one in own], np.float32)[:, None]  # (n or 1, 1, F)
    scale = np.asarray([one.scale for one in own], np.float32)[:, None]
    with np.errstate(over="ignore"):  # what overflows is cut
        scaled: Float32 = np.clip((values - center) / scale, -LIMIT, LIMIT).astype(np.float32)
    return scaled


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
    """Alerts a day that the median sensor can have at most: see `stream_detector.policy.APART`."""
    return DAY / (APART * data.rules.length * float(np.median(list(data.periods.values()))))


def days_of(data: Data) -> float:
    """Sensor days that were learnt from, whatever the windows served."""
    counts: list[int] = np.bincount(data.which[data.parts != Part.NONE], minlength=len(data.names)).tolist()
    stride = data.rules.stride
    return sum(count * stride * data.periods[sensor] / DAY for sensor, count in zip(data.names, counts, strict=True))

"""Scalers: of all sensors, of each that has enough history, and of each group for those that have not.

What a model takes says what a scaler aims at: mean 0 and deviation 1 (``standard``), or values in 0..1 (``unit``). How
far a feature spreads is told by its moments or its ends (scaling ``standard``), or by its quantiles (``robust``: Huber
and Ronchetti 2009, *Robust Statistics*, 5.1), which some wild values among those of training leave where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np

from stream_detector.adapters.keras.programs import LIMIT
from stream_detector.contents import Scaler
from stream_detector.events import Float32, Float64
from stream_detector.groups import Grouping
from training.data import Data
from training.split import Part

Scaling: TypeAlias = Literal["standard", "robust"]

OWN_EVENTS = 100  # a sensor with as many to fit on is scaled by its own, a group likewise
CONSTANT = 1e-6  # a feature that varies by less than this share of its size is constant: float32 holds seven digits, …
TINY = 1e-12  # … or by less than this; a constant that is smaller is 0
CONSTANT_SCALE = 1e-2  # what counts as one standard deviation of a constant, as a share of its size
QUARTILES = 1.349  # between the quartiles of a normal distribution of deviation 1 …
HUNDREDTHS = 4.653  # … and between its first and last hundredth
MIDDLE = 0.1  # quartiles nearer than this share of what the hundredths tell are those of a feature that mostly stands
DRAWN = 2**26  # values, of all sensors together, that quantiles are of


def fit_scaler(values: Float32, takes: str = "standard", scaling: Scaling = "standard") -> Scaler:
    """The scale of each feature over windows (n, W, F) in raw units, for a model that ``takes`` such values.

    By mean and standard deviation, or by median and the quartiles' distance; of unit values by the smallest and the
    largest, which become 0 and 1, or by the quantiles of 1 and 99 %.

    A constant feature is given a hundredth of its size as scale (1 where it is 0), so that it adds nothing while it
    stays what it was, and stands out when it moves for real but not when it flickers by rounding.
    """
    flat = values.reshape(-1, values.shape[2]).astype(np.float64)  # (n W, F)
    if scaling == "robust":
        return _robust(flat, takes)
    if takes == "unit":
        return _unit(flat.min(axis=0), flat.max(axis=0))
    return _standard(flat.mean(axis=0), flat.std(axis=0))


def fit_own_scalers(
    data: Data, takes: str, common: Scaler, scaling: Scaling = "standard", grouping: Grouping | None = None
) -> tuple[dict[str, Scaler], dict[str, Scaler]]:
    """The same of each sensor and of each group, by name, of the windows that the optimiser sees.

    If they hold `OWN_EVENTS` events or more; a group's are those of all its sensors. A feature that is always 0 there
    says nothing of its size: it keeps the ``common`` scale.
    """
    members: dict[str, list[int]] = {}
    for row, sensor in enumerate(data.names):
        members.setdefault(grouping.name(sensor) if grouping else "", []).append(row)
    members.pop("", None)
    windows = np.bincount(data.which[data.parts == Part.FIT], minlength=len(data.names))
    events = windows * min(data.rules.stride, data.rules.length)
    fitted = (_by_quantiles if scaling == "robust" else _by_moments)(data, takes, common)
    own = {name: fitted([row]) for row, name in enumerate(data.names) if events[row] >= OWN_EVENTS}
    return own, {name: fitted(rows) for name, rows in members.items() if events[rows].sum() >= OWN_EVENTS}


def scale_values(
    scaler: Scaler, values: Float32, sensors: Sequence[str] | None = None, grouping: Grouping | None = None
) -> Float32:
    """Windows (n, W, F) as the model sees them: each in the scale of its sensor or group, if there is one."""
    if sensors is None or not (scaler.own or scaler.groups):
        own = [scaler]
    else:
        own = [scaler.of(sensor, grouping.name(sensor) if grouping else "") for sensor in sensors]
    center = np.asarray([one.center for one in own], np.float32)[:, None]  # (n or 1, 1, F)
    scale = np.asarray([one.scale for one in own], np.float32)[:, None]
    with np.errstate(over="ignore"):  # what overflows is cut
        scaled: Float32 = np.clip((values - center) / scale, -LIMIT, LIMIT).astype(np.float32)
    return scaled


def _by_moments(data: Data, takes: str, common: Scaler) -> Callable[[Sequence[int]], Scaler]:
    """What makes the scaler of some of the sensors, from sums of each: events are seen once and not held."""
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

    def fitted(rows: Sequence[int]) -> Scaler:
        seen = [row for row in rows if count[row]]
        if takes == "unit":
            return _unit(low[seen].min(axis=0), high[seen].max(axis=0), common)
        share = (count[seen] / count[seen].sum())[:, None]  # (sensors, 1)
        off = total[seen] / count[seen, None]
        variance = np.maximum(squares[seen] / count[seen, None] - off**2, 0)
        means = origin[seen] + off
        mean = (share * means).sum(axis=0)
        return _standard(mean, np.sqrt((share * (variance + (means - mean) ** 2)).sum(axis=0)), common)

    return fitted


def _by_quantiles(data: Data, takes: str, common: Scaler) -> Callable[[Sequence[int]], Scaler]:
    """What makes the scaler of some of the sensors, from events of theirs, evenly spaced if there are many."""
    newest, size = min(data.rules.stride, data.rules.length), len(data.rules.features)
    most = max(-(-OWN_EVENTS // newest), DRAWN // (newest * size * len(data.names)))  # windows of a sensor
    fit = np.flatnonzero(data.parts == Part.FIT)
    fit = fit[np.argsort(data.which[fit], kind="stable")]  # by sensor
    chosen = np.zeros(len(data.parts), bool)
    for mine in np.split(fit, np.flatnonzero(np.diff(data.which[fit])) + 1):
        chosen[mine[np.linspace(0, len(mine) - 1, min(most, len(mine))).round().astype(np.intp)]] = True
    drawn: dict[int, list[Float32]] = {}
    for places, values in data.values(chosen):
        rows = data.which[places]
        for row in np.unique(rows).tolist():  # each event once: those that no earlier window held
            drawn.setdefault(row, []).append(values[rows == row][:, -newest:].reshape(-1, size))

    def fitted(rows: Sequence[int]) -> Scaler:
        every = np.concatenate([part for row in rows for part in drawn.get(row, [])])
        return _robust(every.astype(np.float64), takes, common)

    return fitted


def _standard(center: Float64, scale: Float64, common: Scaler | None = None) -> Scaler:
    size = np.abs(center)
    constant = scale <= np.maximum(CONSTANT * size, TINY)
    still = np.where(size > TINY, CONSTANT_SCALE * size, 1.0 if common is None else common.scale)
    return Scaler(tuple(center.tolist()), tuple(np.where(constant, still, scale).tolist()))


def _unit(low: Float64, high: Float64, common: Scaler | None = None) -> Scaler:
    size = np.maximum(np.abs(low), np.abs(high))
    constant = high - low <= np.maximum(CONSTANT * size, TINY)
    still = np.where(size > TINY, CONSTANT_SCALE * size, 1.0 if common is None else common.scale)
    return Scaler(tuple(low.tolist()), tuple(np.where(constant, still, high - low).tolist()))


def _robust(flat: Float64, takes: str, common: Scaler | None = None) -> Scaler:
    """Of values (n, F), by quantiles as far as they tell anything.

    A feature whose quartiles (nearly) coincide, such as a valve that is mostly shut, is scaled by the quantiles of 1
    and 99 %, one where these coincide too by all of its values, as without ``robust``.
    """
    first, low, middle, high, last = np.quantile(flat, (0.01, 0.25, 0.5, 0.75, 0.99), axis=0)  # (F) each
    rounding = np.maximum(CONSTANT * np.maximum(np.abs(first), np.abs(last)), TINY)
    told = last - first > rounding
    if takes == "unit":
        return _unit(np.where(told, first, flat.min(axis=0)), np.where(told, last, flat.max(axis=0)), common)
    wide = (last - first) / HUNDREDTHS
    near = (high - low) / QUARTILES
    scale = np.where(near > np.maximum(MIDDLE * wide, rounding), near, wide)
    return _standard(np.where(told, middle, flat.mean(axis=0)), np.where(told, scale, flat.std(axis=0)), common)

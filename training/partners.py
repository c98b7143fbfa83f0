"""What is normal of the windows' contrasts: see `adapters.keras.partners` for what they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from keras import ops
from numpy.typing import NDArray

from stream_detector.adapters.keras.partners import deviations, jumps, largest, mean_size, root_mean_square
from stream_detector.adapters.keras.scorer import CompiledModel
from stream_detector.contents import Ends, Normal, Partner, Scaler
from stream_detector.events import Float32, Float64
from stream_detector.groups import Grouping
from training.data import Data
from training.scaling import scale_values
from training.split import Part, overlap

OWN = 50  # windows: a sensor with as many has a deviation that is half its own, half that of all
FLOOR = 0.05  # smallest deviation, in scaled units: of a feature that hardly ever moves, any move is not yet news
MEMORY = 0.25  # share of a feature's variance that its windows' means may have: averaging halves the deviation at least
STILL = {"level": FLOOR, "bias": 1e-6}  # deviations up to which a feature says nothing of its memory
ROOM = 0.1  # beyond what training saw, as a share of it, where a model is taken to know its way
SHORTEST = 4  # events a window
RHYTHM = 2 * 86_400_000  # ms that the median sensor must have been seen for: how residuals wander takes days to show


@dataclass(frozen=True, slots=True)
class Contrasts:
    """Of ``n`` windows without anomalous events, in scaled units; rows of others are NaN."""

    means: Float32  # (n, F) of the window
    jumps: Float32  # (n, S, F) of its newest steps
    lasts: Float32  # (n, F) its last step
    biases: Float32 | None  # (n, F) mean of the model's residuals; None of models that return no window
    off: Float32 | None  # (n, F) residual of the last step


def contrasts(data: Data, scaler: Scaler, judge: CompiledModel, grouping: Grouping) -> Contrasts:
    """The contrasts of all windows that serve any part of training."""
    count, size, newest = len(data.parts), len(data.rules.features), min(data.rules.stride, data.rules.length)
    shapes = ((count, size), (count, newest, size), (count, size))
    of_model = [np.full((count, size), np.nan, np.float32) if judge.output == "window" else None for _ in range(2)]
    found = Contrasts(*(np.full(shape, np.nan, np.float32) for shape in shapes), *of_model)
    for places, values in data.values(data.parts != Part.NONE):
        sensors = [data.sensors[at] for at in places]
        if found.biases is not None and found.off is not None:
            residuals = judge.residuals(sensors, values)
            found.biases[places], found.off[places] = residuals.mean(axis=1), residuals[:, -1]
        seen = scale_values(scaler, values, sensors, grouping)
        found.means[places] = seen.mean(axis=1)
        found.jumps[places] = ops.convert_to_numpy(jumps(ops.convert_to_tensor(seen), newest))
        found.lasts[places] = seen[:, -1]
    return found


def change(data: Data, found: Contrasts) -> Partner:
    """Normal jumps: their deviation, of all and of each sensor."""
    squares = {sensor: (found.jumps[rows].astype(np.float64) ** 2).mean(axis=1) for sensor, rows in histories(data)}
    common = np.sqrt(np.concatenate(list(squares.values())).mean(axis=0))
    own = {sensor: _mixed(one.mean(axis=0), common**2, len(one)) for sensor, one in squares.items()}
    return Partner(
        "change", Normal((), _floored(common)), {s: Normal((), _floored(np.sqrt(v))) for s, v in own.items()}
    )


def level(data: Data, found: Contrasts) -> Partner | None:
    """Normal levels of the windows; None if no feature's says anything."""
    return _lying("level", data, found.means, found.lasts)


def bias(data: Data, found: Contrasts) -> Partner | None:
    """Normal levels of the residuals; None if no feature's says anything, or the model has none.

    None too if it was seen for less than `RHYTHM`: days and nights, load and weather move a model's residuals while
    everything is well, and hours do not tell how far.
    """
    spans = [np.ptp(data.timestamps[rows]) for _, rows in histories(data)]
    if found.biases is None or found.off is None or np.median(spans) < RHYTHM:
        return None
    return _lying("bias", data, found.biases, found.off)


def ends(data: Data, found: Contrasts) -> Ends | None:
    """Where the model has been, with some room: what comes is seldom all within what was. None if it has no residuals.

    A sensor that training did not see may be wherever one of the others was.
    """
    if found.biases is None:
        return None
    own = {}
    for sensor, rows in histories(data):
        means = found.means[rows].astype(np.float64)
        low, high = means.min(axis=0), means.max(axis=0)
        room = FLOOR + ROOM * (high - low)
        own[sensor] = Ends(_floats(low - room), _floats(high + room))
    lows, highs = (np.array([getattr(one, side) for one in own.values()]) for side in ("low", "high"))
    return Ends(_floats(lows.min(axis=0)), _floats(highs.max(axis=0)), own)


def _lying(name: Literal["level", "bias"], data: Data, all_means: Float32, all_lasts: Float32) -> Partner | None:
    """Where each sensor's means over a window (n, F) lie, and how far they wander.

    How far: the root mean square of the difference between windows that lie half of the sensor's history apart, but
    not less than the median sensor's. Features count whose means over a window vary by `MEMORY` of the feature's own
    variance at most, in the median sensor.
    """
    centers, wander, memory = {}, {}, []
    for sensor, rows in histories(data):
        means, lasts = all_means[rows].astype(np.float64), all_lasts[rows].astype(np.float64)
        centers[sensor] = means.mean(axis=0)
        half = len(means) // 2
        if half < overlap(data.rules.length, data.rules.stride):
            continue  # the halves share events
        wander[sensor] = ((means[half:] - means[: len(means) - half]) ** 2).mean(axis=0)
        variance = lasts.var(axis=0)
        still = STILL[name] ** 2
        memory.append(np.where(variance > still, means.var(axis=0) / np.maximum(variance, still), np.nan))
    if not wander:
        return None
    each = np.array(memory)  # (sensors, F)
    each[:, np.isnan(each).all(axis=0)] = 1.0  # what never moves has no level to wander from
    counts = np.nanmedian(each, axis=0) <= MEMORY  # (F)
    if not counts.any():
        return None
    common = np.median(np.array(list(wander.values())), axis=0)
    own = {
        sensor: Normal(_floats(center), _floored(np.sqrt(np.maximum(wander.get(sensor, common), common))))
        for sensor, center in centers.items()
    }
    where = np.mean(list(centers.values()), axis=0)
    return Partner(name, Normal(_floats(where), _floored(np.sqrt(common))), own, tuple(counts.tolist()))


def partner_errors(data: Data, partner: Partner, found: Contrasts) -> Float64:
    """Errors of all windows that have contrasts, (n), by the functions that the service scores with; NaN of others."""
    errors = np.full(len(data.parts), np.nan)
    for sensor, rows in histories(data):
        own = partner.own.get(sensor, partner.common)
        if partner.name == "change":
            off = deviations(ops.convert_to_tensor(found.jumps[rows]), _row(own.deviation))  # (n, S, F)
            told = largest(*mean_size(off))[0]
        else:
            means = found.means if partner.name == "level" or found.biases is None else found.biases
            off = deviations(ops.convert_to_tensor(means[rows] - _row(own.center)), _row(own.deviation))
            counted = np.asarray(partner.counts, np.float32)
            told = root_mean_square(off, ops.convert_to_tensor(counted / counted.sum()))[0]
        errors[rows] = ops.convert_to_numpy(told)
    return errors


def histories(data: Data) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """Each sensor with its windows in time order: all that serve any part of training."""
    places = np.flatnonzero(data.parts != Part.NONE)
    names, which = np.unique(np.asarray(data.sensors, np.str_)[places], return_inverse=True)
    order = np.lexsort((data.timestamps[places, 1], which))
    cuts = np.flatnonzero(np.diff(which[order])) + 1
    yield from zip(names.tolist(), np.split(places[order], cuts), strict=True)


def own_deviations(sensors: Sequence[str], jumped: Float32) -> tuple[tuple[float, ...], dict[str, tuple[float, ...]]]:
    """Deviation (D) of a model's jumps (m, S, D) in windows of these sensors (m): of all, and of each sensor."""
    squares = (jumped.astype(np.float64) ** 2).mean(axis=1)  # (m, D)
    common = squares.mean(axis=0)
    names = np.asarray(sensors, np.str_)
    own = {}
    for sensor in np.unique(names).tolist():
        mine = squares[names == sensor]
        own[sensor] = _floored(np.sqrt(_mixed(mine.mean(axis=0), common, len(mine))))
    return _floored(np.sqrt(common)), own


def _mixed(own: Float64, common: Float64, windows: int) -> Float64:
    """A variance (F) of few windows is drawn to that of all."""
    return (windows * own + OWN * common) / (windows + OWN)


def _floored(values: Float64) -> tuple[float, ...]:
    return _floats(np.maximum(values, FLOOR))


def _floats(values: Float64) -> tuple[float, ...]:
    return tuple(float(f"{value:.7g}") for value in values)  # float32 holds no more, and bundles stay readable


def _row(values: tuple[float, ...]) -> Float32:
    return np.asarray(values, np.float32)

"""What is normal of the windows' contrasts: see `adapters.keras.partners` for what they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from keras import ops
from numpy.typing import NDArray

from stream_detector.adapters.keras.partners import (
    FAINT,
    deviations,
    jumps,
    largest,
    latest,
    log_spread,
    mean_size,
    of_side,
    root_mean_square,
)
from stream_detector.adapters.keras.scorer import CompiledModel
from stream_detector.contents import Ends, Normal, Partner, Scaler
from stream_detector.events import Bool, Float32, Float64
from stream_detector.groups import Grouping
from training.data import Data
from training.scaling import scale_values
from training.spill import Table
from training.split import Part, overlap

OWN = 50  # windows: a sensor with as many has a deviation that is half its own, half that of all
FLOOR = 0.05  # smallest deviation, in scaled units: of a feature that hardly ever moves, any move is not yet news
MEMORY = 0.25  # share of a feature's variance that its windows' means may have: averaging halves the deviation at least
LATEST = 16  # events of a window whose mean is its level, as many as docs/quality.md measured; a stride's at least
STANDS_OUT = 8.0  # deviations by which a spread must fall if its feature stops: that of chance, in windows of 16, by 11
STILL = {"level": FLOOR, "bias": 1e-6}  # deviations up to which a feature says nothing of its memory
RANGED = 100  # windows' lengths of history: of one feature, another window is beyond those ends once in fifty
ROOM = 0.1  # beyond what training saw, as a share of it, where a model is taken to know its way
SHORTEST = 4  # events a window
BLOCK = 4_096  # windows whose contrasts are looked at at a time
RHYTHM = 2 * 86_400_000  # ms that the median sensor must have been seen for: how residuals wander takes days to show


class History(NamedTuple):
    """Where a sensor's windows stand in the rows of `Contrasts`, in time order."""

    sensor: str
    start: int
    end: int


class Steps(NamedTuple):
    """What the steps of ``n`` windows come to, of values or of residuals."""

    means: Table  # (n, F) of all of them, or of the latest
    newest: Table  # (n, F) mean of those that no earlier window held
    within: Table  # (n, F) their variance

    def put(self, rows: NDArray[np.intp], means: Float32, newest: Float32) -> None:
        """Take means (m, F) and the newest steps (m, S, F)."""
        self.means.put(rows, means)
        self.newest.put(rows, newest.mean(axis=1))
        self.within.put(rows, newest.var(axis=1))


@dataclass(frozen=True, slots=True)
class Contrasts:
    """Of the ``n`` windows that serve any part of training, in scaled units, sensor by sensor; held as events are."""

    places: NDArray[np.intp]  # (n) of the rows in the order of the data's windows
    histories: tuple[History, ...]
    latest: int  # events that the means of values are of; 0: all of a window
    jumps: Table  # (n, S, F) of the window's newest steps
    values: Steps
    spreads: Table  # (n, F)
    residuals: Steps | None  # of the model; None of models that return no window


def contrasts(data: Data, scaler: Scaler, judge: CompiledModel, grouping: Grouping) -> Contrasts:
    """The contrasts of all windows that serve any part of training.

    They are made anew from the data's windows, piece by piece. What is beyond the bound of memory, of which the events
    have their part, goes to files: with a stride of an eighth of a window of 64, not twice as much as the events.
    Raises `DataError` if there is no room.
    """
    used = data.parts != Part.NONE
    histories: list[History] = []
    order = [np.empty(0, np.intp)]
    for sensor, windows in data.histories(used):
        start = histories[-1].end if histories else 0
        histories.append(History(sensor, start, start + len(windows)))
        order.append(windows)
    places = np.concatenate(order)
    row = np.empty(len(used), np.intp)  # of each of the data's windows, if it has one
    row[places] = np.arange(len(places))
    flat = len(places), len(data.rules.features)
    newest = min(data.rules.stride, data.rules.length)
    events = max(LATEST, newest) if max(LATEST, newest) < data.rules.length else 0
    of_model = [flat] * 3 if judge.output == "window" else []
    jumped, spreads, *tables = data.spill.tables((flat[0], newest, flat[1]), *[flat] * 4, *of_model)
    of_values, of_residuals = Steps(*tables[:3]), Steps(*tables[3:]) if of_model else None
    for windows, values in data.values(used):
        rows, sensors = row[windows], data.sensors(windows)
        if of_residuals is not None:
            residuals = judge.residuals(sensors, values)
            of_residuals.put(rows, residuals.mean(axis=1), residuals[:, -newest:])
        seen = scale_values(scaler, values, sensors, grouping)
        steps = ops.convert_to_tensor(seen)
        of_values.put(rows, ops.convert_to_numpy(latest(steps, events)), seen[:, -newest:])
        spreads.put(rows, ops.convert_to_numpy(log_spread(steps)))
        jumped.put(rows, ops.convert_to_numpy(jumps(steps, newest)))
    return Contrasts(places, tuple(histories), events, jumped, of_values, spreads, of_residuals)


def change(found: Contrasts) -> Partner:
    """Normal jumps: their deviation, of all and of each sensor."""
    squares = {
        sensor: _sum((block**2).mean(axis=1) for block in _blocks(found.jumps, start, end))
        for sensor, start, end in found.histories
    }
    common = np.sqrt(np.sum(list(squares.values()), axis=0) / len(found.places))
    own = {
        sensor: _mixed(squares[sensor] / (end - start), common**2, end - start)
        for sensor, start, end in found.histories
    }
    return Partner(
        "change", Normal((), _floored(common)), {s: Normal((), _floored(np.sqrt(v))) for s, v in own.items()}
    )


def level(data: Data, found: Contrasts) -> Partner | None:
    """Normal levels of the windows; None if no feature's says anything."""
    return _lying("level", data, found, found.values, found.latest)


def bias(data: Data, found: Contrasts) -> Partner | None:
    """Normal levels of the residuals; None if no feature's says anything, or the model has none.

    None too if it was seen for less than `RHYTHM`: days and nights, load and weather move a model's residuals while
    everything is well, and hours do not tell how far.
    """
    spans = [np.ptp(data.timestamps[found.places[start:end]]) for _, start, end in found.histories]
    if found.residuals is None or np.median(spans) < RHYTHM:
        return None
    return _lying("bias", data, found, found.residuals, 0)


def spread(data: Data, found: Contrasts) -> Partner | None:
    """Normal spreads of the windows; None if no feature's is so steady that it says anything.

    Features count whose spread has next to no memory from one window to the next without events in common, and would
    fall by `STANDS_OUT` deviations at least if the feature stopped, both in the median sensor.
    """
    centers, wander = _places(data, found, found.spreads)
    if not wander:
        return None
    apart = overlap(data.rules.length, data.rules.stride)
    memory, falls = [], []
    for sensor, start, end in found.histories:
        if sensor not in wander:
            continue
        center = centers[sensor]
        pairs = zip(_blocks(found.spreads, start, end - apart), _blocks(found.spreads, start + apart, end), strict=True)
        together = _sum((one - center) * (other - center) for one, other in pairs) / (end - start - apart)
        memory.append(together / np.maximum(_variance(found.spreads, start, end), FLOOR**2))
        falls.append((center - np.log(FAINT)) / np.maximum(np.sqrt(wander[sensor]), FLOOR))
    counts = (np.median(memory, axis=0) <= MEMORY) & (np.median(falls, axis=0) >= STANDS_OUT)
    return _partner("spread", centers, wander, counts)


def ends(data: Data, found: Contrasts) -> Ends | None:
    """Where the model has been, with some room: what comes is seldom all within what was.

    Of sensors with `RANGED` windows' lengths or more (of ``n`` that are alike, the next is the highest or the lowest
    with probability ``2 / (n + 1)``); the others may be wherever one of these was. None if there is none, or if the
    model has no residuals: then it counts anywhere.
    """
    if found.residuals is None:
        return None
    own = {}
    for sensor, start, end in found.histories:
        if end - start < RANGED * overlap(data.rules.length, data.rules.stride):
            continue
        extremes = [(block.min(axis=0), block.max(axis=0)) for block in _blocks(found.values.means, start, end)]
        low, high = np.min([low for low, _ in extremes], axis=0), np.max([high for _, high in extremes], axis=0)
        room = FLOOR + ROOM * (high - low)
        own[sensor] = Ends(_floats(low - room), _floats(high + room))
    if not own:
        return None
    lows, highs = (np.array([getattr(one, side) for one in own.values()]) for side in ("low", "high"))
    return Ends(_floats(lows.min(axis=0)), _floats(highs.max(axis=0)), own, found.latest)


def _lying(name: Literal["level", "bias"], data: Data, found: Contrasts, of: Steps, events: int) -> Partner | None:
    """Where each sensor's means of the latest steps lie, and how far they wander.

    Features count whose means vary by `MEMORY` of the variance of all steps at most, in the median sensor.
    """
    centers, wander = _places(data, found, of.means)
    if not wander:
        return None
    memory, still = [], STILL[name] ** 2
    for sensor, start, end in found.histories:
        if sensor not in wander:
            continue
        variance = _variance(of.newest, start, end) + _mean(of.within, start, end)
        share = _variance(of.means, start, end) / np.maximum(variance, still)
        memory.append(np.where(variance > still, share, np.nan))
    each = np.array(memory)  # (sensors, F)
    each[:, np.isnan(each).all(axis=0)] = 1.0  # what never moves has no level to wander from
    return _partner(name, centers, wander, np.nanmedian(each, axis=0) <= MEMORY, events)


def _places(data: Data, found: Contrasts, table: Table) -> tuple[dict[str, Float64], dict[str, Float64]]:
    """Where a contrast (n, F) lies, by sensor (F), and the square of how far it wanders, of sensors that tell (F).

    How far: the root mean square of the difference between windows that lie half of the sensor's history apart.
    """
    centers, wander = {}, {}
    for sensor, start, end in found.histories:
        centers[sensor] = _mean(table, start, end)
        half = (end - start) // 2
        if half < overlap(data.rules.length, data.rules.stride):
            continue  # the halves share events
        pairs = zip(_blocks(table, start + half, end), _blocks(table, start, end - half), strict=True)
        wander[sensor] = _sum((later - earlier) ** 2 for later, earlier in pairs) / (end - start - half)
    return centers, wander


def _partner(
    name: Literal["level", "bias", "spread"],
    centers: Mapping[str, Float64],
    wander: Mapping[str, Float64],
    counts: Bool,
    events: int = 0,
) -> Partner | None:
    """None if no feature counts. No sensor is taken to wander less than the median one."""
    if not counts.any():
        return None
    common = np.median(np.array(list(wander.values())), axis=0)
    own = {
        sensor: Normal(_floats(center), _floored(np.sqrt(np.maximum(wander.get(sensor, common), common))))
        for sensor, center in centers.items()
    }
    where = np.mean(list(centers.values()), axis=0)
    return Partner(name, Normal(_floats(where), _floored(np.sqrt(common))), own, tuple(counts.tolist()), events)


def partner_errors(data: Data, partner: Partner, found: Contrasts) -> Float64:
    """Errors of all windows that have contrasts, (n), by the functions that the service scores with; NaN of others."""
    errors = np.full(len(data.parts), np.nan)
    lie = {"level": found.values.means, "spread": found.spreads}
    if found.residuals is not None:
        lie["bias"] = found.residuals.means
    for sensor, start, end in found.histories:
        own = partner.own.get(sensor, partner.common)
        for at, to in _stretches(start, end):
            if partner.name == "change":
                off = deviations(ops.convert_to_tensor(found.jumps.get(at, to)), _row(own.deviation))  # (m, S, F)
                told = largest(*mean_size(off))[0]
            else:
                off = of_side(partner.name, ops.convert_to_tensor(lie[partner.name].get(at, to) - _row(own.center)))
                counted = np.asarray(partner.counts, np.float32)
                weight = ops.convert_to_tensor(counted / counted.sum())
                told = root_mean_square(deviations(off, _row(own.deviation)), weight)[0]
            errors[found.places[at:to]] = ops.convert_to_numpy(told)
    return errors


def _stretches(start: int, end: int) -> Iterator[tuple[int, int]]:
    for at in range(start, end, BLOCK):
        yield at, min(at + BLOCK, end)


def _blocks(table: Table, start: int, end: int) -> Iterator[Float64]:
    """Rows from one place to another, some at a time."""
    for at, to in _stretches(start, end):
        yield table.get(at, to).astype(np.float64)


def _sum(blocks: Iterable[Float64]) -> Float64:
    """Of the rows of all blocks (m, F): (F)."""
    total: Float64 = np.sum([block.sum(axis=0) for block in blocks], axis=0)
    return total


def _mean(table: Table, start: int, end: int) -> Float64:
    return _sum(_blocks(table, start, end)) / (end - start)


def _variance(table: Table, start: int, end: int) -> Float64:
    mean = _mean(table, start, end)
    return _sum((block - mean) ** 2 for block in _blocks(table, start, end)) / (end - start)


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

"""Thresholds that fall while nothing happens, so that a budget of alerts is spent on what stands out most.

Thresholds from training keep a budget on data like those of training. Where a sensor is calmer than it was then, less
is told than was asked for. So where somebody asked for a budget, a sensor's thresholds fall, so fast that they are
back where they told the last time when the next alert is due. They stay while something is told, for a window's length
at most, and then rise by `STEP` above the highest score of that: an online gradient step on the quantile (Gibbs and
Candès 2021, *Adaptive Conformal Inference Under Distribution Shift*; Angelopoulos et al. 2023, *Conformal PID Control
for Time Series Prediction*), of one side only: what reaches the thresholds of training is told, however much it is;
too much of it is what the limit is for (`policy.Alerts.limit`). Where the step leads above those, scores below them
are by the higher ones: so much calmer.

Who asks for more alerts than one in two windows' lengths gets them too, though some will be of events that were told
before. Then, and wherever what was told would not be calm for long enough to be over, thresholds rise sooner, while it
is still in view, and further.

A function of the sensor's windows alone, in whatever batches they come; stored beside the states of its alerts.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import msgspec
import numpy as np

from stream_detector.events import Errors, Windows
from stream_detector.groups import Grouped
from stream_detector.policy import APART, DAY, HELD, QUIET, Alerts, closest, ending

CALM = -math.log(Alerts().resolve_below)  # of a threshold's logarithm: so far above a score it is calm
STEP = 0.5  # likewise: what was just told is calm again
STEEP = CALM / (1 - QUIET)  # … and stays so for `QUIET` of the time until the threshold is back
LOWEST = 0.1  # of the threshold from training: below, nothing is worth telling, however long it has been quiet
HIGHEST = math.exp(STEEP)  # likewise: as far above what those of training had not told


class Pace(NamedTuple):
    """How thresholds move."""

    hold: float  # ms that they stay while something is told
    fall: float  # ms from then until they are back where they told it
    step: float  # how far they rise above it


def pace(alerts: Alerts, budget: float, view: int, step: float) -> Pace:
    """That of windows of ``view`` ms, one in ``step`` ms, for so many alerts a day, or as many as there can be."""
    due = max(DAY / budget, closest(alerts, step))
    fall = due - view  # what was told is in view for as long, and that is part of an alert's time
    if due >= APART * view and fall * (1 - CALM / STEP) >= ending(alerts, step):
        return Pace(view, fall, STEP)
    return Pace(HELD * due, (1 - HELD) * due, STEEP)


class Level(msgspec.Struct, array_like=True, frozen=True):
    """How far a sensor's thresholds have fallen."""

    at: int  # epoch ms
    log: float = 0.0  # at that time, of the share of its threshold from training; from that of `LOWEST` to `STEEP`
    top: float | None = None  # highest score of windows in a row that reach the threshold, the first of them `at`
    step: float = STEP  # by how much it falls until the next alert is due

    def fallen(self, ended: int, fall: float) -> float:
        """The logarithm for a window until ``ended`` (epoch ms), if in ``fall`` ms it falls by its step."""
        if self.top is not None:
            return self.log
        return max(math.log(LOWEST), self.log - self.step * (ended - self.at) / fall)

    def risen(self, ended: int, step: float) -> Level:
        """Above what was told; if training's thresholds told it, there."""
        log = 0.0 if self.top is None or self.top >= 1 else math.log(self.top) + step
        return Level(ended, log, step=max(step, log - self.log))


def after(level: Level | None, score: float, ended: int, how: Pace) -> tuple[Level, float]:
    """The level after one more window, and the share of its threshold that holds for this one.

    ``score`` is by the thresholds of training, ``ended`` epoch ms. A clock that was set back counts from there.
    """
    if level is None or ended < level.at:
        level = Level(ended) if level is None else msgspec.structs.replace(level, at=ended)
    if level.top is not None and level.at < ended - how.hold:
        level = level.risen(ended, how.step)
    log = level.fallen(ended, how.fall)
    share = _share(log)
    if score >= min(1.0, share):
        if level.top is None or score > level.top:
            level = Level(ended if level.top is None else level.at, log, score)
        return level, min(1.0, share)
    if level.top is not None:
        level = level.risen(ended, how.step)
        share = _share(level.log)
    return level, share


def _share(log: float) -> float:
    return float(np.float32(math.exp(log)))  # so that a score is 1 and more just where it reaches this


def fall(
    levels: MutableMapping[str, Level],
    windows: Windows,
    errors: Errors,
    alerts: Grouped[Alerts],
    stride: int,
    swept: Sequence[tuple[str, int]] = (),
) -> tuple[Errors, set[str]]:
    """The errors (n) by the thresholds that hold for each window, and sensors of which another level is known.

    ``windows`` are in the order of their offsets, a sensor's one in ``stride`` events. Sensors that were ``swept``
    after an offset are forgotten there.
    """
    if not levels and not any(isinstance(one.budget, float) for one in alerts.things):
        return errors, set()
    shares, touched = np.ones(len(windows), np.float32), set[str]()

    def forget(sensor: str) -> None:
        if levels.pop(sensor, None) is not None:
            touched.add(sensor)

    turns, apart = windows.in_turn(swept, forget), windows.values.shape[1] - 1  # of its first and last event
    each = zip(turns, windows.sensors, errors.score.tolist(), windows.timestamps.tolist(), strict=True)
    for at, sensor, score, (began, ended) in each:
        policy, before = alerts.of(sensor), levels.get(sensor)
        if not isinstance(policy.budget, float):
            forget(sensor)
            continue
        view = max(1, ended - began)
        how = pace(policy, policy.budget, view, stride * view / apart if apart else 0)
        levels[sensor], shares[at] = after(before, score, ended, how)
        if levels[sensor] is not before:
            touched.add(sensor)
    score, threshold = errors.score / shares, errors.threshold * shares
    return replace(errors, score=score, threshold=threshold, strength=errors.strengths), touched

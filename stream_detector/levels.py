"""Thresholds that fall while nothing happens, so that a budget of alerts is spent on what stands out most.

Thresholds from training keep a budget on data like those of training. Where a sensor is calmer than it was then, less
is told than was asked for. So where somebody asked for a budget, a sensor's thresholds fall, so fast that they are
back where they told the last time when the next alert is due. They stay while something is told, for a window's length
at most, and then rise by `STEP` above the highest score of that: an online gradient step on the quantile (Gibbs and
Candès 2021, *Adaptive Conformal Inference Under Distribution Shift*; Angelopoulos et al. 2023, *Conformal PID Control
for Time Series Prediction*), of one side only: what reaches the thresholds of training is told, however much it is;
too much of it is what the limit is for (`policy.Alerts.limit`). Where the step leads above those, scores below them
are by the higher ones: so much calmer.

A function of the sensor's windows alone, in whatever batches they come; stored beside the states of its alerts.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from stream_detector.events import Errors, Windows
from stream_detector.groups import Grouped
from stream_detector.policy import APART, DAY, Alerts

STEP = 0.5  # of a threshold's logarithm: what was just told is calm again, being below 0.7 of it (`resolve_below`)
LOWEST = 0.1  # of the threshold from training: below, nothing is worth telling, however long it has been quiet


class Level(msgspec.Struct, array_like=True, frozen=True):
    """How far a sensor's thresholds have fallen."""

    at: int  # epoch ms
    log: float = 0.0  # at that time, of the share of its threshold from training; from that of `LOWEST` to `STEP`
    top: float | None = None  # highest score of windows in a row that reach the threshold, the first of them `at`
    step: float = STEP  # by how much it falls until the next alert is due

    def fallen(self, began: int, ended: int, budget: float) -> float:
        """The logarithm for a window from ``began`` to ``ended`` (epoch ms); ``budget`` is alerts a day."""
        if self.top is not None:
            return self.log
        view = max(1, ended - began)  # what was told is in view for as long, and that is part of an alert's time
        due = max(DAY / budget, APART * view) - view
        return max(math.log(LOWEST), self.log - self.step * (ended - self.at) / due)

    def risen(self, ended: int) -> Level:
        """Above what was told; if training's thresholds told it, there."""
        log = 0.0 if self.top is None or self.top >= 1 else math.log(self.top) + STEP
        return Level(ended, log, step=max(STEP, log - self.log))


def after(level: Level | None, score: float, began: int, ended: int, budget: float) -> tuple[Level, float]:
    """The level after one more window, and the share of its threshold that holds for this one.

    ``score`` is by the thresholds of training. A clock that was set back counts from there.
    """
    if level is None or ended < level.at:
        level = Level(ended) if level is None else msgspec.structs.replace(level, at=ended)
    if level.top is not None and level.at < began:  # nothing of what it began with is in view
        level = level.risen(ended)
    log = level.fallen(began, ended, budget)
    share = _share(log)
    if score >= min(1.0, share):
        if level.top is None or score > level.top:
            level = Level(ended if level.top is None else level.at, log, score)
        return level, min(1.0, share)
    if level.top is not None:
        level = level.risen(ended)
        share = _share(level.log)
    return level, share


def _share(log: float) -> float:
    return float(np.float32(math.exp(log)))  # so that a score is 1 and more just where it reaches this


def fall(
    levels: MutableMapping[str, Level],
    windows: Windows,
    errors: Errors,
    alerts: Grouped[Alerts],
    swept: Sequence[tuple[str, int]] = (),
) -> tuple[Errors, set[str]]:
    """The errors (n) by the thresholds that hold for each window, and sensors of which another level is known.

    ``windows`` are in the order of their offsets. Sensors that were ``swept`` after an offset are forgotten there.
    """
    if not levels and not any(isinstance(one.budget, float) for one in alerts.things):
        return errors, set()
    shares, touched = np.ones(len(windows), np.float32), set[str]()

    def forget(sensor: str) -> None:
        if levels.pop(sensor, None) is not None:
            touched.add(sensor)

    turns = windows.in_turn(swept, forget)
    each = zip(turns, windows.sensors, errors.score.tolist(), windows.timestamps.tolist(), strict=True)
    for at, sensor, score, (began, ended) in each:
        budget, before = alerts.of(sensor).budget, levels.get(sensor)
        if not isinstance(budget, float):
            forget(sensor)
            continue
        levels[sensor], shares[at] = after(before, score, began, ended, budget)
        if levels[sensor] is not before:
            touched.add(sensor)
    score, threshold = errors.score / shares, errors.threshold * shares
    return replace(errors, score=score, threshold=threshold, strength=errors.strengths), touched

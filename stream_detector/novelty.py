"""A part of the score that learns on, of single metrics: how unlike all that a sensor showed lately a window is.

A model of one feature has no others to hold it against, and what it learnt is soon not how the metric behaves any more.
What a metric showed lately is: a window's distance is the mean of those to its nearest ones among all windows of the
sensor's events just before it (k nearest neighbours, of the past alone: Burnaev and Ishimtsev 2016, *Conformalized
density- and distance-based anomaly detection in time-series data*; Lu et al. 2022, *Matrix Profile XXIV*). Its
threshold is the highest distance of the windows before it. If those that come are like those that were, one of ``n``
is the highest with probability ``1 / n``, whatever they are like: this is how many windows make the budget.

The model has a say until enough windows are known, and no longer (docs/quality.md has the evidence). Its threshold
rises likewise to the highest of its scores among those windows: what was told is known.

All of it is a function of the sensor's last events, in whatever batches they came; it is stored beside the states of
alerts and moves with them. What was in the store and is lost comes back with the events that are read again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from stream_detector.contents import Novelty, Scaler
from stream_detector.events import PARTS, Errors, Float32, Windows, gathered
from stream_detector.groups import Grouped, Grouping
from stream_detector.memories import Head, Memories, Memory, Peak, from_chunk

READY = 0.25  # of the windows that a threshold is of: before so many are known, nothing is unlike them
AGAIN = 1 + 1e-6  # by more than this a number is higher than another, and not the same again
FLOOR = 1e-2  # smallest threshold, in scaled units: of a metric that never moves, rounding is no news
LIMIT = 1e4  # scaled values are cut here, as those that the model sees
PLACE = PARTS.index("novelty")


@dataclass(frozen=True, slots=True)
class Learner:
    """Judges windows of ``W`` events of one feature by what their sensors showed before."""

    novelty: Novelty
    scaler: Scaler
    length: int
    stride: int
    grouping: Grouping = field(default_factory=lambda: Grouping({}))  # of training

    @property
    def reach(self) -> int:
        """Events of a sensor before a window on which the window's verdict depends, at most."""
        windows = math.ceil(self.novelty.events / min(self.stride, self.length)) + self.most
        return self.length + self.stride * windows

    @property
    def most(self) -> int:
        """Windows that a threshold is of, at most."""
        return max(self.novelty.windows.values())

    def judge(
        self, memories: Memories, windows: Windows, errors: Errors, swept: Sequence[tuple[str, int]] = ()
    ) -> tuple[Errors, set[str]]:
        """The errors (n) with this part among the others, and the sensors of which another thing is known than before.

        ``windows`` are in the order of their offsets. Sensors that were ``swept`` after an offset are forgotten there.
        """
        touched = {sensor for sensor, _ in swept}
        part = np.zeros(len(windows), np.int8) if errors.part is None else errors.part.copy()
        usual = np.full(windows.values.shape, np.nan, np.float32)
        strength = errors.strengths.copy()
        told = replace(
            errors,
            score=errors.score.copy(),
            error=errors.error.copy(),
            threshold=errors.threshold.copy(),
            contributions=errors.contributions.copy(),
            worst_step=errors.worst_step.copy(),
            part=part,
            expected=usual,
            strength=strength,
        )
        for at, sensor in zip(windows.in_turn(swept, memories.forget), windows.sensors, strict=True):
            touched.add(sensor)
            before = memories.known.get(sensor) or self._begin(sensor)
            memories.known[sensor], expected = self._judge_one(before, sensor, windows, told, at)
            if expected is not None:
                told.contributions[at], part[at], usual[at, :, 0] = 1.0, PLACE, expected
                strength[at] = told.error[at] / self._highest_in_training(sensor)
        return told, touched

    def _begin(self, sensor: str) -> Memory:
        """What is known of a sensor that was not seen yet: what it showed in training."""
        return self.novelty.own.get(sensor, Memory())

    def _highest_in_training(self, sensor: str) -> float:
        """The threshold at its end, or a deviation of the values where there is none."""
        return max(FLOOR, _highest(self._begin(sensor).head.distances, 0) or 1.0)

    def _judge_one(
        self, memory: Memory, sensor: str, windows: Windows, told: Errors, at: int
    ) -> tuple[Memory, Float32 | None]:
        """The memory after one window, which is judged in its place in ``told``.

        And what was expected of it (W) if this part is the highest.
        """
        head, values = memory.head, memory.values
        window: Float32 = windows.values[at, :, 0]
        began, ended = windows.timestamps[at].tolist()
        fresh = min(self.stride, self.length) if began <= head.ended else self.length  # else it shares no events
        kept = len(values) - (self.length - fresh)  # the others are in the window itself
        past = values[max(0, kept - self.novelty.events) : max(0, kept)]
        count = self.novelty.windows.get(sensor, self.novelty.windows[""])
        rest = float(told.score[at])
        rise = max(1.0, AGAIN * _highest(head.scores, head.windows - count))
        told.score[at], told.threshold[at] = rest / rise, told.threshold[at] * rise
        distances, compared = head.distances, head.compared
        near, highest = self._nearest(past, window, sensor), None
        if near is not None:
            distance, expected = near
            threshold = max(FLOOR, AGAIN * _highest(distances, head.windows - count))
            if compared >= READY * count:
                told.score[at], told.error[at], told.threshold[at] = distance / threshold, distance, threshold
                told.worst_step[at] = np.abs(window - expected).argmax()
                highest = expected
            distances, compared = _with(distances, Peak(head.windows, distance), count), compared + 1
        scores = _with(head.scores, Peak(head.windows, rest), count)
        taken = head.taken + fresh
        values = np.concatenate([values, window[self.length - fresh :]])
        values = from_chunk(values, taken, taken - self.novelty.events - self.length)
        counts = taken, len(values), max(ended, head.ended), head.windows + 1, compared
        return Memory(Head(*counts, distances, scores), values.tobytes()), highest

    def _nearest(self, past: Float32, window: Float32, sensor: str) -> tuple[float, Float32] | None:
        """Mean distance (root mean square over the steps, scaled units) to the nearest of the past, and their mean.

        The mean (W) is in raw units. None if the past holds too few windows.
        """
        nearest = self.novelty.neighbours
        if len(past) < self.length + nearest - 1:
            return None
        own = self.scaler.of(sensor, self.grouping.name(sensor))
        center, scale = np.float32(own.center[0]), np.float32(own.scale[0])
        with np.errstate(over="ignore"):  # what overflows is cut
            seen, now = (np.clip((one - center) / scale, -LIMIT, LIMIT) for one in (past, window))
        every = np.lib.stride_tricks.sliding_window_view(seen, self.length)  # (m, W)
        off = every - now
        # Not by a product of matrices: each window's sum must not depend on how many there are.
        squares = np.einsum("ij,ij->i", off, off) / self.length
        chosen = np.argpartition(squares, nearest - 1)[:nearest]
        expected = every[chosen].mean(axis=0) * scale + center
        return float(np.sqrt(squares[chosen]).mean()), expected.astype(np.float32)


def _highest(peaks: Sequence[Peak], since: int) -> float:
    """The highest of the windows from this one on; 0 if there is none."""
    return next((peak.value for peak in peaks if peak.window >= since), 0.0)


def _with(peaks: Sequence[Peak], latest: Peak, count: int) -> tuple[Peak, ...]:
    """Those of the last ``count`` windows, the latest among them, that are higher than all later ones."""
    kept = list(peaks)
    while kept and kept[-1].value <= latest.value:
        kept.pop()
    since = latest.window - count
    return (*(peak for peak in kept if peak.window > since), latest)


def learn(
    learners: Grouped[Learner | None],
    memories: Memories,
    windows: Windows,
    errors: Errors,
    swept: Sequence[tuple[str, int]] = (),
) -> tuple[Errors, set[str]]:
    """`Learner.judge`, of each sensor's windows by its own; errors as they are where none learns on.

    Sensors that are gone are forgotten even if none learns any more: another bundle may have before.
    """
    if learners.things == [None] and not memories.known:
        return errors, set()
    parts, touched = [], set()
    for learner, places in learners.parted(windows.sensors):
        mine, gone = errors.take(places), [one for one in swept if learners.of(one[0]) is learner]
        if learner is not None:
            mine, theirs = learner.judge(memories, windows.take(places), mine, gone)
            touched |= theirs
        parts.append((places, mine))
    for sensor in {sensor for sensor, _ in swept} - touched:  # those whose learner has no windows here, or is none
        memories.forget(sensor)
        touched.add(sensor)
    if len(parts) == 1:
        return parts[0][1], touched
    order = np.argsort(np.concatenate([places for places, _ in parts]))
    return gathered([mine for _, mine in parts]).take(order), touched


def expected_by(errors: Errors, expected: Float32) -> Float32:
    """What was expected of windows (n, W, F): by the part that judged if it knows itself, else what is ``expected``."""
    if errors.expected is None:
        return expected
    return np.where(np.isnan(errors.expected), expected, errors.expected)

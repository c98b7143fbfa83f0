"""Which anomalous windows deviate as somebody wants to know: in which direction, by how much."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from stream_detector.events import Errors, Float32, Float64, Windows
from stream_detector.policy import Feature

# What was expected of windows with these errors, (n, W, F) in raw units; NaN where nothing was
Expect: TypeAlias = Callable[[Windows, Errors], Float32]
SIGNS = {"both": 0, "above_expected": 1, "below_expected": -1}


@dataclass(frozen=True, slots=True)
class Deviations:
    """What is wanted of each of ``F`` features."""

    sign: Float64  # (F) 1 above what was expected, -1 below, 0 either
    least: Float64  # (F) raw units
    ratio: Float64  # (F) of what was expected

    def counted(self, windows: Windows, errors: Errors, expect: Expect) -> Float32:
        """The scores (n); 0 for an anomalous window in which nothing deviates as is wanted.

        Of the window's worst step, as alerts tell it, and of the features with at least an even share of the score.
        A feature about which nothing was said may deviate in any way. The model is asked only about windows with a
        score of 1 and more.
        """
        at = np.flatnonzero(errors.score >= 1)
        if not len(at):
            return errors.score
        steps = errors.worst_step[at]
        expected = expect(windows.take(at), errors.take(at))[np.arange(len(at)), steps].astype(np.float64)  # (k, F)
        off = windows.values[at, steps] - expected
        towards = (self.sign == 0) | (self.sign * off > 0)
        wanted = towards & (np.abs(off) >= np.maximum(self.least, self.ratio * np.abs(expected)))
        shares = errors.contributions[at]
        even = np.minimum(shares.max(axis=1, keepdims=True), 1 / shares.shape[1])  # the largest may be rounded below it
        # What the model cannot say is no reason to keep quiet.
        deviant = ((wanted | ~np.isfinite(off)) & (shares >= even)).any(axis=1)
        scores = errors.score.copy()
        scores[at[~deviant]] = 0
        return scores


def deviations_of(features: Sequence[str], asked: Mapping[str, Feature]) -> Deviations | None:
    """None if nothing in particular is wanted."""
    if not any(one.particular for one in asked.values()):
        return None
    each = [asked.get(name, Feature()) for name in features]
    return Deviations(
        np.array([SIGNS[one.direction] for one in each], np.float64),
        np.array([one.min_deviation for one in each], np.float64),
        np.array([one.min_deviation_ratio for one in each], np.float64),
    )

"""Split-conformal thresholds: a bound on false alarms that needs no distribution, only that blocks are exchangeable.

Of ``n`` calibration scores and a new one that is like them, all orders are equally likely, so the new one's p-value
``(1 + number of those as large) / (n + 1)`` is at most ``alpha`` with a probability of at most ``alpha`` (Vovk,
Gammerman and Shafer 2005, *Algorithmic Learning in a Random World*, ch. 2; for anomalies Laxhammar and Falkman 2014,
*Online Learning and Sequential Anomaly Detection in Trajectories*; Angelopoulos and Bates 2023, *Conformal Prediction:
A Gentle Introduction*).

Errors of windows are not exchangeable: windows share events, and one odd event lifts many. Hence a score is the highest
error of a *block* of windows in which there is hardly more than one alert: neighbouring blocks share little, and a
block with any error above the threshold is a false alarm.
"""

from __future__ import annotations

import math

import numpy as np

from stream_detector.events import Float64

ABOVE = 1 + 1e-6  # a window is told whose error reaches the threshold: what is as high as allowed lies just below


def block_maxima(errors: Float64, block: int) -> Float64:
    """The highest error of each block of so many windows; errors (n) in time order, (n // block).

    What is left at the end is no block: its highest error is of fewer windows.
    """
    whole = len(errors) // block * block
    highest: Float64 = errors[:whole].reshape(-1, block).max(axis=1)
    return highest


def threshold_of(maxima: Float64, alpha: float) -> float:
    """The threshold that a block like these (n) reaches with a probability of at most `promised`.

    It is just above the ``ceil((1 - alpha) (n + 1))``-th smallest, or the highest if that is none of them. There is one
    block at least.
    """
    count = len(maxima)
    place = min(count, count + 1 - _told(count, alpha))
    return ABOVE * float(np.sort(maxima)[max(place, 1) - 1])


def promised(count: int, alpha: float) -> float:
    """The probability that ``count`` blocks can promise where ``alpha`` is wanted: ``1 / (count + 1)`` at least."""
    return max(1, _told(count, alpha)) / (count + 1)


def _told(count: int, alpha: float) -> int:
    """Of ``count + 1`` blocks, how many may be told."""
    return min(count, math.floor(min(alpha, 1.0) * (count + 1) + 1e-9))  # a product such as 0.29 * 100 is one of 29

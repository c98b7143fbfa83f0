"""What a window shows without a model: how far its last step jumped, and where its level lies.

Two cheap partners of the autoencoder, each a named part of the score beside it (``model``), each with a threshold of
its own. Both are a linear contrast of the window in scaled units, one number a feature, in units of its deviation on
normal windows:

``change``
    the last step minus the exponentially weighted mean of the steps before it (Roberts 1959, *Control Chart Tests
    Based on Geometric Moving Averages*): spikes, sudden shifts, losses. What goes on for long becomes what the next
    step is compared with, so that drift does not count. Its error is the mean size over the features.
``level``
    the window's mean minus the mean in training: a control chart of means (Shewhart 1931). Only of features that have
    next to no memory from one window to the next: the others wander, and of those the change tells more. Its error
    is the root mean square over those features.

An autoencoder's own error of the kind ``last_step`` is made likewise from its residuals: what they were just before
is no news, so that a bias, which comes with drift, does not count.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from keras import ops

from stream_detector.events import Float32

ALPHA = 0.3  # weight of the newest step in the mean of those before: a memory of about ten
MOST = 30.0  # deviations at most: beyond, one feature says no more, and several still do

Tensor: TypeAlias = Any  # of whichever backend runs


def taps(length: int) -> Float32:
    """Weights (W) of the steps of a window: 1 of the last, minus those of the mean before it, which sum to 1."""
    weights = np.ones(1)
    if length > 1:
        ages = np.arange(length - 1)[::-1]  # of the steps before the last: 0 is the newest
        before = ALPHA * (1 - ALPHA) ** ages
        before[0] = (1 - ALPHA) ** ages[0]  # the mean starts as the first step
        weights = np.append(-before, 1.0)
    return weights.astype(np.float32)


def jump(steps: Tensor) -> Tensor:
    """By how much the last step differs from what was before it: (n, W, F) to (n, F)."""
    return ops.tensordot(steps, ops.convert_to_tensor(taps(int(steps.shape[1]))), axes=[[1], [0]])


def deviations(contrast: Tensor, normal: Tensor) -> Tensor:
    """A contrast (n, F) in units of its normal deviation, (n, F) or (F), cut at `MOST`."""
    return ops.clip(contrast / normal, -MOST, MOST)


def mean_size(deviating: Tensor) -> tuple[Tensor, Tensor]:
    """Error (n), and each feature's share of it (n, F), not yet divided by their sum."""
    shares = ops.abs(deviating)
    return ops.mean(shares, axis=1), shares


def root_mean_square(deviating: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As `mean_size`; ``weight`` (F) is 1 over the number of features that count, 0 of others."""
    shares = ops.square(deviating)
    total = ops.mean(shares, axis=1) if weight is None else ops.sum(shares * weight, axis=1)
    return ops.sqrt(total), shares if weight is None else shares * weight

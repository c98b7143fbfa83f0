"""Partners of the autoencoder: how far a window's newest steps jumped, and where it and its residuals lie.

Each is a named part of the score beside the model's own error (``model``), with a threshold of its own, and costs next
to nothing. Each is a linear contrast of a window in scaled units, one number a feature, in units of its deviation on
normal windows:

``change``
    a step minus the exponentially weighted mean of the steps before it (Roberts 1959, *Control Chart Tests Based on
    Geometric Moving Averages*): spikes, sudden shifts, losses. What goes on for long becomes what the next step is
    compared with, so that drift does not count. Its error is the mean size over the features, of the step where this
    is largest. Only steps that no earlier window held are looked at, as many as the stride: each event counts once.
``level``
    the mean of the window's latest steps (of all, if the bundle does not say how many) minus the mean in training: a
    control chart of means (Shewhart 1931). Longer means would make ever smaller shifts stand out, and remember each for
    longer than it lasted. Only of features that have next to no memory from one such mean to the next: the others
    wander, and of those the change tells more. Its error is the root mean square over those features.
``bias``
    the same of the residuals of a model that returns a window, over the whole of it: they are off by little for long.
    Features that no longer go together as they did lie beside their reconstruction for as long as that lasts, even if
    each is where it may be. Again only of features whose residuals have next to no memory: what a model follows badly
    wanders.
``spread``
    by how much the logarithm of the standard deviation of the window's steps lies below its mean in training: a control
    chart of spreads, of the lower side (Shewhart 1931; of logarithms, in which a change is as large whatever it begins
    from: Crowder and Hamilton 1992, *An EWMA for Monitoring a Process Standard Deviation*). A rhythm that stops, of
    which a window shows several periods, leaves the mean where it was; what begins to move, the change tells. Only of
    features whose spread is so steady that one that stopped would stand out. Its error is made as that of ``level``.

Residuals count only where the model has been: if the mean of any feature, over as many steps, lies outside of what
training saw, they tell how a model extrapolates, and the errors of ``bias`` and of the model itself are 0. So is
that of ``spread``: a sensor that does something else may well do it more quietly.

An autoencoder's own error of the kind ``newest`` is made likewise from its residuals: what they were just before is
no news, so that a bias, which comes with drift, does not count.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from keras import ops

from stream_detector.events import Float32

ALPHA = 0.3  # weight of the newest step in the mean of those before: a memory of about ten
FAINT = 0.05  # in scaled units: what moves by less is as good as still
MOST = 30.0  # deviations at most: beyond, one feature says no more, and several still do

Tensor: TypeAlias = Any  # of whichever backend runs


def before(length: int, newest: int) -> Float32:
    """Weights (S, W) of the steps of a window in the mean that each of the ``S`` newest is compared with.

    A row sums to 1, or is 0 for a first step, which nothing is before.
    """
    weights = np.zeros((newest, length))
    for row, step in enumerate(range(length - newest, length)):
        if step:
            ages = np.arange(step)[::-1]  # 0 is the newest
            weights[row, :step] = ALPHA * (1 - ALPHA) ** ages
            weights[row, 0] = (1 - ALPHA) ** ages[0]  # the mean starts as the first step
    return weights.astype(np.float32)


def taps(length: int, newest: int) -> Float32:
    """Weights (S, W) of the steps in each jump: 1 of the step itself, minus those of `before`.

    A first step makes no jump, but in a window of one event, where it is all there is.
    """
    weights = -before(length, newest)
    for row, step in enumerate(range(length - newest, length)):
        weights[row, step] = 1.0 if step or length == 1 else 0.0
    return weights


def jumps(steps: Tensor, newest: int) -> Tensor:
    """By how much the newest steps differ from what was before each: (n, W, F) to (n, S, F)."""
    newest = min(newest, int(steps.shape[1]))
    weights = ops.convert_to_tensor(taps(int(steps.shape[1]), newest))
    return ops.transpose(ops.tensordot(steps, weights, axes=[[1], [1]]), (0, 2, 1))


def deviations(contrast: Tensor, normal: Tensor) -> Tensor:
    """A contrast in units of its normal deviation, which broadcasts with it, cut at `MOST`."""
    return ops.clip(contrast / normal, -MOST, MOST)


def latest(steps: Tensor, count: int) -> Tensor:
    """The mean (n, F) of so many last steps of windows (n, W, F); 0 is all of them."""
    return ops.mean(steps[:, -count:], axis=1)


def log_spread(steps: Tensor) -> Tensor:
    """The logarithm (n, F) of the standard deviation of the steps of windows (n, W, F), and of `FAINT` beside it."""
    return ops.log(ops.var(steps, axis=1) + FAINT**2) / 2


def of_side(name: str, off: Tensor) -> Tensor:
    """What counts of how far a part's contrast lies from its mean in training: of ``spread`` only what is below."""
    return ops.minimum(off, 0.0) if name == "spread" else off


def outside(means: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """1.0 for features whose mean (n, F) lies where training saw none, 0.0 for others."""
    return ops.cast(ops.logical_or(means < low, means > high), "float32")


def mean_size(deviating: Tensor) -> tuple[Tensor, Tensor]:
    """Errors of the last axis' F features, and each feature's share, not yet divided by their sum."""
    shares = ops.abs(deviating)
    return ops.mean(shares, axis=-1), shares


def root_mean_square(deviating: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As `mean_size`; ``weight`` (F) is 1 over the number of features that count, 0 of others."""
    shares = ops.square(deviating)
    if weight is None:
        return ops.sqrt(ops.mean(shares, axis=-1)), shares
    return ops.sqrt(ops.sum(shares * weight, axis=-1)), shares * weight


def largest(errors: Tensor, shares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of errors (n, S) and shares (n, S, F): the largest error (n), its shares (n, F), and its place in S (n)."""
    at = ops.argmax(errors, axis=1)
    chosen = ops.one_hot(at, errors.shape[1])  # (n, S)
    # Not by multiplication: what is not a number at one step must not become the others'.
    return ops.max(errors, axis=1), ops.sum(ops.where(ops.expand_dims(chosen, 2) > 0, shares, 0.0), axis=1), at

"""What is computed on the device, as programs over a model: scores, residuals and reconstructions.

A program takes the model, what the tables on the device say of each window, and raw windows. How a window's error is
made depends on what the model returns.

A window (Malhotra et al. 2016, *LSTM-based Encoder-Decoder for Multi-sensor Anomaly Detection*). With the
residual ``r = x̂ - x`` of each step in scaled units, its mean ``μ`` and covariance ``Σ`` on normal windows:

===========  ======================  =======================  ===================================
kind         step error ``s[t]``     window error             share of feature ``f`` at ``t``
===========  ======================  =======================  ===================================
mahalanobis  ``(r-μ)ᵀ Σ⁻¹ (r-μ)``    ``sqrt(mean_t(s) / F)``  ``max((r-μ)_f (Σ⁻¹ (r-μ))_f, 0)``
mse          ``Σ_f r²``              ``mean_t(s) / F``        ``r²``
mae          ``Σ_f |r|``             ``mean_t(s) / F``        ``|r|``
newest       ``sqrt(mean_f(z²))``    ``max_t(s)``             ``z²`` where ``s`` is largest
===========  ======================  =======================  ===================================

``newest`` (the default) looks at the events that no earlier window held: ``z`` is by how much a residual differs from
those just before it, in deviations of this difference on normal windows of the same sensor (`adapters.keras.partners`).

The score's parts are the model's error and those of its partners, each divided by its own threshold; the largest is
the score, and the part that it is from is told with it.

A residual of the model's own, ``D`` wide and one a window: the same errors, of one step with ``D`` in the place
of ``F``. A probability ``p`` of anomaly: ``ln(1 + (p / (1 - p))^¼)``, made from the log-odds themselves. It rises
with ``p`` and is never 0, and where the log-odds of normal windows have an exponential tail, as they usually do, it
has one that the extreme-value fit can follow; ``p`` itself is crowded at 0 and 1, and log-odds may be negative.

The shares of those two are ``|x · ∂error/∂x|``, for each feature at each step (gradient times input: Shrikumar et
al. 2016, *Not Just a Black Box*; after the saliency of Simonyan et al. 2014, *Deep Inside Convolutional Networks*).
Where a model is saturated, as by readings of thousands of deviations, gradients vanish and the shares are even.

The worst step is the one with the largest ``s[t]``, or with the largest sum of shares. Contributions are the shares,
averaged over the steps and divided by their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from keras import ops

from stream_detector.adapters.keras.partners import (
    deviations,
    jumps,
    largest,
    latest,
    log_spread,
    mean_size,
    of_side,
    outside,
    root_mean_square,
)
from stream_detector.contents import ErrorKind, ErrorStatistics, Output
from stream_detector.events import LASTING, LOCAL, PartName

LIMIT = 1e4  # scaled inputs are cut here, so that no reading, however absurd, makes an error infinite
TEMPER = 4.0  # the root taken of the odds: their tail becomes so much lighter

Tensor: TypeAlias = Any  # of whichever backend runs
Parts: TypeAlias = tuple[Tensor, Tensor, Tensor]  # errors (n), step errors (n, W), shares (n, W, F)
# With a row for each of n windows: center, scale, low, high (n, F), deviation (n, D), thresholds (n, parts), and of
# each partner NAME_center, NAME_deviation (n, F); of all: mean (D), whitening (D, D), NAME_weight (F)
Tables: TypeAlias = dict[str, Tensor]
# The model in scaled units: from (n, W, F) to a window (n, W, F), a residual (n, D), or the log-odds of anomaly (n, 1)
Call: TypeAlias = Callable[[Tensor], Tensor]
Program: TypeAlias = Callable[[Call, Tables, Tensor], Tensor]


def scaled(tables: Tables, values: Tensor) -> Tensor:
    """Raw windows (n, W, F) as the model sees them."""
    center, scale = (ops.expand_dims(tables[name], 1) for name in ("center", "scale"))  # (n, 1, F)
    return ops.clip((values - center) / scale, -LIMIT, LIMIT)


def newest(residual: Tensor, tables: Tables, stride: int) -> Parts:
    """By how much the newest residuals differ from those before them, at the step where this is most."""
    normal = ops.expand_dims(tables["deviation"], 1)  # (n, 1, F)
    each, of_features = root_mean_square(deviations(jumps(residual, stride), normal))  # (n, S), (n, S, F)
    error, shares, _ = largest(each, of_features)
    old = ops.zeros_like(residual[:, : residual.shape[1] - each.shape[1], 0])  # (n, W - S)
    return error, ops.concatenate([old, each], axis=1), ops.expand_dims(shares, 1)


def mahalanobis(residual: Tensor, tables: Tables, stride: int) -> Parts:
    """Distance from the normal residuals; of about 1 where residuals are as on normal windows."""
    centered = residual - tables["mean"]  # (n, W, F)
    white = ops.matmul(centered, tables["whitening"])  # (n, W, F), so that its square is the squared distance
    steps = ops.sum(ops.square(white), axis=2)  # (n, W)
    shares = ops.relu(centered * ops.matmul(white, ops.transpose(tables["whitening"])))  # (n, W, F)
    return ops.sqrt(ops.mean(steps, axis=1) / residual.shape[2]), steps, shares


def mse(residual: Tensor, tables: Tables, stride: int) -> Parts:
    """Mean squared residual."""
    shares = ops.square(residual)  # (n, W, F)
    return ops.mean(shares, axis=(1, 2)), ops.sum(shares, axis=2), shares


def mae(residual: Tensor, tables: Tables, stride: int) -> Parts:
    """Mean absolute residual."""
    shares = ops.abs(residual)  # (n, W, F)
    return ops.mean(shares, axis=(1, 2)), ops.sum(shares, axis=2), shares


ERRORS: dict[str, Callable[[Tensor, Tables, int], Parts]] = {
    "newest": newest,
    "mahalanobis": mahalanobis,
    "mse": mse,
    "mae": mae,
}


def residual_parts(kind: ErrorKind, stride: int) -> Callable[[Call, Tables, Tensor], Parts]:
    """The parts of models that return a residual (n, D)."""

    def parts(call: Call, tables: Tables, seen: Tensor) -> Parts:
        def error(seen: Tensor) -> tuple[Tensor, Tensor]:
            found, steps, _ = ERRORS[kind](ops.expand_dims(call(seen), 1), tables, stride)  # (n), (n, 1)
            return steps[:, 0], found  # a root has no gradient at 0, and no part in the shares

        return _attributed(error, seen)

    return parts


def probability_parts(call: Call, tables: Tables, seen: Tensor) -> Parts:
    """The parts of models that return log-odds (n, 1)."""

    def error(seen: Tensor) -> tuple[Tensor, Tensor]:
        odds = call(seen)[:, 0]  # (n)
        return odds, ops.softplus(odds / TEMPER)  # both have the same shares, and the log-odds never vanish

    return _attributed(error, seen)


def _attributed(error: Callable[[Tensor], tuple[Tensor, Tensor]], seen: Tensor) -> Parts:
    """Errors with shares by gradient times input; ``error`` gives what to derive (n), and the error (n) itself."""
    found, slope = _gradient(error, seen)  # (n), (n, W, F)
    shares = ops.abs(seen * slope)  # (n, W, F)
    return found, ops.sum(shares, axis=2), shares


def _gradient(function: Callable[[Tensor], tuple[Tensor, Tensor]], at: Tensor) -> tuple[Tensor, Tensor]:
    """The second of the function's results, and the gradient of the sum of the first: windows do not mix."""
    if keras.backend.backend() == "jax":  # Keras has no gradient of its own
        import jax

        value, pull, other = jax.vjp(function, at, has_aux=True)
        return other, pull(ops.ones_like(value))[0]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(at)
        value, other = function(at)
    return other, tape.gradient(value, at)


def change(seen: Tensor, tables: Tables, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Error (n), shares (n, F) and the step (n) of the largest jump among the newest."""
    normal = ops.expand_dims(tables["change_deviation"], 1)  # (n, 1, F)
    error, shares, at = largest(*mean_size(deviations(jumps(seen, stride), normal)))
    return error, shares, at + (seen.shape[1] - stride)


def lying(of: Tensor, tables: Tables, name: str, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Error (n) and shares (n, F) of where ``of`` (n, F) lies; the step (n) is the last of the window."""
    off = of - tables[f"{name}_center"]
    normal = tables[f"{name}_deviation"]
    error, shares = root_mean_square(deviations(of_side(name, off), normal), tables[f"{name}_weight"])
    return error, shares, ops.full_like(ops.argmax(shares, axis=1), length - 1)


def where_known(strange: Tensor, partners: Sequence[str]) -> Tensor:
    """0.0 for the parts that count only where the model has been, in windows with strange features (n, F), else 1.0.

    Of each part: (n, parts).
    """
    known = 1.0 - ops.max(strange, axis=1, keepdims=True)  # (n, 1)
    only_there = np.array([name in LOCAL for name in ("model", *partners)])
    return ops.where(only_there, known, 1.0)


class Way(NamedTuple):
    """All that tells one program that scores from another: what is not in the tables."""

    output: Output
    kind: ErrorKind
    partners: tuple[tuple[PartName, int], ...]  # with how many events each looks at, 0 for all
    known_by: int  # likewise, where the model has been
    stride: int


def way_of(output: Output, errors: ErrorStatistics, stride: int) -> Way:
    """How windows of a bundle are scored."""
    partners = tuple((one.name, one.events) for one in errors.partners)
    return Way(output, errors.kind, partners, errors.ends.events if errors.ends else 0, stride)


def score_by(way: Way) -> Program:
    """The program that scores; results stand side by side, to come back to the host in one transfer."""
    output, kind, _, known_by, stride = way
    parts = probability_parts if output == "probability" else residual_parts(kind, stride)
    looks_at = dict(way.partners)
    partners = list(looks_at)

    def score(call: Call, tables: Tables, values: Tensor) -> Tensor:
        seen = scaled(tables, values)
        strange = outside(latest(seen, known_by), tables["low"], tables["high"])  # (n, F)
        of = {"level": lambda: latest(seen, looks_at["level"]), "spread": lambda: log_spread(seen)}
        if output == "window":
            residual = call(seen) - seen
            of["bias"] = lambda: latest(residual, looks_at["bias"])
            error, steps, shares = ERRORS[kind](residual, tables, stride)
        else:
            error, steps, shares = parts(call, tables, seen)
        beside = [
            change(seen, tables, stride) if name == "change" else lying(of[name](), tables, name, int(seen.shape[1]))
            for name in partners
        ]
        every = ops.stack([error, *(one for one, _, _ in beside)], axis=1)  # (n, parts)
        if output == "window":
            every = every * where_known(strange, partners)
        weights = ops.stack([ops.mean(shares, axis=1), *(one for _, one, _ in beside)], axis=1)  # (n, parts, F)
        worst = ops.stack([ops.argmax(steps, axis=1), *(at for _, _, at in beside)], axis=1)  # (n, parts)
        thresholds = tables["thresholds"]  # (n, parts)
        told = highest(every, thresholds, worst, weights)
        lasting = lasting_parts(partners)
        if not any(lasting):
            return ops.concatenate([told, strange], axis=1)
        others = np.flatnonzero(~np.array(lasting))
        without = highest(*(ops.take(one, others, axis=1) for one in (every, thresholds, worst, weights)))
        held = ops.max(ops.take(every / thresholds, np.flatnonzero(lasting), axis=1), axis=1, keepdims=True)  # (n, 1)
        return ops.concatenate([told, strange, without, held], axis=1)

    return score


def lasting_parts(partners: Sequence[str]) -> list[bool]:
    """Of each part of the score, the model's first, whether it stays high for as long as a shift lasts."""
    return [False, *(name in LASTING for name in partners)]


def columns(errors: ErrorStatistics, features: int) -> int:
    """How many numbers `score_by` gives a window of so many features: those of `highest`, and which are outside.

    Where a part lasts, also those of the highest that does not, and the score of the highest that does.
    """
    one = 5 + features
    return one + features + (one + 1 if any(lasting_parts([one.name for one in errors.partners])) else 0)


def highest(errors: Tensor, thresholds: Tensor, worst: Tensor, weights: Tensor) -> Tensor:
    """The part with the highest score, (n, 5 + F): score, error, threshold, worst step, part, contributions.

    Of errors, thresholds and worst steps (n, parts), and features' weights (n, parts, F).
    """
    scores = errors / thresholds
    part = ops.argmax(scores, axis=1)  # (n)
    chosen = ops.one_hot(part, scores.shape[1])  # (n, parts)
    weight = ops.sum(ops.where(ops.expand_dims(chosen, 2) > 0, weights, 0.0), axis=1)  # (n, F)
    total = ops.sum(weight, axis=1, keepdims=True)  # (n, 1)
    even = ops.ones_like(weight) / weight.shape[1]  # of an error of nothing
    contributions = ops.where(total > 0, weight / ops.where(total > 0, total, 1.0), even)
    told = [
        # Any part that is not a number makes the whole so: the device failed, or the window is none.
        ops.max(scores, axis=1) + 0.0 * ops.sum(scores, axis=1),
        ops.sum(ops.where(chosen > 0, errors, 0.0), axis=1),
        ops.sum(ops.where(chosen > 0, thresholds, 0.0), axis=1),
        ops.sum(ops.where(chosen > 0, ops.cast(worst, "float32"), 0.0), axis=1),  # exact below 2**24
        ops.cast(part, "float32"),
    ]
    return ops.concatenate([ops.stack(told, axis=1), contributions], axis=1)


def residuals_of(output: Output) -> Program:
    """The program behind error statistics: ``x̂ - x`` in scaled units, (n, W, F), or the model's own, (n, D)."""

    def residuals(call: Call, tables: Tables, values: Tensor) -> Tensor:
        seen = scaled(tables, values)
        return call(seen) - seen if output == "window" else call(seen)

    return residuals


def embedded(call: Call, tables: Tables, values: Tensor) -> Tensor:
    """The program behind embeddings: the code as rows, (n, D), of a ``call`` that stops at it."""
    return ops.reshape(call(scaled(tables, values)), (values.shape[0], -1))


def expected(call: Call, tables: Tables, values: Tensor) -> Tensor:
    """The program behind pictures and alerts: ``x̂`` in raw units, (n, W, F). Of models that return a window."""
    center, scale = (ops.expand_dims(tables[name], 1) for name in ("center", "scale"))  # (n, 1, F)
    return call(scaled(tables, values)) * scale + center

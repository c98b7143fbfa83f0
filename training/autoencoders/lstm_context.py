"""LSTM context model: no sequence is decoded; a small net guesses the encoder's own output through a bottleneck.

The encoder's last output is the window's context. Dense layers squeeze it to the code and predict it again;
how far the prediction is off is the error. The target is learnt too, and that invites collapse: an encoder that
says the same of every window is predicted perfectly. Chen and He 2021 (*Exploring Simple Siamese Representation
Learning*) stop the gradient of the target against it; `trainer` says why that is an option here and not the
default.

What follows from the architecture: the prediction's sigmoid lies in (0, 1), the LSTM's output in (-1, 1). The
negative parts of a context cannot be predicted, so the loss has a floor until the encoder has learnt to be
positive, and a residual is judged by its mean and covariance on normal windows, never by its raw size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Literal

import keras
import numpy as np
from keras import initializers, layers, ops

from stream_detector.errors import DataError
from stream_detector.events import Float32
from training.autoencoders.lesson import Lesson, Taught

SCALING: Literal["standard", "unit"] = "standard"
LOSS = "mse"  # of the residual against 0; the trainer takes no target
LEARNING_RATE = 1e-3
UNITS = (100, 100, 32)  # encoder; hidden layer; code. The prediction is as wide as the encoder
OUTPUT: Literal["window", "residual", "probability"] = "residual"
COLLAPSED = 1e-6  # share of the contexts' first variance: at a thousandth of the deviation float32's rounding shows


def build(length: int, features: int, units: Sequence[int] = UNITS, seed: int = 0) -> Any:
    """An uncompiled model from (n, W, F), standardised, to the residual (n, units[0]): prediction minus context.

    ``units`` are those of encoder, hidden layers and, at last, the code. Weights depend on ``seed`` alone.
    Raises `ValueError` for sizes below 1 or fewer than two units.
    """
    if min([length, features, *units], default=0) < 1 or len(units) < 2:
        raise ValueError(f"length {length}, features {features} and units {tuple(units)} must be 1 or more, 2 units")
    seeds = count(seed)  # two layers of one shape must not start with the same weights

    def dense(size: int, activation: str, name: str) -> Any:
        glorot = initializers.GlorotUniform(seed=next(seeds))
        return layers.Dense(size, activation=activation, kernel_initializer=glorot, name=name)

    window = keras.Input((length, features), name="window")  # (n, W, F)
    context = layers.LSTM(
        units[0],
        kernel_initializer=initializers.GlorotUniform(seed=next(seeds)),
        recurrent_initializer=initializers.Orthogonal(seed=next(seeds)),
        name="context",
    )(window)  # (n, units[0])
    flow = context
    for depth, size in enumerate(units[1:-1], 1):
        flow = dense(size, "relu", f"hidden_{depth}")(flow)  # (n, size)
    code = dense(units[-1], "relu", "code")(flow)  # (n, D)
    prediction = dense(units[0], "sigmoid", "prediction")(code)  # (n, units[0])
    return keras.Model(window, layers.Subtract(name="residual")([prediction, context]), name="lstm_context")


def predictor(model: Any) -> Any:
    """The same layers from (n, W, F) to the prediction of the context, (n, units[0])."""
    return keras.Model(model.input, model.get_layer("prediction").output, name="predictor")


def encoder(model: Any) -> Any:
    """The same layers from (n, W, F) to the context, (n, units[0])."""
    return keras.Model(model.input, model.get_layer("context").output, name="encoder")


def lesson(model: Any, stop_gradient: bool = False) -> Lesson:
    """Mean squared residual: the prediction from the window that is shown against the context of the clean one.

    The target is within the model: whatever else is given is ignored. For ``stop_gradient`` see `trainer`.
    """
    both = keras.Model(model.input, [model.get_layer("prediction").output, model.get_layer("context").output])
    target = encoder(model)

    def restore(shown: Any, clean: Any, training: bool) -> Any:
        prediction, context = both(shown, training=training)  # (n, units[0]) each
        if shown is not clean:
            context = target(clean, training=training)
        return prediction - (ops.stop_gradient(context) if stop_gradient else context)

    return Lesson(restore, lambda _, residual: ops.mean(ops.square(residual)))


def trainer(model: Any, stop_gradient: bool = False) -> Any:
    """The model to fit; the scoring model holds what it learns.

    The default is the plain loss. Contexts of normal windows then draw together, as in a one-class net (Ruff et
    al. 2018, *Deep One-Class Classification*), those of other windows less, and residuals judged by their own
    covariance tell them apart ever better (on waves, by ROC AUC 0.95 to 0.99 while the contexts' variance fell
    to 3e-4 of the first). `check_collapse` tells when nothing is left. With ``stop_gradient`` the target has no
    part in the gradient, but nothing holds it either: at the default sizes it ran away to the LSTM's limits
    (variance 46 times the first), the loss rose and detection was worse (0.65).
    """
    return Taught(model, lesson(model, stop_gradient))


def spread(model: Any, values: Float32) -> float:
    """Variance of the contexts over windows (n, W, F), averaged over the units; 0 where all say the same."""
    contexts = np.asarray(encoder(model).predict(values, verbose=0), np.float64)  # (n, units[0])
    return float(contexts.var(axis=0).mean())


def check_collapse(model: Any, values: Float32, before: float, share: float = COLLAPSED) -> float:
    """The spread over windows (n, W, F) now, in shares of what it was ``before`` fitting (`spread`).

    Raises `DataError` where less than ``share`` is left: such a model finds every window normal.
    """
    left = spread(model, values) / before if before > 0 else 0.0
    if not left >= share:  # a NaN is no spread either
        raise DataError(
            f"the encoder collapsed: its output varies {left:.2g} times as much over windows as before training, "
            f"{share:g} is the least; train for fewer epochs or at a lower learning rate"
        )
    return left


def watch(model: Any, values: Float32) -> Callable[[], float]:
    """What to call once the model is fitted: `check_collapse` over windows (n, W, F) against their spread now."""
    before = spread(model, values)
    return lambda: check_collapse(model, values, before)

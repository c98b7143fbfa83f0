"""Dense autoencoders: a window (or, with a length of 1, one row of a table) through a narrow layer and back.

`build`: Hinton & Salakhutdinov 2006, *Reducing the Dimensionality of Data with Neural Networks*; outliers by
reconstruction error: Hawkins et al. 2002, *Outlier Detection Using Replicator Neural Networks*. Initialisers:
Glorot & Bengio 2010. `build_l2`: one hidden layer whose activity costs (Goodfellow et al. 2016, *Deep
Learning*, 14.2.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import keras
from keras import initializers, layers, regularizers

UNITS = (1024, 8, 4, 3)  # the paper's, for rows of 1602 features
SCALING = "unit"  # the sigmoid at the end reaches 0..1 and nothing else
LOSS = "binary_crossentropy"
METRICS = ("mse",)
LEARNING_RATE = 1e-4

L2_UNITS = (8,)
L2_SCALING = "unit"  # the ReLU at the end reaches nothing below 0
L2_LOSS = "mse"
L2_LEARNING_RATE = 1e-3  # Adam's own
L2_ACTIVITY = 1e-4  # written 10e-5 in the source


def build(length: int, features: int, units: Sequence[int] = UNITS, seed: int = 0, use_bias: bool = True) -> Any:
    """An uncompiled model from (n, W, F) to (n, W, F): leaky ReLU, a sigmoid at the end, for values in 0..1.

    ``units`` are the encoder's layers from the input on, the code included; the decoder mirrors them. Without
    ``use_bias`` a layer has as many parameters as its mirror. Weights depend on ``seed`` alone. Raises
    `ValueError` for sizes below 1.
    """
    _check(length, features, units)
    seeds = count(seed)  # two layers of one shape must not start with the same weights

    def dense(size: int, activation: str, name: str) -> Any:
        start = initializers.GlorotNormal(seed=next(seeds))
        return layers.Dense(size, activation, use_bias=use_bias, kernel_initializer=start, name=name)

    window = keras.Input((length, features), name="window")  # (n, W, F)
    flow = layers.Flatten(name="row")(window)  # (n, W·F)
    for depth, size in enumerate(units[:-1], 1):
        flow = dense(size, "leaky_relu", f"encoder_{depth}")(flow)  # (n, size)
    flow = dense(units[-1], "leaky_relu", "code")(flow)  # (n, D)
    for depth, size in reversed(list(enumerate(units[:-1], 1))):
        flow = dense(size, "leaky_relu", f"decoder_{depth + 1}")(flow)  # (n, size)
    flow = dense(length * features, "sigmoid", "decoder_1")(flow)  # (n, W·F)
    return keras.Model(window, layers.Reshape((length, features), name="reconstruction")(flow), name="dense")


def build_l2(
    length: int, features: int, units: Sequence[int] = L2_UNITS, seed: int = 0, activity: float = L2_ACTIVITY
) -> Any:
    """An uncompiled model from (n, W, F) to (n, W, F): Dense ReLU there and back, for values of 0 and more.

    The code pays ``activity`` times the sum of its squares, on average over the batch: Keras adds that to the
    loss while training; scoring ignores it. With more than one of ``units`` the decoder mirrors them. Weights
    depend on ``seed`` alone. Raises `ValueError` for sizes below 1.
    """
    _check(length, features, units)
    seeds = count(seed)

    def dense(size: int, name: str, **options: Any) -> Any:
        start = initializers.GlorotUniform(seed=next(seeds))
        return layers.Dense(size, "relu", kernel_initializer=start, name=name, **options)

    window = keras.Input((length, features), name="window")  # (n, W, F)
    flow = layers.Flatten(name="row")(window)  # (n, W·F)
    for depth, size in enumerate(units[:-1], 1):
        flow = dense(size, f"encoder_{depth}")(flow)  # (n, size)
    flow = dense(units[-1], "code", activity_regularizer=regularizers.L2(activity))(flow)  # (n, D)
    for depth, size in reversed(list(enumerate(units[:-1], 1))):
        flow = dense(size, f"decoder_{depth + 1}")(flow)  # (n, size)
    # Codes are never negative, so about half of the outputs would start below 0 for every window and never learn:
    # they start in the middle of the values instead.
    middle = initializers.Constant(0.5)
    flow = dense(length * features, "decoder_1", bias_initializer=middle)(flow)  # (n, W·F)
    return keras.Model(window, layers.Reshape((length, features), name="reconstruction")(flow), name="dense_l2")


def _check(length: int, features: int, units: Sequence[int]) -> None:
    if min([length, features, *units], default=0) < 1 or not units:
        raise ValueError(f"length {length}, features {features} and units {tuple(units)} must be 1 or more")

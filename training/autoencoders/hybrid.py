"""Models that predict: ``aer``, which reconstructs and predicts, and ``forecast``, which predicts alone.

``aer``: Wong et al. 2022, *AER: Auto-Encoder with Regression for Time Series Anomaly Detection*. A
bidirectional LSTM reads a window without its first and last step, predicts both, backward and forward, and
reconstructs what lies between. Its losses are weighed ``reg_ratio / 2``, ``1 - reg_ratio``, ``reg_ratio / 2``.

``forecast``: Malhotra et al. 2015, *Long Short Term Memory Networks for Anomaly Detection in Time Series*,
one step ahead: each step is predicted from the steps before it. Without a decoder it has about two fifths of the
parameters of an encoder-decoder; its steps are as many, so that it is little faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, Literal

import keras
import numpy as np
from keras import initializers, layers, ops

from training.autoencoders.lesson import Lesson, Taught, plain

SCALING: Literal["standard", "unit"] = "standard"  # of both
LOSS = "mse"
LEARNING_RATE = 1e-3
UNITS = (30,)  # of aer, as published
FORECAST_UNITS = (100,)
OUTPUT: Literal["window", "residual", "probability"] = "window"
REG_RATIO = 0.5  # share of the two predictions in the loss of aer


def aer(length: int, features: int, units: Sequence[int] = UNITS, seed: int = 0) -> Any:
    """An uncompiled model from (n, W, F), standardised, to (n, W, F).

    Step 0 of the output is predicted from the steps after it, step W-1 from those before, the rest is
    reconstructed; the input's first and last step reach no output. Needs three steps. ``units`` are the
    encoder's layers of each direction; the decoder mirrors them. Weights depend on ``seed`` alone. Raises
    `ValueError` for sizes that are too small.
    """
    _check(length, features, units, 3)
    seeds = count(seed)

    def both_ways(size: int, sequences: bool, name: str) -> Any:
        # A backward layer made by Keras would be a copy of the forward one, its seeds and so its weights too.
        forward, backward = (_lstm(size, sequences, f"{name}_{way}", seeds, way == "back") for way in ("on", "back"))
        return layers.Bidirectional(forward, backward_layer=backward, name=name)

    window = keras.Input((length, features), name="window")  # (n, W, F)
    flow = layers.Cropping1D((1, 1), name="middle")(window)  # (n, W - 2, F)
    for depth, size in enumerate(units, 1):
        last = depth == len(units)
        flow = both_ways(size, not last, "code" if last else f"encoder_{depth}")(flow)  # at last (n, 2 size)
    flow = layers.RepeatVector(length, name="repeated")(flow)  # (n, W, 2 size)
    for depth, size in reversed(list(enumerate(units, 1))):
        flow = both_ways(size, True, f"decoder_{depth}")(flow)  # (n, W, 2 size)
    return keras.Model(window, _features(features, seeds, flow), name="aer")  # (n, W, F)


def forecast(length: int, features: int, units: Sequence[int] = FORECAST_UNITS, seed: int = 0) -> Any:
    """An uncompiled model from (n, W, F), standardised, to (n, W, F), each step predicted from those before.

    Nothing comes before step 0: its output is its input, and its residual 0. The code is the last layer's
    output at the last step that it sees, W-2. Needs two steps. Weights depend on ``seed`` alone. Raises
    `ValueError` for sizes that are too small.
    """
    _check(length, features, units, 2)
    seeds = count(seed)
    window = keras.Input((length, features), name="window")  # (n, W, F)
    flow = layers.Cropping1D((0, 1), name="before_the_last")(window)  # (n, W - 1, F)
    for depth, size in enumerate(units, 1):
        flow = _lstm(size, True, f"encoder_{depth}", seeds)(flow)  # (n, W - 1, size)
    # The last step takes a way of its own, so that the code is a layer of the model.
    code = layers.Reshape((units[-1],), name="code")(layers.Cropping1D((length - 2, 0))(flow))  # (n, size)
    last = layers.Reshape((1, units[-1]))(code)  # (n, 1, size)
    if length > 2:
        last = layers.Concatenate(axis=1)([layers.Cropping1D((0, 1))(flow), last])  # (n, W - 1, size)
    predicted = _features(features, seeds, last, "prediction")  # (n, W - 1, F)
    first = layers.Cropping1D((0, length - 1), name="first")(window)  # (n, 1, F)
    return keras.Model(window, layers.Concatenate(axis=1, name="reconstruction")([first, predicted]), name="forecast")


def aer_lesson(model: Any, reg_ratio: float = REG_RATIO) -> Lesson:
    """Mean squared errors of the steps (W), weighed.

    ``reg_ratio / 2`` of the backward, ``1 - reg_ratio`` of the reconstruction's and ``reg_ratio / 2`` of the forward
    error. A plain mean over W steps would all but ignore two predictions.
    """
    if not 0 <= reg_ratio <= 1:
        raise ValueError(f"reg_ratio {reg_ratio} must be within 0 and 1")
    length = model.output_shape[1]
    middle = [(1 - reg_ratio) / (length - 2)] * (length - 2)
    shares = np.asarray([reg_ratio / 2, *middle, reg_ratio / 2], np.float32)  # (W) sums to 1

    def loss(target: Any, said: Any) -> Any:
        return ops.sum(ops.mean(ops.square(said - ops.cast(target, said.dtype)), axis=(0, 2)) * shares)

    return Lesson(plain(model).restore, loss)


def aer_trainer(model: Any, reg_ratio: float = REG_RATIO) -> Any:
    """The model to fit, windows to themselves, by `aer_lesson`; the scoring model holds what it learns."""
    return Taught(model, aer_lesson(model, reg_ratio))


def _check(length: int, features: int, units: Sequence[int], least: int) -> None:
    if min([features, *units], default=0) < 1 or not units or length < least:
        raise ValueError(
            f"features {features} and units {tuple(units)} must be 1 or more, length {length} at least {least}"
        )


def _lstm(size: int, sequences: bool, name: str, seeds: count[int], backwards: bool = False) -> Any:
    return layers.LSTM(
        size,
        return_sequences=sequences,
        go_backwards=backwards,
        kernel_initializer=initializers.GlorotUniform(seed=next(seeds)),
        recurrent_initializer=initializers.Orthogonal(seed=next(seeds)),
        name=name,
    )


def _features(features: int, seeds: count[int], flow: Any, name: str = "reconstruction") -> Any:
    step = layers.Dense(features, kernel_initializer=initializers.GlorotUniform(seed=next(seeds)), name="features")
    return layers.TimeDistributed(step, name=name)(flow)  # (n, W, F)

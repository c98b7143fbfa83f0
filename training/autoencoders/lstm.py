"""LSTM encoder-decoder: the encoder's last state is the window's code, repeated for each step of the decoder.

Srivastava et al. 2015, *Unsupervised Learning of Video Representations using LSTMs*; for anomalies: Malhotra
et al. 2016, *LSTM-based Encoder-Decoder for Multi-sensor Anomaly Detection*.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, Literal

import keras
from keras import initializers, layers

SCALING: Literal["standard", "unit"] = "standard"
LOSS = "mse"
LEARNING_RATE = 1e-3
UNITS = (100,)


def build(length: int, features: int, units: Sequence[int] = UNITS, seed: int = 0) -> Any:
    """An uncompiled model from (n, T, F) to (n, T, F), linear at the end, for standardised values.

    ``units`` are the encoder's layers from the input on; the decoder mirrors them. Weights depend on ``seed``
    alone. Raises `ValueError` for sizes below 1.
    """
    if min([length, features, *units], default=0) < 1 or not units:
        raise ValueError(f"length {length}, features {features} and units {tuple(units)} must be 1 or more")
    seeds = count(seed)  # two layers of one shape must not start with the same weights

    def recurrent(size: int, sequences: bool, name: str) -> Any:
        return layers.LSTM(
            size,
            return_sequences=sequences,
            kernel_initializer=initializers.GlorotUniform(seed=next(seeds)),
            recurrent_initializer=initializers.Orthogonal(seed=next(seeds)),
            name=name,
        )

    window = keras.Input((length, features), name="window")  # (n, T, F)
    flow = window
    for depth, size in enumerate(units, 1):
        deepest = depth == len(units)
        flow = recurrent(size, not deepest, "code" if deepest else f"encoder_{depth}")(flow)  # (n, T, size)
    flow = layers.RepeatVector(length, name="repeat")(flow)  # of the code (n, size), to (n, T, size)
    for depth, size in reversed(list(enumerate(units, 1))):
        flow = recurrent(size, True, f"decoder_{depth}")(flow)  # (n, T, size)
    step = layers.Dense(features, kernel_initializer=initializers.GlorotUniform(seed=next(seeds)), name="features")
    return keras.Model(window, layers.TimeDistributed(step, name="reconstruction")(flow), name="lstm")  # (n, T, F)

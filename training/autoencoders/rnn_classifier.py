"""RNN autoencoder of network-traffic records that becomes a classifier once there are labels.

Elsayed et al. 2020, *DDoSNet: A Deep-Learning Model for Detecting Network Attacks*. Two phases, which a bundle's
manifest and the model's name tell apart:

``pretrained``
    learnt without labels to reconstruct; judged by reconstruction error.
``fine_tuned``
    a softmax layer of two channels (normal, anomaly), or one sigmoid unit, on top of the network
    (`autoencoders.head`), all of it taught with labels; judged by the anomaly's probability.

All layers run forward in time; the last step of the network's output is what the head stands on. Outputs are ReLU,
hence 0 or more: values must be scaled to 0..1, and one below the training minimum cannot be reconstructed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, Literal

import keras
from keras import initializers, layers

SCALING: Literal["standard", "unit"] = "unit"
LOSS = "mse"
LEARNING_RATE = 1e-3
FEATURES = 79  # of a record, in the paper
UNITS = (64, 32, 16, 8)
OUTPUT: Literal["window", "residual", "probability"] = "window"  # of a pretrained model


def build(length: int, features: int = FEATURES, units: Sequence[int] = UNITS, seed: int = 0) -> Any:
    """An uncompiled model from (n, W, F) to (n, W, F), both within 0..1, in state ``pretrained``.

    ``units`` are the encoder's layers; the decoder mirrors them and ends with one of F units. The code is the
    innermost layer's whole sequence, (n, W units[-1]): no layer sums the window up. Weights depend on
    ``seed`` alone. Raises `ValueError` for sizes below 1.
    """
    if min([length, features, *units], default=0) < 1 or not units:
        raise ValueError(f"length {length}, features {features} and units {tuple(units)} must be 1 or more")
    seeds = count(seed)  # two layers of one shape must not start with the same weights

    def recurrent(size: int, name: str) -> Any:
        return layers.SimpleRNN(
            size,
            activation="relu",
            return_sequences=True,
            kernel_initializer=initializers.GlorotUniform(seed=next(seeds)),
            recurrent_initializer=initializers.Orthogonal(seed=next(seeds)),
            name=name,
        )

    window = keras.Input((length, features), name="window")  # (n, W, F)
    flow = window
    for depth, size in enumerate(units, 1):
        flow = recurrent(size, f"encoder_{depth}")(flow)  # (n, W, size)
    flow = layers.Flatten(name="code")(flow)  # (n, W size)
    flow = layers.Reshape((length, units[-1]), name="steps")(flow)  # (n, W, size)
    for depth, size in reversed(list(enumerate([features, *units[:-1]], 1))):
        flow = recurrent(size, f"decoder_{depth}")(flow)  # (n, W, size), at last (n, W, F)
    return keras.Model(window, flow, name="pretrained")

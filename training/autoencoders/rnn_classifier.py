"""RNN autoencoder of network-traffic records that becomes a classifier once there are labels.

Elsayed et al. 2020, *DDoSNet: A Deep-Learning Model for Detecting Network Attacks*. Two phases, and a model
says in its name which it is in:

``pretrained``
    learnt without labels to reconstruct; judged by reconstruction error.
``fine_tuned``
    a softmax layer of two channels (normal, anomaly) on top of the network, all of it taught with labels;
    judged by the anomaly's probability. One sigmoid unit is its equivalent: with the difference of the two
    channels' weights it gives the same probabilities.

All layers run forward in time, so the probability at a step knows nothing later; the last step's is the
window's. Outputs are ReLU, hence 0 or more: values must be scaled to 0..1, and one below the training minimum
cannot be reconstructed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, Literal, TypeAlias, get_args

import keras
import numpy as np
from keras import initializers, layers

from stream_detector.events import Float32, Int64

State: TypeAlias = Literal["pretrained", "fine_tuned"]

SCALING: Literal["standard", "unit"] = "unit"
LOSS = "mse"
FINE_TUNED_LOSS = "binary_crossentropy"  # of the anomaly's probability; with two channels their cross-entropy
LEARNING_RATE = 1e-3
FEATURES = 79  # of a record, in the paper
UNITS = (64, 32, 16, 8)
OUTPUT: Literal["window", "residual", "probability"] = "window"  # of a pretrained model
FINE_TUNED_OUTPUT: Literal["window", "residual", "probability"] = "probability"


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


def classifier(model: Any, channels: Literal[1, 2] = 2, seed: int = 0) -> Any:
    """An uncompiled model from (n, W, F) to the last step's anomaly probability (n, 1), in state ``fine_tuned``.

    It starts with a copy of the pretrained model's weights; that model stays what it is. ``channels`` is 2 for
    a softmax layer, 1 for a sigmoid unit. Raises `ValueError` for others.
    """
    if channels not in (1, 2):
        raise ValueError(f"channels {channels} must be 1 (sigmoid) or 2 (softmax)")
    base = keras.models.clone_model(model)
    base.set_weights(model.get_weights())
    length = base.output_shape[1]
    flow = layers.Dense(
        channels,
        activation="softmax" if channels == 2 else "sigmoid",
        kernel_initializer=initializers.GlorotUniform(seed=seed),
        name="channels",
    )(base.output)  # (n, W, channels)
    if channels == 2:  # keep the second; cropping cuts steps, hence the turns
        flow = layers.Permute((2, 1))(flow)  # (n, 2, W)
        flow = layers.Permute((2, 1))(layers.Cropping1D((1, 0))(flow))  # (n, W, 1)
    steps = layers.Reshape((length, 1), name="probabilities")(flow)  # (n, W, 1)
    last = layers.Cropping1D((length - 1, 0))(steps)  # (n, 1, 1)
    return keras.Model(base.input, layers.Reshape((1,), name="probability")(last), name="fine_tuned")


def per_step(model: Any) -> Any:
    """A classifier's layers from (n, W, F) to the anomaly probability of each step, (n, W, 1)."""
    return keras.Model(model.input, model.get_layer("probabilities").output, name="per_step")


def state(model: Any) -> State:
    """The phase that a model, also a loaded one, is in. Raises `ValueError` if it is none of this module."""
    for known in get_args(State):
        if model.name == known:
            found: State = known
            return found
    raise ValueError(f"model {model.name!r} is neither of: {', '.join(get_args(State))}")


def class_weights(labels: Int64) -> dict[int, float]:
    """Weights that make normal and anomaly count the same in all, 1 on average. Raises `ValueError` for one class."""
    anomalous = float(np.mean(labels != 0))
    if not 0 < anomalous < 1:
        raise ValueError("labels are all the same; fine-tuning needs some of both")
    return {0: 0.5 / (1 - anomalous), 1: 0.5 / anomalous}


def fine_tune(
    model: Any,
    values: Float32,
    labels: Int64,
    *,
    validation: tuple[Float32, Int64] | None = None,
    weights: dict[int, float] | None = None,
    epochs: int = 30,
    batch: int = 128,
    learning_rate: float = LEARNING_RATE,
    patience: int = 5,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Teach a classifier, all of its layers, the labels (n) of windows (n, W, F): 1 is an anomaly.

    ``weights`` of the classes are `class_weights` unless given. Goes back to the weights of the epoch with
    the lowest validation loss, or the lowest loss without validation. Returns the losses of each epoch. Sets
    the process's random seeds.
    """
    keras.utils.set_random_seed(seed)
    weights = class_weights(labels) if weights is None else weights
    model.compile(optimizer=keras.optimizers.Adam(learning_rate), loss=FINE_TUNED_LOSS)
    held = None
    if validation is not None:
        own = np.where(validation[1] != 0, weights[1], weights[0]).astype(np.float32)  # as in training
        held = (validation[0], _column(validation[1]), own)
    watched = "loss" if held is None else "val_loss"
    done = model.fit(
        values,
        _column(labels),
        class_weight=weights,
        validation_data=held,
        epochs=epochs,
        batch_size=batch,
        verbose=0,
        callbacks=[keras.callbacks.EarlyStopping(watched, patience=patience, restore_best_weights=True)],
    )
    return {name: [float(loss) for loss in losses] for name, losses in done.history.items()}


def _column(labels: Int64) -> Float32:
    """Labels (n) as targets (n, 1)."""
    targets: Float32 = (labels != 0).astype(np.float32)[:, None]
    return targets

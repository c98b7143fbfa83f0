"""Greedy layer-wise pre-training of the dense autoencoder, and supervised fine-tuning of any model's code.

Each hidden layer first learns as an autoencoder of its own on the code of the layer before; then they are stacked
and the whole goes on learning, without labels or with them. Bengio et al. 2007, *Greedy Layer-Wise Training of Deep
Networks*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import keras
import numpy as np
from keras import initializers, layers

from stream_detector.errors import DataError
from stream_detector.events import Float32
from training.autoencoders import dense
from training.autoencoders.wrappers import code_of
from training.progress import Progress, silent

UNITS = (128, 32, 8)
SCALING = dense.SCALING
LOSS = dense.LOSS
METRICS = dense.METRICS
LEARNING_RATE = 1e-3  # small networks, one at a time; the whole may go on at `dense.LEARNING_RATE`

Weights = tuple[Float32, Float32]  # kernel and bias


@dataclass(frozen=True, slots=True)
class Stage:
    """One hidden layer after it learnt alone."""

    encoder: Weights  # (inputs, units), (units)
    decoder: Weights  # (units, inputs), (inputs)
    loss: list[float]  # after each epoch
    val_loss: list[float]


build = dense.build  # the stack's shape, not yet trained


def pretrain(
    values: Float32,
    validation: Float32,
    units: Sequence[int] = UNITS,
    *,
    epochs: int = 30,
    batch: int = 128,
    learning_rate: float = LEARNING_RATE,
    patience: int = 5,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Any, list[Stage]]:
    """The dense model of windows (n, W, F) in 0..1 that starts from its stages' weights, and those stages.

    The first stage rebuilds the windows (sigmoid, binary cross-entropy), the others the code before them (leaky
    ReLU, mean squared error). Each stops and goes back as `training.fit.fit` does. Sets the process's random
    seeds. Raises `ValueError` for sizes below 1, `DataError` if the error becomes infinite.
    """
    length, features = values.shape[1:]
    model = build(length, features, units=units, seed=seed)
    sizes = [length * features, *units]
    stages: list[Stage] = []
    seen, held = values.reshape(len(values), -1), validation.reshape(len(validation), -1)  # (n, W·F)
    for depth, (inputs, size) in enumerate(pairwise(sizes), 1):
        encoder, decoder = _layers(model, depth, len(units))
        activation, loss = ("sigmoid", LOSS) if depth == 1 else ("leaky_relu", "mse")
        row = keras.Input((inputs,))  # (n, inputs)
        code = layers.Dense(size, "leaky_relu", name="code")(row)  # (n, size)
        single = keras.Model(row, layers.Dense(inputs, activation)(code), name=f"stage_{depth}")  # (n, inputs)
        single.set_weights([*encoder.get_weights(), *decoder.get_weights()])  # from the stack's seed
        keras.utils.set_random_seed(seed + depth)
        single.compile(optimizer=keras.optimizers.Adam(learning_rate), loss=loss)
        past = _fit(single, (seen, seen), (held, held), epochs, batch, patience, f"pretrain {depth}", progress)
        kernel, bias, kernel_back, bias_back = single.get_weights()
        encoder.set_weights([kernel, bias])
        decoder.set_weights([kernel_back, bias_back])
        stages.append(Stage((kernel, bias), (kernel_back, bias_back), past["loss"], past["val_loss"]))
        alone = keras.Model(row, code)
        seen, held = (alone.predict(part, batch_size=batch, verbose=0) for part in (seen, held))  # (n, size)
    return model, stages


def _layers(model: Any, depth: int, deepest: int) -> tuple[Any, Any]:
    return model.get_layer("code" if depth == deepest else f"encoder_{depth}"), model.get_layer(f"decoder_{depth}")


def classifier(model: Any, channels: int = 1, seed: int = 0) -> Any:
    """An uncompiled model from windows (n, W, F) to the probability (n, 1) that they are anomalous.

    A copy of ``model`` up to its code, weights included, and a head: one sigmoid unit, or a softmax of two channels
    (normal, anomalous) of which the second is returned. Either is a logistic regression on the code: the one unit's
    weights are the difference of the two channels'. Raises `ValueError` for other ``channels``, or if no layer is
    named "code".
    """
    if channels not in (1, 2):
        raise ValueError(f"{channels} channels: give 1 (a sigmoid unit) or 2 (a softmax)")
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    flow = code_of(copy)[0]
    if len(flow.shape) > 2:
        flow = layers.Flatten(name="codes")(flow)  # (n, D) of a code for each step
    start = initializers.GlorotUniform(seed=seed)
    if channels == 1:
        flow = layers.Dense(1, "sigmoid", kernel_initializer=start, name="head")(flow)  # (n, 1)
    else:
        flow = layers.Dense(2, "softmax", kernel_initializer=start, name="head")(flow)  # (n, 2)
        flow = layers.Reshape((2, 1), name="channels")(flow)  # (n, 2, 1)
        flow = layers.Cropping1D((1, 0), name="anomalous")(flow)  # (n, 1, 1)
    return keras.Model(copy.input, layers.Reshape((1,), name="probability")(flow), name=f"{model.name}_classifier")


def fine_tune(
    model: Any,
    values: Float32,
    labels: Any,
    validation: tuple[Float32, Any],
    *,
    epochs: int = 30,
    batch: int = 128,
    learning_rate: float = 1e-4,
    patience: int = 5,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, list[float]]:
    """Teach a `classifier` labels (n) of 0 and 1 for windows (n, W, F), all of its layers; returns the losses.

    Binary cross-entropy, in which both classes weigh the same however rare one is: each by the reciprocal of its
    frequency in ``labels``. Stops and goes back as `training.fit.fit` does. Sets the process's random seeds. Raises
    `DataError` for other labels, without both classes, or if the error becomes infinite.
    """
    weights = class_weights(labels)
    keras.utils.set_random_seed(seed)
    model.compile(optimizer=keras.optimizers.Adam(learning_rate), loss="binary_crossentropy")

    def weighted(windows: Float32, classes: Any) -> tuple[Any, Any, Any]:
        known = _labels(classes)
        return windows, known.reshape(-1, 1).astype(np.float32), weights[known]  # (n, W, F), (n, 1), (n)

    return _fit(model, weighted(values, labels), weighted(*validation), epochs, batch, patience, "fine-tune", progress)


def class_weights(labels: Any) -> Float32:
    """What a window of class 0 and of class 1 weighs (2), 1 on average. Raises `DataError` without both classes."""
    found = np.bincount(_labels(labels), minlength=2)
    if not found.all():
        raise DataError(f"{found[0]} normal and {found[1]} anomalous windows: fine-tuning needs both")
    weights: Float32 = (found.sum() / (2 * found)).astype(np.float32)
    return weights


def _labels(labels: Any) -> Any:
    known = np.asarray(labels).reshape(-1)
    if not np.isin(known, (0, 1)).all():
        raise DataError("labels must be 0 (normal) or 1 (anomalous)")
    return known.astype(np.int64)


def _fit(
    model: Any,
    data: tuple[Any, ...],
    validation: tuple[Any, ...],
    epochs: int,
    batch: int,
    patience: int,
    stage: str,
    progress: Progress,
) -> dict[str, list[float]]:
    def after_epoch(epoch: int, logs: Mapping[str, float]) -> None:
        if not np.isfinite([logs["loss"], logs["val_loss"]]).all():
            raise DataError(f"{stage} diverged in epoch {epoch + 1}; lower the learning rate or check the data")
        progress(stage, epoch + 1, epochs, {name: float(logs[name]) for name in ("loss", "val_loss")})

    past = model.fit(
        *data[:2],
        sample_weight=data[2] if len(data) > 2 else None,
        validation_data=validation,
        epochs=epochs,
        batch_size=batch,
        shuffle=True,
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_end=after_epoch),
            keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True),
        ],
    )
    return {name: [float(value) for value in past.history[name]] for name in ("loss", "val_loss")}

"""Greedy layer-wise pre-training of the dense autoencoder.

Each hidden layer first learns as an autoencoder of its own on the code of the layer before; then they are stacked
and the whole goes on learning, without labels and then, if there are any, with them (`autoencoders.head`). Bengio et
al. 2007, *Greedy Layer-Wise Training of Deep Networks*. A wrapper goes around each stage too: what a stage reads is
corrupted, what it rebuilds is clean (Vincent et al. 2010, *Stacked Denoising Autoencoders*).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
from keras import layers

from stream_detector.events import Float32
from training.autoencoders import dense
from training.autoencoders.wrappers import Wrapping, wrap
from training.checkpoints import Checkpoints
from training.fit import fit
from training.progress import Progress, silent

UNITS = (128, 32, 8)
SCALING = dense.SCALING
LOSS = dense.LOSS
METRICS = dense.METRICS
LEARNING_RATE = 1e-3  # small networks, one at a time; the whole goes on at `dense.LEARNING_RATE`

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
    checkpoints: Checkpoints | None = None,
    tensorboard: Path | None = None,
    wrapping: Wrapping | None = None,
) -> tuple[Any, list[Stage]]:
    """The dense model of windows (n, W, F) in 0..1 that starts from its stages' weights, and those stages.

    The first stage rebuilds the windows (sigmoid, binary cross-entropy), the others the code before them (leaky
    ReLU, mean squared error). Each stops and goes back as `training.fit.fit` does. With ``wrapping`` each learns with
    its penalties and from corrupted input, noise as strong against a code as against windows. Sets the process's
    random seeds. Raises `ValueError` for sizes below 1, `DataError` if the error becomes infinite.
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
        taught = single
        if wrapping is not None:
            share = float(seen.std() / values.std()) if values.std() > 0 else 1.0
            taught = wrap(single, replace(wrapping, noise=share * wrapping.noise), seed + depth)
        past = fit(
            taught,
            seen,
            held,
            epochs=epochs,
            batch=batch,
            loss=loss,
            metrics=METRICS,
            learning_rate=learning_rate,
            patience=patience,
            seed=seed + depth,
            progress=progress,
            stage=f"pretrain {depth}",
            checkpoints=checkpoints,
            tensorboard=tensorboard,
        )
        kernel, bias, kernel_back, bias_back = single.get_weights()
        encoder.set_weights([kernel, bias])
        decoder.set_weights([kernel_back, bias_back])
        stages.append(Stage((kernel, bias), (kernel_back, bias_back), past.loss, past.val_loss))
        alone = keras.Model(row, code)
        seen, held = (alone.predict(part, batch_size=batch, verbose=0) for part in (seen, held))  # (n, size)
    return model, stages


def _layers(model: Any, depth: int, deepest: int) -> tuple[Any, Any]:
    return model.get_layer("code" if depth == deepest else f"encoder_{depth}"), model.get_layer(f"decoder_{depth}")

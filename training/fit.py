"""Fitting a model to windows, reproducibly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from stream_detector.errors import DataError
from stream_detector.events import Float32
from training.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class History:
    """What was minimised, in scaled units, after each epoch."""

    loss: list[float]  # (epochs)
    val_loss: list[float]  # (epochs)

    @property
    def best(self) -> int:
        """The epoch whose weights were kept, from 0."""
        return min(range(len(self.val_loss)), key=self.val_loss.__getitem__)


def fit(
    model: Any,
    values: Float32,
    validation: Float32,
    *,
    epochs: int = 30,
    batch: int = 128,
    loss: str = "mse",
    learning_rate: float = 1e-3,
    patience: int = 5,
    seed: int = 0,
    progress: Progress = silent,
    targets: tuple[Float32, Float32] | None = None,
    weights: tuple[Float32, Float32] | None = None,
    stage: str = "fit",
) -> History:
    """Teach the model to return its input: Adam on ``loss``, by its name in Keras; windows (n, W, F) in scaled units.

    ``targets`` are what to return instead, ``weights`` (n) what each window counts: of values and validation.
    Stops ``patience`` epochs after the validation loss was lowest, and goes back to the weights of that
    epoch. The same seed, data and machine give the same weights: all of the process's seeds are set, and
    TensorFlow is told to use deterministic kernels from here on. Raises `DataError` if the error becomes
    infinite.
    """
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    losses: list[float] = []
    val_losses: list[float] = []

    def after_epoch(epoch: int, logs: Mapping[str, float]) -> None:
        losses.append(float(logs["loss"]))
        val_losses.append(float(logs["val_loss"]))
        if not math.isfinite(losses[-1] + val_losses[-1]):
            raise DataError(f"{stage} diverged in epoch {epoch + 1}; lower the learning rate or check the data")
        progress(stage, epoch + 1, epochs, {"loss": losses[-1], "val_loss": val_losses[-1]})

    taught, held = (values, validation) if targets is None else targets
    model.compile(optimizer=keras.optimizers.Adam(learning_rate), loss=loss)
    model.fit(
        values,
        taught,
        sample_weight=None if weights is None else weights[0],
        validation_data=(validation, held) if weights is None else (validation, held, weights[1]),
        epochs=epochs,
        batch_size=batch,
        shuffle=True,
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_end=after_epoch),
            keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True),
        ],
    )
    return History(losses, val_losses)

"""Fitting a model to windows, reproducibly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.events import Float32
from training.board import Board
from training.checkpoints import Checkpoints, State, digest
from training.devices import computes_in_half
from training.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class History:
    """What was minimised, in scaled units, after each epoch, and what else was measured."""

    loss: list[float]  # (epochs)
    val_loss: list[float]  # (epochs)
    metrics: dict[str, list[float]] = field(default_factory=dict)  # (epochs) by Keras' name: "mse", "val_mse"

    @property
    def best(self) -> int:
        """The epoch whose weights were kept, from 0."""
        return min(range(len(self.val_loss)), key=self.val_loss.__getitem__)

    @property
    def kept(self) -> dict[str, float]:
        """The figures of the epoch whose weights were kept, losses first."""
        found = {"loss": self.loss, "val_loss": self.val_loss, **self.metrics}
        return {name: values[self.best] for name, values in found.items()}

    def over(self, epochs: int, patience: int) -> bool:
        """Whether nothing is left to do: all epochs are over, or the validation loss rose for long enough."""
        since = len(self.val_loss) - 1 - self.best if self.val_loss else 0
        return len(self.val_loss) >= epochs or since >= max(patience, 1)


def fit(
    model: Any,
    values: Float32,
    validation: Float32,
    *,
    epochs: int = 30,
    batch: int = 128,
    loss: str = "mse",
    metrics: Sequence[str] = (),
    learning_rate: float = 1e-3,
    patience: int = 5,
    seed: int = 0,
    progress: Progress = silent,
    targets: tuple[Float32, Float32] | None = None,
    weights: tuple[Float32, Float32] | None = None,
    stage: str = "fit",
    checkpoints: Checkpoints | None = None,
    tensorboard: Path | None = None,
) -> History:
    """Teach the model to return its input: Adam on ``loss``, by its name in Keras; windows (n, W, F) in scaled units.

    ``metrics``, by their names in Keras too, are measured beside the loss; nothing minimises them.
    ``targets`` are what to return instead, ``weights`` (n) what each window counts: of values and validation.
    Stops ``patience`` epochs after the validation loss was lowest, and goes back to the weights of that
    epoch. The same seed, data and machine give the same weights: all of the process's seeds are set, and
    TensorFlow is told to use deterministic kernels from here on. With ``checkpoints`` it goes on after the last
    epoch that is there, to the same weights: the order of an epoch's windows depends on the seed and its number alone.
    Losses and metrics are written for TensorBoard to a folder of the stage in ``tensorboard``.

    Raises `DataError` if the error becomes infinite, and what `Checkpoints` raise.
    """
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    taught, held = (values, validation) if targets is None else targets
    optimizer = keras.optimizers.Adam(learning_rate)
    if computes_in_half(model):  # small gradients would vanish; Keras sees to it where the whole model has the policy
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer=optimizer, loss=loss, metrics=list(metrics))
    optimizer.build(model.trainable_variables)  # or the first step would, and be traced twice by TensorFlow
    course = _Course(History([], []), epochs, patience, stage, progress)
    if checkpoints is not None:
        seen = digest([values, validation, *(targets or ()), *(weights or ())])
        course.resume(model, checkpoints.load(stage, seen))
        course.save = lambda state: checkpoints.save(stage, state, seen)
    if not course.history.over(epochs, patience):
        arrays = [values, taught] if weights is None else [values, taught, weights[0]]
        watchers = [] if tensorboard is None else [Board(tensorboard / stage.replace(" ", "-"))]
        begun = len(course.history.loss)
        model.fit(
            _batches(arrays, batch, seed, range(begun, epochs)),
            validation_data=(validation, held) if weights is None else (validation, held, weights[1]),
            validation_batch_size=batch,
            initial_epoch=begun,
            epochs=epochs,
            steps_per_epoch=math.ceil(len(values) / batch),
            shuffle=False,  # `_batches` has done so
            verbose=0,
            callbacks=[*watchers, course],
        )
    model.set_weights(course.best)
    return course.history


class _Course(keras.callbacks.Callback):  # type: ignore[misc] # Keras ships no types
    """Keeps the losses and the best weights, tells of them, and stops when they get no better.

    In place of Keras' `EarlyStopping`, whose memory of the epochs before cannot be put back.
    """

    def __init__(self, history: History, epochs: int, patience: int, stage: str, progress: Progress) -> None:
        super().__init__()
        self.history = history
        self.epochs, self.patience, self.stage, self.progress = epochs, patience, stage, progress
        self.best: list[NDArray[Any]] = []
        self.save: Callable[[State], None] | None = None

    def resume(self, model: Any, state: State | None) -> None:
        """Put the model and its optimiser, which is built, where they were after the last epoch."""
        if state is None:
            return
        variables = _variables(model)
        shapes = [tuple(variable.shape) for variable in variables]
        if shapes != [array.shape for array in state.variables]:
            raise DataError(f"the checkpoint of {self.stage} is of another model; give another folder")
        for variable, array in zip(variables, state.variables, strict=True):
            variable.assign(array)
        self.history, self.best = History(state.loss, state.val_loss, state.metrics), state.best

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Called by Keras, after validation."""
        history = self.history
        history.loss.append(float(logs["loss"]))
        history.val_loss.append(float(logs["val_loss"]))
        for name in sorted(logs.keys() - {"loss", "val_loss"}):
            history.metrics.setdefault(name, []).append(float(logs[name]))
        if not math.isfinite(history.loss[-1] + history.val_loss[-1]):
            raise DataError(f"{self.stage} diverged in epoch {epoch + 1}; lower the learning rate or check the data")
        if history.best == epoch:
            self.best = self.model.get_weights()
        if self.save is not None:
            variables = [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in _variables(self.model)]
            self.save(State(history.loss, history.val_loss, variables, self.best, history.metrics))
        self.model.stop_training = history.over(self.epochs, self.patience)
        told = {"loss": history.loss, "val_loss": history.val_loss, **history.metrics}
        self.progress(self.stage, epoch + 1, self.epochs, {name: values[-1] for name, values in told.items()})


def _batches(arrays: Sequence[NDArray[Any]], batch: int, seed: int, epochs: range) -> Any:
    """Batches of these arrays (n, …) for all epochs, each in an order of its own, in a form that `Model.fit` takes."""
    count = len(arrays[0])

    def order(epoch: Any) -> NDArray[np.int64]:
        return np.random.default_rng([seed, int(epoch)]).permutation(count)

    if keras.backend.backend() != "tensorflow":
        return _generated(arrays, batch, order, epochs)
    import tensorflow as tf

    # Gathered by TensorFlow while the step before is computed; a Python generator would wait for the interpreter.
    with tf.device("cpu"):
        tensors = [tf.constant(array) for array in arrays]
    numbers = tf.data.Dataset.range(epochs.start, epochs.stop)

    def shuffled(epoch: Any) -> Any:
        rows = tf.ensure_shape(tf.numpy_function(order, [epoch], tf.int64), [count])
        return tf.data.Dataset.from_tensor_slices(rows).batch(batch)

    return numbers.flat_map(shuffled).map(lambda rows: tuple(tf.gather(t, rows) for t in tensors)).prefetch(2)


def _generated(
    arrays: Sequence[NDArray[Any]], batch: int, order: Callable[[int], NDArray[np.int64]], epochs: range
) -> Iterator[tuple[NDArray[Any], ...]]:
    for epoch in epochs:
        rows = order(epoch)
        for at in range(0, len(rows), batch):
            yield tuple(array[rows[at : at + batch]] for array in arrays)


def _variables(model: Any) -> list[Any]:
    """All that a step of training changes, random generators included, but for the running figures of an epoch."""
    figures = {id(variable) for variable in model.metrics_variables}
    return [*(variable for variable in model.variables if id(variable) not in figures), *model.optimizer.variables]

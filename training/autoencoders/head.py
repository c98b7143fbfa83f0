"""A supervised head on any autoencoder: fine-tuning, after learning without labels, with those that there are.

The network goes on from what it learnt, a copy of its weights included, and all of it is taught (Hinton and
Salakhutdinov 2006; for network traffic: Elsayed et al. 2020, *DDoSNet*). A window is anomalous if its last event is
labelled anomalous. Anomalies are rare: both classes weigh the same (King and Zeng 2001, *Logistic Regression in
Rare Events Data*, call it weighting), which moves the log-odds by a constant that thresholds take up.

The head is a softmax of two channels (normal, anomalous) or its equivalent, one sigmoid unit: with the difference of
the two channels' weights that gives the same probabilities. Either way the layer "head" is linear, and what comes
after it turns log-odds into a probability; the service takes the log-odds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
from keras import initializers, layers

from stream_detector.contents import State
from stream_detector.errors import DataError
from stream_detector.events import Float32
from training.autoencoders.codes import code_of
from training.checkpoints import Checkpoints
from training.fit import History, fit
from training.progress import Progress, silent

Head: TypeAlias = Literal["softmax", "sigmoid"]
Top: TypeAlias = Literal["code", "last_step"]

CHANNELS: dict[str, int] = {"softmax": 2, "sigmoid": 1}
LOSS = "binary_crossentropy"  # of the anomaly's probability; with two channels that is their cross-entropy


def classifier(model: Any, head: Head = "softmax", top: Top = "code", seed: int = 0) -> Any:
    """An uncompiled model, named "fine_tuned", from windows (n, W, F) to the probability (n, 1) of an anomaly.

    It starts with a copy of the model's weights; the model stays what it is. The head stands on its "code", or on the
    ``last_step`` of its whole output. What that does not see, the head does not either. Raises `ValueError` for
    other heads, or if no layer is named "code".
    """
    if head not in CHANNELS:
        raise ValueError(f"head {head!r}: give one of {', '.join(CHANNELS)}")
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    if top == "code":
        flow = code_of(copy)[0]  # (n, D), or (n, W, D) of a code for each step
    else:
        flow = layers.Cropping1D((copy.output_shape[1] - 1, 0), name="last_step")(copy.output)  # (n, 1, F)
    if len(flow.shape) > 2:
        flow = layers.Flatten(name="row")(flow)  # (n, D)
    start = initializers.GlorotUniform(seed=seed)
    odds = layers.Dense(CHANNELS[head], kernel_initializer=start, name="head")(flow)  # (n, channels)
    told = layers.Activation(head, name="channels")(odds)  # (n, channels)
    if head == "softmax":
        told = layers.Reshape((2, 1), name="column")(told)  # (n, 2, 1)
        told = layers.Cropping1D((1, 0), name="anomalous")(told)  # (n, 1, 1)
    return keras.Model(copy.input, layers.Reshape((1,), name="probability")(told), name="fine_tuned")


def state(model: Any) -> State:
    """The phase that a model, also a loaded one, is in."""
    return "fine_tuned" if model.name == "fine_tuned" else "pretrained"


def fine_tune(
    model: Any,
    values: Float32,
    labels: Any,
    validation: tuple[Float32, Any],
    *,
    epochs: int = 30,
    batch: int = 128,
    learning_rate: float = 1e-3,
    patience: int = 5,
    seed: int = 0,
    progress: Progress = silent,
    checkpoints: Checkpoints | None = None,
    tensorboard: Path | None = None,
) -> History:
    """Teach a `classifier`, all of its layers, labels (n) of 0 and 1 for windows (n, W, F) in scaled units.

    Both classes weigh the same however rare one is. Stops, goes back and sets seeds as `training.fit.fit` does. Raises
    `DataError` for other labels, without both classes to learn from, or if the error becomes infinite.
    """
    weights = class_weights(labels)
    known = [_known(labels), _known(validation[1])]
    one, other = (found.astype(np.float32)[:, None] for found in known)  # (n, 1) each
    return fit(
        model,
        values,
        validation[0],
        targets=(one, other),
        weights=(weights[known[0]], weights[known[1]]),
        epochs=epochs,
        batch=batch,
        loss=LOSS,
        learning_rate=learning_rate,
        patience=patience,
        seed=seed,
        progress=progress,
        stage="fine-tune",
        checkpoints=checkpoints,
        tensorboard=tensorboard,
    )


def class_weights(labels: Any) -> Float32:
    """What a window of class 0 and of class 1 weighs (2), 1 on average. Raises `DataError` without both classes."""
    found = np.bincount(_known(labels), minlength=2)
    if not found.all():
        raise DataError(
            f"{found[0]} normal and {found[1]} anomalous windows to learn from: fine-tuning needs both; "
            "give more labelled data, or train without --fine-tune"
        )
    weights: Float32 = (found.sum() / (2 * found)).astype(np.float32)
    return weights


def _known(labels: Any) -> Any:
    found = np.asarray(labels).reshape(-1)
    if not np.isin(found, (0, 1)).all():
        raise DataError("labels must be 0 (normal) or 1 (anomalous)")
    return found.astype(np.int64)

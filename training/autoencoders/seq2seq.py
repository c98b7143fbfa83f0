"""Sequence-to-sequence autoencoder: the encoder's final state is the window's code and the decoder's first state.

Sutskever et al. 2014, *Sequence to Sequence Learning with Neural Networks*, with the input as its own target
(Dai and Le 2015, *Semi-supervised Sequence Learning*).

In training the decoder is fed the true sequence, shifted by one (teacher forcing; Williams and Zipser 1989).
The scoring model decodes freely: each step's own output is the next step's input. With the truth as input, a
window would leak into its own reconstruction.

Free decoding feeds an output back into the loop, which no stock recurrent layer does, and a model in a bundle
may hold stock layers only. So the loop is unrolled over one shared `LSTMCell` per layer, which compiles faster
than an LSTM of one step would. Compile time grows with the window: for 64 steps of 100 units about 3 s of CPU
per batch size on TensorFlow and 1 s on JAX, against 0.6 s of an LSTM's loop on TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, pairwise
from typing import Any, Literal

import keras
import numpy as np
from keras import initializers, layers

from stream_detector.events import Float32
from training.autoencoders.codes import decoder
from training.autoencoders.lesson import Lesson

Values = Literal["real", "unit"]  # of features: standardised, or within [0, 1] and one-hot

METRICS = ("mse",)  # of values within [0, 1], beside their cross-entropy
SCALING: Literal["standard", "unit"] = "standard"
LOSS = "mse"
SCALINGS: dict[Values, Literal["standard", "unit"]] = {"real": "standard", "unit": "unit"}
LOSSES: dict[Values, str] = {"real": "mse", "unit": "binary_crossentropy"}  # what to compile the trainer with
ACTIVATIONS: dict[Values, str] = {"real": "linear", "unit": "sigmoid"}
LEARNING_RATE = 1e-3
UNITS = (100,)
OUTPUT: Literal["window", "residual", "probability"] = "window"


def build(length: int, features: int, units: Sequence[int] = UNITS, seed: int = 0, values: Values = "real") -> Any:
    """An uncompiled model from (n, W, F) to (n, W, F) that decodes freely.

    ``units`` are the encoder's layers from the input on; the decoder has the same, each starting from the
    final state of its like. The code holds all of them: output and cell of each layer, (n, 2 sum(units)).
    Weights depend on ``seed`` alone. Raises `ValueError` for sizes below 1.
    """
    if min([length, features, *units], default=0) < 1 or not units:
        raise ValueError(f"length {length}, features {features} and units {tuple(units)} must be 1 or more")
    seeds = count(seed)  # two layers of one shape must not start with the same weights

    def recurrent(kind: Any, size: int, name: str, **more: Any) -> Any:
        return kind(
            size,
            kernel_initializer=initializers.GlorotUniform(seed=next(seeds)),
            recurrent_initializer=initializers.Orthogonal(seed=next(seeds)),
            name=name,
            **more,
        )

    window = keras.Input((length, features), name="window")  # (n, W, F)
    flow, finals = window, []
    for depth, size in enumerate(units, 1):
        layer = recurrent(layers.LSTM, size, f"encoder_{depth}", return_sequences=True, return_state=True)
        flow, output, cell = layer(flow)  # (n, W, size), (n, size), (n, size)
        finals += [output, cell]
    code = layers.Concatenate(name="code")(finals)  # (n, D)

    cells = [recurrent(layers.LSTMCell, size, f"decoder_{depth}") for depth, size in enumerate(units, 1)]
    step = layers.Dense(
        features,
        activation=ACTIVATIONS[values],
        kernel_initializer=initializers.GlorotUniform(seed=next(seeds)),
        name="features",
    )
    # The first input is 0, as in teacher forcing. No stock layer makes a constant: weights that stay 0 do.
    said = layers.Dense(features, use_bias=False, kernel_initializer="zeros", trainable=False, name="start")(code)
    states, steps = initial_states(code, units), []
    for _ in range(length):
        flow = said  # (n, F)
        for depth, cell in enumerate(cells):
            flow, states[depth] = cell(flow, states[depth])  # (n, size), [(n, size), (n, size)]
        said = step(flow)  # (n, F)
        steps.append(said)
    together = layers.Concatenate(name="steps")(steps) if length > 1 else steps[0]  # (n, W F)
    return keras.Model(window, layers.Reshape((length, features), name="reconstruction")(together), name="seq2seq")


def initial_states(code: Any, units: Sequence[int]) -> list[list[Any]]:
    """The code (n, D) cut into the two states (n, size) of each layer of the decoder."""
    total = 2 * sum(units)
    bounds = [0, *np.cumsum([size for size in units for _ in range(2)]).tolist()]
    column = layers.Reshape((total, 1))(code)  # (n, D, 1): cropping cuts steps
    parts = [layers.Reshape((to - at,))(layers.Cropping1D((at, total - to))(column)) for at, to in pairwise(bounds)]
    return [parts[at : at + 2] for at in range(0, len(parts), 2)]


def trainer(model: Any) -> Any:
    """The model to fit, windows (n, W, F) to themselves: the decoder's input is the true step before.

    It has the layers of the scoring model, which therefore holds what it learns. Compile it with the loss
    that `LOSSES` names for the values that the model was built for.
    """
    return keras.Model(model.input, _forced(model, model.input, model.get_layer("code").output), name="teacher_forced")


def lesson(model: Any) -> Lesson:
    """The same with a window that is shown: the encoder reads that one, the decoder is fed the clean one."""
    code = model.get_layer("code").output
    # Inputs of its own: a model from within another's graph changes that one's.
    inputs = [keras.Input(model.input.shape[1:]), keras.Input(code.shape[1:])]
    read, forced = keras.Model(model.input, code), keras.Model(inputs, _forced(model, *inputs))
    return Lesson(lambda shown, clean, training: forced([clean, read(shown, training=training)], training=training))


def _forced(model: Any, window: Any, code: Any) -> Any:
    """What the decoder says after each true step (n, W, F) of a window with a code (n, D): (n, W, F)."""
    cells = decoder_cells(model)
    flow = layers.Cropping1D((0, 1))(layers.ZeroPadding1D((1, 0))(window))  # (n, W, F) shifted by one
    for cell, state in zip(cells, initial_states(code, [cell.units for cell in cells]), strict=True):
        flow = layers.RNN(cell, return_sequences=True)(flow, initial_state=state)  # (n, W, size)
    return model.get_layer("features")(flow)


def decoder_cells(model: Any) -> list[Any]:
    """The decoder's shared cells, from its input on."""
    cells = [layer for layer in model.layers if isinstance(layer, layers.LSTMCell)]
    return sorted(cells, key=lambda cell: int(cell.name.rsplit("_", 1)[1]))


def generate(model: Any, codes: Float32) -> Float32:
    """Windows (n, W, F) decoded freely from codes (n, D), in scaled units."""
    windows: Float32 = np.asarray(decoder(model).predict(codes, verbose=0), np.float32)
    return windows

"""The code of a model: which tensor it is, the way to it, and the way back where there is one.

Every kind of `training.autoencoders.FAMILY` names a layer "code", also below the head of a fine-tuned model, whose code
is what it learnt with labels. A bundle's manifest holds the name of the layer, so that the service can read the
code out of the saved model: the embedding of a window. The way back exists where the model decodes its code and
nothing else; `decoder` says why where it does not.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import keras
from keras import layers

Tensor: TypeAlias = Any  # of whichever backend runs

RESHAPING = (layers.Cropping1D, layers.Flatten, layers.Reshape)  # they leave values as they are


def code_of(model: Any) -> tuple[Tensor, str]:
    """The tensor that the layer "code" makes, and the name of the activation that it went through ("" if unknown).

    A code that is repeated for the decoder's steps counts once; that of `seq2seq`, outputs and cells of LSTMs, went
    through "lstm_state". Raises `ValueError` if there is no such layer.
    """
    layer = made = model.get_layer(code_layer(model))
    while isinstance(made, RESHAPING):
        made = _before(model, made)
    if isinstance(made, layers.Bidirectional):
        made = made.forward_layer
    if isinstance(made, layers.Concatenate):
        return layer.output, "lstm_state"
    return layer.output, getattr(getattr(made, "activation", None), "__name__", "")


def code_layer(model: Any) -> str:
    """The name of the layer whose output is the code. Raises `ValueError` if no layer is named "code"."""
    layer = model.get_layer("code")
    if isinstance(layer, layers.RepeatVector):
        layer = _before(model, layer)
    return str(layer.name)


def _before(model: Any, layer: Any) -> Any:
    return next(made for made in model.layers if made.output is layer.input)


def encoder(model: Any) -> Any:
    """The model's own layers from windows (n, W, F) in scaled units to their codes as rows, (n, D)."""
    code = code_of(model)[0]
    if len(code.shape) > 2:
        code = layers.Reshape((math.prod(code.shape[1:]),), name="embedding")(code)
    return keras.Model(model.input, code, name="encoder")


def decoder(model: Any) -> Any:
    """The model's own layers from codes as rows, (n, D), to windows (n, W, F) in scaled units.

    Raises `ValueError` that says why, for models whose code alone makes no window.
    """
    if model.output_shape[1:] != model.input_shape[1:]:
        shown = "the probability of an anomaly" if model.name == "fine_tuned" else "a residual"
        raise ValueError(f"the model decodes no window, it gives {shown}")
    code = code_of(model)[0]
    try:
        back = keras.Model(code, model.output, name="decoder")
    except ValueError:  # Keras' "disconnected graph": something else than the code is needed
        raise ValueError("the model needs more than the code to make a window: it predicts from the events") from None
    row = keras.Input((math.prod(code.shape[1:]),), name="row")  # (n, D)
    shaped = row if len(code.shape) == 2 else layers.Reshape(tuple(code.shape[1:]))(row)
    return keras.Model(row, back(shaped), name="decoder")

"""A model from inside: its layers, where its code puts windows, and what its decoder makes of other codes.

Dimensions are reduced by a principal component analysis (Pearson 1901, *On Lines and Planes of Closest Fit*). New
windows are decoded from draws of the Gaussian that has the codes' mean and covariance: an autoencoder's code follows
no distribution that is known, so what comes out shows what the decoder has learnt, and is no sample of the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from keras import ops

from stream_detector.events import Float32, Float64
from training.autoencoders.codes import code_layer, decoder, encoder

Shade: TypeAlias = Literal["score", "label"]

DRAWN = 6  # windows that are generated, and as many real ones beside them
BATCH = 1_024  # windows encoded at a time


class Layer(NamedTuple):
    """One layer of a model."""

    name: str
    kind: str  # Keras' name of its class
    shape: tuple[int | None, ...]  # of its output; None for any number of windows
    parameters: int
    inputs: tuple[str, ...]  # layers that it takes from, each named once


@dataclass(frozen=True, slots=True)
class Portrait:
    """What there is to draw of a model besides its errors."""

    layers: list[Layer]
    code: str  # the layer that makes it
    width: int  # D, values of a code
    points: Float64  # (n, 2) codes of windows on their two main axes
    shares: tuple[float, float]  # of the codes' variance along each
    shades: Float64  # (n) by which they are coloured
    shade: Shade  # what that is: score, or label (0 or 1)
    real: Float32  # (k, W, F) some of the windows, in scaled units
    generated: Float32  # (k, W, F) from drawn codes; none if the model cannot
    reason: str = ""  # why not

    @property
    def parameters(self) -> int:
        """Of all layers."""
        return sum(layer.parameters for layer in self.layers)

    def about(self) -> str:
        """The code in one line."""
        made = "new windows are decoded from it" if not self.reason else f"nothing is generated: {self.reason}"
        return f"layer {self.code}, {self.width} values a window; {made}"


def portray(model: Any, values: Float32, shades: Float64, shade: Shade, seed: int = 0) -> Portrait:
    """Encode windows (n, W, F) in scaled units, coloured by ``shades`` (n), and decode draws like their codes.

    Raises `ValueError` if the model has no code.
    """
    codes = _through(encoder(model), values)  # (n, D)
    points, shares = plane(codes)
    rng = np.random.default_rng(seed)
    some = values[rng.permutation(len(values))[:DRAWN]]
    made, reason = values[:0], ""
    try:
        back = decoder(model)
    except ValueError as error:
        reason = str(error)
    else:
        made = _through(back, like(codes, DRAWN, rng))
    layers = list(layers_of(model))
    return Portrait(layers, code_layer(model), codes.shape[1], points, shares, shades, shade, some, made, reason)


def _through(model: Any, values: Float32) -> Float32:
    """What a model makes of these; step by step, since to compile it for once would take longer."""
    parts = [model(values[at : at + BATCH], training=False) for at in range(0, len(values), BATCH)]
    return np.concatenate([np.asarray(ops.convert_to_numpy(part), np.float32) for part in parts])


def plane(codes: Float32) -> tuple[Float64, tuple[float, float]]:
    """Codes (n, D) on their two main axes, (n, 2), and these axes' shares of the variance; 0 where there is none.

    An axis points to where its largest part is positive, so that the picture does not flip from run to run.
    """
    centered = codes.astype(np.float64) - codes.mean(axis=0, dtype=np.float64)
    _, lengths, axes = np.linalg.svd(centered, full_matrices=False)  # (k), (k, D)
    points, shares = np.zeros((len(codes), 2)), [0.0, 0.0]
    total = float((lengths**2).sum())
    for at, (length, axis) in enumerate(zip(lengths[:2], axes[:2], strict=True)):
        points[:, at] = centered @ axis * (1 if axis[np.abs(axis).argmax()] > 0 else -1)
        shares[at] = float(length**2) / total if total > 0 else 0.0
    return points, (shares[0], shares[1])


def like(codes: Float32, count: int, rng: np.random.Generator) -> Float32:
    """Draws (count, D) of the Gaussian with the mean and covariance of codes (n, D).

    A random sum of the codes' deviations has their covariance; it never has to be written down, which for a wide code
    of few windows would be large and singular.
    """
    mean = codes.mean(axis=0, dtype=np.float64)
    weights = rng.normal(size=(count, len(codes))) / np.sqrt(max(1, len(codes) - 1))
    drawn: Float32 = (mean + weights @ (codes - mean)).astype(np.float32)
    return drawn


def layers_of(model: Any) -> Iterator[Layer]:
    """The layers from the input on. Each output's shape is that of the layer's first use."""
    nodes = {layer["name"]: layer["inbound_nodes"] for layer in model.get_config()["layers"]}
    for layer in model.layers:
        output = layer.output[0] if isinstance(layer.output, Sequence) else layer.output
        inputs = tuple(dict.fromkeys(name for name in _sources(nodes[layer.name]) if name in nodes))
        yield Layer(layer.name, type(layer).__name__, tuple(output.shape), int(layer.count_params()), inputs)


def _sources(config: Any) -> Iterator[str]:
    """The layers whose tensors are named anywhere in a layer's inbound nodes."""
    if isinstance(config, dict):
        if "keras_history" in config:
            yield config["keras_history"][0]
        for part in config.values():
            yield from _sources(part)
    elif isinstance(config, (list, tuple)):
        for part in config:
            yield from _sources(part)

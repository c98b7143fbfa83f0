"""Regularised training of any autoencoder: denoising, sparse, contractive, and an L2 cost on the code.

A wrapper holds the model while it learns and adds to its loss; what is saved and scored afterwards is the model
itself, so that nothing here is ever part of inference.

- Denoising: the input is corrupted, the loss compares with the clean one. Vincent et al. 2008, *Extracting and
  Composing Robust Features with Denoising Autoencoders*.
- Sparse: Kullback-Leibler divergence of each code unit's mean activation from ρ. Ng 2011, *Sparse autoencoder*
  (CS294A lecture notes).
- Contractive: squared Frobenius norm of the code's Jacobian. Rifai et al. 2011, *Contractive Auto-Encoders*.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import keras
from keras import ops

from training.autoencoders.codes import code_of
from training.autoencoders.lesson import Lesson, Taught, plain

Tensor: TypeAlias = Any  # of whichever backend runs
Function: TypeAlias = Callable[[Tensor], Tensor]

TINY = 1e-6  # mean activations are kept this far from 0 and 1, where the divergence is infinite


@dataclass(frozen=True, slots=True)
class Wrapping:
    """What to add while training; the defaults add nothing. They combine. Raises `ValueError` for nonsense."""

    noise: float = 0.0  # standard deviation of the Gaussian noise on the input, in scaled units
    mask: float = 0.0  # share of the input that is set to 0, each value by chance
    sparsity: float = 0.05  # ρ, the mean activation that each code unit should have, in (0, 1)
    sparse_weight: float = 0.0  # of the divergence, summed over the code's units
    contraction: float = 0.0  # weight of the Jacobian's squared norm
    activity: float = 0.0  # weight of the code's squared norm
    probes: int = 0  # random directions to estimate the Jacobian's norm with; 0: exactly, a pass per code unit

    def __post_init__(self) -> None:
        for name in ("noise", "mask", "sparse_weight", "contraction", "activity", "probes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)} will not do; give a number of 0 or more")
        if self.mask >= 1:
            raise ValueError(f"mask = {self.mask} leaves nothing of the input; give a share below 1")
        if not 0 < self.sparsity < 1:
            raise ValueError(f"sparsity = {self.sparsity} will not do; give a number between 0 and 1")


class Wrapped(Taught):
    """A model in training: the same weights and reconstructions, a harder input and a dearer loss.

    Input is corrupted in training alone. Penalties are those of the clean input's code, and part of the validation
    loss too, so that early stopping judges what is minimised.
    """

    def __init__(self, model: Any, wrapping: Wrapping, seed: int = 0, lesson: Lesson | None = None) -> None:
        super().__init__(model, lesson or plain(model))
        self.wrapping = wrapping
        code, activation = code_of(model)
        self.encoder = keras.Model(model.input, code, name="encoder")  # the model's own layers
        self.squash = squashing(activation)
        self.seeds = keras.random.SeedGenerator(seed)
        if wrapping.contraction:
            for layer in self.encoder.layers:
                both = isinstance(layer, keras.layers.Bidirectional)
                for one in (layer.forward_layer, layer.backward_layer) if both else (layer,):
                    if hasattr(one, "use_cudnn"):
                        one.use_cudnn = False  # its kernels have no second derivative; no part of a saved model

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        """What the model says of windows (n, W, F), in training of corrupted ones."""
        shown = corrupt(inputs, self.wrapping, self.seeds) if training else inputs
        return self.lesson.restore(shown, inputs, training)

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        """The lesson's loss, and the penalties."""
        total = super().compute_loss(x, y, y_pred, sample_weight, training)  # first: it reads the layers' own losses
        wanted = self.wrapping
        if wanted.sparse_weight or wanted.activity:
            code = self._encode(x)  # (n, D)
            if wanted.sparse_weight:
                total += wanted.sparse_weight * divergence(wanted.sparsity, ops.mean(self.squash(code), axis=0))
            if wanted.activity:
                total += wanted.activity * ops.mean(ops.sum(ops.square(code), axis=1))
        if wanted.contraction:
            total += wanted.contraction * contraction(self._encode, x, self._directions(x))
        return total

    def _encode(self, values: Tensor) -> Tensor:
        code = self.encoder(values, training=False)
        return ops.reshape(code, (-1, math.prod(code.shape[1:])))  # (n, D)

    def _directions(self, values: Tensor) -> Tensor:
        size, probes = math.prod(self.encoder.output_shape[1:]), self.wrapping.probes
        if not probes:
            return ops.expand_dims(ops.eye(size), 1)  # (D, 1, D)
        drawn = keras.random.uniform((probes, ops.shape(values)[0], size), seed=self.seeds)
        return ops.where(drawn < 0.5, -1.0, 1.0) / math.sqrt(probes)  # (P, n, D)


def wrap(model: Any, wrapping: Wrapping, seed: int = 0, lesson: Lesson | None = None) -> Wrapped:
    """``model`` ready to be compiled and fitted with these penalties; its own weights are what learns.

    ``lesson`` is its way to learn if it has one of its own. Raises `ValueError` if no layer of it is named "code".
    """
    return Wrapped(model, wrapping, seed, lesson)


def squashing(activation: str) -> Function:
    """What takes a code's values to (0, 1), where a mean activation can be compared with ρ.

    A sigmoid's are there; a tanh's (a recurrent layer's, too) move there by (1 + a) / 2; a ReLU's by 1 - exp(-a),
    with 0 at rest; others, which know no bounds, go through a sigmoid. Of an LSTM's state the output lies between -1
    and 1 and the cell knows no bounds: a sigmoid that is steep enough for ρ to be within the output's reach.
    """
    known: dict[str, Function] = {
        "sigmoid": lambda code: code,
        "tanh": lambda code: (1 + code) / 2,
        "relu": lambda code: 1 - ops.exp(-code),
        "lstm_state": lambda code: ops.sigmoid(4 * code),
    }
    otherwise: Function = ops.sigmoid
    return known.get(activation, otherwise)


def corrupt(values: Tensor, wrapping: Wrapping, seeds: Any) -> Tensor:
    """Values (n, …) with noise, and some of them 0."""
    shape = ops.shape(values)
    if wrapping.noise:
        values = values + keras.random.normal(shape, stddev=wrapping.noise, seed=seeds)
    if wrapping.mask:
        values = ops.where(keras.random.uniform(shape, seed=seeds) < wrapping.mask, 0.0, values)
    return values


def divergence(rho: float, means: Tensor) -> Tensor:
    """Kullback-Leibler divergence of Bernoulli variables with these means (D) from one of mean ρ, summed."""
    means = ops.clip(means, TINY, 1 - TINY)
    return ops.sum(rho * ops.log(rho / means) + (1 - rho) * ops.log((1 - rho) / (1 - means)))


def contraction(encode: Function, values: Tensor, directions: Tensor) -> Tensor:
    """Squared Frobenius norm of the Jacobian of the code (n, D) by the values (n, …), on average over the batch.

    ``directions`` (P, 1 or n, D) are what the Jacobian is multiplied with from the left: the unit vectors give the
    norm itself, P random ones of covariance 1/P an unbiased estimate (Hutchinson 1990). One forward and one
    backward pass over P copies of the batch: as windows do not mix, the sum's gradient holds each one's own.
    """
    copies, _, size = directions.shape

    def projected(at: Tensor) -> Tensor:
        return ops.sum(ops.reshape(encode(at), (copies, -1, size)) * directions)

    rows = ops.tile(values, [copies] + [1] * (len(values.shape) - 1))  # (P·n, …)
    total = ops.sum(ops.square(_gradient(projected, rows)))
    return total / ops.cast(ops.shape(values)[0], total.dtype)


def _gradient(function: Function, at: Tensor) -> Tensor:
    # Keras has no gradient of its own: the one place here that knows the backends.
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(function)(at)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(at)
        value = function(at)
    return tape.gradient(value, at)

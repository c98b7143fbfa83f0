"""Programs compiled for fixed shapes, on Keras' TensorFlow or JAX, once for all models that compute the same.

TensorFlow frees what XLA compiled only when the process ends. So weights and tables are arguments of what is compiled,
and the next version of a bundle, which has others, runs what was compiled for the one before: it is ready at once, and
a service may be given new versions for as long as it lives. They are few arrays, since each costs time in each call.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from keras import ops

from stream_detector.adapters.keras.programs import Program, Tensor
from stream_detector.errors import SettingsError
from stream_detector.events import Float32
from stream_detector.profiles import Profiles

Shape: TypeAlias = tuple[int, int, int]  # of windows: n, W, F


class Arrays(NamedTuple):
    """All that differs between bundles that compute the same, on the device."""

    weights: Tensor  # those of the model, one after the other
    tables: Tensor  # (P, …) those with a row for each profile, side by side
    shared: Tensor  # those that all windows share, one after the other


class Layout(NamedTuple):
    """What stands where in `Arrays`, by name and in this order."""

    tables: tuple[tuple[str, int], ...]  # with their columns
    shared: tuple[tuple[str, tuple[int, ...]], ...]  # with their shapes
    profiles: int


Compiled: TypeAlias = Callable[[Tensor, Tensor, Tensor, Float32, Any], Tensor]  # of `Arrays`, windows, and rows (n)

MADE: dict[Hashable, Compiled] = {}  # by all that was fixed when it was compiled
NAMED = ("name", "keras_history", "input_layers", "output_layers")  # where a model's description names layers
UNUSED = ("initializer", "regularizer", "constraint")  # what in it is for training alone


def compiled(
    program: Program, way: Hashable, model: Any, arrays: Arrays, layout: Layout, shape: Shape
) -> Callable[[Float32, Any], Tensor]:
    """The program over a model for raw windows of ``shape`` (n, W, F) and their profiles (n), rows of the tables.

    ``way`` is all that tells the program from others.
    """
    compiler = COMPILERS[keras.backend.backend()]
    key = (compiler, way, structure(model), layout, shape)
    if key not in MADE:
        MADE[key] = compiler(_run(program, model, layout), arrays, shape)
    return partial(MADE[key], *arrays)


def arrays_of(model: Any, profiles: Profiles) -> tuple[Arrays, Layout]:
    """A model's weights as they are now, and the tables, on the device."""
    weights = [ops.convert_to_numpy(one) for one in (*model.trainable_variables, *_settled(model))]
    tables, shared = profiles.tables, profiles.shared
    arrays = _flat(weights), np.concatenate(list(tables.values()), axis=1), _flat(list(shared.values()))
    layout = Layout(
        tuple((name, table.shape[1]) for name, table in tables.items()),
        tuple((name, table.shape) for name, table in shared.items()),
        len(arrays[1]),
    )
    return Arrays(*(ops.convert_to_tensor(array) for array in arrays)), layout


def _flat(arrays: Sequence[Any]) -> Float32:
    return np.concatenate([np.asarray(one, np.float32).ravel() for one in arrays] or [np.zeros(0, np.float32)])


def _settled(model: Any) -> list[Any]:
    """Variables that training changes by no gradient; not the state of random generators, which nothing draws from."""
    return [one for one in model.non_trainable_variables if keras.backend.is_float_dtype(one.dtype)]


def structure(model: Any) -> str:
    """What a model computes, as JSON: the same for two that differ in weights, in names, or in how they were learnt."""
    names: dict[str, int] = {}

    def plain(node: Any, key: str = "") -> Any:
        if isinstance(node, dict) and key != "dtype":
            return {name: plain(one, name) for name, one in node.items() if not name.endswith(UNUSED)}
        if isinstance(node, list | tuple):
            return [plain(one, key) for one in node]
        return names.setdefault(node, len(names)) if isinstance(node, str) and key in NAMED else node

    return json.dumps(plain(model.get_config()), default=str)


def prepare_backend() -> None:
    """Settings of the backend that scoring and calibration share. Raises `SettingsError` for others."""
    name = keras.backend.backend()
    if name not in COMPILERS:
        raise SettingsError(f"KERAS_BACKEND={name}: not supported; set it to one of {', '.join(COMPILERS)}")
    if name == "tensorflow":
        import tensorflow as tf

        # Thresholds may be calibrated on a CPU and used on a GPU: TF32's ten-bit mantissa would move scores.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        for gpu in tf.config.list_physical_devices("GPU"):
            with suppress(RuntimeError):  # in use by us already: too late to change, and no harm
                tf.config.experimental.set_memory_growth(gpu, True)  # several workers share one GPU


def device_name() -> str:
    """Backend and device that forward passes run on."""
    devices = keras.distribution.list_devices()
    return f"{keras.backend.backend()} {devices[0] if devices else 'cpu'}"


def _without_cudnn(layer: Any) -> None:
    """Recurrent layers as plain loops: cuDNN's kernels cannot be part of a compiled function."""
    if hasattr(layer, "use_cudnn"):
        layer.use_cudnn = False
    for inner in [
        *getattr(layer, "layers", []),
        getattr(layer, "layer", None),
        getattr(layer, "forward_layer", None),
    ]:
        if inner is not None and inner is not layer:
            _without_cudnn(inner)
    backward = getattr(layer, "backward_layer", None)
    if backward is not None:
        _without_cudnn(backward)


def _run(program: Program, model: Any, layout: Layout) -> Compiled:
    _without_cudnn(model)
    trainable, settled = model.trainable_variables, _settled(model)
    shapes = [tuple(one.shape) for one in (*trainable, *settled)]
    table_names, widths = zip(*layout.tables, strict=True)
    shared_names, shared_shapes = zip(*layout.shared, strict=True)

    def run(weights: Tensor, tables: Tensor, shared: Tensor, values: Tensor, rows: Tensor) -> Tensor:
        taken = _cut(weights, shapes)
        known = {id(one): tensor for one, tensor in zip(settled, taken[len(trainable) :], strict=True)}
        others = [known.get(id(one), ops.zeros(one.shape, one.dtype)) for one in model.non_trainable_variables]
        own = ops.split(ops.take(tables, rows, axis=0), np.cumsum(widths)[:-1].tolist(), axis=1)
        of_all = _cut(shared, shared_shapes)
        said = dict(zip((*table_names, *shared_names), (*own, *of_all), strict=True))

        def call(seen: Tensor) -> Tensor:
            return model.stateless_call(taken[: len(trainable)], others, seen, training=False)[0]

        return program(call, said, values)

    return run


def _cut(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Arrays of these shapes that stand one after the other."""
    if not shapes:
        return []
    parts = ops.split(flat, np.cumsum([math.prod(shape) for shape in shapes])[:-1].tolist())
    return [ops.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]


def _compile_tensorflow(run: Compiled, arrays: Arrays, shape: Shape) -> Compiled:
    import tensorflow as tf

    signature = [
        *(tf.TensorSpec(one.shape, one.dtype) for one in arrays),
        tf.TensorSpec(shape, tf.float32),
        tf.TensorSpec(shape[:1], tf.int32),
    ]
    concrete = tf.function(run, input_signature=signature, jit_compile=True, autograph=False).get_concrete_function()
    return lambda weights, tables, shared, values, rows: concrete(
        weights, tables, shared, tf.constant(values), tf.constant(rows)
    )


def _compile_jax(run: Compiled, arrays: Arrays, shape: Shape) -> Compiled:
    import jax

    with jax.default_matmul_precision("float32"):  # as with TensorFlow: no TF32
        made: Compiled = (
            jax.jit(run).lower(*arrays, np.zeros(shape, np.float32), np.zeros(shape[:1], np.int32)).compile()
        )
    return made


COMPILERS = {"tensorflow": _compile_tensorflow, "jax": _compile_jax}

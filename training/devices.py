"""Where a model learns, and in what precision."""

from __future__ import annotations

import json
import re
from typing import Any, Literal, TypeAlias

import keras

from stream_detector.errors import SettingsError

Precision: TypeAlias = Literal["float32", "mixed"]

ON_CPU = "precision mixed needs a GPU: on a CPU it is no faster; trained in float32"


def choose_device(name: str) -> None:
    """Let the backend see the ``cpu`` alone, the first ``gpu``, ``gpu:1`` and so on, or (``auto``) what is there.

    To be called before the backend is used for the first time. Raises `SettingsError` if there is no such device.
    """
    if not re.fullmatch(r"auto|cpu|gpu(:\d+)?", name):
        raise SettingsError(f"--device {name}: give auto, cpu, gpu, or gpu: and a number, such as gpu:1")
    if name == "auto":
        return
    number = None if name == "cpu" else int(name.partition(":")[2] or 0)
    if keras.backend.backend() == "jax":
        _choose_jax(name, number)
    else:
        _choose_tensorflow(name, number)


def has_gpu() -> bool:
    """Whether the backend computes on a GPU."""
    return any(name.lower().startswith(("gpu", "cuda")) for name in keras.distribution.list_devices())


def policy(precision: Precision) -> str:
    """The name of Keras' policy for a precision on this device."""
    return "mixed_float16" if precision == "mixed" and has_gpu() else "float32"


def in_policy(model: Any, name: str) -> Any:
    """A functional model with the same weights whose layers compute under another policy of Keras."""
    config = json.loads(model.to_json())
    _replace_policies(config, name)
    twin = keras.models.model_from_json(json.dumps(config))
    twin.set_weights(model.get_weights())
    return twin


def computes_in_half(model: Any) -> bool:
    """Whether any layer of a model computes in float16."""
    inner = getattr(model, "layers", [])
    return getattr(model, "compute_dtype", "") == "float16" or any(computes_in_half(layer) for layer in inner)


def _replace_policies(config: Any, name: str) -> None:
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            config["config"]["name"] = name
        for part in config.values():
            _replace_policies(part, name)
    elif isinstance(config, list):
        for part in config:
            _replace_policies(part, name)


def _choose_tensorflow(name: str, number: int | None) -> None:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if number is not None and number >= len(gpus):
        raise _absent(name, len(gpus))
    try:
        tf.config.set_visible_devices([] if number is None else gpus[number], "GPU")
    except RuntimeError as error:
        raise SettingsError(f"--device {name}: too late, TensorFlow is in use already; choose it first") from error


def _choose_jax(name: str, number: int | None) -> None:
    import jax

    if number is None:
        jax.config.update("jax_platforms", "cpu")  # type: ignore[no-untyped-call]
        return
    jax.config.update("jax_cuda_visible_devices", str(number))  # type: ignore[no-untyped-call]
    try:
        found = jax.devices("gpu")
    except RuntimeError:
        found = []
    if not found:
        raise _absent(name, 0)


def _absent(name: str, count: int) -> SettingsError:
    seen = "no GPU" if not count else "gpu:0 alone" if count == 1 else f"gpu:0 to gpu:{count - 1}"
    advice = "stream-detector[gpu] and NVIDIA's driver are needed" if not count else "give one of those"
    return SettingsError(f"--device {name}: {keras.backend.backend()} sees {seen} here; {advice}, or give cpu")

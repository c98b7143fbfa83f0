"""Scoring on the device with Keras, on its TensorFlow or its JAX backend.

One compiled function takes raw windows to scores: scaling, the model's forward pass, errors, contributions
and thresholds are all inside (`adapters.keras.programs`), and the weights, statistics and thresholds stay on the
device. Training calibrates through the same function, so that its errors are the service's errors.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from stream_detector.adapters.keras.compilers import Arrays, Layout, arrays_of, compiled, device_name, prepare_backend
from stream_detector.adapters.keras.partners import before
from stream_detector.adapters.keras.programs import (
    Tensor,
    columns,
    embedded,
    expected,
    residuals_of,
    score_by,
    way_of,
)
from stream_detector.bundle import Bundle
from stream_detector.contents import ErrorStatistics, Output, Scaler
from stream_detector.errors import BundleError, Unavailable
from stream_detector.events import LASTING, PARTS, Errors, Float32, Lasting, PartName
from stream_detector.groups import Grouping
from stream_detector.profiles import profiles_of
from stream_detector.thresholds import Thresholds

log = logging.getLogger(__name__)

BUCKETS = (16, 64, 256, 1024, 4096, 16384)  # batch sizes that are compiled; others are padded to the next


class CompiledModel:
    """A model with its tables on the device, and programs over them compiled for fixed batch sizes."""

    def __init__(
        self,
        model: Any,
        length: int,
        scaler: Scaler,
        errors: ErrorStatistics,
        thresholds: Thresholds | None,  # None: each is 1
        buckets: list[int],
        output: Output = "window",
        stride: int = 1,
        code: str = "",
        one_size: bool = False,  # pad to the largest batch; smaller ones only where the device fails on it
        grouping: Grouping | None = None,  # of training
    ) -> None:
        size = len(scaler.center)
        self.model = log_odds(model) if output == "probability" else model
        self.coder = keras.Model(model.input, model.get_layer(code).output) if code else None
        self.shape = (length, size)
        self.output = output
        self.stride = min(stride, length)
        self.shapes = {
            "score": (columns(errors, size),),
            "residuals": self.model.output_shape[1:],
            "expected": self.shape,
        }
        if self.coder is not None:
            self.shapes["embedded"] = (math.prod(self.coder.output_shape[1:]),)
        self.statistics = errors
        self.buckets = buckets
        self.least = buckets[-1] if one_size else 0
        self.profiles = profiles_of(scaler, errors, thresholds, self.model.output_shape[-1], grouping)
        self.arrays: dict[str, tuple[Arrays, Layout]] = {}  # of the model, and of the one that stops at the code
        self.compiled: dict[tuple[str, int], Callable[[Float32, Any], Tensor]] = {}

    def warm(self, embedding: bool = False) -> None:
        """Compile scoring for every bucket, ``embedding`` if it is wanted, and what the first alert will ask for."""
        self.expected([""], np.zeros((1, *self.shape), np.float32))
        for bucket in self.buckets:
            if embedding:
                self._run("embedded", np.zeros((bucket, *self.shape), np.float32), np.zeros(bucket, np.int32))
            self._run("score", np.zeros((bucket, *self.shape), np.float32), np.zeros(bucket, np.int32))

    def errors(self, sensors: Sequence[str], values: Float32) -> Errors:
        """Errors of ``n`` raw windows (n, W, F), judged by what is known of their sensors (n)."""
        flat = self._run("score", values, self._rows(sensors))
        flat = np.where(np.isfinite(flat[:, :1]), flat, np.float32(np.nan))
        one = 5 + self.shape[1]  # columns of a part
        told, strange, rest = np.split(flat, [one, one + self.shape[1]], axis=1)
        found = _of_parts(told, self.profiles.parts)
        outside = strange > 0 if self.statistics.ends is not None else None
        lasting = None
        if rest.shape[1]:
            others = [name for name in self.profiles.parts if name not in LASTING]
            lasting = Lasting(rest[:, -1], _of_parts(rest[:, :-1], others))
        return replace(found, outside=outside, lasting=lasting)

    def residuals(self, sensors: Sequence[str], values: Float32) -> Float32:
        """Residuals: (n, W, F) in scaled units, or the model's own (n, D); log-odds (n, 1) of a classifier."""
        return self._run("residuals", values, self._rows(sensors))

    def codes(self, sensors: Sequence[str], values: Float32) -> Float32:
        """What the layer ``code`` makes of raw windows (n, W, F), as rows (n, D); one that is not whole is NaN."""
        codes = self._run("embedded", values, self._rows(sensors))
        return np.where(np.isfinite(codes).all(axis=1, keepdims=True), codes, np.float32(np.nan))

    def expected(self, sensors: Sequence[str], values: Float32, parts: Sequence[PartName] = ()) -> Float32:
        """What the parts (n) of the score expected in raw units, (n, W, F); NaN where the model expects nothing.

        The model expects its reconstruction, ``change`` that the newest steps are as those before, ``level`` that all
        steps lie where they did in training, ``spread`` no value at any step. Without ``parts``, those are the model's.
        """
        rows = self._rows(sensors)
        if self.output == "window":
            expected = self._run("expected", values, rows)
        else:
            expected = np.full((len(values), *self.shape), np.nan, np.float32)
        for at, part in enumerate(parts):
            if part == "change":
                expected[at, -self.stride :] = before(self.shape[0], self.stride) @ values[at]
            elif part == "level":
                of = self.profiles.tables
                row = int(rows[at])
                expected[at] = of["level_center"][row] * of["scale"][row] + of["center"][row]
            elif part == "spread":
                expected[at] = np.nan
        return expected

    def _rows(self, sensors: Sequence[str]) -> NDArray[np.int32]:
        return np.asarray(self.profiles.rows(sensors), np.int32)

    def _run(self, name: str, values: Float32, rows: Any) -> Float32:
        """Cut and pad to the buckets, put all cuts in the device's queue, then wait for the results."""
        if values.shape[1:] != self.shape:
            raise ValueError(f"windows are {values.shape[1:]}, the model takes {self.shape}")
        # What was expected is asked of few windows, those with alerts, and must not wait for another size to compile.
        most, least = (self.buckets[0], 0) if name == "expected" else (self.buckets[-1], self.least)
        cuts = [(at, min(at + most, len(values))) for at in range(0, len(values), most)]
        try:
            waiting = [(to - at, self._queue(name, values[at:to], rows[at:to], least)) for at, to in cuts]
            done = [self._fetch(result, count) for count, result in waiting]
        except Exception as error:  # whatever the device's library raises: out of memory, device lost, …
            log.warning("the device failed on %d windows, trying fewer at once: %s", len(values), _first_line(error))
            done = [self._in_halves(name, values, rows)]
        return np.concatenate(done) if done else np.zeros((0, *self.shapes[name]), np.float32)

    def _queue(self, name: str, values: Float32, rows: Any, least: int = 0) -> Tensor:
        bucket = next(size for size in self.buckets if size >= max(len(values), least))
        window = np.zeros((bucket, *self.shape), np.float32)
        window[: len(values)] = values
        row = np.zeros(bucket, np.int32)
        row[: len(values)] = rows
        return self._program(name, bucket)(window, row)

    def _fetch(self, result: Tensor, count: int) -> Float32:
        return np.asarray(ops.convert_to_numpy(result), np.float32)[:count]

    def _in_halves(self, name: str, values: Float32, rows: Any) -> Float32:
        """After a failure: ever fewer windows at once. One that fails alone comes back as NaN."""
        smallest = self.buckets[0]
        try:
            self._fetch(self._queue(name, np.zeros((smallest, *self.shape), np.float32), [0] * smallest), 0)
        except Exception as error:
            raise Unavailable(f"the device fails: {_first_line(error)}; check it, or restart the worker") from error
        done: list[Float32] = []
        left = [(0, len(values))]
        while left:
            at, to = left.pop()
            try:
                if to - at > self.buckets[-1]:
                    raise ValueError("more than the largest batch")
                done.append(self._fetch(self._queue(name, values[at:to], rows[at:to]), to - at))
            except Exception as error:
                if to - at > 1:
                    middle = (at + to) // 2
                    left += [(middle, to), (at, middle)]
                    continue
                log.warning("the device fails on one window and not on others: %s", _first_line(error))
                done.append(np.full((1, *self.shapes[name]), np.nan, np.float32))
        return np.concatenate(done)

    def _program(self, name: str, bucket: int) -> Callable[[Float32, Any], Tensor]:
        if (name, bucket) not in self.compiled:
            way = way_of(self.output, self.statistics, self.stride)
            programs = {
                "score": (score_by(way), way),
                "residuals": (residuals_of(self.output), self.output),
                "expected": (expected, None),
                "embedded": (embedded, None),
            }
            program, told_by = programs[name]
            whose, model = ("coder", self.coder) if name == "embedded" else ("model", self.model)
            if whose not in self.arrays:
                self.arrays[whose] = arrays_of(model, self.profiles)
            given = *self.arrays[whose], (bucket, *self.shape)
            self.compiled[name, bucket] = compiled(program, (name, told_by), model, *given)
        return self.compiled[name, bucket]


class KerasScorer:
    """`ports.Scorer` on Keras. ``load`` before anything else; not thread-safe, but for `expect` beside another call."""

    def __init__(self, bundle: Bundle, max_batch_windows: int = 1024, embeddings: bool = False) -> None:
        self.bundle = bundle
        self.embeddings = embeddings  # whether they will be asked for
        self.features = bundle.manifest.features
        self.length = bundle.manifest.length
        self.max_batch_windows = max_batch_windows
        self.compiled: CompiledModel | None = None

    @property
    def device(self) -> str:
        """What forward passes run on; after `load`."""
        return device_name()

    def load(self) -> None:
        """Make the model from the bundle's verified bytes and put it on the device.

        Raises `BundleError` if it is no such model, `SettingsError` if Keras runs on a backend that is not
        ours.
        """
        prepare_backend()
        model = load_model(self.bundle)
        bundle = self.bundle
        self.compiled = CompiledModel(
            model,
            self.length,
            bundle.scaler,
            bundle.errors,
            bundle.thresholds,
            buckets_up_to(self.max_batch_windows),
            bundle.manifest.output,
            bundle.manifest.stride,
            bundle.manifest.code,
            grouping=Grouping(bundle.manifest.groups),
        )

    def warm(self) -> None:
        """Compile every bucket; takes about a second each."""
        self._loaded().warm(self.embeddings)

    def embed(self, sensors: Sequence[str], values: Float32) -> Float32:
        """Codes (n, D) of windows (n, W, F) in raw units, of bundles that say which layer makes them."""
        return self._loaded().codes(sensors, values)

    def score(self, sensors: Sequence[str], values: Float32) -> Errors:
        """Errors of windows (n, W, F) in raw units without NaN. Raises `Unavailable` if the device fails."""
        return self._loaded().errors(sensors, values)

    def expect(self, sensors: Sequence[str], values: Float32, parts: Sequence[PartName] = ()) -> Float32:
        """See `CompiledModel.expected`."""
        return self._loaded().expected(sensors, values, parts)

    def _loaded(self) -> CompiledModel:
        if self.compiled is None:
            raise RuntimeError("call load() first")
        return self.compiled


def _of_parts(flat: Float32, names: Sequence[str]) -> Errors:
    """Errors from `programs.highest` (n, 5 + F) of these parts."""
    worst, part = (np.nan_to_num(flat[:, at]).astype(np.int32) for at in (3, 4))
    places = np.array([PARTS.index(name) for name in names], np.int8)
    return Errors(flat[:, 0], flat[:, 1], flat[:, 2], flat[:, 5:], worst, places[part])


def buckets_up_to(most: int) -> list[int]:
    """Batch sizes to compile: those of `BUCKETS` below the largest batch, and the largest batch itself."""
    return [size for size in BUCKETS if size < most] + [most]


def load_model(bundle: Bundle) -> Any:
    """The Keras model of a bundle, without pickles and without code (`safe_mode`). Raises `BundleError`."""
    with tempfile.TemporaryDirectory() as folder:  # Keras reads paths only; the bundle's folder may be replaced by now
        file = Path(folder) / "model.keras"
        file.write_bytes(bundle.model)
        try:
            model = keras.saving.load_model(file, custom_objects=None, compile=False, safe_mode=True)
        except Exception as error:  # Keras raises whatever its readers raise: zipfile, json, h5py, its own
            raise BundleError(
                f"{bundle.path}: model.keras cannot be loaded: {_first_line(error)}; train the bundle again"
            ) from error
    taken = (None, bundle.manifest.length, len(bundle.manifest.features))
    # How wide a residual is only its statistics say, and without them anything will do.
    wide = len(bundle.errors.mean) or model.output_shape[-1]
    returned = {"window": taken, "residual": (None, wide), "probability": (None, 1)}[bundle.manifest.output]
    for what, shape, wanted in (("takes", model.input_shape, taken), ("returns", model.output_shape, returned)):
        if shape != wanted:
            raise BundleError(f"{bundle.path}: model.keras {what} {shape}, not {wanted}; train the bundle again")
    code = bundle.manifest.code
    if code and not any(layer.name == code for layer in model.layers):
        raise BundleError(f"{bundle.path}: model.keras has no layer named {code}; train the bundle again")
    if bundle.manifest.output == "probability" and not any(layer.name == "head" for layer in model.layers):
        raise BundleError(f"{bundle.path}: model.keras has no layer named head; train the bundle again")
    return model


def log_odds(model: Any) -> Any:
    """A classifier's layers from windows (n, W, F) to the log-odds of anomaly (n, 1), where no probability saturates.

    Its layer "head" is linear: one unit, or two channels (normal, anomalous) whose difference it is.
    """
    head = model.get_layer("head").output  # (n, 1) or (n, 2)
    return keras.Model(model.input, head if head.shape[-1] == 1 else head[:, 1:] - head[:, :1])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

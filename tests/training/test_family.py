"""Every kind of autoencoder, from ``--model`` to scores of the service's own code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream_detector import Detector, load_bundle
from stream_detector.errors import SettingsError
from stream_detector.events import Events, Float32
from stream_detector.settings import Device, Settings
from training.autoencoders import FAMILY, WRAPPERS, architecture
from training.train import TrainOptions, train

LENGTH, STRIDE = 8, 4
SMALL = {  # units, so that a test takes seconds
    "lstm": (8,),
    "dense": (16, 4),
    "dense-l2": (8,),
    "rnn-classifier": (8, 4),
    "seq2seq": (8,),
    "aer": (4,),
    "forecast": (8,),
}


def waves(count: int = 1_200, seed: int = 1) -> Events:
    """Three features that go together: two phases of a wave, and their product."""
    rng = np.random.default_rng(seed)
    phase = np.arange(count) / 6
    values = np.stack([np.sin(phase), np.cos(phase), np.sin(phase) * np.cos(phase)], axis=1)
    return Events(
        ["wave"] * count,
        np.arange(count, dtype=np.int64) * 1_000,
        (10 + values + rng.normal(0, 0.02, values.shape)).astype(np.float32),
        np.arange(count, dtype=np.int64),
        np.full(count, -1, np.int64),
    )


def windows(count: int = 60) -> Float32:
    values = waves(seed=2).values
    return np.stack([values[at : at + LENGTH] for at in range(0, count * STRIDE, STRIDE)])


@pytest.mark.parametrize("name", [*FAMILY, "denoising", "sparse+dense", "denoising+contractive+dense", "l2+dense"])
def test_each_kind_is_trained_saved_loaded_and_tells_odd_windows_from_others(name: str, tmp_path: Path) -> None:
    base = name.split("+")[-1]
    units = SMALL.get(base, (8,))
    options = TrainOptions(
        kind=name, length=LENGTH, stride=STRIDE, units=units, epochs=12, learning_rate=1e-2, budget=5.0
    )
    summary = train([waves()], ("a", "b", "c"), options, tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    assert (bundle.manifest.kind, bundle.manifest.version) == (name, summary.version)
    detector = Detector(bundle, Settings(device=Device(max_batch_windows=16)))
    normal = windows()
    odd = normal.copy()
    odd[:, :, 1] = odd[:, ::-1, 1] + 1.5  # the second feature runs backwards, and too high
    usual, strange = detector.score(normal).score, detector.score(odd).score
    assert np.isfinite(usual).all()
    assert np.mean(strange[:, None] > usual) > 0.9  # the area under the ROC curve


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lsm", "model 'lsm' is not known; use one of lstm"),
        ("dense+denoising+lstm", "is not known"),
        ("denoising+", "is not known"),
        ("", "is not known"),
        ("sparse+seq2seq", "seq2seq has a way of training of its own"),
    ],
)
def test_names_that_make_no_sense(name: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told.replace("+", r"\+")):
        architecture(name)


def test_wrappers_add_up() -> None:
    wrapping = architecture("denoising+contractive+dense").wrapping
    assert wrapping is not None
    assert (wrapping.noise, wrapping.contraction, wrapping.sparse_weight) == (
        WRAPPERS["denoising"]["noise"], WRAPPERS["contractive"]["contraction"], 0,
    )  # fmt: skip


def test_rows_alone_can_be_windows_of_a_dense_model(tmp_path: Path) -> None:
    options = TrainOptions(kind="dense", length=1, stride=1, units=(8, 2), epochs=5, learning_rate=1e-2, budget=50.0)
    train([waves()], ("a", "b", "c"), options, tmp_path / "bundle")
    detector = Detector(load_bundle(tmp_path / "bundle"), Settings(device=Device(max_batch_windows=16)))
    [score] = detector.update("wave", 0, {"a": 10.0, "b": 11.0, "c": 10.0})
    assert (score.events, score.window_start) == (1, score.window_end)


def test_other_kinds_want_longer_windows(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="window = 1 will not do; give 2 or more"):
        train([waves()], ("a", "b", "c"), TrainOptions(length=1, stride=1), tmp_path / "bundle")

"""Where a model learns, in what precision, and what TensorBoard is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from stream_detector.errors import SettingsError
from tests.commandline import invoke
from training.autoencoders import architecture
from training.devices import choose_device, has_gpu, in_policy, policy
from training.fit import fit
from training.options import TrainOptions, check_options

WINDOWS = np.random.default_rng(3).random((60, 8, 2)).astype(np.float32)


def test_a_device_that_is_none_or_not_there_is_told() -> None:
    with pytest.raises(SettingsError, match="--device tpu: give auto, cpu, gpu, or gpu: and a number"):
        choose_device("tpu")
    with pytest.raises(SettingsError, match=r"--device gpu:99: tensorflow sees .* here; .*"):
        choose_device("gpu:99")
    choose_device("auto")


def test_the_command_says_so_in_a_line(tmp_path: Path) -> None:
    told = invoke("train", "x.csv", "--out", str(tmp_path / "bundle"), "--device", "abacus")
    assert told.code == 2
    assert "error: --device abacus: give auto, cpu" in " ".join(told.err.split())


def test_mixed_precision_is_for_a_gpu() -> None:
    assert policy("float32") == "float32"
    assert policy("mixed") == ("mixed_float16" if has_gpu() else "float32")
    with pytest.raises(SettingsError, match=r"precision mixed is not for sparse.dense, whose penalties need float32"):
        check_options(TrainOptions(kind="sparse+dense", precision="mixed"))


@pytest.mark.parametrize("kind", ["lstm", "dense"])
def test_a_model_has_the_same_weights_in_another_policy(kind: str) -> None:
    family = architecture(kind)
    model = family.build(8, 2, units=(6,), seed=1)
    mixed = in_policy(model, "mixed_float16")
    assert {layer.compute_dtype for layer in mixed.layers if layer.weights} == {"float16"}
    back = in_policy(mixed, "float32")
    assert {layer.compute_dtype for layer in back.layers} == {"float32"}
    for one, other in zip(model.get_weights(), back.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    exact, rough = (keras.ops.convert_to_numpy(one(WINDOWS)) for one in (model, mixed))
    np.testing.assert_allclose(rough, exact, atol=0.01)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(back(WINDOWS)), exact)


@pytest.mark.parametrize("kind", ["lstm", "seq2seq"])
@pytest.mark.parametrize("name", ["float32", "mixed_float16"])
def test_in_half_precision_gradients_are_scaled(kind: str, name: str) -> None:
    family = architecture(kind)
    model = in_policy(family.build(8, 2, units=(6,), seed=1), name)
    trainer = family.trainer(model)
    taught = [WINDOWS, WINDOWS[:10]]
    history = fit(trainer, *taught, epochs=3, batch=20, loss=family.loss)
    assert isinstance(trainer.optimizer, keras.optimizers.LossScaleOptimizer) == (name == "mixed_float16")
    assert history.loss[-1] < history.loss[0]


def test_tensorboard_gets_each_epochs_losses(tmp_path: Path) -> None:
    import tensorflow as tf

    family = architecture("dense")
    model = family.build(8, 2, units=(6,), seed=1)
    about: dict[str, Any] = {"loss": family.loss, "metrics": family.metrics, "tensorboard": tmp_path}
    history = fit(family.trainer(model), WINDOWS, WINDOWS[:10], epochs=3, batch=20, **about)
    kept = float(np.square(model.predict(WINDOWS[:10], verbose=0) - WINDOWS[:10]).mean())
    assert history.kept["val_mse"] == pytest.approx(kept, rel=1e-4)  # measured, while a cross-entropy is minimised
    assert history.kept["val_loss"] != pytest.approx(kept, rel=0.1)
    wanted = {
        ("train", "epoch_loss"): history.loss,
        ("train", "epoch_mse"): history.metrics["mse"],
        ("validation", "epoch_loss"): history.val_loss,
        ("validation", "epoch_mse"): history.metrics["val_mse"],
    }
    for (folder, tag), values in wanted.items():
        [file] = (tmp_path / "fit" / folder).iterdir()
        found = {
            event.step: float(tf.make_ndarray(value.tensor))
            for event in tf.compat.v1.train.summary_iterator(str(file))
            for value in event.summary.value
            if value.tag == tag
        }
        assert found == pytest.approx(dict(enumerate(values)))


def test_a_folder_that_tensorboard_cannot_have_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    family = architecture("dense")
    model = family.build(8, 2, units=(6,), seed=1)
    with pytest.raises(SettingsError, match="TensorBoard's files cannot go to"):
        fit(family.trainer(model), WINDOWS, WINDOWS[:10], epochs=1, tensorboard=tmp_path / "file")

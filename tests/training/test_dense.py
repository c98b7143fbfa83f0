"""The dense models are what the papers say, to the parameter, and learn to tell outliers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from stream_detector import Detector, load_bundle
from stream_detector.adapters.keras.scorer import load_model
from stream_detector.events import Events
from training.autoencoders import dense
from training.fit import fit
from training.options import Session, TrainOptions
from training.train import train

ENCODER = [1_641_472, 8_200, 36, 15]
DECODER = [16, 40, 9_216, 1_642_050]
WITHOUT_BIAS = [1_640_448, 8_192, 32, 12, 12, 32, 8_192, 1_640_448]


def hidden(model: Any) -> list[Any]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]


def test_paper_sized_counts() -> None:
    model = dense.build(1, 1602)
    assert dense.UNITS == (1024, 8, 4, 3)
    assert [layer.units for layer in hidden(model)] == [1024, 8, 4, 3, 4, 8, 1024, 1602]
    assert [layer.count_params() for layer in hidden(model)] == ENCODER + DECODER
    assert model.count_params() == 3_301_045


def test_the_paper_s_size_is_trained_saved_loaded_and_scored(tmp_path: Path) -> None:
    """As `train --model dense --window 1` on a table of as many columns."""
    rng, count, wide = np.random.default_rng(0), 600, 1602
    values = rng.normal(0, 1, (count, wide)).astype(np.float32)
    times = 1_700_000_000_000 + 60_000 * np.arange(count)
    table = Events(["a"] * count, times, values, np.arange(count), np.full(count, -1))
    names = tuple(f"f{at}" for at in range(wide))
    options = TrainOptions("dense", length=1, stride=1, epochs=1)
    train([table], names, options, tmp_path / "bundle", session=Session(pictures=False))
    bundle = load_bundle(tmp_path / "bundle")
    assert load_model(bundle).count_params() == 3_301_045
    row = dict(zip(names, values[0].tolist(), strict=True))
    detector = Detector(bundle)
    [calm] = detector.update("a", 1_800_000_000_000, row)
    [odd] = detector.update("a", 1_800_000_060_000, row | {"f7": 1e4})
    assert calm.score < 1 < odd.score
    assert max(odd.contributions, key=lambda name: odd.contributions[name]) == "f7"


def test_without_biases_a_layer_counts_as_its_mirror() -> None:
    with_bias, model = dense.build(1, 1602), dense.build(1, 1602, use_bias=False)
    counts = [layer.count_params() for layer in hidden(model)]
    assert counts == WITHOUT_BIAS
    assert counts == counts[::-1]
    assert model.count_params() == sum(WITHOUT_BIAS)
    for full, bare in zip(hidden(with_bias), hidden(model), strict=True):
        assert full.count_params() - bare.count_params() == full.units  # biases, and nothing else


def test_activations_and_initialisers() -> None:
    *inner, last = hidden(dense.build(3, 2, units=(5, 2)))
    assert {layer.activation for layer in inner} == {keras.activations.leaky_relu}
    assert last.activation is keras.activations.sigmoid
    assert all(isinstance(layer.kernel_initializer, keras.initializers.GlorotNormal) for layer in [*inner, last])
    assert (dense.LOSS, dense.METRICS, dense.LEARNING_RATE, dense.SCALING) == (
        "binary_crossentropy",
        ("mse",),
        1e-4,
        "unit",
    )


@pytest.mark.parametrize("build", [dense.build, dense.build_l2])
@pytest.mark.parametrize("units", [(4,), (6, 4)])
def test_windows_in_windows_out(build: Any, units: tuple[int, ...]) -> None:
    model = build(7, 2, units=units)
    assert model.input_shape == model.output_shape == (None, 7, 2)
    assert model.get_layer("code").output.shape == (None, 4)
    sizes = [*units, *units[-2::-1], 14]
    assert [layer.units for layer in hidden(model)] == sizes


@pytest.mark.parametrize("build", [dense.build, dense.build_l2])
def test_weights_come_from_the_seed_alone(build: Any) -> None:
    one, same, other = (build(5, 2, units=(4,), seed=seed).get_weights() for seed in (1, 1, 9))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])
    first, second = build(1, 4, units=(4, 4)).get_weights()[0:4:2]
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("build", [dense.build, dense.build_l2])
@pytest.mark.parametrize(("length", "features", "units"), [(0, 1, (3,)), (4, 0, (3,)), (4, 1, ()), (4, 1, (3, 0))])
def test_senseless_sizes(build: Any, length: int, features: int, units: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        build(length, features, units=units)


@pytest.mark.parametrize("build", [dense.build, dense.build_l2])
def test_saved_and_loaded_in_safe_mode(build: Any, tmp_path: Path) -> None:
    model = build(4, 3, units=(5, 2), seed=2)
    values = np.random.default_rng(0).random((6, 4, 3), np.float32)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", custom_objects=None, compile=False, safe_mode=True)
    np.testing.assert_array_equal(again.predict(values, verbose=0), model.predict(values, verbose=0))


def test_l2_is_dense_8_relu_twice() -> None:
    model = dense.build_l2(1, 6)
    code, last = hidden(model)
    assert (code.units, last.units) == (8, 6)
    assert code.activation is last.activation is keras.activations.relu
    assert code.activity_regularizer.get_config()["l2"] == pytest.approx(10e-5)
    assert (dense.L2_UNITS, dense.L2_LOSS, dense.L2_ACTIVITY) == ((8,), "mse", 1e-4)


def test_l2_the_regularisation_loss_is_in_the_total_loss() -> None:
    model = dense.build_l2(4, 3, seed=1, activity=dense.L2_ACTIVITY)
    values = np.random.default_rng(0).random((32, 4, 3), np.float32)
    codes = keras.Model(model.input, model.get_layer("code").output).predict(values, verbose=0)
    penalty = 1e-4 * float((codes**2).sum(axis=1).mean())  # Keras divides by the batch's size
    assert penalty > 1e-5
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse", metrics=["mse"])
    for total, mse in (
        model.test_on_batch(values, values),
        model.train_on_batch(values, values),
    ):
        assert float(total) - float(mse) == pytest.approx(penalty, rel=0.01)
    model.compile(optimizer=keras.optimizers.SGD(100.0), loss=lambda _, seen: 0.0 * keras.ops.mean(seen))
    model.train_on_batch(values, values)  # its gradient alone moves weights, so that codes are smaller
    smaller = keras.Model(model.input, model.get_layer("code").output).predict(values, verbose=0)
    assert (smaller**2).sum() < 0.99 * (codes**2).sum()


def table(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Rows of ten features that two causes make, in 0..1."""
    causes = np.random.default_rng(seed).random((count, 2))
    mixing = np.random.default_rng(99).dirichlet((1, 1), 10).T
    return (causes @ mixing).astype(np.float32).reshape(count, 1, 10)


def test_outliers_of_a_table_stand_out() -> None:
    model = dense.build(1, 10, units=(32, 3), seed=0)
    rows = table(1500, 0)
    model.compile(optimizer=keras.optimizers.Adam(3e-3), loss=dense.LOSS, metrics=list(dense.METRICS))
    keras.utils.set_random_seed(0)
    past = model.fit(rows, rows, epochs=25, batch_size=64, verbose=0).history
    assert past["mse"][-1] < 0.3 * past["mse"][0]
    normal, shuffled = table(300, 1), table(300, 1)
    np.random.default_rng(2).permuted(shuffled, axis=2, out=shuffled)  # each value as usual, together they are not
    errors = [((model.predict(part, verbose=0) - part) ** 2).mean(axis=(1, 2)) for part in (normal, shuffled)]
    threshold = np.quantile(errors[0], 0.95)
    assert (errors[1] > threshold).mean() > 0.8


def test_l2_every_output_can_learn() -> None:
    values = np.random.default_rng(0).random((50, 16, 1), np.float32)
    for seed in range(5):
        assert (dense.build_l2(16, 1, seed=seed).predict(values, verbose=0).max(axis=0) > 0).all()


def test_l2_scores_a_series_by_threshold() -> None:
    """A wave's windows, one of them with a spike; errors beyond the largest of training are anomalies."""
    wave = (0.5 + 0.3 * np.sin(np.arange(800) / 5)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(wave, 16)[:, :, None].copy()  # (n, 16, 1)
    model = dense.build_l2(16, 1, seed=3)
    fit(model, windows[:500], windows[500:600], epochs=40, learning_rate=5e-3, batch=32)

    def errors(values: Any) -> Any:
        return ((model.predict(values, verbose=0) - values) ** 2).mean(axis=(1, 2))

    threshold = 1.5 * errors(windows[:600]).max()
    assert (errors(windows[600:]) <= threshold).all()
    spiked = windows[600:].copy()
    spiked[:, 7] += 0.5
    assert (errors(spiked) > threshold).mean() > 0.95

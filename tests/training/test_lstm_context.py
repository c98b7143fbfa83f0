"""The encoder's own output is predicted through a bottleneck, and a constant encoder is found out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from stream_detector.errors import DataError
from stream_detector.events import Float32
from training.autoencoders import architecture
from training.autoencoders.lstm_context import (
    COLLAPSED,
    UNITS,
    build,
    check_collapse,
    encoder,
    predictor,
    spread,
    trainer,
)
from training.fit import fit

SMALL = (12, 10, 4)


def waves(count: int, length: int = 8, seed: int = 0) -> Float32:
    rng = np.random.default_rng(seed)
    phase, speed = rng.uniform(0, 6, (count, 1)), rng.uniform(0.3, 0.9, (count, 1))
    found: Float32 = np.sin(phase + speed * np.arange(length))[:, :, None].astype(np.float32)
    return found


def test_the_mission_s_sizes() -> None:
    ramp = np.linspace(0.1, 0.9, 9, dtype=np.float32).reshape(1, 9, 1)
    model = build(9, 1)
    assert UNITS == (100, 100, 32)
    assert predictor(model).predict(ramp, verbose=0).shape == (1, 100)
    assert model.predict(ramp, verbose=0).shape == (1, 100)
    assert model.get_layer("code").output.shape == (None, 32)
    counts = {layer.name: layer.count_params() for layer in model.layers if layer.weights}
    assert counts == {"context": 40_800, "hidden_1": 10_100, "code": 3_232, "prediction": 3_300}
    activations = [layer.activation.__name__ for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert activations == ["relu", "relu", "sigmoid"]


def test_the_residual_is_prediction_minus_context() -> None:
    model, values = build(8, 1, SMALL), waves(5)
    told, prediction, context = (one.predict(values, verbose=0) for one in (model, predictor(model), encoder(model)))
    np.testing.assert_allclose(told, prediction - context, rtol=1e-6)
    assert (prediction > 0).all()  # a sigmoid, whose target may well be negative
    assert (context < 0).any()


def test_loss_falls_without_any_y() -> None:
    ramp = np.linspace(0.1, 0.9, 9, dtype=np.float32).reshape(1, 9, 1)
    keras.utils.set_random_seed(0)
    model = build(9, 1)
    taught = trainer(model)
    taught.compile(optimizer="adam", loss="mse")
    loss = taught.fit(ramp, epochs=40, verbose=0).history["loss"]
    assert loss[-1] < 0.1 * loss[0]
    residual = model.predict(ramp, verbose=0)
    assert float(np.square(residual).mean()) < 0.1 * loss[0]  # the scoring model holds what was learnt


def test_fits_as_training_does() -> None:
    model = build(8, 1, SMALL)
    values, held = waves(128), waves(32, seed=1)
    before = spread(model, held)
    history = fit(trainer(model), values, held, epochs=4, batch=32)
    assert history.val_loss[-1] < history.val_loss[0]
    now = float(np.square(model.predict(held, verbose=0)).mean())
    assert now == pytest.approx(history.val_loss[history.best], rel=1e-3)
    assert check_collapse(model, held, before) > COLLAPSED


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_a_stopped_gradient_moves_the_encoder_by_the_prediction_alone(stop_gradient: bool) -> None:
    model = build(8, 1, SMALL)
    kernel, bias = model.get_layer("code").get_weights()
    model.get_layer("code").set_weights([np.zeros_like(kernel), bias])  # no way from prediction to encoder
    before = model.get_layer("context").get_weights()
    taught = architecture("lstm-context", stop_gradient=stop_gradient).trainer(model)
    taught.compile(optimizer="adam", loss="mse")
    taught.fit(waves(16), epochs=1, batch_size=16, verbose=0)
    same = [np.array_equal(old, new) for old, new in zip(before, model.get_layer("context").get_weights(), strict=True)]
    assert same == [stop_gradient] * 3


def test_normal_windows_draw_together_and_others_stand_out_the_more() -> None:
    """Why the gradient is not stopped by default: what is left of the contexts serves, measured by itself."""
    model, values, held = build(8, 1, SMALL), waves(256), waves(64, seed=1)
    other = np.random.default_rng(2).uniform(-1, 1, (64, 8, 1)).astype(np.float32)
    before, at_first = spread(model, values), told_apart(model, values, held, other)
    keras.utils.set_random_seed(0)
    taught = trainer(model)
    taught.compile(optimizer=keras.optimizers.Adam(3e-3), loss="mse")
    taught.fit(values, epochs=20, batch_size=32, verbose=0)
    assert COLLAPSED < check_collapse(model, values, before) < 0.2
    now = told_apart(model, values, held, other)
    assert now > at_first
    assert now > 0.9


def told_apart(model: Any, normal: Float32, held: Float32, other: Float32) -> float:
    """Area under the ROC curve of the residuals' Mahalanobis distance."""
    residuals = model.predict(normal, verbose=0).astype(np.float64)  # (n, D)
    inverse = np.linalg.pinv(np.cov(residuals.T), rcond=1e-6, hermitian=True)
    well, ill = (
        np.einsum("ni,ij,nj->n", off, inverse, off)
        for off in (model.predict(one, verbose=0) - residuals.mean(axis=0) for one in (held, other))
    )
    return float((ill[:, None] > well).mean())


def test_a_collapsed_encoder_is_found() -> None:
    model, values = build(8, 1, SMALL), waves(32)
    before = spread(model, values)
    assert check_collapse(model, values, before) == pytest.approx(1.0)
    model.get_layer("context").set_weights([np.zeros_like(one) for one in model.get_layer("context").get_weights()])
    with pytest.raises(DataError, match="collapsed"):
        check_collapse(model, values, before)
    with pytest.raises(DataError, match="collapsed"):
        check_collapse(build(8, 1, SMALL), values, 0.0)  # was a constant from the start


def test_saved_and_loaded_in_safe_mode(tmp_path: Path) -> None:
    model, values = build(8, 2, SMALL), np.random.default_rng(0).normal(size=(3, 8, 2)).astype(np.float32)
    model.save(tmp_path / "model.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "model.keras", custom_objects=None, safe_mode=True)
    np.testing.assert_allclose(loaded.predict(values, verbose=0), model.predict(values, verbose=0), rtol=1e-6)
    assert predictor(loaded).predict(values, verbose=0).shape == (3, 12)


def test_weights_come_from_the_seed_alone() -> None:
    one, same, other = (build(5, 2, SMALL, seed=seed).get_weights() for seed in (1, 1, 9))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize(
    ("length", "features", "units"), [(0, 1, (3, 3)), (4, 0, (3, 3)), (4, 1, (3,)), (4, 1, (3, 0))]
)
def test_senseless_sizes(length: int, features: int, units: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        build(length, features, units=units)

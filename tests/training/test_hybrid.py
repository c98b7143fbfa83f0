"""Models that predict do not see what they predict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from stream_detector.adapters.keras.scorer import CompiledModel
from stream_detector.contents import ErrorStatistics, Scaler
from stream_detector.events import Float32
from training.autoencoders.hybrid import UNITS, aer, aer_trainer, forecast
from training.fit import fit

BUILDERS = pytest.mark.parametrize("build", [aer, forecast])


def waves(count: int, length: int = 8, seed: int = 0) -> Float32:
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 6, (count, 1)) + 0.6 * np.arange(length)
    found: Float32 = np.stack([np.sin(phase), np.cos(phase)], axis=2).astype(np.float32)
    return found


def moved(model: Any, step: int) -> Float32:
    """How much each output step (W) moves when one input step does."""
    values = waves(3)
    other = values.copy()
    other[:, step] += 1.0
    found: Float32 = np.abs(model.predict(other, verbose=0) - model.predict(values, verbose=0)).max(axis=(0, 2))
    return found


@pytest.mark.parametrize("units", [(5,), (5, 3)])
def test_a_forecast_depends_on_earlier_steps_alone(units: tuple[int, ...]) -> None:
    model = forecast(8, 2, units)
    for step in range(8):
        change = moved(model, step)
        own = int(step == 0)  # step 0 is handed through
        assert (change[own : step + 1] == 0).all()
        assert (change[step + 1 :] > 0).all()


def test_a_forecast_s_first_step_has_no_residual() -> None:
    values = waves(4)
    np.testing.assert_array_equal(forecast(8, 2, (5,)).predict(values, verbose=0)[:, 0], values[:, 0])


def test_aer_sees_the_middle_alone() -> None:
    model = aer(8, 2, (5,))
    for step in (0, 7):
        assert (moved(model, step) == 0).all()
    for step in range(1, 7):
        assert (moved(model, step) > 0).all()  # both directions, the two predictions included


def test_aer_as_published() -> None:
    model = aer(100, 1)
    assert UNITS == (30,)
    assert model.get_layer("code").output.shape == (None, 60)
    assert model.output_shape == (None, 100, 1)
    lstm = 2 * sum(4 * (i + 30 + 1) * 30 for i in (1, 60))
    assert model.count_params() == lstm + 60 + 1
    code = model.get_layer("code")
    kernels = [layer.get_weights()[0] for layer in (code.forward_layer, code.backward_layer)]
    assert not np.array_equal(*kernels)


def test_aer_s_loss_weighs_the_three_parts() -> None:
    model, values = aer(6, 2, (4,)), waves(16, 6)
    squares = np.square(model.predict(values, verbose=0) - values)
    for ratio in (0.5, 0.2):
        taught = aer_trainer(model, ratio)
        taught.compile(optimizer="adam", loss="mse")
        wanted = (
            ratio / 2 * squares[:, 0].mean() + (1 - ratio) * squares[:, 1:-1].mean() + ratio / 2 * squares[:, -1].mean()
        )
        assert taught.evaluate(values, values, batch_size=16, verbose=0) == pytest.approx(wanted, rel=1e-4)
    with pytest.raises(ValueError, match="reg_ratio"):
        aer_trainer(model, 1.5)


@pytest.mark.parametrize(("build", "teach"), [(aer, aer_trainer), (forecast, lambda model: model)])
def test_learns_what_comes_next(build: Callable[..., Any], teach: Callable[[Any], Any]) -> None:
    model, values, held = build(8, 2, (8,)), waves(256), waves(64, seed=1)
    history = fit(teach(model), values, held, epochs=12, batch=32, learning_rate=1e-2)
    assert history.val_loss[history.best] < 0.3 * history.val_loss[0]
    last = np.square(model.predict(held, verbose=0) - held)[:, -1].mean()
    assert last < 0.5 * np.square(held[:, -1]).mean()


@BUILDERS
def test_saved_and_loaded_in_safe_mode(build: Callable[..., Any], tmp_path: Path) -> None:
    model, values = build(8, 2, (5, 3)), waves(3)
    model.save(tmp_path / "model.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "model.keras", custom_objects=None, safe_mode=True)
    np.testing.assert_allclose(loaded.predict(values, verbose=0), model.predict(values, verbose=0), atol=1e-6)
    assert len(loaded.get_layer("code").output.shape) == 2


@BUILDERS
def test_compiles_for_the_service(build: Callable[..., Any]) -> None:
    model, values = build(8, 2, (5,)), waves(5)
    scaler, statistics = Scaler((0.0,) * 2, (1.0,) * 2), ErrorStatistics("mse")
    compiled = CompiledModel(model, 8, scaler, statistics, None, [16])
    wanted = np.square(model.predict(values, verbose=0) - values).mean(axis=(1, 2))
    np.testing.assert_allclose(compiled.errors([""] * 5, values).error, wanted, rtol=1e-4)


@BUILDERS
def test_weights_come_from_the_seed_alone(build: Callable[..., Any]) -> None:
    one, same, other = (build(5, 2, (4,), seed=seed).get_weights() for seed in (1, 1, 9))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])


@BUILDERS
@pytest.mark.parametrize(("length", "features", "units"), [(1, 1, (3,)), (4, 0, (3,)), (4, 1, ()), (4, 1, (3, 0))])
def test_senseless_sizes(build: Callable[..., Any], length: int, features: int, units: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        build(length, features, units=units)


def test_the_shortest_windows() -> None:
    assert forecast(2, 1, (3,)).predict(waves(2, 2)[:, :, :1], verbose=0).shape == (2, 2, 1)
    assert aer(3, 2, (3,)).predict(waves(2, 3), verbose=0).shape == (2, 3, 2)
    with pytest.raises(ValueError, match="at least 3"):
        aer(2, 2)

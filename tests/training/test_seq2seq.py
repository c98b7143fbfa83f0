"""Taught with the truth at hand, scored without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from stream_detector.adapters.keras.scorer import CompiledModel
from stream_detector.contents import ErrorStatistics, Scaler
from stream_detector.events import Float32
from training.autoencoders.codes import encoder
from training.autoencoders.seq2seq import LOSSES, build, decoder_cells, generate, trainer
from training.fit import fit


def noise(count: int, length: int, features: int, seed: int = 0) -> Float32:
    found: Float32 = np.random.default_rng(seed).normal(size=(count, length, features)).astype(np.float32)
    return found


def test_the_decoder_has_the_encoder_s_layers() -> None:
    model = build(7, 2, units=(6, 4))
    assert [layer.units for layer in model.layers if isinstance(layer, keras.layers.LSTM)] == [6, 4]
    assert [cell.units for cell in decoder_cells(model)] == [6, 4]
    assert model.input_shape == model.output_shape == (None, 7, 2)
    assert model.get_layer("code").output.shape == (None, 2 * (6 + 4))
    lstm = sum(4 * (i + u + 1) * u for i, u in [(2, 6), (6, 4), (2, 6), (6, 4)])
    zeros = 20 * 2  # the first input, not trained
    assert model.count_params() == lstm + 4 * 2 + 2 + zeros
    assert trainer(model).count_params() == model.count_params() - zeros


def test_the_code_is_the_encoder_s_final_state() -> None:
    model, values = build(7, 2, units=(6, 4)), noise(3, 7, 2)
    flow = values
    finals = []
    for depth in (1, 2):
        flow, output, cell = model.get_layer(f"encoder_{depth}")(flow)
        finals += [np.asarray(keras.ops.convert_to_numpy(one)) for one in (output, cell)]
    np.testing.assert_allclose(encoder(model).predict(values, verbose=0), np.concatenate(finals, axis=1), atol=1e-6)


def test_free_running_feeds_its_own_output_back() -> None:
    """Teacher forcing on what free running said, from the same code, must say the same again."""
    model, values = build(7, 2, units=(6, 4), seed=3), noise(4, 7, 2)
    codes = encoder(model).predict(values, verbose=0)
    said = model.predict(values, verbose=0)
    np.testing.assert_allclose(generate(model, codes), said, atol=1e-6)
    forced = forced_from(model, codes, said)
    np.testing.assert_allclose(forced, said, atol=1e-5)
    assert np.abs(forced_from(model, codes, values) - said).max() > 1e-3


def forced_from(model: Any, codes: Float32, fed: Float32) -> Float32:
    taught = trainer(model)
    step = keras.Model([taught.input, model.get_layer("code").output], taught.output)
    found: Float32 = step.predict([fed, codes], verbose=0)
    return found


def test_teacher_forcing_leaks_the_input_and_scoring_does_not() -> None:
    """With the code held fast, teacher forcing follows what it is fed; free running cannot."""
    model = build(6, 1, units=(5,), seed=1)
    values = noise(2, 6, 1)
    codes = encoder(model).predict(values, verbose=0)
    spiked = values.copy()
    spiked[:, 3] += 5.0
    moved = np.abs(forced_from(model, codes, spiked) - forced_from(model, codes, values)).max(axis=(0, 2))
    assert (moved[:4] < 1e-6).all()  # a step is fed the one before it: the spike shows from the next on
    assert moved[4] > 1e-3


def test_overfits_the_ramp_in_both_modes() -> None:
    ramp = np.linspace(0.1, 0.9, 9, dtype=np.float32).reshape(1, 9, 1)
    keras.utils.set_random_seed(0)
    model = build(9, 1, units=(16,))
    taught = trainer(model)
    taught.compile(optimizer=keras.optimizers.Adam(2e-2), loss="mse")
    taught.fit(ramp, ramp, epochs=110, verbose=0)
    assert float(np.abs(taught.predict(ramp, verbose=0) - ramp).max()) < 0.05
    assert float(np.abs(model.predict(ramp, verbose=0) - ramp).max()) < 0.1


def test_fits_as_training_does() -> None:
    model = build(6, 2, units=(8,))
    values, held = np.tanh(noise(64, 6, 2)), np.tanh(noise(32, 6, 2, seed=1))
    start = model.get_layer("start").get_weights()
    history = fit(trainer(model), values, held, epochs=3, batch=32)
    assert history.val_loss[-1] < history.val_loss[0]
    now = float(np.square(trainer(model).predict(held, verbose=0) - held).mean())
    assert now == pytest.approx(history.val_loss[history.best], rel=1e-3)
    assert not start[0].any()
    assert not model.get_layer("start").get_weights()[0].any()


def test_one_hot_values_by_cross_entropy() -> None:
    """A repeating pattern of four symbols: sigmoid outputs, and the binary cross-entropy of the mission."""
    symbols = (np.arange(32)[:, None] + np.arange(8)) % 4
    values = np.eye(4, dtype=np.float32)[symbols]  # (n, W, 4)
    keras.utils.set_random_seed(0)
    model = build(8, 4, units=(16,), values="unit")
    taught = trainer(model)
    taught.compile(optimizer=keras.optimizers.Adam(2e-2), loss=LOSSES["unit"])
    loss = taught.fit(values, values, epochs=40, batch_size=8, verbose=0).history["loss"]
    said = model.predict(values, verbose=0)
    assert loss[-1] < 0.1 * loss[0]
    assert 0 <= said.min() <= said.max() <= 1
    assert (said.argmax(axis=2) == symbols).mean() > 0.95


def test_saved_and_loaded_in_safe_mode(tmp_path: Path) -> None:
    model, values = build(7, 2, units=(6, 4)), noise(3, 7, 2)
    model.save(tmp_path / "model.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "model.keras", custom_objects=None, safe_mode=True)
    np.testing.assert_allclose(loaded.predict(values, verbose=0), model.predict(values, verbose=0), atol=1e-6)
    codes = encoder(loaded).predict(values, verbose=0)
    np.testing.assert_allclose(generate(loaded, codes), model.predict(values, verbose=0), atol=1e-6)
    assert trainer(loaded).output_shape == (None, 7, 2)
    bare = keras.models.clone_model(model)  # as training does before it saves
    bare.set_weights(model.get_weights())
    np.testing.assert_allclose(bare.predict(values, verbose=0), model.predict(values, verbose=0), atol=1e-6)


def test_64_steps_compile_for_the_service() -> None:
    model = build(64, 3, units=(16,))
    scaler, statistics = Scaler((0.0,) * 3, (1.0,) * 3), ErrorStatistics("mse")
    compiled = CompiledModel(model, 64, scaler, statistics, None, [16])
    values = noise(5, 64, 3)
    wanted = np.square(model.predict(values, verbose=0) - values).mean(axis=(1, 2))
    np.testing.assert_allclose(compiled.errors([""] * 5, values).error, wanted, rtol=1e-4)


def test_weights_come_from_the_seed_alone() -> None:
    one, same, other = (build(5, 4, units=(4,), seed=seed).get_weights() for seed in (1, 1, 9))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])
    assert len({array.tobytes() for array in one if array.shape == (4, 16)}) == 4  # no two layers start the same


@pytest.mark.parametrize(("length", "features", "units"), [(0, 1, (3,)), (4, 0, (3,)), (4, 1, ()), (4, 1, (3, 0))])
def test_senseless_sizes(length: int, features: int, units: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        build(length, features, units=units)


def test_a_window_of_one_step() -> None:
    assert build(1, 2, units=(3,)).predict(noise(2, 1, 2), verbose=0).shape == (2, 1, 2)
    assert trainer(build(1, 2, units=(3,))).predict(noise(2, 1, 2), verbose=0).shape == (2, 1, 2)

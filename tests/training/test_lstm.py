"""The default model can learn what it must, and is what its parameters say."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from training.autoencoders.lstm import build


def test_overfits_the_ramp() -> None:
    ramp = np.linspace(0.1, 0.9, 9, dtype=np.float32).reshape(1, 9, 1)
    keras.utils.set_random_seed(0)
    model = build(9, 1, seed=0)
    model.compile(optimizer="adam", loss="mse")
    before = float(np.abs(np.asarray(model(ramp)) - ramp).max())
    model.fit(ramp, ramp, epochs=300, verbose=0)
    after = float(np.abs(np.asarray(model(ramp)) - ramp).max())
    assert before > 0.3
    assert after < 0.05


def test_the_decoder_mirrors_the_encoder() -> None:
    model = build(7, 2, units=(6, 4))
    units = [layer.units for layer in model.layers if isinstance(layer, keras.layers.LSTM)]
    assert units == [6, 4, 4, 6]
    assert model.input_shape == model.output_shape == (None, 7, 2)
    assert model.get_layer("code").output.shape == (None, 4)
    assert model.count_params() == sum(4 * (i + u + 1) * u for i, u in [(2, 6), (6, 4), (4, 4), (4, 6)]) + 6 * 2 + 2


def test_default_units() -> None:
    model = build(9, 1)
    assert [layer.units for layer in model.layers if isinstance(layer, keras.layers.LSTM)] == [100, 100]


def test_weights_come_from_the_seed_alone() -> None:
    one, same, other = (build(5, 2, units=(4,), seed=seed).get_weights() for seed in (1, 1, 9))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])
    encoder, decoder = build(5, 4, units=(4,)).get_weights()[0::3][:2]
    assert encoder.shape == decoder.shape
    assert not np.array_equal(encoder, decoder)


@pytest.mark.parametrize(("length", "features", "units"), [(0, 1, (3,)), (4, 0, (3,)), (4, 1, ()), (4, 1, (3, 0))])
def test_senseless_sizes(length: int, features: int, units: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        build(length, features, units=units)

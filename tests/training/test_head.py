"""A head goes on from any autoencoder's weights, and a softmax of two channels is one sigmoid unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from stream_detector.adapters.keras.scorer import log_odds
from stream_detector.errors import DataError
from training.autoencoders import FAMILY, dense, lstm, lstm_context, rnn_classifier
from training.autoencoders.head import Head, Top, class_weights, classifier, fine_tune
from training.fit import fit

Array = np.ndarray[Any, np.dtype[np.float32]]
BUILDS = [
    (dense.build, "code"),
    (lstm.build, "code"),
    (rnn_classifier.build, "last_step"),
    (lstm_context.build, "code"),
]


def waves(count: int, seed: int) -> Array:
    """Windows (n, 8, 2) of a sine and its cosine at any phase, in 0..1."""
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, (count, 1)) + 0.6 * np.arange(8)
    return (0.5 + 0.4 * np.stack([np.sin(phases), np.cos(phases)], axis=2)).astype(np.float32)


LEARN, CHECK = waves(600, 0), waves(100, 1)


def labelled(count: int, share: float, seed: int) -> tuple[Array, Any]:
    """Waves, a share of them with one feature's sign turned: each value as usual, together they are not."""
    values = waves(count, seed)
    labels = (np.arange(count) < share * count).astype(np.int64)
    values[labels == 1, :, 1] = 1 - values[labels == 1, :, 1]
    return values, labels


@pytest.fixture(scope="module")
def base() -> Any:
    model = dense.build(8, 2, units=(12, 6, 3), seed=3)
    fit(model, LEARN, CHECK, epochs=10, batch=50, learning_rate=1e-2)
    return model


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_fine_tuning_starts_from_the_pre_trained_weights_and_learns_a_rare_class(base: Any, head: Head) -> None:
    kept = base.get_weights()
    model = classifier(base, head, seed=1)
    encoder = [model.get_layer(name) for name in ("encoder_1", "encoder_2", "code")]

    def start() -> list[bool]:
        return [
            np.array_equal(here, there)
            for layer in encoder
            for here, there in zip(layer.get_weights(), base.get_layer(layer.name).get_weights(), strict=True)
        ]

    assert all(start())
    tests, truth = labelled(600, 0.05, 5)
    before = model.predict(tests, verbose=0)
    assert before.shape == (600, 1)
    codes = keras.Model(base.input, base.get_layer("code").output).predict(tests, verbose=0)
    np.testing.assert_allclose(before, probabilities(codes, *model.get_layer("head").get_weights()), atol=1e-6)
    past = fine_tune(
        model, *labelled(600, 0.05, 4), labelled(200, 0.05, 6), epochs=40, batch=50, learning_rate=1e-2, patience=40
    )
    assert past.loss[-1] < 0.3 * past.loss[0]
    assert not any(start())  # the whole encoder learnt
    assert all(np.array_equal(a, b) for a, b in zip(kept, base.get_weights(), strict=True))  # and the base is untouched
    found = model.predict(tests, verbose=0)[:, 0] > 0.5
    assert found[truth == 1].mean() > 0.9
    assert found[truth == 0].mean() < 0.1


def probabilities(codes: Array, kernel: Array, bias: Array) -> Array:
    """Of the anomalous class, by hand: the last channel's share, or the one unit's sigmoid."""
    odds = codes @ kernel + bias
    if kernel.shape[1] == 2:
        odds = odds[:, 1:] - odds[:, :1]
    found: Array = 1 / (1 + np.exp(-odds))
    return found


@pytest.mark.parametrize(("build", "top"), BUILDS)
def test_softmax_and_sigmoid_are_equivalent(build: Any, top: Top) -> None:
    base = build(8, 2, units=(5, 4), seed=2)
    two, one = classifier(base, "softmax", top, seed=7), classifier(base, "sigmoid", top, seed=8)
    kernel, bias = two.get_layer("head").get_weights()
    bias[:] = [0.3, -0.4]
    two.get_layer("head").set_weights([kernel, bias])
    one.get_layer("head").set_weights([kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]])
    found = two.predict(CHECK, verbose=0)
    assert found.shape == (100, 1)
    assert found.std() > 1e-3
    np.testing.assert_allclose(found, one.predict(CHECK, verbose=0), atol=1e-6)
    for model in (two, one):  # what the service reads is the same probability
        odds = log_odds(model).predict(CHECK, verbose=0)
        np.testing.assert_allclose(1 / (1 + np.exp(-odds)), found, atol=1e-6)


def test_a_code_for_each_step_is_one_code() -> None:
    window = keras.Input((8, 2))
    flow = keras.layers.SimpleRNN(3, return_sequences=True, name="code")(window)
    base = keras.Model(window, keras.layers.Dense(2)(flow))
    assert classifier(base, "sigmoid").get_layer("head").kernel.shape == (24, 1)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_classifiers_are_saved_and_loaded_in_safe_mode(name: str, head: Head, tmp_path: Path) -> None:
    kind = FAMILY[name]
    model = classifier(kind.build(8, 2, units=(4, 4), seed=2), head, kind.top, seed=1)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", custom_objects=None, compile=False, safe_mode=True)
    np.testing.assert_array_equal(again.predict(CHECK, verbose=0), model.predict(CHECK, verbose=0))


def test_classes_weigh_the_same() -> None:
    labels = np.array([0] * 95 + [1] * 5)
    weights = class_weights(labels)
    assert weights.tolist() == pytest.approx([100 / 190, 10.0])
    assert weights[labels].mean() == pytest.approx(1)
    assert weights[0] * 95 == pytest.approx(weights[1] * 5)


def test_the_loss_is_the_weighted_one() -> None:
    model = classifier(dense.build(8, 2, units=(4,), seed=0), seed=0)
    values, labels = labelled(40, 0.1, 0)
    chance = model.predict(values, verbose=0)[:, 0]
    each = -(labels * np.log(chance) + (1 - labels) * np.log(1 - chance))
    wanted = float((class_weights(labels)[labels] * each).mean())
    past = fine_tune(model, values, labels, (values, labels), epochs=1, batch=40, learning_rate=1e-9)
    assert past.loss + past.val_loss == pytest.approx([wanted, wanted], rel=1e-4)


def test_labels_that_will_not_do() -> None:
    with pytest.raises(DataError, match="100 normal and 0 anomalous"):
        class_weights(np.zeros(100))
    with pytest.raises(DataError, match="labels must be 0"):
        class_weights(np.array([0, 1, 2]))
    with pytest.raises(DataError, match="labels must be 0"):
        class_weights(np.array([0, 1, np.nan]))
    with pytest.raises(ValueError, match="'tanh': give one of softmax, sigmoid"):
        classifier(dense.build(8, 2, units=(4,)), "tanh")  # type: ignore[arg-type] # wrong on purpose

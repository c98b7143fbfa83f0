"""Stages make the stack, the stack makes the classifier, and each goes on from the weights before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from stream_detector.errors import DataError
from training.autoencoders import dense, lstm, stacked
from training.autoencoders.stacked import class_weights, classifier, fine_tune, pretrain
from training.fit import fit

Array = np.ndarray[Any, np.dtype[np.float32]]
Stacked = tuple[Any, list[stacked.Stage]]


def waves(count: int, seed: int) -> Array:
    """Windows (n, 8, 2) of a sine and its cosine at any phase, in 0..1."""
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, (count, 1)) + 0.6 * np.arange(8)
    return (0.5 + 0.4 * np.stack([np.sin(phases), np.cos(phases)], axis=2)).astype(np.float32)


LEARN, CHECK = waves(600, 0), waves(100, 1)


def error(model: Any, values: Array) -> float:
    return float(((model.predict(values, verbose=0) - values) ** 2).mean())


@pytest.fixture(scope="module")
def trained() -> Stacked:
    return pretrain(LEARN, CHECK, (12, 6, 3), epochs=12, batch=50, learning_rate=1e-2, seed=3)


def test_the_stack_starts_from_each_stages_weights(trained: Stacked) -> None:
    model, stages = trained
    names = [("encoder_1", "decoder_1"), ("encoder_2", "decoder_2"), ("code", "decoder_3")]
    for (encoder, decoder), stage in zip(names, stages, strict=True):
        for name, weights in ((encoder, stage.encoder), (decoder, stage.decoder)):
            for kept, learnt in zip(model.get_layer(name).get_weights(), weights, strict=True):
                np.testing.assert_array_equal(kept, learnt)
    untrained = dense.build(8, 2, units=(12, 6, 3), seed=3)
    for before, after in zip(untrained.get_weights(), model.get_weights(), strict=True):
        assert (before != after).any()
    assert [layer.name for layer in model.layers] == [layer.name for layer in untrained.layers]


def test_each_stage_learns_on_the_code_before_it(trained: Stacked) -> None:
    """A stage's loss is that of its own two layers on the code of the layers below, so done by hand."""
    model, stages = trained
    seen = CHECK.reshape(len(CHECK), -1)
    for depth, stage in enumerate(stages):
        assert stage.val_loss[-1] < stage.val_loss[0]
        code = leaky(seen @ stage.encoder[0] + stage.encoder[1])  # (n, units)
        back = code @ stage.decoder[0] + stage.decoder[1]  # (n, inputs)
        if depth:
            loss = float(((leaky(back) - seen) ** 2).mean())
        else:
            odds = 1 / (1 + np.exp(-back))
            loss = float(-(seen * np.log(odds) + (1 - seen) * np.log(1 - odds)).mean())
        assert loss == pytest.approx(min(stage.val_loss), rel=1e-3)
        seen = code
    deepest = keras.Model(model.input, model.get_layer("code").output).predict(CHECK, verbose=0)
    np.testing.assert_allclose(deepest, seen, atol=1e-5)


def leaky(values: Array) -> Array:
    found: Array = np.where(values < 0, 0.2 * values, values)
    return found


def test_pre_training_helps_and_the_whole_goes_on_from_it(trained: Stacked) -> None:
    untrained = dense.build(8, 2, units=(12, 6, 3), seed=3)
    model = keras.models.clone_model(trained[0])
    model.set_weights(trained[0].get_weights())
    before = error(model, CHECK)
    assert before < 0.7 * error(untrained, CHECK)
    fit(model, LEARN, CHECK, epochs=8, batch=50, learning_rate=5e-3)
    assert error(model, CHECK) < before


def test_pre_training_again_gives_the_same_weights() -> None:
    runs = [pretrain(LEARN[:100], CHECK, (5, 2), epochs=2, seed=seed)[0].get_weights() for seed in (1, 1, 2)]
    assert all(np.array_equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not np.array_equal(runs[0][0], runs[2][0])


def test_a_stack_of_one_layer_and_progress() -> None:
    told: list[tuple[str, int, int]] = []
    model, stages = pretrain(
        LEARN[:50], CHECK, (4,), epochs=2, progress=lambda stage, done, total, _: told.append((stage, done, total))
    )
    assert len(stages) == 1
    assert model.get_layer("code").units == 4
    assert told == [("pretrain 1", 1, 2), ("pretrain 1", 2, 2)]
    with pytest.raises(ValueError, match="1 or more"):
        pretrain(LEARN[:50], CHECK, ())


def test_divergence_is_told() -> None:
    bad = LEARN[:50].copy()
    bad[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="pretrain 1 diverged in epoch 1"):
        pretrain(bad, CHECK, (4,), epochs=2)


def labelled(count: int, share: float, seed: int) -> tuple[Array, Any]:
    """Waves, a share of them with one feature's sign turned: each value as usual, together they are not."""
    values = waves(count, seed)
    labels = (np.arange(count) < share * count).astype(np.int64)
    values[labels == 1, :, 1] = 1 - values[labels == 1, :, 1]
    return values, labels


@pytest.mark.parametrize("channels", [1, 2])
def test_fine_tuning_starts_from_the_pre_trained_weights_and_learns_a_rare_class(
    trained: Stacked, channels: int
) -> None:
    base = trained[0]
    kept = base.get_weights()
    model = classifier(base, channels, seed=1)
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
    assert past["loss"][-1] < 0.3 * past["loss"][0]
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


@pytest.mark.parametrize("build", [dense.build, lstm.build])
def test_softmax_and_sigmoid_are_equivalent(build: Any) -> None:
    base = build(8, 2, units=(5, 4), seed=2)
    two, one = classifier(base, 2, seed=7), classifier(base, 1, seed=8)
    kernel, bias = two.get_layer("head").get_weights()
    bias[:] = [0.3, -0.4]
    two.get_layer("head").set_weights([kernel, bias])
    one.get_layer("head").set_weights([kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]])
    found = two.predict(CHECK, verbose=0)
    assert found.shape == (100, 1)
    assert found.std() > 1e-3
    np.testing.assert_allclose(found, one.predict(CHECK, verbose=0), atol=1e-6)


def test_a_code_for_each_step_is_one_code() -> None:
    window = keras.Input((8, 2))
    flow = keras.layers.SimpleRNN(3, return_sequences=True, name="code")(window)
    base = keras.Model(window, keras.layers.Dense(2)(flow))
    assert classifier(base).get_layer("head").kernel.shape == (24, 1)


@pytest.mark.parametrize("build", [dense.build, lstm.build])
@pytest.mark.parametrize("channels", [1, 2])
def test_classifiers_are_saved_and_loaded_in_safe_mode(build: Any, channels: int, tmp_path: Path) -> None:
    model = classifier(build(8, 2, units=(4,), seed=2), channels, seed=1)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", custom_objects=None, compile=False, safe_mode=True)
    np.testing.assert_array_equal(again.predict(CHECK, verbose=0), model.predict(CHECK, verbose=0))


def test_the_stack_is_saved_and_loaded_in_safe_mode(trained: Stacked, tmp_path: Path) -> None:
    trained[0].save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", custom_objects=None, compile=False, safe_mode=True)
    np.testing.assert_array_equal(again.predict(CHECK, verbose=0), trained[0].predict(CHECK, verbose=0))


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
    assert past["loss"] + past["val_loss"] == pytest.approx([wanted, wanted], rel=1e-4)


def test_labels_that_will_not_do() -> None:
    with pytest.raises(DataError, match="100 normal and 0 anomalous"):
        class_weights(np.zeros(100))
    with pytest.raises(DataError, match="labels must be 0"):
        class_weights(np.array([0, 1, 2]))
    with pytest.raises(DataError, match="labels must be 0"):
        class_weights(np.array([0, 1, np.nan]))
    with pytest.raises(ValueError, match="3 channels"):
        classifier(dense.build(8, 2, units=(4,)), 3)

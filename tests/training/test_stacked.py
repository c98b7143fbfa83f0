"""Stages make the stack, and the whole goes on from their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from stream_detector.errors import DataError
from training.autoencoders import dense, stacked
from training.autoencoders.stacked import pretrain
from training.autoencoders.wrappers import Wrapping
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


def test_denoising_goes_around_each_stage() -> None:
    """Nothing of the input is left to rebuild from in training: a stage learns the mean of what it is to rebuild."""
    blind = Wrapping(mask=1 - 1e-9)
    _, stages = pretrain(LEARN, CHECK, (6, 3), epochs=40, batch=50, learning_rate=3e-2, wrapping=blind, seed=3)
    seen = LEARN.reshape(len(LEARN), -1)
    for depth, stage in enumerate(stages):
        back = leaky(stage.encoder[1]) @ stage.decoder[0] + stage.decoder[1]  # of an input that is 0
        said = leaky(back) if depth else 1 / (1 + np.exp(-back))
        np.testing.assert_allclose(said, seen.mean(axis=0), atol=0.1)
        seen = leaky(seen @ stage.encoder[0] + stage.encoder[1])  # clean, for the next stage


def test_divergence_is_told() -> None:
    bad = LEARN[:50].copy()
    bad[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="pretrain 1 diverged in epoch 1"):
        pretrain(bad, CHECK, (4,), epochs=2)


def test_the_stack_is_saved_and_loaded_in_safe_mode(trained: Stacked, tmp_path: Path) -> None:
    trained[0].save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", custom_objects=None, compile=False, safe_mode=True)
    np.testing.assert_array_equal(again.predict(CHECK, verbose=0), trained[0].predict(CHECK, verbose=0))

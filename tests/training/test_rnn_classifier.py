"""From reconstruction to probability: two phases, one model."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from stream_detector.events import Float32, Float64, Int64
from training.autoencoders.head import Head, classifier, fine_tune, state
from training.autoencoders.rnn_classifier import FEATURES, UNITS, build
from training.fit import fit
from training.traffic import FEATURES as NAMES
from training.traffic import simulate

SMALL = (8, 4)


def noise(count: int, length: int = 6, features: int = 5, seed: int = 0) -> Float32:
    found: Float32 = np.random.default_rng(seed).uniform(size=(count, length, features)).astype(np.float32)
    return found


def test_the_mission_s_sizes() -> None:
    model = build(4)
    assert UNITS == (64, 32, 16, 8)
    assert len(NAMES) == FEATURES == 79
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.SimpleRNN)]
    assert [layer.units for layer in layers] == [64, 32, 16, 8, 16, 32, 64, 79]
    assert all(layer.return_sequences and layer.activation.__name__ == "relu" for layer in layers)
    sizes = [79, 64, 32, 16, 8, 16, 32, 64, 79]
    assert model.count_params() == sum((i + o + 1) * o for i, o in pairwise(sizes))
    assert model.input_shape == model.output_shape == (None, 4, 79)
    assert model.get_layer("code").output.shape == (None, 4 * 8)


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_the_phases_are_states_of_the_saved_model(head: Head, tmp_path: Path) -> None:
    model, values = build(6, 5, SMALL), noise(3)
    judge = classifier(model, head, "last_step")
    assert judge.output_shape == (None, 1)
    for one, wanted in ((model, "pretrained"), (judge, "fine_tuned")):
        one.save(tmp_path / "model.keras")
        loaded: Any = keras.saving.load_model(tmp_path / "model.keras", custom_objects=None, safe_mode=True)
        assert state(one) == state(loaded) == wanted
        np.testing.assert_allclose(loaded.predict(values, verbose=0), one.predict(values, verbose=0), atol=1e-6)
        bare = keras.models.clone_model(one)  # as training does before it saves
        assert state(bare) == wanted


def test_fine_tuning_continues_from_the_pretrained_weights() -> None:
    model, values = build(6, 5, SMALL), noise(64)
    fit(model, values, values, epochs=2, batch=32)
    before = model.get_weights()
    judge = classifier(model, "softmax", "last_step", seed=4)
    taught = judge.get_weights()
    assert all(np.array_equal(old, new) for old, new in zip(before, taught, strict=False))
    labels = (values[:, -1, 0] > 0.5).astype(np.int64)
    losses = fine_tune(judge, values, labels, (values, labels), epochs=3, batch=32, learning_rate=1e-2)
    assert losses.loss[-1] < losses.loss[0]
    moved = [np.abs(new - old).max() for old, new in zip(before, judge.get_weights(), strict=False)]
    assert min(moved) > 0  # every layer learns
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))


def average_precision(scores: Float32, labels: Int64) -> float:
    """Area under the precision-recall curve."""
    ranked = labels[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return float(precision[ranked == 1].mean())


def test_labels_find_what_reconstruction_does_not() -> None:
    """Some attacks look like ordinary traffic, and some ordinary traffic looks like nothing else."""
    length, cut = 3, 3_000
    traffic = simulate(5_000, 3, share=0.15, seed=5)
    raw: Float64 = np.log1p(traffic.values)
    low, high = raw[:cut].min(axis=0), raw[:cut].max(axis=0)
    scaled = ((raw - low) / np.maximum(high - low, 1e-9)).astype(np.float32)
    hosts = np.array(traffic.hosts)
    rows = [np.flatnonzero(hosts == host) for host in sorted(set(hosts))]
    places = np.concatenate([own[at : at + length][None] for own in rows for at in range(0, len(own) - length, 2)])
    early = places[:, -1] < cut
    values, labels = scaled[places], traffic.labels[places[:, -1]]  # a window is labelled as its last flow
    normal = values[early & (traffic.labels[places].max(axis=1) == 0)]

    model = build(length, units=(32, 16, 8))
    fit(model, normal, normal[:200], epochs=5, batch=64, learning_rate=3e-3)
    held, truth = values[~early], labels[~early]
    errors = np.square(model.predict(held, verbose=0) - held).mean(axis=(1, 2))
    judge = classifier(model, "softmax", "last_step")
    learnt = values[early], labels[early]
    fine_tune(judge, *learnt, learnt, epochs=5, batch=64, learning_rate=3e-3)
    probability = judge.predict(held, verbose=0)[:, 0]
    assert average_precision(probability, truth) > 0.95
    assert average_precision(probability, truth) > average_precision(errors, truth) + 0.1
    quiet = ~np.isin(np.array(traffic.kinds)[places[~early, -1]], ["flood", "scan"])
    assert average_precision(probability[quiet], truth[quiet]) > 0.9
    assert average_precision(errors[quiet], truth[quiet]) < 0.5


def test_weights_come_from_the_seed_alone() -> None:
    one, same, other = (build(5, 4, (4,), seed=seed).get_weights() for seed in (1, 1, 9))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])
    assert not np.array_equal(one[0], one[3])


@pytest.mark.parametrize(("length", "features", "units"), [(0, 1, (3,)), (4, 0, (3,)), (4, 1, ()), (4, 1, (3, 0))])
def test_senseless_sizes(length: int, features: int, units: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        build(length, features, units=units)

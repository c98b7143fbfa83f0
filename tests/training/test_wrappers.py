"""Wrappers do what their papers say while a model learns, and leave no trace in what is saved."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from training.autoencoders import FAMILY, architecture, dense, hybrid, lstm
from training.autoencoders.codes import code_of
from training.autoencoders.wrappers import Wrapping, contraction, corrupt, divergence, squashing, wrap
from training.fit import fit

Array = np.ndarray[Any, np.dtype[np.float32]]
SEEDS = (0, 1, 2)


def mixtures(count: int, seed: int) -> Array:
    """Windows (n, 16, 1) of two sines of fixed frequency and strength, each at a phase of its own, in 0..1."""
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, (count, 2, 1))
    waves = np.sin(np.array([[0.35], [0.8]]) * np.arange(16) + phases)  # (n, 2, 16)
    values: Array = (0.5 + 0.18 * waves.sum(axis=1)).astype(np.float32)[:, :, None]
    return values


LEARN, CHECK, TEST = mixtures(1000, 0), mixtures(200, 1), mixtures(300, 2)


@cache
def learnt(wrapping: Wrapping | None, seed: int) -> Any:
    """The base model after the same training with and without a wrapper.

    Its code is as wide as the window, so that nothing but the wrapper keeps it from copying its input.
    """
    base = dense.build(16, 1, units=(32, 16), seed=seed)
    model = base if wrapping is None else wrap(base, wrapping, seed)
    fit(model, LEARN, CHECK, epochs=20, learning_rate=1e-2, batch=50, patience=20, seed=seed)
    return base


def codes(model: Any, values: Array) -> Array:
    found: Array = keras.Model(model.input, code_of(model)[0]).predict(values, verbose=0)
    return found


def error(model: Any, seen: Array, wanted: Array) -> float:
    return float(((model.predict(seen, verbose=0) - wanted) ** 2).mean())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("wrapping", "most"), [(Wrapping(noise=0.15), 0.8), (Wrapping(mask=0.2), 0.7)], ids=["noise", "mask"]
)
def test_denoising_rebuilds_the_clean_signal(wrapping: Wrapping, most: float, seed: int) -> None:
    rng = np.random.default_rng(3)  # not the wrapper's own generator
    bad = (TEST + rng.normal(0, wrapping.noise, TEST.shape)).astype(np.float32)
    bad[rng.random(TEST.shape) < wrapping.mask] = 0
    plain, denoising = error(learnt(None, seed), bad, TEST), error(learnt(wrapping, seed), bad, TEST)
    assert denoising < most * plain
    assert denoising < 0.5 * float(((bad - TEST) ** 2).mean())


def test_corruption() -> None:
    values = np.full((200, 10, 5), 3.0, np.float32)
    seeds = keras.random.SeedGenerator(0)
    noisy = np.asarray(corrupt(values, Wrapping(noise=0.5), seeds))
    assert noisy.mean() == pytest.approx(3, abs=0.02)
    assert noisy.std() == pytest.approx(0.5, rel=0.03)
    masked = np.asarray(corrupt(values, Wrapping(mask=0.3), seeds))
    assert set(np.unique(masked)) == {0.0, 3.0}
    assert (masked == 0).mean() == pytest.approx(0.3, abs=0.02)
    again = np.asarray(corrupt(values, Wrapping(mask=0.3), seeds))
    assert (masked != again).any()
    assert corrupt(values, Wrapping(), seeds) is values


def test_corrupted_in_training_alone_and_compared_with_the_clean_input() -> None:
    base = dense.build(16, 1, units=(4,), seed=0)
    model = wrap(base, Wrapping(noise=0.2, mask=0.2), seed=1)
    wanted = base.predict(TEST, verbose=0)
    np.testing.assert_array_equal(model.predict(TEST, verbose=0), wanted)
    np.testing.assert_array_equal(np.asarray(model(TEST)), np.asarray(base(TEST)))
    seen = np.asarray(model(TEST, training=True))
    assert np.abs(seen - wanted).max() > 0.01
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    assert float(model.test_on_batch(TEST, TEST)) == pytest.approx(error(base, TEST, TEST), rel=1e-4)
    twin = wrap(base, Wrapping(noise=0.2, mask=0.2), seed=5)  # its next corruption is that of the training step
    bad = np.asarray(corrupt(TEST, twin.wrapping, twin.seeds))
    model.seeds.state.assign(wrap(base, twin.wrapping, seed=5).seeds.state)
    assert float(model.train_on_batch(TEST, TEST)) == pytest.approx(error(base, bad, TEST), rel=1e-4)


def test_divergence_equals_the_closed_form() -> None:
    """By hand: 0.1 ln(0.1/0.5) + 0.9 ln(0.9/0.5) = 0.368064; and of 0.1 from 0.2, 0.036690; of itself, nothing."""
    assert float(divergence(0.1, np.array([0.5, 0.2, 0.1], np.float32))) == pytest.approx(0.368064 + 0.036690, abs=2e-6)
    assert math.isfinite(float(divergence(0.1, np.array([0.0, 1.0], np.float32))))


def test_the_sparse_penalty_in_the_loss_equals_the_closed_form() -> None:
    model = wrap(lstm.build(16, 1, units=(4,), seed=0), Wrapping(sparsity=0.2, sparse_weight=3.0))
    means = ((1 + codes(model.base, TEST)) / 2).mean(axis=0)  # (4)
    wanted = 3 * (0.2 * np.log(0.2 / means) + 0.8 * np.log(0.8 / (1 - means))).sum()
    model.compile(loss="mse")
    total = float(model.test_on_batch(TEST, TEST))
    assert total - error(model.base, TEST, TEST) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("kind", ["sigmoid", "tanh", "relu", "leaky_relu", ""])
def test_squashing_reaches_from_0_to_1(kind: str) -> None:
    given = np.linspace(0 if kind in ("sigmoid", "relu") else -1, 1, 50, dtype=np.float32)
    given *= 1 if kind in ("sigmoid", "tanh") else 10
    squashed = np.asarray(squashing(kind)(given))
    assert (np.diff(squashed) > 0).all()
    assert squashed[0] == pytest.approx(0, abs=1e-4)
    assert squashed[-1] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("build", "activation", "rho"),
    [(dense.build, "leaky_relu", 0.35), (lstm.build, "tanh", 0.2)],
)
def test_sparse_moves_mean_activations_to_rho(build: Any, activation: str, rho: float) -> None:
    away = []
    for weight in (0.0, 1.0):
        model = build(8, 1, units=(6,), seed=0)
        assert code_of(model)[1] == activation
        wrapped = wrap(model, Wrapping(sparsity=rho, sparse_weight=weight))
        fit(wrapped, LEARN[:400, :8], CHECK[:, :8], epochs=15, learning_rate=2e-2)
        code = codes(model, TEST[:, :8])  # (n, 6)
        away.append(np.abs(np.asarray(squashing(activation)(code)).mean(axis=0) - rho))
    assert away[0].mean() > 0.1
    assert away[1].mean() < away[0].mean() / 4
    assert away[1].max() < 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_sparse_as_it_is_named_moves_them_too(seed: int) -> None:
    """`--model sparse+dense`, whose numbers nobody gives."""
    shipped = architecture("sparse+dense").wrapping
    assert shipped is not None
    plain, sparse = (
        np.asarray(squashing("leaky_relu")(codes(learnt(how, seed), TEST))).mean(axis=0) for how in (None, shipped)
    )
    assert np.abs(plain - shipped.sparsity).min() > 0.2
    np.testing.assert_allclose(sparse, shipped.sparsity, atol=0.02)


def numeric_norm(model: Any, values: Array) -> float:
    """Squared Frobenius norm of the code's Jacobian by central differences, averaged over windows."""
    step = 1e-2
    total = 0.0
    for at in np.ndindex(values.shape[1:]):
        moved = np.zeros_like(values)
        moved[:, *at] = step
        change = (codes(model, values + moved) - codes(model, values - moved)) / (2 * step)  # (n, D)
        total += float((change**2).sum(axis=1).mean())
    return total


def small(kind: str) -> Any:
    """Smooth, as finite differences want it."""
    if kind in ("lstm", "aer"):
        return (lstm.build if kind == "lstm" else hybrid.aer)(3, 2, units=(3,), seed=1)
    window = keras.Input((3, 2))
    flow = layers.Dense(5, "tanh", kernel_initializer=keras.initializers.GlorotNormal(1))(layers.Flatten()(window))
    flow = layers.Dense(3, "sigmoid", kernel_initializer=keras.initializers.GlorotNormal(2), name="code")(flow)
    return keras.Model(window, layers.Reshape((3, 2))(layers.Dense(6)(flow)))


@pytest.mark.parametrize("kind", ["dense", "lstm", "aer"])
def test_contraction_equals_finite_differences(kind: str) -> None:
    base = small(kind)
    values = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)
    wanted = numeric_norm(base, values)
    encoder = keras.Model(base.input, code_of(base)[0])
    found = contraction(
        encoder, keras.ops.convert_to_tensor(values), keras.ops.eye(encoder.output_shape[1])[:, None, :]
    )
    assert float(found) == pytest.approx(wanted, rel=2e-3)
    model = wrap(base, Wrapping(contraction=10.0))
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    plain = error(base, values, values)
    for total in (model.test_on_batch(values, values), model.train_on_batch(values, values)):
        assert float(total) - plain == pytest.approx(10 * wanted, rel=3e-3)


def test_contraction_by_probes_is_unbiased() -> None:
    values = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)
    exact, estimate = (wrap(small("dense"), Wrapping(contraction=1.0, probes=probes), seed=0) for probes in (0, 2000))
    for model in (exact, estimate):
        model.compile(loss=lambda wanted, seen: 0.0 * keras.ops.mean(seen))
    wanted = float(exact.test_on_batch(values, values))
    assert float(estimate.test_on_batch(values, values)) == pytest.approx(wanted, rel=0.03)


def test_contraction_makes_the_code_less_sensitive() -> None:
    norms = []
    for wrapping in (Wrapping(), Wrapping(contraction=0.2), Wrapping(contraction=0.2, probes=2)):
        model = dense.build(4, 1, units=(2,), seed=0)
        fit(wrap(model, wrapping), LEARN[:400, :4], CHECK[:, :4], epochs=8, learning_rate=1e-2, batch=100)
        norms.append(math.sqrt(numeric_norm(model, TEST[:50, :4])))
    assert max(norms[1:]) < 0.7 * norms[0]


def test_activity_is_the_codes_squared_norm() -> None:
    model = wrap(dense.build(16, 1, units=(4,), seed=0), Wrapping(activity=2.0))
    model.compile(loss="mse")
    wanted = error(model.base, TEST, TEST) + 2 * float((codes(model.base, TEST) ** 2).sum(axis=1).mean())
    assert float(model.test_on_batch(TEST, TEST)) == pytest.approx(wanted, rel=1e-4)


def test_a_layers_own_penalty_counts_once() -> None:
    """That of `dense.build_l2`, with a wrapper that asks for the code again."""
    model = wrap(dense.build_l2(16, 1, seed=0, activity=1.0), Wrapping(activity=1.0, contraction=1e-9))
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    norm = float((codes(model.base, TEST) ** 2).sum(axis=1).mean())
    for total in (model.train_on_batch(TEST, TEST), model.test_on_batch(TEST, TEST)):
        assert float(total) == pytest.approx(error(model.base, TEST, TEST) + 2 * norm, rel=1e-4)


EVERYTHING = Wrapping(noise=0.1, mask=0.1, sparse_weight=0.01, contraction=0.01, activity=0.01)


@pytest.mark.parametrize("build", [dense.build, lstm.build])
def test_all_at_once_and_nothing_of_it_is_saved(build: Any, tmp_path: Path) -> None:
    learn, check, test = LEARN[:200, :4], CHECK[:, :4], TEST[:, :4]
    base = build(4, 1, units=(2,), seed=0)
    start = base.get_weights()
    model = wrap(base, EVERYTHING, seed=4)
    assert [id(weight) for weight in model.weights] == [id(weight) for weight in base.weights]
    history = fit(model, learn, check, epochs=2, learning_rate=1e-2, seed=4)
    assert all(math.isfinite(value) for value in history.val_loss)
    assert all((old != new).any() for old, new in zip(start, base.get_weights(), strict=True))
    wanted = base.predict(test, verbose=0)
    base.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", custom_objects=None, compile=False, safe_mode=True)
    np.testing.assert_array_equal(again.predict(test, verbose=0), wanted)


@pytest.mark.parametrize("name", ["seq2seq", "aer", "lstm-context"])
def test_models_that_learn_their_own_way_are_corrupted_and_compared_with_the_clean(name: str) -> None:
    """What was corrupted is what is read; what is compared with it, and fed to a decoder, is clean."""
    kind = FAMILY[name]
    assert kind.lesson is not None
    base = kind.build(6, 1, units=(4, 3) if name == "lstm-context" else (4,), seed=0)
    wrapping, values = Wrapping(noise=0.2, mask=0.2, activity=0.1), TEST[:40, :6]
    model, taught = wrap(base, wrapping, seed=5, lesson=kind.lesson(base)), kind.trainer(base)
    for one in (model, taught):
        one.compile(optimizer=keras.optimizers.SGD(0.0), loss=kind.loss)
    norm = 0.1 * float((codes(base, values) ** 2).sum(axis=1).mean())
    clean = float(taught.test_on_batch(values, values))
    assert float(model.test_on_batch(values, values)) == pytest.approx(clean + norm, rel=1e-4)
    twin = wrap(base, wrapping, seed=5)  # its next corruption is that of the training step
    bad = np.asarray(corrupt(values, wrapping, twin.seeds))
    said = np.asarray(
        kind.lesson(base).restore(keras.ops.convert_to_tensor(bad), keras.ops.convert_to_tensor(values), True)
    )
    if name == "lstm-context":
        guess, context = (keras.Model(base.input, base.get_layer(at).output) for at in ("prediction", "context"))
        np.testing.assert_allclose(said, np.asarray(guess(bad)) - np.asarray(context(values)), atol=1e-6)
        wanted = float((said**2).mean())
    else:
        steps = ((said - values) ** 2).mean(axis=(0, 2))
        wanted = float(steps @ [0.25, *[0.125] * 4, 0.25] if name == "aer" else steps.mean())
    if name == "aer":
        np.testing.assert_allclose(said, np.asarray(base(bad)), atol=1e-6)
    if name == "seq2seq":
        step = keras.Model([taught.input, base.get_layer("code").output], taught.output)
        np.testing.assert_allclose(said, step.predict([values, codes(base, bad)], verbose=0), atol=1e-5)
    assert float(model.train_on_batch(values, values)) == pytest.approx(wanted + norm, rel=1e-4)
    assert wanted != pytest.approx(clean, rel=1e-3)


def test_every_kind_s_code_can_reach_a_low_mean_activation() -> None:
    """As low as a code can be it must count as less than ρ: else the sparse penalty could not be met."""
    lowest = {"tanh": -1.0, "relu": 0.0, "lstm_state": -1.0, "leaky_relu": -100.0, "sigmoid": 0.0}
    for name, kind in FAMILY.items():
        activation = code_of(kind.build(4, 2, units=(4, 3)))[1]
        assert float(squashing(activation)(keras.ops.convert_to_tensor(lowest[activation]))) < 0.05, name


def test_the_same_seed_gives_the_same_weights() -> None:
    found = []
    for seed in (4, 4, 5):
        base = dense.build(4, 1, units=(2,), seed=0)
        fit(wrap(base, Wrapping(noise=0.1, mask=0.1), seed), LEARN[:200, :4], CHECK[:, :4], epochs=2, seed=0)
        found.append(np.concatenate([weights.ravel() for weights in base.get_weights()]))
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()


def test_early_stopping_restores_the_base() -> None:
    base = dense.build(16, 1, units=(3,), seed=0)
    model = wrap(base, Wrapping(noise=0.1, activity=0.01))
    history = fit(model, LEARN, CHECK, epochs=8, learning_rate=0.5, patience=1)
    assert float(model.evaluate(CHECK, CHECK, verbose=0)) == pytest.approx(min(history.val_loss), rel=1e-4)


def test_the_code_of_a_repeated_state_is_the_state() -> None:
    assert [(code.shape, kind) for code, kind in map(code_of, (lstm.build(5, 2, units=(4,)), dense.build(5, 2)))] == [
        ((None, 4), "tanh"),
        ((None, 3), "leaky_relu"),
    ]
    window = keras.Input((3, 2))
    with pytest.raises(ValueError, match="code"):
        wrap(keras.Model(window, layers.Dense(2)(window)), Wrapping())


@pytest.mark.parametrize(
    "option",
    [{"noise": -1}, {"mask": 1}, {"sparsity": 0}, {"sparsity": 1}, {"contraction": -1}, {"activity": math.nan}],
)
def test_senseless_options(option: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        Wrapping(**option)  # type: ignore[arg-type]

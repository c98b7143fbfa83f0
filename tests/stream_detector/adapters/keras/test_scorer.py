"""Scores do not depend on how windows are batched, and say what went wrong where."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np
import pytest

from stream_detector.adapters.keras import compilers
from stream_detector.adapters.keras.scorer import CompiledModel, KerasScorer, buckets_up_to, load_model
from stream_detector.bundle import Bundle
from stream_detector.contents import ErrorKind, ErrorStatistics, Manifest, Scaler
from stream_detector.errors import BundleError, SettingsError, Unavailable
from stream_detector.events import Float32
from stream_detector.thresholds import Entry, Tail, Thresholds
from training.autoencoders.lstm import build

LENGTH, SIZE = 8, 3
DEVIATION = (0.5, 1.0, 2.0)
CENTER, SCALE = np.array([100.0, 0.0, -3.0]), np.array([5.0, 1.0, 0.01])


def saved(model: Any, folder: Path) -> bytes:
    model.save(folder / "model.keras")
    return (folder / "model.keras").read_bytes()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return saved(build(LENGTH, SIZE, units=(12, 5), seed=3), tmp_path_factory.mktemp("model"))


@pytest.fixture
def make(model: bytes) -> Callable[[ErrorKind], Bundle]:
    def bundle(kind: ErrorKind) -> Bundle:
        names = ("a", "b", "c")
        manifest = Manifest("m", "lstm", names, LENGTH, 1, tuple(CENTER), "2026-11-20T10:00:00Z", 0, "tensorflow")
        white = ((2.0, 0.0, 0.0), (-0.7, 1.5, 0.0), (0.2, 0.1, 3.0))
        errors = {
            "mahalanobis": ErrorStatistics(kind, (0.1, -0.2, 0.0), white),
            "newest": ErrorStatistics(kind, deviation=DEVIATION),
        }.get(kind, ErrorStatistics(kind))
        tail = Tail(1.0, 0.0, 1.0, 9, 1.0)
        table = Thresholds("evt", 0.1, (Entry("*", 2.0, 0.1, 9, tail), Entry("own", 0.5, 0.1, 9, tail)), {"own": 1})
        return Bundle(Path("m"), manifest, Scaler(tuple(CENTER), tuple(SCALE)), errors, table, model)

    return bundle


def scorer(bundle: Bundle, most: int = 64) -> KerasScorer:
    made = KerasScorer(bundle, most)
    made.load()
    return made


def windows(count: int, seed: int = 0) -> Float32:
    drawn = np.random.default_rng(seed).normal(size=(count, LENGTH, SIZE))
    return (CENTER + SCALE * drawn).astype(np.float32)


def by_hand(bundle: Bundle, values: Float32, kind: ErrorKind) -> tuple[Any, Any, Any]:
    """Error, contributions and worst step in float64, straight from the definition."""
    x = ((values - np.float32(CENTER)) / np.float32(SCALE)).astype(np.float32)
    r = np.asarray(load_model(bundle)(x, training=False)).astype(float) - x
    size = r.shape[2]
    if kind == "mahalanobis":
        white = np.array(bundle.errors.whitening)
        c = r - np.array(bundle.errors.mean)
        pulled = c @ (white @ white.T)
        steps = (c * pulled).sum(2)
        return np.sqrt(steps.mean(1) / size), np.maximum(c * pulled, 0).mean(1), steps.argmax(1)
    if kind == "newest":
        before = r[:, 0]
        for step in range(1, LENGTH - 1):
            before = 0.7 * before + 0.3 * r[:, step]
        squares = ((r[:, -1] - before) / np.array(DEVIATION)) ** 2
        return np.sqrt(squares.mean(1)), squares, np.full(len(r), LENGTH - 1)
    parts = r**2 if kind == "mse" else np.abs(r)
    return parts.mean((1, 2)), parts.mean(1), parts.sum(2).argmax(1)


@pytest.mark.parametrize("kind", ["newest", "mahalanobis", "mse", "mae"])
def test_errors_are_as_defined(make: Callable[[ErrorKind], Bundle], kind: ErrorKind) -> None:
    bundle = make(kind)
    values = windows(20)
    found = scorer(bundle).score(["own"] * 10 + ["other"] * 10, values)
    error, shares, worst = by_hand(bundle, values, kind)
    np.testing.assert_allclose(found.error, error, rtol=1e-4)
    np.testing.assert_allclose(found.contributions, shares / shares.sum(1, keepdims=True), atol=1e-4)
    assert found.worst_step.tolist() == worst.tolist()
    assert found.threshold.tolist() == [0.5] * 10 + [2.0] * 10
    np.testing.assert_allclose(found.score, found.error / found.threshold, rtol=1e-6)
    np.testing.assert_allclose(found.contributions.sum(axis=1), 1, rtol=1e-5)
    assert {one.dtype for one in (found.score, found.error, found.threshold, found.contributions)} == {np.dtype("f4")}


def linear(width: int, head: bool, folder: Path) -> tuple[bytes, Any, Any]:
    """A model with a gradient that is known: its weights (W F, width), and their bias."""
    window = keras.Input((LENGTH, SIZE))
    made = keras.layers.Dense(width, name="head", bias_initializer="ones")(keras.layers.Flatten()(window))
    model = keras.Model(window, keras.layers.Activation("sigmoid")(made) if head else made)
    return saved(model, folder), *model.get_layer("head").get_weights()


def attributed(seen: Any, gradient: Any) -> tuple[Any, Any]:
    """Contributions and worst steps by gradient times input, both (n, W F)."""
    shares = np.abs(seen * gradient).reshape(-1, LENGTH, SIZE)
    weight = shares.mean(axis=1)
    return weight / weight.sum(axis=1, keepdims=True), shares.sum(axis=2).argmax(axis=1)


@pytest.mark.parametrize("kind", ["mahalanobis", "mse", "mae"])
def test_a_residual_of_the_model_s_own(make: Callable[[ErrorKind], Bundle], kind: ErrorKind, tmp_path: Path) -> None:
    model, kernel, bias = linear(4, False, tmp_path)
    mean, white = np.array([0.1, -0.2, 0.0, 1.0]), np.tril(np.random.default_rng(0).normal(size=(4, 4))) + np.eye(4)
    errors = ErrorStatistics(kind, tuple(mean), tuple(map(tuple, white))) if kind == "mahalanobis" else None
    bundle = replace(make(kind), model=model, errors=errors or ErrorStatistics(kind))
    bundle = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, output="residual"))
    values = windows(20)
    seen = ((values - CENTER) / SCALE).reshape(20, -1)
    r = seen @ kernel + bias  # (n, 4)
    if kind == "mahalanobis":
        apart = (r - mean) @ white
        error, slope = np.sqrt((apart**2).mean(axis=1)), apart @ white.T
    else:
        error, slope = ((r**2).mean(axis=1), r) if kind == "mse" else (np.abs(r).mean(axis=1), np.sign(r))
    contributions, worst = attributed(seen, slope @ kernel.T)
    made = scorer(bundle)
    found = made.score(["x"] * 20, values)
    np.testing.assert_allclose(found.error, error, rtol=1e-3)
    np.testing.assert_allclose(found.contributions, contributions, atol=2e-3)
    assert (found.worst_step == worst).mean() > 0.9
    assert np.isnan(made.expect([""] * len(values), values)).all()
    assert made.score([], windows(0)).contributions.shape == (0, SIZE)
    narrow = replace(bundle, model=linear(3, False, tmp_path)[0])
    if kind == "mahalanobis":
        with pytest.raises(BundleError, match=r"returns \(None, 3\), not \(None, 4\)"):
            KerasScorer(narrow).load()


def test_a_probability_of_anomaly(make: Callable[[ErrorKind], Bundle], tmp_path: Path) -> None:
    """Judged by its odds, which tell certain from more certain where the probability itself is 1 for both."""
    model, kernel, bias = linear(1, True, tmp_path)
    bundle = replace(make("mse"), model=model, errors=ErrorStatistics("probability"))
    bundle = replace(
        bundle, manifest=msgspec.structs.replace(bundle.manifest, output="probability", state="fine_tuned")
    )
    values = windows(20)
    values[1], values[2] = (CENTER + factor * SCALE * np.sign(kernel).reshape(LENGTH, SIZE) for factor in (50, 100))
    seen = ((values - CENTER) / SCALE).reshape(20, -1)
    odds = seen @ kernel[:, 0] + bias[0]
    contributions, worst = attributed(seen, kernel[:, 0])
    found = scorer(bundle).score(["x"] * 20, values)
    np.testing.assert_allclose(found.error, np.logaddexp(0, odds / 4), rtol=1e-3)
    np.testing.assert_allclose(found.contributions, contributions, atol=2e-3)
    assert (found.worst_step == worst).mean() > 0.9
    assert found.score[2] > 1.5 * found.score[1] > 3 * np.delete(found.score, [1, 2]).max()
    assert (found.score > 0).all()
    nameless = keras.Sequential([keras.Input((LENGTH, SIZE)), keras.layers.Flatten(), keras.layers.Dense(1)])
    with pytest.raises(BundleError, match="no layer named head"):
        KerasScorer(replace(bundle, model=saved(nameless, tmp_path))).load()


def test_batching_does_not_change_scores(make: Callable[[ErrorKind], Bundle]) -> None:
    bundle = make("mahalanobis")
    values = windows(150)
    sensors = ["own" if at % 3 else "other" for at in range(150)]
    whole = scorer(bundle, 256).score(sensors, values)
    small = scorer(bundle, 64)
    for size in (1, 16, 17, 64, 65, 150):
        part = small.score(sensors[:size], values[:size])
        np.testing.assert_allclose(part.score, whole.score[:size], rtol=2e-6)
        np.testing.assert_allclose(part.contributions, whole.contributions[:size], atol=2e-6)
    alone = scorer(bundle, 1).score(sensors[149:], values[149:])
    np.testing.assert_allclose(alone.score, whole.score[149:], rtol=2e-6)


def test_no_windows(make: Callable[[ErrorKind], Bundle]) -> None:
    made = scorer(make("mse"))
    found = made.score([], windows(0))
    assert found.score.shape == (0,)
    assert found.contributions.shape == (0, SIZE)
    assert made.expect([], windows(0)).shape == (0, LENGTH, SIZE)


def test_a_spike_is_found_where_it_is(make: Callable[[ErrorKind], Bundle]) -> None:
    values = windows(3)
    values[1, 5, 0] += 60 * SCALE[0]
    for kind in ("mse", "mahalanobis"):
        found = scorer(make(kind)).score(["x"] * 3, values)
        assert found.worst_step[1] == 5
        assert found.contributions[1].argmax() == 0
        assert found.score.argmax() == 1


@pytest.mark.parametrize("kind", ["mahalanobis", "mse", "mae"])
def test_absurd_readings_stay_finite(make: Callable[[ErrorKind], Bundle], kind: ErrorKind) -> None:
    values = windows(4)
    values[0], values[1, 2, 2], values[2] = 3e38, -3e38, -3e38
    found = scorer(make(kind)).score(["own"] * 4, values)
    for one in (found.score, found.error, found.contributions):
        assert np.isfinite(one).all()
    assert (found.score[:3] > 100 * found.score[3]).all()


def test_an_error_of_nothing_is_shared_evenly(make: Callable[[ErrorKind], Bundle], tmp_path: Path) -> None:
    exact = keras.Sequential([keras.Input((LENGTH, SIZE)), keras.layers.Activation("linear")])
    bundle = replace(make("mse"), model=saved(exact, tmp_path))
    found = scorer(bundle).score(["x"], windows(1))
    assert found.score.tolist() == [0.0]
    np.testing.assert_allclose(found.contributions, 1 / SIZE)


def test_reconstructions_are_in_raw_units(make: Callable[[ErrorKind], Bundle], tmp_path: Path) -> None:
    exact = keras.Sequential([keras.Input((LENGTH, SIZE)), keras.layers.Activation("linear")])
    values = windows(70)
    np.testing.assert_allclose(
        scorer(replace(make("mse"), model=saved(exact, tmp_path))).expect([""] * len(values), values),
        values,
        rtol=1e-5,
        atol=1e-5,
    )
    bundle = make("mse")
    seen = ((values - CENTER) / SCALE).astype(np.float32)
    wanted = np.asarray(load_model(bundle)(seen, training=False)) * SCALE + CENTER
    np.testing.assert_allclose((scorer(bundle).expect([""] * len(values), values) - wanted) / SCALE, 0, atol=1e-4)


def test_what_is_expected_may_be_asked_beside_scoring(make: Callable[[ErrorKind], Bundle]) -> None:
    made, values, few = scorer(make("mahalanobis")), windows(300), windows(20, 1)
    alone = made.score(["x"] * 300, values).score, made.expect(["own"] * 20, few, [])
    with ThreadPoolExecutor(1) as device:
        for _ in range(20):
            scoring = device.submit(made.score, ["x"] * 300, values)
            np.testing.assert_array_equal(made.expect(["own"] * 20, few, []), alone[1])
            np.testing.assert_array_equal(scoring.result().score, alone[0])


def test_warming_compiles_every_bucket(make: Callable[[ErrorKind], Bundle]) -> None:
    made = scorer(make("mse"), 100)
    made.warm()
    assert made.compiled is not None
    before = set(made.compiled.compiled)
    assert before == {("score", 16), ("score", 64), ("score", 100), ("expected", 16)}
    for size in (1, 20, 100, 250):
        made.score(["x"] * size, windows(size))
        assert made.expect(["x"] * size, windows(size)).shape == (size, LENGTH, SIZE)
    assert set(made.compiled.compiled) == before


def with_model(bundle: Bundle, made: Any, folder: Path) -> Bundle:
    folder.mkdir()
    return replace(bundle, model=saved(made, folder))


def test_a_new_version_runs_what_was_compiled_for_the_one_before(
    make: Callable[[ErrorKind], Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights, scales and thresholds of its own, and of more sensors: what was compiled is never freed."""
    monkeypatch.setattr(compilers, "MADE", {})
    first, values = make("newest"), windows(20)
    before = scorer(first).score(["own"] * 20, values)
    count = len(compilers.MADE)
    second = with_model(first, build(LENGTH, SIZE, units=(12, 5), seed=8), tmp_path / "second")
    table = first.thresholds.entries
    thresholds = replace_thresholds(
        first, {"own": 1, "another": 2}, (*table, msgspec.structs.replace(table[0], threshold=7.0))
    )
    second = replace(second, scaler=Scaler(tuple(CENTER + 1), tuple(SCALE * 2)), thresholds=thresholds)
    after = scorer(second).score(["another"] * 20, values)
    assert count == len(compilers.MADE) > 0
    assert (after.threshold == 7.0).all()
    assert not np.allclose(after.error, before.error, rtol=0.05)
    monkeypatch.setattr(compilers, "MADE", {})
    np.testing.assert_allclose(scorer(second).score(["another"] * 20, values).score, after.score, rtol=1e-5)
    np.testing.assert_array_equal(scorer(first).score(["own"] * 20, values).score, before.score)


def replace_thresholds(bundle: Bundle, sensors: dict[str, int], entries: tuple[Entry, ...]) -> Thresholds:
    return msgspec.structs.replace(bundle.thresholds, sensors=sensors, entries=entries)


def branched(
    activation: str = "tanh", swapped: bool = False, policy: str = "float32", units: int = 4, seed: int = 0
) -> Any:
    """Two layers side by side, whose difference is what it returns; none of them is given a name."""
    window = keras.Input((LENGTH, SIZE))
    start = keras.initializers.GlorotUniform(seed)
    one = keras.layers.Dense(units, activation=activation, kernel_initializer=start)(window)
    other = keras.layers.Dense(units, dtype=policy, kernel_regularizer="l2")(window)
    parts = [other, one] if swapped else [one, other]
    return keras.Model(window, keras.layers.Dense(SIZE)(keras.layers.Subtract()(parts)))


def test_models_are_alike_if_they_compute_the_same() -> None:
    usual = compilers.structure(branched())
    assert compilers.structure(branched(seed=5)) == usual, "names and first weights make no difference"
    others = [branched("relu"), branched(swapped=True), branched(policy="mixed_float16"), branched(units=5)]
    assert len({usual, *map(compilers.structure, others)}) == 1 + len(others)


@pytest.mark.parametrize(("most", "sizes"), [(1, [1]), (16, [16]), (100, [16, 64, 100]), (1024, [16, 64, 256, 1024])])
def test_buckets(most: int, sizes: list[int]) -> None:
    assert buckets_up_to(most) == sizes


def test_a_model_of_another_shape_is_refused(make: Callable[[ErrorKind], Bundle], tmp_path: Path) -> None:
    bundle = make("mse")
    longer = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, length=9))
    with pytest.raises(BundleError, match=r"takes \(None, 8, 3\), not \(None, 9, 3\); train"):
        KerasScorer(longer).load()
    narrow = keras.Sequential([keras.Input((LENGTH, SIZE)), keras.layers.Dense(2)])
    with pytest.raises(BundleError, match=r"returns \(None, 8, 2\)"):
        KerasScorer(replace(bundle, model=saved(narrow, tmp_path))).load()


def test_a_model_with_code_is_refused(make: Callable[[ErrorKind], Bundle], tmp_path: Path) -> None:
    coded = keras.Sequential(
        [keras.Input((LENGTH, SIZE)), keras.layers.Lambda(lambda x: x, output_shape=(LENGTH, SIZE))]
    )
    with pytest.raises(BundleError, match="cannot be loaded") as caught:
        KerasScorer(replace(make("mse"), model=saved(coded, tmp_path))).load()
    assert "\n" not in str(caught.value)


def test_a_model_that_names_foreign_code_is_refused(make: Callable[[ErrorKind], Bundle], model: bytes) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(model)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                config |= {"module": "subprocess", "class_name": "Popen", "config": {"args": ["true"]}}
                data = json.dumps(config).encode()
            new.writestr(name, data)
    with pytest.raises(BundleError, match="cannot be loaded"):
        KerasScorer(replace(make("mse"), model=out.getvalue())).load()


@pytest.mark.parametrize("model_bytes", [b"", b"\x80\x04.", b"PK\x03\x04 and so on"])
def test_what_is_no_model_is_refused(make: Callable[[ErrorKind], Bundle], model_bytes: bytes) -> None:
    with pytest.raises(BundleError, match="cannot be loaded"):
        KerasScorer(replace(make("mse"), model=model_bytes)).load()


def test_a_failing_device_is_unavailable(make: Callable[[ErrorKind], Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    made = scorer(make("mse"))

    def fail(*_: object) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nand a long story")

    monkeypatch.setitem(compilers.COMPILERS, keras.backend.backend(), lambda *_: fail)
    with pytest.raises(Unavailable, match=r"the device fails: RESOURCE_EXHAUSTED: out of memory; check it"):
        made.score(["x"], windows(1))


def failing(monkeypatch: pytest.MonkeyPatch, fails: Callable[[Float32], bool]) -> list[int]:
    """Let the device fail on such batches; the sizes of those that went well."""
    real, sizes = compilers.COMPILERS[keras.backend.backend()], list[int]()

    def compiler(*arguments: Any) -> Callable[..., Any]:
        program = real(*arguments)

        def run(weights: Any, tables: Any, shared: Any, values: Float32, rows: Any) -> Any:
            if fails(values):
                raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
            sizes.append(len(values))
            return program(weights, tables, shared, values, rows)

        return run

    monkeypatch.setitem(compilers.COMPILERS, keras.backend.backend(), compiler)
    return sizes


def test_a_batch_that_the_device_cannot_hold_is_halved(
    make: Callable[[ErrorKind], Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, values = make("mahalanobis"), windows(100)
    whole = scorer(bundle).score(["x"] * 100, values)
    sizes = failing(monkeypatch, lambda batch: len(batch) > 16)
    halved = scorer(bundle).score(["x"] * 100, values)
    np.testing.assert_allclose(halved.score, whole.score, rtol=1e-5)
    np.testing.assert_array_equal(halved.worst_step, whole.worst_step)
    assert set(sizes) == {16}


@pytest.mark.parametrize(("most", "expected"), [(64, {64}), (16, {16})])
def test_one_size_is_compiled_unless_the_device_cannot_hold_it(
    make: Callable[[ErrorKind], Bundle], monkeypatch: pytest.MonkeyPatch, most: int, expected: set[int]
) -> None:
    bundle, values = make("mahalanobis"), windows(70)
    whole = scorer(bundle).score(["x"] * 70, values)
    sizes = failing(monkeypatch, lambda batch: len(batch) > most)
    told = (bundle.scaler, bundle.errors, bundle.thresholds)
    one = CompiledModel(load_model(bundle), LENGTH, *told, buckets_up_to(64), one_size=True)
    np.testing.assert_allclose(one.errors(["x"] * 70, values).score, whole.score, rtol=1e-5)
    assert set(sizes) == expected


def test_a_window_that_the_device_fails_on_has_no_score_and_the_others_have(
    make: Callable[[ErrorKind], Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, values = make("mahalanobis"), windows(50)
    whole = scorer(bundle).score(["x"] * 50, values)
    values[13, 0, 0] = 666
    failing(monkeypatch, lambda batch: bool((batch == 666).any()))
    found = scorer(bundle).score(["x"] * 50, values)
    good = np.arange(50) != 13
    assert np.isnan(found.score[13])
    np.testing.assert_allclose(found.score[good], whole.score[good], rtol=1e-5)


def test_other_backends_are_refused(make: Callable[[ErrorKind], Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(SettingsError, match="KERAS_BACKEND=torch"):
        KerasScorer(make("mse")).load()

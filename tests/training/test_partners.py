"""What is learnt of normal contrasts: whole trainings on generated series, judged by the bundle's own scorer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stream_detector.adapters.keras.scorer import KerasScorer
from stream_detector.bundle import Bundle, load_bundle
from stream_detector.events import Errors, Events, Float32
from stream_detector.sensors import Rules
from stream_detector.windows import windows_of
from training.calibrate import BUDGET, SHARES
from training.options import Session, TrainOptions
from training.partners import LATEST
from training.train import train

LENGTH = 8
OPTIONS = TrainOptions(length=LENGTH, stride=1, units=(4,), epochs=1, seed=1)
UNDRAWN = Session(pictures=False)
FEATURES = ("noise", "drift")
MINUTE = 60_000


def series(count: int, seed: int, sensor: str = "a", scale: float = 1.0, first: int = 0) -> Events:
    """White noise, and a walk that wanders without an end."""
    rng = np.random.default_rng(seed)
    values = np.stack([rng.normal(0, 1, count), np.cumsum(rng.normal(0, 0.2, count))], axis=1)
    times = 1_700_000_000_000 + np.arange(count) * MINUTE
    return Events(
        [sensor] * count, times, (scale * (values + 10)).astype(np.float32), first + np.arange(count),
        np.full(count, -1),
    )  # fmt: skip


def judged(bundle: Bundle, values: Float32, sensor: str = "a") -> Errors:
    features = bundle.manifest.features
    rules = Rules(features, bundle.manifest.length, 1, (0.0,) * len(features))
    count = len(values)
    times = 1_800_000_000_000 + np.arange(count) * MINUTE
    (windows,) = windows_of([Events([sensor] * count, times, values, np.arange(count), np.full(count, -1))], rules)
    scorer = KerasScorer(bundle)
    scorer.load()
    return scorer.score(windows.sensors, windows.values)


def anomalous(found: Errors) -> set[str]:
    """The parts of the score that told of anything."""
    return {name for name, score in zip(found.names, found.score.tolist(), strict=True) if score >= 1}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two sensors of very different size."""
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    train([series(6_000, 0), series(6_000, 1, "b", 1_000.0)], FEATURES, OPTIONS, out, session=UNDRAWN)
    return load_bundle(out)


def test_level_looks_at_what_has_a_level(bundle: Bundle) -> None:
    _, level, *_ = bundle.errors.partners
    assert level.name == "level"
    assert level.counts == (True, False)


def test_a_shift_of_the_level_alerts_for_as_long_as_it_lasts(bundle: Bundle) -> None:
    values = series(600, 7).values.copy()
    values[200:400, 0] += 3
    found = judged(bundle, values)
    during, calm = found.score[210 - LENGTH : 400 - LENGTH], np.delete(found.score, np.s_[200 - LENGTH : 400])
    assert (during >= 1).mean() > 0.95
    assert (calm >= 1).mean() < 0.02
    assert [found.names[at] for at in np.flatnonzero(found.score >= 1)].count("level") > 150


def test_a_level_is_of_the_latest_events_however_long_the_window(tmp_path: Path) -> None:
    """What a long window still holds of a shift that is over is no longer told."""
    options = replace(OPTIONS, length=64)
    train([series(3_000, 0)], FEATURES, options, tmp_path / "long", session=UNDRAWN)
    values = series(600, 7).values.copy()
    values[300:330, 0] += 3
    found = judged(load_bundle(tmp_path / "long"), values)
    assert found.part is not None
    told = 63 + np.flatnonzero((found.score >= 1) & (np.array(found.names) == "level"))  # rows that windows end with
    assert len(told) > 20
    assert told.min() >= 300
    assert told.max() < 330 + LATEST


def test_which_features_have_a_level_is_no_matter_of_the_stride(tmp_path: Path) -> None:
    """Bursts of two events, so rare that every eighth event holds hardly any of them."""
    count, width = 2_000, 12
    rng = np.random.default_rng(5)
    values = rng.normal(0, 0.02, (count, width))
    for feature in range(width):
        for at in range(0, count, 250) + rng.integers(200, size=8):
            values[at : at + 2, feature] += 5
    times = 1_700_000_000_000 + np.arange(count) * MINUTE
    events = Events(["a"] * count, times, values.astype(np.float32), np.arange(count), np.full(count, -1))
    names = tuple(f"f{at}" for at in range(width))
    for stride in (1, 8):
        options = replace(OPTIONS, kind="dense", length=16, stride=stride)
        train([events], names, options, tmp_path / str(stride), session=UNDRAWN)
        [level] = [one for one in load_bundle(tmp_path / str(stride)).errors.partners if one.name == "level"]
        assert all(level.counts)


def test_drift_far_beyond_what_was_seen_does_not_alert(bundle: Bundle) -> None:
    values = series(2_000, 8).values.copy()
    values[:, 1] += np.linspace(0, 200, 2_000, dtype=np.float32)
    found = judged(bundle, values)
    assert (found.score >= 1).mean() < 0.02


def test_a_spike_and_a_jump_of_what_drifts_do(bundle: Bundle) -> None:
    values = series(400, 9).values.copy()
    values[200, 0] += 12
    values[300:, 1] += 10
    found = judged(bundle, values)
    rows = np.flatnonzero(found.score >= 1) + LENGTH - 1
    assert {200, 300} <= set(rows.tolist())


def test_sensors_of_any_size_are_judged_alike(bundle: Bundle) -> None:
    values = series(400, 10).values.copy()
    values[200, 0] += 12
    one, other = judged(bundle, values), judged(bundle, 1_000 * values, "b")
    at = 200 - LENGTH + 1
    assert one.score[at] > 1
    assert other.score[at] == pytest.approx(one.score[at], rel=0.5)


def test_a_budget_that_is_asked_for_is_divided_among_the_parts(bundle: Bundle, tmp_path: Path) -> None:
    train([series(3_000, 0)], FEATURES, replace(OPTIONS, budget=0.2), tmp_path / "asked", session=UNDRAWN)
    asked = load_bundle(tmp_path / "asked").thresholds
    given = {"model": asked.parameter} | {name: one.parameter for name, one in asked.partners.items()}
    assert {"model", "change", "level", "bias"} <= set(given)
    whole = sum(SHARES[name] for name in given)
    assert given == pytest.approx({name: 0.2 * SHARES[name] / whole for name in given})


def test_a_budget_that_nobody_asked_for_is_not_extrapolated(bundle: Bundle) -> None:
    """There are 8.3 days to learn from: less than one alert of a tenth of the budget."""
    thresholds = bundle.thresholds
    assert thresholds.parameter == pytest.approx(1 / 8.3, rel=0.05)
    assert thresholds.partners["change"].parameter == pytest.approx(max(BUDGET * SHARES["change"], 1 / 8.3), rel=0.05)


def test_without_partners_the_model_has_the_whole_budget(tmp_path: Path) -> None:
    options = replace(OPTIONS, partners=False, budget=0.2)
    train([series(2_000, 0)], FEATURES, options, tmp_path / "alone", session=UNDRAWN)
    alone = load_bundle(tmp_path / "alone")
    assert (alone.errors.partners, alone.thresholds.partners) == ((), {})
    assert alone.thresholds.parameter == 0.2


def coupled(count: int, seed: int, first: int = 0) -> Events:
    """A rhythm, and what goes with it: its opposite."""
    rng = np.random.default_rng(seed)
    common = np.sin(np.arange(count) / 7 + seed) + np.sin(np.arange(count) / 31)
    values = np.stack([common, -common], axis=1) + rng.normal(0, 0.05, (count, 2))
    times = 1_700_000_000_000 + np.arange(count) * MINUTE
    return Events(["a"] * count, times, values.astype(np.float32), first + np.arange(count), np.full(count, -1))


def test_features_that_no_longer_go_together_alert_for_as_long_as_it_lasts(tmp_path: Path) -> None:
    """Each stays where it may be: what breaks is how they go together."""
    options = replace(OPTIONS, units=(16,), epochs=12)
    train([coupled(4_000, 0)], FEATURES, options, tmp_path / "coupled", session=UNDRAWN)
    values = coupled(1_200, 5).values.copy()
    values[600:900, 1] *= 0.4
    found = judged(load_bundle(tmp_path / "coupled"), values)
    during, calm = found.score[610 - LENGTH : 900 - LENGTH], np.delete(found.score, np.s_[600 - LENGTH : 900])
    assert (during >= 1).mean() > 0.3
    assert (calm >= 1).mean() < 0.02
    assert "bias" in {found.names[at] for at in np.flatnonzero(found.score >= 1)}


def plant(count: int, seed: int, period: float) -> Float32:
    """Two rhythms in step, and a load (n, 3): each hour as much noise as it was given, at times none."""
    rng = np.random.default_rng(seed)
    phase = 2 * np.pi * np.arange(count) / period
    loads = rng.uniform(0, 2, -(-count // 60)).repeat(60)[:count]
    values = np.stack([np.sin(phase), np.cos(phase) + 0.5 * np.sin(2 * phase), loads * rng.normal(size=count)], axis=1)
    values[:, :2] += rng.normal(0, 0.1, (count, 2))
    return (20 + values).astype(np.float32)


def of_plant(values: Float32) -> Events:
    count = len(values)
    times = 1_700_000_000_000 + np.arange(count) * MINUTE
    return Events(["a"] * count, times, values, np.arange(count), np.full(count, -1))


@pytest.fixture(scope="module")
def rhythmic(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("bundles") / "rhythmic"
    options = TrainOptions("dense", length=64, stride=8, epochs=3, seed=1)
    train([of_plant(plant(4_320, 0, 12))], ("first", "second", "load"), options, out, session=UNDRAWN)
    return load_bundle(out)


def test_a_rhythm_that_stops_alerts_for_as_long_as_it_lasts(rhythmic: Bundle) -> None:
    """A window shows five periods: stopped at its mean, nothing jumps and no mean moves."""
    values = plant(1_600, 5, 12)
    values[600:1_200, 0] = 20 + np.random.default_rng(6).normal(0, 0.1, 600)
    found, others = judged(rhythmic, values), judged(rhythmic, plant(1_600, 5, 12))
    names = np.array(found.names)
    assert found.score[600:1_130].min() > 2
    assert set(names[600:1_130]) == {"spread"}
    assert found.contributions[600:1_130, 0].min() > 0.9
    calm = np.r_[:530, 1_210 : len(names)]  # windows by their first row
    np.testing.assert_allclose(found.score[calm], others.score[calm], rtol=0.05, atol=0.02)


def test_a_rhythm_that_grows_is_not_told_by_its_spread(rhythmic: Bundle) -> None:
    values = plant(600, 5, 12)
    values[:, 0] = 20 + 3 * (values[:, 0] - 20)
    assert "spread" not in judged(rhythmic, values).names


def test_what_is_calm_at_times_may_be(rhythmic: Bundle) -> None:
    [spread] = [one for one in rhythmic.errors.partners if one.name == "spread"]
    assert spread.counts == (True, True, False)
    values = plant(1_200, 5, 12)
    values[600:, 2] = 20
    assert "spread" not in anomalous(judged(rhythmic, values))


def test_without_any_noise_rounding_is_no_alert(tmp_path: Path) -> None:
    """Each part but the model sees the same in each window of a plant that repeats itself exactly."""
    steps = np.arange(4_320)
    values = np.stack([np.sin(np.pi * steps / 4), np.cos(np.pi * steps / 4)], axis=1).astype(np.float32)
    options = TrainOptions("dense", length=64, stride=8, epochs=1, seed=1)
    train([of_plant(values)], FEATURES, options, tmp_path / "exact", session=UNDRAWN)
    bundle = load_bundle(tmp_path / "exact")
    assert {"level", "spread"} <= {one.name for one in bundle.errors.partners}
    found = judged(bundle, values[:400] + np.random.default_rng(1).normal(0, 1e-4, (400, 2)).astype(np.float32))
    assert anomalous(found) <= {"model"}


def test_a_day_does_not_tell_how_residuals_wander(tmp_path: Path) -> None:
    train([coupled(2_000, 0)], FEATURES, replace(OPTIONS, epochs=1), tmp_path / "short", session=UNDRAWN)
    assert "bias" not in load_bundle(tmp_path / "short").thresholds.partners


def test_what_the_model_returns_counts_only_where_it_has_been(tmp_path: Path) -> None:
    """Far away it reconstructs badly, which says nothing of how the features move there."""
    events = [coupled(2_000, 0), replace(coupled(2_000, 1), sensors=["b"] * 2_000)]
    train(events, ("rhythm", "opposite"), replace(OPTIONS, epochs=1), tmp_path / "short", session=UNDRAWN)
    bundle = load_bundle(tmp_path / "short")
    near, far = coupled(600, 5).values, coupled(600, 5).values + np.float32(30)
    for sensor in ("a", "never seen"):
        assert "model" in judged(bundle, near, sensor).names
        assert "model" not in judged(bundle, far, sensor).names


def test_features_that_left_what_training_saw_are_named(tmp_path: Path) -> None:
    train([coupled(2_000, 0)], ("rhythm", "opposite"), replace(OPTIONS, epochs=1), tmp_path / "short", session=UNDRAWN)
    values = coupled(600, 5).values.copy()
    values[300:, 1] += np.float32(30)
    outside = judged(load_bundle(tmp_path / "short"), values).outside
    assert outside is not None
    assert not outside[:, 0].any()
    assert not outside[: 300 - LENGTH, 1].any()
    assert outside[300:, 1].all()


def test_a_sensor_that_was_hardly_seen_may_be_where_the_others_were(tmp_path: Path) -> None:
    brief = coupled(LENGTH, 1)
    events = [coupled(2_000, 0), replace(brief, sensors=["brief"] * LENGTH)]
    train(events, ("rhythm", "opposite"), replace(OPTIONS, epochs=1), tmp_path / "brief", session=UNDRAWN)
    bundle = load_bundle(tmp_path / "brief")
    assert "model" in judged(bundle, coupled(600, 5).values, "brief").names
    assert bundle.errors.ends is not None
    assert set(bundle.errors.ends.own) == {"a"}

"""Baselines: causal, alike in what they take and give, and under the product's threshold and policy."""

from __future__ import annotations

import numpy as np
import pytest

from stream_detector.errors import DataError
from stream_detector.events import Float64
from stream_detector.settings import Alerts
from training import baselines
from training.baselines import BASELINES, Baseline, History, available, firing, judge

MINUTE = 60_000


def readings(n: int, seed: int) -> Float64:
    """Three features (n, 3): two that go together, and a constant."""
    rng = np.random.default_rng(seed)
    load = np.sin(np.arange(n) / 20) + 0.1 * rng.standard_normal(n)
    return np.column_stack([load, 2 * load + 0.1 * rng.standard_normal(n), np.full(n, 5.0)])


def history(values: Float64) -> History:
    return History(values, MINUTE * np.arange(len(values), dtype=np.int64))


each = pytest.mark.parametrize("baseline", BASELINES, ids=[one.name for one in BASELINES])


@each
def test_a_score_for_every_row_and_none_depends_on_later_ones(baseline: Baseline) -> None:
    score = baseline.fit(readings(600, 1))
    stream = readings(120, 2)
    whole = score(stream)
    assert whole.shape == (120,)
    assert np.isfinite(whole).all()
    np.testing.assert_allclose(score(stream[:70]), whole[:70], rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(score(stream), whole)  # scoring leaves nothing behind
    assert score(stream[:0]).shape == (0,)


@each
def test_what_is_far_off_scores_higher(baseline: Baseline) -> None:
    score = baseline.fit(readings(600, 1))
    stream = readings(200, 2)
    stream[150:153, :2] += (6.0, -6.0)
    found = score(stream)
    assert found[150:153].max() > np.quantile(found[:150], 0.98)


@each
def test_what_is_by_chance_is_by_its_seed(baseline: Baseline) -> None:
    train, stream = readings(600, 1), readings(120, 2)
    first, again, other = (baseline.seeded(seed)(train)(stream) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) is not baseline.chance


@each
def test_a_constant_that_moves_is_no_division_by_zero(baseline: Baseline) -> None:
    stream = readings(60, 2)
    stream[40:, 2] = 9
    assert np.isfinite(baseline.fit(readings(600, 1))(stream)).all()


def test_available_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "find_spec", lambda name: None)
    usable, lines = available()
    assert [one.name for one in usable] == ["PCA residual", "EWMA z-score"]
    assert lines == [
        "isolation forest left out: pip install scikit-learn",
        "half-space trees left out: pip install river",
    ]


def test_judge_fires_on_what_is_wrong_and_not_on_what_is_right() -> None:
    train = {"a": history(readings(2_000, 1)), "b": history(readings(2_000, 2))}
    bad = readings(400, 3)
    bad[200:260, 1] -= 5
    streams = {"a": history(readings(400, 4)), "b": history(bad), "new": history(readings(400, 5))}
    found = judge(baselines.pca_residual, train, streams, budget=0.1, policy=Alerts())
    assert set(found) == set(streams)
    assert not found["a"].firing.any()
    assert not found["new"].firing.any()
    assert not found["b"].firing[:200].any()
    assert found["b"].firing[205:255].all()


def test_judge_takes_missing_values_as_the_last_one() -> None:
    train, stream = readings(800, 1), readings(100, 2)
    train[::7, 0] = np.nan
    stream[0, 1] = stream[50, 0] = np.nan
    found = judge(baselines.ewma_z, {"a": history(train)}, {"a": history(stream)}, budget=0.1, policy=Alerts())
    assert np.isfinite(found["a"].score).all()


def test_judge_of_many_short_histories_shares_one_fit() -> None:
    fits = []

    def fit(train: Float64) -> baselines.Score:
        fits.append(len(train))
        return lambda stream: np.abs(stream).max(axis=1)

    train = {str(at): history(readings(50, at)) for at in range(20)}
    judge(fit, train, {"0": train["0"]}, budget=0.1, policy=Alerts())
    assert fits == [20 * 40]


def test_judge_without_anything_to_learn_from() -> None:
    empty = {"a": history(readings(1, 1))}
    with pytest.raises(DataError, match="train the baselines"):
        judge(baselines.ewma_z, empty, empty, budget=0.1, policy=Alerts())


def test_the_threshold_comes_from_the_training_part_alone() -> None:
    train = {"a": history(readings(1_000, 1))}
    stream = readings(300, 2)
    changed = stream.copy()
    changed[200:] += 50
    one, other = (
        judge(baselines.ewma_z, train, {"a": history(part)}, budget=0.1, policy=Alerts()) for part in (stream, changed)
    )
    np.testing.assert_array_equal(one["a"].score[:200], other["a"].score[:200])


def test_firing_follows_the_policy() -> None:
    scores = np.array([1.0, 1, 0, 1, 1, 1, 0.9, 0.6, 0.6, 0.6, 0.6, 0.6, 0])
    wanted = [False] * 5 + [True] * 6 + [False] * 2
    times = MINUTE * np.arange(len(scores), dtype=np.int64)
    assert firing(scores, times, Alerts(min_windows=3)).tolist() == wanted

"""Thresholds keep the false-alarm budget on fresh data, and never break scoring."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import genpareto

from stream_detector.errors import DataError, SettingsError
from stream_detector.thresholds import (
    FLOOR,
    OWN_WINDOWS,
    Method,
    Series,
    Thresholds,
    cluster_peaks,
    expected_alerts_per_day,
    fit_tail,
    fit_thresholds,
)

PER_DAY = 1440  # one window a minute
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


def series(errors: NDArray[np.float64]) -> Series:
    return Series(errors, len(errors) / PER_DAY)


def exponential(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    return rng.exponential(1.0, count)


def heavy(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    drawn: NDArray[np.float64] = genpareto.rvs(0.2, size=count, random_state=rng)
    return drawn


def normal(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    return np.abs(rng.normal(3.0, 0.5, count))


def overlapping(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Errors of windows of eight events, stride 1: each event is in eight of them."""
    return np.convolve(rng.exponential(1.0, count + 7), np.ones(8) / 8, "valid")


@pytest.mark.parametrize(
    ("draw", "run"),
    [(exponential, 1), (heavy, 1), (normal, 1), (overlapping, 8)],
    ids=lambda one: getattr(one, "__name__", str(one)),
)
@pytest.mark.parametrize("budget", [5.0, 0.5])
def test_alert_rate_on_fresh_data_is_near_the_budget(draw: Draw, run: int, budget: float) -> None:
    """Ten days of calibration, two years of service; the mean of ten trials is within a factor of two."""
    realised = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        threshold = fit_thresholds({"a": series(draw(rng, 10 * PER_DAY))}, run, "evt", budget).values[0]
        fresh = draw(rng, 700 * PER_DAY)
        realised.append(len(cluster_peaks(fresh, threshold, run)) / 700)
    assert budget / 2 < np.mean(realised) < budget * 2
    assert budget / 10 < min(realised)
    assert max(realised) < budget * 10


def test_overlapping_windows_need_declustering() -> None:
    """One odd event lifts many windows: counted as if they were independent, it is many alerts."""
    errors = overlapping(np.random.default_rng(0), 20 * PER_DAY)
    level = float(np.quantile(errors, 0.98))
    assert len(cluster_peaks(errors, level, 8)) < len(cluster_peaks(errors, level, 1))
    assert len(cluster_peaks(errors, level, 1)) < (errors > level).sum()


@given(st.integers(0, 1000), st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=6), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_a_larger_budget_never_raises_the_threshold(seed: int, budgets: list[float], run: int) -> None:
    rng = np.random.default_rng(seed)
    data = {"a": series(rng.gamma(2.0, 1.0, int(rng.integers(2, 800))))}
    found = [fit_thresholds(data, run, "evt", budget).values[0] for budget in sorted(budgets)]
    assert all(later <= earlier + 1e-9 * earlier for earlier, later in pairwise(found))


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=60),
    st.sampled_from([("evt", 0.01), ("evt", 1e4), ("quantile", 0.99), ("fixed", 1e-30)]),
)
@settings(max_examples=80, deadline=None)
def test_any_errors_give_usable_thresholds(errors: list[float], method: tuple[Method, float]) -> None:
    found = fit_thresholds({"a": series(np.array(errors))}, 3, *method)
    assert np.isfinite(found.values).all()
    assert (found.values >= FLOOR).all()
    with np.errstate(over="raise"):
        assert np.isfinite(np.float32(1e7) / found.values.astype(np.float32)).all()
    assert msgspec.json.decode(msgspec.json.encode(found), type=Thresholds) == found


def test_constant_errors_are_below_their_threshold() -> None:
    found = fit_thresholds({"a": series(np.full(1000, 0.5))}, 4)
    assert 0.5 < found.values[0] < 2
    assert fit_thresholds({"a": series(np.zeros(1000))}, 4).values[0] >= FLOOR


def test_few_peaks_get_an_exponential_tail() -> None:
    tail = fit_tail([series(np.array([1.0, 1.2, 1.1, 2.0, 1.05]))], 1)
    assert tail.shape == 0
    assert tail.peaks < 10


def test_shape_of_a_known_tail_is_found() -> None:
    tail = fit_tail([series(heavy(np.random.default_rng(3), 100_000))], 1)
    assert tail.shape == pytest.approx(0.2, abs=0.07)


def test_cluster_peaks_by_hand() -> None:
    errors = np.array([0, 5, 0, 7, 0, 0, 0, 6, 6, 0.0])
    assert cluster_peaks(errors, 1, 1).tolist() == [5, 7, 6]
    assert cluster_peaks(errors, 1, 2).tolist() == [7, 6]
    assert cluster_peaks(errors, 1, 3).tolist() == [7, 6]
    assert cluster_peaks(errors, 1, 4).tolist() == [7]
    assert cluster_peaks(errors, 9, 2).tolist() == []


def test_a_sensor_with_enough_history_gets_its_own() -> None:
    rng = np.random.default_rng(1)
    data = {
        "quiet": series(rng.exponential(1.0, 5000)),
        "noisy": series(rng.exponential(10.0, 5000)),
        "new": series(rng.exponential(1.0, OWN_WINDOWS - 1)),
    }
    found = fit_thresholds(data, 1, "evt", 1.0)
    assert set(found.sensors) == {"quiet", "noisy"}
    rows = found.rows(["noisy", "never seen", "new", "quiet"])
    assert rows[1:3] == [0, 0]
    assert found.values[rows[0]] > 4 * found.values[rows[3]]
    assert found.entries[rows[0]].name == "noisy"
    # The two with thresholds of their own meet the budget, the third has a threshold far above its errors.
    assert expected_alerts_per_day(found, data, 1) == pytest.approx(
        found_mean(found, ["quiet", "noisy", "new"]), rel=1e-9
    )
    assert found.entries[rows[3]].expected_alerts_per_day == pytest.approx(1.0)


def found_mean(found: Thresholds, sensors: list[str]) -> float:
    return float(np.mean([found.entries[row].expected_alerts_per_day for row in found.rows(sensors)]))


def test_other_methods() -> None:
    errors = np.arange(1, 1001, dtype=float)
    data: dict[str, Any] = {"a": series(errors)}
    assert fit_thresholds(data, 1, "quantile", 0.9).values[0] == pytest.approx(np.quantile(errors, 0.9))
    fixed = fit_thresholds({"a": series(np.tile(errors, 2))}, 1, "fixed", 900.5)
    assert fixed.values.tolist() == [900.5]
    assert fixed.sensors == {}
    assert fixed.entries[0].expected_alerts_per_day == pytest.approx(2 / (2000 / PER_DAY), rel=0.2)  # two climbs


@pytest.mark.parametrize(("method", "parameter"), [("evt", 0.0), ("quantile", 1.0), ("fixed", float("nan"))])
def test_senseless_parameters(method: Method, parameter: float) -> None:
    with pytest.raises(SettingsError, match="give a"):
        fit_thresholds({"a": series(np.ones(5))}, 1, method, parameter)


def test_nothing_to_calibrate_on() -> None:
    with pytest.raises(DataError, match="more data"):
        fit_thresholds({"a": series(np.empty(0))}, 1)
    with pytest.raises(DataError, match="not finite"):
        fit_thresholds({"a": series(np.array([1.0, np.inf]))}, 1)

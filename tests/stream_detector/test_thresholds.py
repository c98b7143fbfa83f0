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

from stream_detector.alerts import Incident, advance
from stream_detector.errors import DataError, SettingsError
from stream_detector.groups import Grouping
from stream_detector.settings import Alerts
from stream_detector.thresholds import (
    FLOOR,
    OWN_WINDOWS,
    Method,
    Series,
    Thresholds,
    alert_peaks,
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


@pytest.mark.parametrize("draw", [exponential, heavy, normal, overlapping])
@pytest.mark.parametrize("budget", [5.0, 0.5])
def test_alert_rate_on_fresh_data_is_near_the_budget(draw: Draw, budget: float) -> None:
    """Ten days of calibration, two years of service; the mean of ten trials is within a factor of two."""
    realised = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        threshold = fit_thresholds({"a": series(draw(rng, 10 * PER_DAY))}, "evt", budget).values[0]
        fresh = draw(rng, 700 * PER_DAY)
        realised.append(len(alert_peaks(fresh, threshold)) / 700)
    assert budget / 2 < np.mean(realised) < budget * 2
    assert budget / 10 < min(realised)
    assert max(realised) < budget * 10


def test_overlapping_windows_need_declustering() -> None:
    """One odd event lifts many windows: counted as if they were independent, it is many alerts."""
    errors = overlapping(np.random.default_rng(0), 20 * PER_DAY)
    level = float(np.quantile(errors, 0.98))
    assert len(alert_peaks(errors, level)) < (errors > level).sum() / 2


@given(st.lists(st.sampled_from([0.1, 0.5, 0.69, 0.71, 0.95, 1.05, 1.5, 7.0]), min_size=1, max_size=80))
def test_alerts_are_counted_as_the_service_raises_them(scores: list[float]) -> None:
    state: Incident | None = None
    peaks: list[float] = []
    for at, score in enumerate(scores):
        state, change = advance(state, score, score, (str(at), at), Alerts())
        if change == "fired":
            peaks.append(score)
        elif state is not None and state.state == "firing":
            peaks[-1] = max(peaks[-1], score)
        if change == "resolved":
            state = None
    assert alert_peaks(np.array(scores), 1.0).tolist() == peaks


@pytest.mark.parametrize("budget", [30.0, 1e3, 1e6])
def test_a_budget_beyond_what_there_can_be_is_no_alert_that_never_ends(budget: float) -> None:
    """Errors that wander slowly cross any threshold seldom: below the one that they cross most often, fewer alerts."""
    rng = np.random.default_rng(0)
    errors = np.exp(np.convolve(rng.normal(size=20 * PER_DAY + 99), np.ones(100) / 10, "valid"))
    found = fit_thresholds({"a": series(errors)}, "evt", budget)
    counts = [len(alert_peaks(errors, level)) / 20 for level in np.quantile(errors, np.linspace(0.05, 0.95, 50))]
    assert max(counts) < budget
    assert found.entries[0].expected_alerts_per_day > 0.9 * max(counts)
    assert (errors > found.values[0]).mean() < 0.6
    everywhere = fit_thresholds({"a": series(errors)}, "evt", 1e9)
    assert everywhere.values[0] == found.values[0]


@given(st.integers(0, 1000), st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=6))
@settings(max_examples=40, deadline=None)
def test_a_larger_budget_never_raises_the_threshold(seed: int, budgets: list[float]) -> None:
    rng = np.random.default_rng(seed)
    data = {"a": series(rng.gamma(2.0, 1.0, int(rng.integers(2, 800))))}
    found = [fit_thresholds(data, "evt", budget).values[0] for budget in sorted(budgets)]
    assert all(later <= earlier + 1e-9 * earlier for earlier, later in pairwise(found))


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=60),
    st.sampled_from([("evt", 0.01), ("evt", 1e4), ("quantile", 0.99), ("fixed", 1e-30)]),
)
@settings(max_examples=80, deadline=None)
def test_any_errors_give_usable_thresholds(errors: list[float], method: tuple[Method, float]) -> None:
    found = fit_thresholds({"a": series(np.array(errors))}, *method)
    assert np.isfinite(found.values).all()
    assert (found.values >= FLOOR).all()
    with np.errstate(over="raise"):
        assert np.isfinite(np.float32(1e7) / found.values.astype(np.float32)).all()
    assert msgspec.json.decode(msgspec.json.encode(found), type=Thresholds) == found


def test_constant_errors_are_below_their_threshold() -> None:
    found = fit_thresholds({"a": series(np.full(1000, 0.5))})
    assert 0.5 < found.values[0] < 2
    assert fit_thresholds({"a": series(np.zeros(1000))}).values[0] >= FLOOR


@pytest.mark.parametrize("method", ["evt", "conformal"])
@pytest.mark.parametrize("budget", [1e-3, 1.0, 1e6])
def test_errors_that_differ_by_rounding_are_below_their_threshold(method: Method, budget: float) -> None:
    """However large the budget: what is alike has no share that stands out."""
    errors = 0.5 + np.random.default_rng(0).uniform(0, 1e-6, 1_000)
    found = fit_thresholds({"a": series(errors)}, method, budget, block=4)
    assert errors.max() < found.values[0] < 2


@pytest.mark.parametrize(("method", "parameter"), [("evt", 10.0), ("evt", 1e4), ("conformal", 10.0), ("quantile", 0.9)])
def test_errors_that_are_often_the_same_are_not_all_told(method: Method, parameter: float) -> None:
    """The service tells what reaches a threshold: one that was counted as crossed lies above what did not cross it."""
    rng = np.random.default_rng(0)
    ties = rng.choice([0.1, 1.0, 2.0], 2_000, p=[0.6, 0.399, 0.001])
    for errors, most in ((np.full(1000, 0.5), 0.0), (ties, 0.01)):
        found = fit_thresholds({"a": series(errors)}, method, parameter, block=8)
        assert (errors.astype(np.float32) >= found.values.astype(np.float32)[0]).mean() <= most
        assert found.values[0] < 3


def test_few_peaks_get_an_exponential_tail() -> None:
    tail = fit_tail([series(np.array([1.0, 1.2, 1.1, 2.0, 1.05]))])
    assert tail.shape == 0
    assert tail.peaks < 10


def test_shape_of_a_known_tail_is_found() -> None:
    tail = fit_tail([series(heavy(np.random.default_rng(3), 100_000))])
    assert tail.shape == pytest.approx(0.2, abs=0.07)


def test_alert_peaks_by_hand() -> None:
    """Five windows below 0.7 of the level end an alert; what lies between does neither."""
    errors = np.array([5, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 6, 8, 0, 0, 0.9, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0.9])
    assert alert_peaks(errors, 1).tolist() == [7, 8]
    assert alert_peaks(errors, 5.5).tolist() == [7, 8]
    assert alert_peaks(errors, 9).tolist() == []


def test_a_sensor_with_enough_history_gets_its_own() -> None:
    rng = np.random.default_rng(1)
    data = {
        "quiet": series(rng.exponential(1.0, 5000)),
        "noisy": series(rng.exponential(10.0, 5000)),
        "new": series(rng.exponential(1.0, OWN_WINDOWS - 1)),
    }
    found = fit_thresholds(data, "evt", 1.0)
    assert set(found.sensors) == {"quiet", "noisy"}
    rows = found.rows(["noisy", "never seen", "new", "quiet"])
    assert rows[1:3] == [0, 0]
    assert found.values[rows[0]] > 4 * found.values[rows[3]]
    assert found.entries[rows[0]].name == "noisy"
    # The two with thresholds of their own meet the budget, the third has a threshold far above its errors.
    assert expected_alerts_per_day(found, data) == pytest.approx(found_mean(found, ["quiet", "noisy", "new"]), rel=1e-9)
    assert found.entries[rows[3]].expected_alerts_per_day == pytest.approx(1.0)


def found_mean(found: Thresholds, sensors: list[str]) -> float:
    return float(np.mean([found.entries[row].expected_alerts_per_day for row in found.rows(sensors)]))


@pytest.mark.parametrize("method", ["evt", "conformal", "quantile"])
def test_a_sensor_without_enough_history_shares_its_group_s(method: Method) -> None:
    rng = np.random.default_rng(1)
    data = {
        "pump-1": series(rng.exponential(1.0, 5000)),
        "fan-1": series(rng.exponential(100.0, 5000)),
        "fan-2": series(rng.exponential(100.0, OWN_WINDOWS - 1)),
        "valve-1": series(rng.exponential(1.0, OWN_WINDOWS - 1)),
    }
    grouping = Grouping({"fans": "fan-*", "pumps": "pump-*", "valves": "valve-*"})
    found = fit_thresholds(data, method, 5.0 if method != "quantile" else 0.99, grouping)
    assert set(found.sensors) == {"pump-1", "fan-1"}
    assert set(found.groups) == {"fans", "pumps"}
    sensors = ["fan-1", "fan-2", "fan-9", "pump-9", "valve-1", "x"]
    names = [found.entries[row].name for row in found.rows(sensors, grouping)]
    assert names == ["fan-1", "groups.fans", "groups.fans", "groups.pumps", "*", "*"]
    limits = found.values[found.rows(["fan-9", "pump-9"], grouping)]
    assert limits[0] > 50 * limits[1]
    assert found.rows(sensors) == [found.sensors["fan-1"], 0, 0, 0, 0, 0], "nothing is known of groups"
    without = fit_thresholds(data, method, 5.0 if method != "quantile" else 0.99)
    assert without.entries == tuple(one for one in found.entries if not one.name.startswith("groups."))


def test_other_methods() -> None:
    errors = np.arange(1, 1001, dtype=float)
    data: dict[str, Any] = {"a": series(errors)}
    assert fit_thresholds(data, "quantile", 0.9).values[0] == pytest.approx(np.quantile(errors, 0.9))
    fixed = fit_thresholds({"a": series(np.tile(errors, 2))}, "fixed", 900.5)
    assert fixed.values.tolist() == [900.5]
    assert fixed.sensors == {}
    assert fixed.entries[0].expected_alerts_per_day == pytest.approx(2 / (2000 / PER_DAY), rel=0.2)  # two climbs


@pytest.mark.parametrize(("method", "parameter"), [("evt", 0.0), ("quantile", 1.0), ("fixed", float("nan"))])
def test_senseless_parameters(method: Method, parameter: float) -> None:
    with pytest.raises(SettingsError, match="give a"):
        fit_thresholds({"a": series(np.ones(5))}, method, parameter)


def test_nothing_to_calibrate_on() -> None:
    with pytest.raises(DataError, match="more data"):
        fit_thresholds({"a": series(np.empty(0))})
    with pytest.raises(DataError, match="not finite"):
        fit_thresholds({"a": series(np.array([1.0, np.inf]))})

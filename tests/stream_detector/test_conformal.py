"""Conformal thresholds keep their promise whatever the errors are like, and say where they can promise no more."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream_detector.conformal import threshold_of
from stream_detector.thresholds import Entry, Series, Thresholds, alert_peaks, expected_alerts_per_day, fit_thresholds

PER_DAY = 1440  # windows
ERRORS = st.one_of(st.floats(0, 1e6), st.sampled_from([0.0, 1.0, 2.0]))  # with ties


def fitted(errors: NDArray[np.float64], budget: float, block: int = 1) -> Thresholds:
    return fit_thresholds({"a": Series(errors, len(errors) / PER_DAY)}, "conformal", budget, block=block)


def common(errors: NDArray[np.float64], budget: float, block: int = 1) -> Entry:
    return fitted(errors, budget, block).entries[0]


@given(st.lists(ERRORS, min_size=2, max_size=30), st.floats(0.02, 0.9))
@settings(max_examples=150, deadline=None)
def test_of_exchangeable_errors_no_more_are_told_than_promised(errors: list[float], alpha: float) -> None:
    """Exactly, not on average: of ``n + 1`` errors each is left out once, and held against the others' threshold."""
    every = np.array(errors)
    left_out = [common(np.delete(every, at), alpha * PER_DAY) for at in range(len(every))]
    told = sum(error >= entry.threshold for error, entry in zip(errors, left_out, strict=True))
    assert told <= max(1, math.floor(alpha * len(every) + 1e-9))
    promised = left_out[0].expected_alerts_per_day / PER_DAY
    assert promised <= max(alpha, 1 / len(every)) + 1e-9


@pytest.mark.parametrize("alpha", [0.29, 0.1, 0.05])
def test_no_fewer_are_told_than_need_be(alpha: float) -> None:
    """Of a hundred errors, each left out once, just as many as are allowed."""
    every = np.random.default_rng(0).exponential(size=100)
    told = sum(one >= threshold_of(np.delete(every, at), alpha) for at, one in enumerate(every))
    assert told == round(100 * alpha)


@given(st.integers(0, 1000), st.lists(st.floats(1e-3, 1e5), min_size=2, max_size=6), st.sampled_from([1, 7, 40]))
@settings(max_examples=40, deadline=None)
def test_a_larger_budget_never_raises_the_threshold(seed: int, budgets: list[float], block: int) -> None:
    rng = np.random.default_rng(seed)
    errors = rng.gamma(2.0, 1.0, int(rng.integers(1, 800)))
    found = [common(errors, budget, block).threshold for budget in sorted(budgets)]
    assert all(later <= earlier for earlier, later in pairwise(found))


@pytest.mark.parametrize("budget", [10.0, 2.0])
def test_windows_that_share_events_are_judged_by_blocks(budget: float) -> None:
    """Errors of windows of eight events, stride 1: alerts on fresh data, as the service raises them, keep it."""
    realised = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        errors = np.convolve(rng.exponential(1.0, 110 * PER_DAY + 7) ** 2, np.ones(8) / 8, "valid")
        threshold = common(errors[: 10 * PER_DAY], budget, 16).threshold
        realised.append(len(alert_peaks(errors[10 * PER_DAY :], threshold)) / 100)
    assert 0.5 * budget < np.mean(realised) < 1.2 * budget


def test_where_blocks_are_too_few_it_is_the_highest_and_that_is_said() -> None:
    errors = np.random.default_rng(0).exponential(size=600)
    errors[100] = 30.0
    found = fitted(errors, 0.1, block=6)
    assert found.entries[0].threshold == pytest.approx(30.0, rel=1e-5)
    assert found.entries[0].threshold > 30.0, "it was normal"
    assert found.entries[0].blocks == 100
    at_most = 1 / 101 / (6 / PER_DAY)
    assert found.entries[0].expected_alerts_per_day == pytest.approx(at_most)
    assert expected_alerts_per_day(found, {"b": Series(errors, 1.0)}) == pytest.approx(at_most)
    assert found.entries[0] in found.short
    assert fitted(errors, 1.01 * at_most, block=6).short == []


def test_less_than_one_block_is_one() -> None:
    found = fitted(np.array([1.0, 3.0, 2.0]), 1.0, block=10)
    assert found.entries[0].threshold == pytest.approx(3.0, rel=1e-5)
    assert found.entries[0].expected_alerts_per_day == pytest.approx(PER_DAY / 3 / 2)


def test_a_budget_beyond_what_there_can_be_is_no_alert_that_never_ends() -> None:
    rng = np.random.default_rng(0)
    errors = np.exp(np.convolve(rng.normal(size=20 * PER_DAY + 99), np.ones(100) / 10, "valid"))
    found = common(errors, 1e6, block=200)
    assert (errors > found.threshold).mean() < 0.6
    assert found.threshold == fit_thresholds({"a": Series(errors, 20)}, "evt", 1e9).values[0]

"""Which anomalous windows count: by direction and by how much they deviate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.deviations import deviations_of
from stream_detector.events import Errors, Float32, Windows
from stream_detector.settings import Settings

FEATURES = ("pressure", "current")
EXPECTED = 10.0


def counted(
    observed: tuple[float, float], shares: tuple[float, float], score: float = 2.0, **asked: Any
) -> tuple[float, list[int]]:
    """The score that counts of one window, whose second step is the worst; of how many windows the model was asked."""
    deviations = deviations_of(FEATURES, Settings.model_validate({"features": asked}).features)
    assert deviations is not None
    values = np.array([[[10, 10], observed, [10, 10]]], np.float32)
    found = np.array([score], np.float32)
    one = np.zeros((1, 2), np.int64)
    some = Windows(["s"], values, one, one, np.zeros((1, 2), bool), np.ones(1, np.float32))
    calls = []

    def expect(windows: Windows, errors: Errors) -> Float32:
        calls.append(len(windows))
        return np.full_like(windows.values, EXPECTED)

    worst = np.array([1], np.int32)
    result = deviations.counted(some, Errors(found, found, found, np.array([shares], np.float32), worst), expect)
    assert found[0] == np.float32(score)  # what is published of the window stays as it is
    return float(result[0]), calls


@pytest.mark.parametrize(
    ("asked", "pressure", "counts"),
    [
        ({"direction": "above_expected"}, 11.0, True),
        ({"direction": "above_expected"}, 9.0, False),
        ({"direction": "below_expected"}, 9.0, True),
        ({"direction": "below_expected"}, 11.0, False),
        ({"min_deviation": 1.5}, 12.0, True),
        ({"min_deviation": 1.5}, 8.0, True),
        ({"min_deviation": 1.5}, 11.0, False),
        ({"min_deviation_ratio": 0.2}, 12.5, True),
        ({"min_deviation_ratio": 0.2}, 11.5, False),
        ({"min_deviation_ratio": 0.2, "min_deviation": 3}, 12.5, False),
        ({"min_deviation_ratio": 0.2, "direction": "below_expected"}, 12.5, False),
    ],
)
def test_only_a_deviation_as_wanted_counts(asked: dict[str, Any], pressure: float, counts: bool) -> None:
    assert counted((pressure, 10.0), (0.9, 0.1), pressure=asked) == (2.0 if counts else 0.0, [1])


def test_a_feature_that_contributes_little_does_not_count() -> None:
    assert counted((11.0, 99.0), (0.9, 0.1), pressure={"min_deviation": 5})[0] == 0
    assert counted((11.0, 99.0), (0.4, 0.6), pressure={"min_deviation": 5})[0] == 2  # of the other nothing was said


def test_the_model_is_asked_only_about_anomalous_windows() -> None:
    assert counted((11.0, 10.0), (0.9, 0.1), 0.99, pressure={"min_deviation": 5}) == (float(np.float32(0.99)), [])


def test_what_the_model_cannot_say_counts() -> None:
    assert counted((float("inf"), 10.0), (0.9, 0.1), pressure={"direction": "below_expected"})[0] == 2


def test_nothing_in_particular_costs_nothing() -> None:
    assert deviations_of(FEATURES, {}) is None
    assert (
        deviations_of(FEATURES, Settings.model_validate({"features": {"current": {"range": [0, 1]}}}).features) is None
    )


@given(st.floats(-1e6, 1e6, width=32), st.floats(0, 100), st.floats(0, 1))
def test_both_directions_are_either_direction(value: float, least: float, ratio: float) -> None:
    limits = {"min_deviation": least, "min_deviation_ratio": ratio}
    found = {
        direction: counted((value, 10.0), (0.9, 0.1), pressure={**limits, "direction": direction})[0] > 0
        for direction in ("both", "above_expected", "below_expected")
        if direction != "both" or least or ratio
    }
    if "both" in found:
        assert found["both"] == (found["above_expected"] or found["below_expected"])

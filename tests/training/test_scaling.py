"""Scalers: what is normal lies around 0, also where columns never move, mostly stand still, or hold wild values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream_detector.contents import Scaler
from stream_detector.events import Events, Float32
from stream_detector.groups import Grouping
from stream_detector.sensors import Rules
from training.data import Data, read
from training.scaling import Scaling, fit_own_scalers, fit_scaler, scale_values
from training.split import Part

BOTH: tuple[Scaling, Scaling] = ("standard", "robust")


def normal(count: int = 500, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).normal([5, 1e6, -2e-3], [2, 50, 1e-4], (count, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("scaling", BOTH)
def test_scaled_values_have_mean_zero_and_deviation_one(scaling: Scaling) -> None:
    scaled = scale_values(fit_scaler(normal(), "standard", scaling), normal())
    np.testing.assert_allclose(scaled.mean((0, 1)), 0, atol=0.05)
    np.testing.assert_allclose(scaled.std((0, 1)), 1, atol=0.05)


def test_wild_values_leave_quantiles_where_they_are() -> None:
    """One event in a hundred and fifty is a thousand times too large: the others still spread by 1, and fill 0..1."""
    wild = normal().copy()
    wild.reshape(-1, 3)[::150] *= 1_000
    usual = np.ones(len(wild.reshape(-1, 3)), bool)
    usual[::150] = False
    robust = scale_values(fit_scaler(wild, "standard", "robust"), wild).reshape(-1, 3)[usual]
    np.testing.assert_allclose(robust.std(axis=0), 1, atol=0.05)
    plain = scale_values(fit_scaler(wild), wild).reshape(-1, 3)[usual]
    assert plain.std(axis=0).max() < 0.1
    unit = scale_values(fit_scaler(wild, "unit", "robust"), wild).reshape(-1, 3)[usual]
    assert (np.quantile(unit, 0.9, axis=0) > 0.6).all()
    assert (np.quantile(scale_values(fit_scaler(wild, "unit"), wild).reshape(-1, 3)[usual], 0.9, axis=0) < 0.6).any()


@pytest.mark.parametrize("takes", ["standard", "unit"])
@pytest.mark.parametrize("scaling", BOTH)
def test_constant_columns(takes: str, scaling: Scaling) -> None:
    values = np.tile(np.array([7.0, 0.0, -1e5], np.float32), (50, 8, 1))
    scaler = fit_scaler(values, takes, scaling)
    assert min(scaler.scale) > 0
    assert np.abs(scale_values(scaler, values)).max() < 1e-3
    assert scale_values(scaler, np.nextafter(values, np.float32(np.inf))).max() < 1e-3  # rounding is no change
    assert (scale_values(scaler, values * 1.1 + 1)[..., :2] > 0.9).all()  # a real one is


def test_columns_that_mostly_stand_are_scaled_by_how_they_move() -> None:
    """A valve that opens in one event of ten, one that flickers besides, one that opens in one of a thousand."""
    rng = np.random.default_rng(0)
    valve = (rng.random((1_000, 10)) < 0.1).astype(np.float64)
    values = np.stack([valve, valve + rng.normal(0, 1e-4, valve.shape), np.zeros_like(valve)], axis=2)
    values[::100, 0, 2] = 1.0
    scaled = scale_values(fit_scaler(values.astype(np.float32), "standard", "robust"), values.astype(np.float32))
    assert (np.abs(scaled).max((0, 1)) < 50).all()
    assert (np.abs(scaled).max((0, 1)) > 2).all()


@given(
    st.lists(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=2, max_size=2), min_size=1, max_size=40),
    st.sampled_from(["standard", "unit"]),
    st.sampled_from(BOTH),
)
@example([[0.0, 2.0**-149]], "standard", "standard")  # as small as a value can be
@settings(max_examples=100, deadline=None)
def test_any_values_give_usable_scales(rows: list[list[float]], takes: str, scaling: Scaling) -> None:
    values = np.array(rows, np.float32)[:, None]
    scaler = fit_scaler(values, takes, scaling)
    assert np.isfinite(scaler.center).all()
    assert (np.array(scaler.scale) > 0).all()
    assert np.isfinite(scale_values(scaler, values)).all()


def test_absurd_values_are_cut() -> None:
    assert scale_values(Scaler((0.0,), (1e-3,)), np.full((1, 2, 1), 3e38, np.float32)).max() == 1e4


RULES = Rules(("x", "y"), 4, 2, (0.0, 0.0))


def data(sizes: dict[str, tuple[float, int]], rules: Rules = RULES) -> Data:
    """Sensors of some size, each with so many events."""
    rng = np.random.default_rng(1)
    names = [name for name, (_, count) in sizes.items() for _ in range(count)]
    values = np.concatenate([rng.normal(10 * size, size, (count, 2)) for size, count in sizes.values()])
    times = np.concatenate([np.arange(count) * 1_000 for _, count in sizes.values()])
    events = Events(names, times, values.astype(np.float32), np.arange(len(names)), np.full(len(names), -1))
    return read([events], rules, 0)


SIZES = {"pump-1": (1.0, 900), "pump-2": (1.0, 900), "fan-1": (1e4, 900), "fan-2": (1e4, 20), "valve": (5.0, 20)}
COMMON = Scaler((0.0, 0.0), (3.0, 3.0))
GROUPING = Grouping({"pumps": "pump-*", "fans": "fan-*", "few": "valve*", "none": "x-*"})


@pytest.mark.parametrize("scaling", BOTH)
@pytest.mark.parametrize("takes", ["standard", "unit"])
def test_sensors_and_groups_with_enough_history_have_their_own(takes: str, scaling: Scaling) -> None:
    found = data(SIZES)
    own, groups = fit_own_scalers(found, takes, COMMON, scaling, GROUPING)
    assert set(own) == {"pump-1", "pump-2", "fan-1"}
    assert set(groups) == {"pumps", "fans"}
    spread = {"standard": 1.0, "unit": {"standard": 7.0, "robust": 4.65}[scaling]}[takes]
    for scaler, size in ((own["pump-1"], 1.0), (own["fan-1"], 1e4), (groups["pumps"], 1.0), (groups["fans"], 1e4)):
        np.testing.assert_allclose(scaler.scale, spread * size, rtol=0.2)
    assert fit_own_scalers(found, takes, COMMON, scaling) == (own, {})


@pytest.mark.parametrize("scaling", BOTH)
@pytest.mark.parametrize("takes", ["standard", "unit"])
def test_a_sensor_that_was_idle_keeps_the_common_scale(takes: str, scaling: Scaling) -> None:
    """What is always 0 tells nothing of how large it would be."""
    found = data({"pump-1": (1.0, 900), "idle": (0.0, 900)})
    own, _ = fit_own_scalers(found, takes, COMMON, scaling)
    assert own["idle"] == Scaler((0.0, 0.0), (3.0, 3.0))


@pytest.mark.parametrize("scaling", BOTH)
def test_windows_that_leave_events_out_count_what_they_hold(scaling: Scaling) -> None:
    rules = Rules(("x", "y"), 4, 100, (0.0, 0.0))
    own, _ = fit_own_scalers(data({"pump-1": (1.0, 6_000), "fan-1": (1.0, 1_200)}, rules), "standard", COMMON, scaling)
    assert set(own) == {"pump-1"}, "the other has a dozen windows of four events"


def test_a_group_s_moments_are_those_of_all_its_events() -> None:
    found = data({"pump-1": (1.0, 900), "pump-2": (3.0, 500)})
    _, groups = fit_own_scalers(found, "standard", COMMON, "standard", Grouping({"pumps": "*"}))
    _, values = found.gather(Part.FIT, 10_000, 0)
    everything = fit_scaler(values)
    np.testing.assert_allclose(groups["pumps"].center, everything.center, rtol=1e-6)
    np.testing.assert_allclose(groups["pumps"].scale, everything.scale, rtol=1e-6)


def test_a_sensor_s_own_comes_first_then_its_group_s_then_the_common_one() -> None:
    scaler = Scaler((0.0,), (1.0,), {"pump-1": Scaler((0.0,), (2.0,))}, {"pumps": Scaler((0.0,), (4.0,))})
    values = np.full((4, 1, 1), 8, np.float32)
    names = ["pump-1", "pump-9", "fan-1", "valve-1"]
    assert scale_values(scaler, values, names, GROUPING)[:, 0, 0].tolist() == [4, 2, 8, 8]

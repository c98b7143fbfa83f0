from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_detector.events import Float64
from stream_detector.timestamps import parse_cell
from training.plant import (
    DAY,
    FEATURES,
    KINDS,
    MINUTE,
    NOISE,
    START,
    Fault,
    Kind,
    Readings,
    plan_faults,
    simulate,
    write_plant,
)


def column(readings: Readings, name: str, sensor: str = "pump-1", start: int = 0, end: int = 1 << 60) -> Float64:
    chosen = np.array([one == sensor for one in readings.sensors])
    chosen &= (readings.timestamps >= start) & (readings.timestamps < end)
    found: Float64 = readings.values[chosen, FEATURES.index(name)]
    return found


@pytest.fixture(scope="module")
def healthy() -> Readings:
    return simulate(2, 4 * DAY, MINUTE, seed=3)


def with_fault(kind: Kind) -> tuple[Readings, int, int]:
    start, end = START + 2 * DAY, START + 3 * DAY
    return simulate(2, 4 * DAY, MINUTE, 3, [Fault("pump-1", kind, start, end)]), start, end


def test_the_same_seed_gives_the_same_plant() -> None:
    first, second, other = (simulate(2, DAY, MINUTE, seed) for seed in (1, 1, 2))
    assert first.sensors == second.sensors
    np.testing.assert_array_equal(first.timestamps, second.timestamps)
    np.testing.assert_array_equal(first.values, second.values)
    assert not np.array_equal(first.values[:100], other.values[:100])
    assert plan_faults(6, 0, DAY, 1) == plan_faults(6, 0, DAY, 1) != plan_faults(6, 0, DAY, 2)


def test_readings_are_in_time_order_irregular_and_sometimes_missing(healthy: Readings) -> None:
    assert (np.diff(healthy.timestamps) >= 0).all()
    one = healthy.timestamps[[sensor == "pump-1" for sensor in healthy.sensors]]
    steps = np.diff(one)
    assert steps.min() > 0
    assert abs(steps.mean() / MINUTE - 1.01) < 0.01  # one in a hundred never arrives
    assert steps.std() > 0.05 * MINUTE
    assert 0.001 < np.isnan(healthy.values).mean() < 0.006
    assert not np.isnan(healthy.values).all(axis=1).any()


def test_values_are_those_of_a_pump(healthy: Readings) -> None:
    lows = dict(zip(FEATURES, (1_400, 20, 0.8, 2, 0.5, 15, 15), strict=True))
    highs = dict(zip(FEATURES, (3_200, 110, 9, 45, 4, 60, 130), strict=True))
    for name in FEATURES:
        values = column(healthy, name)
        assert lows[name] < np.nanmin(values) < np.nanmax(values) < highs[name], name


def test_physics_couples_the_features(healthy: Readings) -> None:
    ok = ~np.isnan(healthy.values).any(axis=1) & np.array([sensor == "pump-1" for sensor in healthy.sensors])
    values = dict(zip(FEATURES, healthy.values[ok].T, strict=True))

    def correlation(one: Any, other: Any) -> float:
        return float(np.corrcoef(one, other)[0, 1])

    speed = values["speed"]
    assert correlation(speed, values["flow"]) > 0.5
    assert correlation(speed**2, values["pressure"]) > 0.9  # affinity law
    assert correlation(speed**3, values["current"]) > 0.95  # affinity law
    assert correlation(speed**2, values["vibration"]) > 0.7
    # Motor temperature follows the losses with a lag: better half an hour later than at once.
    losses = values["current"] ** 2
    assert correlation(losses[:-30], values["motor_temperature"][30:]) > correlation(
        losses, values["motor_temperature"]
    )


def test_the_day_has_a_rhythm(healthy: Readings) -> None:
    speed = column(healthy, "speed")
    per_day = len(speed) // 4
    days = speed[: 4 * per_day].reshape(4, per_day)
    mean = np.nanmean(days, axis=0)
    assert np.nanmax(mean) - np.nanmin(mean) > 0.05 * np.nanmean(speed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_changes_its_own_pump_from_its_start_on_only(kind: Kind, healthy: Readings) -> None:
    faulty, start, _ = with_fault(kind)
    assert faulty.sensors == healthy.sensors
    np.testing.assert_array_equal(faulty.timestamps, healthy.timestamps)
    before = healthy.timestamps < start
    other = np.array([sensor == "pump-2" for sensor in healthy.sensors])
    np.testing.assert_array_equal(faulty.values[before | other], healthy.values[before | other])
    assert not np.array_equal(faulty.values, healthy.values, equal_nan=True)


def change(kind: Kind, healthy: Readings, late: bool = True) -> dict[str, float]:
    """Mean change of each feature in the second half of the fault, in standard deviations of its noise."""
    faulty, start, end = with_fault(kind)
    middle = (start + end) // 2 if late else start
    return {
        name: float(
            np.nanmean(column(faulty, name, start=middle, end=end) - column(healthy, name, start=middle, end=end))
            / noise
        )
        for name, noise in zip(FEATURES, NOISE, strict=True)
    }


def test_bearing_wear_grows_into_vibration_and_heat(healthy: Readings) -> None:
    late, whole = change("bearing-wear", healthy), change("bearing-wear", healthy, late=False)
    assert late["vibration"] > 10
    assert late["bearing_temperature"] > 20
    assert late["vibration"] > 1.2 * whole["vibration"]
    assert late["speed"] == late["flow"] == late["pressure"] == 0


def test_a_leak_takes_flow_and_pressure_and_moves_the_current(healthy: Readings) -> None:
    leak = change("leak", healthy)
    assert leak["flow"] < -10
    assert leak["pressure"] < -10
    assert abs(leak["current"]) > 1


def test_a_blocked_inlet_shakes_and_starves(healthy: Readings) -> None:
    blocked = change("cavitation", healthy)
    assert blocked["vibration"] > 15
    assert blocked["flow"] < -10
    assert blocked["pressure"] < -10
    assert blocked["current"] < -5


def test_a_stuck_sensor_repeats_itself(healthy: Readings) -> None:
    faulty, start, end = with_fault("stuck-sensor")
    stuck = column(faulty, "flow", start=start, end=end)
    assert len(np.unique(stuck[~np.isnan(stuck)])) == 1
    assert np.nanstd(column(healthy, "flow", start=start, end=end)) > 1


def test_a_calibration_drifts_by_itself(healthy: Readings) -> None:
    drift = change("calibration-drift", healthy)
    assert drift["pressure"] > 10
    assert all(value == 0 for name, value in drift.items() if name != "pressure")


def test_written_plant_is_well_in_training_and_faulty_in_the_stream(tmp_path: Path) -> None:
    plant = write_plant(tmp_path / "plant", pumps=6, train_days=1, stream_days=1)

    assert [fault.kind for fault in plant.faults] == list(KINDS)
    assert [fault.sensor for fault in plant.faults] == [f"pump-{number}" for number in range(1, 6)]
    middle, end = START + DAY, START + 2 * DAY
    for fault in plant.faults:
        assert middle < fault.start < fault.end <= end
    for path, first, last in [(plant.train, START, middle), (plant.stream, middle, end)]:
        with path.open(encoding="utf-8") as stream:
            header, *rows = csv.reader(stream)
        assert header == ["sensor_id", "timestamp", *FEATURES]  # no label: the truth stays apart
        assert 0.97 * 6 * DAY / MINUTE < len(rows) < 6 * DAY / MINUTE
        stamps = [parse_cell(row[1], None) for row in rows]  # type: ignore[arg-type] # all name their zone
        assert first <= min(stamps) <= max(stamps) < last
        assert any(cell == "" for row in rows for cell in row)
    clean = simulate(6, 2 * DAY, MINUTE, 7).between(START, middle)
    with plant.train.open(encoding="utf-8") as stream:
        values = [[float(cell or "nan") for cell in row[2:]] for row in list(csv.reader(stream))[1:]]
    np.testing.assert_allclose(np.array(values), clean.values, atol=6e-4)

"""The labelled table is what it says, and its faults cannot be seen in one feature alone."""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.events import Float64
from stream_detector.timestamps import parse_cell
from training import traffic
from training.events import ALERT_SHARE, COLUMNS, DAY, DELAY, PERIOD, START, EventTable, simulate, write_events

GAP = 720_000  # ms between events, for short files


def rows_of(table: EventTable) -> list[list[str]]:
    with table.path.open(encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    assert header == list(COLUMNS) == ["sensor_id", "timestamp", "feature_1", "feature_2", "10_days_alert_label"]
    return rows


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.floats(0, 1))
def test_same_seed_same_bytes_and_imbalance_as_stated(seed: int, sensors: int, share: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, same, other = (
            write_events(Path(folder) / str(at), sensors=sensors, days=1, seed=own, period_ms=GAP, alert_share=share)
            for at, own in enumerate((seed, seed, seed + 1))
        )
        assert first.path.read_bytes() == same.path.read_bytes() != other.path.read_bytes()
        assert sum(first.labels.values()) == (max(1, round(sensors * share)) if share else 0)
        times: dict[str, list[int]] = {}
        for sensor, stamp, *values, label in rows_of(first):
            times.setdefault(sensor, []).append(parse_cell(stamp, UTC))
            assert int(label) == first.labels[sensor]
            assert all(0 <= float(value) <= 1 for value in values)
        assert list(times) == list(first.labels) == [str(at + 1) for at in range(sensors)]
        assert all((np.diff(own) > 0).all() for own in times.values())


def test_the_table_looks_like_the_mission_s(tmp_path: Path) -> None:
    table = write_events(tmp_path / "made" / "events.csv", sensors=20, days=10, seed=1)
    rows = rows_of(table)
    assert sum(table.labels.values()) == round(20 * ALERT_SHARE) == 1
    assert table.faults.keys() == {sensor for sensor, label in table.labels.items() if label}
    for sensor, stamp, *_ in rows[:100]:
        assert (len(stamp), stamp[:8], stamp[10], stamp[19]) == (23, "2020-12-", " ", ".")
        assert sensor == "1"
    times = np.array([parse_cell(row[1], UTC) for row in rows if row[0] == "1"])
    assert START <= times[0] < times[-1] < START + 10 * DAY
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(PERIOD, rel=0.1)
    assert gaps.std() > 0.5 * PERIOD  # irregular


def average_precision(scores: list[float], labels: list[int]) -> float:
    """Area under the precision-recall curve."""
    ranked = np.array(labels)[np.argsort(-np.array(scores), kind="stable")]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return float(precision[ranked == 1].mean())


def test_faults_show_in_the_relation_and_in_no_feature_alone() -> None:
    def apart(values: Float64) -> float:
        early, late = values[:-DELAY, 0], values[DELAY:, 1]
        return float((late - np.polyval(np.polyfit(early, late, 1), early)).std())

    trivial: dict[str, Callable[[Float64], float]] = {
        "mean": lambda one: float(one.mean()),
        "spread": lambda one: float(one.std()),
        "highest": lambda one: float(one.max()),
        "lowest": lambda one: -float(one.min()),
        "speed": lambda one: float(np.abs(np.diff(one)).mean()),
        "jump": lambda one: float(np.quantile(np.abs(np.diff(one)), 0.999)),
    }
    labels = [int(at % 8 == 0) for at in range(80)]  # more than in the table, for a firm figure
    values = [
        simulate(np.random.default_rng((4, at)), 10 * DAY, 2 * PERIOD, label)[1] for at, label in enumerate(labels)
    ]
    assert average_precision([apart(one) for one in values], labels) > 0.95
    for name, told in trivial.items():
        for feature in (0, 1):
            for sign in (1, -1):
                assert average_precision([sign * told(one[:, feature]) for one in values], labels) < 0.5, name


def test_a_fault_leaves_feature_1_and_all_other_times_alone() -> None:
    (times, well, none), (same, ill, faulty) = (
        simulate(np.random.default_rng(2), 10 * DAY, PERIOD, label) for label in (0, 1)
    )
    np.testing.assert_array_equal(times, same)
    np.testing.assert_array_equal(well[:, 0], ill[:, 0])
    assert not none.any()
    assert 0.05 < faulty.mean() < 0.7
    near = np.convolve(faulty, np.ones(31), "same") > 0
    np.testing.assert_array_equal(well[~near], ill[~near])
    assert np.abs(well - ill)[faulty, 1].mean() > 0.02


@pytest.mark.parametrize("wrong", [{"sensors": 0}, {"days": 0.0}, {"alert_share": 2.0}])
def test_senseless_arguments(wrong: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be|give"):
        write_events(tmp_path / "events.csv", **wrong)  # type: ignore[arg-type] # wrong on purpose


def test_ids_go_on_where_another_table_ended(tmp_path: Path) -> None:
    one, other = (
        write_events(tmp_path / str(first), sensors=3, days=1, seed=1, period_ms=GAP, first=first) for first in (1, 4)
    )
    assert [*one.labels, *other.labels] == ["1", "2", "3", "4", "5", "6"]
    assert [row[1:] for row in rows_of(one)] == [row[1:] for row in rows_of(other)]


@pytest.mark.parametrize("module", ["events", "traffic"])
def test_the_commands_write_what_the_functions_do(module: str, tmp_path: Path) -> None:
    def written(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", f"training.{module}", *arguments]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    if module == "events":
        wanted = write_events(tmp_path / "wanted.csv", sensors=2, days=1, seed=3, first=7).path
        options, wrong = ["--sensors", "2", "--days", "1", "--first", "7"], ["--sensors", "0"]
    else:
        wanted = tmp_path / "wanted.csv"
        traffic.write_traffic(wanted, flows=60, hosts=2, seed=3)
        options, wrong = ["--flows", "60", "--hosts", "2"], ["--hosts", "0"]
    done = written(str(tmp_path / "made.csv"), "--seed", "3", *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made.csv").read_bytes() == wanted.read_bytes()
    done = written(str(tmp_path / "none.csv"), *wrong)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "none.csv").exists()

"""For how long values stand still in normal operation: learnt, and then held against a sensor that is stuck."""

from __future__ import annotations

import json
from datetime import UTC
from pathlib import Path

import numpy as np
import pytest

from stream_detector.bundle import load_bundle
from stream_detector.events import Events
from stream_detector.timestamps import parse
from tests.commandline import invoke
from training.data import UNKNOWN, longest_runs
from training.plant import DAY, FEATURES, MINUTE, START, Fault, Readings, simulate, write_csv

NAN = float("nan")


def log(sensors: str, *columns: list[float]) -> Events:
    count = len(sensors)
    values = np.array(columns, np.float32).T
    return Events(list(sensors), np.arange(count), values, np.arange(count), np.full(count, -1))


def unknown(*logs: Events) -> list[np.ndarray[tuple[int], np.dtype[np.int8]]]:
    return [np.full(len(one), UNKNOWN, np.int8) for one in logs]


@pytest.mark.parametrize(
    ("sensors", "column", "longest"),
    [
        ("aaaaa", [1, 2, 2, 2, 3], 3),
        ("ababab", [1, 1, 1, 1, 1, 2], 3),  # each sensor's own events
        ("aabb", [1, 1, 1, 1], 2),
        ("aaaaa", [1, 1, NAN, 1, 1], 2),  # what is missing says nothing
        ("aaa", [NAN, NAN, NAN], 0),
        ("a", [5], 1),
    ],
)
def test_the_longest_run(sensors: str, column: list[float], longest: int) -> None:
    one = log(sensors, column)
    assert longest_runs([[one]], unknown(one)) == (longest,)


def test_the_longest_of_all_logs_by_feature_and_across_pieces() -> None:
    one, other = log("aaaa", [1, 1, 2, 3], [1, 2, 3, 4]), log("bbbb", [1, 2, 3, 4], [7, 7, 7, 8])
    assert longest_runs([[one], [other]], unknown(one, other)) == (2, 3)
    assert longest_runs([[one.take(slice(0, 1)), one.take(slice(1, 4))]], unknown(one)) == (2, 1)


def test_anomalous_events_teach_nothing() -> None:
    one = log("aaaaaa", [1, 1, 1, 1, 1, 1])
    assert longest_runs([[one]], [np.array([0, 0, 1, 1, 1, UNKNOWN], np.int8)]) == (2,)


def test_a_stuck_sensor_of_the_plant_is_a_fault(tmp_path: Path) -> None:
    middle, end = START + DAY // 2, START + DAY
    fault = Fault("pump-1", "stuck-sensor", middle + DAY // 8, middle + DAY // 4)
    readings = simulate(1, DAY, MINUTE, 4, [fault])
    parts: dict[str, Readings] = {"train": readings.between(START, middle), "stream": readings.between(middle, end)}
    for name, part in parts.items():
        write_csv(tmp_path / f"{name}.csv", part)
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    options = ("--window", 16, "--stride", 1, "--epochs", 1, "--units", "4", "--model", "dense")
    done = invoke("train", tmp_path / "train.csv", "--out", bundle, *options)
    assert done.code == 0, done.err
    still = dict(zip(FEATURES, load_bundle(bundle).manifest.still, strict=True))
    assert 1 <= still["flow"] <= 3  # noise: the same reading twice is chance
    done = invoke("replay", tmp_path / "stream.csv", "--bundle", bundle, "--out", out)
    assert done.code == 0, done.err
    alerts = [json.loads(line) for line in (out / "alerts.jsonl").read_text().splitlines()]
    faults = [alert for alert in alerts if alert["kind"] == "fault"]
    assert "flow stuck at" in faults[0]["summary"]
    assert fault.start <= _ms(faults[0]["started_at"]) <= fault.start + 30 * MINUTE
    assert faults[-1]["status"] == "resolved"


def _ms(text: str) -> int:
    return parse(text, UTC)

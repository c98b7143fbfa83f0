"""For how long values stand still in normal operation: learnt, and then held against a sensor that is stuck."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.bundle import load_bundle
from stream_detector.events import Events, Partition, Slice
from stream_detector.sensors import NEVER, Rules
from stream_detector.timestamps import parse
from tests.commandline import invoke
from training.data import UNKNOWN, read
from training.past import Past
from training.plant import DAY, FEATURES, MINUTE, START, Fault, Readings, simulate, write_csv

NAN = float("nan")


def log(sensors: str, *columns: list[float]) -> Events:
    count = len(sensors)
    values = np.array(columns, np.float32).T
    return Events(list(sensors), np.arange(count), values, np.arange(count), np.full(count, -1))


def longest(*pieces: Events, labels: list[int] | None = None) -> list[int]:
    """Longest runs of one log."""
    past = Past(pieces[0].values.shape[1])
    for piece in pieces:
        past.follow(piece, np.array(labels or [UNKNOWN] * len(piece), np.int8))
    found: list[int] = past.longest.tolist()
    return found


@pytest.mark.parametrize(
    ("sensors", "column", "wanted"),
    [
        ("aaaaa", [1, 2, 2, 2, 3], 3),
        ("ababab", [1, 1, 1, 1, 1, 2], 3),  # each sensor's own events
        ("aabb", [1, 1, 1, 1], 2),
        ("aaaaa", [1, 1, NAN, 1, 1], 2),  # what is missing says nothing
        ("aaa", [NAN, NAN, NAN], 0),
        ("a", [5], 1),
    ],
)
def test_the_longest_run(sensors: str, column: list[float], wanted: int) -> None:
    assert longest(log(sensors, column)) == [wanted]


def test_the_longest_by_feature_and_across_pieces() -> None:
    one = log("aaaa", [1, 1, 2, 3], [1, 2, 3, 3])
    assert longest(one) == [2, 2]
    assert longest(*(one.take(slice(at, at + 1)) for at in range(4))) == [2, 2]


def test_the_longest_of_all_logs(tmp_path: Path) -> None:
    """Each log's sensors are its own, whatever their names."""
    rules = Rules(("x",), 1, 1, (0.0,))
    columns = ([1, 1, 2, 2, 2, 3], [3, 3, 4, 5, 6, 7])
    logs = [
        Slice(Partition("t", at), 0, 6, log("aaaaaa", list(map(float, column))), [])
        for at, column in enumerate(columns)
    ]
    assert read(logs, rules, 0).still == (3,)


def test_anomalous_events_teach_nothing() -> None:
    assert longest(log("aaaaaa", [1, 1, 1, 1, 1, 1]), labels=[0, 0, 1, 1, 1, UNKNOWN]) == [2]


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 1.0, NAN]), st.sampled_from([0, 1, -1]))),
        min_size=1,
        max_size=5,
    )
)
def test_what_came_last_is_enough(pieces: list[list[tuple[str, float, int]]]) -> None:
    """Against counting event by event, with a history of each sensor at hand."""
    past, histories, most, at = Past(1), defaultdict[str, list[tuple[float, int, int]]](list), 0, 10
    for piece in pieces:
        wanted = []
        for place, (sensor, value, label) in enumerate(piece):
            history = histories[sensor]
            history.append((value, label, at + place))
            run = takewhile(lambda one: one[0] == value and one[1] != 1, reversed(history))  # noqa: B023 # used at once
            most = max(most, sum(1 for _ in run))
            wanted.append(max((offset for _, label, offset in history if label == 1), default=NEVER))
        values = np.array([value for _, value, _ in piece], np.float32).reshape(-1, 1)
        offsets = at + np.arange(len(piece))
        events = Events([sensor for sensor, _, _ in piece], offsets, values, offsets, offsets)
        assert past.follow(events, np.array([label for _, _, label in piece], np.int8)).tolist() == wanted
        assert past.longest.tolist() == [most]
        at += len(piece)


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

"""`stream-detector evaluate`: the service's alerts against labels in each of their forms, next to the baselines."""

from __future__ import annotations

import csv
import json
import math
from datetime import UTC
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_detector.events import Bool
from stream_detector.timestamps import parse
from tests.commandline import Done, invoke, rows
from training.baselines import Judged
from training.evaluate import measure
from training.labels import Stream
from training.plant import FEATURES, Plant

COLUMNS = ("sensor_id", "timestamp", *FEATURES)
MINUTE = 60_000


def spans(plant: Plant) -> dict[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = {}
    for fault in plant.faults:
        found.setdefault(fault.sensor, []).append([fault.start, fault.end - 1])
    return found


def labels(plant: Plant) -> list[int]:
    known = spans(plant)
    return [
        int(any(a <= parse(row["timestamp"], UTC) <= b for a, b in known.get(row["sensor_id"], [])))
        for row in rows(plant)
    ]


def write(path: Path, header: tuple[str, ...], lines: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, header, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    return path


@pytest.fixture(scope="module")
def intervals(plant: Plant, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "intervals.json"
    path.write_text(json.dumps(spans(plant)))
    return path


@pytest.fixture(scope="module")
def column(plant: Plant, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stream with its labels in a column of it."""
    lines: list[dict[str, Any]] = [{**row, "bad": said} for row, said in zip(rows(plant), labels(plant), strict=True)]
    return write(tmp_path_factory.mktemp("labelled") / "stream.csv", (*COLUMNS, "bad"), lines)


@pytest.fixture(scope="module")
def whole(plant: Plant, bundle: Path, intervals: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    """An evaluation with everything."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    options = ["--bundle", bundle, "--labels", intervals, "--train", plant.train, "--out", out]
    return invoke("evaluate", plant.stream, *options), out


def told(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "evaluation.json").read_text())
    return found


def test_it_tells_the_service_and_the_baselines(whole: tuple[Done, Path], plant: Plant) -> None:
    done, out = whole
    assert done.code == 0, done.err
    found = told(out)
    names = [line["name"] for line in found["lines"]]
    assert names == ["pumps (lstm)", "PCA residual", "EWMA z-score", "isolation forest", "half-space trees"]
    assert found["labels_per"] == "row"
    assert found["rows"] == len(rows(plant))
    assert found["anomalous"] == sum(labels(plant))
    assert found["segments"] == len(plant.faults)
    assert found["sensor_days"] == pytest.approx(1, rel=0.05)
    ours = found["lines"][0]
    assert ours["event_recall"] == 1
    assert ours["pr_auc"] > sum(labels(plant)) / len(rows(plant))
    for name in names:
        assert name in done.out
    assert "VUS-PR" in done.out
    assert "budget" in done.out


def test_the_rows_under_alert_are_those_of_the_replay(whole: tuple[Done, Path], plant: Plant) -> None:
    """Stride 1: each score names its row, so that F1 can be counted from the replay's own files."""
    _, out = whole
    firing = set()
    for line in (out / "scores.jsonl").read_text().splitlines():
        score = json.loads(line)
        if score["state"] == "firing":
            firing.add((score["sensor_id"], score["window_end"]))
    said = [(row["sensor_id"], row["timestamp"]) in firing for row in rows(plant)]
    truth = labels(plant)
    hits = sum(a and b for a, b in zip(said, truth, strict=True))
    ours = told(out)["lines"][0]
    assert ours["f1"] == pytest.approx(2 * hits / (sum(said) + sum(truth)))
    assert ours["recall"] == pytest.approx(hits / sum(truth))


def test_the_page_holds_the_table_and_runs_nothing(whole: tuple[Done, Path]) -> None:
    page = (whole[1] / "evaluation.html").read_text()
    assert "half-space trees" in page
    assert "default-src 'none'" in page
    assert "<script" not in page


def same(one: Path, other: Path) -> None:
    ours, theirs = told(one)["lines"][0], told(other)["lines"][0]
    assert ours == theirs


def test_labels_in_a_column(whole: tuple[Done, Path], column: Path, bundle: Path, tmp_path: Path) -> None:
    done = invoke("evaluate", column, "--bundle", bundle, "--labels", "bad", "--out", tmp_path)
    assert done.code == 0, done.err
    same(whole[1], tmp_path)
    assert "the baselines are left out" in done.out


def test_labels_in_a_file_of_rows(
    whole: tuple[Done, Path], plant: Plant, bundle: Path, tmp_path: Path, column: Path
) -> None:
    with column.open() as file:
        lines: list[dict[str, Any]] = list(csv.DictReader(file))
    lines = [{**line, "label": line["bad"]} for line in lines if line["bad"] == "1"]
    path = write(tmp_path / "labels.csv", ("sensor_id", "timestamp", "label"), lines)
    done = invoke("evaluate", plant.stream, "--bundle", bundle, "--labels", path, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    same(whole[1], tmp_path / "out")
    assert "have no label and count as normal" in done.out


def test_labels_of_sensors_are_seen_as_such(plant: Plant, bundle: Path, tmp_path: Path) -> None:
    sick = {fault.sensor for fault in plant.faults}
    lines: list[dict[str, Any]] = [{**row, "10_days_alert_label": int(row["sensor_id"] in sick)} for row in rows(plant)]
    data = write(tmp_path / "events.csv", (*COLUMNS, "10_days_alert_label"), lines)
    options = ["--bundle", bundle, "--labels", "10_days_alert_label", "--out", tmp_path / "out"]
    done = invoke("evaluate", data, *options)
    assert done.code == 0, done.err
    found = told(tmp_path / "out")
    assert (found["labels_per"], found["sensors"], found["anomalous"]) == ("sensor", 2, 1)
    assert found["lines"][0]["recall"] == 1
    assert found["lines"][0]["vus_pr"] is None
    assert "1 of 2 sensors anomalous" in done.out
    done = invoke("evaluate", data, *options, "--labels-per", "row")
    assert done.code == 0, done.err
    assert told(tmp_path / "out")["labels_per"] == "row"


def test_without_labels_it_is_a_back_test(plant: Plant, bundle: Path, tmp_path: Path) -> None:
    done = invoke("evaluate", plant.stream, "--bundle", bundle, "--out", tmp_path)
    assert done.code == 0, done.err
    found = told(tmp_path)
    fired = {json.loads(line)["id"] for line in (tmp_path / "alerts.jsonl").read_text().splitlines()}
    assert found["lines"][0]["alerts"] == len(fired)
    assert found["lines"][0]["alerts_per_day"] == pytest.approx(len(fired) / found["sensor_days"])
    assert "no labels" in done.out
    assert found["budget_per_day"] < 3
    (tmp_path / "asked.toml").write_text("[alerts]\nbudget = 3.0\n")
    done = invoke("evaluate", plant.stream, "--bundle", bundle, "--out", tmp_path, "--config", tmp_path / "asked.toml")
    assert done.code == 0, done.err
    assert told(tmp_path)["budget_per_day"] == 3, "what the settings ask for wins, as in the service"


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        ("", "worse", "neither a file nor a column of the data"),
        ("[1]", "l.json", "not {sensor: [[first, last]"),
        ("{", "l.json", "not {sensor: [[first, last]"),
        ('{"pump-9": []}', "l.json", "names no sensor of the data"),
        ('{"pump-1": [["yesterday", "now"]]}', "l.json", "not RFC 3339"),
        ("sensor_id,timestamp,label\npump-1,1999-01-01T00:00:00Z,1\n", "l.csv", "no row has the sensor and the time"),
        ("sensor_id,timestamp,a,b\npump-1,1999-01-01T00:00:00Z,1,2\n", "l.csv", "which column is the label"),
        ("sensor_id,timestamp,label\npump-1,1999-01-01T00:00:00Z,bad\n", "l.csv", "no column of numbers"),
    ],
)
def test_labels_that_do_not_fit(plant: Plant, bundle: Path, tmp_path: Path, text: str, name: str, told: str) -> None:
    path = tmp_path / name
    if text:
        path.write_text(text)
    done = invoke("evaluate", plant.stream, "--bundle", bundle, "--labels", path if text else name)
    assert done.code == 2
    assert told in done.err
    assert done.err.count("\n") == 1


def test_a_label_that_is_no_number(column: Path, bundle: Path, tmp_path: Path) -> None:
    data = tmp_path / "stream.csv"
    lines = column.read_text().splitlines()
    data.write_text("\n".join([*lines[:30], lines[30][: lines[30].rindex(",")] + ",maybe", *lines[31:200]]) + "\n")
    done = invoke("evaluate", data, "--bundle", bundle, "--labels", "bad")
    assert done.code == 2
    assert "labels are 0 or 1" in done.err


def test_wrong_options(plant: Plant, bundle: Path, tmp_path: Path) -> None:
    done = invoke("evaluate", plant.stream, "--bundle", bundle, "--labels-per", "week")
    assert done.code == 2
    assert "give one of auto, row, sensor" in done.err
    done = invoke("evaluate", plant.stream, "--bundle", bundle, "--train", tmp_path / "nowhere.csv")
    assert done.code == 2
    assert "nowhere.csv" in done.err


def test_data_shorter_than_a_window(plant: Plant, bundle: Path, tmp_path: Path) -> None:
    data = tmp_path / "short.csv"
    data.write_text("\n".join(plant.stream.read_text().splitlines()[:8]) + "\n")
    done = invoke("evaluate", data, "--bundle", bundle)
    assert done.code == 2
    assert "16 events" in done.err


def test_hostile_names_are_escaped(plant: Plant, bundle: Path, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{**row, "sensor_id": f"<b>[red]{row['sensor_id']}"} for row in rows(plant)[:200]]
    data = write(tmp_path / "stream.csv", COLUMNS, lines)
    path = tmp_path / "l.json"
    path.write_text(json.dumps({"<b>[red]pump-9": []}))
    done = invoke("evaluate", data, "--bundle", bundle, "--labels", path)
    assert done.code == 2
    assert "<b>[red]pump-1" in done.err
    done = invoke("evaluate", data, "--bundle", bundle, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "<b>" not in (tmp_path / "out" / "evaluation.html").read_text()


def stream(n: int, *wrong: tuple[int, int]) -> Stream:
    truth: Bool = np.zeros(n, bool)
    for first, last in wrong:
        truth[first : last + 1] = True
    return Stream(MINUTE * np.arange(n, dtype=np.int64), np.zeros((n, 1)), truth)


def judged(n: int, *fired: tuple[int, int]) -> Judged:
    firing = stream(n, *fired).truth
    return Judged(firing.astype(float), firing)


def test_figures_by_hand() -> None:
    streams = {"a": stream(1_440, (100, 199)), "b": stream(1_440)}
    said = {"a": judged(1_440, (150, 209), (800, 809)), "b": judged(1_440, (5, 9))}
    line = measure("x", streams, said, "row", 10)
    assert line.alerts == 3
    assert line.alerts_per_day == 1.5
    assert line.false_alarms_per_day == pytest.approx(2 / (2 - 100 / 1_440))
    assert (line.precision, line.recall) == (50 / 75, 0.5)
    assert (line.event_recall, line.delay_rows) == (1, 50)
    assert line.event_precision == pytest.approx(1 / 3)


def test_figures_where_there_is_nothing() -> None:
    silent = measure("x", {"a": stream(60, (5, 9))}, {"a": judged(60)}, "row", 4)
    assert math.isnan(silent.precision)
    assert (silent.recall, silent.f1, silent.false_alarms_per_day, silent.alerts) == (0, 0, 0, 0)
    unlabelled = measure("x", {"a": stream(60)}, {"a": judged(60, (3, 4))}, "row", 4)
    assert math.isnan(unlabelled.recall)
    assert math.isnan(unlabelled.pr_auc)
    assert unlabelled.false_alarms_per_day == pytest.approx(24)
    wrong = measure("x", {"a": stream(60, (0, 59))}, {"a": judged(60)}, "row", 4)
    assert math.isnan(wrong.false_alarms_per_day)

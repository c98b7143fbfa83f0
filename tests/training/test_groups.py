"""Groups of the settings in training: a sensor that is new is judged by what its group is like."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_detector import load_bundle
from stream_detector.timestamps import rfc3339
from tests.commandline import invoke, lines

START, SECOND = 1_795_168_800_000, 1_000
FEATURES = ("load", "heat")
SIZES = {"pump": 1.0, "mill": 10_000.0}  # of what each group's sensors show
CONFIG = '[groups.pumps]\nsensors = "pump-*"\n[groups.mills]\nsensors = "mill-*"\n'
COUNT = 2_500
FAULT = 400  # event of the stream from which load is off by six deviations


def write(file: Path, sensors: tuple[str, ...], count: int, seed: int, fault: int | None = None) -> Path:
    """Sensors of two features that share their half, each around ten times its group's size; one event a second."""
    rng = np.random.default_rng(seed)
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("sensor_id", "timestamp", *FEATURES))
        for sensor in sensors:
            size = SIZES[sensor.partition("-")[0]]
            shown = 10 * size + size * (rng.normal(size=(count, 1)) + rng.normal(size=(count, 2)))
            if fault is not None:
                shown[fault:, 0] += 8 * size
            for at, row in enumerate(shown.tolist()):
                writer.writerow((sensor, rfc3339(START + at * SECOND), *row))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles of the same data, one with groups, and events of a sensor of each group that is new."""
    folder = tmp_path_factory.mktemp("groups")
    data = write(folder / "normal.csv", ("pump-1", "pump-2", "mill-1", "mill-2"), COUNT, 0)
    write(folder / "new.csv", ("pump-9", "mill-9"), 600, 1, FAULT)
    (folder / "detector.toml").write_text(CONFIG)
    options = ("--model", "dense", "--units", "4", "--window", 8, "--stride", 1, "--epochs", 1)
    for name, more in (("grouped", ("--config", folder / "detector.toml")), ("plain", ())):
        done = invoke("train", data, "--out", folder / name, *options, *more)
        assert done.code == 0, done.err
        done = invoke("replay", folder / "new.csv", "--bundle", folder / name, "--out", folder / f"{name}-out")
        assert done.code == 0, done.err
    return folder


def scores(out: Path, sensor: str) -> list[dict[str, Any]]:
    return [one for one in lines(out / "scores.jsonl") if one["sensor_id"] == sensor]


@pytest.mark.parametrize("sensor", ["pump-9", "mill-9"])
def test_a_new_sensor_is_judged_by_its_group(folder: Path, sensor: str) -> None:
    told = np.array([one["score"] for one in scores(folder / "grouped-out", sensor)])
    before, after = told[: FAULT - 7], told[FAULT - 7 :]
    assert (before >= 1).mean() < 0.03
    assert (after[:8] >= 1).any(), "it is told when it begins"
    firing = [one for one in lines(folder / "grouped-out" / "alerts.jsonl") if one["sensor_id"] == sensor]
    assert firing
    assert firing[0]["contributions"]["load"] > 0.6


def test_without_groups_the_small_are_not_seen_beside_the_large(folder: Path) -> None:
    """The control: by a scale that all share, a pump is the same before and in its fault."""
    told = np.array([one["score"] for one in scores(folder / "plain-out", "pump-9")])
    assert np.ptp(told) < 0.01


def test_the_bundle_knows_its_groups(folder: Path) -> None:
    bundle = load_bundle(folder / "grouped")
    assert bundle.manifest.groups == {"pumps": "pump-*", "mills": "mill-*"}
    assert set(bundle.scaler.groups) == {"pumps", "mills"}
    assert set(bundle.thresholds.partners["change"].groups) == {"pumps", "mills"}
    pumps, mills = (bundle.scaler.groups[name].scale[0] for name in ("pumps", "mills"))
    assert mills / pumps == pytest.approx(10_000, rel=0.3)
    assert load_bundle(folder / "plain").manifest.groups == {}


def test_a_single_metric_of_a_group_is_scaled_likewise(tmp_path: Path) -> None:
    """What learns on too: unlike a group's, a common scale would take a new pump's fault for nothing."""
    data = write(tmp_path / "normal.csv", ("pump-1", "mill-1"), COUNT, 0)
    new = write(tmp_path / "new.csv", ("pump-9",), 1_800, 1, 1_600)
    for file in (data, new):
        rows = [row.rsplit(",", 1)[0] for row in file.read_text().splitlines()]
        file.write_text("\n".join(rows) + "\n")
    (tmp_path / "detector.toml").write_text(CONFIG)
    options = ("--model", "dense", "--units", "4", "--window", 8, "--stride", 1, "--epochs", 1)
    done = invoke("train", data, "--out", tmp_path / "grouped", *options, "--config", tmp_path / "detector.toml")
    assert done.code == 0, done.err
    assert invoke("replay", new, "--bundle", tmp_path / "grouped", "--out", tmp_path / "out").code == 0
    told = scores(tmp_path / "out", "pump-9")
    assert max(one["score"] for one in told[1_585:1_620]) > 1
    assert {one["part"] for one in told} == {"model", "novelty"}

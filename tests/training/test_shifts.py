"""A shift that stays, from training to what is told: one alert that ends, and ears for what comes after it."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_detector import Detector, load_bundle
from stream_detector.bundle import Bundle
from stream_detector.events import Events, Float32
from stream_detector.settings import Alerts, Settings
from tests.commandline import invoke
from training.options import Session, TrainOptions
from training.train import train

LENGTH = 8
MINUTE = 60_000
START = 1_700_000_000_000
FEATURES = ("load", "heat")
OPTIONS = TrainOptions("dense", length=LENGTH, stride=1, units=(4,), epochs=1, seed=1)
SHIFTED, LASTS, JUMPED, COUNT = 500, 1_000, 2_500, 3_000  # minutes; what lasts for 1,000 events is normal


def noise(count: int, seed: int) -> Float32:
    """Two features that share their half."""
    rng = np.random.default_rng(seed)
    return (20 + rng.normal(0, 1, (count, 1)) + rng.normal(0, 1, (count, 2))).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    count, out = 4_000, tmp_path_factory.mktemp("bundles") / "plant"
    times = START + np.arange(count) * MINUTE
    events = Events(["a"] * count, times, noise(count, 0), np.arange(count), np.full(count, -1))
    train([events], FEATURES, OPTIONS, out, session=Session(pictures=False))
    return load_bundle(out)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its heat rises for good, and much later its load jumps for a moment."""
    file, values = tmp_path_factory.mktemp("stream") / "plant.jsonl", noise(COUNT, 1)
    values[SHIFTED:, 1] += 7
    values[JUMPED, 0] += 12
    lines = [
        {"sensor_id": "a", "timestamp": START + (10_000 + at) * MINUTE, "values": dict(zip(FEATURES, row, strict=True))}
        for at, row in enumerate(values.tolist())
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def replayed(bundle: Bundle, stream: Path, out: Path, config: str = "") -> Path:
    (out.parent / "detector.toml").write_text(config)
    done = invoke("replay", stream, "--bundle", bundle.path, "--config", out.parent / "detector.toml", "--out", out)
    assert done.code == 0, done.err
    return out


@pytest.fixture(scope="module")
def told(bundle: Bundle, stream: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return replayed(bundle, stream, tmp_path_factory.mktemp("replay") / "out")


def ends(alert: dict[str, Any]) -> int:
    """The event that its record is about."""
    return int(alert["source"]["last_offset"])


def test_it_is_one_alert_that_ends_and_what_comes_after_it_is_told(told: Path) -> None:
    alerts = lines_of(told / "alerts.jsonl")
    shift, jump = [one for one in alerts if one["revision"] == 1 and ends(one) >= SHIFTED]
    assert ends(shift) <= SHIFTED + LENGTH
    assert ends(jump) == JUMPED
    resolved = {one["id"]: one for one in alerts if one["status"] == "resolved"}
    assert LASTS <= ends(resolved[shift["id"]]) - ends(shift) <= LASTS + 20
    for one in (shift, jump):
        assert resolved[one["id"]]["accepted"] > 1
        assert resolved[one["id"]]["summary"] == "a: calm, with a shift that has lasted and is taken as normal"


def test_without_it_one_alert_stays_open_and_hides_the_rest(bundle: Bundle, stream: Path, tmp_path: Path) -> None:
    out = replayed(bundle, stream, tmp_path / "out", '[alerts]\naccept_after = "off"\n')
    alerts = lines_of(out / "alerts.jsonl")
    assert ends([one for one in alerts if one["revision"] == 1][-1]) <= SHIFTED + LENGTH
    assert alerts[-1]["status"] == "firing"


@pytest.mark.parametrize("status", ["firing", "resolved"])
def test_alerts_on_top_of_what_was_accepted_are_explained(
    bundle: Bundle, told: Path, stream: Path, status: str
) -> None:
    alerts = [one for one in lines_of(told / "alerts.jsonl") if one["status"] == status]
    given = ("--bundle", bundle.path, "--alerts", told / "alerts.jsonl", "--data", stream, "--out", told / "explained")
    for alert in alerts[-2:]:
        done = invoke("explain", alert["id"], *given)
        assert done.code == 0, done.out + done.err
        assert "the verdict holds" in done.out


def test_the_detector_gives_the_scores_that_replay_gives(bundle: Bundle, told: Path, stream: Path) -> None:
    detector = Detector(bundle, Settings(alerts=Alerts(accept_after="3h")))
    wanted = lines_of(replayed(bundle, stream, told / "again", '[alerts]\naccept_after = "3h"\n') / "scores.jsonl")
    wanted = wanted[: SHIFTED + 300]
    events = (json.loads(line) for line in islice(stream.read_text().splitlines(), len(wanted) + LENGTH - 1))
    found = [
        score for event in events for score in detector.update(event["sensor_id"], event["timestamp"], event["values"])
    ]
    np.testing.assert_allclose([one.score for one in found], [one["score"] for one in wanted], rtol=1e-4)
    assert [one.state for one in found] == [one["state"] for one in wanted]
    levels = [one.threshold for one in found if one.part == "level"]
    assert max(levels) > 1.2 * min(levels)

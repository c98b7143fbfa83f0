"""A budget that somebody asked for: as many alerts, whatever the stream is like after training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_detector import Detector
from stream_detector.bundle import Bundle
from stream_detector.levels import STEP
from stream_detector.policy import DAY, closest
from stream_detector.settings import Alerts, Settings
from tests.commandline import lines
from tests.training.pair import LENGTH, MINUTE, check_explained, noise, replayed, trained, updated, write

BUDGET, DAYS = 10.0, 3


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained(tmp_path_factory.mktemp("bundles") / "plant", BUDGET)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plant that is far calmer than when it was learnt from."""
    return write(tmp_path_factory.mktemp("stream") / "plant.jsonl", noise(DAYS * DAY // MINUTE, 1, size=0.5))


@pytest.fixture(scope="module")
def told(bundle: Bundle, stream: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return replayed(bundle, stream, tmp_path_factory.mktemp("replay") / "out")


def fired(out: Path) -> list[dict[str, Any]]:
    return [alert for alert in lines(out / "alerts.jsonl") if alert["revision"] == 1]


def test_what_was_asked_for_is_told_of_a_stream_that_is_calmer_than_training(
    bundle: Bundle, told: Path, stream: Path, tmp_path: Path
) -> None:
    assert bundle.manifest.budget == BUDGET
    assert BUDGET / 2 <= len(fired(told)) / DAYS <= BUDGET * 2
    still = fired(replayed(bundle, stream, tmp_path / "still", '[alerts]\nbudget = "off"\n'))
    assert len(still) / DAYS < BUDGET / 2, "as the thresholds from training would have it"
    fewer = fired(replayed(bundle, stream, tmp_path / "fewer", "[alerts]\nbudget = 3\n"))
    assert len(still) <= len(fewer) < len(fired(told))


def test_scores_are_by_the_thresholds_that_hold(told: Path) -> None:
    scores = lines(told / "scores.jsonl")
    for one in scores:
        assert one["score"] == pytest.approx(one["error"] / one["threshold"], rel=1e-5)
    assert all(alert["score"] >= 1 for alert in fired(told))
    change = [one["threshold"] for one in scores if one["part"] == "change"]
    assert min(change) < 0.9 * max(change)


def test_the_detector_gives_the_scores_that_replay_gives(bundle: Bundle, told: Path, stream: Path) -> None:
    wanted = lines(told / "scores.jsonl")[:600]
    found = updated(Detector(bundle), stream, len(wanted))
    np.testing.assert_allclose([one.score for one in found], [one["score"] for one in wanted], rtol=1e-4)
    assert [one.state for one in found] == [one["state"] for one in wanted]
    assert min(one.threshold for one in found) < 0.9 * max(one.threshold for one in found)


def share_of(bundle: Bundle, alert: dict[str, Any]) -> float:
    """How far the threshold that a record names had moved from that of training."""
    table = bundle.thresholds.partners.get(alert["part"], bundle.thresholds)
    return float(alert["threshold"] / table.values[table.row(alert["sensor_id"])])


@pytest.mark.parametrize("side", [-1, 1])
def test_an_alert_by_another_threshold_than_that_of_training_is_explained(
    bundle: Bundle, told: Path, stream: Path, side: int
) -> None:
    """That may have fallen where it fired, and lie above that of training where it resolved."""
    moved = [alert for alert in lines(told / "alerts.jsonl") if side * (share_of(bundle, alert) - 1) > 0.01]
    assert {alert["status"] for alert in moved} >= {"resolved" if side > 0 else "firing"}
    check_explained(moved[-1], bundle, told, stream)


def test_more_than_sensors_can_have_is_said_and_not_tried(tmp_path: Path) -> None:
    bundle = trained(tmp_path / "hourly", 100.0, minutes=60)
    assert bundle.manifest.budget == pytest.approx(DAY / closest(Alerts(), 60 * MINUTE))
    summary = (bundle.path / "report" / "summary.txt").read_text().replace("\n", " ")
    assert "100 false alarms a sensor and day are more than these sensors can have" in summary
    assert "some alerts will be of the same events" in summary


def test_more_than_one_alert_in_two_windows_comes_if_it_is_asked_for_and_is_told_of(tmp_path: Path) -> None:
    bundle, asked = trained(tmp_path / "hourly", 2.4, minutes=60), 2.4
    assert bundle.manifest.budget == asked > 24 / (2 * LENGTH)
    summary = (bundle.path / "report" / "summary.txt").read_text().replace("\n", " ")
    assert "more than these sensors can have" not in summary
    assert "some alerts will be of the same events" in summary
    days = 60
    stream = write(tmp_path / "stream.jsonl", noise(24 * days, 1, size=0.7), minutes=60)
    told = replayed(bundle, stream, tmp_path / "told")
    assert asked / 2 <= len(fired(told)) / days <= asked * 1.2
    highest = max(lines(told / "alerts.jsonl"), key=lambda alert: share_of(bundle, alert))
    assert share_of(bundle, highest) > math.exp(STEP), "further above what was told than other budgets ever are"
    check_explained(highest, bundle, told, stream)


def test_where_nobody_asked_thresholds_stay(tmp_path: Path) -> None:
    bundle = trained(tmp_path / "plain", None)
    assert bundle.manifest.budget == 0
    assert Detector(bundle).criteria.alerts.common.budget == "off"
    assert Detector(bundle, Settings(alerts=Alerts(budget=2))).criteria.alerts.common.budget == 2

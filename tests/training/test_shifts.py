"""A shift that stays, from training to what is told: one alert that ends, and ears for what comes after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_detector import Detector
from stream_detector.bundle import Bundle
from stream_detector.settings import Alerts, Settings
from tests.commandline import lines
from tests.training.pair import LENGTH, check_explained, noise, replayed, trained, updated, write

SHIFTED, LASTS, JUMPED, COUNT = 500, 1_000, 2_500, 3_000  # minutes; what lasts for 1,000 events is normal


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained(tmp_path_factory.mktemp("bundles") / "plant")


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its heat rises for good, and much later its load jumps for a moment."""
    values = noise(COUNT, 1)
    values[SHIFTED:, 1] += 7
    values[JUMPED, 0] += 12
    return write(tmp_path_factory.mktemp("stream") / "plant.jsonl", values)


@pytest.fixture(scope="module")
def told(bundle: Bundle, stream: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return replayed(bundle, stream, tmp_path_factory.mktemp("replay") / "out")


def ends(alert: dict[str, Any]) -> int:
    """The event that its record is about."""
    return int(alert["source"]["last_offset"])


def test_it_is_one_alert_that_ends_and_what_comes_after_it_is_told(told: Path) -> None:
    alerts = lines(told / "alerts.jsonl")
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
    alerts = lines(out / "alerts.jsonl")
    assert ends([one for one in alerts if one["revision"] == 1][-1]) <= SHIFTED + LENGTH
    assert alerts[-1]["status"] == "firing"


@pytest.mark.parametrize("status", ["firing", "resolved"])
def test_alerts_on_top_of_what_was_accepted_are_explained(
    bundle: Bundle, told: Path, stream: Path, status: str
) -> None:
    alerts = [one for one in lines(told / "alerts.jsonl") if one["status"] == status]
    for alert in alerts[-2:]:
        check_explained(alert, bundle, told, stream)


def test_the_detector_gives_the_scores_that_replay_gives(bundle: Bundle, told: Path, stream: Path) -> None:
    detector = Detector(bundle, Settings(alerts=Alerts(accept_after="3h")))
    wanted = lines(replayed(bundle, stream, told / "again", '[alerts]\naccept_after = "3h"\n') / "scores.jsonl")
    wanted = wanted[: SHIFTED + 300]
    found = updated(detector, stream, len(wanted))
    np.testing.assert_allclose([one.score for one in found], [one["score"] for one in wanted], rtol=1e-4)
    assert [one.state for one in found] == [one["state"] for one in wanted]
    levels = [one.threshold for one in found if one.part == "level"]
    assert max(levels) > 1.2 * min(levels)

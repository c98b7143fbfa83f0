"""The detector embedded in a program: the same scores as the command, and plain errors for bad input."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from stream_detector import Detector, load_bundle
from stream_detector.adapters.keras.scorer import KerasScorer
from stream_detector.codec import encode_score
from stream_detector.errors import SettingsError
from stream_detector.events import Errors, Float32
from stream_detector.settings import Settings, Window, load_settings
from tests.commandline import invoke
from training.plant import FEATURES, Plant

W, ROWS = 16, 240
VALUES = dict.fromkeys(FEATURES, 1.0)


@pytest.fixture(scope="module")
def scorer(bundle: Path) -> KerasScorer:
    """Compiled once for all of these tests."""
    return Detector(load_bundle(bundle)).scorer


@pytest.fixture
def detector(bundle: Path, scorer: KerasScorer) -> Detector:
    detector = Detector(load_bundle(bundle))
    detector.scorer = scorer
    return detector


def read(plant: Plant) -> list[tuple[str, str, dict[str, float | None]]]:
    with plant.stream.open() as file:
        rows = list(csv.DictReader(file))[-ROWS:]  # with the fault
    return [
        (row["sensor_id"], row["timestamp"], {name: float(row[name]) if row[name] else None for name in FEATURES})
        for row in rows
    ]


def comparable(score: dict[str, Any]) -> dict[str, Any]:
    """Without what depends on where the event came from."""
    return {key: value for key, value in score.items() if key not in ("id", "source")}


def test_it_gives_the_scores_that_replay_gives(plant: Plant, bundle: Path, detector: Detector, tmp_path: Path) -> None:
    events = read(plant)
    found = [score for event in events for score in detector.update(*event)]
    data = tmp_path / "events.jsonl"
    lines = [{"sensor_id": sensor, "timestamp": time, "values": values} for sensor, time, values in events]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = invoke("replay", data, "--bundle", bundle, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    replayed = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert len(found) == len(replayed) == ROWS - len({event[0] for event in events}) * (W - 1)
    for mine, theirs in zip([json.loads(encode_score(score)) for score in found], replayed, strict=True):
        close, exact = {}, {}
        for record, side in ((mine, 0), (theirs, 1)):
            plain = comparable(record)
            contributions = plain.pop("contributions")
            close[side] = [plain.pop("score"), plain.pop("error"), *contributions.values()]
            exact[side] = plain
        assert close[0] == pytest.approx(close[1], rel=1e-4, abs=1e-6)
        assert exact[0] == exact[1]


def test_a_window_that_the_device_gives_no_score_is_left_out(
    plant: Plant, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scored(sensors: Sequence[str], values: Float32) -> Errors:
        found = type(detector.scorer).score(detector.scorer, sensors, values)
        return replace(found, score=found.score * np.nan)

    monkeypatch.setattr(detector.scorer, "score", scored)
    assert [score for event in read(plant)[: 4 * W] for score in detector.update(*event)] == []
    assert detector.incidents == {}


def test_alerts_policy_and_faults_apply_as_in_replay(
    plant: Plant, bundle: Path, scorer: KerasScorer, tmp_path: Path
) -> None:
    events = read(plant)
    limit = sorted(values[FEATURES[0]] or 0.0 for _, _, values in events)[-ROWS // 10]
    config = tmp_path / "detector.toml"
    config.write_text(
        f"""
        [alerts]
        min_windows = 2
        min_duration = "2m"
        cooldown = "30m"
        [groups.first]
        sensors = "{events[0][0]}"
        min_windows = 1
        min_duration = 0
        [features.{FEATURES[0]}]
        range = [-inf, {limit}]
        [features.{FEATURES[1]}]
        direction = "above_expected"
        """
    )
    detector = Detector(load_bundle(bundle), load_settings(config))
    detector.scorer = scorer
    found = [score.state for event in events for score in detector.update(*event)]
    data = tmp_path / "events.jsonl"
    lines = [{"sensor_id": sensor, "timestamp": time, "values": values} for sensor, time, values in events]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out"
    done = invoke("replay", data, "--bundle", bundle, "--out", out, "--config", config)
    assert done.code == 0, done.err
    assert [json.loads(line)["state"] for line in (out / "scores.jsonl").read_text().splitlines()] == found
    alerts = [json.loads(line) for line in (out / "alerts.jsonl").read_text().splitlines()]
    assert "fault" in {alert["kind"] for alert in alerts}
    assert any("out of its range" in alert["summary"] for alert in alerts)


def test_a_direction_for_a_feature_that_the_bundle_lacks_is_refused(bundle: Path) -> None:
    with pytest.raises(SettingsError, match=r"features\.colour: not in the bundle"):
        Detector(load_bundle(bundle), Settings.model_validate({"features": {"colour": {"range": [0, 1]}}}))


def test_an_event_completes_one_window_or_none(detector: Detector) -> None:
    for minute in range(W - 1):
        assert detector.update("pump-1", minute * 60_000, VALUES) == []
    (score,) = detector.update("pump-1", (W - 1) * 60_000, VALUES)
    assert (score.window_start, score.window_end) == ("1970-01-01T00:00:00.000Z", "1970-01-01T00:15:00.000Z")
    assert (score.source.first_offset, score.source.last_offset) == (0, W - 1)
    assert detector.update("pump-1", (W - 1) * 60_000, VALUES) == []  # again: ignored
    assert detector.update("pump-1", 0, VALUES) == []  # late
    assert len(detector.update("pump-1", W * 60_000, VALUES)) == 1
    assert detector.update("pump-2", W * 60_000, VALUES) == []  # sensors have windows of their own


def test_timestamps_may_be_text_numbers_or_datetimes(detector: Detector) -> None:
    noon = datetime(2026, 11, 20, 12, 0, 0, 123_000, tzinfo=UTC)
    same: list[Any] = [
        "2026-11-20T12:00:00.123Z",
        "2026-11-20 12:00:00.123",
        1_795_176_000_123,
        noon,
        noon.replace(tzinfo=None),
        noon.astimezone(timezone(timedelta(hours=2))),
    ]
    ends = set()
    for number, timestamp in enumerate(same):
        for step in range(1 - W, 0):
            detector.update(f"s{number}", 1_795_176_000_123 + step * 1_000, VALUES)
        (score,) = detector.update(f"s{number}", timestamp, VALUES)
        ends.add(score.window_end)
    assert ends == {"2026-11-20T12:00:00.123Z"}


@pytest.mark.parametrize(
    ("timestamp", "values", "told"),
    [
        (0, {"colour": 1.0}, "unknown features colour; the bundle has speed"),
        (0, {}, "no feature has a value"),
        (0, dict.fromkeys(FEATURES), "no feature has a value"),
        (0, {"speed": float("nan")}, "not finite"),
        (0, {"speed": float("inf")}, "not finite"),
        (0, {"speed": 1e300}, "not finite"),
        ("yesterday", VALUES, "not RFC 3339"),
        ("2026-02-31T00:00:00Z", VALUES, "does not exist|exists"),
        (10**18, VALUES, "years 1 to 9999"),
        (0, {"speed": "fast"}, "fast|number"),
    ],
)
def test_what_cannot_be_an_event_is_a_value_error_and_changes_nothing(
    detector: Detector, timestamp: Any, values: dict[str, Any], told: str
) -> None:
    for minute in range(1, W):
        detector.update("pump-1", minute * 60_000, VALUES)
    with pytest.raises(ValueError, match=told):
        detector.update("pump-1", timestamp, values)
    (score,) = detector.update("pump-1", W * 60_000, VALUES)
    assert (score.source.first_offset, score.source.last_offset) == (0, W - 1)


def test_a_missing_value_is_imputed_and_said(detector: Detector) -> None:
    for minute in range(W - 1):
        detector.update("pump-1", minute * 60_000, VALUES)
    (score,) = detector.update("pump-1", W * 60_000, {**VALUES, "flow": None})
    assert score.imputed == ["flow"]
    assert score.confidence == pytest.approx(1 - 1 / (W * len(FEATURES)), rel=1e-6)


def test_whole_windows_are_scored_at_once(detector: Detector) -> None:
    rng = np.random.default_rng(0)
    windows = rng.normal(size=(5, W, len(FEATURES))).astype(np.float32)
    errors = detector.score(windows)
    assert errors.score.shape == errors.error.shape == errors.threshold.shape == errors.worst_step.shape == (5,)
    assert errors.contributions.shape == (5, len(FEATURES))
    assert errors.contributions.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    assert errors.score == pytest.approx(errors.error / errors.threshold, rel=1e-5)
    assert detector.score(windows[2:3]).score == pytest.approx(errors.score[2:3], rel=1e-4)
    assert len(detector.score(windows[:0]).score) == 0


@pytest.mark.parametrize("shape", [(W, 7), (1, W - 1, 7), (1, W, 6), (7,), (1, 1, W, 7)])
def test_windows_of_another_shape_are_a_value_error(detector: Detector, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"give windows of shape \(n, 16, 7\)"):
        detector.score(np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_windows_with_holes_are_a_value_error(detector: Detector, value: float) -> None:
    windows = np.zeros((2, W, 7), np.float32)
    windows[1, 3, 2] = value
    with pytest.raises(ValueError, match="not finite"):
        detector.score(windows)


def test_settings_apply(bundle: Path) -> None:
    detector = Detector(load_bundle(bundle), Settings(window=Window.model_validate({"max_gap": "1m"})))
    times = [*range(W - 1), *range(100, 100 + W)]  # a gap before the first window is full
    found = [len(detector.update("pump-1", time * 60_000, VALUES)) for time in times]
    assert found == [0] * (2 * W - 2) + [1]


@pytest.mark.parametrize(
    ("asked", "more", "scored"), [("learned", 0, True), ("learned", 1, False), ("off", 1, True), ("off", 10**9, True)]
)
def test_a_window_starts_over_after_a_longer_silence_than_any_in_training(
    bundle: Path, asked: str, more: int, scored: bool
) -> None:
    loaded = load_bundle(bundle)
    longest = loaded.manifest.longest_windows["pump-1"]
    assert (W - 1) * 60_000 <= longest <= loaded.manifest.longest_window
    detector = Detector(loaded, Settings(window=Window.model_validate({"max_gap": asked})))
    for minute in range(W - 1):
        assert detector.update("pump-1", minute * 60_000, VALUES) == []
    assert len(detector.update("pump-1", (W - 2) * 60_000 + longest + more, VALUES)) == scored


def test_a_silence_is_long_by_what_the_sensor_showed_not_by_what_slower_ones_do(bundle: Path) -> None:
    """One of another rate is in the same bundle; one that no training saw may be silent for as long as the slowest."""
    loaded = load_bundle(bundle)
    lasts = {"pump-1": 3_600_000, "pump-2": 90 * 60_000}
    mixed = replace(loaded, manifest=msgspec.structs.replace(loaded.manifest, longest_windows=lasts,
                                                             longest_window=90 * 60_000))  # fmt: skip
    for sensor, gap in (*lasts.items(), ("never seen", 90 * 60_000)):
        for more, scored in ((0, True), (1, False)):
            detector = Detector(mixed)
            for minute in range(W - 1):
                assert detector.update(sensor, minute * 60_000, VALUES) == []
            assert len(detector.update(sensor, (W - 2) * 60_000 + gap + more, VALUES)) == scored


def test_settings_of_the_environment_that_are_wrong_are_told_as_ever(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_DETECTOR__WINDOW__LENGHT", "3")
    with pytest.raises(SettingsError, match=r"window\.lenght"):
        Detector(load_bundle(bundle))


def test_scores_are_the_records_of_the_topic(detector: Detector) -> None:
    for minute in range(W - 1):
        detector.update("pump-1", minute * 60_000, VALUES)
    (score,) = detector.update("pump-1", W * 60_000, VALUES)
    assert msgspec.json.decode(encode_score(score))["model"]["name"] == "pumps"

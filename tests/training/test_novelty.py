"""Single metrics: their bundles learn on, from where training ended, in whatever runs them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_detector import Detector, load_bundle
from stream_detector.bundle import Bundle
from stream_detector.events import Events, Float32
from stream_detector.settings import Alerts, Settings
from tests.commandline import invoke
from training.calibrate import BUDGET
from training.novelty import EVENTS, NEIGHBOURS, RANKED
from training.options import Session, TrainOptions
from training.train import train

LENGTH = 16
OPTIONS = TrainOptions("dense", length=LENGTH, stride=1, units=(4,), epochs=1, seed=1)
MINUTE = 60_000
START = 1_700_000_000_000
RIPPLE = np.array([3, -3, 3, -3, 3, -3], np.float32)


def rhythm(count: int, seed: int = 0) -> Float32:
    noise = np.random.default_rng(seed).normal(0, 0.1, count)
    return (20 + np.sin(np.arange(count) / 6) + noise).astype(np.float32)


def events_of(values: Float32, sensor: str = "a", minutes: float = 1.0) -> Events:
    count = len(values)
    times = START + (np.arange(count) * minutes * MINUTE).astype(np.int64)
    return Events([sensor] * count, times, values[:, None], np.arange(count), np.full(count, -1))


def trained(events: Sequence[Events], out: Path, **changes: Any) -> Bundle:
    train(events, ("load",), replace(OPTIONS, **changes), out, session=Session(pictures=False))
    return load_bundle(out)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained([events_of(rhythm(3_000))], tmp_path_factory.mktemp("bundles") / "load")


def test_a_single_metric_is_held_against_what_it_showed(bundle: Bundle) -> None:
    assert (bundle.errors.partners, bundle.thresholds.partners) == ((), {})
    found = bundle.errors.novelty
    assert found is not None
    assert (found.events, found.neighbours) == (EVENTS, NEIGHBOURS)
    day = 24 * 60  # windows
    assert found.windows == {"": day / BUDGET, "a": day / BUDGET}
    np.testing.assert_array_equal(found.own["a"].values[-500:], rhythm(3_000)[-500:])
    assert bundle.manifest.expected_alerts_per_day == BUDGET


@pytest.mark.parametrize(
    ("asked", "minutes", "windows"),
    [(0.1, 1, 14_400), (None, 1, 1_500 - LENGTH + 1), (None, 30, RANKED), (1.0, 30, RANKED)],
)
def test_the_budget_says_of_how_many_windows_one_may_be_the_highest(
    asked: float | None, minutes: int, windows: int, tmp_path: Path
) -> None:
    found = trained([events_of(rhythm(1_500), minutes=minutes)], tmp_path / "load", budget=asked).errors.novelty
    assert found is not None
    assert found.windows["a"] == windows


def test_with_a_longer_stride_as_many_events_count(tmp_path: Path) -> None:
    found = trained([events_of(rhythm(3_000), minutes=30)], tmp_path / "load", stride=8).errors.novelty
    assert found is not None
    assert found.windows["a"] == RANKED / 8


def test_without_partners_and_of_several_features_nothing_learns_on(tmp_path: Path) -> None:
    assert trained([events_of(rhythm(1_500))], tmp_path / "alone", partners=False).errors.novelty is None
    both = events_of(rhythm(1_500))
    both = replace(both, values=np.stack([rhythm(1_500), rhythm(1_500, 1)], axis=1))
    train([both], ("load", "more"), OPTIONS, tmp_path / "both", session=Session(pictures=False))
    assert load_bundle(tmp_path / "both").errors.novelty is None


def write(values: Float32, file: Path) -> Path:
    lines = [
        json.dumps({"sensor_id": "a", "timestamp": START + (3_000 + at) * MINUTE, "values": {"load": float(value)}})
        for at, value in enumerate(values)
    ]
    file.write_text("\n".join(lines))
    return file


@pytest.fixture(scope="module")
def stream() -> Float32:
    values = rhythm(2_000, 1)
    for at, size in ((900, 1.0), (1_200, 0.9)):  # with the noise, one of the same size may be a little larger
        values[at : at + len(RIPPLE)] += size * RIPPLE
    return values


@pytest.fixture(scope="module")
def replayed(bundle: Bundle, stream: Float32, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    data = write(stream, folder / "load.jsonl")
    done = invoke("replay", data, "--bundle", bundle.path, "--out", folder / "out")
    assert done.code == 0
    return folder


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_what_is_new_is_told_once_through_the_pipeline(replayed: Path, stream: Float32) -> None:
    alerts = lines_of(replayed / "out" / "alerts.jsonl")
    first = alerts[0]
    assert (first["status"], first["part"]) == ("firing", "novelty")
    assert 900 <= first["source"]["last_offset"] < 900 + LENGTH
    assert 18 < first["expected"]["load"] < 22
    fired = [alert for alert in alerts if alert["revision"] == 1]
    assert not any(1_200 <= alert["source"]["last_offset"] < 1_200 + LENGTH for alert in fired), "it is known by now"
    assert len(fired) <= 3
    scores = {line["source"]["last_offset"]: line for line in lines_of(replayed / "out" / "scores.jsonl")}
    told = scores[first["source"]["last_offset"]]
    assert (told["part"], told["contributions"]) == ("novelty", {"load": 1.0})
    assert told["score"] == pytest.approx(told["error"] / told["threshold"], rel=1e-5)


def test_the_detector_gives_the_scores_that_replay_gives(bundle: Bundle, replayed: Path, stream: Float32) -> None:
    detector = Detector(bundle)
    count = 960
    found = [
        score
        for at, value in enumerate(stream[:count])
        for score in detector.update("a", START + (3_000 + at) * MINUTE, {"load": float(value)})
    ]
    wanted = lines_of(replayed / "out" / "scores.jsonl")[: len(found)]
    assert [one.part for one in found] == [line["part"] for line in wanted]
    assert "novelty" in {one.part for one in found}
    np.testing.assert_allclose([one.score for one in found], [line["score"] for line in wanted], rtol=1e-4)


def test_an_alert_of_it_that_is_explained_holds(bundle: Bundle, replayed: Path) -> None:
    alerts = replayed / "out" / "alerts.jsonl"
    id_ = lines_of(alerts)[0]["id"]
    data = replayed / "load.jsonl"
    given = ("--bundle", bundle.path, "--alerts", alerts, "--data", data, "--out", replayed / "explained")
    done = invoke("explain", id_, *given)
    assert done.code == 0, done.out + done.err
    assert "the verdict holds" in done.out


@pytest.mark.parametrize("asked", [2.0, None])
def test_evaluate_names_the_whole_budget(asked: float | None, stream: Float32, tmp_path: Path) -> None:
    made = trained([events_of(rhythm(1_500))], tmp_path / "load", budget=asked)
    done = invoke("evaluate", write(stream, tmp_path / "load.jsonl"), "--bundle", made.path)
    assert done.code == 0, done.err
    wanted = made.manifest.expected_alerts_per_day if asked is None else asked
    assert f"budget {wanted:.3g} false alarms" in " ".join(done.out.split())


def test_a_limit_on_alerts_is_learnt_with_it(bundle: Bundle) -> None:
    limits = Detector(bundle, Settings(alerts=Alerts())).criteria.alerts.common
    assert limits.limit == 2

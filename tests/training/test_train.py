"""From events to a bundle that scores as it was calibrated, the same every time."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from stream_detector.adapters.keras.scorer import KerasScorer, load_model
from stream_detector.bundle import Bundle, load_bundle
from stream_detector.contents import ErrorKind
from stream_detector.errors import DataError, SettingsError
from stream_detector.events import Events, Partition, Slice
from stream_detector.sensors import Rules
from stream_detector.windows import windows_of
from training.calibrate import calibrate
from training.data import read
from training.options import Session
from training.progress import shown
from training.report import Summary
from training.split import Part
from training.train import TrainOptions, train

START = 1_795_168_800_000
OPTIONS = TrainOptions(length=8, stride=2, units=(6,), epochs=3, batch=64, seed=5, budget=2.0)
UNDRAWN = Session(pictures=False)
NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)


def events(count: int, sensors: int = 3, features: int = 3, seed: int = 0, first: int = 0) -> Events:
    """A wave, noise and a constant, one event a minute and sensor, some values missing."""
    rng = np.random.default_rng(seed)
    step = np.arange(count) // sensors
    wave, noise = np.sin(step / 4) + rng.normal(0, 0.1, count), 100 + rng.normal(0, 5, count)
    values = np.stack([wave, noise, np.full(count, 7.0)], axis=1)[:, :features].astype(np.float32)
    values[::50, features // 2] = np.nan
    names = [f"s{first + at % sensors}" for at in range(count)]
    return Events(names, START + step * 60_000, values, np.arange(count), np.full(count, -1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Summary, str]:
    out = tmp_path_factory.mktemp("trained") / "pumps"
    lines = io.StringIO()
    with shown(lines) as progress:
        summary = train([events(3000)], ["wave", "noise", "still"], OPTIONS, out, progress, {"wave": "bar"}, NOW)
    return load_bundle(out), summary, lines.getvalue()


def test_the_bundle_says_what_it_is(trained: tuple[Bundle, Summary, str]) -> None:
    bundle, summary, _ = trained
    made = bundle.manifest
    assert (made.name, made.kind, made.features, made.length, made.stride) == (
        "pumps",
        "lstm",
        ("wave", "noise", "still"),
        8,
        2,
    )
    assert made.sensors == ("s0", "s1", "s2")
    assert made.span == ("2026-11-20T10:00:00.000Z", "2026-11-21T02:39:00.000Z")
    assert made.units == {"wave": "bar"}
    assert made.means[2] == 7.0
    assert made.longest_window == 7 * made.intervals[""]
    assert made.longest_windows == dict.fromkeys(made.sensors, made.longest_window)
    assert made.version == summary.version
    assert made.seed == 5
    assert made.libraries.keys() >= {"keras", "numpy"}
    assert made.expected_alerts_per_day == pytest.approx(2.0, rel=0.01)


def test_the_report_can_be_read(trained: tuple[Bundle, Summary, str]) -> None:
    bundle, summary, _ = trained
    folder = bundle.path / "report"
    pictures = {file.name for file in folder.glob("*.png")}
    inside = {"codes.png", "model.png", "generated.png"}
    assert pictures == {"loss.png", "errors.png", "window-normal.png", "window-worst.png"} | inside
    assert all(
        file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 5_000 for file in folder.glob("*.png")
    )
    told = json.loads((folder / "summary.json").read_text())
    assert told["windows"] == summary.windows
    assert sum(told["windows"].values()) + told["left_out"] == sum(len(w) for w in windows_of([events(3000)], _rules()))
    text = (folder / "summary.txt").read_text()
    assert "never changed while the model learnt: still" in text
    assert "expected per sensor and day" in text


def _rules() -> Rules:
    return Rules(("wave", "noise", "still"), 8, 2, (0.0, 100.0, 7.0))


def test_progress_is_plain_lines_without_a_terminal(trained: tuple[Bundle, Summary, str]) -> None:
    lines = trained[2].splitlines()
    assert lines[0].startswith("fit 1/3  loss ")
    assert lines[-1] == "report 1/1"


def test_the_service_scores_as_training_did(trained: tuple[Bundle, Summary, str], tmp_path: Path) -> None:
    """Errors of the calibration, made again from the same model; then from the loaded bundle, on both backends."""
    bundle = trained[0]
    data = read([events(3000)], _rules(), OPTIONS.seed)
    found = calibrate(load_model(bundle), bundle.scaler, data, OPTIONS)
    places = np.flatnonzero(data.parts == Part.THRESHOLDS)
    values = np.concatenate([windows for _, windows in data.values(data.parts == Part.THRESHOLDS)])
    sensors = data.sensors(places)
    wanted = found.judge.errors(sensors, values).score
    np.testing.assert_allclose(found.scores[places], wanted, rtol=1e-5)
    scorer = KerasScorer(bundle, 64)
    scorer.load()
    np.testing.assert_allclose(scorer.score(sensors, values).score, wanted, rtol=1e-5)
    assert found.thresholds.values == pytest.approx(bundle.thresholds.values, rel=1e-5)

    np.savez(tmp_path / "windows.npz", values=values, sensors=np.array(sensors), wanted=wanted)
    other = "jax" if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow" else "tensorflow"
    code = """
import sys, numpy as np, keras
from pathlib import Path
from stream_detector.adapters.keras.scorer import KerasScorer
from stream_detector.bundle import load_bundle
assert keras.backend.backend() == sys.argv[3]
given = np.load(sys.argv[2])
scorer = KerasScorer(load_bundle(Path(sys.argv[1])), 256)
scorer.load()
scorer.warm()
found = scorer.score(given["sensors"].tolist(), given["values"])
np.testing.assert_allclose(found.score, given["wanted"], rtol=1e-5)
np.testing.assert_allclose(found.contributions.sum(axis=1), 1, rtol=1e-5)
assert scorer.expect([""] * len(given["values"]), given["values"]).shape == given["values"].shape
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle.path), str(tmp_path / "windows.npz"), other],
        env={**os.environ, "KERAS_BACKEND": other, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_training_again_gives_the_same_weights(trained: tuple[Bundle, Summary, str], tmp_path: Path) -> None:
    first = load_model(trained[0]).get_weights()
    for seed, same in ((5, True), (6, False)):
        options = TrainOptions(**{**_plain(OPTIONS), "seed": seed})  # type: ignore[arg-type]
        train([events(3000)], ["wave", "noise", "still"], options, tmp_path / f"again{seed}", session=UNDRAWN)
        again = load_bundle(tmp_path / f"again{seed}")
        weights = load_model(again).get_weights()
        assert all(a.tobytes() == b.tobytes() for a, b in zip(first, weights, strict=True)) is same
        assert (again.thresholds == trained[0].thresholds) is same


def _plain(options: TrainOptions) -> dict[str, object]:
    return {name: getattr(options, name) for name in options.__dataclass_fields__}


def test_a_fault_stands_out(trained: tuple[Bundle, Summary, str]) -> None:
    scorer = KerasScorer(trained[0], 64)
    scorer.load()
    (windows,) = windows_of([events(300, seed=9)], _rules())
    normal = scorer.score(windows.sensors, windows.values)
    assert (normal.score < 1).mean() > 0.95
    for feature, change in ((0, 8.0), (1, 80.0), (2, 1.0)):
        for step in (6, 7):  # the two that no earlier window held
            faulty = windows.values.copy()
            faulty[:, step, feature] += change
            found = scorer.score(windows.sensors, faulty)
            assert (found.score > 1).mean() > 0.95
            assert (found.contributions.argmax(axis=1) == feature).mean() > 0.9
            assert (found.worst_step >= 6).all()


def test_one_sensor_one_feature_and_other_errors(tmp_path: Path) -> None:
    kinds: tuple[ErrorKind, ...] = ("mahalanobis", "mae")
    for kind in kinds:
        options = TrainOptions(length=8, units=(3,), epochs=1, error=kind, threshold="quantile", budget=0.95)
        summary = train([events(300, 1, 1)], ["wave"], options, tmp_path / kind, session=UNDRAWN)
        assert summary.stride == 1
        assert summary.sensors == 1
        assert load_bundle(tmp_path / kind).errors.kind == kind


def test_partitions_are_logs_of_their_own(tmp_path: Path) -> None:
    """Offsets of two partitions overlap; neither disturbs the other's windows. Windows beyond the cap are left out."""
    logs = [events(300, 2), events(300, 2, first=2)]
    slices = [Slice(Partition("t", at), 0, 300, log, []) for at, log in enumerate(logs)]
    options = TrainOptions(length=8, stride=4, units=(3,), epochs=1, max_windows=70)
    summary = train(slices, ["wave", "noise", "still"], options, tmp_path / "pumps", session=UNDRAWN)
    assert summary.sensors == 4
    assert summary.events == 600
    assert summary.windows["fit"] == 70
    assert summary.windows["validation"] == 10
    assert any("fitted on 70 of" in note and "--max-windows" in note for note in summary.notes)


def test_how_long_a_sensor_may_be_silent_is_told_by_its_own_windows_if_it_has_enough(tmp_path: Path) -> None:
    """Of two rates, and one that was hardly seen."""
    parts = []
    for sensor, count, interval in (("fast", 600, 1_000), ("slow", 600, 60_000), ("brief", 20, 1_000)):
        values = np.random.default_rng(count).normal(0, 1, (count, 2)).astype(np.float32)
        times, none = interval * np.arange(count, dtype=np.int64), np.full(count, -1)
        parts.append(Events([sensor] * count, times, values, np.arange(count), none))
    options = TrainOptions("dense", length=4, stride=1, units=(2,), epochs=1)
    train(parts, ("p", "q"), options, tmp_path / "bundle", session=Session(pictures=False))
    made = load_bundle(tmp_path / "bundle").manifest
    assert (made.longest_window, made.longest_windows) == (180_000, {"fast": 3_000, "slow": 180_000})


def test_events_of_many_short_sensors(tmp_path: Path) -> None:
    options = TrainOptions(length=8, units=(3,), epochs=1)
    summary = train([events(320, 32)], ["wave", "noise", "still"], options, tmp_path / "pumps", session=UNDRAWN)
    assert summary.sensors == 32
    assert min(summary.windows.values()) > 0


def test_too_little_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs \d+ rows or more"):
        train([events(20, 1)], ["wave", "noise", "still"], OPTIONS, tmp_path / "pumps")
    with pytest.raises(DataError, match="no events"):
        train([], ["wave"], OPTIONS, tmp_path / "pumps")
    nothing = events(300, 1)
    nothing.values[:, 1] = np.nan
    with pytest.raises(DataError, match="feature noise has no value"):
        train([nothing], ["wave", "noise", "still"], OPTIONS, tmp_path / "pumps")
    with pytest.raises(DataError, match="3 features, 1 were named: wave"):
        train([events(300)], ["wave"], OPTIONS, tmp_path / "pumps")
    assert not (tmp_path / "pumps").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("kind", "gru"),
        ("length", 1),
        ("stride", 0),
        ("epochs", 0),
        ("units", ()),
        ("budget", 0.0),
        ("learning_rate", 0.0),
    ],
)
def test_senseless_options(tmp_path: Path, option: str, value: object) -> None:
    with pytest.raises(SettingsError) as caught:
        train([], ["a"], TrainOptions(**{option: value}), tmp_path / "pumps")  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)

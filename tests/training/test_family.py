"""Every kind of autoencoder, from ``--model`` to scores of the service's own code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_detector import Detector, load_bundle
from stream_detector.bundle import Bundle
from stream_detector.errors import SettingsError
from stream_detector.events import Events, Float32
from stream_detector.settings import Device, Settings
from tests.commandline import invoke
from training import events as table
from training import traffic
from training.autoencoders import FAMILY, WRAPPERS, architecture
from training.autoencoders.head import Head
from training.options import Session
from training.train import TrainOptions, train

LENGTH, STRIDE = 8, 4
UNDRAWN = Session(pictures=False)
SMALL = {  # units, so that a test takes seconds
    "lstm": (8,),
    "dense": (16, 4),
    "dense-l2": (8,),
    "rnn-classifier": (8, 4),
    "seq2seq": (8,),
    "aer": (4,),
    "forecast": (8,),
    "lstm-context": (16, 12, 6),
    "stacked": (16, 4),
}
SCORES = """
import sys, numpy as np, keras
from stream_detector.adapters.keras.scorer import KerasScorer
from stream_detector.bundle import load_bundle
assert keras.backend.backend() == sys.argv[1]
for folder in sys.argv[2:]:
    given = np.load(f"{folder}/given.npz")
    scorer = KerasScorer(load_bundle(f"{folder}/bundle"), 64)
    scorer.load()
    found = scorer.score([""] * len(given["values"]), given["values"])
    np.testing.assert_allclose(found.score, given["score"], rtol=2e-4, err_msg=folder)
    np.testing.assert_allclose(found.contributions, given["contributions"], atol=2e-3, err_msg=folder)
    assert (found.worst_step == given["worst"]).mean() > 0.9, folder
"""


def waves(count: int = 1_200, seed: int = 1) -> Events:
    """Three features that go together: two phases of a wave, and their product."""
    rng = np.random.default_rng(seed)
    phase = np.arange(count) / 6
    values = np.stack([np.sin(phase), np.cos(phase), np.sin(phase) * np.cos(phase)], axis=1)
    return Events(
        ["wave"] * count,
        np.arange(count, dtype=np.int64) * 1_000,
        (10 + values + rng.normal(0, 0.02, values.shape)).astype(np.float32),
        np.arange(count, dtype=np.int64),
        np.full(count, -1, np.int64),
    )


def windows(count: int = 60) -> Float32:
    values = waves(seed=2).values
    return np.stack([values[at : at + LENGTH] for at in range(0, count * STRIDE, STRIDE)])


@pytest.mark.parametrize("name", [*FAMILY, "denoising", "sparse+dense", "denoising+contractive+dense", "l2+dense"])
def test_each_kind_is_trained_saved_loaded_and_tells_odd_windows_from_others(name: str, tmp_path: Path) -> None:
    base = name.split("+")[-1]
    units = SMALL.get(base, (8,))
    options = TrainOptions(
        kind=name, length=LENGTH, stride=STRIDE, units=units, epochs=12, learning_rate=1e-2, budget=5.0,
        partners=False,  # the model alone
    )  # fmt: skip
    drawn = Session(pictures="+" not in name)  # of each model, not of each way to train it
    summary = train([waves()], ("a", "b", "c"), options, tmp_path / "bundle", session=drawn)
    bundle = load_bundle(tmp_path / "bundle")
    assert (bundle.manifest.kind, bundle.manifest.version) == (name, summary.version)
    detector = Detector(bundle, Settings(device=Device(max_batch_windows=16)))
    normal = windows()
    odd = normal.copy()
    odd[:, :, 1] = odd[:, ::-1, 1] + 1.5  # the second feature runs backwards, and too high
    usual, strange = detector.score(normal).score, detector.score(odd).score
    assert np.isfinite(usual).all()
    assert np.mean(strange[:, None] > usual) > 0.9  # the area under the ROC curve


@pytest.mark.parametrize("name", [*FAMILY, "denoising+stacked"])
def test_each_kind_s_encoder_can_be_fine_tuned(name: str, tmp_path: Path) -> None:
    """Anomalies that reconstruction alone is not told of: labels of one event each, windows labelled as their last."""
    head: Head = "sigmoid" if name in ("dense", "lstm") else "softmax"
    bundle = taught(tmp_path, name, head, epochs=12)
    assert (bundle.manifest.state, bundle.manifest.output, bundle.errors.kind) == (
        "fine_tuned",
        "probability",
        "probability",
    )
    detector = Detector(bundle, Settings(device=Device(max_batch_windows=64)))
    usual, strange = detector.score(windows(60)), detector.score(lifted(60))
    assert np.mean(strange.score[:, None] > usual.score) > 0.9
    np.testing.assert_allclose(strange.contributions.sum(axis=1), 1, rtol=1e-4)
    assert np.isnan(detector.scorer.expect([""] * 2, windows(2))).all()


def lifted(count: int) -> Float32:
    """Windows whose second half has a third feature that is too high."""
    values = windows(count).copy()
    values[:, LENGTH // 2 :, 2] += 1.0
    return values


def labelled() -> Events:
    """Waves with episodes of a third feature that is too high, labelled in a column of their own."""
    events = waves(1_600)
    odd = np.arange(1_600) % 80 >= 70
    values = np.column_stack([events.values, odd]).astype(np.float32)
    values[odd, 2] += 1.0
    return Events(events.sensors, events.timestamps, values, events.offsets, events.arrivals)


def taught(folder: Path, name: str, head: Head = "softmax", epochs: int = 8, **more: Any) -> Bundle:
    units = SMALL[name.split("+")[-1]]
    options = TrainOptions(
        kind=name, length=LENGTH, stride=1, units=units, epochs=epochs, learning_rate=1e-2, budget=5.0, head=head,
        label="odd", **({"fine_tune": True} | more),
    )  # fmt: skip
    train([labelled()], ("a", "b", "c"), options, folder / "bundle", session=UNDRAWN)
    return load_bundle(folder / "bundle")


def notes(bundle: Path) -> str:
    return (bundle / "report" / "summary.txt").read_text()


def test_without_fine_tuning_labels_leave_anomalies_out(tmp_path: Path) -> None:
    found = taught(tmp_path, "dense", fine_tune=False, partners=False)
    assert (found.manifest.state, found.manifest.output) == ("pretrained", "window")
    assert "windows hold anomalous events (odd): left out" in notes(found.path)
    detector = Detector(found, Settings(device=Device(max_batch_windows=64)))
    assert (detector.score(lifted(60)).score > detector.score(windows(60)).score.max()).mean() > 0.9
    assert detector.scorer.expect([""] * 2, windows(2)).shape == (2, LENGTH, 3)
    assert np.isfinite(found.scaler.scale).all()
    assert found.scaler.scale[2] < 1.3  # of 0..1 units: values that are too high would have widened it by another 1


def test_labels_do_not_reach_the_model(tmp_path: Path) -> None:
    """It takes the features alone, and a column of labels that are unknown changes nothing."""
    found = taught(tmp_path, "dense", epochs=1)
    assert found.manifest.features == ("a", "b", "c")
    assert len(found.manifest.means) == len(found.scaler.center) == 3
    detector = Detector(found, Settings(device=Device(max_batch_windows=64)))
    assert detector.score(windows(1)).contributions.shape == (1, 3)
    blank = labelled().values.copy()
    blank[:, 3] = np.nan
    blank[0, 3] = 0
    plain = waves(1_600)
    made = {}
    for name, values, label in (("with", blank, "odd"), ("without", blank[:, :3], None)):
        events = Events(plain.sensors, plain.timestamps, values, plain.offsets, plain.arrivals)
        options = TrainOptions(kind="dense", length=LENGTH, units=(8, 2), epochs=1, label=label)
        train([events], ("a", "b", "c"), options, tmp_path / name, session=UNDRAWN)
        made[name] = load_bundle(tmp_path / name)
    assert made["with"].thresholds == made["without"].thresholds
    assert made["with"].scaler == made["without"].scaler


def test_both_backends_score_and_attribute_alike(tmp_path: Path) -> None:
    values = np.concatenate([windows(20), lifted(20)])
    folders = [tmp_path / name for name in ("lstm-context", "rnn-classifier")]
    for folder in folders:
        folder.mkdir()
        bundle = taught(folder, folder.name, fine_tune=folder.name != "lstm-context", epochs=3)
        scorer = Detector(bundle, Settings(device=Device(max_batch_windows=64))).scorer
        scorer.load()
        found = scorer.score([""] * 40, values)
        given = folder / "given.npz"
        np.savez(given, values=values, score=found.score, contributions=found.contributions, worst=found.worst_step)
    other = "jax" if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow" else "tensorflow"
    done = subprocess.run(
        [sys.executable, "-c", SCORES, other, *map(str, folders)],
        env={**os.environ, "KERAS_BACKEND": other, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_event_table_is_trained_on_by_the_command(tmp_path: Path) -> None:
    made = table.write_events(tmp_path, sensors=12, days=2, seed=3, alert_share=0.25)
    config = tmp_path / "settings.toml"
    config.write_text('[columns]\nlabel = "10_days_alert_label"\n')
    line = ("train", made.path, "--config", config, "--model", "lstm", "--units", 8, "--window", 16, "--epochs", 2)
    for name, more, state in (
        ("plain", (), "pretrained"),
        ("tuned", ("--fine-tune", "--head", "sigmoid"), "fine_tuned"),
    ):
        done = invoke(*line, "--out", tmp_path / name, *more)
        assert done.code == 0, done.err
        manifest = load_bundle(tmp_path / name).manifest
        assert manifest.features == ("feature_1", "feature_2")
        assert manifest.state == state
        assert "windows hold anomalous events (10_days_alert_label)" in notes(tmp_path / name)
    replayed = invoke(
        "replay", made.path, "--config", config, "--bundle", tmp_path / "tuned", "--out", tmp_path / "found"
    )
    assert replayed.code == 0, replayed.err
    assert "events" in replayed.out


def test_network_traffic_is_learnt_by_the_command(tmp_path: Path) -> None:
    made = traffic.write_traffic(tmp_path / "flows.csv", flows=6_000, hosts=3, share=0.15, seed=5)
    done = invoke(
        *("train", tmp_path / "flows.csv", "--label", "label", "--fine-tune", "--model", "rnn-classifier"),
        *("--units", "32,16,8", "--window", 3, "--stride", 1, "--epochs", 12, "--out", tmp_path / "bundle"),
    )
    assert done.code == 0, done.err
    assert "of them anomalous" in notes(tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    assert (bundle.manifest.state, len(bundle.manifest.features)) == ("fine_tuned", 79)
    detector = Detector(bundle, Settings(device=Device(max_batch_windows=1_024)))
    hosts = np.array(made.hosts)
    rows = [own[at : at + 3] for host in set(made.hosts) for own in [np.flatnonzero(hosts == host)]
            for at in range(len(own) * 4 // 5, len(own) - 3)]  # fmt: skip
    places = np.stack(rows)
    scores = detector.score(made.values[places].astype(np.float32)).score
    truth = made.labels[places[:, -1]] == 1
    assert np.mean(scores[truth][:, None] > scores[~truth]) > 0.97
    assert (scores[truth] >= 1).mean() > 0.9
    assert (scores[~truth] >= 1).mean() < 0.01
    config = tmp_path / "settings.toml"
    config.write_text('[columns]\nlabel = "label"\n')
    header, *flows = (tmp_path / "flows.csv").read_text().splitlines(keepends=True)
    (tmp_path / "late.csv").write_text("".join([header, *flows[-1_000:]]))
    done = invoke("replay", tmp_path / "late.csv", "--config", config, "--bundle", bundle.path, "--out", tmp_path)
    assert done.code == 0, done.err
    alerts = [json.loads(line) for line in (tmp_path / "alerts.jsonl").read_text().splitlines()]
    assert any(alert["status"] == "firing" and "stands out most" in alert["summary"] for alert in alerts)
    assert all(alert["expected"] == {} for alert in alerts)  # a probability expects no values


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--fine-tune",), "--fine-tune needs labels"),
        (("--label", "label", "--head", "tanh"), "head = tanh will not do; give softmax or sigmoid"),
        (("--label", "feature_1"), "column 'feature_1' holds"),
        (("--label", "nothing"), "no event has a label in column 'nothing'"),
        (("--model", "lstm-context", "--units", "8"), "number of units = 1 will not do; give 2 or more"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    made = table.write_events(tmp_path, sensors=2, days=1)
    config = tmp_path / "settings.toml"
    config.write_text('[columns]\nignored = ["10_days_alert_label"]\n')
    done = invoke("train", made.path, "--config", config, "--out", tmp_path / "bundle", *arguments)
    assert done.code == 2
    assert told in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lsm", "model 'lsm' is not known; use one of lstm"),
        ("dense+denoising+lstm", "is not known"),
        ("denoising+", "is not known"),
        ("", "is not known"),
        ("denoising+lstm-context", "lstm-context has a way of training of its own"),
        ("sparse+seq2seq", "seq2seq has a way of training of its own"),
    ],
)
def test_names_that_make_no_sense(name: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told.replace("+", r"\+")):
        architecture(name)


def test_wrappers_add_up() -> None:
    wrapping = architecture("denoising+contractive+dense").wrapping
    assert wrapping is not None
    assert (wrapping.noise, wrapping.contraction, wrapping.sparse_weight) == (
        WRAPPERS["denoising"]["noise"], WRAPPERS["contractive"]["contraction"], 0,
    )  # fmt: skip


def test_rows_alone_can_be_windows_of_a_dense_model(tmp_path: Path) -> None:
    options = TrainOptions(kind="dense", length=1, stride=1, units=(8, 2), epochs=5, learning_rate=1e-2, budget=50.0)
    train([waves()], ("a", "b", "c"), options, tmp_path / "bundle", session=UNDRAWN)
    detector = Detector(load_bundle(tmp_path / "bundle"), Settings(device=Device(max_batch_windows=16)))
    [score] = detector.update("wave", 0, {"a": 10.0, "b": 11.0, "c": 10.0})
    assert (score.events, score.window_start) == (1, score.window_end)


def test_other_kinds_want_longer_windows(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="window = 1 will not do; give 2 or more"):
        train([waves()], ("a", "b", "c"), TrainOptions(length=1, stride=1), tmp_path / "bundle")

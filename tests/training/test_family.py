"""Every kind of autoencoder, from ``--model`` to scores of the service's own code."""

from __future__ import annotations

import csv
import json
import os
import signal
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
from tests.commandline import invoke, lines
from tests.servers import KafkaBroker
from tests.service import (
    RunningService,
    committed_records,
    comparable,
    json_values,
    produce,
    score_count,
    write_config,
)
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
    "seq2seq-unit": (8,),
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


FAULT = slice(250, 290)  # rows of the stream


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of waves to learn from, of a stream whose feature b swings for a while, and of settings."""
    folder = tmp_path_factory.mktemp("waves")
    (folder / "settings.toml").write_text('[columns]\nlabel = "odd"\n')
    for name, count, seed in (("normal", 800, 1), ("stream", 400, 2)):
        values, odd = waves(count, seed).values.copy(), np.zeros(count, int)
        if name == "stream":
            values[FAULT, 1] += np.random.default_rng(3).choice([-6.0, 6.0], FAULT.stop - FAULT.start)
            odd[FAULT] = 1
        rows = (f"wave,{at * 60_000},{a:.4f},{b:.4f},{c:.4f},{odd[at]}" for at, (a, b, c) in enumerate(values.tolist()))
        (folder / f"{name}.csv").write_text("\n".join(["sensor_id,timestamp,a,b,c,odd", *rows]) + "\n")
    return folder


AROUND = ("denoising", "denoising+seq2seq", "sparse+aer", "contractive+dense", "l2+lstm-context", "denoising+stacked")


@pytest.mark.parametrize("name", [*FAMILY, *AROUND])
def test_each_kind_alerts_from_the_command_line(
    name: str, files: Path, tmp_path: Path, kafka_broker: KafkaBroker, redis_url: str
) -> None:
    """With all parts of the score: train, replay a gross fault, which `evaluate` does, and compare with its label.

    A service says the same of the same events.
    """
    units = SMALL.get(name.rpartition("+")[2], (8,))
    settings, bundle = ("--config", files / "settings.toml"), tmp_path / "bundle"
    done = invoke(
        *("train", files / "normal.csv", *settings, "--out", bundle, "--model", name, "--window", LENGTH),
        *("--stride", STRIDE, "--units", ",".join(map(str, units)), "--epochs", 2),
        *("--learning-rate", 0.01, "--batch", 32, "--patience", 1),
    )
    assert done.code == 0, done.err
    made = load_bundle(bundle)
    assert (made.manifest.kind, made.errors.kind != "probability") == (name, True)
    assert ("val_mse" in made.manifest.metrics) is ("mse" in architecture(name).metrics)
    assert (" val_mse " in notes(bundle)) is ("mse" in architecture(name).metrics)
    told = ("--bundle", bundle, "--labels", "odd", "--out", tmp_path)
    done = invoke("evaluate", files / "stream.csv", *settings, *told)
    assert done.code == 0, done.err
    alerts = lines(tmp_path / "alerts.jsonl")
    worst = max(alerts, key=lambda alert: float(alert["score"]))
    assert worst["score"] > 2
    assert max(worst["contributions"], key=worst["contributions"].get) == "b"
    [line] = json.loads((tmp_path / "evaluation.json").read_text())["lines"]
    assert line["name"] == f"bundle ({name})"
    assert line["event_recall"] == 1  # under alert within the fault
    assert line["pr_auc"] > 0.5  # a tenth of the rows is what chance gives
    assert comparable(served(kafka_broker, redis_url, bundle, files)) == comparable(alerts)


def served(broker: KafkaBroker, redis_url: str, bundle: Path, files: Path) -> list[dict[str, Any]]:
    """The alerts of a service over the stream of ``files``."""
    name = bundle.parent.name
    broker.create_topics({f"{name}-{kind}": 1 for kind in ("events", "scores", "alerts", "dead_letters")})
    config = write_config(bundle.parent, name, broker.bootstrap, redis_url, bundle, columns={"label": "odd"})
    with (files / "stream.csv").open() as file:
        numbers = [{key: float(row[key]) for key in row if key != "sensor_id"} for row in csv.DictReader(file)]
    events = [json.dumps(row | {"sensor_id": "wave", "timestamp": int(row["timestamp"])}).encode() for row in numbers]
    produce(broker.bootstrap, f"{name}-events", [(b"wave", event) for event in events], partitions=1)
    service, windows = RunningService(config), (len(events) - LENGTH) // STRIDE + 1
    assert service.here(lambda: score_count(service) == windows, "all windows").code == 128 + signal.SIGTERM
    return json_values(committed_records(broker.bootstrap, f"{name}-alerts"))


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


def evaluated(data: Path, bundle: Path, label: str, *more: object) -> dict[str, Any]:
    """What `evaluate` says of a bundle, with `share` for the share of what is anomalous."""
    done = invoke("evaluate", data, "--bundle", bundle, "--labels", label, "--out", bundle.parent / "told", *more)
    assert done.code == 0, done.err
    told = json.loads((bundle.parent / "told" / "evaluation.json").read_text())
    found: dict[str, Any] = told["lines"][0]
    return found | {"share": told["anomalous"] / told["sensors" if told["labels_per"] == "sensor" else "rows"]}


def test_the_event_table_by_its_commands(tmp_path: Path) -> None:
    """The mission's shape: one sensor in twenty had an alert in ten days, judged on sensors that were not learnt from.

    Events are rarer than in a table as it comes. A label is of a whole sensor, most of whose windows show nothing.
    """
    label, thin = "10_days_alert_label", {"sensors": 60, "period_ms": 1_280_000}
    learn = table.write_events(tmp_path / "events.csv", seed=1, **thin)
    other = table.write_events(tmp_path / "others.csv", seed=2, first=1_001, **thin)
    config = tmp_path / "settings.toml"
    config.write_text(f'[columns]\nlabel = "{label}"\n')
    line = (
        "train",
        learn.path,
        "--config",
        config,
        "--model",
        "forecast",
        "--units",
        16,
        "--window",
        16,
        "--stride",
        4,
    )
    for more, state, least in (((), "pretrained", 8), (("--fine-tune", "--head", "sigmoid"), "fine_tuned", 3)):
        bundle = tmp_path / state
        done = invoke(*line, "--epochs", 6, "--learning-rate", 0.003, "--out", bundle, *more)
        assert done.code == 0, done.err
        manifest = load_bundle(bundle).manifest
        assert (manifest.features, manifest.state) == (("feature_1", "feature_2"), state)
        assert f"windows hold anomalous events ({label})" in notes(bundle)
        found = evaluated(other.path, bundle, label, "--config", config, "--labels-per", "sensor")
        assert found["share"] == table.ALERT_SHARE
        assert found["pr_auc"] > least * found["share"]  # the share is what chance gives


def test_network_traffic_by_its_commands(tmp_path: Path) -> None:
    """As many attacks as the generator states; judged on flows of another seed."""
    learn, other = tmp_path / "flows.csv", tmp_path / "later.csv"
    traffic.write_traffic(learn, flows=8_000, hosts=4, seed=2)
    traffic.write_traffic(other, flows=4_000, hosts=4, seed=4)
    line = ("train", learn, "--label", "label", "--model", "rnn-classifier", "--units", "32,16,8", "--window", 3)
    for more, state, least in (((), "pretrained", 0.15), (("--fine-tune",), "fine_tuned", 0.6)):
        bundle = tmp_path / state
        done = invoke(*line, "--stride", 1, "--epochs", 8, "--learning-rate", 0.003, "--out", bundle, *more)
        assert done.code == 0, done.err
        manifest = load_bundle(bundle).manifest
        assert (manifest.state, len(manifest.features)) == (state, 79)
        found = evaluated(other, bundle, "label")
        assert found["share"] == traffic.ATTACK_SHARE
        assert found["pr_auc"] > least
    assert "of them anomalous" in notes(tmp_path / "fine_tuned")
    alerts = lines(tmp_path / "told" / "alerts.jsonl")
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
        (("--stop-gradient",), "--stop-gradient is for lstm-context, whose target is learnt too, not for lstm"),
        (("--learning-rate", "0"), "learning_rate = 0.0 will not do; give a number above 0"),
        (("--learning-rate", "inf"), "learning_rate = inf will not do; give a number above 0"),
        (("--patience", "-1"), "patience = -1 will not do; give 0 or more"),
        (("--batch", "0"), "batch = 0 will not do; give 1 or more"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    made = table.write_events(tmp_path / "events.csv", sensors=2, days=1)
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

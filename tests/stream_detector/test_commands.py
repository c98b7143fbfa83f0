"""What the commands do when nothing is wrong: train, replay, demo."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import pytest

from tests.commandline import Done, Run, invoke, lines, rows
from tests.servers.process import free_port
from tests.service import DEADLINE, command
from training.plant import FEATURES, KINDS, Plant

W = 16  # of the bundle


@pytest.fixture
def run() -> Run:
    return invoke


def weights(bundle: Path) -> str:
    """A digest of the numbers; the file also holds when it was written."""
    digest = hashlib.sha256()

    def add(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            digest.update(name.encode() + item[()].tobytes())

    with zipfile.ZipFile(bundle / "model.keras") as archive:
        h5py.File(io.BytesIO(archive.read("model.weights.h5"))).visititems(add)
    return digest.hexdigest()


def test_the_same_seed_gives_the_same_weights(run: Run, plant: Plant, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        options = ["--model", "dense", "--window", "8", "--stride", "8", "--epochs", "1", "--units", "2", "--seed", 5]
        done = run("train", plant.train, "--out", tmp_path / name, *options)
        assert done.code == 0, done.err
        assert str(tmp_path / name) in done.out
        found.append(weights(tmp_path / name))
    assert found[0] == found[1]


class Replayed(NamedTuple):
    out: Path
    done: Done
    good: list[dict[str, str]]


@pytest.fixture(scope="module")
def replayed(plant: Plant, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    """A replay of the stream with three rows in it that cannot be used."""
    good = rows(plant)
    text, late, short = ({**good[300], "timestamp": row["timestamp"]} for row in (good[300], good[0], good[300]))
    text["flow"] = "fast"
    folder = tmp_path_factory.mktemp("replayed")
    data = folder / "stream.csv"
    with data.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["sensor_id", "timestamp", *FEATURES], extrasaction="ignore")
        writer.writeheader()
        writer.writerows([*good[:301], text, late])
        file.write(f"{short['sensor_id']},{short['timestamp']},1\n")
        writer.writerows(good[301:])
    return Replayed(folder / "out", invoke("replay", data, "--bundle", bundle, "--out", folder / "out"), good)


def test_replay_gives_a_score_for_every_row_from_the_first_full_window_on(replayed: Replayed) -> None:
    assert replayed.done.code == 0, replayed.done.err
    assert replayed.done.err == ""
    scores = lines(replayed.out / "scores.jsonl")
    by_sensor = Counter(row["sensor_id"] for row in replayed.good)
    assert len(by_sensor) == 2
    assert Counter(score["sensor_id"] for score in scores) == {name: n - W + 1 for name, n in by_sensor.items()}
    for sensor in by_sensor:
        stamps = [row["timestamp"] for row in replayed.good if row["sensor_id"] == sensor]
        ends = [score["window_end"] for score in scores if score["sensor_id"] == sensor]
        starts = [score["window_start"] for score in scores if score["sensor_id"] == sensor]
        assert ends == stamps[W - 1 :]
        assert starts == stamps[: len(ends)]
    assert f" {len(scores)} windows, " in replayed.done.out
    assert " 3 rejected" in replayed.done.out


def test_replay_keeps_what_it_cannot_use(replayed: Replayed) -> None:
    letters = lines(replayed.out / "dead-letters.jsonl")
    assert [letter["errors.exception"] for letter in letters] == ["bad-value", "late", "bad-row"]
    assert "fast" in letters[0]["value"]


def test_replay_tells_alerts_as_they_come(replayed: Replayed) -> None:
    alerts = lines(replayed.out / "alerts.jsonl")
    assert alerts, "the planted fault was not found: no test of anything"
    for alert in alerts:
        assert alert["summary"] in replayed.done.out
    firing = [score for score in lines(replayed.out / "scores.jsonl") if score["state"] == "firing"]
    assert {score["sensor_id"] for score in firing} == {alert["sensor_id"] for alert in alerts}
    page = (replayed.out / "report.html").read_text()
    for row in replayed.good[:2]:
        assert row["sensor_id"] in page


def explained(replayed: Replayed, id_: str, bundle: Path, alerts: Path, data: Path | None = None) -> Done:
    options = ["--data", data or replayed.out.parent / "stream.csv", "--alerts", alerts]
    return invoke("explain", id_, "--bundle", bundle, *options, "--out", alerts.parent / "explained")


def changed(replayed: Replayed, folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """The replay's alerts, each changed."""
    path = folder / "alerts.jsonl"
    path.write_text("".join(json.dumps(change(one)) + "\n" for one in lines(replayed.out / "alerts.jsonl")))
    return path


def test_an_alert_that_is_explained_holds(replayed: Replayed, bundle: Path) -> None:
    alerts = lines(replayed.out / "alerts.jsonl")
    id_ = alerts[0]["id"]
    done = explained(replayed, id_, bundle, replayed.out / "alerts.jsonl")
    assert (done.code, done.err) == (0, ""), done.out
    assert "the verdict holds" in done.out
    assert "differs" not in done.out
    for alert in alerts:
        if alert["id"] == id_:
            assert f"revision {alert['revision']}, {alert['status']}" in done.out
            assert f"{alert['score']:.9g}" in done.out
    assert f"{max(alerts[0]['expected'].values()):.9g}" in done.out
    assert (replayed.out / "explained" / f"{id_}.png").read_bytes().startswith(b"\x89PNG")


def test_an_alert_that_was_tampered_with_does_not_hold(replayed: Replayed, bundle: Path, tmp_path: Path) -> None:
    alerts = changed(replayed, tmp_path, lambda alert: alert | {"score": alert["score"] * 1.001})
    done = explained(replayed, lines(alerts)[0]["id"], bundle, alerts)
    assert done.code == 1
    assert "the verdict does not hold" in done.out
    assert [line.split()[0] for line in done.out.splitlines() if "differs" in line][:1] == ["score"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"id": "0" * 32}, "no alert {id} in "),
        ({"model": {"name": "pumps", "version": "2"}}, "the alert was judged by pumps 2; give --bundle that version"),
        ({"kind": "silence"}, "no window was scored for it"),
        (
            {"source": {"topic": "files", "partition": 0, "first_offset": 0, "last_offset": 9}},
            "no longer make a window",
        ),
        ({"source": {"topic": "x", "partition": 0, "first_offset": 0, "last_offset": 9}}, "leave out --data"),
    ],
)
def test_an_alert_that_cannot_be_explained_says_why(
    change: dict[str, Any], told: str, replayed: Replayed, bundle: Path, tmp_path: Path
) -> None:
    id_ = lines(replayed.out / "alerts.jsonl")[0]["id"]
    done = explained(replayed, id_, bundle, changed(replayed, tmp_path, lambda alert: alert | change))
    assert done.code == 2
    assert told.format(id=id_) in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("pump-7",), "is no alert's id"),
        (("0" * 32, "--data", "x.csv"), "--data needs --alerts FILE"),
        (("0" * 32, "--since", "yesterday"), "--since yesterday: give a duration"),
        (("0" * 32, "--tolerance", "2"), "--tolerance 2.0: give a number"),
    ],
)
def test_what_explain_is_asked_wrongly(arguments: tuple[str, ...], told: str, run: Run) -> None:
    done = run("explain", *arguments)
    assert done.code == 2
    assert told in done.err


@pytest.fixture
def bare(plant: Plant, tmp_path: Path) -> Path:
    """A hundred rows of one pump: no header, no timestamps, no sensor."""
    pump = [row for row in rows(plant) if row["sensor_id"] == "pump-1"][:100]
    data = tmp_path / "boiler-7.csv"
    data.write_text("".join(",".join(row[name] for name in FEATURES) + "\n" for row in pump))
    return data


BARE = ("--columns", ",".join(FEATURES), "--period", "30s")


def test_replay_of_a_file_without_header_and_timestamps(bare: Path, bundle: Path, tmp_path: Path) -> None:
    options = ["--bundle", str(bundle), "--out", str(tmp_path / "out"), *BARE]
    line = [sys.executable, "-m", "stream_detector", "replay", str(bare), *options]
    loud = {name: value for name, value in os.environ.items() if name not in ("TF_CPP_MIN_LOG_LEVEL", "XLA_FLAGS")}
    done = subprocess.run(line, capture_output=True, text=True, timeout=DEADLINE, env=loud)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # TensorFlow says nothing either
    scores = lines(tmp_path / "out" / "scores.jsonl")
    assert len(scores) == 100 - W + 1
    assert {score["sensor_id"] for score in scores} == {"boiler-7"}
    assert [score["window_end"][11:19] for score in scores[:3]] == ["00:07:30", "00:08:00", "00:08:30"]


def test_a_second_replay_replaces_the_first(run: Run, bare: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for count in (100, 60):
        bare.write_text("".join(bare.read_text().splitlines(keepends=True)[:count]))
        assert run("replay", bare, "--bundle", bundle, "--out", out, *BARE).code == 0
        assert len(lines(out / "scores.jsonl")) == count - W + 1


def test_a_replay_that_is_stopped_says_so_and_keeps_what_it_has(
    run: Run, plant: Plant, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    over = threading.Event()

    def stop() -> None:
        while not (out / "position.json").exists():
            if over.wait(0.02):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    try:  # at this speed it would take a minute and a half
        done = run("replay", plant.stream, "--bundle", bundle, "--out", out, "--speed", "500")
    finally:
        over.set()
        thread.join()
    assert done.code == 128 + signal.SIGTERM
    assert (out / "report.html").exists()
    assert "Traceback" not in done.err


def test_a_replay_that_serves_stays_and_shows_what_it_saw(
    run: Run, plant: Plant, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, sensor = free_port(), plant.faults[0].sensor
    monkeypatch.setenv("STREAM_DETECTOR__PAGE__PORT", str(port))
    over = threading.Event()
    told: dict[str, Any] = {}

    def look() -> None:
        """Until the replay has ended and the model has been asked; then Ctrl-C."""
        while not over.wait(0.05):
            with suppress(OSError):
                url = f"http://127.0.0.1:{port}/stream?sensor={sensor}"
                with urllib.request.urlopen(url, timeout=DEADLINE) as stream:  # http on loopback
                    for line in stream:
                        told.update(json.loads(line[6:]) if line.startswith(b"data: ") else {})
                        ended = told.get("about", {}).get("state") == "the replay has ended"
                        if ended and told["sensor"]["features"][0]["expected"][-2] is not None:
                            over.set()
                            break
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        done = run("replay", plant.stream, "--bundle", bundle, "--out", tmp_path / "out", "--serve")
    finally:
        over.set()
        thread.join()
    assert (done.code, done.err) == (0, "")
    assert f"live page: http://127.0.0.1:{port}/" in done.out
    assert "the live page stays; Ctrl-C ends it" in done.out
    assert told["about"]["sensors"] == 2
    assert {one["id"] for one in told["overview"]["fleet"]} == {row["sensor_id"] for row in rows(plant)}
    alerts = {one["id"] for one in lines(tmp_path / "out" / "alerts.jsonl") if one["sensor_id"] == sensor}
    assert len(told["sensor"]["spans"]) == len(alerts) > 0
    scores = [one for one in lines(tmp_path / "out" / "scores.jsonl") if one["sensor_id"] == sensor]
    assert told["sensor"]["newest"]["score"] == scores[-1]["score"]
    assert told["sensor"]["worst"]["score"] == max(one["score"] for one in scores)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The real command, once."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return command("demo", "--out", out, COLUMNS="120"), out


@pytest.mark.timeout(900)  # with what it is set up with: a whole demo
def test_the_demo_tells_what_it_planted_and_what_it_found(
    demo: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, out = demo
    assert done.returncode == 0, done.stderr
    table = done.stdout.partition("found after")[2].splitlines()
    planted = {kind: [line for line in table if f" {kind} " in line] for kind in KINDS}
    assert {kind: len(found) for kind, found in planted.items()} == dict.fromkeys(KINDS, 1)
    assert sum("not found" in line for found in planted.values() for line in found) <= 1, done.stdout
    assert "false alarms in" in done.stdout
    assert "live page: http://127.0.0.1:" in done.stdout
    assert "Traceback" not in done.stderr
    for name in ("report.html", "scores.jsonl", "alerts.jsonl", "bundle/manifest.json"):
        assert (out / name).stat().st_size > 0

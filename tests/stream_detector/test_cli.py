"""The commands as a user runs them. Most run in this process, so that TensorFlow is imported once; what a user gets
wrong is one line on standard error and exit code 2, never a traceback.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commandline import Done, Run, invoke
from tests.service import DEADLINE, command
from training.plant import Plant


@pytest.fixture
def run() -> Run:
    return invoke


def mistake(done: Done) -> str:
    """The one line that a user's mistake is told in."""
    assert done.code == 2
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def broken(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to break."""
    return Path(shutil.copytree(bundle, tmp_path / "broken"))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


# -- help ------------------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    heavy = ["tensorflow", "keras", "jax", "numpy", "scipy", "pyarrow", "matplotlib", "kafka", "redis"]
    code = (
        "import sys; from stream_detector import cli\n"
        "sys.argv = ['stream-detector', 'run', '--help']\n"
        "try: cli.main()\n"
        f"finally: print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE)
    assert "--workers" in done.stdout
    assert done.stderr.strip() == "[]"


def test_it_runs_as_a_module() -> None:
    done = command("--help", fresh=True)
    assert done.returncode == 0
    for name in ("train", "run", "replay", "check", "demo"):
        assert f" {name} " in done.stdout


@pytest.mark.parametrize("arguments", [("nonsense",), ("run", "--nonsense"), ("run", "--workers", "0"), ("train", "x")])
def test_wrong_usage_is_exit_code_2(run: Run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert "Usage: " in done.err
    assert "Traceback" not in done.err


# -- bundles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run", "replay"])
def test_no_bundle_there(run: Run, plant: Plant, tmp_path: Path, name: str) -> None:
    more = [plant.stream, "--out", tmp_path / "out"] if name == "replay" else []
    told = mistake(run(name, *more, "--bundle", tmp_path / "nowhere"))
    assert "nowhere: no bundle there" in told
    assert "train one first" in told


def test_no_bundle_said(run: Run) -> None:
    assert "--bundle FOLDER or set bundle.path" in mistake(run("run"))


def test_a_bundle_with_a_wrong_digest(run: Run, broken: Path) -> None:
    (broken / "model.keras").write_bytes(b"not the model")
    assert "model.keras was changed after it was written; copy or train" in mistake(run("run", "--bundle", broken))


def test_a_bundle_with_a_missing_file(run: Run, broken: Path) -> None:
    (broken / "scaler.json").unlink()
    assert "scaler.json is missing; copy or train" in mistake(run("run", "--bundle", broken))


def test_a_bundle_with_a_manifest_that_was_edited(run: Run, broken: Path) -> None:
    manifest = broken / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"pressure"', '"colour"'))
    assert "manifest.json was changed" in mistake(run("run", "--bundle", broken))


@pytest.mark.parametrize(("key", "made"), [("length", 16), ("stride", 1)])
def test_a_bundle_for_another_window_than_the_settings_say(
    run: Run, bundle: Path, config: Path, key: str, made: int
) -> None:
    config.write_text(f"[window]\n{key} = 32\n")
    told = mistake(run("run", "--bundle", bundle, "--config", config))
    assert f"window.{key} = {made}, the settings say 32; remove window.{key} or train with that {key}" in told


def test_the_bundle_of_the_command_line_wins(run: Run, bundle: Path, config: Path, tmp_path: Path) -> None:
    config.write_text(f'[bundle]\npath = "{bundle}"\n')
    assert "nowhere" in mistake(run("run", "--bundle", tmp_path / "nowhere", "--config", config))


def test_data_with_other_features_than_the_bundle(run: Run, bundle: Path, tmp_path: Path) -> None:
    data = tmp_path / "other.csv"
    data.write_text("timestamp,colour\n" + "".join(f"2026-01-01 00:00:{at:02},{at}\n" for at in range(60)))
    told = mistake(run("replay", data, "--bundle", bundle, "--out", tmp_path / "out"))
    assert "other.csv" in told
    assert "speed" in told


# -- settings and options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[window]\nlenght = 3", "window.lenght: unknown setting; use one of: length"),
        ("[alerts]\nmajor = 3\ncritical = 2", "critical = 2.0 must be above major = 3.0"),
        ("[window]\nlength = 'x'", "window.length"),
        ("[window", "not valid TOML"),
    ],
)
@pytest.mark.parametrize("name", ["run", "check", "train", "replay"])
def test_wrong_settings(run: Run, config: Path, tmp_path: Path, name: str, text: str, told: str) -> None:
    config.write_text(text)
    more = {"train": ["x.csv", "--out", tmp_path], "replay": ["x.csv", "--out", tmp_path, "--bundle", tmp_path]}
    line = mistake(run(name, *more.get(name, []), "--config", config))
    assert str(config) in line
    assert told in line


@pytest.mark.parametrize("name", ["run", "demo"])
def test_wrong_settings_in_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("STREAM_DETECTOR__WINDOW__LENGHT", "3")
    assert "STREAM_DETECTOR__WINDOW__LENGHT: window.lenght: unknown setting" in mistake(run(name))


def test_no_settings_file_there(run: Run, tmp_path: Path) -> None:
    assert "nowhere.toml: No such file" in mistake(run("run", "--config", tmp_path / "nowhere.toml"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--model", "cnn"], "model 'cnn' is not known; use one of lstm"),
        (["--units", "x"], "--units x: give whole numbers"),
        (["--units", "0"], "units = 0"),
        (["--period", "x"], '--period x: give a duration such as "30s"'),
        (["--period", "0"], "--period 0: give"),
        (["--period", "5\n5"], "--period 5\\x0a5: give"),
        (["--window", "1"], "window = 1"),
        (["--window", "0"], "window = 0"),
        (["--stride", "0"], "stride = 0"),
        (["--epochs", "0"], "epochs = 0"),
        (["--budget", "0"], "0.0 will not do"),
        (["--budget", "nan"], "nan will not do"),
        (["--seed", "-1"], "seed = -1"),
        (["--columns", "a,b"], "2 columns named, but the first row has 9"),
    ],
)
def test_wrong_options_of_train(run: Run, plant: Plant, tmp_path: Path, options: list[str], told: str) -> None:
    assert told in mistake(run("train", plant.train, "--out", tmp_path / "bundle", *options))
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("speed", ["0", "-1", "nan", "inf"])
def test_wrong_speed_of_replay(run: Run, plant: Plant, bundle: Path, tmp_path: Path, speed: str) -> None:
    told = mistake(run("replay", plant.stream, "--bundle", bundle, "--out", tmp_path / "out", "--speed", speed))
    assert "--speed" in told
    assert "above 0" in told


# -- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "No such file"),
        ("", "no column of numbers"),
        ("timestamp,a\n2026-01-01 00:00:00,x\n2026-01-01 00:00:01,y\n", "no column of numbers"),
        ("timestamp,a\n" + "".join(f"2026-01-01 00:00:{at:02},{at}\n" for at in range(60)), "too few to train on"),
        ("\x00\x01\x02", "no column of numbers"),
    ],
)
def test_data_that_cannot_be_trained_on(run: Run, tmp_path: Path, text: str | None, told: str) -> None:
    data = tmp_path / "data.csv"
    if text is not None:
        data.write_text(text)
    assert told in mistake(run("train", data, "--out", tmp_path / "bundle"))
    assert not (tmp_path / "bundle").exists()


def test_data_that_cannot_be_replayed(run: Run, bundle: Path, tmp_path: Path) -> None:
    told = mistake(run("replay", tmp_path / "none.csv", "--bundle", bundle, "--out", tmp_path / "out"))
    assert "none.csv: No such file" in told


def test_an_out_that_is_no_folder(run: Run, plant: Plant, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    told = mistake(run("replay", plant.stream, "--bundle", bundle, "--out", tmp_path / "out"))
    assert "give a folder" in told
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("kafka://", "not a topic; write kafka://host:port/topic"),
        ("kafka://host:9092", "not a topic; write kafka://host:port/topic"),
        ("kafka://host:9092/a/b", "not a topic; write kafka://host:port/topic"),
        ("kafka://user:hunter2@host/topic", "no user or password in the URL"),
        ("kafka://host/topic?form=1", "'form' is not one of from and to"),
        ("kafka://host/topic?from=yesterday", "from: 'yesterday' is not RFC 3339"),
        ("kafka://host/topic?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "from must be before to"),
    ],
)
def test_topic_urls_that_make_no_sense(run: Run, tmp_path: Path, url: str, told: str) -> None:
    line = mistake(run("train", url, "--out", tmp_path / "bundle"))
    assert told in line
    assert "hunter2" not in line


def test_a_topic_and_a_file(run: Run, plant: Plant, tmp_path: Path) -> None:
    for data in (["kafka://h/t", plant.train], [plant.train, "kafka://h/t"], ["kafka://h/t", "kafka://h/u"]):
        assert "one topic, or files" in mistake(run("train", *data, "--out", tmp_path / "bundle"))

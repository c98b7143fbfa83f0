"""Events beyond a bound go to a file and come back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.errors import DataError
from stream_detector.events import Events
from tests.commandline import invoke
from tests.training.test_train import events
from training.data import read
from training.spill import COLUMNS, Log, Spill

EVENT = COLUMNS + 2 * 4  # bytes an event of two features is counted as


def made(names: list[str], seed: int) -> Events:
    rng, count = np.random.default_rng(seed), len(names)
    values = rng.normal(size=(count, 2)).astype(np.float32)
    values[rng.random((count, 2)) < 0.2] = np.nan
    numbers = rng.integers(-(2**62), 2**62, size=(3, count))
    return Events(names, numbers[0], values, numbers[1], numbers[2])


def same(one: Events, other: Events) -> bool:
    numbers = ("timestamps", "offsets", "arrivals")
    return (
        list(one.sensors) == list(other.sensors)
        and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in numbers)
        and np.array_equal(one.values, other.values, equal_nan=True)
    )


@given(
    st.lists(st.lists(st.sampled_from(["a", "pump-7", "ü\n", ""]), max_size=7), max_size=6),
    st.integers(0, 20),
)
@settings(deadline=None)
def test_what_is_put_comes_back_in_order_wherever_it_was(pieces: list[list[str]], room: int) -> None:
    spill = Spill(room * EVENT)
    logs = Log(spill, 2), Log(spill, 2)
    given_to: tuple[list[Events], list[Events]] = ([], [])
    for number, names in enumerate(pieces):
        piece = made(names, number)
        logs[number % 2].append(piece)
        given_to[number % 2].append(piece)
    for log, expected in zip(logs, given_to, strict=True):
        assert log.events == sum(map(len, expected))
        for _ in range(2):  # as often as one likes
            assert all(same(*pair) for pair in zip(log, expected, strict=True))
    assert spill.held <= room * EVENT


def test_a_folder_that_takes_nothing_is_told(tmp_path: Path) -> None:
    spill = Spill(0, tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"events cannot be put aside in .*nowhere: .*; make room there, or allow more"):
        spill.put(made(["a"], 0))


def test_training_sees_the_same_windows_of_data_that_went_to_a_file(tmp_path: Path) -> None:
    from training.split import Part
    from training.train import TrainOptions, _rules

    rules = _rules(["wave", "noise", "still"], TrainOptions(length=8, stride=2))
    pieces = [events(400, first=3 * at) for at in range(3)]
    held, filed = (read(pieces, rules, 1, None, False, bound, tmp_path) for bound in (2**30, 0))
    assert filed.logs[0].spill.filed > 0
    assert held.logs[0].spill.filed == 0
    for one, other in zip(held.gather(Part.FIT, 100, 1), filed.gather(Part.FIT, 100, 1), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not list(tmp_path.iterdir())  # the file has no name


@pytest.mark.parametrize("size", ["8", "GB", "-1GB", "1XB"])
def test_sizes_that_are_none(size: str, tmp_path: Path) -> None:
    told = invoke("train", "x.csv", "--out", str(tmp_path / "bundle"), "--max-memory", size)
    assert told.code == 2
    assert f'--max-memory {size}: give a number and kB, MB, GB or TB, such as "8GB"' in " ".join(told.err.split())


def test_windows_to_learn_from_are_as_many_as_the_command_says(tmp_path: Path) -> None:
    given = events(900)
    rows = zip(given.timestamps.tolist(), given.sensors, given.values[:, :2].tolist(), strict=True)
    lines = [f"{time},{sensor},{wave},{noise}" for time, sensor, (wave, noise) in rows if noise == noise]
    (tmp_path / "data.csv").write_text("\n".join(["timestamp,sensor_id,wave,noise", *lines]))
    options = ("--window", 8, "--stride", 4, "--model", "dense", "--units", "4", "--epochs", 1)
    done = invoke("train", tmp_path / "data.csv", "--out", tmp_path / "bundle", *options, "--max-windows", 70)
    assert done.code == 0, done.err
    told = (tmp_path / "bundle" / "report" / "summary.txt").read_text()
    assert "70 fit, 10 validation, 10 statistics" in told
    assert "drawn at random (--max-windows)" in told
    refused = invoke("train", tmp_path / "data.csv", "--out", tmp_path / "bundle", "--max-windows", 0)
    assert refused.code == 2
    assert refused.err.strip().endswith("max_windows = 0 will not do; give 1 or more")

"""Events beyond a bound go to a file and come back as they were."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.bundle import load_bundle
from stream_detector.errors import DataError
from stream_detector.events import Events
from tests import forked
from tests.commandline import invoke
from tests.service import DEADLINE, environment
from tests.training import spilled
from tests.training.test_partners import FEATURES, series
from tests.training.test_train import events
from training.data import read
from training.options import Session, TrainOptions
from training.spill import COLUMNS, Log, Spill
from training.split import Part
from training.train import _rules, train

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
    rules = _rules(["wave", "noise", "still"], TrainOptions(length=8, stride=2))
    pieces = [events(400, first=3 * at) for at in range(3)]
    held, filed = (read(pieces, rules, 1, None, False, bound, tmp_path) for bound in (2**30, 0))
    assert filed.logs[0].spill.filed > 0
    assert held.logs[0].spill.filed == 0
    for one, other in zip(held.gather(Part.FIT, 100, 1), filed.gather(Part.FIT, 100, 1), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not list(tmp_path.iterdir())  # the file has no name


@given(st.permutations(range(12)), st.lists(st.integers(0, 12), max_size=3), st.booleans())
@settings(deadline=None)
def test_rows_of_a_table_come_back_from_their_places(order: list[int], cuts: list[int], room: bool) -> None:
    rows = np.random.default_rng(0).normal(size=(12, 2, 3)).astype(np.float32)
    spill = Spill(2 * rows.nbytes - (not room))
    tables = spill.tables(rows.shape, rows.shape)
    assert all((table.scratch is None) is room for table in tables)
    for table in tables:
        for places in np.split(np.array(order), sorted(cuts)):
            table.put(places, rows[places])
        for start in range(12):
            np.testing.assert_array_equal(table.get(start, 12), rows[start:])


def test_events_leave_tables_what_they_do_not_take() -> None:
    spill = Spill(3 * EVENT)
    spill.put(made(["a", "b"], 0))
    (held,), (filed,) = spill.tables((EVENT // 4, 1)), spill.tables((EVENT // 4 + 1, 1))
    assert held.scratch is None
    assert filed.scratch is not None


def test_a_bundle_does_not_tell_where_its_events_were(tmp_path: Path) -> None:
    """With every part of the score, whose contrasts are put aside too."""
    options = TrainOptions(kind="dense", length=8, stride=1, units=(4,), epochs=1)
    for memory in (0, 2**30):
        session = Session(pictures=False, memory=memory)
        train([series(4_000, 0)], FEATURES, options, tmp_path / str(memory), session=session)
    filed, held = load_bundle(tmp_path / "0"), load_bundle(tmp_path / str(2**30))
    assert {one.name for one in held.errors.partners} == {"change", "level", "bias"}
    assert (filed.scaler, filed.errors, filed.thresholds) == (held.scaler, held.errors, held.thresholds)


def test_memory_stays_bounded_however_large_the_data_are(tmp_path: Path) -> None:
    """All of a training, calibration included: its peak grows by less than a part of what the data take."""
    peaks = []
    for count in (2, 24):
        arguments = [str(tmp_path / str(count)), str(count)]
        begin = partial(forked.start, spilled.__name__, arguments, environment())
        code, told, problems = forked.finished(partial(begin, folder=Path.cwd()), DEADLINE)
        assert code == 0, problems
        peaks.append(int(told))
    data = 24 * spilled.PIECE * (COLUMNS + 4 * len(spilled.FEATURES))
    assert data > 8 * spilled.MEMORY
    assert peaks[1] - peaks[0] < data


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

"""Readers of the labelled sets, on small files of the same layout."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.sets import SETS, SMD_COLUMNS, TRAINING_ROWS, outliers, read_runs, read_set
from stream_detector.errors import DataError

HEAD = "datetime;Pressure;Current"


def skab(root: Path, rows: int = 420) -> Path:
    """One labelled run of ``rows``, the last ten anomalous, and a clean one."""
    for group, head in (("valve1", HEAD + ";anomaly;changepoint"), ("anomaly-free", HEAD)):
        (root / "skab" / group).mkdir(parents=True)
        lines = [head]
        for row in range(rows):
            line = f"2020-03-09 10:{row // 60:02}:{row % 60:02};{row};0.5"
            lines.append(line + f";{float(row >= rows - 10)};{float(row == rows - 10)}" if group == "valve1" else line)
        text = "\n".join(lines) + "\n"
        if group == "valve1":
            (root / "skab" / group / "0.csv").write_text(text)
        else:
            (root / "skab" / group / "anomaly-free.csv.gz").write_bytes(gzip.compress(text.encode()))
    return root


def servers(root: Path, name: str, server: str, columns: int, cause: str, labels: str = "0011100") -> Path:
    """One server: ten rows to learn from, seven to score."""
    base = root / name
    for folder in ("train", "test", "test_label", "interpretation_label"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    ending = "csv" if name == "asd" else "txt"
    for folder, rows in (("train", 10), ("test", len(labels))):
        text = "".join(",".join(f"{(row + at) / 50:.6f}" for at in range(columns)) + "\n" for row in range(rows))
        (base / folder / f"{server}.{ending}.gz").write_bytes(gzip.compress(text.encode()))
    (base / "test_label" / f"{server}.{ending}").write_text("".join(f"{label}\n" for label in labels))
    (base / "interpretation_label" / f"{server}.txt").write_text(cause + "\n")
    return root


def nab(root: Path) -> Path:
    """A file of a hundred rows, five minutes apart, with one window."""
    folder = root / "nab" / "data" / "real"
    folder.mkdir(parents=True)
    (root / "nab" / "labels").mkdir()
    stamps = np.datetime_as_string(np.datetime64("2014-04-01T00:00:00") + 300 * np.arange(100).astype("timedelta64[s]"))
    text = "timestamp,value\n" + "".join(f"{stamp.replace('T', ' ')},{at}\n" for at, stamp in enumerate(stamps))
    (folder / "disk.csv.gz").write_bytes(gzip.compress(text.encode()))
    window = [stamps[50].replace("T", " ") + ".000000", stamps[59].replace("T", " ") + ".000000"]
    (root / "nab" / "labels" / "combined_windows.json").write_text(json.dumps({"real/disk.csv": [window]}))
    return root


@pytest.mark.parametrize("below", ["", "skab"])
def test_skab(tmp_path: Path, below: str) -> None:
    run, clean = read_set("skab", skab(tmp_path) / below)
    assert run.name == "valve1-0"
    assert run.columns == ("Pressure", "Current")
    assert run.train.shape == (TRAINING_ROWS, 2)
    assert run.test[:, 0].tolist() == list(range(400, 420))
    assert run.test_times[0] - run.train_times[-1] == 1_000
    assert run.windows == ((10, 19),)
    assert np.flatnonzero(run.anomalous).tolist() == list(range(10, 20))
    assert run.changes is not None
    assert np.flatnonzero(run.changes).tolist() == [10]
    assert clean.name == "anomaly-free"
    assert (len(clean.train), len(clean.test), clean.windows) == (420, 0, ())


def test_skab_runs_keep_their_cells(tmp_path: Path) -> None:
    runs, clean = read_runs(skab(tmp_path))
    assert [run.name for run in (*runs, *clean)] == ["valve1-0", "anomaly-free"]
    assert runs[0].cells[3] == ["3", "0.5"]
    assert runs[0].stamps[61] == "2020-03-09 10:01:01"
    assert clean[0].anomalous is None


def test_asd(tmp_path: Path) -> None:
    (stream,) = read_set("asd", servers(tmp_path, "asd", "omi-1", 19, "2-4:1,19"))
    assert stream.columns[0] == "m1"
    assert stream.train.shape == (10, 19)
    assert stream.test.shape == (7, 19)
    assert np.diff(np.concatenate([stream.train_times, stream.test_times])).tolist() == [300_000] * 16
    assert stream.windows == ((2, 4),)
    assert [(cause.span, cause.columns) for cause in stream.causes] == [((2, 4), ("m1", "m19"))]


def test_smd_counts_the_last_row_of_a_cause_out(tmp_path: Path) -> None:
    (stream,) = read_set("smd", servers(tmp_path, "smd", "machine-1-6", 38, "2-5:1,38"))
    assert stream.columns == SMD_COLUMNS
    assert stream.test_times[0] - stream.train_times[-1] == 60_000
    assert stream.windows == (stream.causes[0].span,)
    assert stream.causes[0].columns == ("cpu_r", "udp_snd_buf_errs")


def test_nab(tmp_path: Path) -> None:
    (stream,) = read_set("nab", nab(tmp_path))
    assert stream.name == "real/disk"
    assert (len(stream.train), len(stream.test)) == (15, 85)
    assert stream.windows == ((35, 44),)
    assert np.flatnonzero(stream.anomalous).tolist() == list(range(35, 45))
    assert stream.test[35, 0] == 50


@pytest.mark.parametrize("name", SETS)
def test_a_folder_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_set(name, tmp_path / "nowhere")


@pytest.mark.parametrize("name", SETS)
def test_a_folder_without_the_set(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"give|copy"):
        read_set(name, tmp_path)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    servers(tmp_path, "asd", "omi-1", 19, "2-4:1,20")
    with pytest.raises(DataError, match="first-last"):
        read_set("asd", tmp_path)
    (tmp_path / "asd" / "test_label" / "omi-1.csv").write_text("0\n")
    with pytest.raises(DataError, match="does not fit"):
        read_set("asd", tmp_path)
    (tmp_path / "asd" / "train" / "omi-1.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="cannot be read"):
        read_set("asd", tmp_path)


def test_outliers_by_hand() -> None:
    found = outliers([np.array([True, True, False])], [np.array([True, False, True])])
    assert found == (0.5, 100.0, 50.0)

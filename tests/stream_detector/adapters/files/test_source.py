"""Files of every kind as one ordered log of events."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream_detector.adapters.files import formats
from stream_detector.adapters.files.formats import discover_features
from stream_detector.adapters.files.source import FILES, FileSource
from stream_detector.codec import Decoder, rfc3339
from stream_detector.errors import DataError
from stream_detector.events import Partition, Slice
from stream_detector.settings import Columns, EventRules

FEATURES = ("pressure", "current")
HEADER = "sensor_id,timestamp,pressure,current\n"
ROWS = "a,2026-11-20 10:00:00,1.5,2\nb,2026-11-20 10:00:01,3,\n"
START = 1_795_168_800_000


class Quiet:
    def assigned(self, partitions: Sequence[Partition]) -> None: ...
    def revoked(self, partitions: Sequence[Partition]) -> None: ...
    def lost(self, partitions: Sequence[Partition]) -> None: ...


def source(
    *paths: Path | str, features: Sequence[str] = FEATURES, columns: Columns | None = None, **given: Any
) -> FileSource:
    rules = given.pop("rules", EventRules())
    opened = FileSource(paths, Decoder(features, columns or Columns(), rules), **given)
    opened.open(Quiet())
    return opened


def drain(opened: FileSource) -> list[Slice]:
    slices = []
    while not opened.finished:
        slices += opened.poll(1)
    return slices


def rows(opened: FileSource) -> list[tuple[str, int, list[float | None]]]:
    """Every event as (sensor, timestamp, values)."""
    return [
        (sensor, stamp, [None if np.isnan(value) else value for value in values])
        for part in drain(opened)
        for sensor, stamp, values in zip(
            part.events.sensors, part.events.timestamps.tolist(), part.events.values.tolist(), strict=True
        )
    ]


EXPECTED = [("a", START, [1.5, 2]), ("b", START + 1_000, [3, None])]


def write(path: Path, text: str | bytes) -> Path:
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["e.csv", "e.csv.gz", "e.txt", "e.tsv", "e.data", "e"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_of_any_delimiter(tmp_path: Path, name: str, delimiter: str) -> None:
    path = write(tmp_path / name, (HEADER + ROWS).replace(",", delimiter))
    assert rows(source(path)) == EXPECTED


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + HEADER + ROWS,
        (HEADER + ROWS).replace("\n", "\r\n"),
        HEADER + "\n\n" + ROWS + "\n  \n",
        (HEADER + ROWS).rstrip("\n"),
        (
            '"sensor_id","timestamp"," pressure ","current"\n"a","2026-11-20 10:00:00",1.5,"2"\n'
            "b,2026-11-20 10:00:01,3,NaN\n"
        ),
    ],
    ids=["byte order mark", "CRLF", "blank lines", "no last newline", "quotes"],
)
def test_csv_as_programs_write_it(tmp_path: Path, text: str) -> None:
    assert rows(source(write(tmp_path / "e.csv", text))) == EXPECTED


def test_quoted_cells_may_hold_delimiters_and_newlines(tmp_path: Path) -> None:
    path = write(tmp_path / "e.csv", HEADER + '"a,\n""b""",2026-11-20 10:00:00,1.5,2\nc,2026-11-20 10:00:01,1,1\n')
    (part,) = drain(source(path))
    assert part.events.sensors == ['a,\n"b"', "c"]
    assert part.raw[0] == (None, b'"a,\n""b""",2026-11-20 10:00:00,1.5,2')


def test_a_bad_row_is_a_reject_with_its_line(tmp_path: Path) -> None:
    text = (
        HEADER.encode() + b"a,2026-11-20 10:00:00,x,2\nb,2026-11-20 10:00:01,1\n\xff,2026-11-20 10:00:01,1,1\nc,1,1,1\n"
    )
    (part,) = drain(source(write(tmp_path / "e.csv", text)))
    assert [(reject.offset, reject.reason) for reject in part.rejects] == [
        (0, "bad-value"),
        (1, "bad-row"),
        (2, "bad-encoding"),
    ]
    assert part.rejects[1].value == b"b,2026-11-20 10:00:01,1"
    assert part.events.offsets.tolist() == [3]
    assert (part.start, part.end) == (0, 4)


def test_a_quote_that_nothing_closes_ends_in_rejects(tmp_path: Path) -> None:
    text = HEADER + 'a,2026-11-20 10:00:00,"1,2\n' + "b,2026-11-20 10:00:01,1,1\n" * 10_000
    slices = drain(source(write(tmp_path / "e.csv", text)))
    assert sum(len(part.rejects) for part in slices) >= 1
    assert sum(len(part.events) for part in slices) > 1_000


def test_a_line_without_end_is_a_reject_in_bounded_memory(tmp_path: Path) -> None:
    text = HEADER.encode() + b"x" * 3_000_000 + b"\na,2026-11-20 10:00:00,1,2\n"
    (part,) = drain(source(write(tmp_path / "e.csv", text)))
    assert [reject.reason for reject in part.rejects] == ["too-long"]
    assert len(part.rejects[0].value or b"") <= formats.LINE + 1
    assert part.events.sensors == ["a"]


JSON = (
    b'{"sensor_id": "a", "timestamp": "2026-11-20T10:00:00Z", "values": {"pressure": 1.5, "current": 2}}\n'
    b'{"sensor_id": "b", "timestamp": %d, "pressure": 3}\n' % (START + 1_000)
)


@pytest.mark.parametrize("name", ["e.jsonl", "e.ndjson", "e.json", "e.jsonl.gz", "e.log"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    assert rows(source(write(tmp_path / name, JSON))) == EXPECTED


def test_json_lines_without_sensor_and_time(tmp_path: Path) -> None:
    path = write(tmp_path / "omi-1.jsonl.gz", b'{"pressure": 1}\n\n{"pressure": 2}\nx\n{"pressure": 3}\n')
    found = rows(source(path, period=1_000))
    assert [(sensor, rfc3339(stamp)) for sensor, stamp, _ in found] == [
        ("omi-1", "2000-01-01T00:00:00.000Z"),
        ("omi-1", "2000-01-01T00:00:01.000Z"),
        ("omi-1", "2000-01-01T00:00:03.000Z"),
    ]


def test_json_array_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one object a line"):
        drain(source(write(tmp_path / "e.json", b"[1, 2]")))


@pytest.mark.parametrize("text", [JSON, (HEADER + ROWS).encode()], ids=["json", "csv"])
def test_standard_input(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    opened = source("-")
    assert rows(opened) == EXPECTED
    opened.seek(FILES, 2)
    assert opened.poll(0) == []
    with pytest.raises(DataError, match="cannot be read twice"):
        opened.seek(FILES, 0)
    with pytest.raises(DataError, match="standard input"):
        discover_features(["-"], Columns())


NAIVE = datetime(2026, 11, 20, 10)


@pytest.mark.parametrize(
    "times",
    [
        pa.array([NAIVE, NAIVE + timedelta(seconds=1)], pa.timestamp("ns")),
        pa.array([NAIVE, NAIVE + timedelta(seconds=1)], pa.timestamp("us", "UTC")),
        pa.array([START, START + 1_000], pa.int64()),
        pa.array(["2026-11-20T10:00:00Z", "2026-11-20 10:00:01"], pa.string()),
    ],
    ids=["ns", "us with zone", "int", "text"],
)
def test_parquet(tmp_path: Path, times: pa.Array) -> None:
    table = {
        "sensor_id": pa.array(["a", "b"]).dictionary_encode(),
        "timestamp": times,
        "pressure": pa.array([Decimal("1.5"), Decimal("3.0")]),
        "current": pa.array([2.0, float("nan")], pa.float32()),
        "__index_level_0__": pa.array([0, 1]),
    }
    pq.write_table(pa.table(table), tmp_path / "e.parquet")
    assert rows(source(tmp_path / "e.parquet")) == EXPECTED
    assert discover_features([tmp_path / "e.parquet"], Columns()) == ("pressure", "current")


def test_parquet_in_a_zone_and_with_nested_values(tmp_path: Path) -> None:
    table = {
        "timestamp": pa.array([NAIVE, None], pa.timestamp("us")),
        "values": pa.array([{"pressure": 1, "current": 2}] * 2),
    }
    pq.write_table(pa.table(table), tmp_path / "e.parquet")
    (part,) = drain(source(tmp_path / "e.parquet", columns=Columns(timezone="Europe/Berlin")))
    assert part.events.sensors == ["e"]
    assert part.events.timestamps.tolist() == [START - 3_600_000]
    assert [reject.reason for reject in part.rejects] == ["missing-timestamp"]
    assert json.loads(part.rejects[0].value or b"") == {"timestamp": None, "values": {"pressure": 1, "current": 2}}


def test_a_file_is_one_sensor_if_it_names_none(tmp_path: Path) -> None:
    path = write(tmp_path / "omi-1.csv.gz", "1;2\n3;4\n5;x\n")
    opened = source(path, names=["pressure", "current"], period=60_000)
    found = rows(opened)
    assert [sensor for sensor, _, _ in found] == ["omi-1"] * 2
    assert [rfc3339(stamp) for _, stamp, _ in found] == ["2000-01-01T00:00:00.000Z", "2000-01-01T00:01:00.000Z"]
    assert found[1][2] == [3, 4]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = []
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
        paths.append(write(tmp_path / folder / "omi-1.csv", "timestamp,pressure\n1,1\n"))
    assert sorted(sensor for sensor, _, _ in rows(source(*paths))) == ["test/omi-1", "train/omi-1"]
    with pytest.raises(DataError, match="given twice"):
        source(paths[0], paths[0])


def test_several_files_are_merged_by_time(tmp_path: Path) -> None:
    for name, stamps in [("a", [1, 4, 5]), ("b", [2, 3, 6]), ("c", [])]:
        write(tmp_path / f"{name}.csv", "timestamp,pressure\n" + "".join(f"{stamp},{stamp}\n" for stamp in stamps))
    opened = source(*(tmp_path / f"{name}.csv" for name in "abc"), batch=4)

    slices = drain(opened)

    assert [(part.start, part.end) for part in slices] == [(0, 4), (4, 6)]
    assert [stamp for part in slices for stamp in part.events.timestamps.tolist()] == [1, 2, 3, 4, 5, 6]
    assert [offset for part in slices for offset in part.events.offsets.tolist()] == [0, 1, 2, 3, 4, 5]
    assert [sensor for part in slices for sensor in part.events.sensors] == list("abbaab")
    opened.seek(FILES, 3)
    assert rows(opened) == [("a", 4, [4, None]), ("a", 5, [5, None]), ("b", 6, [6, None])]


def test_bounds_and_lag(tmp_path: Path) -> None:
    path = write(tmp_path / "e.csv", HEADER + ROWS * 10 + "bad\n")
    opened = source(path, batch=5)
    assert opened.lag() == {}
    assert opened.bounds(FILES) == (0, 21)
    assert opened.lag() == {FILES: 21}
    opened.poll(0)
    opened.poll(0)
    assert opened.lag() == {FILES: 16}
    drain(opened)
    assert opened.lag() == {FILES: 0}
    assert opened.poll(0) == []


def test_empty_files_end_at_once(tmp_path: Path) -> None:
    for name, text in [("a.csv", ""), ("b.csv", HEADER), ("c.jsonl", "\n")]:
        opened = source(write(tmp_path / name, text))
        assert drain(opened) == []
        assert opened.bounds(FILES) == (0, 0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds


def test_speed_paces_by_event_time(tmp_path: Path) -> None:
    stamps = [0, 10_000, 10_000, 40_000]
    path = write(tmp_path / "e.csv", "timestamp,pressure\n" + "".join(f"{stamp},1\n" for stamp in stamps))
    clock = Clock()
    opened = source(path, speed=10.0, now=lambda: clock.now, sleep=clock.sleep)
    seen = []
    while not opened.finished:
        seen += [(round(clock.now - 100, 6), len(part.events)) for part in opened.poll(0.4)]
    assert seen == [(0.0, 1), (1.0, 2), (4.0, 1)]
    assert max(clock.slept) <= 0.4 + 1e-9


def test_memory_is_bounded(tmp_path: Path) -> None:
    path = write(tmp_path / "e.csv", HEADER + ROWS * 5_000)
    opened = source(path, batch=100)
    opened.poll(0)
    assert all(len(part.events) <= 100 for part in opened.poll(0))
    assert opened._read <= 101  # nothing is read ahead but the chunk


def zipped(text: str) -> bytes:
    return gzip.compress(text.encode())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.csv", None, "No such file"),
        ("e.csv", "1,2\n3,4\n", "the first row is numbers"),
        ("e.csv", "sensor_id,timestamp\na,1\n", "no column is a feature"),
        ("e.csv", HEADER.replace("current", "current,x") + "a,1,1,1,1\n", "'x' is not a feature"),
        ("e.csv", "sensor_id,pressure\na,1\n", "--period"),
        ("e.csv.gz", zipped(HEADER + ROWS * 1_000)[:-50], "damaged or cut-off gzip"),
        ("e.csv.gz", b"no gzip at all", "damaged or cut-off gzip"),
        ("e.parquet", "PAR1 nonsense", "not a Parquet file"),
    ],
)
def test_mistakes_are_one_line_that_names_the_file(
    tmp_path: Path, name: str, content: str | bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=message) as caught:
        drain(source(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_names_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 columns named, but the first row has 2"):
        drain(source(write(tmp_path / "e.csv", "1,2\n"), names=["pressure", "current", "x"], period=1))


# Features


def discover(tmp_path: Path, text: str, name: str = "e.csv", **columns: Any) -> tuple[str, ...]:
    return discover_features([write(tmp_path / name, text)], Columns(**columns))


def test_features_are_the_columns_of_numbers(tmp_path: Path) -> None:
    text = "timestamp,flow,site,sensor_id,empty,alarm,note,mixed\n1,1,n,a,,0,5,\n2,,n,a,,1,5,x\n3,NaN,n,a,,0,5,2\n"
    assert discover(tmp_path, text, label="alarm", ignored=["note"]) == ("flow",)


def test_one_bad_cell_does_not_hide_a_feature(tmp_path: Path) -> None:
    text = "sensor_id,timestamp,flow\n" + "a,1,1\n" * 50 + "a,1,ERR\n"
    assert discover(tmp_path, text) == ("flow",)


def test_features_of_messages_are_the_union_of_the_first(tmp_path: Path) -> None:
    text = '{"sensor_id": 1, "timestamp": 1, "values": {"a": 1}}\n'
    text += '{"sensor_id": 1, "timestamp": 1, "b": 2, "c": "x", "d": true}\nx\n'
    assert discover(tmp_path, text, "e.jsonl") == ("a", "b")


def test_features_of_files_that_disagree_or_have_none(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", "timestamp,flow\n1,1\n")
    second = write(tmp_path / "b.csv", "timestamp,speed\n1,1\n")
    with pytest.raises(DataError, match="different features"):
        discover_features([first, second], Columns())
    with pytest.raises(DataError, match="no column of numbers"):
        discover(tmp_path, "timestamp,x\n1,a\n")
    assert discover_features([write(tmp_path / "c.csv", "1\t2\n")], Columns(), ["x", "y"]) == ("x", "y")


def test_seeking_while_a_row_waits_for_its_time(tmp_path: Path) -> None:
    path = write(tmp_path / "e.csv", "timestamp,pressure\n" + "".join(f"{second}000,{second}\n" for second in range(4)))
    clock = Clock()
    opened = source(path, speed=1.0, now=lambda: clock.now, sleep=clock.sleep)
    for target in (1, 1, 3, 0):  # where it stands, again, forward, back
        opened.poll(0)
        opened.poll(0)
        opened.seek(FILES, target)
        assert [part.events.values[0, 0] for part in opened.poll(0)] == [target]

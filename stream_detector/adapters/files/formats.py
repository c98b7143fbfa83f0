"""Data files read in chunks and in bounded memory: CSV, JSON Lines (both also gzipped) and Parquet.

The only home of pyarrow, csv and gzip. What a row means is the codec's business.
"""

from __future__ import annotations

import csv
import gzip
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, TypeAlias, cast

import msgspec

from stream_detector.cells import MISSING, Row, decode_cells, places
from stream_detector.codec import Decoded, Decoder, Raw
from stream_detector.errors import DataError
from stream_detector.settings import Columns
from stream_detector.timestamps import parse

if TYPE_CHECKING:
    import pyarrow

Kind: TypeAlias = Literal["csv", "json", "parquet"]
KINDS: dict[str, Kind] = {
    **dict.fromkeys((".csv", ".tsv", ".txt"), "csv"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "json"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
DELIMITERS = ",;\t|"
LOOK = 20  # lines looked at to tell the format and the delimiter
SAMPLE = 200  # rows looked at to tell which columns are features
LINE = 1 << 20  # bytes of a line, unless events.max_bytes is larger; the rest of a longer one is skipped
START = parse("2000-01-01T00:00:00Z", UTC)  # of synthetic timestamps


@dataclass(frozen=True, slots=True)
class File:
    """One data file, or ``-`` for standard input, which can be read only once."""

    path: str
    sensor: str  # its sensor, if it has no sensor column
    names: Sequence[str] | None = None  # of its columns, if it has no header
    period: int | None = None  # ms between its rows, if it has no timestamps


class _Table(NamedTuple):
    header: list[str]
    rows: Iterator[tuple[list[str], bytes]]  # cells, and the lines they stood in


def decoded(file: File, decoder: Decoder, size: int) -> Iterator[Decoded]:
    """Chunks of at most ``size`` rows; offsets are row numbers from 0. Raises `DataError`."""
    if file.path != "-" and _kind(file) == "parquet":
        yield from _decoded_parquet(file, decoder, size)
        return
    with _lines(file, decoder.rules.max_bytes) as (kind, lines):
        row = 0
        if kind == "csv":
            table = _table(file, lines)
            while cells := [Row(row + at, *pair) for at, pair in enumerate(islice(table.rows, size))]:
                with _naming(file):
                    stamps = _stamps(file, row, len(cells))
                    yield decode_cells(decoder, table.header, cells, sensor=file.sensor, stamps=stamps)
                row += len(cells)
            return
        key: bytes | None = None
        while chunk := list(islice(lines, size)):
            if not row:
                first = _object(chunk[0])
                key = file.sensor.encode() if decoder.columns.sensor_id not in first else None
            records = [Raw(row + at, -1, key, line.rstrip(b"\r\n")) for at, line in enumerate(chunk)]
            yield decoder.decode(records, _stamps(file, row, len(chunk)))
            row += len(chunk)


def count(file: File) -> int:
    """How many rows `decoded` would bring, without decoding them. Raises `DataError`."""
    if _kind(file) == "parquet":
        with _reading(file), _parquet(file) as opened:
            return int(opened.metadata.num_rows)
    with _lines(file, LINE) as (kind, lines):
        return sum(1 for _ in (_table(file, lines).rows if kind == "csv" else lines))


def sample(file: File, columns: Columns) -> list[Mapping[str, object]]:
    """The first rows as objects: cells are text in CSV; nested values are laid open. Raises `DataError`."""
    if _kind(file) == "parquet":
        with _reading(file), _parquet(file) as opened:
            batch = next(opened.iter_batches(SAMPLE), None)
            return [] if batch is None else [_open(row, columns) for row in batch.to_pylist()]
    with _lines(file, LINE) as (kind, lines):
        if kind == "csv":
            table = _table(file, lines)
            return [
                dict(zip(table.header, cells, strict=True))
                for cells, _ in islice(table.rows, SAMPLE)
                if len(cells) == len(table.header)
            ]
        return [_open(_object(line), columns) for line in islice(lines, SAMPLE)]


def discover_features(
    paths: Sequence[str | Path], columns: Columns, names: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The columns that hold numbers, but for sensor id, timestamp, label and ignored ones.

    Looks at the first rows of each file. Raises `DataError` if there are none or if the files disagree.
    """
    found: tuple[str, ...] | None = None
    origin = ""
    for file in name_sensors(paths, names, None):
        if file.path == "-":
            raise DataError("standard input cannot be looked at first; name the features, or give a file")
        numeric = _numeric_columns(sample(file, columns), columns)
        if not numeric:
            raise DataError(f"{file.path}: no column of numbers; check columns.ignored and the file's header")
        if found is not None and set(numeric) != set(found):
            odd = sorted(set(numeric) ^ set(found))[0]
            raise DataError(f"{file.path} and {origin} have different features ({odd!r}); ignore it in [columns]")
        if found is None:
            found, origin = numeric, file.path
    if found is None:
        raise DataError("no files given")
    return found


def _numeric_columns(rows: Sequence[Mapping[str, object]], columns: Columns) -> tuple[str, ...]:
    """Those where nine of ten values are numbers: one bad cell does not make a column of text."""
    skipped = {columns.sensor_id, columns.timestamp, columns.label, *columns.ignored}
    verdicts: dict[str, list[bool]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in skipped and not name.startswith("__index_level_"):
                verdict = _number(value)
                verdicts.setdefault(name, []).extend([] if verdict is None else [verdict])
    return tuple(name for name, numbers in verdicts.items() if numbers and sum(numbers) >= 0.9 * len(numbers))


def _number(value: object) -> bool | None:
    """Whether this is a number; None for a missing value."""
    if value is None or (isinstance(value, str) and value.strip().lower() in MISSING):
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        return False
    try:
        float(value)
    except (ValueError, OverflowError):
        return False
    return True


def name_sensors(paths: Sequence[str | Path], names: Sequence[str] | None, period: int | None) -> list[File]:
    """Each with a sensor name of its own. Raises `DataError` for a file given twice."""
    texts = [str(path) for path in paths]
    stems = Counter(map(_stem, texts))
    sensors = [_stem(text) if stems[_stem(text)] == 1 else f"{Path(text).parent.name}/{_stem(text)}" for text in texts]
    for sensor, times in Counter(sensors).items():
        if times > 1:
            raise DataError(f"{sensor}: a file given twice, or two of one name in folders of one name; rename one")
    return [File(text, sensor, names, period) for text, sensor in zip(texts, sensors, strict=True)]


def _stem(path: str) -> str:
    """What a file is called without folder and endings: ``omi-1`` for ``train/omi-1.csv.gz``."""
    return "stdin" if path == "-" else Path(Path(path).name.removesuffix(".gz")).stem


def _open(row: Mapping[str, object], columns: Columns) -> Mapping[str, object]:
    inner = row.get(columns.values)
    return inner if isinstance(inner, dict) else row


def _stamps(file: File, row: int, n: int) -> Sequence[int] | None:
    if file.period is None:
        return None
    return range(START + row * file.period, START + (row + n) * file.period, file.period)


def _kind(file: File) -> Kind | None:
    return KINDS.get(Path(file.path.removesuffix(".gz")).suffix.lower())


@contextmanager
def _naming(file: File) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{file.path}: {error}") from None


@contextmanager
def _reading(file: File) -> Iterator[None]:
    """Foreign exceptions of reading, as `DataError`."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise DataError(f"{file.path}: a damaged or cut-off gzip file; copy it again") from None
    except OSError as error:
        raise DataError(f"{file.path}: {error.strerror or error}; give files that can be read") from error


@contextmanager
def _lines(file: File, limit: int) -> Iterator[tuple[Kind, Iterator[bytes]]]:
    """The format and the lines that are not blank, each cut after ``limit`` bytes and one."""
    with _reading(file):
        stream: BinaryIO
        if file.path == "-":
            stream = sys.stdin.buffer
        elif file.path.endswith(".gz"):
            stream = cast("BinaryIO", gzip.open(file.path, "rb"))  # noqa: SIM115 # closed below
        else:
            stream = open(file.path, "rb")  # noqa: SIM115 # closed below, unless it is standard input
        try:
            lines = _cut(stream, max(limit, LINE))
            first = next(lines, b"").removeprefix(b"\xef\xbb\xbf")  # what Windows writes before UTF-8
            kind = _kind(file) or ("json" if first.lstrip()[:1] == b"{" else "csv")
            if kind == "json" and first.lstrip()[:1] == b"[":
                raise DataError(f"{file.path}: a JSON array; write one object a line (jq -c '.[]')")
            yield kind, chain([first] if first else [], lines)
        finally:
            if file.path != "-":
                stream.close()


def _cut(stream: BinaryIO, limit: int) -> Iterator[bytes]:
    while line := stream.readline(limit + 1):
        rest = line
        while not rest.endswith(b"\n") and (rest := stream.readline(limit)):
            pass
        if line.strip():
            yield line


def _object(line: bytes) -> dict[str, object]:
    try:
        body = msgspec.json.decode(line)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _table(file: File, lines: Iterator[bytes]) -> _Table:
    """Header and rows of a CSV file. Raises `DataError` where the first row and the names do not fit."""
    first = list(islice(lines, LOOK))
    rows = _rows(chain(first, lines), _delimiter(first))
    if file.names is not None:
        header = list(file.names)
        row = next(rows, None)
        if row is None:
            return _Table(header, rows)
        if len(row[0]) != len(header):
            raise DataError(f"{file.path}: {len(header)} columns named, but the first row has {len(row[0])}")
        return _Table(header, chain([row], rows))
    header = [cell.strip() for cell in next(rows, ([], b""))[0]]
    if header and all(_numeric(cell) for cell in header):
        raise DataError(f"{file.path}: the first row is numbers, not a header; name the columns (--columns)")
    return _Table(header, rows)


def _rows(lines: Iterator[bytes], delimiter: str) -> Iterator[tuple[list[str], bytes]]:
    taken: list[bytes] = []

    def texts() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line.decode("utf-8", "replace")  # the codec rejects such a line by its bytes

    reader = csv.reader(texts(), delimiter=delimiter)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:  # such as a quote that nothing closes: no cells, so that the codec rejects it
            cells = []
        yield cells, b"".join(taken).rstrip(b"\r\n")
        taken.clear()


def _delimiter(lines: list[bytes]) -> str:
    """The one that splits the first lines into the most columns, all alike."""
    texts = [line.decode("utf-8", "replace") for line in lines]
    best, most = ",", 1
    for delimiter in DELIMITERS:
        try:
            widths = [len(cells) for cells in csv.reader(texts, delimiter=delimiter)]
        except csv.Error:
            continue
        # One bad row must not decide, hence the commonest width if nearly all have it.
        width = max(set(widths), key=widths.count, default=1)
        if width > most and widths.count(width) * 4 >= len(widths) * 3:
            best, most = delimiter, width
    return best


def _numeric(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


@contextmanager
def _parquet(file: File) -> Iterator[Any]:
    import pyarrow  # a quarter of a second that only readers of Parquet should pay
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file.path) as opened:
            yield opened
    except (pyarrow.ArrowException, OverflowError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{file.path}: not a Parquet file that can be read: {reason}") from None


def _decoded_parquet(file: File, decoder: Decoder, size: int) -> Iterator[Decoded]:
    columns = decoder.columns
    about = {columns.sensor_id, columns.timestamp}
    with _reading(file), _parquet(file) as opened:
        # pandas writes its index as a column of such a name.
        header = [name for name in opened.schema_arrow.names if not name.startswith("__index_level_")]
        if columns.values not in header:
            with _naming(file):
                places(decoder, header)
            header = [name for name in header if name in decoder.named or name in about]
        if columns.timestamp not in header and file.period is None:
            raise DataError(f"{file.path}: no column {columns.timestamp!r}; name it, or give --period")
        sensor = None if columns.sensor_id in header else file.sensor
        row = 0
        for batch in opened.iter_batches(size, columns=header):
            names = batch.schema.names
            cells = [
                _times(column, decoder) if name == columns.timestamp else _plain(column)
                for name, column in zip(names, batch.columns, strict=True)
            ]
            pairs = []
            for at, values in enumerate(zip(*cells, strict=True)):
                body = dict(zip(names, values, strict=True))
                pairs.append((Raw(row + at, -1, None, msgspec.json.encode(body, enc_hook=str)), body))
            yield decoder.decode_objects(pairs, sensor=sensor, stamps=_stamps(file, row, len(pairs)))
            row += len(pairs)


def _times(column: pyarrow.Array, decoder: Decoder) -> list[Any]:
    """Timestamps of any unit as epoch ms, or as `datetime` where the codec must look at the time zone."""
    import pyarrow

    if pyarrow.types.is_date(column.type):
        column = column.cast(pyarrow.timestamp("ms"))
    if pyarrow.types.is_timestamp(column.type):
        column = column.cast(pyarrow.timestamp("ms", column.type.tz), safe=False)
        if column.type.tz is not None or decoder.zone is UTC:
            column = column.cast(pyarrow.int64())
    return cast("list[Any]", column.to_pylist())


def _plain(column: pyarrow.Array) -> list[Any]:
    import pyarrow

    if pyarrow.types.is_decimal(column.type):
        column = column.cast(pyarrow.float64())
    return cast("list[Any]", column.to_pylist())

"""Rows of text under a header, decoded by the same rules as messages. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stream_detector.codec import Bad, Decoded, Decoder, Raw, Rows
from stream_detector.errors import DataError
from stream_detector.timestamps import parse_cell

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})  # cells without a value, in lower case


class Row(NamedTuple):
    """One row of a table: its cells, and the line that they stood in."""

    offset: int
    cells: Sequence[str]
    value: bytes


def decode_cells(
    decoder: Decoder,
    header: Sequence[str],
    cells: Sequence[Row],
    *,
    sensor: str | None = None,
    stamps: Sequence[int] | None = None,
) -> Decoded:
    """Decode ``n`` rows; an empty cell, NA, N/A, NaN, null or none is a missing value.

    ``sensor`` and ``stamps`` (n), epoch ms, stand in for columns that the header lacks. Raises `DataError` if
    they are lacking too, if no feature is in the header, or if a column is neither a feature nor ignored.
    """
    at = places(decoder, header)
    columns, rules = decoder.columns, decoder.rules
    who, when = at.get(columns.sensor_id, -1), at.get(columns.timestamp, -1)
    if who < 0 and sensor is None:
        raise DataError(f"no column {columns.sensor_id!r}; name the sensor column in columns.sensor_id")
    if when < 0 and stamps is None:
        raise DataError(f"no column {columns.timestamp!r}; name it in columns.timestamp, or give --period")
    chosen = [at.get(name) for name in decoder.features]
    rows = Rows()
    for number, (offset, row, line) in enumerate(cells):
        record = Raw(offset, -1, None, line)
        try:
            if len(line) > rules.max_bytes:
                raise Bad("too-long", f"{len(line)} bytes, more than events.max_bytes = {rules.max_bytes}")
            if not line.isascii():
                _check_encoding(line)
            if len(row) != len(header):
                raise Bad("bad-row", f"{len(row)} cells under a header of {len(header)}")
            name = decoder.sensor(sensor if who < 0 else row[who].strip() or None, None)
            stamp = stamps[number] if when < 0 and stamps is not None else _stamp(decoder, row[when])
            rows.add(record, name, stamp, _values(header, row, chosen))
        except Bad as why:
            rows.reject(record, why)
    return decoder.finish(rows)


def places(decoder: Decoder, header: Sequence[str]) -> dict[str, int]:
    """Where each column stands. Raises `DataError` for a header under which no row could be accepted."""
    at = {name: place for place, name in enumerate(header)}
    if len(at) < len(header):
        twice = next(name for name in header if list(header).count(name) > 1)
        raise DataError(f"column {twice!r} stands twice in the header; rename one")
    if not any(name in at for name in decoder.features):
        wanted = ", ".join(decoder.features[:5])
        raise DataError(f"no column is a feature ({wanted}); if the file has no header, give --columns")
    known = {*decoder.features, *decoder.ignored, decoder.columns.sensor_id, decoder.columns.timestamp}
    unknown = [name for name in header if name not in known]
    if unknown and decoder.rules.unknown_features == "reject":
        remedy = 'add it to columns.ignored, or set events.unknown_features = "ignore"'
        raise DataError(f"column {unknown[0]!r} is not a feature; {remedy}")
    return at


def _check_encoding(line: bytes) -> None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise Bad("bad-encoding", f"not UTF-8 at byte {error.start}") from None


def _stamp(decoder: Decoder, cell: str) -> int:
    text = cell.strip()
    if text.lower() in MISSING:
        raise Bad("missing-timestamp", f"no {decoder.columns.timestamp!r} in this row")
    try:
        return parse_cell(text, decoder.zone)
    except ValueError as error:
        raise Bad("bad-timestamp", str(error)) from None


def _values(header: Sequence[str], row: Sequence[str], chosen: list[int | None]) -> list[float | None]:
    texts = [None if place is None else row[place] for place in chosen]
    together = "".join(filter(None, texts))
    if together.isascii() and "_" not in together:  # float() takes 1_000, and the digits of any script
        try:
            return [None if text is None else float(text) for text in texts]
        except ValueError:
            pass
    return [None if place is None else _value(header[place], row[place]) for place in chosen]


def _value(column: str, cell: str) -> float | None:
    text = cell.strip()
    if text.lower() in MISSING:
        return None
    try:
        if not text.isascii() or "_" in text:
            raise ValueError
        return float(text)
    except ValueError:
        raise Bad("bad-value", f"{column!r:.60} is {text!r:.60}, not a number with a decimal point") from None

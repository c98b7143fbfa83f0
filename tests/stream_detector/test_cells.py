"""Rows of text follow the same rules as messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.cells import Row, decode_cells
from stream_detector.codec import (
    Decoded,
)
from stream_detector.errors import DataError
from tests.stream_detector.test_codec import FEATURES, NOW, TEXT, decoder


def cells(*rows: list[str], header: tuple[str, ...] = ("sensor_id", "timestamp", *FEATURES), **given: Any) -> Decoded:
    lines = [Row(place, row, ",".join(row).encode()) for place, row in enumerate(rows)]
    return decode_cells(given.pop("by", None) or decoder(), header, lines, **given)


def test_rows_follow_the_same_rules() -> None:
    decoded = cells(["a", TEXT, "1.5", " 2 "], ["a", str(NOW), "1e3", ""], [" 7 ", "2026-11-20 10:00:00", "NA", "3"])
    assert decoded.rejects == []
    assert decoded.events.sensors == ["a", "a", "7"]
    assert decoded.events.timestamps.tolist() == [NOW, NOW, NOW - 123]
    np.testing.assert_array_equal(decoded.events.values, np.array([[1.5, 2], [1000, np.nan], [np.nan, 3]], np.float32))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (["a", TEXT, "1"], "bad-row"),
        ([], "bad-row"),
        (["", TEXT, "1", "2"], "missing-sensor-id"),
        (["x" * 300, TEXT, "1", "2"], "bad-sensor-id"),
        (["a", "", "1", "2"], "missing-timestamp"),
        (["a", "soon", "1", "2"], "bad-timestamp"),
        (["a", "1.5", "1", "2"], "bad-timestamp"),
        (["a", "9" * 400, "1", "2"], "bad-timestamp"),
        (["a", TEXT, "1,5", "2"], "bad-value"),
        (["a", TEXT, "1_000", "2"], "bad-value"),
        (["a", TEXT, "١", "2"], "bad-value"),
        (["a", TEXT, "true", "2"], "bad-value"),
        (["a", TEXT, "inf", "2"], "non-finite"),
        (["a", TEXT, "1e39", "2"], "non-finite"),
        (["a", TEXT, "null", "NaN"], "no-values"),
        (["a", TEXT, "x" * 70_000, "1"], "too-long"),
    ],
)
def test_reasons_of_rows(row: list[str], reason: str) -> None:
    (reject,) = cells(row).rejects
    assert reject.reason == reason
    assert reject.message.isprintable()
    assert reject.value == ",".join(row).encode()


@given(st.lists(st.lists(st.text(max_size=8) | st.sampled_from([TEXT, "1", "nan"]), max_size=5), max_size=4))
def test_any_row_is_an_event_or_a_reject(rows: list[list[str]]) -> None:
    lines = [Row(place, row, b"") for place, row in enumerate(rows)]
    decoded = decode_cells(decoder(), ("sensor_id", "timestamp", *FEATURES), lines)
    taken = [*decoded.events.offsets.tolist(), *(reject.offset for reject in decoded.rejects)]
    assert sorted(taken) == list(range(len(rows)))


def test_columns_that_a_table_lacks() -> None:
    decoded = cells(["1"], ["2"], header=("current",), sensor="omi-1", stamps=[5, 6])
    assert decoded.events.sensors == ["omi-1", "omi-1"]
    assert decoded.events.timestamps.tolist() == [5, 6]
    np.testing.assert_array_equal(decoded.events.values[:, 1], [1, 2])
    assert np.isnan(decoded.events.values[:, 0]).all()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (("timestamp", "current"), "no column 'sensor_id'"),
        (("sensor_id", "current"), "--period"),
        (("sensor_id", "timestamp", "x"), "no column is a feature"),
        (("sensor_id", "timestamp", "current", "x"), "columns.ignored"),
        (("sensor_id", "timestamp", "current", "current"), "stands twice"),
    ],
)
def test_headers_that_fit_nothing(header: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        cells(header=header)

"""Windows equal those of a plain loop over events, however the events are cut into batches."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.events import Events, Partition, Windows
from stream_detector.sensors import Rules, Table
from stream_detector.waiting import pack_waiting, unpack_waiting
from stream_detector.windows import Rolling, advance, assemble, windows_of
from tests.reference import reference_windows

MISSING = float("nan")


def columns(rows: list[tuple[str, int, list[float]]]) -> Events:
    """Events of (sensor, timestamp, values), with holes in their offsets as transactions leave them."""
    return Events(
        [sensor for sensor, _, _ in rows],
        np.array([time for _, time, _ in rows], np.int64),
        np.array([values for _, _, values in rows], np.float32).reshape(len(rows), -1),
        np.array([5 + at + at // 3 for at in range(len(rows))], np.int64),
        np.full(len(rows), -1, np.int64),
    )


def plain(windows: Windows) -> list[dict[str, Any]]:
    return [
        {
            "sensor": windows.sensors[at],
            "values": windows.values[at].tolist(),
            "timestamps": windows.timestamps[at].tolist(),
            "offsets": windows.offsets[at].tolist(),
            "imputed": windows.imputed[at].tolist(),
        }
        for at in range(len(windows))
    ]


def cuts(events: Events, sizes: list[int]) -> list[Events]:
    parts: list[Events] = []
    at = 0
    while at < len(events):
        size = sizes[len(parts) % len(sizes)]
        parts.append(events.take(slice(at, at + size)))
        at += size
    return parts


event_lists = st.lists(
    st.tuples(
        st.sampled_from("abcde"),
        st.integers(0, 60),
        st.lists(st.sampled_from([0.0, 1.5, -2.0, MISSING]), min_size=2, max_size=2),
    ),
    min_size=1,
    max_size=120,
)
in_order = st.booleans()
rule_sets = st.builds(
    Rules,
    features=st.just(("p", "q")),
    length=st.integers(1, 5),
    stride=st.integers(1, 6),
    means=st.just((0.25, 7.5)),
    missing=st.sampled_from(["last", "mean"]),
    grace=st.sampled_from([0, 3, 20]),
    duplicates=st.sampled_from(["drop", "keep"]),
    max_gap=st.sampled_from([None, 1, 8]),
    own_gaps=st.sampled_from([{}, {"a": 2, "c": 30}]),
    clock_reset=st.sampled_from([None, 6, 12]),
    ttl=st.sampled_from([10, 40, 10_000]),
    max_sensors=st.sampled_from([1, 3, 100]),
    known=st.sampled_from([None, frozenset("abc")]),
)


@settings(max_examples=400, deadline=None)
@given(event_lists, rule_sets, st.lists(st.integers(1, 40), min_size=1, max_size=6), in_order)
def test_windows_equal_the_plain_loop_for_any_batching(
    rows: list[tuple[str, int, list[float]]], rules: Rules, sizes: list[int], ordered: bool
) -> None:
    if ordered:
        rows = sorted(rows, key=lambda row: row[1])
    events = columns(rows)
    expected, rejected = reference_windows(events, rules)
    found: list[dict[str, Any]] = []
    refused: list[tuple[int, str]] = []
    table = Table(rules)
    store: dict[str, bytes] = {}
    for part in cuts(events, sizes):
        change = advance(table, part)
        for sensor, packed in zip(change.sensors, change.rows, strict=True):
            store[sensor] = store.get(sensor, b"") + packed
        tails = [store[s][-t:] if t else b"" for s, t in zip(change.sensors, change.tails, strict=True)]
        found += plain(assemble(rules, change, tails))
        refused += [(reject.offset, reject.reason) for reject in change.rejects]
        # A table loaded from what is stored goes on as the one in memory would.
        headers = dict(zip(table.slots, table.pack(list(table.slots)), strict=True))
        if headers:
            table = Table.load(rules, headers, {})
    assert found == expected
    assert refused == rejected


@settings(max_examples=100, deadline=None)
@given(event_lists, rule_sets)
def test_what_waits_is_recovered_from_the_stored_rows(rows: list[tuple[str, int, list[float]]], rules: Rules) -> None:
    change = advance(Table(rules), columns(rows))
    stored = dict(zip(change.sensors, change.rows, strict=True))
    blob = pack_waiting(change, change.rejects)
    windows = assemble(rules, change, [stored[s][-t:] if t else b"" for s, t in zip(stored, change.tails, strict=True)])
    if not blob:
        assert not len(windows)
        return
    recovered, rejects, swept = unpack_waiting(rules, blob, stored)
    assert plain(recovered) == plain(windows)
    assert rejects == change.rejects
    assert swept == change.swept


@settings(max_examples=60, deadline=None)
@given(event_lists, rule_sets, st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_the_stream_of_windows_needs_no_store(
    rows: list[tuple[str, int, list[float]]], rules: Rules, sizes: list[int]
) -> None:
    events = columns(rows)
    found = [window for windows in windows_of(cuts(events, sizes), rules) for window in plain(windows)]
    assert found == reference_windows(events, rules)[0]


@pytest.mark.parametrize("length", [1, 2, 5])
def test_no_more_is_held_than_the_next_window_needs(length: int) -> None:
    rules = Rules(("p",), length, 1, (0.0,))
    rolling = Rolling(rules)
    for at in range(0, 60, 20):
        rolling.push(columns([("a", time, [1.0]) for time in range(at, at + 20)]))
        assert len(rolling.rows["a"]) == (length - 1) * rules.row.itemsize


def test_each_rule_is_counted() -> None:
    rules = Rules(("p",), 2, 1, (0.0,), grace=5, max_gap=100, ttl=1_000_000)
    rows = [
        ("a", 0, [1.0]),
        ("a", 10, [MISSING]),
        ("a", 10, [1.0]),
        ("a", 7, [1.0]),
        ("a", 2, [1.0]),
        ("a", 500, [1.0]),
    ]
    change = advance(Table(rules), columns(rows), [(b"key", b"%d" % at) for at in range(6)])
    assert change.counts == Counter(
        accepted=4, duplicate=1, late=1, imputed=1, restarted=1, **{"out-of-order": 1, "new-sensor": 1}
    )
    (late,) = change.rejects
    assert (late.reason, late.key, late.value) == ("late", b"key", b"4")
    assert late.message == "0.008 s older than the newest event of its sensor"


def test_confidence_is_the_share_of_measured_values() -> None:
    rules = Rules(("p", "q"), 2, 1, (0.0, 0.0))
    change = advance(Table(rules), columns([("a", 0, [1.0, 2.0]), ("a", 1, [MISSING, 2.0])]))
    windows = assemble(rules, change, change.rows)
    assert windows.confidence.tolist() == [0.75]
    assert windows.imputed.tolist() == [[True, False]]
    assert windows.values.tolist() == [[[1.0, 2.0], [1.0, 2.0]]]


@pytest.mark.parametrize("change", [{"features": ("q",)}, {"length": 3}, {"stride": 2}])
def test_another_shape_is_another_layout(change: dict[str, Any]) -> None:
    given: dict[str, Any] = {"features": ("p",), "length": 2, "stride": 1, "means": (0.0,)}
    assert Rules(**given).layout != Rules(**(given | change)).layout
    assert Rules(**given).layout == Rules(**given, grace=5).layout


def test_partition_reads_as_kafka_writes_it() -> None:
    assert str(Partition("sensor-events", 3)) == "sensor-events-3"

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream_detector.cells import Row, decode_cells
from stream_detector.codec import (
    REASONS,
    Decoded,
    Decoder,
    Raw,
    cloudevent_headers,
    dead_letter_headers,
    encode_alert,
    encode_score,
    identify,
    rfc3339,
    rfc3339_all,
)
from stream_detector.errors import DataError, SettingsError
from stream_detector.events import Alert, Model, Origin, Partition, Reject, Score
from stream_detector.settings import Columns, EventRules

NOW = 1_795_168_800_123  # 2026-11-20T10:00:00.123Z
TEXT = "2026-11-20T10:00:00.123Z"
FEATURES = ("pressure", "current")
GOOD = {"sensor_id": "pump-7", "timestamp": TEXT, "values": {"pressure": 2.1, "current": 0.93}}


def decoder(**rules: Any) -> Decoder:
    return Decoder(FEATURES, Columns(), EventRules(**rules))


def decode(*values: object, key: bytes | None = None, arrival: int = -1, by: Decoder | None = None) -> Decoded:
    """Decode messages given as bytes or as what is to become JSON."""
    encoded = [value if value is None or isinstance(value, bytes) else json.dumps(value).encode() for value in values]
    records = [Raw(10 + place, arrival, key, value) for place, value in enumerate(encoded)]
    return (by or decoder()).decode(records)


def one(body: object, **given: Any) -> Reject:
    decoded = decode(body, **given)
    assert not len(decoded.events)
    assert not decoded.raw
    (reject,) = decoded.rejects
    assert reject.reason in REASONS
    assert reject.message.isprintable()
    return reject


def changed(**fields: object) -> dict[str, object]:
    return {name: value for name, value in (GOOD | fields).items() if value is not ...}


def test_nested_and_flat_messages_mean_the_same() -> None:
    flat = {"sensor_id": "pump-7", "timestamp": NOW, "pressure": 2.1, "current": 0.93}

    decoded = decode(GOOD, flat, GOOD, arrival=NOW)

    assert not decoded.rejects
    assert decoded.events.sensors == ["pump-7"] * 3
    assert decoded.events.timestamps.tolist() == [NOW] * 3
    assert decoded.events.offsets.tolist() == [10, 11, 12]
    assert decoded.events.arrivals.tolist() == [NOW] * 3
    np.testing.assert_array_equal(decoded.events.values, np.array([[2.1, 0.93]] * 3, np.float32))
    assert decoded.events.values.dtype == np.float32
    assert decoded.raw == [(None, json.dumps(body).encode()) for body in (GOOD, flat, GOOD)]


def test_no_records_are_no_events() -> None:
    decoded = decode()
    assert decoded.events.values.shape == (0, 2)
    assert decoded.rejects == []


@pytest.mark.parametrize("extra", [{}, {"site": "north"}], ids=["fast", "slow"])
@pytest.mark.parametrize(
    ("given", "sensor"),
    [("pump-7", "pump-7"), (7, "7"), (12345678901234567890123, "12345678901234567890123"), ("\x00\n<b>", "\x00\n<b>")],
)
def test_sensor_id_from_the_body(given: object, sensor: str, extra: dict[str, object]) -> None:
    assert decode(changed(sensor_id=given, **extra)).events.sensors == [sensor]


@pytest.mark.parametrize("absent", [..., None])
def test_sensor_id_from_the_key(absent: object) -> None:
    assert decode(changed(sensor_id=absent), key="pümp".encode()).events.sensors == ["pümp"]


def test_sensor_id_of_the_body_wins_over_the_key() -> None:
    assert decode(GOOD, key=b"other").events.sensors == ["pump-7"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (TEXT, NOW),
        ("2026-11-20t10:00:00.123z", NOW),
        ("2026-11-20T10:00:00.1239999Z", NOW),
        ("2026-11-20T11:00:00.123+01:00", NOW),
        ("2026-11-20 10:00:00.123", NOW),
        ("2026-11-20 10:00:00", NOW - 123),
        ("2026-11-20T10:00:00", NOW - 123),
        (NOW, NOW),
        (float(NOW), NOW),
        (0, 0),
        (-1, -1),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_timestamps(given: object, expected: int) -> None:
    assert decode(changed(timestamp=given)).events.timestamps.tolist() == [expected]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-07-01 12:00:00", "2026-07-01T10:00:00.000Z"),
        ("2026-07-01T12:00:00Z", "2026-07-01T12:00:00.000Z"),
        ("2026-10-25 02:30:00", "2026-10-25T00:30:00.000Z"),  # happens twice: taken as the first, in summer time
        ("2026-03-29 02:30:00", "2026-03-29T01:30:00.000Z"),  # never happens: the offset before the change
    ],
)
def test_naive_timestamps_are_in_the_zone_of_the_settings(given: str, expected: str) -> None:
    berlin = Decoder(FEATURES, Columns(timezone="Europe/Berlin"), EventRules())
    assert rfc3339(int(decode(changed(timestamp=given), by=berlin).events.timestamps[0])) == expected


@pytest.mark.parametrize(
    "given",
    [
        "",
        "yesterday",
        "2026-11-20",
        "2026-W47-5T10:00:00Z",
        "2026-02-30T10:00:00Z",
        "2026-11-20T24:00:00Z",
        "2026-11-20T10:00:60Z",
        "1795168800123",
        1.5,
        True,
        [],
        {},
        10**15,
        10**30,
        -(10**15),
        "0001-01-01T00:00:00+14:00",
    ],
)
def test_bad_timestamps(given: object) -> None:
    assert one(changed(timestamp=given)).reason == "bad-timestamp"


def test_infinite_timestamp() -> None:
    assert one(b'{"sensor_id": "a", "timestamp": 1e999, "pressure": 1}').reason == "bad-timestamp"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "tombstone"),
        (b"", "empty"),
        (b'{"pressure": 1, "sensor_id": "' + b"x" * 70_000 + b'"}', "too-long"),
        (b'{"sensor_id": "\xff"}', "bad-encoding"),
        (b'{"sensor_id": "\xed\xa0\x80"}', "bad-encoding"),
        (b"nonsense", "not-json"),
        (b"  ", "not-json"),
        (b'{"sensor_id": "a"} x', "not-json"),
        (b'{"sensor_id": "\\ud800"}', "not-json"),
        (b'{"sensor_id": "a", "timestamp": 0, "pressure": NaN}', "not-json"),
        (b"[" * 60_000, "not-json"),
        (b'{"pressure": ' * 4_000 + b"1" + b"}" * 4_000, "not-json"),
        ([GOOD], "not-an-object"),
        (1e3, "not-an-object"),
        (b"null", "not-an-object"),
        (changed(sensor_id=...), "missing-sensor-id"),
        (changed(sensor_id=""), "bad-sensor-id"),
        (changed(sensor_id="x" * 257), "bad-sensor-id"),
        (changed(sensor_id=1.5), "bad-sensor-id"),
        (changed(sensor_id=True), "bad-sensor-id"),
        (changed(sensor_id=["a"]), "bad-sensor-id"),
        (changed(timestamp=...), "missing-timestamp"),
        (changed(timestamp=None), "missing-timestamp"),
        (changed(values={"pressure": "2.1"}), "bad-value"),
        (changed(values={"pressure": True}), "bad-value"),
        (changed(values={"pressure": [2.1]}), "bad-value"),
        (changed(values=[2.1, 0.93]), "bad-value"),
        (changed(values="2.1"), "bad-value"),
        (changed(values={"pressure": 1e39}), "non-finite"),
        (changed(values={"pressure": 10**400}), "non-finite"),
        (b'{"sensor_id": "a", "timestamp": 0, "pressure": 1e999}', "non-finite"),
        (b'{"sensor_id": "a", "timestamp": 0, "pressure": ' + b"9" * 5_000 + b"}", "non-finite"),
        (changed(values={"pressure": 1, "volume": 2}), "unknown-feature"),
        (changed(values=..., volume=2), "unknown-feature"),
        (changed(values={"pressure": None}), "no-values"),
        (changed(values={}), "no-values"),
        (changed(values=None), "no-values"),
        (changed(values=...), "no-values"),
    ],
)
def test_reasons(value: object, reason: str) -> None:
    reject = one(value)
    assert reject.reason == reason
    assert reject.offset == 10
    assert reject.value == (
        value if isinstance(value, bytes) else None if value is None else json.dumps(value).encode()
    )


def test_key_that_is_no_text() -> None:
    reject = one(changed(sensor_id=...), key=b"\xff")
    assert (reject.reason, reject.key) == ("bad-sensor-id", b"\xff")


def test_missing_feature_only_if_the_rules_say_so() -> None:
    body = changed(values={"pressure": 2.1})
    assert np.isnan(decode(body).events.values).tolist() == [[False, True]]
    assert one(body, by=decoder(missing="reject")).reason == "missing-feature"
    assert one(changed(values={}), by=decoder(missing="reject")).reason == "no-values"


def test_unknown_features_may_be_ignored() -> None:
    by = decoder(unknown_features="ignore")
    bodies = [changed(values={"pressure": 1, "volume": "high"}), changed(values=..., pressure=1, site={"a": [1]})]
    assert decode(*bodies, by=by).events.values[:, 0].tolist() == [1, 1]


def test_future_is_measured_from_the_record_itself() -> None:
    hour = 3_600_000
    assert len(decode(GOOD, arrival=NOW - hour).events) == 1
    assert one(GOOD, arrival=NOW - hour - 1).reason == "future-timestamp"
    assert len(decode(GOOD, arrival=-1).events) == 1


def test_columns_can_be_renamed_ignored_and_hold_a_label() -> None:
    columns = Columns(sensor_id="unit", timestamp="at", values="data", ignored=["note"], label="alarm")
    by = Decoder(FEATURES, columns, EventRules())
    nested = {"unit": 1, "at": NOW, "data": {"pressure": 1, "note": "x", "alarm": 1}, "other": 3}
    flat = {"unit": 1, "at": NOW, "pressure": 1, "note": {"deep": [1]}, "alarm": "yes"}

    decoded = decode(nested, flat, by=by)

    assert not decoded.rejects
    assert decoded.events.values[:, 0].tolist() == [1, 1]


def test_a_feature_may_be_named_like_the_field_of_values() -> None:
    by = Decoder(["values", "current"], Columns(), EventRules())
    flat, nested = (
        {"sensor_id": "a", "timestamp": 0, "values": 3.5},
        {"sensor_id": "a", "timestamp": 0, "values": {"values": 4}},
    )
    assert decode(flat, nested, by=by).events.values[:, 0].tolist() == [3.5, 4]


def test_features_that_cannot_be_told_apart() -> None:
    for features in (["a", "a"], ["a", "sensor_id"], ["timestamp"]):
        with pytest.raises(SettingsError, match="differ"):
            Decoder(features, Columns(), EventRules())


def test_features_of_any_name() -> None:
    names = ['with "quotes"', "new\nline", "", "ünï", "a.b", "class", "1st"]
    by = Decoder(names, Columns(), EventRules())
    body = {"sensor_id": "a", "timestamp": 0, "values": {name: place for place, name in enumerate(names)}}
    assert decode(body, by=by).events.values.tolist() == [list(range(len(names)))]


def test_rejects_stay_in_order_and_beside_events() -> None:
    decoded = decode(GOOD, b"x", changed(values={"pressure": 1e39}), GOOD, None)
    assert decoded.events.offsets.tolist() == [10, 13]
    assert [reject.offset for reject in decoded.rejects] == [11, 12, 14]
    assert len(decoded.raw) == 2


def test_stamps_stand_in_for_missing_timestamps_only() -> None:
    values = [json.dumps(body).encode() for body in (GOOD, changed(timestamp=...), changed(timestamp="x"))]
    decoded = decoder().decode([Raw(n, -1, None, value) for n, value in enumerate(values)], stamps=[1, 2, 3])
    assert decoded.events.timestamps.tolist() == [NOW, 2]
    assert [reject.reason for reject in decoded.rejects] == ["bad-timestamp"]


# Whatever comes in

NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -0.0, 1e39, 1e308]),
)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from([*FEATURES, "sensor_id", "timestamp", "values", "note", "alarm", "other"])
MOSTLY = st.one_of(NUMBERS, NUMBERS, NUMBERS, st.none(), ANYTHING)
STAMPS = st.one_of(st.integers(0, 2**42), st.just(TEXT), st.datetimes().map(str), ANYTHING)
SENSORS = st.one_of(st.text(max_size=5), st.integers(), ANYTHING)
VALUES = st.dictionaries(NAMES, MOSTLY, max_size=4)
BODIES = st.one_of(
    st.fixed_dictionaries(
        {"sensor_id": SENSORS, "timestamp": STAMPS, "values": VALUES | ANYTHING},
        optional={"note": ANYTHING, "pressure": MOSTLY},
    ),
    st.fixed_dictionaries(
        {"sensor_id": SENSORS, "timestamp": STAMPS, "pressure": MOSTLY}, optional={"current": MOSTLY, "alarm": ANYTHING}
    ),
    st.dictionaries(NAMES, ANYTHING, max_size=5),
)
BYTES = st.one_of(
    st.none(),
    st.binary(max_size=60),
    BODIES.map(lambda body: json.dumps(body).encode()),
    BODIES.map(lambda body: json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    # Cut, doubled keys, and huge numbers.
    st.tuples(BODIES, st.integers(1, 10)).map(lambda pair: json.dumps(pair[0]).encode()[: -pair[1]]),
    st.tuples(BODIES, BODIES).map(lambda pair: (json.dumps(pair[0])[:-1] + "," + json.dumps(pair[1])[1:]).encode()),
    BODIES.map(lambda body: json.dumps(body).replace("1", "1e999").encode()),
)
RULES = st.builds(
    EventRules,
    unknown_features=st.sampled_from(["reject", "ignore"]),
    missing=st.sampled_from(["last", "reject"]),
    max_bytes=st.sampled_from([40, 65_536]),
    max_sensor_id=st.sampled_from([3, 256]),
)
RECORDS = st.lists(st.tuples(st.sampled_from([-1, 0, NOW]), st.none() | st.binary(max_size=3), BYTES), max_size=6)


@given(RECORDS, RULES, st.sampled_from([Columns(), Columns(ignored=["note", "values"], label="alarm")]))
@example(
    [(-1, None, b'{"sensor_id": 1, "timestamp": 0, "values": {"pressure": 1}, "other": "\xff"}')],
    EventRules(),
    Columns(),
)
@example(
    [(-1, None, b'{"sensor_id": 1, "timestamp": 0, "pressure": 1, "note": "\\ud800"}')],
    EventRules(),
    Columns(ignored=["note"]),
)
def test_anything_is_an_event_or_a_reject_and_both_paths_agree(
    given: list[tuple[int, bytes | None, bytes | None]], rules: EventRules, columns: Columns
) -> None:
    records = [Raw(offset, *parts) for offset, parts in enumerate(given)]
    fast, slow = Decoder(FEATURES, columns, rules), Decoder(FEATURES, columns, rules)
    assert fast.shapes
    slow.shapes = []

    decoded, expected = fast.decode(records), slow.decode(records)

    taken = decoded.events.offsets.tolist()
    assert sorted([*taken, *(reject.offset for reject in decoded.rejects)]) == list(range(len(records)))
    assert decoded.raw == [given[offset][1:] for offset in taken]
    assert {reject.reason for reject in decoded.rejects} <= set(REASONS)
    assert decoded.rejects == expected.rejects
    assert decoded.events.sensors == expected.events.sensors
    assert decoded.events.timestamps.tolist() == expected.events.timestamps.tolist()
    np.testing.assert_array_equal(decoded.events.values, expected.events.values)
    assert not np.isinf(decoded.events.values).any()
    for reject in decoded.rejects:
        assert reject.message.isprintable()
        dead_letter_headers(Partition("t", 0), reject)
    for stamp, sensor in zip(decoded.events.timestamps.tolist(), decoded.events.sensors, strict=True):
        assert rfc3339(stamp).endswith("Z")
        assert len(identify(sensor, "t", 0, 1)) == 32


# Rows of text


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


# What goes out

SCORE = Score(
    "id",
    "p\x00<b>",
    TEXT,
    TEXT,
    64,
    1.42,
    0.031,
    0.044,
    "pending",
    {"a": 1.0},
    3,
    1.0,
    [],
    Model("m", "1"),
    Origin("t", 1, 2, 3),
)
LATER, JUDGE, FROM = "2026-11-20T11:00:00.000Z", Model("m", "1"), Origin("events", 3, 1, 9)
ALERT = Alert(
    "id", 2, "resolved", "anomaly", "p/\x00ü", "minor", TEXT, LATER, 1.0, 2.0, 0.1, {}, {}, {}, "s", JUDGE, FROM
)


def test_scores_and_alerts_are_json() -> None:
    assert msgspec.json.decode(encode_score(SCORE), type=Score) == SCORE
    assert msgspec.json.decode(encode_alert(ALERT), type=Alert) == ALERT
    assert json.loads(encode_score(SCORE))["source"] == {
        "topic": "t",
        "partition": 1,
        "first_offset": 2,
        "last_offset": 3,
    }


def test_times_are_written_with_milliseconds() -> None:
    moments = [NOW, 0, -1, 253_402_300_799_999, -62_135_596_800_000]
    assert rfc3339(NOW) == TEXT
    assert rfc3339_all(np.array(moments, np.int64)) == [rfc3339(moment) for moment in moments]
    with pytest.raises(ValueError, match="years"):
        rfc3339(10**15)


def test_ids_tell_windows_apart() -> None:
    windows = [("a", "bc", 1, 1), ("ab", "c", 1, 1), ("a", "bc", 11, 1), ("a", "bc", 1, 11)]
    ids = {identify(*window) for window in windows}
    assert len(ids) == 4
    assert identify("a", "bc", 1, 1) == "99ff07f9134c1ae437d245f3ce72b13d"


def test_dead_letter_headers() -> None:
    assert dead_letter_headers(Partition("events", 3), Reject(17, "not-json", "line é")) == [
        ("errors.topic", b"events"),
        ("errors.partition", b"3"),
        ("errors.offset", b"17"),
        ("errors.exception", b"not-json"),
        ("errors.message", "line é".encode()),
    ]


def test_cloudevent_headers() -> None:
    headers = dict(cloudevent_headers(ALERT))
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_id": b"id-2",
        "ce_type": b"anomaly.resolved",
        "ce_source": b"/events/3",
        "ce_subject": b"p%2F%00%C3%BC",
        "ce_time": b"2026-11-20T11:00:00.000Z",
        "content-type": b"application/json",
    }
    firing = msgspec.structs.replace(ALERT, status="firing", ended_at=None)
    assert dict(cloudevent_headers(firing))["ce_time"] == TEXT.encode()

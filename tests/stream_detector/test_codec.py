"""Messages become events or rejects, each with its reason."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream_detector.codec import (
    REASONS,
    Decoded,
    Decoder,
    Raw,
    dead_letter_headers,
    identify,
    rfc3339,
)
from stream_detector.errors import SettingsError
from stream_detector.events import Partition, Reject
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

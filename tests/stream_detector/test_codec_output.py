"""What goes out: records as JSON, times, ids and headers."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from stream_detector.codec import (
    cloudevent_headers,
    dead_letter_headers,
    encode_alert,
    encode_score,
    identify,
    rfc3339,
    rfc3339_all,
)
from stream_detector.events import Alert, Model, Origin, Partition, Reject, Score
from tests.stream_detector.test_codec import NOW, TEXT

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

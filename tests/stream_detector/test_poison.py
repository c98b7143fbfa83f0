"""One event or one window that something of ours cannot take costs itself, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from stream_detector import codec, pipeline, sieve
from stream_detector.codec import Decoder, Raw
from stream_detector.events import Errors, Events, Float32, Reject, Score
from stream_detector.sensors import Table
from stream_detector.settings import Columns, EventRules
from stream_detector.windows import Change, advance
from tests.simulated import SumScorer
from tests.world import LOG, World, undisturbed

POISON = 5.0  # the value at which the part under test fails
AT = (9, 16, 17)


def poisoned() -> list[tuple[str, int, float | None]]:
    return [(sensor, time, POISON if at in AT else value) for at, (sensor, time, value) in enumerate(LOG)]


def without_poison() -> list[str]:
    """What is published where the poisonous events are unreadable from the start, their dead letters aside."""
    found = undisturbed([(sensor, time, None if at in AT else value) for at, (sensor, time, value) in enumerate(LOG)])
    return [text for text in found if not any(f"Reject(offset={at}," in text for at in AT)]


def test_an_event_that_the_windows_cannot_take_is_dead_lettered(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(table: Table, events: Events, raw: Sequence[tuple[bytes | None, bytes | None]] | None = None) -> Change:
        if (events.values == POISON).any():
            advance(table, events.take(slice(0, 1)))  # half of the work is done when it fails
            raise ZeroDivisionError("a mistake")
        return advance(table, events, raw)

    monkeypatch.setattr(pipeline, "advance", fails)
    monkeypatch.setattr(sieve, "advance", fails)
    work = World(poisoned())
    work.work()
    letters = {
        record[1].offset: record[1]
        for record in work.broker.published
        if isinstance(record, tuple) and record[1].offset in AT
    }
    assert sorted(letters) == sorted(AT)
    assert {letter.reason for letter in letters.values()} == {"unreadable"}
    assert all("ZeroDivisionError: a mistake" in letter.message for letter in letters.values())
    assert {letter.value for letter in letters.values()} == {b"v"}  # as it came
    rest = [text for text in work.published() if not any(f"Reject(offset={at}," in text for at in AT)]
    assert rest == without_poison()


class Unable(SumScorer):
    """Has no score for some windows."""

    def score(self, sensors: Sequence[str], values: Float32) -> Errors:
        errors = super().score(sensors, values)
        errors.score[(values == POISON).any(axis=(1, 2))] = np.nan
        return errors


def test_a_window_without_a_score_is_dead_lettered_by_its_last_event() -> None:
    work = World(poisoned(), scorer=Unable)
    work.work()
    letters = [r[1] for r in work.broker.published if isinstance(r, tuple) and r[1].reason == "unscorable"]
    assert letters
    assert {letter.key for letter in letters} <= {b"a", b"b"}
    scored = {r.source.last_offset for r in work.broker.published if isinstance(r, Score)}
    everything = World()
    everything.work()
    wanted = {r.source.last_offset for r in everything.broker.published if isinstance(r, Score)}
    assert scored | {letter.offset for letter in letters} == wanted
    assert not scored & {letter.offset for letter in letters}


def test_a_message_that_the_decoder_fails_on_is_a_reject(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(given: Any, zone: Any) -> int:
        if given == 666:
            raise KeyError("a mistake")
        return int(given)

    monkeypatch.setattr(codec, "parse", fails)
    decoder = Decoder(["a"], Columns(), EventRules())
    body = b'{"sensor_id": "s", "timestamp": %d, "a": 1}'
    decoded = decoder.decode([Raw(at, -1, None, body % time) for at, time in enumerate([1, 666, 3])])
    assert decoded.events.timestamps.tolist() == [1, 3]
    assert decoded.rejects == [Reject(1, "unreadable", "KeyError: 'a mistake'", None, body % 666)]

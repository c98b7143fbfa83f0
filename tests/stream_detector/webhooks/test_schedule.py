"""Delays between tries, and what receivers may ask for."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.targets import RETRIES
from stream_detector.webhooks.circuit import LONGEST_PAUSE, Circuit
from stream_detector.webhooks.schedule import Schedule, retry_after

STANDARD = Schedule([delay / 1_000 for delay in RETRIES], 0.0)
HOURS = [0, 5 / 3600, 305 / 3600, 0.5847, 2.5847, 7.5847, 17.5847, 31.5847, 51.5847, 75.5847]
NOON = 1_795_176_000.0  # 2026-11-20 12:00:00 UTC


def test_the_default_is_the_schedule_of_the_standard() -> None:
    times, now = [0.0], 0.0
    while (due := STANDARD.next(0.0, now)) is not None:
        times.append(due)
        now = due
    assert [time / 3_600 for time in times] == pytest.approx(HOURS, abs=1e-4)


@given(st.lists(st.floats(0.1, 1e5), max_size=10), st.floats(0, 1), st.floats(0, 0.999), st.floats(0, 1e6))
def test_the_next_try_lies_ahead_and_there_is_a_last(
    delays: list[float], jitter: float, draw: float, now: float
) -> None:
    schedule = Schedule(delays, jitter, lambda: draw)
    due = schedule.next(0.0, now)
    assert (due is None) == schedule.over(0.0, now)
    assert due is None or due > now
    assert due is None or due <= sum(delays) * 2


def test_jitter_spreads_what_failed_together() -> None:
    draws = iter([0.0, 0.5, 0.999])
    schedule = Schedule([100.0], 0.1, lambda: next(draws))
    assert [schedule.next(0.0, 0.0) for _ in range(3)] == pytest.approx([100.0, 105.0, 110.0], abs=0.1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("999999999999999999999", 3_600.0),
        ("Fri, 20 Nov 2026 12:01:30 GMT", 90.0),
        ("Fri, 20 Nov 2026 11:00:00 GMT", 0.0),
        ("Fri, 20 Nov 2099 11:00:00 GMT", 3_600.0),
        ("Fri, 20 Nov 2026 12:01:30", 90.0),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert retry_after(text, NOON, 3_600.0) == seconds


def test_a_busy_target_gets_fewer_tries_at_a_time_and_a_pause_that_grows() -> None:
    circuit = Circuit(failures=99, concurrency=8, draw=lambda: 0.0)
    pauses = []
    now = 0.0
    for _ in range(9):
        circuit.failed(now, busy=True)
        pauses.append(circuit.not_before - now)
        now = circuit.not_before
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert circuit.allows(now, 0) == 1
    for _ in range(20):
        circuit.succeeded()
    assert circuit.allows(now, 0) == 8
    circuit.failed(now, busy=True)
    assert circuit.not_before - now == 1
    assert circuit.allows(now + 1, 0) == 4


def test_what_was_under_way_when_it_became_known_says_nothing_new() -> None:
    circuit = Circuit(failures=1, concurrency=8, draw=lambda: 0.0)
    for _ in range(8):
        circuit.failed(0.0, busy=True)
    assert circuit.not_before == 5
    assert circuit.limit == 4


def test_probes_come_ever_more_slowly_but_come() -> None:
    circuit = Circuit(failures=2, concurrency=8, draw=lambda: 0.0)
    times, now = [], 0.0
    for _ in range(12):
        now = max(now, circuit.not_before)
        assert circuit.allows(now, 1) == (7 if circuit.state == "ok" else 0)
        circuit.failed(now)
        times.append(now)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[:4] == [0, 5, 10, 20]
    assert max(gaps) == LONGEST_PAUSE

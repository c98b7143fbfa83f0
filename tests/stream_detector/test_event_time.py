"""What becomes of events whose time is odd: clocks that jump, start over or change to summer time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector import Detector, load_bundle
from stream_detector.codec import Decoder, Raw, rfc3339
from stream_detector.events import Errors, Float32
from stream_detector.sensors import Rules
from stream_detector.settings import Columns, EventRules
from stream_detector.windows import Rolling
from training.plant import FEATURES

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
NOON = 1_795_176_000_000  # 2026-11-20T12:00:00Z
BERLIN = ZoneInfo("Europe/Berlin")
W = 3


class Seen(NamedTuple):
    """What came of a log."""

    windows: list[tuple[str, str, str]]  # sensor, first and last time
    rejects: list[tuple[int, str]]  # offset, reason
    counts: Counter[str]


def through(
    log: Sequence[tuple[str, object, int]],
    *,
    columns: Columns | None = None,
    events: EventRules | None = None,
    cuts: Sequence[int] = (1,),
    **rules: Any,
) -> Seen:
    """Send (sensor, timestamp as written, arrival at the broker) through the decoder and the rules of windows."""
    decoder = Decoder(("x",), columns or Columns(), events or EventRules())
    rolling = Rolling(Rules(("x",), W, 1, (0.0,), **rules))
    records = [
        Raw(offset, arrival, None, json.dumps({"sensor_id": sensor, "timestamp": time, "x": offset}).encode())
        for offset, (sensor, time, arrival) in enumerate(log)
    ]
    seen, at, turn = Seen([], [], Counter()), 0, 0
    while at < len(records):
        size = cuts[turn % len(cuts)]
        decoded = decoder.decode(records[at : at + size])
        windows, change = rolling.push(decoded.events)
        for sensor, (first, last) in zip(windows.sensors, windows.timestamps.tolist(), strict=True):
            seen.windows.append((sensor, rfc3339(first), rfc3339(last)))
        seen.rejects.extend((reject.offset, reject.reason) for reject in [*decoded.rejects, *change.rejects])
        seen.counts.update(change.counts)
        at, turn = at + size, turn + 1
    seen.rejects.sort()
    return seen


def steady(sensor: str, start: int, count: int, step: int = MINUTE) -> list[tuple[str, object, int]]:
    """Events that arrive when they say they happened."""
    return [(sensor, start + n * step, start + n * step) for n in range(count)]


def at(*times: int, sensor: str = "a") -> list[tuple[str, object, int]]:
    return [(sensor, time, time) for time in times]


# -- order -------------------------------------------------------------------------------------------------------------


def test_within_grace_events_count_in_the_order_of_their_arrival() -> None:
    log = at(NOON, NOON + 10, NOON + 4, NOON + 20)
    assert through(log, grace=6).windows == [
        ("a", rfc3339(NOON), rfc3339(NOON + 4)),  # as they came: the last event of a window need not be its newest
        ("a", rfc3339(NOON + 10), rfc3339(NOON + 20)),
    ]
    late = through(log, grace=5)
    assert late.rejects == [(2, "late")]
    assert late.windows == [("a", rfc3339(NOON), rfc3339(NOON + 20))]


def test_a_repeat_is_dropped_and_told_apart_from_being_late() -> None:
    log = at(NOON, NOON + 10, NOON + 10, NOON, NOON + 20)
    found = through(log)
    assert (found.counts["duplicate"], found.rejects) == (1, [(3, "late")])
    found = through(log, grace=10)
    assert (found.counts["duplicate"], found.rejects) == (2, [])
    assert len(through(log, grace=10, duplicates="keep").windows) == 3


def test_another_sensor_that_is_behind_is_not_late() -> None:
    log = [event for n in range(W) for event in (*at(NOON + n), *at(NOON - DAY + n, sensor="behind"))]
    found = through(log)
    assert (found.rejects, len(found.windows)) == ([], 2)


# -- clocks that jump --------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_ahead_further_than_allowed_is_refused_until_it_is_right_again() -> None:
    wrong = [("a", NOON + 5 * MINUTE + HOUR + 1, NOON + 5 * MINUTE)]
    found = through([*steady("a", NOON, 5), *wrong, *steady("a", NOON + 6 * MINUTE, 5)])
    assert found.rejects == [(5, "future-timestamp")]
    assert len(found.windows) == 10 - W + 1  # as if it had not been


def test_a_clock_that_jumps_ahead_by_less_makes_what_follows_late_until_time_has_caught_up() -> None:
    wrong = [("a", NOON + 5 * MINUTE + HOUR, NOON + 5 * MINUTE)]
    after = steady("a", NOON + 6 * MINUTE, 70)
    found = through([*steady("a", NOON, 5), *wrong, *after, *steady("b", NOON, 5)])
    caught_up = [n for n, (_, _, arrival) in enumerate(after) if arrival > NOON + 5 * MINUTE + HOUR]
    # One of those is as old as the newest to the millisecond, which is a repeat.
    assert found.rejects == [(6 + n, "late") for n in range(caught_up[0] - 1)]
    assert found.counts["duplicate"] == 1
    assert len([window for window in found.windows if window[0] == "b"]) == 5 - W + 1  # other sensors do not care


def test_the_broker_tells_what_is_future_not_the_clock_of_this_machine() -> None:
    """So that reading an old log again gives the same."""
    future = NOON + 300 * 365 * DAY
    assert through([("a", future, future - HOUR)]).rejects == []
    assert through([("a", NOON, NOON - HOUR - 1)]).rejects == [(0, "future-timestamp")]


def test_a_sensor_whose_clock_starts_over_in_the_past_is_late_until_it_expires() -> None:
    """A device that lost its battery begins in 1970; the others go on, and with them the partition's time."""
    begun = [("a", n * MINUTE, NOON + (10 + n) * MINUTE) for n in range(3)]
    assert through([*steady("a", NOON, 5), *begun]).rejects == [(5, "late"), (6, "late"), (7, "late")]
    others = steady("b", NOON + 20 * MINUTE, 2, DAY)
    again = [("a", (10 + n) * MINUTE, NOON + 2 * DAY) for n in range(W)]
    found = through([*steady("a", NOON, 5), *begun, *others, *again], ttl=HOUR)
    assert found.counts["expired"] == 1
    assert [reason for _, reason in found.rejects] == ["late"] * 3  # none of those after it was forgotten
    assert found.windows[-1] == ("a", rfc3339(10 * MINUTE), rfc3339((10 + W - 1) * MINUTE))


def test_a_clock_that_is_set_back_further_than_clock_reset_starts_the_window_over_at_once() -> None:
    begun = [("a", n * MINUTE, NOON + (10 + n) * MINUTE) for n in range(W)]
    found = through([*steady("a", NOON, 5), *begun, *at(MINUTE)], clock_reset=DAY)
    assert found.rejects == [(5 + W, "late")]  # less than that is late, as ever
    assert found.counts["restarted"] == 1
    assert found.windows[-1] == ("a", rfc3339(0), rfc3339((W - 1) * MINUTE))
    assert len(found.windows) == 5 - W + 1 + 1


def test_a_sensor_that_is_alone_in_its_partition_does_not_expire_by_standing_still() -> None:
    """The partition's time is its newest event's: where nothing moves it, nothing is forgotten."""
    begun = [("a", n, NOON + 30 * DAY) for n in range(5)]
    found = through([*steady("a", NOON, 5), *begun], ttl=HOUR)
    assert [reason for _, reason in found.rejects] == ["late"] * 5
    assert found.counts["expired"] == 0


def test_a_long_silence_starts_the_window_over_where_the_settings_say_so() -> None:
    log = [*steady("a", NOON, 2), *steady("a", NOON + HOUR, 3)]
    assert len(through(log).windows) == 3
    assert through(log, max_gap=10 * MINUTE).windows == [("a", rfc3339(NOON + HOUR), rfc3339(NOON + HOUR + 2 * MINUTE))]


# -- local time --------------------------------------------------------------------------------------------------------


def wall(start: datetime, minutes: int) -> list[tuple[str, object, int]]:
    """Every ten minutes what a clock on a wall in Berlin shows, without a zone."""
    moments = [start + timedelta(minutes=10 * n) for n in range(minutes // 10)]
    return [
        ("a", f"{moment.astimezone(BERLIN):%Y-%m-%d %H:%M:%S}", round(moment.timestamp() * 1_000)) for moment in moments
    ]


def test_in_autumn_the_hour_that_happens_twice_is_late_the_second_time() -> None:
    """02:00 to 02:59 is taken as the first of the two, in summer time; then the clock seems to stand in the past."""
    log = wall(datetime(2026, 10, 24, 23, 30, tzinfo=UTC), 210)  # 01:30 summer time to 04:00 winter time
    shown = [str(time)[11:16] for _, time, _ in log]
    assert [shown.count(text) for text in ("01:50", "02:00", "02:30", "02:50", "03:00")] == [1, 2, 2, 2, 1]
    found = through(log, columns=Columns(timezone="Europe/Berlin"))
    second = [n for n, text in enumerate(shown) if text.startswith("02") and text in shown[:n]]
    assert found.rejects == [(n, "late") for n in second[:-1]]
    assert found.counts["duplicate"] == 1  # the second 02:50: not late, but as old as the newest
    # 03:00 in winter time is right again: the hour is a hole between 00:50 and 02:00 UTC.
    assert ("a", "2026-10-25T00:40:00.000Z", "2026-10-25T02:00:00.000Z") in found.windows
    assert len(found.windows) == len(log) - len(second) - W + 1


def test_in_autumn_an_offset_or_utc_loses_nothing() -> None:
    start = datetime(2026, 10, 24, 23, 30, tzinfo=UTC)
    for zone in (UTC, BERLIN):
        moments = [(start + timedelta(minutes=10 * n)).astimezone(zone) for n in range(21)]
        log = [("a", moment.isoformat(), round(moment.timestamp() * 1_000)) for moment in moments]
        found = through(log, columns=Columns(timezone="Europe/Berlin"))
        assert (found.rejects, found.counts["duplicate"], len(found.windows)) == ([], 0, 21 - W + 1)


def test_in_spring_the_hour_that_is_skipped_is_no_gap() -> None:
    log = wall(datetime(2026, 3, 29, 0, 30, tzinfo=UTC), 60)
    assert [str(time)[11:16] for _, time, _ in log] == ["01:30", "01:40", "01:50", "03:00", "03:10", "03:20"]
    found = through(log, columns=Columns(timezone="Europe/Berlin"), max_gap=10 * MINUTE)
    assert (found.rejects, found.counts["restarted"], len(found.windows)) == ([], 0, 6 - W + 1)


def test_in_spring_a_clock_that_was_not_changed_goes_back_an_hour_at_three() -> None:
    """A time in the skipped hour is read with the offset from before it: 02:30 is the moment of 03:30."""
    log = [("a", f"2026-03-29 {text}:00", -1) for text in ("01:50", "02:10", "02:50", "03:10", "04:00")]
    found = through(log, columns=Columns(timezone="Europe/Berlin"))
    # 02:50 is 01:50Z, and 03:10 in summer time is 01:10Z.
    assert found.rejects == [(3, "late")]
    assert found.windows[-1][1:] == ("2026-03-29T01:10:00.000Z", "2026-03-29T02:00:00.000Z")


@pytest.mark.parametrize("text", ["2016-12-31T23:59:60Z", "2016-12-31 23:59:60", "2017-01-01T00:59:60+01:00"])
def test_a_leap_second_is_no_time_and_nothing_after_it_suffers(text: str) -> None:
    """Epoch milliseconds have no place for it."""
    midnight = 1_483_228_800_000
    log = [*steady("a", midnight - 3 * SECOND, 3, SECOND), ("a", text, midnight), *steady("a", midnight, 2, SECOND)]
    found = through(log)
    assert found.rejects == [(3, "bad-timestamp")]
    assert len(found.windows) == 5 - W + 1


# -- batches -----------------------------------------------------------------------------------------------------------

TIMES = st.one_of(
    st.integers(0, 40).map(lambda n: n * MINUTE),
    st.integers(0, 40).map(lambda n: f"2026-10-25 {1 + n % 3:02}:{n:02}:00"),
    st.sampled_from(["nonsense", "2026-10-25T02:30:60Z", 5 * DAY, -DAY]),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), TIMES, st.sampled_from([-1, 0, NOON])), max_size=60),
    st.lists(st.integers(1, 20), min_size=1, max_size=5),
    st.sampled_from([0, 3 * MINUTE]),
    st.sampled_from([None, 5 * MINUTE]),
    st.sampled_from([10 * MINUTE, DAY]),
)
def test_messages_cut_into_other_batches_come_to_the_same(
    log: list[tuple[str, object, int]], cuts: list[int], grace: int, max_gap: int | None, ttl: int
) -> None:
    """From the bytes on; `test_windows.py` compares windows with a plain loop."""
    given_rules: dict[str, Any] = {"grace": grace, "max_gap": max_gap, "ttl": ttl, "max_sensors": 2}
    columns = Columns(timezone="Europe/Berlin")
    one, other = (through(log, columns=columns, cuts=some, **given_rules) for some in ((max(1, len(log)),), cuts))
    assert sorted(one.windows) == sorted(other.windows)
    assert one.rejects == other.rejects
    kinds = set(one.counts) | set(other.counts)
    assert {kind: one.counts[kind] for kind in kinds} == {kind: other.counts[kind] for kind in kinds}


# -- in a program ------------------------------------------------------------------------------------------------------


class Quiet:
    """Stands in for the device."""

    compiled = True

    def score(self, sensors: Sequence[str], values: Float32) -> Errors:
        count = len(values)
        some, shares = np.full(count, 0.5, np.float32), np.full((count, len(FEATURES)), 1 / len(FEATURES), np.float32)
        return Errors(some, some, some * 2, shares, np.zeros(count, np.int32))


@pytest.fixture
def detector(bundle: Path) -> Detector:
    detector = Detector(load_bundle(bundle))
    detector.scorer = Quiet()  # type: ignore[assignment]
    return detector


def test_a_program_tells_the_two_hours_apart_by_datetimes_with_a_zone(detector: Detector) -> None:
    values = dict.fromkeys(FEATURES, 1.0)
    length = detector.bundle.manifest.length
    ends = []
    for fold in (0, 1):
        for minute in range(60):
            moment = datetime(2026, 10, 25, 2, minute, tzinfo=BERLIN, fold=fold)
            ends += [score.window_end for score in detector.update("a", moment, values)]
    assert len(ends) == 120 - length + 1
    assert ends == sorted(ends)
    assert (ends[-61], ends[-1]) == ("2026-10-25T00:59:00.000Z", "2026-10-25T01:59:00.000Z")


def test_a_program_is_told_nothing_of_late_and_repeated_events_but_their_scores_are_not_there(
    detector: Detector,
) -> None:
    values, length = dict.fromkeys(FEATURES, 1.0), detector.bundle.manifest.length
    for minute in range(length):
        scores = detector.update("a", NOON + minute * MINUTE, values)
    assert len(scores) == 1
    assert detector.update("a", NOON + (length - 1) * MINUTE, values) == []
    assert detector.update("a", NOON, values) == []
    with pytest.raises(ValueError, match="exists"):
        detector.update("a", "2016-12-31T23:59:60Z", values)
    assert len(detector.update("a", NOON + length * MINUTE, values)) == 1

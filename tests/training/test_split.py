"""Parts of a sensor's history share no event, and each part gets something or the user is told why not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.errors import DataError
from training.split import USED, Part, overlap, split


@given(
    st.integers(1, 20), st.integers(1, 25), st.lists(st.integers(1, 120), min_size=1, max_size=6), st.integers(0, 99)
)
def test_no_event_is_in_two_parts_and_time_runs_on(length: int, stride: int, counts: list[int], seed: int) -> None:
    sensors = [f"s{at}" for at, count in enumerate(counts) for _ in range(count)]
    starts = np.concatenate([np.arange(count) * stride for count in counts])
    mixed = np.random.default_rng(seed).permutation(len(sensors))
    sensors, starts = [sensors[at] for at in mixed], starts[mixed]
    try:
        parts = split(sensors, starts + length - 1, length, stride, seed)
    except DataError:
        assert max(counts) < 3 * (overlap(length, stride) - 1) + 4
        assert len(counts) < 4
        return
    assert set(USED) <= set(parts.tolist())
    for sensor in set(sensors):
        own = np.array([name == sensor for name in sensors])
        seen: dict[int, set[int]] = {}
        for part in USED:
            events = {int(at) + k for at in starts[own & (parts == part)] for k in range(length)}
            if events:
                assert all(max(earlier) < min(events) for earlier in seen.values())
                seen[part] = events


def test_shares_of_a_long_history() -> None:
    parts = split(["a"] * 10_000, np.arange(10_000), 16, 4)
    assert [round(float((parts == part).mean()), 2) for part in USED] == [0.7, 0.1, 0.1, 0.1]
    assert (parts == Part.NONE).sum() == 9


def test_short_histories_serve_one_part_as_a_whole() -> None:
    sensors = [f"s{at // 3}" for at in range(90)]
    parts = split(sensors, np.arange(90), 64, 8)
    for sensor in set(sensors):
        assert len({int(part) for part, name in zip(parts, sensors, strict=True) if name == sensor}) == 1
    assert (parts == Part.FIT).sum() > 45


def test_too_little_says_how_much_is_needed() -> None:
    least = 3 * 7 + 4  # windows of 64 events, stride 8
    with pytest.raises(DataError, match=f"needs {64 + (least - 1) * 8} rows"):
        split(["a"] * (least - 1), np.arange(least - 1), 64, 8)
    assert set(USED) <= set(split(["a"] * least, np.arange(least), 64, 8).tolist())
    with pytest.raises(DataError, match="0 windows"):
        split([], np.empty(0, np.int64), 64, 8)

"""Sizes: known points, and that more load never takes less."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stream_detector.errors import SettingsError
from stream_detector.sizing import Load, redis_bytes, size, worker_rate
from tests.commandline import invoke

LOADS = st.builds(
    Load,
    sensors=st.integers(1, 10_000_000),
    rate=st.floats(0.001, 10_000_000),
    window=st.integers(64, 512),
    stride=st.integers(1, 64),
    features=st.integers(1, 512),
)


@pytest.mark.parametrize(
    ("load", "measured"),
    [
        (Load(1, 1, window=64, stride=64), 60_200),
        (Load(1, 1, window=64, stride=8), 39_300),
    ],
)
def test_a_worker_manages_what_was_measured(load: Load, measured: float) -> None:
    assert worker_rate(load) == pytest.approx(measured, rel=0.01)


def test_many_sensors_are_planned_for_with_less_than_was_measured() -> None:
    """In the hour under load, when the score had one part."""
    assert 20_000 < worker_rate(Load(100_000, 1, window=16, stride=8)) < 29_400


@pytest.mark.parametrize(
    ("load", "measured"),
    [(Load(1_000, 1), 19_024), (Load(1_000, 1, window=16), 9_487), (Load(1_000, 1, features=1), 8_401 + 11_026)],
)
def test_redis_takes_no_less_than_the_most_that_was_measured(load: Load, measured: int) -> None:
    assert measured <= redis_bytes(load) <= 1.1 * measured


def test_the_plan_of_the_guarantees() -> None:
    """100,000 sensors of W 64 x F 8: 1.9 GB are to be planned."""
    assert size(Load(100_000, 10_000)).redis == pytest.approx(1.9e9, rel=0.05)


@given(
    LOADS,
    st.sampled_from(["sensors", "rate", "window", "features"]),
    st.integers(2, 10),
)
def test_more_load_never_takes_less(load: Load, what: str, times: int) -> None:
    assume(what != "features" or load.features > 1)  # single metrics are held against what they showed, others not
    less, more = size(load), size(replace(load, **{what: getattr(load, what) * times}))
    if what != "sensors":  # more sensors at the same rate: fewer rows of each in flight
        assert more.redis_sensor >= less.redis_sensor
    assert more.worker_rate <= less.worker_rate
    assert more.workers >= less.workers
    assert more.partitions >= less.partitions
    assert more.device >= less.device
    assert more.redis >= less.redis or what == "sensors"


@given(LOADS)
def test_what_is_recommended_suffices(load: Load) -> None:
    found = size(load)
    assert found.workers * found.worker_rate >= load.rate
    assert found.partitions >= found.workers
    assert found.partitions * 100_000 >= load.sensors  # window.max_sensors


def test_what_a_single_metric_showed_takes_room_and_time() -> None:
    single, double = Load(1_000, 1, features=1), Load(1_000, 1, features=2)
    assert redis_bytes(single) > redis_bytes(double)
    assert worker_rate(single) < worker_rate(double)


def test_a_shorter_stride_takes_more_workers() -> None:
    assert size(Load(1_000, 100_000, stride=1)).workers > size(Load(1_000, 100_000, stride=64)).workers


def test_the_command_prints_it() -> None:
    done = invoke("size", "--sensors", 100_000, "--rate", 14_700, "--window", 64)
    assert done.code == 0
    for word in ("partitions", "workers", "Redis memory", "2.0 GB", "device memory"):
        assert word in done.out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--sensors", 0, "--rate", 1), "--sensors 0"),
        (("--sensors", 1, "--rate", 0), "--rate 0"),
        (("--sensors", 1, "--rate", "nan"), "--rate nan"),
        (("--sensors", 1, "--rate", 1, "--window", 8, "--stride", 9), "--stride 9"),
        (("--sensors", 1, "--rate", 1, "--window", 0), "--window 0"),
        (("--sensors", 1, "--rate", 1, "--features", 0), "--features 0"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: tuple[object, ...], named: str) -> None:
    done = invoke("size", *arguments)
    assert done.code == 2
    assert named in done.err
    assert "Traceback" not in done.err


def test_a_load_can_be_checked_in_a_program() -> None:
    with pytest.raises(SettingsError, match="--stride 0"):
        Load(1, 1, stride=0)

"""What every `Source` promises, on every adapter."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import pairwise

import pytest

from stream_detector.events import Partition, Slice
from stream_detector.ports import Lookback, Source
from tests.contract.conftest import SourceUnderTest

START = 1_795_168_800_000


def message(number: int) -> tuple[bytes, bytes]:
    sensor = f"pump-{number % 3}"
    body = {"sensor_id": sensor, "timestamp": START + number, "values": {"pressure": number, "current": 1}}
    return sensor.encode(), json.dumps(body).encode()


class Witness:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.ours: list[Partition] = []

    def assigned(self, partitions: Sequence[Partition]) -> None:
        self.ours.extend(partitions)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        self.ours = [partition for partition in self.ours if partition not in partitions]

    lost = revoked


def opened(source: Source) -> Witness:
    witness = Witness()
    source.open(witness)
    return witness


def drain(source: Source, enough: int, partition: Partition) -> list[Slice]:
    """Slices of the partition until they hold so many events and rejects."""
    slices: list[Slice] = []
    deadline = time.monotonic() + 30
    while sum(len(part.events) + len(part.rejects) for part in slices) < enough:
        assert time.monotonic() < deadline, f"only {slices} came"
        brought = source.poll(0.2)
        assert len({part.partition for part in brought}) == len(brought)
        slices += [part for part in brought if part.partition == partition]
    return slices


def offsets(slices: list[Slice]) -> list[int]:
    return [offset for part in slices for offset in part.events.offsets.tolist()]


def numbers(slices: list[Slice]) -> list[float]:
    return [value for part in slices for value in part.events.values[:, 0].tolist()]


def assert_joined(slices: list[Slice]) -> None:
    for part in slices:
        inside = [*part.events.offsets.tolist(), *(reject.offset for reject in part.rejects)]
        assert all(part.start <= offset < part.end for offset in inside)
        assert part.events.offsets.tolist() == sorted(set(part.events.offsets.tolist()))
        assert len(part.raw) == len(part.events)
    for before, after in pairwise(slices):
        assert before.end == after.start


def test_brings_everything_once_and_in_order(source_under_test: SourceUnderTest) -> None:
    source_under_test.write([message(number) for number in range(50)])
    source = source_under_test.source(batch=7)
    witness = opened(source)

    slices = drain(source, 50, source_under_test.partition)

    assert witness.ours == [source_under_test.partition]
    assert numbers(slices) == list(range(50))
    assert [sensor for part in slices for sensor in part.events.sensors] == [f"pump-{n % 3}" for n in range(50)]
    assert [stamp for part in slices for stamp in part.events.timestamps.tolist()] == [START + n for n in range(50)]
    assert all(len(part.events) <= 7 for part in slices)
    assert_joined(slices)
    source.close()


def test_partitions_are_told_before_their_first_slice_and_from_inside_poll(source_under_test: SourceUnderTest) -> None:
    source_under_test.write([message(0)])
    source = source_under_test.source()
    witness = opened(source)
    assert witness.ours == []
    slices: list[Slice] = []
    deadline = time.monotonic() + 30
    while not slices and time.monotonic() < deadline:
        slices = source.poll(0.2)
    assert all(part.partition in witness.ours for part in slices)
    source.close()


def test_rejects_come_with_their_bytes_and_do_not_stop_the_stream(source_under_test: SourceUnderTest) -> None:
    source_under_test.write([message(0), (b"k", b"{nonsense"), message(2)])
    source = source_under_test.source()
    opened(source)

    slices = drain(source, 3, source_under_test.partition)

    rejects = [reject for part in slices for reject in part.rejects]
    assert [(reject.reason, reject.value) for reject in rejects] == [("not-json", b"{nonsense")]
    assert numbers(slices) == [0, 2]
    first, last = offsets(slices)
    assert first < rejects[0].offset < last
    assert_joined(slices)
    source.close()


def test_raw_bytes_of_events(source_under_test: SourceUnderTest) -> None:
    source_under_test.write([message(0), message(1)])
    source = source_under_test.source()
    opened(source)
    slices = drain(source, 2, source_under_test.partition)
    assert [value for part in slices for _, value in part.raw] == [message(0)[1], message(1)[1]]
    source.close()


@pytest.mark.parametrize("target", [0, 5, 20], ids=["back to the start", "back", "forward"])
def test_seek(source_under_test: SourceUnderTest, target: int) -> None:
    source_under_test.write([message(number) for number in range(30)])
    source = source_under_test.source()
    opened(source)
    every = offsets(drain(source, 30, source_under_test.partition))  # a topic's offsets may have gaps
    source.close()
    source = source_under_test.source(batch=10)
    opened(source)
    drain(source, 10, source_under_test.partition)

    source.seek(source_under_test.partition, every[target])
    again = drain(source, 30 - target, source_under_test.partition)

    assert again[0].start == every[target]
    assert offsets(again) == every[target:]
    assert numbers(again) == list(range(target, 30))
    assert_joined(again)
    source.close()


def test_seek_between_the_assignment_and_the_first_events(source_under_test: SourceUnderTest) -> None:
    source_under_test.write([message(number) for number in range(10)])
    source = source_under_test.source()
    witness = opened(source)
    deadline = time.monotonic() + 30
    while not witness.ours:
        assert time.monotonic() < deadline
        source.poll(0.2)
    low, _ = source.bounds(source_under_test.partition)
    source.seek(source_under_test.partition, low + 4)

    slices = drain(source, 6, source_under_test.partition)

    assert slices[0].start == low + 4
    assert numbers(slices) == [4, 5, 6, 7, 8, 9]
    source.close()


def test_what_was_polled_comes_again_to_a_new_source(source_under_test: SourceUnderTest) -> None:
    source_under_test.write([message(number) for number in range(5)])
    for _ in range(2):
        source = source_under_test.source()
        opened(source)
        assert numbers(drain(source, 5, source_under_test.partition)) == [0, 1, 2, 3, 4]
        source.close()


def test_bounds(source_under_test: SourceUnderTest) -> None:
    source_under_test.write([message(number) for number in range(5)])
    source = source_under_test.source()
    opened(source)
    slices = drain(source, 5, source_under_test.partition)
    low, high = source.bounds(source_under_test.partition)
    assert low <= offsets(slices)[0]
    assert offsets(slices)[-1] < high
    source.close()


def test_lag_falls_to_nothing(source_under_test: SourceUnderTest) -> None:
    source_under_test.write([message(number) for number in range(20)])
    source = source_under_test.source(batch=5)
    opened(source)
    drain(source, 20, source_under_test.partition)
    deadline = time.monotonic() + 30
    while source.lag().get(source_under_test.partition, 1) and time.monotonic() < deadline:
        source.poll(0.1)
    assert source.lag() == {source_under_test.partition: 0}
    source.close()


def test_polling_at_the_end_brings_nothing_and_is_safe(source_under_test: SourceUnderTest) -> None:
    source_under_test.write([message(0)])
    source = source_under_test.source()
    opened(source)
    drain(source, 1, source_under_test.partition)
    for _ in range(3):
        assert sum(len(part.events) for part in source.poll(0.05)) == 0
    source.close()


def test_closing_twice_and_without_opening(source_under_test: SourceUnderTest) -> None:
    source = source_under_test.source()
    source.close()
    source = source_under_test.source()
    opened(source)
    source.close()
    source.close()


def test_a_paused_partition_is_silent_until_it_is_sought(source_under_test: SourceUnderTest) -> None:
    source_under_test.write([message(number) for number in range(6)])
    source, at = source_under_test.source(batch=2), source_under_test.partition
    opened(source)
    drain(source, 2, at)
    source.pause([Partition("another", 0)])
    assert drain(source, 2, at)
    source.pause([at])
    assert [piece for _ in range(3) for piece in source.poll(0.05)] == []
    source.seek(at, 1)
    assert offsets(drain(source, 5, at)) == [1, 2, 3, 4, 5]
    source.close()


def test_the_log_keeps_its_identity(source_under_test: SourceUnderTest) -> None:
    source_under_test.write([message(number) for number in range(3)])
    names = set()
    for _ in range(2):
        source = source_under_test.source()
        opened(source)
        drain(source, 3, source_under_test.partition)
        names.add(source.identity(source_under_test.partition))
        source.close()
    assert len(names) == 1


def test_reaching_back_stays_within_the_log_and_the_limit(source_under_test: SourceUnderTest) -> None:
    source_under_test.write([message(number) for number in range(30)])
    source, at = source_under_test.source(), source_under_test.partition
    opened(source)
    drain(source, 30, at)
    far = Lookback(events=1_000, within=10**12, limit=1_000)
    assert source.reach(at, 20, far) == 0
    assert source.reach(at, 20, far._replace(limit=7)) == 13
    assert source.reach(at, 20, far._replace(limit=0)) == 20
    source.close()

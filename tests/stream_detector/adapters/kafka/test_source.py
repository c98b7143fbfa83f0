"""What only the Kafka source does, on a real broker."""

from __future__ import annotations

from typing import Any

import pytest

from stream_detector.errors import Fenced, Refused, Unavailable
from tests.servers import KafkaBroker
from tests.stream_detector.adapters.kafka.cluster import Cluster, Owner, event, polled, read, until


def test_a_partition_is_silent_until_it_is_sought(cluster: Cluster) -> None:
    cluster.produce([1, 2, 3])
    [partition] = cluster.partitions
    source = cluster.joined(cluster.settings())
    assert source.poll(1.0) == []
    source.seek(partition, 1)
    [piece] = read(source, 2)
    assert (piece.start, piece.end, piece.events.values[:, 0].tolist()) == (1, 3, [2, 3])


def test_seeking_again_reads_again(cluster: Cluster) -> None:
    cluster.produce([1, 2, 3])
    [partition] = cluster.partitions
    source = cluster.joined(cluster.settings())
    source.seek(partition, 0)
    read(source, 3)
    source.seek(partition, 0)
    assert sum(len(piece.events) for piece in read(source, 3)) == 3


def test_a_failed_poll_takes_nothing(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.produce([1, 2, 3])
    [partition] = cluster.partitions
    source = cluster.joined(cluster.settings())
    source.seek(partition, 0)

    def fail(_: object) -> Any:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(source._decoder, "decode", fail)
        with pytest.raises(ZeroDivisionError):
            until(lambda: bool(source.poll(0.2)))
    assert [(piece.start, piece.end) for piece in read(source, 3)] == [(0, 3)]


def test_records_larger_than_a_fetch_do_not_stall(cluster: Cluster) -> None:
    [partition] = cluster.partitions
    producer = cluster.producer()
    for number in range(3):
        producer.send(cluster.topics["events"], event(number, 1, note="x" * 20_000), partition=0)
    producer.flush()
    source = cluster.joined(cluster.settings(max_partition_fetch_bytes=1_000, fetch_max_bytes=1_000))
    source.seek(partition, 0)
    assert sum(len(piece.events) for piece in read(source, 3)) == 3


def test_tombstones_are_rejects(cluster: Cluster) -> None:
    [partition] = cluster.partitions
    cluster.producer().send(cluster.topics["events"], None, key=b"pump").get(timeout=10)
    source = cluster.joined(cluster.settings())
    source.seek(partition, 0)
    [piece] = read(source, 1)
    assert [reject.reason for reject in piece.rejects] == ["tombstone"]


def test_a_log_that_ends_before_our_position_is_opened_again(cluster: Cluster) -> None:
    cluster.produce([1, 2, 3])
    [partition] = cluster.partitions
    owner = Owner()
    source = cluster.joined(cluster.settings(), owner)
    source.seek(partition, 1_000)
    until(lambda: source.poll(0.2) == [] and len(owner.told) == 3)
    assert owner.told[1:] == [("lost", [partition]), ("assigned", [partition])]
    source.seek(partition, 0)
    assert sum(len(piece.events) for piece in read(source, 3)) == 3


def test_lag_is_known_after_a_poll(cluster: Cluster) -> None:
    cluster.produce([1] * 50)
    [partition] = cluster.partitions
    source = cluster.joined(cluster.settings())
    source.seek(partition, 20)
    assert source.lag() == {}
    read(source, 30)
    assert source.lag() == {partition: 0}


def test_seeking_what_is_not_ours_is_refused(cluster: Cluster) -> None:
    source = cluster.joined(cluster.settings())
    with pytest.raises(Fenced):
        source.seek(cluster.partitions[0]._replace(number=9), 0)


def test_a_missing_topic_is_refused(cluster: Cluster) -> None:
    settings = cluster.settings()
    topics = settings.topics.model_copy(update={"events": "no-such-topic"})
    source = cluster.source(settings.model_copy(update={"topics": topics}))
    with pytest.raises(Refused, match="'no-such-topic' does not exist"):
        source.open(Owner())
    with pytest.raises(Unavailable):
        source.poll(0.1)


def test_closing_tells_nobody_and_hands_over_at_once(cluster: Cluster) -> None:
    owner, settings = Owner(), cluster.settings()
    source = cluster.joined(settings, owner)
    source.close()
    source.close()
    assert [kind for kind, _ in owner.told] == ["assigned"]
    cluster.joined(settings)


def test_a_broker_that_is_away_is_unavailable(kafka_broker: KafkaBroker, cluster: Cluster) -> None:
    source = cluster.source(cluster.settings(bootstrap_servers="127.0.0.1:1", bootstrap_timeout_ms=500))
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        source.open(Owner())


def test_a_partition_that_stays_is_not_disturbed_by_a_rebalance(wide: Cluster) -> None:
    settings, owner, other = wide.settings(), Owner(), Owner()
    for partition in wide.partitions:
        wide.produce(range(3), partition.number)
    source = wide.joined(settings, owner)
    for partition in wide.partitions:
        source.seek(partition, 0)
    read(source, 6)
    owner.told.clear()
    newcomer = wide.source(settings)
    newcomer.open(other)
    with polled(newcomer):
        until(lambda: source.poll(0.2) == [] and bool(other.owned))
    [stays] = owner.owned
    assert all(stays not in partitions for _, partitions in owner.told)
    wide.produce([3.0], stays.number)
    [piece] = read(source, 1)
    assert (piece.partition, piece.start, piece.end) == (stays, 3, 4)  # read on, without having been sought again

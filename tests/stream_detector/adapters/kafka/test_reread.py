"""Logs that are read again, cut under us, or replaced by others of the same name."""

from __future__ import annotations

import json
from collections.abc import Sequence

from kafka import KafkaAdminClient, TopicPartition

from stream_detector.adapters.kafka.reread import FIRST_STEP
from stream_detector.ports import Lookback
from tests.stream_detector.adapters.kafka.cluster import Cluster, Owner, read, until

T0, FAR = 1_700_000_000_000, 10**12


def write(cluster: Cluster, sensors: Sequence[str], *, spread: int = 1) -> None:
    """One event of each, ``spread`` ms apart at the broker too."""
    producer = cluster.producer(linger_ms=20)
    for number, sensor in enumerate(sensors):
        time = T0 + number * spread
        body = {"sensor_id": sensor, "timestamp": time, "values": {"a": 1.0}}
        producer.send(
            cluster.topics["events"], json.dumps(body).encode(), key=sensor.encode(), partition=0, timestamp_ms=time
        )
    producer.flush()


def test_reaching_back_until_every_sensor_has_enough(cluster: Cluster) -> None:
    """One sensor speaks a hundred times less often than the others."""
    count = 20 * FIRST_STEP
    write(cluster, ["slow" if number % 1_000 == 0 else f"fast-{number % 10}" for number in range(count)])
    source = cluster.joined(cluster.settings())
    start = source.reach(cluster.partitions[0], count, Lookback(10, FAR, FAR))
    assert start <= count - 10_000  # ten events of the slow one
    assert start > 0  # but not all there is
    assert source.reach(cluster.partitions[0], count, Lookback(10, FAR, 5_000)) == count - 5_000
    assert source.reach(cluster.partitions[0], count, Lookback(10, 3_000, FAR)) == count - 3_001


def test_rejects_in_the_log_do_not_count(cluster: Cluster) -> None:
    producer = cluster.producer()
    for _ in range(50):
        producer.send(cluster.topics["events"], b"{not json", partition=0)
    producer.flush()
    source = cluster.joined(cluster.settings())
    assert source.reach(cluster.partitions[0], 50, Lookback(1, FAR, FAR)) == 0


def test_a_log_that_is_cut_beyond_our_position_is_opened_again_and_not_skipped(cluster: Cluster) -> None:
    settings, [partition], owner = cluster.settings(auto_offset_reset="latest"), cluster.partitions, Owner()
    cluster.produce(range(10))
    source = cluster.joined(settings, owner)
    source.seek(partition, 0)
    read(source, 10)
    source.pause([partition])
    cluster.produce(range(10))
    admin = KafkaAdminClient(bootstrap_servers=cluster.broker.bootstrap)
    admin.delete_records({TopicPartition(*partition): 15})
    admin.close()
    owner.told.clear()
    source.seek(partition, 10)
    until(lambda: source.poll(0.2) == [] and ("assigned", [partition]) in owner.told)
    assert owner.told == [("lost", [partition]), ("assigned", [partition])]
    assert source.bounds(partition) == (15, 20)
    source.seek(partition, 15)
    [piece] = read(source, 5)
    assert (piece.start, piece.end) == (15, 20)


def test_a_topic_that_is_made_anew_is_opened_again(cluster: Cluster) -> None:
    settings, [partition], owner = cluster.settings(metadata_max_age_ms=1_000), cluster.partitions, Owner()
    cluster.produce(range(10))
    source = cluster.joined(settings, owner)
    before = source.identity(partition)
    source.seek(partition, 0)
    read(source, 10)
    admin = KafkaAdminClient(bootstrap_servers=cluster.broker.bootstrap)
    admin.delete_topics([cluster.topics["events"]])
    admin.close()
    owner.told.clear()

    def made() -> bool:
        try:
            cluster.broker.create_topics({cluster.topics["events"]: 1})
        except Exception:  # while it is still being deleted
            return False
        return True

    until(made)
    cluster.produce(range(20))
    until(lambda: source.poll(0.2) is not None and ("assigned", [partition]) in owner.told)
    assert source.identity(partition) != before
    source.seek(partition, 0)
    assert sum(len(piece.events) for piece in read(source, 20)) == 20

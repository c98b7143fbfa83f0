"""The promises of exactly-once delivery, on a real broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import MemberToRemove
from kafka.errors import KafkaTimeoutError
from kafka.future import Future
from kafka.protocol.consumer import SyncGroupRequest
from kafka.structs import OffsetAndMetadata

from stream_detector.adapters.kafka import source as source_module
from stream_detector.errors import Fenced, Unavailable
from stream_detector.events import Partition
from tests.stream_detector.adapters.kafka.cluster import Cluster, Owner, delivery, event, polled, read, until


def fail(*_: object) -> Any:
    raise KafkaTimeoutError("made to fail")


def test_a_delivery_is_published_and_committed(cluster: Cluster) -> None:
    settings, [partition] = cluster.settings(), cluster.partitions
    outlet = cluster.outlet(settings, cluster.joined(settings))
    assert outlet.committed(partition) is None
    outlet.deliver(delivery({partition: 7}, scores=[1, 2]))
    outlet.deliver(delivery({partition: 9}))
    assert outlet.committed(partition) == 9
    assert [record.key for record in cluster.published("scores")] == [b"pump", b"pump"]


def test_the_committed_position_is_never_an_older_answer(cluster: Cluster) -> None:
    settings, [partition] = cluster.settings(), cluster.partitions
    source = cluster.joined(settings)
    outlet = cluster.outlet(settings, source)
    outlet.deliver(delivery({partition: 7}))
    # What kafka-python keeps if a short poll asked while nothing was committed, and ended before the answer came.
    unheard = Future().success({})
    source._consumer._coordinator._offset_fetch_futures[frozenset([TopicPartition(*partition)])] = unheard
    assert outlet.committed(partition) == 7


def test_an_unfinished_transaction_shows_nothing_and_commits_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, [partition] = cluster.settings(), cluster.partitions
    outlet = cluster.outlet(settings, cluster.joined(settings))
    monkeypatch.setattr(outlet._producer, "commit_transaction", fail)  # as if the worker had died there
    monkeypatch.setattr(outlet._producer, "abort_transaction", fail)
    with pytest.raises(Unavailable):
        outlet.deliver(delivery({partition: 7}, scores=[1]))
    assert len(cluster.published("scores", "read_uncommitted")) == 1
    with pytest.raises(Unavailable):
        outlet.deliver(delivery({partition: 7}, scores=[1]))  # not before it is opened again
    outlet.open()
    assert outlet.committed(partition) is None
    assert cluster.published("scores") == []
    outlet.deliver(delivery({partition: 7}, scores=[1]))
    assert outlet.committed(partition) == 7
    assert len(cluster.published("scores")) == 1


def test_the_committed_position_waits_for_an_open_transaction(cluster: Cluster) -> None:
    settings, [partition] = cluster.settings(), cluster.partitions
    outlet = cluster.outlet(settings, cluster.joined(settings))
    other = cluster.producer(transactional_id=f"{cluster.group}-other")
    other.init_transactions()
    other.begin_transaction()
    offsets = {TopicPartition(*partition): OffsetAndMetadata(5)}
    other.send_offsets_to_transaction(offsets, cluster.group)
    timer = threading.Timer(1.0, other.commit_transaction)
    timer.start()
    begun = time.monotonic()
    assert outlet.committed(partition) == 5
    assert time.monotonic() - begun >= 0.9
    timer.join()


def test_a_second_producer_of_the_same_name_fences_the_first(cluster: Cluster) -> None:
    settings, [partition] = cluster.settings(group_instance_id="worker-0"), cluster.partitions
    source = cluster.joined(settings)
    first, second = cluster.outlet(settings, source), cluster.outlet(settings, source)
    with pytest.raises(Fenced):
        first.deliver(delivery({partition: 7}, scores=[1]))
    second.deliver(delivery({partition: 7}, scores=[2]))
    assert len(cluster.published("scores")) == 1


def test_a_member_of_an_older_generation_cannot_deliver(wide: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, owner, other = wide.settings(), Owner(), Owner()
    source = wide.joined(settings, owner)
    outlet = wide.outlet(settings, source)
    before = source.membership(wide.partitions)
    newcomer = wide.source(settings)
    newcomer.open(other)
    with polled(newcomer):
        until(lambda: source.poll(0.1) == [] and len(other.owned) == 1 == len(owner.owned))
    [kept], [gone] = owner.owned, other.owned
    with pytest.raises(Fenced, match="no longer assigned"):
        outlet.deliver(delivery({gone: 7}, scores=[1]))
    monkeypatch.setattr(source, "membership", lambda partitions: before)
    with pytest.raises(Fenced):
        outlet.deliver(delivery({gone: 7}, scores=[1]))
    monkeypatch.undo()
    outlet.open()
    assert outlet.committed(gone) is None
    outlet.deliver(delivery({kept: 7}, scores=[2]))
    assert outlet.committed(kept) == 7
    assert len(wide.published("scores")) == 1


def test_a_worker_thrown_out_of_the_group_cannot_deliver(cluster: Cluster) -> None:
    """The broker would take offsets that name no member, whoever sends them."""
    settings, [partition] = cluster.settings(), cluster.partitions
    source = cluster.joined(settings)
    outlet = cluster.outlet(settings, source)
    source._consumer._coordinator.reset_generation()  # what a heartbeat does when the broker no longer knows us
    with pytest.raises(Fenced, match="no longer a member"):
        outlet.deliver(delivery({partition: 7}, scores=[1]))
    assert cluster.published("scores") == []


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_what_is_in_flight_is_delivered_before_a_partition_goes(wide: Cluster, mode: str) -> None:
    settings, owner, other = wide.settings(mode), Owner(), Owner()
    source = wide.joined(settings, owner)
    outlet = wide.outlet(settings, source)

    def deliver(partitions: Sequence[Partition]) -> None:
        outlet.deliver(delivery(dict.fromkeys(partitions, 7), scores=[1]))

    owner.on_revoked = deliver
    newcomer = wide.source(settings)
    newcomer.open(other)
    with polled(newcomer):
        until(lambda: source.poll(0.1) == [] and len(other.owned) == 1)
    [gone] = other.owned
    assert newcomer.committed(gone, 5.0) == 7
    assert len(wide.published("scores")) == 1
    assert ("revoked", [gone]) in owner.told


def test_a_failure_while_a_partition_goes_comes_out_of_poll(wide: Cluster) -> None:
    settings, owner, other = wide.settings(), Owner(), Owner()
    source = wide.joined(settings, owner)

    def refuse(_: Sequence[Partition]) -> None:
        raise Unavailable("made to fail")

    owner.on_revoked = refuse
    newcomer = wide.source(settings)
    newcomer.open(other)
    with polled(newcomer):
        with pytest.raises(Unavailable, match="made to fail"):
            until(lambda: bool(source.poll(0.1)))
        until(lambda: source.poll(0.1) == [] and len(other.owned) == 1)


def test_workers_that_are_busy_between_polls_settle(wide: Cluster) -> None:
    settings, owner, other = wide.settings(), Owner(), Owner()
    source, newcomer = wide.joined(settings, owner), wide.source(settings)
    newcomer.open(other)

    def polls_and_works() -> bool:
        source.poll(0.01)
        time.sleep(0.3)
        return len(other.owned) == 1

    with polled(newcomer):
        until(polls_and_works)


def test_transaction_markers_leave_no_hole(cluster: Cluster) -> None:
    settings, [partition] = cluster.settings(), cluster.partitions
    producer = cluster.producer(transactional_id=f"{cluster.group}-events")
    producer.init_transactions()
    for transaction in range(6):
        producer.begin_transaction()
        for number in range(10):
            producer.send(cluster.topics["events"], event(number, transaction), partition=0)
        producer.flush()  # what was not yet sent would simply be dropped
        if transaction % 3 == 1:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
    source = cluster.joined(settings)
    source.seek(partition, 0)
    slices = read(source, 40)
    until(lambda: slices.extend(source.poll(0.2)) or slices[-1].end == 66)  # type: ignore[func-returns-value] # the last marker
    assert [one.start for one in slices] == [0, *(one.end for one in slices[:-1])]
    assert {value for one in slices for value in one.events.values[:, 0]} == {0, 2, 3, 5}
    assert source.bounds(partition) == (0, 66)
    assert source.lag() == {partition: 0}


def test_a_worker_that_was_thrown_out_and_is_back_has_lost_what_it_had(wide: Cluster) -> None:
    """It hears of it by joining again: kafka-python then says "revoked", with a valid membership, of what is lost."""
    settings, owner, other = wide.settings(heartbeat_interval_ms=6_000, session_timeout_ms=20_000), Owner(), Owner()
    source = wide.joined(settings, owner)
    outlet = wide.outlet(settings, source)
    for partition in wide.partitions:
        source.seek(partition, 0)
    owner.told.clear()
    owner.on_revoked = lambda partitions: outlet.deliver(delivery(dict.fromkeys(partitions, 1), scores=[1]))
    admin = KafkaAdminClient(bootstrap_servers=wide.broker.bootstrap)
    member = MemberToRemove(member_id=source.membership(wide.partitions).member_id)
    newcomer = wide.source(wide.settings())
    newcomer.open(other)
    with polled(newcomer):
        admin.remove_group_members(wide.group, [member])
        until(lambda: other.owned == set(wide.partitions))
        source._consumer._coordinator.request_rejoin()  # before its next heartbeat
        until(lambda: source.poll(0.2) is not None and bool(owner.told))
    admin.close()
    assert owner.told[0][0] == "lost"
    assert "revoked" not in [kind for kind, _ in owner.told]
    assert wide.published("scores") == []
    assert outlet.committed(wide.partitions[0]) is None


def test_between_joining_again_and_being_told_what_is_ours_nothing_is(
    wide: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a valid member then, whose offsets the broker takes, and holds what others may be given just now."""
    patience = source_module.JOINING
    monkeypatch.setattr(source_module, "JOINING", 0.2)
    settings, owner, other = wide.settings(heartbeat_interval_ms=6_000, session_timeout_ms=20_000), Owner(), Owner()
    source = wide.joined(settings, owner)
    outlet = wide.outlet(settings, source)
    for partition in wide.partitions:
        source.seek(partition, 0)
    owner.told.clear()
    before = source.membership(wide.partitions).member_id
    manager, held, waits = source._consumer._coordinator._manager, threading.Event(), threading.Event()
    send = manager.send

    async def slowly(request: Any, **options: Any) -> Any:
        while not held.is_set():
            waits.set()
            await manager._net.sleep(0.02)
        return await send(request, **options)

    def sending(request: Any, **options: Any) -> Any:
        return (slowly if isinstance(request, SyncGroupRequest) else send)(request, **options)

    monkeypatch.setattr(manager, "send", sending)
    admin = KafkaAdminClient(bootstrap_servers=wide.broker.bootstrap)
    newcomer = wide.source(wide.settings())
    newcomer.open(other)
    with polled(newcomer):
        admin.remove_group_members(wide.group, [MemberToRemove(member_id=before)])
        until(lambda: other.owned == set(wide.partitions))
        source._consumer._coordinator.request_rejoin()  # before its next heartbeat
        until(lambda: source.poll(0.1) is not None and waits.is_set())
        for _ in range(3):
            source.poll(0.1)
        assert source._consumer.group_metadata().member_id not in ("", before)
        assert owner.told == []
        for partition in wide.partitions:
            with pytest.raises(Fenced, match="no longer assigned"):
                outlet.deliver(delivery({partition: 1}, scores=[1]))
        monkeypatch.setattr(
            source_module, "JOINING", patience
        )  # else, on a busy machine, joins are thrown away for ever
        held.set()
        until(lambda: source.poll(0.1) is not None and len(owner.owned) == 1 and len(other.owned) == 1)
    admin.close()
    assert owner.owned.isdisjoint(other.owned)
    assert "revoked" not in [kind for kind, _ in owner.told]
    assert wide.published("scores") == []

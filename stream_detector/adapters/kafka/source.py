"""Events from a Kafka topic, as a member of a consumer group."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import KafkaTimeoutError, OffsetOutOfRangeError
from kafka.structs import MemberState, OffsetAndMetadata, TopicPartition

from stream_detector.adapters.kafka.assignor import HonestAssignor
from stream_detector.adapters.kafka.client import connect, consumer_options
from stream_detector.adapters.kafka.failures import translate, translated, within
from stream_detector.adapters.kafka.listener import Rebalances
from stream_detector.adapters.kafka.reread import reach_back
from stream_detector.codec import Decoder, Raw
from stream_detector.errors import Fenced, Refused, Unavailable
from stream_detector.events import Partition, Slice
from stream_detector.ports import Lookback, Ownership
from stream_detector.settings import Settings

log = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds that a question to the broker may take
JOINING = 5.0  # seconds that a poll stays for a rebalance at most; longer ones wait for a member that died


class KafkaSource:
    """`ports.Source` on kafka-python. A partition is silent from its assignment to the first `seek`.

    Beyond the port it is our membership in the group, which an outlet needs: `membership`, `committed`, `commit`.
    """

    def __init__(
        self, settings: Settings, decoder: Decoder, took: Callable[[str, float], None] = lambda stage, seconds: None
    ) -> None:
        self._settings = settings
        self._decoder = decoder
        self._took = took  # told how long decoding, a part of polling, took
        self._topic = settings.topics.events
        self._consumer: Any = None
        self._client: Any = None
        self._assignors: list[HonestAssignor] = []
        self._joined = False  # in the group, at least once since it was opened
        self._ownership: Ownership | None = None
        self._rebalances = Rebalances(self._on_assigned, self._on_revoked, self._on_lost)
        self._owned: dict[Partition, str] = {}  # as which member of the group it was assigned to us
        self._identities: dict[Partition, str] = {}  # of the topic, when we began to read the partition
        self._positions: dict[Partition, int] = {}  # end of the last slice, or where `seek` led; absent: not sought

    def open(self, ownership: Ownership) -> None:
        """Connect and join; partitions arrive by `ownership` while `poll` is called."""
        self.close()
        options = consumer_options(self._settings)
        self._consumer, self._client = connect(KafkaConsumer, options)
        strategy = options["partition_assignment_strategy"]
        self._assignors = [assignor for assignor in strategy if isinstance(assignor, HonestAssignor)]
        for assignor in self._assignors:
            assignor.member = self._member
        self._ownership = ownership
        try:
            self.require([self._topic])
            self._rebalances.attach(self._client.wakeup)
            with translated("joining the group"):
                self._consumer.subscribe([self._topic], listener=self._rebalances)
        except BaseException:
            self.close()
            raise

    def poll(self, timeout: float) -> list[Slice]:
        """Wait for events; rebalances happen in here. See `ports.Source.poll`."""
        consumer = self._opened()
        fetched: Mapping[TopicPartition, list[Any]] = {}
        try:
            with translated("reading events"), self._out_of_range():
                fetched = consumer.poll(timeout_ms=round(timeout * 1_000))
                # kafka-python 3.0.12 throws away a join that completes while nobody polls, and joins again: workers
                # that are busy between polls would rebalance for ever. So stay until this one is through.
                deadline = time.monotonic() + JOINING
                while not fetched and _joining(consumer) and time.monotonic() < deadline:
                    fetched = consumer.poll(timeout_ms=100)
            self._rebalances.raise_failure()
            self._join_twice(consumer)
            self._compare_member()
            self._compare_identity()
            return self._slices(fetched)
        except BaseException:
            self._rewind()
            raise

    def _join_twice(self, consumer: Any) -> None:
        """A static member that comes back is given what it had, without a rebalance.

        If it died between giving partitions up and joining again, as cooperative rebalances go, those would belong to
        nobody until somebody else joins or leaves.
        """
        static = self._settings.kafka.group_instance_id is not None
        if static and not self._joined and consumer.group_metadata().generation_id >= 0:
            self._joined = True
            consumer._coordinator.request_rejoin()

    def seek(self, partition: Partition, offset: int) -> None:
        """Read ``partition`` from ``offset``, and at all if this is the first time since it was assigned."""
        if partition not in self._owned:
            raise Fenced(f"{partition} is no longer assigned to this worker")
        self._opened().seek(TopicPartition(*partition), offset)
        self._positions[partition] = offset
        self._consumer.resume(TopicPartition(*partition))

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """The first offset that exists and the one after the last that is committed."""
        tp, consumer = TopicPartition(*partition), self._opened()
        with translated(f"asking for the bounds of {partition}"):
            first = consumer.beginning_offsets([tp], timeout_ms=PATIENCE * 1_000)[tp]
            last = consumer.end_offsets([tp], timeout_ms=PATIENCE * 1_000)[tp]
        return int(first), int(last)

    def identity(self, partition: Partition) -> str:
        """The topic's id, from the last metadata that a broker sent."""
        found = self._client.cluster.topic_id(partition.topic)
        return "" if found is None else str(found)

    def reach(self, partition: Partition, before: int, lookback: Lookback) -> int:
        """Looks at the events themselves, with a consumer of its own."""
        return reach_back(self._settings, self._decoder, partition, before, lookback)

    def pause(self, partitions: Collection[Partition]) -> None:
        """Fetch nothing of these until sought."""
        assigned = set() if self._consumer is None else self._consumer.assignment()
        for partition in self._owned.keys() & set(partitions):
            self._positions.pop(partition, None)
            if TopicPartition(*partition) in assigned:  # else it is being taken away, which the next poll tells
                self._consumer.pause(TopicPartition(*partition))

    def lag(self) -> Mapping[Partition, int]:
        """How far the log goes beyond what was polled, where a poll has told."""
        lags = {}
        for partition, position in self._positions.items():
            end = self._consumer.highwater(TopicPartition(*partition)) if partition in self._owned else None
            if end is not None:
                lags[partition] = max(0, end - position)
        return lags

    @property
    def finished(self) -> bool:
        """A topic never ends."""
        return False

    def close(self) -> None:
        """Leave the group."""
        consumer, client = self._consumer, self._client
        self._consumer = self._client = self._ownership = None
        self._joined = False
        self._owned.clear()
        self._positions.clear()
        if consumer is None:
            return
        try:
            consumer.close(autocommit=False, timeout_ms=5_000)
        except Exception as error:  # we leave anyway; the group notices in time
            log.warning("%s", translate(error, "leaving the group"))
            client.close()

    def membership(self, partitions: Collection[Partition]) -> Any:
        """kafka-python's snapshot of our membership, to fence a delivery for ``partitions`` with.

        The broker takes offsets in a transaction from nobody in particular without any check, and from a member for
        any partition. So a consumer that has just been thrown out of the group must be stopped here, also one that is
        back already, as another member: its partitions may have been somebody else's meanwhile.
        """
        metadata = self._opened().group_metadata()
        if metadata.generation_id < 0 or not metadata.member_id:
            raise Fenced(f"no longer a member of the group {metadata.group_id}")
        for partition in partitions:
            if self._owned.get(partition) != metadata.member_id:
                raise Fenced(f"{partition} is no longer assigned to this worker")
        return metadata

    def committed(self, partition: Partition, seconds: float) -> int | None:
        """The group's committed position; one in an open transaction is waited for, up to ``seconds``."""
        consumer, tp = self._opened(), TopicPartition(*partition)
        # kafka-python 3.0.12 keeps the answer to a question that nobody waited for, such as that of a short poll right
        # after joining, and gives it to whoever asks next: a position from before others committed. Ask afresh.
        consumer._coordinator._offset_fetch_futures.pop(frozenset([tp]), None)
        with translated(f"reading the committed position of {partition}"):
            try:
                position = consumer.committed(tp, timeout_ms=seconds * 1_000)
            except KafkaTimeoutError:
                # Not always the network: a single-node broker that is killed in the middle of a commit may forget
                # to end it ("partitions are likely deleted already and hence can be skipped").
                raise Unavailable(
                    f"Kafka: no committed position of {partition} within {seconds:.0f} s: the coordinator is away or"
                    " a transaction stays open; if it persists, see kafka-transactions.sh find-hanging and abort"
                ) from None
        return None if position is None else int(position)

    def commit(self, positions: Mapping[Partition, int], seconds: float) -> None:
        """Commit ``positions`` outside of any transaction."""
        self.membership(positions)
        offsets = {TopicPartition(*partition): OffsetAndMetadata(offset) for partition, offset in positions.items()}
        with translated("committing positions"):
            self._opened().commit(offsets, timeout_ms=seconds * 1_000)

    def require(self, topics: Sequence[str]) -> None:
        """Raise `Refused` for the first of ``topics`` that does not exist or that we may not see."""
        with translated("asking for the topics"):
            present = within(PATIENCE, self._opened().topics)
        for topic in topics:
            if topic not in present:
                raise Refused(
                    f"Kafka: topic {topic!r} does not exist or this user may not describe it; create it, grant"
                    " DESCRIBE on it, or correct its name in the [topics] section"
                )

    def _opened(self) -> Any:
        if self._consumer is None:
            raise Unavailable("Kafka: the source is not open")
        return self._consumer

    def _slices(self, fetched: Mapping[TopicPartition, list[Any]]) -> list[Slice]:
        slices = []
        for partition, start in list(self._positions.items()):
            tp = TopicPartition(*partition)
            records = fetched.get(tp, [])
            # The position is beyond the last record where markers follow, and may move without any records.
            end = self._consumer.position(tp, timeout_ms=0)
            if end is None:
                end = records[-1].offset + 1 if records else start
            if end < start or (records and records[0].offset < start):
                self._start_over(partition, "the log is another one than before")
            elif end > start:
                slices.append(self._slice(partition, start, end, records))
        for piece in slices:  # only now: if decoding fails, nothing was taken
            self._positions[piece.partition] = piece.end
        return slices

    def _slice(self, partition: Partition, start: int, end: int, records: list[Any]) -> Slice:
        started = time.perf_counter()
        decoded = self._decoder.decode(
            [Raw(record.offset, record.timestamp, record.key, record.value) for record in records]
        )
        self._took("decode", time.perf_counter() - started)
        return Slice(partition, start, end, decoded.events, decoded.rejects, decoded.raw)

    @contextmanager
    def _out_of_range(self) -> Iterator[None]:
        """A position that the log does not reach is no failure: the pipeline opens the partition again."""
        try:
            yield
        except OffsetOutOfRangeError as error:
            self._rewind()
            for tp in error.args[0]:
                self._start_over(Partition(*tp), "the log does not reach our position")

    def _compare_member(self) -> None:
        """Start over what we were given back after we had been thrown out: others may have worked on it meanwhile.

        We are another member from the answer to JoinGroup on, but what is ours as that comes with the answer to
        SyncGroup only, which may take as long as the group's leader does: what we still hold may be given to somebody
        else in between, and must not pass for ours. (Other protocols than the cooperative one give up all before.)
        """
        member, assigned = self._member(), self._consumer.assignment()
        if any(assignor.assigned_to == member for assignor in self._assignors):
            for partition in [partition for partition, owner in self._owned.items() if owner != member]:
                if TopicPartition(*partition) in assigned:
                    self._start_over(partition, "we were out of the group, and were given it back")

    def _member(self) -> str:
        """Our id in the group; empty while we are in none."""
        if self._consumer is None:
            return ""
        metadata = self._consumer.group_metadata()
        return str(metadata.member_id or "") if metadata.generation_id >= 0 else ""

    def _compare_identity(self) -> None:
        """Start over where the topic was deleted and made anew under us: offsets mean other events now."""
        for partition in list(self._positions):
            now = self.identity(partition)
            if now and self._identities.setdefault(partition, now) != now:
                self._identities[partition] = now
                self._start_over(partition, "the topic was made anew")

    def _start_over(self, partition: Partition, why: str) -> None:
        """Let the pipeline open the partition again."""
        log.warning("%s: %s; opening it again", partition, why)
        tp = TopicPartition(*partition)
        self._on_lost([tp])
        self._on_assigned([tp])

    def _rewind(self) -> None:
        """Let the next poll bring again what the failed one had taken from the consumer."""
        if self._consumer is None:
            return
        assigned = self._consumer.assignment()
        for partition, position in self._positions.items():
            tp = TopicPartition(*partition)
            if tp in assigned:
                self._consumer.seek(tp, position)

    def _on_assigned(self, tps: list[TopicPartition]) -> None:
        self._consumer.pause(*tps)  # nothing is read until the pipeline has sought
        for tp in tps:
            self._consumer.seek(tp, 0)  # else the client asks for a position to start at, and would start there
        partitions = [Partition(*tp) for tp in tps]
        self._owned |= dict.fromkeys(partitions, self._member())
        self._forget(partitions)
        if self._ownership is not None:
            self._ownership.assigned(partitions)

    def _on_revoked(self, tps: list[TopicPartition]) -> None:
        # kafka-python 3.0.12 also calls it so when we were thrown out, if we hear of it by joining again. What has been
        # ours as another member may be somebody else's already.
        member = self._member()
        lost = [tp for tp in tps if self._owned.get(Partition(*tp)) != member]
        if lost:
            self._on_lost(lost)
        partitions = [Partition(*tp) for tp in tps if tp not in lost]
        try:
            if partitions and self._ownership is not None:
                self._ownership.revoked(partitions)
        finally:
            self._disown(partitions)

    def _on_lost(self, tps: list[TopicPartition]) -> None:
        partitions = [Partition(*tp) for tp in tps]
        self._disown(partitions)
        if self._ownership is not None:
            self._ownership.lost(partitions)

    def _disown(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            self._owned.pop(partition, None)
        self._forget(partitions)

    def _forget(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            self._positions.pop(partition, None)
            self._identities.pop(partition, None)


def _joining(consumer: Any) -> bool:
    """Whether a join is under way. The public state says so a moment too late for polls of a few milliseconds."""
    if getattr(consumer._coordinator, "rejoining", False):
        return True
    return bool(consumer.group_metadata().state == MemberState.REBALANCING)

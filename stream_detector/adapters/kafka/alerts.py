"""The alerts topic as a target's own group reads it, and where alerts go that did not reach it."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from kafka import KafkaProducer
from kafka.errors import OffsetMetadataTooLargeError
from kafka.structs import OffsetAndMetadata, TopicPartition

from stream_detector.adapters.kafka.client import connect, producer_options
from stream_detector.adapters.kafka.failures import cause, translate, translated
from stream_detector.adapters.kafka.source import PATIENCE, KafkaSource
from stream_detector.codec import Decoded, Decoder, Raw
from stream_detector.events import Events, Partition
from stream_detector.ports import Ownership
from stream_detector.settings import Settings
from stream_detector.webhooks.backlog import Entry
from stream_detector.webhooks.ports import Batch, Record
from stream_detector.webhooks.progress import Progress, decode, encode

log = logging.getLogger(__name__)

ASK_EVERY = 10.0  # seconds, for the ends of partitions that are paused
CHUNK = 200  # records a poll: they come on top of `webhooks.max_waiting`


class Verbatim:
    """Records as they are, in the columns that `KafkaSource` wants."""

    def decode(self, records: Sequence[Raw]) -> Decoded:
        """Offsets and the records' own times; keys and values beside them."""
        times = np.array([record.arrival for record in records], np.int64)
        offsets = np.array([record.offset for record in records], np.int64)
        events = Events([""] * len(records), times, np.empty((len(records), 0), np.float32), offsets, times)
        return Decoded(events, [], [(record.key, record.value) for record in records])


class Membership(KafkaSource):
    """A source whose commits say more than an offset."""

    def __init__(self, settings: Settings, decoder: Decoder) -> None:
        super().__init__(settings, decoder)
        self._asked = float("-inf")
        self._silent: Mapping[Partition, int] = {}  # ends of paused partitions

    def progress(self, partition: Partition) -> Progress | None:
        """See `webhooks.ports.Alerts.progress`."""
        consumer, tp = self._opened(), TopicPartition(*partition)
        consumer._coordinator._offset_fetch_futures.pop(frozenset([tp]), None)  # see `KafkaSource.committed`
        with translated(f"reading the committed position of {partition}"):
            found = consumer.committed(tp, metadata=True, timeout_ms=PATIENCE * 1_000)
        return None if found is None else decode(int(found.offset), str(found.metadata or ""))

    def numbers(self, topic: str) -> list[int]:
        """The topic's partitions."""
        with translated("asking for the topics"):
            return sorted(self._opened().partitions_for_topic(topic) or ())

    def ends(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """Where logs end: as the last fetch told, or asked for now and then where nothing is fetched."""
        read = self._positions.keys() & self._owned.keys()
        known = {partition: self._opened().highwater(TopicPartition(*partition)) for partition in read}
        silent = [TopicPartition(*partition) for partition in partitions if partition not in known]
        if not silent:
            self._asked, self._silent = float("-inf"), {}
        elif time.monotonic() - self._asked > ASK_EVERY:
            with translated("asking for the ends of the topic"):
                found = self._opened().end_offsets(silent, timeout_ms=PATIENCE * 1_000)
            self._asked, self._silent = time.monotonic(), {Partition(*tp): int(end) for tp, end in found.items()}
        every = dict(self._silent) | {partition: int(end) for partition, end in known.items() if end is not None}
        return {partition: end for partition, end in every.items() if partition in partitions}

    def commit_progress(self, progress: Mapping[Partition, Progress]) -> None:
        """See `webhooks.ports.Alerts.commit`."""
        self.membership(progress)
        texts = {partition: encode(so_far) for partition, so_far in progress.items()}
        with translated("committing positions"):
            try:
                self._commit(progress, texts)
            except Exception as error:
                if not isinstance(cause(error), OffsetMetadataTooLargeError):
                    raise
                log.warning("the broker's offset.metadata.max.bytes is below 4096: a restart will repeat more alerts")
                self._commit(progress, dict.fromkeys(progress, ""))

    def _commit(self, progress: Mapping[Partition, Progress], texts: Mapping[Partition, str]) -> None:
        offsets = {
            TopicPartition(*partition): offset_of(so_far, texts[partition]) for partition, so_far in progress.items()
        }
        self._opened().commit(offsets, timeout_ms=PATIENCE * 1_000)


class KafkaAlerts:
    """`webhooks.ports.Alerts` on kafka-python."""

    def __init__(self, settings: Settings, group: str) -> None:
        self._topics = settings.topics
        update: dict[str, Any] = {
            "kafka": settings.kafka.model_copy(update={"group_id": group, "group_instance_id": None}),
            "topics": settings.topics.model_copy(update={"events": settings.topics.alerts}),
            "poll": settings.poll.model_copy(update={"max_records": CHUNK}),
        }
        self._source = Membership(settings.model_copy(update=update), Verbatim())  # type: ignore[arg-type]

    def open(self, ownership: Ownership) -> None:
        """See `webhooks.ports.Alerts.open`; the topic of dead letters must exist too."""
        self._source.open(ownership)
        try:
            self._source.require([self._topics.webhook_dead_letters])
        except BaseException:
            self._source.close()
            raise

    def poll(self, timeout: float) -> list[Batch]:
        """See `webhooks.ports.Alerts.poll`."""
        return [
            Batch(
                piece.partition,
                piece.end,
                [
                    Record(offset, arrival, key, value)
                    for offset, arrival, (key, value) in zip(
                        piece.events.offsets.tolist(), piece.events.arrivals.tolist(), piece.raw, strict=True
                    )
                ],
            )
            for piece in self._source.poll(timeout)
        ]

    def progress(self, partition: Partition) -> Progress | None:
        """See `webhooks.ports.Alerts.progress`."""
        return self._source.progress(partition)

    def fresh(self) -> bool:
        """See `webhooks.ports.Alerts.fresh`."""
        topic = self._topics.alerts
        return all(self._source.progress(Partition(topic, number)) is None for number in self._source.numbers(topic))

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """See `webhooks.ports.Alerts.bounds`."""
        return self._source.bounds(partition)

    def seek(self, partition: Partition, offset: int) -> None:
        """See `webhooks.ports.Alerts.seek`."""
        self._source.seek(partition, offset)

    def pause(self, partitions: Collection[Partition]) -> None:
        """See `webhooks.ports.Alerts.pause`."""
        self._source.pause(partitions)

    def commit(self, progress: Mapping[Partition, Progress]) -> None:
        """See `webhooks.ports.Alerts.commit`."""
        self._source.commit_progress(progress)

    def lag(self, positions: Mapping[Partition, int]) -> int:
        """See `webhooks.ports.Alerts.lag`."""
        return sum(max(0, end - positions[partition]) for partition, end in self._source.ends(positions).items())

    def close(self) -> None:
        """See `webhooks.ports.Alerts.close`."""
        self._source.close()


def offset_of(progress: Progress, text: str) -> OffsetAndMetadata:
    """What is committed."""
    return OffsetAndMetadata(progress.offset, text, -1)


class KafkaDeadLetters:
    """`webhooks.ports.DeadLetters` on kafka-python; connects when there is something to send."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: Any = None

    def send(self, target: str, entries: Sequence[Entry]) -> None:
        """See `webhooks.ports.DeadLetters.send`."""
        topic = self._settings.topics.webhook_dead_letters
        try:
            if self._producer is None:
                self._producer, _ = connect(KafkaProducer, producer_options(self._settings))
            sent = []
            for entry in entries:
                # A record of Kafka must have a key or a value.
                sent.append(self._producer.send(topic, entry.value or b"", entry.key, letter_headers(target, entry)))
            for future in sent:
                future.get(timeout=3 * PATIENCE)
        except Exception as error:
            self.close()
            raise translate(error, "sending dead letters") from error

    def close(self) -> None:
        """See `webhooks.ports.DeadLetters.close`."""
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.close(timeout=2)
            except Exception as error:  # it is of no use any more
                log.debug("%s", translate(error, "closing the producer"))


def letter_headers(target: str, entry: Entry) -> list[tuple[str, bytes]]:
    """Where an alert came from, whom it did not reach, and why; named as in the other dead letters."""
    reason, message = entry.given_up or ("", "")
    return [
        ("errors.topic", entry.partition.topic.encode()),
        ("errors.partition", str(entry.partition.number).encode()),
        ("errors.offset", str(entry.offset).encode()),
        ("errors.exception", reason.encode()),
        ("errors.message", message.encode("utf-8", "backslashreplace")),
        ("errors.target", target.encode()),
        ("errors.tries", str(entry.tries).encode()),
    ]

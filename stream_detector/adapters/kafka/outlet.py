"""Results to Kafka topics, together with the input positions that they complete."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

from kafka import KafkaProducer
from kafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
from kafka.structs import OffsetAndMetadata, TopicPartition

from stream_detector.adapters.kafka.client import connect, producer_options
from stream_detector.adapters.kafka.failures import cause, translate, within
from stream_detector.adapters.kafka.reread import read_topic
from stream_detector.adapters.kafka.source import PATIENCE, KafkaSource
from stream_detector.alerts import standing
from stream_detector.codec import (
    cloudevent_headers,
    dead_letter_headers,
    decode_alert,
    encode_alert,
    encode_embedding,
    encode_score,
)
from stream_detector.errors import Unavailable
from stream_detector.events import Alert, Partition, Reject
from stream_detector.ports import Delivery
from stream_detector.settings import Settings

log = logging.getLogger(__name__)

ABORTED_IN = 20.0  # seconds in which a broker ends a transaction whose time is up: it looks every 10 s
SHORTEST = 1024
LENGTHS = (None, 64 * 1024, SHORTEST)  # bytes kept of a dead letter's key and value, tried in turn


class Message(NamedTuple):
    """The arguments of `KafkaProducer.send`, in its order."""

    topic: str
    value: bytes | None
    key: bytes | None
    headers: list[tuple[str, bytes]] | None = None


class TooLarge(Exception):  # no error yet: it is tried again, shorter
    """Something was too large for the broker, and there are dead letters that can be cut shorter."""


class KafkaOutlet:
    """`ports.Outlet` on kafka-python: one transaction a delivery, or plain sends in at-least-once mode.

    After any failure the producer is thrown away: kafka-python 3.0.12 keeps the offsets of an aborted transaction
    and would commit them with the next one.
    """

    def __init__(self, settings: Settings, source: KafkaSource) -> None:
        self._settings = settings
        self._source = source
        self._exactly_once = settings.delivery.mode == "exactly_once"
        self._timeout = settings.delivery.transaction_timeout / 1_000
        name = settings.kafka.group_instance_id or uuid.uuid4().hex
        self._transactional_id = f"{settings.kafka.group_id}-{name}"
        self._producer: Any = None

    def open(self) -> None:
        """Connect a new producer; in exactly-once mode this ends and fences what an earlier self left open."""
        self._let_go()
        options = producer_options(self._settings)
        if self._exactly_once:
            options["transactional_id"] = self._transactional_id
            options["transaction_timeout_ms"] = self._settings.delivery.transaction_timeout
        topics = self._settings.topics
        more = [topics.embeddings] if self._settings.publish.embeddings else []
        self._source.require([topics.scores, topics.alerts, topics.dead_letters, *more])
        self._producer, _ = connect(KafkaProducer, options)
        if self._exactly_once:
            try:
                self._producer.init_transactions()
            except Exception as error:
                self._let_go()
                raise translate(error, "ending earlier transactions") from error

    def committed(self, partition: Partition) -> int | None:
        """The group's committed position, after open transactions on it have ended one way or the other."""
        return self._source.committed(partition, self._timeout + ABORTED_IN)

    def standing(self, partition: Partition, before: int, limit: int) -> list[Alert]:
        """See `ports.Outlet.standing`. Reads the whole alerts topic: keys, hence partitions, are by sensor."""
        records = read_topic(self._settings, self._settings.topics.alerts, self._timeout + ABORTED_IN)
        return standing(filter(None, (decode_alert(record.value) for record in records)), partition, before, limit)

    def deliver(self, delivery: Delivery) -> None:
        """See `ports.Outlet.deliver`. Without positions there is nothing to commit, hence nothing happens."""
        if not delivery.positions:
            return
        for limit in LENGTHS:
            if self._producer is None:
                raise Unavailable("Kafka: the outlet is not open")
            membership = self._source.membership(delivery.positions)
            try:
                self._attempt(delivery, membership, limit)
                return
            except TooLarge:
                log.warning("a record is larger than the broker takes; cutting dead letters short")
                self._give_up()
                self.open()
            except BaseException as error:
                self._give_up()
                if isinstance(error, Exception):
                    raise translate(error, "delivering results") from error
                raise

    def close(self) -> None:
        """Let go of the producer."""
        self._let_go()

    def _attempt(self, delivery: Delivery, membership: Any, limit: int | None) -> None:
        """One try at the whole delivery; raises whatever kafka-python raises."""
        producer, deadline = self._producer, time.monotonic() + self._timeout
        if not self._exactly_once:
            self._send(delivery, limit, deadline)
            self._source.commit(delivery.positions, PATIENCE)
            return
        producer.begin_transaction()
        self._send(delivery, limit, deadline)
        offsets = {
            TopicPartition(*partition): OffsetAndMetadata(position)
            for partition, position in delivery.positions.items()
        }
        within(deadline - time.monotonic(), producer.send_offsets_to_transaction, offsets, membership)
        # All sends are acknowledged by now, and must be: if the producer's epoch is bumped while it commits,
        # kafka-python 3.0.12 reports a transaction as committed that the broker has aborted.
        within(deadline - time.monotonic(), producer.commit_transaction)

    def _send(self, delivery: Delivery, limit: int | None, deadline: float) -> None:
        """Send everything and wait until the broker has it."""
        letters = [self._dead_letter(partition, reject, limit) for partition, reject in delivery.rejects]
        shorter = any(len(letter.value or b"") > SHORTEST or len(letter.key or b"") > SHORTEST for letter in letters)
        try:
            send = self._producer.send
            futures = [send(*message) for message in (*letters, *self._results(delivery))]
            try:
                self._producer.flush(timeout=max(0.0, deadline - time.monotonic()))
            except KafkaTimeoutError:
                log.debug("not all results were acknowledged in time")  # which ones, their futures tell
            for future in futures:
                if not future.succeeded():
                    raise cause(future.exception or KafkaTimeoutError("the broker did not acknowledge in time"))
        except KafkaError as error:
            # Whichever record it was: all that were waiting fail with the same error, and later sends do.
            if shorter and isinstance(cause(error), (MessageSizeTooLargeError, RecordListTooLargeError)):
                raise TooLarge from error
            raise

    def _results(self, delivery: Delivery) -> Iterator[Message]:
        topics = self._settings.topics
        for score in delivery.scores:
            yield Message(topics.scores, encode_score(score), score.sensor_id.encode())
        for embedding in delivery.embeddings:
            yield Message(topics.embeddings, encode_embedding(embedding), embedding.sensor_id.encode())
        for alert in delivery.alerts:
            yield Message(topics.alerts, encode_alert(alert), alert.sensor_id.encode(), cloudevent_headers(alert))

    def _dead_letter(self, partition: Partition, reject: Reject, limit: int | None) -> Message:
        headers = dead_letter_headers(partition, reject)
        key, value = reject.key, reject.value
        if limit is not None and max(len(key or b""), len(value or b"")) > limit:
            headers.append(("errors.truncated", str(len(value or b"")).encode()))
            key, value = (None if part is None else part[:limit] for part in (key, value))
        if key is None and value is None:
            value = b""  # a record of Kafka must have one of them
        return Message(self._settings.topics.dead_letters, value, key, headers)

    def _give_up(self) -> None:
        """Abort what is open, so that nobody need wait until the broker does, and throw the producer away."""
        if self._exactly_once:
            try:
                within(2.0, self._producer.abort_transaction)
            except Exception as error:  # then the broker does it in time
                log.debug("%s", translate(error, "aborting"))
        self._let_go()

    def _let_go(self) -> None:
        """Close the producer beside us: it may wait for a broker that is away."""
        producer, self._producer = self._producer, None
        if producer is not None:
            closing = threading.Thread(target=_close, args=(producer,), name="kafka-close", daemon=True)
            closing.start()
            closing.join(2.0)


def _close(producer: Any) -> None:
    try:
        producer.close(timeout=60)
    except Exception as error:  # it is of no use any more
        log.debug("%s", translate(error, "closing the producer"))

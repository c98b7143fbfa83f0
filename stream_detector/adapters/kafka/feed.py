"""Topics made ready, and events sent to one: for plants that are simulated. The service itself creates no topic."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaTimeoutError, TopicAlreadyExistsError

from stream_detector.adapters.kafka.client import admin_options, connect, producer_options
from stream_detector.adapters.kafka.failures import cause, translated
from stream_detector.errors import Unavailable
from stream_detector.settings import Settings

PATIENCE = 15.0  # seconds for an answer


def create_topics(settings: Settings, partitions: int, replicas: int) -> list[str]:
    """Create those topics that the settings use and that are missing; their names. Raises `Unavailable`, `Refused`."""
    unused = set() if settings.publish.embeddings else {"embeddings"}
    wanted = list(settings.topics.model_dump(exclude=unused).values())
    admin, _ = connect(KafkaAdminClient, admin_options(settings))
    try:
        with translated("creating topics"):
            known = set(admin.list_topics())
            missing = [name for name in wanted if name not in known]
            given = {name: {"num_partitions": partitions, "replication_factor": replicas} for name in missing}
            try:
                if missing:
                    admin.create_topics(given, wait_for_metadata=True)
            except TopicAlreadyExistsError:  # somebody was quicker
                pass
    finally:
        admin.close()
    return missing


class Feed:
    """Sends events; every one is acknowledged when `send` returns."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: Any = None

    def open(self) -> None:
        """Reach a broker. Raises `Unavailable` or `Refused`."""
        if self._producer is None:
            self._producer, _ = connect(KafkaProducer, producer_options(self._settings))

    def send(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        """Keys and values, to the topic of events. After an error send all again: the detector drops repeats."""
        topic = self._settings.topics.events
        with translated(f"sending to {topic}"):
            futures = [self._producer.send(topic, key=key, value=value) for key, value in messages]
            self._producer.flush(timeout=PATIENCE)
            for future in futures:
                if not future.succeeded():
                    raise cause(future.exception or KafkaTimeoutError("the broker did not acknowledge in time"))

    def close(self) -> None:
        """Let go of the producer; what it holds is given up after a moment."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(Unavailable), translated("closing"):
                producer.close(timeout=1)

"""Dead letters of webhooks, read again: from where a group of their own left off, without being a member of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka.structs import TopicPartition

from stream_detector.adapters.kafka.alerts import offset_of
from stream_detector.adapters.kafka.failures import translated
from stream_detector.adapters.kafka.reread import PATIENCE, read_part, read_topic, reader
from stream_detector.codec import decode_alert
from stream_detector.errors import Refused
from stream_detector.events import Alert, Partition
from stream_detector.settings import Settings
from stream_detector.webhooks.backlog import Entry
from stream_detector.webhooks.progress import Progress, Waiting, decode, encode

LEFT = Waiting(0, False)


class LetterBox:
    """Dead letters of one target; `webhooks.replay.Box`. `read` them first."""

    def __init__(self, topic: str, target: str, consumer: Any) -> None:
        self._topic, self._target, self._consumer = topic, target, consumer
        self.letters: list[Entry] = []  # in the order of each partition
        self._reached: dict[Partition, int] = {}
        self._waiting: dict[Partition, dict[int, Waiting]] = {}

    def read(self) -> None:
        """Everything that is there now and was not sent again yet. Raises `Unavailable` or `Refused`."""
        numbers = sorted(self._consumer.partitions_for_topic(self._topic) or ())
        if not numbers:
            raise Refused(f"Kafka: topic {self._topic!r} does not exist; create it, or correct its name in [topics]")
        tps = [TopicPartition(self._topic, number) for number in numbers]
        starts = self._consumer.beginning_offsets(tps, timeout_ms=PATIENCE * 1_000)
        ends = self._consumer.end_offsets(tps, timeout_ms=PATIENCE * 1_000)
        for tp in tps:
            found = self._consumer.committed(tp, metadata=True, timeout_ms=PATIENCE * 1_000)
            past = Progress(0) if found is None else decode(int(found.offset), str(found.metadata or ""))
            if past.reached > ends[tp]:  # the topic was made anew
                past = Progress(0)
            partition, waiting = Partition(*tp), dict[int, Waiting]()
            for record in read_part(self._consumer, tp, max(past.offset, starts[tp]), ends[tp]):
                if dict(record.headers).get("errors.target") == self._target.encode() and not past.done(record.offset):
                    self.letters.append(_entry(partition, record))
                    waiting[record.offset] = LEFT
            self._reached[partition], self._waiting[partition] = max(ends[tp], past.reached), waiting

    def done(self, letter: Entry) -> None:
        """It was sent, or need not be."""
        del self._waiting[letter.partition][letter.offset]

    def keep(self) -> None:
        """Commit what is done; what is not comes again with the next reading. Raises `Unavailable` or `Refused`."""
        offsets = {}
        for partition, reached in self._reached.items():
            progress = Progress(reached, self._waiting[partition])
            offsets[TopicPartition(*partition)] = offset_of(progress, encode(progress))
        self._consumer.commit(offsets, timeout_ms=PATIENCE * 1_000)


@contextmanager
def letter_box(settings: Settings, target: str) -> Iterator[LetterBox]:
    """The dead letters of ``target``; kafka-python's exceptions inside are translated."""
    group = f"{settings.webhooks.group_id}.replay.{target}"  # a target's name holds no dot
    with reader(settings, "replaying dead letters", group_id=group) as consumer, translated("replaying dead letters"):
        yield LetterBox(settings.topics.webhook_dead_letters, target, consumer)


def revisions(settings: Settings) -> Mapping[str, list[Alert]]:
    """Every alert of the alerts topic, by id, in order. Raises `Unavailable` or `Refused`."""
    found: dict[str, list[Alert]] = {}
    for record in read_topic(settings, settings.topics.alerts, PATIENCE):
        alert = decode_alert(record.value)
        if alert is not None:
            found.setdefault(alert.id, []).append(alert)
    return found


def _entry(partition: Partition, record: Any) -> Entry:
    published = record.timestamp / 1_000
    return Entry(partition, record.offset, record.key, record.value, decode_alert(record.value), published, published)

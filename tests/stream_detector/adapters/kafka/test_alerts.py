"""The alerts topic on the real broker: what is committed comes back, also to the next member of the group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from stream_detector.adapters.kafka.alerts import KafkaAlerts, KafkaDeadLetters
from stream_detector.adapters.kafka.letters import letter_box, revisions
from stream_detector.errors import Fenced
from stream_detector.events import Partition
from stream_detector.settings import Settings
from stream_detector.webhooks.backlog import Entry
from stream_detector.webhooks.ports import Batch
from stream_detector.webhooks.progress import Progress, Waiting
from tests.alerts import alert, record
from tests.servers import KafkaBroker
from tests.service import produce
from tests.stream_detector.adapters.kafka.cluster import Owner, polled, until

WAITING = {1: Waiting(1_800_000_000, True), 3: Waiting(1_800_000_100, False)}


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def settings_of(broker: KafkaBroker, name: str, partitions: int) -> Settings:
    broker.create_topics({f"{name}-alerts": partitions, f"{name}-dead": 1})
    return Settings.model_validate(
        {
            "kafka": {"bootstrap_servers": broker.bootstrap, "heartbeat_interval_ms": 300},
            "topics": {"alerts": f"{name}-alerts", "webhook_dead_letters": f"{name}-dead"},
        }
    )


def joined(settings: Settings, stack: ExitStack, owner: Owner, count: int) -> KafkaAlerts:
    alerts = KafkaAlerts(settings, f"{settings.topics.alerts}-group")
    stack.callback(alerts.close)
    alerts.open(owner)
    until(lambda: alerts.poll(0.1) == [] and len(owner.owned) >= count)
    return alerts


def test_a_partition_is_read_paused_committed_and_handed_over(kafka_broker: KafkaBroker, opened: ExitStack) -> None:
    settings = settings_of(kafka_broker, "handed", 2)
    partitions = [Partition("handed-alerts", number) for number in (0, 1)]
    owner, other = Owner(), Owner()
    alerts = joined(settings, opened, owner, 2)
    assert alerts.fresh()
    assert alerts.progress(partitions[0]) is None
    sent = [record("a", revision) for revision in range(1, 6)]
    produce(kafka_broker.bootstrap, "handed-alerts", sent, 1)
    assert alerts.poll(0.1) == [], "nothing is read before it is sought"
    alerts.seek(partitions[0], 2)
    batches: list[Batch] = []
    until(lambda: batches.extend(alerts.poll(0.1)) or bool(batches))  # type: ignore[func-returns-value]
    [batch] = batches
    assert (batch.partition, batch.end) == (partitions[0], 5)
    assert [(one.offset, one.key, one.value) for one in batch.records] == [
        (2 + place, *pair) for place, pair in enumerate(sent[2:])
    ]
    assert all(one.timestamp > 1_600_000_000_000 for one in batch.records)
    alerts.pause(partitions)
    produce(kafka_broker.bootstrap, "handed-alerts", sent[:2], 1)
    assert alerts.lag({partitions[0]: 5}) == 2, "also while it is paused"
    progress = Progress(5, WAITING)
    alerts.commit({partitions[0]: progress, partitions[1]: Progress(0)})
    assert alerts.progress(partitions[0]) == progress
    assert not alerts.fresh()
    second = KafkaAlerts(settings, "handed-alerts-group")
    opened.callback(second.close)
    second.open(other)
    with polled(second):  # by a thread of its own: a join that completes while nobody polls is dropped
        until(lambda: alerts.poll(0.05) == [] and len(owner.owned) == len(other.owned) == 1)
    assert [what for what, _ in owner.told] == ["assigned", "revoked"]
    [theirs] = other.owned
    assert second.progress(theirs) == (progress if theirs == partitions[0] else Progress(0))
    with pytest.raises(Fenced):
        alerts.commit({theirs: Progress(9)})


def test_dead_letters_are_read_until_they_are_done(kafka_broker: KafkaBroker, opened: ExitStack) -> None:
    settings = settings_of(kafka_broker, "dead", 1)
    letters = KafkaDeadLetters(settings)
    opened.callback(letters.close)
    entries = []
    for place, name in enumerate("abc"):
        key, value = record(name)
        entry = Entry(Partition("dead-alerts", 0), place, key, value, alert(name), 0.0, 0.0)
        entry.given_up = "exhausted", "status 500"
        entries.append(entry)
    letters.send("ops", entries[:2])
    letters.send("other", entries[2:])
    with letter_box(settings, "ops") as box:
        box.read()
        assert [one.id for one in box.letters] == [entry.id for entry in entries[:2]]
        box.done(box.letters[1])
        box.keep()
    letters.send("ops", entries[2:])
    with letter_box(settings, "ops") as box:
        box.read()
        assert [one.id for one in box.letters] == [entries[0].id, entries[2].id]
        for one in box.letters:
            box.done(one)
        box.keep()
    with letter_box(settings, "ops") as box:
        box.read()
        assert box.letters == []
    with letter_box(settings, "other") as box:
        box.read()
        assert len(box.letters) == 1
    produce(kafka_broker.bootstrap, "dead-alerts", [record("a"), (b"x", b"no alert"), record("a", 2)], 1)
    assert [one.revision for one in revisions(settings)[alert("a").id]] == [1, 2]

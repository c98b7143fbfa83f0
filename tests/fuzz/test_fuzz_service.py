"""Fewer messages of the fuzz, through a real broker and a real Redis: what is published is what the rules say."""

from __future__ import annotations

import json
import uuid

from pydantic import SecretStr

from stream_detector.adapters.kafka import KafkaOutlet, KafkaSource
from stream_detector.adapters.memory import Silent
from stream_detector.adapters.redis.store import RedisStore
from stream_detector.codec import Decoder, Raw, rfc3339
from stream_detector.events import Model, Partition
from stream_detector.pipeline import Pipeline
from stream_detector.settings import Redis, Settings
from tests.fuzz.event_time import Filled
from tests.fuzz.messages import FEATURES, Maker
from tests.fuzz.world import PAUSE, PROFILES, START, Expected, LargestScorer, Wrong, outcomes
from tests.servers import KafkaBroker
from tests.service import committed_records, wait_for

MESSAGES, BATCH = 6_000, 500
KINDS = ("events", "scores", "alerts", "dead_letters")


def made(seed: int) -> list[Raw]:
    """The log: as Kafka cannot hold a record of neither key nor value, that one has a key."""
    maker, records = Maker(seed, START), list[Raw]()
    while len(records) < MESSAGES:
        messages = maker.batch(BATCH, PAUSE)
        for key, value, _ in messages:
            records.append(Raw(len(records), maker.now, b"k" if key is value is None else key, value))
    return records


def test_what_is_published_is_what_the_rules_say(kafka_broker: KafkaBroker, redis_url: str) -> None:
    run, records = f"fuzz-{uuid.uuid4().hex[:8]}", made(8)
    topics = {kind: f"{run}-{kind}" for kind in KINDS}
    # Their timestamps are years old: without this the broker would clear them away.
    kafka_broker.create_topics(dict.fromkeys(topics.values(), 1), {"retention.ms": "-1"})
    produce(kafka_broker.bootstrap, topics["events"], records)
    profile = PROFILES["default"]
    settings = Settings.model_validate(
        {
            "kafka": {"bootstrap_servers": kafka_broker.bootstrap, "group_id": f"{run} {{of braces}}"},
            "topics": topics,
            "events": {"max_future": profile.rules.max_future / 1_000},
            "poll": {"max_records": BATCH},
        }
    )
    decoder = Decoder(FEATURES, settings.columns, settings.events)
    expected = Expected(profile)
    for record, outcome in zip(records, outcomes(decoder, records)[1], strict=True):
        expected.judge(record, None, outcome)

    source = KafkaSource(settings, decoder)
    store = RedisStore(Redis(url=SecretStr(redis_url)), str(settings.kafka.group_id))
    outlet, model = KafkaOutlet(settings, source), Model("m", "1")
    pipeline = Pipeline(
        source, store, LargestScorer(), outlet, Silent(), profile.window_rules(), model, settings, now_ms=lambda: 0.0
    )
    try:
        source.open(pipeline)
        outlet.open()
        partition = Partition(topics["events"], 0)

        def through() -> bool:
            pipeline.turn()
            owned = pipeline.owned.get(partition)
            return owned is not None and owned.committed == len(records)

        wait_for(through, "the end of the log")
    finally:
        pipeline.close()
    check(expected, kafka_broker.bootstrap, topics)


def produce(bootstrap: str, topic: str, records: list[Raw]) -> None:
    """In order, to one partition."""
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20)
    for record in records:
        producer.send(topic, record.value, record.key, partition=0, timestamp_ms=record.arrival)
    producer.close()


def check(expected: Expected, bootstrap: str, topics: dict[str, str]) -> None:
    """Cross off what a reader of committed records sees."""
    for letter in committed_records(bootstrap, topics["dead_letters"]):
        headers = {name: value.decode() for name, value in letter.headers}
        assert headers["errors.topic"] == topics["events"]
        found = headers["errors.exception"], letter.key, letter.value
        due = expected.rejects.pop(int(headers["errors.offset"]), None)
        if found != due:
            raise Wrong(f"dead letter {headers} {found!r:.2000} where {due!r:.2000} was due")
    for record in committed_records(bootstrap, topics["scores"]):
        score = json.loads(record.value)
        where = score["source"]
        window = expected.windows.pop(where["last_offset"])
        assert record.key.decode() == score["sensor_id"]
        assert score["window_start"] == rfc3339(window.started)
        imputed = frozenset(map(FEATURES.index, score["imputed"]))
        found_window = (score["sensor_id"], where["first_offset"], score["window_end"], imputed)
        assert found_window == (window.sensor, window.first, rfc3339(window.ended), window.imputed)
        assert isinstance(window, Filled)
    for record in committed_records(bootstrap, topics["alerts"]):
        assert record.key.decode() == json.loads(record.value)["sensor_id"]
    expected.nothing_left()

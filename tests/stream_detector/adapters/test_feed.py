"""Topics made ready and events sent, by the commands, on a real broker."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from stream_detector.adapters.kafka import Feed, create_topics
from stream_detector.codec import Decoder, Raw
from stream_detector.errors import Refused, Unavailable
from stream_detector.settings import Columns, EventRules, Kafka, Publish, Settings, Topics
from tests.commandline import invoke
from tests.servers import KafkaBroker
from tests.servers.process import free_port
from tests.service import committed_records, wait_for, write_config
from training.plant import FEATURES


def settings_of(broker: str, name: str) -> Settings:
    topics = Topics(**{kind: f"{name}-{kind}" for kind in Topics.model_fields})
    return Settings(kafka=Kafka(bootstrap_servers=broker), topics=topics)


def test_topics_that_are_missing_are_created(kafka_broker: KafkaBroker) -> None:
    settings = settings_of(kafka_broker.bootstrap, uuid.uuid4().hex)
    kafka_broker.create_topics({settings.topics.events: 2})
    created = create_topics(settings, partitions=3, replicas=1)
    topics = settings.topics
    assert created == [topics.scores, topics.alerts, topics.dead_letters, topics.webhook_dead_letters]
    assert create_topics(settings, partitions=3, replicas=1) == []
    more = settings.model_copy(update={"publish": Publish(embeddings=True)})
    assert create_topics(more, partitions=3, replicas=1) == [topics.embeddings]


def test_more_replicas_than_brokers_are_refused(kafka_broker: KafkaBroker) -> None:
    with pytest.raises((Refused, Unavailable), match="creating topics"):
        create_topics(settings_of(kafka_broker.bootstrap, uuid.uuid4().hex), partitions=1, replicas=2)


def test_without_a_broker_it_is_one_line(tmp_path: Path) -> None:
    quick = {"bootstrap_timeout_ms": 300}
    config = write_config(tmp_path, "nobody", f"127.0.0.1:{free_port()}", "redis://127.0.0.1:1", tmp_path, kafka=quick)
    done = invoke("topics", "--config", config)
    assert done.code == 1
    assert done.err.startswith("error: Kafka: ")
    assert len(done.err.splitlines()) == 1


def test_a_topic_that_is_missing_is_refused(kafka_broker: KafkaBroker) -> None:
    settings = settings_of(kafka_broker.bootstrap, uuid.uuid4().hex)
    settings = settings.model_copy(update={"kafka": Kafka(bootstrap_servers=kafka_broker.bootstrap, max_block_ms=500)})
    feed = Feed(settings)
    feed.open()
    try:
        with pytest.raises((Refused, Unavailable), match=settings.topics.events):
            feed.send([(b"a", b"{}")])
    finally:
        feed.close()


def test_the_plant_sends_events_that_the_service_reads(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    name = uuid.uuid4().hex
    config = write_config(tmp_path, name, kafka_broker.bootstrap, "redis://127.0.0.1:1", tmp_path)
    assert f"created: {name}-events, " in invoke("topics", "--partitions", 2, "--config", config).out
    assert "there already" in invoke("topics", "--config", config).out
    log = tmp_path / "told"
    line = [sys.executable, "-m", "stream_detector", "simulate", "--pumps", "2", "--speed", "600", "--fault", "leak"]
    with log.open("wb") as stream:
        process = subprocess.Popen([*line, "--config", config], stdout=stream, stderr=stream)
    try:
        wait_for(lambda: "pumps send" in log.read_text(), "the plant to begin")
        process.send_signal(signal.SIGUSR1)
        wait_for(lambda: "leak at pump-1 from " in log.read_text(), "the fault")
        topic = f"{name}-events"
        wait_for(lambda: len(committed_records(kafka_broker.bootstrap, topic)) > 40, "events")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143, log.read_text()
    finally:
        process.kill()
        process.wait()
    records = committed_records(kafka_broker.bootstrap, topic)
    decoded = Decoder(FEATURES, Columns(), EventRules()).decode(
        [Raw(at, record.timestamp, record.key, record.value) for at, record in enumerate(records)]
    )
    assert not decoded.rejects
    assert set(decoded.events.sensors) == {"pump-1", "pump-2"}
    assert abs(int(decoded.events.timestamps.max()) - time.time() * 1_000) < 60_000


def test_its_past_is_a_file_to_train_on(tmp_path: Path) -> None:
    file = tmp_path / "normal.csv"
    done = invoke("simulate", "--out", file, "--days", 1, "--pumps", 1)
    assert done.code == 0, done.err
    header, *lines = file.read_text().splitlines()
    assert header == ",".join(["sensor_id", "timestamp", *FEATURES])
    assert f"wrote {len(lines)} events" in done.out
    assert 1_400 < len(lines) <= 1_440


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--fault", "gremlins"), "bearing-wear"),
        (("--fault-every", "1m"), "--fault-after"),
        (("--fault-lasts", "0s"), "more than 0"),
        (("--pumps", 0), "--pumps 0"),
        (("--out", "/nowhere/at/all.csv", "--days", 1, "--pumps", 1), "a file that can be written"),
    ],
)
def test_wrong_usage_is_one_line(arguments: tuple[object, ...], named: str) -> None:
    done = invoke("simulate", *arguments)
    assert done.code == 2
    assert named in done.err
    assert len(done.err.splitlines()) == 1

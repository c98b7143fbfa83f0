"""The servers answer, and keep their data when they are killed and when they are restarted."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from tests.servers import KafkaBroker, RedisServer, kafka
from tests.servers.process import Process

pytestmark = pytest.mark.servers


def produce(broker: KafkaBroker, topic: str, value: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, reconnect_backoff_max_ms=1000)
    try:
        producer.send(topic, value=value).get(timeout=30)
    finally:
        producer.close()


def consume(broker: KafkaBroker, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(
        bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest", reconnect_backoff_max_ms=1000
    )
    consumer.assign([TopicPartition(topic, 0)])
    try:
        values: list[bytes] = []
        while len(values) < count:
            values += [record.value for records in consumer.poll(1000).values() for record in records]
        return values
    finally:
        consumer.close()


def test_shared_kafka_broker_carries_records(kafka_broker: KafkaBroker) -> None:
    kafka_broker.create_topics({"servers-shared": 1})
    produce(kafka_broker, "servers-shared", b"reading")
    assert consume(kafka_broker, "servers-shared", 1) == [b"reading"]


def test_kafka_keeps_records_when_killed_and_restarted() -> None:
    with KafkaBroker() as broker:
        broker.create_topics({"readings": 1})
        produce(broker, "readings", b"first")
        broker.kill()
        broker.start()
        produce(broker, "readings", b"second")
        broker.restart()
        assert consume(broker, "readings", 2) == [b"first", b"second"]
    assert not broker.folder.exists()


def test_shared_redis_is_empty(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("key", "value")
        assert client.get("key") == b"value"


def test_redis_keeps_keys_when_killed_and_restarted() -> None:
    with RedisServer() as server, redis.Redis.from_url(server.url) as client:
        client.set("first", 1)
        server.kill()
        server.start()
        client.set("second", 2)
        server.restart()
        assert client.mget("first", "second") == [b"1", b"2"]
    assert not server.folder.exists()


def test_failed_start_shows_the_log() -> None:
    server = RedisServer(["--no-such-option", "1"])
    with pytest.raises(RuntimeError, match=r"ended with exit code 1 (.|\n)*no-such-option"), server:
        pass
    assert not server.folder.exists()


def test_missing_jars_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "LIBS", tmp_path)
    with pytest.raises(RuntimeError, match="run `make servers`"), KafkaBroker():
        pass


def test_missing_java_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="needs Java"), KafkaBroker():
        pass


def test_process_does_not_start_twice(tmp_path: Path) -> None:
    process = Process("sleep", tmp_path / "log")
    process.start(["sleep", "60"], lambda: True)
    try:
        with pytest.raises(RuntimeError, match="runs already"):
            process.start(["sleep", "60"], lambda: True)
    finally:
        process.stop()

"""What `stream-detector check` finds out about Kafka, one step after the other, each naming its own remedy."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.codec import has_lz4, has_snappy, has_zstd
from kafka.errors import for_code
from kafka.structs import TopicPartition

from stream_detector.adapters.kafka.client import (
    admin_options,
    connect,
    consumer_options,
    producer_options,
    reader_options,
)
from stream_detector.adapters.kafka.failures import translate, within
from stream_detector.errors import StreamDetectorError
from stream_detector.events import Finding
from stream_detector.settings import Settings

PATIENCE = 10.0  # seconds for one answer
LIBRARIES = {"lz4": has_lz4, "zstandard": has_zstd, "python-snappy": has_snappy}


def probe_kafka(settings: Settings) -> list[Finding]:
    """From the settings over the network to topics and permissions; what cannot be tried any more is left out."""
    findings = [*_codecs()]
    try:
        consumer_options(settings), producer_options(settings)
        options = admin_options(settings)
    except StreamDetectorError as error:
        return [*findings, Finding("kafka settings", False, str(error))]
    reached = [_reach(server) for server in _servers(options["bootstrap_servers"])]
    findings += reached
    if not any(finding.ok for finding in reached):
        return findings
    try:
        admin, _ = connect(KafkaAdminClient, options)
    except StreamDetectorError as error:
        return [*findings, Finding("kafka login", False, str(error))]
    findings.append(Finding("kafka login", True, f"as {options.get('sasl_plain_username', 'anonymous')}"))
    try:
        topics = within(PATIENCE, admin.describe_topics, list(_needs(settings)))
        findings += _topics(settings, {topic["name"]: topic for topic in topics})
    except Exception as error:  # whatever it is, it is a finding
        findings.append(Finding("kafka topics", False, str(translate(error, "describing topics"))))
    finally:
        admin.close()
    findings.append(_tried("kafka group", settings.kafka.group_id, lambda: _read_group(settings)))
    if settings.delivery.mode == "exactly_once":
        findings.append(_tried("kafka transactions", "allowed", lambda: _begin_transactions(settings)))
    return findings


def _servers(given: str | list[str]) -> list[str]:
    names = given.split(",") if isinstance(given, str) else given
    return [name.strip() for name in names]


def _reach(server: str) -> Finding:
    host, _, port = server.rpartition(":") if ":" in server else (server, "", "9092")
    what = f"kafka {server}"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=3.0):
            return Finding(what, True, "accepts connections")
    except ValueError:
        return Finding(what, False, f"{port!r} is no port; write kafka.bootstrap_servers as host:port")
    except socket.gaierror:
        return Finding(what, False, f"no such host {host!r}; correct kafka.bootstrap_servers")
    except OSError as error:
        why = error.strerror or str(error)
        return Finding(what, False, f"{why}; start the broker, open the firewall or correct kafka.bootstrap_servers")


def _codecs() -> Iterator[Finding]:
    for name, present in LIBRARIES.items():
        missing = f"not installed; topics compressed with it cannot be read: pip install {name}"
        # Snappy is rare and not among our requirements, so its absence is told but is no failure.
        yield Finding(f"kafka codec {name}", present() or name == "python-snappy", "" if present() else missing)


def _needs(settings: Settings) -> dict[str, str]:
    topics = settings.topics
    return {topics.events: "READ", topics.scores: "WRITE", topics.alerts: "WRITE", topics.dead_letters: "WRITE"}


def _topics(settings: Settings, found: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    for name, operation in _needs(settings).items():
        topic = found.get(name, {"error_code": 3})
        what = f"kafka topic {name}"
        if topic["error_code"]:
            error = for_code(topic["error_code"])()
            yield Finding(what, False, str(translate(error, f"describing {name}")))
        elif operation not in (topic.get("authorized_operations") or [operation]):
            yield Finding(what, False, f"no permission; grant this user {operation} and DESCRIBE on the topic")
        else:
            yield Finding(what, True, f"{len(topic['partitions'])} partitions, {operation} allowed")


def _read_group(settings: Settings) -> None:
    options = reader_options(settings) | {"group_id": settings.kafka.group_id}
    consumer, _ = connect(KafkaConsumer, options)
    try:
        consumer.committed(TopicPartition(settings.topics.events, 0), timeout_ms=PATIENCE * 1_000)
    finally:
        consumer.close(autocommit=False, timeout_ms=1_000)


def _begin_transactions(settings: Settings) -> None:
    """Under a name of its own: it must not fence a worker that runs."""
    options = producer_options(settings) | {"transactional_id": f"{settings.kafka.group_id}-check"}
    options["transaction_timeout_ms"] = settings.delivery.transaction_timeout
    options["max_block_ms"] = PATIENCE * 1_000
    producer, _ = connect(KafkaProducer, options)
    try:
        producer.init_transactions()
    finally:
        producer.close(timeout=1.0)


def _tried(what: str, well: str, attempt: Callable[[], None]) -> Finding:
    try:
        attempt()
    except Exception as error:  # whatever it is, it is a finding
        return Finding(what, False, str(translate(error, "trying")))
    return Finding(what, True, well)

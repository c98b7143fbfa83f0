"""What `stream-detector check` finds out about Kafka, one step after the other, each naming its own remedy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.codec import has_lz4, has_snappy, has_zstd
from kafka.errors import (
    LeaderNotAvailableError,
    NoError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from kafka.structs import TopicPartition

from stream_detector.adapters.kafka.client import (
    admin_options,
    connect,
    consumer_options,
    producer_options,
    reader_options,
)
from stream_detector.adapters.kafka.failures import translate, within
from stream_detector.adapters.kafka.handshake import Handshake, addresses, steps
from stream_detector.errors import StreamDetectorError
from stream_detector.events import Finding
from stream_detector.settings import Settings

log = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds for one answer
SKEW = 10.0  # seconds between two clocks that are synchronised, at the very most
LIBRARIES = {"lz4": has_lz4, "zstandard": has_zstd, "python-snappy": has_snappy}


def probe_kafka(settings: Settings) -> list[Finding]:
    """From the settings over the network to topics and permissions; what cannot be tried any more is left out."""
    findings = [*_codecs()]
    try:
        consumer_options(settings), producer_options(settings)
        options = admin_options(settings)
    except StreamDetectorError as error:
        return [*findings, Finding("kafka settings", False, str(error))]
    servers = addresses(options["bootstrap_servers"])
    approaches = [[*_approach(server, options)] for server in servers]
    findings += chain.from_iterable(approaches)
    if not any(all(finding.ok for finding in approach) for approach in approaches):
        return findings
    try:
        admin, _ = connect(KafkaAdminClient, options)
    except StreamDetectorError as error:
        return [*findings, Finding("kafka", False, str(error))]
    try:
        for server in within(PATIENCE, _advertised, admin):
            if server not in servers:
                findings += _approach(server, options)
        topics = within(PATIENCE, admin.describe_topics, list(_needs(settings)))
        findings += _topics(settings, {topic["name"]: topic for topic in topics}, _replicas_needed(settings, admin))
        findings += _clock(settings, admin, topics)
    except Exception as error:  # whatever it is, it is a finding
        findings.append(Finding("kafka topics", False, str(translate(error, "describing topics"))))
    finally:
        admin.close()
    findings.append(
        _tried(
            "kafka group",
            "reading offsets",
            f"READ allowed on {settings.kafka.group_id}",
            lambda: _read_group(settings),
        )
    )
    if settings.delivery.mode == "exactly_once":
        findings.append(
            _tried("kafka transactions", "beginning transactions", "allowed", lambda: _begin_transactions(settings))
        )
    return findings


def _approach(server: str, options: Mapping[str, Any]) -> Iterator[Finding]:
    """TCP, TLS, SASL, up to what fails."""
    what = f"kafka {server}"
    if options.get("proxy_url") or options.get("socks5_proxy"):
        yield Finding(what, True, "behind a proxy: its port, TLS and login are not tried one by one")
        return
    try:
        with Handshake(server, options) as handshake:
            for step, attempt in steps(handshake):
                what = f"kafka {server}{step}"
                yield Finding(what, True, attempt())
    except StreamDetectorError as error:
        yield Finding(what, False, str(error).removeprefix(f"Kafka: {server}: "))


def _advertised(admin: Any) -> list[str]:
    """Where the brokers say that they are: clients go there after the first answer."""
    return [f"{broker['host']}:{broker['port']}" for broker in admin.describe_cluster()["brokers"]]


def _codecs() -> Iterator[Finding]:
    for name, present in LIBRARIES.items():
        missing = f"not installed; topics compressed with it cannot be read: pip install {name}"
        # Snappy is rare and not among our requirements, so its absence is told but is no failure.
        yield Finding(f"kafka codec {name}", present() or name == "python-snappy", "" if present() else missing)


def _needs(settings: Settings) -> dict[str, list[str]]:
    topics = settings.topics
    more = {topics.embeddings: ["WRITE"]} if settings.publish.embeddings else {}
    return {
        topics.events: ["READ"],
        topics.scores: ["WRITE"],
        topics.alerts: ["READ", "WRITE"],  # open alerts are read again where Redis has lost its state
        topics.dead_letters: ["WRITE"],
        **more,
    }


def _replicas_needed(settings: Settings, admin: Any) -> dict[str, int]:
    """min.insync.replicas of the topics, where this user may see it: that is no permission the service needs."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in _needs(settings)]
    try:
        found = within(PATIENCE, lambda: admin.describe_configs(resources, config_filter="all"))["topic"]
        return {name: int(configs["min.insync.replicas"]["value"]) for name, configs in found.items()}
    except Exception as error:  # whatever it is, the check goes on without
        log.debug("%s", translate(error, "describing topic settings"))
        return {}


def _topics(
    settings: Settings, found: Mapping[str, dict[str, Any]], replicas_needed: Mapping[str, int]
) -> Iterator[Finding]:
    for name, operations in _needs(settings).items():
        topic = found.get(name, {"error_code": 3})
        what = f"kafka topic {name}"
        wanted = " and ".join(operations)
        failure = for_code(topic["error_code"])
        if failure is TopicAuthorizationFailedError:  # told of topics that do not exist too
            yield Finding(what, False, f"this user may not see it; grant this user {wanted} on the topic")
            continue
        if failure is UnknownTopicOrPartitionError:
            yield Finding(what, False, "does not exist; create the topic, or correct its name in [topics]")
            continue
        if failure is not NoError:
            yield Finding(what, False, str(translate(failure(), "describing it")))
            continue
        allowed = topic.get("authorized_operations") or operations  # none told: the broker has no authorizer
        missing = [operation for operation in operations if operation not in allowed]
        if missing:
            yield Finding(what, False, f"no permission; grant this user {' and '.join(missing)} on the topic")
        elif broken := _broken(topic["partitions"], replicas_needed.get(name, 1)):
            yield Finding(what, False, broken)
        else:
            told = _told(name, settings, topic["partitions"], replicas_needed.get(name))
            yield Finding(what, True, f"{told}; {wanted} allowed")


def _broken(partitions: list[dict[str, Any]], needed: int) -> str | None:
    for partition in partitions:
        number, present = partition["partition_index"], len(partition["isr_nodes"])
        if partition["error_code"] == LeaderNotAvailableError.errno or partition["leader_id"] < 0:
            return f"partition {number} has no leader; start the brokers that hold it"
        if present < needed:
            return f"partition {number} has {present} replicas in sync, {needed} are needed; start the other brokers"
    return None


def _told(name: str, settings: Settings, partitions: list[dict[str, Any]], needed: int | None) -> str:
    count, replicas = len(partitions), min(len(partition["replica_nodes"]) for partition in partitions)
    told = f"{count} partition{'s' if count > 1 else ''}"
    if name == settings.topics.events:
        told += f": work for at most {count} worker{'s' if count > 1 else ''}"
    if replicas == 1:
        return f"{told}; replication factor 1: a lost disk loses records"
    told += f"; replication factor {replicas}"
    if needed == 1:
        return f"{told}, min.insync.replicas 1: a lost disk may lose records; 2 is safer"
    return told if needed is None else f"{told}, min.insync.replicas {needed}"


def _clock(settings: Settings, admin: Any, topics: list[dict[str, Any]]) -> Iterator[Finding]:
    """Whether events come from the future: their times are all that Kafka shows of other clocks to who only reads."""
    name = settings.topics.events
    numbers = [one["partition_index"] for topic in topics if topic["name"] == name for one in topic["partitions"]]
    newest = dict.fromkeys((TopicPartition(name, number) for number in numbers), OffsetSpec.MAX_TIMESTAMP)
    try:
        found = within(PATIENCE, lambda: admin.list_partition_offsets(newest))
        ahead = max((one.timestamp for one in found.values()), default=-1) / 1_000 - time.time()
    except Exception as error:  # no permission, or a broker older than 3.0: told elsewhere where it matters
        log.debug("%s", translate(error, "asking for the newest event"))
        return
    advice = (
        f"the newest event is {ahead:.0f} s ahead of this machine's clock; synchronise it, the brokers and producers"
    )
    yield Finding("kafka clock", ahead < SKEW, advice if ahead >= SKEW else "no event is from the future")


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


def _tried(what: str, doing: str, well: str, attempt: Callable[[], None]) -> Finding:
    try:
        attempt()
    except Exception as error:  # whatever it is, it is a finding
        return Finding(what, False, str(translate(error, doing)).removeprefix("Kafka: "))
    return Finding(what, True, well)

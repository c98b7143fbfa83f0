"""What `check` says about Kafka; about certificates, logins and permissions, see `test_security`."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from stream_detector.adapters.kafka import probe_kafka
from stream_detector.events import Finding
from stream_detector.settings import Settings
from tests.stream_detector.adapters.kafka.cluster import Cluster


def failures(settings: Settings) -> list[Finding]:
    return [finding for finding in probe_kafka(settings) if not finding.ok]


def test_all_is_well(cluster: Cluster) -> None:
    findings = probe_kafka(cluster.settings())
    assert [finding for finding in findings if not finding.ok] == []
    words = {finding.what: finding.message for finding in findings}
    at = cluster.broker.bootstrap
    assert words[f"kafka {at}"] == "accepts connections"
    assert words[f"kafka {at} TLS"].startswith("without TLS")
    assert words[f"kafka {at} login"].endswith("anonymous")
    events, alerts = (words[f"kafka topic {cluster.topics[kind]}"] for kind in ("events", "alerts"))
    assert events.startswith("1 partition: work for at most 1 worker;")
    assert events.endswith("replication factor 1: a lost disk loses records; READ allowed")
    assert alerts.endswith("READ and WRITE allowed")


def test_a_missing_topic_is_named_with_a_remedy(cluster: Cluster) -> None:
    settings = cluster.settings()
    topics = settings.topics.model_copy(update={"alerts": "no-such-topic"})
    [finding] = failures(settings.model_copy(update={"topics": topics}))
    assert finding.what == "kafka topic no-such-topic"
    assert "create the topic" in finding.message


@pytest.mark.parametrize("minutes", [-30, 30])
def test_an_event_from_the_future_is_a_clock_that_is_wrong(cluster: Cluster, minutes: int) -> None:
    producer = cluster.producer()
    when = round((time.time() + minutes * 60) * 1_000)
    producer.send(cluster.topics["events"], b"{}", timestamp_ms=when).get(timeout=30)
    found = {finding.what: finding for finding in probe_kafka(cluster.settings())}["kafka clock"]
    assert found.ok == (minutes < 0)
    assert minutes < 0 or re.match(r"the newest event is 1\d\d\d s ahead of this machine's clock; synch", found.message)


@pytest.mark.parametrize(
    ("server", "word"),
    [
        ("127.0.0.1:1", "refused"),
        ("[::1]:1", "kafka.bootstrap_servers"),
        ("no.invalid:9092", "no such host"),
        ("no..invalid:9092", "no such host"),
        ("a:b", "no port"),
    ],
)
def test_a_closed_port_and_an_unknown_host_are_told_apart(server: str, word: str) -> None:
    [bad] = failures(Settings.model_validate({"kafka": {"bootstrap_servers": server}}))
    assert bad.what == f"kafka {server}"
    assert word in bad.message


@pytest.fixture(params=[b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x00\x04\xff\xff\xff\xff"])
def stranger(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that is no Kafka: takes what comes, answers this, hangs up."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                connection.recv(65_536)
                connection.sendall(request.param)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
def test_what_is_no_kafka_is_told(stranger: str, protocol: str) -> None:
    kafka = {"bootstrap_servers": stranger, "security_protocol": protocol}
    [bad] = failures(Settings.model_validate({"kafka": kafka}))
    assert bad.what.startswith(f"kafka {stranger} ")
    assert ("no Kafka" if protocol == "PLAINTEXT" else "TLS") in bad.message


def test_behind_a_proxy_nothing_is_tried_directly() -> None:
    kafka = {"bootstrap_servers": "127.0.0.1:1", "proxy_url": "socks5://127.0.0.1:1", "bootstrap_timeout_ms": 300}
    findings = {finding.what: finding for finding in probe_kafka(Settings.model_validate({"kafka": kafka}))}
    assert "proxy" in findings["kafka 127.0.0.1:1"].message
    assert not findings["kafka"].ok


def test_wrong_settings_are_a_finding() -> None:
    [finding] = failures(Settings.model_validate({"kafka": {"no_such": 1}}))
    assert finding.what == "kafka settings"

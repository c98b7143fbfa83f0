"""Passwords and permissions: what the broker says no to, and what the user is told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from stream_detector.adapters.kafka import probe_kafka
from stream_detector.errors import Refused
from stream_detector.settings import Settings
from tests.servers import KafkaBroker
from tests.servers.process import free_port
from tests.stream_detector.adapters.kafka.cluster import Cluster, Owner

pytestmark = pytest.mark.servers

JAAS = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required"
    ' username="admin" password="a" user_admin="a" user_detector="right";'
)


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Cluster, str]]:
    """A broker that lets the anonymous do everything, and `detector` nothing, at another address."""
    broker = KafkaBroker()
    address = f"127.0.0.1:{free_port()}"
    listeners = f"PLAINTEXT://{broker.bootstrap},SASL_PLAINTEXT://{address}"
    controller = f"CONTROLLER://127.0.0.1:{broker.controller_port}"
    broker._properties |= {
        "listeners": f"{listeners},{controller}",
        "advertised.listeners": f"{listeners},{controller}",
        "listener.security.protocol.map": ("PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT"),
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": JAAS,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:admin",
    }
    with broker:
        corner = Cluster(broker)
        yield corner, address
        corner.close()


def settings(guarded: tuple[Cluster, str], user: str, password: str, **more: Any) -> Settings:
    cluster, address = guarded
    return cluster.settings(
        bootstrap_servers=address,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_plain_username=user,
        sasl_plain_password=password,
        bootstrap_timeout_ms=3_000,
        **more,
    )


def test_a_wrong_password_is_refused_and_not_shown(guarded: tuple[Cluster, str]) -> None:
    begun = time.monotonic()
    with pytest.raises(Refused, match=r"check kafka.*password") as caught:
        guarded[0].source(settings(guarded, "detector", "hidden-word")).open(Owner())
    assert "hidden-word" not in str(caught.value)
    assert time.monotonic() - begun < 10


def test_no_password_where_one_is_wanted_is_told(guarded: tuple[Cluster, str]) -> None:
    cluster, address = guarded
    findings = probe_kafka(cluster.settings(bootstrap_servers=address, bootstrap_timeout_ms=3_000))
    [bad] = [finding for finding in findings if not finding.ok]
    assert bad.what == "kafka login"
    assert address in bad.message


def test_missing_permissions_are_findings(guarded: tuple[Cluster, str]) -> None:
    findings = {finding.what: finding for finding in probe_kafka(settings(guarded, "detector", "right"))}
    assert findings["kafka login"].ok
    assert findings["kafka login"].message == "as detector"
    events = findings[f"kafka topic {guarded[0].topics['events']}"]
    assert not events.ok
    assert "grant this user READ" in events.message
    assert "READ on the consumer group" in findings["kafka group"].message
    assert "transactional ids" in findings["kafka transactions"].message


def test_a_topic_that_may_not_be_seen_is_refused(guarded: tuple[Cluster, str]) -> None:
    with pytest.raises(Refused, match="may not describe it"):
        guarded[0].source(settings(guarded, "detector", "right")).open(Owner())


def test_a_user_with_all_permissions_is_well(guarded: tuple[Cluster, str]) -> None:
    findings = probe_kafka(settings(guarded, "admin", "a"))
    assert [finding for finding in findings if not finding.ok] == []

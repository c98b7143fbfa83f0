"""Settings as arguments of kafka-python."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor

from stream_detector.adapters.kafka.client import (
    admin_options,
    consumer_options,
    producer_options,
    reader_options,
)
from stream_detector.errors import SettingsError
from stream_detector.settings import Settings


def settings(mode: str = "exactly_once", **kafka: Any) -> Settings:
    return Settings.model_validate({"kafka": kafka, "delivery": {"mode": mode}})


def test_defaults() -> None:
    options = consumer_options(settings())
    assert options["auto_offset_reset"] == "none"  # the pipeline decides
    assert options["isolation_level"] == "read_committed"
    assert options["enable_auto_commit"] is False
    assert options["reconnect_backoff_max_ms"] == 1_000
    assert options["max_poll_records"] == settings().poll.max_records
    assert options["group_id"] == "stream-detector"
    assert isinstance(options["partition_assignment_strategy"][0], CooperativeStickyAssignor)
    produced = producer_options(settings())
    assert (produced["acks"], produced["enable_idempotence"], produced["compression_type"]) == ("all", True, "lz4")


def test_each_client_gets_what_it_knows() -> None:
    given = settings(fetch_min_bytes=5, linger_ms=7, request_timeout_ms=9_000)
    assert "linger_ms" not in consumer_options(given)
    assert consumer_options(given)["fetch_min_bytes"] == 5
    assert "fetch_min_bytes" not in producer_options(given)
    assert producer_options(given)["linger_ms"] == 7
    assert {"fetch_min_bytes", "linger_ms", "group_id"}.isdisjoint(admin_options(given))
    assert admin_options(given)["request_timeout_ms"] == 9_000


def test_a_reader_is_in_no_group() -> None:
    options = reader_options(settings(group_instance_id="a"))
    assert options["group_id"] is None
    assert "group_instance_id" not in options


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("fetch_min_bytes", "5", 5),
        ("check_crcs", "false", False),
        ("check_crcs", "True", True),
        ("receive_buffer_bytes", "65536", 65_536),
        ("api_version", "3.8", (3, 8)),
        ("security_protocol", "SSL", "SSL"),
        ("bootstrap_servers", "a:1,b:2", "a:1,b:2"),
    ],
)
def test_text_from_the_environment_is_converted(key: str, text: str, value: object) -> None:
    assert consumer_options(settings(**{key: text}))[key] == value


def test_assignors_go_by_name() -> None:
    options = consumer_options(settings(partition_assignment_strategy="range"))
    assert isinstance(options["partition_assignment_strategy"][0], RangePartitionAssignor)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bootstrap_server": "a"}, "kafka.bootstrap_server: unknown"),
        ({"fetch_min_bytes": "five"}, r"kafka.fetch_min_bytes: give a whole number \(got 'five'\)"),
        ({"fetch_min_bytes": True}, "kafka.fetch_min_bytes: give a whole number"),
        ({"fetch_min_bytes": 1.5}, "kafka.fetch_min_bytes: give a whole number"),
        ({"check_crcs": "perhaps"}, "kafka.check_crcs: give true or false"),
        ({"partition_assignment_strategy": ["mine"]}, "a list of cooperative-sticky, range"),
        ({"api_version": "new"}, "a version such as"),
        ({"enable_auto_commit": True}, "kafka.enable_auto_commit: offsets are committed"),
        ({"transactional_id": "a"}, "kafka.transactional_id"),
        ({"ssl_context": "a"}, "kafka.ssl_context: a Python object"),
        ({"isolation_level": "read_uncommitted"}, "kafka.isolation_level: exactly-once"),
    ],
)
def test_mistakes_name_the_key_and_the_remedy(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        consumer_options(settings(**given))


@pytest.mark.parametrize("given", [{"acks": "1"}, {"enable_idempotence": "false"}])
def test_a_producer_that_could_lose_results_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"kafka\.acks"):
        producer_options(settings(**given))


def test_uncommitted_events_may_be_read_at_least_once() -> None:
    options = consumer_options(settings("at_least_once", isolation_level="read_uncommitted"))
    assert options["isolation_level"] == "read_uncommitted"


def test_secrets_are_revealed_to_the_client_only(caplog: pytest.LogCaptureFixture) -> None:
    given = settings(sasl_plain_password="hidden-word", sasl_plain_username="me")
    caplog.set_level(logging.DEBUG)
    assert consumer_options(given)["sasl_plain_password"] == "hidden-word"
    assert "hidden-word" not in caplog.text
    with pytest.raises(SettingsError) as caught:
        consumer_options(settings(sasl_plain_password="hidden-word", no_such_key="hidden-word"))
    assert "hidden-word" not in str(caught.value)

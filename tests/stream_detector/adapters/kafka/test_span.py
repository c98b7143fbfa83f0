"""A span of a topic, and the URL that names it."""

from __future__ import annotations

import pytest

from stream_detector.adapters.kafka import Span, discover_topic_features, parse_topic_url, read_span
from stream_detector.codec import Decoder
from stream_detector.errors import DataError
from tests.stream_detector.adapters.kafka.cluster import Cluster, event


def test_urls() -> None:
    assert parse_topic_url("kafka://a:9092/events") == Span("a:9092", "events", None, None)
    url = "kafka://a:1,b:2/events?from=1970-01-01T00:00:01Z&to=1970-01-01T01:00:02+01:00"
    assert parse_topic_url(url) == Span("a:1,b:2", "events", 1_000, 2_000)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("kafka://a:9092", "not a topic; write kafka://host:port/topic"),
        ("kafka:///events", "not a topic"),
        ("kafka://[/events", "not a topic"),
        ("kafka://a:port/events", "not a topic"),
        ("http://a/events", "not a topic"),
        ("kafka://a/events/more", "not a topic"),
        ("kafka://a/events?since=1", "'since' is not one of from and to"),
        ("kafka://a/events?from=yesterday", "from: 'yesterday' is not RFC 3339"),
        ("kafka://a/events?to=2026-01-01T00:00:00Z&from=2026-02-01T00:00:00Z", "from must be before to"),
        ("kafka://me:word@a/events", "no user or password in the URL"),
    ],
)
def test_mistakes_in_urls(url: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        parse_topic_url(url)
    assert "word@" not in str(caught.value)


def test_a_span_is_read_whole_and_only_once(wide: Cluster) -> None:
    producer = wide.producer()
    for partition in (0, 1):
        for number in range(100):
            stamp = 1_700_000_000_000 + number * 1_000
            producer.send(wide.topics["events"], event(number, number), partition=partition, timestamp_ms=stamp)
    producer.flush()
    settings = wide.settings()
    decoder = Decoder(["a"], settings.columns, settings.events)
    span = parse_topic_url(f"kafka://{wide.broker.bootstrap}/{wide.topics['events']}")
    assert sum(len(piece.events) for piece in read_span(settings, span, decoder)) == 200
    part = span._replace(start_ms=1_700_000_010_000, end_ms=1_700_000_030_000)
    values = [value for piece in read_span(settings, part, decoder) for value in piece.events.values[:, 0]]
    assert sorted(values) == sorted([*range(10, 30)] * 2)
    with pytest.raises(DataError, match="no records in that span"):
        list(read_span(settings, span._replace(start_ms=1_800_000_000_000), decoder))
    with pytest.raises(DataError, match="does not exist"):
        list(read_span(settings, span._replace(topic="no-such-topic"), decoder))


def test_features_are_discovered(cluster: Cluster) -> None:
    cluster.produce([1, 2])
    producer = cluster.producer()
    producer.send(cluster.topics["events"], b'{"sensor_id": "x", "timestamp": 1, "b": 1, "c": "text", "d": true}')
    producer.send(cluster.topics["events"], b"no JSON")
    producer.flush()
    settings = cluster.settings()
    span = Span(cluster.broker.bootstrap, cluster.topics["events"], None, None)
    assert discover_topic_features(settings, span, settings.columns) == ["a", "b"]

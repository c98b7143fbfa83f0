"""Kafka: a group's consumer as source, a transactional producer as outlet, a feed. kafka-python's only home."""

from stream_detector.adapters.kafka.feed import Feed, create_topics
from stream_detector.adapters.kafka.outlet import KafkaOutlet
from stream_detector.adapters.kafka.probe import probe_kafka
from stream_detector.adapters.kafka.reread import read_alerts, read_offsets
from stream_detector.adapters.kafka.source import KafkaSource
from stream_detector.adapters.kafka.span import Span, discover_topic_features, parse_topic_url, read_span

__all__ = [
    "Feed",
    "KafkaOutlet",
    "KafkaSource",
    "Span",
    "create_topics",
    "discover_topic_features",
    "parse_topic_url",
    "probe_kafka",
    "read_alerts",
    "read_offsets",
    "read_span",
]

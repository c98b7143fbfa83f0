"""What `check` says about Kafka."""

from __future__ import annotations

from stream_detector.adapters.kafka import probe_kafka
from stream_detector.settings import Settings
from tests.stream_detector.adapters.kafka.cluster import Cluster


def test_all_is_well(cluster: Cluster) -> None:
    findings = probe_kafka(cluster.settings())
    assert [finding for finding in findings if not finding.ok] == []
    words = {finding.what: finding.message for finding in findings}
    assert words[f"kafka topic {cluster.topics['events']}"] == "1 partitions, READ allowed"


def test_a_missing_topic_is_named_with_a_remedy(cluster: Cluster) -> None:
    settings = cluster.settings()
    topics = settings.topics.model_copy(update={"alerts": "no-such-topic"})
    [finding] = [one for one in probe_kafka(settings.model_copy(update={"topics": topics})) if not one.ok]
    assert finding.what == "kafka topic no-such-topic"
    assert "create the topic" in finding.message


def test_a_closed_port_and_an_unknown_host_are_told_apart() -> None:
    for server, word in (("127.0.0.1:1", "refused"), ("no.invalid:9092", "no such host"), ("a:b", "no port")):
        bad = [
            one for one in probe_kafka(Settings.model_validate({"kafka": {"bootstrap_servers": server}})) if not one.ok
        ]
        assert [finding.what for finding in bad] == [f"kafka {server}"]
        assert word in bad[0].message


def test_wrong_settings_are_a_finding() -> None:
    [finding] = [one for one in probe_kafka(Settings.model_validate({"kafka": {"no_such": 1}})) if not one.ok]
    assert finding.what == "kafka settings"

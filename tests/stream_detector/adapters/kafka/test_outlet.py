"""What only the Kafka outlet does, on a real broker."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import msgspec
import pytest

from stream_detector.errors import Refused
from stream_detector.events import Alert, Model, Origin, Reject
from stream_detector.ports import Delivery
from tests.servers import KafkaBroker
from tests.stream_detector.adapters.kafka.cluster import Cluster, delivery

ALERT = Alert(
    id="0123",
    revision=2,
    status="firing",
    kind="anomaly",
    sensor_id="pump",
    severity="major",
    started_at="2026-01-01T00:00:00Z",
    ended_at=None,
    score=2.0,
    peak_score=2.0,
    threshold=1.0,
    contributions={"a": 1.0},
    observed={"a": 3.0},
    expected={"a": 1.0},
    summary="pump: a 3 where 1 was expected",
    model=Model("m", "1"),
    source=Origin("events", 0, 0, 1),
)


@pytest.fixture
def narrow(kafka_broker: KafkaBroker) -> Iterator[Cluster]:
    """A dead-letter topic that takes only short records."""
    corner = Cluster(kafka_broker, dead_letters={"max.message.bytes": "20000"})
    yield corner
    corner.close()


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_each_kind_goes_to_its_topic(cluster: Cluster, mode: str) -> None:
    settings, [partition] = cluster.settings(mode), cluster.partitions
    outlet = cluster.outlet(settings, cluster.joined(settings))
    reject = Reject(3, "not-json", "no JSON", b"key", b"value")
    outlet.deliver(Delivery(delivery({}, scores=[1]).scores, [ALERT], [(partition, reject)], {partition: 4}))
    [score], [alert], [letter] = (cluster.published(kind) for kind in ("scores", "alerts", "dead_letters"))
    assert json.loads(score.value)["id"] == "score-1"
    assert (alert.key, json.loads(alert.value)["revision"]) == (b"pump", 2)
    assert dict(alert.headers)["ce_type"] == b"anomaly.firing"
    assert (letter.key, letter.value) == (b"key", b"value")
    assert dict(letter.headers)["errors.exception"] == b"not-json"
    assert dict(letter.headers)["errors.offset"] == b"3"
    assert outlet.committed(partition) == 4


@pytest.mark.parametrize("size", [30_000, 3_000_000])  # too large for the topic; too large for any request
def test_a_dead_letter_that_is_too_large_is_cut_short(narrow: Cluster, size: int) -> None:
    settings, [partition] = narrow.settings(), narrow.partitions
    outlet = narrow.outlet(settings, narrow.joined(settings))
    value = random.Random(size).randbytes(size)  # nothing that compression could make fit
    rejects = [(partition, Reject(3, "too-long", "long", b"key", value)), (partition, Reject(4, "empty", ""))]
    outlet.deliver(delivery({partition: 5}, scores=[1], rejects=rejects))
    long, empty = sorted(narrow.published("dead_letters"), key=lambda record: -len(record.value))
    assert value.startswith(long.value)
    assert dict(long.headers)["errors.truncated"] == str(size).encode()
    assert empty.value == b""
    assert len(narrow.published("scores")) == 1
    assert outlet.committed(partition) == 5


def test_no_positions_no_delivery(cluster: Cluster) -> None:
    settings = cluster.settings()
    outlet = cluster.outlet(settings, cluster.joined(settings))
    outlet.deliver(delivery({}))
    assert cluster.published("scores") == []


def test_a_missing_topic_is_refused(cluster: Cluster) -> None:
    settings = cluster.settings()
    topics = settings.topics.model_copy(update={"alerts": "no-such-topic"})
    source = cluster.joined(settings)
    with pytest.raises(Refused, match="'no-such-topic' does not exist"):
        cluster.outlet(settings.model_copy(update={"topics": topics}), source)


def test_alerts_behind_the_open_transaction_of_a_dead_worker_are_recovered(cluster: Cluster) -> None:
    """What was committed behind it is out of a reader's sight until the broker has given the dead one up."""
    settings = cluster.settings()
    [at] = cluster.partitions
    dead = cluster.producer(transactional_id=f"{cluster.group}-dead", transaction_timeout_ms=2_000)
    dead.init_transactions()
    dead.begin_transaction()
    dead.send(cluster.topics["alerts"], b"{}", partition=0).get(timeout=30)
    outlet = cluster.outlet(settings, cluster.joined(settings))
    mine = msgspec.structs.replace(ALERT, source=Origin(*at, 0, 1))
    outlet.deliver(Delivery([], [mine], [], {at: 2}))
    assert cluster.published("alerts") == []
    assert outlet.standing(at, 100, 0) == [mine]

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import KafkaBroker
from tests.stream_detector.adapters.kafka.cluster import Cluster


@pytest.fixture
def cluster(kafka_broker: KafkaBroker) -> Iterator[Cluster]:
    """Topics of one partition each."""
    corner = Cluster(kafka_broker)
    yield corner
    corner.close()


@pytest.fixture
def wide(kafka_broker: KafkaBroker) -> Iterator[Cluster]:
    """Topics of two partitions, to share between two workers."""
    corner = Cluster(kafka_broker, partitions=2)
    yield corner
    corner.close()

"""Three real Kafka brokers that replicate: for what one broker cannot show, such as losing a leader."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from kafka import KafkaAdminClient

from tests.servers.kafka import KafkaBroker, cluster_id
from tests.servers.process import Running

NODES = (1, 2, 3)

REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
}


class KafkaCluster(Running):
    """Each of `nodes` can be stopped, killed and started like a lone broker; two must run for anything to work."""

    def __init__(self, properties: Mapping[str, str] | None = None, heap: str = "384m") -> None:
        self.nodes = {number: KafkaBroker(REPLICATED | dict(properties or {}), heap) for number in NODES}
        self.bootstrap = ",".join(node.bootstrap for node in self.nodes.values())
        cluster = cluster_id()
        controllers = {
            number: (f"127.0.0.1:{node.controller_port}", cluster_id()) for number, node in self.nodes.items()
        }
        for number, node in self.nodes.items():
            node.join(number, cluster, controllers)

    def start(self) -> None:
        """All at once: none is ready before two are."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            for started in [pool.submit(node.start) for node in self.nodes.values()]:
                started.result()

    def close(self) -> None:
        """End them and remove their data."""
        for node in self.nodes.values():
            node.close()

    def leader(self, topic: str, partition: int = 0) -> int:
        """The number of the node that leads a partition."""
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            [described] = admin.describe_topics([topic])
            [found] = [one for one in described["partitions"] if one["partition_index"] == partition]
            return int(found["leader_id"])
        finally:
            admin.close()

"""The real servers, started as child processes on free loopback ports: for tests and benchmarks."""

from tests.servers.kafka import KafkaBroker
from tests.servers.redis import RedisServer
from tests.servers.redis_cluster import RedisCluster

__all__ = ["KafkaBroker", "RedisCluster", "RedisServer"]

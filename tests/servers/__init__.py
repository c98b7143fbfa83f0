"""The real servers, started as child processes on free loopback ports: for tests and benchmarks."""

from tests.servers.kafka import KafkaBroker
from tests.servers.redis import RedisServer

__all__ = ["KafkaBroker", "RedisServer"]

"""A real Redis Cluster: three primaries, the first of which has a replica."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis

from tests.servers.process import START_SECONDS, Running, free_port
from tests.servers.redis import RedisServer

SLOTS = 16_384
RANGES = ((0, 5_460), (5_461, 10_922), (10_923, SLOTS - 1))
NODE_TIMEOUT = 500  # ms after which a node that does not answer is replaced


class RedisCluster(Running):
    """`primaries` as they began, in the order of their slots, and the `replica` of the first."""

    def __init__(self, options: Sequence[str] = (), spare: bool = False) -> None:
        """``spare``: a further primary that has no slots."""
        self._options = options
        self.primaries = [self._node() for _ in RANGES]
        self.replica = self._node()
        self.spare = [self._node()] if spare else []
        self.nodes = [*self.primaries, self.replica, *self.spare]
        self.url = self.primaries[1].url  # of one that stays when the first is killed

    def _node(self) -> RedisServer:
        mode = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
        timing = ["--cluster-node-timeout", str(NODE_TIMEOUT), "--cluster-replica-validity-factor", "0"]
        return RedisServer([*mode, *timing, "--repl-diskless-sync-delay", "0", *self._options])

    def start(self) -> None:
        """All at once; then they are told of each other."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            for started in [pool.submit(node.start) for node in self.nodes]:
                started.result()
        for number, (node, slots) in enumerate(zip(self.primaries, RANGES, strict=True), start=1):
            asked(node, "CLUSTER", "SET-CONFIG-EPOCH", number)
            asked(node, "CLUSTER", "ADDSLOTSRANGE", *slots)
        first = self.primaries[0]
        bus = first._options[first._options.index("--cluster-port") + 1]
        for node in self.nodes[1:]:
            asked(node, "CLUSTER", "MEET", "127.0.0.1", first.port, bus)
        until(lambda: all(b"cluster_known_nodes:%d" % len(self.nodes) in _info(node) for node in self.nodes))
        until(lambda: self.name(first).encode() in asked(self.replica, "CLUSTER", "NODES"))
        asked(self.replica, "CLUSTER", "REPLICATE", self.name(first))
        until(lambda: all(b"cluster_state:ok" in _info(node) for node in self.nodes))
        until(lambda: bool(asked(self.replica, "INFO", "replication").get("master_link_status") == "up"))
        # Every node must list the replica: clients take the whole picture from any of them.
        until(lambda: all(b"%d" % self.replica.port in repr(slots_of(node)).encode() for node in self.nodes))

    def close(self) -> None:
        """End them and remove their data."""
        for node in self.nodes:
            node.kill()
            node.close()

    def flush(self) -> None:
        """Remove all keys."""
        for node in self.primaries:
            asked(node, "FLUSHALL")

    def name(self, node: RedisServer) -> str:
        """What the others call it."""
        return str(asked(node, "CLUSTER", "MYID"), "ascii")


def asked(node: RedisServer, *command: Any) -> Any:
    """What one node answers."""
    with redis.Redis.from_url(node.url, socket_timeout=30) as client:
        return client.execute_command(*command)


def slots_of(node: RedisServer) -> Any:
    """Who has which slots, as this node sees it."""
    return asked(node, "CLUSTER", "SLOTS")


def until(condition: Callable[[], bool]) -> None:
    """Return when it holds."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the cluster did not get there within {START_SECONDS:g} s")
        time.sleep(0.02)  # between looks, not instead of one


def _info(node: RedisServer) -> bytes:
    answer: bytes = asked(node, "CLUSTER", "INFO")
    return answer

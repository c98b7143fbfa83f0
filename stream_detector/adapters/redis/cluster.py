"""redis-py's client of a Redis Cluster: bounded in time, and made anew when no node that it knows answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import ConnectionPool, SSLConnection
from redis.exceptions import ClusterError, RedisClusterException, TimeoutError
from redis.retry import Retry

from stream_detector.adapters.redis.client import client_of, evaluated, facts_of, ping, translate
from stream_detector.settings import Redis as RedisSettings

T = TypeVar("T")
RETRIES = 1  # after a look at who has which slots now; a failover takes longer, and is waited out as an outage
AMPLE = 2  # time-outs within which a call may begin to ask one more node
ITS_OWN = {"host", "port", "db", "retry", "maint_notifications_config"}  # what other nodes do not take from the URL's


class Cluster:
    """All nodes of a cluster; what `redis_client.Server` is for one server."""

    def __init__(self, settings: RedisSettings) -> None:
        self.seed = client_of(settings)
        self.limit = AMPLE * settings.timeout / 1_000
        self.until = 0.0  # the call that is under way asks no further node after that
        self.client: Any = None  # redis-py annotates half of it
        self.known: list[tuple[str, int]] = []  # nodes of a client that was given up

    def evaluate(self, sha: str, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """What a script returns; its text is sent to the keys' node where that does not know it."""

        def call(client: Any) -> Any:
            return evaluated(
                client, sha, script, keys, arguments, lambda: {"target_nodes": client.get_node_from_key(keys[0])}
            )

        return self._ask(call)

    def ping(self) -> None:
        """Return if the URL's node is one of a cluster, and all primaries answer."""
        ping(self.seed, cluster=True)
        self._ask(lambda client: client.ping(target_nodes=RedisCluster.PRIMARIES))

    def facts(self) -> dict[str, dict[str, str]]:
        """By primary, for `check`."""
        names = self._ask(lambda client: [node.name for node in client.get_primaries()])
        return {name: self._ask(partial(_facts, name=name)) for name in names}

    def holder(self, key: str) -> str:
        """Which of the servers in `facts` has a key."""
        return self._ask(lambda client: str(client.get_node_from_key(key).name))

    def close(self) -> None:
        """Let go of connections."""
        self.seed.close()
        if self.client is not None:
            self.client.close()

    def _ask(self, call: Callable[[Any], T]) -> T:
        self.until = time.monotonic() + self.limit

        def attempt() -> T:
            try:
                return call(self._connected())
            except RedisClusterException:  # no node that is known says who has which slots
                self._forget()
                raise

        return translate(attempt)

    def _connected(self) -> Any:
        if self.client is None:
            try:
                self.client = self._made([])
            except RedisClusterException:
                if not self.known:
                    raise
                self.client = self._made(self.known)
        return self.client

    def _forget(self) -> None:
        """Begin again from the URL, whose name may lead elsewhere by now, then from the nodes that were known."""
        if self.client is not None:
            self.known = [(node.host, node.port) for node in self.client.nodes_manager.startup_nodes.values()]
            self.client.close()
            self.client = None

    def _made(self, nodes: list[tuple[str, int]]) -> RedisCluster:
        pool = self.seed.connection_pool
        options = {key: value for key, value in pool.connection_kwargs.items() if key not in ITS_OWN}
        scheme = "rediss" if issubclass(pool.connection_class, SSLConnection) else "redis"
        host, port = str(pool.connection_kwargs["host"]), int(pool.connection_kwargs.get("port", 6379))
        return _Client(
            url=f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}",
            startup_nodes=[ClusterNode(*address) for address in nodes],  # type: ignore[no-untyped-call]
            # A repeated compare-and-set that did succeed the first time is refused, which means "load again": safe.
            retry=Retry(NoBackoff(), RETRIES),
            connection_pool_class=partial(_Pool, self._late),
            **options,
        )

    def _late(self) -> bool:
        return time.monotonic() > self.until


class _Client(RedisCluster):
    def get_node(self, host: str | None = None, port: int | None = None, node_name: str | None = None) -> ClusterNode:
        """Redirections lead to nodes that have no slots yet, of which redis-py knows nothing and on which it breaks."""
        node: ClusterNode | None = super().get_node(host, port, node_name)  # type: ignore[no-untyped-call]
        if node is None:
            raise ClusterError("slots are being moved to a node that has none yet")
        return node


class _Pool(ConnectionPool):
    """Gives no connection when it is late: redis-py asks one node after the other, each for as long as a time-out."""

    def __init__(self, late: Callable[[], bool], **options: Any) -> None:
        super().__init__(**options)
        self._is_late = late

    def get_connection(self, *arguments: Any, **options: Any) -> Any:
        if self._is_late():
            raise TimeoutError("the nodes of the cluster that were asked took too long")
        return super().get_connection(*arguments, **options)


def _facts(client: Any, name: str) -> dict[str, str]:
    return facts_of(client.get_redis_connection(client.get_node(node_name=name)))

"""What `check` says about a Redis Cluster: the worst of its primaries, and which it is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stream_detector.events import Finding
from tests.servers import RedisCluster
from tests.servers.redis_cluster import asked
from tests.stream_detector.test_checks import PASSWORD, found, only_failure

DOCUMENT = (Path(__file__).parents[2] / "docs" / "security.md").read_text("utf-8")
[ALONE] = re.findall(r"<!-- redis-acl -->\n```\n(.*?)\n```", DOCUMENT, re.DOTALL)
[BESIDE] = re.findall(r"<!-- redis-cluster-acl -->\n```\n(.*?)\n```", DOCUMENT, re.DOTALL)


def allow(cluster: RedisCluster, *missing: str) -> None:
    """What the document lists, on every node; on the last primary without these, and without the scripts."""
    for node in cluster.nodes:
        for line in (ALONE.replace("SETUSER detector", "SETUSER detector reset"), BESIDE):
            asked(node, *shlex.split(line.replace("PASSWORD", PASSWORD)))
    for command in missing:
        asked(cluster.primaries[2], "ACL", "SETUSER", "detector", f"-{command}")
    asked(cluster.primaries[2], "SCRIPT", "FLUSH")


def checked(nodes: RedisCluster, **changes: Any) -> dict[str, Finding]:
    """The URL names the last primary."""
    given = {"url": nodes.primaries[2].url, "cluster": True, "username": "detector", "password": PASSWORD}
    return found({**given, "timeout": "2s", **changes})


@pytest.fixture
def guarded(redis_cluster: RedisCluster, redis_cluster_url: str) -> Iterator[RedisCluster]:
    allow(redis_cluster)
    yield redis_cluster
    for node in redis_cluster.nodes:
        asked(node, "ACL", "DELUSER", "detector")


def test_all_is_well_with_the_permissions_of_the_document(guarded: RedisCluster) -> None:
    told = checked(guarded)
    assert [one for one in told.values() if not one.ok] == []
    assert told["redis"].message.endswith(", a cluster of 3 primaries")
    assert told["redis permissions"].message == "reading and writing windows is allowed"
    assert [asked(node, "DBSIZE") for node in guarded.primaries] == [0, 0, 0]


@pytest.mark.parametrize("missing", ["cluster|slots", "append", "script|load", "info", "time"])
def test_what_is_missing_on_one_node_is_named(guarded: RedisCluster, missing: str) -> None:
    allow(guarded, missing)
    message = only_failure(checked(guarded)).message
    assert missing in message
    assert "docs/security.md" in message


def test_the_worst_of_the_primaries_is_told(guarded: RedisCluster) -> None:
    one = guarded.primaries[1]
    asked(one, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "appendonly", "no")
    told = checked(guarded)
    asked(one, "CONFIG", "SET", "maxmemory-policy", "noeviction", "appendonly", "yes")
    where = f"on 127.0.0.1:{one.port}"
    assert only_failure(told).message.startswith(f"maxmemory-policy is allkeys-lru {where}: ")
    assert told["redis persistence"].message.startswith(f"no append-only file {where}: ")


def test_a_setting_that_does_not_fit_is_named(guarded: RedisCluster, redis_url: str) -> None:
    assert only_failure(checked(guarded, cluster=False)).message.endswith("set redis.cluster = true")
    alone = found({"url": redis_url, "cluster": True})
    assert only_failure(alone).message.endswith("set redis.cluster = false")

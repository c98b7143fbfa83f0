"""The window store on a Redis Cluster whose nodes die, stand still, hand over slots and forget scripts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr
from redis.crc import key_slot

from stream_detector.adapters.redis.store import RedisStore
from stream_detector.errors import Moved, Refused, SettingsError, Unavailable
from stream_detector.events import Partition
from stream_detector.ports import Stored
from stream_detector.settings import Redis
from tests.contract.test_window_store import one
from tests.servers import RedisCluster, RedisServer
from tests.servers.process import free_port
from tests.servers.redis_cluster import RANGES, SLOTS, asked, until
from tests.servers.secure import Authority, Terminator

PASSWORD = "hunter2"
TIMEOUT = 0.4  # seconds
LONGEST = 6 * TIMEOUT  # seconds that a call may take where nothing answers


def store(url: str, *, cluster: bool = True, **more: Any) -> RedisStore:
    return RedisStore(Redis(url=SecretStr(url), cluster=cluster, **{"timeout": TIMEOUT, **more}), "group")


def on(slots: tuple[int, int], after: int = 0) -> Partition:
    """A partition whose keys are in one of these slots."""
    first, last = slots
    numbers = (n for n in range(after, after + 1_000) if first <= key_slot(key(Partition("t", n)).encode()) <= last)
    return Partition("t", next(numbers))


def key(partition: Partition) -> str:
    return f"{{sd:group:{partition.topic}:{partition.number}}}"


def begin(filled: RedisStore, partition: Partition) -> None:
    """A state at 9 with something that waits."""
    assert filled.append(partition, one(0, 9, b"abc", first=True, pending=b"w", waiting=["a"])) == [b""]


def loaded(filled: RedisStore, partition: Partition) -> Stored:
    """Its state as soon as it can be had; every call that fails does so in time and as an outage."""
    found: list[Stored | None] = []
    took: list[float] = []

    def answers() -> bool:
        started = time.monotonic()
        with suppress(Unavailable):
            found.append(filled.load(partition))
        took.append(time.monotonic() - started)
        return bool(found)

    until(answers)
    assert max(took) < LONGEST
    assert found[0] is not None
    return found[0]


@pytest.fixture
def own() -> Iterator[RedisCluster]:
    """A cluster to break."""
    with RedisCluster(spare=True) as cluster:
        yield cluster


@pytest.mark.parametrize("url", ["unix:///tmp/redis.sock", "redis://127.0.0.1:1/1", "redis://127.0.0.1:1?db=2"])
def test_what_a_cluster_cannot_be_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^redis\.url: a cluster .*redis\.cluster = false"):
        store(url)
    store(url, cluster=False).close()


@pytest.mark.parametrize("call", ["ping", "facts", "load"])
def test_a_closed_port_is_unavailable(call: str) -> None:
    absent = store(f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0")
    with pytest.raises(Unavailable, match=r"does not answer.*start it, open the firewall") as told:
        absent.load(Partition("t", 0)) if call == "load" else getattr(absent, call)()
    assert PASSWORD not in str(told.value)
    absent.close()


@pytest.mark.parametrize("call", ["ping", "load"])
def test_one_server_is_no_cluster(redis_url: str, call: str) -> None:
    wrong = store(redis_url)
    with pytest.raises(Refused, match=r"one server and no cluster; set redis\.cluster = false$"):
        wrong.ping() if call == "ping" else wrong.load(Partition("t", 0))


def test_a_node_of_a_cluster_is_not_one_server(redis_cluster_url: str) -> None:
    wrong = store(redis_cluster_url, cluster=False)
    with pytest.raises(Refused, match=r"node of a cluster; set redis\.cluster = true$"):
        wrong.ping()
    with pytest.raises(Refused, match=r"node of a cluster; set redis\.cluster = true$"):
        wrong.load(on(RANGES[0]))  # the URL is the second node's
    wrong.close()


def test_each_server_has_a_sample_and_tells_its_facts(redis_cluster: RedisCluster, redis_cluster_url: str) -> None:
    whole = store(redis_cluster_url)
    whole.ping()
    facts = whole.facts()
    assert sorted(facts) == sorted(f"127.0.0.1:{node.port}" for node in redis_cluster.primaries)
    assert {one["maxmemory_policy"] for one in facts.values()} == {"noeviction"}
    samples = whole.samples("t", facts)
    homes = [key_slot(key(partition).encode()) for partition in samples]
    assert [[first <= home <= last for home in homes].count(True) for first, last in RANGES] == [1, 1, 1]
    whole.close()


def test_a_node_that_forgot_the_scripts_is_told_them_again(redis_cluster: RedisCluster, redis_cluster_url: str) -> None:
    whole = store(redis_cluster_url)
    for slots, node in zip(RANGES, redis_cluster.primaries, strict=True):
        begin(whole, on(slots))
        asked(node, "SCRIPT", "FLUSH")
        assert whole.append(on(slots), one(9, 12, b"de", tails=[4])) == [b"bcde"]
    whole.close()


@pytest.fixture
def guarded(redis_cluster: RedisCluster, redis_cluster_url: str) -> Iterator[RedisCluster]:
    """A password for everybody, and a user that may do all but ask who has which slots."""
    for node in redis_cluster.nodes:
        asked(node, "ACL", "SETUSER", "lost", "reset", "on", f">{PASSWORD}", "~*", "+@all", "-cluster")
        asked(node, "ACL", "SETUSER", "right", "reset", "on", f">{PASSWORD}", "~*", "+@all")
    yield redis_cluster
    for node in redis_cluster.nodes:
        asked(node, "ACL", "DELUSER", "lost", "right")


def test_logins_and_permissions_are_told_apart(guarded: RedisCluster) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"username": "right", "password": SecretStr("wrong")}, r"refused the login.*check redis\.username"),
        ({"username": "lost", "password": SecretStr(PASSWORD)}, r"refused us: .*cluster.*docs/security\.md"),
    ]
    for more, words in wrong:
        for call in ("ping", "load"):
            refused = store(guarded.url, **more)
            with pytest.raises(Refused, match=words):
                refused.ping() if call == "ping" else refused.load(Partition("t", 0))
            refused.close()
    right = store(guarded.url.replace("//", "//nobody:wrong@"), username="right", password=SecretStr(PASSWORD))
    right.ping()
    assert right.load(on(RANGES[2])) is None
    right.close()


@pytest.mark.servers
def test_nodes_are_reached_by_tls_where_they_say_they_are(tmp_path: Path) -> None:
    authority, options = (
        Authority(tmp_path / "authority"),
        ["--cluster-enabled", "yes", "--cluster-port", str(free_port())],
    )
    own = authority.issue("detector")
    files: dict[str, Any] = {"ca_file": authority.certificate, "cert_file": own.certificate, "key_file": own.key}
    with RedisServer(options) as server:
        gate = Terminator(server.port, authority.issue("redis"), authority)
        asked(server, "CONFIG", "SET", "cluster-announce-port", gate.port)
        asked(server, "CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        until(lambda: b"cluster_state:ok" in asked(server, "CLUSTER", "INFO"))
        gate.start()
        url = f"rediss://127.0.0.1:{gate.port}"
        whole = store(url, **files)
        whole.ping()
        begin(whole, on(RANGES[0]))
        assert list(whole.facts()) == [f"127.0.0.1:{gate.port}"]
        whole.close()
        with pytest.raises(Refused, match=r"unknown authority .*redis\.ca_file"):
            store(url).load(on(RANGES[0]))
        gate.stop()


@pytest.mark.servers
def test_a_replica_takes_over(own: RedisCluster) -> None:
    """And the store goes on by itself, with the state as the replica has it."""
    lively = store(own.url)
    partition = on(RANGES[0])
    begin(lively, partition)
    with redis.Redis.from_url(own.primaries[0].url) as client:
        until(lambda: client.wait(1, 1_000) == 1)
    own.primaries[0].kill()
    started = time.monotonic()
    with pytest.raises(Unavailable):
        lively.append(partition, one(9, 12, b"de"))
    assert time.monotonic() - started < LONGEST
    assert loaded(lively, partition).position == 9
    assert lively.append(partition, one(9, 12, b"de", tails=[5])) == [b"abcde"]
    begin(lively, on(RANGES[1]))
    assert sorted(lively.facts()) == sorted(f"127.0.0.1:{node.port}" for node in [own.replica, *own.primaries[1:]])
    # Then all of them go and come back: no node that is known answers meanwhile.
    for node in (*own.primaries, own.replica):
        node.kill()
    with pytest.raises(Unavailable, match="does not answer"):
        lively.load(partition)
    for node in (own.replica, *own.primaries[1:]):
        node.start()
    assert loaded(lively, partition).position == 12
    lively.settle(partition, "L1", 0, 12, {"a": b"state"})
    lively.close()


@pytest.mark.servers
def test_a_node_that_stands_still_applies_once_what_was_asked_twice(own: RedisCluster) -> None:
    """Both attempts of one call lie in its sockets when it wakes up."""
    lively = store(own.url)
    partition = on(RANGES[2])  # without a replica: it stays who it is
    begin(lively, partition)
    frozen = own.primaries[2]
    pid = int(asked(frozen, "INFO", "server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    try:
        with pytest.raises(Unavailable):
            lively.append(partition, one(9, 12, b"de", pending=b"x", waiting=["a"]))
        assert time.monotonic() - started < LONGEST
    finally:
        os.kill(pid, signal.SIGCONT)
    stored = loaded(lively, partition)
    calls = asked(frozen, "INFO", "commandstats")["cmdstat_evalsha"]
    assert calls["calls"] >= 4  # begin, append, append again, load
    assert (stored.position, stored.rows) == (12, {"a": b"abcde"})
    assert stored.pending == [(9, b"w"), (12, b"x")]
    with pytest.raises(Moved):
        lively.append(partition, one(9, 12, b"de"))
    lively.close()


@pytest.mark.servers
@pytest.mark.parametrize("to", ["known", "new"])
@pytest.mark.parametrize("moved", ["nothing", "meta", "rows", "everything"])
def test_nothing_is_read_or_changed_while_a_slot_is_on_its_way(own: RedisCluster, moved: str, to: str) -> None:
    """A script would find some of its keys, or none."""
    lively, partition = store(own.url), on(RANGES[1])
    begin(lively, partition)
    begin(lively, on(RANGES[2]))  # and all of the scripts are known there
    assert lively.load(on(RANGES[2])) is not None
    lively.settle(on(RANGES[2]), "L1", 0, 9, {})
    lively.discard(on(RANGES[2]), "L1")
    slot, giver, taker = (
        key_slot(key(partition).encode()),
        own.primaries[1],
        own.spare[0] if to == "new" else own.primaries[2],
    )
    asked(taker, "CLUSTER", "SETSLOT", slot, "IMPORTING", own.name(giver))
    asked(giver, "CLUSTER", "SETSLOT", slot, "MIGRATING", own.name(taker))
    names = {name.decode() for name in asked(giver, "CLUSTER", "GETKEYSINSLOT", slot, 100)}
    assert names == {f"{key(partition)}:{what}" for what in ("meta", "sensors", "pending", "rows:a")}
    chosen = {"nothing": [], "meta": [":meta"], "rows": [":rows:a"], "everything": [""]}[moved]
    first = sorted(name for name in names if any(what in name for what in chosen))

    def move(some: list[str]) -> None:
        if some:
            asked(giver, "MIGRATE", "127.0.0.1", taker.port, "", 0, 5_000, "KEYS", *some)

    move(first)
    calls: list[Any] = [
        lambda: lively.load(partition),
        lambda: lively.append(partition, one(9, 12, b"de")),
        lambda: lively.append(partition, one(0, 12, b"de", first=True)),
        lambda: lively.settle(partition, "L1", 0, 9, {}),
        lambda: lively.discard(partition, "L1"),
    ]
    for call in calls:
        started = time.monotonic()
        with pytest.raises(Unavailable, match="cannot take writes now"):
            call()
        assert time.monotonic() - started < LONGEST
    move(sorted(names - set(first)))
    for node in (taker, giver, *own.primaries, *own.spare):
        asked(node, "CLUSTER", "SETSLOT", slot, "NODE", own.name(taker))
    stored = loaded(lively, partition)
    assert (stored.position, stored.rows, stored.pending) == (9, {"a": b"abc"}, [(9, b"w")])
    assert lively.append(partition, one(9, 12, b"de", tails=[5])) == [b"abcde"]
    assert sorted(name.decode() for name in asked(taker, "KEYS", "*")) == sorted(names)
    lively.close()

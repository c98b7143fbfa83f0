"""What `check` says about Redis: TLS, logins, permissions, eviction, clocks. About Kafka, see its adapter's tests."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from stream_detector.checks import findings
from stream_detector.events import Finding
from stream_detector.settings import Settings
from tests.servers.secure import Authority, SecureRedis

PASSWORD, WRONG = "correct-horse", "battery-staple"
COMMANDS = [
    *("ping", "info", "time", "evalsha", "script|load"),
    *("hmget", "hget", "hset", "hdel", "hgetall", "hexists", "hkeys", "hlen"),
    *("get", "set", "append", "getrange", "lrange", "lindex", "llen", "lpop", "rpush", "unlink"),
]
KEYS = "~{sd:stream-detector:*"


class Corner:
    """A Redis behind TLS, and settings that fit."""

    def __init__(self, redis: SecureRedis, authority: Authority) -> None:
        self.redis, self.authority = redis, authority
        self.foreign = Authority(authority.folder / "foreign", "foreign")
        self.own = authority.issue("detector")

    def allow(self, commands: list[str], keys: str = KEYS) -> None:
        """What the user may do from now on, and nothing else."""
        self.redis.allow(
            f"ACL SETUSER detector reset on >{PASSWORD} {keys} {' '.join('+' + name for name in commands)}"
        )
        with self.redis.admin() as admin:
            admin.script_flush()

    def findings(self, **changes: Any) -> dict[str, Finding]:
        """What is found about Redis with these settings; None takes one away."""
        given = {
            "url": self.redis.url(),
            "ca_file": str(self.authority.certificate),
            "username": "detector",
            "password": PASSWORD,
            "timeout": "2s",
            **changes,
        }
        return found({key: value for key, value in given.items() if value is not None})


def found(redis: dict[str, Any]) -> dict[str, Finding]:
    settings = Settings.model_validate({"redis": redis, "kafka": {"bootstrap_servers": "127.0.0.1:1"}})
    told = [one for one in findings(settings, None) if one.what.startswith(("redis", "clock"))]
    for one in told:
        assert "\n" not in one.message
        assert PASSWORD not in one.message
        assert WRONG not in one.message
    return {one.what: one for one in told}


def only_failure(told: dict[str, Finding]) -> Finding:
    [bad] = [one for one in told.values() if not one.ok]
    return bad


@pytest.fixture(scope="module")
def corner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corner]:
    authority = Authority(tmp_path_factory.mktemp("secure"))
    with SecureRedis(authority, "of-everybody") as redis:
        yield Corner(redis, authority)


@pytest.mark.servers
@pytest.mark.parametrize("listener", ["right", "mutual"])
def test_all_is_well_and_nothing_is_left_behind(corner: Corner, listener: str) -> None:
    corner.allow(COMMANDS)
    own = {"cert_file": str(corner.own.certificate), "key_file": str(corner.own.key)}
    told = corner.findings(url=corner.redis.url(listener), **(own if listener == "mutual" else {}))
    assert [one for one in told.values() if not one.ok] == []
    assert told["redis eviction"].message == "noeviction"
    assert told["redis persistence"].message == "append-only file"
    assert told["clock"].message.startswith("within 10 s")
    assert "allowed" in told["redis permissions"].message
    with corner.redis.admin() as admin:
        assert admin.keys("*") == []


@pytest.mark.servers
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"password": WRONG}, ["refused the login", "check redis.username, redis.password"]),
        ({"username": "nobody"}, ["refused the login", "check redis.username, redis.password"]),
        ({"username": None, "password": None}, ["refused the login", "check redis.username, redis.password"]),
        ({"ca_file": "foreign"}, ["unknown authority", "redis.ca_file"]),
        ({"ca_file": None}, ["unknown authority", "redis.ca_file"]),
        ({"url": "expired"}, ["has expired", "renew"]),
        ({"url": "misnamed"}, ["not valid for '127.0.0.1'"]),
        ({"url": "mutual"}, ["client certificate is wanted", "redis.cert_file and redis.key_file"]),
        ({"url": "no TLS", "ca_file": None}, ["this port speaks TLS", "rediss://", "redis.ca_file"]),
        ({"url": "TLS to a port without"}, ["this port speaks no TLS", "redis://"]),
        ({"url": "rediss://127.0.0.1:1"}, ["refused", "start it, open the firewall or correct redis.url"]),
        ({"url": "rediss://no.invalid"}, ["correct the host in redis.url"]),
        ({"ca_file": "/nowhere"}, ["redis.ca_file", "No such file", "PEM"]),
    ],
)
def test_what_keeps_us_out_is_told_apart(corner: Corner, changes: dict[str, Any], words: list[str]) -> None:
    corner.allow(COMMANDS)
    places = {
        "foreign": str(corner.foreign.certificate),
        "no TLS": corner.redis.url().replace("rediss", "redis"),
        "TLS to a port without": corner.redis.server.url.replace("redis:", "rediss:"),
        **{name: corner.redis.url(name) for name in ("expired", "misnamed", "mutual")},
    }
    bad = only_failure(corner.findings(**{key: places.get(str(value), value) for key, value in changes.items()}))
    assert bad.what == "redis"
    for word in words:
        assert word in bad.message


@pytest.mark.servers
@pytest.mark.parametrize("missing", COMMANDS)
def test_every_missing_command_is_named(corner: Corner, missing: str) -> None:
    corner.allow([command for command in COMMANDS if command != missing])
    message = only_failure(corner.findings()).message
    assert missing in message
    assert "docs/security.md" in message
    corner.allow(COMMANDS)
    assert all(one.ok for one in corner.findings().values())  # whatever the broken check left is cleared away
    with corner.redis.admin() as admin:
        assert admin.keys("*") == []


@pytest.mark.servers
def test_keys_out_of_reach_are_told(corner: Corner) -> None:
    corner.allow(COMMANDS, keys="~{sd:another:*")
    bad = only_failure(corner.findings())
    assert bad.what == "redis permissions"
    assert "No permissions to access a key" in bad.message


@pytest.mark.servers
def test_eviction_and_a_lost_append_only_file_are_told(corner: Corner) -> None:
    corner.allow(COMMANDS)
    with corner.redis.admin() as admin:
        admin.config_set("maxmemory-policy", "allkeys-lru")
        admin.config_set("appendonly", "no")
        told = corner.findings()
        admin.config_set("maxmemory-policy", "noeviction")
        admin.config_set("appendonly", "yes")
    assert only_failure(told).message.endswith("set it to noeviction")
    assert "read again from Kafka" in told["redis persistence"].message


@pytest.mark.servers
@pytest.mark.parametrize(("seconds", "told"), [(75.0, "75.0 s ahead of Redis'"), (-3600.0, "3600.0 s behind Redis'")])
def test_clocks_that_differ_are_told(
    corner: Corner, monkeypatch: pytest.MonkeyPatch, seconds: float, told: str
) -> None:
    corner.allow(COMMANDS)
    real = time.time
    monkeypatch.setattr("stream_detector.adapters.redis.client.time.time", lambda: real() + seconds)
    bad = only_failure(corner.findings())
    assert bad.what == "clock"
    assert told in bad.message


def test_what_is_no_redis_is_told() -> None:
    """Another server, here one of the Internet's, answers something."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        bad = only_failure(found({"url": f"redis://127.0.0.1:{listener.getsockname()[1]}"}))
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert "no Redis" in bad.message

"""What the Redis adapter makes of redis-py's errors, of passwords and of URLs; the contract suite does the rest."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
import redis
import redis.exceptions
from pydantic import SecretStr
from redis._parsers.base import BaseParser

from stream_detector.adapters.redis.client import translate
from stream_detector.adapters.redis.store import RedisStore
from stream_detector.errors import Moved, Refused, SettingsError, StreamDetectorError, Unavailable
from stream_detector.events import Partition
from stream_detector.settings import Redis
from tests.servers import RedisServer
from tests.servers.process import free_port

PASSWORD = "hunter2"
UNREACHABLE = {"IncorrectPolicyType"}  # a bug in redis-py's own tables of cluster commands, nothing a server causes
EVERY = [
    kind
    for name, kind in inspect.getmembers(redis.exceptions, inspect.isclass)
    if issubclass(kind, Exception) and name not in UNREACHABLE
]


def store(url: str, password: str | None = None) -> RedisStore:
    secret = None if password is None else SecretStr(password)
    return RedisStore(Redis(url=SecretStr(url), password=secret, timeout=2_000), "group")


def translated(error: Exception) -> StreamDetectorError:
    def fail() -> None:
        raise error

    with pytest.raises(StreamDetectorError) as told:
        translate(fail)
    assert "\n" not in str(told.value)
    assert told.value.__cause__ is error
    return told.value


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: str(kind.__name__))
def test_every_exception_of_the_client_becomes_one_of_ours(kind: type[Exception]) -> None:
    slots = {redis.exceptions.AskError, redis.exceptions.MovedError}
    told = translated(kind("1 127.0.0.1:7000") if kind in slots else kind("what it says"))
    assert isinstance(told, (Unavailable, Refused))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("WRONGPASS invalid username-password pair or user is disabled.", Refused),
        ("NOAUTH Authentication required.", Refused),
        ("NOPERM User default has no permissions to run the 'evalsha' command", Refused),
        ("ERR unknown command 'EVALSHA'", Refused),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", Refused),
        ("CROSSSLOT Keys in request don't hash to the same slot", Refused),
        ("LOADING Redis is loading the dataset in memory", Unavailable),
        ("OOM command not allowed when used memory > 'maxmemory'.", Unavailable),
        ("READONLY You can't write against a read only replica.", Unavailable),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", Unavailable),
        ("CLUSTERDOWN The cluster is down", Unavailable),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Unavailable),
        ("MISCONF Redis is configured to save RDB snapshots, but it is unable to persist to disk.", Unavailable),
        ("BUSY Redis is busy running a script.", Unavailable),
        ("ERR max number of clients reached", Unavailable),
        ("STALE state is at 7", Moved),
    ],
)
def test_what_a_server_replies_is_taken_for_what_it_means(reply: str, expected: type[StreamDetectorError]) -> None:
    error = BaseParser.parse_error(reply)  # type: ignore[no-untyped-call] # redis-py's, not annotated
    assert type(translated(error)) is expected


def test_what_is_no_error_of_the_client_passes_through() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        translate(fail)
    assert translate(lambda: 7) == 7


@pytest.mark.parametrize(
    "url",
    [
        "",
        "[",
        "redis://[",
        f"http://:{PASSWORD}@host",
        f"redis://:{PASSWORD}/x@host",  # a slash in a password must be written %2F
        f"redis://host:{PASSWORD}",
        f"redis://host?socket_timeout={PASSWORD}",
        f"redis://host?nonsense={PASSWORD}",
        f"rediss://host?ssl_cert_reqs={PASSWORD}",
        "redis://host?protocol=9",
    ],
)
def test_a_url_that_makes_no_sense_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^redis\.url: .*redis://") as told:
        store(url)
    assert PASSWORD not in str(told.value)
    assert told.value.__cause__ is None
    assert told.value.__suppress_context__


@pytest.mark.parametrize("call", ["ping", "facts", "load"])
def test_a_closed_port_is_unavailable(call: str) -> None:
    absent = store(f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0")
    with pytest.raises(Unavailable, match="does not answer") as told:
        absent.load(Partition("t", 0)) if call == "load" else getattr(absent, call)()
    assert PASSWORD not in str(told.value)


@pytest.fixture(scope="module")
def locked() -> Iterator[RedisServer]:
    """A server that wants a password, once it runs."""
    with RedisServer() as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("requirepass", PASSWORD)
        yield server


@pytest.mark.servers
@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_wrong_password_is_refused(locked: RedisServer, password: str | None) -> None:
    for refused in (store(locked.url, password), store(locked.url.replace("//", f"//:{password or ''}@"))):
        with pytest.raises(Refused, match=r"check redis\.username, redis\.password") as told:
            refused.ping()
        assert "wrong" not in str(told.value).replace("WRONGPASS", "")
        with pytest.raises(Refused):
            refused.load(Partition("t", 0))


@pytest.mark.servers
def test_the_right_password_opens_wherever_it_stands(locked: RedisServer) -> None:
    for opened in (
        store(locked.url, PASSWORD),
        store(locked.url.replace("//", f"//:{PASSWORD}@")),
        store(locked.url.replace("//", "//:wrong@"), PASSWORD),  # redis.password wins
    ):
        opened.ping()
        assert opened.load(Partition("t", 0)) is None
        assert opened.facts()[""]["maxmemory_policy"] == "noeviction"
        opened.close()

"""redis-py: a client as the settings want it, and its exceptions translated into ours."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

import redis
from redis.backoff import ExponentialBackoff
from redis.connection import SSLConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ChildDeadlockedError,
    ClusterDownError,
    ClusterError,
    ConnectionError,
    InvalidResponse,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
    TimeoutError,
    TryAgainError,
)
from redis.retry import Retry

from stream_detector.errors import Damaged, Moved, Refused, SettingsError, Unavailable
from stream_detector.settings import Redis as RedisSettings
from stream_detector.tls import Names, cause_of, context_of, explained, speaks_tls

T = TypeVar("T")
PATIENCE = 2.0  # seconds for a look at what is there when nothing answers
FORM = "redis://[[user]:password@]host[:port][/number], rediss://… for TLS, or unix://[[user]:password@]path"
ONE_SERVER = "this is one server and no cluster; set redis.cluster = false"
CLUSTER = "this is a node of a cluster; set redis.cluster = true"
# What scripts run into on a node that is no longer, or not yet, the right one; older servers put words before it.
ELSEWHERE = ("READONLY ", "CLUSTERDOWN", "MASTERDOWN", "non local key")
TLS = Names("redis.ca_file", "redis.cert_file", "redis.key_file", "write redis:// in redis.url, or name the TLS port")


def client_of(settings: RedisSettings) -> redis.Redis:
    """A client that has connected to nothing yet. Raises `SettingsError`."""
    try:
        client = redis.Redis.from_url(
            settings.url.get_secret_value(),
            socket_timeout=settings.timeout / 1_000,
            socket_connect_timeout=settings.timeout / 1_000,
            # A repeated compare-and-set that did succeed the first time is refused, which means "load again": safe.
            retry=Retry(ExponentialBackoff(cap=1, base=0.05), 3),
        )
        pool = client.connection_pool
        options = pool.connection_kwargs
        if settings.username is not None:  # wins over one in the URL, and so does the password
            options["username"] = settings.username
        if settings.password is not None:
            options["password"] = settings.password.get_secret_value()
        if issubclass(pool.connection_class, SSLConnection):
            files = {"ssl_ca_certs": settings.ca_file, "ssl_certfile": settings.cert_file}
            files["ssl_keyfile"] = settings.key_file
            options |= {key: str(path) for key, path in files.items() if path is not None}
            if options.get("ssl_cert_reqs") != "none":
                options.setdefault("ssl_check_hostname", True)  # older versions of redis-py did not by themselves
        pool.connection_class(**options)  # connects to nothing, but looks at what the URL asks for
        if settings.cluster and ("host" not in options or options.get("db")):
            raise SettingsError(
                "redis.url: a cluster is reached at redis://host or rediss://host, and has database 0 alone;"
                " correct it, or set redis.cluster = false"
            )
    except (TypeError, ValueError, RedisError):  # whose messages may hold a piece of the password
        raise SettingsError(f"redis.url: not understood; write {FORM}, special characters percent-encoded") from None
    if issubclass(pool.connection_class, SSLConnection):
        context_of(TLS, authority=settings.ca_file, certificate=settings.cert_file, key=settings.key_file)
    return client


class Server:
    """One server; raises our errors alone."""

    def __init__(self, settings: RedisSettings) -> None:
        self.client = client_of(settings)

    def evaluate(self, sha: str, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """What a script returns; its text is sent where the server does not know it."""
        return translate(lambda: evaluated(self.client, sha, script, keys, arguments, dict))

    def ping(self) -> None:
        """Return if it answers, and is no node of a cluster."""
        ping(self.client, cluster=False)

    def facts(self) -> dict[str, dict[str, str]]:
        """By server, for `check`."""
        return {"": facts_of(self.client)}

    def holder(self, key: str) -> str:
        """Which of the servers in `facts` has a key."""
        return ""

    def close(self) -> None:
        """Let go of connections."""
        self.client.close()


def evaluated(
    client: Any,
    sha: str,
    script: str,
    keys: Sequence[str],
    arguments: Sequence[Any],
    where: Callable[[], Mapping[str, Any]],
) -> Any:
    """EVALSHA; ``where`` gives the options of the client that lead SCRIPT LOAD to the same server."""
    try:
        return client.evalsha(sha, len(keys), *keys, *arguments)
    except NoScriptError:
        client.execute_command("SCRIPT LOAD", script, **where())
        return client.evalsha(sha, len(keys), *keys, *arguments)


def ping(client: redis.Redis, *, cluster: bool) -> None:
    """Return if the server answers and is what we expect; if it does not, find out by hand whether it ever will."""
    try:
        translate(client.ping)
    except Unavailable as error:
        options = client.connection_pool.connection_kwargs
        if "host" not in options:
            raise
        where = options["host"], int(options.get("port", 6379))
        if not issubclass(client.connection_pool.connection_class, SSLConnection):
            if speaks_tls(*where, PATIENCE):
                told = "this port speaks TLS; write rediss:// in redis.url, and set redis.ca_file"
                raise Refused(f"Redis: {told}") from None
            if isinstance(error.__cause__, InvalidResponse):
                raise Refused("Redis: what answers there is no Redis; correct redis.url") from None
        elif _answers_without_tls(*where):
            raise Refused(f"Redis: this port speaks no TLS; {TLS.no_tls}") from None
        elif _hangs_up_on_us(*where):
            told = f"a client certificate is wanted, or another one; set {TLS.certificate} and {TLS.key}"
            raise Refused(f"Redis: TLS: {told}") from None
        raise
    if bool(translate(lambda: client.info("cluster")).get("cluster_enabled")) != cluster:
        raise Refused(f"Redis: {ONE_SERVER if cluster else CLUSTER}")


def _answers_without_tls(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), PATIENCE) as line:
            line.sendall(b"PING\r\n")
            return line.recv(1) in (b"+", b"-")
    except OSError:
        return False


def _hangs_up_on_us(host: str, port: int) -> bool:
    """Whether the server refuses us after the handshake, before it was asked anything.

    That is how TLS 1.3 refuses a client; redis-py has mostly sent something by then and does not see the reason.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # our certificate left out: this is about what it wants, not us
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname=host) as line,
        ):
            line.recv(1)  # an end without a reason is none: a terminator ends so while its server is away
    except TimeoutError:
        return False
    except ssl.SSLError:
        return True
    except OSError:
        return False
    return False


def _away(error: BaseException) -> str:
    told, inner = " ".join(str(error).split()).rstrip("."), error.__context__
    if isinstance(inner, socket.gaierror):
        return f"{told}; correct the host in redis.url"
    if isinstance(inner, OSError):
        return f"{told}; start it, open the firewall or correct redis.url"
    return told


def facts_of(client: redis.Redis) -> dict[str, str]:
    """Version, eviction policy, persistence and clock of one server, for `check`."""
    info = translate(lambda: client.info())
    asked = time.time()
    seconds, microseconds = translate(lambda: client.time())
    ahead = (asked + time.time()) / 2 - (seconds + microseconds / 1e6)
    return {
        "redis_version": str(info.get("redis_version", "0")),  # Valkey tells the one it is compatible with
        "maxmemory_policy": str(info.get("maxmemory_policy", "unknown")),
        "aof_enabled": str(info.get("aof_enabled", "unknown")),
        "clock_ahead": f"{ahead:.3f}",  # seconds that this machine is ahead of the server
    }


def translate(call: Callable[[], T]) -> T:
    """Run a call of redis-py and turn its exceptions into ours."""
    try:
        return call()
    except AuthenticationError as error:  # first: a subclass of another here
        raise Refused(
            f"Redis refused the login: {error}; check redis.username, redis.password, and those in redis.url"
        ) from error
    except (AuthorizationError, NoPermissionError) as error:
        raise Refused(f"Redis refused us: {error}; grant this user what docs/security.md lists") from error
    except (ConnectionError, TimeoutError, BusyLoadingError) as error:
        if (tls := cause_of(error)) is not None:
            raise explained(tls, "Redis", TLS) from error
        raise Unavailable(f"Redis does not answer: {_away(error)}") from error
    except (OutOfMemoryError, ReadOnlyError, ClusterDownError, TryAgainError) as error:
        raise Unavailable(f"Redis cannot take writes now: {error}") from error
    except SlotNotCoveredError as error:
        raise Unavailable("Redis cannot take writes now: some of the cluster's slots have no node") from error
    except ClusterError as error:  # the client has followed redirections for long enough
        raise Unavailable("Redis cannot take writes now: the cluster is moving slots") from error
    except AskError as error:  # or MovedError; the client of a cluster follows them
        raise Refused(f"Redis: {CLUSTER}") from error
    except NoScriptError as error:  # loaded a moment ago, on a server that has just handed over to another
        raise Unavailable(f"Redis cannot take writes now: {error}") from error
    except ResponseError as error:
        text = str(error)
        if text.startswith("STALE "):
            raise Moved(text.removeprefix("STALE ")) from error
        if text.startswith("DAMAGED "):
            raise Damaged(text.removeprefix("DAMAGED ")) from error
        if text.startswith(("MISCONF", "BUSY")):
            raise Unavailable(f"Redis cannot take writes now: {text}") from error
        if any(word in text for word in ELSEWHERE):
            raise Unavailable(f"Redis cannot take writes now: {text}") from error
        if "cluster support disabled" in text:
            raise Refused(f"Redis: {ONE_SERVER}") from error
        if "ACL failure in script" in text or text.startswith("NOPERM"):
            raise Refused(f"Redis refused us: {text}; grant this user what docs/security.md lists") from error
        raise Refused(f"Redis refused a call: {text}") from error
    except RedisClusterException as error:
        why = error.__cause__ or error.__context__  # the last of the nodes did not tell who has which slots
        if not isinstance(why, (RedisError, RedisClusterException)):
            raise Unavailable(f"Redis: {' '.join(str(error).split())}") from error
    except (RedisError, ChildDeadlockedError) as error:
        raise Unavailable(f"Redis: {error}") from error
    return translate(partial(_raise, why))  # out here: in there, it would come to have itself as a cause


def _raise(error: Exception) -> NoReturn:
    raise error

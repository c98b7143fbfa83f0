"""Windows in Redis (or Valkey): each call is one server-side script, atomic, compare-and-set on positions.

Keys of a partition share one hash tag, so that Redis Cluster keeps them together (``P`` is
``{prefix:group:topic:partition}``):

==================  ======  =================================================================================
key                 type    holds
==================  ======  =================================================================================
``P:meta``          hash    life, layout, position, settled
``P:sensors``       hash    sensor → header
``P:rows:SENSOR``   string  packed rows; appended to, and trimmed to what is needed at four times that
``P:pending``       list    two entries a batch that is not settled: [end, waiting, expired] and what waits
``P:alerts``        hash    sensor → alert state after the settled windows
==================  ======  =================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ChildDeadlockedError,
    ClusterDownError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)
from redis.retry import Retry

from stream_detector.errors import Moved, Refused, SettingsError, Unavailable
from stream_detector.events import Partition
from stream_detector.ports import Stored, Update
from stream_detector.settings import Redis as RedisSettings

T = TypeVar("T")
FORM = "redis://[[user]:password@]host[:port][/number], rediss://… for TLS, or unix://[[user]:password@]path"
SLACK = 4  # rows are trimmed when they reach so many times what must be kept

# Redis' own MessagePack knows no binary type: what waits stands beside its entry, not in it.
LOAD = """
local p = KEYS[1]
local meta = redis.call('HMGET', p .. ':meta', 'life', 'layout', 'position', 'settled')
if not meta[1] then return {} end
local pending = redis.call('LRANGE', p .. ':pending', 0, -1)
local rows, seen = {}, {}
for i = 1, #pending, 2 do
  for _, sensor in ipairs(cmsgpack.unpack(pending[i])[2]) do
    if not seen[sensor] then
      seen[sensor] = true
      rows[#rows + 1] = sensor
      rows[#rows + 1] = redis.call('GET', p .. ':rows:' .. sensor) or ''
    end
  end
end
return {meta, redis.call('HGETALL', p .. ':sensors'), pending, rows, redis.call('HGETALL', p .. ':alerts')}
"""

# ARGV: life, layout, first, start, end, slack, pending entry, expired (msgpack list), settled, what waits,
#       then for each sensor: name, rows, header, keep, tail
APPEND = """
local p = KEYS[1]
local meta = redis.call('HMGET', p .. ':meta', 'life', 'position', 'settled')
if not meta[1] then
  if ARGV[3] ~= '1' then return redis.error_reply('STALE no state') end
  redis.call('HSET', p .. ':meta', 'life', ARGV[1], 'layout', ARGV[2], 'settled', ARGV[4])
elseif meta[1] ~= ARGV[1] or meta[2] ~= ARGV[4] then
  return redis.error_reply('STALE state is at ' .. meta[2])
end
for _, sensor in ipairs(cmsgpack.unpack(ARGV[8])) do
  redis.call('HDEL', p .. ':sensors', sensor)
end
local slack, tails = tonumber(ARGV[6]), {}
local trim = not meta[1] or meta[3] == ARGV[9]  -- else waiting windows could lose their rows
for i = 11, #ARGV, 5 do
  local key = p .. ':rows:' .. ARGV[i]
  local size = redis.call('APPEND', key, ARGV[i + 1])
  if ARGV[i + 2] ~= '' then redis.call('HSET', p .. ':sensors', ARGV[i], ARGV[i + 2]) end
  local tail = tonumber(ARGV[i + 4])
  if tail > 0 then tails[#tails + 1] = redis.call('GETRANGE', key, -tail, -1) end
  local keep = tonumber(ARGV[i + 3])
  if trim and size > slack * keep then redis.call('SET', key, redis.call('GETRANGE', key, -keep, -1)) end
end
redis.call('HSET', p .. ':meta', 'position', ARGV[5])
if ARGV[7] ~= '' then redis.call('RPUSH', p .. ':pending', ARGV[7], ARGV[10]) end
return tails
"""

# ARGV: life, since, upto, then sensor, alert state ('' forgets)
SETTLE = """
local p = KEYS[1]
local meta = redis.call('HMGET', p .. ':meta', 'life', 'position', 'settled')
if not meta[1] or meta[1] ~= ARGV[1] or meta[3] ~= ARGV[2] or tonumber(ARGV[3]) > tonumber(meta[2]) then
  return redis.error_reply('STALE settled is ' .. tostring(meta[3]))
end
local upto = tonumber(ARGV[3])
while true do
  local packed = redis.call('LINDEX', p .. ':pending', 0)
  if not packed then break end
  local entry = cmsgpack.unpack(packed)
  if entry[1] > upto then break end
  for _, sensor in ipairs(entry[3]) do  -- no window can need the rows of these any more, unless they came back
    if redis.call('HEXISTS', p .. ':sensors', sensor) == 0 then redis.call('UNLINK', p .. ':rows:' .. sensor) end
  end
  redis.call('LPOP', p .. ':pending', 2)
end
for i = 4, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', p .. ':alerts', ARGV[i])
  else redis.call('HSET', p .. ':alerts', ARGV[i], ARGV[i + 1]) end
end
redis.call('HSET', p .. ':meta', 'settled', ARGV[3])
return 1
"""

DISCARD = """
local p = KEYS[1]
if redis.call('HGET', p .. ':meta', 'life') ~= ARGV[1] then return redis.error_reply('STALE another life') end
for _, sensor in ipairs(redis.call('HKEYS', p .. ':sensors')) do redis.call('UNLINK', p .. ':rows:' .. sensor) end
local pending = redis.call('LRANGE', p .. ':pending', 0, -1)
for i = 1, #pending, 2 do
  for _, sensor in ipairs(cmsgpack.unpack(pending[i])[3]) do redis.call('UNLINK', p .. ':rows:' .. sensor) end
end
redis.call('UNLINK', p .. ':meta', p .. ':sensors', p .. ':pending', p .. ':alerts')
return 1
"""


class RedisStore:
    """`ports.WindowStore` on a Redis server or cluster-compatible keyspace."""

    def __init__(self, settings: RedisSettings, group: str) -> None:
        self.settings = settings
        self.group = group
        self.client = _client(settings)
        self.scripts = {
            name: self.client.register_script(text)
            for name, text in {"load": LOAD, "append": APPEND, "settle": SETTLE, "discard": DISCARD}.items()
        }

    def load(self, partition: Partition) -> Stored | None:
        """See `ports.WindowStore.load`; one call."""
        reply = self._run("load", partition, [])
        if not reply:
            return None
        (life, layout, position, settled), headers, pending, rows, alerts = reply
        ends = [msgspec.msgpack.decode(packed, type=tuple[int, list[str], list[str]])[0] for packed in pending[::2]]
        return Stored(
            life.decode(),
            layout.decode(),
            int(position),
            int(settled),
            _pairs(headers),
            list(zip(ends, pending[1::2], strict=True)),
            _pairs(rows),
            _pairs(alerts),
        )

    def append(self, partition: Partition, update: Update) -> list[bytes]:
        """See `ports.WindowStore.append`; one call, whatever the number of events."""
        entry = b""
        if update.pending or update.expired:
            entry = msgspec.msgpack.encode((update.end, update.waiting, update.expired))
        arguments: list[Any] = [
            update.life,
            update.layout,
            int(update.first),
            update.start,
            update.end,
            SLACK,
            entry,
            msgspec.msgpack.encode(update.expired),
            update.settled,
            update.pending,
        ]
        columns = (update.sensors, update.rows, update.headers, update.keep, update.tails)
        for row in zip(*columns, strict=True):
            arguments.extend(row)
        tails = iter(self._run("append", partition, arguments))
        return [next(tails) if wanted else b"" for wanted in update.tails]

    def settle(
        self, partition: Partition, life: str, since: int, upto: int, alerts: Mapping[str, bytes | None]
    ) -> None:
        """See `ports.WindowStore.settle`; one call."""
        arguments: list[Any] = [life, since, upto]
        for sensor, state in alerts.items():
            arguments += [sensor, state or b""]
        self._run("settle", partition, arguments)

    def discard(self, partition: Partition, life: str) -> None:
        """See `ports.WindowStore.discard`; one call."""
        self._run("discard", partition, [life])

    def ping(self) -> None:
        """Return if the server answers."""
        translate(self.client.ping)

    def facts(self) -> dict[str, str]:
        """Version and eviction policy, for `check`."""
        info = translate(lambda: self.client.info())
        return {
            "redis_version": str(info.get("redis_version", "0")),  # Valkey tells the one it is compatible with
            "maxmemory_policy": str(info.get("maxmemory_policy", "unknown")),
        }

    def close(self) -> None:
        """Let go of connections."""
        self.client.close()

    def _run(self, name: str, partition: Partition, arguments: Sequence[Any]) -> Any:
        # A group may hold braces, which would end the hash tag early.
        key = f"{{{self.settings.prefix}:{quote(self.group, safe='')}:{partition.topic}:{partition.number}}}"
        return translate(lambda: self.scripts[name](keys=[key], args=arguments))


def _pairs(flat: Sequence[bytes]) -> dict[str, bytes]:
    return {flat[at].decode(): flat[at + 1] for at in range(0, len(flat), 2)}


def _client(settings: RedisSettings) -> redis.Redis:
    try:
        client = redis.Redis.from_url(
            settings.url.get_secret_value(),
            socket_timeout=settings.timeout / 1_000,
            socket_connect_timeout=settings.timeout / 1_000,
            # A repeated compare-and-set that did succeed the first time is refused, which means "load again": safe.
            retry=Retry(ExponentialBackoff(cap=1, base=0.05), 3),
        )
        pool = client.connection_pool
        if settings.password is not None:  # wins over one in the URL
            pool.connection_kwargs["password"] = settings.password.get_secret_value()
        pool.connection_class(**pool.connection_kwargs)  # connects to nothing, but looks at what the URL asks for
    except (TypeError, ValueError, RedisError):  # whose messages may hold a piece of the password
        raise SettingsError(f"redis.url: not understood; write {FORM}, special characters percent-encoded") from None
    return client


def translate(call: Callable[[], T]) -> T:
    """Run a call of redis-py and turn its exceptions into ours."""
    try:
        return call()
    except (AuthenticationError, AuthorizationError, NoPermissionError) as error:  # first: subclasses of others here
        raise Refused(f"Redis refused us: {error}; check redis.url, redis.password and the user's ACL") from error
    except (ConnectionError, TimeoutError, BusyLoadingError) as error:
        raise Unavailable(f"Redis does not answer: {error}") from error
    except (OutOfMemoryError, ReadOnlyError, ClusterDownError, TryAgainError) as error:
        raise Unavailable(f"Redis cannot take writes now: {error}") from error
    except ResponseError as error:
        text = str(error)
        if text.startswith("STALE "):
            raise Moved(text.removeprefix("STALE ")) from error
        if text.startswith(("MISCONF", "BUSY")):
            raise Unavailable(f"Redis cannot take writes now: {text}") from error
        raise Refused(f"Redis refused a call: {text}") from error
    except (RedisError, RedisClusterException, ChildDeadlockedError) as error:
        raise Unavailable(f"Redis: {error}") from error

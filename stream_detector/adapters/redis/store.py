"""Windows in Redis (or Valkey): each call is one server-side script, atomic, compare-and-set on positions.

Keys of a partition share one hash tag, so that Redis Cluster keeps them together (``P`` is
``{prefix:group:topic:partition}``, and no key itself):

==================  ======  =================================================================================
key                 type    holds
==================  ======  =================================================================================
``P:meta``          hash    life, layout, position, settled, floor, sizes of the others
``P:sensors``       hash    sensor → header
``P:rows:SENSOR``   string  packed rows; appended to, and trimmed to what is needed at four times that
``P:pending``       list    two entries a batch that is not settled: [end, waiting, expired] and what waits
``P:alerts``        hash    sensor → alert state after the settled windows
``P:memories``      hash    head or number of a chunk, and sensor → what it showed lately (`memories`)
==================  ======  =================================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any
from urllib.parse import quote

import msgspec

from stream_detector.adapters.redis.client import Server
from stream_detector.adapters.redis.cluster import Cluster
from stream_detector.events import Partition
from stream_detector.ports import NOTHING, Stored, Update
from stream_detector.settings import Redis as RedisSettings

TRIES = 10_000  # a server of a cluster that has fewer than one in a thousand slots may be missed
SLACK = 4  # rows are trimmed when they reach so many times what must be kept

# How much the other keys hold stands beside the position: a server that evicts whole keys is found out.
SIZES = """
local function sizes(p)
  local found = {
    redis.call('LLEN', p .. ':pending'), redis.call('HLEN', p .. ':sensors'), redis.call('HLEN', p .. ':alerts')
  }
  local memories = redis.call('HLEN', p .. ':memories')
  if memories > 0 then found[4] = memories end  -- states of earlier versions have none, and go on
  return table.concat(found, ':')
end
"""

# Redis' own MessagePack knows no binary type: what waits stands beside its entry, not in it.
LOAD = """
local p = KEYS[1]
local meta = redis.call('HMGET', p .. ':meta', 'life', 'layout', 'position', 'settled', 'floor', 'sizes')
if not meta[1] then return {} end
meta[6] = meta[6] == sizes(p) and 1 or 0
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
return {
  meta, redis.call('HGETALL', p .. ':sensors'), pending, rows,
  redis.call('HGETALL', p .. ':alerts'), redis.call('HGETALL', p .. ':memories')
}
"""

# ARGV: life, layout, first, start, end, slack, pending entry, expired (msgpack list), settled, what waits, floor,
#       how many alert states, then for each: sensor, state; then for each sensor: name, rows, header, keep, tail
APPEND = """
local p = KEYS[1]
local meta = redis.call('HMGET', p .. ':meta', 'life', 'position', 'settled', 'sizes')
if not meta[1] then
  if ARGV[3] ~= '1' then return redis.error_reply('STALE no state') end
  for _, sensor in ipairs(redis.call('HKEYS', p .. ':sensors')) do redis.call('UNLINK', p .. ':rows:' .. sensor) end
  -- left over if the server evicted the rest
  redis.call('UNLINK', p .. ':sensors', p .. ':pending', p .. ':alerts', p .. ':memories')
  for i = 13, 11 + 2 * tonumber(ARGV[12]), 2 do redis.call('HSET', p .. ':alerts', ARGV[i], ARGV[i + 1]) end
elseif meta[1] ~= ARGV[1] or meta[2] ~= ARGV[4] then
  return redis.error_reply('STALE state is at ' .. meta[2])
elseif meta[4] ~= sizes(p) then
  return redis.error_reply('DAMAGED keys of the state are missing')
end
for _, sensor in ipairs(cmsgpack.unpack(ARGV[8])) do
  redis.call('HDEL', p .. ':sensors', sensor)
end
local slack, tails = tonumber(ARGV[6]), {}
local trim = not meta[1] or meta[3] == ARGV[9]  -- else waiting windows could lose their rows
for i = 13 + 2 * tonumber(ARGV[12]), #ARGV, 5 do
  local key = p .. ':rows:' .. ARGV[i]
  local size = redis.call('APPEND', key, ARGV[i + 1])
  if ARGV[i + 2] ~= '' then redis.call('HSET', p .. ':sensors', ARGV[i], ARGV[i + 2]) end
  local tail = tonumber(ARGV[i + 4])
  if tail > 0 then tails[#tails + 1] = redis.call('GETRANGE', key, -tail, -1) end
  local keep = tonumber(ARGV[i + 3])
  if trim and size > slack * keep then redis.call('SET', key, redis.call('GETRANGE', key, -keep, -1)) end
end
if ARGV[7] ~= '' then redis.call('RPUSH', p .. ':pending', ARGV[7], ARGV[10]) end
if not meta[1] then  -- at the end: where a permission is missing, scripts stop in the middle, and nothing is undone
  redis.call('HSET', p .. ':meta', 'life', ARGV[1], 'layout', ARGV[2], 'settled', ARGV[4], 'floor', ARGV[11])
end
redis.call('HSET', p .. ':meta', 'position', ARGV[5], 'sizes', sizes(p))
return tails
"""

# ARGV: life, since, upto, how many alert states, then for each: sensor, state; then for each memory: name, what it is
#       ('' forgets)
SETTLE = """
local p = KEYS[1]
local meta = redis.call('HMGET', p .. ':meta', 'life', 'position', 'settled', 'sizes')
if not meta[1] or meta[1] ~= ARGV[1] or meta[3] ~= ARGV[2] or tonumber(ARGV[3]) > tonumber(meta[2]) then
  return redis.error_reply('STALE settled is ' .. tostring(meta[3]))
elseif meta[4] ~= sizes(p) then
  return redis.error_reply('DAMAGED keys of the state are missing')
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
local alerts = 4 + 2 * tonumber(ARGV[4])  -- place of the last one's state
for i = 5, #ARGV, 2 do
  local key = p .. (i < alerts and ':alerts' or ':memories')
  if ARGV[i + 1] == '' then redis.call('HDEL', key, ARGV[i])
  else redis.call('HSET', key, ARGV[i], ARGV[i + 1]) end
end
redis.call('HSET', p .. ':meta', 'settled', ARGV[3], 'sizes', sizes(p))
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
redis.call('UNLINK', p .. ':meta', p .. ':sensors', p .. ':pending', p .. ':alerts', p .. ':memories')
return 1
"""

SCRIPTS = {
    name: (hashlib.sha1((SIZES + text).encode(), usedforsecurity=False).hexdigest(), SIZES + text)
    for name, text in {"load": LOAD, "append": APPEND, "settle": SETTLE, "discard": DISCARD}.items()
}


class RedisStore:
    """`ports.WindowStore` on a Redis server or a Redis Cluster."""

    def __init__(self, settings: RedisSettings, group: str) -> None:
        self.settings = settings
        self.group = group
        self.server = Cluster(settings) if settings.cluster else Server(settings)

    def load(self, partition: Partition) -> Stored | None:
        """See `ports.WindowStore.load`; one call."""
        reply = self._run("load", partition, [])
        if not reply:
            return None
        (life, layout, position, settled, floor, whole), headers, pending, rows, alerts, memories = reply
        ends = [msgspec.msgpack.decode(packed, type=tuple[int, list[str], list[str]])[0] for packed in pending[::2]]
        return Stored(
            life.decode(),
            layout.decode(),
            int(position),
            int(settled),
            _pairs(headers),
            list(zip(ends, pending[1::2], strict=True)),
            int(floor or 0),
            _pairs(rows),
            _pairs(alerts),
            _pairs(memories),
            whole=bool(whole),
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
            update.floor,
            len(update.alerts),
            *chain.from_iterable(update.alerts.items()),
        ]
        columns = (update.sensors, update.rows, update.headers, update.keep, update.tails)
        for row in zip(*columns, strict=True):
            arguments.extend(row)
        tails = iter(self._run("append", partition, arguments))
        return [next(tails) if wanted else b"" for wanted in update.tails]

    def settle(
        self,
        partition: Partition,
        life: str,
        since: int,
        upto: int,
        alerts: Mapping[str, bytes | None],
        memories: Mapping[str, bytes | None] = NOTHING,
    ) -> None:
        """See `ports.WindowStore.settle`; one call."""
        arguments: list[Any] = [life, since, upto, len(alerts)]
        for name, state in chain(alerts.items(), memories.items()):
            arguments += [name, state or b""]
        self._run("settle", partition, arguments)

    def discard(self, partition: Partition, life: str) -> None:
        """See `ports.WindowStore.discard`; one call."""
        self._run("discard", partition, [life])

    def ping(self) -> None:
        """Return if the server answers, or all of a cluster's do."""
        self.server.ping()

    def facts(self) -> dict[str, dict[str, str]]:
        """Version, eviction policy, persistence and clock of each server, for `check`."""
        return self.server.facts()

    def samples(self, topic: str, servers: Collection[str]) -> list[Partition]:
        """Partitions that no topic has, one on each of these servers (of `facts`); for `check`."""
        found: dict[str, Partition] = {}
        for number in range(-1, -TRIES, -1):
            partition = Partition(topic, number)
            found.setdefault(self.server.holder(self._key(partition)), partition)
            if found.keys() >= set(servers):
                break
        return list(found.values())

    def close(self) -> None:
        """Let go of connections."""
        self.server.close()

    def _key(self, partition: Partition) -> str:
        # A group may hold braces, which would end the hash tag early.
        return f"{{{self.settings.prefix}:{quote(self.group, safe='')}:{partition.topic}:{partition.number}}}"

    def _run(self, name: str, partition: Partition, arguments: Sequence[Any]) -> Any:
        sha, script = SCRIPTS[name]
        key = self._key(partition)
        # While a slot is being moved, its keys are here and there, and a script that finds none would begin anew.
        # Of two keys one of which never exists, a cluster says "try again" until the slot is where it belongs.
        return self.server.evaluate(sha, script, [key, f"{key}:meta"], arguments)


def _pairs(flat: Sequence[bytes]) -> dict[str, bytes]:
    return {flat[at].decode(): flat[at + 1] for at in range(0, len(flat), 2)}

"""Presences across processes: kept in the engine, under leases that each process renews for itself.

In the engine stand, for each topic, its members and the version of its last diff; for each process, which members are
its, and until when it is believed to live. All changes go through Lua scripts, each of which also publishes what the
group is told, so diffs arrive in the order of their versions. Every change may be said twice: a join of who is known
and a leave of who is not change nothing, and are not told.

Each process has its own members in its memory too, so that nothing is lost with the engine:

- A process that does not renew its lease is taken out by whichever process looks next.
- When a link was lost, its process says all its members again, and sends its own clients the list.
- When nobody was heard for a while, it is the engine that was away, or is new: all leases begin again, and for the
  time of a lease (the grace) what the engine has is not taken for all there is. Lists are sent when that is over.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgpack
import trio

from ...exceptions import LayerUnavailable
from ..presence import Changes, LayerPresence, Metas, Topic, send_to, state_text
from .engine import Engine

LEASE_SECONDS = 15.0
"""Within so many the presences of a process that has died are gone."""
_RENEWALS = 15
"""So often is a lease renewed in its time, and as often does each process look for those that are over."""
_BELIEVED = 13 / _RENEWALS
"""What of its time a process is believed to live after it was heard: the rest is for whoever looks."""
_AWAY = 5 / _RENEWALS
"""Where nobody was heard for this part of a lease, the engine was away."""
_BATCH = 2000
"""Changes in one call: it takes the engine some milliseconds, in which it does nothing else."""
_VERSION_SECONDS = 600
"""For so long a topic's version is kept when nobody is there."""

_COMMON = """
local prefix, mark, lease, away = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local leases, clock = prefix .. 'leases', prefix .. 'clock'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Renews a lease; 1 where there was none. Where nobody was heard for long, the engine was away, or is new: whoever
-- lives says so within a lease.
local function hear(who)
    local lost = redis.call('ZSCORE', leases, who) and 0 or 1
    if now - tonumber(redis.call('HGET', clock, 'heard') or 0) > away then
        redis.call('HSET', clock, 'grace', now + lease)
        for _, each in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
            redis.call('ZADD', leases, now + lease, each)
        end
    end
    redis.call('HSET', clock, 'heard', now)
    redis.call('ZADD', leases, now + lease, who)
    return lost
end

local function grace()
    return math.max(0, tonumber(redis.call('HGET', clock, 'grace') or 0) - now)
end

local function object(keys, metas)
    local parts = {}
    for _, key in ipairs(keys) do
        parts[#parts + 1] = cjson.encode(key) .. ':[' .. table.concat(metas[key], ',') .. ']'
    end
    return '{' .. table.concat(parts, ',') .. '}'
end

local function put(told, kind, key, text)
    local found = told[kind]
    if not found then
        found = {keys = {}, metas = {}}
        told[kind] = found
    end
    if not found.metas[key] then
        found.metas[key] = {}
        found.keys[#found.keys + 1] = key
    end
    table.insert(found.metas[key], text)
    told.any = true
end

-- What Group.send publishes for {"text": text}: msgpack's array of nil and of bytes, which are a map of a string.
local function publish(topic, text)
    local content = '\\129\\164text\\219' .. struct.pack('>I4', #text) .. text
    redis.call('PUBLISH', topic, '\\146\\192\\198' .. struct.pack('>I4', #content) .. content)
end

local function version_of(name)
    return redis.call('GET', prefix .. 'version:' .. name)
end

local function tell(name, topic, told)
    local members, versions = prefix .. 'members:' .. name, prefix .. 'version:' .. name
    local version = redis.call('GET', versions)
    local begins = not version
    -- Versions only grow, also where the engine has forgotten the last one: they count from the time.
    version = string.format('%.0f', version and version + 1 or time[1] * 1000000 + time[2])
    if redis.call('EXISTS', members) == 1 then
        redis.call('SET', versions, version)
    else
        redis.call('SET', versions, version, 'EX', KEEP_VERSION)
    end
    local text = '{"presence":"' .. name .. '","version":' .. version
    if begins and grace() == 0 and told.joins then
        -- A list that begins follows none that a client of the topic may have from before.
        publish(topic, text .. ',"state":' .. object(told.joins.keys, told.joins.metas) .. '}')
        return
    end
    for _, kind in ipairs({'joins', 'updates', 'leaves'}) do
        if told[kind] then
            text = text .. ',"' .. kind .. '":' .. object(told[kind].keys, told[kind].metas)
        end
    end
    publish(topic, text .. '}')
end
""".replace("KEEP_VERSION", str(_VERSION_SECONDS))

_CHANGE = (
    _COMMON
    + """
local lost = hear(mark)
local mine = prefix .. 'of:' .. mark
for _, change in ipairs(cmsgpack.unpack(ARGV[5])) do
    local name, topic, entered, left = change[1], change[2], change[3], change[4]
    local members, told = prefix .. 'members:' .. name, {}
    for number, each in ipairs(entered) do
        local ref, key, text = each[1], each[2], each[3]
        local known = redis.call('HGET', members, ref)
        -- The order of joining stands before what is told.
        local order = known and string.sub(known, 1, 22) or
            string.format('%010d%06d%06d', time[1], time[2], number)
        local value = order .. cmsgpack.pack({key, text})
        if known ~= value then
            redis.call('HSET', members, ref, value)
            put(told, known and 'updates' or 'joins', key, text)
        end
        redis.call('HSET', mine, ref, name)
    end
    for _, each in ipairs(left) do
        if redis.call('HDEL', members, each[1]) == 1 then
            put(told, 'leaves', each[2], '"' .. each[1] .. '"')
        end
        redis.call('HDEL', mine, each[1])
    end
    if told.any then
        tell(name, topic, told)
    end
end
return {grace(), lost}
"""
)
"""Says who has come, changed and gone. Its answer: the milliseconds of grace that are left; 1 where this process had
no lease."""

_RENEW = (
    _COMMON
    + """
local topics, bye = ARGV[5], ARGV[6] == 'bye'

-- Fields of a hash, with their values: as many as one call should take out.
local function several(hash)
    local found, pairs_of = redis.call('HRANDFIELD', hash, BATCH, 'WITHVALUES'), {}
    for place = 1, #found, 2 do
        pairs_of[#pairs_of + 1] = {found[place], found[place + 1]}
    end
    return pairs_of
end

local dead, lost = nil, 0
if bye then
    dead = {mark}
else
    lost = hear(mark)
    dead = redis.call('ZRANGEBYSCORE', leases, '-inf', now)
end
local more = 0
for _, each in ipairs(dead) do
    local its = prefix .. 'of:' .. each
    local topic_of = {}
    for _, pair in ipairs(several(its)) do
        local ref, name = pair[1], pair[2]
        local members = prefix .. 'members:' .. name
        local known = redis.call('HGET', members, ref)
        if known then
            topic_of[name] = topic_of[name] or {}
            put(topic_of[name], 'leaves', cmsgpack.unpack(string.sub(known, 23))[1], '"' .. ref .. '"')
            redis.call('HDEL', members, ref)
        end
        redis.call('HDEL', its, ref)
    end
    for name, told in pairs(topic_of) do
        tell(name, topics .. name, told)
    end
    if redis.call('EXISTS', its) == 1 then
        more = 1
    else
        redis.call('ZREM', leases, each)
    end
end
return {grace(), lost, more}
"""
).replace("BATCH", str(_BATCH))
"""Renews a lease, or says goodbye; and takes out those that are over. Its answer as that of the other, and 1 where more
is to be taken out."""

_LIST = (
    _COMMON
    + """
return {version_of(ARGV[5]) or string.format('%.0f', time[1] * 1000000 + time[2] - 1),
        redis.call('HVALS', prefix .. 'members:' .. ARGV[5])}
"""
)


class RedisPresence(LayerPresence):
    """Those of all processes on one engine.

    Args:
        engine: where they are kept.
        mark: of this process.
        send: sends a text to this process's WebSockets in a group; False: there are none.
        lease: seconds within which the presences of a process that has died are gone.
    """

    def __init__(
        self,
        engine: Engine,
        mark: str,
        send: Callable[[str, str], bool],
        lease: float = LEASE_SECONDS,
    ) -> None:
        super().__init__(mark)
        self._engine = engine
        self._send = send
        self._lease = lease
        self._change = engine.script(_CHANGE)
        self._renew = engine.script(_RENEW)
        self._list = engine.script(_LIST)
        # One at a time, so that a leave never comes to the engine before its join.
        self._asking = trio.Lock()
        # Topics whose lists clients of this process have been sent.
        self._watched: set[str] = set()
        self._used = trio.Event()
        self._resync_at = math.inf
        self._is_known = False

    # -- the engine

    @property
    def _common(self) -> list[str | bytes | int | float]:
        milliseconds = self._lease * 1000
        return [
            self._engine.key("presence", ""),
            self._mark,
            round(milliseconds * _BELIEVED),
            round(milliseconds * _AWAY),
        ]

    def _topic_name(self, name: str) -> str:
        return self._engine.topic("group", name)

    async def metas(self, topic: str) -> Metas:
        known = self.topics.get(topic)
        if known is not None and (known.changes or known.asking):
            try:
                await self._tell_changes([known])
            finally:
                self._tell_soon(known)
        return (await self._read(topic))[1]

    async def _read(self, topic: str) -> tuple[int, Metas]:
        """The version, and who is there."""
        self._used.set()
        version, values = await self._engine.ask(self._list([], [*self._common, topic]))
        found: Metas = {}
        for value in sorted(values):
            key, text = msgpack.unpackb(value[22:])
            found.setdefault(key, []).append(text)
        return int(version), found

    async def _tell(self, topics: list[Topic]) -> None:
        await self._tell_changes(topics)
        for topic in topics:
            if topic.newcomers:
                version, metas = await self._read(topic.name)
                newcomers, topic.newcomers = topic.newcomers, {}
                self._watched.add(topic.name)
                send_to(newcomers, state_text(topic.name, version, metas))

    async def _tell_changes(self, topics: list[Topic]) -> None:
        self._used.set()
        async with self._asking:
            while taken := self._taken(topics):
                done = False
                try:
                    grace, lost = await self._engine.ask(
                        self._change([], [*self._common, msgpack.packb(self._said(taken))])
                    )
                    done = True
                finally:
                    for topic, changes in taken:
                        topic.asking = False
                        if done:
                            topic.changes.uncertain.difference_update(changes.joins)
                        else:
                            topic.changes.put_back(changes)
                self._heard(grace, lost)

    def _taken(self, topics: list[Topic]) -> list[tuple[Topic, Changes]]:
        """What one call tells the engine.

        Raises:
            LayerUnavailable: it is known to be away. Nothing is taken then.
        """
        taken: list[tuple[Topic, Changes]] = []
        room = _BATCH
        for topic in topics:
            if topic.changes and room > 0:
                if not taken:
                    self._engine.client  # noqa: B018 - raises
                changes = topic.changes.take(room)
                room -= len(changes)
                topic.asking = True
                taken.append((topic, changes))
        return taken

    def _said(self, taken: list[tuple[Topic, Changes]]) -> list[object]:
        return [
            (
                topic.name,
                self._topic_name(topic.name),
                [
                    (each.ref, each.key, each.text)
                    for each in (*changes.joins.values(), *changes.updates.values())
                ],
                [(each.ref, each.key) for each in changes.leaves.values()],
            )
            for topic, changes in taken
        ]

    # -- leases

    @asynccontextmanager
    async def kept(self, nursery: trio.Nursery) -> AsyncIterator[None]:
        """Renew the lease for as long as the block lasts; then say goodbye."""
        nursery.start_soon(self._keep)
        try:
            yield
        finally:
            self.stop()
            if self._used.is_set():
                with trio.move_on_after(self._engine.timeout, shield=True):
                    try:
                        await self._look("bye")
                    except LayerUnavailable:
                        pass  # the lease ends by itself

    async def _keep(self) -> None:
        await self._used.wait()
        while True:
            again = trio.current_time() + self._lease / _RENEWALS
            try:
                await self._look()
                if trio.current_time() >= self._resync_at:
                    self._resync_at = math.inf
                    await self._resync()
                again = min(again, self._resync_at)
            except LayerUnavailable:
                pass  # told by the engine; restored() follows
            await trio.sleep_until(again)

    async def _look(self, bye: str = "") -> None:
        more = 1
        while more:
            grace, lost, more = await self._engine.ask(
                self._renew([], [*self._common, self._topic_name(""), bye])
            )
            if not bye:
                self._heard(grace, lost)

    def _heard(self, grace: int, lost: int) -> None:
        """The engine has heard this process, which had ``lost`` its lease, or comes for the first time."""
        if lost and self._is_known:
            self.restored()
        self._is_known = True
        if grace:
            self._resync_at = trio.current_time() + grace / 1000

    def restored(self, missed: float = 0.0) -> None:
        """The link is there again: say all members once more, and send clients the lists that they may have missed
        something of.

        Args:
            missed: seconds.
        """
        if not self._used.is_set():
            return
        self._resync_at = min(self._resync_at, trio.current_time())
        for topic in self.topics.values():
            if topic.members:
                topic.changes.joins = {**topic.members}
                topic.changes.updates.clear()
                topic.changes.uncertain.update(topic.members)
                self._tell_soon(topic)

    async def _resync(self) -> None:
        """Send this process's clients the lists of their topics."""
        try:
            # What is said first belongs to the list; where the engine is new, that says so, and this is put off.
            await self._tell_changes(list(self.topics.values()))
            if self._resync_at < math.inf:
                return
            for name in sorted(self._watched):
                version, metas = await self._read(name)
                if not self._send(name, state_text(name, version, metas)):
                    self._watched.discard(name)
        except LayerUnavailable:
            self._resync_at = trio.current_time()
            raise

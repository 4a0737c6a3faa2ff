"""Groups across processes: a subscription for each group with connections here; its named channels are the engine's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgpack

from ...replies import parse_http, parse_websocket
from ..base import Endpoint
from ..fan_out import CANT_DECIDE, FanOut, Member
from ..groups import GroupRegistry
from .codec import decode, encode
from .engine import Engine

logger = logging.getLogger("triochan.layers")

_ADD = """
local now = redis.call('TIME')
return redis.call('ZADD', KEYS[1], 'NX', now[1] * 1000000 + now[2], ARGV[1])
"""
_SEND = """
if ARGV[3] == 'named' and redis.call('PUBSUB', 'NUMSUB', ARGV[1])[2] > 0 then
    return false
end
redis.call('PUBLISH', ARGV[1], ARGV[2])
return redis.call('ZRANGE', KEYS[1], 0, -1)
"""
"""Publishes, and says which named channels are members. ``named``: what is sent fits these alone, so it goes nowhere
where a process has connections in the group."""


class Groups:
    """Who of this process is in which group, and what comes for them.

    A group without connections here costs nothing here: there is no subscription.

    Args:
        engine: through which messages go.
        endpoints: the connections of this process, by their reply channels' names.
    """

    def __init__(self, engine: Engine, endpoints: Mapping[str, Endpoint]) -> None:
        self._engine = engine
        self._endpoints = endpoints
        self._fan_out = FanOut(GroupRegistry[Member]())
        self._joining: dict[tuple[str, Endpoint], object] = {}
        self._add = engine.script(_ADD)
        self._send = engine.script(_SEND)

    # -- connections of this process

    async def add(self, group: str, endpoint: Endpoint) -> None:
        """Put a connection into a group; returns when the engine has confirmed the subscription.

        Raises:
            LayerUnavailable: it has not within its time; the connection is not in the group then.
        """
        topic = self._topic(group)
        if self._fan_out.has(group, endpoint):
            await self._engine.confirmed(topic)
            return
        # Whoever has left since and come again is not taken out by the first one's failure.
        mine = self._joining[group, endpoint] = object()
        if self._fan_out.add(group, endpoint):
            self._engine.subscriptions.want(topic, partial(self._deliver, group))
        try:
            await self._engine.confirmed(topic)
        except BaseException:
            if self._joining.get((group, endpoint)) is mine:
                self.discard(group, endpoint)
            raise
        finally:
            if self._joining.get((group, endpoint)) is mine:
                del self._joining[group, endpoint]

    def discard(self, group: str, endpoint: Endpoint) -> None:
        """Take a connection out of a group."""
        if self._fan_out.discard(group, endpoint):
            self._engine.subscriptions.drop(self._topic(group))

    def leave_all(self, endpoint: Endpoint) -> None:
        """Take a connection out of all its groups."""
        for group in self._fan_out.leave_all(endpoint):
            self._engine.subscriptions.drop(self._topic(group))

    async def local_names(self, group: str) -> list[str]:
        """The reply channels of this process in the group, in the order in which they joined."""
        return self._fan_out.names(group)

    # -- named channels

    async def add_named(self, group: str, channel: str) -> None:
        await self._engine.ask(self._add([self._key(group)], [channel]))

    async def discard_named(self, group: str, channel: str) -> None:
        await self._engine.ask(self._engine.client.zrem(self._key(group), [channel]))

    async def named(self, group: str) -> list[str]:
        """The named channels in the group, in the order in which they joined."""
        members = await self._engine.ask(self._engine.client.zrange(self._key(group), 0, -1))
        return [each.decode() for each in members if isinstance(each, bytes)]

    # -- messages

    async def send(self, group: str, content: dict[str, Any], exclude: str | None) -> list[str]:
        """Publish; the named channels that are to get it too."""
        refusal = _why_no_socket(content)
        if refusal is not None and self._fan_out.takes_frames(group):
            raise ValueError(refusal)
        fits = "all" if refusal is None or _fits_a_request(content) else "named"
        data = msgpack.packb((exclude, encode(content)))
        members = await self._engine.ask(self._send([self._key(group)], [self._topic(group), data, fits]))
        if members is None:
            raise ValueError(refusal)
        return [name for each in members if (name := each.decode()) != exclude] if members else members

    def _deliver(self, group: str, data: bytes) -> None:
        """A message has come for the connections of this process. Never raises: others' messages come behind it."""
        try:
            exclude, content = msgpack.unpackb(data)
            self._fan_out.deliver(
                group, decode(content), None if exclude is None else self._endpoints.get(exclude)
            )
        except ValueError as error:
            logger.warning("group %r: a message from another process was dropped: %s", group, error)
        except Exception:
            logger.exception("group %r: a message from another process was dropped", group)

    def _topic(self, group: str) -> str:
        return self._engine.topic("group", group)

    def _key(self, group: str) -> str:
        return self._engine.key("group", group)


def _why_no_socket(content: dict[str, Any]) -> str | None:
    """What is wrong with ``content`` as a message to the WebSockets in a group; None: nothing."""
    try:
        if parse_websocket(content).accept is not None:
            return CANT_DECIDE
    except ValueError as error:
        return str(error)
    return None


def _fits_a_request(content: dict[str, Any]) -> bool:
    """A waiting HTTP request could take it."""
    try:
        parse_http(content, started="status" not in content)
    except ValueError:
        return False
    return bool(content)

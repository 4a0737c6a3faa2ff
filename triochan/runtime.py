"""What the connections of one running server share."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol

import trio

from .application import Application
from .handlers import nothing
from .layers import Channel, ChannelLayer, MemoryLayer, share_layer
from .message import Message
from .routing import Consumer, Match
from .settings import Overflow, Settings

CONNECT, RECEIVE, DISCONNECT = map(
    Channel, ("websocket.connect", "websocket.receive", "websocket.disconnect")
)
_MATCHES = 1024
"""Paths whose consumers are remembered."""


class Policy(NamedTuple):
    """How a connection treats its messages, as the consumers of its path ask for it."""

    limit: int
    gated: bool
    cancel_on_disconnect: bool
    overflow: Overflow
    outbox_limit: int


class Matches(NamedTuple):
    """Where the messages of one path go.

    ``receive`` and ``disconnect`` are None where each message has to be matched by itself.
    """

    connect: Match | None
    receive: Match | None
    disconnect: Match | None
    policy: Policy


class Pingable(Protocol):
    def start_ping(self) -> None: ...


class Closable(Protocol):
    def close(self, code: int = 1000, reason: str = "") -> None: ...


class Keepalive:
    """Says when each connection is due for a ping: one task for all of them, and none for an idle one.

    Every interval is the same, so the connections stand in the order in which they are due.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._due: dict[Pingable, float] = {}
        self._arrived = trio.Event()

    def schedule(self, connection: Pingable) -> None:
        """Ping ``connection`` one interval from now."""
        if self._interval:
            if not self._due:
                self._arrived.set()
            self._due.pop(connection, None)
            self._due[connection] = trio.current_time() + self._interval

    def forget(self, connection: Pingable) -> None:
        self._due.pop(connection, None)

    async def run(self) -> None:
        """Start pings as they fall due, until cancelled."""
        while True:
            if not self._due:
                self._arrived = trio.Event()
                await self._arrived.wait()
                continue
            due = next(iter(self._due.values()))  # not the connection: it may go while this sleeps
            if due > trio.current_time():
                await trio.sleep_until(due)
                continue
            connection = next(iter(self._due))
            del self._due[connection]
            connection.start_ping()
            del connection


class Runtime:
    """One server's application, settings and layer, and the connections that it holds.

    Attributes:
        sockets: TCP connections held now.
        websockets: the accepted WebSockets among them.
        idle: scopes of HTTP connections that wait for a request: cancelled, they end.
        draining: a shutdown is under way: nothing new is taken on.
        deadline: when whatever still runs is cancelled, on Trio's clock.
    """

    def __init__(self, application: Application, settings: Settings, layer: ChannelLayer) -> None:
        self.application = application
        self.router = application.router
        self.settings = settings
        self.layer = layer
        self.keepalive = Keepalive(settings.ping_interval)
        self.sockets = 0
        self.websockets: dict[Closable, None] = {}
        self.idle: set[trio.CancelScope] = set()
        self.draining = False
        self.deadline = math.inf
        self._policies: dict[tuple[Any, ...], Policy] = {}
        self._matches: dict[str, Matches] = {}
        self._by_path = {
            channel.name: (keys := self.router.keys_matched(channel.name)) is not None and keys <= {"path"}
            for channel in (CONNECT, RECEIVE, DISCONNECT)
        }

    @classmethod
    @asynccontextmanager
    async def open(
        cls, application: Application, settings: Settings, layer: ChannelLayer | None
    ) -> AsyncIterator[Runtime]:
        """A runtime on ``layer``, or on the one that serves this Trio run already, or on a new one in memory."""
        async with application.running(), share_layer(layer, lambda: MemoryLayer(settings)) as shared:
            yield cls(application, settings, shared)

    def match(self, connect: Message) -> Matches:
        """Find the consumers of a connection, by its path alone where the routing looks at nothing else.

        Where messages are routed but ``connect`` is not, the handshake is accepted, as in Channels 1.
        """
        path = connect.content["path"]
        found = self._matches.get(path)
        if found is not None:
            return found
        router = self.router
        probe = {"path": path}
        matches = [
            router.match(connect),
            router.match(Message(probe, RECEIVE), partly=True),
            router.match(Message(probe, DISCONNECT), partly=True),
        ]
        policy = self.policy(tuple(match[0] if match else None for match in matches))
        if any(matches):
            # What has no consumer, or one that would do nothing, need not be called.
            matches = [
                match if match and not _is_idle(match[0], channel) else (nothing, {})
                for match, channel in zip(matches, self._by_path, strict=True)
            ]
        alike = list(self._by_path.values())
        found = Matches(
            matches[0], matches[1] if alike[1] else None, matches[2] if alike[2] else None, policy
        )
        if all(self._by_path.values()):
            if len(self._matches) >= _MATCHES:
                self._matches.clear()
            self._matches[path] = found
        return found

    def policy(self, consumers: tuple[Consumer | None, ...]) -> Policy:
        """The strictest ordering that any of a path's consumers asks for, and their limits."""
        policy = self._policies.get(consumers)
        if policy is None:
            settings = self.settings

            def asked(name: str) -> list[Any]:
                return [value for each in consumers if (value := getattr(each, name, None)) is not None]

            strict = any(asked("strict_ordering"))
            policy = self._policies[consumers] = Policy(
                limit=1 if strict else min([settings.max_overlap, *asked("max_overlap")]),
                gated=strict or any(asked("slight_ordering")),
                cancel_on_disconnect=any(asked("cancel_on_disconnect")),
                overflow=next(iter(asked("overflow")), settings.overflow),
                outbox_limit=next(iter(asked("outbox_limit")), settings.outbox_limit),
            )
        return policy


def _is_idle(consumer: Consumer, channel: str) -> bool:
    """A consumer class that overrides nothing of what happens on ``channel``."""
    is_idle = getattr(consumer, "is_idle", None)
    return is_idle is not None and bool(is_idle(channel))

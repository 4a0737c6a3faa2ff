"""What the connections of one running server share."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol

import trio

from .application import Application
from .layers import ChannelLayer, MemoryLayer, running_layer
from .routing import Consumer
from .settings import Overflow, Settings


class Policy(NamedTuple):
    """How a connection treats its messages, as the consumers of its path ask for it."""

    limit: int
    gated: bool
    cancel_on_disconnect: bool
    overflow: Overflow
    outbox_limit: int


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
            connection, due = next(iter(self._due.items()))
            if due > trio.current_time():
                await trio.sleep_until(due)
                continue
            del self._due[connection]
            connection.start_ping()


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

    @classmethod
    @asynccontextmanager
    async def open(
        cls, application: Application, settings: Settings, layer: ChannelLayer | None
    ) -> AsyncIterator[Runtime]:
        """A runtime on ``layer``, or on the one that serves this Trio run already, or on a new one in memory."""
        running = running_layer.get(None)
        if running is not None and layer in (None, running):
            yield cls(application, settings, running)
            return
        layer = layer or MemoryLayer(settings)
        async with layer.running():
            yield cls(application, settings, layer)

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

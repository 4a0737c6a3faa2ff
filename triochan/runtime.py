"""What the connections of one running server share."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import attrs
import trio
import trio.lowlevel

from .access import AccessLog
from .answers import answered
from .application import Application
from .exceptions import NobodyListens
from .handlers import Bound
from .http.responses import text
from .layers import Channel, ChannelLayer, MemoryLayer, share_layer
from .log_lines import say_refused
from .message import Message, SendsReplies
from .middleware import bind
from .near_misses import SOCKET_CHANNELS
from .proxies import Front
from .readers import Readers
from .replies import Refusal
from .routing import LAYER_GAP, Consumer, Match, Router, Routing, name_of
from .running import run_local
from .settings import Overflow, Settings
from .terminal import is_terminal
from .timers import Timers
from .wire.outbox import Flush

CONNECT, RECEIVE, DISCONNECT, REQUEST, GAP = map(
    Channel, ("websocket.connect", "websocket.receive", "websocket.disconnect", "http.request", LAYER_GAP)
)
logger = logging.getLogger("triochan.server")

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
"""What a request that no consumer takes is tried with instead."""
_GAPS_AT_ONCE = 100
"""Sockets whose consumers are told of a gap in one step."""
_MATCHES = 1024
"""Paths whose consumers are remembered."""


class Drainable(Protocol):
    """A connection, as far as a shutdown needs it."""

    @property
    def handlers(self) -> int:
        """Handlers of the program's that have begun and not ended."""

    def drain(self) -> None:
        """Take nothing new, answer what was received, and end."""


class Told(Drainable, Protocol):
    """A WebSocket, as far as the layer's gaps need it."""

    def layer_gap(self, seconds: float) -> None:
        """Messages to its groups may have been missed for so long."""


class Policy(NamedTuple):
    """How a connection treats its messages, as the consumers of its path ask for it."""

    limit: int
    gated: bool
    cancel_on_disconnect: bool
    overflow: Overflow
    outbox_limit: int
    compression: bool
    state: Callable[[], Any]


class Matches(NamedTuple):
    """Where the messages of one path go.

    Nobody for ``connect`` means that the handshake is refused. ``receive`` and ``disconnect`` are None where each
    message has to be matched by itself.
    """

    connect: Match | None
    receive: Match | None
    disconnect: Match | None
    policy: Policy


async def nothing(message: Message, **kwargs: Any) -> None:
    """The consumer of a message that nobody has anything to do about."""


class Runtime:
    """One server's application, settings and layer, and the connections that it holds.

    Attributes:
        readers: the tasks that read and run handlers.
        front: what stands in front of the server, where that has to see requests.
        access: the access log, where that is on.
        timers: what is due later.
        flush: what the current turn has gathered.
        sockets: TCP connections held now.
        websockets: the accepted WebSockets among them.
        http: those that speak HTTP.
        guests: the scopes of those that run in tasks of others, see :meth:`guest`.
        draining: a shutdown is under way: nothing new is taken on.
        deadline: when whatever still runs is cancelled, on Trio's clock.
        cut_short: the shutdown has cancelled a handler.
    """

    def __init__(
        self,
        application: Application,
        settings: Settings,
        layer: ChannelLayer,
        front: Front | None = None,
        access: AccessLog | None = None,
    ) -> None:
        self.access = access
        self.front = front if front is not None and front.looks else None
        self.application = application
        self.router = application.router
        self.settings = settings
        self.layer = layer
        self.flush = Flush()
        self.timers = Timers()
        self.readers = Readers(self.flush)
        self.sockets = 0
        self.websockets: dict[Told, None] = {}
        self.http: set[Drainable] = set()
        self.guests: dict[trio.CancelScope, None] = {}
        self._guest_left = trio.lowlevel.ParkingLot()
        self.draining = False
        self.deadline = math.inf
        self.cut_short = False
        self._policies: dict[tuple[Any, ...], Policy] = {}
        self._matches: dict[str, Matches] = {}
        self._requests: dict[str, Bound] = {}
        self._by_path = {
            channel.name: (keys := self.router.keys_matched(channel.name)) is not None and keys <= {"path"}
            for channel in (CONNECT, RECEIVE, DISCONNECT)
        }
        keys = self.router.keys_matched(REQUEST.name)
        self._by_request_path = keys is not None and keys <= {"path"}

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        application: Application,
        settings: Settings,
        layer: ChannelLayer | None,
        front: Front | None = None,
        *,
        access_log: bool | None = False,
    ) -> AsyncIterator[Runtime]:
        """A runtime on ``layer``, or on the one that serves this Trio run already, or on a new one in memory.

        Args:
            access_log: write one; None: where standard error is a terminal.
        """
        access = AccessLog.of(is_terminal(sys.stderr) if access_log is None else access_log)
        async with (
            application.running(),
            _serving_on(layer, application, settings) as shared,
            application.living(),
        ):
            runtime = cls(application, settings, shared, front, access)
            try:
                yield runtime
            finally:
                runtime.readers.close()  # where it never came to serve

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[trio.Nursery]:
        """Run what all connections need for as long as the block lasts; what is started in the nursery, too."""
        runtimes = run_local().of(_Runtimes).serving
        runtimes.append(self)
        try:
            async with trio.open_nursery() as services:
                await services.start(self.readers.run)
                services.start_soon(self.timers.run)
                services.start_soon(self.flush.run)
                with self.layer.telling_of_gaps(
                    lambda seconds: services.start_soon(self._tell_of_gap, seconds)
                ):
                    yield services
                services.cancel_scope.cancel()
        finally:
            runtimes.remove(self)
            self.readers.close()  # after the connections: they take their sockets out of it

    @contextmanager
    def guest(self, scope: trio.CancelScope) -> Iterator[None]:
        """Hold a connection that runs in a task of another server's; a shutdown here waits for its end.

        Args:
            scope: a new one, entered for the block: a shutdown gives it its deadline. A shielded one lets a connection
                that its own server cancels answer first.
        """
        scope.deadline = self.deadline
        self.guests[scope] = None
        self.sockets += 1
        try:
            with scope:
                yield
        finally:
            self.sockets -= 1
            del self.guests[scope]
            self._guest_left.unpark_all()

    async def guests_left(self) -> None:
        """Wait until the last guest has ended."""
        while self.guests:
            await self._guest_left.park()

    async def drain(self, hard: trio.CancelScope) -> None:
        """Begin a shutdown: let each socket answer what it has received, and close it with 1001, spread over a time,
        so that their clients do not all come back at once.

        Args:
            hard: gets the shutdown's deadline.
        """
        settings = self.settings
        self.draining = True
        self.deadline = hard.deadline = trio.current_time() + settings.shutdown_timeout
        for guest in self.guests:
            guest.deadline = min(guest.deadline, self.deadline)
        for http in list(self.http):
            http.drain()
        websockets = list(self.websockets)
        if websockets:
            logger.info("shutdown: closing %d WebSockets", len(websockets))
        for index, connection in enumerate(websockets):
            if index:
                await trio.sleep(settings.drain_spread / len(websockets))
            connection.drain()

    async def _tell_of_gap(self, seconds: float) -> None:
        """The layer may have missed messages, and hears again: tell the open sockets' consumers that ask for it."""
        for index, connection in enumerate(list(self.websockets)):
            if index % _GAPS_AT_ONCE == _GAPS_AT_ONCE - 1:
                await trio.lowlevel.checkpoint()  # others have their turn
            connection.layer_gap(seconds)

    def match(self, connect: Message) -> Matches:
        """Find the consumers of a connection, by its path alone where the routing looks at nothing else.

        Where messages are routed but ``connect`` is not, the handshake is accepted, as in Channels 1.
        """
        path = connect.own["path"]
        found = self._matches.get(path)
        if found is not None:
            return found
        router = self.router
        matches = [router.match(connect)]
        for channel in (RECEIVE, DISCONNECT):
            probe = Message({"path": path}, channel)
            try:
                matches.append(router.match(probe, partly=True, opening=connect.own))
            except Exception:  # noqa: BLE001 - the program's own route, which needs more: it is asked for each message
                matches.append(None)
        policy = self.policy(tuple(match[0] if match else None for match in matches))
        if any(matches):
            # What has no consumer need not be refused, nor be called.
            matches = [match or (nothing, {}) for match in matches]
        alike = list(self._by_path.values())
        found = Matches(
            matches[0],
            matches[1] if alike[1] else None,
            matches[2] if alike[2] else None,
            policy,
        )
        if all(self._by_path.values()):
            if len(self._matches) >= _MATCHES:
                self._matches.clear()
            self._matches[path] = found
        return found

    def bind(self, match: Match, channel: SendsReplies) -> Bound:
        """``match`` with the function that begins its handler, in the application's middleware; see
        :func:`triochan.middleware.bind`."""
        bound = bind(match, channel.name, self.application.middleware)
        if channel is REQUEST and bound.begin is not None:
            return bound._replace(begin=answered(bound.begin))
        return bound

    def match_request(self, message: Message) -> Bound | None:
        """Who takes an ``http.request``; by its path alone where the routing looks at nothing else.

        HEAD is for who takes GET, where nobody takes HEAD itself (RFC 9110 section 9.3.2).
        """
        if not self._by_request_path:
            match = self.router.match(message)
            if match is None and message.own["method"] == "HEAD":
                match = self.router.match(_as_method(message, "GET"))
            return None if match is None else self.bind(match, REQUEST)
        path = message.own["path"]
        found = self._requests.get(path)
        if found is None:
            match = self.router.match(message)
            if match is None:
                return None
            found = self.bind(match, REQUEST)
            if len(self._requests) >= _MATCHES:
                self._requests.clear()
            self._requests[path] = found
        elif isinstance(found.consumer, type):  # what is patched by now is called
            return self.bind((found.consumer, found.kwargs), REQUEST)
        return found

    def unrouted(self, message: Message) -> Refusal | Bound:
        """The answer to an ``http.request`` that no consumer takes; in the middleware, where there is any.

        404; or 405, where one takes another method (RFC 9110 section 15.5.6); OPTIONS is told which (section 9.3.7).
        """
        refusal = self._refusal(message)
        if not self.application.middleware:
            return refusal

        async def unrouted(message: Message) -> dict[str, Any]:
            return text(refusal.text + "\n", refusal.status, refusal.headers)

        return self.bind((unrouted, {}), REQUEST)

    def _refusal(self, message: Message) -> Refusal:
        router = self.router
        keys = router.keys_matched(REQUEST.name)
        methods = []
        if keys is None or "method" in keys:
            methods = [each for each in METHODS if router.match(_as_method(message, each)) is not None]
        if not methods:
            _log_why(404, message, router)
            return Refusal(404, "Not Found")
        if "GET" in methods and "HEAD" not in methods:
            methods.insert(1, "HEAD")
        allow = ", ".join([*methods, "OPTIONS"])
        headers = [(b"Allow", allow.encode())]
        if message.own["method"] == "OPTIONS":
            return Refusal(200, allow, headers)
        _log_why(405, message, router)
        return Refusal(405, f"Method Not Allowed; it may be one of {allow}", headers)

    def refused_handshake(self, message: Message) -> None:
        """Log why nobody takes a ``websocket.connect``."""
        _log_why(403, message, self.router)

    def policy(self, consumers: tuple[Consumer | None, ...]) -> Policy:
        """The strictest ordering that any of a path's consumers asks for, and their limits."""
        policy = self._policies.get(consumers)
        if policy is None:
            settings = self.settings

            def asked(name: str) -> list[Any]:
                return [value for each in consumers if (value := getattr(each, name, None)) is not None]

            strict = any(asked("strict_ordering"))
            policy = self._policies[consumers] = Policy(
                limit=1 if strict else min(asked("max_overlap"), default=settings.max_overlap),
                gated=strict or any(asked("slight_ordering")),
                cancel_on_disconnect=any(asked("cancel_on_disconnect")),
                overflow=next(iter(asked("overflow")), settings.overflow),
                outbox_limit=next(iter(asked("outbox_limit")), settings.outbox_limit),
                compression=next(iter(asked("compression")), settings.compression),
                state=next((each for each in asked("State") if each is not SimpleNamespace), SimpleNamespace),
            )
        return policy


def unheard_streams(layer: ChannelLayer, application: Application) -> Iterator[str]:
    """A line for each demultiplexer's stream that goes to a named channel on which nobody listens."""
    for consumer in application.router.consumers():
        for stream, channel in getattr(consumer, "mapping", {}).items():
            try:
                layer.require_listener(channel)
            except NobodyListens as error:
                yield f"stream {stream!r} of {name_of(consumer)}: {error}"


@asynccontextmanager
async def _serving_on(
    layer: ChannelLayer | None, application: Application, settings: Settings
) -> AsyncIterator[ChannelLayer]:
    """The layer, which knows by then what the application's consumers take from."""
    async with share_layer(layer, lambda: MemoryLayer(settings)) as shared:
        shared.serve(application.router.channels - SOCKET_CHANNELS.keys())
        for unheard in unheard_streams(shared, application):
            logger.warning("%s", unheard)
        yield shared


def _as_method(message: Message, method: str) -> Message:
    return Message({**message.own, "method": method}, message.channel, message.reply_channel)


def _log_why(status: int, message: Message, router: Router) -> None:
    """Say which routes were asked, and what of the message did not suit them."""
    if logger.isEnabledFor(logging.DEBUG):
        tried = router.explain(message) or ["there are no routes for it"]
        say_refused(logger, status, message, "; ".join(tried))


@attrs.define(eq=False)
class _Runtimes:
    """Those that serve in one Trio run, in the order in which they began."""

    serving: list[Runtime] = attrs.field(factory=list)


def runtime_of(routing: Routing | Application) -> Runtime | None:
    """The runtime that serves this very application, or this very routing, in this Trio run; None: none does."""
    for runtime in run_local().of(_Runtimes).serving:
        application = runtime.application
        if application is routing or application.router.routing is routing:
            return runtime
    return None

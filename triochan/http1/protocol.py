"""HTTP/1.1 on one connection: request after request, until one becomes a WebSocket.

A reader feeds the parser and runs the consumer of each request inline; a response goes out through the connection's
outbox. There is no task for a request, but the reader's that a consumer waits in.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import trio

from ..connection_task import ConnectionTask
from ..handlers import Held
from ..headers import values
from ..log_lines import say
from ..message import Message
from ..replies import Refusal
from ..runtime import REQUEST, Runtime
from ..timers import LATE_SECONDS, Timer
from ..websocket.connection import LINGER_SECONDS, Connection
from ..wire.handshake import check_upgrade
from ..wire.outbox import Outbox
from ..wire.transport import Source, Transport
from .endpoint import Exchange
from .parser import CONTINUE, Request, RequestParser
from .writer import ResponseWriter

logger = logging.getLogger("triochan.http")

FULL = Refusal(503, "this server is full; come later", [(b"Retry-After", b"5")])
NOT_TLS = Refusal(400, "plain text came to a port that speaks TLS; ask it by https:// or wss://")
UNKNOWN_HOST = Refusal(400, "this server does not go by the name in the Host header")
_MORE_SECONDS = 1.0
"""For a client that was in time, and could not send all because the server did not read."""
_REQUESTS = 16
"""Requests of one connection before others have their turn."""


class HttpConnection:
    """One connection.

    Args:
        runtime: the server's.
        task: the connection's own.
        connect: makes the transport, given what stands behind it.
        scheme: ``"http"`` or ``"https"``.
        client, server: ``[host, port]``, or None where the socket has no such address.
        refusal: what is answered to whatever comes, such as :data:`FULL`; None: requests are served.
    """

    __slots__ = (
        "_client", "_deadline", "_exchange", "_expired", "_extended", "_held_back", "_lingers", "_listening_only",
        "_outbox_sent", "_parser", "_paused", "_runtime", "_scheme", "_server", "_task", "_timer", "_used",
        "_write_timer", "outbox", "over", "transport", "unread", "waits",
    )  # fmt: skip

    asks = False
    outbox_type: ClassVar[type[Outbox]] = Outbox
    websocket_type: ClassVar[type[Connection]] = Connection

    def __init__(
        self,
        runtime: Runtime,
        task: ConnectionTask,
        connect: Callable[[Source], Transport],
        *,
        scheme: str = "http",
        client: list[Any] | None = None,
        server: list[Any] | None = None,
        refusal: Refusal | None = None,
    ) -> None:
        settings = runtime.settings
        self._runtime = runtime
        self._task = task
        task.stage = self
        self._scheme = scheme
        self._client = client
        self._server = server
        self._parser = RequestParser(settings.max_head_size, settings.max_body_size, scheme=scheme)
        self._exchange: Exchange | None = None
        self._used = False
        self._paused = False
        self._listening_only = False
        self._held_back = False
        self._lingers = False
        self.over = False
        self.waits = False
        self.unread = False
        # One timer for whatever is awaited; it is not moved for each request, but looks again when it fires.
        self._timer: Timer | None = None
        self._deadline = math.inf
        self._expired: Callable[[], None] = self.lost
        self._extended = False
        self._write_timer: Timer | None = None
        self._outbox_sent = 0
        self.transport = connect(self)
        if self.transport.more():  # of what came with the TLS handshake's last word no edge will tell
            runtime.readers.again(self)
        self.outbox = self.outbox_type(self.transport, runtime.flush, self, limit=settings.outbox_limit)
        self.outbox.release()
        self.outbox.opened()
        runtime.http.add(self)
        if refusal is FULL:
            self._refuse(
                FULL, f"max_connections is {settings.max_connections}, and {runtime.sockets} are open"
            )
        elif refusal is not None:
            self._refuse(refusal)
        else:
            self._await(settings.head_timeout, self._no_head)

    # -- for a reader

    def readable(self) -> Held | None:
        """Read, and answer what it brings until a consumer waits."""
        if self._paused and not self.transport.ended:
            return None
        self.unread = False
        try:
            data = self.transport.read()
        except OSError:
            self.lost()
            return None
        if data is None:
            return None
        if not data:
            return self._end_of_stream()
        if self.transport.more():
            self._runtime.readers.again(self)
        if self._lingers:
            return None
        parser = self._parser
        parser.receive(data)
        if self._exchange is None:
            return self._next()
        if parser.buffered > self._runtime.settings.max_head_size and not self._listening_only:
            self._pause()
        return None

    def writable(self) -> None:
        self.outbox.writable()

    def proceed(self) -> Held | None:
        """Go on: with a request that waits, or with what has come meanwhile."""
        if self.over:
            return None
        if self._exchange is None and not self._lingers:
            held = self._next()
            if held is not None or self.over:
                return held
        return self.readable() if self.unread or self.transport.more() else None

    def defer(self) -> None:
        self.unread = True

    def internal_error(self, error: Exception) -> None:
        stage = self._task.stage
        if isinstance(stage, Connection):  # it became a WebSocket in that moment
            stage.lost()
        else:
            self._close(clean=False)

    def _next(self) -> Held | None:
        """Answer the requests that are whole; note what is awaited then."""
        parser, settings, front = self._parser, self._runtime.settings, self._runtime.front
        for _ in range(_REQUESTS):
            if self.outbox.size:
                self._hold_back()
                return None
            request = parser.next()
            if request is None:
                if self._listening_only:
                    self._end_of_requests()
                    return None
                if parser.take_continue():
                    self.write(CONTINUE)
                if parser.in_body:
                    if self._expired != self._no_body:
                        self._await(settings.body_timeout, self._no_body)
                elif parser.begun:
                    if self._expired != self._no_head:
                        self._await(settings.head_timeout, self._no_head)
                elif self._used:
                    self._await(settings.keep_alive_timeout, self._idle)
                return None
            if isinstance(request, Refusal):
                self._refuse(request)
                return None
            content = request.content(self._scheme, self._client, self._server)
            if front is not None:
                front.apply(content)
            held = self._take(request, content)
            if held is not None or self._exchange is not None or self.over or self._lingers:
                return held
            if self._task.stage is not self:
                return None
            if not (parser.buffered or self.outbox.size or self._listening_only):
                return None  # responded() has seen to it that the next one is awaited
        self._runtime.readers.again(self)
        return None

    def _hold_back(self) -> None:
        """The response before is on its way still. Who asks and does not read would fill the memory with responses, and
        a WebSocket's first frame must not overtake one."""
        self._held_back = True
        self.outbox.watched = True
        self._await(math.inf, self.lost)  # write_timeout bounds it
        self._pause()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pause()

    def _resume(self) -> None:
        if self._paused and not self._listening_only:
            self._paused = False
            self.transport.resume()

    def _take(self, request: Request, content: dict[str, Any]) -> Held | None:
        """Answer one request, or become the WebSocket that it asks for.

        Args:
            content: of its message, as what stands in front of the server shows it.
        """
        runtime = self._runtime
        self._used = True
        self._deadline = math.inf
        self._expired = self.lost
        if runtime.front is not None and content["path"] == runtime.front.health_path:  # by whatever name
            self._tell_health(request)
            return None
        hosts = runtime.application.allowed_hosts
        if hosts is not None and not hosts.allows_headers(content["headers"]):
            said = b", ".join(values(content["headers"], b"host"))
            self._refuse(
                UNKNOWN_HOST, f"Host is {said!r:.200}, and allowed_hosts are {', '.join(hosts.patterns)}"
            )
            return None
        if request.upgrade:
            return self._upgrade(request, content)
        content["method"] = request.method
        content["body"] = request.body
        writer = ResponseWriter(
            request.method,
            request.http_version,
            request.keep_alive and not runtime.draining,
        )
        exchange = self._exchange = Exchange(self, runtime.layer, writer)
        if self._listening_only:
            exchange.end_by(trio.current_time() + runtime.settings.disconnect_timeout)
        message = Message(content, REQUEST, exchange.channel)
        message.application = runtime.application
        try:
            bound = runtime.match_request(message)
        except Exception:
            logger.exception("a route raised in http.request on %r", request.path)
            exchange.answer(Refusal(500, "Internal Server Error"))
            return None
        if bound is None or bound.begin is None:
            unrouted = runtime.unrouted(message)
            if isinstance(unrouted, Refusal):
                exchange.answer(unrouted)
                return None
            bound = unrouted
        settings = runtime.settings
        held = exchange.begin(bound, message, settings.handler_timeout, settings.response_timeout)
        self.waits = held is not None
        return held

    def _tell_health(self, request: Request) -> None:
        """Say whether this server takes requests: 503 while it shuts down."""
        runtime = self._runtime
        writer = ResponseWriter(
            request.method, request.http_version, request.keep_alive and not runtime.draining
        )
        self._exchange = Exchange(self, runtime.layer, writer)
        self._exchange.answer(Refusal(503, "shutting down") if runtime.draining else Refusal(200, "ok"))

    def _upgrade(self, request: Request, content: dict[str, Any]) -> Held | None:
        upgrade = check_upgrade(request.head, content, self._parser.take_rest())
        if isinstance(upgrade, Refusal):
            self._refuse(upgrade)
            return None
        self._leave()
        self.over = True  # of this there is nothing to go on with
        connection = self.websocket_type(upgrade, self.transport, self._runtime, self._task)
        self._task.stage = connection
        return connection.open(upgrade)

    # -- told by the response

    def write(self, data: bytes) -> None:
        outbox = self.outbox
        if not outbox.send_direct(data):
            outbox.put_control(data)
        if outbox.size and self._write_timer is None:
            self._outbox_sent = outbox.sent
            self._write_timer = self._runtime.timers.after(
                self._runtime.settings.write_timeout, self._check_writing
            )

    @property
    def full(self) -> bool:
        return self.outbox.size > self.outbox.limit or self.over

    async def room(self) -> None:
        await self.outbox.room()

    def broke_off(self) -> None:
        if self._exchange is not None and self._exchange.ends_with_connection:
            self.transport.reset()
        self._close(clean=False)

    def patient(self, seconds: float) -> None:
        if self._listening_only:
            self._await(min(seconds, self._runtime.settings.disconnect_timeout), self._no_rest)
        else:
            self._await(seconds, self._no_answer)

    def responded(self) -> None:
        exchange, self._exchange = self._exchange, None
        if self.over:
            self._task.wake()
            return
        if exchange is None:
            return
        settings = self._runtime.settings
        if not exchange.keeps_alive or self._runtime.draining:
            self._see_off()
            return
        if self._listening_only:
            self._runtime.readers.again(self)  # what came before the end is answered
            return
        self._resume()
        if self._parser.buffered:
            self._runtime.readers.again(self)
        else:
            self._await(settings.keep_alive_timeout, self._idle)

    # -- told by the outbox

    def overflowed(self) -> None:
        """Nothing overflows: what a response sends waits."""

    def drained(self) -> None:
        self.outbox.watched = False
        if self._lingers:
            self._linger()
        elif self._held_back:
            self._held_back = False
            self._resume()
            self._runtime.readers.again(self)

    def broken(self) -> None:
        self.lost()

    # -- the end

    @property
    def handlers(self) -> int:
        """Consumers of its requests that have begun and not ended."""
        return int(self._exchange is not None and self._exchange.running)

    def drain(self) -> None:
        """A shutdown: a request under way is answered, and no other one is taken."""
        if self._exchange is not None:
            self._exchange.be_last()
        elif not self._lingers:
            if self.outbox.size:
                self._see_off()  # the last response is on its way still
            elif self._parser.begun or self._parser.in_body or self.transport.unread():
                # What lies unread came before the end did, and to close upon it would reset the connection.
                self.unread = True
                self._runtime.readers.again(self)
                self._await(min(self._runtime.settings.close_timeout, self._left()), self._expired)
            else:
                self._close()

    def lost(self) -> None:
        """The client is gone."""
        self._close(clean=False)

    def _end_of_stream(self) -> Held | None:
        """The client sends no more. It may still listen: a response under way is written to it."""
        self._listening_only = True
        self._pause()  # over TLS this would be told again and again
        if self._lingers:
            if not self.outbox.size:
                self._close()
        elif self._exchange is not None:
            limit = self._runtime.settings.disconnect_timeout
            self._exchange.end_by(trio.current_time() + limit)
            if self._exchange.running:
                self._await(limit, self._no_rest)
            else:
                self._await(min(limit, self._left()), self._no_rest)
        elif not self._held_back:
            self._end_of_requests()
        return None

    def _end_of_requests(self) -> None:
        refusal = self._parser.eof()
        if refusal is not None:
            self._refuse(refusal)
        else:
            self._see_off()

    def _refuse(self, refusal: Refusal, why: str = "") -> None:
        """Answer, and end the connection: what comes next can't be told from the rest of this request.

        Args:
            why: what the log says instead of what the client is told.
        """
        say(
            logger,
            logging.DEBUG,
            "%s got %d: %s",
            "a client" if self._client is None else self._client[0],
            refusal.status,
            why or refusal.text,
        )
        method = b"" if self._parser.begun else self._parser.method  # not that of the request before
        writer = ResponseWriter(method, b"1.1", False)
        self.write(writer.refuse(refusal))
        self._see_off()

    def _see_off(self) -> None:
        """Let the client read the last response before what it has sent beyond it makes a reset of the close."""
        if self.over:
            return
        self._lingers = True
        self._resume()
        if self.outbox.size:
            self.outbox.watched = True
            self._await(math.inf, self.lost)  # write_timeout bounds it
        else:
            self._linger()

    def _linger(self) -> None:
        if self._listening_only:
            self._close()
            return
        self.transport.send_eof()
        self._await(LINGER_SECONDS, self._close)

    def _leave(self) -> None:
        """This is a WebSocket from now on, or nothing."""
        self._runtime.http.discard(self)
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._write_timer = None
        self._expired = _nothing
        self.outbox.detach()

    def _close(self, *, clean: bool = True) -> None:
        if self.over:
            return
        self.over = True
        self._leave()
        self.outbox.close(1006, "the client has gone")
        self.transport.close(clean=clean)
        exchange = self._exchange
        if exchange is not None:
            exchange.close()
            exchange.end_by(trio.current_time() + self._runtime.settings.disconnect_timeout)
        self._task.wake()

    # -- time

    def _left(self) -> float:
        return max(0.0, self._deadline - trio.current_time())

    def _await(self, seconds: float, expired: Callable[[], None]) -> None:
        """Call ``expired`` in ``seconds``, unless something else is awaited by then."""
        self._expired = expired
        self._extended = False
        if seconds == math.inf:
            self._deadline = math.inf
            return
        self._deadline = trio.current_time() + seconds
        timer = self._timer
        if timer is None or timer.due > self._deadline:
            if timer is not None:
                timer.cancel()
            self._timer = self._runtime.timers.at(self._deadline, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._deadline == math.inf:
            return
        if trio.current_time() < self._deadline:
            self._timer = self._runtime.timers.at(self._deadline, self._look)
        elif self._reads:
            self._judge(self.transport.turns)
        else:
            self._deadline = math.inf
            self._expired()

    def _judge(self, turns: int) -> None:
        """The time is over for what a client was to send. It may lie unread, where something has kept the loop.

        Then the client gets a little more time, once, for it may have had no room to send the rest; all of it is
        bounded in bytes.
        """
        self._timer = None
        now = trio.current_time()
        if not self._reads or now < self._deadline:
            self._look()
            return
        unread = self.transport.unread()
        if unread:
            self.unread = True
            self._runtime.readers.again(self)
        if not self._extended and (unread or now - self._deadline > LATE_SECONDS):
            self._extended = True
            self._deadline = now + _MORE_SECONDS
            self._timer = self._runtime.timers.at(self._deadline, self._look)
        elif unread:
            self._timer = self._runtime.timers.after(0, partial(self._judge, self.transport.turns))
        elif turns > 1:
            self._timer = self._runtime.timers.after(0, partial(self._judge, turns - 1))
        else:
            self._deadline = math.inf
            self._expired()

    @property
    def _reads(self) -> bool:
        """It is the client's turn."""
        return self._exchange is None and not (self._paused or self._lingers or self.over)

    def _check_writing(self, turns: int = 0) -> None:
        """A client that takes nothing for ``write_timeout`` is lost."""
        outbox, timers = self.outbox, self._runtime.timers
        self._write_timer = None
        outbox.writable()  # something may have kept the loop from writing
        if self.over or not outbox.size:
            return
        if outbox.sent != self._outbox_sent:
            self._outbox_sent = outbox.sent
            self._write_timer = timers.after(self._runtime.settings.write_timeout, self._check_writing)
        elif turns < self.transport.turns:
            self._write_timer = timers.after(0, partial(self._check_writing, turns + 1))
        else:
            say(
                logger,
                logging.DEBUG,
                "a client takes nothing of its response for %g s",
                self._runtime.settings.write_timeout,
            )
            self.lost()

    def _no_head(self) -> None:
        limit = self._runtime.settings.head_timeout
        self._refuse(Refusal(408, f"no whole request head came within {limit:g} s"))

    def _no_body(self) -> None:
        limit = self._runtime.settings.body_timeout
        self._refuse(Refusal(408, f"no whole request body came within {limit:g} s"))

    def _idle(self) -> None:
        self._see_off()

    def _no_answer(self) -> None:
        """Nobody has begun to answer. A response that has begun may take its time, as an event stream does."""
        if self._exchange is not None and not self._exchange.started:
            self._exchange.give_up()

    def _no_rest(self) -> None:
        """Who only listens, or is gone, has waited for the rest of a response for long enough."""
        if self._exchange is not None and self._exchange.running:
            self._await(self._runtime.settings.disconnect_timeout, self._no_rest)  # it is being cancelled
        elif self._exchange is not None and not self._exchange.started:
            self._exchange.give_up()
        else:
            self._close(clean=False)

    # -- its own task

    async def attend(self) -> None:
        """Nothing needs a task."""

    @property
    def owes(self) -> bool:
        return self._exchange is not None

    async def finish(self) -> None:
        """See the consumer off."""
        exchange = self._exchange
        if not self.over:  # cancelled from outside
            if exchange is not None:
                exchange.cancel()
            self._close(clean=False)
        while exchange is not None and exchange.running:
            await self._task.park()
        self._runtime.http.discard(self)


def _nothing() -> None:
    """Something else bounds what is awaited."""

"""A door for Trio programs that serve with trio-websocket: their requests are handed to a routing.

::

    application = Application(routing)

    async def handler(request):
        await triochan.doors.trio_websocket.handle(request, application)

    async with triochan.doors.trio_websocket.running(application):
        await trio_websocket.serve_websocket(handler, "127.0.0.1", 8000, ssl_context=None)

A connection is the one that sockets get, over a stream which translates: what trio-websocket has read is put into
frames again, and frames that are to leave become calls of trio-websocket's. What a program gets, and what
trio-websocket keeps from it, is in ``docs/other-servers.md``.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio_websocket

from ..access import RequestLine, address_of
from ..application import Application
from ..connection_task import ConnectionTask
from ..exceptions import SessionStoreUnavailable
from ..headers import Headers
from ..http1.parser import RequestParser
from ..http1.protocol import FULL, UNKNOWN_HOST
from ..layers import ChannelLayer
from ..log_lines import say
from ..replies import Refusal
from ..routing import Routing
from ..running import of_application
from ..runtime import Runtime, runtime_of
from ..settings import Settings
from ..websocket.connection import LINGER_SECONDS, Connection
from ..websocket.life import State
from ..websocket.logged import connection_type
from ..wire.control import parse_close
from ..wire.frames import CLOSE, PING, PONG, TEXT, close_frame, encode, pong_frame
from ..wire.handshake import Upgrade, check_upgrade, refuse_response
from ..wire.transport import CLOSE_SECONDS, StreamTransport
from ..workers import Workers

logger = logging.getLogger("triochan.server")

_GOING = Refusal(503, "this server is going down; come later", [(b"Retry-After", b"5")])
_HANDSHAKE = frozenset({b"connection", b"sec-websocket-accept", b"sec-websocket-protocol", b"upgrade"})
_TOO_BIG = 1009


@asynccontextmanager
async def running(
    routing: Routing | Application,
    *,
    settings: Settings | None = None,
    layer: ChannelLayer | None = None,
    access_log: bool | None = None,
) -> AsyncIterator[Application]:
    """Serve ``routing`` to those that :meth:`handle` brings, for as long as the block lasts.

    The connections share readers, time-outs and the channel layer, and consumers of named channels run. Leaving the
    block is a shutdown: a request that comes then is refused (503), sockets answer what they have received and are
    closed with 1001, spread over ``drain_spread`` and bounded by ``shutdown_timeout``. A cancellation does not cut
    that short.

    Args:
        routing: a list of routes, the dotted name of one, or an :class:`Application`; :func:`handle` is given the
            same object, or the application that this yields.
        settings: limits and time-outs.
        layer: the channel layer; None: the one that serves this Trio run already, or a new one in memory.
        access_log: as :func:`triochan.serve` takes it.

    Raises:
        ImproperlyConfigured: the routing is wrong.
    """
    async with _serving(Application.of(routing), settings or Settings(), layer, access_log) as runtime:
        yield runtime.application


async def handle(request: trio_websocket.WebSocketRequest, application: Routing | Application) -> None:
    """Answer a request of trio-websocket's, and serve its connection to the end; call it in trio-websocket's handler.

    The connection belongs to :func:`running` of the same application, or to a :func:`triochan.serve` of it in this
    Trio run; where there is none, to a server of its own with default settings, whose groups and named channels are
    those of the Trio run's layer. A cancellation is a shutdown of this one connection: it answers what it has received
    and is closed with 1001.

    Args:
        application: a list of routes, the dotted name of one, or an :class:`Application`. Sessions and users need an
            application that is made once.

    Raises:
        ImproperlyConfigured: the routing is wrong. Nothing else but a cancellation comes out.
    """
    runtime = runtime_of(application)
    if runtime is not None:
        await _handle(request, runtime)
        return
    made = Application.of(application)
    try:
        async with _serving(made, Settings(), None) as own:
            await _handle(request, own)
    except SessionStoreUnavailable:
        logger.exception("a request of trio-websocket's can't be served")


@asynccontextmanager
async def _serving(
    application: Application, settings: Settings, layer: ChannelLayer | None, access_log: bool | None = False
) -> AsyncIterator[Runtime]:
    async with Runtime.open(application, settings, layer, access_log=access_log) as runtime:
        stop = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(_run, runtime, stop)
                try:
                    yield runtime
                finally:
                    stop.set()
        except BaseExceptionGroup as group:
            if len(group.exceptions) > 1:
                raise
            # The block's own exception: the nursery around it is none of the program's.
            raise group.exceptions[0] from group.exceptions[0].__cause__  # noqa: ASYNC123


async def _run(
    runtime: Runtime, stop: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run what connections share until ``stop``, then drain; a cancellation from outside does not cut it off."""
    workers = Workers(runtime)
    with trio.CancelScope(shield=True) as hard:
        async with runtime.serving() as services:
            services.start_soon(workers.run)
            task_status.started()
            await stop.wait()
            await runtime.drain(hard)
            await runtime.guests_left()
            await workers.drain()
    await workers.tell_left()
    if hard.cancelled_caught:
        logger.error("the shutdown was cut short: what still ran was cancelled")


async def _handle(request: trio_websocket.WebSocketRequest, runtime: Runtime) -> None:
    """One connection, and the barrier that keeps whatever happens in it from reaching another."""
    stream = RequestStream(request)
    try:
        with of_application(runtime.application):
            upgrade = _judge(request, stream, runtime)
            if isinstance(upgrade, Refusal):
                _tell(stream, upgrade, runtime)
                await _refuse(stream, upgrade, runtime.settings.close_timeout)
            else:
                await _serve(stream, upgrade, runtime)
    except* Exception as errors:
        client = stream.address(local=False)
        logger.error("internal error on the connection from %s", client, exc_info=errors)
    finally:
        await trio.aclose_forcefully(stream)  # noqa: ASYNC102 - it does not wait


def _judge(
    request: trio_websocket.WebSocketRequest, stream: RequestStream, runtime: Runtime
) -> Upgrade | Refusal:
    """Look at the request as a server of ours does."""
    settings = runtime.settings
    if runtime.draining:
        return _GOING
    if settings.max_connections is not None and runtime.sockets >= settings.max_connections:
        return FULL
    scheme = "https" if stream.secure else "http"
    parser = RequestParser(settings.max_head_size, settings.max_body_size, scheme=scheme)
    try:
        parser.receive(head_of(request))
    except UnicodeError:
        return Refusal(400, "the Host header has a name that is none")
    found = parser.next()
    if isinstance(found, Refusal):
        return found
    assert found is not None  # it was given a whole head, of a handshake, which has no body
    hosts = runtime.application.allowed_hosts
    if hosts is not None and not hosts.allows_headers(found.headers):
        return UNKNOWN_HOST
    content = found.content(scheme, stream.address(local=False), stream.address(local=True))
    return check_upgrade(found.head, content, b"")


def head_of(request: trio_websocket.WebSocketRequest) -> bytes:
    """The request's head, as it came but for the order of what trio-websocket has taken out of it, the missing
    ``Sec-WebSocket-Extensions``, since trio-websocket agrees on none, and the version of HTTP.

    Raises:
        UnicodeError: the host has a name that IDNA has no form for.
    """
    host = request._event.host  # the one place where it is
    lines = [
        b"GET %b HTTP/1.1" % request.path.encode("ascii"),
        b"host: " + host.encode("ascii" if host.isascii() else "idna"),
    ]
    lines += [name + b": " + value for name, value in request.headers]
    if request.proposed_subprotocols:
        lines.append(b"sec-websocket-protocol: " + ", ".join(request.proposed_subprotocols).encode("ascii"))
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _tell(stream: RequestStream, refusal: Refusal, runtime: Runtime) -> None:
    """Log what is answered before a WebSocket comes of it."""
    client = stream.address(local=False)
    say(logger, logging.DEBUG, "%s got %d: %s", address_of(client), refusal.status, refusal.text)
    if runtime.access is not None:
        target = stream.target
        runtime.access.opened(RequestLine(client, "GET", target, "1.1"), refusal.status, 0.0)


async def _refuse(stream: RequestStream, refusal: Refusal, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await stream.send_all(refuse_response(refusal.status, refusal.headers, refusal.text.encode() + b"\n"))
        with trio.move_on_after(LINGER_SECONDS):
            while await stream.receive_some():
                pass


async def _serve(stream: RequestStream, upgrade: Upgrade, runtime: Runtime) -> None:
    """Serve one WebSocket to its end."""
    task = ConnectionTask()
    scope = trio.CancelScope(shield=True)
    async with trio.open_nursery() as watch:
        with runtime.guest(scope):
            async with trio.open_nursery() as stream.pings:
                async with trio.open_nursery() as nursery:
                    transport = StreamTransport(stream, runtime.readers.again, _Nobody())
                    connection = connection_type(runtime)(upgrade, transport, runtime, task)
                    task.stage = connection
                    nursery.start_soon(transport.pump)
                    nursery.start_soon(task.live)
                    watch.start_soon(_drain_when_cancelled, connection, stream, scope, runtime.settings)
                    await _open(connection, upgrade, runtime)
                stream.pings.cancel_scope.cancel()
        watch.cancel_scope.cancel()


class _Nobody:
    """Stands behind the stream until the connection is opened; nothing is pumped before that."""

    def readable(self) -> None:
        """Nothing is read before the handshake is answered."""

    def writable(self) -> None:
        """Nothing was written."""


async def _open(connection: Connection, upgrade: Upgrade, runtime: Runtime) -> None:
    """Open the connection, and run ``connect`` to its end; the first step before anything else of it."""
    with trio.CancelScope() as scope:
        held = connection.open(upgrade)
        if held is not None:
            try:
                await held.finish(scope)
            finally:
                runtime.readers.again(held.owner)


async def _drain_when_cancelled(
    connection: Connection, stream: RequestStream, scope: trio.CancelScope, settings: Settings
) -> None:
    try:
        await trio.sleep_forever()
    finally:
        if connection.life.state is State.CONNECTING:
            scope.cancel()
        elif not connection.over:
            stream.deaf = True
            scope.deadline = min(scope.deadline, trio.current_time() + settings.shutdown_timeout)
            connection.drain()


# -- the stream


class RequestStream(trio.abc.Stream):
    """A request of trio-websocket's as the stream of a WebSocket: behind the response, frames as on the wire.

    Args:
        request: not answered yet.

    Attributes:
        secure: it came over TLS.
        deaf: trio-websocket's reader is cancelled, or may be: nobody will tell it of the client's answer to a close.
        pings: where each waits for its pong; set before the handshake is answered.
    """

    def __init__(self, request: trio_websocket.WebSocketRequest) -> None:
        self._request = request
        self._websocket = request._connection
        # trio-websocket closes its stream only in some of the ways in which a connection ends.
        self._below: trio.abc.Stream = self._websocket._stream
        self.secure = isinstance(self._below, trio.SSLStream)
        self.pings: trio.Nursery
        self._answered = trio.Event()
        self._accepted = False
        self._unread = b""
        self._pongs: list[bytes] = []
        self._listening = trio.CancelScope()
        self._closing = False
        self.deaf = False
        self._closed = trio.Event()
        self._ended = False

    @property
    def target(self) -> str:
        """Path and query, as they came."""
        return str(self._request.path)

    def address(self, *, local: bool) -> list[Any] | None:
        """``[host, port]`` of this end or the other one, None where the stream has no such address."""
        try:
            end = self._request.local if local else self._request.remote
        except (AttributeError, OSError, ValueError):  # none that trio-websocket can tell, or gone
            return None
        return [str(end.address), end.port] if isinstance(end, trio_websocket.Endpoint) else None

    # -- what the client sends

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Frames of the client; at its end, the close frame that it sent if it did, then ``b""``."""
        if not self._unread:
            await self._answered.wait()
            self._unread = await self._receive()
        size = max_bytes or len(self._unread)
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    async def _receive(self) -> bytes:
        while not self._ended:
            if self._pongs:
                return self._pongs.pop(0)
            with trio.CancelScope() as self._listening:
                try:
                    return masked(encode(await self._websocket.get_message()))
                except trio_websocket.ConnectionClosed as closed:
                    return await self._end(closed.reason)
        return b""

    async def _end(self, reason: trio_websocket.CloseReason | None) -> bytes:
        """No message comes any more."""
        if self._closing or (reason is None and self._accepted):
            # This side closes; or trio-websocket's reader was cancelled, so that this side will close, unanswered.
            self.deaf = not self._closing
            await self._closed.wait()
        self._ended = True
        if self._closing or reason is None or not self._accepted or reason.code == 1006:
            return b""
        return masked(close_frame(int(reason.code), reason.reason or ""))

    # -- what the client gets

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send whole frames; the response in front of the first of them, alone or with them.

        What can't be sent is passed over: :meth:`receive_some` says how the connection has ended.
        """
        data = bytes(data)
        try:
            if not self._answered.is_set():
                data = await self._answer(data)
            for kind, payload in server_frames(data):
                await self._send(kind, payload)
        except trio_websocket.ConnectionClosed:
            pass

    async def _answer(self, data: bytes) -> bytes:
        """Answer the handshake with the response that ``data`` begins with; what follows it."""
        status, headers, rest = response_of(data)
        try:
            if status != 101:
                given = [pair for pair in headers if pair[0].lower() != b"content-length"]
                await self._request.reject(status, extra_headers=given, body=rest)
                return b""
            await self._request.accept(
                subprotocol=next(
                    (value.decode() for name, value in headers if name.lower() == b"sec-websocket-protocol"),
                    None,
                ),
                extra_headers=[pair for pair in headers if pair[0].lower() not in _HANDSHAKE],
            )
            self._accepted = True
            return rest
        finally:
            self._answered.set()

    async def _send(self, kind: int, payload: bytes) -> None:
        websocket = self._websocket
        if kind == CLOSE:
            await self._close(*parse_close(payload))
        elif kind == PING:
            self.pings.start_soon(self._ping, payload)
        elif kind == PONG:
            await websocket.pong(payload)
        else:
            await websocket.send_message(payload.decode() if kind == TEXT else payload)

    async def _ping(self, payload: bytes) -> None:
        try:
            await self._websocket.ping(payload)
        except trio_websocket.ConnectionClosed:
            return
        self._pongs.append(masked(pong_frame(payload)))
        self._listening.cancel()

    async def _close(self, code: int, reason: str) -> None:
        """Close, and wait for the client's answer; whoever sends the close frame bounds that."""
        closed = self._websocket.closed
        if closed is not None:  # trio-websocket has answered already
            if closed.code == _TOO_BIG:
                await self._see_off()
            return
        self._closing = True
        try:
            if not self.deaf:
                await self._websocket.aclose(code, reason)
                return
            with trio.move_on_after(CLOSE_SECONDS):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._close_unheard, code, reason, nursery.cancel_scope)
                    await self._see_off()
                    nursery.cancel_scope.cancel()
        finally:
            self._closed.set()

    async def _close_unheard(self, code: int, reason: str, scope: trio.CancelScope) -> None:
        await self._websocket.aclose(code, reason)
        scope.cancel()  # trio-websocket has heard the answer after all

    async def _see_off(self) -> None:
        """Read what still comes where trio-websocket reads no more: it has told the client that its message is too
        large, or its reader was cancelled. Closing upon unread bytes would be a reset, and destroy the close frame."""
        try:
            while True:
                try:
                    if not await self._below.receive_some():
                        return
                except trio.BusyResourceError:
                    await trio.sleep(0.05)  # its reader has not noticed yet
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def wait_send_all_might_not_block(self) -> None:
        await self._below.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close what lies below: no closing handshake."""
        self._ended = True
        self._listening.cancel()
        await trio.aclose_forcefully(self._below)


# -- bytes


def masked(frame: bytes) -> bytes:
    """An unmasked frame as a client sends it; the key is zero, so that the payload is what it was."""
    start = {126: 4, 127: 10}.get(frame[1], 2)
    return bytes((frame[0], frame[1] | 0x80)) + frame[2:start] + bytes(4) + frame[start:]


def server_frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The opcodes and payloads of whole frames that this side has written: neither masked nor in fragments."""
    position = 0
    while position < len(data):
        size, start = data[position + 1], position + 2
        if size > 125:
            length = 2 if size == 126 else 8
            size, start = int.from_bytes(data[start : start + length], "big"), start + length
        yield data[position] & 0x0F, data[start : start + size]
        position = start + size


def response_of(data: bytes) -> tuple[int, Headers, bytes]:
    """Status, headers, and what follows them, of a response that this side has written."""
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    headers = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    return int(first.split(b" ", 2)[1]), headers, rest

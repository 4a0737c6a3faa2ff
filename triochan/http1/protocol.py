"""HTTP/1.1 on one TCP connection, by h11: request after request, until one becomes a WebSocket.

Requests become ``http.request`` messages; their consumers answer through a reply channel, from wherever they run. Only
the connection's own task writes.
"""

from __future__ import annotations

import email.utils
import logging
from collections.abc import Callable
from typing import Any

import h11
import trio

from ..closing import LINGER_SECONDS
from ..connection import Connection
from ..exceptions import ConnectionClosed
from ..handlers import only, start
from ..headers import Head, Headers
from ..http.responses import reason_phrase
from ..layers import Channel
from ..message import Message
from ..replies import HttpReply, Refusal
from ..routing import Match, name_of
from ..runtime import Runtime
from ..wire.handshake import check_upgrade, wants_upgrade
from ..wire.transport import Transport
from .endpoint import ResponseEndpoint
from .request import handshake_head, head_content

logger = logging.getLogger("triochan.http")

REQUEST = Channel("http.request")
_BODILESS = {204, 304}


class HttpConnection:
    """One TCP connection.

    Args:
        transport: its bytes.
        runtime: the server's.
        scheme: ``"http"`` or ``"https"``.
        client, server: ``[host, port]``, or None where the socket has no such address.
    """

    def __init__(
        self,
        transport: Transport,
        runtime: Runtime,
        *,
        scheme: str = "http",
        client: list[Any] | None = None,
        server: list[Any] | None = None,
    ) -> None:
        self._transport = transport
        self._runtime = runtime
        self._scheme = scheme
        self._client = client
        self._server = server
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=runtime.settings.max_head_size)
        self._received = 0
        self._rest = b""
        self._head_only = False
        self._outgoing: list[bytes] = []

    async def run(self) -> Connection | None:
        """Serve requests until the connection ends, or return the WebSocket that it becomes."""
        try:
            while True:
                websocket = await self._next_request()
                if websocket is not None:
                    return websocket
                states = (self._protocol.our_state, self._protocol.their_state)
                if states != (h11.DONE, h11.DONE) or self._runtime.draining:
                    break
                self._protocol.start_next_cycle()
            await self._linger()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        return None

    async def _next_request(self) -> Connection | None:
        """Answer one request, or return the WebSocket that it asked for."""
        try:
            request = await self._receive_head()
            if request is None:
                return None
            self._head_only = request.method == b"HEAD"
            content = head_content(as_head(request), self._scheme, self._client, self._server)
            if isinstance(content, Refusal):
                await self._refuse(content)
                return None
            hosts = self._runtime.application.allowed_hosts
            if hosts is not None and not hosts.allows_headers(request.headers):
                await self._refuse(Refusal(400, "this server does not go by the name in the Host header"))
                return None
            if isinstance(request, Head) or wants_upgrade(as_head(request)):
                if isinstance(request, h11.Request):
                    self._protocol.next_event()  # the end of the request: what follows are frames
                    self._rest = self._protocol.trailing_data[0]
                upgrade = check_upgrade(as_head(request), content, self._rest)
                if not isinstance(upgrade, Refusal):
                    return Connection(upgrade, self._transport, self._runtime)
                await self._refuse(upgrade)
                return None
            body = await self._receive_body(request)
            if isinstance(body, Refusal):
                await self._refuse(body)
                return None
            await self._respond({**content, "method": request.method.decode("ascii"), "body": body})
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            limit = self._runtime.settings.max_head_size
            text = (
                f"the request's head is larger than {limit} bytes" if status == 431 else f"not HTTP: {error}"
            )
            await self._refuse(Refusal(status, text))
        return None

    # -- receiving

    async def _receive_head(self) -> h11.Request | Head | None:
        """The next request; None where the client has gone, or was sent away for taking too long."""
        settings = self._runtime.settings
        first = self._received == 0
        self._head_only = False
        before = self._received - len(self._protocol.trailing_data[0])
        patience = settings.head_timeout if first else settings.keep_alive_timeout
        idle = self._runtime.idle
        with trio.CancelScope(deadline=trio.current_time() + patience) as scope:
            idle.add(scope)

            def begun() -> None:
                if scope in idle:
                    idle.discard(scope)
                    if not first:
                        scope.deadline = trio.current_time() + settings.head_timeout

            try:
                event = await self._next_event(begun)
            finally:
                waited = scope in idle
                idle.discard(scope)
        if scope.cancelled_caught:
            if self._runtime.draining and waited:
                return None
            if first or not waited:
                await self._refuse(
                    Refusal(408, f"no whole request head came within {settings.head_timeout:g} s")
                )
            return None
        if isinstance(event, Head):
            return event
        if not isinstance(event, h11.Request):
            return None
        size = self._received - len(self._protocol.trailing_data[0]) - before
        if size > settings.max_head_size:  # h11 lets a larger head through when it comes in one piece
            await self._refuse(
                Refusal(431, f"the request's head is larger than {settings.max_head_size} bytes")
            )
            return None
        return event

    async def _receive_body(self, request: h11.Request | Head) -> bytes | Refusal:
        settings = self._runtime.settings
        too_large = Refusal(413, f"the request's body is larger than {settings.max_body_size} bytes")
        lengths = [int(value) for name, value in request.headers if name == b"content-length"]
        if lengths and lengths[0] > settings.max_body_size:
            return too_large
        pieces: list[bytes] = []
        size = 0
        with trio.move_on_after(settings.body_timeout):
            while True:
                if self._protocol.they_are_waiting_for_100_continue:
                    self._hold_back(h11.InformationalResponse(status_code=100, headers=[]))
                    await self._flush()
                event = await self._next_event()
                if isinstance(event, h11.EndOfMessage):
                    return b"".join(pieces)
                if not isinstance(event, h11.Data):
                    raise trio.BrokenResourceError("the client went in the middle of a request")
                pieces.append(bytes(event.data))
                size += len(event.data)
                if size > settings.max_body_size:
                    return too_large
        return Refusal(408, f"no whole request body came within {settings.body_timeout:g} s")

    async def _next_event(self, begun: Callable[[], None] | None = None) -> Any:
        while True:
            event = self._protocol.next_event()
            if event is not h11.NEED_DATA:
                return event
            if begun is not None and self._protocol.trailing_data[0]:
                begun()
            data = await self._transport.receive_some()
            if not self._received and len(data) <= self._runtime.settings.max_head_size:
                handshake = handshake_head(data)
                if handshake is not None:
                    head, self._rest = handshake
                    return head
            self._received += len(data)
            self._protocol.receive_data(data)

    # -- responding

    async def _respond(self, content: dict[str, Any]) -> None:
        runtime = self._runtime
        endpoint = ResponseEndpoint(runtime.layer)
        message = Message(content, REQUEST, endpoint.channel)
        message.application = runtime.application
        try:
            match = runtime.router.match(message)
            if match is None:
                await self._answer(Refusal(404, "Not Found"))
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, endpoint, nursery.cancel_scope)
                nursery.start_soon(self._consume, match, message, endpoint)
                await self._write_response(endpoint)
                endpoint.close()
                await endpoint.consumed.wait()
                nursery.cancel_scope.cancel()
        finally:
            endpoint.close()
            runtime.layer.detach(endpoint)

    async def _consume(self, match: Match, message: Message, endpoint: ResponseEndpoint) -> None:
        consumer, kwargs = match
        settings = self._runtime.settings
        crashed = False
        try:
            await start(consumer, message, kwargs, settings.handler_timeout)
        except Exception as error:
            crashed = not only(error, ConnectionClosed)
            if crashed:
                path = message["path"]
                logger.error("%s raised in http.request on %r", name_of(consumer), path, exc_info=error)
        finally:
            endpoint.consumer_done(crashed, settings.response_timeout)

    async def _watch(self, endpoint: ResponseEndpoint, scope: trio.CancelScope) -> None:
        """Read ahead while a response is made: when the client goes, its consumer gets no more than the time
        that ``disconnect_timeout`` gives.

        A client that has only finished sending looks the same, so the response is still written to it in that time.
        """
        ahead = 0
        while ahead <= self._runtime.settings.max_head_size:
            try:
                data = await self._transport.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
                endpoint.close()
            self._received += len(data)
            self._protocol.receive_data(data)
            if not data:
                scope.deadline = trio.current_time() + self._runtime.settings.disconnect_timeout
                return
            ahead += len(data)

    async def _write_response(self, endpoint: ResponseEndpoint) -> None:
        """Write the pieces as they come, to the last; or an answer of our own where the first does not come."""
        with endpoint.patience:
            try:
                reply = await endpoint.pieces.receive()
                await self._begin(reply)
                while reply.more_content:
                    reply = await endpoint.pieces.receive()
                    await self._continue(reply)
                return
            except trio.EndOfChannel:
                pass  # its consumer raised in the middle
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                return  # the client has gone
            except h11.LocalProtocolError as error:
                logger.error("a response can't be sent as it is: %s", error)
        if self._protocol.our_state is not h11.SEND_RESPONSE:
            self._transport.close()  # it broke off in the middle, and the client has to see that
            return
        crashed = endpoint.crashed or not endpoint.patience.cancelled_caught
        try:
            await self._answer(
                Refusal(500, "Internal Server Error") if crashed else Refusal(503, "No answer came in time")
            )
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass  # nobody to answer to

    async def _begin(self, reply: HttpReply) -> None:
        assert reply.status is not None
        headers = [*_own_headers(reply.headers), *reply.headers]
        if not reply.more_content and reply.status not in _BODILESS and not _has(headers, b"content-length"):
            headers.append((b"Content-Length", b"%d" % len(reply.content)))
        self._hold_back(_response(reply.status, headers))
        await self._continue(reply)

    async def _continue(self, reply: HttpReply) -> None:
        if reply.content and not self._head_only:
            self._hold_back(h11.Data(data=reply.content))
        if not reply.more_content:
            self._hold_back(h11.EndOfMessage())
        await self._flush()

    async def _answer(self, refusal: Refusal) -> None:
        """A response of the server's own, in plain text."""
        body = refusal.text.encode() + b"\n"
        headers = [
            *_own_headers([]),
            (b"Content-Type", b"text/plain; charset=utf-8"),
            (b"Content-Length", b"%d" % len(body)),
            *refusal.headers,
        ]
        self._hold_back(_response(refusal.status, headers))
        if not self._head_only:
            self._hold_back(h11.Data(data=body))
        self._hold_back(h11.EndOfMessage())
        await self._flush()

    async def _refuse(self, refusal: Refusal) -> None:
        """Answer, and end the connection: what comes next can't be told from the rest of this request."""
        if self._protocol.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [*refusal.headers, (b"Connection", b"close")]
            with trio.move_on_after(self._runtime.settings.close_timeout):
                await self._answer(Refusal(refusal.status, refusal.text, headers))

    def _hold_back(self, event: Any) -> None:
        """Frame an event, to leave with the next flush: a small response is one write."""
        self._outgoing.append(self._protocol.send(event) or b"")

    async def _flush(self) -> None:
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        while data:
            data = data[await self._transport.send_some(data) :]

    async def _linger(self) -> None:
        """Let the client read the last response before what it sent beyond its request makes a reset of the close."""
        self._transport.send_eof()
        with trio.move_on_after(LINGER_SECONDS):
            while await self._transport.receive_some():
                pass


async def serve_connection(
    transport: Transport,
    runtime: Runtime,
    *,
    scheme: str = "http",
    client: list[Any] | None = None,
    server: list[Any] | None = None,
) -> None:
    """Serve one connection to its end, as HTTP and, where a request asks for it, as a WebSocket; closes the transport.

    Args: as :class:`HttpConnection`.
    """
    try:
        websocket = await HttpConnection(
            transport, runtime, scheme=scheme, client=client, server=server
        ).run()
        if websocket is not None:
            await websocket.run()
    finally:
        await transport.aclose()


def as_head(request: h11.Request | Head) -> Head:
    if isinstance(request, Head):
        return request
    return Head(request.method, request.target, list(request.headers), request.http_version)


def _response(status: int, headers: Headers) -> h11.Response:
    return h11.Response(status_code=status, headers=headers, reason=reason_phrase(status).encode())


def _own_headers(given: Headers) -> Headers:
    own = [(b"Date", email.utils.formatdate(usegmt=True).encode()), (b"Server", b"triochan")]
    return [pair for pair in own if not _has(given, pair[0].lower())]


def _has(headers: Headers, name: bytes) -> bool:
    return any(each.lower() == name for each, _ in headers)

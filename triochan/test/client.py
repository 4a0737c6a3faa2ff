"""In-memory clients: a server without sockets, and WebSockets and requests over memory streams.

::

    async with Client(routing) as client, client.websocket("/chat/") as socket:
        await socket.send("hello")
        assert await socket.receive() == "hello"

The server's side is the code that serves sockets, from the request's head on; the WebSocket's other side is
trio-websocket, the request's h11. Nothing sleeps, so ``trio.testing.MockClock(autojump_threshold=0)`` works.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import attrs
import h11
import trio
import trio.testing
import trio_websocket

from ..application import Application
from ..content import decode_json
from ..exceptions import ConnectionClosed, TriochanError
from ..http.conditions import http_date
from ..http.cookies import parse_cookies
from ..http1.serving import serve_stream
from ..layers import ChannelLayer
from ..porting import CLIENT_ATTRIBUTES, attribute_lookup
from ..proxies import Front
from ..routing import Routing
from ..runtime import Runtime
from ..settings import Settings
from ..typed import encode_content
from ..workers import Workers

HeaderPairs = Mapping[str, str] | Iterable[tuple[str, str]]
T = TypeVar("T")

HOST = "testserver"


class HandshakeRefused(TriochanError):
    """The server answered the WebSocket handshake with an HTTP status.

    Attributes:
        status: e.g. 403.
        headers: pairs of bytes, names in lower case.
        body: what came with it.
    """

    def __init__(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        super().__init__(status, body)
        self.status = status
        self.headers: list[tuple[bytes, bytes]] = list(headers)
        self.body = body

    def __str__(self) -> str:
        return f"the handshake was answered with {self.status}: {self.body.decode(errors='replace').strip()}"


@attrs.frozen
class Response:
    """An HTTP response: ``headers`` are pairs of bytes, names in lower case."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return decode_json(self.text)

    def header(self, name: str) -> str | None:
        """The first header of that name, None where there is none."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key == wanted), None)


class TestWebsocket:
    """The client's end of a WebSocket.

    Attributes:
        subprotocol: what the server chose, or None.
        headers: of the server's response, pairs of bytes, names in lower case.
    """

    __test__ = False

    def __init__(self, websocket: trio_websocket.WebSocketConnection, stream: trio.abc.Stream) -> None:
        self._websocket = websocket
        self.stream = stream
        """The bytes below, for tests of rubbish and resets."""
        self.subprotocol: str | None = websocket.subprotocol
        self.headers: list[tuple[bytes, bytes]] = list(websocket.handshake_headers)

    async def send(self, data: str | bytes) -> None:
        """Send one message, text for a ``str``."""
        try:
            await self._websocket.send_message(data)
        except trio_websocket.ConnectionClosed:
            raise self._closed() from None

    async def send_json(self, content: Any) -> None:
        await self.send(encode_content(content))

    async def receive(self) -> str | bytes:
        """The next message.

        Raises:
            ConnectionClosed: none comes any more, with the server's code and reason.
        """
        try:
            return await self._websocket.get_message()
        except trio_websocket.ConnectionClosed:
            raise self._closed() from None

    async def receive_json(self) -> Any:
        text = await self.receive()
        assert isinstance(text, str), f"a text message was expected, not {text!r}"
        return decode_json(text)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close, and wait for the server's answer."""
        await self._websocket.aclose(code, reason)

    async def vanish(self) -> None:
        """Be gone without a closing handshake, as a client whose network fails."""
        await trio.aclose_forcefully(self.stream)

    async def wait_closed(self) -> ConnectionClosed:
        """Wait for the server to close, dropping messages; how it did."""
        while True:
            try:
                await self.receive()
            except ConnectionClosed as closed:
                return closed

    def _closed(self) -> ConnectionClosed:
        closed = self._websocket.closed
        return (
            ConnectionClosed(int(closed.code), closed.reason or "")
            if closed is not None
            else ConnectionClosed()
        )


@contextmanager
def _unwrapped() -> Iterator[None]:
    """A test that fails in the block fails with its own exception, not with a nursery's group around it.

    A refused handshake comes out as :class:`HandshakeRefused`: trio-websocket raises it in its reader's task.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, trio_websocket.ConnectionRejected):
            raise HandshakeRefused(error.status_code, error.headers, error.body or b"") from None
        if error is group:
            raise
        raise error from error.__cause__  # noqa: ASYNC123 - the group around it says nothing


class _Managed(ABC, Generic[T]):
    """A class whose instances are entered by their ``_run``, an async context manager."""

    _manager: AbstractAsyncContextManager[T] | None = None

    if not TYPE_CHECKING:
        __getattr__ = attribute_lookup(CLIENT_ATTRIBUTES)

    @abstractmethod
    def _run(self) -> AbstractAsyncContextManager[T]: ...

    async def __aenter__(self) -> T:
        self._manager = self._run()
        return await self._manager.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._manager is not None
        return await self._manager.__aexit__(kind, error, traceback)  # noqa: ASYNC102 - the manager's affair


class Client(_Managed["Client"]):
    """A server in memory, and requests and WebSockets to it; cookies are kept between them.

    Several clients in one test share their channel layer, and so their groups.

    Args:
        routing: as :func:`triochan.serve` takes it.
        settings, layer: the same.
        secure: as if over TLS.
        lockstep: streams without a buffer: a write waits until the other side has read it all.
        headers: sent with every request.
        trusted_proxies, root_path, health_path: as :func:`triochan.serve` takes them; the client is at 192.0.2.1.
        access_log: write one.

    Attributes:
        cookies: what the server has set, by name.
        runtime: the server's, to look into.
    """

    def __init__(
        self,
        routing: Routing | Application,
        *,
        settings: Settings | None = None,
        layer: ChannelLayer | None = None,
        secure: bool = False,
        lockstep: bool = False,
        headers: HeaderPairs = (),
        trusted_proxies: Iterable[str] = (),
        root_path: str = "",
        health_path: str | None = None,
        access_log: bool = False,
    ) -> None:
        self._access_log = access_log
        self._front = Front(trusted=trusted_proxies, root_path=root_path, health_path=health_path)
        self.application: Application = Application.of(routing)
        self.settings: Settings = settings or Settings()
        self.cookies: dict[str, str] = {}
        self._layer = layer
        self._lockstep = lockstep
        self._scheme = "https" if secure else "http"
        self._headers = _pairs(headers)
        self.runtime: Runtime
        self._nursery: trio.Nursery

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[Self]:
        async with Runtime.open(
            self.application, self.settings, self._layer, self._front, access_log=self._access_log
        ) as self.runtime:
            with _unwrapped():
                async with self.runtime.serving() as services:
                    services.start_soon(Workers(self.runtime).run)
                    async with trio.open_nursery() as self._nursery:
                        yield self
                        self._nursery.cancel_scope.cancel()

    def connect(self) -> trio.abc.Stream:
        """The client's end of a new connection, for bytes of the test's own."""
        make_pair = trio.testing.lockstep_stream_pair if self._lockstep else trio.testing.memory_stream_pair
        ours: trio.abc.Stream
        theirs: trio.abc.Stream
        ours, theirs = make_pair()
        serving = partial(
            serve_stream,
            theirs,
            self.runtime,
            scheme=self._scheme,
            client=["192.0.2.1", 50000],
            server=[HOST, 443 if self._scheme == "https" else 80],
        )
        self._nursery.start_soon(serving)
        return ours

    @asynccontextmanager
    async def websocket(
        self, path: str, *, subprotocols: Iterable[str] = (), headers: HeaderPairs = ()
    ) -> AsyncIterator[TestWebsocket]:
        """An open WebSocket, closed with 1000 at the end of the block if it is still open then.

        Args:
            path: with its query string.
            subprotocols: offered in this order.
            headers: beside those of the client and its cookies; ``Origin`` is the server's own unless given.

        Raises:
            HandshakeRefused: the server answered with an HTTP status.
        """
        stream = self.connect()
        own = _pairs(headers)
        if not any(name.lower() == "origin" for name, _ in own):  # as a page of the server's own has it
            own.append(("Origin", f"{self._scheme}://{HOST}"))
        extra = [(name.encode(), value.encode()) for name, value in [*self._request_headers(), *own]]
        with _unwrapped():
            async with trio.open_nursery() as nursery:
                websocket = await trio_websocket.wrap_client_stream(
                    nursery,
                    stream,  # type: ignore[arg-type]  # any stream will do
                    HOST,
                    path,
                    subprotocols=list(subprotocols),
                    extra_headers=extra,
                    max_message_size=2**63,
                )
                try:
                    yield TestWebsocket(websocket, stream)
                    with trio.move_on_after(self.settings.disconnect_timeout + self.settings.close_timeout):
                        await websocket.aclose()
                finally:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                        await trio.aclose_forcefully(stream)
                nursery.cancel_scope.cancel()

    async def request(
        self, method: str, path: str, *, headers: HeaderPairs = (), body: bytes | str = b"", json: Any = None
    ) -> Response:
        """One request on a connection of its own.

        Args:
            json: a value to send as JSON, instead of ``body``.
        """
        pairs = [("Host", HOST), ("Connection", "close"), *self._request_headers(), *_pairs(headers)]
        if json is not None:
            body = encode_content(json)
            pairs.append(("Content-Type", "application/json"))
        data = body.encode() if isinstance(body, str) else body
        if data:
            pairs.append(("Content-Length", str(len(data))))
        protocol = h11.Connection(h11.CLIENT)
        stream = self.connect()
        try:
            outgoing = [
                protocol.send(h11.Request(method=method, target=path, headers=pairs)),
                protocol.send(h11.Data(data=data)) if data else b"",
                protocol.send(h11.EndOfMessage()),
            ]
            await stream.send_all(b"".join(each or b"" for each in outgoing))
            return await self._response(protocol, stream)
        finally:
            await trio.aclose_forcefully(stream)

    async def get(self, path: str, *, headers: HeaderPairs = ()) -> Response:
        return await self.request("GET", path, headers=headers)

    async def post(
        self, path: str, *, headers: HeaderPairs = (), body: bytes | str = b"", json: Any = None
    ) -> Response:
        return await self.request("POST", path, headers=headers, body=body, json=json)

    async def _response(self, protocol: h11.Connection, stream: trio.abc.Stream) -> Response:
        head: h11.Response | None = None
        pieces: list[bytes] = []
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                protocol.receive_data(bytes(await stream.receive_some(65536)))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                pieces.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionClosed(1006, "the server closed the connection without an answer")
        assert head is not None
        response = Response(head.status_code, list(head.headers), b"".join(pieces))
        self._keep_cookies(response)
        return response

    def _keep_cookies(self, response: Response) -> None:
        for name, value in response.headers:
            if name == b"set-cookie":
                pair, *attributes = value.split(b";")
                for key, content in parse_cookies([(b"cookie", pair)]).items():
                    if _is_over(attributes):
                        self.cookies.pop(key, None)
                    else:
                        self.cookies[key] = content

    def _request_headers(self) -> list[tuple[str, str]]:
        if not self.cookies:
            return self._headers
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return [*self._headers, ("Cookie", cookies)]


def _is_over(attributes: Iterable[bytes]) -> bool:
    """A cookie with these attributes is deleted: ``Max-Age`` counts, where there is none ``Expires`` (RFC 6265
    section 5.3)."""
    given = {}
    for each in attributes:
        name, _, value = each.partition(b"=")
        given[name.strip().lower()] = value.strip().decode("latin-1")
    age = given.get(b"max-age", "")
    if re.fullmatch("-?[0-9]+", age):
        return age.startswith("-") or not age.strip("0")
    expires = http_date(given.get(b"expires", ""))
    return expires is not None and expires <= time.time()


class HttpClient(Client):
    """:class:`Client` under the name that Channels' tests know it by."""


class WSClient(_Managed[TestWebsocket]):
    """One WebSocket to a server of its own: ``async with WSClient(routing, "/chat/") as socket``.

    Args:
        routing, settings, layer, secure: as :class:`Client` takes them.
        path, subprotocols, headers: as :meth:`Client.websocket` takes them.
    """

    def __init__(
        self,
        routing: Routing | Application,
        path: str = "/",
        *,
        subprotocols: Iterable[str] = (),
        headers: HeaderPairs = (),
        settings: Settings | None = None,
        layer: ChannelLayer | None = None,
        secure: bool = False,
    ) -> None:
        self._client = Client(routing, settings=settings, layer=layer, secure=secure)
        self._arguments: tuple[str, Iterable[str], HeaderPairs] = (path, subprotocols, headers)

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[TestWebsocket]:
        path, subprotocols, headers = self._arguments
        async with self._client as client:
            async with client.websocket(path, subprotocols=subprotocols, headers=headers) as websocket:
                yield websocket


def _pairs(headers: HeaderPairs) -> list[tuple[str, str]]:
    return list(headers.items() if isinstance(headers, Mapping) else headers)

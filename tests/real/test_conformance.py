"""What RFC 9112 and 9110 ask, where only a whole server over a socket shows it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from raw_clients import BINARY, TEXT, RawClient, close_frame, frame, get, handshake, no_leak

from triochan import Application, Message, Settings, route, route_class
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer
from triochan.http import static_files, text
from triochan.http.conditions import http_date
from triochan.test import LiveServer
from triochan.wire.listeners import Address

HOST = b"Host: x\r\n"


async def echo(message: Message) -> None:
    await message.reply_channel.send(
        text(f"{message['method']} {message['path']} {message['body'].decode()}")
    )


async def empty(message: Message) -> None:
    await message.reply_channel.send({"status": 204})


async def last(message: Message) -> None:
    await message.reply_channel.send({"status": 200, "headers": {"Connection": "close"}, "content": b"last"})


@asynccontextmanager
async def serving(folder: Path, **options: Any) -> AsyncIterator[Address]:
    routing = [
        route("http.request", empty, path="^/empty$"),
        route("http.request", last, path="^/last$"),
        static_files("/static/", folder),
        route("http.request", echo, path="^/(?!unknown)"),
    ]
    async with LiveServer(routing, settings=Settings(max_body_size=64), **options) as address:
        async with no_leak():
            yield address


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Address]:
    (tmp_path / "page.txt").write_text("a page")
    async with serving(tmp_path) as address:
        yield address


@pytest.mark.rfc("9110", "6.6.1", "MUST send Date in 2xx, 3xx and 4xx responses")
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n" + HOST, 200),
        (b"GET /empty HTTP/1.1\r\n" + HOST, 204),
        (b"GET /static/page.txt HTTP/1.1\r\nIf-None-Match: *\r\n" + HOST, 304),
        (b"GET /unknown HTTP/1.1\r\n" + HOST, 404),
        (b"DELETE /static/page.txt HTTP/1.1\r\n" + HOST, 405),
        (b"GET / HTTP/1.1\r\n", 400),
        (b'GET /static/page.txt HTTP/1.1\r\nIf-Match: "x"\r\n' + HOST, 412),
        (b"POST / HTTP/1.1\r\nContent-Length: 65\r\n" + HOST, 413),
        (b"GET /static/page.txt HTTP/1.1\r\nRange: bytes=6-\r\n" + HOST, 416),
    ],
)
async def test_every_answer_has_one_date(server: Address, data: bytes, status: int) -> None:
    async with await RawClient.connect(server) as client:
        await client.send(data + b"\r\n")
        answer = await client.answer()
        assert answer.status == status
        [date] = [value for name, value in answer.headers if name == "date"]
        assert http_date(date) is not None
        await client.stream.send_eof()  # type: ignore[attr-defined]
        assert await client.rest() == b""


@pytest.mark.rfc("9112", "9.6", "MUST close behind the answer to a request that says close")
@pytest.mark.rfc("9112", "9.6", "MUST NOT process requests behind one that says close")
async def test_a_client_that_says_close(server: Address) -> None:
    async with await RawClient.connect(server) as client:
        await client.send(
            b"GET /a HTTP/1.1\r\n" + HOST + b"\r\nGET /b HTTP/1.1\r\nConnection: close\r\n" + HOST
            + b"\r\nGET /c HTTP/1.1\r\n" + HOST + b"\r\n"
        )  # fmt: skip
        answers = [await client.answer() for _ in range(2)]
        assert [answer.body for answer in answers] == [b"GET /a ", b"GET /b "]
        assert ("connection" in answers[0], answers[1]["connection"]) == (False, "close")
        await client.stream.send_eof()  # type: ignore[attr-defined]
        assert await client.rest() == b""


@pytest.mark.rfc("9112", "9.6", "MUST close behind a response that says close")
@pytest.mark.rfc("9112", "9.6", "MUST NOT process requests behind a response that says close")
async def test_a_consumer_that_says_close(server: Address) -> None:
    async with await RawClient.connect(server) as client:
        await client.send((b"GET /last HTTP/1.1\r\n" + HOST + b"\r\n") * 2)
        answer = await client.answer()
        assert (answer.body, answer["connection"]) == (b"last", "close")
        await client.stream.send_eof()  # type: ignore[attr-defined]
        assert await client.rest() == b""


@pytest.mark.rfc("9112", "9.3", "MUST read a request's whole body, or close behind the answer")
async def test_bodies_are_read_or_the_connection_closed(server: Address) -> None:
    request = b"GET /empty HTTP/1.1\r\nContent-Length: %d\r\n" + HOST + b"\r\n"
    async with await RawClient.connect(server) as client:
        inner = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
        await client.send(request % len(inner) + inner + b"GET /next HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await client.answer()).status == 204
        assert (await client.answer()).body == b"GET /next "
        await client.send(request % 65 + inner * 3)
        answer = await client.answer()
        assert (answer.status, answer["connection"]) == (413, "close")
        await client.stream.send_eof()  # type: ignore[attr-defined]
        assert await client.rest() == b""


SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.mark.rfc("9112", "6.3", "MUST answer 400 to a Content-Length that is none, and close")
@pytest.mark.rfc("9112", "6.3", "MUST answer 400 where chunked is not the last transfer coding, and close")
@pytest.mark.rfc(
    "9112", "6.1", "MUST close behind a request with Content-Length and Transfer-Encoding; it is refused"
)
@pytest.mark.rfc(
    "9112", "6.1", "MUST take Transfer-Encoding in HTTP/1.0 for faulty framing, and close; it is refused"
)
@pytest.mark.parametrize(
    ("lines", "version", "status"),
    [
        (b"Content-Length: x\r\n", b"1.1", 400),
        (b"Content-Length: 1, 2\r\n", b"1.1", 400),
        (b"Content-Length: -0\r\n", b"1.1", 400),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"1.1", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", b"1.1", 400),
        (b"Transfer-Encoding: chunked, gzip\r\n", b"1.1", 400),
        (b"Transfer-Encoding: gzip, chunked\r\n", b"1.1", 501),
        (b"Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n", b"1.0", 400),
        (b"Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 5\r\n", b"1.1", 400),
        (b"Expect: tea\r\nContent-Length: 5\r\n", b"1.1", 417),
    ],
)
async def test_what_has_no_sure_end_ends_the_connection(
    server: Address, lines: bytes, version: bytes, status: int
) -> None:
    for behind in (b"0\r\n\r\n" + SMUGGLED, SMUGGLED, b"hello" + SMUGGLED):
        async with await RawClient.connect(server) as client:
            await client.send(b"POST / HTTP/" + version + b"\r\n" + HOST + lines + b"\r\n" + behind)
            answer = await client.answer()
            assert (answer.status, answer["connection"]) == (status, "close")
            await client.stream.send_eof()  # type: ignore[attr-defined]
            assert await client.rest() == b""


@pytest.mark.rfc(
    "9112", "3.2.2", "MUST ignore the Host header beside a target in absolute form, and use the target's"
)
async def test_the_host_that_counts(tmp_path: Path) -> None:
    routing = [route("http.request", echo)]
    async with LiveServer(Application(routing, allowed_hosts=["good"])) as address:
        for target, host, status in (
            (b"/a", b"good", 200),
            (b"/a", b"bad", 400),
            (b"http://good/a", b"bad", 200),
            (b"http://good:80/a", b"", 200),
            (b"http://bad/a", b"good", 400),
            (b"http://bad@good/a", b"good", 400),
            (b"http://good/a", b"a b", 400),
        ):
            async with await RawClient.connect(address) as client:
                await client.send(b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, host))
                answer = await client.answer()
                assert (answer.status, answer.body == b"GET /a ") == (status, status == 200)


@pytest.mark.rfc("9110", "9.3.2", "MUST NOT send content in answer to HEAD")
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"HEAD /%ff HTTP/1.1\r\n" + HOST, 400),
        (b"HEAD / HTTP/1.1\r\n", 400),
        (b"HEAD / HTTP/1.1\r\nA : b\r\n" + HOST, 400),
        (b"HEAD / HTTP/1.1\r\nContent-Length: 65\r\n" + HOST, 413),
        (b"HEAD / HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n" + HOST, 431),
        (b"HEAD /unknown HTTP/1.1\r\nConnection: close\r\n" + HOST, 404),
    ],
)
async def test_a_head_that_is_refused(server: Address, data: bytes, status: int) -> None:
    async with await RawClient.connect(server) as client:
        await client.send(data + b"\r\n")
        answer = await client.answer(bodiless=True)
        assert answer.status == status
        assert int(answer["content-length"]) > 0
        await client.stream.send_eof()  # type: ignore[attr-defined]
        assert await client.rest() == b""


# -- the end of a TLS connection

SHORT = 0.3
"""Seconds of a limit that is to be reached; the other limits stay as long as they are by default."""


async def breaks_off(message: Message) -> None:
    await message.reply_channel.send({"status": 200, "content": b"half", "more_content": True})
    raise RuntimeError("on purpose")


async def fails(message: Message) -> None:
    raise RuntimeError("on purpose")


class Socket(WebsocketConsumer):
    async def receive(self, text: Any = None, **kwargs: Any) -> None:
        if text == "raise":
            raise RuntimeError("on purpose")
        await self.close(4001)


class Refusing(WebsocketConsumer):
    async def connect(self, message: Message, **kwargs: Any) -> None:
        await self.close()


OVER_TLS = [
    route_class(JsonWebsocketConsumer, path="^/json$"),
    route_class(Refusing, path="^/refused$"),
    route_class(Socket, path="^/socket$"),
    route("http.request", breaks_off, path="^/breaks-off$"),
    route("http.request", fails, path="^/fails$"),
    route("http.request", echo, path="^/$"),
]


@cache
def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's, and that of a client that trusts it."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return context, trusting


@asynccontextmanager
async def serving_tls(**limits: Any) -> AsyncIterator[Callable[[], AbstractAsyncContextManager[RawClient]]]:
    """Gives what connects clients; to them an end of TCP that TLS was not told of is a BrokenResourceError."""
    context, trusting = tls_contexts()

    @asynccontextmanager
    async def connect() -> AsyncIterator[RawClient]:
        async with await RawClient.connect(address) as client:
            client.stream = trio.SSLStream(
                client.stream, trusting, server_hostname="127.0.0.1", https_compatible=False
            )
            yield client

    async with LiveServer(OVER_TLS, settings=Settings(**limits), ssl_context=context) as address:
        yield connect


@pytest.mark.rfc("9112", "9.8", "MUST say in TLS that it closes, before it does")
@pytest.mark.parametrize(
    ("data", "status", "limits"),
    [
        (b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n", 200, {}),
        (b"GET / HTTP/1.0\r\n\r\n", 200, {}),
        (b"GET / HTTP/1.1\r\n" + HOST + b"\r\n", 200, {"keep_alive_timeout": SHORT}),
        (b"GET / HTTP/1.1\r\n\r\n", 400, {}),
        (handshake("/refused"), 403, {}),
        (handshake("/unknown"), 403, {}),
        (b"GET / HT", 408, {"head_timeout": SHORT}),
        (b"POST / HTTP/1.1\r\nContent-Length: 9\r\n" + HOST + b"\r\nhalf", 408, {"body_timeout": SHORT}),
        (b"POST / HTTP/1.1\r\nContent-Length: 65\r\n" + HOST + b"\r\n", 413, {"max_body_size": 64}),
        (handshake("/socket").replace(b"Version: 13", b"Version: 9"), 426, {}),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431, {}),
        (b"GET /fails HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n", 500, {}),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n" + HOST + b"\r\n", 501, {}),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_the_end_of_a_tls_connection_is_said(data: bytes, status: int, limits: dict[str, Any]) -> None:
    """A client that asks for it sees the end of TLS, and no mere end of TCP."""
    async with serving_tls(**limits) as connect, connect() as client:
        await client.send(data)
        assert f" {status} ".encode() in await client.until(b"\r\n")
        await client.rest()


@pytest.mark.parametrize(
    ("path", "data", "code"),
    [
        ("/socket", close_frame(1000), 1000),
        ("/socket", b"\x81\x01x", 1002),
        ("/json", frame(BINARY, "{}"), 1003),
        ("/json", frame(TEXT, "{"), 1007),
        ("/socket", frame(TEXT, b"\xff"), 1007),
        ("/socket", b"\x82\xff" + (1 << 40).to_bytes(8, "big"), 1009),
        ("/socket", frame(TEXT, "raise"), 1011),
        ("/socket", frame(TEXT, "close"), 4001),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_the_end_of_a_websocket_over_tls_is_said(path: str, data: bytes, code: int) -> None:
    """Even to a client that does not answer the close frame."""
    async with serving_tls(close_timeout=0.1) as connect, connect() as client:
        await client.send(handshake(path))
        assert (await client.head()).status == 101
        await client.send(data)
        assert (await client.closing())[0] == code
        assert await client.rest() == b""


async def test_a_full_server_says_so_within_tls() -> None:
    async with serving_tls(max_connections=1) as connect, connect() as first:
        await first.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await first.answer()).status == 200
        async with connect() as second:
            assert (await second.answer()).status == 503
            assert await second.rest() == b""


async def test_a_response_that_broke_off_ends_tls_without_a_word() -> None:
    """Or it would look whole, where nothing but the end of the connection tells where it ends, as in HTTP/1.0."""
    async with serving_tls() as connect, connect() as client:
        await client.send(b"GET /breaks-off HTTP/1.0\r\n" + HOST + b"\r\n")
        await client.until(b"half")
        with pytest.raises(trio.BrokenResourceError):
            await client.rest()


async def test_the_server_still_serves(server: Address) -> None:
    assert (await get(server, "/a")).body == b"GET /a "

"""What RFC 9112 and 9110 ask, where only a whole server over a socket shows it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from raw_clients import RawClient, get, no_leak

from triochan import Application, Message, Settings, route
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


@pytest.mark.rfc("9112", "9.8", "MUST say in TLS that it closes, before it does")
async def test_the_end_of_a_tls_connection_is_said(tmp_path: Path) -> None:
    """A client that asks for it sees the end of TLS, and no mere end of TCP."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with serving(tmp_path, ssl_context=context) as address:
        with trio.fail_after(10):
            stream = await trio.open_ssl_over_tcp_stream(
                "127.0.0.1", address.port, ssl_context=trusting, https_compatible=False
            )
            async with stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
                data = b""
                while piece := await stream.receive_some():  # without that, BrokenResourceError
                    data += piece
                assert data.endswith(b"\r\n\r\nGET / ")


async def test_the_server_still_serves(server: Address) -> None:
    assert (await get(server, "/a")).body == b"GET /a "

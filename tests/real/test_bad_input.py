"""What bad input gets, over real sockets; after each of it the server serves the next client as if nothing had been."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
import trio
import ujson
from raw_clients import (
    BINARY,
    CLOSE,
    KEY,
    PATIENCE,
    PING,
    PONG,
    TEXT,
    RawClient,
    close_frame,
    frame,
    get,
    handshake,
    no_leak,
    until,
)
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

import triochan.http
from triochan import Channel, Group, Message, Settings, route, route_class
from triochan.exceptions import ImproperlyConfigured
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer
from triochan.http import static_files
from triochan.test import LiveServer
from triochan.wire.listeners import Address

SETTINGS = Settings(
    head_timeout=0.25,
    body_timeout=0.25,
    keep_alive_timeout=0.25,
    handshake_timeout=0.2,
    response_timeout=0.2,
    max_body_size=1024 * 1024,
    close_timeout=1,
)
KIB = 1024
MIB = 1024 * KIB


# -- the application


class Echo(WebsocketConsumer):
    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.send(text=text, bytes=bytes)


class EchoJson(JsonWebsocketConsumer):
    async def receive(self, content: Any, **kwargs: Any) -> None:
        await self.send(content)


class Raising(WebsocketConsumer):
    """Raises where the path says."""

    async def _run(self, where: str) -> None:
        raise RuntimeError(f"raised on purpose in {where}")

    async def connect(self, message: Message, where: str = "", **kwargs: Any) -> None:
        if where == "connect":
            await self._run(where)
        if where == "late-connect":
            await message.reply_channel.send({"accept": True, "text": "accepted"})
            await self._run(where)
        if where == "task":
            self.connection.start_soon(self._run, where)

    async def receive(self, text: str | None = None, where: str = "", **kwargs: Any) -> None:
        if where == "waiting-receive":
            await trio.sleep(0.001)
        if where != "task":
            await self._run(where)

    async def disconnect(self, message: Message, where: str = "", **kwargs: Any) -> None:
        if where == "disconnect":
            await self._run(where)


class Names(WebsocketConsumer):
    """Takes names of groups and channels from its client."""

    async def receive(self, text: str | None = None, kind: str = "", **kwargs: Any) -> None:
        assert text is not None
        careful, _, name = text.partition(":")
        try:
            if kind == "group":
                await Group(name).add(self.message.reply_channel)
            else:
                await Channel(name).send({})
        except ValueError as error:
            if careful != "careful":
                raise
            await self.send(text=str(error))
        else:
            await self.send(text="taken")


class Undecided(WebsocketConsumer):
    async def connect(self, message: Message, **kwargs: Any) -> None:
        await trio.sleep_forever()


class Headers(WebsocketConsumer):
    """Accepts with headers and a subprotocol that come from its client."""

    async def connect(self, message: Message, **kwargs: Any) -> None:
        value = unquote_to_bytes(message["query_string"]).decode()
        accept: dict[str, Any] = {"accept": True}
        if message["path"].endswith("subprotocol"):
            accept["subprotocol"] = value
        else:
            accept["headers"] = [("X-Echo", value)]
        await message.reply_channel.send(accept)


def query(message: Message) -> str:
    return unquote_to_bytes(message["query_string"]).decode()


async def index(message: Message) -> None:
    await message.reply_channel.send(triochan.http.text("hello"))


async def echo_body(message: Message) -> None:
    body = message["body"]
    head = {"status": 200, "headers": [("X-Method", message["method"])]}
    await message.reply_channel.send({**head, "content": body})


async def in_pieces(message: Message) -> None:
    await message.reply_channel.send({"status": 200, "content": b"one ", "more_content": True})
    await message.reply_channel.send({"content": message["body"], "more_content": True})
    await message.reply_channel.send({"content": b" three"})


async def raising(message: Message) -> None:
    raise RuntimeError("the secret of the house")


async def raising_late(message: Message) -> None:
    await message.reply_channel.send({"status": 200, "content": b"a beginning", "more_content": True})
    raise RuntimeError("the secret of the house")


async def silent(message: Message) -> None:
    """Answers nothing."""


async def later(message: Message) -> object:
    """Says that somebody else answers, and nobody does."""
    return triochan.http.LATER


async def echo_header(message: Message) -> None:
    await message.reply_channel.send({"status": 200, "headers": [("X-Echo", query(message))]})


async def redirect(message: Message) -> None:
    await message.reply_channel.send(triochan.http.redirect(query(message)))


async def wrong_length(message: Message) -> None:
    await message.reply_channel.send(
        {"status": 200, "headers": [("Content-Length", "3")], "content": b"four"}
    )


async def tell_path(message: Message) -> None:
    await message.reply_channel.send(
        triochan.http.json([message["path"], message["query_string"].decode("latin-1")])
    )


def make_routing(folder: Path) -> list[Any]:
    def http(path: str, consumer: Any) -> route:
        return route("http.request", consumer, path=f"^{path}$")

    return [
        route_class(Echo, path="^/echo$"),
        route_class(EchoJson, path="^/json$"),
        route_class(Raising, path="^/raise/(?P<where>[a-z-]+)"),
        route_class(Names, path="^/names/(?P<kind>group|channel)$"),
        route_class(Undecided, path="^/undecided$"),
        route_class(Headers, path="^/headers/"),
        http("/", index),
        http("/body", echo_body),
        http("/pieces", in_pieces),
        http("/raise", raising),
        http("/raise-late", raising_late),
        http("/silent", silent),
        http("/later", later),
        http("/header", echo_header),
        http("/redirect", redirect),
        http("/wrong-length", wrong_length),
        route("http.request", tell_path, path="^/path/"),
        static_files("/static/", folder),
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to be served, with what must not be served beside it."""
    served = tmp_path / "served"
    (served / "sub").mkdir(parents=True)
    (served / "page.txt").write_text("a page")
    (served / "sub" / "page.txt").write_text("a page below")
    (served / ".hidden").write_text("secret")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "served-too").mkdir()
    (tmp_path / "served-too" / "secret.txt").write_text("secret")
    (served / "way-out").symlink_to(tmp_path)
    (served / "link.txt").symlink_to(tmp_path / "secret.txt")
    return served


@pytest.fixture
async def server(folder: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Address]:
    """A server; afterwards it holds nothing, and nothing of its own has gone wrong."""
    caplog.set_level(logging.INFO)
    async with LiveServer(make_routing(folder), settings=SETTINGS) as address:
        async with no_leak():
            yield address
    assert "internal error on" not in caplog.text
    assert not [record for record in caplog.records if record.name == "trio"]


async def still_serves(address: Address) -> None:
    assert (await get(address)).body == b"hello"
    async with await RawClient.websocket(address, "/echo", behind=frame(TEXT, "still there?")) as client:
        assert await client.message() == "still there?"
        await client.send(close_frame())
        assert await client.closing() == (1000, "")


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


async def exchange(address: Address, data: bytes | Iterable[bytes], *, bodiless: bool = False) -> Any:
    """Send ``data``, read one response, and see the server end the connection in order."""
    async with await RawClient.connect(address) as client:
        for piece in [data] if isinstance(data, bytes) else data:
            await client.send(piece)
        answer = await client.answer(bodiless=bodiless)
        await client.stream.send_eof()  # type: ignore[attr-defined]
        assert await client.rest() == b""
        return answer


# -- heads


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"rubbish\r\n\r\n", id="a word"),
        pytest.param(b"\r\n\r\nrubbish\r\n\r\n", id="empty lines, then a word"),
        pytest.param(bytes(range(256)) * 8 + b"\r\n\r\n", id="all bytes"),
        pytest.param(b"\x00" * 100 + b"\r\n\r\n", id="zeros"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 200, id="TLS"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", id="SSH"),
        pytest.param(b"GET /\r\n\r\n", id="HTTP/0.9"),
        pytest.param(b"GET / HTTP/1.1 extra\r\nHost: x\r\n\r\n", id="too many words"),
        pytest.param(b"GET  HTTP/1.1\r\nHost: x\r\n\r\n", id="no path"),
        pytest.param(b"GET / HTTP/11\r\nHost: x\r\n\r\n", id="a version that is none"),
        pytest.param(b"G\x00T / HTTP/1.1\r\nHost: x\r\n\r\n", id="a zero in the method"),
        pytest.param(b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", id="a zero in the path"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no Host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", id="two Hosts"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n", id="a space in a header's name"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA : c\r\n\r\n", id="a space behind a header's name"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n", id="a zero in a header"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", id="a bare CR in a header"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", id="a header without a colon"),
        pytest.param(b"GET / HTTP/1.1\r\n folded: x\r\nHost: x\r\n\r\n", id="a folded first header"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n: nameless\r\n\r\n", id="a header without a name"),
        pytest.param(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", id="a negative length"),
        pytest.param(
            b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\nx", id="a length with a plus"
        ),
        pytest.param(
            b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n", id="a length in words"
        ),
        pytest.param(
            b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
            id="two lengths",
        ),
        pytest.param(
            b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
            id="a chunk's size",
        ),
        pytest.param(
            b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
            id="a negative chunk",
        ),
        pytest.param(
            b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 30 + b"\r\n\r\n",
            id="a chunk beyond all measure",
        ),
        pytest.param(b"GET /%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n", id="a path that is not UTF-8"),
    ],
)
async def test_what_is_not_http(server: Address, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    answer = await exchange(server, data)
    assert answer.status == 400
    assert answer["connection"] == "close"
    assert answer["content-type"].startswith("text/plain")
    assert not errors(caplog)
    await still_serves(server)


@pytest.mark.parametrize("line", [b"PRI * HTTP/2.0", b"GET / HTTP/3.0", b"GET / HTTP/0.9"])
async def test_another_version_of_http(server: Address, line: bytes) -> None:
    assert (await exchange(server, line + b"\r\nHost: x\r\n\r\n")).status == 505
    await still_serves(server)


@pytest.mark.parametrize("data", [b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n"])
@pytest.mark.parametrize("encoding", [b"", b"Transfer-Encoding: gzip, chunked\r\n"])
async def test_what_is_not_implemented(server: Address, data: bytes, encoding: bytes) -> None:
    """A proxy, and transfer codings that nobody uses."""
    if encoding:
        data = b"POST /body HTTP/1.1\r\nHost: x\r\n" + encoding + b"\r\n"
    assert (await exchange(server, data)).status == 501
    await still_serves(server)


async def test_a_length_and_chunks_are_not_two_requests(server: Address) -> None:
    """Request smuggling: the chunks count (RFC 9112 section 6.3), or the request is refused."""
    inner = b"GET /raise HTTP/1.1\r\nHost: x\r\n\r\n"
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)
    head = b"POST /body HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    answer = await exchange(server, head + chunks)
    assert answer.status == 400 or (answer.status, answer.body) == (200, inner)
    await still_serves(server)


def head_of(size: int, last: bytes = b"\r\n\r\n") -> bytes:
    start = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Filler: "
    return start + b"x" * (size - len(start) - len(last)) + last


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "without an end"])
@pytest.mark.parametrize("piece", [None, 16 * KIB, KIB], ids=["one piece", "16 KiB", "1 KiB"])
@pytest.mark.parametrize("size", [16 * KIB + 1, 200 * KIB])
async def test_a_head_over_the_limit(server: Address, size: int, piece: int | None, whole: bool) -> None:
    data = head_of(size, b"\r\n\r\n" if whole else b"")
    answer = await exchange(server, [data[at : at + (piece or size)] for at in range(0, size, piece or size)])
    assert answer.status == 431
    await still_serves(server)


@pytest.mark.parametrize("piece", [16 * KIB, KIB])
async def test_a_head_at_the_limit(server: Address, piece: int) -> None:
    data = head_of(16 * KIB)
    answer = await exchange(server, [data[at : at + piece] for at in range(0, len(data), piece)])
    assert (answer.status, answer.body) == (200, b"hello")


@pytest.mark.parametrize("size", [16 * KIB + 1, 16 * KIB])
async def test_a_handshake_of_that_size(server: Address, size: int) -> None:
    filler = size - len(handshake("/echo", ["X-Filler: "]))
    data = handshake("/echo", ["X-Filler: " + "x" * filler])
    assert len(data) == size
    async with await RawClient.connect(server) as client:
        await client.send(data + frame(TEXT, "behind it"))
        if size <= SETTINGS.max_head_size:
            assert (await client.head()).status == 101
            assert await client.message() == "behind it"
        else:
            assert (await client.answer()).status == 431
    await still_serves(server)


@pytest.mark.parametrize(
    "data",
    [b"", b"G", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n", handshake("/echo")[:-2]],
    ids=["nothing", "a letter", "a line's half", "no empty line", "a handshake's half"],
)
async def test_a_head_that_does_not_come(server: Address, data: bytes) -> None:
    started = trio.current_time()
    assert (await exchange(server, data)).status == 408
    assert 0.2 < trio.current_time() - started < 2
    await still_serves(server)


async def test_a_head_that_trickles(server: Address) -> None:
    """A byte now and then buys no time."""
    async with await RawClient.connect(server) as client, trio.open_nursery() as nursery:

        async def trickle() -> None:
            for byte in head_of(16 * KIB):
                await client.send(bytes([byte]))
                await trio.sleep(0.02)

        nursery.start_soon(trickle)
        assert (await client.answer()).status == 408
        nursery.cancel_scope.cancel()
    await still_serves(server)


async def test_a_later_head_that_does_not_come(server: Address) -> None:
    """A connection that has served a request may idle, and is closed without a word; half a head is a 408."""
    async with await RawClient.connect(server) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.answer()).status == 200
        assert await client.rest() == b""
    async with await RawClient.connect(server) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.answer()).status == 200
        await client.send(b"GET / HTT")
        assert (await client.answer()).status == 408
    await still_serves(server)


@pytest.mark.parametrize(
    ("rubbish", "status"),
    [
        (b"rubbish\r\n\r\n", 400),
        (b"GET /" + b"x" * 20 * KIB, 414),
        (b"GET / H", 408),
        (handshake(without="Host"), 400),
    ],
)
@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
async def test_rubbish_behind_a_request(
    server: Address, method: bytes, rubbish: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with await RawClient.connect(server) as client:
        await client.send(method + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.answer(bodiless=method == b"HEAD")).status == 200
        await client.send(rubbish)
        answer = await client.answer()
        assert (answer.status, bool(answer.body)) == (status, True)
    assert not errors(caplog)
    await still_serves(server)


# -- the opening handshake


@pytest.mark.rfc("6455", "4.2.2", "MUST answer with an error where there is no such resource")
@pytest.mark.rfc("6455", "4.2.1", "MUST answer a handshake with an error that is not as described")
@pytest.mark.parametrize(
    ("data", "status", "header"),
    [
        pytest.param(handshake("/echo", without="Sec-WebSocket-Key"), 400, None, id="no key"),
        pytest.param(
            handshake("/echo", ["Sec-WebSocket-Key: AAAA"], without="Sec-WebSocket-Key"), 400, None, id="a short key"
        ),
        pytest.param(
            handshake("/echo", ["Sec-WebSocket-Key: " + "?" * 24], without="Sec-WebSocket-Key"),
            400, None, id="a key that is not base64",
        ),
        pytest.param(handshake("/echo", ["Sec-WebSocket-Key: " + KEY.decode()]), 400, None, id="two keys"),
        pytest.param(
            handshake("/echo", ["Sec-WebSocket-Key:"], without="Sec-WebSocket-Key"), 400, None, id="an empty key"
        ),
        pytest.param(
            handshake("/echo", without="Sec-WebSocket-Version"), 426, ("sec-websocket-version", "13"), id="no version"
        ),
        *(
            pytest.param(
                handshake("/echo", [f"Sec-WebSocket-Version: {version}"], without="Sec-WebSocket-Version"),
                426, ("sec-websocket-version", "13"), id=f"version {version}",
            )
            for version in ("8", "14", "013", "13, 8", "")
        ),
        pytest.param(
            handshake("/echo").replace(b"GET", b"POST", 1), 405, ("allow", "GET"), id="POST"
        ),
        pytest.param(
            handshake("/echo", ["Content-Length: 4"]).replace(b"GET", b"POST", 1) + b"body",
            400, None, id="POST with a body",
        ),
        pytest.param(handshake("/echo").replace(b"GET", b"OPTIONS", 1), 405, ("allow", "GET"), id="OPTIONS"),
        pytest.param(handshake("/echo").replace(b"HTTP/1.1", b"HTTP/1.0"), 400, None, id="HTTP/1.0"),
        pytest.param(handshake("/echo", without="Host"), 400, None, id="no Host"),
        pytest.param(handshake("/echo", ["Host: twice"]), 400, None, id="two Hosts"),
        pytest.param(handshake("/echo", ["Sec-WebSocket-Protocol: \xfc"]), 400, None, id="a subprotocol in Latin-1"),
        pytest.param(handshake("/%ff"), 400, None, id="a path that is not UTF-8"),
        pytest.param(handshake("/unknown"), 403, None, id="an unknown path"),
        pytest.param(handshake("/echo/"), 403, None, id="nearly a known path"),
        pytest.param(handshake("/body"), 403, None, id="a path of HTTP's"),
        pytest.param(handshake("/"), 403, None, id="another"),
        pytest.param(handshake("*"), 400, None, id="an asterisk"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("behind", [b"", frame(TEXT, "too early") + frame(PING)], ids=["", "frames behind"])
async def test_handshakes_that_are_refused(
    server: Address,
    data: bytes,
    status: int,
    header: tuple[str, str] | None,
    behind: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = await exchange(server, data + behind)
    assert answer.status == status
    assert "sec-websocket-accept" not in answer
    assert ("upgrade" in answer) == (status == 426)  # RFC 9110 section 15.5.22
    if header is not None:
        assert answer[header[0]] == header[1]
    assert not errors(caplog)
    await still_serves(server)


@pytest.mark.rfc("9110", "7.8", "MUST NOT switch to a protocol that the client did not name")
@pytest.mark.parametrize("header", ["Connection: Upgrade", "Upgrade: websocket"])
async def test_half_an_upgrade_is_a_request(server: Address, header: str) -> None:
    """Upgrade without Connection, or the other way round, asks for nothing (RFC 9110 section 7.8)."""
    answer = await get(server, "/", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY.decode()}", header)
    assert (answer.status, answer.body) == (200, b"hello")


async def test_an_unknown_path_as_an_independent_client_sees_it(server: Address) -> None:
    url = f"ws://127.0.0.1:{server.port}"

    def talk() -> None:
        with pytest.raises(InvalidStatus) as refused, connect(f"{url}/unknown"):
            pass
        assert refused.value.response.status_code == 403

    await trio.to_thread.run_sync(talk)
    answer = await get(server, "/unknown")
    assert (answer.status, answer["content-type"].partition(";")[0]) == (404, "text/plain")
    await still_serves(server)


async def test_a_handshake_that_is_not_decided(server: Address, caplog: pytest.LogCaptureFixture) -> None:
    async with await RawClient.connect(server) as client:
        await client.send(handshake("/undecided") + frame(TEXT, "well?"))
        answer = await client.answer()
        assert (answer.status, answer["retry-after"].isdecimal()) == (503, True)
        assert await client.rest() == b""
    [record] = errors(caplog)
    assert "Undecided" in record.getMessage()
    await still_serves(server)


async def test_a_client_that_leaves_while_its_handshake_is_not_decided(server: Address) -> None:
    for reset in (True, False):
        client = await RawClient.connect(server)
        await client.send(handshake("/undecided"))
        if reset:
            client.reset()
        else:
            client.vanish()
    await still_serves(server)


# -- paths


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "../served/page.txt",
        "./page.txt",
        "sub/../page.txt",
        "sub/../../secret.txt",
        "..%2fsecret.txt",
        "%2e%2e/secret.txt",
        "%2e%2e%2fsecret.txt",
        "%2E%2E%2Fserved-too/secret.txt",
        "sub/%2e%2e/%2e%2e/secret.txt",
        "%252e%252e/secret.txt",
        "....//secret.txt",
        "..\\secret.txt",
        "..%5csecret.txt",
        "..;/secret.txt",
        "/etc/passwd",
        "//etc/passwd",
        "%2fetc%2fpasswd",
        "page.txt%00.html",
        "%00",
        "way-out/secret.txt",
        "link.txt",
        ".hidden",
        "sub/..",
        "..",
        "%c0%ae%c0%ae/secret.txt",
        "~root",
        "x" * 300,
        "x/" * 3000,
    ],
)
async def test_static_paths_that_lead_out(server: Address, path: str) -> None:
    answer = await get(server, f"/static/{path}")
    assert answer.status in (400, 404)
    assert b"secret" not in answer.body
    assert b"root:" not in answer.body
    await still_serves(server)


@pytest.mark.skipif(
    shutil.which("curl") is None, reason="curl is not installed (Debian: apt-get install curl)"
)
async def test_static_paths_by_curl(server: Address) -> None:
    async def curl(path: str, *options: str) -> str:
        command = ["curl", "-sS", "--max-time", "10", "--path-as-is", *options, f"{server.url}{path}"]
        result = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT)
        return result.stdout.decode()

    status = ["-o", "/dev/null", "-w", "%{http_code}"]
    assert await curl("/static/page.txt") == "a page"
    assert await curl("/static/sub/page.txt") == "a page below"
    assert await curl("/static/../secret.txt", *status) == "404"
    assert await curl("/static/%2e%2e/secret.txt", *status) == "404"
    assert await curl("/nowhere", *status) == "404"
    assert await curl("/static/page.txt", "-X", "DELETE", *status) == "405"
    assert await curl("/static/page.txt", "-I", *status) == "200"
    assert await curl("/body", "--data-binary", "x" * 2000, "-H", "Expect: 100-continue") == "x" * 2000
    assert await curl("/body", "--http1.0", "--data-binary", "old") == "old"
    await still_serves(server)


async def test_a_path_that_looks_like_a_log_line(server: Address, caplog: pytest.LogCaptureFixture) -> None:
    """A client's line break stays one line in the log."""
    async with await RawClient.websocket(
        server, "/raise/receive%0aERROR%20forged", behind=frame(TEXT)
    ) as client:
        assert (await client.ended())[0] == 1011
    [record] = errors(caplog)
    assert "forged" in record.getMessage()
    assert "\n" not in record.getMessage()


# -- messages


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"\xff"),
        frame(TEXT, b"good, then \xc3"),
        frame(TEXT, b"\xed\xa0\x80"),
        frame(TEXT, b"\xf4\x90\x80\x80"),
        frame(TEXT, b"\xc0\x80"),
        frame(TEXT, b"good", final=False) + frame(0, b"\x80"),
        frame(TEXT, b"\xe2\x82", final=False) + frame(0, b"\x28", final=False),
        frame(TEXT, b"\xe2\x82", final=False) + frame(0, b""),
        frame(TEXT, b"x" * 70000 + b"\xff"),
    ],
)  # fmt: skip
async def test_text_that_is_not_utf8(server: Address, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with await RawClient.websocket(server, "/echo", behind=frame(TEXT, "good")) as client:
        assert await client.message() == "good"
        await client.send(data + frame(TEXT, "behind it"))
        assert (await client.ended())[0] == 1007
    assert not errors(caplog)
    await still_serves(server)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("how", ["one frame", "its header only", "a header of 2**62 bytes", "fragments"])
async def test_a_message_over_the_limit(
    server: Address, how: str, opcode: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole = frame(opcode, b"x" * (MIB + 1))
    data = {
        "one frame": whole,
        "its header only": whole[:10],
        "a header of 2**62 bytes": whole[:2] + (2**62).to_bytes(8, "big"),
        "fragments": frame(opcode, b"x" * MIB, final=False) + frame(0, b"x", final=False),
    }[how]
    async with await RawClient.websocket(server, "/echo") as client:
        await client.send(data)
        code, reason = await client.ended()
        assert (code, str(MIB) in reason) == (1009, True)
    assert not errors(caplog)
    await still_serves(server)


async def test_a_message_at_the_limit(server: Address) -> None:
    async with await RawClient.websocket(server, "/echo") as client:
        for data in (
            frame(BINARY, b"x" * MIB),
            frame(BINARY, b"x" * (MIB - 1), final=False) + frame(0, b"x"),
        ):
            await client.send(data)
            assert await client.message() == b"x" * MIB


@pytest.mark.rfc("6455", "7.1.7", "MUST close the connection that it fails")
@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"\x81\x05hello", 1002, id="not masked"),
        pytest.param(frame(TEXT, "x", reserved=4), 1002, id="compressed, which was not agreed on"),
        pytest.param(frame(3, "x"), 1002, id="opcode 3"),
        pytest.param(frame(11, "x"), 1002, id="opcode 11"),
        pytest.param(frame(0, "x"), 1002, id="a continuation of nothing"),
        pytest.param(frame(TEXT, "x", final=False) + frame(TEXT, "y"), 1002, id="a message within a message"),
        pytest.param(frame(PING, "x", final=False), 1002, id="a ping in fragments"),
        pytest.param(frame(PING, "x" * 126), 1002, id="a long ping"),
        pytest.param(frame(CLOSE, "x" * 126), 1002, id="a long close"),
        pytest.param(frame(CLOSE, b"x"), 1002, id="half a close code"),
        *(
            pytest.param(close_frame(code), 1002, id=f"code {code}")
            for code in (0, 999, 1004, 1005, 1006, 1015, 2999)
        ),
        pytest.param(close_frame(1000, b"\xff"), 1007, id="a reason that is not UTF-8"),
        pytest.param(b"\x81\xfe\x00\x05" + b"\0" * 9, 1002, id="a length that is longer than it need be"),
        pytest.param(b"\x81\xff" + b"\xff" * 8, 1002, id="a negative length"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 1002, id="HTTP"),
    ],
)
@pytest.mark.parametrize("behind", [b"", frame(TEXT, "behind it") * 100], ids=["", "with more behind"])
async def test_frames_that_are_none(
    server: Address, data: bytes, code: int, behind: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with await RawClient.websocket(server, "/echo", behind=frame(TEXT, "good")) as client:
        assert await client.message() == "good"
        await client.send(data + behind)
        assert (await client.ended())[0] == code
    assert not errors(caplog)
    await still_serves(server)


NOT_JSON = [
    "", " ", "{", "}", "[1,", '{"a":}', "{'a': 1}", '{"a" 1}', "nonsense", "NaN", "Infinity", "-Infinity", "1e999",
    "01", "1.", ".5", "+1", "-", "0x10", '"\n"', '"\\x41"', '"\\ud800"', "tru", "nul", "[1 2]", "[1],", "1 1",
    "\ufeff{}", '"', "{1: 2}", "[" * 100000, '{"a":' * 100000, "\x00", "\N{GRINNING FACE}",
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_JSON, ids=lambda text: repr(text[:12]))
async def test_text_that_is_not_json(server: Address, text: str, caplog: pytest.LogCaptureFixture) -> None:
    async with await RawClient.websocket(server, "/json", behind=frame(TEXT, "[1]")) as client:
        assert await client.message() == "[1]"
        await client.send(frame(TEXT, text))
        assert (await client.ended())[0] == 1007
    assert not errors(caplog)
    await still_serves(server)


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "0",
        '""',
        "[[[]]]",
        '{"a":{"b":[1,2.5,true]}}',
        '"\\ud83d\\ude00"',
        "1" * 4000,
        "[" * 900 + "]" * 900,
    ],
)
async def test_text_that_is_json(server: Address, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """Odd, but JSON: it is answered, or refused with 1007 where nothing can hold it; it is never an error of ours."""
    async with await RawClient.websocket(server, "/json") as client:
        await client.send(frame(TEXT, text))
        opcode, payload = await client.frame()
        if opcode == TEXT:
            assert ujson.loads(payload) == ujson.loads(text)
        else:
            assert (opcode, payload[:2]) == (CLOSE, (1007).to_bytes(2, "big"))
    assert not errors(caplog)


async def test_binary_to_a_json_consumer(server: Address, caplog: pytest.LogCaptureFixture) -> None:
    url = f"ws://127.0.0.1:{server.port}/json"

    def talk() -> None:
        with connect(url) as client:
            client.send(b"{}")
            with pytest.raises(ConnectionClosedError) as closed:
                client.recv(PATIENCE)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1003

    await trio.to_thread.run_sync(talk)
    assert not errors(caplog)
    await still_serves(server)


# -- handlers that raise


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("connect", "connect"),
        ("late-connect", "connect"),
        ("receive", "receive"),
        ("waiting-receive", "receive"),
        ("disconnect", "disconnect"),
        ("task", "a task of the connection"),
    ],
)
async def test_a_handler_that_raises(
    server: Address, where: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with await RawClient.websocket(server, "/echo") as bystander:
        async with await RawClient.connect(server) as client:
            await client.send(handshake(f"/raise/{where}") + frame(TEXT, "go") + frame(TEXT, "on"))
            answer = await client.head()
            if where == "connect":
                assert answer.status == 500
                assert b"purpose" not in await client.take(int(answer["content-length"]))
                assert await client.rest() == b""
            else:
                assert answer.status == 101
                code, reason = await client.ended()
                assert (code, "purpose" in reason) == (1011, False)
        expected = {"disconnect": ["receive", "receive", "disconnect"], "receive": ["receive"] * 2}.get(
            where, [kind]
        )
        if where == "waiting-receive":
            expected = ["receive"] * 2
        await until(lambda: len(errors(caplog)) >= len(expected))
        records = errors(caplog)
        if where == "late-connect":  # what the client sent was received meanwhile, or not
            records = [record for record in records if f" in {kind} on " in record.getMessage()]
        assert len(records) == len(expected)
        for record, what in zip(records, expected, strict=True):
            assert f" raised in {what} on " in record.getMessage()
            assert "Raising" in record.getMessage()
            assert f"/raise/{where}" in record.getMessage()
            assert record.exc_info is not None
            assert isinstance(record.exc_info[1], RuntimeError)
        await bystander.send(frame(TEXT, "untouched"))
        assert await bystander.message() == "untouched"
    await still_serves(server)


@pytest.mark.parametrize(
    "name", ["a room", " ", "", "Ünïcode", "a/b", "a\nb", "x" * 101, "a:b", "a!b!c", "*"]
)
@pytest.mark.parametrize("kind", ["group", "channel"])
async def test_names_that_are_none(
    server: Address, kind: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with await RawClient.websocket(server, f"/names/{kind}") as client:
        await client.send(frame(TEXT, f"careful:{name}"))
        told = await client.message()
        assert isinstance(told, str)
        assert kind in told
        assert repr(name)[1:20] in told
        assert not errors(caplog)
        await client.send(frame(TEXT, f"careless:{name}"))
        assert (await client.ended())[0] == 1011
    [record] = errors(caplog)
    assert "Names" in record.getMessage()
    await still_serves(server)


def test_a_routing_with_a_positional_group() -> None:
    with pytest.raises(ValueError, match="group"):
        route("websocket.receive", index, path=r"^/(\d+)/$")
    with pytest.raises((ValueError, ImproperlyConfigured), match="group"):
        route_class(Echo, path=r"^/(room|hall)/")
    with pytest.raises((ValueError, ImproperlyConfigured), match="group"):
        Echo.as_route(path=r"^/(?P<named>\w+)/(\w+)/$")
    route_class(Echo, path=r"^/(?:room|hall)/(?P<name>\w+)$")


# -- requests


async def test_bodies_over_the_limit(server: Address) -> None:
    head = b"POST /body HTTP/1.1\r\nHost: x\r\n"
    announced = head + b"Content-Length: %d\r\n\r\n" % (MIB + 1)
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    for data in (
        announced,
        announced + b"x" * (MIB + 1),
        head + b"Content-Length: 99999999999999999999\r\n\r\n",
        chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (MIB + 1, b"x" * (MIB + 1)),
        chunked + b"10000\r\n%b\r\n" % (b"x" * 65536) * 17,
    ):
        answer = await exchange(server, data)
        assert (answer.status, answer["connection"]) == (413, "close")
        await still_serves(server)


async def test_bodies_at_the_limit(server: Address) -> None:
    head = b"POST /body HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    body = bytes(range(256)) * 4096
    for data in (
        head + b"Content-Length: %d\r\n\r\n" % MIB + body,
        head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (MIB, body),
        head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(
            b"%x;extension=1\r\n%b\r\n" % (KIB, body[at : at + KIB]) for at in range(0, MIB, KIB)
        ) + b"0\r\nX-Trailer: 1\r\n\r\n",
    ):  # fmt: skip
        answer = await exchange(server, data)
        assert (answer.status, answer.body == body) == (200, True)


@pytest.mark.rfc("9112", "6.3", "MUST take a body that ends before its length for incomplete, and close")
@pytest.mark.parametrize(
    "data", [b"Content-Length: 10\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n5\r\nha"]
)
async def test_a_body_that_does_not_come(
    server: Address, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await exchange(server, b"POST /body HTTP/1.1\r\nHost: x\r\n" + data)).status == 408
    for reset in (True, False):  # or whose client goes
        client = await RawClient.connect(server)
        await client.send(b"POST /body HTTP/1.1\r\nHost: x\r\n" + data)
        if reset:
            client.reset()
        else:
            client.vanish()
    assert not errors(caplog)
    await still_serves(server)


@pytest.mark.rfc(
    "9110",
    "10.1.1",
    "MUST send 100 Continue or a final answer to who expects it, without waiting for the body",
)
@pytest.mark.rfc("9110", "10.1.1", "MUST send a final answer behind 100 Continue")
async def test_expect_100_continue(server: Address) -> None:
    head = b"POST /body HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
    async with await RawClient.connect(server) as client:
        for _ in range(2):
            await client.send(head + b"Content-Length: 5\r\n\r\n")
            assert (await client.answer()).status == 100
            await client.send(b"12345")
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, b"12345")
        await client.send(head + b"Content-Length: %d\r\n\r\n" % (MIB + 1))
        assert (await client.answer()).status == 413  # and no 100 before it
        await client.stream.send_eof()  # type: ignore[attr-defined]
        assert await client.rest() == b""
    await still_serves(server)


@pytest.mark.rfc("9110", "9.3.2", "MUST NOT send content in answer to HEAD")
async def test_head_requests(server: Address, folder: Path) -> None:
    async with await RawClient.connect(server) as client:
        for path, size in (
            ("/", 5),
            ("/static/page.txt", 6),
            ("/pieces", None),
            ("/unknown", None),
            ("/raise", None),
        ):
            await client.send(f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = await client.answer(bodiless=True)
            if size is not None:
                assert head["content-length"] == str(size)
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await client.answer()).body == b"hello"
        assert await client.rest() == b""


@pytest.mark.rfc("9112", "9.3.2", "MUST answer in the order of the requests")
async def test_requests_in_one_piece(server: Address) -> None:
    """Pipelined: each is answered, in order, and what follows may be a WebSocket."""
    count = 100
    data = b"".join(
        b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
        % (len(b"%d" % number), b"%d" % number)
        for number in range(count)
    )
    behind = handshake("/echo") + frame(TEXT, "behind it all") + close_frame(4001)
    for size in (len(data + behind), 1000, 7):
        async with await RawClient.connect(server) as client, trio.open_nursery() as nursery:

            async def send(client: RawClient = client, size: int = size) -> None:
                whole = data + behind
                for at in range(0, len(whole), size):
                    await client.send(whole[at : at + size])

            nursery.start_soon(send)
            for number in range(count):
                answer = await client.answer()
                assert (answer.status, answer.body) == (200, b"%d" % number)
            assert (await client.head()).status == 101
            assert await client.message() == "behind it all"
            assert await client.closing() == (4001, "")
    await still_serves(server)


async def test_chunks_both_ways(server: Address) -> None:
    async with await RawClient.connect(server) as client:
        for _ in range(3):
            await client.send(b"POST /pieces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            for piece in (b"3\r\nt", b"wo\r\n", b"0\r\n", b"\r\n"):
                await client.send(piece)
            answer = await client.answer()
            assert (answer["transfer-encoding"], answer.body) == ("chunked", b"one two three")


@pytest.mark.rfc("9112", "6.1", "MUST NOT send Transfer-Encoding to a client that does not say HTTP/1.1")
async def test_http_1_0(server: Address) -> None:
    async with await RawClient.connect(server) as client:
        await client.send(b"POST /pieces HTTP/1.0\r\nContent-Length: 3\r\n\r\ntwo")
        answer = await client.answer()
        assert ("transfer-encoding" in answer, answer.body) == (False, b"one two three")
        assert await client.rest() == b""
    async with await RawClient.connect(server) as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await client.answer()).body == b"hello"
        assert await client.rest() == b""


async def test_a_client_that_says_all_at_once_and_listens(server: Address) -> None:
    """Half-closed, as by ``nc -N``: what it asked for is answered."""
    async with await RawClient.connect(server) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.stream.send_eof()  # type: ignore[attr-defined]
        assert (await client.answer()).body == b"hello"
        assert await client.rest() == b""


async def test_paths_as_they_come(server: Address) -> None:
    for target, path, query_string in (
        ("/path/a%20b?c=%20d", "/path/a b", "c=%20d"),
        ("/path/%E2%82%AC", "/path/\N{EURO SIGN}", ""),
        ("/path/a?b?c#d", "/path/a", "b?c#d"),
        ("http://elsewhere/path/x?y", "/path/x", "y"),
        ("/path//../x", "/path//../x", ""),
        ("/path/%2e%2e", "/path/..", ""),
        ("/path/%", "/path/%", ""),
        ("/path/%zz", "/path/%zz", ""),
    ):
        assert ujson.loads((await get(server, target)).body) == [path, query_string]
    for target in ("*", "path", "//", "http://elsewhere"):
        assert (await get(server, target)).status in (200, 400, 404)
    await still_serves(server)


async def test_too_many_connections(tmp_path: Path) -> None:
    async with LiveServer([route("http.request", index)], settings=Settings(max_connections=2)) as address:
        first = await RawClient.connect(address)
        second = await RawClient.connect(address)
        for client in (first, second):
            await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await client.answer()).status == 200
        for _ in range(3):
            async with await RawClient.connect(address) as third:
                await third.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = await third.answer()
                assert (answer.status, answer["retry-after"].isdecimal()) == (503, True)
                assert await third.rest() == b""
        await first.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await first.answer()).status == 200
        assert await first.rest() == b""
        first.vanish()
        statuses: list[int] = []

        async def served() -> bool:
            async with await RawClient.connect(address) as fourth:
                await fourth.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                statuses.append((await fourth.answer()).status)
            return statuses[-1] == 200

        while not await served():
            assert len(statuses) < 1000, "a place that is free is not given away"
        second.vanish()


async def test_a_request_whose_consumer_raises(server: Address, caplog: pytest.LogCaptureFixture) -> None:
    answer = await get(server, "/raise")
    assert answer.status == 500
    assert not re.search(rb"secret|Traceback|RuntimeError|\.py", answer.body)
    [record] = errors(caplog)
    assert record.exc_info is not None
    assert "raising" in record.getMessage()
    assert "/raise" in record.getMessage()
    assert "http.request" in record.getMessage()
    await still_serves(server)


async def test_a_client_that_is_gone_when_its_consumer_raises(
    server: Address, caplog: pytest.LogCaptureFixture
) -> None:
    """There is nobody to answer 500 or 503 to, and that is no error of the server's."""
    for path in (b"/raise", b"/unknown", b"/raise-late", b"/wrong-length"):
        for steps in range(6):
            client = await RawClient.connect(server)
            await client.send(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            client.reset()
    await still_serves(server)
    assert all(record.name == "triochan.http" for record in errors(caplog))


async def test_a_request_whose_consumer_raises_in_the_middle(
    server: Address, caplog: pytest.LogCaptureFixture
) -> None:
    async with await RawClient.connect(server) as client:
        await client.send(b"GET /raise-late HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises((EOFError, trio.BrokenResourceError)):  # it must not look complete
            await client.answer()
    assert len(errors(caplog)) == 1
    await still_serves(server)


async def test_a_request_that_nobody_answers(server: Address) -> None:
    assert (await get(server, "/silent")).status == 500
    assert (await get(server, "/later")).status == 503
    await still_serves(server)


async def test_a_response_that_contradicts_itself(server: Address, caplog: pytest.LogCaptureFixture) -> None:
    async with await RawClient.connect(server) as client:
        await client.send(b"GET /wrong-length HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            assert (await client.answer()).status == 500
        except (EOFError, trio.BrokenResourceError):
            pass
    assert len(errors(caplog)) == 1
    await still_serves(server)


@pytest.mark.parametrize(
    "value",
    [
        "a\r\nSet-Cookie: evil=1",
        "a\nSet-Cookie: evil=1",
        "a\rb",
        "a\r\n\r\n<script>",
        "a\0b",
        "\N{EURO SIGN}",
    ],
)
@pytest.mark.parametrize("path", ["/header", "/redirect"])
async def test_a_header_that_carries_another(
    server: Address, path: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    encoded = "".join(f"%{byte:02x}" for byte in value.encode())
    answer = await get(server, f"{path}?{encoded}")
    assert "set-cookie" not in answer
    assert b"script" not in answer.body
    if path == "/header" or value.isascii():
        assert answer.status == 500
        assert len(errors(caplog)) == 1
    else:
        assert answer["location"] == "%E2%82%AC"
    await still_serves(server)


@pytest.mark.parametrize("path", ["/headers/header", "/headers/subprotocol"])
@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: evil=1", "a\nb", "not-offered, x", "\N{EURO SIGN}"])
async def test_a_handshake_header_that_carries_another(
    server: Address, path: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    if path == "/headers/header" and value.startswith("not"):
        value = "\x7f"
    encoded = "".join(f"%{byte:02x}" for byte in value.encode())
    async with await RawClient.connect(server) as client:
        await client.send(handshake(f"{path}?{encoded}", ["Sec-WebSocket-Protocol: chat, talk"]))
        answer = await client.answer()
        assert answer.status == 500
        assert "set-cookie" not in answer
        assert await client.rest() == b""
    assert len(errors(caplog)) == 1
    await still_serves(server)


# -- control frames


async def test_more_pings_than_may_wait(server: Address) -> None:
    """In one segment, with messages among them: all are answered, and nothing is lost or delayed."""
    async with await RawClient.websocket(server, "/echo") as client:
        burst = b"".join(frame(PING, str(number)) + frame(TEXT, str(number)) for number in range(500))
        with trio.fail_after(5):
            await client.send(burst)
            pongs: list[bytes] = []
            texts: list[bytes] = []
            while len(pongs) < 500 or len(texts) < 500:
                opcode, payload = await client.frame()
                (pongs if opcode == PONG else texts).append(payload)
        assert pongs == texts == [b"%d" % number for number in range(500)]


@pytest.mark.slow
async def test_pings_without_end_from_a_client_that_does_not_read(server: Address) -> None:
    """Reading stops: what the client does not read is not made up in memory."""
    client = await RawClient.websocket(server, "/echo", receive_buffer=4096)
    burst = frame(PING, b"x" * 125) * 1000
    sent = 0
    with trio.move_on_after(PATIENCE):
        while True:
            with trio.move_on_after(0.3) as stuck:
                await client.stream.send_all(burst)
                sent += len(burst)
            if stuck.cancelled_caught:
                break
    assert sent < 100 * MIB
    client.reset()
    await still_serves(server)


async def test_a_ping_to_a_server_that_closes(server: Address, caplog: pytest.LogCaptureFixture) -> None:
    async with await RawClient.websocket(server, "/raise/receive", behind=frame(TEXT)) as client:
        assert (await client.closing())[0] == 1011
        await client.send(frame(PING, "still there?") + frame(TEXT, "well?") + frame(PONG))
        await client.send(close_frame(1011))
        rest = await client.rest()
        assert rest in (b"", b"\x8a\x0cstill there?")
    assert len(errors(caplog)) == 1
    await still_serves(server)

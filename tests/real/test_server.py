"""A server as a library, over Unix sockets where time is virtual: its start, its barrier, and its end in order."""

from __future__ import annotations

import errno
import logging
import re
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
import trustme
from raw_clients import BINARY, TEXT, RawClient, close_frame, frame, get, no_leak
from trio.testing import MockClock, wait_all_tasks_blocked

import triochan
from triochan import Application, Group, Message, Settings, route, route_class, server
from triochan.exceptions import ConnectionClosed
from triochan.generic.websockets import WebsocketConsumer
from triochan.http import text
from triochan.http1.serving import serve_connection
from triochan.runtime import Runtime
from triochan.server import Server, serve
from triochan.test import LiveServer
from triochan.wire.listeners import Address, open_listeners


class Member(WebsocketConsumer):
    groups = ["everyone"]


async def hello(message: Message) -> None:
    await message.reply_channel.send(text("hello"))


async def slow(message: Message) -> None:
    await trio.sleep(5)
    await message.reply_channel.send(text("late"))


async def stuck(message: Message) -> None:
    await trio.sleep_forever()


ROUTING = [
    route_class(Member),
    route("http.request", hello, path="^/hello$"),
    route("http.request", slow, path="^/slow$"),
    route("http.request", stuck, path="^/stuck$"),
]


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@asynccontextmanager
async def running(
    folder: Path, routing: list[Any] = ROUTING, context: ssl.SSLContext | None = None, **settings: Any
) -> AsyncIterator[tuple[Server, Address]]:
    """A server, and where it listens; the block ends when it has."""
    async with Runtime.open(Application(routing), Settings(**settings), None) as runtime:
        async with trio.open_nursery() as nursery:
            listeners = await open_listeners(None, 0, folder / "socket", "http")
            running_server = Server(runtime, listeners, context)
            [address] = await nursery.start(running_server.run)
            try:
                yield running_server, address
            finally:
                running_server.stop()


async def test_it_starts_in_a_nursery_and_ends_with_it() -> None:
    async with no_leak():
        async with trio.open_nursery() as nursery:
            [address] = await nursery.start(partial(serve, ROUTING, port=0))
            assert (address.host, address.scheme) == ("127.0.0.1", "http")
            assert (await get(address, "/hello")).body == b"hello"
            nursery.cancel_scope.cancel()
        with pytest.raises(OSError):
            await get(address)


async def test_an_address_that_can_not_be_had() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        with pytest.raises(OSError):
            await serve(ROUTING, port=busy.getsockname()[1])
    async with LiveServer(ROUTING) as address:  # and the run's layer is free again
        assert (await get(address, "/hello")).status == 200


async def test_a_cancellation_drains_and_comes_out(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "socket"
    outcome: list[Any] = []

    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await serve(ROUTING, uds=path)
        outcome.append((scope.cancelled_caught, trio.current_time() - began))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        address = Address(path=str(path))
        async with await RawClient.connect(address) as idle, await RawClient.connect(address) as busy:
            async with await RawClient.websocket(address) as socket:
                await busy.send(request("/slow"))
                await wait_all_tasks_blocked()
                began = trio.current_time()
                scope.cancel()
                assert await socket.ended() == (1001, "going away")
                assert await idle.rest() == b""
                with pytest.raises(OSError):
                    await RawClient.connect(address)
                assert (await busy.answer()).body == b"late"
                assert await busy.rest() == b""
    assert outcome == [(True, 5)]
    assert not path.exists()


class Flood(WebsocketConsumer):
    """Sends far more than a socket takes by itself."""

    ended: ClassVar[list[tuple[str, Any]]] = []

    async def stream(self) -> None:
        while True:
            await self.connection.send("z" * 1000)

    async def receive(self, text: str | None = None, **kwargs: Any) -> None:
        try:
            if text == "stream":
                self.connection.start_soon(self.stream)
                return
            for _ in range(200):
                await self.send("x" * 20_000)
        except ConnectionClosed as error:
            self.ended.append(("receive", error.code))
            raise

    async def disconnect(self, message: Message, **kwargs: Any) -> None:
        await trio.sleep(1)
        self.ended.append(("disconnect", message["code"]))


class Echo(WebsocketConsumer):
    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.send(text=text, bytes=bytes)


async def test_a_close_behind_a_large_echo_is_answered(tmp_path: Path, autojump_clock: MockClock) -> None:
    large = bytes(4_000_000)
    async with running(tmp_path, [Echo.as_route()], max_message_size=len(large)) as (_, address):
        async with await RawClient.websocket(address) as client:
            await client.send(frame(BINARY, large))
            await wait_all_tasks_blocked()
            began = trio.current_time()
            assert await client.message() == large
            await client.send(close_frame())
            assert await client.ended() == (1000, "")
            assert trio.current_time() == began


async def test_a_peer_that_does_not_read_holds_up_no_shutdown(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flood, "ended", [])
    async with running(tmp_path, [Flood.as_route()], shutdown_timeout=100) as (server, address):
        client = await RawClient.websocket(address)
        await client.send(frame(TEXT, "go"))
        await wait_all_tasks_blocked()
        began = trio.current_time()
        server.stop()
        await server.finished.wait()
        # close_timeout to see that nothing is taken, another one for the close frame, and what disconnect takes.
        assert trio.current_time() - began == pytest.approx(5 + 5 + 1)
    client.vanish()
    assert Flood.ended == [("receive", 1001), ("disconnect", 1001)]
    assert not server.cut_short


async def test_a_peer_that_reads_slowly_gets_all_that_it_is_owed_in_a_shutdown(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flood, "ended", [])
    async with running(tmp_path, [Flood.as_route()], shutdown_timeout=1000) as (server, address):
        async with await RawClient.websocket(address) as client:
            await client.send(frame(TEXT, "go"))
            await wait_all_tasks_blocked()
            server.stop()
            for number in range(200):
                if number % 20 == 0:
                    await trio.sleep(3)
                assert await client.message() == "x" * 20_000
            assert await client.ended() == (1001, "going away")
        await server.finished.wait()
    assert Flood.ended == [("disconnect", 1001)]
    assert not server.cut_short


async def test_what_is_sent_without_end_holds_up_no_shutdown(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flood, "ended", [])
    async with running(tmp_path, [Flood.as_route()], shutdown_timeout=1000) as (server, address):
        async with await RawClient.websocket(address) as client:
            await client.send(frame(TEXT, "stream"))
            await wait_all_tasks_blocked()
            server.stop()
            sizes: list[int] = []
            while len(sizes) < 5000 and (await client.frame())[0] == TEXT:
                sizes.append(1000)
            assert sum(sizes) < 2 * 1024 * 1024  # outbox_limit, and what the socket holds
        await server.finished.wait()
    assert Flood.ended == [("disconnect", 1001)]
    assert not server.cut_short


async def test_websockets_are_closed_one_after_another(tmp_path: Path, autojump_clock: MockClock) -> None:
    closed: list[tuple[int, int, float]] = []
    count = 4

    async def listen(number: int, client: RawClient) -> None:
        async with client:
            code, _ = await client.closing()
            closed.append((number, code, trio.current_time() - began))
            await client.send(close_frame(code))

    async with trio.open_nursery() as nursery:
        async with running(tmp_path, drain_spread=8) as (_, address):
            for number in range(count):
                nursery.start_soon(listen, number, await RawClient.websocket(address))
            await wait_all_tasks_blocked()
            began = trio.current_time()
    assert closed == [(number, 1001, 2 * number) for number in range(count)]


async def test_the_deadline_of_a_shutdown(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, shutdown_timeout=7) as (running_server, address):
        async with await RawClient.connect(address) as client:
            await client.send(request("/stuck"))
            await wait_all_tasks_blocked()
            began = trio.current_time()
            running_server.stop()
            running_server.stop()
            await running_server.finished.wait()
            assert trio.current_time() - began == 7
            assert running_server.runtime.sockets == 0
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        f"the shutdown cut off {__name__}.stuck in http.request on '/stuck'",
        "the shutdown was cut short",
    ]


async def test_an_abort_does_not_wait(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as (running_server, address):
        async with await RawClient.connect(address) as client:
            await client.send(request("/stuck"))
            await wait_all_tasks_blocked()
            began = trio.current_time()
            running_server.stop()
            await wait_all_tasks_blocked()
            assert not running_server.finished.is_set()
            running_server.abort()
            await running_server.finished.wait()
            assert trio.current_time() == began
    assert "cut short" in caplog.text


async def test_a_signal_returns_from_serve(tmp_path: Path) -> None:
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            start = partial(serve, ROUTING, uds=tmp_path / "socket", signals=True)
            [address] = await nursery.start(start)
            assert (await get(address, "/hello")).status == 200
            signal.raise_signal(signal.SIGTERM)


async def test_a_trigger_returns_from_serve(tmp_path: Path, autojump_clock: MockClock) -> None:
    trigger = trio.Event()
    ends: list[bool] = []

    async def run(task_status: trio.TaskStatus[list[Address]]) -> None:  # noqa: ASYNC128
        ends.append(
            await serve(
                ROUTING, uds=tmp_path / "socket", shutdown_trigger=trigger.wait, task_status=task_status
            )
        )

    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(run)
        async with await RawClient.connect(address) as client:
            await client.send(request("/slow"))
            await wait_all_tasks_blocked()
            trigger.set()
            assert (await client.answer()).body == b"late"
    assert ends == [True]


async def test_two_servers_in_one_run_share_their_groups() -> None:
    async with LiveServer(ROUTING) as one, LiveServer(ROUTING) as other:
        async with await RawClient.websocket(one) as here, await RawClient.websocket(other) as there:
            await Group("everyone").send({"text": "all"})
            assert (await here.message(), await there.message()) == ("all", "all")


async def test_what_goes_wrong_within_reaches_no_other_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = iter([RuntimeError("on purpose"), OSError("lost")])

    async def fail_twice(*arguments: Any, **options: Any) -> None:
        for error in wrong:
            raise error
        await serve_connection(*arguments, **options)

    async with running(tmp_path) as (running_server, address):
        monkeypatch.setattr(server, "serve_connection", fail_twice)
        for _ in range(2):
            async with await RawClient.connect(address) as client:
                assert await client.rest() == b""
        assert (await get(address, "/hello")).status == 200
        await wait_all_tasks_blocked()
        assert running_server.runtime.sockets == 0
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert ["internal error" in record.getMessage() for record in errors] == [True]


async def test_a_full_server_says_so(tmp_path: Path) -> None:
    async with running(tmp_path, max_connections=1) as (running_server, address):
        async with await RawClient.connect(address) as client:
            await client.send(request("/hello"))
            await client.answer()
            async with await RawClient.connect(address) as second:
                answer = await second.answer()
                assert (answer.status, answer["retry-after"]) == (503, "5")
                assert await second.rest() == b""
        await wait_all_tasks_blocked()
        assert running_server.runtime.sockets == 0
        assert (await get(address, "/hello")).status == 200


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's and the client's."""
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


@pytest.mark.parametrize(
    "data",
    [
        b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n",
        b"HEAD /hello HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000,
        b"\r\nGET /hello HTTP/1.1\r\n",
        b"CONNECT x:443 HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 5 443\r\n",
        b"G",
    ],
    ids=lambda data: data[:9].decode().strip(),
)
async def test_plain_text_to_a_port_of_tls_gets_400(
    tmp_path: Path, tls: tuple[ssl.SSLContext, ssl.SSLContext], data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """In plain text, for that is what the client reads; and it may read it though it has sent much."""
    caplog.set_level("DEBUG", "triochan")
    async with running(tmp_path, context=tls[0]) as (running_server, address):
        async with await RawClient.connect(address) as client:
            await client.send(data)
            answer = await client.answer()
            assert (answer.status, answer["connection"]) == (400, "close")
            assert b"plain text came to a port that speaks TLS; ask it by https://" in answer.body
            assert await client.rest() == b""
        await wait_all_tasks_blocked()
        assert running_server.runtime.sockets == 0
        stream = await trio.open_unix_socket(str(tmp_path / "socket"))
        async with RawClient(
            trio.SSLStream(stream, tls[1], server_hostname="localhost", https_compatible=True)
        ) as served:
            await served.send(request("/hello"))
            assert (await served.answer()).body == b"hello"
    assert [record.getMessage() for record in caplog.records if "400" in record.getMessage()] == [
        "a client got 400: plain text came to a port that speaks TLS; ask it by https:// or wss://"
    ]
    assert all(record.levelno < logging.WARNING for record in caplog.records)


@pytest.mark.parametrize(
    "data", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01", b"\x80\x2e\x01", b"\x00" * 50, b"\xff" * 50]
)
async def test_what_is_neither_tls_nor_text_is_closed(
    tmp_path: Path, tls: tuple[ssl.SSLContext, ssl.SSLContext], data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "triochan")
    async with running(tmp_path, context=tls[0]) as (running_server, address):
        async with await RawClient.connect(address) as client:
            if data:
                await client.send(data)
            await client.stream.send_eof()  # type: ignore[attr-defined]
            try:
                assert b"HTTP" not in await client.rest()
            except trio.BrokenResourceError:
                pass  # what was sent is not read any more
        await wait_all_tasks_blocked()
        assert running_server.runtime.sockets == 0
    assert ["connection from" in record.getMessage() for record in caplog.records] == [True]
    assert all(record.levelno < logging.WARNING for record in caplog.records)


async def test_what_does_not_come_in_time_before_the_first_request_is_logged(
    tmp_path: Path, tls: tuple[ssl.SSLContext, ssl.SSLContext], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "triochan")
    async with running(tmp_path, context=tls[0], head_timeout=0.1) as (_, address):
        async with await RawClient.connect(address) as client:
            assert await client.rest() == b""
    [said] = [record.getMessage() for record in caplog.records]
    assert re.fullmatch("connection from .+: no TLS handshake in time; it is closed", said)


async def test_tls_to_a_port_of_plain_text_gets_400(
    tmp_path: Path, tls: tuple[ssl.SSLContext, ssl.SSLContext], caplog: pytest.LogCaptureFixture
) -> None:
    """At once, and not when the time for a head is over."""
    caplog.set_level("DEBUG", "triochan")
    hello = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        tls[1].wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost").do_handshake()
    async with running(tmp_path) as (running_server, address):
        async with await RawClient.connect(address) as client:
            await client.send(hello.read())
            with trio.fail_after(2):
                answer = await client.answer()
            assert (answer.status, answer["connection"]) == (400, "close")
            assert b"TLS came to a port that speaks plain HTTP; ask it by http:// or ws://" in answer.body
        stream = await trio.open_unix_socket(str(tmp_path / "socket"))
        secured = trio.SSLStream(stream, tls[1], server_hostname="localhost")
        with pytest.raises(trio.BrokenResourceError) as refused:
            await secured.do_handshake()
        assert "WRONG_VERSION_NUMBER" in str(refused.value.__cause__)
        await trio.aclose_forcefully(secured)
        assert (await get(address, "/hello")).status == 200
        await wait_all_tasks_blocked()
        assert running_server.runtime.sockets == 0
    assert [record.getMessage() for record in caplog.records if "400" in record.getMessage()] == [
        "a client got 400: TLS came to a port that speaks plain HTTP; ask it by http:// or ws://"
    ] * 2
    assert all(record.levelno < logging.WARNING for record in caplog.records)


class Refusing:
    """A listener whose ``accept`` fails as it is told to."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def accept(self) -> Any:
        if not self.numbers:
            raise BlockingIOError
        number = self.numbers.pop(0)
        raise OSError(number, "on purpose")


async def test_accepting_that_fails(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """A client that gave up is passed over; want of descriptors is logged and waited out, not spun on."""
    listener: Any = Refusing(errno.ECONNABORTED, errno.EPERM, errno.EMFILE, errno.ECONNABORTED)
    async with (
        Runtime.open(Application(ROUTING), Settings(), None) as runtime,
        trio.open_nursery() as nursery,
    ):
        accepting = Server(runtime, [])
        began = trio.current_time()
        await accepting._accept_ready(listener, nursery)
        assert trio.current_time() - began == pytest.approx(0.1)
        assert len(listener.numbers) == 1
        assert [record.getMessage() for record in caplog.records] == [
            "cannot accept: on purpose. 0 sockets are open"
        ]
        await accepting._accept_ready(listener, nursery)
        assert listener.numbers == []
        assert not nursery.child_tasks
    assert len(caplog.records) == 1


def test_run_serves_in_a_trio_run_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "triochan.server")

    class Signalling(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("serving on"):
                signal.raise_signal(signal.SIGINT)

    handler = Signalling()
    server.logger.addHandler(handler)
    try:
        triochan.run(ROUTING, uds=tmp_path / "socket")
    finally:
        server.logger.removeHandler(handler)
    assert f"serving on http+unix:{tmp_path / 'socket'}" in caplog.text
    assert not (tmp_path / "socket").exists()

"""trio-websocket's server as a door, over real sockets: addresses, TLS, many clients, and what each way out leaves."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio_websocket
import trustme
from raw_clients import PATIENCE, TEXT, RawClient, close_frame, frame, handshake, no_leak, until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from triochan import Application, Group, Settings, route_class
from triochan.doors.trio_websocket import handle, running
from triochan.generic.websockets import WebsocketConsumer
from triochan.wire.listeners import Address

MIB = 1024 * 1024


class Recording(WebsocketConsumer):
    """Notes what happens, and echoes."""

    groups = ["everyone"]
    seen: list[dict[str, Any]] = []
    codes: list[int] = []

    async def connect(self, message: Any, **kwargs: Any) -> None:
        self.seen.append(message.content)

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.send(text=text, bytes=bytes)

    async def disconnect(self, message: Any, **kwargs: Any) -> None:
        self.codes.append(message["code"])


@pytest.fixture
def consumer() -> type[Recording]:
    class Fresh(Recording):
        seen = []
        codes = []

    return Fresh


@asynccontextmanager
async def serving(
    consumer: type[WebsocketConsumer],
    settings: Settings | None = None,
    ssl_context: ssl.SSLContext | None = None,
    **options: Any,
) -> AsyncIterator[Address]:
    application = Application([route_class(consumer, path="^/$")])

    async def handler(request: trio_websocket.WebSocketRequest) -> None:
        await handle(request, application)

    async with running(application, settings=settings), trio.open_nursery() as nursery:
        serve = partial(
            trio_websocket.serve_websocket, handler, "127.0.0.1", 0, ssl_context=ssl_context, **options
        )
        server = await nursery.start(serve)
        async with no_leak():
            yield Address("127.0.0.1", server.port)
        nursery.cancel_scope.cancel()


async def test_many_clients_of_another_library(consumer: type[Recording]) -> None:
    def talk(port: int, number: int) -> None:
        with connect(f"ws://127.0.0.1:{port}/?n={number}", max_size=None) as client:
            for message in (f"hello {number}", b"\0\xff", "é" * 100_000, b"x" * MIB, ""):
                client.send(message)
                assert client.recv(PATIENCE) == message

    async with serving(consumer) as address:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(trio.to_thread.run_sync, talk, address.port, number)
        await until(lambda: len(consumer.codes) == 20)
    assert set(consumer.codes) == {1000}
    assert {content["query_string"] for content in consumer.seen} == {b"n=%d" % each for each in range(20)}
    assert {content["client"][0] for content in consumer.seen} == {"127.0.0.1"}
    assert {tuple(content["server"]) for content in consumer.seen} == {("127.0.0.1", address.port)}
    assert {content["scheme"] for content in consumer.seen} == {"ws"}


async def test_tls(consumer: type[Recording]) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    def talk(port: int, code: int) -> None:
        with connect(f"wss://127.0.0.1:{port}/", ssl=trusting) as client:
            client.send("hello")
            assert client.recv(PATIENCE) == "hello"
            client.close(code)

    async with serving(consumer, ssl_context=context) as address:
        for code in (1000, 4001):
            await trio.to_thread.run_sync(talk, address.port, code)
        await until(lambda: len(consumer.codes) == 2)
    assert consumer.codes == [1000, 4001]
    assert {content["scheme"] for content in consumer.seen} == {"wss"}


@pytest.mark.parametrize("way", ["vanish", "reset", "vanish in a frame"])
async def test_a_client_that_goes_without_a_word_is_1006(way: str, consumer: type[Recording]) -> None:
    async with serving(consumer) as address:
        client = await RawClient.websocket(address)
        if way == "vanish in a frame":
            await client.send(frame(TEXT, "half of it")[:9])
        if way == "reset":
            client.reset()
        else:
            client.vanish()
        await until(lambda: consumer.codes)
    assert consumer.codes == [1006]


@pytest.mark.slow
async def test_a_refused_client_that_does_not_hang_up_holds_nothing(consumer: type[Recording]) -> None:
    async with serving(consumer) as address, await RawClient.connect(address) as client:
        await client.send(handshake("/nowhere"))
        assert (await client.answer()).status == 403
        assert await client.rest() == b""
    assert (consumer.codes, consumer.seen) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["the settings'", "trio-websocket's"])
async def test_a_message_that_is_too_large_is_told_so(whose: str, consumer: type[Recording]) -> None:
    """Though most of it lies unread: the close frame is not destroyed by a reset."""
    settings = Settings(max_message_size=1000 if whose == "the settings'" else 8 * MIB)

    def talk(port: int) -> int:
        with connect(f"ws://127.0.0.1:{port}/", max_size=None, close_timeout=5) as client:
            try:
                client.send("x" * 4 * MIB)
            except ConnectionClosed:
                pass  # it has come already
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(PATIENCE)
        assert closed.value.rcvd is not None, closed.value
        return int(closed.value.rcvd.code)

    limit = 8 * MIB if whose == "the settings'" else MIB
    async with serving(consumer, settings, max_message_size=limit) as address:
        assert await trio.to_thread.run_sync(talk, address.port) == 1009
        await until(lambda: consumer.codes)
    assert consumer.codes == [1009]


@pytest.mark.slow
async def test_a_client_that_does_not_read_delays_nobody(consumer: type[Recording]) -> None:
    """It is lost at its limit, though trio-websocket's writer is blocked and its closing would wait for ever."""
    settings = Settings(outbox_limit=64 * 1024, close_timeout=1)
    async with serving(consumer, settings) as address:
        stalled = await RawClient.websocket(address, receive_buffer=4096)
        async with await RawClient.websocket(address) as other:
            while not consumer.codes:
                await Group("everyone").send({"text": "x" * 100_000})
                assert await other.message() == "x" * 100_000
            assert consumer.codes == [1013]
            await other.send(close_frame())
            assert await other.closing() == (1000, "")
            assert await other.rest() == b""
        stalled.vanish()
        await until(lambda: len(consumer.codes) == 2)
    assert consumer.codes == [1013, 1000]

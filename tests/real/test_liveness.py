"""A peer is judged by what it does, not by the clock alone: something in the program keeps the loop for longer than a
time-out, and what the peers sent in time lies unread.

Clients run in a loop and a thread of their own, so that they are not kept.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio_websocket
from raw_clients import BINARY, CLOSE, PING, PONG, TEXT, RawClient, close_frame, frame, handshake, no_leak
from socket_client import make_contexts
from starvation import unless_starved

import triochan
from triochan import Application, Message, Settings, route, route_class
from triochan.doors.trio_websocket import handle, running
from triochan.generic.websockets import WebsocketConsumer
from triochan.http import text as text_response
from triochan.test.client import HOST
from triochan.wire.deflate import Agreement, compress
from triochan.wire.listeners import Address

PEERS = 20
TIMEOUT = 0.6
KEPT = 1.5
"""Seconds that the loop is kept."""
SETTINGS = Settings(
    ping_interval=0.5,
    ping_timeout=TIMEOUT,
    head_timeout=TIMEOUT,
    body_timeout=TIMEOUT,
    keep_alive_timeout=TIMEOUT,
    write_timeout=TIMEOUT,
    close_timeout=TIMEOUT,
    stall_timeout=TIMEOUT,
    inbox_limit=2,
    max_overlap=1,
    outbox_limit=64 * 1024,
    max_message_size=4 * 1024 * 1024,
)
LARGE = b"x" * 8_000_000


class Keeping(WebsocketConsumer):
    compression = True
    kept: threading.Event
    codes: list[tuple[int, str]]

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        if text == "keep the loop":
            self.kept.set()
            time.sleep(KEPT)  # noqa: ASYNC251 - what a program should not do
        elif text == "wait":
            await trio.sleep(0.02)
        elif text == "wait long":
            await trio.sleep(TIMEOUT / 2)
        elif text == "close":
            await self.close(4000)
        elif text == "large":
            await self.send(bytes=LARGE)
        elif text is not None and len(text) < 100:
            await self.send(text=text)

    async def disconnect(self, message: Message, **kwargs: Any) -> None:
        self.codes.append((message["code"], message["reason"]))


async def echo_body(message: Message) -> None:
    await message.reply_channel.send(text_response(message["body"].decode() or "hello"))


async def large(message: Message) -> None:
    await message.reply_channel.send({"status": 200, "content": LARGE})


class Place:
    """A server, and what its consumers tell.

    Attributes:
        address: where it listens.
        context: the client's, for TLS.
        kept: the loop is kept from now on.
        codes: how WebSockets ended.
    """

    def __init__(self, address: Address, context: ssl.SSLContext | None, consumer: type[Keeping]) -> None:
        self.address = address
        self.context = context
        self.kept = consumer.kept
        self.codes = consumer.codes

    async def connect(self) -> RawClient:
        """Within the client's loop."""
        client = await RawClient.connect(self.address, receive_buffer=256 * 1024)
        if self.context is not None:
            client.stream = trio.SSLStream(
                client.stream, self.context, server_hostname=HOST, https_compatible=True
            )
        return client

    async def websocket(self) -> RawClient:
        client = await self.connect()
        await client.send(handshake("/", ["Sec-WebSocket-Extensions: permessage-deflate"]))
        assert (await client.head()).status == 101
        return client

    async def until_kept(self) -> None:
        while not self.kept.is_set():  # noqa: ASYNC110 - it is set in another thread
            await trio.sleep(0.005)
        await trio.sleep(0.1)

    async def keep(self) -> None:
        async with await self.websocket() as client:
            await client.send(frame(TEXT, "keep the loop"))
            await self.until_kept()


CONTEXTS = make_contexts()


@asynccontextmanager
async def serving(way: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    class Consumer(Keeping):
        kept = threading.Event()
        codes = []

    tls = "TLS" in way
    application = Application(
        [
            route_class(Consumer, path="^/$"),
            route("http.request", large, path="^/large$"),
            route("http.request", echo_body),
        ]
    )
    if "without epoll" in way:
        monkeypatch.setattr("triochan.readers.has_epoll", lambda: False)
    context = CONTEXTS[0] if tls else None
    trust = CONTEXTS[1] if tls else None
    if "door" in way:

        async def handler(request: trio_websocket.WebSocketRequest) -> None:
            await handle(request, application)

        async with running(application, settings=SETTINGS), trio.open_nursery() as door:
            serve = partial(trio_websocket.serve_websocket, handler, "127.0.0.1", 0, ssl_context=context)
            server = await door.start(serve)
            yield Place(Address("127.0.0.1", server.port), trust, Consumer)
            door.cancel_scope.cancel()
    else:
        async with trio.open_nursery() as nursery:
            start = partial(triochan.serve, application, port=0, settings=SETTINGS, ssl_context=context)
            [address] = await nursery.start(start)
            async with no_leak():
                yield Place(address, trust, Consumer)
            nursery.cancel_scope.cancel()


async def all_at_once(place: Place, one: Callable[[Place], Awaitable[None]], count: int = PEERS) -> None:
    """Run so many clients, and another one that lets the loop be kept when all of them are where they wait for that."""

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one, place)
            await trio.sleep(0.75)  # the pings have come, and no time-out is over
            await place.keep()

    with trio.fail_after(20):
        await trio.to_thread.run_sync(trio.run, run)


def compressed(data: bytes) -> bytes:
    return frame(TEXT, compress(data, Agreement()), reserved=4)


SENT: dict[str, Callable[[bytes], bytes]] = {
    "a pong": lambda ping: frame(PONG, ping),
    "a pong behind a message whose handler waits": lambda ping: frame(TEXT, "wait") + frame(PONG, ping),
    "a pong within a message": lambda ping: frame(TEXT, "a", final=False) + frame(PONG, ping) + frame(0, "b"),
    "a fragment": lambda ping: frame(BINARY, "a", final=False),
    "a part of a frame": lambda ping: frame(BINARY, b"x" * 60_000)[:20_000],
    "a compressed message": lambda ping: compressed(b"wait " * 100),
    "a part of a header": lambda ping: b"\x82",
}
REST = {
    "a fragment": frame(0, "b"),
    "a part of a frame": frame(BINARY, b"x" * 60_000)[20_000:],
    "a part of a header": frame(BINARY, b"x")[1:],
}
WAYS = ["TCP", "TLS", "TCP without epoll", "TLS without epoll", "the door", "the door over TLS"]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@unless_starved(TIMEOUT / 4)
async def test_pongs_that_lie_unread_count(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [
        kind
        for kind in SENT
        # trio-websocket has no compression here, and tells its door of whole messages only.
        if "door" not in way or kind in ("a pong", "a pong behind a message whose handler waits")
    ]
    started: list[str] = []
    alive: list[str] = []

    async def peer(place: Place) -> None:
        kind = kinds[len(started) % len(kinds)]
        started.append(kind)
        async with await place.websocket() as client:
            opcode, ping = await client.frame()
            assert opcode == PING
            await place.until_kept()
            await client.send(SENT[kind](ping))
            await trio.sleep(KEPT)
            await client.send(REST.get(kind, b"") + frame(TEXT, "still there"))
            while (came := await client.frame()) != (TEXT, b"still there"):
                assert came[0] != CLOSE
                if came[0] == PING:
                    await client.send(frame(PONG, came[1]))
            alive.append(kind)
            await client.send(close_frame())

    async with serving(way, monkeypatch) as place:
        await all_at_once(place, peer)
        assert sorted(alive) == sorted(started)
        assert "no pong came" not in [reason for _, reason in place.codes]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["TCP", "TLS"])
@unless_starved(TIMEOUT / 4)
async def test_a_ping_behind_much_that_the_peer_reads_slowly(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the outbox, and for longer in the system's buffers: the client reads all the while, and comes to it late."""
    async with serving(way, monkeypatch) as place, await place.connect() as client:
        await client.send(handshake("/"))  # without compression
        assert (await client.head()).status == 101
        await client.send(frame(TEXT, "large"))
        begun, read, size = trio.current_time(), 0, len(LARGE) + 10  # its header
        received = bytearray()
        while read < size:
            some = await client.stream.receive_some(100_000)
            assert some, (read, place.codes)
            read += len(some)
            received = (received + some)[-200_000:]
            await trio.sleep_until(begun + read / 4e6)
        assert trio.current_time() - begun > 1.9
        client.buffer = received[len(received) - (read - size) :]
        while (came := await client.frame()) != (TEXT, b"still there"):
            assert came[0] == PING, came
            await client.send(frame(PONG, came[1]) + frame(TEXT, "still there"))
    assert "no pong came" not in [reason for _, reason in place.codes]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["TCP", "TLS"])
@unless_starved(TIMEOUT / 4)
async def test_a_frame_that_comes_slowly(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = frame(BINARY, b"x" * 20_000)
    async with serving(way, monkeypatch) as place, await place.websocket() as client:
        for start in range(0, len(data), 1000):
            await client.send(data[start : start + 1000])
            await trio.sleep(0.1)
        await client.send(frame(TEXT, "still there"))
        while (came := await client.frame()) != (TEXT, b"still there"):
            assert came[0] == PING, came
            await client.send(frame(PONG, came[1]))
    assert "no pong came" not in [reason for _, reason in place.codes]


async def finish_head(place: Place) -> None:
    await trio.sleep(0.4)
    async with await place.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        await place.until_kept()
        await client.send(b"\r\n")
        assert (await client.answer()).status == 200


async def begin_head(place: Place) -> None:
    await trio.sleep(0.4)
    async with await place.connect() as client:
        await place.until_kept()
        await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await client.answer()).status == 200


async def finish_body(place: Place) -> None:
    await trio.sleep(0.4)
    async with await place.connect() as client:
        await client.send(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200001\r\n\r\n" + b"x" * 100
        )
        await place.until_kept()
        await client.send(b"x" * 199_901)
        assert (await client.answer()).status == 200


async def finish_chunks(place: Place) -> None:
    await trio.sleep(0.4)
    async with await place.connect() as client:
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(head + b"1\r\nx\r\n1")
        await place.until_kept()
        await client.send(b"\r\nx\r\n0\r\n\r\n")
        assert (await client.answer()).status == 200


async def go_on(place: Place) -> None:
    await trio.sleep(0.4)
    async with await place.connect() as client:
        for _ in range(2):
            await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await client.answer()).status == 200
            await place.until_kept()


async def open_a_websocket(place: Place) -> None:
    await trio.sleep(0.4)
    async with await place.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await client.answer()).status == 200
        await place.until_kept()
        await client.send(handshake("/"))
        assert (await client.head()).status == 101


async def read_late(place: Place) -> None:
    await trio.sleep(0.3)
    async with await place.connect() as client:
        await client.send(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await place.until_kept()
        answer = await client.answer()
        assert answer.status == 200
        assert len(answer.body) == len(LARGE)


async def answer_a_close(place: Place) -> None:
    async with await place.websocket() as client:
        await trio.sleep(0.4)
        await client.send(frame(TEXT, "close"))
        while (came := await client.frame())[0] != CLOSE:
            pass
        await place.until_kept()
        await client.send(frame(TEXT, "not looked at") + close_frame(4000))
        assert await client.rest() == b""  # an end, and no reset
        assert came[0] == CLOSE


async def wait_with_a_full_inbox(place: Place) -> None:
    async with await place.websocket() as client:
        await trio.sleep(0.55)
        await client.send(frame(TEXT, "wait long") + frame(TEXT, "wait") * 5 + frame(TEXT, "done"))
        while (came := await client.frame()) != (TEXT, b"done"):
            assert came[0] == PING, came
            await client.send(frame(PONG, came[1]))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS[:4])
@unless_starved(TIMEOUT / 4)
async def test_what_a_client_did_in_time_counts(
    way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests and responses, a close that is answered, an inbox that is full for no fault of its handlers."""
    clients = [
        begin_head, finish_head, finish_body, finish_chunks, go_on, open_a_websocket, read_late, answer_a_close,
        wait_with_a_full_inbox,
    ]  # fmt: skip
    remaining = clients * 2
    failed: list[str] = []

    async def peer(place: Place) -> None:
        client = remaining.pop()
        try:
            await client(place)
        except Exception as error:  # noqa: BLE001 - all of those that fail are told
            failed.append(f"{client.__name__}: {error!r}")

    async with serving(way, monkeypatch) as place:
        await all_at_once(place, peer, len(remaining))
    assert failed == []
    assert not [record for record in caplog.records if record.levelname == "ERROR"]

"""HTTP/1.1 over memory streams, in virtual time: what a connection carries, and what it does not wait for."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trustme
from raw_clients import TEXT, RawClient, frame, handshake
from recorder import nothing_left
from trio.testing import MockClock, wait_all_tasks_blocked

from triochan import Application, Channel, Message, Settings, route
from triochan.exceptions import ConnectionClosed
from triochan.generic.websockets import WebsocketConsumer
from triochan.http import LATER, HttpError, text
from triochan.http1.protocol import FULL
from triochan.http1.serving import serve_connection, serve_stream
from triochan.layers import MemoryLayer
from triochan.runtime import Runtime
from triochan.test import Client
from triochan.websocket.connection import LINGER_SECONDS
from triochan.wire.listeners import start_tls
from triochan.wire.poller import has_epoll
from triochan.wire.tls import TlsSocket
from triochan.wire.transport import SocketTransport


async def echo(message: Message) -> None:
    await message.reply_channel.send(
        text(f"{message['method']} {message['path']} {message['body'].decode()}")
    )


async def silent(message: Message) -> object:
    return LATER


async def forgetful(message: Message) -> None:
    pass


async def returning(message: Message) -> object:
    return text("returned")


async def refusing(message: Message) -> None:
    raise HttpError(418, "short and stout", [("X-Pot", "tea")])


async def refusing_in_a_nursery(message: Message) -> None:
    async with trio.open_nursery() as nursery:  # noqa: ASYNC112 - its group is what is tried
        nursery.start_soon(refusing, message)


async def returning_rubbish(message: Message) -> object:
    return "text"


async def returning_twice(message: Message) -> object:
    await message.reply_channel.send(text("sent"))
    return text("returned")


async def slow(message: Message) -> None:
    await trio.sleep(5)
    await echo(message)


async def crash(message: Message) -> None:
    raise RuntimeError("on purpose")


async def stream(message: Message) -> None:
    channel = message.reply_channel
    await channel.send({"status": 200, "headers": [("X-Kind", "stream")], "more_content": True})
    for piece in (b"one ", b"", b"two "):
        await trio.sleep(1)
        await channel.send({"content": piece, "more_content": True})
    await channel.send({"content": b"three"})


async def stream_and_crash(message: Message) -> None:
    await message.reply_channel.send({"status": 200, "content": b"half", "more_content": True})
    raise RuntimeError("on purpose")


ROUTING = [
    route("http.request", consumer, path=f"^/{consumer.__name__}$")
    for consumer in (
        echo,
        silent,
        slow,
        crash,
        stream,
        stream_and_crash,
        forgetful,
        returning,
        refusing,
        refusing_in_a_nursery,
        returning_rubbish,
        returning_twice,
    )
]


@asynccontextmanager
async def talking(**settings: Any) -> AsyncIterator[tuple[RawClient, Client]]:
    async with Client(ROUTING, settings=Settings(**settings)) as client:
        async with RawClient(client.connect()) as raw:
            raw.patience = 1000
            yield raw, client


def request(target: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: testserver", *headers, "", ""]).encode()


async def test_one_request_after_another(autojump_clock: MockClock) -> None:
    async with talking() as (raw, _):
        for number in range(3):
            await raw.send(request(f"/echo?{number}"))
            answer = await raw.answer()
            assert (answer.status, answer.body) == (200, b"GET /echo ")
            assert (answer["server"], "connection" in answer) == ("triochan", False)
        await raw.send(request("/nothing"))
        assert (await raw.answer()).status == 404
        await raw.send(request("/echo", "Connection: close"))
        answer = await raw.answer()
        assert answer["connection"] == "close"
        assert await raw.rest() == b""


async def test_requests_that_do_not_wait_for_answers(autojump_clock: MockClock) -> None:
    async with talking() as (raw, _):
        body = request("/echo", "Content-Length: 4", method="POST") + b"body"
        await raw.send(request("/slow") + body + request("/stream") + request("/echo", "Connection: close"))
        bodies = [(await raw.answer()).body for _ in range(4)]
        assert bodies == [b"GET /slow ", b"POST /echo body", b"one two three", b"GET /echo "]
        assert await raw.rest() == b""


@pytest.mark.parametrize(("path", "length"), [("/echo", "11"), ("/stream", None), ("/nothing", "10")])
async def test_head_has_no_body(path: str, length: str | None, autojump_clock: MockClock) -> None:
    async with talking() as (raw, _):
        await raw.send(request(path, method="HEAD") + request("/echo"))
        answer = await raw.answer(bodiless=True)
        assert dict(answer.headers).get("content-length") == length
        assert (await raw.answer()).body == b"GET /echo "


async def test_a_client_that_asks_before_it_sends_its_body(autojump_clock: MockClock) -> None:
    async with talking() as (raw, _):
        await raw.send(request("/echo", "Expect: 100-continue", "Content-Length: 4", method="POST"))
        assert (await raw.head()).status == 100
        await raw.send(b"body")
        assert (await raw.answer()).body == b"POST /echo body"
        await raw.send(request("/echo", "Expect: 100-continue", "Content-Length: 2000000", method="POST"))
        assert (await raw.answer()).status == 413  # and it is not asked for the body


async def test_chunks_both_ways(autojump_clock: MockClock) -> None:
    async with talking() as (raw, _):
        await raw.send(request("/echo", "Transfer-Encoding: chunked", method="POST"))
        for piece in (b"2\r\nto", b"\r\n4\r\ngeth\r\n", b"2\r\ner\r\n0\r\n\r\n"):
            await raw.send(piece)
        assert (await raw.answer()).body == b"POST /echo together"
        await raw.send(request("/stream"))
        head = await raw.head()
        assert (head["transfer-encoding"], head["x-kind"]) == ("chunked", "stream")
        began = trio.current_time()
        for chunk, at in ((b"4\r\none \r\n", 1), (b"4\r\ntwo \r\n", 3), (b"5\r\nthree\r\n0\r\n\r\n", 3)):
            assert await raw.take(len(chunk)) == chunk
            assert trio.current_time() - began == at


async def test_an_old_client_has_the_stream_to_its_end(autojump_clock: MockClock) -> None:
    async with talking() as (raw, _):
        await raw.send(request("/stream", version="1.0"))
        assert (await raw.answer()).body == b"one two three"


async def test_a_stream_that_breaks_off_does_not_look_complete(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with talking() as (raw, _):
        await raw.send(request("/stream_and_crash"))
        await raw.head()
        assert await raw.rest() == b"4\r\nhalf\r\n"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_crash_is_500_and_the_next_request_is_served(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with talking() as (raw, _):
        await raw.send(request("/crash") + request("/echo"))
        assert (await raw.answer()).status == 500
        assert (await raw.answer()).status == 200
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_no_answer_in_time_is_503(autojump_clock: MockClock) -> None:
    async with talking(response_timeout=7) as (raw, _):
        began = trio.current_time()
        await raw.send(request("/silent"))
        assert (await raw.answer()).status == 503
        assert trio.current_time() - began == 7
        await raw.send(request("/slow"))  # the time counts from the consumer's return
        assert (await raw.answer()).status == 200


@pytest.mark.parametrize("begins", ["before it returns", "after it"])
async def test_what_has_begun_may_take_its_time(begins: str, autojump_clock: MockClock) -> None:
    """An event stream, say, that another task or a group feeds: ``response_timeout`` is for the beginning."""
    begin = {"status": 200, "content": b"0", "more_content": True}

    async def stream(channel: Any) -> None:
        if begins == "after it":
            await channel.send(begin)
        for _ in range(3):
            await trio.sleep(100)
            await channel.send({"content": b".", "more_content": True})
        await channel.send({})

    async def consumer(message: Message) -> object:
        if begins == "before it returns":
            await message.reply_channel.send(begin)
        message.application.nursery.start_soon(stream, message.reply_channel)
        return LATER

    async with Client([route("http.request", consumer)], settings=Settings(response_timeout=60)) as client:
        assert (await client.get("/")).body == b"0..."


@pytest.mark.parametrize(
    ("path", "status", "body", "logged"),
    [
        ("/returning", 200, b"returned", None),
        ("/refusing", 418, b"short and stout", None),
        ("/refusing_in_a_nursery", 418, b"short and stout", None),
        (
            "/forgetful",
            500,
            b"Internal Server Error\n",
            "forgetful returned without an answer to http.request on '/forgetful'",
        ),
        (
            "/returning_rubbish",
            500,
            b"Internal Server Error\n",
            "a consumer of http.request returns a response",
        ),
        ("/returning_twice", 200, b"sent", "the response is complete"),
    ],
)
async def test_what_a_consumer_returns_or_raises_is_its_answer(
    path: str, status: int, body: bytes, logged: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with talking() as (raw, _):
        for _ in range(2):  # the connection goes on
            await raw.send(request(path))
            answer = await raw.answer()
            assert (answer.status, answer.body) == (status, body)
    assert (logged is None) == (not caplog.records)
    if logged is not None:
        assert logged in caplog.text


async def method(message: Message) -> object:
    return text(message["method"])


METHODS = [
    route("http.request", method, path="^/get$", method="^GET$"),
    route("http.request", method, path="^/both$", method="^(?:PUT|DELETE)$"),
    route("http.request", method, path="^/head$", method="^HEAD$"),
    route("http.request", method, path="^/any$"),
]


@pytest.mark.parametrize(
    ("asked", "path", "status", "allow"),
    [
        ("GET", "/get", 200, None),
        ("HEAD", "/get", 200, None),
        ("POST", "/get", 405, "GET, HEAD, OPTIONS"),
        ("BREW", "/get", 405, "GET, HEAD, OPTIONS"),
        ("OPTIONS", "/get", 200, "GET, HEAD, OPTIONS"),
        ("GET", "/both", 405, "PUT, DELETE, OPTIONS"),
        ("HEAD", "/both", 405, "PUT, DELETE, OPTIONS"),
        ("GET", "/head", 405, "HEAD, OPTIONS"),
        ("OPTIONS", "/any", 200, None),
        ("GET", "/nowhere", 404, None),
        ("OPTIONS", "/nowhere", 404, None),
    ],
)
@pytest.mark.rfc("9110", "15.5.6", "MUST send Allow with 405")
async def test_another_method_is_405(asked: str, path: str, status: int, allow: str | None) -> None:
    async with Client(METHODS) as client, RawClient(client.connect()) as raw:
        await raw.send(request(path, method=asked))
        if asked == "HEAD":
            head = await raw.head()
            assert (head.status, dict(head.headers).get("allow")) == (status, allow)
        else:
            answer = await raw.answer()
            assert (answer.status, dict(answer.headers).get("allow")) == (status, allow)


async def test_why_nobody_takes_it_is_told_where_debugging_is_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "triochan.server")
    async with Client(METHODS) as client:
        assert (await client.get("/nowhere")).status == 404
        assert (await client.post("/get")).status == 405
    told = [each.getMessage() for each in caplog.records]
    assert len(told) == 2
    assert told[0].startswith(
        "404 for GET /nowhere on http.request: http.request path=^/get$ method=^GET$ → "
    )
    assert told[0].count("path is '/nowhere'") == 4
    assert told[1].startswith("405 for POST /get on http.request: ")
    assert "method is 'POST'" in told[1]


async def test_a_consumer_that_takes_too_long_is_500(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with talking(handler_timeout=2) as (raw, _):
        began = trio.current_time()
        await raw.send(request("/slow"))
        assert (await raw.answer()).status == 500
        assert trio.current_time() - began == 2
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("began", [b"", b"GET /echo HT"])
async def test_a_head_that_does_not_come(began: bytes, autojump_clock: MockClock) -> None:
    async with talking(head_timeout=3) as (raw, _):
        start = trio.current_time()
        if began:
            await raw.send(began)
        assert (await raw.answer()).status == 408
        assert trio.current_time() - start == 3
        assert await raw.rest() == b""


async def test_an_idle_connection_is_closed_without_a_word(autojump_clock: MockClock) -> None:
    async with talking(keep_alive_timeout=20, head_timeout=3) as (raw, _):
        await raw.send(request("/echo"))
        await raw.answer()
        await trio.sleep(19)
        start = trio.current_time()
        await raw.send(b"GET")  # from here on it is a head that does not come
        assert (await raw.answer()).status == 408
        assert trio.current_time() - start == 3
    async with talking(keep_alive_timeout=20) as (raw, client):
        await raw.send(request("/echo"))
        await raw.answer()
        start = trio.current_time()
        assert await raw.rest() == b""
        assert (
            trio.current_time() - start == 20 + LINGER_SECONDS
        )  # a stream's end can't be said before it is closed
        await raw.stream.aclose()
        await nothing_left(client)


async def test_a_body_that_does_not_come(autojump_clock: MockClock) -> None:
    async with talking(body_timeout=4) as (raw, _):
        start = trio.current_time()
        await raw.send(request("/echo", "Content-Length: 4", method="POST") + b"bod")
        assert (await raw.answer()).status == 408
        assert trio.current_time() - start == 4


async def test_a_client_that_goes_ends_its_consumer(autojump_clock: MockClock) -> None:
    ended: list[float] = []

    async def wait(message: Message) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    async with Client([route("http.request", wait)], settings=Settings(disconnect_timeout=6)) as client:
        raw = RawClient(client.connect())
        await raw.send(request("/"))
        await wait_all_tasks_blocked()
        start = trio.current_time()
        await trio.aclose_forcefully(raw.stream)
        await trio.sleep(7)
        assert ended == [start + 6]
        assert not client.runtime.layer._endpoints


async def test_a_drain_closes_who_idles_and_lets_the_rest_finish(autojump_clock: MockClock) -> None:
    async with talking(close_timeout=3) as (raw, client):
        others = [RawClient(client.connect()) for _ in range(4)]
        fresh, idle, half, body = others
        for each in others:
            each.patience = 1000
        await idle.send(request("/echo"))
        await idle.answer()
        await half.send(request("/echo")[:-2])
        await body.send(request("/echo", "Content-Length: 4", method="POST"))
        await raw.send(request("/slow") + request("/echo"))
        await wait_all_tasks_blocked()
        client.runtime.draining = True
        for connection in list(client.runtime.http):
            connection.drain()
            connection.drain()
        for each in (fresh, idle):
            assert await each.rest() == b""
        await half.send(b"\r\n")  # it has close_timeout
        answer = await half.answer()
        assert (answer.status, answer["connection"]) == (200, "close")
        assert await half.rest() == b""
        assert (await body.answer()).status == 408  # and this one lets it pass
        answer = await raw.answer()
        assert (answer.body, answer["connection"]) == (b"GET /slow ", "close")
        assert await raw.rest() == b""  # the second is not begun
        assert trio.current_time() == 5 + LINGER_SECONDS


async def test_a_full_server_says_so(autojump_clock: MockClock) -> None:
    async with Client(ROUTING) as client:
        ours, theirs = trio.testing.memory_stream_pair()
        client._nursery.start_soon(partial(serve_stream, theirs, client.runtime, refusal=FULL))
        async with RawClient(ours) as raw:
            answer = await raw.answer()
            assert (answer.status, answer["retry-after"]) == (503, "5")
            await raw.send(request("/echo"))
            assert await raw.rest() == b""
        await nothing_left(client)


# -- who answers


@pytest.mark.parametrize("waits", [False, True])
async def test_another_task_may_answer(waits: bool, autojump_clock: MockClock) -> None:
    channels: list[Any] = []

    async def leave(message: Message) -> object:
        if waits:
            await trio.sleep(1)
        channels.append(message.reply_channel)
        return LATER

    async with Client([route("http.request", leave)]) as client, RawClient(client.connect()) as raw:
        raw.patience = 1000
        await raw.send(request("/one") + request("/two"))
        for number in range(2):
            await trio.sleep(3)
            assert len(channels) == number + 1  # the second is not begun before the first is answered
            await channels[number].send(
                {
                    "status": 200,
                    "content": b"%d" % number,
                    "headers": [("Content-Length", "5")],
                    "more_content": True,
                }
            )
            await trio.sleep(3)
            await channels[number].send({"content": b"more"})
            assert (await raw.answer()).body == b"%dmore" % number
        with pytest.raises((ValueError, ConnectionClosed)):
            await channels[0].send({"content": b"late"})


async def test_a_named_channels_consumer_may_answer(autojump_clock: MockClock) -> None:
    async def hand_on(message: Message) -> None:
        await Channel("jobs").send({"reply_channel": message.reply_channel, "body": message["body"]})

    async def work(message: Message) -> None:
        await trio.sleep(2)
        await message.reply_channel.send(text(f"did {message['body'].decode()}"))

    routing = [route("http.request", hand_on), route("jobs", work)]
    async with Client(routing) as client, RawClient(client.connect()) as raw:
        raw.patience = 1000
        for number in range(2):
            await raw.send(request("/", "Content-Length: 1", method="POST") + b"%d" % number)
            assert (await raw.answer()).body == b"did %d" % number


async def test_a_consumer_that_goes_on_behind_its_answer_holds_the_next_request(
    autojump_clock: MockClock,
) -> None:
    began: list[float] = []

    async def linger(message: Message) -> None:
        began.append(trio.current_time())
        await message.reply_channel.send(text("there"))
        await trio.sleep(5)

    async with Client([route("http.request", linger)]) as client, RawClient(client.connect()) as raw:
        await raw.send(request("/") * 2)
        for _ in range(2):
            assert (await raw.answer()).body == b"there"
        assert began == [0, 5]


async def test_a_route_that_raises_is_500(caplog: pytest.LogCaptureFixture) -> None:
    class Picky:
        def match(self, message: Message) -> Any:
            raise KeyError("picky")

        def channel_names(self) -> set[str]:
            return {"http.request"}

    async with Client([Picky()]) as client, RawClient(client.connect()) as raw:
        for _ in range(2):
            await raw.send(request("/"))
            assert (await raw.answer()).status == 500
    assert len(caplog.records) == 2


async def test_many_requests_at_once_leave_others_their_turn(autojump_clock: MockClock) -> None:
    seen: list[str] = []

    async def note(message: Message) -> None:
        seen.append(message["path"])
        await message.reply_channel.send(text(""))

    async with Client([route("http.request", note)]) as client:
        async with RawClient(client.connect()) as busy, RawClient(client.connect()) as other:
            await busy.send(request("/busy") * 100)
            await other.send(request("/other"))
            for _ in range(100):
                await busy.answer()
            await other.answer()
    assert seen.count("/busy") == 100
    assert seen.index("/other") < 100


# -- responses that break off


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(
    "first",
    [{"headers": [("Content-Length", "100")]}, {}],
    ids=["length", "chunked"],
)
@pytest.mark.parametrize("how", ["raises", "too long", "no room", "not a reply"])
async def test_a_broken_off_response_is_not_whole(
    first: dict[str, Any],
    how: str,
    waits: bool,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    async def begin(message: Message) -> None:
        channel = message.reply_channel
        await channel.send({"status": 200, "content": b"half", "more_content": True, **first})
        if waits:
            await trio.sleep(1)
        if how == "raises":
            raise RuntimeError("on purpose")
        if how == "too long":
            await trio.sleep_forever()
        if how == "no room":
            await channel.send({"content": b"x" * 200 if first else b"", "more_content": False})
            raise RuntimeError("on purpose")
        with pytest.raises(ValueError):
            await channel.send({"status": 200})  # the caller's to handle
        raise KeyError("on purpose")

    settings = Settings(handler_timeout=5)
    async with Client([route("http.request", begin)], settings=settings) as client:
        async with RawClient(client.connect()) as raw:
            await raw.send(request("/", "Connection: close"))
            head = await raw.head()
            rest = await raw.rest()
            if how == "no room" and not first:
                assert rest == b"4\r\nhalf\r\n0\r\n\r\n"  # it was complete before the crash
            elif first:
                assert rest == b"half"
                assert head["content-length"] == "100"
            else:
                assert rest == b"4\r\nhalf\r\n"
        await nothing_left(client)
    assert [record.levelno for record in caplog.records].count(logging.ERROR) >= 1


# -- over sockets: what memory streams do not have


needs_epoll = pytest.mark.skipif(not has_epoll(), reason="this system has no epoll")


class Served:
    """A runtime, and connections over pairs of sockets."""

    def __init__(self, runtime: Runtime, nursery: trio.Nursery, tls: bool) -> None:
        self.runtime = runtime
        self._nursery = nursery
        self._contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
        if tls:
            authority = trustme.CA()
            self._contexts = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
            authority.issue_cert("localhost").configure_cert(self._contexts[0])
            authority.configure_trust(self._contexts[1])
        self.numbers: list[int] = []
        self.ended = 0
        self._one_ended = trio.lowlevel.ParkingLot()

    async def connect(self, buffer: int = 20_000) -> RawClient:
        """A client over a pair of Unix sockets that hold about ``buffer`` bytes."""
        ours, theirs = socket.socketpair()
        for each in (ours, theirs):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        return await self._over(ours, theirs)

    async def connect_tcp(self) -> RawClient:
        with socket.socket() as listener, trio.fail_after(5):
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            theirs = trio.socket.socket()
            await theirs.connect(listener.getsockname())
            ours, _ = listener.accept()
        return await self._over(ours, socket.socket(fileno=theirs.detach()))

    async def _over(self, ours: socket.socket, theirs: socket.socket) -> RawClient:
        ours.setblocking(False)
        stream: trio.abc.Stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        if self._contexts is None:
            self._nursery.start_soon(self._serve, ours)
        else:
            secure = trio.SSLStream(stream, self._contexts[1], server_hostname="localhost")
            stream = secure
            async with trio.open_nursery() as nursery:
                nursery.start_soon(secure.do_handshake)
                secured = await start_tls(ours, self._contexts[0])
            self._nursery.start_soon(self._serve, secured)
        return RawClient(stream)

    async def _serve(self, sock: socket.socket | TlsSocket) -> None:
        poller = self.runtime.readers.poller
        assert poller is not None
        self.numbers.append(sock.fileno())
        try:
            await serve_connection(lambda source: SocketTransport(sock, poller, source), self.runtime)
        finally:
            assert sock.fileno() == -1
            self.ended += 1
            self._one_ended.unpark_all()

    async def all_ended(self) -> None:
        with trio.fail_after(5):
            while self.ended < len(self.numbers):
                await self._one_ended.park()
        assert not self.runtime.http
        assert not self.runtime.timers.pending
        assert not self.runtime.readers.poller.sources  # type: ignore[union-attr]
        assert not self.runtime.layer._endpoints


@asynccontextmanager
async def served(routing: Any, tls: bool = False, **settings: Any) -> AsyncIterator[Served]:
    async with Runtime.open(Application(routing), Settings(**settings), MemoryLayer()) as runtime:
        async with runtime.serving():
            async with trio.open_nursery() as nursery:
                yield Served(runtime, nursery, tls)
                nursery.cancel_scope.cancel()


async def half_close(raw: RawClient) -> None:
    """The client sends no more, and still listens."""
    stream = raw.stream
    if isinstance(stream, trio.SSLStream):
        # What SSLStream does not offer: its close_notify, and the end of what is sent below it.
        with pytest.raises(ssl.SSLWantReadError):
            stream._ssl_object.unwrap()
        await stream.transport_stream.send_all(stream._outgoing.read())
        stream = stream.transport_stream
    assert isinstance(stream, trio.SocketStream)
    await stream.send_eof()


def gone(raw: RawClient) -> None:
    stream = raw.stream
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    assert isinstance(stream, trio.SocketStream)
    stream.socket.close()


both = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
LARGE = bytes(range(256)) * 8192


async def large(message: Message) -> None:
    await message.reply_channel.send({"status": 200, "content": LARGE})


async def forever(message: Message) -> None:
    await trio.sleep_forever()


@needs_epoll
@both
@pytest.mark.parametrize("behind", [0, 100_000, 1_000_000])
@pytest.mark.parametrize("writes", [False, True])
async def test_a_client_that_goes_leaves_nothing_however_much_it_sent(
    tls: bool, behind: int, writes: bool
) -> None:
    ended: list[bool] = []

    async def wait(message: Message) -> None:
        try:
            if writes:
                await message.reply_channel.send({"status": 200, "content": b"begun", "more_content": True})
            await trio.sleep_forever()
        finally:
            ended.append(True)

    async with served([route("http.request", wait)], tls, disconnect_timeout=0.05) as server:
        raw = await server.connect(1_100_000)
        await raw.send(request("/"))
        with trio.move_on_after(0.1):
            await raw.send(b"x" * behind)
        await trio.sleep(0.02)
        assert (server.ended, ended) == (0, [])
        gone(raw)
        await server.all_ended()
        assert ended == [True]


@needs_epoll
@both
async def test_who_only_listens_gets_its_answer_whole(tls: bool) -> None:
    async def later(message: Message) -> None:
        await trio.sleep(0.05)
        await large(message)

    routing = [route("http.request", large, path="^/large"), route("http.request", later, path="^/later")]
    async with served(routing, tls) as server:
        for path in ("/large", "/later"):
            for close in ("keep-alive", "close"):
                raw = await server.connect()
                await raw.send(request(path, f"Connection: {close}"))
                await half_close(raw)
                await trio.sleep(0.1)
                assert (await raw.answer()).body == LARGE
                if not tls:  # Trio's stream does not know of the half that it has closed
                    assert await raw.rest() == b""
                gone(raw)
        await server.all_ended()


@needs_epoll
@both
async def test_who_only_listens_costs_no_turns_meanwhile(tls: bool) -> None:
    async with served([route("http.request", forever)], tls, disconnect_timeout=0.3) as server:
        raw = await server.connect()
        await raw.send(request("/"))
        await half_close(raw)
        steps: list[None] = []
        step = server.runtime.readers._step

        def count(*where: Any) -> Any:
            steps.append(None)
            return step(*where)

        server.runtime.readers._step = count  # type: ignore[assignment]
        await trio.sleep(0.2)
        assert len(steps) < 20
        assert (await raw.answer()).status == 500
        gone(raw)
        await server.all_ended()


@needs_epoll
async def test_who_asks_and_does_not_read_is_not_asked_for_more() -> None:
    """Pipelined requests that nobody's consumer slows down: what waits for the client stays small."""
    async with served([route("http.request", large, path="^/large$")], write_timeout=0.3) as server:
        raw = await server.connect()
        sent = 0
        with trio.move_on_after(5), pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            while True:
                await raw.stream.send_all(request("/nothing") * 100)
                sent += 100
                connection: Any
                for connection in server.runtime.http:
                    assert connection.outbox.size < 100_000
                    assert connection._parser.buffered < 200_000
        assert sent < 10_000
        gone(raw)
        await server.all_ended()


@needs_epoll
@both
async def test_pipelined_answers_come_whole_and_in_order(tls: bool) -> None:
    async with served([route("http.request", large, path="^/large"), *ROUTING], tls) as server:
        raw = await server.connect()
        await raw.send((request("/large") + request("/echo") + request("/nothing")) * 3)
        await raw.send(request("/echo", "Connection: close"))
        for _ in range(3):
            assert (await raw.answer()).body == LARGE
            assert (await raw.answer()).body == b"GET /echo "
            assert (await raw.answer()).status == 404
        assert (await raw.answer()).body == b"GET /echo "
        assert await raw.rest() == b""
        gone(raw)
        await server.all_ended()


@needs_epoll
@both
async def test_a_handshake_waits_for_the_answer_before_it(tls: bool) -> None:
    class Echo(WebsocketConsumer):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            await self.send(text="welcome")

        async def receive(self, text: Any = None, **kwargs: Any) -> None:
            await self.send(text=text)

    async with served([route("http.request", large), Echo.as_route()], tls) as server:
        raw = await server.connect()
        await raw.send(request("/large") + handshake("/") + frame(TEXT, "there"))
        await trio.sleep(0.05)
        assert (await raw.answer()).body == LARGE
        assert (await raw.head()).status == 101
        assert await raw.message() == "welcome"
        assert await raw.message() == "there"
        gone(raw)
        await server.all_ended()


@needs_epoll
@both
async def test_a_client_that_takes_nothing_is_lost(tls: bool) -> None:
    gave_up: list[type[BaseException]] = []

    async def endless(message: Message) -> None:
        try:
            await message.reply_channel.send({"status": 200, "content": LARGE, "more_content": True})
            await trio.sleep(0.5)
            await message.reply_channel.send({"content": LARGE, "more_content": True})
        except ConnectionClosed as error:
            gave_up.append(type(error))

    async with served([route("http.request", endless)], tls, write_timeout=0.1) as server:
        raw = await server.connect()
        await raw.send(request("/"))
        await server.all_ended()
        assert gave_up == [ConnectionClosed]
        gone(raw)


@needs_epoll
@both
async def test_a_slow_client_is_not(tls: bool) -> None:
    async with served([route("http.request", large)], tls, write_timeout=0.1) as server:
        raw = await server.connect()
        await raw.send(request("/"))
        began = trio.current_time()
        head = await raw.head()
        taken = b""
        while len(taken) < len(LARGE):
            if len(taken) < 400_000:
                await trio.sleep(0.03)
            taken += await raw.take(min(40_000, len(LARGE) - len(taken)))
        assert taken == LARGE
        assert head.status == 200
        assert trio.current_time() - began > 0.25
        gone(raw)
        await server.all_ended()


@needs_epoll
async def test_a_drain_lets_the_last_answer_leave() -> None:
    async with served([route("http.request", large)]) as server:
        raw = await server.connect()
        await raw.send(request("/"))
        await trio.sleep(0.02)
        connection: Any
        [connection] = server.runtime.http
        assert connection.outbox.size
        server.runtime.draining = True
        connection.drain()
        assert (await raw.answer()).body == LARGE
        gone(raw)
        await server.all_ended()


@needs_epoll
@both
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_broken_off_response_does_not_end_as_a_whole_one(tls: bool, version: str) -> None:
    async def begin(message: Message) -> None:
        await message.reply_channel.send({"status": 200, "content": b"half", "more_content": True})
        await trio.sleep(0.05)
        raise RuntimeError("on purpose")

    async with served([route("http.request", begin)], tls) as server:
        raw = await server.connect_tcp()  # pairs of Unix sockets have no resets
        await raw.send(request("/", version=version))
        await raw.head()
        data = b""
        broken = False
        try:
            while piece := await raw.stream.receive_some(1000):
                data += piece
        except trio.BrokenResourceError:
            broken = True
        assert broken or (version == "1.1" and not data.endswith(b"0\r\n\r\n"))
        gone(raw)
        await server.all_ended()


@needs_epoll
@both
async def test_requests_that_came_whole_before_the_end_are_answered(
    tls: bool,
) -> None:
    async with served([route("http.request", large, path="^/large"), *ROUTING], tls) as server:
        raw = await server.connect()
        await raw.send(request("/large") + request("/echo") * 3 + request("/large"))
        await trio.sleep(0.02)
        await half_close(raw)
        await trio.sleep(0.02)
        assert (await raw.answer()).body == LARGE
        for _ in range(3):
            assert (await raw.answer()).body == b"GET /echo "
        assert (await raw.answer()).body == LARGE
        gone(raw)
        await server.all_ended()


@needs_epoll
@pytest.mark.parametrize("first", [b"", request("/large")])
@pytest.mark.parametrize(
    "half", [b"GET / HT", request("/", "Content-Length: 5", method="POST") + b"1"], ids=["head", "body"]
)
async def test_a_request_that_ends_half_way(first: bytes, half: bytes) -> None:
    async with served([route("http.request", large)]) as server:
        raw = await server.connect()
        await raw.send(first + half)
        await trio.sleep(0.02)
        await half_close(raw)
        await trio.sleep(0.02)
        if first:
            assert (await raw.answer()).body == LARGE
        assert (await raw.answer()).status == 400
        assert await raw.rest() == b""
        gone(raw)
        await server.all_ended()


@needs_epoll
@pytest.mark.parametrize("first", [b"", request("/large")])
async def test_a_client_that_ends_between_requests(first: bytes) -> None:
    async with served([route("http.request", large)]) as server:
        raw = await server.connect()
        await raw.send(first)
        await half_close(raw)
        await trio.sleep(0.02)
        if first:
            assert (await raw.answer()).body == LARGE
        assert await raw.rest() == b""
        gone(raw)
        await server.all_ended()


@needs_epoll
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("returns", ["before", "after"])
async def test_who_only_listens_does_not_wait_for_ever(begun: bool, returns: str) -> None:
    async def leave(message: Message) -> object:
        if returns == "after":
            await trio.sleep(0.05)
        if begun:
            await message.reply_channel.send({"status": 200, "content": b"half", "more_content": True})
        return LATER

    settings: dict[str, Any] = {"disconnect_timeout": 0.1, "response_timeout": 100}
    async with served([route("http.request", leave)], **settings) as server:
        raw = await server.connect()
        await raw.send(request("/"))
        await trio.sleep(0.02)
        await half_close(raw)
        if begun:
            await raw.head()
            assert await raw.rest() == b"4\r\nhalf\r\n"
        else:
            assert (await raw.answer()).status == 503
        gone(raw)
        await server.all_ended()


@needs_epoll
async def test_a_connection_that_is_cancelled_from_outside() -> None:
    ended: list[str] = []

    async def wait(message: Message) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(message["path"])

    async with served([route("http.request", wait)]) as server:
        busy, idle = await server.connect(), await server.connect()
        await busy.send(request("/busy"))
        await trio.sleep(0.02)
        assert len(server.runtime.http) == 2
        server._nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await server.all_ended()
            assert ended == ["/busy"]
            for raw in (busy, idle):
                assert await raw.rest() == b""
                gone(raw)


@needs_epoll
async def test_an_answer_that_comes_when_the_client_is_gone() -> None:
    channels: list[Any] = []

    async def leave(message: Message) -> object:
        channels.append(message.reply_channel)
        return LATER

    async with served([route("http.request", leave)], disconnect_timeout=0.05) as server:
        raw = await server.connect()
        await raw.send(request("/") + b"x")
        await trio.sleep(0.02)
        gone(raw)
        await server.all_ended()
        with pytest.raises(ConnectionClosed):
            await channels[0].send({"status": 200})


async def test_a_handshake_that_can_t_be_is_refused(autojump_clock: MockClock) -> None:
    async with talking() as (raw, client):
        await raw.send(handshake("/", without="Sec-WebSocket-Key"))
        assert (await raw.answer()).status == 400
        assert await raw.rest() == b""
        await nothing_left(client)


@needs_epoll
async def test_a_consumer_that_begins_behind_the_end_has_its_time_too() -> None:
    began: list[str] = []

    async def wait(message: Message) -> None:
        began.append(message["path"])
        if message["path"] == "/first":
            await trio.sleep(0.04)
            await message.reply_channel.send(text("there"))
            return
        await trio.sleep_forever()

    async with served([route("http.request", wait)], disconnect_timeout=0.08) as server:
        raw = await server.connect()
        await raw.send(request("/first") + request("/second"))
        await half_close(raw)
        assert (await raw.answer()).body == b"there"
        assert (await raw.answer()).status == 500
        assert began == ["/first", "/second"]
        gone(raw)
        await server.all_ended()


@needs_epoll
async def test_a_shielded_consumer_is_waited_for() -> None:
    async def wait(message: Message) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.2)
        await message.reply_channel.send(text("late"))

    async with served([route("http.request", wait)], disconnect_timeout=0.05) as server:
        raw = await server.connect()
        await raw.send(request("/"))
        await half_close(raw)
        assert (await raw.answer()).body == b"late"
        gone(raw)
        await server.all_ended()

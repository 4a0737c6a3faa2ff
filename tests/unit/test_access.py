"""The access log: what its lines say, that no client can forge one, and that a log that breaks ends nothing."""

from __future__ import annotations

import gc
import io
import json
import logging
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from door import DoorClient
from hypothesis import given
from hypothesis import strategies as st
from raw_clients import RawClient, close_frame, frame, handshake
from recorder import nothing_left
from served import serving

from triochan import Group, Settings, route
from triochan.access import LONGEST_TARGET, AccessLog, RequestLine, address_of, logger
from triochan.doors.trio_websocket import running
from triochan.exceptions import DenyConnection
from triochan.generic.websockets import WebsocketConsumer
from triochan.http import text
from triochan.http1.logged import LoggedHttpConnection
from triochan.http1.protocol import FULL, HttpConnection
from triochan.http1.serving import serve_stream
from triochan.log_lines import escaped, say
from triochan.logs import JsonFormatter
from triochan.message import Message
from triochan.runtime import runtime_of
from triochan.test import Client
from triochan.websocket.connection import Connection
from triochan.websocket.logged import LoggedConnection
from triochan.wire.counted import CountedOutbox
from triochan.wire.frames import BINARY, PING, TEXT

SETTINGS = Settings(
    head_timeout=3,
    body_timeout=3,
    handshake_timeout=3,
    disconnect_timeout=4,
    write_timeout=5,
    max_body_size=4096,
    max_message_size=4096,
    ping_interval=20,
    ping_timeout=20,
)
CLIENT = "192.0.2.1:50000"


class Echo(WebsocketConsumer):
    groups = ["everyone"]

    async def connect(self, message: Message, **kwargs: Any) -> None:
        match self.path:
            case "/deny":
                raise DenyConnection
            case "/slow":
                await trio.sleep_forever()
            case "/hello":
                await self.send(text="hello")

    async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
        match text:
            case "close":
                await self.close(4001, 'a "reason"\n')
            case "raise":
                raise RuntimeError("on purpose")
            case "many":
                for _ in range(100):
                    await self.send(text="x" * 1000)
            case _:
                await self.send(text=text, bytes=bytes)


async def http(message: Message) -> object:
    reply = message.reply_channel
    match message["path"]:
        case "/raise":
            raise RuntimeError("on purpose")
        case "/wait":
            await trio.sleep(2)
        case "/hang":
            await trio.sleep_forever()
        case "/stream" | "/break":
            await reply.send({"status": 200, "content": b"x" * 10, "more_content": True})
            await trio.sleep(2)
            if message["path"] == "/break":
                raise RuntimeError("on purpose")
            await reply.send({"content": b"y" * 10})
            await trio.sleep(3)  # what it does afterwards is none of the response's
            return None
        case "/endless":
            await reply.send({"status": 200, "content": b"", "more_content": True})
            while True:
                await reply.send({"content": b"x" * 1000, "more_content": True})
    return text("hello")


ROUTING = [
    Echo.as_route(path="^/(?:ws|deny|slow|hello)$"),
    route("http.request", http, method="^(?:GET|POST)$", path="^/(?:|raise|wait|hang|stream|break|endless)$"),
]


def request(target: str, method: str = "GET", *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: a", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Keeping(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """The records of the access log."""
    handler = Keeping()
    logger.addHandler(handler)
    level, logger.propagate = logger.level, False
    logger.setLevel(logging.INFO)
    yield handler.records
    logger.setLevel(level)
    logger.propagate = True
    logger.removeHandler(handler)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What is on a record of its line's."""
    plain = vars(logging.makeLogRecord({}))
    return {
        key: value
        for key, value in vars(record).items()
        if key not in plain and key not in ("message", "asctime")
    }


def served(**options: Any) -> Client:
    return Client(ROUTING, settings=SETTINGS, access_log=True, **options)


LONG = "x" * 5000
REQUESTS = {
    "an answer": (request("/?a=1&b"), "GET /?a=1&b HTTP/1.1", 200),
    "a body": (
        request("/", "POST", "Content-Length: 2", "Expect: 100-continue", body=b"hi"),
        "POST / HTTP/1.1",
        200,
    ),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0", 200),
    "HEAD": (request("/", "HEAD"), "HEAD / HTTP/1.1", 200),
    "the absolute form": (request("http://a/?x"), "GET http://a/?x HTTP/1.1", 200),
    "quotes": (request('/"x\\'), 'GET /\\"x\\\\ HTTP/1.1', 404),
    "a line's end, encoded": (request("/%0a%0d"), "GET /%0a%0d HTTP/1.1", 404),
    "no consumer": (request("/nowhere"), "GET /nowhere HTTP/1.1", 404),
    "another method": (request("/", "PUT"), "PUT / HTTP/1.1", 405),
    "raises": (request("/raise"), "GET /raise HTTP/1.1", 500),
    "no Host": (b"GET /x HTTP/1.1\r\n\r\n", "GET /x HTTP/1.1", 400),
    "a path that is not UTF-8": (request("/%ff"), "GET /%ff HTTP/1.1", 400),
    "no method that is served": (request("/x", "TRACE"), "TRACE /x HTTP/1.1", 501),
    "a target that is none": (request("x"), "GET x HTTP/1.1", 400),
    "not HTTP": (b"hello there\r\n\r\n", "-", 400),
    "a wrong field": (b"GET /x HTTP/1.1\r\nHost : a\r\n\r\n", "GET /x HTTP/1.1", 400),
    "another version": (b"GET /x HTTP/2.0\r\nHost: a\r\n\r\n", "GET /x HTTP/2.0", 505),
    "a head too large": (request("/x", "GET", "A: " + "x" * 17_000), "GET /x HTTP/1.1", 431),
    "a line too long": (request("/" + "x" * 17_000), f"GET /{'x' * 2047}... HTTP/1.1", 414),
    "a line too long, in part": (b"GET /" + b"x" * 17_000, "-", 414),
    "a body too large": (request("/x", "POST", "Content-Length: 6000"), "POST /x HTTP/1.1", 413),
    "chunks too large": (
        request("/x", "POST", "Transfer-Encoding: chunked", body=b"1388\r\n" + LONG.encode()),
        "POST /x HTTP/1.1",
        413,
    ),
    "a chunk that is none": (
        request("/x", "POST", "Transfer-Encoding: chunked", body=b"GET /forged HTTP/1.1\r\n"),
        "POST /x HTTP/1.1",
        400,
    ),
    "two lengths": (
        request("/x", "POST", "Content-Length: 3", "Content-Length: 4", body=b"GET /forged HTTP/1.1\r\n"),
        "POST /x HTTP/1.1",
        400,
    ),
    "no head in time": (b"GET /x HTTP/1.1\r\nHost: a\r\n", "GET /x HTTP/1.1", 408),
    "nothing in time": (b"", "-", 408),
    "no body in time": (request("/x", "POST", "Content-Length: 2", body=b"h"), "POST /x HTTP/1.1", 408),
    "a handshake of no version": (
        request("/ws", "GET", "Upgrade: websocket", "Connection: upgrade"),
        "GET /ws HTTP/1.1",
        426,
    ),
    "a handshake without a key": (
        request("/ws", "GET", "Upgrade: websocket", "Connection: upgrade", "Sec-WebSocket-Version: 13"),
        "GET /ws HTTP/1.1",
        400,
    ),
    "a handshake that is a POST": (
        request("/ws", "POST", "Upgrade: websocket", "Connection: upgrade"),
        "POST /ws HTTP/1.1",
        405,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REQUESTS)
async def test_a_request(
    what: str, lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock
) -> None:
    data, line, status = REQUESTS[what]
    async with served() as client, RawClient(client.connect()) as raw:
        raw.patience = 100
        await raw.send(data)
        answered = await raw.rest() if status >= 400 and status not in (404, 405, 500) else b""
        if not answered:
            await trio.sleep(1)
            await raw.stream.aclose()
    [record] = lines
    got = fields(record)
    assert got["status"] == status
    assert record.getMessage() == (
        f'{CLIENT} - "{line}" {status} {got["bytes_sent"]} bytes {got["duration_ms"]:.2f} ms'
    )
    assert got["ended"] == "complete"
    if answered:
        assert got["bytes_sent"] == len(answered)


async def test_the_fields_of_a_request(
    lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock
) -> None:
    async with served() as client:
        answer = await client.get('/wait?q="')
    size = lines[0].__dict__["bytes_sent"]
    assert size > len(answer.text)
    assert fields(lines[0]) == {
        "event": "http", "client": CLIENT, "method": "GET", "target": '/wait?q="', "http_version": "1.1",
        "status": 200, "bytes_sent": size, "duration_ms": 2000.0, "ended": "complete",
    }  # fmt: skip
    said = json.loads(JsonFormatter().format(lines[0]))
    assert (said["target"], said["status"], said["logger"]) == ('/wait?q="', 200, "triochan.access")


async def test_requests_of_one_connection(
    lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock
) -> None:
    """Kept alive and pipelined; each has its own bytes and its own time."""
    async with served() as client, RawClient(client.connect()) as raw:
        await raw.send(request("/") + request("/wait") + request("/", "HEAD"))
        sizes = []
        for _ in range(2):
            answer = await raw.answer()
            sizes.append(answer.status)
        await raw.answer(bodiless=True)
        await raw.send(request("/nowhere"))
        await raw.answer()
    got = [(each.__dict__["target"], each.__dict__["duration_ms"]) for each in lines]
    assert got == [("/", 0.0), ("/wait", 2000.0), ("/", 0.0), ("/nowhere", 0.0)]
    first, second, head, _ = (each.__dict__["bytes_sent"] for each in lines)
    assert first == second == head + len("hello")


async def test_what_a_client_is_told_to_go_on_with_is_no_part_of_the_response(
    lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock
) -> None:
    async with served() as client, RawClient(client.connect()) as raw:
        await raw.send(request("/", "POST", "Content-Length: 2", "Expect: 100-continue"))
        assert (await raw.head()).status == 100
        await trio.sleep(1)
        await raw.send(b"hi" + request("/"))
        assert (await raw.answer()).status == (await raw.answer()).status == 200
    first, second = map(fields, lines)
    assert first["bytes_sent"] == second["bytes_sent"]
    assert (first["status"], first["duration_ms"]) == (200, 0.0)


async def test_a_response_in_pieces_lasts_until_its_last_byte(
    lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock
) -> None:
    async with served() as client, RawClient(client.connect()) as raw:
        await raw.send(request("/stream"))
        await raw.answer()
        assert len(lines) == 1
        assert lines[0].__dict__["duration_ms"] == 2000
        await nothing_left(client)


async def test_a_response_waits_for_a_slow_client_to_take_it(
    lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock
) -> None:
    async def large(message: Message) -> object:
        return text("x" * 100_000)

    routing = [route("http.request", large)]
    async with Client(routing, settings=SETTINGS, access_log=True, lockstep=True) as client:
        async with RawClient(client.connect()) as raw:
            await raw.send(request("/") + request("/"))
            await trio.sleep(2)
            assert (await raw.answer()).status == (await raw.answer()).status == 200
            await trio.testing.wait_all_tasks_blocked()
    first, second = (fields(each) for each in lines)
    assert first["bytes_sent"] == second["bytes_sent"] > 100_000
    assert first["ended"] == "complete"


@pytest.mark.parametrize(
    ("path", "status", "ended", "seconds"),
    [
        ("/break", 200, "server", 2),
        ("/stream", 200, "client", 1),
        ("/hang", None, "client", 1),
        ("/endless", 200, "client", 1),
    ],
)
async def test_a_response_that_breaks_off(
    path: str,
    status: int | None,
    ended: str,
    seconds: float,
    lines: list[logging.LogRecord],
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(ROUTING, settings=SETTINGS, access_log=True) as server:
        client = server.connect()
        await client.send(request(path))
        if path == "/break":
            await client.rest()
            client.vanish()
        else:
            await trio.sleep(1)
            client.vanish()
            await trio.sleep(10)
    [record] = lines
    got = fields(record)
    assert (got["status"], got["ended"]) == (status, ended)
    assert seconds * 1000 <= got["duration_ms"] <= 6000
    said = {"server": ", broken off", "client": ", the client went away"}[ended]
    assert record.getMessage().endswith(f" ms{said}")
    assert f'" {status or "-"} ' in record.getMessage()


async def test_a_client_that_hangs_up_while_its_consumer_runs(
    lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock
) -> None:
    async with served() as client:
        async with RawClient(client.connect()) as raw:
            await raw.send(request("/hang"))
            await raw.stream.send_eof()  # type: ignore[attr-defined]
            await raw.rest()
        await nothing_left(client)
    [record] = lines
    assert (fields(record)["ended"], fields(record)["duration_ms"]) == ("client", 4000)


async def test_a_client_that_takes_nothing(
    lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock
) -> None:
    async with served(lockstep=True) as client, RawClient(client.connect()) as raw:
        await raw.send(request("/endless"))
        await trio.sleep(20)
    [record] = lines
    assert fields(record)["ended"] == "client"


async def test_a_shutdown(lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock) -> None:
    async with served() as client, RawClient(client.connect()) as raw, client.websocket("/ws") as socket:
        await raw.send(request("/wait"))
        await trio.testing.wait_all_tasks_blocked()
        await client.runtime.drain(trio.CancelScope())
        assert (await raw.answer()).status == 200
        await socket.wait_closed()
    _, first, second = sorted((fields(each) for each in lines), key=lambda each: each["event"], reverse=True)
    assert (first["event"], first["code"], first["closed_by"]) == ("websocket.close", 1001, "server")
    assert (second["event"], second["status"], second["ended"]) == ("http", 200, "complete")


async def test_a_connection_cancelled_from_outside(
    lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock
) -> None:
    async with served() as client:
        raw = RawClient(client.connect())
        await raw.send(request("/hang"))
        await trio.testing.wait_all_tasks_blocked()
        client._nursery.cancel_scope.cancel()
    [record] = lines
    assert (fields(record)["ended"], fields(record)["status"]) == ("server", None)


async def test_a_full_server(lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock) -> None:
    async with served() as client:
        ours, theirs = trio.testing.memory_stream_pair()
        client._nursery.start_soon(
            partial(serve_stream, theirs, client.runtime, client=["::1", 5], refusal=FULL)
        )
        async with RawClient(ours) as raw:
            assert (await raw.answer()).status == 503
    [record] = lines
    assert record.getMessage().startswith('[::1]:5 - "-" 503 ')


async def test_the_health_path_is_for_debugging(
    lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock
) -> None:
    async with served(health_path="/healthz") as client:
        await client.get("/healthz")
        assert lines == []
        logger.setLevel(logging.DEBUG)
        await client.get("/healthz")
        [record] = lines
        assert (record.levelname, fields(record)["target"]) == ("DEBUG", "/healthz")


async def test_the_client_is_who_a_trusted_proxy_says(
    lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock
) -> None:
    async with served(trusted_proxies=["*"], root_path="/chat") as client:
        await client.get("/chat/?x", headers={"Forwarded": 'for="[2001:db8::1]:99"'})
        async with client.websocket("/chat/ws?y", headers={"X-Forwarded-For": "203.0.113.7"}):
            pass
    got = [(fields(each)["client"], fields(each)["target"]) for each in lines]
    assert got == [
        ("[2001:db8::1]:99", "/chat/?x"),
        ("203.0.113.7", "/chat/ws?y"),
        ("203.0.113.7", "/chat/ws?y"),
    ]


# -- WebSockets


async def test_a_websocket(lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock) -> None:
    async with served() as client, RawClient(client.connect()) as raw:
        await raw.send(handshake("/ws?room=1") + frame(TEXT, "early"))
        assert (await raw.head()).status == 101
        assert await raw.message() == "early"
        await raw.send(frame(BINARY, b"123"), frame(PING, b"x"), close_frame(4000, b'"\n'))
        await raw.rest()
        await nothing_left(client)
    opened, closed = lines
    assert fields(opened) == {
        "event": "websocket.open", "client": CLIENT, "target": "/ws?room=1", "status": 101, "duration_ms": 0.0
    }  # fmt: skip
    assert opened.getMessage() == f'{CLIENT} - "WebSocket /ws?room=1" 101 open 0.00 ms'
    received = len(
        frame(TEXT, "early") + frame(BINARY, b"123") + frame(PING, b"x") + close_frame(4000, b'"\n')
    )
    sent = 2 + 5 + 2 + 3 + 2 + 1 + 2 + 4
    assert fields(closed) == {
        "event": "websocket.close", "client": CLIENT, "target": "/ws?room=1", "code": 4000, "reason": '"\n',
        "closed_by": "client", "duration_ms": 0.0, "messages_received": 2, "bytes_received": received,
        "messages_sent": 2, "bytes_sent": sent,
    }  # fmt: skip
    assert closed.getMessage() == (
        f'{CLIENT} - "WebSocket /ws?room=1" closed by client 4000 "\\"\\n" 0.00 ms, '
        f"received 2 messages {received} bytes, sent 2 messages {sent} bytes"
    )


REFUSED = {
    "no consumer": ("/nowhere", 403, "refused"),
    "by the program": ("/deny", 403, "refused"),
    "too slow": ("/slow", 503, "refused"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_refused_websocket(
    what: str, lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock
) -> None:
    path, status, said = REFUSED[what]
    async with served() as client, RawClient(client.connect()) as raw:
        await raw.send(handshake(path))
        assert (await raw.answer()).status == status
        await nothing_left(client)
    [record] = lines
    got = fields(record)
    assert record.getMessage() == f'{CLIENT} - "WebSocket {path}" {status} {said} {got["duration_ms"]:.2f} ms'
    assert (got["event"], got["status"]) == ("websocket.refuse", status)


async def test_a_handshake_that_is_not_answered(
    lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock
) -> None:
    async with served() as client:
        raw = RawClient(client.connect())
        await raw.send(handshake("/slow"))
        await trio.sleep(1)
        client._nursery.cancel_scope.cancel()
    [record] = lines
    assert record.getMessage() == f'{CLIENT} - "WebSocket /slow" - unanswered 1000.00 ms'
    assert fields(record)["event"] == "websocket.refuse"


CLOSED: dict[str, tuple[bytes, str, int, str]] = {
    "the client": (close_frame(1000), "client", 1000, ""),
    "without a code": (close_frame(None), "client", 1005, ""),
    "the program": (frame(TEXT, "close"), "server", 4001, 'a "reason"\n'),
    "a crash": (frame(TEXT, "raise"), "server", 1011, "internal error"),
    "a wrong frame": (b"\x81\x01x", "server", 1002, "a client's frame is not masked"),
    "a message too large": (frame(TEXT, LONG), "server", 1009, "a message is larger than 4096 bytes"),
    "no pong": (b"", "lost", 1006, "no pong came"),
}


@pytest.mark.parametrize("what", CLOSED)
async def test_who_closed_a_websocket(
    what: str, lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock
) -> None:
    data, by, code, reason = CLOSED[what]
    async with served() as client, RawClient(client.connect()) as raw:
        raw.patience = 1000
        await raw.send(handshake("/ws"))
        await raw.head()
        await raw.send(data)
        if what == "no pong":
            await trio.sleep(100)
        else:
            await raw.closing()
        await raw.stream.aclose()
        await nothing_left(client)
    _, record = lines
    got = fields(record)
    assert (got["closed_by"], got["code"], got["reason"]) == (by, code, reason)
    assert "\n" not in record.getMessage()


async def test_what_is_left_behind_was_not_sent(
    lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock
) -> None:
    """A client that reads some of a hundred messages: what the socket has taken counts, the rest does not."""
    async with serving(ROUTING, settings=SETTINGS, access_log=True) as server:
        client = server.connect(send_buffer=4096)
        await client.send(handshake("/ws"))
        await client.head()
        await client.send(frame(TEXT, "many"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        client.vanish()
        await trio.testing.wait_all_tasks_blocked(0.01)
    got = fields(lines[-1])
    assert 0 < got["messages_sent"] < 100
    assert 0 < got["bytes_sent"] <= got["messages_sent"] * 1004


async def test_group_sends_and_batches_are_counted(
    lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock
) -> None:
    """What goes straight to the socket, what a turn gathers, what a group's members get in one piece."""
    async with serving(ROUTING, settings=SETTINGS, access_log=True) as server:
        clients = [server.connect() for _ in range(3)]
        for client in clients:
            await client.send(handshake("/hello"))
            await client.head()
            assert await client.message() == "hello"
        for _ in range(5):
            await Group("everyone").send({"text": "x" * 10})
        await Group("everyone").send({"bytes": b"y" * 10})
        await trio.testing.wait_all_tasks_blocked(0.01)
        for client in clients:
            await client.send(frame(TEXT, "echo") * 4 + frame(PING, b"x") + close_frame(1000))
            for _ in range(10):
                await client.message()
            await client.rest()
            client.vanish()
    closed = [fields(each) for each in lines if fields(each)["event"] == "websocket.close"]
    assert len(closed) == 3
    for got in closed:
        assert got["messages_received"] == 4
        assert got["messages_sent"] == 1 + 6 + 4
        assert got["bytes_sent"] == (2 + 5) + 6 * 12 + 4 * 6 + 3 + 4


# -- on and off


async def test_it_is_off_where_the_logger_passes_over_it(lines: list[logging.LogRecord]) -> None:
    logger.setLevel(logging.WARNING)
    assert AccessLog.of(True) is None
    logger.setLevel(logging.INFO)
    assert AccessLog.of(True) is not None
    assert AccessLog.of(False) is None


async def test_where_it_is_off_nothing_is_counted(autojump_clock: trio.testing.MockClock) -> None:
    async with Client(ROUTING, settings=SETTINGS) as client, client.websocket("/ws") as socket:
        await client.get("/")
        [connection] = client.runtime.websockets
        assert type(connection) is Connection
        async with RawClient(client.connect()) as raw:
            await raw.send(request("/"))
            await raw.answer()
            assert HttpConnection in set(map(type, client.runtime.http))
        assert not hasattr(connection.outbox, "messages")
        await socket.send("x")


@pytest.mark.parametrize("what", ["http", "websocket", "refused"])
async def test_nothing_is_left_for_the_garbage_collector(
    what: str, lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(ROUTING, settings=SETTINGS, access_log=True) as server:
        for round_ in range(2):  # what is made once is made in the first
            gc.collect()
            gc.disable()
            client = server.connect()
            try:
                await client.send(
                    {"http": request("/"), "websocket": handshake("/ws"), "refused": handshake("/nowhere")}[
                        what
                    ]
                )
                await (client.head() if what == "websocket" else client.answer())
                if what == "websocket":
                    await client.send(frame(TEXT, "x") + close_frame(1000))
                    await client.rest()
                client.vanish()
                await trio.sleep(10)
                kinds = (CountedOutbox, LoggedConnection, LoggedHttpConnection)
                left = [each for each in gc.get_objects() if isinstance(each, kinds)]
            finally:
                gc.enable()
            assert not left or not round_
            del left


class Broken(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("the log can't be written")


async def test_a_log_that_can_not_be_written_ends_nothing(
    lines: list[logging.LogRecord],
    autojump_clock: trio.testing.MockClock,
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler = Broken()
    logger.addHandler(handler)
    try:
        async with served() as client:
            assert (await client.get("/")).text == "hello"
            async with client.websocket("/ws") as socket:
                await socket.send("x")
                assert await socket.receive() == "x"
            async with RawClient(client.connect()) as raw:
                await raw.send(b"nonsense\r\n\r\n")
                assert (await raw.answer()).status == 400
            await nothing_left(client)
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr().err.count("OSError: the log can't be written") == 4


@pytest.mark.parametrize("shown", [True, False])
def test_what_can_not_be_said_is_shown_unless_that_is_unwanted(
    shown: bool,
    lines: list[logging.LogRecord],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", shown)
    handler = Broken()
    logger.addHandler(handler)
    try:
        say(logger, logging.INFO, "%s", "x")
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr().err.count("OSError: the log can't be written") == shown


# -- forging


@given(st.text())
def test_what_is_escaped_stays_between_its_quotes(given_text: str) -> None:
    line = escaped(given_text)
    assert re.fullmatch(r"(?:[ !#-\[\]-~]|\\.)*", line)
    assert line.encode("ascii").decode("unicode_escape") == given_text


@given(st.binary(max_size=40), st.text(max_size=40))
def test_a_line_is_one_line(target: bytes, reason: str) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    logger.propagate = False
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        log = AccessLog.of(True)
        assert log is not None
        line = RequestLine(["192.0.2.1", 5], "GET", target.decode("latin-1"), "1.1")
        log.answered(line, 200, 5, 0.001)
        log.opened(line, 101, 0.001)
        log.closed(line, 1000, reason, "client", 0.001, received=(0, 0), sent=(0, 0))
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
        logger.setLevel(level)
    said = stream.getvalue()
    assert said.isascii()
    assert len(said.splitlines()) == said.count("\n") == 3
    assert re.match(r'192\.0\.2\.1:5 - "GET (?:[^"\\]|\\.)* HTTP/1\.1" 200 5 bytes 1\.00 ms\n', said)


def test_a_long_target_is_cut(lines: list[logging.LogRecord]) -> None:
    AccessLog().answered(RequestLine(None, "GET", "/" + LONG, "1.1"), 200, 5, 0)
    target = fields(lines[0])["target"]
    assert len(target) == LONGEST_TARGET + 3
    assert target.endswith("x...")
    assert lines[0].getMessage().startswith('- - "GET /xxx')


def test_addresses() -> None:
    assert address_of(None) == "-"
    assert address_of(["192.0.2.1", 5]) == "192.0.2.1:5"
    assert address_of(["::1", 5]) == "[::1]:5"
    assert address_of(["_hidden", 0]) == "_hidden"
    assert address_of(['a"\n', 0]) == 'a\\"\\n'


# -- the door for trio-websocket


async def test_behind_the_door(
    lines: list[logging.LogRecord], autojump_clock: trio.testing.MockClock
) -> None:
    client = DoorClient(ROUTING, settings=SETTINGS, access_log=True)
    async with client:
        async with client.websocket("/ws?a=1") as socket:
            await socket.send("x")
            assert await socket.receive() == "x"
        async with RawClient(client.listener.connect()) as raw:
            await raw.send(handshake("/nowhere"))
            assert (await raw.answer()).status == 403
        client.runtime.draining = True
        async with RawClient(client.listener.connect()) as raw:
            await raw.send(handshake("/ws?b=2"))
            assert (await raw.answer()).status == 503
    got = [(fields(each)["event"], fields(each)["target"], fields(each).get("status")) for each in lines]
    assert got == [
        ("websocket.open", "/ws?a=1", 101),
        ("websocket.close", "/ws?a=1", None),
        ("websocket.refuse", "/nowhere", 403),
        ("websocket.refuse", "/ws?b=2", 503),
    ]
    assert (fields(lines[1])["messages_received"], fields(lines[1])["messages_sent"]) == (1, 1)


async def test_who_runs_a_door_asks_for_it(lines: list[logging.LogRecord]) -> None:
    for wanted, expected in ((True, True), (False, False), (None, False)):
        async with running(ROUTING, access_log=wanted) as application:
            runtime = runtime_of(application)
            assert runtime is not None
            assert (runtime.access is not None) is expected


def test_the_page_has_each_field(lines: list[logging.LogRecord]) -> None:
    log, line = AccessLog(), RequestLine(None, "GET", "/", "1.1")
    log.answered(line, 200, 5, 0)
    log.opened(line, 101, 0)
    log.closed(line, 1000, "", "client", 0, received=(0, 0), sent=(0, 0))
    page = (Path(__file__).parents[2] / "docs" / "logging.md").read_text()
    table = page[page.index("### Fields") :]
    for record in lines:
        event = fields(record)["event"]
        for name in fields(record):
            assert re.search(rf"^\| [^|]*`{name}`[^|]*\| (?:all|[^|]*`{event}`)", table, re.MULTILINE), name

"""What the log says of a refusal or a close is what the client got."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from recorder import nothing_left

from triochan import Application, Group, Settings, include, route
from triochan.exceptions import DenyConnection
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer
from triochan.http import LATER
from triochan.message import Message
from triochan.test import Client, TestWebsocket
from triochan.test.client import HandshakeRefused

NUMBER = re.compile(r"(?<![\w.])(?:1\d{3}|[345]\d\d)(?![\w.])")
"""A status or a close code in a line of the log."""
SETTINGS = Settings(
    handshake_timeout=3,
    handler_timeout=6,
    stall_timeout=2,
    response_timeout=5,
    disconnect_timeout=4,
    outbox_limit=70_000,
    max_message_size=4096,
    max_body_size=4096,
    inbox_limit=2,
    max_overlap=1,
)
Act = Callable[[Client, TestWebsocket], Awaitable[None]]


class Everything(WebsocketConsumer):
    """Does what the path and the message say."""

    groups = ["everyone"]

    async def connect(self, message: Message, **kwargs: Any) -> None:
        match self.path:
            case "/deny":
                raise DenyConnection
            case "/close":
                await self.close()
            case "/raise":
                raise RuntimeError("on purpose")
            case "/raise-later":
                await trio.sleep(1)
                raise RuntimeError("on purpose")
            case "/slow":
                await trio.sleep_forever()
            case "/flood":
                await trio.sleep(1)
                for _ in range(10):
                    await Group("everyone").send({"text": "x" * 50_000})
                await trio.sleep_forever()
            case "/crash-accepted":
                await self.send(text="ok")
                raise RuntimeError("on purpose")
            case "/slow-accepted":
                await self.send(text="ok")
                await trio.sleep_forever()

    async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
        match text:
            case "raise":
                raise RuntimeError("on purpose")
            case "hang":
                await trio.sleep_forever()
            case "close":
                await self.close(4001, "go")
            case "task":

                async def fail() -> None:
                    raise RuntimeError("on purpose")

                self.connection.start_soon(fail)


class Asking(Everything):
    channel_session = True


class Patient(JsonWebsocketConsumer):
    """Its messages are handled after the client has closed."""

    async def connect(self, message: Message, **kwargs: Any) -> None:
        await message.reply_channel.send({"accept": True})
        await trio.sleep(1)

    slight_ordering = True


async def http(message: Message) -> object:
    match message["path"]:
        case "/raise":
            raise RuntimeError("on purpose")
        case "/hang":
            await trio.sleep_forever()
        case "/silent":
            return None
        case "/later":
            return LATER
    return {"status": 200}


class Raising:
    def match(self, message: Message) -> Any:
        if message["path"].startswith("/route-raises"):
            raise RuntimeError("on purpose")
        if message["path"] == "/later-route" and "text" in message:
            raise RuntimeError("on purpose")

    def channel_names(self) -> set[str]:
        return {"websocket.connect", "websocket.receive", "http.request"}


PATHS = "^/(?:deny|close|raise|raise-later|slow|flood|crash-accepted|slow-accepted|later-route|ws)$"
ROUTING = [
    Raising(),
    include([Patient.as_route()], path="^/json"),
    Asking.as_route(path="^/session$"),
    Everything.as_route(path=PATHS),
    route("http.request", http, path="^/(?:raise|hang|silent|later|ok)$"),
]


@attrs.frozen
class Case:
    """One thing that a client gets.

    Attributes:
        got: the status or the code.
        says: what a line of the log says of it; None: nothing is logged.
        codes: the line has the number in it.
    """

    path: str
    got: int
    says: str | None = None
    codes: bool = False
    act: Act | None = None
    headers: tuple[tuple[str, str], ...] = ()


HANDSHAKES = {
    "raise DenyConnection": Case("/deny", 403),
    "close": Case("/close", 403),
    "no consumer": Case("/nowhere", 403),
    "another site": Case("/session", 403, "is refused", headers=(("Origin", "http://evil.example"),)),
    "raises": Case("/raise", 500, "Everything raised in connect on '/raise'"),
    "raises later": Case("/raise-later", 500, "Everything raised in connect on '/raise-later'"),
    "a route raises": Case("/route-raises", 500, "a route raised in websocket.connect"),
    "too slow": Case("/slow", 503, "did not accept within 3 s", codes=True),
    "groups overflow it": Case("/flood", 503, "before its connect had returned", codes=True),
}


def sending(*messages: str | bytes) -> Act:
    async def act(client: Client, socket: TestWebsocket) -> None:
        for message in messages:
            await socket.send(message)

    return act


async def shut_down(client: Client, socket: TestWebsocket) -> None:
    await client.runtime.drain(trio.CancelScope())


async def not_utf8(client: Client, socket: TestWebsocket) -> None:
    await socket.stream.send_all(b"\x81\x82\x00\x00\x00\x00\xff\xfe")


async def nothing(client: Client, socket: TestWebsocket) -> None:
    """It comes by itself."""


CLOSES = {
    "raises": Case("/ws", 1011, "Everything raised in receive on '/ws'", act=sending("raise")),
    "too slow": Case("/ws", 1011, "Everything raised in receive on '/ws'", act=sending("hang")),
    "a task raises": Case("/ws", 1011, "fail raised in a task", act=sending("task")),
    "connect crashes": Case("/crash-accepted", 1011, "Everything raised in connect", act=nothing),
    "connect is too slow": Case("/slow-accepted", 1011, "Everything raised in connect", act=nothing),
    "a route raises": Case("/later-route", 1011, "a route raised in websocket.receive", act=sending("x")),
    "the inbox stays full": Case("/ws", 1013, "was full for 2 s", True, sending(*["hang"] * 9)),
    "a message too large": Case("/ws", 1009, act=sending("x" * 5000)),
    "not UTF-8": Case("/ws", 1007, act=not_utf8),
    "not JSON": Case("/json", 1007, "Patient.decode_json on ", True, sending("{")),
    "a binary message": Case("/json", 1003, act=sending(b"{")),
    "a shutdown": Case("/ws", 1001, "shutdown: closing 1 WebSockets", act=shut_down),
    "by the program": Case("/ws", 4001, act=sending("close")),
}
REQUESTS = {
    "no consumer": Case("/nowhere", 404),
    "raises": Case("/raise", 500, "http raised in http.request on '/raise'"),
    "too slow": Case("/hang", 500, "http raised in http.request on '/hang'"),
    "a route raises": Case("/route-raises", 500, "a route raised in http.request"),
    "no answer": Case(
        "/silent", 500, "http returned without an answer to http.request on '/silent'", codes=True
    ),
    "no answer in time": Case("/later", 503, "http did not answer http.request on '/later'", codes=True),
    "an answer": Case("/ok", 200),
}


def check(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    lines = [entry.getMessage() for entry in caplog.records if entry.name.startswith("triochan.")]
    assert len(lines) == (case.says is not None), lines
    if case.says is not None:
        assert case.says in lines[0]
        numbers = {int(found) for found in NUMBER.findall(lines[0])}
        assert numbers == ({case.got} if case.codes else set())


def application() -> Application:
    return Application(ROUTING, secrets=["a secret that is long enough"])


@pytest.fixture(autouse=True)
def all_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "triochan")


@pytest.mark.parametrize("what", HANDSHAKES)
async def test_a_refused_handshake(
    what: str, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    case = HANDSHAKES[what]
    async with Client(application(), settings=SETTINGS) as client:
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket(case.path, headers=case.headers):
                raise AssertionError("it was accepted")
        assert refused.value.status == case.got
        await nothing_left(client)
    check(case, caplog)


@pytest.mark.parametrize("what", CLOSES)
async def test_a_closed_socket(
    what: str, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    case = CLOSES[what]
    async with Client(application(), settings=SETTINGS) as client:
        async with client.websocket(case.path) as socket:
            assert case.act is not None
            await case.act(client, socket)
            assert (await socket.wait_closed()).code == case.got
        await nothing_left(client)
    check(case, caplog)


@pytest.mark.parametrize("what", REQUESTS)
async def test_an_answered_request(
    what: str, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    case = REQUESTS[what]
    async with Client(application(), settings=SETTINGS) as client:
        assert (await client.get(case.path)).status == case.got
        await nothing_left(client)
    check(case, caplog)


async def test_a_peer_that_does_not_read_is_told_what_the_log_says(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    ended: list[int] = []

    class Noting(WebsocketConsumer):
        groups = ["everyone"]

        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            ended.append(message["code"])

    async with Client([Noting.as_route()], settings=SETTINGS, lockstep=True) as client:
        async with client.websocket("/") as socket:
            for _ in range(100):
                await Group("everyone").send({"text": "x" * 10_000})
                await trio.testing.wait_all_tasks_blocked()
            await nothing_left(client)
            await socket.vanish()
    [line] = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]
    assert "does not read" in line
    assert set(NUMBER.findall(line)) == {"1013"}
    assert ended == [1013]


async def test_text_that_is_no_json_and_is_handled_when_the_client_has_closed(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """It gets the echo of its own code, and the log does not say 1007."""
    async with Client(application(), settings=SETTINGS) as client:
        async with client.websocket("/json") as socket:
            await socket.send("{")
            await socket.close(1000)
        await nothing_left(client)
    [line] = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]
    assert ".Patient.decode_json on " in line
    assert NUMBER.findall(line) == []


@pytest.mark.parametrize("text", ["{", "nul", json.dumps({"a": 1})[:-1], "\ud7ff" * 300])
async def test_the_line_of_a_decoder_is_one_line_and_short(
    text: str, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async with Client(application(), settings=SETTINGS) as client:
        async with client.websocket("/json") as socket:
            await socket.send(text)
            assert (await socket.wait_closed()).code == 1007
    [line] = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]
    assert "\n" not in line
    assert len(line) < 400

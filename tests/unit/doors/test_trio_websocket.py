"""trio-websocket's server as a door, in memory: what it hands over, what comes back, and how it all ends."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket
from door import DoorClient, MemoryListener, program, websocket
from hypothesis import given
from hypothesis import strategies as st
from raw_clients import PING, PONG, TEXT, RawClient, close_frame, frame, handshake
from recorder import Recorder, hang, nothing_left

import triochan
from triochan import Application, Channel, Group, Settings, route, route_class
from triochan.doors.trio_websocket import handle, masked, response_of, running, server_frames
from triochan.exceptions import ImproperlyConfigured
from triochan.generic.websockets import WebsocketConsumer
from triochan.http import text
from triochan.sessions import MemorySessionStore, http_session
from triochan.test import Client
from triochan.test.client import HandshakeRefused
from triochan.wire.frames import BINARY, CLOSE, FrameDecoder, encode
from triochan.wire.frames import close_frame as server_close
from triochan.wire.handshake import refuse_response


class Echo(WebsocketConsumer):
    groups = ["room"]

    async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
        await self.send(text=text, bytes=bytes)


# -- bytes ------------------------------------------------------------------------------------------------------------

AT_A_LIMIT = [b"\xff" * size for size in (125, 126, 65535, 65536)]
MESSAGES = st.lists(st.text() | st.binary() | st.sampled_from(AT_A_LIMIT), max_size=4)


@given(MESSAGES)
def test_what_is_framed_for_this_side_is_what_the_client_sent(messages: list[str | bytes]) -> None:
    decoder = FrameDecoder(1 << 20)
    found = decoder.receive(b"".join(masked(encode(each)) for each in messages), 10)
    assert found == [(TEXT if isinstance(each, str) else BINARY, each) for each in messages]
    assert decoder.failure is None


@given(MESSAGES)
def test_frames_of_this_side_are_taken_apart(messages: list[str | bytes]) -> None:
    data = b"".join(map(encode, messages)) + server_close(1001, "going")
    assert list(server_frames(data)) == [
        *((TEXT, each.encode()) if isinstance(each, str) else (BINARY, each) for each in messages),
        (CLOSE, b"\x03\xe9going"),
    ]


def test_a_response_is_taken_apart() -> None:
    status, headers, body = response_of(refuse_response(403, [(b"X-Why", b"a: b")], b"no\r\n\r\nno"))
    assert (status, body) == (403, b"no\r\n\r\nno")
    assert (b"X-Why", b"a: b") in headers
    assert (b"Connection", b"close") in headers


# -- what it hands over -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 200_000])
async def test_messages_of_every_size_come_and_go(size: int) -> None:
    async with DoorClient([route_class(Echo)]) as client, client.websocket("/") as socket:
        for data in ("x" * size, "é" * size, b"\xff" * size):
            await socket.send(data)
            assert await socket.receive() == data


async def test_connect_says_what_it_says_over_sockets() -> None:
    seen: list[dict[str, Any]] = []

    async def connect(message: Any) -> None:
        seen.append({**message.content, "headers": sorted(message.content["headers"])})
        await message.reply_channel.send(
            {"accept": True, "subprotocol": "b", "headers": [("X-Answer", "yes")]}
        )

    answers = []
    for kind in (Client, DoorClient):
        async with kind([route("websocket.connect", connect)], headers=[("X-Asked", "caf\xe9")]) as client:
            async with client.websocket("/a%20b/?q=1&r=%20", subprotocols=["a", "b"]) as socket:
                answers.append((socket.subprotocol, socket.headers))
    plain, through = seen
    assert plain.pop("reply_channel") != through.pop("reply_channel")
    # Memory streams have no address, and the test client makes one up.
    assert plain.pop("client") == ["192.0.2.1", 50000]
    assert plain.pop("server") == ["testserver", 80]
    assert through.pop("client") is None
    assert through.pop("server") is None
    for headers in (plain["headers"], through["headers"]):
        headers.remove(next(pair for pair in headers if pair[0] == b"sec-websocket-key"))
    assert plain == through
    assert answers[0] == answers[1] == ("b", [(b"x-answer", b"yes")])


async def test_a_refusal_is_answered_with_its_status_and_body(
    autojump_clock: trio.testing.MockClock,
) -> None:
    record = Recorder()
    async with DoorClient(record.routing) as client:
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket("/nowhere"):
                raise AssertionError("it was accepted")
        assert (refused.value.status, refused.value.body) == (403, b"Forbidden\n")
        assert (b"connection", b"close") in refused.value.headers
        await nothing_left(client)
    assert record.events == []


async def test_a_refused_client_that_does_not_hang_up_is_let_go(
    autojump_clock: trio.testing.MockClock,
) -> None:
    door = DoorClient(Recorder().routing)
    async with door as client:
        raw = RawClient(door.listener.connect())
        await raw.send(handshake("/nowhere"))
        assert (await raw.answer()).status == 403
        begun = trio.current_time()
        assert await raw.rest() == b""
        assert trio.current_time() - begun == pytest.approx(2)
        await nothing_left(client)


@pytest.mark.parametrize(
    ("options", "settings", "headers", "status"),
    [
        ({"allowed_hosts": ["example.com"]}, Settings(), [], 400),
        ({"allowed_hosts": ["testserver"]}, Settings(), [], 101),
        ({}, Settings(max_head_size=128), [], 431),
        ({}, Settings(max_connections=1), [], 101),
        ({}, Settings(), [("Sec-WebSocket-Protocol", "a, a")], 400),
        ({}, Settings(), [("Sec-WebSocket-Protocol", "a b")], 400),
        ({}, Settings(), [("Content-Length", "3")], 400),
    ],
)
async def test_a_request_is_looked_at_as_over_sockets(
    options: dict[str, Any],
    settings: Settings,
    headers: list[tuple[str, str]],
    status: int,
    autojump_clock: trio.testing.MockClock,
) -> None:
    application = Application([route_class(WebsocketConsumer)], **options)
    for kind in (Client, DoorClient):
        async with kind(application, settings=settings) as client:
            try:
                async with client.websocket("/", headers=headers):
                    answered = 101
            except HandshakeRefused as refused:
                answered = refused.status
            assert answered == status
            await nothing_left(client)


async def test_more_than_max_connections_are_refused_with_503(autojump_clock: trio.testing.MockClock) -> None:
    async with DoorClient([route_class(Echo)], settings=Settings(max_connections=1)) as client:
        async with client.websocket("/"):
            with pytest.raises(HandshakeRefused) as refused:
                async with client.websocket("/"):
                    raise AssertionError("it was accepted")
        assert refused.value.status == 503
        assert (b"retry-after", b"5") in refused.value.headers


async def test_a_host_that_is_none_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    async def handler(request: trio_websocket.WebSocketRequest) -> None:
        # A label that is too long for IDNA.
        request._event = dataclasses.replace(request._event, host="é" * 64)
        await handle(request, [route_class(Echo)])

    async with program(handler) as listener:
        raw = RawClient(listener.connect())
        await raw.send(handshake("/"))
        answer = await raw.answer()
        assert (answer.status, answer.body) == (400, b"the Host header has a name that is none\n")


async def test_sessions_come_with_the_cookie_and_other_origins_are_refused() -> None:
    class Counting(WebsocketConsumer):
        http_user_and_session = True

        async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
            self.message.http_session["count"] = self.message.http_session["count"] + 1
            await self.send(text=str(self.message.http_session["count"]))

    @http_session
    async def begin(message: Any) -> None:
        message.http_session["count"] = 40
        await message.reply_channel.send(text("begun"))

    application = Application(
        [route_class(Counting), route("http.request", begin)], secrets=["long enough a secret"]
    )
    async with DoorClient(application) as client:
        await client.get("/")
        async with client.websocket("/") as socket:
            assert (b"set-cookie") not in dict(socket.headers)
            for number in ("41", "42"):
                await socket.send("more")
                assert await socket.receive() == number
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket("/", headers=[("Origin", "http://elsewhere")]):
                raise AssertionError("it was accepted")
        assert refused.value.status == 403


# -- while it lives ---------------------------------------------------------------------------------------------------


async def test_pings_keep_a_client_that_answers(autojump_clock: trio.testing.MockClock) -> None:
    async with DoorClient([route_class(Echo)]) as client, client.websocket("/") as socket:
        await trio.sleep(1000)
        await socket.send("still there")
        assert await socket.receive() == "still there"
        assert len(client.runtime.websockets) == 1


async def test_a_client_that_answers_no_ping_is_lost_and_leaves_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    record = Recorder()
    door = DoorClient(record.routing)
    async with door as client:
        raw, begun = await websocket(door.listener), trio.current_time()
        raw.patience = 100
        assert (await raw.frame())[0] == PING
        assert await raw.rest() == b""
        assert trio.current_time() - begun == pytest.approx(40)
        await nothing_left(client)
    assert record.events == [("disconnect", 1006, "no pong came")]


async def test_a_ping_is_answered_while_a_handler_waits(autojump_clock: trio.testing.MockClock) -> None:
    record = Recorder()
    record.hooks["receive"] = hang
    door = DoorClient(record.routing)
    async with door as client:
        raw = await websocket(door.listener)
        await raw.send(frame(TEXT, "x"), frame(PING, b"now"))
        assert await raw.frame() == (PONG, b"now")
        await raw.send(close_frame(4000))
        assert await raw.frame() == (CLOSE, b"\x0f\xa0")
        await nothing_left(client)
    assert record.events == ["x", ("disconnect", 4000, "")]


async def test_messages_before_the_close_are_handled_and_answers_to_one_that_is_gone_harm_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    record = Recorder(strict_ordering=True)

    async def slowly(consumer: Any, data: Any) -> None:
        await trio.sleep(1)
        await consumer.send(text=data)

    record.hooks["receive"] = slowly
    door = DoorClient(record.routing)
    async with door as client:
        raw = await websocket(door.listener)
        await raw.send(frame(TEXT, "a"), frame(TEXT, "b"), frame(TEXT, "c"), close_frame(1000, b"done"))
        await raw.stream.aclose()
        await nothing_left(client)
    assert record.events == ["a", "b", "c", ("disconnect", 1000, "done")]


async def test_a_message_over_trio_websockets_own_limit_is_1009(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Its reader stops there and leaves the stream open."""
    record = Recorder()

    async def handler(request: trio_websocket.WebSocketRequest) -> None:
        await handle(request, application)

    application = Application(record.routing)
    async with program(handler, max_message_size=1000) as listener, running(application):
        raw = await websocket(listener)
        await raw.send(frame(TEXT, "x" * 1001))
        assert (await raw.closing())[0] == 1009
        assert await raw.rest() == b""
        await trio.testing.wait_all_tasks_blocked()
    assert [event[:2] for event in record.events] == [("disconnect", 1009)]


async def test_a_client_that_does_not_answer_a_close_is_let_go(
    autojump_clock: trio.testing.MockClock,
) -> None:
    record = Recorder()
    door = DoorClient(record.routing)
    async with door as client:
        raw = await websocket(door.listener)
        record.connections[0].close(4002, "go")
        assert await raw.closing() == (4002, "go")
        begun = trio.current_time()
        await nothing_left(client)
        assert trio.current_time() - begun < Settings().close_timeout + 3
    assert record.events == [("disconnect", 4002, "go")]


# -- whose connections they are ---------------------------------------------------------------------------------------


def handler_of(application: Any) -> Any:
    async def handler(request: trio_websocket.WebSocketRequest) -> None:
        await handle(request, application)

    return handler


@asynccontextmanager
async def nothing_of_the_sort() -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize("own", [True, False])
async def test_groups_and_named_channels_are_shared(own: bool) -> None:
    handled = []

    async def work(message: Any) -> None:
        handled.append(message.content["number"])
        await Group("room").send({"text": f"worked on {message.content['number']}"})

    class Sending(Echo):
        async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
            await Channel("work").send({"number": int(text)})

    routing = [route_class(Sending), route("work", work)]
    context = running(routing) if own else nothing_of_the_sort()
    async with program(handler_of(routing)) as listener, context:
        first, second = await websocket(listener), await websocket(listener)
        await first.send(frame(TEXT, "7"))
        for raw in (first, second):
            assert await raw.message() == "worked on 7"
            await raw.send(close_frame())
            assert await raw.closing() == (1000, "")
            assert await raw.rest() == b""
    assert handled == [7]


async def test_a_server_of_the_same_application_takes_them_in(autojump_clock: trio.testing.MockClock) -> None:
    """What it shuts down, it waits for."""
    record = Recorder()

    async def slowly(consumer: Any, data: Any) -> None:
        await trio.sleep(5)
        await consumer.send(text="answered")

    record.hooks["receive"] = slowly
    application = Application(record.routing)
    async with program(handler_of(application)) as listener:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(triochan.serve, application, port=0))
            raw = await websocket(listener)
            await raw.send(frame(TEXT, "x"))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                assert await raw.message() == "answered"
                assert await raw.ended() == (1001, "going away")
        assert record.events == ["x", ("disconnect", 1001, "going away")]


async def test_leaving_drains_and_takes_nobody_new(autojump_clock: trio.testing.MockClock) -> None:
    record = Recorder()
    answers: list[Any] = []

    async def slowly(consumer: Any, data: Any) -> None:
        await trio.sleep(5)
        await consumer.send(text="answered")

    async def listen(raw: RawClient) -> None:
        answers.append(await raw.message())
        answers.append(await raw.ended())

    async def come_late(listener: MemoryListener) -> None:
        await trio.sleep(1)
        raw = RawClient(listener.connect())
        await raw.send(handshake("/"))
        answers.append((await raw.answer()).status)

    record.hooks["receive"] = slowly
    application = Application(record.routing)
    async with program(handler_of(application)) as listener, trio.open_nursery() as nursery:
        async with running(application):
            raw = await websocket(listener)
            await raw.send(frame(TEXT, "x"))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(listen, raw)
            nursery.start_soon(come_late, listener)
        assert record.events == ["x", ("disconnect", 1001, "going away")]
    assert answers == [503, "answered", (1001, "going away")]


@pytest.mark.parametrize("own", [True, False])
async def test_a_cancelled_program_answers_first(own: bool, autojump_clock: trio.testing.MockClock) -> None:
    """trio-websocket's reader is cancelled at once; what has been received is answered all the same."""
    record = Recorder()

    async def slowly(consumer: Any, data: Any) -> None:
        await trio.sleep(5)
        await consumer.send(text="answered")

    record.hooks["receive"] = slowly
    application = Application(record.routing)
    raw: RawClient | None = None
    async with running(application) if own else nothing_of_the_sort():
        async with program(handler_of(application)) as listener:
            raw = await websocket(listener)
            await raw.send(frame(TEXT, "x"))
            await trio.testing.wait_all_tasks_blocked()
            begun = trio.current_time()
        assert 5 <= trio.current_time() - begun < 8
    assert await raw.message() == "answered"
    assert await raw.closing() == (1001, "going away")
    assert await raw.rest() == b""
    assert record.events == ["x", ("disconnect", 1001, "going away")]


async def test_a_handle_that_is_cancelled_alone_closes_its_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """trio-websocket's reader goes on, and hears the client's answer."""
    record = Recorder()
    application = Application(record.routing)

    async def handler(request: trio_websocket.WebSocketRequest) -> None:
        with trio.move_on_after(10):
            await handle(request, application)

    async with program(handler) as listener, running(application):
        raw, begun = await websocket(listener), trio.current_time()
        raw.patience = 100
        assert await raw.ended() == (1001, "going away")
        assert trio.current_time() - begun < 10.5
        await trio.testing.wait_all_tasks_blocked()
        assert record.events == [("disconnect", 1001, "going away")]


async def test_a_shutdown_is_bounded(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    record = Recorder()
    record.hooks["receive"] = hang
    application = Application(record.routing)
    async with program(handler_of(application)) as listener:
        async with running(application, settings=Settings(shutdown_timeout=7)):
            raw = await websocket(listener)
            await raw.send(frame(TEXT, "x"))
            await trio.testing.wait_all_tasks_blocked()
            begun = trio.current_time()
        assert trio.current_time() - begun == pytest.approx(7, abs=1)
        await trio.testing.wait_all_tasks_blocked()
    assert record.events == ["x", ("disconnect", 1001, "going away")]
    assert [entry.message for entry in caplog.records if entry.levelno >= logging.ERROR] == [
        "the shutdown cuts off 1 handlers on '/', and 0 bytes of answers",
        "the shutdown was cut short: what still ran was cancelled",
    ]


async def test_a_cancelled_connect_owes_no_disconnect(autojump_clock: trio.testing.MockClock) -> None:
    begun = trio.Event()
    events = []

    class Slow(WebsocketConsumer):
        async def connect(self, message: Any, **kwargs: Any) -> None:
            begun.set()
            try:
                await trio.sleep_forever()
            finally:
                events.append("connect ended")

        async def disconnect(self, message: Any, **kwargs: Any) -> None:
            events.append("disconnect")

    application = Application([route_class(Slow)])
    async with program(handler_of(application)) as listener:
        raw = RawClient(listener.connect())
        await raw.send(handshake("/"))
        await begun.wait()
    assert events == ["connect ended"]
    assert await raw.rest() == b""


async def test_a_block_that_raises_gets_its_own_exception() -> None:
    with pytest.raises(KeyError, match="the program's"):
        async with running([route_class(Echo)]):
            raise KeyError("the program's")


async def test_a_wrong_routing_is_the_programs_affair() -> None:
    with pytest.raises(ImproperlyConfigured):
        async with running(["no route"]):  # type: ignore[list-item]
            raise AssertionError("it was taken")


async def test_what_goes_wrong_inside_ends_no_server(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    monkeypatch.setattr("triochan.doors.trio_websocket.check_upgrade", None)
    application = Application([route_class(Echo)])
    async with program(handler_of(application)) as listener:
        async with running(application):
            raw = RawClient(listener.connect())
            await raw.send(handshake("/"))
            assert await raw.rest() == b""
            monkeypatch.undo()
            raw = await websocket(listener)
            await raw.send(frame(TEXT, "x"))
            assert await raw.message() == "x"
    assert [entry.message for entry in caplog.records if entry.levelno >= logging.ERROR] == [
        "internal error on the connection from None"
    ]


async def test_a_store_that_cannot_be_opened_ends_no_server(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemorySessionStore):
        @asynccontextmanager
        async def running(self) -> AsyncIterator[None]:
            raise triochan.exceptions.SessionStoreUnavailable("on purpose")
            yield

    application = Application([route_class(Echo)], session_store=Broken())
    async with program(handler_of(application)) as listener:
        raw = RawClient(listener.connect())
        await raw.send(handshake("/"))
        assert await raw.rest() == b""
    assert [entry.message for entry in caplog.records if entry.levelno >= logging.ERROR] == [
        "a request of trio-websocket's can't be served"
    ]


# -- what trio-websocket keeps it from --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"\xff\xfe"), 1007),
        (frame(0x3, b""), 1002),
        (b"\x81\x01x", 1002),
        (close_frame(1014), 1002),  # registered, but wsproto does not know it
    ],
)
async def test_a_client_at_fault_is_not_told_so(
    sent: bytes, code: int, autojump_clock: trio.testing.MockClock
) -> None:
    """trio-websocket closes the stream without a close frame; the consumer learns the code."""
    record = Recorder()
    application = Application(record.routing)
    async with program(handler_of(application)) as listener, running(application):
        raw = await websocket(listener)
        await raw.send(sent)
        assert await raw.rest() == b""
        await trio.testing.wait_all_tasks_blocked()
        assert [event[:2] for event in record.events] == [("disconnect", code)]

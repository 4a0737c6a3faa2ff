"""How a WebSocket opens: when the answer leaves, what comes behind it, and who is cancelled when."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from door import DoorClient
from raw_clients import TEXT, close_frame, frame, handshake
from served import serving
from trio.testing import MockClock, wait_all_tasks_blocked

from triochan import Group, Settings, route, route_class
from triochan.exceptions import ConnectionClosed, DenyConnection
from triochan.generic.websockets import WebsocketConsumer
from triochan.test import Client
from triochan.websocket.opening import Opening


async def echo(message: Any) -> None:
    await message.reply_channel.send({"text": message["text"]})


@pytest.mark.parametrize("size", [10, 4000, 65_000, 150_000])
async def test_what_comes_behind_the_head_is_the_sockets(size: int, autojump_clock: MockClock) -> None:
    """However much of it came with the head, and however often the reader is called for what is left; and HTTP's
    time-outs are HTTP's."""
    async with serving([route("websocket.receive", echo)], settings=Settings(ping_interval=0)) as server:
        client = server.connect()
        async with client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, handshake() + frame(TEXT, "x" * size) * 3)
                assert (await client.head()).status == 101
                for _ in range(3):
                    assert len(await client.message()) == size
            await trio.sleep(100)
            await client.send(close_frame(4001))
            assert (await client.closing())[0] == 4001
            assert await client.rest() == b""
    assert not server.runtime.http


async def test_the_answer_and_the_first_message_leave_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    class Welcome(WebsocketConsumer):
        async def connect(self, message: Any, **kwargs: Any) -> None:
            await self.send(text="welcome")
            await self.send(text="again")

    async with serving([route_class(Welcome)]) as server, server.connect() as client:
        await client.send(handshake())
        await wait_all_tasks_blocked()
        stream: Any = client.stream
        data = stream.socket._sock.recv(65536)
        assert data.startswith(b"HTTP/1.1 101 ")
        assert data.endswith(b"\r\n\r\n\x81\x07welcome\x81\x05again")


async def test_the_answer_leaves_when_connect_has_accepted_and_waits(autojump_clock: MockClock) -> None:
    opened = trio.Event()

    class Slow(WebsocketConsumer):
        async def connect(self, message: Any, **kwargs: Any) -> None:
            await message.reply_channel.send({"accept": True})
            await opened.wait()
            await self.send(text="opened")

    async with serving([route_class(Slow)]) as server, server.connect() as client:
        await client.send(handshake())
        assert (await client.head()).status == 101
        await wait_all_tasks_blocked()
        opened.set()
        assert await client.message() == "opened"


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, ["connect", "receive 1", "receive 2", "connected"]),
        ({"slight_ordering": True}, ["connect", "connected", "receive 1", "receive 2"]),
        ({"strict_ordering": True}, ["connect", "connected", "receive 1", "receive 2"]),
        ({"max_overlap": 2}, ["connect", "receive 1", "receive 2", "connected"]),
        ({"max_overlap": 1}, ["connect", "connected", "receive 1", "receive 2"]),
    ],
    ids=str,
)
async def test_the_gate_of_connect(
    attributes: dict[str, Any], expected: list[str], autojump_clock: MockClock
) -> None:
    events: list[str] = []

    class Slow(WebsocketConsumer):
        async def connect(self, message: Any, **kwargs: Any) -> None:
            events.append("connect")
            await message.reply_channel.send({"accept": True})
            await trio.sleep(1)
            events.append("connected")

        async def receive(self, text: Any = None, **kwargs: Any) -> None:
            events.append(f"receive {text}")
            await self.send(text=text)

    async with serving([Slow.as_route(attributes)]) as server:
        async with await server.websocket(behind=frame(TEXT, "1")) as client:
            await client.send(frame(TEXT, "2"))
            assert [await client.message(), await client.message()] == ["1", "2"]
            await trio.sleep(2)
    assert events == expected


async def test_connect_that_accepted_has_handler_timeout_from_then_on(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []

    class Slow(WebsocketConsumer):
        async def connect(self, message: Any, **kwargs: Any) -> None:
            await trio.lowlevel.checkpoint()
            seen.append(trio.current_effective_deadline() - trio.current_time())
            await trio.sleep(4)
            await message.reply_channel.send({"accept": True})
            seen.append(trio.current_effective_deadline() - trio.current_time())
            await trio.sleep_forever()

        async def disconnect(self, message: Any, **kwargs: Any) -> None:
            seen.append(message["code"])

    settings = Settings(handshake_timeout=6, handler_timeout=3)
    async with serving([route_class(Slow)], settings=settings) as server, server.connect() as client:
        began = trio.current_time()
        await client.send(handshake())
        assert (await client.head()).status == 101
        assert (await client.ended())[0] == 1011
        assert trio.current_time() == began + 7
    assert seen == [6, 3, 1011]
    [record] = caplog.records
    assert "raised in connect" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], trio.TooSlowError)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("how", ["deny", "close", "refuse", "raise"])
async def test_a_refusal_that_was_slow_or_not(how: str, waits: bool, autojump_clock: MockClock) -> None:
    """It is answered once; what groups sent is not heard; ``disconnect`` is not called; the handler goes on."""
    events: list[str] = []

    class Refusing(WebsocketConsumer):
        groups = ["room"]

        async def connect(self, message: Any, **kwargs: Any) -> None:
            if waits:
                await trio.sleep(1)
            await Group("room").send({"text": "secret"})
            if how == "deny":
                raise DenyConnection
            if how == "raise":
                raise RuntimeError("on purpose")
            await message.reply_channel.send({"accept": False} if how == "refuse" else {"close": True})
            await trio.sleep(1)
            events.append("went on")

        async def disconnect(self, message: Any, **kwargs: Any) -> None:
            events.append("disconnect")

    async with serving([route_class(Refusing)]) as server, server.connect() as client:
        await client.send(handshake() + frame(TEXT, "not looked at"))
        answer = await client.answer()
        assert answer.status == (500 if how == "raise" else 403)
        assert b"secret" not in answer.body
        assert await client.rest() == b""
        await trio.sleep(5)
        assert not server.connections.child_tasks
        assert not server.runtime.layer.groups.members("room")  # type: ignore[attr-defined]
    assert events == (["went on"] if how in ("close", "refuse") else [])


@pytest.mark.parametrize("first", [False, True], ids=["accepts behind the wait", "accepts before the wait"])
@pytest.mark.parametrize("kind", [Client, DoorClient])
@pytest.mark.parametrize("admitted", [False, True])
async def test_who_is_turned_away_behind_the_accept_gets_the_code_alone(
    admitted: bool, kind: type[Client], first: bool, autojump_clock: MockClock
) -> None:
    """A client sees a code of the program's only where it is accepted and then closed: nothing that was sent to the
    consumer's ``groups`` meanwhile, or between the two, leaves before the close frame. Who stays is sent it."""

    class Checking(WebsocketConsumer):
        groups = ["staff"]

        async def connect(self, message: Any, **kwargs: Any) -> None:
            if first:
                await message.reply_channel.send({"accept": True})
            await trio.sleep(1)
            if not first:
                await message.reply_channel.send({"accept": True})
            await Group("staff").send({"text": "secret"})
            if not admitted:
                await self.close(4403)

    seen: list[Any] = []
    async with kind([route_class(Checking)]) as client, trio.open_nursery() as nursery:

        async def others() -> None:
            for _ in range(5):
                await trio.sleep(0.3)
                await Group("staff").send({"text": "secret"})

        nursery.start_soon(others)
        try:
            async with client.websocket("/") as socket:
                while len(seen) < 3:
                    seen.append(await socket.receive())
        except ConnectionClosed as closed:
            seen.append(closed.code)
    assert seen == (["secret"] * 3 if admitted else [4403])


@pytest.mark.parametrize("accepted", [False, True])
async def test_a_peer_that_is_gone_while_connect_runs(accepted: bool, autojump_clock: MockClock) -> None:
    events: list[Any] = []

    class Slow(WebsocketConsumer):
        async def connect(self, message: Any, **kwargs: Any) -> None:
            if accepted:
                await message.reply_channel.send({"accept": True})
            await trio.sleep(3)
            events.append("connect")

        async def disconnect(self, message: Any, **kwargs: Any) -> None:
            events.append(message["code"])

    async with serving([route_class(Slow)]) as server:
        client = server.connect()
        await client.send(handshake())
        await wait_all_tasks_blocked()
        client.vanish()
        await trio.sleep(20)
        assert not server.connections.child_tasks
    # Nothing is read before the handshake is answered, so that the end is seen when it is.
    assert events == ["connect", 1006]


@pytest.mark.parametrize("access_log", [False, True])
async def test_a_fault_of_the_server_s_own_ends_the_connection(
    access_log: bool,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And the client sees it: it is no HTTP connection any more, and not yet a WebSocket."""
    caplog.set_level(logging.INFO, "triochan.access")

    def fault(*args: object, **kwargs: object) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(Opening, "_end", fault)
    async with serving([route_class(WebsocketConsumer)], access_log=access_log) as server:
        async with server.connect() as client:
            await client.send(handshake())
            assert await client.rest() == b""
        await wait_all_tasks_blocked()
        assert not server.runtime.websockets
    assert len([record for record in caplog.records if record.name == "triochan.access"]) == access_log
    said = {record.getMessage() for record in caplog.records if record.name != "triochan.access"}
    assert said == {"internal error; the connection is ended"}


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("raised", [ConnectionClosed(1000), ExceptionGroup("", [ConnectionClosed(1006)])])
async def test_a_connect_that_another_connection_s_end_breaks_off_is_refused(
    waits: bool, raised: Exception, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It has not come to what it had still to do, which may have been to refuse."""

    class Telling(WebsocketConsumer):
        async def connect(self, message: Any, **kwargs: Any) -> None:
            if waits:
                await trio.sleep(1)
            raise raised  # as a send to somebody who has gone does

    async with serving([route_class(Telling)]) as server, server.connect() as client:
        await client.send(handshake())
        assert (await client.answer()).status == 500
    assert len(caplog.records) == 1
    assert "Telling raised in connect on " in caplog.text


@pytest.mark.parametrize("waits", [False, True])
async def test_one_that_had_accepted_stays_open_and_is_named(
    waits: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Telling(WebsocketConsumer):
        async def connect(self, message: Any, **kwargs: Any) -> None:
            await self.send(text="welcome")
            if waits:
                await trio.sleep(1)
            raise ConnectionClosed(1000)

    async with serving([route_class(Telling)]) as server, await server.websocket() as client:
        assert await client.message() == "welcome"
        await trio.sleep(2)
        await client.send(close_frame(4001))
        assert (await client.closing())[0] == 4001
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Telling broke off in connect on " in caplog.text

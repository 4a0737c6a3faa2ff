"""What a connection promises (docs/architecture.md), in virtual time: the handshake, the messages, what it leaves."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import pytest
import trio
import trio.testing
from recorder import Recorder, nothing_left

from triochan import Group, route, route_class
from triochan.exceptions import ConnectionClosed, DenyConnection
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer
from triochan.test import Client, WSClient
from triochan.test.client import HandshakeRefused

# -- the opening handshake --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["raise", "close", "accept False", "in a group of exceptions"])
async def test_refusal_answers_403_and_disconnect_is_not_called(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    events = []

    class Refusing(WebsocketConsumer):
        groups = ["room"]

        async def connect(self, message: Any, **kwargs: Any) -> None:
            if how == "raise":
                raise DenyConnection
            if how == "close":
                await self.close()
            elif how == "accept False":
                await message.reply_channel.send({"accept": False})
            else:
                raise ExceptionGroup("several", [DenyConnection()])

        async def disconnect(self, message: Any, **kwargs: Any) -> None:
            events.append("disconnect")

    async with Client([route_class(Refusing)]) as client:
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket("/"):
                raise AssertionError("it was accepted")
        assert refused.value.status == 403
        await nothing_left(client)
    assert events == []


async def test_a_path_without_a_consumer_is_403_before_accepting() -> None:
    async with Client([route_class(WebsocketConsumer, path="^/here$")]) as client:
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket("/there"):
                raise AssertionError("it was accepted")
        assert refused.value.status == 403


async def test_a_route_that_raises_is_500_and_leaves_nothing(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    class Raising:
        def match(self, message: Any, *, partly: bool = False) -> None:
            raise RuntimeError("on purpose")

        def channel_names(self) -> set[str]:
            return {"websocket.connect"}

    async with Client([Raising()]) as client:
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket("/"):
                raise AssertionError("it was accepted")
        assert refused.value.status == 500
        await nothing_left(client)
    assert [entry.message for entry in caplog.records] == ["a route raised in websocket.connect on '/'"]


async def test_crash_before_the_decision_is_500(caplog: pytest.LogCaptureFixture) -> None:
    async def crash(message: Any) -> None:
        raise RuntimeError("on purpose")

    async with Client([route("websocket.connect", crash)]) as client:
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket("/"):
                raise AssertionError("it was accepted")
        assert refused.value.status == 500
        assert b"on purpose" not in refused.value.body
    assert len(caplog.records) == 1


async def test_no_decision_in_time_is_503(autojump_clock: trio.testing.MockClock) -> None:
    async def undecided(message: Any) -> None:
        await trio.sleep_forever()

    async with Client([route("websocket.connect", undecided)]) as client:
        started = trio.current_time()
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket("/"):
                raise AssertionError("it was accepted")
        assert refused.value.status == 503
        assert (b"retry-after", b"1") in refused.value.headers
        assert trio.current_time() - started == pytest.approx(10, abs=0.5)


async def test_only_receive_routed_accepts_by_default() -> None:
    async def echo(message: Any) -> None:
        await message.reply_channel.send({"text": message["text"]})

    async with WSClient([route("websocket.receive", echo)]) as socket:
        await socket.send("x")
        assert await socket.receive() == "x"


async def test_subprotocol_and_headers_go_with_the_accept() -> None:
    async def connect(message: Any) -> None:
        assert message["subprotocols"] == ["a", "b"]
        with pytest.raises(ValueError, match="'c' was not offered"):
            await message.reply_channel.send({"accept": True, "subprotocol": "c"})
        await message.reply_channel.send(
            {"accept": True, "subprotocol": "b", "headers": [("X-Served", "yes")]}
        )

    async with WSClient([route("websocket.connect", connect)], subprotocols=["a", "b"]) as socket:
        assert socket.subprotocol == "b"
        assert (b"x-served", b"yes") in socket.headers


async def test_data_implies_accept_and_leaves_before_a_close() -> None:
    async def connect(message: Any) -> None:
        await message.reply_channel.send({"text": "welcome"})
        await message.reply_channel.send({"text": "and goodbye", "close": 4000})

    async with WSClient([route("websocket.connect", connect)]) as socket:
        assert await socket.receive() == "welcome"
        assert await socket.receive() == "and goodbye"
        with pytest.raises(ConnectionClosed) as closed:
            await socket.receive()
        assert closed.value.code == 4000


async def test_a_group_send_does_not_decide_a_handshake_but_is_not_lost() -> None:
    decided = trio.Event()

    class Slow(WebsocketConsumer):
        groups = ["room"]

        async def connect(self, message: Any, **kwargs: Any) -> None:
            await decided.wait()

    async with Client([route_class(Slow)]) as client, trio.open_nursery() as nursery:
        received: list[Any] = []

        async def listen() -> None:
            async with client.websocket("/") as socket:
                received.append(await socket.receive())

        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        await Group("room").send({"text": "early"})
        await trio.testing.wait_all_tasks_blocked()
        assert received == []
        decided.set()
        await trio.testing.wait_all_tasks_blocked()
        assert received == ["early"]


async def test_a_group_that_overflows_a_connecting_member_refuses_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Slow(WebsocketConsumer):
        groups = ["room"]

        async def connect(self, message: Any, **kwargs: Any) -> None:
            await trio.sleep_forever()

    refused: list[int] = []
    async with Client([route_class(Slow)]) as client, trio.open_nursery() as nursery:

        async def come() -> None:
            with pytest.raises(HandshakeRefused) as refusal:
                async with client.websocket("/"):
                    raise AssertionError("it was accepted")
            refused.append(refusal.value.status)

        nursery.start_soon(come)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(40):
            await Group("room").send({"text": "x" * 100_000})
    assert refused == [503]
    assert len(caplog.records) == 1


# -- messages ---------------------------------------------------------------------------------------------------------


async def test_orders_and_contents() -> None:
    seen: list[Any] = []

    async def take(message: Any) -> None:
        assert message.content.pop("reply_channel") == message.reply_channel.name
        seen.append((message.channel.name, dict(message.own)))

    channels = ["websocket.connect", "websocket.receive", "websocket.disconnect"]
    async with Client([route(channels, take)]) as client:
        async with client.websocket("/a%20b?c=d") as socket:
            await socket.send("text")
            await socket.send(b"bytes")
            await socket.close(1000, "bye")
        await nothing_left(client)
    connect = seen[0][1]
    assert {key: connect[key] for key in ("path", "query_string", "scheme", "order", "subprotocols")} == {
        "path": "/a b",
        "query_string": b"c=d",
        "scheme": "ws",
        "order": 0,
        "subprotocols": [],
    }
    assert seen[1:] == [
        ("websocket.receive", {"path": "/a b", "order": 1, "text": "text"}),
        ("websocket.receive", {"path": "/a b", "order": 2, "bytes": b"bytes"}),
        ("websocket.disconnect", {"path": "/a b", "order": 3, "code": 1000, "reason": "bye"}),
    ]


async def test_wrong_replies_are_the_callers_and_leave_the_socket_alone() -> None:
    async def receive(message: Any) -> None:
        for content in [{}, {"text": "a", "bytes": b"b"}, {"what": 1}, {"close": 1005}, {"accept": False}]:
            with pytest.raises(ValueError):
                await message.reply_channel.send(content)
        with pytest.raises(TypeError):
            await message.reply_channel.send("text")
        await message.reply_channel.send({"text": "fine"})

    async with WSClient([route("websocket.receive", receive)]) as socket:
        await socket.send("x")
        assert await socket.receive() == "fine"


async def test_a_handler_that_sends_after_its_own_close_is_told_of_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Hasty(WebsocketConsumer):
        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            await self.close(4000)
            await self.send(text="one thing more")

    with caplog.at_level(logging.INFO):
        async with WSClient([route_class(Hasty)]) as socket:
            await socket.send("hello")
            assert (await socket.wait_closed()).code == 4000
    [said] = [entry for entry in caplog.records if "broke off" in entry.getMessage()]
    assert said.levelno == logging.INFO
    assert (
        "Hasty broke off in receive on '/': it sent when the socket had been closed from this end, with 4000"
        in (said.getMessage())
    )


@pytest.mark.parametrize(("text", "code"), [("{", 1007), ("NaN", 1007), (b"{}", 1003)])
async def test_what_is_not_json(text: Any, code: int) -> None:
    async with WSClient([route_class(JsonWebsocketConsumer)]) as socket:
        await socket.send(text)
        assert (await socket.wait_closed()).code == code


async def test_messages_before_the_close_are_handled_before_disconnect(
    autojump_clock: trio.testing.MockClock,
) -> None:
    record = Recorder(strict_ordering=True)

    async def slow(consumer: Any, data: Any) -> None:
        await trio.sleep(0.1)

    record.hooks["receive"] = slow
    async with Client(record.routing) as client, client.websocket("/") as socket:
        for number in range(20):
            await socket.send(str(number))
        await socket.close()
        await nothing_left(client)
    assert record.events == [*map(str, range(20)), ("disconnect", 1000, "")]


async def test_cancel_on_disconnect(autojump_clock: trio.testing.MockClock) -> None:
    record = Recorder(cancel_on_disconnect=True)
    cancelled = []

    async def slow(consumer: Any, data: Any) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(data)
            raise

    record.hooks["receive"] = slow
    async with Client(record.routing) as client, client.websocket("/") as socket:
        await socket.send("a")
        await socket.send("b")
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        await socket.close()
        await nothing_left(client)
        assert trio.current_time() - started < 2
    assert sorted(cancelled) == ["a", "b"]
    assert [event[:2] for event in record.disconnects] == [("disconnect", 1000)]


async def test_send_to_a_peer_that_has_gone_raises_and_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = Recorder()
    gone = trio.Event()
    raised = []

    async def send_later(consumer: Any, data: Any) -> None:
        await gone.wait()
        try:
            await consumer.send("late")
        except ConnectionClosed as error:
            raised.append(error.code)
            raise

    record.hooks["receive"] = send_later
    async with Client(record.routing) as client, client.websocket("/") as socket:
        await socket.send("x")
        await trio.testing.wait_all_tasks_blocked()
        await socket.close(4123)
        await trio.testing.wait_all_tasks_blocked()
        gone.set()
        await nothing_left(client)
    assert raised == [4123]
    assert [entry for entry in caplog.records if entry.levelno >= logging.WARNING] == []


# -- memory -----------------------------------------------------------------------------------------------------------


async def test_an_ended_connection_leaves_no_garbage() -> None:
    """It is freed by reference counts alone: a server under churn does not stop for the garbage collector."""
    record = Recorder()
    async with Client(record.routing) as client:
        gc.collect()
        gc.disable()
        try:
            alive = []
            for _ in range(5):
                async with client.websocket("/") as socket:
                    await socket.send("x")
                    alive.append(weakref.ref(record.connections[-1]))
                    await socket.close()
                await nothing_left(client)
                record.connections.clear()
            assert [each() for each in alive] == [None] * 5
        finally:
            gc.enable()

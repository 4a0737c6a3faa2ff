"""What consumers see of a layer that is away, and has come back."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from triochan import Application, Group, Message, include, route, route_class
from triochan.exceptions import ConnectionClosed, ImproperlyConfigured, LayerUnavailable
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer, WebsocketDemultiplexer
from triochan.layers import MemoryLayer
from triochan.middleware import Next
from triochan.test import Client, HandshakeRefused


class Absent(MemoryLayer):
    """A layer whose engine comes and goes."""

    away = False

    async def group_add(self, group: str, channel: str) -> None:
        if self.away:
            raise LayerUnavailable("the engine is away")
        await super().group_add(group, channel)

    async def group_send(self, group: str, content: dict[str, Any], exclude: str | None = None) -> None:
        if self.away:
            raise LayerUnavailable("the engine is away")
        await super().group_send(group, content, exclude)


class Told(WebsocketConsumer):
    groups = ("all",)

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.group_send("all", text=text)

    async def layer_gap(self, message: Message, **kwargs: Any) -> None:
        await self.send(f"{message['seconds']:g} {message['path']} {kwargs}")


class NotTold(WebsocketConsumer):
    """Has no hook."""


class Waits(WebsocketConsumer):
    async def connect(self, message: Message, **kwargs: Any) -> None:
        await trio.sleep(2)

    async def layer_gap(self, message: Message, **kwargs: Any) -> None:
        await self.send("a gap")


class Stream(JsonWebsocketConsumer):
    async def layer_gap(self, message: Message, multiplexer: Any, **kwargs: Any) -> None:
        await multiplexer.send(message["seconds"])


async def function(message: Message, **kwargs: Any) -> None:
    pass


class Streams(WebsocketDemultiplexer):
    consumers: ClassVar[Any] = {"a": Stream, "b": JsonWebsocketConsumer, "c": Stream, "d": function}


class Own(Streams):
    async def layer_gap(self, message: Message, **kwargs: Any) -> None:
        await self.send("a", "its own")


async def test_open_sockets_whose_consumers_ask_for_it_are_told(autojump_clock: MockClock) -> None:
    async def accept(message: Message) -> None:
        await message.reply_channel.send({"accept": True})

    layer = Absent()
    routing = [
        route_class(Told, path=r"^/told/(?P<name>\w+)"),
        route_class(Streams, path=r"^/streams/"),
        route_class(Own, path=r"^/own/"),
        route_class(Waits, path=r"^/waits/"),
        route("websocket.connect", accept, path=r"^/function/"),
        route("websocket.receive", function, path=r"^/function/"),
        route_class(NotTold),
    ]
    async with (
        Client(routing, layer=layer) as client,
        client.websocket("/told/one") as one,
        client.websocket("/told/two") as two,
        client.websocket("/streams/") as streams,
        client.websocket("/own/") as own,
        client.websocket("/function/") as plain,
        client.websocket("/else/") as other,
        trio.open_nursery() as nursery,
    ):

        async def connecting() -> None:
            async with client.websocket("/waits/") as waits:
                with trio.move_on_after(1) as nothing:
                    await waits.receive()
                assert nothing.cancelled_caught

        nursery.start_soon(connecting)
        await wait_all_tasks_blocked()
        layer._missed(2.5)
        assert await one.receive() == "2.5 /told/one {'name': 'one'}"
        assert await two.receive() == "2.5 /told/two {'name': 'two'}"
        for stream in ("a", "c"):
            assert await streams.receive_json() == {"stream": stream, "payload": 2.5}
        assert await own.receive_json() == {"stream": "a", "payload": "its own"}
        await other.close()
        await plain.close()
        assert (await other.wait_closed()).code == 1000
        layer._missed(1)
        assert await one.receive() == "1 /told/one {'name': 'one'}"
    layer._missed(1)  # nobody is there any more


async def test_where_each_message_is_matched_by_itself(autojump_clock: MockClock) -> None:
    layer = Absent()
    routing = [
        route_class(WebsocketConsumer, path=r"^/other", text="never"),
        include([route_class(Told, order=".*")], path=r"^/a"),
        route_class(Told),
    ]
    async with Client(routing, layer=layer) as client, client.websocket("/b") as websocket:
        layer._missed(1)
        assert await websocket.receive() == "1 /b {}"


async def test_it_runs_in_the_middleware_and_what_it_raises_ends_its_socket(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    async def middleware(message: Message, handler: Next) -> object:
        seen.append(message.channel.name)
        return await handler(message)

    class Crashes(Told):
        async def layer_gap(self, message: Message, **kwargs: Any) -> None:
            raise ZeroDivisionError

    layer = Absent()
    application = Application(
        [route_class(Crashes, path="^/crashes"), route_class(Told)], middleware=[middleware]
    )
    async with (
        Client(application, layer=layer) as client,
        client.websocket("/crashes") as crashes,
        client.websocket("/") as told,
    ):
        seen.clear()
        layer._missed(1)
        assert await told.receive() == "1 / {}"
        assert seen == ["websocket.layer_gap"] * 2
        with pytest.raises(ConnectionClosed) as closed:
            await crashes.receive()
        assert closed.value.code == 1011
    assert "Crashes.layer_gap" in caplog.text or "ZeroDivisionError" in caplog.text


async def test_many_are_told_in_several_steps(autojump_clock: MockClock) -> None:
    layer = Absent()
    async with Client([route_class(Told)], layer=layer) as client, AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(client.websocket("/")) for _ in range(210)]
        layer._missed(1)
        for each in sockets:
            assert await each.receive() == "1 / {}"


def test_what_is_told_does_not_break_the_layer(caplog: pytest.LogCaptureFixture) -> None:
    layer = Absent()
    told: list[float] = []

    def raises(seconds: float) -> None:
        raise ZeroDivisionError

    with layer.telling_of_gaps(raises), layer.telling_of_gaps(told.append):
        layer._missed(1)
    layer._missed(2)
    assert told == [1]
    assert "ZeroDivisionError" in caplog.text


def test_the_hook_is_async() -> None:
    class Wrong(WebsocketConsumer):
        def layer_gap(self, message: Message, **kwargs: Any) -> None:
            pass

    with pytest.raises(ImproperlyConfigured, match=r"Wrong\.layer_gap is not 'async def'"):
        route_class(Wrong)


async def test_a_handshake_that_can_t_join_its_groups_is_refused_with_one_line(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Tries(WebsocketConsumer):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            await trio.sleep(1)
            await self.group_send("all", text="I am here")

    layer = Absent()
    layer.away = True
    async with Client([route_class(Tries, path="^/tries"), route_class(Told)], layer=layer) as client:
        for path, name in (("/", "Told"), ("/tries", "Tries")):
            caplog.clear()
            with pytest.raises(HandshakeRefused) as refused:
                async with client.websocket(path):
                    raise AssertionError
            assert refused.value.status == 503
            assert (b"retry-after", b"1") in [(key.lower(), value) for key, value in refused.value.headers]
            assert [(record.levelno, record.exc_info) for record in caplog.records] == [
                (logging.WARNING, None)
            ]
            assert f"{name} on {path!r} could not connect: the engine is away; 503" in caplog.text


async def test_a_request_is_answered_503_while_the_engine_is_away(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def shout(message: Message) -> None:
        await Group("all").send({"text": "x"})

    layer = Absent()
    async with Client([route("http.request", shout)], layer=layer) as client:
        layer.away = True
        response = await client.get("/")
        assert (response.status, response.header("retry-after")) == (503, "1")
    [line] = [record for record in caplog.records if "shout" in record.message]
    assert (line.levelno, line.exc_info) == (logging.INFO, None)
    assert "shout broke off in http.request on '/': the engine is away" in line.message


async def test_sockets_stay_open_while_the_engine_is_away(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    class Accepts(Told):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            await message.reply_channel.send({"accept": True})
            await self.group_send("all", text="I am here")

    layer = Absent()
    async with (
        Client([route_class(Accepts, path="^/accepts"), route_class(Told)], layer=layer) as client,
        client.websocket("/") as websocket,
    ):
        layer.away = True
        await websocket.send("lost")
        await wait_all_tasks_blocked()
        layer.away = False
        await websocket.send("heard")
        assert await websocket.receive() == "heard"
        lines = [record for record in caplog.records if "broke off in receive" in record.message]
        assert [line.levelno for line in lines] == [logging.INFO]
        assert "Told broke off in receive on '/': the engine is away" in lines[0].message

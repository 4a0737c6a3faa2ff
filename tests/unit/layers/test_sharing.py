"""Servers of one Trio run share the layer: it lives as long as the last of them, whichever began first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket

from triochan import Application, Channel, Group, Message, route, route_class, serve
from triochan.exceptions import LayerUnavailable
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer
from triochan.layers import ChannelLayer, MemoryLayer, current_layer, running_layer, share_layer
from triochan.test import Client

SECONDS = 5


class Room(WebsocketConsumer):
    groups = ["room"]

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await Channel("jobs").send({"text": text})


async def job(message: Message) -> None:
    await Group("room").send({"text": f"done: {message['text']}"})


ROUTING = [route_class(Room), route("jobs", job)]


class Served:
    """A server in a nursery, and a way to end it."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.ended = trio.Event()

    async def run(
        self, options: dict[str, Any], *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                task_status.started(await nursery.start(partial(serve, ROUTING, **options)))
        self.ended.set()

    async def end(self) -> None:
        self.scope.cancel()
        await self.ended.wait()


@pytest.mark.parametrize("tcp_first", [True, False])
async def test_the_server_that_began_first_may_end_first(tmp_path: Path, tcp_first: bool) -> None:
    path = str(tmp_path / "socket")
    first, second = Served(), Served()
    tcp, unix = (first, second) if tcp_first else (second, first)
    options: dict[Served, dict[str, Any]] = {tcp: {"port": 0}, unix: {"uds": path}}

    async def connect(address: Any) -> trio_websocket.WebSocketConnection:
        if served is tcp:
            stream: trio.SocketStream = await trio.open_tcp_stream("127.0.0.1", address.port)
        else:
            stream = await trio.open_unix_socket(path)
        await streams.enter_async_context(stream)
        return await trio_websocket.wrap_client_stream(nursery, stream, "localhost", "/")

    with trio.fail_after(SECONDS):
        async with AsyncExitStack() as streams, trio.open_nursery() as nursery:
            await nursery.start(first.run, options[first])
            layer = current_layer()
            [address] = await nursery.start(second.run, options[second])
            served = second
            old = await connect(address)
            await first.end()
            assert current_layer() is layer
            new = await connect(address)  # a handshake's answer
            await old.send_message("hello")  # through a named channel and a group to both of them
            assert await old.get_message() == await new.get_message() == "done: hello"
            await Group("room").send({"text": "from beside"})
            assert await old.get_message() == await new.get_message() == "from beside"
            await second.end()
            assert running_layer() is None
            assert old.closed is not None
            assert (old.closed.code, old.closed.reason) == (1001, "going away")
            nursery.cancel_scope.cancel()


class WithTask(MemoryLayer):
    """A layer with a task of its own, as one on an engine has."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.broken = trio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._task)
            async with super().running():
                yield
            nursery.cancel_scope.cancel()

    async def _task(self, *, task_status: trio.TaskStatus[None]) -> None:
        self.log.append("begins")
        task_status.started()
        try:
            await self.broken.wait()
            raise LayerUnavailable("the engine is away")
        finally:
            self.log.append("ends")


def never() -> ChannelLayer:
    raise AssertionError("a layer was there")


class Holder:
    """A task that holds the shared layer until it is told to leave, or is cancelled."""

    def __init__(self, layer: ChannelLayer | None) -> None:
        self.layer = layer
        self.leave = trio.Event()
        self.left = trio.Event()
        self.error: Exception | None = None

    async def run(self, task_status: trio.TaskStatus[ChannelLayer] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            async with share_layer(self.layer, never) as layer:
                task_status.started(layer)
                await self.leave.wait()
        except Exception as error:  # noqa: BLE001 - looked at by the test
            self.error = error
        self.left.set()


async def test_a_layers_own_tasks_live_until_the_last_has_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    layer = WithTask()
    async with trio.open_nursery() as nursery:
        holders = [Holder(layer), Holder(None), Holder(layer)]
        for each in holders:
            assert await nursery.start(each.run) is layer
        for each in holders[:2]:
            each.leave.set()
            await each.left.wait()
            assert layer.log == ["begins"]
            assert running_layer() is layer
        holders[2].leave.set()
        await holders[2].left.wait()
        assert layer.log == ["begins", "ends"]
        assert running_layer() is None
        again = Holder(layer)
        await nursery.start(again.run)
        again.leave.set()
    assert layer.log == ["begins", "ends"] * 2


async def test_a_cancelled_holder_leaves_it_to_the_others(autojump_clock: trio.testing.MockClock) -> None:
    layer = WithTask()
    async with trio.open_nursery() as nursery:
        second = Holder(None)
        async with trio.open_nursery() as cancelled:
            await cancelled.start(Holder(layer).run)
            await nursery.start(second.run)
            cancelled.cancel_scope.cancel()
        assert layer.log == ["begins"]
        assert running_layer() is layer
        second.leave.set()
    assert layer.log == ["begins", "ends"]


async def test_when_a_layers_task_breaks_off_every_holder_hears_of_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    layer = WithTask()
    async with trio.open_nursery() as nursery:
        holders = [Holder(layer), Holder(None)]
        for each in holders:
            await nursery.start(each.run)
        layer.broken.set()
        for each in holders:
            await each.left.wait()
            assert isinstance(each.error, ExceptionGroup)
            assert each.error.subgroup(LayerUnavailable) is not None
    assert running_layer() is None


async def test_one_that_does_not_begin_is_an_error_of_who_asked() -> None:
    class Broken(MemoryLayer):
        @asynccontextmanager
        async def running(self) -> AsyncIterator[None]:
            if self.groups.names() == []:
                raise LayerUnavailable("the engine is away")
            yield

    with pytest.raises(LayerUnavailable):
        async with share_layer(Broken(), never):
            raise AssertionError("it runs")
    async with share_layer(None, MemoryLayer) as layer:
        assert running_layer() is layer


async def test_another_layer_is_refused_and_the_first_goes_on() -> None:
    async with share_layer(None, MemoryLayer) as layer:
        with pytest.raises(RuntimeError, match="serves this Trio run already"):
            async with share_layer(MemoryLayer(), never):
                raise AssertionError("two layers in one run")
        assert running_layer() is layer
    async with MemoryLayer().running():
        with pytest.raises(RuntimeError, match="serves this Trio run already"):
            async with share_layer(MemoryLayer(), never):
                raise AssertionError("two layers in one run")


async def test_one_that_was_entered_by_hand_stays_its_blocks() -> None:
    layer = WithTask()
    async with layer.running():
        async with share_layer(None, never) as shared:
            assert shared is layer
        assert running_layer() is layer
        assert layer.log == ["begins"]


async def test_who_comes_while_the_last_one_leaves_begins_anew(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Slow(WithTask):
        @asynccontextmanager
        async def running(self) -> AsyncIterator[None]:
            async with super().running():
                yield
            await trio.sleep(1)

    layer = Slow()
    async with trio.open_nursery() as nursery:
        first, second = Holder(layer), Holder(layer)
        await nursery.start(first.run)
        first.leave.set()
        await trio.testing.wait_all_tasks_blocked()
        assert not first.left.is_set()
        assert await nursery.start(second.run) is layer
        assert layer.log == ["begins", "ends", "begins"]
        second.leave.set()


# -- the converter of what runs here


class Celsius:
    def __init__(self, degrees: float) -> None:
        self.degrees = degrees


def weather_of(sign: str) -> Application:
    class Station(JsonWebsocketConsumer):
        groups = [f"weather-{sign}"]

        async def receive(self, content: Any, **kwargs: Any) -> None:
            await self.group_send(f"weather-{sign}", Celsius(content))

    application = Application([route_class(Station)])
    application.converter.register_unstructure_hook(Celsius, lambda value: f"{value.degrees}{sign}")
    return application


async def test_a_group_send_from_beside_the_server_has_its_converter() -> None:
    application = weather_of("F")
    async with trio.open_nursery() as nursery:
        serving, sent, over = trio.Event(), trio.Event(), trio.Event()

        async def server() -> None:
            async with Client(application) as client:
                async with client.websocket("/") as socket:
                    serving.set()
                    assert await socket.receive_json() == "20F"
                    sent.set()
            over.set()

        nursery.start_soon(server)
        await serving.wait()
        await JsonWebsocketConsumer.group_send("weather-F", Celsius(20))
        with trio.fail_after(SECONDS):
            await sent.wait()
            await over.wait()


async def test_two_applications_in_one_run_have_each_its_own_converter() -> None:
    celsius, kelvin = weather_of("C"), weather_of("K")
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:

            async def server(
                application: Application, answer: str, ready: trio.Event, other: trio.Event
            ) -> None:
                async with Client(application) as client:
                    async with client.websocket("/") as socket:
                        ready.set()
                        await other.wait()
                        await socket.send_json(1)
                        assert await socket.receive_json() == answer

            one, two = trio.Event(), trio.Event()
            nursery.start_soon(server, celsius, "1C", one, two)
            nursery.start_soon(server, kelvin, "1K", two, one)

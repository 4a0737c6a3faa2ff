"""A worker of another process answers the socket, the stream or the request that it was asked from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
import trio
from engines import EngineProcess, engine

from triochan import Group, Message, Settings, route, route_class
from triochan.exceptions import ConnectionClosed
from triochan.generic.websockets import (
    JsonWebsocketConsumer,
    WebsocketConsumer,
    WebsocketDemultiplexer,
    WebsocketMultiplexer,
)
from triochan.http import LATER
from triochan.layers.redis import RedisLayer
from triochan.test import Client

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def running_engine() -> Iterator[EngineProcess]:
    with engine() as process:
        yield process


names: list[str] = []
"""Reply channels that were given away."""


class Asks(WebsocketConsumer):
    async def connect(self, message: Message, **kwargs: Any) -> None:
        names.append(message.reply_channel.name)


class Waits(WebsocketConsumer):
    """Accepts when another process says so."""

    strict_ordering = True

    async def connect(self, message: Message, **kwargs: Any) -> None:
        names.append(message.reply_channel.name)
        await trio.sleep(0.3)


class Stream(JsonWebsocketConsumer):
    async def receive(self, content: Any, multiplexer: Any, **kwargs: Any) -> None:
        names.append(multiplexer.reply_channel.name)


class Streams(WebsocketDemultiplexer):
    consumers: ClassVar[Any] = {"jobs": Stream}


async def answered_elsewhere(message: Message) -> Any:
    names.append(message.reply_channel.name)
    return LATER


ROUTING = [
    route_class(Asks, path=r"^/asks/"),
    route_class(Waits, path=r"^/waits/"),
    route_class(Streams, path=r"^/streams/"),
    route("http.request", answered_elsewhere),
]


@asynccontextmanager
async def serving(
    process: EngineProcess, settings: Settings | None = None
) -> AsyncIterator[tuple[Client, RedisLayer]]:
    """A server, and the layer of another process."""
    names.clear()
    worker = RedisLayer(process.url)
    async with (
        worker.connected(),
        Client(ROUTING, layer=RedisLayer(process.url), settings=settings) as client,
    ):
        yield client, worker


async def the_name() -> str:
    with trio.fail_after(10):
        while not names:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.005)
    return names.pop()


async def test_a_socket_is_answered(running_engine: EngineProcess) -> None:
    async with serving(running_engine) as (client, worker):
        async with client.websocket("/asks/") as websocket:
            channel = worker.reply_channel(await the_name())
            for number in range(20):
                await channel.send({"text": str(number)})
            assert [await websocket.receive() for _ in range(20)] == [str(number) for number in range(20)]
            await Group("room", worker).add(channel)
            # What one task sends arrives in its order, whichever way it goes.
            for number in range(20):
                await channel.send({"text": str(number)})
                await Group("room", worker).send({"bytes": str(number).encode()})
            got = [await websocket.receive() for _ in range(40)]
            assert got == [each for number in range(20) for each in (str(number), str(number).encode())]
            await channel.send({"text": "last", "close": 4001, "reason": "done"})
            assert await websocket.receive() == "last"
            assert (await websocket.wait_closed()).code == 4001
        await channel.send({"text": "too late"})  # its process is there, and counts it
        assert worker.lost_replies == 0
    with pytest.raises(ConnectionClosed):
        await _after(running_engine, channel.name)


async def _after(process: EngineProcess, name: str) -> None:
    layer = RedisLayer(process.url)
    async with layer.connected():
        try:
            await layer.send(name, {"text": "its process is gone"})
        finally:
            assert layer.lost_replies == 1


async def test_a_stream_s_payload_comes_back_on_its_stream(running_engine: EngineProcess) -> None:
    async with serving(running_engine) as (client, worker), client.websocket("/streams/") as websocket:
        await websocket.send_json({"stream": "jobs", "payload": {"do": "it"}})
        multiplexer = WebsocketMultiplexer("jobs", worker.reply_channel(await the_name()))
        await multiplexer.send({"done": 1})
        await multiplexer.send({"done": 2}, close=True)
        for number in (1, 2):
            assert await websocket.receive_json() == {"stream": "jobs", "payload": {"done": number}}
        assert (await websocket.wait_closed()).code == 1000


async def test_a_handshake_is_decided_elsewhere(running_engine: EngineProcess) -> None:
    async with serving(running_engine) as (client, worker), trio.open_nursery() as nursery:

        async def accept() -> None:
            await worker.send(await the_name(), {"accept": True, "text": "welcome"})

        nursery.start_soon(accept)
        async with client.websocket("/waits/") as websocket:
            assert await websocket.receive() == "welcome"


async def test_a_request_that_waits_is_answered(running_engine: EngineProcess) -> None:
    async with serving(running_engine) as (client, worker), trio.open_nursery() as nursery:

        async def respond() -> None:
            channel = worker.reply_channel(await the_name())
            await channel.send(
                {"status": 201, "headers": [(b"X-By", b"another")], "content": b"1", "more_content": True}
            )
            await channel.send({"content": b"2"})

        nursery.start_soon(respond)
        response = await client.get("/page")
        assert (response.status, response.header("x-by"), response.text) == (201, "another", "12")


async def test_a_socket_that_reads_later_gets_all_of_it_in_order(running_engine: EngineProcess) -> None:
    settings = Settings(outbox_limit=200_000)
    async with serving(running_engine, settings) as (client, worker), client.websocket("/asks/") as websocket:
        channel = worker.reply_channel(await the_name())
        for number in range(40):
            await channel.send({"text": f"{number} " + "x" * 100_000})
        await trio.sleep(0.1)  # they wait for it
        got = [await websocket.receive() for _ in range(40)]
        assert [int(str(each).partition(" ")[0]) for each in got] == list(range(40))
        assert client.runtime.layer.lost_replies == 0  # type: ignore[attr-defined]
        await channel.send({"close": True})
        assert (await websocket.wait_closed()).code == 1000

"""The code of Channels 1's "Generic Consumers", as examples, driven by an independent WebSocket client."""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from functools import partial
from typing import Any

import generic_consumers
import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import triochan
from triochan import Channel, Group, Message, route, route_class

PATIENCE = 10
"""Seconds that anything may take; nothing does."""


async def in_thread(function: Callable[[str], None], url: str) -> None:
    with trio.fail_after(2 * PATIENCE):
        await trio.to_thread.run_sync(function, url)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with trio.open_nursery() as serving:
        addresses = await serving.start(partial(triochan.serve, generic_consumers.routing, port=0))
        yield f"ws://127.0.0.1:{addresses[0].port}"
        serving.cancel_scope.cancel()


async def test_routing_to_a_class(url: str) -> None:
    def talk(url: str) -> None:
        with connect(f"{url}/chat/kitchen/") as ada, connect(f"{url}/chat/") as grace:
            ada.send("Hello")
            assert ada.recv(PATIENCE) == grace.recv(PATIENCE) == "Hello"
            grace.send(b"\x00\xff")
            assert ada.recv(PATIENCE) == grace.recv(PATIENCE) == b"\x00\xff"

    await in_thread(talk, url)


async def test_routing_to_a_function(url: str) -> None:
    def talk(url: str) -> None:
        with connect(f"{url}/") as client:
            assert client.recv(PATIENCE) == "Hello"
            client.send("there is no route for this, and that is no error")
            assert client.ping().wait(PATIENCE)
        for path in ("/elsewhere", "/chat", "//"):
            with pytest.raises(InvalidStatus, match="403"), connect(f"{url}{path}"):
                pass

    await in_thread(talk, url)


async def test_routing_keeps_http_apart(url: str) -> None:
    def talk(url: str) -> None:
        with closing(http.client.HTTPConnection(url.removeprefix("ws://"), timeout=PATIENCE)) as client:
            client.request("GET", "/chat/")
            assert client.getresponse().status == 404

    await in_thread(talk, url)


async def test_a_base_consumer_takes_messages_from_its_channel() -> None:
    """A socket sends to the named channel; the example's method is called, with the message on ``self``."""

    class Observed(generic_consumers.base.MyConsumer):
        async def method_name(self, message: Message, **kwargs: Any) -> None:
            example: Any = super().method_name  # without annotations, as it stands in Channels' documentation
            await example(message, **kwargs)
            assert self.message is message
            assert self.kwargs == kwargs == {"topic": "tea"}
            await Channel(message["answer_to"]).send({"text": f"handled {message['about']}"})

    async def forward(message: Message) -> None:
        content = {"about": message["text"], "answer_to": message.reply_channel.name}
        await Channel("channel.name.here").send(content)

    def talk(url: str) -> None:
        with connect(url) as client:
            client.send("tea and cake")
            assert client.recv(PATIENCE) == "handled tea and cake"

    routing = [route("websocket.receive", forward), route_class(Observed, about=r"(?P<topic>tea|coffee)")]
    async with trio.open_nursery() as serving:
        addresses = await serving.start(partial(triochan.serve, routing, port=0))
        await in_thread(talk, f"ws://127.0.0.1:{addresses[0].port}/")
        serving.cancel_scope.cancel()


async def test_a_base_consumer_as_it_stands(url: str) -> None:
    """Its ``pass`` takes what is sent: more than the channel holds at a time goes through it."""
    assert generic_consumers.base.MyConsumer.channel_names() == {"channel.name.here"}
    for _ in range(3):
        for number in range(100):
            await Channel("channel.name.here").send({"number": number})
        await wait_all_tasks_blocked()


async def test_a_websocket_consumer(url: str) -> None:
    def talk(url: str) -> None:
        with connect(f"{url}/websocket/") as client:
            for data in ("Hello", "", "Grüße \N{EARTH GLOBE EUROPE-AFRICA}", b"", bytes(range(256)) * 300):
                client.send(data)
                assert client.recv(PATIENCE) == data
            client.close(4001, "enough")
            assert (client.close_code, client.close_reason) == (4001, "enough")

    await in_thread(talk, url)


@pytest.mark.parametrize("path", ["/websocket/", "/json/"])
async def test_a_connection_is_in_its_groups_for_as_long_as_it_lives(url: str, path: str) -> None:
    connected = trio.Event()

    def listen(url: str) -> None:
        with connect(f"{url}{path}") as client:
            trio.from_thread.run_sync(connected.set)
            assert client.recv(PATIENCE) == '"to all"'

    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_thread, listen, url)
        with trio.fail_after(PATIENCE):
            await connected.wait()
        assert len(await Group("test").members()) == 1
        await Group("test").send({"text": '"to all"'})
    await wait_all_tasks_blocked()
    assert await Group("test").members() == []


async def test_a_json_consumer(url: str) -> None:
    def talk(url: str) -> None:
        with connect(f"{url}/json/") as client:
            content: Any
            for content in ({"a": [1, 2.5, None, True, "ü"]}, [], "text", 7, None):
                client.send(json.dumps(content))
                assert json.loads(client.recv(PATIENCE)) == content
        for broken, code in (("{", 1007), (b"{}", 1003)):
            with connect(f"{url}/json/") as client:
                client.send(broken)
                with pytest.raises(ConnectionClosed):
                    client.recv(PATIENCE)
                assert client.close_code == code

    await in_thread(talk, url)


@pytest.mark.parametrize("path", ["/session/", "/user/"])
async def test_consumers_with_sessions_and_users_serve(url: str, path: str) -> None:
    def talk(url: str) -> None:
        with connect(f"{url}{path}") as client:
            client.send("taken, and not answered")
            assert client.ping().wait(PATIENCE)
            client.close()
            assert client.close_code == 1000

    await in_thread(talk, url)


@pytest.mark.parametrize("module", ["sessions", "users"])
async def test_a_user_is_on_the_message_in_every_handler(module: str) -> None:
    consumer = getattr(generic_consumers, module).MyConsumer
    users: list[Any] = []

    class Observed(consumer):  # type: ignore[misc, valid-type]
        async def connect(self, message: Message, **kwargs: Any) -> None:
            assert self.message is message
            users.append(message.user)

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            users.append(self.message.user)
            await self.send(text=text)

        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            users.append(message.user)

    def talk(url: str) -> None:
        with connect(url) as client:
            client.send("Hello")
            assert client.recv(PATIENCE) == "Hello"

    async with trio.open_nursery() as serving:
        addresses = await serving.start(partial(triochan.serve, [route_class(Observed)], port=0))
        await in_thread(talk, f"ws://127.0.0.1:{addresses[0].port}/")
        serving.cancel_scope.cancel()
    assert [type(user).__name__ for user in users] == ["AnonymousUser"] * 3


async def test_a_decorator_is_around_every_handler(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, generic_consumers.decorated.__name__)

    def talk(url: str) -> None:
        with connect(f"{url}/decorated/") as client:
            client.send("Hello")

    def logged() -> list[str]:
        return [
            record.getMessage() for record in caplog.records if record.name == "generic_consumers.decorated"
        ]

    await in_thread(talk, url)
    await wait_all_tasks_blocked()
    assert logged() == [f"websocket.{event} on /decorated/" for event in ("connect", "receive", "disconnect")]

"""Middleware: around every handler of a routing."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from triochan import Application, Channel, Message, Settings, route, route_class
from triochan.exceptions import DenyConnection, ImproperlyConfigured
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer
from triochan.http import text
from triochan.middleware import Middleware, Next, bind
from triochan.test import Client
from triochan.test.client import HandshakeRefused


class Echo(WebsocketConsumer):
    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.send(text=text, bytes=bytes)


class Quiet(WebsocketConsumer):
    """Has nothing to do on any channel."""


async def hello(message: Message, **kwargs: Any) -> None:
    await message.reply_channel.send(text(f"hello {kwargs.get('name', '')}"))


def recording(seen: list[str], name: str) -> Middleware:
    async def middleware(message: Message, handler: Next) -> object:
        seen.append(f"{name} before {message.channel.name}")
        try:
            return await handler(message)
        finally:
            seen.append(f"{name} after {message.channel.name}")

    return middleware


async def test_it_is_around_every_handler_the_first_outermost(autojump_clock: MockClock) -> None:
    seen: list[str] = []
    done = trio.Event()

    async def job(message: Message) -> None:
        seen.append("job")
        done.set()

    routing = [route_class(Echo, path="^/echo$"), route("http.request", hello), route("jobs", job)]
    application = Application(routing, middleware=[recording(seen, "a"), recording(seen, "b")])
    async with Client(application) as client:
        async with client.websocket("/echo") as socket:
            await socket.send("x")
            assert await socket.receive() == "x"
        assert (await client.get("/")).text == "hello "
        await Channel("jobs").send({})
        await done.wait()
        await trio.testing.wait_all_tasks_blocked()
    for channel in ("websocket.connect", "websocket.receive", "websocket.disconnect", "http.request"):
        begun = seen.index(f"a before {channel}")
        assert seen[begun : begun + 4] == [
            f"a before {channel}", f"b before {channel}", f"b after {channel}", f"a after {channel}",
        ]  # fmt: skip
    begun = seen.index("a before jobs")
    assert seen[begun:] == ["a before jobs", "b before jobs", "job", "b after jobs", "a after jobs"]


async def test_a_consumer_that_does_nothing_is_wrapped_as_well(autojump_clock: MockClock) -> None:
    seen: list[str] = []
    async with Client(Application([route_class(Quiet)], middleware=[recording(seen, "a")])) as client:
        async with client.websocket("/") as socket:
            await socket.send("x")
    assert [each for each in seen if "before" in each] == [
        "a before websocket.connect", "a before websocket.receive", "a before websocket.disconnect",
    ]  # fmt: skip


async def test_it_sees_the_consumer_and_the_arguments() -> None:
    seen: list[Any] = []

    async def middleware(message: Message, handler: Next) -> object:
        seen.append((handler.consumer, handler.kwargs))
        return await handler(message)

    application = Application(
        [route("http.request", hello, path=r"^/(?P<name>\w+)$")], middleware=[middleware]
    )
    async with Client(application) as client:
        assert (await client.get("/world")).text == "hello world"
    assert seen == [(hello, {"name": "world"})]


async def test_it_may_answer_itself() -> None:
    async def middleware(message: Message, handler: Next) -> object:
        if message.channel.name == "http.request":
            await message.reply_channel.send(text("no", status=403))
            return None
        raise DenyConnection

    application = Application([route_class(Echo), route("http.request", hello)], middleware=[middleware])
    async with Client(application) as client:
        assert (await client.get("/")).status == 403
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket("/"):
                pass
        assert refused.value.status == 403


async def test_what_it_raises_is_the_handlers(caplog: pytest.LogCaptureFixture) -> None:
    async def middleware(message: Message, handler: Next) -> object:
        raise RuntimeError("broken")

    async with Client(Application([route("http.request", hello)], middleware=[middleware])) as client:
        assert (await client.get("/")).status == 500
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR] == [
        f"{__name__}.hello raised in http.request on '/'"
    ]


async def test_it_may_hand_on_another_message_and_wait(autojump_clock: MockClock) -> None:
    async def middleware(message: Message, handler: Next) -> object:
        await trio.sleep(1)
        if message.channel.name == "websocket.receive":
            message = message.copy()
            message["text"] = message["text"].upper()
        return await handler(message)

    class Json(JsonWebsocketConsumer):
        async def receive(self, content: Any, **kwargs: Any) -> None:
            await self.send(content)

    routing = [route_class(Echo, path="^/echo$"), route_class(Json, path="^/json$")]
    async with Client(Application(routing, middleware=[middleware])) as client:
        for path, given, expected in (("/echo", "x", "X"), ("/json", '"x"', '"X"')):
            async with client.websocket(path) as socket:
                await socket.send(given)
                assert await socket.receive() == expected


async def test_a_handler_timeout_bounds_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def middleware(message: Message, handler: Next) -> object:
        await trio.sleep(10)
        return await handler(message)

    application = Application([route("http.request", hello)], middleware=[middleware])
    async with Client(application, settings=Settings(handler_timeout=1)) as client:
        assert (await client.get("/")).status == 500
    assert "TooSlowError" in caplog.text


async def not_middleware(message: Message, handler: Next) -> object:
    return None


@pytest.mark.parametrize(
    ("middleware", "says"),
    [
        (not_middleware, "middleware is a list"),
        ("middleware", "middleware is a list"),
        ([lambda message, handler: None], r"middleware\[0\] is .*lambda"),
        ([not_middleware, int], r"middleware\[1\] is builtins.int"),
    ],
)
def test_a_wrong_one_is_found_at_definition(middleware: Any, says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=says):
        Application([route("http.request", hello)], middleware=middleware)


def test_without_middleware_nothing_is_around() -> None:
    assert bind((Quiet, {}), "websocket.connect").begin is None

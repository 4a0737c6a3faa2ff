"""``self.group_send(…, but_me=True)``: to everybody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar

import pytest
from trio.testing import MockClock

from triochan import Settings, route_class
from triochan.generic.websockets import (
    JsonWebsocketConsumer,
    WebsocketConsumer,
    WebsocketDemultiplexer,
    WebsocketMultiplexer,
)
from triochan.test import Client
from triochan.test.client import TestWebsocket


class Plain(WebsocketConsumer):
    groups = ("all",)

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.group_send("all", text="others", but_me=True)
        await self.group_send("all", text="all", but_me=False)


class Json(JsonWebsocketConsumer):
    groups = ("all",)

    async def receive(self, content: Any, **kwargs: Any) -> None:
        await self.group_send("all", "others", but_me=True)
        await self.group_send("all", "all")


class Stream(JsonWebsocketConsumer):
    groups = ("all",)

    async def receive(self, content: Any, multiplexer: Any = None, **kwargs: Any) -> None:
        await multiplexer.group_send("all", "a", "others", but_me=True)
        await multiplexer.group_send("all", "a", "all")


class Demultiplexer(WebsocketDemultiplexer):
    consumers: ClassVar[dict[str, Any]] = {"a": Stream}


class Own(WebsocketDemultiplexer):
    groups = ("all",)

    async def receive(self, content: Any, **kwargs: Any) -> None:
        await self.group_send("all", "a", "others", but_me=True)
        await self.group_send("all", "a", "all")


class Overridden(Json):
    @classmethod
    async def group_send(cls, name: str, content: Any, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        await super().group_send(name, content, *args, **kwargs)

    async def receive(self, content: Any, **kwargs: Any) -> None:
        await self.group_send("all", "others", exclude=self.message.reply_channel)
        await self.group_send("all", "all")


@asynccontextmanager
async def three(consumer: Any) -> AsyncIterator[list[TestWebsocket]]:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            Client([route_class(consumer)], settings=Settings(ping_interval=0))
        )
        yield [await stack.enter_async_context(client.websocket("/")) for _ in range(3)]


@pytest.mark.parametrize(
    ("consumer", "sent", "wrapped"),
    [
        (Plain, "x", lambda text: text),
        (Json, "1", lambda text: f'"{text}"'),
        (
            Demultiplexer,
            '{"stream": "a", "payload": {}}',
            lambda text: f'{{"stream":"a","payload":"{text}"}}',
        ),
        (Own, "1", lambda text: f'{{"stream":"a","payload":"{text}"}}'),
        (Overridden, "1", lambda text: f'"{text}"'),
    ],
)
async def test_everybody_else_hears_it(
    consumer: Any, sent: str, wrapped: Any, autojump_clock: MockClock
) -> None:
    async with three(consumer) as sockets:
        await sockets[1].send(sent)
        assert [await each.receive() for each in sockets] == [
            wrapped(text) for text in ("others", "all", "others")
        ]
        assert [await each.receive() for each in (sockets[0], sockets[2])] == [wrapped("all")] * 2


@pytest.mark.parametrize(
    ("cls", "args"),
    [
        (WebsocketConsumer, ("x",)),
        (JsonWebsocketConsumer, ("x",)),
        (WebsocketDemultiplexer, ("a", "x")),
        (WebsocketMultiplexer, ("a", "x")),
    ],
)
async def test_a_class_is_nobodys(cls: Any, args: tuple[str, ...]) -> None:
    async with Client([]):
        with pytest.raises(TypeError, match=r"but_me=True goes with self\.group_send"):
            await cls.group_send("all", *args, but_me=True)
        await cls.group_send("all", *args)

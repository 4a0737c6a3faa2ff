"""triochan as its users run it as a library: consumer classes, routing, default settings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import trio

import triochan
from benchmarks.scenarios import ANSWER
from benchmarks.servers import common
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer
from triochan.http import json


class Echo(WebsocketConsumer):
    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.send(text=text, bytes=bytes)


class Checkpoint(WebsocketConsumer):
    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await trio.lowlevel.checkpoint()
        await self.send(text=text, bytes=bytes)


class Sleep(WebsocketConsumer):
    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await trio.sleep(common.NAP)
        await self.send(text=text, bytes=bytes)


class Room(WebsocketConsumer):
    groups = ["room"]

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.group_send("room", text=text)


class JsonRoom(JsonWebsocketConsumer):
    groups = ["json"]

    async def receive(self, content: Any, **kwargs: Any) -> None:
        await self.group_send("json", content)


class Deflate(WebsocketConsumer):
    groups = ["deflate"]
    compression = True

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.group_send("deflate", text=text)


async def answer(message: triochan.Message) -> None:
    await message.reply_channel.send(json(ANSWER))


routing = [
    triochan.route_class(Echo, path=r"^/echo$"),
    triochan.route_class(Room, path=r"^/group$"),
    triochan.route_class(JsonRoom, path=r"^/json$"),
    triochan.route_class(Deflate, path=r"^/deflate$"),
    triochan.route_class(Checkpoint, path=r"^/checkpoint$"),
    triochan.route_class(Sleep, path=r"^/sleep$"),
    triochan.route("http.request", answer, path=r"^/answer$"),
]


async def main() -> None:
    options = common.start()
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(
            partial(triochan.serve, routing, host=common.HOST, port=0, ssl_context=options.ssl_context())
        )
        common.report(addresses[0].port, Path(triochan.__file__).parents[1])


if __name__ == "__main__":
    trio.run(main)

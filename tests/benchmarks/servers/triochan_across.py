"""triochan in several processes, with an engine between them: the same consumers, another layer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import trio

import triochan
from benchmarks.servers import common
from triochan.generic.websockets import WebsocketConsumer
from triochan.layers import layer_from_url


class Room(WebsocketConsumer):
    groups = ["room"]


class Other(WebsocketConsumer):
    groups = ["other"]


class Send(WebsocketConsumer):
    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.group_send("room", text=text)


class Job(WebsocketConsumer):
    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await triochan.Channel("jobs").send({"text": text})


sockets = [
    triochan.route_class(Room, path=r"^/group$"),
    triochan.route_class(Other, path=r"^/other$"),
    triochan.route_class(Send, path=r"^/send$"),
    triochan.route_class(Job, path=r"^/job$"),
]


async def main() -> None:
    options = common.start()
    layer = layer_from_url(options.engine, prefix=options.prefix)
    done = common.Done(options.done)

    async def work(message: triochan.Message) -> None:
        done.report(message["text"])

    work.durable = options.durable  # type: ignore[attr-defined]  # what @durable would say
    routing = [triochan.route("jobs", work)] if options.done else sockets
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(
            partial(triochan.serve, routing, host=common.HOST, port=0, layer=layer)
        )
        common.report(addresses[0].port, Path(triochan.__file__).parents[1])


if __name__ == "__main__":
    trio.run(main)

"""A consumer that writes down what happens to it, what it can be told to do, and a look at what a connection leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio
import trio.testing
from websockets.frames import Frame, Opcode

from triochan import route
from triochan.generic.websockets import WebsocketConsumer
from triochan.http import text
from triochan.layers import MemoryLayer
from triochan.sessions import http_session
from triochan.test import Client


def frame(opcode: Opcode, data: bytes, *, fin: bool = True, mask: bool = True) -> bytes:
    """A client's frame, by the `websockets` library."""
    return Frame(opcode, data, fin).serialize(mask=mask)


class Recorder:
    """A consumer class that writes down what happens to it, and can be told what to do."""

    def __init__(self, **attributes: Any) -> None:
        self.events: list[Any] = []
        self.connections: list[Any] = []
        record = self

        class Recording(WebsocketConsumer):
            groups = ["everyone"]

            async def connect(self, message: Any, **kwargs: Any) -> None:
                record.connections.append(self.connection)
                await message.reply_channel.send({"accept": True})
                await record.on("connect", self, None)

            async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
                record.events.append(text if text is not None else bytes)
                await record.on("receive", self, text if text is not None else bytes)

            async def disconnect(self, message: Any, **kwargs: Any) -> None:
                record.events.append(("disconnect", message["code"], message["reason"]))
                if message.http_session is not None:
                    message.http_session["left"] = message["code"]
                await record.on("disconnect", self, None)

        @http_session
        async def begin(message: Any) -> None:
            message.http_session["begun"] = True
            await message.reply_channel.send(text("a session"))

        self.hooks: dict[str, Callable[[Any, Any], Awaitable[None]]] = {}
        self.routing = [Recording.as_route(attributes, path="^/$"), route("http.request", begin)]

    async def on(self, what: str, consumer: Any, data: Any) -> None:
        hook = self.hooks.get(what)
        if hook is not None:
            await hook(consumer, data)

    @property
    def disconnects(self) -> list[Any]:
        return [event for event in self.events if isinstance(event, tuple)]


async def nothing_left(client: Client) -> None:
    """The connection has left no trace: wait for its task to end, then look."""
    with trio.fail_after(100):
        while client._nursery.child_tasks or client.runtime.sockets:
            await trio.testing.wait_all_tasks_blocked()
            if client._nursery.child_tasks or client.runtime.sockets:
                await trio.sleep(1)
    assert not client.runtime.websockets
    assert not client.runtime.layer._endpoints
    assert not client.runtime.timers.pending
    assert not client.runtime.http
    assert isinstance(client.runtime.layer, MemoryLayer)
    assert len(client.runtime.layer.groups) == 0


# -- what a hook of the recorder may be


async def raise_error(consumer: Any, data: Any) -> None:
    raise RuntimeError("on purpose")


async def wait_and_raise(consumer: Any, data: Any) -> None:
    await trio.sleep(1)
    raise RuntimeError("on purpose")


async def hang(consumer: Any, data: Any) -> None:
    await trio.sleep_forever()

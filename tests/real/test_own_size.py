"""What the server itself sends in one piece, beyond ``outbox_limit``, is no sign of a peer that does not read."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, ClassVar

import attrs
import pytest
import trio
import trio_websocket
import trustme

from triochan import Group, Message, route_class
from triochan.binding.collections import Collection
from triochan.binding.websockets import WebsocketBinding
from triochan.doors.trio_websocket import handle, running
from triochan.generic.websockets import WebsocketDemultiplexer
from triochan.test import LiveServer

LARGE = 6_000_000
"""Beyond the outbox's limit of 1 MiB, twice that, and what the sockets' own buffers take."""


@attrs.define
class Text:
    text: str
    id: int | None = None


def bind(source: Collection[Text], stream: str) -> type[WebsocketBinding]:
    body = {
        "model": source,
        "stream": stream,
        "fields": ["text"],
        "group_names": classmethod(lambda cls, each: ["all"]),
    }
    return type("Bound", (WebsocketBinding,), body)


@asynccontextmanager
async def serving(kind: str, routing: Any) -> AsyncIterator[Callable[[], AbstractAsyncContextManager[Any]]]:
    connect = partial(trio_websocket.open_websocket, "127.0.0.1", resource="/", max_message_size=2 * LARGE)
    if kind == "door":
        async with trio.open_nursery() as nursery, running(routing) as application:
            serve = partial(
                trio_websocket.serve_websocket,
                lambda request: handle(request, application),
                "127.0.0.1",
                0,
                None,
            )
            server = await nursery.start(serve)
            yield partial(connect, server.port, use_ssl=False)
            nursery.cancel_scope.cancel()
        return
    context = None
    trusting: ssl.SSLContext | bool = False
    if kind == "tls":
        authority = trustme.CA()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
    async with LiveServer(routing, ssl_context=context) as address:
        yield partial(connect, address.port, use_ssl=trusting)


@pytest.mark.parametrize("kind", ["tcp", "tls", "door"])
async def test_a_peer_that_reads_is_not_taken_for_slow(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    first, second = Collection(Text), Collection(Text)
    for texts in (first, second):
        for _ in range(30):
            await texts.insert(Text("x" * 100_000))
    bindings = bind(first, "first"), bind(second, "second")

    class Demultiplexer(WebsocketDemultiplexer):
        consumers: ClassVar[dict[str, Any]] = {"first": bindings[0].consumer, "second": bindings[1].consumer}
        groups = ("all",)

        async def connect(self, message: Message, **kwargs: Any) -> None:
            await first.update(1, text="before")
            for binding in bindings:
                await binding.send_list(message, self.groups)
            await first.update(1, text="behind")

        async def receive(self, content: Any, **kwargs: Any) -> None:
            if content == "lists":
                for _ in range(2):
                    await bindings[0].send_list(self.message, self.groups)
            elif content == "group":
                await Group("all").send({"text": "g" * LARGE})
            elif content == "own":
                await self.connection.send("o" * LARGE)
            await Group("all").send({"text": "small"})

    async def slowly(socket: Any, number: int) -> list[str]:
        messages = []
        for _ in range(number):
            await trio.sleep(0.05)  # the server has sent all that it will by then
            messages.append(await socket.get_message())
        return messages

    with trio.fail_after(30):
        async with serving(kind, [route_class(Demultiplexer)]) as connect, connect() as socket:
            opening = await slowly(socket, 4)
            assert ["before" in opening[0], "behind" in opening[3]] == [True, True]
            assert ['"first","payload":{"action":"list"' in opening[1], '"second"' in opening[2]] == [
                True,
                True,
            ]
            assert min(map(len, opening[1:3])) > 2_900_000
            await socket.send_message('"lists"')
            *lists, last = await slowly(socket, 3)
            assert [len(each) > 2_900_000 for each in lists] == [True, True]
            assert last == "small"
            for asked in ("group", "own"):
                await socket.send_message(f'"{asked}"')
                assert [len(each) for each in await slowly(socket, 2)] == [LARGE, 5]
    assert "1013" not in caplog.text
    assert "503" not in caplog.text

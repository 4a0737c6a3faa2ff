"""What a handler raised is freed by reference counts alone, with all that its frames hold.

So a server in a storm of errors does not stop for the garbage collector.
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import trio

from triochan import Message, route, route_class
from triochan.exceptions import ConnectionClosed, DenyConnection, HttpError
from triochan.generic.websockets import WebsocketConsumer
from triochan.test import Client


class Held:
    """What a handler holds."""


alive: list[weakref.ref[Held]] = []


def hold() -> Held:
    held = Held()
    alive.append(weakref.ref(held))
    return held


ERRORS: dict[str, Callable[[], Exception]] = {
    "error": ValueError,
    "group": lambda: ExceptionGroup("two", [ValueError(), KeyError()]),
    "denied": DenyConnection,
    "status": lambda: HttpError(404, "no such room"),
}


class Raising(WebsocketConsumer):
    """Raises where the path says, what it says; after a wait where that is asked for."""

    async def act(self, where: str) -> None:
        _, place, waits, error = self.path.split("/")
        held = hold()
        if place == where:
            if waits == "wait":
                await trio.sleep(1)
            raise ERRORS[error]()
        del held

    async def connect(self, message: Message, **kwargs: Any) -> None:
        await self.act("connect")

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.act("receive")

    async def disconnect(self, message: Message, **kwargs: Any) -> None:
        await self.act("disconnect")


async def raising(message: Message) -> None:
    held = hold()
    if message["path"].split("/")[2] == "wait":
        await trio.sleep(1)
    raise ERRORS[message["path"].split("/")[3]]() from (KeyError(repr(held)))


@pytest.fixture(autouse=True)
def _nobody_keeps_records() -> Iterator[None]:
    alive.clear()
    logging.disable()
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("error", list(ERRORS))
@pytest.mark.parametrize("waits", ["wait", "at once"])
@pytest.mark.parametrize("place", ["connect", "receive", "disconnect", "http"])
async def test_an_error_leaves_no_circle(
    place: str, waits: str, error: str, autojump_clock: trio.testing.MockClock
) -> None:
    routing = [route("http.request", raising), route_class(Raising)]
    path = f"/{place}/{waits.replace(' ', '')}/{error}"
    async with Client(routing) as client:
        if place == "http":
            await client.get(path)
        else:
            with suppress(ConnectionClosed, Exception):
                async with client.websocket(path) as socket:
                    await socket.send("x")
                    await trio.sleep(2)
        await trio.sleep(5)
    assert alive
    assert [each() for each in alive] == [None] * len(alive)

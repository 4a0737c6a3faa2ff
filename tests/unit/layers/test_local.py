"""What belongs to one connection stands on the connection, and ends with it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import trio.testing

from triochan import Application, Message, route
from triochan.exceptions import ConnectionClosed
from triochan.http1.endpoint import Exchange
from triochan.http1.writer import ResponseWriter
from triochan.layers import Departed, MemoryLayer
from triochan.message import Message as AMessage
from triochan.running import Local
from triochan.sessions import channel_session
from triochan.test import WSClient


class Visits:
    def __init__(self) -> None:
        self.count = 0


class Notes(list[str]):
    pass


def test_there_is_one_object_of_each_class() -> None:
    local = Local()
    local.of(Visits).count += 1
    local.of(Notes).append("here")  # was empty, and so false, when it was made
    assert local.of(Visits).count == 1
    assert local.of(Notes) == ["here"]
    assert Local().of(Visits).count == 0


def test_every_endpoint_has_a_local_of_its_own() -> None:
    layer = MemoryLayer()
    owner: Any = None  # which is needed for a response
    endpoints: list[Any] = [
        *(Exchange(owner, layer, ResponseWriter("GET")) for _ in range(2)),
        Departed(1000, ""),
        Departed(1000, ""),
    ]
    for each in endpoints:
        assert each.local is each.local
        each.local.of(Visits).count += 1
    assert [each.local.of(Visits).count for each in endpoints] == [1, 1, 1, 1]


async def test_a_connections_objects_go_with_it() -> None:
    kept: list[weakref.ref[Visits]] = []

    async def connect(message: Message) -> None:
        connection: Any = message.connection
        local = connection.local
        kept.append(weakref.ref(local.of(Visits)))
        assert local.of(Visits) is kept[0]()

    async with WSClient([route("websocket.connect", connect)]):
        assert kept[0]() is not None
    gc.collect()
    assert kept[0]() is None


async def test_the_session_of_an_ended_connection_is_gone() -> None:
    seen: list[Any] = []

    @channel_session
    async def handler(message: Message) -> None:
        if message.channel.name == "websocket.connect":
            message.channel_session["name"] = "ada"
            seen.append(message.reply_channel)
        else:
            seen.append(dict(message.channel_session))

    application = Application([route(["websocket.connect", "websocket.receive"], handler)])
    async with WSClient(application) as socket:
        await socket.send("hello")
        await trio.testing.wait_all_tasks_blocked()
        assert seen[1] == {"name": "ada"}
    late = AMessage({}, seen[0], seen[0])
    late.application = application
    with pytest.raises(ConnectionClosed):
        await handler(late)

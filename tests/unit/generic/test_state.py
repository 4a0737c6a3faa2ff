"""``self`` is for one message; what lives as long as the socket is in ``self.connection.state``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio

from triochan import Message, route_class
from triochan.exceptions import ImproperlyConfigured
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer, WebsocketDemultiplexer
from triochan.test import Client, WSClient


@attrs.define
class Count:
    messages: int = 0


class Counter(WebsocketConsumer):
    State = Count
    strict_ordering = True

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        self.connection.state.messages += 1
        await self.send(repr(self.connection.state))


async def test_it_is_of_the_consumers_class_and_each_connections_own() -> None:
    async with Client([route_class(Counter)]) as client:
        for _ in range(2):
            async with client.websocket("/") as socket:
                for number in range(1, 3):
                    await socket.send("x")
                    assert await socket.receive() == f"Count(messages={number})"


async def test_it_is_a_namespace_by_default() -> None:
    class Plain(WebsocketConsumer):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            self.connection.state.name = "Ada"

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            assert type(self.connection.state) is SimpleNamespace
            await self.send(self.connection.state.name)

    async with WSClient([route_class(Plain)]) as socket:
        await socket.send("x")
        assert await socket.receive() == "Ada"


async def test_what_connect_puts_on_self_is_gone_and_the_error_says_where_to_keep_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Forgetful(WebsocketConsumer):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            self.n = 0

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            self.n += 1

    async with WSClient([route_class(Forgetful)]) as socket:
        await socket.send("x")
        assert (await socket.wait_closed()).code == 1011
    assert "'Forgetful' object has no attribute 'n'" in caplog.text
    assert "Keep it in self.connection.state.n, which lives as long as the socket" in caplog.text


async def test_the_error_itself_says_so_where_a_method_puts_something_on_self() -> None:
    class Forgetful(WebsocketConsumer):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            self.n = 0

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            try:
                self.n += 1
            except AttributeError as error:
                await self.send(str(error))

    class Inherits(Forgetful):
        pass

    for consumer in (Forgetful, Inherits):
        async with WSClient([route_class(consumer)]) as socket:
            await socket.send("x")
            said = await socket.receive()
            assert isinstance(said, str)
            assert f"{consumer.__name__!r} object has no attribute 'n'. An instance of" in said
            assert "Keep it in self.connection.state.n" in said


def test_who_puts_nothing_on_self_has_fast_attributes() -> None:
    class Careful(WebsocketConsumer):
        limit = 10

        async def connect(self, message: Message, **kwargs: Any) -> None:
            self.connection.state.n = 0
            other = self.connection.state
            other.m = 1

    class Special(WebsocketConsumer):
        def __getattr__(self, name: str) -> int:
            return 1

        def put(self) -> None:
            self.n = 1

    assert not hasattr(Careful, "__getattr__")
    assert not hasattr(WebsocketConsumer, "__getattr__")
    assert Special.__getattr__.__qualname__.endswith("Special.__getattr__")


async def test_so_it_does_where_a_task_of_the_handlers_asks_for_it(caplog: pytest.LogCaptureFixture) -> None:
    class Forgetful(WebsocketConsumer):
        async def count(self) -> None:
            self.n += 1  # type: ignore[attr-defined]

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.count)
                nursery.start_soon(self.count)

    async with WSClient([route_class(Forgetful)]) as socket:
        await socket.send("x")
        assert (await socket.wait_closed()).code == 1011
    assert caplog.text.count("Keep it in self.connection.state.n, which lives as long as the socket") == 2


class Needs:
    def __init__(self, name: str) -> None: ...


@pytest.mark.parametrize("base", [WebsocketConsumer, JsonWebsocketConsumer, WebsocketDemultiplexer])
@pytest.mark.parametrize(
    ("state", "says"),
    [(Needs, "made without arguments"), ({}, "is a class, not {}"), (Count(), "is a class")],
)
def test_one_that_is_none_is_found_at_definition(base: type, state: Any, says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=rf"Made\.State .*{says}|Made\.State {says}"):
        route_class(type("Made", (base,), {"__module__": __name__, "State": state}))


def test_a_class_written_in_c_is_taken() -> None:
    route_class(type("Made", (WebsocketConsumer,), {"__module__": __name__, "State": dict}))

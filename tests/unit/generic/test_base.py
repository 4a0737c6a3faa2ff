"""``BaseConsumer``: dispatch by the channel's name, instances of their own, routes, and what may be overridden."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

from triochan import Channel, Message, include, route, route_class
from triochan.exceptions import ImproperlyConfigured
from triochan.generic import BaseConsumer
from triochan.generic.websockets import WebsocketConsumer
from triochan.test import Client, WSClient


class Recorder(BaseConsumer):
    method_mapping = {"one.created": "created", "one.deleted": "deleted"}
    seen: list[Any] = []

    async def created(self, message: Message, **kwargs: Any) -> None:
        self.seen.append(("created", self, message, kwargs))

    async def deleted(self, message: Message, **kwargs: Any) -> None:
        self.seen.append(("deleted", self, message, kwargs))


@pytest.fixture(autouse=True)
def _forget() -> None:
    Recorder.seen.clear()


async def test_a_channel_reaches_its_method() -> None:
    async with Client([route_class(Recorder)]):
        await Channel("one.deleted").send({"n": 1})
        await Channel("one.created").send({"n": 2})
        await wait_all_tasks_blocked()
    assert sorted((name, message["n"]) for name, _, message, _ in Recorder.seen) == [
        ("created", 2),
        ("deleted", 1),
    ]


async def test_an_instance_is_made_for_each_message() -> None:
    async with Client([route_class(Recorder, n="(?P<number>.*)")]):
        await Channel("one.created").send({"n": "1"})
        await Channel("one.created").send({"n": "2"})
        await wait_all_tasks_blocked()
    (_, first, message, kwargs), (_, second, _, _) = Recorder.seen
    assert first is not second
    assert first.message is message
    assert first.kwargs == kwargs == {"number": "1"}
    assert first.connection is None


def test_channel_names_are_those_of_the_mapping() -> None:
    assert BaseConsumer.channel_names() == set()
    assert Recorder.channel_names() == {"one.created", "one.deleted"}
    assert route_class(Recorder).channel_names() == Recorder.channel_names()


async def test_dispatch_and_channel_names_may_be_overridden() -> None:
    class Custom(Recorder):
        @classmethod
        def channel_names(cls) -> set[str]:
            return {"any.thing"}

        async def dispatch(self, message: Message, **kwargs: Any) -> None:
            await self.created(message, **kwargs)

    async with Client([route_class(Custom)]):
        await Channel("any.thing").send({})
        await wait_all_tasks_blocked()
    assert [name for name, *_ in Recorder.seen] == ["created"]


async def test_get_handler_may_be_wrapped() -> None:
    class Wrapped(Recorder):
        def get_handler(self, *args: Any, **kwargs: Any) -> Any:
            handler = super().get_handler(*args, **kwargs)

            async def wrapper(message: Message, **kwargs: Any) -> None:
                await handler(message, wrapped=True, **kwargs)

            return wrapper

    async with Client([route_class(Wrapped)]):
        await Channel("one.created").send({})
        await wait_all_tasks_blocked()
    [(_, _, _, kwargs)] = Recorder.seen
    assert kwargs == {"wrapped": True}


async def test_as_route_takes_filters_and_attributes() -> None:
    class Greets(WebsocketConsumer):
        word = "hello"

        async def connect(self, message: Message, **kwargs: Any) -> None:
            await self.send(text=f"{self.word} {kwargs.get('name')}")

    routing = [
        Greets.as_route(path=r"^/plain/(?P<name>\w+)$"),
        Greets.as_route({"word": "ahoy", "strict_ordering": True}, path="^/attrs$"),
        include([Greets.as_route({"word": "hi"}, path="^/(?P<name>.+)$")], path="^/included"),
    ]
    async with Client(routing) as client:
        for path, text in (("/plain/ada", "hello ada"), ("/attrs", "ahoy None"), ("/included/bob", "hi bob")):
            async with client.websocket(path) as socket:
                assert await socket.receive() == text
    assert Greets.word == "hello"
    assert not Greets.strict_ordering
    made = Greets.as_route({"strict_ordering": True}).consumer
    assert isinstance(made, type)
    assert issubclass(made, Greets)
    assert (made.__name__, made.__module__, made.strict_ordering) == ("Greets", Greets.__module__, True)
    assert Greets.as_route().consumer is Greets


def test_as_route_takes_a_mapping() -> None:
    with pytest.raises(TypeError, match=r"attrs is a mapping of class attributes, not \['strict_ordering'\]"):
        Recorder.as_route(["strict_ordering"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        (
            {"method_mapping": {"a.b": "missing"}},
            "method_mapping sends 'a.b' to 'missing', but .*Bad has no such method",
        ),
        (
            {"method_mapping": {"a.b": "method"}, "method": lambda self, message: None},
            "Bad.method is not 'async def'",
        ),
    ],
)
def test_mistakes_are_found_by_the_routing(attributes: dict[str, Any], said: str) -> None:
    bad: type[BaseConsumer] = type("Bad", (BaseConsumer,), attributes)
    with pytest.raises(ImproperlyConfigured, match=said):
        route_class(bad)
    with pytest.raises(ImproperlyConfigured, match=said):
        bad.as_route()


async def test_a_raising_method_does_not_stop_the_next_one(caplog: pytest.LogCaptureFixture) -> None:
    class Raises(Recorder):
        async def created(self, message: Message, **kwargs: Any) -> None:
            if message["n"] == 1:
                raise LookupError("an error of the program's")
            await super().created(message, **kwargs)

    async with Client([route_class(Raises)]):
        await Channel("one.created").send({"n": 1})
        await Channel("one.created").send({"n": 2})
        await wait_all_tasks_blocked()
    assert [message["n"] for _, _, message, _ in Recorder.seen] == [2]
    assert "LookupError: an error of the program's" in caplog.text


async def test_methods_are_looked_up_on_the_instance() -> None:
    """What an instance's ``__init__`` puts on itself is used."""

    class Dynamic(Recorder):
        def __init__(self, message: Message, **kwargs: Any) -> None:
            super().__init__(message, **kwargs)
            if message["n"] == 2:
                self.created = self.deleted  # type: ignore[method-assign]

    async with Client([route_class(Dynamic)]):
        await Channel("one.created").send({"n": 1})
        await Channel("one.created").send({"n": 2})
        await wait_all_tasks_blocked()
    assert sorted((message["n"], name) for name, _, message, _ in Recorder.seen) == [
        (1, "created"),
        (2, "deleted"),
    ]


async def test_a_class_may_stand_in_a_plain_route() -> None:
    class Echo(WebsocketConsumer):
        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            await self.send(text=text, bytes=bytes)

    routing = [route(["websocket.connect", "websocket.receive", "websocket.disconnect"], Echo)]
    async with WSClient(routing) as socket:
        await socket.send("hello")
        assert await socket.receive() == "hello"

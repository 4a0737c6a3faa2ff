"""``JsonWebsocketConsumer[In, Out]``: what stands in the brackets is the content's annotation where there is none."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, get_origin

import attrs
import pytest

from triochan import Application, Message, route_class
from triochan.exceptions import ImproperlyConfigured
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketDemultiplexer
from triochan.test import WSClient


@attrs.frozen
class Point:
    x: int


@attrs.frozen
class Line:
    points: list[Point]


A = TypeVar("A")
B = TypeVar("B")


class Both(JsonWebsocketConsumer[Point, Line]):
    async def receive(self, content, **kwargs) -> None:  # type: ignore[no-untyped-def]
        await self.send(Line([content]))


class One(JsonWebsocketConsumer[Point]):
    async def receive(self, content, **kwargs) -> None:  # type: ignore[no-untyped-def]
        await self.send(Line([content]))


class Inherited(Both):
    pass


class Own(JsonWebsocketConsumer[Point, Any]):
    async def receive(self, content: Line, **kwargs: Any) -> None:  # type: ignore[override]
        await self.send(content)


class PlainAnnotation(JsonWebsocketConsumer[Point, Any]):
    async def receive(self, content: Any, **kwargs: Any) -> None:
        await self.send(content)


class PlainBrackets(JsonWebsocketConsumer[dict[str, int], Any]):
    async def receive(self, content, **kwargs) -> None:  # type: ignore[no-untyped-def]
        await self.send(content)


class Bare(JsonWebsocketConsumer):
    async def receive(self, content, **kwargs) -> None:  # type: ignore[no-untyped-def]
        await self.send(content)


class Wrapping(JsonWebsocketConsumer[A, list[A]], Generic[A]):
    async def receive(self, content: A, **kwargs: Any) -> None:
        await self.send([content])


class Wrapped(Wrapping[Point]):
    pass


class WrappedAnything(Wrapping):  # type: ignore[type-arg]
    pass


class Swapped(JsonWebsocketConsumer[B, A], Generic[A, B]):
    async def receive(self, content: B, **kwargs: Any) -> None:
        await self.send(content)  # type: ignore[arg-type]


class SwappedBack(Swapped[Line, Point]):
    pass


class Mixin:
    pass


class Mixed(Mixin, Generic[A], JsonWebsocketConsumer[Point, Any]):
    async def receive(self, content, **kwargs) -> None:  # type: ignore[no-untyped-def]
        await self.send(content)


class Later(JsonWebsocketConsumer["Further", Any]):
    async def receive(self, content, **kwargs) -> None:  # type: ignore[no-untyped-def]
        await self.send(content)


@attrs.frozen
class Further:
    x: int


INVALID = "content_invalid is called"


@pytest.mark.parametrize(
    ("consumer", "content", "answer"),
    [
        (Both, {"x": 1}, {"points": [{"x": 1}]}),
        (Both, {"x": "1"}, INVALID),
        (One, {"x": 1}, {"points": [{"x": 1}]}),
        (One, {"y": 1}, INVALID),
        (Inherited, {"x": 1}, {"points": [{"x": 1}]}),
        (Inherited, {"x": None}, INVALID),
        (Own, {"points": [{"x": 1}]}, {"points": [{"x": 1}]}),
        (Own, {"x": 1}, INVALID),
        (PlainAnnotation, {"y": 1}, {"y": 1}),
        (PlainBrackets, {"y": "no int"}, {"y": "no int"}),
        (Bare, {"y": 1}, {"y": 1}),
        (Wrapped, {"x": 1}, [{"x": 1}]),
        (Wrapped, {"y": 1}, INVALID),
        (WrappedAnything, {"y": 1}, [{"y": 1}]),
        (SwappedBack, {"x": 1}, {"x": 1}),
        (SwappedBack, {"points": []}, INVALID),
        (Mixed, {"x": 1}, {"x": 1}),
        (Mixed, {"y": 1}, INVALID),
        (Later, {"x": 1}, {"x": 1}),
        (Later, {"y": 1}, INVALID),
    ],
)  # fmt: skip
async def test_what_is_in_the_brackets_is_what_comes(consumer: Any, content: Any, answer: Any) -> None:
    async with WSClient([route_class(consumer)]) as socket:
        await socket.send_json(content)
        got = await socket.receive_json()
        if answer is INVALID:
            assert got["error"] == "invalid content"
        else:
            assert got == answer


def test_a_name_that_is_not_there_is_found_when_it_is_routed_to() -> None:
    class Lost(JsonWebsocketConsumer["Nowhere", Any]):  # type: ignore[name-defined]
        async def receive(self, content, **kwargs) -> None:  # type: ignore[no-untyped-def]
            await self.send(content)

    with pytest.raises(
        ImproperlyConfigured, match=r"Lost\.receive: the annotation 'Nowhere' can't be understood"
    ):
        route_class(Lost)


def test_there_are_no_more_than_two() -> None:
    with pytest.raises(TypeError, match="Too many"):
        JsonWebsocketConsumer[int, int, int]  # type: ignore[misc]


async def test_a_stream_may_have_them_too() -> None:
    class Streams(WebsocketDemultiplexer):
        consumers = {"points": Points}

    async with WSClient([route_class(Streams)]) as socket:
        await socket.send_json({"stream": "points", "payload": {"x": 2}})
        assert await socket.receive_json() == {"stream": "points", "payload": {"x": 3}}
        await socket.send_json({"stream": "points", "payload": {"x": "2"}})
        assert (await socket.receive_json())["error"] == "invalid content"


class Points(JsonWebsocketConsumer[Point, Point]):
    async def receive(self, content, multiplexer, **kwargs) -> None:  # type: ignore[no-untyped-def]
        await multiplexer.send(Point(content.x + 1))


def test_a_message_may_say_who_its_user_is_at_run_time() -> None:
    assert get_origin(Message[Point]) is Message
    assert get_origin(Application[Point]) is Application

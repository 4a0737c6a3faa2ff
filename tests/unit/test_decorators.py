"""``method_decorator``, and decorators around what ``get_handler`` returns (Channels 1: "Applying Decorators")."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from triochan import Message, route_class
from triochan.decorators import method_decorator
from triochan.generic import BaseConsumer
from triochan.generic.websockets import WebsocketConsumer
from triochan.security import allowed_hosts_only
from triochan.sessions import channel_session, enforce_ordering
from triochan.test import Client, WSClient

calls: list[Any] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


def noting(word: str) -> Callable[..., Any]:
    """A decorator as a program would write it: its first argument is the message."""

    def decorator(handler: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(handler)
        async def wrapper(message: Message, *args: Any, **kwargs: Any) -> Any:
            assert isinstance(message, Message)
            calls.append(word)
            return await handler(message, *args, **kwargs)

        return wrapper

    return decorator


def plain(handler: Callable[..., Any]) -> Callable[..., Any]:
    """One that is not async itself, and passes on what is to be awaited."""

    def wrapper(message: Message, **kwargs: Any) -> Any:
        calls.append("plain")
        return handler(message, **kwargs)

    return wrapper


async def test_on_a_method() -> None:
    class Consumer(WebsocketConsumer):
        @method_decorator(noting("a"))
        @method_decorator([noting("b"), plain])
        async def connect(self, message: Message, **kwargs: Any) -> None:
            """What it does."""
            assert message is self.message
            calls.append((type(self).__name__, kwargs))

    assert Consumer.connect.__name__ == "connect"
    assert Consumer.connect.__doc__ == "What it does."
    async with WSClient([route_class(Consumer, path="/(?P<room>[a-z]+)/")], "/kitchen/"):
        pass
    assert calls == ["a", "b", "plain", ("Consumer", {"room": "kitchen"})]


async def test_on_a_class_by_the_methods_name() -> None:
    class Base(WebsocketConsumer):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            calls.append("connect")

    @method_decorator(noting("a"), name="connect")
    @method_decorator(channel_session, name="disconnect")
    class Consumer(Base):
        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            assert self.message.channel_session == {}
            calls.append("disconnect")

    async with Client([route_class(Base, path="/base/"), route_class(Consumer)]) as client:
        async with client.websocket("/"):
            pass
        async with client.websocket("/base/"):
            pass
    assert sorted(map(str, calls)) == ["a", "connect", "connect", "disconnect"]


async def test_triochans_own_decorators_need_no_help_on_methods() -> None:
    class Consumer(BaseConsumer):
        method_mapping = {"websocket.connect": "connect", "websocket.receive": "receive"}

        @channel_session
        async def connect(self, message: Message, **kwargs: Any) -> None:
            message.channel_session["a"] = 1

        @method_decorator(channel_session)
        async def receive(self, message: Message, **kwargs: Any) -> None:
            await message.reply_channel.send({"text": str(message.channel_session["a"])})

    async with WSClient([route_class(Consumer)]) as socket:
        await socket.send("?")
        assert await socket.receive() == "1"


def test_what_a_decorator_says_of_its_function_holds_for_the_method() -> None:
    class Consumer:
        @method_decorator(enforce_ordering)
        async def handle(self, message: Message) -> None: ...

    assert Consumer.handle.strict_ordering is True  # type: ignore[attr-defined]


async def test_around_what_get_handler_returns() -> None:
    class Consumer(WebsocketConsumer):
        def get_handler(self, *args: Any, **kwargs: Any) -> Any:
            handler = super().get_handler(*args, **kwargs)
            return noting(args[0].channel.name)(handler)

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            await self.send(text=text)

    async with WSClient([route_class(Consumer)]) as socket:
        await socket.send("?")
        assert await socket.receive() == "?"
        assert calls == ["websocket.connect", "websocket.receive"]


def test_what_it_can_not_decorate_is_said_at_once() -> None:
    with pytest.raises(TypeError, match="takes decorators, not 7"):
        method_decorator([7])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        method_decorator(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="goes on a method or a class"):
        method_decorator(allowed_hosts_only)(7)
    for name in ("", "nothing"):
        with pytest.raises(ValueError, match="needs name=, one of its methods"):

            @method_decorator(allowed_hosts_only, name=name)
            class Consumer(WebsocketConsumer): ...

"""A demultiplexer's end: each stream's ``disconnect`` has its turn, whatever another one's does."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import pytest
import trio
import trio.testing
from door import DoorClient
from recorder import nothing_left

from triochan import Group, Settings
from triochan.exceptions import ConnectionClosed
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketDemultiplexer
from triochan.message import Message
from triochan.test import Client
from triochan.test.client import HandshakeRefused

SETTINGS = Settings(disconnect_timeout=4)
ENDED: list[Any] = []


@pytest.fixture(autouse=True)
def none_ended() -> None:
    ENDED.clear()


class Leaving(JsonWebsocketConsumer):
    async def disconnect(self, message: Message, multiplexer: Any = None, **kwargs: Any) -> None:
        ENDED.append(multiplexer.stream)


class Waiting(Leaving):
    async def disconnect(self, message: Message, multiplexer: Any = None, **kwargs: Any) -> None:
        await trio.sleep(3)
        await super().disconnect(message, multiplexer=multiplexer, **kwargs)


class Hanging(JsonWebsocketConsumer):
    async def disconnect(self, message: Message, **kwargs: Any) -> None:
        await trio.sleep_forever()


class Raising(JsonWebsocketConsumer):
    async def disconnect(self, message: Message, **kwargs: Any) -> None:
        raise RuntimeError("on purpose")


class RaisingWhenCancelled(JsonWebsocketConsumer):
    async def disconnect(self, message: Message, **kwargs: Any) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise RuntimeError("on purpose")


class Closed(JsonWebsocketConsumer):
    async def disconnect(self, message: Message, **kwargs: Any) -> None:
        raise ConnectionClosed


class GroupsRaise(Leaving):
    def connection_groups(self, **kwargs: Any) -> list[str]:
        return [f"room-{self.message['query_string'].decode()}"]

    async def raw_connect(self, message: Message, **kwargs: Any) -> None:
        """It joins none."""


class GetHandlerRaises(Leaving):
    def get_handler(self, message: Message, **kwargs: Any) -> Any:
        if message.channel.name == "websocket.disconnect":
            raise RuntimeError("on purpose")
        return super().get_handler(message, **kwargs)


class RawRaises(Leaving):
    async def raw_disconnect(self, message: Message, **kwargs: Any) -> None:
        raise RuntimeError("on purpose")


class InitRaises(Leaving):
    def __init__(self, message: Message, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        if message.channel.name == "websocket.disconnect":
            raise RuntimeError("on purpose")


async def function(message: Message, **kwargs: Any) -> None:
    if message.channel.name == "websocket.disconnect":
        await trio.sleep_forever()


def demultiplexer(**streams: Any) -> type[WebsocketDemultiplexer]:
    return type("Streams", (WebsocketDemultiplexer,), {"consumers": streams})


async def come_and_go(client: Client, path: str = "/") -> None:
    async with client.websocket(path):
        pass
    await nothing_left(client)


# What it does, whether its own `disconnect` runs, and what the log says of it.
BAD: dict[str, tuple[Any, bool, str | None]] = {
    "hangs": (Hanging, False, "stream 'bad'"),
    "raises": (Raising, False, "on purpose"),
    "raises when it is cancelled": (RaisingWhenCancelled, False, "on purpose"),
    "its peer is gone": (Closed, False, "broke off"),
    "its groups raise": (GroupsRaise, True, "query_string"),
    "its get_handler raises": (GetHandlerRaises, True, "on purpose"),
    "its raw_disconnect raises": (RawRaises, True, "on purpose"),
    "its __init__ raises": (InitRaises, False, "on purpose"),
    "a function hangs": (function, False, "stream 'bad'"),
    "nothing": (Leaving, True, None),
}


@pytest.mark.parametrize("client_class", [Client, DoorClient])
@pytest.mark.parametrize("place", ["first", "last", "alone"])
@pytest.mark.parametrize("what", BAD)
async def test_every_stream_has_its_turn(
    what: str,
    place: str,
    client_class: type[Client],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    bad, runs, said = BAD[what]
    good = {f"good{number}": (Leaving, Waiting)[number % 2] for number in range(20)}
    streams = {"bad": bad} | good if place == "first" else good | {"bad": bad}
    cls = demultiplexer(**(streams if place != "alone" else {"bad": bad}))
    async with client_class([cls.as_route()], settings=SETTINGS) as client:
        started = trio.current_time()
        await come_and_go(client)
        assert trio.current_time() - started <= SETTINGS.disconnect_timeout + 1
        expected = set(good if place != "alone" else ()) | ({"bad"} if runs else set())
        assert set(ENDED) == expected
        assert len(ENDED) == len(expected)
    entries = [entry for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert len(entries) == (said is not None)
    for entry in entries:
        told = [entry.getMessage()]
        error = entry.exc_info[1] if entry.exc_info else None
        while error is not None:
            told += [str(error), *getattr(error, "__notes__", ())]
            error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        assert "Streams" in told[0]
        assert said is not None
        assert any(said in each for each in told), told


async def test_streams_are_told_in_their_order() -> None:
    names = [f"s{number}" for number in range(50)]
    async with Client([demultiplexer(**dict.fromkeys(names, Leaving)).as_route()]) as client:
        for _ in range(5):
            ENDED.clear()
            await come_and_go(client)
            assert names == ENDED


async def test_several_that_hang_are_all_named(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    cls = demultiplexer(a=Hanging, b=Waiting, c=Hanging, d=Raising)
    async with Client([cls.as_route()], settings=SETTINGS) as client:
        await come_and_go(client)
    assert ENDED == ["b"]
    [entry] = [entry for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert entry.exc_info is not None
    group = entry.exc_info[1]
    assert isinstance(group, ExceptionGroup)
    told = sorted(str(error) for error in group.exceptions)
    assert told == [
        "on purpose",
        f"the disconnect of stream 'a', {__name__}.Hanging, took too long",
        f"the disconnect of stream 'c', {__name__}.Hanging, took too long",
    ]


async def test_a_stream_that_was_never_opened_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    class Streams(WebsocketDemultiplexer):
        consumers: ClassVar[Any] = {"a": Leaving, "b": Leaving}

        async def connect(self, message: Message, **kwargs: Any) -> None:
            """None of them is asked."""

    async with Client([Streams.as_route()]) as client:
        await come_and_go(client)
    assert ENDED == ["a", "b"]
    assert caplog.records == []


async def test_a_stream_behind_one_that_crashed_the_accepted_socket_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Crashing(Leaving):
        async def connect(self, message: Message, multiplexer: Any = None, **kwargs: Any) -> None:
            await multiplexer.send({})
            raise RuntimeError("on purpose")

    async with Client([demultiplexer(a=Crashing, b=Leaving).as_route()]) as client:
        await come_and_go(client)
    assert ENDED == ["a", "b"]
    assert len(caplog.records) == 1


async def test_a_refusal_by_one_stream_is_no_disconnect_for_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Refusing(Leaving):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            await self.close()

    async with Client([demultiplexer(a=Leaving, b=Refusing).as_route()]) as client:
        with pytest.raises(HandshakeRefused, match="403"):
            async with client.websocket("/"):
                raise AssertionError("it was accepted")
        await nothing_left(client)
    assert ENDED == []


async def test_a_shutdown_that_leaves_no_time_tells_every_stream(
    autojump_clock: trio.testing.MockClock,
) -> None:
    cls = demultiplexer(a=Hanging, b=Leaving, c=Hanging, d=Leaving)
    async with Client([cls.as_route()], settings=SETTINGS) as client:
        async with client.websocket("/") as socket:
            client.runtime.deadline = trio.current_time()  # it is over already
            await socket.vanish()
            await nothing_left(client)
    assert ENDED == ["b", "d"]


async def test_the_groups_of_each_stream_are_its_own() -> None:
    seen: list[Any] = []

    class Grouped(JsonWebsocketConsumer):
        def connection_groups(self, multiplexer: Any = None, **kwargs: Any) -> list[str]:
            return [f"{multiplexer.stream}-{self.message['query_string'].decode()}"]

        async def disconnect(self, message: Message, multiplexer: Any = None, **kwargs: Any) -> None:
            seen.append((multiplexer.stream, await Group(f"{multiplexer.stream}-1").members()))

    async with Client([demultiplexer(a=Grouped, b=Grouped).as_route()]) as client:
        async with client.websocket("/?1"):
            assert len(await Group("a-1").members()) == len(await Group("b-1").members()) == 1
        await nothing_left(client)
    assert seen == [("a", []), ("b", [])]

"""``disconnect`` is owed to every accepted connection: what fails, hangs or sends at its end does not skip it."""

from __future__ import annotations

import functools
import logging
import sqlite3
from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import parse_qs

import pytest
import trio
import trio.testing
from door import DoorClient
from recorder import nothing_left

from triochan import Application, Channel, Group, Settings, route, route_class
from triochan.auth import (
    AnonymousUser,
    channel_and_http_session_user_from_http,
    channel_session_user,
    channel_session_user_from_http,
)
from triochan.decorators import method_decorator
from triochan.exceptions import ImproperlyConfigured, LayerUnavailable, SessionStoreUnavailable
from triochan.generic.base import BaseConsumer
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer, WebsocketDemultiplexer
from triochan.http import text
from triochan.layers import MemoryLayer
from triochan.message import Message
from triochan.sessions import (
    MemorySessionStore,
    channel_and_http_session,
    channel_session,
    enforce_ordering,
    http_session,
)
from triochan.test import Client
from triochan.test.client import HandshakeRefused

CLIENTS = [Client, DoorClient]
SETTINGS = Settings(disconnect_timeout=4)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]


def causes(caplog: pytest.LogCaptureFixture) -> str:
    """What the tracebacks in the log say."""
    return "\n".join(str(entry.exc_info[1:2]) for entry in caplog.records if entry.exc_info)


async def come_and_go(client: Client, path: str = "/", *, headers: Any = ()) -> None:
    """Connect, be answered, and leave; wait until nothing of it is left."""
    async with client.websocket(path, headers=headers) as socket:
        await socket.send("x")
        assert await socket.receive() == "ok"
    await nothing_left(client)


class Answering(WebsocketConsumer):
    """A consumer that answers, and notes its disconnects."""

    ended: ClassVar[list[Any]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.ended = []

    async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
        await self.send(text="ok")

    async def disconnect(self, message: Message, **kwargs: Any) -> None:
        self.ended.append(sorted(await Group("room-1").members()))


# -- the groups -------------------------------------------------------------------------------------------------------


class ByQuery(Answering):
    def connection_groups(self, **kwargs: Any) -> list[str]:
        return [f"room-{parse_qs(self.message['query_string'])[b'room'][0].decode()}"]


class ByHeaders(Answering):
    def connection_groups(self, **kwargs: Any) -> Any:
        yield f"room-{dict(self.message['headers'])[b'x-room'].decode()}"


class ByCountdown(Answering):
    left: ClassVar[list[str]] = ["room-1"]

    def connection_groups(self, **kwargs: Any) -> list[str]:
        return [self.left.pop()]


class ByPrivate(Answering):
    def _group_names(self, kwargs: dict[str, Any]) -> list[str]:
        return [f"room-{self.message['query_string'].decode()[-1]}"]


class ByProperty(Answering):
    @property
    def groups(self) -> Any:  # type: ignore[override]
        return [f"room-{self.message['query_string'].decode()[-1]}"]


class ByRoute(Answering):
    groups = ["room-1"]


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("cls", [ByQuery, ByHeaders, ByCountdown, ByPrivate, ByProperty, ByRoute])
async def test_groups_are_asked_once_and_left_before_disconnect(
    cls: type[Answering], client_class: type[Client], caplog: pytest.LogCaptureFixture
) -> None:
    class Consumer(cls):  # type: ignore[valid-type, misc]
        left: ClassVar[list[str]] = ["room-1"]

        async def connect(self, message: Message, **kwargs: Any) -> None:
            assert await Group("room-1").members() == [message.reply_channel.name]

    async with client_class([Consumer.as_route()]) as client:
        await come_and_go(client, "/?room=1", headers=[("X-Room", "1")])
    assert Consumer.ended == [[]]
    assert complaints(caplog) == []


@pytest.mark.parametrize("joined", [True, False])
async def test_groups_that_raise_at_the_end_do_not_skip_disconnect(
    joined: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Where ``raw_connect`` did not join them, they are asked for at the end."""

    class Consumer(Answering):
        def connection_groups(self, **kwargs: Any) -> list[str]:
            return [f"room-{self.message['query_string'].decode()[-1]}"]

        if not joined:

            async def raw_connect(self, message: Message, **kwargs: Any) -> None:
                await Group("room-1").add(message.reply_channel)

    async with Client([Consumer.as_route()]) as client:
        await come_and_go(client, "/?room=1")
        assert len(Consumer.ended) == 1
    if joined:
        assert complaints(caplog) == []
    else:
        [line] = complaints(caplog)
        assert Consumer.__qualname__ in line
        assert "disconnect" in line
        assert "KeyError('query_string')" in causes(caplog)


async def test_an_async_connection_groups_is_refused_with_the_way(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    class Consumer(Answering):
        async def connection_groups(self, **kwargs: Any) -> list[str]:  # type: ignore[override]
            return ["room-1"]

    async with Client([Consumer.as_route()]) as client:
        with pytest.raises(HandshakeRefused, match="500"):
            async with client.websocket("/"):
                raise AssertionError("it was accepted")
        await nothing_left(client)
    assert len(complaints(caplog)) == 1
    assert "a plain 'def'" in causes(caplog)


async def test_groups_and_disconnect_may_raise_both(caplog: pytest.LogCaptureFixture) -> None:
    class Consumer(Answering):
        groups = ["room-1", "room-2"]

        async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
            layer.away = True
            await super().receive(text)

        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            raise RuntimeError("on purpose")

    layer = AwayLayer()
    async with Client([Consumer.as_route()], layer=layer) as client:
        await come_and_go(client)
    assert len(complaints(caplog)) == 1
    [entry] = [entry for entry in caplog.records if entry.exc_info]
    assert entry.exc_info is not None
    group = entry.exc_info[1]
    assert isinstance(group, ExceptionGroup)
    assert [type(error) for error in group.exceptions] == [LayerUnavailable, LayerUnavailable, RuntimeError]


class AwayLayer(MemoryLayer):
    away = False

    async def group_discard(self, group: str, channel: str) -> None:
        if self.away:
            raise LayerUnavailable("the engine does not answer")
        await super().group_discard(group, channel)


async def test_a_layer_that_is_away_does_not_skip_disconnect(caplog: pytest.LogCaptureFixture) -> None:
    class Consumer(Answering):
        groups = ["room-1", "room-2"]

        async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
            layer.away = True
            await super().receive(text)

    layer = AwayLayer()
    async with Client([Consumer.as_route()], layer=layer) as client:
        await come_and_go(client)
    assert len(Consumer.ended) == 1
    [line] = complaints(caplog)
    assert Consumer.__qualname__ in line
    assert "does not answer" in causes(caplog)


# -- sessions and users -----------------------------------------------------------------------------------------------


class AwayStore(MemorySessionStore):
    """A session store that is away from a moment on: it raises, or it hangs."""

    away: Any = None

    async def load(self, key: str) -> str | None:
        await self._check()
        return await super().load(key)

    async def save(self, key: str, text: str, lifetime: float, *, new: bool) -> bool:
        await self._check()
        return await super().save(key, text, lifetime, new=new)

    async def delete(self, key: str) -> None:
        await self._check()
        await super().delete(key)

    async def _check(self) -> None:
        if self.away == "hangs":
            await trio.sleep_forever()
        elif self.away is not None:
            raise self.away


class User:
    id = 7


USERS: dict[str, tuple[str | None, Callable[[Any], Any] | None]] = {
    "channel_session": ("channel_session", None),
    "channel_session_user": ("channel_session_user", None),
    "http_user": ("http_user", None),
    "http_user_and_session": ("http_user_and_session", None),
    "in get_handler": (None, channel_session_user_from_http),
    "in get_handler, with http": (None, channel_and_http_session_user_from_http),
}


@pytest.mark.parametrize("what", ["user_loader", "store", "channel store", "both stores"])
@pytest.mark.parametrize(
    "how",
    [
        SessionStoreUnavailable("away"),
        sqlite3.OperationalError("away"),
        KeyError("away"),
        ExceptionGroup("away", [OSError("away")]),
        "hangs",
    ],
    ids=["unavailable", "sqlite", "KeyError", "group", "hangs"],
)
@pytest.mark.parametrize("asked", USERS)
async def test_a_session_or_user_that_can_t_be_had(
    asked: str,
    how: Any,
    what: str,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    attribute, decorator = USERS[asked]
    failing, armed = False, True

    @http_session
    async def begin(message: Message) -> None:
        message.http_session["user_id"] = 7
        await message.reply_channel.send(text("a session"))

    async def load(session: Any) -> Any:
        if failing and what == "user_loader":
            if how == "hangs":
                await trio.sleep_forever()
            raise how
        return User()

    seen: list[Any] = []

    class Consumer(WebsocketConsumer):
        groups = ["room"]

        def get_handler(self, message: Message, **kwargs: Any) -> Any:
            handler = super().get_handler(message, **kwargs)
            return handler if decorator is None else decorator(handler)

        async def connect(self, message: Message, **kwargs: Any) -> None:
            message.channel_session["name"] = "ada"

        async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
            nonlocal failing
            failing = armed
            if armed and what in ("store", "both stores"):
                store.away = how
            await self.send(text="ok")

        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            # What a clean-up does with them.
            seen.append((message.channel_session.get("name"), message.user, await Group("room").members()))
            message.channel_session["left"] = True
            if message.http_session is not None:
                message.http_session["left"] = True

    store, channel_store = AwayStore(), AwayStore()
    if attribute is not None:
        setattr(Consumer, attribute, True)
    application = Application(
        [Consumer.as_route(), route("http.request", begin)],
        session_store=store,
        channel_session_store=channel_store if "channel" in what or "both" in what else None,
        user_loader=load,
        secrets=["a secret that is long enough"],
    )
    async with Client(application, settings=SETTINGS) as client:
        await client.get("/")
        async with client.websocket("/") as socket:
            await socket.send("x")
            assert await socket.receive() == "ok"
            if what in ("channel store", "both stores"):
                channel_store.away = how
        await nothing_left(client)
        [(name, user, members)] = seen
        seen.clear()
        assert members == []
        assert name in ("ada", None)
        if "user" in asked or "get_handler" in asked:
            assert isinstance(user, (User, AnonymousUser))
        failing = armed = False
        store.away = channel_store.away = None
        await come_and_go(client)  # the next client is served
        assert [(name, members) for name, _, members in seen] == [("ada", [])]
    lines = complaints(caplog)
    expected = {
        "user_loader": asked != "channel_session",
        "store": asked in ("http_user_and_session", "in get_handler, with http"),
    }.get(what, True)
    assert len(lines) == expected, lines
    if lines:
        assert Consumer.__qualname__ in lines[0]
        assert "away" in causes(caplog) or "time" in causes(caplog) or "within" in causes(caplog)


@pytest.mark.parametrize("decorator", [channel_session, channel_session_user, channel_and_http_session])
async def test_a_function_in_a_decorator_is_owed_it_too(
    decorator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []

    @channel_session
    async def connect(message: Message) -> None:
        message.channel_session["user_id"] = 7

    async def echo(message: Message) -> None:
        store.away = KeyError("away")
        await message.reply_channel.send({"text": "ok"})

    @decorator  # type: ignore[untyped-decorator]
    async def leave(message: Message) -> None:
        seen.append(message.channel_session)

    store = AwayStore()
    routing = [
        route("websocket.connect", connect),
        route("websocket.receive", echo),
        route("websocket.disconnect", leave),
    ]
    async with Client(Application(routing, channel_session_store=store)) as client:
        await come_and_go(client)
    assert len(seen) == 1
    assert dict(seen[0]) == {}
    [line] = complaints(caplog)
    assert leave.__qualname__ in line
    assert "KeyError('away')" in causes(caplog)


# -- what the program puts before it ----------------------------------------------------------------------------------


def raising(handler: Any) -> Any:
    @functools.wraps(handler)
    async def wrapper(message: Message, **kwargs: Any) -> None:
        if message.channel.name == "websocket.disconnect":
            raise KeyError("query_string")
        await handler(message, **kwargs)

    return wrapper


def hanging(handler: Any) -> Any:
    @functools.wraps(handler)
    async def wrapper(message: Message, **kwargs: Any) -> None:
        if message.channel.name == "websocket.disconnect":
            await trio.sleep_forever()
        await handler(message, **kwargs)

    return wrapper


def in_get_handler(decorator: Any) -> type[Answering]:
    class Consumer(Answering):
        def get_handler(self, message: Message, **kwargs: Any) -> Any:
            return decorator(super().get_handler(message, **kwargs))

    return Consumer


def get_handler_raises() -> type[Answering]:
    class Consumer(Answering):
        def get_handler(self, message: Message, **kwargs: Any) -> Any:
            assert message.get("query_string") is not None or message.channel.name == "websocket.receive"
            return super().get_handler(message, **kwargs)

    return Consumer


def on_a_method(decorator: Any, name: str) -> type[Answering]:
    class Consumer(Answering):
        pass

    return method_decorator(decorator, name=name)(Consumer)


def too_late_an_order() -> type[Answering]:
    class Consumer(Answering):
        def get_handler(self, message: Message, **kwargs: Any) -> Any:
            handler = super().get_handler(message, **kwargs)
            return enforce_ordering(handler) if message.channel.name == "websocket.disconnect" else handler

    return Consumer


def raw_disconnect_raises() -> type[Answering]:
    class Consumer(Answering):
        async def raw_disconnect(self, message: Message, **kwargs: Any) -> None:
            await Group(self.message["query_string"]).discard(message.reply_channel)
            await super().raw_disconnect(message, **kwargs)

    return Consumer


IN_THE_WAY: dict[str, tuple[Callable[[], type[Answering]], str | None]] = {
    "get_handler raises": (get_handler_raises, "AssertionError"),
    "a decorator in get_handler raises": (lambda: in_get_handler(raising), "query_string"),
    "a decorator in get_handler hangs": (lambda: in_get_handler(hanging), "half of its time"),
    "a decorator on dispatch raises": (lambda: on_a_method(raising, "dispatch"), "query_string"),
    "a decorator on dispatch hangs": (lambda: on_a_method(hanging, "dispatch"), "half of its time"),
    "a decorator on raw_disconnect raises": (lambda: on_a_method(raising, "raw_disconnect"), "query_string"),
    "raw_disconnect raises": (raw_disconnect_raises, "query_string"),
    "an order that the connection does not know": (too_late_an_order, None),
}


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("how", IN_THE_WAY)
async def test_what_stands_before_disconnect_does_not_skip_it(
    how: str,
    client_class: type[Client],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    make, cause = IN_THE_WAY[how]
    cls = make()
    cls.groups = ["room-1"]
    async with client_class([cls.as_route()], settings=SETTINGS) as client:
        started = trio.current_time()
        await come_and_go(client)
        assert len(cls.ended) == 1
        assert trio.current_time() - started < SETTINGS.disconnect_timeout
        await come_and_go(client)
        assert len(cls.ended) == 2
    lines = complaints(caplog)
    assert len(lines) == (0 if cause is None else 2), lines
    assert all(cls.__qualname__ in line for line in lines)
    assert (cause or "") in causes(caplog)


async def test_both_errors_are_told_where_disconnect_raises_too(caplog: pytest.LogCaptureFixture) -> None:
    class Consumer(in_get_handler(raising)):  # type: ignore[misc]
        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            raise RuntimeError("on purpose")

    async with Client([Consumer.as_route()]) as client:
        await come_and_go(client)
    assert len(complaints(caplog)) == 1
    [entry] = [entry for entry in caplog.records if entry.exc_info]
    assert entry.exc_info is not None
    group = entry.exc_info[1]
    assert isinstance(group, ExceptionGroup)
    assert [type(error) for error in group.exceptions] == [KeyError, RuntimeError]


async def test_a_disconnect_that_raises_is_called_once(caplog: pytest.LogCaptureFixture) -> None:
    class Consumer(Answering):
        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            self.ended.append(message["code"])
            raise RuntimeError("on purpose")

    async with Client([Consumer.as_route()]) as client:
        await come_and_go(client)
    assert len(Consumer.ended) == 1
    assert len(complaints(caplog)) == 1


async def test_a_plain_class_is_owed_its_method() -> None:
    """Not only a WebsocketConsumer: any class whose mapping has the channel."""
    ended: list[Any] = []

    class Plain(BaseConsumer):
        method_mapping: ClassVar[dict[str, str]] = {
            "websocket.receive": "take",
            "websocket.disconnect": "leave",
        }

        def get_handler(self, message: Message, **kwargs: Any) -> Any:
            return raising(super().get_handler(message, **kwargs))

        async def take(self, message: Message, **kwargs: Any) -> None:
            await message.reply_channel.send({"text": "ok"})

        async def leave(self, message: Message, **kwargs: Any) -> None:
            ended.append(message["code"])

    async with Client([Plain.as_route()]) as client:
        await come_and_go(client)
    assert len(ended) == 1


# -- sends in it ------------------------------------------------------------------------------------------------------


async def by_self(consumer: Any) -> None:
    await consumer.send(text="bye")


async def by_bytes(consumer: Any) -> None:
    await consumer.send(bytes=b"bye")


async def with_close(consumer: Any) -> None:
    await consumer.send(text="bye", close=True)


async def by_close(consumer: Any) -> None:
    await consumer.close(4000, "bye")


async def by_reply_channel(consumer: Any) -> None:
    await consumer.message.reply_channel.send({"text": "bye"})


async def by_connection(consumer: Any) -> None:
    await consumer.connection.send("bye")


async def by_name(consumer: Any) -> None:
    await Channel(consumer.message.reply_channel.name).send({"text": "bye"})


async def by_group(consumer: Any) -> None:
    await Group("room-1").add(consumer.message.reply_channel)
    await Group("room-1").send({"text": "bye"})


async def from_a_task(consumer: Any) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(by_self, consumer)
        nursery.start_soon(by_connection, consumer)


SENDS = [
    by_self,
    by_bytes,
    with_close,
    by_close,
    by_reply_channel,
    by_connection,
    by_name,
    by_group,
    from_a_task,
]


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("how", SENDS)
@pytest.mark.parametrize("vanishes", [False, True], ids=["closes", "vanishes"])
async def test_a_send_in_disconnect_goes_nowhere_and_skips_nothing(
    vanishes: bool,
    how: Callable[[Any], Any],
    client_class: type[Client],
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Consumer(Answering):
        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            await how(self)
            self.ended.append("cleaned up")

    async with client_class([Consumer.as_route()]) as client:
        async with client.websocket("/") as socket:
            await socket.send("x")
            assert await socket.receive() == "ok"
            if vanishes:
                await socket.vanish()
        await nothing_left(client)
    assert Consumer.ended == ["cleaned up"]
    assert complaints(caplog) == []


async def test_a_wrong_send_in_disconnect_is_an_error_still(caplog: pytest.LogCaptureFixture) -> None:
    class Consumer(Answering):
        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            await message.reply_channel.send({"txt": "bye"})

    async with Client([Consumer.as_route()]) as client:
        await come_and_go(client)
    assert len(complaints(caplog)) == 1
    assert "'txt'" in causes(caplog)


async def test_a_send_to_another_that_is_gone_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """It ends ``disconnect``, and that is no silence: something behind it has not been done."""
    names: list[str] = []

    class Consumer(Answering):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            names.append(message.reply_channel.name)

        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            if len(names) == 2:
                await Channel(names[0]).send({"text": "your partner has left"})

    async with Client([Consumer.as_route()]) as client:
        await come_and_go(client)
        await come_and_go(client)
    [line] = complaints(caplog)
    assert Consumer.__qualname__ in line
    assert "broke off" in line
    assert "closed" in line


async def test_json_and_streams_send_in_disconnect(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    class Stream(JsonWebsocketConsumer):
        async def disconnect(self, message: Message, multiplexer: Any = None, **kwargs: Any) -> None:
            await multiplexer.send({"bye": 1})
            await multiplexer.send_error("bye")
            ended.append(multiplexer.stream)

    class Demultiplexer(WebsocketDemultiplexer):
        consumers: ClassVar[Any] = {"a": Stream, "b": Stream}

        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            await self.send("a", {"bye": 1})
            await super().disconnect(message, **kwargs)
            ended.append("all")

    async with Client([Demultiplexer.as_route()]) as client:
        async with client.websocket("/"):
            pass
        await nothing_left(client)
    assert ended == ["a", "b", "all"]
    assert complaints(caplog) == []


# -- routes -----------------------------------------------------------------------------------------------------------


async def test_a_route_that_raises_at_the_end_keeps_the_class_that_took_connect() -> None:
    class Consumer(Answering):
        pass

    class Raising:
        def match(self, message: Message) -> Any:
            if message.channel.name == "websocket.disconnect" and len(message.content) > 1:
                raise KeyError("on purpose")
            if message.channel.name == "websocket.disconnect":
                raise KeyError("headers")
            return Consumer, {}

        def channel_names(self) -> set[str]:
            return Consumer.channel_names()

    async with Client([Raising()]) as client:
        await come_and_go(client)
    assert len(Consumer.ended) == 1


def test_connection_groups_that_are_one_string_are_refused_as_ever() -> None:
    class Consumer(Answering):
        groups = "room-1"

    with pytest.raises(ImproperlyConfigured, match=r"write \['room-1'\]"):
        Consumer(Message({}, Channel("websocket.connect")))._group_names({})


def test_the_class_is_routed_to_as_ever() -> None:
    assert route_class(Answering).channel_names() == {
        "websocket.connect",
        "websocket.receive",
        "websocket.disconnect",
    }

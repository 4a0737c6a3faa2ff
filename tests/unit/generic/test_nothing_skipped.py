"""Whatever of the program's stands in the way of a message is called: overridden, decorated, patched, at any time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar
from unittest import mock

import pytest
import trio.testing
from recorder import nothing_left

from triochan import Application, Channel, route_class
from triochan.auth import channel_session_user_from_http
from triochan.generic.base import BaseConsumer
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer, WebsocketDemultiplexer
from triochan.http import text as text_response
from triochan.layers import Group
from triochan.message import Message
from triochan.security import allowed_hosts_only
from triochan.sessions import channel_session
from triochan.test import Client
from triochan.test.client import HandshakeRefused

LOG: list[str] = []


@pytest.fixture(autouse=True)
def empty_log() -> None:
    LOG.clear()


def like_django(decorator: Any, name: str = "") -> Any:
    """What Django's ``method_decorator`` does: a plain function that binds the method, decorates that, and calls it."""

    def wrap(method: Any) -> Any:
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            bound = functools.wraps(method)(functools.partial(method.__get__(self, type(self))))
            return decorator(bound)(*args, **kwargs)

        return functools.update_wrapper(wrapper, method)

    def apply(target: Any) -> Any:
        if not isinstance(target, type):
            return wrap(target)
        setattr(target, name, wrap(getattr(target, name)))
        return target

    return apply


def noting(function: Any) -> Any:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        LOG.append("it")
        return await function(*args, **kwargs)

    return wrapper


def noting_plainly(function: Any) -> Any:
    """Not ``async def``: it gives what it calls."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        LOG.append("it")
        return function(*args, **kwargs)

    return wrapper


def echo() -> Any:
    class Echo(WebsocketConsumer):
        async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
            await self.send(text=f"{text}")

    return Echo


def json_echo() -> Any:
    class JsonEcho(JsonWebsocketConsumer):
        async def receive(self, content: Any, **kwargs: Any) -> None:
            await self.send(content)

    return JsonEcho


def streams() -> Any:
    class Stream(JsonWebsocketConsumer):
        async def receive(self, content: Any, multiplexer: Any = None, **kwargs: Any) -> None:
            await multiplexer.send(content)

    class Streams(WebsocketDemultiplexer):
        consumers: ClassVar[Any] = {"a": Stream}

    return Streams


BASES = {"plain": echo, "json": json_echo, "streams": streams}
FRAME = '{"stream":"a","payload":{}}'


async def exchange(client: Client, **options: Any) -> None:
    async with client.websocket("/", **options) as socket:
        await socket.send(FRAME)
        assert await socket.receive() == FRAME
    await nothing_left(client)


# -- decorators -------------------------------------------------------------------------------------------------------

FORMS: dict[str, Callable[[Any], Any]] = {
    "the class": lambda cls: [cls.as_route()],
    "a subclass": lambda cls: [type("Below", (cls,), {}).as_route()],  # type: ignore[attr-defined]
    "two below": lambda cls: [type("Two", (type("Below", (cls,), {}),), {}).as_route()],  # type: ignore[attr-defined]
    "with attributes": lambda cls: [cls.as_route({"strict_ordering": True})],
    "a mapping": lambda cls: dict.fromkeys(cls.channel_names(), cls),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", ["dispatch", "raw_connect", "connect"])
@pytest.mark.parametrize("how", ["Django's", "ours", "a subclass's own", "a mixin"])
async def test_a_handshake_is_judged(
    how: str, name: str, base: str, form: str, autojump_clock: trio.testing.MockClock
) -> None:
    cls = BASES[base]()
    if how == "Django's":
        cls = like_django(allowed_hosts_only, name)(cls)
    elif how == "ours":
        setattr(cls, name, allowed_hosts_only(getattr(cls, name)))
    elif how == "a subclass's own":
        cls = type("Own", (cls,), {name: allowed_hosts_only(getattr(cls, name))})
    else:
        original = getattr(cls, name)

        async def judged(self: Any, message: Message, **kwargs: Any) -> None:
            await allowed_hosts_only(functools.partial(original, self))(message, **kwargs)

        cls = type("Mixed", (type("Mixin", (), {name: judged}), cls), {})
    application = Application(FORMS[form](cls), allowed_hosts=["testserver"])
    async with Client(application) as client:
        with pytest.raises(HandshakeRefused, match="403"):
            async with client.websocket("/", headers=[("Origin", "http://evil.example")]):
                raise AssertionError("it was accepted")
        await nothing_left(client)
        await exchange(client)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("decorator", [noting, noting_plainly], ids=["async", "plain"])
@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("dispatch", 3),
        ("get_handler", 3),
        ("raw_connect", 1),
        ("raw_receive", 1),
        ("raw_disconnect", 1),
        ("connect", 1),
        ("receive", 1),
        ("disconnect", 1),
        ("__init__", 3),
        ("_group_names", 1),
        ("connection_groups", 1),
    ],
)
async def test_a_decorator_of_django_s_shape_is_called(
    name: str, calls: int, decorator: Any, base: str, autojump_clock: trio.testing.MockClock
) -> None:
    plain = name in ("get_handler", "__init__", "_group_names", "connection_groups")
    if plain and decorator is noting:
        return  # these are no handlers
    cls = like_django(decorator, name)(BASES[base]())
    cls.groups = ["everyone"]
    async with Client([cls.as_route()]) as client:
        await exchange(client)
    assert ["it"] * calls == LOG


# -- patches ----------------------------------------------------------------------------------------------------------

WHERE: dict[str, Callable[[Any], Any]] = {
    "the class": lambda cls: cls,
    "WebsocketConsumer": lambda cls: WebsocketConsumer,
    "BaseConsumer": lambda cls: BaseConsumer,
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    "name", ["dispatch", "get_handler", "raw_receive", "receive", "__init__", "decode_json"]
)
async def test_a_patch_holds_for_the_next_message_of_an_open_connection(
    name: str, base: str, where: str, autojump_clock: trio.testing.MockClock
) -> None:
    cls = BASES[base]()
    owner: Any = WHERE[where](cls)
    if name == "decode_json" and (base == "plain" or where != "the class"):
        return
    if owner is not cls and (name == "receive" or not hasattr(owner, name)):
        return  # what the class has of its own stands before it
    if owner is WebsocketConsumer and name == "raw_receive" and base != "plain":
        return
    original = getattr(owner, name)
    async with Client([cls.as_route()]) as client:
        async with client.websocket("/") as socket:
            await socket.send(FRAME)
            assert await socket.receive() == FRAME
            assert LOG == []
            patch: Any = noting_plainly(original)
            with mock.patch.object(owner, name, staticmethod(patch) if name == "decode_json" else patch):
                await socket.send(FRAME)
                assert await socket.receive() == FRAME
                # A stream's consumer is one of those, too, that a base's patch is for.
                assert ["it"] * (2 if base == "streams" and owner is not cls else 1) == LOG
                LOG.clear()
            await socket.send(FRAME)
            assert await socket.receive() == FRAME
            assert LOG == []


@pytest.mark.parametrize("name", ["dispatch", "get_handler", "raw_disconnect", "disconnect"])
async def test_a_patch_on_an_open_connection_holds_for_its_end(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    cls = echo()
    async with Client([cls.as_route()]) as client:
        async with client.websocket("/"):
            patch = mock.patch.object(cls, name, noting_plainly(getattr(cls, name)))
            patch.start()
        await nothing_left(client)
        patch.stop()
    assert LOG == ["it"]


@pytest.mark.parametrize("name", ["dispatch", "get_handler", "take", "__init__"])
@pytest.mark.parametrize("channel", ["http.request", "jobs"])
async def test_a_patch_holds_for_requests_and_named_channels(name: str, channel: str) -> None:
    class Consumer(BaseConsumer):
        method_mapping: ClassVar[dict[str, str]] = {channel: "take"}

        async def take(self, message: Message, **kwargs: Any) -> None:
            if channel == "http.request":
                await message.reply_channel.send(text_response("ok"))

    async def use(client: Client) -> None:
        if channel == "http.request":
            assert (await client.get("/")).text == "ok"
        else:
            await Channel(channel).send({})
            await trio.testing.wait_all_tasks_blocked()

    async with Client([route_class(Consumer)]) as client:
        await use(client)
        for owner in (Consumer, BaseConsumer):
            if not hasattr(owner, name):
                continue
            with mock.patch.object(owner, name, noting_plainly(getattr(owner, name))):
                await use(client)
            assert LOG == ["it"]
            LOG.clear()
        await use(client)
        assert LOG == []


# -- on the instance --------------------------------------------------------------------------------------------------


def set_in_new() -> Any:
    class Made(echo()):  # type: ignore[misc]
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            made = super().__new__(cls)
            made.dispatch = noting(functools.partial(cls.dispatch, made))
            return made

    return Made


def set_in_metaclass() -> Any:
    class Meta(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            made = super().__call__(*args, **kwargs)
            made.dispatch = noting(made.dispatch)
            return made

    return Meta("Made", (echo(),), {})


def got_by_getattribute() -> Any:
    class Made(echo()):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            return noting(found) if name == "dispatch" else found

    return Made


def a_property() -> Any:
    class Made(echo()):  # type: ignore[misc]
        @property
        def dispatch(self) -> Any:
            return noting(functools.partial(BaseConsumer.dispatch, self))

    return Made


@pytest.mark.parametrize("make", [set_in_new, set_in_metaclass, got_by_getattribute, a_property])
async def test_an_instance_s_own_dispatch_is_called(
    make: Any, autojump_clock: trio.testing.MockClock
) -> None:
    async with Client([make().as_route()]) as client:
        await exchange(client)
    assert LOG == ["it"] * 3


# -- the streams of a demultiplexer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["__init__", "__new__", "dispatch", "get_handler", "django"])
async def test_what_a_stream_s_consumer_has_in_the_way_is_called(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    cls = streams()
    stream: Any = cls.consumers["a"]
    made: Any
    if how == "__init__":

        def __init__(self: Any, message: Message, **kwargs: Any) -> None:
            stream.__init__(self, message, **kwargs)
            self.dispatch = noting(self.dispatch)

        made = type("Made", (stream,), {"__init__": __init__})
    elif how == "__new__":

        def __new__(cls: Any, *args: Any, **kwargs: Any) -> Any:
            instance = object.__new__(cls)
            instance.dispatch = noting(functools.partial(cls.dispatch, instance))
            return instance

        made = type("Made", (stream,), {"__new__": __new__})
    elif how == "django":
        made = like_django(noting, "dispatch")(type("Made", (stream,), {}))
    else:
        made = type("Made", (stream,), {how: noting_plainly(getattr(stream, how))})
    cls.consumers = {"a": made}
    async with Client([cls.as_route()]) as client:
        await exchange(client)
    assert LOG == ["it"] * 3


SESSIONS = ["channel_session", "channel_session_user", "http_user", "http_user_and_session"]


@pytest.mark.parametrize("attribute", SESSIONS)
@pytest.mark.parametrize("outer", [None, *SESSIONS])
@pytest.mark.parametrize(
    "how", ["later", "on the instance", "in get_handler", "the demultiplexer's is overridden"]
)
async def test_a_session_that_a_stream_asks_for_is_there(
    how: str, outer: str | None, attribute: str, autojump_clock: trio.testing.MockClock
) -> None:
    seen: list[Any] = []

    class Stream(JsonWebsocketConsumer):
        async def receive(self, content: Any, multiplexer: Any = None, **kwargs: Any) -> None:
            session = self.message.channel_session
            session["count"] = session.get("count", 0) + 1
            seen.append((session["count"], self.message.user is not None))
            await multiplexer.send(content)

    if how == "on the instance":

        class Made(Stream):
            def __init__(self, message: Message, **kwargs: Any) -> None:
                super().__init__(message, **kwargs)
                setattr(self, attribute, True)

    elif how == "in get_handler":

        class Made(Stream):  # type: ignore[no-redef]
            def get_handler(self, message: Message, **kwargs: Any) -> Any:
                decorator = (
                    channel_session if attribute == "channel_session" else channel_session_user_from_http
                )
                return decorator(super().get_handler(message, **kwargs))

    else:

        class Made(Stream):  # type: ignore[no-redef]
            pass

    attributes: dict[str, Any] = {"consumers": {"a": Made}}
    if outer is not None:
        attributes[outer] = True
    if how == "the demultiplexer's is overridden":
        setattr(Made, attribute, True)
        attributes["get_handler"] = lambda self, message, **kwargs: getattr(
            self, self.method_mapping[message.channel.name]
        )
    cls: Any = type("Streams", (WebsocketDemultiplexer,), attributes)
    if how == "later":
        setattr(Made, attribute, True)
    async with Client(Application([cls.as_route()], secrets=["a secret that is long enough"])) as client:
        async with client.websocket("/") as socket:
            for _ in range(2):
                await socket.send(FRAME)
                assert await socket.receive() == FRAME
        await nothing_left(client)
    assert [count for count, _ in seen] == [1, 2]
    if attribute != "channel_session":
        assert all(user for _, user in seen)


# -- group_send -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [JsonWebsocketConsumer, WebsocketConsumer])
async def test_a_group_send_between_is_called(base: Any, autojump_clock: trio.testing.MockClock) -> None:
    class Noting(WebsocketConsumer):
        @classmethod
        async def group_send(cls, name: str, *args: Any, **kwargs: Any) -> None:
            LOG.append(name)
            await super().group_send(name, *args, **kwargs)

    bases = (base, Noting) if base is JsonWebsocketConsumer else (Noting,)
    cls: Any = type("Mixed", bases, {"groups": ["everyone"]})
    async with Client([cls.as_route()]) as client, client.websocket("/") as socket:
        await cls.group_send("everyone", "x")
        assert await socket.receive() == ('"x"' if base is JsonWebsocketConsumer else "x")
        assert len(await Group("everyone").members()) == 1
    assert LOG == ["everyone"]

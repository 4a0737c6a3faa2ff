"""Parts of the program's own: routes, codecs, classes made in unusual ways. The client is always answered."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing
from door import DoorClient
from recorder import nothing_left

from triochan import Application, Channel, include, route, route_class
from triochan.content import InvalidJSON
from triochan.exceptions import ImproperlyConfigured
from triochan.generic.websockets import (
    JsonWebsocketConsumer,
    WebsocketConsumer,
    WebsocketDemultiplexer,
    WebsocketMultiplexer,
)
from triochan.message import Message
from triochan.routing import Router, check_consumer, name_of
from triochan.test import Client, HttpClient
from triochan.test.client import HandshakeRefused

CLIENTS = [Client, DoorClient]
ENDED: list[str] = []


@pytest.fixture(autouse=True)
def none_ended() -> None:
    ENDED.clear()


def complaints(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [entry for entry in caplog.records if entry.levelno >= logging.WARNING]


class Echo(WebsocketConsumer):
    async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
        await self.send(text=f"{kwargs.get('room', '')}{text}")

    async def disconnect(self, message: Message, **kwargs: Any) -> None:
        ENDED.append("Echo")


# -- routes -----------------------------------------------------------------------------------------------------------


class Custom:
    """A route of the program's own.

    Args:
        find: called with each message.
    """

    def __init__(self, find: Callable[[Message], Any], names: Any = None) -> None:
        self.find = find
        self.names = Echo.channel_names() if names is None else names

    def match(self, message: Message) -> Any:
        return self.find(message)

    def channel_names(self) -> Any:
        return self.names


def by_host(message: Message) -> Any:
    headers = dict(message["headers"])
    return (Echo, {"room": "r-"}) if headers[b"host"] == b"testserver" else None


def by_host_or_none(message: Message) -> Any:
    headers = dict(message.get("headers", ()))
    return (Echo, {"room": "r-"}) if headers.get(b"host") == b"testserver" else None


def by_query(message: Message) -> Any:
    return Echo, {"room": message["query_string"].decode()}


def by_connection(message: Message) -> Any:
    return (Echo, {"room": message.connection.path[:1]}) if message.connection else (Echo, {})


class Subclass(route):
    """A route that is one of ours but for its ``match``, without the arguments of ours."""

    def match(self, message: Message) -> Any:  # type: ignore[override]
        return (self.consumer, {"room": "r-"}) if dict(message["headers"])[b"host"] else None


class SubInclude(include):
    def match(self, message: Message) -> Any:  # type: ignore[override]
        return super().match(message) if message["query_string"] is not None else None


OTHER_KEYS: dict[str, tuple[Any, str]] = {
    "headers": ([Custom(by_host)], "r-x"),
    "headers, None": ([Custom(by_host_or_none)], "r-x"),
    "query_string": ([Custom(by_query)], "q=1x"),
    "in an include": ([include([Custom(by_query)], path="^/a")], "q=1x"),
    "a subclass of route": ([Subclass(sorted(Echo.channel_names()), Echo)], "r-x"),
    "a subclass of include": ([SubInclude([route_class(Echo)])], "x"),
    "the connection": ([Custom(by_connection)], "/x"),
    "beside others": (
        [route_class(Echo, path="^/other"), Custom(by_host_or_none), route_class(Echo)],
        "r-x",
    ),
}


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("which", OTHER_KEYS)
async def test_a_route_that_looks_at_what_only_connect_carries(
    which: str,
    client_class: type[Client],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The consumers that it gave for the connection have its messages too, and its end."""
    routing, answer = OTHER_KEYS[which]
    async with client_class(routing) as client:
        for number in range(2):
            async with client.websocket("/a?q=1") as socket:
                for _ in range(2):
                    await socket.send("x")
                    assert await socket.receive() == answer
            await nothing_left(client)
            assert ["Echo"] * (number + 1) == ENDED
    assert complaints(caplog) == []


async def test_a_route_may_look_at_each_text() -> None:
    async def loud(message: Message) -> None:
        await message.reply_channel.send({"text": message["text"].upper()})

    def by_text(message: Message) -> Any:
        if message.channel.name != "websocket.receive":
            return Echo, {}
        return {"!": (loud, {}), "?": None}.get(message["text"][-1], (Echo, {}))

    async with Client([Custom(by_text)]) as client, client.websocket("/") as socket:
        for text in ("a", "b!", "c?", "d"):
            await socket.send(text)
        assert [await socket.receive() for _ in range(3)] == ["a", "B!", "d"]


def fails(message: Message) -> Any:
    raise KeyError("on purpose")


def after_connect(result: Any) -> Callable[[Message], Any]:
    """A route that goes wrong when the connection is open."""

    def find(message: Message) -> Any:
        if message.channel.name != "websocket.receive" or "text" not in message:
            return (Echo, {}) if message.channel.name != "websocket.receive" else None
        return result(message) if callable(result) else result

    return find


async def async_match(message: Message) -> Any:
    return Echo, {}


def plain_function(message: Message) -> None:
    """No ``async def``."""


ODD: dict[str, tuple[Any, str]] = {
    "raises": (fails, "on purpose"),
    "a consumer alone": (lambda message: Echo, "(consumer, keyword arguments)"),
    "a list": (lambda message: [Echo, {}], "(consumer, keyword arguments)"),
    "three things": (lambda message: (Echo, {}, 1), "(consumer, keyword arguments)"),
    "True": (lambda message: True, "(consumer, keyword arguments)"),
    "arguments that are none": (lambda message: (Echo, None), "dict of keyword arguments"),
    "arguments in a list": (lambda message: (Echo, [("a", 1)]), "dict of keyword arguments"),
    "keys that are no strings": (lambda message: (Echo, {1: 2}), "dict of keyword arguments"),
    "async": (async_match, "a plain 'def'"),
    "a function that is not async": (lambda message: (plain_function, {}), "is not 'async def'"),
    "a class that is none": (lambda message: (dict, {}), "without a method_mapping"),
    "a string": (lambda message: ("Echo", {}), "not callable"),
}


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("what", ODD)
async def test_a_route_that_gives_odd_things_is_500_and_one_line(
    what: str,
    client_class: type[Client],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    find, said = ODD[what]
    routing: Any = [
        Custom(lambda message: find(message) if message["path"] == "/odd" else None),
        route_class(Echo),
    ]
    async with client_class(routing) as client:
        with pytest.raises(HandshakeRefused, match="500"):
            async with client.websocket("/odd"):
                raise AssertionError("it was accepted")
        await nothing_left(client)
        [entry] = complaints(caplog)
        assert entry.getMessage() == "a route raised in websocket.connect on '/odd'"
        assert entry.exc_info is not None
        assert said in str(entry.exc_info[1])
        async with client.websocket("/") as socket:
            await socket.send("x")
            assert await socket.receive() == "x"
    assert len(complaints(caplog)) == 1


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("what", ODD)
async def test_and_1011_on_an_open_socket(
    what: str,
    client_class: type[Client],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    find, said = ODD[what]
    async with client_class([Custom(after_connect(find))]) as client:
        async with client.websocket("/") as socket:
            await socket.send("x")
            assert (await socket.wait_closed()).code == 1011
        await nothing_left(client)
    assert ENDED == ["Echo"]
    [entry] = complaints(caplog)
    assert entry.getMessage() == "a route raised in websocket.receive on '/'"
    assert entry.exc_info is not None
    assert said in str(entry.exc_info[1])


@pytest.mark.parametrize("what", ODD)
async def test_and_500_over_http(
    what: str, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    find, said = ODD[what]
    async with HttpClient([Custom(find, {"http.request"})]) as client:
        assert (await client.get("/")).status == 500
        await nothing_left(client)
    [entry] = complaints(caplog)
    assert entry.getMessage().startswith(("a route raised in http.request", f"{name_of(Echo)} raised"))
    assert entry.exc_info is not None
    assert said in str(entry.exc_info[1])


@pytest.mark.parametrize("what", ODD)
async def test_and_one_line_on_a_named_channel(what: str, caplog: pytest.LogCaptureFixture) -> None:
    find, said = ODD[what]
    handled: list[int] = []

    async def take(message: Message) -> None:
        handled.append(message["number"])

    def odd_at_first(message: Message) -> Any:
        return (take, {}) if message["number"] else find(message)

    async with Client([Custom(odd_at_first, {"jobs"})]):
        for number in range(2):
            await Channel("jobs").send({"number": number})
        await trio.testing.wait_all_tasks_blocked()
    assert handled == [1]
    [entry] = complaints(caplog)
    assert entry.getMessage().startswith("a route raised while handling a message on channel jobs")
    assert entry.exc_info is not None
    assert said in str(entry.exc_info[1])


async def test_a_class_that_has_no_method_for_the_channel_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async with HttpClient([route("http.request", Echo)]) as client:
        assert (await client.get("/")).status == 500
    [entry] = complaints(caplog)
    assert name_of(Echo) in entry.getMessage()
    assert entry.exc_info is not None
    assert "'http.request', and its method_mapping has 'websocket.connect'" in str(entry.exc_info[1])


async def test_a_route_that_raises_at_the_end_where_no_class_stands_in(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async def take(message: Message) -> None:
        await message.reply_channel.send({"accept": True})

    def find(message: Message) -> Any:
        if message.channel.name == "websocket.disconnect":
            raise KeyError("on purpose")
        return take, {}

    async with Client([Custom(find)]) as client:
        async with client.websocket("/"):
            pass
        await nothing_left(client)
    assert [entry.getMessage() for entry in complaints(caplog)] == [
        "a route raised in websocket.disconnect on '/'"
    ]


@pytest.mark.parametrize("names", ["websocket.connect", b"x", 7, None])
def test_channel_names_that_are_none(names: Any) -> None:
    entry = Custom(by_host)
    entry.names = names
    with pytest.raises(ImproperlyConfigured, match=r"Custom\.channel_names\(\) gives a set of names"):
        Router([entry])


def test_channel_names_with_a_wrong_one() -> None:
    with pytest.raises(ValueError, match="ä"):
        Router([Custom(by_host, ["ä"])])


def test_names_in_a_list_will_do() -> None:
    assert Router([Custom(by_host, ["a", "b"])]).channels == {"a", "b"}


# -- codecs -----------------------------------------------------------------------------------------------------------


class Broken(Exception):
    """What a decoder of another library may raise."""


def decoder(function: Callable[[str], Any]) -> Any:
    return classmethod(lambda cls, text: function(text))


def raises(error: BaseException) -> Callable[[str], Any]:
    def decode(text: str) -> Any:
        raise error

    return decode


def deep(text: str) -> Any:
    return json.loads("[" * 100_000)


DECODERS: dict[str, tuple[Callable[[str], Any], int]] = {
    "ValueError": (raises(ValueError("bad text")), 1007),
    "InvalidJSON": (raises(InvalidJSON("bad text")), 1007),
    "json.loads": (json.loads, 1007),
    "UnicodeDecodeError": (lambda text: b"\xff".decode(), 1007),
    "RecursionError": (deep, 1007),
    "a group": (raises(ExceptionGroup("several", [ValueError("bad text")])), 1011),
    "KeyError": (raises(KeyError("bad text")), 1011),
    "an error of its own": (raises(Broken("bad text")), 1011),
    "AssertionError": (raises(AssertionError("bad text")), 1011),
}


def json_consumer(base: type[JsonWebsocketConsumer], **attributes: Any) -> type[JsonWebsocketConsumer]:
    async def disconnect(self: Any, message: Message, **kwargs: Any) -> None:
        ENDED.append("json")

    return type("Dialect", (base,), {"disconnect": disconnect, **attributes})


def answering_stream(**attributes: Any) -> Any:
    async def receive(self: Any, content: Any, multiplexer: Any = None, **kwargs: Any) -> None:
        await multiplexer.send(content)

    return type("Dialect", (JsonWebsocketConsumer,), {"receive": receive, **attributes})


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("where", ["consumer", "demultiplexer", "stream"])
@pytest.mark.parametrize("what", DECODERS)
async def test_a_decode_json_of_one_s_own_that_raises(
    what: str,
    where: str,
    client_class: type[Client],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    decode, code = DECODERS[what]
    if where == "stream":
        cls: Any = json_consumer(
            WebsocketDemultiplexer, consumers={"a": answering_stream(decode_json=decoder(decode))}
        )
    else:
        base = WebsocketDemultiplexer if where == "demultiplexer" else JsonWebsocketConsumer
        cls = json_consumer(base, decode_json=decoder(decode))
    text = '{"stream": "a", "payload": {}}' if where == "stream" else "{"
    if where == "stream" and what == "json.loads":
        return  # what the demultiplexer writes is JSON
    async with client_class([cls.as_route()]) as client:
        for number in range(2):  # the next one is served, and refused, alike
            async with client.websocket("/") as socket:
                await socket.send(text)
                assert (await socket.wait_closed()).code == code
            await nothing_left(client)
            assert ["json"] * (number + 1) == ENDED
            assert len(complaints(caplog)) == number + 1
    entry = complaints(caplog)[0]
    assert "Dialect" in entry.getMessage() or where == "stream"
    assert (entry.exc_info is None) == (code == 1007)
    if code == 1007:
        assert "1007" in entry.getMessage()
        assert ".Dialect.decode_json on '/'" in entry.getMessage()


async def test_a_value_error_of_receive_is_not_the_decoder_s(caplog: pytest.LogCaptureFixture) -> None:
    async def receive(self: Any, content: Any, **kwargs: Any) -> None:
        raise ValueError("on purpose")

    cls = json_consumer(JsonWebsocketConsumer, receive=receive)
    async with Client([cls.as_route()]) as client, client.websocket("/") as socket:
        await socket.send("1")
        assert (await socket.wait_closed()).code == 1011
    assert len(complaints(caplog)) == 1


@pytest.mark.parametrize("error", [ValueError("bad value"), TypeError("bad value"), Broken("bad value")])
@pytest.mark.parametrize("where", ["consumer", "multiplexer", "demultiplexer"])
async def test_an_encode_json_of_one_s_own_that_raises(
    where: str, error: Exception, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    encode = classmethod(lambda cls, content: raises(error)(""))

    async def receive(self: Any, content: Any, **kwargs: Any) -> None:
        await self.send(content)

    if where == "consumer":
        cls: Any = json_consumer(JsonWebsocketConsumer, encode_json=encode, receive=receive)
    elif where == "multiplexer":
        multiplexer = type("Multiplexer", (WebsocketMultiplexer,), {"encode_json": encode})
        cls = json_consumer(
            WebsocketDemultiplexer, multiplexer_class=multiplexer, consumers={"a": answering_stream()}
        )
    else:
        cls = json_consumer(WebsocketDemultiplexer, encode_json=encode, consumers={"a": answering_stream()})
    async with Client([cls.as_route()]) as client:
        async with client.websocket("/") as socket:
            await socket.send('{"stream": "a", "payload": {}}')
            assert (await socket.wait_closed()).code == 1011
        await nothing_left(client)
    assert ENDED == ["json"]
    [entry] = complaints(caplog)
    assert "Dialect raised in receive on '/'" in entry.getMessage()
    assert entry.exc_info is not None
    assert "bad value" in str(entry.exc_info[1])


async def test_an_encode_json_that_gives_bytes_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def receive(self: Any, content: Any, **kwargs: Any) -> None:
        await self.send(content)

    encode = classmethod(lambda cls, content: b"{}")
    cls = json_consumer(JsonWebsocketConsumer, encode_json=encode, receive=receive)
    async with Client([cls.as_route()]) as client, client.websocket("/") as socket:
        await socket.send("1")
        assert (await socket.wait_closed()).code == 1011
    [entry] = complaints(caplog)
    assert entry.exc_info is not None
    assert "text takes a str, not bytes" in str(entry.exc_info[1])


async def async_codec(cls: Any, text: Any) -> Any:
    return text


@pytest.mark.parametrize("name", ["decode_json", "encode_json"])
@pytest.mark.parametrize("where", ["consumer", "demultiplexer", "stream", "multiplexer"])
def test_an_async_codec_is_found_when_it_is_routed_to(where: str, name: str) -> None:
    own = {name: classmethod(async_codec)}
    if where == "consumer":
        cls: Any = json_consumer(JsonWebsocketConsumer, **own)
    elif where == "demultiplexer":
        cls = json_consumer(WebsocketDemultiplexer, **own)
    elif where == "stream":
        cls = json_consumer(WebsocketDemultiplexer, consumers={"a": answering_stream(**own)})
    else:
        if name == "decode_json":
            return  # it has none
        multiplexer = type("Multiplexer", (WebsocketMultiplexer,), own)
        cls = json_consumer(WebsocketDemultiplexer, multiplexer_class=multiplexer)
    with pytest.raises(ImproperlyConfigured, match=rf"{name} is 'async def'.* a plain 'def'"):
        cls.as_route()


# -- classes and functions made in unusual ways ------------------------------------------------------------------------

SOURCE = """
class Made(Base):
    groups = ["g"]
    async def receive(self, text=None, bytes=None, **kwargs):
        await self.send(text=text)
"""
TYPED = """
from __future__ import annotations
import dataclasses
@dataclasses.dataclass
class Move:
    x: int
class Made(Base):
    async def receive(self, content: Move, **kwargs):
        await self.send({"x": content.x})
"""


def by_exec(source: str, **namespace: Any) -> Any:
    exec(source, namespace)
    return namespace["Made"]


def by_new_class() -> Any:
    return types.new_class("Made", (Echo,), {}, lambda namespace: None)


def by_dataclass() -> Any:
    @dataclasses.dataclass(init=False)
    class Made(Echo):
        x: int = 3

    return Made


def by_make_dataclass() -> Any:
    return dataclasses.make_dataclass("Made", [("y", int, 3)], bases=(Echo,), init=False)


class Meta(type):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        original = made.receive

        async def receive(*args: Any, **kwargs: Any) -> None:
            await original(*args, **kwargs)

        made.receive = receive
        return made


def in_module(module: Any) -> Any:
    return type("Made", (Echo,), {"__module__": module})


def renamed() -> Any:
    made = type("Made", (Echo,), {})
    made.__name__, made.__qualname__ = "<odd>", "a b.<locals>"
    return made


CLASSES: dict[str, Callable[[], Any]] = {
    "exec": lambda: by_exec(SOURCE, Base=WebsocketConsumer),
    "exec in a module that is none": lambda: by_exec(SOURCE, Base=WebsocketConsumer, __name__="no.where"),
    "exec, typed": lambda: by_exec(TYPED, Base=JsonWebsocketConsumer),
    "types.new_class": by_new_class,
    "a dataclass": by_dataclass,
    "make_dataclass": by_make_dataclass,
    "a metaclass": lambda: Meta("Made", (Echo,), {}),
    "of __main__": lambda: in_module("__main__"),
    "of no module": lambda: in_module(None),
    "of a module that is no name": lambda: in_module(7),
    "renamed": renamed,
}
WAYS_IN: dict[str, Callable[[Any], Any]] = {
    "as_route": lambda cls: [cls.as_route()],
    "as_route with attributes": lambda cls: [cls.as_route({"strict_ordering": True})],
    "route_class": lambda cls: [route_class(cls, path="^/")],
    "a mapping": lambda cls: dict.fromkeys(cls.channel_names(), cls),
    "an include": lambda cls: [include([route_class(cls)])],
}


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("made", CLASSES)
async def test_a_class_made_in_an_unusual_way(
    made: str, way: str, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    application = Application(WAYS_IN[way](CLASSES[made]()))
    assert application.router.describe()
    async with Client(application) as client:
        async with client.websocket("/") as socket:
            await socket.send('{"x":1}')
            assert await socket.receive() == '{"x":1}'
        await nothing_left(client)
    assert complaints(caplog) == []


@pytest.mark.parametrize("made", CLASSES)
async def test_its_errors_name_it(made: str, caplog: pytest.LogCaptureFixture) -> None:
    cls = CLASSES[made]()

    async def receive(self: Any, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("on purpose")

    cls.receive = receive
    async with Client([cls.as_route()]) as client, client.websocket("/") as socket:
        await socket.send('{"x":1}')
        assert (await socket.wait_closed()).code == 1011
    [entry] = complaints(caplog)
    assert entry.getMessage() == f"{name_of(cls)} raised in receive on '/'"


class Callable_:
    async def __call__(self, message: Message, **kwargs: Any) -> None:
        await message.reply_channel.send({"text": "hi"})


async def greet(message: Message, greeting: str = "hi", **kwargs: Any) -> None:
    await message.reply_channel.send({"text": greeting})


def handmade() -> Iterator[Any]:
    namespace: dict[str, Any] = {}
    exec("async def greet(message):\n    await message.reply_channel.send({'text': 'hi'})", namespace)
    yield namespace["greet"]
    yield functools.partial(greet, greeting="hi")
    yield functools.partial(functools.partial(greet, greeting="x"), greeting="hi")
    yield Callable_()
    yield Callable_().__call__
    yield functools.partial(Callable_())


@pytest.mark.parametrize("consumer", list(handmade()))
async def test_a_function_made_in_an_unusual_way(consumer: Any) -> None:
    application = Application([route("websocket.connect", consumer)])
    assert application.router.describe()
    async with Client(application) as client, client.websocket("/") as socket:
        assert await socket.receive() == "hi"


@pytest.mark.parametrize(
    "consumer", [lambda message: greet(message), functools.partial(Echo), functools.lru_cache(greet), 7, None]
)
def test_what_is_no_consumer_is_named(consumer: Any) -> None:
    if isinstance(consumer, functools._lru_cache_wrapper):
        check_consumer(consumer, "here")  # it is unwrapped: what it holds is a coroutine function
        return
    with pytest.raises(ImproperlyConfigured, match=r"not 'async def'|not callable"):
        check_consumer(consumer, "here")


@pytest.mark.parametrize("gives", [None, 7, "text"], ids=["nothing", "a number", "a text"])
@pytest.mark.parametrize("name", ["dispatch", "raw_receive", "receive"])
async def test_a_decorator_that_forgets_to_return_is_told(
    name: str, gives: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Forgetful(Echo):
        pass

    def forgets(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            if "text" in kwargs or (args and "text" in args[0]):
                return gives
            return function(self, *args, **kwargs)

        return wrapper

    setattr(Forgetful, name, forgets(getattr(Forgetful, name)))
    async with Client([Forgetful.as_route()]) as client, client.websocket("/") as socket:
        await socket.send("x")
        assert (await socket.wait_closed()).code == 1011
    [entry] = complaints(caplog)
    assert "Forgetful raised in receive" in entry.getMessage()
    assert entry.exc_info is not None
    assert f"Forgetful.{name} gave {gives!r}" in str(entry.exc_info[1])


async def test_what_can_be_awaited_and_is_no_coroutine_will_do(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Later:
        def __init__(self, coroutine: Any) -> None:
            self.coroutine = coroutine

        def __await__(self) -> Any:
            return self.coroutine.__await__()

    class Deferred(Echo):
        groups = ["g"]

    for name in ("dispatch", "receive"):
        original = getattr(Deferred, name)

        @functools.wraps(original)
        def deferred(*args: Any, original: Any = original, **kwargs: Any) -> Any:
            return Later(original(*args, **kwargs))

        setattr(Deferred, name, deferred)
    async with Client([Deferred.as_route()]) as client:
        async with client.websocket("/") as socket:
            await socket.send("x")
            assert await socket.receive() == "x"
        await nothing_left(client)
    assert ENDED == ["Echo"]


async def test_a_peer_that_is_gone_is_no_error_in_a_route(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """The log is for what is wrong."""

    async def send_until_gone(message: Message) -> None:
        while True:
            await message.reply_channel.send({"text": "still there?"})
            await trio.sleep(1)

    async with Client([route("websocket.receive", send_until_gone)]) as client:
        async with client.websocket("/") as socket:
            await socket.send("x")
            await socket.receive()
        await nothing_left(client)
    assert complaints(caplog) == []

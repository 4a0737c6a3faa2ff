"""What programs written for Channels 1 do and name: it works, or an error says what takes its place."""

from __future__ import annotations

import importlib
import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from door import DoorClient
from trio.testing import wait_all_tasks_blocked

import triochan
from triochan import Channel, Group, Message, Settings, porting, route, route_class
from triochan.exceptions import (
    ChannelFull,
    ChannelSocketException,
    ConnectionClosed,
    DenyConnection,
    ImproperlyConfigured,
    WebsocketCloseException,
)
from triochan.generic import BaseConsumer
from triochan.generic.websockets import (
    JsonWebsocketConsumer,
    WebsocketConsumer,
    WebsocketDemultiplexer,
    WebsocketMultiplexer,
)
from triochan.http import text
from triochan.layers import MemoryLayer
from triochan.routing import Router
from triochan.test import Client, HttpClient, WSClient
from triochan.test.client import HandshakeRefused

GUIDE = Path(__file__).parents[2] / "docs" / "from-channels-1.md"
WITH_LOOKUP = [
    "triochan", "triochan.auth", "triochan.binding", "triochan.exceptions", "triochan.generic",
    "triochan.generic.websockets", "triochan.layers", "triochan.message", "triochan.routing", "triochan.security",
    "triochan.sessions", "triochan.test",
]  # fmt: skip


class TestNames:
    @pytest.mark.parametrize("name", sorted(porting._LIVES_IN))
    def test_a_name_is_where_the_error_says(self, name: str) -> None:
        home = porting._LIVES_IN[name]
        assert getattr(importlib.import_module(home), name).__module__.startswith("triochan")
        for module in WITH_LOOKUP:
            scope: dict[str, Any] = {}
            if name in vars(importlib.import_module(module)):
                exec(f"from {module} import {name}", scope)
                assert scope[name] is getattr(importlib.import_module(home), name)
                continue
            with pytest.raises(ImportError) as caught:
                exec(f"from {module} import {name}", scope)
            assert str(caught.value) == f"{module} has no {name!r}: from {home} import {name}"

    @pytest.mark.parametrize("name", sorted(porting._ABSENT))
    @pytest.mark.parametrize("module", WITH_LOOKUP)
    def test_an_absent_name_says_what_takes_its_place(self, module: str, name: str) -> None:
        with pytest.raises(ImportError, match=f"^'{name}' of Channels is not in triochan: ") as caught:
            exec(f"from {module} import {name}")
        assert porting._ABSENT[name] in str(caught.value)
        assert caught.value.name == module

    @pytest.mark.parametrize("name", sorted(porting._ABSENT_MODULES))
    @pytest.mark.parametrize(
        "form", ["import triochan.{}", "from triochan.{} import anything", "from {} import {}"]
    )
    def test_so_does_an_absent_module(self, form: str, name: str) -> None:
        parent, _, child = f"triochan.{name}".rpartition(".")
        statement = form.format(parent, child) if form.count("{}") == 2 else form.format(name)
        with pytest.raises(ImportError, match="of Channels is not in triochan") as caught:
            exec(statement)
        assert porting._ABSENT_MODULES[name] in str(caught.value)
        assert f"triochan.{name}" not in sys.modules

    @pytest.mark.parametrize("module", WITH_LOOKUP)
    def test_any_other_name_is_missing_as_ever(self, module: str) -> None:
        with pytest.raises(ImportError, match="cannot import name 'nonsense'"):
            exec(f"from {module} import nonsense")
        assert not hasattr(importlib.import_module(module), "nonsense")
        with pytest.raises(ModuleNotFoundError, match=r"No module named 'triochan\.nonsense'"):
            exec("import triochan.nonsense")

    def test_the_finder_is_there_once(self) -> None:
        porting.explain_absent_modules()
        finders = [finder for finder in sys.meta_path if isinstance(finder, porting._AbsentModules)]
        assert len(finders) == 1

    @pytest.mark.parametrize(
        "statement",
        [
            "from triochan import Channel, Group, route, route_class, include",
            "from triochan.channel import Channel, Group",
            "from triochan.message import Message",
            "from triochan.routing import route, route_class, include, Router",
            "from triochan.generic import BaseConsumer",
            "from triochan.generic.base import BaseConsumer",
            "from triochan.generic.websockets import WebsocketConsumer, JsonWebsocketConsumer",
            "from triochan.generic.websockets import WebsocketDemultiplexer, WebsocketMultiplexer",
            "from triochan.sessions import channel_session, http_session, channel_and_http_session",
            "from triochan.sessions import enforce_ordering",
            "from triochan.auth import channel_session_user, http_session_user, transfer_user",
            "from triochan.auth import channel_session_user_from_http",
            "from triochan.auth import channel_and_http_session_user_from_http",
            "from triochan.security.websockets import allowed_hosts_only",
            "from triochan.binding import Binding",
            "from triochan.binding.base import Binding, CREATE, UPDATE, DELETE",
            "from triochan.binding.websockets import WebsocketBinding, WebsocketBindingWithMembers",
            "from triochan.exceptions import DenyConnection, SendNotAvailableOnDemultiplexer",
            "from triochan.exceptions import ChannelSocketException, WebsocketCloseException",
            "from triochan.test import Client, WSClient, HttpClient, apply_routes",
        ],
    )
    def test_these_import_paths_are_channels_1_s(self, statement: str) -> None:
        scope: dict[str, Any] = {}
        exec(statement, scope)
        assert len(scope) > 1

    def test_every_name_is_in_the_guide(self) -> None:
        page = GUIDE.read_text()
        named = set(re.findall(r"\w+", page))
        missing = {
            name for name in [*porting.ABSENT_CHANNELS, *porting.ROUTER_ATTRIBUTES] if name not in page
        }
        missing |= {name for name in porting._ABSENT_MODULES if f"channels.{name}" not in page}
        missing |= {name for name in porting._ABSENT if name not in named}
        missing |= {
            name for name in [*porting.LAYER_ATTRIBUTES, *porting.CLIENT_ATTRIBUTES] if name not in named
        }
        assert missing == set()


class TestChannelsOnWhichNothingComes:
    @pytest.mark.parametrize("name", sorted(porting.ABSENT_CHANNELS))
    def test_are_refused_in_a_routing(self, name: str) -> None:
        async def consume(message: Message) -> None: ...

        class Consumer(BaseConsumer):
            method_mapping = {name: "take"}

            async def take(self, message: Message) -> None: ...

        for make in (
            lambda: route(name, consume),
            lambda: route(["jobs", name], consume),
            lambda: route_class(Consumer),
            lambda: Router({name: consume}),
        ):
            with pytest.raises(ImproperlyConfigured, match=f"nothing comes on channel '{name}'") as caught:
                make()
            assert porting.ABSENT_CHANNELS[name] in str(caught.value)

    @pytest.mark.parametrize(
        "name",
        [
            *porting.ABSENT_CHANNELS,
            "http.request",
            "websocket.connect",
            "websocket.receive",
            "websocket.disconnect",
        ],
    )
    async def test_take_no_messages(self, name: str) -> None:
        async with Client([]):
            with pytest.raises(ValueError, match=f"nothing takes what is sent to channel '{name}'"):
                await Channel(name).send({"text": "x"})


async def test_a_content_that_is_sent_on_takes_the_way_back_along() -> None:
    """As Channels' own chat example does it: ``payload["reply_channel"] = message.content["reply_channel"]``."""
    names: list[object] = []

    async def receive(message: Message) -> None:
        payload = json.loads(message["text"])
        payload["reply_channel"] = message.content["reply_channel"]
        await Channel("chat.receive").send(payload)

    async def shout(message: Message) -> None:
        names.append(message["reply_channel"] == message.reply_channel.name)
        await message.reply_channel.send({"text": message["said"].upper()})

    async def page(message: Message) -> None:
        await Channel("pages").send(message.content)

    async def answer(message: Message) -> None:
        await message.reply_channel.send(text(f"{message['method']} {message['path']}"))

    routing = [
        route("websocket.receive", receive),
        route("chat.receive", shout),
        route("http.request", page),
        route("pages", answer),
    ]
    for kind in (Client, DoorClient):
        async with kind(routing) as client, client.websocket("/") as socket:
            await socket.send_json({"said": "hello"})
            assert await socket.receive() == "HELLO"
    async with Client(routing) as client:
        assert (await client.get("/x")).text == "GET /x"
    assert names == [True, True]


async def test_a_route_may_filter_by_the_reply_channel() -> None:
    seen: list[str] = []

    async def receive(message: Message, number: str) -> None:
        seen.append(number)

    async with WSClient(
        [route("websocket.receive", receive, reply_channel=r".*!(?P<number>\w+)$")]
    ) as socket:
        await socket.send("x")
        await wait_all_tasks_blocked()
    assert len(seen) == 1


async def test_a_message_knows_its_layer() -> None:
    seen: list[object] = []

    async def receive(message: Message) -> None:
        layer = message.channel_layer
        assert layer is message.reply_channel.channel_layer is message.reply_channel.layer
        await Group("room", channel_layer=layer).add(message.reply_channel)
        await Group("room", layer).send({"text": "to all"})
        await Channel("jobs", channel_layer=layer).send({"n": 1})

    async def work(message: Message) -> None:
        seen.append(message.channel_layer)
        assert Group("room").channel_layer is Channel("jobs").channel_layer is message.channel_layer

    async def page(message: Message) -> None:
        seen.append(message.channel_layer)
        await message.reply_channel.send(text(""))

    layer = MemoryLayer()
    routing = [route("websocket.receive", receive), route("jobs", work), route("http.request", page)]
    async with Client(routing, layer=layer) as client:
        async with client.websocket("/") as socket:
            await socket.send("x")
            assert await socket.receive() == "to all"
            await wait_all_tasks_blocked()
        await client.get("/")
    assert seen == [layer, layer]


@pytest.mark.parametrize("make", [Channel, Group])
@pytest.mark.parametrize("wrong", ["default", object()])
def test_a_layer_s_alias_is_none(make: Any, wrong: Any) -> None:
    for how in ({"layer": wrong}, {"channel_layer": wrong}):
        with pytest.raises(TypeError, match=r"layer is a ChannelLayer, such as message\.channel_layer"):
            make("room", **how)
    with pytest.raises(TypeError, match="alias"):
        make("room", alias="default")


async def test_immediately_is_how_sends_leave() -> None:
    async def receive(message: Message) -> None:
        await message.reply_channel.send({"text": "a"}, immediately=True)
        await Group("room").add(message.reply_channel)
        await Group("room").send({"text": "b"}, immediately=True)
        await Channel("jobs").send({"n": 1}, immediately=True)
        for late in (
            message.reply_channel.send({"text": "late"}, immediately=False),
            Group("room").send({"text": "late"}, immediately=False),
            Channel("jobs").send({"text": "late"}, immediately=False),
        ):
            with pytest.raises(ValueError, match="immediately=False: sends are not put off"):
                await late
        await message.reply_channel.send({"text": "c"})

    async def job(message: Message) -> None: ...

    async with WSClient([route("websocket.receive", receive), route("jobs", job)]) as socket:
        await socket.send("x")
        assert [await socket.receive() for _ in "abc"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("thing", "ways"),
    [
        (Router([]), porting.ROUTER_ATTRIBUTES),
        (MemoryLayer(), porting.LAYER_ATTRIBUTES),
        (Client([]), porting.CLIENT_ATTRIBUTES),
        (HttpClient([]), porting.CLIENT_ATTRIBUTES),
        (WSClient([]), porting.CLIENT_ATTRIBUTES),
    ],
    ids=lambda value: type(value).__name__,
)
def test_attributes_that_are_looked_for_say_what_takes_their_place(thing: Any, ways: dict[str, str]) -> None:
    for name, way in ways.items():
        with pytest.raises(
            AttributeError, match=f"^'{name}' of Channels is not in {type(thing).__name__}: "
        ) as caught:
            getattr(thing, name)
        assert way in str(caught.value)
    with pytest.raises(AttributeError, match=f"'{type(thing).__name__}' object has no attribute 'nonsense'"):
        _ = thing.nonsense


def test_a_layer_has_the_exception_that_its_senders_catch() -> None:
    assert MemoryLayer().ChannelFull is ChannelFull


# -- exceptions that act


Hook = Callable[[Message], Any]


async def at_once(message: Message) -> None:
    raise WebsocketCloseException(4001, "bye")


async def after_a_wait(message: Message) -> None:
    await trio.lowlevel.checkpoint()
    raise WebsocketCloseException(4001, "bye")


async def in_a_nursery(message: Message) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(after_a_wait, message)
        await trio.lowlevel.checkpoint()


async def when_asked(message: Message) -> None:
    raise Asking


class Asking(ChannelSocketException):
    """One of a program's own, that waits and closes."""

    async def run(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        await message.reply_channel.send({"text": "because"})
        await message.reply_channel.send({"close": 4001, "reason": "bye"})


WAYS = [at_once, after_a_wait, in_a_nursery]


class TestExceptionsThatAct:
    @pytest.mark.parametrize("kind", [Client, DoorClient])
    @pytest.mark.parametrize("how", [*WAYS, when_asked])
    async def test_close_a_socket(self, how: Hook, kind: Any, caplog: pytest.LogCaptureFixture) -> None:
        ended: list[int] = []

        class Closing(WebsocketConsumer):
            async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
                await how(self.message)

            async def disconnect(self, message: Message, **kwargs: Any) -> None:
                ended.append(message["code"])

        async def function(message: Message) -> None:
            await how(message)

        for routing in ([route_class(Closing)], [route("websocket.receive", function)]):
            async with kind(routing) as client:
                for _ in range(2):  # the next client is served
                    async with client.websocket("/") as socket:
                        await socket.send("x")
                        closed = await socket.wait_closed()
                        assert (closed.code, closed.reason) == (4001, "bye")
        assert ended == [4001, 4001]
        assert caplog.records == []

    @pytest.mark.parametrize("how", WAYS)
    async def test_refuse_a_handshake(self, how: Hook, caplog: pytest.LogCaptureFixture) -> None:
        async def disconnect(message: Message) -> None:
            raise AssertionError

        async with Client(
            [route("websocket.connect", how), route("websocket.disconnect", disconnect)]
        ) as client:
            with pytest.raises(HandshakeRefused) as caught:
                async with client.websocket("/"):
                    raise AssertionError
            assert caught.value.status == 403
        assert caplog.records == []

    @pytest.mark.parametrize("how", WAYS)
    async def test_close_what_connect_has_accepted(self, how: Hook, caplog: pytest.LogCaptureFixture) -> None:
        async def connect(message: Message) -> None:
            await message.reply_channel.send({"accept": True, "text": "hello"})
            await how(message)

        async with WSClient([route("websocket.connect", connect)]) as socket:
            assert await socket.receive() == "hello"
            assert (await socket.wait_closed()).code == 4001
        assert caplog.records == []

    @pytest.mark.parametrize("how", WAYS)
    async def test_close_from_a_named_channel_and_a_stream(
        self, how: Hook, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Stream(JsonWebsocketConsumer):
            async def receive(self, content: Any, **kwargs: Any) -> None:
                await how(self.message)

        class Streams(WebsocketDemultiplexer):
            consumers = {"one": Stream}
            mapping = {"two": "jobs"}

        async with Client([route_class(Streams), route("jobs", how)]) as client:
            for stream in ("one", "two"):
                async with client.websocket("/") as socket:
                    await socket.send_json({"stream": stream, "payload": {}})
                    assert (await socket.wait_closed()).code == 4001
        assert caplog.records == []

    @pytest.mark.parametrize("how", WAYS)
    async def test_in_disconnect_there_is_nothing_to_close(
        self, how: Hook, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with Client([route("websocket.disconnect", how), route("websocket.receive", how)]) as client:
            async with client.websocket("/") as socket:
                await socket.close()
        assert caplog.records == []

    @pytest.mark.parametrize("how", WAYS)
    async def test_over_http_it_is_a_mistake(self, how: Hook, caplog: pytest.LogCaptureFixture) -> None:
        async def work(message: Message) -> None:
            await how(message)

        async with Client([route("http.request", how), route("jobs", work)]) as client:
            assert (await client.get("/x")).status == 500
            await Channel("jobs").send({})
            await wait_all_tasks_blocked()
        errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 2
        assert f"{how.__name__} raised in http.request on '/x'" in errors[0]
        assert "raised while handling a message on channel jobs" in errors[1]
        assert all(
            "WebsocketCloseException closes the WebSocket behind" in str(record.exc_info)
            for record in caplog.records
        )

    @pytest.mark.parametrize("wait", [False, True])
    @pytest.mark.parametrize(
        "what", [RuntimeError("broken"), WebsocketCloseException(4002), ChannelSocketException()]
    )
    async def test_what_run_raises_is_the_handler_s_error(
        self, what: Exception, wait: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Broken(ChannelSocketException):
            async def run(self, message: Message) -> None:
                if wait:
                    await trio.lowlevel.checkpoint()
                raise what

        async def receive(message: Message) -> None:
            if wait:
                await trio.lowlevel.checkpoint()
            raise what if type(what) is ChannelSocketException else Broken

        async with Client([route("websocket.receive", receive)]) as client:
            for _ in range(2):
                async with client.websocket("/") as socket:
                    await socket.send("x")
                    assert (await socket.wait_closed()).code == 1011
        assert len(caplog.records) == 2
        assert "receive raised in receive on '/'" in caplog.text

    async def test_beside_another_error_it_is_an_error(self, caplog: pytest.LogCaptureFixture) -> None:
        async def receive(message: Message) -> None:
            raise ExceptionGroup("both", [WebsocketCloseException(4001), KeyError("x")])

        async with WSClient([route("websocket.receive", receive)]) as socket:
            await socket.send("x")
            assert (await socket.wait_closed()).code == 1011
        assert len(caplog.records) == 1

    async def test_handler_timeout_bounds_it(
        self, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Hanging(ChannelSocketException):
            async def run(self, message: Message) -> None:
                await trio.sleep_forever()

        async def hang(message: Message) -> None:
            raise Hanging

        settings = Settings(handler_timeout=3)
        async with Client(
            [route("jobs", hang), route("websocket.receive", hang)], settings=settings
        ) as client:
            await Channel("jobs").send({})
            async with client.websocket("/") as socket:
                await socket.send("x")
                assert (await socket.wait_closed()).code == 1011
        assert caplog.text.count("TooSlowError") >= 2

    def test_run_is_async(self) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"Sync\.run is not 'async def'"):

            class Sync(ChannelSocketException):
                def run(self, message: Any) -> None:  # type: ignore[override]
                    ...

    @pytest.mark.parametrize("code", [0, 999, 1005, 1006, 2000, 5000, "4000", 4000.5])
    def test_a_code_that_can_t_be_sent_is_found_when_it_is_made(self, code: Any) -> None:
        with pytest.raises(ValueError, match="close takes True or a code"):
            WebsocketCloseException(code)

    def test_they_tell_what_they_do(self) -> None:
        assert str(WebsocketCloseException()) == "close with 1000"
        assert str(WebsocketCloseException(4001, "bye")) == "close with 4001: bye"

    async def test_deny_connection_is_connect_s_alone(self, caplog: pytest.LogCaptureFixture) -> None:
        async def receive(message: Message) -> None:
            raise DenyConnection

        async with WSClient([route("websocket.receive", receive)]) as socket:
            await socket.send("x")
            assert (await socket.wait_closed()).code == 1011
        assert len(caplog.records) == 1


# -- generic consumers


@pytest.mark.parametrize("how", [{"status": 4005}, {"code": 4005}, {"status": True}, {}])
async def test_close_takes_a_status(how: Any) -> None:
    class Closing(WebsocketConsumer):
        async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
            await self.close(**how)

    async with WSClient([route_class(Closing)]) as socket:
        await socket.send("x")
        assert (await socket.wait_closed()).code == (4005 if 4005 in how.values() else 1000)


@pytest.mark.parametrize(
    ("content", "received"),
    [
        ({"text": None, "bytes": b"x"}, {"bytes": b"x"}),
        ({"text": "x", "bytes": None}, {"text": "x"}),
        ({"text": ""}, {"text": ""}),
        ({"bytes": b""}, {"bytes": b""}),
    ],
)
async def test_an_instance_handles_a_message_made_by_hand(content: Any, received: Any) -> None:
    """Also one that has both keys, as servers of ASGI send it."""
    seen: list[Any] = []

    class Taking(WebsocketConsumer):
        async def receive(self, **kwargs: Any) -> None:
            seen.append(kwargs)

    message = Message({"path": "/", **content}, Channel("websocket.receive"))
    await Taking(message, room="x").dispatch(message, room="x")
    assert seen == [{**received, "room": "x"}]


async def test_a_consumer_may_put_its_message_back() -> None:
    """What ``raise ConsumeLater`` did."""
    seen: list[Any] = []

    async def later(message: Message) -> None:
        seen.append(dict(message))
        if message["tries"]:
            await message.channel.send({**message.content, "tries": message["tries"] - 1})
        else:
            await message.reply_channel.send({"text": "done"})

    async def receive(message: Message) -> None:
        await Channel("jobs").send({"tries": 2, "reply_channel": message["reply_channel"]})

    async with WSClient([route("jobs", later), route("websocket.receive", receive)]) as socket:
        await socket.send("x")
        assert await socket.receive() == "done"
    assert [each["tries"] for each in seen] == [2, 1, 0]


async def test_a_custom_multiplexer_that_expects_a_payload_answers_mistakes_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The one of Channels' test of ``multiplexer_class``."""

    class MyWebsocketConsumer(JsonWebsocketConsumer):
        async def connect(self, message: Message, multiplexer: Any = None, **kwargs: Any) -> None:
            await multiplexer.send({"THIS_SHOULD_BE_LOWERCASED": "1"})

    class MyMultiplexer(WebsocketMultiplexer):
        @classmethod
        def encode_json(cls, content: Any) -> str:
            lowered = {
                "stream": content["stream"],
                "payload": {key.lower(): content["payload"][key] for key in content["payload"]},
            }
            return json.dumps(lowered)

    class Demultiplexer(WebsocketDemultiplexer):
        multiplexer_class = MyMultiplexer
        consumers = {"mystream": MyWebsocketConsumer}

    async with WSClient([route_class(Demultiplexer, path=r"/path/(?P<ID>\d+)")], "/path/1") as socket:
        assert await socket.receive_json() == {
            "stream": "mystream",
            "payload": {"this_should_be_lowercased": "1"},
        }
        for frame, error in [
            ({"stream": "other", "payload": {}}, "unknown stream"),
            ({"stream": "mystream"}, "payload is missing"),
            ({"stream": "mystream", "payload": 5}, "payload is not an object"),
            (5, "a frame is an object with stream and payload"),
        ]:
            await socket.send_json(frame)
            assert (await socket.receive_json())["error"] == error
    assert caplog.records == []


class TestOverridesWithoutSuper:
    """Streams are asked at connect and told at disconnect, once, whatever the demultiplexer overrides."""

    def streams(self, told: list[Any], **methods: Any) -> list[Any]:
        class Stream(JsonWebsocketConsumer):
            async def connect(self, message: Message, multiplexer: Any = None, **kwargs: Any) -> None:
                told.append(("connect", multiplexer.stream, kwargs))

            async def receive(self, content: Any, multiplexer: Any = None, **kwargs: Any) -> None:
                await multiplexer.send(content)

            async def disconnect(self, message: Message, multiplexer: Any = None, **kwargs: Any) -> None:
                told.append(("disconnect", multiplexer.stream, message["code"]))

        base: Any = type(
            "Streams", (WebsocketDemultiplexer,), {"consumers": {"a": Stream, "b": Stream}, **methods}
        )
        return [route_class(base, path=r"^/(?P<room>\w+)$")]

    async def test_they_are_told_once(self) -> None:
        async def without(self: Any, message: Message, **kwargs: Any) -> None:
            told.append(message.channel.name)

        async def with_super(self: Any, message: Message, **kwargs: Any) -> None:
            told.append(message.channel.name)
            await getattr(WebsocketDemultiplexer, message.channel.name[10:])(self, message, **kwargs)

        for method in (without, with_super):
            told: list[Any] = []
            routing = self.streams(told, connect=method, disconnect=method)
            async with Client(routing) as client, client.websocket("/x") as socket:
                await socket.send_json({"stream": "a", "payload": {"n": 1}})
                assert await socket.receive_json() == {"stream": "a", "payload": {"n": 1}}
            assert told == [
                "websocket.connect",
                ("connect", "a", {"room": "x"}),
                ("connect", "b", {"room": "x"}),
                "websocket.disconnect",
                ("disconnect", "a", 1000),
                ("disconnect", "b", 1000),
            ]

    async def test_a_refused_handshake_is_not_asked_about(self) -> None:
        async def close(self: Any, message: Message, **kwargs: Any) -> None:
            await self.close()

        async def deny(self: Any, message: Message, **kwargs: Any) -> None:
            raise DenyConnection

        for method in (close, deny):
            told: list[Any] = []
            async with Client(self.streams(told, connect=method)) as client:
                with pytest.raises(HandshakeRefused):
                    async with client.websocket("/x"):
                        raise AssertionError
            assert told == []

    async def test_nor_one_that_is_accepted_and_closed(self) -> None:
        async def connect(self: Any, message: Message, **kwargs: Any) -> None:
            await message.reply_channel.send({"accept": True})
            assert not self.connection.closing
            await self.close(4000)
            assert self.connection.closing

        told: list[Any] = []
        async with Client(self.streams(told, connect=connect)) as client, client.websocket("/x") as socket:
            assert (await socket.wait_closed()).code == 4000
        assert [each[0] for each in told] == ["disconnect", "disconnect"]

    async def test_a_disconnect_that_raises_does_not_keep_it_from_them(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def disconnect(self: Any, message: Message, **kwargs: Any) -> None:
            raise KeyError("mine")

        async def late(self: Any, message: Message, **kwargs: Any) -> None:
            await WebsocketDemultiplexer.disconnect(self, message, **kwargs)
            raise KeyError("mine")

        for method in (disconnect, late):
            caplog.clear()
            told: list[Any] = []
            async with Client(self.streams(told, disconnect=method)) as client, client.websocket("/x"):
                pass
            assert [each[:2] for each in told[2:]] == [("disconnect", "a"), ("disconnect", "b")]
            assert len(caplog.records) == 1
            assert "KeyError: 'mine'" in caplog.text


def test_what_is_not_there_is_not_listed() -> None:
    assert "ConsumeLater" not in dir(triochan.exceptions)
    assert ConnectionClosed.__module__ == "triochan.exceptions"

"""Several streams over one socket: where frames go, what comes back, and what bad ones are answered with."""

# No `from __future__ import annotations`: classes are annotated with classes of functions here.

import json
import logging
import sys
from collections.abc import Callable
from typing import Any, Literal

import attrs
import generic_consumers
import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from websockets.sync.client import connect

from triochan import Application, Channel, Group, Message, Settings, auth, route, route_class
from triochan.exceptions import (
    ConnectionClosed,
    DenyConnection,
    ImproperlyConfigured,
    InvalidContent,
    SendNotAvailableOnDemultiplexer,
)
from triochan.generic import BaseConsumer
from triochan.generic.websockets import (
    JsonWebsocketConsumer,
    WebsocketConsumer,
    WebsocketDemultiplexer,
    WebsocketMultiplexer,
)
from triochan.http import text
from triochan.sessions import channel_session
from triochan.test import Client, LiveServer, TestWebsocket, WSClient
from triochan.test.client import HandshakeRefused

PATIENCE = 10
"""Seconds that anything may take; nothing does."""


class Echo(JsonWebsocketConsumer):
    """Tells on its stream what reaches it."""

    async def connect(self, message: Message, multiplexer: Any = None, **kwargs: Any) -> None:
        await multiplexer.send({"connected": kwargs})

    async def receive(self, content: Any, multiplexer: Any = None, **kwargs: Any) -> None:
        await multiplexer.send({"echo": content, **kwargs})


class Streams(WebsocketDemultiplexer):
    consumers = {"echo": Echo}


def routing(demultiplexer: type[WebsocketDemultiplexer], *others: Any) -> list[Any]:
    return [route_class(demultiplexer, path=r"^/(?P<room>\w+)$"), *others]


async def frames(socket: TestWebsocket, count: int) -> list[Any]:
    return [await socket.receive_json() for _ in range(count)]


async def ask(socket: TestWebsocket, frame: Any) -> Any:
    await socket.send_json(frame)
    return await socket.receive_json()


# -- streams to consumers


async def test_a_stream_reaches_its_consumer_which_answers_on_it() -> None:
    async with WSClient(routing(Streams), "/blue") as socket:
        assert await socket.receive_json() == {"stream": "echo", "payload": {"connected": {"room": "blue"}}}
        answer = await ask(socket, {"stream": "echo", "payload": {"a": [1, "ü"]}})
        assert answer == {"stream": "echo", "payload": {"echo": {"a": [1, "ü"]}, "room": "blue"}}


async def test_the_consumer_sees_a_message_like_any_other() -> None:
    seen: list[Any] = []

    class Looks(JsonWebsocketConsumer):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            seen.append((message.channel.name, self.path, message["order"], "headers" in message))

        async def receive(self, content: Any, **kwargs: Any) -> None:
            message = self.message
            assert message.connection is self.connection is not None
            assert message.reply_channel.name == kwargs["multiplexer"].reply_channel.name
            assert kwargs == self.kwargs
            seen.append((message.channel.name, self.path, message["order"], message["text"]))

        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            seen.append((message.channel.name, self.path, message["code"]))

    class Demultiplexer(WebsocketDemultiplexer):
        strict_ordering = True
        consumers = {"looks": Looks}

    async with Client(routing(Demultiplexer)) as client:
        async with client.websocket("/red") as socket:
            await socket.send_json({"stream": "looks", "payload": {"n": 1}})
            await socket.send_json({"stream": "looks", "payload": {}})
        await wait_all_tasks_blocked()
    assert seen == [
        ("websocket.connect", "/red", 0, True),
        ("websocket.receive", "/red", 1, '{"n":1}'),
        ("websocket.receive", "/red", 2, "{}"),
        ("websocket.disconnect", "/red", 1000),
    ]


async def test_connect_and_disconnect_reach_all_consumers() -> None:
    seen: list[str] = []

    def recorder(name: str) -> type[JsonWebsocketConsumer]:
        class Recorder(JsonWebsocketConsumer):
            groups = [f"group-{name}"]

            async def connect(self, message: Message, **kwargs: Any) -> None:
                seen.append(f"connect {kwargs['multiplexer'].stream}")

            async def receive(self, content: Any, **kwargs: Any) -> None:
                seen.append(f"receive {name}")

            async def disconnect(self, message: Message, **kwargs: Any) -> None:
                seen.append(f"disconnect {kwargs['multiplexer'].stream}")

        return Recorder

    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {"one": recorder("one"), "two": recorder("two")}

    async with Client(routing(Demultiplexer)) as client:
        async with client.websocket("/x") as socket:
            assert seen == ["connect one", "connect two"]
            for name in ("one", "two"):
                assert len(await Group(f"group-{name}").members()) == 1
            await socket.send_json({"stream": "two", "payload": {}})
        await wait_all_tasks_blocked()
        assert seen == ["connect one", "connect two", "receive two", "disconnect one", "disconnect two"]
        assert await Group("group-one").members() == await Group("group-two").members() == []


async def test_connect_and_disconnect_may_be_overridden_with_groups_of_the_demultiplexers_own() -> None:
    seen: list[str] = []

    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {"echo": Echo}

        def connection_groups(self, **kwargs: Any) -> list[str]:
            return [f"room-{kwargs['room']}"]

        async def connect(self, message: Message, **kwargs: Any) -> None:
            seen.append("before")
            await super().connect(message, **kwargs)
            await self.send("welcome", {"to": kwargs["room"]})

        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            seen.append("after")
            await super().disconnect(message, **kwargs)

    async with Client(routing(Demultiplexer)) as client:
        async with client.websocket("/green") as socket:
            assert await frames(socket, 2) == [
                {"stream": "echo", "payload": {"connected": {"room": "green"}}},
                {"stream": "welcome", "payload": {"to": "green"}},
            ]
            await Demultiplexer.group_send("room-green", "news", {"n": 1})
            assert await socket.receive_json() == {"stream": "news", "payload": {"n": 1}}
        await wait_all_tasks_blocked()
    assert seen == ["before", "after"]


async def test_a_function_may_be_a_consumer() -> None:
    async def consumer(message: Message, multiplexer: Any, **kwargs: Any) -> None:
        if message.channel.name != "websocket.disconnect":
            await multiplexer.send([message.channel.name, message.get("text"), kwargs])

    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {"function": consumer}

    async with WSClient(routing(Demultiplexer), "/x") as socket:
        await socket.send_json({"stream": "function", "payload": {"a": 1}})
        assert [frame["payload"] for frame in await frames(socket, 2)] == [
            ["websocket.connect", None, {"room": "x"}],
            ["websocket.receive", '{"a":1}', {"room": "x"}],
        ]


async def test_a_consumer_need_not_take_every_kind_of_message() -> None:
    class OnlyReceives(BaseConsumer):
        method_mapping = {"websocket.receive": "arrived"}

        async def arrived(self, message: Message, multiplexer: Any, **kwargs: Any) -> None:
            await multiplexer.send({"text": message["text"]})

    class Plain(WebsocketConsumer):
        async def receive(
            self, text: Any = None, bytes: Any = None, multiplexer: Any = None, **kwargs: Any
        ) -> None:
            await multiplexer.send({"text": text})

    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {"base": OnlyReceives, "plain": Plain}

    async with WSClient(routing(Demultiplexer), "/x") as socket:
        for stream in ("base", "plain"):
            answer = await ask(socket, {"stream": stream, "payload": {"a": 1}})
            assert answer == {"stream": stream, "payload": {"text": '{"a":1}'}}


async def test_a_multiplexer_may_be_kept_for_later() -> None:
    class Later(JsonWebsocketConsumer):
        async def receive(self, content: Any, multiplexer: Any = None, **kwargs: Any) -> None:
            self.connection.start_soon(self.answer, multiplexer, content)

        async def answer(self, multiplexer: WebsocketMultiplexer, content: Any) -> None:
            await trio.sleep(3600)
            await multiplexer.send(content, close=4001)

    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {"later": Later}

    async def test() -> None:
        async with WSClient(routing(Demultiplexer), "/x", settings=Settings(ping_interval=0)) as socket:
            assert await ask(socket, {"stream": "later", "payload": {"a": 1}}) == {
                "stream": "later",
                "payload": {"a": 1},
            }
            assert (await socket.wait_closed()).code == 4001

    await in_virtual_time(test)


async def in_virtual_time(test: Callable[..., Any]) -> None:
    """Run ``test`` in a Trio run of its own, whose clock jumps."""
    await trio.to_thread.run_sync(lambda: trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0)))


# -- sending


async def test_a_consumers_own_send_is_refused_and_its_class_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Sends(JsonWebsocketConsumer):
        async def receive(self, content: Any, **kwargs: Any) -> None:
            await self.send({"got": content})

    before = dict(vars(Sends))

    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {"sends": Sends}

    both = [route_class(Demultiplexer, path="^/streams$"), route_class(Sends, path="^/alone$")]
    async with Client(both) as client:
        async with client.websocket("/streams") as socket:
            await socket.send_json({"stream": "sends", "payload": {}})
            assert (await socket.wait_closed()).code == 1011
        assert "SendNotAvailableOnDemultiplexer" in caplog.text
        assert "use the multiplexer argument's send(payload)" in caplog.text
        async with client.websocket("/alone") as socket:
            assert await ask(socket, {"a": 1}) == {"got": {"a": 1}}
    assert dict(vars(Sends)) == before
    assert Sends.send is JsonWebsocketConsumer.send


async def test_a_demultiplexer_sends_on_a_stream_or_not_at_all() -> None:
    raised: list[str] = []

    class Demultiplexer(WebsocketDemultiplexer):
        groups = ["all"]

        async def receive(self, content: Any, **kwargs: Any) -> None:
            for attempt in (
                self.send({"a": 1}),
                self.send(),
                self.group_send("all", {"a": 1}),
                self.group_send("all"),
            ):
                with pytest.raises(SendNotAvailableOnDemultiplexer) as caught:
                    await attempt
                raised.append(str(caught.value))
            await self.send("one", {"n": 1})
            await self.group_send("all", "two", {"n": 2})
            await self.message.reply_channel.send(self.encode("three", {"n": 3}))
            await self.send("four", {"n": 4}, close=4002)

    async with WSClient(routing(Demultiplexer), "/x") as socket:
        await socket.send_json({})
        assert await frames(socket, 4) == [
            {"stream": stream, "payload": {"n": n}}
            for n, stream in enumerate(("one", "two", "three", "four"), 1)
        ]
        assert (await socket.wait_closed()).code == 4002
    assert len(raised) == 4


async def test_a_group_is_sent_to_on_a_stream() -> None:
    class Joins(JsonWebsocketConsumer):
        groups = ["joined"]

        async def receive(self, content: Any, multiplexer: Any = None, **kwargs: Any) -> None:
            await multiplexer.group_send("joined", multiplexer.stream, content)

    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {"joins": Joins}

    async with Client(routing(Demultiplexer)) as client:
        async with client.websocket("/a") as a, client.websocket("/b") as b:
            await a.send_json({"stream": "joins", "payload": {"n": 1}})
            assert (
                await a.receive_json() == await b.receive_json() == {"stream": "joins", "payload": {"n": 1}}
            )
            await WebsocketMultiplexer.group_send("joined", "news", [1], close=4003)
            for socket in (a, b):
                assert await socket.receive_json() == {"stream": "news", "payload": [1]}
                assert (await socket.wait_closed()).code == 4003


def test_frames_can_be_encoded_by_hand() -> None:
    for encode in (WebsocketMultiplexer.encode, WebsocketDemultiplexer.encode, Streams.encode):
        content = encode("s", {"a": "ü"})
        assert list(content) == ["text"]
        assert json.loads(content["text"]) == {"stream": "s", "payload": {"a": "ü"}}
    error = WebsocketMultiplexer.encode_error("s", "no", ["why"])
    assert json.loads(error["text"]) == {"stream": "s", "error": "no", "details": ["why"]}


async def test_a_multiplexer_of_ones_own_encodes_its_own_way() -> None:
    class Shouting(WebsocketMultiplexer):
        @classmethod
        def encode_json(cls, content: Any) -> str:
            return json.dumps({**content, "loud": True})

    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {"echo": Echo}
        multiplexer_class = Shouting

    async with WSClient(routing(Demultiplexer), "/x") as socket:
        assert await socket.receive_json() == {
            "stream": "echo",
            "payload": {"connected": {"room": "x"}},
            "loud": True,
        }
        assert await ask(socket, 5) == {
            "stream": None,
            "error": "a frame is an object with stream and payload",
            "loud": True,
        }
    assert json.loads(Demultiplexer.encode("s", 1)["text"])["loud"] is True


# -- streams to named channels


async def test_a_stream_may_go_to_a_named_channel_with_its_reply_channel() -> None:
    async def stats(message: Message, kind: str) -> None:
        assert message.connection is None
        await message.reply_channel.send(
            WebsocketDemultiplexer.encode("stats", [kind, dict(message.content)])
        )

    class Demultiplexer(WebsocketDemultiplexer):
        mapping = {"stats": "internal.stats"}
        consumers = {"echo": Echo}

    async with WSClient(
        routing(Demultiplexer, route("internal.stats", stats, kind="(?P<kind>.*)")), "/x"
    ) as socket:
        await socket.receive_json()
        kind, content = (await ask(socket, {"stream": "stats", "payload": {"kind": "users", "n": 1}}))[
            "payload"
        ]
        name = content.pop("reply_channel")
        assert (kind, content) == ("users", {"kind": "users", "n": 1})
        # No client speaks for another one.
        kind, content = (
            await ask(
                socket, {"stream": "stats", "payload": {"kind": "x", "reply_channel": "websocket.send.x!1"}}
            )
        )["payload"]
        assert content == {"kind": "x", "reply_channel": name}
        assert (await ask(socket, {"stream": "echo", "payload": {}}))["payload"] == {"echo": {}, "room": "x"}


async def test_the_connections_session_is_there_behind_a_named_channel() -> None:
    class Demultiplexer(WebsocketDemultiplexer):
        channel_session = True
        mapping = {"count": "internal.count"}

        async def connect(self, message: Message, **kwargs: Any) -> None:
            message.channel_session["count"] = 10

    @channel_session
    async def count(message: Message) -> None:
        message.channel_session["count"] += message["by"]
        payload = {"count": message.channel_session["count"]}
        await message.reply_channel.send(WebsocketDemultiplexer.encode("count", payload))

    async with WSClient(routing(Demultiplexer, route("internal.count", count)), "/x") as socket:
        for expected in (11, 12):
            answer = await ask(socket, {"stream": "count", "payload": {"by": 1}})
            assert answer == {"stream": "count", "payload": {"count": expected}}


async def test_a_full_channel_is_told_and_nothing_is_lost_silently(caplog: pytest.LogCaptureFixture) -> None:
    class Demultiplexer(WebsocketDemultiplexer):
        mapping = {"stats": "nobody.listens"}

    settings = Settings(channel_capacity={"nobody.*": 2})
    async with WSClient(routing(Demultiplexer), "/x", settings=settings) as socket:
        for _ in range(3):
            await socket.send_json({"stream": "stats", "payload": {}})
        refused = {"stream": "stats", "error": "the server is busy; this was not taken, try again later"}
        assert await socket.receive_json() == refused
        assert await ask(socket, {"stream": "x", "payload": {}}) == {"stream": "x", "error": "unknown stream"}
    [record] = [each for each in caplog.records if each.name == "triochan.generic"]
    assert "channel 'nobody.listens' is full" in record.getMessage()


async def test_what_waits_for_a_stream_s_channel_is_bounded_in_bytes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Demultiplexer(WebsocketDemultiplexer):
        mapping = {"stats": "nobody.listens"}

    settings = Settings(channel_bytes=200_000)
    payload = '{"a":[' + ",".join(["{}"] * 40_000) + "]}"
    async with WSClient(routing(Demultiplexer), "/x", settings=settings) as socket:
        for _ in range(4):
            await socket.send(f'{{"stream":"stats","payload":{payload}}}')
        refused = {"stream": "stats", "error": "the server is busy; this was not taken, try again later"}
        assert await socket.receive_json() == refused
        assert await ask(socket, {"stream": "x", "payload": {}}) == {"stream": "x", "error": "unknown stream"}
    [record] = [each for each in caplog.records if each.name == "triochan.generic"]
    assert "channel 'nobody.listens' is full: 200,000 bytes" in record.getMessage()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pickle takes as many levels as JSON can have")
async def test_a_payload_that_is_nested_too_deeply_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    class Demultiplexer(WebsocketDemultiplexer):
        mapping = {"stats": "nobody.listens"}

    async with WSClient(routing(Demultiplexer), "/x") as socket:
        payload = '{"a":' + "[" * 1000 + "]" * 1000 + "}"
        await socket.send(f'{{"stream":"stats","payload":{payload}}}')
        assert await socket.receive_json() == {"stream": "stats", "error": "payload is nested too deeply"}
        assert await ask(socket, {"stream": "x", "payload": {}}) == {"stream": "x", "error": "unknown stream"}
    [record] = [each for each in caplog.records if each.name == "triochan.generic"]
    assert record.getMessage().startswith("stream 'stats' on /x: too deep")
    assert record.exc_info is None


# -- bad frames


@pytest.mark.parametrize(
    ("frame", "stream", "error"),
    [
        (5, None, "a frame is an object with stream and payload"),
        (None, None, "a frame is an object with stream and payload"),
        ("echo", None, "a frame is an object with stream and payload"),
        (["echo", {}], None, "a frame is an object with stream and payload"),
        ({}, None, "stream is missing"),
        ({"payload": {}}, None, "stream is missing"),
        ({"stream": None, "payload": {}}, None, "stream is not a string"),
        ({"stream": 5, "payload": {}}, None, "stream is not a string"),
        ({"stream": ["echo"], "payload": {}}, None, "stream is not a string"),
        ({"stream": {"echo": 1}, "payload": {}}, None, "stream is not a string"),
        ({"stream": "echo"}, "echo", "payload is missing"),
        ({"stream": "nowhere"}, "nowhere", "payload is missing"),
        ({"stream": "nowhere", "payload": {}}, "nowhere", "unknown stream"),
        ({"stream": "", "payload": {}}, "", "unknown stream"),
        ({"stream": "ECHO", "payload": {}}, "ECHO", "unknown stream"),
        ({"stream": "__class__", "payload": {}}, "__class__", "unknown stream"),
        ({"stream": "echo", "payload": None}, "echo", "payload is not an object"),
        ({"stream": "echo", "payload": [1]}, "echo", "payload is not an object"),
        ({"stream": "echo", "payload": '{"a": 1}'}, "echo", "payload is not an object"),
        ({"stream": "stats", "payload": 5}, "stats", "payload is not an object"),
    ],
    ids=str,
)
async def test_a_bad_frame_is_answered_and_the_socket_stays(
    frame: Any, stream: str | None, error: str
) -> None:
    class Demultiplexer(WebsocketDemultiplexer):
        mapping = {"stats": "internal.stats"}
        consumers = {"echo": Echo}

    async with WSClient(routing(Demultiplexer), "/x") as socket:
        await socket.receive_json()
        assert await ask(socket, frame) == {"stream": stream, "error": error}
        answer = await ask(socket, {"stream": "echo", "payload": {}, "more": "is no error"})
        assert answer == {"stream": "echo", "payload": {"echo": {}, "room": "x"}}


@pytest.mark.parametrize(("data", "code"), [("{", 1007), ("", 1007), ("NaN", 1007), (b"{}", 1003)])
async def test_what_is_no_json_closes(data: str | bytes, code: int) -> None:
    async with WSClient(routing(Streams), "/x") as socket:
        await socket.send(data)
        assert (await socket.wait_closed()).code == code


# -- typed content


@attrs.frozen
class Move:
    type: Literal["move"]
    x: int


@attrs.frozen
class Say:
    type: Literal["say"]
    text: str


class Typed(JsonWebsocketConsumer):
    async def receive(self, content: Move | Say, multiplexer: Any = None, **kwargs: Any) -> None:
        await multiplexer.send({"got": content})
        await multiplexer.send(content)


class TypedStreams(WebsocketDemultiplexer):
    consumers = {"typed": Typed}


async def test_a_streams_content_may_be_typed() -> None:
    async with WSClient(routing(TypedStreams), "/x") as socket:
        move = {"type": "move", "x": 1}
        await socket.send_json({"stream": "typed", "payload": move})
        assert await frames(socket, 2) == [
            {"stream": "typed", "payload": {"got": move}},
            {"stream": "typed", "payload": move},
        ]


async def test_a_payload_that_does_not_fit_is_answered_on_its_stream() -> None:
    async with WSClient(routing(TypedStreams), "/x") as socket:
        answer = await ask(socket, {"stream": "typed", "payload": {"type": "move", "x": "1"}})
        assert answer == {
            "stream": "typed",
            "error": "invalid content",
            "details": ['$.x: a whole number is expected, not "1"'],
        }
        assert (await ask(socket, {"stream": "typed", "payload": {"type": "say", "text": ""}}))[
            "stream"
        ] == "typed"


async def test_a_consumer_may_answer_it_otherwise() -> None:
    class Own(Typed):
        async def content_invalid(self, error: InvalidContent) -> None:
            await self.kwargs["multiplexer"].send({"sorry": error.details})

    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {"own": Own}

    async with WSClient(routing(Demultiplexer), "/x") as socket:
        assert (await ask(socket, {"stream": "own", "payload": {"type": "move"}})) == {
            "stream": "own",
            "payload": {"sorry": ["$.x: missing"]},
        }


async def test_the_applications_converter_is_used_for_streams_and_groups() -> None:
    application = Application(routing(TypedStreams))
    application.converter.register_unstructure_hook(Move, lambda move: {"x!": move.x})
    async with WSClient(application, "/x") as socket:
        await socket.send_json({"stream": "typed", "payload": {"type": "move", "x": 1}})
        assert [each["payload"] for each in await frames(socket, 2)] == [{"got": {"x!": 1}}, {"x!": 1}]
        assert json.loads(WebsocketDemultiplexer.encode("s", [Move("move", 2)])["text"])["payload"] == [
            {"x!": 2}
        ]


# -- sessions and users


@attrs.frozen
class User:
    id: int


def application(demultiplexer: type[WebsocketDemultiplexer]) -> tuple[Application, list[Any]]:
    loads: list[Any] = []

    async def load(session: Any) -> User:
        loads.append(dict(session))
        return User(7)

    async def login(message: Message) -> None:
        await auth.login(message, User(7))
        await message.reply_channel.send(text("welcome"))

    routes = [*routing(demultiplexer), route("http.request", auth.http_session_user(login))]
    return Application(routes, user_loader=load), loads


class WithUser(JsonWebsocketConsumer):
    http_user = True

    async def connect(self, message: Message, multiplexer: Any = None, **kwargs: Any) -> None:
        message.channel_session[multiplexer.stream] = 0
        await multiplexer.send({"user": message.user.id})

    async def receive(self, content: Any, multiplexer: Any = None, **kwargs: Any) -> None:
        session = self.message.channel_session
        session[multiplexer.stream] += 1
        counts = {key: value for key, value in session.items() if key in ("one", "two")}
        await multiplexer.send({"user": self.message.user.id, "counts": counts})

    async def disconnect(self, message: Message, multiplexer: Any = None, **kwargs: Any) -> None:
        ends.append((multiplexer.stream, message.user.id, message.channel_session["two"]))


ends: list[Any] = []


async def test_a_user_and_a_session_are_shared_by_all_streams_and_loaded_once() -> None:
    class Demultiplexer(WebsocketDemultiplexer):
        strict_ordering = True
        consumers = {"one": WithUser, "two": WithUser}

    assert Demultiplexer.http_user  # as its streams ask for it
    app, loads = application(Demultiplexer)
    ends.clear()
    async with Client(app) as client:
        await client.get("/login")
        loads.clear()
        async with client.websocket("/x") as socket:
            assert await frames(socket, 2) == [
                {"stream": "one", "payload": {"user": 7}},
                {"stream": "two", "payload": {"user": 7}},
            ]
            assert len(loads) == 1
            for counts in ({"one": 0, "two": 1}, {"one": 0, "two": 2}):
                answer = await ask(socket, {"stream": "two", "payload": {}})
                assert answer == {"stream": "two", "payload": {"user": 7, "counts": counts}}
            assert len(loads) == 3
        await wait_all_tasks_blocked()
    assert ends == [("one", 7, 2), ("two", 7, 2)]


async def test_a_stream_with_a_user_keeps_other_sites_out() -> None:
    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {"one": WithUser}

    app, _ = application(Demultiplexer)
    async with Client(app) as client:
        with pytest.raises(HandshakeRefused, match="403"):
            async with client.websocket("/x", headers={"Origin": "https://elsewhere.example"}):
                pass


async def test_a_consumers_own_decorators_are_around_its_handlers() -> None:
    seen: list[str] = []

    class Decorated(Echo):
        def get_handler(self, message: Message, **kwargs: Any) -> Any:
            handler = super().get_handler(message, **kwargs)

            async def wrapper(message: Message, **kwargs: Any) -> None:
                seen.append(message.channel.name)
                await handler(message, **kwargs)

            return wrapper

    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {"decorated": Decorated}

    async with Client(routing(Demultiplexer)) as client:
        async with client.websocket("/x") as socket:
            await socket.receive_json()
            assert (await ask(socket, {"stream": "decorated", "payload": {}}))["payload"] == {
                "echo": {},
                "room": "x",
            }
        await wait_all_tasks_blocked()
    assert seen == ["websocket.connect", "websocket.receive", "websocket.disconnect"]


def test_a_streams_ordering_is_the_connections() -> None:
    class Strict(Echo):
        strict_ordering = True

    class Slight(Echo):
        slight_ordering = True

    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {"strict": Strict, "slight": Slight}

    assert (Demultiplexer.strict_ordering, Demultiplexer.slight_ordering) == (True, True)
    assert (Streams.strict_ordering, Streams.slight_ordering) == (False, False)
    assert (WebsocketDemultiplexer.strict_ordering, Echo.strict_ordering) == (False, False)


# -- errors, refusals and the end


async def test_what_a_stream_raises_closes_this_socket_only(caplog: pytest.LogCaptureFixture) -> None:
    class Raises(JsonWebsocketConsumer):
        async def receive(self, content: Any, **kwargs: Any) -> None:
            raise RuntimeError("an error of the program's")

    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {"raises": Raises, "echo": Echo}

    async with Client(routing(Demultiplexer)) as client:
        async with client.websocket("/a") as a, client.websocket("/b") as b:
            await b.receive_json()
            await a.send_json({"stream": "raises", "payload": {}})
            assert (await a.wait_closed()).code == 1011
            assert (await ask(b, {"stream": "echo", "payload": {}}))["payload"] == {"echo": {}, "room": "b"}
    assert caplog.text.count("RuntimeError: an error of the program's") == 1


@pytest.mark.parametrize("way", ["raise", "close"])
async def test_any_stream_may_refuse_the_connection(way: str) -> None:
    gone: list[str] = []

    class Picky(JsonWebsocketConsumer):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            if way == "raise":
                raise DenyConnection
            await self.close()

        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            gone.append("disconnect")

    class Quiet(JsonWebsocketConsumer):
        pass

    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {"quiet": Quiet, "picky": Picky}

    async with Client(routing(Demultiplexer)) as client:
        with pytest.raises(HandshakeRefused, match="403"):
            async with client.websocket("/x"):
                pass
    assert gone == []


async def test_every_stream_is_told_of_the_end_whatever_another_one_raises(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[str] = []

    def ending(error: Exception | None) -> type[JsonWebsocketConsumer]:
        class Ending(JsonWebsocketConsumer):
            async def disconnect(self, message: Message, **kwargs: Any) -> None:
                told.append(kwargs["multiplexer"].stream)
                if error is not None:
                    raise error

        return Ending

    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {
            "a": ending(LookupError("first")),
            "b": ending(None),
            "c": ending(KeyError("second")),
            "d": ending(ConnectionClosed()),
        }

    class Single(WebsocketDemultiplexer):
        consumers = {"e": ending(LookupError("third")), "f": ending(None)}

    both = [route_class(Demultiplexer, path="^/a$"), route_class(Single, path="^/b$")]
    async with Client(both) as client:
        for path in ("/a", "/b"):
            async with client.websocket(path):
                pass
            await wait_all_tasks_blocked()
    assert told == ["a", "b", "c", "d", "e", "f"]
    assert "LookupError: first" in caplog.text
    assert "KeyError: 'second'" in caplog.text
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [
        ExceptionGroup,
        LookupError,
    ]


async def test_sending_to_a_client_that_has_gone_is_no_error_of_the_programs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    class Ending(JsonWebsocketConsumer):
        async def disconnect(self, message: Message, multiplexer: Any = None, **kwargs: Any) -> None:
            await multiplexer.send({"too": "late"})

    class Demultiplexer(WebsocketDemultiplexer):
        consumers = {"a": Ending, "b": Ending}

    async with Client(routing(Demultiplexer)) as client:
        async with client.websocket("/x"):
            pass
        await wait_all_tasks_blocked()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# -- mistakes in the class


async def not_a_method(message: Message, **kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"mapping": ["stats"]}, r"Bad\.mapping is a dict with names of streams, not \['stats'\]"),
        ({"consumers": {1: Echo}}, r"Bad\.consumers is a dict with names of streams"),
        (
            {"mapping": {"stats": "internal stats"}},
            r"Bad\.mapping\['stats'\]: channel name 'internal stats' may have",
        ),
        ({"mapping": {"stats": Echo}}, r"Bad\.mapping\['stats'\]: a channel name is a string"),
        (
            {"mapping": {"a": "b"}, "consumers": {"a": Echo}},
            r"Bad\.mapping\['a'\]: the stream is in consumers too",
        ),
        (
            {"consumers": {"a": Streams}},
            r"Bad\.consumers\['a'\]: a demultiplexer can't be a stream of another one",
        ),
        ({"consumers": {"a": dict}}, r"Bad\.consumers\['a'\] is builtins.dict, a class that is no consumer"),
    ],
    ids=str,
)
def test_a_mistake_is_found_when_the_class_is_made(attributes: dict[str, Any], said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=said):
        type("Bad", (WebsocketDemultiplexer,), attributes)


@pytest.mark.parametrize("consumer", [lambda message, **kwargs: None, 5, "module.Consumer"])
def test_a_consumer_that_is_none_is_found_by_the_routing(consumer: Any) -> None:
    class Bad(WebsocketDemultiplexer):
        consumers = {"a": consumer, "b": not_a_method}

    with pytest.raises(ImproperlyConfigured, match=r"Bad\.consumers\['a'\]"):
        route_class(Bad)


# -- the documentation's example, and a client that nobody here wrote


async def test_the_documentations_demultiplexer() -> None:
    def talk(url: str) -> None:
        with connect(url) as client:
            client.send('{"stream": "intval", "payload": {"value": 41}}')
            assert json.loads(client.recv(PATIENCE)) == {"stream": "intval", "payload": {"value": 42}}
            client.send('{"stream": "stats", "payload": {"since": 0}}')
            keys = ["reply_channel", "since"]
            assert json.loads(client.recv(PATIENCE)) == {"stream": "stats", "payload": {"keys": keys}}
            client.send('{"stream": "intval", "payload": 5}')
            assert json.loads(client.recv(PATIENCE)) == {
                "stream": "intval",
                "error": "payload is not an object",
            }
            client.send('{"stream": "other", "payload": {}}')
            assert json.loads(client.recv(PATIENCE)) == {"stream": "other", "error": "unknown stream"}
            client.close()
            assert client.close_code == 1000

    async with LiveServer(generic_consumers.routing) as address:
        with trio.fail_after(2 * PATIENCE):
            await trio.to_thread.run_sync(talk, f"ws://127.0.0.1:{address.port}/streams/")


async def test_named_channels_may_be_in_the_groups_of_a_stream() -> None:
    """What a stream sends to a group reaches members that are no sockets too."""
    got: list[Any] = []

    async def listener(message: Message) -> None:
        got.append(json.loads(message["text"]))

    async with Client([route("internal.listener", listener)]):
        await Group("mixed").add(Channel("internal.listener"))
        await WebsocketMultiplexer.group_send("mixed", "s", {"n": 1})
        await wait_all_tasks_blocked()
    assert got == [{"stream": "s", "payload": {"n": 1}}]

"""The WebSocket consumers, plain and JSON: connect, receive, disconnect, groups, sending and closing."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from triochan import Group, Message, Settings, route_class
from triochan.content import InvalidJSON
from triochan.exceptions import ConnectionClosed, DenyConnection, ImproperlyConfigured
from triochan.generic import BaseConsumer, websockets
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer
from triochan.test import Client, WSClient
from triochan.test.client import HandshakeRefused


def test_the_names_of_channels_are_here() -> None:
    assert set(websockets.__all__) == {
        "JsonWebsocketConsumer", "WebsocketConsumer", "WebsocketDemultiplexer", "WebsocketMultiplexer",
    }  # fmt: skip


def test_the_channels_of_a_websocket() -> None:
    names = {"websocket.connect", "websocket.receive", "websocket.disconnect"}
    assert WebsocketConsumer.channel_names() == JsonWebsocketConsumer.channel_names() == names


async def test_a_connections_life() -> None:
    seen: list[Any] = []

    class Observed(WebsocketConsumer):
        strict_ordering = True

        async def connect(self, message: Message, **kwargs: Any) -> None:
            seen.append(("connect", self.path, message["order"], kwargs))
            assert self.message is message

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            seen.append(("receive", self.path, self.message["order"], text, bytes, kwargs, self.kwargs))

        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            seen.append(
                ("disconnect", self.path, message["order"], message["code"], message["reason"], kwargs)
            )

    async with Client([route_class(Observed, path=r"^/path/(?P<id>\d+)")]) as client:
        async with client.websocket("/path/1") as socket:
            await socket.send("text")
            await socket.send(b"bytes")
            await socket.close(4005, "enough")
        await wait_all_tasks_blocked()
    assert seen == [
        ("connect", "/path/1", 0, {"id": "1"}),
        ("receive", "/path/1", 1, "text", None, {"id": "1"}, {"id": "1"}),
        ("receive", "/path/1", 2, None, b"bytes", {"id": "1"}, {"id": "1"}),
        ("disconnect", "/path/1", 3, 4005, "enough", {"id": "1"}),
    ]


async def test_a_class_that_overrides_nothing_accepts_and_ignores() -> None:
    for consumer in (WebsocketConsumer, JsonWebsocketConsumer):
        async with WSClient([route_class(consumer)]) as socket:
            await socket.send("1")
            await socket.close()


@pytest.mark.parametrize("way", ["raise", "close", "false"])
async def test_connect_may_refuse(way: str, autojump_clock: trio.testing.MockClock) -> None:
    ended: list[str] = []

    class Refuses(WebsocketConsumer):
        groups = ["refused"]

        async def connect(self, message: Message, **kwargs: Any) -> None:
            if way == "raise":
                raise DenyConnection
            if way == "close":
                await self.close()
            else:
                await message.reply_channel.send({"accept": False})

        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            ended.append("disconnect")

    async with Client([route_class(Refuses)]) as client:
        with pytest.raises(HandshakeRefused, match="403"):
            async with client.websocket("/"):
                pass
        await trio.sleep(10)  # while the client is seen off
        assert await Group("refused").members() == []
    assert ended == []


async def test_a_subprotocol_is_chosen_in_connect() -> None:
    class Chooses(WebsocketConsumer):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            await message.reply_channel.send({"accept": True, "subprotocol": message["subprotocols"][-1]})

    async with WSClient([route_class(Chooses)], subprotocols=["v1", "v2"]) as socket:
        assert socket.subprotocol == "v2"


# -- groups


async def test_groups_are_joined_before_connect_and_left_before_disconnect() -> None:
    sizes: list[tuple[str, int]] = []

    class Grouped(WebsocketConsumer):
        def connection_groups(self, **kwargs: Any) -> list[str]:
            return ["all", f"room-{kwargs['room']}"]

        async def connect(self, message: Message, **kwargs: Any) -> None:
            sizes.append(("connect", len(await Group("room-a").members())))
            await self.group_send("room-a", text="joined")

        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            sizes.append(("disconnect", len(await Group("room-a").members())))

    async with Client([route_class(Grouped, path="^/(?P<room>.)$")]) as client:
        async with client.websocket("/a") as socket:
            assert await socket.receive() == "joined"
            assert len(await Group("all").members()) == 1
        await wait_all_tasks_blocked()
        assert await Group("all").members() == []
    assert sizes == [("connect", 1), ("disconnect", 0)]


async def test_whatever_stands_before_disconnect_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that comes behind the framework's own in the order of resolution, and one that is patched."""
    seen: list[str] = []

    class Behind(BaseConsumer):
        async def dispatch_disconnect(self, message: Message, **kwargs: Any) -> None:
            seen.append("behind")
            await super().dispatch_disconnect(message, **kwargs)

    class Plain(WebsocketConsumer):
        groups = ["all"]

        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            seen.append("disconnect")

    class Mixed(Plain, Behind):
        pass

    async def patched(self: Any, message: Message, **kwargs: Any) -> None:
        seen.append("patched")
        await self.get_handler(message, **kwargs)(message, **kwargs)

    async with Client([route_class(Mixed, path="^/mixed$"), route_class(Plain)]) as client:
        async with client.websocket("/mixed"):
            pass
        async with client.websocket("/"):
            pass
        async with client.websocket("/"):
            monkeypatch.setattr(BaseConsumer, "dispatch", patched)
        await wait_all_tasks_blocked()
        assert await Group("all").members() == []
    assert seen == ["behind", "disconnect", "disconnect", "patched", "disconnect"]


@pytest.mark.parametrize("groups", [["one", "two"], ("one", "two"), {"one": 1, "two": 2}, None, []])
async def test_groups_may_be_any_collection(groups: Any) -> None:
    class Grouped(WebsocketConsumer):
        pass

    Grouped.groups = groups
    async with Client([Grouped.as_route({"groups": groups})]) as client:
        async with client.websocket("/"):
            members = [len(await Group(name).members()) for name in ("one", "two")]
    assert members == ([1, 1] if groups else [0, 0])


@pytest.mark.parametrize("groups", ["one", b"one"])
async def test_one_string_is_no_list_of_groups(groups: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Mistaken(WebsocketConsumer):
        def connection_groups(self, **kwargs: Any) -> Any:
            return groups

    async with Client([route_class(Mistaken)]) as client:
        with pytest.raises(HandshakeRefused, match="500"):
            async with client.websocket("/"):
                pass
    assert f"gives, not one string; write [{groups!r}]" in caplog.text


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        *[(name, value) for name in ("max_overlap", "outbox_limit") for value in (0, -1, True, "8", 1.5)],
        *[("overflow", value) for value in ("drop", "", 1, True, ["close"])],
        *[
            (name, value)
            for name in (
                "strict_ordering", "slight_ordering", "cancel_on_disconnect", "channel_session", "channel_session_user",
                "http_user", "http_user_and_session",
            )
            for value in ("no", 0, 1, None)
        ],
        *[("compression", value) for value in ("no", 0, 1)],
        *[("groups", value) for value in ("all", b"all", 5, ["a b"], [1], ("x" * 101,), {""})],
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "base", [WebsocketConsumer, JsonWebsocketConsumer, websockets.WebsocketDemultiplexer]
)
def test_an_attribute_that_says_nothing_is_found_when_it_is_routed_to(
    base: Any, attribute: str, value: Any
) -> None:
    with pytest.raises(ImproperlyConfigured, match=rf"{base.__name__}\.{attribute}( is|: a? ?group name)"):
        base.as_route({attribute: value})


@pytest.mark.parametrize(
    "attributes",
    [
        {"max_overlap": 1, "outbox_limit": 1, "overflow": "drop_oldest", "compression": False},
        {"max_overlap": None, "outbox_limit": None, "overflow": None, "compression": None, "groups": None},
        {"strict_ordering": True, "cancel_on_disconnect": True, "groups": {"a": 1}},
    ],
)
def test_an_attribute_that_says_something_is_taken(attributes: dict[str, Any]) -> None:
    for base in (WebsocketConsumer, JsonWebsocketConsumer, websockets.WebsocketDemultiplexer):
        consumer: Any = base.as_route(attributes).consumer
        assert {name: getattr(consumer, name) for name in attributes} == attributes


# -- sending and closing


async def test_send_takes_text_or_bytes_and_may_close() -> None:
    class Sends(WebsocketConsumer):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            for wrong in ({}, {"text": None, "bytes": None}, {"text": "a", "bytes": b"b"}):
                with pytest.raises(ValueError):
                    await self.send(**wrong)
            with pytest.raises(ValueError):
                await self.send(text=5)  # type: ignore[arg-type]
            await self.send(text="")
            await self.send(bytes=b"")
            await self.send("positional")
            await self.send(text="last", close=True)

    async with WSClient([route_class(Sends)]) as socket:
        assert [await socket.receive() for _ in range(4)] == ["", b"", "positional", "last"]
        assert (await socket.wait_closed()).code == 1000


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [({}, 1000, ""), ({"code": True}, 1000, ""), ({"code": 4001, "reason": "over"}, 4001, "over")],
    ids=str,
)
async def test_close_takes_a_code_and_a_reason(arguments: dict[str, Any], code: int, reason: str) -> None:
    class Closes(WebsocketConsumer):
        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            for wrong in (999, 1005, 5000, "1000"):
                with pytest.raises(ValueError, match="close takes True or a code"):
                    await self.close(wrong)  # type: ignore[arg-type]
            await self.close(**arguments)
            with pytest.raises(ConnectionClosed):
                await self.send(text="too late")

    async with WSClient([route_class(Closes)]) as socket:
        await socket.send("go")
        closed = await socket.wait_closed()
        assert (closed.code, closed.reason) == (code, reason)


async def test_group_send_reaches_every_member() -> None:
    class Member(WebsocketConsumer):
        groups = ["members"]

    async with Client([route_class(Member)]) as client:
        async with client.websocket("/") as a, client.websocket("/") as b:
            with pytest.raises(ValueError, match="group_send takes text or bytes"):
                await Member.group_send("members")
            await Member.group_send("members", text="one")
            await Member.group_send("members", bytes=b"two", close=4001)
            for socket in (a, b):
                assert [await socket.receive() for _ in range(2)] == ["one", b"two"]
                assert (await socket.wait_closed()).code == 4001


# -- JSON


class Echo(JsonWebsocketConsumer):
    groups = ["echo"]

    async def receive(self, content: Any, **kwargs: Any) -> None:
        await self.send(content)


VALUES: list[Any] = [
    {"a": [1, 2.5, None, True, "ü/\u2028"]},
    [],
    {},
    "text",
    "",
    0,
    None,
    False,
    2**53,
    {"": {}},
]


async def test_values_come_in_and_go_out() -> None:
    async with WSClient([route_class(Echo)]) as socket:
        for value in VALUES:
            await socket.send(json.dumps(value))
            answer = await socket.receive()
            assert isinstance(answer, str)
            assert json.loads(answer) == value


async def test_values_go_to_groups_encoded() -> None:
    async with Client([route_class(Echo)]) as client:
        async with client.websocket("/") as a, client.websocket("/") as b:
            await Echo.group_send("echo", {"n": 1})
            await Echo.group_send("echo", [2], close=True)
            for socket in (a, b):
                assert [await socket.receive_json() for _ in range(2)] == [{"n": 1}, [2]]
                assert (await socket.wait_closed()).code == 1000


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        ("{", 1007, "this is not JSON"),
        ("", 1007, "this is not JSON"),
        ("NaN", 1007, "this is not JSON"),
        ('"\\ud800"', 1007, "this is not JSON"),
        ("[" * 5000, 1007, "this is not JSON"),
        (b"{}", 1003, "this socket takes JSON in text messages only"),
        (b"", 1003, "this socket takes JSON in text messages only"),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_what_is_no_json_closes(data: str | bytes, code: int, reason: str) -> None:
    ended: list[int] = []

    class Observed(Echo):
        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            ended.append(message["code"])

    async with Client([route_class(Observed)], settings=Settings(max_message_size=10_000)) as client:
        async with client.websocket("/") as socket:
            await socket.send(data)
            closed = await socket.wait_closed()
            assert (closed.code, closed.reason) == (code, reason)
        await wait_all_tasks_blocked()
    assert ended == [code]


async def test_sending_what_json_has_no_form_for_is_an_error_of_the_programs() -> None:
    class Sends(JsonWebsocketConsumer):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            with pytest.raises(TypeError):
                await self.send(object())
            with pytest.raises(TypeError):
                await self.group_send("nobody", {"a": [object()]})
            with pytest.raises(OverflowError):
                await self.send(float("inf"))
            await self.send("and the socket is fine", close=True)

    async with WSClient([route_class(Sends)]) as socket:
        assert await socket.receive_json() == "and the socket is fine"


async def test_another_dialect_may_be_spoken() -> None:
    class Dialect(Echo):
        @classmethod
        def decode_json(cls, text: str) -> Any:
            if text == "no":
                raise InvalidJSON("no")
            return {"read": text}

        @classmethod
        def encode_json(cls, content: Any) -> str:
            return f"<{content}>"

    async with WSClient([route_class(Dialect)]) as socket:
        await socket.send("x")
        assert await socket.receive() == "<{'read': 'x'}>"
        await Dialect.group_send("echo", 5)
        assert await socket.receive() == "<5>"
        await socket.send("no")
        assert (await socket.wait_closed()).code == 1007


async def test_decorators_wrap_json_consumers_too() -> None:
    class Decorated(Echo):
        def get_handler(self, *args: Any, **kwargs: Any) -> Any:
            handler = super().get_handler(*args, **kwargs)

            async def wrapper(message: Message, **kwargs: Any) -> None:
                await handler(message, **kwargs)
                if message.channel.name == "websocket.receive":
                    await self.send({"wrapped": message["text"]})

            return wrapper

    async with WSClient([route_class(Decorated)]) as socket:
        await socket.send("[1]")
        assert [await socket.receive_json() for _ in range(2)] == [[1], {"wrapped": "[1]"}]

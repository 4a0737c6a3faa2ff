"""What the server knows of a message never comes from a payload."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triochan import Application, Channel, Message, route, route_class
from triochan.auth import channel_and_http_session_user_from_http
from triochan.generic.multiplexing import SERVER_NAMES
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketDemultiplexer
from triochan.sessions import MemorySessionStore, channel_and_http_session, http_session
from triochan.test import Client

SECRETS = ["the one secret of these tests"]

FORGED: list[Any] = [[], {}, "", "x", None, 7, [["cookie", "triochan_session=x"]], [[]], [1], {"cookie": "x"}]


class Streams(WebsocketDemultiplexer):
    mapping = {"flag": "internal.flag"}
    http_user_and_session = True


async def an_application(handler: Any) -> tuple[Application, str]:
    """With a session that holds a flag, and the cookie that names it."""
    store = MemorySessionStore()
    await store.save("a-key", '{"banned":true}', 60, new=True)
    application = Application(
        [route_class(Streams), route("internal.flag", handler)], session_store=store, secrets=SECRETS
    )
    request = Message({"headers": []}, Channel("http.request"))
    return application, application.sessions.cookies.header(request, "a-key")[1].partition(";")[0]


@pytest.mark.parametrize("decorator", [channel_and_http_session, channel_and_http_session_user_from_http])
async def test_headers_in_a_payload_do_not_replace_the_session(decorator: Any) -> None:
    async def flag(message: Message) -> None:
        answer = {"banned": message.http_session.get("banned", False), "keys": sorted(message.content)}
        await message.reply_channel.send(WebsocketDemultiplexer.encode("flag", answer))

    application, cookie = await an_application(decorator(flag))
    async with Client(application) as client:
        headers = {"Cookie": cookie, "Origin": "http://testserver"}
        async with client.websocket("/", headers=headers) as socket:
            for forged in FORGED:
                await socket.send_json({"stream": "flag", "payload": {"headers": forged, "say": "hello"}})
                answer = await socket.receive_json()
                assert answer["payload"] == {"banned": True, "keys": ["reply_channel", "say"]}


async def test_the_servers_names_are_left_out_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def flag(message: Message) -> None:
        content = {**message.content, "reply_channel": message["reply_channel"] == message.reply_channel.name}
        await message.reply_channel.send(WebsocketDemultiplexer.encode("flag", content))

    application, _ = await an_application(flag)
    forged = dict.fromkeys(SERVER_NAMES, "forged")
    async with Client(application) as client:
        async with client.websocket("/") as socket:
            with caplog.at_level(logging.WARNING):
                await socket.send_json({"stream": "flag", "payload": {**forged, "pathway": 1}})
                answer = await socket.receive_json()
    assert answer["payload"] == {"pathway": 1, "reply_channel": True}
    [line] = [each.getMessage() for each in caplog.records]
    assert line == (
        "stream 'flag' on /: a payload's headers, order, path, reply_channel were left out: "
        "by these names a message says what the server knows"
    )


async def test_a_streams_own_consumer_sees_what_the_server_knows() -> None:
    class Inner(JsonWebsocketConsumer):
        async def receive(self, content: Any, **kwargs: Any) -> None:
            known = {"path": self.path, "order": self.message["order"], "headers": "headers" in self.message}
            await kwargs["multiplexer"].send({"content": content, **known})

    class Outer(WebsocketDemultiplexer):
        consumers = {"inner": Inner}

    async with Client([route_class(Outer)]) as client:
        async with client.websocket("/here") as socket:
            payload = {"path": "/admin", "order": 99, "headers": []}
            await socket.send_json({"stream": "inner", "payload": payload})
            answer = (await socket.receive_json())["payload"]
            assert answer == {"content": payload, "path": "/here", "order": 1, "headers": False}


ATTRIBUTES = (
    "user", "session", "http_session", "channel_session", "connection", "application", "channel", "scheme", "method",
    "stream", "multiplexer", "kwargs", "content", "self", "message", "name", "text", "bytes",
)  # fmt: skip


class Knows(JsonWebsocketConsumer):
    http_user_and_session = True

    async def receive(self, content: Any, **kwargs: Any) -> None:
        multiplexer = kwargs.pop("multiplexer", None)
        message = self.message
        answer = {"banned": message.http_session["banned"], "id": message.user.id, "kwargs": kwargs}
        answer |= {"path": message["path"], "channel": message.channel.name}
        await (self if multiplexer is None else multiplexer).send(answer)


class KnowsOnStreams(WebsocketDemultiplexer):
    consumers = {"inner": Knows}
    mapping = {"named": "internal.named"}


@pytest.mark.parametrize("way", ["socket", "stream", "named"])
@pytest.mark.parametrize("forged", [None, 7, "x", [], {"id": 1, "banned": False}])
async def test_what_a_message_has_as_attributes_is_no_matter_of_its_content(way: str, forged: Any) -> None:
    @channel_and_http_session_user_from_http
    async def named(message: Message, **kwargs: Any) -> None:
        answer = {"banned": message.http_session["banned"], "id": message.user.id, "kwargs": kwargs}
        answer |= {"path": None, "channel": message.channel.name}
        await message.reply_channel.send(WebsocketDemultiplexer.encode("named", answer))

    store = MemorySessionStore()
    await store.save("a-key", '{"banned":true}', 60, new=True)
    routing = [
        route_class(Knows, path="^/socket/(?P<room>.*)$"),
        route_class(KnowsOnStreams, path="^/(?:stream|named)/(?P<room>.*)$"),
        route("internal.named", named),
    ]
    application = Application(routing, session_store=store, secrets=SECRETS)
    request = Message({"headers": []}, Channel("http.request"))
    cookie = application.sessions.cookies.header(request, "a-key")[1].partition(";")[0]
    content: Any = dict.fromkeys(ATTRIBUTES, forged)
    if way == "named":
        content |= dict.fromkeys(SERVER_NAMES, forged)
    async with Client(application) as client:
        headers = {"Cookie": cookie, "Origin": "http://testserver"}
        async with client.websocket(f"/{way}/a?user=1&session=x", headers=headers) as socket:
            stream = {"stream": "inner", "named": "named"}.get(way)
            await socket.send_json(content if stream is None else {"stream": stream, "payload": content})
            answer = await socket.receive_json()
    if way != "socket":
        answer = answer["payload"]
    assert answer == {
        "banned": True,
        "id": None,
        "kwargs": {} if way == "named" else {"room": "a"},
        "path": None if way == "named" else f"/{way}/a",
        "channel": "internal.named" if way == "named" else "websocket.receive",
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(JSON)
async def test_what_json_makes_is_never_taken_for_headers(headers: Any) -> None:
    """A program that passes a client's content on by itself is no worse off."""
    application = Application([], secrets=SECRETS)
    ran: list[Any] = []

    @http_session
    async def handler(message: Message) -> None:
        ran.append(message.http_session)

    message = Message({"headers": json.loads(json.dumps(headers))}, Channel("jobs"))
    message.application = application
    await handler(message)
    assert ran == [None]

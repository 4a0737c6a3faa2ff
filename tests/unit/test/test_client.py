"""The test clients: `triochan.test`."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from raw_clients import get
from trio.testing import MockClock, wait_all_tasks_blocked

from triochan import Channel, Group, Message, Settings, route, route_class
from triochan.exceptions import ConnectionClosed, DenyConnection
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer
from triochan.http import json, text
from triochan.http.cookies import parse_cookies
from triochan.test import Client, HttpClient, LiveServer, WSClient, apply_routes
from triochan.test.client import HandshakeRefused


class Echo(WebsocketConsumer):
    groups = ["everyone"]

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        if text == "close":
            await self.close(4000, "as you wish")
        await self.send(text=text, bytes=bytes)


class JsonEcho(JsonWebsocketConsumer):
    async def receive(self, content: Any, **kwargs: Any) -> None:
        await self.send({"got": content})


async def describe(message: Message) -> None:
    cookies = parse_cookies(message["headers"])
    headers = {name.decode(): value.decode() for name, value in message["headers"]}
    content = {key: message[key] for key in ("method", "path", "scheme", "server")}
    content |= {"body": message["body"].decode(), "headers": headers, "cookies": cookies}
    await message.reply_channel.send(json(content, headers=[("X-Answer", "yes")]))


async def set_cookies(message: Message) -> None:
    headers = [("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2"), ("Set-Cookie", "c=; Max-Age=0")]
    await message.reply_channel.send(text("set", headers=headers))


async def forget_cookie(message: Message) -> None:
    await message.reply_channel.send(text("gone", headers=[("Set-Cookie", "a=; Max-Age=0")]))


class Choosy(WebsocketConsumer):
    async def connect(self, message: Message, **kwargs: Any) -> None:
        headers = dict(message["headers"])
        if b"a=1" not in headers.get(b"cookie", b""):
            raise DenyConnection
        said = [
            ("X-Origin", headers[b"origin"]),
            ("X-Scheme", message["scheme"]),
            ("X-Own", headers[b"x-own"]),
        ]
        await message.reply_channel.send({"accept": True, "subprotocol": "b", "headers": said})


ROUTING = [
    route_class(Echo, path="^/echo$"),
    route_class(JsonEcho, path="^/json$"),
    route_class(Choosy, path="^/choosy$"),
    route("http.request", set_cookies, path="^/set$"),
    route("http.request", forget_cookie, path="^/forget$"),
    route("http.request", describe, path="^/describe$"),
]


async def test_requests() -> None:
    async with Client(ROUTING, headers={"X-Own": "mine"}) as client:
        response = await client.get("/describe?query", headers=[("X-More", "too")])
        assert (response.status, response.header("X-Answer"), response.header("x-none")) == (200, "yes", None)
        described = response.json()
        assert (described["method"], described["path"], described["body"]) == ("GET", "/describe", "")
        assert (described["scheme"], described["server"]) == ("http", ["testserver", 80])
        assert (described["headers"]["x-own"], described["headers"]["x-more"]) == ("mine", "too")
        assert (await client.post("/describe", body="Grüße")).json()["body"] == "Grüße"
        posted = (await client.post("/describe", json={"a": [1]})).json()
        assert (posted["body"], posted["headers"]["content-type"]) == ('{"a":[1]}', "application/json")
        assert (await client.request("PUT", "/describe")).json()["method"] == "PUT"
        missing = await client.get("/missing")
        assert (missing.status, missing.text) == (404, "Not Found\n")
    async with HttpClient(ROUTING, secure=True) as client:
        described = (await client.get("/describe")).json()
        assert (described["scheme"], described["server"]) == ("https", ["testserver", 443])


@pytest.mark.parametrize(
    ("attributes", "kept"),
    [
        ("", True),
        ("; Max-Age=60", True),
        ("; Max-Age=0", False),
        ("; max-age = 00", False),
        ("; Max-Age=-1", False),
        ("; Max-Age=01", True),
        ("; Max-Age=soon", True),
        ("; Expires=Thu, 01 Jan 1970 00:00:00 GMT", False),
        ("; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=5", True),
        ("; Expires=Thu, 31 Dec 2999 00:00:00 GMT", True),
        ("; Expires=never", True),
    ],
)
async def test_cookies_that_are_over_are_dropped(attributes: str, kept: bool) -> None:
    async def set_one(message: Message) -> object:
        return text("", headers=[("Set-Cookie", "a=2" + attributes)])

    async with Client([route("http.request", set_one)]) as client:
        client.cookies["a"] = "1"
        await client.get("/")
        assert client.cookies == ({"a": "2"} if kept else {})


async def test_cookies_are_kept_between_requests_and_websockets() -> None:
    async with Client(ROUTING, headers={"X-Own": "mine"}) as client:
        with pytest.raises(HandshakeRefused):
            async with client.websocket("/choosy"):
                raise AssertionError
        await client.get("/set")
        assert client.cookies == {"a": "1", "b": "2"}
        assert (await client.get("/describe")).json()["cookies"] == {"a": "1", "b": "2"}
        async with client.websocket("/choosy", subprotocols=["a", "b"]) as socket:
            assert socket.subprotocol == "b"
            headers = dict(socket.headers)
            assert headers[b"x-origin"] == b"http://testserver"
            assert (headers[b"x-scheme"], headers[b"x-own"]) == (b"ws", b"mine")
        async with client.websocket(
            "/choosy", subprotocols=["b"], headers={"origin": "http://other"}
        ) as socket:
            assert dict(socket.headers)[b"x-origin"] == b"http://other"
        await client.get("/forget")
        assert client.cookies == {"b": "2"}


async def test_a_refused_handshake() -> None:
    async with Client(ROUTING) as client:
        with pytest.raises(HandshakeRefused, match="answered with 403") as caught:
            async with client.websocket("/choosy"):
                raise AssertionError
        assert caught.value.status == 403
        assert (b"connection", b"close") in caught.value.headers
    with pytest.raises(HandshakeRefused):
        async with WSClient(ROUTING, "/nowhere"):
            raise AssertionError


@pytest.mark.parametrize("lockstep", [False, True])
async def test_messages(lockstep: bool) -> None:
    async with Client(ROUTING, lockstep=lockstep) as client:
        async with client.websocket("/echo") as socket, client.websocket("/json") as other:
            await socket.send("text")
            assert await socket.receive() == "text"
            await socket.send(b"bytes")
            assert await socket.receive() == b"bytes"
            await other.send_json({"a": 1})
            assert await other.receive_json() == {"got": {"a": 1}}


async def test_closes_by_either_side() -> None:
    async with WSClient(ROUTING, "/echo") as socket:
        await socket.send("close")
        closed = await socket.wait_closed()
        assert (closed.code, closed.reason) == (4000, "as you wish")
        for late in (socket.receive(), socket.send("late")):
            with pytest.raises(ConnectionClosed) as caught:
                await late
            assert caught.value.code == 4000
    async with Client(ROUTING) as client, client.websocket("/echo") as socket:
        assert len(client.runtime.websockets) == 1
        await socket.close(4001, "enough")
        assert (await socket.wait_closed()).code == 4001
        await wait_all_tasks_blocked()
        assert not client.runtime.websockets


@pytest.mark.parametrize("how", ["end of the block", "vanish"])
async def test_disconnect_has_run_soon_after(how: str, autojump_clock: MockClock) -> None:
    codes: list[int] = []

    async def disconnect(message: Message) -> None:
        codes.append(message["code"])

    async with Client([route("websocket.disconnect", disconnect)]) as client:
        async with client.websocket("/") as socket:
            if how == "vanish":
                await socket.vanish()
        await wait_all_tasks_blocked()
        assert codes == [1006 if how == "vanish" else 1000]


async def test_a_test_fails_with_its_own_exception() -> None:
    with pytest.raises(ZeroDivisionError):
        async with Client(ROUTING) as client, client.websocket("/echo"), client.websocket("/json"):
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        async with WSClient(ROUTING, "/echo"):
            raise ZeroDivisionError
    with trio.CancelScope() as scope:
        async with Client(ROUTING) as client, client.websocket("/echo"):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_clients_share_their_groups() -> None:
    async with Client(ROUTING) as one, Client(ROUTING, settings=Settings(max_overlap=1)) as other:
        assert one.runtime.layer is other.runtime.layer
        async with one.websocket("/echo") as here, other.websocket("/echo") as there:
            await Group("everyone").send({"text": "all"})
            assert (await here.receive(), await there.receive()) == ("all", "all")


async def test_channels_without_a_connection() -> None:
    handled = trio.Event()
    contents: list[Any] = []

    async def work(message: Message) -> None:
        contents.append(message["number"])
        handled.set()

    async with apply_routes([route("work", work)]):
        await Channel("work").send({"number": 7})
        with trio.fail_after(5):
            await handled.wait()
    assert contents == [7]
    with pytest.raises(RuntimeError, match="no channel layer"):
        await Group("everyone").send({"text": "nobody is there"})


async def test_a_live_server() -> None:
    async with LiveServer(ROUTING) as address:
        assert address.host == "127.0.0.1"
        assert (await get(address, "/describe")).status == 200
    with pytest.raises(OSError):
        await get(address)

"""How often a client, and a user, may send."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import trio
from trio.testing import MockClock

from triochan import Application, Message, Settings, route, route_class
from triochan.auth import USER_ID, http_session_user, login
from triochan.exceptions import ConnectionClosed, ImproperlyConfigured
from triochan.generic.rate_limits import parse_rate
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer, WebsocketDemultiplexer
from triochan.http import text
from triochan.layers.tokens import RateLimit
from triochan.test import Client, WSClient


class Echo(WebsocketConsumer):
    rate_limit = "3/10s"
    strict_ordering = True

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.send(text=text, bytes=bytes)


class Answering(Echo):
    async def rate_limited(self, message: Message, **kwargs: Any) -> None:
        await self.send(f"slow down, {kwargs['name']}")


@pytest.mark.parametrize(
    ("rate", "limit"),
    [
        ("20/s", RateLimit(20, 1)),
        ("100/m", RateLimit(100, 60)),
        (" 5 / 10 s ", RateLimit(5, 10)),
        ("1/h", RateLimit(1, 3600)),
        ("3/min", RateLimit(3, 60)),
        ("3/2hour", RateLimit(3, 7200)),
        ("20/sec", RateLimit(20, 1)),
    ],
)
def test_rates(rate: str, limit: RateLimit) -> None:
    assert parse_rate(rate, "x") == limit


@pytest.mark.parametrize(
    "rate",
    [
        "",
        "20",
        "20/",
        "0/s",
        "20/0s",
        "-1/s",
        "20/d",
        "twenty/s",
        20,
        "1.5/s",
        "20/s/s",
        "5/00s",
        "1" * 10 + "/s",
        "1" * 5000 + "/s",
        "1/" + "9" * 400 + "h",
        "3/minutes",
    ],
)
@pytest.mark.parametrize("name", ["rate_limit", "user_rate_limit"])
@pytest.mark.parametrize("base", [WebsocketConsumer, JsonWebsocketConsumer, WebsocketDemultiplexer])
def test_one_that_is_none_is_found_at_definition(rate: Any, name: str, base: type) -> None:
    with pytest.raises(ImproperlyConfigured, match=rf'\.{name} is a rate such as "20/s".*not {rate!r}'):
        route_class(type("Made", (base,), {"__module__": __name__, name: rate}))


async def test_one_too_many_closes_the_socket(autojump_clock: MockClock) -> None:
    async with WSClient([route_class(Echo)]) as socket:
        for _ in range(3):
            await socket.send("x")
            assert await socket.receive() == "x"
        await socket.send("y")
        closed = await socket.wait_closed()
        assert (closed.code, closed.reason) == (1008, "too many messages")


async def test_tokens_come_back_evenly(autojump_clock: MockClock) -> None:
    async with WSClient([route_class(Answering, path="^/(?P<name>.*)$")], "/Ada") as socket:

        async def said(count: int) -> list[Any]:
            for _ in range(count):
                await socket.send("x")
            return [await socket.receive() for _ in range(count)]

        refused = "slow down, Ada"
        assert await said(5) == ["x", "x", "x", refused, refused]
        await trio.sleep(3.4)
        assert await said(2) == ["x", refused]
        await trio.sleep(1000)
        assert await said(4) == ["x", "x", "x", refused]


async def test_bytes_count_as_well(autojump_clock: MockClock) -> None:
    async with WSClient([route_class(Echo)]) as socket:
        for _ in range(4):
            await socket.send(b"x")
        assert (await socket.wait_closed()).code == 1008


async def test_each_connection_has_its_own(autojump_clock: MockClock) -> None:
    async with Client([route_class(Echo)]) as client:
        for _ in range(3):
            async with client.websocket("/") as socket:
                for _ in range(3):
                    await socket.send("x")
                    assert await socket.receive() == "x"


async def test_text_that_is_not_json_counts(autojump_clock: MockClock) -> None:
    class Json(JsonWebsocketConsumer):
        rate_limit = "2/m"
        strict_ordering = True
        errors: ClassVar[list[str]] = []

        async def receive(self, content: Any, **kwargs: Any) -> None:
            await self.send(content)

    async with WSClient([route_class(Json)]) as socket:
        for number in range(3):
            await socket.send_json(number)
        assert await socket.receive_json() == 0
        assert await socket.receive_json() == 1
        assert (await socket.wait_closed()).code == 1008


async def test_a_stream_has_its_own(autojump_clock: MockClock) -> None:
    class Stream(JsonWebsocketConsumer):
        rate_limit = "1/m"

        async def receive(self, content: Any, multiplexer: Any = None, **kwargs: Any) -> None:
            await multiplexer.send(content)

        async def rate_limited(self, message: Message, multiplexer: Any = None, **kwargs: Any) -> None:
            await multiplexer.send_error("too much")

    class Other(Stream):
        pass

    class Demultiplexer(WebsocketDemultiplexer):
        consumers: ClassVar[dict[str, Any]] = {"a": Stream, "b": Other}
        strict_ordering = True

    async with WSClient([route_class(Demultiplexer)]) as socket:
        answers = []
        for stream in ("a", "b", "a"):
            await socket.send_json({"stream": stream, "payload": {}})
            answers.append(await socket.receive_json())
    assert answers == [
        {"stream": "a", "payload": {}},
        {"stream": "b", "payload": {}},
        {"stream": "a", "error": "too much"},
    ]


class User:
    is_authenticated = True

    def __init__(self, id: int) -> None:
        self.id = id


async def load_user(session: Any) -> User | None:
    return User(session[USER_ID]) if USER_ID in session else None


@http_session_user
async def log_in(message: Message) -> object:
    await login(message, User(int(message["query_string"])))
    return text("")


class ForUsers(WebsocketConsumer):
    http_user = True
    user_rate_limit = "3/m"

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.send(text=text, bytes=bytes)


async def test_a_users_sockets_count_together(autojump_clock: MockClock) -> None:
    application = Application(
        [route_class(ForUsers, path="^/ws$"), route("http.request", log_in)], user_loader=load_user
    )
    async with Client(application, settings=Settings(ping_interval=0)) as client:

        async def until_refused() -> int:
            async with client.websocket("/ws") as socket:
                for count in range(5):
                    await socket.send("x")
                    try:
                        await socket.receive()
                    except ConnectionClosed as closed:
                        return count if closed.code == 1008 else -1
            return 5

        assert await until_refused() == 5  # nobody's: only a connection's limit holds
        await client.get("/?1")
        async with client.websocket("/ws") as socket:
            await socket.send("x")
            await socket.receive()
        assert await until_refused() == 2
        await client.get("/?2")
        assert await until_refused() == 3
        await trio.sleep(60)
        assert await until_refused() == 3

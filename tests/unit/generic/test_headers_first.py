"""Headers in a socket's first message: nothing before them, and all of it in order behind them."""

from __future__ import annotations

import json
import math
from typing import Any, ClassVar

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from triochan import Channel, Group, Message, route_class
from triochan.exceptions import ImproperlyConfigured
from triochan.generic.headers_first import HeadersFirst
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketDemultiplexer
from triochan.test import Client, HandshakeRefused, WSClient

BAD_SHAPE = (4400, 'the first message is {"headers": {name: text}}')


class Known(HeadersFirst):
    """Echoes to whom it knows, who takes a second to be looked up."""

    groups = ("known",)

    async def receive_headers(self, headers: dict[str, str], /, *args: Any, **kwargs: Any) -> None:
        await trio.sleep(1)
        if headers.get("authorization") != "Bearer good":
            await self.close(4401, "log in again")
            return
        self.connection.state.headers = headers
        await self.send({"hello": kwargs.get("name")})

    async def receive(self, content: Any, /, *args: Any, **kwargs: Any) -> None:
        await self.send([self.connection.state.headers["authorization"], content])


class Strict(Known):
    strict_ordering = True


class Slight(Known):
    slight_ordering = True


MODES = pytest.mark.parametrize("consumer", [Known, Strict, Slight])
GOOD = {"headers": {"Authorization": "Bearer good"}}


@MODES
async def test_what_comes_behind_the_headers_waits_for_them(
    consumer: type[Known], autojump_clock: MockClock
) -> None:
    async with WSClient([route_class(consumer, path="^/(?P<name>.*)$")], "/Ada") as socket:
        await socket.send_json(GOOD)
        for number in range(20):  # more than may overlap
            await socket.send_json(number)
        assert await socket.receive_json() == {"hello": "Ada"}
        assert trio.current_time() == pytest.approx(1)
        answers = [await socket.receive_json() for _ in range(20)]
        assert sorted(answers) == [["Bearer good", number] for number in range(20)]


@MODES
async def test_who_is_refused_has_nothing_handled(consumer: type[Known], autojump_clock: MockClock) -> None:
    heard: list[Any] = []

    class Listening(consumer):  # type: ignore[misc, valid-type]
        async def receive(self, content: Any, /, *args: Any, **kwargs: Any) -> None:
            heard.append(content)

    async with WSClient([route_class(Listening)]) as socket:
        await socket.send_json({"headers": {"authorization": "Bearer bad"}})
        for number in range(20):
            await socket.send_json(number)
        closed = await socket.wait_closed()
        assert (closed.code, closed.reason) == (4401, "log in again")
    assert heard == []


@MODES
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ('{"stream": "a", "payload": {}}', BAD_SHAPE[0]),
        ('{"headers": null}', BAD_SHAPE[0]),
        ('{"headers": ["a", "b"]}', BAD_SHAPE[0]),
        ('{"headers": {"a": 1}}', BAD_SHAPE[0]),
        ('{"headers": {"a": {"b": "c"}}}', BAD_SHAPE[0]),
        ("[]", BAD_SHAPE[0]),
        ("null", BAD_SHAPE[0]),
        ("{", 1007),
        (b"{}", 1003),
    ],
)
async def test_a_first_message_of_another_shape(
    consumer: type[Known], sent: str | bytes, code: int, autojump_clock: MockClock
) -> None:
    async with WSClient([route_class(consumer)]) as socket:
        await socket.send(sent)
        await socket.send_json(GOOD)  # too late
        closed = await socket.wait_closed()
        assert closed.code == code
        if code == BAD_SHAPE[0]:
            assert closed.reason == BAD_SHAPE[1]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.just("headers"), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=40)
@given(content=json_values)
def test_any_first_message_is_taken_or_refused(content: Any) -> None:
    heard: list[dict[str, str]] = []

    class Listening(HeadersFirst):
        async def receive_headers(self, headers: dict[str, str], /, *args: Any, **kwargs: Any) -> None:
            heard.append(headers)
            await self.close(4999)

    async def main() -> tuple[int | None, str]:
        async with WSClient([route_class(Listening)]) as socket:
            await socket.send(json.dumps(content))
            closed = await socket.wait_closed()
            return closed.code, closed.reason

    code, reason = trio.run(main)
    headers = content.get("headers") if isinstance(content, dict) else None
    if isinstance(headers, dict) and all(isinstance(value, str) for value in headers.values()):
        assert code == 4999
        assert set(heard[0]) == {name.lower() for name in headers}
    else:
        assert (code, reason) == BAD_SHAPE
        assert heard == []


async def test_groups_are_joined_behind_the_headers(autojump_clock: MockClock) -> None:
    class Named(Known):
        def connection_groups(self, *args: Any, **kwargs: Any) -> list[str]:
            return [f"of-{self.connection.state.headers['authorization'][-4:]}"]  # known by then

    async with Client([route_class(Known, path="^/a"), route_class(Named, path="^/b")]) as client:
        for path, group in (("/a", "known"), ("/b", "of-good")):
            async with client.websocket(path) as socket:
                await Group(group).send({"text": "before"})
                assert await Group(group).members() == []
                await socket.send_json(GOOD)
                assert await socket.receive_json() == {"hello": None}
                await trio.testing.wait_all_tasks_blocked()
                await Group(group).send({"text": "after"})
                assert await socket.receive() == "after"
            await trio.sleep(1)
            assert await Group(group).members() == []


async def test_who_says_nothing_is_closed_in_time(autojump_clock: MockClock) -> None:
    class Patient(HeadersFirst):
        headers_timeout = 25

    for consumer, seconds in ((HeadersFirst, 10), (Patient, 25)):
        start = trio.current_time()
        async with WSClient([route_class(consumer)]) as socket:
            closed = await socket.wait_closed()
            assert (closed.code, closed.reason) == (4408, f"no headers came in {seconds} s")
            assert trio.current_time() - start == pytest.approx(seconds)


async def test_the_time_is_over_when_they_have_come(autojump_clock: MockClock) -> None:
    async with WSClient([route_class(Known)]) as socket:
        await socket.send_json(GOOD)
        assert await socket.receive_json() == {"hello": None}
        await trio.sleep(60)
        await socket.send_json(1)
        assert await socket.receive_json() == ["Bearer good", 1]


async def test_who_is_refused_in_the_handshake_is_not_waited_for() -> None:
    class Denying(HeadersFirst):
        async def connect(self, message: Message, /, *args: Any, **kwargs: Any) -> None:
            await self.close()

    with pytest.raises(HandshakeRefused, match="403"):
        async with WSClient([route_class(Denying)]):
            pass


async def test_a_handler_that_raises_lets_nothing_through(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []
    ends: list[Any] = []

    class Raising(HeadersFirst):
        async def receive_headers(self, headers: dict[str, str], /, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("the database is away")

        async def receive(self, content: Any, /, *args: Any, **kwargs: Any) -> None:
            heard.append(content)

        async def disconnect(self, message: Message, /, *args: Any, **kwargs: Any) -> None:
            ends.append(message["code"])

    async with WSClient([route_class(Raising)]) as socket:
        await socket.send_json({"headers": {}})
        await socket.send_json(1)
        assert (await socket.wait_closed()).code == 1011
    assert (heard, ends) == ([], [1011])
    assert "the database is away" in caplog.text


async def test_a_client_that_leaves_before_saying_anything_is_seen_off(autojump_clock: MockClock) -> None:
    ends: list[Any] = []

    class Ending(Known):
        async def disconnect(self, message: Message, /, *args: Any, **kwargs: Any) -> None:
            ends.append(message["code"])

    async with WSClient([route_class(Ending)]):
        pass
    assert ends == [1000]


async def test_with_streams(autojump_clock: MockClock) -> None:
    class Echo(JsonWebsocketConsumer):
        async def receive(self, content: Any, /, *args: Any, **kwargs: Any) -> None:
            await kwargs["multiplexer"].send(content)

    class Live(HeadersFirst, WebsocketDemultiplexer):
        consumers: ClassVar[dict[str, Any]] = {"echo": Echo}

    async with WSClient([route_class(Live)]) as socket:
        await socket.send_json({"headers": {}})
        await socket.send_json({"stream": "echo", "payload": {"n": 1}})
        assert await socket.receive_json() == {"stream": "echo", "payload": {"n": 1}}


def test_a_stream_has_no_first_message() -> None:
    class Live(WebsocketDemultiplexer):
        consumers: ClassVar[dict[str, Any]] = {"known": Known}

    with pytest.raises(ImproperlyConfigured, match=r"consumers\['known'\] is a HeadersFirst consumer"):
        route_class(Live)


@pytest.mark.parametrize("seconds", [0, -1, math.nan, "10", None, True])
def test_a_time_that_is_none_is_found_at_definition(seconds: Any) -> None:
    consumer = type("Made", (HeadersFirst,), {"__module__": __name__, "headers_timeout": seconds})
    with pytest.raises(ImproperlyConfigured, match=r"\.headers_timeout is a number of seconds above 0, not"):
        route_class(consumer)


async def test_it_needs_a_connection() -> None:
    message = Message({"path": "/", "order": 1, "text": "{}"}, Channel("a"))
    with pytest.raises(RuntimeError, match="live connections only"):
        await HeadersFirst(message).raw_receive(message)

"""What holds for a user in all processes of a layer: the end of a session, disconnect_user, rate limits.

Another process is a Trio run of its own, in a thread: it has a layer, a store and an application of its own, and shares
the engine, as two processes do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trio
from engines import EngineProcess, engine

from triochan import Application, Message, route, route_class
from triochan.auth import USER_ID, http_session_user, login, logout
from triochan.exceptions import ConnectionClosed
from triochan.generic.websockets import WebsocketConsumer
from triochan.http import text
from triochan.layers.redis import RedisLayer
from triochan.sessions import RedisSessionStore, http_session, sockets
from triochan.test import Client

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def running_engine() -> Iterator[EngineProcess]:
    with engine() as process:
        yield process


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


@http_session_user
async def log_out(message: Message) -> object:
    await logout(message)
    return text("")


@http_session
async def flush(message: Message) -> object:
    await message.http_session.flush()
    return text("")


@http_session
async def cycle(message: Message) -> object:
    message.http_session.cycle_key()
    return text("")


class Echo(WebsocketConsumer):
    http_user = True

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.send(text=text, bytes=bytes)


class Limited(Echo):
    user_rate_limit = "3/h"


class Quick(Echo):
    user_rate_limit = "1000/m"


def an_application() -> Application:
    return Application(
        [
            route("http.request", log_in, path="^/login$"),
            route("http.request", log_out, path="^/logout$"),
            route("http.request", flush, path="^/flush$"),
            route("http.request", cycle, path="^/cycle$"),
            route_class(Limited, path="^/limited$"),
            route_class(Quick, path="^/quick$"),
            route_class(Echo, path="^/$"),
        ],
        session_store=RedisSessionStore(),
        secrets=["a secret that is long enough"],
        user_loader=load_user,
    )


def a_client(process: EngineProcess) -> Client:
    return Client(an_application(), layer=RedisLayer(process.url))


async def elsewhere(
    process: EngineProcess, do: Callable[[Client], Awaitable[Any]], cookies: dict[str, str] | None = None
) -> Any:
    """What ``do`` returns of a client of another process."""

    async def there() -> Any:
        async with a_client(process) as client:
            client.cookies.update(cookies or {})
            return await do(client)

    with trio.fail_after(10):
        return await trio.to_thread.run_sync(partial(trio.run, there))


async def until_refused(client: Client, path: str = "/limited") -> int:
    """How many messages a new socket may send, of five."""
    async with client.websocket(path) as socket:
        for count in range(5):
            await socket.send("x")
            try:
                await socket.receive()
            except ConnectionClosed as closed:
                return count if closed.code == 1008 else -1
    return 5


@pytest.mark.parametrize(
    ("path", "code", "reason"),
    [
        ("/logout", 3000, "logged out"),
        ("/flush", 3000, "the session has ended"),
        ("/cycle", 1012, "the session has a new key"),
    ],
)
async def test_the_end_of_a_session_closes_its_sockets_in_all_processes(
    running_engine: EngineProcess, path: str, code: int, reason: str
) -> None:
    async with a_client(running_engine) as client:
        await client.get("/login?2")
        others = dict(client.cookies)
        async with client.websocket("/") as still:
            client.cookies.clear()
            await client.get("/login?1")
            async with client.websocket("/") as socket:
                await elsewhere(running_engine, lambda there: there.get(path), client.cookies)
                with trio.fail_after(10):
                    closed = await socket.wait_closed()
            assert (closed.code, closed.reason) == (code, reason)
            await still.send("x")
            assert await still.receive() == "x"
        # The cookie is worth nothing in this process as well.
        assert others != client.cookies
        response = await elsewhere(running_engine, lambda there: there.get("/logout"), others)
        assert response.status == 200


async def test_a_session_that_ended_while_nobody_heard_it(
    running_engine: EngineProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sockets, "_GAP_SECONDS", 0.1)
    async with a_client(running_engine) as client:
        await client.get("/login?2")
        async with client.websocket("/") as still:
            client.cookies.clear()
            await client.get("/login?1")
            async with client.websocket("/") as socket:
                sessions = client.application.sessions
                [cookie] = client.cookies.values()
                verified = sessions.cookies._verified(cookie)
                assert verified is not None
                await sessions.store.delete(verified[0])
                layer = client.runtime.layer
                assert isinstance(layer, RedisLayer)
                assert layer.engine._link is not None
                layer.engine._link.break_off(ConnectionError("cut"))
                with trio.fail_after(10):
                    closed = await socket.wait_closed()
            assert (closed.code, closed.reason) == (3000, "the session is over")
            await still.send("x")
            assert await still.receive() == "x"


async def test_disconnect_user_closes_the_sockets_in_all_processes(running_engine: EngineProcess) -> None:
    async with a_client(running_engine) as client:
        await client.get("/login?2")
        async with client.websocket("/") as still:
            client.cookies.clear()
            await client.get("/login?1")
            async with client.websocket("/") as one, client.websocket("/") as two:
                await elsewhere(
                    running_engine,
                    lambda there: there.application.disconnect_user(User(1), code=4001, reason="bye"),
                )
                for socket in (one, two):
                    with trio.fail_after(10):
                        closed = await socket.wait_closed()
                    assert (closed.code, closed.reason) == (4001, "bye")
            await still.send("x")
            assert await still.receive() == "x"


async def test_a_users_messages_count_in_all_processes(running_engine: EngineProcess) -> None:
    async with a_client(running_engine) as client:
        await client.get("/login?11")
        async with client.websocket("/limited") as socket:
            for _ in range(2):
                await socket.send("x")
                assert await socket.receive() == "x"
            assert await elsewhere(running_engine, until_refused, client.cookies) == 1
            await socket.send("x")
            assert (await socket.wait_closed()).code == 1008
        await client.get("/login?12")
        assert await until_refused(client) == 3


async def test_messages_that_wait_for_a_token_keep_their_order(running_engine: EngineProcess) -> None:
    async with a_client(running_engine) as client:
        await client.get("/login?13")
        async with client.websocket("/quick") as socket:
            for number in range(100):
                await socket.send(str(number))
            with trio.fail_after(10):
                assert [await socket.receive() for _ in range(100)] == [str(number) for number in range(100)]


async def test_without_the_engine_each_process_counts_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    with engine() as process:
        async with a_client(process) as client:
            await client.get("/login?1")
            async with client.websocket("/limited") as socket:
                await socket.send("x")
                assert await socket.receive() == "x"
                process.pause()
                with trio.fail_after(10):
                    for _ in range(2):
                        await socket.send("x")
                        assert await socket.receive() == "x"
                    await socket.send("x")
                    assert (await socket.wait_closed()).code == 1008
                process.resume()
    said = [record.getMessage() for record in caplog.records if "for itself" in record.getMessage()]
    assert len(said) == 1
    assert "no answer within 0.5 s" in said[0]


async def test_a_store_that_is_away_is_500_and_sockets_stay(caplog: pytest.LogCaptureFixture) -> None:
    with engine() as process:
        async with a_client(process) as client:
            await client.get("/login?1")
            async with client.websocket("/") as socket:
                process.kill()
                with trio.fail_after(10):
                    assert (await client.get("/flush")).status == 500
                await socket.send("x")
                assert await socket.receive() == "x"
                process.start()
                with trio.fail_after(10):
                    while (await client.get("/flush")).status == 500:
                        pass
    assert "SessionStoreUnavailable: sessions: the engine at unix:" in caplog.text
    assert "see that it runs, and can be reached from here" in caplog.text

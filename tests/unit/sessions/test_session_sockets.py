"""WebSockets that live on a browser's session: they are closed when it has ended, or is over."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from triochan import Application, Message, Settings, route, route_class
from triochan.auth import USER_ID, channel_session_user_from_http, http_session_user
from triochan.exceptions import DenyConnection, LayerUnavailable, SessionStoreUnavailable
from triochan.generic.websockets import WebsocketConsumer
from triochan.http import text
from triochan.sessions import MemorySessionStore, channel_and_http_session, http_session
from triochan.sessions.sockets import session_group
from triochan.test import Client
from triochan.test.client import HandshakeRefused

SECRETS = ["a secret that is long enough"]


@http_session
async def begin(message: Message) -> None:
    message.http_session["n"] = message.http_session.get("n", 0) + 1
    await message.reply_channel.send(text(""))


@http_session
async def flush(message: Message) -> None:
    await message.http_session.flush()
    await message.reply_channel.send(text(""))


@http_session
async def flush_and_raise(message: Message) -> None:
    await message.http_session.flush()
    raise ValueError("behind the end of the session")


@http_session
async def cycle(message: Message) -> None:
    message.http_session.cycle_key()
    await message.reply_channel.send(text(""))


async def listens(message: Message) -> None:
    """A consumer that does nothing but hear groups."""


async def echoes(message: Message) -> None:
    await message.reply_channel.send({"text": message["text"]})


PAGES = [
    route("http.request", begin, path="^/begin$"),
    route("http.request", flush, path="^/flush$"),
    route("http.request", flush_and_raise, path="^/raise$"),
    route("http.request", cycle, path="^/cycle$"),
]


class Both(WebsocketConsumer):
    http_user_and_session = True


class User(WebsocketConsumer):
    http_user = True


SOCKETS: dict[str, Any] = {
    "http_session": route("websocket.connect", http_session(listens)),
    "channel_and_http_session": route("websocket.connect", channel_and_http_session(listens)),
    "http_session_user": route("websocket.connect", http_session_user(listens)),
    "from_http": route("websocket.connect", channel_session_user_from_http(listens)),
    "twice": route("websocket.connect", http_session(http_session_user(listens))),
    "http_user": route_class(User),
    "http_user_and_session": route_class(Both),
}


def an_application(socket: Any, **options: Any) -> Application:
    options.setdefault("session_store", MemorySessionStore(clock=trio.current_time))
    return Application([*PAGES, socket], secrets=SECRETS, **options)


@pytest.mark.parametrize("kind", SOCKETS)
@pytest.mark.parametrize(
    ("path", "code", "reason"),
    [
        ("/flush", 3000, "the session has ended"),
        ("/raise", 3000, "the session has ended"),
        ("/cycle", 1012, "the session has a new key"),
    ],
)
async def test_the_end_of_a_session_closes_its_sockets_and_no_other(
    kind: str, path: str, code: int, reason: str
) -> None:
    application = an_application(SOCKETS[kind])
    async with Client(application) as client, Client(application) as other, Client(application) as nobody:
        await client.get("/begin")
        await other.get("/begin")
        async with (
            client.websocket("/") as one,
            client.websocket("/") as two,
            other.websocket("/") as others,
            nobody.websocket("/") as without,
        ):
            await client.get(path)
            for socket in (one, two):
                closed = await socket.wait_closed()
                assert (closed.code, closed.reason) == (code, reason)
            for still, runtime in ((others, other.runtime), (without, nobody.runtime)):
                await still.send("?")
                await trio.testing.wait_all_tasks_blocked()
                assert len(runtime.websockets) == 1
        assert client.runtime.timers.pending == other.runtime.timers.pending == 0


@pytest.mark.parametrize("kind", ["http_session", "http_session_user", "http_user_and_session"])
async def test_a_session_that_is_over_closes_its_sockets(kind: str, autojump_clock: MockClock) -> None:
    application = an_application(SOCKETS[kind], session_age=1)
    async with Client(application) as client:
        await client.get("/begin")
        async with client.websocket("/") as socket:
            with trio.fail_after(4):
                closed = await socket.wait_closed()
            assert (closed.code, closed.reason) == (3000, "the session is over")


async def test_a_session_that_is_saved_meanwhile_is_over_later(autojump_clock: MockClock) -> None:
    application = an_application(SOCKETS["http_user"], session_age=1)
    async with Client(application) as client:
        await client.get("/begin")
        began = trio.current_time()
        async with client.websocket("/") as socket:
            await trio.sleep(0.7)
            await client.get("/begin")
            with trio.fail_after(4):
                assert (await socket.wait_closed()).code == 3000
            assert trio.current_time() - began >= 1.6


async def test_a_store_of_ones_own_that_tells_no_time_is_asked(autojump_clock: MockClock) -> None:
    class Plain(MemorySessionStore):
        async def expires_in(self, key: str) -> float | None:
            return None if await self.load(key) is None else 60.0

    application = an_application(
        SOCKETS["http_session"], session_age=1, session_store=Plain(clock=trio.current_time)
    )
    async with Client(application) as client:
        await client.get("/begin")
        async with client.websocket("/") as socket:
            with trio.fail_after(4):
                assert (await socket.wait_closed()).code == 3000


async def test_a_store_that_does_not_answer_then_is_asked_again(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    class Away(MemorySessionStore):
        asked = 0

        async def expires_in(self, key: str) -> float | None:
            self.asked += 1
            if self.asked == 1:
                raise SessionStoreUnavailable("away for a moment")
            return await super().expires_in(key)

    store = Away(clock=trio.current_time)
    application = an_application(SOCKETS["http_session"], session_age=1, session_store=store)
    async with Client(application) as client:
        await client.get("/begin")
        async with client.websocket("/") as socket:
            with trio.fail_after(5):
                assert (await socket.wait_closed()).code == 3000
    assert store.asked == 2
    assert "whether the session of a socket is over: away for a moment" in caplog.text


@pytest.mark.parametrize("how", ["closed", "refused", "raised"])
async def test_nothing_is_left_of_a_socket_with_a_session(how: str, autojump_clock: MockClock) -> None:
    @http_session
    async def connect(message: Message) -> None:
        if how == "refused":
            raise DenyConnection
        if how == "raised":
            raise ValueError("in connect")

    application = an_application(route("websocket.connect", connect))
    async with Client(application, settings=Settings(ping_interval=0)) as client:
        await client.get("/begin")
        key = next(iter(application.sessions.store._texts))  # type: ignore[attr-defined]
        for _ in range(3):
            try:
                async with client.websocket("/"):
                    assert client.runtime.timers.pending == 1
            except HandshakeRefused:
                assert how != "closed"
        await trio.sleep(10)  # refused clients are seen off
        assert client.runtime.timers.pending == 0
        assert await client.runtime.layer.group_members(session_group(key)) == []


async def test_a_session_that_ends_while_its_handshake_is_under_way_refuses_it() -> None:
    inside, go_on = trio.Event(), trio.Event()

    @http_session
    async def connect(message: Message) -> None:
        inside.set()
        await go_on.wait()

    async with Client(an_application(route("websocket.connect", connect))) as client:
        await client.get("/begin")

        async def opens() -> None:
            with pytest.raises(HandshakeRefused):
                async with client.websocket("/"):
                    pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(opens)
            await inside.wait()
            await client.get("/flush")
            go_on.set()


async def test_a_session_that_ends_between_the_look_and_the_group_is_seen() -> None:
    class Ending(MemorySessionStore):
        loads = -1

        async def load(self, key: str) -> str | None:
            found = await super().load(key)
            self.loads += 1
            if self.loads == 1:
                await self.delete(key)
            return found

    store = Ending()
    seen = []

    @http_session
    async def connect(message: Message) -> None:
        seen.append((message.http_session.session_key, dict(message.http_session)))

    application = an_application(route("websocket.connect", connect), session_store=store)
    async with Client(application, settings=Settings(ping_interval=0)) as client:
        await client.get("/begin")
        store.loads = 0
        async with client.websocket("/"):
            assert client.runtime.timers.pending == 0
    assert seen == [(None, {})]


async def test_a_session_that_ends_where_no_server_runs_tells_nobody() -> None:
    store = MemorySessionStore()
    await store.save("key", "{}", 60, new=True)
    session = await Application([], session_store=store, secrets=SECRETS).sessions.by_key("key")
    await session.flush()
    assert len(store) == 0


async def test_a_session_that_ends_outside_of_a_handler_closes_its_sockets_at_once() -> None:
    store = MemorySessionStore()
    application = an_application(SOCKETS["http_user"], session_store=store)
    async with Client(application) as client:
        await client.get("/begin")
        async with client.websocket("/") as socket:
            session = await application.sessions.by_key(next(iter(store._texts)))
            await session.flush()
            assert (await socket.wait_closed()).code == 3000


async def test_disconnect_user_in_the_handler_that_ends_the_session_has_its_own_code() -> None:
    class Ada:
        id = 1
        is_authenticated = True

    async def load_user(session: Any) -> Any:
        return Ada() if USER_ID in session else None

    @http_session
    async def log_in(message: Message) -> None:
        message.http_session[USER_ID] = 1
        await message.reply_channel.send(text(""))

    @http_session_user
    async def log_out(message: Message) -> None:
        await message.http_session.flush()
        await message.application.disconnect_user(message.user, code=4001, reason="bye")
        await message.reply_channel.send(text(""))

    routing = [
        route("http.request", log_in, path="^/in$"),
        route("http.request", log_out, path="^/out$"),
        route_class(User),
    ]
    application = Application(routing, secrets=SECRETS, user_loader=load_user)
    async with Client(application) as client:
        await client.get("/in")
        async with client.websocket("/") as socket:
            await client.get("/out")
            closed = await socket.wait_closed()
            assert (closed.code, closed.reason) == (4001, "bye")


async def test_a_layer_that_is_away_is_one_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    application = an_application(SOCKETS["http_user"])
    async with Client(application) as client:
        await client.get("/begin")

        async def away(group: str, content: dict[str, Any]) -> None:
            raise LayerUnavailable("the engine is away")

        monkeypatch.setattr(client.runtime.layer, "group_send", away)
        assert (await client.get("/flush")).status == 200
    assert [record.getMessage() for record in caplog.records] == [
        "a session has ended, and its sockets in other processes were not told: the engine is away"
    ]
    assert application.sessions.store._texts == {}  # type: ignore[attr-defined]

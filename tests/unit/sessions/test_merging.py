"""What several handlers change in one session at the same time."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from triochan import Application, Message, route, route_class
from triochan.exceptions import SessionCookieUnavailable, SessionStoreUnavailable
from triochan.generic.websockets import WebsocketConsumer
from triochan.http import text
from triochan.sessions import (
    MemorySessionStore,
    Session,
    SqliteSessionStore,
    channel_and_http_session,
    http_session,
)
from triochan.test import Client

SECRETS = ["a secret that is long enough"]


async def held(store: MemorySessionStore, key: str = "key") -> dict[str, Any] | None:
    found = await store.load(key)
    return None if found is None else json.loads(found)


async def several(store: MemorySessionStore, data: dict[str, Any], count: int = 2) -> list[Session]:
    stored = json.dumps(data, separators=(",", ":"))
    await store.save("key", stored, 60, new=True)
    return [Session(store, 60, "key", stored) for _ in range(count)]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_two_requests_that_set_different_names_lose_nothing(kind: str, tmp_path: Any) -> None:
    inside, go_on = trio.Event(), trio.Event()

    @http_session
    async def put(message: Message, name: str) -> None:
        session = message.http_session
        if name == "slow":
            inside.set()
            await go_on.wait()
        session[name] = 1
        await message.reply_channel.send(text(""))

    @http_session
    async def show(message: Message) -> None:
        await message.reply_channel.send(text(json.dumps(dict(message.http_session))))

    store = MemorySessionStore() if kind == "memory" else SqliteSessionStore(tmp_path / "s")
    routing = [
        route("http.request", put, path="^/put/(?P<name>.*)$"),
        route("http.request", show, path="^/show$"),
    ]
    async with Client(Application(routing, session_store=store, secrets=SECRETS)) as client:
        await client.get("/put/first")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, "/put/slow")
            await inside.wait()
            await client.get("/put/quick")
            go_on.set()
        assert json.loads((await client.get("/show")).text) == {"first": 1, "quick": 1, "slow": 1}


async def test_what_each_way_of_changing_comes_to() -> None:
    store = MemorySessionStore()
    one, two = await several(store, {"gone": 1, "list": [1], "same": 1, "kept": 1})
    two["same"] = 2
    two["new"] = 2
    two["kept"] = 5
    await two.save()
    del one["gone"]
    one["list"].append(2)
    one["same"] = 1  # to what it was, and yet it was set: the last wins
    mine = one["list"]
    await one.save()
    assert await held(store) == {"list": [1, 2], "same": 1, "new": 2, "kept": 5}
    assert dict(one) == await held(store)
    assert not one.modified
    mine.append(3)  # what the handler has in hand is still the session's
    assert one.modified
    await one.save()
    assert (await held(store) or {})["list"] == [1, 2, 3]


async def test_the_last_to_save_one_name_wins_with_its_whole_value() -> None:
    store = MemorySessionStore()
    one, two = await several(store, {"cart": {"a": 1}})
    one["cart"]["b"] = 1
    two["cart"]["c"] = 1
    await one.save()
    await two.save()
    assert await held(store) == {"cart": {"a": 1, "c": 1}}


async def test_a_deleted_name_does_not_come_back_and_one_that_is_set_again_does() -> None:
    store = MemorySessionStore()
    one, two, three = await several(store, {"a": 1, "b": 1}, 3)
    del one["a"]
    two["b"] = 2
    await one.save()
    await two.save()
    assert await held(store) == {"b": 2}
    three["a"] = 3
    await three.save()
    assert await held(store) == {"b": 2, "a": 3}


async def test_values_that_python_takes_for_equal_are_told_apart() -> None:
    store = MemorySessionStore()
    one, two = await several(store, {"a": [1], "b": 1})
    two["b"] = 2
    await two.save()
    one["a"][0] = True
    await one.save()
    assert json.dumps(await held(store)) == '{"a": [true], "b": 2}'


async def test_a_new_key_takes_what_was_changed_under_the_old_one_along() -> None:
    store = MemorySessionStore()
    login, other, late = await several(store, {"basket": [1]}, 3)
    login.cycle_key()
    login["user_id"] = 1
    other["basket"] = [1, 2]
    await other.save()
    await login.save()
    assert login.session_key not in (None, "key")
    assert await held(store, login.session_key or "") == {"basket": [1, 2], "user_id": 1}
    late["basket"] = []
    await late.save()
    assert late.session_key is None
    assert await held(store) is None


@pytest.mark.parametrize("end", ["flush", "expiry"])
async def test_what_is_over_meanwhile_stays_over(end: str) -> None:
    now = 0.0
    store = MemorySessionStore(clock=lambda: now)
    one, two = await several(store, {"a": 1})
    if end == "flush":
        await two.flush()
    else:
        now = 60.0
    one["b"] = 1
    await one.save()
    assert await held(store) is None
    assert one == {}
    assert one.session_key is None


async def test_what_is_changed_while_it_is_saved_is_owed_still() -> None:
    class Slow(MemorySessionStore):
        slow = False

        async def load(self, key: str) -> str | None:
            if self.slow:
                under_way.set()
                await go_on.wait()
            return await super().load(key)

    under_way, go_on = trio.Event(), trio.Event()
    store = Slow()
    one, two = await several(store, {"a": 1})
    two["theirs"] = 1
    await two.save()
    one["mine"] = 1
    store.slow = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.save)
        await under_way.wait()
        one["late"] = 1
        del one["a"]
        go_on.set()
    assert one.modified
    assert one == {"mine": 1, "theirs": 1, "late": 1}
    await one.save()
    assert await held(store) == {"mine": 1, "theirs": 1, "late": 1}


async def test_a_save_that_fails_loses_no_change() -> None:
    class Failing(MemorySessionStore):
        failing = False

        async def load(self, key: str) -> str | None:
            if self.failing:
                raise SessionStoreUnavailable("away")
            return await super().load(key)

    store = Failing()
    one, two = await several(store, {"a": 1})
    two["a"] = 2
    await two.save()
    one["a"] = 1
    store.failing = True
    with pytest.raises(SessionStoreUnavailable):
        await one.save()
    store.failing = False
    assert one.modified
    await one.save()
    assert await held(store) == {"a": 1}


async def test_a_store_that_never_replaces_is_an_error_with_an_end() -> None:
    class Stubborn(MemorySessionStore):
        async def replace(self, key: str, old: str | None, text: str, lifetime: float) -> bool:
            return False

    [one] = await several(Stubborn(), {"a": 1}, 1)
    one["a"] = 2
    with pytest.raises(SessionStoreUnavailable, match="see that replace\\(\\) compares"):
        await one.save()


async def test_kept_channel_sessions_are_merged_from_their_first_save_on() -> None:
    store = MemorySessionStore()
    one, two = (Session(store, 60, "channel.a!1", fixed=True) for _ in range(2))
    one["a"] = 1
    two["b"] = 2
    await one.save()
    await two.save()
    assert await held(store, "channel.a!1") == {"a": 1, "b": 2}


async def test_a_connection_without_a_session_stores_none() -> None:
    @channel_and_http_session
    async def consumer(message: Message) -> None: ...

    kept, channels = MemorySessionStore(), MemorySessionStore()
    application = Application(
        [route(["websocket.connect", "websocket.receive", "http.request"], consumer)],
        session_store=kept, channel_session_store=channels, secrets=SECRETS,
    )  # fmt: skip
    async with Client(application) as client, client.websocket("/") as socket:
        await socket.send("?")
        assert len(kept) == len(channels) == 0


NAMES = st.sampled_from("abcd")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=3,
)
CHANGES = st.lists(st.tuples(NAMES, st.none() | VALUES.map(lambda value: [value])), max_size=4)


@given(st.dictionaries(NAMES, VALUES), st.lists(CHANGES, min_size=1, max_size=4))
def test_saves_one_after_the_other_come_to_all_changes_in_their_order(
    base: dict[str, Any], handlers: list[list[tuple[str, Any]]]
) -> None:
    """All handlers have loaded the same; what is stored in the end is what they would have made of it in turn."""

    async def main() -> None:
        store = MemorySessionStore()
        sessions = await several(store, base, len(handlers))
        expected = copy.deepcopy(base)
        for session, changes in zip(sessions, handlers, strict=True):
            for name, boxed in changes:
                if boxed is None:
                    if name in session:
                        del session[name]
                else:
                    session[name] = boxed[0]
            for name, _ in changes:
                if name in session:
                    expected[name] = session[name]
                elif name in base or any(each == name and boxed is not None for each, boxed in changes):
                    expected.pop(name, None)
        for session in sessions:
            await session.save()
            assert not session.modified
        assert await held(store) == expected

    trio.run(main)


class Saves(WebsocketConsumer):
    http_user_and_session = True

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        self.message.http_session["name"] = text
        await self.send(text="saved")
        await trio.sleep(0.2)  # whatever the handler does then


@http_session
async def begin(message: Message) -> None:
    message.http_session["name"] = "begun"
    await message.reply_channel.send(text("begun"))


@http_session
async def read(message: Message) -> None:
    await message.reply_channel.send(text(message.http_session.get("name", "")))


@http_session
async def stream(message: Message) -> None:
    await message.reply_channel.send({"status": 200, "content": b"a", "more_content": True})
    message.http_session["name"] = "streamed"
    await message.reply_channel.send({"content": b"saved"})
    await trio.sleep(0.2)


READING = [
    route("http.request", begin, path="^/begin$"),
    route("http.request", read, path="^/read$"),
    route("http.request", stream, path="^/stream$"),
    route_class(Saves, path="^/$"),
]


async def test_a_client_that_is_told_saved_reads_it_over_another_connection_and_process(
    tmp_path: Any,
) -> None:
    def application() -> Application:
        return Application(READING, session_store=SqliteSessionStore(tmp_path / "s"), secrets=SECRETS)

    async with Client(application()) as client:
        await client.get("/begin")
        async with client.websocket("/") as socket:
            for index in range(20):
                await socket.send(str(index))
                assert await socket.receive() == "saved"
                assert (await client.get("/read")).text == str(index)
                other = SqliteSessionStore(tmp_path / "s")  # as another process has it
                [key] = client.application.sessions.cookies.keys(_request(client.cookies["triochan_session"]))
                assert await other.load(key) == f'{{"name":"{index}"}}'
                await other.close()


async def test_a_response_whose_last_piece_has_come_is_saved(tmp_path: Any) -> None:
    store = SqliteSessionStore(tmp_path / "s")
    async with Client(Application(READING, session_store=store, secrets=SECRETS)) as client:
        await client.get("/begin")
        assert (await client.get("/stream")).text == "asaved"
        assert (await client.get("/read")).text == "streamed"


async def test_saved_is_not_said_where_it_was_not(caplog: pytest.LogCaptureFixture) -> None:
    class Away(MemorySessionStore):
        away = False

        async def replace(self, key: str, old: str | None, text: str, lifetime: float) -> bool:
            if self.away:
                raise SessionStoreUnavailable("the store is away")
            return await super().replace(key, old, text, lifetime)

    store = Away()
    async with Client(Application(READING, session_store=store, secrets=SECRETS)) as client:
        await client.get("/begin")
        async with client.websocket("/") as socket:
            store.away = True
            await socket.send("x")
            assert (await socket.wait_closed()).code == 1011
        assert (await client.get("/read")).text == "begun"
    assert "the store is away" in caplog.text


async def test_a_session_that_the_handler_saves_itself_renews_its_cookie() -> None:
    @http_session
    async def saves(message: Message) -> None:
        message.http_session["n"] = message.http_session.get("n", 0) + 1
        await message.http_session.save()
        await message.reply_channel.send(text(""))

    async with Client(Application([route("http.request", saves)], secrets=SECRETS)) as client:
        for _ in range(2):
            assert (await client.get("/")).header("set-cookie") is not None


async def test_over_a_websocket_a_new_key_is_refused_still() -> None:
    session = Session(MemorySessionStore(), 60, no_new_key="no cookie can be set")
    with pytest.raises(SessionCookieUnavailable):
        session["a"] = 1


def _request(cookie: str) -> Message:
    from triochan import Channel

    return Message({"headers": [(b"cookie", f"triochan_session={cookie}".encode())]}, Channel("http.request"))

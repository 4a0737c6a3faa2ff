"""The session decorators: which session a message gets, when it is saved, and how its key reaches the client."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest
import trio
from memory import async_held

from triochan import Application, Channel, Message, route, route_class
from triochan.content import decode_json
from triochan.exceptions import (
    ChannelFull,
    ConnectionClosed,
    ImproperlyConfigured,
    InvalidContent,
    SessionCookieUnavailable,
    SessionNotSerializable,
    SessionStoreUnavailable,
)
from triochan.generic import BaseConsumer
from triochan.generic.websockets import WebsocketConsumer
from triochan.http import text
from triochan.message import MessageApplication
from triochan.running import Local
from triochan.sessions import (
    MemorySessionStore,
    Session,
    SessionStore,
    channel_and_http_session,
    channel_session,
    enforce_ordering,
    http_session,
)
from triochan.test import Client, Response, WSClient

SECRETS = ["a secret that is long enough"]
COOKIE = "triochan_session"


class Endpoint:
    """What stands behind a reply channel, where there is no socket."""

    outbox = None

    def __init__(self) -> None:
        self.local = Local()


def a_message(
    content: dict[str, Any] | None = None,
    channel: str = "test",
    reply: Any = "test.reply!1",
    application: MessageApplication | None = None,
) -> Message:
    """A message by hand, its channel sessions in a store, as a worker of another process sees it."""
    message = Message(content or {}, Channel(channel), Channel(reply) if isinstance(reply, str) else reply)
    message.application = application or Application(
        [], channel_session_store=MemorySessionStore(), secrets=SECRETS
    )
    return message


# -- channel sessions


async def test_a_channel_session_is_the_reply_channels() -> None:
    @channel_session
    async def write(message: Message) -> None:
        message.channel_session["ponies"] = -1

    @channel_session
    async def read(message: Message) -> Any:
        return message.channel_session.get("ponies")

    message = a_message()
    await write(message)
    assert await read(a_message(application=message.application)) == -1
    assert await read(a_message(application=message.application, reply="test.reply!2")) is None


@pytest.mark.parametrize("times", [1, 2])
async def test_the_decorators_work_on_methods_and_on_each_other(times: int) -> None:
    class Consumer:
        async def write(self, message: Message, **kwargs: Any) -> dict[str, Any]:
            message.channel_session["ponies"] = -1
            return kwargs

    for _ in range(times):
        Consumer.write = channel_session(Consumer.write)  # type: ignore[method-assign]
    message = a_message()
    assert await Consumer().write(message, id="7") == {"id": "7"}
    bound = channel_session(Consumer().write)
    assert await bound(a_message(application=message.application)) == {}
    assert message.channel_session["ponies"] == -1


@pytest.mark.parametrize(
    "decorator", [channel_session, http_session, channel_and_http_session, enforce_ordering]
)
async def test_a_message_is_expected_first(decorator: Callable[..., Any]) -> None:
    @decorator
    async def handler(one: Any, two: Any, message: Message) -> None: ...

    with pytest.raises(
        ValueError, match=f"{decorator.__name__} wraps handlers whose first argument is a Message"
    ):
        await handler(None, None, a_message())


async def test_without_a_reply_channel_there_is_no_channel_session() -> None:
    @channel_session
    async def handler(message: Message) -> None: ...

    with pytest.raises(ValueError, match="has no reply_channel"):
        await handler(a_message(reply=None))


async def test_a_connection_of_elsewhere_needs_a_store_that_is_shared() -> None:
    @channel_session
    async def handler(message: Message) -> None: ...

    with pytest.raises(RuntimeError, match="channel_session_store"):
        await handler(a_message(application=Application([])))


async def test_a_message_of_no_application_says_so() -> None:
    @channel_session
    async def handler(message: Message) -> None: ...

    with pytest.raises(RuntimeError, match=r"message\.application = Application\(routing\)"):
        await handler(Message({}, Channel("test"), Channel("test!1")))


def test_what_is_no_async_def_is_found_when_it_is_decorated() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"channel_session\(.*is not 'async def'"):

        @channel_session  # type: ignore[type-var]
        def handler(message: Message) -> None: ...

    with pytest.raises(TypeError, match="set the class attribute of that name"):

        @http_session
        class Consumer(BaseConsumer): ...  # type: ignore[type-var]


async def test_the_session_of_a_connection_is_gone_with_it() -> None:
    seen = []

    @channel_session
    async def consumer(message: Message) -> None:
        session = message.channel_session
        session["count"] = session.get("count", 0) + 1
        seen.append((message.channel.name.rpartition(".")[2], session["count"]))
        if "text" in message:
            await message.reply_channel.send({"text": str(session["count"])})

    routing = [route(["websocket.connect", "websocket.receive", "websocket.disconnect"], consumer)]
    async with Client(routing) as client:
        for _ in range(2):
            async with client.websocket("/") as socket:
                await socket.send("?")
                assert await socket.receive() == "2"
    assert seen == [("connect", 1), ("receive", 2), ("disconnect", 3)] * 2


async def test_a_kept_channel_session_ends_with_the_disconnect() -> None:
    store = MemorySessionStore()

    class Consumer(WebsocketConsumer):
        channel_session = True

        async def connect(self, message: Message, **kwargs: Any) -> None:
            message.channel_session["a"] = 1

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            self.message.channel_session["a"] += 1
            await self.send(text=str(self.message.channel_session["a"]))

    async with Client(Application([route_class(Consumer)], channel_session_store=store)) as client:
        async with client.websocket("/") as socket:
            for expected in "23":
                await socket.send("?")
                assert await socket.receive() == expected
            assert len(store) == 1
        await trio.testing.wait_all_tasks_blocked()
        assert len(store) == 0


async def test_consumers_of_named_channels_see_the_connections_session() -> None:
    @channel_session
    async def connect(message: Message) -> None:
        message.channel_session["name"] = "Ada"

    @channel_session
    async def receive(message: Message) -> None:
        await Channel("greetings").send({"reply_channel": message.reply_channel, "greeting": message["text"]})

    @channel_session
    async def greet(message: Message) -> None:
        assert message.connection is None
        await message.reply_channel.send(
            {"text": f"{message['greeting']}, {message.channel_session['name']}"}
        )

    routing = [
        route("websocket.connect", connect),
        route("websocket.receive", receive),
        route("greetings", greet),
    ]
    async with WSClient(routing) as socket:
        await socket.send("Hello")
        assert await socket.receive() == "Hello, Ada"


@pytest.mark.parametrize(
    "attribute", ["channel_session", "channel_session_user", "http_user", "http_user_and_session"]
)
async def test_self_message_is_the_argument(attribute: str) -> None:
    class Consumer(WebsocketConsumer):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            assert message is self.message
            assert isinstance(self.message.channel_session, Session)
            message.channel_session["a"] = 1

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            if attribute != "channel_session":
                assert self.message.user.is_anonymous
            if attribute == "http_user_and_session":
                assert self.message.http_session == {}
            await self.send(text=str(self.message.channel_session["a"]))

    async with WSClient([Consumer.as_route({attribute: True})]) as socket:
        await socket.send("?")
        assert await socket.receive() == "1"


async def test_a_decorator_around_get_handler_sees_the_session() -> None:
    seen: list[dict[str, Any]] = []

    class Consumer(WebsocketConsumer):
        channel_session = True

        def get_handler(self, message: Message, **kwargs: Any) -> Any:
            handler = super().get_handler(message, **kwargs)

            async def wrapped(message: Message, **kwargs: Any) -> None:
                assert message.channel_session is None  # the session is innermost
                await handler(message, **kwargs)
                session = message.channel_session
                assert session is not None
                seen.append(dict(session))

            return wrapped

        async def connect(self, message: Message, **kwargs: Any) -> None:
            message.channel_session["a"] = 1

    async with WSClient([route_class(Consumer)]):
        pass
    assert seen[0] == {"a": 1}


# -- the HTTP session


@http_session
async def counter(message: Message) -> None:
    session = message.http_session
    session["count"] = session.get("count", 0) + 1
    await message.reply_channel.send(text(str(session["count"])))


def set_cookies(response: Response) -> list[str]:
    return [value.decode() for name, value in response.headers if name == b"set-cookie"]


async def test_a_session_begins_over_http_and_comes_back_by_its_cookie() -> None:
    async with Client(Application([route("http.request", counter)], secrets=SECRETS)) as client:
        response = await client.get("/")
        assert response.text == "1"
        [cookie] = set_cookies(response)
        value, _, attributes = cookie.partition("; ")
        assert value.startswith(f"{COOKIE}=")
        assert attributes == "Path=/; Max-Age=1209600; HttpOnly; SameSite=Lax"
        assert response.header("vary") == "Cookie"
        assert response.header("cache-control") == "private"
        first = client.cookies[COOKIE]
        assert (await client.get("/")).text == "2"
        assert client.cookies[COOKIE].partition(".")[0] == first.partition(".")[0]
        client.cookies.clear()
        assert (await client.get("/")).text == "1"


async def test_the_cookie_is_secure_under_tls_or_where_the_application_says_so() -> None:
    routing = [route("http.request", counter)]
    async with Client(Application(routing, secrets=SECRETS), secure=True) as client:
        assert "; Secure; " in set_cookies(await client.get("/"))[0]
    async with Client(Application(routing, secrets=SECRETS, cookie_secure=True)) as client:
        assert "; Secure; " in set_cookies(await client.get("/"))[0]
    application = Application(
        routing,
        secrets=SECRETS,
        cookie_name="s",
        cookie_path="/app",
        cookie_domain="example.com",
        cookie_same_site="Strict",
        session_age=60,
    )
    async with Client(application) as client:
        [cookie] = set_cookies(await client.get("/app"))
        assert cookie.startswith("s=")
        assert cookie.endswith("; Path=/app; Domain=example.com; Max-Age=60; HttpOnly; SameSite=Strict")


async def test_a_session_that_is_only_read_sets_no_cookie_and_saves_nothing() -> None:
    store = MemorySessionStore()

    @http_session
    async def reader(message: Message) -> None:
        await message.reply_channel.send(text(str(message.http_session.get("count"))))

    routing = [route("http.request", counter, path="^/count"), route("http.request", reader)]
    async with Client(Application(routing, session_store=store, secrets=SECRETS)) as client:
        response = await client.get("/")
        assert response.text == "None"
        assert set_cookies(response) == []
        assert len(store) == 0
        await client.get("/count")
        response = await client.get("/")
        assert response.text == "1"
        assert set_cookies(response) == []


async def test_the_first_answer_may_come_from_elsewhere() -> None:
    @http_session
    async def ask(message: Message) -> None:
        message.http_session["asked"] = True
        await Channel("answers").send({"reply_channel": message.reply_channel})

    async def answer(message: Message) -> None:
        await message.reply_channel.send(text("an answer"))

    routing = [route("http.request", ask), route("answers", answer)]
    async with Client(Application(routing, secrets=SECRETS)) as client:
        assert len(set_cookies(await client.get("/"))) == 1


async def test_a_response_that_can_not_be_sent_does_not_use_the_cookie_up() -> None:
    @http_session
    async def consumer(message: Message) -> None:
        message.http_session["a"] = 1
        with pytest.raises(ValueError, match="status"):
            await message.reply_channel.send({"content": b""})
        await message.reply_channel.send(
            {"status": 200, "headers": {"Set-Cookie": "own=1", "Cache-Control": "x"}}
        )

    async with Client(Application([route("http.request", consumer)], secrets=SECRETS)) as client:
        response = await client.get("/")
        assert len(set_cookies(response)) == 2
        assert response.header("cache-control") == "x"


async def test_a_websocket_has_the_session_of_its_handshakes_cookie() -> None:
    class Consumer(WebsocketConsumer):
        http_user_and_session = True
        seen: list[tuple[str, str | None, dict[str, Any]]] = []

        async def connect(self, message: Message, **kwargs: Any) -> None:
            message.http_session["connects"] = message.http_session.get("connects", 0) + 1
            self.note(message)

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            self.message.http_session["list"][0] += 1  # a change within a value counts as well
            self.note(self.message)
            await self.send(text="done")

        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            self.note(message)

        def note(self, message: Message) -> None:
            session = message.http_session
            self.seen.append((message.channel.name, session.session_key, dict(session)))

    @http_session
    async def begin(message: Message) -> None:
        message.http_session["list"] = [0]
        await message.reply_channel.send(text(""))

    routing = [route("http.request", begin), route_class(Consumer)]
    async with Client(Application(routing, secrets=SECRETS)) as client:
        await client.get("/")
        async with client.websocket("/") as socket:
            await socket.send("?")
            assert await socket.receive() == "done"
        await trio.testing.wait_all_tasks_blocked()
    [(_, key, one), (_, key2, two), (_, key3, three)] = Consumer.seen
    assert key is not None
    assert key == key2 == key3
    assert one == {"list": [0], "connects": 1}
    assert two == three == {"list": [1], "connects": 1}


async def test_over_a_websocket_no_session_can_begin() -> None:
    raised = []

    @channel_and_http_session
    async def consumer(message: Message) -> None:
        assert message.http_session == {}
        assert message.http_session.session_key is None
        attempts: list[Callable[[], None]] = [
            lambda: message.http_session.update(a=1),
            message.http_session.cycle_key,
        ]
        for attempt in attempts:
            with pytest.raises(SessionCookieUnavailable, match="no cookie can be set") as error:
                attempt()
            raised.append(error)

    async with Client([route(["websocket.connect", "websocket.receive"], consumer)]) as client:
        async with client.websocket("/") as socket:
            await socket.send("?")
    assert len(raised) == 4


async def test_http_session_is_none_where_there_are_no_headers() -> None:
    @http_session
    @http_session
    async def handler(message: Message) -> Any:
        return message.http_session

    assert await handler(a_message({"path": "/"})) is None


async def test_channel_and_http_session_finds_the_session_again() -> None:
    store = MemorySessionStore()
    application = Application(
        [], session_store=store, channel_session_store=MemorySessionStore(), secrets=SECRETS
    )
    await store.save("a-key", '{"species":"horse"}', 60, new=True)
    cookie = application.sessions.cookies.header(a_message(), "a-key")[1].partition(";")[0]

    @channel_and_http_session
    async def handler(message: Message) -> None:
        assert message.http_session["species"] == "horse"

    content = {"path": "/", "headers": [(b"cookie", cookie.encode())]}
    await handler(a_message(content, "websocket.connect.test", application=application))
    later = a_message({"path": "/"}, application=application)
    await handler(later)
    assert later.http_session.session_key == "a-key"


async def test_when_the_response_has_begun_it_is_too_late_for_a_session() -> None:
    raised = []

    @http_session
    async def consumer(message: Message) -> None:
        await message.reply_channel.send({"status": 200, "content": b"a", "more_content": True})
        with pytest.raises(SessionCookieUnavailable, match="before the first"):
            message.http_session["a"] = 1
        raised.append(True)
        await message.reply_channel.send({"content": b"b"})

    async with Client([route("http.request", consumer)]) as client:
        assert (await client.get("/")).text == "ab"
    assert raised


async def test_a_session_may_be_changed_after_the_response() -> None:
    @http_session
    async def consumer(message: Message) -> None:
        message.http_session["before"] = 1
        await message.reply_channel.send(text(str(sorted(message.http_session))))
        message.http_session["after"] = 1

    async with Client(Application([route("http.request", consumer)], secrets=SECRETS)) as client:
        assert (await client.get("/")).text == "['before']"
        assert (await client.get("/")).text == "['after', 'before']"


# -- saving, whatever happens


@pytest.mark.parametrize("ending", ["return", "raise", "cancel", "raise and break"])
async def test_a_session_is_saved_however_its_handler_ends(
    ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemorySessionStore()
    application = Application([], channel_session_store=store)

    @channel_session
    async def handler(message: Message) -> None:
        message.channel_session["a"] = [1]
        if ending == "raise and break":
            message.channel_session["a"][0] = object()
        if ending.startswith("raise"):
            raise LookupError("of the handler's own")
        if ending == "cancel":
            scope.cancel()
            await trio.sleep_forever()

    message = a_message(application=application)
    with trio.CancelScope() as scope:
        if ending.startswith("raise"):
            with pytest.raises(LookupError, match="of the handler's own"):
                await handler(message)
        else:
            await handler(message)
    text = await store.load("channel.test.reply!1")
    if ending == "raise and break":
        assert text is None
        assert "session['a'][0] is a object" in caplog.text
    else:
        assert text == '{"a":[1]}'


class StuckStore(MemorySessionStore):
    async def save(self, key: str, text: str, lifetime: float, *, new: bool) -> bool:
        await trio.sleep_forever()
        raise AssertionError


@pytest.mark.parametrize("crash", [False, True])
async def test_a_stuck_store_holds_a_handler_up_for_a_while_only(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, crash: bool
) -> None:
    @channel_session
    async def handler(message: Message) -> None:
        message.channel_session["a"] = 1
        if crash:
            raise LookupError

    message = a_message(application=Application([], channel_session_store=StuckStore()))
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(LookupError if crash else SessionStoreUnavailable):
            await handler(message)
    assert trio.current_time() == pytest.approx(5)
    assert ("not saved within 5 s" in caplog.text) == crash


class BrokenStore(MemorySessionStore):
    async def load(self, key: str) -> str | None:
        raise SessionStoreUnavailable("the disk is full of cats")


async def test_a_store_that_does_not_answer_is_an_error_before_the_handler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ran = []

    @http_session
    async def consumer(message: Message) -> None:
        ran.append(True)

    application = Application([route("http.request", consumer)], session_store=BrokenStore(), secrets=SECRETS)
    key = application.sessions.cookies.header(a_message(), "a-key")[1].partition(";")[0]
    async with Client(application) as client:
        response = await client.get("/", headers={"Cookie": key})
    assert response.status == 500
    assert "cats" not in response.text
    assert "full of cats" in caplog.text
    assert not ran


async def test_concurrent_changes_are_merged_and_an_ended_session_stays_ended() -> None:
    store = MemorySessionStore()
    application = Application([], session_store=store, secrets=SECRETS)
    await store.save("key", '{"a":1}', 60, new=True)
    one, two, three = [await application.sessions.by_key("key") for _ in range(3)]
    one["b"] = 1
    two["c"] = 1
    await one.save()
    await two.save()
    assert await store.load("key") == '{"a":1,"b":1,"c":1}'
    await two.flush()
    three["d"] = 1
    await three.save()
    assert await store.load("key") is None
    assert three == {}
    assert three.session_key is None


# -- what a session holds


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), r"session\['k'\] is a object"),
        ({1: 2}, r"session\['k'\] is a dict with the key 1"),
        ({"a": [0, {"b": b"bytes"}]}, r"session\['k'\]\['a'\]\[1\]\['b'\] is a bytes"),
        (float("nan"), r"session\['k'\] is nan"),
        ([float("inf")], r"session\['k'\]\[0\] is inf"),
        (2**63, "beyond 64 bits"),
        ("\ud800", "lone surrogate"),
        ({"s": {1, 2}}, r"session\['k'\]\['s'\] is a set"),
    ],
)
def test_what_json_has_no_form_for_is_refused_by_name(value: Any, says: str) -> None:
    session = Session(MemorySessionStore(), 60)
    with pytest.raises(SessionNotSerializable, match=says):
        session["k"] = value
    assert "k" not in session


async def test_what_json_has_no_form_for_is_refused_within_a_value_too() -> None:
    session = Session(MemorySessionStore(), 60)
    session["k"] = []
    session["k"].append(session["k"])
    with pytest.raises(SessionNotSerializable, match="50 levels deep, or holds itself"):
        await session.save()
    with pytest.raises(TypeError, match="a session's names are strings"):
        session[1] = 1  # type: ignore[index]


async def test_an_unserialisable_value_is_an_error_of_the_handler_that_caused_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @http_session
    async def consumer(message: Message) -> None:
        message.http_session["when"] = object()

    async with Client([route("http.request", consumer)]) as client:
        assert (await client.get("/")).status == 500
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "consumer raised in http.request" in record.getMessage()
    assert record.exc_info is not None
    assert "session['when'] is a object" in str(record.exc_info[1])


async def test_values_come_back_as_they_were() -> None:
    store = MemorySessionStore()
    values = {"a": [1, -1.5, True, None, "é𝄞\x00"], "b": {"c": {}}, "": "", "big": 2**63 - 1, "tiny": 5e-324}
    session = Session(store, 60)
    session.update(values)
    await session.save()
    key = session.session_key
    assert key is not None
    again = Session(store, 60, key, await store.load(key))
    assert again == values
    assert not again.modified
    again["b"]["c"]["d"] = 1
    assert again.modified


async def test_a_stored_text_that_is_no_json_is_an_empty_session(caplog: pytest.LogCaptureFixture) -> None:
    for damaged in ("", "[]", "{", "7", "NaN", "[" * 5000):
        assert Session(MemorySessionStore(), 60, "key", damaged) == {}
    assert len(caplog.records) == 6


async def test_keys_are_cycled_and_the_old_one_is_worth_nothing() -> None:
    store = MemorySessionStore()
    session = Session(store, 60)
    session["a"] = 1
    await session.save()
    old = session.session_key
    assert old is not None
    session.cycle_key()
    assert session.session_key is None
    assert await store.load(old) is not None
    await session.save()
    assert session.session_key not in (None, old)
    assert await store.load(old) is None
    assert len(store) == 1


async def test_a_channel_session_keeps_its_key() -> None:
    store = MemorySessionStore()
    session = Session(store, 60, "channel.a!1", fixed=True)
    session["a"] = 1
    await session.save()
    with pytest.raises(SessionCookieUnavailable, match="its connection's key"):
        session.cycle_key()
    await session.flush()
    assert session.is_empty()
    assert len(store) == 0
    session["a"] = 2
    await session.save()
    assert await store.load("channel.a!1") == '{"a":2}'


async def test_a_session_may_be_said_to_be_modified() -> None:
    store = MemorySessionStore()
    session = Session(store, 60)
    session["a"] = 1
    assert session.modified
    await session.save()
    assert not session.modified
    session.modified = True
    assert session.modified
    session.modified = False
    session._data["a"] = object()
    assert session.modified  # saving it will say what is wrong
    del session["a"]
    await session.save()
    assert await store.load(session.session_key or "") == "{}"


class Failing(MemorySessionStore):
    failing = False

    async def save(self, key: str, text: str, lifetime: float, *, new: bool) -> bool:
        if self.failing:
            raise SessionStoreUnavailable("not now")
        return await super().save(key, text, lifetime, new=new)


async def test_a_save_that_failed_may_be_tried_again() -> None:
    store = Failing()
    session = Session(store, 60)
    session["a"] = 1
    await session.save()
    old = session.session_key
    session.cycle_key()
    store.failing = True
    with pytest.raises(SessionStoreUnavailable):
        await session.save()
    assert session.modified
    assert await store.load(old or "") is not None
    store.failing = False
    await session.save()
    assert await store.load(old or "") is None
    assert await store.load(session.session_key or "") == '{"a":1}'


def test_a_session_shows_neither_its_key_nor_its_values() -> None:
    session = Session(MemorySessionStore(), 60, "a-key", '{"password":"1234"}')
    assert repr(session) == "<Session kept: password>"


# -- enforce_ordering


async def test_enforce_ordering_on_a_function_orders_the_whole_connection() -> None:
    running = 0

    async def connect(message: Message) -> None:
        assert message.connection.ordering == "strict"

    @channel_session
    @enforce_ordering
    async def receive(message: Message) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await trio.testing.wait_all_tasks_blocked()
        running -= 1
        await message.reply_channel.send({"text": message["text"]})

    async with WSClient([route("websocket.connect", connect), route("websocket.receive", receive)]) as socket:
        for each in "abc":
            await socket.send(each)
        assert [await socket.receive() for _ in range(3)] == ["a", "b", "c"]


async def test_slight_ordering_may_be_asked_for_too() -> None:
    @enforce_ordering(slight=True)
    async def consumer(message: Message) -> None:
        assert message.connection.ordering == "slight"
        if "text" in message:
            await message.reply_channel.send({"text": "fine"})

    async with WSClient([route(["websocket.connect", "websocket.receive"], consumer)]) as socket:
        await socket.send("?")
        assert await socket.receive() == "fine"


async def test_a_wrapper_that_the_connection_can_not_see_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    class Consumer(WebsocketConsumer):
        def get_handler(self, message: Message, **kwargs: Any) -> Any:
            return enforce_ordering(super().get_handler(message, **kwargs))

    with pytest.raises(Exception, match="500"):
        async with WSClient([route_class(Consumer)]):
            pass
    assert "set strict_ordering = True" in str(caplog.records[-1].exc_info)
    async with WSClient([Consumer.as_route({"strict_ordering": True})]) as socket:
        await socket.close()


def reply_channel_of(endpoint: Endpoint) -> Any:
    channel = Channel("test.reply!9")
    return type("ReplyChannel", (), {"name": channel.name, "endpoint": endpoint})()


async def test_messages_of_a_named_channel_are_held_until_their_turn() -> None:
    seen = []

    @enforce_ordering
    async def handler(message: Message) -> None:
        seen.append(message["order"])
        if message["order"] == 2:
            raise LookupError("a handler that raises does not stop those behind it")

    reply = reply_channel_of(Endpoint())
    await handler(a_message({"order": 0}, reply=reply))
    await handler(a_message({"order": 3}, reply=reply))
    await handler(a_message({"order": 2}, reply=reply))
    assert seen == [0]
    with pytest.raises(LookupError):
        await handler(a_message({"order": 1}, reply=reply))
    assert seen == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="order 2 has come before"):
        await handler(a_message({"order": 2}, reply=reply))
    other = reply_channel_of(Endpoint())
    await handler(a_message({"order": 0}, reply=other))
    assert seen == [0, 1, 2, 3, 0]


async def test_a_message_that_comes_while_the_one_before_is_handled_waits() -> None:
    seen = []
    go_on = trio.Event()

    @enforce_ordering
    async def handler(message: Message) -> None:
        if message["order"] == 0:
            await go_on.wait()
        seen.append(message["order"])

    reply = reply_channel_of(Endpoint())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handler, a_message({"order": 0}, reply=reply))
        await trio.testing.wait_all_tasks_blocked()
        await handler(a_message({"order": 1}, reply=reply))
        assert seen == []
        go_on.set()
    assert seen == [0, 1]


async def test_not_too_many_messages_are_held() -> None:
    @enforce_ordering
    async def handler(message: Message) -> None: ...

    reply = reply_channel_of(Endpoint())
    for order in range(1, 101):
        await handler(a_message({"order": order}, reply=reply))
    with pytest.raises(ChannelFull):
        await handler(a_message({"order": 101}, reply=reply))


async def test_what_is_held_is_bounded_in_bytes_and_takes_no_more_than_its_text() -> None:
    seen: list[int] = []

    @enforce_ordering
    async def handler(message: Message) -> None:
        seen.append(len(message["items"]))
        message["items"].append({})  # its own

    text = "[" + ",".join(["{}"] * 100_000) + "]"
    taken = 6  # each is of 200 KB

    async def fill() -> Any:
        reply = reply_channel_of(Endpoint())
        for order in range(1, taken + 1):
            await handler(a_message({"order": order, "items": decode_json(text)}, reply=reply))
        return reply

    assert await async_held(fill) < 3 * 1024 * 1024  # as objects: 8 MB each
    reply = await fill()
    with pytest.raises(ChannelFull, match=r"1,048,576 bytes"):
        await handler(a_message({"order": taken + 1, "items": []}, reply=reply))
    await handler(a_message({"order": 0, "items": []}, reply=reply))
    assert seen == [0, *[100_000] * taken]
    # What was held takes no room any more.
    for order in range(taken + 2, 2 * taken + 2):  # each waits for the one that was not taken
        await handler(a_message({"order": order, "items": decode_json(text)}, reply=reply))


@pytest.mark.parametrize("order", [None, "1", True])
async def test_a_message_without_an_order_is_refused(order: Any) -> None:
    @enforce_ordering
    async def handler(message: Message) -> None: ...

    with pytest.raises(ValueError, match="needs messages with an 'order'"):
        await handler(a_message({} if order is None else {"order": order}))


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pickle takes as many levels as JSON can have")
async def test_a_held_message_that_is_nested_too_deeply_is_refused() -> None:
    @enforce_ordering
    async def handler(message: Message) -> None: ...

    reply = reply_channel_of(Endpoint())
    with pytest.raises(InvalidContent, match="too deep"):
        await handler(a_message({"order": 1, "deep": decode_json("[" * 1000 + "]" * 1000)}, reply=reply))
    await handler(a_message({"order": 0}, reply=reply))


async def test_a_crash_in_a_session_handler_closes_its_socket_only() -> None:
    @channel_session
    async def consumer(message: Message) -> None:
        if message.get("text") == "crash":
            message.channel_session["a"] = object()
        if "text" in message:
            await message.reply_channel.send({"text": "fine"})

    async with Client([route(["websocket.connect", "websocket.receive"], consumer)]) as client:
        async with client.websocket("/") as bystander, client.websocket("/") as socket:
            await socket.send("crash")
            with pytest.raises(ConnectionClosed) as closed:
                await socket.receive()
            assert closed.value.code == 1011
            await bystander.send("?")
            assert await bystander.receive() == "fine"


async def test_a_store_need_not_call_its_base() -> None:
    class Own(SessionStore):
        def __init__(self) -> None:
            self.texts: dict[str, str] = {}
            self.closed = 0

        async def load(self, key: str) -> str | None:
            return self.texts.get(key)

        async def save(self, key: str, text: str, lifetime: float, *, new: bool) -> bool:
            self.texts[key] = text
            return True

        async def delete(self, key: str) -> None:
            self.texts.pop(key, None)

        async def delete_expired(self) -> int:
            return 0

        async def close(self) -> None:
            self.closed += 1

    @http_session
    async def count(message: Message) -> object:
        message.http_session["n"] = message.http_session.get("n", 0) + 1
        return text(str(message.http_session["n"]))

    store = Own()
    application = Application([route("http.request", count)], session_store=store, secrets=SECRETS)
    async with Client(application) as client:
        assert [(await client.get("/")).text for _ in range(3)] == ["1", "2", "3"]
    assert store.closed == 1

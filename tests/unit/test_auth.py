"""Users: out of sessions, in and out of them, and all of a user's sockets."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio

from triochan import Application, Channel, Group, Message, route, route_class
from triochan.auth import (
    USER_ID,
    AnonymousUser,
    channel_and_http_session_user_from_http,
    channel_session_user,
    channel_session_user_from_http,
    http_session_user,
    login,
    logout,
    transfer_user,
    user_group,
)
from triochan.exceptions import ImproperlyConfigured, SessionCookieUnavailable
from triochan.generic import BaseConsumer
from triochan.generic.websockets import WebsocketConsumer
from triochan.http import text
from triochan.sessions import MemorySessionStore, Session, channel_session, http_session
from triochan.test import Client
from triochan.test.client import HandshakeRefused

SECRETS = ["a secret that is long enough"]
COOKIE = "triochan_session"


@attrs.frozen
class User:
    id: int
    name: str


USERS = {1: User(1, "Ada"), 2: User(2, "Grace")}


async def load_user(session: Session) -> User | None:
    return USERS.get(session.get(USER_ID, 0))


@http_session_user
async def log_in(message: Message, id: str) -> None:
    await login(message, USERS[int(id)])
    await message.reply_channel.send(text(message.user.name))


@http_session_user
async def log_out(message: Message) -> None:
    user = message.user
    await logout(message)
    assert message.user == AnonymousUser()
    if user.id is not None and b"everywhere" in message["query_string"]:
        await message.application.disconnect_user(user)
    await message.reply_channel.send(text("bye"))


@http_session_user
async def whoami(message: Message) -> None:
    await message.reply_channel.send(text(getattr(message.user, "name", "nobody")))


PAGES = [
    route("http.request", log_in, path=r"^/login/(?P<id>\d+)$"),
    route("http.request", log_out, path="^/logout$"),
    route("http.request", whoami, path="^/whoami$"),
]


class Socket(WebsocketConsumer):
    """Says who it is, in every handler."""

    disconnects: list[tuple[str, int, str]] = []

    async def connect(self, message: Message, **kwargs: Any) -> None:
        assert self.message.user is message.user
        await self.send(text=f"connect {name(message)}")

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.send(text=f"receive {name(self.message)}")

    async def disconnect(self, message: Message, **kwargs: Any) -> None:
        self.disconnects.append((name(message), message["code"], message["reason"]))


def name(message: Message) -> str:
    return getattr(message.user, "name", "nobody")


class HttpUser(Socket):
    http_user = True


class HttpUserAndSession(Socket):
    http_user_and_session = True


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    Socket.disconnects.clear()
    routing = [
        *PAGES,
        route_class(HttpUser, path="^/user/$"),
        route_class(HttpUserAndSession, path="^/both/$"),
    ]
    async with Client(Application(routing, secrets=SECRETS, user_loader=load_user)) as client:
        yield client


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.testing.wait_all_tasks_blocked()


async def until_disconnected(times: int) -> None:
    await until(lambda: len(Socket.disconnects) == times)


# -- who is it


@pytest.mark.parametrize("path", ["/user/", "/both/"])
async def test_every_handler_knows_the_user(client: Client, path: str) -> None:
    people = ((None, "nobody"), ("/login/1", "Ada"), ("/login/2", "Grace"))
    for count, (who, expected) in enumerate(people, 1):
        if who:
            await client.get(who)
        async with client.websocket(path) as socket:
            assert await socket.receive() == f"connect {expected}"
            await socket.send("?")
            assert await socket.receive() == f"receive {expected}"
        await until_disconnected(count)
        assert Socket.disconnects[-1] == (expected, 1000, "")
        assert (await client.get("/whoami")).text == expected


async def test_without_a_user_loader_everybody_is_anonymous() -> None:
    class Consumer(WebsocketConsumer):
        channel_session_user = True

        async def connect(self, message: Message, **kwargs: Any) -> None:
            assert message.user == AnonymousUser()
            message.channel_session[USER_ID] = 1

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            await self.send(text=str(self.message.user))

    async with Client([route_class(Consumer)]) as client, client.websocket("/") as socket:
        await socket.send("?")
        assert await socket.receive() == "AnonymousUser"


async def test_a_user_who_is_no_more_is_anonymous(client: Client) -> None:
    await client.get("/login/1")
    ada = USERS.pop(1)
    try:
        assert (await client.get("/whoami")).text == "nobody"
    finally:
        USERS[1] = ada


def test_nobody_is_nobody() -> None:
    nobody = AnonymousUser()
    assert nobody == AnonymousUser()
    assert len({nobody, AnonymousUser()}) == 1
    assert (nobody.is_anonymous, nobody.is_authenticated, nobody.id, nobody.username) == (
        True,
        False,
        None,
        "",
    )


async def test_consumers_of_named_channels_know_the_user_by_the_reply_channel() -> None:
    @channel_session_user
    async def answer(message: Message) -> None:
        await message.reply_channel.send({"text": name(message)})

    @channel_session_user_from_http
    async def connect(message: Message) -> None: ...

    async def receive(message: Message) -> None:
        await Channel("questions").send({"reply_channel": message.reply_channel})

    routing = [
        *PAGES,
        route("websocket.connect", connect),
        route("websocket.receive", receive),
        route("questions", answer),
    ]
    async with Client(Application(routing, secrets=SECRETS, user_loader=load_user)) as client:
        await client.get("/login/2")
        async with client.websocket("/") as socket:
            await socket.send("?")
            assert await socket.receive() == "Grace"


async def test_the_decorators_work_on_methods() -> None:
    class Consumer(BaseConsumer):
        method_mapping = {"websocket.connect": "connect", "websocket.receive": "receive"}

        @channel_session_user_from_http
        async def connect(self, message: Message, **kwargs: Any) -> None: ...

        @channel_session_user
        async def receive(self, message: Message, **kwargs: Any) -> None:
            assert self.message is message
            await message.reply_channel.send({"text": name(message)})

    application = Application([*PAGES, route_class(Consumer)], secrets=SECRETS, user_loader=load_user)
    async with Client(application) as client:
        await client.get("/login/1")
        async with client.websocket("/") as socket:
            await socket.send("?")
            assert await socket.receive() == "Ada"


def test_transfer_user() -> None:
    to: dict[str, Any] = {"other": 1}
    transfer_user({}, to)
    assert to == {"other": 1}
    transfer_user({USER_ID: 7, "a": 2}, to)
    assert to == {"other": 1, USER_ID: 7}


async def test_the_user_loader_gets_what_the_session_holds_and_no_empty_one() -> None:
    sessions: list[dict[str, Any]] = []

    async def loader(session: Session) -> User | None:
        sessions.append(dict(session))
        return await load_user(session)

    async with Client(Application(PAGES, secrets=SECRETS, user_loader=loader)) as client:
        await client.get("/whoami")
        assert sessions == []
        await client.get("/login/1")
        await client.get("/whoami")
    assert sessions == [{USER_ID: 1}]


@pytest.mark.parametrize("when", ["connect", "receive", "http.request"])
async def test_a_user_loader_that_raises(when: str, caplog: pytest.LogCaptureFixture) -> None:
    failing = False

    async def loader(session: Session) -> User | None:
        if failing:
            raise LookupError("no users here")
        return await load_user(session)

    routing = [*PAGES, route_class(HttpUser)]
    async with Client(Application(routing, secrets=SECRETS, user_loader=loader)) as client:
        await client.get("/login/1")
        if when == "receive":
            async with client.websocket("/") as socket:
                assert await socket.receive() == "connect Ada"
                failing = True
                await socket.send("?")
                assert (await socket.wait_closed()).code == 1011
        elif when == "connect":
            failing = True
            with pytest.raises(HandshakeRefused) as refused:
                async with client.websocket("/"):
                    pass
            assert refused.value.status == 500
        else:
            failing = True
            response = await client.get("/whoami")
            assert response.status == 500
            assert "no users here" not in response.text
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "no users here" in str(errors[0].exc_info)


def test_what_is_no_user_loader_is_found_at_once() -> None:
    for wrong in (lambda session: None, "loader", 7):
        with pytest.raises(ImproperlyConfigured, match="user_loader is an 'async def'"):
            Application([], user_loader=wrong)  # type: ignore[arg-type]

    class Loader:
        async def __call__(self, session: Session) -> Any: ...

    Application([], user_loader=Loader())


# -- in and out


async def test_logging_in_and_out_changes_the_key() -> None:
    store = MemorySessionStore()

    @http_session
    async def visit(message: Message) -> None:
        message.http_session["basket"] = [1]
        await message.reply_channel.send(text(""))

    routing = [*PAGES, route("http.request", visit)]
    async with Client(
        Application(routing, session_store=store, secrets=SECRETS, user_loader=load_user)
    ) as client:
        await client.get("/")
        before = client.cookies[COOKIE]
        await client.get("/login/1")
        after = client.cookies[COOKIE]
        assert after.partition(".")[0] != before.partition(".")[0]
        assert next(iter(store._texts.values()))[1] == '{"basket":[1],"user_id":1}'
        response = await client.get("/logout")
        assert response.header("set-cookie") == f"{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
        assert COOKIE not in client.cookies
        assert len(store) == 0
        client.cookies[COOKIE] = after
        assert (await client.get("/whoami")).text == "nobody"


async def test_session_fixation() -> None:
    """Whoever plants a cookie of their own in somebody's browser is not logged in when that somebody logs in."""

    @http_session
    async def visit(message: Message) -> None:
        message.http_session["seen"] = True
        await message.reply_channel.send(text(""))

    application = Application([*PAGES, route("http.request", visit)], secrets=SECRETS, user_loader=load_user)
    async with Client(application) as mallory, Client(application) as victim:
        await mallory.get("/")
        victim.cookies.update(mallory.cookies)
        assert (await victim.get("/login/1")).text == "Ada"
        assert (await victim.get("/whoami")).text == "Ada"
        assert (await mallory.get("/whoami")).text == "nobody"


async def test_another_user_gets_nothing_of_the_one_before(client: Client) -> None:
    seen = []

    @http_session_user
    async def visit(message: Message) -> None:
        seen.append(dict(message.http_session))
        message.http_session["secret of"] = message.user.name
        await message.reply_channel.send(text(""))

    application = Application([*PAGES, route("http.request", visit)], secrets=SECRETS, user_loader=load_user)
    async with Client(application) as client:
        await client.get("/login/1")
        await client.get("/")
        await client.get("/login/2")
        await client.get("/")
    assert seen == [{USER_ID: 1}, {USER_ID: 2}]


async def test_a_request_that_is_under_way_does_not_undo_a_logout() -> None:
    go_on = trio.Event()

    @http_session_user
    async def slow(message: Message) -> None:
        await go_on.wait()
        message.http_session["late"] = True
        await message.reply_channel.send(text("done"))

    application = Application([*PAGES, route("http.request", slow)], secrets=SECRETS, user_loader=load_user)
    async with Client(application) as client:
        await client.get("/login/1")
        cookies = dict(client.cookies)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, "/slow")
            await trio.testing.wait_all_tasks_blocked()
            await client.get("/logout")
            go_on.set()
        client.cookies.update(cookies)
        assert (await client.get("/whoami")).text == "nobody"


async def test_login_is_refused_when_the_response_has_begun() -> None:
    raised = []

    @http_session_user
    async def late(message: Message) -> None:
        await message.reply_channel.send({"status": 200, "content": b"", "more_content": True})
        try:
            await login(message, USERS[1])
        except SessionCookieUnavailable:
            raised.append(message.user)
        await message.reply_channel.send({"content": b""})

    async with Client(Application([route("http.request", late)], user_loader=load_user)) as client:
        await client.get("/")
    assert raised == [AnonymousUser()]


async def test_a_login_that_breaks_off_has_not_happened(caplog: pytest.LogCaptureFixture) -> None:
    store = MemorySessionStore()

    @http_session_user
    async def broken(message: Message) -> None:
        message.http_session["basket"] = [1]
        await login(message, USERS[1])
        raise LookupError("before the answer")

    @http_session
    async def visit(message: Message) -> None:
        message.http_session["basket"] = []
        await message.reply_channel.send(text(""))

    routing = [*PAGES, route("http.request", broken, path="^/broken$"), route("http.request", visit)]
    async with Client(
        Application(routing, session_store=store, secrets=SECRETS, user_loader=load_user)
    ) as client:
        assert (await client.get("/broken")).status == 500
        assert len(store) == 0
        await client.get("/")
        assert (await client.get("/broken")).status == 500
        assert next(iter(store._texts.values()))[1] == '{"basket":[]}'
        assert (await client.get("/whoami")).text == "nobody"


@pytest.mark.parametrize("attribute", ["http_user", "http_user_and_session"])
async def test_login_is_refused_where_no_cookie_can_be_set(client: Client, attribute: str) -> None:
    raised: list[bool] = []

    class Consumer(WebsocketConsumer):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            with pytest.raises(SessionCookieUnavailable, match="login gives it one"):
                await login(message, USERS[2])
            raised.append(True)

    routing = [*PAGES, Consumer.as_route({attribute: True})]
    async with Client(Application(routing, secrets=SECRETS, user_loader=load_user)) as client:
        for page in ("/whoami", "/login/1"):
            await client.get(page)
            async with client.websocket("/"):
                pass
        assert (await client.get("/whoami")).text == "Ada"
    assert raised == [True, True]


async def test_login_over_a_websocket_is_the_connections() -> None:
    class Consumer(Socket):
        channel_session_user = True

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            if text == "login":
                await login(self.message, USERS[1])
            elif text == "logout":
                await logout(self.message)
            await super().receive(text=text)

    application = Application([*PAGES, route_class(Consumer)], secrets=SECRETS, user_loader=load_user)
    async with Client(application) as client, client.websocket("/") as socket, client.websocket("/") as other:
        assert await other.receive() == await socket.receive() == "connect nobody"
        for command, expected in (("login", "Ada"), ("?", "Ada"), ("logout", "nobody"), ("?", "nobody")):
            await socket.send(command)
            assert await socket.receive() == f"receive {expected}"
        await socket.send("login")
        await socket.receive()
        await other.send("?")
        assert await other.receive() == "receive nobody"
        assert (await client.get("/whoami")).text == "nobody"
        await application.disconnect_user(USERS[1])
        assert (await socket.wait_closed()).code == 3000
        await other.send("?")
        assert await other.receive() == "receive nobody"


async def test_logout_over_a_websocket_ends_the_browsers_session() -> None:
    class Consumer(Socket):
        http_user_and_session = True

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            if text == "logout":
                await logout(self.message)
            await super().receive(text=text)

    application = Application([*PAGES, route_class(Consumer)], secrets=SECRETS, user_loader=load_user)
    async with Client(application) as client:
        await client.get("/login/1")
        async with client.websocket("/") as socket:
            assert await socket.receive() == "connect Ada"
            for command in ("logout", "?"):
                await socket.send(command)
                assert await socket.receive() == "receive nobody"
        assert (await client.get("/whoami")).text == "nobody"


@pytest.mark.parametrize("path", ["/user/", "/both/"])
async def test_a_logout_elsewhere_closes_the_sockets_of_the_session(client: Client, path: str) -> None:
    await client.get("/login/1")
    async with Client(client.application) as other, client.websocket(path) as socket:
        await other.get("/login/1")  # the same user's, and another session
        async with other.websocket(path) as others:
            assert await socket.receive() == await others.receive() == "connect Ada"
            await client.get("/logout")
            closed = await socket.wait_closed()
            assert (closed.code, closed.reason) == (3000, "logged out")
            await others.send("?")
            assert await others.receive() == "receive Ada"


async def test_with_both_sessions_a_change_of_the_user_elsewhere_is_seen_at_once() -> None:
    @http_session_user
    async def change(message: Message) -> None:  # without a new key
        message.http_session[USER_ID] = 2
        await message.reply_channel.send(text(""))

    routing = [*PAGES, route("http.request", change, path="^/change$"), route_class(HttpUserAndSession)]
    application = Application(routing, secrets=SECRETS, user_loader=load_user)
    async with Client(application) as client:
        await client.get("/login/1")
        async with client.websocket("/") as socket:
            assert await socket.receive() == "connect Ada"
            await client.get("/change")
            await socket.send("?")
            assert await socket.receive() == f"receive {USERS[2].name}"
            await application.disconnect_user(USERS[2])
            assert (await socket.wait_closed()).code == 3000


class Mixed(WebsocketConsumer):
    """Handlers that look at one session each, in function decorators."""

    @http_session_user
    async def connect(self, message: Message, **kwargs: Any) -> None: ...

    async def raw_receive(self, message: Message, **kwargs: Any) -> None:
        decorator = {
            "http": http_session_user,
            "channel": channel_session_user,
            "from_http": channel_session_user_from_http,
            "both": channel_and_http_session_user_from_http,
        }[message["text"]]

        @decorator
        async def handler(message: Message) -> None:
            await message.reply_channel.send({"text": name(message)})

        await handler(message)


async def _connect(message: Message) -> None: ...


async def _receive(message: Message) -> None:
    await message.reply_channel.send({"text": name(message)})


@pytest.mark.parametrize("later", ["http", "channel", "from_http", "both"])
async def test_a_handler_without_the_session_leaves_the_connection_in_its_users_group(later: str) -> None:
    application = Application([*PAGES, route_class(Mixed)], secrets=SECRETS, user_loader=load_user)
    async with Client(application) as client:
        await client.get("/login/1")
        async with client.websocket("/") as socket:
            for _ in range(2):
                await socket.send(later)
                assert await socket.receive() == "nobody"
            await application.disconnect_user(USERS[2])
            await socket.send(later)
            assert await socket.receive() == "nobody"
            await application.disconnect_user(USERS[1])
            assert (await socket.wait_closed()).code == 3000


@pytest.mark.parametrize("connect", [http_session_user, channel_session_user_from_http])
@pytest.mark.parametrize("receive", [http_session_user, channel_session_user, channel_session_user_from_http])
async def test_function_consumers_stay_in_their_users_group(connect: Any, receive: Any) -> None:
    routing = [
        *PAGES,
        route("websocket.connect", connect(_connect)),
        route("websocket.receive", receive(_receive)),
    ]
    application = Application(routing, secrets=SECRETS, user_loader=load_user)
    async with Client(application) as client:
        await client.get("/login/1")
        async with client.websocket("/") as socket:
            await socket.send("?")
            await socket.receive()
            await application.disconnect_user(USERS[1])
            assert (await socket.wait_closed()).code == 3000


async def test_a_user_switch_in_another_tab_brings_the_first_tab_back_with_its_new_cookie(
    client: Client,
) -> None:
    await client.get("/login/1")
    async with client.websocket("/user/") as socket:
        assert await socket.receive() == "connect Ada"
        await client.get("/login/2")
        closed = await socket.wait_closed()
        assert (closed.code, closed.reason) == (1012, "the session has a new key")
    async with client.websocket("/user/") as socket:
        assert await socket.receive() == f"connect {USERS[2].name}"


async def test_whoever_ends_the_session_over_its_socket_keeps_it_and_closes_the_others() -> None:
    class Consumer(Socket):
        http_user_and_session = True

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            if text == "logout":
                await logout(self.message)
            await super().receive(text=text)

    application = Application([*PAGES, route_class(Consumer)], secrets=SECRETS, user_loader=load_user)
    async with Client(application) as client:
        await client.get("/login/1")
        async with client.websocket("/") as own, client.websocket("/") as other:
            await own.send("logout")
            assert (await other.wait_closed()).code == 3000
            assert await own.receive() == "connect Ada"
            for _ in range(2):
                assert await own.receive() == "receive nobody"
                await own.send("?")


async def test_a_request_that_meets_a_login_does_not_take_the_new_cookie_away() -> None:
    """Its session has got a new key meanwhile, and its response is the later one."""
    inside, go_on = trio.Event(), trio.Event()

    @http_session_user
    async def slow(message: Message) -> None:
        inside.set()
        await go_on.wait()
        message.http_session["seen"] = 1
        await message.reply_channel.send(text(""))

    application = Application(
        [*PAGES, route("http.request", slow, path="^/slow$")], secrets=SECRETS, user_loader=load_user
    )
    async with Client(application) as client:
        await client.get("/login/1")
        async with trio.open_nursery() as nursery:
            responses = []

            async def ask() -> None:
                responses.append(await client.get("/slow"))

            nursery.start_soon(ask)
            await inside.wait()
            await client.get("/login/1")
            go_on.set()
        assert responses[0].header("set-cookie") is None
        assert (await client.get("/whoami")).text == "Ada"


async def test_login_and_logout_need_a_session() -> None:
    message = Message({}, Channel("test"))
    message.application = Application([])
    with pytest.raises(ValueError, match="needs a session"):
        await login(message, USERS[1])
    with pytest.raises(ValueError, match="needs a session"):
        await logout(message)
    for nobody in (None, AnonymousUser(), object()):
        with pytest.raises(ValueError, match="has no id"):
            await login(message, nobody)


# -- all of a user's sockets


async def test_disconnect_user_closes_all_sockets_of_the_user_and_no_other(client: Client) -> None:
    other = Client(client.application)
    async with other:
        await client.get("/login/1")
        await other.get("/login/2")
        async with (
            client.websocket("/user/") as first,
            client.websocket("/both/") as second,
            other.websocket("/user/") as grace,
        ):
            for socket in (first, second, grace):
                await socket.receive()
            await client.application.disconnect_user(USERS[1], code=4401, reason="elsewhere")
            for socket in (first, second):
                closed = await socket.wait_closed()
                assert (closed.code, closed.reason) == (4401, "elsewhere")
            await until(lambda: len(Socket.disconnects) == 2)
            assert Socket.disconnects == [("Ada", 4401, "elsewhere")] * 2
            await grace.send("?")
            assert await grace.receive() == "receive Grace"
        await client.application.disconnect_user(USERS[1])  # nobody is there, and that is no error


async def test_disconnect_user_says_what_is_wrong(client: Client) -> None:
    for nobody in (None, AnonymousUser(), object()):
        with pytest.raises(ValueError, match="has no id; a user has an attribute 'id'"):
            await client.application.disconnect_user(nobody)
    async with client.websocket("/user/"):
        await client.get("/login/1")
        async with client.websocket("/user/"):
            with pytest.raises(ValueError, match="close takes True or a code"):
                await client.application.disconnect_user(USERS[1], code=1006)


async def test_the_id_may_be_something_else() -> None:
    users = {"ada": {"name": "ada"}}

    async def loader(session: Session) -> Any:
        return users.get(session[USER_ID])

    @http_session_user
    async def enter(message: Message) -> None:
        await login(message, users["ada"])
        await message.reply_channel.send(text(""))

    class Consumer(WebsocketConsumer):
        http_user = True

    application = Application(
        [route("http.request", enter), route_class(Consumer)],
        secrets=SECRETS,
        user_loader=loader,
        user_id=lambda user: user["name"],
    )
    async with Client(application) as client:
        await client.get("/")
        async with client.websocket("/") as socket:
            await application.disconnect_user(users["ada"])
            assert (await socket.wait_closed()).code == 3000


async def test_a_logout_during_the_handshake_is_not_missed() -> None:
    """The session is read, the user logs out and is disconnected, and only then does the socket join the group."""
    loaded, go_on = trio.Event(), trio.Event()
    slow = False

    async def loader(session: Session) -> User | None:
        user = await load_user(session)
        if slow:
            loaded.set()
            await go_on.wait()
        return user

    application = Application([*PAGES, route_class(HttpUser)], secrets=SECRETS, user_loader=loader)
    async with Client(application) as client:
        await client.get("/login/1")

        async def connect() -> None:
            async with client.websocket("/") as socket:
                assert await socket.receive() == "connect nobody"
                await socket.send("?")
                assert await socket.receive() == "receive nobody"

        async with trio.open_nursery() as nursery:
            slow = True
            nursery.start_soon(connect)
            await loaded.wait()
            slow = False
            await client.get("/logout?everywhere")
            go_on.set()


async def test_disconnect_user_refuses_a_handshake_that_is_under_way() -> None:
    connecting, go_on = trio.Event(), trio.Event()

    class Consumer(WebsocketConsumer):
        http_user = True

        async def connect(self, message: Message, **kwargs: Any) -> None:
            connecting.set()
            await go_on.wait()

    application = Application([*PAGES, route_class(Consumer)], secrets=SECRETS, user_loader=load_user)
    async with Client(application) as client:
        await client.get("/login/1")

        async def connect() -> None:
            with pytest.raises(HandshakeRefused) as refused:
                async with client.websocket("/"):
                    pass
            assert refused.value.status == 403

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            await connecting.wait()
            await application.disconnect_user(USERS[1])
            go_on.set()


async def test_a_users_group_ends_with_the_connection(client: Client) -> None:
    await client.get("/login/1")
    async with client.websocket("/user/") as socket:
        await socket.receive()
        assert len(await Group(user_group(1)).members()) == 1
    await until(lambda: bool(Socket.disconnects))
    await trio.testing.wait_all_tasks_blocked()
    assert await Group(user_group(1)).members() == []


@pytest.mark.parametrize(
    "decorator",
    [
        channel_session_user,
        http_session_user,
        channel_session_user_from_http,
        channel_and_http_session_user_from_http,
        channel_session,
        http_session,
    ],
)
async def test_decorators_keep_the_name_and_pass_the_result_on(decorator: Callable[..., Any]) -> None:
    async def handler(message: Message, **kwargs: Any) -> Any:
        """What it does."""
        return kwargs

    wrapped: Callable[..., Awaitable[Any]] = decorator(handler)
    assert wrapped.__name__ == "handler"
    assert wrapped.__doc__ == "What it does."
    message = Message({}, Channel("test"), Channel("test!1"))
    message.application = Application([], channel_session_store=MemorySessionStore())
    assert await wrapped(message, a=1) == {"a": 1}
    route("http.request", wrapped)

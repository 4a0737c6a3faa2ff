"""A small program as users write them, with what a strict type checker asks for: rooms, pages, a login, a worker."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal

import attrs
import trio

from triochan import (
    Address,
    Application,
    Channel,
    Group,
    Message,
    Settings,
    every,
    include,
    route,
    route_class,
    serve,
)
from triochan.auth import USER_ID, AnonymousUser, channel_session_user, http_session_user, login, logout
from triochan.binding.collections import Collection
from triochan.binding.websockets import WebsocketBinding
from triochan.decorators import method_decorator
from triochan.exceptions import DenyConnection, InvalidContent
from triochan.generic import BaseConsumer
from triochan.generic.websockets import (
    JsonWebsocketConsumer,
    WebsocketConsumer,
    WebsocketDemultiplexer,
    WebsocketMultiplexer,
)
from triochan.http import (
    LATER,
    HttpError,
    before_response,
    cors,
    form,
    html,
    json,
    json_body,
    parse_cookies,
    query,
    redirect,
    set_cookie,
    static_files,
    text,
)
from triochan.middleware import Next
from triochan.security import allowed_hosts_only
from triochan.sessions import Session, channel_session, enforce_ordering, http_session

# -- values


@attrs.frozen
class Account:
    """Who has logged in."""

    id: int
    name: str
    is_authenticated: bool = True


@attrs.frozen
class Entry:
    """A line in the guest book."""

    text: str
    author: str = ""
    id: int | None = None


@attrs.frozen
class Say:
    type: Literal["say"]
    text: str


@attrs.frozen
class Leave:
    type: Literal["leave"]


@attrs.frozen
class Said:
    who: str
    text: str
    count: int


@attrs.define
class Count:
    """What a connection keeps."""

    messages: int = 0
    room: str = ""


@attrs.define
class Services:
    """What the application keeps."""

    accounts: dict[int, Account] = attrs.Factory(dict[int, Account])
    greeted: list[str] = attrs.Factory(list[str])
    requests: int = 0
    swept: int = 0

    async def sweep(self) -> None:
        self.swept += 1


entries = Collection(Entry)

# -- sockets


class Room(JsonWebsocketConsumer[Say | Leave, Said]):
    """A typed conversation; the content's class is that in the brackets."""

    strict_ordering = True
    http_user = True
    rate_limit = "20/s"
    State = Count

    def connection_groups(self, room: str, **kwargs: Any) -> list[str]:
        return [f"room.{room}"]

    async def connect(self, message: Message[Account | AnonymousUser], room: str, **kwargs: Any) -> None:
        if room == "closed":
            raise DenyConnection
        self.connection.state.room = room
        self.connection.start_soon(self.greet, room)

    async def greet(self, room: str) -> None:
        await Channel("greetings").send({"room": room})

    async def receive(self, content: Say | Leave, room: str, **kwargs: Any) -> None:
        state = self.connection.state
        state.messages += 1
        if isinstance(content, Leave):
            await self.close(1000, f"bye after {state.messages}")
            return
        user: Account | AnonymousUser = self.message.user
        who = user.name if isinstance(user, Account) else "somebody"
        said = Said(who, content.text, state.messages)
        await self.send(said)
        await self.group_send(f"room.{room}", said, but_me=True)

    async def disconnect(self, message: Message, room: str, **kwargs: Any) -> None:
        await Room.group_send(f"room.{room}", Said("", f"left: {message['code']}", 0))

    async def rate_limited(self, message: Message, room: str, **kwargs: Any) -> None:
        await self.close(1008, f"too much for {room}")

    async def content_invalid(self, error: InvalidContent) -> None:
        await self.message.reply_channel.send({"text": "; ".join(error.details)})


class Plain(JsonWebsocketConsumer):
    """JSON of any kind, from and to anybody."""

    groups = ["plain"]

    @method_decorator(allowed_hosts_only)
    async def connect(self, message: Message, **kwargs: Any) -> None:
        await self.send({"path": self.path})

    async def receive(self, content: Any, **kwargs: Any) -> None:
        await self.group_send("plain", {"said": content})

    @classmethod
    def decode_json(cls, text: str) -> Any:
        return super().decode_json(text.strip())


@method_decorator([allowed_hosts_only], name="connect")
class Echo(WebsocketConsumer):
    """Text and bytes."""

    compression = True

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        if text is not None:
            await self.send(text=text)
        else:
            await self.send(bytes=bytes, close=True)

    @channel_session
    async def disconnect(self, message: Message, **kwargs: Any) -> None:
        message.channel_session["over"] = True


class EntryBinding(WebsocketBinding):
    """Changes of the guest book, to those who read it."""

    model = entries
    stream = "entries"
    fields = ["text", "author"]

    @classmethod
    def group_names(cls, instance: Entry) -> Iterable[str]:
        return ["readers"]

    def has_permission(self, user: Account | AnonymousUser, action: str, pk: int | None) -> bool:
        return action == "create"


class Numbers(JsonWebsocketConsumer):
    """A stream's consumer."""

    async def receive(
        self, content: dict[str, int], multiplexer: WebsocketMultiplexer, **kwargs: Any
    ) -> None:
        await multiplexer.send({"sum": sum(content.values())})


class Streams(WebsocketDemultiplexer):
    """Several streams over one socket."""

    mapping = {"log": "logged"}
    consumers = {"entries": EntryBinding.consumer, "numbers": Numbers}
    groups = ["readers"]

    async def connect(self, message: Message, **kwargs: Any) -> None:
        await super().connect(message, **kwargs)
        await EntryBinding.send_list(message, ["readers"])
        await self.send("numbers", {"sum": 0})


@enforce_ordering(slight=True)
@channel_session_user
async def functions(message: Message[Account | AnonymousUser], name: str) -> None:
    """A function for all that happens to a socket."""
    if message.channel.name == "websocket.receive":
        user = message.user
        known = (isinstance(user, Account) and user.name) or "nobody"
        await message.reply_channel.send({"text": f"{name} {known}: {message['text']}"})


# -- pages


@http_session_user
async def log_in(message: Message[Account | AnonymousUser]) -> dict[str, Any]:
    services: Services = message.application.state
    fields = (await form(message, max_files=0)).fields
    account = Account(len(services.accounts) + 1, fields.get("name", ""))
    if not account.name:
        raise HttpError(400, "who are you?")
    services.accounts[account.id] = account
    await login(message, account)
    return redirect("/me")


@http_session_user
async def log_out(message: Message[Account | AnonymousUser]) -> dict[str, Any]:
    user = message.user
    await logout(message)
    if isinstance(user, Account):
        await message.application.disconnect_user(user)
    return redirect("/me")


@http_session_user
async def me(message: Message[Account | AnonymousUser]) -> dict[str, Any]:
    return text(message.user.name if isinstance(message.user, Account) else "nobody")


@http_session
async def visits(message: Message) -> dict[str, Any]:
    return text(str(count_visit(message.http_session)))


def count_visit(session: Session) -> int:
    visits: int = session.get("visits", 0) + 1
    session["visits"] = visits
    return visits


async def write(message: Message) -> dict[str, Any]:
    entry = json_body(message, Entry)
    made = await entries.insert(entry)
    return json(attrs.asdict(made), status=201)


async def order(message: Message) -> dict[str, Any]:
    wanted: Say | Leave = json_body(message, Say | Leave)
    others = json_body(message, list[Entry]) if query(message) else []
    return json({"type": wanted.type, "others": [each.text for each in others]})


async def found(message: Message) -> None:
    wanted = query(message).get("q", "")
    lines = [f"<li>{entry.text}</li>" for entry in entries if wanted in entry.text]
    await message.reply_channel.send(html("".join(lines), headers={"Cache-Control": "no-store"}))


class Book(BaseConsumer):
    """A class for pages."""

    method_mapping = {"http.request": "get"}

    async def get(self, message: Message, number: str) -> dict[str, Any]:
        entry = entries.get(int(number))
        if entry is None:
            raise HttpError(404, "there is no such entry")
        return text(entry.text)


# -- beside them


async def greeter(message: Message) -> None:
    """A worker on a channel of the program's own."""
    services: Services = message.application.state
    services.greeted.append(message["room"])
    await Group(f"room.{message['room']}").send({"text": '{"hello": true}'})


async def logged(message: Message) -> None:
    if message.reply_channel:
        await message.reply_channel.send({"text": '{"stream": "log", "payload": {"done": true}}'})


async def counting(message: Message, handler: Next) -> object:
    """A middleware."""
    if message.channel.name == "http.request":
        services: Services = message.application.state
        services.requests += 1
    return await handler(message)


async def timed(message: Message) -> object:
    """An answer with a cookie and a header of its own, by another task."""

    async def stamp(response: dict[str, Any]) -> dict[str, Any]:
        return {**response, "headers": [*response["headers"], ("Server-Timing", "total;dur=1")]}

    before_response(message, stamp)
    members = await Group("plain").members()
    cookie = set_cookie("seen", parse_cookies(message["headers"]).get("seen", "no"))
    message.application.nursery.start_soon(
        message.reply_channel.send, text(str(len(members)), headers=[cookie])
    )
    return LATER


async def load_user(session: Session) -> Account | None:
    accounts = application.state.accounts
    return accounts.get(session.get(USER_ID, 0))


@asynccontextmanager
async def lifespan(application: Application[Services]) -> AsyncGenerator[None]:
    application.state.accounts.clear()
    application.nursery.start_soon(every, 60, application.state.sweep)
    yield
    application.state.greeted.clear()
    application.state.requests = 0


pages = [
    route("http.request", log_in, path="^/login$", method="^POST$"),
    route("http.request", log_out, path="^/logout$", method="^POST$"),
    route("http.request", me, path="^/me$"),
    route("http.request", visits, path="^/visits$"),
    route("http.request", timed, path="^/timed$"),
    route("http.request", write, path="^/entries$", method="^POST$"),
    route("http.request", order, path="^/order$", method="^POST$"),
    route("http.request", found, path="^/entries$"),
    route_class(Book, path=r"^/entries/(?P<number>\d+)$"),
    static_files("/static/", "."),
]

sockets = [
    route_class(Room, path=r"^/rooms/(?P<room>[a-z]+)/$"),
    Plain.as_route({"slight_ordering": True}, path="^/plain/$"),
    Echo.as_route(path="^/echo/$"),
    route_class(Streams, path="^/streams/$"),
    route(["websocket.connect", "websocket.receive"], functions, path=r"^/functions/(?P<name>\w+)/$"),
]

routing = [
    include(pages),
    include(sockets, path="^/live"),
    route("greetings", greeter),
    route("logged", logged),
]

application = Application(
    routing,
    state=Services(),
    lifespan=lifespan,
    middleware=[counting, cors(["https://example.com"])],
    user_loader=load_user,
    allowed_hosts=["testserver"],
    secrets=["a secret of 16 characters or more"],
)


async def main(port: int = 0) -> None:
    """Serve it beside something else, for as long as that takes."""
    serving = partial(serve, application, port=port, settings=Settings(max_overlap=2))
    async with trio.open_nursery() as nursery:
        addresses: list[Address] = await nursery.start(serving)
        print("listening on", *addresses)
        nursery.cancel_scope.cancel()

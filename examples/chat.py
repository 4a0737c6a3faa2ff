"""A chat: rooms by URL, who is in them and what was said; its page, its sockets and its HTTP in one process.

Run it, and open http://127.0.0.1:8000/ in two windows::

    python -m triochan --app-dir examples chat:routing

What was said is kept in ``chat.sqlite3``, or in what ``CHAT_DATABASE`` says, and is there again when the server is.
Whatever speaks HTTP can post into a room, with a form or with JSON::

    curl http://127.0.0.1:8000/rooms/kitchen/messages -d name=Oven --data-urlencode text='The cake is ready.'
    curl http://127.0.0.1:8000/rooms/kitchen/messages -H 'Content-Type: application/json' \
        -d '{"name": "Oven", "text": "The cake is ready."}'

It answers 201 and the message, or 4xx and ``{"error": "what is wrong"}``.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import attrs
import trio

from triochan import Application, Message, route
from triochan.generic.websockets import JsonWebsocketConsumer
from triochan.http import client_route, html, json, static_files

PAGE = Path(__file__).parent / "chat_page"
DATABASE = os.environ.get("CHAT_DATABASE", "chat.sqlite3")
SCHEMA = "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, room, time, name, text, via)"

ROOM = r"(?P<room>[a-z0-9-]{1,30})"
LOBBY = "lobby"
MAX_NAME = 24
MAX_TEXT = 1000
HISTORY = 50
"""Messages that a room keeps for newcomers; at their longest 600 KB of JSON, which fits into an outbox."""
MAX_ROOMS = 200
"""Rooms that are kept; when there are more, those that were empty for longest are forgotten."""
MAX_KEPT = HISTORY * MAX_ROOMS
"""Messages that the file keeps; when there are more, the oldest are deleted."""


# -- The rooms. They live in this process's memory; groups do the sending, and a file has what was said.


@attrs.define
class Member:
    name: str
    connection: Any


@attrs.define
class Room:
    name: str
    members: dict[str, Member] = attrs.field(factory=dict)
    """By the key that each page makes for itself, so that one that comes back takes its own place."""
    messages: deque[dict[str, Any]] = attrs.field(factory=lambda: deque(maxlen=HISTORY))

    @property
    def group(self) -> str:
        return f"room.{self.name}"

    def free_name(self, name: str) -> str:
        """``name``, or ``name 2``, ``name 3``, … where it is taken."""
        taken = {member.name.casefold() for member in self.members.values()}
        candidates = itertools.chain([name], (f"{name} {number}" for number in itertools.count(2)))
        return next(each for each in candidates if each.casefold() not in taken)


rooms: dict[str, Room] = {}
writing = trio.CapacityLimiter(1)  # what is said is written down one after the other, in threads


def get_room(name: str) -> Room:
    """The room of that name, made when it is first asked for; ``rooms`` is in the order of their last use."""
    room = rooms.pop(name) if name in rooms else Room(name)
    if len(rooms) >= MAX_ROOMS:
        forgotten = next((each.name for each in rooms.values() if not each.members), None)
        if forgotten is not None:
            del rooms[forgotten]
    rooms[name] = room
    return room


def busy_rooms() -> dict[str, Any]:
    """What the lobby shows."""
    busy = sorted(((len(room.members), room.name) for room in rooms.values() if room.members), reverse=True)
    return {"type": "rooms", "rooms": [{"name": name, "people": people} for people, name in busy[:20]]}


@asynccontextmanager
async def lifespan(application: Application) -> AsyncIterator[None]:
    """Open the file, and put into the rooms what was said in them; nobody is here yet whom reading it might stop."""
    with closing(sqlite3.connect(DATABASE, check_same_thread=False)) as database:
        database.row_factory = sqlite3.Row
        database.execute(SCHEMA)
        for row in database.execute("SELECT * FROM messages ORDER BY id"):
            said = dict(row)
            get_room(said.pop("room")).messages.append(said)
        application.state.database = database
        yield


def write_down(database: sqlite3.Connection, said: dict[str, Any]) -> int | None:
    """Keep a message; its id."""
    with database:  # a transaction
        insert = "INSERT INTO messages VALUES (NULL, :room, :time, :name, :text, :via)"
        id = database.execute(insert, said).lastrowid
        database.execute("DELETE FROM messages WHERE id <= ? - ?", (id, MAX_KEPT))
    return id


async def say(room: Room, name: str, text: str, *, via: str, database: sqlite3.Connection) -> dict[str, Any]:
    """Keep a message, and send it to everybody in the room."""
    said: dict[str, Any] = {"time": time.time(), "name": name, "text": text, "via": via}
    row = {**said, "room": room.name}
    said["id"] = await trio.to_thread.run_sync(write_down, database, row, limiter=writing)
    room.messages.append(said)
    await Chat.group_send(room.group, {"type": "message", **said})
    return said


# -- What comes from outside is checked before anything is done with it. The page escapes what it shows.


def check_name(value: object) -> str:
    name = " ".join(value.split()) if isinstance(value, str) else ""
    if not (0 < len(name) <= MAX_NAME and name.isprintable()):
        raise ValueError(f"a name has 1 to {MAX_NAME} printable characters")
    return name


def check_text(value: object) -> str:
    text = "\n".join(value.splitlines()).strip() if isinstance(value, str) else ""
    if not 0 < len(text) <= MAX_TEXT:
        raise ValueError(f"a text has 1 to {MAX_TEXT} characters")
    return text


def first_values(query: bytes) -> dict[str, str]:
    """A query string or a form; of two fields with one name, the first counts."""
    return {key: values[0] for key, values in parse_qs(query.decode(), max_num_fields=10).items()}


# -- WebSockets


class Chat(JsonWebsocketConsumer):
    """One page in a room: ``/room/<room>?name=<name>&page=<the page's own key>``.

    It gets a ``welcome`` with all there is to know, then ``joined``, ``left`` and ``message`` as they
    happen. It sends ``{"type": "say", "text": …}``, and gets an ``error`` where that can't be done.
    """

    strict_ordering = True  # what somebody says stays in the order in which they said it

    @property
    def room(self) -> Room:
        return get_room(self.kwargs["room"])

    def connection_groups(self, **kwargs: Any) -> list[str]:
        return [self.room.group]

    async def connect(self, message: Message, **kwargs: Any) -> None:
        try:
            query = first_values(message["query_string"])
            wanted = check_name(query.get("name"))
            page = query.get("page", "")
            if not 16 <= len(page) <= 64:
                raise ValueError("a page has a key of its own, of 16 to 64 characters")
        except ValueError as error:
            # A browser doesn't tell its page why a handshake was refused: accept, and close with the reason.
            await self.send({"type": "error", "text": str(error)}, close=4400)
            return
        room = self.room
        before = room.members.pop(page, None)
        member = room.members[page] = Member(room.free_name(wanted), self.connection)
        self.connection.state.page, self.connection.state.member = page, member
        await self.send(
            {
                "type": "welcome",
                "you": member.name,
                "members": [each.name for each in room.members.values()],
                "messages": list(room.messages),
            }
        )
        if before is not None:  # this page's own connection, lost, and not known to be yet
            before.connection.close(4000, "replaced by a newer connection")
            await self.group_send(room.group, {"type": "left", "name": before.name})
        await self.group_send(room.group, {"type": "joined", "name": member.name})
        await self.group_send(LOBBY, busy_rooms())

    async def receive(self, content: Any, **kwargs: Any) -> None:
        member: Member | None = getattr(self.connection.state, "member", None)
        if member is None:
            return  # refused above; this was on its way already
        try:
            match content:
                case {"type": "say", "text": text}:
                    database = self.message.application.state.database
                    await say(self.room, member.name, check_text(text), via="page", database=database)
                case _:
                    raise ValueError('expected {"type": "say", "text": …}')
        except ValueError as error:
            await self.send({"type": "error", "text": str(error)})

    async def disconnect(self, message: Message, **kwargs: Any) -> None:
        room, state = self.room, self.connection.state
        member: Member | None = getattr(state, "member", None)
        if member is not None and room.members.get(state.page) is member:
            del room.members[state.page]
            await self.group_send(room.group, {"type": "left", "name": member.name})
            await self.group_send(LOBBY, busy_rooms())


class Lobby(JsonWebsocketConsumer):
    """The front page's live list of rooms that somebody is in."""

    groups = [LOBBY]

    async def connect(self, message: Message, **kwargs: Any) -> None:
        await self.send(busy_rooms())


# -- HTTP


async def show_lobby(message: Message) -> None:
    await send_page(message, "lobby.html")


async def show_room(message: Message, room: str) -> None:
    await send_page(message, "room.html")


async def send_page(message: Message, name: str) -> None:
    policy = {
        "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
    }
    content = await trio.Path(PAGE / name).read_text("utf-8")
    await message.reply_channel.send(html(content, headers=policy))


async def post_message(message: Message, room: str) -> None:
    """``POST /rooms/<room>/messages`` with ``name`` and ``text``."""
    if message["method"] != "POST":
        await fail(message, 405, "POST a name and a text", {"Allow": "POST"})
        return
    kind = dict(message["headers"]).get(b"content-type", b"").partition(b";")[0].strip().lower()
    try:
        if kind == b"application/json":
            fields = Chat.decode_json(message["body"].decode())
        elif kind == b"application/x-www-form-urlencoded":
            fields = first_values(message["body"])
        else:
            await fail(message, 415, "post application/json or application/x-www-form-urlencoded")
            return
        if not isinstance(fields, dict):
            raise ValueError('expected {"name": …, "text": …}')
        name, text = check_name(fields.get("name")), check_text(fields.get("text"))
    except ValueError as error:
        await fail(message, 400, str(error))
        return
    database = message.application.state.database
    said = await say(get_room(room), name, text, via="http", database=database)
    await message.reply_channel.send(json(said, 201))


async def fail(message: Message, status: int, error: str, headers: dict[str, str] | None = None) -> None:
    await message.reply_channel.send(json({"error": error}, status, headers or {}))


routing = Application(
    [
        # A page and its socket may share a path: the one is http.request, the other websocket.*
        Lobby.as_route(path=r"^/$"),
        route("http.request", show_lobby, path=r"^/$", method=r"^(?:GET|HEAD)$"),
        Chat.as_route(path=rf"^/room/{ROOM}$"),
        route("http.request", show_room, path=rf"^/room/{ROOM}$", method=r"^(?:GET|HEAD)$"),
        route("http.request", post_message, path=rf"^/rooms/{ROOM}/messages$"),
        static_files("/static/", PAGE),
        client_route(),
    ],
    lifespan=lifespan,
)

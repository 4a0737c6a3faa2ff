"""A chat: rooms by URL, who is in them and what was said; its page, its sockets and its HTTP on one port.

Run it, and open http://127.0.0.1:8000/ in two windows::

    python -m triochan --app-dir examples chat:routing

It is the same chat by several processes of one machine, with ``--workers 2`` and the extra ``triochan[valkey]``.

What was said is kept in ``chat.sqlite3``, or in what ``CHAT_DATABASE`` says, and is there again when the server is.
Whatever speaks HTTP can post into a room, with a form or with JSON::

    curl http://127.0.0.1:8000/rooms/kitchen/messages -d name=Oven --data-urlencode text='The cake is ready.'
    curl http://127.0.0.1:8000/rooms/kitchen/messages -H 'Content-Type: application/json' \
        -d '{"name": "Oven", "text": "The cake is ready."}'

It answers 201 and the message, or 4xx and ``{"error": "what is wrong"}``.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import trio

from triochan import Application, Group, Message, route
from triochan.exceptions import LayerUnavailable
from triochan.generic.websockets import JsonWebsocketConsumer
from triochan.http import client_route, html, json, static_files

PAGE = Path(__file__).parent / "chat_page"
DATABASE = os.environ.get("CHAT_DATABASE", "chat.sqlite3")
SCHEMA = """
    CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, room, time, name, text, via);
    CREATE INDEX IF NOT EXISTS messages_by_room ON messages (room);
"""

ROOM = r"(?P<room>[a-z0-9-]{1,30})"
LOBBY = "lobby"
MAX_NAME = 24
MAX_TEXT = 1000
HISTORY = 50
"""Messages of a room that newcomers are sent; at their longest 600 KB of JSON, which fits into an outbox."""
MAX_KEPT = 10_000
"""Messages that the file keeps; when there are more, the oldest are deleted."""


# -- What was said is in a file, who is in a room its presence: no process has anything that another one has not.

using_file = trio.CapacityLimiter(1)  # one after the other, in threads


@asynccontextmanager
async def lifespan(application: Application) -> AsyncIterator[None]:
    """Open the file; nobody is here yet whom that might stop."""
    with closing(sqlite3.connect(DATABASE, check_same_thread=False)) as database:
        database.row_factory = sqlite3.Row
        database.executescript(SCHEMA)
        application.state.database = database
        yield


def write_down(database: sqlite3.Connection, said: dict[str, Any]) -> int | None:
    """Keep a message; its id."""
    with database:  # a transaction
        insert = "INSERT INTO messages VALUES (NULL, :room, :time, :name, :text, :via)"
        id = database.execute(insert, said).lastrowid
        database.execute("DELETE FROM messages WHERE id <= ? - ?", (id, MAX_KEPT))
    return id


def look_up(database: sqlite3.Connection, room: str) -> list[dict[str, Any]]:
    """The latest messages of a room, the oldest first."""
    select = "SELECT id, time, name, text, via FROM messages WHERE room = ? ORDER BY id DESC LIMIT ?"
    return [dict(row) for row in database.execute(select, (room, HISTORY))][::-1]


async def say(room: str, name: str, text: str, *, via: str, database: sqlite3.Connection) -> dict[str, Any]:
    """Keep a message, and send it to everybody in the room."""
    said: dict[str, Any] = {"time": time.time(), "name": name, "text": text, "via": via}
    said["id"] = await trio.to_thread.run_sync(
        write_down, database, {**said, "room": room}, limiter=using_file
    )
    with suppress(LayerUnavailable):  # then layer_gap has it
        await Chat.group_send(f"room.{room}", {"type": "message", **said})
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


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


class Chat(JsonWebsocketConsumer):
    """One page in a room: ``/room/<room>?name=<name>&page=<the page's own key>``.

    It gets a ``welcome`` with all that was said, then each ``message``, and beside them the presence of
    ``room.<room>``: who is here, who comes and goes. It sends ``{"type": "say", "text": …}``, and gets an ``error``
    where that can't be done.
    """

    strict_ordering = True  # what somebody says stays in the order in which they said it

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
        # Others see the digest alone: who knows the key takes the page's place.
        room, key = self.kwargs["room"], digest(page)
        mine = Group(f"page.{key}")
        # This page's own connection may be lost, and not known to be yet; or its process may be dead: until that is
        # known, the key is present twice, which is one person.
        await mine.send({"close": 4000, "reason": "replaced by a newer connection"})
        await mine.add(message.reply_channel)
        name = await self.claim_name(wanted, key)
        await self.track(f"room.{room}", key, {"name": name})
        await self.presence(LOBBY).track(key, {"room": room})
        self.connection.state.name = name
        await self.welcome()

    async def claim_name(self, wanted: str, key: str) -> str:
        """``wanted``, or ``wanted 2``, ``wanted 3``, … where it is taken: names are unique in a room.

        Who is first in a name's own presence has it; all processes see them in the same order.
        """
        room = self.kwargs["room"]
        here = await self.presence(f"room.{room}").list()
        taken = {meta["name"].casefold() for each, metas in here.items() if each != key for meta in metas}
        for name in itertools.chain([wanted], (f"{wanted} {number}" for number in itertools.count(2))):
            if name.casefold() not in taken:
                claims = self.presence(f"name.{digest(room, name.casefold())}")
                await claims.track(key)
                if next(iter(await claims.list()), key) == key:
                    break
                await claims.untrack(key)  # somebody came in between
        return name

    async def welcome(self) -> None:
        database = self.message.application.state.database
        messages = await trio.to_thread.run_sync(look_up, database, self.kwargs["room"], limiter=using_file)
        name = self.connection.state.name
        await self.send({"type": "welcome", "you": name, "process": os.getpid(), "messages": messages})

    async def receive(self, content: Any, **kwargs: Any) -> None:
        name: str | None = getattr(self.connection.state, "name", None)
        if name is None:
            return  # refused above; this was on its way already
        try:
            match content:
                case {"type": "say", "text": text}:
                    database = self.message.application.state.database
                    await say(self.kwargs["room"], name, check_text(text), via="page", database=database)
                case _:
                    raise ValueError('expected {"type": "say", "text": …}')
        except ValueError as error:
            await self.send({"type": "error", "text": str(error)})

    async def layer_gap(self, message: Message, **kwargs: Any) -> None:
        """What was said while the engine was away is in the file."""
        if hasattr(self.connection.state, "name"):
            await self.welcome()


class Lobby(JsonWebsocketConsumer):
    """The front page's live list of rooms that somebody is in: the presence of ``lobby``."""

    async def connect(self, message: Message, **kwargs: Any) -> None:
        await self.presence(LOBBY).subscribe()


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
    said = await say(room, name, text, via="http", database=database)
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

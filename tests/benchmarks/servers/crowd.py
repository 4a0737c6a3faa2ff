"""One room for everybody, with presence: what ``scaling.py`` runs by ``python -m triochan crowd:routing --workers N``.

What is sent to one socket alone begins with ``!``; everything else is the room's.
"""

from __future__ import annotations

import os
import time
from typing import Any

import trio

from triochan import Channel, Group, Message, Presence, route, route_class
from triochan.exceptions import ChannelFull
from triochan.generic.websockets import WebsocketConsumer

ROOM = "room"


class Member(WebsocketConsumer):
    """Present from its connection on, and in the group when it asks for that: else each of N who come would be told of
    all who come after it."""

    async def connect(self, message: Message, /, **kwargs: Any) -> None:
        await self.presence(ROOM).track(message["query_string"].decode(), {"status": "here"})
        await self.send(f"!hello {os.getpid()}")

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        word, _, rest = (text or "").partition(" ")
        if word == "in":
            await Group(ROOM).add(self.message.reply_channel)
            await self.send("!in")
        elif word == "say":
            # As many as asked for, of 128 B each.
            for number in range(int(rest)):
                await self.group_send(ROOM, f"{number} {'x' * 128}"[:128])
        elif word == "jobs":
            for number in range(int(rest)):
                await self._job(number)
        else:
            began = time.perf_counter()
            metas = await Presence(ROOM).list()
            took = time.perf_counter() - began
            await self.send(f"!list {len(metas)} {sum(map(len, metas.values()))} {took:.6f}")

    async def _job(self, number: int) -> None:
        while True:
            try:
                await Channel("jobs").send({"number": number, "reply_channel": self.message.reply_channel})
            except ChannelFull:
                await trio.sleep(0.005)
            else:
                return


async def job(message: Message) -> None:
    await message.reply_channel.send({"text": "!done"})


class Tracked(WebsocketConsumer):
    """As most programs do it: present, in the group, and sent the whole list, at once. All in one lobby, or ten in a
    room."""

    async def connect(self, message: Message, /, **kwargs: Any) -> None:
        name = message["query_string"].decode()
        topic = "lobby" if message["path"] == "/lobby" else f"ten.{int(name[1:]) // 10}"
        await self.track(topic, name, {"status": "here"})
        await self.send(f"!hello {os.getpid()}")


routing = [
    route_class(Member, path="^/room$"),
    route_class(Tracked, path="^/(?:lobby|ten)$"),
    route("jobs", job),
]

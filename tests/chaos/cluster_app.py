"""What the processes of ``run.py --processes`` serve: rooms, presences, and jobs whose handling is written down.

``CHAOS_FOLDER`` names the folder for that: each process appends to a file of its own, which ``kill -9`` leaves.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import trio

import triochan.http
from triochan import Channel, Group, Message, route, route_class
from triochan.decorators import durable
from triochan.exceptions import ChannelFull, ConnectionClosed, LayerUnavailable
from triochan.generic.websockets import JsonWebsocketConsumer
from triochan.layers import current_layer
from triochan.layers.redis import RedisLayer

ME = os.getpid()
chance = random.Random(os.environ.get("CHAOS_SEED"))
written = os.open(Path(os.environ["CHAOS_FOLDER"], f"{ME}.jobs"), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
failed: set[str] = set()


class PlannedError(Exception):
    """Raised by a consumer so that its message is tried again."""


class Room(JsonWebsocketConsumer[dict[str, Any], dict[str, Any]]):
    """Each command has an ``id``, and one answer with it, which says ``away`` where the engine was."""

    def connection_groups(self, **kwargs: Any) -> list[str]:
        return [f"room.{kwargs['room']}"]

    async def connect(self, message: Message, room: str, name: str, **kwargs: Any) -> None:
        await self.track(f"room.{room}", name, {"process": ME})
        await self.send({"hello": ME, "channel": message.reply_channel.name})

    async def layer_gap(self, message: Message, **kwargs: Any) -> None:
        await self.send({"gap": message["seconds"]})

    async def receive(self, content: dict[str, Any], room: str, name: str, **kwargs: Any) -> None:
        began = trio.current_time()
        answer: dict[str, Any] = {"id": content["id"]}
        try:
            answer["value"] = await self._do(content, f"room.{room}", name)
        except LayerUnavailable:
            answer["away"] = True
        except ChannelFull:
            answer["full"] = True
        answer["seconds"] = trio.current_time() - began
        await self.send(answer)

    async def _do(self, content: dict[str, Any], room: str, name: str) -> Any:
        match content["do"]:
            case "say":
                return await self._say(room, name, content["numbers"])
            case "job" | "once" | "ask":
                job = {"job": content["job"], "reply_channel": self.message.reply_channel}
                await Channel(f"chaos.{content['do']}").send(job, delay=content.get("delay", 0))
            case "list":
                return [name for name, metas in (await self.presence(room).list()).items() for _ in metas]
            case "members":
                return await Group(room).members()
            case "update":
                await self.presence(room).update(name, {"process": ME, "number": content["number"]})
        return None

    async def _say(self, room: str, name: str, numbers: list[int]) -> list[int]:
        """Those that the engine has acknowledged."""
        said: list[int] = []
        try:
            for number in numbers:
                await self.group_send(room, {"from": name, "number": number})
                said.append(number)
        except LayerUnavailable:
            if not said:
                raise
        return said


def note(what: str, job: str) -> None:
    os.write(written, f"{what} {job}\n".encode())


@durable
async def do_job(message: Message) -> None:
    """One that takes a while, and fails now and then."""
    job = message["job"]
    note("begin", job)
    await trio.sleep(chance.random() / 4)
    if chance.random() < 0.1 and job not in failed:
        failed.add(job)
        raise PlannedError(job)
    note("end", job)


async def do_once(message: Message) -> None:
    note("once", message["job"])


async def answer(message: Message) -> None:
    try:
        await message.reply_channel.send({"text": f'{{"answer": "{message["job"]}"}}'})
    except (LayerUnavailable, ConnectionClosed):
        note("unanswered", message["job"])


async def census(message: Message) -> None:
    """What this process holds."""
    layer = current_layer()
    assert isinstance(layer, RedisLayer)
    names: Counter[str] = Counter()
    tasks = [trio.lowlevel.current_root_task()]
    while tasks:
        task = tasks.pop()
        if task is not None:
            names[task.name] += 1
            tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    # As many readers stay parked as handlers have waited at once.
    del names["triochan.readers.Readers._work"]
    held = {
        "process": ME,
        "tasks": names,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "endpoints": len(layer._endpoints),
        "subscriptions": len(layer.engine.subscriptions),
        "gaps": layer.gaps,
        "lost replies": layer.lost_replies,
        "dead letters": len(await layer.dead_letters()),
    }
    await message.reply_channel.send(triochan.http.json(held))


routing = [
    route_class(Room, path=r"^/room/(?P<room>[\w-]+)/(?P<name>[\w-]+)$"),
    route("chaos.job", do_job),
    route("chaos.once", do_once),
    route("chaos.ask", answer),
    route("http.request", census, path="^/census$"),
]

"""Uploads that other processes work on: progress comes back to the window, and any of the processes may be killed.

Run it, and open http://127.0.0.1:8000/:

    python -m triochan --app-dir examples workers:routing --workers 3 --channel-lease 3

Each process serves pages and takes jobs; docs/workers.md has the two kinds apart, on as many machines as one likes.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import attrs
import trio

from triochan import Application, Channel, Group, Message, Presence, route, route_class
from triochan.exceptions import ChannelFull
from triochan.generic import BaseConsumer
from triochan.generic.websockets import JsonWebsocketConsumer
from triochan.http import client_route, html, static_files

FOLDER = Path(__file__).parent
STEPS = 20
SECONDS = float(os.environ.get("WORKERS_SECONDS", "10"))
"""That a job takes, so that there is something to be seen."""
ME = os.getpid()
MY_END = f"jobs.end.{ME}"
"""A channel that this process alone takes from."""


@attrs.frozen
class Upload:
    type: Literal["upload"]
    job: UUID  # the window's own name for it
    text: str


@attrs.frozen
class Follow:
    """A window is back, and has jobs that were not done."""

    type: Literal["follow"]
    job: UUID


@attrs.frozen
class Kill:
    type: Literal["kill"]
    worker: int


@attrs.frozen
class Hello:
    serving: int  # the process that the window's socket is in


@attrs.frozen
class Taken:
    job: UUID
    taken: bool
    reason: str = ""


def followers(job: UUID | str) -> Group:
    """The windows that want to know of a job, in whichever process they are."""
    return Group(f"job.{job}")


@attrs.frozen
class Problem:
    error: str


class Window(JsonWebsocketConsumer[Upload | Follow | Kill, Hello | Taken | Problem]):
    strict_ordering = True
    rate_limit = "200/10s"  # a window that is back asks for all its jobs at once

    async def connect(self, message: Message, **kwargs: Any) -> None:
        await self.send(Hello(ME))

    async def layer_gap(self, message: Message, **kwargs: Any) -> None:
        await self.send(Hello(ME))  # and the page asks for its jobs again

    async def receive(self, content: Upload | Follow | Kill, **kwargs: Any) -> None:
        if isinstance(content, Kill):
            if str(content.worker) in await Presence("workers").list():
                await Channel(f"jobs.end.{content.worker}").send({})
            else:
                await self.send(Problem("there is no such worker"))
            return
        await followers(content.job).add(self.message.reply_channel)
        if isinstance(content, Upload):
            try:
                await Channel("jobs").send({"job": str(content.job), "text": content.text})
            except ChannelFull:
                full = "So many jobs wait already; try again in a while."
                await self.send(Taken(content.job, taken=False, reason=full))
            else:
                await self.send(Taken(content.job, taken=True))


class Work(BaseConsumer):
    """Counts words, slowly. A job whose worker dies is another one's: it is done when ``work`` has returned."""

    method_mapping = {"jobs": "work"}
    durable = True

    async def work(self, message: Message, **kwargs: Any) -> None:
        words = re.findall(r"\w+", message["text"].lower())
        counts: Counter[str] = Counter()
        for step in range(STEPS):
            await self.tell(done=step / STEPS)
            await trio.sleep(SECONDS / STEPS)
            counts.update(words[step::STEPS])
        most = [[word, count] for word, count in counts.most_common(5)]
        await self.tell(done=1, words=len(words), most=most)

    async def tell(self, **progress: Any) -> None:
        told = {"job": self.message["job"], "worker": ME, **progress}
        await followers(told["job"]).send({"text": json.dumps(told)})


async def die(message: Message) -> None:
    os.kill(ME, signal.SIGKILL)


async def page(message: Message) -> dict[str, Any]:
    return html((FOLDER / "page" / "index.html").read_text("utf-8"))


@asynccontextmanager
async def lifespan(application: Application) -> AsyncIterator[None]:
    async with Presence("workers").tracked(str(ME)):
        yield


routing = Application(
    [
        route_class(Window, path="^/jobs/$"),
        route_class(Work),
        route(MY_END, die),
        client_route(),
        static_files("/static/", FOLDER / "page"),
        route("http.request", page, path="^/$"),
    ],
    lifespan=lifespan,
)

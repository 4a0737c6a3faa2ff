"""The server of the chaos run, in a process of its own: rooms to chat in, and what it has to say about itself.

It prints its ports, of TCP and TLS, and serves until SIGTERM. ``GET /census`` tells what it holds and what it has
logged; the last such report is printed when it has ended.
"""

from __future__ import annotations

import logging
import os
import random
import resource
import signal
import ssl
import sys
import traceback
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

import triochan
import triochan.http
from triochan import Group, Message, Settings, route, route_class
from triochan.content import encode_json
from triochan.exceptions import ConnectionClosed
from triochan.generic.multiplexing import WebsocketMultiplexer
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer, WebsocketDemultiplexer
from triochan.layers import MemoryLayer

SETTINGS = Settings(
    head_timeout=2,
    body_timeout=4,
    keep_alive_timeout=2,
    handshake_timeout=1,
    response_timeout=2,
    max_message_size=256 * 1024,
    max_body_size=256 * 1024,
    close_timeout=1,
    ping_interval=1,
    ping_timeout=5,
    inbox_bytes=256 * 1024,
    stall_timeout=2,
    disconnect_timeout=3,
    outbox_limit=512 * 1024,
    shutdown_timeout=15,
    drain_spread=0.2,
    compression_threshold=64,
)
PLANNED = (
    "did not accept within",  # a handshake that nobody decides
    "was full for",  # handlers that wait for too long, and a client that goes on sending
    "were not handled before its end",  # what a client sent and did not wait for
)
"""What may be logged as an error: a client can bring it about, and the program should hear of it."""

chance = random.Random()
connected: Counter[str] = Counter()
disconnected: Counter[str] = Counter()
layer = MemoryLayer(SETTINGS)


class PlannedError(Exception):
    """Raised by a consumer because a client asked for it."""


@attrs.define
class Items:
    items: list[int]


class Ledger(logging.Handler):
    """Counts what is logged, and keeps what must not be."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.unplanned: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.counts[record.levelname.lower()] += 1
        if record.levelno < logging.ERROR:
            return
        message = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, PlannedError) or any(each in message for each in PLANNED):
            self.counts["planned errors"] += 1
        elif len(self.unplanned) < 50:
            where = "".join(traceback.format_exception(error))[-3000:] if error else ""
            self.unplanned.append(f"{record.name}: {message}\n{where}".rstrip())


ledger = Ledger()


class Accounted(WebsocketConsumer):
    async def connect(self, message: Message, **kwargs: Any) -> None:
        connected[message.reply_channel.name] += 1

    async def disconnect(self, message: Message, **kwargs: Any) -> None:
        if "clumsy" in kwargs.get("name", ""):
            await trio.sleep(chance.random() / 10)
        disconnected[message.reply_channel.name] += 1
        if "clumsy" in kwargs.get("name", "") and chance.random() < 0.5:
            raise PlannedError("disconnect")


class Room(Accounted):
    """For clients that compress and that don't.

    ``say …`` goes to all in the room, with the speaker's name; the other commands are for mischief.
    """

    compression = True

    def connection_groups(self, **kwargs: Any) -> list[str]:
        return [f"room.{kwargs['room']}"]

    async def receive(
        self,
        text: str | None = None,
        bytes: bytes | None = None,
        room: str = "",
        name: str = "",
        **kwargs: Any,
    ) -> None:
        command, _, rest = (text or "").partition(" ")
        if command == "say":
            await self.pause()
            await self.group_send(f"room.{room}", text=f"{name} {rest}")
        elif command == "crash":
            raise PlannedError("receive")
        elif command == "crash-later":
            self.connection.start_soon(self.crash_later)
        elif command == "sleep":
            await trio.sleep(float(rest))
        elif command == "stream":
            self.connection.start_soon(self.stream, int(rest))
        elif command == "flood":
            for _ in range(100):
                await self.send(text="x" * 20_000)
        elif command == "close":
            await self.send(text="last words")
            await self.close(4000, rest)
        elif command == "leave":
            await Group(f"room.{room}").discard(self.message.reply_channel)
        elif command == "join":
            await Group(f"side.{rest}").add(self.message.reply_channel)

    async def pause(self) -> None:
        """Before a message goes to the room."""

    async def crash_later(self) -> None:
        await trio.sleep(chance.random() / 20)
        raise PlannedError("a task")

    async def stream(self, size: int) -> None:
        while True:
            await self.connection.send("x" * size)
            await trio.lowlevel.checkpoint()


class StrictRoom(Room):
    strict_ordering = True

    async def pause(self) -> None:
        if chance.random() < 0.5:
            await trio.sleep(chance.random() / 200)


class SlightRoom(Room):
    slight_ordering = True

    async def connect(self, message: Message, **kwargs: Any) -> None:
        await trio.sleep(chance.random() / 20)
        await super().connect(message, **kwargs)


class HastyRoom(Room):
    cancel_on_disconnect = True
    overflow = "drop_oldest"

    async def pause(self) -> None:
        await trio.sleep(chance.random() / 100)


class Echo(Accounted):
    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.send(text=text, bytes=bytes)


class EchoJson(JsonWebsocketConsumer, Accounted):
    async def receive(self, content: Any, **kwargs: Any) -> None:
        await self.send(content)


class EchoStream(JsonWebsocketConsumer):
    async def receive(self, content: Any, multiplexer: WebsocketMultiplexer, **kwargs: Any) -> None:
        await multiplexer.send(content)


class Streams(WebsocketDemultiplexer, Accounted):
    """Streams to a channel that fills faster than it empties, to one that nobody listens to, and to a consumer."""

    mapping = {"full": "full", "lost": "lost"}
    consumers = {"echo": EchoStream}


async def take_slowly(message: Message) -> None:
    await trio.sleep(0.05)


class Typed(JsonWebsocketConsumer, Accounted):
    async def receive(self, content: Items | set[int], **kwargs: Any) -> None:
        await self.send(len(content.items) if isinstance(content, Items) else len(content))


class Compressing(Echo):
    compression = True
    strict_ordering = True


class Waiting(Echo):
    """Each handler waits once before it answers."""

    strict_ordering = True

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        if chance.random() < 0.5:
            await trio.lowlevel.checkpoint()
        else:
            await trio.sleep(chance.random() / 100)
        await self.send(text=text, bytes=bytes)


class Overlapping(Echo):
    """As many handlers as may wait at once; their answers come in any order."""

    compression = True

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await trio.sleep(chance.random() / 5)
        await self.send(text=text, bytes=bytes)


class Undecided(Accounted):
    async def connect(self, message: Message, **kwargs: Any) -> None:
        await trio.sleep_forever()


class Refusing(Accounted):
    async def connect(self, message: Message, **kwargs: Any) -> None:
        raise triochan.exceptions.DenyConnection


async def echo_body(message: Message) -> None:
    await message.reply_channel.send({"status": 200, "content": message["body"]})


async def read_form(message: Message) -> None:
    fields, _ = await triochan.http.form(message)
    await message.reply_channel.send({"status": 200, "content": b"%d" % len(fields)})


async def pieces(message: Message) -> None:
    head: dict[str, Any] = {"status": 200}
    for _ in range(200):
        await message.reply_channel.send({**head, "content": b"x" * 5000, "more_content": True})
        head = {}
    await message.reply_channel.send({"content": b"."})


async def begun(message: Message) -> None:
    """A response whose head comes at once, and whose end comes later."""
    await message.reply_channel.send({"status": 200, "content": b"begun", "more_content": True})
    await trio.sleep(chance.random() / 2)
    await message.reply_channel.send({"content": b", ended"})


async def slow(message: Message) -> None:
    await trio.sleep(chance.random())
    await message.reply_channel.send({"status": 200, "content": b"slow"})


async def crash(message: Message) -> None:
    raise PlannedError("http.request")


async def census(message: Message) -> None:
    await message.reply_channel.send(triochan.http.json(report()))


def report() -> dict[str, Any]:
    """What this process holds, has counted and logged."""
    names: Counter[str] = Counter()
    tasks = [trio.lowlevel.current_root_task()]
    while tasks:
        task = tasks.pop()
        if task is not None:
            names[task.name] += 1
            tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    # As many workers stay parked as handlers have waited at once.
    del names["triochan.readers.Readers._work"]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "tasks": {
            name: count for name, count in names.items() if name.startswith(("triochan.", "trio_websocket."))
        },
        "descriptors": len(os.listdir("/proc/self/fd")),
        "groups": {name: len(layer.groups.members(name)) for name in layer.groups.names()},
        "endpoints": len(layer._endpoints),
        "connected": connected.total(),
        "disconnected": disconnected.total(),
        "not once": [
            name for name in connected | disconnected if not connected[name] == disconnected[name] == 1
        ],
        "logged": dict(ledger.counts),
        "unplanned": ledger.unplanned,
        "peak KiB": usage.ru_maxrss,
        "seconds": usage.ru_utime + usage.ru_stime,
    }


def rooms(path: str, consumer: type[Room]) -> route_class:
    return route_class(consumer, path=rf"^/{path}/(?P<room>[\w-]+)/(?P<name>[\w-]+)$")


async def nothing(message: Message) -> None:
    await message.reply_channel.send({"status": 200})


routing = [
    # The first, so that the smallest request costs what a request does, and not what asking all the routes does.
    route("http.request", nothing, path="^/$"),
    rooms("room", Room),
    rooms("strict", StrictRoom),
    rooms("slight", SlightRoom),
    rooms("hasty", HastyRoom),
    route_class(Echo, path="^/echo$"),
    route_class(Compressing, path="^/deflate$"),
    route_class(Waiting, path="^/wait$"),
    route_class(Overlapping, path="^/overlap$"),
    route_class(EchoJson, path="^/json$"),
    route_class(Streams, path="^/streams$"),
    route_class(Typed, path="^/typed$"),
    triochan.http.static_files("/file/", Path(__file__).parent),
    route_class(Undecided, path="^/undecided$"),
    route_class(Refusing, path="^/refusing$"),
    route("http.request", echo_body, path="^/body$"),
    route("full", take_slowly),
    route("http.request", read_form, path="^/form$"),
    route("http.request", pieces, path="^/pieces$"),
    route("http.request", begun, path="^/begun$"),
    route("http.request", slow, path="^/slow$"),
    route("http.request", crash, path="^/crash$"),
    route("http.request", census, path="^/census$"),
]


def main() -> None:
    """Serve. Arguments: the seed, and the file with the certificate and its key."""
    chance.seed(sys.argv[1])
    logging.getLogger().addHandler(ledger)
    logging.getLogger().setLevel(logging.INFO)
    try:
        trio.run(serve, sys.argv[2])
    except ConnectionClosed:
        raise SystemExit("a ConnectionClosed came out of the server") from None


async def serve(certificate: str) -> None:
    """Two servers on one layer, which a cancellation stops, as it does in a program that has them as a part."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    common = partial(triochan.serve, routing, port=0, settings=SETTINGS, layer=layer)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            [plain] = await nursery.start(common)
            [secure] = await nursery.start(partial(common, ssl_context=tls))
            print(plain.port, secure.port, flush=True)
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break
    print(encode_json(report()), flush=True)


if __name__ == "__main__":
    main()

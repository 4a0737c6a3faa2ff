"""Clients that connect, chat, stall, send rubbish, reset and vanish, in all mixtures, against one server after another.

    python tests/chaos/run.py --seconds 60 --seed 1

Among them are clients that behave, and check each message that they should get: groups of friends in the rooms in
which the others make trouble, each message numbered by its sender; echoes of all sizes, compressed or not, by handlers
that wait or do not; HTTP requests, pipelined and half sent; over TCP and TLS. Every few seconds the server gets SIGTERM
in the middle of it, and another one is started. Nothing of what it owes may be lost then: each message that it had
received, as a later ping's pong shows, is answered before the 1001 comes; a response that has begun is whole; half a
request that is completed soon is answered.

At the end nothing of theirs may be lost, the server must hold no task, descriptor, endpoint or group member more than
at the start, must have run ``disconnect`` exactly once for each connection that it accepted, must have logged no error
that no client asked for, and must end with status 0 at SIGTERM. Then each kind of input that a client may choose is
sent alone, and may cost the server's processor no more than what is said in ``costs.py``. The exit status is 1 where
any of this is not so.

Everything happens on 127.0.0.1, in this process and in the server's, which it starts and ends. The seed decides what is
tried; in what order it comes to the server is up to the machine.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio
import trustme

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from raw_clients import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    close_frame,
    frame,
    get,
    handshake,
)

from chaos.clients import OFFER, Client, Closed, closed, deflated
from chaos.cluster import Cluster
from chaos.costs import Costs
from triochan.content import decode_json
from triochan.wire.listeners import Address

SERVER = Path(__file__).with_name("server.py")
LOST = (EOFError, trio.BrokenResourceError, trio.ClosedResourceError, OSError)
"""How the end of a connection shows; to a client that behaves it must not, but in a drain."""
SETTLING = 15.0
"""Seconds that the server may take to let go of the last client."""
SHUTDOWN = 17.0
"""Seconds that it may take to end at SIGTERM: its own deadline, and a little for a busy machine."""
MEMORY = 450 * 1024
"""KiB that the server may come to."""
LIFE = (4.0, 9.0)
"""Seconds between the start of a server and its SIGTERM."""
ROOMS = ["room", "strict", "slight"]
ECHOES = ["echo", "deflate", "wait", "overlap"]

Client.patience = 20


class Violation(Exception):
    """The server did not keep a promise."""


class Echoing:
    """What one client that is echoed has sent, and what has come back.

    Attributes:
        sent: whole messages that were sent.
        seen: how many of them the server has received for certain: the pong to a ping behind them has come.
        answered: those whose echo has come.
    """

    def __init__(self) -> None:
        self.sent = self.seen = self.answered = 0

    @property
    def owed(self) -> int:
        """Echoes that the server owes even if it shuts down now."""
        return max(0, self.seen - self.answered)


class Chaos:
    """One run.

    Args:
        seconds: how long trouble is made.
        seed: decides what is tried.
        troublemakers: clients that misbehave, at any time.
        costs: seconds of the server's processor that each kind of input is measured for; 0: none is.
    """

    def __init__(self, seconds: float, seed: int, troublemakers: int, costs: float) -> None:
        self.seconds = seconds
        self.costs = costs
        self.chance = random.Random(seed)
        self.seed = seed
        self.troublemakers = troublemakers
        self.addresses = [Address(), Address()]
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.over = False
        self.number = 0
        self.lives = 0
        self.up = trio.Event()
        self.stopping = trio.Event()
        self.echoing: set[Echoing] = set()
        self.certificate = Path()
        self.troubling = trio.CancelScope()
        self.settled = False

    def where(self, chance: random.Random) -> Address:
        """Over TCP, or TLS."""
        return self.addresses[chance.random() < 0.25]

    @property
    def address(self) -> Address:
        return self.addresses[0]

    async def websocket(self, chance: random.Random, path: str) -> Client:
        """One that behaves: over TCP or TLS, that offers compression or not."""
        return await Client.websocket(self.where(chance), path, [OFFER] if chance.random() < 0.5 else [])

    # -- clients that behave

    async def friends(self) -> None:
        """A few meet in a room, tell each other numbered messages, and leave; then the next few."""
        chance = random.Random(self.chance.random())
        while not self.over:
            self.number += 1
            room = f"{chance.choice(ROOMS)}/{chance.randrange(6)}"
            names = [f"friend-{self.number}-{each}" for each in range(chance.randint(2, 4))]
            count = chance.randint(5, 60)
            await self.behave(partial(self.meet, room, names, count, chance), f"friends in {room}")

    async def meet(self, room: str, names: list[str], count: int, chance: random.Random) -> None:
        present: list[str] = []
        everyone = trio.Event()
        spoken: list[str] = []
        all_said = trio.Event()

        async def friend(name: str) -> None:
            async with await self.websocket(chance, f"/{room}/{name}") as client:
                heard = dict.fromkeys(names, 0)

                async def talk() -> None:
                    await everyone.wait()
                    number = 0
                    while number < count:
                        batch = chance.randint(1, 10)
                        sizes = [chance.choice([0, 10, 100, 2000]) for _ in range(min(batch, count - number))]
                        data = b"".join(
                            client.say(TEXT, f"say {number + each} {'x' * size}")
                            for each, size in enumerate(sizes)
                        )
                        number += len(sizes)
                        cut = chance.randrange(len(data))
                        await client.send(data[:cut], data[cut:], pause=chance.random() / 50)
                    spoken.append(name)
                    if len(spoken) == len(names):
                        all_said.set()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(talk)
                    await client.send(frame(TEXT, "say here"))
                    while any(number < count for number in heard.values()) or name not in present:
                        message = await client.message()
                        assert isinstance(message, str)
                        sender, _, said = message.partition(" ")
                        if sender not in heard:
                            self.counts["messages of troublemakers heard"] += 1
                        elif said == "here":
                            if sender == name:
                                present.append(name)
                                if len(present) == len(names):
                                    everyone.set()
                        else:
                            number = int(said.partition(" ")[0])
                            if number != heard[sender]:
                                raise Violation(f"{name} heard {number} of {sender}, not {heard[sender]}")
                            heard[sender] += 1
                            self.counts["messages checked"] += 1
                    await all_said.wait()
                code = chance.choice([1000, 1001, 4321])
                await client.send(close_frame(code, b"bye"))
                answer = await client.closing()
                if answer[0] == 1001 != code:
                    raise Closed(*answer)  # a drain's close frame has crossed ours
                if answer[0] != code:
                    raise Violation(f"{name} closed with {code} and was answered {answer}")
                if rest := await client.rest():
                    raise Violation(f"{rest!r} came behind the close frame")

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(friend, name)
        self.counts["meetings of friends"] += 1

    async def echoes(self) -> None:
        """Whatever is sent comes back, in order, however it is cut."""
        chance = random.Random(self.chance.random())
        while not self.over:
            path = chance.choice(ECHOES)
            await self.behave(partial(self.echo, path, chance), f"an echo on {path}")

    async def echo(self, path: str, chance: random.Random) -> None:
        async with await self.websocket(chance, f"/{path}") as client:
            echoing = Echoing()
            self.echoing.add(echoing)
            try:
                for _ in range(chance.randint(1, 20)):
                    await self.echo_some(client, echoing, path, chance)
                    if self.over:
                        break
            except Closed as end:
                if end.code == 1001 and echoing.owed:
                    raise Violation(
                        f"{echoing.owed} echoes that were owed had not come before {end}"
                    ) from None
                if end.code == 1001:
                    self.counts["echoing sockets closed by a drain, with all that was owed"] += 1
                raise
            except LOST as error:
                # A client that has not yet read 1001 may be at its sending when the connection ends.
                if echoing.owed:
                    raise Violation(f"{echoing.owed} echoes that were owed did not come: {error!r}") from None
                raise
            finally:
                self.echoing.discard(echoing)
            await client.send(close_frame())
            while True:
                opcode, payload = await client.frame()
                if opcode == PING:
                    continue
                if opcode != CLOSE or closed(payload).code not in (1000, 1001):
                    raise Violation(f"a close with 1000 was answered {opcode}, {payload!r}")
                return

    async def echo_some(self, client: Client, echoing: Echoing, path: str, chance: random.Random) -> None:
        """Send a few messages in one go, and wait for all of them to come back."""
        data = b""
        expected: list[str | bytes] = []
        pongs = 0

        def ping() -> bytes:
            nonlocal pongs
            pongs += 1
            return frame(PING, str(echoing.sent))

        for _ in range(chance.randint(1, 30)):
            size = chance.choice(
                [0, 1, 125, 126, 1000, 65535, 65536] if chance.random() < 0.2 else [5, 50, 500]
            )
            payload = chance.randbytes(size) if chance.random() < 0.3 else "y" * size
            opcode = TEXT if isinstance(payload, str) else BINARY
            if size > 1 and chance.random() < 0.2:
                cut = chance.randrange(size)
                data += frame(opcode, payload[:cut], final=False)
                if chance.random() < 0.3:
                    data += ping()
                data += frame(0, payload[cut:])
            else:
                data += client.say(opcode, payload)
            echoing.sent += 1
            expected.append(payload)
            if chance.random() < 0.1:
                data += ping()
        data += ping()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.send_in_pieces, client, data, chance)
            try:
                await self.hear(client, echoing, expected, pongs, in_order=path != "overlap")
            except BaseException:
                # That is what this client has to tell, and not that it could send no more.
                nursery.cancel_scope.cancel()
                raise

    async def hear(
        self, client: Client, echoing: Echoing, expected: list[str | bytes], pongs: int, *, in_order: bool
    ) -> None:
        while expected or pongs:
            opcode, got = await client.frame()
            if opcode == PONG:
                pongs -= 1
                echoing.seen = int(got)
            elif opcode == PING:
                await client.pong(got)
            elif opcode == CLOSE:
                raise closed(got)
            else:
                echo = got.decode() if opcode == TEXT else got
                if echo not in expected if not in_order else expected[:1] != [echo]:
                    raise Violation(f"an echo of {got[:40]!r}, not of {str(expected[:1])[:40]}")
                expected.remove(echo)
                echoing.answered += 1
                self.counts["echoes checked"] += 1

    async def send_in_pieces(self, client: Client, data: bytes, chance: random.Random) -> None:
        pieces: list[bytes] = []
        while data:
            cut = chance.choice([1, 100, 1000, 100_000, len(data)])
            pieces.append(data[:cut])
            data = data[cut:]
        await client.send(*pieces, pause=chance.choice([0, 0, 0.001]))

    async def requests(self) -> None:
        chance = random.Random(self.chance.random())
        while not self.over:
            await self.behave(partial(self.request, chance), "a request")

    async def request(self, chance: random.Random) -> None:
        """Requests on one connection, several of them under way at once."""
        async with await Client.connect(self.where(chance)) as client:
            for _ in range(chance.randint(1, 10)):
                expected: list[tuple[bytes, bytes | None]] = []
                data = b""
                for _ in range(chance.randint(1, 5)):
                    kind = chance.randrange(6)
                    if kind == 0:
                        data += b"GET /begun HTTP/1.1\r\nHost: x\r\n\r\n"
                        expected.append((b"GET", b"begun, ended"))
                    elif kind == 1:
                        data += b"HEAD /body HTTP/1.1\r\nHost: x\r\n\r\n"
                        expected.append((b"HEAD", b""))
                    else:
                        body = chance.randbytes(chance.choice([0, 1, 100, 50_000]))
                        expected.append((b"POST", body))
                        if kind == 2:
                            half = len(body) // 2
                            chunks = b"".join(
                                b"%x\r\n%b\r\n" % (len(piece), piece)
                                for piece in (body[:half], body[half:])
                                if piece
                            )
                            head = b"Transfer-Encoding: chunked\r\n\r\n"
                            body = chunks + b"0\r\n\r\n"
                        else:
                            head = b"Content-Length: %d\r\n\r\n" % len(body)
                        data += b"POST /body HTTP/1.1\r\nHost: x\r\n" + head + body
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.send_in_pieces, client, data, chance)
                    try:
                        for method, wanted in expected:
                            if not await self.check_answer(client, method, wanted):
                                raise EOFError("the connection was not kept alive")
                    except BaseException:
                        nursery.cancel_scope.cancel()
                        raise
                if chance.random() < 0.1:
                    await trio.sleep(chance.random())

    async def check_answer(self, client: Client, method: bytes, wanted: bytes | None) -> bool:
        """Whether another answer may follow. None has come yet: EOFError; it breaks off: a violation."""
        while not client.buffer:
            if not await client._more():
                raise EOFError("the server ended the connection between two responses")
        try:
            answer = await client.answer(bodiless=method == b"HEAD")
        except LOST as error:
            raise Violation(f"a response to {method!r} broke off: {error!r}"[:300]) from None
        if (answer.status, answer.body) != (200, wanted):
            raise Violation(f"a request was answered {answer.status}, {answer.body[:40]!r}")
        self.counts["responses checked"] += 1
        return "connection" not in answer or answer["connection"].lower() != "close"

    async def halves(self) -> None:
        """Half a request, that the server has seen; the rest comes in the drain."""
        chance = random.Random(self.chance.random())
        while not self.over:
            await self.behave(partial(self.half, chance), "half a request")

    async def half(self, chance: random.Random) -> None:
        async with await Client.connect(self.where(chance)) as client:
            body = chance.randbytes(1000)
            head = b"POST /body HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n"
            await client.send(head)
            if (answer := await client.head()).status != 100:
                raise Violation(f"Expect: 100-continue was answered {answer.status}")
            await client.send(body[:500])
            with trio.move_on_after(1):  # body_timeout is 4 s
                await self.stopping.wait()
                self.counts["requests that were half there in a drain"] += 1
            await trio.sleep(chance.random() / 10)
            await client.send(body[500:])
            await self.check_answer(client, b"POST", body)

    async def behave(self, act: Callable[[], Awaitable[None]], what: str) -> None:
        """What befalls a client that behaves is the server's fault; but that a drain ends it."""
        await self.up.wait()
        life, stopping = self.lives, self.stopping
        try:
            await act()
        except* Violation as group:
            self.violations += [f"{what}: {error}" for error in leaves(group)]
        except* Closed as group:
            for error in leaves(group):
                if stopping.is_set() and getattr(error, "code", 0) == 1001:
                    self.counts["sockets that behave, closed by a drain"] += 1
                else:
                    self.violations.append(f"{what}: {error}")
        except* LOST as group:
            if stopping.is_set():
                self.counts["clients that behave, cut off by a drain"] += 1
            else:
                self.violations += [f"{what}, in life {life}: {told(error)}" for error in leaves(group)]
        except* (trio.TooSlowError, AssertionError, ValueError) as group:
            self.violations += [f"{what}: {told(error)}" for error in leaves(group)]

    # -- clients that do not

    async def trouble(self) -> None:
        """One kind of mischief after the other."""
        chance = random.Random(self.chance.random())
        kinds = [
            self.vanish, self.vanish, self.stall, self.talk_rubbish, self.mangle, self.trickle, self.flood_with_pings,
            self.send_too_much, self.close_and_stay, self.misuse_http, self.provoke, self.provoke, self.be_closed,
            self.half_close, self.loiter, self.come_and_go, self.let_wait, self.leave_half, self.compress_wrongly,
        ]  # fmt: skip
        while True:
            await self.up.wait()
            kind = chance.choice(kinds)
            self.counts[kind.__name__.replace("_", " ")] += 1
            try:
                with trio.move_on_after(chance.choice([0.01, 0.1, 1, 4])):
                    await kind(chance)
            except* (*LOST, trio.TooSlowError, AssertionError, ValueError):
                pass  # it got what it deserves, or what it can't read

    def path(self, chance: random.Random, name: str = "clumsy") -> str:
        kind = chance.choice([*ROOMS, *ROOMS, "hasty", "echo", "json"])
        if kind in ("echo", "json"):
            return f"/{kind}"
        return f"/{kind}/{chance.randrange(6)}/{name}-{chance.randrange(1000)}"

    def say(self, chance: random.Random) -> bytes:
        return frame(TEXT, f"say {'z' * chance.choice([1, 100, 1000])}")

    def leave(self, client: Client, chance: random.Random) -> None:
        if chance.random() < 0.5:
            client.reset()
        else:
            client.vanish()

    async def vanish(self, chance: random.Random) -> None:
        """Go at any point of a conversation."""
        pieces = [
            handshake(self.path(chance)),
            *(self.say(chance) for _ in range(chance.randrange(5))),
            frame(PING, "x"),
            frame(TEXT, "flood"),
            close_frame(),
        ]
        data = b"".join(pieces)
        client = await Client.connect(self.where(chance))
        try:
            cut = chance.randrange(len(data) + 1)
            await client.send(data[:cut])
            if chance.random() < 0.5:
                await trio.sleep(chance.random() / 10)
        finally:
            self.leave(client, chance)

    async def stall(self, chance: random.Random) -> None:
        """Join a room, and read nothing."""
        client = await Client.websocket(self.where(chance), self.path(chance), receive_buffer=4096)
        try:
            if chance.random() < 0.5:
                await client.send(frame(TEXT, f"stream {chance.choice([100, 70_000])}"))
            while True:
                await client.send(self.say(chance))
                await trio.sleep(chance.random() / 5)
        finally:
            self.leave(client, chance)

    async def talk_rubbish(self, chance: random.Random) -> None:
        """Bytes that mean nothing, before the handshake or behind it."""
        client = await Client.connect(self.where(chance))
        try:
            if chance.random() < 0.7:
                await client.send(handshake(self.path(chance)))
            for _ in range(chance.randint(1, 5)):
                await client.send(chance.randbytes(chance.choice([1, 10, 1000, 100_000])))
            await client.rest()
        finally:
            self.leave(client, chance)

    async def mangle(self, chance: random.Random) -> None:
        """A conversation with some bytes changed, dropped or doubled."""
        data = bytearray(handshake(self.path(chance)))
        data += self.say(chance) * 3 + frame(BINARY, "x" * 300) + frame(PING) + close_frame(1000, b"bye")
        for _ in range(chance.randint(1, 10)):
            at = chance.randrange(len(data))
            how = chance.randrange(4)
            if how == 0:
                data[at] = chance.randrange(256)
            elif how == 1:
                data[at] ^= 1 << chance.randrange(8)
            elif how == 2:
                del data[at : at + chance.randint(1, 5)]
            else:
                data[at:at] = data[at : at + chance.randint(1, 50)]
        client = await Client.connect(self.where(chance))
        try:
            await self.send_in_pieces(client, bytes(data), chance)
            await client.rest()
        finally:
            self.leave(client, chance)

    async def trickle(self, chance: random.Random) -> None:
        """Byte by byte: a head, or frames."""
        client = await Client.connect(self.where(chance))
        try:
            data = handshake(self.path(chance))
            if chance.random() < 0.5:
                await client.send(data)
                data = b""
            for byte in data + self.say(chance) * 10 + frame(TEXT, "x" * 200, final=False):
                await client.send(bytes([byte]))
                await trio.sleep(chance.random() / 50)
        finally:
            self.leave(client, chance)

    async def flood_with_pings(self, chance: random.Random) -> None:
        client = await Client.websocket(self.where(chance), self.path(chance), receive_buffer=4096)
        try:
            for _ in range(50):
                await client.send(frame(chance.choice([PING, PONG]), "p" * chance.randrange(126)) * 100)
        finally:
            self.leave(client, chance)

    async def send_too_much(self, chance: random.Random) -> None:
        """Messages at the limit and over it, and more than any handler takes."""
        client = await Client.websocket(self.where(chance), self.path(chance))
        try:
            size = chance.choice([200_000, 256 * 1024, 256 * 1024 + 1, 2_000_000])
            if chance.random() < 0.5:
                await client.send(frame(TEXT, f"sleep {chance.random() / 2}") * 10)
            for _ in range(20):
                await client.send(frame(BINARY, b"x" * size))
            await client.rest()
        finally:
            self.leave(client, chance)

    async def close_and_stay(self, chance: random.Random) -> None:
        """A close frame, and no end of the connection; perhaps with much unread."""
        client = await Client.websocket(self.where(chance), self.path(chance), receive_buffer=4096)
        try:
            if chance.random() < 0.6:
                await client.send(frame(TEXT, chance.choice(["flood", "stream 60000", "sleep 0.5"])))
                await trio.sleep(chance.random() / 5)
            await client.send(
                chance.choice([close_frame(), close_frame(None), frame(CLOSE, b"x"), close_frame(999)])
            )
            if chance.random() < 0.5:
                await client.send(self.say(chance) * 10 + frame(PING) * 50)
            await trio.sleep(10)
        finally:
            self.leave(client, chance)

    async def misuse_http(self, chance: random.Random) -> None:
        chunked = b"Transfer-Encoding: chunked\r\n\r\n"
        requests = [
            b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf",
            b"POST /body HTTP/1.1\r\nHost: x\r\n" + chunked + b"5\r\nhal",
            b"POST /body HTTP/1.1\r\nHost: x\r\n" + chunked + b"zzz\r\n",
            b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 500_000,
            b"POST /body HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n",
            b"GET /pieces HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /pieces HTTP/1.0\r\n\r\n",
            b"HEAD /pieces HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /crash HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /" + b"x" * 20_000,
            b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 100,
            b"rubbish\r\n\r\n",
            handshake("/nowhere"),
            handshake("/refusing"),
            handshake("/echo", without="Sec-WebSocket-Key"),
            handshake("/echo"),
        ]
        client = await Client.connect(self.where(chance), receive_buffer=chance.choice([4096, None]))
        try:
            for _ in range(chance.randint(1, 4)):
                await client.send(chance.choice(requests))
                if chance.random() < 0.3:
                    await client.take(1)  # of whichever answer it is: they may be pipelined, or to a HEAD
            if chance.random() < 0.7:
                await client.rest()
            else:
                await trio.sleep(chance.random())
        finally:
            self.leave(client, chance)

    async def provoke(self, chance: random.Random) -> None:
        """Make handlers raise, wait and close, with more behind it."""
        kind = chance.choice([*ROOMS, "hasty"])
        client = await Client.websocket(self.where(chance), f"/{kind}/{chance.randrange(6)}/clumsy-provoker")
        commands = [
            "crash",
            "crash-later",
            "sleep 0.01",
            "sleep 0.1",
            "close why",
            "stream 10",
            "leave",
            "join 1",
            "say hello",
        ]
        try:
            for _ in range(chance.randint(1, 100)):
                await client.send(frame(TEXT, chance.choice(commands)))
                if chance.random() < 0.1:
                    await trio.sleep(chance.random() / 20)
            if chance.random() < 0.5:
                await client.closing()
                await client.send(frame(PING) + self.say(chance))
                await client.send(close_frame(4000))
                await client.rest()
        finally:
            self.leave(client, chance)

    async def be_closed(self, chance: random.Random) -> None:
        """Let the server close, and answer late, wrongly, or not at all; the last words must have come."""
        client = await Client.websocket(self.where(chance), f"/strict/{chance.randrange(6)}/clumsy-closed")
        try:
            await client.send(frame(TEXT, "close with a reason"))
            words: list[str | bytes] = []
            try:
                while True:
                    words.append(await client.message())
            except EOFError:
                pass
            if words[-1:] != ["last words"]:
                self.violations.append(f"the last words before a close were {words[-1:]}")
            await client.send(
                chance.choice([b"", b"\x81\x05hello", frame(PING) * 40, self.say(chance) * 100])
            )
            if chance.random() < 0.5:
                await client.send(chance.choice([close_frame(4000), close_frame(1006), close_frame(None)]))
            await client.rest()
        finally:
            self.leave(client, chance)

    async def half_close(self, chance: random.Random) -> None:
        """Say that nothing more comes, and read on."""
        client = await Client.connect(self.address)  # TLS has no half
        try:
            await client.send(
                chance.choice([handshake(self.path(chance)), b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n", b""])
            )
            await client.stream.send_eof()  # type: ignore[attr-defined]
            await client.rest()
        finally:
            self.leave(client, chance)

    async def loiter(self, chance: random.Random) -> None:
        """Connect, and do nothing, answering no pings; or leave a handshake undecided."""
        client = await Client.connect(self.where(chance))
        try:
            if chance.random() < 0.7:
                await client.send(handshake(chance.choice(["/undecided", self.path(chance)])))
            await trio.sleep(10)
        finally:
            self.leave(client, chance)

    async def come_and_go(self, chance: random.Random) -> None:
        """Join and leave as fast as it goes."""
        for _ in range(30):
            client = await Client.websocket(self.where(chance), self.path(chance), behind=self.say(chance))
            self.leave(client, chance)

    async def let_wait(self, chance: random.Random) -> None:
        """Keep handlers busy and the inbox full, and go, or stay."""
        client = await Client.websocket(
            self.where(chance), f"/{chance.choice(ROOMS)}/{chance.randrange(6)}/clumsy-waiter"
        )
        try:
            await client.send(frame(TEXT, f"sleep {chance.choice([0.01, 0.1, 0.3])}") * 20)
            await client.send((frame(TEXT, "say x") + frame(PING)) * 100)
            if chance.random() < 0.5:
                await client.send(close_frame())
                await client.rest()
            elif chance.random() < 0.5:
                await trio.sleep(4)
        finally:
            self.leave(client, chance)

    async def leave_half(self, chance: random.Random) -> None:
        """Half a head, half a body, half a frame, half a compressed message; and no more of it."""
        client = await Client.connect(self.where(chance))
        try:
            opened = handshake(f"/{chance.choice(ECHOES)}", [OFFER])
            whole = chance.choice(
                [
                    handshake("/echo"),
                    b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + bytes(1000),
                    b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n"
                    + bytes(1000),
                ]
            )
            half = whole[: chance.randrange(len(whole))]
            if chance.random() < 0.5:
                message = frame(BINARY, deflated(chance.randbytes(1000)), reserved=4)
                half = opened + message[: chance.randrange(len(message))]
            await client.send(half)
            await trio.sleep(10)
        finally:
            self.leave(client, chance)

    async def compress_wrongly(self, chance: random.Random) -> None:
        """Bombs, what is no deflate data, thousands of empty streams; compressed control frames."""
        client = await Client.websocket(self.where(chance), self.path(chance), [OFFER])
        try:
            payload = chance.choice(
                [
                    deflated(bytes(chance.choice([200_000, 256 * 1024, 10_000_000]))),
                    chance.randbytes(100),
                    b"\x03\x00" * 1000,
                    deflated(b"say x")[:-1],
                    b"",
                ]
            )
            opcode = chance.choice([TEXT, BINARY, BINARY, PING, 0])
            for _ in range(chance.randint(1, 20)):
                await client.send(frame(opcode, payload[:125] if opcode == PING else payload, reserved=4))
            await client.rest()
        finally:
            self.leave(client, chance)

    # -- the run

    async def census(self) -> dict[str, Any]:
        return dict(decode_json((await get(self.address, "/census")).body.decode()))

    async def run(self) -> None:
        authority = trustme.CA()
        Client.tls = ssl.create_default_context()
        authority.configure_trust(Client.tls)
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            self.certificate = Path(folder) / "certificate.pem"
            issued = authority.issue_cert("127.0.0.1")
            self.certificate.write_bytes(
                issued.private_key_pem.bytes() + b"".join(each.bytes() for each in issued.cert_chain_pems)
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.troubles)
                async with trio.open_nursery() as behaving:
                    kinds = ((self.friends, 8), (self.echoes, 8), (self.requests, 4), (self.halves, 2))
                    for act, how_many in kinds:
                        for _ in range(how_many):
                            behaving.start_soon(act)
                    await self.live_on(behaving)
                self.troubling.cancel()
        if not self.settled:
            self.violations.append("what was left in the end was not looked at")

    async def troubles(self) -> None:
        with self.troubling:
            async with trio.open_nursery() as nursery:
                for _ in range(self.troublemakers):
                    nursery.start_soon(self.trouble)

    async def live_on(self, behaving: trio.Nursery) -> None:
        """One server after the other; the last one sees all clients go."""
        end = trio.current_time() + self.seconds
        while not self.over:
            seconds = min(self.chance.uniform(*LIFE), self.seconds / 2)
            left = end - trio.current_time()
            last = left < seconds + min(LIFE[0], self.seconds / 3)
            async with Server(self).running() as process:
                before = await self.census()
                self.up.set()
                with trio.move_on_after(max(left, seconds / 2) if last else seconds):
                    await process.wait()
                if process.returncode is not None:
                    self.over = True
                    behaving.cancel_scope.cancel()
                    self.violations.append(f"the server has ended, with status {process.returncode}")
                elif last:
                    await self.see_off(behaving)
                    after = await self.settle(before)
                    self.judge(before, after)
                    await self.measure(process.pid)
                else:
                    self.counts["drains"] += 1
                    self.counts["echoes owed when a drain began"] += sum(each.owed for each in self.echoing)

    async def measure(self, pid: int) -> None:
        if self.costs:
            await Costs(self.addresses, pid, self.costs, self.counts, self.violations).measure()

    async def see_off(self, behaving: trio.Nursery) -> None:
        """Let the clients that behave come to their end, and the others vanish."""
        self.over = True
        with trio.move_on_after(2 * Client.patience) as scope:
            while behaving.child_tasks:  # noqa: ASYNC110 - a nursery has no event for it
                await trio.sleep(0.05)
        if scope.cancelled_caught:
            self.violations.append("clients that behave were not done in time")
            behaving.cancel_scope.cancel()
        self.troubling.cancel()

    async def settle(self, before: dict[str, Any]) -> dict[str, Any]:
        started = trio.current_time()
        while True:
            after = await self.census()
            calm = after["descriptors"] <= before["descriptors"] and not after["groups"]
            calm = calm and Counter(after["tasks"]) <= Counter(before["tasks"]) and not after["not once"]
            calm = calm and after["endpoints"] <= before["endpoints"]
            if calm or trio.current_time() > started + SETTLING:
                self.counts["seconds to settle"] = round(trio.current_time() - started)
                return after
            await trio.sleep(0.1)

    def judge(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        self.settled = True
        complain = self.violations.append
        if left := Counter(after["tasks"]) - Counter(before["tasks"]):
            complain(f"tasks are left: {dict(left)}")
        if (left_open := after["descriptors"] - before["descriptors"]) > 0:
            complain(f"{left_open} file descriptors are left")
        for what in ("messages checked", "echoes checked", "responses checked"):
            if not self.counts[what]:
                complain(f"{what}: none, which is no test")
        if self.counts["drains"] and not self.counts["echoes owed when a drain began"]:
            complain("no drain began while an echo was owed, which is no test")
        self.judge_end(after, endpoints=before["endpoints"])

    def judge_end(self, report: dict[str, Any], *, endpoints: int = 0) -> None:
        """What must be so when no client is there any more."""
        complain = self.violations.append
        if report["groups"]:
            complain(f"groups have members: {report['groups']}")
        if report["endpoints"] > endpoints:
            complain(f"{report['endpoints'] - endpoints} endpoints are left")
        if report["not once"]:
            complain(
                f"disconnect did not run once for {report['not once'][:5]}, of {len(report['not once'])}"
            )
        for message in report["unplanned"]:
            complain(f"logged: {message}")


class Server:
    """One server process: :meth:`running` starts it, ends it by SIGTERM, and judges how it ends."""

    def __init__(self, chaos: Chaos) -> None:
        self.chaos = chaos
        self.process: trio.Process
        self._complaints: list[bytes] = []
        self._said: list[bytes] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.Process]:
        chaos = self.chaos
        command = [
            sys.executable, "-W", "error", str(SERVER), f"{chaos.seed}-{chaos.lives}", str(chaos.certificate)
        ]  # fmt: skip
        start = partial(
            trio.run_process, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False
        )
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(start)
            self.process = process
            assert process.stdout is not None
            assert process.stderr is not None
            nursery.start_soon(self._collect, process.stderr, self._complaints)
            try:
                with trio.fail_after(20):
                    ports = b""
                    while not ports.endswith(b"\n") and (more := await process.stdout.receive_some()):
                        ports += more
                if not ports:
                    raise SystemExit(f"the server did not start:\n{b''.join(self._complaints).decode()}")
                nursery.start_soon(self._collect, process.stdout, self._said)
                plain, secure = map(int, ports.split())
                chaos.lives += 1
                chaos.stopping = trio.Event()
                chaos.addresses = [
                    Address("127.0.0.1", plain),
                    Address("127.0.0.1", secure, scheme="https"),
                ]
                yield process
                chaos.up = trio.Event()
                chaos.stopping.set()
                if process.returncode is None:
                    await self._stop()
            finally:
                if process.returncode is None:
                    process.kill()
        if text := b"".join(self._complaints).decode().strip():
            chaos.violations.append(f"the server wrote on stderr:\n{text[:5000]}")
        if process.returncode == 0:
            self._judge(dict(decode_json(b"".join(self._said).decode())))

    async def _stop(self) -> None:
        chaos = self.chaos
        started = trio.current_time()
        self.process.terminate()
        with trio.move_on_after(SHUTDOWN) as scope:
            status = await self.process.wait()
            if status != 0:
                chaos.violations.append(f"at SIGTERM the server ended with status {status}")
        if scope.cancelled_caught:
            chaos.violations.append("the server did not end at SIGTERM")
        took = round(1000 * (trio.current_time() - started))
        chaos.counts["longest shutdown, ms"] = max(took, chaos.counts["longest shutdown, ms"])

    def _judge(self, report: dict[str, Any]) -> None:
        chaos, counts = self.chaos, self.chaos.counts
        chaos.judge_end(report)
        counts["connections accepted"] += report["connected"]
        counts["errors logged, as they should be"] += report["logged"].get("planned errors", 0)
        counts["warnings logged"] += report["logged"].get("warning", 0)
        counts["server: peak MiB"] = max(report["peak KiB"] // 1024, counts["server: peak MiB"])
        counts["server: CPU seconds"] += round(report["seconds"])
        if report["peak KiB"] > MEMORY:
            chaos.violations.append(f"the server came to {report['peak KiB'] // 1024} MiB")
        if not report["connected"]:
            chaos.violations.append("no connection was accepted in one server's life, which is no test")

    async def _collect(self, stream: trio.abc.ReceiveStream, pieces: list[bytes]) -> None:
        async for data in stream:
            pieces.append(bytes(data))


def told(error: BaseException) -> str:
    """What it is, what it comes from, and where in this folder it befell somebody."""
    here = [each for each in traceback.extract_tb(error.__traceback__) if "/tests/" in each.filename]
    where = ", ".join(f"{each.name}:{each.lineno}" for each in here)
    return f"{error!r} from {error.__cause__ or error.__context__!r} at {where}"


def leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    found: list[BaseException] = []
    for each in group.exceptions:
        found += leaves(each) if isinstance(each, BaseExceptionGroup) else [each]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="how long trouble is made")
    parser.add_argument(
        "--seed", type=int, default=int.from_bytes(os.urandom(3), "big"), help="what is tried"
    )
    parser.add_argument(
        "--troublemakers",
        type=int,
        default=argparse.SUPPRESS,
        help="clients that misbehave, at any time (default: 100; with several processes 20)",
    )
    parser.add_argument(
        "--costs",
        type=float,
        default=0.2,
        help="seconds of processor that each kind of input is measured for",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help="serve by so many, on an engine that is killed every --period seconds: see cluster.py; --costs and drains "
        "are for one",
    )
    parser.add_argument("--period", type=float, default=10, help="seconds between two outages of the engine")
    options = parser.parse_args()
    if options.processes < 1:
        parser.error(f"--processes: at least 1, not {options.processes}")
    if options.period < 1:
        parser.error(f"--period: at least 1 second, not {options.period:g}")
    print(f"{options.seconds:g} seconds of chaos, seed {options.seed}", flush=True)
    chaos: Chaos | Cluster
    troublemakers = getattr(options, "troublemakers", 100 if options.processes == 1 else 20)
    if options.processes == 1:
        chaos = Chaos(options.seconds, options.seed, troublemakers, options.costs)
    else:
        chaos = Cluster(options.seconds, options.seed, troublemakers, options.processes, options.period)
    started = time.monotonic()

    async def end_at_sigterm(scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                chaos.violations.append("the run was cut off by SIGTERM")
                scope.cancel()

    async def bounded() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_at_sigterm, nursery.cancel_scope)
            with trio.move_on_after(options.seconds + 12 * Client.patience) as scope:
                await chaos.run()
            if scope.cancelled_caught:
                chaos.violations.append("the run did not come to an end")
            nursery.cancel_scope.cancel()

    cannot: list[BaseException] = []
    try:
        trio.run(bounded)
    except* SystemExit as group:
        cannot = leaves(group)
    if cannot:
        print(cannot[0], file=sys.stderr)
        return 1
    chaos.counts["seconds in all"] = round(time.monotonic() - started)
    width = max(map(len, chaos.counts))
    for name, count in sorted(chaos.counts.items()):
        print(f"{name:{width}}  {count:>9,}")
    for number, violation in enumerate(chaos.violations):
        if number == 20:
            print(f"… and {len(chaos.violations) - number} more")
            break
        print(f"VIOLATION: {violation}")
    print("not one violation" if not chaos.violations else f"{len(chaos.violations)} violations")
    return 1 if chaos.violations else 0


if __name__ == "__main__":
    sys.exit(main())

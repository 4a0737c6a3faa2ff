"""Clients that connect, chat, stall, send rubbish, reset and vanish, in all mixtures, against one server.

    python tests/chaos/run.py --seconds 60 --seed 1

Among them are clients that behave, and check each message that they should get: groups of friends in the rooms in
which the others make trouble, each message numbered by its sender; echoes of all sizes; HTTP requests. At the end
nothing of theirs may be lost, the server must hold no task, descriptor or group member more than at the start, must
have run ``disconnect`` exactly once for each connection that it accepted, must have logged no error that no client
asked for, and must end with status 0 at SIGTERM. The exit status is 1 where any of this is not so.

Everything happens on 127.0.0.1, in this process and in the server's, which it starts and ends. The seed decides what is
tried; in what order it comes to the server is up to the machine.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from raw_clients import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    RawClient,
    close_frame,
    frame,
    get,
    handshake,
)

from triochan.content import decode_json
from triochan.wire.listeners import Address

SERVER = Path(__file__).with_name("server.py")
LOST = (EOFError, trio.BrokenResourceError, trio.ClosedResourceError, OSError)
"""How the end of a connection shows; to a client that behaves it must not."""
SETTLING = 15.0
"""Seconds that the server may take to let go of the last client."""
MEMORY = 400 * 1024
"""KiB that the server may grow by."""
ROOMS = ["room", "strict", "slight"]

RawClient.patience = 20


class Violation(Exception):
    """The server did not keep a promise."""


class Chaos:
    """One run.

    Args:
        seconds: how long trouble is made.
        seed: decides what is tried.
        troublemakers: clients that misbehave, at any time.
    """

    def __init__(self, seconds: float, seed: int, troublemakers: int) -> None:
        self.seconds = seconds
        self.chance = random.Random(seed)
        self.seed = seed
        self.troublemakers = troublemakers
        self.address = Address()
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.over = False
        self.number = 0

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
            async with await RawClient.websocket(self.address, f"/{room}/{name}") as client:
                heard = dict.fromkeys(names, 0)

                async def talk() -> None:
                    await everyone.wait()
                    number = 0
                    while number < count:
                        batch = chance.randint(1, 10)
                        sizes = [chance.choice([0, 10, 100, 2000]) for _ in range(min(batch, count - number))]
                        data = b"".join(
                            frame(TEXT, f"say {number + each} {'x' * size}")
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
                if (answer := await client.closing())[0] != code:
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
            await self.behave(partial(self.echo, chance), "an echo")

    async def echo(self, chance: random.Random) -> None:
        async with await RawClient.websocket(self.address, "/echo") as client:
            for _ in range(chance.randint(1, 20)):
                data = b""
                expected: list[str | bytes] = []
                pongs = 0
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
                            data += frame(PING, "between")
                            pongs += 1
                        data += frame(0, payload[cut:])
                    else:
                        data += frame(opcode, payload)
                    expected.append(payload)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.send_in_pieces, client, data, chance)
                    while expected or pongs:
                        opcode, got = await client.frame()
                        if opcode == PONG:
                            pongs -= 1
                        elif opcode == PING:
                            await client.pong(got)
                        else:
                            wanted = expected.pop(0) if expected else None
                            if wanted != (got.decode() if opcode == TEXT else got):
                                raise Violation(f"an echo of {got[:40]!r}, not of {str(wanted)[:40]}")
                            self.counts["echoes checked"] += 1
            await client.send(close_frame())
            if (answer := await client.closing()) != (1000, ""):
                raise Violation(f"a close with 1000 was answered {answer}")

    async def send_in_pieces(self, client: RawClient, data: bytes, chance: random.Random) -> None:
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
        async with await RawClient.connect(self.address) as client:
            for _ in range(chance.randint(1, 10)):
                bodies = [
                    chance.randbytes(chance.choice([0, 1, 100, 50_000])) for _ in range(chance.randint(1, 5))
                ]
                data = b"".join(
                    b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
                    for body in bodies
                )
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.send_in_pieces, client, data, chance)
                    for body in bodies:
                        answer = await client.answer()
                        if (answer.status, answer.body) != (200, body):
                            raise Violation(f"a request was answered {answer.status}, {answer.body[:40]!r}")
                        self.counts["responses checked"] += 1

    async def behave(self, act: Callable[[], Awaitable[None]], what: str) -> None:
        """What befalls a client that behaves is the server's fault."""
        try:
            await act()
        except* Violation as group:
            self.violations += [f"{what}: {error}" for error in leaves(group)]
        except* (*LOST, trio.TooSlowError, AssertionError, ValueError) as group:
            self.violations += [f"{what}: {error!r}" for error in leaves(group)]

    # -- clients that do not

    async def trouble(self) -> None:
        """One kind of mischief after the other."""
        chance = random.Random(self.chance.random())
        kinds = [
            self.vanish, self.vanish, self.stall, self.talk_rubbish, self.mangle, self.trickle, self.flood_with_pings,
            self.send_too_much, self.close_and_stay, self.misuse_http, self.provoke, self.provoke, self.be_closed,
            self.half_close, self.loiter, self.come_and_go, self.let_wait,
        ]  # fmt: skip
        while True:
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

    def leave(self, client: RawClient, chance: random.Random) -> None:
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
        client = await RawClient.connect(self.address)
        try:
            cut = chance.randrange(len(data) + 1)
            await client.send(data[:cut])
            if chance.random() < 0.5:
                await trio.sleep(chance.random() / 10)
        finally:
            self.leave(client, chance)

    async def stall(self, chance: random.Random) -> None:
        """Join a room, and read nothing."""
        client = await RawClient.websocket(self.address, self.path(chance), receive_buffer=4096)
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
        client = await RawClient.connect(self.address)
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
        client = await RawClient.connect(self.address)
        try:
            await self.send_in_pieces(client, bytes(data), chance)
            await client.rest()
        finally:
            self.leave(client, chance)

    async def trickle(self, chance: random.Random) -> None:
        """Byte by byte: a head, or frames."""
        client = await RawClient.connect(self.address)
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
        client = await RawClient.websocket(self.address, self.path(chance), receive_buffer=4096)
        try:
            for _ in range(50):
                await client.send(frame(chance.choice([PING, PONG]), "p" * chance.randrange(126)) * 100)
        finally:
            self.leave(client, chance)

    async def send_too_much(self, chance: random.Random) -> None:
        """Messages at the limit and over it, and more than any handler takes."""
        client = await RawClient.websocket(self.address, self.path(chance))
        try:
            size = chance.choice([200_000, 256 * 1024, 256 * 1024 + 1, 2_000_000])
            if chance.random() < 0.5:
                await client.send(frame(TEXT, f"sleep {chance.random() * 3}") * 10)
            for _ in range(20):
                await client.send(frame(BINARY, b"x" * size))
            await client.rest()
        finally:
            self.leave(client, chance)

    async def close_and_stay(self, chance: random.Random) -> None:
        """A close frame, and no end of the connection; perhaps with much unread."""
        client = await RawClient.websocket(self.address, self.path(chance), receive_buffer=4096)
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
        client = await RawClient.connect(self.address, receive_buffer=chance.choice([4096, None]))
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
        client = await RawClient.websocket(self.address, f"/{kind}/{chance.randrange(6)}/clumsy-provoker")
        commands = [
            "crash",
            "crash-later",
            "sleep 0.01",
            "sleep 1",
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
        client = await RawClient.websocket(self.address, f"/strict/{chance.randrange(6)}/clumsy-closed")
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
        client = await RawClient.connect(self.address)
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
        client = await RawClient.connect(self.address)
        try:
            if chance.random() < 0.7:
                await client.send(handshake(chance.choice(["/undecided", self.path(chance)])))
            await trio.sleep(10)
        finally:
            self.leave(client, chance)

    async def come_and_go(self, chance: random.Random) -> None:
        """Join and leave as fast as it goes."""
        for _ in range(30):
            client = await RawClient.websocket(self.address, self.path(chance), behind=self.say(chance))
            self.leave(client, chance)

    async def let_wait(self, chance: random.Random) -> None:
        """Keep handlers busy and the inbox full, and go, or stay."""
        client = await RawClient.websocket(
            self.address, f"/{chance.choice(ROOMS)}/{chance.randrange(6)}/clumsy-waiter"
        )
        try:
            await client.send(frame(TEXT, f"sleep {chance.choice([0.1, 1, 5])}") * 20)
            await client.send((frame(TEXT, "say x") + frame(PING)) * 100)
            if chance.random() < 0.5:
                await client.send(close_frame())
                await client.rest()
            elif chance.random() < 0.5:
                await trio.sleep(4)
        finally:
            self.leave(client, chance)

    # -- the run

    async def census(self) -> dict[str, Any]:
        return dict(decode_json((await get(self.address, "/census")).body.decode()))

    async def run(self) -> None:
        command = [sys.executable, "-W", "error", str(SERVER), str(self.seed)]
        start = partial(
            trio.run_process, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False
        )
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(start)
            complaints: list[bytes] = []
            try:
                assert process.stdout is not None
                nursery.start_soon(self.collect, process, complaints)
                with trio.fail_after(10):
                    port = await process.stdout.receive_some()
                if not port:
                    raise SystemExit(f"the server did not start:\n{b''.join(complaints).decode()}")
                self.address = Address("127.0.0.1", int(port))
                await self.rage(process)
            finally:
                if process.returncode is None:
                    process.kill()
        if text := b"".join(complaints).decode().strip():
            self.violations.append(f"the server wrote on stderr:\n{text[:5000]}")

    async def collect(self, process: trio.Process, complaints: list[bytes]) -> None:
        assert process.stderr is not None
        async for data in process.stderr:
            complaints.append(bytes(data))

    async def rage(self, process: trio.Process) -> None:
        before = await self.census()
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as behaving:
                for act, how_many in ((self.friends, 8), (self.echoes, 4), (self.requests, 4)):
                    for _ in range(how_many):
                        behaving.start_soon(act)
                for _ in range(self.troublemakers):
                    nursery.start_soon(self.trouble)
                with trio.move_on_after(self.seconds):
                    await process.wait()
                self.over = True
                behaving.cancel_scope.deadline = trio.current_time() + 2 * RawClient.patience
                if process.returncode is not None:
                    behaving.cancel_scope.cancel()
            if behaving.cancel_scope.cancelled_caught:
                self.violations.append("clients that behave were not done in time")
            nursery.cancel_scope.cancel()  # and all the troublemakers vanish
        if process.returncode is not None:
            self.violations.append(f"the server has ended, with status {process.returncode}")
            return
        after = await self.settle(before)
        self.judge(before, after)
        process.terminate()
        with trio.move_on_after(15) as scope:
            status = await process.wait()
            if status != 0:
                self.violations.append(f"at SIGTERM the server ended with status {status}")
        if scope.cancelled_caught:
            self.violations.append("the server did not end at SIGTERM")

    async def settle(self, before: dict[str, Any]) -> dict[str, Any]:
        started = trio.current_time()
        while True:
            after = await self.census()
            calm = after["descriptors"] <= before["descriptors"] and not after["groups"]
            calm = calm and Counter(after["tasks"]) <= Counter(before["tasks"]) and not after["not once"]
            if calm or trio.current_time() > started + SETTLING:
                self.counts["seconds to settle"] = round(trio.current_time() - started)
                return after
            await trio.sleep(0.1)

    def judge(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        complain = self.violations.append
        if left := Counter(after["tasks"]) - Counter(before["tasks"]):
            complain(f"tasks are left: {dict(left)}")
        if (left_open := after["descriptors"] - before["descriptors"]) > 0:
            complain(f"{left_open} file descriptors are left")
        if after["groups"]:
            complain(f"groups have members: {after['groups']}")
        if after["not once"]:
            complain(f"disconnect did not run once for {after['not once'][:5]}, of {len(after['not once'])}")
        for message in after["unplanned"]:
            complain(f"logged: {message}")
        if (grown := after["peak KiB"] - before["peak KiB"]) > MEMORY:
            complain(f"the server grew by {grown // 1024} MiB")
        self.counts["connections accepted"] = after["connected"]
        self.counts["errors logged, as they should be"] = after["logged"].get("planned errors", 0)
        self.counts["warnings logged"] = after["logged"].get("warning", 0)
        self.counts["server: peak MiB"] = after["peak KiB"] // 1024
        self.counts["server: CPU seconds"] = round(after["seconds"])
        for what in ("messages checked", "echoes checked", "responses checked", "connections accepted"):
            if not self.counts[what]:
                complain(f"{what}: none, which is no test")


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
    parser.add_argument("--troublemakers", type=int, default=100, help="clients that misbehave, at any time")
    options = parser.parse_args()
    print(f"{options.seconds:g} seconds of chaos, seed {options.seed}", flush=True)
    chaos = Chaos(options.seconds, options.seed, options.troublemakers)
    started = time.monotonic()

    async def bounded() -> None:
        with trio.move_on_after(options.seconds + 4 * RawClient.patience) as scope:
            await chaos.run()
        if scope.cancelled_caught:
            chaos.violations.append("the run did not come to an end")

    trio.run(bounded)
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

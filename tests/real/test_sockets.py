"""What a connection promises, once more over real sockets: many clients, slow ones, gone ones, TLS, signals."""

from __future__ import annotations

import gc
import logging
import os
import random
import resource
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import weakref
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trustme
from raw_clients import (
    BINARY,
    CLOSE,
    PATIENCE,
    PING,
    PONG,
    TEXT,
    RawClient,
    close_frame,
    descriptors,
    frame,
    get,
    handshake,
    no_leak,
    server_tasks,
    until,
)
from trio.testing import wait_all_tasks_blocked
from websockets.exceptions import ConnectionClosed as ClientClosed
from websockets.sync.client import connect, unix_connect

import triochan
from triochan import Group, Message, Settings, route, route_class
from triochan.exceptions import ConnectionClosed
from triochan.generic.websockets import WebsocketConsumer
from triochan.http import text
from triochan.layers import MemoryLayer
from triochan.test import LiveServer
from triochan.wire.listeners import Address

KIB = 1024
MIB = 1024 * KIB


class Echo(WebsocketConsumer):
    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.send(text=text, bytes=bytes)


class Accounting:
    """What happened to the connections of one server: each is here under its reply channel's name."""

    def __init__(self) -> None:
        self.connected: Counter[str] = Counter()
        self.disconnected: Counter[str] = Counter()
        self.codes: list[tuple[int, str]] = []
        self.live: weakref.WeakSet[Any] = weakref.WeakSet()

    def consumer(self, base: type[WebsocketConsumer] = Echo) -> type[WebsocketConsumer]:
        accounting = self

        class Accounted(base):  # type: ignore[misc, valid-type]
            async def connect(self, message: Message, **kwargs: Any) -> None:
                accounting.connected[message.reply_channel.name] += 1
                accounting.live.add(self.connection)
                await super().connect(message, **kwargs)

            async def disconnect(self, message: Message, **kwargs: Any) -> None:
                accounting.disconnected[message.reply_channel.name] += 1
                accounting.codes.append((message["code"], message["reason"]))
                await super().disconnect(message, **kwargs)

        return Accounted

    async def settled(self, count: int | None = None) -> None:
        """Wait until all connections have ended: each exactly once."""
        await until(
            lambda: (
                (count is None or len(self.connected) == count)
                and self.connected.keys() == self.disconnected.keys()
            ),
            "every connection is disconnected",
        )
        await wait_all_tasks_blocked()
        assert set(self.connected.values()) | set(self.disconnected.values()) <= {1}


@pytest.fixture(autouse=True)
def nothing_went_wrong(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO)
    yield
    wrong = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not wrong, [record.getMessage() for record in wrong]


@asynccontextmanager
async def serving(consumer: Any, settings: Settings | None = None, **options: Any) -> AsyncIterator[Address]:
    routing = consumer if isinstance(consumer, list) else [route_class(consumer)]
    async with LiveServer(routing, settings=settings, **options) as address:
        async with no_leak():
            yield address


# -- clients that vanish


class InGroups(Echo):
    def connection_groups(self, **kwargs: Any) -> list[str]:
        return ["everyone", f"room.{hash(self.message.reply_channel.name) % 10}"]

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        if text == "tell everyone":
            await self.group_send("everyone", text="x" * 10_000)
        elif text == "wait":
            await trio.sleep(0.05)
            await self.send(text="waited")
        else:
            await super().receive(text=text, bytes=bytes, **kwargs)


STAGES: dict[str, list[bytes]] = {
    "before the head": [],
    "in the head": [handshake()[:40]],
    "behind the head": [handshake()],
    "open": [handshake(), b"?"],
    "in a frame's header": [handshake(), b"?", frame(TEXT, "x" * 1000)[:3]],
    "in a frame": [handshake(), b"?", frame(TEXT, "x" * 1000)[:500]],
    "between fragments": [handshake(), b"?", frame(TEXT, "x", final=False)],
    "with answers unread": [handshake(), b"?", frame(TEXT, "x" * 1000) * 20],
    "while a handler waits": [handshake(), b"?", frame(TEXT, "wait") * 3],
    "after a group send": [handshake(), b"?", frame(TEXT, "tell everyone")],
    "with pongs unread": [handshake() + frame(PING, "x") * 50],
    "behind its close frame": [handshake(), b"?", close_frame()],
    "all at once": [handshake() + frame(TEXT, "x") * 5 + close_frame()],
    "behind rubbish": [handshake(), b"?", b"\x81\x05hello"],
}


@pytest.mark.slow
async def test_a_thousand_clients_that_vanish() -> None:
    """No member in any group, no task, no descriptor; ``disconnect`` once for each that was accepted."""
    count = 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 3 * count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(3 * count, hard), hard))
    layer = MemoryLayer()
    accounting = Accounting()
    opened: list[str] = []
    everyone = trio.CapacityLimiter(300)
    chance = random.Random(1)

    async def vanish(stage: str, reset: bool) -> None:
        async with everyone:
            client = await RawClient.connect(address)
            try:
                for piece in STAGES[stage]:
                    if piece == b"?":
                        assert (await client.head()).status == 101
                        opened.append(stage)
                        await trio.sleep(chance.random() / 50)  # so that all stages are there together
                    else:
                        await client.send(piece)
            except trio.BrokenResourceError:
                pass
            if reset:
                client.reset()
            else:
                client.vanish()

    async with serving(accounting.consumer(InGroups), layer=layer) as address:
        async with await RawClient.websocket(address) as bystander:
            ways = cycle([(stage, reset) for stage in STAGES for reset in (True, False)])
            started = trio.current_time()
            async with trio.open_nursery() as nursery:
                for (stage, reset), _ in zip(ways, range(count), strict=False):
                    nursery.start_soon(vanish, stage, reset)
            await until(lambda: len(layer.groups.members("everyone")) == 1)
            await bystander.send(frame(TEXT, "untouched"))
            while await bystander.message() != "untouched":
                pass
            assert trio.current_time() - started < 20
            await bystander.send(close_frame())
            await bystander.closing()
        await accounting.settled()
        assert len(opened) > count / 2
        assert len(accounting.connected) >= len(opened)
        assert len(layer.groups) == 0
        assert layer.groups.names() == []
    await until(lambda: not gc.collect() and not accounting.live, "no connection is held by anything")


@pytest.mark.parametrize("reset", [True, False])
async def test_clients_that_vanish_within_http(reset: bool) -> None:
    """In the middle of a request, of a response, and of one that takes its time."""

    async def large(message: Message) -> None:
        head: dict[str, Any] = {"status": 200}
        for _ in range(100):
            await message.reply_channel.send({**head, "content": b"x" * 65536, "more_content": True})
            head.clear()

    async def slow(message: Message) -> None:
        await trio.sleep(0.2)
        await message.reply_channel.send({"status": 200})

    routing = [route("http.request", large, path="^/large"), route("http.request", slow, path="^/slow")]
    async with serving(routing) as address:
        for request in (
            b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" * 3,
            b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nx",
            b"",
        ):
            for wait in (True, False):
                client = await RawClient.connect(address, receive_buffer=4096)
                await client.send(request)
                if wait:
                    await wait_all_tasks_blocked(0.01)
                if reset:
                    client.reset()
                else:
                    client.vanish()


# -- limits


SERVER = """
    import resource, sys
    from triochan import route_class, cli
    from triochan.generic.websockets import WebsocketConsumer

    class Echo(WebsocketConsumer):
        groups = ["everyone"]
        async def receive(self, text=None, bytes=None, **kwargs):
            if text == "pid":
                import os
                text = str(os.getpid())
            await self.send(text=text, bytes=bytes)
        async def disconnect(self, message, **kwargs):
            print("disconnect", message["code"], message["reason"], flush=True)

    routing = [route_class(Echo)]
    if __name__ == "__main__":
        files = int(sys.argv.pop(1))
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        sys.exit(cli.main())
"""


class ServerProcess:
    """A server in a process of its own; its output is collected, and can be waited for."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.output = ""
        self._more = trio.Event()

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for data in self.process.stdout:
            self.output += data.decode()
            self._more.set()
            self._more = trio.Event()

    async def wait_for(self, text: str) -> str:
        with trio.fail_after(PATIENCE):
            while text not in self.output:
                await self._more.wait()
        return self.output

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", int(self.output.partition("http://127.0.0.1:")[2].split()[0]))


@asynccontextmanager
async def server_process(folder: Path, *options: str, files: int = 0) -> AsyncIterator[ServerProcess]:
    script = folder / "server_for_sockets.py"
    script.write_text(textwrap.dedent(SERVER))
    command = [sys.executable, str(script), str(files), "server_for_sockets:routing", "--port", "0"]
    start = partial(
        trio.run_process,
        [*command, "--app-dir", str(folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    async with trio.open_nursery() as nursery:
        server = ServerProcess(await nursery.start(start))
        nursery.start_soon(server.read)
        await server.wait_for("serving")
        try:
            yield server
        finally:
            if server.process.returncode is None:
                server.process.kill()


@pytest.mark.slow
async def test_out_of_file_descriptors(tmp_path: Path) -> None:
    """It is logged; accepting resumes when there are some again, and those who waited are served."""
    async with server_process(tmp_path, files=40) as server:
        clients = [await RawClient.connect(server.address) for _ in range(60)]
        await server.wait_for("cannot accept")
        for client in clients:
            await client.send(handshake())
        # Those who were accepted are served meanwhile.
        assert (await clients[0].head()).status == 101
        await clients[0].send(frame(TEXT, "here"))
        assert await clients[0].message() == "here"
        for client in clients[1:45]:
            client.reset()
        for client in clients[45:]:
            assert (await client.head()).status == 101
            await client.send(frame(TEXT, "waited"))
            assert await client.message() == "waited"
        await clients[0].send(frame(TEXT, "still here"))
        assert await clients[0].message() == "still here"
        for client in [clients[0], *clients[45:]]:
            client.vanish()
        assert "Traceback" not in server.output
        assert "internal error" not in server.output
        server.process.send_signal(signal.SIGTERM)
        with trio.fail_after(PATIENCE):
            assert await server.process.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    options = ["--drain-spread", "0.2", "--shutdown-timeout", "5"]
    async with server_process(tmp_path, *options) as server:
        url = f"ws://127.0.0.1:{server.address.port}/"
        opened = trio.CapacityLimiter(1000)
        ready: list[None] = []
        ends: list[tuple[int, str]] = []

        def talk() -> None:
            with connect(url) as client:
                client.send("hello")
                assert client.recv(PATIENCE) == "hello"
                trio.from_thread.run_sync(ready.append, None)
                with pytest.raises(ClientClosed):
                    client.recv(PATIENCE)
                assert client.close_code is not None
                ends.append((client.close_code, client.close_reason or ""))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(partial(trio.to_thread.run_sync, talk, limiter=opened))
            stuck = await RawClient.websocket(server.address)  # it does not answer
            idle = await RawClient.connect(server.address)
            await until(lambda: len(ready) == 10)
            server.process.send_signal(number)
        assert ends == [(1001, "going away")] * 10
        assert await stuck.closing() == (1001, "going away")
        assert await idle.rest() == b""
        stuck.vanish()
        idle.vanish()
        with trio.fail_after(PATIENCE):
            assert await server.process.wait() == 0
        await server.wait_for("disconnect 1001")
        await until(lambda: server.output.count("disconnect 1001 going away") == 11)
        assert "Traceback" not in server.output
        assert "ERROR" not in server.output


async def test_a_second_signal_cuts_it_short(tmp_path: Path) -> None:
    async with server_process(tmp_path, "--shutdown-timeout", "60", "--close-timeout", "60") as server:
        async with await RawClient.websocket(server.address) as client:
            server.process.send_signal(signal.SIGTERM)
            assert await client.closing() == (1001, "going away")
            server.process.send_signal(signal.SIGTERM)
            with trio.fail_after(PATIENCE):
                assert await server.process.wait() == 1
        await server.wait_for("disconnect 1001")


# -- peers that do not read


@pytest.mark.slow
async def test_a_member_that_stops_reading(caplog: pytest.LogCaptureFixture) -> None:
    """It delays neither the others nor the sender, and is closed with 1013 at its limit, whole frames before it."""
    limit = 256 * KIB
    members = 100
    payload = "x" * 20_000

    class Member(Echo):
        groups = ["everyone"]

    accounting = Accounting()
    settings = Settings(outbox_limit=limit, close_timeout=1)
    async with serving(accounting.consumer(Member), settings) as address, trio.open_nursery() as nursery:
        stalled = await RawClient.websocket(address, receive_buffer=4096)
        [slow] = accounting.live
        arrived = [0] * members

        async def read(index: int) -> None:
            async with await RawClient.websocket(address) as client:
                arrived[index] = 1
                number = 0
                while (message := await client.message()) != "the end":
                    assert message == f"{number} {payload}"
                    number += 1
                    arrived[index] += 1
                await client.send(close_frame())
                assert await client.closing() == (1000, "")

        for index in range(members):
            nursery.start_soon(read, index)
        await until(lambda: all(arrived))
        sends: list[float] = []
        biggest = 0
        number = 0

        def all_have_it() -> bool:
            return min(arrived) > number

        while not slow.dropped and slow.close_code is None:
            assert number < 1000, f"{number * len(payload)} bytes went to a peer that does not read"
            before = trio.current_time()
            await Group("everyone").send({"text": f"{number} {payload}"})
            sends.append(trio.current_time() - before)
            number += 1
            biggest = max(biggest, slow.outbox.size)
            await until(all_have_it)  # the others get it at once
        assert biggest <= limit + len(payload) + 20
        assert sorted(sends)[members // 2] < 0.1
        for _ in range(10):  # whatever becomes of it now
            await Group("everyone").send({"text": f"{number} {payload}"})
            number += 1
            await until(all_have_it)
        told = 0
        try:
            while True:
                opcode, data = await stalled.frame()
                if opcode == CLOSE:
                    assert int.from_bytes(data[:2], "big") == 1013
                    break
                assert data.decode() == f"{told} {payload}"
                told += 1
        except (EOFError, trio.BrokenResourceError):
            pass  # there was no room for the close frame in time
        assert 0 < told < number
        stalled.vanish()
        await Group("everyone").send({"text": "the end"})
        await accounting.settled(members + 1)
    assert Counter(code for code, _ in accounting.codes) == {1000: members, 1013: 1}
    assert sum("does not read" in record.getMessage() for record in caplog.records) == 1


async def test_sending_waits_for_a_slow_peer() -> None:
    """``await self.send()`` waits while the outbox is full, and goes on; nothing is lost."""
    pieces, size = 64, 128 * KIB
    progress: list[int] = []
    held: list[int] = []

    class Source(WebsocketConsumer):
        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            for number in range(pieces):
                await self.send(bytes=number.to_bytes(4, "big") * (size // 4))
                progress.append(number)
                held.append(cast(Any, self.connection).outbox.size)

    async with serving(Source, Settings(outbox_limit=256 * KIB)) as address:
        async with await RawClient.websocket(address, receive_buffer=4096) as client:
            await client.send(frame(TEXT, "go"))
            await until(lambda: progress)
            await wait_all_tasks_blocked(0.05)
            stopped = len(progress)
            assert stopped < pieces
            received = 0
            while received < pieces * (size + 10):  # a frame is 10 bytes longer than its payload
                received += len(await client.take(size // 2))
                if len(progress) > stopped:
                    break
                await wait_all_tasks_blocked()
            assert len(progress) < pieces, "it went on before all was read"
            while received < pieces * (size + 10):
                received += len(await client.take(min(64 * KIB, pieces * (size + 10) - received)))
            await client.send(close_frame())
            assert await client.closing() == (1000, "")
        assert progress == list(range(pieces))
        assert max(held) <= 256 * KIB + size + 10


async def test_what_a_slow_peer_gets_is_whole() -> None:
    count, size = 40, 100 * KIB

    class Source(WebsocketConsumer):
        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            for number in range(count):
                await self.send(text=f"{number:03} " * (size // 4))

    async with serving(Source) as address:
        async with await RawClient.websocket(address, receive_buffer=4096) as client:
            await client.send(frame(TEXT, "go"))
            for number in range(count):
                assert await client.message() == f"{number:03} " * (size // 4)


async def test_a_peer_that_closes_and_does_not_read(caplog: pytest.LogCaptureFixture) -> None:
    """Its close frame comes while much waits for it: it is not waited for longer than for any other."""
    accounting = Accounting()

    class Flood(WebsocketConsumer):
        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            while True:
                await self.send(text="x" * 65536)

    settings = Settings(close_timeout=0.2, disconnect_timeout=1)
    async with serving(accounting.consumer(Flood), settings) as address:
        for ending in (close_frame(4000, b"enough"), frame(CLOSE, b"x"), b"\x81\x05hello"):
            client = await RawClient.websocket(address, receive_buffer=4096)
            await client.send(frame(TEXT, "go"))
            await wait_all_tasks_blocked(0.05)
            await client.send(ending)
            with trio.fail_after(3):
                await accounting.settled()
            client.vanish()
    assert [code for code, _ in accounting.codes] == [4000, 1002, 1002]


# -- other listeners


@pytest.mark.rfc("9112", "9.7", "MUST send all as TLS application data")
@pytest.mark.rfc("6455", "4.2.2", "MUST speak within TLS where the port is one of TLS")
async def test_tls() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    seen: list[str] = []

    class Secure(Echo):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            seen.append(message["scheme"])

    async with serving(Secure, ssl_context=context) as address:

        def talk() -> None:
            place = f"wss://127.0.0.1:{address.port}/"
            with connect(place, ssl=trusting, max_size=None, open_timeout=30) as client:
                for message in ("hello", b"\0\xff", "x" * 100_000, bytes(range(256)) * 4096, ""):
                    client.send(message)
                    assert client.recv(PATIENCE) == message
                for number in range(500):
                    client.send(str(number))
                assert [client.recv(PATIENCE) for _ in range(500)] == [str(number) for number in range(500)]
                client.close(4001, "enough")
                assert (client.close_code, client.close_reason) == (4001, "enough")

        await trio.to_thread.run_sync(talk)
        assert seen == ["wss"]
        # What is no TLS, and clients that vanish before, in and after the TLS handshake.
        for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01", b"\0" * 1000, b""):
            for reset in (True, False):
                client = await RawClient.connect(address)
                await client.send(data)
                if reset:
                    client.reset()
                else:
                    client.vanish()
        for _ in range(20):
            stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", address.port, ssl_context=trusting)
            await stream.send_all(handshake() + frame(TEXT, "x" * 1000) * 100)
            await trio.aclose_forcefully(stream)
        await trio.to_thread.run_sync(talk)


async def test_tls_with_a_slow_peer() -> None:
    """Records that the socket takes in parts stay whole, and in order."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    count, size = 100, 50_000

    class Source(WebsocketConsumer):
        groups = ["everyone"]

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            for number in range(count):
                await self.send(text=f"{number:04}" * (size // 4))

    async with serving(Source, ssl_context=context) as address:
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await sock.connect((address.host, address.port))
        stream = trio.SSLStream(trio.SocketStream(sock), trusting, server_hostname="127.0.0.1")
        async with RawClient(stream) as client:
            await client.send(handshake())
            assert (await client.head()).status == 101
            await client.send(frame(TEXT, "go"))
            await wait_all_tasks_blocked(0.05)
            for number in range(5):
                await Group("everyone").send({"text": f"group {number}"})
            await client.send(frame(PING, "are you there?"))
            texts: list[str] = []
            control: list[bytes] = []
            while len(texts) < count + 5 or not control:
                opcode, payload = await client.frame()
                if opcode == TEXT:
                    texts.append(payload.decode())
                else:
                    assert opcode == PONG
                    control.append(payload)
            told = [text for text in texts if text.startswith("group")]
            assert told == [f"group {number}" for number in range(5)]
            assert [text for text in texts if not text.startswith("group")] == [
                f"{number:04}" * (size // 4) for number in range(count)
            ]
            assert control == [b"are you there?"]


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    clients: list[Any] = []

    class Local(Echo):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            clients.append((message["client"], message["server"]))

    def talk() -> None:
        with unix_connect(path, "ws://localhost/") as client:
            client.send("hello")
            assert client.recv(PATIENCE) == "hello"

    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(partial(triochan.serve, [route_class(Local)], uds=path))
        assert address.path == path
        async with no_leak():
            await trio.to_thread.run_sync(talk)
            for _ in range(20):
                async with await RawClient.websocket(address, behind=frame(TEXT, "x") * 3):
                    pass
            assert clients == [(None, None)] * 21
        nursery.cancel_scope.cancel()
    assert not os.path.exists(path)  # noqa: ASYNC240


# -- messages


async def test_large_messages_both_ways() -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 1000))) * 349  # just below 1 MiB in UTF-8
    assert MIB - 3000 < len(text.encode()) <= MIB

    async with serving(Echo) as address:

        def talk() -> None:
            with connect(f"ws://127.0.0.1:{address.port}/", max_size=None, compression=None) as client:
                for message in (
                    text,
                    os.urandom(MIB),
                    "x" * MIB,
                    bytes(65535),
                    bytes(65536),
                    "x" * 125,
                    "x" * 126,
                ):
                    client.send(message)
                    assert client.recv(PATIENCE) == message
                client.send(iter(["x" * 100_000] * 10))  # in fragments
                assert client.recv(PATIENCE) == "x" * 1_000_000

        await trio.to_thread.run_sync(talk)


async def test_compression_is_declined() -> None:
    offers = ["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-webkit-deflate-frame"]
    async with serving(Echo) as address:
        async with await RawClient.connect(address) as client:
            await client.send(handshake("/", offers))
            answer = await client.head()
            assert answer.status == 101
            assert "sec-websocket-extensions" not in answer

        def talk() -> None:
            with connect(f"ws://127.0.0.1:{address.port}/", compression="deflate") as client:
                assert client.response is not None
                assert "Sec-WebSocket-Extensions" not in client.response.headers
                client.send("x" * 1000)
                assert client.recv(PATIENCE) == "x" * 1000

        await trio.to_thread.run_sync(talk)


@pytest.mark.parametrize("ordering", ["strict_ordering", "slight_ordering", None])
@pytest.mark.parametrize("piece", [None, 1, 7, 1460])
async def test_many_messages_in_one_segment(piece: int | None, ordering: str | None) -> None:
    count = 3000 if piece != 1 else 300
    consumer = type("Ordered", (Echo,), {ordering: True} if ordering else {})
    data = b"".join(frame(BINARY if number % 3 else TEXT, str(number)) for number in range(count))
    async with serving(consumer) as address, trio.open_nursery() as nursery:
        async with await RawClient.connect(address) as client:
            whole = handshake() + data + close_frame(3000, b"done")

            async def send() -> None:
                for at in range(0, len(whole), piece or len(whole)):
                    await client.send(whole[at : at + (piece or len(whole))])

            nursery.start_soon(send)
            assert (await client.head()).status == 101
            for number in range(count):
                message = await client.message()
                assert message == (b"%d" % number if number % 3 else str(number))
            assert await client.closing() == (3000, "done")
            assert await client.rest() == b""


@pytest.mark.rfc("6455", "7.1.1", "closes the TCP connection in order, as the server, first")
@pytest.mark.rfc("6455", "5.5.1", "MUST close the TCP connection at once when close frames went both ways")
@pytest.mark.parametrize(
    ("code", "reason"),
    [(None, ""), (1000, ""), (1000, "bye"), (1001, "gone"), (1003, ""), (1011, "x" * 123), (3000, "Grüße"),
     (4999, "\N{EARTH GLOBE EUROPE-AFRICA}")],
)  # fmt: skip
async def test_closes_by_the_client(code: int | None, reason: str) -> None:
    accounting = Accounting()
    async with serving(accounting.consumer()) as address:
        async with await RawClient.websocket(address) as client:
            await client.send(close_frame(code, reason.encode()))
            answer = await client.closing()
            assert answer[0] == (code or 1005)
            assert await client.rest() == b""
        await accounting.settled(1)
    assert accounting.codes == [(code or 1005, reason)]


@pytest.mark.rfc("6455", "6.1", "MUST NOT send data on a connection that is not open")
@pytest.mark.rfc("6455", "5.5.1", "MUST NOT send data behind its close frame")
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1000, ""),
        (1001, "gone"),
        (1008, "x" * 123),
        (1013, ""),
        (3000, "Grüße"),
        (4999, "\N{EARTH GLOBE AMERICAS}"),
    ],
)
@pytest.mark.parametrize("answer", ["answers", "vanishes", "is silent"])
async def test_closes_by_the_server(code: int, reason: str, answer: str) -> None:
    class Closing(WebsocketConsumer):
        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            await self.send(text="last words")
            await self.close(code, reason)
            with pytest.raises(ConnectionClosed):
                await self.send(text="too late")

    accounting = Accounting()
    async with serving(accounting.consumer(Closing), Settings(close_timeout=0.1)) as address:
        async with await RawClient.websocket(address) as client:
            await client.send(frame(TEXT, "close") * 2)
            assert await client.message() == "last words"
            assert await client.closing() == (code, reason)
            if answer == "answers":
                await client.send(close_frame(code))
            if answer == "vanishes":
                client.vanish()
            else:
                assert await client.rest() == b""
        await accounting.settled(1)
    assert accounting.codes == [(code, reason)]


async def test_subprotocols_and_headers() -> None:
    class Choosing(WebsocketConsumer):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            assert message["subprotocols"] == ["chat.v2", "chat.v1"]
            assert (b"x-asked", b"yes, twice") in message["headers"]
            assert message["query_string"] == b"a=1&b=%20"
            assert message["path"] == "/a path/"
            headers = [("X-First", "1"), (b"X-Second", b"\xfc"), ("Set-Cookie", "a=b"), ("Set-Cookie", "c=d")]
            await message.reply_channel.send({"accept": True, "subprotocol": "chat.v1", "headers": headers})

    async with serving(Choosing) as address:
        headers = [
            "Sec-WebSocket-Protocol: chat.v2",
            "Sec-WebSocket-Protocol: chat.v1",
            "X-Asked:  yes, twice  ",
        ]
        async with await RawClient.connect(address) as client:
            await client.send(handshake("/a%20path/?a=1&b=%20", headers))
            answer = await client.head()
            assert answer.status == 101
            assert answer["sec-websocket-protocol"] == "chat.v1"
            assert (answer["x-first"], answer["x-second"]) == ("1", "\xfc")
            assert [value for name, value in answer.headers if name == "set-cookie"] == ["a=b", "c=d"]

        def talk() -> None:
            with connect(
                f"ws://127.0.0.1:{address.port}/a%20path/?a=1&b=%20",
                subprotocols=["chat.v2", "chat.v1"],  # type: ignore[list-item]
                additional_headers={"X-Asked": "yes, twice"},
            ) as client:
                assert client.subprotocol == "chat.v1"

        await trio.to_thread.run_sync(talk)


# -- what a number means


async def test_a_late_send_never_reaches_another_client() -> None:
    """File descriptors are used again at once; what is sent to a connection that is gone is refused."""
    gone: list[Any] = []

    class Remembered(Echo):
        groups = ["everyone"]

        async def connect(self, message: Message, **kwargs: Any) -> None:
            gone.append((self.connection, message.reply_channel, self))

    accounting = Accounting()
    async with serving(accounting.consumer(Remembered)) as address:
        numbers: set[int] = set()
        for count in range(1, 31):
            client = await RawClient.websocket(address)
            numbers.add(gone[-1][0].inbound.transport.socket.fileno())
            if count % 3 == 0:
                client.reset()
            elif count % 3 == 1:
                client.vanish()
            else:
                await client.send(close_frame())
                await client.closing()
                client.vanish()
            await accounting.settled(count)
        old = list(gone)
        fresh = [await RawClient.websocket(address) for _ in range(10)]
        assert {entry[0].inbound.transport.socket.fileno() for entry in gone[30:]} & numbers, (
            "the numbers are used again"
        )
        for connection, channel, consumer in old:
            with pytest.raises(ConnectionClosed):
                await channel.send({"text": "late"})
            with pytest.raises(ConnectionClosed):
                await connection.send("late")
            with pytest.raises(ConnectionClosed):
                await consumer.send(text="late")
            with pytest.raises(ConnectionClosed):
                await connection.send(b"late" * 100_000)
            assert connection.send_nowait("late") is False
            connection.outbox.offer(b"\x81\x04late")
            connection.close(4000, "late")
            with pytest.raises(ConnectionClosed):
                connection.start_soon(trio.sleep_forever)
        await Group("everyone").send({"text": "for all"})
        for client in fresh:
            assert await client.message() == "for all"
            await client.send(close_frame())
            assert await client.closing() == (1000, "")
            assert await client.rest() == b""
            client.vanish()
        await accounting.settled(40)
        gone.clear()
        old.clear()


# -- the census itself


async def test_the_census_counts() -> None:
    """What the tests above rely on: a connection that is open is seen as tasks and descriptors."""
    async with serving(Echo) as address:
        files, tasks = descriptors(), server_tasks()
        clients = [await RawClient.websocket(address) for _ in range(3)]
        assert descriptors() == files + 6
        assert (server_tasks() - tasks)["triochan.server.Server._serve_socket"] == 3
        for client in clients:
            client.vanish()
        assert (await get(address)).status == 404


async def test_a_client_that_only_finished_sending_gets_its_answer() -> None:
    async def slow(message: Any) -> None:
        await wait_all_tasks_blocked(0.01)
        await message.reply_channel.send(text("late, but there"))

    async with LiveServer([route("http.request", slow)]) as address:
        stream = await trio.open_tcp_stream(address.host, address.port)
        await stream.send_all(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
        await stream.send_eof()
        received = b""
        with trio.fail_after(PATIENCE):
            while data := await stream.receive_some():
                received += data
        await stream.aclose()
    assert received.endswith(b"late, but there")

"""A shutdown answers: what was received is handled, its answers leave, and only then 1001 goes out.

Over Unix sockets, where time is virtual; and in processes of their own, for how they exit.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from raw_clients import PING, TEXT, RawClient, close_frame, frame, handshake
from socket_client import make_contexts
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.sync.client import unix_connect

import triochan
from triochan import Application, Channel, Settings, route, route_class
from triochan.generic.websockets import WebsocketConsumer
from triochan.http import text
from triochan.runtime import Runtime
from triochan.server import Server
from triochan.wire.listeners import Address, open_listeners

SECONDS = 20


class Record:
    """What has happened, with the time since the shutdown began."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.began = 0.0

    def __call__(self, *what: Any) -> None:
        self.events.append((*what, trio.current_time() - self.began))


def consumer(record: Record, **attributes: Any) -> type[WebsocketConsumer]:
    """Answers "3" in three seconds, "never" never, and all else at once."""

    class Slow(WebsocketConsumer):
        async def connect(self, message: Any, **kwargs: Any) -> None:
            if "accepted" in self.path:
                await message.reply_channel.send({"accept": True})
            if "slow" in self.path:
                await trio.sleep(3)
                record("connected")
            elif "never" in self.path:
                await trio.sleep_forever()

        async def receive(self, text: Any = None, **kwargs: Any) -> None:
            if text == "never":
                await trio.sleep_forever()
            elif text.isdigit():
                await trio.sleep(int(text))
            await self.send(text=text)
            record("answered", text)

        async def disconnect(self, message: Any, **kwargs: Any) -> None:
            await trio.sleep(0.5)
            record("disconnected", message["code"])

    return type("Slow", (Slow,), attributes)


class Drained:
    """A running server.

    Attributes:
        server: itself.
        address: where it listens.
    """

    def __init__(self, server: Server, address: Address, record: Record) -> None:
        self.server = server
        self.address = address
        self._record = record

    async def stop(self) -> None:
        """Begin the shutdown; it is under way when this returns."""
        await wait_all_tasks_blocked()
        self._record.began = trio.current_time()
        self.server.stop()
        await wait_all_tasks_blocked()


@asynccontextmanager
async def running(folder: Path, record: Record, routing: list[Any], **options: Any) -> AsyncIterator[Drained]:
    """The block ends when the server has, which it has to be told."""
    contexts = options.pop("ssl_context", None)
    async with Runtime.open(Application(routing), Settings(drain_spread=0, **options), None) as runtime:
        async with trio.open_nursery() as nursery:
            listeners = await open_listeners(None, 0, folder / "socket", "http")
            server = Server(runtime, listeners, contexts)
            [address] = await nursery.start(server.run)
            try:
                yield Drained(server, address, record)
            finally:
                server.stop()
        assert runtime.sockets == 0
        assert not runtime.websockets
        assert not runtime.http


def request(path: str = "/", *, end: bool = True) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n".encode() + b"\r\n" * end


# -- WebSockets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attributes", [{}, {"strict_ordering": True}, {"slight_ordering": True}], ids=str)
async def test_what_was_received_is_answered_and_then_closed(
    attributes: dict[str, Any], tmp_path: Path, autojump_clock: MockClock
) -> None:
    record = Record()
    async with running(tmp_path, record, [route_class(consumer(record, **attributes))]) as drained:
        async with await RawClient.websocket(drained.address) as client:
            await client.send(*[frame(TEXT, each) for each in ("3", "2", "x")])
            await drained.stop()
            await client.send(frame(TEXT, "too late"), frame(PING, "?"))
            answers = [await client.message() for _ in range(3)]
            assert await client.ended() == (1001, "going away")
    if attributes.get("strict_ordering"):
        assert answers == ["3", "2", "x"]
        assert record.events[-2:] == [("answered", "x", 5), ("disconnected", 1001, 5.5)]
    else:
        assert answers == ["x", "2", "3"]
        assert record.events[-2:] == [("answered", "3", 3), ("disconnected", 1001, 3.5)]
    assert not drained.server.cut_short


async def test_a_full_inbox_is_answered(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Beyond the inbox as well: what was read off the network was received."""
    record = Record()
    count = 60
    slow = consumer(record, strict_ordering=True)
    options = {"inbox_limit": 8, "stall_timeout": 10, "shutdown_timeout": 200}
    async with running(tmp_path, record, [route_class(slow)], **options) as drained:
        async with await RawClient.websocket(drained.address) as client:
            client.patience = 1000
            await client.send(b"".join(frame(TEXT, "1") for _ in range(count)))
            await drained.stop()
            assert [await client.message() for _ in range(count)] == ["1"] * count
            assert await client.ended() == (1001, "going away")
    assert record.events[-1][:2] == ("disconnected", 1001)
    assert not drained.server.cut_short


async def test_an_idle_socket_is_closed_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    record = Record()
    async with running(tmp_path, record, [route_class(consumer(record))]) as drained:
        async with await RawClient.websocket(drained.address) as client:
            await drained.stop()
            assert await client.ended() == (1001, "going away")
    assert record.events == [("disconnected", 1001, 0.5)]


async def test_a_peer_that_does_not_answer_the_close_is_not_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    record = Record()
    async with running(tmp_path, record, [route_class(consumer(record))], close_timeout=4) as drained:
        async with await RawClient.websocket(drained.address) as client:
            await drained.stop()
            assert await client.closing() == (1001, "going away")
            await drained.server.finished.wait()
    assert record.events == [("disconnected", 1001, 4.5)]
    assert not drained.server.cut_short


@pytest.mark.parametrize("way", ["close", "vanish"])
async def test_a_peer_that_goes_while_it_is_answered(
    way: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    record = Record()
    async with running(tmp_path, record, [route_class(consumer(record))]) as drained:
        async with await RawClient.websocket(drained.address) as client:
            await client.send(frame(TEXT, "3"))
            await drained.stop()
            if way == "close":
                await client.send(close_frame(4000))
                assert await client.message() == "3"
                assert (await client.closing())[0] in (1001, 4000)
            else:
                client.vanish()
            await drained.server.finished.wait()
    assert [event[0] for event in record.events if event[0] == "disconnected"] == ["disconnected"]
    assert record.events[-1][2] <= 5.5
    assert not drained.server.cut_short


async def test_a_handler_that_never_ends_is_cut_off_in_time_for_disconnect(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    record = Record()
    options = {"shutdown_timeout": 30, "disconnect_timeout": 10}
    async with running(tmp_path, record, [route_class(consumer(record))], **options) as drained:
        async with await RawClient.websocket(drained.address, "/x") as client:
            client.patience = 100
            await client.send(frame(TEXT, "never"), frame(TEXT, "1"))
            await drained.stop()
            assert await client.message() == "1"
            assert await client.ended() == (1001, "going away")
            await drained.server.finished.wait()
    assert record.events == [("answered", "1", 1), ("disconnected", 1001, 20.5)]
    assert drained.server.cut_short
    assert [each.getMessage() for each in caplog.records] == [
        "the shutdown cuts off 1 handlers on '/x', and 0 bytes of answers",
        f"the shutdown cut off {__name__}.Slow in receive on '/x'",
    ]


@pytest.mark.parametrize("end", ["second signal", "time-out", "vanish"])
@pytest.mark.parametrize("where", ["connect", "accepted", "receive", "receive, routed by content"])
async def test_whose_handler_is_cut_off_is_named(
    where: str, end: str, tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """By the shutdown, that is: whose peer has gone is cancelled all the same, and is no line."""
    slow = consumer(Record(), cancel_on_disconnect=True)
    routing = [route_class(slow, path="^/[nr]|^/accepted")]
    if "routed" in where:
        routing = [route_class(slow, text="^never$"), route_class(WebsocketConsumer)]
    path = {"connect": "/never", "accepted": "/accepted/never"}.get(where, "/r")
    options = {"shutdown_timeout": 8, "disconnect_timeout": 2, "handshake_timeout": 60}
    async with running(tmp_path, Record(), routing, **options) as drained:
        client = await RawClient.connect(drained.address)
        async with client:
            await client.send(handshake(path))
            await wait_all_tasks_blocked()
            if "receive" in where:
                await client.send(frame(TEXT, "never"))
                await wait_all_tasks_blocked()
            if end == "vanish":  # a shutdown reads no more
                client.vanish()
            await drained.stop()
            if end == "second signal":
                drained.server.abort()
            await drained.server.finished.wait()
    said = [
        each.getMessage() for each in caplog.records if each.getMessage().startswith("the shutdown cut off")
    ]
    what = "receive" if "receive" in where else "connect"
    line = f"the shutdown cut off {__name__}.Slow in {what} on {path!r}"
    # Nothing is read before the handshake is answered: that this peer has gone is not known.
    assert said == ([] if end == "vanish" and where != "connect" else [line])


async def test_the_log_says_how_far_it_is(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "triochan.server")
    options = {"shutdown_timeout": 20, "disconnect_timeout": 8}
    async with running(tmp_path, Record(), [route_class(consumer(Record()))], **options) as drained:
        async with await RawClient.websocket(drained.address) as busy:
            async with await RawClient.websocket(drained.address) as idle:
                busy.patience = 100
                await busy.send(frame(TEXT, "never"))
                await drained.stop()
                assert await idle.ended() == (1001, "going away")
            assert await busy.ended() == (1001, "going away")
            await drained.server.finished.wait()
    assert [each.getMessage() for each in caplog.records if "connections" in each.getMessage()] == [
        "draining: 2 connections are open; what is left in 20 s is cut off",
        "draining: 1 of 2 connections left, 15 s until they are cut off",
        "draining: 1 of 2 connections left, 10 s until they are cut off",
        "draining: all 2 connections have ended, after 12.5 s",
    ]


async def test_who_is_cut_off_is_named(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """The first of them, by address."""
    async with Runtime.open(Application(HTTP), Settings(shutdown_timeout=6), None) as runtime:
        async with trio.open_nursery() as nursery:
            server = Server(runtime, await open_listeners("127.0.0.1", 0, None, "http"))
            [address] = await nursery.start(server.run)
            async with AsyncExitStack() as stack:
                for _ in range(7):
                    client = await stack.enter_async_context(await RawClient.connect(address))
                    await client.send(request("/never"))
                await wait_all_tasks_blocked(0.01)
                server.stop()
                await server.finished.wait()
    *cut, line = [each.getMessage() for each in caplog.records]
    assert cut == [f"the shutdown cut off {__name__}.answer in http.request on '/never'"] * 7
    assert re.fullmatch(
        r"the shutdown was cut short: what still ran was cancelled, with 7 of 7 connections "
        r"\(of (127\.0\.0\.1:\d+, ){4}127\.0\.0\.1:\d+ and 2 more\)",
        line,
    )


async def test_a_handler_that_resists_is_cut_off_at_the_deadline(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the program shields is waited for all the same: Trio has no other way."""
    record = Record()

    class Shielded(consumer(record)):  # type: ignore[misc]
        async def receive(self, text: Any = None, **kwargs: Any) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(40)
            record("gave in")

    async with running(tmp_path, record, [route_class(Shielded)], shutdown_timeout=30) as drained:
        async with await RawClient.websocket(drained.address) as client:
            client.patience = 100
            await client.send(frame(TEXT, "x"))
            await drained.stop()
            assert await client.closing() == (1001, "going away")
            assert trio.current_time() - record.began == 20
            await drained.server.finished.wait()
            assert trio.current_time() - record.began == 40
    assert record.events == [("gave in", 40)]
    assert drained.server.cut_short
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR] == [
        "the shutdown cuts off 1 handlers on '/', and 0 bytes of answers",
        "tests.real.test_drain.test_a_handler_that_resists_is_cut_off_at_the_deadline.<locals>.Shielded on '/' "
        "was cancelled: disconnect took too long",
        "the shutdown was cut short: what still ran was cancelled, with 1 of 1 connections",
    ]


@pytest.mark.parametrize(
    ("path", "status", "events"),
    [
        ("/slow", 101, [("connected", 3), ("disconnected", 1001, 3.5)]),
        ("/accepted/slow", 101, [("connected", 3), ("disconnected", 1001, 3.5)]),
        ("/never", 503, []),
        ("/accepted/never", 101, [("disconnected", 1001, 20.5)]),
    ],
)
async def test_a_connect_that_is_under_way(
    path: str, status: int, events: list[Any], tmp_path: Path, autojump_clock: MockClock
) -> None:
    record = Record()
    async with running(tmp_path, record, [route_class(consumer(record))]) as drained:
        async with await RawClient.connect(drained.address) as client:
            client.patience = 100
            await client.send(handshake(path))
            await drained.stop()
            assert (await client.head()).status == status
            if status == 101:
                assert await client.ended() == (1001, "going away")
    assert record.events == events
    assert drained.server.cut_short == (path == "/accepted/never")


async def test_what_came_with_the_handshake_is_answered(tmp_path: Path, autojump_clock: MockClock) -> None:
    record = Record()
    async with running(tmp_path, record, [route_class(consumer(record))]) as drained:
        async with await RawClient.connect(drained.address) as client:
            await client.send(handshake("/slow") + frame(TEXT, "1") + frame(TEXT, "x"))
            await drained.stop()
            assert (await client.head()).status == 101
            assert sorted([str(await client.message()), str(await client.message())]) == ["1", "x"]
            assert await client.ended() == (1001, "going away")
    assert not drained.server.cut_short


# -- HTTP -------------------------------------------------------------------------------------------------------------


async def answer(message: Any) -> None:
    if message["path"] == "/slow":
        await trio.sleep(3)
    elif message["path"] == "/never":
        await trio.sleep_forever()
    await message.reply_channel.send(text(f"answer to {len(message['body'])}"))


HTTP = [route("http.request", answer)]


async def test_a_request_that_is_under_way_is_answered_and_the_connection_closed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, Record(), HTTP) as drained:
        async with await RawClient.connect(drained.address) as client:
            await client.send(request("/slow") + request("/slow"))  # the second one is not begun
            await drained.stop()
            head = await client.answer()
            assert (head.status, head.body) == (200, b"answer to 0")
            assert await client.rest() == b""
    assert not drained.server.cut_short


async def test_a_keep_alive_connection_that_is_idle_is_closed_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, Record(), HTTP) as drained:
        async with (
            await RawClient.connect(drained.address) as used,
            await RawClient.connect(drained.address) as new,
        ):
            await used.send(request())
            await used.answer()
            began = trio.current_time()
            await drained.stop()
            assert await used.rest() == await new.rest() == b""
            assert trio.current_time() == began


@pytest.mark.parametrize("comes", [True, False])
@pytest.mark.parametrize(
    "pieces",
    [(request(end=False), b"\r\n"), (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc", b"def")],
    ids=["head", "body"],
)
async def test_half_a_request(
    pieces: tuple[bytes, bytes], comes: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Its other half has close_timeout; then it is answered, or told that it was too slow."""
    async with running(tmp_path, Record(), HTTP, close_timeout=4) as drained:
        async with await RawClient.connect(drained.address) as client:
            await client.send(pieces[0])
            await drained.stop()
            began = trio.current_time()
            if comes:
                await trio.sleep(1)
                await client.send(pieces[1])
            head = await client.answer()
            assert head.status == (200 if comes else 408)
            assert trio.current_time() - began == (1 if comes else 4)
            assert await client.rest() == b""
    assert not drained.server.cut_short


async def test_a_request_that_is_never_answered_is_cut_off_at_the_deadline(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, Record(), HTTP, shutdown_timeout=6) as drained:
        async with await RawClient.connect(drained.address) as client:
            await client.send(request("/never"))
            await drained.stop()
            began = trio.current_time()
            await drained.server.finished.wait()
            assert trio.current_time() - began == 6
    assert drained.server.cut_short
    assert [each.getMessage() for each in caplog.records] == [
        f"the shutdown cut off {__name__}.answer in http.request on '/never'",
        "the shutdown was cut short: what still ran was cancelled, with 1 of 1 connections",
    ]


async def test_a_tls_handshake_that_is_under_way_is_not_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, Record(), HTTP, ssl_context=make_contexts()[0]) as drained:
        async with await RawClient.connect(drained.address) as client:
            await client.send(b"\x16\x03\x01")
            await drained.stop()
            began = trio.current_time()
            assert await client.rest() == b""
            await drained.server.finished.wait()
            assert trio.current_time() == began
    assert not drained.server.cut_short


async def test_what_lies_unread_is_answered(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Nothing runs between a client's bytes and the drain; to close upon these would reset the connection."""
    async with running(tmp_path, Record(), HTTP) as drained:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(drained.address.path))
            await wait_all_tasks_blocked()
            [connection] = drained.server.runtime.http
            client.sendall(request("/"))
            connection.drain()
            await wait_all_tasks_blocked()
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [request("/"), b""])
async def test_who_is_accepted_when_the_shutdown_begins_is_answered_if_it_asks(
    tmp_path: Path, autojump_clock: MockClock, sent: bytes
) -> None:
    async with running(tmp_path, Record(), HTTP) as drained:
        async with await RawClient.connect(drained.address) as busy:
            await busy.send(request("/slow"))
            await drained.stop()
            late, accepted = socket.socketpair()
            with late:
                late.sendall(sent)
                drained.server.runtime.sockets += 1
                await drained.server._serve_socket(accepted, "")
                assert late.recv(1000).startswith(b"HTTP/1.1 200 " if sent else b"")
                assert late.recv(1000) == b""
            assert (await busy.answer()).status == 200


async def test_a_client_that_came_in_the_same_moment_is_not_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, Record(), HTTP) as drained:
        await wait_all_tasks_blocked()
        with socket.socket(socket.AF_UNIX) as late:
            late.connect(str(drained.address.path))
            drained.server.stop()
            began = trio.current_time()
            await drained.server.finished.wait()
            assert trio.current_time() == began
            assert late.recv(1) == b""


# -- named channels ---------------------------------------------------------------------------------------------------


async def test_consumers_of_named_channels_finish_what_they_have_begun(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    record = Record()

    async def work(message: Any) -> None:
        await trio.sleep(message["seconds"])
        record("worked")

    async def idle(message: Any) -> None:
        record("idle")

    routing = [route("work", work), route("idle", idle)]
    async with running(tmp_path, record, routing) as drained:
        for _ in range(4):
            await Channel("work", drained.server.runtime.layer).send({"seconds": 3})
        await drained.stop()
        await drained.server.finished.wait()
    assert record.events == [("worked", 3)]
    assert not drained.server.cut_short
    warnings = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert warnings == ["shutdown: 3 messages on channel work were not handled"]


async def test_what_sockets_send_to_named_channels_while_they_drain_is_handled(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    record = Record()

    async def work(message: Any) -> None:
        record("worked", message["number"])

    class Handing(WebsocketConsumer):
        async def receive(self, text: Any = None, **kwargs: Any) -> None:
            await trio.sleep(2)
            await Channel("work").send({"number": text})

    async with running(tmp_path, record, [route("work", work), route_class(Handing)]) as drained:
        async with await RawClient.websocket(drained.address) as client:
            await client.send(frame(TEXT, "1"), frame(TEXT, "2"))
            await drained.stop()
            assert await client.ended() == (1001, "going away")
    assert sorted(record.events) == [("worked", "1", 2), ("worked", "2", 2)]


# -- how a process exits ----------------------------------------------------------------------------------------------

APP = """
    import logging, signal, sys, threading, time
    import trio
    import triochan
    from triochan import Channel, Settings, route, route_class
    from triochan.generic.websockets import WebsocketConsumer

    async def job(message):
        await trio.sleep_forever()

    async def request(message):
        for _ in range(3):
            await Channel("jobs").send({})
        await message.reply_channel.send({"status": 200, "content": b"begun", "more_content": True})
        await trio.sleep_forever()

    def hold_on():
        time.sleep(60)

    class Consumer(WebsocketConsumer):
        async def receive(self, text=None, bytes=None, **kwargs):
            await self.send(text="begun")
            if text == "thread":
                await trio.to_thread.run_sync(hold_on)
            elif text == "never":
                await trio.sleep_forever()
            await self.send(text="done")

    routing = [route("jobs", job), route("http.request", request), route_class(Consumer)]
    if __name__ == "__main__":
        logging.basicConfig(level="INFO")
        settings = Settings(shutdown_timeout=float(sys.argv[2]))
        triochan.run(routing, uds=sys.argv[1], settings=settings)
        print("returned")
"""

Start = Callable[[str, float], subprocess.Popen[str]]


@pytest.fixture(params=["command line", "run"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "app_of_drain.py").write_text(textwrap.dedent(APP))
    processes: list[subprocess.Popen[str]] = []

    def begin(path: str, timeout: float) -> subprocess.Popen[str]:
        command = {
            "command line": [
                *("-m", "triochan", "app_of_drain:routing", "--uds", path),
                *("--shutdown-timeout", str(timeout)),
            ],
            "run": ["app_of_drain.py", path, str(timeout)],
        }[request.param]
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(triochan.__file__).parents[1])},
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def wait_for(process: subprocess.Popen[str], path: Path) -> None:
    """Until it listens."""
    deadline = time.monotonic() + SECONDS
    while not listens(path):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def end(process: subprocess.Popen[str], path: Path, data: str, signals: int = 1) -> tuple[int, str, float]:
    """Exit status, output, and seconds from the first signal on, where ``data`` is being handled then."""
    wait_for(process, path)
    with unix_connect(str(path), "ws://localhost/") as client:
        client.send(data)
        assert client.recv(SECONDS) == "begun"
        began = time.monotonic()
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)  # two that come together may be one
        output, _ = process.communicate(timeout=SECONDS)
        return process.returncode, output, time.monotonic() - began


def test_a_thread_does_not_hold_up_the_process(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    status, output, seconds = end(start(str(path), 0.5), path, "thread")
    assert status == 1
    assert 0.5 <= seconds < 10
    assert "returned" not in output
    [line] = [line for line in output.splitlines() if "did not end in time" in line]
    assert "exit status 1. Left: 1 sockets, 1 handlers of WebSockets, in threads: hold_on from " in line


def test_nor_where_it_is_told_to_stop_at_once(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    status, output, seconds = end(start(str(path), 1), path, "thread", signals=2)
    assert status == 1
    assert seconds < 15
    assert "did not end in time" in output


def test_a_handler_that_never_ends_is_exit_status_1(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    status, output, seconds = end(start(str(path), 1), path, "never")
    assert status == 1
    assert seconds < 10
    assert "the shutdown cuts off 1 handlers on '/'" in output
    assert "did not end in time" not in output
    assert "returned" not in output


def test_nor_a_request_and_a_message_on_a_named_channel_and_all_are_named(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    process = start(str(path), 0.5)
    wait_for(process, path)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(str(path))
        client.sendall(request("/never"))
        while b"begun" not in client.recv(1000):
            pass
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert re.search(r"the shutdown cut off \S+\.request in http.request on '/never'", output)
    assert re.search(r"the shutdown cut off \S+\.job on channel jobs", output)
    assert "shutdown: 2 messages on channel jobs were not handled" in output


def test_a_shutdown_in_order_is_exit_status_0(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    status, output, seconds = end(start(str(path), 30), path, "x")
    assert status == 0, output
    assert seconds < 10
    assert "ERROR" not in output

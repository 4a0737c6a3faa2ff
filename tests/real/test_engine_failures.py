"""What an engine may do to the layer: sockets stay, senders are told in bounded time, and everything resumes by itself.

Two servers of one Trio run on one engine stand for two processes; their layers are connected by hand.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import attrs
import pytest
import trio
import trio.lowlevel
from engines import EngineProcess, engine
from trio.testing import wait_all_tasks_blocked

from triochan import Group, Message, route_class
from triochan.exceptions import ConnectionClosed, LayerUnavailable
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer, WebsocketDemultiplexer
from triochan.layers import current_layer
from triochan.layers.redis import RedisLayer
from triochan.layers.redis import engine as engine_module
from triochan.test import Client, HandshakeRefused
from triochan.test.layers import FakeEndpoint
from triochan.wire.frames import encode

pytestmark = pytest.mark.engine

TIMEOUT = 0.4
BACK = 3.0
"""Seconds within which all is well again."""


@pytest.fixture
def process() -> Iterator[EngineProcess]:
    with engine() as running:
        yield running


def layer_on(process: EngineProcess, **options: Any) -> RedisLayer:
    return RedisLayer(process.url, timeout=TIMEOUT, **options)


@attrs.define
class Processes:
    """Two of them, with one member of the group "room" each."""

    one: RedisLayer
    two: RedisLayer
    here: FakeEndpoint
    there: FakeEndpoint

    @classmethod
    @asynccontextmanager
    async def on(cls, process: EngineProcess, timeout: float = TIMEOUT) -> AsyncIterator[Processes]:
        one, two = (RedisLayer(process.url, timeout=timeout) for _ in range(2))
        async with one.connected(), two.connected():
            here, there = FakeEndpoint(one), FakeEndpoint(two)
            await Group("room", one).add(here.channel)
            await Group("room", two).add(there.channel)
            yield cls(one, two, here, there)
            one.detach(here)
            two.detach(there)

    async def are_well(self) -> None:
        """A message goes from each to the other; else this goes on trying."""
        for sender, receiver in ((self.one, self.there), (self.two, self.here)):
            number = 0
            with trio.fail_after(BACK):
                while True:
                    number += 1
                    try:
                        await Group("room", sender).send({"text": f"{number}"})
                    except LayerUnavailable:
                        pass
                    await trio.sleep(0.01)
                    if encode(str(number)) in receiver.frames:
                        break
            await wait_all_tasks_blocked()
            self.here.outbox.frames.clear()
            self.there.outbox.frames.clear()


async def told_in_time(call: Callable[[], Awaitable[object]], match: str) -> None:
    """It raises LayerUnavailable, and does so soon."""
    started = time.monotonic()
    with pytest.raises(LayerUnavailable, match=match):
        await call()
    assert time.monotonic() - started < TIMEOUT + 0.3


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(BACK):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.005)


Break = Callable[[EngineProcess], None]


def changed_password(process: EngineProcess) -> None:
    process.kill()
    process._options = ("--requirepass", "another")
    process.start()


def password_as_before(process: EngineProcess) -> None:
    process.kill()
    process._options = ()
    process.start()


@pytest.mark.parametrize(
    ("breaks", "mends", "match"),
    [
        pytest.param(EngineProcess.kill, EngineProcess.start, "the engine at unix://", id="killed"),
        pytest.param(EngineProcess.pause, EngineProcess.resume, "did not answer within 0.4 s", id="paused"),
        pytest.param(changed_password, password_as_before, "Authentication|NOAUTH", id="password changed"),
    ],
)
async def test_away_and_back(
    process: EngineProcess, breaks: Break, mends: Break, match: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Processes.on(process) as they:
        await they.are_well()
        breaks(process)
        late = FakeEndpoint(they.one)
        if match.startswith("the engine"):
            await trio.sleep(0.05)  # it is noticed by nobody's asking
        for _ in range(2):
            await told_in_time(lambda: Group("room", they.one).send({"text": "lost"}), "the engine at")
        # Whoever is in it stays; whoever is not is told, and is not.
        await told_in_time(lambda: Group("new", they.one).add(late.channel), "the engine at")
        await told_in_time(lambda: Group("room", they.one).add("jobs"), "the engine at")
        await told_in_time(lambda: they.two.send(they.here.channel.name, {"text": "a"}), "the engine at")
        await told_in_time(Group("room", they.one).members, match)
        assert not they.one._groups._fan_out.names("new")
        they.one.detach(late)
        await they.here.channel.send({"text": "its own process needs no engine"})
        assert they.here.delivered == [{"text": "its own process needs no engine"}]
        assert (they.one.gaps, they.two.gaps) == (0, 0)
        await until(lambda: they.two.engine._link is None)  # nobody asks through it
        mends(process)
        await they.are_well()
        assert (they.one.gaps, they.two.gaps) == (1, 1)
        assert len(they.one.engine.subscriptions) == 4
    lines = [record.message for record in caplog.records if record.levelno >= logging.INFO]
    assert len([line for line in lines if "trying again until it is back" in line]) == 2, lines
    assert len([line for line in lines if "is back after" in line]) == 2, lines
    assert len(lines) == 4, lines


async def test_restarted_empty(process: EngineProcess) -> None:
    async with Processes.on(process) as they:
        await they.are_well()
        await Group("room", they.one).add("jobs")
        process.restart()
        await they.are_well()
        assert (they.one.gaps, they.two.gaps) == (1, 1)
        # Connections are in it still; named channels were the engine's to know.
        assert await Group("room", they.one).members() == [they.here.channel.name, they.there.channel.name]


async def test_out_of_memory(process: EngineProcess, caplog: pytest.LogCaptureFixture) -> None:
    async with Processes.on(process) as they:
        client = they.one.engine.client
        await they.one.engine.ask(client.config_set({"maxmemory": "1", "maxmemory-policy": "noeviction"}))
        for _ in range(2):
            await told_in_time(lambda: Group("room", they.one).add("jobs"), "OOM")
        assert caplog.text.count("OOM") == 1
        await they.are_well()  # what is published takes no memory
        assert (they.one.gaps, they.two.gaps) == (0, 0)
        await they.one.engine.ask(client.config_set({"maxmemory": "0"}))
        await Group("room", they.one).add("jobs")


async def test_slow_is_not_away(process: EngineProcess) -> None:
    async with Processes.on(process, timeout=3.0) as they:
        stop = trio.Event()

        async def slow_down() -> None:
            while not stop.is_set():
                process.pause()
                await trio.sleep(TIMEOUT / 3)
                process.resume()
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow_down)
            for number in range(6):
                await Group("room", they.one).send({"text": str(number)})
            stop.set()
        await they.are_well()
        assert (they.one.gaps, they.two.gaps) == (0, 0)


@pytest.mark.parametrize("url", ["unix://:s%40cret@{path}", "redis://:s%40cret@127.0.0.1:{port}/1"])
async def test_a_password(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with engine("--requirepass", "s@cret", port=port) as process:
        url = url.format(path=process.path, port=port)
        layer = RedisLayer(url)
        for _ in range(2):  # and the same object again
            async with layer.running():
                member = FakeEndpoint(layer)
                await Group("room").add(member.channel)
                await Group("room").send({"text": "a"})
                assert await Group("room").members() == [member.channel.name]
                assert member.frames == [encode("a")]
                layer.detach(member)
        wrong = RedisLayer(url.replace("s%40cret", "wr0ng"), start_timeout=0.2)
        with pytest.raises(LayerUnavailable, match="Authentication") as caught:
            async with wrong.running():
                pass
        assert "cret" not in str(caught.value)
        assert "wr0ng" not in str(caught.value)


async def test_no_engine_at_the_start(tmp_path: object, caplog: pytest.LogCaptureFixture) -> None:
    layer = RedisLayer(f"unix://{tmp_path}/none.sock", start_timeout=0.3)
    with (
        pytest.raises(
            LayerUnavailable,
            match=r"^no engine at unix://.*/none.sock within 0.3 s: ConnectionError: Unable to establish",
        ),
        trio.fail_after(10),
    ):
        async with layer.running():
            raise AssertionError("it runs without an engine")
    assert len(caplog.records) == 1
    assert "waiting up to 0.3 s" in caplog.text


async def test_an_engine_that_comes_a_little_later(process: EngineProcess) -> None:
    process.kill()
    layer = layer_on(process)

    async def later() -> None:
        await trio.sleep(0.2)
        process.start()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        async with layer.running():
            assert layer.gaps == 0


@pytest.mark.parametrize("size", [10_000, 100_000])
async def test_a_process_that_is_stuck_harms_none_of_the_others(process: EngineProcess, size: int) -> None:
    # Valkey 9 does not count what it does not copy.
    process.command("CONFIG SET min-string-size-avoid-copy-reply 1073741824")
    process.command('CONFIG SET client-output-buffer-limit "pubsub 300kb 300kb 60"')
    async with Processes.on(process) as they:
        with socket.socket(socket.AF_UNIX) as stuck:
            stuck.connect(process.path)
            stuck.sendall(b"SUBSCRIBE " + they.one.engine.topic("group", "room").encode() + b"\r\n")
            assert b"subscribe" in stuck.recv(1000)
            for _ in range(1_000_000 // size):
                await Group("room", they.one).send({"text": "x" * size})
            await they.are_well()
            # The engine has let go of it, and of what it was owed.
            assert process.command("CLIENT LIST TYPE pubsub").count(b"id=") == 2
        assert (they.one.gaps, they.two.gaps) == (0, 0)


async def test_a_permission_that_is_missing_is_named(process: EngineProcess) -> None:
    async with Processes.on(process) as they:
        process.command("ACL SETUSER default resetchannels")
        late = FakeEndpoint(they.one)
        with trio.fail_after(BACK):
            while True:
                with pytest.raises(LayerUnavailable) as caught:
                    await Group("new", they.one).add(late.channel)
                if "permission" in str(caught.value):
                    break
                await trio.sleep(0.01)
        assert not they.one._groups._fan_out.names("new")
        process.command("ACL SETUSER default allchannels")
        await they.are_well()
        await Group("new", they.one).add(late.channel)
        they.one.detach(late)


async def test_a_fault_within_its_tasks_ends_the_link_and_no_more(
    process: EngineProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from coredis.connection import BaseConnection

    async with Processes.on(process) as they:
        received = BaseConnection._data_received

        def fault(self: BaseConnection, data: bytes) -> None:
            monkeypatch.setattr(BaseConnection, "_data_received", received)
            raise ZeroDivisionError

        monkeypatch.setattr(BaseConnection, "_data_received", fault)
        with contextlib.suppress(LayerUnavailable):
            await Group("room", they.one).send({"text": "lost"})
        await they.are_well()

        def broken(data: bytes) -> None:
            raise ZeroDivisionError("in what is heard")

        subscriptions = they.two.engine.subscriptions
        wanted = subscriptions._wanted[they.two.engine.topic("group", "room").encode()]
        monkeypatch.setattr(wanted, "take", broken)
        await Group("room", they.one).send({"text": "lost"})
        await trio.sleep(0.02)
        monkeypatch.undo()
        await they.are_well()
        assert "ZeroDivisionError: in what is heard; trying again" in caplog.text


async def test_the_end_does_not_wait_for_an_engine_that_hangs(process: EngineProcess) -> None:
    layer = RedisLayer(process.url)
    async with layer.running():
        member = FakeEndpoint(layer)
        await Group("room").add(member.channel)
        process.pause()
        layer.detach(member)
        ending = time.monotonic()
    assert time.monotonic() - ending < 0.5


async def test_a_fault_while_it_ends_is_no_failure_of_the_server_s(process: EngineProcess) -> None:
    layer = layer_on(process)
    hold = layer.engine._hold

    async def raise_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async def with_a_fault(*arguments: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raise_at_the_end)
            await hold(*arguments)

    layer.engine._hold = with_a_fault  # type: ignore[assignment, method-assign]
    async with layer.running():
        assert layer.engine._link is not None


async def test_kills_and_restarts_leave_nothing_behind(
    process: EngineProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_AGAIN", 0.01)

    def tasks() -> int:
        return trio.lowlevel.current_statistics().tasks_living

    def sockets() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with Processes.on(process) as they:
        await they.are_well()
        before = (tasks(), sockets())
        for round in range(50):
            if round % 20 == 5:
                process.pause()
                await told_in_time(lambda: Group("room", they.one).send({"text": "lost"}), "the engine")
            process.restart()
            # In the midst of joining and leaving.
            late = FakeEndpoint(they.one)
            with trio.move_on_after(0.001 * (round % 7)):
                await Group("room", they.one).add(late.channel)
                await Group("other", they.one).add(late.channel)
            they.one.detach(late)
            await until(lambda: min(they.one.gaps, they.two.gaps) > round)  # noqa: B023 - awaited at once
            if round % 5 == 4:
                await they.are_well()
        assert they.one.gaps >= 50
        assert they.two.gaps >= 50
        assert len(they.one.engine.subscriptions) == 4
        assert not they.one._inbox._asked
        await trio.sleep(0.1)
        assert (tasks(), sockets()) <= (before[0] + 2, before[1] + 2)


# -- what the program sees


class Stateful(WebsocketConsumer):
    """Sends its state anew where something may have been missed."""

    groups = ("all",)
    told: ClassVar[list[tuple[float, Any]]] = []

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.group_send("all", text=text)

    async def layer_gap(self, message: Message, name: str) -> None:
        assert message.channel.name == "websocket.layer_gap"
        assert self.kwargs == {"name": name}
        self.told.append((message["seconds"], self.connection.path))
        if name == "crash":
            raise ZeroDivisionError
        await self.send(f"{name} again")


class Plain(WebsocketConsumer):
    groups = ("all",)

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.send(text)


class Stream(JsonWebsocketConsumer):
    async def layer_gap(self, message: Message, multiplexer: Any) -> None:
        await multiplexer.send({"stream": multiplexer.stream})


class Other(JsonWebsocketConsumer):
    """A stream without the hook."""


class Streams(WebsocketDemultiplexer):
    consumers: ClassVar[Any] = {"a": Stream, "b": Other, "c": Stream}


ROUTING = [
    route_class(Stateful, path=r"^/stateful/(?P<name>\w+)/"),
    route_class(Streams, path=r"^/streams/"),
    route_class(Plain),
]


async def test_consumers_are_told_of_a_gap(process: EngineProcess, caplog: pytest.LogCaptureFixture) -> None:
    Stateful.told.clear()
    async with (
        Client(ROUTING, layer=layer_on(process)) as client,
        client.websocket("/stateful/one/") as one,
        client.websocket("/stateful/two/") as two,
        client.websocket("/streams/") as streams,
        client.websocket("/plain/") as plain,
        client.websocket("/stateful/crash/") as crash,
    ):
        process.kill()
        layer = current_layer()
        assert isinstance(layer, RedisLayer)
        await until(lambda: layer.engine._link is None)
        # Sockets stay, also those whose handlers send; and new ones are told.
        await one.send("to nobody")
        await plain.send("a")
        assert await plain.receive() == "a"
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket("/stateful/late/"):
                raise AssertionError
        assert refused.value.status == 503
        assert "Stateful on '/stateful/late/' could not connect: the engine at unix://" in caplog.text
        assert len(caplog.records) == 2  # that, and that it is gone
        process.start()
        assert await one.receive() == "one again"
        assert await two.receive() == "two again"
        for stream in ("a", "c"):
            assert await streams.receive_json() == {"stream": stream, "payload": {"stream": stream}}
        with pytest.raises(ConnectionClosed) as closed:
            await crash.receive()
        assert closed.value.code == 1011
        assert sorted(path for _, path in Stateful.told) == [
            f"/stateful/{each}/" for each in ("crash", "one", "two")
        ]
        assert all(0 < seconds < 3 for seconds, _ in Stateful.told)
        await one.send("to all")
        for each in (one, two, plain):
            assert await each.receive() == "to all"

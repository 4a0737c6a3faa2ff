"""What a connection does with what it receives, in virtual time: the ordering modes, the inbox, the outbox's limits."""

from __future__ import annotations

import contextlib
import functools
import zlib
from typing import Any

import pytest
import trio
import trio.testing
from raw_clients import RawClient, close_frame, handshake
from raw_clients import frame as raw_frame
from recorder import Recorder, frame, nothing_left, wait_and_raise
from served import connection_of
from websockets.frames import Opcode

from triochan import Channel, Group, Settings, route
from triochan.generic.websockets import WebsocketConsumer
from triochan.test import Client, WSClient
from triochan.test.client import HandshakeRefused

# -- ordering ---------------------------------------------------------------------------------------------------------


class Tracker:
    """How many handlers ran at once, and in which order they began."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.began: list[str] = []
        self.log: list[str] = []

    async def handle(self, name: str, seconds: float) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        self.began.append(name)
        self.log.append(f"+{name}")
        try:
            if seconds:
                await trio.sleep(seconds)
        finally:
            self.running -= 1
            self.log.append(f"-{name}")


def tracked(tracker: Tracker, connect: float, receive: float, **attributes: Any) -> list[Any]:
    class Tracked(WebsocketConsumer):
        async def connect(self, message: Any, **kwargs: Any) -> None:
            await message.reply_channel.send({"accept": True})
            await tracker.handle("connect", connect)

        async def receive(self, text: Any = None, **kwargs: Any) -> None:
            await tracker.handle(text, receive)

        async def disconnect(self, message: Any, **kwargs: Any) -> None:
            await tracker.handle("disconnect", 0)

    return [Tracked.as_route(attributes)]


async def run_tracked(routing: list[Any], messages: int, **settings: Any) -> None:
    async with Client(routing, settings=Settings(**settings)) as client, client.websocket("/") as socket:
        for number in range(messages):
            await socket.send(str(number))
        await socket.close()
        await nothing_left(client)


async def test_strict_ordering(autojump_clock: trio.testing.MockClock) -> None:
    tracker = Tracker()
    await run_tracked(tracked(tracker, 1, 0.1, strict_ordering=True), 10)
    assert tracker.most == 1
    assert tracker.began == ["connect", *map(str, range(10)), "disconnect"]


async def test_slight_ordering(autojump_clock: trio.testing.MockClock) -> None:
    tracker = Tracker()
    await run_tracked(tracked(tracker, 1, 0.5, slight_ordering=True), 6)
    assert tracker.log[:2] == ["+connect", "-connect"]
    assert tracker.most == 6
    assert tracker.began == ["connect", *map(str, range(6)), "disconnect"]
    assert tracker.log[-2:] == ["+disconnect", "-disconnect"]


async def test_without_ordering_receives_overlap_connect(autojump_clock: trio.testing.MockClock) -> None:
    tracker = Tracker()
    await run_tracked(tracked(tracker, 1, 0.1), 3)
    assert tracker.log.index("-connect") > tracker.log.index("-2")
    assert tracker.began[-1] == "disconnect"
    assert tracker.log[-2:] == ["+disconnect", "-disconnect"]


async def test_at_most_max_overlap_handlers_run_at_once(autojump_clock: trio.testing.MockClock) -> None:
    tracker = Tracker()
    await run_tracked(tracked(tracker, 0, 1), 20)
    assert tracker.most == 8
    tracker = Tracker()
    await run_tracked(tracked(tracker, 0, 1, max_overlap=3), 20)
    assert tracker.most == 3
    assert sorted(tracker.began, key=str) == sorted([*map(str, range(20)), "connect", "disconnect"], key=str)


async def test_a_raising_handler_never_wedges_the_order(autojump_clock: trio.testing.MockClock) -> None:
    record = Recorder(strict_ordering=True)
    record.hooks["receive"] = wait_and_raise
    async with Client(record.routing) as client, client.websocket("/") as socket:
        for number in range(5):
            await socket.send(str(number))
        assert (await socket.wait_closed()).code == 1011
        await nothing_left(client)
    assert record.events[:5] == [*map(str, range(5))]
    assert [event[:2] for event in record.disconnects] == [("disconnect", 1011)]


@pytest.mark.parametrize("attributes", [{"strict_ordering": True}, {"slight_ordering": True}, {}])
async def test_pings_and_closes_are_seen_while_handlers_wait(
    attributes: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    tracker = Tracker()
    async with Client(tracked(tracker, 0, 5, **attributes)) as client, client.websocket("/") as socket:
        for number in range(12):
            await socket.send(str(number))
        started = trio.current_time()
        await socket._websocket.ping()
        await socket.close()
        assert trio.current_time() == started
        await trio.lowlevel.checkpoint()


# -- the inbox and the outbox -----------------------------------------------------------------------------------------


async def test_a_full_inbox_pauses_reading_and_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    record = Recorder(strict_ordering=True)

    async def slow(consumer: Any, data: Any) -> None:
        await trio.sleep(1)

    record.hooks["receive"] = slow
    settings = Settings(inbox_limit=4)
    async with (
        Client(record.routing, settings=settings, lockstep=True) as client,
        client.websocket("/") as socket,
    ):
        started = trio.current_time()
        for number in range(20):
            await socket.send(str(number))
        # One runs, four wait, one is in the reader's hands: the rest was written only as fast as it was handled.
        assert trio.current_time() - started >= 12
        await trio.sleep(20)
        assert record.events == [*map(str, range(20))]
        await socket.close()


async def test_a_batch_larger_than_the_inbox_is_handled_in_order() -> None:
    record = Recorder(strict_ordering=True)
    async with Client(record.routing) as client, client.websocket("/") as socket:
        await socket.stream.send_all(
            b"".join(frame(Opcode.TEXT, str(number).encode()) for number in range(1000))
        )
        await socket.close()
        await nothing_left(client)
    assert record.events[:1000] == [*map(str, range(1000))]


@pytest.mark.parametrize(
    "attributes", [{"strict_ordering": True}, {"slight_ordering": True}, {"max_overlap": 3}]
)
async def test_a_full_inbox_takes_no_more_however_often_it_is_asked(
    attributes: dict[str, Any], autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    record = Recorder(**attributes)

    async def slow(consumer: Any, data: Any) -> None:
        await trio.sleep(1)

    record.hooks["receive"] = slow
    settings = Settings(inbox_limit=4, stall_timeout=100, ping_interval=0)
    async with Client(record.routing, settings=settings) as client, client.websocket("/") as socket:
        batch = b"".join(frame(Opcode.TEXT, str(number).encode()) for number in range(40))
        await socket.stream.send_all(batch)
        for _ in range(10):  # whatever wakes a reader for a connection
            connection = connection_of(client.runtime)
            client.runtime.readers.again(connection.inbound)
            await trio.testing.wait_all_tasks_blocked()
            assert connection.inbound.waiting <= 4
        await trio.sleep(45)
        await socket.close()
        await nothing_left(client)
    assert record.events[:40] == [*map(str, range(40))]
    assert not caplog.records


async def test_an_inbox_takes_few_bombs_at_once(autojump_clock: trio.testing.MockClock) -> None:
    record = Recorder(strict_ordering=True, compression=True)

    async def slow(consumer: Any, data: Any) -> None:
        await trio.sleep(1)

    record.hooks["receive"] = slow
    settings = Settings(ping_interval=0)
    size = settings.max_message_size
    compressor = zlib.compressobj(wbits=-15)
    bomb = (compressor.compress(bytes(size)) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    compressed = raw_frame(Opcode.BINARY, bomb, reserved=4)
    offer = ["Sec-WebSocket-Extensions: permessage-deflate"]
    async with Client(record.routing, settings=settings) as client:
        peer = RawClient(client.connect())
        await peer.send(handshake("/", offer) + compressed * 20)
        assert "permessage-deflate" in (await peer.head())["sec-websocket-extensions"]
        connection = connection_of(client.runtime)
        most = 0
        while len(record.events) < 20:
            most = max(most, connection.inbound.waiting)
            await trio.sleep(0.25)
        assert 1 <= most <= 2  # the one that fills it, and a batch ends with it
        assert record.events == [bytes(size)] * 20
        await trio.aclose_forcefully(peer.stream)
        await nothing_left(client)


async def test_send_waits_while_the_outbox_is_full(autojump_clock: trio.testing.MockClock) -> None:
    sent: list[int] = []
    record = Recorder()

    async def send_much(consumer: Any, data: Any) -> None:
        for number in range(50):
            await consumer.send("x" * 1000)
            sent.append(number)

    record.hooks["receive"] = send_much
    settings = Settings(outbox_limit=10_000, ping_interval=0)
    async with (
        Client(record.routing, settings=settings, lockstep=True) as client,
        client.websocket("/") as socket,
    ):
        await socket.send("go")
        await trio.testing.wait_all_tasks_blocked()
        assert 0 < len(sent) < 20
        for _ in range(50):
            assert await socket.receive() == "x" * 1000
        await trio.testing.wait_all_tasks_blocked()
        assert len(sent) == 50
        assert client.runtime.websockets


@pytest.mark.parametrize("attributes", [{"strict_ordering": True}, {}])
async def test_reading_goes_on_when_the_peer_has_taken_what_it_was_sent(
    attributes: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    record = Recorder(**attributes)

    async def echo(consumer: Any, data: Any) -> None:
        await consumer.send(data)

    record.hooks["receive"] = echo
    settings = Settings(outbox_limit=1000, ping_interval=0)
    async with Client(record.routing, settings=settings, lockstep=True) as client:
        peer = RawClient(client.connect())
        await peer.send(handshake("/"))
        await peer.head()
        connection: Any = next(iter(client.runtime.websockets))

        def paused() -> bool:
            return bool(connection.inbound.paused)

        # The echo is on its way, and the pongs, which no limit holds back, wait behind it.
        await peer.send(raw_frame(Opcode.TEXT, "1" * 5000))
        await peer.send(raw_frame(Opcode.PING, "p" * 100) * 40)
        await trio.testing.wait_all_tasks_blocked()
        assert paused()
        assert await peer.message() == "1" * 5000
        assert [await peer.frame() for _ in range(40)] == [(Opcode.PONG, b"p" * 100)] * 40
        await trio.testing.wait_all_tasks_blocked()
        assert not paused()
        await peer.send(close_frame())
        assert await peer.ended() == (1000, "")
    assert record.disconnects[0][1] == 1000


async def test_pongs_to_many_pings_leave_in_one_write(autojump_clock: trio.testing.MockClock) -> None:
    record = Recorder()
    async with Client(record.routing) as client, client.websocket("/") as socket:
        await trio.testing.wait_all_tasks_blocked()
        connection: Any = next(iter(client.runtime.websockets))
        writes: list[bytes] = []
        write = connection.outbox._send

        def count(data: bytes) -> int:
            writes.append(data)
            return int(write(data))

        connection.outbox._send = connection.outbox.direct = count
        pings = [frame(Opcode.PING, str(number).encode()) for number in range(50)]
        await socket.stream.send_all(b"".join(pings))
        await trio.testing.wait_all_tasks_blocked()
        assert len(writes) == 1
        assert writes[0].startswith(b"\x8a\x010\x8a\x011")
        assert writes[0].endswith(b"\x8a\x0249")


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
async def test_overflow_by_dropping(policy: str, autojump_clock: trio.testing.MockClock) -> None:
    record = Recorder(overflow=policy, outbox_limit=10_000)
    settings = Settings(ping_interval=0)
    async with (
        Client(record.routing, settings=settings, lockstep=True) as client,
        client.websocket("/") as socket,
    ):
        await trio.testing.wait_all_tasks_blocked()
        for number in range(100):
            await Group("everyone").send({"text": f"{number:0>1000}"})
        received = []
        with trio.move_on_after(5):
            while True:
                received.append(int(str(await socket.receive())))
        connection = record.connections[0]
        assert len(received) + connection.dropped == 100
        assert received == sorted(received)
        assert connection.dropped > 50
        assert (received[-1] == 99) == (policy == "drop_oldest")
        await Group("everyone").send({"text": "still here"})
        assert await socket.receive() == "still here"


async def test_one_stalled_member_slows_nobody(autojump_clock: trio.testing.MockClock) -> None:
    record = Recorder()
    settings = Settings(ping_interval=0)
    async with Client(record.routing, settings=settings, lockstep=True) as slow_client:
        async with slow_client.websocket("/"):
            async with Client(record.routing, settings=settings) as client, client.websocket("/") as fast:
                started = trio.current_time()
                for number in range(3000):
                    await Group("everyone").send({"text": f"{number:0>1000}"})
                    assert int(str(await fast.receive())) == number
                assert trio.current_time() == started
        assert max(connection.outbox.size for connection in record.connections) <= 1024 * 1024


@pytest.mark.parametrize(
    "rubbish",
    [frame(Opcode.TEXT, b"x", mask=False), frame(Opcode.TEXT, b"\xff")],
    ids=["not masked", "not UTF-8"],
)
async def test_what_came_before_an_undecodable_frame_is_answered(rubbish: bytes) -> None:
    async def echo(message: Any) -> None:
        await message.reply_channel.send({"text": message["text"]})

    async with WSClient([route("websocket.receive", echo)]) as socket:
        await socket.stream.send_all(b"".join(frame(Opcode.TEXT, each) for each in (b"1", b"2")) + rubbish)
        assert [await socket.receive(), await socket.receive()] == ["1", "2"]
        assert (await socket.wait_closed()).code in (1002, 1007)


@pytest.mark.parametrize("apart", [False, True])
async def test_a_ping_is_answered_before_the_message_behind_it(apart: bool) -> None:
    async def echo(message: Any) -> None:
        await message.reply_channel.send({"text": message["text"]})

    routing = [route("websocket.receive", echo)]
    async with Client(routing) as client, client.websocket("/") as socket:
        # The client's own reader would take the pong: what the server writes is looked at below it.
        written: list[bytes] = []
        connection = connection_of(client.runtime)
        transport: Any = connection._transport
        send_some = transport._stream.send_all

        async def record(data: bytes) -> None:
            written.append(bytes(data))
            await send_some(data)

        transport._stream.send_all = record
        pieces = [
            frame(Opcode.TEXT, b"one", fin=False),
            frame(Opcode.PING, b"?"),
            frame(Opcode.CONT, b"two"),
        ]
        for piece in pieces if apart else [b"".join(pieces)]:
            await socket.stream.send_all(piece)
        assert await socket.receive() == "onetwo"
        assert b"".join(written).startswith(b"\x8a\x01?\x81\x06onetwo")


# -- what a decorator makes of a handler -------------------------------------------------------------------------------


class Awaitable:
    """Awaitable, and no coroutine."""

    def __init__(self, coroutine: Any) -> None:
        self.coroutine = coroutine

    def __await__(self) -> Any:
        return self.coroutine.__await__()


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("kind", ["function", "method"])
@pytest.mark.parametrize("batch", [1, 3])
async def test_a_decorator_may_give_back_any_awaitable(waits: bool, kind: str, batch: int) -> None:
    def decorated(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Awaitable:
            return Awaitable(function(*args, **kwargs))

        return wrapper

    @decorated
    async def echo(message: Any) -> None:
        if waits:
            await trio.lowlevel.checkpoint()
        await message.reply_channel.send({"text": message["text"]})

    class Echo(WebsocketConsumer):
        @decorated
        async def receive(self, text: str | None = None, **kwargs: Any) -> None:
            await echo(self.message)

    routing = [route("websocket.receive", echo) if kind == "function" else Echo.as_route()]
    async with WSClient(routing) as socket:
        for index in range(batch):
            await socket.send(str(index))
        assert sorted([str(await socket.receive()) for _ in range(batch)]) == [
            str(index) for index in range(batch)
        ]


@pytest.mark.parametrize("given", [None, 5, "no"])
@pytest.mark.parametrize("kind", ["function", "method"])
@pytest.mark.parametrize("on", ["connect", "receive", "disconnect"])
async def test_a_decorator_that_gives_back_nothing_to_await(
    given: Any, kind: str, on: str, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    def decorated(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return given

        return wrapper

    @decorated
    async def handler(message: Any) -> None: ...

    class Consumer(WebsocketConsumer):
        @decorated
        async def connect(self, message: Any, **kwargs: Any) -> None: ...

    wrong = Consumer.connect
    for name in ("connect", "receive", "disconnect"):
        setattr(Consumer, name, wrong if name == on else getattr(WebsocketConsumer, name))
    routing = [route(f"websocket.{on}", handler) if kind == "function" else Consumer.as_route()]
    async with Client(routing) as client:
        with contextlib.suppress(HandshakeRefused):
            async with client.websocket("/") as socket:
                await socket.send("x")
                if on == "receive":
                    assert (await socket.wait_closed()).code == 1011
        await nothing_left(client)
    [record] = caplog.records
    assert f"raised in {on} on '/'" in record.getMessage()
    assert "can't be used in 'await' expression" in str(record.exc_info and record.exc_info[1])


@pytest.mark.parametrize("waits", [False, True])
async def test_a_send_to_another_connection_that_is_gone_is_told(
    waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    names: list[str] = []

    class Relay(WebsocketConsumer):
        async def connect(self, message: Any, **kwargs: Any) -> None:
            names.append(message.reply_channel.name)

        async def receive(self, text: str | None = None, **kwargs: Any) -> None:
            if waits:
                await trio.lowlevel.checkpoint()
            if text == "relay":
                await Channel(names[0]).send({"text": "hello"})
            await self.send("not relayed")

    async with Client([Relay.as_route()]) as client:
        async with client.websocket("/"):
            pass
        async with client.websocket("/") as socket:
            await socket.send("relay")
            await trio.testing.wait_all_tasks_blocked()
            await socket.send("x")
            assert await socket.receive() == "not relayed"
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert (
        "Relay broke off in receive on '/': it sent to another connection, which is gone"
        in record.getMessage()
    )

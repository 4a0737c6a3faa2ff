"""What comes in on one WebSocket: read in turn, in order, and no more of it than there is room for."""

from __future__ import annotations

import ssl
import zlib
from typing import Any

import pytest
import trio
import trustme
from raw_clients import PING, PONG, TEXT, RawClient, close_frame, frame, handshake
from served import connection_of, serving
from trio.testing import MockClock, wait_all_tasks_blocked

from triochan import Settings, route, route_class
from triochan.generic.websockets import WebsocketConsumer

TLS = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture(scope="module")
def certificates() -> TLS:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    server.options |= ssl.OP_NO_RENEGOTIATION
    return server, client


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, certificates: TLS) -> TLS | None:
    return certificates if request.param == "tls" else None


async def echo(message: Any) -> None:
    await message.reply_channel.send({"text": message["text"]})


ROUTING = [route("websocket.receive", echo)]


class Echo(WebsocketConsumer):
    async def receive(self, text: Any = None, **kwargs: Any) -> None:
        await self.send(text=text)


class Slow:
    """A consumer whose handlers take their time; how many ran at once, and when each ended."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.running = self.most = 0
        self.ended: list[float] = []
        self.disconnected: list[tuple[float, int]] = []

    def routing(self, **attributes: Any) -> list[Any]:
        slow = self

        class Waiting(WebsocketConsumer):
            async def receive(self, text: Any = None, **kwargs: Any) -> None:
                slow.running += 1
                slow.most = max(slow.most, slow.running)
                try:
                    await trio.sleep(slow.seconds)
                finally:
                    slow.running -= 1
                    slow.ended.append(trio.current_time())
                await self.send(text=text)

            async def disconnect(self, message: Any, **kwargs: Any) -> None:
                assert not slow.running
                slow.disconnected.append((trio.current_time(), message["code"]))

        return [Waiting.as_route(attributes)]


class Steps:
    """Counts the steps of the server's readers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, readers: Any) -> None:
        self.count = 0
        step = readers._step

        def counted(*where: Any) -> Any:
            self.count += 1
            return step(*where)

        monkeypatch.setattr(readers, "_step", counted)


# -- a peer that does not read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [(4, 2000), (64, 2000), (4, 1_000_000), (1, 1)])
async def test_a_peer_that_sends_much_before_it_reads_gets_every_answer(
    tls: TLS | None, limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inbox and outbox are full at once, reading pauses and goes on, writing blocks and goes on; nothing is stuck."""
    inbox_limit, outbox_limit = limits
    settings = Settings(inbox_limit=inbox_limit, outbox_limit=outbox_limit, ping_interval=0)
    count = 1000
    async with serving(ROUTING, settings=settings) as server:
        async with await server.websocket(tls=tls, send_buffer=4096) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, *[frame(TEXT, f"{n:0>1000}") for n in range(count)])
                await wait_all_tasks_blocked()
                connection = connection_of(server.runtime)
                assert connection.outbox.size
                got = [int(await client.message()) for _ in range(count)]
            assert sorted(got) == list(range(count))
            assert connection.outbox.size == 0
            # What was waited for is not waited for any more: the loop is at rest.
            await wait_all_tasks_blocked()
            steps = Steps(monkeypatch, server.runtime.readers)
            await trio.sleep(0.05)
            assert steps.count < 5


async def test_pings_of_a_peer_that_does_not_read_are_bounded(tls: TLS | None) -> None:
    """Pongs wait for nobody, so it is reading that stops; when they have left it goes on by itself."""
    settings = Settings(outbox_limit=5000, ping_interval=0)
    ping = frame(9, b"x" * 120)
    count = 4000
    async with serving(ROUTING, settings=settings) as server:
        async with await server.websocket(tls=tls, send_buffer=4096) as client:
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    await client.send(*[ping * 100 for _ in range(count // 100)], frame(TEXT, "behind"))

                nursery.start_soon(send)
                await wait_all_tasks_blocked()
                connection = connection_of(server.runtime)
                assert connection.inbound.paused
                assert connection.outbox.size < 100_000
                pongs = 0
                while True:
                    kind, payload = await client.frame()
                    if kind == TEXT:
                        break
                    pongs += 1
            assert (pongs, payload) == (count, b"behind")
            assert not connection.inbound.paused


# -- what comes behind messages ---------------------------------------------------------------------------------------


def arrive(client: RawClient, data: bytes) -> None:
    """Put ``data`` before the server in one piece: none of its tasks runs in between."""
    stream: Any = client.stream
    assert stream.socket._sock.send(data) == len(data)


MANY = b"".join(frame(TEXT, str(number)) for number in range(200))


@pytest.mark.parametrize("attributes", [{}, {"strict_ordering": True}, {"max_overlap": 3}], ids=str)
async def test_answers_to_what_came_before_a_close_leave_before_its_echo(attributes: dict[str, Any]) -> None:
    async with serving([Echo.as_route(attributes)], settings=Settings(inbox_limit=10)) as server:
        async with await server.websocket() as client:
            arrive(client, MANY + close_frame(4001, b"bye") + frame(TEXT, "behind"))
            assert [int(await client.message()) for _ in range(200)] == list(range(200))
            assert await client.closing() == (4001, "bye")
            assert await client.rest() == b""


@pytest.mark.parametrize(
    ("rubbish", "code"),
    [
        (b"\x81\x01x", 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(3, "x"), 1002),
        (frame(PING, "x" * 126), 1002),
    ],
    ids=["unmasked", "not utf-8", "opcode", "long ping"],
)
async def test_answers_to_what_came_before_rubbish_leave_before_the_close(rubbish: bytes, code: int) -> None:
    async with serving([Echo.as_route()], settings=Settings(inbox_limit=10)) as server:
        async with await server.websocket() as client:
            arrive(client, MANY + rubbish + frame(TEXT, "behind"))
            assert [int(await client.message()) for _ in range(200)] == list(range(200))
            assert (await client.closing())[0] == code
            assert await client.rest() == b""


async def test_a_ping_is_answered_and_a_close_seen_while_all_handlers_wait(autojump_clock: MockClock) -> None:
    slow = Slow(1000)
    async with serving(slow.routing(max_overlap=2), settings=Settings(disconnect_timeout=3)) as server:
        async with await server.websocket() as client:
            arrive(client, frame(TEXT, "x") * 5 + frame(PING, "one"))
            assert await client.frame() == (PONG, b"one")
            await wait_all_tasks_blocked()
            assert slow.most == 2
            arrive(client, frame(PING, "two") + close_frame(4001))
            assert await client.frame() == (PONG, b"two")
            assert (await client.closing())[0] == 4001
            began = trio.current_time()
            await trio.sleep(50)
    assert slow.ended == [began + 3] * 2
    assert slow.disconnected == [(began + 3, 4001)]


# -- how many at once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("apart", [False, True])
async def test_no_more_handlers_run_at_once_than_may(
    limit: int, apart: bool, autojump_clock: MockClock
) -> None:
    slow, count = Slow(1), 20
    settings = Settings(max_overlap=20)
    async with (
        serving(slow.routing(max_overlap=limit), settings=settings) as server,
        await server.websocket() as client,
    ):
        began = trio.current_time()
        for number in range(count):
            arrive(client, frame(TEXT, str(number)))
            if apart:
                await wait_all_tasks_blocked()
        got = [int(await client.message()) for _ in range(count)]
        assert trio.current_time() - began == -(-count // limit)
    assert slow.most == limit
    assert sorted(got) == list(range(count))
    if limit == 1:
        assert got == sorted(got)


# -- a program that is stuck ------------------------------------------------------------------------------------------


async def test_an_inbox_that_stays_full_is_the_end_and_one_that_does_not_is_not(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """stall_timeout runs from when the inbox is full, and begins anew each time that it is not."""
    settings = Settings(inbox_limit=4, stall_timeout=10, ping_interval=0)
    for seconds, stalls in ((9, False), (11, True)):
        slow = Slow(seconds)
        async with serving(slow.routing(strict_ordering=True), settings=settings) as server:
            async with await server.websocket() as client:
                client.patience = 1000
                began = trio.current_time()
                arrive(client, frame(TEXT, "x") * 12)
                if stalls:
                    assert (await client.ended())[0] == 1013
                    assert trio.current_time() == began + 10
                else:
                    for _ in range(12):
                        assert await client.message() == "x"
                    assert trio.current_time() == began + 12 * seconds
        if stalls:
            assert slow.ended == [began + 10]
            assert slow.disconnected == [(began + 10, 1013)]
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("the inbox on '/' was full for 10 s: the handlers of ")
    assert ".Waiting are cancelled" in line
    assert "4 that wait are passed over" in line


@pytest.mark.parametrize("behind", [0, 3])
async def test_an_inbox_that_has_room_again_is_read_while_its_handler_takes_long(
    behind: int, tls: TLS | None, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Closes and pings are seen at once then, whether or not more was read than the inbox had room for."""
    settings = Settings(inbox_limit=4, stall_timeout=10, disconnect_timeout=60, ping_interval=0)
    gate = trio.Event()
    order: list[str] = []

    class Long(WebsocketConsumer):
        strict_ordering = True

        async def receive(self, text: Any = None, **kwargs: Any) -> None:
            order.append(text)
            if text == "gate":
                await gate.wait()
            elif text == "long":
                await trio.sleep(40)

    async with serving([route_class(Long)], settings=settings) as server:
        async with await server.websocket(tls=tls) as client:
            client.patience = 1000
            first = frame(TEXT, "gate") + frame(TEXT, "x") * behind + frame(TEXT, "long")
            await client.send(first + frame(TEXT, "y") * 3)
            await wait_all_tasks_blocked()
            await client.send(frame(PING, "?") + close_frame(4001))
            await wait_all_tasks_blocked()
            gate.set()
            began = trio.current_time()
            assert await client.frame() == (PONG, b"?")
            assert (await client.closing())[0] == 4001
            assert trio.current_time() == began
            await trio.sleep(100)
    assert order == ["gate", *["x"] * behind, "long", "y", "y", "y"]
    assert not caplog.records


async def test_a_stall_ends_where_the_program_closes(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The peer has close_timeout then, and the inbox is nobody's affair any more."""
    settings = Settings(
        inbox_limit=2, stall_timeout=10, close_timeout=8, disconnect_timeout=30, ping_interval=0
    )

    class Closing(WebsocketConsumer):
        strict_ordering = True

        async def receive(self, text: Any = None, **kwargs: Any) -> None:
            await trio.sleep(5)
            await self.close(4000)
            await trio.sleep(12)

    async with serving([route_class(Closing)], settings=settings) as server:
        async with await server.websocket() as client:
            client.patience = 1000
            began = trio.current_time()
            arrive(client, frame(TEXT, "x") * 3)
            assert (await client.closing())[0] == 4000
            assert trio.current_time() == began + 5
            assert await client.rest() == b""
            assert trio.current_time() == began + 13
            await trio.sleep(100)
    assert not [record for record in caplog.records if "was full" in record.getMessage()]


# -- compressed -------------------------------------------------------------------------------------------------------


async def test_compressed_messages_take_the_same_way() -> None:
    routing = [Echo.as_route({"compression": True})]
    async with serving(routing, settings=Settings(compression_threshold=1)) as server:
        client = server.connect()
        async with client:
            await client.send(handshake("/", ["Sec-WebSocket-Extensions: permessage-deflate"]))
            assert "permessage-deflate" in (await client.head())["sec-websocket-extensions"]
            pieces = []
            for number in range(50):
                compress = zlib.compressobj(wbits=-15)
                data = compress.compress(f"message {number} ".encode() * 20) + compress.flush(
                    zlib.Z_SYNC_FLUSH
                )
                pieces.append(frame(TEXT, data[:-4], reserved=4))
            arrive(client, b"".join(pieces) + frame(TEXT, "plain") + close_frame(4001))
            inflate = zlib.decompressobj(wbits=-15)
            got = []
            for _ in range(51):
                first, second = await client.take(2)
                size = second if second < 126 else int.from_bytes(await client.take(2), "big")
                data = await client.take(size)
                assert first & 0x8F == 0x81
                got.append((inflate.decompress(data + b"\0\0\xff\xff") if first & 0x40 else data).decode())
            assert got == [f"message {number} " * 20 for number in range(50)] + ["plain"]
            assert (await client.closing())[0] == 4001


async def test_handlers_that_are_cancelled_with_the_server_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stuck(WebsocketConsumer):
        async def receive(self, text: Any = None, **kwargs: Any) -> None:
            await trio.sleep_forever()

    async with serving([route_class(Stuck)]) as server:
        async with await server.websocket("/here") as client:
            await client.send(frame(TEXT, "x"))
            await wait_all_tasks_blocked()
            server.connections.cancel_scope.cancel()
    name = f"{__name__}.{Stuck.__qualname__}"
    assert [each.getMessage() for each in caplog.records] == [
        f"the shutdown cut off {name} in receive on '/here'"
    ]

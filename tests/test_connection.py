"""What a connection promises (docs/architecture.md), in virtual time: every way out, the ordering modes, the limits."""

from __future__ import annotations

import gc
import json
import logging
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from websockets.frames import Frame, Opcode

from triochan import Application, Group, Settings, route, route_class
from triochan.exceptions import ConnectionClosed, DenyConnection
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer
from triochan.http import text
from triochan.sessions import MemorySessionStore, http_session
from triochan.test import Client, TestWebsocket, WSClient
from triochan.test.client import HandshakeRefused


def frame(opcode: Opcode, data: bytes, *, fin: bool = True, mask: bool = True) -> bytes:
    """A client's frame, by the `websockets` library."""
    return Frame(opcode, data, fin).serialize(mask=mask)


class Recorder:
    """A consumer class that writes down what happens to it, and can be told what to do."""

    def __init__(self, **attributes: Any) -> None:
        self.events: list[Any] = []
        self.connections: list[Any] = []
        record = self

        class Recording(WebsocketConsumer):
            groups = ["everyone"]

            async def connect(self, message: Any, **kwargs: Any) -> None:
                record.connections.append(self.connection)
                await message.reply_channel.send({"accept": True})
                await record.on("connect", self, None)

            async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
                record.events.append(text if text is not None else bytes)
                await record.on("receive", self, text if text is not None else bytes)

            async def disconnect(self, message: Any, **kwargs: Any) -> None:
                record.events.append(("disconnect", message["code"], message["reason"]))
                if message.http_session is not None:
                    message.http_session["left"] = message["code"]
                await record.on("disconnect", self, None)

        @http_session
        async def begin(message: Any) -> None:
            message.http_session["begun"] = True
            await message.reply_channel.send(text("a session"))

        self.hooks: dict[str, Callable[[Any, Any], Awaitable[None]]] = {}
        self.routing = [Recording.as_route(attributes, path="^/$"), route("http.request", begin)]

    async def on(self, what: str, consumer: Any, data: Any) -> None:
        hook = self.hooks.get(what)
        if hook is not None:
            await hook(consumer, data)

    @property
    def disconnects(self) -> list[Any]:
        return [event for event in self.events if isinstance(event, tuple)]


async def nothing_left(client: Client) -> None:
    """The connection has left no trace: wait for its task to end, then look."""
    with trio.fail_after(100):
        while client._nursery.child_tasks:
            await trio.testing.wait_all_tasks_blocked()
            if client._nursery.child_tasks:
                await trio.sleep(1)
    assert not client.runtime.websockets
    assert not client.runtime.layer._endpoints
    assert not client.runtime.keepalive._due
    assert len(client.runtime.layer.groups) == 0


# -- every way out ----------------------------------------------------------------------------------------------------


async def raise_error(consumer: Any, data: Any) -> None:
    raise RuntimeError("on purpose")


async def wait_and_raise(consumer: Any, data: Any) -> None:
    await trio.sleep(1)
    raise RuntimeError("on purpose")


async def hang(consumer: Any, data: Any) -> None:
    await trio.sleep_forever()


async def close_by_client(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    await socket.close(4001, "enough")


async def close_by_server(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    async def close(consumer: Any, data: Any) -> None:
        await consumer.close(4002, "go")

    record.hooks["receive"] = close
    await socket.send("x")
    closed = await socket.wait_closed()
    assert (closed.code, closed.reason) == (4002, "go")


async def vanish(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    await socket.vanish()


async def vanish_in_frame(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    await socket.stream.send_all(frame(Opcode.TEXT, b"half of it")[:9])
    await trio.testing.wait_all_tasks_blocked()
    await socket.vanish()


async def vanish_in_handler(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    async def slow(consumer: Any, data: Any) -> None:
        await trio.sleep(2)
        record.events.append("slow handler finished")

    record.hooks["receive"] = slow
    await socket.send("x")
    await socket.send("y")
    await trio.testing.wait_all_tasks_blocked()
    await socket.vanish()
    await nothing_left(client)
    assert record.events.count("slow handler finished") == 2
    assert record.events[-1][0] == "disconnect"


async def vanish_while_handler_hangs(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    record.hooks["receive"] = hang
    await socket.send("x")
    await trio.testing.wait_all_tasks_blocked()
    await socket.vanish()


async def crash_in_connect(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    assert (await socket.wait_closed()).code == 1011


async def crash_in_receive(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    record.hooks["receive"] = raise_error
    await socket.send("x")
    assert (await socket.wait_closed()).code == 1011


async def crash_late_in_receive(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    record.hooks["receive"] = wait_and_raise
    await socket.send("x")
    assert (await socket.wait_closed()).code == 1011


async def crash_in_disconnect(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    record.hooks["disconnect"] = raise_error
    await socket.close()


async def hang_in_disconnect(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    record.hooks["disconnect"] = hang
    await socket.close()


async def handler_timeout(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    record.hooks["receive"] = hang
    await socket.send("x")
    assert (await socket.wait_closed()).code == 1011


async def no_pong(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    # The client's reader stops when its queue of one message is full: pings lie unread.
    for _ in range(3):
        await record.connections[0].send("unread")
    await trio.sleep(60)


async def overflow(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    for _ in range(2000):
        await Group("everyone").send({"text": "x" * 1000})


async def stall(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    record.hooks["receive"] = hang
    for number in range(100):
        await socket.send(str(number))
    assert (await socket.wait_closed()).code == 1013


async def crash_in_task(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    async def spawn(consumer: Any, data: Any) -> None:
        consumer.connection.start_soon(wait_and_raise, consumer, data)

    record.hooks["receive"] = spawn
    await socket.send("x")
    assert (await socket.wait_closed()).code == 1011


async def task_ends_with_the_socket(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    ended = trio.Event()

    async def forever() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async def spawn(consumer: Any, data: Any) -> None:
        consumer.connection.start_soon(forever)

    record.hooks["receive"] = spawn
    await socket.send("x")
    await trio.testing.wait_all_tasks_blocked()
    await socket.vanish()
    await ended.wait()


async def not_utf8(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    await socket.stream.send_all(frame(Opcode.TEXT, b"\xff\xfe"))
    assert (await socket.wait_closed()).code == 1007


async def not_masked(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    await socket.stream.send_all(frame(Opcode.TEXT, b"x", mask=False))
    assert (await socket.wait_closed()).code == 1002


async def too_big(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    await socket.stream.send_all(frame(Opcode.BINARY, b"x" * (1024 * 1024 + 1)))
    assert (await socket.wait_closed()).code == 1009


async def bad_control_frame(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    await socket.stream.send_all(frame(Opcode.CLOSE, b"\x03\xec"))  # 1004 may not be sent
    assert (await socket.wait_closed()).code == 1002


async def cancel_of_everything(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    record.hooks["receive"] = hang
    await socket.send("x")
    await trio.testing.wait_all_tasks_blocked()
    client._nursery.cancel_scope.cancel()


async def shutdown(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    record.connections[0].close(1001, "going away")
    assert (await socket.wait_closed()).code == 1001


SETTINGS = Settings(handler_timeout=50)

WAYS_OUT = [
    (close_by_client, 4001, {}, False),
    (close_by_server, 4002, {}, False),
    (vanish, 1006, {}, False),
    (vanish_in_frame, 1006, {}, False),
    (vanish_in_handler, 1006, {}, False),
    (vanish_while_handler_hangs, 1006, {}, False),
    (crash_in_connect, 1011, {"connect": raise_error}, True),
    (crash_in_connect, 1011, {"connect": wait_and_raise}, True),
    (crash_in_receive, 1011, {}, True),
    (crash_late_in_receive, 1011, {}, True),
    (crash_in_disconnect, 1000, {}, True),
    (hang_in_disconnect, 1000, {}, True),
    (handler_timeout, 1011, {}, True),
    (no_pong, 1006, {}, False),
    (overflow, 1013, {}, False),
    (stall, 1013, {}, True),
    (crash_in_task, 1011, {}, True),
    (task_ends_with_the_socket, 1006, {}, False),
    (not_utf8, 1007, {}, False),
    (not_masked, 1002, {}, False),
    (too_big, 1009, {}, False),
    (bad_control_frame, 1002, {}, False),
    (cancel_of_everything, 1001, {}, False),
    (shutdown, 1001, {}, False),
]


class RecordingStore(MemorySessionStore):
    """A session store that shows what was saved."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[dict[str, Any]] = []

    async def save(self, key: str, text: str, lifetime: float, *, new: bool) -> bool:
        self.saved.append(json.loads(text))
        return await super().save(key, text, lifetime, new=new)


@pytest.mark.parametrize("mode", ["overlap", "slight", "strict", "cancel", "session"])
@pytest.mark.parametrize(
    ("way", "code", "hooks", "logged"),
    WAYS_OUT,
    ids=[f"{way[0].__name__}{i}" for i, way in enumerate(WAYS_OUT)],
)
async def test_every_way_out_runs_disconnect_once_and_leaves_nothing(
    way: Any,
    code: int,
    hooks: dict[str, Any],
    logged: bool,
    mode: str,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    attributes = {
        "overlap": {},
        "slight": {"slight_ordering": True},
        "strict": {"strict_ordering": True},
        "cancel": {"cancel_on_disconnect": True},
        "session": {"http_user_and_session": True},
    }[mode]
    if mode == "cancel" and way is vanish_in_handler:
        pytest.skip("handlers are cancelled in this mode: test_cancel_on_disconnect has it")
    record = Recorder(**attributes)
    record.hooks.update(hooks)
    lockstep = way in (no_pong, overflow)
    settings = Settings(handler_timeout=50, stall_timeout=30)
    store = RecordingStore()
    application = Application(record.routing, session_store=store, secrets=["a secret that is long enough"])
    async with Client(application, settings=settings, lockstep=lockstep) as client:
        await client.get("/")
        async with client.websocket("/") as socket:
            await way(client, socket, record)
            await nothing_left(client)
            await socket.vanish()
    if mode == "session":
        assert store.saved[-1] == {"begun": True, "left": code}
    assert [event[:2] for event in record.disconnects] == [("disconnect", code)]
    errors = [
        entry
        for entry in caplog.records
        if entry.levelno >= logging.ERROR and "messages" not in entry.message
    ]
    assert len(errors) == logged, [entry.message for entry in errors]


# -- the opening handshake --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["raise", "close", "accept False", "in a group of exceptions"])
async def test_refusal_answers_403_and_disconnect_is_not_called(how: str) -> None:
    events = []

    class Refusing(WebsocketConsumer):
        groups = ["room"]

        async def connect(self, message: Any, **kwargs: Any) -> None:
            if how == "raise":
                raise DenyConnection
            if how == "close":
                await self.close()
            elif how == "accept False":
                await message.reply_channel.send({"accept": False})
            else:
                raise ExceptionGroup("several", [DenyConnection()])

        async def disconnect(self, message: Any, **kwargs: Any) -> None:
            events.append("disconnect")

    async with Client([route_class(Refusing)]) as client:
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket("/"):
                raise AssertionError("it was accepted")
        assert refused.value.status == 403
        await nothing_left(client)
    assert events == []


async def test_a_path_without_a_consumer_is_403_before_accepting() -> None:
    async with Client([route_class(WebsocketConsumer, path="^/here$")]) as client:
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket("/there"):
                raise AssertionError("it was accepted")
        assert refused.value.status == 403


async def test_crash_before_the_decision_is_500(caplog: pytest.LogCaptureFixture) -> None:
    async def crash(message: Any) -> None:
        raise RuntimeError("on purpose")

    async with Client([route("websocket.connect", crash)]) as client:
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket("/"):
                raise AssertionError("it was accepted")
        assert refused.value.status == 500
        assert b"on purpose" not in refused.value.body
    assert len(caplog.records) == 1


async def test_no_decision_in_time_is_503(autojump_clock: trio.testing.MockClock) -> None:
    async def undecided(message: Any) -> None:
        await trio.sleep_forever()

    async with Client([route("websocket.connect", undecided)]) as client:
        started = trio.current_time()
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket("/"):
                raise AssertionError("it was accepted")
        assert refused.value.status == 503
        assert (b"retry-after", b"1") in refused.value.headers
        assert trio.current_time() - started == pytest.approx(10, abs=0.5)


async def test_only_receive_routed_accepts_by_default() -> None:
    async def echo(message: Any) -> None:
        await message.reply_channel.send({"text": message["text"]})

    async with WSClient([route("websocket.receive", echo)]) as socket:
        await socket.send("x")
        assert await socket.receive() == "x"


async def test_subprotocol_and_headers_go_with_the_accept() -> None:
    async def connect(message: Any) -> None:
        assert message["subprotocols"] == ["a", "b"]
        with pytest.raises(ValueError, match="'c' was not offered"):
            await message.reply_channel.send({"accept": True, "subprotocol": "c"})
        await message.reply_channel.send(
            {"accept": True, "subprotocol": "b", "headers": [("X-Served", "yes")]}
        )

    async with WSClient([route("websocket.connect", connect)], subprotocols=["a", "b"]) as socket:
        assert socket.subprotocol == "b"
        assert (b"x-served", b"yes") in socket.headers


async def test_data_implies_accept_and_leaves_before_a_close() -> None:
    async def connect(message: Any) -> None:
        await message.reply_channel.send({"text": "welcome"})
        await message.reply_channel.send({"text": "and goodbye", "close": 4000})

    async with WSClient([route("websocket.connect", connect)]) as socket:
        assert await socket.receive() == "welcome"
        assert await socket.receive() == "and goodbye"
        with pytest.raises(ConnectionClosed) as closed:
            await socket.receive()
        assert closed.value.code == 4000


async def test_a_group_send_does_not_decide_a_handshake_but_is_not_lost() -> None:
    decided = trio.Event()

    class Slow(WebsocketConsumer):
        groups = ["room"]

        async def connect(self, message: Any, **kwargs: Any) -> None:
            await decided.wait()

    async with Client([route_class(Slow)]) as client, trio.open_nursery() as nursery:
        received: list[Any] = []

        async def listen() -> None:
            async with client.websocket("/") as socket:
                received.append(await socket.receive())

        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        await Group("room").send({"text": "early"})
        await trio.testing.wait_all_tasks_blocked()
        assert received == []
        decided.set()
        await trio.testing.wait_all_tasks_blocked()
        assert received == ["early"]


# -- messages ---------------------------------------------------------------------------------------------------------


async def test_orders_and_contents() -> None:
    seen: list[Any] = []

    async def take(message: Any) -> None:
        seen.append((message.channel.name, dict(message.content)))

    channels = ["websocket.connect", "websocket.receive", "websocket.disconnect"]
    async with Client([route(channels, take)]) as client:
        async with client.websocket("/a%20b?c=d") as socket:
            await socket.send("text")
            await socket.send(b"bytes")
            await socket.close(1000, "bye")
        await nothing_left(client)
    connect = seen[0][1]
    assert {key: connect[key] for key in ("path", "query_string", "scheme", "order", "subprotocols")} == {
        "path": "/a b",
        "query_string": b"c=d",
        "scheme": "ws",
        "order": 0,
        "subprotocols": [],
    }
    assert seen[1:] == [
        ("websocket.receive", {"path": "/a b", "order": 1, "text": "text"}),
        ("websocket.receive", {"path": "/a b", "order": 2, "bytes": b"bytes"}),
        ("websocket.disconnect", {"path": "/a b", "order": 3, "code": 1000, "reason": "bye"}),
    ]


async def test_wrong_replies_are_the_callers_and_leave_the_socket_alone() -> None:
    async def receive(message: Any) -> None:
        for content in [{}, {"text": "a", "bytes": b"b"}, {"what": 1}, {"close": 1005}, {"accept": False}]:
            with pytest.raises(ValueError):
                await message.reply_channel.send(content)
        with pytest.raises(TypeError):
            await message.reply_channel.send("text")
        await message.reply_channel.send({"text": "fine"})

    async with WSClient([route("websocket.receive", receive)]) as socket:
        await socket.send("x")
        assert await socket.receive() == "fine"


@pytest.mark.parametrize(("text", "code"), [("{", 1007), ("NaN", 1007), (b"{}", 1003)])
async def test_what_is_not_json(text: Any, code: int) -> None:
    async with WSClient([route_class(JsonWebsocketConsumer)]) as socket:
        await socket.send(text)
        assert (await socket.wait_closed()).code == code


async def test_messages_before_the_close_are_handled_before_disconnect(
    autojump_clock: trio.testing.MockClock,
) -> None:
    record = Recorder(strict_ordering=True)

    async def slow(consumer: Any, data: Any) -> None:
        await trio.sleep(0.1)

    record.hooks["receive"] = slow
    async with Client(record.routing) as client, client.websocket("/") as socket:
        for number in range(20):
            await socket.send(str(number))
        await socket.close()
        await nothing_left(client)
    assert record.events == [*map(str, range(20)), ("disconnect", 1000, "")]


async def test_cancel_on_disconnect(autojump_clock: trio.testing.MockClock) -> None:
    record = Recorder(cancel_on_disconnect=True)
    cancelled = []

    async def slow(consumer: Any, data: Any) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(data)
            raise

    record.hooks["receive"] = slow
    async with Client(record.routing) as client, client.websocket("/") as socket:
        await socket.send("a")
        await socket.send("b")
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        await socket.close()
        await nothing_left(client)
        assert trio.current_time() - started < 2
    assert sorted(cancelled) == ["a", "b"]
    assert [event[:2] for event in record.disconnects] == [("disconnect", 1000)]


async def test_send_to_a_peer_that_has_gone_raises_and_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = Recorder()
    gone = trio.Event()
    raised = []

    async def send_later(consumer: Any, data: Any) -> None:
        await gone.wait()
        try:
            await consumer.send("late")
        except ConnectionClosed as error:
            raised.append(error.code)
            raise

    record.hooks["receive"] = send_later
    async with Client(record.routing) as client, client.websocket("/") as socket:
        await socket.send("x")
        await trio.testing.wait_all_tasks_blocked()
        await socket.close(4123)
        await trio.testing.wait_all_tasks_blocked()
        gone.set()
        await nothing_left(client)
    assert raised == [4123]
    assert [entry for entry in caplog.records if entry.levelno >= logging.WARNING] == []


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


# -- memory -----------------------------------------------------------------------------------------------------------


async def test_an_ended_connection_leaves_no_garbage() -> None:
    """It is freed by reference counts alone: a server under churn does not stop for the garbage collector."""
    record = Recorder()
    async with Client(record.routing) as client:
        gc.collect()
        gc.disable()
        try:
            alive = []
            for _ in range(5):
                async with client.websocket("/") as socket:
                    await socket.send("x")
                    alive.append(weakref.ref(record.connections[-1]))
                    await socket.close()
                await nothing_left(client)
                record.connections.clear()
            assert [each() for each in alive] == [None] * 5
        finally:
            gc.enable()

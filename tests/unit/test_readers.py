"""Leader and followers: whose task a handler runs in, what it may do there, and that nobody else notices."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from operator import length_hint
from typing import Any

import pytest
import trio
import trio.testing
from raw_clients import TEXT, RawClient, close_frame, frame, handshake
from served import serving
from trio.testing import MockClock, wait_all_tasks_blocked

from triochan import Channel, Settings, readers, route, route_class
from triochan.generic.websockets import WebsocketConsumer
from triochan.http import text
from triochan.test import Client
from triochan.websocket.inbound import Inbound
from triochan.wire.poller import ENDED, READABLE, WRITABLE

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
Handler = Callable[[Any], Awaitable[object]]


def tasks() -> list[trio.lowlevel.Task]:
    """All tasks of this Trio run."""
    found: list[trio.lowlevel.Task] = []
    root = trio.lowlevel.current_root_task()
    assert root is not None
    look = [root]
    while look:
        task = look.pop()
        found.append(task)
        look += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found


def workers() -> list[trio.lowlevel.Task]:
    return [task for task in tasks() if task.name == "triochan.readers.Readers._work"]


async def reply(message: Any, content: object) -> None:
    await message.reply_channel.send({"text": str(content)})


async def ask(client: RawClient, data: str) -> str | bytes:
    await client.send(frame(TEXT, data))
    return await client.message()


class Gate:
    """A consumer: "wait" waits until the gate opens, "task" says which task runs it, all else comes back."""

    def __init__(self) -> None:
        self.opened = trio.Event()
        self.began: list[trio.lowlevel.Task] = []
        self.ended: list[trio.lowlevel.Task] = []
        self.cancelled = 0

    async def __call__(self, message: Any) -> None:
        data = message["text"]
        if data == "wait":
            self.began.append(trio.lowlevel.current_task())
            try:
                await self.opened.wait()
            except trio.Cancelled:
                self.cancelled += 1
                raise
            self.ended.append(trio.lowlevel.current_task())
        await reply(message, id(trio.lowlevel.current_task()) if data == "task" else data)

    @property
    def routing(self) -> list[Any]:
        return [route("websocket.receive", self)]


# -- who runs what ----------------------------------------------------------------------------------------------------


async def test_a_handler_that_never_waits_runs_in_the_task_that_reads() -> None:
    gate = Gate()
    async with serving(gate.routing) as server:
        async with await server.websocket() as one, await server.websocket() as other:
            [worker] = workers()
            assert await ask(one, "task") == await ask(other, "task") == str(id(worker))
            assert workers() == [worker]


async def test_a_handler_that_waits_keeps_its_task_and_another_one_leads() -> None:
    gate = Gate()
    async with serving(gate.routing) as server:
        async with await server.websocket() as one, await server.websocket() as other:
            [first] = workers()
            await one.send(frame(TEXT, "wait"))
            await wait_all_tasks_blocked()
            assert gate.began == [first]
            second = await ask(other, "task")
            assert second != str(id(first))
            assert await ask(one, "task") != str(id(first))  # its own socket is read on as well
            gate.opened.set()
            assert await one.message() == "wait"
            assert gate.ended == [first]
            # The one that comes back follows, and is taken for the next handler that waits: nothing is spawned.
            await wait_all_tasks_blocked()
            before = workers()
            assert len(before) <= 3
            gate.opened = trio.Event()
            await other.send(frame(TEXT, "wait"))
            await wait_all_tasks_blocked()
            assert await ask(one, "x") == "x"
            assert set(workers()) == set(before)
            gate.opened.set()


async def test_no_message_waits_for_the_waiting_handler_of_another_socket(
    autojump_clock: MockClock,
) -> None:
    gate = Gate()
    async with serving(gate.routing) as server:
        waiting = [await server.websocket() for _ in range(40)]
        async with await server.websocket() as free:
            for client in waiting:
                await client.send(frame(TEXT, "wait"))
                assert await ask(free, "x") == "x"
            began = trio.current_time()
            for number in range(100):
                assert await ask(free, str(number)) == str(number)
            assert trio.current_time() == began
            assert len(gate.began) == len(set(gate.began)) == 40
            gate.opened.set()
            for client in waiting:
                assert await client.message() == "wait"
                client.vanish()


async def test_events_of_one_poll_go_on_where_a_handler_of_the_first_waits() -> None:
    """What the epoll has told at once is not lost with the task that was looking at it."""
    gate = Gate()
    async with serving(gate.routing) as server:
        clients = [await server.websocket() for _ in range(20)]
        await wait_all_tasks_blocked()
        for client in clients:  # the server's tasks do not run between these
            sock: Any = client.stream
            sock.socket._sock.send(frame(TEXT, "wait") + frame(TEXT, "x"))
        for client in clients:
            assert await client.message() == "x"
        assert len(gate.began) == 20
        gate.opened.set()
        for client in clients:
            assert await client.message() == "wait"
            client.vanish()


# -- cancellation -----------------------------------------------------------------------------------------------------


async def test_a_connection_cancels_its_own_handlers_alone() -> None:
    gate = Gate()
    routing = [route("websocket.receive", gate, path="^/patient$"), route_class(Cancelling, path="^/cancel$")]
    Cancelling.gate = gate
    async with serving(routing) as server:
        async with await server.websocket("/cancel") as hasty, await server.websocket("/patient") as patient:
            for client in (hasty, patient):
                await client.send(frame(TEXT, "wait"), frame(TEXT, "wait"))
            await wait_all_tasks_blocked()
            assert len(gate.began) == 4
            hasty.vanish()
            await wait_all_tasks_blocked()
            assert gate.cancelled == 2
            assert await ask(patient, "x") == "x"
            gate.opened.set()
            assert [await patient.message(), await patient.message()] == ["wait", "wait"]
            assert gate.cancelled == 2
        # A worker that was cancelled serves again: with a scope of its own, none of which is cancelled any more.
        async with await server.websocket("/patient") as client:
            gate.opened = trio.Event()
            for _ in range(6):
                await client.send(frame(TEXT, "wait"))
            await wait_all_tasks_blocked()
            gate.opened.set()
            assert [await client.message() for _ in range(6)] == ["wait"] * 6


class Cancelling(WebsocketConsumer):
    cancel_on_disconnect = True
    gate: Gate

    async def receive(self, *args: Any, **kwargs: Any) -> None:
        await self.gate(self.message)


async def test_a_server_that_is_cancelled_ends_its_handlers_and_then_disconnects(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[Any] = []

    class Waiting(WebsocketConsumer):
        async def connect(self, message: Any, **kwargs: Any) -> None:
            await message.reply_channel.send({"accept": True})
            if self.path == "/connect":
                await self.wait("connect")

        async def receive(self, *args: Any, **kwargs: Any) -> None:
            await self.wait("receive")

        async def wait(self, what: str) -> None:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                events.append(what)
                raise

        async def disconnect(self, message: Any, **kwargs: Any) -> None:
            events.append((self.path, message["code"]))
            await trio.lowlevel.checkpoint()
            events.append("disconnected")

    async with trio.open_nursery() as nursery:
        started = trio.Event()
        clients: list[RawClient] = []

        async def run() -> None:
            async with serving([route_class(Waiting)]) as server:
                clients.append(await server.websocket("/receive"))
                clients.append(await server.websocket("/connect"))
                await clients[0].send(frame(TEXT, "x"))
                await wait_all_tasks_blocked()
                started.set()
                await trio.sleep_forever()

        nursery.start_soon(run)
        await started.wait()
        nursery.cancel_scope.cancel()
    assert Counter(map(str, events)) == Counter(
        ["receive", "connect", "('/receive', 1001)", "('/connect', 1001)", "disconnected", "disconnected"]
    )
    name = f"{__name__}.{Waiting.__qualname__}"
    assert sorted(each.getMessage() for each in caplog.records) == [
        f"the shutdown cut off {name} in {what} on '/{what}'" for what in ("connect", "receive")
    ]
    for client in clients:
        client.vanish()


async def test_a_handler_that_awaits_in_finally_when_cancelled(autojump_clock: MockClock) -> None:
    """``disconnect`` comes after it, however long it takes; others are served meanwhile."""
    events: list[Any] = []

    class Slow(WebsocketConsumer):
        cancel_on_disconnect = True

        async def receive(self, *args: Any, **kwargs: Any) -> None:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(3)
                events.append("cleaned up")
                try:
                    await trio.lowlevel.checkpoint()  # noqa: ASYNC102 - which it must not, but may
                except trio.Cancelled:
                    events.append("still cancelled")
                    raise

        async def disconnect(self, message: Any, **kwargs: Any) -> None:
            events.append(trio.current_time())

    gate = Gate()
    routing = [route_class(Slow, path="^/slow$"), route("websocket.receive", gate)]
    async with serving(routing) as server:
        async with await server.websocket("/slow") as client, await server.websocket("/") as other:
            await client.send(frame(TEXT, "x"))
            await wait_all_tasks_blocked()
            began = trio.current_time()
            client.vanish()
            assert await ask(other, "x") == "x"
            assert trio.current_time() == began
            await trio.sleep(4)
    assert events == ["cleaned up", "still cancelled", began + 3]


async def test_a_handler_that_swallows_its_cancellation(autojump_clock: MockClock) -> None:
    """Its worker's scope is used up all the same: the next handler there is not cancelled."""
    gate = Gate()

    class Stubborn(WebsocketConsumer):
        cancel_on_disconnect = True

        async def receive(self, *args: Any, **kwargs: Any) -> None:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:  # noqa: ASYNC103
                pass  # which it must not, but may

    routing = [route_class(Stubborn, path="^/slow$"), route("websocket.receive", gate)]
    async with serving(routing) as server, await server.websocket("/") as other:
        client = await server.websocket("/slow")
        await client.send(frame(TEXT, "x"), frame(TEXT, "x"))
        await wait_all_tasks_blocked()
        client.vanish()
        await wait_all_tasks_blocked()
        for _ in range(3):
            await other.send(frame(TEXT, "wait"))
        await wait_all_tasks_blocked()
        gate.opened.set()
        assert [await other.message() for _ in range(3)] == ["wait"] * 3


async def test_what_a_handler_raises_beside_its_cancellation(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A nursery whose child raises while it is cancelled: what the program raised is logged, the rest cancels."""

    class Both(WebsocketConsumer):
        cancel_on_disconnect = True

        async def receive(self, *args: Any, **kwargs: Any) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.fail)
                await trio.sleep_forever()

        async def fail(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("on purpose")

    gate = Gate()
    routing = [route_class(Both, path="^/both$"), route("websocket.receive", gate)]
    async with serving(routing) as server, await server.websocket() as other:
        client = await server.websocket("/both")
        await client.send(frame(TEXT, "x"))
        await wait_all_tasks_blocked()
        client.vanish()
        await wait_all_tasks_blocked()
        assert await ask(other, "x") == "x"
    [record] = caplog.records
    assert "Both raised in receive on '/both'" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ExceptionGroup)
    assert record.exc_info[1].subgroup(KeyError) is not None
    assert record.exc_info[1].subgroup(lambda error: isinstance(error, trio.Cancelled)) is None


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
async def test_a_keyboard_interrupt_ends_the_server_and_not_only_a_socket(
    waits: bool, grouped: bool, autojump_clock: MockClock
) -> None:
    events: list[Any] = []

    class Interrupted(WebsocketConsumer):
        async def receive(self, *args: Any, **kwargs: Any) -> None:
            if waits:
                await trio.sleep(1)
            if grouped:
                raise BaseExceptionGroup("both", [KeyboardInterrupt("on purpose"), ValueError("too")])
            raise KeyboardInterrupt("on purpose")

        async def disconnect(self, message: Any, **kwargs: Any) -> None:
            events.append(message["code"])

    with pytest.raises(BaseExceptionGroup) as raised:  # noqa: PT012, ASYNC401 - its shape is the nurseries' affair
        async with serving([route_class(Interrupted)]) as server:
            async with await server.websocket() as client:
                await client.send(frame(TEXT, "x"))
                await trio.sleep_forever()
    assert raised.value.subgroup(KeyboardInterrupt) is not None
    assert raised.value.split((KeyboardInterrupt, ValueError))[1] is None
    # What else was raised counts as well, if it was looked at first.
    assert events == [1011 if waits and grouped else 1001]


class Custom(BaseException):
    pass


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError(),
        GeneratorExit(),
        Custom("on purpose"),
        BaseExceptionGroup("several", [Custom(), ValueError()]),
        StopIteration("means nothing here"),
        StopAsyncIteration(),
        MemoryError(),
        RecursionError(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("where", ["connect", "receive", "disconnect", "task", "http"])
async def test_whatever_a_handler_raises_ends_its_own_connection_alone(
    error: BaseException, waits: bool, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        if waits:
            await trio.lowlevel.checkpoint()
        raise error

    class Failing(WebsocketConsumer):
        async def connect(self, message: Any, **kwargs: Any) -> None:
            if where == "connect":
                await fail()

        async def receive(self, text: str | None = None, **kwargs: Any) -> None:
            if where == "receive":
                await fail()
            if where == "task":
                self.connection.start_soon(fail)
            else:
                await self.close()

        async def disconnect(self, message: Any, **kwargs: Any) -> None:
            if where == "disconnect":
                await fail()

    async def request(message: Any) -> None:
        await fail()

    routing = [
        route_class(Failing, path="^/failing$"),
        route("websocket.receive", Gate()),
        route("http.request", request),
    ]
    async with serving(routing) as server, await server.websocket() as other:
        client = server.connect()
        await client.send(
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
            if where == "http"
            else handshake("/failing") + frame(TEXT, "x")
        )
        head = await client.head()
        assert head.status == (500 if where in ("connect", "http") else 101)
        if where in ("receive", "task"):
            assert (await client.ended())[0] == 1011
        elif where == "disconnect":
            assert (await client.ended())[0] == 1000
        client.vanish()
        await wait_all_tasks_blocked(0.01)
        assert await ask(other, "x") == "x"
        assert server.runtime.sockets == 0 or len(server.runtime.websockets) == 1
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert "raised in" in record.getMessage()
    assert record.exc_info is not None
    found = record.exc_info[1]
    while found is not None and type(found) is not type(error):
        found = found.__cause__
    assert found is not None, "the log does not show what was raised"


@pytest.fixture
def hasty_clock() -> MockClock:
    """Real time that a test may put forward."""
    return MockClock(rate=1)


async def enter_scope() -> object:
    """As an async generator does that yields within one, and is not closed."""
    scope = trio.CancelScope(deadline=trio.current_time() + 0.2)
    scope.__enter__()
    return scope


async def enter_nursery_in_scope() -> object:
    managers = []
    with trio.CancelScope():
        managers.append(await enter_nursery())
    return managers


async def enter_nursery() -> object:
    manager = trio.open_nursery()
    nursery = await manager.__aenter__()
    nursery.start_soon(trio.sleep_forever)
    return manager


def acting(where: str, act: Callable[[], Awaitable[None]]) -> list[Any]:
    """A routing that does ``act`` in one place.

    That is a handler of the socket at ``/acting``, for a message "x"; a task of it; a request; or a message of the
    channel ``named``. Other sockets are a :class:`Gate`.
    """

    class Acting(WebsocketConsumer):
        async def connect(self, message: Any, **kwargs: Any) -> None:
            if where == "connect":
                await act()

        async def receive(self, text: str | None = None, **kwargs: Any) -> None:
            if text == "x" and where in ("receive", "batch"):
                await act()
            if where == "task":
                self.connection.start_soon(act)

        async def disconnect(self, message: Any, **kwargs: Any) -> None:
            if where == "disconnect":
                await act()

    async def consume(message: Any) -> None:
        await act()

    return [
        route_class(Acting, path="^/acting$"),
        route("websocket.receive", Gate()),
        route(["http.request", "named"], consume),
    ]


@pytest.mark.parametrize("waits", ["never", "before", "after"])
@pytest.mark.parametrize("enter", [enter_scope, enter_nursery, enter_nursery_in_scope])
@pytest.mark.parametrize("where", ["connect", "receive", "batch", "disconnect", "task", "http", "channel"])
async def test_a_scope_that_a_handler_leaves_open_reaches_nobody_else(
    enter: Callable[[], Awaitable[object]],
    waits: str,
    where: str,
    caplog: pytest.LogCaptureFixture,
    hasty_clock: MockClock,
) -> None:
    kept: list[Any] = []

    async def leave() -> None:
        if waits == "before":
            await trio.lowlevel.checkpoint()
        kept.append(await enter())
        if waits == "after":
            await trio.lowlevel.checkpoint()

    async with serving(acting(where, leave)) as server, await server.websocket() as other:
        for _ in range(2):
            client = server.connect()
            if where == "channel":
                await Channel("named").send({})
            elif where == "http":
                await client.send(GET)
            else:
                await client.send(handshake("/acting") + frame(TEXT, "x") * (3 if where == "batch" else 1))
            await wait_all_tasks_blocked(0.01)
            client.vanish()
            await wait_all_tasks_blocked(0.01)
            assert await ask(other, "x") == "x"
        hasty_clock.jump(0.3)  # the scope that was left would cancel whoever is in it
        await wait_all_tasks_blocked(0.01)
        for _ in range(3):
            assert await ask(other, "y") == "y"
    told = [record for record in caplog.records if record.name.startswith("triochan")]
    assert len(told) == (
        6 if where == "batch" else 2
    )  # what had come before the connection ended is handled as well
    for record in told:
        assert "raised" in record.getMessage()
        assert record.exc_info is not None
        # Of a scope that lies in one of triochan's own, Trio says so.
        assert re.search("was left open|scope stack corrupted", str(record.exc_info[1]))


class Unwritable(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("the log can't be written")


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("where", ["connect", "receive", "disconnect", "task", "http", "channel"])
async def test_a_log_that_can_not_be_written_ends_nothing_else(
    waits: bool, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail() -> None:
        if waits:
            await trio.lowlevel.checkpoint()
        raise ValueError("on purpose")

    handler = Unwritable()
    logging.getLogger("triochan").addHandler(handler)
    try:
        async with serving(acting(where, fail)) as server, await server.websocket() as other:
            for _ in range(2):
                client = server.connect()
                if where == "channel":
                    await Channel("named").send({})
                else:
                    await client.send(GET if where == "http" else handshake("/acting") + frame(TEXT, "x"))
                    status = (await client.head()).status
                    assert status == (500 if where in ("connect", "http") else 101)
                if where in ("receive", "task"):
                    assert (await client.closing())[0] == 1011
                client.vanish()
                await wait_all_tasks_blocked(0.01)
                assert await ask(other, "x") == "x"
    finally:
        logging.getLogger("triochan").removeHandler(handler)
    told = capsys.readouterr().err
    assert told.count("OSError: the log can't be written") == 2
    assert told.count("ValueError: on purpose") == 2  # what was to be logged is not lost


@pytest.mark.parametrize("given", ["a coroutine", "a number", "nothing"])
async def test_a_task_is_started_with_a_function(given: str) -> None:
    async def task() -> None: ...

    class Starting(WebsocketConsumer):
        async def receive(self, text: str | None = None, **kwargs: Any) -> None:
            what: Any = task() if given == "a coroutine" else {"a number": 5, "nothing": None}[given]
            with pytest.raises(TypeError, match="start_soon takes an async function and its arguments"):
                self.connection.start_soon(what)
            await self.send("said")

    async with serving([route_class(Starting)]) as server, await server.websocket() as client:
        assert await ask(client, "x") == "said"


# -- nurseries, deadlines, shields ------------------------------------------------------------------------------------


async def test_a_nursery_in_a_handler(autojump_clock: MockClock) -> None:
    async def receive(message: Any) -> None:
        results: list[int] = []

        async def work(number: int) -> None:
            await trio.sleep(number)
            results.append(number)

        async with trio.open_nursery() as nursery:
            for number in (3, 1, 2):
                nursery.start_soon(work, number)
        await reply(message, results)

    async with serving([route("websocket.receive", receive)]) as server, await server.websocket() as client:
        began = trio.current_time()
        for _ in range(3):
            await client.send(frame(TEXT, "x"))
        for _ in range(3):
            assert await client.message() == "[1, 2, 3]"
        assert trio.current_time() == began + 3
        await wait_all_tasks_blocked()
        assert not [nursery for worker in workers() for nursery in worker.child_nurseries]


async def test_the_deadline_of_a_handler_is_its_own(autojump_clock: MockClock) -> None:
    seen: dict[str, list[float]] = {}

    async def receive(message: Any) -> None:
        mine = seen[message["text"]] = []
        mine.append(trio.current_effective_deadline())
        await trio.lowlevel.checkpoint()
        mine.append(trio.current_effective_deadline())
        with trio.move_on_after(2):
            mine.append(trio.current_effective_deadline() - trio.current_time())
            await trio.sleep_forever()
        mine.append(trio.current_effective_deadline())
        await reply(message, "late")

    async with serving([route("websocket.receive", receive)]) as server, await server.websocket() as client:
        await client.send(frame(TEXT, "a"), frame(TEXT, "b"))
        assert [await client.message(), await client.message()] == ["late", "late"]
    assert seen == {name: [math.inf, math.inf, 2, math.inf] for name in "ab"}


@pytest.mark.parametrize("waits", [False, True])
async def test_the_deadline_of_a_handler_with_a_time_out(waits: bool, autojump_clock: MockClock) -> None:
    seen: list[float] = []
    free = trio.Event()

    async def receive(message: Any) -> None:
        if message["text"] == "free":
            free.set()
            return
        if waits:
            await trio.lowlevel.checkpoint()
        seen.append(trio.current_effective_deadline() - trio.current_time())
        await trio.sleep_forever()

    settings = Settings(handler_timeout=7)
    async with serving([route("websocket.receive", receive)], settings=settings) as server:
        async with await server.websocket() as client, await server.websocket() as other:
            began = trio.current_time()
            await client.send(frame(TEXT, "x"))
            await other.send(frame(TEXT, "free"))
            await free.wait()
            assert (await client.closing())[0] == 1011
            assert trio.current_time() == began + 7
    assert seen == [7]


async def test_a_handler_whose_peer_is_gone_has_disconnect_timeout(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It can see that, shield itself, and is cancelled then; one that begins later has what is left."""
    seen: list[Any] = []

    class Slow(WebsocketConsumer):
        strict_ordering = True

        async def receive(self, text: Any = None, **kwargs: Any) -> None:
            try:
                await trio.sleep(2 if text == "first" else 100)
            finally:
                seen.append(
                    (
                        text,
                        trio.current_time() - began,
                        trio.current_effective_deadline() - trio.current_time(),
                    )
                )

        async def disconnect(self, message: Any, **kwargs: Any) -> None:
            seen.append(
                ("disconnect", trio.current_time() - began, trio.current_effective_deadline() - began)
            )

    settings = Settings(disconnect_timeout=5)
    async with serving([route_class(Slow)], settings=settings) as server:
        client = await server.websocket()
        await client.send(frame(TEXT, "first"), frame(TEXT, "second"), frame(TEXT, "never"))
        await wait_all_tasks_blocked()
        began = trio.current_time()
        client.vanish()
        await trio.sleep(20)
    assert seen == [
        ("first", 2, 3),
        ("second", 5, -math.inf),
        ("disconnect", 5, 10),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "1 messages on '/' were not handled before its end"
    ]


async def test_a_shield_in_a_handler_holds(autojump_clock: MockClock) -> None:
    done: list[float] = []

    class Shielded(WebsocketConsumer):
        cancel_on_disconnect = True

        async def receive(self, *args: Any, **kwargs: Any) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(4)
            done.append(trio.current_time() - began)

    async with serving([route_class(Shielded)]) as server:
        client = await server.websocket()
        await client.send(frame(TEXT, "x"))
        await wait_all_tasks_blocked()
        began = trio.current_time()
        client.vanish()
        await trio.sleep(5)
    assert done == [4]


# -- context variables ------------------------------------------------------------------------------------------------

mark: ContextVar[str] = ContextVar("mark", default="none")
outside: ContextVar[str] = ContextVar("outside", default="none")


class Marking(WebsocketConsumer):
    """Says which mark it sees, and sets its own, wherever program code runs."""

    seen: list[str]

    def __init__(self, message: Any, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.look(f"{message.channel.name} __init__")

    @classmethod
    def look(cls, where: str) -> None:
        cls.seen.append(mark.get())
        assert outside.get() == "the server's"
        mark.set(f"set in {where}")

    async def connect(self, message: Any, **kwargs: Any) -> None:
        assert mark.get() == "set in websocket.connect __init__"
        mark.set("connect")
        if "wait" in self.path:
            await trio.lowlevel.checkpoint()
            assert mark.get() == "connect"
        await message.reply_channel.send({"accept": True})

    async def receive(self, text: Any = None, **kwargs: Any) -> None:
        assert mark.get() == "set in websocket.receive __init__"
        mark.set(f"receive {text}")
        if text == "wait":
            await trio.sleep(1)
            assert mark.get() == "receive wait"
            mark.set("after the wait")
        await self.send(text=text)

    async def disconnect(self, message: Any, **kwargs: Any) -> None:
        assert mark.get() == "set in websocket.disconnect __init__"
        mark.set("disconnect")


@pytest.mark.parametrize("path", ["/", "/wait"])
@pytest.mark.parametrize("ordering", [{}, {"strict_ordering": True}, {"channel_session": True}])
async def test_nothing_set_in_one_message_is_seen_by_the_next(
    path: str, ordering: dict[str, bool], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Marking.seen = []
    outside.set("the server's")
    async with serving([Marking.as_route(ordering)]) as server:
        for _ in range(2):
            async with await server.websocket(path) as one, await server.websocket(path) as other:
                for data in ("a", "wait", "b", "wait", "wait", "c"):
                    for client in (one, other):
                        await client.send(frame(TEXT, data))
                for client in (one, other):
                    assert Counter([await client.message() for _ in range(6)]) == Counter(
                        ["a", "b", "c", "wait", "wait", "wait"]
                    )
                await one.send(close_frame())
                await one.closing()
            await wait_all_tasks_blocked()
    assert set(seen) == {"none"}
    assert len(seen) == 2 * 2 * 8
    assert mark.get() == "none"
    assert not caplog.records


async def test_a_worker_that_a_handler_calls_does_not_inherit_its_context(
    autojump_clock: MockClock,
) -> None:
    """A handler that waits may wake readers, by accepting or closing; a worker that is spawned for that is nobody's."""
    seen: list[str] = []

    class Late(WebsocketConsumer):
        async def connect(self, message: Any, **kwargs: Any) -> None:
            mark.set("connect")
            await trio.sleep(1)
            assert server.runtime.readers._parked == []
            await message.reply_channel.send({"accept": True})
            await trio.sleep(1)

        async def receive(self, text: Any = None, **kwargs: Any) -> None:
            seen.append(mark.get())
            await trio.sleep(1)
            await self.send(text="done")

    async with serving([route_class(Late)]) as server:
        async with trio.open_nursery() as nursery:

            async def come() -> None:
                async with await server.websocket(behind=frame(TEXT, "x")) as client:
                    assert await client.message() == "done"

            nursery.start_soon(come)
        assert {worker.context.get(mark, "none") for worker in workers()} == {"none"}
    assert seen == ["none"]


async def test_a_task_of_the_connection_sees_the_variables_of_who_started_it(
    autojump_clock: MockClock,
) -> None:
    seen: list[str] = []

    async def task() -> None:
        seen.append(mark.get())
        mark.set("the task's")
        await trio.sleep(1)
        seen.append(mark.get())

    async def receive(message: Any) -> None:
        mark.set(f"message {message['text']}")
        message.connection.start_soon(task)
        mark.set("later")
        await trio.sleep(2)
        assert mark.get() == "later"
        await reply(message, mark.get())

    async with serving([route("websocket.receive", receive)]) as server, await server.websocket() as client:
        for number in (1, 2):
            assert await ask(client, str(number)) == "later"
    assert seen == ["message 1", "the task's", "message 2", "the task's"]


async def test_consumers_of_named_channels_and_of_requests_have_contexts_of_their_own(
    autojump_clock: MockClock,
) -> None:
    seen: list[str] = []

    async def work(message: Any) -> None:
        seen.append(mark.get())
        mark.set("work")
        await trio.sleep(message["seconds"])

    async def receive(message: Any) -> None:
        mark.set("receive")
        await Channel("work").send({"seconds": 0})
        await Channel("work").send({"seconds": 1})
        await Channel("work").send({"seconds": 0})
        await reply(message, "sent")

    async def request(message: Any) -> None:
        seen.append(mark.get())
        mark.set("request")
        if message["path"] == "/wait":
            await trio.sleep(1)
        await message.reply_channel.send(text(mark.get()))

    routing = [route("work", work), route("websocket.receive", receive), route("http.request", request)]
    async with serving(routing) as server:
        async with await server.websocket() as client, server.connect() as http:
            assert await ask(client, "x") == "sent"
            for path in ("/", "/wait", "/"):
                await http.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert (await http.answer()).body == b"request"
            await trio.sleep(2)
    assert seen == ["none"] * 6


# -- instruments ------------------------------------------------------------------------------------------------------


class Watching(trio.abc.Instrument):
    """Checks that Trio's own account of each task adds up."""

    def __init__(self) -> None:
        self.scheduled: set[Any] = set()
        self.running: Any = None
        self.wrong: list[str] = []
        self.steps = 0
        self.exited: set[Any] = set()

    def expect(self, condition: bool, what: str) -> None:
        if not condition:
            self.wrong.append(what)

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        self.expect(task not in self.scheduled, f"{task} is scheduled twice")
        self.expect(task not in self.exited, f"{task} is scheduled after its end")
        self.scheduled.add(task)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.expect(self.running is None, f"{task} runs within {self.running}")
        self.expect(task in self.scheduled, f"{task} was not scheduled")
        self.scheduled.discard(task)
        self.running = task
        self.steps += 1

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.expect(self.running is task, f"{task} has ended a step of {self.running}")
        self.running = None

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self.exited.add(task)


async def test_an_instrument_sees_each_step_of_each_task(autojump_clock: MockClock) -> None:
    gate = Gate()
    ran: list[bool] = []

    class Noting(WebsocketConsumer):
        cancel_on_disconnect = True

        async def receive(self, *args: Any, **kwargs: Any) -> None:
            ran.append(watching.running is trio.lowlevel.current_task())
            try:
                await gate(self.message)
            finally:
                ran.append(watching.running is trio.lowlevel.current_task())

    async with serving([route_class(Noting)]) as server:
        clients = [await server.websocket() for _ in range(10)]
        await wait_all_tasks_blocked()
        watching = Watching()
        trio.lowlevel.add_instrument(watching)
        watching.running = trio.lowlevel.current_task()
        for client in clients:
            await client.send(frame(TEXT, "wait"), frame(TEXT, "x"))
        await wait_all_tasks_blocked()
        for client in clients[:5]:
            client.vanish()
        await wait_all_tasks_blocked()
        gate.opened.set()
        for client in clients[5:]:
            assert [await client.message(), await client.message()] == ["x", "wait"]
            client.vanish()
        await wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(watching)
    assert watching.wrong == []
    assert watching.steps > 50
    assert ran == [True] * 40


# -- what may go wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["readable", "_go_on", "release"])
async def test_an_error_of_our_own_ends_one_connection(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    gate.opened.set()
    disconnected: list[Any] = []

    async def disconnect(message: Any) -> None:
        disconnected.append((message["path"], message["code"]))

    routing = [*gate.routing, route("websocket.disconnect", disconnect)]
    async with serving(routing) as server:
        async with await server.websocket("/broken") as broken, await server.websocket("/whole") as whole:
            original = getattr(Inbound, where)

            def fail(self: Inbound, *args: Any) -> Any:
                if self._owner.path == "/broken":
                    if where == "release":
                        original(self, *args)
                    raise RuntimeError("on purpose")
                return original(self, *args)

            monkeypatch.setattr(Inbound, where, fail)
            # Two messages, the first of which waits, so that each of the three places comes by.
            gate.opened = trio.Event()
            await broken.send(frame(TEXT, "wait") + frame(TEXT, "x"))
            await wait_all_tasks_blocked()
            gate.opened.set()
            with pytest.raises((trio.BrokenResourceError, EOFError)):  # noqa: PT012
                while True:
                    await broken.message()
            assert await ask(whole, "x") == "x"
            monkeypatch.undo()
            await wait_all_tasks_blocked()
            assert disconnected == [("/broken", 1006)]
            assert len(server.runtime.websockets) == 1
    assert {record.getMessage() for record in caplog.records} == {"internal error; the connection is ended"}


async def test_an_event_for_a_number_that_is_another_sockets_by_now() -> None:
    """It is a read too many, and an end that is none: nobody notices."""
    gate = Gate()
    async with serving(gate.routing) as server:
        poller = server.runtime.readers.poller
        assert poller is not None
        client = await server.websocket()
        [number] = poller.sources
        client.vanish()
        await wait_all_tasks_blocked()
        assert not poller.sources
        events: list[tuple[int, int]] = []
        poll = poller.poll

        def with_stale_ones() -> list[tuple[int, int]]:
            stale = events.copy()
            events.clear()
            return [*stale, *poll()]

        poller.poll = with_stale_ones  # type: ignore[method-assign]
        async with await server.websocket() as second, await server.websocket() as other:
            assert number in poller.sources
            for flags in (READABLE, READABLE | ENDED, ENDED, WRITABLE, READABLE | WRITABLE | ENDED):
                events.append((number, flags))
                assert await ask(other, "x") == "x"
                assert await ask(second, "y") == "y"
            events.append((max(poller.sources) + 100, READABLE))  # and for one that is nobody's
            assert await ask(other, "x") == "x"
        async with server.connect() as http:
            await wait_all_tasks_blocked()
            events.append((max(poller.sources), READABLE | ENDED))
            await http.send(handshake())
            assert (await http.head()).status == 101


async def test_what_a_handler_that_ended_leaves_to_do_is_done() -> None:
    """Its worker goes on with what its connection has waiting, before it follows."""
    order: list[str] = []
    gate = Gate()

    class Strict(WebsocketConsumer):
        strict_ordering = True

        async def receive(self, text: Any = None, **kwargs: Any) -> None:
            order.append(text)
            if text == "wait":
                await gate.opened.wait()
            await self.send(text=text)

    async with serving([route_class(Strict)]) as server, await server.websocket() as client:
        await client.send(frame(TEXT, "wait"), *[frame(TEXT, str(number)) for number in range(30)])
        await wait_all_tasks_blocked()
        assert order == ["wait"]
        gate.opened.set()
        expected = ["wait", *map(str, range(30))]
        assert [await client.message() for _ in expected] == expected
        assert order == expected


# -- many -------------------------------------------------------------------------------------------------------------


async def test_as_many_workers_stay_as_are_kept(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    kept, count = 10, 40
    monkeypatch.setattr(readers, "MAX_PARKED", kept)
    async with serving(gate.routing, settings=Settings(max_overlap=count)) as server:
        async with await server.websocket() as client:
            await client.send(*[frame(TEXT, "wait") for _ in range(count)])
            await wait_all_tasks_blocked()
            assert len(gate.began) == count
            assert count < len(workers()) <= count + kept + 1
            gate.opened.set()
            assert [await client.message() for _ in range(count)] == ["wait"] * count
            await wait_all_tasks_blocked()
            assert len(workers()) == kept + 1
            assert len(server.runtime.readers._parked) == kept
            assert await ask(client, "x") == "x"


@pytest.mark.slow
async def test_two_thousand_handlers_that_wait_at_once() -> None:
    gate = Gate()
    each, count = 100, 20
    async with serving(gate.routing, settings=Settings(max_overlap=each, ping_interval=0)) as server:
        clients = [await server.websocket() for _ in range(count)]
        for client in clients:
            await client.send(frame(TEXT, "wait") * each)
        async with await server.websocket() as free:
            await wait_all_tasks_blocked()
            assert len(gate.began) == len(set(gate.began)) == each * count
            assert await ask(free, "x") == "x"
            for client in clients[: count // 2]:
                client.vanish()
            await wait_all_tasks_blocked()
            assert await ask(free, "x") == "x"
            gate.opened.set()
            for client in clients[count // 2 :]:
                assert [await client.message() for _ in range(each)] == ["wait"] * each
                client.vanish()
            assert await ask(free, "x") == "x"
        await wait_all_tasks_blocked()
        runtime = server.runtime
        assert len(gate.ended) == each * count
        assert len(workers()) <= readers.MAX_PARKED + 1
        assert not runtime.websockets
        assert not runtime.readers._ready
        assert not length_hint(runtime.readers._events)
        assert not server.connections.child_tasks
        assert runtime.readers.poller is not None
        assert not runtime.readers.poller.sources


async def test_a_turn_serves_everybody_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends without end takes no more than its share: others are read between its reads."""
    order: list[str] = []

    async def receive(message: Any) -> None:
        order.append(message["path"])

    async with serving([route("websocket.receive", receive)]) as server:
        greedy, modest = await server.websocket("/greedy"), await server.websocket("/modest")
        await wait_all_tasks_blocked()
        for client, data in ((greedy, frame(TEXT, "x" * 1000) * 180), (modest, frame(TEXT, "x"))):
            stream: Any = client.stream
            sock: socket.socket = stream.socket._sock
            assert sock.send(data) == len(data)
        monkeypatch.setattr("triochan.wire.transport.READ_SIZE", 2048)
        await wait_all_tasks_blocked()
        assert order.count("/greedy") == 180
        assert order.index("/modest") <= 8 * 2 + 8
        for client in (greedy, modest):
            client.vanish()


async def test_without_epoll_messages_behind_one_whose_handler_waited_are_handled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody leads there: what is left to another worker would be left for ever, and the loop would spin."""
    monkeypatch.setattr(readers, "has_epoll", lambda: False)

    class Echo(WebsocketConsumer):
        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            if text == "wait":
                await trio.sleep(0.01)
            await self.send(text=text)

    client = Client([route_class(Echo)])
    with trio.fail_after(5):
        async with client, client.websocket("/") as one, client.websocket("/") as other:
            for _ in range(3):
                await one.send("wait")
                await other.send("wait")
                assert await one.receive() == await other.receive() == "wait"
                await one.send("at once")
                assert await one.receive() == "at once"

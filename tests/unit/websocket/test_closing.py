"""Every way out of a connection, in virtual time: disconnect runs once, with the right code, and nothing is left."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import trio
import trio.testing
from recorder import Recorder, frame, hang, nothing_left, raise_error, wait_and_raise
from websockets.frames import Opcode

from triochan import Application, Group, Settings
from triochan.sessions import MemorySessionStore
from triochan.test import Client, TestWebsocket


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

"""Every way out of a connection, for any client: what happens, with which code ``disconnect`` runs, what is logged.

A suite runs them as ``await WAYS[name].check(client, caplog, mode=..., waiting=...)`` under virtual time, with a client
that is a :class:`triochan.test.Client` over whatever transport it is about. ``waiting`` says where a handler, or a
task of the connection, waits meanwhile.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from recorder import Recorder, frame, hang, nothing_left, raise_error, wait_and_raise
from websockets.frames import Opcode

from triochan import Application, Group, Settings
from triochan.sessions import MemorySessionStore
from triochan.test import Client, TestWebsocket

Act = Callable[[Client, TestWebsocket, Recorder], Awaitable[None]]
MODES: dict[str, dict[str, bool]] = {
    "overlap": {},
    "slight": {"slight_ordering": True},
    "strict": {"strict_ordering": True},
    "cancel": {"cancel_on_disconnect": True},
    "session": {"http_user_and_session": True},
}
WAITING = ("nowhere", "connect", "receive", "disconnect", "task")
SETTINGS = Settings(handler_timeout=50, stall_timeout=30)
WAIT = 0.7
"""Seconds that what waits takes."""


async def closed_with(socket: TestWebsocket, code: int, reason: str | None = None) -> None:
    closed = await socket.wait_closed()
    assert closed.code == code
    assert reason is None or closed.reason == reason


async def close_by_client(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    await socket.close(4001, "enough")


async def close_by_server(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    async def close(consumer: Any, data: Any) -> None:
        await consumer.close(4002, "go")

    record.hooks["receive"] = close
    await socket.send("x")
    await closed_with(socket, 4002, "go")


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
    if not record.cancels:
        assert record.events.count("slow handler finished") == 2


async def vanish_while_handler_hangs(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    record.hooks["receive"] = hang
    await socket.send("x")
    await trio.testing.wait_all_tasks_blocked()
    await socket.vanish()


async def crash_in_connect(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    await closed_with(socket, 1011)


async def crash_in_receive(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    record.hooks["receive"] = raise_error
    await socket.send("x")
    await closed_with(socket, 1011)


async def crash_late_in_receive(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    record.hooks["receive"] = wait_and_raise
    await socket.send("x")
    await closed_with(socket, 1011)


async def crash_in_disconnect(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    record.hooks["disconnect"] = raise_error
    await socket.close()


async def hang_in_disconnect(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    record.hooks["disconnect"] = hang
    await socket.close()


async def handler_timeout(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    record.hooks["receive"] = hang
    await socket.send("x")
    await closed_with(socket, 1011)


async def no_pong(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    # The client's reader stops when its queue of one message is full: pings lie unread.
    for _ in range(3):
        await record.connections[0].send("unread")
    await trio.sleep(60)


async def overflow(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    for _ in range(20_000):
        if not record.connections[0].life.talking:
            return
        await Group("everyone").send({"text": "x" * 1000})
    raise AssertionError("it does not overflow")


async def stall(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    record.hooks["receive"] = hang
    for number in range(100):
        await socket.send(str(number))
    await closed_with(socket, 1013)


async def crash_in_task(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    async def spawn(consumer: Any, data: Any) -> None:
        consumer.connection.start_soon(wait_and_raise, consumer, data)

    record.hooks["receive"] = spawn
    await socket.send("x")
    await closed_with(socket, 1011)


async def task_ends_with_the_socket(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    begun, ended = trio.Event(), trio.Event()

    async def forever() -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async def spawn(consumer: Any, data: Any) -> None:
        consumer.connection.start_soon(forever)

    record.hooks["receive"] = spawn
    await socket.send("x")
    await begun.wait()
    await socket.vanish()
    await ended.wait()


async def not_utf8(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    await socket.stream.send_all(frame(Opcode.TEXT, b"\xff\xfe"))
    await closed_with(socket, 1007)


async def not_masked(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    await socket.stream.send_all(frame(Opcode.TEXT, b"x", mask=False))
    await closed_with(socket, 1002)


async def too_big(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    await socket.stream.send_all(frame(Opcode.BINARY, b"x" * (1024 * 1024 + 1)))
    await closed_with(socket, 1009)


async def bad_control_frame(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    await socket.stream.send_all(frame(Opcode.CLOSE, b"\x03\xec"))  # 1004 may not be sent
    await closed_with(socket, 1002)


async def cancel_of_everything(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    record.hooks["receive"] = hang
    await socket.send("x")
    await trio.testing.wait_all_tasks_blocked()
    cut = getattr(client, "abort", client._nursery.cancel_scope.cancel)
    cut()


async def shutdown(client: Client, socket: TestWebsocket, record: Recorder) -> None:
    await client.runtime.drain(trio.CancelScope())
    await closed_with(socket, 1001, "going away")


@attrs.frozen
class Way:
    """One way out.

    Attributes:
        act: takes it.
        code: what ``disconnect`` is told.
        hooks: what the consumer does from the beginning.
        logged: an error is logged, once.
        lockstep: of a client in memory: it reads only what it is asked for.
        cuts: handlers that wait are cancelled.
        deaf: it is over before a message would be looked at.
    """

    act: Act
    code: int
    hooks: Mapping[str, Any] = {}
    logged: bool = False
    lockstep: bool = False
    cuts: bool = False
    deaf: bool = False

    async def check(
        self,
        make_client: Callable[..., Client],
        caplog: pytest.LogCaptureFixture,
        *,
        mode: str,
        waiting: str,
        act: Act | None = None,
    ) -> None:
        """Take it, and look: ``disconnect`` has run once, after all else, with the right code, and nothing is left.

        Args:
            make_client: :class:`triochan.test.Client`, or what is made and entered like it.
            act: in the place of the way's own, where a transport makes of it something else.
        """
        record = Waiting(waiting, **MODES[mode])
        record.hooks.update(self.hooks)
        store = RecordingStore()
        application = Application(
            record.routing, session_store=store, secrets=["a secret that is long enough"]
        )
        async with make_client(application, settings=SETTINGS, lockstep=self.lockstep) as client:
            await client.get("/")
            async with client.websocket("/") as socket:
                if waiting == "receive":
                    await socket.send("wait")
                    await trio.testing.wait_all_tasks_blocked()
                await (act or self.act)(client, socket, record)
                await nothing_left(client)
                await socket.vanish()
        if mode == "session":
            assert store.saved[-1] == {"begun": True, "left": self.code}
        assert [event[:2] for event in record.disconnects] == [("disconnect", self.code)]
        record.check(cut=self.cuts or mode == "cancel", deaf=self.deaf)
        errors = [
            entry.getMessage()
            for entry in caplog.records
            if entry.levelno >= logging.ERROR
            and "messages" not in entry.message
            and "the shutdown was cut short" not in entry.message
        ]
        assert len(errors) == self.logged, errors


class RecordingStore(MemorySessionStore):
    """A session store that shows what was saved."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[dict[str, Any]] = []

    async def save(self, key: str, text: str, lifetime: float, *, new: bool) -> bool:
        self.saved.append(json.loads(text))
        return await super().save(key, text, lifetime, new=new)


class Waiting(Recorder):
    """A recorder whose consumer waits, besides what its hooks do."""

    def __init__(self, where: str, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.where = where
        self.cancels = attributes.get("cancel_on_disconnect", False)

    async def on(self, what: str, consumer: Any, data: Any) -> None:
        if what == "connect" and self.where == "task":
            consumer.connection.start_soon(self._wait, 1000)
        if what == self.where and what != "receive":
            await self._wait(WAIT)
        elif what == "receive" and data == "wait":
            await self._wait(WAIT)
            return
        await super().on(what, consumer, data)

    async def _wait(self, seconds: float) -> None:
        self.events.append("waits")
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            self.events.append("cut")
            raise
        self.events.append("waited")

    def check(self, *, cut: bool, deaf: bool) -> None:
        """What has waited has ended, at the right time and in the right way."""
        events = [
            event if isinstance(event, str) else event[0]
            for event in self.events
            if event in ("waits", "cut", "waited") or isinstance(event, tuple)
        ]
        where = "nowhere" if deaf and self.where == "receive" else self.where
        allowed = {
            "nowhere": [["disconnect"]],
            "disconnect": [["disconnect", "waits", "waited"]],
            "task": [["waits", "cut", "disconnect"]],
        }.get(where, [["waits", "waited", "disconnect"]] + [["waits", "cut", "disconnect"]] * cut)
        assert events in allowed


WAYS: dict[str, Way] = {
    "close_by_client": Way(close_by_client, 4001),
    "close_by_server": Way(close_by_server, 4002),
    "vanish": Way(vanish, 1006),
    "vanish_in_frame": Way(vanish_in_frame, 1006),
    "vanish_in_handler": Way(vanish_in_handler, 1006),
    "vanish_while_handler_hangs": Way(vanish_while_handler_hangs, 1006),
    "crash_in_connect": Way(crash_in_connect, 1011, {"connect": raise_error}, True, deaf=True),
    "crash_late_in_connect": Way(crash_in_connect, 1011, {"connect": wait_and_raise}, True),
    "crash_in_receive": Way(crash_in_receive, 1011, logged=True),
    "crash_late_in_receive": Way(crash_late_in_receive, 1011, logged=True),
    "crash_in_disconnect": Way(crash_in_disconnect, 1000, logged=True),
    "hang_in_disconnect": Way(hang_in_disconnect, 1000, logged=True),
    "handler_timeout": Way(handler_timeout, 1011, logged=True),
    "no_pong": Way(no_pong, 1006, lockstep=True),
    "overflow": Way(overflow, 1013, lockstep=True),
    "stall": Way(stall, 1013, logged=True, cuts=True),
    "crash_in_task": Way(crash_in_task, 1011, logged=True),
    "task_ends_with_the_socket": Way(task_ends_with_the_socket, 1006),
    "not_utf8": Way(not_utf8, 1007),
    "not_masked": Way(not_masked, 1002),
    "too_big": Way(too_big, 1009),
    "bad_control_frame": Way(bad_control_frame, 1002),
    "cancel_of_everything": Way(cancel_of_everything, 1001, cuts=True),
    "shutdown": Way(shutdown, 1001),
}


def matrix(waiting: tuple[str, ...] = WAITING) -> list[Any]:
    """Parameters ``name, mode, waiting``: all ways in all modes, with what waits at each of the given places."""
    return [
        pytest.param(name, mode, place, id=f"{name}-{mode}-{place}")
        for name in WAYS
        for mode in MODES
        for place in waiting
    ]

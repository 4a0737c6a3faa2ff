"""What a parent and a child say to each other; no process is started here."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from triochan.children import Brief, Child, Leash, end_all


def hear(sock: socket.socket) -> list[str]:
    said: list[str] = json.loads(sock.recv(4096))
    return said


@pytest.fixture
def exited(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[object]]:
    """Waits until the process would have ended: how long it has slept before, and its status."""
    ended: list[object] = []
    waited = threading.Event()

    def end(status: int) -> None:
        ended.append(status)
        waited.set()

    def wait() -> list[object]:
        assert waited.wait(5)
        return ended

    monkeypatch.setattr("triochan.children.time", SimpleNamespace(sleep=ended.append))
    monkeypatch.setattr(
        "triochan.children.os", SimpleNamespace(_exit=end, set_inheritable=os.set_inheritable)
    )
    return wait


def leashed(brief: Brief) -> tuple[Leash, socket.socket]:
    """A child's end, told ``brief``, and its parent's."""
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    ours.sendall(brief.encode())
    return Leash(theirs.detach()), ours


def test_a_brief_arrives_as_it_was() -> None:
    brief = Brief(["app:routing", "--secret", "ü"], [4, 5], 2, {1: [6], 3: [7, 8]}, [9])
    line = brief.encode()
    assert line.count(b"\n") == 1
    assert Brief.decode(line) == brief
    assert sorted(brief.descriptors) == [4, 5, 6, 7, 8, 9]


async def test_the_line_to_a_child_that_has_ended_by_itself_is_closed() -> None:
    class Killed:
        returncode = -9

        async def wait(self) -> int:
            return self.returncode

    ours, theirs = socket.socketpair()
    with theirs:
        child = Child(Killed(), ours)  # type: ignore[arg-type]
        assert await child.wait() == -9
        assert ours.fileno() == -1
        child.tell("go")
        assert await child.serving() is None


async def test_a_server_that_has_ended_by_itself_is_let_end(exited: Callable[[], list[object]]) -> None:
    """Its parent lets go while the process writes its last words."""
    leash, parent = leashed(Brief(["app:routing"], []))

    def run() -> None:
        async def serve() -> None:
            leash.serves("on a port")
            with trio.move_on_after(0):
                await leash.gone()

        trio.run(serve)

    parent.sendall(b'["go"]\n')
    leash.wait(9)
    assert hear(parent) == ["loaded"]
    await trio.to_thread.run_sync(run)
    assert hear(parent) == ["serving", "on a port"]
    parent.close()
    assert await trio.to_thread.run_sync(exited) == [9, 1]  # it has waited before it ended the process
    leash.serves("to nobody")  # no error
    leash._line.close()


async def test_a_parent_may_let_go_as_soon_as_it_is_said_to_be_served(
    exited: Callable[[], list[object]],
) -> None:
    """Before anybody waits for that."""
    leash, parent = leashed(Brief([], []))
    parent.sendall(b'["go"]\n')
    leash.wait(9)
    leash.serves("on a port")
    parent.close()
    await trio.to_thread.run_sync(exited)
    with trio.fail_after(5):
        await leash.gone()
    leash._line.close()


@pytest.mark.parametrize("last", [b"", b'["cover", 1'], ids=["closed", "torn"])
async def test_a_parent_that_goes_before_it_serves_ends_it_at_once(
    exited: Callable[[], list[object]], last: bytes
) -> None:
    leash, parent = leashed(Brief([], []))
    parent.sendall(last)
    parent.close()
    assert await trio.to_thread.run_sync(exited) == [1]
    leash._line.close()


def test_a_parent_that_has_gone_before_it_said_anything() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with pytest.raises(SystemExit):
        Leash(theirs.detach())


async def test_it_stands_in_for_those_that_are_away(exited: Callable[[], list[object]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [each.getsockname()[1] for each in (one, two)]
        held = os.dup(one.fileno())
        brief = Brief([], [], 2, {1: [os.dup(one.fileno())], 3: [os.dup(two.fileno())]}, [held])
        leash, parent = leashed(brief)
        assert not os.get_inheritable(held)
        accepting: list[int] = []
        happened = trio.Event()

        async def accept(sock: socket.socket) -> None:
            nonlocal happened
            port = sock.getsockname()[1]
            accepting.append(port)
            happened.set()
            try:
                await trio.sleep_forever()
            finally:
                accepting.remove(port)
                happened.set()

        async def told(*messages: bytes) -> list[int]:
            nonlocal happened
            for message in messages:
                happened = trio.Event()
                parent.sendall(message + b"\n")
                await happened.wait()
            return accepting

        parent.sendall(b'["cover", 3]\n')  # before it serves
        parent.sendall(b'["go"]\n')
        await trio.to_thread.run_sync(leash.wait, 9)  # so that has been heard
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(leash.stand_in, accept)
                await happened.wait()
                assert accepting == [ports[1]]
                assert await told(b'["cover", 1]') == [ports[1], ports[0]]
                assert await told(b'["uncover", 3]') == [ports[0]]
                assert await told(b'["cover", 3]') == ports
                parent.sendall(b'["cover", 9]\n')  # it has no socket of its own: nothing to do
                nursery.cancel_scope.cancel()
        assert accepting == []
        assert all(each.fileno() < 0 for one_of in leash._others.values() for each in one_of)
        parent.close()
        await trio.to_thread.run_sync(exited)
        os.close(held)
        leash._line.close()


class _Ending:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._patience = trio.Event()
        self.ended = 0.0

    async def end(self, seconds: float) -> None:
        with trio.move_on_after(min(seconds, self._seconds)):
            await self._patience.wait()
        self.ended = trio.current_time()

    def hurry(self) -> None:
        self._patience.set()


@pytest.mark.parametrize(
    ("signals", "ended"),
    [
        ([], [2.0, 10.0]),
        ([(3, signal.SIGHUP)], [2.0, 10.0]),
        ([(3, signal.SIGINT)], [2.0, 3.0]),
        ([(1, signal.SIGTERM), (3, signal.SIGTERM)], [1.0, 1.0]),
    ],
)
async def test_all_are_ended_in_parallel_and_a_second_signal_hurries_them(
    autojump_clock: trio.testing.MockClock, signals: list[tuple[float, int]], ended: list[float]
) -> None:
    async def received() -> AsyncIterator[int]:
        began = trio.current_time()
        for after, number in signals:
            await trio.sleep_until(began + after)
            yield number
        await trio.sleep_forever()

    children = [_Ending(2.0), _Ending(99.0)]
    began = trio.current_time()
    await end_all(children, 10.0, received())
    assert [each.ended - began for each in children] == ended

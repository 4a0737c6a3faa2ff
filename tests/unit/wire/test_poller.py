"""Readiness of registered sockets: who waits is woken, and what comes while nobody waits is not lost."""

from __future__ import annotations

import select
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from triochan.wire.poller import Poller, Readiness, open_poller

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="this system has no epoll")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@asynccontextmanager
async def polling() -> AsyncIterator[Poller]:
    poller = Poller()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poller.run)
        yield poller
        nursery.cancel_scope.cancel()


async def test_who_waits_is_woken_by_each_edge(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    received: list[bytes] = []
    readiness = Readiness()

    async def read() -> None:
        while True:
            await readiness.wait()
            received.append(ours.recv(100))

    async with polling() as poller, trio.open_nursery() as nursery:
        poller.register(ours, readiness)
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        assert received == []
        for data in (b"one", b"two"):
            theirs.send(data)
            await wait_all_tasks_blocked()
        assert received == [b"one", b"two"]
        nursery.cancel_scope.cancel()


async def test_what_comes_while_nobody_waits_is_remembered_once(
    pair: tuple[socket.socket, socket.socket], autojump_clock: MockClock
) -> None:
    ours, theirs = pair
    readiness = Readiness()
    async with polling() as poller:
        poller.register(ours, readiness)
        theirs.send(b"early")
        await wait_all_tasks_blocked()
        assert readiness.ready
        with assert_checkpoints():
            await readiness.wait()
        assert not readiness.ready
        with trio.move_on_after(1) as scope:
            await readiness.wait()
        assert scope.cancelled_caught
        theirs.send(b"later")  # and who gave up waiting is not woken in its place
        await wait_all_tasks_blocked()
        assert readiness.ready


async def test_the_end_never_blocks_again(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    readiness = Readiness()
    async with polling() as poller:
        poller.register(ours, readiness)
        theirs.send(b"last words")
        theirs.close()
        await wait_all_tasks_blocked()
        assert readiness.ended
        for _ in range(3):
            with assert_checkpoints():
                await readiness.wait()
        assert ours.recv(100) == b"last words"


async def test_who_waits_for_a_forgotten_socket_is_woken(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    readiness = Readiness()

    async def wait() -> None:
        await readiness.wait()

    async with polling() as poller, trio.open_nursery() as nursery:
        poller.register(ours, readiness)
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        poller.forget(ours)
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert readiness.ended
        poller.forget(ours)  # again is no error
        theirs.send(b"to nobody")  # the number is unknown by now: the event is passed over
        await wait_all_tasks_blocked()
        assert not readiness.ready


async def test_it_lets_go_of_its_epoll() -> None:
    async with polling() as poller:
        await wait_all_tasks_blocked()
    assert poller._epoll.closed


def test_a_system_without_epoll_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "epoll")
    assert open_poller() is None

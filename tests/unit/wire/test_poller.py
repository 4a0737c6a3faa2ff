"""An epoll of the server's own: what it tells, when, and of which socket."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator

import pytest

from triochan.wire import poller as module
from triochan.wire.poller import ENDED, READABLE, WRITABLE, Poller, has_epoll

pytestmark = pytest.mark.skipif(not has_epoll(), reason="this system has no epoll")

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def poller() -> Iterator[Poller[str]]:
    made: Poller[str] = Poller()
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_an_edge_is_told_once(poller: Poller[str], pair: Pair) -> None:
    ours, theirs = pair
    poller.register(ours, "it")
    assert poller.sources == {ours.fileno(): "it"}
    assert poller.poll() == []
    for data in (b"one", b"two"):
        theirs.send(data)
        assert poller.poll() == [(ours.fileno(), READABLE)]
        assert poller.poll() == []  # though nothing was read
    assert ours.recv(100) == b"onetwo"


def test_the_end_may_share_its_edge_with_the_last_bytes(poller: Poller[str], pair: Pair) -> None:
    ours, theirs = pair
    poller.register(ours, "it")
    theirs.send(b"last words")
    theirs.shutdown(socket.SHUT_WR)
    [(number, flags)] = poller.poll()
    assert number == ours.fileno()
    assert flags & READABLE
    assert flags & ENDED
    assert not flags & select.EPOLLHUP  # it still listens


def test_room_to_write(poller: Poller[str], pair: Pair) -> None:
    ours, _ = pair
    poller.register(ours, "it")
    assert poller.poll() == []
    poller.watch(ours, writable=True)
    assert poller.poll() == [(ours.fileno(), WRITABLE)]  # what is so already is told at once
    assert poller.poll() == []
    poller.watch(ours, writable=False)
    assert poller.poll() == []


def test_another_may_stand_behind_a_socket(poller: Poller[str], pair: Pair) -> None:
    ours, theirs = pair
    poller.register(ours, "one")
    poller.replace(ours, "other")
    theirs.send(b"there")
    [(number, _)] = poller.poll()
    assert poller.sources[number] == "other"


def test_a_forgotten_socket_is_told_of_no_more(poller: Poller[str], pair: Pair) -> None:
    ours, theirs = pair
    poller.register(ours, "it")
    theirs.send(b"early")
    poller.forget(ours)
    poller.forget(ours)  # again is no error
    assert poller.poll() == []
    assert poller.sources == {}
    ours.close()
    poller.forget(ours)  # nor is it behind the close


def test_an_event_may_be_older_than_the_socket_of_its_number(poller: Poller[str], pair: Pair) -> None:
    ours, theirs = pair
    poller.register(ours, "one")
    theirs.send(b"there")
    [(number, _)] = poller.poll()
    poller.forget(ours)
    ours.close()
    assert number not in poller.sources  # who looks at the event now, passes over it
    with socket.socket() as successor:
        assert successor.fileno() == number
        poller.register(successor, "two")
        assert poller.sources[number] == "two"  # and who looks now, reads once too often
        poller.forget(successor)


def test_a_number_that_another_process_still_holds(poller: Poller[str], pair: Pair) -> None:
    """A forked child has a copy of every descriptor: closing ours alone would leave it in the epoll for good."""
    ours, theirs = pair
    poller.register(ours, "it")
    copy = os.dup(ours.fileno())
    try:
        poller.forget(ours)
        ours.close()
        theirs.send(b"for the child")
        assert poller.poll() == []
    finally:
        os.close(copy)


def test_so_many_at_once(monkeypatch: pytest.MonkeyPatch, poller: Poller[str]) -> None:
    monkeypatch.setattr(module, "MAX_EVENTS", 2)
    pairs = [socket.socketpair() for _ in range(3)]
    for ours, theirs in pairs:
        poller.register(ours, "it")
        theirs.send(b"there")
    told = [poller.poll(), poller.poll(), poller.poll()]
    assert [len(events) for events in told] == [2, 1, 0]
    assert {number for events in told for number, _ in events} == {ours.fileno() for ours, _ in pairs}
    for each in pairs:
        for sock in each:
            sock.close()


def test_who_waits_for_its_number_is_woken(poller: Poller[str], pair: Pair) -> None:
    ours, theirs = pair
    poller.register(ours, "it")
    assert select.select([poller.fileno()], [], [], 0)[0] == []
    theirs.send(b"there")
    assert select.select([poller.fileno()], [], [], 0)[0] == [poller.fileno()]


def test_a_system_without_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "epoll")
    assert not has_epoll()

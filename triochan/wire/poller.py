"""Thousands of sockets, registered once in an epoll of the server's own.

Trio arms a socket anew in its epoll for every wait. Here each socket is registered once, edge-triggered; the task that
reads waits in Trio for this epoll alone (:mod:`triochan.readers`). Per echoed message this saves a fifth of what Trio
and the kernel take together (docs/performance.md).

An edge tells of bytes that came after the last read that did not fill its buffer; epoll(7) allows to infer from
such a short read that nothing is left. The end of the stream, which may share its edge with the last bytes, has a
flag of its own.
"""

from __future__ import annotations

import select
from typing import Generic, Protocol, TypeVar

S = TypeVar("S")

MAX_EVENTS = 512
"""Sockets that are looked at between two checkpoints."""

READABLE = getattr(select, "EPOLLIN", 0)
WRITABLE = getattr(select, "EPOLLOUT", 0)
ENDED = getattr(select, "EPOLLRDHUP", 0) | getattr(select, "EPOLLHUP", 0) | getattr(select, "EPOLLERR", 0)
_WATCHED = READABLE | getattr(select, "EPOLLRDHUP", 0)
_EDGES = getattr(select, "EPOLLET", 0)


class Numbered(Protocol):
    """A socket, by its number."""

    def fileno(self) -> int: ...


class Poller(Generic[S]):
    """Sockets and what stands behind each of them. Linux only."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.sources: dict[int, S] = {}
        """By the socket's number; a number may be another socket's by the time that an event is looked at, which
        then is a read too many."""
        self.fileno = self._epoll.fileno

    def register(self, sock: Numbered, source: S) -> None:
        """Watch ``sock`` for something to read, and for its end."""
        number = sock.fileno()
        self.sources[number] = source
        self._epoll.register(number, _WATCHED | _EDGES)

    def replace(self, sock: Numbered, source: S) -> None:
        """From now on ``source`` stands behind ``sock``."""
        self.sources[sock.fileno()] = source

    def watch(self, sock: Numbered, *, writable: bool) -> None:
        """Watch ``sock`` for room to write as well, or no longer; what is so already is told at once."""
        self._epoll.modify(sock.fileno(), _WATCHED | _EDGES | (WRITABLE if writable else 0))

    def forget(self, sock: Numbered) -> None:
        """Just before the socket is closed; again is no error."""
        number = sock.fileno()
        if self.sources.pop(number, None) is not None:
            self._epoll.unregister(number)

    def poll(self) -> list[tuple[int, int]]:
        """What has happened, as pairs of a socket's number and flags; never waits."""
        return self._epoll.poll(0, MAX_EVENTS)

    def close(self) -> None:
        self._epoll.close()


def has_epoll() -> bool:
    """This system has what :class:`Poller` needs."""
    return hasattr(select, "epoll")

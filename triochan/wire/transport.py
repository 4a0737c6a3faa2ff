"""The bytes below a connection: a non-blocking socket, plain or TLS, or any stream of Trio's.

Sockets are the standard library's, kept as objects: a ``send`` after ``close`` fails with EBADF, where a bare file
descriptor would by then be another client's.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import trio

from .poller import Poller, Readiness

RECEIVE_SIZE = 65536
BLOCKED = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Transport(Protocol):
    """What a connection needs of its stream."""

    @property
    def socket(self) -> socket.socket | None:
        """The non-blocking socket that ``send`` may be called on at any time; None where there is none."""

    async def receive_some(self) -> bytes:
        """At least one byte, ``b""`` at the end; always a checkpoint. BrokenResourceError where it is lost."""

    async def send_some(self, data: bytes) -> int:
        """Write a part of ``data``, waiting for room; how much. A cancelled one may have written any part."""

    def send_eof(self) -> None:
        """Tell the peer that nothing more comes, where the transport can."""

    def close(self) -> None:
        """Nothing comes or goes any more: waiting tasks get ClosedResourceError. Again is no error."""

    async def aclose(self) -> None:
        """Close, and give back what the transport holds; no checkpoint where it is a socket."""


class SocketTransport(Readiness):
    """A connected, non-blocking socket: TCP, Unix, or TLS by :func:`triochan.wire.listeners.start_tls`.

    Args:
        sock: the socket, which is the transport's from now on.
        poller: the server's; None: Trio's own waits serve. Not for TLS, where bytes that were read from the network
            may wait in the TLS layer.
    """

    __slots__ = ("_closed", "_full", "_pending", "_poller", "socket")

    def __init__(self, sock: socket.socket, poller: Poller | None = None) -> None:
        super().__init__()
        self.socket: socket.socket = sock
        self._closed = False
        # A read that filled the buffer has probably left something. After any other, trying before the socket
        # is readable again would cost a failed system call and an exception.
        self._full = False
        self._pending = sock.pending if isinstance(sock, ssl.SSLSocket) else None
        self._poller = poller if self._pending is None else None
        if self._poller is not None:
            self._poller.register(sock, self)

    async def receive_some(self) -> bytes:
        try:
            while True:
                if self._full or (self._pending is not None and self._pending()):
                    await trio.lowlevel.checkpoint()
                elif self._poller is not None:
                    await self.wait()
                else:
                    await trio.lowlevel.wait_readable(self.socket)
                try:
                    data = self.socket.recv(RECEIVE_SIZE)
                except BLOCKED:
                    self._full = self.ended = False
                else:
                    self._full = len(data) == RECEIVE_SIZE
                    return data
        except (OSError, ValueError) as error:
            raise self._gone(error) from error

    async def send_some(self, data: bytes) -> int:
        try:
            while True:
                await trio.lowlevel.wait_writable(self.socket)
                try:
                    return self.socket.send(data)
                except BLOCKED:
                    continue
        except (OSError, ValueError) as error:
            raise self._gone(error) from error

    def send_eof(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer is gone already

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._poller is not None:
            self._poller.forget(self.socket)
        trio.lowlevel.notify_closing(self.socket)
        if isinstance(self.socket, ssl.SSLSocket):
            try:
                self.socket.unwrap()  # say so to the peer, without waiting for what it says
            except (OSError, ValueError):
                pass
        self.socket.close()

    async def aclose(self) -> None:
        self.close()

    def _gone(self, error: Exception) -> Exception:
        if self._closed:
            return trio.ClosedResourceError("this side closed the socket")
        return trio.BrokenResourceError(f"the socket is lost: {error}")


class StreamTransport:
    """Any :class:`trio.abc.Stream`: what tests use, and programs with streams of their own."""

    __slots__ = ("_closed", "_scopes", "_stream", "socket")

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.socket = None
        self._stream = stream
        self._closed = False
        self._scopes: set[trio.CancelScope] = set()

    async def receive_some(self) -> bytes:
        with self._until_closed():
            return bytes(await self._stream.receive_some(RECEIVE_SIZE))
        raise trio.ClosedResourceError("this side closed the stream")

    async def send_some(self, data: bytes) -> int:
        with self._until_closed():
            await self._stream.send_all(data)
            return len(data)
        raise trio.ClosedResourceError("this side closed the stream")

    def send_eof(self) -> None:
        pass

    def close(self) -> None:
        self._closed = True
        for scope in self._scopes:
            scope.cancel()

    async def aclose(self) -> None:
        """Shielded and bounded: a stream that does not let go is left behind."""
        self.close()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await trio.aclose_forcefully(self._stream)

    @contextmanager
    def _until_closed(self) -> Iterator[None]:
        """A block that :meth:`close` leaves; what comes after it is what the close makes of it."""
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                if self._closed:
                    scope.cancel()
                yield
            finally:
                self._scopes.discard(scope)

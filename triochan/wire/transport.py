"""The bytes below a connection: a non-blocking socket, plain or TLS, or any stream of Trio's.

Reading and writing never wait here. A socket is watched by the server's epoll; a stream is pumped by two tasks of its
connection. Both tell the connection, their source, when there is something to read or room to write.

Sockets are the standard library's, kept as objects: a ``send`` after ``close`` fails with EBADF, where a bare file
descriptor would by then be another client's.
"""

from __future__ import annotations

import socket
import ssl
import struct
import sys
from array import array
from collections.abc import Callable
from typing import Any, Protocol

import trio

from .poller import Poller
from .tls import TlsSocket

if sys.platform == "linux":
    import fcntl
    import termios

    _OUTQ: int | None = termios.TIOCOUTQ
    """SIOCOUTQ of tcp(7) and unix(7)."""
else:
    _OUTQ = None

_TCP_INFO = struct.Struct("=120xQ100xI")
"""Of struct tcp_info (linux/tcp.h): tcpi_bytes_acked and tcpi_snd_wnd."""
READ_SIZE = 65536
BLOCKED = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
CLOSE_SECONDS = 1.0
"""How long a stream's last bytes may take to leave when it is closed."""


class Source(Protocol):
    """What stands behind a transport: told what has happened to it, by whoever reads."""

    def readable(self) -> object:
        """There may be something to read. What it returns is for the reader."""

    def writable(self) -> None:
        """There is room to write."""


class Transport(Protocol):
    """What a connection needs of its stream.

    Attributes:
        ended: the stream's end, or an error, lies behind what can be read: reading on never blocks.
        turns: of Trio's loop, that what has come, or the room to write, may need until it shows here.
        full: the last :meth:`read` may have left something in the socket, or below it.
        received: bytes that were read since :meth:`count`.
    """

    ended: bool
    received: int

    @property
    def full(self) -> bool: ...

    @property
    def turns(self) -> int: ...

    @property
    def send(self) -> Callable[[bytes], int]:
        """Write a part of some bytes, without waiting: how much; one of ``BLOCKED``, or an OSError where it is lost."""

    def read(self) -> bytes | None:
        """What has come, ``b""`` at the end, None where nothing has; an OSError where the stream is lost."""

    def more(self) -> bool:
        """The last :meth:`read` may have left something."""

    def unread(self) -> bool:
        """Something has come that was not read; this looks at the socket itself, and reads nothing."""

    def unacknowledged(self) -> int:
        """Bytes that :attr:`send` has taken and the peer's system has not acknowledged; 0 where nobody can say."""

    def room_made(self) -> int | None:
        """A number that grows by the bytes that the peer's program reads, as its window tells; None: nobody can say."""

    def pause(self) -> None:
        """What comes is not read for now; sources are still told of the end."""

    def resume(self) -> None:
        """It is read again: the source is told of what has come meanwhile."""

    def watch_writable(self) -> None:
        """Tell the source when there is room to write."""

    def unwatch_writable(self) -> None:
        """It has been told."""

    def send_eof(self) -> None:
        """Tell the peer that nothing more comes, where the transport can."""

    def hand_over(self, source: Source) -> None:
        """From now on ``source`` is told."""

    def count(self) -> None:
        """Count what is read from now on, in :attr:`received`."""

    def reset(self) -> None:
        """Let :meth:`close` be a reset, where the transport can: no peer takes that for the end of a stream."""

    def close(self, *, clean: bool = True) -> None:
        """Nothing comes any more, and nothing goes but what was taken already. Again is no error.

        Args:
            clean: over TLS, say that this is the end (RFC 8446 section 6.1); what broke off must not end so.
        """


def has_come(sock: socket.socket) -> bool:
    """The peer of a non-blocking socket has sent something, which is left there."""
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except OSError:  # nothing has come, or nothing comes any more
        return False


class SocketTransport:
    """A connected, non-blocking socket: TCP, Unix, or TLS by :func:`triochan.wire.listeners.start_tls`.

    Args:
        sock: the socket, which is the transport's from now on.
        poller: the server's.
        source: what stands behind it, see :meth:`hand_over`.
    """

    __slots__ = (
        "_paused",
        "_poller",
        "_receive",
        "_tls",
        "_wanting",
        "ended",
        "full",
        "received",
        "send",
        "socket",
    )

    turns = 1

    def __init__(self, sock: socket.socket | TlsSocket, poller: Poller[Any], source: Source) -> None:
        self.socket = sock
        self.send: Callable[[bytes], int] = sock.send
        self._receive: Callable[[int], bytes] = sock.recv
        self._tls = sock if isinstance(sock, TlsSocket) else None
        self._poller: Poller[Any] | None = poller
        self.ended = False
        self.full = False if self._tls is None else self._tls.full
        self._paused = False
        self._wanting = False
        self.received = 0
        poller.register(sock, source)

    def hand_over(self, source: Source) -> None:
        """From now on ``source`` is told."""
        if self._poller is not None:
            self._poller.replace(self.socket, source)

    def read(self) -> bytes | None:
        try:
            data = self._receive(READ_SIZE)
        except BLOCKED:
            self.full = self.ended = False
            return None
        # A read that filled the buffer has probably left something.
        self.full = len(data) == READ_SIZE if self._tls is None else self._tls.full
        return data

    def count(self) -> None:
        self._receive = self._receive_counted

    def _receive_counted(self, size: int) -> bytes:
        data = self.socket.recv(size)
        self.received += len(data)
        return data

    def more(self) -> bool:
        return self.full or self.ended

    def unread(self) -> bool:
        sock = self.socket
        if isinstance(sock, TlsSocket):
            if sock.pending():
                return True
            sock = sock.socket
        return has_come(sock)

    def unacknowledged(self) -> int:
        if _OUTQ is None:
            return 0
        answer = array("i", (0,))
        try:
            fcntl.ioctl(self.socket.fileno(), _OUTQ, answer)
        except (OSError, ValueError):  # it is lost; or closed, and has the number -1
            return 0
        return answer[0]

    def room_made(self) -> int | None:
        """What has been acknowledged, and the window behind that: the peer's system moves its end as the program reads
        (RFC 9293 section 3.8.6), and not when it merely takes what comes."""
        if _OUTQ is None:
            return None
        sock = self.socket.socket if isinstance(self.socket, TlsSocket) else self.socket
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        except OSError:  # a Unix socket, or it is lost
            return None
        if len(info) < _TCP_INFO.size:  # before Linux 5.4
            return None
        acknowledged, window = _TCP_INFO.unpack(info)
        return int(acknowledged + window)

    def pause(self) -> None:
        self._paused = True  # edges may come and are passed over

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._watch()

    def watch_writable(self) -> None:
        self._wanting = True
        self._watch()

    def unwatch_writable(self) -> None:
        self._wanting = False  # an edge is told once

    def _watch(self) -> None:
        if self._poller is not None:
            self._poller.watch(self.socket, writable=self._wanting)

    def send_eof(self) -> None:
        if self._tls is not None:
            self._tls.say_end()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer is gone already

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self, *, clean: bool = True) -> None:
        poller, self._poller = self._poller, None
        if poller is None:
            return
        poller.forget(self.socket)
        self.send = self._receive = _closed
        if clean and self._tls is not None:
            self._tls.say_end()
        self.socket.close()


def _closed(_: object) -> Any:
    raise OSError("this side closed the socket")


class StreamTransport:
    """Any :class:`trio.abc.Stream`: what tests use, systems without epoll, and programs with streams of their own.

    It behaves as a socket whose buffer holds one write. Its two tasks run in :meth:`pump`.

    Args:
        stream: the stream, which is the transport's from now on.
        told: called with a source that can read again, and may be in any task's turn.
        source: what stands behind it.
    """

    __slots__ = (
        "_closed", "_come", "_end", "_lost", "_outgoing", "_paused", "_read", "_room", "_source", "_stream", "_taken",
        "_told", "_written", "ended", "received",
    )  # fmt: skip

    turns = 8
    """Tasks that pump pass it on, within the stream as well: those of TLS, or another server's."""
    full = False

    def __init__(self, stream: trio.abc.Stream, told: Callable[[Any], None], source: Source) -> None:
        self._stream = stream
        self._told = told
        self._source = source
        self.ended = False
        self._come: bytes | None = None
        self._taken = trio.Event()
        self._paused = False
        self._outgoing = b""
        self._room = trio.Event()
        self._written = trio.Event()
        self._lost = False
        self._closed = False
        self._end = trio.Event()
        self.received = 0

    def hand_over(self, source: Source) -> None:
        self._source = source

    def read(self) -> bytes | None:
        data, self._come = self._come, None
        if data is not None:
            if data:
                self._taken.set()
                self.received += len(data)
            return data
        if self._lost:
            raise OSError("the stream is lost")
        return b"" if self.ended else None

    def count(self) -> None:
        self.received = 0

    def more(self) -> bool:
        return self.ended or self._come is not None

    def unread(self) -> bool:
        return bool(self._come)

    def unacknowledged(self) -> int:
        return 0

    def room_made(self) -> int | None:
        return None

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._come is not None or self.ended:
                self._told(self._source)

    def send(self, data: bytes) -> int:
        if self._closed or self._lost:
            raise OSError("the stream is closed")
        if self._outgoing:
            raise BlockingIOError
        self._outgoing = bytes(data)
        self._room.set()
        return len(data)

    def watch_writable(self) -> None:
        pass  # the writing task always says so

    def unwatch_writable(self) -> None:
        pass

    def send_eof(self) -> None:
        pass

    def reset(self) -> None:
        pass

    def close(self, *, clean: bool = True) -> None:
        if not self._closed:
            self._closed = True
            self._room.set()
            self._end.set()

    async def pump(self) -> None:
        """Read and write until the transport is closed; then close the stream, when the last bytes have left."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump_in)
                nursery.start_soon(self._pump_out)
                await self._end.wait()
                if self._outgoing:
                    nursery.cancel_scope.deadline = trio.current_time() + CLOSE_SECONDS
                    await self._written.wait()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS):
                await trio.aclose_forcefully(self._stream)
            del self._source

    async def _pump_in(self) -> None:
        while not self.ended:
            try:
                self._come = bytes(await self._stream.receive_some(READ_SIZE))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._lost = True
                self.ended = True
            else:
                self.ended = not self._come
            self._taken = trio.Event()
            if not self._paused or self.ended:
                self._told(self._source)
            if not self.ended:
                await self._taken.wait()

    async def _pump_out(self) -> None:
        while not self._lost:
            if not self._outgoing:
                self._room = trio.Event()
                await self._room.wait()
                continue
            try:
                await self._stream.send_all(self._outgoing)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._lost = self.ended = True
                self._told(self._source)
            self._outgoing = b""
            self._written.set()
            self._written = trio.Event()
            if not self._closed:
                self._source.writable()


class PolledStream(trio.abc.Stream):
    """A non-blocking socket, plain or TLS, as a stream on Trio's own waits: for systems without epoll."""

    def __init__(self, sock: socket.socket | TlsSocket) -> None:
        self._socket = sock

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        sock = self._socket
        try:
            while True:
                if not (isinstance(sock, TlsSocket) and sock.pending()):
                    await trio.lowlevel.wait_readable(sock.fileno())
                else:
                    await trio.lowlevel.checkpoint()
                try:
                    return sock.recv(max_bytes or READ_SIZE)
                except BLOCKED:
                    continue
        except (OSError, ValueError) as error:
            raise trio.BrokenResourceError(f"the socket is lost: {error}") from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        try:
            while view:
                await trio.lowlevel.wait_writable(self._socket.fileno())
                try:
                    view = view[self._socket.send(view) :]
                except BLOCKED:
                    continue
        except (OSError, ValueError) as error:
            raise trio.BrokenResourceError(f"the socket is lost: {error}") from error

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.wait_writable(self._socket.fileno())

    async def aclose(self) -> None:
        trio.lowlevel.notify_closing(self._socket.fileno())
        self._socket.close()
        await trio.lowlevel.checkpoint()

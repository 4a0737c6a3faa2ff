"""TLS on a non-blocking socket, as the server.

Not ``ssl.SSLSocket``: that one reads a record's head and its body with a system call each, and what it leaves in the
socket says nothing about what OpenSSL still has, so that no edge can be trusted. Here ciphertext is read in one call
and decrypted at once, all of it. So a short read means that nothing is left, as on a plain socket, and a small message
costs two system calls instead of three (docs/performance.md).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

import trio

_RECORD = 16384
"""The most that one record carries (RFC 8446 section 5.1), in bytes; as much is encrypted before it is written."""
_READ_SIZE = _RECORD + 256
"""Ciphertext that is read at once, in bytes: a whole record, which has up to 21 more than it carries.

OpenSSL's memory BIOs keep what they have once grown to, so a connection that has carried large messages keeps up to
22 KiB for each direction. In pieces of 4 KiB it would be 6, and messages of 16 KiB would take half as long again.
"""
_MAX_OWED = 65536
"""Bytes of TLS's own answers that a peer may leave unread."""


class TlsSocket:
    """A connected, non-blocking socket that speaks TLS, with the methods of a socket that a transport needs.

    What can't be done now raises, as of :class:`ssl.SSLSocket`.

    Args:
        sock: the socket, which is this one's from now on.
        context: the server's.

    Attributes:
        full: the last :meth:`recv` may have left something.
    """

    __slots__ = (
        "_begun", "_ended", "_fails", "_incoming", "_object", "_outgoing", "_raw", "_read", "_ready", "_receive",
        "_said_end", "_send", "_unsent", "_write", "fileno", "full", "setsockopt", "shutdown", "socket",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.socket = sock
        self.fileno = sock.fileno
        self.setsockopt = sock.setsockopt
        self.shutdown = sock.shutdown
        self._receive = sock.recv
        self._send = sock.send
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        # What SSLObject's own methods call, where it has that: 0.05 µs each.
        inner = getattr(self._object, "_sslobj", self._object)
        self._read: Callable[[int], bytes] = inner.read
        self._write: Callable[[bytes | memoryview], int] = inner.write
        self.full = False
        # What was decrypted and not given out yet; behind it the end, or what went wrong.
        self._ready = b""
        self._ended = False
        self._fails = ""
        # Ciphertext that the socket has not taken, and for how much of what send() was given it stands.
        self._unsent = b""
        self._begun = 0
        self._said_end = False
        # What comes since then can't be decrypted.
        self._raw = False

    async def handshake(self) -> None:
        """Shake hands. No limit of its own.

        Raises:
            OSError: the client does not speak TLS, or went away.
        """
        done = False
        while not done:
            try:
                self._object.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                self._answer()  # an alert, which says why
                raise
            while self._outgoing.pending or self._unsent:
                try:
                    self._flush()
                except ssl.SSLWantWriteError:
                    await trio.lowlevel.wait_writable(self.socket)
            if not done:
                self._incoming.write(await self._hear())
        if self._incoming.pending:  # a client need not wait for an answer to what ends the handshake
            self._ready = self._decrypt()
            self.full = True

    async def _hear(self) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self.socket)
            try:
                data = self._receive(_READ_SIZE)
            except BlockingIOError:
                continue
            if not data:
                raise OSError("the client went away in the TLS handshake")
            return data

    # -- reading

    def recv(self, size: int) -> bytes:
        """All that has come, but no more than ``size`` bytes; ``b""`` at the end.

        Raises:
            ssl.SSLWantReadError: nothing has come.
            OSError: the socket is lost, or what came is not TLS.
        """
        if self._ready or self._ended or self._fails:
            return self._give(size)
        try:
            data = self._receive(_READ_SIZE)
        except BlockingIOError:
            self.full = False
            raise ssl.SSLWantReadError from None
        self.full = len(data) == _READ_SIZE
        if not data or self._raw:
            return data
        incoming = self._incoming
        incoming.write(data)
        try:
            found = self._read(_RECORD)
        except ssl.SSLError as error:
            found = self._judge(error, data)
        else:
            if not found:
                self._ended = self.full = True
            elif incoming.pending:  # mostly it is one record
                found += self._decrypt()
        if self._outgoing.pending:
            self._answer()
        if found and len(found) <= size:
            return found
        self._ready = found
        return self._give(size)

    def _give(self, size: int) -> bytes:
        found = self._ready
        if found:
            self._ready = found[size:]
            self.full = True
            return found[:size]
        if self._ended:
            return b""
        if self._fails:
            raise OSError(self._fails)
        if self.full:  # of so much not one record carried anything: OpenSSL lets no more than 32 such pass
            return self.recv(size)
        raise ssl.SSLWantReadError

    def _decrypt(self) -> bytes:
        """All that OpenSSL has been given. The end, or an error, that comes behind is kept."""
        incoming, read = self._incoming, self._read
        found: list[bytes] = []
        try:
            while incoming.pending:
                record = read(_RECORD)
                if not record:
                    self._ended = self.full = True
                    break
                found.append(record)
        except ssl.SSLError as error:
            found.append(self._judge(error, b""))
        return b"".join(found)

    def _judge(self, error: ssl.SSLError, data: bytes) -> bytes:
        """What ``data``, which made OpenSSL raise, brings all the same."""
        if isinstance(error, ssl.SSLWantReadError):
            return b""  # the record is not whole, or says nothing to us
        if isinstance(error, ssl.SSLZeroReturnError):
            self._ended = self.full = True
            return b""
        if self._said_end:
            self._raw = True  # it is only taken off the network
            return data
        self._fails = f"what came is not TLS: {error}"
        self.full = True
        return b""

    # -- writing

    def send(self, data: bytes | memoryview) -> int:
        """Write a part of some bytes: how much.

        Raises:
            ssl.SSLWantWriteError: there is no room. What was encrypted can't be taken back, so the same bytes have to
                come again, as OpenSSL has it (SSL_write(3)).
            OSError: the socket is lost.
        """
        size = len(data)
        if size <= _RECORD and not self._unsent:  # what the rest comes to
            self._write(data)
            sent = self._push(self._outgoing.read(), size)
            if not sent:
                raise ssl.SSLWantWriteError
            return sent
        if self._unsent:
            self._flush()
        sent, self._begun = self._begun, 0
        with memoryview(data) as view:
            while sent < size:
                record = view[sent : sent + _RECORD]
                self._write(record)
                taken = self._push(self._outgoing.read(), len(record))
                if not taken:
                    break
                sent += taken
        if not sent:
            raise ssl.SSLWantWriteError
        return sent

    def _push(self, ciphertext: bytes, size: int) -> int:
        """Write records that carry ``size`` bytes: all of these, or 0 and the rest is kept."""
        try:
            sent = self._send(ciphertext)
        except BlockingIOError:
            sent = 0
        if sent == len(ciphertext):
            return size
        self._unsent, self._begun = ciphertext[sent:], size
        return 0

    def _flush(self) -> None:
        """Write what is encrypted; SSLWantWriteError where not all of it has left."""
        self._unsent += self._outgoing.read()
        try:
            sent = self._send(self._unsent)
        except BlockingIOError:
            raise ssl.SSLWantWriteError from None
        self._unsent = self._unsent[sent:]
        if self._unsent:
            raise ssl.SSLWantWriteError

    def _answer(self) -> None:
        """Write what TLS itself has to say, as far as there is room; the rest leaves ahead of the next record."""
        try:
            self._flush()
        except OSError:
            if len(self._unsent) > _MAX_OWED:
                self._fails = "the client asks for new keys and does not read the answers"
                self.full = True

    # -- the end

    def say_end(self) -> None:
        """Say that nothing more comes (RFC 8446 section 6.1), without waiting for what the peer says; once."""
        if not self._said_end:
            self._said_end = True
            try:
                self._object.unwrap()
            except (OSError, ValueError):
                pass  # it waits for the peer's
            self._answer()

    def pending(self) -> bool:
        """:meth:`recv` has something to give out without looking at the socket."""
        return bool(self._ready or self._ended or self._fails)

    def close(self) -> None:
        """Nothing comes or goes any more; the peer is told nothing. Again is no error."""
        self.socket.close()

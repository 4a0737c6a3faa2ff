"""The client's half of the WebSocket protocol, as little of it as a load generator needs.

No parser runs while a server behaves: what arrives is compared with the bytes that must arrive. Only what
differs (a message in two pieces, a ping) is looked into: the generator is fast and still checks every byte.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import socket
import ssl
import zlib

HOST = "127.0.0.1"
READ_SIZE = 65536
TIMEOUT = 15.0
"""Seconds without any progress after which a server counts as stuck."""

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
COMPRESSED = 0x40
"""Beside an opcode: RSV1, the mark of a compressed message (RFC 7692, section 6)."""
_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_MASK = bytes.fromhex("3a917c5d")  # any key but zeros, which a server could take as nothing to do


class ProtocolError(Exception):
    """The server did something other than what the scenario needs."""


def client_frame(opcode: int, payload: bytes) -> bytes:
    """One unfragmented, masked frame (RFC 6455, section 5.2)."""
    length = len(payload)
    if length < 126:
        head = bytes([0x80 | opcode, 0x80 | length])
    elif length < 65536:
        head = bytes([0x80 | opcode, 0x80 | 126]) + length.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, 0x80 | 127]) + length.to_bytes(8, "big")
    key = int.from_bytes(_MASK * (length // 4 + 1), "big") >> 8 * (4 - length % 4)
    return head + _MASK + (int.from_bytes(payload, "big") ^ key).to_bytes(length, "big")


def split_frame(data: bytes, compressed: bool = False) -> tuple[int, bytes, int] | None:
    """Opcode, payload and whole length of the server's frame that `data` starts with; None if incomplete.

    With `compressed` a frame may be a compressed one; the opcode then has that mark as well.
    """
    if len(data) < 2:
        return None
    if data[0] & (0xB0 if compressed else 0xF0) != 0x80 or data[1] & 0x80:
        kind = "final, unmasked frame" + ("" if compressed else " without extensions")
        raise ProtocolError(f"expected a {kind}, got {data[:2].hex()}")
    length, start = data[1], 2
    if length >= 126:
        start = 4 if length == 126 else 10
        length = int.from_bytes(data[2:start], "big")
    end = start + length
    return (data[0] & 0x4F, data[start:end], end) if len(data) >= max(end, start) else None


def upgrade_request(path: str, compressed: bool = False) -> tuple[bytes, bytes]:
    """An opening handshake, and the `Sec-WebSocket-Accept` of its answer.

    It offers no extensions, or compression the way browsers do.
    """
    key = base64.b64encode(os.urandom(16))
    offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" if compressed else b""
    request = (
        b"GET %b HTTP/1.1\r\nHost: %b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n%b\r\n"
    ) % (path.encode(), HOST.encode(), key, offer)
    return request, base64.b64encode(hashlib.sha1(key + _ACCEPT_GUID).digest())


def check_upgrade(response: bytes, accept: bytes) -> None:
    if not response.startswith(b"HTTP/1.1 101 ") or accept not in response:
        raise ProtocolError(f"expected an accepted handshake, got {response[:200]!r}")
    if b"sec-websocket-extensions" in response.lower():
        raise ProtocolError("the server answers with extensions that were not offered")


class NotCompressed(ProtocolError):
    """The server is in order, but does not do compression."""


def agreed_compression(response: bytes, accept: bytes) -> dict[str, str]:
    """The parameters of permessage-deflate in the answer to an offer of it (RFC 7692, section 7.1)."""
    if not response.startswith(b"HTTP/1.1 101 ") or accept not in response:
        raise ProtocolError(f"expected an accepted handshake, got {response[:200]!r}")
    found = re.search(rb"(?i)\r\nsec-websocket-extensions:[ \t]*([^\r]*)", response)
    if found is None:
        raise NotCompressed("the server did not agree to compress")
    name, *parameters = (part.strip() for part in found[1].decode("ascii").split(";"))
    if name != "permessage-deflate":
        raise ProtocolError(f"expected permessage-deflate, got {found[1]!r}")
    agreed: dict[str, str] = {}
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        agreed[key.strip()] = value.strip(' "')
    return agreed


def deflated(payload: bytes, window_bits: int = 15) -> bytes:
    """A message's payload, compressed on its own (RFC 7692, section 7.2.1)."""
    compressor = zlib.compressobj(wbits=-window_bits)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_TAIL)


_TAIL = b"\x00\x00\xff\xff"


class Inflater:
    """Reads one server's compressed messages, in their order."""

    def __init__(self, agreed: dict[str, str]) -> None:
        self._alone = "server_no_context_takeover" in agreed
        self._bits = -int(agreed.get("server_max_window_bits") or 15)
        self._inflate = zlib.decompressobj(self._bits)

    def message(self, payload: bytes) -> bytes:
        if self._alone:
            self._inflate = zlib.decompressobj(self._bits)
        try:
            return self._inflate.decompress(payload + _TAIL)
        except zlib.error as error:
            raise ProtocolError(f"a message of {len(payload)} B does not inflate: {error}") from error


class Client:
    """One WebSocket to a server; it blocks until `finish_handshake` is through."""

    __slots__ = ("_accept", "_tail", "reply", "send_now", "sock")

    COMPRESSED = False

    def __init__(
        self,
        port: int,
        path: str,
        tls: ssl.SSLContext | None = None,
        request: tuple[bytes, bytes] | None = None,
    ) -> None:
        """`request` is an `upgrade_request`, for those who are in a hurry."""
        self.sock = socket.socket()
        self.sock.settimeout(TIMEOUT)
        self.sock.connect((HOST, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname=HOST)
        self._tail = b""
        self.reply = b""
        self.send_now = self.sock.send
        head, self._accept = request or upgrade_request(path, self.COMPRESSED)
        self.sock.sendall(head)

    def finish_handshake(self) -> None:
        """Read the answer; apart from sending the request, so that many handshakes may be under way."""
        head = b""
        while b"\r\n\r\n" not in head:
            data = self.sock.recv(READ_SIZE)
            if not data:
                raise ProtocolError(f"the server closed in the handshake, after {head!r}")
            head += data
        head, _, self._tail = head.partition(b"\r\n\r\n")
        self._upgraded(head)
        self.sock.setblocking(False)

    def _upgraded(self, head: bytes) -> None:
        check_upgrade(head, self._accept)

    def recv(self, size: int) -> bytes:
        """What has arrived. Empty only when TLS had something of its own to do."""
        try:
            data = self.sock.recv(size)
        except (ssl.SSLWantReadError, BlockingIOError):
            return b""
        if not data:
            raise ProtocolError("the server closed the connection")
        return data

    def send(self, data: bytes) -> None:
        """Send all of it; waits, which happens only where the socket's buffer is full."""
        sent = self.send_now(data)
        if sent < len(data):
            self.sock.settimeout(TIMEOUT)
            self.sock.sendall(data[sent:])
            self.sock.setblocking(False)

    def take(self, data: bytes) -> int:
        """How many replies are complete with `data`; answers pings; anything else is `ProtocolError`."""
        data = self._tail + data
        reply, size, replies, at = self.reply, len(self.reply), 0, 0
        while True:
            if reply and data.startswith(reply, at):
                replies += 1
                at += size
                continue
            frame = split_frame(data[at:])
            if frame is None:
                break
            self._control(frame[0], frame[1])
            at += frame[2]
        self._tail = data[at:]
        return replies

    def texts(self, data: bytes) -> list[bytes]:
        """The messages that are complete with `data`, whatever they are; answers pings."""
        data = self._tail + data
        found, at = [], 0
        while (frame := split_frame(data[at:])) is not None:
            at += frame[2]
            if frame[0] == TEXT:
                found.append(frame[1])
            else:
                self._control(frame[0], frame[1])
        self._tail = data[at:]
        return found

    def frame(self) -> tuple[bytes, bytes]:
        """Wait for the next data frame: its payload and the whole of its bytes."""
        self.sock.settimeout(TIMEOUT)
        try:
            while True:
                found = split_frame(self._tail)
                if found is None:
                    self._tail += self.recv(READ_SIZE)
                    continue
                opcode, payload, length = found
                whole, self._tail = self._tail[:length], self._tail[length:]
                if opcode == TEXT:
                    return payload, whole
                self._control(opcode, payload)
        finally:
            self.sock.setblocking(False)

    def has_tail(self) -> bool:
        return bool(self._tail)

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.send(client_frame(PONG, payload))
        elif opcode != PONG:
            raise ProtocolError(f"expected {self.reply[:40]!r}, got opcode {opcode} with {payload[:80]!r}")


class CompressedClient(Client):
    """A client that has agreed on compression: it counts messages, and reads them where it is `sampled`."""

    __slots__ = ("_inflater", "agreed", "expected", "received", "sampled")

    COMPRESSED = True

    def _upgraded(self, head: bytes) -> None:
        self.agreed = agreed_compression(head, self._accept)
        self._inflater = Inflater(self.agreed)
        self.expected: list[bytes] = []
        """The messages that come, again and again, in this order."""
        self.received = 0
        self.sampled = False

    def take(self, data: bytes) -> int:
        """How many messages are complete with `data`; one that a sampled client did not expect is an error."""
        data = self._tail + data
        at = messages = 0
        while (frame := split_frame(data[at:], compressed=True)) is not None:
            opcode, payload, length = frame
            at += length
            if opcode & ~COMPRESSED != TEXT:
                self._control(opcode, payload)
                continue
            messages += 1
            if self.sampled:
                self._check(payload, bool(opcode & COMPRESSED))
        self._tail = data[at:]
        return messages

    def _check(self, payload: bytes, compressed: bool) -> None:
        message = self._inflater.message(payload) if compressed else payload
        expected = self.expected[self.received % len(self.expected)]
        if message != expected:
            raise ProtocolError(
                f"message {self.received}: expected {expected[:60]!r}, got {message[:60]!r} ({len(message)} B)"
            )
        self.received += 1


class HttpClient:
    """One keep-alive connection that asks for the same thing again and again."""

    __slots__ = ("_buffer", "body", "request", "sock")

    def __init__(self, port: int, path: str) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(TIMEOUT)
        self.sock.connect((HOST, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nAccept: */*\r\n\r\n".encode()
        self.body = b""
        """What each answer's body must be; empty accepts any, to learn it."""
        self._buffer = b""

    def take(self, data: bytes) -> bool:
        """Whether the answer is complete with `data`; a wrong one is `ProtocolError`."""
        if not data:
            raise ProtocolError("the server closed a keep-alive connection")
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        length = re.search(rb"(?i)\r\ncontent-length:[ \t]*([0-9]+)", head)
        if not head.startswith(b"HTTP/1.1 200") or length is None or b"\r\nconnection: close" in head.lower():
            raise ProtocolError(f"expected 200, a length and a connection that stays, got {head[:200]!r}")
        if len(body) < int(length[1]):
            return False
        if len(body) > int(length[1]) or (self.body and body != self.body):
            raise ProtocolError(f"expected the body {self.body!r}, got {body[:200]!r}")
        self._buffer = b""
        return True

    def learn(self) -> bytes:
        """Ask once and wait; the answer's body, which every later one must have."""
        self.sock.sendall(self.request)
        while True:
            data = self.sock.recv(READ_SIZE)
            whole = self._buffer + data
            if self.take(data):
                self.body = whole.partition(b"\r\n\r\n")[2]
                return self.body

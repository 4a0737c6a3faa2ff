"""The client's half of the WebSocket protocol, as little of it as a load generator needs.

No parser runs while a server behaves: what arrives is compared with the bytes that must arrive. Only what
differs (a message in two pieces, a ping) is looked into: the generator is fast and still checks every byte.
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl

HOST = "127.0.0.1"
READ_SIZE = 65536
TIMEOUT = 15.0
"""Seconds without any progress after which a server counts as stuck."""

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
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


def split_frame(data: bytes) -> tuple[int, bytes, int] | None:
    """Opcode, payload and whole length of the server's frame that `data` starts with; None if incomplete."""
    if len(data) < 2:
        return None
    if data[0] & 0xF0 != 0x80 or data[1] & 0x80:
        raise ProtocolError(f"expected a final, unmasked frame without extensions, got {data[:2].hex()}")
    length, start = data[1], 2
    if length >= 126:
        start = 4 if length == 126 else 10
        length = int.from_bytes(data[2:start], "big")
    end = start + length
    return (data[0] & 0x0F, data[start:end], end) if len(data) >= max(end, start) else None


def upgrade_request(path: str) -> tuple[bytes, bytes]:
    """An opening handshake that offers no extensions, and the `Sec-WebSocket-Accept` of its answer."""
    key = base64.b64encode(os.urandom(16))
    request = (
        b"GET %b HTTP/1.1\r\nHost: %b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n"
    ) % (path.encode(), HOST.encode(), key)
    return request, base64.b64encode(hashlib.sha1(key + _ACCEPT_GUID).digest())


def check_upgrade(response: bytes, accept: bytes) -> None:
    if not response.startswith(b"HTTP/1.1 101 ") or accept not in response:
        raise ProtocolError(f"expected an accepted handshake, got {response[:200]!r}")
    if b"sec-websocket-extensions" in response.lower():
        raise ProtocolError("the server answers with extensions that were not offered")


class Client:
    """One WebSocket to a server; it blocks until `finish_handshake` is through."""

    __slots__ = ("_accept", "_tail", "reply", "send_now", "sock")

    def __init__(self, port: int, path: str, tls: ssl.SSLContext | None = None) -> None:
        self.sock: socket.socket = socket.create_connection((HOST, port), timeout=TIMEOUT)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname=HOST)
        self._tail = b""
        self.reply = b""
        self.send_now = self.sock.send
        request, self._accept = upgrade_request(path)
        self.sock.sendall(request)

    def finish_handshake(self) -> None:
        """Read the answer; apart from sending the request, so that many handshakes may be under way."""
        head = b""
        while b"\r\n\r\n" not in head:
            data = self.sock.recv(READ_SIZE)
            if not data:
                raise ProtocolError(f"the server closed in the handshake, after {head!r}")
            head += data
        head, _, self._tail = head.partition(b"\r\n\r\n")
        check_upgrade(head, self._accept)
        self.sock.setblocking(False)

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
            if data.startswith(reply, at):
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

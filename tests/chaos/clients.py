"""The chaos run's clients: over TCP or TLS, compressed or not; a close of the server's shows its code."""

from __future__ import annotations

import socket
import ssl
import struct
import zlib
from typing import Any, Self

import trio
from raw_clients import CLOSE, PING, TEXT, RawClient, frame

from triochan.wire.listeners import Address

OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
_COMPRESSED = 4
_TAIL = b"\x00\x00\xff\xff"


class Closed(EOFError):
    """The server has closed the WebSocket.

    Attributes:
        code, reason: of its close frame.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the server closed with {code}, {reason!r}")
        self.code = code
        self.reason = reason


class Client(RawClient):
    """One connection.

    Attributes:
        compresses: permessage-deflate was agreed on.
    """

    tls: ssl.SSLContext
    """For all of them; set once, before the first connects to an ``https`` address."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self.compresses = False

    @classmethod
    async def connect(cls, address: Address, *, receive_buffer: int | None = None) -> Self:
        client = await super().connect(address, receive_buffer=receive_buffer)
        if address.scheme == "https":
            assert isinstance(client.stream, trio.SocketStream)
            stream = trio.SSLStream(
                client.stream, cls.tls, server_hostname=address.host, https_compatible=True
            )
            client.stream = stream
            try:
                with trio.fail_after(cls.patience):
                    await stream.do_handshake()
            except BaseException:
                client.vanish()
                raise
        return client

    async def head(self) -> Any:
        answer = await super().head()
        self.compresses = "sec-websocket-extensions" in answer
        self.inflater = zlib.decompressobj(-15)
        return answer

    @property
    def socket(self) -> trio.socket.SocketType:
        stream = self.stream
        while not isinstance(stream, trio.SocketStream):
            assert isinstance(stream, trio.SSLStream)
            stream = stream.transport_stream
        return stream.socket

    def vanish(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def say(self, opcode: int, payload: bytes | str) -> bytes:
        """One message as a frame, compressed if that was agreed on."""
        data = payload.encode() if isinstance(payload, str) else payload
        if not self.compresses:
            return frame(opcode, data)
        return frame(opcode, deflated(data), reserved=_COMPRESSED)

    async def frame(self) -> tuple[int, bytes]:
        while len(self.buffer) < 1:
            if not await self._more():
                raise EOFError("a frame was expected, the stream ended")
        compressed = self.buffer[0] & 0x70 == 0x40
        if compressed:
            assert self.compresses, "a message is compressed, which was not agreed on"
            self.buffer[0] &= 0xBF
        opcode, payload = await super().frame()
        if compressed:
            assert opcode <= 2, "a control frame is compressed"
            # One window for all messages: a group's may refer to the one before.
            payload = self.inflater.decompress(payload + _TAIL)
        return opcode, payload

    async def message(self) -> str | bytes:
        """The next message; pings before it are answered.

        Raises:
            Closed: the server closes.
        """
        while True:
            opcode, payload = await self.frame()
            if opcode <= 2:
                return payload.decode() if opcode == TEXT else payload
            if opcode == PING:
                await self.pong(payload)
            if opcode == CLOSE:
                raise closed(payload)


def closed(payload: bytes) -> Closed:
    """What a close frame says."""
    return Closed(int.from_bytes(payload[:2], "big") if payload else 1005, payload[2:].decode())


def deflated(data: bytes) -> bytes:
    """The payload of a compressed message, that refers to none before it."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(_TAIL)]

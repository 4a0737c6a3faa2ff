"""Clients over real sockets that may be as wrong as they like, and a census of what a server holds."""

from __future__ import annotations

import base64
import os
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import cycle
from types import TracebackType
from typing import Self

import attrs
import trio

from triochan.wire.listeners import Address

PATIENCE = 10
"""Seconds that anything may take; nothing does."""

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

KEY = base64.b64encode(b"sixteen bytes...")
MASK = b"\x37\xfa\x21\x3d"


def frame(opcode: int, payload: bytes | str = b"", *, final: bool = True, reserved: int = 0) -> bytes:
    """A client's frame, masked."""
    data = payload.encode() if isinstance(payload, str) else payload
    size = len(data)
    first = (0x80 if final else 0) | reserved << 4 | opcode
    if size < 126:
        header = struct.pack(">BB", first, 0x80 | size)
    elif size < 65536:
        header = struct.pack(">BBH", first, 0x80 | 126, size)
    else:
        header = struct.pack(">BBQ", first, 0x80 | 127, size)
    return header + MASK + mask(data)


def mask(data: bytes) -> bytes:
    if len(data) > 256:
        key = int.from_bytes((MASK * (len(data) // 4 + 1))[: len(data)], "big")
        return (int.from_bytes(data, "big") ^ key).to_bytes(len(data), "big")
    return bytes(byte ^ key for byte, key in zip(data, cycle(MASK), strict=False))


def close_frame(code: int | None = 1000, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack(">H", code) + reason)


def handshake(path: str = "/", headers: Iterable[str] = (), *, without: str = "") -> bytes:
    """A handshake's head; ``without`` is the header that it lacks."""
    lines = [
        "Host: localhost",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY.decode()}",
    ]
    kept = [line for line in lines if line.partition(":")[0] != without]
    return "\r\n".join([f"GET {path} HTTP/1.1", *kept, *headers, "", ""]).encode("latin-1")


@attrs.frozen
class Answer:
    """A response as it came."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""

    def __getitem__(self, name: str) -> str:
        return next(value for key, value in self.headers if key == name.lower())

    def __contains__(self, name: str) -> bool:
        return any(key == name.lower() for key, _ in self.headers)


class RawClient:
    """One connection; everything it waits for has a limit of time, ``patience``."""

    patience: float = PATIENCE

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = bytearray()
        self._sending = trio.Lock()
        self._pongs: list[bytes] = []

    @classmethod
    async def connect(cls, address: Address, *, receive_buffer: int | None = None) -> Self:
        """
        Args:
            receive_buffer: of the socket, in bytes: a small one for a client that stops reading.
        """
        if address.path is not None:
            return cls(await trio.open_unix_socket(address.path))
        sock = trio.socket.socket()
        try:
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            with trio.fail_after(PATIENCE):
                await sock.connect((address.host, address.port))
        except BaseException:
            sock.close()
            raise
        return cls(trio.SocketStream(sock))

    @classmethod
    async def websocket(
        cls,
        address: Address,
        path: str = "/",
        headers: Iterable[str] = (),
        *,
        behind: bytes = b"",
        receive_buffer: int | None = None,
    ) -> Self:
        """An open WebSocket; ``behind`` is sent in one piece with the head."""
        client = await cls.connect(address, receive_buffer=receive_buffer)
        try:
            await client.send(handshake(path, headers) + behind)
            answer = await client.head()
            assert answer.status == 101, (answer, await client.rest())
        except BaseException:
            client.vanish()
            raise
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self.stream)

    # -- bytes

    async def send(self, *pieces: bytes, pause: float = 0.0) -> None:
        """Send the pieces, with nothing of another task between them, and then the pongs that became due.

        Args:
            pause: seconds between two pieces.
        """
        with trio.fail_after(self.patience):
            async with self._sending:
                for piece in pieces:
                    await self.stream.send_all(piece)
                    if pause:
                        await trio.sleep(pause)
                while self._pongs:
                    await self.stream.send_all(self._pongs.pop(0))

    async def pong(self, payload: bytes) -> None:
        """Answer a ping, or leave it to the task that sends: who reads does not wait for it."""
        self._pongs.append(frame(PONG, payload))
        if not self._sending.locked():
            await self.send()

    async def _more(self) -> bool:
        with trio.fail_after(self.patience):
            data = await self.stream.receive_some(65536)
        self.buffer += data
        return bool(data)

    async def take(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if not await self._more():
                raise EOFError(f"{size} bytes were expected, {bytes(self.buffer)!r} came")
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    async def until(self, mark: bytes) -> bytes:
        while (found := self.buffer.find(mark)) < 0:
            if not await self._more():
                raise EOFError(f"{mark!r} was expected, {bytes(self.buffer)!r} came")
        return await self.take(found + len(mark))

    async def rest(self) -> bytes:
        """All to the end of the stream, which must be an orderly one."""
        while await self._more():
            pass
        return await self.take(len(self.buffer))

    def vanish(self) -> None:
        """Close the socket, with whatever was in flight."""
        assert isinstance(self.stream, trio.SocketStream)
        self.stream.socket.close()

    def reset(self) -> None:
        """End the connection by a TCP reset."""
        assert isinstance(self.stream, trio.SocketStream)
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()

    # -- HTTP

    async def head(self) -> Answer:
        first, *lines = (await self.until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in lines if line]
        version, status, *_ = first.split(" ")
        assert version == "HTTP/1.1", first
        return Answer(int(status), [(name.lower(), value.strip()) for name, _, value in pairs])

    async def answer(self, *, bodiless: bool = False) -> Answer:
        """A whole response; ``bodiless``: the request was a HEAD."""
        head = await self.head()
        if bodiless or head.status in (204, 304) or head.status < 200:
            return head
        if "content-length" in head:
            body = await self.take(int(head["content-length"]))
        elif head.headers and "transfer-encoding" in head and head["transfer-encoding"] == "chunked":
            body = b""
            while size := int(await self.until(b"\r\n"), 16):
                body += await self.take(size)
                assert await self.take(2) == b"\r\n"
            assert await self.take(2) == b"\r\n"
        else:
            body = await self.rest()
        return attrs.evolve(head, body=body)

    # -- WebSocket

    async def frame(self) -> tuple[int, bytes]:
        """The next frame: a server's, so whole and not masked."""
        first, second = await self.take(2)
        assert first & 0x70 == 0, "a reserved bit is set"
        assert first & 0x80, "it is a fragment"
        assert not second & 0x80, "a server's frame is masked"
        size = second
        if size == 126:
            size = int.from_bytes(await self.take(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.take(8), "big")
        return first & 0x0F, await self.take(size)

    async def message(self) -> str | bytes:
        """The next message; pings before it are answered, a close frame is an EOFError."""
        while True:
            opcode, payload = await self.frame()
            if opcode == TEXT:
                return payload.decode()
            if opcode == BINARY:
                return payload
            if opcode == PING:
                await self.pong(payload)
            if opcode == CLOSE:
                raise EOFError(f"the server closed: {payload!r}")

    async def closing(self) -> tuple[int, str]:
        """The code and reason of the server's close frame; messages before it are passed over."""
        while True:
            opcode, payload = await self.frame()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big") if payload else 1005, payload[2:].decode()

    async def ended(self) -> tuple[int, str]:
        """Like :meth:`closing`; and answer it, and see the stream end in order."""
        code, reason = await self.closing()
        try:
            await self.send(close_frame(None if code == 1005 else code))
        except trio.BrokenResourceError:
            pass  # the server waits for no answer
        assert await self.rest() == b""
        return code, reason


async def get(address: Address, path: str = "/", *headers: str) -> Answer:
    """One GET on a connection of its own."""
    async with await RawClient.connect(address) as client:
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
        await client.send("\r\n".join(lines).encode("latin-1"))
        answer = await client.answer()
        assert await client.rest() == b""
        return answer


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait for something that nobody tells of, such as the number of open file descriptors."""
    deadline = trio.current_time() + PATIENCE
    while not condition():
        assert trio.current_time() < deadline, f"still not so after {PATIENCE} s: {what}"
        await trio.sleep(0.005)


def descriptors() -> int:
    """Open file descriptors of this process; the one that reads their list is among them each time."""
    return len(os.listdir("/proc/self/fd"))


def server_tasks() -> Counter[str]:
    """The names of the server's tasks, and of those of trio-websocket, in this Trio run."""
    names: list[str] = []
    tasks = [trio.lowlevel.current_root_task()]
    while tasks:
        task = tasks.pop()
        if task is not None:
            names.append(task.name)
            tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    # The readers' workers are the server's: as many stay parked as handlers have waited at once.
    return Counter(
        name
        for name in names
        if name.startswith(("triochan.", "trio_websocket.")) and name != "triochan.readers.Readers._work"
    )


@asynccontextmanager
async def no_leak() -> AsyncIterator[None]:
    """What the block opens and starts, it must leave closed and ended."""
    files, tasks = descriptors(), server_tasks()
    yield
    try:
        await until(lambda: descriptors() <= files and server_tasks() <= tasks)
    except AssertionError:
        raise AssertionError(
            f"{descriptors() - files} descriptors are left, and {server_tasks() - tasks}"
        ) from None

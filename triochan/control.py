"""The control plane of a WebSocket: trio-websocket, behind a stream of ours that carries no data frames.

trio-websocket owns the opening handshake, ping and pong, the closing handshake and the errors in control frames.
It reads from a :class:`ControlStream`, which gives it the handshake's head and then the control frames that
:mod:`triochan.wire.frames` cut out of the byte stream, and it writes through the connection's outbox, so that
there is one writer only.
"""

from __future__ import annotations

from collections.abc import Callable

import trio
import trio_websocket
from trio_websocket import WebSocketRequest, wrap_server_stream

from .exceptions import ConnectionClosed
from .headers import Headers
from .wire.outbox import Outbox

_CLOSE = 0x8
_TURNS = 5
MAX_WAITING = 32
"""Control frames that may wait for trio-websocket to answer them, before reading pauses."""


def is_close(frame: bytes) -> bool:
    """The control frame is a close frame."""
    return frame[0] & 0x0F == _CLOSE


class ControlStream(trio.abc.Stream):
    """What trio-websocket takes for the network.

    Args:
        head: the request head of the opening handshake.
        outbox: takes what trio-websocket writes.
        on_close_sent: told of the first close frame that it sends, with its code (1005: none) and reason.
        on_room: told when a control frame that waited was taken.
        on_closed: told when trio-websocket closes the stream: the protocol has ended.
    """

    def __init__(
        self,
        head: bytes,
        outbox: Outbox,
        on_close_sent: Callable[[int, str], None],
        on_closed: Callable[[], None],
        on_room: Callable[[], None],
    ) -> None:
        self._inbound = [head]
        self._ended = False
        self._reader: trio.lowlevel.Task | None = None
        self._outbox = outbox
        self._on_close_sent = on_close_sent
        self._on_closed = on_closed
        self._on_room = on_room
        self._answered = False
        self.open = False
        """The opening handshake is done: what is written now are frames."""
        self.closing = False
        """We began to close: wsproto takes nothing more than the peer's close frame."""
        self.end_after_close = False
        """Take the close frame that is sent next for the end: nobody will read the answer."""

    @property
    def waiting(self) -> int:
        return len(self._inbound)

    def feed(self, data: bytes) -> None:
        """Hand control frames to trio-websocket."""
        self._inbound.append(data)
        self._wake()

    def feed_eof(self) -> None:
        """Tell trio-websocket that nothing more comes."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None:
            trio.lowlevel.reschedule(self._reader)
            self._reader = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """One piece as it was fed; no checkpoint where one waits (its reader is the only one to starve)."""
        while True:
            if not self._inbound and not self._ended:
                self._reader = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort)
            if not self._inbound:
                return b""
            self._on_room()
            piece = self._inbound.pop(0)
            if not self.closing or is_close(piece):
                return piece

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def settled(self) -> None:
        """Let trio-websocket answer what was fed, so that the answers leave before those to later messages.

        It needs a few turns; more are not given, for a peer that does not read would hold up the messages.
        """
        for _ in range(_TURNS):
            if self._reader is not None or self._ended or self._outbox.size:
                return
            await trio.lowlevel.checkpoint()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        frame = bytes(data)
        try:
            if not self.open:
                if self._answered:
                    self._outbox.put_control(frame)
                else:
                    self._outbox.put_first(frame)
                self._answered = True
                return
            self._outbox.put_control(frame)
            if is_close(frame):
                payload = frame[2:]
                code = int.from_bytes(payload[:2], "big") if payload else 1005
                self._on_close_sent(code, payload[2:].decode(errors="replace"))
                if self.end_after_close:
                    self.feed_eof()
            if self._outbox.size:
                await self._outbox.drained()
        except ConnectionClosed:
            raise trio.BrokenResourceError from None

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """No checkpoint: nothing is waited for, and it ends what called it."""
        self._ended = True
        self._wake()
        if self.open:
            self._on_closed()


class Control:
    """One WebSocket's handshake, pings and closing, as the connection uses them.

    Attributes:
        stream: where control frames are fed.
    """

    __slots__ = ("_request", "_websocket", "stream")

    def __init__(self, stream: ControlStream, request: WebSocketRequest) -> None:
        self.stream = stream
        self._request: WebSocketRequest | None = request
        self._websocket: trio_websocket.WebSocketConnection | None = None

    @classmethod
    async def open(cls, nursery: trio.Nursery, stream: ControlStream) -> Control:
        """Let trio-websocket read the head; its reader task lives in ``nursery``.

        The head must be a valid handshake (:func:`triochan.http1.request.check_upgrade`): trio-websocket
        waits for ever on one that is not.
        """
        return cls(stream, await wrap_server_stream(nursery, stream, receive_buffer_size=None))

    async def accept(self, subprotocol: str | None, headers: Headers) -> None:
        """Answer 101; the bytes are in the outbox when this returns."""
        assert self._request is not None
        self._websocket = await self._request.accept(subprotocol=subprotocol, extra_headers=headers)
        self._request = None
        self.stream.open = True

    async def reject(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer the handshake with an HTTP status instead; the bytes are in the outbox when this returns."""
        assert self._request is not None
        await self._request.reject(status, extra_headers=headers, body=body)
        self._request = None

    async def ping(self) -> bool:
        """Ping the peer and wait for its pong, without a limit; False where the connection was closing already."""
        assert self._websocket is not None
        try:
            await self._websocket.ping()
        except trio_websocket.ConnectionClosed:
            return False
        return True

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame and wait for the peer's answer, without a limit of its own."""
        assert self._websocket is not None
        self.stream.closing = True
        await self._websocket.aclose(code, reason)

    async def fail(self, code: int, reason: str) -> None:
        """Send a close frame and wait for nothing more than that it has left."""
        self.stream.end_after_close = True
        await self.close(code, reason)

    @property
    def peer_close(self) -> tuple[int, str] | None:
        """The peer's code and reason, once its close frame has come."""
        closed = self._websocket.closed if self._websocket is not None else None
        return None if closed is None else (int(closed.code), closed.reason or "")

"""One connection's bounded outbound buffer: who waits, who is cut off, and the fast way past it.

There is one writer at a time. While nothing waits, a frame goes straight to the non-blocking socket in the
caller's task; what the socket does not take is the backlog, written by a flusher task that is started on demand
and ends when the backlog is empty. A cancelled write may have left half a frame on the wire, so it ends
the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import trio

from ..exceptions import ConnectionClosed
from ..settings import Overflow
from .transport import BLOCKED, Transport

_CHUNK = 65536
_CONTROL = 0x08


class Outbox:
    """Frames on their way to one peer. They are held until :meth:`release`, behind the handshake's response.

    Args:
        transport: where frames go.
        start_soon: starts the flusher in the connection's own nursery.
        limit: bytes that may wait.
        overflow: what :meth:`offer` does beyond it.
        on_overflow: called once when the policy ``"close"`` applies.
        on_broken: called once when the transport is lost.

    Attributes:
        direct: the socket's ``send`` while nothing waits and a frame may go straight to it, else None. An attribute,
            not a question, for a group send looks at it once for each member.
        size: bytes that wait.
        dropped: messages that the overflow policy dropped.
    """

    __slots__ = (
        "_chunk", "_corked", "_dead", "_flushing", "_frames", "_held", "_on_broken", "_on_overflow",
        "_refusal", "_start_soon", "_transport", "_waiting", "direct", "dropped", "limit", "overflow",
        "size", "socket",
    )  # fmt: skip

    def __init__(
        self,
        transport: Transport,
        start_soon: Callable[..., None],
        *,
        limit: int,
        overflow: Overflow,
        on_overflow: Callable[[], None],
        on_broken: Callable[[], None],
    ) -> None:
        self._transport = transport
        self.socket: Any = transport.socket
        self._start_soon = start_soon
        self.limit = limit
        self.overflow = overflow
        self._on_overflow = on_overflow
        self._on_broken = on_broken
        # The piece being written, of which nothing can be dropped any more; behind it, whole frames.
        self._chunk: bytes = b""
        self._frames: deque[bytes] | None = None
        self.size = 0
        self.dropped = 0
        self.direct: Callable[[bytes], int] | None = None
        self._corked = False
        self._held = True
        self._flushing = False
        # Messages are refused with this; control frames still go until the transport is dead.
        self._refusal: ConnectionClosed | None = None
        self._dead = False
        self._waiting: trio.lowlevel.ParkingLot | None = None

    # -- messages

    async def put(self, frame: bytes) -> None:
        """Send a message, or queue it, waiting while the limit is reached. No checkpoint where nothing waits.

        Raises:
            ConnectionClosed: the connection is closing or gone, or goes while this waits.
        """
        if self.send_direct(frame):
            return
        while self._refusal is None and self.size and self.size + len(frame) > self.limit:
            self.uncork()
            if self.size:
                await self._park()
        if self._refusal is not None:
            raise ConnectionClosed(self._refusal.code, self._refusal.reason)
        self._queue(frame)

    def send_direct(self, frame: bytes) -> bool:
        """Send a message straight to the socket, if nothing waits; False: it was not taken."""
        direct = self.direct
        if direct is None:
            return False
        try:
            sent = direct(frame)
        except BLOCKED:
            sent = 0
        except OSError:
            self._break()
            return False
        if sent != len(frame):
            self.keep(frame, sent)
        return True

    def offer(self, frame: bytes) -> None:
        """Send a message, or queue it, never waiting: over the limit the overflow policy decides.

        This is a group send's way to a member that is not :attr:`direct`. A connection that is closing takes nothing.
        """
        if self._refusal is not None:
            return
        # Before the handshake's response is out, nothing can leave, and that is not the peer's fault.
        limit = 2 * self.limit if self._held else self.limit
        if self.size and self.size + len(frame) > limit:
            if self.overflow == "drop_oldest":
                self._drop_oldest(limit - len(frame))
            if self.size and self.size + len(frame) > limit:
                self.dropped += 1
                if self.overflow == "close":
                    self._on_overflow()
                return
        self._queue(frame)

    def keep(self, frame: bytes, sent: int) -> None:
        """Queue what the socket did not take of ``frame``, which was sent past the queue."""
        self.direct = None
        self._chunk = frame[sent:]
        self.size = len(self._chunk)
        self._start_flusher()

    def broken(self) -> None:
        """A frame sent past the queue failed: the transport is lost."""
        self._break()

    # -- the protocol's own bytes

    def put_control(self, frame: bytes) -> None:
        """Queue a control frame behind the messages, past every limit.

        Raises:
            ConnectionClosed: the transport is gone.
        """
        if self._dead:
            raise ConnectionClosed
        self._queue(frame)

    def put_first(self, data: bytes) -> None:
        """Queue the handshake's response, ahead of messages that wait for it."""
        if self._frames is None:
            self._frames = deque()
        self._frames.appendleft(data)
        self.size += len(data)

    async def drained(self) -> None:
        """Wait until nothing is queued; a checkpoint only where it has to wait.

        Raises:
            ConnectionClosed: the transport is gone.
        """
        while self.size and not self._dead:
            await self._park()
        if self._dead:
            raise ConnectionClosed

    def seal(self, code: int, reason: str, *, discard: bool = False) -> None:
        """Refuse messages from now on: those that wait for room get ConnectionClosed.

        Args:
            discard: drop what has not begun to leave, to make way for a close frame.
        """
        if self._refusal is None:
            self._refusal = ConnectionClosed(code, reason)
        self.direct = None
        if discard and self._frames:
            self.size -= sum(map(len, self._frames))
            self.dropped += len(self._frames)
            self._frames.clear()
        self._wake()

    def close(self, code: int, reason: str) -> None:
        """Nothing more goes, and nothing waits any longer."""
        self._dead = True
        self._frames = None
        self._chunk = b""
        self.size = 0
        self.seal(code, reason)

    def detach(self) -> None:
        """The connection is over for good: let go of what refers back to it."""
        self._start_soon = self._on_overflow = self._on_broken = _never

    def reopen(self) -> None:
        """Take the protocol's bytes again, after :meth:`close`: a refused handshake still has to be answered."""
        self._dead = False

    # -- batches

    def cork(self) -> None:
        """Hold frames back until :meth:`uncork`, so that the answers to a batch leave in one write."""
        self._corked = True
        self.direct = None

    def uncork(self) -> None:
        """Write what was held back."""
        if self._corked:
            self._corked = False
            self._write()

    def release(self) -> None:
        """Let the first bytes go: the handshake's response is in its place."""
        self._held = False
        self._write()

    # -- underneath

    def _queue(self, frame: bytes) -> None:
        if self._frames is None:
            self._frames = deque()
        self._frames.append(frame)
        self.size += len(frame)
        self._write()

    def _write(self) -> None:
        """Write what is queued as far as the socket takes it now; the flusher gets the rest."""
        if self._corked or self._held or self._flushing or self._dead:
            return
        while self.size and self.socket is not None:
            data = self._chunk or self._next_chunk()
            try:
                sent = self.socket.send(data)
            except BLOCKED:
                sent = 0
            except OSError:
                self._chunk = data
                self._break()
                return
            self._chunk = data[sent:]
            self.size -= sent
            if self._chunk:
                break
        if self.size:
            self._start_flusher()
        else:
            if self.socket is not None and self._refusal is None:
                self.direct = self.socket.send
            self._wake()

    def _start_flusher(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._start_soon(self._flush)

    async def _flush(self) -> None:
        whole = False
        try:
            while self.size:
                chunk = self._chunk or self._next_chunk()
                self._chunk = chunk
                sent = await self._transport.send_some(chunk)
                if self._dead:
                    break
                self._chunk = chunk[sent:]
                self.size -= sent
                self._wake()
            whole = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._flushing = False
            if not whole:
                self._break()
            else:
                self._write()

    def _next_chunk(self) -> bytes:
        """The queue's head, joined up to a chunk's size; :attr:`size` counts it until it has left."""
        frames = self._frames
        assert frames
        if len(frames) == 1:
            return frames.popleft()
        pieces, length = [], 0
        while frames and length < _CHUNK:
            piece = frames.popleft()
            pieces.append(piece)
            length += len(piece)
        return b"".join(pieces)

    def _drop_oldest(self, size: int) -> None:
        """Drop messages, the oldest first, until no more than ``size`` bytes wait."""
        frames = self._frames
        kept: list[bytes] = []
        while frames and self.size > size:
            frame = frames.popleft()
            if frame[0] & _CONTROL:
                kept.append(frame)
            else:
                self.size -= len(frame)
                self.dropped += 1
        if frames is not None:
            frames.extendleft(reversed(kept))

    def _break(self) -> None:
        if not self._dead:
            self.close(1006, "")
            self._on_broken()

    async def _park(self) -> None:
        if self._waiting is None:
            self._waiting = trio.lowlevel.ParkingLot()
        await self._waiting.park()

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.unpark_all()


def _never(*_: object) -> None:
    """What a detached outbox calls, which it does not: it is closed."""


def broadcast(frame: bytes, outboxes: Iterable[Outbox]) -> None:
    """Give the same bytes object to every outbox, without waiting for any of them.

    The loop is written out, for it is what a group send costs.
    """
    size = len(frame)
    for outbox in outboxes:
        direct = outbox.direct
        if direct is not None:
            try:
                sent = direct(frame)
            except BLOCKED:
                sent = 0
            except OSError:
                outbox.broken()
                continue
            if sent != size:
                outbox.keep(frame, sent)
        else:
            outbox.offer(frame)

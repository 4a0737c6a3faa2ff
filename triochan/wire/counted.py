"""An outbox that counts what it sends: for the access log, and only where that is on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from ..settings import Overflow
from .outbox import _CONTROL, Batch, Flush, Outbox, Owner, Sink
from .transport import BLOCKED


class CountedOutbox(Outbox):
    """Counts messages and bytes where they leave, so that what is dropped or left behind at the end is none of them.

    Attributes:
        messages: those that have begun to leave, up to 64 KiB of them in one piece.
    """

    __slots__ = ("_head_messages", "_mixed", "_past", "messages")

    def __init__(
        self, sink: Sink, flush: Flush, owner: Owner, *, limit: int, overflow: Overflow = "close"
    ) -> None:
        super().__init__(sink, flush, owner, limit=limit, overflow=overflow)
        self._whole: Callable[[bytes], int] = self._send_whole
        self.messages = 0
        self._past = 0  # bytes that went past the queue, which `sent` does not count
        # Of the piece that is being written: a transport that is full may take none of it.
        self._head_messages = 0
        self._mixed = False  # the queue may have what is no message

    @property
    def taken(self) -> int:
        """Bytes that the transport has taken, control frames included, the handshake's response not."""
        return max(0, self.sent + self._past)

    def detach(self) -> None:
        super().detach()
        self._whole = self._send  # no circle is left for the garbage collector
        self.direct = None

    def take_batch(self, batch: Batch, joined: bytes) -> None:
        super().take_batch(batch, joined)
        if not self._frames and not self._dead:
            self.messages += len(batch.frames)

    def put_control(self, frame: bytes) -> None:
        self._mixed = True
        super().put_control(frame)

    def put_first(self, data: bytes) -> None:
        self._mixed = True
        self._past -= len(data)
        super().put_first(data)

    def _send_whole(self, frame: bytes) -> int:
        try:
            sent = self._send(frame)
        except BLOCKED:
            self.messages += 1  # it is kept, as the piece that is being written
            raise
        self.messages += 1
        if sent == len(frame):
            self._past += sent
        return sent

    def _head(self) -> tuple[bytes, int]:
        head = super()._head()
        assert self._frames is not None
        self._head_messages = head[1]
        if self._mixed:
            # An H, of a handshake's response, is as a control frame is.
            self._head_messages -= sum(
                not frame or bool(frame[0] & _CONTROL) for frame in islice(self._frames, head[1])
            )
        self.messages += self._head_messages
        return head

    def _write(self) -> None:
        super()._write()
        if self._blocked and not self._chunk:
            self.messages -= self._head_messages
        self._head_messages = 0
        if not self._frames:
            self._mixed = False

    def _break(self) -> None:
        self.messages -= self._head_messages
        self._head_messages = 0
        super()._break()

"""One connection's bounded outbound buffer: who waits, who is cut off, and the fast way past it.

There is one writer: whoever puts a frame writes it to the non-blocking transport, in its own task. The first frame of
a turn leaves at once; what else the same turn sends is gathered, and leaves in one write at the turn's end
(:class:`Flush`). What the transport does not take is the backlog: it is written when the transport says that it has
room, and it is what limits and overflow policies look at. What is gathered has not been refused by the peer, so no
policy looks at it before it was tried.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import trio

from ..exceptions import ConnectionClosed
from ..settings import Overflow
from .deflate import Agreement
from .frames import CompressedFrame, encode, encode_compressed
from .transport import BLOCKED

CHUNK = 65536
"""Bytes that are gathered, or joined, at the most before they are written."""
_CONTROL = 0x08
_COMPRESSED = 0x40


class Sink(Protocol):
    """What an outbox needs of its transport."""

    @property
    def send(self) -> Callable[[bytes], int]:
        """Write without waiting, as :meth:`socket.socket.send`; one of ``BLOCKED`` where there is no room."""

    def watch_writable(self) -> None:
        """Call :meth:`Outbox.writable` when there is room again."""


class Owner(Protocol):
    """What an outbox tells its connection."""

    def overflowed(self) -> None:
        """The policy ``"close"`` applies; told once."""

    def broken(self) -> None:
        """The transport is lost; told once."""

    def drained(self) -> None:
        """Nothing waits any more; told where :attr:`Outbox.watched` is set."""


class Flush:
    """The outboxes of one server that have sent something in this turn of Trio's loop.

    Whoever runs many handlers in one step sets :attr:`stepping` for that long, and calls :meth:`flush` at its end. For
    everybody else :meth:`run`, a task, does it in the turn that follows.
    """

    def __init__(self) -> None:
        self._touched: list[Outbox] = []
        self.touch: Callable[[Outbox], None] = self._touched.append
        """Note that an outbox has sent in this turn; :meth:`arm` has to follow."""
        self.stepping = False
        """Somebody will call :meth:`flush` at the end of its step."""
        self.holding = False
        """Several messages came at once: what their handlers send is gathered from the first frame on."""
        self.batch: Batch | None = None
        """What the members of one group are to be sent."""
        self.last: Sequence[Outbox] | None = None
        """Whom the last broadcast of this turn went to."""
        self._task: trio.lowlevel.Task | None = None
        self._due = False

    @property
    def pending(self) -> bool:
        """Something may have been gathered."""
        return bool(self._touched) or self.batch is not None

    def flush(self) -> None:
        """Write what was gathered. Never waits, never raises."""
        self.last = None
        if self.batch is not None:
            self.end_batch()
        if self._touched:
            touched = self._touched.copy()
            self._touched.clear()
            for outbox in touched:
                if (
                    outbox._frames
                    or outbox.batch is not None
                    or outbox._blocked
                    or outbox._refusal is not None
                ):
                    outbox.end_turn()
                else:  # what it would do, for most
                    outbox.direct = outbox._whole

    def end_batch(self) -> None:
        """Write what a group's members were to be sent."""
        batch, self.batch = self.batch, None
        if batch is not None:
            batch.end()

    def arm(self) -> None:
        """Flush in the turn that follows this one, unless somebody does so at the end of its step."""
        if not self.stepping and not self._due:
            self._due = True
            if self._task is not None:
                trio.lowlevel.reschedule(self._task)
                self._task = None

    async def run(self) -> None:
        """Flush when it is due, until cancelled."""
        while True:
            if not self._due:
                self._task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort)
            else:
                await trio.lowlevel.checkpoint()
            self._due = False
            self.flush()

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class Outbox:
    """Frames on their way to one peer. They are held until :meth:`release`, behind the handshake's response.

    Args:
        sink: where frames go.
        flush: the turn's.
        owner: is told of the end.
        limit: bytes that may wait.
        overflow: what :meth:`offer` does beyond it.

    Attributes:
        direct: the transport's ``send`` while a frame may go straight to it, else None. An attribute, not a question,
            for a group send looks at it once for each member.
        size: bytes that wait, gathered ones included.
        allowed: bytes that may wait by now: the limit, and beyond it what one message had by itself. Its size says
            nothing of the peer, so until it has left, the limit is for what comes behind it.
        sent: bytes that the transport has taken, to see that a slow peer makes progress.
        dropped: messages that the overflow policy dropped.
        batch: what waits for it and for other members of a group alike; None: nothing.
        agreement: what was agreed on compression; None: nothing.
        history: the message that the last compressed frame carried, where a group sent it: the same object for all
            members, so that the next frame may refer to it and still serve them all. Empty: the next one refers to
            nothing.
        opening: ``connect`` has not returned.
        threshold: bytes from which a message is compressed.
        watched: :meth:`Owner.drained` is wanted.
    """

    __slots__ = (
        "_blocked", "_chunk", "_dead", "_early", "_early_size", "_frames", "_held", "_owner", "_refusal", "_send",
        "_sink", "_waiting", "_whole", "agreement", "allowed", "batch", "direct", "dropped", "flush", "history",
        "limit", "opening", "overflow", "sent", "size", "threshold", "watched",
    )  # fmt: skip

    def __init__(
        self, sink: Sink, flush: Flush, owner: Owner, *, limit: int, overflow: Overflow = "close"
    ) -> None:
        self._sink = sink
        self._send = sink.send
        self._whole = self._send
        """What :attr:`direct` is: takes one whole message."""
        self.flush = flush
        self._owner: Owner | None = owner
        self.limit = limit
        self.allowed = limit
        self.overflow: Overflow = overflow
        self.agreement: Agreement | None = None
        self.threshold = 0
        self.history = b""
        # The piece being written, of which nothing can be dropped any more; behind it, whole frames.
        self._chunk: bytes = b""
        self._frames: deque[bytes] | None = None
        self.size = 0
        self.sent = 0
        self.dropped = 0
        self.direct: Callable[[bytes], int] | None = None
        self.batch: Batch | None = None
        self._held = True
        # What groups send while connect runs waits by itself: who is refused must not have heard it.
        self.opening = True
        self._early: list[bytes] | None = None
        self._early_size = 0
        self._blocked = False
        self.watched = False
        # Messages are refused with this; control frames still go until the transport is dead.
        self._refusal: ConnectionClosed | None = None
        self._dead = False
        self._waiting: trio.lowlevel.ParkingLot | None = None

    # -- messages

    def encode(self, data: str | bytes) -> bytes:
        """One message as a frame, compressed where that was agreed on and is worth it; it refers to no other."""
        if self.agreement is not None and len(data) >= self.threshold:
            return encode_compressed(data, self.agreement).frame
        return encode(data)

    async def put(self, frame: bytes) -> None:
        """Send a message, or queue it, waiting while the limit is reached. No checkpoint where nothing waits.

        Raises:
            ConnectionClosed: the connection is closing or gone, or goes while this waits.
        """
        if self.send_direct(frame):
            return
        if self.batch is not None:
            self._leave_batch()
        if self.size + len(frame) > self.limit:
            self.end_turn()  # what was only gathered is no reason to wait
        while self._refusal is None and self.size and self.size + len(frame) > self.limit:
            await self._park()
        if self._refusal is not None:
            raise ConnectionClosed(self._refusal.code, self._refusal.reason)
        self._queue(frame)

    async def room(self) -> None:
        """Wait while the limit is reached; no checkpoint where it is not.

        Raises:
            ConnectionClosed: the connection is gone, or goes while this waits.
        """
        while self.size > self.limit and not self._dead:
            await self._park()
        if self._dead:
            assert self._refusal is not None
            raise ConnectionClosed(self._refusal.code, self._refusal.reason)

    def send_direct(self, frame: bytes) -> bool:
        """Send a message straight to the transport, if nothing waits; False: it was not taken."""
        direct = self.direct
        if direct is None:
            return False
        if self.history and frame[0] & _COMPRESSED:
            self.history = b""
        self.direct = None
        flush = self.flush
        flush.touch(self)
        if not flush.stepping:
            flush.arm()
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

    def gather(self, data: str | bytes) -> bool:
        """Queue a message behind what this turn has sent, or holds back; False: that is not so, or there is no room.

        What :meth:`put` comes to there, without two coroutines: 0.3 µs of a message that came with others.
        """
        if self._blocked or self.opening or self.batch is not None or self._refusal is not None:
            return False
        frame = encode(data) if self.agreement is None else self.encode(data)
        if self.size + len(frame) > self.limit:
            return False
        self._queue(frame)
        return True

    def offer(self, frame: bytes) -> None:
        """Send a message, or queue it, never waiting: over the limit the overflow policy decides.

        This is a group send's way to a member that is not :attr:`direct`. A connection that is closing takes nothing.
        """
        if self._refusal is not None:
            return
        if self.batch is not None:
            self._leave_batch()
        if self.history and frame[0] & _COMPRESSED:
            self.history = b""
        if self.opening:
            # Before connect has returned nothing of it can leave, and that is not the peer's fault.
            if self._early is None:
                self._early = []
            if not self._early and len(frame) > self.limit:
                self.allowed += len(frame)
            if self._early_size + len(frame) <= self.allowed + self.limit:
                self._early.append(frame)
                self._early_size += len(frame)
            else:
                self._overflow()
            return
        if self.size + len(frame) > self.allowed and self._full(len(frame)):
            self._overflow()
            return
        if self._dead:
            return  # the transport broke as it was tried
        if self.direct is not None:  # nothing waits, or no longer
            self.send_direct(frame)
            return
        frames = self._frames
        if frames is None:
            frames = self._frames = deque()
        frames.append(frame)
        self.size += len(frame)
        if self.size >= CHUNK:
            if self.size > self.allowed:
                self._allow()
            self.end_turn()

    def put_whole(self, frame: bytes) -> None:
        """Send a message of the connection's own handler, or queue it, never waiting and past every limit.

        For what has to be sent in turn with others, by a handler that has waited for :meth:`room` before. Until
        ``connect`` has returned, it keeps its place among what groups send. A connection that is closing takes nothing.
        """
        if self._refusal is not None:
            return
        if self.opening:
            self._early = [*(self._early or ()), frame]
            self._early_size += len(frame)
            self.allowed += len(frame)
        elif not self.send_direct(frame) and not self._dead:
            if self.batch is not None:
                self._leave_batch()
            self._queue(frame)

    def _allow(self) -> None:
        self.allowed = self.size + self.limit

    def _full(self, size: int) -> bool:
        """There is no room for ``size`` bytes, even when what was gathered has been tried and policy has dropped."""
        if not self._blocked:
            self.end_turn()
        if self.overflow == "drop_oldest" and self.size + size > self.allowed:
            self._drop_oldest(self.allowed - size)
        return bool(self.size) and self.size + size > self.allowed

    def _overflow(self) -> None:
        self.dropped += 1
        if self.overflow == "close" and self._owner is not None:
            self._owner.overflowed()

    def keep(self, frame: bytes, sent: int) -> None:
        """Queue what the transport did not take of ``frame``, which was sent past the queue."""
        self.sent += sent
        self._chunk = frame[sent:]
        self.size = len(self._chunk)
        if self.size > self.allowed:
            self._allow()
        self._block()

    def broken(self) -> None:
        """A frame sent past the queue failed: the transport is lost."""
        self._break()

    # -- the protocol's own bytes

    def put_control(self, frame: bytes) -> None:
        """Queue a control frame behind the messages, past every limit, and write what can be written.

        Where the transport is gone, nothing happens.
        """
        if self._dead:
            return
        if self.batch is not None:
            self._leave_batch()
        if self._frames is None:
            self._frames = deque()
        self._frames.append(frame)
        self.size += len(frame)
        self.end_turn()

    def put_first(self, data: bytes) -> None:
        """Queue the handshake's response, ahead of messages that wait for it."""
        if self._frames is None:
            self._frames = deque()
        self._frames.appendleft(data)
        self.size += len(data)

    def seal(self, code: int, reason: str, *, discard: bool = False) -> None:
        """Refuse messages from now on: those that wait for room get ConnectionClosed.

        Args:
            discard: drop what has not begun to leave, to make way for a close frame.
        """
        if self.batch is not None:
            self._leave_batch()
        if self._refusal is None:
            self._refusal = ConnectionClosed(code, reason)
        self.direct = None
        self._early = None
        if discard and self._frames:
            self.size -= sum(map(len, self._frames))
            self.dropped += len(self._frames)
            self._frames.clear()
        self._wake()

    def close(self, code: int, reason: str) -> None:
        """Nothing more goes, and nothing waits any longer."""
        if self.batch is not None:
            self._leave_batch()
        self._dead = True
        self._frames = None
        self._early = None
        self._chunk = b""
        self.size = 0
        self.seal(code, reason)

    def detach(self) -> None:
        """The connection is over for good: let go of what refers back to it."""
        self._owner = None

    # -- the handshake

    def release(self) -> None:
        """Let the first bytes go: the handshake's response is in its place."""
        self._held = False
        self.end_turn()

    def opened(self) -> None:
        """``connect`` has returned, and the socket stays open: what groups have sent meanwhile may leave."""
        self.opening = False
        if self._early:
            if self._frames is None:
                self._frames = deque()
            self._frames.extend(self._early)
            self.size += self._early_size
        self._early = None
        self._early_size = 0
        if self.size > self.limit:
            self._allow()
        self.end_turn()

    # -- underneath

    def hold_turn(self) -> None:
        """Gather from the first frame on, until :meth:`end_turn`: several messages came at once."""
        if self.direct is not None:
            self._touch()

    def _touch(self) -> None:
        self.direct = None
        self.flush.touch(self)
        self.flush.arm()

    def end_turn(self) -> None:
        """Write what was gathered, as far as the transport takes it now."""
        if self.batch is not None:
            self._leave_batch()
        if self._frames:
            if not self._blocked:
                self._write()
        elif self._refusal is None and not self._held and not self._blocked and not self.opening:
            self.direct = self._whole

    def joins(self, batch: Batch) -> bool:
        """Nothing waits here, and nothing stands in the way: ``batch`` may gather for this one too."""
        if (
            self._frames
            or self._blocked
            or self._held
            or self.opening
            or self._refusal is not None
            or self.flush is not batch.flush
            or self.agreement is not batch.agreement
            or self.history is not batch.history
        ):
            return False
        if self.direct is not None:
            self.direct = None
            self.flush.touch(self)
        self.batch = batch
        return True

    def _leave_batch(self) -> None:
        """Gather by oneself from now on: something else is to be sent behind what the batch has so far."""
        batch, self.batch = self.batch, None
        assert batch is not None
        batch.intact = False
        if self._frames is None:
            self._frames = deque()
        self._frames.extend(batch.frames)
        self.size += batch.size
        self.history = batch.history

    def take_batch(self, batch: Batch, joined: bytes) -> None:
        """Write ``joined``, which is all of ``batch`` in one piece."""
        self.batch = None
        self.history = batch.history
        try:
            sent = self._send(joined)
        except BlockingIOError:
            sent = 0
        except BLOCKED:
            self.keep(joined, 0)  # see _write
            return
        except OSError:
            self._break()
            return
        if sent == batch.size:
            self.sent += sent
            self.direct = self._whole
        elif sent:
            self.keep(joined, sent)
        else:
            if self._frames is None:
                self._frames = deque()
            self._frames.extend(batch.frames)
            self.size += batch.size
            if self.size > self.allowed:
                self._allow()
            self._block()

    def writable(self) -> None:
        """The transport has room again."""
        if self._blocked:
            self._blocked = False
            self._write()

    def _queue(self, frame: bytes) -> None:
        if self.history and frame[0] & _COMPRESSED:
            self.history = b""
        frames = self._frames
        if frames is None:
            frames = self._frames = deque()
        frames.append(frame)
        self.size += len(frame)
        if self.size > self.allowed:
            self._allow()
        if self.opening or self._blocked or self.size >= CHUNK:
            self.end_turn()
        elif self.direct is not None:  # put() had to wait: the turn is another one by now
            self._touch()

    def _write(self) -> None:
        """Write what is queued until the transport is full."""
        if self._held or self._dead:
            return
        send = self._send
        frames = self._frames
        while self._chunk or frames:
            data, taken = (self._chunk, 0) if self._chunk else self._head()
            try:
                sent = send(data)
            except BlockingIOError:
                self._block()  # nothing of it has begun to leave: it may still be dropped
                break
            except BLOCKED:
                sent = 0  # TLS may have begun a record with it, and has to get the same bytes again
            except OSError:
                self._break()
                return
            if taken:
                assert frames is not None
                if taken == len(frames):
                    frames.clear()
                else:
                    for _ in range(taken):
                        frames.popleft()
            self.sent += sent
            self.size -= sent
            self._chunk = data[sent:]
            if self._chunk:
                self._block()
                break
        else:
            if self._refusal is None and not self.opening:
                self.direct = self._whole
            if self.watched and self._owner is not None:
                self._owner.drained()
        if self.size <= self.limit:
            self.allowed = self.limit
        self._wake()

    def _block(self) -> None:
        self.direct = None
        self._blocked = True
        self._sink.watch_writable()

    def _head(self) -> tuple[bytes, int]:
        """The queue's head, joined up to a chunk's size, and how many frames it is made of."""
        frames = self._frames
        assert frames
        if len(frames) == 1:
            return frames[0], 1
        if self.size <= CHUNK:
            return b"".join(frames), len(frames)
        pieces, length = [], 0
        for piece in frames:
            pieces.append(piece)
            length += len(piece)
            if length >= CHUNK:
                break
        return b"".join(pieces), len(pieces)

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
            if self._owner is not None:
                self._owner.broken()

    async def _park(self) -> None:
        if self._waiting is None:
            self._waiting = trio.lowlevel.ParkingLot()
        await self._waiting.park()

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.unpark_all()


class Recipients(list[Outbox]):
    """Outboxes that are sent the same, until one joins or leaves; and what is found once for all that is sent to them.

    Attributes:
        flushes: their servers'.
        limit: the least of their limits, in bytes; :data:`CHUNK` at the most.
    """

    __slots__ = ("flushes", "limit")

    def __init__(self, outboxes: Iterable[Outbox]) -> None:
        super().__init__(outboxes)
        self.flushes = tuple({outbox.flush for outbox in self})
        self.limit = min([CHUNK, *{outbox.limit for outbox in self}])


class Batch:
    """Frames that all members of a group are to be sent in this turn, gathered once for all of them.

    A member that is sent something else meanwhile takes its frames and leaves; the batch then takes no more.

    Args:
        flush: the turn's.
        outboxes: the group's members.

    Attributes:
        frames, size: what was gathered, and its bytes.
        agreement, history: the members', see :class:`Outbox`.
        intact: no member has left.
    """

    __slots__ = (
        "_limit",
        "_members",
        "_others",
        "agreement",
        "flush",
        "frames",
        "history",
        "intact",
        "outboxes",
        "size",
    )

    def __init__(self, flush: Flush, outboxes: Recipients) -> None:
        self.flush = flush
        self.outboxes = outboxes
        self.frames: list[bytes] = []
        self.size = 0
        self.intact = True
        first = outboxes[0]
        self.agreement = first.agreement
        self.history = first.history
        self._members: list[Outbox] = []
        self._others: list[Outbox] = []
        for outbox in outboxes:
            (self._members if outbox.joins(self) else self._others).append(outbox)
        # No more than what any member would let wait.
        self._limit = outboxes.limit

    def add(self, data: str | bytes) -> None:
        """Gather one more message."""
        agreement = self.agreement
        if agreement is None or len(data) < self.outboxes[0].threshold:
            frame = encode(data)
        else:
            frame, self.history = encode_compressed(data, agreement, self.history)
        self.frames.append(frame)
        self.size += len(frame)
        if self._others:
            _send_each(data, self._others)
            for flush in {outbox.flush for outbox in self._others}:
                flush.arm()  # another server's may have had its turn
        if self.size >= self._limit:
            self.flush.end_batch()

    def end(self) -> None:
        """Write what was gathered, in one write for each member."""
        joined = b"".join(self.frames)
        for outbox in self._members:
            if outbox.batch is self:
                outbox.take_batch(self, joined)


def broadcast(data: str | bytes, outboxes: Recipients) -> None:
    """Give the same bytes object to every outbox, without waiting for any of them.

    A message is encoded once, and compressed once for all that have agreed on the same and whose last compressed
    message was the same. What a turn sends to the same outboxes beyond its first message costs nothing for each of
    them until the turn's end.

    Args:
        outboxes: the same object, as long as the same are meant.
    """
    if not outboxes:
        return
    flush = outboxes[0].flush
    batch = flush.batch
    if batch is not None:
        if batch.outboxes is outboxes and batch.intact:
            batch.add(data)
            return
        flush.end_batch()
    if len(outboxes) > 1 and (flush.holding or flush.last is outboxes):
        flush.batch = Batch(flush, outboxes)
        flush.batch.add(data)
    else:
        flush.last = outboxes
        _send_each(data, outboxes)
    for each in outboxes.flushes:
        each.arm()


def _send_each(data: str | bytes, outboxes: Sequence[Outbox]) -> None:
    """Send to each by itself. The loop is written out, for it is what a group send costs."""
    plain = frame = encode(data)
    length = len(data)
    compressed: dict[tuple[Agreement, bytes], CompressedFrame] = {}
    for outbox in outboxes:
        agreement = outbox.agreement
        # What waits for connect to return leaves later than what follows it, so nothing may refer to it.
        if agreement is None or length < outbox.threshold or outbox.opening:
            frame = plain
            history = outbox.history
        else:
            found = compressed.get((agreement, outbox.history))
            if found is None:
                found = compressed[agreement, outbox.history] = encode_compressed(
                    data, agreement, outbox.history
                )
            frame, history = found
        direct = outbox.direct
        if direct is not None:
            outbox.direct = None
            outbox.flush.touch(outbox)
            try:
                sent = direct(frame)
            except BLOCKED:
                sent = 0
            except OSError:
                outbox.broken()
                continue
            if sent != len(frame):
                outbox.keep(frame, sent)
        else:
            outbox.offer(frame)
        outbox.history = history

"""What comes in on one WebSocket: read, decode, put into order, run the handlers. The hot path.

A reader calls :meth:`Inbound.readable` when the socket has something. One whole text message for which a handler is
free, which is what nearly every read brings, passes the decoder's loop and the inbox by. Everything else goes through
:meth:`Inbound.proceed`. Both run handlers inline until one waits; the reader then keeps that handler, and another one
comes back to what is left here.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import copy_context
from typing import Any, Protocol

import trio

from ..exceptions import ChannelSocketException, ConnectionClosed
from ..handlers import (
    Bound,
    Held,
    LeftOpen,
    begin,
    cancelled,
    first_step,
    forget,
    left_open,
    nesting,
    only,
    parted,
)
from ..layers import ReplyChannel
from ..log_lines import say
from ..message import Message
from ..routing import Consumer, name_of
from ..runtime import RECEIVE
from ..settings import Settings
from ..wire.control import take_control
from ..wire.deflate import Agreement
from ..wire.frames import BINARY, TEXT, FrameDecoder
from ..wire.outbox import Outbox
from ..wire.transport import Transport
from .life import Life, State

logger = logging.getLogger("triochan.connection")

Item = tuple[int, Any, int]
"""A message in the inbox: its kind, what it carries, its order."""
_READS = 8
"""Reads of one socket before others have their turn."""
CORK_SECONDS = 0.001
"""How long the answers to a batch may be gathered to leave in one write."""


class Owner(Protocol):
    """The connection, as far as its inbound half needs it."""

    @property
    def life(self) -> Life: ...

    @property
    def outbox(self) -> Outbox: ...

    @property
    def channel(self) -> ReplyChannel: ...

    @property
    def path(self) -> str: ...

    def match(self, message: Message) -> Bound | None:
        """Who takes this message, where that has to be asked for each one."""

    def peer_closed(self, code: int, reason: str) -> None:
        """The peer's close frame has come."""

    def failed(self, code: int, reason: str) -> None:
        """The peer has sent what can't be decoded, or more than is handled in time."""

    def lost(self) -> None:
        """The transport is at its end."""

    def crashed(self, consumer: Consumer, what: str, error: Exception) -> None:
        """A handler has raised."""

    def idle(self) -> None:
        """No handler runs any more, and nothing waits for one; told where :attr:`Inbound.watched` is set."""

    def again(self) -> None:
        """Let a reader call :meth:`Inbound.proceed` in a moment."""

    def after(self, seconds: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` later; what is returned calls it off."""


def _nothing(_: bytes) -> None:
    """Nothing is read while the handshake is not answered."""


class Inbound:
    """The inbound half of one connection.

    Args:
        owner: the connection.
        transport: its bytes.
        settings: the server's.
        limit: handlers that may run at once.
        gated: ``connect`` has to finish before any of them starts.
        rest: bytes that came behind the handshake's head.

    Attributes:
        bound: who takes the messages; None: each has to be matched by itself.
        heard: something has come since this was last set to False.
        order: of the last message.
        running: handlers that have begun and not ended.
        watched: :meth:`Owner.idle` is wanted.
    """

    __slots__ = (
        "_connection", "_cut", "_deadline", "_decoder", "_dropping", "_given_up", "_inbox", "_inbox_size", "_limit",
        "_owner", "_peer_close", "_plain", "_received", "_rest", "_scopes", "_settings", "_single_text", "_stall",
        "_unread", "_waiting", "bound", "gated", "heard", "order", "paused", "running", "transport", "waits", "watched",
    )  # fmt: skip

    def __init__(
        self, owner: Owner, transport: Transport, settings: Settings, *, limit: int, gated: bool, rest: bytes
    ) -> None:
        self._owner = owner
        self._connection: Any = owner
        self.transport = transport
        self._settings = settings
        self.bound: Bound | None = None
        self._limit = limit
        self.gated = gated
        self._rest = rest
        self._decoder: FrameDecoder | None = None
        self._single_text: Callable[[bytes], str | None] = _nothing
        # The inbox is opened by the first message that has to wait: most connections never need one.
        self._inbox: trio.MemorySendChannel[Item] | None = None
        self._received: trio.MemoryReceiveChannel[Item] | None = None
        self._waiting = 0
        self._inbox_size = 0
        self.order = 0
        self.running = 0
        # Nothing is out of the ordinary: a read may pass the decoder's loop and the inbox by.
        self._plain = False
        self._unread = False
        self.paused = False
        self._dropping = False
        self._given_up = False
        self._cut = False
        self._deadline = math.inf
        self._peer_close: tuple[int, str] | None = None
        self._stall: Callable[[], None] | None = None
        self._scopes: set[trio.CancelScope] | None = None
        self.heard = False
        self.waits = False
        self.watched = False

    def open(self, agreement: Agreement | None) -> None:
        """The handshake is answered: what comes from now on are frames. Follow with :meth:`proceed`."""
        self._decoder = FrameDecoder(self._settings.max_message_size, agreement)
        self._single_text = self._decoder.single_text

    # -- for a reader

    def readable(self) -> Held | None:
        """Read, and run what it brings until a handler waits."""
        if not self._plain or self.running >= self._limit:
            self._unread = True
            return self._go_on(None)
        transport = self.transport
        try:
            data = transport.read()
        except OSError:
            self._owner.lost()
            return None
        if data is None:
            return None
        self.heard = True
        if not data:
            self._owner.lost()
            return None
        text = self._single_text(data)
        if text is None:
            return self._go_on(data)
        if transport.full or transport.ended:
            self._more()
        self.order += 1
        bound = self.bound
        if bound is None or bound.begin is None or self._settings.handler_timeout is not None:
            task = trio.lowlevel.current_task()
            return self._start((TEXT, text, self.order), task, nesting(task))
        # What `_start` does, written out: a handler that never waits costs no call on the way to it.
        owner = self._owner
        message = Message(
            {"path": owner.path, "order": self.order, "text": text}, RECEIVE, owner.channel, self._connection
        )
        context = copy_context()
        try:
            begun = context.run(first_step, bound.begin, message, bound.kwargs)
        except BaseException as error:  # noqa: ASYNC103 - parted() says what has to go on
            if parted(error)[1] is not None:
                raise
            return self._failed(bound, message, error)  # noqa: ASYNC104 - it is no cancellation
        if begun is None:
            return None
        self.running += 1
        self.waits = True
        return Held(self, bound.consumer, begun[0], context, begun[1], message)

    def proceed(self) -> Held | None:
        """Do what can be done now: run what waits as far as the order allows, and read where there is room."""
        self.waits = False
        if not self._plain:
            return self._go_on(None)
        if not self._unread and not self.transport.more():
            return None
        self._unread = False
        return self.readable()

    def defer(self) -> None:
        self._unread = True

    def writable(self) -> None:
        self._owner.outbox.writable()
        if self.paused:
            self._owner.again()  # for this may be what reading waits for

    def internal_error(self, error: Exception) -> None:
        if isinstance(error, LeftOpen) and self.bound is not None:
            self._owner.crashed(self.bound.consumer, "receive", error)
        else:
            self._owner.lost()

    # -- for the one that awaits a handler

    def hold(self, scope: trio.CancelScope) -> None:
        if self._scopes is None:
            self._scopes = set()
        self._scopes.add(scope)
        if self._given_up:
            scope.cancel()
        elif self._deadline != math.inf:
            scope.deadline = self._deadline

    def release(
        self, scope: trio.CancelScope, consumer: Consumer, result: object, error: BaseException | None
    ) -> None:
        assert self._scopes is not None
        self._scopes.discard(scope)
        self.running -= 1
        if error is not None:
            self.tell_cut(scope, consumer, "receive", error)
            mine = parted(error)[0]
            if mine is not None:
                self._raised(consumer, mine)
        if self.watched and not self.busy:
            self._owner.idle()

    # -- the end

    @property
    def busy(self) -> bool:
        """A handler runs, or something that was received waits for one."""
        if self.running or self._given_up:
            return bool(self.running)
        if self._waiting:
            return True
        life, decoder = self._owner.life, self._decoder
        return life.talking and decoder is not None and (decoder.pending or bool(self._rest))

    @property
    def waiting(self) -> int:
        """Messages that wait for a handler."""
        return self._waiting

    def end_by(self, deadline: float) -> None:
        """The connection is over: handlers have until ``deadline``, on Trio's clock."""
        self._deadline = deadline
        for scope in self._scopes or ():
            scope.deadline = min(scope.deadline, deadline)

    def cancel(self, *, cut: bool = False) -> None:
        """Cancel the handlers that run; begin no other.

        Args:
            cut: by a shutdown; the log names them.
        """
        self._given_up = True
        self._cut = self._cut or cut
        for scope in self._scopes or ():
            scope.cancel()

    def tell_cut(self, scope: trio.CancelScope, consumer: Consumer, what: str, error: BaseException) -> None:
        """Name a handler that a shutdown has cancelled: by :meth:`cancel`, or with the task that ran it.

        Args:
            scope: that it was held in; what only the connection's own end cancels is cancelled by it.
        """
        if cancelled(error) and (self._cut or not scope.cancel_called):
            logger.warning("the shutdown cut off %s in %s on %r", name_of(consumer), what, self._owner.path)

    def drain(self) -> None:
        """Take no new messages; what was received is handled. The shutdown's deadline bounds that."""
        self._plain = False
        self._call_off_stall()
        self.watched = True
        self._pause()

    def listen(self) -> None:
        """A close frame of ours is out: messages are passed over from now on, and the peer's close is looked for."""
        self._plain = False
        self._call_off_stall()
        if self.paused:
            self._resume()

    def drop(self) -> None:
        """Take what still comes off the network and do not look at it, until the peer hangs up."""
        self._dropping = True
        self.listen()

    def stop(self) -> None:
        """Nothing comes any more."""
        self._plain = False
        self._call_off_stall()

    def detach(self) -> None:
        """The connection is over for good: let go of what refers back to it."""
        self._decoder = self.bound = None
        self._dropping = False
        del self._owner, self._connection, self._single_text

    # -- underneath

    def _more(self) -> None:
        self._unread = True
        self._owner.again()

    def _go_on(self, data: bytes | None) -> Held | None:
        if self._dropping:
            self._discard()
            return None
        decoder = self._decoder
        if decoder is None:
            return None  # the handshake is not answered: what has come waits
        owner = self._owner
        life = owner.life
        transport = self.transport
        if data is None and not life.over and (self._rest or (decoder.pending and self._has_room)):
            data, self._rest = self._rest, b""
        reads = 0
        while True:
            held = self._run_waiting(None if data is None else self._take(data))
            if held is not None:
                self._plain = False
                if (
                    (self._waiting and self.running < self._limit)
                    or self._peer_close is not None
                    or decoder.failure is not None
                    or decoder.pending
                    or self._rest
                    or self._unread
                    or self.paused
                    or transport.more()
                ):
                    owner.again()
                return held
            self._judge()
            if life.over:
                break
            if decoder.pending and self._has_room:
                data = b""
                continue
            if self.paused or not (self._unread or transport.more()):
                break
            if reads == _READS:
                self._more()
                break
            reads += 1
            self._unread = False
            try:
                data = transport.read()
            except OSError:
                data = b""
            if data is None:
                break
            if not data:
                owner.lost()
                break
            self.heard = True
        self._plain = (
            life.state is State.OPEN
            and not (self.gated or self.paused or self._waiting or self._unread)
            and not decoder.pending
            and decoder.failure is None
        )
        if self.watched and not self.busy:
            owner.idle()
        return None

    @property
    def _has_room(self) -> bool:
        """What lies in the decoder may come out. Where messages are passed over, they need no room."""
        settings = self._settings
        return not self._owner.life.talking or (
            self._waiting < settings.inbox_limit and self._inbox_size < settings.inbox_bytes
        )

    def _discard(self) -> None:
        """Take what has come off the network, until the peer hangs up."""
        for _ in range(_READS):
            try:
                data = self.transport.read()
            except OSError:
                data = b""
            if data is None:
                return
            if not data:
                self._owner.lost()
                return
        self._more()

    def _take(self, data: bytes) -> deque[Item] | None:
        """Decode what was read: control frames are answered, messages go into the inbox.

        Those before which no other waits are given back instead: most of them find a handler free at once, and going
        through the channel would take 0.6 µs for each.
        """
        owner, settings = self._owner, self._settings
        decoder = self._decoder
        assert decoder is not None
        talking = owner.life.talking
        limit, room = settings.inbox_limit, settings.inbox_bytes
        if talking:
            limit -= self._waiting
            room -= self._inbox_size
        taken: deque[Item] = deque()
        size = 0
        pongs = b""  # they leave in one write
        for kind, payload in decoder.receive(data, max(limit, 1), room):
            if kind <= BINARY:
                if talking:
                    self.order += 1
                    taken.append((kind, payload, self.order))
                    size += len(payload)
                continue
            outcome = take_control(kind, payload)
            if outcome.closed is not None:
                self._peer_close = outcome.closed
            elif outcome.failure is not None:
                decoder.failure = outcome.failure
            elif outcome.answer and talking:
                pongs += outcome.answer
        fresh = not self._waiting
        self._waiting += len(taken)
        self._inbox_size += size
        if taken and not fresh:
            self._store(taken)
        if pongs:
            owner.outbox.put_control(pongs)
        return taken if fresh else None

    def _judge(self) -> None:
        """Act on what came behind the messages, and on how much of them waits."""
        owner, settings = self._owner, self._settings
        life, decoder = owner.life, self._decoder
        assert decoder is not None
        if life.over:
            return
        if self._peer_close is not None:
            closed, self._peer_close = self._peer_close, None
            owner.peer_closed(*closed)
        elif decoder.failure is not None and not self._waiting:
            code, reason = decoder.failure
            if life.talking:
                say(logger, logging.DEBUG, "the peer on %r is at fault: %s; %d", owner.path, reason, code)
            owner.failed(code, reason)
        if life.state is not State.OPEN:
            return
        full = self._waiting >= settings.inbox_limit or self._inbox_size >= settings.inbox_bytes
        outbox = owner.outbox
        if outbox.size > 2 * outbox.limit:
            outbox.end_turn()  # what was only gathered is no reason to pause, nor does its leaving end one
        if full or outbox.size > 2 * outbox.limit:
            # Nothing else may bring a reader back when the peer has taken it.
            outbox.watched = outbox.size > 0
            self._pause()
            if full and self._stall is None:
                self._stall = owner.after(settings.stall_timeout, self._stalled)
        elif self.paused:
            self._call_off_stall()
            self._resume()

    def _pause(self) -> None:
        """Reading pauses, and TCP pushes back."""
        if not self.paused:
            self.paused = True
            self.transport.pause()

    def _resume(self) -> None:
        self.paused = False
        self._unread = True
        self.transport.resume()
        self._owner.again()

    def _call_off_stall(self) -> None:
        if self._stall is not None:
            self._stall()
            self._stall = None

    def _stalled(self) -> None:
        """A program that is stuck for too long loses the connection; not one that something else has kept until now."""
        self._owner.again()
        self._stall = self._owner.after(0, self._still_stalled)

    def _still_stalled(self) -> None:
        self._stall = None
        left, self._waiting, self._inbox_size = self._waiting, 0, 0
        logger.error(
            "the inbox on %r was full for %g s: the handlers%s are cancelled, %d that wait are passed over, "
            "the socket is closed with 1013",
            self._owner.path,
            self._settings.stall_timeout,
            "" if self.bound is None else f" of {name_of(self.bound.consumer)}",
            left,
        )
        self._owner.failed(1013, "try again later")
        self.cancel()

    def _run_waiting(self, fresh: deque[Item] | None) -> Held | None:
        """Run what waits, as far as the ordering mode allows now.

        Args:
            fresh: messages that have just come, where none was before them: what finds no handler free goes into the
                inbox.
        """
        if not self._waiting:
            return None
        outbox = self._owner.outbox
        # The answers to a batch leave in one write. A handler that waits, or takes its time, ends that.
        gathering = self._waiting > 1 and outbox.direct is not None
        flush = outbox.flush
        try:
            if self.gated or self._given_up:
                return None
            if self._deadline != math.inf and trio.current_time() >= self._deadline:
                return None  # it would be cancelled where it first waits
            if gathering:
                outbox.hold_turn()
                flush.holding = True
                until = time.perf_counter() + CORK_SECONDS
            task = trio.lowlevel.current_task()
            place = task._cancel_status  # nesting(), without the call, here and below
            while self._waiting and self.running < self._limit:
                if fresh:
                    item = fresh.popleft()
                else:
                    assert self._received is not None
                    item = self._received.receive_nowait()
                self._waiting -= 1
                self._inbox_size -= len(item[1])
                if self._stall is not None:
                    self._call_off_stall()  # it goes on, even if what lies behind fills the inbox again
                held = self._start(item, task, place)
                if held is not None:
                    return held
                if gathering and time.perf_counter() > until:
                    flush.flush()
                    flush.holding = gathering = False
        finally:
            flush.holding = False
            if fresh:
                self._store(fresh)
        if gathering:
            outbox.end_turn()
        return None

    def _store(self, items: Iterable[Item]) -> None:
        """Put messages, which are counted already, into the inbox."""
        if self._inbox is None:
            self._inbox, self._received = trio.open_memory_channel[Item](self._settings.inbox_limit + 1)
        for item in items:
            self._inbox.send_nowait(item)

    def _start(self, item: Item, task: trio.lowlevel.Task, place: object) -> Held | None:
        """Begin the handler of one message.

        Args:
            task, place: this task, and where it is among its cancel scopes: of several handlers in one step, each has
                to answer for what it leaves open.
        """
        kind, payload, order = item
        owner = self._owner
        message = Message(
            {"path": owner.path, "order": order, "text" if kind == TEXT else "bytes": payload},
            RECEIVE, owner.channel, self._connection,
        )  # fmt: skip
        bound = self.bound or owner.match(message)
        if bound is None or bound.begin is None:
            return None  # Channels 1 passes over it too
        timeout = self._settings.handler_timeout
        if timeout is not None:
            return self._begin(bound, message, timeout, None)
        context = copy_context()
        try:
            begun = context.run(first_step, bound.begin, message, bound.kwargs)
        except BaseException as error:  # noqa: ASYNC103 - parted() says what has to go on
            if parted(error)[1] is not None:
                raise
            if task._cancel_status is not place:
                error = left_open(task, place, error)
            return self._failed(bound, message, error)  # noqa: ASYNC104 - it is no cancellation
        if begun is None:
            if task._cancel_status is not place:
                self._raised(bound.consumer, left_open(task, place))
            return None
        self.running += 1
        self.waits = True
        return Held(self, bound.consumer, begun[0], context, begun[1], message, place)

    def _failed(self, bound: Bound, message: Message, error: BaseException) -> Held | None:
        """A handler has raised before it first waited: do what that asks for, or say so."""
        if isinstance(error, (ChannelSocketException, ExceptionGroup)):
            held = self._begin(bound, message, None, error)
        else:
            self._raised(bound.consumer, error)
            held = None
        forget(error)
        return held

    def _begin(
        self, bound: Bound, message: Message, timeout: float | None, after: BaseException | None
    ) -> Held | None:
        held, _, error = begin(self, bound, message, timeout, after=after)
        if held is not None:
            self.running += 1
            self.waits = True
        elif error is not None:
            self._raised(bound.consumer, error)
            forget(error)
        return held

    def _raised(self, consumer: Consumer, error: BaseException) -> None:
        mine = parted(error)[0]
        if mine is None:
            return
        owner = self._owner
        if not only(mine, ConnectionClosed):
            owner.crashed(consumer, "receive", mine)
        elif owner.life.state is State.OPEN:
            logger.warning(
                "%s broke off in receive on %r: it sent to another connection, which is gone: %s",
                name_of(consumer), owner.path, mine,
            )  # fmt: skip
        elif owner.life.state is State.CLOSING:
            logger.info(
                "%s broke off in receive on %r: it sent when the socket had been closed from this end, with %d; send "
                "what is left to say before close()",
                name_of(consumer), owner.path, owner.life.code,
            )  # fmt: skip

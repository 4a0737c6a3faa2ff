"""What a connection does with what it receives: read, decode, put into the inbox, run handlers.

One task reads, decodes and runs the handlers *inline*, in the order of arrival. When a handler first has to wait,
a second task is started in the connection's nursery and goes on reading, so that slow handlers overlap as far as the
ordering mode allows, and closes and pings are seen. A task that finds another one reading, and nothing
that it may run, ends. (docs/architecture.md has the picture, docs/performance.md the figures.)
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import trio

from .closing import Closing, State
from .control import MAX_WAITING
from .exceptions import ConnectionClosed
from .handlers import only, resume, start
from .layers import ReplyChannel
from .message import Message
from .routing import Consumer, Match
from .runtime import RECEIVE
from .wire.frames import CLOSE, TEXT

if TYPE_CHECKING:
    from .runtime import Runtime
    from .wire.transport import Transport

logger = logging.getLogger("triochan.connection")

Item = tuple[int, Any, int]
"""A message in the inbox: its kind, what it carries, its order."""
CORK_SECONDS = 0.001
"""How long the answers to a batch may be held back to leave in one write."""


class Dispatch(Closing, ABC):
    """The inbound half of a connection.

    Attributes:
        channel: the connection's reply channel.
    """

    __slots__ = (
        "_fed", "_gated", "_handler_timeout", "_inbox", "_inbox_size", "_limit", "_order",
        "_receive_match", "_received", "_rest", "_running", "_waiting", "channel",
    )  # fmt: skip

    def __init__(self, path: str, transport: Transport, runtime: Runtime, rest: bytes) -> None:
        super().__init__(path, transport, runtime)
        self.channel: ReplyChannel
        # Undecoded bytes that came with the handshake's head.
        self._rest = rest
        # The inbox is opened by the first message that has to wait: most connections never need one.
        self._inbox: trio.MemorySendChannel[Item] | None = None
        self._received: trio.MemoryReceiveChannel[Item]
        self._waiting = 0
        self._inbox_size = 0
        self._order = 0
        # `_limit` tasks may run handlers; `_gated`: connect has to finish first; `_fed`: control frames came.
        self._limit = 1
        self._running = 0
        self._gated = False
        self._fed = False
        self._handler_timeout = runtime.settings.handler_timeout
        self._receive_match: Match | None = None

    @abstractmethod
    async def _open(self) -> None:
        """Answer the handshake; the task that reads does it first."""

    async def _work(self) -> None:
        """One task's turn: run what waits in the inbox, then read; end where another reads, or nothing more comes.

        Always a checkpoint between reads, however many messages one of them brings.
        """
        transport, decoder = self._transport, self._decoder
        while True:
            if self._waiting:
                await self._run_waiting()
            if self._reading or self._state is State.CLOSED:
                return
            self._reading = True
            try:
                if self._waiting or not self._steady:
                    await self._read_slowly()
                    continue
                try:
                    data = await transport.receive_some()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    data = b""
                # One whole text message, for which a handler is free, is what nearly every read brings: it passes
                # the decoder's loop and the inbox by.
                text = decoder.single_text(data) if self._steady and self._running < self._limit else None
                if text is None:
                    self._take(data)
                    if self._fed:
                        await self._settle()
                    continue
                self._order += 1
                item = TEXT, text, self._order
            finally:
                self._reading = False
            suspended = self._start(item)
            if suspended is not None:
                await self._continue(*suspended)

    async def _run_waiting(self) -> None:
        """Run the inbox's messages, as far as the ordering mode allows now."""
        outbox = self.outbox
        # The answers to a batch leave in one write. A handler that waits, or takes its time, ends that.
        corked = self._waiting > 1 and outbox.direct is not None
        if corked:
            outbox.cork()
            until = time.perf_counter() + CORK_SECONDS
        try:
            while self._waiting and self._running < self._limit and not self._gated:
                item = self._received.receive_nowait()
                self._waiting -= 1
                self._inbox_size -= len(item[1])
                if self._paused:
                    self._make_room()
                suspended = self._start(item)
                if suspended is not None:
                    await self._continue(*suspended)
                if corked and time.perf_counter() > until:
                    outbox.uncork()
                    corked = False
        finally:
            if corked:
                outbox.uncork()

    async def _read_slowly(self) -> None:
        """Read where something is out of the ordinary: the handshake is to be answered, bytes are left over, the
        inbox may be full, the connection is closing. Always a checkpoint."""
        settings = self._runtime.settings
        if not self._control.stream.open:
            await self._open()
        if self._decoder.failure is not None and self._state is State.OPEN:
            self._fail()
        if self._state is State.OPEN and (
            self._waiting >= settings.inbox_limit
            or self._inbox_size >= settings.inbox_bytes
            or self._control.stream.waiting > MAX_WAITING
        ):
            await self._wait_for_room()
        elif self._rest or self._decoder.pending:
            data, self._rest = self._rest, b""
            await trio.lowlevel.checkpoint()
            self._take(data, more=True)
        else:
            try:
                data = await self._transport.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            self._take(data)
        if self._fed:
            await self._settle()

    def _fail(self) -> None:
        """The peer has sent what can't be decoded: say so, and stop listening."""
        assert self._decoder.failure is not None
        if self._state is State.OPEN:
            self._begin_closing(*self._decoder.failure, failing=True)
        elif not self._failing:
            self._gone()

    async def _settle(self) -> None:
        """Pings are answered before the messages behind them are handled, whichever read brings those."""
        if self._waiting:
            self._fed = False
            if not self._decoder.close_seen:
                await self._control.stream.settled()

    def _take(self, data: bytes, *, more: bool = False) -> None:
        """Decode what was read: messages go into the inbox, control frames to trio-websocket.

        Args:
            more: ``data`` may be empty, for the decoder has bytes left.
        """
        if not data and not more:
            self._gone()
            return
        if self._failing:
            return  # what still comes is taken off the network and not looked at
        decoder, control = self._decoder, self._control.stream
        limit = self._runtime.settings.inbox_limit
        if self._state is State.OPEN:  # else messages are dropped, and need no room
            limit -= self._waiting
        for kind, payload in decoder.receive(data, limit):
            if kind >= CLOSE:
                # As trio-websocket reads it: masked, with zeros.
                control.feed(bytes((0x80 | kind, 0x80 | len(payload))) + bytes(4) + payload)
                self._fed = True
            elif self._state is State.OPEN:
                if self._inbox is None:
                    limit = self._runtime.settings.inbox_limit
                    self._inbox, self._received = trio.open_memory_channel[Item](limit)
                self._order += 1
                self._inbox.send_nowait((kind, payload, self._order))
                self._waiting += 1
                self._inbox_size += len(payload)
        if decoder.failure is not None and not self._waiting:  # else what came before it is answered first
            self._fail()
        self._steady = (
            self._state is State.OPEN
            and not self._gated
            and not decoder.pending
            and decoder.failure is None
            and not self._fed
            and control.waiting <= MAX_WAITING
        )

    async def _wait_for_room(self) -> None:
        """Reading pauses, and TCP pushes back; a program that is stuck for too long loses the connection (1013)."""
        self._room = trio.Event()
        self._paused = True
        try:
            with trio.move_on_after(self._runtime.settings.stall_timeout) as scope:
                await self._room.wait()
        finally:
            self._room = None
            self._paused = False
        if scope.cancelled_caught:
            logger.error(
                "the inbox on %r was full for %g s: its handlers are cancelled, the socket is closed with 1013",
                self.path,
                self._runtime.settings.stall_timeout,
            )
            self._begin_closing(1013, "try again later", failing=True)
            self._handlers.cancel_scope.cancel()

    def _start(self, item: Item) -> tuple[Consumer, Coroutine[Any, Any, object], Any] | None:
        """Run the handler of one message, in this task; None where it ends without having waited.

        Else what :meth:`_continue` takes. A handler that never waits costs no task, no switch, and no call that is
        awaited on the way to it.
        """
        kind, payload, order = item
        content = {"path": self.path, "order": order, "text" if kind == TEXT else "bytes": payload}
        message = Message(content, RECEIVE, self.channel, self)
        match = self._receive_match or self._runtime.router.match(message)
        if match is None:
            return None  # Channels 1 passes over it too
        consumer, kwargs = match
        self._running += 1
        try:
            coroutine = start(consumer, message, kwargs, self._handler_timeout)
            trap = coroutine.send(None)
        except StopIteration:
            self._running -= 1
            return None
        except Exception as error:  # noqa: BLE001 - the barrier around a handler
            self._running -= 1
            self._raised(consumer, error)
            return None
        except BaseException:
            self._running -= 1
            raise
        self._receive_waits()
        return consumer, coroutine, trap

    async def _continue(self, consumer: Consumer, coroutine: Coroutine[Any, Any, object], trap: Any) -> None:
        """Await the rest of a handler that has begun to wait."""
        try:
            await resume(coroutine, trap)
        except Exception as error:  # noqa: BLE001 - the barrier around a handler
            self._raised(consumer, error)
        finally:
            self._running -= 1

    def _raised(self, consumer: Consumer, error: Exception) -> None:
        if not only(error, ConnectionClosed):
            self._crashed(consumer, "receive", error)

    def _receive_waits(self) -> None:
        """A handler waits for the first time: what was answered so far leaves, and another task goes on."""
        self.outbox.uncork()
        if not self._reading:
            self._handlers.start_soon(self._work)

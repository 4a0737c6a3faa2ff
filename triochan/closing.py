"""How a connection ends: the closing handshake in all its ways, lost peers, and the tasks that live as long as it.

The base of a connection, below what reads and runs (:mod:`triochan.dispatch`). Whatever happens, a connection
ends in :meth:`Closing._gone`, at a time that is bounded from the moment that its end began.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVarTuple

import trio

from .control import Control
from .exceptions import ConnectionClosed
from .handlers import only
from .routing import name_of
from .wire.frames import FrameDecoder, close_frame
from .wire.outbox import Outbox

if TYPE_CHECKING:
    from .runtime import Policy, Runtime
    from .wire.transport import Transport

logger = logging.getLogger("triochan.connection")

Ts = TypeVarTuple("Ts")
LINGER_SECONDS = 2.0
"""How long a connection that this side ends waits for the peer to hang up."""


class State(Enum):
    """Where a connection stands. It moves down only."""

    CONNECTING = "connecting"
    """The handshake is not decided."""
    OPEN = "open"
    """Accepted: messages go both ways."""
    CLOSING = "closing"
    """A close frame is on its way out; messages are refused, the peer's answer is awaited."""
    CLOSED = "closed"
    """The peer is gone, or the handshake was refused."""


class Closing:
    """The end of a connection, and what has to be told of it.

    Attributes:
        path: the request's path, percent-decoded.
        outbox: what is on its way to the peer.
        close_code, close_reason: how it ended, once it has.
    """

    __slots__ = (
        "_accepted", "_control", "_decoder", "_ended", "_failing", "_handlers", "_paused", "_policy",
        "_reading", "_room", "_runtime", "_state", "_steady", "_tasks", "_transport", "_verdict",
        "_wire", "close_code", "close_reason", "outbox", "path",
    )  # fmt: skip

    def __init__(self, path: str, transport: Transport, runtime: Runtime) -> None:
        self.path = path
        self._transport = transport
        self._runtime = runtime
        self._state = State.CONNECTING
        self._accepted = False
        self._policy: Policy
        self.outbox: Outbox
        self._control: Control
        self._wire: trio.Nursery
        self._handlers: trio.Nursery
        # How it will have ended, as far as is known, and whether the peer's answer is waited for.
        self._verdict: tuple[int, str] | None = None
        self._failing = False
        self._ended: trio.Event | None = None
        self.close_code: int | None = None
        self.close_reason = ""
        self._tasks: set[trio.CancelScope] = set()
        # The reading side, as far as the end concerns it: a task reads; nothing is out of the ordinary; reading
        # pauses until there is room.
        self._decoder = FrameDecoder(runtime.settings.max_message_size)
        self._reading = False
        self._steady = False
        self._paused = False
        self._room: trio.Event | None = None

    # -- tasks of the program's

    def start_soon(self, async_fn: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Run ``async_fn(*args)`` for as long as the socket lives: it is cancelled when the peer is gone.

        What it raises is logged and closes the socket with 1011.

        Raises:
            ConnectionClosed: the socket is gone already.
        """
        if self._state is State.CLOSED or self._handlers.cancel_scope.cancel_called:
            raise ConnectionClosed(self.close_code or 1006, self.close_reason)
        self._handlers.start_soon(self._run_task, async_fn, args)

    async def _run_task(self, async_fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        with trio.CancelScope() as scope:
            self._tasks.add(scope)
            if self._state is State.CLOSED:
                scope.cancel()
            try:
                await async_fn(*args)
            except Exception as error:  # noqa: BLE001 - the barrier around the program's task
                if not only(error, ConnectionClosed):
                    self._crashed(async_fn, "a task of the connection", error)
            finally:
                self._tasks.discard(scope)

    def _cancel_tasks(self) -> None:
        for scope in self._tasks:
            scope.cancel()

    def _crashed(self, consumer: Any, what: str, error: Exception) -> None:
        logger.error("%s raised in %s on %r", name_of(consumer), what, self.path, exc_info=error)
        if self._accepted:
            self._begin_closing(1011, "internal error")

    # -- pings

    def start_ping(self) -> None:
        """Ping the peer from a task of the connection's own; called by the server's keepalive."""
        if self._state is State.OPEN:
            self._wire.start_soon(self._ping)

    async def _ping(self) -> None:
        settings = self._runtime.settings
        with trio.move_on_after(settings.ping_timeout) as scope:
            if not await self._control.ping():
                return
        if self._state is not State.OPEN:
            return  # close_timeout bounds what is left
        if scope.cancelled_caught and not self._paused:  # while reading pauses, a pong may lie unread
            self._verdict = (1006, "no pong came")
            self._gone()
        else:
            self._runtime.keepalive.schedule(self)

    # -- the closing handshake

    def _begin_closing(self, code: int, reason: str, *, failing: bool = False, discard: bool = False) -> None:
        """Send a close frame, and wait for the peer's, or not where ``failing``. The first one counts."""
        if self._state is State.OPEN:
            self._state = State.CLOSING
            self._steady = False
            self._verdict = (code, reason)
            self._failing = failing
            self.outbox.seal(code, reason, discard=discard)
            self._make_room()
            if self._control.stream.open:
                self._wire.start_soon(self._close)

    async def _close(self) -> None:
        assert self._verdict is not None
        try:
            with trio.move_on_after(self._runtime.settings.close_timeout):
                if self._failing:
                    await self._control.fail(*self._verdict)
                    await self._linger()
                else:
                    await self._control.close(*self._verdict)
                    await self._end().wait()  # at once, unless it was the peer's close that ran already
        finally:
            self._gone()

    def _close_sent(self, code: int, reason: str) -> None:
        """A close frame is on its way: ours, or trio-websocket's answer to the peer's."""
        if self._verdict is None:
            self._verdict = self._control.peer_close or (code, reason)
        if self._state is State.OPEN:
            self._state = State.CLOSING
            self._steady = False
            if self.outbox.size:  # behind a backlog, and nobody has set a limit to it yet
                self._wire.start_soon(self._give_up)
        self.outbox.seal(*self._verdict)
        self._make_room()

    async def _give_up(self) -> None:
        try:
            with trio.move_on_after(self._runtime.settings.close_timeout):
                await self._end().wait()
        finally:
            self._gone()

    def _protocol_ended(self) -> None:
        """trio-websocket has closed its stream."""
        if self._failing or self._state is State.CLOSED:
            return
        if self._verdict is None:  # an error in a control frame, which it does not answer
            self._verdict = self._control.peer_close or (1002, "")
            try:
                self.outbox.put_control(close_frame(*self._verdict))
            except ConnectionClosed:
                pass
            self._close_sent(*self._verdict)
        elif self._decoder.close_seen:
            self._gone()
            return
        self._failing = True
        self._wire.start_soon(self._linger_and_go)

    async def _linger_and_go(self) -> None:
        try:
            await self._linger()
        finally:
            self._gone()

    async def _linger(self) -> None:
        """Take what the peer has sent off the network until it hangs up: closing upon unread bytes would be a
        reset, and destroy the last words that are on their way to it (RFC 9112 section 9.6)."""
        self._transport.send_eof()
        with trio.move_on_after(LINGER_SECONDS):
            if self._reading:
                await self._end().wait()
                return
            try:
                while await self._transport.receive_some():
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    def _overflowed(self) -> None:
        logger.warning("the peer on %r does not read: over %d bytes wait; 1013", self.path, self.outbox.limit)
        self._begin_closing(1013, "the peer reads too slowly", failing=True, discard=True)

    def _end(self) -> trio.Event:
        if self._ended is None:
            self._ended = trio.Event()
            if self._state is State.CLOSED:
                self._ended.set()
        return self._ended

    def _gone(self) -> None:
        """Nothing comes or goes any more: tell everything that waits for it. Again is no error."""
        if self._state is State.CLOSED:
            return
        self._state = State.CLOSED
        self._verdict = self._verdict or (1006, "")
        self.close_code, self.close_reason = self._verdict
        self.outbox.close(*self._verdict)
        self._control.stream.feed_eof()
        self._transport.close()
        self._make_room()
        self._cancel_tasks()
        if self._ended is not None:
            self._ended.set()
        scope = self._handlers.cancel_scope
        if self._policy.cancel_on_disconnect:
            scope.cancel()
        else:
            now = trio.current_time()
            # In a shutdown, half of what is left: the other half is disconnect's.
            scope.deadline = min(
                now + self._runtime.settings.disconnect_timeout, (now + self._runtime.deadline) / 2
            )

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.set()

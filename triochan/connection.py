"""One WebSocket's life: handshake, read, dispatch, write, teardown.

One task reads, decodes and runs the handlers *inline*, in the order of arrival. When a handler first has to wait,
a second task is started in the connection's nursery and goes on reading, so that slow handlers overlap as far as the
ordering mode allows, and closes and pings are seen. A task that finds another one reading, and nothing
that it may run, ends. (docs/architecture.md has the picture, docs/performance.md the figures.)

Nurseries: ``wire`` holds trio-websocket's reader, the flusher, pings and the closing handshake; within it, ``handlers``
holds whatever runs the program's code. ``disconnect`` runs when the inner one has ended, however it ended.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, TypeVarTuple

import trio

from .control import MAX_WAITING, Control, ControlStream
from .exceptions import ConnectionClosed, DenyConnection
from .frames import CONTROL, TEXT, FrameDecoder, close_frame, encode
from .handlers import bounded, nothing, only, resume, run_inline, start
from .message import Message
from .outbox import Outbox
from .replies import Headers, check_close, parse_websocket
from .routing import Consumer, Match, name_of
from .runtime import CONNECT, DISCONNECT, RECEIVE
from .transport import BLOCKED

if TYPE_CHECKING:
    from .application import Application
    from .http.request import Upgrade
    from .runtime import Runtime
    from .transport import Transport

logger = logging.getLogger("triochan.connection")

Ts = TypeVarTuple("Ts")
Item = tuple[int, Any, int]
"""A message in the inbox: its kind, what it carries, its order."""

CORK_SECONDS = 0.001
"""How long the answers to a batch may be held back to leave in one write."""
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


class Connection:
    """A live WebSocket, as ``message.connection`` and ``self.connection`` show it.

    Attributes:
        channel: its reply channel.
        path: the request's path, percent-decoded.
        client: the peer's address, ``[host, port]``, or None.
        state: a namespace of the connection's own, for the program to use.
        close_code, close_reason: how it ended, once it has.
    """

    __slots__ = (
        "__weakref__", "_accepted", "_client", "_connect_waiting", "_control", "_decision", "_decoder", "_denied",
        "_disconnect_match", "_ended", "_failing", "_fed", "_gated", "_handler_timeout", "_handlers", "_headers", "_inbox",
        "_inbox_size", "_limit", "_namespace", "_order", "_paused", "_policy", "_reading", "_receive_match",
        "_received", "_rest", "_room", "_running", "_runtime", "_state", "_steady", "_subprotocol", "_tasks",
        "_transport", "_upgrade", "_verdict", "_waiting", "_wire", "channel", "close_code", "close_reason", "outbox",
        "path",
    )  # fmt: skip

    def __init__(self, upgrade: Upgrade, transport: Transport, runtime: Runtime) -> None:
        settings = runtime.settings
        self._upgrade: Upgrade | None = upgrade
        self._transport = transport
        self._runtime = runtime
        self.path: str = upgrade.content["path"]
        self._client = upgrade.content.get("client")
        self._namespace: SimpleNamespace | None = None
        self._state = State.CONNECTING
        # The handshake: what was decided, to be written when connect has returned or waits.
        self._accepted = False
        self._denied: tuple[int, Headers, bytes] | None = None
        self._subprotocol: str | None = None
        self._headers: Headers = []
        self._decision: trio.CancelScope | None = None
        self._connect_waiting = False
        # The end: how it will have ended, as far as is known, and whether the peer's answer is waited for.
        self._verdict: tuple[int, str] | None = None
        self._failing = False
        self._ended: trio.Event | None = None
        self.close_code: int | None = None
        self.close_reason = ""
        # Inbound: undecoded bytes that came with the head, the decoder, and messages that wait for a handler.
        self._rest = upgrade.rest
        self._decoder = FrameDecoder(settings.max_message_size)
        # The inbox is opened by the first message that has to wait: most connections never need one.
        self._inbox: trio.MemorySendChannel[Item] | None = None
        self._received: trio.MemoryReceiveChannel[Item]
        self._waiting = 0
        self._inbox_size = 0
        self._order = 0
        self._room: trio.Event | None = None
        self._paused = False
        # Who does what: one task may read, `_limit` may run handlers; `_gated`: connect has to finish first.
        self._reading = False
        self._running = 0
        self._gated = False
        self._steady = False
        self._fed = False
        self._handler_timeout = settings.handler_timeout
        self._receive_match: Match | None = None
        self._disconnect_match: Match | None = None
        self._tasks: set[trio.CancelScope] = set()
        self.channel = runtime.layer.attach("websocket.send", self)

    # -- for the program

    @property
    def state(self) -> SimpleNamespace:
        if self._namespace is None:
            self._namespace = SimpleNamespace()
        return self._namespace

    @property
    def client(self) -> list[Any] | None:
        return self._client

    @property
    def application(self) -> Application:
        """The application that it is a connection of."""
        return self._runtime.application

    @property
    def ordering(self) -> Literal["strict", "slight"] | None:
        """Which of its consumers' ordering attributes holds; None: its handlers may overlap."""
        if self._limit == 1:
            return "strict"
        return "slight" if self._policy.gated else None

    @property
    def dropped(self) -> int:
        """Messages that were dropped because the peer did not read."""
        return self.outbox.dropped

    def start_soon(self, async_fn: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Run ``async_fn(*args)`` for as long as the socket lives: it is cancelled when the peer is gone.

        What it raises is logged and closes the socket with 1011.

        Raises:
            ConnectionClosed: the socket is gone already.
        """
        if self._state is State.CLOSED or self._handlers.cancel_scope.cancel_called:
            raise ConnectionClosed(self.close_code or 1006, self.close_reason)
        self._handlers.start_soon(self._run_task, async_fn, args)

    async def send(self, data: str | bytes) -> None:
        """Send one message, text for a ``str``, waiting while the outbox is full; while connecting, accept first.

        No checkpoint where nothing waits: an answer that the socket takes at once costs no task switch.

        Raises:
            ConnectionClosed: the peer is gone, or the socket is closing.
        """
        if self._state is State.CONNECTING:
            self._accept(None, [])
        await self.outbox.put(encode(data))

    def send_nowait(self, data: str | bytes) -> bool:
        """Send one message if the socket takes it, or its tail can wait, at once; False: nothing was done.

        Raises:
            UnicodeEncodeError: the text has a lone surrogate.
        """
        outbox = self.outbox
        if not outbox.ready:
            return False
        frame = encode(data)
        try:
            sent = outbox.socket.send(frame)
        except BLOCKED:
            sent = 0
        except OSError:
            outbox.broken()
            return False
        if sent != len(frame):
            outbox.keep(frame, sent)
        return True

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake, or refuse the opening one (403); on a socket that is closing, nothing.

        Messages sent before it leave before it.

        Raises:
            ValueError: a code or reason that can't be sent.
        """
        code, reason = check_close(code, reason)
        if self._state is State.CONNECTING:
            self._deny(403, b"Forbidden")
        else:
            self._begin_closing(code, reason)

    # -- the reply channel's end

    async def deliver(self, content: dict[str, Any], /) -> None:
        reply = parse_websocket(content)
        if self._state is State.CONNECTING:
            if reply.accept is False or (reply.accept is None and reply.data is None):
                self._deny(403, b"Forbidden")
                return
            self._accept(reply.subprotocol, reply.headers or [])
        elif reply.accept is False:
            raise ValueError("the handshake was accepted already; close the socket instead")
        if reply.data is not None:
            await self.outbox.put(encode(reply.data))
        if reply.close is not None:
            self.close(reply.close, reply.reason)

    def deliver_nowait(self, content: dict[str, Any], /) -> None:
        reply = parse_websocket(content)
        if reply.data is not None:
            self.outbox.offer(encode(reply.data))
        if reply.close is not None:
            self.close(reply.close, reply.reason)

    def start_ping(self) -> None:
        """Ping the peer from a task of the connection's own; called by the server's keepalive."""
        if self._state is State.OPEN:
            self._wire.start_soon(self._ping)

    # -- life

    async def run(self) -> None:
        """Live, from the handshake's head to the closed transport. Only a cancellation comes out."""
        runtime = self._runtime
        try:
            async with trio.open_nursery() as wire:
                self._wire = wire
                try:
                    async with trio.open_nursery() as handlers:
                        self._handlers = handlers
                        await self._connect()
                        if self._accepted:
                            await self._work()
                finally:
                    if self._accepted:
                        await self._finish()
                if self._denied is not None:
                    await self._refuse(*self._denied)
                wire.cancel_scope.cancel()
        finally:
            self._state = State.CLOSED
            runtime.layer.detach(self)
            runtime.keepalive.forget(self)
            runtime.websockets.pop(self, None)
            self._transport.close()

    def _match(self, connect: Message) -> Match | None:
        """Find the path's consumers, once. Where only messages are routed, the handshake needs no consumer."""
        matches = self._runtime.match(connect)
        self._receive_match = matches.receive
        self._disconnect_match = matches.disconnect
        policy = matches.policy
        self._policy, self._limit, self._gated = policy, policy.limit, policy.gated
        return matches.connect

    # -- the opening handshake

    async def _connect(self) -> None:
        """Run ``connect`` and see that the handshake is decided when it has returned."""
        upgrade = self._upgrade
        assert upgrade is not None
        message = Message(upgrade.content, CONNECT, self.channel, self)
        match = self._match(message)
        self.outbox = Outbox(
            self._transport,
            self._wire.start_soon,
            limit=self._policy.outbox_limit,
            overflow=self._policy.overflow,
            on_overflow=self._overflowed,
            on_broken=self._gone,
        )
        stream = ControlStream(
            upgrade.head(),
            self.outbox,
            on_close_sent=self._close_sent,
            on_closed=self._protocol_ended,
            on_room=self._make_room,
        )
        self._control = await Control.open(self._wire, stream)
        if match is None:
            self._deny(403, b"Forbidden")
            return
        consumer, kwargs = match
        if consumer is nothing:
            self._gated = False
            self._accept(None, [])
            return
        timeout = self._runtime.settings.handshake_timeout
        raised: Exception | None = None
        self._running += 1
        with trio.CancelScope(deadline=trio.current_time() + timeout) as decision:
            self._decision = decision
            try:
                await run_inline(start(consumer, message, kwargs), self._connect_waits)
            except Exception as error:  # noqa: BLE001 - the barrier around a handler
                raised = error
        self._decision = None
        self._running -= 1
        self._gated = False
        if raised is None and decision.cancelled_caught and self._accepted:
            raised = trio.TooSlowError()
        if raised is not None and self._state is State.CONNECTING and only(raised, DenyConnection):
            self._deny(403, b"Forbidden")
        elif raised is not None and not only(raised, ConnectionClosed):
            self._crashed(consumer, "connect", raised)
            if self._state is State.CONNECTING:
                self._deny(500, b"Internal Server Error")
        if self._state is State.CONNECTING:
            if decision.cancelled_caught:
                logger.error("%s on %s did not accept within %g s", name_of(consumer), self.path, timeout)
                self._deny(503, b"Service Unavailable", [(b"Retry-After", b"1")])
            else:
                self._accept(None, [])

    def _connect_waits(self) -> None:
        self._connect_waiting = True
        if self._accepted:
            self._handlers.start_soon(self._work)

    def _accept(self, subprotocol: str | None, headers: Headers) -> None:
        """Decide to accept. The response is written when ``connect`` has returned or waits, with what it sent."""
        upgrade = self._upgrade
        assert upgrade is not None
        if subprotocol is not None and subprotocol not in upgrade.subprotocols:
            offered = ", ".join(upgrade.subprotocols) or "none"
            raise ValueError(f"subprotocol {subprotocol!r} was not offered; the client offers {offered}")
        self._subprotocol, self._headers = subprotocol, headers
        self._accepted = True
        self._state = State.OPEN
        if self._decision is not None:
            timeout = self._handler_timeout
            self._decision.deadline = math.inf if timeout is None else trio.current_time() + timeout
        if self._connect_waiting:
            self._handlers.start_soon(self._work)

    def _deny(self, status: int, body: bytes, headers: Headers | None = None) -> None:
        """Decide to refuse; ``disconnect`` is not called, and what the handler still sends is refused too."""
        self._denied = (status, headers or [], body)
        self._state = State.CLOSED
        self.outbox.close(1006, "the handshake was refused")
        self._cancel_tasks()

    async def _open(self) -> None:
        """Write the response to the handshake that was accepted, with what was sent meanwhile."""
        runtime = self._runtime
        await self._control.accept(self._subprotocol, self._headers)
        self._upgrade = None
        self.outbox.release()
        runtime.websockets[self] = None
        runtime.keepalive.schedule(self)
        if self._verdict is not None:
            self._wire.start_soon(self._close)
        elif runtime.draining:
            self.close(1001, "going away")

    async def _refuse(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer the handshake with an HTTP status, and see it off."""
        content_type = (b"Content-Type", b"text/plain; charset=utf-8")
        with trio.move_on_after(self._runtime.settings.close_timeout):
            self.outbox.reopen()
            await self._control.reject(status, [content_type, (b"Connection", b"close"), *headers], body + b"\n")
            self.outbox.release()
            try:
                await self.outbox.drained()
            except ConnectionClosed:
                return
            await self._linger()

    # -- reading, and running what was read

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
        corked = self._waiting > 1 and outbox.ready
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

    async def _settle(self) -> None:
        """Pings are answered before the messages behind them are handled."""
        self._fed = False
        if self._waiting and not self._decoder.close_seen:
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
            if kind == CONTROL:
                control.feed(payload)
                self._fed = True
            elif self._state is State.OPEN:
                if self._inbox is None:
                    limit = self._runtime.settings.inbox_limit
                    self._inbox, self._received = trio.open_memory_channel[Item](limit)
                self._order += 1
                self._inbox.send_nowait((kind, payload, self._order))
                self._waiting += 1
                self._inbox_size += len(payload)
        if decoder.failure is not None:
            if self._state is State.OPEN:
                self._begin_closing(*decoder.failure, failing=True)
            else:
                self._gone()
        self._steady = (
            self._state is State.OPEN and not self._gated and not decoder.pending and control.waiting <= MAX_WAITING
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
                "the inbox on %s was full for %g s: its handlers are cancelled, the socket is closed with 1013",
                self.path,
                self._runtime.settings.stall_timeout,
            )
            self._begin_closing(1013, "try again later", failing=True)
            self._handlers.cancel_scope.cancel()

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.set()

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
            coroutine = start(consumer, message, kwargs)
            if self._handler_timeout is not None:
                coroutine = bounded(coroutine, self._handler_timeout)
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

    def _crashed(self, consumer: Any, what: str, error: Exception) -> None:
        logger.error("%s raised in %s on %s", name_of(consumer), what, self.path, exc_info=error)
        if self._accepted:
            self._begin_closing(1011, "internal error")

    # -- the end

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
        logger.warning("the peer on %s does not read: over %d bytes wait; 1013", self.path, self.outbox.limit)
        self._begin_closing(1013, "the peer reads too slowly", failing=True, discard=True)

    async def _ping(self) -> None:
        settings = self._runtime.settings
        with trio.move_on_after(settings.ping_timeout) as scope:
            if not await self._control.ping():
                return
        if scope.cancelled_caught and not self._paused:  # while reading pauses, a pong may lie unread
            if self._verdict is None:
                self._verdict = (1006, "no pong came")
            self._gone()
        elif self._state is State.OPEN:
            self._runtime.keepalive.schedule(self)

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
            scope.deadline = min(now + self._runtime.settings.disconnect_timeout, (now + self._runtime.deadline) / 2)

    def _cancel_tasks(self) -> None:
        for scope in self._tasks:
            scope.cancel()

    async def _finish(self) -> None:
        """Run ``disconnect``, shielded and bounded, after everything else; then see the closing handshake out."""
        settings = self._runtime.settings
        now = trio.current_time()
        if self._state is State.OPEN:  # cancelled from outside
            self._verdict = (1001, "going away")
            self._gone()
        if self._waiting:
            logger.error("%d messages on %s were not handled before its end", self._waiting, self.path)
        code, reason = self._verdict or (1006, "")
        content = {"path": self.path, "order": self._order + 1, "code": code, "reason": reason}
        message = Message(content, DISCONNECT, self.channel, self)
        match = self._disconnect_match or self._runtime.router.match(message)
        if match is not None and match[0] is not nothing:
            consumer, kwargs = match
            deadline = min(now + settings.disconnect_timeout, self._runtime.deadline)
            with trio.CancelScope(shield=True, deadline=deadline) as scope:
                try:
                    await start(consumer, message, kwargs)
                except Exception as error:  # noqa: BLE001 - the barrier around a handler
                    if not only(error, ConnectionClosed):
                        self._crashed(consumer, "disconnect", error)
            if scope.cancelled_caught:
                logger.error("%s on %s was cancelled: disconnect took too long", name_of(consumer), self.path)
        try:
            if self._state is not State.CLOSED:
                with trio.move_on_after(settings.close_timeout):
                    await self._end().wait()
        finally:
            self._gone()

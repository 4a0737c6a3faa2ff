"""One WebSocket: the program's side of it, and what its life orders.

Its own task, one for each connection, waits for the end and then does what is owed: handlers and tasks end,
``disconnect`` runs, and nothing is left. What comes in is read and handled by the server's readers
(:mod:`triochan.websocket.inbound`).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVarTuple

import trio

from ..connection_task import ConnectionTask
from ..exceptions import ConnectionClosed, LayerUnavailable
from ..handlers import Barrier, Bound, Held, call, enclosed, forget, only, parted, report
from ..layers import Local, ReplyChannel
from ..log_lines import say
from ..message import Message
from ..replies import check_close, parse_websocket
from ..routing import Consumer, name_of
from ..runtime import CONNECT, DISCONNECT, GAP, RECEIVE, Matches
from ..timers import Timer
from ..wire.frames import close_frame, encode, ping_frame
from ..wire.handshake import Upgrade
from ..wire.outbox import Outbox
from ..wire.transport import Transport
from .inbound import Inbound
from .life import Event, Life, Order, State
from .opening import Opening

if TYPE_CHECKING:
    from ..application import Application
    from ..runtime import Runtime

logger = logging.getLogger("triochan.connection")

Ts = TypeVarTuple("Ts")

LINGER_SECONDS = 2.0
"""How long a connection that this side ends waits for the peer to hang up: closing upon unread bytes would be a reset,
and destroy the last words that are on their way to it (RFC 9112 section 9.6)."""
_SMALL_BACKLOG = 4096
"""Unacknowledged bytes that say nothing of a slow peer: a ping, and what a message or two come to."""


_ending: ContextVar[ReplyChannel | None] = ContextVar("triochan.ending", default=None)
"""The reply channel of the connection whose ``disconnect`` runs here."""


class Connection:
    """A live WebSocket, as ``message.connection`` and ``self.connection`` show it.

    Attributes:
        over: nothing comes or goes any more.
        channel: its reply channel.
        path: the request's path, percent-decoded.
        client: the peer's address, ``[host, port]``, or None.
        life: where it stands.
        outbox: what is on its way to the peer.
        inbound: what comes from it.
    """

    __slots__ = (
        "__weakref__", "_behind", "_goodbye", "_idle_until", "_local", "_matches", "_new_tasks",
        "_nursery", "_opening", "_opening_content", "_ping", "_policy", "_runtime", "_state", "_taken", "_task",
        "_timer", "_transport", "channel", "client", "inbound", "life", "outbox", "over", "path",
    )  # fmt: skip

    outbox_type: ClassVar[type[Outbox]] = Outbox

    def __init__(
        self, upgrade: Upgrade, transport: Transport, runtime: Runtime, task: ConnectionTask
    ) -> None:
        self._runtime = runtime
        self._task = task
        self._transport = transport
        self.path: str = upgrade.content["path"]
        self.client: list[Any] | None = upgrade.content.get("client")
        self.life = Life()
        self.channel = runtime.layer.attach("websocket.send", self)
        self._state: Any = None
        self._local: Local | None = None
        self._new_tasks: list[tuple[Callable[..., Awaitable[object]], tuple[Any, ...], Context]] | None = None
        self._nursery: trio.Nursery | None = None
        self.over = False
        self._idle_until = math.inf
        self._timer: Timer | None = None
        self._ping: Timer | None = None
        self._taken = self._behind = 0
        self._matches: Matches | None = None
        self._opening_content: dict[str, Any] | None = None
        self._opening: Opening | None = None
        self._goodbye: Bound | None = None

    def open(self, upgrade: Upgrade) -> Held | None:
        """Find the path's consumers and run ``connect``; for a reader."""
        runtime = self._runtime
        settings = runtime.settings
        message = Message(upgrade.content, CONNECT, self.channel, self)
        connect = receive = matches = None
        try:
            matches = runtime.match(message)
            if matches.connect is not None:
                connect = runtime.bind(matches.connect, CONNECT)
            if matches.receive is not None:
                receive = runtime.bind(matches.receive, RECEIVE)
        except Exception as error:  # noqa: BLE001 - a route of the program's
            self._route_raised(message, error)
            matches = None
        policy = self._policy = runtime.policy(()) if matches is None else matches.policy
        self.outbox = self.outbox_type(
            self._transport, runtime.flush, self, limit=policy.outbox_limit, overflow=policy.overflow
        )
        self.inbound = Inbound(
            self, self._transport, settings, limit=policy.limit, gated=policy.gated, rest=upgrade.rest
        )
        self._transport.hand_over(self.inbound)
        self._opening = Opening(self, upgrade, settings, compression=policy.compression)
        if matches is None:
            self._opening.deny(500, b"Internal Server Error")
            return None
        if connect is None:
            runtime.refused_handshake(message)
        self.inbound.bound = receive
        self._matches = matches
        if matches.receive is None or matches.disconnect is None:
            self._opening_content = upgrade.content  # what the routes look at
        return self._opening.begin(connect, message)

    # -- for the program

    @property
    def state(self) -> Any:
        """A namespace of the connection's own, for the program to use: an object of the consumer's ``State``, made when
        it is first asked for."""
        if self._state is None:
            self._state = self._policy.state()
        return self._state

    @property
    def local(self) -> Local:
        """What rooms of the framework keep with the connection."""
        if self._local is None:
            self._local = Local()
        return self._local

    @property
    def application(self) -> Application:
        """The application that it is a connection of."""
        return self._runtime.application

    @property
    def ordering(self) -> Literal["strict", "slight"] | None:
        """Which of its consumers' ordering attributes holds; None: its handlers may overlap."""
        if self._policy.limit == 1:
            return "strict"
        return "slight" if self._policy.gated else None

    @property
    def handlers(self) -> int:
        """Its handlers that have begun and not ended."""
        return self.inbound.running

    @property
    def dropped(self) -> int:
        """Messages that were dropped because the peer did not read."""
        return self.outbox.dropped

    @property
    def closing(self) -> bool:
        """It was refused, or a close has begun, from either side: nothing can be sent any more."""
        return self.life.state is not State.CONNECTING and not self.life.talking

    @property
    def close_code(self) -> int | None:
        """How it ended, once it has."""
        return self.life.code if self.over else None

    @property
    def close_reason(self) -> str:
        return self.life.reason if self.over else ""

    async def send(self, data: str | bytes) -> None:
        """Send one message, text for a ``str``, waiting while the outbox is full; while connecting, accept first.

        No checkpoint where nothing waits: an answer that the socket takes at once costs no task switch. What the
        connection's own ``disconnect`` sends goes nowhere, and is no error.

        Raises:
            ConnectionClosed: the peer is gone, or the socket is closing.
            ValueError: the text has a lone surrogate.
        """
        frame = self.outbox.encode(data)
        if self.life.state is State.CONNECTING:
            self._accept()
        try:
            await self.outbox.put(frame)
        except ConnectionClosed:
            if not self._pass_over():
                raise

    def send_nowait(self, data: str | bytes) -> bool:
        """Send one message if the socket takes it, or its tail can wait, at once, or gather it with what else this turn
        sends; False: nothing was done.

        Raises:
            ValueError: the text has a lone surrogate.
        """
        outbox = self.outbox
        if outbox.direct is None:
            return outbox.gather(data)
        return outbox.send_direct(encode(data) if outbox.agreement is None else outbox.encode(data))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake, or refuse the opening one (403); on a socket that is closing, nothing.

        Messages sent before it leave before it.

        Raises:
            ValueError: a code or reason that can't be sent.
        """
        code, reason = check_close(code, reason)
        if self.life.state is State.CONNECTING:
            assert self._opening is not None
            self._opening.deny(403, b"Forbidden", why="it was closed before it was accepted")
        else:
            self._perform(self.life.step(Event.CLOSE, code, reason))

    def start_soon(self, async_fn: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Run ``async_fn(*args)`` for as long as the socket lives: it is cancelled when the peer is gone.

        It sees the context variables of whoever starts it. What it raises is logged and closes the socket with 1011.

        Raises:
            ConnectionClosed: the socket is gone already.
            TypeError: ``async_fn`` can't be called.
        """
        given: object = async_fn
        if not callable(given):
            if isinstance(given, Coroutine):
                given.close()
            raise TypeError(
                f"start_soon takes an async function and its arguments, start_soon(self.send, 'text'), not {given!r}"
            )
        if self.over or self.life.state is State.REFUSED:
            raise ConnectionClosed(self.life.code, self.life.reason)
        context = copy_context()
        if self._nursery is not None:
            self._nursery.start_soon(self._run_task, async_fn, args, context, name=async_fn)
            return
        if self._new_tasks is None:
            self._new_tasks = []
        self._new_tasks.append((async_fn, args, context))
        self._task.wake()

    # -- the reply channel's end

    async def deliver(self, content: dict[str, Any], /) -> None:
        """Act on one reply; see :class:`triochan.layers.Endpoint`."""
        reply = parse_websocket(content)
        if self.life.state is State.CONNECTING:
            assert self._opening is not None
            if reply.accept is False or (reply.accept is None and reply.data is None):
                why = (
                    "it was closed before it was accepted"
                    if reply.close
                    else "its channel was sent accept: False"
                )
                self._opening.deny(403, b"Forbidden", why=why)
                return
            self._opening.accept(reply.subprotocol, reply.headers or [])
        elif reply.accept is False:
            raise ValueError("the handshake was accepted already; close the socket instead")
        if reply.data is not None:
            try:
                await self.outbox.put(self.outbox.encode(reply.data))
            except ConnectionClosed:
                if not self._pass_over():
                    raise
        if reply.close is not None:
            self.close(reply.close, reply.reason)

    def try_deliver(self, content: dict[str, Any], /) -> bool:
        """The same where nothing has to wait."""
        reply = parse_websocket(content)
        if self.life.state is not State.OPEN or reply.accept is not None:
            return False
        if reply.data is not None and not self.send_nowait(reply.data):
            return False
        if reply.close is not None:
            self.close(reply.close, reply.reason)
        return True

    def deliver_nowait(self, content: dict[str, Any], /) -> None:
        """The same for a member of a group."""
        reply = parse_websocket(content)
        if reply.data is not None:
            self.outbox.offer(self.outbox.encode(reply.data))
        if reply.close is not None:
            self.close(reply.close, reply.reason)

    async def room(self) -> None:
        """Wait while the outbox is full.

        Raises:
            ConnectionClosed: the peer is gone.
        """
        await self.outbox.room()

    def deliver_whole(self, content: dict[str, Any], /) -> None:
        """As :meth:`deliver_nowait`, past every limit: an answer of the connection's own, which has waited for
        :meth:`room`.

        While connecting it does not accept, and leaves when ``connect`` has returned.
        """
        reply = parse_websocket(content)
        if reply.data is not None:
            self.outbox.put_whole(self.outbox.encode(reply.data))
        if reply.close is not None:
            self.close(reply.close, reply.reason)

    # -- told by the opening

    def _accept(self) -> None:
        assert self._opening is not None
        self._opening.accept(None, [])

    def opened(self) -> None:
        runtime = self._runtime
        runtime.websockets[self] = None
        if runtime.settings.ping_interval:
            self._ping = runtime.timers.after(runtime.settings.ping_interval, self._ping_due)
        if runtime.draining:
            self.drain()

    def refused(self, status: int) -> None:
        self._runtime.layer.detach(self)
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
        self._see_off()

    def returned(self) -> None:
        self._opening = None

    # -- told by the inbound half and the outbox

    def match(self, message: Message) -> Bound | None:
        try:
            found = self._runtime.router.match(message, opening=self._opening_content)
        except Exception as error:  # noqa: BLE001 - the program's
            self._route_raised(message, error)
            if self.life.accepted:
                self._perform(self.life.step(Event.CLOSE, 1011, "internal error"))
            return None
        return None if found is None else self._runtime.bind(found, message.channel)

    def _route_raised(self, message: Message, error: Exception) -> None:
        report(logger, "a route raised in %s on %r", message.channel.name, self.path, error=error)

    def peer_closed(self, code: int, reason: str) -> None:
        self._perform(self.life.step(Event.PEER_CLOSE, code, reason))

    def failed(self, code: int, reason: str) -> None:
        self._perform(self.life.step(Event.FAIL, code, reason))

    def lost(self) -> None:
        if self.life.state is State.REFUSED:
            self._cut()
        else:
            self._perform(self.life.step(Event.LOSE, 1006))

    broken = lost

    def crashed(self, consumer: Consumer, what: str, error: Exception) -> None:
        if what in ("connect", "receive") and only(error, LayerUnavailable):
            # The layer has told the log of it; to close the connection would be no help.
            say(
                logger,
                logging.INFO,
                "%s broke off in %s on %r: %s",
                name_of(consumer),
                what,
                self.path,
                error,
            )
            return
        report(logger, "%s raised in %s on %r", name_of(consumer), what, self.path, error=error)
        if self.life.accepted:
            self._perform(self.life.step(Event.CLOSE, 1011, "internal error"))

    def overflowed(self) -> None:
        if self.life.state is State.CONNECTING and self._opening is not None:
            logger.warning(
                "groups sent over %d bytes to %r before its connect had returned; 503",
                2 * self.outbox.limit,
                self.path,
            )
            self._opening.overflowed()
        elif self.life.talking:
            logger.warning(
                "the peer on %r does not read: over %d bytes wait; 1013", self.path, self.outbox.limit
            )
            self._perform(self.life.step(Event.FAIL, 1013, "the peer reads too slowly"), discard=True)

    def drained(self) -> None:
        """What was to leave has left."""
        self.outbox.watched = False
        if self.life.state is State.ANSWERED:
            self.lost()
        elif self.life.state in (State.FAILING, State.REFUSED):
            self._linger()
        elif self.life.state is State.OPEN:
            self.again()  # reading may have paused for it
        elif self.life.state is State.DRAINING and not self.inbound.busy:
            self.idle()

    def idle(self) -> None:
        if self.life.state is State.DRAINING:
            if self.outbox.size:
                # close_timeout bounds the close frame, not the answers before it. No more comes to them.
                self.outbox.seal(1001, "going away")
                self.outbox.watched = True
            else:
                self._perform(self.life.step(Event.CLOSE, 1001, "going away"))
        elif self.over:
            self._task.wake()

    def again(self) -> None:
        self._runtime.readers.again(self.inbound if self._opening is None else self._opening)

    def after(self, seconds: float, callback: Callable[[], None]) -> Callable[[], None]:
        return self._runtime.timers.after(seconds, callback).cancel

    def drain(self) -> None:
        """A shutdown: take no new messages; when what was received is answered, close with 1001."""
        if self.life.state is State.OPEN:
            self.life.step(Event.DRAIN)
            self.inbound.drain()
            if not self.inbound.busy:
                self.idle()
            if not self.life.code:
                now, deadline = trio.current_time(), self._runtime.deadline
                # What is left then is disconnect's.
                share = min(self._runtime.settings.disconnect_timeout, (deadline - now) / 2)
                self._timer = self._runtime.timers.at(deadline - share, self._drained_too_slowly)
                # No pong is read any more. A peer that takes its answers is there.
                if self._ping is not None:
                    self._ping.cancel()
                self._look_at_taking()

    def layer_gap(self, seconds: float) -> None:
        """Messages to its groups may have been missed: its consumer's ``layer_gap`` runs, where it has one."""
        if self._local is not None:
            self._local.gap()
        if not self.life.talking:
            return
        bound = self.inbound.bound
        if bound is None:
            bound = self.match(Message({"path": self.path}, RECEIVE))
        if bound is not None and isinstance(bound.consumer, type) and hasattr(bound.consumer, "layer_gap"):
            self.start_soon(self._run_layer_gap, bound.consumer, bound.kwargs, seconds)

    async def _run_layer_gap(self, consumer: Consumer, kwargs: dict[str, Any], seconds: float) -> None:
        begin = self._runtime.bind((consumer, kwargs), GAP).begin
        message = Message({"path": self.path, "seconds": seconds}, GAP, self.channel, self)
        assert begin is not None
        await call(begin, message, kwargs, self._runtime.settings.handler_timeout)

    def _look_at_taking(self) -> None:
        self._note_backlog()
        self._ping = self._runtime.timers.after(self._runtime.settings.close_timeout, self._taking_due)

    def _taking_due(self) -> None:
        """A peer that takes nothing of its answers for a while does not hold up a shutdown."""
        if self.life.state is not State.DRAINING:
            return
        if self.outbox.size and not self._takes():
            if self.over:
                return
            logger.warning("the peer on %r does not read what it is owed in a shutdown; 1001", self.path)
            self._perform(self.life.step(Event.FAIL, 1001, "going away"), discard=True)
        else:
            self._look_at_taking()

    def _drained_too_slowly(self) -> None:
        if self.life.state is State.DRAINING:
            logger.error(
                "the shutdown cuts off %d handlers on %r, and %d bytes of answers",
                self.inbound.running,
                self.path,
                self.outbox.size,
            )
            self._runtime.cut_short = True
            self.inbound.cancel(cut=True)
            self._perform(self.life.step(Event.CLOSE, 1001, "going away"))

    # -- what life orders

    def _perform(self, order: Order, *, discard: bool = False) -> None:
        if order is Order.NOTHING:
            return
        life, outbox = self.life, self.outbox
        outbox.seal(life.code, life.reason, discard=discard)
        if order is Order.CUT:
            self._cut()
            return
        outbox.watched = order is Order.ANSWER or life.state is State.FAILING
        outbox.put_control(close_frame(life.code, life.reason))
        if life.state is State.FAILING:
            self._see_off()
            return
        self.inbound.listen()
        self._bound_end(self._runtime.settings.close_timeout)
        if order is Order.ANSWER and not outbox.size:
            self.drained()

    def _see_off(self) -> None:
        """The last words are on their way; what still comes is not looked at."""
        self.inbound.drop()
        self._bound_end(self._runtime.settings.close_timeout)
        if self.outbox.size:
            self.outbox.watched = True
        else:
            self._linger()

    def _linger(self) -> None:
        self._transport.send_eof()
        self._bound_end(min(LINGER_SECONDS, self._runtime.settings.close_timeout))

    def _bound_end(self, seconds: float) -> None:
        """Be gone in ``seconds`` at the latest."""
        if not self.over:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._runtime.timers.after(seconds, self._end_due)

    def _end_due(self) -> None:
        """Read what has come before this is the end: the peer's close may lie unread, and closing would be a reset."""
        if self._transport.unread():
            self.again()
            self._timer = self._runtime.timers.after(0, self.lost)
        else:
            self.lost()

    def _cut(self) -> None:
        """Nothing comes or goes any more: tell everything that waits for it. Again is no error."""
        if self.over:
            return
        self.over = True
        runtime, life, inbound = self._runtime, self.life, self.inbound
        self.outbox.close(life.code, life.reason)
        self._transport.close()
        inbound.stop()
        for timer in (self._timer, self._ping):
            if timer is not None:
                timer.cancel()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
        if self._policy.cancel_on_disconnect:
            inbound.cancel()
        elif inbound.busy:
            now = trio.current_time()
            # In a shutdown, half of what is left: the other half is disconnect's.
            self._idle_until = min(now + runtime.settings.disconnect_timeout, (now + runtime.deadline) / 2)
            inbound.end_by(self._idle_until)
        self._task.wake()

    # -- pings

    def _ping_due(self) -> None:
        settings = self._runtime.settings
        if self.life.talking:
            self.inbound.heard = False
            self.outbox.put_control(ping_frame(os.urandom(4)))
            self._note_backlog()
            self._ping = self._runtime.timers.after(
                min(settings.ping_interval, settings.ping_timeout), self._next_ping_due
            )

    def _next_ping_due(self) -> None:
        """Pings are ``ping_interval`` apart, as proxies with time-outs of their own need them; and where no answer came
        by then, it has the rest of ``ping_timeout``."""
        settings = self._runtime.settings
        rest = settings.ping_timeout - settings.ping_interval
        if rest <= 0 or self.inbound.heard or self.inbound.paused:
            self._pong_due()
        else:
            self._ping = self._runtime.timers.after(rest, self._pong_due)

    def _pong_due(self) -> None:
        """A peer is lost only if nothing came from it, the ping had left, and the server had its chance to read."""
        timers, settings = self._runtime.timers, self._runtime.settings
        if not self.life.talking:
            return  # close_timeout bounds what is left
        if self.inbound.heard or self.inbound.paused:
            rest = settings.ping_interval - settings.ping_timeout
            if rest > 0:
                self._ping = timers.after(rest, self._ping_due)
            else:
                self._ping_due()
        elif self._takes():
            self._ping = timers.after(settings.ping_timeout, self._pong_due)
        elif not self.over:
            # A pong may lie unread, where something has kept the loop until now.
            self.again()
            self._ping = timers.after(0, partial(self._no_pong, self._transport.turns))

    def _no_pong(self, turns: int) -> None:
        if not self.life.talking or self.inbound.heard:
            self._pong_due()
        elif self._transport.unread():
            # The readers have much to do, and come to it in their turn.
            self._ping = self._runtime.timers.after(self._runtime.settings.ping_interval, self._ping_due)
        elif turns > 1:
            self._ping = self._runtime.timers.after(0, partial(self._no_pong, turns - 1))
        else:
            seconds = self._runtime.settings.ping_timeout
            say(logger, logging.DEBUG, "no pong came on %r within %g s; 1006", self.path, seconds)
            self._perform(self.life.step(Event.LOSE, 1006, "no pong came"))

    def _note_backlog(self) -> None:
        """Note how much lies before a ping's answer: in the outbox, and in the system where the peer's has not
        acknowledged it; and how far the peer has come."""
        unacknowledged, made = self._transport.unacknowledged(), self._transport.room_made()
        self._taken = self.outbox.sent - unacknowledged if made is None else made
        self._behind = self.outbox.size + (unacknowledged if unacknowledged > _SMALL_BACKLOG else 0)

    def _takes(self) -> bool:
        """There is a backlog, or was one when it was noted, and the peer has taken something since, or takes it now.
        It is noted anew.

        Something may have kept the loop from writing.
        """
        self.outbox.writable()
        taken, behind = self._taken, self._behind
        self._note_backlog()
        took = self._taken - taken
        if behind and took > _SMALL_BACKLOG:
            # What has left us may lie in the peer's own system still, where its program comes to it in its turn.
            self._behind = max(self._behind, 1)
        return (behind > 0 or self.outbox.size > 0) and took > 0

    # -- its own task

    @property
    def asks(self) -> bool:
        return bool(self._new_tasks)

    async def attend(self) -> None:
        """Hold the program's tasks in a nursery, which few connections need."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            tasks, self._new_tasks = self._new_tasks or [], None
            for async_fn, args, context in tasks:
                nursery.start_soon(self._run_task, async_fn, args, context, name=async_fn)
            try:
                while not self.over:
                    await self._task.park()
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()

    async def _run_task(
        self, async_fn: Callable[..., Awaitable[object]], args: tuple[Any, ...], context: Context
    ) -> None:
        async def begin() -> None:
            await async_fn(*args)

        with Barrier(partial(self.crashed, async_fn, "a task of the connection")):
            await enclosed(begin(), context)

    @property
    def owes(self) -> bool:
        inbound, matches = self.inbound, self._matches
        if not self.over or inbound.busy or inbound.waiting:
            return True
        if not self.life.accepted or matches is None:
            return False
        if matches.disconnect is None:
            return True
        try:  # many consumers leave disconnect as it is
            self._goodbye = self._runtime.bind(matches.disconnect, DISCONNECT)
            return self._goodbye.begin is not None
        except Exception:  # noqa: BLE001 - finish() raises it again, behind all that is owed
            return True

    async def finish(self) -> None:
        """See handlers off, run ``disconnect``, and leave nothing."""
        runtime, life, inbound = self._runtime, self.life, self.inbound
        try:
            if not self.over:  # cancelled from outside
                inbound.cancel(cut=True)
                if life.talking:  # the peer is told, if there is room for it
                    self._perform(life.step(Event.CLOSE, 1001, "going away"))
                order = life.step(Event.LOSE, 1001, "going away")
                if order is Order.NOTHING:
                    self._cut()
                self._perform(order)
            inbound.watched = True
            if inbound.busy:
                with trio.move_on_at(self._idle_until):
                    while inbound.busy:
                        await self._task.park()
            if inbound.busy or inbound.waiting:
                waiting = inbound.waiting
                inbound.cancel()
                if waiting:
                    logger.error("%d messages on %r were not handled before its end", waiting, self.path)
                while inbound.busy:
                    await self._task.park()
            if life.accepted:
                await self._run_disconnect()
        finally:
            runtime.layer.detach(self)
            if self._local is not None:
                self._local.end()
            runtime.websockets.pop(self, None)
            self.outbox.detach()
            inbound.detach()
            self._opening = None

    async def _run_disconnect(self) -> None:
        runtime, life = self._runtime, self.life
        content = {
            "path": self.path,
            "order": self.inbound.order + 1,
            "code": life.code,
            "reason": life.reason,
        }
        message = Message(content, DISCONNECT, self.channel, self)
        bound = self._match_disconnect(message)
        if bound is None or bound.begin is None:
            return
        deadline = min(trio.current_time() + runtime.settings.disconnect_timeout, runtime.deadline)
        error: Exception | None = None
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            token = _ending.set(self.channel)
            try:
                await call(bound.begin, message, bound.kwargs)
            except BaseException as raised:  # noqa: ASYNC103, BLE001 - parted() says what has to go on
                error, others = parted(raised)
                if others is not None:
                    raise others from None  # noqa: ASYNC104 - a cancellation goes on
            finally:
                _ending.reset(token)
        if scope.cancelled_caught:
            logger.error(
                "%s on %r was cancelled: disconnect took too long",
                name_of(bound.consumer),
                self.path,
                exc_info=error,
            )
        elif error is not None and only(error, ConnectionClosed):
            # Not this one's: those are passed over. So something behind it has not been done.
            logger.warning("%s on %r: disconnect broke off, %s", name_of(bound.consumer), self.path, error)
        elif error is not None:
            self.crashed(bound.consumer, "disconnect", error)
        if error is not None:
            forget(error)

    def _match_disconnect(self, message: Message) -> Bound | None:
        """Who takes ``disconnect``; where a route raises, the class that took ``connect``, if it takes this too."""
        if self._goodbye is not None:  # found in this very step: nothing has been patched since
            return self._goodbye
        matches = self._matches
        assert matches is not None
        match = matches.disconnect
        if match is None:
            try:
                match = self._runtime.router.match(message, opening=self._opening_content)
            except Exception as error:  # noqa: BLE001 - told where nothing stands in
                if matches.connect and DISCONNECT.name in getattr(matches.connect[0], "method_mapping", ()):
                    match = matches.connect
                else:
                    self._route_raised(message, error)
        return None if match is None else self._runtime.bind(match, DISCONNECT)

    def _pass_over(self) -> bool:
        """What is sent now can't reach anybody, and its sender knows: it is the connection's own ``disconnect``."""
        if _ending.get() is not self.channel:
            return False
        logger.debug("sent in disconnect on %r: nobody gets it", self.path)
        return True

"""One WebSocket's life: the opening handshake, the program's side of it, teardown.

Below it stand the inbound half (:mod:`triochan.dispatch`) and the end (:mod:`triochan.closing`); what goes out is in
:mod:`triochan.wire.outbox`.

Nurseries: ``wire`` holds trio-websocket's reader, the flusher, pings and the closing handshake; within it, ``handlers``
holds whatever runs the program's code. ``disconnect`` runs when the inner one has ended, however it ended.
"""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import trio

from .closing import State
from .control import Control, ControlStream
from .dispatch import Dispatch
from .exceptions import ConnectionClosed, DenyConnection
from .handlers import nothing, only, run_inline, start
from .headers import Headers
from .layers import Local
from .message import Message
from .replies import check_close, parse_websocket
from .routing import Match, name_of
from .runtime import CONNECT, DISCONNECT
from .wire.frames import encode
from .wire.outbox import Outbox

if TYPE_CHECKING:
    from .application import Application
    from .runtime import Runtime
    from .wire.handshake import Upgrade
    from .wire.transport import Transport

logger = logging.getLogger("triochan.connection")


class Connection(Dispatch):
    """A live WebSocket, as ``message.connection`` and ``self.connection`` show it.

    Attributes:
        channel: its reply channel.
        path: the request's path, percent-decoded.
        client: the peer's address, ``[host, port]``, or None.
        state: a namespace of the connection's own, for the program to use.
        close_code, close_reason: how it ended, once it has.
    """

    __slots__ = (
        "__weakref__", "_client", "_connect_waiting", "_decision", "_denied", "_disconnect_match",
        "_headers", "_local", "_namespace", "_subprotocol", "_upgrade",
    )  # fmt: skip

    def __init__(self, upgrade: Upgrade, transport: Transport, runtime: Runtime) -> None:
        super().__init__(upgrade.content["path"], transport, runtime, upgrade.rest)
        self._upgrade: Upgrade | None = upgrade
        self._client = upgrade.content.get("client")
        self._namespace: SimpleNamespace | None = None
        self._local: Local | None = None
        # The handshake: what was decided, to be written when connect has returned or waits.
        self._denied: tuple[int, Headers, bytes] | None = None
        self._subprotocol: str | None = None
        self._headers: Headers = []
        self._decision: trio.CancelScope | None = None
        self._connect_waiting = False
        self._disconnect_match: Match | None = None
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

    async def send(self, data: str | bytes) -> None:
        """Send one message, text for a ``str``, waiting while the outbox is full; while connecting, accept first.

        No checkpoint where nothing waits: an answer that the socket takes at once costs no task switch.

        Raises:
            ConnectionClosed: the peer is gone, or the socket is closing.
        """
        frame = encode(data)
        if self._state is State.CONNECTING:
            self._accept(None, [])
        await self.outbox.put(frame)

    def send_nowait(self, data: str | bytes) -> bool:
        """Send one message if the socket takes it, or its tail can wait, at once; False: nothing was done.

        Raises:
            ValueError: the text has a lone surrogate.
        """
        return self.outbox.send_direct(encode(data))

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

    @property
    def local(self) -> Local:
        if self._local is None:
            self._local = Local()
        return self._local

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
                        await self._finish()  # noqa: ASYNC102 - shielded and bounded where it calls the program
                if self._denied is not None:
                    await self._refuse(*self._denied)
                wire.cancel_scope.cancel()
        finally:
            self._state = State.CLOSED
            runtime.layer.detach(self)
            runtime.keepalive.forget(self)
            runtime.websockets.pop(self, None)
            self._transport.close()
            self._let_go()

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
                logger.error("%s on %r did not accept within %g s", name_of(consumer), self.path, timeout)
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
        self._runtime.layer.detach(self)
        self._cancel_tasks()

    def _overflowed(self) -> None:
        super()._overflowed()
        if (
            self._state is State.CONNECTING
        ):  # nothing can be closed yet: refuse, and let connect wait no longer
            self._deny(503, b"Service Unavailable", [(b"Retry-After", b"1")])
            if self._decision is not None:
                self._decision.cancel()

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
            await self._control.reject(
                status, [content_type, (b"Connection", b"close"), *headers], body + b"\n"
            )
            self.outbox.release()
            try:
                await self.outbox.drained()
            except ConnectionClosed:
                return
            await self._linger()

    # -- the end

    def _let_go(self) -> None:
        """Break the circles, so that the connection is freed now, not when the garbage collector comes."""
        for name in ("_control", "_wire", "_handlers"):
            if hasattr(self, name):
                delattr(self, name)
        if hasattr(self, "outbox"):
            self.outbox.detach()

    async def _finish(self) -> None:
        """Run ``disconnect``, shielded and bounded, after everything else; then see the closing handshake out."""
        settings = self._runtime.settings
        now = trio.current_time()
        if self._state is State.OPEN:  # cancelled from outside
            self._verdict = (1001, "going away")
            self._gone()
        if self._waiting:
            logger.error("%d messages on %r were not handled before its end", self._waiting, self.path)
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
                logger.error("%s on %r was cancelled: disconnect took too long", name_of(consumer), self.path)
        try:
            if self._state is not State.CLOSED:
                with trio.move_on_after(settings.close_timeout):
                    await self._end().wait()
        finally:
            self._gone()

"""How a WebSocket opens: ``connect`` runs, the handshake is decided and answered. Freed when that is done.

The answer is written when ``connect`` has returned or first waits, so that the handshake and the first messages leave
in one write.
"""

from __future__ import annotations

import logging
import math
from typing import Protocol

import trio

from ..exceptions import ConnectionClosed, DenyConnection, HttpError, LayerUnavailable
from ..handlers import Bound, Held, begin, first_of, forget, only, parted
from ..headers import Headers, check_headers
from ..layers import ReplyChannel
from ..log_lines import say, told
from ..message import Message
from ..routing import Consumer, name_of
from ..settings import Settings
from ..wire.deflate import Agreement, negotiate
from ..wire.handshake import Upgrade, accept_response, refuse_response
from ..wire.outbox import Outbox
from .inbound import Inbound
from .life import Event, Life, State

logger = logging.getLogger("triochan.connection")

_LATER: Headers = [(b"Retry-After", b"1")]


class Owner(Protocol):
    """The connection, as far as its opening needs it."""

    @property
    def life(self) -> Life: ...

    @property
    def outbox(self) -> Outbox: ...

    @property
    def inbound(self) -> Inbound: ...

    @property
    def channel(self) -> ReplyChannel: ...

    @property
    def path(self) -> str: ...

    def opened(self) -> None:
        """The handshake was accepted, and that is answered."""

    def refused(self, status: int) -> None:
        """It was refused, and that is answered."""

    def returned(self) -> None:
        """``connect`` has returned."""

    def crashed(self, consumer: Consumer, what: str, error: Exception) -> None:
        """``connect`` has raised."""

    def again(self) -> None:
        """Let a reader call :meth:`Inbound.proceed` in a moment."""


class Opening:
    """The opening handshake of one connection.

    Args:
        owner: the connection.
        upgrade: what the client asks for.
        settings: the server's.
        compression: messages may be compressed, if the client offers it.
    """

    __slots__ = (
        "_agreement", "_answered", "_compression", "_deadline", "_owner", "_response", "_scope", "_settings",
        "_upgrade", "_waits",
    )  # fmt: skip

    waits = False

    def __init__(self, owner: Owner, upgrade: Upgrade, settings: Settings, *, compression: bool) -> None:
        self._owner = owner
        self._upgrade = upgrade
        self._settings = settings
        self._compression = compression
        self._agreement: Agreement | None = None
        self._response = b""
        self._answered = False
        self._waits = False
        self._deadline = math.inf
        self._scope: trio.CancelScope | None = None

    def begin(self, bound: Bound | None, message: Message) -> Held | None:
        """Run ``connect``, whose consumer is ``bound``; what is held where it waits."""
        if bound is None:
            self.deny(403, b"Forbidden")
            return None
        if bound.begin is None:
            self.accept(None, [])
            self._end(bound.consumer, None, cancelled=False)
            return self.proceed()
        inbound = self._owner.inbound
        inbound.running += 1
        self._deadline = trio.current_time() + self._settings.handshake_timeout
        held, _, error = begin(self, bound, message)
        if held is not None:
            self._waits = True
            self._owner.again()
            return held
        inbound.running -= 1
        self._end(bound.consumer, None if error is None else parted(error)[0], cancelled=False)
        if error is not None:
            forget(error)
        return self.proceed()

    # -- for the one that awaits it

    def hold(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        scope.deadline = self._deadline
        self._owner.inbound.hold(scope)

    def release(
        self, scope: trio.CancelScope, consumer: Consumer, result: object, error: BaseException | None
    ) -> None:
        self._scope = None
        mine, others = (None, None) if error is None else parted(error)
        inbound = self._owner.inbound
        inbound.gated = False
        if error is not None:
            inbound.tell_cut(scope, consumer, "connect", error)
        self._end(consumer, mine, cancelled=others is not None)
        inbound.release(scope, consumer, None, None)

    def proceed(self) -> Held | None:
        """Answer what was decided, and go on with what has come meanwhile."""
        self._answer()
        return self._owner.inbound.proceed()

    def internal_error(self, error: Exception) -> None:
        self._owner.inbound.internal_error(error)

    # -- decisions

    def accept(self, subprotocol: str | None, headers: Headers) -> None:
        """Decide to accept.

        Raises:
            ValueError: a subprotocol that the client does not offer, or a header that is the handshake's own.
        """
        if self._compression and self._upgrade.extensions:
            # A message that a policy drops can't be referred to by the next one.
            takeover = self._owner.outbox.overflow == "close"
            self._agreement = negotiate(self._upgrade.extensions, context_takeover=takeover)
        self._response = accept_response(self._upgrade, subprotocol, headers, self._agreement)
        self._owner.life.step(Event.ACCEPT)
        timeout = self._settings.handler_timeout
        self._deadline = math.inf if timeout is None else trio.current_time() + timeout
        if self._scope is not None:
            self._scope.deadline = self._deadline
        if self._waits:
            self._answer()
            self._owner.again()

    def deny(self, status: int, body: bytes, headers: Headers | None = None, *, why: str = "") -> None:
        """Refuse, and say so; ``disconnect`` is not called, and what the handler still sends is refused too.

        Args:
            why: for the log; nothing where it has been told.
        """
        owner = self._owner
        if why:
            say(logger, logging.DEBUG, "a handshake on %r is refused: %s; %d", owner.path, why, status)
        owner.life.step(Event.REFUSE, 1006, "the handshake was refused")
        owner.outbox.seal(1006, "the handshake was refused", discard=True)
        self._answered = True
        owner.outbox.put_first(refuse_response(status, headers or [], body + b"\n"))
        owner.outbox.release()
        owner.refused(status)

    def overflowed(self) -> None:
        """Groups have sent more than may wait for a socket that is not open: refuse, and cancel ``connect``."""
        self.deny(503, b"Service Unavailable", _LATER)
        if self._scope is not None:
            self._scope.cancel()

    # -- underneath

    def _answer(self) -> None:
        """Answer a handshake that was accepted, with what was sent meanwhile."""
        owner = self._owner
        if self._answered or not owner.life.accepted or owner.life.over:
            return
        self._answered = True
        owner.outbox.put_first(self._response)
        owner.outbox.agreement = self._agreement
        owner.outbox.threshold = self._settings.compression_threshold
        owner.inbound.open(self._agreement)
        owner.outbox.release()
        owner.opened()

    def _end(self, consumer: Consumer, error: Exception | None, *, cancelled: bool) -> None:
        """``connect`` has ended: see that the handshake is decided."""
        owner = self._owner
        life = owner.life
        owner.inbound.gated = False
        # An error that takes the place of the cancellation is none of its own.
        too_slow = (cancelled or error is not None) and trio.current_time() >= self._deadline
        if too_slow and error is None and life.talking:
            error = trio.TooSlowError()
        if error is not None and life.state is State.CONNECTING and only(error, DenyConnection):
            self.deny(403, b"Forbidden", why=f"{name_of(consumer)} raised DenyConnection")
        elif (
            error is not None
            and life.state is State.CONNECTING
            and (answer := first_of(error, HttpError)) is not None
        ):
            why = f"{name_of(consumer)} raised HttpError {told(answer.text)}"
            self.deny(answer.status, answer.text.encode(), check_headers(answer.headers), why=why)
        elif error is not None and life.state is State.CONNECTING and only(error, LayerUnavailable):
            logger.warning("%s on %r could not connect: %s; 503", name_of(consumer), owner.path, error)
            self.deny(503, b"Service Unavailable", _LATER)
        elif too_slow and life.state is State.CONNECTING:
            logger.error(
                "%s on %r did not accept within %g s; 503",
                name_of(consumer),
                owner.path,
                self._settings.handshake_timeout,
                exc_info=error,  # what it raised when it was cancelled
            )
        elif error is not None and (life.state is State.CONNECTING or not only(error, ConnectionClosed)):
            # A ConnectionClosed is another connection's here: what connect had still to do or to refuse is not done.
            owner.crashed(consumer, "connect", error)
            if life.state is State.CONNECTING and not cancelled:
                self.deny(500, b"Internal Server Error")
        elif error is not None and life.state is State.OPEN:
            logger.warning(
                "%s broke off in connect on %r, which stays open: it sent to another connection, which is gone: %s",
                name_of(consumer),
                owner.path,
                error,
            )
        if life.state is State.CONNECTING:
            if cancelled or too_slow:
                self.deny(503, b"Service Unavailable", _LATER)
            else:
                self.accept(None, [])
        if life.talking:
            owner.outbox.opened()
        owner.returned()

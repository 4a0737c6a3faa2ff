"""What stands behind the reply channel of one HTTP request: its consumer runs, and its response is made."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio

from ..exceptions import ConnectionClosed, LayerUnavailable
from ..handlers import Bound, Held, begin, cancelled, forget, only, parted, report
from ..layers import ChannelLayer, Local
from ..message import Message
from ..replies import LATER, Refusal, parse_http
from ..routing import Consumer, name_of
from .writer import ResponseWriter

logger = logging.getLogger("triochan.http")


class Owner(Protocol):
    """The HTTP connection, as far as one response needs it."""

    def write(self, data: bytes) -> None:
        """Send bytes of the response; never waits."""

    @property
    def full(self) -> bool:
        """The client has to take some of them first."""

    async def room(self) -> None:
        """Wait until the client has taken enough of them; ConnectionClosed where it is gone."""

    def broke_off(self) -> None:
        """The response can't be ended: the client has to see that it is not whole."""

    def patient(self, seconds: float) -> None:
        """Nobody answers yet: give up on it in ``seconds``."""

    def responded(self) -> None:
        """The response is complete, and its consumer has ended."""

    def proceed(self) -> Held | None:
        """Go on with the next request."""


class Exchange:
    """One request and its response in the making: pieces come in from wherever its consumer runs.

    Args:
        owner: the connection.
        layer: gives it its reply channel.
        writer: makes bytes of the response.

    Attributes:
        channel: its reply channel.
        started, complete: the first piece has come; so has the last.
        dropped: pieces of group sends that could not be sent.
        on_start: called one after the other with the first piece, return it with what has to be in it.
        running: the consumer has begun, and not ended.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_consumer",
        "_deadline",
        "_layer",
        "_local",
        "_owner",
        "_path",
        "_patience",
        "_scope",
        "_writer",
        "channel",
        "dropped",
        "on_start",
        "running",
    )  # fmt: skip

    waits = False
    outbox = None
    close_code = None
    close_reason = "the response is over"

    def __init__(self, owner: Owner, layer: ChannelLayer, writer: ResponseWriter) -> None:
        self._owner = owner
        self._layer = layer
        self._writer = writer
        self._path: object = None
        self._consumer: Consumer | None = None
        self._closed = False
        self._local: Local | None = None
        self._scope: trio.CancelScope | None = None
        self._deadline = math.inf
        self._patience = 0.0
        self.dropped = 0
        self.on_start: list[Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = []
        self.running = False
        self.channel = layer.attach("http.response", self)

    @property
    def local(self) -> Local:
        """What rooms of the framework keep with the request."""
        if self._local is None:
            self._local = Local()
        return self._local

    @property
    def started(self) -> bool:
        return self._writer.started

    @property
    def complete(self) -> bool:
        return self._writer.complete

    @property
    def keeps_alive(self) -> bool:
        """Another request may follow on the connection; known once the response is complete."""
        return self._writer.keep_alive

    @property
    def ends_with_connection(self) -> bool:
        """Nothing but the end of the connection will say where the response ends."""
        return self._writer.ends_with_connection

    def be_last(self) -> None:
        """No other request is answered on the connection; the client is told, if it can be (RFC 9112 section 9.6)."""
        if not self.started:
            self._writer.keep_alive = False

    # -- its consumer

    def begin(
        self, bound: Bound, message: Message, timeout: float | None, response_timeout: float
    ) -> Held | None:
        """Run the consumer until it waits.

        Args:
            timeout: seconds that it may take; None: no limit.
            response_timeout: seconds for another to answer, once it has returned without.
        """
        self._path = message.own["path"]
        self._patience = response_timeout
        self.running = True
        held, result, error = begin(self, bound, message, timeout)
        if held is None:
            self._ended(bound.consumer, result, error)
            if error is not None:
                forget(error)
        return held

    def hold(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        scope.deadline = min(scope.deadline, self._deadline)

    def release(
        self, scope: trio.CancelScope, consumer: Consumer, result: object, error: BaseException | None
    ) -> None:
        self._scope = None
        # Where the client is gone, or its time is up, its own deadline has come.
        if error is not None and cancelled(error) and trio.current_time() < self._deadline:
            logger.warning("the shutdown cut off %s in http.request on %r", name_of(consumer), self._path)
        self._ended(consumer, result, error)

    def proceed(self) -> Held | None:
        return self._owner.proceed()

    def internal_error(self, error: Exception) -> None:
        self._owner.broke_off()

    def end_by(self, deadline: float) -> None:
        """The client is gone, or only listens: the consumer has until ``deadline``, on Trio's clock."""
        self._deadline = min(self._deadline, deadline)
        if self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, deadline)

    def cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    def _ended(self, consumer: Consumer, result: object, error: BaseException | None) -> None:
        self.running = False
        if error is None and (self._writer.complete or self._closed):
            self._finish()
            return
        mine, others = (None, None) if error is None else parted(error)
        # A ConnectionClosed is no error where the client is gone; else it is another connection's, which is as gone.
        crashed = mine is not None and (
            not only(mine, ConnectionClosed) or not (self._closed or self.complete)
        )
        away = crashed and mine is not None and only(mine, LayerUnavailable)
        if away:  # of which the layer has told the log
            logger.info("%s broke off in http.request on %r: %s", name_of(consumer), self._path, mine)
        elif crashed:
            assert mine is not None
            report(logger, "%s raised in http.request on %r", name_of(consumer), self._path, error=mine)
        if self.complete or self._closed:
            self._finish()
        elif self.started and (crashed or others is not None):
            self._owner.broke_off()
        elif away:
            self.answer(Refusal(503, "Service Unavailable", [(b"Retry-After", b"1")]))
        elif crashed or others is not None:
            self.answer(Refusal(500, "Internal Server Error"))
        elif result is LATER or self.channel.named:  # somebody else has the channel, or its name
            self._consumer = consumer
            if not self.started:
                self._owner.patient(self._patience)
        elif self.started:
            logger.error(
                "%s returned before the last piece of its response to http.request on %r, which breaks off: the last "
                "one has no more_content=True; where another task sends it, return triochan.http.LATER",
                name_of(consumer),
                self._path,
            )
            self._owner.broke_off()
        else:
            logger.error(
                "%s returned without an answer to http.request on %r; 500: it has to return a response, to send one to "
                "message.reply_channel, or to return triochan.http.LATER where another task answers",
                name_of(consumer),
                self._path,
            )
            self.answer(Refusal(500, "Internal Server Error"))

    def give_up(self) -> None:
        """Nobody has answered, and its consumer has returned: answer in their place."""
        logger.error(
            "%s did not answer http.request on %r, nor did another within %g s; 503",
            name_of(self._consumer),
            self._path,
            self._patience,
        )
        self.answer(Refusal(503, "No answer came in time"))

    # -- pieces

    async def deliver(self, content: dict[str, Any], /) -> None:
        if self.on_start and not self.started:
            parse_http(content, started=False)  # one that can't be sent is not the first
            hooks, self.on_start = self.on_start, []
            for hook in hooks:
                content = await hook(content)
                if not isinstance(content, dict):
                    raise TypeError(
                        f"{name_of(hook)}, given to before_response, returned {content!r:.100}; it returns the response"
                    )
        self._send(content)
        if self._owner.full:
            await self._owner.room()

    def try_deliver(self, content: dict[str, Any], /) -> bool:
        return False  # before_response may wait, and the client for room

    def deliver_nowait(self, content: dict[str, Any], /) -> None:
        if not (self._closed or self.complete):
            try:
                self._send(content)
                return
            except (ValueError, ConnectionClosed):
                pass  # what fits one response that is under way does not fit another; that fails no group send
            self.dropped += 1

    def answer(self, refusal: Refusal) -> None:
        """A response of the server's own, in the place of one that does not come."""
        self._owner.write(self._writer.refuse(refusal))
        self._finish()

    def close(self) -> None:
        """The response is over, one way or the other: later sends raise ConnectionClosed. Again is no error."""
        self._closed = True
        self._layer.detach(self)
        if self._local is not None:
            self._local.end()

    def _send(self, content: dict[str, Any]) -> None:
        writer = self._writer
        if writer.complete:
            raise ValueError("the response is complete: a piece without more_content=True is its last")
        if self._closed:
            raise ConnectionClosed(1006, "the client has gone, or the response broke off")
        reply = parse_http(content, started=writer.started)
        try:
            data = writer.write(reply)
        except ValueError as error:
            if writer.started:
                logger.error("the response on %r can't be sent as it is: %s", self._path, error)
                self._owner.broke_off()
            raise
        self._owner.write(data)
        if not self.running and self.complete:
            self._finish()

    def _finish(self) -> None:
        if not self.running:
            self.close()
            self._owner.responded()

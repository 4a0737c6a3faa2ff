"""A WebSocket with its lines in the access log, and what it counts for them; chosen where that is on."""

from __future__ import annotations

from typing import Any

import trio

from ..access import AccessLog, ClosedBy, RequestLine
from ..handlers import Held
from ..runtime import Runtime
from ..wire.counted import CountedOutbox
from ..wire.handshake import Upgrade
from .connection import Connection
from .life import Order

_BY: dict[Order, ClosedBy] = {Order.SEND: "server", Order.ANSWER: "client", Order.CUT: "lost"}


class LoggedConnection(Connection):
    """Writes a line when the handshake is answered, and one when the socket that it opened has ended.

    Messages that come are counted already, for their order. What else is counted costs a call and an addition for each
    read and each message that leaves.
    """

    __slots__ = ("_began", "_by", "_line", "_log", "_owed")

    outbox: CountedOutbox
    outbox_type = CountedOutbox

    def open(self, upgrade: Upgrade) -> Held | None:
        log = self._runtime.access
        assert log is not None
        self._log: AccessLog = log
        self._line = _line_of(upgrade.content)
        self._began = trio.current_time()
        self._by: ClosedBy | None = None
        self._owed = self._tell_unanswered
        self._transport.count()
        self._transport.received = len(upgrade.rest)
        return super().open(upgrade)

    def opened(self) -> None:
        now = trio.current_time()
        self._log.opened(self._line, 101, now - self._began)
        self._began = now
        self._owed = self._tell_closed
        super().opened()

    def refused(self, status: int) -> None:
        self._log.opened(self._line, status, trio.current_time() - self._began)
        self._owed = _nothing
        super().refused(status)

    def _perform(self, order: Order, *, discard: bool = False) -> None:
        if self._by is None:
            self._by = _BY.get(order)
        super()._perform(order, discard=discard)

    def _cut(self) -> None:
        super()._cut()
        owed, self._owed = self._owed, _nothing
        owed()

    def _tell_unanswered(self) -> None:
        self._log.opened(self._line, None, trio.current_time() - self._began)

    def _tell_closed(self) -> None:
        life = self.life
        self._log.closed(
            self._line,
            life.code,
            life.reason,
            self._by or "lost",
            trio.current_time() - self._began,
            received=(self.inbound.order, self._transport.received),
            sent=(self.outbox.messages, self.outbox.taken),
        )


def connection_type(runtime: Runtime) -> type[Connection]:
    """What a WebSocket of this server is: with lines in the access log, or without."""
    return Connection if runtime.access is None else LoggedConnection


def _line_of(content: dict[str, Any]) -> RequestLine:
    target = content["raw_path"]
    if content["query_string"]:
        target += b"?" + content["query_string"]
    return RequestLine(content["client"], "GET", target.decode("latin-1"), "1.1")


def _nothing() -> None:
    """No line is owed."""

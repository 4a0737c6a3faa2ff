"""An HTTP connection whose requests each have their line in the access log; chosen where that is on."""

from __future__ import annotations

import logging
from typing import Any

import trio

from ..access import AccessLog, Ended, RequestLine
from ..handlers import Held
from ..replies import Refusal
from ..runtime import Runtime
from ..websocket.logged import LoggedConnection
from ..wire.counted import CountedOutbox
from .parser import Request
from .protocol import HttpConnection


class LoggedHttpConnection(HttpConnection):
    """Notes a request when it has come whole, and writes its line when the last byte of the response has left, or when
    none will."""

    __slots__ = ("_answered", "_before", "_began", "_cause", "_heard_all", "_level", "_line", "_status")

    outbox: CountedOutbox
    outbox_type = CountedOutbox
    websocket_type = LoggedConnection

    def __init__(self, runtime: Runtime, *args: Any, **kwargs: Any) -> None:
        self._line: RequestLine | None = None  # that is owed
        self._status: int | None = None
        self._answered = False  # the last piece of the response is on its way
        self._began = 0.0
        self._before = 0  # bytes that the socket had taken by then
        self._cause: Ended = "server"  # of the end, should it come now
        self._level = logging.INFO
        self._heard_all: float | None = None  # when the client ended its half of the connection
        super().__init__(runtime, *args, **kwargs)

    @property
    def _log(self) -> AccessLog:
        log = self._runtime.access
        assert log is not None
        return log

    def _owe(self, line: RequestLine) -> None:
        self._line = line
        self._status = None
        self._answered = False
        self._level = logging.INFO
        self._began = trio.current_time()
        self._before = self.outbox.taken

    def _tell(self, ended: Ended) -> None:
        line, self._line = self._line, None
        if line is None:
            return
        now = trio.current_time()
        if self._heard_all is not None and now - self._heard_all >= self._runtime.settings.disconnect_timeout:
            ended = "client"  # it has hung up, and its consumer was cancelled for that
        sent = self.outbox.taken - self._before
        self._log.answered(line, self._status, sent, now - self._began, ended, level=self._level)

    # -- a request comes

    def _take(self, request: Request, content: dict[str, Any]) -> Held | None:
        target, version = request.target.decode("ascii"), request.http_version.decode("ascii")
        self._owe(RequestLine(content["client"], request.method, target, version))
        return super()._take(request, content)

    def _tell_health(self, request: Request) -> None:
        self._level = logging.DEBUG
        super()._tell_health(request)

    def _refuse(self, refusal: Refusal, why: str = "") -> None:
        if self._line is None or self._answered:
            self._tell("complete")
            method, target, version = self._parser.first_line or (None, None, None)
            self._owe(RequestLine(self._client, method, target, version))
        super()._refuse(refusal, why)

    # -- its response goes

    def write(self, data: bytes) -> None:
        super().write(data)
        if self._line is None or self.over:  # it was 100 Continue; or the client has gone meanwhile
            return
        if self._status is None:
            self._status = int(data[9:12])
        exchange = self._exchange
        if exchange is None or exchange.complete:
            self._answered = True
            if self.outbox.size:
                self.outbox.watched = True
            else:
                self._tell("complete")

    def drained(self) -> None:
        if self._answered:
            self._tell("complete")
        super().drained()

    # -- or nothing will

    def _end_of_stream(self) -> Held | None:
        if self._heard_all is None:
            self._heard_all = trio.current_time()
        return super()._end_of_stream()

    def lost(self) -> None:
        self._cause = "client"
        super().lost()

    def _close(self, *, clean: bool = True) -> None:
        if not self.over:
            self._tell(self._cause)
        super()._close(clean=clean)

    def _leave(self) -> None:
        self._line = None  # a WebSocket has lines of its own
        super()._leave()

"""What stands behind the reply channel of one HTTP request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from ..exceptions import ConnectionClosed
from ..layers import ChannelLayer, Local
from ..replies import HttpReply, parse_http

_PIECES = 16
"""Pieces of a response that may wait for the socket to take them."""


class ResponseEndpoint:
    """One response in the making: pieces come in from wherever its consumer runs, and are written by one task.

    Attributes:
        channel: its reply channel.
        pieces: what the writer takes from.
        started, complete: the first piece has come; so has the last.
        patience: the writer's wait for the first piece.
        consumed: set when the consumer has returned; ``crashed`` tells how.
        dropped: pieces of group sends that found no place.
        on_start: called once with the first piece, returns it with what has to be in it; None: nothing has to.
    """

    outbox = None
    close_code = None
    close_reason = "the response is over"

    def __init__(self, layer: ChannelLayer) -> None:
        self._send: trio.MemorySendChannel[HttpReply]
        self.pieces: trio.MemoryReceiveChannel[HttpReply]
        self._send, self.pieces = trio.open_memory_channel[HttpReply](_PIECES)
        self.started = False
        self.complete = False
        self.patience = trio.CancelScope()
        self.consumed = trio.Event()
        self.crashed = False
        self.dropped = 0
        self.on_start: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]] | None = None
        self._closed = False
        self._local: Local | None = None
        self.channel = layer.attach("http.response", self)

    @property
    def local(self) -> Local:
        if self._local is None:
            self._local = Local()
        return self._local

    async def deliver(self, content: dict[str, Any], /) -> None:
        if self.on_start is not None and not self.started:
            parse_http(content, started=False)  # one that can't be sent is not the first
            on_start, self.on_start = self.on_start, None
            content = await on_start(content)
        try:
            await self._send.send(self._parse(content))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ConnectionClosed(1006, "the client has gone, or the response broke off") from None

    def deliver_nowait(self, content: dict[str, Any], /) -> None:
        if self._closed or self.complete:
            return
        if self._send.statistics().current_buffer_used < _PIECES:
            try:
                self._send.send_nowait(self._parse(content))
                return
            except (ValueError, trio.ClosedResourceError):
                pass  # what fits one response that is under way does not fit another; that fails no group send
        self.dropped += 1

    def consumer_done(self, crashed: bool, response_timeout: float) -> None:
        """The consumer has returned: if it has not begun to answer, another may, for a while."""
        self.consumed.set()
        self.crashed = crashed
        if crashed and not self.complete:
            if self.started:
                self._send.close()  # the writer writes what came, and then breaks off
            else:
                self.patience.cancel()
        elif not self.started:
            self.patience.deadline = trio.current_time() + response_timeout

    def close(self) -> None:
        """The response is over, one way or the other: later sends raise ConnectionClosed."""
        self._closed = True
        self.pieces.close()

    def _parse(self, content: dict[str, Any]) -> HttpReply:
        if self.complete:
            raise ValueError("the response is complete: a piece without more_content=True is its last")
        if self._closed:
            raise ConnectionClosed(1006, "the client has gone")
        reply = parse_http(content, started=self.started)
        if not self.started:
            self.patience.deadline = float("inf")
        self.started = True
        self.complete = not reply.more_content
        return reply

"""The access log: a line for each HTTP request, and for each WebSocket one when it opens and one when it ends.

As uvicorn's, and what WebSockets need beside it. What is in a line is also on its record, under names that stay, so
that a formatter of JSON has a field for each (``docs/logging.md`` lists them).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from .log_lines import escaped, write

logger = logging.getLogger("triochan.access")

LONGEST_TARGET = 2048
"""Characters of a target that are logged: the rest of a longer one is left out, and three dots say so."""

Ended = Literal["complete", "client", "server"]
"""How a response ended: whole; the client went away, or took nothing; the server broke it off."""
ClosedBy = Literal["client", "server", "lost"]
"""Who closed a WebSocket first; ``"lost"``: nobody, its connection was lost."""

_ENDED = {"complete": "", "client": ", the client went away", "server": ", broken off"}


class RequestLine(NamedTuple):
    """Who asks for what. What is not known, because the request can't be read, is None.

    Attributes:
        client: ``[host, port]``, as trusted proxies say it; None: a Unix socket.
        method, target, http_version: as they came; ``1.1`` of ``HTTP/1.1``.
    """

    client: Sequence[Any] | None
    method: str | None
    target: str | None
    http_version: str | None


class AccessLog:
    """Writes the lines of one server to the logger ``triochan.access``, at ``info``.

    Whether that level is enabled is looked at once, by :meth:`of`.
    """

    @classmethod
    def of(cls, wanted: bool) -> AccessLog | None:
        """The log, or None: it is not wanted, or the logger would pass over its lines."""
        return cls() if wanted and logger.isEnabledFor(logging.INFO) else None

    def answered(
        self,
        line: RequestLine,
        status: int | None,
        sent: int,
        seconds: float,
        ended: Ended = "complete",
        *,
        level: int = logging.INFO,
    ) -> None:
        """A request was answered, or its response has broken off.

        Args:
            status: None: nothing was answered.
            sent: bytes of the response, its head included, that the socket has taken.
            seconds: from the request to the last byte.
            level: ``debug`` for what somebody asks every few seconds.
        """
        if level < logging.INFO and not logger.isEnabledFor(level):
            return
        client, method, target, version = _of(line)
        request = _quoted(method, target, version)
        milliseconds = round(seconds * 1000, 3)
        _write(
            level,
            '%s - "%s" %s %d bytes %.2f ms%s',
            (client, request, "-" if status is None else status, sent, milliseconds, _ENDED[ended]),
            {
                "event": "http",
                "client": client,
                "method": method,
                "target": target,
                "http_version": version,
                "status": status,
                "bytes_sent": sent,
                "duration_ms": milliseconds,
                "ended": ended,
            },
        )

    def opened(self, line: RequestLine, status: int | None, seconds: float) -> None:
        """A WebSocket's handshake was answered.

        Args:
            status: 101: it is open; None: its connection has ended before it was answered.
            seconds: from the handshake to the answer.
        """
        client, _, target, _ = _of(line)
        milliseconds = round(seconds * 1000, 3)
        end = "open" if status == 101 else "refused" if status is not None else "unanswered"
        _write(
            logging.INFO,
            '%s - "WebSocket %s" %s %s %.2f ms',
            (client, escaped(target or "-"), "-" if status is None else status, end, milliseconds),
            {
                "event": "websocket.open" if status == 101 else "websocket.refuse",
                "client": client,
                "target": target,
                "status": status,
                "duration_ms": milliseconds,
            },
        )

    def closed(
        self,
        line: RequestLine,
        code: int,
        reason: str,
        by: ClosedBy,
        seconds: float,
        *,
        received: tuple[int, int],
        sent: tuple[int, int],
    ) -> None:
        """A WebSocket that was open has ended.

        Args:
            code, reason: of its end; 1005: the client's close frame has no code, 1006: there was none.
            seconds: since it was opened.
            received, sent: messages, and bytes of frames as the socket has them, control frames included.
        """
        client, _, target, _ = _of(line)
        milliseconds = round(seconds * 1000, 3)
        said = f' "{escaped(reason)}"' if reason else ""
        _write(
            logging.INFO,
            '%s - "WebSocket %s" %s %d%s %.2f ms, received %d messages %d bytes, sent %d messages %d bytes',
            (
                client,
                escaped(target or "-"),
                "lost" if by == "lost" else f"closed by {by}",
                code,
                said,
                milliseconds,
                *received,
                *sent,
            ),
            {
                "event": "websocket.close",
                "client": client,
                "target": target,
                "code": code,
                "reason": reason,
                "closed_by": by,
                "duration_ms": milliseconds,
                "messages_received": received[0],
                "bytes_received": received[1],
                "messages_sent": sent[0],
                "bytes_sent": sent[1],
            },
        )


def _of(line: RequestLine) -> tuple[str, str | None, str | None, str | None]:
    client, method, target, version = line
    if target is not None and len(target) > LONGEST_TARGET:
        target = target[:LONGEST_TARGET] + "..."
    return address_of(client), method, target, version


def address_of(client: Sequence[Any] | None) -> str:
    """``192.0.2.1:50000``, ``[2001:db8::1]:50000``; without the port where a proxy does not say it; ``-`` for none."""
    if client is None:
        return "-"
    host, port = client
    text = escaped(str(host))
    if ":" in text:
        text = f"[{text}]"
    return f"{text}:{port}" if port else text


def _quoted(method: str | None, target: str | None, version: str | None) -> str:
    if target is None:
        return "-" if method is None else escaped(method)
    return f"{escaped(method or '-')} {escaped(target)} HTTP/{version}"


def _write(level: int, text: str, args: tuple[object, ...], fields: dict[str, object]) -> None:
    # Not logger.info(): it would look for its caller, which says nothing here, and look at each field.
    record = logging.getLogRecordFactory()(logger.name, level, __file__, 0, text, args, None)
    record.__dict__.update(fields)
    write(logger, record)

"""Responses to bytes, without I/O (RFC 9112; RFC 9110 sections 6 and 8).

How a response is framed is the server's: consumers give a status, header fields and content. Of the fields that belong
to the connection, a consumer's ``Connection`` may say ``close`` or name an ``Upgrade`` that is there too;
``Transfer-Encoding``, ``Keep-Alive``, ``Proxy-Connection``, ``TE`` and ``Trailer`` are refused. A ``Content-Length``
of its own is held against what it sends.
"""

from __future__ import annotations

import re
import time
from email.utils import formatdate

from ..headers import KNOWN_FIELDS, Headers, reason_phrase
from ..replies import HttpReply, Refusal

LAST_CHUNK = b"0\r\n\r\n"

_DIGITS = re.compile(rb"[0-9]{1,18}\Z")
_REFUSED = frozenset({b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding"})
_OWN = _REFUSED | {b"connection", b"content-length", b"date", b"server", b"upgrade"}
_EMPTY = frozenset({204, 205, 304})
"""Statuses whose responses have no content (RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5)."""


class Preambles:
    """What every response begins with: status line, ``Date`` and ``Server``, made once a second for each status."""

    __slots__ = ("_date", "_made", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._date = b""
        self._made: dict[int, bytes] = {}

    def date(self, now: float) -> bytes:
        """IMF-fixdate of RFC 9110 section 5.6.7; ``now`` in seconds since the epoch."""
        self._tick(int(now))
        return self._date

    def of(self, status: int, now: float) -> bytes:
        if int(now) != self._second:
            self._tick(int(now))
        preamble = self._made.get(status)
        if preamble is None:
            preamble = self._made[status] = b"%bDate: %b\r\nServer: triochan\r\n" % (
                status_line(status),
                self._date,
            )
        return preamble

    def _tick(self, second: int) -> None:
        if second != self._second:
            self._second = second
            self._date = formatdate(second, usegmt=True).encode("ascii")
            self._made.clear()


_preambles = Preambles()


def status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (status, reason_phrase(status).encode("ascii"))


def chunk(content: bytes) -> bytes:
    """One chunk (RFC 9112 section 7.1); nothing for no content, since a chunk of no bytes ends a body."""
    return b"%x\r\n%b\r\n" % (len(content), content) if content else b""


class ResponseWriter:
    """The bytes of one response, piece by piece.

    Args:
        method: of the request; the response to a HEAD has no body.
        http_version: of the request, ``b"1.1"`` or ``b"1.0"``; chunks are for 1.1 alone.
        keep_alive: the connection may be used again behind the response: the client wishes it, and so does the server.

    Attributes:
        started: the head has been made.
        complete: so has the last piece.
        keep_alive: the connection may be used again. To be asked once the response is complete: one without a length,
            to an old client, ends with the connection.
    """

    __slots__ = ("_chunked", "_left", "_old", "_silent", "complete", "keep_alive", "started")

    def __init__(self, method: bytes | str, http_version: bytes = b"1.1", keep_alive: bool = True) -> None:
        self._silent = method in (b"HEAD", "HEAD")  # no content is written, whatever the consumer sends
        self._old = http_version == b"1.0"
        self.keep_alive = keep_alive
        self.started = False
        self.complete = False
        self._chunked = False
        self._left: int | None = None  # bytes, of the length that the consumer has given

    @property
    def ends_with_connection(self) -> bool:
        """Content is to come, and nothing but the end of the connection will say where it ends."""
        left_open = self.started and not self.complete and self._old and self._left is None
        return left_open and not (self._silent or self.keep_alive)

    def write(self, reply: HttpReply, now: float | None = None) -> bytes:
        """The bytes of one piece; those of the first have the head in front.

        Args:
            reply: as :func:`triochan.replies.parse_http` gives it: its header fields are checked.
            now: seconds since the epoch, for ``Date``; None: the clock's.

        Raises:
            ValueError: the response can't be sent as it is. With ``started`` False nothing has been sent, and
                another response may be; else the connection has to be broken off, so that the client sees that the
                response is not whole.
        """
        if self.started:
            return self._continue(reply.content, reply.more_content)
        assert reply.status is not None
        return self._begin(reply.status, reply, time.time() if now is None else now)

    def refuse(self, refusal: Refusal, now: float | None = None) -> bytes:
        """A whole response of the server's own, in plain text."""
        content = refusal.text.encode() + b"\n"
        headers: Headers = [(b"Content-Type", b"text/plain; charset=utf-8"), *refusal.headers]
        return self.write(HttpReply(refusal.status, headers, content, False), now)

    def _begin(self, status: int, reply: HttpReply, now: float) -> bytes:
        content = reply.content
        lines: list[bytes] = []
        length: int | None = None
        own: dict[bytes, bytes] = {}
        for pair in reply.headers:
            line = KNOWN_FIELDS.get(pair)
            if line is not None:
                lines.append(line)
                continue
            name, value = pair
            lower = name.lower()
            if lower in _OWN:
                if lower == b"content-length":
                    length = _length(value, length)
                    continue
                if lower == b"connection":
                    own[lower] = own[lower] + b"," + value if lower in own else value
                    continue
                if lower in _REFUSED:
                    raise ValueError(
                        f"{name.decode('ascii')} is not a consumer's to send: the server frames what it is given; "
                        "leave the field out"
                    )
                own[lower] = value
            lines.append(b"%b: %b\r\n" % (name, value))
        fields = b"".join(lines)
        if fields.count(b"\n") != len(lines) or fields.count(b"\r") != len(lines):
            raise ValueError("a header has a line end in it; check_headers was not asked")
        keep_alive = self.keep_alive
        if b"connection" in own and _says_close(own):
            keep_alive = False
        chunked = False
        left: int | None = None
        framing = b""
        if status in _EMPTY:
            if content or (status == 205 and length):
                raise ValueError(f"a response of status {status} has no content")
            if status == 205:
                framing = b"Content-Length: 0\r\n"
            elif status == 304 and length is not None:
                framing = b"Content-Length: %d\r\n" % length
            left = 0
        elif length is not None:
            framing = b"Content-Length: %d\r\n" % length
            if not self._silent or (content and not reply.more_content):
                left = length - len(content)
                _check_left(left, reply.more_content)
        elif not reply.more_content:
            if content or not self._silent:  # how long the response to a GET would be is not known otherwise
                framing = b"Content-Length: %d\r\n" % len(content)
        elif self._old:
            keep_alive = False  # the content ends with the connection, RFC 9112 section 6.3
        else:
            chunked = True
            framing = b"Transfer-Encoding: chunked\r\n"
        self.started = True
        self.complete = not reply.more_content
        self.keep_alive = keep_alive
        self._chunked = chunked
        self._left = left
        head = _preambles.of(status, now) if not own else _preamble_beside(own, status, now)
        if not keep_alive or self._old or b"upgrade" in own:
            fields += _connection(keep_alive, self._old, b"upgrade" in own)
        if self._silent or not content:
            return b"%b%b%b\r\n" % (head, fields, framing)
        return b"%b%b%b\r\n%b" % (head, fields, framing, chunk(content) if chunked else content)

    def _continue(self, content: bytes, more_content: bool) -> bytes:
        if self.complete:
            raise ValueError("the response is complete")
        if self._left is not None:
            left = self._left - len(content)
            _check_left(left, more_content)
            self._left = left
        self.complete = not more_content
        if self._silent:
            return b""
        if self._chunked:
            return chunk(content) if more_content else chunk(content) + LAST_CHUNK
        return content


def _length(value: bytes, before: int | None) -> int:
    if before is not None or not _DIGITS.match(value):
        raise ValueError(f"a response has one Content-Length, and that is a number, not {value!r}")
    return int(value)


def _check_left(left: int, more_content: bool) -> None:
    """What a response's ``Content-Length`` leaves to send, once a piece of it is sent."""
    if left < 0:
        raise ValueError(f"the response's content is {-left} bytes longer than its Content-Length says")
    if left and not more_content:
        raise ValueError(f"the response's content is {left} bytes shorter than its Content-Length says")


def _says_close(own: dict[bytes, bytes]) -> bool:
    """A consumer's ``Connection`` asks for the end of the connection behind the response.

    Raises:
        ValueError: it names what is not for a consumer to say.
    """
    options = {option.strip(b" \t").lower() for option in own[b"connection"].split(b",")}
    known = {b"", b"close", b"keep-alive"} | ({b"upgrade"} if b"upgrade" in own else set())
    if not options <= known:
        raise ValueError(
            "a response's Connection is 'close', or 'upgrade' beside an Upgrade field; it is "
            f"{own[b'connection']!r}"
        )
    return b"close" in options


def _preamble_beside(own: dict[bytes, bytes], status: int, now: float) -> bytes:
    """Status line, ``Date`` and ``Server``, less those that the consumer sends itself."""
    lines = status_line(status)
    if b"date" not in own:
        lines += b"Date: %b\r\n" % _preambles.date(now)
    if b"server" not in own:
        lines += b"Server: triochan\r\n"
    return lines


def _connection(keep_alive: bool, old: bool, upgrade: bool) -> bytes:
    options = [b"Upgrade"] if upgrade else []
    if not keep_alive:
        options.append(b"close")
    elif old:
        options.append(b"keep-alive")
    return b"Connection: %b\r\n" % b", ".join(options)

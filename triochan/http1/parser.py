"""Requests from bytes, without I/O (RFC 9112).

One strict grammar reads every head, the plain and the odd ones: what is beside it (a bare LF, a folded line, white
space before a colon) is refused, since what two readers of one stream may take for two different requests is how
requests are smuggled. h11 is what the tests and a fuzzer hold this reader against, not a second reader behind it.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import attrs

from ..headers import Head, Headers, members, values
from ..replies import Refusal
from ..wire.handshake import wants_upgrade

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
"""What a client that asked with ``Expect: 100-continue`` waits for (RFC 9110 section 10.1.1)."""

MAX_CHUNK_LINE = 256
"""Bytes of the line before a chunk: its size and its extensions."""

_MAX_EMPTY_LINES = 4
"""Empty lines that may precede a request line (RFC 9112 section 2.2)."""

# Possessive where one set of characters is repeated, so that nothing is tried twice. Not where a group is: there Python
# before 3.11.5 matches wrongly (its issue 106052); what may follow tells each round of these groups from the next.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_FIELD = _TOKEN + rb":[\t \x21-\x7e\x80-\xff]*+\r\n"
_LINE = rb"(%b) ([\x21-\x7e]++) HTTP/1\.([01])\r\n" % _TOKEN
_HEAD = re.compile(rb"%b((?:%b)*)\r\n" % (_LINE, _FIELD))
_HEAD_LINE = re.compile(_LINE)
_BEGINNING = re.compile(_TOKEN + rb"(?: |\Z)")
_REQUEST_LINE = re.compile(rb"%b [\x21-\x7e]++ HTTP/([0-9]\.[0-9])" % _TOKEN)
_FIELD_LINE = re.compile(_FIELD)
_FIRST_LINE = re.compile(rb"(%b) ([\x21-\x7e]++) HTTP/([0-9]\.[0-9])\r\n" % _TOKEN)

_ABSOLUTE = re.compile(rb"(https?)://([^/?]*+)([^?]*+)(.*+)", re.IGNORECASE)
_NAME = rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*"
_AUTHORITY = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]++)\]|\[[vV][0-9A-Fa-f]++\.[A-Za-z0-9\-._~!$&'()*+,;=:]++\]|%b)(?::[0-9]{0,5})?"
    % _NAME
)
_DIGITS = re.compile(rb"[0-9]++")

_QUOTED = rb'"(?:[\t !\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_CHUNK = re.compile(
    rb"([0-9A-Fa-f]{1,16}+)((?:[ \t]*+;[ \t]*+%b(?:[ \t]*+=[ \t]*+(?:%b|%b))?)*)" % (_TOKEN, _TOKEN, _QUOTED)
)
_TINY_CHUNKS = re.compile(
    rb"(?:0{0,9}+(?:1\r\n[\s\S]\r\n|"
    + b"|".join(rb"%x\r\n[^\r]{%d}\r\n" % (size, size) for size in range(2, 16))
    + b"))+",
    re.IGNORECASE,
)
"""Chunks of less than 16 bytes in a row, without a CR LF in them: what stands between two of those is size or data."""

_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"expect", b"upgrade"})
_NOT_SERVED = {
    b"CONNECT": Refusal(501, "this server is no proxy"),
    b"TRACE": Refusal(501, "this server does not echo requests"),
}

_REMEMBERED = 4096
"""Bytes of a header section that is kept for the request behind it."""

# What comes next: a head; a body's bytes; a chunk's line, its bytes, the line end behind them; the trailer section.
_ON_HEAD, _ON_BODY, _ON_CHUNK, _ON_CHUNK_DATA, _ON_CHUNK_END, _ON_TRAILERS, _OVER = range(7)


@attrs.define
class Request:
    """A whole request.

    Attributes:
        method: as it came; methods are case-sensitive.
        path: percent-decoded; ``"*"`` of ``OPTIONS *``.
        raw_path: as it came.
        query_string: as it came, without the question mark.
        headers: names in lower case. ``host`` is that of the request's target where the target names one (RFC 9112
            section 3.2.2).
        http_version: ``b"1.1"`` or ``b"1.0"``.
        target: as it came.
        keep_alive: the client does not end the connection behind this request (RFC 9112 section 9.3).
        upgrade: the client asks to go on as a WebSocket. There is no body then; what it sent behind the head is had
            by :meth:`RequestParser.take_rest`.
    """

    method: str
    path: str
    query_string: bytes
    headers: Headers
    http_version: bytes
    target: bytes
    raw_path: bytes
    keep_alive: bool
    upgrade: bool = False
    body: bytes = b""

    @property
    def head(self) -> Head:
        """As :mod:`triochan.wire.handshake` takes it."""
        return Head(self.method.encode("ascii"), self.target, self.headers, self.http_version)

    def content(self, scheme: str, client: list[Any] | None, server: list[Any] | None) -> dict[str, Any]:
        """The keys that ``http.request`` and ``websocket.connect`` share.

        Args:
            scheme: ``"http"`` or ``"https"``.
            client, server: ``[host, port]``, or None where the socket has no such address.
        """
        return {
            "scheme": scheme,
            "path": self.path,
            "raw_path": self.raw_path,
            "query_string": self.query_string,
            "headers": self.headers,
            "client": client,
            "server": server,
        }


class _Known(NamedTuple):
    """The header section of a request without body that was read, and what it says.

    A client sends most of its fields with each of its requests, and the same bytes are the same fields: they are read
    once. That is a third of what reading a small request takes.

    Attributes:
        section: as it came, with the empty line.
        minor: of the request's version.
        headers: to be copied, for they are the program's then.
    """

    section: bytes
    minor: bytes
    headers: Headers


class RequestParser:
    """The requests of one connection, in order, each when it is asked for.

    Feed it with :meth:`receive`, and ask :meth:`next` until that gives None. Behind a :class:`Refusal`, and behind a
    request whose ``keep_alive`` is False, it reads no more, and forgets what it is fed.

    Args:
        max_head_size: bytes of a request's head, and of a chunked body's extensions, and of its trailer section.
        max_body_size: bytes of a request's body.
        scheme: what the connection is; an ``https`` target is not served over an ``http`` connection.

    Attributes:
        method: of the request that is under way or was read last, b"" where that can't be told; the answer to a HEAD
            has no body, a refusal neither.
        refused: method, target and version of the request that was refused, None where they can't be told.
    """

    __slots__ = (
        "_asked", "_blank", "_body", "_buffer", "_extensions", "_known", "_left", "_max_body_size", "_max_head_size",
        "_position", "_request", "_scanned", "_scheme", "_state", "_trailers", "_valid_host", "method", "refused",
    )  # fmt: skip

    def __init__(self, max_head_size: int, max_body_size: int, *, scheme: str = "http") -> None:
        self._max_head_size = max_head_size
        self._max_body_size = max_body_size
        self._scheme = scheme
        self.method = b""
        self.refused: tuple[str, str, str] | None = None
        self._state = _ON_HEAD
        self._buffer: bytes | bytearray = b""
        self._position = 0  # of the first byte of the buffer that is not read
        self._scanned = 0  # up to here no head ends and no line feed stands alone
        self._blank = 0
        self._valid_host = b""
        self._known: _Known | None = None
        self._request: Request | None = None  # whose body is awaited
        self._asked = False
        self._body = bytearray()
        self._left = 0  # bytes of the body, or of the chunk
        self._extensions = 0
        self._trailers = 0

    # -- what a server asks

    @property
    def buffered(self) -> int:
        """Bytes that wait: of requests not yet asked for, or of the part of one."""
        return len(self._buffer) - self._position

    @property
    def begun(self) -> bool:
        """The head of a request has begun to come, and is not whole."""
        return self._state == _ON_HEAD and len(self._buffer) > self._position

    @property
    def in_body(self) -> bool:
        """The body of a request is awaited."""
        return _ON_HEAD < self._state < _OVER

    @property
    def over(self) -> bool:
        """No request is read any more."""
        return self._state == _OVER

    def take_continue(self) -> bool:
        """The client waits for :data:`CONTINUE` before it sends its body; True once for a request."""
        asked, self._asked = self._asked, False
        return asked

    def take_rest(self) -> bytes:
        """What came behind the last request: of a handshake, the first frames."""
        rest = bytes(self._buffer[self._position :])
        self._buffer, self._position, self._scanned = b"", 0, 0
        return rest

    def eof(self) -> Refusal | None:
        """The stream has ended: None between two requests, else what to tell the client, if it still listens.

        RFC 9112 section 8.
        """
        if self.in_body:
            return self._refuse(400, "the stream ended in the middle of a request's body")
        if self.begun:
            return self._refuse(400, "the stream ended in the middle of a request's head")
        return None

    # -- reading

    def receive(self, data: bytes) -> None:
        """Take what the connection brought. Costs the same for each byte, in whatever pieces they come."""
        if self._state == _OVER:
            return
        buffer = self._buffer
        if self._position == len(buffer):
            self._buffer = data
        else:
            if isinstance(buffer, bytearray):
                del buffer[: self._position]
            else:
                self._buffer = buffer = bytearray(memoryview(buffer)[self._position :])
            buffer += data
            self._scanned -= self._position
        self._position = 0
        if self._scanned < 0:
            self._scanned = 0

    def next(self) -> Request | Refusal | None:
        """The next request, what to answer to one that is not served, or None: more has to be received."""
        if self._state != _ON_HEAD:
            return self._next_of_body()
        buffer = self._buffer
        start = self._position
        scanned = self._scanned
        end = buffer.find(
            b"\r\n\r\n", max(scanned - 3, start) if scanned else start, start + self._max_head_size
        )
        if end < 0:
            return self._part_of_head()
        end += 4
        head = bytes(buffer[start:end])
        known = self._known
        fields: dict[bytes, bytes] | None
        if (
            known is not None
            and head.endswith(known.section)
            and (line := _HEAD_LINE.match(head)) is not None
            and line.end() + len(known.section) == len(head)
            and line[3] == known.minor
        ):
            self.method, target, minor = line.groups()
            headers, fields = known.headers.copy(), None
        else:
            found = _HEAD.fullmatch(head)
            if found is None:
                return self._odd_head(head)
            self.method, target, minor, lines = found.groups()
            headers = [
                (name.lower(), value.strip(b" \t"))
                for name, value in [line.split(b":", 1) for line in lines.split(b"\r\n")[:-1]]
            ]
            fields = dict(headers)
        refusal = None if fields is None else self._check_host(fields, headers, minor)
        if refusal is None and self.method in _NOT_SERVED:
            refusal = self._refuse(*_NOT_SERVED[self.method])
        if refusal is not None:
            return refusal
        origin_form = target[0] == 0x2F  # RFC 9112 section 3.2.1
        if origin_form:
            raw_path, _, query = target.partition(b"?")
        else:
            parts = self._other_form(target, headers)
            if isinstance(parts, Refusal):
                return parts
            raw_path, query = parts
        try:
            path = (unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path).decode()
        except UnicodeDecodeError:
            return self._refuse(400, "the path, percent-decoded, is not UTF-8")
        # What is refused before this has its request line at the position still, for `first_line`.
        self._position = end
        self._scanned = 0
        self._blank = 0
        keep_alive = fields is None or minor == b"1"
        if fields is not None and b"connection" in fields:
            options = members(headers, b"connection")
            keep_alive = b"close" not in options and (keep_alive or b"keep-alive" in options)
        version = b"1.1" if minor == b"1" else b"1.0"
        request = Request(
            self.method.decode("ascii"), path, query, headers, version, target, raw_path, keep_alive
        )
        if fields is None:
            return request
        if not _FRAMING.isdisjoint(fields):
            framed = self._frame(request, fields)
            if isinstance(framed, Refusal):
                self.refused = _line_of(head)
            return framed
        if not keep_alive:
            self._state = _OVER
        elif origin_form and len(lines) <= _REMEMBERED:
            self._known = _Known(lines + b"\r\n", minor, headers.copy())
        return request

    @property
    def first_line(self) -> tuple[str, str, str] | None:
        """Method, target and version of the request that was refused or is not whole; None where they can't be told."""
        if self.refused is not None or self._request is None:
            return self.refused or _line_of(bytes(self._buffer[self._position :]))
        request = self._request
        return request.method, request.target.decode("ascii"), request.http_version.decode("ascii")

    def _refuse(self, status: int, text: str, headers: Headers | None = None) -> Refusal:
        self.refused = self.first_line
        self._state = _OVER
        self._request = None
        self._asked = False
        self._buffer, self._position, self._scanned = b"", 0, 0
        self._body = bytearray()
        return Refusal(status, text, headers or [])

    # -- heads

    def _part_of_head(self) -> Request | Refusal | None:
        """No head ends in what came: wait for more, unless none can come of it."""
        buffer, start = self._buffer, self._position
        size = len(buffer) - start
        if not size:
            return None
        if buffer.startswith(b"\r\n", start):
            return self._empty_line() or self.next()  # a head may end within its limit now
        if size >= self._max_head_size:
            return self._too_large(bytes(buffer[start : start + self._max_head_size]))
        beginning = buffer.startswith(b"\r", start) or _BEGINNING.match(buffer, start, start + 64)
        fresh = max(self._scanned, start)
        line_ends = buffer.count(b"\r\n", max(fresh - 1, start))
        if not beginning or buffer.count(b"\n", fresh) != line_ends:
            return self._malformed(bytes(buffer[start:]))
        self._scanned = len(buffer)
        return None

    def _too_large(self, head: bytes) -> Refusal:
        self.method = b"HEAD" if head.startswith(b"HEAD ") else b""
        if b"\r\n" not in head and _BEGINNING.match(head):
            return self._refuse(414, f"the request line is larger than {self._max_head_size} bytes")
        return self._refuse(431, f"the request's head is larger than {self._max_head_size} bytes")

    def _empty_line(self) -> Refusal | None:
        """Pass over an empty line before a request: some clients send one behind a body (RFC 9112 section 2.2)."""
        self._blank += 1
        if self._blank > _MAX_EMPTY_LINES:
            return self._refuse(400, "not HTTP: a request line was expected, and empty lines came")
        self._position += 2
        self._scanned = 0
        return None

    def _odd_head(self, head: bytes) -> Request | Refusal | None:
        if head.startswith(b"\r\n"):
            return self._empty_line() or self.next()
        return self._malformed(head)

    def _malformed(self, head: bytes) -> Refusal:
        """Say what is wrong with a head that the grammar does not take."""
        self.method = b"HEAD" if head.startswith(b"HEAD ") else b""
        if head.startswith(b"\x16\x03"):  # a handshake of TLS, any version (RFC 8446 section 5.1)
            return self._refuse(400, "TLS came to a port that speaks plain HTTP; ask it by http:// or ws://")
        line, _, rest = head.partition(b"\r\n")
        found = _REQUEST_LINE.fullmatch(line)
        if found is None:
            return self._refuse(
                400, f"not HTTP: a request line is 'GET /path HTTP/1.1' and ends in CR LF, not {line!r:.100}"
            )
        if found[1] not in (b"1.1", b"1.0"):
            return self._refuse(505, f"this server speaks HTTP/1.1, not HTTP/{found[1].decode()}")
        lines = rest.split(b"\r\n")
        wrong = next(line for line in lines if line and not _FIELD_LINE.fullmatch(line + b"\r\n"))
        return self._refuse(400, f"not HTTP: {_what_is_wrong(wrong)}: {wrong!r:.100}")

    def _check_host(self, fields: dict[bytes, bytes], headers: Headers, minor: bytes) -> Refusal | None:
        """Exactly one Host that is an authority; none is needed in HTTP/1.0 (RFC 9112 section 3.2)."""
        host = fields.get(b"host")
        if host is None:
            if minor == b"1":
                return self._refuse(400, "an HTTP/1.1 request needs a Host header")
            return None
        if len(fields) != len(headers) and len(values(headers, b"host")) > 1:
            return self._refuse(400, "a request has one Host header, not several")
        if host != self._valid_host:
            if not is_authority(host):
                return self._refuse(400, f"a Host header is a host and perhaps a port, not {host!r:.100}")
            self._valid_host = host
        return None

    def _other_form(self, target: bytes, headers: Headers) -> tuple[bytes, bytes] | Refusal:
        """Path and query of a target that does not begin with a slash."""
        if target == b"*":
            if self.method == b"OPTIONS":  # RFC 9112 section 3.2.4
                return target, b""
            return self._refuse(400, "the target * is for OPTIONS alone")
        absolute = _ABSOLUTE.fullmatch(target)  # RFC 9112 section 3.2.2
        if absolute is None:
            return self._refuse(
                400, f"a request's target is a path, an http URI, or * of OPTIONS, not {target!r:.100}"
            )
        scheme, authority, path, query = absolute.groups()
        if not authority or authority.startswith(b":") or not is_authority(authority):
            return self._refuse(
                400, f"an http URI has a host and perhaps a port, and no user, not {authority!r:.100}"
            )
        if scheme.lower() == b"https" and self._scheme != "https":
            return self._refuse(
                421, "this connection is not secured: it has no https resources"
            )  # RFC 9110 7.4
        headers[:] = [(b"host", authority), *(pair for pair in headers if pair[0] != b"host")]
        if not path and not query and self.method == b"OPTIONS":
            return b"*", b""  # RFC 9110 section 4.2.3
        return path or b"/", query[1:]

    # -- bodies

    def _frame(self, request: Request, fields: dict[bytes, bytes]) -> Request | Refusal | None:
        """Where the body of ``request`` ends (RFC 9112 section 6.3), and what the client expects before it sends it."""
        headers = request.headers
        old = request.http_version == b"1.0"
        length = 0
        chunked = b"transfer-encoding" in fields
        if chunked:
            if b"content-length" in fields:
                return self._refuse(400, "a request has Content-Length or Transfer-Encoding, not both")
            if old:
                return self._refuse(400, "HTTP/1.0 has no Transfer-Encoding")
            if [coding.lower() for coding in values(headers, b"transfer-encoding")] != [b"chunked"]:
                codings = members(headers, b"transfer-encoding")
                if codings[-1:] == [b"chunked"] and codings.count(b"chunked") == 1 and len(codings) > 1:
                    return self._refuse(501, "this server knows the transfer coding chunked alone")
                return self._refuse(400, "a request's last transfer coding is chunked, which is applied once")
        elif b"content-length" in fields:
            lengths = values(headers, b"content-length")
            if len(lengths) > 1 or not _DIGITS.fullmatch(lengths[0]):
                return self._refuse(400, f"a Content-Length is one number, not {b', '.join(lengths)!r:.100}")
            digits = lengths[0].lstrip(b"0") or b"0"
            if len(digits) > 18 or int(digits) > self._max_body_size:
                return self._too_large_body()
            length = int(digits)
        expects = False
        if b"expect" in fields and not old:  # RFC 9110 section 10.1.1
            if any(each != b"100-continue" for each in members(headers, b"expect")):
                return self._refuse(417, "the only expectation that this server knows is 100-continue")
            expects = True
        if b"upgrade" in fields and wants_upgrade(request.head):
            if length or chunked or expects:
                return self._refuse(400, "a WebSocket handshake has no body, and does not expect to send one")
            request.upgrade = True
            if not request.keep_alive:
                self._state = _OVER
            return request
        if not chunked and not length:
            if not request.keep_alive:
                self._state = _OVER
            return request
        self._request = request
        self._left = length
        self._extensions = self._trailers = 0
        self._state = _ON_CHUNK if chunked else _ON_BODY
        self._asked = expects and self._position == len(self._buffer)
        return self._next_of_body()

    def _too_large_body(self) -> Refusal:
        return self._refuse(413, f"the request's body is larger than {self._max_body_size} bytes")

    def _next_of_body(self) -> Request | Refusal | None:
        """Read on in a body: the request where it is whole."""
        if self._state == _OVER or self._position == len(self._buffer):
            return None
        self._asked = False
        if self._state == _ON_BODY:
            end = self._position + self._left
            piece = memoryview(self._buffer)[self._position : end]
            self._body += piece
            self._left -= len(piece)
            self._position += len(piece)
            whole = not self._left
        else:
            outcome = self._read_chunks()
            if isinstance(outcome, Refusal):
                return outcome
            whole = outcome
        if not whole:
            return None
        request, self._request = self._request, None
        assert request is not None
        request.body = bytes(self._body)
        self._body = bytearray()
        self._state = _ON_HEAD if request.keep_alive else _OVER
        return request

    def _read_chunks(self) -> bool | Refusal:
        """Decode what came of a chunked body (RFC 9112 section 7.1); True: it is whole."""
        data = bytes(self._buffer)
        position, size = self._position, len(data)
        body = self._body
        limit = self._max_body_size
        state, left = self._state, self._left
        try:
            while position < size:
                if state == _ON_CHUNK:
                    tiny = _TINY_CHUNKS.match(data, position)
                    if tiny is not None:  # a body of them costs ten times another one, not some hundred times
                        body += b"".join(tiny[0].split(b"\r\n")[1::2])
                        if len(body) > limit:
                            return self._too_large_body()
                        position = tiny.end()
                        continue
                    end = data.find(b"\r\n", position, position + MAX_CHUNK_LINE)
                    if end < 0:
                        if size - position >= MAX_CHUNK_LINE:
                            return self._refuse(400, f"a chunk's line is larger than {MAX_CHUNK_LINE} bytes")
                        if not _may_be_chunk_line(data[position:]):
                            return self._wrong_chunk(data[position:])
                        return False
                    found = _CHUNK.fullmatch(data, position, end)
                    if found is None:
                        return self._wrong_chunk(data[position:end])
                    digits, extensions = found.groups()
                    if extensions:
                        self._extensions += len(extensions)
                        if self._extensions > self._max_head_size:
                            return self._refuse(
                                400, f"chunk extensions of more than {self._max_head_size} bytes"
                            )
                    left = int(digits, 16)
                    if len(body) + left > limit:
                        return self._too_large_body()
                    position = end + 2
                    end = position + left
                    if left and data[end : end + 2] == b"\r\n":
                        body += data[position:end]
                        position = end + 2
                    else:
                        state = _ON_CHUNK_DATA if left else _ON_TRAILERS
                elif state == _ON_CHUNK_DATA:
                    piece = memoryview(data)[position : position + left]
                    body += piece
                    position += len(piece)
                    left -= len(piece)
                    if not left:
                        state = _ON_CHUNK_END
                elif state == _ON_CHUNK_END:
                    if not b"\r\n".startswith(data[position : position + 2]):
                        return self._refuse(400, "a chunk's data is longer than its size says")
                    if size - position < 2:
                        return False
                    position += 2
                    state = _ON_CHUNK
                else:
                    end = data.find(b"\n", position) + 1
                    self._trailers += (end or size) - position
                    if self._trailers > self._max_head_size:
                        return self._refuse(
                            431, f"a trailer section of more than {self._max_head_size} bytes"
                        )
                    if not end:
                        self._trailers -= size - position
                        return False
                    line = data[position:end]
                    position = end
                    if line == b"\r\n":
                        return True
                    if not _FIELD_LINE.fullmatch(line):
                        return self._refuse(400, f"not HTTP: {_what_is_wrong(line[:-2])}: {line!r:.100}")
                    if line.partition(b":")[0].lower() in _FRAMING:
                        return self._refuse(400, f"a trailer field says nothing of framing: {line!r:.100}")
            return False
        finally:
            if self._state != _OVER:
                self._position, self._state, self._left = position, state, left

    def _wrong_chunk(self, line: bytes) -> Refusal:
        return self._refuse(400, f"a chunk begins with its size in hexadecimal digits, not {line!r:.100}")


def is_authority(value: bytes) -> bool:
    """``value`` is a host and perhaps a port (RFC 3986 section 3.2), without a user's name; it may be empty."""
    found = _AUTHORITY.fullmatch(value)
    if found is None:
        return False
    if found[1] is not None:
        try:
            IPv6Address(found[1].decode("ascii"))
        except AddressValueError:
            return False
    return True


def _may_be_chunk_line(data: bytes) -> bool:
    """The beginning of a chunk's line: more may come."""
    return data[:1] in b"0123456789abcdefABCDEF" and b"\n" not in data and b"\r" not in data[:-1]


def _line_of(head: bytes) -> tuple[str, str, str] | None:
    """Method, target and version where ``head`` begins with a whole request line."""
    found = _FIRST_LINE.match(head)
    if found is None:
        return None
    method, target, version = (each.decode("ascii") for each in found.groups())
    return method, target, version


def _what_is_wrong(line: bytes) -> str:
    """Why a line is no field line (RFC 9112 section 5)."""
    name, colon, _ = line.partition(b":")
    if line[:1] in (b" ", b"\t"):
        return "a header may not be folded over lines"
    if b"\n" in line or b"\r" in line:
        return "a line ends in CR LF, and neither stands alone"
    if not colon:
        return "a header is 'Name: value'"
    if name != name.rstrip(b" \t"):
        return "no space may stand between a header's name and its colon"
    if not _BEGINNING.fullmatch(name):
        return "a header's name is a token"
    return "a header's value has no control characters"

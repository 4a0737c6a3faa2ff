"""A request's head as a message's content, and the check of a WebSocket's opening handshake."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import attrs
import h11

from ..headers import Headers

_ABSOLUTE = re.compile(rb"https?://[^/]*", re.IGNORECASE)


_HANDSHAKE = re.compile(
    rb"GET ([\x21-\x7e]+) HTTP/1\.1\r\n((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t \x21-\x7e\x80-\xff]*\r\n)+)\r\n"
)
_BODY_HEADERS = {b"content-length", b"transfer-encoding", b"expect"}


class Head(NamedTuple):
    """A request's head: what the functions below need of a :class:`h11.Request`."""

    method: bytes
    target: bytes
    headers: Headers
    http_version: bytes


def handshake_head(data: bytes) -> tuple[Head, bytes] | None:
    """The head of a WebSocket handshake and what follows it, if ``data`` begins with one that nothing is odd about.

    Everything else, and everything wrong, is None: h11 reads that. A connection that only becomes a WebSocket costs an
    eighth less this way (docs/performance.md), and a property-based test holds the two against each other.
    """
    found = _HANDSHAKE.match(data)
    if found is None:
        return None
    headers = [
        (name.lower(), value.strip(b" \t"))
        for name, _, value in (line.partition(b":") for line in found[2][:-2].split(b"\r\n"))
    ]
    names = [name for name, _ in headers]
    head = Head(b"GET", found[1], headers, b"1.1")
    if names.count(b"host") != 1 or not _BODY_HEADERS.isdisjoint(names) or not wants_upgrade(head):
        return None
    return head, data[found.end() :]


class Refusal(NamedTuple):
    """A request that is answered without asking a consumer."""

    status: int
    text: str
    headers: Headers = []


@attrs.frozen
class Upgrade:
    """A valid opening handshake (RFC 6455 section 4.2.1), its decision pending.

    Attributes:
        content: of the ``websocket.connect`` message.
        subprotocols: what the client offers, in its order of preference.
        rest: bytes that came behind the head.
    """

    content: dict[str, Any]
    key: bytes
    subprotocols: list[str]
    rest: bytes = b""

    def head(self) -> bytes:
        """The head, reduced to what trio-websocket needs for its answer: nothing in it can surprise it."""
        protocols = ", ".join(self.subprotocols).encode()
        return (
            b"GET / HTTP/1.1\r\nHost: -\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: " + self.key + b"\r\n"
            + (b"Sec-WebSocket-Protocol: " + protocols + b"\r\n" if protocols else b"")
            + b"\r\n"
        )  # fmt: skip


def head_content(
    request: h11.Request | Head, scheme: str, client: list[Any] | None, server: list[Any] | None
) -> dict[str, Any] | Refusal:
    """The keys that ``http.request`` and ``websocket.connect`` share.

    ``path`` is a str, percent-decoded; ``query_string`` bytes, as they came; ``headers`` pairs of bytes, names in
    lower case; ``client`` and ``server`` are ``[host, port]``, or None where the socket has no such address.
    """
    if request.http_version not in (b"1.1", b"1.0"):
        version = request.http_version.decode("latin-1")
        return Refusal(505, f"this server speaks HTTP/1.1, not HTTP/{version}")
    if request.method == b"CONNECT":
        return Refusal(501, "this server is no proxy")
    raw_path, _, query = request.target.partition(b"?")
    if absolute := _ABSOLUTE.match(raw_path):  # absolute-form, RFC 9112 section 3.2.2
        raw_path = raw_path[absolute.end() :] or b"/"
    try:
        path = unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        return Refusal(400, "the path, percent-decoded, is not UTF-8")
    return {
        "scheme": scheme,
        "path": path,
        "query_string": query,
        "headers": list(request.headers),
        "client": client,
        "server": server,
    }


def wants_upgrade(request: h11.Request | Head) -> bool:
    """The client asks to go on as a WebSocket: an ``Upgrade`` to it that ``Connection`` lists."""
    return b"websocket" in _tokens(request, b"upgrade") and b"upgrade" in _tokens(request, b"connection")


def check_upgrade(request: h11.Request | Head, content: dict[str, Any], rest: bytes) -> Upgrade | Refusal:
    """The handshake as trio-websocket may have it; what is wrong with it is said in plain text."""
    if request.method != b"GET":
        method = request.method.decode("latin-1")
        return Refusal(405, f"a WebSocket handshake is a GET, not a {method}", [(b"Allow", b"GET")])
    if request.http_version < b"1.1":
        return Refusal(400, "a WebSocket handshake needs HTTP/1.1")
    versions = _values(request, b"sec-websocket-version")
    if versions != [b"13"]:
        return Refusal(426, "this server speaks WebSocket version 13", [(b"Sec-WebSocket-Version", b"13")])
    keys = _values(request, b"sec-websocket-key")
    try:
        valid = len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == 16
    except binascii.Error:
        valid = False
    if not valid:
        return Refusal(400, "a WebSocket handshake needs one Sec-WebSocket-Key: 16 bytes in base64")
    try:
        offered = [each.decode("ascii") for each in _values(request, b"sec-websocket-protocol")]
    except UnicodeDecodeError:
        return Refusal(400, "Sec-WebSocket-Protocol is not ASCII")
    subprotocols = [name for value in offered for each in value.split(",") if (name := each.strip())]
    connect = {**content, "scheme": "wss" if content["scheme"] == "https" else "ws"}
    connect |= {"subprotocols": subprotocols, "order": 0}
    return Upgrade(connect, keys[0], subprotocols, rest)


def _values(request: h11.Request | Head, name: bytes) -> list[bytes]:
    return [value.strip() for key, value in request.headers if key == name]


def _tokens(request: h11.Request | Head, name: bytes) -> list[bytes]:
    return [token.strip().lower() for value in _values(request, name) for token in value.split(b",")]

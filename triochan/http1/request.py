"""A request's head: read by one expression where nothing is odd about it, and made a message's content."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote_to_bytes

from ..headers import Head
from ..replies import Refusal
from ..wire.handshake import wants_upgrade

_ABSOLUTE = re.compile(rb"https?://[^/]*", re.IGNORECASE)


_HANDSHAKE = re.compile(
    rb"GET ([\x21-\x7e]+) HTTP/1\.1\r\n((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t \x21-\x7e\x80-\xff]*\r\n)+)\r\n"
)
_BODY_HEADERS = {b"content-length", b"transfer-encoding", b"expect"}


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


def head_content(
    request: Head, scheme: str, client: list[Any] | None, server: list[Any] | None
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

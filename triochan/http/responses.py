"""Contents for an HTTP reply channel: ``await message.reply_channel.send(text("hello"))``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from typing import Any
from urllib.parse import quote

from ..content import encode_plain, plain_of
from ..headers import Headers, check_headers, has
from ..running import current_application
from ..typed import needs_no_converter, to_plain

HeaderPairs = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]


def _response(content: bytes, content_type: bytes, status: int, headers: HeaderPairs) -> dict[str, Any]:
    if headers == ():  # most have none
        return {"status": status, "headers": [(b"Content-Type", content_type)], "content": content}
    pairs: Headers = check_headers(headers)
    if not has(pairs, b"content-type"):
        pairs.insert(0, (b"Content-Type", content_type))
    return {"status": status, "headers": pairs, "content": content}


def text(content: str, status: int = 200, headers: HeaderPairs = ()) -> dict[str, Any]:
    """Plain text, in UTF-8."""
    return _response(content.encode(), b"text/plain; charset=utf-8", status, headers)


def html(content: str, status: int = 200, headers: HeaderPairs = ()) -> dict[str, Any]:
    """A page, in UTF-8."""
    return _response(content.encode(), b"text/html; charset=utf-8", status, headers)


def json(content: Any, status: int = 200, headers: HeaderPairs = ()) -> dict[str, Any]:
    """A value as JSON, in the same form as on a WebSocket: objects as the application's converter makes them.

    Raises:
        TypeError: a value that neither JSON nor the converter has a form for; bytes and sets, for nothing would tell
            the client that a string is Base64.
        OverflowError: NaN or an infinity.
        ValueError: a lone surrogate, or two keys of an object that are one in JSON.
    """
    application = current_application()
    if not needs_no_converter(content, application):

        def unstructure(value: Any) -> Any:
            return value if isinstance(value, (bytes, bytearray, Set)) else to_plain(value, application)

        content = plain_of(content, unstructure)
    return _response(encode_plain(content).encode(), b"application/json", status, headers)


def redirect(location: str, status: int = 303, headers: HeaderPairs = ()) -> dict[str, Any]:
    """Send the client to ``location``, a path or an absolute http(s) URL (RFC 9110 section 15.4).

    Raises:
        ValueError: not a redirect status, or a location that a browser might take for another place than it
            looks like: control characters, a backslash, ``//host``, or a scheme other than http and https.
    """
    if status not in (301, 302, 303, 307, 308):
        raise ValueError(f"a redirect's status is 301, 302, 303, 307 or 308, not {status!r}")
    if (
        re.search(r"[\x00-\x20\x7f\\]", location)
        or location.startswith("//")
        or (
            re.match(r"[A-Za-z][A-Za-z0-9+.\-]*:", location)
            and not re.match(r"https?://", location, re.IGNORECASE)
        )
    ):
        raise ValueError(f"a redirect goes to a path or to an http(s) URL, not to {location!r}")
    target = quote(location, safe="/:?#[]@!$&'()*+,;=%-._~")
    return _response(
        b"", b"text/plain; charset=utf-8", status, [("Location", target), *check_headers(headers)]
    )

"""What may be sent to a reply channel, checked and made into values.

A WebSocket takes ``{"accept", "text", "bytes", "close", "reason", "subprotocol", "headers"}``, an HTTP
request ``{"status", "headers", "content", "more_content"}`` (Channels 1: "ASGI Message Formats").
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

from .headers import Headers, check_headers, is_token

_WEBSOCKET_KEYS = frozenset({"accept", "bytes", "close", "headers", "reason", "subprotocol", "text"})
_HTTP_KEYS = frozenset({"content", "headers", "more_content", "status"})
MAX_REASON = 123
"""Bytes of UTF-8 in a close frame's reason: 125 less the code (RFC 6455 section 5.5)."""


class _Later(Enum):
    LATER = "LATER"

    def __repr__(self) -> str:
        return self.value


LATER: Final = _Later.LATER
"""Returned by a consumer of ``http.request``: somebody else answers, within ``response_timeout``."""


class WebsocketReply(NamedTuple):
    """One checked order to a WebSocket: at most one of each, data before close."""

    accept: bool | None = None
    data: str | bytes | None = None
    close: int | None = None
    reason: str = ""
    subprotocol: str | None = None
    headers: Headers | None = None


class HttpReply(NamedTuple):
    """One checked piece of a response; ``status`` is None on all pieces but the first."""

    status: int | None
    headers: Headers
    content: bytes
    more_content: bool


class Refusal(NamedTuple):
    """A request that is answered without asking a consumer."""

    status: int
    text: str
    headers: Headers = []


def check_close(code: object, reason: object = "") -> tuple[int, str]:
    """A close code and reason that may go on the wire; True means 1000 (RFC 6455 section 7.4).

    Raises:
        ValueError: a code that no endpoint may send, or a reason of more than 123 bytes of UTF-8.
    """
    if code is True:
        code = 1000
    if not isinstance(code, int) or not (
        1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
    ):
        raise ValueError(f"close takes True or a code (1000-1003, 1007-1014, 3000-4999), not {code!r}")
    if not isinstance(reason, str) or len(reason.encode()) > MAX_REASON:
        raise ValueError(f"a close reason is a string of at most {MAX_REASON} bytes of UTF-8, not {reason!r}")
    return code, reason


def parse_websocket(content: Mapping[str, Any]) -> WebsocketReply:
    """``content`` as an order to a WebSocket.

    Raises:
        ValueError: an unknown key, both ``text`` and ``bytes``, nothing to do, or a value of a wrong kind.
    """
    text, data = content.get("text"), content.get("bytes")
    if text.__class__ is str and data is None and len(content) == 1 + ("bytes" in content):
        # A text and nothing else, as nearly every one: what is asked below, as far as it could be otherwise.
        if not text.isascii():
            text.encode()
        return WebsocketReply(None, text)
    if not content.keys() <= _WEBSOCKET_KEYS:
        unknown = ", ".join(sorted(map(repr, content.keys() - _WEBSOCKET_KEYS)))
        raise ValueError(f"a WebSocket reply takes {', '.join(sorted(_WEBSOCKET_KEYS))}; it has {unknown}")
    if text is not None and data is not None:
        raise ValueError("a WebSocket reply takes text or bytes, not both")
    if text is not None:
        if not isinstance(text, str):
            raise ValueError(f"text takes a str, not {type(text).__name__}")
        if not text.isascii():
            text.encode()  # a lone surrogate is UnicodeEncodeError, a ValueError
    if data is not None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise ValueError(f"bytes takes bytes, not {type(data).__name__}")
        data = bytes(data)
    accept, close = content.get("accept"), content.get("close")
    if accept is not None and not isinstance(accept, bool):
        raise ValueError(f"accept takes True or False, not {accept!r}")
    code: int | None = None
    reason = content.get("reason", "")
    if close is not None and close is not False:
        code, reason = check_close(close, reason)
    elif reason:
        raise ValueError("reason goes with close")
    payload = text if text is not None else data
    if accept is None and payload is None and code is None:
        raise ValueError("a WebSocket reply needs one of accept, text, bytes and close")
    if accept is False and payload is not None:
        raise ValueError("a refused handshake carries no text or bytes")
    subprotocol, headers = content.get("subprotocol"), content.get("headers")
    if (subprotocol is not None or headers is not None) and accept is not True:
        raise ValueError("subprotocol and headers go with accept: True")
    if subprotocol is not None and not (isinstance(subprotocol, str) and is_token(subprotocol.encode())):
        raise ValueError(f"subprotocol {subprotocol!r} is not a token")
    return WebsocketReply(
        accept, payload, code, reason, subprotocol, None if headers is None else check_headers(headers)
    )


def parse_http(content: Mapping[str, Any], *, started: bool) -> HttpReply:
    """``content`` as a piece of an HTTP response; ``started``: one came before it.

    Raises:
        ValueError: an unknown key, a second status, a missing one, or a value of a wrong kind.
    """
    if not content.keys() <= _HTTP_KEYS:
        unknown = ", ".join(sorted(map(repr, content.keys() - _HTTP_KEYS)))
        raise ValueError(f"an HTTP reply takes {', '.join(sorted(_HTTP_KEYS))}; it has {unknown}")
    status, body = content.get("status"), content.get("content", b"")
    if started and (status is not None or content.get("headers")):
        raise ValueError("status and headers were sent already; what follows takes content and more_content")
    if not started and (isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599):
        raise ValueError(f"an HTTP reply begins with a status from 200 to 599, not {status!r}")
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise ValueError(f"content takes bytes, not {type(body).__name__}; encode text first")
    headers = check_headers(content.get("headers") or [])
    return HttpReply(status, headers, bytes(body), bool(content.get("more_content", False)))

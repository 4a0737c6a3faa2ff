"""Header fields: pairs of bytes, as they came or as they go out (RFC 9110 section 5)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

Headers = list[tuple[bytes, bytes]]
"""Name and value; in what came from a client, names are in lower case and values have no space around them."""

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_FIELD_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t \x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?\Z")


class Head(NamedTuple):
    """A request's head; ``headers`` as they came, names in lower case, ``http_version`` e.g. ``b"1.1"``."""

    method: bytes
    target: bytes
    headers: Headers
    http_version: bytes


KNOWN_FIELDS = {
    (b"Content-Type", value): b"Content-Type: %b\r\n" % value
    for value in (b"application/json", b"text/html; charset=utf-8", b"text/plain; charset=utf-8")
}
"""What nearly every response has, and needs no look, with the line that it is."""


def is_token(value: bytes) -> bool:
    """``value`` is a token of RFC 9110 section 5.6.2."""
    return _TOKEN.match(value) is not None


def values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """The values of all fields called ``name``, which is given in lower case; a name's own case does not matter."""
    return [value for key, value in headers if key.lower() == name]


def has(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bool:
    """There is a field called ``name``, which is given in lower case."""
    return any(key.lower() == name for key, _ in headers)


def members(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """The members of a field that is a list with commas, in lower case (RFC 9110 section 5.6.1)."""
    return [
        member
        for value in values(headers, name)
        for each in value.split(b",")
        if (member := each.strip(b" \t").lower())
    ]


def check_headers(headers: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> Headers:
    """Header pairs as bytes, refused where they could break out of their line (RFC 9110 section 5).

    Raises:
        ValueError: not pairs, or a name or value with characters that a header can't have.
    """
    pairs: Headers = []
    if headers.__class__ is not list:
        if not isinstance(headers, Iterable):
            raise ValueError(f"headers are pairs of str or bytes, not {headers!r}")
        headers = headers.items() if isinstance(headers, Mapping) else headers
    for pair in headers:
        if pair.__class__ is tuple and len(pair) == 2 and pair[0].__class__ is pair[1].__class__ is bytes:
            if pair in KNOWN_FIELDS:
                pairs.append(pair)
                continue
            name, value = pair
        else:
            try:
                if isinstance(pair, (str, bytes)):
                    raise TypeError
                name, value = map(_header_bytes, pair)
            except (TypeError, ValueError):
                raise ValueError(f"a header is a pair of str or bytes, not {pair!r}") from None
        if not _TOKEN.match(name):
            raise ValueError(f"header name {name!r} is not a token")
        if not _FIELD_VALUE.match(value):
            raise ValueError(f"header {name.decode()} can't have the value {value!r}")
        pairs.append((name, value))
    return pairs


def _header_bytes(part: Any) -> bytes:
    if isinstance(part, str):
        return part.encode("latin-1")
    return bytes(memoryview(part))  # bytes() alone makes a number into that many zeros


def reason_phrase(status: int) -> str:
    """``Not Found`` for 404; empty where the number has no name."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""

"""Cookies: out of a message's headers, and into a response's (RFC 6265)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_VALUE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*\Z")
_ATTRIBUTE = re.compile(r"[\x20-\x3a\x3c-\x7e]*\Z")


def parse_cookies(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The cookies of a request; of two with one name the first counts, what is not a cookie is passed over.

    Args:
        headers: ``message["headers"]``.
    """
    cookies: dict[str, str] = {}
    for name, value in headers:
        if name == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                key, found, content = pair.strip(" \t").partition("=")
                if found and _NAME.match(key):
                    if len(content) > 1 and content[0] == content[-1] == '"':
                        content = content[1:-1]
                    cookies.setdefault(key, content)
    return cookies


def set_cookie(
    name: str,
    value: str,
    *,
    max_age: int | None = None,
    path: str = "/",
    domain: str | None = None,
    secure: bool = False,
    http_only: bool = True,
    same_site: Literal["Lax", "Strict", "None"] | None = "Lax",
) -> tuple[str, str]:
    """A ``Set-Cookie`` header pair, for ``headers=[set_cookie(…)]``.

    Args:
        max_age: seconds; None: until the browser closes; 0: the cookie is deleted.

    Raises:
        ValueError: a name, value or attribute with characters that would end it early.
    """
    if not _NAME.match(name):
        raise ValueError(f"cookie name {name!r} is not a token")
    if not _VALUE.match(value):
        raise ValueError(
            f"the value of cookie {name!r} has a character that a cookie can't; quote it yourself first"
        )
    for attribute in (path, domain or ""):
        if not _ATTRIBUTE.match(attribute):
            raise ValueError(f"{attribute!r} can't be an attribute of cookie {name!r}")
    parts = [f"{name}={value}", f"Path={path}"]
    if domain:
        parts.append(f"Domain={domain}")
    if max_age is not None:
        parts.append(f"Max-Age={max_age}")
    if secure:
        parts.append("Secure")
    if http_only:
        parts.append("HttpOnly")
    if same_site is not None:
        parts.append(f"SameSite={same_site}")
    return "Set-Cookie", "; ".join(parts)

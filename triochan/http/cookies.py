"""Cookies: out of a message's headers, and into a response's (RFC 6265)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal, get_args

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_VALUE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*\Z")
SameSite = Literal["Lax", "Strict", "None"]
"""When browsers send a cookie along with requests that other sites make (RFC 6265bis section 5.6.7)."""

TLS_PREFIXES = ("__secure-", "__host-", "__http-")
"""How the names of cookies begin, in lower case, that browsers take over TLS only."""
_HTTP_PREFIXES = ("__http-", "__host-http-")
_MAX_COOKIE = 4096
_MAX_ATTRIBUTE = 1024
"""Octets, beyond which browsers throw a cookie away, or an attribute (RFC 6265bis section 5.6)."""
_DOMAIN = re.compile(r"\.?[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)*\Z")
_ATTRIBUTE = re.compile(r"[\x20-\x3a\x3c-\x7e]*\Z")


def parse_cookies(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The cookies of a request; of two with one name the first counts, what is not a cookie is passed over.

    Args:
        headers: ``message["headers"]``.
    """
    cookies: dict[str, str] = {}
    for name, value in cookie_pairs(headers):
        cookies.setdefault(name, value)
    return cookies


def cookie_pairs(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[str, str]]:
    """The cookies of a request, each with its name, in the order in which they came.

    A name may come several times: browsers keep one cookie for each path and domain, and don't say whose is whose.

    Args:
        headers: ``message["headers"]``.
    """
    for name, value in headers:
        if name == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                key, found, content = pair.strip(" \t").partition("=")
                if found and _NAME.match(key):
                    if len(content) > 1 and content[0] == content[-1] == '"':
                        content = content[1:-1]
                    yield key, content


def set_cookie(
    name: str,
    value: str,
    *,
    max_age: int | None = None,
    path: str = "/",
    domain: str | None = None,
    secure: bool = False,
    http_only: bool = True,
    same_site: SameSite | None = "Lax",
) -> tuple[str, str]:
    """A ``Set-Cookie`` header pair, for ``headers=[set_cookie(…)]``.

    Args:
        max_age: seconds; None: until the browser closes; 0: the cookie is deleted.

    Raises:
        ValueError: a name, value or attribute with characters that would end it early; a ``max_age`` that is no
            whole number; a ``same_site`` that there is not; what browsers throw away: a path that does not begin with
            a slash, a domain that is none, ``SameSite=None`` without ``Secure``, a name with the prefix
            ``__Secure-``, ``__Host-`` or ``__Http-`` without what it promises, a name and a value of more than 4,096
            bytes together (RFC 6265bis sections 4.1.3, 5.6 and 5.7).
    """
    if not isinstance(name, str) or not _NAME.match(name):
        raise ValueError(f"cookie name {name!r} is not a token")
    if not _VALUE.match(value):
        raise ValueError(
            f"the value of cookie {name!r} has a character that a cookie can't; quote it yourself first"
        )
    if len(name) + len(value) > _MAX_COOKIE:
        raise ValueError(
            f"browsers throw cookie {name!r:.100} away: its name and value have {len(name) + len(value)} bytes, and "
            f"they take {_MAX_COOKIE}; keep what is large in a session"
        )
    for attribute in (path, domain or ""):
        if (
            not isinstance(attribute, str)
            or not _ATTRIBUTE.match(attribute)
            or len(attribute) > _MAX_ATTRIBUTE
        ):
            raise ValueError(f"{attribute!r:.100} can't be an attribute of cookie {name!r}")
    if not path.startswith("/"):
        raise ValueError(f"the path of cookie {name!r} begins with '/', and {path!r} does not")
    if domain is not None and not _DOMAIN.match(domain):
        raise ValueError(
            f"the domain of cookie {name!r} is a host's name such as 'example.com', without scheme, port or path, "
            f"not {domain!r}; None is the host that was asked, and no other"
        )
    if max_age is not None and (isinstance(max_age, bool) or not isinstance(max_age, int)):
        raise ValueError(f"max_age of cookie {name!r} is a whole number of seconds, not {max_age!r}")
    if same_site is not None and same_site not in get_args(SameSite):
        raise ValueError(
            f"same_site of cookie {name!r} is one of {', '.join(map(repr, get_args(SameSite)))}, not {same_site!r}"
        )
    if same_site == "None" and not secure:
        raise ValueError(
            f"browsers take cookie {name!r} with same_site='None' over TLS only: set secure=True"
        )
    prefix = name.lower()
    if prefix.startswith(TLS_PREFIXES) and not secure:
        raise ValueError(f"browsers take cookie {name!r} over TLS only, for its prefix: set secure=True")
    if prefix.startswith("__host-") and (domain is not None or path != "/"):
        raise ValueError(
            f"browsers take cookie {name!r} with path='/' and without a domain only, for its prefix"
        )
    if prefix.startswith(_HTTP_PREFIXES) and not http_only:
        raise ValueError(f"browsers take cookie {name!r} with http_only=True only, for its prefix")
    parts = [f"{name}={value}", f"Path={path}"]
    if domain is not None:
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

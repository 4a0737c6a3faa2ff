"""Where pages come from, and by which names a server is known (RFC 6454, RFC 9110 section 7.2)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from .exceptions import ImproperlyConfigured

_HOST = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._\-]+)(?::(?P<port>[0-9]{1,5}))?"
AUTHORITY = re.compile(_HOST + r"\Z")
"""What a ``Host`` header may say: a name or an address, and a port."""
_ORIGIN = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://" + _HOST + r"\Z")
_PATTERN = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://(?P<host>\*\.[A-Za-z0-9._\-]+)(?::(?P<port>[0-9]{1,5}))?\Z"
)
OPAQUE = ("null", "file://")
"""What pages without an origin of their own say (RFC 6454 section 7.3)."""
PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def _host(text: str) -> str:
    """As names and addresses are compared: small letters, no dot at the end, IPv6 in its shortest form."""
    text = text.lower().rstrip(".")
    if text.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(text[1:-1])}]"
        except ValueError:
            pass  # it is nobody's
    return text


class Origin(NamedTuple):
    """Where a page came from (RFC 6454), in lower case, its port always said; None: the scheme has no usual one."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str, form: re.Pattern[str] = _ORIGIN) -> Origin | None:
        """None for what is no ``scheme://host:port``: ``null``, a path, a user name."""
        found = form.match(text)
        if found is None:
            return None
        scheme = found["scheme"].lower()
        port = int(found["port"]) if found["port"] else PORTS.get(scheme)
        return cls(scheme, _host(found["host"]), port)


class AllowedHosts:
    """Names by which a server may be called.

    Args:
        patterns: ``"example.com"``, ``".example.com"`` for it and all below it, ``"*"`` for any. Ports don't count.

    Raises:
        ImproperlyConfigured: something that is no host's name.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        if isinstance(patterns, str):
            raise ImproperlyConfigured(
                f"allowed_hosts is a list of names, not one string; write [{patterns!r}]"
            )
        names: list[str] = []
        for pattern in patterns:
            name = _host(pattern) if isinstance(pattern, str) else ""
            if name != "*" and not re.match(r"\[[0-9a-f:.]+\]\Z|\.?[a-z0-9_\-][a-z0-9._\-]*\Z", name):
                raise ImproperlyConfigured(
                    f"allowed_hosts takes names such as 'example.com', '.example.com' or '*', not {pattern!r}"
                )
            names.append(name)
        self.patterns = tuple(names)

    def allows(self, host: str) -> bool:
        """Whether ``host``, a name or address without a port, is one of them."""
        host = _host(host)
        return any(
            pattern == "*"
            or host == pattern
            or (pattern[0] == "." and (host.endswith(pattern) or host == pattern[1:]))
            for pattern in self.patterns
        )

    def allows_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request's ``Host`` header names one of them."""
        host, _ = host_and_port(headers)
        return host is not None and self.allows(host)


class AllowedOrigins:
    """Pages that may open WebSockets, beside the server's own.

    Args:
        patterns: ``"https://example.com"``, ``"https://*.example.com"`` for the hosts below it, ``"*"`` for any page
            at all. A port other than the scheme's usual one is part of it. ``"null"`` and ``"file://"`` for pages that
            say so: those of a sandbox or a file, which anybody may have made.

    Raises:
        ImproperlyConfigured: something that is no origin.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        if isinstance(patterns, str):
            raise ImproperlyConfigured(
                f"allowed_origins is a list of origins, not one string; write [{patterns!r}]"
            )
        self.any = False
        self._opaque: set[str] = set()
        self._exact: set[Origin] = set()
        self._below: set[Origin] = set()
        for pattern in patterns:
            if pattern == "*":
                self.any = True
            elif pattern in OPAQUE:
                self._opaque.add(pattern)
            elif isinstance(pattern, str) and (exact := Origin.parse(pattern)):
                self._exact.add(exact)
            elif isinstance(pattern, str) and (below := Origin.parse(pattern, _PATTERN)):
                self._below.add(below)
            else:
                raise ImproperlyConfigured(
                    f"allowed_origins takes origins such as 'https://example.com', 'https://*.example.com:8443', "
                    f"'null' or '*', not {pattern!r}"
                )

    def allows_text(self, text: str) -> bool:
        """Whether the page is one of them whose ``Origin`` is ``text``; what is no origin is one only by name."""
        origin = Origin.parse(text)
        return self.any or text in self._opaque or (origin is not None and self.allows(origin))

    def allows(self, origin: Origin) -> bool:
        if self.any or origin in self._exact:
            return True
        return any(
            origin.scheme == below.scheme
            and origin.port == below.port
            and origin.host.endswith(below.host[1:])
            for below in self._below
        )


def values_of(headers: Iterable[Any], name: bytes) -> list[bytes]:
    """The values of every field of that name in a message's headers; what is no pair is passed over.

    Not a wire's headers, as :func:`triochan.headers.values` takes them: names are in lower case here, and a message
    may be made by hand.
    """
    return [pair[1] for pair in headers if len(pair) == 2 and pair[0] == name]


def host_and_port(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str | None, int | None]:
    """What the one ``Host`` field of ``headers`` says; None where there is not one, or it says something else."""
    values = values_of(headers, b"host")
    found = AUTHORITY.match(values[0].decode("latin-1")) if len(values) == 1 else None
    if found is None:
        return None, None
    return _host(found["host"]), int(found["port"]) if found["port"] else None

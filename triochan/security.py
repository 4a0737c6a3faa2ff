"""Who may open a WebSocket, and by which names the server is known (Channels 1: "Security").

A browser sends a site's cookies along with a WebSocket that any other site opens. So a consumer that reads them
refuses a handshake that comes from elsewhere: the ``Origin`` that the browser says has to be the server's own, scheme,
host and port, or one of the application's ``allowed_origins``.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn

from .exceptions import DenyConnection, ImproperlyConfigured
from .message import Message
from .routing import Consumer, check_consumer, name_of

logger = logging.getLogger("triochan.security")

_HOST = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._\-]+)(?::(?P<port>[0-9]{1,5}))?"
_AUTHORITY = re.compile(_HOST + r"\Z")
_ORIGIN = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://" + _HOST + r"\Z")
_PATTERN = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://(?P<host>\*\.[A-Za-z0-9._\-]+)(?::(?P<port>[0-9]{1,5}))?\Z"
)
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_PAGE_SCHEMES = {"ws": "http", "wss": "https"}
LOCAL_HOSTS = ("localhost", ".localhost", "127.0.0.1", "[::1]")
"""What :func:`allowed_hosts_only` allows where the application names no hosts."""


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
        port = int(found["port"]) if found["port"] else _PORTS.get(scheme)
        return cls(scheme, found["host"].lower().rstrip("."), port)


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
        self.patterns = tuple(pattern.lower() for pattern in patterns)
        for pattern in self.patterns:
            if pattern != "*" and not re.match(r"\[[0-9a-f:.]+\]\Z|\.?[a-z0-9_\-][a-z0-9._\-]*\Z", pattern):
                raise ImproperlyConfigured(
                    f"allowed_hosts takes names such as 'example.com', '.example.com' or '*', not {pattern!r}"
                )

    def allows(self, host: str) -> bool:
        """Whether ``host``, a name or address without a port, is one of them."""
        host = host.lower().rstrip(".")
        return any(
            pattern == "*"
            or host == pattern
            or (pattern[0] == "." and (host.endswith(pattern) or host == pattern[1:]))
            for pattern in self.patterns
        )

    def allows_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request's ``Host`` header names one of them."""
        host, _ = _host_and_port(headers)
        return host is not None and self.allows(host)


class AllowedOrigins:
    """Pages that may open WebSockets, beside the server's own.

    Args:
        patterns: ``"https://example.com"``, ``"https://*.example.com"`` for the hosts below it, ``"*"`` for any page
            at all. A port other than the scheme's usual one is part of it.

    Raises:
        ImproperlyConfigured: something that is no origin.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        if isinstance(patterns, str):
            raise ImproperlyConfigured(
                f"allowed_origins is a list of origins, not one string; write [{patterns!r}]"
            )
        self.any = False
        self._exact: set[Origin] = set()
        self._below: set[Origin] = set()
        for pattern in patterns:
            if pattern == "*":
                self.any = True
            elif exact := Origin.parse(pattern):
                self._exact.add(exact)
            elif below := Origin.parse(pattern, _PATTERN):
                self._below.add(below)
            else:
                raise ImproperlyConfigured(
                    f"allowed_origins takes origins such as 'https://example.com', 'https://*.example.com:8443' or "
                    f"'*', not {pattern!r}"
                )

    def allows(self, origin: Origin) -> bool:
        if self.any or origin in self._exact:
            return True
        return any(
            origin.scheme == below.scheme
            and origin.port == below.port
            and origin.host.endswith(below.host[1:])
            for below in self._below
        )


def is_same_origin(message: Message, allowed: AllowedOrigins) -> bool:
    """Whether the page that made a request or a handshake is the server's own, or one of ``allowed``.

    Scheme, host and port of its ``Origin`` are compared. One without an ``Origin`` passes where it has no cookies:
    browsers send the header with every handshake and every POST, so it is missing only from other programs.

    Args:
        message: of ``websocket.connect`` or ``http.request``.
        allowed: ``message.application.allowed_origins``.
    """
    if allowed.any:
        return True
    headers = message["headers"]
    said = _values(headers, b"origin")
    if not said:
        return not _values(headers, b"cookie")
    origin = Origin.parse(said[0].decode("latin-1")) if len(said) == 1 else None
    if origin is None:
        return False
    host, port = _host_and_port(headers)
    scheme = message.get("scheme", "ws")
    own = Origin(_PAGE_SCHEMES.get(scheme, scheme), host or "", port or _PORTS.get(scheme))
    return origin == own or allowed.allows(origin)


def check_same_origin(message: Message, allowed: AllowedOrigins) -> None:
    """Refuse a handshake for which :func:`is_same_origin` does not hold.

    Raises:
        DenyConnection: it is refused; the log says why.
    """
    if is_same_origin(message, allowed):
        return
    said = b", ".join(_values(message["headers"], b"origin"))
    if not said:
        _deny(message, "it has cookies and no Origin header; a client that is no browser has to send one")
    host, port = _host_and_port(message["headers"])
    _deny(
        message,
        f"its page came from {said.decode('latin-1')!r:.200}, and this server is "
        f"{message.get('scheme', 'ws')}://{host}{f':{port}' if port else ''}. If that page is yours, add its origin to "
        "the application's allowed_origins (behind a proxy that ends TLS, the server's own https:// origin too)",
    )


def allowed_hosts_only(handler: Consumer) -> Consumer:
    """Refuse a handshake unless its ``Origin`` names one of the application's ``allowed_hosts``, on any port.

    A missing ``Origin``, or one that is none, is refused too. Without ``allowed_hosts``, pages from this machine are
    allowed. Messages other than ``websocket.connect`` pass, so it may wrap every handler of a class
    (Channels 1: ``channels.security.websockets.allowed_hosts_only``).
    """
    check_consumer(handler, f"allowed_hosts_only({name_of(handler)})")

    @functools.wraps(handler)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        message = message_among(args, "allowed_hosts_only")
        if message.channel.name == "websocket.connect":
            hosts = application_of(message).allowed_hosts or AllowedHosts(LOCAL_HOSTS)
            said = _values(message.get("headers", ()), b"origin")
            origin = Origin.parse(said[0].decode("latin-1")) if len(said) == 1 else None
            if origin is None or not hosts.allows(origin.host):
                _deny(
                    message, f"its Origin is {said!r:.200}, and allowed_hosts are {', '.join(hosts.patterns)}"
                )
        return await handler(*args, **kwargs)

    return wrapper


def same_origin_only(handler: Consumer) -> Consumer:
    """Refuse a handshake whose page came from elsewhere, as the session and user decorators do by themselves.

    For a consumer that reads cookies on its own. Messages other than ``websocket.connect`` pass.
    """
    check_consumer(handler, f"same_origin_only({name_of(handler)})")

    @functools.wraps(handler)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        message = message_among(args, "same_origin_only")
        if message.channel.name == "websocket.connect":
            check_same_origin(message, application_of(message).allowed_origins)
        return await handler(*args, **kwargs)

    return wrapper


def message_among(args: tuple[Any, ...], name: str) -> Message:
    """The message that a handler, or a method after its ``self``, is called with.

    Raises:
        ValueError: neither of the first two arguments is one.
    """
    for each in args[:2]:
        if isinstance(each, Message):
            return each
    raise ValueError(
        f"{name} wraps handlers whose first argument is a Message; it was called with {args!r:.200}"
    )


def application_of(message: Message) -> Any:
    """The :class:`triochan.Application` that the message is for.

    Raises:
        RuntimeError: nothing says which; the message was made by hand.
    """
    application = message.application
    if application is None:
        raise RuntimeError(
            f"{message!r} belongs to no application, so there is no session store to look into; a server's messages "
            "and a test client's have one, by hand it is message.application = Application(routing)"
        )
    return application


def _deny(message: Message, reason: str) -> NoReturn:
    logger.warning("a handshake on %r is refused: %s", message.get("path"), reason)
    raise DenyConnection


def _values(headers: Iterable[Any], name: bytes) -> list[bytes]:
    return [pair[1] for pair in headers if len(pair) == 2 and pair[0] == name]


def _host_and_port(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str | None, int | None]:
    values = _values(headers, b"host")
    found = _AUTHORITY.match(values[0].decode("latin-1")) if len(values) == 1 else None
    if found is None:
        return None, None
    return found["host"].lower().rstrip("."), int(found["port"]) if found["port"] else None

"""Who may open a WebSocket, and by which names the server is known (Channels 1: "Security").

A browser sends a site's cookies along with a WebSocket that any other site opens. So a consumer that reads them
refuses a handshake that comes from elsewhere: the ``Origin`` that the browser says has to be the server's own, scheme,
host and port, or one of the application's ``allowed_origins``.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, NoReturn

from ..decorators import message_among
from ..exceptions import DenyConnection
from ..message import Message, application_of
from ..origins import PORTS, AllowedHosts, AllowedOrigins, Origin, host_and_port, values_of
from ..porting import lookup
from ..routing import Consumer, check_consumer, name_of

__all__ = [
    "LOCAL_HOSTS",
    "AllowedHosts",
    "AllowedOrigins",
    "Origin",
    "allowed_hosts_only",
    "check_same_origin",
    "is_same_origin",
    "same_origin_only",
]

logger = logging.getLogger("triochan.security")

_PAGE_SCHEMES = {"ws": "http", "wss": "https"}
LOCAL_HOSTS = ("localhost", ".localhost", "127.0.0.1", "[::1]")
"""What :func:`allowed_hosts_only` allows where the application names no hosts."""


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
    said = values_of(headers, b"origin")
    if not said:
        return not values_of(headers, b"cookie")
    text = said[0].decode("latin-1") if len(said) == 1 else ""
    origin = Origin.parse(text)
    if origin is None:
        return allowed.allows_text(text)
    host, port = host_and_port(headers)
    scheme = message.get("scheme", "ws")
    own = Origin(_PAGE_SCHEMES.get(scheme, scheme), host or "", port or PORTS.get(scheme))
    return origin == own or allowed.allows(origin)


def check_same_origin(message: Message, allowed: AllowedOrigins) -> None:
    """Refuse a handshake for which :func:`is_same_origin` does not hold.

    Raises:
        DenyConnection: it is refused; the log says why.
    """
    if is_same_origin(message, allowed):
        return
    said = b", ".join(values_of(message["headers"], b"origin"))
    if not said:
        _deny(message, "it has cookies and no Origin header; a client that is no browser has to send one")
    host, port = host_and_port(message["headers"])
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
            said = values_of(message.get("headers", ()), b"origin")
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


def _deny(message: Message, reason: str) -> NoReturn:
    logger.warning("a handshake on %r is refused: %s", message.get("path"), reason)
    raise DenyConnection


if not TYPE_CHECKING:
    __getattr__ = lookup(__name__)

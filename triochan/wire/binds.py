"""Where to listen, as text says it: ``127.0.0.1:8000``, ``[::1]:8000``, ``unix:/run/app.sock``, ``fd://3``."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from ..exceptions import ImproperlyConfigured

EXPECTED = "HOST:PORT such as 127.0.0.1:8000 or [::1]:8000, unix:PATH, or fd://NUMBER"


@attrs.frozen
class Bind:
    """One place to listen.

    Attributes:
        host: an address or a name; None: every interface. Of a TCP socket, as is
        port: 0 picks a free one.
        path: of a Unix socket, else None.
        descriptor: of a socket that listens already and was inherited, else None.
    """

    host: str | None = None
    port: int = 0
    path: str | None = None
    descriptor: int | None = None

    def __str__(self) -> str:
        if self.descriptor is not None:
            return f"descriptor {self.descriptor}"
        if self.path is not None:
            return f"the Unix socket {self.path}"
        return place(self.host or "*", self.port)


def place(host: str, port: int) -> str:
    """Both as an address bar has them: IPv6 in brackets."""
    return f"{f'[{host}]' if ':' in host else host}:{port}"


def parse_bind(text: str) -> Bind:
    """A place to listen, as gunicorn and Hypercorn write it.

    Raises:
        ImproperlyConfigured: it is none; what was expected is said.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path:
            raise ImproperlyConfigured(f"{text!r} names no path; unix:/run/app.sock is expected")
        return Bind(path=path)
    if text.startswith("fd:"):
        number = text.removeprefix("fd://")
        if not (number.isascii() and number.isdigit() and int(number) < 2**31):
            raise ImproperlyConfigured(
                f"{text!r} names no descriptor; fd://3 is expected, the number of a socket that was inherited"
            )
        return Bind(descriptor=int(number))
    host, colon, port = text.rpartition(":")
    if not colon or "://" in text or "/" in text:
        raise ImproperlyConfigured(f"{text!r} is not where one can listen; {EXPECTED} is expected")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ImproperlyConfigured(
            f"{text!r} ends in no port: a number from 0 to 65535 is expected, as in {host or '127.0.0.1'}:8000"
        )
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ImproperlyConfigured(f"{text!r}: an IPv6 address stands in brackets, as in [::1]:8000")
    if not host:
        raise ImproperlyConfigured(
            f"{text!r} has no host; 0.0.0.0:{port} and [::]:{port} are every interface, "
            f"127.0.0.1:{port} is this machine alone"
        )
    return Bind(host, int(port))


def parse_binds(texts: str | Iterable[str]) -> list[Bind]:
    """All of them.

    Raises:
        ImproperlyConfigured: one is none, or stands there twice.
    """
    binds: list[Bind] = []
    for text in [texts] if isinstance(texts, str) else texts:
        if not isinstance(text, str):
            raise ImproperlyConfigured(f"bind takes strings, {EXPECTED}, not {text!r}")
        bind = parse_bind(text)
        if bind in binds and (bind.port or bind.host is None):
            raise ImproperlyConfigured(f"{text!r} is to be listened on twice; once is expected")
        binds.append(bind)
    return binds

"""URLs of engines, as text: which there are, and how one is shown."""

from __future__ import annotations

import re

SCHEMES = ("redis", "rediss", "valkey", "valkeys", "unix")
"""Of engines: Redis and Valkey by TCP, by TLS (with an s), and either on a Unix socket."""
MASK = "***"
_IN_QUERY = re.compile(r"(?i)([?&](?:password|secret|token)=)[^&#]+")


def without_password(url: str) -> str:
    """``url`` with its password masked, for errors, the log and ``--show-config``. One whose password has signs in it
    that a URL writes otherwise is masked as well: what stands between the first colon and the last ``@`` is."""
    scheme = url[: url.find("://") + 3] if "://" in url else ""
    rest = url.removeprefix(scheme)
    user, at, host = rest.rpartition("@")
    name, colon, _ = user.partition(":")
    if colon:
        rest = f"{name}:{MASK}{at}{host}"
    return _IN_QUERY.sub(rf"\1{MASK}", scheme + rest)

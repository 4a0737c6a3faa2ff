"""What trusted proxies say of a request: its client, scheme and host (RFC 7239; X-Forwarded-For and its like)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from .exceptions import ImproperlyConfigured
from .headers import Headers, values
from .origins import AUTHORITY

# Possessive, so that a run of spaces is not shared out anew between the two expressions that may take it.
_PAIR = re.compile(
    rb"[ \t]*+(?:(?P<name>[!#$%&\'*+\-.^_`|~0-9A-Za-z]+)=(?:(?P<token>[!#$%&\'*+\-.^_`|~0-9A-Za-z:\[\]]+)|"
    rb'"(?P<quoted>(?:[^"\\]|\\.)*)"))?[ \t]*+(?P<end>[;,]|\Z)'
)
_NODE = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?\Z")
_HIDDEN = re.compile(r"(?:unknown|_[A-Za-z0-9._\-]+)(?::(?:[0-9]{1,5}|_[A-Za-z0-9._\-]+))?\Z", re.IGNORECASE)
_NO_PATH = re.compile(r"[?#]|%[0-9A-Fa-f]{2}")
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Forwarded(NamedTuple):
    """A request as its client sent it, as far as the proxies on its way are trusted.

    Attributes:
        client: ``[host, port]``, port 0 where it is not told.
        scheme: ``"http"`` or ``"https"``.
        host: as a ``Host`` header has it; None: as the request says.
    """

    client: list[str | int] | None
    scheme: str
    host: bytes | None = None


class Front:
    """What stands in front of a server, and what that makes of a message.

    Args:
        trusted: proxies whose word on their clients is taken, as :class:`TrustedProxies` takes them.
        root_path: the path below which a proxy serves the application, such as ``"/chat"``: consumers see paths
            without it.
        health_path: where the server itself says whether it takes requests, such as ``"/healthz"``; None: nowhere.

    Raises:
        ImproperlyConfigured: an address that is none; a root path that does not begin with a slash, or ends with one; a
            health path that does not begin with one; one of them with what no path has that is compared.
    """

    def __init__(
        self,
        *,
        trusted: Iterable[str] = (),
        root_path: str = "",
        health_path: str | None = None,
    ) -> None:
        proxies = TrustedProxies(trusted)
        self._trusted = proxies if proxies.addresses else None
        self.root_path = root_path
        if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
            raise ImproperlyConfigured(
                f"root_path is a path such as '/chat', without a slash at its end, not {root_path!r}"
            )
        self.health_path = health_path
        if health_path is not None and not health_path.startswith("/"):
            raise ImproperlyConfigured(f"health_path is a path such as '/healthz', not {health_path!r}")
        for name, path in (("root_path", root_path), ("health_path", health_path or "")):
            if _NO_PATH.search(path):
                raise ImproperlyConfigured(
                    f"{name} is compared with paths that are percent-decoded and end before '?': none is {path!r}"
                )
        self.looks = self._trusted is not None or bool(root_path) or health_path is not None
        """Messages have to be shown to it."""

    def apply(self, content: dict[str, Any]) -> None:
        """Put what is known of a request's way here into its message: client, scheme, ``host``, path, ``root_path``."""
        if self._trusted is not None:
            headers = content["headers"]
            client, scheme, host = self._trusted.seen(headers, content["client"], content["scheme"])
            content["client"], content["scheme"] = client, scheme
            if host is not None:
                content["headers"] = [(b"host", host), *(pair for pair in headers if pair[0] != b"host")]
        if self.root_path:
            content["root_path"] = self.root_path
            path = content["path"]
            # A proxy may have taken it away already.
            if path == self.root_path or path.startswith(self.root_path + "/"):
                content["path"] = path[len(self.root_path) :] or "/"


class _Hop(NamedTuple):
    """What one proxy says: whom it has the request from, and how that one asked."""

    node: str
    scheme: str | None = None
    host: str | None = None


class TrustedProxies:
    """Proxies whose word on their clients is taken.

    Args:
        addresses: ``"10.0.0.1"``, ``"10.0.0.0/8"``, ``"unix"`` for whoever connects to a Unix socket, ``"*"`` for
            anybody.

    Raises:
        ImproperlyConfigured: something else.
    """

    def __init__(self, addresses: Iterable[str]) -> None:
        if isinstance(addresses, str):
            raise ImproperlyConfigured(
                f"trusted proxies are a list of addresses, not one string; write [{addresses!r}]"
            )
        self.addresses = tuple(addresses)
        self._any = "*" in self.addresses
        self._unix = self._any or "unix" in self.addresses
        self._networks = []
        for each in self.addresses:
            if each not in ("*", "unix"):
                try:
                    self._networks.append(_network(each))
                except ValueError as error:
                    raise ImproperlyConfigured(
                        "a trusted proxy is an address such as 10.0.0.1, a network such as 10.0.0.0/8, unix or *, "
                        f"not {each!r}: {error}"
                    ) from None

    def trusts(self, host: object) -> bool:
        """Whether the word of who connects from ``host`` is taken; None: from a Unix socket."""
        if host is None:
            return self._unix
        if self._any:
            return True
        address = _address(str(host))
        return address is not None and any(address in network for network in self._networks)

    def seen(self, headers: Headers, client: list[str | int] | None, scheme: str) -> Forwarded:
        """The request as its client sent it.

        The hops are gone back from the nearest to the first that is not a trusted proxy: that is the client. A hop
        that is no address ends the way back too: what lies behind it nobody vouches for.

        Args:
            headers: names in lower case.
            client, scheme: of the connection itself.
        """
        if not self.trusts(None if client is None else client[0]):
            return Forwarded(client, scheme)
        host: bytes | None = None
        for hop in reversed(_hops(headers)):
            scheme = _SCHEMES.get((hop.scheme or "").lower(), scheme)
            if hop.host is not None and AUTHORITY.match(hop.host):
                host = hop.host.encode("latin-1")
            node = _node(hop.node)
            if node is None:
                break
            client = node
            if not self.trusts(node[0]):
                break
        return Forwarded(client, scheme, host)


def _hops(headers: Headers) -> list[_Hop]:
    """The hops that the fields tell of, the farthest first; ``Forwarded`` where there is one."""
    forwarded = values(headers, b"forwarded")
    if forwarded:
        return _parse_forwarded(b",".join(forwarded))
    nodes = _list(headers, b"x-forwarded-for")
    schemes = _list(headers, b"x-forwarded-proto")
    hosts = _list(headers, b"x-forwarded-host")
    if not nodes and not schemes and not hosts:
        return []
    # These two are most often set, not added to: what the nearest proxy says holds for all.
    scheme, host = schemes[-1] if schemes else None, hosts[-1] if hosts else None
    return [_Hop(node, scheme, host) for node in nodes or [""]]


def _list(headers: Headers, name: bytes) -> list[str]:
    """The members of a field that is a list; empty ones are none (RFC 9110 section 5.6.1.2)."""
    return [
        member.decode("latin-1")
        for value in values(headers, name)
        for each in value.split(b",")
        if (member := each.strip(b" \t"))
    ]


def _parse_forwarded(value: bytes) -> list[_Hop]:
    """The elements of a ``Forwarded`` field; of one that is not well-formed, those behind what is wrong."""
    hops: list[_Hop] = []
    hop: dict[str, str] = {}
    position = 0
    while position < len(value):
        found = _PAIR.match(value, position)
        if found is None:
            # What stands before can't be told apart from what a client has made up.
            hops, hop = [], {}
            comma = value.find(b",", position)
            position = len(value) if comma < 0 else comma + 1
            continue
        if found["name"] is not None:
            text = found["token"] or re.sub(rb"\\(.)", rb"\1", found["quoted"] or b"")
            hop[found["name"].lower().decode("ascii")] = text.decode("latin-1")
        position = found.end()
        if found["end"] != b";":
            hops.append(_Hop(hop.get("for", ""), hop.get("proto"), hop.get("host")))
            hop = {}
    return hops


def _node(text: str) -> list[str | int] | None:
    """``[host, port]`` of a hop: an address, in brackets or not, with a port or not; or a name that hides it
    (RFC 7239 section 6)."""
    address = _address(text)
    if address is not None:
        return [str(address), 0]
    found = _NODE.match(text)
    if found is not None:
        address = _address(found["six"] or found["four"])
        port = int(found["port"] or 0)
        return None if address is None or port > 65535 else [str(address), port]
    return [text, 0] if _HIDDEN.match(text) else None


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return unmapped(address)


def unmapped(address: Address) -> Address:
    """The IPv4 address of ``::ffff:192.0.2.1``, as a socket that takes both families has it; any other is itself."""
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    network = ipaddress.ip_network(text)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < 96:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - 96))

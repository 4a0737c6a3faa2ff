"""The PROXY protocol, versions 1 and 2: what a proxy says before the client's bytes.

HAProxy, "The PROXY protocol", 2020. Pure: bytes to values.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import NamedTuple

from ..proxies import unmapped

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_V1 = 107
"""Bytes of a first version's line, its end included."""
_LINE = re.compile(
    rb"PROXY (?:UNKNOWN[^\r\n]*|(?P<family>TCP4|TCP6) (?P<source>[0-9A-Fa-f.:]+) (?P<destination>[0-9A-Fa-f.:]+) "
    rb"(?P<source_port>[0-9]{1,5}) (?P<destination_port>[0-9]{1,5}))\r\n\Z"
)
_FIXED = struct.Struct("!12sBBH")
_TCP = {0x11: (4, struct.Struct("!4s4sHH")), 0x21: (6, struct.Struct("!16s16sHH"))}


class ProxyProtocolError(ValueError):
    """What came is no header of the PROXY protocol."""


class ProxyHeader(NamedTuple):
    """What a proxy said.

    Attributes:
        size: bytes of it.
        client, server: ``[host, port]`` of the connection to the proxy; None where the proxy says nothing of them: the
            connection is its own (a health check), or of a kind without such addresses.
    """

    size: int
    client: list[str | int] | None = None
    server: list[str | int] | None = None


def parse_proxy_header(data: bytes) -> ProxyHeader | None:
    """The header that ``data`` begins with; None: more bytes have to come.

    Raises:
        ProxyProtocolError: it does not begin with one.
    """
    if data.startswith(SIGNATURE[: len(data)]):
        return _parse_v2(data)
    if data.startswith(b"PROXY "[: len(data)]):
        return _parse_v1(data)
    raise ProxyProtocolError(f"a header of the PROXY protocol is expected first, not {data[:16]!r}")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\n", 0, MAX_V1) + 1
    if not end:
        if len(data) >= MAX_V1:
            raise ProxyProtocolError(f"the line of the PROXY protocol has no end within {MAX_V1} bytes")
        return None
    found = _LINE.match(data[:end])
    if found is None:
        raise ProxyProtocolError(f"this is no line of the PROXY protocol: {data[:end]!r}")
    if found["family"] is None:
        return ProxyHeader(end)
    version = 4 if found["family"] == b"TCP4" else 6
    client, server = (
        _host_and_port(found[name].decode("ascii"), int(found[f"{name}_port"]), version)
        for name in ("source", "destination")
    )
    return ProxyHeader(end, client, server)


def _host_and_port(host: str, port: int, version: int) -> list[str | int]:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ProxyProtocolError(f"{host!r} is no address") from None
    if address.version != version or port > 65535:
        raise ProxyProtocolError(f"{host}, port {port} is no address of TCP{version}")
    return [str(unmapped(address)), port]


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < _FIXED.size:
        return None
    _, version_and_command, family, length = _FIXED.unpack_from(data)
    version, command = version_and_command >> 4, version_and_command & 15
    if version != 2 or command > 1:
        raise ProxyProtocolError(f"version {version}, command {command} of the PROXY protocol is not known")
    size = _FIXED.size + length
    if len(data) < size:
        return None
    if command == 0:  # LOCAL: whatever stands behind it counts for nothing
        return ProxyHeader(size)
    if family >> 4 > 3 or family & 15 > 2:
        raise ProxyProtocolError(
            f"family {family >> 4}, transport {family & 15} of the PROXY protocol is not known"
        )
    known = _TCP.get(family)
    if known is None:  # UDP, a Unix socket, unspecified
        return ProxyHeader(size)
    version, addresses = known
    if length < addresses.size:
        raise ProxyProtocolError(f"{length} bytes are too few for two addresses of TCP{version}")
    source, destination, source_port, destination_port = addresses.unpack_from(data, _FIXED.size)
    return ProxyHeader(
        size,
        [str(unmapped(ipaddress.ip_address(source))), source_port],
        [str(unmapped(ipaddress.ip_address(destination))), destination_port],
    )

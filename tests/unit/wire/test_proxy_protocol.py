"""The PROXY protocol: read whole, cut at every byte, and wrong."""

from __future__ import annotations

import contextlib
import ipaddress
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triochan.wire.proxy_protocol import (
    MAX_V1,
    SIGNATURE,
    ProxyHeader,
    ProxyProtocolError,
    parse_proxy_header,
)

PORTS = st.integers(0, 65535)


def v2(command: int, family: int, body: bytes, *, version: int = 2) -> bytes:
    return SIGNATURE + struct.pack("!BBH", version << 4 | command, family, len(body)) + body


def addresses(
    source: str, destination: str, source_port: int, destination_port: int, tlvs: bytes = b""
) -> bytes:
    packed = [ipaddress.ip_address(each).packed for each in (source, destination)]
    return b"".join(packed) + struct.pack("!HH", source_port, destination_port) + tlvs


CLIENT: list[Any] = ["192.0.2.1", 50000]
SERVER: list[Any] = ["198.51.100.1", 443]
HEADERS = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 50000 443\r\n", CLIENT, SERVER),
    (b"PROXY TCP6 2001:db8::1 2001:DB8::2 1 2\r\n", ["2001:db8::1", 1], ["2001:db8::2", 2]),
    (b"PROXY UNKNOWN\r\n", None, None),
    (b"PROXY UNKNOWN ffff::1 whatever 0 0\r\n", None, None),
    (v2(1, 0x11, addresses("192.0.2.1", "198.51.100.1", 50000, 443)), CLIENT, SERVER),
    (v2(1, 0x11, addresses("192.0.2.1", "198.51.100.1", 50000, 443, b"\x04\x00\x01x")), CLIENT, SERVER),
    (v2(1, 0x21, addresses("2001:db8::1", "2001:db8::2", 1, 2)), ["2001:db8::1", 1], ["2001:db8::2", 2]),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.1 50000 443\r\n", CLIENT, SERVER),
    (v2(1, 0x21, addresses("::ffff:192.0.2.1", "::ffff:198.51.100.1", 50000, 443)), CLIENT, SERVER),
    (v2(0, 0, b""), None, None),
    (v2(0, 0xF7, b"whatever"), None, None),
    (v2(1, 0x12, addresses("192.0.2.1", "198.51.100.1", 50000, 443)), None, None),
    (v2(0, 0x11, addresses("192.0.2.1", "198.51.100.1", 50000, 443)), None, None),
    (v2(1, 0x31, bytes(216)), None, None),
    (v2(1, 0, b""), None, None),
]


@pytest.mark.parametrize(("data", "client", "server"), HEADERS)
@pytest.mark.parametrize("rest", [b"", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01"])
def test_a_header_and_what_follows(data: bytes, client: Any, server: Any, rest: bytes) -> None:
    assert parse_proxy_header(data + rest) == ProxyHeader(len(data), client, server)


@pytest.mark.parametrize("data", [header[0] for header in HEADERS])
def test_cut_at_every_byte_it_waits_for_more(data: bytes) -> None:
    for end in range(len(data)):
        assert parse_proxy_header(data[:end]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXZ",
        b"proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
        b"\x16\x03\x01",
        b"\r\n\r\n\x00\r\nQUIX",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 50000 443\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 50000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 50000 65536\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 -1 443\r\n",
        b"PROXY TCP4 192.0.2 198.51.100.1 50000 443\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.1 50000 443\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.1 50000 443\r\n",
        b"PROXY TCP4  192.0.2.1 198.51.100.1 50000 443\r\n",
        b"PROXY UNKNOWN " + b"x" * MAX_V1,
        v2(2, 0x11, addresses("192.0.2.1", "198.51.100.1", 1, 2)),
        v2(1, 0x11, addresses("192.0.2.1", "198.51.100.1", 1, 2), version=3),
        v2(1, 0x41, bytes(216)),
        v2(1, 0x13, addresses("192.0.2.1", "198.51.100.1", 1, 2)),
        v2(1, 0xFF, b""),
        v2(1, 0x11, b"too short"),
        v2(1, 0x21, addresses("192.0.2.1", "198.51.100.1", 1, 2)),
    ],
)
def test_what_is_no_header(data: bytes) -> None:
    with pytest.raises(ProxyProtocolError):
        parse_proxy_header(data)


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), PORTS, PORTS)
def test_both_versions_say_the_same(source: Any, destination: Any, one: int, two: int) -> None:
    first = parse_proxy_header(f"PROXY TCP4 {source} {destination} {one} {two}\r\n".encode())
    second = parse_proxy_header(v2(1, 0x11, addresses(str(source), str(destination), one, two)))
    assert first is not None
    assert second is not None
    assert first[1:] == second[1:] == ([str(source), one], [str(destination), two])


@given(
    st.one_of(
        st.binary(max_size=300),
        st.builds(lambda rest: b"PROXY " + rest, st.binary(max_size=200)),
        st.builds(lambda rest: SIGNATURE + rest, st.binary(max_size=200)),
    )
)
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(ProxyProtocolError):
        parse_proxy_header(data)

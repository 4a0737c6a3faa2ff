"""The opening handshake of a WebSocket, without I/O (RFC 6455 section 4.2)."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import attrs

from ..headers import Head, members, values
from ..replies import Refusal


@attrs.frozen
class Upgrade:
    """A valid opening handshake (RFC 6455 section 4.2.1), its decision pending.

    Attributes:
        content: of the ``websocket.connect`` message.
        subprotocols: what the client offers, in its order of preference.
        rest: bytes that came behind the head.
    """

    content: dict[str, Any]
    key: bytes
    subprotocols: list[str]
    rest: bytes = b""

    def head(self) -> bytes:
        """The head, reduced to what trio-websocket needs for its answer: nothing in it can surprise it."""
        protocols = ", ".join(self.subprotocols).encode()
        return (
            b"GET / HTTP/1.1\r\nHost: -\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: " + self.key + b"\r\n"
            + (b"Sec-WebSocket-Protocol: " + protocols + b"\r\n" if protocols else b"")
            + b"\r\n"
        )  # fmt: skip


def wants_upgrade(request: Head) -> bool:
    """The client asks to go on as a WebSocket: an ``Upgrade`` to it that ``Connection`` lists."""
    headers = request.headers
    return b"websocket" in members(headers, b"upgrade") and b"upgrade" in members(headers, b"connection")


def check_upgrade(request: Head, content: dict[str, Any], rest: bytes) -> Upgrade | Refusal:
    """The handshake as trio-websocket may have it; what is wrong with it is said in plain text."""
    if request.method != b"GET":
        method = request.method.decode("latin-1")
        return Refusal(405, f"a WebSocket handshake is a GET, not a {method}", [(b"Allow", b"GET")])
    if request.http_version < b"1.1":
        return Refusal(400, "a WebSocket handshake needs HTTP/1.1")
    versions = values(request.headers, b"sec-websocket-version")
    if versions != [b"13"]:
        return Refusal(426, "this server speaks WebSocket version 13", [(b"Sec-WebSocket-Version", b"13")])
    keys = values(request.headers, b"sec-websocket-key")
    try:
        valid = len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == 16
    except binascii.Error:
        valid = False
    if not valid:
        return Refusal(400, "a WebSocket handshake needs one Sec-WebSocket-Key: 16 bytes in base64")
    try:
        offered = [each.decode("ascii") for each in values(request.headers, b"sec-websocket-protocol")]
    except UnicodeDecodeError:
        return Refusal(400, "Sec-WebSocket-Protocol is not ASCII")
    subprotocols = [name for value in offered for each in value.split(",") if (name := each.strip())]
    connect = {**content, "scheme": "wss" if content["scheme"] == "https" else "ws"}
    connect |= {"subprotocols": subprotocols, "order": 0}
    return Upgrade(connect, keys[0], subprotocols, rest)

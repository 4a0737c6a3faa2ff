"""The opening handshake of a WebSocket, without I/O (RFC 6455 section 4.2)."""

from __future__ import annotations

import base64
import binascii
import email.utils
import functools
import hashlib
import re
import time
from http import HTTPStatus
from typing import Any

import attrs

from ..headers import Head, Headers, has, is_token, members
from ..replies import Refusal
from .deflate import Agreement, Offer

_SHORT = 200
"""Bytes of a header's value up to which what was read in it is remembered."""
_EXTENSIONS = "Sec-WebSocket-Extensions"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)
_FRAMING = frozenset({
    b"connection", b"content-length", b"sec-websocket-accept", b"sec-websocket-extensions",
    b"sec-websocket-protocol", b"transfer-encoding", b"upgrade",
})  # fmt: skip
_QUOTED_PAIR = re.compile(rb"\\(.)", re.DOTALL)


@attrs.frozen
class Upgrade:
    """A valid opening handshake (RFC 6455 section 4.2.1), its decision pending.

    Attributes:
        content: of the ``websocket.connect`` message.
        key: the client's ``Sec-WebSocket-Key``: 16 bytes in base64.
        subprotocols: what the client offers, in its order of preference.
        rest: bytes that came behind the head.
        extensions: what the client offers, in its order of preference.
    """

    content: dict[str, Any]
    key: bytes
    subprotocols: list[str]
    rest: bytes = b""
    extensions: list[Offer] = attrs.field(factory=list)


def wants_upgrade(request: Head) -> bool:
    """The client asks to go on as a WebSocket: an ``Upgrade`` to it that ``Connection`` lists."""
    headers = request.headers
    return b"websocket" in members(headers, b"upgrade") and b"upgrade" in members(headers, b"connection")


def check_upgrade(request: Head, content: dict[str, Any], rest: bytes) -> Upgrade | Refusal:
    """A handshake that may be accepted, or what is wrong with it, in plain text (RFC 6455 section 4.2)."""
    if request.method != b"GET":
        method = request.method.decode("latin-1")
        return Refusal(405, f"a WebSocket handshake is a GET, not a {method}", [(b"Allow", b"GET")])
    if request.http_version < b"1.1":
        return Refusal(400, "a WebSocket handshake needs HTTP/1.1")
    fields: dict[bytes, list[bytes]] = {}
    for name, value in request.headers:
        fields.setdefault(name.lower(), []).append(value)
    versions = fields.get(b"sec-websocket-version")
    if versions != [b"13"]:
        return Refusal(
            426,
            "this server speaks WebSocket version 13",
            [(b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", b"13")],
        )
    keys = fields.get(b"sec-websocket-key", [])
    try:
        valid = len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == 16
    except binascii.Error:
        valid = False
    if not valid:
        return Refusal(400, "a WebSocket handshake needs one Sec-WebSocket-Key: 16 bytes in base64")
    try:
        subprotocols = _parse_subprotocols(fields.get(b"sec-websocket-protocol", []))
        extensions = _parse_extensions(fields.get(b"sec-websocket-extensions", []))
    except ValueError as error:
        return Refusal(400, str(error))
    connect = {**content, "scheme": "wss" if content["scheme"] == "https" else "ws"}
    connect |= {"subprotocols": subprotocols, "order": 0}
    return Upgrade(connect, keys[0], subprotocols, rest, extensions)


def _parse_subprotocols(given: list[bytes]) -> list[str]:
    """Tokens, each of them once (RFC 6455 section 4.1)."""
    names: dict[str, None] = {}  # in order
    for value in given:
        for each in value.split(b","):
            token = each.strip(b" \t")
            if not token:
                continue  # RFC 9110 section 5.6.1.2
            name = _token(token, "Sec-WebSocket-Protocol")
            if name in names:
                raise ValueError(f"Sec-WebSocket-Protocol has {name} twice; each may come once")
            names[name] = None
    return list(names)


def _parse_extensions(given: list[bytes]) -> list[Offer]:
    return [
        offer
        for value in given
        for offer in (_parse_short if len(value) <= _SHORT else _parse_extension_list)(value)
    ]


def _parse_extension_list(value: bytes) -> tuple[Offer, ...]:
    """RFC 6455 section 9.1. A value in quotes must be a token as well, so that a separator is never part of one."""
    offers: list[Offer] = []
    for each in value.split(b","):
        first, *rest = [part.strip(b" \t") for part in each.split(b";")]
        if not first and not rest:
            continue
        _token(first, _EXTENSIONS)
        parameters: list[tuple[bytes, bytes | None]] = []
        for part in rest:
            name, equals, argument = part.partition(b"=")
            name = name.rstrip(b" \t")
            _token(name, _EXTENSIONS)
            if not equals:
                parameters.append((name, None))
                continue
            argument = argument.lstrip(b" \t")
            if len(argument) > 1 and argument[:1] == argument[-1:] == b'"':
                argument = _QUOTED_PAIR.sub(rb"\1", argument[1:-1])
            _token(argument, _EXTENSIONS)
            parameters.append((name, argument))
        offers.append(Offer(first, tuple(parameters)))
    return tuple(offers)


_parse_short = functools.lru_cache(64)(_parse_extension_list)
"""Browsers offer the same over and over."""


def _token(value: bytes, header: str) -> str:
    if not is_token(value):
        raise ValueError(f"{header} has {value[:40].decode('latin-1')!a} where a token belongs")
    return value.decode("ascii")


def accept_response(
    upgrade: Upgrade, subprotocol: str | None, headers: Headers, agreement: Agreement | None = None
) -> bytes:
    """The response that opens the WebSocket (RFC 6455 section 4.2.2).

    Args:
        subprotocol: one of those that the client offers; None: none of them.
        headers: the program's own.
        agreement: what was agreed on about compression; None: nothing is compressed.

    Raises:
        ValueError: a subprotocol that was not offered; a header of the handshake's own among ``headers``, or one that
            breaks out of its line.
    """
    digest = hashlib.sha1(upgrade.key + _GUID, usedforsecurity=False).digest()
    response = _ACCEPT + binascii.b2a_base64(digest, newline=False) + b"\r\n"
    if subprotocol is not None:
        if subprotocol not in upgrade.subprotocols:
            offered = ", ".join(upgrade.subprotocols) or "none"
            raise ValueError(f"subprotocol {subprotocol!r} was not offered; the client offers {offered}")
        response += b"Sec-WebSocket-Protocol: " + subprotocol.encode("ascii") + b"\r\n"
    if agreement is not None:
        response += b"Sec-WebSocket-Extensions: " + agreement.response + b"\r\n"
    if headers:
        for name, _ in headers:
            if name.lower() in _FRAMING:
                raise ValueError(f"the header {name.decode('latin-1')} is the handshake's own; leave it out")
        response += _lines(headers)
    return response + b"\r\n"


def refuse_response(status: int, headers: Headers, body: bytes) -> bytes:
    """The whole response to a handshake that is refused, after which the connection ends.

    ``Date`` (RFC 9110 section 6.6.1) and ``Content-Type: text/plain`` are put in where ``headers`` lack them;
    ``Connection`` and ``Content-Length`` are this function's own.

    Args:
        status: 200 to 599. With 204 and 304 the body is left out.

    Raises:
        ValueError: another status, or a header that breaks out of its line.
    """
    if not 200 <= status <= 599:
        raise ValueError(f"a handshake is refused with a status from 200 to 599, not {status}")
    try:
        phrase = HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        phrase = b""
    if status in (204, 304):
        body = b""
    # A field of Upgrade is named by Connection (RFC 9110 section 7.8).
    connection = b"close, upgrade" if has(headers, b"upgrade") else b"close"
    own = [] if has(headers, b"date") else [(b"Date", _date())]
    if body and not has(headers, b"content-type"):
        own.append((b"Content-Type", b"text/plain; charset=utf-8"))
    if status not in (204, 304):  # RFC 9110 section 8.6
        own.append((b"Content-Length", b"%d" % len(body)))
    own.append((b"Connection", connection))
    given = [
        (name, value)
        for name, value in headers
        if name.lower() not in (b"connection", b"content-length", b"transfer-encoding")
    ]
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase) + _lines(own + given) + b"\r\n" + body


def _lines(headers: Headers) -> bytes:
    lines = b"".join([name + b": " + value + b"\r\n" for name, value in headers])
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers):
        raise ValueError("a header has a line break; names and values take none")
    return lines


def _date() -> bytes:
    """Now, as HTTP writes it (RFC 9110 section 5.6.7)."""
    return email.utils.formatdate(time.time(), usegmt=True).encode("ascii")

"""Two readers of what an HTTP client sends, made comparable: triochan's parser and h11.

h11 takes more: bare line feeds, folded lines, control characters in values. So what triochan takes, h11 has to take,
and to mean the same by it; never the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import h11

from fuzz.reference import pieces
from triochan.http1.parser import Request, RequestParser
from triochan.http1.writer import ResponseWriter
from triochan.replies import HttpReply, Refusal

EMPTY_LINES = 4
"""What triochan passes over before a request; h11 passes over none."""


@attrs.frozen
class Exchange:
    """What a reader made of one request."""

    method: str
    target: bytes
    version: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    keep_alive: bool


@attrs.define
class Reading:
    """What triochan made of a stream.

    Attributes:
        requests: in their order.
        refusal: what came behind them.
        ended: what the end of the stream meant then.
    """

    requests: list[Request] = attrs.field(factory=list)
    refusal: Refusal | None = None
    ended: Refusal | None = None


def read(
    data: bytes,
    cuts: Iterable[int] = (),
    *,
    max_head_size: int = 512,
    max_body_size: int = 64,
    scheme: str = "https",
) -> Reading:
    """Feed a parser with ``data``, cut at these places, asking it after each piece."""
    parser = RequestParser(max_head_size, max_body_size, scheme=scheme)
    reading = Reading()
    for piece in pieces(data, cuts):
        parser.receive(piece)
        while (outcome := parser.next()) is not None:
            if isinstance(outcome, Refusal):
                assert reading.refusal is None, "it is refused twice"
                assert parser.over
                reading.refusal = outcome
            else:
                assert not reading.requests or reading.requests[-1].keep_alive
                reading.requests.append(outcome)
        check_state(parser)
    reading.ended = parser.eof()
    return reading


def check_state(parser: RequestParser) -> None:
    """What a parser says of itself, once it has said that it needs more."""
    assert parser.begun + parser.in_body + parser.over <= 1
    if parser.begun:
        assert parser.buffered
    if parser.in_body:
        assert parser.buffered <= 512  # a chunk's line, or a trailer
    if not parser.begun and not parser.in_body and not parser.over:
        assert not parser.buffered
    if parser.take_continue():
        assert parser.in_body
        assert not parser.take_continue()


def as_exchange(request: Request) -> Exchange:
    """What is to be compared: the target's host is not what h11 gives for the Host header."""
    own_host = not request.target.startswith((b"/", b"*"))
    headers = [
        (name, value.lower() if name == b"transfer-encoding" else value)
        for name, value in request.headers
        if not (own_host and name == b"host")
    ]
    return Exchange(
        request.method, request.target, request.http_version, headers, request.body, request.keep_alive
    )


def read_by_h11(data: bytes) -> list[Exchange]:
    """The requests that h11 finds in ``data``, up to the first that it does not take, or that ends the connection."""
    found: list[Exchange] = []
    while True:
        for _ in range(EMPTY_LINES):
            data = data.removeprefix(b"\r\n")
        protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 24)
        protocol.receive_data(data)
        request: h11.Request | None = None
        body: list[bytes] = []
        try:
            while not isinstance(event := protocol.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body.append(bytes(event.data))
                else:
                    return found
        except h11.RemoteProtocolError:
            return found
        assert request is not None
        own_host = not request.target.startswith((b"/", b"*"))
        headers = [(name, value) for name, value in request.headers if not (own_host and name == b"host")]
        method = request.method.decode("ascii")
        data = protocol.trailing_data[0]
        protocol.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
        protocol.send(h11.EndOfMessage())
        keep_alive = (protocol.our_state, protocol.their_state) == (h11.DONE, h11.DONE)
        if request.http_version == b"1.0":  # h11 ends each connection of an old client
            options = b",".join(value for name, value in headers if name == b"connection").lower()
            names = [name.strip() for name in options.split(b",")]
            keep_alive = b"keep-alive" in names and b"close" not in names
        found.append(
            Exchange(method, request.target, request.http_version, headers, b"".join(body), keep_alive)
        )
        if not keep_alive:
            return found


def answer(request: Request) -> bytes:
    """A response that carries the request's body back, as a consumer might send it: whole, in pieces, with a length."""
    writer = ResponseWriter(request.method, request.http_version, request.keep_alive)
    body = request.body
    headers = [(b"X-Target", request.target)]
    match len(request.target) % 3:
        case 0:
            return writer.write(HttpReply(200, headers, body, False))
        case 1:
            headers.append((b"Content-Length", b"%d" % len(body)))
    half = len(body) // 2
    return (
        writer.write(HttpReply(200, headers, b"", True))
        + writer.write(HttpReply(None, [], body[:half], True))
        + writer.write(HttpReply(None, [], body[half:], False))
    )


def read_response(request: Request, data: bytes) -> tuple[bytes, bool]:
    """What h11's client makes of it: the body, and whether the connection may go on.

    The last is what the request asked for where the response ends with the connection, since it can do no other.
    """
    client = h11.Connection(h11.CLIENT)
    method = request.method if request.method == "HEAD" else "GET"
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    body = b""
    framed = False
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            framed = any(name in (b"content-length", b"transfer-encoding") for name, _ in event.headers)
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            assert event is h11.NEED_DATA, event
            client.receive_data(b"")
    assert client.trailing_data[0] == b"", "something is left behind the response"
    keep_alive = (client.our_state, client.their_state) == (h11.DONE, h11.DONE)
    if request.method == "HEAD":
        assert body == b""
        body = request.body
    if not framed:  # to HEAD as well: it is answered as GET would be (RFC 9110 section 9.3.2)
        assert request.http_version == b"1.0"
        assert not keep_alive
        keep_alive = request.keep_alive
    return body, keep_alive

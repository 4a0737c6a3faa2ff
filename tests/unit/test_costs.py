"""What a client's bytes cost the code that reads them: no more than so much a byte, and twice as many twice as much."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processor import allowance, seconds

from triochan import Message, route
from triochan.content import decode_json
from triochan.headers import Head, members, values
from triochan.http.conditions import precondition, wanted_part
from triochan.http.cookies import parse_cookies
from triochan.http.static import _CODING, _find
from triochan.http1.parser import RequestParser, is_authority
from triochan.origins import AllowedHosts, AllowedOrigins
from triochan.proxies import TrustedProxies
from triochan.routing import Router
from triochan.wire.handshake import check_upgrade

SIZE = 16 * 1024
"""Bytes of a head, by default the most there are."""
Work = Callable[[], object]


def head(*lines: bytes, target: bytes = b"/", method: bytes = b"GET") -> Work:
    data = (
        method
        + b" "
        + target
        + b" HTTP/1.1\r\nHost: x\r\n"
        + b"".join(each + b"\r\n" for each in lines)
        + b"\r\n"
    )

    def parse() -> object:
        parser = RequestParser(10 * len(data), 10 * len(data))
        parser.receive(data)
        return parser.next()

    return parse


def upgrade(name: bytes, value: bytes) -> Work:
    fields = [
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-key", b"c2l4dGVlbiBieXRlcy4uLg=="),
        (name, value),
    ]
    request = Head(b"GET", b"/", fields, b"1.1")
    return lambda: check_upgrade(request, {"scheme": "http"}, b"")


def field(function: Callable[[list[tuple[bytes, bytes]]], object], name: bytes, value: bytes) -> Work:
    return lambda: function([(name, value)])


def chunks(unit: bytes, count: int) -> Work:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

    def parse() -> object:
        parser = RequestParser(1 << 20, 1 << 24)
        parser.receive(head + unit * count)
        return parser.next()

    return parse


async def consume(message: Message, **kwargs: Any) -> None: ...


class Nothing:
    name = "http.request"


ROUTER = Router(
    [
        route("http.request", consume, path=r"^/blog/(?P<year>\d+)/(?P<slug>[\w-]+)/$"),
        route("http.request", consume, path=r"^/(?P<rest>.*)/end$"),
        route("http.request", consume, path=r"^/static/(?P<name>.*)$"),
    ]
)


def routed(path: str) -> Work:
    channel: Any = Nothing()
    return lambda: ROUTER.match(Message({"path": path}, channel))


def tags(headers: Any) -> object:
    return precondition(headers, b'"etag"', 0)


def part(headers: Any) -> object:
    return wanted_part(headers, b'"etag"', 1000)


HOSTS = AllowedHosts([".example.com", "x"])
ORIGINS = AllowedOrigins(["https://*.example.com"])
PROXIES = TrustedProxies(["*"])


def forwarded(headers: Any) -> object:
    return PROXIES.seen(headers, ["10.0.0.1", 1], "http")


KINDS: dict[str, Callable[[int], Work]] = {
    "a head of empty fields": lambda n: head(*[b"a:"] * (n // 4)),
    "a head of one name": lambda n: head(*[b"cookie: a"] * (n // 11)),
    "a long field": lambda n: head(b"a: " + b"x" * n),
    "a field of spaces": lambda n: head(b"a: " + b" " * n + b"x"),
    "a long name": lambda n: head(b"a" * n + b": x"),
    "a field that is wrong at its end": lambda n: head(b"a: " + b"x" * n + b"\0"),
    "a name that is wrong at its end": lambda n: head(b"a" * n + b" : x"),
    "a path of escapes": lambda n: head(target=b"/" + b"%41" * (n // 3)),
    "a path of half escapes": lambda n: head(target=b"/" + b"%" * n),
    "a path of slashes": lambda n: head(target=b"/" * n),
    "a path that is not UTF-8": lambda n: head(target=b"/" + b"%ff" * (n // 3)),
    "a query string of many keys": lambda n: head(target=b"/?" + b"a&" * (n // 2)),
    "a long method": lambda n: head(method=b"A" * n),
    "an absolute target with a long host": lambda n: head(target=b"http://" + b"a" * n + b"/"),
    "an absolute target with a wrong host": lambda n: head(target=b"http://" + b"%41" * (n // 3) + b"@/"),
    "a list in Connection": lambda n: head(b"Connection: " + b"a," * (n // 2)),
    "a list in Transfer-Encoding": lambda n: head(b"Transfer-Encoding: " + b"a," * (n // 2), method=b"POST"),
    "many Transfer-Encodings": lambda n: head(*[b"Transfer-Encoding: a"] * (n // 22), method=b"POST"),
    "a list in Expect": lambda n: head(b"Content-Length: 1", b"Expect: " + b"a," * (n // 2), method=b"POST"),
    "many Content-Lengths": lambda n: head(*[b"Content-Length: 1"] * (n // 19), method=b"POST"),
    "a long Content-Length": lambda n: head(b"Content-Length: " + b"9" * n, method=b"POST"),
    "a long authority": lambda n: lambda: is_authority(b"a" * n + b"/"),
    "an authority of escapes": lambda n: lambda: is_authority(b"%41" * (n // 3) + b"%"),
    "an IPv6 authority": lambda n: lambda: is_authority(b"[" + b":" * n + b"]"),
    "chunks with extensions": lambda n: chunks(b'1;a="b";c\r\nx\r\n', n // 14),
    "chunks with extensions of spaces": lambda n: chunks(b"1" + b" \t" * 100 + b";a\r\nx\r\n", n // 210),
    "a chunk's line that is wrong at its end": lambda n: chunks(b"1" + b";a" * 100 + b" \r\n", n // 204),
    "a long trailer section": lambda n: chunks(b"0\r\n" + b"a:b\r\n" * (n // 5), 1),
    "subprotocols": lambda n: upgrade(
        b"sec-websocket-protocol", b",".join(b"%x" % each for each in range(n // 5))
    ),
    "empty subprotocols": lambda n: upgrade(b"sec-websocket-protocol", b", " * (n // 2)),
    "extensions": lambda n: upgrade(b"sec-websocket-extensions", b"permessage-deflate," * (n // 19)),
    "an extension's parameters": lambda n: upgrade(
        b"sec-websocket-extensions", b"permessage-deflate" + b";a" * (n // 2)
    ),
    "an extension's quoted pairs": lambda n: upgrade(
        b"sec-websocket-extensions", b'permessage-deflate; a="' + b"\\a" * (n // 2) + b'"'
    ),
    "cookies": lambda n: field(parse_cookies, b"cookie", b"a=b;" * (n // 4)),
    "cookies without a name": lambda n: field(parse_cookies, b"cookie", b"=;" * (n // 2)),
    "a long cookie": lambda n: field(parse_cookies, b"cookie", b"a=" + b'"' * n),
    "a cookie's name that is wrong at its end": lambda n: field(parse_cookies, b"cookie", b"a" * n + b"@=b"),
    "many cookie fields": lambda n: lambda: parse_cookies([(b"cookie", b"a=b")] * (n // 13)),
    "entity tags": lambda n: field(tags, b"if-none-match", b'"a",' * (n // 4)),
    "weak entity tags": lambda n: field(tags, b"if-match", b'W/"", ' * (n // 6) + b"x"),
    "a list of commas": lambda n: field(tags, b"if-none-match", b'"a"' + b",  " * (n // 3) + b"x"),
    "a list of commas and tabs": lambda n: field(
        tags, b"if-match", b" \t," * (n // 3) + b'"a"' + b" ,\t" * (n // 3) + b'"'
    ),
    "an entity tag that does not end": lambda n: field(tags, b"if-none-match", b'"' + b"a" * n),
    "many quotes": lambda n: field(tags, b"if-none-match", b'"' * n),
    "many If-None-Match fields": lambda n: lambda: tags([(b"if-none-match", b'"a"')] * (n // 20)),
    "a date of spaces": lambda n: field(tags, b"if-modified-since", b" " * n),
    "a range of many": lambda n: field(part, b"range", b"bytes=" + b"0-0," * (n // 4)),
    "a range of digits": lambda n: field(part, b"range", b"bytes=" + b"9" * n + b"-"),
    "a range of spaces": lambda n: field(part, b"range", b"bytes=" + b" " * n + b"x"),
    "a range of zeros": lambda n: field(part, b"range", b"bytes=-" + b"0" * n),
    "content codings": lambda n: field(
        lambda h: [_CODING.match(each) for each in members(h, b"accept-encoding")],
        b"accept-encoding",
        b"gzip;q=0.5," * (n // 11),
    ),
    "a content coding of spaces": lambda n: field(
        lambda h: [_CODING.match(each) for each in members(h, b"accept-encoding")],
        b"accept-encoding",
        b"gzip" + b" " * n + b"x",
    ),
    "a content coding of spaces behind its weight": lambda n: field(
        lambda h: [_CODING.match(each) for each in members(h, b"accept-encoding")],
        b"accept-encoding",
        b"gzip ;" + b" " * n + b"x",
    ),
    "a list's values": lambda n: lambda: values([(b"a", b"b")] * (n // 4), b"a"),
    "a long host": lambda n: lambda: HOSTS.allows("a." * (n // 2)),
    "a long origin": lambda n: lambda: ORIGINS.allows_text("https://" + "a." * (n // 2) + "/"),
    "an origin's long scheme": lambda n: lambda: ORIGINS.allows_text("a" * n),
    "addresses in X-Forwarded-For": lambda n: field(forwarded, b"x-forwarded-for", b"1.1.1.1," * (n // 8)),
    "hops in Forwarded": lambda n: field(forwarded, b"forwarded", b"for=1.1.1.1," * (n // 12)),
    "quotes in Forwarded that do not end": lambda n: field(forwarded, b"forwarded", b'a=",' * (n // 4)),
    "quoted pairs in Forwarded": lambda n: field(
        forwarded, b"forwarded", b'for="' + b"\\a" * (n // 2) + b'"'
    ),
    "spaces in Forwarded": lambda n: field(forwarded, b"forwarded", b"for=a" + b" " * n + b"x"),
    "commas in Forwarded": lambda n: field(forwarded, b"forwarded", b"@," * (n // 2)),
    "a path that nearly matches": lambda n: routed("/blog/" + "1" * n),
    "a path of slashes, routed": lambda n: routed("/" * n),
    "a path with many ends": lambda n: routed("/end" * (n // 4) + "x"),
    "a static path of many parts": lambda n: lambda: _find(Path("/tmp"), "a/" * (n // 2), "index.html", []),
    "a static path of many slashes": lambda n: lambda: _find(Path("/tmp"), "/" * n, "index.html", []),
}
MOST = 40
"""Times what a byte of ordinary JSON costs: about half a microsecond, 10 ms for a whole head."""


@pytest.fixture(scope="module")
def byte() -> float:
    """What one of ordinary JSON costs."""
    text = (
        "["
        + ",".join(['{"id":12345,"name":"someone","text":"hello there, how are you","ok":true}'] * 500)
        + "]"
    )
    return seconds(lambda: decode_json(text)) / len(text)


@pytest.mark.parametrize("kind", KINDS)
def test_no_head_costs_more_than_so_much_a_byte(kind: str, byte: float) -> None:
    """Nor does it cost the square of its size, where ``max_head_size`` was raised."""
    make = KINDS[kind]
    for size in (64, 256, 1024, SIZE, 4 * SIZE):  # what grows fastest is found while it is small
        assert seconds(make(size)) < allowance() * MOST * max(size, 1024) * byte, f"{size} bytes"

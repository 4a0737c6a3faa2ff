"""What a client's bytes cost at most, where no other test holds it: processor against a head of as many bytes that is
read, memory against the bytes themselves."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
import trio
from memory import async_peak, peak
from processor import allowance, seconds

from triochan import Message, Settings
from triochan.exceptions import HttpError
from triochan.headers import Head
from triochan.http.conditions import precondition, wanted_part
from triochan.http.cookies import parse_cookies
from triochan.http.requests import form, query
from triochan.http.static import _accepted
from triochan.http1.parser import Request, RequestParser
from triochan.message import MAX_NAME_LENGTH, check_name
from triochan.proxies import TrustedProxies
from triochan.runtime import REQUEST
from triochan.sessions.cookies import SessionCookies
from triochan.wire.handshake import check_upgrade
from triochan.wire.proxy_protocol import MAX_V1, SIGNATURE, ProxyProtocolError, parse_proxy_header

HEAD = Settings().max_head_size
BODY = Settings().max_body_size
TIMES = 400
"""How many times the processor of an ordinary head a field of that size may take: 120 have been measured, which are
12 ms; what is quadratic takes some 20,000."""
WEIGHT = 400
"""Bytes that may be held for each byte of a field while it is read: 242 have been measured, by an expression that may
have to go back to each of them."""


def tried(call: Callable[[], object]) -> Callable[[], None]:
    """The same, which may be refused."""

    def try_it() -> None:
        with contextlib.suppress(HttpError, ProxyProtocolError):
            call()

    return try_it


def spent(call: Callable[[], object]) -> float:
    """Seconds of processor, also where it is refused."""
    return seconds(tried(call))


def full(unit: bytes, size: int = HEAD) -> bytes:
    """As many units as go into ``size``."""
    return unit * (size // len(unit))


def ordinary() -> None:
    """A head of all the bytes that it may have, in lines of some 50."""
    parser = RequestParser(HEAD, 0)
    parser.receive(
        b"GET / HTTP/1.1\r\nHost: x\r\n"
        + full(b"X-Ordinary: some words that say what they say\r\n", HEAD - 100)
        + b"\r\n"
    )
    assert isinstance(parser.next(), Request)


def held(call: Callable[[], object], *, size: int = HEAD, times: float = TIMES) -> None:
    """Reading a field takes no more time and memory than that."""
    assert spent(call) < allowance() * times * spent(ordinary)
    assert peak(tried(call)) < WEIGHT * size


def asked(*headers: tuple[bytes, bytes], **more: Any) -> Message:
    return Message({"headers": list(headers), "body": b"", "query_string": b"", **more}, REQUEST)


COOKIES = SessionCookies(["x" * 32])
PROXIES = TrustedProxies(["*"])


@pytest.mark.parametrize("unit", [b";", b"a=;", b"a=b; ", b'a=" ";', b"triochan_session=x.y.z; ", b"="])
def test_cookies(unit: bytes) -> None:
    field = (b"cookie", full(unit))
    held(lambda: parse_cookies([field]))
    held(lambda: COOKIES.keys(asked(field)))


def test_long_cookies_are_not_hashed() -> None:
    kept = COOKIES.header(asked(scheme="http"), "a" * 400)[1].partition(";")[0].encode()
    long = COOKIES.header(asked(scheme="http"), "a" * 600)[1].partition(";")[0].encode()
    assert COOKIES.keys(asked((b"cookie", long + b"; " + kept))) == ["a" * 400]


@pytest.mark.parametrize("unit", [b"&", b"a&", b"%41", b"a=%41&", b"+", b"=", b"%", b"%%"])
def test_query_strings(unit: bytes) -> None:
    message = asked(query_string=full(unit))
    held(lambda: query(message))
    held(lambda: query(message, max_fields=HEAD))


@pytest.mark.parametrize(
    "unit",
    [
        b",",
        b" ,",
        b", ",
        b"for=1.1.1.1,",
        b"for=[::1]:1,",
        b"a=b;",
        b'a="\\"";',
        b'a="x,',
        b" ",
        b"\\",
        b"a=",
        b"(,",
        b"_",
    ],
)
def test_what_proxies_say(unit: bytes) -> None:
    for name in (b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"):
        for end in (b"", b"("):
            headers = [(name, full(unit) + end)]
            held(lambda headers=headers: PROXIES.seen(headers, ["192.0.2.1", 1], "http"))  # type: ignore[misc]


@pytest.mark.parametrize(
    "unit",
    [
        b",",
        b" , ",
        b'"a",',
        b'"a" , ',
        b'W/"",',
        b'"',
        b"W/",
        b"0-0,",
        b"1",
        b"-",
        b" ",
        b"gzip,",
        b"gzip;q=1,",
        b"a b",
    ],
)
def test_what_is_asked_of_files(unit: bytes) -> None:
    for beginning, end in ((b"", b""), (b'"a"', b"x"), (b"gzip", b"x"), (b"bytes=", b"")):
        value = beginning + full(unit) + end
        for name in (b"if-none-match", b"if-match", b"if-modified-since"):
            held(lambda name=name, value=value: precondition([(name, value)], b'"b"', 0))  # type: ignore[misc]
        held(lambda value=value: wanted_part([(b"range", value)], b'"b"', 1000))  # type: ignore[misc]
        held(lambda value=value: _accepted([(b"accept-encoding", value)]))  # type: ignore[misc]


@pytest.mark.parametrize(
    "unit", [b",", b"a,", b"a;b=c,", b'a;b="\\c",', b";", b"a;", b"a", b" ", b"permessage-deflate,", b'"']
)
@pytest.mark.parametrize("name", [b"sec-websocket-extensions", b"sec-websocket-protocol"])
def test_lists_of_a_handshake(name: bytes, unit: bytes) -> None:
    version, key = (b"sec-websocket-version", b"13"), (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")
    values = [full(unit), b",".join(b"%d" % each for each in range(HEAD // 6))]
    for value in values:
        head = Head(b"GET", b"/", [version, key, (name, value)], b"1.1")
        held(lambda head=head: check_upgrade(head, {"scheme": "http"}, b""))  # type: ignore[misc]


def test_headers_of_the_proxy_protocol() -> None:
    assert parse_proxy_header(b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 15)) is None
    with pytest.raises(ProxyProtocolError, match=f"no end within {MAX_V1} bytes"):
        parse_proxy_header(b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 14))
    longest = SIGNATURE + b"\x21\x11\xff\xff" + bytes(0xFFFF)
    assert parse_proxy_header(longest[:-1]) is None
    found = parse_proxy_header(longest)
    assert found is not None
    assert (found.size, found.client) == (len(longest), ["0.0.0.0", 0])
    held(lambda: parse_proxy_header(longest))
    assert peak(lambda: parse_proxy_header(longest)) < 10_000


BOUNDARY = b"xxxxxxxx"


def multipart(inner: bytes) -> bytes:
    """A form of one field of that content."""
    return (
        b'--%b\r\nContent-Disposition: form-data; name="a"\r\n\r\n' % BOUNDARY
        + inner
        + b"\r\n--%b--\r\n" % BOUNDARY
    )


@pytest.mark.parametrize(
    "unit",
    [
        b"\r\n",
        b"\r",
        b"--",
        b"\r\n--",
        b"\r\n--xxxxxxx",
        b"x",
        b"\r\n--xxxxxxxx\r\n",
        b"\r\n--xxxxxxxx\r\nX: y\r\n\r\n",
    ],
)
async def test_multipart_forms(unit: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    body = multipart(full(unit, BODY // 4))
    message = asked((b"content-type", b"multipart/form-data; boundary=" + BOUNDARY), body=body)
    steps: list[float] = [time.thread_time()]
    checkpoint = trio.lowlevel.checkpoint

    async def counted() -> None:
        steps.append(time.thread_time())
        await checkpoint()

    monkeypatch.setattr(trio.lowlevel, "checkpoint", counted)
    refused = False

    async def read() -> None:
        nonlocal refused
        del steps[1:]
        try:
            await form(message, max_fields=BODY, max_files=BODY)
        except HttpError:
            refused = True

    held_at_once = await async_peak(read)
    assert refused or len(steps) - 1 >= len(body) // 16384
    assert held_at_once < 8 * len(body)


@pytest.mark.parametrize("unit", [b"%41", b"+", b"=", b"%", b"%%", b"a=%41", b"x", b"%4"])
async def test_urlencoded_forms(unit: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    body = full(unit, BODY)
    checkpoint = trio.lowlevel.checkpoint
    count = 0

    async def counted() -> None:
        nonlocal count
        count += 1
        await checkpoint()

    monkeypatch.setattr(trio.lowlevel, "checkpoint", counted)
    message = asked((b"content-type", b"application/x-www-form-urlencoded"), body=body)
    fields, _ = await form(message)
    read = len(body) - (unit in (b"=", b"a=%41"))  # the first "=" is between a name and its value
    assert count >= read // 16384 - 2
    name, _, value = body.replace(b"+", b" ").partition(b"=")
    assert fields.pairs == [(unquote_to_bytes(name).decode(), unquote_to_bytes(value).decode())]
    most = 30 * allowance() * BODY // HEAD * spent(ordinary)  # urllib's own reader: 39 times
    assert spent(lambda: query(asked(query_string=body))) < most


def test_names() -> None:
    assert len(check_name("group", "x" * MAX_NAME_LENGTH)) == 100
    for name in ("x" * BODY, "x" * BODY + "é", "!" * BODY):
        with pytest.raises(ValueError, match="at most 100 go") as error:
            check_name("group", name)
        assert len(str(error.value)) < 100


def test_paths_are_shorter_than_a_head() -> None:
    for size, status in ((HEAD - 100, None), (HEAD, 414)):
        parser = RequestParser(HEAD, 0)
        parser.receive(b"GET /" + b"x" * size + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        outcome = parser.next()
        assert getattr(outcome, "status", None) == status

"""A request's head as content, and the check of a WebSocket's opening handshake."""

from __future__ import annotations

import base64
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triochan.headers import Head, is_token
from triochan.http1.request import handshake_head, head_content
from triochan.replies import Refusal
from triochan.wire.handshake import Upgrade, check_upgrade, wants_upgrade

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


def request(
    target: bytes = b"/", *headers: tuple[bytes, bytes], method: bytes = b"GET", version: bytes = b"1.1"
) -> Head:
    read = h11.Request(
        method=method, target=target, headers=[(b"Host", b"x"), *headers], http_version=version
    )
    return head_of(read)


def head_of(read: h11.Request) -> Head:
    return Head(read.method, read.target, list(read.headers), read.http_version)


def content_of(target: bytes, scheme: str = "http") -> dict[str, Any]:
    content = head_content(request(target), scheme, ["127.0.0.1", 5], ["127.0.0.1", 80])
    assert isinstance(content, dict)
    return content


class TestHead:
    def test_is_what_messages_carry(self) -> None:
        made = head_content(request(b"/a%20b?c=%20", (b"X-Y", b"z")), "https", ["1.2.3.4", 5], None)
        assert made == {
            "scheme": "https",
            "path": "/a b",
            "query_string": b"c=%20",
            "headers": [(b"host", b"x"), (b"x-y", b"z")],
            "client": ["1.2.3.4", 5],
            "server": None,
        }
        assert all(type(part) is bytes for pair in made["headers"] for part in pair)

    @pytest.mark.parametrize(
        ("target", "path", "query"),
        [
            (b"/", "/", b""),
            (b"/?", "/", b""),
            (b"/?a?b#c", "/", b"a?b#c"),
            (b"/%2e%2E/%2f", "/..//", b""),
            (b"/%252e", "/%2e", b""),
            (b"/caf%C3%A9", "/café", b""),
            (b"/%zz%", "/%zz%", b""),
            (b"/%00%0a", "/\0\n", b""),
            (b"//evil/x", "//evil/x", b""),
            (b"*", "*", b""),
            (b"http://x/a?b", "/a", b"b"),
            (b"HTTPS://x/a", "/a", b""),
            (b"http://x", "/", b""),
            (b"http://x?a=b", "/", b"a=b"),
            (b"http://x?/secret", "/", b"/secret"),
            (b"http://u:p@[::1]:80/a", "/a", b""),
            (b"/http://x/a", "/http://x/a", b""),
            (b"/r?u=http://x/a", "/r", b"u=http://x/a"),
        ],
    )
    def test_targets(self, target: bytes, path: str, query: bytes) -> None:
        made = content_of(target)
        assert (made["path"], made["query_string"]) == (path, query)

    @pytest.mark.parametrize("target", [b"/%ff", b"/%C3", b"/%ED%A0%80", b"/%C0%AF"])
    def test_a_path_that_is_not_utf_8(self, target: bytes) -> None:
        made = head_content(request(target), "http", None, None)
        assert isinstance(made, Refusal)
        assert made.status == 400

    def test_a_query_may_be_anything(self) -> None:
        assert content_of(b"/?%ff%&=?")["query_string"] == b"%ff%&=?"

    def test_no_tunnel_to_elsewhere(self) -> None:
        made = head_content(request(b"x:80", method=b"CONNECT"), "http", None, None)
        assert isinstance(made, Refusal)
        assert made.status == 501

    @given(
        st.one_of(
            st.text("".join(map(chr, range(0x21, 0x7F))), min_size=1, max_size=20),
            st.lists(
                st.sampled_from(["http://", "/", "?", "%", "%ff", "%2e", "x", ":", "@", "//"]), min_size=1
            ).map("".join),
        ).map(str.encode)
    )
    def test_any_target_is_content_or_a_refusal(self, target: bytes) -> None:
        made = head_content(request(target), "http", None, None)
        if isinstance(made, Refusal):
            assert made.status == 400
        else:
            assert isinstance(made["path"], str)
            made["path"].encode()


def handshake(
    *changed: tuple[bytes, bytes], without: bytes = b"", method: bytes = b"GET", version: bytes = b"1.1"
) -> Head:
    headers = {
        b"Upgrade": b"websocket",
        b"Connection": b"Upgrade",
        b"Sec-WebSocket-Key": KEY,
        b"Sec-WebSocket-Version": b"13",
    } | dict(changed)
    headers.pop(without, None)
    return request(b"/x", *headers.items(), method=method, version=version)


def check(made: Head, scheme: str = "http", rest: bytes = b"") -> Upgrade | Refusal:
    content = head_content(made, scheme, None, None)
    assert isinstance(content, dict)
    return check_upgrade(made, content, rest)


class TestWantsUpgrade:
    @pytest.mark.parametrize(
        "headers",
        [
            [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")],
            [(b"Upgrade", b"WebSocket"), (b"Connection", b"keep-alive, UPGRADE")],
            [(b"Upgrade", b"h2c , websocket"), (b"Connection", b"x"), (b"Connection", b"upgrade,y")],
        ],
    )
    def test_yes(self, headers: list[tuple[bytes, bytes]]) -> None:
        assert wants_upgrade(request(b"/", *headers))

    @pytest.mark.parametrize(
        "headers",
        [
            [],
            [(b"Upgrade", b"websocket")],
            [(b"Connection", b"Upgrade")],
            [(b"Upgrade", b"h2c"), (b"Connection", b"Upgrade")],
            [(b"Upgrade", b"websocket2"), (b"Connection", b"Upgrade")],
            [(b"Upgrade", b"websocket"), (b"Connection", b"no-upgrade")],
        ],
    )
    def test_no(self, headers: list[tuple[bytes, bytes]]) -> None:
        assert not wants_upgrade(request(b"/", *headers))


class TestCheckUpgrade:
    def test_a_good_one(self) -> None:
        made = check(handshake((b"Sec-WebSocket-Protocol", b"chat, super.chat ,,x")), rest=b"\x81")
        assert isinstance(made, Upgrade)
        assert (made.key, made.subprotocols, made.rest) == (KEY, ["chat", "super.chat", "x"], b"\x81")
        assert made.content["subprotocols"] == ["chat", "super.chat", "x"]
        assert (made.content["order"], made.content["scheme"], made.content["path"]) == (0, "ws", "/x")

    def test_schemes(self) -> None:
        made = check(handshake(), scheme="https")
        assert isinstance(made, Upgrade)
        assert made.content["scheme"] == "wss"

    def test_protocols_of_several_headers_are_one_list(self) -> None:
        made = handshake((b"Sec-WebSocket-Protocol", b"a"))
        made = request(b"/x", *list(made.headers)[1:], (b"Sec-WebSocket-Protocol", b"b"))
        upgrade = check(made)
        assert isinstance(upgrade, Upgrade)
        assert upgrade.subprotocols == ["a", "b"]

    @pytest.mark.parametrize(
        ("made", "status"),
        [
            (handshake(method=b"POST"), 405),
            (handshake(method=b"HEAD"), 405),
            (handshake(version=b"1.0"), 400),
            (handshake(without=b"Sec-WebSocket-Key"), 400),
            (handshake((b"Sec-WebSocket-Key", b"")), 400),
            (handshake((b"Sec-WebSocket-Key", b"short")), 400),
            (handshake((b"Sec-WebSocket-Key", base64.b64encode(bytes(15)))), 400),
            (handshake((b"Sec-WebSocket-Key", base64.b64encode(bytes(17)))), 400),
            (handshake((b"Sec-WebSocket-Key", KEY[:-1])), 400),
            (handshake((b"Sec-WebSocket-Key", KEY + b"!")), 400),
            (handshake((b"Sec-WebSocket-Key", KEY[:5] + b"\xff" + KEY[6:])), 400),
            (handshake((b"sec-websocket-key", KEY)), 400),
            (handshake(without=b"Sec-WebSocket-Version"), 426),
            (handshake((b"Sec-WebSocket-Version", b"8")), 426),
            (handshake((b"Sec-WebSocket-Version", b"13, 8")), 426),
            (handshake((b"Sec-WebSocket-Version", b"013")), 426),
            (handshake((b"sec-websocket-version", b"13")), 426),
            (handshake((b"Sec-WebSocket-Protocol", b"caf\xe9")), 400),
        ],
    )
    def test_a_bad_one(self, made: Head, status: int) -> None:
        refusal = check(made)
        assert isinstance(refusal, Refusal)
        assert refusal.status == status
        assert refusal.text
        named = dict(refusal.headers)
        assert status != 426 or named[b"Sec-WebSocket-Version"] == b"13"
        assert status != 405 or named[b"Allow"] == b"GET"

    @given(st.lists(st.sampled_from([b"chat", b"a b", b"a\tb", b"", b" ", b'"q"', b"x" * 50]), max_size=4))
    def test_the_reduced_head_is_a_request_whatever_was_offered(self, offered: list[bytes]) -> None:
        upgrade = check(handshake((b"Sec-WebSocket-Protocol", b",".join(offered).strip())))
        names = [name for each in offered if (name := each.strip())]
        if not all(map(is_token, names)) or len(set(names)) < len(names):
            assert isinstance(upgrade, Refusal)
            assert upgrade.status == 400
            return
        assert isinstance(upgrade, Upgrade)
        protocol = h11.Connection(h11.SERVER)
        protocol.receive_data(upgrade.head())
        parsed = protocol.next_event()
        assert isinstance(parsed, h11.Request)
        assert wants_upgrade(head_of(parsed))
        again = check(head_of(parsed))
        assert isinstance(again, Upgrade)
        assert again.subprotocols == upgrade.subprotocols
        assert isinstance(protocol.next_event(), h11.EndOfMessage)
        assert protocol.trailing_data == (b"", False)


HANDSHAKE = [
    b"GET /x?y HTTP/1.1\r\n", b"Host: x\r\n", b"Upgrade: websocket\r\n", b"Connection: keep-alive, Upgrade\r\n",
    b"Sec-WebSocket-Key: " + KEY + b"\r\n", b"Sec-WebSocket-Version: 13\r\n", b"\r\n",
]  # fmt: skip
ODD = [
    b"", b" ", b"\t", b"\r", b"\n", b"\r\n", b"\0", b":", b"\xff", b"\x7f", b",", b"a", b"\x0b",
    b"Host: y\r\n", b"Host:\r\n",
    b"X: y\r\n", b"X:\t y \t\r\n", b"X:\r\n", b": y\r\n", b" folded\r\n", b"X : y\r\n", b"X: y\n",
    b"Cookie: \xe9=\x80\r\n",
    b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n", b"Upgrade: h2c\r\n", b"GET / HTTP/1.1\r\n", b"HTTP/1.0", b"\x81\x80\0\0\0\0",
    b"trailing",
]  # fmt: skip


@st.composite
def handshakes(draw: st.DrawFn) -> bytes:
    """A handshake's bytes, with odd pieces put in, between lines and within them, and perhaps cut off."""
    parts = list(HANDSHAKE)
    for _ in range(draw(st.integers(0, 2))):
        parts.insert(draw(st.integers(0, len(parts))), draw(st.sampled_from(ODD)))
    if draw(st.booleans()):
        del parts[draw(st.integers(0, len(parts) - 1))]
    data = b"".join(parts)
    if draw(st.booleans()):
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(st.sampled_from(ODD)) + data[place + draw(st.integers(0, 1)) :]
    return data


class TestHandshakeHead:
    """The short way to a handshake's head, beside h11's."""

    @settings(deadline=None, max_examples=400)
    @given(handshakes())
    def test_what_it_reads_h11_reads_the_same(self, data: bytes) -> None:
        found = handshake_head(data)
        if found is None:
            return
        head, rest = found
        protocol = h11.Connection(h11.SERVER)
        protocol.receive_data(data)
        parsed = protocol.next_event()
        assert isinstance(parsed, h11.Request)
        assert (head.method, head.target, head.http_version) == (
            parsed.method,
            parsed.target,
            parsed.http_version,
        )
        assert head.headers == list(parsed.headers)
        assert wants_upgrade(head_of(parsed))
        assert isinstance(protocol.next_event(), h11.EndOfMessage)
        assert protocol.trailing_data == (rest, False)

    def test_it_reads_what_clients_send(self) -> None:
        head, rest = handshake_head(b"".join(HANDSHAKE) + b"\x81") or (None, None)
        assert head is not None
        assert (head.method, head.target, head.http_version, rest) == (b"GET", b"/x?y", b"1.1", b"\x81")
        assert dict(head.headers)[b"sec-websocket-key"] == KEY
        assert isinstance(check(head), Upgrade)

    @pytest.mark.parametrize(
        "odd",
        [
            b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Host: y\r\n",
            b"X : y\r\n", b" folded\r\n", b"X: \0\r\n", b"X: y\n", b"\r\n",
        ],
    )  # fmt: skip
    def test_what_is_odd_is_left_to_h11(self, odd: bytes) -> None:
        assert handshake_head(HANDSHAKE[0] + odd + b"".join(HANDSHAKE[1:])) is None

    def test_what_is_not_all_there_or_no_handshake_too(self) -> None:
        data = b"".join(HANDSHAKE)
        assert all(handshake_head(data[:size]) is None for size in range(len(data)))
        assert handshake_head(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") is None
        for line in (b"Host: x", b"Upgrade", b"Connection"):
            assert handshake_head(data.replace(line, b"X-" + line)) is None
        assert handshake_head(data.replace(b"GET", b"POST")) is None
        assert handshake_head(data.replace(b"HTTP/1.1", b"HTTP/1.0")) is None

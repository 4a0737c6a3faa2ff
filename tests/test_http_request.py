"""A request's head as content, and the check of a WebSocket's opening handshake."""

from __future__ import annotations

import base64
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triochan.http.request import Refusal, Upgrade, check_upgrade, head_content, wants_upgrade

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


def request(
    target: bytes = b"/", *headers: tuple[bytes, bytes], method: bytes = b"GET", version: bytes = b"1.1"
) -> h11.Request:
    return h11.Request(
        method=method, target=target, headers=[(b"Host", b"x"), *headers], http_version=version
    )


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
) -> h11.Request:
    headers = {
        b"Upgrade": b"websocket",
        b"Connection": b"Upgrade",
        b"Sec-WebSocket-Key": KEY,
        b"Sec-WebSocket-Version": b"13",
    } | dict(changed)
    headers.pop(without, None)
    return request(b"/x", *headers.items(), method=method, version=version)


def check(made: h11.Request, scheme: str = "http", rest: bytes = b"") -> Upgrade | Refusal:
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
    def test_a_bad_one(self, made: h11.Request, status: int) -> None:
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
        assert isinstance(upgrade, Upgrade)
        protocol = h11.Connection(h11.SERVER)
        protocol.receive_data(upgrade.head())
        parsed = protocol.next_event()
        assert isinstance(parsed, h11.Request)
        assert wants_upgrade(parsed)
        again = check(parsed)
        assert isinstance(again, Upgrade)
        assert again.subprotocols == upgrade.subprotocols
        assert isinstance(protocol.next_event(), h11.EndOfMessage)
        assert protocol.trailing_data == (b"", False)

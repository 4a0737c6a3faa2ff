"""What a reply channel takes, and what it refuses before anything is touched."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triochan.replies import (
    LATER,
    HttpReply,
    WebsocketReply,
    check_close,
    parse_http,
    parse_websocket,
)


class TestWebsocket:
    @pytest.mark.parametrize(
        ("content", "reply"),
        [
            ({"accept": True}, WebsocketReply(accept=True)),
            ({"accept": False}, WebsocketReply(accept=False)),
            ({"text": "a"}, WebsocketReply(data="a")),
            ({"text": ""}, WebsocketReply(data="")),
            ({"bytes": b"a"}, WebsocketReply(data=b"a")),
            ({"bytes": b""}, WebsocketReply(data=b"")),
            ({"bytes": bytearray(b"a")}, WebsocketReply(data=b"a")),
            ({"bytes": memoryview(b"a")}, WebsocketReply(data=b"a")),
            ({"text": "a", "bytes": None}, WebsocketReply(data="a")),
            ({"close": True}, WebsocketReply(close=1000)),
            ({"close": 4000, "reason": "é"}, WebsocketReply(close=4000, reason="é")),
            ({"text": "a", "close": False}, WebsocketReply(data="a")),
            ({"text": "a", "close": None}, WebsocketReply(data="a")),
            ({"text": "a", "close": True}, WebsocketReply(data="a", close=1000)),
            ({"accept": True, "text": "a", "close": 3000}, WebsocketReply(True, "a", 3000)),
            ({"accept": False, "close": True}, WebsocketReply(accept=False, close=1000)),
            (
                {"accept": True, "subprotocol": "chat", "headers": [("X", "y")]},
                WebsocketReply(True, subprotocol="chat", headers=[(b"X", b"y")]),
            ),
        ],
    )
    def test_orders(self, content: dict[str, Any], reply: WebsocketReply) -> None:
        parsed = parse_websocket(content)
        assert parsed == reply
        assert type(parsed.data) in (str, bytes, type(None))

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ({}, "needs one of"),
            ({"text": None}, "needs one of"),
            ({"close": False}, "needs one of"),
            ({"text": "a", "bytes": b"a"}, "not both"),
            ({"text": "", "bytes": b""}, "not both"),
            ({"text": "a", "txet": "b", "x": 1}, "'txet', 'x'"),
            ({"text": b"a"}, "text takes a str"),
            ({"text": 5}, "text takes a str"),
            ({"bytes": "a"}, "bytes takes bytes"),
            ({"bytes": [1]}, "bytes takes bytes"),
            ({"accept": 1}, "True or False"),
            ({"accept": "yes"}, "True or False"),
            ({"accept": False, "text": "a"}, "no text or bytes"),
            ({"text": "a", "close": 0}, "close takes"),
            ({"text": "a", "close": 5}, "close takes"),
            ({"text": "a", "close": "1000"}, "close takes"),
            ({"text": "a", "close": 1000.0}, "close takes"),
            ({"text": "a", "reason": "why"}, "reason goes with close"),
            ({"close": False, "reason": "why", "text": "a"}, "reason goes with close"),
            ({"close": True, "reason": b"why"}, "reason is a string"),
            ({"text": "a", "subprotocol": "chat"}, "go with accept"),
            ({"accept": False, "subprotocol": "chat"}, "go with accept"),
            ({"close": True, "headers": []}, "go with accept"),
            ({"accept": True, "subprotocol": "a b"}, "token"),
            ({"accept": True, "subprotocol": ""}, "token"),
            ({"accept": True, "subprotocol": b"chat"}, "token"),
            ({"accept": True, "subprotocol": "é"}, "token"),
            ({"accept": True, "headers": [("X", "a\r\nSet-Cookie: b=c")]}, "can't have the value"),
        ],
    )
    def test_what_is_none(self, content: dict[str, Any], reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            parse_websocket(content)

    def test_text_that_utf_8_has_no_form_for_is_refused_here(self) -> None:
        # Later would be too late: an accept or a group's frame may have gone out by then.
        with pytest.raises(ValueError, match="surrogate"):
            parse_websocket({"accept": True, "text": "\ud800"})

    @given(
        st.dictionaries(
            st.sampled_from(["accept", "text", "bytes", "close", "reason", "subprotocol", "headers", "other"]),
            st.one_of(
                st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.binary(max_size=3),
                st.lists(st.text(max_size=2), max_size=2), st.floats(),
            ),
        )
    )  # fmt: skip
    def test_any_content_is_an_order_or_a_value_error(self, content: dict[str, Any]) -> None:
        try:
            reply = parse_websocket(content)
        except ValueError:
            return
        assert reply.accept is not None or reply.data is not None or reply.close is not None
        assert reply.close is None or check_close(reply.close, reply.reason) == (reply.close, reply.reason)


class TestClose:
    @given(st.integers(-10, 6000))
    def test_codes_that_may_go_on_the_wire(self, code: int) -> None:
        # RFC 6455 section 7.4: 1004, 1005, 1006 and 1015 never; below 1000 and above 4999 are unused.
        allowed = (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) or 3000 <= code <= 4999
        if allowed:
            assert check_close(code) == (code, "")
        else:
            with pytest.raises(ValueError, match="close takes True or a code"):
                check_close(code)

    @pytest.mark.parametrize("code", [False, None, "1000", 1000.0, [1000]])
    def test_what_is_no_code(self, code: Any) -> None:
        with pytest.raises(ValueError, match="close takes True or a code"):
            check_close(code)

    def test_a_reason_has_at_most_123_bytes_of_utf_8(self) -> None:
        assert check_close(1000, "x" * 123) == (1000, "x" * 123)
        assert check_close(1000, "é" * 61) == (1000, "é" * 61)
        for reason in ("x" * 124, "é" * 62):
            with pytest.raises(ValueError, match="at most 123 bytes"):
                check_close(1000, reason)


class TestHttp:
    def test_the_first_piece(self) -> None:
        reply = parse_http({"status": 404, "headers": {"X": "y"}, "content": b"no"}, started=False)
        assert reply == HttpReply(404, [(b"X", b"y")], b"no", False)
        assert parse_http({"status": 200}, started=False) == HttpReply(200, [], b"", False)
        assert parse_http({"status": 200, "more_content": True}, started=False).more_content is True
        assert parse_http({"status": 200, "headers": None}, started=False).headers == []

    def test_what_follows(self) -> None:
        assert parse_http({"content": bytearray(b"x")}, started=True) == HttpReply(None, [], b"x", False)
        assert parse_http({}, started=True) == HttpReply(None, [], b"", False)
        assert type(parse_http({"content": memoryview(b"x")}, started=True).content) is bytes

    @pytest.mark.parametrize("status", [None, True, 0, 100, 101, 199, 600, 200.0, "200", b"200"])
    def test_a_status_is_final_and_a_number(self, status: Any) -> None:
        with pytest.raises(ValueError, match="begins with a status from 200 to 599"):
            parse_http({"status": status}, started=False)

    @pytest.mark.parametrize(
        ("content", "started", "reason"),
        [
            ({"status": 200, "text": "a"}, False, "'text'"),
            ({"status": 200, "content": "a"}, False, "encode text first"),
            ({"status": 200, "content": None}, False, "content takes bytes"),
            ({"content": b"a"}, False, "begins with a status"),
            ({"status": 200, "content": b"a"}, True, "were sent already"),
            ({"headers": [("X", "y")], "content": b"a"}, True, "were sent already"),
            ({"status": 200, "headers": [("X", "a\nb")]}, False, "can't have the value"),
        ],
    )
    def test_what_is_none(self, content: dict[str, Any], started: bool, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            parse_http(content, started=started)


def test_later_says_what_it_is() -> None:
    assert repr(LATER) == "LATER"

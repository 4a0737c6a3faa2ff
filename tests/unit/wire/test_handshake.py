"""The opening handshake: what is read from a request, and the responses as h11 and websockets read them."""

from __future__ import annotations

import email.utils
import time
from typing import Any

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.headers import parse_extension
from websockets.uri import parse_uri
from wsproto.utilities import generate_accept_token

from triochan.headers import Head, Headers
from triochan.replies import Refusal
from triochan.wire.deflate import Agreement, Offer, negotiate
from triochan.wire.handshake import Upgrade, accept_response, check_upgrade, refuse_response, wants_upgrade

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


def request(*more: tuple[bytes, bytes], method: bytes = b"GET", version: bytes = b"1.1") -> Head:
    headers = [
        (b"host", b"x"),
        (b"connection", b"keep-alive, Upgrade"),
        (b"upgrade", b"WebSocket"),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-key", KEY),
        *more,
    ]
    return Head(method, b"/", headers, version)


def check(*more: tuple[bytes, bytes], scheme: str = "http", **changes: Any) -> Upgrade | Refusal:
    return check_upgrade(request(*more, **changes), {"path": "/", "scheme": scheme}, b"rest")


def accepted(*more: tuple[bytes, bytes]) -> Upgrade:
    upgrade = check(*more)
    assert isinstance(upgrade, Upgrade)
    return upgrade


def refused(*more: tuple[bytes, bytes], **changes: Any) -> Refusal:
    refusal = check(*more, **changes)
    assert isinstance(refusal, Refusal)
    return refusal


def without(name: bytes, *more: tuple[bytes, bytes]) -> Upgrade | Refusal:
    head = request()
    headers = [pair for pair in head.headers if pair[0] != name]
    return check_upgrade(head._replace(headers=[*headers, *more]), {"scheme": "http"}, b"")


class TestCheckUpgrade:
    def test_takes_what_is_right(self) -> None:
        upgrade = accepted(
            (b"sec-websocket-protocol", b"chat, super.chat"),
            (b"sec-websocket-protocol", b"x"),
            (b"sec-websocket-extensions", b"permessage-deflate"),
        )
        assert upgrade.key == KEY
        assert upgrade.rest == b"rest"
        assert upgrade.subprotocols == ["chat", "super.chat", "x"]
        assert upgrade.extensions == [Offer(b"permessage-deflate")]
        assert upgrade.content == {
            "path": "/",
            "scheme": "ws",
            "subprotocols": upgrade.subprotocols,
            "order": 0,
        }

    def test_over_tls_the_scheme_is_wss(self) -> None:
        upgrade = check(scheme="https")
        assert isinstance(upgrade, Upgrade)
        assert upgrade.content["scheme"] == "wss"

    def test_wants_upgrade(self) -> None:
        assert wants_upgrade(request())
        for name in (b"upgrade", b"connection"):
            head = request()
            others = [pair for pair in head.headers if pair[0] != name]
            assert not wants_upgrade(head._replace(headers=others))
            assert not wants_upgrade(head._replace(headers=[*others, (name, b"h2c")]))

    def test_another_method_or_version(self) -> None:
        assert refused(method=b"POST").status == 405
        assert refused(method=b"POST").headers == [(b"Allow", b"GET")]
        assert refused(version=b"1.0").status == 400

    @pytest.mark.rfc("6455", "4.4", "MUST answer another version with those that it speaks")
    @pytest.mark.rfc("9110", "15.5.22", "MUST name the protocol to upgrade to with 426")
    @pytest.mark.parametrize("versions", [[], [b"8"], [b"13", b"13"], [b"13, 8"], [b"013"]])
    def test_another_version_of_the_protocol(self, versions: list[bytes]) -> None:
        made = without(b"sec-websocket-version", *((b"sec-websocket-version", each) for each in versions))
        assert isinstance(made, Refusal)
        assert made.status == 426
        assert made.headers == [(b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", b"13")]

    @pytest.mark.parametrize(
        "keys", [[], [KEY, KEY], [b""], [b"dGhlIHNhbXBsZSBub25j"], [b"!" * 24], [KEY[:-1]], [KEY + b"=\xff"]]
    )
    def test_a_key_that_is_none(self, keys: list[bytes]) -> None:
        made = without(b"sec-websocket-key", *((b"sec-websocket-key", each) for each in keys))
        assert isinstance(made, Refusal)
        assert made.status == 400
        assert "Sec-WebSocket-Key" in made.text


class TestSubprotocols:
    @pytest.mark.parametrize("value", [b"a b", b'"chat"', b"a;b", b"caf\xe9", b"a\tb", b"a, b c"])
    def test_are_tokens(self, value: bytes) -> None:
        refusal = refused((b"sec-websocket-protocol", value))
        assert refusal.status == 400
        assert refusal.text.isascii()
        assert "Sec-WebSocket-Protocol has" in refusal.text

    @pytest.mark.parametrize("values", [[b"a, a"], [b"a", b"b, a"]])
    def test_come_once_each(self, values: list[bytes]) -> None:
        refusal = refused(*((b"sec-websocket-protocol", value) for value in values))
        assert refusal == Refusal(400, "Sec-WebSocket-Protocol has a twice; each may come once")

    def test_may_differ_in_case(self) -> None:
        assert accepted((b"sec-websocket-protocol", b"a,A")).subprotocols == ["a", "A"]

    def test_empty_members_are_passed_over(self) -> None:
        assert accepted((b"sec-websocket-protocol", b", a,,b ,")).subprotocols == ["a", "b"]
        assert accepted((b"sec-websocket-protocol", b"")).subprotocols == []

    def test_a_long_value_is_not_told_back_whole(self) -> None:
        assert len(refused((b"sec-websocket-protocol", b"(" * 10_000)).text) < 200


tokens = st.text("abcXYZ019-_.!#$%&'*+^`|~", min_size=1, max_size=8)
parameters = st.tuples(tokens, st.none() | tokens)
spaces = st.sampled_from(["", " ", "\t", "  "])


class TestExtensions:
    @pytest.mark.parametrize(
        ("values", "offers"),
        [
            ([], []),
            ([b""], []),
            ([b", ,"], []),
            ([b"a"], [Offer(b"a")]),
            ([b"a;b=c; d , e", b"a"], [Offer(b"a", ((b"b", b"c"), (b"d", None))), Offer(b"e"), Offer(b"a")]),
            ([b'a;b="c"'], [Offer(b"a", ((b"b", b"c"),))]),
            ([b'a; b = "1\\0"'], [Offer(b"a", ((b"b", b"10"),))]),
            ([b"a;b;b=1"], [Offer(b"a", ((b"b", None), (b"b", b"1")))]),
        ],
    )
    def test_are_read(self, values: list[bytes], offers: list[Offer]) -> None:
        assert accepted(*((b"sec-websocket-extensions", value) for value in values)).extensions == offers

    def test_a_long_list_is_read_alike(self) -> None:
        long = b", ".join([b"x-%d; a=1" % index for index in range(100)])
        offers = accepted((b"sec-websocket-extensions", long)).extensions
        assert offers == [Offer(b"x-%d" % index, ((b"a", b"1"),)) for index in range(100)]

    @pytest.mark.parametrize(
        "value",
        [
            b";", b"a;", b"a;;b", b";a", b"a b", b"a;b=", b"a;=b", b"a;b=c=d", b'a;b="', b'a;b="c', b'a;b=""',
            b'a;b="c d"', b'a;b="c,d"', b'a;b="c\\"', b"a=b", b"\xff", b"a, b c", b"a\x00", b'"a"',
        ],
    )  # fmt: skip
    def test_that_are_malformed_are_refused(self, value: bytes) -> None:
        refusal = refused((b"sec-websocket-extensions", value))
        assert refusal.status == 400
        assert "Sec-WebSocket-Extensions has" in refusal.text

    @given(
        st.lists(st.tuples(tokens, st.lists(parameters, max_size=3)), min_size=1, max_size=3),
        spaces,
        st.booleans(),
    )
    def test_as_websockets_reads_them(
        self, given: list[tuple[str, list[tuple[str, str | None]]]], space: str, quoted: bool
    ) -> None:
        quote = '"' if quoted else ""
        value = f"{space},{space}".join(
            f"{space};{space}".join(
                [name, *(key if val is None else f"{key}={quote}{val}{quote}" for key, val in pairs)]
            )
            for name, pairs in given
        )
        ours = [
            (
                offer.extension.decode(),
                [(k.decode(), v if v is None else v.decode()) for k, v in offer.parameters],
            )
            for offer in accepted((b"sec-websocket-extensions", value.encode())).extensions
        ]
        assert ours == given == parse_extension(value)

    @given(st.binary(max_size=40) | st.text('a;=,"\\ \t', max_size=15).map(str.encode))
    @example(b'a;b="\\"')
    def test_any_bytes_are_read_or_refused(self, value: bytes) -> None:
        made = check((b"sec-websocket-extensions", value), (b"sec-websocket-protocol", value))
        if isinstance(made, Refusal):
            assert made.status == 400
        else:
            accept_response(made, None, [], negotiate(made.extensions))


def client() -> ClientProtocol:
    return ClientProtocol(
        parse_uri("ws://x/"),
        extensions=[ClientPerMessageDeflateFactory(client_max_window_bits=True)],
        subprotocols=["chat", "other"],  # type: ignore[list-item]
    )


class TestAcceptResponse:
    @pytest.mark.rfc("9110", "15.2.2", "MUST name the protocol that it switches to with 101")
    def test_rfc_6455_section_1_3(self) -> None:
        upgrade = accepted((b"sec-websocket-protocol", b"chat, superchat"))
        assert accept_response(upgrade, "chat", []) == (
            b"HTTP/1.1 101 Switching Protocols\r\n"
            b"Upgrade: websocket\r\n"
            b"Connection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
            b"Sec-WebSocket-Protocol: chat\r\n"
            b"\r\n"
        )

    @given(st.binary(min_size=16, max_size=16))
    def test_the_key_s_answer_is_wsproto_s(self, key: bytes) -> None:
        upgrade = Upgrade({}, key, [])
        assert b"\r\nSec-WebSocket-Accept: " + generate_accept_token(key) in accept_response(
            upgrade, None, []
        )

    @pytest.mark.parametrize("subprotocol", [None, "other"])
    @pytest.mark.parametrize("compressed", [False, True])
    def test_a_client_of_websockets_opens(self, subprotocol: str | None, compressed: bool) -> None:
        protocol = client()
        asked = protocol.connect()
        headers = [(name.lower().encode(), value.encode()) for name, value in asked.headers.raw_items()]
        upgrade = check_upgrade(Head(b"GET", b"/", headers, b"1.1"), {"scheme": "http"}, b"")
        assert isinstance(upgrade, Upgrade)
        agreement = negotiate(upgrade.extensions) if compressed else None
        own = [(b"X-Own", b"1"), (b"Set-Cookie", b"a=b"), (b"Set-Cookie", b"c=\xe9")]
        protocol.send_request(asked)
        protocol.receive_data(accept_response(upgrade, subprotocol, own, agreement))
        assert protocol.handshake_exc is None
        assert protocol.subprotocol == subprotocol
        assert len(protocol.extensions) == compressed

    def test_a_subprotocol_is_one_that_was_offered(self) -> None:
        upgrade = accepted((b"sec-websocket-protocol", b"a, b"))
        with pytest.raises(ValueError, match="'c' was not offered; the client offers a, b"):
            accept_response(upgrade, "c", [])
        with pytest.raises(ValueError, match="the client offers none"):
            accept_response(accepted(), "a", [])

    @pytest.mark.parametrize(
        "name", [b"Sec-WebSocket-Accept", b"Upgrade", b"connection", b"Content-Length", b"Transfer-Encoding"]
    )
    def test_the_handshake_s_own_headers_are_not_the_program_s(self, name: bytes) -> None:
        with pytest.raises(ValueError, match=name.decode()):
            accept_response(accepted(), None, [(name, b"1")])

    @pytest.mark.parametrize("header", [(b"X", b"1\r\nY: 2"), (b"X\nY", b"1"), (b"X", b"\r")])
    def test_no_header_leaves_its_line(self, header: tuple[bytes, bytes]) -> None:
        with pytest.raises(ValueError, match="line break"):
            accept_response(accepted(), None, [header])
        with pytest.raises(ValueError, match="line break"):
            refuse_response(403, [header], b"")

    def test_an_agreement_is_answered(self) -> None:
        response = accept_response(accepted(), None, [], Agreement())
        assert (
            b"\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; "
            b"client_no_context_takeover\r\n"
        ) in response


def read(response: bytes) -> tuple[h11.Response, dict[bytes, bytes], bytes, Any]:
    """As h11's client reads it, and what comes behind."""
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(response)
    head = reader.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := reader.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert reader.their_state is h11.MUST_CLOSE
    headers = dict(head.headers)
    assert len(headers) == len(list(head.headers))
    return head, headers, body, reader.trailing_data


class TestRefuseResponse:
    @pytest.mark.parametrize("status", [200, 302, 401, 403, 404, 426, 500, 503, 599])
    @pytest.mark.parametrize("body", [b"", b"not you\n", bytes(range(256)) * 40])
    def test_is_whole(self, status: int, body: bytes) -> None:
        response, headers, got, behind = read(refuse_response(status, [(b"X-Own", b"1")], body))
        assert response.status_code == status
        assert got == body
        assert behind == (b"", False)
        assert headers[b"content-length"] == b"%d" % len(body)
        assert headers[b"x-own"] == b"1"
        assert headers.get(b"content-type") == (b"text/plain; charset=utf-8" if body else None)
        assert (
            abs(email.utils.parsedate_to_datetime(headers[b"date"].decode()).timestamp() - time.time()) < 60
        )

    def test_has_the_status_s_name(self) -> None:
        assert refuse_response(403, [], b"").startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert refuse_response(599, [], b"").startswith(b"HTTP/1.1 599 \r\n")

    def test_the_program_s_headers_count_but_not_for_framing(self) -> None:
        given: Headers = [
            (b"content-type", b"application/json"),
            (b"DATE", b"Thu, 01 Jan 1970 00:00:00 GMT"),
            (b"Content-Length", b"99"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Connection", b"keep-alive"),
        ]
        _, headers, body, _ = read(refuse_response(403, given, b"{}"))
        assert headers[b"content-type"] == b"application/json"
        assert headers[b"date"] == b"Thu, 01 Jan 1970 00:00:00 GMT"
        assert headers[b"content-length"] == b"2"
        assert b"transfer-encoding" not in headers
        assert headers[b"connection"] == b"close"
        assert body == b"{}"

    @pytest.mark.parametrize("status", [204, 304])
    def test_without_a_body_where_there_is_none(self, status: int) -> None:
        _, headers, body, _ = read(refuse_response(status, [], b"dropped"))
        assert body == b""
        assert b"content-length" not in headers
        assert b"content-type" not in headers

    def test_upgrade_is_named_by_connection(self) -> None:
        refusal = without(b"sec-websocket-version")
        assert isinstance(refusal, Refusal)
        _, headers, _, _ = read(refuse_response(refusal.status, refusal.headers, refusal.text.encode()))
        assert headers[b"connection"] == b"close, upgrade"
        assert headers[b"sec-websocket-version"] == b"13"

    @pytest.mark.parametrize("status", [0, 100, 101, 199, 600])
    def test_other_statuses_are_none(self, status: int) -> None:
        with pytest.raises(ValueError, match=f"not {status}"):
            refuse_response(status, [], b"")

    def test_a_client_of_websockets_reads_it(self) -> None:
        protocol = client()
        protocol.send_request(protocol.connect())
        protocol.receive_data(refuse_response(403, [], b"no"))
        assert "HTTP 403" in str(protocol.handshake_exc)

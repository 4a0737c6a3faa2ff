"""Requests from bytes: what is taken, what is refused, in whatever pieces it comes, and beside h11."""

from __future__ import annotations

import pytest
from fuzz.http_head import REQUESTS, WORDS
from fuzz.http_reference import as_exchange, read, read_by_h11
from hypothesis import example, given, settings
from hypothesis import strategies as st
from processor import seconds

from triochan.http1.parser import MAX_CHUNK_LINE, Request, RequestParser, is_authority
from triochan.replies import Refusal
from triochan.security import AllowedHosts

HOST = b"Host: x\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
KIB = 1024


def get(*lines: bytes, target: bytes = b"/", method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    """A head with these lines, and a Host."""
    fields = b"".join(line + b"\r\n" for line in lines)
    return b"%b %b HTTP/%b\r\n%b%b\r\n" % (method, target, version, HOST, fields)


def post(*lines: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return get(*lines, method=b"POST", version=version) + body


def one(data: bytes, *, scheme: str = "http") -> Request:
    """The one request in ``data``, which comes to the same byte by byte."""
    [request] = all_of(data, scheme=scheme)
    return request


def all_of(data: bytes, *, scheme: str = "http") -> list[Request]:
    whole = read(data, scheme=scheme)
    assert whole.refusal is None, whole.refusal
    assert whole.ended is None, whole.ended
    assert read(data, range(len(data)), scheme=scheme).requests == whole.requests
    return whole.requests


def refused(data: bytes, *, scheme: str = "http") -> Refusal:
    """How ``data`` is refused, which is the same byte by byte, but for what the client is shown of it."""
    whole = read(data, scheme=scheme)
    assert not whole.requests
    assert whole.refusal is not None, "it is not refused"
    bytewise = read(data, range(len(data)), scheme=scheme)
    assert not bytewise.requests
    assert bytewise.refusal is not None
    assert bytewise.refusal.status == whole.refusal.status
    assert whole.refusal.text
    return whole.refusal


class TestPlainRequests:
    @pytest.mark.rfc("9112", "2.2", "MUST read a message as bytes, in an encoding that ASCII is a part of")
    @pytest.mark.rfc("9110", "5.5", "MUST take white space around a field's value away")
    def test_what_a_request_is(self) -> None:
        data = get(b"X-Y:  \t z \xe9 \t", b"Empty:", b"Cookie: a=b:c", target=b"/a%20b?c=%20")
        assert one(data) == Request(
            method="GET",
            path="/a b",
            query_string=b"c=%20",
            headers=[(b"host", b"x"), (b"x-y", b"z \xe9"), (b"empty", b""), (b"cookie", b"a=b:c")],
            http_version=b"1.1",
            target=b"/a%20b?c=%20",
            raw_path=b"/a%20b",
            keep_alive=True,
            upgrade=False,
            body=b"",
        )

    def test_what_messages_and_handshakes_are_made_of(self) -> None:
        request = one(get(b"X: y", target=b"/a?b"))
        assert request.content("https", ["1.2.3.4", 5], None) == {
            "scheme": "https",
            "path": "/a",
            "raw_path": b"/a",
            "query_string": b"b",
            "headers": [(b"host", b"x"), (b"x", b"y")],
            "client": ["1.2.3.4", 5],
            "server": None,
        }
        assert request.head == (b"GET", b"/a?b", request.headers, b"1.1")

    @pytest.mark.rfc("9110", "9.1", "MUST support GET and HEAD")
    @pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"OPTIONS", b"get", b"!#$%&'*+-.^_`|~09aZ"])
    def test_any_method_but_two(self, method: bytes) -> None:
        assert one(get(method=method)).method == method.decode()

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
            (b"/http://x/a", "/http://x/a", b""),
            (b"/r?u=http://x/a", "/r", b"u=http://x/a"),
            (b"/?%ff%&=?", "/", b"%ff%&=?"),
        ],
    )
    def test_targets(self, target: bytes, path: str, query: bytes) -> None:
        request = one(get(target=target))
        assert (request.path, request.query_string, request.target) == (path, query, target)

    @pytest.mark.parametrize("target", [b"/%ff", b"/%C3", b"/%ED%A0%80", b"/%C0%AF", b"http://x/%ff"])
    def test_a_path_that_is_not_utf_8(self, target: bytes) -> None:
        assert refused(get(target=target)).status == 400

    @pytest.mark.rfc("9112", "2.2", "SHOULD pass over at least one empty line before a request")
    def test_empty_lines_before_a_request(self) -> None:
        data = b"\r\n" + post(b"Content-Length: 1", body=b"x") + b"\r\n\r\n\r\n\r\n" + get(target=b"/b")
        assert [request.path for request in all_of(data)] == ["/", "/b"]

    @pytest.mark.parametrize("data", [b"\r\n" * 5, b"\r\n" * 5 + get()])
    def test_no_more_than_a_few_empty_lines(self, data: bytes) -> None:
        assert refused(data).status == 400

    @pytest.mark.parametrize("lines", range(5))
    @pytest.mark.parametrize("over", range(-5, 3))
    def test_a_head_of_the_limit_behind_empty_lines(self, lines: int, over: int) -> None:
        head = get(b"A: " + b"x" * (128 + over - len(get(b"A: "))))
        assert len(head) == 128 + over
        stream = b"\r\n" * lines + head
        for step in (len(stream), 1, 2, 3, 10):
            reading = read(stream, range(0, len(stream), step), max_head_size=128)
            assert len(reading.requests) == (over <= 0)
            assert (reading.refusal is None) == (over <= 0)

    def test_the_same_header_twice(self) -> None:
        request = one(get(b"A: b", b"a: c"))
        assert request.headers[1:] == [(b"a", b"b"), (b"a", b"c")]


class TestHost:
    NOT_ONE = [
        b"GET / HTTP/1.1\r\n\r\n",
        get(HOST[:-2]),
        get(b"HOST: y"),
        get(b"host:"),
        get(HOST[:-2], version=b"1.0"),
    ]

    @pytest.mark.rfc(
        "9112", "3.2", "MUST answer 400 to an HTTP/1.1 request without a Host, and to one with several"
    )
    @pytest.mark.parametrize("data", NOT_ONE)
    def test_exactly_one(self, data: bytes) -> None:
        assert refused(data).status == 400

    def test_none_in_http_1_0(self) -> None:
        assert one(b"GET / HTTP/1.0\r\n\r\n").headers == []

    @pytest.mark.rfc("9112", "3.2", "MUST answer 400 to a Host that is no authority")
    @pytest.mark.parametrize(
        "host",
        [
            b"a b", b"user@a", b"a/b", b"a?b", b"a#b", b"a\\b", b"http://a", b"a:b", b"a:1:2", b"a:123456",
            b"a:-1", b"[::1", b"::1", b"[::1]x", b"[1]", b"[::1%25eth0]", b"[fe80::1%eth0]", b"[v1.]", b"a%2", b"a%zz",
            b'"a"', b"<a>", b"caf\xc3\xa9",
        ],
    )  # fmt: skip
    def test_no_authority(self, host: bytes) -> None:
        assert refused(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host).status == 400

    @pytest.mark.parametrize(
        "host",
        [
            b"", b"x", b"Example.COM", b"example.com.", b"x:", b":80", b"x:0", b"x:65535", b"127.0.0.1:8000", b"[::1]",
            b"[::1]:80", b"[::ffff:1.2.3.4]", b"[v1.a:b]", b"a_b", b"a%20b", b"xn--caf-dma", b"!$&'()*+,;=",
        ],
    )  # fmt: skip
    def test_an_authority(self, host: bytes) -> None:
        assert one(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host).headers == [(b"host", host)]
        assert is_authority(host)

    def test_each_request_of_a_connection_is_looked_at(self) -> None:
        reading = read(get() + get() + b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
        assert len(reading.requests) == 2
        assert reading.refusal is not None


class TestOtherTargets:
    @pytest.mark.rfc("9112", "3.2.2", "MUST accept the absolute form of a target")
    @pytest.mark.parametrize(
        ("target", "path", "query", "host"),
        [
            (b"http://y/a?b", "/a", b"b", b"y"),
            (b"HTTP://Y:80/a", "/a", b"", b"Y:80"),
            (b"http://y", "/", b"", b"y"),
            (b"http://y?a=b", "/", b"a=b", b"y"),
            (b"http://y?/secret", "/", b"/secret", b"y"),
            (b"http://[::1]:80/a", "/a", b"", b"[::1]:80"),
            (b"http://y/a%20b", "/a b", b"", b"y"),
            (b"http://y//z", "//z", b"", b"y"),
        ],
    )
    @pytest.mark.rfc(
        "9112", "3.2.2", "MUST ignore the Host header beside a target in absolute form, and use the target's"
    )
    def test_absolute(self, target: bytes, path: str, query: bytes, host: bytes) -> None:
        request = one(get(b"X: y", target=target))
        assert (request.path, request.query_string) == (path, query)
        assert request.headers == [(b"host", host), (b"x", b"y")]
        old = one(b"GET %b HTTP/1.0\r\nX: y\r\n\r\n" % target)
        assert old.headers == request.headers

    def test_its_host_is_the_one_that_has_to_be_allowed(self) -> None:
        hosts = AllowedHosts(["y"])
        assert hosts.allows_headers(one(b"GET http://y/ HTTP/1.1\r\nHost: x\r\n\r\n").headers)
        assert not hosts.allows_headers(one(b"GET http://x/ HTTP/1.1\r\nHost: y\r\n\r\n").headers)

    @pytest.mark.rfc(
        "9112", "3.2.2", "MUST answer 400 to a missing or wrong Host beside a target in absolute form too"
    )
    def test_absolute_needs_a_host_header_too(self) -> None:
        assert refused(b"GET http://y/ HTTP/1.1\r\n\r\n").status == 400
        assert refused(b"GET http://y/ HTTP/1.1\r\nHost: a b\r\n\r\n").status == 400

    @pytest.mark.rfc("9110", "4.2.1", "MUST reject an http URI without a host")
    @pytest.mark.rfc("9110", "4.2.2", "MUST reject an https URI without a host")
    @pytest.mark.rfc("9110", "4.2.4", "SHOULD take a user's name in a target for an error")
    @pytest.mark.parametrize(
        "target",
        [
            b"http://", b"http:///a", b"https:///a", b"http://:80/a", b"http://?a", b"http://u:p@y/a", b"http://a b/",
            b"http://y:x/", b"http://[y]/", b"ftp://y/a", b"http:/a", b"http:a", b"y/a", b"y:80", b"a", b"?a", b"*a",
            b"%2fa",
        ],
    )  # fmt: skip
    def test_no_target(self, target: bytes) -> None:
        assert refused(get(target=target)).status == 400

    @pytest.mark.rfc(
        "9110", "7.4", "MUST reject a request for an https resource on a connection that is not secured"
    )
    def test_https_over_a_plain_connection(self) -> None:
        assert refused(get(target=b"https://x/")).status == 421
        assert one(get(target=b"https://x/"), scheme="https").path == "/"
        assert one(get(target=b"http://x/"), scheme="https").path == "/"

    @pytest.mark.rfc("9110", "7.1", "MUST NOT take the target * with methods other than OPTIONS")
    def test_asterisk(self) -> None:
        request = one(get(target=b"*", method=b"OPTIONS"))
        assert (request.path, request.query_string) == ("*", b"")
        assert one(get(target=b"http://x", method=b"OPTIONS")).path == "*"
        assert one(get(target=b"http://x/", method=b"OPTIONS")).path == "/"
        assert refused(get(target=b"*")).status == 400

    @pytest.mark.rfc(
        "9110", "9.3.6", "MUST reject a CONNECT without a valid port; every CONNECT is answered 501"
    )
    @pytest.mark.parametrize("target", [b"x:80", b"x:", b"x", b"/", b"*"])
    def test_no_tunnel_to_elsewhere(self, target: bytes) -> None:
        assert refused(get(target=target, method=b"CONNECT")).status == 501

    def test_no_echo_of_requests(self) -> None:
        """TRACE would show a page's scripts what only the browser may send."""
        assert refused(get(method=b"TRACE")).status == 501


class TestVersions:
    def test_1_0(self) -> None:
        request = one(get(version=b"1.0"))
        assert (request.http_version, request.keep_alive) == (b"1.0", False)

    @pytest.mark.rfc("9110", "15.6.6", "505 where the major version is none that the server speaks")
    @pytest.mark.parametrize(
        "line", [b"PRI * HTTP/2.0", b"GET / HTTP/3.0", b"GET / HTTP/0.9", b"GET / HTTP/1.2"]
    )
    def test_another(self, line: bytes) -> None:
        assert refused(line + b"\r\n\r\n").status == 505

    @pytest.mark.parametrize(
        ("lines", "version", "keep_alive"),
        [
            ((), b"1.1", True),
            ((b"Connection: keep-alive",), b"1.1", True),
            ((b"Connection: Close",), b"1.1", False),
            ((b"Connection: x", b"connection: y, CLOSE ,"), b"1.1", False),
            ((b"Connection: keep-alive, close",), b"1.1", False),
            ((b"Connection: not-close, closed",), b"1.1", True),
            ((), b"1.0", False),
            ((b"Connection: Keep-Alive",), b"1.0", True),
            ((b"Connection: keep-alive, close",), b"1.0", False),
            ((b"Connection: x",), b"1.0", False),
        ],
    )
    @pytest.mark.rfc(
        "9112", "9.3", "whether a connection persists is what the last request's version and Connection say"
    )
    @pytest.mark.rfc("9110", "5.6.1.2", "MUST ignore empty members of a list")
    def test_keep_alive(self, lines: tuple[bytes, ...], version: bytes, keep_alive: bool) -> None:
        assert one(get(*lines, version=version)).keep_alive is keep_alive

    @pytest.mark.rfc("9112", "9.6", "MUST NOT process requests behind one that says close")
    @pytest.mark.parametrize("body", [b"", b"x"])
    def test_nothing_behind_the_last_request(self, body: bytes) -> None:
        last = post(b"Connection: close", b"Content-Length: %d" % len(body), body=body)
        [request] = all_of(last + get())
        assert not request.keep_alive
        parser = RequestParser(512, 64)
        parser.receive(get(b"Connection: close"))
        assert isinstance(parser.next(), Request)
        parser.receive(get())
        assert (parser.next(), parser.buffered, parser.over) == (None, 0, True)


class TestMalformedHeads:
    @pytest.mark.rfc("9112", "3", "SHOULD answer 400 to a request line that is none")
    @pytest.mark.parametrize(
        "line",
        [
            b"rubbish", b"GET /", b"GET  HTTP/1.1", b"GET / HTTP/1.1 ", b"GET / HTTP/1.1 x", b"GET  / HTTP/1.1",
            b" GET / HTTP/1.1",
            b"GET / HTTP/11", b"GET / HTTP/1.10", b"GET / http/1.1", b"GET / HTTP/1.", b"GET\t/ HTTP/1.1",
            b"G\0T / HTTP/1.1",
            b"GET /\0 HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET /a b HTTP/1.1", b"G(T / HTTP/1.1", b"GET / HTTP/1.1\x0b",
            b"\x16\x03\x01", b"\xffGET / HTTP/1.1",
        ],
    )  # fmt: skip
    def test_request_lines(self, line: bytes) -> None:
        assert refused(line + b"\r\n" + HOST + b"\r\n").status == 400

    @pytest.mark.rfc("9112", "5.1", "MUST answer 400 to white space between a field's name and its colon")
    @pytest.mark.parametrize(
        "line", [b"A : b", b"A\t: b", b"Content-Length : 5", b"Transfer-Encoding\t: chunked"]
    )
    def test_space_before_the_colon(self, line: bytes) -> None:
        refusal = refused(get(line))
        assert refusal.status == 400
        assert "colon" in refusal.text

    @pytest.mark.rfc("9112", "5.2", "MUST refuse a folded line with 400, or make it one line; it is refused")
    @pytest.mark.parametrize(
        "line", [b"A: b\r\n c", b"A: b\r\n\tc", b"A:\r\n b", b"Content-Length:\r\n 5", b" "]
    )
    def test_folded_lines(self, line: bytes) -> None:
        refusal = refused(get(line))
        assert refusal.status == 400
        assert "folded" in refusal.text

    @pytest.mark.rfc(
        "9112", "2.2", "MUST refuse, or pass over, lines with white space in front before the first field"
    )
    @pytest.mark.parametrize("line", [b" ", b"\t", b" Host: x", b"\tX: y"])
    def test_space_before_the_first_field(self, line: bytes) -> None:
        assert refused(b"GET / HTTP/1.1\r\n" + line + b"\r\n" + HOST + b"\r\n").status == 400

    @pytest.mark.rfc("9112", "2.2", "MUST take a bare CR for invalid, or for a space; it is refused")
    @pytest.mark.rfc(
        "9110",
        "5.5",
        "MUST refuse CR, LF and NUL in a field's value, or make spaces of them; they are refused",
    )
    @pytest.mark.parametrize(
        "line", [b"A: b\rc", b"A: b\r", b"A: \rb", b"A: b\0c", b"A: \0", b"A: b\nc", b"A: b\nC: d"]
    )
    def test_bare_line_ends_and_zeros(self, line: bytes) -> None:
        assert refused(get(line)).status == 400

    @pytest.mark.parametrize(
        "data", [b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\nHost: x\n\n", b"\nGET", b"GET / HTTP/1.1\r\nA: b\n"]
    )
    def test_a_bare_line_feed_is_refused_before_the_head_ends(self, data: bytes) -> None:
        """Who sends them waits for an answer, and no CR LF will come."""
        assert refused(data).status == 400

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            (b"no colon", "Name: value"), (b": nameless", "token"), (b"A b: c", "token"), (b"A(: c", "token"),
            (b"A\x7f: c", "token"), (b"A\xe9: c", "token"), (b"A: \x01", "control"), (b"A: b\x7f", "control"),
            (b"A: \x0b", "control"), (b"A: \x1b[0m", "control"),
        ],
    )  # fmt: skip
    def test_fields(self, line: bytes, said: str) -> None:
        refusal = refused(get(b"X: y", line))
        assert refusal.status == 400
        assert said in refusal.text

    def test_what_can_be_no_head_is_refused_at_once(self) -> None:
        parser = RequestParser(512, 64)
        parser.receive(b"\x16\x03\x01\x02")  # TLS, on a port that has none
        refusal = parser.next()
        assert isinstance(refusal, Refusal)
        assert refusal.status == 400

    def test_whether_a_refusal_answers_a_head(self) -> None:
        for data, method in (
            (get(b"A : b", method=b"HEAD"), b"HEAD"),
            (get(target=b"/%ff", method=b"HEAD"), b"HEAD"),
            (get(b"A: " + b"x" * 600, method=b"HEAD"), b"HEAD"),
            (get(method=b"HEAD") + b"rubbish\r\n\r\n", b""),
            (get(b"A : b"), b""),
        ):
            parser = RequestParser(512, 64)
            parser.receive(data)
            while not isinstance(outcome := parser.next(), Refusal):
                assert outcome is not None
            assert parser.method == method


class TestHeadSizes:
    @staticmethod
    def of(size: int) -> bytes:
        return get(b"X: " + b"x" * (size - len(get(b"X: "))))

    @pytest.mark.rfc(
        "9110", "5.4", "MUST answer with a 4xx status where fields are larger than the server takes"
    )
    @pytest.mark.parametrize("cut", [1, 3, 100, 512, 2000])
    @pytest.mark.parametrize("whole", [True, False])
    def test_at_and_over_the_limit(self, cut: int, whole: bool) -> None:
        data = self.of(512)
        assert len(read(data, range(0, 512, cut)).requests) == 1
        data = self.of(513) if whole else self.of(600)[:512]
        reading = read(data, range(0, 513, cut))
        assert reading.refusal is not None
        assert (reading.requests, reading.refusal.status) == ([], 431)

    def test_behind_another_request(self) -> None:
        for size, count in ((512, 2), (513, 1)):
            reading = read(get() + self.of(size) + get(b"Connection: close")[:0])
            assert len(reading.requests) == count
            assert (reading.refusal is None) == (count == 2)

    @pytest.mark.rfc("9112", "3", "MUST answer 414 to a target that is longer than the server takes")
    @pytest.mark.parametrize("data", [get(target=b"/" + b"x" * 600), b"GET /" + b"x" * 600, b"G" * 600])
    def test_a_request_line_over_the_limit(self, data: bytes) -> None:
        assert refused(data).status == 414


class TestFraming:
    @pytest.mark.parametrize(
        ("line", "body"),
        [
            (b"Content-Length: 5", b"hello"), (b"Content-Length: 0", b""), (b"Content-Length: 005", b"hello"),
            (b"content-length:5", b"hello"), (b"Content-Length: " + b"0" * 40 + b"5", b"hello"),
            (b"Content-Length: 64", b"x" * 64),
        ],
    )  # fmt: skip
    def test_content_length(self, line: bytes, body: bytes) -> None:
        first, second = all_of(post(line, body=body) + get(target=b"/next"))
        assert (first.body, second.path, second.body) == (body, "/next", b"")

    @pytest.mark.rfc("9112", "6.3", "MUST answer 400 to a Content-Length that is none, and close")
    @pytest.mark.rfc("9110", "8.6", "a repeated Content-Length is refused, or made one; it is refused")
    @pytest.mark.parametrize(
        "lines",
        [
            (b"Content-Length: -1",), (b"Content-Length: +5",), (b"Content-Length: five",), (b"Content-Length:",),
            (b"Content-Length: 5 5",), (b"Content-Length: 0x5",), (b"Content-Length: 5.0",), (b"Content-Length: 1_0",),
            (b"Content-Length: 5, 5",), (b"Content-Length: 5, 6",), (b"Content-Length: \xb2",),
            (b"Content-Length: 5", b"Content-Length: 5"), (b"Content-Length: 5", b"content-length: 6"),
            (b"Content-Length: 5;x",),
        ],
    )  # fmt: skip
    def test_no_content_length(self, lines: tuple[bytes, ...]) -> None:
        assert refused(post(*lines, body=b"hello")).status == 400

    @pytest.mark.rfc(
        "9110", "8.6", "MUST expect large numbers in Content-Length, and not be led astray by them"
    )
    @pytest.mark.parametrize("length", [b"65", b"99999999999999999999", b"9" * 300])
    def test_a_body_over_the_limit_is_not_waited_for(self, length: bytes) -> None:
        parser = RequestParser(512, 64)
        parser.receive(post(b"Expect: 100-continue", b"Content-Length: " + length))
        refusal = parser.next()
        assert isinstance(refusal, Refusal)
        assert (refusal.status, parser.take_continue(), parser.over) == (413, False, True)

    @pytest.mark.rfc(
        "9112", "6.1", "MUST close behind a request with Content-Length and Transfer-Encoding; it is refused"
    )
    @pytest.mark.parametrize("length", [b"0", b"5", b"x"])
    @pytest.mark.parametrize("coding", [b"chunked", b"Chunked", b"identity", b"gzip"])
    def test_length_and_coding(self, length: bytes, coding: bytes) -> None:
        lines = (b"Content-Length: " + length, b"Transfer-Encoding: " + coding)
        for order in (lines, lines[::-1]):
            assert refused(post(*order, body=b"0\r\n\r\n")).status == 400

    @pytest.mark.rfc(
        "9112", "6.1", "MUST take Transfer-Encoding in HTTP/1.0 for faulty framing, and close; it is refused"
    )
    def test_no_coding_in_http_1_0(self) -> None:
        line = b"Transfer-Encoding: chunked"
        assert refused(post(line, b"Connection: keep-alive", body=b"0\r\n\r\n", version=b"1.0")).status == 400

    @pytest.mark.rfc(
        "9112", "6.3", "MUST answer 400 where chunked is not the last transfer coding, and close"
    )
    @pytest.mark.rfc("9112", "6.1", "SHOULD answer 501 to a transfer coding that the server does not know")
    @pytest.mark.parametrize(
        ("lines", "status"),
        [
            ((b"Transfer-Encoding: gzip",), 400),
            ((b"Transfer-Encoding: chunked, gzip",), 400),
            ((b"Transfer-Encoding: chunked, chunked",), 400),
            ((b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
            ((b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"), 400),
            ((b"Transfer-Encoding: identity",), 400),
            ((b"Transfer-Encoding:",), 400),
            ((b"Transfer-Encoding: ,",), 400),
            ((b"Transfer-Encoding: ,chunked",), 400),
            ((b"Transfer-Encoding:", b"Transfer-Encoding: chunked"), 400),
            ((b"Transfer-Encoding: xchunked",), 400),
            ((b"Transfer-Encoding: chunked;q=1",), 400),
            ((b'Transfer-Encoding: a;b="c, chunked"',), 400),
            ((b"Transfer-Encoding: gzip, chunked",), 501),
            ((b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"), 501),
        ],
    )
    def test_codings(self, lines: tuple[bytes, ...], status: int) -> None:
        assert refused(post(*lines, body=b"0\r\n\r\n")).status == status

    def test_a_body_in_two_reads(self) -> None:
        parser = RequestParser(512, 64)
        parser.receive(post(b"Content-Length: 5", body=b"he"))
        assert (parser.next(), parser.in_body, parser.begun, parser.buffered) == (None, True, False, 0)
        parser.receive(b"l")
        assert (parser.next(), parser.next()) == (None, None)
        parser.receive(b"lo" + get())
        request = parser.next()
        assert isinstance(request, Request)
        assert (request.body, parser.in_body, parser.begun) == (b"hello", False, True)
        assert isinstance(parser.next(), Request)


class TestChunks:
    @pytest.mark.rfc("9112", "6.1", "MUST be able to read the chunked transfer coding")
    @pytest.mark.rfc("9112", "7.1", "MUST be able to read and decode the chunked transfer coding")
    @pytest.mark.rfc("9112", "7.1.1", "MUST ignore chunk extensions that the server does not know")
    @pytest.mark.rfc("9110", "5.6.3", "MUST read over bad white space, where the grammar names it")
    @pytest.mark.parametrize(
        ("chunks", "body"),
        [
            (b"", b""),
            (b"5\r\nhello\r\n", b"hello"),
            (b"00005\r\nhello\r\n", b"hello"),
            (b"0000000000000005\r\nhello\r\n", b"hello"),
            (b"a\r\n0123456789\r\nA\r\n0123456789\r\n", b"0123456789" * 2),
            (b"1\r\nh\r\n4\r\nello\r\n", b"hello"),
            (b"1\r\n\r\r\n1\r\n\n\r\n2\r\n\r\n\r\n", b"\r\n\r\n"),
            (b"7\r\n\r\n1\r\na\r\r\n", b"\r\n1\r\na\r"),
            (b"3\r\n\r\n1\r\n2\r\n\r\n\r\n", b"\r\n1\r\n"),
            (b"11\r\n0123456789abcdefg\r\n", b"0123456789abcdefg"),
            (b"14\r\n01234567890123456789\r\n", b"01234567890123456789"),
            (b"5;a\r\nhello\r\n", b"hello"),
            (b'5;a=b;c="d \\" \xe9";e\r\nhello\r\n', b"hello"),
            (b"5 ; a\t=\tb\r\nhello\r\n", b"hello"),
            (b"1\r\nh\r\n4;x\r\nello\r\n", b"hello"),
        ],
    )
    @pytest.mark.parametrize(
        "end", [b"0\r\n\r\n", b"000\r\n\r\n", b"0;a=b\r\n\r\n", b"0\r\nX: y\r\nHost: z\r\n\r\n"]
    )
    def test_bodies(self, chunks: bytes, body: bytes, end: bytes) -> None:
        first, second = all_of(CHUNKED + chunks + end + get(target=b"/next"))
        assert (first.body, second.path) == (body, "/next")

    @pytest.mark.rfc("9112", "7.1.2", "MUST NOT merge trailer fields into the header section")
    @pytest.mark.rfc(
        "9110", "6.5.1", "MUST NOT merge trailer fields that are not meant for it; they are dropped"
    )
    def test_trailers_are_dropped(self) -> None:
        request = one(CHUNKED + b"0\r\nHost: evil\r\nX: y\r\n\r\n")
        assert request.headers == [(b"host", b"x"), (b"transfer-encoding", b"chunked")]

    @pytest.mark.rfc(
        "9112", "7.1", "MUST expect large numbers in a chunk's size, and not be led astray by them"
    )
    @pytest.mark.parametrize(
        ("chunks", "status"),
        [
            (b"41\r\n", 413),
            (b"3f\r\n" + b"x" * 63 + b"\r\n2\r\n", 413),
            (b"1\r\nx\r\n" * 65, 413),
            (b"ffffffffffffffff\r\n", 413),
            (b"1" * 17 + b"\r\n", 400),
            (b"nonsense\r\n", 400),
            (b"\r\n", 400),
            (b"-1\r\n", 400),
            (b"+1\r\n", 400),
            (b"0x1\r\n", 400),
            (b"1_0\r\n", 400),
            (b" 1\r\n", 400),
            (b"1 \r\n", 400),
            (b"1;\r\n", 400),
            (b"1;a=\r\n", 400),
            (b'1;a="\r\n', 400),
            (b"1;a=\0\r\n", 400),
            (b"1,2\r\n", 400),
            (b"1\nx\r\n", 400),
            (b"1\rx\r\n", 400),
            (b"1;\xff\r\n", 400),
            (b"1\r\nxy\r\n", 400),
            (b"1\r\nx\n", 400),
            (b"1\r\nx\rx", 400),
            (b"1\r\nx0\r\n\r\n", 400),
            (b"20\r\n" + b"x" * 33, 400),
            (b"1;" + b"x" * MAX_CHUNK_LINE, 400),
            ((b"1;" + b"x" * 200 + b"\r\nx\r\n") * 3, 400),
            (b"0\r\n X: y\r\n\r\n", 400),
            (b"0\r\nX : y\r\n\r\n", 400),
            (b"0\r\nX: y\nZ: z\r\n\r\n", 400),
            (b"0\r\nno colon\r\n\r\n", 400),
            (b"0\r\n\n", 400),
            (b"0\r\nContent-Length: 9\r\n\r\n", 400),
            (b"0\r\ntransfer-encoding: chunked\r\n\r\n", 400),
            (b"0\r\nX: " + b"y" * 600, 431),
            (b"0\r\n" + b"X: y\r\n" * 100, 431),
        ],
    )
    def test_wrong_bodies(self, chunks: bytes, status: int) -> None:
        assert refused(CHUNKED + chunks).status == status

    def test_at_the_limits(self) -> None:
        assert one(CHUNKED + b"1\r\nx\r\n" * 64 + b"0\r\n\r\n").body == b"x" * 64
        assert one(CHUNKED + b"40\r\n" + b"x" * 64 + b"\r\n0\r\n\r\n").body == b"x" * 64
        line = b"1;" + b"x" * (MAX_CHUNK_LINE - 4) + b"\r\n"
        assert len(line) == MAX_CHUNK_LINE
        assert one(CHUNKED + line + b"x\r\n0\r\n\r\n").body == b"x"
        fields = b"X: " + b"y" * (512 - 7) + b"\r\n\r\n"
        assert len(fields) == 512
        assert one(CHUNKED + b"0\r\n" + fields).body == b""

    def test_counts_are_of_one_request(self) -> None:
        body = (b"1;" + b"x" * 100 + b"\r\nx\r\n") * 4 + b"0\r\n" + b"X: y\r\n" * 50 + b"\r\n"
        assert [request.body for request in all_of((CHUNKED + body) * 3)] == [b"xxxx"] * 3


class TestExpectations:
    LINE = b"Expect: 100-continue"

    @staticmethod
    def waiting(data: bytes) -> RequestParser:
        parser = RequestParser(512, 64)
        parser.receive(data)
        assert parser.next() is None
        return parser

    @pytest.mark.rfc(
        "9110",
        "10.1.1",
        "MUST send 100 Continue or a final answer to who expects it, without waiting for the body",
    )
    @pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
    @pytest.mark.parametrize("line", [LINE, b"expect: 100-Continue"])
    def test_who_waits(self, framing: bytes, line: bytes) -> None:
        parser = self.waiting(post(line, framing))
        assert parser.take_continue()
        assert not parser.take_continue()
        parser.receive(b"hello" if b"5" in framing else b"5\r\nhello\r\n0\r\n\r\n")
        request = parser.next()
        assert isinstance(request, Request)
        assert request.body == b"hello"
        assert not parser.take_continue()

    def test_who_does_not_wait(self) -> None:
        assert not self.waiting(post(self.LINE, b"Content-Length: 5", body=b"h")).take_continue()
        parser = self.waiting(post(self.LINE, b"Content-Length: 5"))
        parser.receive(b"h")
        assert parser.next() is None
        assert not parser.take_continue()
        assert not self.waiting(post(b"Content-Length: 5")).take_continue()
        assert one(get(self.LINE)).body == b""

    @pytest.mark.rfc("9110", "10.1.1", "MUST ignore an expectation of 100 Continue in HTTP/1.0")
    @pytest.mark.rfc("9110", "15.2", "MUST NOT send a 1xx answer to an HTTP/1.0 client")
    def test_not_in_http_1_0(self) -> None:
        assert not self.waiting(post(self.LINE, b"Content-Length: 5", version=b"1.0")).take_continue()
        assert one(get(b"Expect: tea", version=b"1.0")).method == "GET"

    @pytest.mark.rfc("9110", "10.1.1", "MAY answer 417 to another expectation; it does")
    @pytest.mark.parametrize("line", [b"Expect: tea", b"Expect: 100-continue, tea", b"Expect: 200-ok"])
    def test_another(self, line: bytes) -> None:
        assert refused(post(line, b"Content-Length: 5", body=b"hello")).status == 417
        assert refused(get(line)).status == 417


class TestUpgrades:
    LINES = (b"Upgrade: websocket", b"Connection: keep-alive, Upgrade")

    def test_what_follows_are_frames(self) -> None:
        parser = RequestParser(512, 64)
        parser.receive(get(*self.LINES, target=b"/ws?a") + b"\x81\x80")
        request = parser.next()
        assert isinstance(request, Request)
        assert (request.upgrade, request.path, request.head.target) == (True, "/ws", b"/ws?a")
        assert parser.buffered == 2
        assert parser.take_rest() == b"\x81\x80"
        assert (parser.buffered, parser.take_rest(), parser.next()) == (0, b"", None)

    def test_one_that_ends_the_connection_is_the_last_request(self) -> None:
        parser = RequestParser(512, 64)
        parser.receive(get(*self.LINES, b"Connection: close") + get())
        request = parser.next()
        assert isinstance(request, Request)
        assert (request.upgrade, request.keep_alive, parser.over, parser.next()) == (True, False, True, None)
        assert parser.take_rest() == get()

    @pytest.mark.parametrize("lines", [(b"Upgrade: websocket",), (b"Upgrade: h2c", b"Connection: upgrade")])
    @pytest.mark.rfc("9110", "7.8", "MUST NOT switch to a protocol that the client did not name")
    def test_what_is_none(self, lines: tuple[bytes, ...]) -> None:
        requests = all_of(post(*lines, b"Content-Length: 5", body=b"hello") + get(*lines))
        assert [(request.upgrade, request.body) for request in requests] == [(False, b"hello"), (False, b"")]

    @pytest.mark.rfc(
        "9110", "7.8", "MUST NOT switch where the message can't be honoured in the new protocol: no body"
    )
    @pytest.mark.rfc("9110", "7.8", "MUST send 100 before 101 to who asks for both; who does is refused")
    @pytest.mark.parametrize(
        "line", [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Expect: 100-continue"]
    )
    def test_none_with_a_body(self, line: bytes) -> None:
        assert refused(get(*self.LINES, line) + b"hello").status == 400
        assert one(get(*self.LINES, b"Content-Length: 0")).upgrade


class TestEnds:
    @pytest.mark.rfc("9110", "5.3", "MUST NOT act on a request before its whole head has come")
    @pytest.mark.rfc("9112", "6.3", "MUST take a body that ends before its length for incomplete, and close")
    @pytest.mark.parametrize(
        ("data", "where"),
        [
            (b"", None),
            (get(), None),
            (b"\r\n", None),
            (get(b"Connection: close") + b"more", None),
            (b"rubbish\r\n\r\n", None),
            (b"G", "head"),
            (b"\r", "head"),
            (get()[:-1], "head"),
            (get() + b"GET", "head"),
            (post(b"Content-Length: 5"), "body"),
            (post(b"Content-Length: 5", body=b"hell"), "body"),
            (CHUNKED, "body"),
            (CHUNKED + b"5", "body"),
            (CHUNKED + b"5\r", "body"),
            (CHUNKED + b"5\r\nhell", "body"),
            (CHUNKED + b"5\r\nhello\r", "body"),
            (CHUNKED + b"0\r\n", "body"),
            (CHUNKED + b"0\r\nX: y\r\n\r", "body"),
        ],
    )
    def test_of_the_stream(self, data: bytes, where: str | None) -> None:
        ended = read(data, range(len(data))).ended
        if where is None:
            assert ended is None
        else:
            assert ended is not None
            assert ended.status == 400
            assert where in ended.text

    def test_nothing_is_left_behind_one(self) -> None:
        parser = RequestParser(512, 64)
        parser.receive(post(b"Content-Length: 5"))
        assert parser.next() is None
        assert parser.eof() is not None
        assert (parser.over, parser.in_body, parser.buffered, parser.eof()) == (True, False, 0, None)


class TestState:
    def test_requests_wait_until_they_are_asked_for(self) -> None:
        parser = RequestParser(512, 64)
        assert (parser.buffered, parser.begun, parser.in_body, parser.next()) == (0, False, False, None)
        parser.receive(get() + get(target=b"/b"))
        assert parser.begun
        assert parser.buffered == 2 * len(get()) + 1
        first = parser.next()
        assert isinstance(first, Request)
        assert parser.buffered == len(get()) + 1
        parser.receive(get(target=b"/c")[:10])
        paths = []
        while (request := parser.next()) is not None:
            assert isinstance(request, Request)
            paths.append(request.path)
        assert (paths, parser.buffered, parser.begun) == (["/b"], 10, True)
        parser.receive(get(target=b"/c")[10:])
        last = parser.next()
        assert isinstance(last, Request)
        assert last.path == "/c"


SECTIONS = [
    b"Host: x\r\n", b"Host: y\r\n", b"Host: x\r\nX: a\r\n", b"X: a\r\nHost: x\r\n", b"X: a\r\n", b"",
    b"Host: x\r\nConnection: close\r\n", b"Host: x\r\nConnection: keep-alive\r\n", b"Host: x\r\nContent-Length: 2\r\n",
    b"Host: x\r\nX: " + b"a" * 5000 + b"\r\n", b"Host: x\r\nX : a\r\n",
]  # fmt: skip
LINES = [
    b"GET / HTTP/1.1\r\n", b"GET /b?c HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n",
    b"TRACE / HTTP/1.1\r\n", b"GET http://z/ HTTP/1.1\r\n", b"GET /%ff HTTP/1.1\r\n", b"GET / HTTP/1.2\r\n",
    b"GET /\r\n", b"\r\nGET / HTTP/1.1\r\n",
]  # fmt: skip


class TestTheSameFieldsAgain:
    """A header section that came before is not read again; that changes nothing."""

    @pytest.mark.parametrize("second", SECTIONS)
    @pytest.mark.parametrize("first", SECTIONS)
    def test_what_came_before_changes_nothing(self, first: bytes, second: bytes) -> None:
        for line in LINES:
            for again in LINES:
                parser = RequestParser(64 * KIB, KIB)
                parser.receive(line + first + b"\r\n" + (b"ab" if b"Length" in first else b""))
                before = parser.next()
                if not isinstance(before, Request) or not before.keep_alive:
                    continue
                before.headers.append((b"the", b"program's"))
                fresh = RequestParser(64 * KIB, KIB)
                found = []
                for each in (parser, fresh):
                    each.receive(again + second + b"\r\n" + (b"ab" if b"Length" in second else b""))
                    found.append((each.next(), each.method, each.buffered, each.over))
                assert found[0] == found[1]


@pytest.mark.slow
class TestWork:
    """Nothing that a client may send costs out of proportion."""

    @staticmethod
    def feed(data: bytes, step: int, expected: int) -> None:
        parser = RequestParser(64 * KIB, 8 * KIB * KIB)
        for at in range(0, len(data), step):
            parser.receive(data[at : at + step])
            outcome = parser.next()
        assert isinstance(outcome, Request)
        assert len(outcome.body) == expected

    @pytest.mark.parametrize("kind", ["head", "fields", "body", "chunk", "chunks", "trailers"])
    def test_byte_by_byte_is_linear(self, kind: str) -> None:
        def data(size: int) -> tuple[bytes, int]:
            many = size // 8 * b"abcd: e\r\n"
            return {
                "head": (get(b"X: " + b"x" * size), 0),
                "fields": (get(many[:-2]), 0),
                "body": (post(b"Content-Length: %d" % size, body=b"x" * size), size),
                "chunk": (CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size), size),
                "chunks": (CHUNKED + b"1\r\nx\r\n" * (size // 6) + b"0\r\n\r\n", size // 6),
                "trailers": (CHUNKED + b"0\r\n" + many + b"\r\n", 0),
            }[kind]

        small, large = (data(size) for size in (3 * KIB, 48 * KIB))
        once = seconds(lambda: self.feed(small[0], 1, small[1]))
        assert seconds(lambda: self.feed(large[0], 1, large[1])) < once * 16 * 4

    @pytest.mark.parametrize(
        "chunk", [b"1\r\nx\r\n", b"1\r\n\r\r\n", b"0001\r\nx\r\n", b"1\r\nx\r\n2\r\nxx\r\n"]
    )
    def test_the_cost_of_tiny_chunks_is_bounded(self, chunk: bytes) -> None:
        """An ordinary body is copied and no more; these take 70 to 120 times that, and 1400 times and more where each
        chunk is read by lines of Python."""
        size = KIB * KIB
        plain = post(b"Content-Length: %d" % size, body=b"x" * size)
        count = size // len(chunk)
        body = count * (3 if b"xx" in chunk else 1)
        chunked = CHUNKED + chunk * count + b"0\r\n\r\n"
        assert seconds(lambda: self.feed(chunked, 64 * KIB, body)) < 400 * seconds(
            lambda: self.feed(plain, 64 * KIB, size)
        )


ODD = [
    b"", b" ", b"\t", b"\r", b"\n", b"\r\n", b"\0", b":", b"\xff", b"\x7f", b",", b"a", b"\x0b", b";", b"0", b"5", b"-",
    b"Host: y\r\n", b"Host:\r\n", b"X: y\r\n", b"X:\t y \t\r\n", b"X:\r\n", b": y\r\n", b" folded\r\n", b"X : y\r\n",
    b"X: y\n", b"Cookie: \xe9=\x80\r\n", b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"Content-Length: 05\r\n",
    b"Content-Length: 5, 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
    b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Upgrade: h2c\r\n",
    b"GET / HTTP/1.1\r\n", b"HTTP/1.0", b"http://y/", b"*", b"5\r\nhello\r\n", b"0\r\n\r\n", b"hello", b"1\r\nx\r\n",
    b"5;a=b\r\nhello\r\n", b"\x81\x80\0\0\0\0", b"x" * 40,
]  # fmt: skip


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Requests one behind the other, with odd pieces put in, at the ends of lines and within them, and cut off."""
    data = b"".join(draw(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        lines = data.split(b"\r\n")
        if draw(st.booleans()):
            place = draw(st.integers(0, len(data)))
        else:
            place = len(b"\r\n".join(lines[: draw(st.integers(1, len(lines)))])) + 2
        data = data[:place] + draw(st.sampled_from(ODD + WORDS)) + data[place + draw(st.integers(0, 2)) :]
    return data


class TestBesideH11:
    @settings(deadline=None, max_examples=500)
    @given(streams() | st.lists(st.sampled_from(ODD + WORDS), max_size=12).map(b"".join))
    @example(CHUNKED + b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n" + get())
    def test_what_is_taken_h11_takes_for_the_same(self, data: bytes) -> None:
        taken = [as_exchange(request) for request in read(data).requests]
        assert taken == read_by_h11(data)[: len(taken)]

    @settings(deadline=None, max_examples=500)
    @given(streams(), st.lists(st.integers(0, 400), max_size=8))
    @example(get(*TestUpgrades.LINES, b"Connection: close") + get(), [])
    def test_cuts_change_nothing(self, data: bytes, cuts: list[int]) -> None:
        whole = read(data)
        for parts in (cuts, range(len(data))):
            reading = read(data, parts)
            assert reading.requests == whole.requests
            assert (reading.refusal is None) == (whole.refusal is None)
            assert (reading.ended is None) == (whole.ended is None)

    @settings(deadline=None)
    @given(
        st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.sampled_from([b"", b";a=b", b"; c"]))),
        st.data(),
    )
    def test_chunks_of_anything(self, chunks: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
        body = b"".join(content for content, _ in chunks)
        wire = CHUNKED + b"".join(
            b"%x%b\r\n%b\r\n" % (len(content), more, content) for content, more in chunks
        )
        wire += b"0\r\n\r\n"
        cuts = data.draw(st.lists(st.integers(len(CHUNKED), len(wire))))
        [request] = read(wire, cuts, max_head_size=KIB * KIB, max_body_size=KIB * KIB).requests
        assert request.body == body

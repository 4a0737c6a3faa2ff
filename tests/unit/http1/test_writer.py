"""Responses to bytes: how they are framed, what a consumer may say of that, and what h11 reads of them."""

from __future__ import annotations

from email.utils import formatdate, parsedate_to_datetime
from typing import Any

import attrs
import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triochan.headers import Headers
from triochan.http1.writer import LAST_CHUNK, Preambles, ResponseWriter, chunk
from triochan.replies import HttpReply, Refusal, parse_http

NOW = 784111777.9  # Sun, 06 Nov 1994 08:49:37 GMT, as in RFC 9110 section 5.6.7
START = b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: triochan\r\n"


def reply(
    status: int | None = 200, headers: Any = (), content: bytes = b"", more_content: bool = False
) -> HttpReply:
    sent: dict[str, Any] = {"headers": headers, "content": content, "more_content": more_content}
    return parse_http(sent if status is None else {"status": status, **sent}, started=status is None)


def written(
    *replies: HttpReply, method: bytes | str = b"GET", version: bytes = b"1.1", keep_alive: bool = True
) -> tuple[bytes, bool]:
    """What a whole response is, and whether the connection may be used again."""
    writer = ResponseWriter(method, version, keep_alive)
    data = b"".join(writer.write(each, NOW) for each in replies)
    assert writer.started
    assert writer.complete
    return data, writer.keep_alive


@attrs.frozen
class Answer:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    keep_alive: bool

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


def by_h11(
    data: bytes, *, method: bytes | str = b"GET", version: bytes = b"1.1", asked: bool = True
) -> Answer:
    """What h11's client makes of a response, which is all of ``data``."""
    client = h11.Connection(h11.CLIENT)
    headers = [("Host", "x"), ("Connection", "keep-alive" if asked else "close")]
    request = h11.Request(method=method, target="/", headers=headers)
    client.send(request)
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response, body = None, b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            assert event is h11.NEED_DATA, event
            assert response is not None, "the head does not end"
            client.receive_data(b"")
    assert response is not None
    assert client.trailing_data[0] == b"", "something is left behind the response"
    keep_alive = (client.our_state, client.their_state) == (h11.DONE, h11.DONE)
    return Answer(response.status_code, list(response.headers), body, keep_alive)


class TestWholeResponses:
    @pytest.mark.rfc("9110", "6.2", "MUST NOT say to speak a version that it does not: HTTP/1.1")
    @pytest.mark.rfc("9110", "6.6.1", "MUST send Date in 2xx, 3xx and 4xx responses")
    @pytest.mark.rfc("9110", "5.6.7", "MUST write times as IMF-fixdate, and nothing more")
    def test_a_small_one_is_one_piece(self) -> None:
        data, keep_alive = written(reply(200, [("Content-Type", "application/json"), ("X", "")], b'{"a": 1}'))
        assert data == START + b'Content-Type: application/json\r\nX: \r\nContent-Length: 8\r\n\r\n{"a": 1}'
        assert keep_alive

    @pytest.mark.rfc("9112", "4", "MUST send the space behind the status code where no reason follows")
    def test_a_status_without_a_name(self) -> None:
        assert written(reply(599))[0].startswith(b"HTTP/1.1 599 \r\nDate: ")

    @pytest.mark.parametrize("status", [200, 201, 301, 404, 500])
    def test_no_content_is_said_to_be_none(self, status: int) -> None:
        data, _ = written(reply(status))
        assert data.endswith(b"\r\nContent-Length: 0\r\n\r\n")
        assert by_h11(data).status == status

    def test_the_clock_s_time(self) -> None:
        [date] = by_h11(ResponseWriter("GET").write(reply())).values(b"date")
        said = parsedate_to_datetime(date.decode()).timestamp()
        assert abs(said - parsedate_to_datetime(formatdate(usegmt=True)).timestamp()) <= 2

    @pytest.mark.parametrize("name", ["Date", "date", "Server", "SERVER"])
    def test_a_consumer_s_own_date_and_server(self, name: str) -> None:
        answer = by_h11(written(reply(200, [(name, "mine")]))[0])
        assert answer.values(name.lower().encode()) == [b"mine"]
        assert len(answer.values(b"date")) == len(answer.values(b"server")) == 1

    def test_refusals(self) -> None:
        writer = ResponseWriter(b"GET", b"1.1", keep_alive=False)
        data = writer.refuse(Refusal(405, "no", [(b"Allow", b"GET")]), NOW)
        assert data == (
            b"HTTP/1.1 405 Method Not Allowed\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: triochan\r\n"
            b"Content-Type: text/plain; charset=utf-8\r\nAllow: GET\r\nConnection: close\r\n"
            b"Content-Length: 3\r\n\r\nno\n"
        )


class TestNoContent:
    @pytest.mark.rfc("9112", "6.1", "MUST NOT send Transfer-Encoding with 204")
    @pytest.mark.rfc("9110", "8.6", "MUST NOT send Content-Length with 204")
    @pytest.mark.parametrize("length", [[], [("Content-Length", "0")], [("Content-Length", "5")]])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_204(self, length: list[tuple[str, str]], method: str) -> None:
        for replies in ([reply(204, length)], [reply(204, length, more_content=True), reply(None)]):
            assert (
                written(*replies, method=method)[0] == START.replace(b"200 OK", b"204 No Content") + b"\r\n"
            )

    @pytest.mark.rfc("9110", "15.3.6", "MUST NOT send content with 205")
    def test_205(self) -> None:
        for replies in (
            [reply(205)],
            [reply(205, [("Content-Length", "0")], more_content=True), reply(None)],
        ):
            assert written(*replies)[0].endswith(b"\r\nContent-Length: 0\r\n\r\n")
        with pytest.raises(ValueError, match="205 has no content"):
            ResponseWriter("GET").write(reply(205, [("Content-Length", "1")]))

    @pytest.mark.rfc(
        "9110",
        "8.6",
        "MUST NOT send a Content-Length with 304, unless it is that of the 200; it is the consumer's",
    )
    def test_304(self) -> None:
        start = START.replace(b"200 OK", b"304 Not Modified")
        assert written(reply(304, [("ETag", '"a"')]))[0] == start + b'ETag: "a"\r\n\r\n'
        assert written(reply(304, [("Content-Length", "5")]))[0] == start + b"Content-Length: 5\r\n\r\n"

    @pytest.mark.parametrize("status", [204, 205, 304])
    def test_content_where_there_is_none(self, status: int) -> None:
        writer = ResponseWriter("GET")
        with pytest.raises(ValueError, match=f"{status} has no content"):
            writer.write(reply(status, content=b"x"))
        assert not writer.started
        assert by_h11(writer.write(reply(500))).status == 500
        writer = ResponseWriter("GET")
        writer.write(reply(status, more_content=True))
        with pytest.raises(ValueError, match="longer"):
            writer.write(reply(None, content=b"x"))

    @pytest.mark.rfc("9110", "9.3.2", "MUST NOT send content in answer to HEAD")
    @pytest.mark.rfc(
        "9110", "8.6", "MUST NOT send a Content-Length in answer to HEAD that GET would not have"
    )
    @pytest.mark.parametrize("version", [b"1.1", b"1.0"])
    def test_head(self, version: bytes) -> None:
        for replies in (
            [reply(content=b"hello")],
            [reply(headers=[("Content-Length", "5")], content=b"hello")],
            [
                reply(headers=[("Content-Length", "5")], content=b"he", more_content=True),
                reply(None, content=b"llo"),
            ],
            [reply(content=b"he", more_content=True), reply(None, content=b"llo")],
        ):
            got, reuse = written(*replies, method=b"HEAD", version=version)
            as_get, reuse_of_get = written(*replies, version=version)
            assert got == as_get[: as_get.index(b"\r\n\r\n") + 4]
            assert reuse == reuse_of_get

    def test_head_without_the_content_that_get_would_have(self) -> None:
        assert written(reply(), method=b"HEAD")[0] == START + b"\r\n"
        data, _ = written(reply(headers=[("Content-Length", "5")]), method=b"HEAD")
        assert data == START + b"Content-Length: 5\r\n\r\n"
        with pytest.raises(ValueError, match="shorter"):
            ResponseWriter(b"HEAD").write(reply(headers=[("Content-Length", "5")], content=b"four"))


class TestLengths:
    def test_a_consumer_s_own(self) -> None:
        headers = [("Content-Length", "5"), ("X", "y")]
        for replies in (
            [reply(headers=headers, content=b"hello")],
            [reply(headers=headers, more_content=True), reply(None, content=b"hello")],
            [
                reply(headers=headers, content=b"he", more_content=True),
                reply(None, content=b"llo", more_content=True),
                reply(None),
            ],
        ):
            data, keep_alive = written(*replies)
            assert data == START + b"X: y\r\nContent-Length: 5\r\n\r\nhello"
            assert keep_alive

    @pytest.mark.rfc("9112", "6.2", "MUST NOT send Content-Length together with Transfer-Encoding")
    def test_a_length_is_not_joined_by_chunks(self) -> None:
        data, _ = written(
            reply(headers=[("content-length", "1")], more_content=True), reply(None, content=b"x")
        )
        assert b"ransfer-" not in data
        assert data.count(b"ontent-") == 1

    @pytest.mark.rfc("9110", "8.6", "MUST NOT send a Content-Length that is wrong")
    @pytest.mark.parametrize(
        ("length", "content", "more_content", "said"),
        [
            ("5", b"four", False, "1 bytes shorter"),
            ("3", b"four", False, "1 bytes longer"),
            ("3", b"four", True, "1 bytes longer"),
            ("0", b"four", False, "4 bytes longer"),
            ("-1", b"", False, "one Content-Length"),
            ("4, 4", b"four", False, "one Content-Length"),
            ("", b"", False, "one Content-Length"),
            ("9" * 19, b"", True, "one Content-Length"),
        ],
    )
    def test_a_wrong_one_is_noticed_before_anything_is_sent(
        self, length: str, content: bytes, more_content: bool, said: str
    ) -> None:
        writer = ResponseWriter("GET")
        with pytest.raises(ValueError, match=said):
            writer.write(reply(200, [("Content-Length", length)], content, more_content))
        assert (writer.started, writer.complete, writer.keep_alive) == (False, False, True)
        assert by_h11(writer.write(reply(500, content=b"x"))).body == b"x"

    def test_two(self) -> None:
        with pytest.raises(ValueError, match="one Content-Length"):
            ResponseWriter("GET").write(reply(200, [("Content-Length", "1"), ("content-length", "1")], b"x"))

    @pytest.mark.parametrize(
        ("pieces", "said"),
        [
            ([(b"hel", True), (b"lo!", False)], "longer"),
            ([(b"hell", False)], "shorter"),
            ([(b"", False)], "shorter"),
        ],
    )
    def test_a_wrong_one_of_a_stream_is_not_made_good(
        self, pieces: list[tuple[bytes, bool]], said: str
    ) -> None:
        writer = ResponseWriter("GET")
        writer.write(reply(200, [("Content-Length", "5")], more_content=True))
        *good, (last, more_content) = pieces
        for content, more in good:
            writer.write(reply(None, (), content, more))
        with pytest.raises(ValueError, match=said):
            writer.write(reply(None, (), last, more_content))
        assert (writer.started, writer.complete) == (True, False)


class TestStreams:
    STREAM = (
        reply(content=b"one", more_content=True),
        reply(None, content=b"", more_content=True),
        reply(None, content=b"two"),
    )

    def test_chunks(self) -> None:
        data, keep_alive = written(*self.STREAM)
        assert data == START + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
        assert keep_alive
        data, _ = written(reply(more_content=True), reply(None))
        assert data == START + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        assert (chunk(b""), chunk(b"x" * 16), LAST_CHUNK) == (
            b"",
            b"10\r\n" + b"x" * 16 + b"\r\n",
            b"0\r\n\r\n",
        )

    @pytest.mark.rfc("9112", "6.1", "MUST NOT send Transfer-Encoding to a client that does not say HTTP/1.1")
    def test_an_old_client_has_them_to_the_end_of_the_connection(self) -> None:
        data, keep_alive = written(*self.STREAM, version=b"1.0")
        assert data == START + b"Connection: close\r\n\r\nonetwo"
        assert not keep_alive
        data, keep_alive = written(reply(content=b"one"), version=b"1.0")
        assert data == START + b"Connection: keep-alive\r\nContent-Length: 3\r\n\r\none"
        assert keep_alive

    def test_nothing_behind_the_last_piece(self) -> None:
        writer = ResponseWriter("GET")
        writer.write(reply())
        for more_content in (True, False):
            with pytest.raises(ValueError, match="complete"):
                writer.write(reply(None, more_content=more_content))


class TestConnections:
    @pytest.mark.rfc("9112", "9.3", "MUST send close where the server does not keep the connection")
    @pytest.mark.rfc("9112", "9.6", "MUST close behind a response that says close")
    @pytest.mark.parametrize("version", [b"1.1", b"1.0"])
    def test_close(self, version: bytes) -> None:
        for data, keep_alive in (
            written(reply(), version=version, keep_alive=False),
            written(reply(200, [("Connection", "Close")]), version=version),
            written(reply(200, [("Connection", "keep-alive, close")]), version=version),
            written(reply(200, [("Connection", ""), ("connection", "close")]), version=version),
        ):
            assert data == START + b"Connection: close\r\nContent-Length: 0\r\n\r\n"
            assert not keep_alive
            assert not by_h11(data).keep_alive

    def test_a_consumer_can_not_keep_it(self) -> None:
        data, keep_alive = written(reply(200, [("Connection", "keep-alive")]), keep_alive=False)
        assert not keep_alive
        assert by_h11(data).values(b"connection") == [b"close"]

    @pytest.mark.rfc("9110", "7.8", "MUST list Upgrade in Connection where it is sent")
    @pytest.mark.rfc("9110", "7.6.1", "MUST list fields that control the connection in Connection")
    @pytest.mark.parametrize(
        "said", [[], [("Connection", "upgrade")], [("connection", "Keep-Alive, Upgrade")]]
    )
    def test_upgrade(self, said: list[tuple[str, str]]) -> None:
        data, keep_alive = written(reply(426, [("Upgrade", "HTTP/3.0"), *said]))
        assert by_h11(data).values(b"connection") == [b"Upgrade"]
        assert keep_alive
        data, _ = written(reply(426, [*said, ("Upgrade", "HTTP/3.0")]), keep_alive=False)
        assert by_h11(data).values(b"connection") == [b"Upgrade, close"]

    @pytest.mark.rfc("9112", "6.1", "MUST NOT apply chunked more than once")
    @pytest.mark.parametrize(
        "name", ["Transfer-Encoding", "transfer-encoding", "Keep-Alive", "Proxy-Connection", "TE", "Trailer"]
    )
    def test_what_is_the_server_s_to_say(self, name: str) -> None:
        writer = ResponseWriter("GET")
        with pytest.raises(ValueError, match=name):
            writer.write(reply(200, [(name, "chunked")]))
        assert not writer.started

    @pytest.mark.rfc("9110", "7.6.1", "MUST NOT name in Connection what is meant for all recipients")
    @pytest.mark.parametrize("value", ["upgrade", "Set-Cookie", "close, x"])
    def test_no_other_options(self, value: str) -> None:
        writer = ResponseWriter("GET")
        with pytest.raises(ValueError, match="'close', or 'upgrade'"):
            writer.write(reply(200, [("Connection", value)]))
        assert not writer.started


@pytest.mark.rfc("9112", "2.2", "MUST NOT send a bare CR outside of content")
@pytest.mark.rfc("9112", "5.2", "MUST NOT send folded lines")
@pytest.mark.rfc("9110", "2.2", "MUST NOT send what the grammar does not have")
@pytest.mark.parametrize(
    "headers", [[(b"X", b"a\r\nSet-Cookie: b")], [(b"X", b"a\n b")], [(b"X", b"a\rb")], [(b"X\r\nY", b"a")]]
)
def test_a_line_end_never_leaves_a_header(headers: Headers) -> None:
    """Even where nobody has checked: :func:`triochan.replies.parse_http` lets none through."""
    with pytest.raises(ValueError, match="line end"):
        ResponseWriter("GET").write(HttpReply(200, headers, b"", False))
    with pytest.raises(ValueError):
        reply(200, headers)


@pytest.mark.rfc("9112", "7.1", "chunks that are sent are read as they were meant")
@settings(deadline=None)
@given(
    contents=st.lists(st.binary(max_size=40), min_size=1, max_size=5),
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    version=st.sampled_from([b"1.1", b"1.0"]),
    keep_alive=st.booleans(),
    status=st.sampled_from([200, 404, 500]),
    own_length=st.booleans(),
    headers=st.lists(
        st.tuples(st.sampled_from(["X-A", "Set-Cookie", "Server"]), st.sampled_from(["", "a", "b, c"]))
    ),
)
def test_what_is_written_h11_reads(
    contents: list[bytes],
    method: str,
    version: bytes,
    keep_alive: bool,
    status: int,
    own_length: bool,
    headers: list[tuple[str, str]],
) -> None:
    body = b"".join(contents)
    given = [*headers, *([("Content-Length", str(len(body)))] if own_length else [])]
    replies = [
        reply(None if index else status, () if index else given, content, index < len(contents) - 1)
        for index, content in enumerate(contents)
    ]
    data, reuse = written(*replies, method=method, version=version, keep_alive=keep_alive)
    answer = by_h11(data, method=method)
    assert (answer.status, answer.body) == (status, b"" if method == "HEAD" else body)
    assert answer.keep_alive is reuse
    assert reuse is (keep_alive and (version == b"1.1" or own_length or len(contents) == 1))
    for name in ("X-A", "Set-Cookie"):
        sent = [value.encode() for key, value in headers if key == name]
        assert answer.values(name.lower().encode()) == sent


class TestPreambles:
    def test_one_a_second_and_status(self) -> None:
        preambles = Preambles()
        first = preambles.of(200, NOW)
        assert first == START
        assert preambles.of(200, NOW + 0.05) is first
        assert preambles.of(404, NOW) == START.replace(b"200 OK", b"404 Not Found")
        assert preambles.of(200, NOW + 1) == START.replace(b":37", b":38")
        assert preambles.of(200, NOW) == START  # a clock may be set back
        assert preambles.date(NOW + 2) == b"Sun, 06 Nov 1994 08:49:39 GMT"
        assert preambles.of(200, NOW + 2) == START.replace(b":37", b":39")

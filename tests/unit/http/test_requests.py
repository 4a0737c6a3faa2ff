"""What a request brings: query, form, JSON body; and what is refused."""

from __future__ import annotations

import contextlib
from typing import Any
from urllib.parse import quote_plus, urlencode

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triochan import Message, route
from triochan.exceptions import HttpError, ImproperlyConfigured
from triochan.http import json, text
from triochan.http.requests import Fields, UploadedFile, form, json_body, query
from triochan.runtime import REQUEST
from triochan.test import Client


def message(body: bytes = b"", content_type: str | None = None, query_string: bytes = b"") -> Message:
    headers = [] if content_type is None else [(b"content-type", content_type.encode("latin-1"))]
    return Message({"body": body, "query_string": query_string, "headers": headers}, REQUEST)


TEXT = st.text(st.characters(codec="utf-8"))
PAIRS = st.lists(st.tuples(TEXT, TEXT))


class TestQuery:
    @given(PAIRS)
    def test_what_urlencode_writes_is_read(self, pairs: list[tuple[str, str]]) -> None:
        pairs = [pair for pair in pairs if pair != ("", "")]
        assert query(message(query_string=urlencode(pairs).encode())).pairs == pairs

    def test_fields(self) -> None:
        fields = query(message(query_string=b"a=1&b=x+y%2B&a=2&flag&&=&"))
        assert fields.pairs == [("a", "1"), ("b", "x y+"), ("a", "2"), ("flag", ""), ("", "")]
        assert dict(fields) == {"a": "2", "b": "x y+", "flag": "", "": ""}
        assert fields.all("a") == ["1", "2"]
        assert fields.all("none") == []
        assert fields.get("none") is None
        assert len(fields) == 4
        assert repr(Fields([("a", "1")])) == "Fields([('a', '1')])"

    def test_nothing(self) -> None:
        assert query(message()).pairs == []

    def test_too_many(self) -> None:
        many = b"&".join(b"k%d=" % each for each in range(100_000))
        with pytest.raises(HttpError, match="400 the query has more than 1000 fields"):
            query(message(query_string=many))
        assert len(query(message(query_string=many), max_fields=100_000)) == 100_000

    @pytest.mark.parametrize("data", [b"a=%ff", b"%c3=x", b"a=\xff"])
    def test_not_utf_8(self, data: bytes) -> None:
        with pytest.raises(HttpError, match="400 the query has a field that is not UTF-8"):
            query(message(query_string=data))


BOUNDARY = "x" * 20


def multipart(*parts: tuple[str, bytes], end: str = "--") -> bytes:
    written = [f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + content + b"\r\n" for head, content in parts]
    return b"".join(written) + f"--{BOUNDARY}{end}\r\n".encode()


def field(name: str) -> str:
    return f'Content-Disposition: form-data; name="{name}"'


def file(name: str, filename: str, content_type: str = "text/plain") -> str:
    return f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\nContent-Type: {content_type}'


def posted(body: bytes) -> Message:
    return message(body, f"multipart/form-data; boundary={BOUNDARY}")


class TestForm:
    async def test_urlencoded(self) -> None:
        made = await form(message(b"name=Ada&name=Grace", "application/x-www-form-urlencoded; charset=utf-8"))
        assert made.fields.all("name") == ["Ada", "Grace"]
        assert made.files == []

    async def test_multipart(self) -> None:
        content = bytes(range(256)) * 300
        body = multipart(
            (field("name"), "Ada é".encode()),
            (file("up", "a.txt", "image/png"), content),
            (field("name"), b""),
        )
        fields, files = made = await form(posted(body))
        assert fields.pairs == [("name", "Ada é"), ("name", "")]
        assert files == [("up", UploadedFile("a.txt", "image/png", content))]
        found = made.file("up")
        assert found is not None
        assert found.file.read() == content
        assert (
            repr(found)
            == f"UploadedFile(filename='a.txt', content_type='image/png', content=<{len(content)} bytes>)"
        )
        assert made.file("none") is None

    async def test_a_browsers(self) -> None:
        """As Chromium sends an empty file field."""
        body = multipart((file("up", "", "application/octet-stream"), b""))
        made = await form(posted(body))
        assert made.files == [("up", UploadedFile("", "application/octet-stream", b""))]
        assert made.file("up") is None

    async def test_an_empty_file_is_one(self) -> None:
        for filename, content in (("a.txt", b""), ("", b"x")):
            none = (file("up", "", "application/octet-stream"), b"")
            found = (await form(posted(multipart(none, (file("up", filename), content))))).file("up")
            assert found == UploadedFile(filename, "text/plain", content)

    async def test_what_a_client_sends_fills_no_log(self, caplog: pytest.LogCaptureFixture) -> None:
        for body in (b"rubbish", multipart((field("a"), b"x")) + b"behind it", multipart(("a b", b""))):
            with contextlib.suppress(HttpError):
                await form(posted(body))
        assert caplog.records == []

    async def test_a_file_without_a_type(self) -> None:
        body = multipart(('Content-Disposition: form-data; name="up"; filename="a"', b"x"))
        assert (await form(posted(body))).files == [
            ("up", UploadedFile("a", "application/octet-stream", b"x"))
        ]

    @pytest.mark.parametrize(
        ("made", "status", "says"),
        [
            (message(b"x"), 415, "not a body without a Content-Type"),
            (message(b"{}", "application/json"), 415, "not application/json"),
            (message(b"", "multipart/form-data"), 400, "1 to 70 characters, not 0"),
            (
                message(b"", f"multipart/form-data; boundary={'x' * 70_000}"),
                400,
                "1 to 70 characters, not 70000",
            ),
            (posted(multipart((field("a"), b"x"), end="")), 400, "breaks off before its last boundary"),
            (posted(b""), 400, "breaks off before its last boundary"),
            (posted(b"rubbish"), 400, "the body is no multipart/form-data"),
            (
                posted(multipart(("Content-Disposition: form-data", b"x"))),
                400,
                "a part .* has no Content-Disposition",
            ),
            (
                posted(multipart(("Content-Type: text/plain", b"x"))),
                400,
                "a part .* has no Content-Disposition",
            ),
            (posted(multipart((field("a"), b"\xff"))), 400, "a field that is not UTF-8"),
            (posted(multipart(*[(field("a"), b"")] * 10_000)), 400, "more than 1000 fields"),
            (posted(multipart(*[(file("a", "b"), b"")] * 10_000)), 400, "more than 100 files"),
            (posted(multipart(("X: " + "y" * 10_000, b""))), 400, "the body is no multipart/form-data"),
            (
                posted(multipart(("\r\n".join(["X: y"] * 100), b""))),
                400,
                "the body is no multipart/form-data",
            ),
            (
                message(b"a&" * 2000, "application/x-www-form-urlencoded"),
                400,
                "the form has more than 1000 fields",
            ),
            (
                message(b"a=%ff", "application/x-www-form-urlencoded"),
                400,
                "the form has a field that is not UTF-8",
            ),
        ],
    )
    async def test_what_is_refused(self, made: Message, status: int, says: str) -> None:
        with pytest.raises(HttpError, match=says) as error:
            await form(made)
        assert error.value.status == status

    async def test_a_file_that_is_too_large(self) -> None:
        body = multipart((file("up", "big"), b"x" * 1001))
        with pytest.raises(HttpError, match="413 the file 'big' has more than 1000 bytes"):
            await form(posted(body), max_file_size=1000)
        await form(posted(body), max_file_size=1001)

    @given(st.binary(max_size=200))
    async def test_whatever_comes_is_read_or_refused(self, body: bytes) -> None:
        for each in (body, f"--{BOUNDARY}\r\n".encode() + body, multipart((field("a"), body))):
            with contextlib.suppress(HttpError):
                await form(posted(each))

    @given(st.binary(max_size=300).filter(lambda data: BOUNDARY.encode() not in data))
    async def test_a_files_bytes_are_as_they_were(self, content: bytes) -> None:
        assert (await form(posted(multipart((file("a", "b"), content))))).files[0][1].content == content


@attrs.frozen
class Move:
    x: int
    y: int = 0


class Unannotated:
    pass


class TestJsonBody:
    def test_a_value(self) -> None:
        assert json_body(message(b'{"x": [1, "\xc3\xa9"]}', "application/json; charset=utf-8")) == {
            "x": [1, "é"]
        }
        assert json_body(message(b"1", "application/problem+json")) == 1
        assert json_body(message(b'\xef\xbb\xbf{"a": 1, "a": 2}', "application/json")) == {"a": 2}

    def test_an_object(self) -> None:
        for _ in range(2):
            assert json_body(message(b'{"x": 1}', "application/json"), Move) == Move(1)

    @pytest.mark.parametrize(
        ("body", "content_type", "status", "says"),
        [
            (b"{}", None, 415, "application/json is expected, not one without a Content-Type"),
            (b"{}", "text/plain", 415, "application/json is expected, not text/plain"),
            (b"", "application/json", 400, "the body is empty, where JSON is expected"),
            (b"\xef\xbb\xbf \n", "application/json", 400, "the body is empty, where JSON is expected"),
            (b"\xef\xbb\xbf\xef\xbb\xbf1", "application/json", 400, "the body is not JSON"),
            (b"{", "application/json", 400, "the body is not JSON"),
            (b"NaN", "application/json", 400, "the body is not JSON"),
            (b"\xff", "application/json", 400, "the body is not UTF-8"),
            (b'{"x": "1"}', "application/json", 400, r"does not fit:\n\$\.x: "),
            (b"{}", "application/json", 400, r"\$\.x: missing"),
        ],
    )
    def test_what_is_refused(self, body: bytes, content_type: str | None, status: int, says: str) -> None:
        with pytest.raises(HttpError, match=says) as error:
            json_body(message(body, content_type), Move)
        assert error.value.status == status

    def test_a_kind_that_is_none(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="json_body"):
            json_body(message(b"1", "application/json"), Unannotated)


async def test_a_request_that_is_wrong_is_answered() -> None:
    async def move(message: Message) -> Any:
        made = json_body(message, Move)
        return json({"x": made.x})

    async def sign_up(message: Message) -> Any:
        fields, _ = await form(message)
        return text(f"hello {fields['name']} from {query(message)['from']}")

    routing = [route("http.request", move, path="^/move$"), route("http.request", sign_up, path="^/sign-up$")]
    async with Client(routing) as client:
        assert (await client.post("/move", json={"x": 5})).json() == {"x": 5}
        refused = await client.post("/move", json={"x": "5"})
        assert refused.status == 400
        assert refused.text.startswith("the body does not fit:\n$.x: ")
        answer = await client.post(
            f"/sign-up?from={quote_plus('the north')}",
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            body=urlencode({"name": "Ada"}),
        )
        assert answer.text == "hello Ada from the north"
        assert (await client.post("/sign-up?from=x", body="x")).status == 415

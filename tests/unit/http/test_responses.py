"""What the helpers make goes through a reply channel as it is."""

from __future__ import annotations

import json as standard_json
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triochan.http import html, json, redirect, set_cookie, text
from triochan.replies import parse_http


def headers_of(content: dict[str, Any]) -> dict[bytes, bytes]:
    reply = parse_http(content, started=False)
    assert reply.status is not None
    h11.Response(status_code=reply.status, headers=reply.headers)
    made = {name.lower(): value for name, value in reply.headers}
    assert len(made) == len(reply.headers), "a header twice"
    return made


class TestBodies:
    def test_text_and_html_are_utf_8(self) -> None:
        for make, kind in ((text, b"text/plain; charset=utf-8"), (html, b"text/html; charset=utf-8")):
            made = make("é")
            assert (made["status"], made["content"]) == (200, b"\xc3\xa9")
            assert headers_of(made) == {b"content-type": kind}

    def test_json(self) -> None:
        made = json({"a": ["é/", None]}, 201)
        assert made["status"] == 201
        assert headers_of(made) == {b"content-type": b"application/json"}
        assert standard_json.loads(made["content"]) == {"a": ["é/", None]}

    @pytest.mark.parametrize(
        ("value", "error"), [(b"x", TypeError), ({1, 2}, TypeError), (float("nan"), OverflowError)]
    )
    def test_json_has_no_form_for_everything(self, value: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            json(value)

    @pytest.mark.parametrize("make", [text, html, json])
    def test_status_and_headers(self, make: Any) -> None:
        made = make("x", 404, [("X-A", "b"), set_cookie("c", "d")])
        assert made["status"] == 404
        assert headers_of(made)[b"x-a"] == b"b"
        assert headers_of(made)[b"set-cookie"].startswith(b"c=d;")

    @pytest.mark.parametrize("headers", [{"Content-Type": "text/css"}, [(b"content-type", b"text/css")]])
    def test_a_content_type_of_the_program_s_own_takes_the_helper_s_place(self, headers: Any) -> None:
        for make in (text, html, json):
            assert headers_of(make("x", headers=headers)) == {b"content-type": b"text/css"}

    def test_headers_are_checked(self) -> None:
        with pytest.raises(ValueError, match="can't have the value"):
            text("x", headers={"X": "a\r\nSet-Cookie: b=c"})


class TestRedirect:
    @pytest.mark.parametrize(
        ("location", "sent"),
        [
            ("/", b"/"),
            ("/a/b?c=d#e", b"/a/b?c=d#e"),
            ("relative/path", b"relative/path"),
            ("?page=2", b"?page=2"),
            ("/caf\xe9/☃", b"/caf%C3%A9/%E2%98%83"),
            ("/already%20quoted", b"/already%20quoted"),
            ("https://example.org:8443/x", b"https://example.org:8443/x"),
            ("HTTP://example.org", b"HTTP://example.org"),
            ("http://[::1]:80/", b"http://[::1]:80/"),
            ("/a:b", b"/a:b"),
            ("/<x>", b"/%3Cx%3E"),
        ],
    )
    def test_locations(self, location: str, sent: bytes) -> None:
        made = redirect(location)
        assert made["status"] == 303
        assert headers_of(made)[b"location"] == sent
        assert made["content"] == b""

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_statuses(self, status: int) -> None:
        assert redirect("/", status, {"X": "y"})["status"] == status

    @pytest.mark.parametrize("status", [200, 300, 304, 305, 306, 404, "302", None])
    def test_other_statuses(self, status: Any) -> None:
        with pytest.raises(ValueError, match="a redirect's status"):
            redirect("/", status)

    @pytest.mark.parametrize(
        "location",
        [
            "//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example", "/a\r\nX: y",
            "/a\nb", "/\t/evil",
            " //evil.example", "\x01//evil.example", "/a b", "javascript:alert(1)", "JavaScript:alert(1)",
            "data:text/html,x",
            "http:evil.example", "http:/evil.example", "https:evil.example", "ftp://evil.example",
            "mailto:x@y", "/\x7f",
        ],
    )  # fmt: skip
    def test_places_that_a_browser_might_take_for_others(self, location: str) -> None:
        with pytest.raises(ValueError, match="a redirect goes to"):
            redirect(location)

    @given(st.text(max_size=20))
    def test_a_path_stays_with_its_host(self, location: str) -> None:
        try:
            made = redirect(location)
        except ValueError:
            return
        sent = headers_of(made)[b"location"].decode("ascii")
        assert unquote(sent) == unquote(location)
        if not location.lower().startswith(("http://", "https://")):
            assert urlsplit(urljoin("http://here/x/", sent)).netloc == "here"

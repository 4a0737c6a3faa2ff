"""Cookies, in and out."""

from __future__ import annotations

import re
from http.cookies import SimpleCookie
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triochan.headers import check_headers
from triochan.http import parse_cookies, set_cookie

# RFC 6265 section 4.1.1
TOKEN = st.text("!#$%&'*+-.^_`|~0123456789ABCXYZabcxyz", min_size=1, max_size=8)
OCTETS = st.text("".join(chr(each) for each in range(0x21, 0x7F) if chr(each) not in '",;\\'), max_size=12)


class TestParse:
    @pytest.mark.parametrize(
        ("value", "cookies"),
        [
            (b"a=b", {"a": "b"}),
            (b"a=b; c=d;e=f", {"a": "b", "c": "d", "e": "f"}),
            (b"a=b=c==", {"a": "b=c=="}),
            (b"a=", {"a": ""}),
            (b'a="quoted"', {"a": "quoted"}),
            (b'a="', {"a": '"'}),
            (b'a=""', {"a": ""}),
            (b"a=1; a=2", {"a": "1"}),
            (b"", {}),
            (b"; ;;", {}),
            (b"novalue", {}),
            (b"=x; a=b", {"a": "b"}),
            (b"a b=c; d=e", {"d": "e"}),
            (b"\xe9=x; a=\xe9", {"a": "é"}),
            (b"  a=b \t; c=d", {"a": "b", "c": "d"}),
            (
                b"a=\xc3\xa0; b=\x85",
                {"a": "Ã\xa0", "b": "\x85"},
            ),  # no-break space: a byte of a value, not space
            (b"__Host-s=1; $Version=2", {"__Host-s": "1", "$Version": "2"}),
        ],
    )
    def test_pairs(self, value: bytes, cookies: dict[str, str]) -> None:
        assert parse_cookies([(b"host", b"x"), (b"cookie", value)]) == cookies

    def test_of_several_headers_the_first_to_have_a_name_counts(self) -> None:
        assert parse_cookies([(b"cookie", b"a=1"), (b"x", b"b=0"), (b"cookie", b"a=2; b=3")]) == {
            "a": "1",
            "b": "3",
        }

    @given(st.binary(max_size=40))
    def test_any_bytes_are_cookies_or_none(self, value: bytes) -> None:
        for name, content in parse_cookies([(b"cookie", value)]).items():
            assert re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name)
            assert ";" not in content

    @given(st.dictionaries(TOKEN, OCTETS, max_size=4))
    def test_what_was_set_comes_back(self, cookies: dict[str, str]) -> None:
        sent = "; ".join(set_cookie(name, value)[1].partition(";")[0] for name, value in cookies.items())
        assert parse_cookies([(b"cookie", sent.encode("ascii"))]) == cookies


class TestSet:
    def test_is_safe_unless_told_otherwise(self) -> None:
        assert set_cookie("a", "b") == ("Set-Cookie", "a=b; Path=/; HttpOnly; SameSite=Lax")

    def test_every_attribute(self) -> None:
        made = set_cookie(
            "a",
            "b",
            max_age=60,
            path="/x",
            domain="example.org",
            secure=True,
            http_only=False,
            same_site="Strict",
        )
        assert made[1] == "a=b; Path=/x; Domain=example.org; Max-Age=60; Secure; SameSite=Strict"
        assert set_cookie("a", "", max_age=0, http_only=False, same_site=None)[1] == "a=; Path=/; Max-Age=0"

    @given(TOKEN, OCTETS, st.none() | st.integers(0, 10**9), st.booleans())
    def test_others_read_the_same(self, name: str, value: str, max_age: int | None, secure: bool) -> None:
        header, line = set_cookie(name, value, max_age=max_age, secure=secure)
        assert check_headers([(header, line)])
        first, *attributes = [each.strip() for each in line.split(";")]
        assert first == f"{name}={value}"
        assert ("Secure" in attributes) is secure
        if re.fullmatch(r"[\w.\-]*", value) and re.fullmatch(
            r"[\w.\-]+", name
        ):  # what the standard library takes
            morsel = SimpleCookie(line)[name]
            assert (morsel.value, morsel["path"], morsel["samesite"]) == (value, "/", "Lax")

    @pytest.mark.parametrize("name", ["", "a b", "a=b", "a;b", "a\n", "é", "a,b", '"a"', "a\0"])
    def test_a_name_is_a_token(self, name: str) -> None:
        with pytest.raises(ValueError, match="is not a token"):
            set_cookie(name, "x")

    @pytest.mark.parametrize("value", ["a b", "a;b", "a,b", 'a"b', "a\\b", "a\r\nb", "é", "a\0", "a\n"])
    def test_a_value_cannot_end_early(self, value: str) -> None:
        with pytest.raises(ValueError, match="value of cookie 'a'"):
            set_cookie("a", value)

    @pytest.mark.parametrize(
        "options", [{"path": "/;x"}, {"path": "/\r\nX: y"}, {"domain": "a;Secure"}, {"path": "/é"}]
    )
    def test_nor_can_an_attribute(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="attribute of cookie 'a'"):
            set_cookie("a", "b", **options)

    @pytest.mark.parametrize("name", ["__Http-a", "__Host-Http-a", "__HTTP-a"])
    def test_a_prefix_may_promise_http_only(self, name: str) -> None:
        assert set_cookie(name, "b", secure=True)[1].startswith(f"{name}=b; ")
        with pytest.raises(ValueError, match="with http_only=True only"):
            set_cookie(name, "b", secure=True, http_only=False)
        with pytest.raises(ValueError, match="over TLS only"):
            set_cookie(name, "b")

    def test_what_browsers_find_too_long(self) -> None:
        assert len(set_cookie("a", "b" * 4095)[1]) > 4095
        with pytest.raises(ValueError, match="its name and value have 4097 bytes, and they take 4096"):
            set_cookie("a", "b" * 4096)
        with pytest.raises(ValueError, match="attribute of cookie 'a'"):
            set_cookie("a", "b", path="/" + "x" * 1024)

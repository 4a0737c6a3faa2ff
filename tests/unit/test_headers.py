"""Header fields: read from what came, and checked before they go out."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triochan.headers import check_headers, has, is_token, members, reason_phrase, values

FIELDS = [(b"Host", b"x"), (b"via", b"1.1 A, ,\t1.1 b"), (b"VIA", b""), (b"via", b"c")]


def test_values_of_a_field_whatever_the_case_of_its_name() -> None:
    assert values(FIELDS, b"via") == [b"1.1 A, ,\t1.1 b", b"", b"c"]
    assert values(FIELDS, b"host") == [b"x"]
    assert values(FIELDS, b"x") == values([], b"host") == []


def test_whether_there_is_a_field() -> None:
    assert has(FIELDS, b"host")
    assert has(FIELDS, b"via")
    assert not has(FIELDS, b"vi")
    assert not has([], b"host")


def test_members_of_a_list_over_all_its_fields() -> None:
    assert members(FIELDS, b"via") == [b"1.1 a", b"1.1 b", b"c"]
    assert members(FIELDS, b"x") == []


@given(st.binary(max_size=4))
def test_a_token_has_the_characters_of_rfc_9110(value: bytes) -> None:
    allowed = set(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert is_token(value) == (bool(value) and set(value) <= allowed)


class TestCheckHeaders:
    def test_pairs_in_any_form_become_bytes(self) -> None:
        expected = [(b"X-A", b"1"), (b"X-B", b"2")]
        assert check_headers({"X-A": "1", b"X-B": b"2"}) == expected
        lists: list[Any] = [("X-A", b"1"), [b"X-B", "2"]]  # as JSON has them
        assert check_headers(lists) == expected
        assert check_headers(iter([("X-A", "1"), (bytearray(b"X-B"), memoryview(b"2"))])) == expected
        assert check_headers([]) == check_headers({}) == []

    def test_values_may_be_empty_and_latin_1_and_have_spaces_inside(self) -> None:
        assert check_headers([("X", ""), ("X", "é"), ("X", "a b\tc")]) == [
            (b"X", b""),
            (b"X", b"\xe9"),
            (b"X", b"a b\tc"),
        ]

    @pytest.mark.parametrize(
        "pair",
        [
            ("X",), ("X", "y", "z"), "Xy", b"Xy", 5, None, ("X", None), ("X", 5), ("X", 0), (5, "y"), ("X", 10**12),
            ("X", ["y"]), ("X", [65]), ("X", True), ("X", "☃"),
        ],
    )  # fmt: skip
    def test_what_is_no_pair(self, pair: Any) -> None:
        with pytest.raises(ValueError, match="a header is a pair of str or bytes"):
            check_headers([pair])

    @pytest.mark.parametrize("headers", [None, 5, 1.5, object()])
    def test_what_has_no_pairs_in_it(self, headers: Any) -> None:
        with pytest.raises(ValueError, match="headers are pairs of str or bytes, not"):
            check_headers(headers)

    @pytest.mark.parametrize("name", ["", "a b", "a:", "é", "a\n", "\ta", "a\0", "(a)", 'a"'])
    def test_names_are_tokens(self, name: str) -> None:
        with pytest.raises(ValueError, match="is not a token"):
            check_headers([(name, "x")])

    @pytest.mark.parametrize(
        "value", ["a\r\nb", "a\nb", "a\rb", "a\0b", " a", "a ", "\ta", "a\t", "\x7f", "a\x1b[0m", "\n"]
    )
    def test_values_cannot_break_out_of_their_line(self, value: str) -> None:
        with pytest.raises(ValueError, match="can't have the value"):
            check_headers([("X", value)])

    @given(st.binary(max_size=12), st.binary(max_size=12))
    def test_what_goes_through_h11_takes_too(self, name: bytes, value: bytes) -> None:
        try:
            pairs = check_headers([(name, value)])
        except ValueError:
            return
        assert pairs == [(name, value)]
        if name.lower() not in (b"content-length", b"transfer-encoding"):
            h11.Response(status_code=200, headers=pairs)


def test_reason_phrases() -> None:
    assert all(reason_phrase(each.value) == each.phrase for each in HTTPStatus)
    assert reason_phrase(299) == reason_phrase(599) == ""

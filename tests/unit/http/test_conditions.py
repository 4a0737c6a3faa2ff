"""Conditions, ranges and dates, as tables."""

from __future__ import annotations

import calendar
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processor import seconds

from triochan.headers import Headers
from triochan.http.conditions import NotSatisfiable, Part, http_date, precondition, wanted_part

STRONG, WEAK = b'"a"', b'W/"a"'
MODIFIED = 784111777
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
EARLIER, LATER = DATE.replace(b":37", b":36"), DATE.replace(b":37", b":38")


class TestDates:
    @pytest.mark.rfc("9110", "5.6.7", "MUST accept a date in any of its three forms")
    @pytest.mark.parametrize(
        "date",
        ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"],
    )
    def test_three_forms(self, date: str) -> None:
        assert http_date(date) == MODIFIED

    @pytest.mark.rfc(
        "9110", "5.6.7", "MUST take a year of two digits for one of the past where it is 50 years ahead"
    )
    @pytest.mark.parametrize(
        ("this_year", "digits", "year"),
        [
            (2026, "26", 2026),
            (2026, "76", 2076),
            (2026, "77", 1977),
            (2026, "94", 1994),
            (2060, "09", 2009),
            (1999, "00", 1900),
        ],
    )
    def test_two_digits(self, this_year: int, digits: str, year: int) -> None:
        now = calendar.timegm((this_year, 6, 1, 0, 0, 0))
        assert http_date(f"Sunday, 06-Nov-{digits} 00:00:00 GMT", now) == calendar.timegm(
            (year, 11, 6, 0, 0, 0)
        )

    @pytest.mark.parametrize(
        "date",
        [
            "", "0", "784111777", "1994-11-06T08:49:37Z", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 6 Nov 1994 08:49:37 GMT", "sun, 06 nov 1994 08:49:37 gmt", "Sun, 06 Nov 94 08:49:37 GMT",
            " Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 GMT\n", "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 24:00:00 GMT", "Sun, 06 Nov 1994 08:60:00 GMT",
            "Sun, 06 Nov 1994 08:00:61 GMT", "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 0000 08:49:37 GMT",
            "Sunday, 06-Nov-1994 08:49:37 GMT", "Sun Nov 06 08:49:37 94", "Sun, \u0660\u0666 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        ],
    )  # fmt: skip
    def test_no_date(self, date: str) -> None:
        assert http_date(date) is None

    @given(st.integers(-60_000_000_000, 250_000_000_000))
    def test_any_time(self, seconds: int) -> None:
        assert http_date(formatdate(seconds, usegmt=True)) == seconds


class TestPreconditions:
    @pytest.mark.rfc("9110", "13.1.1", "MUST look at If-Match before it does what is asked")
    @pytest.mark.rfc("9110", "13.1.1", "MUST compare tags strongly for If-Match")
    @pytest.mark.rfc("9110", "13.1.4", "MUST look at If-Unmodified-Since, where there is no If-Match")
    @pytest.mark.rfc("9110", "13.1.4", "MUST ignore If-Unmodified-Since beside If-Match")
    @pytest.mark.rfc(
        "9110",
        "13.1.4",
        "MUST ignore If-Unmodified-Since that is no date, or where there is no modification date",
    )
    @pytest.mark.rfc(
        "9110", "13.1.2", "MUST look at If-None-Match before it does what is asked; 304 to GET and HEAD"
    )
    @pytest.mark.rfc("9110", "13.1.2", "MUST compare tags weakly for If-None-Match")
    @pytest.mark.rfc("9110", "13.1.3", "MUST ignore If-Modified-Since beside If-None-Match")
    @pytest.mark.rfc(
        "9110",
        "13.1.3",
        "MUST ignore If-Modified-Since that is no date, or several, or where there is no modification date",
    )
    @pytest.mark.rfc("9110", "13.2.2", "MUST look at conditions in their order")
    @pytest.mark.rfc("9110", "5.6.1.2", "MUST ignore empty members of a list")
    @pytest.mark.parametrize(
        ("conditions", "etag", "modified", "status"),
        [
            ({}, STRONG, MODIFIED, None),
            ({"if-match": STRONG}, STRONG, None, None),
            ({"if-match": b"*"}, WEAK, None, None),
            ({"if-match": b'"x", "a"'}, STRONG, None, None),
            ({"if-match": b'"x"'}, STRONG, None, 412),
            ({"if-match": WEAK}, STRONG, None, 412),
            ({"if-match": STRONG}, WEAK, None, 412),
            ({"if-match": WEAK}, WEAK, None, 412),
            ({"if-match": b""}, STRONG, None, 412),
            ({"if-match": b"a"}, STRONG, None, 412),
            ({"if-match": STRONG, "if-unmodified-since": EARLIER}, STRONG, MODIFIED, None),
            ({"if-match": b'"x"', "if-none-match": STRONG}, STRONG, MODIFIED, 412),
            ({"if-match": STRONG, "if-none-match": STRONG}, STRONG, MODIFIED, 304),
            ({"if-unmodified-since": EARLIER}, STRONG, MODIFIED, 412),
            ({"if-unmodified-since": EARLIER, "if-none-match": STRONG}, STRONG, MODIFIED, 412),
            ({"if-unmodified-since": DATE}, STRONG, MODIFIED, None),
            ({"if-unmodified-since": LATER, "if-modified-since": LATER}, STRONG, MODIFIED, 304),
            ({"if-unmodified-since": EARLIER}, STRONG, None, None),
            ({"if-unmodified-since": b"long ago"}, STRONG, MODIFIED, None),
            ({"if-unmodified-since": EARLIER + b", " + EARLIER}, STRONG, MODIFIED, None),
            ({"if-none-match": STRONG}, STRONG, None, 304),
            ({"if-none-match": WEAK}, STRONG, None, 304),
            ({"if-none-match": STRONG}, WEAK, None, 304),
            ({"if-none-match": b"*"}, WEAK, None, 304),
            ({"if-none-match": b', "x" ,,\tW/"a", '}, STRONG, None, 304),
            ({"if-none-match": b'"x,y", "a"'}, STRONG, None, 304),
            ({"if-none-match": b'"x,\xe9", "a"'}, STRONG, None, 304),
            ({"if-none-match": b'"x,"a""'}, STRONG, None, None),
            ({"if-none-match": b'w/"a"'}, STRONG, None, None),
            ({"if-none-match": b'*, "a"'}, STRONG, None, None),
            ({"if-none-match": b'"*"'}, STRONG, None, None),
            ({"if-none-match": b'"x" "a"'}, STRONG, None, None),
            ({"if-none-match": b"a"}, STRONG, None, None),
            ({"if-none-match": b'"x"', "if-modified-since": LATER}, STRONG, MODIFIED, None),
            ({"if-modified-since": DATE}, STRONG, MODIFIED, 304),
            ({"if-modified-since": LATER}, STRONG, MODIFIED, 304),
            ({"if-modified-since": EARLIER}, STRONG, MODIFIED, None),
            ({"if-modified-since": LATER}, STRONG, None, None),
            ({"if-modified-since": b"now"}, STRONG, MODIFIED, None),
            ({"if-modified-since": LATER + b", " + LATER}, STRONG, MODIFIED, None),
        ],
    )
    def test_table(
        self, conditions: dict[str, bytes], etag: bytes, modified: int | None, status: int | None
    ) -> None:
        headers = [(name.encode(), value) for name, value in conditions.items()]
        assert precondition([(b"host", b"x"), *headers], etag, modified) == status

    def test_fields_on_several_lines(self) -> None:
        tags = [(b"if-none-match", b'"x"'), (b"if-none-match", STRONG)]
        assert precondition(tags, STRONG) == 304
        dates = [(b"if-modified-since", DATE), (b"if-modified-since", DATE)]
        assert precondition(dates, STRONG, MODIFIED) is None


class TestRanges:
    def test_a_million_pieces_are_the_whole(self) -> None:
        pieces = b"bytes=" + b",".join(b"%d-%d" % (2 * each, 2 * each) for each in range(1_000_000))
        assert seconds(lambda: wanted_part([(b"range", pieces)], b'"a"', 3_000_000), times=2) < 2.0
        assert wanted_part([(b"range", pieces)], b'"a"', 3_000_000) is None

    @pytest.mark.rfc("9110", "14.2", "MUST ignore a range unit that the server does not know")
    @pytest.mark.rfc("9110", "14.1.2", "MUST expect large numbers in a range, and not be led astray by them")
    @pytest.mark.rfc(
        "9110",
        "15.3.7.2",
        "MUST NOT answer a request for one range with several parts; several get the whole",
    )
    @pytest.mark.parametrize(
        ("value", "size", "part"),
        [
            (b"bytes=0-0", 10, Part(0, 1)),
            (b"bytes=0-", 10, Part(0, 10)),
            (b"bytes=9-", 10, Part(9, 1)),
            (b"bytes=2-5", 10, Part(2, 4)),
            (b"bytes=2-99", 10, Part(2, 8)),
            (b"bytes=-3", 10, Part(7, 3)),
            (b"bytes=-10", 10, Part(0, 10)),
            (b"bytes=-11", 10, Part(0, 10)),
            (b"BYTES= 2-5 ", 10, Part(2, 4)),
            (b"bytes=000000000000000000002-0000000000000000000005", 10, Part(2, 4)),
            (b"bytes=0-" + b"9" * 5000, 10, Part(0, 10)),
            (b"bytes=-" + b"9" * 5000, 10, Part(0, 10)),
            (b"bytes=10-", 10, NotSatisfiable()),
            (b"bytes=10-20", 10, NotSatisfiable()),
            (b"bytes=" + b"9" * 5000 + b"-", 10, NotSatisfiable()),
            (b"bytes=-0", 10, NotSatisfiable()),
            (b"bytes=5-2", 10, None),
            (b"bytes=20-15", 10, None),
            (b"bytes=0-1,4-5", 10, None),
            (b"bytes=0-1,", 10, None),
            (b"lines=0-1", 10, None),
            (b"bytes", 10, None),
            (b"bytes=", 10, None),
            (b"bytes=-", 10, None),
            (b"bytes=a-b", 10, None),
            (b"bytes=+1-2", 10, None),
            (b"bytes=1 -2", 10, None),
            (b"bytes=1--2", 10, None),
            (b"bytes=\xb2-", 10, None),
            (b"", 10, None),
            (b"bytes=0-", 0, None),
            (b"bytes=-1", 0, None),
        ],
    )
    def test_table(self, value: bytes, size: int, part: Part | NotSatisfiable | None) -> None:
        found = wanted_part([(b"host", b"x"), (b"range", value)], STRONG, size)
        assert (type(found), found) == (type(part), part)

    @pytest.mark.rfc("9110", "13.1.5", "MUST ignore If-Range without Range")
    @pytest.mark.rfc(
        "9110", "13.1.5", "MUST look at If-Range beside Range, and ignore the Range where it is not met"
    )
    @pytest.mark.parametrize(
        ("lines", "etag", "found"),
        [
            ([STRONG], STRONG, True),
            ([b'"x"'], STRONG, False),
            ([WEAK], STRONG, False),
            ([WEAK], WEAK, False),
            ([STRONG], WEAK, False),
            ([DATE], STRONG, False),
            ([b"*"], STRONG, False),
            ([b'"x", "a"'], STRONG, False),
            ([STRONG, STRONG], STRONG, False),
        ],
    )
    def test_if_range(self, lines: list[bytes], etag: bytes, found: bool) -> None:
        versions: Headers = [(b"if-range", line) for line in lines]
        asked: Headers = [(b"range", b"bytes=0-1")]
        assert (wanted_part([*versions, *asked], etag, 10) is not None) is found
        assert wanted_part(versions, etag, 10) is None

    def test_several_fields(self) -> None:
        assert wanted_part([(b"range", b"bytes=0-1"), (b"range", b"bytes=0-1")], STRONG, 10) is None

    @given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 20))
    def test_a_part_is_inside(self, first: int, last: int, size: int) -> None:
        content = bytes(range(size))
        found = wanted_part([(b"range", b"bytes=%d-%d" % (first, last))], STRONG, size)
        if isinstance(found, Part):
            assert content[found.start : found.start + found.size] == content[first : last + 1]
            assert found.size > 0
        else:
            assert (found is None) == (last < first)
            assert last < first or first >= size

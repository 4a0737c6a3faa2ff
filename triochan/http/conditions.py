"""Conditional requests and ranges (RFC 9110 sections 13 and 14), for what GET and HEAD give."""

from __future__ import annotations

import calendar
import re
import time
from typing import NamedTuple

from ..headers import Headers, values

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
# Possessive, so that spaces between two commas are never shared out anew between the expressions on both sides of them.
_TAGS = re.compile(rf"(?:[ \t]*+,)*[ \t]*+{_TAG}(?:[ \t]*+,[ \t]*+(?:{_TAG})?)*[ \t]*+")
_EACH_TAG = re.compile(_TAG)

_DAY, _MONTH = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)", "(?P<month>Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_DATES = [
    re.compile(pattern, re.ASCII)
    for pattern in (
        rf"{_DAY}, (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT",
        rf"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} GMT",
        rf"{_DAY} {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
]
_MONTHS = {name: index for index, name in enumerate(calendar.month_abbr)}
_RANGE = re.compile(r"bytes=[ \t]*(?:(\d+)-(\d*)|-(\d+))[ \t]*", re.ASCII | re.IGNORECASE)


class Part(NamedTuple):
    """A range of a representation, of ``size`` bytes from ``start`` on."""

    start: int
    size: int


class NotSatisfiable(NamedTuple):
    """A range that begins behind the end: 416."""


def http_date(value: str, now: float | None = None) -> int | None:
    """Seconds since the epoch of any of the three forms of a date (RFC 9110 section 5.6.7); None: it has none of them.

    Args:
        now: seconds since the epoch; decides which century a year of two digits is of. None: the clock's.
    """
    for form in _DATES:
        found = form.fullmatch(value)
        if found is None:
            continue
        year, month, day = int(found["year"]), _MONTHS[found["month"]], int(found["day"])
        hour, minute, second = int(found["hour"]), int(found["minute"]), int(found["second"])
        if len(found["year"]) == 2:
            this_year = time.gmtime(now).tm_year
            year += this_year - this_year % 100
            if year > this_year + 50:
                year -= 100
        if not (
            year
            and 0 < day <= calendar.monthrange(year, month)[1]
            and hour < 24
            and minute < 60
            and second <= 60
        ):
            return None
        return calendar.timegm((year, month, day, hour, minute, second))
    return None


def precondition(headers: Headers, etag: bytes, modified: int | None = None) -> int | None:
    """304 or 412 where a condition of a GET or HEAD is not met; None: go on (RFC 9110 section 13.2.2).

    To be asked once it is known that the answer would be 200.

    Args:
        headers: the request's.
        etag: of what would be sent, with its quotes and, where it is weak, its ``W/``.
        modified: when that was modified last, in seconds since the epoch; None: it has no such date.
    """
    matches = _field(headers, b"if-match")
    if matches is not None:
        if matches != "*" and (etag.startswith(b"W/") or etag not in _tags(matches)):
            return 412
    else:
        unmodified = _date(headers, b"if-unmodified-since")
        if unmodified is not None and modified is not None and modified > unmodified:
            return 412
    known = _field(headers, b"if-none-match")
    if known is not None:
        opaque = etag.removeprefix(b"W/")
        if known == "*" or any(tag.removeprefix(b"W/") == opaque for tag in _tags(known)):
            return 304
        return None
    since = _date(headers, b"if-modified-since")
    if since is not None and modified is not None and modified <= since:
        return 304
    return None


def wanted_part(headers: Headers, etag: bytes, size: int) -> Part | NotSatisfiable | None:
    """What a GET's ``Range`` asks for; None: the whole (RFC 9110 section 14.2).

    Several ranges, and what is no range, get the whole. So does one whose ``If-Range`` names another version, or a
    date: that two versions of one second are the same can't be known.

    Args: as :func:`precondition`; ``size`` in bytes.
    """
    ranges = values(headers, b"range")
    if len(ranges) != 1 or not size:
        return None
    wanted = _RANGE.fullmatch(ranges[0].decode("latin-1"))
    if wanted is None:
        return None
    versions = values(headers, b"if-range")
    if versions and (versions != [etag] or etag.startswith(b"W/")):
        return None
    first, last, suffix = wanted.groups()
    if suffix is not None:
        length = min(_number(suffix), size)
        return Part(size - length, length) if length else NotSatisfiable()
    start, end = _number(first), _number(last) if last else size - 1
    if end < start:
        return None if last else NotSatisfiable()
    if start >= size:
        return NotSatisfiable()
    return Part(start, min(end, size - 1) - start + 1)


def _number(digits: str) -> int:
    """Of digits; from 18 of them on it is as good as infinite, and costs no more."""
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= 18 else 10**18


def _field(headers: Headers, name: bytes) -> str | None:
    """All values of a field that is a list, as one; None: there is none."""
    lines = values(headers, name)
    return b",".join(lines).decode("latin-1").strip(" \t") if lines else None


def _tags(value: str) -> list[bytes]:
    """The entity tags of a list; a value that is none names none."""
    if not _TAGS.fullmatch(value):
        return []
    return [tag.encode("latin-1") for tag in _EACH_TAG.findall(value)]


def _date(headers: Headers, name: bytes) -> int | None:
    lines = values(headers, name)
    return http_date(lines[0].decode("latin-1")) if len(lines) == 1 else None

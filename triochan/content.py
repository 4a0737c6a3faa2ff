"""JSON in and out of text frames: ujson for speed, RFC 8259 for what counts as JSON."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

import ujson

from .exceptions import TriochanError


class InvalidJSON(TriochanError, ValueError):
    """Text that is not JSON as RFC 8259 has it; a JSON consumer's socket is closed with 1007."""


# ujson reads more than JSON has: NaN, Infinity, 1e999, 01, "1.", raw control characters and lone surrogates.
# A text that could hold such a thing (it may stand harmlessly within a string) is read by the standard
# library's slower and stricter reader; this search is what the rest pays: about 0.3 µs for 100 characters.
_SUSPECT = re.compile(
    r"[\x00-\x1f]|NaN|Inf|\\u[dD][89a-fA-F]|(?<![0-9.])0[0-9]|[0-9]\.(?![0-9])|[eE][+\-]?[0-9]{3}|[0-9]{300}"
)


def decode_json(text: str) -> Any:
    """The value that ``text`` says.

    Raises:
        InvalidJSON: it is not JSON, or it says a number or string that nothing can hold.
    """
    try:
        if _SUSPECT.search(text) is None:
            return ujson.loads(text)
        return _decode_strictly(text)
    except (ValueError, RecursionError) as error:
        raise InvalidJSON(f"not JSON: {error}") from None


def encode_json(value: Any) -> str:
    """``value`` as JSON in ASCII.

    Raises:
        TypeError: a value that JSON has no form for (bytes, a set, a date, …).
        OverflowError: NaN or an infinity.
    """
    return ujson.dumps(value, allow_nan=False, escape_forward_slashes=False, ensure_ascii=True)


def _decode_strictly(text: str) -> Any:
    value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    remaining = [value]
    while remaining:
        each = remaining.pop()
        if isinstance(each, str):
            each.encode()  # a lone surrogate is UnicodeEncodeError, a ValueError
        elif isinstance(each, list):
            remaining.extend(each)
        elif isinstance(each, dict):
            remaining.extend(each)
            remaining.extend(each.values())
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:20]} is out of range")
    return number

"""JSON in and out of text frames: ujson for speed, RFC 8259 for what counts as JSON."""

from __future__ import annotations

import gc
import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import ujson

from .exceptions import TriochanError

T = TypeVar("T")
LARGE = 16 * 1024
"""Characters of a text, or bytes, from which on the garbage collector pauses while values are made of them."""


class InvalidJSON(TriochanError, ValueError):
    """Text that is not JSON as RFC 8259 has it; a JSON consumer's socket is closed with 1007."""


# ujson reads more than JSON has: NaN, Infinity, 1e999, 01, "1.", "-", "-.5", raw control characters and lone
# surrogates. A text that could hold such a thing (it may stand harmlessly within a string) is read by the standard
# library's stricter reader. What the rest pays for the look is about what ujson takes to read it.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# Begins with one set of characters, which is what makes the search fast.
_NUMBER = re.compile(
    r"[\-0-9](?:"
    r"(?<=-)(?<![^\s\[,:]-)(?![0-9])"  # a minus that begins a value, and no digit behind it
    r"|(?<=[0-9])(?:\.(?![0-9])|[eE][+\-]?[0-9]{3})"
    r"|(?<=[0-9])(?<![0-9][0-9])[0-9]{199}"  # from a run's first digit alone: a run is not read for each of its digits
    r"|(?<=0)(?<![0-9.]0)[0-9]"
    r")"
)


def decode_json(text: str) -> Any:
    """The value that ``text`` says.

    Raises:
        InvalidJSON: it is not JSON, or it says a number or string that nothing can hold.
    """
    try:
        if len(text) >= LARGE:
            return without_collector(lambda: _decode(text))
        return _decode_strictly(text) if _suspect(text) else ujson.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidJSON(f"not JSON: {error}") from None


def encode_json(value: Any) -> str:
    """``value`` as JSON in ASCII.

    Raises:
        TypeError: a value that JSON has no form for (bytes, a set, a date, …).
        OverflowError: NaN or an infinity.
    """
    return ujson.dumps(value, allow_nan=False, escape_forward_slashes=False, ensure_ascii=True)


def without_collector(make: Callable[[], T]) -> T:
    """``make()``, while the garbage collector pauses.

    Half a million lists that a text of 1 MiB may hold, one within the other, would be looked through again and again
    while they are made, which takes five times as long as making them. From Python 3.12 on the collector waits anyhow.
    """
    if not gc.isenabled():
        return make()
    gc.disable()
    try:
        return make()
    finally:
        gc.enable()


def _decode(text: str) -> Any:
    return _decode_strictly(text) if _suspect(text) else ujson.loads(text)


def _suspect(text: str) -> bool:
    return (
        not text.isprintable()
        or "NaN" in text
        or "Inf" in text
        or _SURROGATE.search(text) is not None
        or _NUMBER.search(text) is not None
    )


def _decode_strictly(text: str) -> Any:
    value = _STRICT.decode(text)
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


_STRICT = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)

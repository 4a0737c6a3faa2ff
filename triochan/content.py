"""JSON in and out of text frames: ujson for speed, RFC 8259 for what counts as JSON."""

from __future__ import annotations

import gc
import json
import math
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
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
    r"|(?<=[0-9])(?:"
    r"\.(?![0-9])|[eE][+\-]?[0-9]{3}"
    r"|(?<![0-9][0-9])[0-9]{199}"  # from a run's first digit alone: a run is not read for each of its digits
    r")"
    r"|(?<=0)(?<![0-9.]0)[0-9]"
    r")"
)


def decode_json(text: str) -> Any:
    """The value that ``text`` says.

    Raises:
        InvalidJSON: it is not JSON, or it says a number or string that nothing can hold.
    """
    try:
        decode = _decode_strictly if _suspect(text) else ujson.loads
        return decode(text) if len(text) < LARGE else without_collector(lambda: decode(text))
    except (ValueError, RecursionError) as error:
        raise InvalidJSON(f"not JSON: {error}") from None


def decode_own(text: str) -> Any:
    """The value of a text that :func:`encode_json` has made: there is nothing to look for in it."""
    return ujson.loads(text)


def encode_json(value: Any) -> str:
    """``value`` as JSON in ASCII.

    Beside JSON's own types there are forms for tuples, for subclasses of these types (an ``IntEnum``, a ``NamedTuple``,
    an ``OrderedDict``), for numbers, booleans and None as keys, and for ``Decimal``: a string with its digits, for
    most readers of JSON make a binary fraction of a number.

    Raises:
        TypeError: a value that JSON has no form for (bytes, a set, a date, …).
        OverflowError: NaN or an infinity; a Decimal beyond :data:`DECIMAL_DIGITS`.
        ValueError: a lone surrogate, or two keys of an object that are one in JSON, such as 1 and "1".
    """
    return encode_plain(value if is_plain(value) else plain_of(value))


_SCALARS: frozenset[type] = frozenset({str, int, float, bool, type(None)})
_DEEPEST = 1024
"""Levels of lists and dicts; ujson takes a few less."""


def is_plain(value: Any) -> bool:
    """There is nothing in ``value`` but the very types of JSON, tuples, and strings as keys.

    What is of a subclass is not plain: a converter may have a hook for it.
    """
    try:
        return _is_plain(value)
    except RecursionError:
        return _is_plain_deep_down(value)


def _is_plain(value: Any) -> bool:
    # Nearly every message that is sent comes through here.
    scalars = _SCALARS
    kind = value.__class__
    if kind is dict:
        for key, each in value.items():
            if key.__class__ is not str or (each.__class__ not in scalars and not _is_plain(each)):
                return False
        return True
    if kind is list or kind is tuple:
        for each in value:  # noqa: SIM110 - a generator would take twice as long
            if each.__class__ not in scalars and not _is_plain(each):
                return False
        return True
    return kind in scalars


def _is_plain_deep_down(value: Any) -> bool:
    # Depth first: a value that holds itself twice has more branches than can be counted.
    first: tuple[Any, ...] = (value,)
    stack: list[Iterator[Any]] = [iter(first)]
    while stack:
        for each in stack[-1]:
            if each.__class__ in _SCALARS:
                continue
            if each.__class__ not in _CONTAINERS:
                return False
            if each.__class__ is dict and not all(key.__class__ is str for key in each):
                return False
            if len(stack) > _DEEPEST:
                return True  # encoding it says that it is too deep
            inner: Any = each
            stack.append(iter(inner.values() if each.__class__ is dict else inner))
            break
        else:
            stack.pop()
    return True


class _NoForm(Exception):
    """JSON has no form for a value; ``path`` leads to it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error
        self.path = ""


def plain_of(value: Any, unstructure: Callable[[Any], Any] | None = None) -> Any:
    """``value`` made of nothing but JSON's own types, and lists for tuples.

    Args:
        unstructure: makes of a value what JSON may have a form for, or gives it back as it is; called once for each,
            and for the objects in what it has made.

    Raises:
        As :func:`encode_json`; the message says where in the value.
    """
    try:
        return _plain_of(value, unstructure, 0, unstructure is not None)
    except _NoForm as found:
        error = found.error
        raise type(error)(f"${found.path}: {error}") from error.__cause__


def _plain_of(value: Any, unstructure: Callable[[Any], Any] | None, depth: int, ask: bool) -> Any:
    """Args:
    ask: scalars go through ``unstructure`` as well; not those that it has made.
    """
    if value.__class__ in _SCALARS and not ask:
        return value
    if depth == _DEEPEST:
        raise _NoForm(OverflowError(f"over {_DEEPEST} levels deep, or a value that holds itself"))
    if unstructure is not None and value.__class__ not in _CONTAINERS:
        made = unstructure(value)
        if made.__class__ is not value.__class__ or made.__class__ in _SCALARS:
            return _plain_of(made, unstructure, depth + 1, False)
        value = made
    if isinstance(value, dict):
        return _plain_object(value, unstructure, depth, ask)
    if isinstance(value, (list, tuple)):
        items: list[Any] = []
        for each in value:
            try:
                items.append(_plain_of(each, unstructure, depth + 1, ask))
            except (_NoForm, RecursionError) as error:
                raise _at(f"[{len(items)}]", error) from None
        return items
    if isinstance(value, Decimal):
        try:
            return decimal_text(value)
        except OverflowError as error:
            raise _NoForm(error) from None
    # The value that an instance of a subclass has: its own ``__str__`` may say something else.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    kind = type(value)
    raise _NoForm(
        TypeError(
            f"a {kind.__module__}.{kind.__qualname__} is not JSON serializable; send what JSON has a form for, or "
            "register an unstructure hook for the class on the application's converter"
        )
    )


_CONTAINERS: frozenset[type] = frozenset({dict, list, tuple})


def _plain_object(
    value: dict[Any, Any], unstructure: Callable[[Any], Any] | None, depth: int, ask: bool
) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, each in value.items():
        try:
            name = key if key.__class__ is str else _name_of(key, unstructure)
            made = _plain_of(each, unstructure, depth + 1, ask)
        except (_NoForm, RecursionError) as error:
            raise _at(f"[{key!r:.60}]", error) from None
        if name in members:
            raise _NoForm(ValueError(f"two keys are {name!r:.60} in JSON, where every key is a string"))
        members[name] = made
    return members


def _name_of(key: Any, unstructure: Callable[[Any], Any] | None) -> str:
    made = _plain_of(key, unstructure, 0, False)
    if made.__class__ is str:
        return made
    if made.__class__ in _SCALARS:
        return encode_plain(made)
    raise _NoForm(TypeError(f"a key in JSON is a string, not a {type(key).__qualname__}"))


def _at(step: str, error: Exception) -> _NoForm:
    found = error if isinstance(error, _NoForm) else _NoForm(OverflowError("nested too deep"))
    if len(found.path) < _LONGEST_PATH:
        found.path = step + found.path
    return found


_LONGEST_PATH = 200
DECIMAL_DIGITS = 1000
"""What a Decimal may have, written out without an exponent: arithmetic on ``1E+1000000`` may take all memory."""


def sendable_decimal(number: Decimal) -> bool:
    """``number`` is finite and has no more than :data:`DECIMAL_DIGITS` before the point and behind it."""
    if not number.is_finite():
        return False
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    return len(digits) + max(exponent, 0) <= DECIMAL_DIGITS and -exponent <= DECIMAL_DIGITS


def decimal_text(number: Decimal) -> str:
    """``number`` with all its digits.

    Raises:
        OverflowError: it is not finite, or has over :data:`DECIMAL_DIGITS`.
    """
    if not sendable_decimal(number):
        raise OverflowError(
            f"Decimal {Decimal.__str__(number):.30} is not finite, or has over {DECIMAL_DIGITS} digits"
        )
    return Decimal.__str__(number)


_SURROGATES = re.compile(r"\\\\|\\ud[89ab]..\\ud[c-f]..|(\\ud[89a-f])")
"""In what ujson writes: an escaped backslash, a pair, or (as group 1) what has no other half."""


def encode_plain(value: Any) -> str:
    """:func:`encode_json` of a value that :func:`is_plain`."""
    try:
        # ensure_ascii, encode_html_chars, escape_forward_slashes, sort_keys, indent, allow_nan: by their positions, for
        # ujson takes 0.4 µs to look at names, longer than to encode a small value.
        text = ujson.dumps(value, True, False, False, False, 0, False)
    except OverflowError as error:
        raise _explained(value, error) from None
    if "\\ud" in text and any(found.lastindex for found in _SURROGATES.finditer(text)):
        raise ValueError("a string holds a lone surrogate, which is half a character and no text")
    return text


def _explained(value: Any, error: OverflowError) -> OverflowError:
    """The error, with the place of the number that it is about."""
    remaining = [("$", value, 0)]
    while remaining:
        path, each, depth = remaining.pop()
        if isinstance(each, float) and not math.isfinite(each):
            return OverflowError(f"{path}: {each} is no number in JSON; send None or a string for it")
        if depth == _DEEPEST:
            return OverflowError(f"{path[:60]}…: over {_DEEPEST} levels deep, or a value that holds itself")
        if isinstance(each, dict):
            remaining.extend((f"{path}[{key!r:.60}]", item, depth + 1) for key, item in each.items())
        elif isinstance(each, (list, tuple)):
            remaining.extend((f"{path}[{index}]", item, depth + 1) for index, item in enumerate(each))
    return error


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

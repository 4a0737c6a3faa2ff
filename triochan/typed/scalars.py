"""Hooks for what JSON has as a scalar: each fits its own type only."""

from __future__ import annotations

import base64
import datetime
import decimal
import re
import uuid
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, get_args

from cattrs import Converter

from ..content import DECIMAL_DIGITS, sendable_decimal
from .mistakes import misfit, one_of

Hook = Callable[[Any, Any], Any]
"""Makes a value into what an annotation says, called with both."""

_SCALAR_TYPES = (type(None), bool, int, float, str)


def _of_class(value: Any, cl: Any) -> Any:
    """``value``, which fits the scalar that ``cl`` is a subclass of, as one: cattrs asks the scalar's hook for both."""
    if issubclass(cl, Enum):
        return _structure_enum(value, cl)
    return cl(value)


def _structure_str(value: Any, cl: Any) -> Any:
    if value.__class__ is not str:
        raise misfit("a string", value)
    return value if cl is str else _of_class(value, cl)


def _structure_bool(value: Any, _: Any) -> bool:
    if value.__class__ is not bool:
        raise misfit("true or false", value)
    return value


def _structure_int(value: Any, cl: Any) -> Any:
    if value.__class__ is not int:
        raise misfit("a whole number", value)
    return value if cl is int else _of_class(value, cl)


def _structure_float(value: Any, cl: Any) -> Any:
    if value.__class__ is not float:
        if value.__class__ is not int:
            raise misfit("a number", value)
        try:
            value = float(value)
        except OverflowError:
            raise misfit("a number below 1.8e308", value) from None
    return value if cl is float else _of_class(value, cl)


def _structure_bytes(value: Any, cl: Any) -> Any:
    if value.__class__ is not str:
        raise misfit("bytes as a string in Base64", value)
    try:
        made = base64.b64decode(value, validate=True)
    except ValueError:
        raise misfit("Base64", value) from None
    return made if cl is bytes else _of_class(made, cl)


def structure_none(value: Any, _: Any) -> None:
    if value is not None:
        raise misfit("null", value)


def _structure_enum(value: Any, cl: type[Enum]) -> Enum:
    try:
        member = cl(value)
    except ValueError:
        member = None
    if member is None or type(member.value) is not type(value):  # 1 is not True
        raise misfit(one_of(each.value for each in cl), value)
    return member


SCALARS: Mapping[Any, Hook] = {
    str: _structure_str,
    bool: _structure_bool,
    int: _structure_int,
    float: _structure_float,
    bytes: _structure_bytes,
    Enum: _structure_enum,
}
# What Python's own parsers take beyond that: any character for the T, digits of other scripts, underscores, braces,
# "urn:", dashes anywhere, "NaN".
_DATETIME = re.compile(r"[0-9W-]+(?:[Tt ][0-9:.,]+(?:[Zz]|[+-][0-9:.,]+)?)?")
_DATE = re.compile(r"[0-9W-]+")
_TIME = re.compile(r"[Tt]?[0-9:.,]+(?:[Zz]|[+-][0-9:.,]+)?")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-?)[0-9A-Fa-f]{4}\1[0-9A-Fa-f]{4}\1[0-9A-Fa-f]{4}\1[0-9A-Fa-f]{12}")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?")
_LONGEST = DECIMAL_DIGITS + 20
"""Characters of any of these; a longer string is not looked at."""


def _decimal(text: str) -> decimal.Decimal:
    number = decimal.Decimal(text)
    if not sendable_decimal(number):
        raise ValueError(f"a Decimal has at most {DECIMAL_DIGITS} digits")
    return number


FROM_STRING: Mapping[type, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    datetime.datetime: (_DATETIME, datetime.datetime.fromisoformat),
    datetime.date: (_DATE, datetime.date.fromisoformat),
    datetime.time: (_TIME, datetime.time.fromisoformat),
    uuid.UUID: (_UUID, uuid.UUID),
    decimal.Decimal: (_DECIMAL, _decimal),
}
"""How each is written, and what reads it."""

MAX_SAFE_INTEGER = 2**53 - 1
"""JavaScript's ``Number.MAX_SAFE_INTEGER``: beyond it, two integers may be one number (RFC 8259 section 6)."""
_LARGE = re.compile(r"-?[1-9][0-9]{15,}")
_LONGEST_INTEGER = 4300
"""Digits; Python refuses more, for reading them takes quadratic time."""


def structure_large_int(value: Any, cl: Any) -> Any:
    """As other integers, and those beyond :data:`MAX_SAFE_INTEGER` from strings of digits only."""
    if value.__class__ is str and len(value) <= _LONGEST_INTEGER and _LARGE.fullmatch(value):
        made = int(value)
        if abs(made) > MAX_SAFE_INTEGER:
            return made if cl is int else _of_class(made, cl)
    if value.__class__ is int and abs(value) > MAX_SAFE_INTEGER:
        raise misfit("an integer beyond 2**53 as a string of digits", value)
    return _structure_int(value, cl)


def unstructure_large_int(value: int) -> int | str:
    return str(int(value)) if abs(value) > MAX_SAFE_INTEGER else int(value)


def from_string(kind: type) -> Hook:
    form, parse = FROM_STRING[kind]

    def structure(value: Any, _: Any) -> Any:
        if value.__class__ is not str:
            raise misfit(f"a {kind.__name__} as a string", value)
        if len(value) > _LONGEST or form.fullmatch(value) is None:
            raise misfit(f"a {kind.__name__}", value)
        try:
            return parse(value)
        except (ValueError, ArithmeticError):
            raise misfit(f"a {kind.__name__}", value) from None

    return structure


def literal_factory(literal: Any, _: Converter) -> Hook:
    # By type as well: 1 is not True.
    allowed = {(type(value), value): member for member, value in literals(literal)}

    def structure(value: Any, _: Any) -> Any:
        if value.__class__ in _SCALAR_TYPES:
            found = allowed.get((value.__class__, value), allowed)
            if found is not allowed:
                return found
        raise misfit(one_of(value for _, value in allowed), value)

    return structure


def literals(literal: Any) -> list[tuple[Any, Any]]:
    """The members of a ``Literal``, each with its form in JSON."""
    return [(each, each.value if isinstance(each, Enum) else each) for each in get_args(literal)]

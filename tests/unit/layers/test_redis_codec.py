"""Contents as bytes."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from collections import OrderedDict
from decimal import Decimal
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from triochan.exceptions import InvalidContent
from triochan.layers.redis.codec import decode, encode

# In whole seconds: CPython reads an offset below one as none.
OFFSETS = some.integers(-86_000, 86_000).map(lambda seconds: dt.timedelta(seconds=seconds))
ZONES = some.none() | OFFSETS.map(dt.timezone)
VALUES = (
    some.none()
    | some.booleans()
    | some.integers()
    | some.integers(-(2**70), 2**70)
    | some.floats(allow_nan=False)
    | some.text(some.characters())
    | some.text(some.characters(categories=["Cs"]))
    | some.binary()
    | some.datetimes(timezones=ZONES)
    | some.dates()
    | some.times(timezones=ZONES)
    | some.timedeltas()
    | some.decimals(allow_nan=False)
    | some.uuids()
)
KEYS = some.text(some.characters(), max_size=4)
CONTENTS = some.dictionaries(
    KEYS,
    some.recursive(VALUES, lambda inner: some.lists(inner) | some.dictionaries(KEYS, inner), max_leaves=8),
    max_size=5,
)


def same(one: Any, other: Any) -> bool:
    """Equal, and of one type all through: True is 1, and 1.0 is."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (dt.datetime, dt.time)):  # without `fold`, which ISO 8601 has no sign for
        return bool(one.isoformat() == other.isoformat())
    return bool(one == other)


@settings(max_examples=40)
@given(CONTENTS)
def test_what_goes_comes(content: dict[str, Any]) -> None:
    assert same(decode(encode(content)), content)


def test_what_is_not_equal_to_itself() -> None:
    received = decode(encode({"float": float("nan"), "decimal": Decimal("NaN"), "zero": Decimal("-0.00")}))
    assert received["float"] != received["float"]
    assert received["decimal"].is_nan()
    assert str(received["zero"]) == "-0.00"


class Color(enum.IntEnum):
    RED = 1


class Word(str):
    __slots__ = ()


def test_what_arrives_as_something_plainer() -> None:
    content = {
        "tuple": (1, (2,)),
        "enum": Color.RED,
        "word": Word("a"),
        "ordered": OrderedDict(a=1),
        "view": memoryview(b"a"),
        "array": bytearray(b"a"),
    }
    plainer = {"tuple": [1, [2]], "enum": 1, "word": "a", "ordered": {"a": 1}, "view": b"a", "array": b"a"}
    assert same(decode(encode(content)), plainer)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"a": object()}, r"content\['a'\] is <object.*>, of type object: .* plain data"),
        ({"ok": 1, "a": [1, {"b": {1, 2}}]}, r"content\['a'\]\[1\]\['b'\] is \{1, 2\}, of type set"),
        ({"a": ({"b": print},)}, r"content\['a'\]\[0\]\['b'\] .* builtin_function"),
        ({1: 2}, r"content has the key 1, which is int: keys are str"),
        ({"a": [{(1, 2): 2}]}, r"content\['a'\]\[0\] has the key \(1, 2\), which is tuple"),
        ({"a": {"b": {None: 1}}}, r"content\['a'\]\['b'\] has the key None"),
        ({"a": {b"b": 1}}, r"content\['a'\] has the key b'b', which is bytes"),
        ({"first": {1}, "second": {2}}, r"content\['first'\]"),
        ({"a": 1j}, "of type complex"),
    ],
)
def test_what_can_not_go_is_named(content: dict[Any, Any], named: str) -> None:
    with pytest.raises(TypeError, match=named):
        encode(content)


@pytest.mark.parametrize("levels", [10, 300, 2000, 5000])
def test_depth(levels: int) -> None:
    for nest in (lambda value: [value], lambda value: {"a": value}):
        value: Any = 1
        for _ in range(levels):
            value = nest(value)
        content = {"a": value}
        if levels < 500:
            assert decode(encode(content)) == content
        else:
            with pytest.raises(InvalidContent, match="too deep"):
                encode(content)


def test_a_circle() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(InvalidContent, match="too deep"):
        encode({"a": circle})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x81",
        msgpack.packb([1]),
        msgpack.packb(1),
        msgpack.packb({1: 2}),
        msgpack.packb({"a": 1}) + b"\x00",
        msgpack.packb({"a": msgpack.ExtType(99, b"")}),
        msgpack.packb({"a": msgpack.ExtType(2, b"tomorrow")}),
        msgpack.packb({"a": msgpack.ExtType(5, b"\xc1")}),
        msgpack.packb({"a": msgpack.ExtType(5, msgpack.packb([10**15, 0, 0]))}),
        msgpack.packb({"a": msgpack.ExtType(6, b"x")}),
        msgpack.packb({"a": msgpack.ExtType(7, uuid.UUID(int=7).bytes[1:])}),
        b"\x91" * 5000,
    ],
)
def test_what_something_else_has_written(data: bytes) -> None:
    with pytest.raises(ValueError, match="no content of a message"):
        decode(data)


@given(some.binary())
def test_any_bytes(data: bytes) -> None:
    try:
        content = decode(data)
    except ValueError:
        return
    assert isinstance(content, dict)

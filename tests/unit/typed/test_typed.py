"""Typed content: what fits an annotation, what is said of the rest, and where annotations are looked for."""

# No `from __future__ import annotations`: classes are annotated with classes of functions here.

import contextlib
import dataclasses
import datetime
import decimal
import enum
import json
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import (
    Annotated,
    Any,
    ForwardRef,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    TypedDict,
    TypeVar,
    Union,
)

import attrs
import cattrs
import pytest
from cattrs.strategies import configure_tagged_union
from hypothesis import given, settings
from hypothesis import strategies as st
from processor import seconds
from typing_extensions import TypeAliasType

from triochan import Application, Group, route_class
from triochan.content import decode_json, encode_json
from triochan.exceptions import ImproperlyConfigured, InvalidContent
from triochan.generic.websockets import JsonWebsocketConsumer
from triochan.running import current_application
from triochan.test import Client, WSClient
from triochan.typed import ContentType, content_annotation, make_converter, to_plain
from triochan.typed.annotations import name_of_type
from triochan.typed.mistakes import MAX_DETAILS

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mode(str, enum.Enum):  # noqa: UP042 - programs have them
    FAST = "fast"


@attrs.frozen
class Point:
    x: int
    y: float = 0.0


@attrs.frozen
class Move:
    type: Literal["move"]
    to: Point


@dataclasses.dataclass
class Say:
    type: Literal["say", "shout"]
    text: str
    tags: list[str] = dataclasses.field(default_factory=list)


class Ping(TypedDict):
    type: Literal["ping"]
    number: NotRequired[int]


Command = Move | Say | Ping


class Node(TypedDict):
    value: int
    children: NotRequired[list["Node"]]


@attrs.frozen
class Box(Generic[T]):
    content: T


class Pair(NamedTuple):
    left: int
    right: str


UserId = NewType("UserId", int)


class Name(str):
    """Text that begins with a capital."""

    def __new__(cls, text: str) -> "Name":
        if not text.istitle():
            raise ValueError("a name begins with a capital")
        return super().__new__(cls, text)


class Code(str):
    """Text of digits."""

    def __new__(cls, text: str) -> "Code":
        if not text.isdigit():
            raise ValueError("a code has digits")
        return super().__new__(cls, text)


class Count(int): ...


class Ratio(float): ...


Visit = TypeAliasType("Visit", Point | None)
Place = NewType("Place", Point)


def made(annotation: Any, value: Any, application: Any = None) -> Any:
    return ContentType(annotation, "here").structure(value, application)


def wrong(annotation: Any, value: Any, application: Any = None) -> list[str]:
    with pytest.raises(InvalidContent) as caught:
        made(annotation, value, application)
    assert str(caught.value) == "; ".join(caught.value.details)
    return caught.value.details


# -- what fits


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (Point, {"x": 1}, Point(1, 0.0)),
        (Point, {"x": 1, "y": 2}, Point(1, 2.0)),
        (Say, {"type": "shout", "text": "hi"}, Say("shout", "hi", [])),
        (Ping, {"type": "ping"}, {"type": "ping"}),
        (Command, {"type": "move", "to": {"x": 1}}, Move("move", Point(1))),
        (Command, {"type": "say", "text": "hi", "tags": ["a"]}, Say("say", "hi", ["a"])),
        (Command, {"type": "ping", "number": 3}, {"type": "ping", "number": 3}),
        (list[Point], [{"x": 1}, {"x": 2}], [Point(1), Point(2)]),
        (Optional[Point], None, None),  # noqa: UP045
        (Point | None, {"x": 1}, Point(1)),
        (dict[str, Point], {"a": {"x": 1}}, {"a": Point(1)}),
        (Box[Point], {"content": {"x": 1}}, Box(Point(1))),
        (Box[int], {"content": 1}, Box(1)),
        (Annotated[Point, "of interest"], {"x": 1}, Point(1)),
        (Node, {"value": 1, "children": [{"value": 2}]}, {"value": 1, "children": [{"value": 2}]}),
        # what fields may be
        (Colour, "red", Colour.RED),
        (Level, 2, Level.HIGH),
        (Mode, "fast", Mode.FAST),
        (Literal[1, "a", Colour.BLUE], "blue", Colour.BLUE),
        (UserId, 5, 5),
        (Any, {"a": [1]}, {"a": [1]}),
        (object, [1], [1]),
        (dict, {"a": 1}, {"a": 1}),
        (list, [1, "a"], [1, "a"]),
        (dict[str, Any], {"a": 1}, {"a": 1}),
        (Mapping[str, int], {"a": 1}, {"a": 1}),
        (Sequence[int], [1], [1]),
        (set[int], [1, 1], {1}),
        (frozenset[str], ["a"], frozenset({"a"})),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[()], [], ()),
        (tuple, [1, "a"], (1, "a")),
        (Pair, [1, "a"], Pair(1, "a")),
        (dict[Colour, int], {"red": 1}, {Colour.RED: 1}),
        (int | str | None, "a", "a"),
        (int | float, 1, 1),
        (float | None, 1, 1.0),
        (
            datetime.datetime | str,
            "2024-02-03T04:05:06+00:00",
            datetime.datetime(2024, 2, 3, 4, 5, 6, tzinfo=datetime.UTC),
        ),
        (datetime.datetime | str, "soon", "soon"),
        (datetime.date, "2024-02-03", datetime.date(2024, 2, 3)),
        (datetime.time, "04:05", datetime.time(4, 5)),
        (
            uuid.UUID,
            "12345678-1234-5678-1234-567812345678",
            uuid.UUID("12345678-1234-5678-1234-567812345678"),
        ),
        (decimal.Decimal, "1.10", decimal.Decimal("1.10")),
        (bytes, "AP8=", b"\x00\xff"),
        (Literal["auto"] | int, "auto", "auto"),
        (list[int] | list[str], ["a"], ["a"]),
        (Name, "Ada", Name("Ada")),
        (Count, 3, Count(3)),
        (bool, False, False),
        (Ratio, 0.5, Ratio(0.5)),
        (Ratio, 1, Ratio(1.0)),
        (Name | Code, "Ada", Name("Ada")),
        (Name | Code, "42", Code("42")),
        (Colour | int, "blue", Colour.BLUE),
        (Colour | int, 2, 2),
        (Pair | None, [1, "a"], Pair(1, "a")),
        (Ratio | str, 1, Ratio(1.0)),
        (Count | Ratio | None, 5, Count(5)),
        (Visit, {"x": 1}, Point(1)),
        (list[Visit], [None], [None]),
        (Visit | int, {"x": 1}, Point(1)),
        (Visit | int, 7, 7),
        (Place | None, {"x": 1}, Point(1)),
        (tuple[str, str] | None, ["a", "b"], ("a", "b")),
    ],
    ids=str,
)
def test_what_fits(annotation: Any, value: Any, expected: Any) -> None:
    result = made(annotation, value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "value", "said"),
    [
        (str, 1, "a string is expected, not 1"),
        (str, True, "a string is expected, not true"),
        (str, None, "a string is expected, not null"),
        (str, {}, "a string is expected, not an object"),
        (bool, 1, "true or false is expected, not 1"),
        (int, True, "a whole number is expected, not true"),
        (int, 1.0, "a whole number is expected, not 1.0"),
        (int, "1", 'a whole number is expected, not "1"'),
        (float, "1", 'a number is expected, not "1"'),
        (float, False, "a number is expected, not false"),
        (float, 10**320, "a number below 1.8e308 is expected, not 100000000000000000000000000000000000000…"),
        (bool, "true", 'true or false is expected, not "true"'),
        (None, 0, "null is expected, not 0"),
        (Colour, "green", 'one of "red", "blue" is expected, not "green"'),
        (Colour, [], 'one of "red", "blue" is expected, not an array'),
        (Level, True, "a whole number is expected, not true"),
        (Level, 3, "one of 1, 2 is expected, not 3"),
        (Literal[1, "a"], True, 'one of 1, "a" is expected, not true'),
        (Literal["a"], ["a"], 'one of "a" is expected, not an array'),
        (list[str], "abc", 'an array is expected, not "abc"'),
        (list[str], {"a": 1}, "an array is expected, not an object"),
        (set[int], "1", 'an array is expected, not "1"'),
        (dict[str, int], [["a", 1]], "an object is expected, not an array"),
        (tuple[int, int], [1], "an array of 2 is expected, not an array of 1"),
        (tuple[int, int], "ab", 'an array of 2 is expected, not "ab"'),
        (Pair, {"left": 1, "right": "a"}, "an array is expected, not an object"),
        (Point, [1, 2], "an object is expected, not an array"),
        (Point, "x", 'an object is expected, not "x"'),
        (Ping, "type", 'an object is expected, not "type"'),
        (int | None, "1", 'null or a whole number is expected, not "1"'),
        (float | str, True, "a number or a string is expected, not true"),
        (datetime.datetime, "soon", 'a datetime is expected, not "soon"'),
        (datetime.date, 5, "a date as a string is expected, not 5"),
        (uuid.UUID, "1", 'a UUID is expected, not "1"'),
        (decimal.Decimal, 1.1, "a Decimal as a string is expected, not 1.1"),
        (decimal.Decimal, "one", 'a Decimal is expected, not "one"'),
        (bytes, "*", 'Base64 is expected, not "*"'),
        (bytes, [1], "bytes as a string in Base64 is expected, not an array"),
    ],
    ids=str,
)
def test_nothing_is_taken_for_something_else(annotation: Any, value: Any, said: str) -> None:
    [detail] = wrong(annotation, value)
    assert detail.startswith(f"$: {said}")


def test_every_mistake_is_told_with_its_path() -> None:
    @attrs.frozen
    class Order:
        number: int
        lines: list[Say]
        at: Point
        prices: dict[str, float]
        pair: tuple[int, Point]

    value = {
        "number": "7",
        "lines": [{"type": "say", "text": "a"}, {"type": "say", "tags": [1], "colour": "red"}],
        "at": {"y": None},
        "prices": {"tea and cake": "2"},
        "pair": [1, {"x": []}],
    }
    assert wrong(Order, value) == [
        '$.number: a whole number is expected, not "7"',
        "$.lines[1].text: missing",
        "$.lines[1].tags[0]: a string is expected, not 1",
        '$.lines[1]: unknown keys: "colour"',
        "$.at.x: missing",
        "$.at.y: a number is expected, not null",
        '$.prices["tea and cake"]: a number is expected, not "2"',
        "$.pair[1].x: a whole number is expected, not an array",
    ]


def test_unknown_keys_are_refused_and_may_be_allowed() -> None:
    assert wrong(Point, {"x": 1, "z": 2}) == ['$: unknown keys: "z"']
    many = {"x": 1, **{f"key{number}": 1 for number in range(9)}}
    assert wrong(Point, many) == ['$: unknown keys: "key0", "key1", "key2", "key3", "key4" and 4 more']
    assert wrong(Ping, {"type": "ping", "z": 1}) == ['$: unknown keys: "z"']

    tolerant = Application([], converter=make_converter(forbid_extra_keys=False))
    assert made(Point, {"x": 1, "z": 2}, tolerant) == Point(1)
    assert made(Command, {"type": "move", "to": {"x": 1, "w": 1}, "z": 1}, tolerant) == Move("move", Point(1))


def test_a_tag_says_which_of_several_classes() -> None:
    tags = 'one of "move", "say", "shout", "ping"'
    assert wrong(Command, {}) == [f"$.type: missing; it has to be {tags}"]
    assert wrong(Command, {"text": "hi"}) == [f"$.type: missing; it has to be {tags}"]
    for tag, said in (
        ("jump", '"jump"'),
        (None, "null"),
        (True, "true"),
        ([], "an array"),
        ({}, "an object"),
    ):
        assert wrong(Command, {"type": tag}) == [f"$.type: {tags} is expected, not {said}"]
    assert wrong(Command, {"type": "say", "to": {}}) == ["$.text: missing", '$: unknown keys: "to"']
    assert wrong(list[Command], [{"type": "ping"}, {"type": "x"}]) == [
        f'$[1].type: {tags} is expected, not "x"'
    ]
    assert wrong(Command, [1]) == ["$: an object is expected, not an array"]
    assert wrong(Command | None, 5) == ["$: null or an object is expected, not 5"]


def test_a_tag_may_have_any_name_and_be_a_number() -> None:
    @attrs.frozen
    class First:
        version: Literal[1]
        kind: Literal["same"] = "same"

    @attrs.frozen
    class Second:
        version: Literal[2]
        kind: Literal["same"] = "same"

    assert made(First | Second, {"version": 2}) == Second(2)
    assert wrong(First | Second, {"version": True}) == ["$.version: one of 1, 2 is expected, not true"]
    assert wrong(First | Second, {"version": 2.0}) == ["$.version: one of 1, 2 is expected, not 2.0"]


def test_a_default_does_not_stand_for_a_missing_tag() -> None:
    @attrs.frozen
    class On:
        state: Literal["on"] = "on"

    @attrs.frozen
    class Off:
        state: Literal["off"] = "off"

    assert made(On, {}) == On()
    assert wrong(On | Off, {}) == ['$.state: missing; it has to be one of "on", "off"']
    assert to_plain(Off()) == {"state": "off"}


def test_a_tag_is_in_all_of_the_classes_and_has_another_value_in_each() -> None:
    @attrs.frozen
    class Up:
        same: Literal["x"]
        alone: Literal["up"]
        way: Literal["up"]

    @attrs.frozen
    class Down:
        same: Literal["x"]
        way: Literal["down"]

    assert made(Up | Down, {"same": "x", "alone": "up", "way": "up"}) == Up("x", "up", "up")
    assert made(Up | Down, {"same": "x", "way": "down"}) == Down("x", "down")
    assert wrong(Up | Down, {"same": "x"}) == ['$.way: missing; it has to be one of "up", "down"']


@attrs.frozen
class Untagged:
    x: int


def test_classes_that_nothing_tells_apart_are_found_when_the_server_starts() -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"here: nothing tells Point, Untagged apart in .*; give each a field"
    ):
        made(Point | Untagged, {})
    with pytest.raises(ImproperlyConfigured, match="nothing tells Point, dict"):
        made(Point | dict[str, int], {})


def test_what_is_of_several_constructors_none() -> None:
    # The last one's reason is told: those before it were attempts.
    assert wrong(Name | Code, "ada") == ["$: a code has digits"]
    assert wrong(Name | bytes, "ada") == ['$: ValueError; Base64 is expected, not "ada"']


def test_what_json_has_no_form_for_is_called_by_its_type() -> None:
    assert wrong(int, {1}) == ["$: a whole number is expected, not set"]
    assert wrong(list[int], [object()]) == ["$[0]: a whole number is expected, not object"]


def test_validators_and_constructors_have_their_say() -> None:
    @attrs.frozen
    class Age:
        years: int = attrs.field(validator=attrs.validators.ge(0))
        name: str = attrs.field(default="", validator=attrs.validators.max_len(3))

    @dataclasses.dataclass
    class Odd:
        number: int

        def __post_init__(self) -> None:
            if self.number % 2 == 0:
                raise LookupError("a secret of the program's")

    assert made(Age, {"years": 3}) == Age(3)
    assert wrong(Age, {"years": -1}) == ["$: 'years' must be >= 0: -1"]
    assert wrong(Age, {"years": 1, "name": "long"}) == ["$: Length of 'name' must be <= 3: 4"]
    assert wrong(list[Odd], [{"number": 1}, {"number": 2}]) == ["$[1]: not valid (LookupError)"]


def test_an_answer_stays_short_however_much_was_wrong() -> None:
    @attrs.frozen
    class Wide:
        values: list[int]
        table: dict[str, int]

    fields = {f"field{number}": attrs.field(type=int) for number in range(2 * MAX_DETAILS)}
    Broad = attrs.make_class("Broad", fields)

    assert wrong(Wide, {"values": ["a"] * 100_000, "table": dict.fromkeys(map(str, range(10_000)))}) == [
        '$.values[0]: a whole number is expected, not "a"',
        '$.table["0"]: a whole number is expected, not null',
    ]
    details = wrong(Broad, {})
    assert len(details) == MAX_DETAILS + 1
    assert details[-1] == "… and more"
    [detail] = wrong(Point, {"x": "y" * 100_000})
    assert len(detail) < 100
    [detail] = wrong(dict[str, Point], {"k" * 100_000: {"x": 1, "z" * 100_000: 1}})
    assert len(detail) < 500


@pytest.mark.parametrize("depth", [10, 100, 300, 490])
def test_depth_ends_in_an_answer(depth: int) -> None:
    fits = decode_json('{"value": 1, "children": [' * depth + '{"value": 2}' + "]}" * depth)
    does_not = decode_json('{"value": 1, "children": [' * depth + '{"value": ""}' + "]}" * depth)
    with contextlib.suppress(InvalidContent):
        assert made(Node, fits) == fits
    [detail] = wrong(Node, does_not)
    assert len(detail) < 500
    assert "too deep" in detail or 'a whole number is expected, not ""' in detail


# -- a property: what comes out is what went in

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.sampled_from([0.5, 1.0, "", "a", "move", "say", "ping", "red"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyab"), inner, max_size=3),
    max_leaves=6,
)
almost = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["move", "say", "shout", "ping", "x"]) | plain,
        "to": st.fixed_dictionaries({"x": st.integers() | plain}, optional={"y": st.floats(-5, 5) | plain})
        | plain,
        "text": st.text(max_size=3) | plain,
        "tags": st.lists(st.text(max_size=2)) | plain,
        "number": st.integers() | plain,
        "extra": plain,
    },
)


def same(given_value: Any, result: Any) -> bool:
    """``result`` says what ``given_value`` says, by type too, but for defaults and whole numbers made floats."""
    if isinstance(given_value, dict) and isinstance(result, dict):
        return all(key in result and same(value, result[key]) for key, value in given_value.items())
    if isinstance(given_value, list) and isinstance(result, list):
        return len(given_value) == len(result) and all(map(same, given_value, result))
    if type(given_value) is int and type(result) is float:
        return float(given_value) == result
    return type(given_value) is type(result) and given_value == result


@settings(deadline=None, max_examples=300)
@given(almost | plain)
def test_content_is_refused_or_says_what_was_sent(value: Any) -> None:
    result: Any = None
    details: list[str] = []
    try:
        result = made(Command | None, value)
    except InvalidContent as error:
        details = error.details
    else:
        assert same(value, to_plain(result))
    assert result is not None or value is None or details
    assert all(detail.startswith("$") for detail in details)


# -- out again


P = 2**61 - 1
"""What the hash of a number is the remainder by."""
COLLIDING = {
    "set of int": (set[int], [each * P for each in range(20_000)]),
    "frozenset of int": (frozenset[int], [each * P for each in range(20_000)]),
    "set of Decimal": (set[decimal.Decimal], [str(each * P) for each in range(20_000)]),
    "set of UUID": (set[uuid.UUID], [str(uuid.UUID(int=each * P)) for each in range(20_000)]),
    "set of tuples": (set[tuple[int, str]], [[each * P, "x"] for each in range(20_000)]),
    "keys": (dict[uuid.UUID, int], {str(uuid.UUID(int=each * P)): 1 for each in range(20_000)}),
    "keys that are Decimal": (dict[decimal.Decimal, int], {str(each * P): 1 for each in range(20_000)}),
}


@pytest.mark.parametrize("kind", COLLIDING)
def test_values_that_were_chosen_to_have_one_hash_are_refused(kind: str) -> None:
    annotation, value = COLLIDING[kind]
    started = time.thread_time()
    with pytest.raises(InvalidContent, match="hashes differ"):
        made(annotation, value)
    assert time.thread_time() - started < 1.0


@pytest.mark.parametrize(
    ("annotation", "value", "size"),
    [
        (set[int], [*range(-5000, 5000), *[7] * 5000], 10_000),
        (set[float], [each / 8 for each in range(10_000)], 10_000),
        (set[str], [str(each) for each in range(10_000)], 10_000),
        (set[int], [each * P for each in range(60)], 60),
        (set[int], [each << 40 for each in range(10_000)], 10_000),
        (set[int | str], ["x", *range(1000)], 1001),
        (dict[uuid.UUID, int], {str(uuid.UUID(int=each)): each for each in range(1000)}, 1000),
        (dict[str, int], {str(each): each for each in range(1000)}, 1000),
    ],
)
def test_other_values_may_be_many(annotation: Any, value: Any, size: int) -> None:
    assert len(made(annotation, value)) == size


def test_a_set_of_what_has_no_hash_is_refused() -> None:
    with pytest.raises(InvalidContent, match="unhashable"):
        made(set[list[int]], [[each] for each in range(100)])


@attrs.define
class Item:
    n: int
    tags: list[str] = attrs.field(factory=list)


MANY_CLASSES: Any = Union[  # noqa: UP007 - made of a tuple
    tuple(
        attrs.make_class(
            f"Kind{each}",
            {"kind": attrs.field(type=Literal[f"k{each}"]), "n": attrs.field(type=int)},  # type: ignore[call-overload]
        )
        for each in range(200)
    )
]
LARGE = {
    "250,000 wrong items": (list[Item], "[" + ",".join(["{}"] * 250_000) + "]"),
    "the last item wrong": (list[Item], "[" + '{"n":1},' * 60_000 + "{}]"),
    "items of a large union": (list[MANY_CLASSES], "[" + ",".join(['{"kind":"k199","n":1}'] * 20_000) + "]"),
    "wrong items of a large union": (list[MANY_CLASSES], "[" + ",".join(['{"kind":"x"}'] * 40_000) + "]"),
    "unknown keys": (Item, "{" + ",".join(f'"{each}":1' for each in range(50_000)) + "}"),
    "wrong values by key": (
        dict[str, int],
        "{" + ",".join(f'"{each}":"x"' for each in range(50_000)) + "}",
    ),
    "wrong fields of all items": (list[Item], "[" + ",".join(['{"n":"x","tags":1}'] * 25_000) + "]"),
    "a long date": (datetime.datetime, '"' + "1" * 500_000 + '"'),
    "a long time": (datetime.time, '"' + "1:" * 250_000 + '"'),
    "a long UUID": (uuid.UUID, '"' + "{-" * 250_000 + '"'),
    "a long Decimal": (decimal.Decimal, '"' + "1" * 500_000 + 'x"'),
    "large Decimals": (list[decimal.Decimal], "[" + ",".join(['"1e999999"'] * 40_000) + "]"),
    "Base64 that is none": (bytes, '"' + "*" * 500_000 + '"'),
    "a word that is none of those": (Literal["a", "b"], '"' + "b" * 500_000 + '"'),
}


@pytest.mark.parametrize("kind", LARGE)
def test_no_large_content_costs_much_more_than_items_that_fit(kind: str, ordinary: float) -> None:
    """By the byte; and what is said of it stays short."""
    annotation, text = LARGE[kind]
    # What is quadratic costs hundreds of times as much; a busy machine makes one of the two seem dear.
    seconds, refused = structuring(annotation, text, 25 * ordinary)
    assert seconds < 25 * ordinary
    if refused is not None:
        assert len(refused.details) <= MAX_DETAILS + 1
        assert len(str(refused)) < 1000


@pytest.fixture(scope="module")
def ordinary() -> float:
    """Processor seconds for each byte of items that fit."""
    text = "[" + ",".join(['{"n":1,"tags":["a","b"]}'] * 20_000) + "]"
    return structuring(list[Item], text, 0)[0]


def structuring(annotation: Any, text: str, enough: float) -> tuple[float, InvalidContent | None]:
    """Processor seconds for each byte, at best of three or soon enough; and what is refused."""
    value = decode_json(text)
    refused = None

    def structured() -> None:
        nonlocal refused
        try:
            made(annotation, value)
        except InvalidContent as invalid:
            refused = invalid

    return seconds(structured, times=3, enough=enough * len(text)) / len(text), refused


def test_objects_become_plain_values() -> None:
    @attrs.frozen
    class Everything:
        point: Point
        say: Say
        colour: Colour
        at: datetime.datetime
        on: datetime.date
        ident: uuid.UUID
        price: decimal.Decimal
        raw: bytes
        names: set[str]
        either: Point | Say | None
        loose: Any

    ident = uuid.uuid4()
    moment = datetime.datetime(2024, 2, 3, 4, 5, tzinfo=datetime.UTC)
    value = Everything(
        Point(1, 2.5), Say("say", "hi", ["a"]), Colour.RED, moment, moment.date(), ident, decimal.Decimal("1.10"),
        b"\xff", {"x"}, Say("say", "ho"), {"nested": [Point(3)]},
    )  # fmt: skip
    plain_value = to_plain({"items": [value]})["items"][0]
    assert decode_json(encode_json(plain_value)) == {
        "point": {"x": 1, "y": 2.5},
        "say": {"type": "say", "text": "hi", "tags": ["a"]},
        "colour": "red",
        "at": "2024-02-03T04:05:00+00:00",
        "on": "2024-02-03",
        "ident": str(ident),
        "price": "1.10",
        "raw": "/w==",
        "names": ["x"],
        "either": {"type": "say", "text": "ho", "tags": []},
        "loose": {"nested": [{"x": 3, "y": 0.0}]},
    }


# -- the converter


@attrs.frozen
class Celsius:
    degrees: float


class Thermometer:
    """No class that cattrs knows: hooks have to say."""

    def __init__(self, reading: str) -> None:
        self.reading = reading


@attrs.frozen
class Weather:
    outside: Celsius
    by: Thermometer | None = None


def test_an_applications_converter_takes_hooks() -> None:
    application = Application([])
    converter = application.converter
    assert converter is application.converter
    assert converter is not Application([]).converter
    converter.register_structure_hook(Celsius, lambda value, _: Celsius(float(value.removesuffix("°"))))
    converter.register_unstructure_hook(Celsius, lambda value: f"{value.degrees}°")
    converter.register_structure_hook(Thermometer, lambda value, _: Thermometer(value))
    converter.register_unstructure_hook(Thermometer, lambda value: value.reading)
    weather = made(Weather, {"outside": "21.5°", "by": "hand"}, application)
    assert weather.outside == Celsius(21.5)
    assert weather.by.reading == "hand"
    assert to_plain([weather], application) == [{"outside": "21.5°", "by": "hand"}]
    assert wrong(Weather, {"outside": 5}, application) == ["$.outside: not valid (AttributeError)"]
    assert wrong(Weather, {"outside": "warm"}, application) == [
        "$.outside: could not convert string to float: 'warm'"
    ]


def test_a_union_may_have_a_hook_of_its_own() -> None:
    converter = make_converter()
    configure_tagged_union(Point | Untagged, converter)
    application = Application([], converter=converter)
    assert application.converter is converter
    assert made(Point | Untagged, {"_type": "Untagged", "x": 1}, application) == Untagged(1)


def test_a_content_type_follows_the_application() -> None:
    other = Application([])
    other.converter.register_structure_hook(Point, lambda value, _: Point(*value))
    content_type = ContentType(list[Point], "here")
    for _ in range(2):
        assert content_type.structure([{"x": 1}]) == [Point(1)]
        assert content_type.structure([[1, 2.0]], other) == [Point(1, 2.0)]


def test_a_hook_may_find_that_the_annotation_is_wrong() -> None:
    def hook(value: Any, _: Any) -> Any:
        raise ImproperlyConfigured("Celsius has no scale")

    application = Application([])
    application.converter.register_structure_hook(Celsius, hook)
    with pytest.raises(ImproperlyConfigured, match=r"^Celsius has no scale$"):
        made(Celsius, 5, application)


def test_a_union_of_something_that_only_a_hook_knows() -> None:
    application = Application([])
    application.converter.register_structure_hook_func(
        lambda annotation: annotation is T, lambda value, _: f"T of {value}"
    )
    assert made(int | T, "x", application) == "T of x"


@pytest.mark.parametrize("converter", [cattrs.Converter, 5, {}])
def test_what_is_no_converter_is_found_at_once(converter: Any) -> None:
    if converter is cattrs.Converter:
        Application([], converter=converter())
        return
    with pytest.raises(ImproperlyConfigured, match=r"converter is a cattrs\.Converter, not"):
        Application([], converter=converter)


@pytest.mark.parametrize(
    "annotation", [Weather, list[Thermometer], deque[Point], dict[str, complex]], ids=str
)
def test_what_nothing_can_be_made_into_is_found(annotation: Any) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"here: JSON values can't be made into .*; register a hook"
    ):
        ContentType(annotation, "here").prepare(make_converter())


# -- what a handler's annotation says


def annotation_of(function: Any) -> Any:
    return content_annotation(function, "Consumer.receive")


def test_an_annotation_with_a_class_in_it_is_taken() -> None:
    async def one(self: Any, content: Point, **kwargs: Any) -> None: ...
    async def several(self: Any, content: Annotated[Move | Say, "x"], **kwargs: Any) -> None: ...
    async def within(self: Any, payload: dict[str, list[Ping | None]], multiplexer: Any = None) -> None: ...
    async def quoted(self: Any, content: "Move | Say", **kwargs: "NothingThatIsDefined") -> None: ...  # type: ignore[name-defined] # noqa: F821
    async def generic(self: Any, content: Box[int]) -> None: ...
    async def new(self: Any, content: Place) -> None: ...
    async def alias(self: Any, content: Visit) -> None: ...
    async def repeated(self: Any, content: tuple[int, int, list[int], Point]) -> None: ...

    assert annotation_of(one) is Point
    assert annotation_of(several) == Annotated[Move | Say, "x"]
    assert annotation_of(within) == dict[str, list[Ping | None]]
    assert annotation_of(quoted) == Move | Say
    assert annotation_of(generic) == Box[int]
    assert annotation_of(new) is Place
    assert annotation_of(alias) is Visit
    assert annotation_of(repeated) == tuple[int, int, list[int], Point]


def test_any_other_annotation_leaves_the_content_as_it_is() -> None:
    async def bare(self, content, **kwargs): ...  # type: ignore[no-untyped-def]
    async def anything(self: Any, content: Any) -> None: ...
    async def mapping(self: Any, content: dict[str, Any]) -> None: ...
    async def scalar(self: Any, content: int | str) -> None: ...
    async def unknown(self: Any, content: Thermometer) -> None: ...
    async def gathered(*args: Point, **kwargs: Point) -> None: ...
    async def nothing(self: Any) -> None: ...

    for function in (bare, anything, mapping, scalar, unknown, gathered, nothing):
        assert annotation_of(function) is None


def test_a_callable_without_a_signature_leaves_the_content_as_it_is() -> None:
    assert annotation_of(dict.fromkeys) is None
    assert annotation_of(type) is None


def test_an_annotation_that_is_no_python_is_found_by_the_routing() -> None:
    async def broken(self: Any, content: "Move |") -> None: ...  # type: ignore[valid-type] # noqa: F722

    with pytest.raises(
        ImproperlyConfigured,
        match=r"^Consumer\.receive: the annotation 'Move \|' is none: .*must be an expression",
    ):
        annotation_of(broken)


@pytest.mark.parametrize(
    ("annotation", "said"),
    [(Point, "Point"), (list[int], "list[int]"), ("Later", "'Later'"), (ForwardRef("Later"), "'Later'")],
)
def test_an_annotation_is_named_as_it_is_written(annotation: Any, said: str) -> None:
    assert name_of_type(annotation) == said


LATER = """
from __future__ import annotations
import attrs
from triochan import route_class
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketDemultiplexer

class Consumer(JsonWebsocketConsumer):
    async def receive(self, content: Later, **kwargs): ...

class Demultiplexer(WebsocketDemultiplexer):
    consumers = {"later": Consumer}
"""


def module(source: str) -> ModuleType:
    made_module = ModuleType("made")
    exec(source, vars(made_module))
    return made_module


def test_a_class_may_be_defined_further_down() -> None:
    found = module(LATER + "@attrs.frozen\nclass Later:\n    x: int\n").Consumer
    route_class(found)
    assert [each.annotation.__name__ for each in found.content_types()] == ["Later"]
    assert [each.place for each in found.content_types()] == ["made.Consumer.receive"]


@pytest.mark.parametrize("name", ["Consumer", "Demultiplexer"])
def test_a_name_that_is_nowhere_is_found_by_the_routing(name: str) -> None:
    lost = getattr(module(LATER), name)
    with pytest.raises(ImproperlyConfigured) as caught:
        route_class(lost)
    said = str(caught.value)
    assert said.startswith(
        "made.Consumer.receive: the annotation 'Later' can't be understood: name 'Later' is not defined"
    )
    assert "looked up in the module" in said


def test_a_field_that_names_nothing_is_found_when_the_server_starts() -> None:
    holder = module(LATER + "@attrs.frozen\nclass Later:\n    x: Nowhere\n")
    with pytest.raises(ImproperlyConfigured, match=r"made\.Consumer\.receive: name 'Nowhere' is not defined"):
        next(iter(route_and_types(holder.Consumer))).prepare(make_converter())


def route_and_types(consumer: Any) -> Any:
    route_class(consumer)
    return consumer.content_types()


# -- consumers


class Game(JsonWebsocketConsumer):
    groups = ["game"]

    async def receive(self, content: Command, **kwargs: Any) -> None:
        await self.send({"got": type(content).__name__, "content": content})


async def test_a_consumer_gets_objects_and_sends_them() -> None:
    async with WSClient([route_class(Game)]) as socket:
        await socket.send_json({"type": "move", "to": {"x": 1}})
        assert await socket.receive_json() == {
            "got": "Move",
            "content": {"type": "move", "to": {"x": 1, "y": 0.0}},
        }
        await socket.send_json({"type": "ping"})
        assert await socket.receive_json() == {"got": "dict", "content": {"type": "ping"}}
        await Game.group_send("game", Say("say", "all"))
        assert await socket.receive_json() == {"type": "say", "text": "all", "tags": []}
        await Game.group_send("game", [Point(1), None])
        assert await socket.receive_json() == [{"x": 1, "y": 0.0}, None]


async def test_content_that_does_not_fit_is_answered_and_the_socket_stays() -> None:
    async with WSClient([route_class(Game)]) as socket:
        for content, details in (
            ({"type": "move"}, ["$.to: missing"]),
            ({"type": "run"}, ['$.type: one of "move", "say", "shout", "ping" is expected, not "run"']),
            ("move", ['$: an object is expected, not "move"']),
        ):
            await socket.send_json(content)
            assert await socket.receive_json() == {"error": "invalid content", "details": details}
        await socket.send_json({"type": "ping"})
        assert (await socket.receive_json())["got"] == "dict"


async def test_what_to_do_with_it_may_be_said_otherwise() -> None:
    class Strict(JsonWebsocketConsumer):
        async def receive(self, content: Point, **kwargs: Any) -> None: ...

        async def content_invalid(self, error: InvalidContent) -> None:
            await self.close(4400, error.details[0])

    async with WSClient([route_class(Strict)]) as socket:
        await socket.send_json({"x": "1"})
        closed = await socket.wait_closed()
        assert (closed.code, closed.reason) == (4400, '$.x: a whole number is expected, not "1"')


async def test_text_that_is_not_json_still_closes() -> None:
    for data, code in (("{", 1007), (b"{}", 1003)):
        async with WSClient([route_class(Game)]) as socket:
            await socket.send(data)
            assert (await socket.wait_closed()).code == code


async def test_consumers_use_their_own_applications_converter() -> None:
    class Station(JsonWebsocketConsumer):
        groups = ["weather"]

        async def receive(self, content: Celsius, **kwargs: Any) -> None:
            assert isinstance(content, Celsius)
            await self.send(content)
            await self.group_send("weather", content)

    hooked = Application([route_class(Station)])
    hooked.converter.register_structure_hook(Celsius, lambda value, _: Celsius(value))
    hooked.converter.register_unstructure_hook(Celsius, lambda value: value.degrees)
    async with WSClient(hooked) as socket:
        await socket.send("21.5")
        assert await socket.receive_json() == 21.5
        assert await socket.receive_json() == 21.5
        assert current_application() is hooked
    assert current_application() is None
    async with WSClient([route_class(Station)]) as socket:
        await socket.send('{"degrees": 1}')
        assert await socket.receive_json() == {"degrees": 1.0}


async def test_a_server_does_not_start_with_content_that_nothing_can_be_made_into() -> None:
    class Lost(JsonWebsocketConsumer):
        async def receive(self, content: Weather, **kwargs: Any) -> None: ...

    application = Application([route_class(Lost)])
    with pytest.raises(
        ImproperlyConfigured, match=r"Lost\.receive: JSON values can't be made into Thermometer"
    ):
        async with Client(application):
            pass
    application.converter.register_structure_hook(Thermometer, lambda value, _: Thermometer(value))
    async with Client(application):
        pass


async def test_what_has_no_form_is_an_error_of_the_programs() -> None:
    class Sends(JsonWebsocketConsumer):
        async def connect(self, message: Any, **kwargs: Any) -> None:
            for content in (Thermometer("x"), {"a": [object()]}, complex(1)):
                with pytest.raises(TypeError, match="not JSON serializable"):
                    await self.send(content)
            with pytest.raises(OverflowError):
                await self.send(Point(1, float("nan")))
            await self.send(Point(1))

    async with WSClient([route_class(Sends)]) as socket:
        assert await socket.receive_json() == {"x": 1, "y": 0.0}


async def test_a_dialect_of_ones_own_is_asked_first() -> None:
    class Dialect(JsonWebsocketConsumer):
        groups = ["dialect"]

        @classmethod
        def encode_json(cls, content: Any) -> str:
            return json.dumps(
                content,
                default=lambda each: f"<{type(each).__name__}>" if isinstance(each, set) else no(each),
            )

        async def receive(self, content: Any, **kwargs: Any) -> None:
            await self.send({"set": {1}})
            await self.send([Point(1)])
            await self.send(Point(2))
            await Group("dialect").send({"text": self.encode_json(1)})

    def no(each: Any) -> Any:
        raise TypeError(each)

    async with WSClient([route_class(Dialect)]) as socket:
        await socket.send("1")
        assert await socket.receive_json() == {"set": "<set>"}
        assert await socket.receive_json() == [{"x": 1, "y": 0.0}]
        assert await socket.receive_json() == {"x": 2, "y": 0.0}
        assert await socket.receive_json() == 1


def test_cattrs_is_imported_when_it_is_needed() -> None:
    code = "import sys, triochan; triochan.Application([]); sys.exit('cattrs' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])

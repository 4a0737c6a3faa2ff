"""Contents that wait: bytes of a known size, and for each receiver objects of its own."""

from __future__ import annotations

import copy
import datetime
import gc
import sys
import threading
from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory import held

from triochan import Channel
from triochan.content import decode_json
from triochan.exceptions import InvalidContent
from triochan.layers.contents import Waiting, _kept

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(), inner)
        | st.tuples(inner, inner)
        | st.frozensets(st.text())
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), values))
def test_what_comes_out_is_what_went_in(content: dict[str, Any]) -> None:
    waiting = Waiting.of(content)
    first, second = waiting.content(), waiting.content()
    assert first == second == content
    assert first is not second
    assert waiting.kept == ()


def test_it_is_a_copy_at_both_ends() -> None:
    content: dict[str, Any] = {"nested": {"list": [1]}, "set": {1}}
    waiting = Waiting.of(content)
    content["nested"]["list"].append(2)
    first = waiting.content()
    first["nested"]["list"].append(3)
    first["set"].add(3)
    assert waiting.content() == {"nested": {"list": [1]}, "set": {1}}


def test_what_was_one_object_is_one_object() -> None:
    shared: list[int] = []
    received = Waiting.of({"a": shared, "b": shared}).content()
    assert received["a"] is received["b"]


@attrs.define
class Order:
    number: int
    lines: list[str]


class Counted:
    """Says itself how it is copied."""

    def __init__(self, copies: int = 0) -> None:
        self.copies = copies

    def __deepcopy__(self, memo: object) -> Counted:
        return Counted(self.copies + 1)


def local_class() -> Any:
    class Local:
        def __init__(self) -> None:
            self.state = [1]

    return Local


class TestTheProgramsObjects:
    @pytest.mark.parametrize(
        "value",
        [
            datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
            Decimal("19.90"),
            Order(1, ["a"]),
            {1: (2, {3})},
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_keep_their_types(self, value: Any) -> None:
        received = Waiting.of({"value": value}).content()["value"]
        assert received == value
        assert type(received) is type(value)

    @pytest.mark.parametrize("value", [lambda: 5, Order, local_class(), len, _kept.__class__])
    def test_classes_and_functions_stay_themselves(self, value: Any) -> None:
        assert Waiting.of({"a": [value], "b": value}).content() == {"a": [value], "b": value}

    def test_objects_of_a_local_class_are_copied(self) -> None:
        cls = local_class()
        one = cls()
        received = Waiting.of({"one": one}).content()["one"]
        assert type(received) is cls
        assert received is not one
        one.state.append(2)
        assert received.state == [1]

    def test_what_says_how_it_is_copied_is_asked(self) -> None:
        waiting = Waiting.of({"a": Counted()})
        one, two = waiting.content()["a"], waiting.content()["a"]
        assert (one.copies, two.copies) == (2, 2)
        assert one is not two

    def test_a_channel_is_a_name(self) -> None:
        channel = Channel("jobs")
        assert Waiting.of({"nested": [channel]}).content()["nested"][0] is channel

    def test_what_has_no_copy_can_t_wait(self) -> None:
        class Nameless:
            def __reduce__(self) -> str:
                return "there is no such global"

        with pytest.raises(TypeError, match="lock"):
            Waiting.of({"lock": threading.Lock()})
        with pytest.raises(TypeError, match="can't wait in a channel"):
            Waiting.of({"nameless": Nameless()})

    def test_the_place_of_a_kept_value_is_read_here_alone(self) -> None:
        with pytest.raises(NotImplementedError):
            _kept(0)
        assert Waiting.of({"kept": [_kept]}).kept == ()


class TestSize:
    @pytest.mark.parametrize("unit", ["{}", "[]", '""', "1", '{"a":1}', "[[[[[[[[]]]]]]]]", "0.5"])
    def test_what_waits_takes_no_more_than_three_times_its_text(self, unit: str) -> None:
        text = "[" + ",".join([unit] * (200_000 // (len(unit) + 1))) + "]"
        content = {"payload": decode_json(text)}
        waiting = Waiting.of(content)
        assert waiting.size <= held(lambda: Waiting.of(content)) < 3 * len(text)
        copied = copy.deepcopy(content)
        assert waiting.content() == copied

    @pytest.mark.skipif(sys.version_info >= (3, 12), reason="pickle takes as many levels as JSON can have")
    def test_too_deep_is_a_client_s_fault(self) -> None:
        deep = decode_json("[" * 1000 + "]" * 1000)
        with pytest.raises(InvalidContent, match="too deep"):
            Waiting.of({"payload": deep})

    def test_a_line_in_a_log_shows_what_is_small(self) -> None:
        assert str(Waiting.of({"number": 5})) == "{'number': 5}"
        large = Waiting.of({"text": "x" * 5000})
        assert str(large) == f"{large.size:,} bytes"

    def test_the_collector_goes_on(self) -> None:
        large = Waiting.of({"lists": [[] for _ in range(20_000)]})
        assert large.content() == {"lists": [[]] * 20_000}
        assert gc.isenabled()

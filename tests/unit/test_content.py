"""JSON in and out: what counts as JSON is RFC 8259's, whatever the reader underneath takes."""

from __future__ import annotations

import gc
import json
import math
import re
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from processor import seconds

from triochan.content import InvalidJSON, decode_json, decode_own, encode_json
from triochan.exceptions import TriochanError

relaxed = settings(deadline=None)

_STRING = re.compile(r'"((?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9A-Fa-f]{4})*)"')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_SPACE = re.compile(r"[ \t\n\r]*")
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class Grammar:
    """A reader written off RFC 8259, sections 2 to 7; out of range or ill-formed Unicode is no value either."""

    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0

    def read(self) -> Any:
        value = self.value()
        self.want(self.place == len(self.text))
        return value

    def want(self, condition: Any) -> Any:
        if not condition:
            raise ValueError(f"not JSON at {self.place}")
        return condition

    def take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found: re.Match[str] = self.want(pattern.match(self.text, self.place))
        self.place = found.end()
        return found

    def token(self, character: str) -> bool:
        self.take(_SPACE)
        found = self.text.startswith(character, self.place)
        self.place += len(character) if found else 0
        self.take(_SPACE)
        return found

    def value(self) -> Any:
        self.take(_SPACE)
        for word, value in (("true", True), ("false", False), ("null", None)):
            if self.token(word):
                return value
        if self.token("["):
            items: list[Any] = []
            while not self.token("]"):
                self.want(not items or self.token(","))
                items.append(self.value())
            return items
        if self.token("{"):
            members: dict[str, Any] = {}
            count = 0
            while not self.token("}"):
                self.want(not count or self.token(","))
                key = self.string()
                self.want(self.token(":"))
                members[key] = self.value()
                count += 1
            return members
        if self.text.startswith('"', self.place):
            return self.string()
        number = self.take(_NUMBER)
        self.take(_SPACE)
        if number[1] is None and number[2] is None:
            return int(number[0])
        self.want(math.isfinite(float(number[0])))
        return float(number[0])

    def string(self) -> str:
        raw = self.take(_STRING)[1]
        self.take(_SPACE)
        units = re.sub(
            r"\\(u[0-9A-Fa-f]{4}|.)",
            lambda found: (
                chr(int(found[1][1:], 16)) if found[1][0] == "u" else _ESCAPES.get(found[1], found[1])
            ),
            raw,
        )
        return units.encode("utf-16", "surrogatepass").decode("utf-16")


def outcome(read: Any, text: str) -> tuple[str, Any]:
    try:
        return "value", repr(read(text))  # as text: 1 is not 1.0, nor True, and 0.0 not -0.0
    except ValueError:
        return "refused", None


def by_grammar(text: str) -> Any:
    return Grammar(text).read()


fragments = st.sampled_from(
    [
        *'0123456789.eE+-"\\[]{}:,/ abfnrtu', "true", "false", "null", "NaN", "Infinity", "-Infinity", "nan", "inf",
        "\\u0041", "\\ud83d", "\\ude00", "\\uD800", "\\u12", '"a"', '"a":', "é", "😀", "\t", "\n", "\r",
        "\x0b", "\x0c",
        "\x00", "\x1f", "\x7f", "\xa0", "\u2028", "\ufeff", "\ud800", "\udfff", "1e5", "-1", "0.5", "00",
        "1.", ".5", "e99",
        "1" * 19, "1" * 20, "1" * 199, "1" * 250, "0" * 60, "9" * 309, "e308", "e309", "e-400", "//", "/**/",
        "'", "_", "١",
    ]
)  # fmt: skip
loose = st.lists(fragments, max_size=8).map("".join)
wrapped = st.tuples(
    st.sampled_from(["{}", "[{}]", '{{"k":{}}}', '"{}"', " {} ", "[1,{}]", "-{}"]), loose
).map(lambda pair: pair[0].format(pair[1]))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A valid text with a piece put in, taken out or exchanged."""
    text = json.dumps(draw(values), ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    start = draw(st.integers(0, len(text)))
    stop = start + draw(st.integers(0, 2))
    return text[:start] + draw(fragments | st.just("")) + text[stop:]


class TestDecode:
    @settings(deadline=None, max_examples=600)
    @given(loose | wrapped | damaged())
    @example("-")
    @example("[-]")
    @example("-.5")
    @example("1" * 250 + "e99")
    @example("9" * 309 + ".5")
    @example("\ud800".join('""'))
    def test_takes_exactly_what_rfc_8259_has(self, text: str) -> None:
        assert outcome(decode_json, text) == outcome(by_grammar, text)

    @relaxed
    @given(values)
    def test_gives_every_value_back(self, value: Any) -> None:
        for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=2), encode_json(value)):
            assert repr(decode_json(text)) == repr(value)

    @pytest.mark.parametrize(
        "text",
        [
            "", " ", "NaN", "Infinity", "-Infinity", "[NaN]", '{"a": -Infinity}', "1e999", "-1e999",
            "[1e309]", "01", "-01",
            "[00]", "1.", "[1.]", "1.e5", ".5", "-.5", "-", "[-]", "- 1", "+1", "1e", "1e+", "0x10", "1_000",
            "'a'", '"a', "a",
            '"\t"', '"\n"', '"\0"', '"\\x41"', '"\\u12"', '"\\ud800"', '"\\ud83dx"', '"\\ude00\\ud83d"',
            '{"\\udc00": 1}',
            '[[{"a": "\\ud800"}]]', "[1,]", "[,]", "[1 2]", '{"a":1,}', '{"a"}', "{a: 1}", "{1: 2}", "[1]]",
            "1 2", "[", "{",
            "\ufeff1", "\xa01", "tru", "nullx", "True", "None", "undefined", "// a\n1", "1" * 250 + "e99",
            "2" * 309 + ".0",
        ],
    )  # fmt: skip
    def test_refuses(self, text: str) -> None:
        with pytest.raises(InvalidJSON, match="not JSON"):
            decode_json(text)

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("0", 0), ("-0", 0), ("-0.0", -0.0), ("1E+2", 100.0), ("0e99", 0.0), ("1e-400", 0.0),
            ("1.7976931348623157e308",
            1.7976931348623157e308), ('"NaN"', "NaN"), ('"Infinity -- 01 1. -.5 1e999"',
            "Infinity -- 01 1. -.5 1e999"),
            ('"\\u0000"', "\0"), ('"\\ud83d\\ude00"', "😀"), ('"😀\u2028\x7f"', "😀\u2028\x7f"), ('"\\\\ud800"',
            "\\ud800"),
            (' {"a" :\n[ 1 ,\t2 ] }\r', {"a": [1, 2]}), ('{"a":1,"a":2}', {"a": 2}), ('{"":0}', {"": 0}),
            ("18446744073709551616", 2**64), ("-9223372036854775809", -(2**63) - 1), ("1" * 300, int("1" * 300)),
            ("9007199254740993", 2**53 + 1), ("0.1", 0.1), ('"\\/"', "/"),
        ],
    )  # fmt: skip
    def test_takes(self, text: str, value: Any) -> None:
        assert repr(decode_json(text)) == repr(value)

    @pytest.mark.parametrize(
        "text", ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000, "1" * 5000, "-" * 9999]
    )
    @pytest.mark.parametrize("suspect", ["", '"\\ud800",'])
    def test_refuses_what_nothing_can_hold(self, text: str, suspect: str) -> None:
        with pytest.raises(InvalidJSON):
            decode_json("[" + suspect + text + "]")

    def test_the_error_is_of_the_tree_and_a_value_error(self) -> None:
        with pytest.raises(InvalidJSON) as caught:
            decode_json("[1")
        assert isinstance(caught.value, TriochanError)
        assert isinstance(caught.value, ValueError)
        assert caught.value.__suppress_context__

    def test_time_is_linear_in_what_a_client_may_send(self) -> None:
        # A search that begins anew at every character would take minutes here.
        assert decode_json("[" + "1" * 100 + ",1" * 100_000 + "]")[-1] == 1
        for text in ("1" * 1_000_000, "\\u" * 300_000, "-" * 1_000_000, "0." * 300_000):
            with pytest.raises(InvalidJSON):
                decode_json(text)


class TestEncode:
    @relaxed
    @given(values)
    def test_is_json_in_ascii(self, value: Any) -> None:
        text = encode_json(value)
        assert text.isascii()
        assert repr(json.loads(text)) == repr(value)

    @pytest.mark.parametrize("value", [b"x", {1, 2}, object(), 1j, range(3), [b"x"], {"a": {1}}])
    def test_refuses_what_json_has_no_form_for(self, value: Any) -> None:
        with pytest.raises(TypeError):
            encode_json(value)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [math.nan], {"a": math.inf}])
    def test_refuses_numbers_that_json_does_not_have(self, value: Any) -> None:
        with pytest.raises(OverflowError):
            encode_json(value)

    def test_refuses_what_contains_itself(self) -> None:
        value: list[Any] = []
        value.append(value)
        with pytest.raises(OverflowError):
            encode_json(value)

    def test_slashes_stay_and_nothing_is_put_between(self) -> None:
        assert encode_json({"path": "/a/b", "n": [1, 2.5, None, True], "é": "</"}) == (
            '{"path":"/a/b","n":[1,2.5,null,true],"\\u00e9":"</"}'
        )


# -- what a text costs

SIZE = 128 * 1024


def filled(unit: str) -> str:
    """An array of so many units that it has :data:`SIZE` characters, or a few less."""
    return "[" + ",".join([unit] * (SIZE // (len(unit) + 1))) + "]"


COSTLY = {
    **{f"numbers of {count} digits": filled("9" * count) for count in (1, 18, 19, 64, 198, 199, 200, 4300)},
    "negative numbers of 198 digits": filled("-" + "9" * 198),
    "fractions of 198 digits": filled("0." + "9" * 198),
    "fractions of 10,000 digits": filled("0." + "9" * 10_000),
    "198 digits, a fraction and an exponent": filled("9" * 198 + "." + "9" * 198 + "e99"),
    "large exponents": filled("1e308"),
    "small exponents": filled("1e-308"),
    "one number of all digits": "9" * SIZE,
    "one fraction of all digits": "0." + "9" * SIZE,
    "exponents behind each other": "1" + "e1" * (SIZE // 2),
    "minus signs": filled("-"),
    "zeros": "0" * SIZE,
    "empty arrays": filled("[]"),
    "empty objects": filled("{}"),
    "small objects": filled('{"a":1}'),
    "arrays 450 deep": filled("[" * 450 + "]" * 450),
    "objects 400 deep": filled('{"a":' * 400 + "1" + "}" * 400),
    "arrays that are too deep": "[" * SIZE,
    "objects that are too deep": '{"a":' * (SIZE // 5),
    "one key": "{" + ",".join(['"a":1'] * (SIZE // 6)) + "}",
    "many keys": "{" + ",".join([f'"{each:x}":1' for each in range(SIZE // 8)]) + "}",
    "escapes": '"' + r"\u0041" * (SIZE // 6) + '"',
    "surrogates": '"' + r"\ud83d\ude00" * (SIZE // 12) + '"',
    "backslashes": '"' + "\\" * (SIZE - 2) + '"',
    "small objects, read strictly": '["NaN",' + filled("{}")[1:],
    "deep arrays, read strictly": '["NaN",' + filled("[" * 450 + "]" * 450)[1:],
    "numbers of 198 digits, read strictly": '["NaN",' + filled("9" * 198)[1:],
    "spaces": " " * SIZE + "1",
    "lines": "\n" * SIZE + "1",
}
ORDINARY = filled('{"id":12345,"name":"someone","text":"hello there, how are you","ok":true}')


def cost(text: str) -> float:
    """Seconds of processor to read ``text``, at best."""

    def tried() -> None:
        with suppress(InvalidJSON):
            decode_json(text)

    return seconds(tried)


@pytest.mark.parametrize("kind", COSTLY)
def test_no_text_costs_much_more_than_an_ordinary_one(kind: str) -> None:
    """Six times at most have been measured; runs of digits that are read for each digit take 20 times as long."""
    traced = sys.gettrace() is not None  # by coverage, which makes Python's own lines dear beside C
    assert cost(COSTLY[kind]) < (100 if traced else 15) * cost(ORDINARY)


@pytest.mark.parametrize(
    "text", [ORDINARY, COSTLY["numbers of 4300 digits"], COSTLY["arrays that are too deep"]]
)
def test_the_collector_goes_on_behind_a_large_text(text: str) -> None:
    assert gc.isenabled()
    cost(text)
    assert gc.isenabled()
    gc.disable()
    try:
        cost(text)
        assert not gc.isenabled()  # it was the program's wish
    finally:
        gc.enable()


@given(values)
def test_own_texts_are_read_without_a_look(value: Any) -> None:
    assert decode_own(encode_json(value)) == decode_json(encode_json(value))

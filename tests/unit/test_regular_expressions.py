"""No text makes a regular expression of the package's take more time than a few looks at each of its characters."""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from processor import seconds

import triochan

BEGINNINGS = ["", '"a"', "for=1", "gzip", "bytes=1", "GET /", "http://a", "1", "a=", 'a="', "insert into "]
REPEATED = [
    " ", " , ", ",", ";", ":", ".", "-", "/", '"', "\\", "\\\"", "a", "1", "0", "a,", "a=", ";a=b", '"a",', "=a;",
    "a b", "%41", "\r\n", "a:b\r\n", "1\r\nx\r\n", "\\ud8", "W/", "[", "a.",
    "_", "*",
]  # fmt: skip
ENDS = ["", "\x00", "(", "\r"]
REPETITIONS = 2048
LITTLE = 0.00002
"""Seconds of processor that let twice as many repetitions come next: what an exponential one takes is squared by that,
and still no second. More than this, and there are a quarter more: it is stopped long before it lasts."""
MOST = 0.01
"""Seconds of processor for a text of some 2000 repetitions, at best: 50 to 200 times what one look at each character
takes. A quadratic one takes from 0.03 s on."""


class Asked(NamedTuple):
    """An expression that a module holds; ``searched``: anywhere in a text, not at its beginning alone."""

    expression: re.Pattern[Any]
    searched: bool = False


def expressions() -> dict[str, Asked]:
    """Those that modules hold, by their names."""
    found = {}
    for each in pkgutil.walk_packages(triochan.__path__, "triochan."):
        if each.name.endswith("__main__"):
            continue
        module = importlib.import_module(each.name)
        source = inspect.getsource(module)
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                searched = (
                    re.search(rf"\b{name}\.(?:search|sub|subn|finditer|findall|split)\(", source) is not None
                )
                found[f"{each.name.removeprefix('triochan.')}:{name}"] = Asked(value, searched)
    return found


def cost(asked: Asked, text: Any) -> float:
    """Seconds of processor that it takes in the ways in which it is asked, at best of three."""
    each = asked.expression
    ways: list[Callable[[Any], object]]
    ways = [each.search, each.findall] if asked.searched else [each.match, each.fullmatch]

    def asking() -> None:
        for way in ways:
            way(text)

    return seconds(asking, times=3, enough=MOST)


def dearest(asked: Asked) -> str:
    """A text that takes too long; empty: none was found."""
    for beginning, repeated, end in itertools.product(BEGINNINGS, REPEATED, ENDS):
        size, taken = 0, 0.0
        while size < REPETITIONS:
            size = min(2 * size if taken < LITTLE else size * 5 // 4, REPETITIONS - 1) + 1
            text: Any = beginning + repeated * size + end
            if isinstance(asked.expression.pattern, bytes):
                text = text.encode()
            taken = cost(asked, text)
            if taken > MOST:
                return f"{beginning!r} + {repeated!r} * {size} + {end!r}"
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("name", expressions())
def test_no_text_is_looked_at_again_and_again(name: str) -> None:
    assert dearest(expressions()[name]) == ""


@pytest.mark.parametrize("pattern", [r"[ \t]*(?:a=b)?[ \t]*\Z", r"(?:[ \t]*,[ \t]*(?:a)?)*\Z", r"(?:a|a)*\Z"])
def test_what_does_is_found(pattern: str) -> None:
    assert dearest(Asked(re.compile(pattern)))


def test_there_are_expressions_to_look_at() -> None:
    assert {"http.conditions:_TAGS", "proxies:_PAIR", "http.static:_CODING", "http1.parser:_HEAD"} <= set(
        expressions()
    )

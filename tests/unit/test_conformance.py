"""The page of conformance is made from the tests, and is what they say now."""

from __future__ import annotations

from pathlib import Path

import conformance
import pytest
from conformance import PAGE, SECTIONS, TITLES, WITHOUT_TEST, Requirement, collect, main, marks, render


def test_the_page_is_not_stale() -> None:
    assert PAGE.read_text() == render(collect()), "run `just conformance`"


def test_every_section_that_asks_something_has_a_row() -> None:
    rows = {(each.rfc, each.section) for each in [*collect(), *WITHOUT_TEST]}
    asked = {(rfc, section) for rfc, sections in SECTIONS.items() for section in sections.split()}
    assert SECTIONS.keys() == TITLES.keys()
    assert asked - rows == set()


def test_what_is_said_to_have_no_test_has_none() -> None:
    assert not WITHOUT_TEST.keys() & collect().keys()
    assert all(WITHOUT_TEST.values())


def test_marks_are_found() -> None:
    source = """
@pytest.mark.rfc("9112", "3.2", "MUST a")
@pytest.mark.slow
def test_one(): ...

@pytest.mark.rfc("9110", "5.5", "MUST b")
class TestTwo:
    @pytest.mark.parametrize("x", [1])
    @pytest.mark.rfc("9112", "3.2", "MUST a")
    async def test_three(self): ...

@pytest.mark.rfc("9110", "5.5", "MUST b")
@pytest.mark.xfail(strict=True)
def test_four(): ...
"""
    assert list(marks(source, "tests/test_x.py")) == [
        (Requirement("9112", "3.2", "MUST a"), "tests/test_x.py::test_one"),
        (Requirement("9110", "5.5", "MUST b"), "tests/test_x.py::TestTwo"),
        (Requirement("9112", "3.2", "MUST a"), "tests/test_x.py::TestTwo::test_three"),
        (Requirement("9110", "5.5", "MUST b"), "tests/test_x.py::test_four (expected to fail)"),
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        '"9112", "3.2"',
        '"9112", "3.2", text',
        '"9999", "3.2", "x"',
        '"9112", "three", "x"',
        '"9112", "3", "x", y=1',
    ],
)
def test_a_mark_that_is_none_is_an_error(arguments: str) -> None:
    with pytest.raises(ValueError, match=r"tests/test_x\.py:1: "):
        list(marks(f"@pytest.mark.rfc({arguments})\ndef test_one(): ...", "tests/test_x.py"))


def test_a_stale_page_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "PAGE", tmp_path / "page.md")
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0
    with (tmp_path / "page.md").open("a") as page:
        page.write("by hand\n")
    assert main(["--check"]) == 1


def test_rows_are_in_the_order_of_sections() -> None:
    keys = [Requirement("9112", section, "x") for section in ("10.1", "9.3", "9.3.2", "2.2")]
    keys.append(Requirement("6455", "1", "x"))
    ordered = [(each.rfc, each.section) for each in sorted(keys, key=Requirement.place)]
    assert ordered == [("9112", "2.2"), ("9112", "9.3"), ("9112", "9.3.2"), ("9112", "10.1"), ("6455", "1")]

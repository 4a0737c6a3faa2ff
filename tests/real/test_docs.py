"""The README and docs/: their Python runs, their commands are taken, their links lead somewhere."""

from __future__ import annotations

import inspect
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from triochan import options
from triochan.binding.sqlalchemy import Database

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = "<!-- compiled, not run -->"
"""Stands before a block that needs something we do not have; it is compiled all the same."""


class Block(NamedTuple):
    """A fenced block, and the line before it."""

    page: Path
    line: int
    language: str
    code: str
    before: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(*languages: str) -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text()
        for start in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if start[1] in languages:
                above = text[: start.start()].rstrip("\n").rpartition("\n")[2]
                yield Block(page, text.count("\n", 0, start.start()) + 2, start[1], start[2], above)


PAGES_WITH_PYTHON = sorted({block.page for block in blocks("python")})


@pytest.mark.parametrize("page", PAGES_WITH_PYTHON, ids=lambda page: page.name)
async def test_python_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page are one module, run from top to bottom; its ``async def test_…`` are run too."""
    # Annotations are looked up by the name of the module that a class says it is of.
    module = ModuleType(page.stem.lower().replace("-", "_"))
    assert module.__name__ not in sys.modules
    module.__file__ = str(page)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks("python"):
        if block.page == page:
            # Line numbers in a traceback are those of the page.
            code = compile("\n" * (block.line - 1) + block.code, str(page), "exec", dont_inherit=True)
            if block.before != ELSEWHERE:
                exec(code, vars(module))
    try:
        for name, test in list(vars(module).items()):
            if name.startswith("test_") and inspect.iscoroutinefunction(test):
                await test()
    finally:
        for each in vars(module).values():
            if isinstance(each, Database):  # a page has no end at which it would close it
                each.close()


@pytest.mark.parametrize("block", list(blocks("sh")), ids=str)
def test_commands_are_taken(block: Block) -> None:
    commands = [
        line for line in block.code.splitlines() if "-m triochan" in line or line.startswith("triochan ")
    ]
    for command in commands:
        arguments = re.split(r"-m triochan |^triochan ", command)[1]
        first, *rest = shlex.split(arguments, comments=True)
        command = first if first in options.COMMANDS else ""
        given = options.make_parser(command).parse_args(rest if command else [first, *rest])
        if command == "dead-letters":
            assert given.layer
            continue
        assert "config" in given or ":" in given.app
        if "app_dir" in given:
            module = ROOT / given.app_dir / given.app.partition(":")[0]
            assert module.with_suffix(".py").exists() or (module / "__init__.py").exists()


def test_ci_runs_the_second_command_of_the_readme() -> None:
    first, second, *_ = [block.code.strip() for block in blocks("sh") if block.page.name == "README.md"]
    assert first.endswith("chat:routing")
    assert second.endswith("pytest")
    assert second in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            linked = (page.parent / file) if file else page
            assert linked.exists(), target
            if anchor:
                headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
                assert anchor in [
                    re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings
                ], target


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    names = {re.split(r"[\[<>=~! ]", each)[0] for each in wanted}
    reasons = (ROOT / "docs" / "dependencies.md").read_text()
    assert {name for name in names if f"[{name}](" not in reasons} == set()


def test_the_oldest_versions_are_those_of_the_page() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = dict(re.split(r",|>=", each)[:2] for each in project["dependencies"])
    page = (ROOT / "docs" / "dependencies.md").read_text()
    assert dict(re.findall(r"^\| \[([\w-]+)\]\([^)]*\) \| ([\d.]+) \|", page, re.MULTILINE)) == asked
    [database] = project["optional-dependencies"]["sqlalchemy"]
    assert re.findall(r"extra `sqlalchemy`: \[.*?\]\(.*?\) from ([\d.]+),", page) == [
        database.partition(">=")[2]
    ]
    said = dict(re.findall(r"^- ([\w-]+) ([\d.]+): ", page, re.MULTILINE))
    assert len(said) >= 5
    assert {name.lower(): version for name, version in said.items()}.items() <= {
        **asked,
        "sqlalchemy": database.partition(">=")[2],
    }.items()


@pytest.mark.parametrize(
    ("package", "oldest"), [("h11", "0.16"), ("python-multipart", "0.0.32"), ("ujson", "5.13")]
)
def test_versions_with_known_vulnerabilities_are_not_admitted(package: str, oldest: str) -> None:
    """Each of these mended a fault that a client can reach, in the version that is named here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [floor] = [
        each.partition(">=")[2].partition(",")[0]
        for each in project["dependencies"]
        if each.startswith(f"{package}>=")
    ]
    assert [int(part) for part in floor.split(".")] >= [int(part) for part in oldest.split(".")]


def test_recipes_and_options_that_are_named_exist() -> None:
    """What the pages say of `just …` and `--…` exists."""
    recipes = re.findall(r"^(\w+)(?: [^:\n]*)?:", (ROOT / "justfile").read_text(), re.MULTILINE)
    known = [option for action in options.make_parser()._actions for option in action.option_strings]
    for page in PAGES:
        text = page.read_text()
        for recipe in re.findall(r"`just (\w+)", text):
            assert recipe in recipes, (page, recipe)
        if page.name == "README.md":
            for option in re.findall(r"`(--[a-z-]+)", text):
                assert option in known, option

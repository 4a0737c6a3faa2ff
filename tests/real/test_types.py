"""A program as users write them, under mypy and pyright, both strict, and beside it what both find in its mistakes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
APP = ROOT / "tests" / "real" / "typing_app"
MISTAKES = APP / "mistakes.py"

Found = set[tuple[str, int, str]]
"""File, line, and what the checker calls it."""


def marked(which: int) -> Found:
    """What ``mistakes.py`` says that the first or second checker finds in it."""
    lines = enumerate(MISTAKES.read_text().splitlines(), 1)
    marks = [(number, re.search(r"# wrong: (\S+), (\S+)$", line)) for number, line in lines]
    return {(MISTAKES.name, number, mark[which]) for number, mark in marks if mark and mark[which] != "-"}


def by_mypy() -> Found:
    # With the project's own options and cache: `just check` has to know as much.
    command = [sys.executable, "-m", "mypy", "--output=json", *map(str, sorted(APP.glob("*.py")))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    errors = [each for each in found if each["severity"] == "error"]
    return {(Path(each["file"]).name, each["line"], each["code"]) for each in errors}


def by_pyright(folder: Path) -> Found:
    """As in a folder of the user's own, where triochan is an installed package that says ``py.typed``."""
    for file in APP.glob("*.py"):
        shutil.copy(file, folder)
    shutil.copytree(ROOT / "examples" / "quiz", folder / "quiz", ignore=shutil.ignore_patterns("__pycache__"))
    page = (ROOT / "docs" / "type-checking.md").read_text()
    (folder / "page.py").write_text(
        "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    )
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--outputjson",
        "--pythonpath",
        sys.executable,
        "-p",
        str(folder),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1, each["rule"])
        for each in found
        if each["rule"] != "reportUnknownMemberType"  # of what is not there nothing is known, it says as well
    }


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_every_mistake_is_found_and_nothing_else(checker: str, tmp_path: Path) -> None:
    check: Callable[[], Found] = by_mypy if checker == "mypy" else lambda: by_pyright(tmp_path)
    expected = marked(1 if checker == "mypy" else 2)
    assert len(expected) > 40
    assert check() == expected

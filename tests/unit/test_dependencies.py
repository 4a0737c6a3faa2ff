"""The lowest versions that are asked for."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import dependencies
import pytest
from dependencies import floors


def parts(text: str) -> list[int]:
    return [int(each) for each in text.split(".") if each.isdigit()]


def test_every_extra_says_floors_and_what_is_installed_is_not_below_them() -> None:
    asked = floors("dev", "examples", "sqlalchemy")
    assert len(asked) > 20
    for name, floor in asked.items():
        assert parts(version(name)) >= parts(floor), name


def test_a_dependency_without_a_floor_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["trio"]\n')
    monkeypatch.setattr(dependencies, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="not 'trio'"):
        floors()


def test_they_are_printed_as_pip_takes_them() -> None:
    command = [sys.executable, dependencies.__file__, "sqlalchemy"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert {f"{name}=={floor}" for name, floor in floors("sqlalchemy").items()} == set(run.stdout.split())

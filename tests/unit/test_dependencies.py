"""The lowest versions that are asked for, and the check of known vulnerabilities."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dependencies
import pytest
from dependencies import ROOT, Audit, audit, documented_floors, floors, main, tell


def parts(text: str) -> list[int]:
    return [int(each) for each in text.split(".") if each.isdigit()]


def test_the_documentation_says_the_floors_that_the_project_asks_for() -> None:
    assert documented_floors() == floors()


def test_every_extra_says_floors_and_what_is_installed_is_above_them() -> None:
    asked = floors("dev", "examples", "sqlalchemy")
    assert len(asked) > 20
    for name, floor in asked.items():
        assert parts(version(name)) >= parts(floor), name


@pytest.mark.parametrize(
    ("name", "least", "because"),
    [
        ("ujson", "5.13", "CVE-2026-32874 leaks large integers below 5.12, CVE-2026-54911 is mended in 5.13"),
        ("h11", "0.16", "CVE-2025-43859: chunks with other line ends"),
    ],
)
def test_no_floor_admits_a_version_that_something_is_known_against(
    name: str, least: str, because: str
) -> None:
    assert parts(floors()[name]) >= parts(least), because


def test_a_dependency_without_a_floor_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["trio"]\n')
    monkeypatch.setattr(dependencies, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="not 'trio'"):
        floors()


def test_the_floors_are_printed_as_pip_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["floors", "sqlalchemy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"ujson=={floors()['ujson']}" in lines
    assert f"sqlalchemy=={floors('sqlalchemy')['sqlalchemy']}" in lines


def saying(answer: Any, status: int = 0, error: str = "") -> list[str]:
    """A command that answers so."""
    text = answer if isinstance(answer, str) else json.dumps({"dependencies": answer, "fixes": []})
    code = f"import sys; print({text!r}); print({error!r}, file=sys.stderr); sys.exit({status})"
    return [sys.executable, "-c", code]


FINE = {"name": "trio", "version": "0.35", "vulns": []}
SKIPPED = {
    "name": "ujson",
    "skip_reason": "Dependency not found on PyPI and could not be audited: ujson (6.1.0)",
}
KNOWN = {
    "name": "ujson",
    "version": "5.10.0",
    "vulns": [
        {"id": "CVE-2026-32874", "fix_versions": ["5.12.0"]},
        {"id": "CVE-2026-54911", "fix_versions": []},
    ],
}


class TestAudit:
    def test_all_is_well(self, capsys: pytest.CaptureFixture[str]) -> None:
        found = audit(saying([FINE, {"name": "triochan", "skip_reason": "distribution marked as editable"}]))
        assert found == Audit([], "")
        assert tell(found, require=True) == 0
        assert capsys.readouterr().out == "known vulnerabilities: none\n"

    def test_what_is_known_fails(self, capsys: pytest.CaptureFixture[str]) -> None:
        found = audit(saying([FINE, KNOWN], 1))
        assert tell(found, require=False) == 1
        assert capsys.readouterr().out.splitlines() == [
            "known vulnerability: ujson 5.10.0: CVE-2026-32874, mended in 5.12.0",
            "known vulnerability: ujson 5.10.0: CVE-2026-54911, not mended yet",
        ]

    def test_what_is_known_fails_though_others_were_not_checked(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = {"name": "attrs", "skip_reason": "not found"}
        assert tell(audit(saying([FINE, KNOWN, other], 1)), require=False) == 1
        assert "NOT CHECKED: no answer for 1 packages: attrs" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("command", "reason"),
        [
            (saying([SKIPPED]), "knows none of the packages"),
            (saying([]), "knows none of the packages"),
            (saying([FINE, SKIPPED]), "no answer for 1 packages: ujson"),
            (saying("", 1, "ConnectionError: no such host"), "gave no answer: ConnectionError: no such host"),
            (saying("[]"), "gave no answer"),
            (saying("", 1), "nothing was said"),
            ([sys.executable, "-c", "import time; time.sleep(60)"], "within 0.5 s"),
            (["/there/is/no/such/program"], "can't be run"),
        ],
    )
    def test_an_outage_is_said_and_is_no_green_light(
        self, command: list[str], reason: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = audit(command, 0.5 if "time" in command[-1] else 20)
        assert reason in found.unchecked
        assert (tell(found, require=False), tell(found, require=True)) == (0, 2)
        told = capsys.readouterr()
        assert "none" not in told.out
        assert told.err.count("NOT CHECKED") == 2

    def test_it_is_pip_audit_that_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[list[str]] = []

        def note(command: list[str]) -> Audit:
            asked.append(command)
            return Audit([], "")

        monkeypatch.setattr(dependencies, "audit", note)
        assert main(["audit"]) == 0
        [[_, *command]] = asked
        assert command[:2] == ["-m", "pip_audit"]


def test_the_checks_audit() -> None:
    recipe = (ROOT / "justfile").read_text()
    assert "\n    {{python}} tests/support/dependencies.py audit" in recipe

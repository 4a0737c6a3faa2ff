"""The check of known vulnerabilities: what it fails for, and what it says when nobody answers. No network is needed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from audit import EXTRAS, FOR_USERS, Outcome, audit, declared, installed, main, oldest
from packaging.requirements import Requirement

LEAK = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["5.12"], "description": "leaks"}
SKIPPED = {"skip_reason": "Dependency not found and could not be audited: b (2)"}

ANSWERING = """
import json, pathlib, sys
answers = json.loads(sys.argv[1])
service = sys.argv[sys.argv.index("--vulnerability-service") + 1]
pins = pathlib.Path(sys.argv[-1]).read_text().split()
known = answers.get(service, answers.get("*"))
if isinstance(known, str):
    sys.exit(known)
said = []
for pin in pins:
    name, _, version = pin.partition("==")
    entry = known.get(name, known.get("*"))
    if entry is not None:
        said.append({"name": name, **({"version": version, "vulns": entry} if isinstance(entry, list) else entry)})
print(json.dumps({"dependencies": said, "fixes": []}))
sys.exit(any("vulns" in each and each["vulns"] for each in said))
"""


def answering(answers: dict[str, object]) -> list[str]:
    """A pip-audit that answers so, by service and package: a list of vulnerabilities, or what else stands there."""
    return [sys.executable, "-c", ANSWERING, json.dumps(answers)]


def test_no_known_vulnerability() -> None:
    command = answering({"pypi": {"*": []}})
    assert audit(["a==1", "b==2"], command) == Outcome(["a==1", "b==2"], {}, {})


def test_a_vulnerability_is_told_with_where_it_is_mended() -> None:
    outcome = audit(["a==1", "b==2"], answering({"pypi": {"a": [LEAK], "b": []}}))
    assert outcome == Outcome(["b==2"], {"a==1": ["PYSEC-1, CVE-1, mended in 5.12"]}, {})


def test_a_vulnerability_that_nobody_has_mended() -> None:
    outcome = audit(["a==1"], answering({"pypi": {"a": [{"id": "X-1", "aliases": [], "fix_versions": []}]}}))
    assert outcome.vulnerable == {"a==1": ["X-1, mended in no version"]}


def test_what_one_service_does_not_know_another_one_is_asked() -> None:
    command = answering({"pypi": {"a": [], "b": SKIPPED}, "osv": {"b": [LEAK], "a": [LEAK]}})
    outcome = audit(["a==1", "b==2"], command)
    assert (outcome.clean, list(outcome.vulnerable), outcome.unchecked) == (["a==1"], ["b==2"], {})


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("ConnectionError: no route", "pypi: status 1, ConnectionError: no route"),
        ({"*": SKIPPED}, f"pypi: {SKIPPED['skip_reason']}"),
        ({}, "pypi: not in the answer"),
    ],
    ids=["no service", "all of it skipped, with status 0", "all of it left out, with status 0"],
)
def test_what_nobody_answers_for_is_not_taken_for_clean(answer: object, reason: str) -> None:
    outcome = audit(["b==2"], answering({"*": answer}))
    assert outcome.clean == []
    assert outcome.vulnerable == {}
    assert outcome.unchecked["b==2"].startswith(f"{reason}; osv: ")


@pytest.mark.parametrize("output", ["", "[]", "null", '{"dependencies": [{}]}', "<html>"])
def test_an_answer_that_is_none_is_not_taken_for_clean(output: str) -> None:
    outcome = audit(["a==1"], [sys.executable, "-c", f"print({output!r})"])
    assert outcome.clean == []
    assert list(outcome.unchecked) == ["a==1"]


def test_a_service_that_never_answers_is_left_in_time() -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(100)"]
    outcome = audit(["a==1"], sleeping, seconds=0.2)
    assert outcome.unchecked == {"a==1": "pypi: no answer within 0.2 s; osv: no answer within 0.2 s"}


def test_a_tool_that_is_not_there_is_named() -> None:
    outcome = audit(["a==1"], [sys.executable, "-m", "no_such_tool"])
    assert "No module named no_such_tool" in outcome.unchecked["a==1"]


@pytest.mark.parametrize(
    ("answer", "options", "status", "says"),
    [
        ({"*": []}, [], 0, "checked without a known vulnerability"),
        ({"*": [], "ujson": [LEAK]}, [], 1, r"ujson==[\d.]+ has a known vulnerability: PYSEC-1, CVE-1"),
        ("offline", [], 0, r"not checked: .*attrs==.*\(pypi: status 1, offline; osv: status 1, offline\)"),
        ("offline", ["--strict"], 1, "0 packages checked without"),
        ({"*": [], "h11": {"skip_reason": "unknown: h11 (0.16)"}}, ["--strict"], 1, r"not checked: h11=="),
    ],
)
def test_status_and_words(
    answer: object, options: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options, answering({"*": answer})) == status
    told = capsys.readouterr().out
    for what in ("oldest versions", "installed"):
        assert re.search(rf"^{what}: .*{says}", told, re.MULTILINE), told


def test_the_oldest_versions_of_what_users_run() -> None:
    pins = oldest(declared(FOR_USERS))
    assert {"ujson==5.13", "h11==0.16", "sqlalchemy==2.0.22"} <= set(pins)
    assert len(pins) == len(declared(FOR_USERS))


@pytest.mark.parametrize("asked", ["a", "a<2", "a!=1"])
def test_a_dependency_without_an_oldest_version_is_an_error(asked: str) -> None:
    with pytest.raises(ValueError, match=r"expected one lowest version, as in a>=1\.0, and got 'a"):
        oldest([Requirement(asked)])


def test_what_is_installed_is_looked_at_with_what_it_brings() -> None:
    names = {pin.partition("==")[0] for pin in installed(declared(EXTRAS))}
    assert {"ujson", "trio", "wsproto", "outcome", "pytest", "urllib3"} <= names
    assert {"wsproto", "outcome"} & {each.name for each in declared(EXTRAS)} == set()
    assert installed([Requirement("no-such-package>=1")]) == []


def test_what_comes_with_the_python_is_left_out() -> None:
    """An environment that an older Python made has an older pip, which pip-audit's packages ask for."""
    assert not any(pin.startswith("pip==") for pin in installed([Requirement("pip-api"), Requirement("pip")]))


def test_extras_are_read_where_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(
        '[project]\ndependencies = ["a>=1"]\n[project.optional-dependencies]\nx = ["b>=2"]\ny = ["c>=3"]\n'
    )
    assert [str(each) for each in declared(["y"], file)] == ["a>=1", "c>=3"]

"""What this project asks of its dependencies, and what is known against those that are installed.

    python tests/support/dependencies.py floors [extra …]     # the lowest versions that are allowed, as pip takes them
    python tests/support/dependencies.py audit [--require]    # known vulnerabilities of what is installed here

``audit`` asks the vulnerability service behind pip-audit, for a bounded time. It ends with status 1 where something is
known against a package, and says "NOT CHECKED" where the service gave no answer, or none for some package: with
``--require`` the status is 2 then.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "dependencies.md"
SECONDS = 60
"""That the service may take in all."""
_ASKED = re.compile(r"([A-Za-z0-9._-]+)>=([0-9.]+)(?:,<([0-9.]+))?\Z")
_ROW = re.compile(r"^\| \[([a-z0-9-]+)\]\([^)]*\) \| ([0-9.]+) \|", re.MULTILINE)


def floors(*extras: str) -> dict[str, str]:
    """The lowest version of each package that triochan runs with, and that these extras ask for.

    Raises:
        ValueError: a dependency that says no lowest version.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = list(project["dependencies"])
    for extra in extras:
        asked += project["optional-dependencies"][extra]
    found: dict[str, str] = {}
    for each in asked:
        parts = _ASKED.match(each)
        if parts is None:
            raise ValueError(f"a dependency is 'name>=version' or 'name>=version,<version', not {each!r}")
        found[parts[1]] = parts[2]
    return found


def documented_floors() -> dict[str, str]:
    """The same for what triochan runs with, as docs/dependencies.md has it."""
    return dict(_ROW.findall(PAGE.read_text()))


class Audit(NamedTuple):
    """What came of asking.

    Attributes:
        known: a line for each vulnerability.
        unchecked: why something was not checked; empty where all of it was.
    """

    known: list[str]
    unchecked: str


def audit(command: list[str], seconds: float = SECONDS) -> Audit:
    """Ask what is known against what is installed.

    Args:
        command: pip-audit's, which writes JSON to its standard output.
    """
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return Audit([], f"the vulnerability service gave no answer within {seconds:g} s")
    except OSError as error:
        return Audit([], f"pip-audit can't be run: {error}")
    try:
        packages: list[dict[str, Any]] = json.loads(run.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        said = [line for line in run.stderr.splitlines() if line.strip()]
        return Audit(
            [], f"the vulnerability service gave no answer: {said[-1] if said else 'nothing was said'}"
        )
    known = [
        f"{each['name']} {each['version']}: {found['id']}"
        + (f", mended in {', '.join(found['fix_versions'])}" if found["fix_versions"] else ", not mended yet")
        for each in packages
        for found in each.get("vulns", [])
    ]
    skipped = [each["name"] for each in packages if "skip_reason" in each and each["name"] != "triochan"]
    checked = [each["name"] for each in packages if "vulns" in each]
    if not checked:
        return Audit(known, "the vulnerability service knows none of the packages, or is not what answered")
    if skipped:
        return Audit(known, f"no answer for {len(skipped)} packages: {', '.join(skipped[:10])}")
    return Audit(known, "")


def tell(found: Audit, require: bool) -> int:
    """Print it; the exit status."""
    for line in found.known:
        print(f"known vulnerability: {line}")
    if found.unchecked:
        print(f"known vulnerabilities: NOT CHECKED: {found.unchecked}", file=sys.stderr)
    elif not found.known:
        print("known vulnerabilities: none")
    if found.known:
        return 1
    return 2 if found.unchecked and require else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("floors").add_argument("extras", nargs="*")
    commands.add_parser("audit").add_argument("--require", action="store_true")
    options = parser.parse_args(arguments)
    if options.command == "floors":
        print(*(f"{name}=={version}" for name, version in floors(*options.extras).items()), sep="\n")
        return 0
    command = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--format=json"]
    command += ["--timeout=10", "--progress-spinner=off"]
    return tell(audit(command), options.require)


if __name__ == "__main__":
    sys.exit(main())

"""Known vulnerabilities, in what is installed and in the oldest versions that ``pyproject.toml`` admits: by pip-audit.

    python tests/support/audit.py            exit with 1 where there is one
    python tests/support/audit.py --strict   also where something could not be checked

pip-audit asks services on the Internet. A package that none of them answers for is named behind "not checked:", and the
check goes on: without a network nothing is known, neither that there is a vulnerability nor that there is none.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SERVICES = ("pypi", "osv")
"""Whom pip-audit asks: the second one for what the first one has no answer for."""
SECONDS = 60.0
"""How long one service may take for all that it is asked."""
COMMAND = (sys.executable, "-m", "pip_audit")
EXTRAS = ("dev", "examples", "sqlalchemy")
"""Those whose packages are looked at as they are installed."""
FOR_USERS = ("sqlalchemy",)
"""Those whose oldest versions are looked at, beside the dependencies: a user's program runs on these."""


NAMED = 10
"""How many packages one line names."""
INSTALLERS = {"pip", "setuptools", "wheel"}
"""Left out: they come with the Python that made the environment, whatever this project asks for."""


class Outcome(NamedTuple):
    """What is known of some packages, each of them written ``name==version``.

    Attributes:
        clean: those of which a service knows no vulnerability.
        vulnerable: the others that a service knows, each with one line a vulnerability.
        unchecked: those that no service has an answer for, each with the reasons.
    """

    clean: list[str]
    vulnerable: dict[str, list[str]]
    unchecked: dict[str, str]


def declared(extras: Iterable[str], path: Path = ROOT / "pyproject.toml") -> list[Requirement]:
    """What the project asks for: its dependencies, and those of the extras."""
    project = tomllib.loads(path.read_text())["project"]
    asked = [
        *project["dependencies"],
        *(each for extra in extras for each in project["optional-dependencies"][extra]),
    ]
    return [Requirement(each) for each in asked]


def oldest(asked: Iterable[Requirement]) -> list[str]:
    """The lowest version of each that is admitted.

    Raises:
        ValueError: one without a lowest version admits every vulnerable one.
    """
    pins = set()
    for requirement in asked:
        versions = [each.version for each in requirement.specifier if each.operator in (">=", "==", "~=")]
        if len(versions) != 1:
            raise ValueError(
                f"expected one lowest version, as in {requirement.name}>=1.0, and got {str(requirement)!r}"
            )
        pins.add(f"{canonicalize_name(requirement.name)}=={versions[0]}")
    return sorted(pins)


def installed(asked: Iterable[Requirement]) -> list[str]:
    """What is installed of these, and of what they ask for in their turn."""
    found: dict[str, str] = {}
    ahead = list(asked)
    seen = set()
    while ahead:
        requirement = ahead.pop()
        if canonicalize_name(requirement.name) in INSTALLERS:
            continue
        if (key := (canonicalize_name(requirement.name), frozenset(requirement.extras))) in seen:
            continue
        seen.add(key)
        try:
            package = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError:
            continue  # for another platform, or another Python
        found[key[0]] = package.version
        for each in map(Requirement, package.requires or ()):
            chosen = requirement.extras or {""}
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in chosen):
                ahead.append(each)
    return sorted(f"{name}=={version}" for name, version in found.items())


def audit(
    pins: Sequence[str],
    command: Sequence[str] = COMMAND,
    services: Sequence[str] = SERVICES,
    seconds: float = SECONDS,
) -> Outcome:
    """Ask one service after the other for what is not known yet.

    Args:
        pins: what to ask for, each of them ``name==version``.
        command: pip-audit, or what answers as it does.
        services: the names that ``--vulnerability-service`` takes.
        seconds: how long each service may take; then it is ended, and has said nothing.
    """
    clean: list[str] = []
    vulnerable: dict[str, list[str]] = {}
    reasons: dict[str, list[str]] = {pin: [] for pin in pins}
    for service in services:
        ahead = [pin for pin in pins if pin in reasons]
        if not ahead:
            break
        known, why_not = _ask(ahead, command, service, seconds)
        for pin in ahead:
            entry = known.get(pin.partition("==")[0], {})
            if "vulns" not in entry:
                reasons[pin].append(f"{service}: {entry.get('skip_reason') or why_not}")
                continue
            del reasons[pin]
            if entry["vulns"]:
                vulnerable[pin] = [_line(each) for each in entry["vulns"]]
            else:
                clean.append(pin)
    return Outcome(clean, vulnerable, {pin: "; ".join(each) for pin, each in reasons.items()})


def _ask(
    pins: Sequence[str], command: Sequence[str], service: str, seconds: float
) -> tuple[dict[str, dict[str, Any]], str]:
    """What pip-audit says of each package, by its name; and why it says nothing of one that is not there."""
    with tempfile.TemporaryDirectory(prefix="audit-") as folder:
        wanted = Path(folder) / "pins.txt"
        wanted.write_text("".join(f"{pin}\n" for pin in pins))
        options = ["--vulnerability-service", service, "--timeout", "10", "--format", "json"]
        options += ["--progress-spinner", "off", "--disable-pip", "--no-deps", "--requirement", str(wanted)]
        try:
            run = subprocess.run(
                [*command, *options],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=seconds,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {}, f"no answer within {seconds:g} s"
    try:
        entries = json.loads(run.stdout)["dependencies"]
        return {canonicalize_name(each["name"]): each for each in entries}, "not in the answer"
    except (ValueError, KeyError, TypeError):  # it has said on stderr what went wrong, in its last line
        lines = run.stderr.strip().splitlines() or run.stdout.strip().splitlines() or ["it said nothing"]
        return {}, f"status {run.returncode}, {lines[-1][:300]}"


def _line(vulnerability: dict[str, Any]) -> str:
    names = [vulnerability["id"], *(vulnerability.get("aliases") or [])]
    mended = vulnerability.get("fix_versions") or ["no version"]
    return f"{', '.join(map(str, names))}, mended in {', '.join(map(str, mended))}"


def tell(what: str, outcome: Outcome) -> None:
    """Print what is known."""
    for pin, lines in outcome.vulnerable.items():
        for line in lines:
            print(f"{what}: {pin} has a known vulnerability: {line}")
    print(f"{what}: {len(outcome.clean)} packages checked without a known vulnerability")
    by_reason: dict[str, list[str]] = {}
    for pin, reason in outcome.unchecked.items():
        name, _, version = pin.partition("==")
        general = re.sub(rf"(?i)\s*:?\s*{re.escape(name)} \({re.escape(version)}\)", "", reason)
        by_reason.setdefault(general, []).append(pin)
    for reason, pins in by_reason.items():
        named = ", ".join(pins[:NAMED]) + (f" and {len(pins) - NAMED} more" if len(pins) > NAMED else "")
        print(f"{what}: not checked: {named} ({reason})")


def main(arguments: Sequence[str], command: Sequence[str] = COMMAND, seconds: float = SECONDS) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--strict", action="store_true", help="fail where something could not be checked")
    options = parser.parse_args(arguments)
    parts = {
        "oldest versions": oldest(declared(FOR_USERS)),
        "installed": installed(declared(EXTRAS)),
    }
    status = 0
    for what, pins in parts.items():
        outcome = audit(pins, command, SERVICES, seconds)
        tell(what, outcome)
        if outcome.vulnerable or (options.strict and outcome.unchecked):
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Are there known vulnerabilities in what is installed? pip-audit is asked, and what it could not find out is said.

    python tests/support/audit.py

Exit status 1 where there is one, with its name and the version that mends it. A vulnerability service that can't be
reached breaks nothing, but makes no green of it either: "not checked", with the reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

SECONDS = 90
COMMAND = [
    sys.executable,
    "-m",
    "pip_audit",
    "--format",
    "json",
    "--progress-spinner",
    "off",
    "--skip-editable",
]


def audit(command: Sequence[str] = COMMAND, seconds: float = SECONDS) -> tuple[int, str]:
    """The exit status, and what there is to say.

    Args:
        command: pip-audit, with JSON as its output.
        seconds: that it may take.
    """
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        said: Any = json.loads(ended.stdout)
        packages = said["dependencies"]
    except subprocess.TimeoutExpired:
        return 0, f"known vulnerabilities: not checked: no answer within {seconds:g} s"
    except (OSError, ValueError, KeyError, TypeError):
        reason = (
            (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
            if "ended" in locals()
            else "no pip-audit"
        )
        return 0, f"known vulnerabilities: not checked: {reason:.200}"
    found = [
        f"{package['name']} {package['version']}: {each['id']}, mended in "
        f"{', '.join(each['fix_versions']) or 'no version yet'}"
        for package in packages
        for each in package.get("vulns", ())
    ]
    if found:
        return 1, "\n".join(["known vulnerabilities:", *found])
    skipped = [package for package in packages if "skip_reason" in package]
    checked = len(packages) - len(skipped)
    if not checked:
        reason = skipped[0]["skip_reason"] if skipped else "there are no packages"
        return 0, f"known vulnerabilities: not checked: {reason}"
    rest = f"; {len(skipped)} could not be checked" if skipped else ""
    return 0, f"known vulnerabilities: none in {checked} packages{rest}"


if __name__ == "__main__":
    status, text = audit()
    print(text, file=sys.stderr if status else sys.stdout)
    raise SystemExit(status)

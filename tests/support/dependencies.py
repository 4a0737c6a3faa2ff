"""The lowest versions of its dependencies that this project allows.

python tests/support/dependencies.py [extra …]     # as pip takes them: name==version
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_ASKED = re.compile(r"([A-Za-z0-9._-]+)(?:\[[a-z0-9,-]+\])?>=([0-9.]+)(?:,<([0-9.]+))?\Z")


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


if __name__ == "__main__":
    print(*(f"{name}=={version}" for name, version in floors(*sys.argv[1:]).items()), sep="\n")

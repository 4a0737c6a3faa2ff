"""What is known of vulnerabilities, and what could not be found out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from audit import audit

ROOT = Path(__file__).parents[2]


def saying(said: Any, *, stderr: str = "", seconds: float = 0) -> list[str]:
    text = said if isinstance(said, str) else json.dumps(said)
    program = (
        f"import sys, time; time.sleep({seconds}); sys.stdout.write({text!r}); sys.stderr.write({stderr!r})"
    )
    return [sys.executable, "-c", program]


BAD = {"name": "ujson", "version": "5.10", "vulns": [{"id": "CVE-2026-32874", "fix_versions": ["5.12.0"]}]}
GOOD = {"name": "trio", "version": "0.30", "vulns": []}
SKIPPED = {"name": "triochan", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        (saying({"dependencies": [GOOD, BAD]}), 1, "ujson 5.10: CVE-2026-32874, mended in 5.12.0"),
        (
            saying({"dependencies": [{**BAD, "vulns": [{"id": "X", "fix_versions": []}]}]}),
            1,
            "mended in no version yet",
        ),
        (saying({"dependencies": [GOOD, GOOD]}), 0, "none in 2 packages"),
        (saying({"dependencies": [GOOD, SKIPPED]}), 0, "none in 1 packages; 1 could not be checked"),
        (saying({"dependencies": [SKIPPED]}), 0, "not checked: not found"),
        (saying({"dependencies": []}), 0, "not checked: there are no packages"),
        (saying("", stderr="connecting\nno route to host\n"), 0, "not checked: no route to host"),
        (saying("[]"), 0, "not checked: it said nothing"),
        (saying({}, seconds=30), 0, "not checked: no answer within 1 s"),
        (["/nowhere/at/all"], 0, "not checked: no pip-audit"),
    ],
)
def test_what_is_said(command: list[str], status: int, says: str) -> None:
    found, text = audit(command, 1 if "30" in command[-1] else 30)
    assert found == status
    assert says in text

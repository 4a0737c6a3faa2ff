"""The chaos run, in short: ``just chaos`` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "chaos" / "run.py"


@pytest.mark.slow
def test_a_little_chaos() -> None:
    command = [sys.executable, str(RUN), "--seconds", "5", "--seed", "1", "--troublemakers", "60"]
    command += ["--costs", "0.05"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    assert run.stdout.endswith("not one violation\n")
    told = {
        name.rstrip(): value for name, _, value in (line.rpartition(" ") for line in run.stdout.splitlines())
    }
    assert int(told["drains"]) >= 1
    assert int(told["echoes owed when a drain began"]) >= 1
    assert len([name for name in told if name.startswith("cost of ")]) > 15

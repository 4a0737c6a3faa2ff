"""The chaos runs, in short: ``just chaos`` and ``just chaos --processes 2`` are the long ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from engines import valkey_server

RUN = Path(__file__).parents[1] / "chaos" / "run.py"


def run_chaos(*options: str) -> dict[str, int]:
    """What it has counted; it has found nothing."""
    command = [sys.executable, str(RUN), "--seed", "1", *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    assert run.stdout.endswith("not one violation\n")
    lines = (line.rpartition(" ") for line in run.stdout.splitlines() if "  " in line)
    return {
        name.rstrip(): int(value.replace(",", ""))
        for name, _, value in lines
        if value.replace(",", "").isdecimal()
    }


@pytest.mark.slow
def test_a_little_chaos() -> None:
    told = run_chaos("--seconds", "5", "--troublemakers", "60", "--costs", "0.05")
    assert told["drains"] >= 1
    assert told["echoes owed when a drain began"] >= 1
    assert len([name for name in told if name.startswith("cost of ")]) > 15


@pytest.mark.slow
@pytest.mark.engine
def test_a_little_chaos_on_an_engine_that_is_killed() -> None:
    valkey_server()
    told = run_chaos("--processes", "2", "--seconds", "2", "--period", "3", "--troublemakers", "5")
    assert told["outages: the engine was killed"] == 1
    assert told["gaps expected of sockets"] > 5
    assert told["deliveries checked, from another process"] > 50
    assert told["commands answered LayerUnavailable"] > 5
    assert told["durable jobs acknowledged, and done"] > 20

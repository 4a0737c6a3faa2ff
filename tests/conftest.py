"""What all tests share. Markers and the folders that tests import from are pyproject.toml's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Some hundred processes are started: each of them is to find the package compiled, not to compile it.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    os.environ.setdefault(
        "PYTHONPYCACHEPREFIX", str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
    )

# How long an example takes is up to the machine; what is to be fast is measured by tests of its own.
settings.register_profile(
    "any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

# Suites and helpers whose failing assertions are to show their values, as those of test modules do.
pytest.register_assert_rewrite(
    "browsers", "raw_clients", "recorder", "served", "session_stores", "triochan.test.layers", "ways_out"
)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite is run by a process for each processor and one more, for many tests wait for a clock or another
    process: on two cores that takes 150 s instead of 230. Coverage leaves them less time to wait. What is named is run
    by the process that was asked."""
    if config.args_source != pytest.Config.ArgsSource.TESTPATHS:
        return 0
    return min(len(os.sched_getaffinity(0)) + (not config.getoption("cov_source", None)), 8)

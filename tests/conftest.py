"""What all tests share. Markers and the folders that tests import from are pyproject.toml's."""

from __future__ import annotations

import os

import pytest

# Suites and helpers whose failing assertions are to show their values, as those of test modules do.
pytest.register_assert_rewrite(
    "browsers", "layers", "raw_clients", "recorder", "served", "session_stores", "ways_out"
)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite is run by a process for each processor; what is named, by the one that was asked."""
    if config.args_source != pytest.Config.ArgsSource.TESTPATHS:
        return 0
    return min(len(os.sched_getaffinity(0)), 8)

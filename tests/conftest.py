"""What all tests share. Markers and the folders that tests import from are pyproject.toml's."""

from __future__ import annotations

import pytest

# Suites and helpers whose failing assertions are to show their values, as those of test modules do.
pytest.register_assert_rewrite(
    "browsers", "layers", "raw_clients", "recorder", "served", "session_stores", "ways_out"
)

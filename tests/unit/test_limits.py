"""The page of limits says what the defaults are, and names tests that there are."""

from __future__ import annotations

from pathlib import Path

import attrs
import limits
import pytest

from triochan import Settings

TESTS = Path(__file__).parents[1]
NO_LIMIT = {
    "compression",
    "compression_threshold",
    "worker_tasks",
    "channel_attempts",
    "channel_retry",
    "channel_lease",
    "drain_spread",
    "shutdown_timeout",
    "block_warning",
}
"""Settings that bound nothing that a client may do."""


def test_the_page_is_not_stale() -> None:
    assert limits.PAGE.read_text() == limits.render(), "run `just limits`"


@pytest.mark.parametrize("test", sorted({test for row in limits.rows() for test in row.tests}))
def test_a_test_that_is_named_is_there(test: str) -> None:
    module, _, name = test.partition("::")
    found = set(limits.tests_in(TESTS / module))
    assert (name in found) if name else found


def test_every_setting_that_bounds_a_client_is_named() -> None:
    page = limits.PAGE.read_text()
    missing = {each.name for each in attrs.fields(Settings) if f"`{each.name}`" not in page}
    assert missing == NO_LIMIT

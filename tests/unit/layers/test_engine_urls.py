"""URLs of engines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triochan.layers.engine_urls import without_password


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://ann@localhost", "redis://ann@localhost"),
        ("redis://ann:hush@localhost:6379/0", "redis://ann:***@localhost:6379/0"),
        ("rediss://:hush@[::1]:6379", "rediss://:***@[::1]:6379"),
        ("redis://:hu/sh@h", "redis://:***@h"),  # these are to be written with %, and not everybody does
        ("redis://:hu#sh@h", "redis://:***@h"),
        ("redis://:hu?sh@h", "redis://:***@h"),
        ("redis://:hu@sh@h", "redis://:***@h"),
        ("redis://:hu://sh@h", "redis://:***@h"),
        ("redis:/:hush@h", "redis:***@h"),
        ("unix:///run/a@b.sock", "unix:///run/a@b.sock"),
        ("unix:///run/x.sock?db=1&password=hush", "unix:///run/x.sock?db=1&password=***"),
        ("redis://h?PASSWORD=hush&db=1", "redis://h?PASSWORD=***&db=1"),
        ("memory://", "memory://"),
        ("", ""),
    ],
)
def test_a_password_is_masked(url: str, shown: str) -> None:
    assert without_password(url) == shown


@given(st.text(min_size=1).filter(lambda text: text not in "redis://ann:***@h"))
def test_whatever_the_password_is(password: str) -> None:
    assert password not in without_password(f"redis://ann:{password}@h")

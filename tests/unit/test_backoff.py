"""When what has ended is started again."""

from __future__ import annotations

import pytest

from triochan.backoff import Backoff, how_it_ended


@pytest.mark.parametrize(
    ("ran", "waited"),
    [
        ([0] * 8, [1, 2, 4, 8, 16, 30, 30, 30]),
        ([59, 59, 60, 0], [1, 2, 1, 2]),  # who has run for a minute begins at the first again
        ([3600, 3600], [1, 1]),
        ([0, 0, 0, 0, 0, 0, 61], [1, 2, 4, 8, 16, 30, 1]),
    ],
)
def test_each_end_that_comes_soon_doubles_the_wait(ran: list[float], waited: list[float]) -> None:
    backoff = Backoff()
    assert [backoff.after(each) for each in ran] == waited


def test_other_times() -> None:
    backoff = Backoff(first=0.1, most=0.3, calm=5)
    assert [backoff.after(each) for each in (0, 4.9, 4.9, 5)] == pytest.approx([0.1, 0.2, 0.3, 0.1])


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (0, "exit status 0"),
        (3, "exit status 3"),
        (-9, "signal SIGKILL"),
        (-11, "signal SIGSEGV"),
        (-99, "signal 99"),
    ],
)
def test_an_end_is_told(status: int, said: str) -> None:
    assert how_it_ended(status) == said

"""Requests that go together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from triochan.exceptions import LayerUnavailable
from triochan.layers.redis.joining import Joined


class Asked:
    """Answers a second later."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.error: BaseException | None = None
        self.joined = Joined(self.ask, most=4, weight=10)
        self.answers: dict[int, int | str] = {}

    async def ask(self, requests: Sequence[int]) -> list[int]:
        self.batches.append(list(requests))
        await trio.sleep(1)
        if self.error is not None:
            raise self.error
        return [-each for each in requests]

    async def one(self, number: int, weight: int = 1) -> None:
        try:
            self.answers[number] = await self.joined(number, weight)
        except LayerUnavailable as error:
            self.answers[number] = str(error)


async def test_what_comes_meanwhile_goes_next_together(autojump_clock: MockClock) -> None:
    asked = Asked()
    async with trio.open_nursery() as nursery:
        for number in range(7):
            nursery.start_soon(asked.one, number)
            await wait_all_tasks_blocked()
    assert asked.batches == [[0], [1, 2, 3, 4], [5, 6]]
    assert asked.answers == {number: -number for number in range(7)}
    await asked.one(7)
    assert asked.batches[-1] == [7]


async def test_what_is_heavy_goes_with_less(autojump_clock: MockClock) -> None:
    asked = Asked()
    async with trio.open_nursery() as nursery:
        for number, weight in enumerate((1, 6, 4, 1, 50, 50, 1)):
            nursery.start_soon(asked.one, number, weight)
            await wait_all_tasks_blocked()
    assert asked.batches == [[0], [1, 2], [3], [4], [5], [6]]
    assert len(asked.answers) == 7


async def test_what_fails_fails_for_all_that_went_together(autojump_clock: MockClock) -> None:
    asked = Asked()
    asked.error = LayerUnavailable("gone")
    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(asked.one, number)
            await wait_all_tasks_blocked()
    assert asked.batches == [[0], [1, 2, 3]]
    assert asked.answers == dict.fromkeys(range(4), "gone")
    asked.error = None
    await asked.one(4)
    assert asked.answers[4] == -4


@pytest.mark.parametrize("cancelled", range(5))
async def test_whoever_is_cancelled_harms_nobody_else(autojump_clock: MockClock, cancelled: int) -> None:
    asked = Asked()
    scopes = [trio.CancelScope() for _ in range(5)]

    async def one(number: int) -> None:
        with scopes[number]:
            await asked.one(number)

    for seconds in (0.5, 1.0, 1.5):  # while the first asks; as it is answered; while the others do
        asked.answers.clear()
        scopes[:] = [trio.CancelScope() for _ in range(5)]
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(one, number)
                    await wait_all_tasks_blocked()
                await trio.sleep(seconds)
                scopes[cancelled].cancel()
        assert asked.answers.keys() >= set(range(5)) - {cancelled}
        assert all(answer == -number for number, answer in asked.answers.items())
    await asked.one(9)
    assert asked.answers[9] == -9


async def test_what_breaks_off_is_told_to_the_others(autojump_clock: MockClock) -> None:
    asked = Asked()
    raised: list[BaseException] = []

    async def first() -> None:
        try:
            await asked.joined(1, 1)
        except ZeroDivisionError as error:
            raised.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(asked.one, 0)
        await wait_all_tasks_blocked()
        nursery.start_soon(first)
        await wait_all_tasks_blocked()
        nursery.start_soon(asked.one, 2)
        await trio.sleep(1.5)
        asked.error = ZeroDivisionError()
    assert len(raised) == 1
    assert asked.answers == {0: 0, 2: "the task that asked was broken off"}

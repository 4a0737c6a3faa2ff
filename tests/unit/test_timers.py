"""One task for all that is due later, in virtual time."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from triochan import timers as module
from triochan.timers import Timer, Timers


@pytest.fixture
async def timers() -> AsyncIterator[Timers]:
    made = Timers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        yield made
        nursery.cancel_scope.cancel()


async def test_each_fires_once_when_it_is_due(autojump_clock: MockClock, timers: Timers) -> None:
    fired: list[tuple[str, float]] = []

    def fire(name: str) -> None:
        fired.append((name, trio.current_time()))

    three = timers.after(3, partial(fire, "three"))
    timers.at(1, partial(fire, "one"))
    timers.at(1, partial(fire, "one, set later"))
    two = timers.after(2, partial(fire, "two"))
    assert (two.due, two.pending, timers.pending) == (2, True, 4)
    await trio.sleep(2.5)
    assert fired == [("one", 1), ("one, set later", 1), ("two", 2)]
    assert [each.pending for each in (two, three)] == [False, True]
    await trio.sleep(5)
    assert fired[3:] == [("three", 3)]
    assert timers.pending == 0


async def test_one_may_be_set_before_those_that_are_waited_for(
    autojump_clock: MockClock, timers: Timers
) -> None:
    fired: list[int] = []
    timers.after(10, partial(fired.append, 10))
    await wait_all_tasks_blocked()
    timers.after(1, partial(fired.append, 1))
    timers.after(0, partial(fired.append, 0))
    timers.at(-5, partial(fired.append, -5))
    await wait_all_tasks_blocked()
    assert fired == [-5, 0]
    await trio.sleep(1.5)
    assert fired == [-5, 0, 1]


async def test_one_that_is_called_off_does_not_fire(autojump_clock: MockClock, timers: Timers) -> None:
    fired: list[int] = []
    each = [timers.after(number, partial(fired.append, number)) for number in (1, 2, 3)]
    each[1].cancel()
    each[1].cancel()
    assert (each[1].pending, timers.pending) == (False, 2)
    await trio.sleep(5)
    assert fired == [1, 3]
    each[0].cancel()  # it has fired
    assert timers.pending == 0


async def test_one_may_set_and_call_off_others(autojump_clock: MockClock, timers: Timers) -> None:
    fired: list[str] = []
    doomed = timers.after(1, partial(fired.append, "doomed"))

    def fire() -> None:
        fired.append("first")
        doomed.cancel()
        timers.after(0, partial(fired.append, "at once"))
        timers.after(1, partial(fired.append, "later"))

    timers.at(0.5, fire)
    await trio.sleep(0.6)
    assert fired == ["first", "at once"]
    await trio.sleep(5)
    assert fired == ["first", "at once", "later"]


async def test_one_that_raises_stops_no_other(
    autojump_clock: MockClock, timers: Timers, caplog: pytest.LogCaptureFixture
) -> None:
    fired: list[int] = []

    def crash() -> None:
        raise RuntimeError("on purpose")

    timers.after(1, crash)
    timers.after(1, partial(fired.append, 1))
    await trio.sleep(2)
    assert fired == [1]
    [record] = caplog.records
    assert (record.name, record.levelno) == ("triochan.server", logging.ERROR)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], RuntimeError)


async def test_what_is_called_off_does_not_pile_up(
    autojump_clock: MockClock, timers: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SWEEP", 10)
    fired: list[int] = []
    for number in range(1000):
        timers.after(100 + number, partial(fired.append, -1)).cancel()
        if number % 100 == 0:
            timers.after(number, partial(fired.append, number))
        assert len(timers._heap) <= 30
    assert timers.pending == 10
    await trio.sleep(2000)
    assert fired == list(range(0, 1000, 100))
    assert timers._heap == []


Step = tuple[str, float]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("after"), st.floats(0, 10)),
            st.tuples(st.just("cancel"), st.integers(0, 30).map(float)),
            st.tuples(st.just("sleep"), st.floats(0.001, 5)),
        ),
        max_size=40,
    )
)
def test_any_sequence(steps: list[Step]) -> None:
    fired: list[int] = []
    expected: dict[int, float] = {}

    async def main() -> None:
        timers = Timers()
        made: list[Timer] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(timers.run)
            for what, value in steps:
                if what == "after":
                    number = len(made)
                    made.append(timers.after(value, partial(fired.append, number)))
                    expected[number] = made[-1].due
                elif what == "sleep":
                    await trio.sleep(value)
                    await wait_all_tasks_blocked()
                    assert all(
                        (made[each].due <= trio.current_time()) == (each in fired) for each in expected
                    )
                elif value < len(made):
                    timer = made[int(value)]
                    if timer.pending:
                        del expected[int(value)]
                    timer.cancel()
                assert timers.pending == len(set(expected) - set(fired))
            await trio.sleep(100)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert fired == sorted(expected, key=lambda number: (expected[number], number))

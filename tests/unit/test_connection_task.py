"""The one task of a connection: it waits, attends to what asks for it, and finishes however it ends."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio
from trio.testing import assert_no_checkpoints, wait_all_tasks_blocked

from triochan.connection_task import ConnectionTask


class Stage:
    """What a connection is, and what was done about it."""

    def __init__(self, task: ConnectionTask) -> None:
        self.log: list[str] = []
        self.over = False
        self.asks = False
        self.owes = True
        self.next: Stage | None = None
        self._task = task

    async def attend(self) -> None:
        self.asks = False
        self.log.append("attend")
        await trio.lowlevel.checkpoint()
        if self.next is not None:
            self._task.stage = self.next

    async def finish(self) -> None:
        self.log.append("finish, over" if self.over else "finish")
        await trio.lowlevel.checkpoint()
        self.log.append("finished")


@pytest.fixture
def task() -> ConnectionTask:
    made = ConnectionTask()
    made.stage = Stage(made)
    return made


async def test_it_sleeps_until_it_is_woken_for_the_end(task: ConnectionTask) -> None:
    stage = task.stage
    assert isinstance(stage, Stage)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task.live)
        await wait_all_tasks_blocked()
        task.wake()
        task.wake()
        await wait_all_tasks_blocked()
        assert stage.log == []
        stage.over = True
        await wait_all_tasks_blocked()
        assert stage.log == []  # nobody has said so
        task.wake()
    assert stage.log == ["finish, over", "finished"]
    assert not hasattr(task, "stage")


async def test_what_is_over_before_it_began(task: ConnectionTask) -> None:
    stage = task.stage
    assert isinstance(stage, Stage)
    stage.over = True
    await task.live()
    assert stage.log == ["finish, over", "finished"]


async def test_it_attends_to_what_asks(task: ConnectionTask) -> None:
    stage = task.stage
    assert isinstance(stage, Stage)
    stage.asks = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task.live)
        await wait_all_tasks_blocked()
        assert stage.log == ["attend"]
        stage.asks = True
        task.wake()
        await wait_all_tasks_blocked()
        assert stage.log == ["attend"] * 2
        stage.over = True
        task.wake()


async def test_a_connection_becomes_another_and_the_one_that_it_was_is_freed(task: ConnectionTask) -> None:
    stage, follower = task.stage, Stage(task)
    assert isinstance(stage, Stage)
    stage.next = follower
    log, freed = stage.log, weakref.ref(stage)
    stage.asks = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task.live)
        del stage
        await wait_all_tasks_blocked()
        gc.collect()
        assert freed() is None
        follower.over = True
        task.wake()
    assert log == ["attend"]
    assert follower.log == ["finish, over", "finished"]


@pytest.mark.parametrize("attends", [False, True])
async def test_a_cancellation_lets_it_finish(task: ConnectionTask, attends: bool) -> None:
    stage = task.stage
    assert isinstance(stage, Stage)
    stage.asks = attends
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task.live)
            if not attends:
                await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert stage.log[-2:] == ["finish", "finished"]


async def test_what_owes_nothing_finishes_without_a_scope(task: ConnectionTask) -> None:
    stage = task.stage
    assert isinstance(stage, Stage)
    stage.over, stage.owes = True, False
    place = trio.lowlevel.current_task()._cancel_status
    places: list[object] = []

    async def finish() -> None:
        places.append(trio.lowlevel.current_task()._cancel_status)

    stage.finish = finish  # type: ignore[method-assign]
    with assert_no_checkpoints():
        await task.live()
    assert places == [place]


async def test_a_task_that_is_gone_may_be_woken(task: ConnectionTask) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task.park)
            await wait_all_tasks_blocked()
            scope.cancel()
    task.wake()


async def test_a_call_that_comes_early_is_not_lost(task: ConnectionTask) -> None:
    task.wake()
    with assert_no_checkpoints():
        await task.park()
    with trio.move_on_after(0.001) as scope:
        await task.park()
    assert scope.cancelled_caught

"""Tasks that wait for something, and are given it in the order in which they began to wait."""

from __future__ import annotations

import math
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Receivers(Generic[T]):
    """Who waits. What is handed over is received, also where a cancellation comes after it."""

    def __init__(self) -> None:
        self._waiting: dict[trio.lowlevel.Task, list[T]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, deadline: float = math.inf) -> T | None:
        """What is handed over to this task; None: nothing until ``deadline``, or :meth:`wake` was called."""
        task = trio.lowlevel.current_task()
        given: list[T] = []
        self._waiting[task] = given

        def abort(_: object) -> trio.lowlevel.Abort:
            del self._waiting[task]
            return trio.lowlevel.Abort.SUCCEEDED

        with trio.CancelScope(deadline=deadline):
            await trio.lowlevel.wait_task_rescheduled(abort)
        return given[0] if given else None

    def hand_over(self, item: T) -> bool:
        """Give it to whoever has waited longest; False: nobody waits."""
        task = next(iter(self._waiting), None)
        if task is None:
            return False
        self._waiting.pop(task).append(item)
        trio.lowlevel.reschedule(task)
        return True

    def wake(self) -> None:
        """Let all go, with nothing."""
        waiting, self._waiting = self._waiting, {}
        for task in waiting:
            trio.lowlevel.reschedule(task)

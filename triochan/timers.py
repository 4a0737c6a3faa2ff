"""What is due later: one task for all of a server's time-outs and pings, and none for an idle connection."""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections.abc import Callable

import trio

logger = logging.getLogger("triochan.server")


class Timer:
    """Something that is due; comparable by when it is.

    Attributes:
        due: on Trio's clock.
    """

    __slots__ = ("_callback", "_serial", "due")

    def __init__(self, due: float, serial: int, callback: Callable[[], None]) -> None:
        self.due = due
        self._serial = serial
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Call it off; again is no error, nor is one that has fired."""
        self._callback = None

    @property
    def pending(self) -> bool:
        return self._callback is not None

    def fire(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def __lt__(self, other: Timer) -> bool:
        return (self.due, self._serial) < (other.due, other._serial)


class Timers:
    """A heap of timers and the task that fires them. Callbacks are synchronous; what one raises is logged."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._serials = itertools.count()
        self._sleep = trio.CancelScope()
        self._cancelled = 0

    def after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` in ``seconds``."""
        return self.at(trio.current_time() + seconds, callback)

    def at(self, due: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` at the time ``due``, on Trio's clock."""
        timer = Timer(due, next(self._serials), callback)
        heapq.heappush(self._heap, timer)
        if due < self._sleep.deadline:
            self._sleep.deadline = due
        return timer

    async def run(self) -> None:
        """Fire timers as they fall due, until cancelled."""
        heap = self._heap
        while True:
            now = trio.current_time()
            while heap and (heap[0].due <= now or not heap[0].pending):
                try:
                    heapq.heappop(heap).fire()
                except Exception:
                    logger.exception("internal error in a timer")
            with trio.CancelScope(deadline=heap[0].due if heap else math.inf) as self._sleep:
                await trio.sleep_forever()

    @property
    def pending(self) -> int:
        """Timers that are still to fire."""
        return sum(timer.pending for timer in self._heap)

"""What is due later: one task for all of a server's time-outs and pings, and none for an idle connection."""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections.abc import Callable

import trio

from .handlers import report

logger = logging.getLogger("triochan.server")

LATE_SECONDS = 0.05
"""By which a timer fires too late only where something has kept the loop."""
_SWEEP = 256
"""Timers that were called off may stay in the heap, at the least."""


class Timer:
    """Something that is due.

    Attributes:
        due: on Trio's clock.
    """

    __slots__ = ("_callback", "_timers", "due")

    def __init__(self, due: float, callback: Callable[[], None], timers: Timers) -> None:
        self.due = due
        self._callback: Callable[[], None] | None = callback
        self._timers = timers

    def cancel(self) -> None:
        """Call it off; again is no error, nor is one that has fired."""
        if self._callback is not None:
            self._callback = None
            self._timers.forget()

    @property
    def pending(self) -> bool:
        """It is still to fire."""
        return self._callback is not None

    def fire(self) -> None:
        """Call what is due, unless that was called off."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Timers:
    """A heap of timers and the task that fires them. Callbacks are synchronous; what one raises is logged."""

    def __init__(self) -> None:
        # Tuples, for these are compared without a call of ours; the serial numbers keep timers from being compared.
        self._heap: list[tuple[float, int, Timer]] = []
        self._serials = itertools.count()
        self._sleep = trio.CancelScope()
        self._cancelled = 0

    def after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` in ``seconds``, in the task of :meth:`run`. Callable within Trio only."""
        return self.at(trio.current_time() + seconds, callback)

    def at(self, due: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` at the time ``due``, on Trio's clock."""
        timer = Timer(due, callback, self)
        heapq.heappush(self._heap, (due, next(self._serials), timer))
        if due < self._sleep.deadline:
            self._sleep.deadline = due
        return timer

    def forget(self) -> None:
        """Told by :meth:`Timer.cancel`. Such timers are swept out when they are most of the heap, as most are."""
        self._cancelled += 1
        heap = self._heap
        if self._cancelled > _SWEEP and self._cancelled > len(heap) // 2:
            heap[:] = [entry for entry in heap if entry[2].pending]
            heapq.heapify(heap)
            self._cancelled = 0

    async def run(self) -> None:
        """Fire timers as they fall due, until cancelled."""
        heap = self._heap
        while True:
            now = trio.current_time()
            # What is made meanwhile has its turn behind a checkpoint, be it due at once.
            newest = next(self._serials)
            while heap and ((heap[0][0] <= now and heap[0][1] < newest) or not heap[0][2].pending):
                timer = heapq.heappop(heap)[2]
                if not timer.pending:
                    self._cancelled = max(0, self._cancelled - 1)
                    continue
                try:
                    timer.fire()
                except Exception as error:  # noqa: BLE001 - the others' timers go on
                    report(logger, "internal error in a timer", error=error)
            with trio.CancelScope(deadline=heap[0][0] if heap else math.inf) as self._sleep:
                await trio.sleep_forever()

    @property
    def pending(self) -> int:
        """Timers that are still to fire."""
        return sum(timer.pending for _, _, timer in self._heap)

"""Tests by the real clock, on a machine that may give their process no processor for a while."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ParamSpec

P = ParamSpec("P")
_TURN = 0.02
_TIMES = 6


def _queued() -> float:
    """Seconds for which the threads that this process has now were ready, and had no processor; 0 but on Linux."""
    total = 0
    for thread in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(thread.read_text().split()[1])
    return total / 1e9


class _Watch(threading.Thread):
    """Sees how late a thread of this process runs that asks for nothing but its turn, and how long all of them wait for
    a processor."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.late = 0.0
        self._end = threading.Event()
        self._queued = _queued()

    def run(self) -> None:
        before = time.monotonic()
        while not self._end.wait(_TURN):
            now = time.monotonic()
            self.late = max(self.late, now - before - _TURN)
            before = now

    def end(self) -> float:
        """Seconds without a processor."""
        self._end.set()
        self.join()
        self.late = max(self.late, _queued() - self._queued)
        return self.late


def unless_starved(
    seconds: float,
) -> Callable[[Callable[P, Awaitable[None]]], Callable[P, Awaitable[None]]]:
    """A test that fails is run again where this process has waited so long for the processor meanwhile: then nobody
    could have kept the time. Where it has not, or at the sixth time, it fails."""

    def decorate(test: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
        @functools.wraps(test)
        async def run(*args: P.args, **kwargs: P.kwargs) -> None:
            for time_left in reversed(range(_TIMES)):
                watch = _Watch()
                watch.start()
                try:
                    await test(*args, **kwargs)
                except Exception as error:
                    if watch.end() < seconds or not time_left:
                        raise
                    print(f"no processor for {watch.late:.2f} s, so once more: {error!r:.200}")
                else:
                    watch.end()
                    return

        return run

    return decorate

"""Names what blocks the event loop, at the moment that it does."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import trio

logger = logging.getLogger("triochan.stalls")

_HERE = os.path.dirname(__file__) + os.sep
_LOOKS = 2
"""Looks at the loop in the time that it may be blocked for."""


@contextmanager
def watched(seconds: float) -> Iterator[None]:
    """Log a warning, with the stack, when this Trio run's loop is blocked for ``seconds``; 0: do not look.

    A thread asks the loop for a sign of life twice in that time, which costs the loop a wake-up each. Where what blocks
    does not let go of the interpreter (a long computation in C), the warning comes when it has.
    """
    if not seconds:
        yield
        return
    watch = _Watch(seconds, trio.lowlevel.current_trio_token(), threading.get_ident())
    thread = threading.Thread(target=watch.run, name="triochan's watch over the loop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.stop()  # the thread ends by itself, at its next look


class _Watch:
    def __init__(self, seconds: float, token: trio.lowlevel.TrioToken, thread: int) -> None:
        self._seconds = seconds
        self._token = token
        self._thread = thread
        self._alive = threading.Event()
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()
        self._alive.set()

    def run(self) -> None:
        while not self._stopped.wait(self._seconds / _LOOKS):
            asked = time.monotonic()
            self._alive.clear()
            try:
                self._token.run_sync_soon(self._alive.set)
            except trio.RunFinishedError:
                return
            if self._alive.wait(self._seconds) or self._stopped.is_set():
                continue
            frame = sys._current_frames().get(self._thread)
            stack = "" if frame is None else "".join(_program_part(frame))
            del frame
            logger.warning(
                "the event loop has been blocked for %g s; every connection waits. What blocks belongs into "
                "trio.to_thread.run_sync(…). It is at:\n%s",
                self._seconds,
                stack.rstrip(),
            )
            self._alive.wait()
            if not self._stopped.is_set():
                logger.warning("the event loop goes on, after %.1f s", time.monotonic() - asked)


def _program_part(frame: FrameType) -> list[str]:
    """The stack from the innermost code of triochan's on: what that has called is the program's."""
    stack = traceback.extract_stack(frame)
    own = [index for index, each in enumerate(stack) if each.filename.startswith(_HERE)]
    return traceback.format_list(stack[own[-1] + 1 :] or stack) if own else traceback.format_list(stack)

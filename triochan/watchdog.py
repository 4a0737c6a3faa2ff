"""The end of a process that nothing else ends.

A cancellation ends every task at its next checkpoint. A handler that sits in a thread has none before the thread
returns, and Trio waits for it, as it must. Who owns the process may end that wait: a thread of the watchdog's own,
which needs neither Trio nor the loop.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

logger = logging.getLogger("triochan.server")

GRACE = 1.0
"""Seconds beyond a shutdown's deadline, for what was cancelled then to end in order."""


def _exit() -> None:
    os._exit(1)


class Watchdog:
    """Ends the process, with exit status 1 and a line in the log, unless it is called off in time.

    Args:
        end: what ends the process; called in a thread.
    """

    def __init__(self, end: Callable[[], None] = _exit) -> None:
        self._end = end
        self._timer: threading.Timer | None = None

    def start(self, seconds: float, left: Callable[[], str]) -> None:
        """End the process in ``seconds``, whatever it said before.

        Args:
            left: says what is left; called in the watchdog's thread, while the loop may be running.
        """
        self.cancel()
        self._timer = threading.Timer(seconds, self._expire, (left,))
        self._timer.name = "triochan's watchdog"
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """All has ended. Again is no error."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self, left: Callable[[], str]) -> None:
        try:
            logger.critical(
                "the shutdown did not end in time, the process does: exit status 1. Left: %s", left()
            )
        finally:
            self._end()


def busy_threads() -> list[str]:
    """The names of the threads that do something: Trio's tell which function runs there."""
    own = (threading.main_thread(), threading.current_thread())
    names = [thread.name for thread in threading.enumerate() if thread not in own]
    return [name for name in names if not name.startswith(("Trio thread ", "triochan's "))]

"""When a process that has ended is started again, and how its end is told."""

from __future__ import annotations

import signal

import attrs

FIRST, MOST = 1.0, 30.0
"""Seconds before the first start after an end, and at most."""
CALM = 60.0
"""Who has run for so many seconds before its end begins at the first again."""


@attrs.define
class Backoff:
    """The time before the next start: doubled with each end that comes soon.

    Attributes:
        first, most: seconds.
        calm: seconds of running that make it forget what was before.
    """

    first: float = FIRST
    most: float = MOST
    calm: float = CALM
    _next: float = attrs.field(init=False, default=0.0)

    def after(self, ran: float) -> float:
        """Seconds to wait, after an end.

        Args:
            ran: seconds from the start to the end.
        """
        if ran >= self.calm or not self._next:
            self._next = self.first
        seconds, self._next = self._next, min(self.most, self._next * 2)
        return seconds


def how_it_ended(status: int) -> str:
    """An exit status, that of a signal negative, for people."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"

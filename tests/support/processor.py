"""What something takes of the processor, and how much of that may be coverage's."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

TRACED = 12
"""How many times more each of Python's lines takes where coverage traces it; what is read in C does not."""
_TOO_LONG = 1.0


def allowance() -> int:
    """How many times more Python's code may take now than what is read in C."""
    return TRACED if sys.gettrace() is not None else 1


def seconds(call: Callable[[], object], *, times: int = 5, enough: float = 0.0) -> float:
    """Of this thread's processor, at best of so many times; of fewer where it took less than ``enough``, or over a
    second."""
    best = math.inf
    for _ in range(times):
        started = time.thread_time()
        call()
        taken = time.thread_time() - started
        best = min(best, taken)
        if taken < enough or taken > _TOO_LONG:
            break
    return best

"""What a processor's time may be in a test, where coverage traces it."""

from __future__ import annotations

import sys

TRACED = 12
"""How many times more each of Python's lines takes where coverage traces it; what is read in C does not."""


def allowance() -> int:
    """How many times more Python's code may take now than what is read in C."""
    return TRACED if sys.gettrace() is not None else 1

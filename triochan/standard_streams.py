"""Standard input, output and error of a process, as whoever started it left them: open, closed, or read by nobody.

A number from 0 to 2 that is free goes to the next file that is opened. Were that a client's socket, what a library or a
child process prints would be sent to the client.
"""

from __future__ import annotations

import contextlib
import os
import sys

_NAMES = ("stdin", "stdout", "stderr")


def hold_open() -> None:
    """Put the null device where a standard stream is closed. Again is no error.

    To be called before anything else is opened that stays open.
    """
    for number in range(len(_NAMES)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            assert opened == number
            os.set_inheritable(number, True)
    for number, name in enumerate(_NAMES):
        if getattr(sys, name) is None:
            # print() would pass over a stream that is None; write() of the program's own would not.
            stream = open(os.devnull, "w" if number else "r", encoding="utf-8")  # noqa: SIM115 - for good
            setattr(sys, name, stream)


def flush_or_drop() -> None:
    """Write what standard output and error hold; where nobody takes it, drop it.

    At its own end Python would try once more, complain, and make the exit status 120.
    """
    for name in _NAMES[1:]:
        stream = getattr(sys, name)
        try:
            stream.flush()
        except ValueError:  # the program has closed it
            pass
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
                stream.flush()

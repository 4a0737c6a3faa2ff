"""Lines of the log that end nothing where they can't be written, and that no client can forge."""

from __future__ import annotations

import logging
import re
import sys
import traceback

from .message import Message

_FORGED = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")
"""What a line is not to have of a client's: line ends and other control characters, quotes and backslashes, and what is
not ASCII, which may look like something else."""

LONGEST_TEXT = 500
"""Characters of what a client is told that the log has."""


def escaped(text: str) -> str:
    """``text``, which is a client's, for a place between double quotes within a line: as a literal of Python has it."""
    return _FORGED.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    if character in '"\\':
        return "\\" + character
    return character.encode("unicode_escape").decode("ascii")


def say(logger: logging.Logger, level: int, text: str, *args: object) -> None:
    """Log a line from the midst of a connection's work: a log that can't be written ends no connection."""
    try:
        logger.log(level, text, *args)
    except Exception as unwritten:  # noqa: BLE001 - a handler of the log is the program's
        show_unwritten(unwritten)


def say_refused(logger: logging.Logger, status: int, message: Message, why: str) -> None:
    """Why a request or a handshake is refused: where debugging is on, for anybody may ask for anything.

    Args:
        why: one line; what is a client's in it, as ``%r`` has it.
    """
    if logger.isEnabledFor(logging.DEBUG):
        own = message.own
        what = " ".join(escaped(str(own[key])) for key in ("method", "path") if key in own)
        say(logger, logging.DEBUG, "%d for %s on %s: %s", status, what, message.channel.name, why)


def told(text: str) -> str:
    """What a client is told, as far as a line of the log has it."""
    return repr(text[:LONGEST_TEXT])


def write(logger: logging.Logger, record: logging.LogRecord) -> None:
    """The same for a record that is made already."""
    try:
        logger.handle(record)
    except Exception as unwritten:  # noqa: BLE001 - a handler of the log is the program's
        show_unwritten(unwritten)


def show_unwritten(unwritten: Exception, *errors: BaseException) -> None:
    """Show on the standard error what a handler of the log raised, as logging's own handlers do, and what it was to
    log: there is no log to say it in."""
    if logging.raiseExceptions and sys.stderr is not None:
        for each in (unwritten, *errors):
            traceback.print_exception(each, chain=each is not unwritten)

"""What a stream is: a terminal or not, how wide, whether in colours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TextIO


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody looks at it; a closed one is looked at by nobody."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False


def in_colors(stream: TextIO | None, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether to write in colours: on a terminal alone.

    ``NO_COLOR`` (no-color.org) says never and ``FORCE_COLOR`` (force-color.org) always, with any value but an empty
    one; the first goes before. ``TERM=dumb`` is of a terminal that has none.
    """
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return is_terminal(stream) and environ.get("TERM") != "dumb"


def columns(stream: TextIO | None) -> int:
    """How many characters a line of the terminal has, by ``COLUMNS`` where that is set; 100 where it is none."""
    said = os.environ.get("COLUMNS", "")
    if said.isascii() and said.isdigit() and int(said):
        return int(said)
    try:
        return (os.get_terminal_size(stream.fileno()).columns if stream is not None else 0) or 100
    except (AttributeError, OSError, ValueError):  # no terminal; one that is closed
        return 100

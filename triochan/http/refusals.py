"""Answers of this package's own that refuse a request, each with its reason in the log."""

from __future__ import annotations

import logging
from typing import Any

from ..log_lines import say_refused
from ..message import Message
from .responses import text

logger = logging.getLogger("triochan.http")

UNMET = "its If-Match or If-Unmodified-Since is not met"


def refuse(
    message: Message, status: int, said: str, headers: dict[str, str] | None = None, *, why: str
) -> dict[str, Any]:
    """The response, in plain text.

    Args:
        said: what the client is told.
        why: what the log says where debugging is on; what is the client's in it, as ``%r`` has it.
    """
    say_refused(logger, status, message, why)
    return text(said + "\n", status, headers or {})


def refuse_method(message: Message) -> dict[str, Any]:
    """405 of what there is to be read only."""
    return refuse(message, 405, "Method Not Allowed", {"Allow": "GET, HEAD"}, why="it takes GET and HEAD")

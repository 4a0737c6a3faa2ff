"""What a consumer of ``http.request`` returns, or raises as :class:`HttpError`, is its response."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any

from .exceptions import HttpError
from .handlers import Begin, first_of
from .http.responses import text
from .log_lines import say_refused
from .message import Message
from .replies import LATER

logger = logging.getLogger("triochan.http")

LONGEST_TEXT = 500
"""Characters of an answer that the log has."""


def answered(begin: Begin) -> Begin:
    """Begins the same handler, and sends what it returns to the reply channel.

    The handler is over by then, and with it what its decorators do: a session is saved.
    """

    def begin_and_answer(message: Message, kwargs: dict[str, Any]) -> Coroutine[Any, Any, object]:
        return _answer(begin(message, kwargs), message)

    return begin_and_answer


async def _answer(handler: Coroutine[Any, Any, object], message: Message) -> object:
    """Await a handler and send its response; what it returned where that is none."""
    try:
        result = await handler
    except Exception as error:
        answer = first_of(error, HttpError)
        if answer is None:
            raise
        say_refused(logger, answer.status, message, f"HttpError {answer.text[:LONGEST_TEXT]!r}")
        result = text(answer.text, answer.status, answer.headers)
    if result is None or result is LATER:
        return result
    if not isinstance(result, dict):
        raise TypeError(
            f"it returned {result!r:.100}; a consumer of http.request returns a response, such as "
            "triochan.http.text(…), or None where it has sent one"
        )
    await message.reply_channel.send(result)
    return None

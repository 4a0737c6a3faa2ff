"""What a consumer of ``http.request`` returns, or raises as :class:`HttpError`, is its response."""

from __future__ import annotations

import logging
from typing import Any

from .exceptions import HttpError
from .handlers import Begin, first_of
from .http.responses import text
from .log_lines import say_refused, told
from .message import Message
from .replies import LATER

logger = logging.getLogger("triochan.http")


def answered(begin: Begin) -> Begin:
    """Begins the same handler, and sends what it returns to the reply channel.

    The handler is over by then, and with it what its decorators do: a session is saved.
    """

    async def begin_and_answer(message: Message, kwargs: dict[str, Any]) -> object:
        """What the handler returned, where that is no response."""
        try:
            result = await begin(message, kwargs)
        except Exception as error:
            result = _response_of(error, message)
            if result is None:
                raise
        if result is None or result is LATER:
            return result
        if not isinstance(result, dict):
            raise TypeError(
                f"it returned {result!r:.100}; a consumer of http.request returns a response, such as "
                "triochan.http.text(…), or None where it has sent one"
            )
        await message.reply_channel.send(result)
        return None

    return begin_and_answer


def _response_of(error: Exception, message: Message) -> dict[str, Any] | None:
    """The response that ``error`` asks for; None where there is no HttpError in it."""
    answer = first_of(error, HttpError)
    if answer is None:
        return None
    say_refused(logger, answer.status, message, f"HttpError {told(answer.text)}")
    return text(answer.text, answer.status, answer.headers)

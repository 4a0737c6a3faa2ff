"""A consumer with a decorator around each of its handlers."""

# mypy: allow-untyped-defs, allow-untyped-calls
# ruff: noqa: UP008
import logging
from functools import wraps

from triochan.generic.websockets import WebsocketConsumer

logger = logging.getLogger(__name__)


def your_decorator(handler):
    @wraps(handler)
    async def logged(message, **kwargs):
        logger.info("%s on %s", message.channel.name, message["path"])
        await handler(message, **kwargs)

    return logged


class MyConsumer(WebsocketConsumer):
    def get_handler(self, *args, **kwargs):
        handler = super(MyConsumer, self).get_handler(*args, **kwargs)
        return your_decorator(handler)

"""Wrappers around every handler of a routing::

    async def timing(message, handler):
        began = trio.current_time()
        try:
            return await handler(message)
        finally:
            print(message.channel.name, message.get("path"), trio.current_time() - began)

    application = Application(routing, middleware=[timing])

It runs in the task and the context of the handler, for each message: ``websocket.connect``, ``websocket.receive`` and
``websocket.disconnect``, ``http.request``, and those of named channels. What it raises is treated as if the handler had
raised it: ``DenyConnection`` in ``websocket.connect`` refuses the handshake. Messages of a demultiplexed stream come as
the socket's own. ``disconnect`` is owed to the consumer: a middleware that does not await its handler then takes its
clean-up away.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import attrs

from .exceptions import ImproperlyConfigured
from .handlers import Begin, Bound, begin_of
from .message import Message
from .porting import lookup
from .routing import Consumer, Match, is_async, name_of


@attrs.frozen(eq=False)
class Next:
    """What a middleware wraps: ``await handler(message)``.

    Attributes:
        consumer: whose handler it is, in the end.
        kwargs: the routing's named groups, as the handler gets them.
    """

    consumer: Consumer
    kwargs: dict[str, Any]
    _begin: Begin | None

    async def __call__(self, message: Message) -> object:
        """Handle the message; what the handler returned. No checkpoint of its own."""
        return None if self._begin is None else await self._begin(message, self.kwargs)


Middleware: TypeAlias = Callable[[Message, Next], Awaitable[object]]


def check_middleware(middleware: object) -> tuple[Middleware, ...]:
    """Find at definition what would fail on the first message.

    Raises:
        ImproperlyConfigured: not a list, or one of them is not ``async def``.
    """
    if isinstance(middleware, (str, bytes)) or not isinstance(middleware, Iterable):
        raise ImproperlyConfigured(
            f"middleware is a list of 'async def middleware(message, handler)', not {name_of(middleware)}"
        )
    found = tuple(middleware)
    for index, each in enumerate(found):
        if isinstance(each, type) or not is_async(each):
            raise ImproperlyConfigured(
                f"middleware[{index}] is {name_of(each)}; what goes is an 'async def middleware(message, handler)', "
                "or an object whose __call__ is one"
            )
    return cast("tuple[Middleware, ...]", found)


def bind(match: Match, channel: str, middleware: Sequence[Middleware] = ()) -> Bound:
    """``match`` with the function that begins its handler, in ``middleware``, the first one outermost.

    Made for each connection anew, so that what is patched by then is called.
    """
    consumer, kwargs = match
    begin = begin_of(consumer, channel)
    for each in reversed(middleware):
        begin = _around(each, consumer, begin)
    return Bound(consumer, kwargs, begin)


def _around(middleware: Middleware, consumer: Consumer, inner: Begin | None) -> Begin:
    def begin(message: Message, kwargs: dict[str, Any]) -> Coroutine[Any, Any, object]:
        return middleware(message, Next(consumer, kwargs, inner))  # type: ignore[return-value]  # checked: an async def

    return begin


if not TYPE_CHECKING:
    __getattr__ = lookup(__name__)

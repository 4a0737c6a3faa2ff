"""The order of a connection's messages, as a decorator asks for it (Channels 1: ``channels.sessions``)."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

import attrs

from ..decorators import message_among
from ..exceptions import ChannelFull, ImproperlyConfigured
from ..layers.contents import Waiting
from ..message import LiveConnection, Message
from ..routing import check_consumer, name_of
from .service import endpoint_of

H = TypeVar("H", bound=Callable[..., Awaitable[Any]])

_HELD_AT_MOST = 100
_HELD_BYTES = 1024 * 1024
"""Of one connection's messages; while there are so many, no other one is held."""


@overload
def enforce_ordering(handler: H, *, slight: bool = False) -> H: ...
@overload
def enforce_ordering(handler: None = None, *, slight: bool = False) -> Callable[[H], H]: ...
def enforce_ordering(handler: Any = None, *, slight: bool = False) -> Any:
    """One message at a time, in the order of arrival; with ``slight``, only ``connect`` before all others.

    The order of a WebSocket's messages is kept by its connection, for all handlers of its path, as soon as one of
    them is in this decorator. Of a class it is the attribute ``strict_ordering`` or ``slight_ordering``, which
    has to be set on the class: a wrapper made in ``get_handler`` comes too late for the connection to know, and is
    refused.

    Messages of named channels that carry ``order`` and the ``reply_channel`` of a connection of this process are
    held until all orders from 0 on have come, at most 100 and at most 1 MiB of them; each is then handled behind its
    predecessor, with a content of its own.

    Raises (when a message comes):
        ValueError: it has no ``order``, or one that has been handled.
        ImproperlyConfigured: the connection does not know of the order, see above.
        ChannelFull: too many messages wait for one that has not come.
    """
    if handler is None:
        return functools.partial(enforce_ordering, slight=slight)
    kind = "slight" if slight else "strict"
    check_consumer(handler, f"enforce_ordering({name_of(handler)})")

    @functools.wraps(handler)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        message = message_among(args, "enforce_ordering")
        if message.connection is not None and message.channel.name == "websocket.disconnect":
            return await handler(*args, **kwargs)  # in every order it comes last, and it is owed
        order = message.get("order")
        if isinstance(order, bool) or not isinstance(order, int):
            raise ValueError(
                f"enforce_ordering needs messages with an 'order', a whole number; this is {message!r}"
            )
        connection: LiveConnection | None = message.connection
        if connection is not None:
            if connection.ordering not in ("strict", kind):
                raise ImproperlyConfigured(
                    f"{name_of(handler)} is in enforce_ordering, but its connection does not know: on a class, set "
                    f"{kind}_ordering = True instead of wrapping what get_handler returns"
                )
        elif not slight and (endpoint := endpoint_of(message)) is not None:
            turns = endpoint.local.of(_Turns)
            return await turns.take(order, message, functools.partial(handler, *args, **kwargs))
        return await handler(*args, **kwargs)

    wrapper.__dict__[f"{kind}_ordering"] = True
    return wrapper


@attrs.frozen(eq=False)
class _Held:
    """A message that came too early, without its content, and that as it waits."""

    message: Message
    waiting: Waiting
    handle: Callable[[], Awaitable[Any]]


@attrs.define(eq=False)
class _Turns:
    """Which message of a connection is the next, and those that came too early."""

    next: int = 0
    busy: bool = False
    held: dict[int, _Held] = attrs.field(factory=dict)
    size: int = 0

    async def take(self, order: int, message: Message, handle: Callable[[], Awaitable[Any]]) -> None:
        """Handle a message and those that were waiting for it; or leave it to be handled in its turn."""
        if order < self.next or order in self.held:
            raise ValueError(f"enforce_ordering: order {order} has come before; this is {message!r}")
        if self.busy or order != self.next:
            self._hold(order, message, handle)
            return
        errors: list[Exception] = []
        self.busy = True
        try:
            turn: Callable[[], Awaitable[Any]] | None = handle
            while turn is not None:
                self.next += 1
                try:
                    await turn()
                except Exception as error:  # noqa: BLE001 - a handler that raises does not stop those behind it
                    errors.append(error)
                turn = self._release()
        finally:
            self.busy = False
        if len(errors) > 1:
            raise ExceptionGroup("several messages that were handled in order", errors)
        if errors:
            raise errors[0]

    def _hold(self, order: int, message: Message, handle: Callable[[], Awaitable[Any]]) -> None:
        if len(self.held) == _HELD_AT_MOST:
            raise ChannelFull(message.channel.name, _HELD_AT_MOST)
        if self.size >= _HELD_BYTES:
            raise ChannelFull(message.channel.name, _HELD_AT_MOST, _HELD_BYTES)
        held = _Held(message, Waiting.of(message.content), handle)
        message.content = {}  # what waits is small
        self.held[order] = held
        self.size += held.waiting.size

    def _release(self) -> Callable[[], Awaitable[Any]] | None:
        """The message whose turn it is, if it has come."""
        held = self.held.pop(self.next, None)
        if held is None:
            return None
        self.size -= held.waiting.size
        held.message.content = held.waiting.content()
        return held.handle

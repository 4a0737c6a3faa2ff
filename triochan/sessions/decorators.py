"""The session decorators (Channels 1: "Sessions and Users", and its ``channels.sessions``).

They wrap ``async def`` consumers and methods that take a message; classes have attributes of the same names. The
application of the message (``message.application``) says where sessions are kept.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

import attrs

from ..exceptions import ChannelFull, ImproperlyConfigured
from ..message import Message
from ..routing import check_consumer, name_of
from ..security import message_among
from .service import endpoint_of
from .wrapping import link_sessions, open_channel_session, open_http_session, prepared_by

logger = logging.getLogger("triochan.sessions")

H = TypeVar("H", bound=Callable[..., Awaitable[Any]])

_HELD_AT_MOST = 100


def channel_session(handler: H) -> H:
    """``message.channel_session``: a :class:`Session` of the connection, gone with it.

    It belongs to the connection behind ``message.reply_channel``, so that every consumer that is sent a reply channel
    sees the same one. Handlers of one connection that overlap share it.

    Raises (when a message comes):
        ValueError: it has no reply channel.
        DenyConnection: the handshake comes from another site (:mod:`triochan.security`).
    """
    return prepared_by("channel_session", open_channel_session)(handler)


def http_session(handler: H) -> H:
    """``message.http_session``: the :class:`Session` of the browser, by its cookie.

    A message with headers (``http.request``, ``websocket.connect``) always gets one: anonymous and empty where no
    cookie came, or one that is worth nothing. Every other message has None; :func:`channel_and_http_session`
    gives it to them too. The session is saved where it was modified; its cookie goes with the response to an
    ``http.request``.

    Raises (when a message comes):
        DenyConnection: the handshake comes from another site (:mod:`triochan.security`).
        SessionStoreUnavailable: the store does not answer.
    """
    return prepared_by("http_session", open_http_session)(handler)


def channel_and_http_session(handler: H) -> H:
    """Both: the HTTP session of ``websocket.connect`` is found again, by its key, in every later handler.

    It is read from the store for each message, so it shows what other requests have done to it, and is
    anonymous once it was ended.
    """
    return prepared_by("channel_and_http_session", open_http_session, open_channel_session, link_sessions)(
        handler
    )


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
    held until all orders from 0 on have come, at most 100; each is then handled behind its predecessor.

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
        order = message.get("order")
        if isinstance(order, bool) or not isinstance(order, int):
            raise ValueError(
                f"enforce_ordering needs messages with an 'order', a whole number; this is {message!r}"
            )
        if message.connection is not None:
            if message.connection.ordering not in ("strict", kind):
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


@attrs.define(eq=False)
class _Turns:
    """Which message of a connection is the next, and those that came too early."""

    next: int = 0
    busy: bool = False
    held: dict[int, Callable[[], Awaitable[Any]]] = attrs.field(factory=dict)

    async def take(self, order: int, message: Message, handle: Callable[[], Awaitable[Any]]) -> None:
        """Handle a message and those that were waiting for it; or leave it to be handled in its turn."""
        if order < self.next or order in self.held:
            raise ValueError(f"enforce_ordering: order {order} has come before; this is {message!r}")
        if len(self.held) == _HELD_AT_MOST:
            raise ChannelFull(message.channel.name, _HELD_AT_MOST)
        self.held[order] = handle
        if self.busy:
            return
        errors: list[Exception] = []
        self.busy = True
        try:
            while (each := self.held.pop(self.next, None)) is not None:
                self.next += 1
                try:
                    await each()
                except Exception as error:  # noqa: BLE001 - a handler that raises does not stop those behind it
                    errors.append(error)
        finally:
            self.busy = False
        if len(errors) > 1:
            raise ExceptionGroup("several messages that were handled in order", errors)
        if errors:
            raise errors[0]

"""The session decorators (Channels 1: "Sessions and Users", and its ``channels.sessions``).

They wrap ``async def`` consumers and methods that take a message; classes have attributes of the same names. The
application of the message (``message.application``) says where sessions are kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from .wrapping import (
    link_sessions,
    live_on_http_session,
    open_channel_session,
    open_http_session,
    prepared_by,
)

H = TypeVar("H", bound=Callable[..., Awaitable[Any]])


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
    ``http.request``. The end of the session closes the WebSockets that were opened with it (docs/sessions.md).

    Raises (when a message comes):
        DenyConnection: the handshake comes from another site (:mod:`triochan.security`).
        SessionStoreUnavailable: the store does not answer.
    """
    return prepared_by("http_session", open_http_session, live_on_http_session)(handler)


def channel_and_http_session(handler: H) -> H:
    """Both: the HTTP session of ``websocket.connect`` is found again, by its key, in every later handler.

    It is read from the store for each message, so it shows what other requests have done to it, and is
    anonymous once it was ended.
    """
    return prepared_by(
        "channel_and_http_session",
        open_http_session,
        live_on_http_session,
        open_channel_session,
        link_sessions,
    )(handler)

"""An application's sessions: from a message to its session, and the session's key back to the client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast, runtime_checkable

import attrs

from ..exceptions import ConnectionClosed
from ..headers import check_headers
from ..layers import Departed, Endpoint
from ..message import Message, MessageApplication, application_of
from .cookies import SessionCookies
from .session import Session
from .sockets import close_sockets, join, leave, watch
from .store import SessionStore

_ON_A_WEBSOCKET = (
    "this HTTP session is new, or was to get a new key (login gives it one), and over a WebSocket no cookie can be set "
    "that tells the client: do it in an http.request consumer and connect anew; or use message.channel_session alone"
)
_TOO_LATE = (
    "this session is new, or was to get a new key, and the response that would carry its cookie has begun: do it "
    "before the first reply_channel.send"
)
_NO_RESPONSE = (
    "this session is new, or was to get a new key, and this message is no http.request whose response could carry "
    "its cookie to the client"
)


@attrs.frozen(eq=False)
class Sessions:
    """What the session decorators need of an application.

    Args:
        store: of HTTP sessions.
        cookies: which carry their keys.
        channel_store: of channel sessions; None: they are kept with the connection, in its process.
    """

    store: SessionStore
    cookies: SessionCookies
    channel_store: SessionStore | None = None

    async def from_cookie(self, message: Message) -> Session:
        """The session that the cookie of an ``http.request`` or a ``websocket.connect`` names, else an anonymous one.

        Where the message is a request, the first piece of its response carries the cookie of a session that was
        saved by then, or takes away that of one that was ended.
        """
        session = await self._first_held(self.cookies.signed(message))
        endpoint: object = endpoint_of(message)
        if message.channel.name == "websocket.connect":
            session.no_new_key = _ON_A_WEBSOCKET
        elif not isinstance(endpoint, _Response):
            session.no_new_key = _NO_RESPONSE
        elif endpoint.started:
            session.no_new_key = _TOO_LATE
        else:
            session.no_new_key = None
            endpoint.on_start.append(_Answer(self.cookies, message, session, session.session_key))
        return session

    async def _first_held(self, signed: list[tuple[str, float]]) -> Session:
        """The session of the first of these keys that has one: a cookie of a session that is over hides no other."""
        for key, age in signed:
            session = await self.by_key(key)
            if session.session_key is not None:
                session.signed_ago = age
                return session
        return await self.by_key(None)

    async def live_on(self, message: Message) -> str | None:
        """From a handshake on, the end of its HTTP session closes its WebSocket.

        Returns:
            What the store has of the session now, as it may have ended in between; then it is anonymous. None too
            where the message is no handshake, or has no session.
        """
        session = message.http_session
        if message.channel.name != "websocket.connect" or session is None or session.session_key is None:
            return None
        endpoint, key, age = endpoint_of(message), session.session_key, self.cookies.max_age
        # First the group, then the look: who ends the session either tells this socket or is seen here.
        await join(message, endpoint, key)
        text = await self.store.load(key)
        if text is None:
            await leave(message, endpoint, key)
            session.lose()
        else:
            watch(endpoint, key, self.store, age, age - session.signed_ago)
        return text

    async def by_key(self, key: str | None) -> Session:
        """The session under ``key`` where the store holds it, else an anonymous one. It can't get a new key."""
        text = None if key is None else await self.store.load(key)
        # A key that the store doesn't hold is not taken up: who made it up would know the session's key.
        held = None if text is None else key
        return Session(
            self.store, self.cookies.max_age, held, text, no_new_key=_ON_A_WEBSOCKET, on_end=close_sockets
        )

    async def of_connection(self, message: Message) -> Session:
        """The channel session of the connection behind ``message.reply_channel``.

        Raises:
            ValueError: the message has no reply channel.
            ConnectionClosed: the connection is gone, and its session with it.
            RuntimeError: the connection is in another process, and there is no ``channel_store``.
        """
        if message.reply_channel is None:
            raise ValueError(
                f"{message!r} has no reply_channel, and a channel session is its connection's; send it along as "
                '"reply_channel" in the message'
            )
        key = f"channel.{message.reply_channel.name}"
        if self.channel_store is not None:
            text = await self.channel_store.load(key)
            return Session(self.channel_store, self.cookies.max_age, key, text, fixed=True)
        endpoint = endpoint_of(message)
        if isinstance(endpoint, Departed):
            raise ConnectionClosed(1006, "the connection is gone, and its channel session with it")
        if endpoint is None:
            raise RuntimeError(
                f"the connection {message.reply_channel.name} is not one of this process, where its channel session "
                "is; for consumers in several processes give the application a channel_session_store "
                "that all of them share"
            )
        held = endpoint.local.of(_ChannelSessions).by_service
        session = held.get(self)
        if session is None:
            session = held[self] = Session(None, 0, key, fixed=True)
        return session


@attrs.define(eq=False)
class _ChannelSessions:
    """A connection's channel sessions, one for each application whose consumers were sent its reply channel."""

    by_service: dict[Sessions, Session] = attrs.field(factory=dict)


@attrs.frozen
class _Answer:
    """Adds a session's cookie to the first piece of a response."""

    cookies: SessionCookies
    message: Message
    session: Session
    requested: str | None
    """The key that the client has."""

    async def __call__(self, content: dict[str, Any]) -> dict[str, Any]:
        session = self.session
        if session.modified:  # before the answer: the client's next request may be quick
            await session.save()
        await session.tell_ended()
        session.no_new_key = _TOO_LATE
        headers = check_headers(content.get("headers") or ())
        key = session.session_key
        cookie = None
        if key is None and self.requested is not None:
            # Who has ended it elsewhere, or given it a new key, has told the client: this would take that key away.
            cookie = None if session.ended_elsewhere else self.cookies.deletion(self.message)
        elif key is not None and (session.saved or key != self.requested):
            cookie = self.cookies.header(self.message, key)
        if cookie is not None:
            headers += check_headers([cookie])
        # What a session has made is for its client alone.
        headers.append((b"Vary", b"Cookie"))
        if not any(name.lower() == b"cache-control" for name, _ in headers):
            headers.append((b"Cache-Control", b"private"))
        return {**content, "headers": headers}


@runtime_checkable
class _Response(Protocol):
    """What stands behind the reply channel of an ``http.request``."""

    started: bool
    """The first piece has come."""
    on_start: list[Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]]
    """Called one after the other with the first piece, return it with what has to be in it."""


class HasSessions(MessageApplication, Protocol):
    """An application, as far as sessions go."""

    @property
    def sessions(self) -> Sessions: ...


def sessions_of(message: Message) -> Sessions:
    """The sessions of the message's application.

    Raises:
        RuntimeError: the message belongs to no application.
    """
    return cast(HasSessions, application_of(message)).sessions


def endpoint_of(message: Message) -> Endpoint | Departed | None:
    """What stands behind the message's reply channel in this process; None where nothing does."""
    if message.connection is not None:
        return cast(Endpoint, message.connection)  # a live connection is what stands behind its reply channel
    endpoint: Endpoint | Departed | None = getattr(message.reply_channel, "endpoint", None)
    return endpoint

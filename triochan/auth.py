"""Who is behind a message (Channels 1: "Sessions and Users", and its ``channels.auth``).

A session holds the user's id under :data:`USER_ID`; the application's ``user_loader`` makes a user of the session. The
decorators put it at ``message.user``, an :class:`AnonymousUser` where there is none, and keep the connection in the
user's group, through which :meth:`triochan.Application.disconnect_user` reaches all sockets of a user.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

import attrs

from .content import InvalidJSON, decode_json, encode_json
from .layers import Group
from .log_lines import say
from .message import Message, application_of, or_none
from .porting import lookup
from .session import Ended
from .sessions import Session
from .sessions.service import HasSessions, endpoint_of, sessions_of
from .sessions.wrapping import LINK, Step, link_sessions, open_channel_session, open_http_session, prepared_by

logger = logging.getLogger("triochan.auth")

H = TypeVar("H", bound=Callable[..., Awaitable[Any]])

UserLoader = Callable[[Session], Awaitable[Any]]
"""Makes a user of a session that holds something; None: nobody."""

USER_ID = "user_id"
"""The name in a session under which :func:`login` keeps the user's id, and a ``user_loader`` finds it."""


class AnonymousUser:
    """Nobody in particular: what ``message.user`` is where no one has logged in. All of them are equal."""

    id = None
    username = ""
    is_anonymous = True
    is_authenticated = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnonymousUser)

    def __hash__(self) -> int:
        return hash(AnonymousUser)

    def __str__(self) -> str:
        return "AnonymousUser"

    def __repr__(self) -> str:
        return "AnonymousUser()"


def id_attribute(user: Any) -> Any:
    """What identifies a user where the application does not say: ``user.id``."""
    return getattr(user, "id", None)


class HasUsers(HasSessions, Protocol):
    """An application, as far as users go."""

    @property
    def user_loader(self) -> UserLoader | None: ...

    @property
    def user_id(self) -> Callable[[Any], Any]: ...


def _users_of(message: Message) -> HasUsers:
    return cast(HasUsers, application_of(message))


# -- decorators


def channel_session_user(handler: H) -> H:
    """``message.user``, from the channel session; implies :func:`triochan.sessions.channel_session`."""
    return prepared_by("channel_session_user", open_channel_session, _USER_OF_CHANNEL)(handler)


def http_session_user(handler: H) -> H:
    """``message.user``, from the HTTP session; implies :func:`triochan.sessions.http_session`."""
    return prepared_by("http_session_user", open_http_session, _USER_OF_HTTP)(handler)


def channel_session_user_from_http(handler: H) -> H:
    """``message.user``, from the HTTP session for ``websocket.connect``, and from then on from the channel session.

    Both sessions are there at ``websocket.connect``; later messages have the channel session only.
    """
    return prepared_by(
        "channel_session_user_from_http", open_http_session, open_channel_session, _TRANSFER, _USER_OF_CHANNEL
    )(handler)


def channel_and_http_session_user_from_http(handler: H) -> H:
    """``message.user`` with both sessions in every handler; as long as the HTTP session has a user it is this one.

    The HTTP session is read for each message: a user who has logged out, or logged in anew, is anonymous on the
    connections from before.
    """
    return prepared_by(
        "channel_and_http_session_user_from_http",
        open_http_session,
        open_channel_session,
        link_sessions,
        _TRANSFER,
        _USER_OF_CHANNEL,
    )(handler)


def _be_nobody(message: Message) -> None:
    if message.user is None:
        message.user = AnonymousUser()


def _leave_user(message: Message) -> None:
    """The channel session says who it is, as far as it knows."""


async def _user_of_channel(message: Message) -> None:
    await _set_user(message, await _load(message, message.channel_session), "channel")
    if message.channel.name == "websocket.connect" and message.http_session is not None:
        await _confirm(message)


async def _user_of_http(message: Message) -> None:
    if or_none(message.http_session) is None:
        # There is no session to look at: that says nothing about the user of the connection.
        message.user = AnonymousUser()
        return
    await _set_user(message, await _load(message, message.http_session), "http")
    if message.channel.name == "websocket.connect":
        await _confirm(message)


async def _load(message: Message, session: Any) -> Any:
    loader = _users_of(message).user_loader
    if loader is None and session:
        say(
            logger,
            logging.DEBUG,
            "%s on %r: there is a session, and the application has no user_loader: its user is anonymous",
            message.channel.name,
            message.own.get("path"),
        )
    user = await loader(session) if loader is not None and session else None
    return AnonymousUser() if user is None else user


async def _transfer(message: Message) -> None:
    """Bring the channel session's user up to the HTTP session's, where there is one to look at."""
    http, channel = or_none(message.http_session), message.channel_session
    if http is None:
        return
    link = channel.get(LINK)
    if USER_ID in http:
        transfer_user(http, channel)
        if link is not None and link.get(USER_ID) != http[USER_ID]:
            channel[LINK] = {**link, USER_ID: http[USER_ID]}
    elif link is not None and USER_ID in link and channel.get(USER_ID) == link[USER_ID]:
        del channel[USER_ID]  # it came from there, and has logged out since


async def _confirm(message: Message) -> None:
    """Look again, now that the connection is in its user's group: whoever logged out in between is anonymous."""
    http = message.http_session
    if http.session_key is None:
        return
    user_id = http.get(USER_ID)
    text = await sessions_of(message).live_on(message)
    if user_id is not None and (text is None or _user_id_in(text) != user_id):
        if text is not None:
            await http.flush()
        if message.channel_session is not None:
            message.channel_session.pop(USER_ID, None)
        await _set_user(message, AnonymousUser(), *_SOURCES)


def _user_id_in(text: str) -> Any:
    try:
        session = decode_json(text)
    except InvalidJSON:
        return None
    return session.get(USER_ID) if isinstance(session, dict) else None


_USER_OF_CHANNEL = Step(_user_of_channel, _be_nobody)
_USER_OF_HTTP = Step(_user_of_http, _be_nobody)
_TRANSFER = Step(_transfer, _leave_user)


# -- logging in and out


def transfer_user(from_session: MutableMapping[str, Any], to_session: MutableMapping[str, Any]) -> None:
    """Make the user of one session the user of another; where there is none, nothing."""
    if USER_ID in from_session:
        to_session[USER_ID] = from_session[USER_ID]


async def login(message: Message, user: Any) -> None:
    """``user`` is who the client is from now on; ``message.user`` too.

    In an ``http.request`` consumer (in :func:`http_session_user`, or another decorator that has the HTTP session) the
    session goes on under a new key, so that a key that somebody else knew, or had planted, is worth nothing; the
    session of another user is ended and a new one begun. Call it before the first ``reply_channel.send``.

    On a WebSocket it is the connection's user, kept in the channel session, until it ends: a new key could not be
    sent over it. Where the consumer reads the HTTP session too, log in over HTTP and connect anew.

    Raises:
        SessionCookieUnavailable: the client could not be told the new key, see above.
        ValueError: the message has no session, or the user no id.
    """
    user_id = user_id_of(message, user)
    session = or_none(message.http_session)
    if session is not None:
        session.cycle_key()
        if session.get(USER_ID, user_id) != user_id:
            session.clear()
    else:
        session = or_none(message.channel_session)
        if session is None:
            raise ValueError(
                "login needs a session: put the consumer in http_session_user or channel_session_user"
            )
    session[USER_ID] = user_id
    await _set_user(message, user, "http" if session is message.http_session else "channel")


async def logout(message: Message) -> None:
    """End the message's HTTP session, everywhere and at once, and take the user from its connection.

    The response to an ``http.request`` takes the cookie away. What is put into the session afterwards begins a new
    one. Other WebSockets that were opened with the session are closed, with 3000, when the handler has returned or its
    response begins; those of the user's other sessions stay, and :meth:`triochan.Application.disconnect_user` closes
    all of them.

    Raises:
        ValueError: the message has no session.
        SessionStoreUnavailable: the store does not answer: the session is not ended.
    """
    if or_none(message.http_session) is None and or_none(message.channel_session) is None:
        raise ValueError(
            "logout needs a session: put the consumer in http_session_user or channel_session_user"
        )
    if message.http_session is not None:
        await message.http_session.end(Ended.LOGGED_OUT)
    if message.channel_session is not None:
        message.channel_session.pop(USER_ID, None)
    await _set_user(message, AnonymousUser(), *_SOURCES)


# -- the user's group


Source = Literal["http", "channel"]
_SOURCES: tuple[Source, ...] = ("http", "channel")


@attrs.define(eq=False)
class _Followed:
    """The users' groups that a connection is in, by the session that has its user.

    One handler may look at the one session, and another at the other: what the first has found out is not undone by the
    second, which knows nothing of it.
    """

    groups: dict[Source, str] = attrs.field(factory=dict)


def user_group(user_id: Any) -> str:
    """The name of the group of all sockets of the user with this id."""
    digest = hashlib.blake2b(encode_json(user_id).encode(), digest_size=16).hexdigest()
    return f"triochan.user.{digest}"


def user_id_of(message: Message, user: Any) -> Any:
    """What the application's ``user_id`` says of ``user``.

    Raises:
        ValueError: nothing.
    """
    return application_of(message).id_of(user)


async def _set_user(message: Message, user: Any, *sources: Source) -> None:
    """Make ``user`` the message's, and move its WebSocket from the group of the user before to theirs.

    Args:
        sources: the sessions that say so.
    """
    message.user = user
    endpoint = endpoint_of(message)
    if endpoint is None or endpoint.outbox is None:
        return
    user_id = None if isinstance(user, AnonymousUser) else _users_of(message).user_id(user)
    group = None if user_id is None else user_group(user_id)
    groups = endpoint.local.of(_Followed).groups
    for source in sources:
        before = groups.get(source)
        if group == before:
            continue
        if before is not None:
            del groups[source]
            if before not in groups.values():
                await Group(before).discard(message.reply_channel)
        if group is not None:
            if group not in groups.values():
                await Group(group).add(message.reply_channel)
            groups[source] = group


if not TYPE_CHECKING:
    __getattr__ = lookup(__name__)

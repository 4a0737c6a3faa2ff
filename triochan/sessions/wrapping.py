"""The one wrapper behind all session and user decorators: prepare the message, run the handler, save."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import trio

from ..decorators import message_among
from ..exceptions import SessionStoreUnavailable
from ..handlers import share_of_time
from ..layers import Channel
from ..message import Message, application_of, or_none
from ..routing import check_consumer, name_of
from ..security import check_same_origin
from ..session import Session
from .service import endpoint_of, sessions_of
from .sockets import leave

logger = logging.getLogger("triochan.sessions")

H = TypeVar("H", bound=Callable[..., Awaitable[Any]])


class Step(NamedTuple):
    """Prepares a message for its handler.

    Attributes:
        prepare: gives the message what the handler is to find there.
        stand_in: gives it something in its place that holds nothing, for a ``disconnect`` that can't have it.
    """

    prepare: Callable[[Message], Awaitable[None]]
    stand_in: Callable[[Message], None]


PREPARED_BY = "__prepared_by__"
"""The attribute of a wrapped handler that has its decorators' names, the outermost first."""

SAVE_SECONDS = 5.0
"""How long saving after a handler may take, whatever happens to the handler."""


def prepared_by(name: str, *steps: Step) -> Callable[[H], H]:
    """A decorator that takes a message through ``steps`` and then runs the handler.

    What the steps opened is saved when the handler has returned, raised, or was cancelled. A handler in two such
    decorators shares the sessions, and the outer one saves them.

    A ``websocket.disconnect`` is owed to its handler: where a step fails then, or takes half of the time that is left,
    the handler runs with what stands in for it (an empty session, an anonymous user), and the error is raised behind
    it.

    Args:
        name: the decorator's.

    Raises (the decorator):
        ImproperlyConfigured: the handler is not ``async def``.
        TypeError: it is a class.
    """

    def decorate(handler: H) -> H:
        if isinstance(handler, type):
            raise TypeError(
                f"{name} wraps functions and methods; in {handler.__qualname__}, set the class attribute of that name"
            )
        check_consumer(handler, f"{name}({name_of(handler)})")

        @functools.wraps(handler)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            message = message_among(args, name)
            if message.channel.name == "websocket.connect":
                check_same_origin(message, application_of(message).allowed_origins)
            before = (message.channel_session, message.http_session)
            failed: list[Exception] = []
            try:
                if message.channel.name == "websocket.disconnect":
                    failed = await _prepare_for_the_end(message, steps)
                else:
                    for step in steps:
                        await step.prepare(message)
                opened = _opened(message, before)
                with _saving_first(message, opened):
                    try:
                        result = await handler(*args, **kwargs)
                    except Exception as error:
                        if not failed:
                            raise
                        raise ExceptionGroup(
                            f"several errors in and before {name_of(handler)}", [*failed, error]
                        ) from None
            except BaseException:
                opened = _opened(message, before)
                # A new key has not reached the client, and won't: to keep something under it would keep it for nobody,
                # and a login that broke off has not happened.
                owed = [each for each in opened if each.session_key is not None and _is_owed(message, each)]
                try:
                    if not await _saved_in_time(message, owed, opened):  # noqa: ASYNC102 - it shields itself
                        logger.error("a session of %r was not saved within %g s", message, SAVE_SECONDS)
                except Exception:  # what the handler raised is what has to be seen
                    logger.exception("a session of %r could not be saved", message)
                raise
            owed = [each for each in opened if _is_owed(message, each)]
            if not await _saved_in_time(message, owed, opened):
                raise SessionStoreUnavailable(f"a session was not saved within {SAVE_SECONDS:g} s")
            if failed:
                raise failed[0]
            return result

        setattr(wrapper, PREPARED_BY, (name, *getattr(handler, PREPARED_BY, ())))
        return cast(H, wrapper)

    decorate.__name__ = decorate.__qualname__ = name
    return decorate


async def _prepare_for_the_end(message: Message, steps: tuple[Step, ...]) -> list[Exception]:
    """Take a ``websocket.disconnect`` through ``steps``; what they raised, one at most."""
    errors: list[Exception] = []
    with trio.CancelScope(deadline=share_of_time()) as scope:
        for step in steps:
            done = False
            try:
                await step.prepare(message)
                done = True
            except Exception as error:  # noqa: BLE001 - raised behind the handler
                errors.append(error)
            finally:
                if not done:
                    step.stand_in(message)
    if scope.cancelled_caught:
        errors.append(trio.TooSlowError("its session or user took half of the time that disconnect has"))
        for step in steps:
            step.stand_in(message)
    return errors[:1]


def _opened(message: Message, before: tuple[Session | None, Session | None]) -> list[Session]:
    """The sessions that were opened since ``before``."""
    after = (message.channel_session, message.http_session)
    return [
        session for session, known in zip(after, before, strict=True) if session is not None and known is None
    ]


def _is_owed(message: Message, session: Session) -> bool:
    """It has to be saved, or ended with its connection."""
    return session.modified or _ends_now(message, session)


def _ends_now(message: Message, session: Session) -> bool:
    return session is message.channel_session and message.channel.name == "websocket.disconnect"


async def _saved_in_time(message: Message, owed: list[Session], opened: list[Session]) -> bool:
    """Do what is owed, whatever happens to the handler; False: it took more than ``SAVE_SECONDS``, and was cancelled.

    No checkpoint where nothing is.
    """
    if not owed and not any(session.over for session in opened):
        return True
    with trio.CancelScope(shield=True, deadline=trio.current_time() + SAVE_SECONDS) as scope:
        await _save(message, owed, opened)
    return not scope.cancelled_caught


async def _save(message: Message, owed: list[Session], opened: list[Session]) -> None:
    for session in opened:
        for key in session.over:
            # Whose handler has ended the session knows it, and may go on, with an anonymous one.
            await leave(message, endpoint_of(message), key)
        await session.tell_ended()
    for session in owed:
        if _ends_now(message, session):
            await session.flush()
        else:
            await session.save()


@contextmanager
def _saving_first(message: Message, opened: list[Session]) -> Iterator[None]:
    """Within the block, what is sent to the client leaves when what it may speak of is saved.

    A client that is told "saved" may ask at once, over another connection and in another process.
    """
    kept = [session for session in opened if session.kept]
    for session in kept:
        session.wait_to_tell()
    channel = message.reply_channel
    if not kept or not isinstance(channel, Channel):
        yield
        return
    saving = _SavingChannel(channel, kept)
    message.reply_channel = saving
    try:
        yield
    finally:
        saving.sessions = ()
        if message.reply_channel is saving:
            message.reply_channel = channel


class _SavingChannel(Channel):
    """A reply channel that saves sessions before it sends."""

    __slots__ = ("_channel", "sessions")

    def __init__(self, channel: Channel, sessions: Sequence[Session]) -> None:
        self._layer = channel._layer
        self._channel = channel
        self.sessions = sessions

    @property
    def name(self) -> str:  # type: ignore[override]
        return self._channel.name

    @property
    def endpoint(self) -> Any:
        return getattr(self._channel, "endpoint", None)

    async def send(self, content: dict[str, Any], /, *, delay: float = 0.0, immediately: bool = True) -> None:
        # The first piece of a response saves by itself, and has the cookie: see Sessions.from_cookie.
        if getattr(self.endpoint, "started", True):
            for session in self.sessions:
                if session.modified:
                    await session.save()
        await self._channel.send(content, delay=delay, immediately=immediately)


async def _open_channel_session(message: Message) -> None:
    if or_none(message.channel_session) is None:
        message.channel_session = await sessions_of(message).of_connection(message)


def _without_channel_session(message: Message) -> None:
    if or_none(message.channel_session) is None:
        message.channel_session = Session(None, 0)  # takes what it is given, and keeps it nowhere


async def _open_http_session(message: Message) -> None:
    if or_none(message.http_session) is None and _has_head(message):
        message.http_session = await sessions_of(message).from_cookie(message)


def _without_http_session(message: Message) -> None:
    if or_none(message.http_session) is None:
        message.http_session = Session(None, 0)


def _nothing_instead(message: Message) -> None:
    """A disconnect has no cookies: the step does nothing then."""


async def _live_on_http_session(message: Message) -> None:
    """The end of the handshake's HTTP session closes its WebSocket."""
    await sessions_of(message).live_on(message)


_HEADED = ("http.request", "websocket.connect")


def _has_head(message: Message) -> bool:
    """Whether its ``headers`` are a request's.

    On other channels than the server's own, content may well be a client's, with a key of that name: there, headers
    count only where they are what a server makes of them and what JSON has no form for, pairs of bytes.
    """
    if message.channel.name in _HEADED:
        return "headers" in message
    headers = message.get("headers")
    return (
        isinstance(headers, list)
        and bool(headers)
        and all(
            isinstance(pair, (list, tuple))
            and len(pair) == 2
            and all(isinstance(part, bytes) for part in pair)
            for pair in headers
        )
    )


LINK = "_http_session"
"""Where a channel session keeps its HTTP session: the key, and the user that was transferred from it."""


async def _link_sessions(message: Message) -> None:
    """Note the HTTP session's key in the channel session, and find the HTTP session by it later on."""
    if or_none(message.http_session) is not None:
        # Nothing is kept of who has no session: a store of channel sessions would hold one for each that only connects.
        if LINK not in message.channel_session and message.http_session.session_key is not None:
            message.channel_session[LINK] = {"key": message.http_session.session_key}
    else:
        link = message.channel_session.get(LINK) or {}
        message.http_session = await sessions_of(message).by_key(link.get("key"))


open_channel_session = Step(_open_channel_session, _without_channel_session)
open_http_session = Step(_open_http_session, _nothing_instead)
link_sessions = Step(_link_sessions, _without_http_session)
live_on_http_session = Step(_live_on_http_session, _nothing_instead)

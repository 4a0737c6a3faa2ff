"""Every exception that triochan raises on purpose, in one tree, named by who acted."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from .porting import lookup
from .replies import check_close


class TriochanError(Exception):
    """Base of everything below: ``except TriochanError`` catches what triochan itself reports."""


class ImproperlyConfigured(TriochanError):
    """A routing, a consumer class or an option is wrong; found when it is built, never on a message."""


class ConnectionClosed(TriochanError):
    """The socket behind a ``send`` is closed, or is closing.

    An uncaught one ends its handler quietly: a peer that leaves is not an error of the program.

    Attributes:
        code: the close code of RFC 6455 section 7.4 (1005: none was sent, 1006: no closing handshake).
        reason: the reason sent with it, ``""`` where there was none.
    """

    def __init__(self, code: int = 1006, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"the connection is closed (code {self.code}{': ' + self.reason if self.reason else ''})"


class DenyConnection(TriochanError):
    """Raised by a ``connect`` handler: the handshake is answered with HTTP 403.

    ``disconnect`` is not called, for the connection never was (Channels 1: "Security").
    """


class ChannelSocketException(TriochanError):
    """Raised by a handler to have :meth:`run` run in its place, in the handler's task (Channels 1.0.2).

    It is no error then: nothing is logged, and a socket stays open unless ``run`` closes it.

    Raises (when a subclass is made):
        ImproperlyConfigured: its ``run`` is not ``async def``.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not inspect.iscoroutinefunction(cls.run):
            raise ImproperlyConfigured(f"{cls.__module__}.{cls.__qualname__}.run is not 'async def'")

    async def run(self, message: Any) -> None:
        """What to do about ``message``, a :class:`triochan.Message`, whose handler raised this; override it."""
        raise NotImplementedError(f"{type(self).__qualname__} has no run(message)") from self


class WebsocketCloseException(ChannelSocketException):
    """Raised by a handler to close its WebSocket, or to refuse it (403) while it connects.

    Attributes:
        code: the close code; None for 1000.
        reason: at most 123 bytes of UTF-8.

    Raises (when one is made):
        ValueError: a code or a reason that can't be sent.
    """

    def __init__(self, code: int | None = None, reason: str = "") -> None:
        check_close(True if code is None else code, reason)
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    async def run(self, message: Any) -> None:
        channel = message.reply_channel
        if channel is None or not channel.name.startswith("websocket."):
            raise ValueError(
                f"WebsocketCloseException closes the WebSocket behind a message's reply channel; {message!r} has "
                + ("none" if channel is None else f"the reply channel {channel.name!r}")
            ) from self
        await channel.send({"close": True if self.code is None else self.code, "reason": self.reason})

    def __str__(self) -> str:
        return f"close with {self.code or 1000}{': ' + self.reason if self.reason else ''}"


class ChannelFull(TriochanError):
    """A named channel holds as many messages as its capacity allows; this one was not taken.

    Attributes:
        channel: the channel's name.
        capacity: how many messages it holds.
    """

    def __init__(self, channel: str, capacity: int) -> None:
        super().__init__(channel, capacity)
        self.channel = channel
        self.capacity = capacity

    def __str__(self) -> str:
        return (
            f"channel {self.channel!r} is full: {self.capacity} messages wait in it. Send less often, handle "
            "ChannelFull, or raise Settings.channel_capacity"
        )


class LayerUnavailable(TriochanError):
    """The engine behind a channel layer does not answer; the message was not delivered."""


class SessionNotSerializable(TriochanError, TypeError):
    """A session was given a value that JSON has no form for; the message names the key."""


class SessionCookieUnavailable(TriochanError):
    """A session needs a new key, and there is no response to come that could carry it to the client."""


class SessionStoreUnavailable(TriochanError):
    """What is behind a session store, a file or an engine, does not answer or is damaged."""


class SendNotAvailableOnDemultiplexer(TriochanError):
    """``send`` on a demultiplexer names no stream; use the ``multiplexer`` argument's ``send`` instead."""


class InvalidContent(TriochanError, ValueError):
    """A JSON value does not fit the annotation of the consumer that it is for.

    Attributes:
        details: a line for each mistake, its path first: ``$.items[2].name: missing``.
    """

    def __init__(self, details: list[str]) -> None:
        super().__init__(details)
        self.details = details

    def __str__(self) -> str:
        return "; ".join(self.details)


if not TYPE_CHECKING:
    __getattr__ = lookup(__name__)

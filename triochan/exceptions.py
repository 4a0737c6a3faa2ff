"""Every exception that triochan raises on purpose, in one tree, named by who acted."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .headers import check_headers, reason_phrase
from .porting import lookup
from .replies import check_close


class TriochanError(Exception):
    """Base of everything below: ``except TriochanError`` catches what triochan itself reports."""


class ImproperlyConfigured(TriochanError):
    """A routing, a consumer class or an option is wrong; found when it is built, never on a message."""


class CannotListen(TriochanError, OSError):
    """An address can't be had, or a socket that was handed over is none to listen on.

    Attributes:
        errno: the system's number.
        strerror: what is wrong, and what to do.
        filename: where: ``127.0.0.1:8000``, ``the Unix socket /run/app.sock``, ``descriptor 3``.
    """

    def __str__(self) -> str:
        return f"can't listen on {self.filename}: {self.strerror}"


class RoutingWarning(UserWarning):
    """Something in a routing or a consumer class is probably not meant so; found when it is built."""


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


class HttpError(TriochanError):
    """Raised by a consumer of ``http.request``: the request is answered with it; by ``connect``: the handshake is.

    Args:
        status: from 400 to 599.
        text: for the client, in plain text; None: the status's own, such as ``Not Found``.
        headers: of the answer, pairs of strings, or a mapping.

    Raises:
        ValueError: another status; a text that is none, or has a lone surrogate; headers that break out of their line.
    """

    def __init__(
        self,
        status: int,
        text: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> None:
        if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 599:
            raise ValueError(f"an HttpError's status is from 400 to 599, not {status!r}")
        if text is None:
            text = reason_phrase(status)
        elif not isinstance(text, str):
            raise ValueError(f"an HttpError's text is a string, not {text!r:.100}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"an HttpError's text has a lone surrogate: {text!r:.100}") from None
        self.status = status
        self.text: str = text
        self.headers: list[tuple[str, str]] = list(
            headers.items() if isinstance(headers, Mapping) else headers
        )
        check_headers(self.headers)
        super().__init__(status, self.text, self.headers)

    def __str__(self) -> str:
        return f"{self.status} {self.text}"


class ChannelSocketException(TriochanError):
    """Raised by a handler to have :meth:`run` run in its place, in the handler's task (Channels 1.0.2).

    It is no error then: nothing is logged, and a socket stays open unless ``run`` closes it.

    Raises (when a subclass is made):
        ImproperlyConfigured: its ``run`` is not ``async def``.
    """

    def __init_subclass__(cls, **kwargs: object) -> None:
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
    """A named channel holds all that it may, in messages or in bytes; this message was not taken.

    Attributes:
        channel: the channel's name.
        capacity: how many messages it holds.
        size: how many bytes it holds, where it is full by these; None where it is by the number of messages.
        share: how many messages of one connection it holds, where it is full for this one alone; else None.
    """

    def __init__(
        self, channel: str, capacity: int, size: int | None = None, share: int | None = None
    ) -> None:
        super().__init__(channel, capacity, size, share)
        self.channel = channel
        self.capacity = capacity
        self.size = size
        self.share = share

    def __str__(self) -> str:
        if self.share is not None:
            held, setting = f"{self.share} messages of this connection wait in it", "channel_share"
        elif self.size is None:
            held, setting = f"{self.capacity} messages wait in it", "channel_capacity"
        else:
            held, setting = f"{self.size:,} bytes of messages wait in it", "channel_bytes"
        return (
            f"channel {self.channel!r} is full: {held}. Send less often, handle ChannelFull, or raise "
            f"Settings.{setting}"
        )


class NobodyListens(TriochanError):
    """A message was sent to a named channel that no consumer takes from; it was not kept.

    Attributes:
        channel: the channel's name.
        meant: one that consumers take from and whose name is like it, or None.
    """

    def __init__(self, channel: str, meant: str | None = None) -> None:
        super().__init__(channel, meant)
        self.channel = channel
        self.meant = meant

    def __str__(self) -> str:
        if self.meant is not None:
            return f"nobody listens on channel {self.channel!r}; did you mean {self.meant!r}?"
        return (
            f"nobody listens on channel {self.channel!r}; route({self.channel!r}, …) makes a consumer listen"
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

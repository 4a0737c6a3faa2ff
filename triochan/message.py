"""One message, as a consumer sees it, and the rule for names of channels and groups."""

from __future__ import annotations

import copy
import re
from collections.abc import Awaitable, Callable, ItemsView, Iterator, KeysView, ValuesView
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVarTuple

from .origins import AllowedHosts, AllowedOrigins
from .porting import lookup
from .session import Session
from .typed import HasConverter
from .typed.parameters import TypeVar

_NAME = re.compile(r"[A-Za-z0-9\-_.]+\Z")
_REPLY_NAME = re.compile(r"[A-Za-z0-9\-_.]+![A-Za-z0-9\-_.]+\Z")
MAX_NAME_LENGTH = 100

Ts = TypeVarTuple("Ts")
T = TypeVar("T", default=Any)
S_co = TypeVar("S_co", covariant=True, default=Any)
U = TypeVar("U", default=Any)


def check_name(kind: str, name: object, *, reply: bool = False) -> str:
    """``name``, if it may name a ``kind`` ("channel" or "group").

    Raises:
        TypeError: it is not a string.
        ValueError: it is empty, longer than 100 characters, or has a character other than ASCII
            letters, digits, ``-``, ``_``, ``.`` (and one ``!`` in the middle where ``reply``).
    """
    if not isinstance(name, str):
        raise TypeError(f"a {kind} name is a string, not {name!r}")
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(
            f"{kind} name {name[:20]!r}… has {len(name)} characters; at most {MAX_NAME_LENGTH} go"
        )
    if not (_NAME.match(name) or (reply and _REPLY_NAME.match(name))):
        raise ValueError(
            f"{kind} name {name!r} may have ASCII letters, digits, '-', '_' and '.' only"
            + (" (and one '!' in a reply channel's)" if reply else "")
        )
    return name


class SendsReplies(Protocol):
    """What a message's ``channel`` and ``reply_channel`` are; :class:`triochan.Channel` is one."""

    @property
    def name(self) -> str: ...

    @property
    def layer(self) -> Any: ...

    @property
    def channel_layer(self) -> Any: ...

    async def send(
        self, content: dict[str, Any], /, *, delay: float = 0.0, immediately: bool = True
    ) -> None: ...


class StartsTasks(Protocol):
    """What an application's ``nursery`` is: a ``trio.Nursery``."""

    def start_soon(
        self, async_fn: Callable[[*Ts], Awaitable[object]], /, *args: *Ts, name: object = None
    ) -> None: ...

    async def start(
        self, async_fn: Callable[..., Awaitable[object]], /, *args: object, name: object = None
    ) -> Any: ...


class MessageApplication(HasConverter, Protocol):
    """What a message's ``application`` is; :class:`triochan.Application` is one."""

    @property
    def allowed_hosts(self) -> AllowedHosts | None: ...

    @property
    def allowed_origins(self) -> AllowedOrigins: ...

    @property
    def state(self) -> Any: ...

    @property
    def nursery(self) -> StartsTasks: ...

    def id_of(self, user: Any) -> Any: ...

    async def disconnect_user(self, user: Any, *, code: int = 3000, reason: str = "logged out") -> None: ...


class LiveConnection(Protocol[S_co]):
    """What a message's ``connection`` is: the program's side of a live WebSocket.

    :class:`triochan.websocket.connection.Connection` is one, and says what each of these does.
    """

    @property
    def channel(self) -> SendsReplies: ...

    @property
    def path(self) -> str: ...

    @property
    def client(self) -> list[Any] | None: ...

    @property
    def state(self) -> S_co: ...

    @property
    def application(self) -> MessageApplication: ...

    @property
    def ordering(self) -> Literal["strict", "slight"] | None: ...

    @property
    def dropped(self) -> int: ...

    @property
    def closing(self) -> bool: ...

    @property
    def close_code(self) -> int | None: ...

    @property
    def close_reason(self) -> str: ...

    async def send(self, data: str | bytes) -> None: ...

    def send_nowait(self, data: str | bytes) -> bool: ...

    def close(self, code: int = 1000, reason: str = "") -> None: ...

    def start_soon(self, function: Callable[[*Ts], Awaitable[object]], /, *args: *Ts) -> None: ...


class Message(Generic[U]):
    """What arrived on a channel: a mapping over ``content``, plus where it came from.

    Attributes:
        content: the message's own keys; ``docs/architecture.md`` lists them for each channel. Where there is a reply
            channel, ``"reply_channel"`` is its name, so that ``Channel(…).send(message.content)`` passes it on.
        channel: the channel it arrived on; ``message.channel.name`` is what routing matches.
        reply_channel: the channel back to the client, None where nobody waits for an answer.
        channel_session, http_session, user: set by the decorators of :mod:`triochan.sessions` and
            :mod:`triochan.auth`; None until then.
        connection: the live connection behind it, None for a message that came from no socket.
        application: the :class:`triochan.Application` that it is for; None for one that was made by hand.
    """

    __slots__ = (
        "_application", "channel", "channel_session", "connection", "http_session", "own", "reply_channel", "user",
    )  # fmt: skip

    def __init__(
        self,
        content: dict[str, Any],
        channel: SendsReplies,
        reply_channel: SendsReplies | None = None,
        connection: LiveConnection | None = None,
    ) -> None:
        # What the framework reads: a reply channel's name is only made for programs that ask for it.
        self.own = content
        self.channel = channel
        # Typed without "or None", which most handlers' messages never have: so none of them has to ask, and a type
        # checker finds the await that is missing.
        self.reply_channel: SendsReplies = reply_channel  # type: ignore[assignment]
        self.connection: LiveConnection = connection  # type: ignore[assignment]
        self.channel_session: Session = None  # type: ignore[assignment]
        self.http_session: Session = None  # type: ignore[assignment]
        self.user: U = None  # type: ignore[assignment]

    @property
    def application(self) -> MessageApplication:
        # Set where there is no connection to ask: no message of a socket pays for it.
        own = getattr(self, "_application", None)
        return own if own is not None else getattr(self.connection, "application", None)  # type: ignore[return-value]

    @application.setter
    def application(self, application: MessageApplication | None) -> None:
        self._application = application

    @property
    def content(self) -> dict[str, Any]:
        own = self.own
        if self.reply_channel is not None and "reply_channel" not in own:
            own["reply_channel"] = self.reply_channel.name
        return own

    @content.setter
    def content(self, content: dict[str, Any]) -> None:
        self.own = content

    @property
    def channel_layer(self) -> Any:
        """The layer that the message came by: what :class:`triochan.Channel` and :class:`triochan.Group` take as
        their ``layer``."""
        return (self.channel if self.reply_channel is None else self.reply_channel).layer

    def __getitem__(self, key: str) -> Any:
        return (self.content if key == "reply_channel" else self.own)[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.own[key] = value

    def __contains__(self, key: object) -> bool:
        return key in (self.content if key == "reply_channel" else self.own)

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)

    def get(self, key: str, default: Any = None) -> Any:
        return (self.content if key == "reply_channel" else self.own).get(key, default)

    def keys(self) -> KeysView[str]:
        return self.content.keys()

    def values(self) -> ValuesView[Any]:
        return self.content.values()

    def items(self) -> ItemsView[str, Any]:
        return self.content.items()

    def copy(self) -> Message[U]:
        """A message with a deep copy of the content; the channels and the connection are shared."""
        other: Message[U] = Message(
            copy.deepcopy(self.own), self.channel, self.reply_channel, self.connection
        )
        other.channel_session = self.channel_session
        other.http_session = self.http_session
        other.user = self.user
        other.application = self.application
        return other

    def __repr__(self) -> str:
        keys = ", ".join(f"{key}={value!r:.40}" for key, value in self.own.items() if key != "headers")
        return f"<Message on {self.channel.name} {keys}>"


def or_none(attribute: T) -> T | None:
    """What a message's attribute has, or None: to a type checker it always has what most handlers find there."""
    return attribute


def application_of(message: Message) -> MessageApplication:
    """The application that the message is for.

    Raises:
        RuntimeError: nothing says which; the message was made by hand.
    """
    application = or_none(message.application)
    if application is None:
        raise RuntimeError(
            f"{message!r} belongs to no application, so there is no session store to look into; a server's messages "
            "and a test client's have one, by hand it is message.application = Application(routing)"
        )
    return application


if not TYPE_CHECKING:
    __getattr__ = lookup(__name__)

"""One message, as a consumer sees it, and the rule for names of channels and groups."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any, Protocol

_NAME = re.compile(r"[A-Za-z0-9\-_.]+\Z")
_REPLY_NAME = re.compile(r"[A-Za-z0-9\-_.]+![A-Za-z0-9\-_.]+\Z")
MAX_NAME_LENGTH = 100


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

    async def send(self, content: dict[str, Any], /) -> None: ...


class Message:
    """What arrived on a channel: a mapping over ``content``, plus where it came from.

    Attributes:
        content: the message's own keys (SPEC of each channel: ``docs/architecture.md``).
        channel: the channel it arrived on; ``message.channel.name`` is what routing matches.
        reply_channel: the channel back to the client, None where nobody waits for an answer.
        channel_session, http_session, user: set by the decorators of :mod:`triochan.sessions` and
            :mod:`triochan.auth`; None until then.
        connection: the live connection behind it, None for a message that came from no socket.
        application: the :class:`triochan.Application` that it is for; None for one that was made by hand.
    """

    __slots__ = (
        "_application", "channel", "channel_session", "connection", "content", "http_session", "reply_channel", "user",
    )  # fmt: skip

    def __init__(
        self,
        content: dict[str, Any],
        channel: SendsReplies,
        reply_channel: Any = None,
        connection: Any = None,
    ) -> None:
        self.content = content
        self.channel = channel
        self.reply_channel = reply_channel
        self.connection = connection
        self.channel_session: Any = None
        self.http_session: Any = None
        self.user: Any = None

    @property
    def application(self) -> Any:
        # Set where there is no connection to ask: no message of a socket pays for it.
        own = getattr(self, "_application", None)
        return own if own is not None else getattr(self.connection, "application", None)

    @application.setter
    def application(self, application: Any) -> None:
        self._application = application

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.content[key] = value

    def __contains__(self, key: object) -> bool:
        return key in self.content

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)

    def get(self, key: str, default: Any = None) -> Any:
        return self.content.get(key, default)

    def keys(self) -> Any:
        return self.content.keys()

    def values(self) -> Any:
        return self.content.values()

    def items(self) -> Any:
        return self.content.items()

    def copy(self) -> Message:
        """A message with a deep copy of the content; the channels and the connection are shared."""
        other = Message(copy.deepcopy(self.content), self.channel, self.reply_channel, self.connection)
        other.channel_session = self.channel_session
        other.http_session = self.http_session
        other.user = self.user
        other.application = self.application
        return other

    def __repr__(self) -> str:
        keys = ", ".join(f"{key}={value!r:.40}" for key, value in self.content.items() if key != "headers")
        return f"<Message on {self.channel.name} {keys}>"

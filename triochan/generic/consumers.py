"""Consumers of WebSockets, plain and JSON (Channels 1: "Generic Consumers", "WebSockets")."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from ..content import InvalidJSON, decode_json, encode_json
from ..exceptions import ImproperlyConfigured, InvalidContent
from ..layers import Group
from ..message import Message
from ..routing import name_of
from ..running import current_application
from ..settings import Overflow
from ..typed import PLAIN, ContentType, content_annotation, encode_with, to_plain
from .base import BaseConsumer, Begin


class WebsocketConsumer(BaseConsumer):
    """The consumer of a WebSocket's whole life.

    Override :meth:`connect`, :meth:`receive` and :meth:`disconnect`.

    Attributes:
        groups: the groups that every connection is in, unless :meth:`connection_groups` is overridden.
        strict_ordering: one handler at a time, in the order of arrival.
        slight_ordering: ``connect`` has finished before any ``receive`` starts; receives may overlap.
        max_overlap, overflow, outbox_limit, compression: this consumer's own, instead of the
            :class:`triochan.Settings`.
        cancel_on_disconnect: cancel running handlers when the peer is gone, instead of letting them finish.
        path: the URL's path.
    """

    method_mapping: ClassVar[Mapping[str, str]] = {
        "websocket.connect": "raw_connect",
        "websocket.receive": "raw_receive",
        "websocket.disconnect": "raw_disconnect",
    }
    handler_names: ClassVar[tuple[str, ...]] = ("connect", "receive", "disconnect")

    groups: Iterable[str] = ()
    strict_ordering = False
    slight_ordering = False
    cancel_on_disconnect = False
    max_overlap: int | None = None
    overflow: Overflow | None = None
    outbox_limit: int | None = None
    compression: bool | None = None

    @classmethod
    def begin_on(cls, channel: str) -> Begin | None:
        """As :meth:`BaseConsumer.begin_on`; None where the class leaves all that would be called as it is here."""
        raw = cls.method_mapping.get(channel)
        if raw == "raw_receive":
            if cls.raw_receive is _OWN.raw_receive and cls._is_straight():
                begin = super().begin_on(channel)

                def receive(message: Message, kwargs: dict[str, Any]) -> Coroutine[Any, Any, object]:
                    text = message.content.get("text")
                    if text is None:
                        return begin(message, kwargs)  # type: ignore[misc]
                    if kwargs:
                        return cls(message, **kwargs).receive(text=text, **kwargs)
                    # The same, without the dicts that the other one builds: most routes have no named groups.
                    return cls(message).receive(text=text)

                return receive
        elif cls._does_nothing_on(raw) and cls._is_straight():
            return None
        return super().begin_on(channel)

    @classmethod
    def _does_nothing_on(cls, raw: str | None) -> bool:
        """All that is called for the method ``raw`` is this class's own, and has nothing to do."""
        own = _OWN
        if raw == "raw_connect":
            same = cls.raw_connect is own.raw_connect and cls.connect is own.connect
        elif raw == "raw_disconnect":
            same = cls.raw_disconnect is own.raw_disconnect and cls.disconnect is own.disconnect
        else:
            return False
        return (
            same
            and not cls.groups
            and cls.connection_groups is own.connection_groups
            and cls._group_names is own._group_names
        )

    @property
    def path(self) -> str:
        return self.message.content.get("path", "")  # type: ignore[no-any-return]

    def connection_groups(self, **kwargs: Any) -> Iterable[str]:
        """The groups that the connection is in for as long as it lives.

        Args:
            kwargs: the routing's named groups; give the same answer for the same connection.
        """
        return self.groups

    # -- what the routing calls

    async def raw_connect(self, message: Message, **kwargs: Any) -> None:
        for name in self._group_names(kwargs):
            await Group(name).add(message.reply_channel)
        await self.connect(message, **kwargs)

    async def raw_receive(self, message: Message, **kwargs: Any) -> None:
        content = message.content
        if "text" in content:
            await self.receive(text=content["text"], **kwargs)
        else:
            await self.receive(bytes=content["bytes"], **kwargs)

    async def raw_disconnect(self, message: Message, **kwargs: Any) -> None:
        for name in self._group_names(kwargs):
            await Group(name).discard(message.reply_channel)
        await self.disconnect(message, **kwargs)

    def _group_names(self, kwargs: dict[str, Any]) -> Iterable[str]:
        names = self.connection_groups(**kwargs)
        if isinstance(names, (str, bytes)):
            raise ImproperlyConfigured(
                f"{type(self).__qualname__}: groups and connection_groups() are a list of names, "
                f"not one string; write [{names!r}]"
            )
        return names or ()

    # -- what the program overrides

    async def connect(self, message: Message, **kwargs: Any) -> None:
        """A client is connecting. Returning accepts it; :meth:`close` or ``raise DenyConnection`` answers 403."""

    if TYPE_CHECKING:
        # To a type checker any signature goes: the JSON consumer's is another one, and a program's own narrows it.
        async def receive(self, *args: Any, **kwargs: Any) -> None: ...

    else:

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            """A message came: ``text`` or ``bytes`` of it."""

    async def disconnect(self, message: Message, **kwargs: Any) -> None:
        """The connection is over: ``message["code"]`` and ``message["reason"]`` say how. Called exactly once."""

    # -- what the program calls

    async def send(
        self, text: str | None = None, bytes: bytes | None = None, close: bool | int = False
    ) -> None:
        """Send one message to the client, waiting while its outbox is full.

        Args:
            close: afterwards, close the socket: True for 1000, or a code.

        Raises:
            ValueError: neither text nor bytes, or both.
            ConnectionClosed: the peer is gone.
        """
        message = self.message
        connection = message.connection
        if (
            connection is not None
            and close is False
            and bytes is None
            and text.__class__ is str
            and message.reply_channel is connection.channel
        ):
            # What the rest comes to, without its dict and its checks.
            if not connection.send_nowait(text):
                await connection.send(text)
            return
        if text is None and bytes is None:
            raise ValueError("send takes text or bytes")
        await message.reply_channel.send(_content(text, bytes, close))

    async def close(self, code: int | bool = True, reason: str = "") -> None:
        """Close the socket from this end, or refuse it while it connects; does not wait for the peer.

        Args:
            code: the close code; True is 1000.
            reason: at most 123 bytes of UTF-8.
        """
        await self.message.reply_channel.send({"close": code, "reason": reason})

    @classmethod
    async def group_send(
        cls, name: str, text: str | None = None, bytes: bytes | None = None, close: bool | int = False
    ) -> None:
        """Send one message to every member of the group ``name``; see :meth:`triochan.Group.send`.

        Raises:
            ValueError: neither text nor bytes, or both; or a name that is none.
        """
        if text is None and bytes is None:
            raise ValueError("group_send takes text or bytes")
        await Group(name).send(_content(text, bytes, close))


# As they are written here: the class itself may be patched.
_OWN = SimpleNamespace(**vars(WebsocketConsumer))


class JsonWebsocketConsumer(WebsocketConsumer):
    """A WebSocket whose messages are JSON: values in, values out.

    Text that is not JSON closes the socket with 1007, a binary message with 1003.

    Where :meth:`receive` annotates its content with an attrs class, a dataclass, a TypedDict, or something made of
    these, it gets such an object; what does not fit goes to :meth:`content_invalid`. Objects of the same kinds may be
    sent. The annotation's names have to be in the module when the class is routed to (:mod:`triochan.typed.converter`
    says what fits what)::

        @attrs.frozen
        class Move:
            type: Literal["move"]
            x: int
            y: int

        @attrs.frozen
        class Say:
            type: Literal["say"]
            text: str

        class Game(JsonWebsocketConsumer):
            async def receive(self, content: Move | Say, **kwargs): ...
    """

    _content_type: ClassVar[ContentType | None] = None
    _multiplexer: Any = None
    """Of a stream's consumer: what its answers go through; set on the instance by its demultiplexer."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        try:
            cls._find_content_type()
        except ImproperlyConfigured:
            cls._content_type = None  # a name may still be defined further down; check_definition looks again

    @classmethod
    def _find_content_type(cls) -> None:
        place = f"{name_of(cls)}.receive"
        annotation = content_annotation(cls.receive, place)
        cls._content_type = None if annotation is None else ContentType(annotation, place)

    @classmethod
    def check_definition(cls) -> None:
        """Find what is wrong with the class; called when it is routed to.

        Raises:
            ImproperlyConfigured: the annotation of ``receive`` names something that is not to be found.
        """
        if cls._content_type is None:
            cls._find_content_type()

    @classmethod
    def content_types(cls) -> Iterator[ContentType]:
        """What the class makes its contents into; the application makes the hooks for it."""
        if cls._content_type is not None:
            yield cls._content_type

    async def raw_receive(self, message: Message, **kwargs: Any) -> None:
        text = message.content.get("text")
        if text is None:
            await self.close(1003, "this socket takes JSON in text messages only")
            return
        try:
            content = self.decode_json(text)
        except InvalidJSON:
            await self.close(1007, "this is not JSON")
            return
        if self._content_type is not None:
            try:
                content = self._content_type.structure(content, message.application)
            except InvalidContent as error:
                await self.content_invalid(error)
                return
        await self.receive(content, **kwargs)

    async def receive(self, content: Any, **kwargs: Any) -> None:
        """A message came, decoded, and made into an object where ``content`` is annotated so."""

    async def content_invalid(self, error: InvalidContent) -> None:
        """A message came that does not fit the annotation of :meth:`receive`; ``error.details`` say why.

        The client is answered ``{"error": "invalid content", "details": [...]}``, on its stream if there is one, and
        the socket stays open; override it for anything else.
        """
        if self._multiplexer is not None:
            await self._multiplexer.send_error("invalid content", error.details)
        else:
            await self.send({"error": "invalid content", "details": error.details})

    async def send(self, content: Any, close: bool | int = False) -> None:  # type: ignore[override]
        """Send ``content`` as JSON; see :meth:`WebsocketConsumer.send`.

        Args:
            content: a value that JSON has a form for, or one with objects that the application's converter makes into
                such values: attrs classes, dataclasses, dates and so on.

        Raises:
            TypeError: JSON has no form for it.
        """
        # What encode_with does, written out: most messages are sent here.
        text = None
        if content.__class__ in PLAIN:
            try:
                text = self.encode_json(content)
            except TypeError:
                pass
        if text is None:
            text = self.encode_json(to_plain(content, self.message.application))
        await super().send(text=text, close=close)

    @classmethod
    async def group_send(cls, name: str, content: Any, close: bool | int = False) -> None:  # type: ignore[override]
        """Send ``content`` as JSON to every member of the group ``name``, encoded once; see :meth:`send`."""
        await WebsocketConsumer.group_send(
            name, text=encode_with(cls.encode_json, content, current_application()), close=close
        )

    @classmethod
    def decode_json(cls, text: str) -> Any:
        """The value that ``text`` says; override for another dialect, and raise ``InvalidJSON``."""
        return decode_json(text)

    @classmethod
    def encode_json(cls, content: Any) -> str:
        """``content`` as text."""
        return encode_json(content)


def _content(text: str | None, bytes: bytes | None, close: bool | int) -> dict[str, Any]:
    content: dict[str, Any] = {"text": text, "bytes": bytes}
    if close is not False:
        content["close"] = close
    return content

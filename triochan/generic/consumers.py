"""Consumers of WebSockets, plain and JSON (Channels 1: "Generic Consumers", "WebSockets")."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from types import CoroutineType, SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, cast, get_args

import attrs

from ..content import decode_json
from ..exceptions import ImproperlyConfigured, InvalidContent
from ..handlers import Begin
from ..layers import Endpoint, Group, MemoryLayer, current_layer
from ..log_lines import say
from ..message import Message, SendsReplies, check_name
from ..routing import name_of
from ..running import current_application
from ..settings import Overflow
from ..typed import ContentType, content_annotation, encode_content, encode_with, type_argument
from ..typed.parameters import TypeVar
from .base import BaseConsumer, as_coroutine, excluded, group_method, raise_all
from .rate_limits import exceeded_limit, parse_rate

logger = logging.getLogger("triochan.generic")


class WebsocketConsumer(BaseConsumer):
    """The consumer of a WebSocket's whole life.

    Override :meth:`connect`, :meth:`receive` and :meth:`disconnect`.

    Attributes:
        groups: the groups that every connection is in, unless :meth:`connection_groups` is overridden.
        strict_ordering: one handler at a time, in the order of arrival.
        slight_ordering: ``connect`` has finished before any ``receive`` starts; receives may overlap.
        max_overlap, overflow, outbox_limit, compression: this consumer's own, instead of the
            :class:`triochan.Settings`.
        State: what ``self.connection.state`` is an object of, made without arguments; by default a plain namespace.
        rate_limit: messages that a client may send, such as ``"20/s"``, ``"100/m"`` or ``"5/10s"``; as many may come at
            once. One too many goes to :meth:`rate_limited`.
        user_rate_limit: the same for a user, over all sockets to this class in this process; it needs one of the user
            attributes.
        cancel_on_disconnect: cancel running handlers when the peer is gone, instead of letting them finish.
        path: the URL's path.

    A class may define ``async def layer_gap(self, message, **kwargs)``. It is called for each of its open sockets when
    a layer had lost its engine, and hears the groups again: what was sent to them within the last
    ``message["seconds"]`` may have been missed. So it is the place to send the client the present state. It runs beside
    the socket's other handlers; what it raises is logged, and closes the socket with 1011.
    """

    method_mapping: ClassVar[Mapping[str, str]] = {
        "websocket.connect": "raw_connect",
        "websocket.receive": "raw_receive",
        "websocket.disconnect": "raw_disconnect",
    }
    handler_names: ClassVar[tuple[str, ...]] = ("connect", "receive", "disconnect")

    groups: Iterable[str] = ()
    strict_ordering: bool = False
    slight_ordering: bool = False
    cancel_on_disconnect: bool = False
    max_overlap: int | None = None
    overflow: Overflow | None = None
    outbox_limit: int | None = None
    compression: bool | None = None
    rate_limit: str | None = None
    user_rate_limit: str | None = None
    _receiving: ClassVar[Begin]
    if not TYPE_CHECKING:  # so that each class says what its own is, see BaseConsumer.connection
        State = SimpleNamespace

    @classmethod
    def begin_on(cls, channel: str) -> Begin | None:
        """As :meth:`BaseConsumer.begin_on`; None where the class leaves all that would be called as it is here."""
        raw = cls.method_mapping.get(channel)
        if raw == "raw_receive":
            if cls.raw_receive is _OWN.raw_receive and cls._is_straight() and not cls._is_limited():
                # One for all connections, as it holds nothing that is not the class's. The six objects of one for each
                # are 0.3 KiB, and a third of the garbage collector's work where many connect at once.
                begun: Begin | None = cls.__dict__.get("_receiving")
                if begun is None:
                    begun = cls._receiving = cls._begin_receive(super().begin_on(channel))
                return begun
        elif cls._does_nothing_on(raw) and cls._is_straight():
            return None
        return super().begin_on(channel)

    @classmethod
    def _begin_receive(cls, begin: Begin | None) -> Begin:
        """What begins ``receive`` for a text, and leaves all else to ``begin``."""
        dispatch, get_handler, raw_receive = cls.dispatch, cls.get_handler, cls.raw_receive

        def receive(message: Message, kwargs: dict[str, Any]) -> Coroutine[Any, Any, object]:
            text = message.own.get("text")
            if (
                text is None
                or cls.dispatch is not dispatch  # or patched since
                or cls.get_handler is not get_handler
                or cls.raw_receive is not raw_receive
            ):
                return begin(message, kwargs)  # type: ignore[misc]
            # Most routes have no named groups: that spares the dicts.
            made = (
                cls(message, **kwargs).receive(text=text, **kwargs)
                if kwargs
                else cls(message).receive(text=text)
            )
            return made if made.__class__ is CoroutineType else as_coroutine(made, cls, "receive")

        return receive

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

    @classmethod
    def check_definition(cls) -> None:
        """Find what is wrong with the class; called when it is routed to.

        Raises:
            ImproperlyConfigured: an attribute has a value that it can't have; the message names it.
        """
        super().check_definition()
        _check_group_names(cls, cls.groups)
        for name, (fits, expected) in _FITS.items():
            value = getattr(cls, name)
            if not fits(value):
                raise ImproperlyConfigured(f"{name_of(cls)}.{name} is {expected}, not {value!r:.100}")
        if isinstance(cls.groups, (list, tuple, set, frozenset)):
            for group in cls.groups:
                try:
                    check_name("group", group)
                except (TypeError, ValueError) as error:
                    raise ImproperlyConfigured(f"{name_of(cls)}.groups: {error}") from None
        _check_state(cls)
        for name in ("rate_limit", "user_rate_limit"):
            rate = getattr(cls, name)
            if rate is not None:
                parse_rate(rate, f"{name_of(cls)}.{name}")

    @classmethod
    def _is_limited(cls) -> bool:
        return cls.rate_limit is not None or cls.user_rate_limit is not None

    async def _is_too_much(self, message: Message, kwargs: dict[str, Any]) -> bool:
        """The message is one too many, and :meth:`rate_limited` has been told."""
        exceeded = exceeded_limit(type(self), message, self.rate_limit, self.user_rate_limit)
        if exceeded is None:
            return False
        say(logger, logging.DEBUG, "%s on %r: over its %s", name_of(type(self)), self.path, exceeded)
        await self.rate_limited(message, **kwargs)
        return True

    @property
    def path(self) -> str:
        return self.message.own.get("path", "")  # type: ignore[no-any-return]

    def connection_groups(self, *args: Any, **kwargs: Any) -> Iterable[str]:
        """The groups that the connection is in for as long as it lives; asked once, before ``connect``.

        Args:
            kwargs: the routing's named groups. ``self.message`` is that of ``connect``.
        """
        return self.groups

    # -- what the routing calls

    async def raw_connect(self, message: Message, **kwargs: Any) -> None:
        names = tuple(self._group_names(kwargs))
        if names:
            await self._join(names, message, kwargs)
        await self.connect(message, **kwargs)

    async def raw_receive(self, message: Message, **kwargs: Any) -> None:
        if self._is_limited() and await self._is_too_much(message, kwargs):
            return
        content = message.own
        text = content.get("text")
        if text is not None:
            await self.receive(text=text, **kwargs)
        else:
            await self.receive(bytes=content["bytes"], **kwargs)

    async def raw_disconnect(self, message: Message, **kwargs: Any) -> None:
        errors: list[Exception] = []
        try:
            names = self._groups_joined(message, kwargs)
        except Exception as error:  # noqa: BLE001 - raised again when all is done that is owed
            names, errors = (), [error]
        for name in names:
            try:
                await Group(name).discard(message.reply_channel)
            except Exception as error:  # noqa: BLE001 - the membership ends with the connection
                errors.append(error)
        try:
            await self.disconnect(message, **kwargs)
        except Exception as error:
            if not errors:
                raise
            errors.append(error)
        raise_all(errors, f"at the end of {name_of(type(self))}")

    def _owed_at_the_end(self) -> str | None:
        name = super()._owed_at_the_end()
        if name != "raw_disconnect":
            return name
        cls = type(self)
        if (
            cls.raw_disconnect is _OWN.raw_disconnect
            and "raw_disconnect" not in self.__dict__
            and cls._is_straight()
            and self._has_plain_groups()
            and (not cls.groups or type(current_layer()) is MemoryLayer)
        ):
            # All that stands before the method is what raw_disconnect does here, which comes to it whatever happens and
            # waits for nothing. That is 15 µs of a connection's end.
            return None
        return "disconnect"

    def _has_plain_groups(self) -> bool:
        """The same groups are to be had at any time: they are a list of the class's."""
        cls = type(self)
        return (
            cls.connection_groups is _OWN.connection_groups
            and cls._group_names is _OWN._group_names
            and isinstance(cls.groups, (list, tuple, set, frozenset))  # no property, no iterator
            and "groups" not in self.__dict__
        )

    async def _join(self, names: Iterable[str], message: Message, kwargs: dict[str, Any]) -> None:
        if message.connection is not None and not self._has_plain_groups():
            # The messages to come don't say what this one does: the answer is kept.
            _joined(message).by_consumer[self._place(kwargs)] = tuple(names)
        for name in names:
            await Group(name).add(message.reply_channel)

    def _groups_joined(self, message: Message, kwargs: dict[str, Any]) -> Iterable[str]:
        """The groups that were joined before ``connect``."""
        if message.connection is not None and not self._has_plain_groups():
            joined = _joined(message).by_consumer.pop(self._place(kwargs), None)
            if joined is not None:
                return joined
        return tuple(self._group_names(kwargs))

    def _place(self, kwargs: dict[str, Any]) -> tuple[type, Any]:
        """What tells apart the consumers of one connection: their classes, and a demultiplexer's by their streams."""
        return type(self), getattr(kwargs.get("multiplexer"), "stream", None)

    def _group_names(self, kwargs: dict[str, Any]) -> Iterable[str]:
        names: Any = self.connection_groups(**kwargs)
        if inspect.isawaitable(names):
            if inspect.iscoroutine(names):
                names.close()
            raise ImproperlyConfigured(
                f"{name_of(type(self))}.connection_groups is a plain 'def' that returns a list of names, not "
                "'async def'; what has to be awaited goes into connect, with Group(name).add(message.reply_channel)"
            )
        _check_group_names(type(self), names)
        return names or ()

    # -- what the program overrides: `*args`, so that to a type checker it may name whichever keyword arguments it likes

    async def connect(self, message: Message, /, *args: Any, **kwargs: Any) -> None:
        """A client is connecting. Returning accepts it; :meth:`close` or ``raise DenyConnection`` answers 403."""

    if TYPE_CHECKING:
        # Text and bytes come as keyword arguments, which a program may leave out; the JSON consumer's is another one.
        async def receive(self, *args: Any, **kwargs: Any) -> None: ...

    else:

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            """A message came: ``text`` or ``bytes`` of it."""

    async def rate_limited(self, message: Message, /, *args: Any, **kwargs: Any) -> None:
        """A message came that is one too many for :attr:`rate_limit` or :attr:`user_rate_limit`, and is dropped.

        The socket is closed with 1008; override it for anything else.
        """
        say(logger, logging.DEBUG, "%s on %r: too many messages; 1008", name_of(type(self)), self.path)
        await self.close(1008, "too many messages")

    async def disconnect(self, message: Message, /, *args: Any, **kwargs: Any) -> None:
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

    async def close(
        self, code: int | bool = True, reason: str = "", *, status: int | bool | None = None
    ) -> None:
        """Close the socket from this end, or refuse it while it connects; does not wait for the peer.

        Args:
            code: the close code; True is 1000.
            reason: at most 123 bytes of UTF-8.
            status: Channels 1's name for ``code``.
        """
        close = code if status is None else status
        await self.message.reply_channel.send({"close": close, "reason": reason})

    @group_method
    async def group_send(
        cls,
        name: str,
        text: str | None = None,
        bytes: bytes | None = None,
        close: bool | int = False,
        *,
        exclude: SendsReplies | str | None = None,
        but_me: bool = False,
    ) -> None:
        """Send one message to every member of the group ``name``; see :meth:`triochan.Group.send`.

        Args:
            exclude: a channel that is not sent it.
            but_me: ``self.group_send(…, but_me=True)``: not to the client whose message this is.

        Raises:
            ValueError: neither text nor bytes, or both; or a name that is none.
            TypeError: ``but_me`` on a class.
        """
        if text is None and bytes is None:
            raise ValueError("group_send takes text or bytes")
        await Group(name).send(_content(text, bytes, close), exclude=excluded(exclude, but_me))


@attrs.define(eq=False)
class _Joined:
    """The groups that a connection's consumers were put into."""

    by_consumer: dict[Any, tuple[str, ...]] = attrs.field(factory=dict)


def _joined(message: Message) -> _Joined:
    return cast(Endpoint, message.connection).local.of(_Joined)


def _is_switch(value: object) -> bool:
    return isinstance(value, bool)


def _is_limit(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)


# What an attribute may be, in code and in words: a limit of 0 would let no message through, and say nothing.
_FITS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "strict_ordering": (_is_switch, "True or False"),
    "slight_ordering": (_is_switch, "True or False"),
    "cancel_on_disconnect": (_is_switch, "True or False"),
    "compression": (lambda value: value is None or _is_switch(value), "True, False or None"),
    "max_overlap": (_is_limit, "a whole number of at least 1, or None"),
    "outbox_limit": (_is_limit, "a number of bytes of at least 1, or None"),
    "overflow": (
        lambda value: value is None or value in get_args(Overflow),
        f"one of {', '.join(get_args(Overflow))}, or None",
    ),
    "groups": (
        lambda value: not isinstance(value, (str, bytes, int, float)),
        "a list of names: write [...]",
    ),
}

# As they are written here: the class itself may be patched.
_OWN = SimpleNamespace(**vars(WebsocketConsumer))


In = TypeVar("In", default=Any)
Out = TypeVar("Out", default=Any)


class JsonWebsocketConsumer(WebsocketConsumer, Generic[In, Out]):
    """A WebSocket whose messages are JSON: values in, values out.

    Text that is not JSON, where :meth:`decode_json` raises ValueError, closes the socket with 1007, a binary message
    with 1003.

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

    ``class Game(JsonWebsocketConsumer[Move | Say, State])`` says the same of a ``receive`` that does not annotate its
    content; type checkers then hold :meth:`receive` and :meth:`send` to it. The second one is what is sent.
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

    if not TYPE_CHECKING:

        def __class_getitem__(cls, arguments):
            """``cls[In, Out]``, where what is left out is Any."""
            given = arguments if isinstance(arguments, tuple) else (arguments,)
            left_out = len(cls.__parameters__) - len(given)
            return super().__class_getitem__((*given, *(Any,) * left_out))

    @classmethod
    def _find_content_type(cls) -> None:
        place = f"{name_of(cls)}.receive"
        annotation = content_annotation(cls.receive, place, type_argument(cls, JsonWebsocketConsumer))
        cls._content_type = None if annotation is None else ContentType(annotation, place)

    @classmethod
    def check_definition(cls) -> None:
        """Find what is wrong with the class; called when it is routed to.

        Raises:
            ImproperlyConfigured: the annotation of ``receive`` names something that is not to be found; or
                ``decode_json`` or ``encode_json`` is ``async def``.
        """
        super().check_definition()
        for name in ("decode_json", "encode_json"):
            check_plain(getattr(cls, name), f"{name_of(cls)}.{name}")
        if cls._content_type is None:
            cls._find_content_type()

    @classmethod
    def content_types(cls) -> Iterator[ContentType]:
        """What the class makes its contents into; the application makes the hooks for it."""
        if cls._content_type is not None:
            yield cls._content_type

    async def raw_receive(self, message: Message, **kwargs: Any) -> None:
        if self._is_limited() and await self._is_too_much(message, kwargs):
            return
        text = message.own.get("text")
        if text is None:
            await self._refuse_binary()
            return
        try:
            content = self.decode_json(text)
        except (ValueError, RecursionError) as error:  # what decoders of all kinds raise
            await self._refuse_text(message, error)
            return
        if self._content_type is not None:
            try:
                content = self._content_type.structure(content, message.application)
            except InvalidContent as error:
                await self.content_invalid(error)
                return
        await self.receive(content, **kwargs)

    async def _refuse_binary(self) -> None:
        say(logger, logging.DEBUG, "%s on %r: a binary message; 1003", name_of(type(self)), self.path)
        await self.close(1003, "this socket takes JSON in text messages only")

    async def _refuse_text(self, message: Message, error: Exception) -> None:
        connection = message.connection
        logger.warning(
            "%s.decode_json on %r: %s: %.200s%s",
            name_of(type(self)),
            self.path,
            type(error).__name__,
            error,
            "" if connection is not None and connection.closing else "; 1007",
        )
        await self.close(1007, "this is not JSON")

    async def receive(self, content: In, /, *args: Any, **kwargs: Any) -> None:
        """A message came, decoded, and made into an object where ``content`` is annotated so."""

    async def content_invalid(self, error: InvalidContent) -> None:
        """A message came that does not fit the annotation of :meth:`receive`; ``error.details`` say why.

        The client is answered ``{"error": "invalid content", "details": [...]}``, on its stream if there is one, and
        the socket stays open; override it for anything else.
        """
        if self._multiplexer is not None:
            await self._multiplexer.send_error("invalid content", error.details)
        else:
            answer: Any = {"error": "invalid content", "details": error.details}
            await self.send(answer)

    async def send(self, content: Out, close: bool | int = False) -> None:  # type: ignore[override]
        """Send ``content`` as JSON; see :meth:`WebsocketConsumer.send`.

        Args:
            content: a value that JSON has a form for, or one with objects that the application's converter makes into
                such values: attrs classes, dataclasses, dates and so on.

        Raises:
            TypeError: JSON has no form for it.
        """
        encode = self.encode_json
        application = self.message.application
        if is_own_encoder(encode):
            text = encode_content(content, application)
        else:
            text = encode_with(encode, content, application)
        await super().send(text=text, close=close)

    @group_method
    async def group_send(  # type: ignore[override]
        cls,
        name: str,
        content: Out,
        close: bool | int = False,
        *,
        exclude: SendsReplies | str | None = None,
        but_me: bool = False,
    ) -> None:
        """Send ``content`` as JSON to every member of the group ``name``, encoded once; see
        :meth:`WebsocketConsumer.group_send`."""
        text = encode_with(cls.encode_json, content, current_application())
        left_out = excluded(exclude, but_me)
        # A mixin's own way may not know of it.
        more: dict[str, Any] = {} if left_out is None else {"exclude": left_out}
        await super().group_send(name, text=text, close=close, **more)

    @classmethod
    def decode_json(cls, text: str) -> Any:
        """The value that ``text`` says; override for another dialect.

        Raises:
            ValueError: it says none (InvalidJSON, json.JSONDecodeError and UnicodeDecodeError are such): the socket is
                closed with 1007, and the log says why. Anything else is an error of the program, 1011.
        """
        return decode_json(text)

    @classmethod
    def encode_json(cls, content: Any) -> str:
        """``content`` as text; override for another dialect.

        One of your own is called with the content as it was sent. If it raises TypeError, it is called again with the
        content in JSON's own types, as the application's converter makes them.
        """
        return encode_content(content, current_application())


# As it is written here: the class itself may be patched.
_ENCODE_JSON = JsonWebsocketConsumer.__dict__["encode_json"].__func__


def is_own_encoder(encode: Any) -> bool:
    """``encode`` is what :class:`JsonWebsocketConsumer` has: it writes JSON, and asks the converter's hooks."""
    return getattr(encode, "__func__", None) is _ENCODE_JSON


def _check_group_names(cls: type, names: object) -> None:
    if isinstance(names, (str, bytes)):
        raise ImproperlyConfigured(
            f"{name_of(cls)}.groups is a list of names, and so is what connection_groups() gives, not one string; "
            f"write [{names!r}]"
        )


def _check_state(cls: Any) -> None:
    if not isinstance(cls.State, type):
        raise ImproperlyConfigured(f"{name_of(cls)}.State is a class, not {cls.State!r:.100}")
    try:
        inspect.signature(cls.State).bind()
    except TypeError as error:
        raise ImproperlyConfigured(
            f"{name_of(cls)}.State is made without arguments, which {name_of(cls.State)} does not take: {error}"
        ) from None
    except ValueError:
        pass  # of one that is written in C nothing is known


def check_plain(function: Any, place: str) -> None:
    """Find a codec that would give a coroutine.

    Raises:
        ImproperlyConfigured: it is ``async def``.
    """
    if inspect.iscoroutinefunction(inspect.unwrap(function)):
        raise ImproperlyConfigured(
            f"{place} is 'async def'; it is called without await and has to be a plain 'def'"
        )


def _content(text: str | None, bytes: bytes | None, close: bool | int) -> dict[str, Any]:
    content: dict[str, Any] = {"text": text, "bytes": bytes}
    if close is not False:
        content["close"] = close
    return content

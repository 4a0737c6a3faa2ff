"""Several streams over one WebSocket (Channels 1: "Generic Consumers", "WebSocket Multiplexing").

Frames are JSON, ``{"stream": …, "payload": {…}}`` both ways; what a client got wrong is answered with
``{"stream": …, "error": …}``.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, ClassVar, NoReturn, cast

import trio

from ..content import encode_plain, is_plain
from ..exceptions import (
    ChannelFull,
    ImproperlyConfigured,
    InvalidContent,
    LayerUnavailable,
    SendNotAvailableOnDemultiplexer,
)
from ..handlers import share_of_time
from ..layers import Group, current_layer
from ..message import Message, SendsReplies, check_name, or_none
from ..routing import check_consumer, name_of
from ..running import current_application
from ..typed import PLAIN, ContentType, encode_content, encode_with, to_plain
from .base import DECORATING, DISCONNECT, BaseConsumer, excluded, group_method, raise_all
from .consumers import JsonWebsocketConsumer, WebsocketConsumer, check_plain, is_own_encoder
from .headers_first import HeadersFirst

logger = logging.getLogger("triochan.generic")

StreamConsumer = type[BaseConsumer] | Callable[..., Awaitable[object]]
"""What takes a stream's messages: a consumer class, or an ``async def`` of a message."""

_ORDERING = ("strict_ordering", "slight_ordering")
_ABSENT: Any = object()
SERVER_NAMES = frozenset({"headers", "order", "path", "reply_channel"})
"""Keys by which a message says what the server knows of it: never a client's word."""


class WebsocketMultiplexer:
    """Sends on one stream of one connection; stream consumers get one as their ``multiplexer`` argument.

    It may be kept for as long as the connection lives.

    Args:
        stream: the stream's name.
        reply_channel: the connection's.
    """

    def __init__(self, stream: str, reply_channel: SendsReplies) -> None:
        self.stream = stream
        self.reply_channel = reply_channel

    async def send(self, payload: Any, close: bool | int = False) -> None:
        """Send ``payload`` on the stream, waiting while the connection's outbox is full.

        Args:
            payload: a value that JSON has a form for, or an object of a typed content.
            close: afterwards, close the socket: True for 1000, or a code.

        Raises:
            TypeError: JSON has no form for it.
            ConnectionClosed: the peer is gone.
        """
        await self.reply_channel.send(_with_close(self.encode(self.stream, payload), close))

    async def send_error(self, error: str, details: list[str] | None = None) -> None:
        """Tell the client that what it sent on the stream was refused; see :meth:`encode_error`."""
        await self.reply_channel.send(self.encode_error(self.stream, error, details))

    @group_method
    async def group_send(
        cls,
        name: str,
        stream: str,
        payload: Any,
        close: bool | int = False,
        *,
        exclude: SendsReplies | str | None = None,
        but_me: bool = False,
    ) -> None:
        """Send ``payload`` on ``stream`` to every member of the group ``name``, encoded once.

        Args:
            exclude, but_me: as :meth:`WebsocketConsumer.group_send` takes them.
        """
        content = _with_close(cls.encode(stream, payload), close)
        await Group(name).send(content, exclude=excluded(exclude, but_me))

    @classmethod
    def encode(cls, stream: str, payload: Any) -> dict[str, Any]:
        """What a reply channel or a group is sent: ``{"text": '{"stream": …, "payload": …}'}``."""
        application = current_application()
        if payload.__class__ not in PLAIN:
            payload = to_plain(payload, application)
        frame = {"stream": stream, "payload": payload}
        return {"text": encode_with(cls.encode_json, frame, application)}

    @classmethod
    def encode_error(cls, stream: object, error: str, details: list[str] | None = None) -> dict[str, Any]:
        """The same for an error: ``{"stream": …, "error": …}``, and ``"details"`` where there are any.

        Where :meth:`encode_json` can't encode that, because it expects a payload, it is plain JSON.

        Args:
            stream: None where the client named none.
        """
        content: dict[str, Any] = {"stream": stream, "error": error}
        if details is not None:
            content["details"] = details
        try:
            return {"text": cls.encode_json(content)}
        except Exception:  # noqa: BLE001 - a client's mistake is answered, whatever the dialect makes of the answer
            return {"text": encode_content(content)}

    @classmethod
    def encode_json(cls, content: Any) -> str:
        """``content`` as text; override for another dialect, see :meth:`JsonWebsocketConsumer.encode_json`. It is given
        frames with ``"payload"``, and with ``"error"`` where a client is told of a mistake."""
        return encode_content(content, current_application())


class WebsocketDemultiplexer(JsonWebsocketConsumer):
    """A WebSocket that carries several streams.

    A stream goes either to a named channel, whose consumer gets the payload as its message's content with the
    connection's ``reply_channel`` (so that sessions and users work there) and without the keys that are the server's
    (:data:`SERVER_NAMES`); or to a consumer of JSON, whose ``connect``, ``receive`` and ``disconnect`` are called with
    the keyword argument ``multiplexer``::

        class Demultiplexer(WebsocketDemultiplexer):
            mapping = {"stats": "internal.stats"}
            consumers = {"posts": PostConsumer}

    Attributes:
        mapping: stream to the name of a channel.
        consumers: stream to a consumer class (or an ``async def`` of a message). An instance is made for each
            message, as always; the class is left as it is. An instance's own ``send`` raises
            SendNotAvailableOnDemultiplexer, for it would send without the stream.
        multiplexer_class: what makes the ``multiplexer`` argument.

    Raises (when the class is made):
        ImproperlyConfigured: something that can't be a stream's consumer or channel, or a stream with two.
    """

    mapping: ClassVar[Mapping[str, str]] = {}
    consumers: ClassVar[Mapping[str, StreamConsumer]] = {}
    multiplexer_class: ClassVar[type[WebsocketMultiplexer]] = WebsocketMultiplexer
    _asked = False
    """This instance's message has gone to the streams."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        _check_streams(cls)
        # The connection has one order and one set of sessions: those that its most demanding stream asks for.
        for name in (*DECORATING, *_ORDERING):
            if not getattr(cls, name) and any(getattr(each, name, False) for each in cls.consumers.values()):
                setattr(cls, name, True)
        if not hasattr(cls, "layer_gap") and any(
            hasattr(each, "layer_gap") for each in cls.consumers.values()
        ):
            cls.layer_gap = cls._tell_streams_of_a_gap  # type: ignore[attr-defined]
        super().__init_subclass__(**kwargs)

    async def _tell_streams_of_a_gap(self, message: Message, **kwargs: Any) -> None:
        for stream, consumer in self.consumers.items():
            if hasattr(consumer, "layer_gap"):
                await self._forward(stream, _message_for_stream(message, dict(message.own)), kwargs)

    async def raw_connect(self, message: Message, **kwargs: Any) -> None:
        await super().raw_connect(message, **kwargs)
        if not self._asked and not (self.connection is not None and self.connection.closing):
            # It was overridden, and has not called super().
            await WebsocketDemultiplexer.connect(self, message, **kwargs)

    async def raw_disconnect(self, message: Message, **kwargs: Any) -> None:
        errors: list[Exception] = []
        try:
            await super().raw_disconnect(message, **kwargs)
        except Exception as error:  # noqa: BLE001 - raised again when the streams have been told
            errors.append(error)
        if not self._asked:
            try:
                await WebsocketDemultiplexer.disconnect(self, message, **kwargs)
            except Exception as error:  # noqa: BLE001 - the same
                errors.append(error)
        raise_all(errors, f"at the end of {name_of(type(self))}")

    async def connect(self, message: Message, **kwargs: Any) -> None:
        """A client is connecting: every stream's consumer is asked, here, or after an override that does not call
        ``super().connect`` and does not refuse."""
        self._asked = True
        for stream in self.consumers:
            await self._forward(stream, _message_for_stream(message, dict(message.own)), kwargs)

    async def disconnect(self, message: Message, **kwargs: Any) -> None:
        """The connection is over: every stream's consumer is told, one beside the other, whatever another one does.

        They are begun in the order of ``consumers``. A stream's consumer is told also where its ``connect`` never ran,
        and where an override does not call ``super().disconnect``.
        """
        self._asked = True
        streams = list(self.consumers)
        errors: list[Exception] = []
        # A little is kept for saying which one took too long.
        deadline = share_of_time(0.95)

        async def tell(stream: str) -> None:
            try:
                with trio.CancelScope(deadline=deadline) as scope:
                    await self._forward(stream, _message_for_stream(message, dict(message.own)), kwargs)
            except Exception as error:  # noqa: BLE001 - raised again when all have been told
                error.add_note(f"in the disconnect of stream {stream!r}")
                errors.append(error)
            if scope.cancelled_caught:
                errors.append(
                    trio.TooSlowError(
                        f"the disconnect of stream {stream!r}, {name_of(self.consumers[stream])}, took too long"
                    )
                )

        if len(streams) == 1:
            await tell(streams[0])
        elif streams:
            async with trio.open_nursery() as nursery:
                for stream in streams:
                    nursery.start_soon(tell, stream, name=f"disconnect of {stream}")
                    # Trio begins what was started in one turn in any order.
                    await trio.lowlevel.cancel_shielded_checkpoint()
        raise_all(errors, "in the streams' disconnect")

    async def receive(self, content: Any, **kwargs: Any) -> None:
        """A frame came: find its stream, and pass the payload on. What is wrong with it is answered."""
        if not isinstance(content, dict):
            await self._refuse(None, "a frame is an object with stream and payload")
            return
        stream, payload = content.get("stream"), content.get("payload", _ABSENT)
        if not isinstance(stream, str):
            await self._refuse(None, "stream is not a string" if "stream" in content else "stream is missing")
        elif payload is _ABSENT:
            await self._refuse(stream, "payload is missing")
        elif stream not in self.mapping and stream not in self.consumers:
            await self._refuse(stream, "unknown stream")
        elif not isinstance(payload, dict):
            await self._refuse(stream, "payload is not an object")
        elif stream in self.mapping:
            await self._send_to(self.mapping[stream], stream, payload)
        else:
            received = self.message.own
            own = {"path": self.path, "order": received.get("order"), "text": self._encode_again(payload)}
            await self._forward(stream, _message_for_stream(self.message, own), kwargs)

    def _encode_again(self, payload: dict[str, Any]) -> str:
        """The text of a payload that has come. The converter's hooks are for what the program sends: not asked here."""
        encode = self.encode_json
        return encode_plain(payload) if is_own_encoder(encode) and is_plain(payload) else encode(payload)

    async def _send_to(self, channel: str, stream: str, payload: dict[str, Any]) -> None:
        taken = SERVER_NAMES & payload.keys()
        if taken:
            logger.warning(
                "stream %r on %s: a payload's %s were left out: by these names a message says what the server knows",
                stream, self.path, ", ".join(sorted(taken)),
            )  # fmt: skip
            payload = {key: value for key, value in payload.items() if key not in taken}
        try:
            # Not by Channel, which refuses where nobody listens: no fault of this client's, and told at the start.
            await current_layer().send(channel, {**payload, "reply_channel": self.message.reply_channel.name})
        except (ChannelFull, LayerUnavailable) as error:
            logger.warning("stream %r on %s: %s", stream, self.path, error)
            await self._refuse(stream, "the server is busy; this was not taken, try again later")
        except InvalidContent as error:
            logger.warning("stream %r on %s: %s", stream, self.path, error)
            await self._refuse(stream, "payload is nested too deeply")

    async def _forward(self, stream: str, message: Message, kwargs: dict[str, Any]) -> None:
        consumer: Any = self.consumers[stream]
        multiplexer = self.multiplexer_class(stream, message.reply_channel)
        kwargs = {**kwargs, "multiplexer": multiplexer}
        if not isinstance(consumer, type):
            await consumer(message, **kwargs)
            return
        consumer = cast(type[BaseConsumer], consumer)
        method = consumer.method_on(message.channel.name)
        if method is None or (method == "layer_gap" and not hasattr(consumer, method)):
            return
        instance = consumer(message, **kwargs)
        if isinstance(instance, WebsocketConsumer):
            # The instance's alone: the class may well serve sockets of its own.
            instance.send = _send_without_stream  # type: ignore[method-assign]
        if isinstance(instance, JsonWebsocketConsumer):
            instance._multiplexer = multiplexer
        straight = consumer._is_straight(sessions=True) and self._has_asked_for(consumer, message)

        def handle() -> Awaitable[object]:
            handler: Callable[..., Awaitable[object]] = getattr(instance, method if straight else "dispatch")
            return handler(message, **kwargs)

        if message.channel.name == DISCONNECT:
            await instance._see_off(handle, message, kwargs)
        else:
            await handle()

    def _has_asked_for(self, consumer: Any, message: Message) -> bool:
        """What a stream's consumer asks for by its attributes is at its message already."""
        asked = [getattr(consumer, each) for each in DECORATING]
        if not any(asked):
            return True
        own = [getattr(self, each) for each in DECORATING]
        # Each implies those below it. The attributes say nothing where get_handler is overridden: look.
        return any(own[: asked.index(True) + 1]) and message.channel_session is not None

    async def _refuse(self, stream: str | None, error: str) -> None:
        await self.message.reply_channel.send(self.multiplexer_class.encode_error(stream, error))

    @classmethod
    def check_definition(cls) -> None:
        super().check_definition()
        check_plain(cls.multiplexer_class.encode_json, f"{name_of(cls.multiplexer_class)}.encode_json")
        for stream, consumer in cls.consumers.items():
            check_consumer(consumer, f"{name_of(cls)}.consumers[{stream!r}]")
            if isinstance(consumer, type) and issubclass(consumer, HeadersFirst):
                raise ImproperlyConfigured(
                    f"{name_of(cls)}.consumers[{stream!r}] is a HeadersFirst consumer: a socket has one first message, "
                    f"not one for each stream; write class {cls.__name__}(HeadersFirst, WebsocketDemultiplexer)"
                )

    @classmethod
    def content_types(cls) -> Iterator[ContentType]:
        for consumer in cls.consumers.values():
            yield from getattr(consumer, "content_types", tuple)()

    # -- what the program calls

    async def send(self, stream: Any = _ABSENT, payload: Any = _ABSENT, close: bool | int = False) -> None:  # type: ignore[override]
        """Send ``payload`` on ``stream``; see :meth:`WebsocketMultiplexer.send`.

        Raises:
            SendNotAvailableOnDemultiplexer: only one of them is given: without a stream there is no frame.
        """
        if payload is _ABSENT:
            await _send_without_stream()
        await self.multiplexer_class(stream, self.message.reply_channel).send(payload, close)

    @group_method
    async def group_send(  # type: ignore[override]
        cls,
        name: str,
        stream: Any = _ABSENT,
        payload: Any = _ABSENT,
        close: bool | int = False,
        *,
        exclude: SendsReplies | str | None = None,
        but_me: bool = False,
    ) -> None:
        """Send ``payload`` on ``stream`` to the group ``name``; see :meth:`WebsocketMultiplexer.group_send`.

        Raises:
            SendNotAvailableOnDemultiplexer: no stream is given.
        """
        if payload is _ABSENT:
            await _send_without_stream()
        left_out = excluded(exclude, but_me)
        await cls.multiplexer_class.group_send(name, stream, payload, close, exclude=left_out)

    @classmethod
    def encode(cls, stream: str, payload: Any) -> dict[str, Any]:
        """What a reply channel or a group is sent; see :meth:`WebsocketMultiplexer.encode`."""
        return cls.multiplexer_class.encode(stream, payload)


def _message_for_stream(message: Message, content: dict[str, Any]) -> Message:
    """A stream's own message, with the sessions and the user of the connection's."""
    own = Message(content, message.channel, message.reply_channel, message.connection)
    own.channel_session = message.channel_session
    own.http_session = message.http_session
    own.user = message.user
    if or_none(message.connection) is None:
        own.application = message.application
    return own


async def _send_without_stream(*args: Any, **kwargs: Any) -> NoReturn:
    raise SendNotAvailableOnDemultiplexer(
        "this socket carries streams, and send(content) names none; use the multiplexer argument's send(payload)"
    )


def _with_close(content: dict[str, Any], close: bool | int) -> dict[str, Any]:
    if close is not False:
        content["close"] = close
    return content


def _check_streams(cls: type[WebsocketDemultiplexer]) -> None:
    for attribute in ("mapping", "consumers"):
        streams = getattr(cls, attribute)
        if not isinstance(streams, Mapping) or not all(isinstance(stream, str) for stream in streams):
            raise ImproperlyConfigured(
                f"{name_of(cls)}.{attribute} is a dict with names of streams, not {streams!r:.200}"
            )
    for stream, channel in cls.mapping.items():
        place = f"{name_of(cls)}.mapping[{stream!r}]"
        if stream in cls.consumers:
            raise ImproperlyConfigured(f"{place}: the stream is in consumers too; it goes to one of them")
        try:
            check_name("channel", channel)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"{place}: {error}") from None
    for stream, consumer in cls.consumers.items():
        place = f"{name_of(cls)}.consumers[{stream!r}]"
        if isinstance(consumer, type) and issubclass(consumer, WebsocketDemultiplexer):
            raise ImproperlyConfigured(f"{place}: a demultiplexer can't be a stream of another one")
        if isinstance(consumer, type) and not issubclass(consumer, BaseConsumer):
            raise ImproperlyConfigured(f"{place} is {name_of(consumer)}, a class that is no consumer")

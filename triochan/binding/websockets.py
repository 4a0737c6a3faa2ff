"""Bindings to multiplexed WebSockets: ``{"stream": …, "payload": {"action", "pk", "model", "data"}}`` both ways."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable
from typing import Any, ClassVar

from ..content import InvalidJSON, decode_json
from ..exceptions import ConnectionClosed, ImproperlyConfigured
from ..generic.websockets import WebsocketMultiplexer
from ..message import Message
from ..routing import name_of
from ..running import current_application
from ..typed import to_plain
from ..typed.mistakes import said
from .base import Binding
from .source import DELETE, ChangeRefused, Source, said_keys

LIST = "list"
logger = logging.getLogger("triochan.binding")


class WebsocketBinding(Binding):
    """A binding whose groups are WebSockets behind a :class:`~triochan.generic.websockets.WebsocketDemultiplexer`.

    Implement :meth:`group_names`, and :meth:`has_permission` where clients may change something::

        class IntegerValueBinding(WebsocketBinding):
            model = values
            stream = "intval"
            fields = ["name", "value"]

            @classmethod
            def group_names(cls, instance):
                return ["intval-updates"]

            def has_permission(self, user, action, pk):
                return user.is_authenticated

        class Demultiplexer(WebsocketDemultiplexer):
            consumers = {"intval": IntegerValueBinding.consumer}
            groups = ["intval-updates"]

    A client gets ``{"action": "create", "pk": 1, "model": "blog.integervalue", "data": {"name": …, "value": …}}`` as a
    payload, the same with ``update`` and ``delete``, and sends payloads with ``action``, ``pk`` and ``data``. What is
    refused is answered with ``{"stream": …, "error": …, "details": […]}``.

    Attributes:
        multiplexer_class: what encodes the frames; the one of the demultiplexer.

    Raises (when a class is made):
        ImproperlyConfigured: as :class:`Binding`; or no ``stream``.
    """

    model: ClassVar[Source[Any] | None] = None
    multiplexer_class: ClassVar[type[WebsocketMultiplexer]] = WebsocketMultiplexer

    @classmethod
    def check_class(cls) -> None:
        super().check_class()
        if not isinstance(cls.stream, str) or not cls.stream:
            raise ImproperlyConfigured(f"{name_of(cls)}.stream is the name of a stream, not {cls.stream!r}")

    # -- outbound

    @classmethod
    def encode(cls, stream: str, payload: dict[str, Any]) -> dict[str, Any]:
        return cls.multiplexer_class.encode(stream, payload)

    def serialize(self, instance: Any, action: str) -> dict[str, Any]:
        """The payload; a ``delete`` has the data as its groups knew them last."""
        return {"action": action, **self._item(instance), "model": self.model_label}

    def serialize_data(self, instance: Any) -> dict[str, Any]:
        """The ``data`` of a payload, in what JSON has a form for: the bound fields."""
        application = current_application()
        return {name: to_plain(getattr(instance, name), application) for name in self.bound}

    def _item(self, instance: Any) -> dict[str, Any]:
        assert self.model is not None
        pk = to_plain(self.model.pk_of(instance), current_application())
        return {"pk": pk, "data": self.serialize_data(instance)}

    @classmethod
    async def send_list(cls, message: Message, groups: Iterable[str]) -> None:
        """Send all that ``groups`` see now: ``{"action": "list", "model": …, "items": [{"pk", "data"}, …]}``.

        For a demultiplexer's ``connect``, where its connection is in the groups already: the client then has the
        present state, and gets every change after it; what came before the list is in it. It waits while the client's
        outbox is full; the list itself may be larger than that. What can't be sent of an instance, such as an
        infinity, is logged, and the instance is left out.

        Args:
            message: of the connection.
            groups: those of which the client is a member.
        """
        seen = frozenset([groups] if isinstance(groups, str) else groups)
        source = cls.model
        assert source is not None

        def view(instance: Any) -> dict[str, Any] | None:
            try:
                if cls.names_of(instance).isdisjoint(seen):
                    return None
                self = cls()
                self.instance = instance
                return self._item(instance)
            except Exception as error:  # noqa: BLE001 - it is logged, with the others
                left_out.append((source.pk_of(instance), error))
                return None

        # One that can't be told of must not keep all the others from everybody.
        left_out: list[tuple[Any, Exception]] = []
        endpoint: Any = getattr(message.reply_channel, "endpoint", None)
        deliver_whole = getattr(endpoint, "deliver_whole", None)
        if deliver_whole is not None:
            await endpoint.room()
        # Changes are told in turns too. Those that are in the list may be told once more behind it, none is missing.
        async with source.turn:
            items = await source.collect(view)
            payload = {"action": LIST, "model": cls.model_label, "items": items}
            try:
                content = cls.encode(cls.stream or "", payload)
            except (TypeError, ValueError, OverflowError):
                payload["items"] = [item for item in items if cls._can_be_sent(item, left_out)]
                content = cls.encode(cls.stream or "", payload)
            if left_out:
                error = left_out[0][1]
                logger.error(
                    "%s.send_list left out what can't be sent (%s: %s): %s %s",
                    name_of(cls), type(error).__name__, error, cls.model_label, said_keys([pk for pk, _ in left_out]),
                )  # fmt: skip
            if deliver_whole is not None:
                deliver_whole(content)
            else:
                await message.reply_channel.send(content)

    @classmethod
    def _can_be_sent(cls, item: dict[str, Any], left_out: list[tuple[Any, Exception]]) -> bool:
        try:
            cls.encode(cls.stream or "", item)
        except (TypeError, ValueError, OverflowError) as error:
            left_out.append((item["pk"], error))
            return False
        return True

    @classmethod
    def content_of(cls, instance: Any, action: str) -> dict[str, Any] | None:
        """As :meth:`Binding.content_of`; a ``delete`` without data where that can't be sent, so that an instance that
        holds an infinity, say, can be mended or deleted."""
        try:
            return super().content_of(instance, action)
        except (TypeError, ValueError, OverflowError) as error:
            if action != DELETE:
                raise
            assert cls.model is not None
            key = cls.model.pk_of(instance)
            logger.error(
                "%s: a delete of %s %r goes without data, which can't be sent (%s: %s)",
                name_of(cls), cls.model_label, key, type(error).__name__, error,
            )  # fmt: skip
            pk = to_plain(key, current_application())
            return cls.encode(
                cls.stream or "", {"action": DELETE, "pk": pk, "model": cls.model_label, "data": {}}
            )

    # -- inbound

    @classmethod
    async def trigger_inbound(cls, message: Message, **kwargs: Any) -> None:
        if message.channel.name not in ("websocket.connect", "websocket.disconnect"):
            await super().trigger_inbound(message, **kwargs)

    def deserialize(self, message: Message) -> tuple[str, Any, dict[str, Any] | None]:
        """From a named channel the payload is the message's content, from a demultiplexer the text of one."""
        body: Any = message.own
        if message.channel.name == "websocket.receive":
            try:
                body = decode_json(message.own.get("text") or "")
            except InvalidJSON as error:
                raise ChangeRefused("not JSON") from error
            if not isinstance(body, dict):
                raise ChangeRefused(
                    "payload is not an object", [f"$: an object is expected, not {said(body)}"]
                )
        return body.get("action"), body.get("pk"), body.get("data")

    async def refuse(self, refusal: ChangeRefused) -> None:
        multiplexer = self.kwargs.get("multiplexer")
        if multiplexer is None:
            if self.message.reply_channel is None:
                return
            multiplexer = self.multiplexer_class(self.stream or "", self.message.reply_channel)
        try:
            await multiplexer.send_error(refusal.error, refusal.details or None)
        except ConnectionClosed:
            pass  # nobody waits for the answer any more


class WebsocketBindingWithMembers(WebsocketBinding):
    """A binding that sends more than fields: class variables, properties, and what methods without arguments give.

    Attributes:
        send_members: their names; ``"author.name"`` is sent as ``author__name``. A member stands before a field of its
            name. Unlike fields, members can't be set by clients.
    """

    model: ClassVar[Source[Any] | None] = None
    send_members: ClassVar[Iterable[str]] = ()

    @classmethod
    def check_class(cls) -> None:
        super().check_class()
        if isinstance(cls.send_members, str):
            raise ImproperlyConfigured(
                f"{name_of(cls)}.send_members is a list of names, not one string; write [{cls.send_members!r}]"
            )

    def serialize_data(self, instance: Any) -> dict[str, Any]:
        """The bound fields and the members."""
        data = super().serialize_data(instance)
        for path in self.send_members:
            member = instance
            for name in path.split("."):
                member = getattr(member, name)
            if callable(member):
                member = member()
            if inspect.iscoroutine(member):
                member.close()
                raise TypeError(
                    f"{name_of(type(self))}.send_members: {path} is async; a member is a value or a method"
                )
            data[path.replace(".", "__")] = to_plain(member, current_application())
        return data

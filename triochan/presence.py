"""Who is where: ``Presence("room.1")``.

A presence has a key, such as a user's id, and a meta, what is to be told of it. It lasts as long as the connection that
it was tracked on, or the block of a task, and ends with that, however it ends. The group of the topic's name is told
who has come, changed and gone; ``docs/presence.md`` has the frames' form.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs

from .content import decode_json
from .exceptions import ConnectionClosed
from .handlers import current_message
from .layers import Channel, ChannelLayer, Departed, Endpoint, Group, Local, ReplyChannel
from .layers.presence import LayerPresence, Member, Metas
from .message import SendsReplies
from .running import current_application
from .typed import encode_content

MAX_KEY = 200
"""Characters of a key."""
MAX_META = 4096
"""Characters of a meta as JSON: each who comes is sent all of a topic's, and each change goes to everybody."""


class Presence:
    """Who is in a topic, which is a group's name: members of that group are told who comes and goes.

    In a handler, presences are those of the connection whose message is handled. Elsewhere, say ``channel``; or use
    :meth:`tracked`, which needs none.

    Args:
        topic: ASCII letters, digits, ``-_.``; at most 100 characters.
        layer: as in :class:`triochan.Group`.
        channel: whose presences these are, a connection's reply channel, or its name; None: of the connection whose
            message is handled where a method is called.

    Raises:
        ValueError: a topic or a channel's name that is none.
        TypeError: a layer that is none.
    """

    __slots__ = ("_channel", "_group")

    def __init__(
        self,
        topic: str,
        layer: ChannelLayer | None = None,
        *,
        channel: SendsReplies | str | None = None,
    ) -> None:
        self._group = Group(topic, layer)
        self._channel = Channel(channel) if isinstance(channel, str) else channel

    @property
    def topic(self) -> str:
        return self._group.name

    @property
    def layer(self) -> ChannelLayer:
        """The layer that it is known to."""
        return self._group.layer

    # -- of a connection

    async def track(self, key: str, meta: Any = None) -> str:
        """Have the connection present as ``key``, until its end or :meth:`untrack`.

        Several connections may be so with one key. Nothing waits: who is in the group is told within a tick, and
        :meth:`list` has it at once.

        Args:
            key: at most :data:`MAX_KEY` characters.
            meta: a dict, or an object that the application's converter makes into one; None: an empty one. At most
                :data:`MAX_META` characters of JSON, and without a ``ref``, which is the layer's.

        Returns:
            The presence's ref.

        Raises:
            TypeError: a key that is no string; a meta that is no object; JSON has no form for something in it.
            ValueError: a key or a meta that is too long, or has what JSON can't hold; the connection is present with
                this key already: :meth:`update` says something else of it.
            ConnectionClosed: the connection has ended.
            RuntimeError: it is not known which connection is meant.
        """
        key, text = _check_key(key), _text_of(meta)
        presence = self.layer.presence
        of_connection = self._of_connection()
        place = (presence, self.topic, key)
        if place in of_connection.members:
            raise ValueError(
                f"this connection is in {self.topic!r} as {key!r} already; update({key!r}, meta) changes what is told "
                "of it, and untrack() ends it"
            )
        member = of_connection.members[place] = presence.join(self.topic, key, text)
        return member.ref

    async def update(self, key: str, meta: Any) -> None:
        """Tell something else of the connection; the presence and its ref stay.

        Args:
            meta: as :meth:`track` takes it; all of it, in place of what was told before.

        Raises:
            LookupError: the connection is not present with this key.
            TypeError, ValueError, ConnectionClosed, RuntimeError: as :meth:`track`.
        """
        key, text = _check_key(key), _text_of(meta)
        presence = self.layer.presence
        member = self._of_connection().members.get((presence, self.topic, key))
        if member is None:
            raise LookupError(
                f"this connection is not in {self.topic!r} as {key!r}, so there is nothing to update; "
                f"track({key!r}, meta) comes first"
            )
        presence.update(member, text)

    async def untrack(self, key: str) -> None:
        """End the connection's presence; one that is not there, or has ended with its connection, is no error.

        Raises:
            TypeError, ValueError: a key that is none.
            RuntimeError: it is not known which connection is meant.
        """
        key = _check_key(key)
        presence = self.layer.presence
        endpoint = self._endpoint()
        if not isinstance(endpoint, Departed):
            member = endpoint.local.of(_OfConnection).members.pop((presence, self.topic, key), None)
            if member is not None:
                presence.leave(member)

    async def subscribe(self) -> None:
        """Put the connection into the group, and send it the list: from then on it is told all that changes.

        ``Group(topic).discard(channel)`` ends that.

        Raises:
            TypeError: the connection is no WebSocket.
            ConnectionClosed: the connection has ended.
            RuntimeError: it is not known which connection is meant.
            LayerUnavailable: a distributed layer's engine does not answer.
        """
        endpoint = self._here()
        if endpoint.outbox is None:
            raise TypeError(
                f"{endpoint.channel.name!r} is no WebSocket, which alone takes frames of a topic; await list() instead"
            )
        await self._group.add(endpoint.channel)
        self.layer.presence.welcome(self.topic, endpoint.channel)

    # -- of anybody

    @asynccontextmanager
    async def tracked(self, key: str, meta: Any = None) -> AsyncIterator[TrackedBlock]:
        """Be present for as long as the block lasts, in a task of its own or anywhere else; no connection is asked for.

        Args:
            key, meta: as :meth:`track` takes them.

        Raises:
            TypeError, ValueError: as :meth:`track`.
        """
        key, text = _check_key(key), _text_of(meta)
        presence = self.layer.presence
        member = presence.join(self.topic, key, text)
        try:
            yield TrackedBlock(presence, member)
        finally:
            presence.leave(member)

    async def list(self) -> dict[str, list[dict[str, Any]]]:
        """Who is there: of each key the metas, as many as are present with it, each with its ``ref``.

        The caller's own, to be changed at will. No checkpoint in the default layer; it takes as long as there are
        members of this topic.

        Raises:
            LayerUnavailable: a distributed layer's engine does not answer.
        """
        return _decoded(await self.layer.presence.metas(self.topic))

    def __repr__(self) -> str:
        of = "" if self._channel is None else f", channel={self._channel!r}"
        return f"Presence({self.topic!r}{of})"

    # -- whose

    def _of_connection(self) -> _OfConnection:
        return _OfConnection.of(self._here().local)

    def _here(self) -> Endpoint:
        """The connection, which has not ended.

        Raises:
            ConnectionClosed: it has.
        """
        endpoint = self._endpoint()
        if isinstance(endpoint, Departed) or endpoint.close_code is not None:
            raise ConnectionClosed(endpoint.close_code or 1006, endpoint.close_reason)
        return endpoint

    def _endpoint(self) -> Endpoint | Departed:
        channel = self._channel
        if channel is None:
            message = current_message()
            if message is None:
                raise RuntimeError(
                    f"whose presence in {self.topic!r} is it? No message is handled in this task. Say "
                    f"Presence({self.topic!r}, channel=message.reply_channel), or, where it is a task's own, "
                    f"async with Presence({self.topic!r}).tracked(key, meta)"
                )
            channel = message.reply_channel
            if channel is None:
                raise RuntimeError(
                    f"whose presence in {self.topic!r} is it? The message on channel {message.channel.name!r} has no "
                    f"reply channel; async with Presence({self.topic!r}).tracked(key, meta) is a block's own"
                )
        if not isinstance(channel, ReplyChannel):  # by its name
            channel = self.layer.reply_channel(channel.name)
        if not isinstance(channel, ReplyChannel):
            raise RuntimeError(
                f"{channel.name!r} is no connection of this process, which alone knows when that ends: track it where "
                "its messages are handled"
            )
        return channel.endpoint


class TrackedBlock:
    """A presence that lasts as long as its block."""

    __slots__ = ("_member", "_presence")

    def __init__(self, presence: LayerPresence, member: Member) -> None:
        self._presence = presence
        self._member = member

    @property
    def ref(self) -> str:
        return self._member.ref

    async def update(self, meta: Any) -> None:
        """Tell something else of it; see :meth:`Presence.update`.

        Raises:
            LookupError: the block has ended.
            TypeError, ValueError: as :meth:`Presence.track`.
        """
        text = _text_of(meta)
        if not self._member.here:
            raise LookupError(
                f"the block has ended, and with it the presence of {self._member.key!r} in {self._member.topic!r}"
            )
        self._presence.update(self._member, text)


@attrs.define(eq=False)
class _OfConnection:
    """A connection's presences, which end with it."""

    members: dict[tuple[LayerPresence, str, str], Member] = attrs.field(factory=dict)
    _watched: bool = False

    @classmethod
    def of(cls, local: Local) -> _OfConnection:
        found = local.of(cls)
        if not found._watched:
            found._watched = True
            local.at_end(found._end)
        return found

    def _end(self) -> None:
        members, self.members = self.members, {}
        for (presence, _, _), member in members.items():
            presence.leave(member)


def _check_key(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a presence's key is a string, not {key!r:.100}; str(…) makes one of an id")
    if not 0 < len(key) <= MAX_KEY:
        raise ValueError(f"a presence's key has 1 to {MAX_KEY} characters, not {len(key)}: {key!r:.50}")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"a presence's key has a lone surrogate, which JSON can't hold: {key!r:.50}"
        ) from None
    return str.__str__(key)


def _text_of(meta: Any) -> str:
    if meta is None:
        return "{}"
    try:
        text = encode_content(meta, current_application())
    except (TypeError, ValueError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"a presence's meta is what JSON can hold: {error}") from None
    if not text.startswith("{"):
        raise TypeError(f"a presence's meta is a dict, or what JSON has as an object, not {meta!r:.100}")
    if len(text) > MAX_META:
        raise ValueError(
            f"a presence's meta has {len(text):,} characters of JSON, and may have {MAX_META:,}: everybody in the "
            "topic is sent it; tell an id, and let clients ask for more"
        )
    if '"ref"' in text and "ref" in (meta if isinstance(meta, Mapping) else decode_json(text)):
        raise ValueError('a presence\'s meta has no "ref": that is the name of what the layer adds to it')
    return text


def _decoded(metas: Metas) -> dict[str, list[dict[str, Any]]]:
    found = decode_json("[" + ",".join([f"[{','.join(each)}]" for each in metas.values()]) + "]")
    return dict(zip(metas, found, strict=True))

"""The contract of a channel layer, and ``Channel`` and ``Group``, the names that programs hold of it."""

from __future__ import annotations

import itertools
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import attrs

from ..exceptions import ChannelFull, ConnectionClosed
from ..message import SendsReplies, check_name
from ..porting import ABSENT_CHANNELS, LAYER_ATTRIBUTES, attribute_lookup
from ..running import Local, run_local
from ..wire.outbox import Outbox

logger = logging.getLogger("triochan.layers")

DELAYED = "immediately=False: sends are not put off until the consumer has ended; leave it out, and send last"
RESERVED: Mapping[str, str] = {
    **dict.fromkeys(
        ("websocket.connect", "websocket.receive", "websocket.disconnect", "http.request"),
        "its messages come from sockets alone; route the consumer on a channel of your own as well, and send there",
    ),
    **ABSENT_CHANNELS,
}
"""Channels that no worker reads, with what to do instead of sending to one."""
SECOND_LAYER = "a channel layer serves this Trio run already; give both servers the same layer=…"


@attrs.define(eq=False)
class _Serving:
    """The layer of the servers, or of the test clients, of one Trio run."""

    layer: ChannelLayer | None = None


def running_layer() -> ChannelLayer | None:
    """The layer that serves this Trio run; None where none does.

    Raises:
        RuntimeError: this is not called from within Trio.
    """
    return run_local().of(_Serving).layer


def current_layer() -> ChannelLayer:
    """The layer that serves this Trio run.

    Raises:
        RuntimeError: none does, or this is not called from within Trio.
    """
    layer = running_layer()
    if layer is None:
        raise RuntimeError(
            "no channel layer is running here: Channel and Group work while triochan.serve (or a test client) "
            "runs in the same trio.run; or pass layer=… yourself"
        )
    return layer


class Endpoint(Hashable, Protocol):
    """What stands behind a reply channel in this process: a WebSocket, a waiting HTTP request."""

    @property
    def channel(self) -> ReplyChannel:
        """Its reply channel."""

    @property
    def outbox(self) -> Outbox | None:
        """Where a group send's frame goes; None where the endpoint takes contents, not frames."""

    @property
    def close_code(self) -> int | None:
        """How it ended, once it has; None else, or where that has no code."""

    @property
    def close_reason(self) -> str: ...

    @property
    def local(self) -> Local:
        """What the rooms above keep with it, made when it is first asked for: it ends with the endpoint."""

    async def deliver(self, content: dict[str, Any], /) -> None:
        """Act on one reply (:mod:`triochan.replies`): ValueError for a wrong one, ConnectionClosed when gone."""

    def try_deliver(self, content: dict[str, Any], /) -> bool:
        """The same where nothing has to wait; False: something may have to, and nothing was done."""

    def deliver_nowait(self, content: dict[str, Any], /) -> None:
        """The same for a member of a group: never waits, and a member that is gone is no error."""


class _OnLayer:
    """What sends through a layer: the one that it was given, or the one that runs."""

    __slots__ = ("_layer",)

    def __init__(self, layer: ChannelLayer | None) -> None:
        self._layer = layer
        if layer is not None:
            _check_layer(layer)

    @property
    def layer(self) -> ChannelLayer:
        """The layer that it sends through."""
        return self._layer or current_layer()

    @property
    def channel_layer(self) -> ChannelLayer:
        """Channels 1's name for :attr:`layer`."""
        return self.layer


class Channel(_OnLayer):
    """A channel, by name: where messages are sent to.

    Args:
        name: ASCII letters, digits, ``-_.``, and one ``!`` in a reply channel's; at most 100 characters.
        layer: the layer to send through; the one that runs (:func:`current_layer`) where None.
        channel_layer: Channels 1's name for the same.

    Raises:
        ValueError: a name that is none.
        TypeError: a layer that is none.
    """

    __slots__ = ("name",)

    outbox: ClassVar[None] = None
    """A named channel takes contents, not frames (see :class:`Endpoint`)."""

    def __init__(
        self, name: str, layer: ChannelLayer | None = None, *, channel_layer: ChannelLayer | None = None
    ) -> None:
        self.name: str = check_name("channel", name, reply=True)
        super().__init__(layer if channel_layer is None else channel_layer)

    async def send(self, content: dict[str, Any], /, *, immediately: bool = True) -> None:
        """Send one message; a checkpoint only where it has to wait.

        Args:
            immediately: always True: no send waits for its consumer's end, as they do in Channels 1 by default.

        Raises:
            TypeError: ``content`` is not a dict.
            ChannelFull: a named channel holds all it can.
            NobodyListens: no consumer takes from it, as far as the layer in memory knows.
            InvalidContent: a named channel's content is nested too deeply, some hundred levels.
            ConnectionClosed: a reply channel whose connection is gone.
            ValueError: a reply that its connection can't take.
            LayerUnavailable: a distributed layer's engine does not answer.
        """
        _check_content(content)
        if not immediately:
            raise ValueError(DELAYED)
        if self.name in RESERVED:
            raise ValueError(f"nothing takes what is sent to channel {self.name!r}: {RESERVED[self.name]}")
        layer = self.layer
        if "!" not in self.name:
            layer.require_listener(self.name)
        await layer.send(self.name, content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Channel) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __deepcopy__(self, memo: object) -> Channel:
        return self  # a name: its copy would drag along copies of a layer and a connection

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class ReplyChannel(Channel):
    """A channel to one connection of this process; sends reach it without a look-up, and without an engine."""

    __slots__ = ("_kind", "_name", "endpoint")

    def __init__(
        self, kind: str, endpoint: Endpoint | Departed, layer: ChannelLayer, name: str | None = None
    ) -> None:
        self._kind = kind
        self._name = name
        self.endpoint = endpoint
        self._layer = layer

    @property
    def name(self) -> str:  # type: ignore[override]
        """Made when it is first asked for: most connections are never called by their names."""
        if self._name is None:
            assert self._layer is not None
            self._name = self._layer.register(self._kind, self.endpoint)
        return self._name

    @property
    def named(self) -> bool:
        """Somebody has asked for the name."""
        return self._name is not None

    async def send(self, content: dict[str, Any], /, *, immediately: bool = True) -> None:
        _check_content(content)
        if not immediately:
            raise ValueError(DELAYED)
        await self.endpoint.deliver(content)


class Group(_OnLayer):
    """A group, by name: a set of channels that take the same message.

    A connection's memberships end with the connection, however it ends; a named channel stays until it is discarded.

    Args:
        name: ASCII letters, digits, ``-_.``; at most 100 characters.
        layer, channel_layer: as in :class:`Channel`.

    Raises:
        ValueError: a name that is none.
        TypeError: a layer that is none.
    """

    __slots__ = ("name",)

    def __init__(
        self, name: str, layer: ChannelLayer | None = None, *, channel_layer: ChannelLayer | None = None
    ) -> None:
        self.name: str = check_name("group", name)
        super().__init__(layer if channel_layer is None else channel_layer)

    async def add(self, channel: SendsReplies | str, /) -> None:
        """Put a channel into the group; again is no error, nor is a connection that is gone by now."""
        await self.layer.group_add(self.name, _channel_name(channel))

    async def discard(self, channel: SendsReplies | str, /) -> None:
        """Take a channel out of the group; one that is not in it is no error."""
        await self.layer.group_discard(self.name, _channel_name(channel))

    async def send(
        self,
        content: dict[str, Any],
        /,
        *,
        exclude: SendsReplies | str | None = None,
        immediately: bool = True,
    ) -> None:
        """Send ``content`` to every member without waiting for any of them; no checkpoint in the default layer.

        A member that is slow, full or gone never fails the send: its overflow policy applies, and every
        message that was dropped is counted.

        Args:
            exclude: a channel, or its name: a member that is not sent it, such as ``message.reply_channel``.
            immediately: as in :meth:`Channel.send`.

        Raises:
            TypeError: ``content`` is not a dict.
            ValueError: a member is a connection, and ``content`` is nothing that it could take.
            LayerUnavailable: a distributed layer's engine does not answer.
        """
        _check_content(content)
        if not immediately:
            raise ValueError(DELAYED)
        if exclude is None:
            await self.layer.group_send(self.name, content)
        else:
            await self.layer.group_send(self.name, content, _channel_name(exclude))

    async def members(self) -> list[str]:
        """The names of the channels in the group, in the order in which they joined. A distributed layer asks all
        processes, and names the connections of each in turn, named channels last."""
        return await self.layer.group_members(self.name)

    def __repr__(self) -> str:
        return f"Group({self.name!r})"


class Departed:
    """Stands behind a reply channel when its connection is gone."""

    __slots__ = ("_code", "_local", "_reason")

    outbox: ClassVar[None] = None

    def __init__(self, code: int | None, reason: str) -> None:
        self._code = code or 1006
        self._reason = reason
        self._local: Local | None = None

    @property
    def local(self) -> Local:
        if self._local is None:
            self._local = Local()
        return self._local

    async def deliver(self, content: dict[str, Any], /) -> None:
        raise ConnectionClosed(self._code, self._reason)

    def deliver_nowait(self, content: dict[str, Any], /) -> None:
        pass


class ChannelLayer(ABC):
    """What carries messages between channels; this is the contract, :mod:`triochan.test.layers` is the same as tests.

    For a layer of your own, override the abstract methods, and :meth:`connected` where it has tasks or an engine. What
    programs call are :class:`Channel` and :class:`Group`, which check names and contents first.

    - A content is a dict of plain data. Whoever receives it gets one of its own, in which a :class:`Channel` at the top
      is its name.
    - A **named channel** keeps what is sent to it, in that order, for one receiver each: ``channel_capacity`` messages,
      or ``channel_bytes``; then ChannelFull is raised, and nothing is lost of what is in it. What has waited for
      ``channel_expiry`` is received no more, and takes no room. A receiver that is cancelled takes nothing along.
    - A **reply channel** reaches the one connection that it names; ConnectionClosed is raised where there is none. What
      one task sends arrives in its order. A layer of many processes carries it to the process whose connection it is.
    - A **group send** returns when the layer has the message. It waits for no member, and fails for none: a member that
      is slow, full or gone has its overflow policy, or is counted. All members see one sender's messages in its order;
      one that is excluded is not sent it. Content that no WebSocket could take raises ValueError, and reaches nobody,
      where there is one in the group.
    - A **membership** holds from the return of :meth:`group_add`; twice is once. A connection's ends with it at once,
      however it ends, without a wait; a named channel's by :meth:`group_discard`. A connection that is gone joins
      nothing, and that is no error.
    - Where an engine does not answer, LayerUnavailable is raised in bounded time: a message may have been sent then or
      not; whoever was to join is not a member. The layer tells the log, once. Connections stay as they are.
    """

    ChannelFull: ClassVar[type[ChannelFull]] = ChannelFull
    """Where Channels 1's programs find it: ``except message.channel_layer.ChannelFull``."""

    if not TYPE_CHECKING:
        __getattr__ = attribute_lookup(LAYER_ATTRIBUTES)

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._serial = itertools.count(1)
        self._endpoints: dict[str, Endpoint] = {}
        self._told_of_gaps: dict[object, Callable[[float], None]] = {}

    # -- the connections of this process

    def attach(self, kind: str, endpoint: Endpoint) -> ReplyChannel:
        """Give ``endpoint`` a reply channel: its name is ``kind``, this process's mark, and a number."""
        return ReplyChannel(kind, endpoint, self)

    def register(self, kind: str, endpoint: Endpoint | Departed) -> str:
        """Name a reply channel, so that its endpoint is found by that name; for :class:`ReplyChannel`."""
        name = f"{kind}.{self._prefix}!{next(self._serial):x}"
        if not isinstance(endpoint, Departed):
            self._endpoints[name] = endpoint
        return name

    def detach(self, endpoint: Endpoint) -> None:
        """Forget ``endpoint`` and take it out of its groups; again is no error. Never waits."""
        channel = endpoint.channel
        if channel.endpoint is endpoint:
            if channel.named:  # else it is in no group: members are put into groups by their names
                self._endpoints.pop(channel.name, None)
                self._left(endpoint)
            # Whoever keeps the channel does not keep the connection; and without this circle, most of a connection
            # is freed at once, not by the garbage collector.
            channel.endpoint = Departed(endpoint.close_code, endpoint.close_reason)

    def reply_channel(self, name: str) -> Channel:
        """The reply channel of that name: this process's connection where it is, or was, one of its."""
        endpoint = self._endpoints.get(name)
        if endpoint is not None:
            return endpoint.channel
        if f".{self._prefix}!" in name:
            return ReplyChannel("", Departed(None, ""), self, check_name("channel", name, reply=True))
        return Channel(name, self)

    async def send(self, channel: str, content: dict[str, Any]) -> None:
        """Send to a named channel, or to a connection by its reply channel's name; see :meth:`Channel.send`."""
        endpoint = self._endpoints.get(channel)
        if endpoint is not None:
            await endpoint.deliver(content)
        elif "!" in channel:
            await self._send_elsewhere(channel, content)
        else:
            await self._put(channel, content)

    async def _send_elsewhere(self, channel: str, content: dict[str, Any]) -> None:
        """Send to a reply channel that is not one of this process's."""
        raise ConnectionClosed(1006, f"no connection has the reply channel {channel!r}")

    # -- what each layer does its own way

    @abstractmethod
    def _left(self, endpoint: Endpoint) -> None:
        """``endpoint`` is gone: end its memberships."""

    @abstractmethod
    async def _put(self, channel: str, content: dict[str, Any]) -> None:
        """Put a message into a named channel."""

    @abstractmethod
    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message of a named channel. Several tasks may wait; each message goes to one."""

    def serve(self, channels: Iterable[str]) -> None:  # noqa: B027 - a layer may have no use for it
        """Note that this process has consumers of these named channels; each server does, before it serves."""

    def require_listener(self, channel: str) -> None:  # noqa: B027 - a layer may not know
        """Refuse what nobody would take, where the layer knows of all consumers there are.

        Raises:
            NobodyListens: no consumer takes from this named channel.
        """

    def waiting(self, channel: str) -> int:
        """Messages that wait in a named channel, as far as this process knows."""
        return 0

    @abstractmethod
    async def group_add(self, group: str, channel: str) -> None:
        """Put a channel into a group; what is sent from the return on reaches it. In it already: nothing happens.

        Raises:
            LayerUnavailable: the engine does not answer; the channel is not in the group.
        """

    @abstractmethod
    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group; not in it: nothing happens."""

    @abstractmethod
    async def group_send(self, group: str, content: dict[str, Any], exclude: str | None = None) -> None:
        """Send to all members but the one of the name ``exclude``; see :meth:`Group.send`."""

    @abstractmethod
    async def group_members(self, group: str) -> list[str]:
        """The members' names: connections in the order in which they joined, and named channels in that of theirs."""

    # -- gaps

    @contextmanager
    def telling_of_gaps(self, tell: Callable[[float], None]) -> Iterator[None]:
        """For as long as the block lasts, call ``tell`` when messages to groups may have been missed, and are heard
        again, with the seconds between: each server does, for its consumers' ``layer_gap``. It must not wait."""
        mark = object()
        self._told_of_gaps[mark] = tell
        try:
            yield
        finally:
            del self._told_of_gaps[mark]

    def _missed(self, seconds: float) -> None:
        """Told by the layer itself."""
        for tell in list(self._told_of_gaps.values()):
            try:
                tell(seconds)
            except Exception:  # who is told must not break what the layer does
                logger.exception("what is told of a gap raised")

    # -- life

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve this Trio run for as long as the block lasts; a layer's own tasks live within it.

        Servers share one block (:func:`triochan.layers.sharing.share_layer`). They wait until it has been left, so a
        layer bounds what it does then, in time.

        Raises:
            RuntimeError: another layer serves it already.
        """
        serving = run_local().of(_Serving)
        if serving.layer is not None:
            raise RuntimeError(SECOND_LAYER)
        serving.layer = self
        try:
            async with self.connected():
                yield
        finally:
            serving.layer = None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Have what the layer needs, such as its own tasks and an engine, for as long as the block lasts.

        :meth:`running` does it; a layer that a program holds by hand, beside the one that serves, is used within it.

        Raises:
            LayerUnavailable: a distributed layer's engine is not there.
        """
        yield


def with_names(content: dict[str, Any]) -> dict[str, Any]:
    """``content`` with channels written as their names, as they travel."""
    return {key: value.name if isinstance(value, Channel) else value for key, value in content.items()}


def _check_content(content: object) -> None:
    if not isinstance(content, dict):
        raise TypeError(f"the content of a message is a dict, not {type(content).__name__}")


def _check_layer(layer: object) -> None:
    if not isinstance(layer, ChannelLayer):
        raise TypeError(
            f"layer is a ChannelLayer, such as message.channel_layer, not {layer!r:.100}; layers have no aliases here"
        )


def _channel_name(channel: SendsReplies | str) -> str:
    if isinstance(channel, Channel):
        return channel.name
    return check_name("channel", getattr(channel, "name", channel), reply=True)

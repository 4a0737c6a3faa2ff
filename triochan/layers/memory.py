"""The default layer: one process, named channels as bounded Trio memory channels."""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

import trio

from ..exceptions import ChannelFull, NobodyListens
from ..near_misses import closest
from ..settings import CHANNEL_BYTES, Settings, by_glob
from .base import Channel, ChannelLayer, Endpoint, with_names
from .contents import Waiting
from .fan_out import FanOut, Member
from .groups import GroupRegistry

logger = logging.getLogger("triochan.layers")

_Item = tuple[float, Waiting]
"""When it expires (Trio's clock), and the content."""


class MemoryLayer(ChannelLayer):
    """Channels and groups of one process.

    Args:
        settings: ``channel_capacity``, ``channel_bytes`` and ``channel_expiry`` bound its named channels.

    Attributes:
        dropped: messages that a group send could not put into a full named channel.
        expired: messages that waited longer than their channel's expiry.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__()
        self.settings = settings or Settings()
        self.groups: GroupRegistry[Member] = GroupRegistry()
        self.dropped = 0
        self.expired = 0
        self._fan_out = FanOut(self.groups)
        self._channels: dict[str, _NamedChannel] = {}
        # Channels that somebody takes from; None: no server has said, the layer is used by hand.
        self._served: set[str] | None = None

    # -- named channels

    def _open(self, name: str) -> _NamedChannel:
        channel = self._channels.get(name)
        if channel is None:
            settings = self.settings
            channel = self._channels[name] = _NamedChannel(
                by_glob(settings.channel_capacity, name, 100),
                by_glob(settings.channel_bytes, name, CHANNEL_BYTES),
                by_glob(settings.channel_expiry, name, 60.0),
                settings.channel_share,
            )
        return channel

    async def _put(self, channel: str, content: dict[str, Any]) -> None:
        """No checkpoint: a full channel is an answer, not a wait."""
        self._put_nowait(channel, Waiting.of(with_names(content)))

    def serve(self, channels: Iterable[str]) -> None:
        if self._served is None:
            self._served = set()
        self._served.update(channels)

    def require_listener(self, channel: str) -> None:
        if self._served is not None and channel not in self._served:
            raise NobodyListens(channel, closest(channel, self._served, likeness=0.6))

    def _put_nowait(self, name: str, waiting: Waiting) -> None:
        channel = self._open(name)
        if channel.full:
            # All of a channel's messages live equally long: what has expired is in front.
            while channel.first_deadline < trio.current_time():
                self._tell_expired(name, channel.take_nowait()[1])
            if channel.full:
                if len(channel.items) >= channel.capacity:
                    raise ChannelFull(name, channel.capacity)
                raise ChannelFull(name, channel.capacity, channel.limit)
        if channel.share is not None and channel.waiting_of(waiting.source) >= channel.share:
            raise ChannelFull(name, channel.capacity, share=channel.share)
        channel.put_nowait(waiting)

    async def receive(self, channel: str) -> dict[str, Any]:
        if self._served is not None:
            self._served.add(channel)
        while True:
            deadline, waiting = await self._open(channel).take()
            if trio.current_time() <= deadline:
                return waiting.content()
            self._tell_expired(channel, waiting)

    def waiting(self, channel: str) -> int:
        opened = self._channels.get(channel)
        return 0 if opened is None else len(opened.items)

    def _tell_expired(self, channel: str, waiting: Waiting) -> None:
        self.expired += 1
        logger.warning("a message on channel %r expired before a consumer took it: %s", channel, waiting)

    # -- groups

    def _member(self, channel: str) -> Member | None:
        """What a group holds for ``channel``; None for a connection that is gone, or never was here."""
        return self._endpoints.get(channel) if "!" in channel else Channel(channel, self)

    async def group_add(self, group: str, channel: str) -> None:
        member = self._member(channel)
        if member is not None:
            self._fan_out.add(group, member)

    async def group_discard(self, group: str, channel: str) -> None:
        member = self._member(channel)
        if member is not None:
            self._fan_out.discard(group, member)

    async def group_members(self, group: str) -> list[str]:
        return self._fan_out.names(group)

    async def group_send(self, group: str, content: dict[str, Any], exclude: str | None = None) -> None:
        """No checkpoint, so that all members see the group's messages in one order."""
        excluded = None if exclude is None else self._member(exclude)
        waiting: Waiting | None = None
        for channel in self._fan_out.deliver(group, content, excluded):
            if waiting is None:
                waiting = Waiting.of(with_names(content))
            try:
                self._put_nowait(channel.name, waiting)
            except ChannelFull as error:
                self.dropped += 1
                logger.warning("group %r: %s", group, error)

    def _left(self, endpoint: Endpoint) -> None:
        self._fan_out.leave_all(endpoint)


class _NamedChannel:
    """A Trio memory channel, and what is known of the messages in it.

    Args:
        capacity: messages.
        limit: bytes; a channel that holds so many takes no other message.
        expiry: seconds that a message may wait.
        share: messages of one connection; None: as many as there is room for.

    Attributes:
        items: what is in it. A message that comes while somebody waits for one never is.
    """

    __slots__ = (
        "_expiry",
        "_receiving",
        "_sending",
        "_sources",
        "capacity",
        "items",
        "limit",
        "share",
        "size",
    )

    def __init__(self, capacity: int, limit: int, expiry: float, share: int | None = None) -> None:
        self.capacity = capacity
        self.share = share
        self._sources: Counter[str] = Counter()
        self.limit = limit
        self._expiry = expiry
        self._sending, self._receiving = trio.open_memory_channel[_Item](capacity)
        self.items: deque[_Item] = deque()
        self.size = 0

    @property
    def full(self) -> bool:
        return len(self.items) >= self.capacity or self.size >= self.limit

    @property
    def first_deadline(self) -> float:
        """When the first message expires; never, where there is none."""
        return self.items[0][0] if self.items else math.inf

    def waiting_of(self, source: str | None) -> int:
        """Messages in it of the connection whose reply channel that is, where there is a share to hold."""
        return 0 if source is None else self._sources[source]

    def put_nowait(self, waiting: Waiting) -> None:
        """Take one more; this is not :attr:`full`."""
        item = (trio.current_time() + self._expiry, waiting)
        awaited = self._sending.statistics().tasks_waiting_receive > 0
        self._sending.send_nowait(item)
        if not awaited:
            self.items.append(item)
            self.size += waiting.size
            if self.share is not None and waiting.source is not None:
                self._sources[waiting.source] += 1

    def take_nowait(self) -> _Item:
        """The first message.

        Raises:
            trio.WouldBlock: there is none.
        """
        item = self._receiving.receive_nowait()
        self.items.popleft()
        self.size -= item[1].size
        source = item[1].source
        if source is not None and source in self._sources:
            self._sources[source] -= 1
            if not self._sources[source]:
                del self._sources[source]
        return item

    async def take(self) -> _Item:
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            item = self.take_nowait()
        except trio.WouldBlock:
            return await self._receiving.receive()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return item

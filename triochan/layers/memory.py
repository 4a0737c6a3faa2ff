"""The default layer: one process, named channels as bounded queues."""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

import attrs
import trio

from ..exceptions import ChannelFull, NobodyListens
from ..near_misses import closest
from ..settings import CHANNEL_BYTES, Settings, by_glob
from .base import Channel, ChannelLayer, Endpoint, with_names
from .contents import Waiting
from .deliveries import DeadLetter, Delivery, retry_after
from .fan_out import FanOut, Member
from .groups import GroupRegistry
from .presence import MemoryPresence
from .receivers import Receivers

logger = logging.getLogger("triochan.layers")


@attrs.define(eq=False)
class _Item:
    """A message of a named channel.

    Attributes:
        deadline: when it expires, on Trio's clock.
        waiting: the content.
        attempt: the next one.
    """

    deadline: float
    waiting: Waiting
    attempt: int = 1


class MemoryLayer(ChannelLayer):
    """Channels and groups of one process.

    Args:
        settings: its ``channel_…`` bound its named channels.

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
        self._dead: dict[str, deque[tuple[str, Waiting, DeadLetter]]] = {}
        self._dead_serial = itertools.count(1)
        self._holders: dict[str, tuple[str, float]] = {}

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

    async def _put(self, channel: str, content: dict[str, Any], delay: float = 0.0) -> None:
        """No checkpoint: a full channel is an answer, not a wait."""
        self._put_nowait(channel, Waiting.of(with_names(content)), delay)

    def serve(self, channels: Iterable[str], durable: Iterable[str] = ()) -> None:
        if self._served is None:
            self._served = set()
        self._served.update(channels)
        for name in durable:
            self._open(name).durable = True

    def require_listener(self, channel: str) -> None:
        if self._served is not None and channel not in self._served:
            raise NobodyListens(channel, closest(channel, self._served, likeness=0.6))

    def _put_nowait(self, name: str, waiting: Waiting, delay: float = 0.0) -> None:
        channel = self._open(name)
        channel.move_due()
        if channel.full:
            # All of a channel's messages live equally long: what has expired is in front.
            while channel.first_deadline < trio.current_time():
                self._tell_expired(name, channel.take_nowait())
            if channel.full:
                if channel.held >= channel.capacity:
                    raise ChannelFull(name, channel.capacity)
                raise ChannelFull(name, channel.capacity, channel.limit)
        if channel.share is not None and channel.waiting_of(waiting.source) >= channel.share:
            raise ChannelFull(name, channel.capacity, share=channel.share)
        if delay:
            channel.put_later(waiting, delay)
        else:
            channel.put_nowait(waiting)

    async def receive(self, channel: str, *, durable: bool = False) -> Delivery:
        if self._served is not None:
            self._served.add(channel)
        opened = self._open(channel)
        if durable:
            opened.durable = True
        while True:
            item = await opened.take()
            if opened.durable or trio.current_time() <= item.deadline:
                content = item.waiting.content()
                if durable:
                    return _Durable(content, item.attempt, self, channel, item)
                return Delivery(content, item.attempt)
            self._tell_expired(channel, item)

    async def waiting(self, channel: str) -> int:
        opened = self._channels.get(channel)
        return 0 if opened is None else opened.held

    def _tell_expired(self, channel: str, item: _Item) -> None:
        self.expired += 1
        logger.warning("a message on channel %r expired before a consumer took it: %s", channel, item.waiting)

    # -- what failed

    def _failed(self, name: str, item: _Item, error: str) -> None:
        if item.attempt < self.settings.channel_attempts:
            delay = retry_after(item.attempt, self.settings.channel_retry)
            self._open(name).put_later(item.waiting, delay, item.attempt + 1)
            return
        logger.error(
            "channel %s: a message failed %d times and is a dead letter now: %s", name, item.attempt, error
        )
        letters = self._dead.get(name)
        if letters is None:
            letters = self._dead[name] = deque(maxlen=self.settings.channel_dead_letters)
        id = f"{name}/{next(self._dead_serial)}"
        letters.append((id, item.waiting, DeadLetter(id, name, {}, item.attempt, error, time.time())))

    async def dead_letters(self, channel: str | None = None) -> list[DeadLetter]:
        names = self._dead if channel is None else [channel]
        return [
            attrs.evolve(letter, content=waiting.content())
            for name in names
            for _, waiting, letter in self._dead.get(name, ())
        ]

    async def send_again(self, id: str) -> None:
        name, letter = self._find_dead(id)
        self._put_nowait(name, letter[1])
        self._dead[name].remove(letter)

    async def delete_dead_letter(self, id: str) -> None:
        name, letter = self._find_dead(id)
        self._dead[name].remove(letter)

    def _find_dead(self, id: str) -> tuple[str, tuple[str, Waiting, DeadLetter]]:
        name = id.rpartition("/")[0]
        for letter in self._dead.get(name, ()):
            if letter[0] == id:
                return name, letter
        raise LookupError(f"there is no dead letter {id!r}")

    async def hold(self, name: str, holder: str, seconds: float) -> bool:
        now = trio.current_time()
        held_by, until = self._holders.get(name, (holder, math.inf))
        if held_by != holder and now < until:
            return False
        if seconds > 0:
            self._holders[name] = (holder, now + seconds)
        else:
            self._holders.pop(name, None)
        return True

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

    # -- presence

    def _make_presence(self) -> MemoryPresence:
        return MemoryPresence(self._prefix, self._fan_out.send_text)


class _Durable(Delivery):
    """A message that stays the layer's until it is acknowledged."""

    __slots__ = ("_channel", "_ended", "_item", "_layer")

    def __init__(
        self, content: dict[str, Any], attempt: int, layer: MemoryLayer, channel: str, item: _Item
    ) -> None:
        super().__init__(content, attempt)
        self._layer = layer
        self._channel = channel
        self._item = item
        self._ended = False

    async def acknowledge(self) -> None:
        self._ended = True

    async def give_back(self, error: str = "") -> None:
        if self._ended:
            return
        self._ended = True
        if error:
            self._layer._failed(self._channel, self._item, error)
        else:
            self._layer._open(self._channel).put_back(self._item)


class _NamedChannel:
    """What is in a channel, and who waits for more.

    Args:
        capacity: messages.
        limit: bytes; a channel that holds so many takes no other message.
        expiry: seconds that a message may wait.
        share: messages of one connection; None: as many as there is room for.

    Attributes:
        items: what is in it. A message that comes while somebody waits for one never is.
        durable: nothing in it expires.
    """

    __slots__ = (
        "_expiry",
        "_later",
        "_receivers",
        "_serial",
        "_sources",
        "capacity",
        "durable",
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
        self.items: deque[_Item] = deque()
        self._later: list[tuple[float, int, _Item]] = []
        self._serial = itertools.count()
        self._receivers: Receivers[_Item] = Receivers()
        self.size = 0
        self.durable = False

    @property
    def held(self) -> int:
        """Messages in it, those that are not due yet included."""
        return len(self.items) + len(self._later)

    @property
    def full(self) -> bool:
        return self.held >= self.capacity or self.size >= self.limit

    @property
    def first_deadline(self) -> float:
        """When the first message expires; never, where there is none."""
        return self.items[0].deadline if self.items and not self.durable else math.inf

    def waiting_of(self, source: str | None) -> int:
        """Messages in it of the connection whose reply channel that is, where there is a share to hold."""
        return 0 if source is None else self._sources[source]

    def put_nowait(self, waiting: Waiting) -> None:
        """Take one more; this is not :attr:`full`."""
        item = _Item(trio.current_time() + self._expiry, waiting)
        if not self._receivers.hand_over(item):
            self.items.append(item)
            self._count(item)

    def put_later(self, waiting: Waiting, delay: float, attempt: int = 1) -> None:
        """The same, for who takes in ``delay`` seconds."""
        due = trio.current_time() + delay
        item = _Item(due + self._expiry, waiting, attempt)
        first = not self._later or due < self._later[0][0]
        heapq.heappush(self._later, (due, next(self._serial), item))
        self._count(item)
        if first:  # who waits has to be up earlier
            self._receivers.wake()

    def put_back(self, item: _Item) -> None:
        """Take one that was taken and not handled: it is the first."""
        if not self._receivers.hand_over(item):
            self.items.appendleft(item)
            self._count(item)

    def move_due(self) -> None:
        """What is due by now is in it, behind what was put before that time."""
        while self._later and self._later[0][0] <= trio.current_time():
            item = heapq.heappop(self._later)[2]
            if self._receivers.hand_over(item):
                self._forget(item)
            else:
                self.items.append(item)

    def take_nowait(self) -> _Item:
        """The first message.

        Raises:
            IndexError: there is none.
        """
        item = self.items.popleft()
        self._forget(item)
        return item

    async def take(self) -> _Item:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            self.move_due()
            if self.items:
                item = self.take_nowait()
                await trio.lowlevel.cancel_shielded_checkpoint()
                return item
            found = await self._receivers.wait(self._later[0][0] if self._later else math.inf)
            if found is not None:
                return found

    def _count(self, item: _Item) -> None:
        self.size += item.waiting.size
        if self.share is not None and item.waiting.source is not None:
            self._sources[item.waiting.source] += 1

    def _forget(self, item: _Item) -> None:
        self.size -= item.waiting.size
        source = item.waiting.source
        if source is not None and source in self._sources:
            self._sources[source] -= 1
            if not self._sources[source]:
                del self._sources[source]

"""The default layer: one process, named channels as bounded Trio memory channels."""

from __future__ import annotations

import copy
import logging
from typing import Any

import attrs
import trio

from ..exceptions import ChannelFull
from ..replies import parse_websocket
from ..settings import Settings, by_glob
from ..wire.outbox import Outbox, broadcast
from .base import Channel, ChannelLayer, Endpoint
from .groups import GroupRegistry

logger = logging.getLogger("triochan.layers")

Member = Endpoint | Channel
"""A connection of this process, or a named channel."""

_Waiting = tuple[float, dict[str, Any]]
"""When it expires (Trio's clock), and the content."""


class MemoryLayer(ChannelLayer):
    """Channels and groups of one process.

    Args:
        settings: ``channel_capacity`` and ``channel_expiry`` bound its named channels.

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
        self._fans: dict[str, _Fan] = {}
        self._channels: dict[
            str, tuple[trio.MemorySendChannel[_Waiting], trio.MemoryReceiveChannel[_Waiting]]
        ] = {}

    # -- named channels

    def _capacity(self, channel: str) -> int:
        return by_glob(self.settings.channel_capacity, channel, 100)

    def _open(
        self, channel: str
    ) -> tuple[trio.MemorySendChannel[_Waiting], trio.MemoryReceiveChannel[_Waiting]]:
        pair = self._channels.get(channel)
        if pair is None:
            pair = self._channels[channel] = trio.open_memory_channel[_Waiting](self._capacity(channel))
        return pair

    async def _put(self, channel: str, content: dict[str, Any]) -> None:
        """No checkpoint: a full channel is an answer, not a wait."""
        self._put_nowait(channel, content)

    def _put_nowait(self, channel: str, content: dict[str, Any]) -> None:
        expiry = by_glob(self.settings.channel_expiry, channel, 60.0)
        # A copy: what the sender does to its dict afterwards is not the receiver's business.
        waiting = (trio.current_time() + expiry, copy.deepcopy(_with_names(content)))
        sending = self._open(channel)[0]
        try:
            sending.send_nowait(waiting)
        except trio.WouldBlock:
            if not self._drop_expired(channel):
                raise ChannelFull(channel, self._capacity(channel)) from None
            sending.send_nowait(waiting)

    async def receive(self, channel: str) -> dict[str, Any]:
        receiving = self._open(channel)[1]
        while True:
            waiting = await receiving.receive()
            if not self._has_expired(channel, waiting):
                return waiting[1]

    def waiting(self, channel: str) -> int:
        pair = self._channels.get(channel)
        return 0 if pair is None else pair[1].statistics().current_buffer_used

    def _drop_expired(self, channel: str) -> bool:
        """Make room in a full channel, nobody waiting for it; False where nothing in it has expired."""
        receiving = self._open(channel)[1]
        kept = [receiving.receive_nowait() for _ in range(receiving.statistics().current_buffer_used)]
        fresh = [waiting for waiting in kept if not self._has_expired(channel, waiting)]
        for waiting in fresh:
            self._open(channel)[0].send_nowait(waiting)
        return len(fresh) < len(kept)

    def _has_expired(self, channel: str, waiting: _Waiting) -> bool:
        deadline, content = waiting
        if trio.current_time() <= deadline:
            return False
        self.expired += 1
        logger.warning("a message on channel %r expired before a consumer took it: %.200r", channel, content)
        return True

    # -- groups

    def _member(self, channel: str) -> Member | None:
        """What a group holds for ``channel``; None for a connection that is gone, or never was here."""
        return self._endpoints.get(channel) if "!" in channel else Channel(channel, self)

    async def group_add(self, group: str, channel: str) -> None:
        member = self._member(channel)
        if member is not None:
            self.groups.add(group, member)

    async def group_discard(self, group: str, channel: str) -> None:
        member = self._member(channel)
        if member is not None and self.groups.discard(group, member):
            self._fans.pop(group, None)

    async def group_members(self, group: str) -> list[str]:
        return [
            each.name if isinstance(each, Channel) else each.channel.name
            for each in self.groups.members(group)
        ]

    async def group_send(self, group: str, content: dict[str, Any]) -> None:
        """No checkpoint, so that all members see the group's messages in one order."""
        joined = self.groups.snapshot(group)
        if not joined:
            return  # and nothing is kept for a group that is not there
        fan = self._fans.get(group)
        if fan is None or fan.joined is not joined:
            fan = self._fans[group] = _Fan.out_to(joined)
        members, outboxes, others = fan.members, fan.outboxes, fan.others
        if members:
            reply = parse_websocket(content)
            if reply.accept is not None:
                raise ValueError("a group send can't accept or refuse a handshake; send to the reply channel")
            if reply.data is not None:
                broadcast(reply.data, outboxes)
            if reply.close is not None:
                for member in members:
                    member.deliver_nowait({"close": reply.close, "reason": reply.reason})
        for other in others:
            if not isinstance(other, Channel):
                other.deliver_nowait(content)
                continue
            try:
                self._put_nowait(other.name, content)
            except ChannelFull as error:
                self.dropped += 1
                logger.warning("group %r: %s", group, error)

    def _left(self, endpoint: Endpoint) -> None:
        for group in self.groups.leave_all(endpoint):
            self._fans.pop(group, None)


@attrs.frozen
class _Fan:
    """A group's members, sorted by what they take; made anew when one has joined or left.

    Attributes:
        joined: as the registry has them.
        members, outboxes: those that take frames, and where they take them.
        others: those that take contents.
    """

    joined: list[Member]
    members: list[Endpoint]
    outboxes: list[Outbox]
    others: list[Member]

    @classmethod
    def out_to(cls, joined: list[Member]) -> _Fan:
        members: list[Endpoint] = []
        outboxes: list[Outbox] = []
        others: list[Member] = []
        for member in joined:
            if isinstance(member, Channel) or member.outbox is None:
                others.append(member)
            else:
                members.append(member)
                outboxes.append(member.outbox)
        return cls(joined, members, outboxes, others)


def _with_names(content: dict[str, Any]) -> dict[str, Any]:
    """``content`` with channels written as their names, as they travel."""
    return {key: value.name if isinstance(value, Channel) else value for key, value in content.items()}

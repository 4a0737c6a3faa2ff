"""What a message to a group does to the members that this process has."""

from __future__ import annotations

from typing import Any

import attrs

from ..replies import parse_websocket
from ..wire.outbox import Outbox, broadcast
from .base import Channel, Endpoint
from .groups import GroupRegistry

Member = Endpoint | Channel
"""A connection of this process, or a named channel."""

CANT_DECIDE = "a group send can't accept or refuse a handshake; send to the reply channel"
_NOBODY: list[Channel] = []


class FanOut:
    """Delivers to the members of groups.

    Args:
        groups: who is in which; changed through this object alone.
    """

    def __init__(self, groups: GroupRegistry[Member]) -> None:
        self._groups = groups
        self._fans: dict[str, _Fan] = {}

    def add(self, group: str, member: Member) -> bool:
        """Put ``member`` into ``group``; True where it is the first of this process. Twice is once."""
        return self._groups.add(group, member)

    def discard(self, group: str, member: Member) -> bool:
        """Take ``member`` out of ``group``; True where this process has no other. Not in it: nothing happens."""
        last = self._groups.discard(group, member)
        if last:
            self._fans.pop(group, None)
        return last

    def leave_all(self, member: Member) -> list[str]:
        """Take ``member`` out of every group; those of which this process has no other."""
        left = self._groups.leave_all(member)
        for group in left:
            self._fans.pop(group, None)
        return left

    def has(self, group: str, member: Member) -> bool:
        """``member`` is in ``group``."""
        return self._groups.has(group, member)

    def takes_frames(self, group: str) -> bool:
        """A WebSocket of this process is in ``group``."""
        return any(member.outbox is not None for member in self._groups.snapshot(group))

    def names(self, group: str) -> list[str]:
        """The members' channels, in the order in which they joined."""
        return [
            each.name if isinstance(each, Channel) else each.channel.name
            for each in self._groups.members(group)
        ]

    def deliver(self, group: str, content: dict[str, Any], exclude: Member | None = None) -> list[Channel]:
        """Send ``content`` to the connections in ``group``, in one step without a checkpoint.

        Returns:
            The members that are named channels, into which the caller has to put it.

        Raises:
            ValueError: one is a WebSocket, and ``content`` is nothing that it could take. Nobody has got it then.
        """
        joined = self._groups.snapshot(group)
        if not joined:
            return _NOBODY  # and nothing is kept for a group that is not there
        fan = self._fans.get(group)
        if fan is None or fan.joined is not joined:
            fan = self._fans[group] = _Fan.out_to(joined)
        if exclude is not None:
            fan = fan.without(exclude)
        if fan.members:
            reply = parse_websocket(content)
            if reply.accept is not None:
                raise ValueError(CANT_DECIDE)
            if reply.data is not None:
                broadcast(reply.data, fan.outboxes)
            if reply.close is not None:
                for member in fan.members:
                    member.deliver_nowait({"close": reply.close, "reason": reply.reason})
        for other in fan.others:
            other.deliver_nowait(content)
        return fan.channels


@attrs.frozen
class _Fan:
    """A group's members, sorted by what they take; made anew when one has joined or left.

    Attributes:
        joined: as the registry has them.
        members, outboxes: those that take frames, and where they take them.
        others: connections that take contents.
        channels: named channels.
    """

    joined: list[Member]
    members: list[Endpoint]
    outboxes: list[Outbox]
    others: list[Endpoint]
    channels: list[Channel]

    @classmethod
    def out_to(cls, joined: list[Member]) -> _Fan:
        fan = cls(joined, [], [], [], [])
        for member in joined:
            if isinstance(member, Channel):
                fan.channels.append(member)
            elif member.outbox is None:
                fan.others.append(member)
            else:
                fan.members.append(member)
                fan.outboxes.append(member.outbox)
        return fan

    def without(self, member: Member) -> _Fan:
        """The same without one of them. Made anew each time: it costs little beside sending to the others."""
        if member not in self.joined:
            return self
        return _Fan.out_to([each for each in self.joined if each != member])

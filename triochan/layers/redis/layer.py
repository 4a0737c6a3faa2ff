"""The layer of many processes, put together from its parts."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from ...settings import Settings
from ..base import ChannelLayer, Endpoint, with_names
from ..deliveries import DeadLetter, Delivery
from ..tokens import RateLimit
from .engine import ANSWER_SECONDS, START_SECONDS, Engine
from .group_members import Groups
from .inbox import Inbox, process_of
from .presence import LEASE_SECONDS, RedisPresence
from .shared_buckets import SharedBuckets
from .streams import Streams

logger = logging.getLogger("triochan.layers")


class RedisLayer(ChannelLayer):
    """Channels and groups that all processes on one engine share.

    Args:
        url: where the engine is, see :class:`triochan.layers.redis.engine.Engine`.
        settings: its ``channel_…`` bound its named channels.
        prefix: stands before every key and channel in the engine.
        timeout: seconds that the engine may take to answer.
        start_timeout: seconds that a start waits for the engine.
        presence_lease: seconds within which the presences of a process that has died are gone.

    Attributes:
        dropped: messages that a group send could not put into a full named channel.

    Raises:
        ImproperlyConfigured: ``url`` is none, or coredis is not installed.
    """

    outlives: ClassVar[bool] = True

    def __init__(
        self,
        url: str,
        settings: Settings | None = None,
        *,
        prefix: str = "triochan",
        timeout: float = ANSWER_SECONDS,
        start_timeout: float = START_SECONDS,
        presence_lease: float = LEASE_SECONDS,
    ) -> None:
        super().__init__()
        self.settings = settings or Settings()
        self.engine = Engine(url, prefix=prefix, timeout=timeout, start_timeout=start_timeout)
        self.dropped = 0
        self.streams = Streams(self.engine, self.settings)
        self._presence_lease = presence_lease
        self._groups = Groups(self.engine, self._endpoints)
        self._inbox = Inbox(
            self.engine,
            self._prefix,
            self._endpoints,
            {
                "join": self.group_add,
                "leave": self.group_discard,
                "members": self._groups.local_names,
            },
        )

    @property
    def gaps(self) -> int:
        """How often the engine was lost and came back: what was sent to groups meanwhile was missed."""
        return self.engine.gaps

    @property
    def lost_replies(self) -> int:
        """Replies between processes that reached no connection: it, or its process, was gone."""
        return self._inbox.lost

    @property
    def unheard(self) -> int:
        """Messages that this process has sent to named channels from which no process has ever taken."""
        return self.streams.unheard

    @property
    def expired(self) -> int:
        """Messages that waited longer than their channel's expiry, as far as this process has found them."""
        return self.streams.expired

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        presence = self._make_presence()
        self._presence = presence
        async with self.engine.running(self._missed) as nursery:
            await self._inbox.open(nursery)
            self._shared_buckets = SharedBuckets(self.engine)
            nursery.start_soon(self._shared_buckets.run)
            with self.telling_of_gaps(presence.restored), self.telling_of_gaps(self._look):
                async with presence.kept(nursery), self.streams.running():
                    yield

    def _look(self, missed: float) -> None:
        self.streams.look()

    async def _send_elsewhere(self, channel: str, content: dict[str, Any]) -> None:
        await self._inbox.reply(channel, with_names(content))

    # -- named channels

    async def _put(self, channel: str, content: dict[str, Any], delay: float = 0.0) -> None:
        await self.streams.put(channel, with_names(content), delay)

    async def receive(self, channel: str, *, durable: bool = False) -> Delivery:
        return await self.streams.receive(channel, durable=durable)

    def serve(self, channels: Iterable[str], durable: Iterable[str] = ()) -> None:
        self.streams.serve(channels, durable)

    async def waiting(self, channel: str) -> int:
        return await self.streams.waiting(channel)

    async def dead_letters(self, channel: str | None = None) -> list[DeadLetter]:
        return await self.streams.dead_letters(channel)

    async def send_again(self, id: str) -> None:
        await self.streams.send_again(id)

    async def delete_dead_letter(self, id: str) -> None:
        await self.streams.delete_dead_letter(id)

    async def hold(self, name: str, holder: str, seconds: float) -> bool:
        return await self.streams.hold(name, holder, seconds)

    # -- groups

    async def group_add(self, group: str, channel: str) -> None:
        """Put a channel into a group; returns when the engine has confirmed that this process hears the group.

        Raises:
            LayerUnavailable: it has not within its time. The channel is not in the group then.
        """
        if "!" not in channel:
            await self._groups.add_named(group, channel)
        elif channel in self._endpoints:
            await self._groups.add(group, self._endpoints[channel])
        elif process_of(channel) != self._prefix:
            await self._inbox.ask(process_of(channel), "join", group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group; the engine is asked only for a named channel, or another process's.

        Raises:
            LayerUnavailable: it does not answer.
        """
        if "!" not in channel:
            await self._groups.discard_named(group, channel)
        elif channel in self._endpoints:
            self._groups.discard(group, self._endpoints[channel])
        elif process_of(channel) != self._prefix:
            await self._inbox.ask(process_of(channel), "leave", group, channel)

    async def group_send(self, group: str, content: dict[str, Any], exclude: str | None = None) -> None:
        """Publish to the processes with members; returns when the engine has it.

        Raises:
            ValueError: a WebSocket is in the group, or may be, and ``content`` is nothing that it could take.
            TypeError: ``content`` is no plain data.
            LayerUnavailable: the engine does not answer.
        """
        content = with_names(content)
        channels = await self._groups.send(group, content, exclude)
        if channels:
            await self._put_to_members(group, channels, content)

    async def _put_to_members(self, group: str, channels: list[str], content: dict[str, Any]) -> None:
        """Put a group's message into its members that are named channels."""
        for error in await self.streams.put_into(channels, content):
            if error is not None:
                self.dropped += 1
                logger.warning("group %r: %s", group, error)

    async def group_members(self, group: str) -> list[str]:
        """The connections of each process, in the order in which they joined, this process's first; then named ones.

        Every process is asked. What one says that has not answered within the engine's time is missing, with a line in
        the log.

        Raises:
            LayerUnavailable: the engine does not answer.
        """
        answers = await self._inbox.ask_all("members", group)
        here = await self._groups.local_names(group)
        others = [names for names in answers if names != here]
        return [*here, *(name for names in others for name in names), *await self._groups.named(group)]

    def _left(self, endpoint: Endpoint) -> None:
        self._groups.leave_all(endpoint)

    # -- counting

    async def take_token(self, kind: type, user_id: object, limit: RateLimit) -> bool:
        known = self._buckets.of((kind, user_id), limit)
        return await self._shared_buckets.take(kind, user_id, limit, known)

    # -- presence

    def _make_presence(self) -> RedisPresence:
        return RedisPresence(self.engine, self._prefix, self._groups.send_text, self._presence_lease)

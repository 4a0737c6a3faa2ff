"""The layer of many processes, put together from its parts."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ...exceptions import ChannelFull
from ...settings import Settings
from ..base import ChannelLayer, Endpoint, with_names
from .engine import ANSWER_SECONDS, START_SECONDS, Engine
from .group_members import Groups
from .inbox import Inbox, process_of

logger = logging.getLogger("triochan.layers")


class RedisLayer(ChannelLayer):
    """Channels and groups that all processes on one engine share.

    Args:
        url: where the engine is, see :class:`triochan.layers.redis.engine.Engine`.
        settings: ``channel_capacity``, ``channel_bytes`` and ``channel_expiry`` bound its named channels.
        prefix: stands before every key and channel in the engine.
        timeout: seconds that the engine may take to answer.
        start_timeout: seconds that a start waits for the engine.

    Attributes:
        dropped: messages that a group send could not put into a full named channel.

    Raises:
        ImproperlyConfigured: ``url`` is none, or coredis is not installed.
    """

    def __init__(
        self,
        url: str,
        settings: Settings | None = None,
        *,
        prefix: str = "triochan",
        timeout: float = ANSWER_SECONDS,
        start_timeout: float = START_SECONDS,
    ) -> None:
        super().__init__()
        self.settings = settings or Settings()
        self.engine = Engine(url, prefix=prefix, timeout=timeout, start_timeout=start_timeout)
        self.dropped = 0
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

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        async with self.engine.running(self._missed) as nursery:
            await self._inbox.open(nursery)
            yield

    async def _send_elsewhere(self, channel: str, content: dict[str, Any]) -> None:
        await self._inbox.reply(channel, with_names(content))

    # -- named channels

    async def _put(self, channel: str, content: dict[str, Any]) -> None:
        raise NotImplementedError

    async def receive(self, channel: str) -> dict[str, Any]:
        raise NotImplementedError

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
        for channel in channels:
            try:
                await self._put(channel, content)
            except ChannelFull as error:
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
        named = await self._groups.named(group)
        # This process's own are read now: it may have gone on since it was asked.
        others = [name for names in answers for name in names if process_of(name) != self._prefix]
        return [*await self._groups.local_names(group), *others, *named]

    def _left(self, endpoint: Endpoint) -> None:
        self._groups.leave_all(endpoint)

"""The layer of many processes, put together from its parts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from ...settings import Settings
from ..base import ChannelLayer, Endpoint
from ..deliveries import DeadLetter, Delivery
from .engine import ANSWER_SECONDS, START_SECONDS, Engine
from .streams import Streams


class RedisLayer(ChannelLayer):
    """Channels and groups that all processes on one engine share.

    Args:
        url: where the engine is, see :class:`triochan.layers.redis.engine.Engine`.
        settings: ``channel_capacity``, ``channel_bytes`` and ``channel_expiry`` bound its named channels.
        prefix: stands before every key and channel in the engine.
        timeout: seconds that the engine may take to answer.
        start_timeout: seconds that a start waits for the engine.

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
    ) -> None:
        super().__init__()
        self.settings = settings or Settings()
        self.engine = Engine(url, prefix=prefix, timeout=timeout, start_timeout=start_timeout)
        self.streams = Streams(self.engine, self.settings)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.engine.running(), self.streams.running(), super().running():
            yield

    def _left(self, endpoint: Endpoint) -> None:
        raise NotImplementedError

    # -- named channels

    async def _put(self, channel: str, content: dict[str, Any], delay: float = 0.0) -> None:
        await self.streams.put(channel, content, delay)

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
        raise NotImplementedError

    async def group_discard(self, group: str, channel: str) -> None:
        raise NotImplementedError

    async def group_send(self, group: str, content: dict[str, Any], exclude: str | None = None) -> None:
        raise NotImplementedError

    async def group_members(self, group: str) -> list[str]:
        raise NotImplementedError

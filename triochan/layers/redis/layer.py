"""The layer of many processes, put together from its parts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ...settings import Settings
from ..base import ChannelLayer, Endpoint
from .engine import ANSWER_SECONDS, START_SECONDS, Engine


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

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.engine.running(), super().running():
            yield

    def _left(self, endpoint: Endpoint) -> None:
        raise NotImplementedError

    async def _put(self, channel: str, content: dict[str, Any]) -> None:
        raise NotImplementedError

    async def receive(self, channel: str) -> dict[str, Any]:
        raise NotImplementedError

    async def group_add(self, group: str, channel: str) -> None:
        raise NotImplementedError

    async def group_discard(self, group: str, channel: str) -> None:
        raise NotImplementedError

    async def group_send(self, group: str, content: dict[str, Any], exclude: str | None = None) -> None:
        raise NotImplementedError

    async def group_members(self, group: str) -> list[str]:
        raise NotImplementedError

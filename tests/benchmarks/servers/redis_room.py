"""A group across processes, written by hand with redis-py: what websockets' documentation recommends for it.

Every process subscribes to the channel and hands what comes to its own members; a sender publishes.
"""

from __future__ import annotations

from collections.abc import Callable

from redis.asyncio import Redis

from benchmarks.servers.common import Options


class Room:
    def __init__(self, options: Options) -> None:
        self._redis = Redis.from_url(options.engine)
        self._channel = f"{options.prefix}.room"

    async def publish(self, message: bytes | str) -> None:
        await self._redis.publish(self._channel, message)

    async def subscribe(self, deliver: Callable[[bytes], None]) -> None:
        """Hand each message to `deliver`, for ever."""
        async with self._redis.pubsub() as pubsub:
            await pubsub.subscribe(self._channel)
            async for message in pubsub.listen():
                if message["type"] == "message":
                    deliver(message["data"])

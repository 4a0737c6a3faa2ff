"""Presences through Redis or Valkey: the contract, and what holds between processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from engines import EngineProcess, engine
from presences import PresenceContract

from triochan.layers.redis import RedisLayer

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def running_engine() -> Iterator[EngineProcess]:
    with engine() as process:
        yield process


class TestRedisPresence(PresenceContract):
    @pytest.fixture
    async def layer(self, running_engine: EngineProcess) -> AsyncIterator[RedisLayer]:
        layer = RedisLayer(running_engine.url)
        async with layer.running():
            yield layer

    @pytest.fixture
    async def other(self, layer: RedisLayer, running_engine: EngineProcess) -> AsyncIterator[RedisLayer]:
        other = RedisLayer(running_engine.url)
        async with other.connected():
            yield other

"""Presences of the in-memory layer: the contract, and what only it promises."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from presences import PresenceContract

from triochan.layers import MemoryLayer
from triochan.layers.presence import LayerPresence


class TestMemoryPresence(PresenceContract):
    @pytest.fixture
    async def layer(self, autojump_clock: object) -> AsyncIterator[MemoryLayer]:
        layer = MemoryLayer()
        async with layer.running():
            yield layer
        presence: LayerPresence = layer.presence
        assert not any(topic.members for topic in presence.topics.values())
        assert presence._telling is None

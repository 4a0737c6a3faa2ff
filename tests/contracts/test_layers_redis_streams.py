"""Named channels through Redis or Valkey: the contract, and what only they promise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import layers
import named_channels
import pytest
import trio
from engines import EngineProcess, engine
from layers import LayerContract
from named_channels import NamedChannelContract

from triochan.layers.redis import RedisLayer

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def running_engine() -> Iterator[EngineProcess]:
    with engine() as process:
        yield process


_prefixes = iter(range(10_000))


class OnEngine:
    @pytest.fixture
    def clock(self) -> None:
        return None

    @pytest.fixture
    async def layer(self, running_engine: EngineProcess) -> AsyncIterator[RedisLayer]:
        layer = RedisLayer(running_engine.url, named_channels.SETTINGS, prefix=f"t{next(_prefixes)}")
        async with layer.running():
            yield layer

    @pytest.fixture
    def elapse(self, layer: RedisLayer) -> layers.Elapse:
        async def shift(seconds: float) -> None:
            layer.streams.shift += seconds
            layer.streams._look_at_all()
            await trio.sleep(0.02)

        return shift

    @pytest.fixture
    def settle(self) -> named_channels.Settle:
        async def wait() -> None:
            await trio.sleep(0.02)

        return wait


class TestNamedChannels(OnEngine, NamedChannelContract):
    pass


class TestPlainChannels(OnEngine):
    test_sent = LayerContract.test_what_is_sent_is_received
    test_order = LayerContract.test_in_the_order_in_which_it_was_sent
    test_mix = LayerContract.test_channels_do_not_mix
    test_own = LayerContract.test_the_receiver_s_content_is_its_own
    test_full = LayerContract.test_a_full_channel_says_so_and_loses_nothing
    test_each = LayerContract.test_channels_are_full_each_for_itself
    test_bytes = LayerContract.test_a_channel_full_of_bytes_says_so_and_loses_nothing
    test_large = LayerContract.test_one_message_larger_than_that_goes_through
    test_expires = LayerContract.test_a_message_expires
    test_not_before = LayerContract.test_but_not_before_its_time
    test_no_room = LayerContract.test_what_has_expired_takes_no_room
    test_checkpoint = LayerContract.test_receiving_is_a_checkpoint

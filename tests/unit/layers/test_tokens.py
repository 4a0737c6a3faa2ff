"""Token buckets of one process."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from triochan.layers import MemoryLayer, tokens
from triochan.layers.tokens import Bucket, Buckets, RateLimit


async def test_what_was_quiet_is_forgotten_first(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(tokens, "MAX_BUCKETS", 2)
    buckets = Buckets()
    once = RateLimit(1, 60)
    assert [buckets.of(user, once).take() for user in "aba"] == [True, True, False]
    assert buckets.of("c", once).take()  # b is forgotten: a was heard of later
    assert not buckets.of("a", once).take()
    assert buckets.of("b", once).take()


async def test_a_bucket_goes_on_from_what_it_is_told(autojump_clock: MockClock) -> None:
    bucket = Bucket.full(RateLimit(2, 10))
    bucket.hold(0.5)
    assert not bucket.take()
    await trio.sleep(2.6)
    assert bucket.take()
    assert not bucket.take()


def test_the_next_run_of_a_layer_counts_anew() -> None:
    layer = MemoryLayer()

    async def take() -> bool:
        async with layer.running():
            return await layer.take_token(MemoryLayer, 1, RateLimit(1, 60))

    assert trio.run(take, clock=MockClock())
    assert trio.run(take, clock=MockClock())

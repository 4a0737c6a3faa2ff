"""Buckets that several processes have together: two layers on one engine stand for two processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import trio
from engines import EngineProcess, engine

from triochan.layers.redis import RedisLayer, shared_buckets
from triochan.layers.tokens import RateLimit

pytestmark = pytest.mark.engine
ONCE = RateLimit(1, 3600)


@pytest.fixture(scope="module")
def running_engine() -> Iterator[EngineProcess]:
    with engine() as process:
        yield process


@pytest.fixture
async def layers(running_engine: EngineProcess) -> AsyncIterator[tuple[RedisLayer, RedisLayer]]:
    one, two = (RedisLayer(running_engine.url) for _ in range(2))
    async with one.connected(), two.connected():
        yield one, two
        await one.engine.client.flushall()


Layers = tuple[RedisLayer, RedisLayer]


async def test_what_one_has_taken_another_has_not(layers: Layers) -> None:
    limit = RateLimit(10, 3600)
    taken = [0, 0]

    async def take(index: int) -> None:
        for _ in range(10):
            taken[index] += await layers[index].take_token(str, 1, limit)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, 0)
        nursery.start_soon(take, 1)
    assert sum(taken) == 10
    assert min(taken) > 0


async def test_an_empty_bucket_fills_evenly_by_the_engines_clock(layers: Layers) -> None:
    limit = RateLimit(2, 0.2)
    one, two = layers
    assert [await layer.take_token(str, 1, limit) for layer in (one, two, one)] == [True, True, False]
    await trio.sleep(0.13)
    assert [await layer.take_token(str, 1, limit) for layer in (two, one)] == [True, False]


async def test_many_in_a_moment_are_counted_exactly(layers: Layers) -> None:
    limit = RateLimit(300, 7 * 3600)  # no whole number of microseconds each
    assert sum([await layers[0].take_token(str, 1, limit) for _ in range(301)]) == 300


async def test_a_bucket_is_gone_when_it_is_full(layers: Layers) -> None:
    client = layers[0].engine.client
    await layers[0].take_token(str, 1, RateLimit(2, 0.1))
    [key] = await client.keys("*")
    assert key.startswith(b"triochan:tokens:")
    assert 0 < await client.pttl(key) <= 51
    await trio.sleep(0.06)
    assert not await client.exists([key])
    await layers[0].take_token(str, 1, RateLimit(1, 10**6))
    assert 9 * 10**8 < await client.pttl(key) <= 10**9
    await layers[0].take_token(int, 1, RateLimit(10**9 - 1, 1))  # far more than there can be


@pytest.mark.parametrize("held", ["", "garbage", "1", "x y"])
async def test_a_bucket_that_is_corrupt_is_a_full_one(layers: Layers, held: str) -> None:
    client = layers[0].engine.client
    assert await layers[0].take_token(str, 1, ONCE)
    [key] = await client.keys("*")
    await client.set(key, held)
    assert await layers[1].take_token(str, 1, ONCE)
    assert not await layers[1].take_token(str, 1, ONCE)


async def test_an_error_of_the_engines_is_none_of_the_clients(
    layers: Layers, caplog: pytest.LogCaptureFixture
) -> None:
    client = layers[0].engine.client
    await layers[0].take_token(str, 1, ONCE)
    [key] = await client.keys("*")
    await client.delete([key])
    await client.rpush(key, ["x"])
    assert [await layers[1].take_token(str, 1, ONCE) for _ in range(3)] == [True, False, False]
    said = [line for record in caplog.records if "for itself" in (line := record.getMessage())]
    assert len(said) == 1
    assert (
        "each process counts users' messages for itself until the engine does: the engine at unix:" in said[0]
    )


async def test_who_has_none_here_is_not_asked_for(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = layers
    asked = 0
    take = one._shared_buckets._take

    def counted(*arguments: object) -> object:
        nonlocal asked
        asked += 1
        return take(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(one._shared_buckets, "_take", counted)
    assert await two.take_token(str, 1, ONCE)
    assert sum([await one.take_token(str, 1, ONCE) for _ in range(100)]) == 0
    assert asked == 1


async def test_after_a_while_it_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_buckets, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(shared_buckets, "ALONE_SECONDS", 0.1)
    with engine() as process:
        one, two = (RedisLayer(process.url) for _ in range(2))
        async with one.connected(), two.connected():
            process.pause()
            before = trio.current_time()
            limit = RateLimit(20, 3600)
            for _ in range(5):
                assert await one.take_token(str, 1, limit)
            assert trio.current_time() - before < 0.1  # only the first one has waited
            process.resume()
            await trio.sleep(0.1)
            for _ in range(20):
                assert await two.take_token(str, 1, limit)
            assert not await one.take_token(str, 1, limit)  # as it has heard by now

"""Buckets that several processes have together: two layers on one engine stand for two processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import trio
import trio.testing
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


async def test_what_is_no_bucket_is_a_full_one(layers: Layers) -> None:
    client = layers[0].engine.client
    await layers[0].take_token(str, 1, ONCE)
    [key] = await client.keys("*")
    await client.delete([key])
    await client.rpush(key, ["x"])
    assert [await layers[1].take_token(str, 1, ONCE) for _ in range(2)] == [True, False]


async def test_an_error_of_the_engines_is_none_of_the_clients(
    layers: Layers, caplog: pytest.LogCaptureFixture
) -> None:
    client = layers[0].engine.client
    await client.config_set({"maxmemory": 1})
    taken: list[bool] = []

    async def take(user: int) -> None:
        taken.append(await layers[1].take_token(str, user % 2, ONCE))

    async with trio.open_nursery() as nursery:
        for user in range(6):
            nursery.start_soon(take, user)
    await client.config_set({"maxmemory": 0})
    assert sum(taken) == 2
    said = [line for record in caplog.records if "for itself" in (line := record.getMessage())]
    assert len(said) == 1
    assert (
        "each process counts users' messages for itself until the engine does: the engine at unix:" in said[0]
    )


async def test_what_many_users_take_is_asked_for_together(
    layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_buckets, "_AT_ONCE", 40)
    asked: list[int] = []
    one = layers[0]._shared_buckets
    take_of = one._take

    def counted(keys: list[str], arguments: list[str | bytes | int | float]) -> object:
        asked.append(len(keys))
        return take_of(keys, arguments)

    monkeypatch.setattr(one, "_take", counted)
    taken = [0] * 100

    async def take(user: int) -> None:
        for _ in range(3):
            taken[user] += await layers[0].take_token(str, user, RateLimit(user % 3 + 1, 3600))

    async with trio.open_nursery() as nursery:
        for user in range(100):
            nursery.start_soon(take, user)
    assert taken == [user % 3 + 1 for user in range(100)]
    assert max(asked) <= 40
    assert len(asked) < 20


async def test_who_goes_away_meanwhile_harms_no_other(layers: Layers) -> None:
    taken: list[bool] = []

    async def take() -> None:
        taken.append(await layers[0].take_token(str, 1, RateLimit(5, 3600)))

    async with trio.open_nursery() as nursery:
        for index in range(5):
            nursery.start_soon(take)
            if index == 2:
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await take()
    assert taken == [True] * 5


async def test_who_waits_when_the_layer_ends_is_counted_here(running_engine: EngineProcess) -> None:
    layer = RedisLayer(running_engine.url)
    taken: list[bool] = []

    async def take(user: int) -> None:
        taken.append(await layer.take_token(bool, user, ONCE))

    async with trio.open_nursery() as nursery:
        async with layer.connected():
            running_engine.pause()
            for user in range(3):
                nursery.start_soon(take, user)
            await trio.testing.wait_all_tasks_blocked(0.01)
        running_engine.resume()
        nursery.start_soon(take, 0)
    assert taken == [True, True, True, False]


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

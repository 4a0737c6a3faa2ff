"""Presences through Redis or Valkey: the contract, and what holds between processes."""

from __future__ import annotations

import json
import math
import random
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from engines import EngineProcess, engine
from presences import Client, PresenceContract, until
from starvation import unless_starved
from trio.testing import MockClock

from triochan import Presence
from triochan.exceptions import LayerUnavailable
from triochan.layers.redis import RedisLayer
from triochan.layers.redis.presence import RedisPresence
from triochan.presence import _OfConnection

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


# -- between processes: two layers stand for two of them

LEASE = 1.0
BUSY = 1.0
"""Seconds by which a busy machine may be late."""


@pytest.fixture(autouse=True)
def an_engine_that_is_back_is_found_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is with leases of their usual length."""
    monkeypatch.setattr("triochan.layers.redis.engine._AGAIN_AT_MOST", 0.2)


async def end_grace(*layers: RedisLayer) -> None:
    """As if the engine had been there for long."""
    for layer in layers:
        assert isinstance(layer.presence, RedisPresence)
        await layer.engine.ask(layer.engine.client.hdel(layer.engine.key("presence", "clock"), ["grace"]))
        layer.presence._resync_at = math.inf


@asynccontextmanager
async def processes(
    running: EngineProcess, number: int = 2, *, lease: float = LEASE, prefix: str = ""
) -> AsyncIterator[list[RedisLayer]]:
    prefix = prefix or secrets.token_hex(4)
    async with AsyncExitStack() as stack:
        layers = [
            RedisLayer(running.url, timeout=0.4, presence_lease=lease, prefix=prefix) for _ in range(number)
        ]
        for layer in layers:
            await stack.enter_async_context(layer.connected())
        yield layers


def stop_renewing(layer: RedisLayer) -> None:
    """As a process that is killed, as far as presences go."""
    presence = layer.presence
    assert isinstance(presence, RedisPresence)
    presence.stop()
    presence._used = trio.Event()

    async def nothing(bye: str = "") -> None:
        pass

    presence._look = nothing  # type: ignore[method-assign]


async def watching(*layers: RedisLayer) -> list[Client]:
    clients = []
    for number, layer in enumerate(layers):
        client = Client(layer)
        await client.presence().track(f"user{number}")
        await client.presence().subscribe()
        clients.append(client)
    for client in clients:
        await until(lambda client=client: len(client.read().lists) == len(layers))
    return clients


async def test_a_process_that_died_is_gone_within_its_lease(running_engine: EngineProcess) -> None:
    async with processes(running_engine) as [one, two]:
        here, there = await watching(one, two)
        await trio.sleep(0.2)
        began = trio.current_time()
        stop_renewing(two)
        await until(lambda: here.read().lists.keys() == {"user0"})
        assert 0.5 * LEASE < trio.current_time() - began < LEASE + BUSY
        assert (await here.presence().list()).keys() == {"user0"}
        assert here.view.faults == []
        assert "leaves" in here.texts[-1]
        here.end()
        there.end()


async def test_lists_are_sent_when_they_are_due_and_not_a_renewal_later(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    presence = RedisLayer("redis://localhost", presence_lease=15).presence
    assert isinstance(presence, RedisPresence)
    looks, sent = 0, []

    async def look(bye: str = "") -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            presence._resync_at = trio.current_time() + 0.25
        if looks == 5:
            presence._resync_at = trio.current_time()
            raise LayerUnavailable("gone")  # then it is not asked all the time

    async def resync() -> None:
        sent.append(trio.current_time())

    monkeypatch.setattr(presence, "_look", look)
    monkeypatch.setattr(presence, "_resync", resync)
    presence._used.set()
    began = trio.current_time()
    with trio.move_on_after(4.5):
        await presence._keep()
    assert [when - began for when in sent] == pytest.approx([2.25, 4.25])
    assert looks == 6


async def test_a_process_that_ends_says_goodbye(running_engine: EngineProcess) -> None:
    async with processes(running_engine) as [one, two]:
        here, there = await watching(one, two)
        async with processes(running_engine, 1, prefix=one.engine.prefix) as [third]:
            for _ in range(20):
                await Client(third).presence().track("third")
            await until(lambda: "third" in here.read().lists)
            began = trio.current_time()
        await until(lambda: "third" not in here.read().lists)
        assert trio.current_time() - began < 0.8 * LEASE
        here.end()
        there.end()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["restarted empty", "paused", "killed and away for a while"])
async def test_nothing_flaps_when_the_engine_is_away(how: str) -> None:
    with engine() as process:
        async with processes(process) as layers:
            clients = await watching(*layers)
            stays = Client(layers[1])
            await stays.presence().track("stays")
            await until(lambda: "stays" in clients[0].read().lists)
            seen = [[*client.texts] for client in clients]
            match how:
                case "restarted empty":
                    process.restart()
                case "paused":
                    process.pause()
                    await trio.sleep(LEASE * 1.3)
                    process.resume()
                case _:
                    process.kill()
                    await trio.sleep(LEASE * 1.3)
                    process.start()
            # Who comes and goes meanwhile is told when it can be.
            late = Client(layers[0])
            await late.presence().track("late")
            clients[1].end()
            remain = {"user0", "stays", "late"}
            await until(lambda: clients[0].read().lists.keys() == remain, 8 * LEASE)
            newcomer = Client(layers[1])
            await newcomer.presence().subscribe()
            await until(lambda: newcomer.read().lists.keys() == remain, 8 * LEASE)
            await trio.sleep(LEASE * 1.2)
            assert clients[0].read().lists == newcomer.read().lists == await newcomer.presence().list()
            # Nobody who stayed was told as gone, neither by a diff nor by a list without them.
            for frame in map(json.loads, clients[0].texts[len(seen[0]) :]):
                assert not frame.get("leaves", {}).keys() & {"user0", "stays"}
                assert frame.get("state", {"user0": [], "stays": []}).keys() >= {"user0", "stays"}
            for each in (clients[0], late, newcomer, stays):
                each.end()


async def test_a_process_that_was_cut_off_for_less_than_its_lease_does_not_flap(
    running_engine: EngineProcess,
) -> None:
    async with processes(running_engine) as [one, two]:
        here, there = await watching(one, two)
        await end_grace(one, two)
        before = len(here.texts)
        link = two.engine._link
        assert link is not None
        url, two.engine._url = two.engine._url, "redis://127.0.0.1:1"
        link.break_off(OSError("cut off"))
        await trio.sleep(0.05)
        with pytest.raises(LayerUnavailable):
            await there.presence().list()
        await there.presence().track("meanwhile")
        async with Presence("room", one).tracked("comes and goes"):
            missed = Client(one)
            await missed.presence().track("missed")
            await trio.sleep(LEASE / 4)
        two.engine._url = url
        await until(lambda: "meanwhile" in here.read().lists)
        await until(lambda: "meanwhile" in there.read().lists)
        await trio.sleep(LEASE)
        for frame in map(json.loads, here.texts[before:]):
            assert frame.get("leaves", {}).keys() <= {"comes and goes"}
            assert "user1" in frame.get("state", {"user1": []})
        assert there.read().lists == here.read().lists
        assert "missed" in there.view.lists
        missed.end()
        here.end()
        there.end()


async def test_a_process_that_was_taken_for_dead_comes_back(running_engine: EngineProcess) -> None:
    async with processes(running_engine) as [one, two]:
        here, there = await watching(one, two)
        presence = two.presence
        assert isinstance(presence, RedisPresence)
        look = presence._look

        async def stuck(bye: str = "") -> None:
            pass

        presence._look = stuck  # type: ignore[method-assign]
        await until(lambda: here.read().lists.keys() == {"user0"})
        presence._look = look  # type: ignore[method-assign]
        await until(lambda: here.read().lists.keys() == {"user0", "user1"})
        await until(lambda: there.read().lists == here.read().lists)
        here.end()
        there.end()


async def test_where_nobody_was_heard_it_is_the_engine_that_was_away(running_engine: EngineProcess) -> None:
    async with processes(running_engine) as [one, two]:
        here, there = await watching(one, two)
        stop_renewing(two)
        paused = one.engine.script(
            "redis.call('HSET', KEYS[1], 'heard', 1) redis.call('ZADD', KEYS[2], 1, ARGV[1], 1, ARGV[2])"
        )
        keys = [one.engine.key("presence", each) for each in ("clock", "leases")]
        began = trio.current_time()
        await one.engine.ask(paused(keys, [one._prefix, two._prefix]))
        await trio.sleep(LEASE / 2)
        assert (await here.presence().list()).keys() == {"user0", "user1"}
        await until(lambda: here.read().lists.keys() == {"user0"})
        assert trio.current_time() - began > 0.8 * LEASE
        here.end()
        there.end()


async def test_members_that_nobody_says_again_are_gone_after_a_lease() -> None:
    with engine() as process:
        async with processes(process) as [one, two]:
            [here, _] = await watching(one, two)
            stop_renewing(two)
            two.presence.topics.clear()
            process.restart()
            await until(lambda: here.read().lists.keys() == {"user0"}, 8 * LEASE)
            here.end()


@unless_starved(0.15)
async def test_what_was_not_answered_is_said_again(running_engine: EngineProcess) -> None:
    """The engine hears a join, and its answer is lost; the member leaves before it is asked again."""
    async with processes(running_engine) as [one, two]:
        [here] = await watching(one)
        presence = two.presence
        assert isinstance(presence, RedisPresence)
        ask, lose = two.engine.ask, True

        async def loses(request: Awaitable[Any]) -> Any:
            answer = await ask(request)
            if lose:
                raise LayerUnavailable("no answer")
            return answer

        two.engine.ask = loses  # type: ignore[method-assign]
        async with Presence("room", two).tracked("ada"):
            await until(lambda: "ada" in here.read().lists)
            async with Presence("room", two).tracked("bob", {"n": 1}) as bob:
                await until(lambda: "bob" in here.read().lists)
                await bob.update({"n": 2})
        lose = False
        await until(lambda: here.read().lists.keys() == {"user0"})

        async def refuses(request: Any) -> Any:
            request.close()  # a coroutine, which nobody awaits then
            raise LayerUnavailable("not heard")

        # Neither is what the engine has not heard.
        two.engine.ask = refuses  # type: ignore[method-assign]
        async with Presence("room", two).tracked("eva", {"n": 1}) as eva:
            await trio.sleep(0.1)
            await eva.update({"n": 2})
            await trio.sleep(0.1)
            two.engine.ask = ask  # type: ignore[method-assign]
            await until(lambda: [meta["n"] for meta in here.read().lists.get("eva", ())] == [2])
            two.engine.ask = refuses  # type: ignore[method-assign]
        await trio.sleep(0.1)
        two.engine.ask = ask  # type: ignore[method-assign]
        await until(lambda: here.read().lists.keys() == {"user0"})
        assert here.view.faults == []
        here.end()


@pytest.mark.slow
async def test_ten_thousand_in_one_room(running_engine: EngineProcess) -> None:
    async with processes(running_engine, lease=15.0) as [one, two]:
        members = [Client(two) for _ in range(10_000)]
        for number, member in enumerate(members):
            await member.presence().track(f"user{number}", {"n": number})
        [here] = await watching_many(one, 10_001)
        assert [each for each in here.read().lists if each != "watcher"] == [
            f"user{number}" for number in range(10_000)
        ]
        before = len(here.texts)
        members[0].end()
        await until(lambda: len(here.read().lists) == 10_000)
        [diff] = here.texts[before:]
        assert len(diff) < 150
        stop_renewing(two)
        presence = one.presence
        assert isinstance(presence, RedisPresence)
        lease = one.engine.key("presence", "leases")
        await one.engine.ask(one.engine.client.zadd(lease, {two._prefix: 1}))
        await until(lambda: here.read().lists.keys() == {"watcher"})
        assert len(here.texts[before + 1 :]) >= 5
        here.end()


async def watching_many(layer: RedisLayer, number: int) -> list[Client]:
    client = Client(layer)
    await client.presence().track("watcher")
    await client.presence().subscribe()
    await until(lambda: len(client.read().lists) == number)
    await trio.sleep(0.1)
    return [client]


KILLED = """
import sys, trio
from triochan import Presence
from triochan.layers.redis import RedisLayer

async def main():
    layer = RedisLayer(sys.argv[1], prefix="killed", presence_lease=float(sys.argv[2]))
    async with layer.running(), Presence("room").tracked("doomed"):
        await Presence("room").list()
        print("there", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_kill_9(running_engine: EngineProcess) -> None:
    layer = RedisLayer(running_engine.url, prefix="killed", presence_lease=LEASE)
    async with layer.connected():
        [here] = await watching(layer)
        process = await trio.to_thread.run_sync(
            lambda: subprocess.Popen(
                [sys.executable, "-c", KILLED, running_engine.url, str(LEASE)], stdout=subprocess.PIPE
            )
        )
        with process:
            assert process.stdout is not None
            assert await trio.to_thread.run_sync(process.stdout.readline) == b"there\n"
            await until(lambda: "doomed" in here.read().lists)
            process.kill()
        began = trio.current_time()
        await until(lambda: "doomed" not in here.read().lists)
        assert trio.current_time() - began < LEASE + BUSY
        assert (await here.presence().list()).keys() == {"user0"}
        here.end()


@pytest.mark.slow
async def test_all_agree_after_chaos() -> None:
    """Clients of three processes come, change and go at random, while the engine is killed, emptied and paused."""
    chance = random.Random(5)
    with engine() as process:
        async with processes(process, 3) as layers:
            watchers = [Client(layer) for layer in layers]
            for each in watchers:
                await each.presence().subscribe()
            members: list[tuple[Client, dict[str, int]]] = []

            async def churn() -> None:
                while True:
                    match chance.choice(["come", "come", "change", "go", "rest"]):
                        case "come" if len(members) < 30:
                            client, meta = Client(chance.choice(layers)), {"n": chance.randrange(100)}
                            await client.presence().track(chance.choice(["ada", "bob"]), meta)
                            members.append((client, meta))
                        case "change" if members:
                            client, meta = chance.choice(members)
                            for (_, _, key), _ in client.local.of(_OfConnection).members.items():
                                meta["n"] = chance.randrange(100)
                                await client.presence().update(key, meta)
                        case "go" if members:
                            members.pop(chance.randrange(len(members)))[0].end()
                        case _:
                            await trio.sleep(chance.uniform(0, 0.03))
                    await trio.lowlevel.checkpoint()

            with trio.move_on_after(3.0):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(churn)
                    for what in ("restart", "pause", "restart", "break", "restart"):
                        await trio.sleep(chance.uniform(0.1, 0.6))
                        if what == "restart":
                            process.restart()
                        elif what == "pause":
                            process.pause()
                            await trio.sleep(0.6)
                            process.resume()
                        else:
                            link = chance.choice(layers).engine._link
                            if link is not None:
                                link.break_off(OSError("broken"))
                    await trio.sleep_forever()

            assert len(members) > 5
            expected = sorted(meta["n"] for _, meta in members)

            def seen(lists: dict[str, list[dict[str, Any]]]) -> list[int]:
                return sorted(meta["n"] for metas in lists.values() for meta in metas)

            async def agree() -> bool:
                try:
                    lists = await watchers[0].presence().list()
                except LayerUnavailable:
                    return False
                return seen(lists) == expected and all(each.read().lists == lists for each in watchers)

            await until(agree, 5 * LEASE)
            for client, _ in members:
                client.end()
            await until(lambda: not any(each.read().lists for each in watchers))
            for each in watchers:
                each.end()

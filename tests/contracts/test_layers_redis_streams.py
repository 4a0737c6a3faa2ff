"""Named channels through Redis or Valkey: what several processes on an engine do to them, and what it does to them."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from engines import EngineProcess, engine

from triochan import Application, Channel, Message, Settings, route
from triochan.decorators import durable
from triochan.exceptions import ChannelFull, LayerUnavailable
from triochan.layers import Delivery
from triochan.layers.redis import RedisLayer
from triochan.layers.redis.streams import Streams, _Sent
from triochan.runtime import Runtime
from triochan.test.named_channels import SECONDS
from triochan.workers import Workers

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def running_engine() -> Iterator[EngineProcess]:
    with engine() as process:
        yield process


_prefixes = iter(range(10_000))


# -- several processes: each has an engine's client and streams of its own


@asynccontextmanager
async def process(url: str, prefix: str, **settings: Any) -> AsyncIterator[Streams]:
    """What a process has of the layer, as far as named channels go."""
    layer = RedisLayer(
        url, Settings(**{"channel_lease": 0.4, "channel_retry": 0.05, **settings}), prefix=prefix, timeout=1.0
    )
    async with layer.connected():
        yield layer.streams


@pytest.fixture
def prefix() -> str:
    return f"p{next(_prefixes)}"


async def take(streams: Streams, channel: str = "jobs", *, durable: bool = True) -> Delivery:
    with trio.fail_after(SECONDS):
        return await streams.receive(channel, durable=durable)


async def send(streams: Streams, channel: str = "jobs", **content: Any) -> None:
    """Until the engine has it: it may be there twice then."""
    with trio.fail_after(2 * SECONDS):
        while True:
            try:
                await streams.put(channel, content)
            except (LayerUnavailable, ChannelFull):
                await trio.sleep(0.02)
            else:
                return


async def handle(streams: Streams, seen: list[int], *, durable: bool, seconds: float = 0.0) -> None:
    while True:
        delivery = await streams.receive("jobs", durable=durable)
        await trio.sleep(seconds)
        seen.append(delivery.content["number"])
        await delivery.acknowledge()


async def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - what it waits for is in an engine
            await trio.sleep(0.01)


@pytest.mark.parametrize("lasting", [False, True])
async def test_of_several_processes_each_message_goes_to_one(
    running_engine: EngineProcess, prefix: str, lasting: bool
) -> None:
    seen: tuple[list[int], list[int]] = ([], [])
    async with (
        process(running_engine.url, prefix) as one,
        process(running_engine.url, prefix) as two,
        trio.open_nursery() as nursery,
    ):
        for streams, numbers in zip((one, two), seen, strict=True):
            nursery.start_soon(partial(handle, streams, numbers, durable=lasting, seconds=0.002))
        for number in range(100):
            await send(one, number=number)
        await until(lambda: len(seen[0]) + len(seen[1]) >= 100)
        await trio.sleep(0.1)  # nothing comes twice
        nursery.cancel_scope.cancel()
    assert sorted(seen[0] + seen[1]) == list(range(100))
    assert min(map(len, seen)) > 10


async def test_a_message_reaches_who_waits_in_no_time(running_engine: EngineProcess, prefix: str) -> None:
    took: list[float] = []
    async with process(running_engine.url, prefix) as one, process(running_engine.url, prefix) as two:
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                while True:
                    content = (await two.receive("jobs")).content
                    took.append(time.perf_counter() - content["at"])

            nursery.start_soon(receive)
            await trio.sleep(0.1)
            for _ in range(20):
                await one.put("jobs", {"at": time.perf_counter()})
                await trio.sleep(0.005)
            await until(lambda: len(took) == 20)
            nursery.cancel_scope.cancel()
    assert statistics.median(took) < 0.02  # 1.5 ms on an idle machine; a look would come after seconds


async def test_a_living_process_keeps_what_it_handles_long(
    running_engine: EngineProcess, prefix: str
) -> None:
    async with process(running_engine.url, prefix) as other:
        async with process(running_engine.url, prefix) as one:
            await one.put("jobs", {"number": 1})
            delivery = await take(one)
            with trio.move_on_after(1.2):  # three leases
                raise AssertionError(await other.receive("jobs", durable=True))
            await delivery.acknowledge()
        with trio.move_on_after(0.5):
            raise AssertionError(await other.receive("jobs", durable=True))
        assert await other.waiting("jobs") == 0


async def test_what_a_dead_process_left_goes_to_another(running_engine: EngineProcess, prefix: str) -> None:
    async with process(running_engine.url, prefix, channel_attempts=2) as other:
        for attempt in (1, 2):
            async with process(running_engine.url, prefix) as one:
                if attempt == 1:
                    await one.put("jobs", {"number": 1})
                assert (await take(one)).attempt == attempt
                one._channels["jobs"].held.clear()  # so that it gives nothing back
        began = trio.current_time()
        with trio.move_on_after(1.0):
            raise AssertionError(await other.receive("jobs", durable=True))
        [letter] = await other.dead_letters()
        assert (letter.content, letter.attempts) == ({"number": 1}, 2)
        assert "the process that handled it ended" in letter.error
        await other.send_again(letter.id)
        assert (await take(other)).attempt == 1
        assert trio.current_time() - began < 3


async def test_who_lost_a_message_to_another_does_not_touch_it(
    running_engine: EngineProcess, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with process(running_engine.url, prefix) as other, process(running_engine.url, prefix) as one:
        one._settings = Settings(channel_lease=1000)  # it stands still, as far as the engine sees
        await trio.sleep(0.2)
        await one.put("jobs", {"number": 1})
        delivery = await take(one)
        again = await take(other)
        assert (again.content, again.attempt) == ({"number": 1}, 2)
        await again.acknowledge()
        await trio.sleep(0.1)
        await delivery.give_back("too late")
        await trio.sleep(0.2)
        assert await other.waiting("jobs") == 0
        await one.put("jobs", {"number": 2})
        await take(one)
        await take(other)
        one._settings = Settings(channel_lease=0.1)
        one._nursery.start_soon(one._renew)  # type: ignore[union-attr]
        await until(lambda: "lost sight of by the engine" in caplog.text)


async def test_what_was_taken_ahead_is_put_back_at_the_end(
    running_engine: EngineProcess, prefix: str
) -> None:
    for lasting in (False, True):
        async with process(running_engine.url, prefix) as other:
            async with process(running_engine.url, prefix) as one:
                for number in range(50):
                    await one.put("jobs", {"number": number})
                first = [await take(one, durable=lasting) for _ in range(5)]
                assert one._channels["jobs"].ahead
                for each in first:
                    await each.acknowledge()
            assert await other.waiting("jobs") == 45
            rest = [await take(other, durable=lasting) for _ in range(45)]
            assert sorted(each.content["number"] for each in (*first, *rest)) == list(range(50))
            assert {each.attempt for each in rest} == {1}
            for each in rest:
                await each.acknowledge()


async def test_what_was_taken_and_not_handled_is_put_back_at_the_end(
    running_engine: EngineProcess, prefix: str
) -> None:
    async with process(running_engine.url, prefix, channel_lease=15) as other:
        async with process(running_engine.url, prefix) as one:
            for number in range(20):
                await one.put("jobs", {"number": number})
            for _ in range(10):
                await take(one)
        again = [await take(other) for _ in range(20)]
        assert sorted(each.content["number"] for each in again) == list(range(20))
        assert {each.attempt for each in again} == {1}
        for each in again:
            await each.acknowledge()


async def test_a_channel_may_become_durable(running_engine: EngineProcess, prefix: str) -> None:
    async with process(running_engine.url, prefix) as other:
        async with process(running_engine.url, prefix) as one:
            for number in range(20):
                await one.put("jobs", {"number": number})
            taken = [await take(one, durable=False) for _ in range(4)]
            assert one._channels["jobs"].ahead
            taken += [await take(one) for _ in range(10)]
            taken += [await take(one, durable=False)]
            for each in taken:
                await each.acknowledge()
        taken += [await take(other) for _ in range(5)]
        assert sorted(each.content["number"] for each in taken) == list(range(20))
        assert {each.attempt for each in taken} == {1}


async def test_what_a_dead_process_left_is_taken_up_at_once_where_it_is_much(
    running_engine: EngineProcess, prefix: str
) -> None:
    async with process(running_engine.url, prefix) as one:
        for number in range(30):
            await one.put("jobs", {"number": number})
        for _ in range(30):
            await take(one)
        one._channels["jobs"].held.clear()
    async with process(running_engine.url, prefix) as other:
        with trio.fail_after(6):  # a lease is 0.4 s, and a look a third of it
            again = [await take(other) for _ in range(30)]
        assert {each.attempt for each in again} == {2}


async def test_what_was_taken_ahead_goes_to_who_has_time(running_engine: EngineProcess, prefix: str) -> None:
    async with process(running_engine.url, prefix) as one, process(running_engine.url, prefix) as other:
        for number in range(20):
            await one.put("jobs", {"number": number})
        first = [await take(one, durable=False)]
        while not one._channels["jobs"].ahead:
            first.append(await take(one, durable=False))
        began = trio.current_time()  # and now it handles for ever
        rest = [await take(other, durable=False) for _ in range(20 - len(first))]
        assert sorted(each.content["number"] for each in (*first, *rest)) == list(range(20))
        assert trio.current_time() - began < 2


async def test_a_bell_that_nobody_hears_is_passed_on(running_engine: EngineProcess, prefix: str) -> None:
    async with process(running_engine.url, prefix) as one, process(running_engine.url, prefix) as other:
        for streams in (one, other):
            with trio.move_on_after(0.1):
                await streams.receive("jobs")
        for number in range(4):  # both wait for the bell by what the engine knows
            await one.put("jobs", {"number": number})
            began = trio.current_time()
            assert (await take(other, durable=False)).content == {"number": number}
            assert trio.current_time() - began < 1


async def test_an_idle_channel_costs_next_to_nothing(running_engine: EngineProcess, prefix: str) -> None:
    async with process(running_engine.url, prefix, channel_lease=15) as one, trio.open_nursery() as nursery:
        for index in range(20):
            nursery.start_soon(one.receive, f"jobs.{index}")
        await trio.sleep(0.2)

        async def asked() -> int:
            return int(str((await one._engine.client.info("stats"))["total_commands_processed"]))

        before = await asked()
        await trio.sleep(0.5)
        assert await asked() - before <= 20  # scripts count what they call; a look at each would be hundreds
        nursery.cancel_scope.cancel()


async def test_one_content_goes_into_several_channels(running_engine: EngineProcess, prefix: str) -> None:
    async with process(running_engine.url, prefix, channel_capacity={"full": 1, "*": 5}) as one:
        content = {"number": 1, "reply_channel": "websocket.send.a!1"}
        await one.put("full", {})
        first, full, second = await one.put_into(["first", "full", "second"], content)
        assert (first, second) == (None, None)
        assert isinstance(full, ChannelFull)
        assert full.capacity == 1
        for name in ("first", "second"):
            assert (await take(one, name)).content == content


async def test_what_no_process_takes_from_is_told_once(
    running_engine: EngineProcess, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with process(running_engine.url, prefix) as one, process(running_engine.url, prefix) as other:
        for _ in range(3):
            await one.put("nobody", {})
        assert one.unheard == 3
        [record] = caplog.records
        assert "channel 'nobody': a message was sent to it, and no process" in record.getMessage()
        other.serve(["jobs"], [])
        await trio.sleep(0.1)
        await one.put("jobs", {})
        await take(other, "nobody")
        await one.put("nobody", {})
        assert one.unheard == 3


async def test_what_something_else_has_written_is_dropped(
    running_engine: EngineProcess, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with process(running_engine.url, prefix) as one:
        for lasting in (False, True):
            await one._put_all([_Sent("jobs", b"\xc1", "", 0.0)])
            await one.put("jobs", {"number": 1})
            delivery = await take(one, durable=lasting)
            assert delivery.content == {"number": 1}
            await delivery.acknowledge()
        assert caplog.text.count("no content of a message") == 2


async def test_what_expired_is_counted_and_logged(
    running_engine: EngineProcess, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with process(running_engine.url, prefix, channel_expiry=5.0, channel_capacity=3) as one:
        for number in range(3):
            await one.put("jobs", {"number": number})
        one.shift += 6
        await one.put("jobs", {"number": 3})
        assert one.expired == 1  # as many as there had to be
        assert (await take(one, durable=False)).content == {"number": 3}
        assert one.expired == 3
        assert "2 messages expired before a consumer took them" in caplog.text


async def test_what_is_no_plain_data_is_refused_at_the_sender(
    running_engine: EngineProcess, prefix: str
) -> None:
    async with process(running_engine.url, prefix) as one:
        with pytest.raises(TypeError, match=r"content\['a'\] is "):
            await one.put("jobs", {"a": object()})
        assert await one.waiting("jobs") == 0


async def test_what_something_else_has_written_among_dead_letters_is_shown(
    running_engine: EngineProcess, prefix: str
) -> None:
    async with process(running_engine.url, prefix, channel_attempts=1) as one:
        await one.put("jobs", {"number": 1})
        delivery = await take(one)
        taken = delivery._taken._replace(data=b"\xc1")  # type: ignore[attr-defined]
        await one.fail(one._channels["jobs"], taken, "it")
        [letter] = await one.dead_letters("jobs")
        assert letter.content == {"": b"\xc1"}


async def test_what_is_raised_beside_it_is_raised_as_it_is(
    running_engine: EngineProcess, prefix: str
) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - what is between may matter
        async with process(running_engine.url, prefix) as one:
            await one.put("jobs", {})
            raise ZeroDivisionError


# -- the engine's failures


async def test_an_engine_that_is_away_at_the_end(
    own_engine: EngineProcess, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    began = 0.0
    async with process(own_engine.url, prefix) as one:
        for number in range(20):
            await one.put("jobs", {"number": number})
        while not (one._channels and one._channels["jobs"].ahead):
            await take(one, durable=False)
        own_engine.kill()
        one.serve(["others"], [])
        with pytest.raises(LayerUnavailable):
            await one._return(one._channels["jobs"])
        assert one._channels["jobs"].ahead
        began = trio.current_time()
    assert trio.current_time() - began < 3
    assert "messages were taken and not handled" in caplog.text


@pytest.fixture
def own_engine() -> Iterator[EngineProcess]:
    with engine() as process:
        yield process


@pytest.mark.parametrize("lasting", [False, True])
async def test_an_engine_that_is_killed_and_comes_back_empty(
    own_engine: EngineProcess, prefix: str, caplog: pytest.LogCaptureFixture, lasting: bool
) -> None:
    seen: list[int] = []
    async with process(own_engine.url, prefix) as one, trio.open_nursery() as nursery:
        nursery.start_soon(partial(handle, one, seen, durable=lasting))
        await send(one, number=1)
        await until(lambda: seen == [1])
        own_engine.kill()
        began = trio.current_time()
        with pytest.raises(LayerUnavailable):
            await one.put("jobs", {"number": 2})
        assert trio.current_time() - began < 2
        await trio.sleep(0.3)
        own_engine.start()
        await send(one, number=3)
        await until(lambda: seen[-1] == 3)
        nursery.cancel_scope.cancel()
    if lasting:  # else nothing was asked meanwhile
        assert "named channels wait for it" in caplog.text
        assert "answers again" in caplog.text


async def test_an_engine_that_hangs(own_engine: EngineProcess, prefix: str) -> None:
    seen: list[int] = []
    async with process(own_engine.url, prefix) as one, trio.open_nursery() as nursery:
        nursery.start_soon(partial(handle, one, seen, durable=True))
        await send(one, number=1)
        await until(lambda: seen == [1])
        own_engine.pause()
        try:
            began = trio.current_time()
            with pytest.raises(LayerUnavailable):
                await one.put("jobs", {"number": 2})
            assert trio.current_time() - began < 2
        finally:
            own_engine.resume()
        await send(one, number=3)
        await until(lambda: 3 in seen)
        nursery.cancel_scope.cancel()


async def test_connections_that_are_lost_lose_no_message(own_engine: EngineProcess, prefix: str) -> None:
    seen: list[int] = []
    async with (
        process(own_engine.url, prefix) as one,
        process(own_engine.url, prefix) as two,
        trio.open_nursery() as nursery,
    ):
        for streams in (one, two):
            nursery.start_soon(partial(handle, streams, seen, durable=True, seconds=0.001))

        cutting = trio.Event()

        async def cut() -> None:
            while not cutting.is_set():
                await trio.sleep(0.1)
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(own_engine.path)
                    sock.sendall(b"CLIENT KILL TYPE normal SKIPME yes\r\nCLIENT KILL TYPE pubsub\r\n")
                    sock.recv(64)

        nursery.start_soon(cut)
        for number in range(100):
            await send(one, number=number)
            await trio.sleep(0.005)
        cutting.set()
        await until(lambda: set(seen) == set(range(100)), 10)
        nursery.cancel_scope.cancel()


async def test_sends_that_go_together_fail_together(own_engine: EngineProcess, prefix: str) -> None:
    answers: list[str] = []
    async with process(own_engine.url, prefix) as one:
        await one.put("jobs", {})
        own_engine.pause()

        async def put() -> None:
            try:
                await one.put("jobs", {})
            except LayerUnavailable as error:
                answers.append(str(error))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(put)
        own_engine.resume()
        assert len(answers) == 10
        assert all("engine at" in each for each in answers)


async def test_workers_over_an_engine(running_engine: EngineProcess, prefix: str) -> None:
    seen: list[tuple[int, float]] = []

    @durable
    async def consume(message: Message) -> None:
        seen.append((message["number"], trio.current_time()))
        if len(seen) < 3:
            raise ValueError("it")

    layer = RedisLayer(running_engine.url, Settings(channel_retry=0.05), prefix=prefix)
    async with Runtime.open(Application([route("jobs", consume)]), Settings(), layer) as runtime:
        workers = Workers(runtime)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(workers.run)
            await Channel("jobs").send({"number": 1})
            await until(lambda: len(seen) == 3)
            await workers.drain()
        assert layer.streams.unheard == 0
    assert [number for number, _ in seen] == [1, 1, 1]

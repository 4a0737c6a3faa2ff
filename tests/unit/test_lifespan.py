"""What lives as long as an application is served: lifespan, nursery, state, and what is done periodically."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from triochan import Application, Group, Message, Settings, every, route, serve
from triochan.exceptions import ConnectionClosed, ImproperlyConfigured, LayerUnavailable
from triochan.http import text
from triochan.layers import MemoryLayer
from triochan.test import Client


async def greet(message: Message) -> None:
    await message.reply_channel.send(text(message.application.state.greeting))


ROUTING = [route("http.request", greet)]


def recording(seen: list[str]) -> Any:
    @asynccontextmanager
    async def lifespan(application: Application) -> AsyncIterator[None]:
        application.state.greeting = "hello"
        seen.append("begun")
        yield
        seen.append("ended")

    return lifespan


async def test_it_begins_before_the_first_connection_and_ends_after_the_last() -> None:
    seen: list[str] = []
    async with Client(Application(ROUTING, lifespan=recording(seen))) as client:
        assert seen == ["begun"]
        assert (await client.get("/")).text == "hello"
    assert seen == ["begun", "ended"]


async def test_a_served_application_has_it_too() -> None:
    seen: list[str] = []
    application = Application(ROUTING, lifespan=recording(seen))
    for _ in range(2):  # served again, it begins again
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, application, port=0))
            assert seen == ["begun"]
            nursery.cancel_scope.cancel()
        assert seen == ["begun", "ended"]
        seen.clear()


async def test_servers_of_one_application_share_it_until_the_last() -> None:
    seen: list[str] = []
    application = Application(ROUTING, lifespan=recording(seen))
    async with Client(application) as second:
        async with Client(application):
            assert seen == ["begun"]
        assert seen == ["begun"]
        assert (await second.get("/")).text == "hello"
    assert seen == ["begun", "ended"]


async def test_the_first_server_may_end_first() -> None:
    seen: list[str] = []
    application = Application(ROUTING, lifespan=recording(seen))
    end, ended = trio.Event(), trio.Event()

    async def first(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with Client(application):
            task_status.started()
            await end.wait()
        ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(first)
        async with Client(application) as client:
            end.set()
            await ended.wait()
            assert seen == ["begun"]
            assert (await client.get("/")).text == "hello"
    assert seen == ["begun", "ended"]


async def test_two_applications_have_each_their_own() -> None:
    one: list[str] = []
    two: list[str] = []
    async with Client(Application(ROUTING, lifespan=recording(one))):
        async with Client(Application(ROUTING, lifespan=recording(two))):
            assert (one, two) == (["begun"], ["begun"])
        assert (one, two) == (["begun"], ["begun", "ended"])


async def test_what_it_raises_at_the_start_comes_out() -> None:
    @asynccontextmanager
    async def lifespan(application: Application) -> AsyncIterator[None]:
        raise OSError("no database")
        yield

    with pytest.raises(OSError, match="no database"):
        await serve(Application(ROUTING, lifespan=lifespan), port=0)


async def test_what_it_raises_at_the_end_comes_out() -> None:
    @asynccontextmanager
    async def lifespan(application: Application) -> AsyncIterator[None]:
        yield
        raise OSError("the database is gone")

    with pytest.raises(OSError, match="the database is gone"):
        async with Client(Application(ROUTING, lifespan=lifespan)):
            pass


@pytest.mark.parametrize("server", ["served", "client"])
async def test_what_it_raises_at_the_end_of_a_cancelled_server_comes_out_too(server: str) -> None:
    @asynccontextmanager
    async def lifespan(application: Application) -> AsyncIterator[None]:
        yield
        raise RuntimeError("not closed")

    application = Application(ROUTING, lifespan=lifespan)

    async def run() -> None:
        if server == "client":
            async with Client(application):
                await trio.sleep_forever()
        else:
            await serve(application, port=0)

    with pytest.raises(RuntimeError, match="not closed"), trio.move_on_after(0.05):
        await run()


@pytest.mark.parametrize("server", ["served", "client"])
async def test_a_start_that_hangs_is_cancelled_with_its_server(
    server: str, autojump_clock: MockClock
) -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(application: Application) -> AsyncIterator[None]:
        try:
            await trio.sleep_forever()
        finally:
            seen.append("left")
        yield

    application = Application(ROUTING, lifespan=lifespan)
    with trio.move_on_after(5) as scope:
        if server == "client":
            async with Client(application):
                pass
        else:
            await serve(application, port=0)
    assert scope.cancelled_caught
    assert seen == ["left"]
    assert trio.current_time() < 6


async def test_a_start_that_another_server_waits_for_goes_on(autojump_clock: MockClock) -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(application: Application) -> AsyncIterator[None]:
        await trio.sleep(2)
        seen.append("begun")
        yield
        seen.append("ended")

    application = Application(ROUTING, lifespan=lifespan)

    async def first() -> None:
        with trio.move_on_after(1):
            async with Client(application):
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        async with Client(application):
            assert seen == ["begun"]
    assert seen == ["begun", "ended"]


async def test_one_that_opens_in_spite_of_a_cancellation_is_left_in_order(autojump_clock: MockClock) -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(application: Application) -> AsyncIterator[None]:
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
        yield
        seen.append("ended")

    with trio.move_on_after(1):
        async with Client(Application(ROUTING, lifespan=lifespan)):
            raise AssertionError("it was cancelled")
    assert seen == ["ended"]


async def test_a_task_in_the_nursery_ends_with_the_servers() -> None:
    ended: list[str] = []

    async def task() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("task")

    @asynccontextmanager
    async def lifespan(application: Application) -> AsyncIterator[None]:
        application.nursery.start_soon(task)
        yield
        ended.append("lifespan")  # the tasks are cancelled after it

    async with Client(Application(ROUTING, lifespan=lifespan)):
        await wait_all_tasks_blocked()
        assert ended == []
    assert ended == ["lifespan", "task"]


async def test_a_task_in_the_nursery_that_raises_ends_the_servers() -> None:
    async def task() -> None:
        raise ValueError("wrong")

    application = Application(ROUTING)
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="wrong"), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, application, port=0, settings=Settings(shutdown_timeout=1)))
            application.nursery.start_soon(task)


async def test_two_tasks_that_raise_come_out_in_a_group() -> None:
    async def task(error: Exception) -> None:
        raise error

    application = Application(ROUTING)
    with pytest.RaisesGroup(ValueError, KeyError, flatten_subgroups=True):
        async with Client(application):
            application.nursery.start_soon(task, ValueError())
            application.nursery.start_soon(task, KeyError())
            await trio.sleep_forever()


async def test_the_nursery_is_there_while_it_is_served_only() -> None:
    application = Application(ROUTING)
    with pytest.raises(RuntimeError, match="is not served in this Trio run"):
        application.nursery  # noqa: B018
    async with Client(application):
        assert isinstance(application.nursery, trio.Nursery)
    with pytest.raises(RuntimeError, match="is not served in this Trio run"):
        application.nursery  # noqa: B018


async def test_groups_work_in_it() -> None:
    members: list[list[str]] = []

    @asynccontextmanager
    async def lifespan(application: Application) -> AsyncIterator[None]:
        await Group("room").add("jobs")
        members.append(await Group("room").members())
        yield
        members.append(await Group("room").members())

    async with Client(Application(ROUTING, lifespan=lifespan)):
        pass
    assert members == [["jobs"], ["jobs"]]


async def an_async_generator(application: Application) -> AsyncIterator[None]:
    yield


async def a_coroutine(application: Application) -> None:
    pass


@contextmanager
def a_plain_one(application: Application) -> Iterator[None]:
    yield


@asynccontextmanager
async def of_nothing() -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    ("lifespan", "says"),
    [
        (a_plain_one, "a_plain_one is a plain 'def' with a yield; what goes is an 'async def' below"),
        (lambda application: (yield), "is a plain 'def' with a yield"),
        (of_nothing, "of_nothing is called with the application and nothing else: too many positional"),
        (an_async_generator, "an_async_generator is no context manager; write @asynccontextmanager above it"),
        (a_coroutine, "a_coroutine is no context manager"),
        (5, "lifespan is a function of the application with @asynccontextmanager, not 5"),
    ],
)
def test_a_wrong_one_is_found_at_definition(lifespan: Any, says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=says):
        Application(ROUTING, lifespan=lifespan)


async def test_one_that_yields_something_is_told_where_to_put_it() -> None:
    @asynccontextmanager
    async def lifespan(application: Application) -> AsyncIterator[Any]:
        yield {"database": 1}

    with pytest.raises(ImproperlyConfigured, match=r"set application\.state\.NAME"):
        async with Client(Application(ROUTING, lifespan=lifespan)):
            pass


async def test_every_calls_again_and_again(autojump_clock: MockClock) -> None:
    times: list[float] = []
    begun = trio.current_time()

    async def tick(name: str) -> None:
        assert name == "x"
        times.append(trio.current_time() - begun)

    with trio.move_on_after(35):
        await every(10, tick, "x")
    assert times == [10, 20, 30]
    times.clear()
    begun = trio.current_time()
    with trio.move_on_after(15):
        await every(10, tick, "x", at_once=True)
    assert times == [0, 10]


async def test_every_leaves_out_what_passes_meanwhile(autojump_clock: MockClock) -> None:
    times: list[float] = []
    begun = trio.current_time()

    async def slow() -> None:
        times.append(trio.current_time() - begun)
        await trio.sleep(25)

    with trio.move_on_after(100):
        await every(10, slow)
    assert times == [10, 40, 70]


@pytest.mark.parametrize(
    "error", [ValueError("no"), ConnectionClosed(1000), ExceptionGroup("", [ConnectionClosed()])]
)
async def test_what_a_call_raises_is_logged(
    error: Exception, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A client's end too: no client is waited for here, so it has kept the call from what it had still to do."""

    async def fails() -> None:
        raise error

    with trio.move_on_after(25):
        await every(10, fails)
    assert [(each.levelno, each.getMessage()) for each in caplog.records] == [
        (
            logging.ERROR,
            f"{__name__}.test_what_a_call_raises_is_logged.<locals>.fails raised; it is called again",
        )
    ] * 2


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), "1", None])
async def test_every_takes_a_time(seconds: Any) -> None:
    with pytest.raises(ValueError, match="a number of seconds above 0"):
        await every(seconds, trio.sleep_forever)


@pytest.mark.parametrize("function", [None, "tick", 5])
async def test_every_takes_a_function(function: Any) -> None:
    with pytest.raises(TypeError, match="every\\(\\) calls an async function"):
        await every(1, function)


@pytest.mark.parametrize("once", [None, 1, "", ["a"]])
async def test_once_is_a_switch_or_a_name(once: Any) -> None:
    with pytest.raises(TypeError, match="once is True, False or a name"):
        await every(1, trio.sleep_forever, once=once)


async def test_once_needs_a_layer() -> None:
    with pytest.raises(RuntimeError, match="no channel layer is running"):
        await every(1, trio.sleep_forever, once=True)


async def test_of_several_one_calls_what_is_called_once(autojump_clock: MockClock) -> None:
    seen: list[tuple[str, float]] = []
    began = trio.current_time()

    async def tick(name: str) -> None:
        seen.append((name, trio.current_time() - began))

    async with MemoryLayer().running(), trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def first() -> None:
            with scope:
                await every(10, tick, "first", once=True)

        nursery.start_soon(first)
        await wait_all_tasks_blocked()
        await trio.sleep(1)
        nursery.start_soon(partial(every, 10, tick, "second", once=True))
        nursery.start_soon(partial(every, 10, tick, "other", once="another name"))
        await trio.sleep(25)
        scope.cancel()  # which lets the second one go on
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert [each for each in seen if each[0] != "other"] == [
        *(("first", 10), ("first", 20)),
        *(("second", 31), ("second", 41)),
    ]
    assert [at for name, at in seen if name == "other"] == [11, 21, 31, 41]


async def test_who_dies_with_what_is_called_once_is_followed_within_the_lease(
    autojump_clock: MockClock,
) -> None:
    seen: list[float] = []

    async def tick() -> None:
        seen.append(trio.current_time() - began)

    layer = MemoryLayer()
    async with layer.running(), trio.open_nursery() as nursery:
        began = trio.current_time()
        assert await layer.hold(f"{__name__}.{tick.__qualname__}", "the dead", 15)
        nursery.start_soon(partial(every, 2, tick, once=True))
        await trio.sleep(21)
        nursery.cancel_scope.cancel()
    assert seen == [16, 18, 20]


async def test_what_is_called_once_is_not_called_while_the_engine_is_away(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[float] = []
    away = False

    class Layer(MemoryLayer):
        async def hold(self, name: str, holder: str, seconds: float) -> bool:
            if away:
                raise LayerUnavailable("the engine does not answer")
            return await super().hold(name, holder, seconds)

    async def tick() -> None:
        seen.append(trio.current_time() - began)

    async with Layer().running(), trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon(partial(every, 5, tick, once=True))
        await trio.sleep(7)
        away = True
        await trio.sleep(30)
        away = False
        await trio.sleep(10)
        away = True
        nursery.cancel_scope.cancel()
    assert seen == [5, 10, 15, 20, 40, 45]
    [record] = caplog.records
    assert "what is called once is not called while that lasts" in record.getMessage()

"""Running a handler in the task that has its message: what comes out, where it waits, and who is told."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from typing import Any

import pytest
import trio
import trio.testing

from triochan import Channel, Message
from triochan.exceptions import ConnectionClosed, DenyConnection
from triochan.generic import BaseConsumer
from triochan.handlers import bounded, nothing, only, resume, run_inline, start


class Suspensions:
    """An ``on_suspend`` that counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


async def forever() -> None:
    await trio.sleep_forever()


def message(channel: str = "websocket.receive", **content: Any) -> Message:
    return Message(content, Channel(channel))


# -- run_inline: a handler that never waits ---------------------------------------------------------------------------


async def test_a_handler_that_never_waits_has_no_checkpoint_and_nobody_is_told() -> None:
    told, done = Suspensions(), []

    async def handler() -> str:
        done.append(True)
        return "which nobody looks at"

    with trio.testing.assert_no_checkpoints():
        await run_inline(handler(), told)
    assert (done, told.count) == ([True], 0)


async def test_what_it_raises_comes_out_without_a_checkpoint() -> None:
    told = Suspensions()

    async def handler() -> None:
        raise KeyError("on purpose")

    with trio.testing.assert_no_checkpoints(), pytest.raises(KeyError, match="on purpose"):
        await run_inline(handler(), told)
    assert told.count == 0


async def test_a_scope_and_an_await_that_do_not_wait_are_no_suspension() -> None:
    told = Suspensions()

    async def inner() -> int:
        return 1

    async def handler() -> None:
        with trio.move_on_after(1):
            assert await inner() == 1

    with trio.testing.assert_no_checkpoints():
        await run_inline(handler(), told)
    assert told.count == 0


# -- run_inline: a handler that waits ---------------------------------------------------------------------------------


async def test_the_first_suspension_is_told_of_once_and_before_anything_else_runs() -> None:
    log: list[str] = []
    go = trio.Event()

    async def handler() -> None:
        log.append("began")
        await go.wait()
        log.append("went on")
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        log.append("ended")

    async def run() -> None:
        await run_inline(handler(), lambda: log.append("suspended"))
        log.append("returned")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        assert log == ["began", "suspended"]
        go.set()
    assert log == ["began", "suspended", "went on", "ended", "returned"]


async def test_it_stays_in_the_task_that_it_began_in() -> None:
    tasks = []

    async def handler() -> None:
        tasks.append(trio.lowlevel.current_task())
        await trio.lowlevel.checkpoint()
        tasks.append(trio.lowlevel.current_task())

    await run_inline(handler(), Suspensions())
    assert tasks == [trio.lowlevel.current_task()] * 2


async def test_what_it_waits_for_gets_to_it(nursery: trio.Nursery) -> None:
    told, received = Suspensions(), []
    send, receive = trio.open_memory_channel[str](0)

    async def handler() -> None:
        received.append(await receive.receive())
        received.append(await receive.receive())

    nursery.start_soon(run_inline, handler(), told)
    for each in ("a", "b"):
        await send.send(each)
    await trio.testing.wait_all_tasks_blocked()
    assert (received, told.count) == (["a", "b"], 1)


async def test_an_exception_after_a_suspension_comes_out() -> None:
    told = Suspensions()

    async def handler() -> None:
        await trio.lowlevel.checkpoint()
        raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"):
        await run_inline(handler(), told)
    assert told.count == 1


async def test_what_it_waits_for_may_raise_and_be_caught_in_it() -> None:
    told, caught = Suspensions(), []
    send, receive = trio.open_memory_channel[str](0)

    async def handler() -> None:
        for _ in range(2):
            try:
                await receive.receive()
            except trio.EndOfChannel:
                caught.append(True)
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_inline, handler(), told)
        await trio.testing.wait_all_tasks_blocked()
        await send.aclose()
    assert (caught, told.count) == ([True, True], 1)


async def test_what_on_suspend_raises_comes_out() -> None:
    ended = []

    async def handler() -> None:
        try:
            await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            ended.append(True)

    def refuse() -> None:
        raise KeyError("on purpose")

    coroutine = handler()
    with pytest.raises(KeyError, match="on purpose"):
        await run_inline(coroutine, refuse)
    coroutine.close()
    assert ended == [True]


# -- run_inline: cancellation, scopes, nurseries ----------------------------------------------------------------------


async def test_a_cancellation_reaches_it_and_comes_out(autojump_clock: trio.testing.MockClock) -> None:
    log: list[str] = []

    async def handler() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            log.append("cancelled")
            raise
        finally:
            log.append("finally")

    with trio.move_on_after(1) as scope:
        await run_inline(handler(), Suspensions())
        log.append("never")
    assert scope.cancelled_caught
    assert log == ["cancelled", "finally"]


async def test_it_is_cancelled_at_its_first_checkpoint_not_before() -> None:
    log: list[str] = []
    told = Suspensions()

    async def handler() -> None:
        log.append("began")
        await trio.lowlevel.checkpoint()
        log.append("never")

    with trio.CancelScope() as scope:
        scope.cancel()
        await run_inline(handler(), told)
    assert scope.cancelled_caught
    assert log == ["began"]
    with trio.CancelScope() as scope:
        scope.cancel()
        await run_inline(nothing(message()), told)
    assert not scope.cancelled_caught


async def test_a_shield_in_it_holds(autojump_clock: trio.testing.MockClock) -> None:
    started = trio.current_time()

    async def handler() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    with trio.move_on_after(1) as scope:
        await run_inline(handler(), Suspensions())
    assert trio.current_time() - started == 5
    assert not scope.cancelled_caught


async def test_its_own_scope_ends_in_it(autojump_clock: trio.testing.MockClock) -> None:
    told, log = Suspensions(), []

    async def handler() -> None:
        with trio.move_on_after(1) as scope:
            await trio.sleep_forever()
        log.append(scope.cancelled_caught)
        await trio.sleep(1)
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(1):
                await trio.sleep_forever()
        log.append(True)

    started = trio.current_time()
    await run_inline(handler(), told)
    assert log == [True, True]
    assert told.count == 1
    assert trio.current_time() - started == 3
    await trio.lowlevel.checkpoint()  # nothing of the scopes is left around this task


async def test_a_nursery_in_it_runs_and_raises_as_with_await(autojump_clock: trio.testing.MockClock) -> None:
    told, log = Suspensions(), []

    async def child(seconds: float) -> None:
        await trio.sleep(seconds)
        log.append(seconds)

    async def crash() -> None:
        await trio.sleep(3)
        raise KeyError("on purpose")

    async def handler() -> None:
        async with trio.open_nursery() as nursery:
            for seconds in (2.0, 1.0, 10.0):
                nursery.start_soon(child, seconds)
            nursery.start_soon(crash)

    with pytest.RaisesGroup(pytest.RaisesExc(KeyError, match="on purpose")):
        await run_inline(handler(), told)
    assert (log, told.count) == ([1.0, 2.0], 1)


# -- resume -----------------------------------------------------------------------------------------------------------


def test_closing_the_outer_coroutine_closes_the_handler() -> None:
    log: list[str] = []

    async def handler() -> None:
        try:
            await trio.lowlevel.cancel_shielded_checkpoint()
        except GeneratorExit:
            log.append("exit")
            raise
        finally:
            log.append("finally")

    inner = handler()
    outer: Coroutine[Any, Any, None] = run_inline(inner, lambda: log.append("suspended"))
    outer.send(None)
    outer.close()
    assert log == ["suspended", "exit", "finally"]
    assert inspect.getcoroutinestate(inner) == inspect.CORO_CLOSED


def test_what_is_thrown_in_from_outside_reaches_the_handler() -> None:
    log: list[str] = []

    async def handler() -> None:
        try:
            await trio.lowlevel.cancel_shielded_checkpoint()
        except KeyError as error:
            log.append(f"caught {error}")
        await trio.lowlevel.cancel_shielded_checkpoint()

    outer: Coroutine[Any, Any, None] = run_inline(handler(), lambda: log.append("suspended"))
    outer.send(None)
    outer.throw(KeyError("first"))  # caught: it waits again
    with pytest.raises(KeyError, match="second"):
        outer.throw(KeyError("second"))
    assert log == ["suspended", "caught 'first'"]


async def test_resume_goes_on_from_the_trap_that_was_reached() -> None:
    done = []

    async def handler() -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        done.append(1)
        await trio.lowlevel.checkpoint()
        done.append(2)

    coroutine = handler()
    trap = coroutine.send(None)
    assert done == []
    await resume(coroutine, trap)
    assert done == [1, 2]


# -- bounded ----------------------------------------------------------------------------------------------------------


async def test_bounded_raises_after_its_seconds(autojump_clock: trio.testing.MockClock) -> None:
    started = trio.current_time()
    with pytest.raises(trio.TooSlowError):
        await bounded(forever(), 7)
    assert trio.current_time() - started == 7


async def test_bounded_leaves_a_quick_handler_alone() -> None:
    with trio.testing.assert_no_checkpoints():
        await bounded(nothing(message()), 7)


async def test_bounded_runs_inline_and_lets_errors_out(autojump_clock: trio.testing.MockClock) -> None:
    told = Suspensions()

    async def handler() -> None:
        await trio.sleep(1)
        raise KeyError("on purpose")

    with pytest.raises(KeyError):
        await run_inline(bounded(handler(), 7), told)
    assert told.count == 1
    with pytest.raises(trio.TooSlowError):
        await run_inline(bounded(forever(), 7), told)
    assert told.count == 2


async def test_a_cancellation_from_outside_is_no_timeout(autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(1) as scope:
        await bounded(forever(), 7)
    assert scope.cancelled_caught


# -- only -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DenyConnection(), True),
        (ValueError(), False),
        (ExceptionGroup("", [DenyConnection()]), True),
        (ExceptionGroup("", [ExceptionGroup("", [DenyConnection()]), DenyConnection()]), True),
        (ExceptionGroup("", [ValueError()]), False),
        (ExceptionGroup("", [DenyConnection(), ValueError()]), False),
        (ExceptionGroup("", [DenyConnection(), ExceptionGroup("", [ValueError()])]), False),
        (BaseExceptionGroup("", [DenyConnection(), KeyboardInterrupt()]), False),
    ],
    ids=["itself", "another", "group", "nested", "group of another", "mixed", "mixed below", "base"],
)
def test_only(error: BaseException, expected: bool) -> None:
    assert only(error, DenyConnection) is expected


def test_only_knows_subclasses() -> None:
    class Gone(ConnectionClosed):
        pass

    assert only(Gone(1006, ""), ConnectionClosed)
    assert only(ExceptionGroup("", [Gone(1006, "")]), ConnectionClosed)


# -- start ------------------------------------------------------------------------------------------------------------


async def test_start_calls_a_function_with_the_message_and_what_the_path_gave() -> None:
    seen: list[Any] = []

    async def consumer(message: Message, **kwargs: Any) -> None:
        seen.append((message, kwargs))

    made = message(text="x")
    coroutine = start(consumer, made, {"room": "blue"})
    assert seen == []
    await coroutine
    assert seen == [(made, {"room": "blue"})]


async def test_start_makes_an_instance_of_a_class_for_each_message() -> None:
    seen: list[Any] = []

    class Consumer(BaseConsumer):
        method_mapping = {"websocket.receive": "take", "websocket.connect": "begun"}

        async def take(self, message: Message, **kwargs: Any) -> None:
            seen.append(("take", self, self.message is message, kwargs, self.kwargs))

        async def begun(self, message: Message, **kwargs: Any) -> None:
            seen.append(("begun", self, self.message is message, kwargs, self.kwargs))

    await start(Consumer, message(), {"room": "blue"})
    await start(Consumer, message("websocket.connect"), {})
    assert [(name, same, kwargs, own) for name, _, same, kwargs, own in seen] == [
        ("take", True, {"room": "blue"}, {"room": "blue"}),
        ("begun", True, {}, {}),
    ]
    assert seen[0][1] is not seen[1][1]
    assert all(isinstance(each[1], Consumer) for each in seen)


async def test_nothing_does_nothing() -> None:
    with trio.testing.assert_no_checkpoints():
        await run_inline(start(nothing, message(), {"room": "blue"}), Suspensions())

"""Running a handler in the task that has its message, and what it is that runs."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import Any, ClassVar
from unittest import mock

import pytest
import trio
import trio.testing
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from triochan import Channel, Message, route_class
from triochan.decorators import method_decorator
from triochan.exceptions import ConnectionClosed, DenyConnection
from triochan.generic import BaseConsumer
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer
from triochan.handlers import (
    Barrier,
    Bound,
    Held,
    begin,
    begin_of,
    bounded,
    call,
    first_step,
    only,
    parted,
    resume,
    run,
)
from triochan.middleware import bind
from triochan.sessions import channel_session
from triochan.test import Client, WSClient

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="nothing")


class Owner:
    """Whose handlers these are, and what it was told."""

    waits = False

    def __init__(self) -> None:
        self.told: list[Any] = []

    def hold(self, scope: trio.CancelScope) -> None:
        self.told.append("hold")

    def release(
        self, scope: trio.CancelScope, consumer: Any, result: object, error: BaseException | None
    ) -> None:
        self.told.append((consumer, result, error))

    def proceed(self) -> Held | None:
        return None

    def internal_error(self, error: Exception) -> None:
        raise AssertionError


def message(channel: str = "websocket.receive", **content: Any) -> Message:
    return Message(content, Channel(channel))


def bound_to(handler: Callable[[Message], Coroutine[Any, Any, object]]) -> Bound:
    return Bound(handler, {}, lambda message, kwargs: handler(message, **kwargs))


def started(
    owner: Owner, handler: Callable[[Message], Coroutine[Any, Any, object]], timeout: float | None = None
) -> tuple[Held | None, object, BaseException | None]:
    return begin(owner, bound_to(handler), message(), timeout)


async def finished(owner: Owner, handler: Any, seconds: float | None = None) -> tuple[Any, Any]:
    """Begin a handler that waits, and await it: its result, and what it raised."""
    with trio.CancelScope() as scope:
        held, result, error = started(owner, handler, seconds)
        assert held is not None
        assert (result, error) == (None, None)
        await held.finish(scope)
    assert owner.told[0] == "hold"
    consumer, result, error = owner.told[1]
    assert consumer is handler
    return result, error


# -- begin: a handler that never waits


async def test_a_handler_that_never_waits_is_a_plain_call() -> None:
    owner = Owner()

    async def handler(message: Message) -> str:
        return "done"

    with assert_no_checkpoints():
        assert started(owner, handler) == (None, "done", None)
        assert started(owner, handler, timeout=5) == (None, "done", None)
    assert owner.told == []


async def test_what_it_raises_is_given_back() -> None:
    async def handler(message: Message) -> None:
        raise KeyError("on purpose")

    held, result, error = started(Owner(), handler)
    assert (held, result) == (None, None)
    assert isinstance(error, KeyError)


async def test_a_scope_and_an_await_that_do_not_wait_are_no_suspension() -> None:
    async def inner() -> int:
        return 1

    async def handler(message: Message) -> int:
        with trio.move_on_after(1):
            assert await inner() == 1
        return 1

    assert started(Owner(), handler) == (None, 1, None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_is_not_the_programs_comes_out(error: type[BaseException]) -> None:
    async def handler(message: Message) -> None:
        raise BaseExceptionGroup("", [error(), ValueError("mine")])

    with pytest.raises(BaseExceptionGroup) as raised:  # noqa: ASYNC401 - what is in it is looked at
        started(Owner(), handler)
    assert raised.value.subgroup(error) is not None


async def test_what_makes_the_coroutine_may_raise() -> None:
    def fail(error: BaseException) -> Any:
        raise error

    for error in (TypeError("no such argument"), StopIteration("which means nothing here")):
        bound = Bound(fail, {}, lambda message, kwargs, error=error: fail(error))  # type: ignore[misc]
        assert begin(Owner(), bound, message()) == (None, None, error)


# -- the first step: nobody wants the result


class ByHand(Coroutine[Any, Any, Any]):
    """A coroutine that is no native one, as compilers make them."""

    def __init__(self, message: Message) -> None:
        self.native = answering(message)

    def send(self, value: Any) -> Any:
        return self.native.send(value)

    def throw(self, *error: Any) -> Any:
        return self.native.throw(*error)

    def close(self) -> None:
        self.native.close()

    def __await__(self) -> Any:
        raise AssertionError


async def answering(message: Message) -> str:
    if message["text"] == "fail":
        raise KeyError("on purpose")
    if message["text"] == "wait":
        await trio.lowlevel.checkpoint()
    await message.reply_channel.send({"text": message["text"]})
    return "unwanted"


@types.coroutine
def generator(message: Message) -> Any:
    yield from answering(message)


@pytest.mark.parametrize("makes", [answering, generator, ByHand])
async def test_a_coroutine_of_any_kind_takes_its_first_step(makes: Any) -> None:
    sent: list[Any] = []

    class Replies:
        name = "websocket.send"

        async def send(self, content: Any) -> None:
            sent.append(content["text"])

    def step(text: str) -> Any:
        return first_step(lambda message, kwargs: makes(message, **kwargs), about(text), {})

    def about(text: str) -> Message:
        return Message({"text": text}, Channel("websocket.receive"), Replies())  # type: ignore[arg-type]

    assert step("at once") is None
    assert sent == ["at once"]
    with pytest.raises(KeyError):
        step("fail")
    coroutine, trap = step("wait")
    assert await resume(coroutine, copy_context(), trap) in (None, "unwanted")
    assert sent == ["at once", "wait"]


# -- begin and finish: a handler that waits


async def test_its_owner_is_told_before_it_waits_and_when_it_has_ended() -> None:
    owner, go = Owner(), trio.Event()
    log: list[str] = []

    async def handler(message: Message) -> str:
        log.append("began")
        await go.wait()
        await trio.lowlevel.checkpoint()
        return "done"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(set_later, go)
        with trio.CancelScope() as scope:
            held, _, _ = started(owner, handler)
            assert held is not None
            assert (log, owner.told) == (["began"], [])
            # The event has noted this very task: it has to be the one that awaits.
            await held.finish(scope)
    assert owner.told == ["hold", (handler, "done", None)]


async def forever() -> None:
    await trio.sleep_forever()


async def set_later(event: trio.Event) -> None:
    await wait_all_tasks_blocked()
    event.set()


async def test_what_it_raises_goes_to_its_owner() -> None:
    async def handler(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        raise KeyError("on purpose")

    result, error = await finished(Owner(), handler)
    assert result is None
    assert isinstance(error, KeyError)


async def test_it_stays_in_the_task_that_it_began_in() -> None:
    tasks = []

    async def handler(message: Message) -> None:
        tasks.append(trio.lowlevel.current_task())
        await trio.lowlevel.checkpoint()
        tasks.append(trio.lowlevel.current_task())

    await finished(Owner(), handler)
    assert tasks == [trio.lowlevel.current_task()] * 2


async def test_what_it_waits_for_gets_to_it(autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[str](0)
    received: list[str] = []

    async def handler(message: Message) -> None:
        for _ in range(2):
            received.append(await receive.receive())
        with pytest.raises(trio.EndOfChannel):
            await receive.receive()
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(1):
                await trio.sleep_forever()

    async def feed() -> None:
        for each in ("a", "b"):
            await send.send(each)
        await send.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed)
        assert await finished(Owner(), handler) == (None, None)
    assert received == ["a", "b"]
    await trio.lowlevel.checkpoint()  # nothing of its scopes is left around this task


async def test_a_cancellation_reaches_it_and_goes_on() -> None:
    owner, log = Owner(), []

    async def handler(message: Message) -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append("finally")

    with trio.CancelScope() as scope:
        scope.cancel()
        held, _, _ = started(owner, handler)
        assert held is not None
        await held.finish(scope)
    assert scope.cancelled_caught
    assert log == ["finally"]
    assert isinstance(owner.told[1][2], trio.Cancelled)


@pytest.mark.parametrize("raises", ["in a nursery", "while it is cancelled"])
async def test_what_it_raises_beside_a_cancellation(raises: str) -> None:
    owner = Owner()

    async def crash() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("on purpose")

    async def handler(message: Message) -> None:
        if raises == "in a nursery":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(crash)
                nursery.start_soon(trio.sleep_forever)
        else:
            await crash()

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_later, scope)
            held, _, _ = started(owner, handler)
            assert held is not None
            await held.finish(scope)
    assert scope.cancel_called
    error = owner.told[1][2]
    assert parted(error)[0] is not None
    assert only(parted(error)[0], KeyError)  # type: ignore[arg-type]


async def cancel_later(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()


async def test_a_keyboard_interrupt_comes_out_and_its_owner_is_told() -> None:
    owner = Owner()

    async def handler(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        raise BaseExceptionGroup("", [KeyboardInterrupt(), ValueError()])

    held, _, _ = started(owner, handler)
    assert held is not None
    with pytest.raises(BaseExceptionGroup) as raised:  # noqa: ASYNC401 - what is in it is looked at
        await held.finish(trio.CancelScope())
    assert only(raised.value, KeyboardInterrupt)
    assert len(owner.told) == 2


async def test_a_handler_that_takes_too_long(autojump_clock: MockClock) -> None:
    async def handler(message: Message) -> None:
        await trio.sleep_forever()

    began = trio.current_time()
    _, error = await finished(Owner(), handler, seconds=7)
    assert isinstance(error, trio.TooSlowError)
    assert trio.current_time() - began == 7


# -- contexts


async def test_a_message_has_a_context_of_its_own() -> None:
    async def handler(message: Message) -> list[str]:
        seen = [VARIABLE.get()]
        VARIABLE.set("mine")
        if message.get("waits"):
            await trio.lowlevel.checkpoint()
        seen.append(VARIABLE.get())
        return seen

    VARIABLE.set("outer")
    for waits in (False, True, False):
        owner = Owner()
        held, result, _ = begin(owner, bound_to(handler), message(waits=waits))
        if held is not None:
            await held.finish(trio.CancelScope())
            result = owner.told[1][1]
        assert result == ["outer", "mine"]
        assert VARIABLE.get() == "outer"


async def test_run_and_call_have_one_too() -> None:
    async def handler(message: Message | None = None) -> str:
        VARIABLE.set("mine")
        await trio.lowlevel.checkpoint()
        return VARIABLE.get()

    VARIABLE.set("outer")
    assert await run(handler()) == "mine"
    assert await call(lambda message, kwargs: handler(message), message(), {}) == "mine"
    assert VARIABLE.get() == "outer"
    context = copy_context()
    await run(handler(), context)
    assert context[VARIABLE] == "mine"


# -- run, call, resume, bounded


async def test_run_awaits_from_the_beginning() -> None:
    async def quick() -> int:
        return 1

    async def slow() -> int:
        await trio.lowlevel.checkpoint()
        return 2

    async def wrong() -> None:
        raise KeyError

    with assert_no_checkpoints():
        assert await run(quick()) == 1
    assert await run(slow()) == 2
    with pytest.raises(KeyError):
        await run(wrong())


async def test_call_is_bounded(autojump_clock: MockClock) -> None:
    async def handler(message: Message, seconds: float) -> str:
        await trio.sleep(seconds)
        return "done"

    def start(message: Message, kwargs: dict[str, Any]) -> Coroutine[Any, Any, object]:
        return handler(message, **kwargs)

    assert await call(start, message(), {"seconds": 4}, 5) == "done"
    assert await call(start, message(), {"seconds": 400}) == "done"
    with pytest.raises(trio.TooSlowError):
        await call(start, message(), {"seconds": 6}, 5)


async def test_bounded() -> None:
    async def quick() -> int:
        return 1

    with assert_no_checkpoints():
        assert await bounded(quick(), 7) == 1
    with trio.CancelScope() as scope:
        scope.cancel()
        await bounded(forever(), 7)
    assert scope.cancelled_caught  # from outside: no time-out


def test_closing_what_awaits_closes_the_handler() -> None:
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
    outer = run(inner)
    outer.send(None)
    outer.close()
    assert log == ["exit", "finally"]
    assert inspect.getcoroutinestate(inner) == inspect.CORO_CLOSED


def test_what_is_thrown_in_from_outside_reaches_the_handler() -> None:
    log: list[str] = []

    async def handler() -> None:
        try:
            await trio.lowlevel.cancel_shielded_checkpoint()
        except KeyError as error:
            log.append(f"caught {error}")
        await trio.lowlevel.cancel_shielded_checkpoint()

    outer = run(handler())
    outer.send(None)
    outer.throw(KeyError("first"))  # caught: it waits again
    with pytest.raises(KeyError, match="second"):
        outer.throw(KeyError("second"))
    assert log == ["caught 'first'"]


async def test_resume_goes_on_from_the_trap_that_was_reached() -> None:
    done = []

    async def handler() -> str:
        await trio.lowlevel.cancel_shielded_checkpoint()
        done.append(1)
        await trio.lowlevel.checkpoint()
        return "done"

    coroutine = handler()
    trap = coroutine.send(None)
    assert done == []
    assert await resume(coroutine, copy_context(), trap) == "done"
    assert done == [1]


# -- parted, only


def test_parted() -> None:
    mine, others = ValueError(), KeyboardInterrupt()
    assert parted(mine) == (mine, None)
    assert parted(others) == (None, others)
    group = ExceptionGroup("", [mine])
    assert parted(group) == (group, None)
    found = parted(BaseExceptionGroup("", [mine, others]))
    assert found[0] is not None
    assert found[1] is not None
    assert only(found[0], ValueError)
    assert only(found[1], KeyboardInterrupt)
    assert parted(BaseExceptionGroup("", [others]))[0] is None


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

    assert only(ExceptionGroup("", [Gone(1006, "")]), ConnectionClosed)


# -- which code runs: begin_of, bind, begin_on


async def test_a_function_is_called_with_the_message_and_what_the_path_gave() -> None:
    seen: list[Any] = []

    async def consumer(message: Message, **kwargs: Any) -> None:
        seen.append((message, kwargs))

    made = message(text="x")
    found = begin_of(consumer, "websocket.receive")
    assert found is not None
    coroutine = found(made, {"room": "blue"})
    assert seen == []
    await coroutine
    assert seen == [(made, {"room": "blue"})]


async def test_a_class_has_an_instance_for_each_message() -> None:
    seen: list[Any] = []

    class Consumer(BaseConsumer):
        method_mapping: ClassVar[dict[str, str]] = {"jobs": "take"}

        async def take(self, message: Message, **kwargs: Any) -> None:
            seen.append((self, self.message is message, kwargs, self.kwargs))

    bound = bind((Consumer, {"room": "blue"}), "jobs")
    assert bound.begin is not None
    for _ in range(2):
        await bound.begin(message("jobs"), bound.kwargs)
    assert [each[1:] for each in seen] == [(True, {"room": "blue"}, {"room": "blue"})] * 2
    assert seen[0][0] is not seen[1][0]


def test_what_would_do_nothing_is_not_begun() -> None:
    class Idle(WebsocketConsumer):
        pass

    assert begin_of(Idle, "websocket.connect") is None
    assert begin_of(Idle, "websocket.disconnect") is None
    assert begin_of(Idle, "websocket.receive") is not None

    class Joins(WebsocketConsumer):
        groups = ["room"]

    assert begin_of(Joins, "websocket.connect") is not None
    assert begin_of(Joins, "websocket.disconnect") is not None


LOG: list[str] = []


def logging_(name: str) -> Callable[[Any], Any]:
    """A decorator of handlers or methods that looks like what it wraps."""

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            LOG.append(name)
            return await function(*args, **kwargs)

        return wrapper

    return decorate


def logged_get_handler(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        LOG.append("it")
        return function(*args, **kwargs)

    return wrapper


KINDS = ["websocket.connect", "websocket.receive", "websocket.disconnect"]


class Plain(WebsocketConsumer):
    async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
        LOG.append("receive")


def overridden(name: str) -> type[WebsocketConsumer]:
    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        LOG.append("it")
        return await getattr(Plain, name)(self, *args, **kwargs)

    return type("Overridden", (Plain,), {name: method})


def with_get_handler() -> type[WebsocketConsumer]:
    class Wrapped(Plain):
        def get_handler(self, message: Message, **kwargs: Any) -> Any:
            return logging_("it")(super().get_handler(message, **kwargs))

    return Wrapped


def by_method_decorator(name: str) -> type[WebsocketConsumer]:
    class Wrapped(Plain):
        pass

    return method_decorator(logging_("it"), name)(Wrapped)


def by_class_decorator() -> type[WebsocketConsumer]:
    def decorate(cls: Any) -> Any:
        cls.dispatch = logging_("it")(cls.dispatch)
        return cls

    @decorate
    class Wrapped(Plain):
        pass

    return Wrapped


def subclass_of(cls: type[WebsocketConsumer]) -> type[WebsocketConsumer]:
    return type("Below", (cls,), {})


def with_an_init() -> type[WebsocketConsumer]:
    class Made(Plain):
        def __init__(self, message: Message, **kwargs: Any) -> None:
            super().__init__(message, **kwargs)
            self.dispatch = logging_("it")(self.dispatch)  # type: ignore[method-assign]

    return Made


EVERYTHING = {
    "dispatch": lambda: overridden("dispatch"),
    "get_handler": with_get_handler,
    "functools.wraps": lambda: type("Wrapped", (Plain,), {"dispatch": logging_("it")(Plain.dispatch)}),
    "wrapped get_handler": lambda: type(
        "Wrapped", (Plain,), {"get_handler": logged_get_handler(Plain.get_handler)}
    ),
    "method_decorator": lambda: by_method_decorator("dispatch"),
    "class decorator": by_class_decorator,
    "a subclass": lambda: subclass_of(by_class_decorator()),
    "a subclass of a subclass": lambda: subclass_of(subclass_of(overridden("dispatch"))),
    "an instance's own": with_an_init,
}


async def through(cls: type[WebsocketConsumer], kind: str) -> list[str]:
    """What runs for one message of that kind."""
    LOG.clear()
    found = begin_of(cls, kind)
    if found is not None:
        content = {"text": "x"} if kind == "websocket.receive" else {}
        await found(message(kind, **content), {})
    return [*LOG]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", EVERYTHING)
async def test_whatever_the_program_has_put_in_the_way_runs(how: str, kind: str) -> None:
    expected = ["it", "receive"] if kind == "websocket.receive" else ["it"]
    assert await through(EVERYTHING[how](), kind) == expected


@pytest.mark.parametrize("how", ["override", "method_decorator", "functools.wraps", "subclass"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[(f"raw_{name.partition('.')[2]}", name) for name in KINDS],
        ("connect", KINDS[0]),
        ("disconnect", KINDS[2]),
    ],
)
async def test_a_method_on_the_way_runs(how: str, name: str, kind: str) -> None:
    if how == "override":
        cls = overridden(name)
    elif how == "method_decorator":
        cls = by_method_decorator(name)
    else:
        cls = type("Wrapped", (Plain,), {name: logging_("it")(getattr(Plain, name))})
        if how == "subclass":
            cls = subclass_of(cls)
    assert await through(cls, kind) == (["it", "receive"] if kind == KINDS[1] else ["it"])


@pytest.mark.parametrize("kind", KINDS)
async def test_connection_groups_is_asked(kind: str) -> None:
    class Grouped(Plain):
        def connection_groups(self, **kwargs: Any) -> list[str]:
            LOG.append("it")
            return []

    class Named(Plain):
        def _group_names(self, kwargs: dict[str, Any]) -> list[str]:
            LOG.append("it")
            return []

    for cls in (Grouped, Named):
        assert await through(cls, kind) == (["receive"] if kind == KINDS[1] else ["it"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", [BaseConsumer, WebsocketConsumer, Plain])
@pytest.mark.parametrize("name", ["dispatch", "get_handler", "raw", "own", "__init__"])
async def test_what_is_patched_before_the_connection_opened_runs(name: str, of: Any, kind: str) -> None:
    if name in ("raw", "own"):
        if of is BaseConsumer or (name == "own" and kind == KINDS[1]):
            return  # nothing that could be patched there
        name = f"{'raw_' if name == 'raw' else ''}{kind.partition('.')[2]}"
    original = getattr(of, name)
    patch = (
        logged_get_handler(original)
        if not inspect.iscoroutinefunction(original)
        else logging_("it")(original)
    )

    class Consumer(Plain):
        pass

    expected = ["it", "receive"] if kind == KINDS[1] else ["it"]
    with mock.patch.object(of, name, patch):
        assert await through(Consumer, kind) == expected
    assert await through(Consumer, kind) == expected[1:]


@pytest.mark.parametrize("attribute", ["channel_session", "channel_session_user"])
@pytest.mark.parametrize("when", ["in the class", "later", "in as_route", "above", "on the instance"])
async def test_a_session_that_is_asked_for_is_there(attribute: str, when: str) -> None:
    seen: list[Any] = []

    class Consumer(WebsocketConsumer):
        async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
            session = self.message.channel_session
            session["count"] = session.get("count", 0) + 1
            seen.append(session["count"])
            await self.send(text="ok")

    attributes = None
    cls: Any = Consumer
    if when == "in the class":
        cls = type("Asking", (Consumer,), {attribute: True})
    elif when == "later":
        setattr(cls, attribute, True)
    elif when == "above":
        cls = subclass_of(type("Asking", (Consumer,), {attribute: True}))
    elif when == "in as_route":
        attributes = {attribute: True}
    else:

        class Made(Consumer):
            def __init__(self, message: Message, **kwargs: Any) -> None:
                super().__init__(message, **kwargs)
                setattr(self, attribute, True)

        cls = Made
    async with WSClient([cls.as_route(attributes)]) as socket:
        for _ in range(2):
            await socket.send("x")
            await socket.receive()
    assert seen == [1, 2]


async def test_a_decorator_in_get_handler() -> None:
    seen: list[Any] = []

    class Consumer(WebsocketConsumer):
        def get_handler(self, message: Message, **kwargs: Any) -> Any:
            return channel_session(super().get_handler(message, **kwargs))

        async def connect(self, message: Message, **kwargs: Any) -> None:
            message.channel_session["name"] = "ada"

        async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
            seen.append(dict(self.message.channel_session))
            await self.send(text="ok")

    async with WSClient([Consumer.as_route()]) as socket:
        await socket.send("x")
        await socket.receive()
    assert seen == [{"name": "ada"}]


async def test_every_connection_asks_anew() -> None:
    """What is patched when a connection opens is called on that connection."""
    seen: list[str] = []

    class Consumer(WebsocketConsumer):
        async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
            await self.send(text="ok")

    async def exchange(client: Client) -> None:
        async with client.websocket("/") as socket:
            await socket.send("x")
            assert await socket.receive() == "ok"

    original = Consumer.dispatch

    async def dispatch(self: Any, message: Message, **kwargs: Any) -> None:
        seen.append(message.channel.name)
        await original(self, message, **kwargs)

    async with Client([route_class(Consumer)]) as client:
        await exchange(client)
        assert seen == []
        with mock.patch.object(Consumer, "dispatch", dispatch):
            await exchange(client)
            await wait_all_tasks_blocked()
            assert seen == KINDS
        seen.clear()
        await exchange(client)
        assert seen == []


async def test_an_answer_goes_through_the_reply_channel_that_the_message_has() -> None:
    sent: list[Any] = []

    class Tapped:
        def __init__(self, channel: Any) -> None:
            self.name = channel.name
            self._channel = channel

        async def send(self, content: dict[str, Any]) -> None:
            sent.append(content)
            await self._channel.send(content)

    def tapping(handler: Any) -> Any:
        @functools.wraps(handler)
        async def wrapper(message: Message, **kwargs: Any) -> None:
            message.reply_channel = Tapped(message.reply_channel)
            await handler(message, **kwargs)

        return wrapper

    class Echo(WebsocketConsumer):
        def get_handler(self, message: Message, **kwargs: Any) -> Any:
            return tapping(super().get_handler(message, **kwargs))

        async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
            await self.send(text=text)

    class EchoJson(JsonWebsocketConsumer):
        def get_handler(self, message: Message, **kwargs: Any) -> Any:
            return tapping(super().get_handler(message, **kwargs))

        async def receive(self, content: Any, **kwargs: Any) -> None:
            await self.send(content)

    for cls in (Echo, EchoJson):
        sent.clear()
        async with WSClient([cls.as_route()]) as socket:
            await socket.send("1")
            assert await socket.receive() == "1"
        assert [each["text"] for each in sent] == ["1"]


class TestBarrier:
    """What a task of the program's own raises is reported, and a cancellation goes on."""

    def test_an_error_is_reported_and_goes_no_further(self) -> None:
        reported: list[Exception] = []
        with Barrier(reported.append):
            raise ValueError("on purpose")
        assert [str(error) for error in reported] == ["on purpose"]

    def test_a_peer_that_leaves_is_no_error(self) -> None:
        reported: list[Exception] = []
        with Barrier(reported.append):
            raise ExceptionGroup("several", [ConnectionClosed(), ConnectionClosed()])
        assert reported == []

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), BaseExceptionGroup("several", [SystemExit()])])
    def test_what_is_not_the_program_s_goes_on(self, error: BaseException) -> None:
        reported: list[Exception] = []
        with pytest.raises(type(error)) as raised, Barrier(reported.append):
            raise error
        assert raised.value is error
        assert reported == []

    async def test_an_error_beside_a_cancellation(self) -> None:
        reported: list[Exception] = []

        async def fail() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("while it is cancelled")

        with trio.CancelScope() as scope:
            with Barrier(reported.append):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fail)
                    nursery.start_soon(trio.sleep_forever)
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
                    await trio.sleep_forever()
        assert scope.cancelled_caught
        [group] = reported
        assert isinstance(group, ExceptionGroup)
        assert [str(error) for error in group.exceptions] == ["while it is cancelled"]

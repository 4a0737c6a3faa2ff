"""A handler or task that raises while it is cancelled: one line that names it, and nobody else is cancelled."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest
import trio
import trio.testing
from door import DoorClient
from recorder import nothing_left

from triochan import Channel, Settings, route
from triochan.generic.base import BaseConsumer
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer, WebsocketDemultiplexer
from triochan.message import Message
from triochan.test import Client, TestWebsocket
from triochan.test.client import HandshakeRefused

SETTINGS = Settings(handshake_timeout=5, handler_timeout=5, disconnect_timeout=4, stall_timeout=100)
CANCELLED: list[str] = []


@pytest.fixture(autouse=True)
def none_cancelled() -> None:
    CANCELLED.clear()


async def child_of_a_nursery() -> None:
    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise RuntimeError("on purpose")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        nursery.start_soon(trio.sleep_forever)


async def nurseries_within() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child_of_a_nursery)
        nursery.start_soon(child_of_a_nursery)


async def in_its_place() -> None:
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        raise RuntimeError("on purpose") from None  # noqa: ASYNC104 - what the test is about


FAILURES = [child_of_a_nursery, nurseries_within, in_its_place]
Fail = Callable[[], Awaitable[None]]


def complaints(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [entry for entry in caplog.records if entry.levelno >= logging.WARNING]


def leaves(error: BaseException | None) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [] if error is None else [error]


def one_line(caplog: pytest.LogCaptureFixture, name: str) -> str:
    [entry] = complaints(caplog)
    assert name in entry.getMessage()
    assert entry.exc_info is not None
    found = leaves(entry.exc_info[1])
    assert any(str(error) == "on purpose" for error in found)
    assert not any(isinstance(error, trio.Cancelled) for error in found)
    return entry.getMessage()


def consumer(method: str, fail: Fail, form: str, **attributes: Any) -> Any:
    """A consumer whose ``method`` fails when it is cancelled, as it is or as a stream."""

    async def handler(self: Any, *args: Any, **kwargs: Any) -> None:
        await fail()

    if form == "plain":
        return type("Failing", (WebsocketConsumer,), {method: handler, **attributes})
    stream = type("Failing", (JsonWebsocketConsumer,), {method: handler})
    good = type("Good", (JsonWebsocketConsumer,), {})
    return type("Failing", (WebsocketDemultiplexer,), {"consumers": {"a": stream, "b": good}, **attributes})


def framed(form: str, text: str) -> str:
    return text if form == "plain" else f'{{"stream":"a","payload":{{"{text}":1}}}}'


@pytest.mark.parametrize("client_class", [Client, DoorClient])
@pytest.mark.parametrize("form", ["plain", "stream"])
@pytest.mark.parametrize("fail", FAILURES)
async def test_connect_that_is_too_slow_is_503(
    fail: Fail,
    form: str,
    client_class: type[Client],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with client_class([consumer("connect", fail, form).as_route()], settings=SETTINGS) as client:
        with pytest.raises(HandshakeRefused) as refused:
            async with client.websocket("/"):
                raise AssertionError("it was accepted")
        await nothing_left(client)
    assert refused.value.status == 503
    assert "did not accept within 5 s; 503" in one_line(caplog, "Failing")


@pytest.mark.parametrize("client_class", [Client, DoorClient])
@pytest.mark.parametrize("form", ["plain", "stream"])
@pytest.mark.parametrize("fail", FAILURES)
async def test_connect_whose_client_is_gone(
    fail: Fail,
    form: str,
    client_class: type[Client],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    cls = consumer("connect", fail, form, cancel_on_disconnect=True)
    async with client_class([cls.as_route()], settings=SETTINGS) as client:
        with trio.move_on_after(1):
            async with client.websocket("/"):
                raise AssertionError("it was accepted")
        await nothing_left(client)
    one_line(caplog, "Failing")


async def too_slow(client: Client, socket: TestWebsocket) -> None:
    assert (await socket.wait_closed()).code == 1011


async def vanish(client: Client, socket: TestWebsocket) -> None:
    await socket.vanish()


async def close(client: Client, socket: TestWebsocket) -> None:
    await socket.close(4000)


async def shutdown(client: Client, socket: TestWebsocket) -> None:
    await client.runtime.drain(trio.CancelScope())
    assert (await socket.wait_closed()).code in (1001, 1011)


@pytest.mark.parametrize("client_class", [Client, DoorClient])
@pytest.mark.parametrize("form", ["plain", "stream"])
@pytest.mark.parametrize("end", [too_slow, vanish, close, shutdown])
@pytest.mark.parametrize("fail", FAILURES)
async def test_receive(
    fail: Fail,
    end: Any,
    form: str,
    client_class: type[Client],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    cls = consumer("receive", fail, form, cancel_on_disconnect=end in (vanish, close))
    async with client_class([cls.as_route()], settings=SETTINGS) as client:
        async with client.websocket("/") as socket:
            await socket.send(framed(form, "x"))
            await trio.testing.wait_all_tasks_blocked()
            await end(client, socket)
        await nothing_left(client)
    one_line(caplog, "Failing")


@pytest.mark.parametrize("client_class", [Client, DoorClient])
@pytest.mark.parametrize("form", ["plain", "stream"])
@pytest.mark.parametrize("fail", FAILURES)
async def test_disconnect(
    fail: Fail,
    form: str,
    client_class: type[Client],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with client_class([consumer("disconnect", fail, form).as_route()], settings=SETTINGS) as client:
        async with client.websocket("/"):
            pass
        await nothing_left(client)
    one_line(caplog, "Failing")


@pytest.mark.parametrize("client_class", [Client, DoorClient])
@pytest.mark.parametrize("fail", FAILURES)
async def test_a_task_of_the_connection_and_a_running_receive(
    fail: Fail,
    client_class: type[Client],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def failing_task() -> None:
        await fail()

    class Spawning(WebsocketConsumer):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            self.connection.start_soon(failing_task)

        async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
            try:
                await trio.sleep(2)
                CANCELLED.append("finished")
            except trio.Cancelled:
                CANCELLED.append("receive")
                raise

    async with client_class([Spawning.as_route()], settings=SETTINGS) as client:
        async with client.websocket("/") as socket:
            await socket.send("x")
            await trio.testing.wait_all_tasks_blocked()
            await socket.close()
        await nothing_left(client)
    assert CANCELLED == ["finished"]
    assert "failing_task raised in a task of the connection on '/'" in one_line(caplog, "failing_task")


@pytest.mark.parametrize("fail", FAILURES)
async def test_one_that_fails_by_itself_leaves_other_handlers_and_tasks_alone(
    fail: Fail, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """It cancels itself, by a time-out of its own."""

    class Impatient(WebsocketConsumer):
        async def receive(self, text: Any = None, bytes: Any = None, **kwargs: Any) -> None:
            if text == "other":
                await trio.sleep(4)
                CANCELLED.append("finished")
                return
            with trio.move_on_after(1):
                await fail()

    async with Client([Impatient.as_route()], settings=SETTINGS) as client:
        async with client.websocket("/") as other:
            await other.send("other")
            async with client.websocket("/") as socket:
                await socket.send("other")
                await socket.send("x")
                assert (await socket.wait_closed()).code == 1011
            await trio.sleep(4)
        await nothing_left(client)
    assert CANCELLED == ["finished", "finished"]
    one_line(caplog, "Impatient")


def http_function(fail: Fail) -> Any:
    async def failing(message: Message) -> None:
        await fail()

    return route("http.request", failing)


def http_class(fail: Fail) -> Any:
    class Failing(BaseConsumer):
        method_mapping: ClassVar[dict[str, str]] = {"http.request": "answer"}

        async def answer(self, message: Message, **kwargs: Any) -> None:
            await fail()

    return Failing.as_route()


@pytest.mark.parametrize("make", [http_function, http_class])
@pytest.mark.parametrize("end", ["too slow", "gone"])
@pytest.mark.parametrize("fail", FAILURES)
async def test_http(
    fail: Fail,
    end: str,
    make: Any,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with Client([make(fail)], settings=SETTINGS) as client:
        if end == "too slow":
            assert (await client.get("/")).status == 500
        else:
            with trio.move_on_after(1):
                await client.get("/")
        await nothing_left(client)
    one_line(caplog, "ailing")


@pytest.mark.parametrize("fail", FAILURES)
async def test_a_named_channel_s_consumer(
    fail: Fail, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    handled: list[int] = []

    async def failing(message: Message) -> None:
        if message["number"]:
            handled.append(message["number"])
        else:
            await fail()

    async with Client([route("jobs", failing)], settings=SETTINGS):
        for number in range(3):
            await Channel("jobs").send({"number": number})
        await trio.sleep(20)
    assert handled == [1, 2]
    one_line(caplog, "failing")


@pytest.mark.parametrize("fail", FAILURES)
async def test_a_named_channel_s_consumer_when_the_server_is_cancelled(
    fail: Fail, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async def failing(message: Message) -> None:
        await fail()

    async with Client([route("jobs", failing)]):
        await Channel("jobs").send({})
        await trio.testing.wait_all_tasks_blocked()
    one_line(caplog, "failing")

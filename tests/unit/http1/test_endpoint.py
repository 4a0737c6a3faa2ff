"""The reply channel of an HTTP request: pieces in order, the end of waiting, and sends that come too late."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import assert_no_checkpoints

from triochan import Message
from triochan.exceptions import ConnectionClosed
from triochan.handlers import Bound, Held
from triochan.http1.endpoint import Exchange
from triochan.http1.writer import ResponseWriter
from triochan.layers import Channel, MemoryLayer
from triochan.replies import LATER, Refusal

MORE = {"content": b"more", "more_content": True}


class Connection:
    """The owner of an exchange, and what it was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.written = b""
        self.full = False
        self.some_room = trio.Event()

    def write(self, data: bytes) -> None:
        self.written += data

    async def room(self) -> None:
        await self.some_room.wait()
        if "broke off" in self.told:
            raise ConnectionClosed(1006, "")

    def broke_off(self) -> None:
        self.told.append("broke off")

    def patient(self, seconds: float) -> None:
        self.told.append(seconds)

    def responded(self) -> None:
        self.told.append("responded")

    def proceed(self) -> Held | None:
        self.told.append("proceed")
        return None


class Rig:
    def __init__(self, *, method: bytes = b"GET", version: bytes = b"1.1", keep_alive: bool = True) -> None:
        self.connection = Connection()
        self.layer = MemoryLayer()
        self.exchange = Exchange(self.connection, self.layer, ResponseWriter(method, version, keep_alive))

    def begin(self, consumer: Any, timeout: float | None = None) -> Held | None:
        message = Message({"path": "/here"}, Channel("http.request"), self.exchange.channel)

        def start(message: Message, kwargs: dict[str, Any]) -> Any:
            return consumer(message, **kwargs)

        return self.exchange.begin(Bound(consumer, {}, start), message, timeout, 7)

    @property
    def told(self) -> list[Any]:
        return self.connection.told

    @property
    def body(self) -> bytes:
        return self.connection.written.partition(b"\r\n\r\n")[2]


# -- pieces


async def test_pieces_go_out_in_order_to_the_last() -> None:
    rig = Rig()
    exchange = rig.exchange
    assert (exchange.started, exchange.complete) == (False, False)
    with assert_no_checkpoints():
        await exchange.deliver({"status": 200, "content": b"a", "more_content": True})
    assert (exchange.started, exchange.complete) == (True, False)
    with pytest.raises(ValueError, match="sent already"):
        await exchange.deliver({"status": 200})
    assert rig.told == []
    await exchange.deliver({"content": b"b"})
    assert (exchange.complete, exchange.keeps_alive) == (True, True)
    assert rig.body == b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"
    assert rig.told == ["responded"]
    with pytest.raises(ValueError, match="complete"):
        await exchange.deliver({"content": b"c"})
    exchange.deliver_nowait({"content": b"c"})
    assert exchange.dropped == 0


async def test_who_sends_waits_while_the_client_does_not_take_it() -> None:
    rig = Rig()
    rig.connection.full = True
    sent: list[bool] = []

    async def produce() -> None:
        await rig.exchange.deliver({"status": 200, "more_content": True})
        sent.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        await trio.testing.wait_all_tasks_blocked()
        assert sent == []
        rig.exchange.deliver_nowait(MORE)  # which never waits
        rig.connection.some_room.set()
    assert sent == [True]
    assert rig.body == b"4\r\nmore\r\n"


@pytest.mark.parametrize("content", [{"text": "for a WebSocket"}, {"content": b"no status"}])
async def test_a_group_send_that_does_not_fit_is_dropped(content: dict[str, Any]) -> None:
    rig = Rig()
    rig.exchange.deliver_nowait(content)
    assert (rig.exchange.dropped, rig.exchange.started) == (1, False)
    rig.exchange.deliver_nowait({"status": 200})
    assert rig.exchange.complete
    rig.exchange.deliver_nowait({"status": 200})
    assert rig.exchange.dropped == 1


async def test_a_piece_that_can_t_be_sent(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    with pytest.raises(ValueError, match="Content-Length"):
        await rig.exchange.deliver({"status": 200, "headers": [("Content-Length", "1")], "content": b"two"})
    assert (rig.exchange.started, rig.told, rig.connection.written) == (False, [], b"")
    await rig.exchange.deliver({"status": 200, "headers": [("Content-Length", "9")], "more_content": True})
    with pytest.raises(ValueError, match="shorter"):
        await rig.exchange.deliver({"content": b"two"})
    assert rig.told == ["broke off"]
    [record] = caplog.records
    assert record.levelno == logging.ERROR


async def test_after_the_end_nothing_is_sent() -> None:
    rig = Rig()
    rig.exchange.close()
    rig.exchange.close()
    with pytest.raises(ConnectionClosed):
        await rig.exchange.deliver({"status": 200})
    with pytest.raises(ConnectionClosed):
        await rig.exchange.channel.send({"status": 200})
    rig.exchange.deliver_nowait({"status": 200})
    assert (rig.connection.written, rig.exchange.dropped) == (b"", 0)
    assert not rig.layer._endpoints


async def test_its_reply_channel_leads_to_it() -> None:
    rig = Rig()
    name = rig.exchange.channel.name
    assert name.startswith("http.response.")
    await rig.layer.send(name, {"status": 200, "content": b"by name"})
    assert rig.body == b"by name"
    assert not rig.layer._endpoints


async def test_what_has_to_be_in_the_first_piece() -> None:
    rig = Rig()
    asked: list[dict[str, Any]] = []

    async def on_start(content: dict[str, Any]) -> dict[str, Any]:
        asked.append(content)
        return {**content, "headers": [("Set-Cookie", "a=b")]}

    rig.exchange.on_start.append(on_start)
    with pytest.raises(ValueError, match="status"):
        await rig.exchange.deliver(MORE)
    await rig.exchange.deliver({"status": 200, "more_content": True})
    await rig.exchange.deliver(MORE)
    assert asked == [{"status": 200, "more_content": True}]
    assert b"\r\nSet-Cookie: a=b\r\n" in rig.connection.written


async def test_a_hook_gives_the_response_back() -> None:
    rig = Rig()

    async def forgets(content: dict[str, Any]) -> Any:
        content["headers"] = []

    rig.exchange.on_start.append(forgets)
    with pytest.raises(TypeError, match=r"forgets, given to before_response, returned None; it returns the"):
        await rig.exchange.deliver({"status": 200})


# -- its consumer


async def answer(message: Message) -> None:
    await message.reply_channel.send({"status": 200, "content": b"there"})


async def begin_to_answer(message: Message) -> None:
    await message.reply_channel.send({"status": 200, "content": b"half", "more_content": True})


async def begin_and_leave_the_rest(message: Message) -> object:
    await begin_to_answer(message)
    return LATER


async def nothing(message: Message) -> None:
    pass


async def another_answers(message: Message) -> object:
    return LATER


async def hand_on_the_name(message: Message) -> None:
    assert message.reply_channel.name


async def crash(message: Message) -> None:
    raise RuntimeError("on purpose")


async def answer_and_crash(message: Message) -> None:
    await answer(message)
    raise RuntimeError("on purpose")


async def begin_and_crash(message: Message) -> None:
    await begin_to_answer(message)
    raise RuntimeError("on purpose")


async def send_to_one_that_is_gone(message: Message) -> None:
    raise ConnectionClosed(1006, "")


@pytest.mark.parametrize(
    ("consumer", "told", "status", "errors"),
    [
        (answer, ["responded"], 200, 0),
        (begin_to_answer, ["broke off"], 200, 1),
        (begin_and_leave_the_rest, [], 200, 0),
        (nothing, ["responded"], 500, 1),
        (another_answers, [7], None, 0),
        (hand_on_the_name, [7], None, 0),
        (crash, ["responded"], 500, 1),
        (answer_and_crash, ["responded"], 200, 1),
        (begin_and_crash, ["broke off"], 200, 1),
        (send_to_one_that_is_gone, ["responded"], 500, 1),
    ],
)
@pytest.mark.parametrize("waits", [False, True])
async def test_what_a_consumer_may_do(
    consumer: Any,
    told: list[Any],
    status: int | None,
    errors: int,
    waits: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig()

    async def run(message: Message) -> object:
        assert rig.exchange.running
        if waits:
            await trio.lowlevel.checkpoint()
        return await consumer(message)

    held = rig.begin(run)
    assert (held is not None) == waits
    if held is not None:
        assert rig.told == []
        await held.finish(trio.CancelScope())
    assert not rig.exchange.running
    assert rig.told == told
    written = rig.connection.written
    assert (int(written.split()[1]) if written else None) == status
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == errors
    if errors:
        said = {
            nothing: "returned without an answer to http.request on",
            begin_to_answer: "returned before the last piece of its response to http.request on",
        }.get(consumer, "raised in http.request on")
        assert f"run {said} '/here'" in caplog.text
    assert b"purpose" not in written


async def test_a_response_that_is_complete_waits_for_its_consumer() -> None:
    rig = Rig()

    async def linger(message: Message) -> None:
        await answer(message)
        assert rig.told == []
        await trio.lowlevel.checkpoint()
        assert rig.told == []

    held = rig.begin(linger)
    assert held is not None
    await held.finish(trio.CancelScope())
    assert rig.told == ["responded"]


@pytest.mark.parametrize("begun", [False, True])
async def test_a_consumer_that_is_cancelled(begun: bool) -> None:
    rig = Rig()

    async def wait(message: Message) -> None:
        if begun:
            await begin_to_answer(message)
        await trio.sleep_forever()

    held = rig.begin(wait)
    assert held is not None
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(held.finish, scope)
            await trio.testing.wait_all_tasks_blocked()
            rig.exchange.cancel()
    assert scope.cancelled_caught
    assert rig.told == (["broke off"] if begun else ["responded"])
    assert b" 500 " in rig.connection.written or begun
    rig.exchange.cancel()  # nothing is left that could be
    rig.exchange.end_by(0)


@pytest.mark.parametrize("why", ["shutdown", "shutdown while the client is gone", "client", "slow"])
async def test_a_consumer_that_the_shutdown_cuts_off_is_named(
    why: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig()

    async def wait(message: Message) -> None:
        await trio.sleep_forever()

    with trio.move_on_after(5), trio.CancelScope() as scope:
        held = rig.begin(wait, timeout=3 if why == "slow" else None)
        assert held is not None
        if "client" in why:
            rig.exchange.end_by(trio.current_time() + (2 if why == "client" else 9))
        await held.finish(scope)
    named = [each.getMessage() for each in caplog.records if each.getMessage().startswith("the shutdown")]
    line = f"the shutdown cut off {__name__}.{wait.__qualname__} in http.request on '/here'"
    assert named == ([line] if "shutdown" in why else [])


async def test_a_consumer_that_has_until_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()

    async def wait(message: Message) -> None:
        await trio.sleep_forever()

    held = rig.begin(wait)
    assert held is not None
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(held.finish, scope)
            await trio.testing.wait_all_tasks_blocked()
            rig.exchange.end_by(5)
            rig.exchange.end_by(9)  # is no reprieve
    assert trio.current_time() == 5


async def test_a_consumer_that_takes_too_long(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig()

    async def wait(message: Message) -> None:
        await trio.sleep_forever()

    held = rig.begin(wait, 3)
    assert held is not None
    await held.finish(trio.CancelScope())
    assert trio.current_time() == 3
    assert b" 500 " in rig.connection.written
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is trio.TooSlowError


async def test_whose_client_has_gone_runs_to_its_end() -> None:
    rig = Rig()

    async def late(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        await answer(message)

    held = rig.begin(late)
    assert held is not None
    rig.exchange.close()
    await held.finish(trio.CancelScope())
    assert (rig.told, rig.connection.written) == (["responded"], b"")


def test_a_response_in_the_place_of_one_that_does_not_come() -> None:
    rig = Rig()
    rig.exchange.answer(Refusal(503, "No answer came in time"))
    assert rig.connection.written.startswith(b"HTTP/1.1 503 ")
    assert (rig.exchange.complete, rig.told) == (True, ["responded"])


def test_the_last_response_of_a_connection_says_so() -> None:
    rig = Rig()
    rig.exchange.be_last()
    rig.exchange.deliver_nowait({"status": 200})
    assert b"\r\nConnection: close\r\n" in rig.connection.written
    assert not rig.exchange.keeps_alive


def test_unless_it_has_begun() -> None:
    rig = Rig()
    rig.exchange.deliver_nowait({"status": 200, "more_content": True})
    rig.exchange.be_last()
    assert b"\r\nConnection: close\r\n" not in rig.connection.written


@pytest.mark.parametrize(
    ("version", "method", "content", "expected"),
    [
        (b"1.0", b"GET", {"more_content": True}, True),
        (b"1.0", b"GET", {}, False),
        (b"1.0", b"HEAD", {"more_content": True}, False),
        (b"1.0", b"GET", {"more_content": True, "headers": [("Content-Length", "5")]}, False),
        (b"1.1", b"GET", {"more_content": True}, False),
    ],
)
def test_whether_its_end_is_that_of_the_connection(
    version: bytes, method: bytes, content: dict[str, Any], expected: bool
) -> None:
    rig = Rig(version=version, method=method, keep_alive=version == b"1.1")
    assert not rig.exchange.ends_with_connection
    rig.exchange.deliver_nowait({"status": 200, **content})
    assert rig.exchange.started
    assert rig.exchange.ends_with_connection is expected


def test_what_it_passes_on() -> None:
    rig = Rig()
    assert rig.exchange.proceed() is None
    rig.exchange.internal_error(RuntimeError())
    assert rig.told == ["proceed", "broke off"]
    assert rig.exchange.local is rig.exchange.local

"""The control plane over a real outbox, whose transport takes everything: what leaves, in which order, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from websockets.frames import Close, Frame, Opcode

from triochan.control import Control, ControlStream, is_close
from triochan.wire.frames import close_frame
from triochan.wire.handshake import Upgrade
from triochan.wire.outbox import Outbox

# RFC 6455 section 1.3 has both.
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def control_frame(opcode: Opcode, payload: bytes = b"") -> bytes:
    """A client's control frame, by the `websockets` library."""
    return Frame(opcode, payload).serialize(mask=True)


def close_of(code: int, reason: str = "") -> bytes:
    return control_frame(Opcode.CLOSE, Close(code, reason).serialize())


def answer(opcode: Opcode, payload: bytes = b"") -> bytes:
    """A server's control frame."""
    return Frame(opcode, payload).serialize(mask=False)


class FakeTransport:
    """Takes everything, or nothing until :meth:`go_on`; it has no socket, so that the flusher writes."""

    socket = None

    def __init__(self) -> None:
        self.taken = b""
        self.broken = False
        self._may_go = trio.Event()
        self._may_go.set()

    def stall(self) -> None:
        self._may_go = trio.Event()

    def go_on(self) -> None:
        self._may_go.set()

    async def send_some(self, data: bytes) -> int:
        await self._may_go.wait()
        if self.broken:
            raise trio.BrokenResourceError
        self.taken += data
        return len(data)


class Rig:
    """A control stream, its outbox and transport, and what they reported."""

    def __init__(self, nursery: trio.Nursery, subprotocols: list[str] | None = None) -> None:
        self.nursery = nursery
        self.transport = FakeTransport()
        self.closes_sent: list[tuple[int, str]] = []
        self.ends = 0
        self.rooms = 0
        self.breaks = 0
        self.outbox = Outbox(
            self.transport,  # type: ignore[arg-type]
            nursery.start_soon,
            limit=1000,
            overflow="close",
            on_overflow=lambda: None,
            on_broken=self._broken,
        )
        self.stream = ControlStream(
            Upgrade({}, KEY, subprotocols or []).head(),
            self.outbox,
            on_close_sent=lambda code, reason: self.closes_sent.append((code, reason)),
            on_closed=self._ended,
            on_room=self._roomy,
        )
        self.control: Control

    def _broken(self) -> None:
        self.breaks += 1

    def _ended(self) -> None:
        self.ends += 1

    def _roomy(self) -> None:
        self.rooms += 1

    async def begin(self) -> Control:
        self.control = await Control.open(self.nursery, self.stream)
        return self.control

    async def accept(self) -> Control:
        """Open, and forget what the handshake wrote."""
        control = await self.begin()
        await control.accept(None, [])
        self.outbox.release()
        await trio.testing.wait_all_tasks_blocked()
        assert self.take().startswith(b"HTTP/1.1 101 ")
        self.rooms = 0
        return control

    async def feed(self, *frames: bytes) -> None:
        for each in frames:
            self.stream.feed(each)
        await trio.testing.wait_all_tasks_blocked()

    def take(self) -> bytes:
        """What has left since the last time."""
        taken, self.transport.taken = self.transport.taken, b""
        return taken

    def start(self, async_fn: Callable[..., Any], *args: Any) -> list[Any]:
        """Run it in the background; the list has what it returns, once it has."""
        returned: list[Any] = []

        async def run() -> None:
            returned.append(await async_fn(*args))

        self.nursery.start_soon(run)
        return returned


# -- the opening handshake --------------------------------------------------------------------------------------------


async def test_accept_writes_the_response_ahead_of_what_was_sent_meanwhile(nursery: trio.Nursery) -> None:
    rig = Rig(nursery, ["a", "b"])
    control = await rig.begin()
    await rig.outbox.put(b"a message")
    opened = [rig.stream.open]
    await control.accept("b", [(b"X-Served", b"yes")])
    opened.append(rig.stream.open)
    assert opened == [False, True]
    assert rig.outbox.size > len(b"a message")
    assert rig.take() == b""
    rig.outbox.release()
    await rig.outbox.drained()
    head, rest = rig.take().split(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers = {name.lower(): value for name, value in (line.split(b": ") for line in lines)}
    assert status.startswith(b"HTTP/1.1 101 ")
    assert headers[b"sec-websocket-accept"] == ACCEPT
    assert headers[b"sec-websocket-protocol"] == b"b"
    assert headers[b"x-served"] == b"yes"
    assert rest == b"a message"
    assert (rig.closes_sent, rig.ends, rig.breaks) == ([], 0, 0)


@pytest.mark.parametrize("body", [b"", b"Forbidden\n"])
async def test_reject_writes_head_then_body_and_nothing_ends(body: bytes, nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    control = await rig.begin()
    await control.reject(403, [(b"X-Why", b"because")], body)
    assert rig.take() == b""
    rig.outbox.release()
    await trio.testing.wait_all_tasks_blocked()
    head, rest = rig.take().split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 ")
    assert b"x-why: because" in head.lower()
    if body:
        assert f"content-length: {len(body)}".encode() in head.lower()
    assert rest == body
    assert not rig.stream.open
    assert (rig.closes_sent, rig.ends) == ([], 0)


async def test_an_unaccepted_stream_may_be_closed_and_nobody_is_told(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    await rig.begin()
    with trio.testing.assert_no_checkpoints():
        await rig.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert rig.ends == 0
    assert rig.control.peer_close is None
    assert not nursery.child_tasks


# -- ping and pong ----------------------------------------------------------------------------------------------------


async def test_a_ping_is_answered(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    await rig.accept()
    await rig.feed(control_frame(Opcode.PING, b"one"), control_frame(Opcode.PING))
    assert rig.take() == answer(Opcode.PONG, b"one") + answer(Opcode.PONG)


async def test_ping_waits_for_its_pong(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    control = await rig.accept()
    ponged = rig.start(control.ping)
    await trio.testing.wait_all_tasks_blocked()
    sent = rig.take()
    assert sent[:2] == b"\x89\x04"
    await rig.feed(control_frame(Opcode.PONG, b"not it"))
    assert ponged == []
    await rig.feed(control_frame(Opcode.PONG, sent[2:]))
    assert ponged == [True]


async def test_ping_is_false_once_closed(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    control = await rig.accept()
    await rig.feed(close_of(1000))
    assert await control.ping() is False


async def test_ping_is_false_where_the_transport_is_lost(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    control = await rig.accept()
    rig.transport.broken = True
    assert await control.ping() is False
    assert rig.breaks == 1


# -- the closing handshake --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (4001, "enough"), (1001, "grüße")])
async def test_the_peers_close_is_answered_and_ends(code: int, reason: str, nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    control = await rig.accept()
    closes = [control.peer_close]
    await rig.feed(close_of(code, reason))
    closes.append(control.peer_close)
    assert rig.take() == answer(Opcode.CLOSE, Close(code, reason).serialize())
    assert closes == [None, (code, reason)]
    assert rig.closes_sent == [(code, reason)]
    assert rig.ends == 1
    assert not nursery.child_tasks


async def test_a_close_without_a_code_is_1005(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    control = await rig.accept()
    await rig.feed(control_frame(Opcode.CLOSE))
    assert rig.take() == answer(Opcode.CLOSE)
    assert control.peer_close == (1005, "")
    assert rig.closes_sent == [(1005, "")]


async def test_close_waits_for_the_peers_answer(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    control = await rig.accept()
    returned = rig.start(control.close, 4002, "go")
    await trio.testing.wait_all_tasks_blocked()
    assert rig.take() == answer(Opcode.CLOSE, Close(4002, "go").serialize())
    assert rig.closes_sent == [(4002, "go")]
    assert (returned, rig.ends) == ([], 0)
    await rig.feed(close_of(4002, "gone"))
    assert returned == [None]
    assert rig.ends >= 1
    assert rig.take() == b""
    assert control.peer_close == (4002, "gone")
    assert rig.closes_sent == [(4002, "go")]


async def test_close_returns_where_nothing_more_comes(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    control = await rig.accept()
    returned = rig.start(control.close, 1000, "")
    await trio.testing.wait_all_tasks_blocked()
    rig.stream.feed_eof()
    await trio.testing.wait_all_tasks_blocked()
    assert returned == [None]
    assert rig.ends >= 1


async def test_while_closing_all_but_the_peers_close_is_dropped(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    control = await rig.accept()
    returned = rig.start(control.close, 1000, "")
    await trio.testing.wait_all_tasks_blocked()
    rig.take()
    await rig.feed(control_frame(Opcode.PING, b"x"), control_frame(Opcode.PONG, b"y"))
    assert (rig.take(), returned) == (b"", [])
    assert rig.stream.waiting == 0
    assert rig.rooms == 2
    await rig.feed(close_of(1000))
    assert returned == [None]
    assert control.peer_close == (1000, "")


async def test_fail_waits_for_no_answer(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    control = await rig.accept()
    with trio.fail_after(5):
        await control.fail(1002, "wrong")
    await trio.testing.wait_all_tasks_blocked()
    assert rig.take() == answer(Opcode.CLOSE, Close(1002, "wrong").serialize())
    assert rig.closes_sent == [(1002, "wrong")]
    assert rig.ends >= 1
    assert not nursery.child_tasks


async def test_fail_waits_until_its_frame_has_left(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    control = await rig.accept()
    rig.transport.stall()
    await rig.outbox.put(b"a message")
    returned = rig.start(control.fail, 1011, "")
    await trio.testing.wait_all_tasks_blocked()
    assert (returned, rig.take()) == ([], b"")
    rig.transport.go_on()
    await trio.testing.wait_all_tasks_blocked()
    assert returned == [None]
    assert rig.take() == b"a message" + close_frame(1011, "")


async def test_close_and_fail_again_are_no_error(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    control = await rig.accept()
    await rig.feed(close_of(1000))
    rig.take()
    with trio.fail_after(5):
        await control.close(4000, "late")
        await control.fail(4000, "late")
    await trio.testing.wait_all_tasks_blocked()
    assert rig.take() == b""
    assert rig.closes_sent == [(1000, "")]
    assert control.peer_close == (1000, "")


async def test_an_error_in_a_control_frame_ends_the_protocol(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    await rig.accept()
    await rig.feed(control_frame(Opcode.CLOSE, b"\x03\xec"))  # 1004 may not be sent
    assert rig.ends == 1
    assert rig.stream.waiting == 0


async def test_a_lost_transport_ends_the_closing_handshake(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    control = await rig.accept()
    rig.transport.broken = True
    with trio.fail_after(5):
        await control.close(1000, "")
    assert rig.breaks == 1
    assert rig.ends >= 1
    with pytest.raises(trio.BrokenResourceError):
        await rig.stream.send_all(answer(Opcode.PONG))


# -- the stream itself ------------------------------------------------------------------------------------------------


async def test_pieces_come_as_they_were_fed_each_tells_of_room_and_none_has_a_checkpoint(
    nursery: trio.Nursery,
) -> None:
    rig = Rig(nursery)
    rig.stream.feed(b"\x89\x00")
    rig.stream.feed(b"\x8a\x00")
    assert rig.stream.waiting == 3
    with trio.testing.assert_no_checkpoints():
        assert (await rig.stream.receive_some(10)).startswith(b"GET / ")
        assert (rig.rooms, rig.stream.waiting) == (1, 2)
        assert await rig.stream.receive_some() == b"\x89\x00"
        assert await rig.stream.receive_some() == b"\x8a\x00"
        assert (rig.rooms, rig.stream.waiting) == (3, 0)
        rig.stream.feed_eof()
        assert await rig.stream.receive_some() == b""
        assert await rig.stream.receive_some() == b""
    assert rig.rooms == 3


async def test_what_was_fed_before_the_end_is_still_read(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    await rig.stream.receive_some()
    rig.stream.feed(b"\x89\x00")
    rig.stream.feed_eof()
    assert await rig.stream.receive_some() == b"\x89\x00"
    assert await rig.stream.receive_some() == b""


async def test_a_reader_may_be_cancelled_and_another_takes_its_place(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    await rig.stream.receive_some()
    with trio.CancelScope() as scope:
        scope.cancel()
        await rig.stream.receive_some()
    assert scope.cancelled_caught
    rig.stream.feed(b"\x8a\x01x")  # the one that was cancelled is not woken
    await trio.lowlevel.checkpoint()
    assert await rig.stream.receive_some() == b"\x8a\x01x"
    received = rig.start(rig.stream.receive_some)
    await trio.testing.wait_all_tasks_blocked()
    rig.stream.feed(b"\x89\x00")
    rig.stream.feed(b"\x8a\x00")  # the reader is on its way: it is not woken twice
    await trio.testing.wait_all_tasks_blocked()
    assert received == [b"\x89\x00"]
    assert rig.stream.waiting == 1


async def test_waiting_for_room_to_send_is_a_checkpoint_and_no_more(nursery: trio.Nursery) -> None:
    with trio.testing.assert_checkpoints():
        await Rig(nursery).stream.wait_send_all_might_not_block()


@pytest.mark.parametrize(
    ("frame", "expected"),
    [(close_frame(1000, ""), True), (close_of(1000), True), (b"\x89\x00", False), (b"\x8a\x80abcd", False)],
)
def test_is_close(frame: bytes, expected: bool) -> None:
    assert is_close(frame) is expected


# -- settled ----------------------------------------------------------------------------------------------------------


class FastSocket:
    """Takes everything at once."""

    def __init__(self) -> None:
        self.taken = b""

    def send(self, data: bytes) -> int:
        self.taken += data
        return len(data)


async def test_settled_lets_pings_be_answered_before_what_follows(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    await rig.accept()
    socket = rig.outbox.socket = FastSocket()
    for number in range(3):
        rig.stream.feed(control_frame(Opcode.PING, b"%d" % number))
    await rig.stream.settled()
    await rig.outbox.put(b"a message")
    pongs = b"".join(answer(Opcode.PONG, b"%d" % number) for number in range(3))
    assert socket.taken == pongs + b"a message"


async def test_settled_has_no_checkpoint_where_all_is_answered_or_ended(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    await rig.accept()
    with trio.testing.assert_no_checkpoints():
        await rig.stream.settled()
        rig.stream.feed_eof()
        await rig.stream.settled()


async def test_settled_does_not_wait_for_a_peer_that_does_not_read(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    await rig.accept()
    rig.transport.stall()
    await rig.outbox.put(b"a message")
    rig.stream.feed(control_frame(Opcode.PING))
    with trio.testing.assert_no_checkpoints():
        await rig.stream.settled()
    await trio.testing.wait_all_tasks_blocked()
    rig.stream.feed(control_frame(Opcode.PING))
    await trio.testing.wait_all_tasks_blocked()
    assert rig.stream.waiting == 1  # the first pong has not left: the next ping waits its turn
    rig.transport.go_on()
    await trio.testing.wait_all_tasks_blocked()
    assert rig.take() == b"a message" + answer(Opcode.PONG) * 2


async def test_settled_gives_up_after_a_few_turns(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)  # nobody reads this stream
    with trio.fail_after(5):
        await rig.stream.settled()
    assert rig.stream.waiting == 1

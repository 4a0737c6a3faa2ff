"""The outbox over a transport that takes as much as the test allows."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from triochan.exceptions import ConnectionClosed
from triochan.wire.outbox import Outbox, broadcast


class FakeSocket:
    """A non-blocking socket with room for ``room`` bytes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = b""
        self.writes = 0
        self.broken = False

    def send(self, data: bytes) -> int:
        if self.broken:
            raise BrokenPipeError("gone")
        if not self.room:
            raise BlockingIOError
        sent = min(self.room, len(data))
        self.room -= sent
        self.taken += data[:sent]
        self.writes += 1
        return sent


class FakeTransport:
    """What an outbox needs of a transport."""

    def __init__(self, room: int) -> None:
        self.socket = FakeSocket(room)
        self._more = trio.Event()

    async def send_some(self, data: bytes) -> int:
        while not self.socket.room and not self.socket.broken:
            self._more = trio.Event()
            await self._more.wait()
        if self.socket.broken:
            raise trio.BrokenResourceError
        return self.socket.send(data)

    def make_room(self, room: int) -> None:
        self.socket.room += room
        self._more.set()

    def break_off(self) -> None:
        self.socket.broken = True
        self._more.set()


class Rig:
    """An outbox, its transport, and what it reported."""

    def __init__(
        self, nursery: trio.Nursery, room: int = 10**9, limit: int = 100, overflow: Any = "close"
    ) -> None:
        self.transport = FakeTransport(room)
        self.overflows = 0
        self.breaks = 0
        self.outbox = Outbox(
            self.transport,  # type: ignore[arg-type]
            nursery.start_soon,
            limit=limit,
            overflow=overflow,
            on_overflow=self._overflowed,
            on_broken=self._broken,
        )

    def _overflowed(self) -> None:
        self.overflows += 1
        self.outbox.seal(1013, "slow", discard=True)

    def _broken(self) -> None:
        self.breaks += 1

    @property
    def taken(self) -> bytes:
        return self.transport.socket.taken


async def test_frames_are_held_until_released_behind_what_goes_first(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    await rig.outbox.put(b"one")
    rig.outbox.offer(b"two")
    assert rig.taken == b""
    rig.outbox.put_first(b"head")
    rig.outbox.release()
    assert rig.taken == b"headonetwo"
    assert rig.transport.socket.writes == 1
    assert rig.outbox.direct is not None
    assert rig.outbox.size == 0


async def test_a_frame_that_fits_goes_straight_and_needs_no_checkpoint(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    rig.outbox.release()
    with trio.testing.assert_no_checkpoints():
        await rig.outbox.put(b"now")
    assert rig.taken == b"now"


async def test_what_the_socket_does_not_take_is_flushed_in_order(nursery: trio.Nursery) -> None:
    rig = Rig(nursery, room=2)
    rig.outbox.release()
    await rig.outbox.put(b"abcd")
    await rig.outbox.put(b"efgh")
    assert rig.taken == b"ab"
    assert rig.outbox.size == 6
    assert rig.outbox.direct is None
    rig.transport.make_room(100)
    await rig.outbox.drained()
    assert rig.taken == b"abcdefgh"
    await trio.testing.wait_all_tasks_blocked()
    assert rig.outbox.direct is not None


async def test_put_waits_for_room_and_a_large_frame_is_taken_when_nothing_waits(
    nursery: trio.Nursery,
) -> None:
    rig = Rig(nursery, room=0, limit=10)
    rig.outbox.release()
    await rig.outbox.put(b"x" * 50)
    waiting = trio.Event()

    async def put_more() -> None:
        await rig.outbox.put(b"y" * 5)
        waiting.set()

    nursery.start_soon(put_more)
    await trio.testing.wait_all_tasks_blocked()
    assert not waiting.is_set()
    rig.transport.make_room(100)
    await waiting.wait()
    await rig.outbox.drained()
    assert rig.taken == b"x" * 50 + b"y" * 5


async def test_overflow_closes_once(nursery: trio.Nursery) -> None:
    rig = Rig(nursery, room=0, limit=10)
    rig.outbox.release()
    for _ in range(5):
        rig.outbox.offer(b"12345678")
    assert rig.overflows == 1
    assert rig.outbox.dropped >= 1
    with pytest.raises(ConnectionClosed) as closed:
        await rig.outbox.put(b"more")
    assert closed.value.code == 1013
    rig.outbox.put_control(b"\x88\x02\x03\xf5")
    rig.transport.make_room(1000)
    await rig.outbox.drained()
    # The frame that had begun to leave is whole, then comes the close frame.
    assert rig.taken == b"12345678\x88\x02\x03\xf5"
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("policy", "kept"), [("drop_newest", b"a1a2a3"), ("drop_oldest", b"a1a5a6")])
async def test_overflow_drops_whole_frames_only(policy: str, kept: bytes, nursery: trio.Nursery) -> None:
    rig = Rig(nursery, room=1, limit=5, overflow=policy)
    rig.outbox.release()
    for number in range(1, 7):
        rig.outbox.offer(b"a%d" % number)
    assert rig.outbox.dropped == 3
    rig.transport.make_room(100)
    await rig.outbox.drained()
    assert rig.taken == kept
    assert rig.overflows == 0


async def test_dropping_the_oldest_spares_control_frames(nursery: trio.Nursery) -> None:
    rig = Rig(nursery, room=0, limit=8, overflow="drop_oldest")
    rig.outbox.release()
    rig.outbox.offer(b"\x81\x01a")
    await trio.testing.wait_all_tasks_blocked()
    rig.outbox.put_control(b"\x8a\x00")
    for letter in (b"b", b"c", b"d"):
        rig.outbox.offer(b"\x81\x01" + letter)
    rig.transport.make_room(100)
    await rig.outbox.drained()
    assert rig.taken == b"\x81\x01a\x8a\x00\x81\x01d"


async def test_corked_frames_leave_in_one_write(nursery: trio.Nursery) -> None:
    rig = Rig(nursery)
    rig.outbox.release()
    rig.outbox.cork()
    for number in range(5):
        await rig.outbox.put(b"%d" % number)
    assert rig.taken == b""
    rig.outbox.uncork()
    assert rig.taken == b"01234"
    assert rig.transport.socket.writes == 1


async def test_a_full_outbox_uncorks_itself(nursery: trio.Nursery) -> None:
    rig = Rig(nursery, limit=4)
    rig.outbox.release()
    rig.outbox.cork()
    await rig.outbox.put(b"1234")
    await rig.outbox.put(b"5678")
    assert rig.taken == b"12345678"


async def test_a_broken_transport_is_told_once_and_wakes_those_who_wait(nursery: trio.Nursery) -> None:
    rig = Rig(nursery, room=0, limit=4)
    rig.outbox.release()
    await rig.outbox.put(b"1234")
    raised = []

    async def wait() -> None:
        try:
            await rig.outbox.put(b"5")
        except ConnectionClosed as error:
            raised.append(error.code)

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    rig.transport.break_off()
    await trio.testing.wait_all_tasks_blocked()
    assert raised == [1006]
    assert rig.breaks == 1
    with pytest.raises(ConnectionClosed):
        await rig.outbox.drained()
    rig.outbox.offer(b"ignored")


async def test_a_cancelled_write_ends_the_connection() -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, room=2, limit=100)
        rig.outbox.release()
        await rig.outbox.put(b"1234")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert rig.breaks == 1


async def test_broadcast_gives_every_outbox_the_same_frame_and_stops_at_none(nursery: trio.Nursery) -> None:
    ready, slow, broken, closed = (Rig(nursery, room) for room in (100, 3, 100, 100))
    for rig in (ready, slow, broken, closed):
        rig.outbox.release()
    broken.transport.break_off()
    closed.outbox.close(1000, "")
    with trio.testing.assert_no_checkpoints():
        broadcast(b"12345", [rig.outbox for rig in (slow, broken, closed, ready)])
    assert (ready.taken, slow.taken, broken.taken, closed.taken) == (b"12345", b"123", b"", b"")
    assert broken.breaks == 1
    slow.transport.make_room(10)
    await slow.outbox.drained()
    assert slow.taken == b"12345"

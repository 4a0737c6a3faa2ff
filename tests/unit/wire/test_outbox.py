"""The outbox over a transport that takes as much as the test allows: order, limits, turns, ends."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from triochan.exceptions import ConnectionClosed
from triochan.settings import Overflow
from triochan.wire.deflate import Agreement
from triochan.wire.frames import encode, encode_compressed
from triochan.wire.outbox import CHUNK, Flush, Outbox, Recipients, broadcast

PLENTY = 10**9
RECORD = 100
"""Bytes of a TLS record of these tests."""


class FakeSink:
    """A transport with room for ``room`` bytes.

    Args:
        tls: say of no room as TLS does, which has begun a record by then and takes nothing but the same bytes next.
    """

    def __init__(self, room: int, *, tls: bool = False) -> None:
        self.room = room
        self.taken = b""
        self.writes: list[int] = []
        self.broken = False
        self.watched = False
        self._tls = tls
        self._begun = b""

    def send(self, data: bytes) -> int:
        if self.broken:
            raise BrokenPipeError("gone")
        assert data[: len(self._begun)] == self._begun, "not the bytes that a record was begun with"
        sent = min(self.room, len(data))
        self._begun = data[sent : sent + RECORD] if self._tls else b""
        if not sent:
            raise ssl.SSLWantWriteError if self._tls else BlockingIOError
        self.room -= sent
        self.taken += data[:sent]
        self.writes.append(sent)
        return sent

    def watch_writable(self) -> None:
        self.watched = True


class Rig:
    """An outbox, its transport, and what its owner is told."""

    def __init__(
        self,
        room: int = PLENTY,
        limit: int = 100,
        overflow: Overflow = "close",
        *,
        flush: Flush | None = None,
        tls: bool = False,
        opened: bool = True,
    ) -> None:
        self.sink = FakeSink(room, tls=tls)
        self.flush = flush or Flush()
        self.told: list[str] = []
        self.outbox = Outbox(self.sink, self.flush, self, limit=limit, overflow=overflow)
        if opened:
            self.outbox.release()
            self.outbox.opened()

    def overflowed(self) -> None:
        self.told.append("overflowed")

    def broken(self) -> None:
        self.told.append("broken")

    def drained(self) -> None:
        self.told.append("drained")

    def make_room(self, room: int) -> None:
        self.sink.room += room
        if self.sink.watched:
            self.sink.watched = False  # it is told once
            self.outbox.writable()

    @property
    def taken(self) -> bytes:
        return self.sink.taken


# -- by any sequence of what may happen


Step = tuple[str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["send", "offer", "broadcast"]), st.integers(0, 300)),
        st.tuples(st.just("control"), st.integers(0, 20)),
        st.tuples(st.just("room"), st.integers(1, 400)),
        st.tuples(st.sampled_from(["turn", "hold"]), st.just(0)),
    ),
    max_size=40,
)


def content(number: int, size: int) -> bytes:
    """A message that names itself."""
    return b"%05d" % number + b"." * size


def control(number: int, size: int) -> bytes:
    return bytes((0x89, 5 + size)) + content(number, size)


def numbers(data: bytes) -> list[int]:
    """The frames that ``data`` consists of, whole and nothing else."""
    found = []
    while data:
        assert data[:1] in (b"\x82", b"\x89"), data[:20]
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        payload = data[start : start + size]
        assert len(payload) == size
        assert payload[5:] == b"." * (size - 5)
        found.append(int(payload[:5]))
        data = data[start + size :]
    return found


@settings(max_examples=400, deadline=None)
@given(
    steps=STEPS,
    room=st.sampled_from([0, 50, 1000, PLENTY]),
    limit=st.sampled_from([0, 60, 500, PLENTY]),
    overflow=st.sampled_from(["close", "drop_newest", "drop_oldest"]),
    tls=st.booleans(),
    one_flush=st.booleans(),
)
def test_what_is_sent_arrives_whole_once_and_in_order(
    steps: list[Step], room: int, limit: int, overflow: Overflow, tls: bool, one_flush: bool
) -> None:
    rig = Rig(room, limit, overflow, tls=tls)
    other = Rig(limit=PLENTY, flush=rig.flush if one_flush else None)
    group = Recipients([rig.outbox, other.outbox])
    outbox, sink = rig.outbox, rig.sink
    sent: list[int] = []
    sent_to_group: list[int] = []
    controls: set[int] = set()

    def put(frame: bytes) -> None:
        # What Outbox.put does where it need not wait; where it would have to, this sends nothing.
        if outbox.send_direct(frame):
            return
        if outbox.size + len(frame) > limit:
            outbox.end_turn()
        if outbox.size and outbox.size + len(frame) > limit:
            sent.pop()
            return
        with pytest.raises(StopIteration):
            outbox.put(frame).send(None)

    for number, (what, argument) in enumerate(steps):
        dropped = outbox.dropped
        if what == "room":
            rig.make_room(argument)
        elif what == "turn":
            rig.flush.flush()
        elif what == "hold":
            outbox.hold_turn()
        else:
            sent.append(number)
            if what == "control":
                controls.add(number)
                outbox.put_control(control(number, argument))
            elif what == "send":
                put(encode(content(number, argument)))
            elif what == "offer":
                outbox.offer(encode(content(number, argument)))
            else:
                sent_to_group.append(number)
                broadcast(content(number, argument), group)
        # Nothing is dropped that the peer has not refused.
        assert outbox.dropped == dropped or sink.room == 0
        if outbox.direct is not None:
            assert outbox.size == 0
    sink.room = PLENTY
    rig.make_room(0)
    for each in (rig, other):
        each.flush.flush()
    assert outbox.size == 0
    assert outbox.direct is not None
    arrived = numbers(sink.taken)
    assert arrived == [number for number in sent if number in set(arrived)]  # in order, none twice
    assert not (set(sent) - set(arrived)) & controls  # no control frame is dropped
    assert len(sent) - len(arrived) == outbox.dropped
    assert rig.told == (["overflowed"] * outbox.dropped if overflow == "close" else [])
    assert numbers(other.taken) == sent_to_group


# -- turns


def test_the_first_frame_of_a_turn_leaves_at_once_and_the_rest_in_one_write() -> None:
    rig = Rig()
    for turn in range(3):
        rig.sink.writes.clear()
        for _ in range(5):
            rig.outbox.offer(b"12345")
        assert rig.sink.writes == [5], turn
        rig.flush.flush()
        assert rig.sink.writes == [5, 20]


async def test_the_same_for_sends_that_may_wait() -> None:
    rig = Rig()
    with trio.testing.assert_no_checkpoints():
        for number in range(5):
            await rig.outbox.put(b"%d" % number)
    assert rig.taken == b"0"
    rig.flush.flush()
    assert rig.taken == b"01234"
    assert rig.sink.writes == [1, 4]


@pytest.mark.parametrize("way", ["offer", "put"])
async def test_a_turn_is_cut_at_64_kib(way: str) -> None:
    rig = Rig(limit=PLENTY)
    size = CHUNK // 4
    for _ in range(12):
        if way == "offer":
            rig.outbox.offer(bytes(size))
        else:
            await rig.outbox.put(bytes(size))
    assert rig.sink.writes[:3] == [size, CHUNK, size]
    assert rig.outbox.size < CHUNK
    rig.flush.flush()
    assert rig.taken == bytes(12 * size)


def test_a_write_joins_frames_up_to_64_kib() -> None:
    rig = Rig(room=0, limit=PLENTY)
    for _ in range(20):
        rig.outbox.offer(bytes(CHUNK // 4))
    rig.make_room(PLENTY)
    assert rig.taken == bytes(5 * CHUNK)
    assert max(rig.sink.writes) == CHUNK


def test_a_turn_that_is_held_gathers_from_its_first_frame_on() -> None:
    rig = Rig()
    rig.outbox.hold_turn()
    rig.outbox.offer(b"one")
    rig.outbox.offer(b"two")
    assert rig.taken == b""
    rig.outbox.end_turn()
    assert rig.sink.writes == [6]
    rig.outbox.hold_turn()
    rig.outbox.hold_turn()
    rig.flush.flush()  # nothing was sent
    rig.outbox.offer(b"at once")
    assert rig.sink.writes == [6, 7]


def test_a_control_frame_ends_the_gathering() -> None:
    rig = Rig()
    for each in (b"a", b"b", b"c"):
        rig.outbox.offer(each)
    rig.outbox.put_control(b"!")
    assert rig.sink.writes == [1, 3]
    assert rig.taken == b"abc!"


def test_what_was_gathered_is_tried_before_any_policy_looks_at_it() -> None:
    for overflow in ("close", "drop_newest", "drop_oldest"):
        rig = Rig(limit=10, overflow=overflow)
        for number in range(9):
            rig.outbox.offer(b"%d234567" % number)
        rig.flush.flush()
        assert rig.taken == b"".join(b"%d234567" % number for number in range(9))
        assert (rig.outbox.dropped, rig.told) == (0, [])


def test_a_frame_behind_what_was_just_tried_is_not_overtaken() -> None:
    rig = Rig(limit=10)
    for each in (b"first...", b"second..", b"third...", b"fourth.."):
        rig.outbox.offer(each)
    assert rig.outbox.send_direct(b"fifth") is False
    rig.flush.flush()
    assert rig.taken == b"first...second..third...fourth.."


async def test_whoever_waited_for_room_is_of_a_turn_of_its_own() -> None:
    rig = Rig(room=0, limit=4)
    await rig.outbox.put(b"1234")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.outbox.put, b"56")
        await trio.testing.wait_all_tasks_blocked()
        rig.make_room(PLENTY)
    assert rig.outbox.direct is None  # the next one is gathered behind it
    assert rig.flush.pending
    rig.flush.flush()
    assert rig.taken == b"123456"


# -- the flush of a turn


async def test_the_flush_comes_in_the_turn_that_follows() -> None:
    rig = Rig()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.flush.run)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):  # again and again
            rig.sink.taken = b""
            for each in (b"a", b"b", b"c"):
                rig.outbox.offer(each)
            assert rig.taken == b"a"
            await trio.testing.wait_all_tasks_blocked()
            assert rig.taken == b"abc"
            assert not rig.flush.pending
        nursery.cancel_scope.cancel()
    rig.outbox.offer(b"d")  # nobody flushes any more; that is no error
    assert rig.flush.pending


async def test_what_came_before_the_flush_s_task_is_flushed() -> None:
    rig = Rig()
    rig.outbox.offer(b"a")
    rig.outbox.offer(b"b")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.flush.run)
        await trio.testing.wait_all_tasks_blocked()
        assert rig.taken == b"ab"
        nursery.cancel_scope.cancel()


async def test_within_a_step_nobody_is_woken() -> None:
    rig = Rig()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.flush.run)
        await trio.testing.wait_all_tasks_blocked()
        rig.flush.stepping = True
        rig.outbox.offer(b"a")
        rig.outbox.offer(b"b")
        await trio.testing.wait_all_tasks_blocked()
        assert rig.taken == b"a"
        rig.flush.flush()
        assert rig.taken == b"ab"
        nursery.cancel_scope.cancel()


def test_one_flush_for_many() -> None:
    flush = Flush()
    rigs = [Rig(flush=flush) for _ in range(3)]
    for rig in rigs:
        rig.outbox.offer(b"a")
        rig.outbox.offer(b"b")
    rigs[1].sink.broken = True
    flush.flush()
    assert [rig.taken for rig in rigs] == [b"ab", b"a", b"ab"]
    assert rigs[1].told == ["broken"]
    flush.flush()
    assert [rig.sink.writes for rig in rigs] == [[1, 1], [1], [1, 1]]


# -- the handshake


async def test_frames_are_held_until_released_behind_what_goes_first() -> None:
    rig = Rig(opened=False)
    await rig.outbox.put(b"one")
    await rig.outbox.put(b"two")
    rig.outbox.put_control(b"!")
    assert rig.taken == b""
    assert rig.outbox.direct is None
    rig.outbox.put_first(b"head")
    rig.outbox.release()
    assert rig.sink.writes == [11]
    assert rig.taken == b"headonetwo!"
    assert rig.outbox.direct is None  # connect has not returned
    rig.outbox.opened()
    assert rig.outbox.direct is not None


def test_a_response_alone() -> None:
    rig = Rig(opened=False)
    rig.outbox.put_first(b"head")
    rig.outbox.opened()
    assert rig.outbox.direct is None
    rig.outbox.release()
    assert rig.taken == b"head"
    assert rig.outbox.direct is not None


async def test_what_groups_send_waits_until_connect_has_returned() -> None:
    rig = Rig(opened=False)
    rig.outbox.put_first(b"head")
    rig.outbox.offer(b"early ")
    rig.outbox.release()
    rig.outbox.offer(b"earlier ")
    await rig.outbox.put(b"own ")
    assert rig.taken == b"headown "
    rig.outbox.opened()
    assert rig.taken == b"headown early earlier "
    rig.outbox.offer(b"late")
    assert rig.taken == b"headown early earlier late"
    assert rig.outbox.size == 0


@pytest.mark.parametrize("discard", [False, True])
def test_who_is_refused_hears_nothing_of_a_group(discard: bool) -> None:
    rig = Rig(opened=False)
    rig.outbox.offer(b"early")
    rig.outbox.seal(1006, "refused", discard=discard)
    rig.outbox.put_first(b"403")
    rig.outbox.release()
    rig.outbox.opened()
    assert rig.taken == b"403"
    assert rig.outbox.direct is None


@pytest.mark.parametrize(("overflow", "told"), [("close", ["overflowed"]), ("drop_newest", [])])
def test_groups_that_send_too_much_while_connect_runs(overflow: Overflow, told: list[str]) -> None:
    rig = Rig(opened=False, limit=10, overflow=overflow)
    for _ in range(3):
        rig.outbox.offer(b"12345678")
    assert (rig.outbox.dropped, rig.told) == (1, told)
    rig.outbox.release()
    rig.outbox.opened()
    assert rig.taken == b"12345678" * 2


# -- limits


async def test_put_waits_for_room_and_a_large_frame_is_taken_when_nothing_waits() -> None:
    rig = Rig(room=0, limit=10)
    await rig.outbox.put(b"x" * 50)
    done: list[int] = []

    async def put(number: int) -> None:
        await rig.outbox.put(b"%d" % number * 5)
        done.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(put, number)
        await trio.testing.wait_all_tasks_blocked()
        assert done == []
        rig.make_room(44)  # 6 of 50 wait: no room for 5 more
        await trio.testing.wait_all_tasks_blocked()
        assert done == []
        rig.make_room(2)
        await trio.testing.wait_all_tasks_blocked()
        assert len(done) == 1
        rig.make_room(PLENTY)
    rig.flush.flush()
    assert rig.taken == b"x" * 50 + b"".join(b"%d" % number * 5 for number in done)


async def test_a_put_that_is_cancelled_sends_nothing() -> None:
    rig = Rig(room=0, limit=4)
    await rig.outbox.put(b"1234")
    with trio.CancelScope() as scope:
        scope.cancel()
        await rig.outbox.put(b"56")
    assert scope.cancelled_caught
    rig.make_room(PLENTY)
    assert rig.taken == b"1234"


async def test_what_was_only_gathered_is_no_reason_to_wait() -> None:
    rig = Rig(limit=4)
    with trio.testing.assert_no_checkpoints():
        for _ in range(4):
            await rig.outbox.put(b"1234")
    rig.flush.flush()
    assert rig.taken == b"1234" * 4


async def test_room() -> None:
    rig = Rig(room=0, limit=4)
    with trio.testing.assert_no_checkpoints():
        await rig.outbox.room()
    rig.outbox.put_control(b"123456")
    waited: list[bool] = []

    async def wait() -> None:
        await rig.outbox.room()
        waited.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert waited == []
        rig.make_room(2)
    assert waited == [True]
    rig.outbox.put_control(b"123456")
    with pytest.RaisesGroup(ConnectionClosed):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.outbox.room)
            await trio.testing.wait_all_tasks_blocked()
            rig.outbox.close(1001, "")
    with pytest.raises(ConnectionClosed):
        await rig.outbox.room()


async def test_overflow_closes() -> None:
    rig = Rig(room=0, limit=10)
    for _ in range(3):
        rig.outbox.offer(b"12345678")
    assert rig.told == ["overflowed"] * 2  # its connection seals it at the first
    rig.outbox.seal(1013, "slow", discard=True)
    rig.outbox.offer(b"more")
    with pytest.raises(ConnectionClosed) as closed:
        await rig.outbox.put(b"more")
    assert closed.value.code == 1013
    rig.outbox.put_control(b"\x88\x02\x03\xf5")
    rig.make_room(PLENTY)
    # The frame that had begun to leave is whole, then comes the close frame.
    assert rig.taken == b"12345678\x88\x02\x03\xf5"
    assert rig.outbox.direct is None


@pytest.mark.parametrize(("policy", "kept"), [("drop_newest", b"a1a2a3"), ("drop_oldest", b"a1a5a6")])
def test_overflow_drops_whole_frames_only(policy: Overflow, kept: bytes) -> None:
    rig = Rig(room=1, limit=5, overflow=policy)
    for number in range(1, 7):
        rig.outbox.offer(b"a%d" % number)
    assert rig.outbox.dropped == 3
    rig.make_room(PLENTY)
    assert rig.taken == kept
    assert rig.told == []


def test_dropping_the_oldest_spares_control_frames() -> None:
    rig = Rig(room=0, limit=8, overflow="drop_oldest")
    rig.outbox.offer(b"\x81\x01a")
    rig.outbox.put_control(b"\x8a\x00")
    for letter in (b"b", b"c", b"d"):
        rig.outbox.offer(b"\x81\x01" + letter)
    rig.make_room(PLENTY)
    assert rig.taken == b"\x81\x01a\x8a\x00\x81\x01d"


def test_a_tls_record_that_was_begun_is_not_dropped() -> None:
    rig = Rig(limit=20, overflow="drop_oldest", tls=True)
    rig.outbox.offer(b"first.")
    rig.sink.room = 0
    rig.outbox.offer(b"second")
    rig.flush.flush()
    for each in (b"third.", b"fourth", b"fifth."):
        rig.outbox.offer(each)
    rig.make_room(PLENTY)
    assert rig.taken == b"first.secondfourthfifth."


# -- the end


async def test_a_sealed_outbox_takes_control_frames_alone() -> None:
    rig = Rig()
    rig.outbox.offer(b"a")
    rig.outbox.offer(b"b")
    rig.outbox.seal(1000, "done")
    rig.outbox.seal(1011, "too late to say so")
    rig.outbox.offer(b"c")
    assert rig.outbox.send_direct(b"c") is False
    with pytest.raises(ConnectionClosed) as closed:
        await rig.outbox.put(b"c")
    assert (closed.value.code, closed.value.reason) == (1000, "done")
    rig.outbox.put_control(b"!")
    rig.flush.flush()
    assert rig.taken == b"ab!"
    assert rig.outbox.direct is None


@pytest.mark.parametrize("end", ["seal", "close", "break"])
async def test_who_waits_for_room_is_told_of_the_end(end: str) -> None:
    rig = Rig(room=0, limit=4)
    await rig.outbox.put(b"1234")
    raised: list[int] = []

    async def wait() -> None:
        with pytest.raises(ConnectionClosed) as closed:
            await rig.outbox.put(b"5")
        raised.append(closed.value.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        if end == "seal":
            rig.outbox.seal(1001, "")
        elif end == "close":
            rig.outbox.close(1001, "")
        else:
            rig.sink.broken = True
            rig.outbox.writable()
    assert raised == [1006 if end == "break" else 1001] * 2
    assert rig.told == (["broken"] if end == "break" else [])


async def test_a_closed_outbox_takes_and_says_nothing() -> None:
    rig = Rig(room=2, limit=4)
    await rig.outbox.put(b"1234")
    rig.outbox.close(1000, "")
    assert rig.outbox.size == 0
    rig.outbox.offer(b"x")
    rig.outbox.put_control(b"x")
    rig.make_room(PLENTY)
    rig.outbox.end_turn()
    rig.outbox.hold_turn()
    rig.flush.flush()
    assert rig.taken == b"12"
    assert (rig.told, rig.outbox.size, rig.outbox.direct) == ([], 0, None)


@pytest.mark.parametrize("way", ["put", "offer", "control", "gathered", "full", "broadcast"])
async def test_a_broken_transport_is_told_once(way: str) -> None:
    rig = Rig(limit=4)
    if way in ("gathered", "full"):
        rig.outbox.offer(b"a")
        rig.outbox.offer(b"b")
    rig.sink.broken = True
    if way == "put":
        with pytest.raises(ConnectionClosed):
            await rig.outbox.put(b"x")
    elif way == "offer":
        rig.outbox.offer(b"x")
    elif way == "full":
        rig.outbox.offer(b"12345")
    elif way == "control":
        rig.outbox.put_control(b"x")
    elif way == "broadcast":
        broadcast("x", Recipients([rig.outbox]))
    rig.flush.flush()
    assert rig.told == ["broken"]
    assert (rig.outbox.size, rig.outbox.direct) == (0, None)
    with pytest.raises(ConnectionClosed) as closed:
        await rig.outbox.put(b"x")
    assert closed.value.code == 1006
    rig.outbox.broken()
    rig.outbox.put_control(b"x")
    assert rig.told == ["broken"]


def test_an_owner_that_has_let_go_is_told_nothing() -> None:
    rig = Rig(limit=4)
    rig.outbox.watched = True
    rig.outbox.detach()
    rig.sink.room = 0
    for _ in range(3):
        rig.outbox.offer(b"123")
    rig.make_room(PLENTY)
    rig.sink.broken = True
    rig.outbox.offer(b"x")
    rig.flush.flush()
    assert (rig.told, rig.outbox.dropped) == ([], 2)


def test_whoever_watches_is_told_when_nothing_waits() -> None:
    rig = Rig(room=2)
    rig.outbox.watched = True
    rig.outbox.offer(b"1234")
    assert rig.told == []
    rig.make_room(1)
    assert rig.told == []
    rig.make_room(1)
    assert rig.told == ["drained"]


def test_room_is_watched_for_anew_where_it_was_not_enough() -> None:
    rig = Rig(room=2)
    rig.outbox.offer(b"1234")
    watched = [rig.sink.watched]
    for _ in range(2):
        rig.make_room(1)
        watched.append(rig.sink.watched)
    assert watched == [True, True, False]
    rig.outbox.writable()  # of which nobody has asked; nothing is to be done
    assert rig.taken == b"1234"


# -- groups


def test_broadcast_gives_every_outbox_the_same_bytes_and_stops_at_none() -> None:
    flush = Flush()
    ready, slow, stuck, broken, closed = (Rig(room, flush=flush) for room in (PLENTY, 3, 0, 9, 9))
    broken.sink.broken = True
    closed.outbox.close(1000, "")
    given_to: list[bytes] = []
    send = ready.sink.send

    def note(data: bytes) -> int:
        given_to.append(data)
        return send(data)

    other = Rig(flush=flush)
    for rig in (ready, other):
        rig.sink.send = note  # type: ignore[method-assign]
        rig.outbox._send = note
        rig.outbox.direct = note
    everybody = Recipients([rig.outbox for rig in (slow, stuck, broken, closed, ready, other)])
    broadcast(b"12345", everybody)
    frame = encode(b"12345")
    assert given_to[0] is given_to[1]
    assert given_to == [frame, frame]
    assert (slow.taken, stuck.taken, broken.taken, closed.taken) == (frame[:3], b"", b"", b"")
    assert broken.told == ["broken"]
    broadcast("second", everybody)
    assert given_to == [frame, frame]
    flush.flush()
    assert given_to[2:] == [encode("second")] * 2
    for rig in (slow, stuck):
        rig.make_room(PLENTY)
        assert rig.taken == frame + encode("second")


def test_a_message_is_compressed_once_for_all_that_agreed_on_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agreements = Agreement(15), Agreement(9)
    calls: list[Agreement] = []

    def count(data: str | bytes, agreement: Agreement, history: bytes) -> Any:
        calls.append(agreement)
        return encode_compressed(data, agreement, history)

    monkeypatch.setattr("triochan.wire.outbox.encode_compressed", count)
    rigs = [Rig() for _ in range(6)]
    for rig, agreement in zip(rigs, [agreements[0], None, agreements[1]] * 2, strict=True):
        rig.outbox.agreement = agreement
        rig.outbox.threshold = 100
    broadcast("x" * 99, Recipients([rig.outbox for rig in rigs]))
    assert calls == []
    assert {rig.taken for rig in rigs} == {encode("x" * 99)}
    for rig in rigs:
        rig.flush.flush()
        rig.sink.taken = b""
    broadcast("x" * 100, Recipients([rig.outbox for rig in rigs]))
    assert calls == list(agreements)
    for rig in rigs:
        own = rig.outbox.agreement
        assert rig.taken == (encode("x" * 100) if own is None else encode_compressed("x" * 100, own).frame)


@pytest.mark.parametrize("data", ["x" * 100, b"x" * 100])
def test_one_message_is_compressed_where_that_was_agreed_on_and_is_worth_it(data: str | bytes) -> None:
    outbox = Rig().outbox
    assert outbox.encode(data) == encode(data)
    outbox.agreement = Agreement(15)
    outbox.threshold = 100
    assert outbox.encode(data) == encode_compressed(data, outbox.agreement).frame
    assert outbox.encode(data[:99]) == encode(data[:99])


def test_a_tls_record_that_was_begun_with_a_batch_is_not_discarded() -> None:
    flush = Flush()
    rigs = [Rig(flush=flush, tls=True) for _ in range(2)]
    group = Recipients([rig.outbox for rig in rigs])
    for number in range(3):
        broadcast(b"%d" % number, group)
    for rig in rigs:
        rig.sink.room = 0
    flush.flush()
    for rig in rigs:
        rig.outbox.seal(1013, "slow", discard=True)
        rig.outbox.put_control(b"!")
        rig.make_room(PLENTY)
        assert rig.taken == b"".join(encode(b"%d" % number) for number in range(3)) + b"!"
        assert rig.told == []


async def test_a_batch_leaves_nobody_of_another_server_waiting() -> None:
    ours, theirs = Flush(), Flush()
    rigs = [Rig(flush=ours), Rig(flush=ours), Rig(flush=theirs)]
    group = Recipients([rig.outbox for rig in rigs])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.run)
        for number in range(2):
            broadcast(b"%d" % number, group)
        assert ours.batch is not None
        await trio.testing.wait_all_tasks_blocked()
        for number in range(2, 4):
            broadcast(b"%d" % number, group)
        assert ours.batch is not None
        await trio.testing.wait_all_tasks_blocked()
        assert rigs[2].taken == b"".join(encode(b"%d" % number) for number in range(4))
        nursery.cancel_scope.cancel()
    ours.flush()
    assert {rig.taken for rig in rigs} == {rigs[2].taken}


@pytest.mark.parametrize("end", ["seal", "close", "break", "control"])
def test_a_member_that_leaves_a_batch(end: str) -> None:
    flush = Flush()
    rigs = [Rig(flush=flush) for _ in range(3)]
    group = Recipients([rig.outbox for rig in rigs])
    for number in range(3):
        broadcast(b"%d" % number, group)
    leaves = rigs[1]
    if end == "seal":
        leaves.outbox.seal(1000, "")
        leaves.outbox.put_control(b"!")
    elif end == "close":
        leaves.outbox.close(1000, "")
    elif end == "control":
        leaves.outbox.put_control(b"!")
    else:
        leaves.sink.broken = True
    broadcast(b"3", group)
    flush.flush()
    every = [encode(b"%d" % number) for number in range(4)]
    for rig in (rigs[0], rigs[2]):
        assert rig.taken == b"".join(every)
    expected = {
        "seal": [*every[:3], b"!"],
        "control": [*every[:3], b"!", every[3]],
        "close": every[:1],
        "break": every[:1],
    }
    assert leaves.taken == b"".join(expected[end])
    assert leaves.told == (["broken"] if end == "break" else [])


@pytest.mark.parametrize("room", [0, 1, 5])
def test_a_batch_that_does_not_fit_waits(room: int) -> None:
    flush = Flush()
    rigs = [Rig(flush=flush) for _ in range(2)]
    group = Recipients([rig.outbox for rig in rigs])
    for number in range(3):
        broadcast(b"%d" % number, group)
    rigs[1].sink.room = room
    flush.flush()
    every = b"".join(encode(b"%d" % number) for number in range(3))
    assert rigs[0].taken == every
    assert rigs[1].outbox.size == len(every) - 3 - room
    broadcast(b"3", group)
    broadcast(b"4", group)
    flush.flush()
    rigs[1].make_room(PLENTY)
    assert rigs[0].taken == rigs[1].taken == every + encode(b"3") + encode(b"4")


def test_a_batch_is_cut_at_64_kib_and_at_the_least_limit() -> None:
    for limit, most in ((PLENTY, CHUNK), (1000, 1000)):
        flush = Flush()
        rigs = [Rig(flush=flush, limit=each) for each in (PLENTY, limit)]
        group = Recipients([rig.outbox for rig in rigs])
        frame = encode(bytes(600))
        for _ in range(300):
            broadcast(bytes(600), group)
            assert flush.batch is None or flush.batch.size < most
        flush.flush()
        assert [rig.taken for rig in rigs] == [frame * 300] * 2


async def test_who_waits_for_nothing_is_told_of_a_full_outbox_that_has_batched() -> None:
    flush = Flush()
    rigs = [Rig(flush=flush, limit=30) for _ in range(2)]
    group = Recipients([rig.outbox for rig in rigs])
    for number in range(3):
        broadcast(b"%d" % number, group)
    await rigs[0].outbox.put(b"own")
    rigs[1].outbox.offer(b"own")
    flush.flush()
    every = b"".join(encode(b"%d" % number) for number in range(3)) + b"own"
    assert [rig.taken for rig in rigs] == [every] * 2
    broadcast(b"x", Recipients([]))

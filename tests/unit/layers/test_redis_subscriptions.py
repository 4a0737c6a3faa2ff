"""What a process is subscribed to: whatever comes between, the engine ends up with what was asked for last."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from triochan.layers.redis.engine import Engine
from triochan.layers.redis.subscriptions import Subscriptions, take_pushes

pytest.importorskip("coredis")


class FakeEngine:
    """Does commands in their order, when it is told to; its pushes go to whoever is attached then."""

    def __init__(self) -> None:
        self.queue: list[tuple[bytes, bytes]] = []
        self.subscribed: set[bytes] = set()
        self.lost = False

    def send_command(self, command: bytes, *names: Any) -> None:
        from coredis.exceptions import ConnectionError as Lost

        if self.lost:
            raise Lost("gone")
        self.queue += [(command, name) for name in names]

    def step(self, subscriptions: Subscriptions) -> None:
        """Do one of the commands."""
        command, name = self.queue.pop(0)
        if command == b"SUBSCRIBE":
            self.subscribed.add(name)
            subscriptions.take([b"subscribe", name, len(self.subscribed)])
        else:
            self.subscribed.discard(name)
            subscriptions.take([b"unsubscribe", name, len(self.subscribed)])

    def publish(self, subscriptions: Subscriptions, name: str, data: bytes) -> None:
        if name.encode() in self.subscribed:
            subscriptions.take([b"message", name.encode(), data])


def nothing(data: bytes) -> None:
    raise AssertionError(data)


async def test_a_channel_s_messages_come_to_who_wanted_it() -> None:
    engine, subscriptions = FakeEngine(), Subscriptions()
    heard: list[bytes] = []
    subscriptions.attach(engine)
    subscriptions.want("a", heard.append)
    subscriptions.want("a", nothing)  # wanted already
    subscriptions.want("b", nothing)
    assert ("a" in subscriptions, "c" in subscriptions, len(subscriptions)) == (True, False, 2)
    assert engine.queue == [(b"SUBSCRIBE", b"a"), (b"SUBSCRIBE", b"b")]
    while engine.queue:
        engine.step(subscriptions)
    with assert_no_checkpoints():
        await subscriptions.confirmed("a")
        await subscriptions.confirmed("never wanted")
    engine.publish(subscriptions, "a", b"1")
    subscriptions.drop("a")
    subscriptions.drop("a")
    engine.publish(subscriptions, "a", b"on its way when it was dropped")
    assert heard == [b"1"]
    assert subscriptions.received == 4


async def test_the_confirmation_of_one_that_was_given_up_says_nothing_of_the_next(
    nursery: trio.Nursery,
) -> None:
    engine, subscriptions = FakeEngine(), Subscriptions()
    subscriptions.attach(engine)
    subscriptions.want("a", nothing)
    subscriptions.drop("a")
    subscriptions.want("a", nothing)
    confirmed = trio.Event()

    async def wait() -> None:
        await subscriptions.confirmed("a")
        confirmed.set()

    nursery.start_soon(wait)
    for expected in (False, False, True):  # subscribed, unsubscribed, subscribed
        await wait_all_tasks_blocked()
        assert not confirmed.is_set()
        engine.step(subscriptions)
        await wait_all_tasks_blocked()
        assert confirmed.is_set() is expected


async def test_who_waits_for_what_is_dropped_waits_no_more(nursery: trio.Nursery) -> None:
    engine, subscriptions = FakeEngine(), Subscriptions()
    subscriptions.attach(engine)
    subscriptions.want("a", nothing)
    nursery.start_soon(subscriptions.confirmed, "a")
    await wait_all_tasks_blocked()
    subscriptions.drop("a")


async def test_what_is_wanted_outlives_a_connection() -> None:
    one, two, subscriptions = FakeEngine(), FakeEngine(), Subscriptions()
    subscriptions.want("before", nothing)
    subscriptions.attach(one)
    subscriptions.want("a", nothing)
    subscriptions.want("b", nothing)
    while one.queue:
        one.step(subscriptions)
    one.lost = True
    subscriptions.drop("b")  # nobody has noticed yet
    subscriptions.want("c", nothing)
    subscriptions.detach()
    subscriptions.want("d", nothing)
    subscriptions.drop("before")
    with trio.move_on_after(0) as scope:
        await subscriptions.confirmed("a")
    assert scope.cancelled_caught
    subscriptions.attach(two)
    assert sorted(two.queue) == [(b"SUBSCRIBE", name) for name in (b"a", b"c", b"d")]
    while two.queue:
        two.step(subscriptions)
    with assert_no_checkpoints():
        await subscriptions.confirmed("a")
        await subscriptions.restored()


async def test_very_many_are_subscribed_to_in_several_commands() -> None:
    sent: list[int] = []

    class Counting:
        def send_command(self, command: bytes, *names: Any) -> None:
            sent.append(len(names))

    subscriptions = Subscriptions()
    for index in range(1200):
        subscriptions.want(f"room-{index}", nothing)
    subscriptions.attach(Counting())
    assert sent == [500, 500, 200]


def pushed(number: int) -> bytes:
    return b">3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\n%d\r\n" % number


async def test_all_that_one_read_has_brought_is_taken_in_its_step() -> None:
    from coredis.connection import UnixDomainSocketConnection, UnixDomainSocketLocation

    connection = UnixDomainSocketConnection(UnixDomainSocketLocation("/nowhere"))
    taken: list[int] = []
    failures: list[Exception] = []

    def take(push: list[Any]) -> None:
        taken.append(int(push[2]))
        if taken[-1] == 2:
            raise ZeroDivisionError

    take_pushes(connection, take, failures.append)
    with assert_no_checkpoints():
        connection._data_received(pushed(1) + pushed(2) + pushed(3) + pushed(4)[:20])
        assert taken == [1, 2, 3]
        connection._data_received(pushed(4)[20:])
        assert taken == [1, 2, 3, 4]
        async with connection._processing_budget:
            pass
    assert [type(error) for error in failures] == [ZeroDivisionError]
    assert connection._push_message_buffer_out.statistics().current_buffer_used == 0
    # As coredis does when it gives the connection back to its pool.
    assert connection._push_message_buffer_in.statistics().current_buffer_used == 0
    for stream in (  # else coredis says that they are unclosed
        connection._push_message_buffer_out,
        connection._streamed_message_buffer_in,
        connection._streamed_message_buffer_out,
        connection._write_buffer_in,
        connection._write_buffer_out,
    ):
        stream.close()


async def test_very_many_are_waited_for_as_long_as_it_goes_on(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    fake, engine = FakeEngine(), Engine("unix:///nowhere", timeout=1.0)
    subscriptions = engine.subscriptions
    subscriptions.attach(fake)
    for name in ("a", "b", "c"):
        subscriptions.want(name, nothing)

    async def go_on() -> None:
        while fake.queue:
            await trio.sleep(0.7)
            fake.step(subscriptions)

    nursery.start_soon(go_on)
    await engine._restored()
    assert trio.current_time() == pytest.approx(2.1)
    subscriptions.want("d", nothing)
    with pytest.raises(trio.TooSlowError):
        await engine._restored()


@given(st.lists(st.sampled_from(["want a", "want b", "drop a", "drop b", "step", "break"]), max_size=40))
def test_in_the_end_the_engine_has_what_is_wanted(steps: list[str]) -> None:
    engine, subscriptions = FakeEngine(), Subscriptions()
    subscriptions.attach(engine)
    wanted: set[str] = set()
    for step in steps:
        what, _, name = step.partition(" ")
        if what == "want":
            subscriptions.want(name, nothing)
            wanted.add(name)
        elif what == "drop":
            subscriptions.drop(name)
            wanted.discard(name)
        elif what == "step" and engine.queue:
            engine.step(subscriptions)
        elif what == "break":
            subscriptions.detach()
            engine = FakeEngine()
            subscriptions.attach(engine)
        for each in wanted:  # nothing is confirmed that may be missed
            if subscriptions._wanted[each.encode()].confirmed.is_set():
                assert each.encode() in engine.subscribed
                assert (b"UNSUBSCRIBE", each.encode()) not in engine.queue
    while engine.queue:
        engine.step(subscriptions)
    assert engine.subscribed == {each.encode() for each in wanted}
    assert all(each.confirmed.is_set() for each in subscriptions._wanted.values())
    assert not subscriptions._unconfirmed

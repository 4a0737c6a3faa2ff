"""The layer through Redis or Valkey: the contract, and what holds between processes.

Two layers on one engine stand for two processes.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio
from engines import EngineProcess, engine
from trio.testing import MockClock, wait_all_tasks_blocked

from triochan import Channel, Group
from triochan.exceptions import ConnectionClosed, LayerUnavailable
from triochan.layers import ChannelLayer
from triochan.layers.redis import RedisLayer, inbox
from triochan.test.layers import SETTINGS, Elapse, FakeEndpoint, LayerContract
from triochan.test.named_channels import NamedChannelContract
from triochan.wire.frames import encode

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def running_engine() -> Iterator[EngineProcess]:
    with engine() as process:
        yield process


_prefixes = (f"t{number}" for number in itertools.count())


async def settled(*layers: RedisLayer) -> None:
    """What was published before has come to all processes, and been done."""
    for layer in layers:
        await layer._inbox.ask_all("members", "nobody")
    await wait_all_tasks_blocked()


class TestRedisLayer(LayerContract, NamedChannelContract):
    @pytest.fixture
    def clock(self) -> MockClock | None:
        return None

    @pytest.fixture
    def elapse(self, layer: RedisLayer) -> Elapse:
        async def shift(seconds: float) -> None:
            layer.streams.shift += seconds
            layer.streams.look()
            await trio.sleep(seconds if seconds < 1 else 0.02)  # buckets go by the clocks themselves

        return shift

    @pytest.fixture
    async def layer(self, running_engine: EngineProcess) -> AsyncIterator[RedisLayer]:
        layer = RedisLayer(running_engine.url, SETTINGS, prefix=next(_prefixes))
        async with layer.running():
            yield layer
            await settled(layer)
            assert len(layer.engine.subscriptions) == 3
            assert not layer._endpoints

    async def settled(self, layer: ChannelLayer) -> None:
        assert isinstance(layer, RedisLayer)
        await settled(layer)
        await trio.sleep(0.02)  # and what is in a named channel


@pytest.fixture
async def layers(running_engine: EngineProcess) -> AsyncIterator[tuple[RedisLayer, RedisLayer]]:
    """Two processes. Tests name what they send through."""
    one, two = (RedisLayer(running_engine.url, timeout=1.0) for _ in range(2))
    async with one.connected(), two.connected():
        await one.engine.ask(one.engine.client.flushall())
        yield one, two
        await settled(one, two)
        assert [len(each.engine.subscriptions) for each in (one, two)] == [3, 3]
        assert not one._groups._joining
        assert not two._groups._joining


async def test_a_group_send_reaches_the_members_of_all_processes(
    layers: tuple[RedisLayer, RedisLayer],
) -> None:
    one, two = layers
    here, there, stranger = FakeEndpoint(one), FakeEndpoint(two), FakeEndpoint(two)
    for layer, each in ((one, here), (two, there)):
        await Group("room", layer).add(each.channel)
    await Group("other", two).add(stranger.channel)
    for number in range(20):
        await Group("room", layers[number % 2]).send({"text": str(number)})
    await Group("room", one).send({"bytes": b"b"})
    await Group("room", two).send({"close": 4000, "reason": "over"})
    await settled(*layers)
    expected = [*(encode(str(number)) for number in range(20)), encode(b"b")]
    assert here.frames == there.frames == expected
    assert here.at_once == there.at_once == [{"close": 4000, "reason": "over"}]
    assert stranger.frames == []
    for layer, each in ((one, here), (two, there), (two, stranger)):
        layer.detach(each)


async def test_the_one_that_is_left_out_may_be_another_process_s(
    layers: tuple[RedisLayer, RedisLayer],
) -> None:
    one, two = layers
    here, there, beside = FakeEndpoint(one), FakeEndpoint(two), FakeEndpoint(two)
    for layer, each in ((one, here), (two, there), (two, beside)):
        await Group("room", layer).add(each.channel)
    await Group("room", one).send({"text": "a"}, exclude=there.channel.name)
    await Group("room", two).send({"text": "b"}, exclude=here.channel)
    await settled(*layers)
    assert (here.frames, there.frames, beside.frames) == (
        [encode("a")],
        [encode("b")],
        [encode("a"), encode("b")],
    )
    for layer, each in ((one, here), (two, there), (two, beside)):
        layer.detach(each)


async def test_a_group_without_connections_here_costs_nothing_here(
    layers: tuple[RedisLayer, RedisLayer],
) -> None:
    one, two = layers
    member = FakeEndpoint(two)
    await Group("room", two).add(member.channel)
    before = one.engine.subscriptions.received
    for number in range(10):
        await Group("room", one).send({"text": str(number)})
    await two._inbox.ask_all("members", "nobody")
    assert len(member.frames) == 10
    assert len(one.engine.subscriptions) == 3
    assert one.engine.subscriptions.received == before + 1  # the question
    two.detach(member)


async def test_the_members_of_all_processes_are_listed(layers: tuple[RedisLayer, RedisLayer]) -> None:
    one, two = layers
    here, there, later = FakeEndpoint(one), FakeEndpoint(two), FakeEndpoint(two)
    for layer, each in ((two, there), (one, here), (two, later)):
        await Group("room", layer).add(each.channel)
    await Group("room", two).add("jobs")
    await Group("room", one).add("a")
    mine, theirs = [here.channel.name], [there.channel.name, later.channel.name]
    assert await Group("room", one).members() == [*mine, *theirs, "jobs", "a"]
    assert await Group("room", two).members() == [*theirs, *mine, "jobs", "a"]
    await Group("room", one).discard("jobs")
    await Group("room", one).discard("a")
    for layer, each in ((one, here), (two, there), (two, later)):
        layer.detach(each)
    assert await Group("room", one).members() == []


async def test_named_channels_may_be_members_from_any_process(layers: tuple[RedisLayer, RedisLayer]) -> None:
    one, two = layers
    await Group("room", one).add("jobs")
    await Group("room", two).send({"anything": 1})
    await Group("room", two).send({"anything": 2}, exclude="jobs")
    await Group("room", two).send({"anything": 3})
    assert [(await two.receive("jobs")).content for _ in range(2)] == [{"anything": 1}, {"anything": 3}]
    await Group("room", two).discard("jobs")


async def test_what_no_socket_of_another_process_could_take_is_refused(
    layers: tuple[RedisLayer, RedisLayer], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = layers
    for each in layers:
        each.serve(["jobs"])
    member = FakeEndpoint(two)
    await Group("room", one).add("jobs")
    await Group("room", two).add(member.channel)
    for wrong in ({"unknown": 1}, {"accept": True}, {}):
        with pytest.raises(ValueError, match=r"WebSocket reply|can't accept"):
            await Group("room", one).send(wrong)
    # That may be for waiting requests alone, as far as the sender knows.
    await Group("room", one).send({"status": 200, "content": b""})
    await Group("room", two).send({"text": "a"})
    with pytest.raises(TypeError, match=r"content\['text'\]|plain data"):
        await Group("elsewhere", one).send({"text": "a", "object": object()})
    await settled(*layers)
    assert member.frames == [encode("a")]
    assert (await one.receive("jobs")).content == {"status": 200, "content": b""}
    assert [record.message[:80] for record in caplog.records] == [
        "group 'room': a message from another process was dropped: a WebSocket reply takes"[:80]
    ]
    await Group("room", one).discard("jobs")
    two.detach(member)


async def test_a_message_that_is_none_disturbs_nobody(
    layers: tuple[RedisLayer, RedisLayer], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = layers
    member = FakeEndpoint(two)
    await Group("room", two).add(member.channel)
    publish = one.engine.client.publish
    for noise in (b"", b"\xc1", b"\x00", msgpack.packb([1, 2, 3]), msgpack.packb([None, b"no content"])):
        await one.engine.ask(publish(one.engine.topic("group", "room"), noise))
        await one.engine.ask(publish(one.engine.topic("all"), noise))
        await one.engine.ask(publish(two._inbox._topic(two._prefix), noise))
    await Group("room", one).send({"text": "a"})
    await settled(*layers)
    assert member.frames == [encode("a")]
    assert "not understood" in caplog.text
    two.detach(member)


async def test_an_add_that_is_given_up_leaves_nothing(layers: tuple[RedisLayer, RedisLayer]) -> None:
    one, two = layers
    member = FakeEndpoint(one)
    with trio.CancelScope() as scope:
        scope.cancel()
        await Group("room", one).add(member.channel)
    assert scope.cancelled_caught
    assert await Group("room", one).members() == []
    # A discard at once, a connection that ends meanwhile, and one that comes again.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Group("room", one).add, member.channel)
        nursery.start_soon(Group("room", one).add, member.channel)
        nursery.start_soon(Group("other", one).add, member.channel)
        await wait_all_tasks_blocked(0)
        await Group("room", one).discard(member.channel)
        await Group("room", one).add(member.channel)
    await Group("room", two).send({"text": "a"})
    await settled(*layers)
    assert member.frames == [encode("a")]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Group("third", one).add, member.channel)
        await wait_all_tasks_blocked(0)
        one.detach(member)
    assert not one._groups._fan_out.names("third")


async def test_who_comes_again_is_not_taken_out_by_its_first_join(
    layers: tuple[RedisLayer, RedisLayer],
) -> None:
    one, _ = layers
    member = FakeEndpoint(one)
    scope = trio.CancelScope()

    async def first() -> None:
        with scope:
            await Group("room", one).add(member.channel)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await wait_all_tasks_blocked(0)
        await Group("room", one).discard(member.channel)
        nursery.start_soon(Group("room", one).add, member.channel)
        await wait_all_tasks_blocked(0)
        scope.cancel()
    assert await Group("room", one).members() == [member.channel.name]
    one.detach(member)


# -- reply channels


async def test_a_reply_channel_is_reached_from_another_process(layers: tuple[RedisLayer, RedisLayer]) -> None:
    one, two = layers
    socket, request = FakeEndpoint(one), FakeEndpoint(one, socket=False)
    for number in range(50):
        await two.reply_channel(socket.channel.name).send({"text": str(number)})
    await Channel(request.channel.name, two).send({"status": 200, "content": b"1", "headers": [(b"A", b"b")]})
    await settled(*layers)
    assert socket.delivered == [{"text": str(number)} for number in range(50)]
    assert request.delivered == [{"status": 200, "content": b"1", "headers": [[b"A", b"b"]]}]
    assert (one.lost_replies, two.lost_replies) == (0, 0)
    one.detach(socket)
    one.detach(request)


async def test_a_reply_to_who_is_gone_is_dropped_and_counted(layers: tuple[RedisLayer, RedisLayer]) -> None:
    one, two = layers
    socket = FakeEndpoint(one)
    name = socket.channel.name
    one.detach(socket)
    await two.send(name, {"text": "a"})  # its process is there
    await settled(*layers)
    assert (one.lost_replies, two.lost_replies) == (1, 0)
    with pytest.raises(ConnectionClosed, match="no connection has the reply channel"):
        await two.send("websocket.send.0123456789ab!1", {"text": "a"})
    assert (one.lost_replies, two.lost_replies) == (1, 1)
    with pytest.raises(ConnectionClosed):
        await one.send(name, {"text": "a"})
    assert one.lost_replies == 1


@pytest.mark.parametrize(
    ("kind", "content"),
    [(True, {"unknown": 1}), (True, {}), (True, {"text": 5}), (False, {"text": "a"}), (False, {"status": 5})],
)
async def test_a_reply_that_none_could_take_is_refused_where_it_is_sent(
    layers: tuple[RedisLayer, RedisLayer], kind: bool, content: dict[str, Any]
) -> None:
    one, two = layers
    endpoint = FakeEndpoint(one, socket=kind)
    with pytest.raises(ValueError, match=r"reply|text takes"):
        await two.send(endpoint.channel.name, content)
    one.detach(endpoint)


async def test_a_reply_that_this_connection_can_t_take_is_logged_and_disturbs_nobody(
    layers: tuple[RedisLayer, RedisLayer], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = layers
    endpoint, other = FakeEndpoint(one), FakeEndpoint(one)

    async def deliver(content: dict[str, Any]) -> None:
        if content["text"] == "crash":
            raise ZeroDivisionError
        if content["text"] == "gone":
            raise ConnectionClosed(1006, "")
        await FakeEndpoint.deliver(endpoint, content)

    endpoint.deliver = deliver  # type: ignore[method-assign]
    for text in ("1", "wrong", "crash", "gone", "2"):
        await two.send(endpoint.channel.name, {"text": text})
        await two.send(other.channel.name, {"text": text * 2})
    await settled(*layers)
    assert endpoint.delivered == [{"text": "1"}, {"text": "2"}]
    assert len(other.delivered) == 5
    assert one.lost_replies == 3
    assert "was refused: wrong" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    one.detach(endpoint)
    one.detach(other)


async def test_replies_that_wait_for_one_connection_are_bounded_and_hold_up_no_other(
    layers: tuple[RedisLayer, RedisLayer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inbox, "WAITING_BYTES", 5000)
    one, two = layers
    stuck, other = FakeEndpoint(one), FakeEndpoint(one)
    free = trio.Event()
    got: list[str] = []

    async def deliver(content: dict[str, Any]) -> None:
        await free.wait()
        got.append(content["text"][:2])

    stuck.deliver = deliver  # type: ignore[method-assign]
    for number in range(20):
        await two.send(stuck.channel.name, {"text": f"{number:02}" + "x" * 1000})
        await two.send(other.channel.name, {"text": str(number)})
    await settled(*layers)
    assert len(other.delivered) == 20
    assert 10 < one.lost_replies < 17
    assert caplog.text.count("others are dropped") == 1
    free.set()
    await wait_all_tasks_blocked()
    assert got == [f"{number:02}" for number in range(20 - one.lost_replies)]
    one.detach(stuck)
    one.detach(other)


async def test_what_waits_for_who_goes_is_dropped_and_counted(layers: tuple[RedisLayer, RedisLayer]) -> None:
    one, two = layers
    endpoint = FakeEndpoint(one)
    free = trio.Event()

    async def deliver(content: dict[str, Any]) -> None:
        await free.wait()

    endpoint.deliver = deliver  # type: ignore[method-assign]
    for number in range(3):
        await two.send(endpoint.channel.name, {"text": str(number)})
    await settled(*layers)
    one.detach(endpoint)
    free.set()
    await wait_all_tasks_blocked()
    assert one.lost_replies == 2


async def test_another_process_s_connection_may_be_put_into_a_group(
    layers: tuple[RedisLayer, RedisLayer],
) -> None:
    one, two = layers
    member = FakeEndpoint(one)
    await Group("room", two).add(member.channel.name)
    assert await Group("room", two).members() == [member.channel.name]
    await Group("room", two).send({"text": "a"})
    await Group("room", two).discard(member.channel.name)
    await Group("room", two).send({"text": "b"})
    await settled(*layers)
    assert member.frames == [encode("a")]
    one.detach(member)
    await Group("room", two).add(member.channel.name)  # gone by now
    await Group("room", two).discard(member.channel.name)
    await Group("room", two).add("websocket.send.0123456789ab!1")
    assert await Group("room", two).members() == []


async def test_a_question_that_fails_says_so(
    layers: tuple[RedisLayer, RedisLayer], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = layers
    with pytest.raises(LayerUnavailable, match="KeyError"):
        await two._inbox.ask(one._prefix, "never heard of")
    assert "asked 'never heard of'" in caplog.text

    async def unavailable() -> None:
        raise LayerUnavailable("not now")

    one._inbox._questions["later"] = unavailable  # type: ignore[index]
    with pytest.raises(LayerUnavailable, match=r"^not now"):
        await two._inbox.ask(one._prefix, "later")


async def test_a_process_that_is_stuck_is_left_out_of_what_all_are_asked(
    layers: tuple[RedisLayer, RedisLayer], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = layers
    member = FakeEndpoint(two)
    await Group("room", two).add(member.channel)
    two.engine.timeout = 0.2

    async def stuck(group: str) -> None:
        await trio.sleep_forever()

    one._inbox._questions["members"] = stuck  # type: ignore[index]
    with trio.fail_after(10):
        assert await Group("room", two).members() == [member.channel.name]
    assert "1 of 2 processes answered 'members' within 0.2 s" in caplog.text
    with pytest.raises(LayerUnavailable, match=r"did not answer within 0.2 s"), trio.fail_after(10):
        await two._inbox.ask(one._prefix, "members", "room")
    one._inbox._questions["members"] = one._groups.local_names  # type: ignore[index]
    two.detach(member)


async def test_programs_on_other_databases_or_prefixes_do_not_meet(tmp_path: Path) -> None:
    with engine() as process:
        layers = [
            RedisLayer(process.url),
            RedisLayer(process.url, prefix="other"),
            RedisLayer(process.url + "?db=1"),
        ]
        async with layers[0].connected(), layers[1].connected(), layers[2].connected():
            members = [FakeEndpoint(layer) for layer in layers]
            for layer, member in zip(layers, members, strict=True):
                await Group("room", layer).add(member.channel)
            await Group("room", layers[0]).send({"text": "a"})
            assert await Group("room", layers[1]).members() == [members[1].channel.name]
            await settled(*layers)
            assert [len(each.frames) for each in members] == [1, 0, 0]
            for layer, member in zip(layers, members, strict=True):
                layer.detach(member)

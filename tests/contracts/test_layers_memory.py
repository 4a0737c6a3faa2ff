"""The in-memory layer: the contract, and what only it promises."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import nullcontext

import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from triochan import Channel, Group, Settings
from triochan.exceptions import ChannelFull
from triochan.layers import MemoryLayer, running_layer
from triochan.test.layers import SETTINGS, FakeEndpoint, LayerContract


class TestMemoryLayer(LayerContract):
    @pytest.fixture
    async def layer(self) -> AsyncIterator[MemoryLayer]:
        layer = MemoryLayer(SETTINGS)
        async with layer.running():
            yield layer
        # Whatever a test did, nothing of it may stay.
        assert not layer._endpoints
        assert not layer.groups._groups.keys() - {Channel("jobs"), Channel("log")}

    async def test_connections_and_named_channels_stand_in_one_order(self, layer: MemoryLayer) -> None:
        first, second = FakeEndpoint(layer), FakeEndpoint(layer)
        for each in (second.channel, "jobs", first.channel):
            await Group("room").add(each)
        assert await Group("room").members() == [second.channel.name, "jobs", first.channel.name]
        await Group("room").discard("jobs")
        layer.detach(first)
        layer.detach(second)

    async def test_sending_never_waits(self, layer: MemoryLayer) -> None:
        member = FakeEndpoint(layer)
        await Group("room").add(member.channel)
        await Group("room").add("small.jobs")
        with assert_no_checkpoints():
            for number in range(5):
                await Group("room").send({"text": str(number)})
            await Channel("jobs").send({})
            with pytest.raises(ChannelFull):
                await Channel("small.jobs").send({})
        await Group("room").discard("small.jobs")
        layer.detach(member)

    async def test_what_a_group_send_finds_no_place_for_is_counted_and_logged(
        self, layer: MemoryLayer, caplog: pytest.LogCaptureFixture
    ) -> None:
        await Group("room").add("small.jobs")
        for number in range(5):
            await Group("room").send({"number": number})
        assert layer.dropped == 2
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
        assert "'small.jobs' is full" in caplog.text
        await Group("room").discard("small.jobs")

    async def test_what_expired_is_counted_and_logged(
        self, layer: MemoryLayer, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        for number in range(3):
            await Channel("small.brief").send({"number": number})
        mock_clock.jump(6)
        await Channel("small.brief").send({"number": 3})
        assert layer.expired == 3
        assert await layer.receive("small.brief") == {"number": 3}
        assert layer.expired == 3
        assert caplog.text.count("expired before a consumer took it") == 3
        assert "{'number': 2}" in caplog.text

    async def test_a_waiting_receiver_s_message_takes_no_room(
        self, layer: MemoryLayer, nursery: trio.Nursery
    ) -> None:
        received: list[int] = []

        async def receive() -> None:
            while True:
                received.append((await layer.receive("lean.jobs"))["number"])

        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        for number in range(4):  # the first goes to the receiver, the second fills the channel
            with pytest.raises(ChannelFull) if number > 1 else nullcontext():
                await Channel("lean.jobs").send({"number": number, "text": "x" * 1000})
        assert layer.waiting("lean.jobs") == 1
        await wait_all_tasks_blocked()
        assert (received, layer.waiting("lean.jobs")) == ([0, 1], 0)
        await Channel("lean.jobs").send({"number": 4})
        await wait_all_tasks_blocked()
        assert received == [0, 1, 4]
        nursery.cancel_scope.cancel()

    async def test_what_has_expired_makes_room_for_bytes(
        self, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        layer = MemoryLayer(Settings(channel_bytes=1000, channel_expiry=5))
        await Channel("jobs", layer).send({"text": "x" * 2000})
        mock_clock.jump(6)
        await Channel("jobs", layer).send({"number": 1})
        assert (layer.waiting("jobs"), layer.expired) == (1, 1)
        assert re.search("expired before a consumer took it: 2,0.. bytes", caplog.text)

    async def test_a_send_to_a_full_channel_looks_at_its_first_message_alone(self) -> None:
        layer = MemoryLayer(Settings(channel_capacity=20_000))
        for number in range(20_000):
            await Channel("jobs", layer).send({"number": number})
        started = time.thread_time()
        for _ in range(1000):
            with pytest.raises(ChannelFull):
                await Channel("jobs", layer).send({})
        assert time.thread_time() - started < 1.0  # a look at each would take ten times as long
        assert await layer.receive("jobs") == {"number": 0}

    async def test_members_of_a_group_get_contents_of_their_own(self, layer: MemoryLayer) -> None:
        for name in ("one", "two"):
            await Group("room").add(name)
        await Group("room").send({"list": []})
        (await layer.receive("one"))["list"].append(1)
        assert await layer.receive("two") == {"list": []}
        for name in ("one", "two"):
            await Group("room").discard(name)

    async def test_groups_see_messages_in_one_order(self, layer: MemoryLayer) -> None:
        one, two = FakeEndpoint(layer), FakeEndpoint(layer)
        for each in (one, two):
            await Group("room").add(each.channel)
        for number in range(10):
            await Group("room").send({"text": str(number)})
        assert one.frames == two.frames
        for each in (one, two):
            layer.detach(each)

    async def test_empty_groups_cost_nothing(self, layer: MemoryLayer) -> None:
        member = FakeEndpoint(layer)
        for number in range(100):
            await Group(f"room-{number}").add(member.channel)
        assert len(layer.groups) == 100
        layer.detach(member)
        assert len(layer.groups) == 0


async def test_it_serves_only_while_it_runs() -> None:
    layer = MemoryLayer()
    assert running_layer() is None
    async with layer.running():
        assert running_layer() is layer
    assert running_layer() is None


async def test_one_given_by_hand_needs_not_run() -> None:
    one, two = MemoryLayer(), MemoryLayer()
    await Channel("jobs", one).send({"to": 1})
    await Channel("jobs", two).send({"to": 2})
    assert await one.receive("jobs") == {"to": 1}
    assert await two.receive("jobs") == {"to": 2}
    member = FakeEndpoint(one)
    await Group("room", one).add(member.channel)
    assert await Group("room", one).members() == [member.channel.name]
    assert await Group("room", two).members() == []


async def test_one_connection_has_its_share_of_a_channel(autojump_clock: MockClock) -> None:
    layer = MemoryLayer(Settings(channel_capacity=5, channel_share=2))
    async with layer.running():
        one, two = "websocket.send.a!1", "websocket.send.a!2"
        for number in range(2):
            await layer.send("jobs", {"reply_channel": one, "number": number})
        for _ in range(2):
            with pytest.raises(
                ChannelFull, match=r"2 messages of this connection wait in it.*Settings\.channel_share"
            ) as error:
                await layer.send("jobs", {"reply_channel": one})
        assert error.value.share == 2
        await layer.send("others", {"reply_channel": one})  # a channel's share is of that channel
        for number in range(2):
            await layer.send("jobs", {"reply_channel": two, "number": number})
        await layer.send("jobs", {"number": 4})  # who names none has no share
        assert (await layer.receive("jobs"))["reply_channel"] == one
        await layer.send("jobs", {"reply_channel": one})
        with pytest.raises(ChannelFull, match="channel_capacity"):
            await layer.send("jobs", {})
        await trio.sleep(100)  # what has expired counts no more
        for _ in range(2):
            await layer.send("jobs", {"reply_channel": one})


async def test_nothing_is_kept_for_groups_that_nobody_is_in() -> None:
    layer = MemoryLayer()
    async with layer.running():
        for index in range(100):
            await layer.group_send(f"room-{index}", {"text": "to nobody"})
            await layer.group_add(f"left-{index}", "named")
            await layer.group_send(f"left-{index}", {"key": index})
            await layer.group_discard(f"left-{index}", "named")
            await layer.group_send(f"left-{index}", {"text": "to nobody any more"})
        assert (len(layer._fan_out._fans), len(layer.groups)) == (0, 0)

"""The contract of a channel layer (:class:`triochan.layers.ChannelLayer`) as tests, for a layer of your own.

It needs pytest and pytest-trio, and nothing else in triochan imports it. In a module of tests::

    from triochan.test.layers import SETTINGS, LayerContract

    class TestMyLayer(LayerContract):
        @pytest.fixture
        async def layer(self):
            layer = MyLayer(SETTINGS)
            async with layer.running():
                yield layer

A layer whose messages come from elsewhere overrides :meth:`LayerContract.settled`; one whose time is not Trio's
overrides the fixtures ``clock``, by None, and ``elapse``. With
``pytest.register_assert_rewrite("triochan.test.layers")`` in a ``conftest.py``, failing assertions show their values.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from ..exceptions import ChannelFull, ConnectionClosed
from ..layers import Channel, ChannelLayer, Group, current_layer
from ..running import Local
from ..settings import Settings
from ..wire.frames import encode
from ..wire.outbox import Flush

SETTINGS = Settings(
    channel_capacity={"small.*": 3, "*": 100},
    channel_bytes={"lean.*": 1000, "*": 2**24},
    channel_expiry={"brief.*": 5.0, "*.brief": 5.0, "*": 60.0},
)

Elapse = Callable[[float], Awaitable[None]]


class FakeOutbox:
    """The outbox of a connection whose peer does not read: it takes frames and never waits."""

    direct = None
    agreement = None
    history = b""

    def __init__(self) -> None:
        self.flush = Flush()
        self.frames: list[bytes] = []

    def offer(self, frame: bytes) -> None:
        self.frames.append(frame)

    def joins(self, batch: object) -> bool:
        return False


class FakeEndpoint:
    """What stands behind a reply channel: a connection where ``socket``, else a waiting HTTP request."""

    close_code: int | None = None
    close_reason = ""

    def __init__(self, layer: ChannelLayer, *, socket: bool = True) -> None:
        self.outbox: Any = FakeOutbox() if socket else None
        self.delivered: list[dict[str, Any]] = []
        self.at_once: list[dict[str, Any]] = []
        self.local = Local()
        self.channel = layer.attach("websocket.send" if socket else "http.response", self)

    async def deliver(self, content: dict[str, Any], /) -> None:
        if content == {"text": "wrong"}:
            raise ValueError("wrong")
        self.delivered.append(content)

    def try_deliver(self, content: dict[str, Any], /) -> bool:
        return False

    def deliver_nowait(self, content: dict[str, Any], /) -> None:
        self.at_once.append(content)

    @property
    def frames(self) -> list[bytes]:
        return list(self.outbox.frames)


class LayerContract:
    """Every test here holds for every layer."""

    async def settled(self, layer: ChannelLayer) -> None:
        """Let what was sent arrive; a layer in memory has nothing to wait for."""
        await wait_all_tasks_blocked()

    @pytest.fixture
    def clock(self) -> MockClock | None:
        """The clock that a test runs by; None where the layer's time is not Trio's."""
        return MockClock()

    @pytest.fixture
    def elapse(self, clock: MockClock | None) -> Elapse:
        """Let time pass."""

        async def jump(seconds: float) -> None:
            assert clock is not None
            clock.jump(seconds)
            await wait_all_tasks_blocked()

        return jump

    # -- named channels

    async def test_what_is_sent_is_received(self, layer: ChannelLayer) -> None:
        content = {"text": "é", "number": 1, "nested": {"list": [1, None, True, 2.5]}}
        await Channel("jobs").send(content)
        assert await layer.receive("jobs") == content

    async def test_in_the_order_in_which_it_was_sent(self, layer: ChannelLayer) -> None:
        for number in range(20):
            await Channel("jobs").send({"number": number})
        assert [(await layer.receive("jobs"))["number"] for _ in range(20)] == list(range(20))

    async def test_channels_do_not_mix(self, layer: ChannelLayer) -> None:
        await Channel("one").send({"to": "one"})
        await Channel("two").send({"to": "two"})
        await Channel("one.more").send({"to": "one.more"})
        for name in ("two", "one.more", "one"):
            assert await layer.receive(name) == {"to": name}

    async def test_the_receiver_s_content_is_its_own(self, layer: ChannelLayer) -> None:
        content: dict[str, Any] = {"nested": {"list": [1]}}
        await Channel("jobs").send(content)
        content["nested"]["list"].append(2)
        content["later"] = True
        received = await layer.receive("jobs")
        assert received == {"nested": {"list": [1]}}
        received["nested"]["list"].append(3)
        assert content["nested"]["list"] == [1, 2]

    async def test_a_receiver_waits_for_what_comes(self, layer: ChannelLayer, nursery: trio.Nursery) -> None:
        received: list[dict[str, Any]] = []

        async def receive() -> None:
            received.append(await layer.receive("jobs"))

        nursery.start_soon(receive)
        await self.settled(layer)
        assert received == []
        await Channel("jobs").send({"a": 1})
        await self.settled(layer)
        assert received == [{"a": 1}]

    async def test_of_several_receivers_each_message_goes_to_one(
        self, layer: ChannelLayer, nursery: trio.Nursery
    ) -> None:
        received: list[tuple[int, int]] = []

        async def receive(worker: int) -> None:
            while True:
                received.append((worker, (await layer.receive("jobs"))["number"]))

        for worker in range(3):
            nursery.start_soon(receive, worker)
        await self.settled(layer)
        for number in range(30):
            await Channel("jobs").send({"number": number})
            if number % 3 == 2:
                await self.settled(layer)
        await self.settled(layer)
        assert sorted(number for _, number in received) == list(range(30))
        assert {worker for worker, _ in received} == {0, 1, 2}
        nursery.cancel_scope.cancel()

    async def test_a_receiver_that_is_cancelled_takes_nothing_along(
        self, layer: ChannelLayer, nursery: trio.Nursery
    ) -> None:
        scope = trio.CancelScope()

        async def receive() -> None:
            with scope:
                await layer.receive("jobs")

        nursery.start_soon(receive)
        await self.settled(layer)
        scope.cancel()
        await self.settled(layer)
        await Channel("jobs").send({"a": 1})
        assert await layer.receive("jobs") == {"a": 1}

    async def test_receiving_is_a_checkpoint(self, layer: ChannelLayer) -> None:
        await Channel("jobs").send({"a": 1})
        with trio.testing.assert_checkpoints():
            await layer.receive("jobs")

    async def test_a_full_channel_says_so_and_loses_nothing(self, layer: ChannelLayer) -> None:
        for number in range(3):
            await Channel("small.jobs").send({"number": number})
        for _ in range(2):
            with pytest.raises(ChannelFull) as caught:
                await Channel("small.jobs").send({"number": 3})
            assert (caught.value.channel, caught.value.capacity) == ("small.jobs", 3)
        assert [(await layer.receive("small.jobs"))["number"] for _ in range(3)] == [0, 1, 2]
        await Channel("small.jobs").send({"number": 4})
        assert await layer.receive("small.jobs") == {"number": 4}

    async def test_channels_are_full_each_for_itself(self, layer: ChannelLayer) -> None:
        for _ in range(3):
            await Channel("small.one").send({})
        await Channel("small.two").send({"a": 1})
        assert await layer.receive("small.two") == {"a": 1}
        for _ in range(100):
            await Channel("other").send({})
        with pytest.raises(ChannelFull, match="100 messages"):
            await Channel("other").send({})

    async def test_a_channel_full_of_bytes_says_so_and_loses_nothing(self, layer: ChannelLayer) -> None:
        for number in range(2):
            await Channel("lean.jobs").send({"number": number, "text": "x" * 600})
        for _ in range(2):
            with pytest.raises(ChannelFull, match=r"1,000 bytes .* Settings\.channel_bytes"):
                await Channel("lean.jobs").send({"number": 2})
        assert (await layer.receive("lean.jobs"))["number"] == 0
        await Channel("lean.jobs").send({"number": 2})
        assert [(await layer.receive("lean.jobs"))["number"] for _ in range(2)] == [1, 2]

    async def test_one_message_larger_than_that_goes_through(self, layer: ChannelLayer) -> None:
        for _ in range(3):
            await Channel("lean.jobs").send({"text": "x" * 5000})
            assert await layer.receive("lean.jobs") == {"text": "x" * 5000}

    async def test_a_message_expires(
        self, layer: ChannelLayer, clock: MockClock | None, elapse: Elapse
    ) -> None:
        await Channel("brief.jobs").send({"number": 1})
        await elapse(4)
        await Channel("brief.jobs").send({"number": 2})
        await elapse(2)
        assert await layer.receive("brief.jobs") == {"number": 2}

    async def test_but_not_before_its_time(
        self, layer: ChannelLayer, clock: MockClock | None, elapse: Elapse
    ) -> None:
        await Channel("jobs").send({"number": 1})
        await elapse(59)
        assert await layer.receive("jobs") == {"number": 1}

    async def test_what_has_expired_takes_no_room(
        self, layer: ChannelLayer, clock: MockClock | None, elapse: Elapse
    ) -> None:
        for number in range(2):
            await Channel("small.brief").send({"number": number})
        await elapse(4)
        await Channel("small.brief").send({"number": 2})
        with pytest.raises(ChannelFull):
            await Channel("small.brief").send({"number": 3})
        await elapse(2)
        for number in (4, 5):
            await Channel("small.brief").send({"number": number})
        with pytest.raises(ChannelFull):
            await Channel("small.brief").send({"number": 6})
        assert [(await layer.receive("small.brief"))["number"] for _ in range(3)] == [2, 4, 5]

    async def test_a_channel_in_a_content_travels_by_its_name(self, layer: ChannelLayer) -> None:
        endpoint = FakeEndpoint(layer)
        await Channel("jobs").send({"reply_channel": endpoint.channel, "other": Channel("x")})
        assert await layer.receive("jobs") == {"reply_channel": endpoint.channel.name, "other": "x"}
        layer.detach(endpoint)

    @pytest.mark.parametrize("content", [None, "text", [1], b"x"])
    async def test_contents_are_dicts(self, layer: ChannelLayer, content: Any) -> None:
        endpoint = FakeEndpoint(layer)
        for send in (Channel("jobs").send, Group("room").send, endpoint.channel.send):
            with pytest.raises(TypeError, match="is a dict"):
                await send(content)
        layer.detach(endpoint)

    # -- reply channels

    async def test_a_reply_channel_reaches_its_endpoint(self, layer: ChannelLayer) -> None:
        one, two = FakeEndpoint(layer), FakeEndpoint(layer, socket=False)
        await one.channel.send({"text": "1"})
        await Channel(one.channel.name).send({"text": "2"})
        await layer.reply_channel(one.channel.name).send({"text": "3"})
        await layer.send(two.channel.name, {"content": b"4"})
        assert one.delivered == [{"text": "1"}, {"text": "2"}, {"text": "3"}]
        assert two.delivered == [{"content": b"4"}]
        layer.detach(one)
        layer.detach(two)

    async def test_reply_channels_have_names_of_their_own(self, layer: ChannelLayer) -> None:
        endpoints = [FakeEndpoint(layer) for _ in range(50)]
        names = {each.channel.name for each in endpoints}
        assert len(names) == 50
        assert all(Channel(name).name.startswith("websocket.send.") for name in names)
        for each in endpoints:
            layer.detach(each)

    async def test_what_an_endpoint_says_of_a_reply_comes_out(self, layer: ChannelLayer) -> None:
        endpoint = FakeEndpoint(layer)
        for channel in (endpoint.channel, Channel(endpoint.channel.name)):
            with pytest.raises(ValueError, match="wrong"):
                await channel.send({"text": "wrong"})
        layer.detach(endpoint)

    async def test_nobody_s_reply_channel_is_closed(self, layer: ChannelLayer) -> None:
        endpoint = FakeEndpoint(layer)
        name = endpoint.channel.name
        layer.detach(endpoint)
        prefix = name.partition("!")[0]
        for gone in (name, f"{prefix}!ffff", "websocket.send.0123456789ab!1"):
            with pytest.raises(ConnectionClosed):
                await Channel(gone).send({"text": "a"})
            with pytest.raises(ConnectionClosed):
                await layer.reply_channel(gone).send({"text": "a"})
        assert endpoint.delivered == []

    # -- groups

    async def test_a_group_reaches_its_members_and_nobody_else(self, layer: ChannelLayer) -> None:
        members = [FakeEndpoint(layer) for _ in range(3)]
        stranger = FakeEndpoint(layer)
        for each in members:
            await Group("room").add(each.channel)
        await Group("other").add(stranger.channel)
        await Group("room").send({"text": "é"})
        await Group("room").send({"bytes": b"b"})
        await self.settled(layer)
        for each in members:
            assert each.frames == [encode("é"), encode(b"b")]
        assert stranger.frames == []
        for each in (*members, stranger):
            layer.detach(each)

    async def test_one_member_may_be_left_out(self, layer: ChannelLayer) -> None:
        members = [FakeEndpoint(layer) for _ in range(3)]
        stranger = FakeEndpoint(layer)
        for each in members:
            await Group("room").add(each.channel)
        await Group("room").send({"text": "a"}, exclude=members[1].channel)
        await Group("room").send({"text": "b"}, exclude=members[2].channel.name)
        await Group("room").send({"text": "c"}, exclude=stranger.channel)
        await Group("room").send({"text": "d"})
        await self.settled(layer)
        heard = ["abcd", "bcd", "acd"]
        for each, letters in zip(members, heard, strict=True):
            assert each.frames == [encode(letter) for letter in letters]
        for each in (*members, stranger):
            layer.detach(each)
        await Group("room").send({"text": "e"}, exclude=members[1].channel.name)  # gone by now

    async def test_a_named_channel_may_be_left_out(self, layer: ChannelLayer) -> None:
        await Group("work").add("jobs")
        await Group("work").add("others")
        await Group("work").send({"number": 1}, exclude="jobs")
        await Group("work").send({"number": 2})
        await self.settled(layer)
        assert await layer.receive("jobs") == {"number": 2}
        assert await layer.receive("others") == {"number": 1}
        for name in ("jobs", "others"):
            await Group("work").discard(name)

    @pytest.mark.parametrize("exclude", ["", "a b", 5])
    async def test_what_is_left_out_is_a_channel(self, layer: ChannelLayer, exclude: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="channel name"):
            await Group("room").send({"text": "a"}, exclude=exclude)

    async def test_the_frame_is_made_once(self, layer: ChannelLayer) -> None:
        members = [FakeEndpoint(layer) for _ in range(3)]
        for each in members:
            await Group("room").add(each.channel)
        await Group("room").send({"text": "x" * 200})
        await self.settled(layer)
        assert len({id(each.frames[0]) for each in members}) == 1
        for each in members:
            layer.detach(each)

    async def test_twice_is_once(self, layer: ChannelLayer) -> None:
        member = FakeEndpoint(layer)
        for channel in (member.channel, member.channel, member.channel.name, Channel(member.channel.name)):
            await Group("room").add(channel)
        assert await Group("room").members() == [member.channel.name]
        await Group("room").send({"text": "a"})
        await self.settled(layer)
        assert member.frames == [encode("a")]
        await Group("room").discard(member.channel.name)
        assert await Group("room").members() == []
        layer.detach(member)

    async def test_members_in_the_order_in_which_they_joined(self, layer: ChannelLayer) -> None:
        first, second = FakeEndpoint(layer), FakeEndpoint(layer)
        await Group("room").add(second.channel)
        await Group("room").add("jobs")
        await Group("room").add(first.channel)
        members = await Group("room").members()
        assert sorted(members) == sorted([second.channel.name, "jobs", first.channel.name])
        assert [each for each in members if "!" in each] == [second.channel.name, first.channel.name]
        await Group("room").discard("jobs")
        layer.detach(first)
        layer.detach(second)

    async def test_who_is_discarded_gets_nothing_more(self, layer: ChannelLayer) -> None:
        one, two = FakeEndpoint(layer), FakeEndpoint(layer)
        for each in (one, two):
            await Group("room").add(each.channel)
        await Group("room").discard(one.channel)
        await Group("room").discard(one.channel)
        await Group("empty").discard(one.channel)
        await Group("room").send({"text": "a"})
        await self.settled(layer)
        assert (one.frames, two.frames) == ([], [encode("a")])
        layer.detach(one)
        layer.detach(two)

    async def test_named_channels_may_be_members(self, layer: ChannelLayer) -> None:
        await Group("room").add("jobs")
        await Group("room").add(Channel("jobs"))
        await Group("room").add(Channel("log"))
        content = {"anything": {"nested": [1]}}
        await Group("room").send(content)
        content["anything"]["nested"].append(2)
        assert await layer.receive("jobs") == {"anything": {"nested": [1]}}
        assert await layer.receive("log") == {"anything": {"nested": [1]}}
        await Group("room").discard("jobs")
        assert await Group("room").members() == ["log"]
        await Group("room").discard("log")

    async def test_members_of_all_kinds(self, layer: ChannelLayer) -> None:
        socket, request = FakeEndpoint(layer), FakeEndpoint(layer, socket=False)
        for member in (socket.channel, request.channel, "jobs"):
            await Group("room").add(member)
        await Group("room").send({"text": "a"})
        await self.settled(layer)
        assert socket.frames == [encode("a")]
        assert request.at_once == [{"text": "a"}]
        assert await layer.receive("jobs") == {"text": "a"}
        await Group("room").discard("jobs")
        layer.detach(socket)
        layer.detach(request)

    async def test_a_group_may_close_its_members(self, layer: ChannelLayer) -> None:
        member = FakeEndpoint(layer)
        await Group("room").add(member.channel)
        await Group("room").send({"text": "bye", "close": 4000, "reason": "over"})
        await self.settled(layer)
        assert member.frames == [encode("bye")]
        assert member.at_once == [{"close": 4000, "reason": "over"}]
        layer.detach(member)

    @pytest.mark.parametrize(
        "content",
        [{}, {"text": "a", "bytes": b"b"}, {"unknown": 1}, {"accept": True}, {"accept": False}, {"text": 5}],
    )
    async def test_what_no_connection_could_take_is_refused_and_reaches_none(
        self, layer: ChannelLayer, content: dict[str, Any]
    ) -> None:
        member = FakeEndpoint(layer)
        await Group("room").add("jobs")
        await Group("room").add(member.channel)
        with pytest.raises(ValueError):
            await Group("room").send(content)
        await self.settled(layer)
        assert (member.frames, member.at_once) == ([], [])
        await Channel("jobs").send({"the": "first"})
        assert await layer.receive("jobs") == {"the": "first"}
        await Group("room").discard("jobs")
        layer.detach(member)

    async def test_a_full_member_fails_nobody(self, layer: ChannelLayer) -> None:
        member = FakeEndpoint(layer)
        await Group("room").add("small.jobs")
        await Group("room").add(member.channel)
        for number in range(5):
            await Group("room").send({"text": str(number)})
        await self.settled(layer)
        assert len(member.frames) == 5
        assert [(await layer.receive("small.jobs"))["text"] for _ in range(3)] == ["0", "1", "2"]
        await Group("room").discard("small.jobs")
        layer.detach(member)

    async def test_nobody_there_is_no_error(self, layer: ChannelLayer) -> None:
        await Group("nobody").send({"text": "a"})
        assert await Group("nobody").members() == []

    async def test_a_connection_s_memberships_end_with_it(self, layer: ChannelLayer) -> None:
        one, two = FakeEndpoint(layer), FakeEndpoint(layer)
        for name in ("room", "other", "third"):
            await Group(name).add(one.channel)
        await Group("room").add(two.channel)
        layer.detach(one)
        layer.detach(one)
        for name in ("room", "other", "third"):
            await Group(name).send({"text": "a"})
        await self.settled(layer)
        assert one.frames == []
        assert two.frames == [encode("a")]
        assert await Group("room").members() == [two.channel.name]
        assert await Group("other").members() == []
        layer.detach(two)

    async def test_a_connection_that_is_gone_joins_nothing(self, layer: ChannelLayer) -> None:
        member = FakeEndpoint(layer)
        layer.detach(member)
        await Group("room").add(member.channel)
        await Group("room").discard(member.channel)
        await Group("room").add("websocket.send.0123456789ab!1")
        await Group("room").send({"text": "a"})
        await self.settled(layer)
        assert member.channel.name not in await Group("room").members()
        assert member.frames == []

    async def test_detaching_never_waits(self, layer: ChannelLayer) -> None:
        member = FakeEndpoint(layer)
        await Group("room").add(member.channel)
        with assert_no_checkpoints():
            layer.detach(member)

    @pytest.mark.parametrize("name", ["", "a b", "é", "a!b", "x" * 101, "a\n"])
    async def test_names_are_checked(self, layer: ChannelLayer, name: str) -> None:
        with pytest.raises(ValueError, match="group name"):
            await Group(name).send({"text": "a"})
        if "!" not in name:
            with pytest.raises(ValueError, match="channel name"):
                await Channel(name).send({})
            with pytest.raises(ValueError, match="channel name"):
                await Group("room").add(name)

    # -- life

    async def test_it_is_the_one_that_channels_and_groups_find(self, layer: ChannelLayer) -> None:
        assert current_layer() is layer
        assert Group("a").layer is layer

    async def test_another_cannot_run_beside_it(self, layer: ChannelLayer) -> None:
        with pytest.raises(RuntimeError, match="serves this Trio run already"):
            async with layer.running():
                pass
        assert current_layer() is layer

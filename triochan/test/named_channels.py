"""The contract of named channels beyond the plain ones, as tests: delays, messages that are acknowledged, dead letters,
leases. See :mod:`triochan.test.layers`.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ..exceptions import ChannelFull
from ..layers import Channel, ChannelLayer, Delivery
from .layers import Elapse, FakeEndpoint, LayerTests

SECONDS = 5.0
"""Of real time that a test waits at most."""


async def take(layer: ChannelLayer, channel: str = "jobs", *, durable: bool = True) -> Delivery:
    """The next message, which is there."""
    with trio.fail_after(SECONDS):
        return await layer.receive(channel, durable=durable)


class NamedChannelContract(LayerTests):
    """Every test here holds for every layer."""

    async def _nothing(self, layer: ChannelLayer, channel: str = "jobs", *, durable: bool = True) -> None:
        """Nobody would get anything now."""
        got: list[Delivery] = []

        async def receive() -> None:
            got.append(await layer.receive(channel, durable=durable))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await self.settled(layer)
            nursery.cancel_scope.cancel()
        assert got == []

    # -- delays

    async def test_a_message_may_be_put_off(
        self, layer: ChannelLayer, clock: MockClock | None, elapse: Elapse
    ) -> None:
        await Channel("jobs").send({"number": 1}, delay=30)
        await Channel("jobs").send({"number": 2}, delay=10.5)
        await Channel("jobs").send({"number": 3})
        assert await layer.waiting("jobs") == 3
        assert (await take(layer, durable=False)).content == {"number": 3}
        await self._nothing(layer, durable=False)
        assert await layer.waiting("jobs") == 2
        await elapse(11)
        assert (await take(layer, durable=False)).content == {"number": 2}
        await self._nothing(layer, durable=False)
        await elapse(20)
        assert (await take(layer, durable=False)).content == {"number": 1}
        assert await layer.waiting("jobs") == 0

    async def test_who_waits_is_woken_when_it_is_due(
        self, layer: ChannelLayer, clock: MockClock | None, elapse: Elapse, nursery: trio.Nursery
    ) -> None:
        got: list[int] = []

        async def receive() -> None:
            while True:
                got.append((await layer.receive("jobs")).content["number"])

        nursery.start_soon(receive)
        await elapse(0)
        await Channel("jobs").send({"number": 2}, delay=20)
        await elapse(0)
        await Channel("jobs").send({"number": 1}, delay=10)
        await elapse(9)
        assert got == []
        await elapse(2)
        assert got == [1]
        await elapse(10)
        assert got == [1, 2]
        nursery.cancel_scope.cancel()

    async def test_what_is_put_off_takes_room(
        self, layer: ChannelLayer, clock: MockClock | None, elapse: Elapse
    ) -> None:
        for number in range(3):
            await Channel("small.jobs").send({"number": number}, delay=10)
        for delay in (0, 10):
            with pytest.raises(ChannelFull, match="3 messages"):
                await Channel("small.jobs").send({}, delay=delay)
        await elapse(11)
        with pytest.raises(ChannelFull):
            await Channel("small.jobs").send({})
        assert [(await take(layer, "small.jobs")).content["number"] for _ in range(3)] == [0, 1, 2]
        await Channel("small.jobs").send({})

    async def test_what_is_put_off_expires_as_if_it_were_sent_when_it_is_due(
        self, layer: ChannelLayer, clock: MockClock | None, elapse: Elapse
    ) -> None:
        await Channel("brief.jobs").send({"number": 1}, delay=100)
        await Channel("brief.jobs").send({"number": 2}, delay=98)
        await elapse(104)
        assert (await take(layer, "brief.jobs", durable=False)).content == {"number": 1}
        await self._nothing(layer, "brief.jobs", durable=False)
        assert await layer.waiting("brief.jobs") == 0

    @pytest.mark.parametrize(
        "delay", [-1, float("nan"), float("inf"), 1e9, "10", None, True, False, [1], 10**400]
    )
    async def test_a_delay_is_a_number_of_seconds(self, layer: ChannelLayer, delay: Any) -> None:
        with pytest.raises(ValueError, match="delay is "):
            await Channel("jobs").send({}, delay=delay)
        assert await layer.waiting("jobs") == 0

    async def test_a_reply_cant_be_put_off(self, layer: ChannelLayer) -> None:
        endpoint = FakeEndpoint(layer)
        for channel in (endpoint.channel, Channel(endpoint.channel.name), Channel("websocket.send.x!1")):
            with pytest.raises(ValueError, match="a reply can't be put off"):
                await channel.send({"text": "a"}, delay=1)
        assert endpoint.delivered == []
        layer.detach(endpoint)

    # -- at most once

    async def test_what_is_taken_at_most_once_is_gone(
        self, layer: ChannelLayer, clock: MockClock | None, elapse: Elapse
    ) -> None:
        for _ in range(2):
            await Channel("jobs").send({"a": 1})
        for act in ("acknowledge", "give_back"):
            delivery = await take(layer, durable=False)
            assert delivery.attempt == 1
            await getattr(delivery, act)()
        await self._nothing(layer, durable=False)
        await elapse(100)
        assert await layer.waiting("jobs") == 0
        assert await layer.dead_letters() == []

    # -- at least once

    async def test_what_is_acknowledged_is_gone(
        self, layer: ChannelLayer, clock: MockClock | None, elapse: Elapse
    ) -> None:
        await Channel("jobs").send({"a": 1})
        delivery = await take(layer)
        assert (delivery.content, delivery.attempt) == ({"a": 1}, 1)
        assert await layer.waiting("jobs") == 0
        await delivery.acknowledge()
        await delivery.acknowledge()
        await delivery.give_back("too late")
        await delivery.give_back()
        await elapse(100)
        await self._nothing(layer)
        assert await layer.dead_letters() == []

    async def test_what_was_cut_off_comes_again_at_once(
        self, layer: ChannelLayer, clock: MockClock | None
    ) -> None:
        await Channel("jobs").send({"a": 1})
        for _ in range(10):  # that is nobody's failure
            delivery = await take(layer)
            assert (delivery.content, delivery.attempt) == ({"a": 1}, 1)
            await delivery.give_back()
        await (await take(layer)).acknowledge()
        assert await layer.waiting("jobs") == 0

    async def test_what_failed_comes_again_after_a_while(
        self, layer: ChannelLayer, clock: MockClock | None, elapse: Elapse
    ) -> None:
        await Channel("jobs").send({"a": [1]})
        delivery = await take(layer)
        delivery.content["a"].append(2)
        await delivery.give_back("ValueError: it")
        assert await layer.waiting("jobs") == 1
        await self._nothing(layer)
        await elapse(2.1)
        delivery = await take(layer)
        assert (delivery.content, delivery.attempt) == ({"a": [1]}, 2)
        await delivery.give_back("again")
        await elapse(2.1)
        await self._nothing(layer)
        await elapse(2.1)
        delivery = await take(layer)
        assert delivery.attempt == 3
        await delivery.acknowledge()
        await elapse(100)
        await self._nothing(layer)

    async def test_what_fails_too_often_is_a_dead_letter(
        self, layer: ChannelLayer, clock: MockClock | None, elapse: Elapse
    ) -> None:
        await Channel("jobs").send({"a": b"1"})
        for attempt in range(1, 4):
            delivery = await take(layer)
            assert delivery.attempt == attempt
            await delivery.give_back(f"ValueError: é{attempt}")
            await elapse(100)
        await self._nothing(layer)
        assert await layer.waiting("jobs") == 0
        [letter] = await layer.dead_letters()
        assert (letter.channel, letter.content, letter.attempts, letter.error) == (
            "jobs",
            {"a": b"1"},
            3,
            "ValueError: é3",
        )
        assert letter.id.startswith("jobs/")
        assert await layer.dead_letters("jobs") == [letter]
        assert await layer.dead_letters("others") == []

        await layer.send_again(letter.id)
        assert await layer.dead_letters() == []
        delivery = await take(layer)
        assert (delivery.content, delivery.attempt) == ({"a": b"1"}, 1)
        await delivery.acknowledge()

    async def _dead(self, layer: ChannelLayer, elapse: Elapse, channel: str, numbers: range) -> None:
        for number in numbers:
            await Channel(channel).send({"number": number})
            for _ in range(3):
                await (await take(layer, channel)).give_back("it")
                await elapse(10)

    async def test_dead_letters_are_deleted_one_by_one(
        self, layer: ChannelLayer, clock: MockClock | None, elapse: Elapse
    ) -> None:
        await self._dead(layer, elapse, "one", range(2))
        await self._dead(layer, elapse, "two", range(1))
        first, second, other = await layer.dead_letters()
        await layer.delete_dead_letter(first.id)
        assert await layer.dead_letters() == [second, other]
        gone = [first.id, "one", "one/", "/1", "", "jobs/1-0", "one/x", "one/²-0", "one/1", "one/-"]
        for id in gone:
            for act in (layer.delete_dead_letter, layer.send_again):
                with pytest.raises(LookupError, match="no dead letter"):
                    await act(id)
        await layer.delete_dead_letter(other.id)
        assert await layer.dead_letters() == [second]

    async def test_a_channel_keeps_so_many_dead_letters(
        self, layer: ChannelLayer, clock: MockClock | None, elapse: Elapse
    ) -> None:
        await self._dead(layer, elapse, "jobs", range(7))
        assert [each.content["number"] for each in await layer.dead_letters()] == [2, 3, 4, 5, 6]

    async def test_a_full_channel_takes_no_dead_letter(
        self, layer: ChannelLayer, clock: MockClock | None, elapse: Elapse
    ) -> None:
        await self._dead(layer, elapse, "small.jobs", range(1))
        for _ in range(3):
            await Channel("small.jobs").send({})
        [letter] = await layer.dead_letters()
        with pytest.raises(ChannelFull):
            await layer.send_again(letter.id)
        assert await layer.dead_letters() == [letter]

    async def test_what_comes_back_finds_room(
        self, layer: ChannelLayer, clock: MockClock | None, elapse: Elapse
    ) -> None:
        for number in range(3):
            await Channel("small.jobs").send({"number": number})
        taken = [await take(layer, "small.jobs") for _ in range(3)]
        for number in range(3, 6):  # what is handled takes none
            await Channel("small.jobs").send({"number": number})
        await taken[0].give_back()
        await taken[1].give_back("it")
        assert await layer.waiting("small.jobs") == 5
        await elapse(3)
        numbers = {(await take(layer, "small.jobs")).content["number"] for _ in range(5)}
        assert numbers == {0, 1, 3, 4, 5}
        for number in range(3):
            await Channel("small.jobs").send({"number": number})
        with pytest.raises(ChannelFull):
            await Channel("small.jobs").send({})

    async def test_nothing_that_is_acknowledged_expires(
        self, layer: ChannelLayer, clock: MockClock | None, elapse: Elapse
    ) -> None:
        layer.serve(["small.brief"], ["small.brief"])
        await elapse(0)
        for number in range(2):
            await Channel("small.brief").send({"number": number})
        await Channel("small.brief").send({"number": 2}, delay=1)
        await elapse(1000)
        with pytest.raises(ChannelFull):
            await Channel("small.brief").send({})
        for number in range(3):
            delivery = await take(layer, "small.brief")
            assert delivery.content == {"number": number}
            await delivery.acknowledge()

    async def test_a_receiver_of_these_that_is_cancelled_takes_nothing_along(
        self, layer: ChannelLayer, clock: MockClock | None
    ) -> None:
        await self._nothing(layer)
        await Channel("jobs").send({"a": 1})
        delivery = await take(layer)
        assert (delivery.content, delivery.attempt) == ({"a": 1}, 1)

    async def test_a_share_counts_what_comes_back(self, layer: ChannelLayer, clock: MockClock | None) -> None:
        for _ in range(50):
            await layer.send("jobs", {"reply_channel": "websocket.send.a!1"})
        with pytest.raises(ChannelFull, match="of this connection"):
            await layer.send("jobs", {"reply_channel": "websocket.send.a!1"})
        delivery = await take(layer)
        await layer.send("jobs", {"reply_channel": "websocket.send.a!1"})
        await delivery.give_back()
        await layer.send("jobs", {"reply_channel": "websocket.send.a!2"})
        with pytest.raises(ChannelFull, match="of this connection"):
            await layer.send("jobs", {"reply_channel": "websocket.send.a!1"}, 5)
        for _ in range(5):
            await (await take(layer)).acknowledge()
        for _ in range(4):  # 51 were in it
            await layer.send("jobs", {"reply_channel": "websocket.send.a!1"})

    # -- leases

    async def test_one_holder_at_a_time(self, layer: ChannelLayer, clock: MockClock | None) -> None:
        assert await layer.hold("a", "one", 0.2)
        assert await layer.hold("a", "one", 0.2)
        assert not await layer.hold("a", "two", 0.2)
        assert not await layer.hold("a", "two", 0)
        assert await layer.hold("b", "two", 60)
        assert await layer.hold("a", "one", 0)
        assert await layer.hold("a", "one", 0)
        assert await layer.hold("a", "two", 60)
        assert not await layer.hold("a", "one", 60)

    async def test_a_lease_runs_out(self, layer: ChannelLayer, clock: MockClock | None) -> None:
        assert await layer.hold("a", "one", 0.05)
        if clock is None:
            await trio.sleep(0.06)
        else:
            clock.jump(0.06)
        assert await layer.hold("a", "two", 60)
        assert not await layer.hold("a", "one", 60)

"""The contract of a layer's presences, as tests that any layer runs: subclass :class:`PresenceContract`.

A subclass gives the fixtures ``layer`` (running) and ``other``, a second layer of another process on the same engine,
or the same layer where it has but one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from views import View
from wsproto.frame_protocol import FrameDecoder  # somebody else's reader of frames

from triochan import Group, Presence
from triochan.exceptions import ConnectionClosed
from triochan.layers import ChannelLayer
from triochan.test.layers import FakeEndpoint

Lists = dict[str, list[dict[str, Any]]]


class Client(FakeEndpoint):
    """A connection, and what its client makes of the frames that it is sent."""

    def __init__(self, layer: ChannelLayer) -> None:
        super().__init__(layer)
        self.layer = layer
        self._seen = 0
        self.view = View()

    def presence(self, topic: str = "room") -> Presence:
        return Presence(topic, self.layer, channel=self.channel)

    @property
    def texts(self) -> list[str]:
        return [text_of(frame) for frame in self.frames]

    def read(self) -> View:
        """The view, with all that has come by now."""
        for text in self.texts[self._seen :]:
            self._seen += 1
            self.view.take(json.loads(text))
        return self.view

    def end(self) -> None:
        """As a connection ends."""
        self.layer.detach(self)
        self.local.end()


def text_of(frame: bytes) -> str:
    decoder = FrameDecoder(client=True)
    decoder.receive_bytes(frame)
    parts: list[bytes] = []
    while (each := decoder.process_buffer()) is not None:
        assert isinstance(each.payload, (bytes, bytearray))
        parts.append(each.payload)
    return b"".join(parts).decode()


def without_refs(lists: Lists) -> Lists:
    return {
        key: [{name: value for name, value in meta.items() if name != "ref"} for meta in metas]
        for key, metas in lists.items()
    }


async def until(condition: Any, seconds: float = 20.0) -> None:
    """Wait until ``condition()`` holds; it may be async."""
    with trio.fail_after(seconds):
        while True:
            found = condition()
            if hasattr(found, "__await__"):
                found = await found
            if found:
                return
            await trio.sleep(0.01)


class PresenceContract:
    """Every test here holds for every layer."""

    @pytest.fixture
    def other(self, layer: ChannelLayer) -> ChannelLayer:
        return layer

    @asynccontextmanager
    async def clients(self, *layers: ChannelLayer) -> AsyncIterator[list[Client]]:
        made = [Client(each) for each in layers]
        yield made
        for each in made:
            each.end()

    async def test_who_is_tracked_is_listed_at_once(self, layer: ChannelLayer) -> None:
        async with self.clients(layer) as [client]:
            ref = await client.presence().track("ada", {"status": "busy", "é": [1, None]})
            assert await client.presence().list() == {"ada": [{"ref": ref, "status": "busy", "é": [1, None]}]}
            assert await client.presence("other").list() == {}

    async def test_several_of_one_key(self, layer: ChannelLayer) -> None:
        async with self.clients(layer, layer, layer) as [one, two, three]:
            await one.presence().track("ada", {"tab": 1})
            await two.presence().track("ada", {"tab": 2})
            await three.presence().track("bob")
            lists = await one.presence().list()
            assert without_refs(lists) == {"ada": [{"tab": 1}, {"tab": 2}], "bob": [{}]}
            refs = {meta["ref"] for metas in lists.values() for meta in metas}
            assert len(refs) == 3
            one.end()
            assert without_refs(await two.presence().list()) == {"ada": [{"tab": 2}], "bob": [{}]}

    async def test_one_connection_with_several_keys_and_topics(self, layer: ChannelLayer) -> None:
        async with self.clients(layer) as [client]:
            await client.presence().track("ada")
            await client.presence().track("eva")
            await client.presence("other").track("ada")
            await client.presence().untrack("ada")
            assert without_refs(await client.presence().list()) == {"eva": [{}]}
            assert without_refs(await client.presence("other").list()) == {"ada": [{}]}
            client.end()
            assert (await client.presence().list(), await client.presence("other").list()) == ({}, {})

    async def test_an_update_keeps_the_ref_and_the_place(self, layer: ChannelLayer) -> None:
        async with self.clients(layer, layer) as [one, two]:
            ref = await one.presence().track("ada", {"status": "busy", "since": 1})
            await two.presence().track("ada", {"tab": 2})
            await one.presence().update("ada", {"status": "free"})
            lists = await one.presence().list()
            assert lists["ada"][0] == {"ref": ref, "status": "free"}
            assert lists["ada"][1]["tab"] == 2

    async def test_a_block_of_a_task(self, layer: ChannelLayer) -> None:
        presence = Presence("room", layer)
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - it is the block that raises
            async with presence.tracked("bot", {"mood": "good"}) as bot:
                assert await presence.list() == {"bot": [{"ref": bot.ref, "mood": "good"}]}
                await bot.update({"mood": "bad"})
                assert await presence.list() == {"bot": [{"ref": bot.ref, "mood": "bad"}]}
                raise ZeroDivisionError
        assert await presence.list() == {}
        with pytest.raises(LookupError, match=r"the block has ended.*'bot' in 'room'"):
            await bot.update({})

    async def test_a_block_that_is_cancelled(self, layer: ChannelLayer) -> None:
        presence = Presence("room", layer)
        with trio.move_on_after(0.02):
            async with presence.tracked("bot"):
                await trio.sleep_forever()
        assert await presence.list() == {}

    async def test_a_newcomer_is_sent_the_list_and_then_what_changes(
        self, layer: ChannelLayer, other: ChannelLayer
    ) -> None:
        async with self.clients(layer, other) as [one, two]:
            await one.presence().track("ada", {"n": 1})
            await one.presence().subscribe()
            await until(lambda: without_refs(one.read().lists) == {"ada": [{"n": 1}]})
            await two.presence().track("bob", {"n": 2})
            await two.presence().subscribe()
            for each in (one, two):
                await until(
                    lambda each=each: (
                        without_refs(each.read().lists) == {"ada": [{"n": 1}], "bob": [{"n": 2}]}
                    )
                )
            await one.presence().update("ada", {"n": 3})
            await two.presence().untrack("bob")
            for each in (one, two):
                await until(lambda each=each: without_refs(each.read().lists) == {"ada": [{"n": 3}]})
            assert one.view.lists == await two.presence().list()
            for each in (one, two):
                assert not each.view.faults

    async def test_the_end_of_a_connection_is_told(self, layer: ChannelLayer, other: ChannelLayer) -> None:
        async with self.clients(layer, other) as [one, two]:
            await one.presence().track("ada")
            await two.presence().track("bob")
            await two.presence().subscribe()
            await until(lambda: two.read().lists.keys() == {"ada", "bob"})
            one.end()
            await until(lambda: two.read().lists.keys() == {"bob"})
            assert (await two.presence().list()).keys() == {"bob"}

    async def test_what_happens_in_a_tick_is_told_at_once(self, layer: ChannelLayer) -> None:
        async with self.clients(*[layer] * 20) as members:
            async with self.clients(layer) as [watcher]:
                await watcher.presence().track("watcher")
                await watcher.presence().subscribe()
                await until(lambda: "watcher" in watcher.read().lists)
                await trio.sleep(0.1)
                before = len(watcher.texts)
                for number, member in enumerate(members):
                    await member.presence().track(f"user{number}", {"n": number})
                await members[0].presence().update("user0", {"n": 100})
                members[1].end()
                await until(lambda: len(watcher.read().lists) == 20)
                [text] = watcher.texts[before:]
                diff = json.loads(text)
                assert diff.keys() == {"presence", "version", "joins"}
                assert [meta["n"] for meta in diff["joins"]["user0"]] == [100]

    async def test_what_comes_and_goes_within_a_tick_is_not_told(self, layer: ChannelLayer) -> None:
        async with self.clients(layer, layer) as [watcher, other]:
            await watcher.presence().subscribe()
            await until(lambda: watcher.read().version is not None)
            before = len(watcher.texts)
            await other.presence().track("ada")
            await other.presence().untrack("ada")
            await trio.sleep(0.2)
            assert watcher.texts[before:] == []

    async def test_versions_grow_also_where_nobody_was_there_meanwhile(self, layer: ChannelLayer) -> None:
        versions: list[int | None] = []
        for _ in range(3):
            async with self.clients(layer) as [client]:
                await client.presence().track("ada")
                await client.presence().subscribe()
                await until(lambda client=client: "ada" in client.read().lists)
                versions.append(client.view.version)
            await trio.sleep(0.2)
        one, two, three = versions
        assert one is not None
        assert two is not None
        assert three is not None
        assert one < two < three

    async def test_groups_and_topics_are_one(self, layer: ChannelLayer) -> None:
        async with self.clients(layer) as [client]:
            await client.presence().subscribe()
            assert await Group("room", layer).members() == [client.channel.name]
            await Group("room", layer).discard(client.channel)

    # -- what is wrong

    @pytest.mark.parametrize(
        ("key", "kind", "says"),
        [
            (5, TypeError, r"a presence's key is a string, not 5; str\(…\) makes one of an id"),
            (None, TypeError, "a string, not None"),
            ("", ValueError, "1 to 200 characters, not 0"),
            ("x" * 201, ValueError, "1 to 200 characters, not 201"),
            ("\ud800", ValueError, "lone surrogate"),
        ],
    )
    async def test_keys_are_checked(self, layer: ChannelLayer, key: Any, kind: Any, says: str) -> None:
        async with self.clients(layer) as [client]:
            presence = client.presence()
            with pytest.raises(kind, match=says):
                await presence.track(key)
            with pytest.raises(kind, match=says):
                await presence.update(key, {})
            with pytest.raises(kind, match=says):
                await presence.untrack(key)
            with pytest.raises(kind, match=says):
                async with presence.tracked(key):
                    pass
            assert await presence.list() == {}

    @pytest.mark.parametrize(
        ("meta", "kind", "says"),
        [
            ([], TypeError, r"a dict, or what JSON has as an object, not \[\]"),
            ("busy", TypeError, "not 'busy'"),
            ({"a": object()}, TypeError, "what JSON can hold: .*object"),
            ({"a": float("nan")}, ValueError, "what JSON can hold: .*nan"),
            ({"a": "\ud800"}, ValueError, "lone surrogate"),
            ({"a": "x" * 4096}, ValueError, "4,104 characters of JSON, and may have 4,096"),
            ({"ref": 1}, ValueError, 'has no "ref"'),
        ],
    )
    async def test_metas_are_checked(self, layer: ChannelLayer, meta: Any, kind: Any, says: str) -> None:
        async with self.clients(layer) as [client]:
            presence = client.presence()
            with pytest.raises(kind, match=says):
                await presence.track("ada", meta)
            assert await presence.list() == {}
            await presence.track("ada", {"a": {"ref": 'may be deeper, "ref"'}})
            with pytest.raises(kind, match=says):
                await presence.update("ada", meta)
            assert without_refs(await presence.list()) == {"ada": [{"a": {"ref": 'may be deeper, "ref"'}}]}

    async def test_twice_on_one_connection(self, layer: ChannelLayer) -> None:
        async with self.clients(layer) as [client]:
            presence = client.presence()
            await presence.track("ada")
            with pytest.raises(ValueError, match=r"in 'room' as 'ada' already; update\('ada', meta\)"):
                await presence.track("ada", {})
            assert without_refs(await presence.list()) == {"ada": [{}]}
            await presence.untrack("ada")
            await presence.track("ada", {"again": True})

    async def test_what_is_not_tracked(self, layer: ChannelLayer) -> None:
        async with self.clients(layer) as [client]:
            with pytest.raises(LookupError, match="not in 'room' as 'ada', so there is nothing to update"):
                await client.presence().update("ada", {})
            await client.presence().untrack("ada")

    async def test_a_connection_that_has_ended(self, layer: ChannelLayer) -> None:
        async with self.clients(layer) as [client]:
            presence = client.presence()
            await presence.track("ada")
            client.end()
            for call in (
                presence.track("ada"),
                presence.update("ada", {}),
                presence.subscribe(),
            ):
                with pytest.raises(ConnectionClosed):
                    await call
            await presence.untrack("ada")
            assert await presence.list() == {}

    async def test_by_the_channel_s_name(self, layer: ChannelLayer) -> None:
        async with self.clients(layer) as [client]:
            presence = Presence("room", layer, channel=client.channel.name)
            await presence.track("ada")
            assert without_refs(await client.presence().list()) == {"ada": [{}]}
            elsewhere = Presence("room", layer, channel="websocket.send.0123456789ab!1")
            with pytest.raises(RuntimeError, match="no connection of this process"):
                await elsewhere.track("ada")

    async def test_whose_is_it(self, layer: ChannelLayer) -> None:
        presence = Presence("room", layer)
        for call in (presence.track("ada"), presence.update("ada", {}), presence.untrack("ada")):
            with pytest.raises(
                RuntimeError, match=r"No message is handled in this task.*tracked\(key, meta\)"
            ):
                await call

    async def test_an_http_request_takes_no_frames(self, layer: ChannelLayer) -> None:
        request = FakeEndpoint(layer, socket=False)
        presence = Presence("room", layer, channel=request.channel)
        await presence.track("ada")
        with pytest.raises(TypeError, match="is no WebSocket"):
            await presence.subscribe()
        assert without_refs(await presence.list()) == {"ada": [{}]}
        layer.detach(request)
        request.local.end()
        assert await presence.list() == {}

    @pytest.mark.parametrize("topic", ["", "a b", "é", "a!b", "x" * 101])
    async def test_topics_are_names_of_groups(self, layer: ChannelLayer, topic: str) -> None:
        with pytest.raises(ValueError, match="group name"):
            Presence(topic, layer)

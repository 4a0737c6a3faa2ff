"""Presences in handlers: whose they are is found by itself, and they end with their connection."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from presences import Client as FakeClient
from presences import without_refs
from trio.testing import MockClock
from views import View

from triochan import Channel, Group, Message, Presence, Settings, route, route_class
from triochan.exceptions import ChannelSocketException, LayerUnavailable
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer, WebsocketDemultiplexer
from triochan.http import text
from triochan.layers import ChannelLayer, MemoryLayer, current_layer
from triochan.layers.presence import MEMBERS_PER_TICK, TICK_SECONDS, MemoryPresence
from triochan.test import Client


async def here(topic: str = "room") -> dict[str, list[dict[str, Any]]]:
    return without_refs(await Presence(topic).list())


class Room(JsonWebsocketConsumer):
    async def connect(self, message: Message, **kwargs: Any) -> None:
        await self.track("room", message["query_string"].decode(), {"n": 1})

    async def receive(self, content: Any, **kwargs: Any) -> None:
        key = self.message.connection.state.key = content["key"]
        await self.presence("room").track(key)


async def test_a_consumer_s_one_line() -> None:
    async with Client([route_class(Room, path="^/$")]) as client:
        async with client.websocket("/?ada") as ada:
            first = await ada.receive_json()
            assert first["presence"] == "room"
            [meta] = first["state"]["ada"]
            assert first.keys() == {"presence", "version", "state"}
            assert meta == {"ref": meta["ref"], "n": 1}
            async with client.websocket("/?bob") as bob:
                view = View()
                view.take(await bob.receive_json())
                assert view.lists.keys() == {"ada", "bob"}
                joined = await ada.receive_json()
                if joined["version"] == first["version"]:  # the diff that its own list has already
                    joined = await ada.receive_json()
                assert joined == {
                    "presence": "room",
                    "version": first["version"] + 1,
                    "joins": {"bob": view.lists["bob"]},
                }
            left = await ada.receive_json()
            assert left == {
                "presence": "room",
                "version": first["version"] + 2,
                "leaves": {"bob": [view.lists["bob"][0]["ref"]]},
            }
            assert await here() == {"ada": [{"n": 1}]}
        assert await here() == {}


class Plain(WebsocketConsumer):
    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        assert text is not None
        await self.track("room", text)


async def test_a_consumer_of_plain_text() -> None:
    async with Client([route_class(Plain)]) as client, client.websocket("/") as socket:
        await socket.send("ada")
        assert (await socket.receive_json())["state"].keys() == {"ada"}


# -- without a helper: the handler's connection, wherever the handler is


async def connect(message: Message) -> None:
    await Presence("room").track("in connect, at once")
    await trio.lowlevel.checkpoint()
    await Presence("room").track("in connect, later")


async def receive(message: Message) -> None:
    await Presence("room").track("in receive, at once")
    await trio.sleep(0.01)
    await Presence("room").track("in receive, later")
    await message.reply_channel.send({"text": "done"})


async def disconnect(message: Message) -> None:
    assert "in connect, at once" in await here()
    await Presence("room").untrack("in connect, later")
    assert "in connect, later" not in await here()
    await Group("ends").send({"ended": True})


async def test_in_functions() -> None:
    routing = [
        route("websocket.connect", connect),
        route("websocket.receive", receive),
        route("websocket.disconnect", disconnect),
    ]
    async with Client(routing) as client:
        await Group("ends").add("ends")
        async with client.websocket("/") as socket:
            await socket.send("x")
            await socket.receive()
            assert (await here()).keys() == {
                f"in {handler}, {when}" for handler in ("connect", "receive") for when in ("at once", "later")
            }
        assert (await current_layer().receive("ends")).content == {"ended": True}
        assert await here() == {}


class Later(ChannelSocketException):
    async def run(self, message: Message) -> None:
        await Presence("room").track("by the exception")
        await message.reply_channel.send({"text": "done"})


@pytest.mark.parametrize("waits", [True, False])
async def test_in_what_runs_in_a_handler_s_place(waits: bool) -> None:
    async def receive(message: Message) -> None:
        if waits:
            await trio.sleep(0.01)
        raise Later

    async with Client([route("websocket.receive", receive)]) as client, client.websocket("/") as socket:
        await socket.send("x")
        await socket.receive()
        assert (await here()).keys() == {"by the exception"}


async def test_with_a_time_limit_and_a_middleware() -> None:
    async def receive(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        await Presence("room").track("ada")
        await message.reply_channel.send({"text": "done"})

    client = Client([route("websocket.receive", receive)], settings=Settings(handler_timeout=5))
    async with client, client.websocket("/") as socket:
        await socket.send("x")
        await socket.receive()
        assert (await here()).keys() == {"ada"}


class Stream(JsonWebsocketConsumer):
    async def connect(self, message: Message, **kwargs: Any) -> None:
        await self.track("room", "by a stream")

    async def receive(self, content: Any, **kwargs: Any) -> None:
        await Presence("room").update("by a stream", content)


class Streams(WebsocketDemultiplexer):
    consumers = {"room": Stream}
    mapping = {"jobs": "jobs"}


async def jobs(message: Message) -> None:
    await Presence("room").track("by a worker", {"job": message["job"]})


async def test_behind_a_demultiplexer() -> None:
    async with Client([route_class(Streams), route("jobs", jobs)]) as client, client.websocket("/") as socket:
        view = View()
        view.take(await socket.receive_json())
        await socket.send_json({"stream": "room", "payload": {"mood": "good"}})
        await socket.send_json({"stream": "jobs", "payload": {"job": 1}})
        while "by a worker" not in view.lists:
            view.take(await socket.receive_json())
        assert without_refs(view.lists) == {"by a stream": [{"mood": "good"}], "by a worker": [{"job": 1}]}
        assert (view.faults, view.missed) == ([], 0)
        assert without_refs(view.lists) == await here()
    async with Client([]):
        assert await here() == {}


async def test_in_a_request_it_ends_with_the_response() -> None:
    during: dict[str, Any] = {}

    async def request(message: Message) -> None:
        await Presence("room").track("a request")
        during.update(await here())
        await message.reply_channel.send(text("done"))
        assert await here() == {}

    async with Client([route("http.request", request)]) as client:
        assert (await client.get("/")).text == "done"
        assert during == {"a request": [{}]}


async def test_in_a_task_of_a_handler_s_it_has_to_be_said_whose_it_is() -> None:
    errors: list[RuntimeError] = []

    async def by_itself() -> None:
        try:
            await Presence("room").track("ada")
        except RuntimeError as error:
            errors.append(error)

    async def receive(message: Message) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(by_itself)
            nursery.start_soon(Presence("room", channel=message.reply_channel).track, "bob")
        await message.reply_channel.send({"text": "done"})

    async with Client([route("websocket.receive", receive)]) as client, client.websocket("/") as socket:
        await socket.send("x")
        await socket.receive()
        [error] = errors
        assert "channel=message.reply_channel" in str(error)
        assert await here() == {"bob": [{}]}


async def test_a_message_without_a_reply_channel(autojump_clock: MockClock) -> None:
    errors: list[RuntimeError] = []

    async def job(message: Message) -> None:
        try:
            await Presence("room").track("ada")
        except RuntimeError as error:
            errors.append(error)
        async with Presence("room").tracked("a worker"):
            await trio.sleep(1)

    async with Client([route("jobs", job)]):
        await Channel("jobs").send({})
        await trio.sleep(0.5)
        assert await here() == {"a worker": [{}]}
        await trio.sleep(1)
        assert await here() == {}
        assert "message on channel 'jobs' has no reply channel" in str(errors[0])


async def test_outside_a_server() -> None:
    with pytest.raises(RuntimeError, match="no channel layer is running here"):
        await Presence("room").list()
    assert repr(Presence("room")) == "Presence('room')"
    named = Presence("room", channel="websocket.send.0123456789ab!1")
    assert repr(named) == "Presence('room', channel=Channel('websocket.send.0123456789ab!1'))"


async def test_an_object_as_meta() -> None:
    @attrs.frozen
    class Status:
        mood: str
        since: int

    layer = MemoryLayer()
    async with layer.running(), Presence("room").tracked("ada", Status("good", 3)):
        assert await here() == {"ada": [{"mood": "good", "since": 3}]}

    @attrs.frozen
    class WithRef:
        ref: str

    with pytest.raises(ValueError, match='no "ref"'):
        async with layer.running(), Presence("room").tracked("ada", WithRef("x")):
            pass


async def test_a_helper_that_can_t_subscribe_leaves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    async def fails(self: Group, channel: object) -> None:
        raise LayerUnavailable("not there")

    class Tries(JsonWebsocketConsumer):
        async def receive(self, content: Any, **kwargs: Any) -> None:
            try:
                await self.track("room", "ada")
            except LayerUnavailable as error:
                tried.append(str(error))
            await self.send("done")

    monkeypatch.setattr(Group, "add", fails)
    async with Client([route_class(Tries)]) as client, client.websocket("/") as socket:
        await socket.send_json(1)
        await socket.receive()
        assert (tried, await here()) == (["not there"], {})


# -- what it costs, and what is left


async def test_nothing_runs_where_nothing_happens(autojump_clock: MockClock) -> None:
    layer = MemoryLayer()
    async with layer.running():
        assert layer._presence is None
        before = trio.lowlevel.current_statistics().tasks_living
        async with Presence("room").tracked("ada"):
            assert trio.lowlevel.current_statistics().tasks_living == before + 1
            await trio.sleep(1)
            assert trio.lowlevel.current_statistics().tasks_living == before
        await trio.sleep(1)
        assert trio.lowlevel.current_statistics().tasks_living == before
        assert layer.presence.topics == {}


async def test_a_layer_that_ends_tells_nothing_more(autojump_clock: MockClock) -> None:
    layer = MemoryLayer()
    client = FakeClient(layer)
    async with layer.running():
        await client.presence().subscribe()
        await client.presence().track("ada")
    await trio.sleep(1)
    assert client.texts == []
    client.end()
    await trio.sleep(1)


async def test_many_members_are_told_less_often(autojump_clock: MockClock) -> None:
    layer = MemoryLayer()
    async with layer.running():
        watcher = FakeClient(layer)
        await watcher.presence().subscribe()
        members = [FakeClient(layer) for _ in range(3 * MEMBERS_PER_TICK)]
        for number, member in enumerate(members):
            await member.presence().track(f"user{number}")
        await trio.sleep(1)
        assert len(watcher.read().lists) == len(members)
        assert len(watcher.texts) <= 2  # its list, and a storm of joins in one diff
        assert len(max(watcher.texts, key=len)) > 3 * MEMBERS_PER_TICK * 20
        before = len(watcher.texts)
        began = trio.current_time()
        members[0].end()
        while len(watcher.texts) == before:  # noqa: ASYNC110 - nothing tells
            await trio.sleep(TICK_SECONDS / 5)
        assert trio.current_time() - began >= 2 * TICK_SECONDS
        [text] = watcher.texts[before:]
        assert len(text) < 120  # one small diff
        for member in [watcher, *members]:
            member.end()
        await trio.sleep(1)
        assert layer.presence.topics == {}


async def test_what_raises_holds_up_no_other_topic(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    layer = MemoryLayer()
    presence = layer.presence
    assert isinstance(presence, MemoryPresence)
    send = presence._send

    def raises(group: str, text: str) -> None:
        if group == "broken":
            raise ZeroDivisionError
        send(group, text)

    presence._send = raises
    async with layer.running():
        client = FakeClient(layer)
        await client.presence().subscribe()
        await trio.sleep(1)
        async with Presence("broken").tracked("ada"):
            await client.presence().track("bob")
            await trio.sleep(1)
        assert "what has changed could not be told" in caplog.text
        assert client.read().lists.keys() == {"bob"}
        assert client.view.faults == []
        client.end()


async def test_a_log_that_can_t_be_written_stops_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = MemoryLayer()

    def raises(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("triochan.layers.presence.logger.error", raises)
    monkeypatch.setattr(layer.presence, "_send", raises)
    async with layer.running(), Presence("room").tracked("ada"):
        await trio.sleep(1)
    assert "ZeroDivisionError" in capsys.readouterr().err


async def test_who_watches_an_empty_room_misses_nothing(autojump_clock: MockClock) -> None:
    layer = MemoryLayer()
    async with layer.running():
        watcher = FakeClient(layer)
        await watcher.presence().subscribe()
        for number in range(3):
            async with Presence("room").tracked("ada", {"n": number}):
                await trio.sleep(1)
                assert without_refs(watcher.read().lists) == {"ada": [{"n": number}]}
            await trio.sleep(1)
            assert watcher.read().lists == {}
            for _ in range(5):  # meanwhile much happens elsewhere
                async with Presence("other").tracked("bob"):
                    await trio.sleep(1)
        assert (watcher.view.faults, watcher.view.missed) == ([], 0)
        watcher.end()


async def test_a_layer_without_presence() -> None:
    class Other(MemoryLayer):
        _make_presence = ChannelLayer._make_presence  # type: ignore[assignment]

    async with Other().running():
        with pytest.raises(NotImplementedError, match="Other has no presence"):
            await Presence("room").list()


# -- every view is right, whatever happens


class TopicViews(FakeClient):
    """A client of several topics."""

    def __init__(self, layer: ChannelLayer) -> None:
        super().__init__(layer)
        self.watched: set[str] = set()

    def view_of(self, topic: str) -> View:
        view = View()
        for each in self.texts:
            frame = json.loads(each)
            if frame["presence"] == topic:
                view.take(frame)
        return view


steps = st.fixed_dictionaries(
    {
        "what": st.sampled_from(["track", "track", "update", "untrack", "subscribe", "end", "come"]),
        "who": st.integers(0, 5),
        "topic": st.sampled_from(["one", "two"]),
        "key": st.sampled_from(["ada", "bob"]),
        "meta": st.dictionaries(st.sampled_from("ab"), st.integers(0, 3)),
        "then": st.sampled_from([0.0, 0.0, TICK_SECONDS / 3, TICK_SECONDS * 2]),
    }
)


@settings(deadline=None, max_examples=60)
@given(st.lists(steps, min_size=5, max_size=40))
def test_every_view_is_what_the_list_is(steps: list[dict[str, Any]]) -> None:
    """Random clients in two topics come, change and go; what each makes of its frames is held against the list."""
    trio.run(_play, steps, clock=MockClock(autojump_threshold=0))


async def _play(steps: list[dict[str, Any]]) -> None:
    layer = MemoryLayer()
    async with layer.running():
        clients: list[TopicViews] = [TopicViews(layer) for _ in range(3)]
        model: dict[tuple[int, str, str], dict[str, int]] = {}
        for step in steps:
            number = step["who"] % len(clients)
            client, topic, key = clients[number], step["topic"], step["key"]
            place = (id(client), topic, key)
            presence = client.presence(topic)
            match step["what"]:
                case "track" if place not in model:
                    await presence.track(key, step["meta"])
                    model[place] = step["meta"]
                case "update" if place in model:
                    await presence.update(key, step["meta"])
                    model[place] = step["meta"]
                case "untrack":
                    await presence.untrack(key)
                    model.pop(place, None)
                case "subscribe":
                    client.watched.add(topic)
                    await presence.subscribe()
                case "end":
                    client.end()
                    for place in [place for place in model if place[0] == id(client)]:
                        del model[place]
                    clients[number] = TopicViews(layer)
                case "come":
                    clients.append(TopicViews(layer))
            for each in ("one", "two"):
                told = [
                    (key, sorted(meta.items()))
                    for key, metas in without_refs(await Presence(each).list()).items()
                    for meta in metas
                ]
                assert sorted(told) == sorted(
                    (key, sorted(meta.items())) for (_, where, key), meta in model.items() if where == each
                )
            await trio.sleep(step["then"])
        await trio.sleep(1)
        for client in clients:
            for topic in client.watched:
                view = client.view_of(topic)
                assert (view.faults, view.missed) == ([], 0)
                assert view.lists == await Presence(topic).list()
        for client in clients:
            client.end()
        await trio.sleep(1)
        assert layer.presence.topics == {}

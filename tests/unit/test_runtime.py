"""What the connections of a server share: when pings are due, and where a path's messages go."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from triochan import Application, Group, Message, Settings, route, route_class, runtime
from triochan.generic.websockets import WebsocketConsumer
from triochan.handlers import nothing
from triochan.layers import MemoryLayer, running_layer
from triochan.runtime import CONNECT, Keepalive, Runtime

# -- pings


@attrs.frozen(eq=False)
class Pinged:
    name: str
    pings: list[tuple[str, float]]

    def start_ping(self) -> None:
        self.pings.append((self.name, trio.current_time()))


async def test_pings_come_in_the_order_in_which_they_are_due(autojump_clock: MockClock) -> None:
    pings: list[tuple[str, float]] = []
    first, second, third = (Pinged(name, pings) for name in ("first", "second", "third"))
    keepalive = Keepalive(10)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keepalive.run)
        await wait_all_tasks_blocked()  # it is empty
        keepalive.schedule(first)
        await trio.sleep(1)
        keepalive.schedule(second)
        keepalive.schedule(third)
        await trio.sleep(1)
        keepalive.schedule(first)  # again: ten seconds from now, behind the others
        keepalive.forget(third)
        keepalive.forget(third)
        await trio.sleep(20)
        assert [(name, at - began) for name, at in pings] == [("second", 11), ("first", 12)]
        keepalive.schedule(third)  # it has been empty meanwhile
        await trio.sleep(10.5)
        assert pings[2:] == [("third", began + 32)]
        nursery.cancel_scope.cancel()


async def test_one_that_goes_while_its_ping_is_waited_for(autojump_clock: MockClock) -> None:
    pings: list[tuple[str, float]] = []
    gone, other = Pinged("gone", pings), Pinged("other", pings)
    keepalive = Keepalive(10)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keepalive.run)
        keepalive.schedule(gone)
        await trio.sleep(5)
        keepalive.schedule(other)
        keepalive.forget(gone)
        await trio.sleep(15)
        nursery.cancel_scope.cancel()
    assert pings == [("other", began + 15)]


async def test_no_interval_no_pings(autojump_clock: MockClock) -> None:
    pings: list[tuple[str, float]] = []
    keepalive = Keepalive(0)
    with trio.move_on_after(100):
        keepalive.schedule(Pinged("never", pings))
        await keepalive.run()
    assert pings == []


# -- matches


class OnlyReceives(WebsocketConsumer):
    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        pass


class Connects(OnlyReceives):
    async def connect(self, message: Message, **kwargs: Any) -> None:
        await super().connect(message, **kwargs)


async def handle(message: Message, **kwargs: Any) -> None:
    pass


def of(*routing: Any, **settings: Any) -> Runtime:
    return Runtime(Application(list(routing)), Settings(**settings), MemoryLayer())


def connecting(path: str = "/", **content: Any) -> Message:
    return Message({"path": path, **content}, CONNECT)


def test_what_would_do_nothing_is_not_called() -> None:
    found = of(route_class(OnlyReceives)).match(connecting())
    assert (found.connect, found.disconnect) == ((nothing, {}), (nothing, {}))
    assert found.receive is not None
    assert found.receive[0] is OnlyReceives
    found = of(route_class(Connects)).match(connecting())
    assert found.connect is not None
    assert found.connect[0] is Connects


def test_a_path_is_matched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_MATCHES", 2)
    server = of(route_class(Connects, path=r"^/(?P<room>\w+)$"))
    first = server.match(connecting("/one"))
    assert first.receive == (Connects, {"room": "one"})
    assert server.match(connecting("/one")) is first
    assert server.match(connecting("/two")).receive == (Connects, {"room": "two"})
    assert server.match(connecting("/three")).receive == (Connects, {"room": "three"})  # one too many
    assert server._matches.keys() == {"/three"}
    assert server.match(connecting("/one")) == first


def test_messages_that_are_told_apart_by_more_are_matched_one_by_one() -> None:
    server = of(
        route("websocket.connect", handle),
        route("websocket.receive", handle, text="^help"),
        route("websocket.disconnect", handle),
    )
    found = server.match(connecting())
    assert (found.connect, found.receive, found.disconnect) == ((handle, {}), None, (handle, {}))
    assert not server._matches


def test_a_handshake_may_be_told_apart_by_more() -> None:
    server = of(route("websocket.connect", handle, query_string="^token="), route("http.request", handle))
    assert server.match(connecting(query_string=b"token=1")).connect == (handle, {})
    assert server.match(connecting(query_string=b"")).connect is None
    assert server.match(connecting(query_string=b"token=2")).connect == (handle, {})


@pytest.mark.parametrize("channel", ["connect", "receive", "disconnect"])
def test_a_path_that_is_routed_in_part_is_accepted(channel: str) -> None:
    server = of(route(f"websocket.{channel}", handle, path="^/here"))
    found = server.match(connecting("/here"))
    for each in ("connect", "receive", "disconnect"):
        assert getattr(found, each) == (handle if each == channel else nothing, {})
    assert server.match(connecting("/there"))[:3] == (None, None, None)


def test_the_strictest_of_what_is_asked_for() -> None:
    server = of(max_overlap=5, outbox_limit=1000)
    assert server.policy((handle, None)) == (5, False, False, "close", 1000)
    slight = type("Slight", (OnlyReceives,), {"slight_ordering": True, "max_overlap": 3})
    many = type("Many", (OnlyReceives,), {"max_overlap": 50, "cancel_on_disconnect": True})
    assert server.policy((slight, many, None)) == (3, True, True, "close", 1000)
    strict = type("Strict", (OnlyReceives,), {"strict_ordering": True})
    assert server.policy((slight, strict, None))[:2] == (1, True)
    dropping = type("Dropping", (OnlyReceives,), {"overflow": "drop_oldest", "outbox_limit": 10})
    assert server.policy((handle, dropping))[3:] == ("drop_oldest", 10)


# -- the layer


async def test_the_layer_of_the_run_is_taken() -> None:
    application = Application([route("http.request", handle)])
    async with Runtime.open(application, Settings(), None) as first:
        assert running_layer() is first.layer
        async with Runtime.open(application, Settings(), None) as second:
            assert second.layer is first.layer
        async with Runtime.open(application, Settings(), first.layer) as third:
            assert third.layer is first.layer
        await Group("nobody").send({"text": "still running"})
        with pytest.raises(RuntimeError):
            async with Runtime.open(application, Settings(), MemoryLayer()):
                raise AssertionError("two layers in one run")
    assert running_layer() is None


async def test_a_layer_of_the_programs_own() -> None:
    layer = MemoryLayer()
    async with Runtime.open(Application([route("http.request", handle)]), Settings(), layer) as server:
        assert server.layer is layer

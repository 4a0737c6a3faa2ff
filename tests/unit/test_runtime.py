"""What the connections of a server share: where a path's messages go, and what runs for all of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from triochan import Application, Group, Message, Settings, route, route_class, runtime
from triochan.generic import BaseConsumer
from triochan.generic.websockets import WebsocketConsumer
from triochan.layers import MemoryLayer, running_layer
from triochan.runtime import CONNECT, RECEIVE, REQUEST, Runtime, nothing, runtime_of

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


def test_what_would_do_nothing_is_not_begun() -> None:
    server = of(route_class(OnlyReceives))
    found = server.match(connecting())
    assert found.connect is not None
    assert found.receive is not None
    connect, receive = server.bind(found.connect, CONNECT), server.bind(found.receive, RECEIVE)
    assert (connect.consumer, connect.begin) == (OnlyReceives, None)
    assert receive.consumer is OnlyReceives
    assert receive.begin is not None
    server = of(route_class(Connects))
    found = server.match(connecting())
    assert found.connect is not None
    assert server.bind(found.connect, CONNECT).begin is not None


def test_who_is_bound_is_asked_for_each_connection() -> None:
    server = of(route_class(OnlyReceives))
    found = server.match(connecting())
    assert found.connect is not None
    with mock.patch.object(OnlyReceives, "connect", Connects.connect):
        assert server.bind(found.connect, CONNECT).begin is not None
    assert server.bind(found.connect, CONNECT).begin is None


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
    assert server.policy((handle, None)) == (5, False, False, "close", 1000, False, SimpleNamespace)
    assert of(compression=True).policy((handle,)).compression
    slight = type("Slight", (OnlyReceives,), {"slight_ordering": True, "max_overlap": 3})
    many = type("Many", (OnlyReceives,), {"max_overlap": 50, "cancel_on_disconnect": True})
    assert server.policy((slight, many, None)) == (3, True, True, "close", 1000, False, SimpleNamespace)
    assert server.policy((many, None)).limit == 50  # the consumer's own, instead of the server's
    strict = type("Strict", (OnlyReceives,), {"strict_ordering": True})
    assert server.policy((slight, strict, None))[:2] == (1, True)
    dropping = type("Dropping", (OnlyReceives,), {"overflow": "drop_oldest", "outbox_limit": 10})
    assert server.policy((handle, dropping))[3:6] == ("drop_oldest", 10, False)
    compressing = type("Compressing", (OnlyReceives,), {"compression": True})
    assert server.policy((handle, compressing)).compression
    assert server.policy((handle, compressing)) is server.policy((handle, compressing))
    plain = type("Plain", (OnlyReceives,), {"compression": False})
    assert not of(compression=True).policy((plain,)).compression


# -- requests


def asking(path: str = "/", **content: Any) -> Message:
    return Message({"path": path, "method": "GET", **content}, REQUEST)


def test_a_request_is_matched_by_its_path_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_MATCHES", 2)
    server = of(route("http.request", handle, path=r"^/(?P<name>\w+)$"))
    first = server.match_request(asking("/one"))
    assert first is not None
    assert (first.consumer, first.kwargs) == (handle, {"name": "one"})
    assert server.match_request(asking("/one")) is first
    assert server.match_request(asking("/")) is None
    for name in ("two", "three"):
        found = server.match_request(asking(f"/{name}"))
        assert found is not None
        assert found.kwargs == {"name": name}
    assert server._requests.keys() == {"/three"}


def test_a_request_that_is_told_apart_by_more_is_matched_by_itself() -> None:
    server = of(route("http.request", handle, method="^POST$"))
    assert server.match_request(asking(method="POST")) is not None
    assert server.match_request(asking(method="GET")) is None
    assert not server._requests


def test_a_class_that_takes_requests_is_bound_for_each() -> None:
    class Pages(BaseConsumer):
        method_mapping: ClassVar[dict[str, str]] = {"http.request": "get"}

        async def get(self, message: Message, **kwargs: Any) -> None: ...

    server = of(route_class(Pages))
    first, second = server.match_request(asking()), server.match_request(asking())
    assert first is not None
    assert second is not None
    assert first.consumer is second.consumer is Pages
    assert first.begin is not second.begin


# -- running


@attrs.frozen(eq=False)
class Drained:
    """A connection of a runtime that is shut down."""

    name: str
    log: list[tuple[str, float]]

    def drain(self) -> None:
        self.log.append((self.name, trio.current_time()))


async def test_a_drain_is_spread(autojump_clock: MockClock) -> None:
    server: Any = of(drain_spread=6, shutdown_timeout=20)
    log: list[tuple[str, float]] = []
    server.http.add(Drained("http", log))
    for name in ("one", "two", "three"):
        server.websockets[Drained(name, log)] = None
    hard = trio.CancelScope()
    await server.drain(hard)
    assert server.draining
    assert server.deadline == hard.deadline == 20
    assert log == [("http", 0), ("one", 0), ("two", 2), ("three", 4)]


async def test_guests_are_waited_for_and_bounded(autojump_clock: MockClock) -> None:
    server = of(shutdown_timeout=5)
    ended: list[float] = []

    async def visit(seconds: float) -> None:
        with server.guest(trio.CancelScope(shield=True)):
            assert server.sockets
            await trio.sleep(seconds)
        ended.append(trio.current_time())

    await server.guests_left()  # none has come
    async with trio.open_nursery() as nursery:
        for seconds in (1, 100):
            nursery.start_soon(visit, seconds)
        await wait_all_tasks_blocked()
        assert (server.sockets, len(server.guests)) == (2, 2)
        nursery.cancel_scope.cancel()  # from outside: a shutdown answers first
        with trio.CancelScope(shield=True):
            await server.drain(trio.CancelScope())
            await server.guests_left()
    assert ended == [1, 5]
    assert (server.sockets, server.guests) == (0, {})


async def test_the_runtime_of_a_routing() -> None:
    routing = [route("http.request", handle)]
    application = Application(routing)
    async with Runtime.open(application, Settings(), None) as server:
        assert runtime_of(application) is None
        async with server.serving() as services:
            assert runtime_of(application) is server
            assert runtime_of(routing) is server
            assert runtime_of([route("http.request", handle)]) is None
            running = trio.Event()

            async def run_beside() -> None:
                running.set()
                await trio.sleep_forever()

            services.start_soon(run_beside)
            await running.wait()
        assert runtime_of(application) is None


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

"""Named channels and their consumers: one message at a time, in order, and nothing that a consumer does stops them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from triochan import Application, Channel, Group, Message, Settings, include, route, route_class, serve
from triochan.decorators import durable
from triochan.exceptions import ChannelFull, ImproperlyConfigured, LayerUnavailable, NobodyListens
from triochan.generic import BaseConsumer
from triochan.generic.websockets import WebsocketConsumer, WebsocketDemultiplexer
from triochan.layers import Delivery, MemoryLayer
from triochan.runtime import Runtime, channels_taken
from triochan.server import Server
from triochan.test.layers import FakeEndpoint
from triochan.workers import Workers


@asynccontextmanager
async def working(
    routing: Any,
    settings: Settings | None = None,
    layer: MemoryLayer | None = None,
    channels: frozenset[str] | None = None,
) -> AsyncIterator[Runtime]:
    """The workers of a server that runs no listeners."""
    settings = settings or Settings()
    layer = layer or MemoryLayer(settings)
    async with Runtime.open(Application(routing), settings, layer, channels=channels) as runtime:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Workers(runtime).run)
            yield runtime
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


class TestConsuming:
    async def test_a_consumer_gets_message_channel_and_the_filters_groups(self) -> None:
        seen: list[tuple[Message, dict[str, Any]]] = []

        async def consume(message: Message, **kwargs: Any) -> None:
            seen.append((message, kwargs))

        async with working([route("jobs", consume, kind=r"^(?P<kind>\w+)$")]) as runtime:
            await Channel("jobs").send({"kind": "mail", "to": "x"})
        [(message, kwargs)] = seen
        assert kwargs == {"kind": "mail"}
        assert message.content == {"kind": "mail", "to": "x"}
        assert message.channel == Channel("jobs")
        assert [getattr(message, name) for name in ("reply_channel", "connection")] == [None, None]
        assert message.application is runtime.application

    async def test_the_first_route_that_matches(self) -> None:
        seen: list[str] = []

        def consumer(name: str) -> Any:
            async def consume(message: Message) -> None:
                seen.append(name)

            return consume

        routing = [
            route("jobs", consumer("mail"), kind="^mail"),
            include([route("jobs", consumer("any"))]),
            route("other", consumer("other")),
        ]
        async with working(routing):
            await Channel("jobs").send({"kind": "x"})
            await wait_all_tasks_blocked()
            await Channel("jobs").send({"kind": "mail"})
            await Channel("other").send({})
        assert sorted(seen) == ["any", "mail", "other"]

    async def test_classes_get_an_instance_for_each_message(self) -> None:
        instances: list[BaseConsumer] = []

        class Jobs(BaseConsumer):
            method_mapping: ClassVar[dict[str, str]] = {"jobs.one": "one", "jobs.two": "two"}

            async def one(self, message: Message, **kwargs: Any) -> None:
                instances.append(self)

            async def two(self, message: Message, **kwargs: Any) -> None:
                instances.append(self)
                assert self.message is message
                assert self.connection is None

        async with working([route_class(Jobs)]):
            await Channel("jobs.one").send({})
            await Channel("jobs.two").send({})
            await Channel("jobs.two").send({})
        assert len({id(each) for each in instances}) == 3

    async def test_a_consumer_may_send_on(self) -> None:
        seen: list[Any] = []

        async def first(message: Message) -> None:
            await Channel("second").send({"number": message["number"] + 1})

        async def second(message: Message) -> None:
            seen.append(message["number"])

        async with working([route("first", first), route("second", second)]):
            await Channel("first").send({"number": 1})
        assert seen == [2]

    async def test_a_group_may_hold_a_worker_s_channel(self) -> None:
        seen: list[Any] = []

        async def consume(message: Message) -> None:
            seen.append(message.content)

        async with working([route("jobs", consume)]):
            await Group("room").add("jobs")
            await Group("room").send({"text": "a"})
        assert seen == [{"text": "a"}]

    async def test_channels_of_sockets_are_not_workers_business(self) -> None:
        async def consume(message: Message) -> None:
            raise AssertionError

        async with working([route(["websocket.connect", "http.request"], consume)]) as runtime:
            await runtime.layer.send("websocket.connect", {"a": 1})
            await runtime.layer.send("http.request", {"a": 1})
            await wait_all_tasks_blocked()
            assert (await runtime.layer.receive("websocket.connect")).content == {"a": 1}

    async def test_a_channel_that_nobody_listens_on_is_an_error_at_once(self) -> None:
        taken = trio.Event()

        async def consume(message: Message) -> None:
            taken.set()

        async with working([route(["work", "jobs.late"], consume)]) as runtime:
            with pytest.raises(
                NobodyListens, match=r"nobody listens on channel 'wrok'; did you mean 'work'\?"
            ) as error:
                await Channel("wrok").send({})
            assert (error.value.channel, error.value.meant) == ("wrok", "work")
            with pytest.raises(NobodyListens, match=r"'other'; route\('other', …\) makes a consumer listen"):
                await Channel("other", runtime.layer).send({})
            assert await runtime.layer.waiting("wrok") == await runtime.layer.waiting("other") == 0
            await Channel("work").send({})
            await taken.wait()

    async def test_who_receives_by_hand_listens(self) -> None:
        got: list[Any] = []

        async with working([]) as runtime, trio.open_nursery() as nursery:

            async def receive() -> None:
                got.append((await runtime.layer.receive("mine")).content)

            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            await Channel("mine").send({"a": 1})
        assert got == [{"a": 1}]

    async def test_servers_of_one_run_listen_for_each_other(self) -> None:
        async def consume(message: Message) -> None: ...

        layer = MemoryLayer()
        async with (
            working([route("one", consume)], layer=layer),
            working([route("two", consume)], layer=layer),
        ):
            await Channel("one").send({})
            await Channel("two").send({})
            await wait_all_tasks_blocked()

    async def test_a_group_that_has_a_channel_without_listeners_is_sent_to(self) -> None:
        async with working([]) as runtime:
            await Group("all").add("nobody")
            await Group("all").send({"a": 1})
            assert await runtime.layer.waiting("nobody") == 1

    async def test_a_stream_that_goes_where_nobody_listens_is_told_at_the_start(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def consume(message: Message) -> None: ...

        class Demultiplexer(WebsocketDemultiplexer):
            mapping: ClassVar[dict[str, str]] = {"a": "taken", "b": "takn"}

        async with working([route_class(Demultiplexer), route("taken", consume)]):
            pass
        [record] = caplog.records
        assert "stream 'b' of " in record.getMessage()
        assert "nobody listens on channel 'takn'; did you mean 'taken'?" in record.getMessage()

    async def test_messages_from_before_are_taken_too(self) -> None:
        seen: list[Any] = []

        async def consume(message: Message) -> None:
            seen.append(message["number"])

        layer = MemoryLayer()
        await Channel("jobs", layer).send({"number": 1})
        async with working([route("jobs", consume)], layer=layer):
            pass
        assert seen == [1]


class TestReplyChannel:
    async def test_a_name_in_the_content_becomes_the_message_s(self) -> None:
        async def consume(message: Message) -> None:
            await message.reply_channel.send({"text": "answer"})

        async with working([route("jobs", consume)]) as runtime:
            endpoint = FakeEndpoint(runtime.layer)
            await Channel("jobs").send({"reply_channel": endpoint.channel.name})
            await Channel("jobs").send({"reply_channel": endpoint.channel})
            await wait_all_tasks_blocked()
            assert endpoint.delivered == [{"text": "answer"}] * 2
            runtime.layer.detach(endpoint)

    async def test_it_may_be_a_named_channel(self) -> None:
        async def consume(message: Message) -> None:
            await message.reply_channel.send({"text": "answer"})

        async with working([route("jobs", consume)]) as runtime:
            await Channel("jobs").send({"reply_channel": "answers"})
            assert (await runtime.layer.receive("answers")).content == {"text": "answer"}

    @pytest.mark.parametrize("value", [None, 5, ["a"], {"a": 1}])
    async def test_what_is_no_name_is_none(self, value: Any) -> None:
        seen: list[Any] = []

        async def consume(message: Message) -> None:
            seen.append((message.reply_channel, message["reply_channel"]))

        async with working([route("jobs", consume)]):
            await Channel("jobs").send({"reply_channel": value})
        assert seen == [(None, value)]

    @pytest.mark.parametrize("name", ["", "not a name", "a!b!c", "x" * 101])
    async def test_a_name_that_is_none_does_not_end_the_worker(
        self, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        seen: list[Any] = []

        async def consume(message: Message) -> None:
            seen.append(message["number"])

        async with working([route("jobs", consume)]):
            await Channel("jobs").send({"reply_channel": name, "number": 1})
            await wait_all_tasks_blocked()
            await Channel("jobs").send({"number": 2})
        assert seen[-1] == 2

    async def test_a_client_that_has_gone_is_no_error(self, caplog: pytest.LogCaptureFixture) -> None:
        async def consume(message: Message) -> None:
            await message.reply_channel.send({"text": "answer"})

        async with working([route("jobs", consume)]) as runtime:
            endpoint = FakeEndpoint(runtime.layer)
            runtime.layer.detach(endpoint)
            await Channel("jobs").send({"reply_channel": endpoint.channel.name})
        assert errors(caplog) == []


class TestCrashes:
    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("boom"),
            ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
            trio.TooSlowError(),
            ChannelFull("x", 1),
            LayerUnavailable("down"),
            trio.BrokenResourceError(),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_is_logged_with_the_message_and_the_worker_goes_on(
        self, error: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        seen: list[Any] = []

        async def fragile(message: Message) -> None:
            if message["number"] == 1:
                raise error
            seen.append(message["number"])

        async with working([route("jobs", fragile)]):
            await Channel("jobs").send({"number": 1, "the": "content"})
            await Channel("jobs").send({"number": 2})
        assert seen == [2]
        [record] = errors(caplog)
        assert record.name == "triochan.workers"
        for part in ("fragile", "channel jobs", "'the': 'content'"):
            assert part in record.getMessage()
        assert record.exc_info is not None
        assert record.exc_info[1] is error

    async def test_a_long_message_is_logged_in_part(self, caplog: pytest.LogCaptureFixture) -> None:
        async def fragile(message: Message) -> None:
            raise RuntimeError

        async with working([route("jobs", fragile)]):
            await Channel("jobs").send({"text": "x" * 100_000})
        [record] = errors(caplog)
        assert len(record.getMessage()) < 1000

    async def test_a_message_that_no_route_takes_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        seen: list[Any] = []

        async def consume(message: Message) -> None:
            seen.append(message["kind"])

        async with working([route("jobs", consume, kind="^mail")]):
            await Channel("jobs").send({"kind": "other"})
            await Channel("jobs").send({"kind": "mail"})
        assert seen == ["mail"]
        [record] = errors(caplog)
        assert "no route takes this message on channel jobs: {'kind': 'other'}" in record.getMessage()

    async def test_a_route_that_raises_does_not_end_the_worker(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        seen: list[Any] = []

        async def consume(message: Message) -> None:
            seen.append(message["number"])

        class Picky:
            def match(self, message: Message) -> Any:
                if message["number"] == 1:
                    raise KeyError("picky")
                return consume, {}

            def channel_names(self) -> set[str]:
                return {"jobs"}

        async with working([Picky()]):
            await Channel("jobs").send({"number": 1})
            await Channel("jobs").send({"number": 2})
        assert seen == [2]
        assert len(errors(caplog)) == 1

    async def test_a_consumer_that_takes_other_arguments(self, caplog: pytest.LogCaptureFixture) -> None:
        async def narrow(message: Message) -> None:
            raise AssertionError

        async with working([route("jobs", narrow, kind="(?P<kind>.*)")]):
            await Channel("jobs").send({"kind": "x"})
        [record] = errors(caplog)
        assert record.exc_info is not None
        assert record.exc_info[0] is TypeError


class TestOrder:
    async def test_one_at_a_time_in_order(self, mock_clock: MockClock) -> None:
        mock_clock.autojump_threshold = 0
        events: list[str] = []

        async def consume(message: Message) -> None:
            events.append(f"begin {message['number']}")
            await trio.sleep(10 - message["number"])
            events.append(f"end {message['number']}")

        async with working([route("jobs", consume)]):
            for number in range(3):
                await Channel("jobs").send({"number": number})
            await trio.sleep(60)
        assert events == [f"{what} {number}" for number in range(3) for what in ("begin", "end")]

    async def test_channels_do_not_wait_for_each_other(self, mock_clock: MockClock) -> None:
        mock_clock.autojump_threshold = 0
        events: list[str] = []

        async def slow(message: Message) -> None:
            await trio.sleep(10)
            events.append("slow")

        async def fast(message: Message) -> None:
            events.append("fast")

        async with working([route("slow", slow), route("fast", fast)]):
            await Channel("slow").send({})
            await wait_all_tasks_blocked()
            await Channel("fast").send({})
            await trio.sleep(11)
        assert events == ["fast", "slow"]

    async def test_worker_tasks_run_beside_each_other(self, mock_clock: MockClock) -> None:
        mock_clock.autojump_threshold = 0
        running, most = 0, 0

        async def consume(message: Message) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await trio.sleep(1)
            running -= 1

        async with working([route("jobs", consume)], Settings(worker_tasks=3)):
            for _ in range(9):
                await Channel("jobs").send({})
            before = trio.current_time()
            await trio.sleep(2.5)
            assert running == 3
            await trio.sleep(1)
            assert running == 0
            assert trio.current_time() - before == 3.5
        assert most == 3

    async def test_a_full_channel_is_the_sender_s_to_handle(self) -> None:
        release = trio.Event()

        async def stuck(message: Message) -> None:
            await release.wait()

        async with working([route("jobs", stuck)], Settings(channel_capacity=2)):
            await Channel("jobs").send({})
            await wait_all_tasks_blocked()
            for _ in range(2):
                await Channel("jobs").send({})
            with pytest.raises(ChannelFull):
                await Channel("jobs").send({})
            release.set()
            await wait_all_tasks_blocked()
            await Channel("jobs").send({})


class TestTimeouts:
    async def test_handler_timeout_bounds_a_consumer(
        self, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        mock_clock.autojump_threshold = 0
        ended: list[float] = []

        async def consume(message: Message) -> None:
            start = trio.current_time()
            try:
                await trio.sleep(message["seconds"])
            finally:
                ended.append(trio.current_time() - start)

        async with working([route("jobs", consume)], Settings(handler_timeout=5.0)):
            await Channel("jobs").send({"seconds": 60})
            await Channel("jobs").send({"seconds": 4})
            await trio.sleep(20)
        assert ended == [5, 4]
        [record] = errors(caplog)
        assert record.exc_info is not None
        assert record.exc_info[0] is trio.TooSlowError

    async def test_none_means_as_long_as_it_takes(self, mock_clock: MockClock) -> None:
        mock_clock.autojump_threshold = 0
        done = trio.Event()

        async def consume(message: Message) -> None:
            await trio.sleep(50_000)
            done.set()

        async with working([route("jobs", consume)]):
            await Channel("jobs").send({})
            await done.wait()
        assert trio.current_time() >= 50_000

    async def test_a_shutdown_cancels_what_runs(self) -> None:
        ended: list[str] = []

        async def consume(message: Message) -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.append("cancelled")

        async with working([route("jobs", consume)]):
            await Channel("jobs").send({})
            await wait_all_tasks_blocked()
        assert ended == ["cancelled"]


async def test_an_engine_that_is_down_is_waited_for(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    failures = 3
    seen: list[Any] = []

    class Flaky(MemoryLayer):
        async def receive(self, channel: str, *, durable: bool = False) -> Delivery:
            nonlocal failures
            await trio.lowlevel.checkpoint()
            if failures:
                failures -= 1
                raise LayerUnavailable("the engine does not answer")
            return await super().receive(channel, durable=durable)

    async def consume(message: Message) -> None:
        seen.append(message["number"])

    async with working([route("jobs", consume)], layer=Flaky()):
        started = trio.current_time()
        await Channel("jobs").send({"number": 1})
        await trio.sleep(4)
        assert trio.current_time() - started == 4
    assert seen == [1]
    assert failures == 0


class TestDrain:
    async def test_what_has_begun_ends_and_what_waits_is_counted(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        events: list[str] = []

        async def consume(message: Message) -> None:
            events.append(f"begin {message['number']}")
            await trio.sleep(5)
            events.append(f"end {message['number']}")

        routing = [route("jobs", consume), route("idle", consume), route("http.request", consume)]
        settings = Settings(worker_tasks=2)
        async with Runtime.open(Application(routing), settings, MemoryLayer(settings)) as runtime:
            workers = Workers(runtime)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(workers.run)
                for number in range(5):
                    await Channel("jobs").send({"number": number})
                await trio.sleep(1)
                began = trio.current_time()
                await workers.drain()
                assert trio.current_time() - began == 4
                await workers.tell_left()
        assert sorted(events) == ["begin 0", "begin 1", "end 0", "end 1"]
        [record] = caplog.records
        assert record.getMessage() == "shutdown: 3 messages on channel jobs were not handled"

    async def test_what_a_consumer_sends_on_meanwhile_is_counted_by_its_channel(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Several channels, several workers: each consumer under way ends, and what it sends on waits."""
        ended: list[Any] = []

        async def first(message: Message) -> None:
            await trio.sleep(message["number"])
            await Channel("second").send({"number": message["number"]})
            await Group("all").send({"number": message["number"]})
            ended.append(message["number"])

        async def later(message: Message) -> None:
            raise AssertionError

        routing = [route(["one", "other"], first), route(["second", "third"], later)]
        settings = Settings(worker_tasks=2)
        async with Runtime.open(Application(routing), settings, MemoryLayer(settings)) as runtime:
            workers = Workers(runtime)
            async with trio.open_nursery() as nursery:
                await Group("all").add("third")
                nursery.start_soon(workers.run)
                for number in (1, 2, 3):
                    await Channel("one").send({"number": number})
                    await Channel("other").send({"number": 10 * number})
                await wait_all_tasks_blocked()
                began = trio.current_time()
                await workers.drain()
                assert trio.current_time() - began == 20
                await workers.tell_left()
        assert ended == [1, 2, 10, 20]
        assert [record.getMessage() for record in caplog.records] == [
            f"shutdown: {count} messages on channel {name} were not handled"
            for name, count in (("one", 1), ("other", 1), ("second", 4), ("third", 4))
        ]

    async def test_a_message_that_was_handed_over_when_the_shutdown_begins_is_handled(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        seen: list[int] = []

        async def consume(message: Message) -> None:
            seen.append(message["number"])

        async with Runtime.open(Application([route("jobs", consume)]), Settings(), MemoryLayer()) as runtime:
            workers = Workers(runtime)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(workers.run)
                await wait_all_tasks_blocked()
                for number in range(
                    3
                ):  # the first goes to the worker that waits, the others into the channel
                    await Channel("jobs").send({"number": number})
                await workers.drain()
                await workers.tell_left()
        [record] = caplog.records
        assert record.getMessage() == "shutdown: 2 messages on channel jobs were not handled"
        assert seen == [0]

    @pytest.mark.parametrize("way", ["time-out", "second signal", "cancelled"])
    @pytest.mark.parametrize("kind", ["plain", "durable", "nursery"])
    async def test_what_is_cut_off_is_named_and_what_waits_is_counted(
        self, way: str, kind: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def consume(message: Message) -> None:
            if kind == "nursery":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    await trio.sleep_forever()
            await trio.sleep_forever()

        consumer = consume if kind == "plain" else durable(consume)
        settings = Settings(shutdown_timeout=5)
        layer = MemoryLayer(settings)
        async with Runtime.open(Application([route("jobs", consumer)]), settings, layer) as runtime:
            server = Server(runtime, [])
            async with trio.open_nursery() as nursery:
                await nursery.start(server.run)
                for _ in range(3):
                    await Channel("jobs").send({})
                await wait_all_tasks_blocked()
                server.stop()
                if way == "second signal":
                    server.abort()
                elif way == "cancelled":
                    nursery.cancel_scope.cancel()
            assert trio.current_time() <= 5
        back = "" if kind == "plain" else "; its message is given back"
        assert [record.getMessage() for record in caplog.records] == [
            f"the shutdown cut off {__name__}.{consume.__qualname__} on channel jobs{back}",
            f"shutdown: {3 if back else 2} messages on channel jobs were not handled",
            "the shutdown was cut short: what still ran was cancelled",
        ]

    @pytest.mark.parametrize("answers", [False, True])
    async def test_a_layer_that_can_not_count_is_not_waited_for(
        self, answers: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Down(MemoryLayer):
            async def waiting(self, channel: str) -> int:
                await trio.lowlevel.checkpoint()
                if answers:
                    raise LayerUnavailable("the engine is away")
                return await trio.sleep_forever()

        async def consume(message: Message) -> None:
            raise AssertionError

        routing = [route(["jobs", "mail"], consume)]
        async with Runtime.open(Application(routing), Settings(), Down()) as runtime:
            with trio.CancelScope() as outer:
                outer.cancel()
                await Workers(runtime).tell_left()
        assert trio.current_time() == (0 if answers else 1)
        why = "the engine is away" if answers else "the layer did not answer within 1 s"
        assert [record.getMessage() for record in caplog.records] == [
            f"shutdown: what waits on channel {names} was not counted: {why}"
            for names in (("jobs", "mail") if answers else ("jobs, mail",))
        ]

    async def test_a_worker_that_waits_for_an_engine_ends_at_once(self, autojump_clock: MockClock) -> None:
        class Down(MemoryLayer):
            async def receive(self, channel: str, *, durable: bool = False) -> Delivery:
                await trio.lowlevel.checkpoint()
                raise LayerUnavailable("the engine does not answer")

        async def consume(message: Message) -> None:
            raise AssertionError

        async with Runtime.open(Application([route("jobs", consume)]), Settings(), Down()) as runtime:
            workers = Workers(runtime)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(workers.run)
                await wait_all_tasks_blocked()
                began = trio.current_time()
                await workers.drain()
                assert trio.current_time() == began

    async def test_a_routing_without_named_channels_has_none(self) -> None:
        async def consume(message: Message) -> None:
            raise AssertionError

        async with Runtime.open(
            Application([route("http.request", consume)]), Settings(), MemoryLayer()
        ) as runtime:
            workers = Workers(runtime)
            await workers.run()
            await workers.drain()


async def test_a_consumer_may_be_interrupted_by_a_key(caplog: pytest.LogCaptureFixture) -> None:
    async def consume(message: Message) -> None:
        if message["alone"]:
            raise KeyboardInterrupt
        raise BaseExceptionGroup("", [KeyboardInterrupt(), ValueError("mine")])

    for alone in (True, False):
        caplog.clear()
        with pytest.raises(BaseExceptionGroup) as raised:  # noqa: PT012, ASYNC401
            async with working([route("jobs", consume)]):
                await Channel("jobs").send({"alone": alone})
                await trio.sleep_forever()
        assert raised.value.subgroup(KeyboardInterrupt) is not None
        assert raised.value.subgroup(ValueError) is None
        assert len(errors(caplog)) == (0 if alone else 1)


async def test_a_consumer_that_would_do_nothing_is_not_begun() -> None:
    class Idle(WebsocketConsumer):
        method_mapping: ClassVar[dict[str, str]] = {"jobs": "raw_connect"}

    async with working([route_class(Idle)]) as runtime:
        await Channel("jobs").send({})
        await wait_all_tasks_blocked()
        assert await runtime.layer.waiting("jobs") == 0


class TestDurable:
    """Messages that are acknowledged when their handler has ended."""

    async def test_what_raises_is_tried_again_and_then_a_dead_letter(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        seen: list[float] = []

        @durable
        async def consume(message: Message) -> None:
            seen.append(trio.current_time())
            raise ValueError("it")

        settings = Settings(channel_attempts=4, channel_retry=10)
        async with working([route("jobs", consume)], settings) as runtime:
            await Channel("jobs").send({"a": 1})
            await trio.sleep(200)
            [letter] = await runtime.layer.dead_letters()
        assert [round(later - earlier) for earlier, later in pairwise(seen)] == [10, 20, 40]
        assert (letter.channel, letter.content, letter.attempts) == ("jobs", {"a": 1}, 4)
        assert letter.error == f"{__name__}.{consume.__qualname__} raised ValueError: it"
        assert "is a dead letter now" in caplog.text
        assert len(errors(caplog)) == 5

    async def test_what_succeeds_at_last_is_done(self, autojump_clock: MockClock) -> None:
        seen: list[int] = []

        class Jobs(BaseConsumer):
            durable = True
            method_mapping: ClassVar[dict[str, str]] = {"jobs": "run", "more": "run"}

            async def run(self, message: Message, **kwargs: Any) -> None:
                seen.append(message["number"])
                if len(seen) < 3:
                    raise ValueError("it")

        async with working([route_class(Jobs)]) as runtime:
            for channel in ("jobs", "more"):
                await Channel(channel).send({"number": 1})
                await trio.sleep(100)
            assert await runtime.layer.dead_letters() == []
            assert await runtime.layer.waiting("jobs") == 0
        assert seen == [1, 1, 1, 1]

    async def test_of_several_consumers_on_a_channel_one_is_enough(self, autojump_clock: MockClock) -> None:
        async def plain(message: Message) -> None:
            raise ValueError("it")

        @durable
        async def lasting(message: Message) -> None: ...

        routing = [route("jobs", plain, kind="plain"), include([route("jobs", lasting)])]
        async with working(routing, Settings(channel_attempts=1)) as runtime:
            await Channel("jobs").send({"kind": "plain"})
            await trio.sleep(1)
            assert len(await runtime.layer.dead_letters("jobs")) == 1

    async def test_what_no_route_takes_is_a_dead_letter(self, autojump_clock: MockClock) -> None:
        @durable
        async def consume(message: Message) -> None: ...

        async with working([route("jobs", consume, kind="x")]) as runtime:
            await Channel("jobs").send({"kind": "y"})
            await trio.sleep(100)
            [letter] = await runtime.layer.dead_letters("jobs")
        assert letter.error == "no route takes this message"

    async def test_a_reply_to_who_has_gone_is_no_failure(self, autojump_clock: MockClock) -> None:
        @durable
        async def consume(message: Message) -> None:
            await message.reply_channel.send({"text": "too late"})

        async with working([route("jobs", consume)], Settings(channel_attempts=1)) as runtime:
            await Channel("jobs").send({"reply_channel": "websocket.send.x!1"})
            await trio.sleep(100)
            assert await runtime.layer.dead_letters() == []
            assert await runtime.layer.waiting("jobs") == 0

    async def test_what_a_shutdown_cuts_off_is_given_back(self, autojump_clock: MockClock) -> None:
        attempts: list[int] = []

        @durable
        async def consume(message: Message) -> None:
            await trio.sleep_forever()

        layer = MemoryLayer()
        async with working([route("jobs", consume)], layer=layer):
            await Channel("jobs").send({"a": 1})
            await wait_all_tasks_blocked()
            assert await layer.waiting("jobs") == 0
        assert await layer.waiting("jobs") == 1
        delivery = await layer.receive("jobs", durable=True)
        attempts.append(delivery.attempt)
        assert (delivery.content, attempts) == ({"a": 1}, [1])

    async def test_a_layer_that_fails_meanwhile_costs_one_message_s_time(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Lost(Delivery):
            async def acknowledge(self) -> None:
                raise LayerUnavailable("gone")

            async def give_back(self, error: str = "") -> None:
                raise LayerUnavailable("gone")

        class Layer(MemoryLayer):
            async def receive(self, channel: str, *, durable: bool = False) -> Delivery:
                return Lost((await super().receive(channel, durable=durable)).content)

        seen: list[str] = []

        @durable
        async def consume(message: Message) -> None:
            seen.append(message["do"])
            if message["do"] == "raise":
                raise ValueError("it")
            if message["do"] == "wait":
                await trio.sleep_forever()

        async with working([route("jobs", consume)], layer=Layer()):
            for act in ("raise", "end", "wait"):
                await Channel("jobs").send({"do": act})
        assert seen == ["raise", "end", "wait"]
        assert caplog.text.count("gone; a message may be handled again") == 2
        assert caplog.text.count("gone; a message waits for its lease") == 1

    @pytest.mark.parametrize("asked", [1, "yes", None])
    def test_it_is_a_switch(self, asked: Any) -> None:
        async def consume(message: Message) -> None: ...

        consume.durable = asked  # type: ignore[attr-defined]
        with pytest.raises(ImproperlyConfigured, match="durable is True or False, not"):
            route("jobs", consume)

    def test_sockets_have_none(self) -> None:
        @durable
        async def consume(message: Message) -> None: ...

        with pytest.raises(ImproperlyConfigured, match="durable is for named channels"):
            route(["websocket.receive", "websocket.connect"], consume)
        assert Application([route(["websocket.receive", "jobs"], consume)]).router.durable_channels == {
            "jobs"
        }

    @pytest.mark.parametrize("what", [None, 5, "jobs"])
    def test_it_decorates_a_consumer(self, what: Any) -> None:
        with pytest.raises(TypeError, match="durable goes on a consumer"):
            durable(what)


class TestChannelsThatAProcessTakes:
    @pytest.mark.parametrize(
        ("only", "exclude", "taken"),
        [
            ([], [], {"mail.send", "mail.bounce", "thumbnails"}),
            (["mail.*"], [], {"mail.send", "mail.bounce"}),
            (["mail.*"], ["*.bounce"], {"mail.send"}),
            (["mail.send", "thumb*"], [], {"mail.send", "thumbnails"}),
            ([], ["mail.*"], {"thumbnails"}),
            ([], ["*"], set()),
        ],
    )
    def test_are_chosen_by_globs(self, only: list[str], exclude: list[str], taken: set[str]) -> None:
        assert channels_taken(several().router, only, exclude) == taken

    @pytest.mark.parametrize(
        ("only", "exclude", "said"),
        [
            (
                ["male.*"],
                [],
                "only_channels male.*: no named channel of the routing matches; did you mean mail",
            ),
            (
                [],
                ["x"],
                "exclude_channels x: no named channel of the routing matches; it has mail.bounce, mail.send",
            ),
            (["http.request"], [], "what comes from sockets goes to their consumers"),
            (["MAIL.*"], [], "no named channel"),  # channels are told apart by case
            ("mail.*", [], "only_channels is a list of globs, not one string"),
            ([], [3], "exclude_channels is a list of globs, such as 'mail.*', not 3"),
        ],
    )
    def test_a_glob_that_matches_none(self, only: Any, exclude: Any, said: str) -> None:
        with pytest.raises(ImproperlyConfigured) as raised:
            channels_taken(several().router, only, exclude)
        assert said in str(raised.value)

    def test_a_routing_that_has_none(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="only_channels x: the routing has no named channels"):
            channels_taken(Application([]).router, ["x"])

    async def test_the_others_are_left_and_the_layer_knows(self) -> None:
        seen: list[str] = []
        layer = MemoryLayer()
        async with working(several(seen).router.routing, layer=layer, channels=frozenset({"thumbnails"})):
            await Channel("thumbnails").send({})
            with pytest.raises(NobodyListens):
                await Channel("mail.send").send({})
        assert seen == ["thumbnails"]

    async def test_a_server_without_sockets_takes_from_them(self) -> None:
        seen: list[str] = []
        async with trio.open_nursery() as nursery:
            serving = partial(serve, several(seen), listen=False, only_channels=["thumb*"])
            assert await nursery.start(serving) == []
            await Channel("thumbnails").send({})
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert seen == ["thumbnails"]

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"exclude_channels": ["*"]}, "there is no named channel to take from: nothing would ever run"),
            ({"port": 1}, "listen=False goes with no bind="),
            ({"bind": "127.0.0.1:0"}, "listen=False goes with no bind="),
        ],
    )
    async def test_what_does_not_go_without_sockets(self, options: Any, said: str) -> None:
        with pytest.raises(ImproperlyConfigured, match=said):
            await serve(several(), listen=False, **options)


def several(seen: list[str] | None = None) -> Application:
    async def consume(message: Message) -> None:
        assert seen is not None
        seen.append(message.channel.name)

    return Application(
        [route(each, consume) for each in ("mail.send", "mail.bounce", "thumbnails", "http.request")]
    )

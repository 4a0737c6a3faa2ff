"""When the server pings, and until when it waits for an answer; in virtual time."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
import trio.testing
from raw_clients import PONG, RawClient, frame, handshake

from triochan import Message, Settings, route_class
from triochan.generic.websockets import WebsocketConsumer
from triochan.test import Client


class Quiet(WebsocketConsumer):
    ended: tuple[float, int]

    async def disconnect(self, message: Message, **kwargs: object) -> None:
        type(self).ended = (trio.current_time(), message["code"])


async def pings(settings: Settings, seconds: float, *, delay: float | None) -> list[float]:
    """When pings came, in seconds since the handshake; each is answered ``delay`` seconds later; None: none is."""
    times: list[float] = []
    async with Client([route_class(Quiet)], settings=settings) as client:
        stream = client.connect()
        raw = RawClient(stream)
        await raw.send(handshake())
        assert (await raw.head()).status == 101
        began = trio.current_time()
        with trio.move_on_after(seconds):
            while received := await stream.receive_some():
                assert received[:2] == b"\x89\x04", "not one ping"
                times.append(trio.current_time() - began)
                if delay is not None:
                    await trio.sleep(delay)
                    await raw.send(frame(PONG, bytes(received[2:])))
    return times


@pytest.mark.parametrize(("interval", "timeout"), [(20, 20), (20, 5), (5, 20), (0.3, 20)])
async def test_pings_are_an_interval_apart(
    interval: float, timeout: float, autojump_clock: trio.testing.MockClock
) -> None:
    settings = Settings(ping_interval=interval, ping_timeout=timeout)
    times = await pings(settings, 6.5 * interval, delay=interval / 100)
    assert len(times) == 6
    assert all(later - earlier == pytest.approx(interval) for earlier, later in pairwise([0, *times]))


async def test_who_answers_late_is_waited_for_and_pinged_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    settings = Settings(ping_interval=5, ping_timeout=20)
    assert await pings(settings, 60, delay=12) == pytest.approx([5, 25, 45])


@pytest.mark.parametrize(("interval", "timeout"), [(20, 20), (20, 5), (5, 20)])
async def test_who_does_not_answer_is_lost_after_the_timeout(
    interval: float, timeout: float, autojump_clock: trio.testing.MockClock
) -> None:
    began = trio.current_time()
    settings = Settings(ping_interval=interval, ping_timeout=timeout)
    assert await pings(settings, 100, delay=None) == pytest.approx([interval])
    at, code = Quiet.ended
    assert at - began == pytest.approx(interval + timeout, abs=0.1)
    assert code == 1006

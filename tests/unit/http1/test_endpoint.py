"""The reply channel of an HTTP request: pieces in order, the end of waiting, and sends that come too late."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from triochan.exceptions import ConnectionClosed
from triochan.http1.endpoint import ResponseEndpoint
from triochan.layers import MemoryLayer

MORE = {"content": b"more", "more_content": True}


@pytest.fixture
def endpoint() -> ResponseEndpoint:
    return ResponseEndpoint(MemoryLayer())


async def test_pieces_arrive_in_order_to_the_last(endpoint: ResponseEndpoint) -> None:
    await endpoint.deliver({"status": 200, "content": b"a", "more_content": True})
    assert (endpoint.started, endpoint.complete) == (True, False)
    with pytest.raises(ValueError, match="sent already"):
        await endpoint.deliver({"status": 200})
    await endpoint.deliver({"content": b"b"})
    assert endpoint.complete
    pieces = [endpoint.pieces.receive_nowait() for _ in range(2)]
    assert [(each.status, each.content, each.more_content) for each in pieces] == [
        (200, b"a", True),
        (None, b"b", False),
    ]
    with pytest.raises(ValueError, match="complete"):
        await endpoint.deliver({"content": b"c"})
    endpoint.deliver_nowait({"content": b"c"})
    assert endpoint.dropped == 0


async def test_a_writer_that_lags_is_waited_for_until_the_client_goes(endpoint: ResponseEndpoint) -> None:
    sent: list[int] = []

    async def produce() -> None:
        await endpoint.deliver({"status": 200, "more_content": True})
        with pytest.raises(ConnectionClosed):  # noqa: PT012
            for number in range(100):
                await endpoint.deliver(MORE)
                sent.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        await wait_all_tasks_blocked()
        waiting = len(sent)
        assert 0 < waiting < 99
        await endpoint.pieces.receive()
        await wait_all_tasks_blocked()
        assert len(sent) == waiting + 1
        endpoint.deliver_nowait(MORE)
        assert endpoint.dropped == 1
        endpoint.close()
    with pytest.raises(ConnectionClosed):
        await endpoint.deliver(MORE)
    endpoint.deliver_nowait(MORE)
    assert endpoint.dropped == 1


@pytest.mark.parametrize("content", [{"text": "for a WebSocket"}, {"content": b"no status"}])
async def test_a_group_send_that_does_not_fit_is_dropped(
    endpoint: ResponseEndpoint, content: dict[str, Any]
) -> None:
    endpoint.deliver_nowait(content)
    assert (endpoint.dropped, endpoint.started) == (1, False)
    endpoint.deliver_nowait({"status": 200})
    assert endpoint.complete


async def test_the_wait_for_the_first_piece(endpoint: ResponseEndpoint, autojump_clock: MockClock) -> None:
    """It has no end while the consumer runs, and one from its return until another answers."""
    assert endpoint.patience.deadline == math.inf
    endpoint.consumer_done(False, 7)
    assert endpoint.consumed.is_set()
    assert endpoint.patience.deadline == trio.current_time() + 7
    await endpoint.deliver({"status": 200, "more_content": True})
    assert endpoint.patience.deadline == math.inf


async def test_a_crash_ends_the_wait(endpoint: ResponseEndpoint) -> None:
    endpoint.consumer_done(True, 7)
    assert endpoint.crashed
    assert endpoint.patience.cancel_called


async def test_a_crash_behind_a_complete_response_changes_nothing(endpoint: ResponseEndpoint) -> None:
    await endpoint.deliver({"status": 200})
    endpoint.consumer_done(True, 7)
    assert not endpoint.patience.cancel_called


async def test_what_has_to_be_in_the_first_piece(endpoint: ResponseEndpoint) -> None:
    asked: list[dict[str, Any]] = []

    async def on_start(content: dict[str, Any]) -> dict[str, Any]:
        asked.append(content)
        return {**content, "headers": [("Set-Cookie", "a=b")]}

    endpoint.on_start = on_start
    with pytest.raises(ValueError, match="status"):
        await endpoint.deliver(MORE)
    await endpoint.deliver({"status": 200, "more_content": True})
    await endpoint.deliver(MORE)
    assert asked == [{"status": 200, "more_content": True}]
    assert endpoint.pieces.receive_nowait().headers == [(b"Set-Cookie", b"a=b")]

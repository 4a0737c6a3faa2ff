"""What blocks the event loop is named at the moment that it does."""

from __future__ import annotations

import threading
import time

import pytest
import trio
import trio.lowlevel

from triochan import Message, route
from triochan.http import text
from triochan.stalls import watched
from triochan.test import Client


def block(seconds: float) -> None:
    time.sleep(seconds)


async def blocking(message: Message) -> object:
    block(0.3)
    return text("at last")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "triochan.stalls"]


async def test_what_blocks_is_named_with_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    with watched(0.1):
        async with Client([route("http.request", blocking)]) as client:
            assert (await client.get("/")).text == "at last"
        await trio.sleep(0.05)
    blocked, goes_on = told(caplog)
    assert "blocked for 0.1 s" in blocked
    lines = blocked.splitlines()
    assert "in blocking" in lines[1]  # nothing of the server's stands before it
    assert "block(0.3)" in lines[2]
    assert "in block" in lines[3]
    assert goes_on.startswith("the event loop goes on, after 0.")


async def test_beside_a_server_the_whole_stack_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    with watched(0.1):
        block(0.2)
        await trio.sleep(0.05)
    blocked, _ = told(caplog)
    assert "in test_beside_a_server_the_whole_stack_is_shown" in blocked


async def test_a_loop_that_turns_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    with watched(0.1):
        for _ in range(10):
            block(0.02)
            await trio.lowlevel.checkpoint()
    assert told(caplog) == []


async def nobody_watches() -> None:
    with trio.fail_after(5):
        while watching():  # noqa: ASYNC110 - a thread sets no trio.Event as it ends
            await trio.sleep(0.01)


def watching() -> int:
    return sum(each.name.startswith("triochan's watch") for each in threading.enumerate())


@pytest.mark.parametrize("seconds", [0, 0.02])
async def test_the_thread_ends(seconds: float) -> None:
    await nobody_watches()  # those of tests before
    with watched(seconds):
        assert watching() == bool(seconds)
    await nobody_watches()


def test_it_ends_with_the_run(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        manager.__enter__()

    manager = watched(0.02)
    trio.run(main)
    deadline = time.monotonic() + 5
    while watching():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    manager.__exit__(None, None, None)
    assert told(caplog) == []

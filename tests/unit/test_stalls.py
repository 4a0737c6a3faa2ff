"""What blocks the event loop is named at the moment that it does."""

from __future__ import annotations

import re
import threading
import time

import pytest
import trio
import trio.lowlevel

from triochan import Message, route, stalls
from triochan.http import text
from triochan.stalls import watched
from triochan.test import Client


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "triochan.stalls"]


def block(caplog: pytest.LogCaptureFixture) -> None:
    """Until that is told: the thread that does is as fast as the machine lets it."""
    deadline = time.monotonic() + 20
    while not told(caplog) and time.monotonic() < deadline:
        time.sleep(0.01)


def block_briefly() -> None:
    time.sleep(0.02)


async def gone_on(caplog: pytest.LogCaptureFixture) -> list[str]:
    with trio.fail_after(20):
        while len(told(caplog)) < 2:  # noqa: ASYNC110 - a thread tells it
            await trio.sleep(0.01)
    return told(caplog)


async def test_what_blocks_is_named_with_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    async def blocking(message: Message) -> object:
        block(caplog)
        return text("at last")

    with watched(0.1):
        async with Client([route("http.request", blocking)]) as client:
            assert (await client.get("/")).text == "at last"
        blocked, goes_on = await gone_on(caplog)
    assert "blocked for 0.1 s" in blocked
    lines = blocked.splitlines()
    assert "in blocking" in lines[1]  # nothing of the server's stands before it
    assert "block(caplog)" in lines[2]
    assert "in block" in lines[3]
    assert re.fullmatch(r"the event loop goes on, after \d+\.\d s", goes_on)


async def test_beside_a_server_the_whole_stack_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    with watched(0.1):
        block(caplog)
        blocked, _ = await gone_on(caplog)
    assert "in test_beside_a_server_the_whole_stack_is_shown" in blocked


async def test_a_loop_that_turns_is_not_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stalls, "_LOOKS", 500)
    with watched(10):
        for _ in range(10):
            block_briefly()
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

"""Every way out of a connection, once more through trio-websocket's server, in memory."""

from __future__ import annotations

from typing import Any

import pytest
import trio.testing
from door import DoorClient
from recorder import Recorder, frame
from ways_out import WAYS, closed_with, matrix
from websockets.frames import Opcode

from triochan.test import Client, TestWebsocket


def at_fault(data: bytes) -> Any:
    """What trio-websocket takes for wrong: it ends the stream, and does not tell the client why."""

    async def act(client: Client, socket: TestWebsocket, record: Recorder) -> None:
        await socket.stream.send_all(data)
        await closed_with(socket, 1006)

    return act


UNSAID = {
    "not_utf8": at_fault(frame(Opcode.TEXT, b"\xff\xfe")),
    "not_masked": at_fault(frame(Opcode.TEXT, b"x", mask=False)),
    "bad_control_frame": at_fault(frame(Opcode.CLOSE, b"\x03\xec")),
}


@pytest.mark.parametrize(("name", "mode", "waiting"), matrix())
async def test_every_way_out_runs_disconnect_once_and_leaves_nothing(
    name: str,
    mode: str,
    waiting: str,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await WAYS[name].check(DoorClient, caplog, mode=mode, waiting=waiting, act=UNSAID.get(name))

"""Every way out of a connection, once more through trio-websocket's server."""

from __future__ import annotations

from typing import Any

import pytest
import trio.testing
from door import DoorClient
from recorder import Recorder, frame
from unit.websocket import test_closing as closing
from websockets.frames import Opcode

from triochan.test import Client, TestWebsocket


def at_fault(data: bytes) -> Any:
    """What trio-websocket takes for wrong: it ends the stream, and does not tell the client why."""

    async def way(client: Client, socket: TestWebsocket, record: Recorder) -> None:
        await socket.stream.send_all(data)
        assert (await socket.wait_closed()).code == 1006

    return way


UNSAID = {
    closing.not_utf8: at_fault(frame(Opcode.TEXT, b"\xff\xfe")),
    closing.not_masked: at_fault(frame(Opcode.TEXT, b"x", mask=False)),
    closing.bad_control_frame: at_fault(frame(Opcode.CLOSE, b"\x03\xec")),
}


@pytest.mark.parametrize("mode", ["overlap", "slight", "strict", "cancel", "session"])
@pytest.mark.parametrize(
    ("way", "code", "hooks", "logged"),
    closing.WAYS_OUT,
    ids=[f"{way[0].__name__}{i}" for i, way in enumerate(closing.WAYS_OUT)],
)
async def test_every_way_out_runs_disconnect_once_and_leaves_nothing(
    way: Any,
    code: int,
    hooks: dict[str, Any],
    logged: bool,
    mode: str,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(closing, "Client", DoorClient)
    await closing.test_every_way_out_runs_disconnect_once_and_leaves_nothing(
        UNSAID.get(way, way), code, hooks, logged, mode, autojump_clock, caplog
    )

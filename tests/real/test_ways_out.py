"""Every way out of a connection, once more over sockets: a server of its own, TCP, and TLS."""

from __future__ import annotations

from typing import Any

import pytest
import trio.testing
from raw_clients import descriptors
from socket_client import SocketClient, TLSClient
from ways_out import WAYS, matrix


@pytest.fixture
def patient_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0.003)


@pytest.mark.parametrize("client", [SocketClient, TLSClient])
@pytest.mark.parametrize(("name", "mode", "waiting"), matrix(("nowhere", "receive")))
async def test_every_way_out_runs_disconnect_once_and_leaves_nothing(
    client: Any,
    name: str,
    mode: str,
    waiting: str,
    patient_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    open_before = descriptors()
    await WAYS[name].check(client, caplog, mode=mode, waiting=waiting)
    assert descriptors() <= open_before

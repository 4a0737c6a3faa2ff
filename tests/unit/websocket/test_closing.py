"""Every way out of a connection, in virtual time and in memory: disconnect runs once, with the right code, and
nothing is left; whatever waits meanwhile."""

from __future__ import annotations

import pytest
import trio.testing
from ways_out import WAYS, matrix

from triochan.test import Client


@pytest.mark.parametrize(("name", "mode", "waiting"), matrix())
async def test_every_way_out_runs_disconnect_once_and_leaves_nothing(
    name: str,
    mode: str,
    waiting: str,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await WAYS[name].check(Client, caplog, mode=mode, waiting=waiting)

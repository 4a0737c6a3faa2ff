"""Group sends that leave one member out, over compressed sockets, with a client that nobody here wrote."""

from __future__ import annotations

from typing import Any

import trio
from websockets.sync.client import connect

from triochan import route_class
from triochan.generic.websockets import WebsocketConsumer
from triochan.test import LiveServer

TEXT = "word " * 100


class Compressed(WebsocketConsumer):
    groups = ("all",)
    compression = True

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        for number in range(6):
            await self.group_send("all", text=f"{number} {TEXT}", but_me=number % 2 == 0)


async def test_who_was_left_out_can_read_what_follows() -> None:
    """A compressed message may refer to the one before; who was not sent that one must not be sent such a message."""

    def talk(uri: str) -> tuple[list[str], list[str]]:
        with connect(uri) as one, connect(uri) as two:
            assert one.protocol.extensions
            one.send("x")
            heard = [[str(each.recv(5))[0] for _ in range(count)] for each, count in ((one, 3), (two, 6))]
            two.send("x")
            more = [[str(each.recv(5))[0] for _ in range(count)] for each, count in ((one, 6), (two, 3))]
        return heard[0] + more[0], heard[1] + more[1]

    async with LiveServer([route_class(Compressed)]) as address:
        one, two = await trio.to_thread.run_sync(talk, f"ws://{address.host}:{address.port}/")
    assert one == list("135012345")
    assert two == list("012345135")

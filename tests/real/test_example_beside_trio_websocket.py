"""The example beside trio-websocket: its own sockets and the consumers' are served by one server."""

from __future__ import annotations

import beside_trio_websocket as example
import trio
from raw_clients import TEXT, RawClient, frame, handshake

from triochan.wire.listeners import Address


async def test_both_kinds_of_sockets_and_a_shutdown() -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(example.main, 0)
            address = Address("127.0.0.1", server.port)
            async with await RawClient.websocket(address, "/countdown") as old:
                assert [await old.message() for _ in range(3)] == ["3", "2", "1"]
                assert await old.ended() == (1000, "")
            async with await RawClient.connect(address) as lost:
                await lost.send(handshake("/elsewhere"))
                assert (await lost.answer()).status == 403
            cook = await RawClient.websocket(address, "/rooms/kitchen")
            guest = await RawClient.websocket(address, "/rooms/kitchen")
            await cook.send(frame(TEXT, "the cake is ready"))
            for client in (cook, guest):
                assert await client.message() == "the cake is ready"
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as ends:
                    for client in (cook, guest):
                        ends.start_soon(say_goodbye, client)


async def say_goodbye(client: RawClient) -> None:
    async with client:
        assert await client.ended() == (1001, "going away")

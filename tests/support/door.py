"""A server of trio-websocket's in memory that hands its requests to a routing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Self

import trio
import trio.testing
import trio_websocket
from raw_clients import RawClient, handshake

from triochan.doors.trio_websocket import handle
from triochan.test import Client, TestWebsocket
from triochan.test.client import HeaderPairs

Handler = Callable[[trio_websocket.WebSocketRequest], Awaitable[None]]


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """Hands out the server's ends of connections that :meth:`connect` makes."""

    def __init__(self, *, lockstep: bool = False) -> None:
        self._make_pair: Any = (
            trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
        )
        self._come, self._accepted = trio.open_memory_channel[trio.abc.Stream](1000)

    def connect(self) -> trio.abc.Stream:
        """The client's end of a new connection."""
        ours: trio.abc.Stream
        ours, theirs = self._make_pair()
        self._come.send_nowait(theirs)
        return ours

    async def accept(self) -> trio.abc.Stream:
        return await self._accepted.receive()

    async def aclose(self) -> None:
        self._come.close()
        self._accepted.close()
        await trio.lowlevel.checkpoint()


class DoorClient(Client):
    """A client whose WebSockets come through trio-websocket's server; requests are served as ever.

    Args: as :class:`triochan.test.Client` takes them.

    Attributes:
        listener: makes connections to trio-websocket's server.
    """

    def __init__(self, *args: Any, lockstep: bool = False, **options: Any) -> None:
        super().__init__(*args, lockstep=lockstep, **options)
        self.listener = MemoryListener(lockstep=lockstep)
        self._to_door = False

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[Self]:
        async with super()._run(), trio.open_nursery() as server:
            listeners: Any = [self.listener]
            door = trio_websocket.WebSocketServer(
                self._handle, listeners, handler_nursery=self._nursery, max_message_size=2 * 1024 * 1024
            )
            await server.start(door.run)
            yield self
            server.cancel_scope.cancel()

    async def _handle(self, request: trio_websocket.WebSocketRequest) -> None:
        await handle(request, self.application)

    def connect(self) -> trio.abc.Stream:
        if not self._to_door:
            return super().connect()
        self._to_door = False
        return self.listener.connect()

    @asynccontextmanager
    async def websocket(
        self, path: str, *, subprotocols: Iterable[str] = (), headers: HeaderPairs = ()
    ) -> AsyncIterator[TestWebsocket]:
        self._to_door = True
        async with super().websocket(path, subprotocols=subprotocols, headers=headers) as socket:
            yield socket


@asynccontextmanager
async def program(handler: Handler, **options: Any) -> AsyncIterator[MemoryListener]:
    """A program that serves with trio-websocket in memory, for as long as the block lasts, then is cancelled.

    Args:
        options: of trio-websocket's server.
    """
    listener = MemoryListener()
    listeners: Any = [listener]
    async with trio.open_nursery() as nursery:
        await nursery.start(trio_websocket.WebSocketServer(handler, listeners, **options).run)
        yield listener
        nursery.cancel_scope.cancel()


async def websocket(listener: MemoryListener, path: str = "/", headers: Iterable[str] = ()) -> RawClient:
    """An open WebSocket to it."""
    client = RawClient(listener.connect())
    await client.send(handshake(path, headers))
    assert (await client.head()).status == 101
    return client

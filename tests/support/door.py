"""A server of trio-websocket's in memory that hands its requests to a routing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Self

import trio
import trio.testing
import trio_websocket

from triochan.doors.trio_websocket import handle
from triochan.test import Client, TestWebsocket


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
    """

    def __init__(self, *args: Any, lockstep: bool = False, **options: Any) -> None:
        super().__init__(*args, lockstep=lockstep, **options)
        self._listener = MemoryListener(lockstep=lockstep)
        self._to_door = False

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[Self]:
        async with super()._run(), trio.open_nursery() as server:
            listeners: Any = [self._listener]
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
        return self._listener.connect()

    def websocket(self, path: str, **options: Any) -> AbstractAsyncContextManager[TestWebsocket]:
        return self._websocket(super().websocket(path, **options))

    @asynccontextmanager
    async def _websocket(
        self, opening: AbstractAsyncContextManager[TestWebsocket]
    ) -> AsyncIterator[TestWebsocket]:
        self._to_door = True
        async with opening as socket:
            yield socket

"""A Trio program that serves with trio-websocket, and leaves some of its WebSockets to consumers.

It had a countdown; the rooms came later. Run it, and connect to ``ws://127.0.0.1:8000/countdown`` or
``ws://127.0.0.1:8000/rooms/kitchen`` with any client::

    python examples/beside_trio_websocket.py
"""

from __future__ import annotations

from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, WebSocketServer, serve_websocket

from triochan import Application, route_class
from triochan.doors.trio_websocket import handle, running
from triochan.generic.websockets import WebsocketConsumer


class Room(WebsocketConsumer):
    """Whatever one says, all in the room hear."""

    def connection_groups(self, **kwargs: Any) -> list[str]:
        return [f"room.{kwargs['room']}"]

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.group_send(f"room.{kwargs['room']}", text=text, bytes=bytes)


application = Application([route_class(Room, path=r"^/rooms/(?P<room>[a-z]{1,20})$")])


async def countdown(request: WebSocketRequest) -> None:
    """What the program served before."""
    websocket = await request.accept()
    try:
        for number in (3, 2, 1):
            await websocket.send_message(str(number))
    except ConnectionClosed:
        pass


async def handler(request: WebSocketRequest) -> None:
    if request.path == "/countdown":
        await countdown(request)
    else:
        await handle(request, application)


async def main(
    port: int = 8000, *, task_status: trio.TaskStatus[WebSocketServer] = trio.TASK_STATUS_IGNORED
) -> None:
    async with running(application), trio.open_nursery() as nursery:
        task_status.started(await nursery.start(serve_websocket, handler, "127.0.0.1", port, None))


if __name__ == "__main__":
    try:
        trio.run(main)
    except KeyboardInterrupt:
        pass

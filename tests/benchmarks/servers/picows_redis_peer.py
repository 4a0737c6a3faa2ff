"""picows on uvloop in several processes: its transports are sent what redis-py's pub/sub brings."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from benchmarks.servers import common, redis_room

members: set[WSTransport] = set()
others: set[WSTransport] = set()


class Listener(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            self.on_message(transport, frame)

    def on_message(self, transport: WSTransport, frame: WSFrame) -> None: ...


class Member(Listener):
    def __init__(self, group: set[WSTransport]) -> None:
        super().__init__()
        self.group = group

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.group.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.group.discard(transport)


class Sender(Listener):
    """Callbacks don't wait: a queue and a task keep what is published in order."""

    def __init__(self, room: redis_room.Room) -> None:
        super().__init__()
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.task = asyncio.create_task(self.publish(room))

    async def publish(self, room: redis_room.Room) -> None:
        while True:
            await room.publish(await self.queue.get())

    def on_message(self, transport: WSTransport, frame: WSFrame) -> None:
        self.queue.put_nowait(frame.get_payload_as_bytes())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.task.cancel()


async def main() -> None:
    options = common.start()
    room = redis_room.Room(options)

    def choose(request: WSUpgradeRequest) -> WSListener | None:
        if request.path == b"/send":
            return Sender(room)
        return Member(members if request.path == b"/group" else others)

    def deliver(data: bytes) -> None:
        for member in members:
            member.send(WSMsgType.TEXT, data)

    server: Any = await ws_create_server(choose, common.HOST, 0, backlog=common.BACKLOG)
    common.report(server.sockets[0].getsockname()[1])
    await room.subscribe(deliver)


if __name__ == "__main__":
    uvloop.run(main())

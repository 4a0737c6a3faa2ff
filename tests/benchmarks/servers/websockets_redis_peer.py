"""websockets on uvloop in several processes: `broadcast()` of what redis-py's pub/sub brings."""

from __future__ import annotations

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.servers import common, redis_room

members: set[ServerConnection] = set()
others: set[ServerConnection] = set()


async def stay(websocket: ServerConnection, group: set[ServerConnection]) -> None:
    group.add(websocket)
    try:
        await websocket.wait_closed()
    finally:
        group.discard(websocket)


async def main() -> None:
    options = common.start()
    room = redis_room.Room(options)

    async def handle(websocket: ServerConnection) -> None:
        assert websocket.request is not None
        if websocket.request.path == "/send":
            async for message in websocket:
                await room.publish(message)
        else:
            await stay(websocket, members if websocket.request.path == "/group" else others)

    async with serve(handle, common.HOST, 0, compression=None, backlog=common.BACKLOG) as server:
        common.report(next(iter(server.sockets)).getsockname()[1])
        await room.subscribe(lambda data: broadcast(members, data.decode()))


if __name__ == "__main__":
    uvloop.run(main())

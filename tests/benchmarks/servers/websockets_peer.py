"""websockets on uvloop; groups through its `broadcast()`."""

from __future__ import annotations

import asyncio
import json

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.servers import common

room: set[ServerConnection] = set()
json_room: set[ServerConnection] = set()


async def echo(websocket: ServerConnection) -> None:
    async for message in websocket:
        await websocket.send(message)


async def checkpoint(websocket: ServerConnection) -> None:
    async for message in websocket:
        await asyncio.sleep(0)
        await websocket.send(message)


async def sleep(websocket: ServerConnection) -> None:
    async for message in websocket:
        await asyncio.sleep(common.NAP)
        await websocket.send(message)


async def group(websocket: ServerConnection) -> None:
    room.add(websocket)
    try:
        async for message in websocket:
            broadcast(room, message)
    finally:
        room.discard(websocket)


async def json_group(websocket: ServerConnection) -> None:
    json_room.add(websocket)
    try:
        async for message in websocket:
            broadcast(json_room, json.dumps(json.loads(message), separators=(",", ":")))
    finally:
        json_room.discard(websocket)


handlers = {
    "/echo": echo,
    "/group": group,
    "/json": json_group,
    "/deflate": group,
    "/checkpoint": checkpoint,
    "/sleep": sleep,
}


async def handle(websocket: ServerConnection) -> None:
    assert websocket.request is not None
    await handlers[websocket.request.path](websocket)


async def main() -> None:
    options = common.start()
    async with serve(
        handle,
        common.HOST,
        0,
        compression="deflate" if options.compression else None,
        ssl=options.ssl_context(),
        backlog=common.BACKLOG,
    ) as server:
        common.report(next(iter(server.sockets)).getsockname()[1])
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(main())

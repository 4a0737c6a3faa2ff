"""trio-websocket alone, through its `serve_websocket`."""

from __future__ import annotations

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from benchmarks.servers import common

room: set[WebSocketConnection] = set()


async def echo(connection: WebSocketConnection) -> None:
    while True:
        await connection.send_message(await connection.get_message())


async def group(connection: WebSocketConnection) -> None:
    room.add(connection)
    try:
        while True:
            message = await connection.get_message()
            for member in tuple(room):
                await member.send_message(message)
    finally:
        room.discard(connection)


handlers = {"/echo": echo, "/group": group}


async def handle(request: WebSocketRequest) -> None:
    connection = await request.accept()
    try:
        await handlers[request.path](connection)
    except ConnectionClosed:
        pass


async def main() -> None:
    options = common.start()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, handle, common.HOST, 0, options.ssl_context())
        common.report(server.port)


if __name__ == "__main__":
    trio.run(main)

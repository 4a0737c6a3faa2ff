"""aiohttp on uvloop; a group's message is encoded once and handed to `send_frame`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import uvloop
from aiohttp import WSMsgType, web

from benchmarks.scenarios import ANSWER
from benchmarks.servers import common

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Room = set[web.WebSocketResponse]


def waiting(wait: Callable[[], Awaitable[None]] | None, options: common.Options) -> Handler:
    """An echo whose handler first waits for something."""

    async def echo(request: web.Request) -> web.WebSocketResponse:
        websocket = await opened(request, options)
        async for message in websocket:
            if message.type == WSMsgType.TEXT:
                if wait is not None:
                    await wait()
                await websocket.send_str(message.data)
        return websocket

    return echo


async def opened(request: web.Request, options: common.Options) -> web.WebSocketResponse:
    websocket = web.WebSocketResponse(
        compress=options.compression, heartbeat=common.PING_INTERVAL if options.pings else None
    )
    await websocket.prepare(request)
    return websocket


def group(encode: Callable[[str], bytes], options: common.Options) -> Handler:
    """What one member sends goes to all of them."""
    room: Room = set()

    async def member(request: web.Request) -> web.WebSocketResponse:
        websocket = await opened(request, options)
        room.add(websocket)
        try:
            async for message in websocket:
                if message.type == WSMsgType.TEXT:
                    await broadcast(room, encode(message.data))
        finally:
            room.discard(websocket)
        return websocket

    return member


async def broadcast(room: Room, data: bytes) -> None:
    for member in tuple(room):
        try:
            await member.send_frame(data, WSMsgType.TEXT)
        except ConnectionError:  # it has just gone
            room.discard(member)


def relayed(text: str) -> bytes:
    return text.encode()


def encoded_anew(text: str) -> bytes:
    return json.dumps(json.loads(text), separators=(",", ":")).encode()


async def checkpoint() -> None:
    await asyncio.sleep(0)


async def nap() -> None:
    await asyncio.sleep(common.NAP)


async def answer(request: web.Request) -> web.Response:
    return web.json_response(ANSWER)


async def main() -> None:
    options = common.start()
    application = web.Application()
    application.add_routes(
        [
            web.get("/echo", waiting(None, options)),
            web.get("/checkpoint", waiting(checkpoint, options)),
            web.get("/sleep", waiting(nap, options)),
            web.get("/group", group(relayed, options)),
            web.get("/json", group(encoded_anew, options)),
            web.get("/deflate", group(relayed, options)),
            web.get("/answer", answer),
        ]
    )
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    listening = common.listening_socket()
    site = web.SockSite(runner, listening, ssl_context=options.ssl_context(), backlog=common.BACKLOG)
    await site.start()
    common.report(listening.getsockname()[1])
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(main())

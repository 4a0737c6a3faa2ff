"""Starlette on uvicorn and uvloop, with uvicorn's `websockets-sansio` protocol."""

from __future__ import annotations

import json

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from benchmarks.servers import asgi

room: set[WebSocket] = set()
json_room: set[WebSocket] = set()


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


# Starlette has no groups. This is the broadcast loop of the FastAPI documentation's `ConnectionManager`.
async def group(websocket: WebSocket) -> None:
    await websocket.accept()
    room.add(websocket)
    try:
        async for text in websocket.iter_text():
            for member in tuple(room):
                await member.send_text(text)
    finally:
        room.discard(websocket)


async def json_group(websocket: WebSocket) -> None:
    await websocket.accept()
    json_room.add(websocket)
    try:
        async for content in websocket.iter_json():
            text = json.dumps(content, separators=(",", ":"))  # as send_json does, but once for all members
            for member in tuple(json_room):
                await member.send_text(text)
    finally:
        json_room.discard(websocket)


application = Starlette(
    routes=[
        WebSocketRoute("/echo", echo),
        WebSocketRoute("/group", group),
        WebSocketRoute("/json", json_group),
    ]
)

if __name__ == "__main__":
    asgi.serve(application)

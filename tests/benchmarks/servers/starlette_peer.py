"""Starlette on uvicorn and uvloop, with uvicorn's `websockets-sansio` protocol."""

from __future__ import annotations

import asyncio
import json

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from benchmarks.scenarios import ANSWER
from benchmarks.servers import asgi, common

room: set[WebSocket] = set()
json_room: set[WebSocket] = set()


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


async def checkpoint(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await asyncio.sleep(0)
        await websocket.send_text(text)


async def sleep(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await asyncio.sleep(common.NAP)
        await websocket.send_text(text)


async def answer(request: Request) -> JSONResponse:
    return JSONResponse(ANSWER)


# Starlette has no groups. This is the broadcast loop of the FastAPI documentation's `ConnectionManager`.
async def group(websocket: WebSocket) -> None:
    await websocket.accept()
    room.add(websocket)
    try:
        async for text in websocket.iter_text():
            for member in tuple(room):
                try:
                    await member.send_text(text)
                except (WebSocketDisconnect, RuntimeError):  # it has just gone
                    room.discard(member)
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
        WebSocketRoute("/deflate", group),
        WebSocketRoute("/checkpoint", checkpoint),
        WebSocketRoute("/sleep", sleep),
        Route("/answer", answer),
    ]
)

if __name__ == "__main__":
    asgi.serve(application)

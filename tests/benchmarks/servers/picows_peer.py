"""picows on uvloop: callbacks in place of tasks, about as fast as a Python server gets."""

from __future__ import annotations

import json

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from benchmarks.servers import common

room: set[WSTransport] = set()
json_room: set[WSTransport] = set()


class Listener(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            self.on_message(transport, frame)

    def on_message(self, transport: WSTransport, frame: WSFrame) -> None:
        raise NotImplementedError


class Echo(Listener):
    def on_message(self, transport: WSTransport, frame: WSFrame) -> None:
        transport.send(frame.msg_type, frame.get_payload_as_memoryview())


class Room(Listener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        room.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        room.discard(transport)

    def on_message(self, transport: WSTransport, frame: WSFrame) -> None:
        message = frame.get_payload_as_bytes()
        for member in room:
            member.send(WSMsgType.TEXT, message)


class JsonRoom(Listener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        json_room.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        json_room.discard(transport)

    def on_message(self, transport: WSTransport, frame: WSFrame) -> None:
        content = json.loads(frame.get_payload_as_utf8_text())
        message = json.dumps(content, separators=(",", ":")).encode()
        for member in json_room:
            member.send(WSMsgType.TEXT, message)


listeners: dict[str, type[Listener]] = {"/echo": Echo, "/group": Room, "/json": JsonRoom}


def choose(request: WSUpgradeRequest) -> WSListener | None:
    listener = listeners.get(request.path.decode())
    return listener() if listener else None


async def main() -> None:
    options = common.start()
    server = await ws_create_server(
        choose,
        common.HOST,
        0,
        ssl=options.ssl_context(),
        backlog=common.BACKLOG,
        enable_auto_ping=options.pings,
        auto_ping_idle_timeout=common.PING_INTERVAL,
        auto_ping_reply_timeout=common.PING_INTERVAL,
    )
    common.report(server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())

"""socketify: uWebSockets, a server in C++, called from Python; groups are its topics."""

from __future__ import annotations

import json
from typing import Any

from socketify import App, AppListenOptions, CompressOptions, OpCode

from benchmarks.scenarios import ANSWER
from benchmarks.servers import common


def main() -> None:
    options = common.start()
    compression = CompressOptions.SHARED_COMPRESSOR if options.compression else CompressOptions.DISABLED
    app = App()

    # As in its documentation's example of a broadcast, but for all: `ws.publish` leaves the sender out.
    def echo(ws: Any, message: str | bytes, opcode: OpCode) -> None:
        ws.send(message, opcode)

    def relay(topic: str) -> Any:
        def on_message(ws: Any, message: str | bytes, opcode: OpCode) -> None:
            app.publish(topic, message, opcode, options.compression)

        return on_message

    def encode_anew(ws: Any, message: str | bytes, opcode: OpCode) -> None:
        text = json.dumps(json.loads(message), separators=(",", ":"))
        app.publish("json", text, OpCode.TEXT, options.compression)

    def behaviour(on_message: Any, topic: str | None = None) -> dict[str, Any]:
        made = {
            "compression": compression,
            "max_payload_length": 16 * 1024 * 1024,
            "idle_timeout": 120,
            "send_pings_automatically": True,
            "max_backpressure": 16 * 1024 * 1024,
            "message": on_message,
        }
        if topic is not None:
            made["open"] = lambda ws: ws.subscribe(topic)
        return made

    app.ws("/echo", behaviour(echo))
    app.ws("/group", behaviour(relay("group"), "group"))
    app.ws("/json", behaviour(encode_anew, "json"))
    app.ws("/deflate", behaviour(relay("deflate"), "deflate"))
    app.get("/answer", lambda response, request: response.end(ANSWER))
    app.listen(AppListenOptions(port=0, host=common.HOST), lambda config: common.report(config.port))
    app.run()


if __name__ == "__main__":
    main()

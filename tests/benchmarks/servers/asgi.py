"""Runs an ASGI application on uvicorn in its fast configuration."""

from __future__ import annotations

from typing import Any

import uvicorn

from benchmarks.servers import common


class _Reporting(uvicorn.Server):
    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets=sockets)
        if sockets:
            common.report(sockets[0].getsockname()[1])


def serve(application: Any, options: common.Options | None = None) -> None:
    """`options` are those of an application that has started for itself."""
    options = options or common.start()
    certificate = options.certificate
    config = uvicorn.Config(
        application,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=options.compression,
        lifespan="off",
        log_level="warning",
        access_log=False,
        ssl_certfile=certificate,
        ssl_keyfile=certificate,
    )
    _Reporting(config).run(sockets=[common.listening_socket()])

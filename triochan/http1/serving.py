"""One connection served to its end, with what its server's access log needs of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from ..connection_task import ConnectionTask
from ..replies import Refusal
from ..runtime import Runtime
from ..wire.transport import Source, StreamTransport, Transport
from .logged import LoggedHttpConnection
from .protocol import HttpConnection


async def serve_connection(
    connect: Callable[[Source], Transport],
    runtime: Runtime,
    *,
    scheme: str = "http",
    client: list[Any] | None = None,
    server: list[Any] | None = None,
    refusal: Refusal | None = None,
) -> None:
    """Serve one connection to its end, as HTTP and, where a request asks for it, as a WebSocket.

    Args: as :class:`HttpConnection`.
    """
    task = ConnectionTask()
    kind = HttpConnection if runtime.access is None else LoggedHttpConnection
    kind(runtime, task, connect, scheme=scheme, client=client, server=server, refusal=refusal)
    await task.live()


async def serve_stream(stream: trio.abc.Stream, runtime: Runtime, **about: Any) -> None:
    """The same for any stream, which is closed with the connection.

    Args:
        about: as :func:`serve_connection` takes it.
    """
    async with trio.open_nursery() as pump:

        def connect(source: Any) -> Transport:
            transport = StreamTransport(stream, runtime.readers.again, source)
            pump.start_soon(transport.pump)
            return transport

        await serve_connection(connect, runtime, **about)

"""A server whose clients come by socket pairs: its readers wait for a real epoll, and time may be virtual."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from raw_clients import RawClient, handshake

from triochan import Application, Settings
from triochan.http1.serving import serve_connection
from triochan.layers import ChannelLayer
from triochan.runtime import Runtime
from triochan.websocket.connection import Connection
from triochan.wire.listeners import start_tls
from triochan.wire.transport import SocketTransport, Transport
from triochan.workers import Workers


def connection_of(runtime: Runtime) -> Connection:
    """The one WebSocket that is open."""
    [connection] = runtime.websockets
    assert isinstance(connection, Connection)
    return connection


@attrs.frozen
class Served:
    """A running server without a listener.

    Attributes:
        runtime: what its connections share.
        connections: the nursery of their tasks.
        services: the nursery of its readers and of all else that they share.
        workers: the consumers of named channels.
    """

    runtime: Runtime
    connections: trio.Nursery
    services: trio.Nursery
    workers: Workers

    def connect(
        self, *, send_buffer: int | None = None, tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
    ) -> RawClient:
        """A new connection's client.

        Args:
            send_buffer: of the server's socket, in bytes.
            tls: the server's context and the client's.
        """
        ours, theirs = socket.socketpair()
        if send_buffer is not None:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        theirs.setblocking(False)
        self.connections.start_soon(self._serve, theirs, None if tls is None else tls[0])
        stream: trio.abc.Stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        if tls is not None:
            stream = trio.SSLStream(stream, tls[1], server_hostname="localhost", https_compatible=True)
        return RawClient(stream)

    async def websocket(self, path: str = "/", *, behind: bytes = b"", **options: Any) -> RawClient:
        """An open WebSocket; ``behind`` is sent in one piece with the head."""
        client = self.connect(**options)
        await client.send(handshake(path) + behind)
        assert (await client.head()).status == 101
        return client

    async def _serve(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        runtime = self.runtime
        poller = runtime.readers.poller
        assert poller is not None
        try:
            served = sock if context is None else await start_tls(sock, context)

            def connect(source: Any) -> Transport:
                return SocketTransport(served, poller, source)

            await serve_connection(connect, runtime)
        finally:
            sock.close()


@asynccontextmanager
async def serving(
    routing: Any,
    *,
    settings: Settings | None = None,
    layer: ChannelLayer | None = None,
    access_log: bool = False,
) -> AsyncIterator[Served]:
    """Serve for as long as the block lasts, then cancel what is left."""
    application = Application.of(routing)
    async with Runtime.open(application, settings or Settings(), layer, access_log=access_log) as runtime:
        workers = Workers(runtime)
        async with runtime.serving() as services:
            services.start_soon(workers.run)
            async with trio.open_nursery() as connections:
                yield Served(runtime, connections, services, workers)
                connections.cancel_scope.cancel()

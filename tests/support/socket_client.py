"""Clients in memory, but for the transport: a real server on 127.0.0.1, and TCP, or TLS over it, to it.

Virtual time goes on only after a few milliseconds without anything to do: the kernel, too, is at rest then.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import trio
import trustme

from triochan.runtime import Runtime
from triochan.server import Server
from triochan.test import Client
from triochan.test.client import HOST, _unwrapped
from triochan.wire.listeners import open_listeners

BUFFER = 32 * 1024
"""Bytes of the client's receive buffer, so that one that does not read is soon full."""


class SocketClient(Client):
    """A server, and WebSockets and requests to it over TCP.

    Args: as :class:`triochan.test.Client` takes them; ``lockstep`` changes nothing.
    """

    contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
    """The server's and the client's, for TLS."""

    def __init__(self, *args: Any, lockstep: bool = False, **options: Any) -> None:
        super().__init__(*args, secure=self.contexts is not None, **options)

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[Self]:
        async with Runtime.open(self.application, self.settings, self._layer) as self.runtime:
            with _unwrapped():
                async with trio.open_nursery() as running, trio.open_nursery() as self._nursery:
                    listeners = await open_listeners("127.0.0.1", 0, None, "http")
                    server = Server(
                        self.runtime, listeners, None if self.contexts is None else self.contexts[0]
                    )
                    self.abort = server.abort
                    [address] = await running.start(server.run)
                    self._address = (address.host, address.port)
                    yield self
                    self._nursery.cancel_scope.cancel()
                    server.stop()

    def connect(self) -> trio.abc.Stream:
        ours = socket.socket()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        ours.connect(self._address)  # there is a place in the backlog: it does not wait
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        if self.contexts is None:
            return stream
        return trio.SSLStream(stream, self.contexts[1], server_hostname=HOST, https_compatible=True)


class TLSClient(SocketClient):
    """The same over TLS."""


def make_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's and the client's, for a certificate of their own."""
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert(HOST).configure_cert(server)
    authority.configure_trust(client)
    return server, client


TLSClient.contexts = make_contexts()

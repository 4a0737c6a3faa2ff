"""Sockets that listen, and the TLS handshake on those they accept."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import stat
from pathlib import Path
from typing import Any

import attrs
import trio

from .proxy_protocol import ProxyHeader, ProxyProtocolError, parse_proxy_header

BACKLOG = 2048
_PEEK = 4096


@attrs.frozen
class Address:
    """Where a server listens.

    Attributes:
        host, port: of a TCP socket; the port is the one that was picked where 0 was asked for.
        path: of a Unix socket, else None.
        scheme: ``"http"`` or ``"https"``.
    """

    host: str = ""
    port: int = 0
    path: str | None = None
    scheme: str = "http"

    @property
    def url(self) -> str:
        if self.path is not None:
            return f"{self.scheme}+unix:{self.path}"
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def __str__(self) -> str:
        return self.url


async def open_listeners(
    host: str | None, port: int, uds: str | os.PathLike[str] | None, scheme: str
) -> list[tuple[socket.socket, Address]]:
    """Non-blocking listening sockets: one for each address that ``host`` has, or the Unix socket ``uds``.

    Raises:
        OSError: an address can't be had; those opened before it are closed.
    """
    if uds is not None:
        return [(_open_unix(os.fspath(uds)), Address(path=os.fspath(uds), scheme=scheme))]
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[tuple[socket.socket, Address]] = []
    with contextlib.ExitStack() as unwind:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = unwind.enter_context(contextlib.closing(socket.socket(family, kind, protocol)))
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
            bound: Any = listener.getsockname()
            opened.append((listener, Address(bound[0], bound[1], scheme=scheme)))
        unwind.pop_all()
    return opened


def _open_unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        _remove_stale(path)
        listener.bind(path)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    """Remove a socket file that nobody listens on any more; a live one is left, for bind to stumble over."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()


async def start_tls(sock: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Shake hands as the server; the non-blocking socket that speaks TLS from now on. No limit of its own.

    Raises:
        OSError: the client does not speak TLS, or went away.
    """
    sock.getpeername()  # raises where the client is gone: wrap_socket would too, and leave its new socket open
    secured = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    try:
        while True:
            try:
                secured.do_handshake()
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(secured)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(secured)
            else:
                return secured
    except BaseException:
        secured.close()
        raise


async def receive_proxy_header(sock: socket.socket) -> ProxyHeader:
    """The header of the PROXY protocol that a connection begins with; what follows is left in the socket.

    Raises:
        ProxyProtocolError: it begins with something else, or ends.
        OSError: the socket is lost.
    """
    data = b""
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            more = sock.recv(_PEEK, socket.MSG_PEEK)
        except BlockingIOError:
            continue
        if not more:
            raise ProxyProtocolError(
                f"the connection ended before a header of the PROXY protocol had come: {data!r:.100}"
            )
        header = parse_proxy_header(data + more)
        if header is not None:
            sock.recv(header.size - len(data))
            return header
        # All that came is of the header; left there, it would be readable again at once.
        data += sock.recv(len(more))

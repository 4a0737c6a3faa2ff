"""Listening sockets: what they are called, what is in their way, and that nothing stays open."""

from __future__ import annotations

import errno
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from raw_clients import descriptors
from trio.testing import wait_all_tasks_blocked

from triochan.wire.listeners import Address, open_listeners, start_tls


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (Address("127.0.0.1", 8000), "http://127.0.0.1:8000"),
        (Address("::1", 8443, scheme="https"), "https://[::1]:8443"),
        (Address(path="/run/chat.sock"), "http+unix:/run/chat.sock"),
        (Address(path="/run/chat.sock", scheme="https"), "https+unix:/run/chat.sock"),
    ],
)
def test_an_address_is_a_url(address: Address, url: str) -> None:
    assert address.url == str(address) == url


async def test_a_free_port() -> None:
    [(listener, address)] = await open_listeners("127.0.0.1", 0, None, "https")
    with listener:
        assert address == Address("127.0.0.1", listener.getsockname()[1], scheme="https")
        assert address.port > 0
        assert not listener.getblocking()
        with socket.create_connection((address.host, address.port)):
            listener.accept()[0].close()


class TwoAddresses(trio.abc.HostnameResolver):
    """A host with two addresses."""

    def __init__(self, *ports: int) -> None:
        self.found = [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))
            for port in ports
        ]

    async def getaddrinfo(self, *arguments: Any, **options: Any) -> Any:
        return self.found * 2  # some resolvers name an address twice

    async def getnameinfo(self, *arguments: Any) -> Any:
        raise AssertionError


async def test_a_busy_port_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        trio.socket.set_custom_hostname_resolver(TwoAddresses(0, busy.getsockname()[1]))
        before = descriptors()
        with pytest.raises(OSError) as caught:
            await open_listeners("two.example", 0, None, "http")
        assert caught.value.errno == errno.EADDRINUSE
        assert descriptors() == before


async def test_every_address_of_a_host_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [one.getsockname()[1], other.getsockname()[1]]
    trio.socket.set_custom_hostname_resolver(TwoAddresses(*ports))
    opened = await open_listeners("two.example", 0, None, "http")
    for listener, _ in opened:
        listener.close()
    assert [address.port for _, address in opened] == ports


async def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    [(listener, address)] = await open_listeners(None, 0, path, "http")
    with listener, socket.socket(socket.AF_UNIX) as client:
        assert address == Address(path=str(path))
        assert not listener.getblocking()
        client.connect(str(path))


@pytest.mark.parametrize("what", ["a live socket", "a file"])
async def test_what_is_in_use_is_left(tmp_path: Path, what: str) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as live:
        if what == "a file":
            path.write_text("not yours")
        else:
            live.bind(str(path))
            live.listen()
        before = descriptors()
        with pytest.raises(OSError) as caught:
            await open_listeners(None, 0, path, "http")
        assert caught.value.errno == errno.EADDRINUSE
        assert descriptors() == before
        assert path.exists()


@pytest.fixture
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's, and that of a client that trusts it."""
    authority = trustme.CA()
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(trusting)
    return context, trusting


@pytest.mark.parametrize("client", ["speaks HTTP", "goes", "trusts nobody"])
async def test_tls_that_fails_is_an_oserror(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], client: str
) -> None:
    before = descriptors()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def refuse() -> None:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        with pytest.raises(trio.BrokenResourceError):
            await trio.SSLStream(
                stream, ssl.create_default_context(), server_hostname="localhost"
            ).do_handshake()
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        if client == "trusts nobody":
            nursery.start_soon(refuse)
        else:
            if client == "speaks HTTP":
                theirs.send(b"GET / HTTP/1.1\r\n\r\n")
            theirs.close()
        with pytest.raises(OSError):
            await start_tls(ours, contexts[0])
    assert descriptors() == before


async def test_tls_that_is_cut_short_closes_the_socket(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    before = descriptors()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start_tls, ours, contexts[0])
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert theirs.recv(100) == b""
    assert descriptors() == before

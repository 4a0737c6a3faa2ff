"""The bytes below a connection: the same promises for a socket, one with a poller, and a stream of Trio's."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
import trustme
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from triochan.wire.listeners import start_tls
from triochan.wire.poller import open_poller
from triochan.wire.transport import RECEIVE_SIZE, SocketTransport, StreamTransport, Transport

KINDS = ["socket", "polled", "stream"]


@asynccontextmanager
async def connected(kind: str) -> AsyncIterator[tuple[Transport, trio.abc.Stream]]:
    """A transport, and the stream at its other end."""
    if kind == "stream":
        stream, peer_stream = trio.testing.memory_stream_pair()
        yield StreamTransport(stream), peer_stream
        return
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    poller = open_poller() if kind == "polled" else None
    async with trio.open_nursery() as nursery:
        if poller is not None:
            nursery.start_soon(poller.run)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(theirs)) as peer:
            transport = SocketTransport(ours, poller)
            yield transport, peer
            await transport.aclose()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", KINDS)
async def test_bytes_both_ways_to_the_end(kind: str) -> None:
    async with connected(kind) as (transport, peer):
        assert (transport.socket is None) == (kind == "stream")
        await peer.send_all(b"there")
        with assert_checkpoints():
            assert await transport.receive_some() == b"there"
        with assert_checkpoints():
            assert await transport.send_some(b"back") == 4
        assert await peer.receive_some(100) == b"back"
        await peer.aclose()
        with assert_checkpoints():
            assert await transport.receive_some() == b""
        with assert_checkpoints(), pytest.raises(trio.BrokenResourceError):
            await transport.send_some(b"to nobody")


async def fill(transport: Transport) -> None:
    while True:
        await transport.send_some(bytes(RECEIVE_SIZE))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_close_wakes_who_reads_and_who_writes(kind: str) -> None:
    gone: list[str] = []

    async with connected(kind) as (transport, _), trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await transport.receive_some()
            gone.append("reader")

        async def write() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await fill(transport)
            gone.append("writer")

        nursery.start_soon(read)
        if kind != "stream":  # a memory stream takes whatever it is given
            nursery.start_soon(write)
        await wait_all_tasks_blocked()
        assert gone == []
        transport.close()
        transport.close()
        await wait_all_tasks_blocked()
        assert sorted(gone) == (["reader"] if kind == "stream" else ["reader", "writer"])
        with pytest.raises(trio.ClosedResourceError):
            await transport.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await transport.send_some(b"late")
        await transport.aclose()


@pytest.mark.parametrize("kind", KINDS[:2])
async def test_more_than_one_read_takes(kind: str, autojump_clock: trio.testing.MockClock) -> None:
    """A read that fills its buffer has left something, though no new edge will tell."""
    async with connected(kind) as (transport, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.send_all, bytes(2 * RECEIVE_SIZE + 1))
        received = 0
        with trio.fail_after(5):
            while received < 2 * RECEIVE_SIZE + 1:
                received += len(await transport.receive_some())
        assert received == 2 * RECEIVE_SIZE + 1
        with trio.move_on_after(1) as scope:
            await transport.receive_some()
        assert scope.cancelled_caught


async def test_the_end_of_what_is_sent() -> None:
    async with connected("socket") as (transport, peer):
        await transport.send_some(b"all of it")
        transport.send_eof()
        assert await peer.receive_some(100) == b"all of it"
        assert await peer.receive_some(100) == b""
        await peer.send_all(b"heard")
        assert await transport.receive_some() == b"heard"
        transport.close()
        transport.send_eof()  # no error


async def test_tls() -> None:
    """What the TLS layer has read already is not waited for, and the close is said to the peer."""
    authority = trustme.CA()
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(trusting)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    peer = trio.SSLStream(
        trio.SocketStream(trio.socket.from_stdlib_socket(theirs)), trusting, server_hostname="localhost"
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.do_handshake)
        transport = SocketTransport(await start_tls(ours, context))
    record = 16384
    await peer.send_all(bytes(3 * record))
    received = 0
    with trio.fail_after(5):
        while received < 3 * record:
            received += len(await transport.receive_some())
    assert await transport.send_some(b"back") == 4
    assert await peer.receive_some(100) == b"back"
    transport.close()
    assert await peer.receive_some(100) == b""
    await trio.aclose_forcefully(peer)


async def test_a_stream_is_closed_even_when_cancelled() -> None:
    async with connected("stream") as (transport, peer):
        with trio.CancelScope() as scope:
            scope.cancel()
            await transport.aclose()
        assert await peer.receive_some(100) == b""

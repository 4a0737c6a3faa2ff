"""The bytes below a connection: a plain socket, one that speaks TLS, and a stream of Trio's."""

from __future__ import annotations

import math
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from triochan.wire.listeners import start_tls
from triochan.wire.outbox import Flush, Outbox
from triochan.wire.poller import ENDED, READABLE, WRITABLE, Poller, has_epoll
from triochan.wire.tls import TlsSocket
from triochan.wire.transport import (
    BLOCKED,
    CLOSE_SECONDS,
    READ_SIZE,
    PolledStream,
    SocketTransport,
    StreamTransport,
)

needs_epoll = pytest.mark.skipif(not has_epoll(), reason="this system has no epoll")


class Source:
    """What stands behind a transport, and what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def readable(self) -> None:
        self.told.append("readable")

    def writable(self) -> None:
        self.told.append("writable")


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    server.options |= ssl.OP_NO_RENEGOTIATION
    return server, client


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@asynccontextmanager
async def sockets(
    kind: str, contexts: Contexts, buffer: int | None = None
) -> AsyncIterator[tuple[SocketTransport, socket.socket, Poller[Any], Source]]:
    """A transport over one end of a pair of sockets, the other end, and what watches it."""
    plain, theirs = socket.socketpair()
    ours: socket.socket | TlsSocket = plain
    if buffer is not None:
        for each in (plain, theirs):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    plain.setblocking(False)
    theirs.setblocking(False)
    if kind == "tls":
        client = contexts[1].wrap_socket(
            theirs, server_hostname="localhost", do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        theirs = client
        secured: list[TlsSocket] = []

        async def secure() -> None:
            secured.append(await start_tls(plain, contexts[0]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(secure)
            with trio.fail_after(5):
                while True:
                    try:
                        client.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        await trio.lowlevel.wait_readable(client)
        ours = secured[0]
        with pytest.raises(ssl.SSLWantReadError):
            client.recv(1)  # takes the session tickets
    poller: Poller[Any] = Poller()
    source = Source()
    transport = SocketTransport(ours, poller, source)
    try:
        yield transport, theirs, poller, source
    finally:
        transport.close()
        theirs.close()
        poller.close()


def flags_of(poller: Poller[Any]) -> int:
    """What is told now; of one socket."""
    flags = 0
    for _, each in poller.poll():
        flags |= each
    return flags


def everything(peer: socket.socket) -> bytes:
    """What has come to the other end."""
    data = b""
    try:
        while piece := peer.recv(READ_SIZE):
            data += piece
    except BLOCKED:
        pass
    return data


def fill(transport: SocketTransport) -> bytes:
    """Write until there is no room any more; what was taken."""
    taken = b""
    number = 0
    while True:
        data = b"%06d" % number * 10_000
        number += 1
        try:
            sent = transport.send(data)
        except BLOCKED:
            return taken
        taken += data[:sent]
        if sent < len(data):
            return taken


both = pytest.mark.parametrize("kind", ["plain", "tls"])


@needs_epoll
class TestSockets:
    @both
    async def test_bytes_both_ways_to_the_end(self, kind: str, contexts: Contexts) -> None:
        async with sockets(kind, contexts) as (transport, peer, poller, _):
            assert transport.read() is None
            assert not transport.more()
            peer.send(b"there")
            assert flags_of(poller) == READABLE
            assert transport.read() == b"there"
            assert not transport.more()
            assert transport.read() is None
            assert transport.send(b"back") == 4
            assert everything(peer) == b"back"
            peer.close()
            assert flags_of(poller) & ENDED

    @both
    async def test_the_end_lies_behind_what_can_be_read(self, kind: str, contexts: Contexts) -> None:
        async with sockets(kind, contexts) as (transport, peer, poller, _):
            peer.send(b"last words")
            if isinstance(peer, ssl.SSLSocket):
                with pytest.raises(ssl.SSLWantReadError):
                    peer.unwrap()
            peer.shutdown(socket.SHUT_WR)
            flags = flags_of(poller)
            assert flags & READABLE
            assert flags & ENDED
            transport.ended = True  # as a reader says that sees the flag
            assert transport.read() == b"last words"
            assert transport.more()
            assert transport.read() == b""

    async def test_a_tls_client_that_breaks_off_has_ended(self, contexts: Contexts) -> None:
        """What it has left unsaid is the business of who parses it: no request ends with its stream."""
        async with sockets("tls", contexts) as (transport, peer, _, _):
            peer.send(b"last words")
            socket.socket.shutdown(peer, socket.SHUT_WR)
            assert transport.read() == b"last words"
            assert transport.read() == b""

    @both
    async def test_a_read_that_fills_its_buffer_has_left_something(
        self, kind: str, contexts: Contexts
    ) -> None:
        async with sockets(kind, contexts, READ_SIZE) as (transport, peer, poller, _):
            size = 0
            for _ in range(20):
                try:
                    size += peer.send(bytes(10_000))
                except BLOCKED:
                    break
            assert size > READ_SIZE
            received = 0
            while received < size:
                assert flags_of(poller) & READABLE or transport.more()
                received += len(transport.read() or b"")
            assert transport.read() is None
            assert not transport.more()

    @both
    async def test_room_is_told_of_once_it_is_there_and_while_it_is_asked_for(
        self, kind: str, contexts: Contexts
    ) -> None:
        async with sockets(kind, contexts) as (transport, peer, poller, _):
            taken = fill(transport)
            transport.watch_writable()
            assert flags_of(poller) == 0
            received = everything(peer)
            assert flags_of(poller) == WRITABLE
            transport.unwatch_writable()
            assert flags_of(poller) == 0
            assert taken.startswith(received)

    @both
    async def test_a_pause_forgets_nobody_who_waits_for_room(self, kind: str, contexts: Contexts) -> None:
        async with sockets(kind, contexts) as (transport, peer, poller, _):
            fill(transport)
            transport.watch_writable()
            transport.pause()
            everything(peer)
            assert flags_of(poller) & WRITABLE
            fill(transport)
            transport.resume()
            assert flags_of(poller) == 0
            everything(peer)
            assert flags_of(poller) & WRITABLE

    @both
    async def test_what_comes_in_a_pause_is_told_of_behind_it(self, kind: str, contexts: Contexts) -> None:
        async with sockets(kind, contexts) as (transport, peer, poller, _):
            transport.pause()
            transport.pause()
            peer.send(b"there")
            flags_of(poller)  # an edge is passed over by whoever reads
            assert flags_of(poller) == 0  # and there are no levels
            transport.resume()
            transport.resume()
            assert flags_of(poller) == READABLE
            assert transport.read() == b"there"

    @both
    @pytest.mark.parametrize("full", [False, True])
    async def test_the_end_is_told_of_in_a_pause(self, kind: str, full: bool, contexts: Contexts) -> None:
        async with sockets(kind, contexts) as (transport, peer, poller, _):
            if full:
                fill(transport)
                transport.watch_writable()
            transport.pause()
            peer.send(b"unread")
            flags_of(poller)
            socket.socket.shutdown(peer, socket.SHUT_WR)
            assert flags_of(poller) & ENDED
            assert flags_of(poller) == 0  # once

    @both
    async def test_frames_stay_whole_whatever_is_dropped(self, kind: str, contexts: Contexts) -> None:
        """An outbox over a peer that reads now and then, and a policy that drops what waits."""

        class Owner:
            def overflowed(self) -> None:
                raise AssertionError("nothing is closed")

            def broken(self) -> None:
                broken.append(True)

            def drained(self) -> None:
                pass

        broken: list[bool] = []
        async with sockets(kind, contexts) as (transport, peer, poller, _):
            outbox = Outbox(transport, Flush(), Owner(), limit=200_000, overflow="drop_oldest")
            outbox.release()
            outbox.opened()
            received = b""
            size = 30_000
            for number in range(120):
                outbox.offer(b"\x82%07d" % number * (size // 8))
                if number % 9 == 0:
                    received += everything(peer)
                    if flags_of(poller) & WRITABLE:
                        outbox.writable()
                    outbox.flush.flush()
            assert outbox.dropped
            for _ in range(50):
                outbox.flush.flush()
                received += everything(peer)
                if flags_of(poller) & WRITABLE:
                    outbox.writable()
            assert not broken
            assert outbox.size == 0
            assert len(received) == (120 - outbox.dropped) * size
            numbers = []
            for at in range(0, len(received), size):
                frame = received[at : at + size]
                assert frame == frame[:8] * (size // 8)
                numbers.append(int(frame[1:8]))
            assert numbers == sorted(set(numbers))

    @both
    async def test_a_slow_peer_makes_progress_within_one_large_frame(
        self, kind: str, contexts: Contexts
    ) -> None:
        async with sockets(kind, contexts) as (transport, peer, _, _):
            data = bytes(range(256)) * 8192
            sent = transport.send(data)
            assert 0 < sent < len(data)
            received = everything(peer)
            while sent < len(data):
                before = sent
                sent += transport.send(data[sent:])
                assert sent > before
                received += everything(peer)
            assert received == data

    @pytest.mark.parametrize("clean", [True, False])
    async def test_only_a_clean_end_is_said_over_tls(self, clean: bool, contexts: Contexts) -> None:
        async with sockets("tls", contexts) as (transport, peer, _, _):
            transport.send(b"all of it")
            transport.close(clean=clean)
            assert peer.recv(100) == b"all of it"
            # Looked at below TLS: not every OpenSSL tells one end from the other.
            with socket.socket(fileno=os.dup(peer.fileno())) as raw:
                assert bool(raw.recv(100)) == clean
                assert raw.recv(100) == b""

    @both
    async def test_the_end_of_what_is_sent(self, kind: str, contexts: Contexts) -> None:
        async with sockets(kind, contexts) as (transport, peer, _, _):
            transport.send(b"all of it")
            transport.send_eof()
            assert peer.recv(100) == b"all of it"
            assert peer.recv(100) == b""
            peer.send(b"heard")
            heard = transport.read()
            assert heard == b"heard" if kind == "plain" else heard  # it is not decoded any more
            transport.close()  # which does not say it a second time
            transport.send_eof()  # no error

    async def test_bytes_that_wait_are_lost_with_a_close(self, contexts: Contexts) -> None:
        """Whoever wants them to arrive waits for that (``send_eof``): what the socket has taken arrives."""
        async with sockets("plain", contexts) as (transport, peer, _, _):
            taken = fill(transport)
            transport.close()
            assert everything(peer) == taken

    @both
    async def test_a_closed_transport_reaches_nobody(self, kind: str, contexts: Contexts) -> None:
        async with sockets(kind, contexts) as (transport, _, poller, _):
            send = transport.send
            number = transport.socket.fileno()
            transport.close()
            transport.close()
            assert poller.sources == {}
            with socket.socket() as successor:
                assert successor.fileno() == number
                for call in (lambda: send(b"late"), lambda: transport.send(b"late"), transport.read):
                    with pytest.raises(OSError):
                        call()
                for harmless in (
                    transport.pause,
                    transport.resume,
                    transport.watch_writable,
                    transport.unwatch_writable,
                    lambda: transport.hand_over(Source()),
                ):
                    harmless()
                assert poller.sources == {}

    async def test_a_peer_that_is_gone(self, contexts: Contexts) -> None:
        async with sockets("plain", contexts) as (transport, peer, _, _):
            transport.send(b"unread")
            peer.close()
            with pytest.raises(ConnectionResetError):
                transport.read()
            with pytest.raises(BrokenPipeError):
                transport.send(b"to nobody")

    async def test_another_source_is_told(self, contexts: Contexts) -> None:
        async with sockets("plain", contexts) as (transport, _, poller, source):
            other = Source()
            assert list(poller.sources.values()) == [source]
            transport.hand_over(other)
            assert list(poller.sources.values()) == [other]


# -- streams


@asynccontextmanager
async def streaming(
    lockstep: bool = False, stream: trio.abc.Stream | None = None
) -> AsyncIterator[tuple[StreamTransport, trio.abc.Stream, Source]]:
    """A pumped transport, and the stream at its other end."""
    make = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
    ours: trio.abc.Stream
    peer: trio.abc.Stream
    ours, peer = make()
    source = Source()
    transport = StreamTransport(stream or ours, lambda each: each.readable(), source)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.pump)
        yield transport, peer, source
        transport.close()
    await trio.aclose_forcefully(peer)


lockstep = pytest.mark.parametrize("lockstep", [False, True], ids=["memory", "lockstep"])


class Broken(trio.abc.Stream):
    """A stream that is lost."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class TestStreams:
    @lockstep
    async def test_bytes_both_ways_to_the_end(self, lockstep: bool) -> None:
        async with streaming(lockstep) as (transport, peer, source):
            await wait_all_tasks_blocked()
            assert (transport.read(), transport.more(), source.told) == (None, False, [])
            for data in (b"one", b"two"):
                await peer.send_all(data)
                await wait_all_tasks_blocked()
                assert transport.more()
                assert transport.read() == data
                assert transport.read() is None
            assert source.told == ["readable"] * 2
            assert transport.send(b"back") == 4
            assert await peer.receive_some(100) == b"back"
            await wait_all_tasks_blocked()
            assert source.told[2:] == ["writable"]
            await trio.aclose_forcefully(peer)
            await wait_all_tasks_blocked()
            assert source.told[3:] == ["readable"]
            assert transport.ended
            assert transport.more()

    async def test_the_end_stays_where_it_is(self) -> None:
        async with streaming() as (transport, peer, _):
            assert isinstance(peer, trio.StapledStream)
            await peer.send_all(b"last words")
            await peer.send_eof()
            await wait_all_tasks_blocked()
            assert transport.read() == b"last words"
            await wait_all_tasks_blocked()
            assert [transport.read() for _ in range(3)] == [b""] * 3

    @lockstep
    async def test_its_buffer_holds_one_write(self, lockstep: bool) -> None:
        async with streaming(lockstep) as (transport, peer, source):
            await wait_all_tasks_blocked()
            transport.watch_writable()
            assert transport.send(b"one") == 3
            with pytest.raises(BlockingIOError):
                transport.send(b"two")
            transport.unwatch_writable()
            assert await peer.receive_some(100) == b"one"
            await wait_all_tasks_blocked()
            assert source.told == ["writable"]
            assert transport.send(b"two") == 3
            assert await peer.receive_some(100) == b"two"

    async def test_who_has_paused_is_told_behind_it(self) -> None:
        async with streaming() as (transport, peer, source):
            transport.resume()
            transport.pause()
            await peer.send_all(b"there")
            await wait_all_tasks_blocked()
            assert source.told == []
            transport.resume()
            assert source.told == ["readable"]
            assert transport.read() == b"there"
            transport.pause()
            await trio.aclose_forcefully(peer)
            await wait_all_tasks_blocked()
            assert source.told == ["readable"] * 2  # of the end at once
            transport.resume()
            assert source.told == ["readable"] * 3

    async def test_another_source_is_told(self) -> None:
        async with streaming() as (transport, peer, source):
            other = Source()
            transport.hand_over(other)
            await peer.send_all(b"there")
            transport.send(b"back")
            await wait_all_tasks_blocked()
            assert (sorted(other.told), source.told) == (["readable", "writable"], [])

    @pytest.mark.parametrize("writes", [False, True])
    async def test_a_stream_that_is_lost(self, writes: bool) -> None:
        async with streaming(stream=Broken()) as (transport, _, source):
            if writes:
                transport.send(b"lost")
            await wait_all_tasks_blocked()
            assert "readable" in source.told
            assert transport.ended
            with pytest.raises(OSError, match="lost"):
                transport.read()
            with pytest.raises(OSError, match="closed"):
                transport.send(b"x")

    @lockstep
    async def test_a_close_lets_the_last_bytes_leave(self, lockstep: bool) -> None:
        async with streaming(lockstep) as (transport, peer, _):
            transport.send(b"last words")
            transport.close()
            transport.close(clean=False)
            transport.send_eof()
            with pytest.raises(OSError, match="closed"):
                transport.send(b"late")
            assert await peer.receive_some(100) == b"last words"
            assert await peer.receive_some(100) == b""

    async def test_but_not_for_ever(self, autojump_clock: MockClock) -> None:
        began = trio.current_time()
        async with streaming(lockstep=True) as (transport, _, source):
            transport.send(b"nobody reads this")
            await wait_all_tasks_blocked()
        assert trio.current_time() - began == CLOSE_SECONDS
        assert source.told == []

    async def test_a_stream_is_closed_even_when_cancelled(self) -> None:
        with trio.CancelScope() as scope:
            async with streaming() as (_, peer, _):
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        with trio.CancelScope(deadline=math.inf):
            assert await peer.receive_some(100) == b""


# -- sockets as streams, for systems without epoll


class TestPolledStream:
    @both
    async def test_bytes_both_ways_to_the_end(self, kind: str, contexts: Contexts) -> None:
        async with polled(kind, contexts) as (stream, peer):
            received: list[bytes] = []

            async def read() -> None:
                with assert_checkpoints():
                    received.append(await stream.receive_some())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await wait_all_tasks_blocked()
                peer.send(b"there")
            assert received == [b"there"]
            with assert_checkpoints():
                await stream.wait_send_all_might_not_block()
            with assert_checkpoints():
                await stream.send_all(b"back")
            assert everything(peer) == b"back"
            peer.send(b"abcd")
            assert await stream.receive_some(2) == b"ab"
            assert await stream.receive_some(2) == b"cd"  # which TLS has read already

    @both
    async def test_more_than_the_socket_takes(self, kind: str, contexts: Contexts) -> None:
        async with polled(kind, contexts) as (stream, peer):
            data = bytes(range(256)) * 8192
            received = bytearray()

            async def drain() -> None:
                while len(received) < len(data):
                    await trio.lowlevel.wait_readable(peer)
                    received.extend(everything(peer))

            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(drain)
                    await stream.send_all(data)
            assert received == data

    @both
    async def test_a_peer_that_is_gone(self, kind: str, contexts: Contexts) -> None:
        async with polled(kind, contexts) as (stream, peer):
            await stream.send_all(b"unread")
            peer.close()
            if kind == "plain":
                with pytest.raises(trio.BrokenResourceError, match="lost"):
                    await stream.receive_some()
            else:
                try:
                    assert await stream.receive_some() == b""
                except trio.BrokenResourceError:
                    pass  # so Python 3.13 has it
            with pytest.raises(trio.BrokenResourceError, match="lost"):
                await stream.send_all(bytes(10_000_000))

    async def test_a_close_wakes_who_waits(self, contexts: Contexts) -> None:
        async with polled("plain", contexts) as (stream, _), trio.open_nursery() as nursery:
            ended: list[type[BaseException]] = []

            async def read() -> None:
                try:
                    await stream.receive_some()
                except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
                    ended.append(type(error))

            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            with assert_checkpoints():
                await stream.aclose()
            await wait_all_tasks_blocked()
            assert ended == [trio.ClosedResourceError]


@asynccontextmanager
async def polled(kind: str, contexts: Contexts) -> AsyncIterator[tuple[PolledStream, socket.socket]]:
    async with sockets(kind, contexts) as (transport, peer, poller, _):
        poller.forget(transport.socket)
        yield PolledStream(transport.socket), peer


@needs_epoll
def test_a_socket_that_is_closed_has_no_backlog() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    poller: Poller[Any] = Poller()
    transport = SocketTransport(ours, poller, Source())
    assert transport.send(b"x" * 100) == 100
    assert transport.unacknowledged() > 0
    assert transport.room_made() is None  # no TCP
    ours.close()
    assert (transport.unacknowledged(), transport.room_made()) == (0, None)
    theirs.close()
    poller.close()

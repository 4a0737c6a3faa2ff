"""TLS on a non-blocking socket: records as they come, whole, in pieces and many at once; what leaves, and the end."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme
from raw_clients import TEXT, frame, handshake
from served import serving

from triochan import Message, route
from triochan.wire.listeners import start_tls
from triochan.wire.tls import TlsSocket

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module", params=VERSIONS, ids=["1.2", "1.3"])
def contexts(request: pytest.FixtureRequest, authority: trustme.CA) -> Contexts:
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    server.options |= ssl.OP_NO_RENEGOTIATION
    client.maximum_version = request.param
    return server, client


class Peer:
    """A client whose records are made and read by hand, so that it says what the socket carries at once."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.socket = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    async def handshake(self, behind: bytes = b"") -> None:
        """Shake hands; what is to come ``behind`` leaves in one piece with the last word."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.socket.send(self.outgoing.read())
                await trio.lowlevel.wait_readable(self.socket)
                self.incoming.write(self.socket.recv(65536))
            else:
                break
        self.socket.send(self.outgoing.read() + (self.records(behind) if behind else b""))

    def records(self, *texts: bytes) -> bytes:
        """One record each."""
        for text in texts:
            self.tls.write(text)
        return self.outgoing.read()

    def end(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.outgoing.read()

    def everything(self) -> bytes:
        """What has come and can be decrypted."""
        data = b""
        try:
            while True:
                self.incoming.write(self.socket.recv(65536))
        except BlockingIOError:
            pass
        try:
            while piece := self.tls.read(65536):
                data += piece
        except ssl.SSLWantReadError:
            pass
        return data


@asynccontextmanager
async def connected(
    contexts: Contexts, behind: bytes = b"", buffer: int | None = None
) -> AsyncIterator[tuple[TlsSocket, Peer]]:
    ours, theirs = socket.socketpair()
    if buffer is not None:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        peer = Peer(theirs, contexts[1])
        made: list[TlsSocket] = []

        async def secure() -> None:
            made.append(await start_tls(ours, contexts[0]))

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(secure)
                await peer.handshake(behind)
        assert peer.everything() == b""  # tickets
        yield made[0], peer


def read(secured: TlsSocket) -> list[bytes]:
    """All that can be read, as a reader does that was told of one edge."""
    pieces = []
    while True:
        try:
            pieces.append(secured.recv(65536))
        except ssl.SSLWantReadError:
            return pieces
        if not secured.full:
            return pieces


def fill(sock: socket.socket) -> int:
    """Send until there is no room; how much."""
    size = 0
    while True:
        try:
            size += sock.send(bytes(100))
        except BlockingIOError:
            return size


# -- reading


async def test_what_comes_with_the_last_word_of_the_handshake_is_there(contexts: Contexts) -> None:
    async with connected(contexts, behind=b"at once") as (secured, _):
        assert secured.pending() == secured.full
        assert b"".join(read(secured)) == b"at once"
        assert not secured.full
        assert not secured.pending()


async def test_records_that_come_together_are_given_out_together(contexts: Contexts) -> None:
    async with connected(contexts) as (secured, peer):
        peer.socket.send(peer.records(b"one", b"two", b"three"))
        assert read(secured) == [b"onetwothree"]
        peer.socket.send(peer.records(*[bytes([number]) * 3000 for number in range(9)]))
        assert b"".join(read(secured)) == b"".join(bytes([number]) * 3000 for number in range(9))
        assert not secured.full


@pytest.mark.parametrize("size", [1, 50, 4090, 16384])
async def test_a_record_that_comes_in_pieces_is_whole(contexts: Contexts, size: int) -> None:
    async with connected(contexts) as (secured, peer):
        record = peer.records(bytes(size))
        for cut in (1, 5, len(record) // 2, len(record) - 1):
            peer.socket.send(record[:cut])
            assert read(secured) == []
            # What completes it is small, what it carries is not.
            peer.socket.send(record[cut:])
            assert b"".join(read(secured)) == bytes(size)
            record = peer.records(bytes(size))


async def test_a_record_and_a_half_are_one_record(contexts: Contexts) -> None:
    async with connected(contexts) as (secured, peer):
        half = peer.records(b"whole", b"half")
        peer.socket.send(half[:-3])
        assert read(secured) == [b"whole"]
        peer.socket.send(half[-3:])
        assert read(secured) == [b"half"]


async def test_no_more_is_given_out_than_was_asked_for(contexts: Contexts) -> None:
    async with connected(contexts) as (secured, peer):
        peer.socket.send(peer.records(b"abcde") + peer.end())
        assert [secured.recv(2), secured.recv(2)] == [b"ab", b"cd"]
        assert secured.pending()
        assert secured.full
        assert [secured.recv(2) for _ in range(3)] == [b"e", b"", b""]  # the end stays where it is


async def test_the_end_comes_behind_what_came_with_it(contexts: Contexts) -> None:
    async with connected(contexts) as (secured, peer):
        peer.socket.send(peer.records(b"last", b" words") + peer.end())
        assert secured.recv(65536) == b"last words"
        assert secured.full
        assert secured.recv(65536) == b""


async def test_the_end_alone(contexts: Contexts) -> None:
    async with connected(contexts) as (secured, peer):
        peer.socket.send(peer.end())
        assert secured.recv(65536) == b""
        assert secured.full


@pytest.mark.parametrize("large", [False, True])
async def test_what_is_not_tls_is_an_error_behind_what_was(contexts: Contexts, large: bool) -> None:
    async with connected(contexts) as (secured, peer):
        good, bad = peer.records(b"good" * (2000 if large else 1)), bytearray(peer.records(b"bad"))
        bad[-1] ^= 1
        peer.socket.send(good + bad)
        assert secured.recv(65536) == b"good" * (2000 if large else 1)
        assert secured.full
        for _ in range(2):
            with pytest.raises(OSError, match="not TLS"):
                secured.recv(65536)
        with pytest.raises(ssl.SSLError):  # an alert says why
            peer.everything()


async def test_what_is_not_tls_at_once(contexts: Contexts) -> None:
    async with connected(contexts) as (secured, peer):
        peer.socket.send(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(OSError, match="not TLS"):
            read(secured)


async def test_what_is_not_tls_behind_the_end_is_taken_off_the_network(contexts: Contexts) -> None:
    """For a close upon unread bytes is a reset, and destroys the last words."""
    async with connected(contexts) as (secured, peer):
        secured.say_end()
        for _ in range(3):
            peer.socket.send(b"GET / HTTP/1.1\r\n\r\n")
            assert b"".join(read(secured))
        peer.socket.shutdown(socket.SHUT_WR)
        assert secured.recv(65536) == b""


# -- writing


async def test_a_record_that_has_begun_to_leave_comes_again(contexts: Contexts) -> None:
    """The same bytes have to come again until they have left; each arrives once, and in order."""
    async with connected(contexts, buffer=4096) as (secured, peer):
        data = b"".join(b"%07d\n" % number for number in range(100_000))
        sent, received, refused = 0, b"", 0
        while sent < len(data):
            try:
                sent += secured.send(data[sent : sent + 40_000])
            except ssl.SSLWantWriteError:
                refused += 1
                received += peer.everything()
        received += peer.everything()
        assert refused > 3
        assert received == data


async def test_of_a_large_write_what_has_left_is_said(contexts: Contexts) -> None:
    async with connected(contexts) as (secured, peer):
        data = bytes(range(256)) * 8192
        sent = secured.send(data)
        assert 0 < sent < len(data)
        assert sent % 16384 == 0
        received = peer.everything()
        while sent < len(data):
            sent += secured.send(data[sent:])
            received += peer.everything()
        assert received == data


async def test_a_large_write_where_there_is_no_room_at_all(contexts: Contexts) -> None:
    async with connected(contexts) as (secured, _):
        fill(secured.socket)
        for data in (bytes(100), bytes(100_000)):
            with pytest.raises(ssl.SSLWantWriteError):
                secured.send(data)


async def test_to_nobody(contexts: Contexts) -> None:
    async with connected(contexts) as (secured, peer):
        peer.socket.close()
        with pytest.raises(BrokenPipeError):
            secured.send(b"x")
        secured.say_end()
        secured.close()
        secured.close()
        with pytest.raises(OSError):
            secured.recv(1)


async def test_the_end_waits_for_nobody_and_is_said_once(contexts: Contexts) -> None:
    async with connected(contexts) as (secured, peer):
        secured.send(b"all")
        secured.say_end()
        secured.say_end()
        peer.incoming.write(peer.socket.recv(65536))
        assert peer.tls.read(100) == b"all"
        assert peer.tls.read(100) == b""
        assert not peer.incoming.pending


# -- what TLS itself says meanwhile


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl(1) here")
async def test_new_keys_are_answered_and_taken(authority: trustme.CA, tmp_path: Path) -> None:
    """At the letter K, openssl(1) asks for new keys of both sides (RFC 8446 section 4.6.3)."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = await trio.lowlevel.open_process(
            ["openssl", "s_client", "-CAfile", str(tmp_path / "authority.pem"), "-connect",
             f"127.0.0.1:{listener.getsockname()[1]}", "-tls1_3", "-msg"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            with trio.fail_after(10):
                await trio.lowlevel.wait_readable(listener)
                sock = listener.accept()[0]
                with sock:
                    sock.setblocking(False)
                    await talk(await start_tls(sock, context), client)
        finally:
            client.kill()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                await client.wait()


async def talk(secured: TlsSocket, client: trio.Process) -> None:
    assert client.stdin is not None
    assert client.stdout is not None
    shown = b""
    for number in range(3):
        await client.stdin.send_all(b"K\n")
        await trio.sleep(0.05)  # the client takes a letter for an order where it comes alone
        await client.stdin.send_all(b"text %d\n" % number)
        received = b""
        while not received:
            await trio.lowlevel.wait_readable(secured.socket)
            received = b"".join(read(secured))
        assert received == b"text %d\n" % number
        secured.send(b"answer %d\n" % number)
        while b"answer %d\n" % number not in shown:
            shown += await client.stdout.receive_some(65536)
        # OpenSSL may leave it to the next record to carry the answer.
        assert shown.count(b">>> TLS 1.3, Handshake [length 0005], KeyUpdate") == number + 1
        assert shown.count(b"<<< TLS 1.3, Handshake [length 0005], KeyUpdate") == number + 1


async def test_what_tls_is_owed_is_bounded(contexts: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks for new keys again and again and does not read the answers."""

    class Owing:
        pending = 1000

        def read(self) -> bytes:
            return bytes(1000)

    async with connected(contexts) as (secured, peer):
        fill(secured.socket)
        monkeypatch.setattr(secured, "_outgoing", Owing())
        for _ in range(66):
            peer.socket.send(peer.records(b"x"))
            assert secured.recv(65536) == b"x"
            assert not secured.full or len(secured._unsent) == 66_000
        with pytest.raises(OSError, match="does not read the answers"):
            secured.recv(65536)


# -- the handshake


@pytest.mark.parametrize("cut", [0, 1, 100])
async def test_a_client_that_goes_in_the_handshake(contexts: Contexts, cut: int) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    peer = Peer(theirs, contexts[1])
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    theirs.send(peer.outgoing.read()[:cut])
    theirs.close()
    with pytest.raises(OSError, match="went away"):
        await start_tls(ours, contexts[0])
    assert ours.fileno() == -1


async def test_a_handshake_goes_on_when_there_is_room(contexts: Contexts) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        filling = fill(ours)
        peer = Peer(theirs, contexts[1])
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        theirs.send(peer.outgoing.read())
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(start_tls, ours, contexts[0])
                await trio.testing.wait_all_tasks_blocked()
                while filling:
                    filling -= len(theirs.recv(min(filling, 65536)))
                await peer.handshake()


# -- behind a server


async def test_a_request_that_comes_with_the_last_word_of_the_handshake_is_answered(
    contexts: Contexts,
) -> None:
    """No edge tells of it: what carried it has been read already."""

    async def echo(message: Message) -> None:
        await message.reply_channel.send({"text": message["text"]})

    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    ours.setblocking(False)
    peer = Peer(theirs, contexts[1])

    async def answers(end: bytes) -> bytes:
        data = b""
        while not data.endswith(end):
            await trio.lowlevel.wait_readable(theirs)
            data += peer.everything()
        return data

    with theirs:
        async with serving([route("websocket.receive", echo)]) as server:
            with trio.fail_after(5):
                server.connections.start_soon(server._serve, ours, contexts[0])
                await peer.handshake(handshake("/"))
                assert (await answers(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
                # Messages of one record each that share a segment share an edge.
                theirs.send(peer.records(*[frame(TEXT, text) for text in ("one", "two", "three")]))
                assert await answers(b"three") == b"\x81\x03one\x81\x03two\x81\x05three"

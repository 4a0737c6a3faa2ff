"""Compressed frames that refer to the message before: whoever is sent what in which order can read it."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

import pytest
import trio

from triochan.exceptions import ConnectionClosed
from triochan.wire.deflate import Agreement
from triochan.wire.outbox import Flush, Outbox, Recipients, broadcast

TAKEOVER = Agreement(15, False)
NONE = Agreement(15, True)
NARROW = Agreement(9, False)


class Peer:
    """A transport with little room, and the client behind it, which keeps its window between messages."""

    def __init__(self, flush: Flush, agreement: Agreement | None, room: int) -> None:
        self.received = bytearray()
        self.messages: list[bytes] = []
        self.plain = self.compressed = 0
        self.room = room
        self.full = room
        self.wants = False
        self.send: Callable[[bytes], int] = self._send
        self.outbox = Outbox(self, flush, self, limit=10**6)
        self.outbox.agreement = agreement
        self.outbox.release()
        self.outbox.opened()
        bits = 15 if agreement is None else agreement.server_max_window_bits
        self._window = zlib.decompressobj(-bits)

    def _send(self, data: bytes) -> int:
        if not self.room:
            raise BlockingIOError
        taken = min(self.room, len(data))
        self.room -= taken
        self.received += data[:taken]
        return taken

    def watch_writable(self) -> None:
        self.wants = True

    def overflowed(self) -> None:
        raise AssertionError("nothing here is that large")

    def broken(self) -> None:
        raise AssertionError("nothing here breaks")

    def drained(self) -> None:
        """Nobody asks."""

    def read(self) -> None:
        """The peer takes what has come, and has room again."""
        self.room = self.full
        if self.wants:
            self.wants = False
            self.outbox.writable()
        while len(self.received) >= 2:
            first, size, start = self.received[0], self.received[1], 2
            if size == 126:
                size, start = int.from_bytes(self.received[2:4], "big"), 4
            elif size == 127:
                size, start = int.from_bytes(self.received[2:10], "big"), 10
            if len(self.received) < start + size:
                return
            payload = bytes(self.received[start : start + size])
            del self.received[: start + size]
            if first & 0x40:
                payload = self._window.decompress(payload + b"\x00\x00\xff\xff")
                self.compressed += 1
            else:
                self.plain += 1
            self.messages.append(payload)


def sentence(source: random.Random) -> str:
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    return " ".join(source.choice(words) for _ in range(source.randrange(1, 400)))


@pytest.mark.parametrize("seed", range(60))
async def test_every_peer_reads_every_message(seed: int) -> None:
    source = random.Random(seed)
    flush = Flush()
    kinds = [TAKEOVER, TAKEOVER, TAKEOVER, NONE, NARROW, None]
    peers = [Peer(flush, kind, source.choice([10**6, 3000, 200])) for kind in kinds]
    everybody = Recipients([peer.outbox for peer in peers])
    sent: list[list[bytes]] = [[] for _ in peers]
    async with trio.open_nursery() as nursery:
        for _ in range(120):
            text = sentence(source)
            what = source.randrange(8)
            if what < 3:
                chosen = [index for index in range(len(peers)) if what or source.random() < 0.6]
                broadcast(text, Recipients([peers[index].outbox for index in chosen]))
                for index in chosen:
                    sent[index].append(text.encode())
            elif what < 5:
                flush.holding = source.random() < 0.3
                for _ in range(source.randrange(6)):  # the same list: gathered once for all
                    text = sentence(source)
                    broadcast(text, everybody)
                    for messages in sent:
                        messages.append(text.encode())
                flush.holding = False
            elif what == 5:
                index = source.randrange(len(peers))
                outbox = peers[index].outbox
                await outbox.put(outbox.encode(text))
                sent[index].append(text.encode())
            elif what == 6:
                flush.flush()
            else:
                source.choice(peers).read()
        nursery.cancel_scope.cancel()
    flush.flush()
    for peer, expected in zip(peers, sent, strict=True):
        for _ in range(10_000):
            if not (peer.outbox.size or peer.received):
                break
            peer.read()
        assert peer.messages == expected
        assert bool(peer.compressed) == (peer.outbox.agreement is not None)


async def test_a_send_that_waited_is_referred_to_by_nothing_before_it() -> None:
    """A message is encoded, then waits for room; a group's messages pass it meanwhile."""
    flush = Flush()
    peer = Peer(flush, TAKEOVER, 20)
    outbox = peer.outbox
    text = "one and two and three and four and five and six and seven" * 20
    broadcast("the first " + text, Recipients([outbox]))
    outbox.limit = 1

    async def send() -> None:
        try:
            await outbox.put(outbox.encode("a waiting one " + text))
        except ConnectionClosed:  # pragma: no cover - it does not close
            raise AssertionError from None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        outbox.limit = 10**6
        broadcast("the second " + text, Recipients([outbox]))
        outbox._wake()
        await trio.testing.wait_all_tasks_blocked()
        broadcast("the third " + text, Recipients([outbox]))
    flush.flush()
    for _ in range(100):
        peer.read()
    assert [message.split()[1] for message in peer.messages] == [b"first", b"second", b"waiting", b"third"]


async def test_members_with_the_same_history_share_a_frame_that_refers_to_it() -> None:
    flush = Flush()
    peers = [Peer(flush, TAKEOVER, 10**6) for _ in range(3)]
    text = "".join(map(str, range(900)))
    for _ in range(3):
        broadcast(text, Recipients([peer.outbox for peer in peers]))
        flush.flush()
    first, *others = peers
    assert first.outbox.history
    assert all(peer.outbox.history is first.outbox.history for peer in others)
    total = len(first.received)
    for peer in peers:
        peer.read()
        assert peer.messages == [text.encode()] * 3
    alone = Peer(flush, NONE, 10**6)
    broadcast(text, Recipients([alone.outbox]))
    assert total < 2 * len(alone.received)

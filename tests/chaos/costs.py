"""What each kind of input that a client may choose costs the server's processor, per MB on the wire, against an echo.

The echo is one of messages of 128 bytes, which are 134 on the wire. The smallest message is one of 6, and costs a
handler and an answer as well: by construction, and as long as each message gets a handler, it costs 134 / 6 = 22 times
as much per byte. That is the yardstick: no kind may cost more than twice as much as that, which is room for what takes
another way than text in one frame does, and for the noise of a busy machine. What inflates is counted by what it
inflates to, for that is what ``max_message_size`` bounds; and a segment of TCP counts 40 bytes more than it carries,
which is what its headers take of the sender's line.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import trio
from raw_clients import BINARY, CLOSE, PING, PONG, TEXT, frame

from chaos.clients import OFFER, Client, deflated
from triochan.wire.listeners import Address

MOST = 2 * 134 / 6
"""Times an echo's processor seconds per MB."""
SEGMENT = 40
"""Bytes of the headers of IP and TCP."""
LONGEST = 5.0
"""Seconds that one kind may take."""
ATTEMPTS = 4
"""How often a kind is measured before it counts as too dear."""
IDLE = 0.02
"""Seconds without work, after which the server has done all there was."""


class Kind(NamedTuple):
    """One kind of input.

    Attributes:
        name: what it is.
        path: whom it is sent to.
        batch: what is sent again and again.
        size: bytes that one batch counts as.
        one_by_one: each byte in a segment of its own.
        websocket: it comes behind a handshake; False: it is HTTP.
        dies: the server ends the connection: each batch needs another one, and the handshake counts.
        tls: over TLS.
    """

    name: str
    path: str
    batch: bytes
    size: int
    one_by_one: bool = False
    websocket: bool = True
    dies: bool = False
    tls: bool = False


def kinds() -> Iterator[Kind]:
    def kind(name: str, path: str, batch: bytes, **more: bool) -> Kind:
        return Kind(name, path, batch, len(batch), **more)

    yield kind("an echo", "/echo", frame(TEXT, "x" * 128) * 100)
    yield kind("1-byte frames", "/echo", frame(TEXT, "x") * 1000)
    yield kind("empty messages", "/echo", frame(BINARY) * 1000)
    yield kind(
        "1-byte fragments",
        "/echo",
        frame(TEXT, "x", final=False) + frame(0, "x", final=False) * 2000 + frame(0),
    )
    yield kind("empty fragments", "/echo", frame(TEXT, final=False) + frame(0, final=False) * 2000 + frame(0))
    yield kind("pings", "/echo", frame(PING) * 1000)
    yield kind("pongs", "/echo", frame(PONG) * 1000)
    chunks = frame(BINARY, bytes(200))
    yield Kind("1-byte chunks", "/echo", chunks, len(chunks) * (SEGMENT + 1), one_by_one=True)
    yield kind("tiny compressed frames", "/deflate", frame(TEXT, deflated(b"x"), reserved=4) * 500)
    yield kind("empty compressed messages", "/deflate", frame(TEXT, b"\0", reserved=4) * 500)
    yield kind(
        "compressed messages of many streams",
        "/deflate",
        frame(BINARY, b"\x03\0" * 60 + b"\0", reserved=4) * 100,
    )
    pieces = (
        frame(BINARY, deflated(bytes(200)), reserved=4, final=False)
        + frame(0, final=False) * 1000
        + frame(0, b"")
    )
    yield kind("empty fragments of a compressed message", "/deflate", pieces)
    bomb = frame(BINARY, deflated(bytes(250_000)), reserved=4)
    yield Kind("compressed messages of 250 kB of zeros", "/deflate", bomb * 4, 1_000_000)
    yield kind("deep JSON", "/json", frame(TEXT, "[" * 500 + "]" * 500) * 20)
    yield kind("JSON that is too deep", "/json", frame(TEXT, "[" * 100_000), dies=True)
    yield kind(
        "arrays within each other as JSON",
        "/json",
        frame(TEXT, "[" + ",".join(["[" * 300 + "]" * 300] * 160) + "]"),
    )
    yield kind("empty objects as JSON", "/json", frame(TEXT, "[" + ",".join(["{}"] * 30_000) + "]") * 2)
    yield kind("empty arrays as JSON", "/json", frame(TEXT, "[" + ",".join(["[]"] * 30_000) + "]") * 2)
    yield kind(
        "numbers of 198 digits as JSON", "/json", frame(TEXT, "[" + ",".join(["9" * 198] * 500) + "]") * 2
    )
    yield kind(
        "fractions of 198 digits as JSON",
        "/json",
        frame(TEXT, "[" + ",".join(["0." + "9" * 198] * 500) + "]") * 2,
    )
    yield kind(
        "one key of an object as JSON", "/json", frame(TEXT, "{" + ",".join(['"a":1'] * 16_000) + "}") * 2
    )
    payload = '{"stream":"full","payload":{"a":[' + ",".join(["{}"] * 30_000) + "]}}"
    yield kind("empty objects to a channel that is full", "/streams", frame(TEXT, payload) * 2)
    yield kind(
        "messages to a channel that is full", "/streams", frame(TEXT, '{"stream":"full","payload":{}}') * 200
    )
    yield kind("messages to nobody", "/streams", frame(TEXT, '{"stream":"lost","payload":{}}') * 200)
    yield kind("unknown streams", "/streams", frame(TEXT, '{"stream":"x","payload":{}}') * 200)
    numbers = ",".join(str(each * (2**61 - 1)) for each in range(5000))
    objects = '{"stream":"echo","payload":{"a":[' + ",".join(["{}"] * 4_000) + "]}}"
    yield kind("empty objects for a stream", "/streams", frame(TEXT, objects) * 4)
    keys_of_one = ",".join(f'"{each:x}":1' for each in range(3_000))
    yield kind("short keys as JSON", "/json", frame(TEXT, "{" + keys_of_one + "}") * 4)
    yield kind("frames that are no object, for streams", "/streams", frame(TEXT, "[]") * 200)
    yield kind("numbers of one hash, for a set", "/typed", frame(TEXT, f"[{numbers}]") * 2)
    yield kind("items that do not fit", "/typed", frame(TEXT, "[" + ",".join(["{}"] * 30_000) + "]") * 2)
    yield kind("JSON of a long number", "/json", frame(TEXT, "1" * 100_000), dies=True)
    yield kind("small values as JSON", "/json", frame(TEXT, "[" + "1," * 5000 + "1]") * 4)
    yield kind("escapes as JSON", "/json", frame(TEXT, '"' + r"\u00e9" * 5000 + '"') * 4)
    yield kind("surrogates as JSON", "/json", frame(TEXT, '"' + r"\ud83d\ude00" * 2500 + '"') * 4)
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    yield kind("the smallest requests", "", request * 100, websocket=False)
    head = b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    yield kind("1-byte chunks of a body", "", head + b"1\r\nx\r\n" * 4000 + b"0\r\n\r\n", websocket=False)
    fields = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"a%d:\r\n" % each for each in range(80)) + b"\r\n"
    yield kind("empty header fields", "", fields * 20, websocket=False)
    yield kind(
        "a path of escapes", "", request.replace(b" / ", b" /" + b"%41" * 600 + b" ") * 40, websocket=False
    )
    yield kind(
        "a path of slashes", "", request.replace(b" / ", b" /" + b"/" * 1800 + b" ") * 40, websocket=False
    )
    keys = b"&".join(b"%x" % each for each in range(500))
    yield kind(
        "a query string of keys", "", request.replace(b" / ", b" /?" + keys + b" ") * 40, websocket=False
    )
    for what, line in {
        "cookies": b"Cookie: " + b"a=b;" * 450,
        "entity tags": b"If-None-Match: " + b'"a",' * 450,
        "entity tags and commas": b'If-None-Match: "a"' + b",  " * 600 + b"x",
        "content codings": b"Accept-Encoding: " + b"gzip;q=0.5," * 160,
        "a content coding and spaces": b"Accept-Encoding: gzip" + b" " * 1800 + b"x",
        "ranges": b"Range: bytes=" + b"0-0," * 450,
    }.items():
        asked = b"GET /file/__init__.py HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n"
        yield kind(what, "", asked * 20, websocket=False)
    multipart = b"multipart/form-data; boundary=--------"
    for name, unit in {
        "line ends": b"\r\n",
        "almost boundaries": b"\r\n---------",
        "dashes": b"-",
    }.items():
        text = unit * (60_000 // len(unit))
        part = b'----------\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + text
        yield kind(
            f"a form of {name}", "", posted(multipart, part + b"\r\n------------\r\n") * 2, websocket=False
        )
    urlencoded = b"application/x-www-form-urlencoded"
    for name, body in {
        "escapes": b"a=" + b"%41" * 20_000,
        "percent signs": b"a=" + b"%" * 60_000,
        "short fields": b"&".join(b"%x=b" % each for each in range(990)),
    }.items():
        yield kind(f"an urlencoded form of {name}", "", posted(urlencoded, body) * 2, websocket=False)
    yield Kind(
        "1-byte TLS records",
        "/echo",
        frame(TEXT, "x" * 128) * 2,
        268 * (SEGMENT + 23),
        one_by_one=True,
        tls=True,
    )
    slow = request * 8
    yield Kind("heads byte by byte", "", slow, len(slow) * (SEGMENT + 1), one_by_one=True, websocket=False)


def posted(content_type: bytes, body: bytes) -> bytes:
    head = b"POST /form HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nContent-Type: " % len(body)
    return head + content_type + b"\r\n\r\n" + body


class Costs:
    """Measures a server that has nothing else to do.

    Args:
        addresses: where it listens, over TCP and TLS.
        pid: its process.
        seconds: of its processor that are to be measured for each kind, more or less.
        counts: where the costs are told.
        violations: where it is told that one is too high.
    """

    def __init__(
        self, addresses: list[Address], pid: int, seconds: float, counts: Counter[str], violations: list[str]
    ) -> None:
        self._addresses = addresses
        self._schedule = Path(f"/proc/{pid}/schedstat")
        self._seconds = seconds
        self._counts = counts
        self._violations = violations

    async def measure(self) -> None:
        """Measure each kind; one that seems to cost too much is measured anew beside the echo, for what else runs on
        the machine can make either of them slower, but not cheaper."""
        first, *others = kinds()
        echo = await self._measured(first)
        if echo is None:
            return
        self._counts["cost of an echo, ms of processor per MB"] = round(1000 * echo)
        for kind in others:
            cost = await self._measured(kind)
            if cost is None:
                continue
            times = cost / echo
            for _ in range(ATTEMPTS - 1):
                if times <= MOST:
                    break
                again, beside = await self._measured(kind), await self._measured(first)
                if again is not None and beside is not None:
                    times = min(times, again / beside)
            self._counts[f"cost of {kind.name}, % of an echo's"] = round(100 * times)
            if times > MOST:
                self._violations.append(
                    f"{kind.name} cost {cost:.2f} s of processor per MB: {times:.0f} times an echo's, "
                    f"and may cost {MOST:.0f} times"
                )

    async def _measured(self, kind: Kind) -> float | None:
        """What it costs; None where that is a violation already: it can't be measured."""
        try:
            with trio.fail_after(4 * LONGEST):
                return await self._cost(kind)
        except (OSError, EOFError, trio.BrokenResourceError, trio.TooSlowError, AssertionError) as error:
            self._violations.append(f"the cost of {kind.name} could not be measured: {error!r}")
            return None

    async def _cost(self, kind: Kind) -> float:
        """Seconds of the server's processor per MB."""
        async with await self._connect(kind) as client:
            await self._send(client, kind)  # what is done for the first time is not measured
        until = trio.current_time() + LONGEST
        before, size = await self._at_rest(), 0
        while not size or (trio.current_time() < until and self._used() - before < self._seconds):
            async with await self._connect(kind) as client:
                while not size or (trio.current_time() < until and self._used() - before < self._seconds):
                    await self._send(client, kind)
                    size += kind.size
                    if kind.dies:
                        break
        return 1e6 * (await self._at_rest() - before) / size

    async def _connect(self, kind: Kind) -> Client:
        address = self._addresses[kind.tls]
        if kind.websocket:
            offer = [OFFER] if kind.path == "/deflate" else []
            client = await Client.websocket(address, kind.path, offer)
            assert client.compresses is bool(offer)
        else:
            client = await Client.connect(address)
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    async def _send(self, client: Client, kind: Kind) -> None:
        """Send one batch, and take what comes back until the server has seen all of it."""
        if kind.one_by_one:
            await client.send(*(kind.batch[at : at + 1] for at in range(len(kind.batch))))
        else:
            await client.send(kind.batch)
        if not kind.websocket:
            for _ in range(kind.batch.count(b" HTTP/1.1\r\n")):
                await client.answer()
            return
        if not kind.dies:
            await client.send(frame(PING, "seen"))
        while (came := await client.frame()) != (PONG, b"seen"):
            if came[0] == CLOSE:
                assert kind.dies, f"the server closed: {came[1]!r}"
                return

    def _used(self) -> float:
        """Seconds of processor that the server has used."""
        return int(self._schedule.read_text().split()[0]) / 1e9

    async def _at_rest(self) -> float:
        """The same, when it has done all that there was to do."""
        while True:
            used = self._used()
            await trio.sleep(IDLE)
            if self._used() - used < IDLE / 20:
                return used

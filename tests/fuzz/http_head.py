"""Whatever bytes a client sends, cut anywhere: its connection ends; what it was answered are whole, valid HTTP
responses (of which the last may break off where the client has hung up), then perhaps a WebSocket's valid frames;
nothing raises, nothing is logged as an error, and no task, no endpoint, no timer and no open stream is left.

    python tests/fuzz/http_head.py -max_total_time=60
"""

from __future__ import annotations

import logging
import sys
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import h11
import trio
import trio.testing
from wsproto.extensions import Extension, PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol

sys.path.insert(0, str(Path(__file__).parents[1]))


def masked(payload: bytes) -> bytes:
    """A compressed binary message with a mask of zeros."""
    assert len(payload) < 126
    return bytes((0xC2, 0x80 | len(payload), 0, 0, 0, 0)) + payload


HANDSHAKE = (
    b"GET /ws/room?a=b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: chat, superchat\r\n\r\n"
)
DEFLATE = HANDSHAKE[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /a%20b?c=d HTTP/1.1\r\nHost: x\r\n\r\nGET /second HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"HEAD /head HTTP/1.1\r\nHost: x\r\n\r\nPOST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    b"GET /none HTTP/1.0\r\n\r\n",
    b"GET http://x/absolute?q HTTP/1.1\r\nHost: x\r\nCookie: a=b; c=d\r\n\r\n",
    b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /%ff HTTP/1.1\r\nHost: x\r\n\r\n",
    HANDSHAKE,
    HANDSHAKE + b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58\x88\x80\0\0\0\0",
    HANDSHAKE + b"\x89\x80\0\0\0\0\x81\x80\0\0\0\0\x81\x80\0\0\0\0\x88\x82\0\0\0\0\x03\xe8",
    HANDSHAKE.replace(b"/ws/", b"/nowhere/"),
    HANDSHAKE.replace(b"13", b"8"),
    HANDSHAKE.replace(b"GET", b"POST"),
    HANDSHAKE.replace(b"dGhl", b""),
    HANDSHAKE.replace(b"/ws/room", b"/ws/denied"),
    HANDSHAKE.replace(b"Connection: keep-alive, Upgrade", b"Content-Length: 9\r\nConnection: Upgrade"),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 600 + b"\r\n\r\n",
    # Found before: what is no request behind a HEAD, a ping that crosses a close frame, an answer to a CONNECT.
    b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\nno request\r\n\r\n",
    HANDSHAKE + b"\x89\x80\0\0\0\0\x10\x81\x80\0\0\0\0",
    HANDSHAKE + b"\x81\x80\0\0\0\0\x89\x80\0\0\0\0\x81\x00\x89\x80\0\0\0\0",
    b"CONNECT /ws/ HTTP/1.1\r\nHost: x\r\n\r\nhttp://",
    # "Hello" twice, compressed, the second time cut by a ping, and a bomb behind them (RFC 7692 section 7.2.3).
    DEFLATE + b"\xc1\x87\0\0\0\0\xf2\x48\xcd\xc9\xc9\x07\0\x41\x83\0\0\0\0\xf2\x48\xcd\x89\x80\0\0\0\0"
    b"\x80\x84\0\0\0\0\xc9\xc9\x07\0" + masked(zlib.compress(bytes(9000))[2:-4]),
    DEFLATE + b"\x81\x84\0\0\0\0wait\x81\x8f\0\0\0\0aaaaaaaaaaaaaaa\x88\x80\0\0\0\0",
    HANDSHAKE + b"\x81\x84\0\0\0\0wait" * 12 + b"\x89\x80\0\0\0\0",
]
WORDS = [
    b"GET ", b"HEAD ", b"POST ", b"OPTIONS * ", b"CONNECT ", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n",
    b" HTTP/2.0\r\n", b"\r\n",
    b"\r\n\r\n", b"Host: x\r\n", b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n",
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: Upgrade\r\n", b"Upgrade: websocket\r\n",
    b"Upgrade: h2c\r\n", b"Sec-WebSocket-Version: 13\r\n", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    b"Sec-WebSocket-Protocol: ", b"Sec-WebSocket-Extensions: permessage-deflate\r\n",
    b"http://", b"%", b"%00", b"%2e%2e/", b"/ws/", b"0\r\n\r\n", b"\x88\x80\0\0\0\0",
    b"\x81\x80\0\0\0\0",
]  # fmt: skip


def seeds() -> list[bytes]:
    """Inputs to begin with: two bytes of parameters, then the stream."""
    return [bytes((flags, cut)) + data for data in REQUESTS for flags in (0, 1) for cut in (0, 1, 40)]


class Script(trio.abc.Stream):
    """A stream whose peer has written its lines beforehand, and reads everything.

    Args:
        chunks: what arrives.
        hang_up: the peer ends its side behind them, instead of falling silent.
    """

    def __init__(self, chunks: list[bytes], hang_up: bool) -> None:
        self._chunks = deque(chunks)
        self._hang_up = hang_up
        self.sent = bytearray()
        self.closed = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self.closed.is_set():
            if self._chunks:
                return self._chunks.popleft()
            if self._hang_up:
                return b""
            await self.closed.wait()
        raise trio.ClosedResourceError

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self.closed.is_set():
            raise trio.ClosedResourceError
        assert data
        self.sent += data

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.closed.set()
        await trio.lowlevel.checkpoint()


class Findings(logging.Handler):
    """What is logged as an error, and what Python could not raise."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    @contextmanager
    def collected(self) -> Iterator[None]:
        logger = logging.getLogger("triochan")
        logger.addHandler(self)
        try:
            with (
                mock.patch.object(sys, "unraisablehook", self.unraisable),
                mock.patch.object(logger, "propagate", False),
            ):
                yield
        finally:
            logger.removeHandler(self)

    def unraisable(self, event: Any) -> None:
        self.lines.append(f"unraisable: {event.exc_value!r} {event.err_msg} {event.object!r}")


def application() -> Any:
    from triochan import Application, route
    from triochan.generic.websockets import WebsocketConsumer
    from triochan.http import text

    async def echo(message: Any) -> None:
        await message.reply_channel.send(text(f"{message['method']} {message['path']!a} {message['body']!a}"))

    async def stream(message: Any) -> None:
        await message.reply_channel.send({"status": 200, "content": b"one", "more_content": True})
        await trio.lowlevel.checkpoint()
        await message.reply_channel.send({"content": b"two"})

    async def deny(message: Any) -> None:
        await message.reply_channel.send({"accept": False})

    class Echo(WebsocketConsumer):
        compression = True

        async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            if text == "wait":
                await trio.sleep(1)
            await self.send(text, bytes)

    return Application(
        [
            route("http.request", stream, path="^/stream"),
            route("http.request", echo, path="^/(?!none)"),
            route("websocket.connect", deny, path="^/ws/denied"),
            Echo.as_route(path="^/ws/"),
        ]
    )


def check(data: bytes) -> None:
    if len(data) < 2:
        return
    from fuzz.reference import pieces

    flags, cut, stream = data[0], data[1], data[2:]
    chunks = pieces(stream, range(0, len(stream), cut)) if cut else [stream] if stream else []
    findings = Findings()
    hang_up = not flags & 1
    # The order in which Trio runs ready tasks is random; the input decides it, so that a finding can be repeated.
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[attr-defined]
    trio._core._run._r.seed(zlib.crc32(data))  # type: ignore[attr-defined]
    with findings.collected():
        sent, heads = trio.run(converse, chunks, hang_up, clock=trio.testing.MockClock(autojump_threshold=0))
    assert not findings.lines, "\n".join(findings.lines)
    read_answers(sent, heads, hang_up)


async def converse(chunks: list[bytes], hang_up: bool) -> tuple[bytes, list[bool]]:
    """Serve one connection; what it was sent, and for each response whether it answers a HEAD."""
    from triochan import Settings
    from triochan.http1 import protocol, serving
    from triochan.runtime import Runtime

    heads: list[bool] = []

    class Recording(protocol.ResponseWriter):
        def __init__(self, method: bytes | str, *options: Any) -> None:
            heads.append(method in ("HEAD", b"HEAD"))
            super().__init__(method, *options)

    stream = Script(chunks, hang_up)
    settings = Settings(
        max_head_size=512, max_body_size=64, max_message_size=256, compression_threshold=1, inbox_limit=4
    )
    before = trio.lowlevel.current_statistics().tasks_living
    async with Runtime.open(application(), settings, None) as runtime:
        async with runtime.serving():
            with trio.fail_after(600), mock.patch.object(protocol, "ResponseWriter", Recording):
                await serving.serve_stream(stream, runtime)
            await trio.testing.wait_all_tasks_blocked()
            left = [*runtime.websockets, *runtime.http, *runtime.layer._endpoints]
            assert not left, f"something is left: {left}"
            assert not runtime.timers.pending, "a timer is left, which fires for nobody"
    assert stream.closed.is_set(), "the stream is not closed"
    assert trio.lowlevel.current_statistics().tasks_living == before, "a task is left"
    return bytes(stream.sent), heads


def read_answers(data: bytes, heads: list[bool], hung_up: bool) -> None:
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 101 "):
            assert b"sec-websocket-accept:" in head.lower()
            _read_frames(rest, _extensions(head))
            return
        data = _read_response(data, heads.pop(0) if heads else False, hung_up)


def _read_response(data: bytes, head_only: bool, hung_up: bool) -> bytes:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="HEAD" if head_only else "GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            if hung_up:
                return b""
            client.receive_data(b"")
        else:
            assert isinstance(event, (h11.InformationalResponse, h11.Response, h11.Data)), event
    return client.trailing_data[0]


def _extensions(head: bytes) -> list[Extension]:
    """What the response to a handshake agrees on."""
    lines = [line.partition(b":") for line in head.lower().split(b"\r\n")]
    agreed = [value.strip().decode() for name, _, value in lines if name == b"sec-websocket-extensions"]
    if not agreed:
        return []
    [agreement] = agreed
    assert agreement.startswith("permessage-deflate")
    extension = PerMessageDeflate()
    extension.finalize(agreement)
    return [extension]


def _read_frames(data: bytes, extensions: list[Extension]) -> None:
    protocol = FrameProtocol(client=True, extensions=extensions)
    protocol.receive_bytes(data)
    for _ in protocol.received_frames():
        pass
    assert not protocol._frame_decoder.buffer, "half a frame, or more behind a close frame"
    assert protocol._frame_decoder.header is None


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["triochan", "h11"]):
        import triochan.http1.protocol  # noqa: F401 - now, so that it is instrumented
    from fuzz.engine import fuzz as run

    run(check, seeds(), WORDS)


if __name__ == "__main__":
    main()

"""Readers of what a WebSocket client sends, made comparable: triochan's decoder, wsproto's and websockets'.

Each gives a :class:`Verdict`. wsproto knows no limit on a message's size, and notices some errors only at a frame's
payload; :class:`Reference` feeds it byte by byte, looks at each header, and adds the limit. Where wsproto is known to
be wrong, it is put right here:

- it refuses the close code 1014, which is registered;
- it sees a surrogate in text at its third byte, where the second shows it;
- a control frame between the fragments of a compressed message makes it take the rest for uncompressed, so that
  compressed messages are held against websockets' codec.
"""

from __future__ import annotations

import itertools
import zlib
from codecs import getincrementaldecoder
from collections.abc import Generator, Iterable
from typing import Any

import attrs
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close
from websockets.frames import Frame as WebsocketsFrame
from websockets.streams import StreamReader
from wsproto.extensions import PerMessageDeflate as PerMessageDeflateOfWsproto
from wsproto.frame_protocol import CloseReason, Frame, FrameProtocol, Opcode, ParseFailed

from triochan.wire.control import CloseError, parse_close
from triochan.wire.deflate import Agreement
from triochan.wire.frames import BINARY, CLOSE, PING, PONG, TEXT, FrameDecoder

KEY = b"\x37\xfa\x21\x3d"


@attrs.define
class Verdict:
    """What a reader made of a stream.

    Attributes:
        events: ``("text", str)``, ``("binary", bytes)``, ``("ping", bytes)``, ``("pong", bytes)`` and
            ``("close", code, reason)``, in the order of arrival.
        refused: the close code of what was wrong; None where nothing was.
    """

    events: list[tuple[Any, ...]] = attrs.field(factory=list)
    refused: int | None = None


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    key: bytes | None = KEY,
    length_bytes: int | None = None,
    claim: int | None = None,
) -> bytes:
    """One frame as a client sends it, right or wrong.

    Args:
        reserved: the three reserved bits, e.g. ``0x40``.
        key: the mask; None: unmasked.
        length_bytes: 0, 2 or 8 bytes of extended length; None: the shortest form.
        claim: the length to state, where it is not the payload's.
    """
    size = len(payload) if claim is None else claim
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 65536 else 8
    short = {0: size, 2: 126, 8: 127}[length_bytes]
    head = bytes((fin << 7 | reserved | opcode, (0x80 if key is not None else 0) | short))
    extended = size.to_bytes(length_bytes, "big") if length_bytes else b""
    if key is None:
        return head + extended + payload
    return head + extended + key + mask(payload, key)


def mask(payload: bytes, key: bytes) -> bytes:
    return bytes(each ^ key[index % 4] for index, each in enumerate(payload))


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """``data``, cut at these places."""
    places = sorted({min(each, len(data)) for each in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


class Protocol(FrameProtocol):
    """wsproto's, with the close code that it does not know."""

    def _process_close(self, frame: Frame) -> Frame:
        assert isinstance(frame.payload, (bytes, bytearray))
        bad_gateway = frame.payload[:2] == b"\x03\xf6"
        if not bad_gateway:
            return super()._process_close(frame)
        payload = b"\x03\xf5" + frame.payload[2:]
        judged = super()._process_close(Frame(frame.opcode, payload, True, True))
        return Frame(frame.opcode, (1014, judged.payload[1]), True, True)  # type: ignore[arg-type]


class Reference:
    """wsproto's server side. ``feed`` it; ``verdict`` says what it made of everything so far."""

    def __init__(self, max_message_size: int, *, compression: bool = False) -> None:
        self.verdict = Verdict()
        self._max = max_message_size
        deflate = PerMessageDeflateOfWsproto(client_no_context_takeover=True)
        if compression:
            deflate.accept("permessage-deflate")
        self._protocol = Protocol(client=False, extensions=[deflate])  # it leaves out what is not enabled
        self._header: Any = None
        self._parts: list[Any] = []
        self._size = 0
        self._ended = False

    def feed(self, data: bytes) -> None:
        decoder = self._protocol._frame_decoder
        position = 0
        while position < len(data) and not self._ended:
            step = 1  # within a header; a payload goes in one piece
            if decoder.header is not None:
                step = max(1, decoder.header.payload_len - decoder.payload_consumed - len(decoder.buffer))
            self._protocol.receive_bytes(data[position : position + step])
            position += step
            try:
                for each in self._protocol.received_frames():
                    self._take(each)
                self._check_header(decoder.header)
            except ParseFailed as error:
                self.verdict.refused = int(error.code)
                self._ended = True

    def _check_header(self, header: Any) -> None:
        if header is self._header:
            return
        self._header = header
        if header is None or header.opcode.iscontrol():
            return
        under_way = self._protocol._message_decoder.opcode is not None
        if under_way is not (header.opcode is Opcode.CONTINUATION):
            raise ParseFailed("wsproto says so as soon as there is a byte of payload")
        if self._size + header.payload_len > self._max:
            raise ParseFailed("too large", 1009)  # type: ignore[arg-type]

    def _take(self, each: Any) -> None:
        if each.opcode is Opcode.CLOSE:
            code, reason = each.payload
            self.verdict.events.append(("close", int(code), reason))
            self._ended = True
        elif each.opcode.iscontrol():
            self.verdict.events.append((each.opcode.name.lower(), bytes(each.payload)))
        else:
            self._parts.append(each.payload)
            text = self._protocol._message_decoder.decoder
            if text is not None and b"\xed\xa0" <= text.getstate()[0] < b"\xee":
                raise ParseFailed("half a surrogate", CloseReason.INVALID_FRAME_PAYLOAD_DATA)
            if each.frame_finished:
                self._size += self._header.payload_len if self._header is not None else 0
                self._header = None
            if each.message_finished:
                if each.opcode is Opcode.TEXT:
                    self.verdict.events.append(("text", "".join(self._parts)))
                else:
                    self.verdict.events.append(("binary", b"".join(self._parts)))
                self._parts, self._size = [], 0


def read_by_wsproto(data: bytes, max_message_size: int, *, compression: bool = False) -> Verdict:
    """
    Args:
        compression: permessage-deflate was agreed on. The limit then counts bytes on the wire.
    """
    reference = Reference(max_message_size, compression=compression)
    reference.feed(data)
    return reference.verdict


def read_by_websockets(data: bytes, max_message_size: int) -> Verdict:
    """By websockets' codec, with permessage-deflate. What it leaves to its connections is done here: messages from
    fragments, UTF-8, the limit. It does not see whether deflate data is complete, and not what follows its end."""
    verdict = Verdict()
    reader = StreamReader()
    reader.feed_data(data)
    deflate = PerMessageDeflate(True, True, 15, 15)
    parts: bytearray | None = None
    text = getincrementaldecoder("utf-8")()
    kind = ""
    while len(reader.buffer) and verdict.refused is None:
        try:
            each = _run(WebsocketsFrame.parse(reader.read_exact, mask=True, extensions=[deflate]))
            name = each.opcode.name.lower()
            if name == "close":
                closed = Close.parse(bytes(each.data))
                verdict.events.append(("close", int(closed.code), closed.reason))
                break
            if name in ("ping", "pong"):
                verdict.events.append((name, bytes(each.data)))
                continue
            if (parts is None) is (name == "cont"):
                raise ProtocolError("out of order")
            if parts is None:
                parts, kind = bytearray(), name
                text.reset()
            parts += each.data
            if len(parts) > max_message_size:
                raise PayloadTooBig(len(parts))
            if kind == "text":
                text.decode(bytes(each.data), each.fin)
            if each.fin:
                verdict.events.append((kind, parts.decode() if kind == "text" else bytes(parts)))
                parts = None
        except PayloadTooBig:
            verdict.refused = 1009
        except UnicodeDecodeError:
            verdict.refused = 1007
        except ProtocolError as error:
            verdict.refused = 1007 if isinstance(error.__cause__, zlib.error) else 1002
    return verdict


def _run(parsing: Generator[None, None, WebsocketsFrame]) -> WebsocketsFrame:
    try:
        next(parsing)
    except StopIteration as done:
        frame: WebsocketsFrame = done.value
        return frame
    raise AssertionError("the stream stops within a frame")


def read_by_triochan(
    chunks: Iterable[bytes],
    max_message_size: int,
    limit: int = 64,
    *,
    short_cut: bool = False,
    agreement: Agreement | None = None,
) -> Verdict:
    """Feed the chunks as a connection does: what a limit holds back is asked for before more is fed.

    Args:
        short_cut: try ``single_text`` first.
    """
    decoder = FrameDecoder(max_message_size, agreement)
    verdict = Verdict()
    for chunk in chunks:
        if short_cut and (text := decoder.single_text(chunk)) is not None:
            _normalise(verdict, TEXT, text)
            continue
        events = decoder.receive(chunk, limit)
        while True:
            assert len(events) <= limit
            for kind, value in events:
                _normalise(verdict, kind, value)
            if not decoder.pending:
                break
            assert decoder._buffer is not None
            before = len(decoder._buffer)
            events = decoder.receive(b"", limit)
            assert not decoder.pending or len(decoder._buffer) < before, "pending, and no way forward"
    if decoder.failure is not None:
        assert verdict.refused is None
        verdict.refused, reason = decoder.failure
        assert len(reason.encode()) <= 123, "the reason does not go into a close frame"
    assert decoder.close_seen is any(event[0] == "close" for event in verdict.events) or verdict.refused
    return verdict


_NAMES = {TEXT: "text", BINARY: "binary", PING: "ping", PONG: "pong"}


def _normalise(verdict: Verdict, kind: int, value: Any) -> None:
    assert type(value) is (str if kind == TEXT else bytes)
    if kind != CLOSE:
        verdict.events.append((_NAMES[kind], value))
        return
    try:
        verdict.events.append(("close", *parse_close(value)))
    except CloseError as error:
        verdict.refused = error.code


def settle(data: bytes, max_message_size: int) -> bytes:
    """``data``, and zeros behind it until every reader must have come to an end.

    Zeros complete whatever frame is unfinished, and then are an unmasked frame. A reader that sees an error early
    and one that sees it at the frame's end come out the same.
    """
    return data + bytes(max(max_message_size, 125) + 16)

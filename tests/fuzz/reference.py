"""Two readers of what a WebSocket client sends, made comparable: triochan's decoder and wsproto's.

Both give a :class:`Verdict`. wsproto knows no limit on a message's size, and notices some errors only at a frame's
payload; :class:`Reference` feeds it byte by byte, looks at each header, and adds the limit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import attrs
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from triochan.wire.frames import BINARY, CONTROL, TEXT, FrameDecoder

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


class Reference:
    """wsproto's server side. ``feed`` it; ``verdict`` says what it made of everything so far."""

    def __init__(self, max_message_size: int) -> None:
        self.verdict = Verdict()
        self._max = max_message_size
        self._protocol = FrameProtocol(client=False, extensions=[])
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
            if each.frame_finished:
                self._size += self._header.payload_len if self._header is not None else 0
                self._header = None
            if each.message_finished:
                if each.opcode is Opcode.TEXT:
                    self.verdict.events.append(("text", "".join(self._parts)))
                else:
                    self.verdict.events.append(("binary", b"".join(self._parts)))
                self._parts, self._size = [], 0


def read_by_wsproto(data: bytes, max_message_size: int) -> Verdict:
    reference = Reference(max_message_size)
    reference.feed(data)
    return reference.verdict


def read_by_triochan(
    chunks: Iterable[bytes], max_message_size: int, limit: int = 64, *, short_cut: bool = False
) -> Verdict:
    """Feed the chunks as a connection does: what a limit holds back is asked for before more is fed.

    Args:
        short_cut: try ``single_text`` first.
    """
    decoder = FrameDecoder(max_message_size)
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
            before = len(decoder._buffer)
            events = decoder.receive(b"", limit)
            assert not decoder.pending or len(decoder._buffer) < before, "pending, and no way forward"
    if decoder.failure is not None:
        assert verdict.refused is None
        verdict.refused, reason = decoder.failure
        assert len(reason.encode()) <= 123, "the reason does not go into a close frame"
    assert decoder.close_seen is any(event[0] == "close" for event in verdict.events) or verdict.refused
    return verdict


def _normalise(verdict: Verdict, kind: int, value: Any) -> None:
    if kind == TEXT:
        assert type(value) is str
        verdict.events.append(("text", value))
    elif kind == BINARY:
        assert type(value) is bytes
        verdict.events.append(("binary", value))
    else:
        assert kind == CONTROL
        # A control frame is handed on whole to wsproto, so its contents are wsproto's to judge.
        judged = read_by_wsproto(value, 0)
        assert len(judged.events) + (judged.refused is not None) == 1, "not one whole control frame"
        verdict.events += judged.events
        verdict.refused = judged.refused


def settle(data: bytes, max_message_size: int) -> bytes:
    """``data``, and zeros behind it until every reader must have come to an end.

    Zeros complete whatever frame is unfinished, and then are an unmasked frame. A reader that sees an error early
    and one that sees it at the frame's end come out the same.
    """
    return data + bytes(max(max_message_size, 125) + 16)

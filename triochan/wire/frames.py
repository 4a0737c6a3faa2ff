"""WebSocket frames, without I/O: bytes from the wire to messages, messages to bytes (RFC 6455 section 5).

This is the hot path. The decoder is held against wsproto's and websockets' by property-based tests and a fuzzer.
"""

from __future__ import annotations

import math
from codecs import utf_8_decode
from enum import IntEnum
from struct import Struct
from typing import Any, NamedTuple

from ..replies import MAX_REASON
from .deflate import MAX_HISTORY, Agreement, DeflateError, Inflate, compress

try:
    from websockets.speedups import apply_mask
except ImportError:  # no wheel with the C extension for this platform: the same function in Python
    from websockets.utils import apply_mask


class Opcode(IntEnum):
    """RFC 6455 section 5.2."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


TEXT = 1
BINARY = 2
CLOSE = 8
PING = 9
PONG = 10
"""The kinds of event that :meth:`FrameDecoder.receive` returns: a text message's ``str``, a binary message's
``bytes``, a control frame's payload as ``bytes``."""

Event = tuple[int, Any]

_FIN = 0x80
_RESERVED = 0x70
_COMPRESSED = 0x40
_MASKED = 0x80
_NOT_UTF_8 = "a text message is not UTF-8"
_HEADER_16 = Struct(">BBH").pack
_HEADER_64 = Struct(">BBQ").pack
_TABLED = 1024
"""Sizes below this have their headers made beforehand: writing one takes 0.04 µs longer, reading one as well."""


def _headers(first: int) -> list[bytes]:
    """The unmasked headers of frames that begin with ``first``, by the payload's size."""
    return [bytes((first, size)) if size < 126 else _HEADER_16(first, 126, size) for size in range(_TABLED)]


_TEXT_HEADERS = _headers(_FIN | Opcode.TEXT)
_BINARY_HEADERS = _headers(_FIN | Opcode.BINARY)
_SINGLE_TEXT: list[bytes | None] = [
    *[None] * 6,
    *[bytes((_FIN | Opcode.TEXT, _MASKED | size)) for size in range(126)],
    *[None] * 2,
    *[_HEADER_16(_FIN | Opcode.TEXT, _MASKED | 126, size) for size in range(126, _TABLED)],
]
"""What a masked text frame begins with, by the size of the whole frame; None where there is none of the size."""
_SINGLE_16 = bytes((_FIN | Opcode.TEXT, _MASKED | 126))


def encode(data: str | bytes) -> bytes:
    """``data`` as one unmasked, unfragmented frame: text for a ``str``, binary for ``bytes``.

    Raises:
        UnicodeEncodeError: the text has a lone surrogate, which UTF-8 has no form for.
    """
    if isinstance(data, str):
        data = data.encode()
        headers, first = _TEXT_HEADERS, _FIN | Opcode.TEXT
    else:
        headers, first = _BINARY_HEADERS, _FIN | Opcode.BINARY
    size = len(data)
    if size < _TABLED:
        return headers[size] + data
    if size < 65536:
        return _HEADER_16(first, 126, size) + data
    return _HEADER_64(first, 127, size) + data


class CompressedFrame(NamedTuple):
    """A frame, and what the next one to the same receivers may refer to."""

    frame: bytes
    history: bytes


def encode_compressed(data: str | bytes, agreement: Agreement, history: bytes = b"") -> CompressedFrame:
    """``data`` as one frame, compressed where that makes it smaller.

    Returns:
        The frame, and the ``history`` for the next message to its receivers: the end of this message, or what was
        given where the frame is not compressed.

    Args:
        history: as the last call for these receivers returned it; empty: the frame suits any receiver. What is
            sent uncompressed does not change a receiver's history.

    Raises:
        UnicodeEncodeError: the text has a lone surrogate, which UTF-8 has no form for.
        ValueError: a history, where the agreement allows none.
    """
    text = isinstance(data, str)
    payload = data.encode() if isinstance(data, str) else data
    compressed = compress(payload, agreement, history)
    size = len(compressed)
    if size >= len(payload):
        return CompressedFrame(encode(data), history)
    first = _FIN | _COMPRESSED | (TEXT if text else BINARY)
    if size < 126:
        frame = bytes((first, size)) + compressed
    elif size < 65536:
        frame = _HEADER_16(first, 126, size) + compressed
    else:
        frame = _HEADER_64(first, 127, size) + compressed
    if agreement.server_no_context_takeover:
        return CompressedFrame(frame, b"")
    return CompressedFrame(frame, payload[-MAX_HISTORY:])


def close_frame(code: int, reason: str = "") -> bytes:
    """An unmasked close frame; a reason that is too long is cut. With code 1005 ("no status"), it is empty."""
    if code == 1005:
        return _control(CLOSE, b"")
    text = reason.encode()[:MAX_REASON].decode(errors="ignore").encode()
    return _control(CLOSE, code.to_bytes(2, "big") + text)


def ping_frame(payload: bytes = b"") -> bytes:
    """An unmasked ping.

    Raises:
        ValueError: the payload is longer than 125 bytes.
    """
    return _control(PING, payload)


def pong_frame(payload: bytes) -> bytes:
    """An unmasked pong, with the payload of the ping that it answers.

    Raises:
        ValueError: the payload is longer than 125 bytes.
    """
    return _control(PONG, payload)


def _control(opcode: int, payload: bytes) -> bytes:
    if len(payload) > 125:
        raise ValueError(
            f"a control frame takes at most 125 bytes, not {len(payload)} (RFC 6455 section 5.5)"
        )
    return bytes((_FIN | opcode, len(payload))) + payload


class FrameDecoder:
    """What a client sends, as messages and control frames.

    The work and the memory are bounded by what came: each byte is unmasked, checked and copied a fixed number of
    times, however small the pieces are in which frames and messages come, and inflated data by
    ``max_message_size``.

    Args:
        max_message_size: bytes of a message; of a compressed one, after inflating.
        agreement: what was agreed on about compression; None: a compressed message is an error (1002).

    Attributes:
        failure: the close code and reason of what was wrong, None so far; nothing is decoded after it.
        close_seen: a close frame was returned; nothing is decoded after it.
    """

    __slots__ = (
        "_buffer", "_character", "_final", "_head", "_idle", "_inflate", "_left", "_mask", "_message", "_need",
        "_tabled", "_text", "agreement", "close_seen", "failure", "max_message_size",
    )  # fmt: skip

    def __init__(self, max_message_size: int, agreement: Agreement | None = None) -> None:
        self.max_message_size = max_message_size
        self.agreement = agreement
        self.failure: tuple[int, str] | None = None
        self.close_seen = False
        # Nothing is begun, left over or ended: what comes is the beginning of a message.
        self._idle = True
        # Frames of less than this are recognized by their size and header alone.
        self._tabled = min(len(_SINGLE_TEXT), max_message_size + 7)
        # What lies beyond the limit.
        self._buffer: bytearray | None = None
        # An unfinished header or control frame; parsing is not tried again before _need bytes of it are there.
        self._head = b""
        self._need = 0
        # The data frame whose payload is coming: bytes that are missing, its mask from here on.
        self._left = 0
        self._mask = b""
        self._final = False
        # The message under way, as far as it has come (inflated, and checked if it is text).
        self._message: bytearray | None = None
        self._text = False
        self._character = b""  # the beginning of one, of at most three bytes
        self._inflate: Inflate | None = None

    @property
    def pending(self) -> bool:
        """Whole frames may lie undecoded, because ``limit`` was reached."""
        return self._buffer is not None

    def single_text(self, data: bytes) -> str | None:
        """The text, if ``data`` is one whole text message in one frame and nothing else; None: ask :meth:`receive`.

        What nearly every read of a busy connection brings, without the loop and the list.
        """
        size = len(data)
        if not self._idle:
            return None
        if size < self._tabled:
            start = 2 if size < 132 else 4
            if data[:start] != _SINGLE_TEXT[size]:
                return None
        elif (
            data[:2] == _SINGLE_16
            and size == 8 + (data[2] << 8 | data[3])
            and size >= 134
            and size - 8 <= self.max_message_size
        ):
            start = 4
        else:
            return None
        try:
            return apply_mask(data[start + 4 :], data[start : start + 4]).decode()
        except UnicodeDecodeError:
            return None

    def receive(self, data: bytes | bytearray, limit: int, room: float = math.inf) -> list[Event]:
        """Take ``data`` from the wire; return at most ``limit`` events, in the order of arrival.

        What lies beyond the limit is kept: call again with ``b""`` while :attr:`pending`. What came before an
        error is returned, and :attr:`failure` is set.

        Args:
            room: bytes; no further event is made once what was inflated has come to so many. Other messages are
                no larger than ``data`` and what was kept.
        """
        events: list[Event] = []
        if self.failure is not None or self.close_seen:
            return events
        if self._buffer is not None:
            self._buffer += data
            data = self._buffer
        elif self._head:
            data = self._head + data
            if len(data) < self._need:
                self._head = bytes(data)
                return events
            self._head = b""
        position, end = 0, len(data)
        while position < end:
            if len(events) >= limit:
                self._keep(data, position)
                return events
            # -- the payload of a data frame that came in part
            if self._left:
                stop = min(position + self._left, end)
                size = stop - position
                payload = apply_mask(data[position:stop], self._mask)
                self._left -= size
                self._mask = self._mask[size & 3 :] + self._mask[: size & 3]
                position = stop
                inflated = self._add(payload, self._final and not self._left, events)
                if inflated is None:
                    return events
                if inflated:
                    room -= inflated
                    if room <= 0:
                        limit = len(events)
                continue
            # -- header
            if end - position < 2:
                return self._wait(data, position, 2, events)
            first, second = data[position], data[position + 1]
            size = second & 0x7F
            start = position + 2
            if not second & _MASKED:
                return self._fail(events, 1002, "a client's frame is not masked")
            if size > 125:
                extended = 2 if size == 126 else 8
                if first & 0x08:
                    return self._fail(events, 1002, "a control frame is longer than 125 bytes")
                if end - start < extended:
                    # The opcode can be judged already, and the next byte may never come.
                    if (wrong := self._judge(first)) is not None:
                        return self._fail(events, 1002, wrong)
                    return self._wait(data, position, 2 + extended, events)
                size = int.from_bytes(data[start : start + extended], "big")
                start += extended
                if size < 126 or (extended == 8 and (size < 65536 or size >> 63)):
                    return self._fail(events, 1002, "a frame's length is not written in the shortest form")
            body = start + 4
            stop = body + size
            # -- a whole text message in one frame, by far the most frequent case
            if first == 0x81 and self._message is None and stop <= end and size <= self.max_message_size:
                try:
                    text = apply_mask(data[body:stop], data[start:body]).decode()
                except UnicodeDecodeError:
                    return self._fail(events, 1007, _NOT_UTF_8)
                events.append((TEXT, text))
                position = stop
                continue
            if (wrong := self._judge(first)) is not None:
                return self._fail(events, 1002, wrong)
            opcode = first & 0x0F
            if opcode & 0x08:
                if stop > end:
                    return self._wait(data, position, stop - position, events)
                events.append((opcode, apply_mask(data[body:stop], data[start:body])))
                position = stop
                if opcode == CLOSE:
                    self.close_seen = True
                    self._forget()
                    return events
                continue
            # -- a data frame
            if not (first & _COMPRESSED or self._inflate is not None):
                so_far = 0 if self._message is None else len(self._message) + len(self._character)
                if so_far + size > self.max_message_size:
                    return self._too_large(events)
            if end < body:
                return self._wait(data, position, body - position, events)
            if opcode:
                self._text = opcode == TEXT
                if first & _COMPRESSED:
                    self._inflate = Inflate()
                elif first & _FIN and stop <= end:  # binary: such text has been dealt with
                    events.append((BINARY, apply_mask(data[body:stop], data[start:body])))
                    position = stop
                    continue
                self._message = bytearray()
            if stop <= end:
                position = stop
                inflated = self._add(
                    apply_mask(data[body:stop], data[start:body]), bool(first & _FIN), events
                )
                if inflated is None:
                    return events
                if inflated:
                    room -= inflated
                    if room <= 0:
                        limit = len(events)
            else:
                self._left, self._mask, self._final = size, bytes(data[start:body]), bool(first & _FIN)
                position = body
        self._buffer = None
        self._idle = self._message is None
        return events

    def _judge(self, first: int) -> str | None:
        """What is wrong with a frame's first byte, given what came before; None where nothing is."""
        opcode = first & 0x0F
        if first & _RESERVED:
            if self.agreement is None:
                return "a frame has a reserved bit set, and no extension was agreed on"
            if first & _RESERVED != _COMPRESSED:
                return "a frame has a reserved bit set that permessage-deflate does not use"
            if opcode not in (Opcode.TEXT, Opcode.BINARY):
                return "a frame that does not begin a message is marked as compressed"
        if opcode & 0x08:
            if opcode > Opcode.PONG:
                return f"a frame has the reserved opcode {opcode:#x}"
            return None if first & _FIN else "a control frame is fragmented"
        if opcode > Opcode.BINARY:
            return f"a frame has the reserved opcode {opcode:#x}"
        if opcode == Opcode.CONTINUATION:
            return None if self._message is not None else "a continuation continues no message"
        return None if self._message is None else "a message begins before the one before it has ended"

    def _add(self, payload: bytes, final: bool, events: list[Event]) -> int | None:
        """Add a piece of a data frame's payload to its message: the size of an inflated one that ends with it, or
        0; None where something is wrong with it."""
        message = self._message
        assert message is not None
        size = 0
        if self._inflate is not None:
            room = self.max_message_size - len(message) - len(self._character)
            try:
                payload = self._inflate.inflate(payload, room, final=final)
            except DeflateError:
                self._fail(events, 1007, "a compressed message is not deflate data")
                return None
            if len(payload) > room:
                self._too_large(events)
                return None
            if final:
                size = len(message) + len(self._character) + len(payload)
        if final and not message and not self._character:  # it is all there is: no need to gather it
            if self._text:
                try:
                    events.append((TEXT, payload.decode()))
                except UnicodeDecodeError:
                    self._fail(events, 1007, _NOT_UTF_8)
                    return None
            else:
                events.append((BINARY, payload))
            self._message = self._inflate = None
            return size
        if self._text:
            payload = self._character + payload
            try:
                whole = utf_8_decode(payload, "strict", final)[1]
            except UnicodeDecodeError:
                self._fail(events, 1007, _NOT_UTF_8)
                return None
            self._character = payload[whole:]
            payload = payload[:whole]
            if b"\xed\xa0" <= self._character < b"\xee":
                # The first two bytes of a surrogate: Python's decoder waits for the third.
                self._fail(events, 1007, _NOT_UTF_8)
                return None
        message += payload
        if final:
            events.append((TEXT, message.decode()) if self._text else (BINARY, bytes(message)))
            self._message = self._inflate = None
        return size

    def _wait(self, data: bytes | bytearray, position: int, need: int, events: list[Event]) -> list[Event]:
        """Keep the beginning of a header or of a control frame until ``need`` bytes of it are there."""
        self._head, self._need = bytes(data[position:]), need
        self._buffer = None
        self._idle = False
        return events

    def _keep(self, data: bytes | bytearray, position: int) -> None:
        if self._buffer is None:
            self._buffer = bytearray(memoryview(data)[position:])
        else:
            del self._buffer[:position]
        self._idle = False

    def _too_large(self, events: list[Event]) -> list[Event]:
        return self._fail(events, 1009, f"a message is larger than {self.max_message_size} bytes")

    def _fail(self, events: list[Event], code: int, reason: str) -> list[Event]:
        self.failure = (code, reason)
        self._forget()
        return events

    def _forget(self) -> None:
        self._buffer = self._message = self._inflate = None
        self._idle = False

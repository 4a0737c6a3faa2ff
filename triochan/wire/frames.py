"""WebSocket data frames, without I/O: bytes from the wire to messages, messages to bytes (RFC 6455 section 5).

This is the hot path. Control frames are cut out of the byte stream whole and handed on as they are, for
trio-websocket answers them (:mod:`triochan.control`). The decoder and wsproto's are held against each other by a
property-based test and a fuzzer.
"""

from __future__ import annotations

import codecs
import io
from enum import IntEnum
from struct import Struct
from typing import Any

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
CONTROL = 8
"""The kinds of event that :meth:`FrameDecoder.receive` returns: a text message's ``str``, a binary message's
``bytes``, a control frame's bytes as they came."""

Event = tuple[int, Any]

_FIN = 0x80
_RESERVED = 0x70
_MASKED = 0x80
_HEADER_16 = Struct(">BBH").pack
_HEADER_64 = Struct(">BBQ").pack
_TEXT_HEADERS = [bytes((_FIN | Opcode.TEXT, size)) for size in range(126)]
_BINARY_HEADERS = [bytes((_FIN | Opcode.BINARY, size)) for size in range(126)]


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
    if size < 126:
        return headers[size] + data
    if size < 65536:
        return _HEADER_16(first, 126, size) + data
    return _HEADER_64(first, 127, size) + data


def close_frame(code: int, reason: str) -> bytes:
    """An unmasked close frame; a reason that is too long is cut."""
    text = reason.encode()[:123].decode(errors="ignore").encode()
    return bytes((_FIN | Opcode.CLOSE, 2 + len(text))) + code.to_bytes(2, "big") + text


class FrameDecoder:
    """What a client sends, as messages and control frames.

    Attributes:
        failure: the close code and reason of what was wrong, None so far; nothing is decoded after it.
        close_seen: a close frame was returned; nothing is decoded after it.
    """

    __slots__ = ("_buffer", "_need", "_partial", "_parts", "_size", "_text", "close_seen", "failure",
                 "max_message_size")  # fmt: skip

    def __init__(self, max_message_size: int) -> None:
        self.max_message_size = max_message_size
        self.failure: tuple[int, str] | None = None
        self.close_seen = False
        # Whole frames beyond the limit, perhaps; or an unfinished frame: parsing is not tried again before _need
        # bytes of it are there. Both it and an unfinished message grow in one piece of memory, for a client may
        # cut them as small as it likes.
        self._buffer = b""
        self._partial: bytearray | None = None
        self._need = 0
        # The message of which only fragments have come, and its size in bytes.
        self._parts: bytearray | io.StringIO | None = None
        self._size = 0
        self._text: codecs.IncrementalDecoder | None = None

    @property
    def pending(self) -> bool:
        """Whole frames may lie undecoded, because ``limit`` was reached."""
        return bool(self._buffer)

    def single_text(self, data: bytes) -> str | None:
        """The text, if ``data`` is one whole text message in one frame and nothing else; None: ask :meth:`receive`.

        What nearly every read of a busy connection brings, without the loop and the list.
        """
        size = len(data)
        if size < 6 or data[0] != 0x81 or self._parts is not None or self._buffer or self._need:
            return None
        if self.close_seen or self.failure is not None:
            return None
        length = data[1]
        if length < 0xFE:
            if size != length - 122 or length < _MASKED or size - 6 > self.max_message_size:
                return None
            start = 2
        elif (
            length == 0xFE
            and size == 8 + (data[2] << 8 | data[3])
            and size >= 134
            and size <= self.max_message_size
        ):
            start = 4
        else:
            return None
        try:
            return apply_mask(data[start + 4 :], data[start : start + 4]).decode()
        except UnicodeDecodeError:
            return None

    def receive(self, data: bytes, limit: int) -> list[Event]:
        """Take ``data`` from the wire; return at most ``limit`` events, in the order of arrival.

        What lies beyond the limit is kept: call again with ``b""`` while :attr:`pending`. What came before an
        error is returned, and :attr:`failure` is set.
        """
        if self.failure is not None or self.close_seen:
            return []
        if self._partial is not None:
            self._partial += data
            if len(self._partial) < self._need:
                return []
            data = bytes(self._partial)
            self._partial, self._need = None, 0
        elif self._buffer:
            data = self._buffer + data
            self._buffer = b""
        events: list[Event] = []
        position, end = 0, len(data)
        while position < end:
            if len(events) >= limit:
                self._buffer = data[position:]
                return events
            # -- header
            if end - position < 2:
                self._wait(data, position, 2)
                return events
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
                    self._wait(data, position, 2 + extended)
                    return events
                size = int.from_bytes(data[start : start + extended], "big")
                start += extended
                if size < 126 or (extended == 8 and (size < 65536 or size >> 63)):
                    return self._fail(events, 1002, "a frame's length is not written in the shortest form")
            # -- a whole text message in one frame, by far the most frequent case
            stop = start + 4 + size
            if first == 0x81 and self._parts is None and stop <= end and size <= self.max_message_size:
                try:
                    text = apply_mask(data[start + 4 : stop], data[start : start + 4]).decode()
                except UnicodeDecodeError:
                    return self._fail(events, 1007, "a text message is not UTF-8")
                events.append((TEXT, text))
                position = stop
                continue
            if (wrong := self._judge(first)) is not None:
                return self._fail(events, 1002, wrong)
            if not first & 0x08 and self._size + size > self.max_message_size:
                return self._fail(events, 1009, f"a message is larger than {self.max_message_size} bytes")
            if stop > end:
                self._wait(data, position, stop - position)
                return events
            if first & 0x08:
                events.append((CONTROL, data[position:stop]))
                position = stop
                if first & 0x0F == Opcode.CLOSE:
                    self.close_seen = True
                    return events
                continue
            payload = apply_mask(data[start + 4 : stop], data[start : start + 4])
            position = stop
            if not self._take(first, payload, events):
                return self._fail(events, 1007, "a text message is not UTF-8")
        return events

    def _judge(self, first: int) -> str | None:
        """What is wrong with a frame's first byte, given what came before; None where nothing is."""
        opcode = first & 0x0F
        if first & _RESERVED:
            return "a frame has a reserved bit set, and no extension was agreed on"
        if opcode & 0x08:
            if opcode > Opcode.PONG:
                return f"a frame has the reserved opcode {opcode:#x}"
            return None if first & _FIN else "a control frame is fragmented"
        if opcode > Opcode.BINARY:
            return f"a frame has the reserved opcode {opcode:#x}"
        if opcode == Opcode.CONTINUATION:
            return None if self._parts is not None else "a continuation continues no message"
        return None if self._parts is None else "a message begins before the one before it has ended"

    def _take(self, first: int, payload: bytes, events: list[Event]) -> bool:
        """Add a data frame's payload to its message; False where it is text that is not UTF-8."""
        opcode, final = first & 0x0F, bool(first & _FIN)
        if self._parts is None:
            if final:  # binary: a whole text message in one frame does not come here
                events.append((BINARY, payload))
                return True
            self._size = 0
            if opcode == Opcode.TEXT:
                self._parts, self._text = io.StringIO(newline=""), codecs.getincrementaldecoder("utf-8")()
            else:
                self._parts = bytearray()
        self._size += len(payload)
        if isinstance(self._parts, bytearray):
            self._parts += payload
        else:
            assert self._text is not None
            try:
                self._parts.write(self._text.decode(payload, final))
            except UnicodeDecodeError:
                return False
        if final:
            if isinstance(self._parts, bytearray):
                events.append((BINARY, bytes(self._parts)))
            else:
                events.append((TEXT, self._parts.getvalue()))
            self._parts, self._text, self._size = None, None, 0
        return True

    def _wait(self, data: bytes, position: int, need: int) -> None:
        self._partial = bytearray(memoryview(data)[position:])
        self._need = need

    def _fail(self, events: list[Event], code: int, reason: str) -> list[Event]:
        self.failure = (code, reason)
        self._parts = self._text = None
        return events

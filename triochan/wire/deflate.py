"""permessage-deflate, without I/O: which offer is taken, what is compressed and inflated (RFC 7692).

A connection keeps no zlib window. Clients are told to begin every message anew (``client_no_context_takeover``), so
that inflating needs memory while a message is under way and none between messages. Compressing needs memory within
one call: what a frame may refer to besides itself, its *history*, is the end of the compressed message before it, as
plain bytes. One frame then serves every client whose last compressed message was the same, and a frame without a
history serves all.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import attrs

EXTENSION = b"permessage-deflate"
MAX_WINDOW_BITS = 15
MIN_WINDOW_BITS = 9
"""The smallest window of a raw deflate stream that zlib can write; RFC 7692 knows 8 as well."""
MAX_HISTORY = 4096
"""Bytes of a message that are kept for the next one to refer to."""
MAX_STREAMS = 64
"""How often the deflate data of one message may end and begin again (``BFINAL``, RFC 7692 section 7.2.3.4)."""

_WINDOW_BITS = {b"%d" % bits: bits for bits in range(8, MAX_WINDOW_BITS + 1)}
_SYNC_TAIL = b"\x00\x00\xff\xff"
_END = b"\x03\x00"  # an empty block that is marked as the last one
_LEVEL = 6
_MEMORY_LEVEL = 8


class Offer(NamedTuple):
    """One extension as a client offers it: its name, its parameters in order; a value of None: it has none."""

    extension: bytes
    parameters: tuple[tuple[bytes, bytes | None], ...] = ()


@attrs.frozen(cache_hash=True)
class Agreement:
    """What client and server agreed on. Clients with equal agreements can be sent the same frames.

    Attributes:
        server_max_window_bits: the window that what is sent may use, 9 to 15: 2 ** bits bytes.
        server_no_context_takeover: no frame may refer to the message before it.
        response: the value of the response's ``Sec-WebSocket-Extensions``; not part of what makes agreements equal.
    """

    server_max_window_bits: int = MAX_WINDOW_BITS
    server_no_context_takeover: bool = True
    response: bytes = attrs.field(
        eq=False, default=EXTENSION + b"; server_no_context_takeover; client_no_context_takeover"
    )


def negotiate(offers: Iterable[Offer], *, context_takeover: bool = False) -> Agreement | None:
    """The agreement on the first offer of permessage-deflate that can be met; None where there is none.

    An offer is declined, and the next one looked at, where a parameter is unknown, comes twice or has a value that
    RFC 7692 section 7.1 does not allow; and where it asks the server for a window of 2 ** 8 bytes, for zlib
    writes no such raw stream. ``client_max_window_bits`` needs no answer: a window of the greatest size reads all
    smaller ones.

    Args:
        context_takeover: frames may refer to the message before, where the client does not ask that they don't.
    """
    for offer in offers:
        if offer.extension == EXTENSION and (agreement := _agree(offer, context_takeover)) is not None:
            return agreement
    return None


def _agree(offer: Offer, context_takeover: bool) -> Agreement | None:
    given = dict(offer.parameters)
    if len(given) != len(offer.parameters):
        return None
    bits = None
    for name, value in offer.parameters:
        if name in (b"server_no_context_takeover", b"client_no_context_takeover"):
            if value is not None:
                return None
        elif name == b"server_max_window_bits":
            bits = _WINDOW_BITS.get(value or b"", 0)
            if bits < MIN_WINDOW_BITS:
                return None
        elif name != b"client_max_window_bits" or not (value is None or value in _WINDOW_BITS):
            return None
    return _agreement(bits, not context_takeover or b"server_no_context_takeover" in given)


@functools.cache
def _agreement(bits: int | None, anew: bool) -> Agreement:
    """One object for all connections; there are not many that differ."""
    response = EXTENSION
    if anew:
        response += b"; server_no_context_takeover"
    response += b"; client_no_context_takeover"
    if bits is not None:  # asked for, and so to be answered, be it the greatest
        response += b"; server_max_window_bits=%d" % bits
    return Agreement(bits or MAX_WINDOW_BITS, anew, response)


def compress(payload: bytes, agreement: Agreement, history: bytes = b"") -> bytes:
    """``payload`` as a compressed message's payload (RFC 7692 section 7.2.1).

    Args:
        history: the end of what every receiver's last compressed message was, or empty: the frame then suits any
            receiver. Empty where the agreement has ``server_no_context_takeover``.
    """
    if history and agreement.server_no_context_takeover:
        raise ValueError("a history needs an agreement without server_no_context_takeover")
    bits = agreement.server_max_window_bits
    if history:
        stream = zlib.compressobj(
            _LEVEL, zlib.DEFLATED, -bits, _MEMORY_LEVEL, zlib.Z_DEFAULT_STRATEGY, history
        )
    else:
        stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, -bits, _MEMORY_LEVEL)
    return (stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


class DeflateError(ValueError):
    """What came is no deflate data, or ends too early."""


class Inflate:
    """The payload of one compressed message, piece by piece (RFC 7692 section 7.2.2)."""

    __slots__ = ("_stream", "_streams")

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(-MAX_WINDOW_BITS)
        self._streams = 1

    def inflate(self, data: bytes, room: int, *, final: bool = False) -> bytes:
        """What ``data`` adds to the message: at most ``room`` bytes, or ``room + 1`` where it is too large.

        The work and the memory are bounded by the sizes of ``data`` and ``room``. After more than ``room`` bytes,
        and after an error, this object is of no more use.

        Args:
            final: the message ends here.

        Raises:
            DeflateError: it is no deflate data; ``final``, and it stops in the middle.
        """
        if final:
            # What senders leave off, and an end: it is only seen as one where the data was complete.
            data += _SYNC_TAIL + _END
        inflated = b""
        while True:
            if self._stream.eof:
                # The sender marks the end of what it had, and begins another stream behind it.
                if not data or (final and data == _SYNC_TAIL + _END):
                    return inflated
                if self._streams == MAX_STREAMS:
                    raise DeflateError(f"it ends and begins again more than {MAX_STREAMS} times")
                self._streams += 1
                self._stream = zlib.decompressobj(-MAX_WINDOW_BITS)
            try:
                inflated += self._stream.decompress(data, room + 1 - len(inflated))
            except zlib.error as error:
                raise DeflateError(str(error)) from None
            if len(inflated) > room:
                return inflated
            if not self._stream.eof:
                if final:
                    raise DeflateError("it stops in the middle")
                return inflated
            data = self._stream.unused_data
            if not data:
                return inflated

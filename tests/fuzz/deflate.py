"""For any bytes as the payload of a compressed message, cut into frames and reads anywhere: triochan's decoder and
zlib, which gets them in one piece, give the same message or refuse it alike; and what triochan compresses is read by
websockets' client.

    python tests/fuzz/deflate.py -max_total_time=60
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

SIZES = (0, 1, 20, 300, 5000, 70_000)


def seeds() -> list[bytes]:
    """Inputs to begin with: five bytes of parameters, then the payload."""
    from triochan.wire.deflate import Agreement, compress

    payloads = [
        b"",
        b"\x00",
        b"\x03\x00",
        bytes.fromhex("f248cdc9c90700"),
        bytes.fromhex("f348cdc9c9070000") * 3,
        bytes.fromhex("000500faff48656c6c6f00"),
        b"\x03\x00" * 80,
        *(
            compress(data, Agreement())
            for data in (b"a" * 5000, bytes(range(256)), "é𝄞".encode() * 40, b"\xff" * 9)
        ),
    ]
    return [
        bytes((size, cut, read, kind, 9)) + payload
        for payload in payloads
        for size, cut, read, kind in ((4, 0, 0, 0), (3, 2, 0, 1), (5, 3, 1, 0))
    ]


def by_zlib(payload: bytes, max_message_size: int) -> bytes | int:
    """The message in ``payload``, or the close code: 1007 for what is no deflate data or incomplete, 1009."""
    from triochan.wire.deflate import MAX_STREAMS

    tail = b"\x00\x00\xff\xff\x03\x00"
    rest = payload + tail
    message = b""
    for _ in range(MAX_STREAMS):
        stream = zlib.decompressobj(-15)
        # In pieces that are as small as can be, for zlib says nothing of what came before an error.
        for index in range(len(rest)):
            try:
                message += stream.decompress(rest[index : index + 1])
            except zlib.error:
                return 1007
            if len(message) > max_message_size:
                return 1009
            if stream.eof:
                rest = rest[index + 1 :]
                break
        else:
            return 1007
        if not rest or rest == tail:
            return message
    return 1007


def check(data: bytes) -> None:
    from fuzz.reference import frame, pieces, read_by_triochan
    from triochan.wire.deflate import Agreement

    if len(data) < 5 or len(data) > 3000:
        return
    size, cut, read, kind, bits = SIZES[data[0] % len(SIZES)], data[1], data[2], data[3], data[4] % 7 + 9
    payload = data[5:]
    text = bool(kind & 1)
    parts = (pieces(payload, range(0, len(payload), cut)) if cut else [payload]) or [b""]
    stream = b"".join(
        frame(
            0 if index else 1 if text else 2, part, reserved=0 if index else 0x40, fin=index == len(parts) - 1
        )
        for index, part in enumerate(parts)
    )
    chunks = pieces(stream, range(0, len(stream), read)) if read else [stream]
    ours = read_by_triochan(chunks, size, 1, agreement=Agreement())
    theirs = by_zlib(payload, size)
    if isinstance(theirs, bytes):
        try:
            said = ("text", theirs.decode()) if text else ("binary", theirs)
        except UnicodeDecodeError:
            assert ours.refused == 1007, f"triochan: {ours}\nnot UTF-8: {theirs!r}"
        else:
            assert ours.events == [said], f"triochan: {ours}\nzlib: {said}"
            assert ours.refused is None
    else:
        assert not ours.events, f"triochan: {ours}\nzlib: {theirs}"
        # Of two errors in one piece, zlib says the later one.
        assert ours.refused in {theirs, 1007}, f"triochan: {ours}\nzlib: {theirs}"
    check_compress(payload, bits)


def check_compress(payload: bytes, bits: int) -> None:
    """A client reads, one after the other, a message alone, one that refers to it, and one alone again."""
    from websockets.extensions.permessage_deflate import PerMessageDeflate
    from websockets.frames import Frame, Opcode

    from triochan.wire.deflate import MAX_HISTORY, Agreement, compress

    agreement = Agreement(bits, server_no_context_takeover=False)
    client = PerMessageDeflate(False, True, bits, 15)
    half = payload[: len(payload) // 2]
    for message, history in ((half, b""), (payload, half[-MAX_HISTORY:]), (half, b"")):
        compressed = compress(message, agreement, history)
        read = bytes(client.decode(Frame(Opcode.BINARY, compressed, rsv1=True)).data)
        assert read == message, f"websockets reads {read!r}\nwhere {message!r} was sent"


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["triochan.wire.frames", "triochan.wire.deflate"]):
        import fuzz.reference  # noqa: F401 - now, so that what it imports is instrumented
    from fuzz.engine import fuzz as run

    run(check, seeds())


if __name__ == "__main__":
    main()

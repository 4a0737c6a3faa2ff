"""For any bytes, cut anywhere, with any limits: triochan's decoder and wsproto's give the same messages and control
frames, and refuse the same streams with the same close code.

    python tests/fuzz/frames.py -max_total_time=60
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

SIZES = (1, 5, 60, 130, 300, 1000, 70_000)
LIMITS = (1, 2, 3, 64)


def seeds() -> list[bytes]:
    """Inputs to begin with: four bytes of parameters, then the stream."""
    from fuzz.reference import frame

    streams = [
        frame(1, b"hello") + frame(2, b"\xff\xfe") + frame(8, b"\x03\xe8bye"),
        frame(1, b"\xc3", fin=False) + frame(9, b"ping") + frame(0, b"", fin=False) + frame(0, b"\xa9"),
        frame(2, b"a" * 126) + frame(10) + frame(1, b"b" * 125),
        frame(2, b"a" * 200, fin=False) + frame(0, b"b" * 100),
        frame(1, b"\xed\xa0\x80"),
        frame(1, b"x", key=None),
        frame(2, claim=2**63, length_bytes=8),
        frame(2, bytes(65536)),
        frame(8, b"\x03"),
    ]
    structured = [b"\x81\x05hello\x09\x00\x01\x03abc\x80\x02de\x88\x00", b"\x01\x7e\x00\x20" + b"x" * 32]
    return [
        *(bytes((index, 3, cut, 0)) + data for index, data in enumerate(streams) for cut in (0, 1, 7)),
        *(bytes((4, 3, cut, way)) + data for data in structured for cut in (0, 1, 7) for way in (1, 3)),
    ]


def masked(data: bytes) -> bytes:
    """``data`` read as a list of frames, of which each is masked: first byte, length byte, payload."""
    from fuzz.reference import frame

    made, position = [], 0
    while position + 2 <= len(data):
        first, size = data[position], data[position + 1]
        payload = data[position + 2 : position + 2 + size]
        made.append(
            frame(
                first & 0x0F,
                payload,
                fin=bool(first & 0x80),
                reserved=first & 0x40,
                key=data[position:][:4].ljust(4),
            )
        )
        position += 2 + size
    return b"".join(made)


def check(data: bytes) -> None:
    from fuzz.reference import pieces, read_by_triochan, read_by_wsproto, settle

    if len(data) < 4:
        return
    size, limit, cut = SIZES[data[0] % len(SIZES)], LIMITS[data[1] % len(LIMITS)], data[2]
    stream = settle(masked(data[4:]) if data[3] & 1 else data[4:], size)
    chunks = pieces(stream, range(0, min(len(stream), 4096), cut)) if cut else [stream]
    ours = read_by_triochan(chunks, size, limit, short_cut=bool(data[3] & 2))
    theirs = read_by_wsproto(stream, size)
    assert ours == theirs, f"triochan: {ours}\nwsproto: {theirs}"
    assert ours.refused is not None or ours.events[-1][0] == "close"


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["triochan.wire.frames", "triochan.wire.control", "wsproto"]):
        import fuzz.reference  # noqa: F401 - now, so that what it imports is instrumented
    from fuzz.engine import fuzz as run

    run(check, seeds())


if __name__ == "__main__":
    main()

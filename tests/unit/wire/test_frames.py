"""The frame decoder and encoder: alone, and held against wsproto's."""

from __future__ import annotations

import importlib.util
import random
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from fuzz.reference import (
    KEY,
    Verdict,
    frame,
    mask,
    pieces,
    read_by_triochan,
    read_by_websockets,
    read_by_wsproto,
    settle,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from memory import peak
from wsproto.frame_protocol import FrameProtocol
from wsproto.frame_protocol import Opcode as WsprotoOpcode

from triochan.wire.deflate import MAX_STREAMS, Agreement, compress
from triochan.wire.frames import (
    BINARY,
    TEXT,
    FrameDecoder,
    Opcode,
    close_frame,
    encode,
)

relaxed = settings(deadline=None)  # a busy machine is no failure
CONT, T, B, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


# -- streams of frames, right and wrong

keys = st.binary(min_size=4, max_size=4)
payload_sizes = st.one_of(st.integers(0, 20), st.sampled_from([124, 125, 126, 127, 200]))
texts = st.one_of(st.text(max_size=40), payload_sizes.map(lambda size: "é" * (size // 2) + "x" * (size % 2)))
blobs = st.one_of(st.binary(max_size=40), payload_sizes.map(lambda size: b"\xff" * size))
controls = st.one_of(
    st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)),
    st.tuples(st.just(PING), st.just(b"p" * 125)),
)


@st.composite
def frames_of_a_message(draw: st.DrawFn) -> list[tuple[int, bool, bytes]]:
    """A message, in one frame or in fragments, cut anywhere (within a character too), control frames in between."""
    opcode = draw(st.sampled_from([T, B]))
    payload = draw(texts).encode() if opcode == T else draw(blobs)
    parts = pieces(payload, draw(st.lists(st.integers(0, len(payload)), max_size=4))) or [b""]
    for _ in range(draw(st.integers(0, 2))):
        parts.insert(draw(st.integers(0, len(parts))), b"")
    made: list[tuple[int, bool, bytes]] = []
    for index, part in enumerate(parts):
        for kind, content in draw(st.lists(controls, max_size=2)):
            made.append((kind, True, content))
        made.append((CONT if index else opcode, index == len(parts) - 1, part))
    return made


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Frames of valid messages, each masked with a key of its own, perhaps with a close frame at the end."""
    sequence = [each for message in draw(st.lists(frames_of_a_message(), max_size=5)) for each in message]
    made = [frame(opcode, payload, fin=fin, key=draw(keys)) for opcode, fin, payload in sequence]
    if draw(st.booleans()):
        made.append(frame(CLOSE, draw(st.sampled_from([b"", b"\x03\xe8", b"\x0f\xa0bye"])), key=draw(keys)))
    return made


wrong_frames = st.one_of(
    st.builds(frame, st.integers(0, 15), st.binary(max_size=10), fin=st.booleans(), key=st.none() | keys),
    st.builds(
        frame, st.integers(0, 15), st.binary(max_size=10), reserved=st.sampled_from([0x10, 0x20, 0x40, 0x70])
    ),
    st.builds(frame, st.sampled_from([3, 7, 11, 15]), st.binary(max_size=10), fin=st.booleans()),
    st.builds(frame, st.sampled_from([CLOSE, PING, PONG]), st.binary(min_size=126, max_size=140)),
    st.builds(frame, st.sampled_from([CLOSE, PING, PONG]), st.binary(max_size=5), fin=st.just(False)),
    st.builds(frame, st.integers(0, 10), st.binary(max_size=5), length_bytes=st.sampled_from([2, 8])),
    st.builds(
        frame,
        st.integers(0, 10),
        claim=st.sampled_from([1, 126, 65535, 65536, 2**62, 2**63 - 1, 2**63, 2**64 - 1]),
        length_bytes=st.just(8),
        fin=st.booleans(),
    ),
    st.builds(
        frame,
        st.sampled_from([CONT, T]),
        st.sampled_from([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"]),
    ),
    st.builds(frame, st.just(CLOSE), st.binary(max_size=6)),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid stream with wrong frames put in, bytes changed, taken out and put in, and perhaps cut off."""
    parts = draw(streams())
    for _ in range(draw(st.integers(0, 2))):
        parts.insert(draw(st.integers(0, len(parts))), draw(wrong_frames))
    data = bytearray(b"".join(parts))
    for _ in range(draw(st.integers(0, 3))):
        if not data:
            break
        place = draw(st.integers(0, len(data) - 1))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            data[place] = draw(st.integers(0, 255))
        elif kind == 1:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == 2:
            del data[place]
        else:
            data.insert(place, draw(st.integers(0, 255)))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


cut_places = st.lists(st.integers(0, 700), max_size=12)
limits = st.sampled_from([1, 2, 3, 64])
sizes = st.sampled_from([1, 5, 60, 130, 1000])


class TestAgainstWsproto:
    @pytest.mark.rfc("6455", "6.2", "MUST take the mask away, and put fragments together")
    @pytest.mark.rfc("6455", "5.3", "MUST take the mask away")
    @pytest.mark.rfc("6455", "5.4", "MUST be able to receive messages in fragments, and whole")
    @relaxed
    @given(streams(), cut_places, limits)
    def test_a_valid_stream_gives_the_same_messages(
        self, parts: list[bytes], cuts: list[int], limit: int
    ) -> None:
        data = b"".join(parts)
        verdict = read_by_triochan(pieces(data, cuts), 1000, limit)
        assert verdict.refused is None
        assert verdict == read_by_wsproto(data, 1000)

    @relaxed
    @given(damaged(), cut_places, limits, sizes)
    @example(frame(T, b"", fin=False) + frame(T, b"a"), [], 64, 1000)
    @example(frame(B, b"a" * 60, fin=False) + frame(CONT), [3], 1, 60)
    @example(frame(B, b"a" * 60, fin=False) + frame(CONT, b"b"), [3], 1, 60)
    def test_an_invalid_one_is_refused_with_the_same_code_and_what_came_before_is_delivered(
        self, data: bytes, cuts: list[int], limit: int, size: int
    ) -> None:
        settled = settle(data, size)
        ours = read_by_triochan(pieces(settled, cuts), size, limit)
        assert ours == read_by_wsproto(settled, size)
        # Settled, every stream has come to an end.
        assert ours.refused is not None or ours.events[-1][0] == "close"

    @relaxed
    @given(st.binary(max_size=200), cut_places, limits, sizes)
    def test_any_bytes(self, data: bytes, cuts: list[int], limit: int, size: int) -> None:
        settled = settle(data, size)
        assert read_by_triochan(pieces(settled, cuts), size, limit) == read_by_wsproto(settled, size)

    @relaxed
    @given(
        st.lists(streams(), max_size=3).map(lambda several: [part for parts in several for part in parts]),
        st.lists(wrong_frames, max_size=1),
        sizes,
    )
    @example([frame(T, b"a" * 6), frame(CLOSE), frame(T, b"a")], [], 5)
    @example([frame(CLOSE), frame(T, b"a")], [], 5)
    @example([frame(T, b"a", key=None), frame(T, b"b")], [], 5)
    @example([frame(T, b"a" * 126), frame(T, b"b" * 60), frame(T, b"b" * 61)], [], 60)
    def test_one_frame_at_a_time_by_the_short_cut_too(
        self, parts: list[bytes], wrong: list[bytes], size: int
    ) -> None:
        chunks = [*parts, *wrong, frame(T, b"behind"), settle(b"", size)]
        assert read_by_triochan(chunks, size, short_cut=True) == read_by_wsproto(b"".join(chunks), size)

    @relaxed
    @given(damaged(), cut_places, sizes)
    def test_any_chunks_by_the_short_cut_too(self, data: bytes, cuts: list[int], size: int) -> None:
        settled = settle(data, size)
        assert read_by_triochan(pieces(settled, cuts), size, short_cut=True) == read_by_wsproto(settled, size)

    @relaxed
    @given(damaged(), sizes)
    def test_how_the_bytes_are_cut_makes_no_difference(self, data: bytes, size: int) -> None:
        whole = read_by_triochan([data], size)
        assert read_by_triochan([data[index : index + 1] for index in range(len(data))], size) == whole
        assert read_by_triochan(pieces(data, range(0, len(data), 7)), size, 1) == whole

    @pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 65537, 100_000])
    @pytest.mark.parametrize("opcode", [T, B])
    def test_the_lengths_where_the_header_changes(self, size: int, opcode: int) -> None:
        data = frame(opcode, b"x" * size, key=b"\0\0\0\0")
        kind = "text" if opcode == T else "binary"
        payload: Any = "x" * size if opcode == T else b"x" * size
        for cuts in ([], [1], [2], [3], [2, 9], [13], range(0, len(data), 4096), [len(data) - 1]):
            assert read_by_triochan(pieces(data, cuts), 100_000) == Verdict([(kind, payload)])
        assert read_by_wsproto(data, 100_000) == Verdict([(kind, payload)])

    @pytest.mark.rfc("6455", "6.1", "MUST send data in frames, of its own opcode, the last with FIN")
    @pytest.mark.rfc("6455", "5.1", "MUST NOT mask frames that it sends")
    @relaxed
    @given(st.one_of(st.text(), st.binary()))
    def test_encode_is_read_back_by_a_client(self, data: str | bytes) -> None:
        assert _read_as_client(encode(data)) == [data]

    @pytest.mark.rfc("6455", "5.2", "MUST state a length in as few bytes as it takes")
    @pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 65537])
    @pytest.mark.parametrize("unit", ["x", b"x"])
    def test_encode_uses_the_shortest_length(self, size: int, unit: Any) -> None:
        encoded = encode(unit * size)
        assert len(encoded) == size + (2 if size < 126 else 4 if size < 65536 else 10)
        assert _read_as_client(encoded) == [unit * size]  # wsproto refuses longer forms than needed


def _read_as_client(data: bytes) -> list[str | bytes]:
    protocol = FrameProtocol(client=True, extensions=[])
    protocol.receive_bytes(data)
    messages: list[str | bytes] = []
    parts: list[Any] = []
    for each in protocol.received_frames():
        parts.append(each.payload)
        if each.message_finished:
            messages.append(("" if each.opcode is WsprotoOpcode.TEXT else b"").join(parts))
            parts = []
    assert not parts
    return messages


AGREEMENT = Agreement()


@st.composite
def compressed_streams(draw: st.DrawFn, *, between: bool) -> tuple[list[bytes], list[tuple[Any, ...]]]:
    """Messages, some of them compressed, by zlib in one of its ways, in fragments; and what they say.

    Args:
        between: control frames come between the fragments of compressed messages.
    """
    made: list[bytes] = []
    said: list[tuple[Any, ...]] = []
    for _ in range(draw(st.integers(0, 4))):
        text = draw(st.booleans())
        payload = draw(texts).encode() * draw(st.sampled_from([1, 1, 10])) if text else draw(blobs)
        said.append(("text", payload.decode()) if text else ("binary", payload))
        zipped = draw(st.booleans())
        if zipped:
            stream = zlib.compressobj(
                draw(st.integers(0, 9)), zlib.DEFLATED, -draw(st.integers(9, 15)), 8, draw(st.integers(0, 4))
            )
            half = draw(st.integers(0, len(payload)))
            payload = (
                stream.compress(payload[:half])
                + stream.flush(zlib.Z_SYNC_FLUSH)
                + stream.compress(payload[half:])
            )
            payload = (payload + stream.flush(zlib.Z_FULL_FLUSH))[:-4]
        parts = pieces(payload, draw(st.lists(st.integers(0, len(payload)), max_size=3))) or [b""]
        if draw(st.booleans()):
            parts.insert(draw(st.integers(0, len(parts))), b"")
        message_said = said.pop()
        for index, part in enumerate(parts):
            if between or index == 0 or not zipped:
                for kind, content in draw(st.lists(controls, max_size=2)):
                    made.append(frame(kind, content, key=draw(keys)))
                    said.append(("ping" if kind == PING else "pong", content))
            made.append(
                frame(
                    CONT if index else T if text else B,
                    part,
                    fin=index == len(parts) - 1,
                    reserved=0x40 if zipped and not index else 0,
                    key=draw(keys),
                )
            )
        said.append(message_said)
    return made, said


def zipped(payload: bytes, opcode: int = T, *, fin: bool = True) -> bytes:
    """One compressed frame."""
    return frame(opcode, compress(payload, AGREEMENT), reserved=0x40, fin=fin)


class TestCompressed:
    @pytest.mark.rfc("7692", "6.2", "MUST inflate the payloads of all of a message's frames as one")
    @relaxed
    @given(compressed_streams(between=True), cut_places, limits)
    def test_as_websockets_reads_it(
        self, made: tuple[list[bytes], list[tuple[Any, ...]]], cuts: list[int], limit: int
    ) -> None:
        parts, said = made
        data = b"".join(parts)
        expected = Verdict(said)
        assert read_by_triochan(pieces(data, cuts), 5000, limit, agreement=AGREEMENT) == expected
        assert (
            read_by_triochan([data[i : i + 1] for i in range(len(data))], 5000, agreement=AGREEMENT)
            == expected
        )
        assert read_by_triochan(parts, 5000, short_cut=True, agreement=AGREEMENT) == expected
        assert read_by_websockets(data, 5000) == expected

    @relaxed
    @given(compressed_streams(between=False), st.sampled_from([0, 5, 60, 130]))
    def test_as_wsproto_reads_it_with_a_limit_on_the_inflated_size(
        self, made: tuple[list[bytes], list[tuple[Any, ...]]], size: int
    ) -> None:
        parts, said = made
        data = b"".join(parts)
        assert read_by_wsproto(data, 5000, compression=True) == Verdict(said)
        messages = [
            len(value.encode() if name == "text" else value)
            for name, value in said
            if name in ("text", "binary")
        ]
        ours = read_by_triochan(parts, size, agreement=AGREEMENT)
        assert (ours.refused == 1009) is any(each > size for each in messages)
        assert ours.events == said[: len(ours.events)]

    def test_every_byte_is_a_place_to_cut(self) -> None:
        hello = compress(b"hello " * 9, AGREEMENT)
        stream = frame(PING, b"p") + frame(T, hello[:5], fin=False, reserved=0x40)
        stream += frame(PONG, b"q") + frame(CONT, hello[5:])
        stream += zipped(b"\xff" * 300, B) + frame(T, b"plain")
        whole = read_by_triochan([stream], 300, agreement=AGREEMENT)
        assert [event[0] for event in whole.events] == ["ping", "pong", "text", "binary", "text"]
        for cut in range(len(stream)):
            assert read_by_triochan([stream[:cut], stream[cut:]], 300, agreement=AGREEMENT) == whole

    @pytest.mark.rfc(
        "7692",
        "6.1",
        "MUST fail the connection on RSV1 in a control frame, or in a fragment that is not the first",
    )
    @pytest.mark.parametrize(
        ("wrong", "code"),
        [
            pytest.param(frame(PING, b"p", reserved=0x40), 1002, id="RSV1 on a ping"),
            pytest.param(frame(CLOSE, b"\x03\xe8", reserved=0x40), 1002, id="RSV1 on a close frame"),
            pytest.param(frame(T, b"a", fin=False) + frame(CONT, b"b", reserved=0x40), 1002, id="RSV1 later"),
            pytest.param(zipped(b"a", fin=False) + frame(CONT, b"", reserved=0x40), 1002, id="RSV1 again"),
            pytest.param(frame(T, b"a", reserved=0x20), 1002, id="RSV2"),
            pytest.param(frame(T, b"a", reserved=0x60), 1002, id="RSV1 and RSV2"),
            pytest.param(frame(T, b"a", reserved=0x50), 1002, id="RSV1 and RSV3"),
            pytest.param(frame(3, b"a", reserved=0x40), 1002, id="reserved opcode"),
            pytest.param(zipped(b"a", fin=False) + zipped(b"b"), 1002, id="a message within one"),
            pytest.param(frame(T, b"\xff\xff", reserved=0x40), 1007, id="not deflate data"),
            pytest.param(zipped(b"\xff"), 1007, id="not UTF-8 inside"),
            pytest.param(zipped(b"\xc3"), 1007, id="half a character inside"),
            pytest.param(zipped(b"\xff", fin=False), 1007, id="not UTF-8 in a first fragment"),
            pytest.param(zipped(bytes(1001)), 1009, id="too large inside"),
            pytest.param(zipped(bytes(1001), B, fin=False), 1009, id="too large in a first fragment"),
        ],
    )
    def test_refusals(self, wrong: bytes, code: int) -> None:
        data = zipped(b"before") + wrong + zipped(b"after")
        expected = Verdict([("text", "before")], code)
        assert read_by_triochan([data], 1000, agreement=AGREEMENT) == expected
        assert (
            read_by_triochan([data[i : i + 1] for i in range(len(data))], 1000, agreement=AGREEMENT)
            == expected
        )

    def test_incomplete_deflate_data(self) -> None:
        # websockets and wsproto give what there is of it.
        cut = compress(b"Hello, hello, hello", AGREEMENT)[:-3]
        assert read_by_triochan([frame(T, cut, reserved=0x40)], 99, agreement=AGREEMENT).refused == 1007

    def test_the_reason_says_what_is_wrong(self) -> None:
        decoder = FrameDecoder(10, AGREEMENT)
        decoder.receive(frame(PING, reserved=0x40), 1)
        assert decoder.failure == (1002, "a frame that does not begin a message is marked as compressed")

    def test_large_messages_may_follow_each_other(self) -> None:
        decoder = FrameDecoder(100_000, AGREEMENT)
        payload = random.Random(1).randbytes(100_000)
        for _ in range(3):
            # Incompressible: larger than the limit on the wire, and not in what it says.
            data = zipped(payload, B)
            assert len(data) > 100_000
            got = [
                event
                for chunk in pieces(data, range(0, len(data), 9000))
                for event in decoder.receive(chunk, 9)
            ]
            assert got == [(BINARY, payload)]

    def test_the_short_cut_leaves_compressed_messages_to_receive(self) -> None:
        decoder = FrameDecoder(1000, AGREEMENT)
        assert decoder.single_text(zipped(b"hello hello")) is None
        assert decoder.receive(zipped(b"hello hello"), 1) == [(TEXT, "hello hello")]
        assert decoder.single_text(frame(T, b"plain")) == "plain"

    def test_a_bomb_costs_no_more_than_the_limit(self) -> None:
        bomb = zipped(bytes(50_000_000), B)
        for chunks in ([bomb], pieces(bomb, range(0, len(bomb), 1000))):

            def read(chunks: list[bytes] = chunks) -> None:
                decoder = FrameDecoder(100_000, AGREEMENT)
                for chunk in chunks:
                    assert decoder.receive(chunk, 64) == []
                assert decoder.failure == (1009, "a message is larger than 100000 bytes")

            assert peak(read) < 600_000


# RFC 3629 section 4; what an unfinished sequence may be
_TAIL = rb"[\x80-\xbf]"
_WHOLE = (
    rb"[\x00-\x7f]|[\xc2-\xdf]%b|\xe0[\xa0-\xbf]%b|[\xe1-\xec\xee\xef]%b%b|\xed[\x80-\x9f]%b"
    rb"|\xf0[\x90-\xbf]%b%b|[\xf1-\xf3]%b%b%b|\xf4[\x80-\x8f]%b%b"
).replace(b"%b", _TAIL)
_PART = (
    rb"[\xc2-\xf4]|\xe0[\xa0-\xbf]|[\xe1-\xec\xee\xef]%b|\xed[\x80-\x9f]"
    rb"|\xf0[\x90-\xbf]%b?|[\xf1-\xf3]%b%b?|\xf4[\x80-\x8f]%b?"
).replace(b"%b", _TAIL)
may_become_utf_8 = re.compile(rb"(?:%b)*(?:%b)?" % (_WHOLE, _PART), re.DOTALL).fullmatch


class TestTextIsCheckedAsItComes:
    @pytest.mark.rfc("6455", "8.1", "MUST fail the connection on text that is not UTF-8")
    @pytest.mark.rfc("6455", "5.6", "MUST NOT take text that is not UTF-8")
    @relaxed
    @given(
        st.one_of(
            st.binary(max_size=12),
            st.lists(
                st.sampled_from(
                    [
                        0x41,
                        0x7F,
                        0x80,
                        0x8F,
                        0x90,
                        0x9F,
                        0xA0,
                        0xBF,
                        0xC0,
                        0xC2,
                        0xE0,
                        0xE1,
                        0xED,
                        0xF0,
                        0xF4,
                        0xF5,
                    ]
                ),
                max_size=8,
            ).map(bytes),
            st.builds(lambda text, end: text.encode() + end, st.text(max_size=8), st.binary(max_size=4)),
        )
    )
    @example(b"\xed\xa0")
    @example(b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited")  # as Autobahn 6.4.4
    def test_it_is_refused_at_the_byte_that_shows_it(self, payload: bytes) -> None:
        valid = max(size for size in range(len(payload) + 1) if may_become_utf_8(payload[:size]))
        header = frame(T, bytes(len(payload) + 1), key=bytes(4))[: -len(payload) - 1]
        in_one_frame: Callable[[bytes], bytes] = lambda byte: byte  # noqa: E731
        for beginning, each in (
            (header, in_one_frame),
            (frame(T, fin=False), lambda byte: frame(CONT, byte, fin=False)),
        ):
            decoder = FrameDecoder(100)
            assert decoder.receive(beginning, 64) == []
            for index in range(len(payload)):
                assert decoder.failure is None
                assert decoder.receive(each(payload[index : index + 1]), 64) == []
                if index == valid:
                    assert decoder.failure == (1007, "a text message is not UTF-8")
                    break

    def test_in_a_compressed_message_too(self) -> None:
        stream = zlib.compressobj(6, zlib.DEFLATED, -15)
        first = stream.compress(b"ok \xf4") + stream.flush(zlib.Z_SYNC_FLUSH)
        second = stream.compress(b"\x90") + stream.flush(zlib.Z_SYNC_FLUSH)
        decoder = FrameDecoder(100, AGREEMENT)
        header = frame(T, bytes(100), reserved=0x40, key=bytes(4))[:-100]
        assert decoder.receive(header + first, 1) == []
        assert decoder.failure is None
        assert decoder.receive(second, 1) == []
        assert decoder.failure == (1007, "a text message is not UTF-8")


class TestWork:
    """What bytes cost is linear: four times as many cost about four times as much, however they come."""

    @pytest.mark.parametrize(
        "make",
        [
            pytest.param(lambda n: _bytewise(frame(T, "é".encode() * (n // 2))), id="text byte by byte"),
            pytest.param(
                lambda n: _bytewise(zipped(random.Random(1).randbytes(n), B)), id="deflate byte by byte"
            ),
            pytest.param(
                lambda n: [frame(T, fin=False) + frame(CONT, b"a", fin=False) * n], id="one-byte fragments"
            ),
            pytest.param(lambda n: [frame(B, fin=False) + frame(CONT, fin=False) * n], id="empty fragments"),
            pytest.param(
                lambda n: _bytewise(frame(T, fin=False) + frame(CONT, fin=False) * (n // 6)), id="in bytes"
            ),
            pytest.param(lambda n: [frame(PING) * n], id="pings"),
            pytest.param(
                lambda n: [frame(B, b"\x00\x00\x00\xff\xff" * n + b"\x00", reserved=0x40)],
                id="empty deflate blocks",
            ),
        ],
    )
    def test_is_linear(self, make: Callable[[int], list[bytes]]) -> None:
        few, many = make(4000), make(16_000)
        assert min(_seconds(many) for _ in range(3)) < 12 * min(_seconds(few) for _ in range(3)) + 0.005

    def test_what_a_limit_holds_back_is_not_copied_for_every_message(self) -> None:
        def seconds(count: int) -> float:
            decoder = FrameDecoder(100)
            began = time.process_time()
            taken = len(decoder.receive(frame(T) * count, 1))
            while decoder.pending:
                taken += len(decoder.receive(b"", 1))
            assert taken == count
            return time.process_time() - began

        assert min(seconds(40_000) for _ in range(3)) < 12 * min(seconds(10_000) for _ in range(3)) + 0.005

    def test_streams_that_end_and_begin_again_are_counted(self) -> None:
        decoder = FrameDecoder(1 << 20, AGREEMENT)
        assert decoder.receive(frame(B, b"\x03\x00" * 500_000, reserved=0x40), 1) == []
        assert decoder.failure == (1007, "a compressed message is not deflate data")
        decoder = FrameDecoder(1 << 20, AGREEMENT)
        data = b"\x03\x00" * (MAX_STREAMS - 1) + b"\x00"
        assert decoder.receive(frame(B, data, reserved=0x40), 1) == [(BINARY, b"")]


def _bytewise(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def _seconds(chunks: list[bytes]) -> float:
    decoder = FrameDecoder(1 << 20, AGREEMENT)
    began = time.process_time()
    for chunk in chunks:
        decoder.receive(chunk, 1 << 20)
    assert decoder.failure is None
    return time.process_time() - began


class TestReferences:
    """The reference is code too: it sees what it is there to see."""

    def test_rfc_6455_section_5_7(self) -> None:
        masked_hello = bytes.fromhex("818537fa213d7f9f4d5158")
        assert read_by_wsproto(masked_hello, 5) == Verdict([("text", "Hello")])
        assert read_by_triochan([masked_hello], 5) == Verdict([("text", "Hello")])
        assert frame(T, b"Hello", key=KEY) == masked_hello
        assert encode("Hello") == bytes.fromhex("810548656c6c6f")

    def test_the_limit_that_wsproto_does_not_have(self) -> None:
        assert read_by_wsproto(frame(B, bytes(6)), 5) == Verdict(refused=1009)
        assert read_by_wsproto(frame(B, bytes(3), fin=False) + frame(CONT, bytes(3)), 5).refused == 1009
        assert read_by_wsproto(frame(B, bytes(5)) * 2, 5).refused is None


class TestRefusals:
    @pytest.mark.rfc("6455", "8.1", "MUST fail the connection on text that is not UTF-8")
    @pytest.mark.rfc("6455", "5.5", "MUST NOT take control frames in fragments, or of more than 125 bytes")
    @pytest.mark.rfc("6455", "5.4", "MUST NOT take control frames in fragments, or a message within another")
    @pytest.mark.rfc(
        "6455",
        "5.2",
        "MUST fail the connection on reserved bits, unknown opcodes, and lengths that are negative or too long",
    )
    @pytest.mark.rfc("6455", "5.1", "MUST close on a frame that is not masked")
    @pytest.mark.parametrize(
        ("wrong", "code"),
        [
            pytest.param(frame(T, b"a", key=None), 1002, id="unmasked text"),
            pytest.param(frame(PING, key=None), 1002, id="unmasked ping"),
            pytest.param(frame(T, b"a", reserved=0x40), 1002, id="RSV1"),
            pytest.param(frame(T, b"a", reserved=0x20), 1002, id="RSV2"),
            pytest.param(frame(PING, reserved=0x10), 1002, id="RSV3 on a ping"),
            *(pytest.param(frame(code, b"a"), 1002, id=f"opcode {code:#x}") for code in (3, 4, 5, 6, 7)),
            *(pytest.param(frame(code, b"a"), 1002, id=f"opcode {code:#x}") for code in range(11, 16)),
            pytest.param(frame(PING, bytes(126)), 1002, id="long ping"),
            pytest.param(frame(CLOSE, bytes(70_000)), 1002, id="very long close"),
            pytest.param(frame(PONG, fin=False), 1002, id="fragmented pong"),
            pytest.param(frame(CLOSE, b"\x03\xe8", fin=False), 1002, id="fragmented close"),
            pytest.param(frame(CONT, b"a"), 1002, id="continuation of nothing"),
            pytest.param(frame(CONT, b"a", fin=False), 1002, id="unfinished continuation of nothing"),
            pytest.param(frame(T, b"a", fin=False) + frame(T, b"b"), 1002, id="text within text"),
            pytest.param(frame(T, b"a", fin=False) + frame(B, b"b"), 1002, id="binary within text"),
            pytest.param(
                frame(B, b"a", fin=False) + frame(T, b"b", fin=False), 1002, id="text within binary"
            ),
            pytest.param(frame(T, b"a" * 125, length_bytes=2), 1002, id="125 in two bytes"),
            pytest.param(frame(B, length_bytes=8), 1002, id="0 in eight bytes"),
            pytest.param(frame(B, bytes(65535), length_bytes=8), 1002, id="65535 in eight bytes"),
            pytest.param(frame(B, claim=2**63, length_bytes=8), 1002, id="the highest bit of the length"),
            pytest.param(frame(B, claim=2**63 - 1, length_bytes=8), 1009, id="the largest length there is"),
            pytest.param(frame(B, bytes(65537)), 1009, id="one byte over the limit"),
            pytest.param(frame(T, bytes(65537)), 1009, id="one byte of text over the limit"),
            pytest.param(frame(T, b"\xff"), 1007, id="not UTF-8"),
            pytest.param(frame(T, b"\xc3"), 1007, id="half a character"),
            pytest.param(frame(T, b"\xed\xa0\x80"), 1007, id="a surrogate"),
            pytest.param(frame(T, b"\xc0\x80"), 1007, id="an overlong form"),
            pytest.param(frame(T, b"\xf4\x90\x80\x80"), 1007, id="beyond U+10FFFF"),
            pytest.param(
                frame(T, b"\xc3", fin=False) + frame(CONT), 1007, id="half a character, then the end"
            ),
            pytest.param(frame(T, b"\xff", fin=False), 1007, id="not UTF-8 in a first fragment"),
        ],
    )
    def test_both_refuse_with_the_code_and_deliver_what_came_before(self, wrong: bytes, code: int) -> None:
        data = frame(T, b"before") + frame(PING, b"p") + wrong + frame(T, b"after")
        expected = Verdict([("text", "before"), ("ping", b"p")], code)
        assert read_by_triochan([data], 65536) == expected
        assert read_by_triochan([data[index : index + 1] for index in range(len(data))], 65536) == expected
        assert read_by_wsproto(data, 65536) == expected

    @pytest.mark.parametrize(
        "beginning",
        [
            pytest.param(b"\x81\x00", id="unmasked"),
            pytest.param(b"\xc1\x80", id="reserved bit"),
            pytest.param(b"\xc1\xfe", id="reserved bit, before the length is there"),
            pytest.param(b"\x83\xff", id="reserved opcode, before the length is there"),
            pytest.param(b"\x80\xfe", id="continuation of nothing, before the length is there"),
            pytest.param(b"\x89\xfe", id="long ping, before the length is there"),
            pytest.param(b"\x82\xfe\x00\x7d", id="length in too many bytes"),
        ],
    )
    def test_what_can_be_judged_from_the_beginning_of_a_header_is(self, beginning: bytes) -> None:
        decoder = FrameDecoder(100)
        assert decoder.receive(beginning, 64) == []
        assert decoder.failure is not None
        assert decoder.failure[0] == 1002

    def test_a_frame_over_the_limit_is_refused_at_its_header(self) -> None:
        decoder = FrameDecoder(1000)
        assert decoder.receive(b"\x82\xfe\x03\xe9", 64) == []
        assert decoder.failure == (1009, "a message is larger than 1000 bytes")

    def test_the_limit_is_on_the_message_not_on_the_frame(self) -> None:
        decoder = FrameDecoder(10)
        fragments = frame(B, b"12345", fin=False) + frame(CONT, b"67890", fin=False)
        assert decoder.receive(fragments + frame(PING, bytes(125)), 64) == [(PING, bytes(125))]
        assert decoder.failure is None
        assert decoder.receive(frame(CONT, b"", fin=False), 64) == []
        assert decoder.failure is None
        assert decoder.receive(frame(CONT, b"!"), 64) == []
        assert decoder.failure is not None
        assert decoder.failure[0] == 1009

    def test_the_next_message_has_the_whole_limit_again(self) -> None:
        decoder = FrameDecoder(10)
        message = frame(B, b"12345", fin=False) + frame(CONT, b"67890")
        assert decoder.receive(message * 3 + frame(T, b"x" * 10), 64) == [(BINARY, b"1234567890")] * 3 + [
            (TEXT, "x" * 10)
        ]

    @pytest.mark.rfc("6455", "7.1.7", "MUST NOT go on with what comes behind a failure")
    def test_nothing_is_decoded_after_a_failure(self) -> None:
        decoder = FrameDecoder(10)
        decoder.receive(frame(T, b"a", key=None), 64)
        failure = decoder.failure
        assert decoder.receive(frame(T, b"a"), 64) == []
        assert decoder.receive(b"", 64) == []
        assert not decoder.pending
        assert decoder.failure is failure

    def test_nothing_is_decoded_after_a_close_frame(self) -> None:
        decoder = FrameDecoder(10)
        assert decoder.receive(
            frame(T, b"a") + frame(CLOSE, b"\x03\xe8") + frame(T, b"b") + b"\xff\xff", 64
        ) == [
            (TEXT, "a"),
            (CLOSE, b"\x03\xe8"),
        ]
        assert decoder.close_seen
        assert not decoder.pending
        assert decoder.receive(frame(T, b"c"), 64) == []
        assert decoder.failure is None


class TestLimitAndPending:
    def test_at_most_limit_events_and_the_rest_on_request(self) -> None:
        decoder = FrameDecoder(10)
        data = frame(T, b"1") + frame(PING) + frame(B, b"2") + frame(T, b"3")
        assert decoder.receive(data, 1) == [(TEXT, "1")]
        assert decoder.pending
        assert decoder.receive(b"", 2) == [(PING, b""), (BINARY, b"2")]
        assert decoder.pending
        assert decoder.receive(b"", 2) == [(TEXT, "3")]
        assert not decoder.pending

    def test_more_bytes_may_come_while_some_are_pending(self) -> None:
        decoder = FrameDecoder(10)
        second = frame(T, b"2")
        assert decoder.receive(frame(T, b"1") + second[:3], 1) == [(TEXT, "1")]
        assert decoder.receive(second[3:] + frame(T, b"3"), 1) == [(TEXT, "2")]
        assert decoder.receive(b"", 1) == [(TEXT, "3")]

    def test_a_limit_of_nothing_keeps_everything(self) -> None:
        decoder = FrameDecoder(10)
        assert decoder.receive(frame(T, b"1"), 0) == []
        assert decoder.pending
        assert decoder.receive(b"", 0) == []
        assert decoder.receive(b"", 1) == [(TEXT, "1")]
        assert not decoder.pending

    def test_exactly_the_limit_leaves_nothing_pending(self) -> None:
        decoder = FrameDecoder(10)
        assert decoder.receive(frame(T, b"1") + frame(T, b"2"), 2) == [(TEXT, "1"), (TEXT, "2")]
        assert not decoder.pending

    def test_no_more_is_inflated_than_there_is_room_for(self) -> None:
        bomb = zipped(bytes(1000), B)
        for cuts in ([bomb * 3], [bomb * 2 + bomb[:9], bomb[9:]], [bomb[:9], bomb[9:] + bomb * 2]):
            decoder = FrameDecoder(1000, AGREEMENT)
            sizes = []
            for piece in [*cuts, b"", b""]:
                events = decoder.receive(piece, 64, 1500)
                sizes += [len(payload) for _, payload in events]
                assert len(events) <= 2
            assert sizes == [1000] * 3
        decoder = FrameDecoder(1000, AGREEMENT)
        assert decoder.receive(bomb[:9], 64, 1000) == []
        assert len(decoder.receive(bomb[9:] + bomb, 64, 1000)) == 1, "one that came in part takes room too"
        assert decoder.pending
        decoder = FrameDecoder(1000, AGREEMENT)
        assert len(decoder.receive(bomb * 3, 64, 1)) == 1
        assert decoder.pending
        assert len(decoder.receive(frame(B, bytes(900)) * 3, 64, 1)) == 1
        assert len(decoder.receive(b"", 64, 2000)) == 4, "what is not inflated is no larger than what came"

    def test_half_a_frame_is_not_pending(self) -> None:
        for cut in range(1, len(frame(T, b"12345"))):
            decoder = FrameDecoder(10)
            assert decoder.receive(frame(T, b"12345")[:cut], 64) == []
            assert not decoder.pending
            assert decoder.receive(b"", 64) == []
            assert decoder.receive(frame(T, b"12345")[cut:], 64) == [(TEXT, "12345")]

    def test_an_error_behind_the_limit_comes_when_it_is_reached(self) -> None:
        decoder = FrameDecoder(10)
        assert decoder.receive(frame(T, b"1") + frame(T, b"\xff"), 1) == [(TEXT, "1")]
        assert decoder.failure is None
        assert decoder.receive(b"", 1) == []
        assert decoder.failure is not None
        assert decoder.failure[0] == 1007


class TestControlFrames:
    @pytest.mark.rfc("6455", "5.4", "MUST be able to take control frames in the middle of a message")
    def test_are_handed_on_unmasked_between_fragments_too(self) -> None:
        ping, pong = frame(PING, b"between", key=b"\1\2\3\4"), frame(PONG, b"x" * 125)
        decoder = FrameDecoder(10)
        data = frame(T, b"\xc3", fin=False) + ping + frame(CONT, b"", fin=False) + pong + frame(CONT, b"\xa9")
        assert decoder.receive(data, 64) == [(PING, b"between"), (PONG, b"x" * 125), (TEXT, "é")]

    def test_what_a_close_frame_says_is_not_this_module_s_business(self) -> None:
        for payload in (b"", b"\x03", b"\x03\xe8", b"\x00\x00", b"\x03\xed", b"\x03\xe8\xff"):
            decoder = FrameDecoder(10)
            assert decoder.receive(frame(CLOSE, payload), 64) == [(CLOSE, payload)]
            assert decoder.failure is None
            assert decoder.close_seen


class TestSingleText:
    @pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 1000])
    def test_takes_one_whole_text_message(self, size: int) -> None:
        data = frame(T, b"x" * size)
        assert FrameDecoder(2000).single_text(data) == "x" * size
        assert FrameDecoder(2000).single_text(data + b"\x81") is None
        assert FrameDecoder(2000).single_text(data[:-1]) is None

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(frame(B, b"a"), id="binary"),
            pytest.param(frame(T, b"a", fin=False), id="a fragment"),
            pytest.param(frame(PING), id="a ping"),
            pytest.param(frame(T, b"a", key=None) + b"abcd", id="unmasked"),
            pytest.param(frame(T, b"a" * 125, length_bytes=2), id="a length too long"),
            pytest.param(frame(T, b"\xff"), id="not UTF-8"),
            pytest.param(frame(T, b"a" * 11), id="over the limit"),
        ],
    )
    def test_leaves_everything_else_to_receive(self, data: bytes) -> None:
        decoder = FrameDecoder(10)
        assert decoder.single_text(data) is None
        assert decoder.failure is None

    def test_leaves_alone_what_belongs_to_something_begun(self) -> None:
        text = frame(T, b"a")
        for before in (frame(T, b"b", fin=False), text[:3], frame(CLOSE), frame(T, b"a", key=None), frame(3)):
            decoder = FrameDecoder(10)
            decoder.receive(before, 64)
            assert decoder.single_text(text) is None
        decoder = FrameDecoder(10)
        decoder.receive(text * 2, 1)
        assert decoder.single_text(text) is None


class TestFragments:
    @pytest.mark.parametrize("text", ["a\r\nb\rc\n", "\n", "\0\ufeff\u2028", "𝄞" * 5])
    def test_text_is_not_touched(self, text: str) -> None:
        payload = text.encode()
        parts = [frame(CONT, payload[index : index + 1], fin=False) for index in range(len(payload))]
        decoder = FrameDecoder(100)
        assert decoder.receive(frame(T, fin=False) + b"".join(parts) + frame(CONT), 64) == [(TEXT, text)]

    def test_an_empty_message_may_be_fragmented(self) -> None:
        decoder = FrameDecoder(100)
        assert decoder.receive(frame(T, fin=False) + frame(CONT) + frame(B, fin=False) + frame(CONT), 64) == [
            (TEXT, ""),
            (BINARY, b""),
        ]

    def test_what_is_delivered_is_not_changed_later(self) -> None:
        decoder = FrameDecoder(100)
        message = frame(B, b"ab", fin=False) + frame(CONT, b"c")
        (_, first), (_, second) = decoder.receive(message * 2, 64)
        assert type(first) is bytes
        assert (first, second) == (b"abc", b"abc")


class TestMemory:
    def test_many_small_fragments_cost_what_their_message_costs(self) -> None:
        decoder = FrameDecoder(100_000)
        decoder.receive(frame(B, fin=False), 64)
        for _ in range(100):
            decoder.receive(frame(CONT, b"x", fin=False) * 500, 64)
        assert _weight(decoder) < 4 * 50_000
        assert decoder.receive(frame(CONT), 64) == [(BINARY, b"x" * 50_000)]

    def test_of_text_too(self) -> None:
        decoder = FrameDecoder(100_000)
        decoder.receive(frame(T, fin=False), 64)
        for _ in range(100):
            decoder.receive(frame(CONT, "é".encode(), fin=False) * 250, 64)
        assert _weight(decoder) < 6 * 50_000
        assert decoder.receive(frame(CONT), 64) == [(TEXT, "é" * 25_000)]

    @pytest.mark.parametrize("opcode", [T, B])
    def test_empty_fragments_cost_nothing_for_they_are_under_no_limit(self, opcode: int) -> None:
        decoder = FrameDecoder(10)
        decoder.receive(frame(opcode, fin=False), 64)
        before = _weight(decoder)
        for _ in range(10):
            decoder.receive(frame(CONT, fin=False) * 1000, 64)
        assert _weight(decoder) <= before + 64

    def test_a_frame_that_comes_byte_by_byte_costs_what_it_is_long(self) -> None:
        decoder = FrameDecoder(100_000)
        data = frame(B, bytes(20_000))
        for index in range(len(data) - 1):
            decoder.receive(data[index : index + 1], 64)
        assert _weight(decoder) < 2 * len(data)
        assert decoder.receive(data[-1:], 64) == [(BINARY, bytes(20_000))]

    def test_nothing_is_kept_of_what_was_delivered(self) -> None:
        decoder = FrameDecoder(100_000)
        fresh = _weight(decoder)
        message = frame(B, bytes(40_000), fin=False) + frame(CONT, bytes(40_000))
        for chunk in pieces(message * 2 + frame(T, b"x" * 50_000), range(0, 300_000, 1000)):
            decoder.receive(chunk, 64)
        assert _weight(decoder) <= fresh + 64


def _weight(decoder: FrameDecoder) -> int:
    """Bytes that a decoder holds."""
    seen: set[int] = set()

    def weigh(thing: Any) -> int:
        if id(thing) in seen:
            return 0
        seen.add(id(thing))
        own = sys.getsizeof(thing)
        return own + (sum(map(weigh, thing)) if isinstance(thing, (list, tuple)) else 0)

    return sum(weigh(getattr(decoder, name)) for name in FrameDecoder.__slots__)


class TestEncode:
    @pytest.mark.rfc("6455", "6.1", "MUST send data in frames, of its own opcode, the last with FIN")
    def test_text_and_binary_have_their_opcodes(self) -> None:
        assert encode("é") == b"\x81\x02\xc3\xa9"
        assert encode(b"\xc3\xa9") == b"\x82\x02\xc3\xa9"
        assert encode("") == b"\x81\x00"
        assert encode(b"") == b"\x82\x00"

    def test_a_lone_surrogate_has_no_form(self) -> None:
        with pytest.raises(UnicodeEncodeError):
            encode("\ud800")

    @pytest.mark.rfc("6455", "5.5.1", "MUST begin a close frame's body with a code of two bytes")
    @given(st.sampled_from([1000, 1001, 1011, 1013, 3000, 4999]), st.text(max_size=150))
    @example(1000, "é" * 62)
    @example(1000, "x" * 124)
    def test_a_close_frame_is_read_by_a_client_whatever_its_reason(self, code: int, reason: str) -> None:
        protocol = FrameProtocol(client=True, extensions=[])
        protocol.receive_bytes(close_frame(code, reason))
        [event] = protocol.received_frames()
        assert isinstance(event.payload, tuple)
        read_code, read_reason = event.payload
        assert read_code == code
        assert reason.startswith(read_reason)
        assert read_reason == reason or len(read_reason.encode()) > 119

    def test_without_the_c_extension_frames_are_unmasked_in_python(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "websockets.speedups", None)
        spec = importlib.util.find_spec("triochan.wire.frames")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.apply_mask is not sys.modules["triochan.wire.frames"].apply_mask
        data = frame(T, "é".encode() * 300) + frame(PING) + frame(B, b"abc", fin=False) + frame(CONT)
        for chunks in ([data], _bytewise(data)):
            decoder = module.FrameDecoder(1000)
            events = [event for chunk in chunks for event in decoder.receive(chunk, 64)]
            assert events == [(TEXT, "é" * 300), (PING, b""), (BINARY, b"abc")]

    def test_the_mask_of_the_tests_is_its_own_inverse(self) -> None:
        assert mask(mask(b"hello", KEY), KEY) == b"hello"

    def test_opcodes_are_those_of_the_rfc(self) -> None:
        assert {each.name: int(each) for each in Opcode} == {each.name: int(each) for each in WsprotoOpcode}


def test_frames_are_read_without_the_c_extension_too() -> None:
    code = (
        "import sys; sys.modules['websockets.speedups'] = None\n"
        "from triochan.wire.frames import FrameDecoder, apply_mask\n"
        "assert apply_mask.__module__ == 'websockets.utils', apply_mask.__module__\n"
        "print(FrameDecoder(100).receive(bytes.fromhex(sys.argv[1]), 9))"
    )
    sent = frame(T, b"hello")
    run = subprocess.run(
        [sys.executable, "-c", code, sent.hex()], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{FrameDecoder(100).receive(sent, 9)}\n", "")

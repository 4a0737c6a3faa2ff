"""permessage-deflate: which offers are taken, what is compressed and inflated; held against websockets' and zlib."""

from __future__ import annotations

import itertools
import json
import random
import zlib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from memory import held, peak
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame, Opcode
from websockets.headers import parse_extension

from triochan.headers import Head
from triochan.wire.deflate import (
    MAX_HISTORY,
    MAX_STREAMS,
    Agreement,
    DeflateError,
    Inflate,
    Offer,
    compress,
    negotiate,
)
from triochan.wire.frames import FrameDecoder, encode, encode_compressed
from triochan.wire.handshake import Upgrade, check_upgrade

relaxed = settings(deadline=None)
TAKEOVER = Agreement(server_no_context_takeover=False)
ANEW = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


def offers(*values: str) -> list[Offer]:
    """As a handshake has them."""
    headers = [
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        *((b"sec-websocket-extensions", value.encode()) for value in values),
    ]
    upgrade = check_upgrade(Head(b"GET", b"/", headers, b"1.1"), {"scheme": "http"}, b"")
    assert isinstance(upgrade, Upgrade)
    return upgrade.extensions


class TestNegotiate:
    @pytest.mark.rfc("7692", "7.1.1.2", "may ask for client_no_context_takeover, whatever is offered")
    @pytest.mark.rfc("7692", "7.1.2.2", "MUST NOT answer client_max_window_bits to an offer without it")
    @pytest.mark.rfc(
        "7692",
        "7.1.2.1",
        "MUST answer server_max_window_bits of the offer's size or less where it is offered and accepted",
    )
    @pytest.mark.rfc(
        "7692", "7.1.1.1", "MUST answer server_no_context_takeover where it is offered and accepted"
    )
    @pytest.mark.rfc("7692", "5", "MUST answer with an agreement that the client offered")
    @pytest.mark.parametrize(
        ("offer", "bits", "response"),
        [
            pytest.param("permessage-deflate", 15, ANEW, id="plain"),
            pytest.param("permessage-deflate; client_max_window_bits", 15, ANEW, id="as browsers offer it"),
            pytest.param("permessage-deflate; client_max_window_bits=8", 15, ANEW, id="small client window"),
            pytest.param('permessage-deflate; client_max_window_bits="10"', 15, ANEW, id="in quotes"),
            pytest.param("permessage-deflate; client_no_context_takeover", 15, ANEW, id="client anew"),
            pytest.param("permessage-deflate; server_no_context_takeover", 15, ANEW, id="server anew"),
            pytest.param(
                "permessage-deflate; server_max_window_bits=9", 9, ANEW + "; server_max_window_bits=9", id="9"
            ),
            pytest.param(
                "permessage-deflate; server_max_window_bits=15",
                15,
                ANEW + "; server_max_window_bits=15",
                id="15 is answered where it is asked for",
            ),
            pytest.param("x-other; a=1, permessage-deflate", 15, ANEW, id="behind another extension"),
            pytest.param(
                "permessage-deflate; server_max_window_bits=8, permessage-deflate",
                15,
                ANEW,
                id="the second, where the first can't be met",
            ),
            pytest.param(
                "permessage-deflate; server_max_window_bits=10, permessage-deflate",
                10,
                ANEW + "; server_max_window_bits=10",
                id="the first that can be met",
            ),
        ],
    )
    def test_accepts(self, offer: str, bits: int, response: str) -> None:
        agreement = negotiate(offers(offer))
        assert agreement == Agreement(bits, True)
        assert agreement is not None
        assert agreement.response.decode() == response

    @pytest.mark.rfc("7692", "7.1.2.2", "MUST decline window sizes other than 8 to 15, and leading zeros")
    @pytest.mark.rfc("7692", "7.1.2.1", "MUST decline window sizes other than 8 to 15, and leading zeros")
    @pytest.mark.rfc(
        "7692",
        "7.1",
        "MUST decline an offer with a parameter that is unknown, repeated, or has a value that is none",
    )
    @pytest.mark.parametrize(
        "parameters",
        [
            "unknown",
            "server_no_context_takeover=1",
            "client_no_context_takeover=true",
            "server_no_context_takeover; server_no_context_takeover",
            "client_max_window_bits; client_max_window_bits=10",
            "server_max_window_bits=10; server_max_window_bits=10",
            "server_max_window_bits",
            *(f"server_max_window_bits={bits}" for bits in ("8", "7", "16", "08", "010", "x", "1e1", "-9")),
            *(f"client_max_window_bits={bits}" for bits in ("7", "16", "09", "x", "+9")),
        ],
    )
    def test_declines(self, parameters: str) -> None:
        assert negotiate(offers(f"permessage-deflate; {parameters}")) is None
        assert negotiate(offers(f"permessage-deflate; {parameters}", "permessage-deflate")) == Agreement()

    @pytest.mark.rfc("6455", "9.1", "MUST NOT accept extensions that the client did not ask for")
    @pytest.mark.rfc("6455", "4.2.2", "MUST NOT list extensions that the client did not")
    @pytest.mark.rfc("7692", "5", "MUST NOT agree on what was not offered")
    def test_nothing_is_agreed_on_without_an_offer(self) -> None:
        assert negotiate([]) is None
        assert negotiate(offers("permessage-bzip2, Permessage-Deflate")) is None

    def test_takeover_where_the_server_likes_it_and_the_client_does_not_mind(self) -> None:
        agreement = negotiate(offers("permessage-deflate"), context_takeover=True)
        assert agreement == TAKEOVER
        assert agreement is not None
        assert agreement.response == b"permessage-deflate; client_no_context_takeover"
        minded = negotiate(offers("permessage-deflate; server_no_context_takeover"), context_takeover=True)
        assert minded == Agreement()

    def test_equal_agreements_are_one_key(self) -> None:
        asked, plain = negotiate(offers("permessage-deflate; server_max_window_bits=15")), Agreement()
        assert asked is not None
        assert asked.response != plain.response
        assert {asked: 1}[plain] == 1
        assert Agreement(12) != plain != TAKEOVER
        assert negotiate(offers("permessage-deflate; server_max_window_bits=15")) is asked

    @pytest.mark.rfc("7692", "7.1", "answers with parameters that a client takes")
    @pytest.mark.parametrize("server_anew", [False, True])
    @pytest.mark.parametrize("client_anew", [False, True])
    @pytest.mark.parametrize("server_bits", [None, 9, 12, 15])
    @pytest.mark.parametrize("client_bits", [None, True, 8, 15])
    @pytest.mark.parametrize("takeover", [False, True])
    def test_a_client_of_websockets_takes_the_answer(
        self, server_anew: bool, client_anew: bool, server_bits: Any, client_bits: Any, takeover: bool
    ) -> None:
        if client_bits == 8:
            client_bits = 9
        factory = ClientPerMessageDeflateFactory(server_anew, client_anew, server_bits, client_bits)
        parameters = "".join(
            f"; {name}" if value is None else f"; {name}={value}"
            for name, value in factory.get_request_params()
        )
        agreement = negotiate(offers("permessage-deflate" + parameters), context_takeover=takeover)
        assert agreement is not None
        [(_, answer)] = parse_extension(agreement.response.decode())
        extension = factory.process_response_params(answer, [])
        assert extension.remote_no_context_takeover is agreement.server_no_context_takeover
        assert extension.local_no_context_takeover
        assert extension.remote_max_window_bits == agreement.server_max_window_bits


def client(agreement: Agreement) -> PerMessageDeflate:
    return PerMessageDeflate(agreement.server_no_context_takeover, True, agreement.server_max_window_bits, 15)


def read_as(codec: PerMessageDeflate, payload: bytes) -> bytes:
    return bytes(codec.decode(Frame(Opcode.BINARY, payload, rsv1=True)).data)


messages = st.one_of(
    st.binary(max_size=300),
    st.text('ab{}"é', max_size=300).map(str.encode),
    st.builds(lambda unit, count: unit * count, st.binary(min_size=1, max_size=40), st.integers(1, 500)),
    st.builds(
        lambda seed, size: random.Random(seed).randbytes(size), st.integers(0, 99), st.integers(0, 9000)
    ),
)
windows = st.integers(9, 15)


class TestCompress:
    @pytest.mark.rfc(
        "7692", "7.2.1", "compresses with a window of the agreed size, and takes 00 00 ff ff from the end"
    )
    @relaxed
    @given(messages, windows)
    @example(b"", 15)
    @example(b"x" * 100_000, 9)
    @example(bytes(range(256)) * 400, 9)
    def test_a_client_reads_it(self, payload: bytes, bits: int) -> None:
        agreement = Agreement(bits)
        compressed = compress(payload, agreement)
        assert read_as(client(agreement), compressed) == payload
        assert zlib.decompressobj(-bits).decompress(compressed + b"\0\0\xff\xff") == payload

    @pytest.mark.rfc("7692", "7.2.1", "MUST NOT use a history that the client does not keep")
    @relaxed
    @given(st.lists(messages, max_size=6), windows)
    def test_with_a_history_too_in_the_order_of_sending(self, payloads: list[bytes], bits: int) -> None:
        agreement = Agreement(bits, False)
        codec, history = client(agreement), b""
        for payload in payloads:
            frame, history = encode_compressed(payload, agreement, history)
            if frame[0] & 0x40:
                body = frame[2 if frame[1] < 126 else 4 if frame[1] == 126 else 10 :]
                assert read_as(codec, body) == payload
                assert history == payload[-MAX_HISTORY:]
            else:
                assert frame == encode(payload)

    def test_a_frame_without_a_history_suits_a_client_that_has_one(self) -> None:
        codec = client(TAKEOVER)
        for payload in (b"abc" * 100, b"abcdef" * 100, b"x" * 70_000):
            assert read_as(codec, compress(payload, TAKEOVER)) == payload

    def test_a_history_is_used(self) -> None:
        payload = random.Random(5).randbytes(1000)
        assert len(compress(payload, TAKEOVER, payload)) < 50
        assert len(compress(payload, TAKEOVER)) > 1000

    def test_a_history_that_the_client_does_not_keep_is_refused(self) -> None:
        with pytest.raises(ValueError, match="server_no_context_takeover"):
            compress(b"x", Agreement(), b"y")

    @pytest.mark.rfc("7692", "7.2.3.6", "sends an empty message as a compressed one")
    def test_the_smallest_message_is_one_byte(self) -> None:
        assert compress(b"", Agreement()) == b"\x00"


class TestEncodeCompressed:
    @pytest.mark.parametrize("size", [400, 40_000, 3_000_000])
    def test_lengths_of_all_forms(self, size: int) -> None:
        text = "".join(random.Random(1).choices("abcdefgh", k=size))
        frame, history = encode_compressed(text, Agreement())
        assert history == b""
        assert frame[0] == 0xC1
        compressed = compress(text.encode(), Agreement())
        start = {400: 4, 40_000: 4, 3_000_000: 10}[size]
        assert frame[start:] == compressed
        assert int.from_bytes(frame[2:start], "big") == len(compressed)

    @pytest.mark.rfc("7692", "6.1", "MUST set RSV1 on the first frame of a compressed message")
    def test_text_and_binary(self) -> None:
        assert encode_compressed("é" * 50, Agreement()).frame[0] == 0xC1
        assert encode_compressed(b"x" * 50, Agreement()).frame[:1] == b"\xc2"

    def test_what_does_not_get_smaller_is_sent_as_it_is(self) -> None:
        payload = random.Random(2).randbytes(500)
        history = b"before"
        frame, after = encode_compressed(payload, TAKEOVER, history)
        assert frame == encode(payload)
        assert after is history
        assert encode_compressed("", Agreement()).frame == encode("")

    def test_the_history_is_the_message_itself_where_it_is_short(self) -> None:
        payload = b"x" * MAX_HISTORY
        assert encode_compressed(payload, TAKEOVER).history is payload
        assert encode_compressed(payload + b"y", TAKEOVER).history == payload[1:] + b"y"

    def test_a_lone_surrogate_has_no_form(self) -> None:
        with pytest.raises(UnicodeEncodeError):
            encode_compressed("\ud800" * 99, Agreement())


def inflate(data: bytes, room: int, cuts: list[int] | None = None) -> bytes:
    stream, inflated = Inflate(), b""
    places = sorted({min(cut, len(data)) for cut in cuts or ()} | {0, len(data)})
    for start, end in itertools.pairwise(places):
        inflated += stream.inflate(data[start:end], room - len(inflated))
        if len(inflated) > room:
            return inflated
    return inflated + stream.inflate(b"", room - len(inflated), final=True)


deflated = st.builds(
    lambda parts, level, strategy, bits, flush: _deflate(parts, level, strategy, bits, flush),
    st.lists(messages, max_size=3),
    st.integers(0, 9),
    st.integers(0, 4),
    windows,
    st.sampled_from([zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_NO_FLUSH]),
)


def _deflate(parts: list[bytes], level: int, strategy: int, bits: int, flush: int) -> tuple[bytes, bytes]:
    """A message as a client may compress it, and what it is."""
    stream = zlib.compressobj(level, zlib.DEFLATED, -bits, 8, strategy)
    made = b"".join(stream.compress(part) + stream.flush(flush) for part in parts)
    # Z_FULL_FLUSH always writes the empty block, Z_SYNC_FLUSH not twice in a row.
    return (made + stream.flush(zlib.Z_FULL_FLUSH))[:-4], b"".join(parts)


class TestInflate:
    @pytest.mark.rfc(
        "7692", "7.2.2", "MUST be able to decompress what a client compresses, in whatever blocks"
    )
    @relaxed
    @given(deflated, st.lists(st.integers(0, 500), max_size=5))
    def test_whatever_a_client_s_compressor_does(self, made: tuple[bytes, bytes], cuts: list[int]) -> None:
        data, payload = made
        assert inflate(data, len(payload), cuts) == payload
        assert inflate(data, len(payload) + 1, cuts) == payload
        if payload:
            assert len(inflate(data, len(payload) - 1, cuts)) == len(payload)

    @pytest.mark.parametrize("level", range(1, 10))
    def test_what_is_cut_off_is_refused(self, level: int) -> None:
        data, payload = _deflate([_document(random.Random(level))], level, 0, 15, zlib.Z_NO_FLUSH)
        for size in range(len(data) - 1):
            with pytest.raises(DeflateError):
                inflate(data[:size], 10_000)
        assert inflate(data, 10_000) == payload

    def test_rfc_7692_section_7_2_3(self) -> None:
        hello = bytes.fromhex("f248cdc9c90700")
        assert inflate(hello, 5) == b"Hello"
        assert inflate(bytes.fromhex("000500faff48656c6c6f00"), 5) == b"Hello"  # 7.2.3.3, uncompressed block
        assert inflate(bytes.fromhex("f348cdc9c9070000"), 5) == b"Hello"  # 7.2.3.4, BFINAL
        assert (
            inflate(bytes.fromhex("f248050000 00ffffcac9c90700".replace(" ", "")), 5) == b"Hello"
        )  # 7.2.3.5
        assert inflate(b"\x00", 0) == b""  # 7.2.3.6

    @pytest.mark.rfc("7692", "7.2.2", "MUST be able to decompress blocks that say to be the last")
    def test_a_final_block_may_be_the_end_of_the_message(self) -> None:
        final = bytes.fromhex("f348cdc9c90700")
        for cuts in ([], [3], [7], [1, 2, 3, 4, 5, 6, 7]):
            assert inflate(final, 5, cuts) == b"Hello"
            assert inflate(final * 3, 15, cuts) == b"Hello" * 3
            assert inflate(final + b"\x00", 5, cuts) == b"Hello"

    def test_how_often_a_stream_may_begin_again(self) -> None:
        final = bytes.fromhex("f348cdc9c90700")
        assert inflate(final * MAX_STREAMS, 5 * MAX_STREAMS) == b"Hello" * MAX_STREAMS
        with pytest.raises(DeflateError, match=str(MAX_STREAMS)):
            inflate(final * (MAX_STREAMS + 1), 1 << 20)

    @pytest.mark.parametrize("data", [b"", b"\xff", b"\x07", b"\x00\x01", b"\xf2\x48", b"\x03\x00\xff"])
    def test_no_deflate_data(self, data: bytes) -> None:
        for cuts in ([], [1]):
            with pytest.raises(DeflateError):
                inflate(data, 1000, cuts)

    @relaxed
    @given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4))
    def test_any_bytes_wherever_they_are_cut(self, data: bytes, cuts: list[int]) -> None:
        assert attempt(data, 100_000, cuts) == attempt(data, 100_000, [])

    def test_a_bomb_costs_no_more_than_the_limit(self) -> None:
        bomb = compress(bytes(50_000_000), Agreement())
        assert len(bomb) < 50_000
        assert len(inflate(bomb, 10_000)) == 10_001
        assert peak(lambda: inflate(bomb, 10_000)) < 300_000


def attempt(data: bytes, room: int, cuts: list[int]) -> bytes | None:
    """What comes out; None where it is refused."""
    try:
        got = inflate(data, room, cuts)
    except DeflateError:
        return None
    return got


class TestCosts:
    def test_an_idle_connection_keeps_nothing_for_compression(self) -> None:
        payload = compress(b"hello " * 20, Agreement())
        message = bytes((0xC1, 0x80 | len(payload))) + bytes(4) + payload

        def decoders(agreement: Agreement | None, data: bytes) -> list[FrameDecoder]:
            made = [FrameDecoder(1 << 20, agreement) for _ in range(50)]
            for decoder in made:
                assert decoder.receive(data, 64)
                assert decoder.failure is None
            return made

        agreement = Agreement()
        plain = held(lambda: decoders(None, b"\x81\x80" + bytes(4))) // 50
        compressed = held(lambda: decoders(agreement, message)) // 50
        assert compressed - plain < 100

    def test_with_a_history_the_wire_carries_what_websockets_would(self) -> None:
        theirs = ServerPerMessageDeflateFactory(
            server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5}
        )
        _, codec = theirs.process_request_params([("client_max_window_bits", None)], [])
        chosen = random.Random(7)
        ours = alone = plain = websockets = 0
        history = b""
        for _ in range(100):
            payload = _document(chosen)
            frame, history = encode_compressed(payload, TAKEOVER, history)
            ours += len(frame)
            alone += len(encode_compressed(payload, Agreement()).frame)
            websockets += len(codec.encode(Frame(Opcode.TEXT, payload)).data) + 4
            plain += len(payload)
        assert ours < 1.1 * websockets < alone < plain / 2


def _document(chosen: random.Random) -> bytes:
    """About 2 KiB of JSON as an application sends it: the same keys, other values."""
    words = [
        "open",
        "closed",
        "pending",
        "price",
        "volume",
        "market",
        "order",
        "customer",
        "delivered",
        "today",
    ]
    rows = [
        {
            "id": f"{chosen.getrandbits(64):016x}",
            "title": " ".join(chosen.choices(words, k=8)),
            "updated_at": f"2026-05-{chosen.randrange(1, 29):02}T{chosen.randrange(24):02}:00:00Z",
            "amount": round(chosen.uniform(1, 1000), 2),
            "flags": chosen.sample(words, 2),
        }
        for _ in range(12)
    ]
    return json.dumps({"type": "update", "rows": rows}).encode()

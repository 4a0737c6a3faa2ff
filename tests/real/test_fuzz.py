"""The fuzzers' checks, on what they begin with and on a few random bytes; ``just fuzz`` gives them time."""

from __future__ import annotations

import h11
import pytest
import trio
from fuzz import control, deflate, frames, heads, http_head
from fuzz import run as runner
from hypothesis import given, settings
from hypothesis import strategies as st


def test_frames_on_its_seeds() -> None:
    seeds = frames.seeds()
    assert len(seeds) > 20
    for seed in seeds:
        frames.check(seed)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_frames_on_any_bytes(data: bytes) -> None:
    frames.check(data)


def test_control_on_its_seeds() -> None:
    seeds = control.seeds()
    assert len(seeds) > 10
    for seed in seeds:
        control.check(seed)


@settings(deadline=None)
@given(
    st.binary(max_size=60)
    | st.builds(
        lambda way, words: bytes((way,)) + b"".join(words),
        st.integers(3, 4),
        st.lists(st.sampled_from([*control.WORDS, b"10", b"a"]) | st.binary(max_size=2), max_size=8),
    )
)
def test_control_on_any_bytes(data: bytes) -> None:
    control.check(data)


def test_deflate_on_its_seeds() -> None:
    seeds = deflate.seeds()
    assert len(seeds) > 20
    for seed in seeds:
        deflate.check(seed)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_deflate_on_any_bytes(data: bytes) -> None:
    deflate.check(data)


def test_heads_on_its_seeds() -> None:
    for seed in heads.seeds():
        heads.check(seed)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([*heads.WORDS, *http_head.WORDS, *heads.REQUESTS]) | st.binary(max_size=8), max_size=6
    ).map(b"".join),
    st.binary(min_size=3, max_size=3),
)
def test_heads_on_any_bytes(data: bytes, parameters: bytes) -> None:
    heads.check(parameters + data)


@pytest.mark.parametrize("request_", http_head.REQUESTS, ids=range(len(http_head.REQUESTS)))
def test_http_on_its_seeds(request_: bytes) -> None:
    for flags in (0, 1):
        for cut in (0, 1, 40):
            http_head.check(bytes((flags, cut)) + request_)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.sampled_from([*http_head.WORDS, *http_head.REQUESTS]) | st.binary(max_size=8), max_size=5
    ).map(b"".join),
    st.booleans(),
    st.integers(0, 9),
)
def test_http_on_any_bytes(data: bytes, hang_up: bool, cut: int) -> None:
    http_head.check(bytes((not hang_up, cut)) + data)


def test_http_reaches_compressed_messages() -> None:
    [stream] = [each for each in http_head.REQUESTS if each.startswith(http_head.DEFLATE) and b"\xc9" in each]
    sent, heads = trio.run(http_head.converse, [stream], True)
    assert heads == []
    assert b"permessage-deflate" in sent
    answers = sent.partition(b"\r\n\r\n")[2]
    hello = bytes.fromhex("8105") + b"Hello"
    # A pong waits for no handler; what is so short is not sent compressed.
    assert answers == b"\x8a\0" + hello + hello + b"\x88\x24\x03\xf1a message is larger than 256 bytes"


class TestTheChecksThemselves:
    """A check that can't fail finds nothing."""

    def test_frames_sees_a_decoder_that_is_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("triochan.wire.frames.FrameDecoder._judge", lambda self, first: None)
        reserved_opcode = bytes((4, 3, 0, 0, 0x83, 0x80, 0, 0, 0, 0))
        with pytest.raises(AssertionError, match="wsproto"):
            frames.check(reserved_opcode)

    def test_control_sees_a_close_code_that_is_let_through(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("triochan.wire.control.may_come", lambda code: True)
        with pytest.raises(AssertionError, match="wsproto"):
            control.check(b"\x00\x03\xed")

    def test_control_sees_a_header_that_is_taken_as_it_comes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("triochan.wire.handshake.is_token", lambda value: True)
        with pytest.raises(h11.RemoteProtocolError):
            control.check(b"\x04a\r\nb")

    def test_deflate_sees_a_message_that_is_cut_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "triochan.wire.deflate.Inflate.inflate", lambda self, data, room, final=False: b""
        )
        with pytest.raises(AssertionError, match="zlib"):
            deflate.check(bytes((4, 0, 0, 0, 9)) + bytes.fromhex("f248cdc9c907"))

    def test_deflate_sees_a_frame_that_no_client_reads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from triochan.wire.deflate import compress

        monkeypatch.setattr(
            "triochan.wire.deflate.compress",
            lambda payload, agreement, history: compress(payload[1:], agreement),
        )
        with pytest.raises(AssertionError, match="websockets"):
            deflate.check(bytes((4, 0, 0, 0, 9)) + bytes.fromhex("f248cdc9c90700"))

    def test_http_sees_what_is_logged_as_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr("triochan.http1.endpoint.parse_http")
        with pytest.raises(AssertionError, match=r"raised in http\.request"):
            http_head.check(b"\0\0GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    def test_http_sees_an_error_in_a_reader(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr("triochan.http1.protocol.Message")
        with pytest.raises(AssertionError, match="internal error"):
            http_head.check(b"\0\0GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    def test_http_sees_what_comes_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr("triochan.http1.protocol.HttpConnection.finish")
        with pytest.raises(ExceptionGroup):  # noqa: ASYNC401 - how deep it is nested is not the point
            http_head.check(b"\0\0GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    def test_http_sees_a_timer_that_is_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("triochan.timers.Timer.cancel", lambda self: None)
        with pytest.raises(ExceptionGroup) as raised:  # noqa: ASYNC401 - how deep it is nested is not the point
            http_head.check(b"\0\0GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raised.group_contains(AssertionError, match="a timer is left")

    def test_http_sees_a_stream_that_stays_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def aclose_forcefully(stream: trio.abc.AsyncResource) -> None: ...

        monkeypatch.setattr("trio.aclose_forcefully", aclose_forcefully)
        with pytest.raises(AssertionError, match="not closed"):
            http_head.check(b"\0\0GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\n\r\n\0HTTP",
            b"garbage",
            b"HTTP/1.1 101 \r\nSec-WebSocket-Accept: x\r\n\r\n\x81\x05abc",
            b"HTTP/1.1 101 \r\nSec-WebSocket-Accept: x\r\n\r\n\x81\x81abc",
            b"HTTP/1.1 101 \r\n\r\n",
        ],
    )
    def test_http_sees_answers_that_are_wrong(self, answer: bytes) -> None:
        if answer.endswith(b"\0HTTP"):
            http_head.read_answers(answer, [], hung_up=False)  # a body up to the end is one
            return
        with pytest.raises(Exception):  # noqa: B017 - h11's, wsproto's, or the check's own
            http_head.read_answers(answer, [], hung_up=False)


def test_the_runner_ends_with_what_was_found(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(runner, "FOUND", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(runner, "run", lambda name, seconds: True)
    assert runner.main(["--seconds", "1"]) == 0
    monkeypatch.setattr(runner, "run", lambda name, seconds: name != "frames")
    assert runner.main([]) == 1
    assert runner.main(["http_head"]) == 0
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert runner.main([]) == 2
    with pytest.raises(SystemExit):
        runner.main(["nothing"])

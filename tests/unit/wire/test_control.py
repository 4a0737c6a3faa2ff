"""What a control frame says and what answers it: alone, and held against wsproto and websockets."""

from __future__ import annotations

import pytest
from fuzz.reference import frame
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.exceptions import ProtocolError
from websockets.frames import Close
from wsproto.frame_protocol import CloseReason, FrameProtocol, ParseFailed

from triochan.replies import check_close
from triochan.wire.control import CloseError, Outcome, may_come, parse_close, take_control
from triochan.wire.frames import BINARY, CLOSE, PING, PONG, TEXT, close_frame, ping_frame, pong_frame

payloads = st.one_of(
    st.binary(max_size=125),
    st.builds(
        lambda code, rest: code.to_bytes(2, "big") + rest,
        st.integers(990, 1030) | st.integers(0, 65535),
        st.text(max_size=30).map(str.encode) | st.binary(max_size=20),
    ),
)


def by_wsproto(payload: bytes) -> tuple[int, str] | int:
    protocol = FrameProtocol(client=False, extensions=[])
    protocol.receive_bytes(frame(CLOSE, payload))
    try:
        [event] = protocol.received_frames()
    except ParseFailed as error:
        return int(error.code)
    assert isinstance(event.payload, tuple)
    return int(event.payload[0]), event.payload[1]


def by_websockets(payload: bytes) -> tuple[int, str] | int:
    try:
        close = Close.parse(payload)
    except ProtocolError:
        return 1002
    except UnicodeDecodeError:
        return 1007
    return int(close.code), close.reason


def by_triochan(payload: bytes) -> tuple[int, str] | int:
    try:
        return parse_close(payload)
    except CloseError as error:
        return error.code


class TestParseClose:
    @given(payloads)
    @example(b"")
    @example(b"\x03")
    @example(b"\x03\xe8\xff")
    @example(b"\x03\xed\xff")
    @example(b"\x03\xf6")
    def test_as_wsproto_and_websockets_read_it(self, payload: bytes) -> None:
        ours, websockets = by_triochan(payload), by_websockets(payload)
        if payload[:2] == b"\x03\xf6":  # 1014 is registered; wsproto does not know it
            assert by_wsproto(payload) == CloseReason.PROTOCOL_ERROR
        else:
            assert ours == by_wsproto(payload)
        if ours == 1002 and websockets == 1007:  # it looks at the reason before the code
            assert len(payload) > 2
        else:
            assert ours == websockets

    @pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999])
    def test_codes_that_may_come(self, code: int) -> None:
        assert may_come(code)
        assert parse_close(code.to_bytes(2, "big") + "größer".encode()) == (code, "größer")

    @pytest.mark.rfc("6455", "7.4.2", "MUST NOT take codes below 1000")
    @pytest.mark.rfc("6455", "7.4.1", "MUST NOT take, or send, 1005, 1006 and 1015 in a close frame")
    @pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
    def test_codes_that_may_not(self, code: int) -> None:
        assert not may_come(code)
        with pytest.raises(CloseError, match=str(code)) as caught:
            parse_close(code.to_bytes(2, "big"))
        assert caught.value.code == 1002
        assert caught.value.reason == str(caught.value)

    @pytest.mark.rfc("6455", "7.4.1", "MUST NOT take, or send, 1005, 1006 and 1015 in a close frame")
    @given(st.integers(0, 65535))
    def test_what_may_come_is_what_a_program_may_send(self, code: int) -> None:
        try:
            check_close(code)
        except ValueError:
            assert not may_come(code)
        else:
            assert may_come(code)

    @pytest.mark.rfc("6455", "7.4.1", "takes a close frame without a code for 1005")
    def test_none_is_1005(self) -> None:
        assert parse_close(b"") == (1005, "")


class TestTakeControl:
    @pytest.mark.rfc("6455", "5.5.3", "MUST give a ping's data back in its pong")
    @pytest.mark.rfc("6455", "5.5.2", "MUST answer a ping with a pong")
    @given(st.binary(max_size=125))
    def test_a_ping_is_answered_with_its_payload(self, payload: bytes) -> None:
        assert take_control(PING, payload) == Outcome(pong_frame(payload))
        assert pong_frame(payload) == bytes((0x8A, len(payload))) + payload

    @given(st.binary(max_size=125))
    def test_a_pong_is_not_answered(self, payload: bytes) -> None:
        assert take_control(PONG, payload) == Outcome(pong=payload)

    @pytest.mark.rfc("6455", "5.5.1", "MUST answer a close frame with one")
    @given(payloads)
    @example(b"")
    def test_a_close_frame_is_answered_with_one_that_a_client_can_read(self, payload: bytes) -> None:
        outcome = take_control(CLOSE, payload)
        protocol = FrameProtocol(client=True, extensions=[])
        if outcome.closed is not None:
            assert outcome == Outcome(close_frame(outcome.closed[0]), closed=parse_close(payload))
            said = (outcome.closed[0], "")
        else:
            assert outcome.failure is not None
            assert outcome == Outcome(close_frame(*outcome.failure), failure=outcome.failure)
            said = outcome.failure
        if said[0] == 1014:
            assert outcome.answer == b"\x88\x02\x03\xf6"
            return
        protocol.receive_bytes(outcome.answer)
        [event] = protocol.received_frames()
        assert event.payload == said

    @pytest.mark.parametrize("kind", [0, TEXT, BINARY, 3, 11])
    def test_is_for_control_frames(self, kind: int) -> None:
        with pytest.raises(ValueError, match=f"not {kind}"):
            take_control(kind, b"")


class TestFrames:
    def test_no_status_is_an_empty_close_frame(self) -> None:
        assert close_frame(1005) == close_frame(1005, "not said") == b"\x88\x00"
        assert close_frame(1000) == b"\x88\x02\x03\xe8"

    def test_pings_and_pongs(self) -> None:
        assert ping_frame() == b"\x89\x00"
        assert ping_frame(b"x" * 125) == b"\x89\x7d" + b"x" * 125
        for make in (ping_frame, pong_frame):
            with pytest.raises(ValueError, match="125 bytes, not 126"):
                make(bytes(126))

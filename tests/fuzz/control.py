"""For any bytes in a control frame: triochan reads a close frame as wsproto does, with the same close code where it
refuses it; what it answers is a frame that wsproto's client reads. And for any bytes in the two list headers of a
handshake: they are refused with 400, or the response is read by h11.

    python tests/fuzz/control.py -max_total_time=60
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

KINDS = (8, 9, 10)
WORDS = (
    b"permessage-deflate",
    b"server_max_window_bits=",
    b"client_max_window_bits",
    b'"',
    b"\\",
    b";",
    b",",
)


def seeds() -> list[bytes]:
    """Inputs to begin with: one byte that says what it is, then the payload or the header."""
    closes = [
        b"",
        b"\x03",
        b"\x03\xe8",
        b"\x03\xed",
        b"\x03\xf6",
        b"\x0f\xa0\xff",
        b"\x0b\xb8" + "é".encode() * 61,
    ]
    headers = [
        b"permessage-deflate; client_max_window_bits, x; y=1",
        b'permessage-deflate; server_max_window_bits="10"; client_no_context_takeover',
        b"permessage-deflate; server_no_context_takeover; server_max_window_bits=8, permessage-deflate",
    ]
    return [
        *(b"\x00" + each for each in closes),
        b"\x01ping",
        b"\x02" + b"x" * 125,
        *(b"\x03" + each for each in headers),
        b"\x04chat, superchat,, x",
    ]


def check(data: bytes) -> None:
    if not data:
        return
    way = data[0] % 5
    if way < 3:
        check_control(KINDS[way], data[1:126])
    else:
        check_header(b"sec-websocket-extensions" if way == 3 else b"sec-websocket-protocol", data[1:])


def check_control(kind: int, payload: bytes) -> None:
    from wsproto.frame_protocol import FrameProtocol

    from fuzz.reference import frame, read_by_triochan, read_by_wsproto
    from triochan.wire.control import take_control

    stream = frame(kind, payload)
    ours, theirs = read_by_triochan([stream], 0), read_by_wsproto(stream, 0)
    assert ours == theirs, f"triochan: {ours}\nwsproto: {theirs}"
    outcome = take_control(kind, payload)
    assert (outcome.failure is not None) is (ours.refused is not None)
    code = (outcome.failure or outcome.closed or (0, ""))[0]
    if not outcome.answer:
        assert outcome.pong == payload
    elif code == 1014:  # which wsproto does not know
        assert outcome.answer == b"\x88\x02\x03\xf6"
    else:
        client = FrameProtocol(client=True, extensions=[])
        client.receive_bytes(outcome.answer)
        [answer] = client.received_frames()
        if kind == 9:
            assert answer.payload == payload
        else:
            assert answer.payload == (outcome.failure or (code, "")), f"the answer is {answer}"


def check_header(name: bytes, value: bytes) -> None:
    import h11

    from triochan.headers import Head
    from triochan.replies import Refusal
    from triochan.wire.deflate import negotiate
    from triochan.wire.handshake import accept_response, check_upgrade, refuse_response

    headers = [
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        (name, value),
    ]
    made = check_upgrade(Head(b"GET", b"/", headers, b"1.1"), {"scheme": "http"}, b"")
    reader = h11.Connection(h11.CLIENT)
    asked = [("Host", "x"), ("Upgrade", "websocket"), ("Connection", "Upgrade")]
    reader.send(h11.Request(method="GET", target="/", headers=asked))
    reader.send(h11.EndOfMessage())
    if isinstance(made, Refusal):
        assert made.status == 400
        reader.receive_data(refuse_response(made.status, made.headers, made.text.encode()))
        response = reader.next_event()
        assert isinstance(response, h11.Response)
        body = reader.next_event()
        assert isinstance(body, h11.Data)
        assert body.data == made.text.encode()
        assert isinstance(reader.next_event(), h11.EndOfMessage)
        return
    for subprotocol in (None, *made.subprotocols):
        again = accept_response(made, subprotocol, [], negotiate(made.extensions, context_takeover=True))
        assert again.isascii()
        assert again.endswith(b"\r\n\r\n")
    reader.receive_data(again)
    opened = reader.next_event()
    assert isinstance(opened, h11.InformationalResponse)
    assert opened.status_code == 101


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["triochan.wire", "triochan.headers", "wsproto"]):
        import fuzz.reference  # noqa: F401 - now, so that what it imports is instrumented
        import triochan.wire.handshake  # noqa: F401
    from fuzz.engine import fuzz as run

    run(check, seeds(), WORDS)


if __name__ == "__main__":
    main()

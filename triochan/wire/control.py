"""What a control frame says, and the frame that answers it, without I/O (RFC 6455 sections 5.5 and 7)."""

from __future__ import annotations

from typing import NamedTuple

from .frames import CLOSE, PING, PONG, close_frame, pong_frame

NO_STATUS = 1005
"""Stands for the code of a close frame that has none; never on the wire."""


class CloseError(ValueError):
    """A close frame's payload that RFC 6455 does not allow.

    Attributes:
        code: to fail the connection with.
        reason: what is wrong, for people; it fits into a close frame.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def may_come(code: int) -> bool:
    """A peer may send ``code`` in a close frame: it is registered for that, or of those for libraries and programs
    (RFC 6455 section 7.4, and the registry that section 11.7 makes, which has 1012 to 1014 besides)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def parse_close(payload: bytes) -> tuple[int, str]:
    """The code and the reason of a close frame; 1005 and ``""`` where it has none.

    Raises:
        CloseError: one byte, or a code that no peer may send (1002); a reason that is not UTF-8 (1007).
    """
    if not payload:
        return NO_STATUS, ""
    if len(payload) == 1:
        raise CloseError(1002, "a close frame has one byte: it takes a code of two bytes, or nothing")
    code = payload[0] << 8 | payload[1]
    if not may_come(code):
        raise CloseError(1002, f"a close frame has the code {code}, which may not be sent")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise CloseError(1007, "the reason in a close frame is not UTF-8") from None


class Outcome(NamedTuple):
    """What becomes of a control frame.

    Attributes:
        answer: the frame to send, empty where none is due: a pong to a ping; to a close frame, a close frame with
            its code; to one that is wrong, a close frame that says so. An endpoint that has sent its own close
            frame sends no other (RFC 6455 section 5.5.1).
        closed: the code and reason of the peer's close frame; 1005: it gives none.
        failure: the code and reason to fail the connection with: the close frame is wrong.
        pong: the payload of a pong.
    """

    answer: bytes = b""
    closed: tuple[int, str] | None = None
    failure: tuple[int, str] | None = None
    pong: bytes | None = None


def take_control(kind: int, payload: bytes) -> Outcome:
    """What a control frame of the peer's asks for.

    Args:
        kind, payload: as :meth:`triochan.wire.frames.FrameDecoder.receive` returns them.

    Raises:
        ValueError: ``kind`` is not that of a control frame.
    """
    if kind == PING:
        return Outcome(pong_frame(payload))
    if kind == PONG:
        return Outcome(pong=payload)
    if kind != CLOSE:
        raise ValueError(f"a control frame has the kind {CLOSE}, {PING} or {PONG}, not {kind}")
    try:
        code, reason = parse_close(payload)
    except CloseError as error:
        return Outcome(close_frame(error.code, error.reason), failure=(error.code, error.reason))
    return Outcome(close_frame(code), closed=(code, reason))

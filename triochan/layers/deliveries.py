"""What a named channel gives to whoever takes from it, and what becomes of a message that nobody could handle."""

from __future__ import annotations

from typing import Any

import attrs

MAX_DELAY = 366 * 24 * 3600.0
"""Seconds that a message may be put off."""
_MAX_RETRY = 300.0
"""Seconds between two tries at most."""


@attrs.define(eq=False)
class Delivery:
    """A message that was taken from a named channel. This one was taken at most once: it is gone from there.

    Attributes:
        content: the receiver's own.
        attempt: how often it has been delivered, this time included.
    """

    content: dict[str, Any]
    attempt: int = 1

    async def acknowledge(self) -> None:
        """It has been handled: nobody gets it again. Returns when the layer has noted that."""

    async def give_back(self, error: str = "") -> None:
        """It has not been handled; where it was taken at most once, nothing happens.

        Args:
            error: what was raised: it is tried again after a while, up to ``Settings.channel_attempts`` times, and
                then goes to the channel's dead letters with this text. Empty: it was only cut off, and somebody else
                gets it at once.
        """


@attrs.frozen
class DeadLetter:
    """A message of a durable channel that was tried as often as ``Settings.channel_attempts`` says.

    Attributes:
        id: of all the layer's dead letters, this one: the channel, ``/``, and a number.
        channel: where it was sent to.
        content: as it was sent.
        attempts: how often it was delivered.
        error: what the last of them raised.
        failed: when that was, in seconds since 1970.
    """

    id: str
    channel: str
    content: dict[str, Any]
    attempts: int
    error: str
    failed: float


def check_delay(delay: Any) -> float:
    """``delay`` in seconds.

    Raises:
        ValueError: it is no number, or none that a message can be put off by.
    """
    if isinstance(delay, bool) or not isinstance(delay, (int, float)) or delay != delay:  # NaN
        raise ValueError(f"delay is a number of seconds, not {delay!r:.100}")
    if not 0 <= delay <= MAX_DELAY:
        raise ValueError(f"delay is from 0 s to {MAX_DELAY:.0f} s (366 days), not {delay!r:.100}")
    return float(delay)


def retry_after(attempt: int, first: float) -> float:
    """Seconds until the next try, after so many have failed: doubled each time.

    Args:
        first: seconds after the first one.
    """
    return float(min(first * 2.0 ** min(attempt - 1, 32), max(first, _MAX_RETRY)))

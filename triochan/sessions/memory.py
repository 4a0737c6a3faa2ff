"""Sessions in this process's memory: the default of a library's ``Application``."""

from __future__ import annotations

import heapq
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from ..exceptions import ImproperlyConfigured, SessionStoreUnavailable
from .store import SessionStore

logger = logging.getLogger("triochan.sessions")

_SWEEP_EVERY = 256
_ENTRY_BYTES = 500
"""What a session takes beside its text, about: its key, its places here, the objects that hold them."""


class _Kept(NamedTuple):
    expires: float
    text: str
    size: int
    """Bytes, about."""


class MemorySessionStore(SessionStore):
    """Sessions that end with the process. No call has a checkpoint, but where another task is saving the same one.

    What it holds is bounded. Where there is no room for a session that is saved, those that are over go first, and then
    those that were not loaded or saved for the longest time; the first time that one of these goes, the log says so.

    Args:
        clock: seconds, as :func:`time.time` gives them.
        max_sessions: that are held at most.
        max_bytes: that they take at most, about: the texts, and 500 bytes for each.

    Raises:
        ImproperlyConfigured: a bound that is no whole number from 1 up.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        max_sessions: int = 100_000,
        max_bytes: int = 128 * 1024 * 1024,
    ) -> None:
        super().__init__()
        for name, bound in (("max_sessions", max_sessions), ("max_bytes", max_bytes)):
            if isinstance(bound, bool) or not isinstance(bound, int) or bound < 1:
                raise ImproperlyConfigured(f"{name} is a whole number from 1 up, not {bound!r}")
        self._clock = clock
        self._max_sessions = max_sessions
        self._max_bytes = max_bytes
        self._texts: OrderedDict[str, _Kept] = OrderedDict()
        """The one that was used last is the last."""
        self._ends: list[tuple[float, str]] = []
        """A heap; an entry that is not the key's any more is passed over."""
        self._bytes = 0
        self._saves = 0
        self._warned = False

    def __len__(self) -> int:
        return len(self._texts)

    async def load(self, key: str) -> str | None:
        kept = self._texts.get(key)
        if kept is None or kept.expires <= self._clock():
            return None
        self._texts.move_to_end(key)
        return kept.text

    async def save(self, key: str, text: str, lifetime: float, *, new: bool) -> bool:
        self._saves += 1
        if not self._saves % _SWEEP_EVERY:
            await self.delete_expired()
        now = self._clock()
        before = self._texts.get(key)
        if not new and (before is None or before.expires <= now):
            return False
        # One, two or four bytes a character, as Python keeps it, are within twice of UTF-8.
        size = _ENTRY_BYTES + (len(text) if text.isascii() else len(text.encode(errors="surrogatepass")))
        if size > self._max_bytes:
            raise SessionStoreUnavailable(
                f"a session of {size} bytes is larger than all that this store may hold, max_bytes={self._max_bytes}"
            )
        self._drop(key)
        self._make_room(size, now)
        self._texts[key] = _Kept(now + lifetime, text, size)
        self._bytes += size
        heapq.heappush(self._ends, (now + lifetime, key))
        return True

    async def expires_in(self, key: str) -> float | None:
        kept, now = self._texts.get(key), self._clock()
        return None if kept is None or kept.expires <= now else kept.expires - now

    async def delete(self, key: str) -> None:
        self._drop(key)

    async def delete_expired(self) -> int:
        now, before = self._clock(), len(self._texts)
        while self._drop_over(now):
            pass
        ends = self._ends
        if len(ends) > 2 * len(self._texts) + _SWEEP_EVERY:  # most of them are of earlier saves
            ends[:] = [(kept.expires, key) for key, kept in self._texts.items()]
            heapq.heapify(ends)
        return before - len(self._texts)

    def _drop(self, key: str) -> None:
        kept = self._texts.pop(key, None)
        if kept is not None:
            self._bytes -= kept.size

    def _drop_over(self, now: float) -> bool:
        """Go on by one entry of what ends; False: none of them is over."""
        ends = self._ends
        if not ends or ends[0][0] > now:
            return False
        expires, key = heapq.heappop(ends)
        kept = self._texts.get(key)
        if kept is not None and kept.expires == expires:
            self._drop(key)
        return True

    def _is_full(self, size: int) -> bool:
        return len(self._texts) >= self._max_sessions or self._bytes + size > self._max_bytes

    def _make_room(self, size: int, now: float) -> None:
        while self._is_full(size) and self._drop_over(now):
            pass
        while self._is_full(size):
            self._drop(next(iter(self._texts)))
            if not self._warned:
                self._warned = True
                logger.warning(
                    "the store of sessions in memory is full (max_sessions=%d, max_bytes=%d): from now on, those that "
                    "were not used for the longest time are forgotten, and their users logged out. Give it larger "
                    "bounds, or take SqliteSessionStore(path) or RedisSessionStore(url)",
                    self._max_sessions, self._max_bytes,
                )  # fmt: skip

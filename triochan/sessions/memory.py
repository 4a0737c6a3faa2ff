"""Sessions in this process's memory: the default of a library's ``Application``."""

from __future__ import annotations

import time
from collections.abc import Callable

from .store import SessionStore

_SWEEP_EVERY = 256


class MemorySessionStore(SessionStore):
    """Sessions that end with the process. No call has a checkpoint.

    Args:
        clock: seconds, as :func:`time.time` gives them.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._clock = clock
        self._texts: dict[str, tuple[float, str]] = {}
        self._saves = 0

    def __len__(self) -> int:
        return len(self._texts)

    async def load(self, key: str) -> str | None:
        expires, text = self._texts.get(key, (0.0, None))
        return text if expires > self._clock() else None

    async def save(self, key: str, text: str, lifetime: float, *, new: bool) -> bool:
        self._saves += 1
        if not self._saves % _SWEEP_EVERY:
            await self.delete_expired()
        if not new and await self.load(key) is None:
            return False
        self._texts[key] = (self._clock() + lifetime, text)
        return True

    async def delete(self, key: str) -> None:
        self._texts.pop(key, None)

    async def delete_expired(self) -> int:
        now = self._clock()
        over = [key for key, (expires, _) in self._texts.items() if expires <= now]
        for key in over:
            del self._texts[key]
        return len(over)

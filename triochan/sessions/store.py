"""The contract of a session store: texts by key, each with an end. ``tests/contracts/session_stores.py`` tests it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

_CLOSE_SECONDS = 5.0


class SessionStore(ABC):
    """Where sessions are kept. A store doesn't look into what it keeps.

    Keys are strings of at most 200 characters, texts are JSON, lifetimes are seconds from now. Of two saves of one
    key the last wins; saves of different keys never touch each other. When a call has returned, it is done, to the
    disk where there is one.

    Every method raises SessionStoreUnavailable where what is behind the store does not answer.
    """

    def __init__(self) -> None:
        self._runs = 0

    @abstractmethod
    async def load(self, key: str) -> str | None:
        """The text under ``key``; None where there is none, its time is over, or it can't be read any more."""

    @abstractmethod
    async def save(self, key: str, text: str, lifetime: float, *, new: bool) -> bool:
        """Keep ``text`` under ``key`` for ``lifetime`` seconds.

        Args:
            new: keep it whatever was there; False: only where ``key`` is held, so that a handler that runs longer
                than its session does not bring a deleted one back.

        Returns:
            Whether it is kept: False only without ``new``.
        """

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Forget ``key``; one that is not held is no error."""

    @abstractmethod
    async def delete_expired(self) -> int:
        """Forget what is over, and say how many; stores call it themselves from time to time."""

    async def open(self) -> None:  # noqa: B027 - a store that has nothing to open need not say so
        """Get ready, and find out now what would fail later; again is no error."""

    async def close(self) -> None:  # noqa: B027
        """Let go of files and connections; the next use opens them again."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open for as long as the block lasts; of several blocks the last one closes.

        Raises:
            SessionStoreUnavailable: it can't be opened.
        """
        await self.open()
        self._runs += 1
        try:
            yield
        finally:
            self._runs -= 1
            if not self._runs:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_SECONDS):
                    await self.close()

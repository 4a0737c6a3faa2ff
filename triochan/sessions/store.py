"""The contract of a session store: texts by key, each with an end. ``tests/contracts/session_stores.py`` tests it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

import trio

_CLOSE_SECONDS = 5.0
LOOK_AGAIN_SECONDS = 60.0
"""How often a store that can't tell when a session is over is asked whether it is."""


class SessionStore(ABC):
    """Where sessions are kept. A store doesn't look into what it keeps.

    Keys are strings of at most 200 characters, texts are JSON, lifetimes are seconds from now. Of two saves of one
    key the last wins; saves of different keys never touch each other. When a call has returned, it is done, to the
    disk where there is one, and every ``load`` that begins from then on knows of it.

    ``load``, ``save``, ``delete`` and ``delete_expired`` make a store. One that several processes share overrides
    :meth:`replace` too, so that what two of them change in one session at the same time is kept: with a transaction,
    or with a script where the engine has them. :meth:`expires_in` is worth overriding where it is cheap.

    Every method raises SessionStoreUnavailable where what is behind the store does not answer.
    """

    _runs = 0  # not set in __init__, so that a store need not call it

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

    async def replace(self, key: str, old: str | None, text: str, lifetime: float) -> bool:
        """Keep ``text`` under ``key``, but only where ``old`` is what is held: compare and save in one step.

        A session that is refused here loads again, merges, and comes back with what it has loaded. This one here
        loads, compares and saves, which is one step for the tasks of one process only.

        Args:
            old: as :meth:`load` gave it, or as it was saved; None: only where nothing is held.

        Returns:
            Whether it is kept.
        """
        async with self.alone("replace", key):
            return await self.load(key) == old and await self.save(key, text, lifetime, new=old is None)

    async def expires_in(self, key: str) -> float | None:
        """Seconds until what is held under ``key`` is over, or until it is worth asking again; None: it is over."""
        return None if await self.load(key) is None else LOOK_AGAIN_SECONDS

    @asynccontextmanager
    async def alone(self, purpose: str, key: str) -> AsyncIterator[None]:
        """No other task of this process is in such a block for the same. A checkpoint only where it has to wait."""
        # Made here for the same reason as _runs.
        locks: WeakValueDictionary[tuple[str, str], trio.Lock] = vars(self).setdefault(
            "_locks", WeakValueDictionary()
        )
        lock = locks.get((purpose, key))
        if lock is None:
            lock = locks[purpose, key] = trio.Lock()
        try:
            lock.acquire_nowait()
        except trio.WouldBlock:
            await lock.acquire()
        try:
            yield
        finally:
            lock.release()

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

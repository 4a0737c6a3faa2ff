"""Sessions in an SQLite file: they outlive the process, and every acknowledged save is on the disk."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import attrs
import trio

from ..exceptions import SessionStoreUnavailable
from .store import SessionStore

logger = logging.getLogger("triochan.sessions")

T = TypeVar("T")

_BUSY_SECONDS = 3.0
"""How long one process waits while another one writes."""
_BUSY_PAUSE_SECONDS = 0.005
"""Between two attempts to open a file that another process is opening."""
_SWEEP_EVERY = 1000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS triochan_sessions (key TEXT PRIMARY KEY, expires REAL NOT NULL, data TEXT NOT NULL)
WITHOUT ROWID
"""


@attrs.define(eq=False)
class _Write:
    """One statement on its way to the disk."""

    sql: str
    parameters: tuple[object, ...]
    done: bool = False
    rows: int = 0
    error: SessionStoreUnavailable | None = None


class SqliteSessionStore(SessionStore):
    """Sessions in the table ``triochan_sessions`` of a file, which is made with the first save, readable by its owner.

    The standard library's sqlite3 in Trio's threads: one thread reads while another writes (write-ahead log). Writes
    that arrive while the disk is busy go into one transaction together; ``synchronous=FULL`` has them on the disk
    before any of their callers returns. Several processes may share the file.

    Args:
        path: the file; it may be the program's own database.
        clock: seconds, as :func:`time.time` gives them.

    Raises:
        ValueError: ``":memory:"``, which every connection would have for itself.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        if os.fspath(path) in ("", ":memory:"):
            raise ValueError(f"a session file has a name, not {path!r}; in memory, use MemorySessionStore")
        self.path = Path(path)
        self._clock = clock
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._reading = trio.CapacityLimiter(1)
        self._writing = trio.CapacityLimiter(1)
        self._turn = trio.Lock()
        self._writes: list[_Write] = []
        self._saves = 0

    async def open(self) -> None:
        if await trio.to_thread.run_sync(self.path.exists, limiter=self._reading):
            await self.delete_expired()

    async def close(self) -> None:
        """Close the file; writes that are under way end first."""
        async with self._turn:
            writer, self._writer = self._writer, None
            reader, self._reader = self._reader, None
            await trio.to_thread.run_sync(_close, writer, limiter=self._writing)
            await trio.to_thread.run_sync(_close, reader, limiter=self._reading)

    async def load(self, key: str) -> str | None:
        data = await trio.to_thread.run_sync(self._select, key, limiter=self._reading)
        if data is None or isinstance(data, str):
            return data
        logger.error("%s: the row of a session is corrupt; its user is logged out", self.path)
        return None

    async def save(self, key: str, text: str, lifetime: float, *, new: bool) -> bool:
        self._saves += 1
        if not self._saves % _SWEEP_EVERY:
            await self.delete_expired()
        now = self._clock()
        if new:
            return bool(
                await self._write(
                    "REPLACE INTO triochan_sessions VALUES (?, ?, ?)", key, now + lifetime, text
                )
            )
        return bool(
            await self._write(
                "UPDATE triochan_sessions SET expires = ?, data = ? WHERE key = ? AND expires > ?",
                now + lifetime, text, key, now,
            )
        )  # fmt: skip

    async def delete(self, key: str) -> None:
        await self._write("DELETE FROM triochan_sessions WHERE key = ?", key)

    async def delete_expired(self) -> int:
        return await self._write("DELETE FROM triochan_sessions WHERE expires <= ?", self._clock())

    async def _write(self, sql: str, *parameters: object) -> int:
        """Run one statement, in a transaction with whatever else waits; how many rows it changed."""
        write = _Write(sql, parameters)
        self._writes.append(write)
        try:
            async with self._turn:
                if not write.done:
                    batch, self._writes = self._writes, []
                    await trio.to_thread.run_sync(self._commit, batch, limiter=self._writing)
        finally:
            if write in self._writes:  # cancelled before its turn came
                self._writes.remove(write)
        if write.error is not None:
            raise write.error
        return write.rows

    # -- in a thread

    def _commit(self, batch: list[_Write]) -> None:
        error: SessionStoreUnavailable | None = None
        try:
            if self._writer is None:
                self._writer = self._connect()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                for write in batch:
                    write.rows = self._writer.execute(write.sql, write.parameters).rowcount
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:  # of some errors SQLite itself does it
                    self._writer.execute("ROLLBACK")
                raise
        except (sqlite3.Error, OSError) as reason:
            error = self._unavailable(reason)
        for write in batch:
            write.error = error
            write.done = True

    def _select(self, key: str) -> object:
        """The text, None, or something else where the row is corrupt."""
        try:
            if self._reader is None:
                if not self.path.exists():
                    return None
                self._reader = self._connect()
                self._reader.text_factory = bytes
            row = self._reader.execute(
                "SELECT data FROM triochan_sessions WHERE key = ? AND expires > ?", (key, self._clock())
            ).fetchone()
        except (sqlite3.Error, OSError) as reason:
            raise self._unavailable(reason) from None
        if row is None:
            return None
        data = row[0]
        try:
            return data.decode() if isinstance(data, bytes) else (data, "is no text")
        except UnicodeDecodeError:
            return data

    def _connect(self) -> sqlite3.Connection:
        # Whoever can read the file can read every session.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _unavailable(self, reason: Exception) -> SessionStoreUnavailable:
        advice = (
            "move the file away, and a new one is made; its users have to log in again"
            if isinstance(reason, sqlite3.DatabaseError) and not isinstance(reason, sqlite3.OperationalError)
            else "see that this process may write it and its folder, and that the disk has room"
        )
        return SessionStoreUnavailable(f"the session file {self.path} can't be used: {reason}; {advice}")


def _prepare(connection: sqlite3.Connection) -> None:
    """Set the file's journal and make the table, beside other processes that may be doing the same."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(_SCHEMA)
            return
        except sqlite3.OperationalError as reason:
            # A reader that wants to become a writer is refused at once where waiting could be a deadlock: SQLite's own
            # timeout does not count for the change of the journal, nor for a table that somebody else just made.
            primary_code = reason.sqlite_errorcode & 0xFF
            if primary_code != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(_BUSY_PAUSE_SECONDS)


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        connection.close()

"""Sessions in an SQLite file: they outlive the process, and every acknowledged save is on the disk."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

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


_MAGIC = b"SQLite format 3\0"
_ATTEMPTS = 3
"""For what is to be written where the file is exchanged while that is being done."""

Identity = tuple[int, int]
"""Device and inode: what a path names, whatever else comes to have that name."""


class _FileChanged(Exception):
    """The file is not the one that was opened, or no database any more; the text says which."""


@attrs.define(eq=False)
class _Opened:
    """A file that is open, for as long as it is the one that its path names.

    Whoever deletes, moves or overwrites it does not touch what is open: SQLite would go on to read and write what
    nobody finds again. So the path is looked at before and after each use.

    The descriptor reads the file's header. It is closed when no connection to the file is left: closing any descriptor
    of a file drops all locks that the process has on it, those of SQLite among them (POSIX, fcntl).
    """

    descriptor: int
    identity: Identity
    connections: int = 0
    wal: Identity | None = None
    """The write-ahead log beside it; None: none has been seen."""


@attrs.define(eq=False)
class _Connection:
    """A connection to the file, with what it belongs to."""

    sqlite: sqlite3.Connection
    opened: _Opened


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

    A file that is deleted, moved away or replaced while the server runs is an error in the log, and a new one, or the
    one that has come in its place, is used from then on. One that is damaged raises SessionStoreUnavailable until it
    has been moved away: it may be the program's own database, so it is left as it is.

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
        self._wal = self.path.with_name(f"{self.path.name}-wal")
        self._clock = clock
        self._reader: _Connection | None = None
        self._writer: _Connection | None = None
        self._opened: _Opened | None = None
        self._writer_used = threading.Lock()
        self._reader_used = threading.Lock()  # of both, this is the second to be taken
        self._unsettled: Counter[str] = Counter()
        self._reported: str | None = None
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
            await trio.to_thread.run_sync(self._close_both, limiter=self._writing)

    async def load(self, key: str) -> str | None:
        if key in self._unsettled:
            async with (
                self._turn
            ):  # what was asked to be saved before is read; the lock is first come, first served
                pass
        row = await trio.to_thread.run_sync(self._select, key, limiter=self._reading)
        data = None if row is None else row[0]
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
                    "REPLACE INTO triochan_sessions VALUES (?, ?, ?)", key, now + lifetime, text, of=key
                )
            )
        return bool(
            await self._write(
                "UPDATE triochan_sessions SET expires = ?, data = ? WHERE key = ? AND expires > ?",
                now + lifetime, text, key, now, of=key,
            )
        )  # fmt: skip

    async def replace(self, key: str, old: str | None, text: str, lifetime: float) -> bool:
        self._saves += 1
        if not self._saves % _SWEEP_EVERY:
            await self.delete_expired()
        now = self._clock()
        if old is None:
            sql = (
                "INSERT INTO triochan_sessions VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE "
                "SET expires = excluded.expires, data = excluded.data WHERE expires <= ?"
            )
            return bool(await self._write(sql, key, now + lifetime, text, now, of=key))
        sql = "UPDATE triochan_sessions SET expires = ?, data = ? WHERE key = ? AND expires > ? AND data = ?"
        return bool(await self._write(sql, now + lifetime, text, key, now, old, of=key))

    async def expires_in(self, key: str) -> float | None:
        row = await trio.to_thread.run_sync(self._select, key, limiter=self._reading)
        return None if row is None else float(row[1]) - self._clock()

    async def delete(self, key: str) -> None:
        await self._write("DELETE FROM triochan_sessions WHERE key = ?", key, of=key)

    async def delete_expired(self) -> int:
        return await self._write("DELETE FROM triochan_sessions WHERE expires <= ?", self._clock())

    async def _write(self, sql: str, *parameters: object, of: str | None = None) -> int:
        """Run one statement, in a transaction with whatever else waits; how many rows it changed.

        Args:
            of: the session's key; who reads that session waits for this.
        """
        write = _Write(sql, parameters)
        self._writes.append(write)
        if of is not None:
            self._unsettled[of] += 1
        try:
            async with self._turn:
                if not write.done:
                    batch, self._writes = self._writes, []
                    await trio.to_thread.run_sync(self._commit, batch, limiter=self._writing)
        finally:
            if write in self._writes:  # cancelled before its turn came
                self._writes.remove(write)
            if of is not None:
                self._unsettled[of] -= 1
                if not self._unsettled[of]:
                    del self._unsettled[of]
        if write.error is not None:
            raise write.error
        return write.rows

    # -- in a thread

    def _commit(self, batch: list[_Write]) -> None:
        error: SessionStoreUnavailable | None = None
        try:
            self._use(lambda: self._commit_or_raise(batch))
        except (sqlite3.Error, OSError) as reason:
            error = self._failed(reason)
        for write in batch:
            write.error = error
            write.done = True

    def _commit_or_raise(self, batch: list[_Write]) -> None:
        with self._writer_used:
            if self._writer is None:
                with self._reader_used:
                    self._writer = self._connect()
            self._check(self._writer)
            _transact(self._writer.sqlite, batch)
            self._check(self._writer)  # else it would be acknowledged, and lost
        self._reported = None

    def _select(self, key: str) -> tuple[object, float] | None:
        """The text, or something else where the row is corrupt, and when it is over; None where there is none."""
        try:
            rows = self._use(lambda: self._select_or_raise(key))
        except (sqlite3.Error, OSError) as reason:
            raise self._failed(reason) from None
        if not rows:
            return None
        data, expires = rows[0]
        try:
            return data.decode() if isinstance(data, bytes) else (data, "is no text"), expires
        except UnicodeDecodeError:
            return data, expires

    def _select_or_raise(self, key: str) -> list[tuple[Any, float]]:
        with self._reader_used:
            if self._reader is None:
                if not self.path.exists():
                    if not self.path.parent.is_dir():
                        raise FileNotFoundError(f"there is no folder {self.path.parent}")
                    return []
                self._reader = self._connect()
                self._reader.sqlite.text_factory = bytes
            self._check(self._reader)
            # All rows, of which there is one at most: a statement that is not at its end would hold the database as it
            # is now for those after it.
            return self._reader.sqlite.execute(
                "SELECT data, expires FROM triochan_sessions WHERE key = ? AND expires > ?",
                (key, self._clock()),
            ).fetchall()

    def _use(self, use: Callable[[], T]) -> T:
        """What ``use`` returns; it is called anew with the file that the path names by then, where that has changed."""
        for _ in range(_ATTEMPTS):
            try:
                return use()
            except _FileChanged as reason:
                change = reason
                self._leave(change)
        raise OSError(f"{change}, again and again")

    # -- the file

    def _connect(self) -> _Connection:
        opened = self._open()
        try:
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(connection)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            self._let_go(opened)
            raise
        opened.connections += 1
        return _Connection(connection, opened)

    def _open(self) -> _Opened:
        """The file that the path names now, made where there is none."""
        if self._opened is not None:
            if self._opened.identity != _identity(self.path):
                raise _FileChanged("it was deleted, moved away or replaced")
            return self._opened
        # Whoever can read the file can read every session.
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stat = os.fstat(descriptor)
        self._opened = _Opened(descriptor, (stat.st_dev, stat.st_ino))
        return self._opened

    def _let_go(self, opened: _Opened) -> None:
        if not opened.connections:
            os.close(opened.descriptor)
            self._opened = None

    def _close_both(self) -> None:
        """Both, for SQLite shares what it knows of a file between the connections of a process."""
        with self._writer_used, self._reader_used:
            connections = [each for each in (self._writer, self._reader) if each is not None]
            self._writer = self._reader = None
            for connection in connections:
                connection.sqlite.close()
                connection.opened.connections -= 1
            if connections:
                self._let_go(connections[0].opened)

    def _check(self, connection: _Connection) -> None:
        """The connection's file is the one that the path names, and a database.

        Raises:
            _FileChanged: it is not.
        """
        opened = connection.opened
        identity = _identity(self.path)
        if identity != opened.identity:
            raise _FileChanged("it was deleted or moved away" if identity is None else "it was replaced")
        header = os.pread(opened.descriptor, len(_MAGIC), 0)
        if header != _MAGIC:
            raise _FileChanged("it was overwritten" if header else "it was emptied")
        wal = _identity(self._wal)
        if wal != opened.wal:
            if opened.wal is not None:
                raise _FileChanged(f"its {self._wal.name} was deleted or replaced")
            opened.wal = wal

    def _leave(self, change: _FileChanged) -> None:
        """Close the file that is not what it was, with care for what is in its write-ahead log."""
        with self._writer_used, self._reader_used:
            connection = self._writer or self._reader
            if connection is None:
                return
            try:
                self._check(connection)
            except _FileChanged as reason:
                change = reason
            else:
                return  # the other thread has been here
            self._report(change)
            opened = connection.opened
            header = os.pread(opened.descriptor, len(_MAGIC), 0)
            wal = _identity(self._wal)
            if header == _MAGIC and wal in (opened.wal, None):
                # What was acknowledged goes into the file, wherever that is now.
                try:
                    connection.sqlite.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                except sqlite3.Error as reason:
                    logger.error("what %s held for the session file is lost: %s", self._wal.name, reason)
            here = _identity(self.path) == opened.identity
            if here and not header:
                # SQLite would bring the log's part of the pages into the empty file, and make it a damaged one.
                self.path.unlink(missing_ok=True)
                here = False
            if not here and wal is not None and wal == opened.wal:
                # SQLite would take the log of the file that was here before for the new one's.
                for name in (self._wal, self._wal.with_name(f"{self.path.name}-shm")):
                    name.unlink(missing_ok=True)
        self._close_both()

    def _report(self, change: _FileChanged) -> None:
        """One line for one event, whoever comes upon it first."""
        if self._reported != str(change):
            self._reported = str(change)
            logger.error(
                "the session file %s is not what it was when the server opened it: %s; it is opened anew. Sessions "
                "that are not in it are lost, and their users have to log in again",
                self.path, change,
            )  # fmt: skip

    def _failed(self, reason: Exception) -> SessionStoreUnavailable:
        """What to raise; the next one opens the file anew, but where it is only being waited for."""
        if not (isinstance(reason, sqlite3.Error) and _is_busy(reason)):
            self._close_both()
        advice = (
            "move the file away, and a new one is made; its users have to log in again"
            if isinstance(reason, sqlite3.DatabaseError) and not isinstance(reason, sqlite3.OperationalError)
            else "see that this process may write it and its folder, and that the disk has room"
        )
        return SessionStoreUnavailable(f"the session file {self.path} can't be used: {reason}; {advice}")


def _is_busy(reason: sqlite3.Error) -> bool:
    """Another connection is at it."""
    return getattr(reason, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _identity(path: str | os.PathLike[str]) -> Identity | None:
    """None: nothing is there."""
    try:
        stat = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_dev, stat.st_ino


def _transact(connection: sqlite3.Connection, batch: list[_Write]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for write in batch:
            write.rows = connection.execute(write.sql, write.parameters).rowcount
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # of some errors SQLite itself does it
            connection.execute("ROLLBACK")
        raise


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
            if not _is_busy(reason) or time.monotonic() >= deadline:
                raise
            time.sleep(_BUSY_PAUSE_SECONDS)

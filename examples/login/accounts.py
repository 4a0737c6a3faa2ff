"""Accounts in an SQLite file: names, and hashes of passwords, never passwords."""

from __future__ import annotations

import os
import sqlite3
import unicodedata
from typing import Any, ClassVar

import argon2
import attrs
import trio

DATABASE = os.environ.get("LOGIN_DATABASE", "login.sqlite3")

MAX_NAME = 24
LEAST_PASSWORD, MAX_PASSWORD = 8, 200
MAX_NOTE = 2000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    key TEXT NOT NULL UNIQUE,
    hash TEXT NOT NULL,
    note TEXT NOT NULL DEFAULT ''
)
"""


class Refused(Exception):
    """What somebody asked for is not done; the text says why, for them to read."""


@attrs.frozen
class User:
    id: int
    name: str
    is_authenticated: ClassVar[bool] = True
    """An AnonymousUser's is False."""


class Accounts:
    """The accounts in the file ``path``.

    A hash takes a tenth of a second and 64 MiB on purpose, so hashing is done in threads, two at a time: everybody
    else's messages go on, and many attempts to log in queue up instead of filling the memory.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._one = trio.CapacityLimiter(1)
        self._hashing = trio.CapacityLimiter(2)
        self._hasher = argon2.PasswordHasher()
        # Checked where there is no such account, so that the time of the answer does not tell.
        self._nobodys = self._hasher.hash("nobody's password")

    async def register(self, name: str, password: str) -> User:
        """A new account.

        Raises:
            Refused: the name or the password won't do, or the name is taken.
        """
        name = _spelled(name)
        if not (name and name.isprintable()):
            raise Refused(f"A name has 1 to {MAX_NAME} characters.")
        if not LEAST_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise Refused(f"A password has at least {LEAST_PASSWORD} characters.")
        hash = await trio.to_thread.run_sync(self._hasher.hash, password, limiter=self._hashing)
        try:
            [row] = await self._run(
                "INSERT INTO accounts (name, key, hash) VALUES (?, ?, ?) RETURNING id", name, _key(name), hash
            )
        except sqlite3.IntegrityError:
            raise Refused("Somebody has that name already.") from None
        return User(row[0], name)

    async def check(self, name: str, password: str) -> User:
        """The account with this name and password.

        Raises:
            Refused: there is none; it is not said which of the two is wrong.
        """
        # No account has a longer one; such text goes nowhere but to the hash that is checked in any case.
        name, password = _spelled(name), password[:MAX_PASSWORD]
        rows = name and await self._run("SELECT id, name, hash FROM accounts WHERE key = ?", _key(name))
        id, name, hash = rows[0] if rows else (None, "", self._nobodys)
        right = await trio.to_thread.run_sync(self._is_right, hash, password, limiter=self._hashing)
        if id is None or not right:
            raise Refused("There is no account with this name and this password.")
        if self._hasher.check_needs_rehash(hash):  # from before the parameters were raised
            hash = await trio.to_thread.run_sync(self._hasher.hash, password, limiter=self._hashing)
            await self._run("UPDATE accounts SET hash = ? WHERE id = ?", hash, id)
        return User(id, name)

    async def get(self, id: int) -> User | None:
        rows = await self._run("SELECT name FROM accounts WHERE id = ?", id)
        return User(id, rows[0][0]) if rows else None

    async def note(self, user: User) -> str:
        rows = await self._run("SELECT note FROM accounts WHERE id = ?", user.id)
        return rows[0][0] if rows else ""

    async def set_note(self, user: User, note: str) -> None:
        await self._run("UPDATE accounts SET note = ? WHERE id = ?", note, user.id)

    def _is_right(self, hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(hash, password)
        except argon2.exceptions.VerifyMismatchError:
            return False

    async def _run(self, sql: str, *parameters: Any) -> list[Any]:
        def run() -> list[Any]:
            if self._database is None:
                self._database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute(_SCHEMA)
            return self._database.execute(sql, parameters).fetchall()

        return await trio.to_thread.run_sync(run, limiter=self._one)


def _spelled(name: str) -> str:
    """A name with single spaces; none where it is longer than names are.

    Its length is looked at before anything else is: Unicode's normal form takes time by the square of a run of
    combining marks, so what a client sends must not get there as it is.
    """
    if len(name) > 2 * MAX_NAME:
        return ""
    name = " ".join(name.split())
    return name if len(name) <= MAX_NAME else ""


def _key(name: str) -> str:
    """What two spellings of one name have in common; ``name`` is one that :func:`_spelled` has let pass."""
    return unicodedata.normalize("NFKC", name).casefold()

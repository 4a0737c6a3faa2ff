"""Every session store against the contract, and what is each one's own."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from session_stores import Clock, SessionStoreContract

from triochan.exceptions import ImproperlyConfigured, SessionStoreUnavailable
from triochan.sessions import MemorySessionStore, SessionStore, SqliteSessionStore, sqlite


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestMemory(SessionStoreContract):
    @pytest.fixture
    def store(self, clock: Clock) -> MemorySessionStore:
        return MemorySessionStore(clock=clock)

    async def test_it_forgets_what_is_over_by_itself(self, clock: Clock) -> None:
        store = MemorySessionStore(clock=clock)
        for index in range(2000):
            clock.now += 1
            await store.save(str(index), "1", 10, new=True)
        assert len(store) < 300

    async def test_what_is_over_goes_first_and_then_what_was_not_used(
        self, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = MemorySessionStore(clock=clock, max_sessions=4)
        await store.save("a", "1", 1000, new=True)
        await store.save("short", "1", 10, new=True)
        for key in "bc":
            await store.save(key, "1", 1000, new=True)
        clock.now += 10
        await store.save("d", "1", 1000, new=True)
        assert not caplog.records
        assert await store.load("a") == "1"  # so that b is the one that was not used for the longest time
        await store.save("e", "1", 1000, new=True)
        await store.save("f", "1", 1000, new=True)
        assert [key for key in "abcdef" if await store.load(key)] == ["a", "d", "e", "f"]
        [record] = caplog.records
        assert "the store of sessions in memory is full (max_sessions=4, " in record.getMessage()
        assert not await store.replace("b", "1", "2", 1000)
        assert await store.replace("e", "1", "2", 1000)

    async def test_it_is_bounded_in_bytes(self, clock: Clock) -> None:
        store = MemorySessionStore(clock=clock, max_bytes=10_000)
        for index in range(100):
            await store.save(str(index), "x" * 500, 60, new=True)
        assert len(store) == 10
        with pytest.raises(SessionStoreUnavailable, match="larger than all that this store may hold"):
            await store.save("large", "é" * 5000, 60, new=True)
        assert len(store) == 10
        await store.save("0", "x" * 9000, 60, new=True)
        assert len(store) == 1

    async def test_a_session_that_is_saved_again_and_again_takes_no_more(self, clock: Clock) -> None:
        store = MemorySessionStore(clock=clock)
        for index in range(3000):
            await store.save("key", str(index), 60, new=True)
        assert len(store._ends) < 600
        await store.delete("key")
        assert store._bytes == 0

    async def test_full_of_what_is_replaced_it_is_fast(self, clock: Clock) -> None:
        store = MemorySessionStore(clock=clock, max_sessions=20_000)
        before = time.process_time()
        for index in range(60_000):
            clock.now += 0.001
            await store.save(str(index), "1", 15, new=True)
        assert len(store) <= 20_000
        assert time.process_time() - before < 6

    @pytest.mark.parametrize("bound", [0, -1, True, 1.5, "9", None])
    @pytest.mark.parametrize("name", ["max_sessions", "max_bytes"])
    def test_a_bound_that_is_none(self, name: str, bound: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match=f"{name} is a whole number from 1 up"):
            MemorySessionStore(**{name: bound})


class Own(SessionStore):
    """A store with what a store has to have, and no more; each call takes a while."""

    def __init__(self, clock: Clock) -> None:
        self._inner = MemorySessionStore(clock=clock)

    async def load(self, key: str) -> str | None:
        text = await self._inner.load(key)
        await trio.lowlevel.checkpoint()
        return text

    async def save(self, key: str, text: str, lifetime: float, *, new: bool) -> bool:
        await trio.lowlevel.checkpoint()
        return await self._inner.save(key, text, lifetime, new=new)

    async def delete(self, key: str) -> None:
        await self._inner.delete(key)

    async def delete_expired(self) -> int:
        return await self._inner.delete_expired()


class TestOwn(SessionStoreContract):
    @pytest.fixture
    def store(self, clock: Clock) -> Own:
        store = Own(clock)
        SessionStore.__init__(store)
        return store

    async def test_it_need_not_call_its_bases_init_to_be_merged(self, clock: Clock) -> None:
        await self.test_concurrent_changes_of_one_session_are_all_kept(Own(clock))


class TestSqlite(SessionStoreContract):
    @pytest.fixture
    async def store(self, clock: Clock, tmp_path: Path) -> AsyncIterator[SqliteSessionStore]:
        store = SqliteSessionStore(tmp_path / "sessions.sqlite3", clock=clock)
        yield store
        await store.close()

    async def test_sessions_outlive_the_store(self, tmp_path: Path) -> None:
        path = tmp_path / "sessions.sqlite3"
        async with SqliteSessionStore(path).running() as _, SqliteSessionStore(path).running():
            pass
        first = SqliteSessionStore(path)
        await first.save("key", "1", 60, new=True)
        await first.close()
        second = SqliteSessionStore(path)
        async with second.running():
            assert await second.load("key") == "1"

    async def test_two_processes_may_share_a_file(self, tmp_path: Path) -> None:
        one, two = (SqliteSessionStore(tmp_path / "s.sqlite3") for _ in range(2))

        async def save(store: SqliteSessionStore, name: str) -> None:
            for index in range(25):
                await store.save(f"{name}{index}", name, 60, new=True)

        async with one.running(), two.running():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(save, one, "a")
                nursery.start_soon(save, two, "b")
            assert [await one.load(f"b{index}") for index in range(25)] == ["b"] * 25
            assert [await two.load(f"a{index}") for index in range(25)] == ["a"] * 25

    async def test_it_waits_for_a_process_that_makes_the_file(self, store: SqliteSessionStore) -> None:
        # Under the old journal, so that the store has to change it: SQLite itself does not wait then.
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("CREATE TABLE its_own (column)")
            other.execute("BEGIN IMMEDIATE")
            saved = []

            async def save() -> None:
                saved.append(await store.save("key", "1", 60, new=True))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(save)
                await trio.sleep(0.05)
                assert saved == []
                other.execute("COMMIT")
        assert saved == [True]
        assert await store.load("key") == "1"

    async def test_it_waits_no_longer_than_it_says(
        self, store: SqliteSessionStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite, "_BUSY_SECONDS", 0.05)
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("CREATE TABLE its_own (column)")
            other.execute("BEGIN IMMEDIATE")
            before = trio.current_time()
            with pytest.raises(SessionStoreUnavailable, match="database is locked"):
                await store.save("key", "1", 60, new=True)
            assert 0.05 <= trio.current_time() - before < 3
            other.execute("ROLLBACK")

    async def test_no_file_until_there_is_a_session(self, store: SqliteSessionStore) -> None:
        await store.open()
        assert await store.load("key") is None
        assert not store.path.exists()
        await store.save("key", "1", 60, new=True)
        assert stat.S_IMODE(store.path.stat().st_mode) == 0o600

    async def test_what_waits_for_the_disk_goes_in_one_transaction(
        self, store: SqliteSessionStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batches = []
        commit = store._commit

        def counted(batch: list[sqlite._Write]) -> None:
            batches.append(len(batch))
            commit(batch)

        async def save(index: int) -> None:
            await store.save(str(index), "1", 60, new=True)

        monkeypatch.setattr(store, "_commit", counted)
        async with trio.open_nursery() as nursery:
            for index in range(100):
                nursery.start_soon(save, index)
        assert sum(batches) == 100
        assert len(batches) < 10

    async def test_it_says_at_the_start_that_a_file_is_damaged(self, tmp_path: Path) -> None:
        path = tmp_path / "sessions.sqlite3"
        path.write_bytes(b"this is no database" * 100)
        with pytest.raises(
            SessionStoreUnavailable, match=r"sessions\.sqlite3 .*not a database; move the file away"
        ):
            async with SqliteSessionStore(path).running():
                raise AssertionError

    async def test_a_file_that_is_damaged_later_is_a_clear_error(self, store: SqliteSessionStore) -> None:
        for index in range(200):
            await store.save(str(index), "x" * 500, 60, new=True)
        await store.close()
        data = bytearray(store.path.read_bytes())
        data[200:] = b"\xaa" * (len(data) - 200)
        store.path.write_bytes(data)
        with pytest.raises(SessionStoreUnavailable, match="move the file away"):
            await store.load("7")
        with pytest.raises(SessionStoreUnavailable, match="move the file away"):
            await store.save("7", "1", 60, new=True)
        store.path.unlink()
        await store.close()
        assert await store.load("7") is None
        await store.save("7", "1", 60, new=True)

    @pytest.mark.parametrize("sidecars", [True, False])
    @pytest.mark.parametrize("first", ["load", "save"])
    async def test_a_file_that_is_deleted_while_it_is_open(
        self, store: SqliteSessionStore, caplog: pytest.LogCaptureFixture, sidecars: bool, first: str
    ) -> None:
        await store.save("old", "1", 60, new=True)
        assert await store.load("old") == "1"
        store.path.unlink()
        if sidecars:
            _wal_of(store).unlink()
        if first == "load":
            assert await store.load("old") is None
        assert await store.save("new", "1", 60, new=True)
        assert not await store.save("old", "2", 60, new=False)
        _is_in_the_file(store, {"new": "1"})
        assert await store.load("new") == "1"
        [record] = caplog.records
        assert "was deleted or moved away" in record.getMessage()

    async def test_a_file_that_is_moved_away_has_all_that_was_acknowledged(
        self, store: SqliteSessionStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        await store.save("old", "1", 60, new=True)
        moved = store.path.rename(store.path.with_name("moved"))
        assert await store.load("old") is None
        await store.save("new", "1", 60, new=True)
        _is_in_the_file(store, {"new": "1"})
        with closing(sqlite3.connect(moved)) as other:
            assert other.execute("SELECT key FROM triochan_sessions").fetchall() == [("old",)]

    async def test_a_file_that_is_replaced_is_used(
        self, store: SqliteSessionStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        other = SqliteSessionStore(tmp_path / "other", clock=store._clock)
        for index in range(50):
            await other.save(f"other{index}", "x" * 500, 60, new=True)
        await other.close()
        for index in range(50):
            await store.save(f"old{index}", "y" * 500, 60, new=True)
        await store.load("old1")
        other.path.rename(store.path)
        assert await store.load("old1") is None
        assert await store.load("other7") == "x" * 500
        assert await store.replace("other7", "x" * 500, "changed", 60)
        with closing(sqlite3.connect(store.path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            [count] = connection.execute("SELECT count(*) FROM triochan_sessions").fetchone()
            assert count == 50
        assert ["it was replaced" in record.getMessage() for record in caplog.records] == [True]

    @pytest.mark.parametrize("first", ["load", "save"])
    async def test_a_file_that_is_emptied_while_it_is_open(
        self, store: SqliteSessionStore, caplog: pytest.LogCaptureFixture, first: str
    ) -> None:
        await store.save("old", "1", 60, new=True)
        await store.load("old")
        os.truncate(store.path, 0)
        if first == "load":
            assert await store.load("old") is None
        await store.save("new", "1", 60, new=True)
        _is_in_the_file(store, {"new": "1"})
        assert ["it was emptied" in record.getMessage() for record in caplog.records] == [True]

    async def test_a_file_that_is_overwritten_while_it_is_open(
        self, store: SqliteSessionStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        for index in range(300):
            await store.save(str(index), "x" * 500, 60, new=True)
        await store.close()
        await store.save("one", "1", 60, new=True)
        await store.load("one")
        with store.path.open("r+b") as file:
            file.write(b"garbage!" * (store.path.stat().st_size // 8))
        for _ in range(2):
            with pytest.raises(SessionStoreUnavailable, match="move the file away"):
                await store.load("7")
            with pytest.raises(SessionStoreUnavailable, match="move the file away"):
                await store.save("7", "1", 60, new=True)
        store.path.rename(store.path.with_name("damaged"))  # as the error says
        assert await store.load("7") is None
        await store.save("7", "1", 60, new=True)
        _is_in_the_file(store, {"7": "1"})
        assert "it was overwritten" in caplog.records[0].getMessage()

    async def test_a_write_ahead_log_that_is_deleted_takes_nothing_with_it(
        self, store: SqliteSessionStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        await store.save("old", "1", 60, new=True)
        await store.load("old")
        _wal_of(store).unlink()
        await store.save("new", "1", 60, new=True)
        assert await store.load("old") == "1"
        _is_in_the_file(store, {"new": "1", "old": "1"})
        assert ["-wal was deleted or replaced" in record.getMessage() for record in caplog.records] == [True]

    async def test_a_file_that_goes_while_it_is_written_to_is_written_to_again(
        self, store: SqliteSessionStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await store.save("old", "1", 60, new=True)
        transact = sqlite._transact
        times = 0

        def transact_and_delete(*args: Any) -> None:
            nonlocal times
            times += 1
            transact(*args)
            if times == 1:
                store.path.unlink()

        monkeypatch.setattr(sqlite, "_transact", transact_and_delete)
        assert await store.save("new", "1", 60, new=True)
        assert times == 2
        _is_in_the_file(store, {"new": "1"})

    async def test_a_file_that_goes_again_and_again_is_an_error(
        self, store: SqliteSessionStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        transact = sqlite._transact

        def transact_and_delete(*args: Any) -> None:
            transact(*args)
            store.path.unlink()

        monkeypatch.setattr(sqlite, "_transact", transact_and_delete)
        with pytest.raises(SessionStoreUnavailable, match="again and again"):
            await store.save("new", "1", 60, new=True)

    async def test_a_folder_that_moves_and_comes_back(self, tmp_path: Path) -> None:
        folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
        await trio.Path(folder).mkdir()
        store = SqliteSessionStore(folder / "s")
        await store.save("key", "1", 60, new=True)
        await store.load("key")
        await trio.Path(folder).rename(elsewhere)
        for _ in range(2):
            with pytest.raises(SessionStoreUnavailable, match="no folder"):
                await store.load("key")
            with pytest.raises(SessionStoreUnavailable, match="see that this process may write it"):
                await store.save("key", "2", 60, new=True)
        await trio.Path(elsewhere).rename(folder)
        assert await store.load("key") == "1"
        assert await store.save("key", "2", 60, new=False)
        await store.close()

    async def test_a_full_disk_is_an_error_that_passes(self, store: SqliteSessionStore) -> None:
        await store.save("key", "1", 60, new=True)
        assert store._writer is not None
        store._writer.sqlite.execute("PRAGMA max_page_count = 3")
        with pytest.raises(SessionStoreUnavailable, match=r"full; see that .* the disk has room"):
            await store.save("large", "x" * 100_000, 60, new=True)
        assert await store.load("large") is None
        await store.save("large", "x" * 100_000, 60, new=True)  # opened anew, without the limit
        assert await store.load("key") == "1"

    async def test_no_descriptor_is_left(self, store: SqliteSessionStore) -> None:
        def opened() -> int:
            return sum(
                "sessions.sqlite3" in os.path.realpath(f"/proc/self/fd/{name}")
                for name in os.listdir("/proc/self/fd")
            )

        for _ in range(5):
            await store.save("key", "1", 60, new=True)
            await store.load("key")
            assert (
                opened() <= 6
            )  # two connections, each with its file and log; the shared index; the header's
            store.path.unlink()
        await store.load("key")
        await store.close()
        assert opened() == 0

    async def test_another_process_that_ends_leaves_the_log_of_this_one(
        self, store: SqliteSessionStore
    ) -> None:
        """The locks that say that this process is there: closing any descriptor of the file would drop them."""
        await store.save("key", "1", 60, new=True)
        await store.load("key")  # opens a second connection
        code = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
            "c.execute('SELECT * FROM triochan_sessions').fetchall(); c.close()"
        )
        wal = _wal_of(store).stat().st_ino
        await trio.run_process([sys.executable, "-c", code, str(store.path)])
        assert _wal_of(store).stat().st_ino == wal
        await store.save("key", "2", 60, new=False)
        _is_in_the_file(store, {"key": "2"})

    async def test_two_processes_that_change_one_session_keep_both_changes(self, tmp_path: Path) -> None:
        path = tmp_path / "s"
        store = SqliteSessionStore(path)
        await store.save("key", "{}", 600, new=True)

        async def changes(name: str) -> None:
            await trio.run_process([sys.executable, "-c", CHANGER, str(path), name])

        with trio.fail_after(60):
            async with store.running(), trio.open_nursery() as nursery:
                nursery.start_soon(changes, "a")
                nursery.start_soon(changes, "b")
        text = await store.load("key")
        assert text is not None
        assert set(json.loads(text)) == {f"{name}{index}" for name in "ab" for index in range(40)}
        await store.close()

    @pytest.mark.parametrize("damage", ["CAST(x'ff41' AS TEXT)", "x'ff'", "7"])
    async def test_a_damaged_row_is_one_session_lost(
        self, store: SqliteSessionStore, caplog: pytest.LogCaptureFixture, damage: str
    ) -> None:
        await store.save("good", "1", 60, new=True)
        await store.save("bad", "1", 60, new=True)
        with sqlite3.connect(store.path) as connection:
            # a text column would make a text of the number
            connection.executescript(
                "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = replace(sql, 'data TEXT', 'data');"
            )
        connection.close()
        await store.close()
        with sqlite3.connect(store.path) as connection:
            connection.execute(f"UPDATE triochan_sessions SET data = {damage} WHERE key = 'bad'")
        connection.close()
        assert await store.load("bad") is None
        assert await store.load("good") == "1"
        assert "the row of a session is corrupt" in caplog.text
        assert "bad" not in caplog.text

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; run it as another user")
    async def test_a_folder_that_can_not_be_written(self, tmp_path: Path) -> None:
        await trio.Path(tmp_path).chmod(0o500)
        with pytest.raises(SessionStoreUnavailable, match="see that this process may write it"):
            await SqliteSessionStore(tmp_path / "s").save("key", "1", 60, new=True)

    async def test_a_file_that_another_program_holds_is_an_error_that_passes(
        self, store: SqliteSessionStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("triochan.sessions.sqlite._BUSY_SECONDS", 0.01)
        await store.save("key", "1", 60, new=True)
        other = sqlite3.connect(store.path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SessionStoreUnavailable, match="database is locked; see that"):
            await store.save("key", "2", 60, new=True)
        assert await store.load("key") == "1"
        other.execute("ROLLBACK")
        other.close()
        assert await store.save("key", "2", 60, new=False)

    async def test_one_write_that_fails_takes_its_transaction_along_and_no_more(
        self, store: SqliteSessionStore
    ) -> None:
        await store.save("key", "1", 60, new=True)
        with pytest.raises(SessionStoreUnavailable):
            await store._write("INSERT INTO triochan_sessions VALUES ('key', 0, '')")
        assert await store.load("key") == "1"
        assert await store.save("key", "2", 60, new=True)

    async def test_it_forgets_what_is_over_by_itself(
        self, store: SqliteSessionStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("triochan.sessions.sqlite._SWEEP_EVERY", 5)
        for index in range(20):
            clock.now += 1
            await store.save(str(index), "1", 2, new=True)
        clock.now += 100
        assert await store.delete_expired() < 8

    async def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(SessionStoreUnavailable, match="see that this process may write it"):
            await SqliteSessionStore(tmp_path / "no" / "s").save("key", "1", 60, new=True)

    def test_in_memory_is_another_store(self) -> None:
        with pytest.raises(ValueError, match="MemorySessionStore"):
            SqliteSessionStore(":memory:")


def _wal_of(store: SqliteSessionStore) -> Path:
    return store.path.with_name(f"{store.path.name}-wal")


def _is_in_the_file(store: SqliteSessionStore, texts: dict[str, str]) -> None:
    """Another program sees it there."""
    with closing(sqlite3.connect(store.path)) as other:
        assert dict(other.execute("SELECT key, data FROM triochan_sessions").fetchall()) == texts


CHANGER = """
import sys
import trio
from triochan.sessions import Session, SqliteSessionStore

async def main():
    store = SqliteSessionStore(sys.argv[1])
    async with store.running():
        for index in range(40):
            session = Session(store, 600, "key", await store.load("key"))
            await trio.sleep(0.002)
            session[f"{sys.argv[2]}{index}"] = index
            await session.save()

trio.run(main)
"""

WRITER = """
import sys
import trio
from triochan.sessions import SqliteSessionStore

async def visitor(store, name):
    count = 0
    while True:
        count += 1
        await store.save(name, str(count), 3600, new=True)
        sys.stdout.write(f"{name} {count}\\n")
        sys.stdout.flush()

async def main():
    store = SqliteSessionStore(sys.argv[1])
    async with store.running(), trio.open_nursery() as nursery:
        for index in range(8):
            nursery.start_soon(visitor, store, f"key{index}")

trio.run(main)
"""


@pytest.mark.parametrize("run", range(3))
async def test_a_killed_process_has_every_acknowledged_save_in_its_file(
    tmp_path: Path, run: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "sessions.sqlite3"
    acknowledged: dict[str, int] = {}
    enough = random.Random(run).randrange(100, 600)
    lines = 0

    def note(line: bytes) -> None:
        name, _, count = line.decode().partition(" ")
        if line.endswith(b"\n"):
            acknowledged[name] = int(count)

    def write_and_kill() -> None:
        nonlocal lines
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for line in process.stdout:
                note(line)
                lines += 1
                if lines == enough:
                    process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL

    with trio.fail_after(60):
        await trio.to_thread.run_sync(write_and_kill)
    assert lines >= enough
    assert len(acknowledged) == 8
    with caplog.at_level(logging.ERROR):
        store = SqliteSessionStore(path)
        async with store.running():
            for name, count in acknowledged.items():
                text = await store.load(name)
                assert text is not None
                # A save that was on its way to its caller may be there as well.
                assert int(text) in (count, count + 1)
    assert not caplog.records

"""Every session store against the contract, and what is each one's own."""

from __future__ import annotations

import logging
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
from session_stores import Clock, SessionStoreContract

from triochan.exceptions import SessionStoreUnavailable
from triochan.sessions import MemorySessionStore, SqliteSessionStore, sqlite


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

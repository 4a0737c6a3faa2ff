"""The contract of a session store, as tests: ``tests/contracts/test_session_stores.py`` runs them over every store.

A store's own suite makes a class with a ``store`` fixture (and a ``clock`` that the store takes its time from)::

    class TestMySessionStore(SessionStoreContract):
        @pytest.fixture
        async def store(self, clock): ...
"""

from __future__ import annotations

import functools
import json

import attrs
import trio

from triochan.sessions import Session, SessionStore
from triochan.sessions.store import LOOK_AGAIN_SECONDS


@attrs.define
class Clock:
    """A time that moves when it is told to."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class SessionStoreContract:
    counts_expired = True
    """False: the engine forgets what is over by itself, and nobody counts."""

    async def test_what_is_saved_is_loaded(self, store: SessionStore) -> None:
        assert await store.load("key") is None
        assert await store.save("key", '{"a":1}', 60, new=True)
        assert await store.load("key") == '{"a":1}'

    async def test_texts_come_back_as_they_were(self, store: SessionStore) -> None:
        text = '{"a":"é\\u0000\\n\'\\"; DROP TABLE triochan_sessions; -- 𝄞"}' + " " * 100_000
        await store.save("k'; --", text, 60, new=True)
        assert await store.load("k'; --") == text

    async def test_of_two_saves_the_last_wins(self, store: SessionStore) -> None:
        await store.save("key", "1", 60, new=True)
        assert await store.save("key", "2", 60, new=False)
        assert await store.load("key") == "2"
        assert await store.save("key", "3", 60, new=True)
        assert await store.load("key") == "3"

    async def test_it_replaces_only_what_was_loaded(self, store: SessionStore, clock: Clock) -> None:
        assert not await store.replace("key", "1", "2", 60)
        assert await store.load("key") is None
        assert await store.replace("key", None, "1", 60)
        assert not await store.replace("key", None, "2", 60)
        assert not await store.replace("key", "2", "3", 60)
        assert await store.load("key") == "1"
        assert await store.replace("key", "1", "é\u0000'", 60)
        assert await store.replace("key", "é\u0000'", "3", 60)
        clock.now += 59
        assert await store.replace("key", "3", "3", 60)  # its lifetime begins anew
        clock.now += 59
        assert await store.load("key") == "3"
        clock.now += 1
        assert not await store.replace("key", "3", "4", 60)
        assert await store.replace("key", None, "5", 60)
        await store.delete("key")
        assert not await store.replace("key", "5", "6", 60)
        assert await store.load("key") is None

    async def test_one_of_many_that_replace_the_same_wins(self, store: SessionStore) -> None:
        await store.save("key", "old", 60, new=True)
        won = []

        async def replace(index: int) -> None:
            if await store.replace("key", "old", str(index), 60):
                won.append(str(index))

        async with trio.open_nursery() as nursery:
            for index in range(20):
                nursery.start_soon(replace, index)
        assert len(won) == 1
        assert await store.load("key") == won[0]

    async def test_concurrent_changes_of_one_session_are_all_kept(self, store: SessionStore) -> None:
        await store.save("key", '{"first":1}', 60, new=True)

        async def change(index: int) -> None:
            session = Session(store, 60, "key", await store.load("key"))
            await trio.lowlevel.checkpoint()
            session[f"name{index}"] = index
            await session.save()

        async with trio.open_nursery() as nursery:
            for index in range(20):
                nursery.start_soon(change, index)
        text = await store.load("key")
        assert text is not None
        assert json.loads(text) == {"first": 1} | {f"name{index}": index for index in range(20)}

    async def test_a_load_that_begins_after_a_save_knows_of_it(self, store: SessionStore) -> None:
        await store.save("key", "0", 60, new=True)
        for index in range(1, 30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(functools.partial(store.save, "key", str(index), 60, new=False))
                nursery.start_soon(self._read, store, str(index))

    async def _read(self, store: SessionStore, text: str) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()  # the save has begun by then, whichever task was the first
        assert await store.load("key") == text

    async def test_it_says_when_a_session_is_over(self, store: SessionStore, clock: Clock) -> None:
        assert await store.expires_in("key") is None
        await store.save("key", "1", 60, new=True)
        clock.now += 50
        left = await store.expires_in("key")
        assert left is not None
        assert left == LOOK_AGAIN_SECONDS or 9 < left <= 10
        clock.now += 10
        assert await store.expires_in("key") is None

    async def test_a_session_that_was_deleted_does_not_come_back(self, store: SessionStore) -> None:
        await store.save("key", "1", 60, new=True)
        await store.delete("key")
        assert await store.load("key") is None
        assert not await store.save("key", "2", 60, new=False)
        assert await store.load("key") is None

    async def test_deleting_what_is_not_there_is_no_error(self, store: SessionStore) -> None:
        await store.delete("key")

    async def test_keys_are_told_apart(self, store: SessionStore) -> None:
        keys = ["key", "KEY", "key ", " key", "ke", "key.", "channel.websocket.send.0!1", "k" * 200]
        for index, key in enumerate(keys):
            await store.save(key, str(index), 60, new=True)
        assert [await store.load(key) for key in keys] == [str(index) for index in range(len(keys))]
        await store.delete("key")
        assert [await store.load(key) for key in keys[1:]] == [str(index) for index in range(1, len(keys))]

    async def test_a_session_is_over_after_its_lifetime(self, store: SessionStore, clock: Clock) -> None:
        await store.save("key", "1", 60, new=True)
        clock.now += 59
        assert await store.load("key") == "1"
        clock.now += 1
        assert await store.load("key") is None
        assert not await store.save("key", "2", 60, new=False)
        assert await store.save("key", "3", 60, new=True)
        assert await store.load("key") == "3"

    async def test_each_save_begins_the_lifetime_anew(self, store: SessionStore, clock: Clock) -> None:
        await store.save("key", "1", 60, new=True)
        clock.now += 59
        assert await store.save("key", "2", 60, new=False)
        clock.now += 59
        assert await store.load("key") == "2"

    async def test_what_is_over_is_deleted(self, store: SessionStore, clock: Clock) -> None:
        for index in range(5):
            await store.save(f"short{index}", "1", 10, new=True)
            await store.save(f"long{index}", "1", 100, new=True)
        clock.now += 10
        assert await store.delete_expired() == (5 if self.counts_expired else 0)
        assert await store.delete_expired() == 0
        assert [await store.load(f"long{index}") for index in range(5)] == ["1"] * 5

    async def test_concurrent_saves_lose_no_other_keys_data(self, store: SessionStore) -> None:
        async def visitor(key: str) -> None:
            await store.save(key, "0", 60, new=True)
            for count in range(1, 20):
                assert await store.load(key) == str(count - 1)
                assert await store.save(key, str(count), 60, new=False)

        async with trio.open_nursery() as nursery:
            for index in range(10):
                nursery.start_soon(visitor, f"key{index}")
        assert [await store.load(f"key{index}") for index in range(10)] == ["19"] * 10

    async def test_a_save_that_is_cancelled_harms_no_other(self, store: SessionStore) -> None:
        async with trio.open_nursery() as nursery:
            for index in range(20):
                nursery.start_soon(self._save_and_cancel, store, index)
        for index in range(20):
            if index % 2:
                assert await store.load(f"key{index}") == str(index)
            else:
                assert await store.load(f"key{index}") in (None, str(index))

    async def _save_and_cancel(self, store: SessionStore, index: int) -> None:
        with trio.CancelScope() as scope:
            if not index % 2:
                scope.cancel()
            await store.save(f"key{index}", str(index), 60, new=True)

    async def test_it_opens_closes_and_opens_again(self, store: SessionStore) -> None:
        async with store.running():
            async with store.running():
                await store.save("key", "1", 60, new=True)
            assert await store.load("key") == "1"
        await store.open()
        await store.save("other", "2", 60, new=True)
        assert await store.load("other") == "2"
        await store.close()

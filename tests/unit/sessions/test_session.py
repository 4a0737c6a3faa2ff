"""A session and its store, without an application around them."""

from __future__ import annotations

import json

import pytest

from triochan.exceptions import SessionNotSerializable, SessionStoreUnavailable
from triochan.sessions import MemorySessionStore, Session


class Failing(MemorySessionStore):
    """Its deletions fail as often as it is told."""

    failures = 0

    async def delete(self, key: str) -> None:
        if self.failures:
            self.failures -= 1
            raise SessionStoreUnavailable("not now")
        await super().delete(key)


class Interrupted(MemorySessionStore):
    """While it compares, another one stores something, and the program goes on with its session."""

    session: Session

    async def replace(self, key: str, old: str | None, text: str, lifetime: float) -> bool:
        if self.session.get("interrupted"):
            await self.save(key, json.dumps({"list": [], "theirs": 1}), lifetime, new=True)
            self.session["interrupted"] = False
            self.session["list"].append({1})
        return await super().replace(key, old, text, lifetime)


async def test_one_without_a_store_is_kept_nowhere() -> None:
    session = Session(None, 60)
    session["name"] = 1
    await session.save()
    assert (session.session_key, session.modified, dict(session)) == (None, False, {"name": 1})


async def test_an_anonymous_one_that_holds_nothing_gets_no_key() -> None:
    session = Session(MemorySessionStore(), 60)
    session.modified = True
    await session.save()
    assert (session.session_key, session.modified) == (None, False)


async def test_an_old_key_that_could_not_be_deleted_is_deleted_by_the_next_save() -> None:
    store = Failing()
    session = Session(store, 60)
    session["name"] = 1
    await session.save()
    old = session.session_key
    assert old is not None
    session.cycle_key()
    store.failures = 1
    with pytest.raises(SessionStoreUnavailable):
        await session.save()
    assert session.modified
    new = session.session_key
    assert new not in (None, old)
    await session.save()
    assert (await store.load(old), session.session_key, session.modified) == (None, new, False)


async def test_what_is_put_in_while_it_is_saved_and_can_not_be_stored_is_found_by_the_next_save() -> None:
    store = Interrupted()
    await store.save("key", '{"list":[]}', 60, new=True)
    session = store.session = Session(store, 60, "key", '{"list":[]}')
    session["interrupted"] = True
    await session.save()
    assert dict(session) == {"list": [{1}], "theirs": 1, "interrupted": False}
    assert session.modified
    with pytest.raises(SessionNotSerializable, match="list"):
        await session.save()

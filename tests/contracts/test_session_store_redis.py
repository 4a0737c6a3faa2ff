"""Sessions in Redis or Valkey: the contract, what holds between processes, and what follows when the engine is away."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from engines import EngineProcess, engine
from session_stores import Clock, SessionStoreContract

from triochan import Application, Settings
from triochan.exceptions import ImproperlyConfigured, SessionStoreUnavailable
from triochan.layers import MemoryLayer
from triochan.layers.redis import RedisLayer
from triochan.sessions import RedisSessionStore, Session, SessionStore
from triochan.sessions.store import LOOK_AGAIN_SECONDS
from triochan.test import Client

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def running_engine() -> Iterator[EngineProcess]:
    with engine() as process:
        yield process


def told(process: EngineProcess, *words: str) -> bytes:
    """The engine's first answer to a command, without a client's help."""
    command = b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(process.path)
        sock.sendall(b"*%d\r\n%s" % (len(words), command))
        return sock.recv(65536)


_AGE = """
for _, key in ipairs(redis.call('KEYS', '*:session:*')) do
    local left = redis.call('PTTL', key)
    if left >= 0 then redis.call('PEXPIRE', key, left - ARGV[1]) end
end
return 1
"""


class EngineClock(Clock):
    """Whoever moves it brings the sessions in the engine nearer to their end, as waiting would."""

    def __init__(self, process: EngineProcess) -> None:
        self._process = process
        self._now = 0.0

    @property
    def now(self) -> float:
        return self._now

    @now.setter
    def now(self, now: float) -> None:
        passed, self._now = now - self._now, now
        assert told(self._process, "EVAL", _AGE, "0", str(int(passed * 1000))) == b":1\r\n"


@pytest.fixture
def clock(running_engine: EngineProcess) -> Clock:
    return EngineClock(running_engine)


@pytest.fixture(autouse=True)
def _empty(running_engine: EngineProcess) -> Iterator[None]:
    yield
    if running_engine.process is not None:
        assert told(running_engine, "FLUSHALL") == b"+OK\r\n"


class TestOfItsOwn(SessionStoreContract):
    counts_expired = False

    @pytest.fixture
    async def store(self, running_engine: EngineProcess) -> AsyncIterator[RedisSessionStore]:
        store = RedisSessionStore(running_engine.url)
        async with store.running():
            yield store
            assert not store._unsettled
        assert store._block is None


class TestOfTheLayer(SessionStoreContract):
    counts_expired = False

    @pytest.fixture
    async def store(self, running_engine: EngineProcess) -> AsyncIterator[RedisSessionStore]:
        async with RedisLayer(running_engine.url).running():
            yield RedisSessionStore()


class TestNotRunning(SessionStoreContract):
    """As in a script: each call has a client of its own, or one together with those at the same time."""

    counts_expired = False

    @pytest.fixture
    async def store(self, running_engine: EngineProcess) -> RedisSessionStore:
        return RedisSessionStore(running_engine.url)


@pytest.fixture
async def store(running_engine: EngineProcess) -> AsyncIterator[RedisSessionStore]:
    store = RedisSessionStore(running_engine.url)
    async with store.running():
        yield store


# -- between processes: two stores have nothing in common but the engine


async def test_two_processes_that_change_one_session_keep_both_changes(
    running_engine: EngineProcess, store: RedisSessionStore
) -> None:
    other = RedisSessionStore(running_engine.url)

    async def change(store: SessionStore, name: str) -> None:
        session = Session(store, 600, "key", await store.load("key"))
        session[name] = 1
        await session.save()

    async with other.running():
        await store.save("key", "{}", 600, new=True)
        async with trio.open_nursery() as nursery:
            for index in range(20):
                nursery.start_soon(change, store, f"a{index}")
                nursery.start_soon(change, other, f"b{index}")
        text = await other.load("key")
    assert text is not None
    assert set(json.loads(text)) == {f"{name}{index}" for name in "ab" for index in range(20)}


async def test_several_servers_of_a_run_share_its_client(store: RedisSessionStore) -> None:
    async with store.running():
        await store.save("key", "1", 60, new=True)
    assert await store.load("key") == "1"  # the last block has not been left
    assert store._own is not None
    assert store._own._link is not None


async def test_programs_with_prefixes_of_their_own_do_not_meet(
    running_engine: EngineProcess, store: RedisSessionStore
) -> None:
    other = RedisSessionStore(running_engine.url, prefix="other")
    await store.save("key", "1", 60, new=True)
    assert await other.load("key") is None
    await other.save("key", "2", 60, new=True)
    assert await store.load("key") == "1"


async def test_sessions_outlive_the_servers(running_engine: EngineProcess) -> None:
    for text, found in (("1", None), ("2", "1")):
        async with RedisLayer(running_engine.url).running():
            store = RedisSessionStore()
            async with store.running():
                assert await store.load("key") == found
                await store.save("key", text, 60, new=True)


# -- what an engine may hold


@pytest.mark.parametrize("lifetime", [float("inf"), 1e300, 10**18])
async def test_an_end_that_is_too_far_off_is_in_a_hundred_years(
    store: RedisSessionStore, lifetime: float
) -> None:
    assert await store.save("key", "1", lifetime, new=True)
    left = await store.expires_in("key")
    assert left is not None
    assert left > 99 * 365 * 24 * 3600


async def test_a_lifetime_of_nothing_is_short(store: RedisSessionStore) -> None:
    assert await store.save("key", "1", 0, new=True)
    await trio.sleep(0.005)
    assert await store.load("key") is None


async def test_a_session_whose_end_somebody_has_taken_away(
    running_engine: EngineProcess, store: RedisSessionStore
) -> None:
    await store.save("key", "1", 60, new=True)
    told(running_engine, "PERSIST", "triochan:session:key")
    assert await store.expires_in("key") == LOOK_AGAIN_SECONDS
    assert await store.save("key", "2", 60, new=False)
    left = await store.expires_in("key")
    assert left is not None
    assert 59 < left <= 60


@pytest.mark.parametrize(
    "damage",
    [
        ("RPUSH", "triochan:session:key", "a"),
        ("EVAL", "return redis.call('SET', KEYS[1], '\\255')", "1", "triochan:session:key"),
    ],
)
async def test_what_is_corrupt_is_one_session_lost(
    running_engine: EngineProcess,
    store: RedisSessionStore,
    caplog: pytest.LogCaptureFixture,
    damage: tuple[str, ...],
) -> None:
    told(running_engine, *damage)
    assert await store.load("key") is None
    assert "is corrupt; its user is logged out" in caplog.text
    assert "session:key" not in caplog.text
    assert not await store.replace("key", None, "1", 60)
    assert not await store.replace("key", "1", "2", 60)
    assert await store.save("key", "1", 60, new=True)
    assert await store.load("key") == "1"


async def test_texts_of_all_kinds(store: RedisSessionStore) -> None:
    for text in ("", "\ud800", "\r\n$-1\r\n", "𝄞" * 1000):
        await store.save("key", text, 60, new=True)
        assert await store.load("key") == text
        assert await store.replace("key", text, "1", 60)


# -- an engine that is away


async def test_no_engine_at_the_start(tmp_path: Path) -> None:
    store = RedisSessionStore(f"unix://{tmp_path}/none.sock", start_timeout=0.2)
    with trio.fail_after(10):
        with pytest.raises(
            SessionStoreUnavailable,
            match=r"sessions: no engine at unix://.*/none\.sock within 0\.2 s: .*; see that",
        ):
            async with Client(Application([], session_store=store)):
                raise AssertionError
    assert store._block is None


async def test_it_is_asked_by_hand_where_there_is_none(tmp_path: Path) -> None:
    store = RedisSessionStore(f"unix://{tmp_path}/none.sock", timeout=0.1, start_timeout=0.1)
    with (
        trio.fail_after(10),
        pytest.raises(SessionStoreUnavailable, match="see that it runs, and can be reached"),
    ):
        await store.load("key")


async def test_one_that_hangs_is_an_error_in_bounded_time_and_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with engine() as process:
        store = RedisSessionStore(process.url, timeout=0.2)
        async with store.running():
            await store.save("key", "1", 60, new=True)
            process.pause()
            errors: list[str] = []

            async def fail(call: Any, *arguments: Any, **named: Any) -> None:
                with pytest.raises(SessionStoreUnavailable) as caught:
                    await call(*arguments, **named)
                errors.append(str(caught.value))

            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    for _ in range(10):
                        nursery.start_soon(fail, store.load, "key")
                        nursery.start_soon(fail, store.replace, "key", "1", "2", 60)
                    nursery.start_soon(fail, store.delete, "other")
                    nursery.start_soon(fail, store.expires_in, "key")
            assert any("did not answer within 0.2 s; see that it runs" in error for error in errors)
            assert all("the engine at unix://" in error for error in errors)
            assert not store._unsettled
            process.resume()
            await _answers(store)
            assert await store.load("key") in ("1", "2")  # what was sent may have been done


async def test_one_that_is_killed_and_comes_back_empty() -> None:
    with engine() as process:
        store = RedisSessionStore(process.url, timeout=0.5)
        async with store.running():
            await store.save("key", "1", 60, new=True)
            process.kill()
            with trio.fail_after(10), pytest.raises(SessionStoreUnavailable, match="see that it runs"):
                await store.load("key")
            process.start()
            await _answers(store)
            assert await store.load("key") is None
            assert not await store.save("key", "2", 60, new=False)
            assert await store.save("key", "3", 60, new=True)
            assert await store.replace("key", "3", "4", 60)  # it has forgotten the script as well


async def _answers(store: SessionStore) -> None:
    with trio.fail_after(10):
        while True:
            try:
                await store.load("key")
            except SessionStoreUnavailable:
                await trio.sleep(0.02)
            else:
                return


async def test_one_that_is_full(running_engine: EngineProcess, store: RedisSessionStore) -> None:
    await store.save("key", "1", 60, new=True)
    told(running_engine, "CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(SessionStoreUnavailable, match=r"OOM.*; give it more memory \(maxmemory\)"):
            await store.save("key", "2", 60, new=False)
        assert await store.load("key") == "1"
    finally:
        told(running_engine, "CONFIG", "SET", "maxmemory", "0")
    assert await store.save("key", "2", 60, new=False)


async def test_a_user_that_may_not(running_engine: EngineProcess, tmp_path: Path) -> None:
    told(running_engine, "ACL", "SETUSER", "reader", "on", ">secret", "~triochan:*", "&*", "+@all", "-set")
    try:
        url = running_engine.url.replace("unix://", "unix://reader:secret@")
        store = RedisSessionStore(url)
        async with store.running():
            assert await store.load("key") is None
            with pytest.raises(SessionStoreUnavailable, match="has to be allowed what") as caught:
                await store.save("key", "1", 60, new=True)
            assert "secret" not in str(caught.value)
        wrong = RedisSessionStore(url.replace(":secret@", ":wrong@"), start_timeout=0.2)
        with pytest.raises(SessionStoreUnavailable, match="the password in the URL") as caught:
            await wrong.open()
        assert "wrong@" not in str(caught.value)
    finally:
        told(running_engine, "ACL", "DELUSER", "reader")


async def test_a_user_that_may_do_what_the_documentation_says(running_engine: EngineProcess) -> None:
    commands = "GET, SET, PTTL, DEL, EVAL, EVALSHA, SCRIPT, CLIENT and PING"
    page = Path(__file__).parents[2] / "docs" / "sessions.md"
    assert commands in page.read_text()
    allowed = (f"+{name.lower()}" for name in commands.replace(" and", ",").split(", "))
    told(running_engine, "ACL", "SETUSER", "least", "reset", "on", ">secret", "~triochan:*", *allowed)
    try:
        store = RedisSessionStore(running_engine.url.replace("unix://", "unix://least:secret@"))
        told(running_engine, "SCRIPT", "FLUSH")
        async with store.running():
            assert await store.save("key", "1", 60, new=True)
            assert await store.replace("key", "1", "2", 60)
            assert await store.load("key") == "2"
            assert await store.expires_in("key") is not None
            await store.delete("key")
    finally:
        told(running_engine, "ACL", "DELUSER", "least")


# -- whose engine


async def test_without_a_url_and_an_engine_it_says_what_to_do() -> None:
    store = RedisSessionStore()
    expected = r"shares the engine of the layer that serves, which is {} here: serve with --layer redis://"
    with pytest.raises(ImproperlyConfigured, match=expected.format("none")):
        await store.load("key")
    with pytest.raises(ImproperlyConfigured, match=expected.format("MemoryLayer")):
        async with Client(Application([], session_store=store)):
            raise AssertionError
    async with MemoryLayer(Settings()).running():
        with pytest.raises(ImproperlyConfigured, match=expected.format("MemoryLayer")):
            await store.open()


@pytest.mark.parametrize("options", [{"prefix": "x"}, {"timeout": 1.0}, {"start_timeout": 1.0}])
def test_what_is_an_engines_own_needs_a_url(options: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"takes {next(iter(options))} together with the URL"):
        RedisSessionStore(**options)


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", ""])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="the URL of an engine begins with one of redis://"):
        RedisSessionStore(url)


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("triochan.layers.redis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(
        ImproperlyConfigured, match=r"need coredis and msgpack: pip install 'triochan\[redis\]'"
    ):
        RedisSessionStore("redis://localhost")

"""Sessions in Redis or Valkey: for many processes, on one machine or on several."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import trio

from ..exceptions import ImproperlyConfigured, LayerUnavailable, SessionStoreUnavailable
from ..layers import running_layer
from ..running import SharedBlock
from .store import LOOK_AGAIN_SECONDS, SessionStore

if TYPE_CHECKING:
    from ..layers.redis.engine import Engine, Script

logger = logging.getLogger("triochan.sessions")

T = TypeVar("T")

_QUEUE_SECONDS = 0.5
"""How much longer than the engine a call may take, behind others of this process that write the same session."""
_LONGEST_SECONDS = 100.0 * 365 * 24 * 3600
"""An engine refuses an end that is too far off."""
_SAVE = """
local held = redis.pcall('GET', KEYS[1])
if ARGV[1] == 'held' and not held or ARGV[1] == 'new' and held or ARGV[1] == 'same' and held ~= ARGV[4] then
    return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
"""Keeps a text, on a condition. An engine says false where it holds nothing, and an error is not false."""
_WHAT_TO_DO = {
    "OOM": "give it more memory (maxmemory), or let it forget what ends soon (maxmemory-policy volatile-ttl)",
    "ReadOnly": "it is a replica; give the URL of the primary",
    "no permission": "the user in the URL has to be allowed what docs/sessions.md lists",
    "Authentication": "see that the user and the password in the URL are right",
}
_ELSE = "see that it runs, and can be reached from here"


class RedisSessionStore(SessionStore):
    """Sessions in Redis or Valkey, each a string under ``triochan:session:KEY``, which the engine forgets by itself.

    Every call is one command, or one script: all processes on the engine agree. Within :meth:`running`, which servers
    enter, there is one client for all; outside of it, as in a script, one is opened for each call.

    Args:
        url: of the engine, see :class:`triochan.layers.redis.engine.Engine`; None: the store shares the engine of the
            :class:`triochan.layers.redis.RedisLayer` that serves (``--layer``), with its connections, prefix and times.
        prefix: stands before every key.
        timeout: seconds that the engine may take to answer; 3.
        start_timeout: seconds that a start waits for an engine that is not there yet; 10.

    Raises:
        ImproperlyConfigured: ``url`` is none, or coredis is not installed; or one of the others comes without ``url``.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        prefix: str | None = None,
        timeout: float | None = None,
        start_timeout: float | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, str | float | None] = {
            "prefix": prefix,
            "timeout": timeout,
            "start_timeout": start_timeout,
        }
        given = {name: value for name, value in options.items() if value is not None}
        if url is None and given:
            raise ImproperlyConfigured(
                f"RedisSessionStore takes {', '.join(given)} together with the URL of an engine of its own; without a "
                "URL it shares the layer's engine, with the layer's prefix and times"
            )
        self._own = None if url is None else _engine(url, given)
        self._block: SharedBlock[None] | None = None
        self._script: tuple[Engine, Script] | None = None
        self._unsettled: Counter[str] = Counter()

    # -- the contract

    async def load(self, key: str) -> str | None:
        try:
            data = await self._read(key, lambda engine, name: engine.client.get(name))
        except SessionStoreUnavailable as error:
            if "WrongTypeError" not in str(error):
                raise
            data = b"\xff"
        if data is None:
            return None
        try:
            return bytes(data).decode(errors="surrogatepass")
        except UnicodeDecodeError:
            logger.error("what the engine holds of a session is corrupt; its user is logged out")
            return None

    async def save(self, key: str, text: str, lifetime: float, *, new: bool) -> bool:
        return await self._save("always" if new else "held", key, text, lifetime)

    async def replace(self, key: str, old: str | None, text: str, lifetime: float) -> bool:
        if old is None:
            return await self._save("new", key, text, lifetime)
        return await self._save("same", key, text, lifetime, old)

    async def expires_in(self, key: str) -> float | None:
        left = await self._read(key, lambda engine, name: engine.client.pttl(name))
        if left == -2:  # it is not held
            return None
        return LOOK_AGAIN_SECONDS if left == -1 else left / 1000  # -1: somebody has taken its end away

    async def delete(self, key: str) -> None:
        await self._write(key, lambda engine, name: engine.client.delete([name]))

    async def delete_expired(self) -> int:
        """0: the engine does that by itself, and does not count."""
        return 0

    async def open(self) -> None:
        """Find out whether the engine answers.

        Raises:
            SessionStoreUnavailable: it does not.
            ImproperlyConfigured: the store has no URL, and the layer no engine.
        """
        await self._ask(lambda engine: engine.client.ping())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        if self._own is None:
            await self.open()
            yield
            return
        async with self._linked(self._own):
            self._runs += 1
            try:
                yield
            finally:
                self._runs -= 1

    # -- the engine

    async def _save(self, when: str, key: str, text: str, lifetime: float, old: str = "") -> bool:
        milliseconds = max(1, int(min(lifetime, _LONGEST_SECONDS) * 1000))
        arguments: list[str | bytes | int | float] = [
            when,
            text.encode(errors="surrogatepass"),
            milliseconds,
            old.encode(errors="surrogatepass"),
        ]
        return bool(await self._write(key, lambda engine, name: self._saving(engine)([name], arguments)))

    def _saving(self, engine: Engine) -> Script:
        if self._script is None or self._script[0] is not engine:
            self._script = engine, engine.script(_SAVE)
        return self._script[1]

    async def _write(self, key: str, request: Callable[[Engine, str], Awaitable[T]]) -> T:
        """The answer to a request that changes what is held: those of one key go one after the other."""
        self._unsettled[key] += 1
        try:
            return await self._ask(lambda engine: request(engine, engine.key("session", key)), key, hold=True)
        finally:
            self._unsettled[key] -= 1
            if not self._unsettled[key]:
                del self._unsettled[key]

    async def _read(self, key: str, request: Callable[[Engine, str], Awaitable[T]]) -> T:
        """The answer to a request that knows of all writes of this key's that have begun before: the client has several
        connections, so that one could overtake them."""
        behind = key if key in self._unsettled else None
        return await self._ask(lambda engine: request(engine, engine.key("session", key)), behind)

    async def _ask(
        self, request: Callable[[Engine], Awaitable[T]], behind: str | None = None, *, hold: bool = False
    ) -> T:
        """The engine's answer.

        Args:
            behind: a key: wait for the writes of this key that have begun.
            hold: those that follow wait for this one.
        """
        engine = self._layers_engine() if self._own is None else self._own
        try:
            # The engine has its time of its own: this is for the wait, and for a link that has to be made.
            with trio.fail_after(engine.timeout + _QUEUE_SECONDS):
                if behind is not None:
                    async with self.alone("write", behind):
                        if hold:
                            return await self._answer(engine, request)
                return await self._answer(engine, request)
        except LayerUnavailable as error:
            raise _unavailable(error) from error
        except trio.TooSlowError as error:
            raise _unavailable(engine.unavailable(error)) from error

    async def _answer(self, engine: Engine, request: Callable[[Engine], Awaitable[T]]) -> T:
        if self._own is None or self._runs:
            return await engine.ask(request(engine))
        async with self._linked(self._own):
            return await engine.ask(request(engine))

    def _layers_engine(self) -> Engine:
        layer = running_layer()
        if layer is not None:
            from ..layers.redis import RedisLayer

            if isinstance(layer, RedisLayer):
                return layer.engine
        raise ImproperlyConfigured(
            "RedisSessionStore() without a URL shares the engine of the layer that serves, which is "
            f"{'none' if layer is None else type(layer).__name__} here: serve with --layer redis://…, or give the "
            "store a URL"
        )

    @asynccontextmanager
    async def _linked(self, engine: Engine) -> AsyncIterator[None]:
        """Have the link to an engine of its own, together with all others that have it now."""
        while self._block is not None and await self._block.ending():
            pass
        if self._block is None:
            self._block = SharedBlock(lambda: _running(engine), self._unlinked)
            self._block.start()
        async with self._block.held():
            yield

    def _unlinked(self) -> None:
        self._block = None


def _engine(url: str, options: dict[str, str | float]) -> Engine:
    from ..layers.redis.engine import Engine  # its packages are an extra

    return Engine(url, **options)  # type: ignore[arg-type]  # as __init__ has them


@asynccontextmanager
async def _running(engine: Engine) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(engine.running())
        except LayerUnavailable as error:
            raise _unavailable(error) from error
        yield


def _unavailable(error: LayerUnavailable) -> SessionStoreUnavailable:
    said = str(error)
    advice = next((advice for sign, advice in _WHAT_TO_DO.items() if sign in said), _ELSE)
    return SessionStoreUnavailable(f"sessions: {said}; {advice}")

"""The engine: one Redis or Valkey server, asked through coredis. Every answer is bounded in time; when the engine is
away, that is survived."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import attrs
import trio

from ...exceptions import ImproperlyConfigured, LayerUnavailable
from ..engine_urls import SCHEMES, without_password
from .subscriptions import Subscriptions, read_refusals, take_pushes

if TYPE_CHECKING:
    import coredis
    from coredis.connection import BaseConnection

logger = logging.getLogger("triochan.layers")
T = TypeVar("T")

_AS_COREDIS_HAS_THEM = {"valkey": "redis", "valkeys": "rediss"}
NOT_INSTALLED = "Redis and Valkey need coredis and msgpack: pip install 'triochan[redis]'"
ANSWER_SECONDS = 3.0
"""How long an engine may take to answer a command."""
START_SECONDS = 10.0
"""How long a start waits for an engine that is not there yet."""
_AGAIN = 0.05
"""Seconds before an engine is asked again that is not there; twice as long each time."""
_AGAIN_AT_MOST = 2.0
_REFUSAL_SECONDS = 60.0


class Script:
    """A Lua script: ``await engine.ask(script(keys, arguments))``. An engine that has forgotten it is told anew.

    All scripts of a process go through one connection, where those of a moment share a write and a read. A place in
    coredis' pool for each and its client's way of a command take twice the time of one, and five times that of eight.
    """

    def __init__(self, engine: Engine, source: str) -> None:
        self._engine = engine
        self._source = source
        self._digest = hashlib.sha1(source.encode()).hexdigest()  # by which engines know it

    async def __call__(self, keys: list[str], arguments: list[str | bytes | int | float]) -> Any:
        """Its answer.

        Raises:
            LayerUnavailable: the engine is away.
        """
        from coredis.exceptions import NoScriptError

        request = self._engine.request
        try:
            return await request(b"EVALSHA", self._digest, len(keys), *keys, *arguments)
        except NoScriptError:
            return await request(b"EVAL", self._source, len(keys), *keys, *arguments)


class Engine:
    """One Redis or Valkey server.

    A link to it is a client for commands, and a connection that is subscribed to :attr:`subscriptions`. When either
    fails, both are made anew, with growing pauses; until then :meth:`ask` raises at once.

    Args:
        url: ``redis://[user:password@]host[:port][/db]``, the same with ``rediss`` for TLS, ``valkey`` or ``valkeys``,
            or ``unix:///path/of.sock``.
        prefix: stands before every key and channel of the layer, so that several programs may share an engine.
        timeout: seconds that it may take to answer.
        start_timeout: seconds that :meth:`running` waits for an engine that is not there yet.

    Attributes:
        place: the URL, without its password.
        subscriptions: what this process hears.
        gaps: how often the link was lost and made anew: what was published meanwhile was missed.

    Raises:
        ImproperlyConfigured: ``url`` is none, or coredis is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "triochan",
        timeout: float = ANSWER_SECONDS,
        start_timeout: float = START_SECONDS,
    ) -> None:
        self._url = _checked(url)
        self.place = without_password(url)
        self.prefix = prefix
        self.timeout = timeout
        self.subscriptions = Subscriptions()
        self.gaps = 0
        self._topics = f"{prefix}@{_database(url)}"
        self._start_timeout = start_timeout
        self._link: _Link | None = None
        self._lost: float | None = None
        self._why: Exception | None = None
        self._refusals: dict[type[Exception], float] = {}

    def key(self, *parts: str) -> str:
        """A key of this layer's."""
        return ":".join((self.prefix, *parts))

    def topic(self, *parts: str) -> str:
        """A publish/subscribe channel of this layer's; an engine's databases share these, so the database is named."""
        return ":".join((self._topics, *parts))

    @property
    def client(self) -> coredis.Redis[bytes]:
        """Commands go through it, by :meth:`ask`; none that blocks, no pipeline but a transaction. Another one after
        each break, so it is not to be kept.

        Raises:
            LayerUnavailable: the engine is away.
        """
        if self._link is None:
            raise self.away()
        return self._link.client

    async def request(self, command: bytes, *arguments: str | bytes | int | float) -> Any:
        """What the engine answers to a command, within the time; for :meth:`ask`.

        Many may be under way at once: all go through one connection. So none that blocks, and none that changes
        anything in the connection.

        Raises:
            LayerUnavailable: the engine is away.
        """
        if self._link is None:
            raise self.away()
        return await self._link.commands.create_request(command, *arguments)

    def script(self, source: str) -> Script:
        """A Lua script."""
        return Script(self, source)

    def new_client(self) -> coredis.Redis[bytes]:
        """A client of the caller's own, to be entered in the task that is above all that use it."""
        import coredis  # takes 0.3 s: by who needs it
        from coredis.retry import NoRetryPolicy

        its_log = logging.getLogger("coredis")
        if its_log.level == logging.NOTSET:  # else the program wants to see it
            its_log.setLevel(logging.CRITICAL)  # each attempt's traceback; what is lost is told here, once
        return coredis.Redis.from_url(
            self._url,
            decode_components=True,
            decode_responses=False,
            # What is sent again may be done twice.
            retry_policy=NoRetryPolicy(),
            stream_timeout=self.timeout,
            connect_timeout=self.timeout,
            pool_timeout=self.timeout,
            client_name="triochan",
        )

    @asynccontextmanager
    async def running(
        self, restored: Callable[[float], None] = lambda _: None
    ) -> AsyncIterator[trio.Nursery]:
        """Be linked to the engine for as long as the block lasts; what is started in the nursery ends with it.

        Args:
            restored: called when a link that was lost is there again, with the seconds between.

        Raises:
            LayerUnavailable: no engine has answered within ``start_timeout``.
        """
        raised: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                try:
                    await self._begin(nursery, restored)
                    yield nursery
                    nursery.cancel_scope.cancel()
                except BaseException as error:
                    raised = error
                    raise
        except BaseExceptionGroup as group:
            if raised is not None and group.exceptions == (raised,):
                raise raised from raised.__cause__  # the nursery wraps what the block raises
            raise
        finally:
            del raised

    async def _begin(self, nursery: trio.Nursery, restored: Callable[[float], None]) -> None:
        begun = trio.Event()
        nursery.start_soon(self._keep_linked, begun, restored)
        with trio.move_on_after(self._start_timeout):
            await begun.wait()
        if not begun.is_set():
            why = "it does not answer" if self._why is None else f"{type(self._why).__name__}: {self._why}"
            raise LayerUnavailable(f"no engine at {self.place} within {self._start_timeout:g} s: {why}")

    async def _keep_linked(self, begun: trio.Event, restored: Callable[[float], None]) -> None:
        """Have a link, and a new one whenever it is lost. What coredis raises ends the link, never this."""
        pause = _AGAIN
        self._lost, self._why = None, None

        def linked() -> None:
            nonlocal pause
            pause = _AGAIN
            lost, self._lost, self._why = self._lost, None, None
            if lost is not None and begun.is_set():
                self.gaps += 1
                missed = trio.current_time() - lost
                what = f"; what was sent to groups meanwhile was missed (gap {self.gaps})"
                logger.warning(
                    "the engine at %s is back after %.1f s%s",
                    self.place,
                    missed,
                    what if len(self.subscriptions) else "",  # a store of sessions has none
                )
                restored(missed)
            begun.set()

        while True:
            error = await self._have_link(linked)
            self.subscriptions.detach()
            self._why = error
            if self._lost is None:
                self._lost = trio.current_time()
                if begun.is_set():
                    logger.warning("%s; trying again until it is back", self.unavailable(error))
                else:
                    logger.warning("%s; waiting up to %g s", self.unavailable(error), self._start_timeout)
            await trio.sleep(pause * random.uniform(0.5, 1))  # not all processes at once
            pause = min(2 * pause, _AGAIN_AT_MOST)

    async def _have_link(self, linked: Callable[[], None]) -> Exception:
        """Have one link for as long as it holds; why it ended."""
        link: _Link | None = None
        try:
            async with self.new_client() as client, self.new_client() as listening:
                link = _Link(client)
                try:
                    with link.scope:
                        await self._hold(link, listening, linked)
                finally:
                    self._link = None  # nobody may come to a client that is being left
        except Exception as error:  # noqa: BLE001 - whatever it is: the link is made anew
            return _cause(error)
        except BaseExceptionGroup as group:
            mine, others = group.split(Exception)
            if mine is None or others is None:
                raise
            raise others from None  # noqa: ASYNC104 - a cancellation goes on
        assert link is not None
        assert link.broken is not None
        return link.broken

    async def _hold(self, link: _Link, listening: coredis.Redis[bytes], linked: Callable[[], None]) -> None:
        """Hear what is subscribed to, and let :meth:`ask` use the link, until either fails."""
        async with (
            link.client.connection_pool.acquire() as link.commands,
            listening.connection_pool.acquire() as connection,
            trio.open_nursery() as nursery,
        ):
            take_pushes(connection, self.subscriptions.take, link.break_off)
            nursery.start_soon(read_refusals, connection)
            nursery.start_soon(self._keep_alive, connection)
            self.subscriptions.attach(connection)
            with trio.fail_after(self.timeout):
                await link.client.ping()
            await self._restored()
            self._link = link
            linked()

    async def _restored(self) -> None:
        """Wait until all subscriptions are confirmed, for as long as it goes on: there may be a hundred thousand.

        Raises:
            TooSlowError: it does not.
        """
        while True:
            received = self.subscriptions.received
            with trio.move_on_after(self.timeout):
                await self.subscriptions.restored()
                return
            if self.subscriptions.received == received:
                raise trio.TooSlowError

    async def _keep_alive(self, connection: BaseConnection) -> None:
        """Find out whether an engine that has gone silent is there.

        Raises:
            TimeoutError: it is not.
        """
        while True:
            await trio.sleep(self.timeout)
            received = self.subscriptions.received
            try:
                await connection.create_request(b"PING", timeout=self.timeout)
            except TimeoutError:
                if self.subscriptions.received == received:  # else its answer stands behind much else
                    raise

    async def ask(self, request: Awaitable[T]) -> T:
        """The engine's answer.

        Raises:
            LayerUnavailable: there is none within the time, or it is an error.
        """
        link = self._link
        try:
            with trio.fail_after(self.timeout):
                return await request
        except LayerUnavailable:
            raise
        except Exception as error:
            cause = _cause(error)
            # A client that has been broken off in the middle of something may have lost a place in its pool for good.
            if link is not None and _is_lost(cause):
                link.break_off(cause)
            else:  # what the engine refuses; or what has ended a task of coredis' own, which hands it on as it is
                self._tell_refusal(cause)
            if _is_lost(cause):
                # coredis raises one error for all that have asked, whose traceback grows with each, and keeps frames.
                cause.__traceback__ = None
            raise self.unavailable(cause) from error

    def _tell_refusal(self, error: Exception) -> None:
        """Log it, once a minute at most for each kind: whoever has asked is told each time."""
        now = trio.current_time()
        if now >= self._refusals.get(type(error), -math.inf) + _REFUSAL_SECONDS:
            self._refusals[type(error)] = now
            logger.warning("%s", self.unavailable(error))

    async def confirmed(self, topic: str) -> None:
        """Wait until a subscription is confirmed, or is dropped; no checkpoint where it is.

        Raises:
            LayerUnavailable: it is not within the time.
        """
        with trio.move_on_after(self.timeout) as scope:
            await self.subscriptions.confirmed(topic)
        if scope.cancelled_caught:
            raise self.away()

    def away(self) -> LayerUnavailable:
        """What the program is told while there is no link."""
        return self.unavailable(self._why or TimeoutError())

    def unavailable(self, error: BaseException) -> LayerUnavailable:
        """What the program is told of ``error``."""
        if isinstance(error, (trio.TooSlowError, TimeoutError)):
            return LayerUnavailable(f"the engine at {self.place} did not answer within {self.timeout:g} s")
        return LayerUnavailable(f"the engine at {self.place}: {type(error).__name__}: {error}")


@attrs.define(eq=False)
class _Link:
    client: coredis.Redis[bytes]
    commands: BaseConnection = attrs.field(init=False)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    broken: Exception | None = None

    def break_off(self, error: Exception) -> None:
        """It is of no use any more; again is no error."""
        if self.broken is None:
            self.broken = error
            self.scope.cancel()


def _cause(error: BaseException) -> Exception:
    """The first of a group's errors that says something."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error


def _is_lost(error: Exception) -> bool:
    """It says that the connection is of no use, not what the engine thinks of a command."""
    import anyio
    from coredis.exceptions import AuthenticationError
    from coredis.exceptions import ConnectionError as Lost

    kinds = (
        Lost, AuthenticationError, OSError, trio.TooSlowError, anyio.BrokenResourceError, anyio.ClosedResourceError,
    )  # fmt: skip
    return isinstance(error, kinds)


def _checked(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES or not rest:
        raise ImproperlyConfigured(
            f"the URL of an engine begins with one of {', '.join(each + '://' for each in SCHEMES)}, "
            f"such as redis://localhost:6379/0, not {without_password(url)!r}"
        )
    if importlib.util.find_spec("coredis") is None:
        raise ImproperlyConfigured(NOT_INSTALLED)
    return f"{_AS_COREDIS_HAS_THEM.get(scheme, scheme)}://{rest}"


def _database(url: str) -> str:
    """The number of the database that ``url`` names."""
    parts = urlsplit(url)
    asked = parse_qs(parts.query).get("db")
    if asked:
        return asked[0]
    return "0" if parts.scheme == "unix" else parts.path.strip("/") or "0"

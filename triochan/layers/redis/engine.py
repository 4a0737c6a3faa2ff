"""The engine: one Redis or Valkey server, asked through coredis, with every answer bounded in time."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import trio

from ...exceptions import ImproperlyConfigured, LayerUnavailable
from ..engine_urls import SCHEMES, without_password

if TYPE_CHECKING:
    import coredis
    from coredis.commands.script import Script

logger = logging.getLogger("triochan.layers")
T = TypeVar("T")

_AS_COREDIS_HAS_THEM = {"valkey": "redis", "valkeys": "rediss"}
ANSWER_SECONDS = 3.0
"""How long an engine may take to answer a command."""
START_SECONDS = 10.0
"""How long a start waits for an engine that is not there yet."""
_AGAIN = 0.25
"""Seconds before a start asks an engine again that is not there."""


class Engine:
    """One Redis or Valkey server.

    Args:
        url: ``redis://[user:password@]host[:port][/db]``, the same with ``rediss`` for TLS, ``valkey`` or ``valkeys``,
            or ``unix:///path/of.sock``.
        prefix: stands before every key and channel of the layer, so that several programs may share an engine.
        timeout: seconds that it may take to answer.
        start_timeout: seconds that :meth:`running` waits for an engine that is not there yet.

    Attributes:
        client: commands go through it, by :meth:`ask`; none that blocks, no pipeline but a transaction.

    Raises:
        ImproperlyConfigured: ``url`` is none, or coredis is not installed.
    """

    client: coredis.Redis[bytes]

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
        self._start_timeout = start_timeout

    def key(self, *parts: str) -> str:
        """A key, or the name of a channel, of this layer's."""
        return ":".join((self.prefix, *parts))

    def script(self, source: str) -> Script[bytes]:
        """A Lua script: ``await engine.ask(script(keys, arguments))``. An engine that has forgotten it is told anew."""
        return self.client.register_script(source)

    def new_client(self) -> coredis.Redis[bytes]:
        """A client of the caller's own, to be entered in the task that is above all that use it."""
        import coredis  # takes 0.3 s: by who needs it
        from coredis.retry import NoRetryPolicy

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
    async def running(self) -> AsyncIterator[None]:
        """Have :attr:`client` for as long as the block lasts.

        Raises:
            LayerUnavailable: no engine has answered within ``start_timeout``.
        """
        raised: BaseException | None = None
        try:
            async with self.new_client() as self.client:
                try:
                    await self._begin()
                    yield
                except BaseException as error:
                    raised = error
                    raise
        except BaseExceptionGroup as group:
            if raised is not None and group.exceptions == (raised,):
                raise raised from raised.__cause__  # the client's nursery wraps what the block raises
            raise
        finally:
            del raised

    async def _begin(self) -> None:
        deadline = trio.current_time() + self._start_timeout
        told = False
        while True:
            try:
                await self.ask(self.client.ping())
            except LayerUnavailable as error:
                if trio.current_time() >= deadline:
                    raise LayerUnavailable(
                        f"no engine at {self.place} within {self._start_timeout:g} s: {error}"
                    ) from None
                if not told:
                    told = True
                    logger.warning("%s; waiting for it, up to %g s", error, self._start_timeout)
                await trio.sleep(_AGAIN)
            else:
                return

    async def ask(self, request: Awaitable[T]) -> T:
        """The engine's answer.

        Raises:
            LayerUnavailable: there is none within the time, or it is an error.
        """
        from coredis.exceptions import RedisError

        try:
            with trio.fail_after(self.timeout):
                return await request
        except (RedisError, OSError, TimeoutError, trio.TooSlowError) as error:
            raise self.unavailable(error) from error
        except BaseExceptionGroup as group:
            rest = group.split((RedisError, OSError, TimeoutError, trio.TooSlowError))[1]
            if rest is not None:
                raise
            raise self.unavailable(group.exceptions[0]) from group

    def unavailable(self, error: BaseException) -> LayerUnavailable:
        """What the program is told of ``error``."""
        if isinstance(error, (trio.TooSlowError, TimeoutError)):
            return LayerUnavailable(f"the engine at {self.place} did not answer within {self.timeout:g} s")
        return LayerUnavailable(f"the engine at {self.place}: {type(error).__name__}: {error}")


def _checked(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES or not rest:
        raise ImproperlyConfigured(
            f"the URL of an engine begins with one of {', '.join(each + '://' for each in SCHEMES)}, "
            f"such as redis://localhost:6379/0, not {without_password(url)!r}"
        )
    try:
        import importlib.util

        found = importlib.util.find_spec("coredis") and importlib.util.find_spec("msgpack")
    except ImportError:
        found = None
    if not found:
        raise ImproperlyConfigured(
            "a layer through Redis or Valkey needs coredis: pip install 'triochan[redis]'"
        )
    return f"{_AS_COREDIS_HAS_THEM.get(scheme, scheme)}://{rest}"

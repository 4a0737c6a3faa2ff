"""Token buckets that all processes have together, filled by the engine's clock."""

from __future__ import annotations

import hashlib
import logging
import math
from weakref import WeakValueDictionary

import trio

from ...exceptions import LayerUnavailable
from ...routing import name_of
from ..tokens import Bucket, RateLimit
from .engine import Engine

logger = logging.getLogger("triochan.layers")

_TAKE = """
local count, microseconds = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local tokens = count
local held = redis.call('GET', KEYS[1])
if held then
    local before, at = string.match(held, '^(%S+) (%S+)$')
    before, at = tonumber(before), tonumber(at)
    if before and at then
        tokens = math.min(count, before + math.max(0, now - at) * count / microseconds)
    end
end
if tokens < 1 then
    return {0, string.format('%.17g', tokens)}
end
tokens = tokens - 1
local full_in = math.ceil((count - tokens) * microseconds / count / 1000)
redis.call('SET', KEYS[1], string.format('%.17g %.0f', tokens, now), 'PX', full_in)
return {1, string.format('%.17g', tokens)}
"""
"""Whether there was a token, and how many are left. A bucket is gone as soon as it is full."""

ANSWER_SECONDS = 0.5
"""How long a message waits for the engine, at most: the client waits as well."""
ALONE_SECONDS = 1.0
"""How long this process counts for itself before it asks an engine again that did not answer."""


class SharedBuckets:
    """What :meth:`RedisLayer.take_token` takes from."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._take = engine.script(_TAKE)
        self._turns: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()
        self._alone_until = -math.inf
        self._told = False

    async def take(self, kind: type, user_id: object, limit: RateLimit, known: Bucket) -> bool:
        """Take a token; False: there is none.

        Args:
            known: what this process knows of the bucket. Others take from it too, so there are never more tokens than
                that: who sends far too much does not trouble the engine with all of it.
        """
        name = f"{name_of(kind)} {user_id!r}"
        turn = self._turns.get(name)
        if turn is None:
            turn = self._turns[name] = trio.Lock()
        # First come, first served: else the answers could come in another order than the messages.
        async with turn:
            if trio.current_time() < self._alone_until:
                return known.take()
            if known.tokens < 1:
                return False
            key = self._engine.key("tokens", hashlib.blake2b(name.encode(), digest_size=16).hexdigest())
            try:
                with trio.fail_after(ANSWER_SECONDS):
                    taken, left = await self._engine.ask(
                        self._take([key], [limit.count, limit.seconds * 1_000_000])
                    )
            except (LayerUnavailable, trio.TooSlowError) as error:
                self._count_alone(error)
                return known.take()
            self._told = False
            known.hold(float(left))
            return bool(taken)

    def _count_alone(self, error: Exception) -> None:
        self._alone_until = trio.current_time() + ALONE_SECONDS
        if not self._told:
            self._told = True
            why = error if isinstance(error, LayerUnavailable) else f"no answer within {ANSWER_SECONDS:g} s"
            logger.warning("each process counts users' messages for itself until the engine does: %s", why)

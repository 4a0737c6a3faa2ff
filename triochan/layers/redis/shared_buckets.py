"""Token buckets that all processes have together, filled by the engine's clock."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Awaitable
from typing import Any
from weakref import WeakValueDictionary

import attrs
import trio

from ...exceptions import LayerUnavailable
from ...routing import name_of
from ..tokens import Bucket, RateLimit
from .engine import Engine

logger = logging.getLogger("triochan.layers")

_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answers = {}
for index, key in ipairs(KEYS) do
    local count, microseconds = tonumber(ARGV[2 * index - 1]), tonumber(ARGV[2 * index])
    local tokens = count
    local held = redis.pcall('GET', key)
    if type(held) == 'string' then
        local before, at = string.match(held, '^(%S+) (%S+)$')
        before, at = tonumber(before), tonumber(at)
        if before and at then
            tokens = math.min(count, before + math.max(0, now - at) * count / microseconds)
        end
    end
    local taken = 0
    if tokens >= 1 then
        taken = 1
        tokens = tokens - 1
        local full_in = math.ceil((count - tokens) * microseconds / count / 1000)
        redis.call('SET', key, string.format('%.17g %.0f', tokens, now), 'PX', full_in)
    end
    answers[2 * index - 1] = taken
    answers[2 * index] = string.format('%.17g', tokens)
end
return answers
"""
"""For each bucket, whether there was a token, and how many are left. One is gone as soon as it is full; what is none is
taken for a full one."""
_AT_ONCE = 500
"""Tokens that are asked for at once."""

ANSWER_SECONDS = 0.5
"""How long a message waits for the engine, at most: the client waits as well."""
ALONE_SECONDS = 1.0
"""How long this process counts for itself before it asks an engine again that did not answer."""


@attrs.define(eq=False)
class _Request:
    key: str
    limit: RateLimit
    done: trio.Event = attrs.field(factory=trio.Event)
    answer: tuple[bool, float] | None = None
    """Whether there was a token, and how many are left; None: nobody knows."""


class SharedBuckets:
    """What :meth:`triochan.layers.redis.RedisLayer.take_token` takes from."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._take = engine.script(_TAKE)
        self._turns: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()
        self._requests: list[_Request] = []
        self._came = trio.Event()
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
            digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
            request = _Request(self._engine.key("tokens", digest), limit)
            self._requests.append(request)
            self._came.set()
            await request.done.wait()
            if request.answer is None:
                return known.take()
            taken, left = request.answer
            known.hold(left)
            return taken

    async def run(self) -> None:
        """Ask the engine for what is to be taken, and meanwhile gather what it is asked for next: a command costs far
        more than a token."""
        requests: list[_Request] = []
        try:
            while True:
                await self._came.wait()
                requests, self._requests = self._requests[:_AT_ONCE], self._requests[_AT_ONCE:]
                if not self._requests:
                    self._came = trio.Event()
                try:
                    with trio.fail_after(ANSWER_SECONDS):
                        answers = await self._engine.ask(self._asking(requests))
                except (LayerUnavailable, trio.TooSlowError) as error:
                    self._count_alone(error)
                    # Nor would those get an answer that have come meanwhile.
                    requests += self._requests
                    self._requests, self._came = [], trio.Event()
                else:
                    self._told = False
                    for each, taken, left in zip(requests, answers[::2], answers[1::2], strict=True):
                        each.answer = bool(taken), float(left)
                for each in requests:
                    each.done.set()
        finally:  # the layer ends: nobody waits for ever, and who comes now is counted here
            self._alone_until = math.inf
            for each in requests + self._requests:
                each.done.set()

    def _asking(self, requests: list[_Request]) -> Awaitable[list[Any]]:
        arguments: list[str | bytes | int | float] = []
        for each in requests:
            arguments += (each.limit.count, each.limit.seconds * 1_000_000)
        return self._take([each.key for each in requests], arguments)

    def _count_alone(self, error: Exception) -> None:
        self._alone_until = trio.current_time() + ALONE_SECONDS
        if not self._told:
            self._told = True
            why = error if isinstance(error, LayerUnavailable) else f"no answer within {ANSWER_SECONDS:g} s"
            logger.warning("each process counts users' messages for itself until the engine does: %s", why)

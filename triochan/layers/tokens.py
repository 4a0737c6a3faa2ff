"""Token buckets: how often something may happen, counted in this process, by Trio's clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

import attrs
import trio

MAX_BUCKETS = 10_000
"""Buckets that are held at once: those that have been quiet for longest are forgotten first."""


@attrs.frozen
class RateLimit:
    """``count`` messages in ``seconds``, at once or one after the other."""

    count: int
    seconds: float


@attrs.define(eq=False)
class Bucket:
    """Holds ``count`` tokens, filled evenly; each message takes one."""

    _limit: RateLimit
    _tokens: float
    _at: float

    @classmethod
    def full(cls, limit: RateLimit) -> Bucket:
        return cls(limit, limit.count, trio.current_time())

    @property
    def tokens(self) -> float:
        """How many there are."""
        limit = self._limit
        filled = (trio.current_time() - self._at) * limit.count / limit.seconds
        return min(limit.count, self._tokens + filled)

    def take(self) -> bool:
        """Take a token; False: there is none."""
        limit, now = self._limit, trio.current_time()
        tokens = min(limit.count, self._tokens + (now - self._at) * limit.count / limit.seconds)
        self._at = now
        if tokens < 1:
            self._tokens = tokens
            return False
        self._tokens = tokens - 1
        return True

    def hold(self, tokens: float) -> None:
        """So many there are now, as somebody says who knows it better."""
        self._tokens, self._at = tokens, trio.current_time()


@attrs.define(eq=False)
class Buckets:
    """Those of a connection, or of a process, by what they are for."""

    held: OrderedDict[Hashable, Bucket] = attrs.field(factory=OrderedDict)

    def of(self, key: Hashable, limit: RateLimit) -> Bucket:
        """The bucket of ``key``; a full one where there is none."""
        bucket = self.held.get(key)
        if bucket is None:
            bucket = self.held[key] = Bucket.full(limit)
            if len(self.held) > MAX_BUCKETS:
                self.held.popitem(last=False)
        else:
            self.held.move_to_end(key)
        return bucket

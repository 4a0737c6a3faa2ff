"""How often a client, or a user, may send: ``rate_limit = "20/s"`` on a consumer."""

from __future__ import annotations

import functools
import re
from collections import OrderedDict
from collections.abc import Hashable
from typing import cast

import attrs
import trio

from ..exceptions import ImproperlyConfigured
from ..layers import Endpoint
from ..message import Message, application_of
from ..running import run_local

_RATE = re.compile(r"([0-9]{1,9})\s*/\s*([0-9]{0,9})\s*(?:(s)(?:ec)?|(m)(?:in)?|(h)(?:our)?)\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
MAX_USERS = 10_000
"""Users whose messages are counted at once: those that have been quiet for longest are forgotten first."""


@attrs.frozen
class RateLimit:
    """``count`` messages in ``seconds``, at once or one after the other."""

    count: int
    seconds: float


@functools.lru_cache(maxsize=256)
def parse_rate(text: object, place: str) -> RateLimit:
    """``"20/s"``, ``"100/m"``, ``"5/10s"``: so many messages in so much time (s or sec, m or min, h or hour).

    Raises:
        ImproperlyConfigured: it is none.
    """
    found = _RATE.match(text.strip()) if isinstance(text, str) else None
    if found is None or not int(found[1]) or not int(found[2] or 1):
        raise ImproperlyConfigured(f'{place} is a rate such as "20/s", "100/m" or "5/10s", not {text!r}')
    return RateLimit(int(found[1]), int(found[2] or 1) * _SECONDS[found[3] or found[4] or found[5]])


@attrs.define(eq=False)
class Bucket:
    """Holds ``count`` tokens, filled evenly; each message takes one. By Trio's clock."""

    _limit: RateLimit
    _tokens: float
    _at: float

    @classmethod
    def full(cls, limit: RateLimit) -> Bucket:
        return cls(limit, limit.count, trio.current_time())

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


@attrs.define(eq=False)
class _Buckets:
    """Those of a connection, by consumer class; or those of a Trio run, by application, class and user."""

    held: OrderedDict[Hashable, Bucket] = attrs.field(factory=OrderedDict)

    def take(self, key: Hashable, limit: RateLimit) -> bool:
        bucket = self.held.get(key)
        if bucket is None:
            bucket = self.held[key] = Bucket.full(limit)
            if len(self.held) > MAX_USERS:
                self.held.popitem(last=False)
        self.held.move_to_end(key)
        return bucket.take()


def exceeded_limit(kind: type, message: Message, rate: str | None, user_rate: str | None) -> str | None:
    """Count one message of a connection, and of its user; the limit that it is one too many for, None: of none.

    Args:
        kind: the consumer's class: each has a count of its own.
        rate, user_rate: as :func:`parse_rate` takes them; None: not limited.
    """
    if rate is not None:
        connection = cast("Endpoint | None", message.connection)
        local = run_local() if connection is None else connection.local
        if not local.of(_Buckets).take(kind, parse_rate(rate, "rate_limit")):
            return f"rate_limit {rate}"
    if user_rate is not None and getattr(message.user, "is_authenticated", False):
        application = application_of(message)
        key = (application, kind, application.id_of(message.user))
        if not run_local().of(_Buckets).take(key, parse_rate(user_rate, "user_rate_limit")):
            return f"user_rate_limit {user_rate}"
    return None

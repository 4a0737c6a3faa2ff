"""How often a client, or a user, may send: ``rate_limit = "20/s"`` on a consumer."""

from __future__ import annotations

import functools
import re
from typing import cast

from ..exceptions import ImproperlyConfigured
from ..layers import Endpoint
from ..layers.tokens import Buckets, RateLimit
from ..message import Message, application_of
from ..running import run_local

_RATE = re.compile(r"([0-9]{1,9})\s*/\s*([0-9]{0,9})\s*(?:(s)(?:ec)?|(m)(?:in)?|(h)(?:our)?)\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


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


def is_over_rate(kind: type, message: Message, rate: str) -> bool:
    """Count one message of a connection; True: it is one too many.

    Args:
        kind: the consumer's class: each has a count of its own.
        rate: as :func:`parse_rate` takes it.
    """
    connection = cast("Endpoint | None", message.connection)
    local = run_local() if connection is None else connection.local
    return not local.of(Buckets).of(kind, parse_rate(rate, "rate_limit")).take()


def token_of_user(kind: type, message: Message, rate: str) -> tuple[type, object, RateLimit] | None:
    """What :meth:`triochan.layers.ChannelLayer.take_token` takes for one message of a user; None: it is nobody's.

    Args:
        kind, rate: as in :func:`is_over_rate`.
    """
    user = message.user
    if not getattr(user, "is_authenticated", False):
        return None
    return kind, application_of(message).id_of(user), parse_rate(rate, "user_rate_limit")

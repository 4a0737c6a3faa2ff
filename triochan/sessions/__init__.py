"""Sessions: what is remembered of a browser, or of a connection (Channels 1: "Sessions and Users").

Two kinds, of one class. ``message.http_session`` is the browser's: it is found by a signed cookie, kept in a
:class:`SessionStore`, and outlives connections. ``message.channel_session`` is one connection's, and gone with it.
"""

from typing import TYPE_CHECKING

from ..porting import lookup
from ..session import Session
from .cookies import SessionCookies
from .decorators import channel_and_http_session, channel_session, http_session
from .memory import MemorySessionStore
from .ordering import enforce_ordering
from .redis import RedisSessionStore
from .service import Sessions
from .sqlite import SqliteSessionStore
from .store import SessionStore

__all__ = [
    "MemorySessionStore",
    "RedisSessionStore",
    "Session",
    "SessionCookies",
    "SessionStore",
    "Sessions",
    "SqliteSessionStore",
    "channel_and_http_session",
    "channel_session",
    "enforce_ordering",
    "http_session",
]

if not TYPE_CHECKING:
    __getattr__ = lookup(__name__)

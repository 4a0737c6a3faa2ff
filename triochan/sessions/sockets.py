"""WebSockets that live on a session of a browser: where it ends, or is over, they are closed.

A connection whose handshake's cookie has a session is in a group of that session's, in every process of the layer.
Whoever ends a session tells the group. That a session is over is told by nobody: a timer for each such connection asks
the store when that may be so. It asks too when messages to the group may have been missed.
"""

from __future__ import annotations

import hashlib
import logging
import random
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, runtime_checkable

import attrs

from ..exceptions import ConnectionClosed, LayerUnavailable
from ..layers import Group, running_layer
from ..log_lines import say
from ..message import Message
from ..running import Local
from ..session import Ended
from .store import SessionStore

logger = logging.getLogger("triochan.sessions")

ENDED_CODE = 3000
"""Closes the sockets of a session that was ended, or is over: "unauthorized"; triochan's browser client stays away."""
CYCLED_CODE = 1012
"""Closes the sockets of a session that goes on under a new key: the client comes back, with its new cookie."""
OVER = "the session is over"
_SOONEST_SECONDS = 0.01
_RETRY_SECONDS = 30.0
"""Between two looks where the store did not answer."""
_GAP_SECONDS = 5.0
"""Within this time after a gap each socket's session is looked for: not all of them in the same moment."""


def session_group(key: str) -> str:
    """The name of the group of all sockets that live on the session ``key``; the key is a secret, this is none."""
    return f"triochan.session.{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}"


async def close_sockets(key: str, how: Ended) -> None:
    """Close the sockets that live on the session ``key``, which is worth nothing from now on."""
    if running_layer() is None:
        return
    code = CYCLED_CODE if how is Ended.CYCLED else ENDED_CODE
    say(logger, logging.DEBUG, "%s: its sockets are closed with %d", how.value, code)
    try:
        await Group(session_group(key)).send({"close": code, "reason": how.value})
    except LayerUnavailable as error:
        logger.error("a session has ended, and its sockets in other processes were not told: %s", error)


async def join(message: Message, endpoint: object, key: str) -> None:
    """From now on the end of the session closes the WebSocket behind ``message``."""
    if isinstance(endpoint, _Socket):
        await Group(session_group(key)).add(message.reply_channel)


async def leave(message: Message, endpoint: object, key: str) -> None:
    """The end of the session is no end of this WebSocket."""
    if isinstance(endpoint, _Socket):
        await Group(session_group(key)).discard(message.reply_channel)
        watcher = endpoint.local.of(_Watches).by_key.pop(key, None)
        if watcher is not None:
            watcher.stop()


def watch(endpoint: object, key: str, store: SessionStore, age: float, seconds: float) -> None:
    """Close the connection when the session is over.

    Args:
        age: seconds that a session lives without a save, at most.
        seconds: until it may be over, at the soonest.
    """
    if isinstance(endpoint, _Socket):
        watches = endpoint.local.of(_Watches).by_key
        if key not in watches:
            watches[key] = watcher = _Watch(weakref.ref(endpoint), key, store, age)
            endpoint.local.at_end(watcher.stop)
            endpoint.local.at_gap(watcher.look_soon)
            watcher.wait(seconds)


@runtime_checkable
class _Socket(Protocol):
    """A live WebSocket, as far as the end of its session goes; an ``http.request`` is none."""

    @property
    def local(self) -> Local: ...

    def after(self, seconds: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Call it in ``seconds``; returns what calls that off."""

    def start_soon(self, function: Callable[..., Awaitable[object]], /, *args: Any) -> None: ...

    def close(self, code: int = 1000, reason: str = "") -> None: ...


@attrs.define(eq=False)
class _Watches:
    """A connection's, one for each session that it lives on."""

    by_key: dict[str, _Watch] = attrs.field(factory=dict)


@attrs.define(eq=False)
class _Watch:
    """Looks whether a session is over, when that may be so: what is saved puts it off, in whatever process."""

    socket: weakref.ref[Any]
    key: str
    store: SessionStore
    age: float
    _call_off: Callable[[], None] | None = None

    def wait(self, seconds: float) -> None:
        self.stop()
        socket: _Socket | None = self.socket()
        if socket is not None:
            self._call_off = socket.after(max(seconds, _SOONEST_SECONDS), self._due)

    def stop(self) -> None:
        call_off, self._call_off = self._call_off, None
        if call_off is not None:
            call_off()

    def look_soon(self) -> None:
        """That the session has ended may have been told while nobody heard it."""
        if self._call_off is not None:
            self.wait(random.uniform(0, _GAP_SECONDS))

    def _due(self) -> None:
        socket: _Socket | None = self.socket()
        if socket is not None:
            try:
                socket.start_soon(self._look)
            except ConnectionClosed:
                pass

    async def _look(self) -> None:
        try:
            left = await self.store.expires_in(self.key)
        except Exception as error:  # noqa: BLE001 - the store may be the program's own
            logger.error("it is not known whether the session of a socket is over: %s", error)
            left = min(_RETRY_SECONDS, self.age)
        socket: _Socket | None = self.socket()
        if socket is None or self._call_off is None:
            return
        if left is None:
            say(logger, logging.DEBUG, "the session of a socket is over; %d", ENDED_CODE)
            socket.close(ENDED_CODE, OVER)
        else:
            self.wait(min(left, self.age))

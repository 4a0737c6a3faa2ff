"""What one process is subscribed to, through one connection, and another one when that breaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, cast

import attrs
import trio

if TYPE_CHECKING:
    from coredis.connection import BaseConnection

_AT_ONCE = 500
"""Channels that are subscribed to by one command, after a break."""

Take = Callable[[bytes], None]
"""Is given each message of a channel; never waits, never raises."""


class Sends(Protocol):
    """A connection to the engine, as far as subscriptions need it."""

    def send_command(self, command: bytes, *args: str | bytes) -> None:
        """Queue a command whose answers are pushes; ConnectionError where it is gone."""


@attrs.define(eq=False)
class _Wanted:
    take: Take
    confirmed: trio.Event = attrs.field(factory=trio.Event)


class Subscriptions:
    """The set of channels that this process wants to hear, which outlives every connection.

    Commands on one connection are done in their order, and nothing here waits for one: the state that the engine comes
    to is the last one that was asked for.

    Attributes:
        received: pushes that have come.
    """

    def __init__(self) -> None:
        self.received = 0
        self._wanted: dict[bytes, _Wanted] = {}
        self._connection: Sends | None = None
        # Subscribe commands on this connection that the engine has not confirmed: the confirmation of a subscription
        # that was given up since says nothing of the one that has followed it.
        self._unconfirmed: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._wanted)

    def __contains__(self, channel: str) -> bool:
        return channel.encode() in self._wanted

    def want(self, channel: str, take: Take) -> None:
        """Subscribe to a channel; ``take`` gets what comes. Wanted already: nothing happens."""
        name = channel.encode()
        if name not in self._wanted:
            self._wanted[name] = _Wanted(take)
            self._subscribe([name])

    def drop(self, channel: str) -> None:
        """Unsubscribe; not subscribed: nothing happens."""
        name = channel.encode()
        wanted = self._wanted.pop(name, None)
        if wanted is not None:
            wanted.confirmed.set()
            self._send(b"UNSUBSCRIBE", [name])

    async def confirmed(self, channel: str) -> None:
        """Wait until the engine has confirmed the subscription, or that is dropped. No checkpoint where it has."""
        wanted = self._wanted.get(channel.encode())
        if wanted is not None and not wanted.confirmed.is_set():
            await wanted.confirmed.wait()

    # -- the connection

    def attach(self, connection: Sends) -> None:
        """Subscribe to everything on a new connection."""
        self._connection = connection
        self._unconfirmed.clear()
        names = list(self._wanted)
        for start in range(0, len(names), _AT_ONCE):
            self._subscribe(names[start : start + _AT_ONCE])

    async def restored(self) -> None:
        """Wait until the engine has confirmed all that is wanted now."""
        for wanted in list(self._wanted.values()):
            if not wanted.confirmed.is_set():
                await wanted.confirmed.wait()

    def detach(self) -> None:
        """The connection is gone; what is wanted is kept."""
        self._connection = None
        for wanted in self._wanted.values():
            if wanted.confirmed.is_set():
                wanted.confirmed = trio.Event()

    def take(self, push: list[Any]) -> None:
        """What the engine has pushed."""
        self.received += 1
        kind, name = push[0], push[1]
        if kind == b"message":
            wanted = self._wanted.get(name)
            if wanted is not None:
                wanted.take(push[2])
        elif kind == b"subscribe":
            self._unconfirmed[name] -= 1
            if self._unconfirmed[name] <= 0:
                del self._unconfirmed[name]
                wanted = self._wanted.get(name)
                if wanted is not None:
                    wanted.confirmed.set()

    def _subscribe(self, names: list[bytes]) -> None:
        if self._connection is not None:
            self._unconfirmed.update(names)
        self._send(b"SUBSCRIBE", names)

    def _send(self, command: bytes, names: list[bytes]) -> None:
        if self._connection is not None:
            import anyio
            from coredis.exceptions import ConnectionError as Lost

            try:
                self._connection.send_command(command, *names)
            except (Lost, anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass  # who reads from it finds that too, and all is subscribed to anew


class _Taker:
    """Stands where a connection of coredis' puts pushes, and hands each on in the step that has read it.

    In its place is a buffer without a bound, which a task of its own would have to be woken for.
    """

    def __init__(
        self, take: Callable[[list[Any]], None], failed: Callable[[Exception], None], buffer: Any
    ) -> None:
        self._take = take
        self._failed = failed
        self.statistics = buffer.statistics

    def send_nowait(self, push: list[Any]) -> None:
        try:
            self._take(push)
        except Exception as error:  # noqa: BLE001 - it is not the connection's
            self._failed(error)


def take_pushes(
    connection: BaseConnection, take: Callable[[list[Any]], None], failed: Callable[[Exception], None]
) -> None:
    """Have ``take`` called with what the engine pushes: what one read has brought in one step, without a checkpoint.

    So nothing piles up, and what several messages send to one socket leaves it in one write.

    Args:
        failed: is told what ``take`` raises.
    """
    taker: Any = _Taker(take, failed, connection._push_message_buffer_in)
    connection._push_message_buffer_in = taker
    # Bounds what is read and waits to be taken, by a turn of the loop for each read. Here nothing waits.
    connection._processing_budget = cast(Any, nullcontext())


async def read_refusals(connection: BaseConnection) -> None:
    """Raise what the engine answers to a command whose answers are pushes: an error, such as a missing permission."""
    async with aclosing(connection.streamed_messages) as answers:
        async for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

"""A doorbell: what tells this process that a named channel has something for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import trio

from .engine import Engine

if TYPE_CHECKING:
    from coredis.connection import BaseConnection

logger = logging.getLogger("triochan.layers")

_AGAIN = 0.1
_AGAIN_AT_MOST = 2.0
"""Seconds before a lost connection is made anew: at first, doubled each time, and at most."""


async def listen(
    engine: Engine, topic: str, take: Callable[[bytes], None], restored: Callable[[], None]
) -> NoReturn:
    """Hear what is published on ``topic``, through a connection of its own and another one when that breaks.

    Args:
        take: is given each message; never waits, never raises.
        restored: called when the topic is subscribed to: what was published before was missed.
    """
    pause = _AGAIN
    while True:
        try:
            async with engine.new_client() as client, client.connection_pool.acquire() as connection:
                connection.send_command(b"SUBSCRIBE", topic)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_keep_alive, connection, engine.timeout)
                    async for push in connection.push_messages:
                        if push[0] == b"message":
                            take(push[2])
                        elif push[0] == b"subscribe":
                            pause = _AGAIN
                            restored()
        except Exception as error:  # noqa: BLE001 - of all kinds, and in groups; what asks for an answer tells it
            logger.debug("the doorbell's connection was lost: %r", error)
        await trio.sleep(pause)
        pause = min(2 * pause, _AGAIN_AT_MOST)


async def _keep_alive(connection: BaseConnection, seconds: float) -> NoReturn:
    """Notice an engine that hangs: a connection that waits for pushes alone would wait for ever."""
    while True:
        await trio.sleep(seconds)
        await connection.create_request(b"PING")

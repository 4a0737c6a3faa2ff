"""Consumers of named channels: for each channel, the tasks that take its messages."""

from __future__ import annotations

import logging
from typing import Any

import trio

from .exceptions import LayerUnavailable
from .handlers import Barrier, call, report
from .layers import Channel
from .message import Message
from .routing import name_of
from .runtime import Runtime

logger = logging.getLogger("triochan.workers")

_RETRY = 1.0
"""Seconds before a layer that does not answer is asked again."""


class Workers:
    """The consumers of the named channels that a server takes from.

    Args:
        runtime: the server's.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._waits: set[trio.CancelScope] = set()
        self._stopping = False
        self._ended = trio.Event()
        self._names = sorted(runtime.channels)

    async def run(self) -> None:
        """Run consumers until :meth:`drain`."""
        runtime = self._runtime
        try:
            async with trio.open_nursery() as nursery:
                for name in self._names:
                    for _ in range(runtime.settings.worker_tasks):
                        nursery.start_soon(self._work, Channel(name, runtime.layer))
        finally:
            self._ended.set()

    async def drain(self) -> None:
        """Take no more messages, and wait until what was begun has ended; what is left is counted and logged."""
        self._stopping = True
        for scope in self._waits:
            scope.cancel()
        await self._ended.wait()
        for name in self._names:
            left = self._runtime.layer.waiting(name)
            if left:
                logger.warning("shutdown: %d messages on channel %s were not handled", left, name)

    async def _work(self, channel: Channel) -> None:
        while not self._stopping:
            content: dict[str, Any] | None = None
            with trio.CancelScope() as scope:
                self._waits.add(scope)
                try:
                    content = await self._runtime.layer.receive(channel.name)
                except LayerUnavailable as error:
                    logger.warning("channel %s: %s; trying again", channel.name, error)
                    await trio.sleep(_RETRY)
                finally:
                    self._waits.discard(scope)
            if content is not None:
                await self._handle(channel, content)

    async def _handle(self, channel: Channel, content: dict[str, Any]) -> None:
        """Run one message's consumer. What it raises is logged with the message, and goes no further."""
        runtime = self._runtime
        who = "triochan"

        def raised(error: Exception) -> None:
            report(
                logger,
                "%s raised while handling a message on channel %s: %.500r",
                who,
                channel.name,
                content,
                error=error,
            )

        with Barrier(raised):
            reply = content.get("reply_channel")
            reply_channel = runtime.layer.reply_channel(reply) if isinstance(reply, str) else None
            message = Message(content, channel, reply_channel)
            message.application = runtime.application
            who = "a route"
            match = runtime.router.match(message)
            if match is None:
                logger.error("no route takes this message on channel %s: %.500r", channel.name, content)
                return
            bound = runtime.bind(match, channel)
            who = name_of(bound.consumer)
            if bound.begin is not None:
                await call(bound.begin, message, bound.kwargs, runtime.settings.handler_timeout)

"""Consumers of named channels: for each channel, the tasks that take its messages."""

from __future__ import annotations

import logging

import trio

from .exceptions import LayerUnavailable
from .handlers import Barrier, call, cancelled, report
from .layers import Channel, Delivery
from .message import Message
from .routing import name_of
from .runtime import Runtime

logger = logging.getLogger("triochan.workers")

_RETRY = 0.25
_MAX_RETRY = 5.0
"""Seconds before a layer that does not answer is asked again: at first, doubled each time, and at most."""
_GIVE_BACK_SECONDS = 2.0
"""How long a shutdown waits for the layer to take a message back whose handler it has cut off."""
_COUNT_SECONDS = 1.0
"""How long a shutdown waits for the layer to count what is left."""


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
        self._durable = runtime.router.durable_channels

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
        """Take no more messages, and wait until what was begun has ended."""
        self._stopping = True
        for scope in self._waits:
            scope.cancel()
        await self._ended.wait()

    async def tell_left(self) -> None:
        """Count and log what is left, once all has ended or was cancelled. Shielded, for a second at most."""
        layer = self._runtime.layer
        if layer.outlives:
            return  # another process takes what is left
        name = ""
        with trio.move_on_after(_COUNT_SECONDS, shield=True) as scope:
            for name in self._names:
                try:
                    left = await layer.waiting(name)
                except LayerUnavailable as error:
                    logger.warning("shutdown: what waits on channel %s was not counted: %s", name, error)
                    continue
                if left:
                    logger.warning("shutdown: %d messages on channel %s were not handled", left, name)
        if scope.cancelled_caught:
            logger.warning(
                "shutdown: what waits on channel %s was not counted: the layer did not answer within %g s",
                ", ".join(self._names[self._names.index(name) :]),
                _COUNT_SECONDS,
            )

    async def _work(self, channel: Channel) -> None:
        layer = self._runtime.layer
        durable = channel.name in self._durable
        retry = _RETRY
        while not self._stopping:
            delivery: Delivery | None = None
            with trio.CancelScope() as scope:
                self._waits.add(scope)
                try:
                    delivery = await layer.receive(channel.name, durable=durable)
                    retry = _RETRY
                except LayerUnavailable as error:
                    logger.warning("channel %s: %s; trying again", channel.name, error)
                    await trio.sleep(retry)
                    retry = min(2 * retry, _MAX_RETRY)
                finally:
                    self._waits.discard(scope)
            if delivery is None:
                continue
            if durable:
                await self._handle_durably(channel, delivery)
            else:
                await self._handle(channel, delivery)

    async def _handle_durably(self, channel: Channel, delivery: Delivery) -> None:
        """The same, and tell the layer what came of it."""
        try:
            error = await self._handle(channel, delivery)
            try:
                if error:
                    await delivery.give_back(error)
                else:
                    await delivery.acknowledge()
            except LayerUnavailable as unavailable:  # it has the message still, and gives it to somebody
                logger.warning("channel %s: %s; a message may be handled again", channel.name, unavailable)
        except BaseException as raised:
            if not cancelled(raised):
                raise
            with trio.move_on_after(_GIVE_BACK_SECONDS, shield=True):
                try:
                    await delivery.give_back()  # noqa: ASYNC102 - bounded by the layer's own time-out as well
                except LayerUnavailable as unavailable:
                    logger.warning("channel %s: %s; a message waits for its lease", channel.name, unavailable)
            raise

    async def _handle(self, channel: Channel, delivery: Delivery) -> str:
        """Run one message's consumer. What it raises is logged with the message, and goes no further.

        Returns:
            What was wrong, in a line; empty: nothing.
        """
        runtime = self._runtime
        content = delivery.content
        who = "triochan"
        wrong = ""

        def raised(error: Exception) -> None:
            nonlocal wrong
            wrong = f"{who} raised {type(error).__name__}: {error}"
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
                return "no route takes this message"
            bound = runtime.bind(match, channel)
            who = name_of(bound.consumer)
            if bound.begin is not None:
                try:
                    await call(bound.begin, message, bound.kwargs, runtime.settings.handler_timeout)
                except BaseException as error:
                    if cancelled(error):
                        given_back = "; its message is given back" if channel.name in self._durable else ""
                        logger.warning(
                            "the shutdown cut off %s on channel %s%s", who, channel.name, given_back
                        )
                    raise
        return wrong

"""Consumers of named channels: for each channel, the tasks that take its messages."""

from __future__ import annotations

import logging
from typing import Any

import trio

from .exceptions import ConnectionClosed, LayerUnavailable
from .handlers import only, start
from .layers import Channel
from .message import Message
from .routing import name_of
from .runtime import Runtime

logger = logging.getLogger("triochan.workers")

_RETRY = 1.0
"""Seconds before a layer that does not answer is asked again."""
SOCKET_CHANNELS = frozenset(
    {"websocket.connect", "websocket.receive", "websocket.disconnect", "http.request"}
)
"""Channels whose messages go from the socket to the consumer, through the connection's own inbox."""


async def run_workers(runtime: Runtime) -> None:
    """Run the consumers of every named channel in the routing, until cancelled."""
    async with trio.open_nursery() as nursery:
        for name in sorted(runtime.router.channels - SOCKET_CHANNELS):
            for _ in range(runtime.settings.worker_tasks):
                nursery.start_soon(_work, runtime, Channel(name, runtime.layer))


async def _work(runtime: Runtime, channel: Channel) -> None:
    while True:
        try:
            content = await runtime.layer.receive(channel.name)
        except LayerUnavailable as error:
            logger.warning("channel %s: %s; trying again", channel.name, error)
            await trio.sleep(_RETRY)
            continue
        await _handle(runtime, channel, content)


async def _handle(runtime: Runtime, channel: Channel, content: dict[str, Any]) -> None:
    """Run one message's consumer. What it raises is logged with the message, and goes no further."""
    consumer: Any = None
    try:
        reply = content.get("reply_channel")
        reply_channel = runtime.layer.reply_channel(reply) if isinstance(reply, str) else None
        message = Message(content, channel, reply_channel)
        message.application = runtime.application
        match = runtime.router.match(message)
        if match is None:
            logger.error("no route takes this message on channel %s: %.500r", channel.name, content)
            return
        consumer, kwargs = match
        await start(consumer, message, kwargs, runtime.settings.handler_timeout)
    except Exception as error:
        if not only(error, ConnectionClosed):
            logger.error(
                "%s raised while handling a message on channel %s: %.500r",
                name_of(consumer) if consumer is not None else "triochan",
                channel.name,
                content,
                exc_info=error,
            )

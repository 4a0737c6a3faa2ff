"""A real server on a free port, for tests with clients that nobody here wrote."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from ..application import Application
from ..layers import ChannelLayer
from ..routing import Routing
from ..server import serve
from ..settings import Settings
from ..wire.listeners import Address


@asynccontextmanager
async def LiveServer(
    routing: Routing | Application,
    *,
    settings: Settings | None = None,
    layer: ChannelLayer | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[Address]:
    """Serve on 127.0.0.1 and a free port for as long as the block lasts; gives the address.

    Args:
        routing, settings, layer, ssl_context: as :func:`triochan.serve` takes them.
    """
    async with trio.open_nursery() as nursery:
        start = partial(
            serve, routing, host="127.0.0.1", port=0, settings=settings, layer=layer, ssl_context=ssl_context
        )
        addresses = await nursery.start(start)
        yield addresses[0]
        nursery.cancel_scope.cancel()

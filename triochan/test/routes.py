"""Consumers called with messages directly: no connection, only the routing and the layer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..application import Application
from ..routing import Routing
from .client import Client


@asynccontextmanager
async def apply_routes(routing: Routing | Application) -> AsyncIterator[Client]:
    """A client of ``routing``, for the block: ``async with apply_routes([route(…)]) as client``."""
    async with Client(routing) as client:
        yield client

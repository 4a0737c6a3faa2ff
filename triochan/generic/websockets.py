"""The consumers of WebSockets, under the names that Channels 1 has for them ("Generic Consumers", "WebSockets")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..porting import lookup
from .consumers import JsonWebsocketConsumer, WebsocketConsumer
from .multiplexing import WebsocketDemultiplexer, WebsocketMultiplexer

__all__ = ["JsonWebsocketConsumer", "WebsocketConsumer", "WebsocketDemultiplexer", "WebsocketMultiplexer"]

if not TYPE_CHECKING:
    __getattr__ = lookup(__name__)

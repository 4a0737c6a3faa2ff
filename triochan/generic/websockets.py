"""The consumers of WebSockets, under the names that Channels 1 has for them ("Generic Consumers", "WebSockets")."""

from __future__ import annotations

from .consumers import JsonWebsocketConsumer, WebsocketConsumer
from .multiplexing import WebsocketDemultiplexer, WebsocketMultiplexer

__all__ = ["JsonWebsocketConsumer", "WebsocketConsumer", "WebsocketDemultiplexer", "WebsocketMultiplexer"]

"""Clients for tests: in memory, through the very code that serves sockets, in virtual time where the test wants it."""

from typing import TYPE_CHECKING

from ..porting import lookup
from .client import Client, HttpClient, Response, TestWebsocket, WSClient
from .live import LiveServer
from .routes import apply_routes

__all__ = ["Client", "HttpClient", "LiveServer", "Response", "TestWebsocket", "WSClient", "apply_routes"]

if not TYPE_CHECKING:
    __getattr__ = lookup(__name__)

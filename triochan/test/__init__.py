"""Clients for tests: in memory, through the very code that serves sockets, in virtual time where the test wants it."""

from .client import Client, HttpClient, Response, TestWebsocket, WSClient
from .live import LiveServer
from .routes import apply_routes

__all__ = ["Client", "HttpClient", "LiveServer", "Response", "TestWebsocket", "WSClient", "apply_routes"]

"""Consumers, groups and channels over WebSockets and HTTP, on Trio."""

from typing import TYPE_CHECKING

from .application import Application
from .layers import Channel, Group
from .lifespan import every
from .message import Message
from .porting import explain_absent_modules, lookup
from .presence import Presence
from .routing import include, route, route_class
from .server import run, serve
from .settings import Settings
from .wire.inherited import systemd_sockets
from .wire.listeners import Address

__version__ = "0.1.0"

__all__ = [
    "Address",
    "Application",
    "Channel",
    "Group",
    "Message",
    "Presence",
    "Settings",
    "every",
    "include",
    "route",
    "route_class",
    "run",
    "serve",
    "systemd_sockets",
]

explain_absent_modules()

if not TYPE_CHECKING:
    __getattr__ = lookup(__name__)

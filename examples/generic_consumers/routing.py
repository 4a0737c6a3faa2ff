"""Routing to a class and to a function."""

from triochan import route, route_class

from . import consumers

channel_routing = [
    route_class(consumers.ChatServer, path=r"^/chat/"),
    route("websocket.connect", consumers.ws_connect, path=r"^/$"),
]

"""What programs written for Channels look for and do not find here, with what takes its place.

``docs/from-channels-1.md`` is the whole list. A name that is looked for in a module of the same name as one of
Channels', or a module, raises ImportError with the way; a plain AttributeError would lose it in ``from … import …``.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn

GUIDE = "docs/from-channels-1.md has the whole list"

_SERVER = "one process serves and works: python -m triochan app:routing, or triochan.serve in a Trio program"
_LAYER = "the layer is message.channel_layer, or serve(…, layer=…); Channel and Group find it by themselves"
_REQUEST = "an http.request consumer gets the request in its message (method, path, headers, body) and answers with triochan.http's text, html, json and redirect"  # noqa: E501
_CLIENT = "async with triochan.test.Client(routing) as client, client.websocket(path) as socket: send, receive and receive_json go through the code that serves sockets"  # noqa: E501
_SIGNALS = "there are no signals: what surrounds a handler is a decorator, or an override of dispatch(); what surrounds a server is the program that awaits triochan.serve"  # noqa: E501
_DELAY = "there is no delay server: await Channel(name).send(content, delay=seconds), or a task that sleeps first, self.connection.start_soon(fn) for as long as a socket lives"  # noqa: E501
_STATIC = "static files are a route: triochan.http.static_files"
_SESSION_OF_CONNECTION = "message.channel_session, in the decorator channel_session, is the connection's session; it is gone with it"  # noqa: E501
_ROUTING = "a routing is a list of route(), route_class() and include()"
_ATTRIBUTES = "sessions and users are decorators and class attributes: http_user = True, or channel_session_user_from_http"  # noqa: E501
_CLOSE_OR_DENY = "answer it, or raise DenyConnection or WebsocketCloseException"
_GONE_CLIENT = "sends to a client that is gone raise triochan.exceptions.ConnectionClosed, and its consumer is cancelled after disconnect_timeout: try … finally"  # noqa: E501
_ORIGIN = "triochan.security.allowed_hosts_only, and Application(allowed_hosts=…, allowed_origins=…)"

_LIVES_IN: Mapping[str, str] = {
    **dict.fromkeys(("Channel", "Group", "Message", "include", "route", "route_class"), "triochan"),
    "BaseConsumer": "triochan.generic",
    **dict.fromkeys(
        ("JsonWebsocketConsumer", "WebsocketConsumer", "WebsocketDemultiplexer", "WebsocketMultiplexer"),
        "triochan.generic.websockets",
    ),
    **dict.fromkeys(
        ("channel_and_http_session", "channel_session", "enforce_ordering", "http_session"),
        "triochan.sessions",
    ),
    **dict.fromkeys(
        (
            "AnonymousUser", "channel_and_http_session_user_from_http", "channel_session_user",
            "channel_session_user_from_http", "http_session_user", "login", "logout", "transfer_user",
        ),
        "triochan.auth",
    ),
    "allowed_hosts_only": "triochan.security",
    "method_decorator": "triochan.decorators",
    "Binding": "triochan.binding",
    **dict.fromkeys(("WebsocketBinding", "WebsocketBindingWithMembers"), "triochan.binding.websockets"),
    **dict.fromkeys(("HttpClient", "WSClient", "apply_routes"), "triochan.test"),
    **dict.fromkeys(
        (
            "ChannelFull", "ChannelSocketException", "ConnectionClosed", "DenyConnection", "ImproperlyConfigured",
            "SendNotAvailableOnDemultiplexer", "WebsocketCloseException",
        ),
        "triochan.exceptions",
    ),
}  # fmt: skip

_ABSENT: Mapping[str, str] = {
    # Channels 1
    "AsgiHandler": _REQUEST,
    "AsgiRequest": _REQUEST,
    "BaseOriginValidator": _ORIGIN,
    "AllowedHostsOnlyOriginValidator": _ORIGIN,
    "ChannelLayerManager": _LAYER,
    "ChannelLiveServerTestCase": "triochan.test.LiveServer serves a routing on a port of its own",
    "ChannelTestCase": _CLIENT,
    "ConsumeLater": "order is kept by strict_ordering, slight_ordering or enforce_ordering; to put a message of a named channel off, await message.channel.send(message.content, delay=seconds)",  # noqa: E501
    "DEFAULT_CHANNEL_LAYER": _LAYER,
    "Include": f"{_ROUTING}, in small letters",
    "MessageTooLarge": "Settings.max_message_size bounds what clients send; a message on a named channel has no bound of its own",  # noqa: E501
    "PendingMessageStore": "sends leave at once",
    "RequestAborted": "a body is read whole before its consumer is called",
    "RequestTimeout": "a body is read whole before its consumer is called; Settings bound the time that it may take",
    "ResponseLater": "a consumer may return without an answer, and another one send it to message.reply_channel, within Settings.response_timeout",  # noqa: E501
    "Route": f"{_ROUTING}, in small letters",
    "RouteClass": f"{_ROUTING}, in small letters",
    "TransactionChannelTestCase": _CLIENT,
    "ViewConsumer": _REQUEST,
    "Worker": _SERVER,
    "WorkerGroup": _SERVER,
    "channel_layers": _LAYER,
    "connect_consumer": "a handshake that connect does not refuse is accepted",
    "consumer_finished": _SIGNALS,
    "consumer_started": _SIGNALS,
    "null_consumer": "a channel without a route needs no consumer",
    "pending_message_store": "sends leave at once",
    "requeue_messages": "a connection keeps the order of its messages itself: strict_ordering, or enforce_ordering",
    "session_for_reply_channel": _SESSION_OF_CONNECTION,
    "wait_channel_name": "a connection keeps the order of its messages itself: strict_ordering, or enforce_ordering",
    "worker_process_ready": _SIGNALS,
    "worker_ready": _SIGNALS,
    # Channels 2 and later
    "AcceptConnection": _CLOSE_OR_DENY,
    "AsyncConsumer": "it is triochan.generic.BaseConsumer",
    "AsyncHttpConsumer": _REQUEST,
    "AsyncJsonWebsocketConsumer": "it is triochan.generic.websockets.JsonWebsocketConsumer",
    "AsyncWebsocketConsumer": "it is triochan.generic.websockets.WebsocketConsumer",
    "AuthMiddleware": _ATTRIBUTES,
    "AuthMiddlewareStack": _ATTRIBUTES,
    "CookieMiddleware": _ATTRIBUTES,
    "InMemoryChannelLayer": "it is triochan.layers.MemoryLayer",
    "ProtocolTypeRouter": f"{_ROUTING}; the channel's name says the protocol",
    "SessionMiddleware": _ATTRIBUTES,
    "SessionMiddlewareStack": _ATTRIBUTES,
    "StopConsumer": "an instance is made for each message, and a connection ends by itself",
    "SyncConsumer": "it is triochan.generic.BaseConsumer, with await trio.to_thread.run_sync(…) for what blocks",
    "URLRouter": f"{_ROUTING}; path=… is the filter on a URL",
    "ChannelNameRouter": f"{_ROUTING}; the channel's name says who takes a message",
    "WebsocketCommunicator": _CLIENT,
    "database_sync_to_async": "what blocks runs in a thread: await trio.to_thread.run_sync(…)",
    "get_channel_layer": _LAYER,
    "get_default_application": _SERVER,
    "get_user": "message.user, in a decorator of triochan.auth or with http_user = True",
}

_ABSENT_MODULES: Mapping[str, str] = {
    "apps": _SERVER,
    "asgi": _LAYER,
    "consumer": "it is triochan.generic.BaseConsumer",
    "db": "what blocks runs in a thread: await trio.to_thread.run_sync(…)",
    "delay": _DELAY,
    "generic.http": _REQUEST,
    "generic.websocket": "it is triochan.generic.websockets",
    "handler": _REQUEST,
    "log": "loggers are called triochan.…, one for each room",
    "management": _SERVER,
    "security.websocket": _ORIGIN,
    "signals": _SIGNALS,
    "staticfiles": _STATIC,
    "test.base": "triochan.test has Client, HttpClient, WSClient and apply_routes",
    "test.http": "triochan.test has HttpClient",
    "test.liveserver": "triochan.test has LiveServer",
    "test.websocket": "triochan.test has WSClient",
    "testing": _CLIENT,
    "tests": "triochan.test has Client, HttpClient, WSClient and apply_routes",
    "worker": _SERVER,
}

ABSENT_CHANNELS: Mapping[str, str] = {
    "http.disconnect": _GONE_CLIENT,
    "asgi.delay": _DELAY,
}
"""Channels of Channels 1 on which nothing comes, and that nothing reads; with what takes their place."""

LAYER_ATTRIBUTES: Mapping[str, str] = {
    "alias": "there are no aliases; serve(…, layer=…) says which layer it is",
    "flush": "a layer is empty when it is made",
    "group_channels": "await Group(name).members()",
    "new_channel": "a connection's channel is message.reply_channel, its task's own channel a trio.open_memory_channel",
    "receive_many": "await layer.receive(name) waits for the next message of a named channel",
    "router": "the routing's is message.application.router",
    "send_group": "await layer.group_send(name, content), or Group(name).send(content)",
}

ROUTER_ATTRIBUTES: Mapping[str, str] = {
    "add_route": "a routing is checked and bound as a whole; add the route to the list that it is made of",
    "check_default": "what has no route is refused (403, 404); add a route for it",
}

CLIENT_ATTRIBUTES: Mapping[str, str] = {
    **dict.fromkeys(("consume", "send_and_consume", "get_consumer_by_channel"), _CLIENT),
    "force_login": "log in over HTTP, through the program's own consumer; the client keeps the cookie",
    "get_next_message": "await layer.receive(name), within the client, is the next message of a named channel",
    "join_group": "a consumer's groups = […], or await Group(name).add(channel)",
    "login": "log in over HTTP, through the program's own consumer; the client keeps the cookie",
    "set_cookie": "client.cookies[name] = value",
    "set_header": "headers=… of Client, of WSClient, and of each request and websocket",
}


def lookup(module: str) -> Callable[[str], NoReturn]:
    """A ``__getattr__`` for ``module``: what Channels' programs look for in it, and is elsewhere or not at all."""

    def look_up(name: str) -> NoReturn:
        home = _LIVES_IN.get(name)
        if home is not None and home != module:
            raise ImportError(f"{module} has no {name!r}: from {home} import {name}", name=module)
        # Of `from triochan import delay` the import system passes the absent module over.
        way = _ABSENT.get(name) or _ABSENT_MODULES.get(f"{module}.{name}".partition(".")[2])
        if way is not None:
            raise ImportError(f"{name!r} of Channels is not in triochan: {way}. {GUIDE}", name=module)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return look_up


def attribute_lookup(ways: Mapping[str, str]) -> Callable[[object, str], NoReturn]:
    """A ``__getattr__`` for a class: what Channels' programs look for in it, and what takes its place."""

    def look_up(self: object, name: str) -> NoReturn:
        kind = type(self).__name__
        if name in ways:
            raise AttributeError(f"{name!r} of Channels is not in {kind}: {ways[name]}. {GUIDE}")
        raise AttributeError(f"{kind!r} object has no attribute {name!r}")

    return look_up


class _AbsentModules(importlib.abc.MetaPathFinder):
    """Asked last for a module: says what takes the place of one of Channels'."""

    def find_spec(
        self, fullname: str, path: object, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        package, _, module = fullname.partition(".")
        if package == "triochan" and module in _ABSENT_MODULES:
            raise ModuleNotFoundError(
                f"the module {module!r} of Channels is not in triochan: {_ABSENT_MODULES[module]}. {GUIDE}",
                name=fullname,
            )
        return None


def explain_absent_modules() -> None:
    """Let ``import triochan.delay`` and the like say what to use; again is no error."""
    if not any(isinstance(finder, _AbsentModules) for finder in sys.meta_path):
        sys.meta_path.append(_AbsentModules())

"""What was probably meant: found when a routing is built, said with the place and the name."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from triochan import Application, Message, include, route, route_class
from triochan.exceptions import ImproperlyConfigured, RoutingWarning
from triochan.generic import BaseConsumer
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer, WebsocketDemultiplexer
from triochan.routing import Router


async def handle(message: Message, **kwargs: Any) -> None:
    pass


def consumer(base: type, **attributes: Any) -> Any:
    return type("Made", (base,), {"__module__": __name__, **attributes})


async def receive(self: Any, *args: Any, **kwargs: Any) -> None:
    pass


@pytest.mark.parametrize("base", [WebsocketConsumer, JsonWebsocketConsumer, WebsocketDemultiplexer])
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("recieve", "receive"),
        ("recive", "receive"),
        ("receive_json", "receive"),
        ("on_message", "receive"),
        ("disconect", "disconnect"),
        ("conect", "connect"),
        ("on_connect", "connect"),
        ("websocket_disconnect", "disconnect"),
    ],
)
def test_a_method_that_is_almost_a_handler(base: type, name: str, meant: str) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=rf"Made\.{name} is called by nobody; did you mean '{meant}'\?"
    ):
        route_class(consumer(base, **{name: receive}))


def test_it_may_stand_beside_the_handler() -> None:
    route_class(consumer(WebsocketConsumer, receive=receive, received=receive, on_message=receive))


def test_a_method_of_a_method_mapping() -> None:
    mapping = {"jobs": "take_job"}
    route_class(consumer(BaseConsumer, method_mapping=mapping, take_job=receive, take_jobs=receive))


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("strict_order", True, "strict_ordering"),
        ("slight_order", True, "slight_ordering"),
        ("http_users", True, "http_user"),
        ("group", ["room"], "groups"),
        ("max_overlaps", 3, "max_overlap"),
        ("channel_sessions", True, "channel_session"),
    ],
)
def test_an_attribute_that_is_almost_an_option(name: str, value: Any, meant: str) -> None:
    with pytest.warns(RoutingWarning, match=rf"Made\.{name} is no option; did you mean '{meant}'\?"):
        route_class(consumer(WebsocketConsumer, **{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("group", "one name"),
        ("paths", ["/"]),
        ("_http_users", True),
        ("title", "x"),
        ("State", object),
        ("user", 1),
    ],
)
def test_attributes_of_the_programs_own(name: str, value: Any) -> None:
    route_class(consumer(WebsocketConsumer, **{name: value}))


@pytest.mark.parametrize("groups", ["chat", b"chat"])
@pytest.mark.parametrize("base", [WebsocketConsumer, JsonWebsocketConsumer])
def test_groups_are_a_list(base: type, groups: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"groups is a list of names"):
        route_class(consumer(base, groups=groups))


@pytest.mark.parametrize(
    ("channel", "says"),
    [
        ("http.requset", r"http\.requset.*did you mean 'http\.request'\?"),
        ("websocket.recieve", r"did you mean 'websocket\.receive'\?"),
        (
            "websocket.message",
            r"nothing is sent on 'websocket\.message'; the server's are websocket\.connect, ",
        ),
    ],
)
def test_a_channel_that_nothing_is_sent_on(channel: str, says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=says):
        route(channel, handle)


def test_a_channel_that_is_almost_the_servers() -> None:
    with pytest.warns(
        RoutingWarning, match=r"did you mean 'websocket\.connect', not 'websockets\.connect'\?"
    ):
        route("websockets.connect", handle)
    route("jobs", handle)


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("/rooms/{room}", r"\{room\} matches itself; write \(\?P<room>"),
        ("^/rooms/<str:room>/$", r"<str:room> matches itself; write \(\?P<room>"),
        ("^/rooms/<room>/$", r"<room> matches itself"),
    ],
)
def test_a_filter_in_another_language(pattern: str, meant: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=meant):
        route("http.request", handle, path=pattern)


@pytest.mark.parametrize(
    "pattern", [r"^/a{2}$", r"^/(?P<room>[a-z]{1,3})$", r"^/\{room\}$", r"^/(?P<x>a)(?P=x)$"]
)
def test_regular_expressions_are_left_alone(pattern: str) -> None:
    route("http.request", handle, path=pattern)


def test_a_key_that_is_not_there() -> None:
    with pytest.warns(
        RoutingWarning, match=r"on http\.request have no 'paht', so it never matches; did you mean 'path'"
    ):
        route("http.request", handle, paht="^/$")
    with pytest.warns(RoutingWarning, match="headers is a list, which no filter matches"):
        route("http.request", handle, headers="gzip")
    with pytest.warns(RoutingWarning, match=r"websocket\.connect have no 'methods'|have no 'methods'"):
        route(["http.request", "websocket.connect"], handle, methods="GET")
    route("jobs", handle, paht="^/$")
    route("http.request", handle, flavour="x")  # like nothing: somebody's own


def test_a_path_begins_with_a_slash() -> None:
    with pytest.warns(RoutingWarning, match=r"path='\^chat/' never matches; write '\^/chat/'"):
        Router([route("http.request", handle, path="^chat/")])
    with pytest.warns(RoutingWarning, match=r"path='chat/\$' never matches"):
        Router([include([route("http.request", handle, path="chat/$")])])
    Router([include([route("http.request", handle, path="^chat/$")], path="^/")])


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({}, {"path": "^/$"}),
        ({"path": "^/$"}, {"path": "^/$"}),
        ({"path": "^/$"}, {"path": "^/$", "method": "GET"}),
        ({"path": "^/chat/"}, {"path": "^/chat/(?P<room>.*)$"}),
        ({"path": "/chat"}, {"path": "^/chat/$"}),
    ],
)
def test_a_route_that_is_never_asked(earlier: dict[str, str], later: dict[str, str]) -> None:
    with pytest.warns(
        RoutingWarning, match=r"handle is never asked: http\.request .*stands before it and takes all of it"
    ):
        Application([route("http.request", handle, **earlier), route("http.request", handle, **later)])


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"path": "^/chat/$"}, {"path": "^/chat/more/$"}),
        ({"path": "^/chat/$"}, {"path": "^/$"}),
        ({"path": "^/$", "method": "GET"}, {"path": "^/$"}),
        ({"path": "^/cha"}, {"path": "^/cha?"}),
        ({"path": "^/a.c"}, {"path": "^/a.cd"}),
    ],
)
def test_routes_that_may_be_asked(earlier: dict[str, str], later: dict[str, str]) -> None:
    Application([route("http.request", handle, **earlier), route("http.request", handle, **later)])


def test_other_channels_are_no_shadow() -> None:
    Application(
        [route("http.request", handle), route("jobs", handle), route(["jobs", "http.request"], handle)]
    )


def test_a_route_of_ones_own_is_not_looked_at() -> None:
    class Mine(route):
        def match(self, message: Message, *, partly: bool = False) -> Any:
            return None

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Application([Mine("http.request", handle), route("http.request", handle, path="^/$")])

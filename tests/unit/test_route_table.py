"""A routing as a table."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triochan import Message, include, route, route_class
from triochan.auth import channel_session_user_from_http, http_session_user
from triochan.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer, WebsocketDemultiplexer
from triochan.route_table import Row, as_json, render, rows
from triochan.routing import Router
from triochan.sessions import enforce_ordering, http_session


async def plain(message: Message, **kwargs: Any) -> None: ...


@http_session_user
@http_session
async def mine(message: Message) -> None: ...


@enforce_ordering(slight=True)
@channel_session_user_from_http
async def ordered(message: Message) -> None: ...


class Room(WebsocketConsumer):
    strict_ordering = True
    http_user = True
    rate_limit = "20/s"
    max_overlap = 2
    compression = False


class Stream(JsonWebsocketConsumer):
    slight_ordering = True
    outbox_limit = 1000


class Streams(WebsocketDemultiplexer):
    consumers = {"posts": Stream}
    mapping = {"stats": "internal.stats"}


class Custom:
    def match(self, message: Message) -> None: ...

    def channel_names(self) -> set[str]:
        return {"http.request"}


INNER = [
    route_class(Streams, path=r"^/posts$"),
    route("http.request", partial(plain, x=1), method="^GET$"),
    include([route("http.request", mine, path="^/deep$")], path="^/more"),
]
ROUTING: list[Any] = [
    route_class(Room, path=r"^/room/$"),
    include(INNER, path=r"^/blog"),
    route(["http.request", "internal.stats"], plain),
    route("websocket.receive", ordered),
    Custom(),
]
HERE = __name__


def test_rows() -> None:
    room, streams, some, deep, both, receive, custom = rows(Router(ROUTING))
    assert set(room.channels) == {"websocket.connect", "websocket.receive", "websocket.disconnect"}
    assert room.filters == {"path": "^/room/$"}
    assert room.consumer == f"{HERE}:Room"
    assert (room.ordering, room.sessions) == ("strict", ["http_user"])
    assert room.limits == {"rate_limit": "20/s", "max_overlap": 2, "compression": False}
    assert streams.filters == {"path": "^/blog/posts$"}
    assert streams.ordering == "slight"  # its most demanding stream's
    assert [(each.stream, each.consumer) for each in streams.streams] == [
        ("posts", f"{HERE}:Stream"),
        ("stats", "channel internal.stats"),
    ]
    assert streams.streams[0].limits == {"outbox_limit": 1000}
    assert some.filters == {"path": "^/blog", "method": "^GET$"}
    assert some.consumer == f"partial({HERE}:plain)"
    assert deep.filters == {"path": "^/blog/more/deep$"}
    assert deep.sessions == ["http_session_user", "http_session"]
    assert (both.channels, both.ordering) == (["http.request", "internal.stats"], "")
    assert (receive.ordering, receive.sessions) == ("slight", ["channel_session_user_from_http"])
    assert custom == Row(["http.request"], {}, f"decided by {HERE}:Custom")


def test_a_line_for_each_where_there_is_room() -> None:
    lines = render(rows(Router(ROUTING)), None)
    assert len(lines) == 1 + 7 + 2
    assert lines[0].split() == ["CHANNEL", "FILTER", "CONSUMER", "ORDER", "LIMITS", "SESSION"]
    assert lines[1].split() == [
        "websocket.*", "path=^/room/$", f"{HERE}:Room", "strict",
        "rate_limit=20/s", "max_overlap=2", "compression=False", "http_user",
    ]  # fmt: skip
    assert lines[3].startswith("  stream posts  ")
    assert lines[4].split() == ["stream", "stats", "channel", "internal.stats"]
    assert not any(line.endswith(" ") for line in lines)


def test_columns_that_say_nothing_are_left_out() -> None:
    lines = render(rows(Router([route("http.request", plain)])), None, colors=True)
    assert lines == ["\x1b[1mCHANNEL       CONSUMER\x1b[0m", f"http.request  {HERE}:plain"]
    assert render([], 80) == ["no routes"]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_it_fits_the_terminal_and_loses_nothing(width: int) -> None:
    found = rows(Router(ROUTING))
    lines = render(found, width)
    assert max(map(len, lines)) <= width
    wide = "".join("".join(render(found, None)).split())
    assert sorted("".join("".join(lines).split())) == sorted(wide)


@given(
    st.lists(st.builds(Row, st.lists(st.text(max_size=9)), consumer=st.text()), max_size=4),
    st.integers(1, 200),
)
def test_whatever_the_names_are_a_line_is_a_line(found: list[Row], width: int) -> None:
    for line in render(found, width):
        assert line.isprintable()


def test_json() -> None:
    found = json.loads(as_json(rows(Router(ROUTING))))
    assert found[0]["filters"] == {"path": "^/room/$"}
    assert found[1]["streams"][1]["consumer"] == "channel internal.stats"
    assert json.loads(as_json([])) == []

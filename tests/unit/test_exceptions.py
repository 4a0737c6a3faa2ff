"""The exception tree: one root, named by who acted, and messages that say what to do."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest

from triochan import exceptions
from triochan.content import InvalidJSON
from triochan.exceptions import (
    ChannelFull,
    ConnectionClosed,
    DenyConnection,
    HttpError,
    ImproperlyConfigured,
    NobodyListens,
    TriochanError,
)

ALL = [
    each
    for _, each in inspect.getmembers(exceptions, inspect.isclass)
    if issubclass(each, Exception) and not issubclass(each, Warning)
]


def test_everything_is_in_one_tree() -> None:
    assert {"ImproperlyConfigured", "ConnectionClosed", "DenyConnection", "ChannelFull", "LayerUnavailable",
            "SendNotAvailableOnDemultiplexer"} <= {each.__name__ for each in ALL}  # fmt: skip
    assert all(issubclass(each, TriochanError) for each in [*ALL, InvalidJSON])
    assert issubclass(TriochanError, Exception)


def test_every_one_says_when_it_is_raised() -> None:
    assert all(each.__doc__ and len(each.__doc__) > 30 for each in ALL)


def test_connection_closed_tells_code_and_reason() -> None:
    assert str(ConnectionClosed(1001, "going away")) == "the connection is closed (code 1001: going away)"
    assert str(ConnectionClosed(1000)) == "the connection is closed (code 1000)"
    plain = ConnectionClosed()
    assert (plain.code, plain.reason) == (1006, "")


def test_channel_full_names_the_channel_the_capacity_and_the_way_out() -> None:
    full = ChannelFull("jobs", 100)
    assert (full.channel, full.capacity) == ("jobs", 100)
    for word in ("'jobs'", "100 messages", "channel_capacity"):
        assert word in str(full)


def test_one_that_is_full_by_bytes_names_these() -> None:
    full = ChannelFull("jobs", 100, 16 * 1024**2)
    assert (full.channel, full.capacity, full.size) == ("jobs", 100, 16 * 1024**2)
    for word in ("'jobs'", "16,777,216 bytes", "Settings.channel_bytes"):
        assert word in str(full)
    assert ChannelFull("jobs", 100).size is None


@pytest.mark.parametrize(
    "error",
    [
        ConnectionClosed(1001, "bye"),
        ChannelFull("a", 5),
        ChannelFull("a", 5, 10),
        ChannelFull("a", 5, None, 2),
        NobodyListens("wrok", "work"),
        HttpError(404, "gone", [("X", "y")]),
        DenyConnection(),
        ImproperlyConfigured("why"),
    ],
)
def test_they_survive_pickling(error: TriochanError) -> None:
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is type(error)
    assert vars(copied) == vars(error)
    assert str(copied) == str(error)


def test_http_errors_say_their_status() -> None:
    assert str(HttpError(404)) == "404 Not Found"
    assert HttpError(404).text == "Not Found"
    assert str(HttpError(418, "short and stout")) == "418 short and stout"


@pytest.mark.parametrize("status", [200, 399, 600, True, "404", None])
def test_what_is_no_error_s_status(status: Any) -> None:
    with pytest.raises(ValueError, match="an HttpError's status is from 400 to 599"):
        HttpError(status)


@pytest.mark.parametrize(
    ("text", "headers", "says"),
    [
        (b"x", (), "text is a string, not b'x'"),
        ("\ud800", (), "text has a lone surrogate"),
        ("x", [("A", "b\r\nSet-Cookie: c=d")], "header A can't have the value"),
        ("x", ["AB"], "a header is a pair"),
        ("x", {"a b": "c"}, "is not a token"),
    ],
)
def test_an_http_error_that_can_t_be_sent_can_t_be_made(text: Any, headers: Any, says: str) -> None:
    """It would fail where it is answered, far from the one who made it."""
    with pytest.raises(ValueError, match=says):
        HttpError(400, text, headers)
    assert HttpError(400, headers={"A": "b"}).headers == [("A", "b")]

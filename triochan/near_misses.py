"""What was probably meant: misspelt methods, attributes, channels and filters, found when a routing is built."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from .exceptions import ImproperlyConfigured, RoutingWarning

SOCKET_CHANNELS: Mapping[str, frozenset[str]] = {
    "websocket.connect": frozenset({"path", "query_string", "scheme", "order"}),
    "websocket.receive": frozenset({"path", "order", "text", "bytes"}),
    "websocket.disconnect": frozenset({"path", "order", "code", "reason"}),
    "http.request": frozenset({"method", "path", "query_string", "body", "scheme"}),
}
"""The server's own channels, and the keys of their messages that a filter can match: text, bytes and numbers."""

_LISTS = frozenset({"headers", "subprotocols", "client", "server"})
_ALIASES: Mapping[str, str] = {
    "on_connect": "connect", "on_open": "connect", "websocket_connect": "connect", "accept": "connect",
    "on_receive": "receive", "on_message": "receive", "receive_json": "receive", "websocket_receive": "receive",
    "on_disconnect": "disconnect", "on_close": "disconnect", "websocket_disconnect": "disconnect",
}  # fmt: skip
"""What other frameworks call a handler."""
_BRACES = re.compile(r"(?<!\\)\{([A-Za-z_]\w*)\}")
_ANGLES = re.compile(r"(?<!\?P)<(?:[a-z]+:)?([A-Za-z_]\w*)>")
_LITERAL = re.compile(r"\^?[\w/\-]*\Z")


def closest(name: str, names: Iterable[str], *, likeness: float = 0.8) -> str | None:
    """The one of ``names`` that ``name`` was probably meant to be; None where none is like it."""
    found = difflib.get_close_matches(name, list(names), 1, likeness)
    return found[0] if found else None


def warn(text: str) -> None:
    """Say that something in a routing is probably not meant so."""
    warnings.warn(text, RoutingWarning, stacklevel=4)


def check_channel(name: str, place: str) -> None:
    """A route's channel: names that begin as the server's own do are no others.

    Raises:
        ImproperlyConfigured: one that the server does not send on.
    """
    if name in SOCKET_CHANNELS or name in ("http.disconnect", "websocket.keepalive"):
        return
    meant = closest(name, SOCKET_CHANNELS)
    if name.startswith(("websocket.", "http.")):
        raise ImproperlyConfigured(
            f"{place}: nothing is sent on {name!r}; "
            + (f"did you mean {meant!r}?" if meant else f"the server's are {', '.join(SOCKET_CHANNELS)}")
        )
    if meant is not None:
        warn(f"{place}: did you mean {meant!r}, not {name!r}?")


def check_filter(channels: Iterable[str], key: str, pattern: str, place: str) -> None:
    """A route's filter: a key that its messages have, and a regular expression that looks like one.

    Raises:
        ImproperlyConfigured: a pattern in another framework's language.
    """
    foreign = _BRACES.search(pattern) or _ANGLES.search(pattern)
    if foreign is not None:
        raise ImproperlyConfigured(
            f"{place}: the filter {key}={pattern!r} is a regular expression, in which {foreign[0]} matches itself; "
            f"write (?P<{foreign[1]}>[^/]+)"
        )
    named = [name for name in channels if name in SOCKET_CHANNELS]
    if not named or any(key in SOCKET_CHANNELS[name] for name in named):
        return
    if key in _LISTS:
        warn(f"{place}: {key} is a list, which no filter matches; look at it in the consumer")
        return
    keys = frozenset().union(*(SOCKET_CHANNELS[name] for name in named))
    meant = closest(key, keys, likeness=0.7)
    if meant is not None:
        warn(
            f"{place}: messages on {', '.join(named)} have no {key!r}, so it never matches; did you mean {meant!r}?"
        )


def check_path(pattern: str, place: str) -> None:
    """The filter on ``path`` of a route that no include stands around: a path begins with a slash."""
    first = pattern.removeprefix("^")[:1]
    if first.isalnum():
        warn(
            f"{place}: a path begins with '/', so path={pattern!r} never matches; write {'^/' + pattern.lstrip('^')!r}"
        )


def shadows(earlier: Mapping[str, re.Pattern[str]], later: Mapping[str, re.Pattern[str]]) -> bool:
    """Whatever ``later`` matches, ``earlier`` does, as far as their texts show."""
    return all(
        key in later and _includes(pattern.pattern, later[key].pattern) for key, pattern in earlier.items()
    )


def _includes(earlier: str, later: str) -> bool:
    if earlier == later:
        return True
    earlier, later = earlier.removeprefix("^"), later.removeprefix("^")
    return (
        _LITERAL.match(earlier) is not None
        and later.startswith(earlier)
        and not later[len(earlier) :].startswith(("?", "*", "{"))
    )


def check_class(consumer: type, handlers: Iterable[str], place: str) -> None:
    """A consumer class: methods and attributes that are almost a handler's or an option's.

    Args:
        handlers: the methods that a program overrides.

    Raises:
        ImproperlyConfigured: a method that is probably a handler, which is not overridden.
    """
    handlers = tuple(handlers)
    own: dict[str, Any] = {}
    library: set[str] = set()
    for base in reversed(consumer.__mro__):
        # A class made by exec, or by hand, may be of no module.
        if str(base.__module__).partition(".")[0] == __name__.partition(".")[0]:
            library.update(vars(base))
        elif base is not object:
            own.update(vars(base))
    options = {
        name: value
        for name in library
        if not name.startswith("_")
        and not callable(value := getattr(consumer, name))
        and not isinstance(value, property)
    }
    for name, value in own.items():
        if name in library or name.startswith("_"):
            continue
        if callable(value) and not isinstance(value, type):
            meant = _ALIASES.get(name) or closest(name, handlers)
            if meant in handlers and meant not in own:
                raise ImproperlyConfigured(
                    f"{place}: {consumer.__qualname__}.{name} is called by nobody; did you mean {meant!r}?"
                )
        elif (meant := closest(name, options)) is not None and _alike(value, options[meant]):
            warn(f"{place}: {consumer.__qualname__}.{name} is no option; did you mean {meant!r}?")


def _alike(value: object, default: object) -> bool:
    """``value`` is of a kind that an option with this default takes."""
    if default is None:
        return True
    if isinstance(default, (tuple, list)):
        return isinstance(value, (tuple, list, set))
    return isinstance(value, type(default))

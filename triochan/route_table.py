"""A routing as a table: what ``triochan routes`` prints."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import attrs

from .generic.base import DECORATING
from .generic.websockets import WebsocketConsumer
from .routing import Router, include, is_own, name_of, route
from .sessions.wrapping import PREPARED_BY

LIMITS = (
    "rate_limit",
    "user_rate_limit",
    "max_overlap",
    "overflow",
    "outbox_limit",
    "compression",
    "cancel_on_disconnect",
)
"""Attributes of a consumer that stand in place of the server's settings."""
_SOCKET = WebsocketConsumer.method_mapping.keys()
_NARROWEST = 6
"""Characters of a column that has to give way."""


@attrs.frozen
class Row:
    """One route, or one stream of a demultiplexer.

    Attributes:
        channels: names of channels; of a stream, none.
        filters: regular expressions by message key, with what the includes around have in front.
        consumer: ``module:name``; of a stream that goes to a named channel, that one's name.
        ordering: ``strict``, ``slight`` or ``none``; empty where there is no WebSocket.
        limits: the consumer's own, by name.
        sessions: the attributes or decorators that give it a session or a user.
        stream: its name; None: it is a route.
        streams: of a demultiplexer.
    """

    channels: Sequence[str] = ()
    filters: Mapping[str, str] = attrs.field(factory=dict)
    consumer: str = ""
    ordering: str = ""
    limits: Mapping[str, object] = attrs.field(factory=dict)
    sessions: Sequence[str] = ()
    stream: str | None = None
    streams: Sequence[Row] = ()


def rows(router: Router) -> list[Row]:
    """The routes of a routing in the order in which they are asked, those of includes in their place."""
    return list(_rows(router.root, {}))


def _rows(within: include, prefixes: Mapping[str, str]) -> Iterator[Row]:
    for entry in within.routing:
        if not is_own(entry):
            yield Row(sorted(entry.channel_names()), prefixes, f"decided by {_reference(type(entry))}")
        elif isinstance(entry, include):
            yield from _rows(
                entry, _joined(prefixes, {key: each.pattern for key, each in entry.prefixes.items()})
            )
        elif isinstance(entry, route):
            filters = _joined(prefixes, {key: each.pattern for key, each in entry.filters.items()})
            yield _row(entry.consumer, sorted(entry.channels), filters)


def _joined(prefixes: Mapping[str, str], filters: Mapping[str, str]) -> dict[str, str]:
    """Filters behind prefixes, which take away what they match."""
    joined = {**prefixes, **filters}
    for key in prefixes.keys() & filters.keys():
        joined[key] = prefixes[key] + filters[key].removeprefix("^")
    return joined


def _row(consumer: object, channels: Sequence[str], filters: Mapping[str, str]) -> Row:
    websocket = bool(_SOCKET & set(channels))
    to_channels: Mapping[str, str] = getattr(consumer, "mapping", {})
    to_consumers: Mapping[str, object] = getattr(consumer, "consumers", {})
    streams = [
        *(attrs.evolve(_row(each, (), {}), stream=stream) for stream, each in to_consumers.items()),
        *(Row(stream=stream, consumer=f"channel {name}") for stream, name in to_channels.items()),
    ]
    return Row(
        channels,
        filters,
        _reference(consumer),
        _ordering(consumer) if websocket else "",
        _limits(consumer),
        _sessions(consumer),
        streams=streams,
    )


def _limits(consumer: object) -> dict[str, object]:
    said = {name: getattr(consumer, name, None) for name in LIMITS}
    if not said["cancel_on_disconnect"]:
        del said["cancel_on_disconnect"]
    return {name: value for name, value in said.items() if value is not None}


def _ordering(consumer: object) -> str:
    for kind in ("strict", "slight"):
        if getattr(consumer, f"{kind}_ordering", False):
            return kind
    return "none"


def _sessions(consumer: object) -> Sequence[str]:
    if isinstance(consumer, type):
        # Each implies those below it.
        return [name for name in DECORATING if getattr(consumer, name, False)][:1]
    return list(getattr(consumer, PREPARED_BY, ()))


def _reference(thing: object) -> str:
    """``module:qualified name``."""
    if isinstance(thing, partial):
        return f"partial({_reference(thing.func)})"
    name = getattr(thing, "__qualname__", None)
    return name_of(thing) if name is None else f"{getattr(thing, '__module__', '?')}:{name}"


# -- for people


def render(found: Sequence[Row], width: int | None, *, colors: bool = False) -> list[str]:
    """The table's lines; columns without anything in them are left out.

    Args:
        width: of a line, in characters; cells that are longer are wrapped. None: a line for each row.
        colors: the heading is bold.
    """
    if not found:
        return ["no routes"]
    cells: list[tuple[str, ...]] = [("CHANNEL", "FILTER", "CONSUMER", "ORDER", "LIMITS", "SESSION")]
    for row in found:
        cells.append(_cells(row))
        cells.extend(_cells(stream) for stream in row.streams)
    columns = [column for column in zip(*cells, strict=True) if any(column[1:])]
    widths = _fitted([max(map(len, column)) for column in columns], width)
    lines: list[str] = []
    for number, line in enumerate(zip(*columns, strict=True)):
        wrapped = [_wrapped(cell, room) for cell, room in zip(line, widths, strict=True)]
        for index in range(max(map(len, wrapped))):
            parts = [each[index] if index < len(each) else "" for each in wrapped]
            text = "  ".join(f"{part:{room}}" for part, room in zip(parts, widths, strict=True)).rstrip()
            lines.append(f"\x1b[1m{text}\x1b[0m" if colors and not number else text)
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    if row.stream is not None:
        channel = f"  stream {row.stream}"
    elif set(row.channels) == _SOCKET:
        channel = "websocket.*"
    else:
        channel = ", ".join(row.channels)
    filters = " ".join(f"{key}={pattern}" for key, pattern in row.filters.items())
    limits = " ".join(f"{name}={value}" for name, value in row.limits.items())
    said = (channel, filters, row.consumer, row.ordering, limits, " ".join(row.sessions))
    return tuple(cell if cell.isprintable() else ascii(cell)[1:-1] for cell in said)


def _fitted(widths: list[int], width: int | None) -> list[int]:
    """The widest columns give way, until a line has ``width`` characters, or none can any more."""
    while width is not None and sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _wrapped(cell: str, room: int) -> list[str]:
    indent = " " * (len(cell) - len(cell.lstrip()))
    lines = textwrap.wrap(
        cell.strip(), room, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    return lines or [""]


# -- for programs


def as_json(found: Sequence[Row]) -> str:
    """The rows as a JSON array of objects with the attributes of :class:`Row`."""
    return json.dumps([attrs.asdict(row) for row in found], indent=2, default=str)

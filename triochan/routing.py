"""Which consumer takes which message: ``route``, ``route_class``, ``include`` and the router over them.

As in Channels 1 ("Routing"): filters are regular expressions anchored at the start only, all of them
must match, named groups become keyword arguments, the first match wins.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from . import near_misses
from .exceptions import ImproperlyConfigured
from .message import Message, check_name
from .porting import ABSENT_CHANNELS, ROUTER_ATTRIBUTES, attribute_lookup, lookup

Consumer: TypeAlias = Callable[..., Any]
Routed: TypeAlias = Callable[..., Awaitable[object]] | type[object]
"""A consumer as it is given to a route: an ``async def`` of a message, or a consumer class."""
Match: TypeAlias = tuple[Consumer, dict[str, Any]]
LAYER_GAP = "websocket.layer_gap"
"""The channel of the message that a consumer class's ``layer_gap`` gets, where it has one."""
Routing: TypeAlias = "str | Mapping[str, Routed | str] | Iterable[Routable]"


class Routable(Protocol):
    """Anything that may stand in a routing."""

    def match(self, message: Message) -> Match | None:
        """The consumer for ``message`` and its keyword arguments; None where it is not for this route."""

    def channel_names(self) -> set[str]:
        """The channels that this route listens on; the same for as long as the process runs."""


class route(Routable):
    """One consumer on one or more channels.

    Args:
        channels: a channel name, or several.
        consumer: an ``async def`` taking the message and the filters' named groups, a consumer class,
            or the dotted name of either.
        filters: regular expressions by message key, e.g. ``path=r"^/chat/(?P<room>[a-z]+)/$"``.

    Raises:
        ValueError: a filter with a positional group, or one that is not a regular expression.
        ImproperlyConfigured: a dotted name that leads nowhere, a handler that is not ``async def``, or a channel of
            Channels' on which nothing comes here.
    """

    def __init__(self, channels: str | Iterable[str], consumer: Routed | str, **filters: str) -> None:
        names = [channels] if isinstance(channels, str) else list(channels)
        self.channels = frozenset(check_name("channel", name) for name in names)
        self.consumer: Consumer = import_dotted(consumer) if isinstance(consumer, str) else consumer
        self.filters = {key: _compile(key, pattern) for key, pattern in filters.items()}
        for name in sorted(self.channels & ABSENT_CHANNELS.keys()):
            raise ImproperlyConfigured(f"{self}: nothing comes on channel {name!r}: {ABSENT_CHANNELS[name]}")
        for name in self.channels:
            near_misses.check_channel(name, str(self))
        for key, pattern in filters.items():
            near_misses.check_filter(self.channels, key, pattern, str(self))
        check_consumer(self.consumer, str(self))

    def match(self, message: Message, *, partly: bool = False) -> Match | None:
        """Consumer and arguments; with ``partly``, a filter on a key that the message lacks is passed over."""
        if message.channel.name not in self.channels:
            return None
        arguments: dict[str, Any] = {}
        for key, pattern in self.filters.items():
            found = _search(pattern, message, key)
            if found is not None:
                arguments.update(found.groupdict())
            elif not (partly and key not in message):
                return None
        return self.consumer, arguments

    def channel_names(self) -> set[str]:
        """The channels that the route was made for."""
        return set(self.channels)

    def __str__(self) -> str:
        filters = " ".join(f"{key}={pattern.pattern}" for key, pattern in self.filters.items())
        return (
            f"{', '.join(sorted(self.channels))} {filters + ' ' if filters else ''}→ {name_of(self.consumer)}"
        )


class route_class(route):
    """One class-based consumer, on the channels that its ``channel_names()`` says.

    Raises:
        ValueError: a filter with a positional group.
        ImproperlyConfigured: not a consumer class, or a ``method_mapping`` to a method that is not
            there or not ``async def``.
    """

    def __init__(self, consumer: Routed | str, **filters: str) -> None:
        resolved: Any = import_dotted(consumer) if isinstance(consumer, str) else consumer
        if not callable(getattr(resolved, "channel_names", None)):
            raise ImproperlyConfigured(
                f"route_class takes a consumer class with channel_names(), not {name_of(resolved)}; "
                "a function goes with route(channel, function)"
            )
        super().__init__(resolved.channel_names(), resolved, **filters)


class include(Routable):
    """Another routing, behind prefixes that are stripped before it is asked.

    Args:
        routing: a list of routes, a mapping of channel to consumer, or the dotted name of either.
        prefixes: regular expressions by message key, e.g. ``path=r"^/liveblog"``.

    Raises:
        ValueError: a prefix with a positional group.
        ImproperlyConfigured: a dotted name that leads nowhere, or something in it that is not a route.
    """

    def __init__(self, routing: Routing, **prefixes: str) -> None:
        self.routing = resolve_routing(routing)
        self.prefixes = {key: _compile(key, pattern) for key, pattern in prefixes.items()}

    def match(
        self, message: Message, *, partly: bool = False, opening: Mapping[str, Any] | None = None
    ) -> Match | None:
        """The first match of its routes, which see the message without what the prefixes matched.

        Args:
            partly: as in :meth:`route.match`.
            opening: the content of ``websocket.connect``, where the message is a later one of that connection. Routes
                that are not of this module's making see it below the message's own.

        Raises:
            ImproperlyConfigured: such a route gave something that is no match. What it raises goes through.
        """
        arguments: dict[str, Any] = {}
        if self.prefixes:
            stripped = self.strip(message)
            if stripped is None:
                return None
            message, arguments = stripped
        for entry in self.routing:
            found_route: Match | None
            if not is_own(entry):
                found_route = _match_custom(entry, message, opening)
            elif isinstance(entry, include):
                found_route = entry.match(message, partly=partly, opening=opening)
            else:
                found_route = entry.match(message, partly=partly)  # type: ignore[call-arg]
            if found_route is not None:
                consumer, own = found_route
                return consumer, {**arguments, **own}
        return None

    def strip(self, message: Message) -> tuple[Message, dict[str, Any]] | None:
        """``message`` without what the prefixes match, and their named groups; None where one does not match."""
        content, arguments = dict(message.own), {}
        for key, pattern in self.prefixes.items():
            found = _search(pattern, message, key)
            if found is None:
                return None
            arguments.update(found.groupdict())
            content[key] = found.string[found.end() :]
        return Message(content, message.channel, message.reply_channel, message.connection), arguments

    def channel_names(self) -> set[str]:
        """The channels of all its routes."""
        return set().union(*map(_channels_of, self.routing))

    def __str__(self) -> str:
        prefixes = " ".join(f"{key}={pattern.pattern}" for key, pattern in self.prefixes.items())
        return f"{prefixes or 'include'} → {len(self.routing)} routes"


class Router:
    """A routing, checked and ready to match.

    Args:
        routing: as :class:`include` takes it.

    Attributes:
        routing: that one.
    """

    def __init__(self, routing: Routing) -> None:
        self.routing = routing
        self.root = include(routing)
        self.channels = frozenset(self.root.channel_names())
        _check_order(self.root, top=True)
        self._keys = {name: self._keys_of(self.root, name) for name in self.channels}

    if not TYPE_CHECKING:
        __getattr__ = attribute_lookup(ROUTER_ATTRIBUTES)

    def match(
        self, message: Message, *, partly: bool = False, opening: Mapping[str, Any] | None = None
    ) -> Match | None:
        """The first match, None where there is none; see :meth:`include.match` for the arguments."""
        return self.root.match(message, partly=partly, opening=opening)

    def keys_matched(self, channel: str) -> frozenset[str] | None:
        """The message keys that decide where a message on ``channel`` goes; None where a route may ask anything.

        A connection whose messages agree in all of them is matched once.
        """
        return self._keys.get(channel, frozenset())

    def _keys_of(self, entry: Any, channel: str) -> frozenset[str] | None:
        if channel not in entry.channel_names():
            return frozenset()
        if not is_own(entry):
            return None
        if isinstance(entry, route):
            return frozenset(entry.filters)
        keys = set(entry.prefixes)
        for each in entry.routing:
            more = self._keys_of(each, channel)
            if more is None:
                return None
            keys |= more
        return frozenset(keys)

    def consumers(self) -> Iterator[Consumer]:
        """Every consumer in the routing; those of routes that are not of this module's making are not known."""
        entries: list[Any] = [self.root]
        while entries:
            entry = entries.pop()
            if isinstance(entry, include):
                entries.extend(entry.routing)
            elif isinstance(entry, route):
                yield entry.consumer

    def explain(self, message: Message) -> list[str]:
        """Why no route takes ``message``: a line for each one that listens on its channel."""
        return _explain(self.root, message, "")

    def describe(self) -> list[str]:
        """The routes, a line each, includes unfolded."""
        return _describe(self.root, "")


def _check_order(entry: include, *, top: bool) -> None:
    """Warn of routes that are never asked, because an earlier one takes all that they would."""
    seen: list[route] = []
    for each in entry.routing:
        if isinstance(each, include) and is_own(each):
            _check_order(each, top=top and not each.prefixes)
        elif isinstance(each, route) and is_own(each):
            if top and "path" in each.filters:
                near_misses.check_path(each.filters["path"].pattern, str(each))
            for earlier in seen:
                if each.channels <= earlier.channels and near_misses.shadows(earlier.filters, each.filters):
                    near_misses.warn(f"{each} is never asked: {earlier} stands before it and takes all of it")
                    break
            seen.append(each)


def _explain(entry: include, message: Message, prefix: str) -> list[str]:
    lines = []
    for each in entry.routing:
        if message.channel.name not in each.channel_names():
            continue
        what = f"{prefix}{each}"
        filters = {} if not is_own(each) else each.filters if isinstance(each, route) else each.prefixes  # type: ignore[attr-defined]
        failed = [key for key, pattern in filters.items() if _search(pattern, message, key) is None]
        if failed:
            said = [f"{key} is {message.get(key)!r:.100}" for key in failed]
            lines.append(f"{what}: {', '.join(said)}")
        elif isinstance(each, include) and is_own(each):
            stripped = each.strip(message)
            assert stripped is not None
            lines.extend(_explain(each, stripped[0], f"{what}: "))
        else:
            lines.append(f"{what}: it says no")
    return lines


def is_own(entry: Any) -> bool:
    """A route or an include that matches as it is written here."""
    return (
        isinstance(entry, (route, include))
        and type(entry).match in (route.match, include.match)
        and "match" not in vars(entry)
    )


def _channels_of(entry: Routable) -> set[str]:
    names: Any = entry.channel_names()
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise ImproperlyConfigured(
            f"{_name_of_route(entry)}.channel_names() gives a set of names, not {names!r:.100}"
        )
    return {check_name("channel", name) for name in names}


def _match_custom(entry: Routable, message: Message, opening: Mapping[str, Any] | None) -> Match | None:
    """What a route of the program's own says of ``message``."""
    if message.channel.name not in entry.channel_names():
        return None
    if opening is not None:
        content = {**opening, **message.own}
        message = Message(content, message.channel, message.reply_channel, message.connection)
    return _check_match(entry, entry.match(message))


def _check_match(entry: Any, found: Any) -> Match | None:
    """What a route of the program's own gave, where it can be used.

    Raises:
        ImproperlyConfigured: it can't.
    """
    if found is None:
        return None
    if inspect.iscoroutine(found):
        found.close()
        raise ImproperlyConfigured(
            f"{_name_of_route(entry)}.match is 'async def'; it has to be a plain 'def'"
        )
    if not isinstance(found, tuple) or len(found) != 2:
        raise ImproperlyConfigured(
            f"{_name_of_route(entry)}.match gives (consumer, keyword arguments), or None, not {found!r:.200}"
        )
    consumer, kwargs = found
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise ImproperlyConfigured(
            f"{_name_of_route(entry)}.match gives a dict of keyword arguments, strings for keys, not {kwargs!r:.200}"
        )
    check_consumer(consumer, f"what {_name_of_route(entry)}.match gives")
    return consumer, dict(kwargs)


def _name_of_route(entry: Any) -> str:
    return name_of(entry if hasattr(entry, "__qualname__") else type(entry))


def _describe(entry: Any, indent: str) -> list[str]:
    lines = []
    for each in entry.routing:
        lines.append(f"{indent}{each}")
        if isinstance(each, include):
            lines.extend(_describe(each, indent + "  "))
    return lines


def resolve_routing(routing: Routing) -> list[Routable]:
    """``routing`` as a list of routes: imported where it is a name, made of routes where it is a mapping.

    Raises:
        ImproperlyConfigured: it is none of these, or holds something without ``match`` and ``channel_names``.
    """
    origin = ""
    if isinstance(routing, str):
        origin = f" {routing!r}"
        routing = import_dotted(routing)
    if isinstance(routing, Mapping):
        return [route(channel, consumer) for channel, consumer in routing.items()]
    if isinstance(routing, (bytes, str)) or not isinstance(routing, Iterable):
        raise ImproperlyConfigured(
            f"a routing is a list of route(), route_class() and include(), not {name_of(routing)}"
            + (f" (found at{origin})" if origin else "")
        )
    entries = list(routing)
    for index, entry in enumerate(entries):
        if isinstance(entry, type) or not (
            callable(getattr(entry, "match", None)) and callable(getattr(entry, "channel_names", None))
        ):
            raise ImproperlyConfigured(
                f"entry {index} of the routing{origin} is {name_of(entry)}, which is no route; "
                "write route(channel, function), route_class(Consumer) or include(routing)"
            )
    return entries


def import_dotted(name: str) -> Any:
    """The object at ``package.module.attribute`` (``package.module:attribute`` is taken too).

    Raises:
        ImproperlyConfigured: no such module or attribute. What the module itself raises goes through.
    """
    module_name, _, attribute = name.replace(":", ".").rpartition(".")
    if not module_name or not attribute or module_name.startswith("."):
        raise ImproperlyConfigured(f"{name!r} is no dotted name; write it as package.module.attribute")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise ImproperlyConfigured(f"cannot import {name!r}: there is no module {error.name!r}") from None
        raise
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise ImproperlyConfigured(
            f"cannot import {name!r}: module {module_name!r} has no {attribute!r}"
        ) from None


def check_consumer(consumer: Any, place: str) -> None:
    """Find at definition what would fail on the first message.

    Raises:
        ImproperlyConfigured: a handler that is not ``async def``, or one that does not exist.
    """
    mapping = getattr(consumer, "method_mapping", None)
    if isinstance(consumer, type) and isinstance(mapping, Mapping):
        for channel, method_name in mapping.items():
            method = getattr(consumer, method_name, None)
            if method is None:
                raise ImproperlyConfigured(
                    f"{place}: method_mapping sends {channel!r} to {method_name!r}, "
                    f"but {name_of(consumer)} has no such method"
                )
            _check_async(method, f"{place}: {name_of(consumer)}.{method_name}")
        for method_name in getattr(consumer, "handler_names", ()):
            _check_async(getattr(consumer, method_name), f"{place}: {name_of(consumer)}.{method_name}")
        if hasattr(consumer, "layer_gap"):
            _check_async(consumer.layer_gap, f"{place}: {name_of(consumer)}.layer_gap")
        handlers = getattr(consumer, "handler_names", None) or mapping.values()
        near_misses.check_class(consumer, handlers, place)
        check_definition = getattr(consumer, "check_definition", None)
        if check_definition is not None:
            check_definition()
    elif isinstance(consumer, type):
        raise ImproperlyConfigured(f"{place}: {name_of(consumer)} is a class without a method_mapping")
    else:
        _check_async(consumer, f"{place}: {name_of(consumer)}")


def _check_async(function: Any, place: str) -> None:
    if not callable(function):
        raise ImproperlyConfigured(
            f"{place} is not callable; a consumer is an 'async def' or a consumer class"
        )
    inner = function.func if isinstance(function, partial) else function
    if inspect.isasyncgenfunction(inspect.unwrap(inner)):
        raise ImproperlyConfigured(
            f"{place} is not 'async def' alone: its 'yield' makes a generator of it; write await self.send(...) instead"
        )
    if not is_async(function):
        raise ImproperlyConfigured(f"{place} is not 'async def'; triochan awaits every handler")


def is_async(function: Any) -> bool:
    """``function`` is an ``async def``, decorated or in a partial, or an object whose ``__call__`` is one."""
    inner = function.func if isinstance(function, partial) else function
    return any(
        inspect.iscoroutinefunction(each)
        for each in (inner, inspect.unwrap(inner), getattr(type(inner), "__call__", None))  # noqa: B004
    )


def name_of(thing: Any) -> str:
    """``module.name`` of a function, class or method; a short repr of anything else."""
    if isinstance(thing, partial):
        return f"partial({name_of(thing.func)})"
    name = getattr(thing, "__qualname__", None)
    if name is None:
        return f"{type(thing).__name__} {thing!r:.60}"
    return f"{getattr(thing, '__module__', '?')}.{name}"


def _compile(key: str, pattern: str) -> re.Pattern[str]:
    if not isinstance(pattern, str):
        raise ValueError(f"the filter on {key!r} is a regular expression as a string, not {pattern!r}")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"the filter {key}={pattern!r} is no regular expression: {error}") from None
    if compiled.groups != len(compiled.groupindex):
        raise ValueError(
            f"the filter {key}={pattern!r} has a positional group; name it, (?P<name>…), or make it (?:…)"
        )
    return compiled


def _search(pattern: re.Pattern[str], message: Message, key: str) -> re.Match[str] | None:
    value = message.get(key)
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    elif isinstance(value, int):
        value = str(value)
    return pattern.match(value) if isinstance(value, str) else None


if not TYPE_CHECKING:
    __getattr__ = lookup(__name__)

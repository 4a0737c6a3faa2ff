"""The options of the command line, most of them made from the fields of :class:`triochan.Settings`."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import NoneType
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import attrs
import trio

from . import __version__
from .application import DEFAULT_SESSION_FILE
from .certificates import PASSWORD_VARIABLE
from .exceptions import ImproperlyConfigured
from .near_misses import closest
from .sessions.cookies import SECRET_VARIABLE
from .settings import Settings

DESCRIPTION = "Serves a routing over WebSockets and HTTP, until Ctrl-C, SIGTERM or SIGHUP."

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

signals:
  SIGTERM, SIGINT (Ctrl-C) and SIGHUP (the terminal has gone) shut it down in order: what was received is answered,
  sockets are closed with 1001. A second SIGTERM or SIGINT cuts that short. A SIGHUP that is ignored at the start, as
  nohup does it, stays ignored.

exit status: 0 after a shutdown, 1 where that cut something off or the server broke, 2 where it could not be served,
3 where the application's lifespan raised at the start, 130 where it was interrupted before it served.
"""

SECTIONS = {
    "max_head_size": "HTTP limits",
    "handshake_timeout": "WebSocket limits",
    "inbox_limit": "handlers",
    "outbox_limit": "sending",
    "channel_capacity": "named channels",
    "drain_spread": "shutdown",
}
"""The heading that stands before a field of Settings in --help; the next fields go under it too."""

LEVELS = ("debug", "info", "warning", "error", "critical")
_UNITS = {"": 1, "b": 1, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(b|kib|mib|gib)?\Z", re.IGNORECASE)


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings that the options say."""
    return Settings(**{each.name: getattr(options, each.name) for each in attrs.fields(Settings)})


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in two lines, without the usage of thirty options."""

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split()
        for each in unknown:
            known = [option for action in self._actions for option in action.option_strings]
            meant = closest(each.partition("=")[0], known, likeness=0.6)
            if each.startswith("-") and meant:
                message += f"; did you mean {meant}?"
                break
        self.exit(2, f"{self.prog}: error: {message}\nTry '{self.prog} --help'.\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        # Nobody reads it: the exit status says it too. The argparse of early Pythons 3.11 lets the error out.
        with contextlib.suppress(OSError):
            super()._print_message(message, file)

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        options = super().parse_args(*args, **kwargs)
        if options.uds is not None and (options.host, options.port) != (None, None):
            self.error("--uds takes the place of --host and --port; give one or the other")
        if options.uds_mode is not None and options.uds is None:
            self.error("--uds-mode goes with --uds; give the socket's path too")
        if options.ssl_keyfile is not None and options.ssl_certfile is None:
            self.error("--ssl-keyfile goes with --ssl-certfile; give the certificate too")
        options.host = "127.0.0.1" if options.host is None else options.host
        options.port = 8000 if options.port is None else options.port
        return options


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line: it ends the process with status 2 where an option is wrong."""
    parser = _Parser(
        prog="triochan",
        usage="%(prog)s [options] module:name",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=partial(
            argparse.RawDescriptionHelpFormatter, max_help_position=32, width=_help_width()
        ),
        allow_abbrev=False,
        add_help=False,
    )
    what = parser.add_argument_group("what to serve")
    what.add_argument(
        "app",
        metavar="module:name",
        help="a list of routes, a mapping of channel to consumer, or an Application, and the module that it is in",
    )
    what.add_argument(
        "--factory",
        action="store_true",
        help="the name is of a function that takes nothing and returns one of these",
    )
    what.add_argument(
        "--app-dir",
        metavar="DIR",
        default=".",
        help="look for the module here first (default: the current folder)",
    )
    where = parser.add_argument_group("where to listen")
    where.add_argument(
        "--host",
        type=_host,
        help="address or name to listen on; :: for every interface, 0.0.0.0 for every one by IPv4 alone "
        "(default: 127.0.0.1)",
    )
    where.add_argument(
        "--port", type=_port, help="port; 0 picks one that is free and prints it (default: 8000)"
    )
    where.add_argument(
        "--uds",
        metavar="PATH",
        type=_path,
        help="listen on this Unix socket instead; its file goes with the server",
    )
    where.add_argument(
        "--uds-mode",
        metavar="MODE",
        type=_mode,
        help="the permissions of its file, in octal: 660 for its owner and group (default: what the umask leaves)",
    )
    where.add_argument("--ssl-certfile", metavar="FILE", help="serve TLS with this certificate chain (PEM)")
    where.add_argument(
        "--ssl-keyfile",
        metavar="FILE",
        help="and this private key, where it is not in the same file; the password of one that is encrypted is taken "
        f"from the environment variable {PASSWORD_VARIABLE}, or asked for at the terminal",
    )
    front = parser.add_argument_group("behind a proxy")
    front.add_argument(
        "--forwarded-allow-ips",
        metavar="LIST",
        type=_list,
        default=(),
        help="believe what these proxies say of their clients (Forwarded; X-Forwarded-For, -Proto, -Host): addresses "
        "and networks, unix, or *, with commas between them (default: none)",
    )
    front.add_argument(
        "--proxy-protocol",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="each connection begins with a header of the PROXY protocol, version 1 or 2 (default: no)",
    )
    front.add_argument(
        "--root-path",
        metavar="PATH",
        default="",
        help="the path below which a proxy serves this, such as /chat; consumers see paths without it (default: none)",
    )
    front.add_argument(
        "--health-path",
        metavar="PATH",
        help="say here whether the server takes requests: 200, or 503 during a shutdown (default: nowhere)",
    )
    front.add_argument(
        "--allowed-host",
        metavar="NAME",
        action="append",
        help="answer requests under this name alone, example.com, or .example.com for all below it too; again for more "
        "(default: under any)",
    )
    front.add_argument(
        "--allowed-origin",
        metavar="ORIGIN",
        action="append",
        help="let pages of this origin open WebSockets with sessions, https://example.com, null, file://; again for "
        "more (default: the server's own pages)",
    )
    sessions = parser.add_argument_group("sessions")
    sessions.add_argument(
        "--session-file",
        metavar="FILE",
        help="keep the sessions of a bare routing here; an Application says itself where its sessions are "
        f"(default: {DEFAULT_SESSION_FILE}, made with the first session)",
    )
    sessions.add_argument(
        "--secret",
        metavar="SECRET",
        action="append",
        help=f"sign session cookies with it; again for older ones that still hold. Others may see it in the list of "
        f"processes: the environment variable {SECRET_VARIABLE} says it too, with commas between several "
        "(default: a random one, which logs everybody out with each start)",
    )
    other = parser.add_argument_group("other")
    other.add_argument(
        "--log-level",
        type=_level,
        metavar="LEVEL",
        help=f"log this and worse on stderr: {', '.join(LEVELS)} (default: info)",
    )
    other.add_argument(
        "--log-format",
        choices=("text", "json"),
        metavar="text|json",
        help="lines for people, or JSON objects (default: text)",
    )
    other.add_argument(
        "--log-config",
        metavar="FILE",
        help="log as this file says: TOML or JSON for logging.config.dictConfig, or an INI file",
    )
    other.add_argument(
        "--access-log",
        action=argparse.BooleanOptionalAction,
        help="log each request and each WebSocket's opening and end (default: where stderr is a terminal)",
    )
    other.add_argument(
        "--version",
        action="version",
        version=f"triochan {__version__} (Python {platform.python_version()}, trio {trio.__version__})",
        help="print the version and exit",
    )
    other.add_argument("-h", "--help", action="help", help="print this and exit")
    _add_settings(parser)
    return parser


def _help_width() -> int:
    """The terminal's, within what is pleasant to read."""
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except (AttributeError, OSError, ValueError):  # no stdout; no terminal; one that is closed
        columns = 100
    return max(60, min(columns - 2, 110))


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """One option for each field of Settings, under its heading."""
    section = parser.add_argument_group("settings")
    hints = get_type_hints(Settings)
    for field in attrs.fields(Settings):
        if field.name in SECTIONS:
            section = parser.add_argument_group(SECTIONS[field.name])
        unit = field.metadata["unit"]
        if hints[field.name] is bool:
            section.add_argument(
                "--" + field.name.replace("_", "-"),
                action=argparse.BooleanOptionalAction,
                default=field.default,
                help=f"{field.metadata['help']} (default: {'yes' if field.default else 'no'})",
            )
            continue
        kind, convert = _converter(hints[field.name], unit)
        default = _spell(field.default, unit)
        section.add_argument(
            "--" + field.name.replace("_", "-"),
            type=partial(_setting, field.name, convert),
            default=field.default,
            metavar=kind,
            help=f"{field.metadata['help']} (default: {default})".replace("%", "%%"),
        )


def _setting(name: str, convert: Callable[[str], Any], text: str) -> Any:
    """An option's text as the value of the field ``name``, checked by Settings itself."""
    value = convert(text)
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
        return ",".join(f"{glob}={each:g}" for glob, each in value.items())
    return f"{value:g}{' ' + unit if unit else ''}" if isinstance(value, (int, float)) else str(value)


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
    return text


def _path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("takes a path, not an empty one")
    return text


def _mode(text: str) -> int:
    if not re.fullmatch("0?[0-7]{3}", text):
        raise argparse.ArgumentTypeError(f"takes three octal digits, such as 660, not {text!r}")
    return int(text, 8)


def _port(text: str) -> int:
    # The resolver takes larger numbers modulo 65536, and would listen somewhere else.
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"takes a number from 0 to 65535, not {text!r}")
    return int(text)

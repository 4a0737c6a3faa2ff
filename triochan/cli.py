"""The command line: options → :class:`triochan.Settings` → :func:`triochan.serve`.

Exit status: 0 after a shutdown, 2 where what was asked for can't be served (one or two lines on stderr say why),
1 where the server itself broke, 130 where it was interrupted before it served.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import importlib.util
import logging
import os
import platform
import re
import socket
import ssl
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType, NoneType, TracebackType
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import attrs
import trio

from . import __version__
from .application import Application
from .exceptions import ImproperlyConfigured
from .listeners import Address
from .routing import name_of
from .server import serve
from .settings import Settings

DESCRIPTION = "Serves a routing over WebSockets and HTTP, until Ctrl-C or SIGTERM."

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

exit status: 0 after a shutdown, 2 where it could not be served.
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


class CannotServe(Exception):
    """What was asked for can't be served; its text is for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status.

    Args:
        arguments: without the program's name; those of this process where None.

    Raises:
        SystemExit: as argparse does: 0 after ``--help`` and ``--version``, 2 for an option that is wrong.
    """
    options = _parser().parse_args(arguments)
    announcement = _Announcement()
    try:
        application = _load(options.app, options.app_dir)
        _start_logging(options.log_level)
        announcement.routes = application.router.describe()
        context = _tls(options.ssl_certfile, options.ssl_keyfile)
        settings = Settings(**{each.name: getattr(options, each.name) for each in attrs.fields(Settings)})
        try:
            trio.run(
                partial(
                    serve,
                    application,
                    host=options.host,
                    port=options.port,
                    uds=options.uds,
                    ssl_context=context,
                    settings=settings,
                    signals=True,
                    task_status=announcement,
                )
            )
        except (OSError, ImproperlyConfigured) as error:
            if announcement.made:
                raise
            if isinstance(error, ImproperlyConfigured):
                raise CannotServe(str(error)) from None
            raise CannotServe(_why_not_listening(error, options.host, options.port, options.uds)) from None
    except CannotServe as error:
        print(f"triochan: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # Once it serves, the server takes the signals itself; what comes after it has ended changes nothing.
        return 0 if announcement.made else 130
    return 0


class _Announcement:
    """Stands in for Trio's task status: says on stdout where the server listens, as soon as it does."""

    def __init__(self) -> None:
        self.routes: list[str] = []
        self.made = False

    def started(self, addresses: list[Address] | None = None, /) -> None:
        self.made = True
        where = ", ".join(map(str, addresses or ()))
        print(f"triochan {__version__} on {where} serving {_in_one_line(self.routes)}", flush=True)


def _in_one_line(routes: list[str]) -> str:
    whole = "websocket.connect, websocket.disconnect, websocket.receive"
    return "; ".join(route.strip().replace(whole, "websocket.*") for route in routes) or "no routes"


# -- options


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in two lines, without the usage of thirty options."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\nTry '{self.prog} --help'.\n")

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        options = super().parse_args(*args, **kwargs)
        if options.uds is not None and (options.host, options.port) != (None, None):
            self.error("--uds takes the place of --host and --port; give one or the other")
        if options.ssl_keyfile is not None and options.ssl_certfile is None:
            self.error("--ssl-keyfile goes with --ssl-certfile; give the certificate too")
        options.host = "127.0.0.1" if options.host is None else options.host
        options.port = 8000 if options.port is None else options.port
        return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="triochan",
        usage="%(prog)s [options] module:name",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=32, width=_help_width()),
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
        "--app-dir", metavar="DIR", default=".", help="look for the module here first (default: the current folder)"
    )
    where = parser.add_argument_group("where to listen")
    where.add_argument(
        "--host", help="address or name to listen on; 0.0.0.0 or :: for every interface (default: 127.0.0.1)"
    )
    where.add_argument("--port", type=_port, help="port; 0 picks one that is free and prints it (default: 8000)")
    where.add_argument("--uds", metavar="PATH", help="listen on this Unix socket instead")
    where.add_argument("--ssl-certfile", metavar="FILE", help="serve TLS with this certificate chain (PEM)")
    where.add_argument("--ssl-keyfile", metavar="FILE", help="and this private key, where it is not in the same file")
    other = parser.add_argument_group("other")
    other.add_argument(
        "--log-level",
        type=_level,
        metavar="LEVEL",
        help=f"log this and worse on stderr: {', '.join(LEVELS)} (default: info)",
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
    except (OSError, ValueError):
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


def _port(text: str) -> int:
    # The resolver takes larger numbers modulo 65536, and would listen somewhere else.
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"takes a number from 0 to 65535, not {text!r}")
    return int(text)


# -- the application


def _load(name: str, folder: str) -> Application:
    """The application at ``module:name``, the module looked for in ``folder`` first.

    Raises:
        CannotServe: there is none; where the module raised, its traceback is on stderr by then.
    """
    module_name, colon, attribute = name.partition(":")
    if module_name.endswith(".py") or "/" in module_name:
        path = Path(module_name)
        raise CannotServe(
            f"{name!r} names a file; what is expected is a module, as in "
            f"'--app-dir {path.parent} {path.name.removesuffix('.py')}:{attribute or 'routing'}'"
        )
    if not colon or not all(part.isidentifier() for part in (module_name + "." + attribute).split(".")):
        raise CannotServe(f"{name!r} is not of the form module:name, such as 'chat:routing'")
    if not Path(folder).is_dir():
        raise CannotServe(f"--app-dir {folder}: there is no such folder")
    sys.path.insert(0, str(Path(folder).resolve()))
    module = _import(module_name, folder)
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise CannotServe(_no_attribute(module, found, part)) from None
    try:
        return Application.of(found)
    except ImproperlyConfigured as error:
        raise CannotServe(f"{name!r} can't be served: {error}") from None
    except Exception as error:  # noqa: BLE001 - the user's route objects, or a module that the routing names
        _print_traceback(error)
        raise CannotServe(f"{name!r} can't be served: it raised {type(error).__name__}, see above") from None


def _import(module_name: str, folder: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise CannotServe(
                f"there is no module {error.name!r} in {Path(folder).resolve()} or among the installed packages; "
                "--app-dir says where else to look"
            ) from None
        _print_traceback(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a user's module raises
        _print_traceback(error)
    raise CannotServe(f"the module {module_name!r} could not be imported, see above")


def _no_attribute(module: ModuleType, owner: Any, part: str) -> str:
    """Says what is missing, and what it might have been."""
    place = f"module {module.__name__!r} ({getattr(module, '__file__', None) or 'built in'})"
    if owner is not module:
        place = f"{name_of(owner)} in {place}"
    names = [each for each in vars(owner) if not each.startswith("_")] if hasattr(owner, "__dict__") else []
    close = difflib.get_close_matches(part, names, 1) or [
        each for each in names if isinstance(getattr(owner, each), (Application, list))
    ]
    return f"{place} has no {part!r}" + (f"; did you mean {close[0]!r}?" if close else "")


def _print_traceback(error: BaseException) -> None:
    """The traceback from the user's own module on: what is above it is the import of the module."""
    above = {__file__, importlib.__file__}
    place: TracebackType | None = error.__traceback__
    while place is not None and (
        place.tb_frame.f_code.co_filename in above or place.tb_frame.f_code.co_filename.startswith("<frozen importlib")
    ):
        place = place.tb_next
    traceback.print_exception(type(error), error, place)


# -- logging, TLS, listening


def _start_logging(level: str | None) -> None:
    """Log on stderr, unless the user's module has set up its own; ``level`` holds either way where it is given."""
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-8s %(name)s: %(message)s"))
        root.addHandler(handler)
        level = level or "info"
    if level is not None:
        root.setLevel(level.upper())


def _tls(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    """A server's context with these files, None without them.

    Raises:
        CannotServe: one of them can't be read, or they do not go together.
    """
    if certificate is None:
        return None
    for option, path in (("--ssl-certfile", certificate), ("--ssl-keyfile", key)):
        try:
            if path is not None:
                Path(path).open("rb").close()
        except OSError as error:
            raise CannotServe(f"{option} {path}: {error.strerror}") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CannotServe(
                f"the key in {key or certificate} does not belong to the certificate in {certificate}"
            ) from None
        files = f"{certificate} and {key} hold" if key else f"{certificate} holds"
        raise CannotServe(f"{files} no certificate with its private key that could be read; PEM is expected") from None
    return context


def _why_not_listening(error: OSError, host: str, port: int, uds: str | None) -> str:
    if uds is not None:
        reason = "another program listens on it" if error.errno == errno.EADDRINUSE else error.strerror or error
        return f"can't listen on the Unix socket {uds}: {reason}"
    place = f"can't listen on {f'[{host}]' if ':' in host else host}:{port}: "
    if isinstance(error, socket.gaierror):
        return f"{place}the name {host!r} does not resolve ({error.strerror}); give --host an address of this machine"
    if error.errno == errno.EADDRINUSE:
        return f"{place}the port is in use; stop the program that has it, or give another --port (0 picks one)"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{place}this machine has no such address; give --host one that it has"
    if error.errno == errno.EACCES:
        return f"{place}permission denied; ports below 1024 are reserved, give another --port"
    return f"{place}{error.strerror or error}"

"""The command line: options (:mod:`triochan.options`) → an application → :func:`triochan.serve`.

Exit status: 0 after a shutdown, 1 where that cut something off, or the server itself broke; 2 where what was asked
for can't be served (one or two lines on stderr say why), 3 where the application's lifespan raised at the start, 130
where it was interrupted before it served.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import inspect
import os
import socket
import ssl
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType, ModuleType, TracebackType
from typing import Any

from . import __version__
from .application import DEFAULT_SESSION_FILE, Application
from .certificates import CannotUseCertificate, make_context
from .exceptions import ImproperlyConfigured, TriochanError
from .logs import start_logging
from .near_misses import closest
from .options import make_parser, settings_of
from .routing import name_of
from .server import run_process
from .sessions.cookies import SECRET_VARIABLE
from .standard_streams import flush_or_drop, hold_open
from .wire import listeners
from .wire.listeners import Address


class CannotServe(Exception):
    """What was asked for can't be served; its text is for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status.

    Args:
        arguments: without the program's name; those of this process where None.

    Raises:
        SystemExit: as argparse does: 0 after ``--help`` and ``--version``, 2 for an option that is wrong.
    """
    hold_open()
    try:
        return _run(arguments)
    finally:
        flush_or_drop()


def _run(arguments: Sequence[str] | None) -> int:
    options = make_parser().parse_args(arguments)
    announcement = _Announcement()
    try:
        if options.secret is not None:
            # Before the module is imported, which may make an Application; and worker processes inherit it.
            os.environ[SECRET_VARIABLE] = ",".join(options.secret)
        application = _load(options)
        start_logging(level=options.log_level, form=options.log_format, config=options.log_config)
        announcement.routes = application.router.describe()
        context = _tls(options.ssl_certfile, options.ssl_keyfile)
        settings = settings_of(options)
        try:
            return run_process(
                application,
                host=options.host,
                port=options.port,
                uds=options.uds,
                uds_mode=options.uds_mode,
                ssl_context=context,
                trusted_proxies=options.forwarded_allow_ips,
                proxy_protocol=options.proxy_protocol,
                root_path=options.root_path,
                health_path=options.health_path,
                access_log=options.access_log,
                settings=settings,
                task_status=announcement,
            )
        except Exception as error:
            if announcement.made:
                raise
            if isinstance(error, TriochanError):
                raise CannotServe(str(error)) from None
            if isinstance(error, OSError) and _was_listening(error):
                raise CannotServe(
                    _why_not_listening(error, options.host, options.port, options.uds)
                ) from None
            # The application's lifespan, before it has yielded.
            with contextlib.suppress(OSError):
                traceback.print_exception(error)
                print(
                    "triochan: error: the application did not start, see above", file=sys.stderr, flush=True
                )
            return 3
    except (CannotServe, ImproperlyConfigured) as error:
        with contextlib.suppress(OSError):  # nobody reads it: the exit status says it too
            print(f"triochan: error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        # Once it serves, the server takes the signals itself; what comes after it has ended changes nothing.
        return 0 if announcement.made else 130


class _Announcement:
    """Stands in for Trio's task status: says on stdout where the server listens, as soon as it does."""

    def __init__(self) -> None:
        self.routes: list[str] = []
        self.made = False

    def started(self, addresses: list[Address] | None = None, /) -> None:
        self.made = True
        where = ", ".join(map(str, addresses or ()))
        line = f"triochan {__version__} on {where} serving {_in_one_line(self.routes)}"
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        with contextlib.suppress(OSError):  # nobody reads it: no reason not to serve
            print(line.encode(encoding, "replace").decode(encoding), flush=True)


def _in_one_line(routes: list[str]) -> str:
    whole = "websocket.connect, websocket.disconnect, websocket.receive"
    return "; ".join(route.strip().replace(whole, "websocket.*") for route in routes) or "no routes"


# -- the application


def _load(options: argparse.Namespace) -> Application:
    """The application at ``module:name``, the module looked for in ``--app-dir`` first.

    A bare routing becomes one whose sessions are kept in ``--session-file``, and so on.

    Raises:
        CannotServe: there is none; where the module raised, its traceback is on stderr by then.
    """
    name, folder = options.app, options.app_dir
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
    if options.factory:
        found = _made(name, found)
    elif isinstance(found, FunctionType):
        raise CannotServe(f"{name!r} is a function; where it makes what to serve, add --factory")
    if isinstance(found, Application):
        for option, argument in (
            ("session_file", "session_store"),
            ("allowed_host", "allowed_hosts"),
            ("allowed_origin", "allowed_origins"),
        ):
            if getattr(options, option) is not None:
                raise CannotServe(
                    f"{name!r} is an Application, which says {argument}=… itself; drop --{option.replace('_', '-')}"
                )
    try:
        return Application.for_command_line(
            found,
            session_file=options.session_file or DEFAULT_SESSION_FILE,
            allowed_hosts=options.allowed_host,
            allowed_origins=options.allowed_origin or (),
        )
    except ImproperlyConfigured as error:
        raise CannotServe(f"{name!r} can't be served: {error}") from None
    except Exception as error:  # noqa: BLE001 - the user's route objects, or a module that the routing names
        _print_traceback(error)
        raise CannotServe(f"{name!r} can't be served: it raised {type(error).__name__}, see above") from None


def _made(name: str, factory: Any) -> Any:
    """What the user's factory returns."""
    if not callable(factory):
        raise CannotServe(f"{name!r} is no function, but {type(factory).__name__}; drop --factory")
    try:
        made = factory()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a user's function raises
        _print_traceback(error)
        raise CannotServe(f"the factory {name!r} raised {type(error).__name__}, see above") from None
    if inspect.iscoroutine(made):
        made.close()
        raise CannotServe(
            f"the factory {name!r} is async; what is expected is a function that returns what to serve at once "
            "(what has to be awaited belongs into the Application's lifespan)"
        )
    return made


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
    meant = closest(part, names, likeness=0.6) or next(
        (each for each in names if isinstance(getattr(owner, each), (Application, list))), None
    )
    return f"{place} has no {part!r}" + (f"; did you mean {meant!r}?" if meant else "")


def _print_traceback(error: BaseException) -> None:
    """The traceback from the user's own module on: what is above it is the import of the module."""
    above = {__file__, importlib.__file__}
    place: TracebackType | None = error.__traceback__
    while place is not None and (
        place.tb_frame.f_code.co_filename in above
        or place.tb_frame.f_code.co_filename.startswith("<frozen importlib")
    ):
        place = place.tb_next
    with contextlib.suppress(OSError):
        traceback.print_exception(type(error), error, place)


# -- logging, TLS, listening


def _tls(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    """A server's context with these files, None without them.

    Raises:
        CannotServe: one of them can't be read or used, or they do not go together.
    """
    if certificate is None:
        return None
    for option, path in (("--ssl-certfile", certificate), ("--ssl-keyfile", key)):
        try:
            if path is not None:
                Path(path).open("rb").close()
        except OSError as error:
            raise CannotServe(f"{option} {path}: {error.strerror}") from None
    try:
        return make_context(certificate, key)
    except CannotUseCertificate as error:
        raise CannotServe(str(error)) from None


def _was_listening(error: BaseException) -> bool:
    """It is of an address: an application's lifespan may well raise the same, of a database."""
    return any(
        place.f_code.co_filename == listeners.__file__ for place, _ in traceback.walk_tb(error.__traceback__)
    )


def _why_not_listening(error: OSError, host: str, port: int, uds: str | None) -> str:
    if uds is not None:
        return f"can't listen on the Unix socket {uds}: {error.strerror or error}"
    asked = listeners.place(host, port)
    place = f"can't listen on {asked}: "
    if isinstance(error, socket.gaierror):
        return f"{place}the name {host!r} does not resolve ({error.strerror}); give --host an address of this machine"
    if isinstance(error.filename, str) and error.filename != asked:
        place = f"can't listen on {error.filename} ({asked}): "
    if error.errno == errno.EADDRINUSE:
        return (
            f"{place}the port is in use; stop the program that has it, or give another --port (0 picks one)"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{place}this machine has no such address; give --host one that it has"
    if error.errno == errno.EACCES:
        return f"{place}permission denied; ports below 1024 are reserved, give another --port"
    return f"{place}{error.strerror or error}"

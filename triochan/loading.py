"""What the options name: the application at ``module:name``, the TLS context of some files; or why it can't be had."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import ssl
import sys
import traceback
from pathlib import Path
from types import FunctionType, ModuleType, TracebackType
from typing import Any

from .application import DEFAULT_SESSION_FILE, Application
from .certificates import CannotUseCertificate, make_context
from .configuration import Configuration
from .exceptions import ImproperlyConfigured
from .near_misses import closest
from .routing import name_of
from .runtime import channels_taken


class CannotServe(Exception):
    """What was asked for can't be served; its text is for the user.

    Attributes:
        raised: what the user's code raised, where that is why.
    """

    def __init__(self, text: str, raised: BaseException | None = None) -> None:
        super().__init__(text)
        self.raised = raised


def load(configuration: Configuration) -> Application:
    """The application at ``module:name``, the module looked for in ``--app-dir`` first.

    A bare routing becomes one whose sessions are kept in ``--session-file``, and so on.

    Raises:
        CannotServe: there is none.
    """
    options = configuration.options
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
        raise CannotServe(f"{configuration.where('app_dir')} {folder}: there is no such folder")
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
                    f"{name!r} is an Application, which says {argument}=… itself; drop {configuration.where(option)}"
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
        raise CannotServe(f"{name!r} can't be served: it raised {type(error).__name__}", error) from None


def channels_of(application: Application, configuration: Configuration) -> frozenset[str]:
    """The named channels whose consumers run in this process, by ``--only-channels`` and ``--exclude-channels``.

    Raises:
        CannotServe: a glob matches none.
    """
    options = configuration.options
    try:
        return channels_taken(application.router, options.only_channels or (), options.exclude_channels or ())
    except ImproperlyConfigured as error:
        name, _, rest = str(error).partition(" ")
        raise CannotServe(f"{configuration.where(name)} {rest}") from None


def _made(name: str, factory: Any) -> Any:
    """What the user's factory returns."""
    if not callable(factory):
        raise CannotServe(f"{name!r} is no function, but {type(factory).__name__}; drop --factory")
    try:
        made = factory()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a user's function raises
        raise CannotServe(f"the factory {name!r} raised {type(error).__name__}", error) from None
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
        raised: BaseException = error
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a user's module raises
        raised = error
    raise CannotServe(f"the module {module_name!r} could not be imported", raised)


def _no_attribute(module: ModuleType, owner: Any, part: str) -> str:
    """Says what is missing, and what it might have been."""
    place = f"module {module.__name__!r} ({getattr(module, '__file__', None) or 'built in'})"
    if owner is not module:
        place = f"{name_of(owner)} in {place}"
    names = [each for each in vars(owner) if not each.startswith("_")] if hasattr(owner, "__dict__") else []
    # What can be served comes before what is merely a little alike, such as a name that the module imports.
    served = [each for each in names if isinstance(getattr(owner, each), (Application, list))]
    meant = closest(part, names) or closest(part, served, likeness=0.6) or next(iter(served), None)
    meant = meant or closest(part, names, likeness=0.6)
    return f"{place} has no {part!r}" + (f"; did you mean {meant!r}?" if meant else "")


def own_traceback(error: BaseException) -> TracebackType | None:
    """The traceback from the user's own module on: what is above it is the import of the module."""
    above = {__file__, importlib.__file__}
    place: TracebackType | None = error.__traceback__
    while place is not None and (
        place.tb_frame.f_code.co_filename in above
        or place.tb_frame.f_code.co_filename.startswith("<frozen importlib")
    ):
        place = place.tb_next
    return place


def print_traceback(error: BaseException) -> None:
    """On stderr, from the user's own module on."""
    with contextlib.suppress(OSError):
        traceback.print_exception(type(error), error, own_traceback(error))


def tls_context(configuration: Configuration) -> ssl.SSLContext | None:
    """A server's context with the files that are configured, None without them; read anew each time.

    Raises:
        CannotUseCertificate: one of them can't be read or used, or they do not go together.
    """
    options = configuration.options
    if options.ssl_certfile is None:
        return None
    for name in ("ssl_certfile", "ssl_keyfile", "ssl_keyfile_password_file"):
        path = getattr(options, name)
        try:
            if path is not None:
                Path(path).open("rb").close()
        except OSError as error:
            raise CannotUseCertificate(f"{configuration.where(name)} {path}: {error.strerror}") from None
    return make_context(
        options.ssl_certfile,
        options.ssl_keyfile,
        password=options.ssl_keyfile_password,
        password_file=options.ssl_keyfile_password_file,
    )

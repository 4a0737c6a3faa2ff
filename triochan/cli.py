"""The command line: options (:mod:`triochan.options`) → an application → :func:`triochan.serve`.

``routes`` and ``check``, in front of the options, print what would be served, and what is wrong with it;
``dead-letters`` has options of its own (:mod:`triochan.dead_letters`).

Exit status: 0 after a shutdown, 1 where that cut something off, or the server itself broke; 2 where what was asked
for can't be served (one or two lines on stderr say why), 3 where the application's lifespan raised at the start, 130
where it was interrupted before it served. Of ``check``: 1 where anything is wrong.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import attrs

from . import __version__, checks, dead_letters, reloading, route_table, supervisor
from .children import Leash
from .configuration import CannotConfigure, Configuration, configure
from .exceptions import CannotListen, ImproperlyConfigured, TriochanError
from .layers import ChannelLayer, MemoryLayer, layer_from_url
from .loading import CannotServe, channels_of, load, print_traceback, tls_context
from .logs import progress_line, start_logging
from .options import COMMANDS, make_parser
from .reloading import CannotWatch
from .server import run_process
from .sessions import MemorySessionStore
from .sessions.cookies import SECRET_VARIABLE
from .settings import Settings
from .standard_streams import flush_or_drop, hold_open
from .terminal import columns, in_colors, is_terminal
from .watchdog import GRACE
from .wire.inherited import adopt, systemd_sockets
from .wire.listeners import Address, address_of, shares_its_port

logger = logging.getLogger("triochan.configuration")
_MEMORY_SESSIONS = (
    "sessions are kept in each worker's own memory (MemorySessionStore): who comes to another worker is logged out. "
    "Give the application a store that they share, such as SqliteSessionStore"
)
_COLORS: Mapping[checks.Kind, str] = {"error": "\x1b[31m", "warning": "\x1b[33m"}


def main(arguments: Sequence[str] | None = None, leash: Leash | None = None) -> int:
    """Run the command line; the exit status.

    Args:
        arguments: without the program's name; those of this process where None.
        leash: of a server that ``--reload`` or ``--workers`` has started.

    Raises:
        SystemExit: as argparse does: 0 after ``--help`` and ``--version``, 2 for an option that is wrong.
    """
    hold_open()
    try:
        return _run(sys.argv[1:] if arguments is None else list(arguments), leash)
    finally:
        flush_or_drop()


def _run(arguments: list[str], leash: Leash | None) -> int:
    command = arguments.pop(0) if arguments and arguments[0] in COMMANDS else ""
    parser = make_parser(command)
    if command == "dead-letters":
        return dead_letters.main(parser, arguments, say)
    given = parser.parse_args(arguments)
    announcement = _Announcement(leash)
    try:
        configuration = configure(given, os.environ)
        if "show_config" in given:
            return _show(configuration)
        if configuration.options.app is None:
            parser.error("the following arguments are required: module:name")
        if configuration.given["secret"].rank in (1, 3):
            # Before the module is imported, which may make an Application; and worker processes inherit it.
            os.environ[SECRET_VARIABLE] = ",".join(configuration.options.secret)
        if command == "check":
            return _check(configuration)
        if command == "routes":
            return _routes(configuration, as_json="json" in given)
        if leash is not None:
            return _serve(configuration, leash.sockets, announcement, leash)
        with _inherited(configuration) as sockets:
            if configuration.options.reload:
                return _reload(configuration, arguments, sockets)
            if configuration.options.workers is not None:
                return _supervise(configuration, arguments, sockets, announcement)
            return _serve(configuration, sockets, announcement, None)
    except CannotConfigure as error:
        if error.usage:
            parser.error(str(error))
        if command == "check":
            _print_findings([checks.Finding("error", line) for line in error.errors])
            return 1
        for line in error.errors:
            _complain(line)
        return 2
    except (CannotServe, CannotListen, CannotWatch, ImproperlyConfigured) as error:
        raised = error.raised if isinstance(error, CannotServe) else None
        if raised is not None:
            print_traceback(raised)
        _complain(f"{error}{', see above' if raised is not None else ''}")
        return 2
    except KeyboardInterrupt:
        # Once it serves, the server takes the signals itself; what comes after it has ended changes nothing.
        return 0 if announcement.made else 130


def _complain(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it: the exit status says it too
        print(f"triochan: error: {line}", file=sys.stderr, flush=True)


def _show(configuration: Configuration) -> int:
    """Print each option's value, and where that comes from."""
    rows = list(configuration.rows())
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    say(*(f"{key:{widths[0]}}  {value:{widths[1]}}  {origin}" for key, value, origin in rows))
    return 0


def _check(configuration: Configuration) -> int:
    """Print what is wrong; the exit status: 1 where anything is."""
    findings, routes = checks.check(configuration)
    _print_findings(findings)
    if not findings:
        say(f"{configuration.options.app}: {routes} route{'' if routes == 1 else 's'}, nothing is wrong")
    return 1 if findings else 0


def _print_findings(findings: Sequence[checks.Finding]) -> None:
    colors = in_colors(sys.stdout)
    for kind, text in findings:
        say(f"{_COLORS[kind]}{kind}:\x1b[0m {text}" if colors else f"{kind}: {text}")


def _routes(configuration: Configuration, *, as_json: bool) -> int:
    """Print the routes of what would be served, and the settings that are not the defaults."""
    found = route_table.rows(load(configuration).router)
    if as_json:
        say(route_table.as_json(found))
        return 0
    fits = is_terminal(sys.stdout) or "COLUMNS" in os.environ
    say(*route_table.render(found, columns(sys.stdout) if fits else None, colors=in_colors(sys.stdout)))
    fields = {field.name.replace("_", "-") for field in attrs.fields(Settings)}
    changed = [row for row in configuration.rows() if row[0] in fields and row[2] != "default"]
    if changed:
        say("", *(f"{key} = {value} ({origin})" for key, value, origin in changed))
    return 0


def _reload(configuration: Configuration, arguments: list[str], sockets: list[socket.socket]) -> int:
    """Serve in child processes, anew whenever a file changes; the exit status."""
    options = configuration.options
    # A configuration of the log may name what is the program's, which this process does not import.
    start_logging(level=options.log_level, form=options.log_format)
    return reloading.supervise(options, arguments, sockets, configuration.binds)


def _supervise(
    configuration: Configuration,
    arguments: list[str],
    sockets: list[socket.socket],
    announcement: _Announcement,
) -> int:
    """Serve in several processes; the exit status."""
    options = configuration.options
    start_logging(level=options.log_level, form=options.log_format)
    for warning in configuration.warnings:
        logger.warning("%s", warning)
    return supervisor.supervise(configuration, arguments, sockets, announcement.announce)


def _serve(
    configuration: Configuration,
    sockets: list[socket.socket],
    announcement: _Announcement,
    leash: Leash | None,
) -> int:
    """Load the application and serve it; the exit status.

    Raises:
        CannotServe, ImproperlyConfigured: it can't be had, or what was asked for can't be.
    """
    options = configuration.options
    application = load(configuration)
    worker = None if leash is None else leash.brief.worker
    start_logging(level=options.log_level, form=options.log_format, config=options.log_config, worker=worker)
    for warning in configuration.warnings if worker is None else ():  # the parent has said them
        logger.warning("%s", warning)
    layer = None if options.layer is None else _layer(configuration)
    if worker is not None:
        uses = any(row.sessions for row in route_table.rows(application.router))
        if uses and worker == 1 and isinstance(application.sessions.store, MemorySessionStore):
            logger.warning("%s", _MEMORY_SESSIONS)
    elif leash is None and (layer is None or isinstance(layer, MemoryLayer)):
        _warn_of_shared_ports(sockets)
    channels = channels_of(application, configuration)
    announcement.what = (
        _in_one_line(application.router.describe())
        if options.listen
        else f"the named channels {', '.join(sorted(channels))}"
    )
    opens = leash is None and options.listen
    settings = configuration.settings
    if leash is not None:
        leash.wait(settings.shutdown_timeout + 2 * GRACE)
    try:
        return run_process(
            application,
            bind=configuration.binds if opens else (),
            sockets=sockets,
            listen=options.listen,
            layer=layer,
            only_channels=options.only_channels or (),
            exclude_channels=options.exclude_channels or (),
            uds_mode=options.uds_mode if opens else None,
            ssl_context=None if options.ssl_certfile is None else partial(_certificate, configuration),
            trusted_proxies=options.forwarded_allow_ips,
            proxy_protocol=options.proxy_protocol,
            root_path=options.root_path,
            health_path=options.health_path,
            access_log=options.access_log,
            settings=settings,
            progress=progress_line() if worker is None else None,
            shutdown_trigger=None if leash is None else leash.gone,
            stand_in=None if worker is None or leash is None else leash.stand_in,
            task_status=announcement,
        )
    except Exception as error:
        if announcement.made:
            raise
        if isinstance(error, TriochanError):
            raise CannotServe(str(error)) from None
        # The application's lifespan, before it has yielded.
        with contextlib.suppress(OSError):
            traceback.print_exception(error)
        _complain("the application did not start, see above")
        return 3


def _layer(configuration: Configuration) -> ChannelLayer:
    options = configuration.options
    return layer_from_url(options.layer, configuration.settings, start_timeout=options.layer_timeout)


def _warn_of_shared_ports(sockets: Sequence[socket.socket]) -> None:
    """Another process may serve there as well, and does not hear what a layer in memory carries."""
    for sock in sockets:
        if shares_its_port(sock):
            logger.warning(
                "%s may be shared with other processes (SO_REUSEPORT, ReusePort=yes in a unit), and the layer is in "
                "memory: groups would reach the members in this process alone. --layer redis://... is one for all",
                address_of(sock, "http"),
            )


def _certificate(configuration: Configuration) -> ssl.SSLContext:
    context = tls_context(configuration)
    assert context is not None
    return context


class _Announcement:
    """Stands in for Trio's task status: says on stdout where the server listens, as soon as it does."""

    def __init__(self, leash: Leash | None) -> None:
        self.what = ""
        self.made = False
        self._leash = leash

    def started(self, addresses: list[Address] | None = None, /) -> None:
        where = f" on {', '.join(map(str, addresses))}" if addresses else ", without a socket,"
        line = f"triochan {__version__}{where} serving {self.what}"
        if self._leash is not None:
            self._leash.serves(line)
        if self._leash is None or self._leash.brief.worker is None:
            self.announce(line)
        self.made = True

    def announce(self, line: str) -> None:
        """Of a parent of workers: what they say."""
        self.made = True
        say(line)


def say(*lines: str) -> None:
    """Print on stdout, as far as its encoding goes. Where nobody reads it, that is no reason not to go on."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    with contextlib.suppress(OSError):
        print("\n".join(lines).encode(encoding, "replace").decode(encoding), flush=True)


def _in_one_line(routes: list[str]) -> str:
    whole = "websocket.connect, websocket.disconnect, websocket.receive"
    return "; ".join(route.strip().replace(whole, "websocket.*") for route in routes) or "no routes"


# -- listening


@contextlib.contextmanager
def _inherited(configuration: Configuration) -> Iterator[list[socket.socket]]:
    """The sockets of systemd and of ``--fd``; taken before anything else may open a file under one of their numbers.

    Raises:
        CannotListen: one is none to listen on.
        ImproperlyConfigured: systemd's variables say no numbers.
    """
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(each) for each in systemd_sockets()]
        known = {each.fileno() for each in sockets}
        for number in configuration.descriptors:
            if number not in known:
                sockets.append(held.enter_context(adopt(number)))
        if sockets and not configuration.options.listen:
            raise CannotServe(
                f"{configuration.where('listen')}: no socket is listened on, and the process was handed {len(sockets)} "
                "(LISTEN_FDS, --fd); start it without them"
            )
        yield sockets

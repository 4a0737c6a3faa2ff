"""What can be found wrong with what would be served, without serving it: ``triochan check``."""

from __future__ import annotations

import logging
import socket
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from . import private_engine
from .application import DEFAULT_SESSION_FILE, Application
from .configuration import Configuration
from .exceptions import ImproperlyConfigured, RoutingWarning, TriochanError
from .layers import MemoryLayer, layer_from_url
from .loading import CannotServe, channels_of, load, own_traceback, tls_context
from .logs import start_logging
from .proxies import Front
from .route_table import Row, rows
from .runtime import channels_taken, unheard_streams
from .sessions import MemorySessionStore
from .wire.binds import parse_binds

Kind: TypeAlias = Literal["error", "warning"]
T = TypeVar("T")


class Finding(NamedTuple):
    """Something that is wrong.

    Attributes:
        kind: ``error``: it would not be served, or not as it is meant; ``warning``: it is probably not meant so.
        text: one line.
    """

    kind: Kind
    text: str


def check(configuration: Configuration) -> tuple[list[Finding], int]:
    """Look at all of it, and go on after what is wrong.

    The application's module is imported, a factory called and the files that a log configuration names are opened, as
    for serving. Nothing is listened on and no lifespan is begun.

    Returns:
        What is wrong, and how many routes there are.
    """
    findings = [Finding("warning", text) for text in configuration.warnings]
    found: list[Row] = []
    with _heard(findings):
        application = _tried(findings, lambda: load(configuration))
        if application is not None:
            found = rows(application.router)
            findings += _of_application(application, found, configuration)
        _tried(findings, lambda: tls_context(configuration))
        _tried(findings, lambda: _front(configuration))
        _tried(findings, lambda: _host(configuration))
        _tried(findings, lambda: _layer(configuration))
        findings += _folders(configuration)
    # Last: it may take the log away from us.
    options = configuration.options
    _tried(
        findings,
        lambda: start_logging(level=options.log_level, form=options.log_format, config=options.log_config),
    )
    return list(dict.fromkeys(findings)), len(found)


def _tried(findings: list[Finding], what: Callable[[], T]) -> T | None:
    try:
        return what()
    except (CannotServe, ImproperlyConfigured) as error:
        raised = error.raised if isinstance(error, CannotServe) else None
        text = str(error)
        if raised is not None:
            text = f"{text.removesuffix(' ' + type(raised).__name__)}: {_in_one_line(raised)}"
        findings.append(Finding("error", text))
        return None


def _in_one_line(raised: BaseException) -> str:
    """What a program's module raised, with the last place of its own in the traceback."""
    said = " ".join(str(raised).split())
    if not isinstance(raised, TriochanError):
        said = f"{type(raised).__name__}: {said}" if said else type(raised).__name__
    place = ""
    if not isinstance(raised, SyntaxError):  # which says it itself
        for frame in traceback.extract_tb(own_traceback(raised)):
            if not frame.filename.startswith(str(Path(__file__).parent)):
                place = f" ({frame.filename}:{frame.lineno})"
    return said + place


@contextmanager
def _heard(findings: list[Finding]) -> Iterator[None]:
    """Within the block, near misses in a routing and what this package would log as a warning are findings."""
    log = logging.getLogger("triochan")
    handler = _Findings(findings)
    before = log.propagate
    log.addHandler(handler)
    log.propagate = False
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RoutingWarning)
            yield
        findings += [
            Finding("warning", str(each.message))
            for each in caught
            if issubclass(each.category, RoutingWarning)
        ]
    finally:
        log.removeHandler(handler)
        log.propagate = before


class _Findings(logging.Handler):
    def __init__(self, findings: list[Finding]) -> None:
        super().__init__(logging.WARNING)
        self._findings = findings

    def emit(self, record: logging.LogRecord) -> None:
        self._findings.append(Finding("warning", record.getMessage()))


def _front(configuration: Configuration) -> None:
    options = configuration.options
    Front(trusted=options.forwarded_allow_ips, root_path=options.root_path, health_path=options.health_path)


def _host(configuration: Configuration) -> None:
    """That its name resolves; whether it is this machine's may be another matter where it will serve."""
    options = configuration.options
    hosts = [("host", options.host)]
    if options.bind is not None:
        hosts = [("bind", bind.host) for bind in parse_binds(options.bind) if bind.host is not None]
    for name, host in hosts:
        try:
            socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            raise CannotServe(
                f"{configuration.where(name)} {host}: the name does not resolve ({error})"
            ) from None


def _layer(configuration: Configuration) -> None:
    """That what is needed for it is installed; whether the engine answers may be another matter where it will serve."""
    options = configuration.options
    if options.layer is not None:
        layer_from_url(options.layer, configuration.settings)
    elif configuration.needs_engine:
        private_engine.program()


def _of_application(
    application: Application, found: list[Row], configuration: Configuration
) -> Iterator[Finding]:
    if not found:
        yield Finding("warning", "there are no routes: every request gets 404, every handshake 403")
    layer = MemoryLayer(configuration.settings)
    try:
        layer.serve(channels_of(application, configuration))
    except CannotServe as error:
        yield Finding("error", str(error))
        layer.serve(channels_taken(application.router))
    for unheard in unheard_streams(layer, application):
        yield Finding("warning", unheard)
    users = [row.consumer for row in found if any("user" in each for each in row.sessions)]
    if users and application.user_loader is None:
        yield Finding(
            "warning",
            f"{users[0]} has users, but there is no Application(user_loader=...) that finds them: its user is "
            "always anonymous",
        )
    kept = not isinstance(application.sessions.store, MemorySessionStore)
    if kept and application.sessions.cookies.random and any(row.sessions for row in found):
        yield Finding(
            "warning",
            "sessions outlive the process, but their cookies are signed with a random secret, so that each start logs "
            "everybody out: give a secret, by TRIOCHAN_SECRET or in a configuration file",
        )


def _folders(configuration: Configuration) -> Iterator[Finding]:
    """Folders in which the server would make a file."""
    options = configuration.options
    file = options.session_file or DEFAULT_SESSION_FILE
    for name, path in (("uds", options.uds), ("session_file", file)):
        if path is not None and not Path(path).absolute().parent.is_dir():
            yield Finding(
                "error", f"{configuration.where(name)} {path}: there is no folder {Path(path).parent}"
            )

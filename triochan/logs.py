"""How the command line logs: lines for people, coloured on a terminal, or JSON lines; or as a file says."""

from __future__ import annotations

import configparser
import contextlib
import json
import logging
import logging.config
import re
import sys
import time
import tomllib
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Literal, TextIO

from .exceptions import ImproperlyConfigured
from .near_misses import closest
from .terminal import in_colors, is_terminal

LogFormat = Literal["text", "json"]
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; the rest is what its caller gave as ``extra``."""
_SECTIONS = (
    "version",
    "formatters",
    "filters",
    "handlers",
    "loggers",
    "root",
    "disable_existing_loggers",
    "incremental",
)
"""What a dictionary for :func:`logging.config.dictConfig` has."""
_COLORS = {
    logging.DEBUG: "\x1b[2m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[1;31m",
}
CHATTER = ("trio-websocket", "trio_websocket", "h11", "wsproto", "hpack", "watchfiles")
"""Loggers of libraries below, whose debugging is theirs: they are heard from warnings on."""


class TextFormatter(logging.Formatter):
    """``2026-11-25 04:40:52,123 WARNING  triochan.server: …``, with the level in colour where asked for; in a worker of
    several, ``worker 2`` before the logger."""

    def __init__(self, *, colors: bool = False, worker: int | None = None) -> None:
        who = "" if worker is None else f"worker {worker} "
        super().__init__(f"%(asctime)s %(levelname)-8s {who}%(name)s: %(message)s")
        self._colors = colors
        self._second = (0, "")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """As logging's own, made once a second."""
        second = int(record.created)
        made = self._second
        if made[0] != second:
            made = self._second = (second, time.strftime(self.default_time_format, time.localtime(second)))
        return f"{made[1]},{int(record.msecs):03}"

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        color = _COLORS.get(record.levelno) if self._colors else None
        if color is None:
            return text
        level = f"{record.levelname:8}"
        return text.replace(level, f"{color}{level}\x1b[0m", 1)


class JsonFormatter(logging.Formatter):
    """A JSON object a line: ``time`` (UTC, RFC 3339), ``level``, ``logger``, ``message``; what the caller gave beside
    it; ``exception`` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        seconds, milliseconds = divmod(round(record.created * 1000), 1000)
        said: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{milliseconds:03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        said.update({key: value for key, value in vars(record).items() if key not in _OWN})
        if record.exc_info:
            said["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        if record.stack_info:
            said["stack"] = record.stack_info
        return json.dumps(said, default=repr, ensure_ascii=False)


class ProgressLine:
    """One line of a terminal that is rewritten; what is logged meanwhile on the same terminal stands above it.

    Args:
        stream: of the terminal.
    """

    interval = 0.2

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = False
        self._beside: list[logging.Handler] = []

    def show(self, left: int, total: int, seconds: float) -> None:
        """See :class:`triochan.server.DrainProgress`."""
        if not self._beside:
            for handler in logging.getLogger().handlers:
                handler.addFilter(self._make_room)
                self._beside.append(handler)
        self._write(
            f"\r\x1b[Kdraining: {left} of {total} connections left, {seconds:.0f} s until they are cut off"
        )
        self._shown = True

    def end(self) -> None:
        self._erase()
        for handler in self._beside:
            handler.removeFilter(self._make_room)

    def _make_room(self, record: logging.LogRecord) -> bool:
        self._erase()
        return True

    def _erase(self) -> None:
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = False

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal has gone
            self._stream.write(text)
            self._stream.flush()


def progress_line() -> ProgressLine | None:
    """On stderr, where that is a terminal."""
    return ProgressLine(sys.stderr) if is_terminal(sys.stderr) else None


def start_logging(
    *,
    level: str | None = None,
    form: LogFormat | None = None,
    config: str | None = None,
    stream: TextIO | None = None,
    worker: int | None = None,
) -> None:
    """Log on stderr, unless the program has set up its own logging.

    Warnings of Python's are logged too; a coroutine that was never awaited with the function that has forgotten it.

    Args:
        level: from which on; None: ``info``, or as the program has set it.
        form: None: ``text``.
        config: a file that says it all: TOML or JSON as :func:`logging.config.dictConfig` takes it, or an INI file.
        stream: instead of stderr.
        worker: the number of this process among several: each record has it as its ``worker``.

    Raises:
        ImproperlyConfigured: the file can't be read, or says something that is none.
    """
    if worker is not None:
        _number_records(worker)
    logging.captureWarnings(True)
    warnings.showwarning = _show_warning  # until captureWarnings(False)
    if config is not None:
        _configure(config)
    root = logging.getLogger()
    if not root.handlers or form is not None:
        stream = sys.stderr if stream is None else stream
        handler = logging.StreamHandler(stream)
        handler.setFormatter(
            JsonFormatter() if form == "json" else TextFormatter(colors=in_colors(stream), worker=worker)
        )
        for each in list(root.handlers):
            root.removeHandler(each)
        root.addHandler(handler)
        level = level or "info"
    if level is not None:
        root.setLevel(level.upper())
    if root.getEffectiveLevel() <= logging.DEBUG:
        # Who looks for a mistake is told where a forgotten coroutine was made, also when it was dropped elsewhere.
        sys.set_coroutine_origin_tracking_depth(_CALLS)
    for name in CHATTER:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)


def _number_records(worker: int) -> None:
    made = logging.getLogRecordFactory()

    def numbered(*args: object, **kwargs: object) -> logging.LogRecord:
        record = made(*args, **kwargs)
        record.worker = worker
        return record

    logging.setLogRecordFactory(numbered)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """As logging's own; of a coroutine that was never awaited one line, with who has forgotten it."""
    said, _, made = str(message).partition("\n")
    name = _NEVER_AWAITED.fullmatch(said)
    if name is None or file is not None:
        _show_plainly(message, category, filename, lineno, file, line)
        return
    function = "a function that has returned"
    places = [place for place in _PLACE.findall(made) if not place[0].startswith(_OURS)]
    if places:  # where it was made; else where it was dropped, which mostly is the same
        filename, lineno, function = places[-1][0], int(places[-1][1]), places[-1][2]
    place = f"{filename}:{lineno}, in {_function_at(filename, lineno) or function}"
    if filename.startswith(_OURS):  # it was dropped when the handler had returned to triochan
        place = "in a handler that has returned (--log-level debug names its place)"
    logging.getLogger("py.warnings").warning(
        "%s: %s was never awaited, so nothing of it was done; write 'await' in front of it", place, name[1]
    )


_show_plainly: Callable[[Warning | str, type[Warning], str, int, TextIO | None, str | None], None]
_show_plainly = logging._showwarning  # type: ignore[attr-defined]
_NEVER_AWAITED = re.compile(r"coroutine '(.+)' was never awaited")
_OURS = str(Path(__file__).parent)
_CALLS = 8
"""Of which each coroutine notes, at debug level, that it was made by them: some are triochan's own."""
_PLACE = re.compile(r'File "(.+)", line (\d+), in (.+)')


def _function_at(filename: str, lineno: int) -> str | None:
    """The function that runs there, with its class."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename == filename and frame.f_lineno == lineno:
            return frame.f_code.co_qualname
        frame = frame.f_back
    return None


def _configure(config: str) -> None:
    path = Path(config)
    try:
        _configure_by(path)
    except OSError as error:
        raise ImproperlyConfigured(f"--log-config {config}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ImproperlyConfigured(
            f"--log-config {config}: it is no text in UTF-8 (byte {error.start})"
        ) from None
    except Exception as error:  # noqa: BLE001 - parsers and what a file names raise what they like
        raise ImproperlyConfigured(f"--log-config {config}: {_why(error)}") from None


def _configure_by(path: Path) -> None:
    if path.suffix in (".yaml", ".yml"):
        raise ImproperlyConfigured("YAML is not read; TOML, JSON or INI is expected")
    text = path.read_text(encoding="utf-8")
    if path.suffix not in (".toml", ".json"):
        parser = configparser.ConfigParser()
        parser.read_string(text, path.name)
        logging.config.fileConfig(parser, disable_existing_loggers=False)
        return
    said: object = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    if not isinstance(said, dict):
        raise ImproperlyConfigured(
            f"a JSON object with {', '.join(_SECTIONS)} is expected, not {type(said).__name__}"
        )
    for key in said:
        if key not in _SECTIONS:
            meant = closest(key, _SECTIONS, likeness=0.6)
            raise ImproperlyConfigured(
                f"a log configuration has no {key!r}; "
                + (f"did you mean {meant!r}?" if meant else f"what is expected is {', '.join(_SECTIONS)}")
            )
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **said})


def _why(error: BaseException) -> str:
    """What the standard library says of a log configuration, in one line, and what was expected."""
    said = " ".join(str(error).split())
    if isinstance(error, tomllib.TOMLDecodeError):
        return f"this is no TOML: {said}"
    if isinstance(error, json.JSONDecodeError):
        return f"this is no JSON: {said}"
    if isinstance(error, configparser.Error):
        return f"this is no INI file, with sections [loggers], [handlers] and [formatters]: {said}"
    if isinstance(error, KeyError):
        return (
            f"{said} is missing; an INI file has [loggers], [handlers] and [formatters], each with keys = ..."
        )
    cause = error.__cause__
    if cause is not None and str(cause) not in said:
        return f"{said} ({_why(cause)})"
    if isinstance(error, (ValueError, ImportError, ImproperlyConfigured)):
        return said
    return f"{type(error).__name__}: {said}; see docs.python.org/3/library/logging.config.html for what is expected"

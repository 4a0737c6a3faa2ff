"""How the command line logs: lines for people, coloured on a terminal, or JSON lines; or as a file says."""

from __future__ import annotations

import configparser
import json
import logging
import logging.config
import sys
import time
import tomllib
import traceback
from pathlib import Path
from typing import Literal, TextIO

from .exceptions import ImproperlyConfigured
from .near_misses import closest
from .terminal import in_colors

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
CHATTER = ("trio-websocket", "trio_websocket", "h11", "wsproto", "hpack")
"""Loggers of libraries below, whose debugging is theirs: they are heard from warnings on."""


class TextFormatter(logging.Formatter):
    """``2026-11-25 04:40:52,123 WARNING  triochan.server: …``, with the level in colour where asked for."""

    def __init__(self, *, colors: bool = False) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(name)s: %(message)s")
        self._colors = colors

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


def start_logging(
    *,
    level: str | None = None,
    form: LogFormat | None = None,
    config: str | None = None,
    stream: TextIO | None = None,
) -> None:
    """Log on stderr, unless the program has set up its own logging.

    Warnings of Python's, such as of a coroutine that was never awaited, are logged too.

    Args:
        level: from which on; None: ``info``, or as the program has set it.
        form: None: ``text``.
        config: a file that says it all: TOML or JSON as :func:`logging.config.dictConfig` takes it, or an INI file.
        stream: instead of stderr.

    Raises:
        ImproperlyConfigured: the file can't be read, or says something that is none.
    """
    logging.captureWarnings(True)
    if config is not None:
        _configure(config)
    root = logging.getLogger()
    if not root.handlers or form is not None:
        stream = sys.stderr if stream is None else stream
        handler = logging.StreamHandler(stream)
        handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter(colors=in_colors(stream)))
        for each in list(root.handlers):
            root.removeHandler(each)
        root.addHandler(handler)
        level = level or "info"
    if level is not None:
        root.setLevel(level.upper())
    for name in CHATTER:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)


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

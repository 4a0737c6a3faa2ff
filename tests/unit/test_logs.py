"""How the command line logs."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from triochan.exceptions import ImproperlyConfigured
from triochan.generic.websockets import WebsocketConsumer
from triochan.logs import CHATTER, JsonFormatter, ProgressLine, TextFormatter, start_logging
from triochan.message import Message
from triochan.test import Client

logger = logging.getLogger("somebody")


@contextmanager
def bare() -> Iterator[None]:
    """Logging without handlers, pytest's own either, and as it was afterwards; a decorator."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    depth = sys.get_coroutine_origin_tracking_depth()
    factory = logging.getLogRecordFactory()
    root.handlers[:] = []
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logging.setLogRecordFactory(factory)
        sys.set_coroutine_origin_tracking_depth(depth)
        root.handlers[:] = handlers
        root.setLevel(level)
        for name in CHATTER:
            logging.getLogger(name).setLevel(logging.NOTSET)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def record(**about: Any) -> logging.LogRecord:
    return logging.makeLogRecord(
        {
            "name": "a",
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": "%s went",
            "args": ("x",),
            **about,
        }
    )


@bare()
def test_text() -> None:
    stream = io.StringIO()
    start_logging(stream=stream)
    logger.info("said %d", 1)
    logger.debug("not said")
    line = stream.getvalue()
    assert line.endswith(" INFO     somebody: said 1\n")
    assert "\x1b" not in line


@bare()
def test_colours_on_a_terminal() -> None:
    stream = Terminal()
    start_logging(stream=stream)
    logger.error("red")
    logger.info("plain")
    first, second = stream.getvalue().splitlines()
    assert "\x1b[31mERROR   \x1b[0m somebody: red" in first
    assert "\x1b" not in second


@bare()
def test_a_closed_stream_is_no_terminal() -> None:
    stream = io.StringIO()
    stream.close()
    start_logging(stream=stream)


@bare()
def test_no_stream_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    start_logging()
    logger.info("nobody hears it")


@bare()
def test_json_lines() -> None:
    stream = io.StringIO()
    start_logging(form="json", stream=stream)
    try:
        raise ValueError("wrong")
    except ValueError:
        logger.exception("it broke: é", extra={"status": 500, "thing": object})
    logger.info("two\nlines", stack_info=True)
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("exception").endswith("ValueError: wrong")
    assert first.pop("time")
    assert first == {
        "level": "error", "logger": "somebody", "message": "it broke: é", "status": 500, "thing": "<class 'object'>",
    }  # fmt: skip
    assert second["message"] == "two\nlines"
    assert "test_json_lines" in second["stack"]


def test_time_is_in_utc() -> None:
    assert json.loads(JsonFormatter().format(record(created=0.9996)))["time"] == "1970-01-01T00:00:01.000Z"
    assert json.loads(JsonFormatter().format(record(created=1.25)))["time"] == "1970-01-01T00:00:01.250Z"


def test_text_names_the_logger() -> None:
    assert TextFormatter().format(record()).endswith(" WARNING  a: x went")


@bare()
def test_what_the_program_has_set_up_stays() -> None:
    stream, own = io.StringIO(), logging.NullHandler()
    logging.getLogger().addHandler(own)
    start_logging(stream=stream)
    assert logging.getLogger().handlers == [own]
    start_logging(level="error", stream=stream)
    assert logging.getLogger().level == logging.ERROR
    start_logging(form="json", stream=stream)  # asked for: it takes the place
    assert own not in logging.getLogger().handlers


@bare()
def test_chatter_is_apart() -> None:
    stream = io.StringIO()
    logging.getLogger("h11").setLevel(logging.DEBUG)  # somebody wants it
    start_logging(level="debug", stream=stream)
    logging.getLogger("trio-websocket").info("chatter")
    logging.getLogger("trio-websocket").warning("a warning")
    logging.getLogger("h11").debug("wanted")
    assert [line.partition(": ")[2] for line in stream.getvalue().splitlines()] == ["a warning", "wanted"]


class Forgetful(WebsocketConsumer):
    async def connect(self, message: Message, **kwargs: Any) -> None:
        for _ in range(2):
            self.send(text="hello")  # type: ignore[unused-coroutine]  # a mistake

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        forgotten = self.close()  # noqa: F841 - another one, which ends elsewhere

    async def disconnect(self, message: Message, **kwargs: Any) -> None:
        self.group_send("everybody", text="gone")  # type: ignore[unused-coroutine]  # made within triochan


SOURCE = Path(__file__).read_text().splitlines()
FORGOTTEN = {
    "connect": 'self.send(text="hello")',
    "receive": "forgotten = self.close()",
    "disconnect": 'self.group_send("everybody", text="gone")',
}


@pytest.mark.parametrize(
    ("handler", "level"),
    [
        ("connect", "info"),
        ("connect", "debug"),
        ("receive", "debug"),
        ("receive", "info"),
        ("disconnect", "info"),
        ("disconnect", "debug"),
    ],
)
async def test_a_coroutine_that_was_never_awaited_is_named_with_its_place(handler: str, level: str) -> None:
    stream = io.StringIO()
    with bare(), warnings.catch_warnings():
        warnings.simplefilter("default", RuntimeWarning)
        sys.set_coroutine_origin_tracking_depth(0)
        start_logging(stream=stream, level=level)
        async with Client([Forgetful.as_route()]) as client, client.websocket("/") as socket:
            await socket.send("x")
    if (handler, level) == ("receive", "info"):
        assert (
            "in a handler that has returned (--log-level debug names its place): WebsocketConsumer.close was never "
            "awaited, so nothing of it was done; write 'await' in front of it\n"
        ) in stream.getvalue()
        assert "triochan/handlers.py" not in stream.getvalue()
        return
    [said] = [
        line for line in stream.getvalue().splitlines() if f", in {handler}" in line.replace("Forgetful.", "")
    ]
    number = 1 + next(index for index, line in enumerate(SOURCE) if FORGOTTEN[handler] in line)
    name = {
        "connect": "WebsocketConsumer.send",
        "receive": "WebsocketConsumer.close",
        "disconnect": "WebsocketConsumer.group_send",
    }[handler]
    place = f"{__file__}:{number}, in {'Forgetful.' * (handler != 'receive')}{handler}: {name}"
    assert said.partition(" py.warnings: ")[2] == (
        f"{place} was never awaited, so nothing of it was done; write 'await' in front of it"
    )


@bare()
def test_other_warnings_are_logged_as_they_are() -> None:
    stream = io.StringIO()
    start_logging(stream=stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("something else", stacklevel=1)
        asynchronous = (lambda: None).__code__
        warnings.warn_explicit("coroutine 'x' was never awaited", RuntimeWarning, asynchronous.co_filename, 1)
    first, *_, last = stream.getvalue().splitlines()
    assert "UserWarning: something else" in first
    assert "in a function that has returned: x was never awaited" in last


@bare()
def test_a_file_that_says_it_all(tmp_path: Path) -> None:
    toml = tmp_path / "log.toml"
    target = tmp_path / "out.log"
    toml.write_text(
        f'[formatters.short]\nformat = "%(message)s"\n[handlers.file]\nclass = "logging.FileHandler"\n'
        f'filename = "{target}"\nformatter = "short"\n[root]\nlevel = "WARNING"\nhandlers = ["file"]\n'
    )
    start_logging(config=str(toml))
    logger.warning("to the file")
    logger.info("not")
    logging.getLogger().handlers[0].close()
    assert target.read_text() == "to the file\n"


@bare()
def test_json_and_ini_files(tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text('{"root": {"level": "ERROR"}}')
    start_logging(config=str(tmp_path / "log.json"), stream=io.StringIO())
    (tmp_path / "log.ini").write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=\n[formatters]\nkeys=\n[logger_root]\nlevel=CRITICAL\nhandlers=\n"
    )
    start_logging(config=str(tmp_path / "log.ini"), level="critical", stream=io.StringIO())
    assert logging.getLogger().level == logging.CRITICAL


INI = (
    "[loggers]\nkeys=root\n[handlers]\nkeys=h\n[formatters]\nkeys=\n[logger_root]\nhandlers=h\n[handler_h]\n"
)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("log.toml", "= nothing", "this is no TOML: Invalid statement"),
        ("log.json", "{", "this is no JSON: Expecting property name"),
        ("log.json", "", "this is no JSON: Expecting value"),
        ("log.json", "[]", "a JSON object with version, formatters, .* is expected, not list"),
        ("log.json", '{"handler": {}}', "has no 'handler'; did you mean 'handlers'\\?"),
        ("log.toml", "[project]\nname = 'x'", "has no 'project'; what is expected is version, formatters"),
        ("log.toml", "version = 2", "Unsupported version: 2"),
        ("log.toml", "handlers = 3", "see docs.python.org"),
        (
            "log.toml",
            '[handlers.file]\nclass = "no.such"',
            r"Unable to configure handler 'file' \(Cannot resolve 'no.such': No module named 'no'\)",
        ),
        ("log.toml", '[handlers.h]\nclass = "logging.Nope"', "Cannot resolve 'logging.Nope'"),
        ("log.json", '{"root": {"handlers": ["absent"]}}', "Unable to configure root logger"),
        ("log.ini", "nothing", r"this is no INI file, with sections \[loggers\]"),
        ("log.ini", "", "'formatters' is missing; an INI file"),
        ("log.ini", "[loggers]\nkeys=root\n", "'formatters' is missing; an INI file has"),
        ("log.ini", INI + "class=no.such\nargs=()\n", "No module named 'no'"),
        ("log.ini", INI + "class=logging.Nope\nargs=()\n", "logging.*Nope'"),
        ("log.ini", INI + "class=StreamHandler\nargs=(nothing,)\n", "'nothing' is not defined"),
        ("log.yaml", "version: 1", "YAML is not read; TOML, JSON or INI is expected"),
        ("log.toml", "\xff", "it is no text in UTF-8"),
        ("log.json", '{"formatters": {"a": {"format": "%(x"}}}', "Unable to configure formatter 'a'"),
    ],
)
@bare()
def test_a_file_that_is_wrong(tmp_path: Path, name: str, text: str, says: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ImproperlyConfigured, match="--log-config .*" + says) as raised:
        start_logging(config=str(path))
    assert "\n" not in str(raised.value)


@bare()
def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match="No such file"):
        start_logging(config=str(tmp_path / "none.toml"))


def test_a_line_that_is_rewritten_makes_room_for_the_log() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    root.addHandler(handler)
    line = ProgressLine(stream)
    try:
        line.show(12, 40, 7.4)
        line.show(11, 40, 7.2)
        logging.getLogger("somebody").warning("something")
        logging.getLogger("somebody").warning("more")
        line.show(10, 40, 7.0)
        line.end()
        assert handler.filters == []
    finally:
        root.removeHandler(handler)
    clear = "\r\x1b[K"
    assert stream.getvalue() == (
        f"{clear}draining: 12 of 40 connections left, 7 s until they are cut off"
        f"{clear}draining: 11 of 40 connections left, 7 s until they are cut off"
        f"{clear}something\nmore\n"
        f"{clear}draining: 10 of 40 connections left, 7 s until they are cut off{clear}"
    )


def test_a_terminal_that_has_gone_is_no_error() -> None:
    stream = io.StringIO()
    line = ProgressLine(stream)
    stream.close()
    line.show(1, 1, 1)
    line.end()


@bare()
def test_a_worker_of_several_has_its_number_in_each_line() -> None:
    stream = io.StringIO()
    start_logging(stream=stream, worker=2)
    logger.warning("text")
    start_logging(form="json", stream=stream, worker=2)
    logger.warning("json")
    text, line = stream.getvalue().splitlines()
    assert text.endswith(" WARNING  worker 2 somebody: text")
    assert json.loads(line)["worker"] == 2

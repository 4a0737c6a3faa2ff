"""``python -m triochan`` as a process, for tests: started on a small application, asked, and ended."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import re
import signal
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import triochan

APP = """
    import logging
    from triochan import Application, route, route_class
    from triochan.generic.websockets import WebsocketConsumer
    from triochan.http import text

    class Echo(WebsocketConsumer):
        async def receive(self, text=None, bytes=None, **kwargs):
            await self.send(text=text, bytes=bytes)

    async def hello(message):
        logging.getLogger("hello").info("greeting")
        await message.reply_channel.send(text("hello"))

    routing = [route_class(Echo, path=r"^/echo/$"), route("http.request", hello, path="^/$")]
    application = Application(routing)
    mapping = {"http.request": hello}
    number = 7

    def make():
        return application

    def broken():
        raise LookupError("no such setting")

    async def later():
        return application

    blocking = [lambda message: None]

    class holder:
        routing = routing
"""
SECONDS = 20
"""Nothing here takes that long; what hangs is cut off, and fails."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hello.py").write_text(textwrap.dedent(APP))
    return tmp_path


@attrs.define
class Served:
    """A running ``python -m triochan``."""

    process: subprocess.Popen[str]
    line: str
    """The line that it began with."""

    @property
    def urls(self) -> list[str]:
        found = re.search(r" on (.+) serving ", self.line)
        assert found is not None, self.line
        return found[1].split(", ")

    @property
    def url(self) -> str:
        [url] = self.urls
        return url

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def end(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        """Exit status and what else was printed, on stdout and stderr."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out, err


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(triochan.__file__).parents[1]), "PYTHONUNBUFFERED": ""}


@pytest.fixture
def served(folder: Path) -> Iterator[Callable[..., Served]]:
    processes = []

    def serve(
        *arguments: str, command: tuple[str, ...] = (sys.executable, "-m", "triochan"), **options: Any
    ) -> Served:
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=folder,
            text=True,
            env={**environment(), **options.pop("env", {})},
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate(timeout=SECONDS)[1]
        return Served(process, line)

    yield serve
    for process in processes:
        process.kill()
        process.communicate()


def gone(pid: int) -> bool:
    """Wait for the end of a process that is not ours; False: it does not come."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":  # who should collect it is not ours
            return True
        time.sleep(0.01)
    return False


def get(connection: http.client.HTTPConnection) -> bytes:
    connection.request("GET", "/")
    body = connection.getresponse().read()
    connection.close()
    return body


class Terminal:
    """A terminal for one process: ``served(…, **terminal.options)``. It is the process's controlling one, and none of
    its standard streams unless the test says so."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()

    @property
    def options(self) -> dict[str, Any]:
        return {
            "start_new_session": True,
            "preexec_fn": lambda: fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0),
            "pass_fds": [self.slave],
        }

    def hang_up(self) -> None:
        """Go away, as a window that is closed. Again is no error."""
        for number in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(number)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.hang_up()

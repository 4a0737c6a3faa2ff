"""``--reload``, with real processes and files."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import attrs
import pytest
from command_line import SECONDS, Served, folder, gone, served
from websockets.sync.client import connect

pytest.importorskip("watchfiles")
__all__ = ["folder", "served"]
"""Fixtures."""

APP = """
    import os
    from triochan import route, route_class
    from triochan.generic.websockets import WebsocketConsumer
    from triochan.http import json

    async def tell(message):
        return json(["{word}", os.getpid(), os.getppid()])

    routing = [route_class(WebsocketConsumer), route("http.request", tell)]
"""


def write(folder: Path, word: str) -> None:
    """An application that says ``word``. Words are of different lengths: compiled files are held to size and second."""
    (folder / "app.py").write_text(textwrap.dedent(APP).replace("{word}", word))


@attrs.define
class Reloading:
    server: Served
    log: Queue[str]

    def logged(self, text: str) -> str:
        """Everything up to the line with it."""
        lines = ""
        while text not in lines:
            try:
                lines += self.log.get(timeout=SECONDS)
            except Empty:
                raise AssertionError(f"{text!r} is not in {lines!r}") from None
        return lines

    def ask(self) -> list[str]:
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=SECONDS) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b""
            while more := client.recv(1000):
                answer += more
        return answer.rpartition(b"[")[2].rstrip(b"]").decode().replace('"', "").split(",")


@pytest.fixture
def reloading(folder: Path, served: Callable[..., Served]) -> Reloading:
    write(folder, "one")
    server = served("app:routing", "--port", "0", "--reload", "--drain-spread", "0", start_new_session=True)
    lines: Queue[str] = Queue()
    errors = server.process.stderr
    assert errors is not None

    def read() -> None:
        for line in errors:
            lines.put(line)

    Thread(target=read, daemon=True).start()
    return Reloading(server, lines)


def begun(reloading: Reloading) -> None:
    """The next server has said where it serves."""
    assert reloading.server.process.stdout is not None
    assert reloading.server.process.stdout.readline() == reloading.server.line


def test_what_is_changed_is_served_and_nobody_is_refused(reloading: Reloading, folder: Path) -> None:
    word, first, parent = reloading.ask()
    assert (word, int(parent)) == ("one", reloading.server.process.pid)
    with connect(f"ws://127.0.0.1:{reloading.server.port}/") as client:
        write(folder, "fourteen")
        answers: list[list[str]] = []
        deadline = time.monotonic() + SECONDS
        while not answers or answers[-1][0] == "one":
            assert time.monotonic() < deadline
            answers.append(reloading.ask())  # raises where it is refused or cut off
        with pytest.raises(Exception, match="1001"):
            client.recv(timeout=SECONDS)
    begun(reloading)
    assert answers[-1][0] == "fourteen"
    assert answers[-1][1] != first
    assert gone(int(first))
    assert "changed: app.py; loading the application" in reloading.logged("changed: ")

    # What can't be imported changes nothing.
    (folder / "app.py").write_text("def broken(:")
    said = reloading.logged("can't be loaded")
    assert "SyntaxError" in said
    assert "the server goes on with the old one" in said
    assert reloading.ask() == answers[-1]
    write(folder, "three")
    begun(reloading)
    assert reloading.ask()[0] == "three"

    # Ctrl-C reaches both.
    os.killpg(reloading.server.process.pid, signal.SIGINT)
    assert reloading.server.process.wait(SECONDS) == 0


def test_it_waits_for_a_change_where_there_is_nothing_to_serve(reloading: Reloading, folder: Path) -> None:
    _, child, _ = reloading.ask()
    os.kill(int(child), signal.SIGKILL)
    reloading.logged("the server has ended by itself, with status -9; waiting for a change")
    (folder / "app.py").write_text("1 / 0")
    assert "ZeroDivisionError" in reloading.logged("can't be loaded, see above; waiting for a change")
    write(folder, "seven")
    begun(reloading)
    assert reloading.ask()[0] == "seven"
    reloading.server.process.send_signal(signal.SIGTERM)
    assert reloading.server.process.wait(SECONDS) == 0


def test_a_change_while_it_loads_is_taken(reloading: Reloading, folder: Path) -> None:
    (folder / "app.py").write_text("import time; time.sleep(60)")
    reloading.logged("changed: app.py")
    time.sleep(0.3)
    write(folder, "eleven")
    begun(reloading)
    assert reloading.ask()[0] == "eleven"
    os.killpg(reloading.server.process.pid, signal.SIGINT)
    assert reloading.server.process.wait(SECONDS) == 0


def test_a_parent_that_is_killed_leaves_no_orphan(reloading: Reloading, folder: Path) -> None:
    _, child, _ = reloading.ask()
    (folder / "app.py").write_text("import os; print(os.getpid(), flush=True)\nimport time; time.sleep(60)")
    assert reloading.server.process.stdout is not None
    loading = int(reloading.server.process.stdout.readline())
    reloading.server.process.kill()
    assert gone(int(child))
    assert gone(loading)


@pytest.mark.parametrize("both", [True, False])
def test_a_second_signal_ends_it_at_once(reloading: Reloading, both: bool) -> None:
    """Whether the terminal sends it to both of them, or somebody to the parent alone."""
    _, child, _ = reloading.ask()
    with socket.create_connection(("127.0.0.1", reloading.server.port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost")
        send = os.killpg if both else os.kill
        time.sleep(0.1)
        send(reloading.server.process.pid, signal.SIGINT)
        reloading.logged("draining: 1 connections are open")
        time.sleep(0.2)
        send(reloading.server.process.pid, signal.SIGINT)
        assert reloading.server.process.wait(SECONDS) == 1
    assert gone(int(child))
    assert "with 1 of 1 connections" in reloading.logged("cut short")


def test_a_busy_port(folder: Path, served: Callable[..., Served]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = subprocess.run(
            [sys.executable, "-m", "triochan", "app:routing", "--reload", "--port", str(taken.getsockname()[1])],
            cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    assert ended.returncode == 2
    assert "the port is in use" in ended.stderr

"""The small process that runs a private engine, with other programs in its place."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import SECONDS, gone

from triochan import engine_guard


class Guard:
    """One that runs a shell script, in a folder of its own.

    Attributes:
        line: the other end of its line.
        engine: the process that it runs.
    """

    def __init__(self, folder: Path, script: str) -> None:
        self.folder = folder / "private"
        self.folder.mkdir()
        self.line, theirs = socket.socketpair()
        begun = folder / "begun"
        os.mkfifo(begun)
        with theirs:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, engine_guard.__file__, str(theirs.fileno()), str(self.folder)),
                    *("/bin/sh", "-c", f"echo $$ > {begun}; {script}"),
                ],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
                text=True,
            )
        self.engine = int(begun.read_text())

    def wait(self) -> tuple[int, str]:
        """Its exit status, and what it has printed."""
        _, said = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, said


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Callable[[str], Guard]]:
    begun: list[Guard] = []

    def begin(script: str) -> Guard:
        begun.append(Guard(tmp_path, script))
        return begun[-1]

    yield begin
    for each in begun:
        each.process.kill()
        each.process.communicate()
        each.line.close()


@pytest.mark.parametrize("how", ["its owners have gone", "it is told to"])
def test_it_ends_the_engine_and_removes_the_folder(guard: Callable[[str], Guard], how: str) -> None:
    running = guard("exec sleep 60")
    for number in (signal.SIGINT, signal.SIGHUP):
        running.process.send_signal(number)  # these are meant for others
    if how == "it is told to":
        running.process.send_signal(signal.SIGTERM)
        running.process.send_signal(signal.SIGTERM)
    else:
        running.line.close()
    assert running.wait() == (0, "")
    assert gone(running.engine)
    assert not running.folder.exists()


@pytest.mark.parametrize(
    ("script", "status"), [("exit 7", 7), ("exit 0", 0), ("kill -9 $$", -9), ("kill -TERM $$", -15)]
)
def test_it_ends_as_the_engine_has_ended(guard: Callable[[str], Guard], script: str, status: int) -> None:
    running = guard(f"echo last words; {script}")
    assert running.wait() == (status, "")
    assert (running.folder / engine_guard.LOG).read_text() == "last words\n"  # the folder is for the next one


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_the_engine_dies_with_it(guard: Callable[[str], Guard]) -> None:
    running = guard("exec sleep 60")
    running.process.kill()
    assert gone(running.engine)
